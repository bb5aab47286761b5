//! The names that a policy gives to packets, for printing packet sets.

use super::spec::matching::{Matching, PacketEnd, set_name};
use crate::analysis::{Dimension, GaveUp, Space, Vocabulary};
use crate::iptables::{Match, SetMatch};
use crate::net::{Hook, SetEnds};
use crate::resolve::{Endpoint, Members, Plan};

/// Collects the names of a policy (zones, interfaces, address groups, services) for printing packet sets of a family.
///
/// # Errors
///
/// If the packet sets become too large.
///
/// ```
/// use fwc::analysis::{BaseChain, Limits, Space};
/// use fwc::net::{Family, Protocol};
/// use fwc::internals::verify::vocabulary;
/// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
/// use fwc::internals::resolve;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, r#"
///     version = 1
///     interfaces.wan = "eth0"
///     addresses.office = ["203.0.113.0/24", "2001:db8:1::/48"]
///     [[rules]]
///     from = "wan"
///     source = "office"
///     service = "ssh"
/// "#)?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
///
/// let space = Space::new(Family::V6);
/// let set = space.every([
///     space.in_device("eth0")?,
///     space.sources(plan.names.addresses[0].1.family(Family::V6))?,
///     space.protocol(Protocol::TCP)?,
///     space.destination_port(22, 23)?,
/// ])?;
/// let words = vocabulary(&space, &plan)?;
/// let boxes = words.boxes(set, BaseChain::Input, Limits::default())?;
/// assert_eq!(boxes.shown[0].words.to_string(), "from wan, source office, service 22-23/tcp");
/// assert_eq!(boxes.shown[0].words.to_json().source, ["office"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn vocabulary<'s>(space: &'s Space, plan: &Plan) -> Result<Vocabulary<'s>, GaveUp> {
    let mut words = Vocabulary::new(space);
    add_words(&mut words, space, plan, "")?;
    Ok(words)
}

/// Adds the names of a policy to those of another, which have precedence when a set is printed. A name that is already taken
/// for another set gets `mark` as suffix.
///
/// # Errors
///
/// If the packet sets become too large.
pub fn add_words(
    words: &mut Vocabulary<'_>,
    space: &Space,
    plan: &Plan,
    mark: &str,
) -> Result<(), GaveUp> {
    // `Matching::at` and `Matching::part` do not depend on the hook.
    let hook = Hook::Forward;
    let matching = Matching { plan, space, hook };
    let mut add = |dimension, name: &str, set| match words.named(dimension, name) {
        Some(known) if known == set => {}
        Some(_) => words.name(dimension, format!("{name}{mark}"), set),
        None => words.name(dimension, name, set),
    };
    let zones = (0..)
        .zip(&plan.zones)
        .map(|(index, zone)| (Endpoint::Zone(index), &zone.name));
    let interfaces = (0..).zip(&plan.interfaces);
    let interfaces = interfaces.map(|(index, one)| (Endpoint::Interface(index), &one.name));
    for (place, name) in zones.chain(interfaces) {
        for (dimension, side) in [
            (Dimension::From, PacketEnd::From),
            (Dimension::To, PacketEnd::To),
        ] {
            add(dimension, name, matching.at(place, &None, side)?);
        }
    }
    for (name, addresses) in &plan.names.addresses {
        let addresses = addresses.family(space.family());
        add(Dimension::Source, name, space.sources(addresses)?);
        add(Dimension::Destination, name, space.destinations(addresses)?);
    }
    for (name, parts) in &plan.names.services {
        let parts: Result<Vec<_>, _> = parts.iter().map(|part| matching.part(part)).collect();
        add(Dimension::Service, name, space.any(parts?)?);
    }
    let open = plan
        .sets
        .iter()
        .filter(|set| matches!(set.members, Members::Dynamic { .. }));
    for set in open {
        for ends in SetEnds::all(set.kind()) {
            let asked = Match::Set(Box::new(SetMatch {
                negated: false,
                name: set_name(&set.name, space.family()).into(),
                from_source: ends.from_source().to_vec(),
                settings: Vec::new(),
            }));
            let sides = ends.from_source().iter();
            let sides = sides.map(|source| if *source { "source" } else { "destination" });
            let sides: Vec<_> = sides.collect();
            let name = format!("{} in set {}", sides.join(", "), set.name);
            words.condition(asked.to_text(space.family()), name);
        }
    }
    Ok(())
}

//! Renders the values of one part of a packet as text: prefixes, ranges, port numbers, devices, flags.

use std::collections::BTreeMap;

use super::address::Partly;
use super::dimension::Dimension;
use super::field::{Field, NO_MAC, device_number, devices_like};
use super::space::{Set, Space, Split};
use crate::net::{
    AddressRange, Family, IcmpType, IntervalSet, MacAddress, MarkMatch, Protocol, State, TcpFlags,
    TcpFlagsMatch, address_of,
};

/// The connection states in the order in which readers expect them.
const STATES: [State; 5] = [
    State::New,
    State::Established,
    State::Related,
    State::Invalid,
    State::Untracked,
];

/// A word of a description, and its cost in plain words to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WeighedWord {
    pub text: String,
    pub cost: usize,
}

impl From<String> for WeighedWord {
    fn from(text: String) -> Self {
        Self { text, cost: 1 }
    }
}

/// Returns the words for a part's values, one for each value or range; together they are the set. Returns `None` if
/// there are no words for it: flags and marks can only be described by fixed bits.
pub(super) fn spell(space: &Space, dimension: Dimension, set: Set) -> Option<Vec<WeighedWord>> {
    let bits = matches!(dimension, Dimension::TcpFlags | Dimension::Marks);
    if bits && set != space.none() && space.cube(set).is_none() {
        return None;
    }
    if matches!(dimension, Dimension::Source | Dimension::Destination) {
        let field = match dimension {
            Dimension::Source => Field::Source,
            _ => Field::Destination,
        };
        return masked(space, field, set);
    }
    Some(match dimension {
        Dimension::From => devices(&values(space, Field::InDevice, set)),
        Dimension::To => devices(&values(space, Field::OutDevice, set)),
        Dimension::Service => services(space, set),
        Dimension::Mac => plain(space, dimension, set).into_iter().map(long).collect(),
        _ => plain(space, dimension, set)
            .into_iter()
            .map(WeighedWord::from)
            .collect(),
    })
}

/// Returns words that cost one each.
fn plain(space: &Space, dimension: Dimension, set: Set) -> Vec<String> {
    let one = |field| values(space, field, set);
    let yes = |word: &str, field| match one(field).contains(1) {
        true => vec![word.to_owned()],
        false => vec![format!("not {word}")],
    };
    match dimension {
        Dimension::State => {
            let states = one(Field::State);
            let there = STATES
                .into_iter()
                .filter(|state| states.contains(super::field::state_number(*state)));
            there.map(|state| state.keyword().to_lowercase()).collect()
        }
        Dimension::From
        | Dimension::To
        | Dimension::Service
        | Dimension::Source
        | Dimension::Destination => Vec::new(),
        Dimension::TcpFlags => flags(space, set),
        Dimension::SourceTranslated => yes("translated", Field::SourceTranslated),
        Dimension::DestinationTranslated => yes("translated", Field::DestinationTranslated),
        Dimension::Marks => marks(space, set),
        Dimension::HopLimit => ranges(&one(Field::HopLimit)),
        Dimension::Mac => macs(&one(Field::Mac)),
        Dimension::PacketType => {
            let kinds = one(Field::PacketType);
            let words = ["unicast", "broadcast", "multicast", "other host"];
            let there = (0..)
                .zip(words)
                .filter(|(number, _)| kinds.contains(*number));
            there.map(|(_, word)| word.to_owned()).collect()
        }
        Dimension::Fragment => yes("later fragment", Field::Fragment),
        Dimension::Condition(number) => yes(
            &space.opaque_key(number).unwrap_or_default(),
            Field::Opaque(number),
        ),
    }
}

/// Returns the values of a field among the set's packets. The set must ask that field first or not at all.
fn values(space: &Space, field: Field, set: Set) -> IntervalSet {
    match space.split(set) {
        Split::By(asked, runs) if asked == field => {
            let there = runs.into_iter().filter(|run| run.2 != space.none());
            IntervalSet::from_intervals(there.map(|(first, last, _)| (first, last)))
        }
        Split::None => IntervalSet::empty(),
        _ => IntervalSet::from_intervals([(0, field.last(space.family()))]),
    }
}

fn range(first: u128, last: u128) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

fn ranges(values: &IntervalSet) -> Vec<String> {
    values
        .intervals()
        .iter()
        .map(|&(first, last)| range(first, last))
        .collect()
}

/// Makes a word of a text. A range counts as two words.
fn long(text: String) -> WeighedWord {
    WeighedWord {
        cost: 1 + usize::from(text.contains('-')),
        text,
    }
}

/// The most masks in a description; readers want no more.
const MOST_MASKS: usize = 16;

/// Returns the words for addresses: ranges, and ranges of which only addresses with some bits are in the set. `None` if
/// there are too many.
fn masked(space: &Space, field: Field, set: Set) -> Option<Vec<WeighedWord>> {
    let runs = match space.split(set) {
        Split::By(asked, runs) if asked == field => runs,
        _ => vec![(0, field.last(space.family()), set)],
    };
    // Neighbouring ranges with the same bits are joined; so are those between which all addresses are in the set.
    let mut asked: Vec<(u128, u128, Set)> = Vec::new();
    let (mut whole, mut is_open) = (Vec::new(), false);
    for (first, last, below) in runs {
        if below == space.all() {
            whole.push((first, last));
        } else if below == space.none() {
            is_open = false;
        } else {
            match asked
                .last_mut()
                .filter(|before| is_open && before.2 == below)
            {
                Some(before) => before.1 = last,
                None => asked.push((first, last, below)),
            }
            is_open = true;
        }
    }
    let mut parts = Vec::new();
    for (first, last, below) in asked {
        bits_below(space, field, below, Partly::range(first, last), &mut parts);
        if parts.len() > MOST_MASKS {
            return None;
        }
    }
    let whole = IntervalSet::from_intervals(whole);
    let whole = addresses(space.family(), &whole).into_iter().map(long);
    let parts = parts.into_iter().map(|known| WeighedWord {
        text: mask_text(space.family(), known),
        cost: 2,
    });
    Some(whole.chain(parts).collect())
}

/// Collects the combinations of an address's bits that lead through a set.
fn bits_below(space: &Space, field: Field, set: Set, known: Partly, found: &mut Vec<Partly>) {
    if found.len() > MOST_MASKS || set == space.none() {
        return;
    }
    match space.split(set) {
        Split::By(asked, runs) => match asked.address() {
            Some((of, bit)) if of == field => {
                for (value, _, below) in runs {
                    bits_below(space, field, below, known.with(bit, value == 1), found);
                }
            }
            _ => found.push(known),
        },
        _ => found.push(known),
    }
}

/// Returns `10.0.0.1/255.0.0.255` for a network, and the range with the mask for addresses that are not a network.
fn mask_text(family: Family, known: Partly) -> String {
    let address = |number| address_of(family, number);
    let (first, last) = (known.first, known.last);
    let size = last - first;
    let is_network = size & size.wrapping_add(1) == 0 && first & size == 0;
    match is_network {
        true => {
            let mask = (family.last_address() & !size) | known.mask;
            format!("{}/{}", address(first | known.bits), address(mask))
        }
        false => {
            let range = AddressRange {
                family,
                first,
                last,
            };
            format!(
                "{range} with {}/{}",
                address(known.bits),
                address(known.mask)
            )
        }
    }
}

fn addresses(family: Family, values: &IntervalSet) -> Vec<String> {
    let one = |&(first, last): &(u128, u128)| {
        AddressRange {
            family,
            first,
            last,
        }
        .to_string()
    };
    values.intervals().iter().map(one).collect()
}

fn macs(values: &IntervalSet) -> Vec<String> {
    let mac = |number: u128| {
        let bytes = number.to_be_bytes();
        MacAddress([
            bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
        ])
        .to_string()
    };
    let one = |&(first, last): &(u128, u128)| match (first, last) {
        (NO_MAC, _) => "none".to_owned(),
        (first, last) if first == last => mac(first),
        (first, last) => format!("{}-{}", mac(first), mac(last.min(NO_MAC - 1))),
    };
    values.intervals().iter().map(one).collect()
}

/// Returns a device's name, or a pattern with a trailing `+`, if the numbers are exactly those of one.
fn device(first: u128, last: u128) -> Option<String> {
    let bytes = first.to_be_bytes();
    let length = bytes.iter().take_while(|byte| **byte != 0).count();
    let name = std::str::from_utf8(&bytes[..length]).ok()?;
    let printable = name.chars().all(|c| c.is_ascii_graphic());
    match (length, printable) {
        (0, _) if last == 0 => Some("none".to_owned()),
        (0, _) if last == u128::MAX => Some("+".to_owned()),
        (0, _) | (_, false) => None,
        _ if first == last && device_number(name) == first => Some(name.to_owned()),
        _ => (devices_like(name) == (first, last)).then(|| format!("{name}+")),
    }
}

/// Returns the words for devices: names, patterns, and patterns without some of their names.
fn devices(values: &IntervalSet) -> Vec<WeighedWord> {
    let mut words = Vec::new();
    let mut left = values.intervals();
    while let Some(&(first, _)) = left.first() {
        // The longest sequence of intervals such that all of it is a pattern and each gap has a name.
        let mut best = (1, None);
        let mut without: Vec<String> = Vec::new();
        for (taken, &(start, last)) in (1..).zip(left) {
            if taken > 1 {
                match device(left[taken - 2].1 + 1, start - 1) {
                    Some(name) => without.push(name),
                    None => break,
                }
            }
            // A name sorts before all longer names with it as a prefix, so the name equal to the prefix may be among
            // the gaps too.
            if let Some(name) = device(first, last) {
                best = (taken, Some((name, without.clone())));
            }
        }
        words.push(match best.1 {
            Some((name, without)) if without.is_empty() => name.into(),
            Some((name, without)) => WeighedWord {
                text: format!("{name} without {}", without.join(" and ")),
                cost: 1 + without.len(),
            },
            None => WeighedWord {
                text: format!("between {} and {}", edge(first), edge(left[0].1)),
                cost: 3,
            },
        });
        left = &left[best.0..];
    }
    words
}

/// Returns a readable name for a number between two names.
fn edge(number: u128) -> String {
    let bytes = number.to_be_bytes();
    let readable = bytes.iter().take_while(|byte| byte.is_ascii_graphic());
    let name: String = readable.map(|byte| char::from(*byte)).collect();
    match name.is_empty() {
        true if number == 0 => "none".to_owned(),
        true if bytes[0] < b'!' => "the first".to_owned(),
        true => "the last".to_owned(),
        false => format!("`{name}`"),
    }
}

/// Returns the words for ports with their protocol (`22/tcp`), protocols, and ICMP types.
fn services(space: &Space, set: Set) -> Vec<WeighedWord> {
    let protocols = match space.split(set) {
        Split::By(Field::Protocol, runs) => runs,
        Split::None => return Vec::new(),
        _ => vec![(0, u8::MAX.into(), set)],
    };
    // Protocols that differ only in their number share a word.
    let mut whole = Vec::new();
    let mut parts: Vec<(Protocol, Set)> = Vec::new();
    for (first, last, below) in protocols {
        if below == space.none() {
            continue;
        }
        if below == space.all() {
            whole.push((first, last));
            continue;
        }
        for number in first..=last {
            let protocol = Protocol(number as u8);
            let below = known_fields(space, protocol, below);
            match below == space.all() {
                true => whole.push((number, number)),
                false if below == space.none() => {}
                false => parts.push((protocol, below)),
            }
        }
    }
    let whole = IntervalSet::from_intervals(whole);
    let mut words: Vec<WeighedWord> = Vec::new();
    for &(first, last) in whole.intervals() {
        // No packet has protocol 0; `-p 0` means all protocols in iptables.
        let first = first.max(1).min(last);
        words.push(match first == last {
            true => match Protocol(first as u8).name() {
                Some(name) => name.to_owned().into(),
                None => format!("protocol {first}").into(),
            },
            // A range counts as two words.
            false => WeighedWord {
                text: format!("protocols {first}-{last}"),
                cost: 2,
            },
        });
    }
    for (protocol, below) in parts {
        within(space, protocol, below, &mut words);
    }
    words
}

/// Removes the fields that a protocol does not have.
fn known_fields(space: &Space, protocol: Protocol, below: Set) -> Set {
    let is_icmp = protocol == icmp(space.family());
    let ports = [Field::DestinationPort, Field::SourcePort];
    let absent = ports.iter().filter(|_| !protocol.has_ports());
    let absent = absent.chain([Field::Icmp].iter().filter(|_| !is_icmp));
    let mut below = below;
    for field in absent {
        // Fixing a field builds no larger diagram, so that only the budget of steps can be exceeded.
        below = space.with(below, *field, 0).unwrap_or(below);
    }
    below
}

fn icmp(family: Family) -> Protocol {
    match family {
        Family::V4 => Protocol::ICMP,
        Family::V6 => Protocol::ICMPV6,
    }
}

/// Appends the ports or ICMP types of one protocol.
fn within(space: &Space, protocol: Protocol, below: Set, words: &mut Vec<WeighedWord>) {
    if protocol == icmp(space.family()) {
        let types = values(space, Field::Icmp, below);
        words.extend(
            types
                .intervals()
                .iter()
                .map(|&types| icmp_types(space.family(), types).into()),
        );
        return;
    }
    let by_port = match space.split(below) {
        Split::By(Field::DestinationPort, runs) => runs,
        _ => vec![(0, u16::MAX.into(), below)],
    };
    let mut by_source: BTreeMap<Set, Vec<(u128, u128)>> = BTreeMap::new();
    for (first, last, sources) in by_port {
        if sources != space.none() {
            by_source.entry(sources).or_default().push((first, last));
        }
    }
    let mut found: Vec<(IntervalSet, Set)> = by_source
        .into_iter()
        .map(|(sources, ports)| (IntervalSet::from_intervals(ports), sources))
        .collect();
    found.sort();
    for (ports, sources) in found {
        let sources = values(space, Field::SourcePort, sources);
        let every = |ports: &IntervalSet| ports.intervals() == [(0, u16::MAX.into())];
        let from = match every(&sources) {
            true => String::new(),
            false => format!(" from port {}", ranges(&sources).join(",")),
        };
        let cost = match every(&sources) {
            true => 1,
            false => 1 + sources.intervals().len(),
        };
        let texts = match every(&ports) {
            true => vec![format!("{protocol}{from}")],
            false => ranges(&ports)
                .iter()
                .map(|port| format!("{port}/{protocol}{from}"))
                .collect(),
        };
        words.extend(texts.into_iter().map(|text| WeighedWord { text, cost }));
    }
}

fn icmp_types(family: Family, (first, last): (u128, u128)) -> String {
    let protocol = icmp(family);
    let (kind, end) = ((first >> 8) as u8, (last >> 8) as u8);
    let (code, last_code) = (first as u8, last as u8);
    let whole = code == 0 && last_code == u8::MAX;
    if kind == end && (whole || code == last_code) {
        let wanted = IcmpType {
            kind,
            code: (!whole).then_some(code),
        };
        let named =
            IcmpType::names(family).find(|name| IcmpType::parse(family, name) == Some(wanted));
        return match (named, whole) {
            (Some(name), _) => format!("{protocol} {name}"),
            (None, true) => format!("{protocol} type {kind}"),
            (None, false) => format!("{protocol} type {kind}/{code}"),
        };
    }
    match whole {
        true => format!("{protocol} types {kind}-{end}"),
        false => format!("{protocol} types {kind}/{code}-{end}/{last_code}"),
    }
}

fn flags(space: &Space, set: Set) -> Vec<String> {
    let Some(bits) = space.cube(set) else {
        return Vec::new();
    };
    let (mut mask, mut on) = (0, 0);
    for (field, value) in bits {
        if let Field::TcpFlag(bit) = field {
            mask |= 1 << bit;
            on |= u8::from(value) << bit;
        }
    }
    let test = TcpFlagsMatch {
        looked_at: TcpFlags(mask),
        set: TcpFlags(on),
    };
    vec![test.keyword()]
}

fn marks(space: &Space, set: Set) -> Vec<String> {
    let Some(bits) = space.cube(set) else {
        return Vec::new();
    };
    let none = MarkMatch { value: 0, mask: 0 };
    let (mut packet, mut connection) = (none, none);
    for (field, value) in bits {
        let (word, bit) = match field {
            Field::Mark(bit) => (&mut packet, bit),
            Field::ConnectionMark(bit) => (&mut connection, bit),
            _ => continue,
        };
        word.mask |= 1 << bit;
        word.value |= u32::from(value) << bit;
    }
    let words = match (packet.mask, connection.mask) {
        (_, 0) => packet.to_string(),
        (0, _) => format!("connection {connection}"),
        _ => format!("{packet} with connection {connection}"),
    };
    vec![words]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::GaveUp;

    #[test]
    fn devices_are_names_and_patterns() -> Result<(), GaveUp> {
        let space = Space::new(Family::V4);
        let (eth, eth0, lo) = (
            space.in_device("eth+")?,
            space.in_device("eth0")?,
            space.in_device("lo")?,
        );
        let eth01 = space.in_device("eth01")?;
        let nothing = space.in_device("")?;
        for (set, words) in [
            (eth, "eth+"),
            (space.or(eth0, lo)?, "eth0,lo"),
            (space.or(eth, lo)?, "eth+,lo"),
            (space.minus(eth, eth0)?, "eth+ without eth0"),
            (
                space.minus(eth, space.or(eth0, eth01)?)?,
                "eth+ without eth0 and eth01",
            ),
            (
                space.or(space.minus(eth, eth0)?, lo)?,
                "eth+ without eth0,lo",
            ),
            (nothing, "none"),
            (space.not(lo)?, "+ without lo"),
            (space.not(eth)?, "+ without eth+"),
        ] {
            let spelt = spell(&space, Dimension::From, set).unwrap_or_default();
            let texts: Vec<String> = spelt.into_iter().map(|word| word.text).collect();
            assert_eq!(texts.join(","), words);
        }
        Ok(())
    }
}

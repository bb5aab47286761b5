//! Resolves `[[nat]]`: the packets of each entry, and their new addresses.

use super::plan::{Endpoint, NatSide, PlannedNat, PlannedTranslation};
use super::well_formed::Sound;
use super::{Defaults, Resolver, described};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressRange, Family, PortRange};
use crate::policy::{self, AddressItem, NatEnd, Policy, PolicyNatAddress, PolicyNatEnd};
use crate::source::{Located, Span};

/// Resolves every entry. Also returns for each whether it can be checked.
pub fn resolve(
    resolver: &mut Resolver<'_>,
    defaults: &Defaults,
    definitions: &Sound<'_>,
    sink: &mut Sink,
) -> (Vec<PlannedNat>, Vec<bool>) {
    let policy = resolver.policy;
    let mut entries = Vec::new();
    let mut sound = Vec::new();
    for written in &policy.nat {
        let errors = sink.errors();
        let policy::PolicyNat {
            span: _,
            packets: written,
            translation,
            random,
            persistent,
        } = written;
        let is_on = |flag: &Option<Located<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
        let mut packets = resolver.rule(policy::CustomTable::Nat, written, defaults, sink);
        let Some(translation) = translation else {
            continue; // the reader reported it, so no plan comes of this policy
        };
        let named = translation.groups();
        packets.label = described("nat", word(translation), written);
        let translation = translated(resolver, translation, packets.to.as_deref(), sink);
        entries.push(PlannedNat {
            packets,
            translation,
            random: is_on(random),
            persistent: is_on(persistent),
        });
        let complete = written.complete && sink.errors() == errors;
        let groups = definitions.has_groups(named.into_iter());
        sound.push(complete && groups && definitions.has(policy, written));
    }
    (entries, sound)
}

/// Returns the value of the key `type`.
fn word(translation: &policy::PolicyTranslation) -> &'static str {
    use policy::PolicyTranslation as Written;
    match translation {
        Written::Masquerade { .. } => "masquerade",
        Written::Snat { .. } => "snat",
        Written::Dnat { .. } => "dnat",
        Written::Redirect { .. } => "redirect",
        Written::NetmapDestination(_) | Written::NetmapSource(_) => "netmap",
        Written::NoSnat => "no-snat",
        Written::NoDnat => "no-dnat",
    }
}

fn translated(
    resolver: &mut Resolver<'_>,
    written: &policy::PolicyTranslation,
    to: Option<&[Endpoint]>,
    sink: &mut Sink,
) -> PlannedTranslation {
    use policy::PolicyTranslation as Written;
    fn values<T: Copy>(all: &[Located<T>]) -> Vec<T> {
        all.iter().map(|one| one.value).collect()
    }
    match written {
        Written::Masquerade { ports } => PlannedTranslation::Masquerade {
            ports: ports.as_ref().map(|ports| ports.value),
        },
        Written::Snat {
            ends: written,
            ports,
        } => {
            let ports = ports.as_ref().map(|ports| ports.value);
            let ends = self::ends(resolver, "to-source", written, ports, sink);
            one_a_family(&ends, sink);
            PlannedTranslation::Snat(values(&ends))
        }
        Written::Dnat {
            backends,
            accept,
            hairpin,
        } => {
            let backends = values(&self::ends(
                resolver,
                "to-destination",
                backends,
                None,
                sink,
            ));
            let beside = hairpin.as_ref().filter(|hairpin| hairpin.value);
            PlannedTranslation::Dnat {
                accept: *accept,
                hairpin: beside.map(|_| beside_backends(resolver.policy, &backends, to)),
                backends,
            }
        }
        Written::Redirect { port, accept } => PlannedTranslation::Redirect {
            port: port.value,
            accept: *accept,
        },
        Written::NetmapDestination(to) => PlannedTranslation::Netmap {
            side: NatSide::Destination,
            to: values(to),
        },
        Written::NetmapSource(to) => PlannedTranslation::Netmap {
            side: NatSide::Source,
            to: values(to),
        },
        Written::NoSnat => PlannedTranslation::Untranslated(NatSide::Source),
        Written::NoDnat => PlannedTranslation::Untranslated(NatSide::Destination),
    }
}

/// Resolves new addresses. A group stands for its only address of each family.
fn ends(
    resolver: &mut Resolver<'_>,
    key: &str,
    written: &[Located<PolicyNatEnd>],
    ports: Option<PortRange>,
    sink: &mut Sink,
) -> Vec<Located<NatEnd>> {
    let mut ends = Vec::new();
    for end in written {
        let ports = end.value.ports.or(ports);
        let addresses = match &end.value.address {
            PolicyNatAddress::Literal(range) => vec![*range],
            PolicyNatAddress::Group(name) => of_group(resolver, key, name, end.span, sink),
        };
        let new = addresses
            .into_iter()
            .map(|addresses| NatEnd { addresses, ports });
        ends.extend(new.map(|new| Located::new(new, end.span)));
    }
    ends
}

/// Returns the only address of a group in each family. Reports a group with several: it would be unclear which to use.
fn of_group(
    resolver: &mut Resolver<'_>,
    key: &str,
    name: &str,
    span: Span,
    sink: &mut Sink,
) -> Vec<AddressRange> {
    let item = [Located::new(AddressItem::Name(name.to_owned()), span)];
    let policy = resolver.policy;
    let what = format!("`{key}`");
    let known = resolver.addresses.known(policy, &item, &what, sink);
    let mut all = Vec::new();
    for family in Family::ALL {
        match known.family(family).intervals() {
            [] => {}
            [(first, last)] if first == last => all.push(AddressRange {
                family,
                first: *first,
                last: *last,
            }),
            _ => {
                let message = format!("`{name}` has several {family} addresses");
                sink.report(
                    Diagnostic::error(Code::NatSizesDiffer, span, message)
                        .with_note(format!("a group in `{key}` has one address of each family"))
                        .help("write a range, such as \"203.0.113.5-203.0.113.7\", for several addresses"),
                );
            }
        }
    }
    all
}

/// Reports two new sources of a family, when one of them comes from a group.
fn one_a_family(ends: &[Located<NatEnd>], sink: &mut Sink) {
    for family in Family::ALL {
        let mut same = ends
            .iter()
            .filter(|end| end.value.addresses.family == family);
        if let (Some(first), Some(second)) = (same.next(), same.next()) {
            let message = format!("`to-source` has two {family} addresses");
            sink.report(
                Diagnostic::error(Code::Conflict, second.span, message)
                    .also(first.span, "the first of them")
                    .help("name one of each family; several that follow each other are a range"),
            );
        }
    }
}

/// Returns the places of the backends: `to`, else the interfaces whose networks contain them.
fn beside_backends(policy: &Policy, backends: &[NatEnd], to: Option<&[Endpoint]>) -> Vec<Endpoint> {
    if let Some(to) = to {
        return to.to_vec();
    }
    let has = |network: &AddressRange| {
        backends.iter().any(|backend| {
            let addresses = backend.addresses;
            network.family == addresses.family
                && network.first <= addresses.first
                && addresses.last <= network.last
        })
    };
    let all = policy.interfaces.iter().enumerate();
    all.filter(|(_, interface)| {
        let mut networks = interface.value.networks.iter();
        networks.any(|network| has(&network.value))
    })
    .map(|(index, _)| Endpoint::Interface(index))
    .collect()
}

//! Resolves `[[nat]]`: the packets of each entry, and their new addresses.

use super::plan::{Endpoint, NatSide, PlannedNat, PlannedTranslation};
use super::well_formed::Sound;
use super::{Defaults, Resolver, described};
use crate::diag::Sink;
use crate::net::AddressRange;
use crate::policy::{self, NatEnd, Policy};
use crate::source::Located;

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
        } = written;
        let mut packets = resolver.rule(written, defaults, sink);
        let Some(translation) = translation else {
            continue; // the reader reported it, so no plan comes of this policy
        };
        packets.label = described("nat", word(translation), written);
        let translation = translated(policy, translation, packets.to.as_deref());
        entries.push(PlannedNat {
            packets,
            translation,
        });
        let complete = written.complete && sink.errors() == errors;
        sound.push(complete && definitions.has(policy, written));
    }
    (entries, sound)
}

/// Returns the value of the key `type`.
fn word(translation: &policy::PolicyTranslation) -> &'static str {
    use policy::PolicyTranslation as Written;
    match translation {
        Written::Masquerade => "masquerade",
        Written::Snat(_) => "snat",
        Written::Dnat { .. } => "dnat",
        Written::Redirect { .. } => "redirect",
        Written::NetmapDestination(_) | Written::NetmapSource(_) => "netmap",
    }
}

fn translated(
    policy: &Policy,
    written: &policy::PolicyTranslation,
    to: Option<&[Endpoint]>,
) -> PlannedTranslation {
    use policy::PolicyTranslation as Written;
    fn values<T: Copy>(all: &[Located<T>]) -> Vec<T> {
        all.iter().map(|one| one.value).collect()
    }
    match written {
        Written::Masquerade => PlannedTranslation::Masquerade,
        Written::Snat(ends) => PlannedTranslation::Snat(values(ends)),
        Written::Dnat {
            backends,
            accept,
            hairpin,
        } => {
            let backends = values(backends);
            let beside = hairpin.as_ref().filter(|hairpin| hairpin.value);
            PlannedTranslation::Dnat {
                accept: *accept,
                hairpin: beside.map(|_| beside_backends(policy, &backends, to)),
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

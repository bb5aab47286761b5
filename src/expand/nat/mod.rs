//! Expands the entries of `[[nat]]` to lines of the nat table, and to accepts in the filter table.

mod accepted;
mod destinations;
mod sources;

use std::fmt::Write as _;

use super::context::{ChainContext, GroupContext, LineContext, NatTargetContext};
use super::entries::{EntryChains, EntryPart, counting, log_of};
use super::hooks::{HookSide, side};
use super::origin::LineOrigin;
use super::rules;
use crate::expand::own_chains::OwnChains;
use crate::net::{AddressRange, AddressSet, Family, Hook, Protocol, address_of, prefix_length};
use crate::policy::NatEnd;
use crate::resolve::{
    Endpoint, NatSide, Plan, PlannedInterface, PlannedNat, PlannedRule, PlannedTranslation,
    ServicePart,
};

const CHAINS: [&str; 4] = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"];

/// Returns the chains of the nat table in a family: the base chains, then fwc's own, by name.
pub fn chains(plan: &Plan, family: Family) -> Vec<ChainContext> {
    let mut own = OwnChains::default();
    let mut chains: Vec<_> = CHAINS
        .iter()
        .map(|name| ChainContext {
            name: (*name).to_owned(),
            policy: "ACCEPT",
            ..ChainContext::default()
        })
        .collect();
    for entry in entries(plan, family) {
        for chain in &mut chains {
            let lines = entry.placed(&chain.name, &mut own);
            if !lines.is_empty() {
                chain
                    .groups
                    .push(GroupContext::of_written(entry.packets, entry.index, lines));
            }
        }
    }
    chains.extend(own.into_chains());
    chains
}

/// Returns the lines by which the entries accept translated packets in a hook of the filter table.
pub fn accepts(plan: &Plan, family: Family, hook: Hook, own: &mut OwnChains) -> Vec<GroupContext> {
    let groups = entries(plan, family).map(|entry| GroupContext {
        label: format!("accepted by {}", entry.packets.label),
        ..GroupContext::of(entry.packets, entry.accepts(hook, own))
    });
    groups.filter(|group| !group.lines.is_empty()).collect()
}

/// Returns the enabled entries that translate packets of the family.
fn entries(plan: &Plan, family: Family) -> impl Iterator<Item = Entry<'_>> {
    let entries = plan.nat.iter().enumerate().map(move |(index, nat)| {
        let PlannedNat {
            packets,
            translation,
            random,
            persistent,
        } = nat;
        Entry {
            plan,
            packets,
            translation,
            random: *random,
            persistent: *persistent,
            family,
            index,
            origin: LineOrigin::Nat(index).mark(),
        }
    });
    entries.filter(|entry| entry.packets.enabled && entry.has_family())
}

/// One entry in one family.
struct Entry<'p> {
    plan: &'p Plan,
    packets: &'p PlannedRule,
    translation: &'p PlannedTranslation,
    random: bool,
    persistent: bool,
    family: Family,
    /// Its index in [`Plan::nat`].
    index: usize,
    origin: String,
}

/// A translation: the target, its options, and whether it changes the port.
#[derive(Clone)]
struct NatRewrite {
    target: &'static str,
    to: NatTargetContext,
    with_port: bool,
}

/// Clients in a backend's own network, which reach it by the public address (hairpin NAT).
struct HairpinClients<'p> {
    interface: Option<&'p PlannedInterface>,
    /// The networks of their zone, if `to` names a zone with networks.
    zone: Option<AddressSet>,
    /// Whether their zone asks for IPsec.
    ipsec: Option<bool>,
    /// Their known addresses.
    networks: AddressSet,
}

impl<'p> Entry<'p> {
    fn has_family(&self) -> bool {
        let scope = self.packets.scope;
        let has_addresses = match self.translation {
            PlannedTranslation::Masquerade { .. } => scope.is_some() || self.family == Family::V4,
            PlannedTranslation::Redirect { .. } | PlannedTranslation::Untranslated(_) => true,
            PlannedTranslation::Snat(ends) | PlannedTranslation::Dnat { backends: ends, .. } => {
                !self.of_family(ends).is_empty()
            }
            PlannedTranslation::Netmap { to, .. } => self.prefix(to).is_some(),
        };
        has_addresses && scope.is_none_or(|scope| scope.has(self.family))
    }

    fn of_family<'e>(&self, ends: &'e [NatEnd]) -> Vec<&'e NatEnd> {
        let ends = ends.iter();
        ends.filter(|end| end.addresses.family == self.family)
            .collect()
    }

    /// Returns the new prefix of the family, as iptables writes it.
    fn prefix(&self, to: &[AddressRange]) -> Option<String> {
        let to = to.iter().find(|to| to.family == self.family)?;
        let length = prefix_length(self.family, to.first, to.last)?;
        Some(format!("{}/{length}", address_of(self.family, to.first)))
    }

    /// Returns the lines in a base chain of the nat table, and adds the chains that they jump to.
    fn placed(&self, chain: &str, own: &mut OwnChains) -> Vec<LineContext> {
        // A hairpin masquerades what the entry logged when it changed the destination. Its packets have the new destination.
        let is_hairpin =
            chain == "POSTROUTING" && matches!(self.translation, PlannedTranslation::Dnat { .. });
        let packets = match is_hairpin {
            true => PlannedRule {
                matches: None,
                log: None,
                ..self.seen_in(chain)
            },
            false => self.seen_in(chain),
        };
        let part = EntryPart {
            lines: self.lines(chain, own),
            exceptions: rules::exceptions(self.plan, &packets, self.family, &self.origin),
            counting: counting(&packets, self.family),
        };
        let chains = EntryChains {
            packets: self.packets,
            chain,
            log: log_of(self.plan, &packets),
        };
        chains.place(vec![part], own)
    }

    /// Returns the packets of the entry with the negated places that a chain of the nat table shows: where packets come from
    /// before routing, and where they leave after it.
    fn seen_in(&self, chain: &str) -> PlannedRule {
        let is_last = chain == "POSTROUTING";
        let packets = self.packets.clone();
        PlannedRule {
            not_from: packets.not_from.filter(|_| !is_last),
            not_to: packets.not_to.filter(|_| is_last),
            ..self.packets.clone()
        }
    }

    /// Returns the lines in a base chain of the nat table.
    fn lines(&self, chain: &str, own: &mut OwnChains) -> Vec<LineContext> {
        match (self.translation, chain) {
            (PlannedTranslation::Masquerade { ports }, "POSTROUTING") => {
                let to = NatTargetContext {
                    ports: ports.map(|ports| ports.to_string()),
                    ..self.choice("random-fully")
                };
                self.leaving("MASQUERADE", &to)
            }
            (PlannedTranslation::Snat(ends), "POSTROUTING") => {
                let source = self.of_family(ends).first().map(|end| self.end(end, None));
                let to = NatTargetContext {
                    source,
                    ..self.choice("random-fully")
                };
                self.leaving("SNAT", &to)
            }
            (PlannedTranslation::Untranslated(NatSide::Source), "POSTROUTING") => {
                self.leaving("ACCEPT", &NatTargetContext::default())
            }
            (
                PlannedTranslation::Netmap {
                    side: NatSide::Source,
                    to,
                },
                "POSTROUTING",
            ) => {
                let to = NatTargetContext {
                    network: self.prefix(to),
                    ..NatTargetContext::default()
                };
                self.leaving("NETMAP", &to)
            }
            (PlannedTranslation::Dnat { .. }, "POSTROUTING") => self.hairpin(),
            (
                PlannedTranslation::Dnat { .. }
                | PlannedTranslation::Redirect { .. }
                | PlannedTranslation::Untranslated(NatSide::Destination)
                | PlannedTranslation::Netmap {
                    side: NatSide::Destination,
                    ..
                },
                "PREROUTING" | "OUTPUT",
            ) => self.arriving(chain, own),
            _ => Vec::new(),
        }
    }

    /// Returns how the kernel chooses, with the flag of the target for `random`.
    fn choice(&self, random: &'static str) -> NatTargetContext {
        NatTargetContext {
            random: self.random.then_some(random),
            persistent: self.persistent,
            ..NatTargetContext::default()
        }
    }

    /// Returns a new address as `10.8.0.5:8080`. A range of ports is counted from `base`, the first of the old ports:
    /// without it the kernel would choose any port of the range.
    fn end(&self, end: &NatEnd, base: Option<u128>) -> String {
        let AddressRange { first, last, .. } = end.addresses;
        let mut text = address_of(self.family, first).to_string();
        if first != last {
            let _ = write!(text, "-{}", address_of(self.family, last));
        }
        let Some(ports) = end.ports else {
            return text;
        };
        if self.family == Family::V6 {
            text = format!("[{text}]");
        }
        let _ = write!(text, ":{ports}");
        if let Some(base) = base
            && ports.first < ports.last
            && base != u128::from(ports.first)
        {
            let _ = write!(text, "/{base}");
        }
        text
    }

    fn from(&self) -> &'p [Endpoint] {
        self.packets.from.as_deref().unwrap_or(&[Endpoint::Any])
    }

    /// Returns the final destinations of the packets: other hosts, unless `to` names this host or the entry is a redirect.
    fn to(&self) -> &'p [Endpoint] {
        match (&self.packets.to, self.translation) {
            (_, PlannedTranslation::Redirect { .. }) => &[Endpoint::Host],
            (Some(to), _) => to,
            (None, _) => &[Endpoint::Any],
        }
    }

    /// Returns the devices and networks of endpoints, without this host.
    fn sides(&self, places: &[Endpoint]) -> Vec<HookSide<'p>> {
        let places = places.iter().filter(|place| **place != Endpoint::Host);
        places
            .flat_map(|place| side(self.plan, *place, self.family))
            .collect()
    }

    /// Returns the hosts beside the backends with known addresses of the family.
    fn beside(&self) -> Vec<HairpinClients<'p>> {
        let PlannedTranslation::Dnat {
            hairpin: Some(places),
            ..
        } = self.translation
        else {
            return Vec::new();
        };
        let members = places.iter().flat_map(|place| self.plan.members(*place));
        let beside = members.map(|member| {
            let interface = member.interface.map(|index| &self.plan.interfaces[index]);
            HairpinClients {
                interface,
                networks: self.networks(member.networks.as_ref(), interface),
                zone: member.networks,
                ipsec: member.ipsec,
            }
        });
        beside
            .filter(|beside| !beside.networks.family(self.family).is_empty())
            .collect()
    }

    /// Returns the known addresses of a zone member: its networks, else those of its interface.
    fn networks(
        &self,
        zone: Option<&AddressSet>,
        interface: Option<&PlannedInterface>,
    ) -> AddressSet {
        match (zone, interface) {
            (_, Some(interface)) if !interface.scope.has(self.family) => AddressSet::default(),
            (Some(networks), _) => networks.clone(),
            (None, Some(interface)) => AddressSet::from_ranges(interface.networks.iter().copied()),
            (None, None) => AddressSet::default(),
        }
    }
}

impl<'p> HairpinClients<'p> {
    fn sides(&self) -> Vec<HookSide<'p>> {
        let side = |device| HookSide {
            device,
            networks: self.zone.clone(),
            ipsec: self.ipsec,
        };
        match self.interface {
            None => vec![side(None)],
            Some(interface) => {
                let devices = interface.devices.iter();
                devices.map(|device| side(Some(device))).collect()
            }
        }
    }
}

fn translated(line: LineContext, new: &NatRewrite) -> LineContext {
    LineContext {
        target: new.target.to_owned(),
        nat: Some(new.to.clone()),
        ..line
    }
}

fn protocol_of(part: &ServicePart) -> Option<Protocol> {
    match part {
        ServicePart::Ports(ports) => Some(ports.protocol),
        ServicePart::Protocol(protocol) => Some(*protocol),
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => None,
    }
}

//! One packet through a chain of the nat table, by policy and by rules.

use super::condition::Condition;
use super::walkers::{Walkers, seen_from};
use crate::analysis::BaseChain;
use crate::iptables::{self, NatKind, NoWalk, TableName, Target};
use crate::net::{AddressRange, Packet, PortRange, address_of, number_of};
use crate::policy::{self, Circumstance, NatChain, NewAddress, NewEnd};
use crate::source::Span;

/// A packet, and the translations of its connection by policy and rules in one chain.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedTranslation {
    /// The packet, as it is in the chain.
    pub packet: Packet,
    /// The chain of the nat table.
    pub chain: BaseChain,
    /// The conditions that the packet alone does not answer (sets, turns), in words, and whether each holds.
    pub when: Vec<(String, bool)>,
    /// The translation of the policy; `None` if it does not translate the packet.
    pub policy: Option<NewEnd>,
    /// The place of the entry that translates.
    pub place: Option<Span>,
    /// The translation of the rules; `None` if they do not translate the packet.
    pub rules: Option<RuleTranslation>,
}

/// A translation by a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleTranslation {
    /// The line and the text of the rule; `None` if the policy of the chain decides.
    pub rule: Option<(u32, String)>,
    /// The new address and port; `None` if no policy can express the target.
    pub end: Option<TranslationEnd>,
}

/// A new address and port, and how the kernel chooses where it has a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationEnd {
    /// The address.
    pub address: NewAddress,
    /// The port, or a range to choose from; `None` if the port stays.
    pub ports: Option<PortRange>,
    /// The kernel takes a random port.
    pub random: bool,
    /// A client gets the same address for all its connections.
    pub persistent: bool,
}

impl From<NewEnd> for TranslationEnd {
    fn from(end: NewEnd) -> Self {
        let NewEnd {
            entry: _,
            address,
            ports,
            random,
            persistent,
        } = end;
        Self {
            address,
            ports,
            random,
            persistent,
        }
    }
}

impl Walkers<'_> {
    /// Walks a packet through a chain of the nat table, by policy and by rules. `holds` answers conditions that the packet
    /// does not.
    pub fn translate(
        &self,
        packet: Packet,
        chain: NatChain,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<ComparedTranslation, NoWalk> {
        let circumstance = |asked: Circumstance<'_>| self.circumstance(&packet, asked, holds);
        let by_policy = policy::translate_when(self.policy, &packet, chain, &circumstance);
        let entry = by_policy.and_then(|end| self.policy.nat.get(end.entry));
        let base = super::spec::nat::base_chain(chain);
        Ok(ComparedTranslation {
            chain: base,
            when: Vec::new(),
            policy: by_policy,
            place: entry.map(|entry| entry.span),
            rules: self.by_rules(&packet, base, holds)?,
            packet,
        })
    }

    fn by_rules(
        &self,
        packet: &Packet,
        chain: BaseChain,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<Option<RuleTranslation>, NoWalk> {
        let table = seen_from(self.ruleset, TableName::Nat, chain, packet.hook);
        let walk = self.walked(TableName::Nat, &table, packet, holds)?;
        let rule = walk.decided.and_then(|id| {
            let table = table.table(TableName::Nat)?;
            table.chains.get(id.chain)?.rules.get(id.rule)
        });
        Ok(match (walk.verdict, rule) {
            (iptables::WalkVerdict::Accept, _) => None,
            (_, None) => Some(RuleTranslation {
                rule: None,
                end: None,
            }),
            (verdict, Some(rule)) => Some(RuleTranslation {
                rule: Some((rule.line, rule.to_text(packet.family))),
                end: match verdict {
                    iptables::WalkVerdict::Other(target) => new_end(&target, packet, chain),
                    _ => None,
                },
            }),
        })
    }
}

impl ComparedTranslation {
    /// Returns `true` if policy and rules translate the packet to the same end.
    pub fn same_end(&self) -> bool {
        match (&self.policy, &self.rules) {
            (None, None) => true,
            (Some(wanted), Some(made)) => made.end == Some((*wanted).into()),
            _ => false,
        }
    }
}

/// Returns the new address and port that a target of the nat table gives to a packet; `None` if no policy can express the
/// target (`xt_nat.c`, `xt_MASQUERADE.c`, `xt_REDIRECT.c`, `xt_NETMAP.c`).
pub fn new_end(target: &Target, packet: &Packet, chain: BaseChain) -> Option<TranslationEnd> {
    let Target::Nat(nat) = target else {
        return None;
    };
    let ports = nat.ports.map(|ports| PortRange {
        first: ports.first,
        last: ports.last,
    });
    let addresses = nat.addresses.map(|(first, last)| AddressRange {
        family: packet.family,
        first: number_of(first),
        last: number_of(last),
    });
    // Policies have one kind of randomness for sources, and the other for destinations.
    let (random, other) = match nat.kind {
        NatKind::Masquerade | NatKind::Snat => (nat.random_fully, nat.random),
        NatKind::Dnat | NatKind::Redirect | NatKind::Netmap => (nat.random, nat.random_fully),
    };
    let (address, ports) = match (nat.kind, addresses) {
        (NatKind::Masquerade, None) => (NewAddress::OfDevice, ports),
        (NatKind::Snat, Some(addresses)) => (NewAddress::Source(addresses), ports),
        (NatKind::Redirect, None) => (NewAddress::ThisHost, ports),
        (NatKind::Dnat, Some(addresses)) => {
            let ports = ports.map(|ports| chosen(ports, nat, packet.destination_port));
            (NewAddress::Destination(addresses), ports)
        }
        (NatKind::Netmap, Some(to)) => match chain {
            BaseChain::Postrouting => (NewAddress::Source(moved(&to, packet.source)), None),
            _ => (
                NewAddress::Destination(moved(&to, packet.destination)),
                None,
            ),
        },
        _ => return None,
    };
    (!other).then_some(TranslationEnd {
        address,
        ports,
        random,
        persistent: nat.persistent,
    })
}

/// Returns the port that a translation gives to a packet; `None` if the kernel has a choice.
pub(super) fn chosen_port(nat: &iptables::NatTarget, packet: &Packet) -> Option<u16> {
    let ports = nat.ports.map(|ports| PortRange {
        first: ports.first,
        last: ports.last,
    });
    let one = chosen(ports?, nat, packet.destination_port);
    (one.first == one.last).then_some(one.first)
}

/// Narrows a range of new ports to the one that the kernel takes, if that is known. With a base port, the offset of the
/// packet's port from the base is added to the first port of the range; without, the packet's own port stays if it is in the
/// range and no random one is asked for (`nf_nat_l4proto_unique_tuple`, `get_unique_tuple` of `nf_nat_core.c`).
fn chosen(ports: PortRange, nat: &iptables::NatTarget, port: Option<u16>) -> PortRange {
    let one = |port| PortRange {
        first: port,
        last: port,
    };
    match (nat.base_port, port) {
        _ if ports.first == ports.last => ports,
        (None, _) if nat.random || nat.random_fully => ports,
        (Some(base), Some(port)) => {
            let size = ports.last - ports.first + 1;
            one(ports.first + port.wrapping_sub(base) % size)
        }
        (None, Some(port)) if (ports.first..=ports.last).contains(&port) => one(port),
        _ => ports,
    }
}

/// Maps an address into a network of the same size, as NETMAP does: the host bits stay.
fn moved(to: &AddressRange, address: std::net::IpAddr) -> AddressRange {
    let number = to.first | (number_of(address) & (to.last - to.first));
    AddressRange {
        family: to.family,
        first: number,
        last: number,
    }
}

/// Words a new end, such as `the destination becomes 10.8.0.5, the port 8080`.
pub(super) fn shown(end: TranslationEnd) -> String {
    let TranslationEnd {
        address,
        ports,
        random,
        persistent,
    } = end;
    let range = |addresses: AddressRange| {
        let first = address_of(addresses.family, addresses.first);
        match addresses.first == addresses.last {
            true => first.to_string(),
            false => format!("{first}-{}", address_of(addresses.family, addresses.last)),
        }
    };
    let address = match address {
        NewAddress::OfDevice => "the source becomes the device's address".to_owned(),
        NewAddress::ThisHost => "the destination becomes this host".to_owned(),
        NewAddress::Source(addresses) => format!("the source becomes {}", range(addresses)),
        NewAddress::Destination(addresses) => {
            format!("the destination becomes {}", range(addresses))
        }
    };
    let mut words = match ports {
        Some(ports) => format!("{address}, the port {ports}"),
        None => address,
    };
    if random {
        words += ", at random";
    }
    if persistent {
        words += ", the same for all connections of a client";
    }
    words
}

//! Decides the translation of a new connection, and which translated connections are accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::places::{self, MemberCondition};
use super::rule::Shows;
use super::{Circumstance, Evaluation, addresses, is_closed, services};
use crate::net::{AddressRange, Family, Hook, Packet, PortRange, Protocol, address_of, number_of};
use crate::policy::{
    AddressExpression, AddressItem, NatEnd, Policy, PolicyNat, PolicyNatAddress, PolicyNatEnd,
    PolicyRule, PolicyTranslation, Scope,
};
use crate::source::{Located, Span};

/// A base chain of the nat table that translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatChain {
    /// PREROUTING: arriving packets, before routing.
    Prerouting,
    /// OUTPUT: packets of this host, which are routed again after it.
    Output,
    /// POSTROUTING: packets that leave.
    Postrouting,
}

/// The translation of one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NewEnd {
    /// The entry by its index in [`Policy::nat`].
    pub entry: usize,
    /// The new address.
    pub address: NewAddress,
    /// The new port, or a range to choose from; `None` if the port stays.
    pub ports: Option<PortRange>,
    /// `true` if the kernel takes a random port where it has a choice.
    pub random: bool,
    /// `true` if all connections of a client get the same address of a range.
    pub persistent: bool,
}

/// A new address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NewAddress {
    /// The source becomes the address of the outgoing device.
    OfDevice,
    /// The source becomes an address of this range.
    Source(AddressRange),
    /// The destination becomes an address of this host.
    ThisHost,
    /// The destination becomes an address of this range.
    Destination(AddressRange),
}

/// The turn of one of several backends. Connections with an equal entry, chain, protocol and first port take turns
/// together, since they pass the same `statistic` rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendTurn {
    /// The entry by its index in [`Policy::nat`].
    pub entry: usize,
    /// The chain.
    pub chain: NatChain,
    /// The protocol, if a backend has its own port.
    pub protocol: Option<u8>,
    /// The first port of the range that a new range replaces.
    pub first_port: Option<u16>,
    /// Its place among the backends of the family.
    pub backend: usize,
}

/// Returns the translation by the first entry that matches; `None` if that entry says that there is none.
pub(super) fn translate(evaluation: Evaluation<'_>, chain: NatChain) -> Option<NewEnd> {
    for entry in entries(evaluation.policy, evaluation.packet.family) {
        if entry.forbids(evaluation, chain) {
            return None;
        }
        let Some((address, ports)) = entry.new_end(evaluation, chain) else {
            continue;
        };
        // The masquerade of a hairpin chooses as it likes: the keys are about the new destination.
        let is_own = !entry.is_dnat() || chain != NatChain::Postrouting;
        return Some(NewEnd {
            entry: entry.index,
            address,
            ports,
            random: is_own && entry.random,
            persistent: is_own && entry.persistent,
        });
    }
    None
}

/// Returns the first entry that matches the packet in a chain, but for hairpins.
pub(super) fn first(evaluation: Evaluation<'_>, chain: NatChain) -> Option<usize> {
    for entry in entries(evaluation.policy, evaluation.packet.family) {
        let is_hairpin = entry.is_dnat() && chain == NatChain::Postrouting;
        if entry.forbids(evaluation, chain) || entry.new_end(evaluation, chain).is_some() {
            return Some(entry.index).filter(|_| !is_hairpin);
        }
    }
    None
}

/// Returns the first entry that accepts the translated packet.
pub(super) fn accepted(evaluation: Evaluation<'_>) -> Option<usize> {
    if !evaluation.packet.translated.destination {
        return None;
    }
    let entries = entries(evaluation.policy, evaluation.packet.family).into_iter();
    let mut accepting = entries.filter(|entry| entry.accepts(evaluation));
    accepting.next().map(|entry| entry.index)
}

/// Returns `true` if an entry accepts packets of a hook and family.
pub(super) fn accepts_in(policy: &Policy, hook: Hook, family: Family) -> bool {
    let entries = entries(policy, family);
    entries.iter().any(|entry| entry.accepts_in(policy, hook))
}

/// Returns the enabled entries that translate packets of the family.
fn entries(policy: &Policy, family: Family) -> Vec<Entry<'_>> {
    let only = policy.defaults.families.clone();
    let only = only.filter(|families| families.value != Scope::Dual);
    let entries = policy.nat.iter().enumerate();
    let entries = entries.filter_map(|(index, written)| {
        let PolicyNat {
            span,
            packets,
            translation,
            random,
            persistent,
        } = written;
        // On a host with one family a missing `scope` is that family.
        let scope = packets.scope.as_ref().or(only.as_ref());
        let is_on = |flag: &Option<Located<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
        let entry = Entry {
            policy,
            index,
            span: *span,
            packets,
            translation: translation.as_ref()?,
            scope: scope.map(|scope| scope.value),
            family,
            random: is_on(random),
            persistent: is_on(persistent),
        };
        (packets.enabled && !is_closed(policy, family) && entry.has_family()).then_some(entry)
    });
    entries.collect()
}

#[derive(Clone, Copy)]
struct Entry<'p> {
    policy: &'p Policy,
    index: usize,
    span: Span,
    packets: &'p PolicyRule,
    translation: &'p PolicyTranslation,
    scope: Option<Scope>,
    family: Family,
    random: bool,
    persistent: bool,
}

impl<'p> Entry<'p> {
    /// Returns `true` if the entry translates the family. Masquerade is IPv4 unless `scope` says otherwise; the other
    /// types have the families of their addresses.
    fn has_family(&self) -> bool {
        let scope = self.scope;
        let is_own = |range: &AddressRange| range.family == self.family;
        let has = match self.translation {
            PolicyTranslation::Masquerade { .. } => scope.is_some() || self.family == Family::V4,
            PolicyTranslation::Redirect { .. }
            | PolicyTranslation::NoSnat
            | PolicyTranslation::NoDnat => true,
            PolicyTranslation::Snat { ends, .. } => !self.ends(ends).is_empty(),
            PolicyTranslation::Dnat { .. } => !self.backends().is_empty(),
            PolicyTranslation::NetmapDestination(to) | PolicyTranslation::NetmapSource(to) => {
                to.iter().any(|to| is_own(&to.value))
            }
        };
        has && scope.is_none_or(|scope| scope.has(self.family))
    }

    /// Returns the backends of the family.
    fn backends(&self) -> Vec<NatEnd> {
        let PolicyTranslation::Dnat { backends, .. } = self.translation else {
            return Vec::new();
        };
        self.ends(backends)
    }

    /// Returns the new addresses of the family, with the ports that are written with them.
    fn ends(&self, written: &[Located<PolicyNatEnd>]) -> Vec<NatEnd> {
        let end = |end: &Located<PolicyNatEnd>| {
            let addresses = match &end.value.address {
                PolicyNatAddress::Literal(range) => *range,
                PolicyNatAddress::Group(name) => {
                    let name = Located::new(name.clone(), end.span);
                    addresses::only_address(self.policy, &name, self.family)?
                }
            };
            Some(NatEnd {
                addresses,
                ports: end.value.ports,
            })
        };
        let ends = written.iter().filter_map(end);
        ends.filter(|end| end.addresses.family == self.family)
            .collect()
    }

    fn is_dnat(&self) -> bool {
        matches!(self.translation, PolicyTranslation::Dnat { .. })
    }

    /// Returns `true` if the entry says that no later one translates the packet in a chain.
    fn forbids(&self, evaluation: Evaluation<'_>, chain: NatChain) -> bool {
        match (self.translation, chain) {
            (PolicyTranslation::NoSnat, NatChain::Postrouting) => self.leaves(evaluation),
            (PolicyTranslation::NoDnat, NatChain::Prerouting | NatChain::Output) => {
                self.arrives(evaluation, chain)
            }
            _ => false,
        }
    }

    fn new_end(
        &self,
        evaluation: Evaluation<'_>,
        chain: NatChain,
    ) -> Option<(NewAddress, Option<PortRange>)> {
        match (self.translation, chain) {
            (
                PolicyTranslation::Masquerade { .. }
                | PolicyTranslation::Snat { .. }
                | PolicyTranslation::NetmapSource(_),
                NatChain::Postrouting,
            ) => self
                .leaves(evaluation)
                .then(|| self.new_source(evaluation.packet))?,
            (PolicyTranslation::Dnat { .. }, NatChain::Postrouting) => self
                .is_hairpin(evaluation)
                .then_some((NewAddress::OfDevice, None)),
            (
                PolicyTranslation::Dnat { .. }
                | PolicyTranslation::Redirect { .. }
                | PolicyTranslation::NetmapDestination(_),
                NatChain::Prerouting | NatChain::Output,
            ) => self
                .arrives(evaluation, chain)
                .then(|| self.new_destination(evaluation, chain))?,
            _ => None,
        }
    }

    fn new_source(&self, packet: &Packet) -> Option<(NewAddress, Option<PortRange>)> {
        match self.translation {
            PolicyTranslation::Masquerade { ports } => {
                let ports = ports.as_ref().map(|ports| ports.value);
                Some((NewAddress::OfDevice, ports))
            }
            PolicyTranslation::Snat { ends, ports } => {
                let end = self.ends(ends).into_iter().next()?;
                let ports = ports.as_ref().map(|ports| ports.value).or(end.ports);
                Some((NewAddress::Source(end.addresses), ports))
            }
            PolicyTranslation::NetmapSource(to) => {
                let mapped = self.mapped(to, packet.source)?;
                Some((NewAddress::Source(mapped), None))
            }
            _ => None,
        }
    }

    fn new_destination(
        &self,
        evaluation: Evaluation<'_>,
        chain: NatChain,
    ) -> Option<(NewAddress, Option<PortRange>)> {
        match self.translation {
            PolicyTranslation::Redirect { port, .. } => {
                let (first, last) = (port.value, port.value);
                Some((NewAddress::ThisHost, Some(PortRange { first, last })))
            }
            PolicyTranslation::NetmapDestination(to) => {
                let mapped = self.mapped(to, evaluation.packet.destination)?;
                Some((NewAddress::Destination(mapped), None))
            }
            PolicyTranslation::Dnat { .. } => {
                let backend = self.whose_turn(evaluation, chain)?;
                let ports = backend.ports.map(|ports| self.new_port(evaluation, ports));
                Some((NewAddress::Destination(backend.addresses), ports))
            }
            _ => None,
        }
    }

    /// Returns the backend whose turn it is: the last one takes all connections that none before it took.
    fn whose_turn(&self, evaluation: Evaluation<'_>, chain: NatChain) -> Option<NatEnd> {
        let backends = self.backends();
        let (last, others) = backends.split_last()?;
        let with_ports = backends.iter().any(|end| end.ports.is_some());
        let mut ports = backends.iter().filter_map(|end| end.ports);
        let has_range = ports.any(|ports| ports.first < ports.last);
        for (backend, end) in others.iter().enumerate() {
            let turn = BackendTurn {
                entry: self.index,
                chain,
                protocol: with_ports.then_some(evaluation.packet.protocol),
                first_port: (has_range && !self.random)
                    .then(|| self.first_port(evaluation))
                    .flatten(),
                backend,
            };
            if (evaluation.holds)(Circumstance::Turn(turn)) {
                return Some(*end);
            }
        }
        Some(*last)
    }

    /// Returns the new port: a range replaces a range of the same length, port for port, unless a random port of it is asked
    /// for.
    fn new_port(&self, evaluation: Evaluation<'_>, ports: PortRange) -> PortRange {
        if self.random {
            return ports;
        }
        let port = evaluation.packet.destination_port;
        let (Some(port), Some(first)) = (port, self.first_port(evaluation)) else {
            return ports;
        };
        if ports.first == ports.last {
            return ports;
        }
        let port = ports.first.saturating_add(port - first);
        PortRange {
            first: port,
            last: port,
        }
    }

    /// Returns the first port of the service's interval that contains the packet's port.
    fn first_port(&self, evaluation: Evaluation<'_>) -> Option<u16> {
        let mut first = evaluation.packet.destination_port?;
        let items = self.packets.service.as_ref()?;
        let protocol = Protocol(evaluation.packet.protocol);
        while first > 1 && services::asks_for(evaluation.policy, items, protocol, first - 1) {
            first -= 1;
        }
        Some(first)
    }

    /// Returns the address in the new prefix with the same host bits.
    fn mapped(&self, to: &[Located<AddressRange>], address: IpAddr) -> Option<AddressRange> {
        let to = to.iter().map(|to| to.value);
        let to = to.into_iter().find(|to| to.family == self.family)?;
        let mask = to.last - to.first;
        let number = to.first | (number_of(address) & mask);
        Some(AddressRange {
            family: self.family,
            first: number,
            last: number,
        })
    }

    fn has_source(&self, evaluation: Evaluation<'_>) -> bool {
        let source = self.packets.source.as_ref();
        source.is_none_or(|source| {
            evaluation.matches_addresses(source, evaluation.packet.source, true)
        })
    }

    fn has_service(&self, evaluation: Evaluation<'_>) -> bool {
        let (service, left_out) = (&self.packets.service, &self.packets.not_service);
        let is_asked = |items: &Vec<_>| services::any_has(evaluation, items);
        service.as_ref().is_none_or(is_asked) && !left_out.as_ref().is_some_and(is_asked)
    }

    fn from(&self) -> Vec<&'p str> {
        match &self.packets.from {
            Some(places) => places.iter().map(|place| place.value.as_str()).collect(),
            None => vec!["any"],
        }
    }

    /// Returns the final destinations of the packets: other hosts, unless `to` says this host or the entry is a redirect.
    fn to(&self) -> Vec<&'p str> {
        match (self.translation, &self.packets.to) {
            (PolicyTranslation::Redirect { .. }, _) => vec!["host"],
            (_, Some(places)) => places.iter().map(|place| place.value.as_str()).collect(),
            (_, None) => vec!["any"],
        }
    }

    /// Returns `true` if the packet arrives by a path on which the entry translates its destination.
    fn arrives(&self, evaluation: Evaluation<'_>, chain: NatChain) -> bool {
        if !evaluation.fits(self.packets, Shows::Everything) {
            return false;
        }
        let packet = evaluation.packet;
        let destination = self.packets.destination.as_ref();
        // Without `destination` an entry translates packets to addresses of this host.
        let is_asked = match (destination, self.translation) {
            (Some(_), _) | (None, PolicyTranslation::NoDnat) => true,
            (None, PolicyTranslation::NetmapDestination(_)) => false,
            (None, _) => (evaluation.holds)(Circumstance::ToThisHost),
        };
        let device = packet.in_device.as_deref();
        let mut from = self.from().into_iter();
        let comes = match chain {
            NatChain::Output => from.any(|place| place == "host"),
            _ => {
                from.any(|place| place != "host" && evaluation.is_at(place, device, true))
                    && !evaluation.is_at_any_of(self.packets.not_from.as_ref(), device, true)
            }
        };
        if is_asked && comes {
            return true;
        }
        let beside = self.beside(evaluation.policy);
        let is_beside = chain == NatChain::Prerouting
            && beside
                .iter()
                .any(|beside| evaluation.is_in_member(beside, device, true));
        // Hosts beside a backend still reach this host by its address in their network.
        let of_the_others =
            |beside: &MemberCondition<'_>| !evaluation.is_of(beside, packet.destination);
        is_asked && is_beside && (destination.is_some() || beside.iter().all(of_the_others))
    }

    /// Returns `true` if the entry translates the source of the packet when it leaves.
    fn leaves(&self, evaluation: Evaluation<'_>) -> bool {
        let packet = evaluation.packet;
        let device = packet.out_device.as_deref();
        let comes = |place: &str| {
            place == "any"
                || places::members(evaluation.policy, place)
                    .iter()
                    .any(|member| evaluation.is_of(member, packet.source))
        };
        evaluation.fits(self.packets, Shows::Everything)
            && self
                .to()
                .iter()
                .any(|place| evaluation.is_at(place, device, false))
            && !evaluation.is_at_any_of(self.packets.not_to.as_ref(), device, false)
            && (self.packets.from.is_none() || self.from().into_iter().any(comes))
    }

    /// Returns `true` if a host beside a backend sends the packet to it through this host (hairpin).
    fn is_hairpin(&self, evaluation: Evaluation<'_>) -> bool {
        let packet = evaluation.packet;
        let device = packet.out_device.as_deref();
        let beside = self.beside(evaluation.policy);
        packet.translated.destination
            && self.has_source(evaluation)
            && self.made(evaluation)
            && beside.iter().any(|beside| {
                evaluation.is_of(beside, packet.source)
                    && evaluation.is_in_member(beside, device, false)
            })
    }

    /// Returns `true` if this entry may have translated the packet: its destination is a new one of the entry, and its
    /// port can come from a port of the service.
    fn made(&self, evaluation: Evaluation<'_>) -> bool {
        let packet = evaluation.packet;
        let ends = match self.translation {
            PolicyTranslation::Redirect { port, .. } => vec![Some(PortRange {
                first: port.value,
                last: port.value,
            })],
            _ => {
                let backends = self.backends().into_iter();
                let here =
                    backends.filter(|end| addresses::within(&end.addresses, packet.destination));
                here.map(|end| end.ports).collect()
            }
        };
        ends.into_iter().any(|ports| {
            let Some(ports) = ports else {
                return self.has_service(evaluation);
            };
            let port = packet.destination_port;
            let is_new = port.is_some_and(|port| (ports.first..=ports.last).contains(&port));
            is_new && self.had_port(evaluation)
        })
    }

    /// Returns `true` if the service matches the packet with some other destination port.
    fn had_port(&self, evaluation: Evaluation<'_>) -> bool {
        let Some(items) = &self.packets.service else {
            return false;
        };
        let protocol = Protocol(evaluation.packet.protocol);
        let mut ports = services::first_ports(evaluation.policy, items, protocol).into_iter();
        ports.any(|port| {
            let packet = Packet {
                destination_port: Some(port),
                ..evaluation.packet.clone()
            };
            let packet = &packet;
            services::any_has(
                Evaluation {
                    packet,
                    ..evaluation
                },
                items,
            )
        })
    }

    /// Returns the places of hosts beside the backends, if their addresses in the family are known.
    fn beside(&self, policy: &'p Policy) -> Vec<MemberCondition<'p>> {
        let PolicyTranslation::Dnat {
            backends,
            hairpin: Some(hairpin),
            ..
        } = self.translation
        else {
            return Vec::new();
        };
        if !hairpin.value {
            return Vec::new();
        }
        let names: Vec<&str> = match &self.packets.to {
            Some(to) => to.iter().map(|place| place.value.as_str()).collect(),
            None => {
                let has = |network: &AddressRange| {
                    // A backend of the other family counts, too.
                    let of_family = |family| Entry { family, ..*self }.ends(backends);
                    let mut backends = Family::ALL.into_iter().flat_map(of_family);
                    backends.any(|NatEnd { addresses: end, .. }| {
                        [end.first, end.last]
                            .into_iter()
                            .all(|it| addresses::within(network, address_of(end.family, it)))
                    })
                };
                let all = policy.interfaces.iter();
                let near = all.filter(|interface| {
                    let mut networks = interface.value.networks.iter();
                    networks.any(|network| has(&network.value))
                });
                near.map(|interface| interface.name.value.as_str())
                    .collect()
            }
        };
        let members = names.iter().flat_map(|name| places::members(policy, name));
        members
            .filter(|member| member.has_known_networks(policy, self.family))
            .collect()
    }

    /// Returns `true` if the entry accepts the packet that it translated.
    fn accepts(&self, evaluation: Evaluation<'_>) -> bool {
        let packet = evaluation.packet;
        let (to, from) = (self.to(), self.from());
        let (came, leaves) = (packet.in_device.as_deref(), packet.out_device.as_deref());
        let not_host = |place: &&&str| **place != "host";
        let outside = || from.iter().filter(not_host);
        let comes = || {
            outside().any(|place| evaluation.is_at(place, came, true))
                || self
                    .beside(evaluation.policy)
                    .iter()
                    .any(|beside| evaluation.is_in_member(beside, came, true))
        };
        let goes = || {
            to.iter()
                .filter(not_host)
                .any(|place| evaluation.is_at(place, leaves, false))
        };
        // The filter table still sees the outgoing device of the old destination of a packet of this host, so only
        // addresses are compared.
        let ends_at = |place: &str| match place {
            "host" => self.is_own_end(packet.destination),
            "any" => true,
            place => places::members(evaluation.policy, place)
                .iter()
                .any(|member| evaluation.has_end_in(member)),
        };
        let comes_back =
            || from.contains(&"host") && came == Some("lo") && self.is_own_end(packet.destination);
        let passes = match packet.hook {
            Hook::Input => to.contains(&"host") && (comes() || comes_back()),
            Hook::Forward => comes() && goes(),
            Hook::Output => from.contains(&"host") && to.iter().any(|place| ends_at(place)),
        };
        self.accept()
            && self.has_source(evaluation)
            && self.made(evaluation)
            && passes
            && !evaluation.is_left_out(self.packets)
    }

    /// Returns `true` if a packet that this host sends to itself because of the entry may have this destination: `redirect`
    /// changes it to the first loopback address.
    fn is_own_end(&self, destination: IpAddr) -> bool {
        match (self.translation, destination) {
            (PolicyTranslation::Redirect { .. }, IpAddr::V4(to)) => to == Ipv4Addr::LOCALHOST,
            (PolicyTranslation::Redirect { .. }, IpAddr::V6(to)) => to == Ipv6Addr::LOCALHOST,
            _ => true,
        }
    }

    fn accept(&self) -> bool {
        match self.translation {
            PolicyTranslation::Dnat { accept, .. } | PolicyTranslation::Redirect { accept, .. } => {
                *accept
            }
            _ => false,
        }
    }

    /// Returns `true` if the entry accepts some packet in a hook.
    fn accepts_in(&self, policy: &'p Policy, hook: Hook) -> bool {
        let (from, to) = (self.from(), self.to());
        let source = self.packets.source.as_ref();
        let ends = self.backends().into_iter();
        let ends = AddressExpression {
            items: ends
                .map(|end| Located::new(AddressItem::Literal(end.addresses), self.span))
                .collect(),
            negated: false,
            span: self.span,
        };
        let ends = (!ends.items.is_empty()).then_some(&ends);
        let exists = |places: &[&str], asked| {
            let mut outside = places.iter().filter(|place| **place != "host");
            outside.any(|place| places::place_exists(policy, place, asked, self.family))
        };
        let comes = || {
            exists(&from, source)
                || self
                    .beside(policy)
                    .iter()
                    .any(|beside| addresses::exist(policy, source, beside.networks, self.family))
        };
        let goes = || exists(&to, ends);
        let sends =
            || from.contains(&"host") && addresses::exist(policy, source, None, self.family);
        let has_service = self
            .packets
            .service
            .as_ref()
            .is_none_or(|items| services::exist(policy, items, self.family));
        let ends_here = to.contains(&"host");
        let passes = match hook {
            Hook::Input => ends_here && (comes() || sends()),
            Hook::Forward => comes() && goes(),
            Hook::Output => sends() && (ends_here || goes()),
        };
        self.accept() && has_service && passes
    }
}

impl Evaluation<'_> {
    /// Returns `true` if the destination is in the networks of a member, by whatever device.
    fn has_end_in(&self, member: &MemberCondition<'_>) -> bool {
        let interface = member
            .interface
            .and_then(|name| self.policy.interfaces.get(name));
        let carries = interface.is_none_or(|one| one.value.scope.has(self.packet.family));
        let networks = member.networks;
        carries
            && networks.is_none_or(|networks| self.is_any(networks, self.packet.destination, false))
            && self.has_ipsec(member, false)
    }

    /// Returns `true` if an address is in the known networks of a member.
    fn is_of(&self, member: &MemberCondition<'_>, address: IpAddr) -> bool {
        let interface = member
            .interface
            .map(|name| self.policy.interfaces.get(name));
        if let Some(interface) = interface {
            let has = interface.is_some_and(|it| it.value.scope.has(self.packet.family));
            if !has {
                return false;
            }
        }
        match (member.networks, interface.flatten()) {
            (Some(networks), _) => self.is_any(networks, address, true),
            (None, Some(interface)) => {
                let mut networks = interface.value.networks.iter();
                networks.any(|network| addresses::within(&network.value, address))
            }
            (None, None) => false,
        }
    }
}

impl MemberCondition<'_> {
    /// Returns `true` if networks of the family are known of the member.
    fn has_known_networks(&self, policy: &Policy, family: Family) -> bool {
        let interface = self.interface.and_then(|name| policy.interfaces.get(name));
        if interface.is_some_and(|interface| !interface.value.scope.has(family)) {
            return false;
        }
        match (self.networks, interface) {
            (Some(networks), _) => addresses::exist(policy, None, Some(networks), family),
            (None, Some(interface)) => {
                let mut networks = interface.value.networks.iter();
                networks.any(|network| network.value.family == family)
            }
            (None, None) => false,
        }
    }
}

//! What the policy's nat entries do with every packet: how the nat table's chains translate, and what passes for it.
//!
//! Read from the plan and the language's words alone, as the rest of the spec.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::condition::{Bucket, Condition};
use super::custom::{self, CustomTurns};
use super::matching::{Matching, Part, Side, in_scope, parts};
use crate::analysis::{BaseChain, Field, Flow, GaveUp, Set, Space, Step, Translation, Verdict};
use crate::iptables::{self, NatKind};
use crate::net::{AddressRange, Family, Hook, IntervalSet, Protocol, State, address_of};
use crate::policy::{CustomPosition, NatChain, NatEnd, Turn};
use crate::resolve::{self, Nat, NatSide, Place, Plan, Ports, Rule, ServicePart};

/// The base chain of the nat table where a packet is in a chain of the policy's words.
pub(super) fn base_chain(chain: NatChain) -> BaseChain {
    match chain {
        NatChain::Prerouting => BaseChain::Prerouting,
        NatChain::Output => BaseChain::Output,
        NatChain::Postrouting => BaseChain::Postrouting,
    }
}

/// One chain of the nat table by the policy.
pub(super) struct Spoken {
    /// The translations in their order.
    pub steps: Vec<Step>,
    /// The packets of each entry, by its index in [`Plan::nat`], whoever comes first.
    pub packets: Vec<(usize, Set)>,
}

/// What the entries and custom rules do in one chain. What decides between several backends goes to `turns`.
pub(super) fn chain(
    plan: &Plan,
    space: &Space,
    chain: NatChain,
    customs: &mut CustomTurns,
    turns: &mut HashMap<Turn, Condition>,
) -> Result<Spoken, GaveUp> {
    let mut spoken = Spoken {
        steps: Vec::new(),
        packets: Vec::new(),
    };
    for (index, nat) in plan.nat.iter().enumerate() {
        let before = customs.before_entry(index);
        spoken.steps.extend(custom::steps(space, before));
        let entry = Entry::new(plan, space, index, nat);
        if entry.is_here() {
            let packets = entry.steps(chain, turns, &mut spoken.steps)?;
            if packets != space.none() {
                spoken.packets.push((index, packets));
            }
        }
    }
    let after = customs.up_to(CustomPosition::After);
    spoken.steps.extend(custom::steps(space, after));
    Ok(spoken)
}

/// What one entry makes of packets in a chain, whoever comes before it; nothing where it is off or has none.
pub(super) fn alone(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: NatChain,
) -> Result<Flow, GaveUp> {
    let mut steps = Vec::new();
    if let Some(nat) = plan.nat.get(index) {
        let entry = Entry::new(plan, space, index, nat);
        if entry.is_here() {
            entry.steps(chain, &mut HashMap::new(), &mut steps)?;
        }
    }
    Flow::from_rules(space, steps)
}

/// The packets that the entries accept in a hook, as they are when they were translated.
pub(super) fn accepted(plan: &Plan, space: &Space, hook: Hook) -> Result<Vec<Set>, GaveUp> {
    let mut all = Vec::new();
    for (index, nat) in plan.nat.iter().enumerate() {
        let entry = Entry::new(plan, space, index, nat);
        if entry.is_here() && entry.lets_through() {
            let set = space.and(entry.through(hook)?, entry.made()?)?;
            all.push(space.and(set, translated(space)?)?);
        }
    }
    Ok(all)
}

/// The packets that an entry gave another destination, as a hook of the filter table sees them; accepted or not.
pub(super) fn translated_in(
    plan: &Plan,
    space: &Space,
    index: usize,
    hook: Hook,
) -> Result<Set, GaveUp> {
    let entry = Entry::new(plan, space, index, &plan.nat[index]);
    match entry.is_here() {
        true => space.every([entry.through(hook)?, entry.made()?, translated(space)?]),
        false => Ok(space.none()),
    }
}

/// Whether an entry accepts packets in a hook, in either family.
pub(super) fn accepts_any(plan: &Plan, hook: Hook) -> Result<bool, GaveUp> {
    for family in Family::ALL {
        let space = Space::new(family);
        let all = accepted(plan, &space, hook)?;
        if all.iter().any(|set| *set != space.none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Packets of connections that got another destination.
fn translated(space: &Space) -> Result<Set, GaveUp> {
    let tracked = [State::New, State::Established, State::Related];
    let other = space.range(Field::DestinationTranslated, 1, 1)?;
    space.and(space.states(&tracked)?, other)
}

struct Entry<'a> {
    space: &'a Space,
    plan: &'a Plan,
    index: usize,
    packets: &'a Rule,
    translation: &'a resolve::Translation,
    matching: Matching<'a>,
}

/// What the connections of an entry become that count together: of a protocol, of a range of ports.
struct Class {
    protocol: Option<Protocol>,
    first_port: Option<u16>,
    packets: Set,
}

impl<'a> Entry<'a> {
    fn new(plan: &'a Plan, space: &'a Space, index: usize, nat: &'a Nat) -> Self {
        // The places and addresses of a packet are the same question in every hook.
        let hook = Hook::Forward;
        let Nat {
            packets,
            translation,
        } = nat;
        Self {
            space,
            plan,
            index,
            packets,
            translation,
            matching: Matching { plan, space, hook },
        }
    }

    fn family(&self) -> Family {
        self.space.family()
    }

    /// Whether the entry is on, and has something to do in the family.
    fn is_here(&self) -> bool {
        let family = self.family();
        let has = |range: &AddressRange| range.family == family;
        let by_addresses = match self.translation {
            // IPv4 unless `scope` says otherwise.
            resolve::Translation::Masquerade => {
                family == Family::V4 || self.packets.scope.is_some()
            }
            resolve::Translation::Snat(ends)
            | resolve::Translation::Dnat { backends: ends, .. } => {
                ends.iter().any(|end| has(&end.addresses))
            }
            resolve::Translation::Netmap { to, .. } => to.iter().any(has),
            resolve::Translation::Redirect { .. } => true,
        };
        self.packets.enabled && in_scope(self.packets, family) && by_addresses
    }

    /// Adds what the entry does in a chain, and gives the packets that it has there.
    fn steps(
        &self,
        chain: NatChain,
        turns: &mut HashMap<Turn, Condition>,
        steps: &mut Vec<Step>,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        let sources = matches!(
            self.translation,
            resolve::Translation::Masquerade
                | resolve::Translation::Snat(_)
                | resolve::Translation::Netmap {
                    side: NatSide::Source,
                    ..
                }
        );
        let is_last = chain == NatChain::Postrouting;
        if is_last && !sources {
            // What goes round comes back with this host's address.
            let round = space.every([self.goes_round()?, self.made()?, translated(space)?])?;
            steps.push(Step::verdict(round, masquerade()));
            return Ok(round);
        }
        if sources != is_last {
            return Ok(space.none());
        }
        if sources {
            let leaving = space.and(self.leaves()?, self.services()?)?;
            steps.push(Step::verdict(leaving, self.new_source()));
            return Ok(leaving);
        }
        let arriving = space.and(self.arrives(chain)?, self.services()?)?;
        match self.translation {
            resolve::Translation::Redirect { port, .. } => {
                let target = redirect(*port);
                steps.push(Step::verdict(arriving, target));
            }
            resolve::Translation::Netmap { to, .. } => {
                steps.push(Step::verdict(arriving, self.netmap(to)));
            }
            _ => self.to_backends(chain, arriving, turns, steps)?,
        }
        Ok(arriving)
    }

    fn to_backends(
        &self,
        chain: NatChain,
        arriving: Set,
        turns: &mut HashMap<Turn, Condition>,
        steps: &mut Vec<Step>,
    ) -> Result<(), GaveUp> {
        let space = self.space;
        let backends = self.backends();
        for class in self.classes()? {
            let mut left = space.and(arriving, class.packets)?;
            if left == space.none() {
                continue;
            }
            for (place, end) in backends.iter().enumerate() {
                let others = backends.len() - place;
                let mut here = left;
                if others > 1 {
                    let bucket = Bucket {
                        chain: base_chain(chain).as_str().to_owned(),
                        place: turns.keys().filter(|turn| turn.chain == chain).count(),
                    };
                    let condition = Condition::Turn(bucket, u32::try_from(others).unwrap_or(0));
                    let set = condition.set(space)?;
                    here = space.and(left, set)?;
                    left = space.minus(left, set)?;
                    let turn = Turn {
                        entry: self.index,
                        chain,
                        protocol: class.protocol.map(|protocol| protocol.0),
                        first_port: class.first_port,
                        backend: place,
                    };
                    turns.insert(turn, condition);
                }
                steps.push(Step::verdict(here, self.destination(end, class.first_port)));
            }
        }
        Ok(())
    }

    /// Of several backends each class takes turns by itself: a port is said of one protocol, a range of the ports that
    /// it takes the place of.
    fn classes(&self) -> Result<Vec<Class>, GaveUp> {
        let space = self.space;
        let backends = self.backends();
        let mut ports = backends.iter().filter_map(|end| end.ports);
        let whole = Class {
            protocol: None,
            first_port: None,
            packets: space.all(),
        };
        let Some(first) = ports.next() else {
            return Ok(vec![whole]);
        };
        let has_range = std::iter::once(first)
            .chain(ports)
            .any(|ports| ports.first < ports.last);
        let mut protocols: BTreeMap<Protocol, Vec<(u128, u128)>> = BTreeMap::new();
        for part in self.packets.service.iter().flatten() {
            match part {
                ServicePart::Ports(ports) => {
                    let known = protocols.entry(ports.protocol).or_default();
                    known.extend(ports.destination.iter().flat_map(|set| set.intervals()));
                }
                ServicePart::Protocol(protocol) => {
                    protocols.entry(*protocol).or_default();
                }
                ServicePart::Icmp(_) | ServicePart::Icmpv6(_) => {}
            }
        }
        let mut classes = Vec::new();
        for (protocol, ports) in protocols {
            let of_protocol = space.protocol(protocol)?;
            if !has_range {
                classes.push(Class {
                    protocol: Some(protocol),
                    first_port: None,
                    packets: of_protocol,
                });
                continue;
            }
            for (first, last) in IntervalSet::from_intervals(ports).intervals() {
                let between = space.range(Field::DestinationPort, *first, *last)?;
                classes.push(Class {
                    protocol: Some(protocol),
                    first_port: u16::try_from(*first).ok(),
                    packets: space.and(of_protocol, between)?,
                });
            }
        }
        Ok(classes)
    }

    fn backends(&self) -> Vec<NatEnd> {
        let resolve::Translation::Dnat { backends, .. } = self.translation else {
            return Vec::new();
        };
        let here = |end: &&NatEnd| end.addresses.family == self.family();
        backends.iter().filter(here).copied().collect()
    }

    fn new_source(&self) -> Verdict {
        match self.translation {
            resolve::Translation::Snat(ends) => {
                let mut nat = iptables::Nat::new(NatKind::Snat);
                let own = ends
                    .iter()
                    .find(|end| end.addresses.family == self.family());
                if let Some(end) = own {
                    nat.addresses = Some(both_ends(&end.addresses));
                    nat.ports = end.ports.map(|ports| iptables::PortRange {
                        first: ports.first,
                        last: ports.last,
                    });
                }
                verdict(nat)
            }
            resolve::Translation::Netmap { to, .. } => self.netmap(to),
            _ => masquerade(),
        }
    }

    fn destination(&self, end: &NatEnd, first_port: Option<u16>) -> Verdict {
        let mut nat = iptables::Nat::new(NatKind::Dnat);
        nat.addresses = Some(both_ends(&end.addresses));
        if let Some(ports) = end.ports {
            let (first, last) = (ports.first, ports.last);
            nat.ports = Some(iptables::PortRange { first, last });
            // A range that begins with the port that it takes the place of leaves the ports as they are.
            nat.base_port = first_port.filter(|port| first < last && *port != first);
        }
        verdict(nat)
    }

    fn netmap(&self, to: &[AddressRange]) -> Verdict {
        let own = to.iter().find(|to| to.family == self.family());
        let mut nat = iptables::Nat::new(NatKind::Netmap);
        nat.addresses = own.map(both_ends);
        verdict(nat)
    }

    fn asked_source(&self) -> Result<Set, GaveUp> {
        match &self.packets.source {
            None => Ok(self.space.all()),
            Some(source) => self.matching.meant(source, Side::From),
        }
    }

    fn services(&self) -> Result<Set, GaveUp> {
        let Some(all) = &self.packets.service else {
            return Ok(self.space.all());
        };
        let sets: Result<Vec<_>, _> = all.iter().map(|part| self.matching.part(part)).collect();
        self.space.any(sets?)
    }

    fn from(&self) -> &[Place] {
        self.packets.from.as_deref().unwrap_or(&[Place::Any])
    }

    fn to(&self) -> &[Place] {
        match *self.translation {
            resolve::Translation::Redirect { .. } => &[Place::Host],
            _ => self.packets.to.as_deref().unwrap_or(&[Place::Any]),
        }
    }

    /// Packets that are at one of some places, none of which is this host.
    fn outside(&self, places: &[Place], side: Side) -> Result<Set, GaveUp> {
        let places = places.iter().filter(|place| **place != Place::Host);
        let sets = places.map(|place| self.matching.at(*place, &None, side));
        self.space.any(sets.collect::<Result<Vec<_>, _>>()?)
    }

    /// Packets whose destination this entry translates, whatever they are for.
    fn arrives(&self, chain: NatChain) -> Result<Set, GaveUp> {
        let space = self.space;
        let is_mapped = matches!(self.translation, resolve::Translation::Netmap { .. });
        let asked = match &self.packets.destination {
            Some(destination) => self.matching.meant(destination, Side::To)?,
            None if is_mapped => space.none(),
            None => Condition::ToThisHost.set(space)?,
        };
        let by_place = match chain {
            NatChain::Output if self.from().contains(&Place::Host) => space.all(),
            NatChain::Output => space.none(),
            _ => self.outside(self.from(), Side::From)?,
        };
        let mut arriving = space.and(by_place, asked)?;
        if chain == NatChain::Prerouting {
            let mut own = Vec::new();
            let mut from_beside = Vec::new();
            for (part, networks) in self.beside() {
                own.push(space.values(Field::Destination, &networks)?);
                from_beside.push(self.matching.at_part(&part, Side::From)?);
            }
            let mut from_beside = space.and(space.any(from_beside)?, asked)?;
            if self.packets.destination.is_none() {
                from_beside = space.minus(from_beside, space.any(own)?)?;
            }
            arriving = space.or(arriving, from_beside)?;
        }
        space.and(arriving, self.asked_source()?)
    }

    /// Packets whose source this entry translates, whatever they are for.
    fn leaves(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let mut keys = vec![self.asked_source()?, self.outside(self.to(), Side::To)?];
        if let Some(destination) = &self.packets.destination {
            keys.push(self.matching.meant(destination, Side::To)?);
        }
        if !self.from().contains(&Place::Any) {
            let known = self.known_networks(self.from());
            let known = known.into_iter().map(|(_, networks)| networks);
            let all = known.fold(IntervalSet::empty(), |all, one| all.union(&one));
            keys.push(space.values(Field::Source, &all)?);
        }
        space.every(keys)
    }

    /// Packets from beside a backend that leave where they came from.
    fn goes_round(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let mut all = Vec::new();
        for (part, networks) in self.beside() {
            let out = self.matching.at_part(&part, Side::To)?;
            all.push(space.and(out, space.values(Field::Source, &networks)?)?);
        }
        space.and(space.any(all)?, self.asked_source()?)
    }

    /// Packets that the entry may have made of others, by their new end.
    fn made(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let with_port = |first: u16, last: u16| {
            let parts = self.packets.service.iter().flatten();
            let sets = parts.map(|part| {
                let new = IntervalSet::from_intervals([(first.into(), last.into())]);
                let (protocol, source) = match part {
                    ServicePart::Ports(ports) => (ports.protocol, ports.source.clone()),
                    ServicePart::Protocol(protocol) => (*protocol, None),
                    ServicePart::Icmp(_) | ServicePart::Icmpv6(_) => return Ok(space.none()),
                };
                self.matching.ports(&Ports {
                    protocol,
                    source,
                    destination: Some(new),
                })
            });
            space.any(sets.collect::<Result<Vec<_>, GaveUp>>()?)
        };
        if let resolve::Translation::Redirect { port, .. } = self.translation {
            return with_port(*port, *port);
        }
        let mut ends = Vec::new();
        for end in self.backends() {
            let AddressRange { first, last, .. } = end.addresses;
            let there = space.range(Field::Destination, first, last)?;
            let service = match end.ports {
                Some(ports) => with_port(ports.first, ports.last)?,
                None => self.services()?,
            };
            ends.push(space.and(there, service)?);
        }
        space.any(ends)
    }

    fn lets_through(&self) -> bool {
        match *self.translation {
            resolve::Translation::Dnat { accept, .. }
            | resolve::Translation::Redirect { accept, .. } => accept,
            resolve::Translation::Masquerade
            | resolve::Translation::Snat(_)
            | resolve::Translation::Netmap { .. } => false,
        }
    }

    /// Packets that come from where the entry takes them, and go where it says that they end.
    fn through(&self, hook: Hook) -> Result<Set, GaveUp> {
        let space = self.space;
        let (from, to) = (self.from(), self.to());
        let mut comes = self.outside(from, Side::From)?;
        for (part, _) in self.beside() {
            comes = space.or(comes, self.matching.at_part(&part, Side::From)?)?;
        }
        let (from_host, to_host) = (from.contains(&Place::Host), to.contains(&Place::Host));
        let way = match hook {
            Hook::Forward => space.and(comes, self.outside(to, Side::To)?)?,
            Hook::Input if !to_host => space.none(),
            Hook::Input if from_host => {
                let own = space.and(space.in_device("lo")?, self.to_itself()?)?;
                space.or(comes, own)?
            }
            Hook::Input => comes,
            Hook::Output if !from_host => space.none(),
            Hook::Output => {
                let mut ends = match to_host {
                    true => self.to_itself()?,
                    false => space.none(),
                };
                // Filter sees the device of the destination that the packet had: only its new address can be asked for.
                let places = to.iter().filter(|place| **place != Place::Host);
                for part in places.flat_map(|place| parts(self.plan, *place, self.family())) {
                    let end = match part.networks {
                        Some(networks) => space.values(Field::Destination, networks)?,
                        None => space.all(),
                    };
                    ends = space.or(ends, end)?;
                }
                ends
            }
        };
        space.and(way, self.asked_source()?)
    }

    /// Where packets of this host go that an entry sends to this host: redirected ones to 127.0.0.1 or ::1.
    fn to_itself(&self) -> Result<Set, GaveUp> {
        let resolve::Translation::Redirect { .. } = *self.translation else {
            return Ok(self.space.all());
        };
        let own = match self.family() {
            Family::V4 => 0x7f00_0001,
            Family::V6 => 1,
        };
        self.space.range(Field::Destination, own, own)
    }

    /// Where hosts are beside the backends, and their addresses.
    fn beside(&self) -> Vec<(Part<'a>, IntervalSet)> {
        let resolve::Translation::Dnat {
            hairpin: Some(places),
            ..
        } = self.translation
        else {
            return Vec::new();
        };
        let mut beside = self.known_networks(places);
        beside.retain(|(_, networks)| !networks.is_empty());
        beside
    }

    /// The parts of places, and the networks of the family that are known of each.
    fn known_networks(&self, places: &[Place]) -> Vec<(Part<'a>, IntervalSet)> {
        let family = self.family();
        let parts = places
            .iter()
            .flat_map(|place| parts(self.plan, *place, family));
        let known = parts.map(|part| {
            let networks = match (part.networks, part.interface) {
                (Some(networks), _) => networks.clone(),
                (None, Some(interface)) => {
                    let networks = interface.networks.iter();
                    let own = networks.filter(|network| network.family == family);
                    IntervalSet::from_intervals(own.map(|n| (n.first, n.last)))
                }
                (None, None) => IntervalSet::empty(),
            };
            (part, networks)
        });
        known.collect()
    }
}

fn verdict(nat: iptables::Nat) -> Verdict {
    Verdict::Nat(Translation::of(&nat))
}

fn masquerade() -> Verdict {
    verdict(iptables::Nat::new(NatKind::Masquerade))
}

fn redirect(port: u16) -> Verdict {
    let mut nat = iptables::Nat::new(NatKind::Redirect);
    nat.ports = Some(iptables::PortRange {
        first: port,
        last: port,
    });
    verdict(nat)
}

fn both_ends(range: &AddressRange) -> (IpAddr, IpAddr) {
    (
        address_of(range.family, range.first),
        address_of(range.family, range.last),
    )
}

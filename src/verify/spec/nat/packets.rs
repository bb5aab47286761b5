//! The packets of a nat entry before and after translation, and those that it accepts in the filter table.

use super::Entry;
use crate::analysis::{Field, GaveUp, Set};
use crate::net::{AddressRange, Family, Hook, IntervalSet};
use crate::policy::NatChain;
use crate::resolve::{self, Endpoint, ServicePart, ServicePorts};
use crate::verify::condition::Condition;
use crate::verify::spec::matching::{PacketEnd, ZonePart, parts};

impl<'a> Entry<'a> {
    fn asked_source(&self) -> Result<Set, GaveUp> {
        match &self.packets.source {
            None => Ok(self.space.all()),
            Some(source) => self.matching.meant(source, PacketEnd::From),
        }
    }

    pub(super) fn services(&self) -> Result<Set, GaveUp> {
        let any = |parts: &[ServicePart]| {
            let sets: Result<Vec<_>, _> =
                parts.iter().map(|part| self.matching.part(part)).collect();
            self.space.any(sets?)
        };
        match (&self.packets.service, &self.packets.not_service) {
            (Some(all), _) => any(all),
            (None, Some(all)) => self.space.not(any(all)?),
            (None, None) => Ok(self.space.all()),
        }
    }

    fn from(&self) -> &[Endpoint] {
        self.packets.from.as_deref().unwrap_or(&[Endpoint::Any])
    }

    fn to(&self) -> &[Endpoint] {
        match *self.translation {
            resolve::PlannedTranslation::Redirect { .. } => &[Endpoint::Host],
            _ => self.packets.to.as_deref().unwrap_or(&[Endpoint::Any]),
        }
    }

    /// Returns the packets with one of some endpoints on one side; `host` does not count.
    fn outside(&self, places: &[Endpoint], side: PacketEnd) -> Result<Set, GaveUp> {
        let places = places.iter().filter(|place| **place != Endpoint::Host);
        let sets = places.map(|place| self.matching.at(*place, &None, side));
        self.space.any(sets.collect::<Result<Vec<_>, _>>()?)
    }

    /// Returns the packets whose destination this entry translates, if they fit its other keys.
    pub(super) fn arrives(&self, chain: NatChain) -> Result<Set, GaveUp> {
        let space = self.space;
        let asked = match (&self.packets.destination, self.translation) {
            (Some(destination), _) => self.matching.meant(destination, PacketEnd::To)?,
            (None, resolve::PlannedTranslation::Netmap { .. }) => space.none(),
            (None, resolve::PlannedTranslation::Untranslated(_)) => space.all(),
            (None, _) => Condition::ToThisHost.set(space)?,
        };
        let by_place = match chain {
            NatChain::Output if self.from().contains(&Endpoint::Host) => space.all(),
            NatChain::Output => space.none(),
            _ => self.outside(self.from(), PacketEnd::From)?,
        };
        let not_from = self
            .matching
            .left_out(&self.packets.not_from, PacketEnd::From)?;
        let by_place = space.minus(by_place, not_from)?;
        let mut arriving = space.and(by_place, asked)?;
        if chain == NatChain::Prerouting {
            let mut own = Vec::new();
            let mut from_beside = Vec::new();
            for (part, networks) in self.beside() {
                own.push(space.values(Field::Destination, &networks)?);
                from_beside.push(self.matching.at_part(&part, PacketEnd::From)?);
            }
            let mut from_beside = space.and(space.any(from_beside)?, asked)?;
            if self.packets.destination.is_none() {
                from_beside = space.minus(from_beside, space.any(own)?)?;
            }
            arriving = space.or(arriving, from_beside)?;
        }
        space.and(arriving, self.asked_source()?)
    }

    /// Returns the packets whose source this entry translates, if they fit its other keys.
    pub(super) fn leaves(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let mut keys = vec![
            self.asked_source()?,
            self.outside(self.to(), PacketEnd::To)?,
        ];
        if let Some(destination) = &self.packets.destination {
            keys.push(self.matching.meant(destination, PacketEnd::To)?);
        }
        if !self.from().contains(&Endpoint::Any) {
            let known = self.known_networks(self.from());
            let known = known.into_iter().map(|(_, networks)| networks);
            let all = known.fold(IntervalSet::empty(), |all, one| all.union(&one));
            keys.push(space.values(Field::Source, &all)?);
        }
        let not_to = self
            .matching
            .left_out(&self.packets.not_to, PacketEnd::To)?;
        space.minus(space.every(keys)?, not_to)
    }

    /// Returns the packets from hosts beside a backend that leave by the interface that they came from.
    pub(super) fn hairpin(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let mut all = Vec::new();
        for (part, networks) in self.beside() {
            let out = self.matching.at_part(&part, PacketEnd::To)?;
            all.push(space.and(out, space.values(Field::Source, &networks)?)?);
        }
        space.and(space.any(all)?, self.asked_source()?)
    }

    /// Returns the packets that the entry may have translated, by their new destination.
    pub(super) fn made(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let with_port = |first: u16, last: u16| {
            let parts = self.packets.service.iter().flatten();
            let sets = parts.map(|part| {
                let new = IntervalSet::from_intervals([(first.into(), last.into())]);
                let (protocol, source) = match part {
                    ServicePart::Ports(ports) => (ports.protocol, ports.source.clone()),
                    ServicePart::Protocol(protocol) => (*protocol, None),
                    ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => {
                        return Ok(space.none());
                    }
                };
                self.matching.ports(&ServicePorts {
                    protocol,
                    source,
                    destination: Some(new),
                })
            });
            space.any(sets.collect::<Result<Vec<_>, GaveUp>>()?)
        };
        if let resolve::PlannedTranslation::Redirect { port, .. } = self.translation {
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

    /// Returns `true` if the entry accepts what it translates (`accept`).
    pub(super) fn accepts(&self) -> bool {
        match *self.translation {
            resolve::PlannedTranslation::Dnat { accept, .. }
            | resolve::PlannedTranslation::Redirect { accept, .. } => accept,
            resolve::PlannedTranslation::Masquerade { .. }
            | resolve::PlannedTranslation::Snat(_)
            | resolve::PlannedTranslation::Untranslated(_)
            | resolve::PlannedTranslation::Netmap { .. } => false,
        }
    }

    /// Returns the packets that fit `from`, `to` and `source` of the entry in a hook of the filter table.
    pub(super) fn through(&self, hook: Hook) -> Result<Set, GaveUp> {
        let space = self.space;
        let (from, to) = (self.from(), self.to());
        let mut comes = self.outside(from, PacketEnd::From)?;
        for (part, _) in self.beside() {
            comes = space.or(comes, self.matching.at_part(&part, PacketEnd::From)?)?;
        }
        let (from_host, to_host) = (from.contains(&Endpoint::Host), to.contains(&Endpoint::Host));
        let on_path = match hook {
            Hook::Forward => space.and(comes, self.outside(to, PacketEnd::To)?)?,
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
                // In OUTPUT the filter table still sees the device of the original destination, so only the new address
                // can be matched.
                let places = to.iter().filter(|place| **place != Endpoint::Host);
                for part in places.flat_map(|place| parts(self.plan, *place, self.family())) {
                    let end = match part.networks {
                        Some(networks) => space.values(Field::Destination, networks)?,
                        None => space.all(),
                    };
                    let end = space.and(end, self.matching.ipsec(&part, PacketEnd::To)?)?;
                    ends = space.or(ends, end)?;
                }
                ends
            }
        };
        let not_from = self
            .matching
            .left_out(&self.packets.not_from, PacketEnd::From)?;
        let not_to = self
            .matching
            .left_out(&self.packets.not_to, PacketEnd::To)?;
        let on_path = space.minus(space.minus(on_path, not_from)?, not_to)?;
        space.and(on_path, self.asked_source()?)
    }

    /// Returns the destinations of this host's own packets that the entry sends to this host. REDIRECT in OUTPUT leads to
    /// 127.0.0.1 or ::1.
    fn to_itself(&self) -> Result<Set, GaveUp> {
        let resolve::PlannedTranslation::Redirect { .. } = *self.translation else {
            return Ok(self.space.all());
        };
        let own = match self.family() {
            Family::V4 => 0x7f00_0001,
            Family::V6 => 1,
        };
        self.space.range(Field::Destination, own, own)
    }

    /// Returns the interfaces or networks beside the backends, which need hairpin NAT, and their addresses.
    fn beside(&self) -> Vec<(ZonePart<'a>, IntervalSet)> {
        let resolve::PlannedTranslation::Dnat {
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

    /// Returns the parts of endpoints, each with its networks of the family, as far as the policy knows them.
    fn known_networks(&self, places: &[Endpoint]) -> Vec<(ZonePart<'a>, IntervalSet)> {
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

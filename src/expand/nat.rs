//! The entries of `[[nat]]` as lines of the nat table, and what they accept in the filter table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::context::{Chain, Group, Line, NatTarget, Negatable, Turn};
use super::hooks::{Side, Way, side};
use super::render::Origin;
use super::rules::{self, short_hash};
use crate::net::{
    AddressRange, AddressSet, Family, Hook, IntervalSet, PortRange, Protocol, address_of,
    prefix_length,
};
use crate::policy::NatEnd;
use crate::resolve::{
    Addresses, Interface, Nat, NatSide, Place, Plan, Ports, Rule, ServicePart, Translation,
};

const CHAINS: [&str; 4] = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"];

/// The chains of the nat table in a family: the base chains, then those of fwc by name.
pub fn chains(plan: &Plan, family: Family) -> Vec<Chain> {
    let mut own = BTreeMap::new();
    let mut chains: Vec<_> = CHAINS
        .iter()
        .map(|name| Chain {
            name: (*name).to_owned(),
            policy: "ACCEPT",
            ..Chain::default()
        })
        .collect();
    for entry in entries(plan, family) {
        for chain in &mut chains {
            let lines = entry.lines(&chain.name, &mut own);
            if !lines.is_empty() {
                chain
                    .groups
                    .push(Group::of_written(entry.packets, entry.index, lines));
            }
        }
    }
    chains.extend(own.into_values());
    chains
}

/// What the entries accept in a hook of the filter table.
pub fn accepts(plan: &Plan, family: Family, hook: Hook) -> Vec<Group> {
    let groups = entries(plan, family).map(|entry| Group {
        label: format!("accepted by {}", entry.packets.label),
        ..Group::of(entry.packets, entry.accepts(hook))
    });
    groups.filter(|group| !group.lines.is_empty()).collect()
}

/// The enabled entries that translate something of the family.
fn entries(plan: &Plan, family: Family) -> impl Iterator<Item = Entry<'_>> {
    let entries = plan.nat.iter().enumerate().map(move |(index, nat)| {
        let Nat {
            packets,
            translation,
        } = nat;
        Entry {
            plan,
            packets,
            translation,
            family,
            index,
            origin: Origin::Nat(index).mark(),
        }
    });
    entries.filter(|entry| entry.packets.enabled && entry.has_family())
}

/// One entry in one family.
struct Entry<'p> {
    plan: &'p Plan,
    packets: &'p Rule,
    translation: &'p Translation,
    family: Family,
    /// Its index in [`Plan::nat`].
    index: usize,
    origin: String,
}

/// A new destination: the target, its options, and whether it has ports of its own.
#[derive(Clone)]
struct New {
    target: &'static str,
    to: NatTarget,
    with_port: bool,
}

/// Hosts beside a backend.
struct Beside<'p> {
    interface: Option<&'p Interface>,
    /// Those that a zone asks for.
    zone: Option<AddressSet>,
    /// Their addresses.
    networks: AddressSet,
}

impl<'p> Entry<'p> {
    fn has_family(&self) -> bool {
        let scope = self.packets.scope;
        let has_addresses = match self.translation {
            Translation::Masquerade => scope.is_some() || self.family == Family::V4,
            Translation::Redirect { .. } => true,
            Translation::Snat(ends) | Translation::Dnat { backends: ends, .. } => {
                !self.of_family(ends).is_empty()
            }
            Translation::Netmap { to, .. } => self.prefix(to).is_some(),
        };
        has_addresses && scope.is_none_or(|scope| scope.has(self.family))
    }

    fn of_family<'e>(&self, ends: &'e [NatEnd]) -> Vec<&'e NatEnd> {
        let ends = ends.iter();
        ends.filter(|end| end.addresses.family == self.family)
            .collect()
    }

    /// The prefix of the family, as iptables writes it.
    fn prefix(&self, to: &[AddressRange]) -> Option<String> {
        let to = to.iter().find(|to| to.family == self.family)?;
        let length = prefix_length(self.family, to.first, to.last)?;
        Some(format!("{}/{length}", address_of(self.family, to.first)))
    }

    /// The lines in a base chain of the nat table.
    fn lines(&self, chain: &str, own: &mut BTreeMap<String, Chain>) -> Vec<Line> {
        match (self.translation, chain) {
            (Translation::Masquerade, "POSTROUTING") => {
                self.leaving("MASQUERADE", &NatTarget::default())
            }
            (Translation::Snat(ends), "POSTROUTING") => {
                let source = self.of_family(ends).first().map(|end| self.end(end, None));
                let to = NatTarget {
                    source,
                    ..NatTarget::default()
                };
                self.leaving("SNAT", &to)
            }
            (
                Translation::Netmap {
                    side: NatSide::Source,
                    to,
                },
                "POSTROUTING",
            ) => {
                let to = NatTarget {
                    network: self.prefix(to),
                    ..NatTarget::default()
                };
                self.leaving("NETMAP", &to)
            }
            (Translation::Dnat { .. }, "POSTROUTING") => self.hairpin(),
            (
                Translation::Dnat { .. }
                | Translation::Redirect { .. }
                | Translation::Netmap {
                    side: NatSide::Destination,
                    ..
                },
                "PREROUTING" | "OUTPUT",
            ) => self.arriving(chain, own),
            _ => Vec::new(),
        }
    }

    /// What gets another destination.
    fn arriving(&self, chain: &str, own: &mut BTreeMap<String, Chain>) -> Vec<Line> {
        let mut all = Vec::new();
        for (service, base) in self.pieces() {
            let mut lines = Vec::new();
            for (way, destination) in self.ways_in(chain) {
                let rule = Rule {
                    service: service.clone(),
                    destination,
                    ..self.packets.clone()
                };
                lines.extend(self.matching(&rule, &way));
            }
            if lines.is_empty() {
                continue;
            }
            match &self.new_destinations(base)[..] {
                [one] => all.extend(lines.into_iter().map(|line| translated(line, one))),
                several => {
                    let name = self.turns(chain, &lines, service.as_ref(), several, own);
                    all.extend(lines.into_iter().map(|line| Line {
                        target: name.clone(),
                        ..line
                    }));
                }
            }
        }
        all
    }

    /// Lines without a target; where nobody says a destination, this host's addresses are meant.
    fn matching(&self, rule: &Rule, way: &Way<'_>) -> Vec<Line> {
        let is_mapped = matches!(self.translation, Translation::Netmap { .. });
        let local = self.packets.destination.is_none() && !is_mapped;
        let lines = rules::packets(self.plan, rule, way, self.family, &self.origin).into_iter();
        let lines = lines.map(|line| Line {
            destination_type: local.then(|| Negatable::plain("LOCAL".to_owned())),
            ..line
        });
        lines.collect()
    }

    /// Where packets come in, with the destinations that they are asked for there.
    fn ways_in(&self, chain: &str) -> Vec<(Way<'p>, Option<Addresses>)> {
        let from = self.from();
        if chain == "OUTPUT" {
            let own = from.contains(&Place::Host);
            let way = || (Way::default(), self.packets.destination.clone());
            return own.then(way).into_iter().collect();
        }
        let mut ways = Vec::new();
        for (input, source) in self.sides(from) {
            let way = Way {
                input,
                source,
                ..Way::default()
            };
            ways.push((way, self.packets.destination.clone()));
        }
        let all_beside = self.beside();
        let networks = all_beside.iter().map(|beside| &beside.networks);
        let networks = networks.fold(AddressSet::default(), |all, one| all.union(one));
        // The addresses that this host has beside the backends stay its own.
        let others = || Addresses {
            set: networks.clone(),
            negated: true,
            ..Addresses::default()
        };
        let destination = self.packets.destination.clone();
        for beside in &all_beside {
            for (input, source) in beside.sides() {
                let way = Way {
                    input,
                    source,
                    ..Way::default()
                };
                let destination = destination.clone().unwrap_or_else(others);
                ways.push((way, Some(destination)));
            }
        }
        let mut unique: Vec<(Way<'p>, Option<Addresses>)> = Vec::with_capacity(ways.len());
        for way in ways {
            if !unique.contains(&way) {
                unique.push(way);
            }
        }
        unique
    }

    /// The services whose ports become ports of one place, with the first of those that a range is counted from.
    fn pieces(&self) -> Vec<(Option<Vec<ServicePart>>, Option<u128>)> {
        let service = &self.packets.service;
        let has_range = match self.translation {
            Translation::Dnat { backends, .. } => {
                let backends = self.of_family(backends).into_iter();
                let mut ports = backends.filter_map(|end| end.ports);
                ports.any(|ports| ports.first < ports.last)
            }
            _ => false,
        };
        if !has_range {
            return vec![(service.clone(), None)];
        }
        let ports = service.iter().flatten().filter_map(|part| match part {
            ServicePart::Ports(ports) => Some(ports),
            _ => None, // such a service has no range of ports
        });
        let mut by_protocol: BTreeMap<Protocol, Vec<&Ports>> = BTreeMap::new();
        for ports in ports {
            by_protocol.entry(ports.protocol).or_default().push(ports);
        }
        let mut pieces = Vec::new();
        for of_protocol in by_protocol.into_values() {
            let destinations = of_protocol.iter().flat_map(|ports| &ports.destination);
            let all = IntervalSet::from_intervals(
                destinations.flat_map(|set| set.intervals().iter().copied()),
            );
            for interval in all.intervals() {
                let here = IntervalSet::from_intervals([*interval]);
                let parts = of_protocol.iter().map(|ports| Ports {
                    destination: ports
                        .destination
                        .as_ref()
                        .map(|set| set.intersection(&here)),
                    ..(*ports).clone()
                });
                let parts = parts.filter(|ports| ports.destination != Some(IntervalSet::empty()));
                let parts = parts.map(ServicePart::Ports).collect();
                pieces.push((Some(parts), Some(interval.0)));
            }
        }
        pieces
    }

    /// What destinations become.
    fn new_destinations(&self, base: Option<u128>) -> Vec<New> {
        match self.translation {
            Translation::Dnat { backends, .. } => {
                let backends = self.of_family(backends).into_iter();
                let new = backends.map(|end| New {
                    target: "DNAT",
                    to: NatTarget {
                        destination: Some(self.end(end, base)),
                        ..NatTarget::default()
                    },
                    with_port: end.ports.is_some(),
                });
                new.collect()
            }
            Translation::Redirect { port, .. } => vec![New {
                target: "REDIRECT",
                to: NatTarget {
                    ports: Some(port.to_string()),
                    ..NatTarget::default()
                },
                with_port: true,
            }],
            Translation::Netmap { to, .. } => vec![New {
                target: "NETMAP",
                to: NatTarget {
                    network: self.prefix(to),
                    ..NatTarget::default()
                },
                with_port: false,
            }],
            Translation::Masquerade | Translation::Snat(_) => Vec::new(),
        }
    }

    /// `10.8.0.5:8080`; a range of ports that begins elsewhere is counted from `base`.
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

    /// A chain of several destinations, each in its turn. A new port is said beside its protocol only.
    fn turns(
        &self,
        chain: &str,
        lines: &[Line],
        service: Option<&Vec<ServicePart>>,
        several: &[New],
        own: &mut BTreeMap<String, Chain>,
    ) -> String {
        let mut protocols: Vec<Option<Protocol>> = vec![None];
        if several.iter().any(|new| new.with_port) {
            let parts = service.into_iter().flatten();
            protocols = parts.map(protocol_of).collect();
            protocols.sort();
            protocols.dedup();
        }
        let mut body = Vec::new();
        for protocol in protocols {
            let line = Line {
                protocol: protocol.map(|protocol| protocol.to_string()),
                comment: self.packets.comment.clone(),
                origin: self.origin.clone(),
                ..Line::default()
            };
            for (at, new) in several.iter().enumerate() {
                let left = several.len() - at;
                let turn = (left > 1).then_some(Turn { every: left });
                let line = Line {
                    turn,
                    ..line.clone()
                };
                body.push(translated(line, new));
            }
        }
        let mut identity = self.packets.label.clone();
        for line in lines.iter().chain(&body) {
            let _ = write!(identity, "\n{}", line.identity());
        }
        let mut twin = 0u32;
        let name = loop {
            let hash = short_hash(format!("{twin}/{identity}"));
            let name = format!("FWC-{chain}-{hash}");
            if !own.contains_key(&name) {
                break name;
            }
            twin += 1;
        };
        own.insert(
            name.clone(),
            Chain {
                name: name.clone(),
                policy: "-",
                groups: vec![Group::of(self.packets, body)],
                ..Chain::default()
            },
        );
        name
    }

    /// What gets another source: after routing, known by the networks that it comes from.
    fn leaving(&self, target: &'static str, to: &NatTarget) -> Vec<Line> {
        let packets = self.packets;
        let mut networks = None;
        if let Some(from) = packets
            .from
            .as_ref()
            .filter(|from| !from.contains(&Place::Any))
        {
            let members = from.iter().flat_map(|place| self.plan.members(*place));
            let all = members.map(|member| {
                let interface = member.interface.map(|index| &self.plan.interfaces[index]);
                self.networks(member.networks.as_ref(), interface)
            });
            networks = Some(all.fold(AddressSet::default(), |all, one| all.union(&one)));
        }
        let new = New {
            target,
            to: to.clone(),
            with_port: false,
        };
        let mut lines = Vec::new();
        for (output, destination) in self.sides(self.to()) {
            let way = Way {
                output,
                source: networks.clone(),
                destination,
                ..Way::default()
            };
            let found = rules::packets(self.plan, packets, &way, self.family, &self.origin);
            lines.extend(found.into_iter().map(|line| translated(line, &new)));
        }
        lines
    }

    /// What hosts beside a backend send to it by this host comes back by this host.
    fn hairpin(&self) -> Vec<Line> {
        let new = New {
            target: "MASQUERADE",
            to: NatTarget::default(),
            with_port: false,
        };
        let mut lines = Vec::new();
        for beside in self.beside() {
            for (output, zone) in beside.sides() {
                let way = Way {
                    output,
                    source: Some(beside.networks.clone()),
                    destination: zone,
                    ..Way::default()
                };
                for rule in self.ends() {
                    let found = rules::packets(self.plan, &rule, &way, self.family, &self.origin);
                    lines.extend(found.into_iter().map(|line| {
                        let line = Line {
                            states: Some("DNAT".to_owned()),
                            ..line
                        };
                        translated(line, &new)
                    }));
                }
            }
        }
        lines
    }

    /// The packets as they are when they got another destination: a rule for each kind of ports.
    fn ends(&self) -> Vec<Rule> {
        let packets = self.packets;
        let with_port = |port: PortRange| {
            let parts = packets.service.iter().flatten();
            let parts = parts.filter_map(|part| {
                let protocol = protocol_of(part)?;
                let source = match part {
                    ServicePart::Ports(ports) => ports.source.clone(),
                    _ => None,
                };
                let ports = (port.first.into(), port.last.into());
                Some(ServicePart::Ports(Ports {
                    protocol,
                    source,
                    destination: Some(IntervalSet::from_intervals([ports])),
                }))
            });
            Some(parts.collect())
        };
        match self.translation {
            Translation::Redirect { port, .. } => vec![Rule {
                destination: None,
                service: with_port(PortRange {
                    first: *port,
                    last: *port,
                }),
                ..packets.clone()
            }],
            Translation::Dnat { backends, .. } => {
                let mut by_ports: Vec<(Option<PortRange>, Vec<AddressRange>)> = Vec::new();
                for end in self.of_family(backends) {
                    match by_ports.iter_mut().find(|(ports, _)| *ports == end.ports) {
                        Some((_, addresses)) => addresses.push(end.addresses),
                        None => by_ports.push((end.ports, vec![end.addresses])),
                    }
                }
                let rules = by_ports.into_iter().map(|(ports, addresses)| Rule {
                    destination: Some(Addresses {
                        set: AddressSet::from_ranges(addresses),
                        ..Addresses::default()
                    }),
                    service: match ports {
                        Some(ports) => with_port(ports),
                        None => packets.service.clone(),
                    },
                    ..packets.clone()
                });
                rules.collect()
            }
            Translation::Masquerade | Translation::Snat(_) | Translation::Netmap { .. } => {
                Vec::new()
            }
        }
    }

    /// The lines that accept in a hook what the entry translated.
    fn accepts(&self, hook: Hook) -> Vec<Line> {
        let accept = match *self.translation {
            Translation::Dnat { accept, .. } | Translation::Redirect { accept, .. } => accept,
            _ => false,
        };
        if !accept {
            return Vec::new();
        }
        let accepting = |way: &Way<'_>| {
            let rules = self.ends().into_iter();
            let found = rules
                .flat_map(|rule| rules::packets(self.plan, &rule, way, self.family, &self.origin));
            let lines = found.map(|line| Line {
                states: Some("DNAT".to_owned()),
                target: "ACCEPT".to_owned(),
                ..line
            });
            lines.collect::<Vec<_>>()
        };
        let ways = match hook {
            Hook::Input | Hook::Forward => self.ways_through(hook),
            Hook::Output => self.ways_out(),
        };
        let mut lines: Vec<_> = ways.iter().flat_map(accepting).collect();
        let from_anywhere = |way: &Way<'_>| way.input.is_none() && way.source.is_none();
        let comes_back = hook == Hook::Input && self.is_from_host() && self.is_to_host();
        if comes_back && !ways.iter().any(from_anywhere) {
            let own = accepting(&self.to_this_host()).into_iter();
            lines.extend(own.map(|line| Line {
                in_device: Some(Negatable::plain("lo".to_owned())),
                ..line
            }));
        }
        lines
    }

    fn is_from_host(&self) -> bool {
        self.from().contains(&Place::Host)
    }

    fn is_to_host(&self) -> bool {
        self.to().contains(&Place::Host)
    }

    /// What this host sends to itself because of the entry. REDIRECT gives it the first loopback address.
    fn to_this_host(&self) -> Way<'p> {
        let destination = match *self.translation {
            Translation::Redirect { .. } => {
                let address = self.family.loopback().0 | 1;
                Some(AddressSet::from_ranges([AddressRange {
                    family: self.family,
                    first: address,
                    last: address,
                }]))
            }
            _ => None,
        };
        Way {
            destination,
            ..Way::default()
        }
    }

    /// The ways of what this host sends. The filter table still sees the device that the old destination is behind, so the
    /// new end alone is asked for.
    fn ways_out(&self) -> Vec<Way<'p>> {
        if !self.is_from_host() {
            return Vec::new();
        }
        let mut ways: Vec<Way<'p>> = Vec::new();
        if self.is_to_host() {
            ways.push(self.to_this_host());
        }
        for (_, destination) in self.sides(self.to()) {
            let way = Way {
                destination,
                ..Way::default()
            };
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    /// The ways of what comes in by a device.
    fn ways_through(&self, hook: Hook) -> Vec<Way<'p>> {
        let mut inputs = self.sides(self.from());
        inputs.extend(self.beside().iter().flat_map(Beside::sides));
        let outputs = match hook {
            Hook::Forward => self.sides(self.to()),
            Hook::Input if self.is_to_host() => vec![(None, None)],
            Hook::Input | Hook::Output => return Vec::new(),
        };
        let mut ways = Vec::new();
        for (input, source) in &inputs {
            for (output, destination) in &outputs {
                let way = Way {
                    input: *input,
                    output: *output,
                    source: source.clone(),
                    destination: destination.clone(),
                };
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
        ways
    }

    fn from(&self) -> &'p [Place] {
        self.packets.from.as_deref().unwrap_or(&[Place::Any])
    }

    /// Where packets end: not at this host, but for redirects.
    fn to(&self) -> &'p [Place] {
        match (&self.packets.to, self.translation) {
            (_, Translation::Redirect { .. }) => &[Place::Host],
            (Some(to), _) => to,
            (None, _) => &[Place::Any],
        }
    }

    /// Devices and networks of places but this host.
    fn sides(&self, places: &[Place]) -> Vec<Side<'p>> {
        let places = places.iter().filter(|place| **place != Place::Host);
        places
            .flat_map(|place| side(self.plan, *place, self.family))
            .collect()
    }

    /// The hosts beside the backends that have addresses of the family.
    fn beside(&self) -> Vec<Beside<'p>> {
        let Translation::Dnat {
            hairpin: Some(places),
            ..
        } = self.translation
        else {
            return Vec::new();
        };
        let members = places.iter().flat_map(|place| self.plan.members(*place));
        let beside = members.map(|member| {
            let interface = member.interface.map(|index| &self.plan.interfaces[index]);
            Beside {
                interface,
                networks: self.networks(member.networks.as_ref(), interface),
                zone: member.networks,
            }
        });
        beside
            .filter(|beside| !beside.networks.family(self.family).is_empty())
            .collect()
    }

    /// The source networks of a part of a place.
    fn networks(&self, zone: Option<&AddressSet>, interface: Option<&Interface>) -> AddressSet {
        match (zone, interface) {
            (_, Some(interface)) if !interface.scope.has(self.family) => AddressSet::default(),
            (Some(networks), _) => networks.clone(),
            (None, Some(interface)) => AddressSet::from_ranges(interface.networks.iter().copied()),
            (None, None) => AddressSet::default(),
        }
    }
}

impl<'p> Beside<'p> {
    fn sides(&self) -> Vec<Side<'p>> {
        match self.interface {
            None => vec![(None, self.zone.clone())],
            Some(interface) => {
                let devices = interface.devices.iter();
                devices
                    .map(|device| (Some(device), self.zone.clone()))
                    .collect()
            }
        }
    }
}

fn translated(line: Line, new: &New) -> Line {
    Line {
        target: new.target.to_owned(),
        nat: Some(new.to.clone()),
        ..line
    }
}

fn protocol_of(part: &ServicePart) -> Option<Protocol> {
    match part {
        ServicePart::Ports(ports) => Some(ports.protocol),
        ServicePart::Protocol(protocol) => Some(*protocol),
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) => None,
    }
}

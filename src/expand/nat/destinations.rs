//! What gets another destination: the lines of PREROUTING and OUTPUT.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Entry, New, protocol_of, translated};
use crate::expand::context::{
    ChainContext, GroupContext, LineContext, NatTargetContext, NegatableContext, TurnContext,
};
use crate::expand::hooks::HookPath;
use crate::expand::rules::{self, short_hash};
use crate::net::{AddressSet, IntervalSet, Protocol};
use crate::resolve::{
    AddressCondition, Endpoint, PlannedRule, PlannedTranslation, ServicePart, ServicePorts,
};

impl<'p> Entry<'p> {
    /// Returns the lines for what gets another destination.
    pub(super) fn arriving(
        &self,
        chain: &str,
        own: &mut BTreeMap<String, ChainContext>,
    ) -> Vec<LineContext> {
        let mut all = Vec::new();
        for (service, base) in self.pieces() {
            let mut lines = Vec::new();
            for (way, destination) in self.ways_in(chain) {
                let rule = PlannedRule {
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
                    all.extend(lines.into_iter().map(|line| LineContext {
                        target: name.clone(),
                        ..line
                    }));
                }
            }
        }
        all
    }

    /// Returns lines without a target; where nobody says a destination, this host's addresses are meant.
    fn matching(&self, rule: &PlannedRule, way: &HookPath<'_>) -> Vec<LineContext> {
        let is_mapped = matches!(self.translation, PlannedTranslation::Netmap { .. });
        let local = self.packets.destination.is_none() && !is_mapped;
        let lines = rules::packets(self.plan, rule, way, self.family, &self.origin).into_iter();
        let lines = lines.map(|line| LineContext {
            destination_type: local.then(|| NegatableContext::plain("LOCAL".to_owned())),
            ..line
        });
        lines.collect()
    }

    /// Returns the ways by which packets come in, with the destinations that each asks for.
    fn ways_in(&self, chain: &str) -> Vec<(HookPath<'p>, Option<AddressCondition>)> {
        let from = self.from();
        if chain == "OUTPUT" {
            let own = from.contains(&Endpoint::Host);
            let way = || (HookPath::default(), self.packets.destination.clone());
            return own.then(way).into_iter().collect();
        }
        let mut ways = Vec::new();
        for (input, source) in self.sides(from) {
            let way = HookPath {
                input,
                source,
                ..HookPath::default()
            };
            ways.push((way, self.packets.destination.clone()));
        }
        let all_beside = self.beside();
        let networks = all_beside.iter().map(|beside| &beside.networks);
        let networks = networks.fold(AddressSet::default(), |all, one| all.union(one));
        // The addresses that this host has beside the backends stay its own.
        let others = || AddressCondition {
            set: networks.clone(),
            negated: true,
            ..AddressCondition::default()
        };
        let destination = self.packets.destination.clone();
        for beside in &all_beside {
            for (input, source) in beside.sides() {
                let way = HookPath {
                    input,
                    source,
                    ..HookPath::default()
                };
                let destination = destination.clone().unwrap_or_else(others);
                ways.push((way, Some(destination)));
            }
        }
        let mut unique: Vec<(HookPath<'p>, Option<AddressCondition>)> =
            Vec::with_capacity(ways.len());
        for way in ways {
            if !unique.contains(&way) {
                unique.push(way);
            }
        }
        unique
    }

    /// Returns the services whose ports become ports of one place, with the first of those that a range is counted from.
    fn pieces(&self) -> Vec<(Option<Vec<ServicePart>>, Option<u128>)> {
        let service = &self.packets.service;
        let has_range = match self.translation {
            PlannedTranslation::Dnat { backends, .. } => {
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
        let mut by_protocol: BTreeMap<Protocol, Vec<&ServicePorts>> = BTreeMap::new();
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
                let parts = of_protocol.iter().map(|ports| ServicePorts {
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

    /// Returns what destinations become.
    fn new_destinations(&self, base: Option<u128>) -> Vec<New> {
        match self.translation {
            PlannedTranslation::Dnat { backends, .. } => {
                let backends = self.of_family(backends).into_iter();
                let new = backends.map(|end| New {
                    target: "DNAT",
                    to: NatTargetContext {
                        destination: Some(self.end(end, base)),
                        ..NatTargetContext::default()
                    },
                    with_port: end.ports.is_some(),
                });
                new.collect()
            }
            PlannedTranslation::Redirect { port, .. } => vec![New {
                target: "REDIRECT",
                to: NatTargetContext {
                    ports: Some(port.to_string()),
                    ..NatTargetContext::default()
                },
                with_port: true,
            }],
            PlannedTranslation::Netmap { to, .. } => vec![New {
                target: "NETMAP",
                to: NatTargetContext {
                    network: self.prefix(to),
                    ..NatTargetContext::default()
                },
                with_port: false,
            }],
            PlannedTranslation::Masquerade | PlannedTranslation::Snat(_) => Vec::new(),
        }
    }

    /// Adds a chain of several destinations, each in its turn, and returns its name. A new port is said beside its protocol only.
    fn turns(
        &self,
        chain: &str,
        lines: &[LineContext],
        service: Option<&Vec<ServicePart>>,
        several: &[New],
        own: &mut BTreeMap<String, ChainContext>,
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
            let line = LineContext {
                protocol: protocol.map(|protocol| protocol.to_string()),
                comment: self.packets.comment.clone(),
                origin: self.origin.clone(),
                ..LineContext::default()
            };
            for (at, new) in several.iter().enumerate() {
                let left = several.len() - at;
                let turn = (left > 1).then_some(TurnContext { every: left });
                let line = LineContext {
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
            ChainContext {
                name: name.clone(),
                policy: "-",
                groups: vec![GroupContext::of(self.packets, body)],
                ..ChainContext::default()
            },
        );
        name
    }
}

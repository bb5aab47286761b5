//! Expands entries that change the destination: the lines of PREROUTING and OUTPUT.

use std::collections::BTreeMap;

use super::{Entry, NatRewrite, protocol_of, translated};
use crate::expand::context::{LineContext, NatTargetContext, NegatableContext, TurnContext};
use crate::expand::hooks::HookPath;
use crate::expand::own_chains::OwnChains;
use crate::expand::rules;
use crate::net::{AddressSet, IntervalSet, Protocol};
use crate::resolve::{
    AddressCondition, Endpoint, PlannedRule, PlannedTranslation, ServicePart, ServicePorts,
};

impl<'p> Entry<'p> {
    /// Returns the lines of a base chain that change the destination.
    pub(super) fn arriving(&self, chain: &str, own: &mut OwnChains) -> Vec<LineContext> {
        let mut all = Vec::new();
        for (service, base) in self.pieces() {
            let mut lines = Vec::new();
            for (path, destination) in self.paths_in(chain) {
                let rule = PlannedRule {
                    service: service.clone(),
                    destination,
                    ..self.seen_in(chain)
                };
                lines.extend(self.matching(&rule, &path));
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

    /// Returns lines without a target. An entry without `destination` matches the addresses of this host, by their type
    /// in the routing table: fwc does not need to know them.
    fn matching(&self, rule: &PlannedRule, path: &HookPath<'_>) -> Vec<LineContext> {
        let is_about_this_host = matches!(
            self.translation,
            PlannedTranslation::Dnat { .. } | PlannedTranslation::Redirect { .. }
        );
        let local = self.packets.destination.is_none() && is_about_this_host;
        let lines = rules::packets(self.plan, rule, path, self.family, &self.origin).into_iter();
        let lines = lines.map(|line| LineContext {
            destination_type: local.then(|| NegatableContext::plain("LOCAL".to_owned())),
            ..line
        });
        lines.collect()
    }

    /// Returns the paths by which packets arrive, each with its destinations.
    fn paths_in(&self, chain: &str) -> Vec<(HookPath<'p>, Option<AddressCondition>)> {
        let from = self.from();
        if chain == "OUTPUT" {
            let own = from.contains(&Endpoint::Host);
            let path = || (HookPath::default(), self.packets.destination.clone());
            return own.then(path).into_iter().collect();
        }
        let mut paths = Vec::new();
        for side in self.sides(from) {
            let path = HookPath::coming(side);
            paths.push((path, self.packets.destination.clone()));
        }
        let all_beside = self.beside();
        let networks = all_beside.iter().map(|beside| &beside.networks);
        let networks = networks.fold(AddressSet::default(), |all, one| all.union(one));
        // The address of this host in the backend's network is not redirected: hosts there still reach this host by it.
        let others = || AddressCondition {
            listed: networks.clone(),
            negated: true,
            ..AddressCondition::default()
        };
        let destination = self.packets.destination.clone();
        for beside in &all_beside {
            for side in beside.sides() {
                let path = HookPath::coming(side);
                let destination = destination.clone().unwrap_or_else(others);
                paths.push((path, Some(destination)));
            }
        }
        let mut unique: Vec<(HookPath<'p>, Option<AddressCondition>)> =
            Vec::with_capacity(paths.len());
        for path in paths {
            if !unique.contains(&path) {
                unique.push(path);
            }
        }
        unique
    }

    /// Splits the service so that each piece has one interval of ports, and returns with each the first port of that interval.
    /// `--to-destination` with a range of ports shifts all ports of a line by the same distance; with `--random` it does not.
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
        if !has_range || self.random {
            return vec![(service.clone(), None)];
        }
        let ports = service.iter().flatten().filter_map(|part| match part {
            ServicePart::Ports(ports) => Some(ports),
            _ => None, // the checks refuse such a service with a range of ports
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

    /// Returns the new destinations.
    fn new_destinations(&self, base: Option<u128>) -> Vec<NatRewrite> {
        match self.translation {
            PlannedTranslation::Dnat { backends, .. } => {
                let backends = self.of_family(backends).into_iter();
                let new = backends.map(|end| NatRewrite {
                    target: "DNAT",
                    to: NatTargetContext {
                        destination: Some(self.end(end, base)),
                        ..self.choice("random")
                    },
                    with_port: end.ports.is_some(),
                });
                new.collect()
            }
            PlannedTranslation::Redirect { port, .. } => vec![NatRewrite {
                target: "REDIRECT",
                to: NatTargetContext {
                    ports: Some(port.to_string()),
                    ..self.choice("random")
                },
                with_port: true,
            }],
            PlannedTranslation::Netmap { to, .. } => vec![NatRewrite {
                target: "NETMAP",
                to: NatTargetContext {
                    network: self.prefix(to),
                    ..NatTargetContext::default()
                },
                with_port: false,
            }],
            PlannedTranslation::Untranslated(_) => vec![NatRewrite {
                target: "ACCEPT",
                to: NatTargetContext::default(),
                with_port: false,
            }],
            PlannedTranslation::Masquerade { .. } | PlannedTranslation::Snat(_) => Vec::new(),
        }
    }

    /// Adds a chain in which several destinations take turns, and returns its name. iptables takes a new port only on a
    /// line with its protocol.
    fn turns(
        &self,
        chain: &str,
        lines: &[LineContext],
        service: Option<&Vec<ServicePart>>,
        several: &[NatRewrite],
        own: &mut OwnChains,
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
                // Every third of all, then every second of the rest, then all: each destination gets the same share.
                let left = several.len() - at;
                let turn = (left > 1).then_some(TurnContext { every: left });
                let line = LineContext {
                    turn,
                    ..line.clone()
                };
                body.push(translated(line, new));
            }
        }
        let name = own.name_of(chain, self.packets, lines.iter().chain(&body));
        own.add(&name, self.packets, body);
        name
    }
}

//! Expands what nat entries accept in the filter table, which sees packets with their new destination.

use super::{Entry, HairpinClients, protocol_of};
use crate::expand::context::{LineContext, NegatableContext};
use crate::expand::entries::{EntryChains, EntryPart};
use crate::expand::hooks::{HookPath, HookSide};
use crate::expand::own_chains::OwnChains;
use crate::expand::rules;
use crate::net::{AddressRange, AddressSet, Hook, IntervalSet, PortRange};
use crate::resolve::{
    AddressCondition, Endpoint, PlannedRule, PlannedTranslation, ServicePart, ServicePorts,
};

impl<'p> Entry<'p> {
    /// Returns rules for the translated packets, one for each new port range: they have the new destinations and ports.
    pub(super) fn ends(&self) -> Vec<PlannedRule> {
        // Another hook may not match these keys, and what the entry translated has them.
        let packets = PlannedRule {
            ipset: None,
            mark: None,
            mac: None,
            tcp_flags: None,
            user: None,
            group: None,
            matches: None,
            ..self.packets.clone()
        };
        let with_port = |port: PortRange| {
            let parts = packets.service.iter().flatten();
            let parts = parts.filter_map(|part| {
                let protocol = protocol_of(part)?;
                let source = match part {
                    ServicePart::Ports(ports) => ports.source.clone(),
                    _ => None,
                };
                let ports = (port.first.into(), port.last.into());
                Some(ServicePart::Ports(ServicePorts {
                    protocol,
                    source,
                    destination: Some(IntervalSet::from_intervals([ports])),
                }))
            });
            Some(parts.collect())
        };
        match self.translation {
            PlannedTranslation::Redirect { port, .. } => vec![PlannedRule {
                destination: None,
                service: with_port(PortRange {
                    first: *port,
                    last: *port,
                }),
                ..packets.clone()
            }],
            PlannedTranslation::Dnat { backends, .. } => {
                let mut by_ports: Vec<(Option<PortRange>, Vec<AddressRange>)> = Vec::new();
                for end in self.of_family(backends) {
                    match by_ports.iter_mut().find(|(ports, _)| *ports == end.ports) {
                        Some((_, addresses)) => addresses.push(end.addresses),
                        None => by_ports.push((end.ports, vec![end.addresses])),
                    }
                }
                let rules = by_ports.into_iter().map(|(ports, addresses)| PlannedRule {
                    destination: Some(AddressCondition {
                        listed: AddressSet::from_ranges(addresses),
                        ..AddressCondition::default()
                    }),
                    service: match ports {
                        Some(ports) => with_port(ports),
                        None => packets.service.clone(),
                    },
                    ..packets.clone()
                });
                rules.collect()
            }
            PlannedTranslation::Masquerade { .. }
            | PlannedTranslation::Snat(_)
            | PlannedTranslation::Untranslated(_)
            | PlannedTranslation::Netmap { .. } => Vec::new(),
        }
    }

    /// Returns the lines that accept translated packets in a hook. `--ctstate DNAT` keeps out packets that were sent to a
    /// backend directly.
    pub(super) fn accepts(&self, hook: Hook, own: &mut OwnChains) -> Vec<LineContext> {
        let accept = match *self.translation {
            PlannedTranslation::Dnat { accept, .. }
            | PlannedTranslation::Redirect { accept, .. } => accept,
            _ => false,
        };
        if !accept {
            return Vec::new();
        }
        let accepting = |path: &HookPath<'_>| {
            let rules = self.ends().into_iter();
            let found = rules
                .flat_map(|rule| rules::packets(self.plan, &rule, path, self.family, &self.origin));
            let lines = found.map(|line| LineContext {
                states: Some("DNAT".to_owned()),
                target: "ACCEPT".to_owned(),
                ..line
            });
            lines.collect::<Vec<_>>()
        };
        let paths = match hook {
            Hook::Input | Hook::Forward => self.paths_through(hook),
            Hook::Output => self.paths_out(),
        };
        let mut lines: Vec<_> = paths.iter().flat_map(accepting).collect();
        let from_anywhere = |path: &HookPath<'_>| {
            path.input.is_none() && path.source.is_none() && path.ipsec_in.is_none()
        };
        let comes_back = hook == Hook::Input && self.is_from_host() && self.is_to_host();
        if comes_back && !paths.iter().any(from_anywhere) {
            let looped = accepting(&self.to_this_host()).into_iter();
            lines.extend(looped.map(|line| LineContext {
                in_device: Some(NegatableContext::plain("lo".to_owned())),
                ..line
            }));
        }
        let part = EntryPart {
            lines,
            exceptions: rules::exceptions(self.plan, self.packets, self.family, &self.origin),
            counting: None,
        };
        // The nat table logs the packets of the entry.
        let chains = EntryChains {
            packets: self.packets,
            chain: hook.chain(),
            log: None,
        };
        chains.place(vec![part], own)
    }

    fn is_from_host(&self) -> bool {
        self.from().contains(&Endpoint::Host)
    }

    fn is_to_host(&self) -> bool {
        self.to().contains(&Endpoint::Host)
    }

    /// Returns the path of packets that this host sends to itself because of the entry. In OUTPUT, REDIRECT changes their
    /// destination to the first loopback address.
    pub(super) fn to_this_host(&self) -> HookPath<'p> {
        let destination = match *self.translation {
            PlannedTranslation::Redirect { .. } => {
                let address = self.family.loopback().0 | 1;
                Some(AddressSet::from_ranges([AddressRange {
                    family: self.family,
                    first: address,
                    last: address,
                }]))
            }
            _ => None,
        };
        HookPath {
            destination,
            ..HookPath::default()
        }
    }

    /// Returns the paths of packets that this host sends. The filter table still sees the device of the old destination,
    /// so only the new address is matched.
    fn paths_out(&self) -> Vec<HookPath<'p>> {
        if !self.is_from_host() {
            return Vec::new();
        }
        let mut paths: Vec<HookPath<'p>> = Vec::new();
        if self.is_to_host() {
            paths.push(self.to_this_host());
        }
        for to in self.sides(self.to()) {
            let path = HookPath {
                output: None,
                ..HookPath::going(to)
            };
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// Returns the paths of packets that arrive by a device.
    fn paths_through(&self, hook: Hook) -> Vec<HookPath<'p>> {
        let mut inputs = self.sides(self.from());
        inputs.extend(self.beside().iter().flat_map(HairpinClients::sides));
        let outputs = match hook {
            Hook::Forward => self.sides(self.to()),
            Hook::Input if self.is_to_host() => vec![HookSide::default()],
            Hook::Input | Hook::Output => return Vec::new(),
        };
        let mut paths = Vec::new();
        for from in &inputs {
            for to in &outputs {
                let path = HookPath::between(from.clone(), to.clone());
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        paths
    }
}

//! What gets another source: the lines of POSTROUTING.

use super::{Entry, New, translated};
use crate::expand::context::{LineContext, NatTargetContext};
use crate::expand::hooks::HookPath;
use crate::expand::rules;
use crate::net::AddressSet;
use crate::resolve::Endpoint;

impl<'p> Entry<'p> {
    /// Returns the lines for what gets another source: after routing, known by the networks that it comes from.
    pub(super) fn leaving(&self, target: &'static str, to: &NatTargetContext) -> Vec<LineContext> {
        let packets = self.packets;
        let mut networks = None;
        if let Some(from) = packets
            .from
            .as_ref()
            .filter(|from| !from.contains(&Endpoint::Any))
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
            let way = HookPath {
                output,
                source: networks.clone(),
                destination,
                ..HookPath::default()
            };
            let found = rules::packets(self.plan, packets, &way, self.family, &self.origin);
            lines.extend(found.into_iter().map(|line| translated(line, &new)));
        }
        lines
    }

    /// Returns the lines by which the answers to hosts beside a backend, which reach it by this host, come back by this host.
    pub(super) fn hairpin(&self) -> Vec<LineContext> {
        let new = New {
            target: "MASQUERADE",
            to: NatTargetContext::default(),
            with_port: false,
        };
        let mut lines = Vec::new();
        for beside in self.beside() {
            for (output, zone) in beside.sides() {
                let way = HookPath {
                    output,
                    source: Some(beside.networks.clone()),
                    destination: zone,
                    ..HookPath::default()
                };
                for rule in self.ends() {
                    let found = rules::packets(self.plan, &rule, &way, self.family, &self.origin);
                    lines.extend(found.into_iter().map(|line| {
                        let line = LineContext {
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
}

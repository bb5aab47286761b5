//! Expands entries that change the source: the lines of POSTROUTING.

use super::{Entry, NatRewrite, translated};
use crate::expand::context::{LineContext, NatTargetContext};
use crate::expand::hooks::HookPath;
use crate::expand::rules;
use crate::net::AddressSet;
use crate::resolve::{Endpoint, PlannedRule};

impl<'p> Entry<'p> {
    /// Returns the lines that change the source. `from` is matched by its networks, since iptables refuses `-i` in
    /// POSTROUTING.
    pub(super) fn leaving(&self, target: &'static str, to: &NatTargetContext) -> Vec<LineContext> {
        let packets = self.seen_in("POSTROUTING");
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
        let new = NatRewrite {
            target,
            to: to.clone(),
            with_port: false,
        };
        let mut lines = Vec::new();
        for to in self.sides(self.to()) {
            let path = HookPath {
                source: networks.clone(),
                ..HookPath::going(to)
            };
            let found = rules::packets(self.plan, &packets, &path, self.family, &self.origin);
            lines.extend(found.into_iter().map(|line| translated(line, &new)));
        }
        lines
    }

    /// Returns the lines that masquerade hosts beside a backend. Otherwise the backend would answer them directly, and
    /// they would drop an answer from an address that they did not ask.
    pub(super) fn hairpin(&self) -> Vec<LineContext> {
        let new = NatRewrite {
            target: "MASQUERADE",
            to: NatTargetContext::default(),
            with_port: false,
        };
        let mut lines = Vec::new();
        for beside in self.beside() {
            for side in beside.sides() {
                let path = HookPath {
                    source: Some(beside.networks.clone()),
                    ..HookPath::going(side)
                };
                for rule in self.ends() {
                    let rule = PlannedRule {
                        not_from: None,
                        not_to: None,
                        ..rule
                    };
                    let found = rules::packets(self.plan, &rule, &path, self.family, &self.origin);
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

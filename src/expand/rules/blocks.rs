//! The chain of a block: its rules in their order, and its end.

use super::{InHook, is_on, reject, to};
use crate::expand::context::GroupContext;
use crate::expand::custom;
use crate::expand::hooks::HookPath;
use crate::expand::own_chains::OwnChains;
use crate::policy::CustomPosition;
use crate::resolve::Finally;

impl InHook<'_> {
    /// Returns the lines of the rules of a block, and of its end.
    pub(super) fn rules(
        &self,
        finally: Finally,
        own: &mut OwnChains,
        accepts: &mut bool,
    ) -> Vec<GroupContext> {
        let mut customs = self.customs().into_iter().peekable();
        let mut groups = Vec::new();
        for (index, rule) in self.plan.rules_of(self.index) {
            while let Some((_, custom)) = customs.next_if(|(behind, _)| *behind <= index) {
                groups.push(custom);
            }
            if is_on(rule, self.family) {
                let rule = InHook {
                    index,
                    rule,
                    ..*self
                };
                // The block's own lines have chosen the devices and networks.
                groups.extend(rule.expand(&[HookPath::default()], own, accepts));
            }
        }
        groups.extend(customs.map(|(_, custom)| custom));
        let everything = self.everything();
        let end = match finally {
            Finally::Next => Vec::new(),
            Finally::Accept => to("ACCEPT", &everything),
            Finally::Drop => to("DROP", &everything),
            Finally::Reject(with) => reject(with[self.family], self.family, &everything),
        };
        if !end.is_empty() {
            groups.push(GroupContext {
                label: format!("{}: finally", self.rule.label),
                ..GroupContext::of(self.rule, end)
            });
        }
        groups
    }

    /// Returns the custom rules of a block, each with the number of rules before it, in their order.
    fn customs(&self) -> Vec<(usize, GroupContext)> {
        let customs = self.plan.custom.iter().enumerate();
        let here = customs.filter_map(|(index, custom)| match custom.place? {
            CustomPosition::InBlock { block, behind }
                if block == self.index && custom.rules[self.family].is_some() =>
            {
                Some((behind, custom::group(index, custom, self.family)))
            }
            _ => None,
        });
        here.collect()
    }
}

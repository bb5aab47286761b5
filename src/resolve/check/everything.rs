//! Reports rules without a key that narrows them.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, PerFamily, State};
use crate::policy::{self, DefaultAction};
use crate::resolve::plan::{Finally, Plan, RuleAction};
use crate::source::Located;

use super::Checked;

impl Checked<'_> {
    /// Reports a rule that decides every packet because none of its keys narrows it. A key was probably forgotten: whoever
    /// means every packet writes `from = "any"`.
    pub(super) fn everything(&self, plan: &Plan, policy: &policy::Policy, sink: &mut Sink) {
        let choice = Choice::of(self.written);
        let mut choices = policy.blocks_around(self.written.in_block).map(Choice::of);
        if choice == Choice::Made || choices.any(|choice| choice == Choice::Made) {
            return;
        }
        // To leave the rule out is right only if the default does the same in each family of the rule.
        let scope = self.rule.scope;
        let families = Family::ALL.into_iter();
        let families = families.filter(|family| {
            plan.defaults.families.has(*family) && scope.is_none_or(|scope| scope.has(*family))
        });
        let mut defaults = families.map(|family| plan.defaults[family].actions.input);
        let mut is_default = |action| defaults.all(|default| default == action);
        let PerFamily { v4, v6 } = &plan.defaults.of;
        let differ = v4.actions.input != v6.actions.input;
        let (code, does, instead) = match self.rule.action {
            // Neither decides packets, so both may mean all of them.
            RuleAction::Log | RuleAction::Continue | RuleAction::Block(Finally::Next) => return,
            RuleAction::Accept | RuleAction::Block(Finally::Accept) => (
                Code::AcceptsEverything,
                "accepts",
                "add a key that says what it is for, such as `service = \"ssh\"` or `source = \"192.0.2.0/24\"`",
            ),
            RuleAction::Drop | RuleAction::Block(Finally::Drop) => (
                Code::DeniesEverything,
                "denies",
                match is_default(DefaultAction::Drop) {
                    true => {
                        "leave it out: the default drops what no rule accepts (`input = \"drop\"`)"
                    }
                    false if differ => {
                        "to drop what no rule accepts, write `input = \"drop\"` under [defaults] and in the table of the family that says otherwise"
                    }
                    false => {
                        "to drop what no rule accepts, write `input = \"drop\"` under [defaults]"
                    }
                },
            ),
            RuleAction::Reject(_) | RuleAction::Block(Finally::Reject(_)) => (
                Code::DeniesEverything,
                "denies",
                match is_default(DefaultAction::Reject) {
                    true => {
                        "leave it out: the default rejects what no rule accepts (`input = \"reject\"`)"
                    }
                    false if differ => {
                        "to reject what no rule accepts, write `input = \"reject\"` under [defaults] and in the table of the family that says otherwise"
                    }
                    false => {
                        "to reject what no rule accepts, write `input = \"reject\"` under [defaults]"
                    }
                },
            ),
        };
        let what = match self.rule.action {
            RuleAction::Block(_) => "block",
            _ => "rule",
        };
        let message = format!("this {what} {does} every packet: none of its keys narrows it");
        let mut finding = Diagnostic::error(code, self.rule.span, message).help(instead);
        if choice == Choice::Pretended {
            finding = finding.with_note(
                "limits, times, `scope`, `order`, `stage`, `log` and `state = \"new\"` do not narrow what a rule matches",
            );
        }
        sink.report(finding.help(match self.written.in_block {
            None => "write `from = \"any\"` if you mean every packet",
            Some(_) => "write `from = \"any\"` in the block if you mean every packet",
        }));
    }
}

impl Checked<'_> {
    /// Reports an entry that drops every packet because none of its keys narrows it.
    pub fn drops_everything(&self, sink: &mut Sink) {
        let choice = Choice::of(self.written);
        if choice == Choice::Made {
            return;
        }
        let message = "this entry drops every packet: none of its keys narrows it";
        let mut finding = Diagnostic::error(Code::DeniesEverything, self.rule.span, message)
            .help("add a key that says what is dropped, such as `source = \"198.51.100.0/24\"`");
        if choice == Choice::Pretended {
            finding = finding.with_note("times and `scope` do not narrow what an entry matches");
        }
        sink.report(finding.help("write `from = \"any\"` if you mean every packet"));
    }
}

/// Whether the keys of a rule choose packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// A key chooses packets. `any` counts, because it states the intent.
    Made,
    /// No key chooses packets, but some look as if they did.
    Pretended,
    /// The rule has neither kind of key.
    Missing,
}

impl Choice {
    fn of(rule: &policy::PolicyRule) -> Self {
        #[rustfmt::skip]
        let policy::PolicyRule {
            span: _, name: _, comment: _, enabled: _, complete: _, action: _, reject_with: _, block: _,
            // The caller asks the blocks around the rule.
            in_block: _,
            from, not_from, to, not_to, source, destination, service, not_service, ipset, mark, mac, tcp_flags, original,
            matches, user, group, state, scope, stage, order, limit, connections, schedule, expires, log,
        } = rule;
        // By default the preamble accepts packets of known connections, so nearly all that reach a rule are `new`.
        let has_new =
            |states: &Vec<Located<State>>| states.iter().any(|one| one.value == State::New);
        let chooses = from.is_some()
            || not_from.is_some()
            || to.is_some()
            || not_to.is_some()
            || source.is_some()
            || destination.is_some()
            || service.is_some()
            || not_service.is_some()
            || ipset.is_some()
            || mark.is_some()
            || mac.is_some()
            || tcp_flags.is_some()
            || original.is_some()
            || matches.is_some()
            || user.is_some()
            || group.is_some()
            || state.as_ref().is_some_and(|states| !has_new(states));
        let pretends = scope.is_some()
            || state.is_some()
            || stage.is_some()
            || order.is_some()
            || limit.is_some()
            || connections.is_some()
            || schedule.is_some()
            || expires.is_some()
            || log.is_some();
        match (chooses, pretends) {
            (true, _) => Self::Made,
            (false, true) => Self::Pretended,
            (false, false) => Self::Missing,
        }
    }
}

//! Rules that choose no packets.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::State;
use crate::policy::{self, DefaultAction};
use crate::resolve::plan::{Plan, RuleAction};
use crate::source::Located;

use super::Checked;

impl Checked<'_> {
    /// Reports a rule that decides every packet because none of its keys chooses some. A key was probably forgotten: who
    /// means every packet says so with `from = "any"`.
    pub(super) fn everything(&self, plan: &Plan, sink: &mut Sink) {
        if chooses(self.written) {
            return;
        }
        let default = plan.defaults.input;
        let (code, does, instead) = match self.rule.action {
            RuleAction::Log => return,
            RuleAction::Accept => (
                Code::AcceptsEverything,
                "accepts",
                "say what it is for, such as `service = \"ssh\"` or `source = \"192.0.2.0/24\"`",
            ),
            RuleAction::Drop => (
                Code::DeniesEverything,
                "denies",
                match default {
                    DefaultAction::Drop => {
                        "leave it out: the default drops what no rule accepts (`input = \"drop\"`)"
                    }
                    _ => "to drop what no rule accepts, say `input = \"drop\"` under [defaults]",
                },
            ),
            RuleAction::Reject(_) => (
                Code::DeniesEverything,
                "denies",
                match default {
                    DefaultAction::Reject => {
                        "leave it out: the default rejects what no rule accepts (`input = \"reject\"`)"
                    }
                    _ => {
                        "to reject what no rule accepts, say `input = \"reject\"` under [defaults]"
                    }
                },
            ),
        };
        let message = format!("this rule {does} every packet: none of its keys chooses some");
        let mut finding = Diagnostic::error(code, self.rule.span, message).help(instead);
        if has_other_keys(self.written) {
            finding = finding.with_note(
                "limits, times, `scope`, `order`, `stage`, `log` and `state = \"new\"` do not choose packets",
            );
        }
        sink.report(finding.help("say `from = \"any\"` if every packet is meant"));
    }
}

/// Whether a key of a rule chooses packets. `any` chooses, too, for it says what is meant.
fn chooses(rule: &policy::Rule) -> bool {
    let has_new = |states: &Vec<Located<State>>| states.iter().any(|one| one.value == State::New);
    rule.from.is_some()
        || rule.to.is_some()
        || rule.source.is_some()
        || rule.destination.is_some()
        || rule.service.is_some()
        || rule.ipset.is_some()
        || rule.mark.is_some()
        || rule.mac.is_some()
        || rule.tcp_flags.is_some()
        || rule.user.is_some()
        || rule.group.is_some()
        || rule.state.as_ref().is_some_and(|states| !has_new(states))
}

/// Whether a rule that chooses no packets has keys that look as if they did.
fn has_other_keys(rule: &policy::Rule) -> bool {
    rule.scope.is_some()
        || rule.state.is_some()
        || rule.stage.is_some()
        || rule.order.is_some()
        || rule.limit.is_some()
        || rule.connections.is_some()
        || rule.schedule.is_some()
        || rule.expires.is_some()
        || rule.log.is_some()
}

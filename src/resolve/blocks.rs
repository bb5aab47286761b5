//! Blocks and the rules in them: a rule of a block has packets only where the block has some.

use super::check;
use super::plan::{Plan, PlannedRule};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::Family;
use crate::policy::{Policy, Scope};
use crate::source::Span;

/// Gives a rule the keys that its block writes for all rules. The packets of the block are chosen apart.
pub fn inherit(rule: &mut PlannedRule, block: &PlannedRule) {
    rule.from.clone_from(&block.from);
    rule.to.clone_from(&block.to);
    rule.stage = block.stage;
    rule.order = block.order;
    rule.enabled &= block.enabled;
}

/// Narrows the rules of blocks to the families in which their block has packets, so that no key of theirs is checked for
/// another family. Reports rules that are for another family only. `sound` tells which rules can be checked.
pub fn narrow(plan: &mut Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for index in 0..plan.rules.len() {
        let rule = &plan.rules[index];
        let Some(block) = rule.in_block else {
            continue;
        };
        let [family] = check::families(plan, &plan.rules[block])[..] else {
            continue;
        };
        match rule.scope {
            Some(Scope::Only(other)) if other != family => {
                let written = policy.rules.get(index).and_then(|rule| rule.scope.as_ref());
                let span = written.map_or(rule.span, |scope| scope.span);
                let is_sound = |index: usize| sound.get(index) == Some(&true);
                if is_sound(index) && is_sound(block) {
                    sink.report(without_packets(span, family, plan.rules[block].span));
                }
            }
            _ => plan.rules[index].scope = Some(Scope::Only(family)),
        }
    }
}

/// Returns the error for a rule in a block that has packets of one family only, of which the rule has none.
pub fn without_packets(span: Span, family: Family, block: Span) -> Diagnostic {
    let message = format!("no packet can match this rule: its block has packets of {family} only");
    Diagnostic::error(Code::MatchesNothing, span, message)
        .also(block, "the block")
        .help("write the rule outside of the block, or remove it")
}

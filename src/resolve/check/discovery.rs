//! IPv6 does not live without neighbour discovery.

use super::pairs;
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Hook, IcmpType, State};
use crate::policy::{DefaultAction, Icmp, Policy, Stage};
use crate::resolve::plan::{Place, Plan, Rule, RuleAction, ServicePart};

/// With `icmp = "none"` the rules themselves must keep neighbour discovery alive, else IPv6 dies.
pub fn neighbour_discovery(plan: &Plan, policy: &Policy, sink: &mut Sink) {
    let Some(written) = &policy.defaults.icmp else {
        return;
    };
    if plan.defaults.icmp != Icmp::None {
        return;
    }
    let denying = [
        (Hook::Input, plan.defaults.input),
        (Hook::Output, plan.defaults.output),
    ];
    for (hook, action) in denying {
        if action == DefaultAction::Accept {
            continue;
        }
        let missing: Vec<_> = (133..=136)
            .filter(|kind| !accepts_everywhere(plan, hook, *kind))
            .map(|kind| kind.to_string())
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "`icmp = \"none\"`, and no rule accepts the ICMPv6 types {} in {hook} on every interface",
                missing.join(", ")
            );
            sink.report(
                Diagnostic::error(Code::IcmpNone, written.span, message)
                    .help("without neighbour discovery (133 to 136) IPv6 stops working")
                    .help("accept them from `any` without addresses, or say `icmp = \"essential-no-ping\"`"),
            );
        }
    }
}

/// Whether the first rule that has every packet of the type in the hook accepts it.
fn accepts_everywhere(plan: &Plan, hook: Hook, kind: u8) -> bool {
    let wanted = IcmpType { kind, code: None };
    let pair = match hook {
        Hook::Input => (Place::Any, Place::Host),
        Hook::Output => (Place::Host, Place::Any),
        Hook::Forward => (Place::Any, Place::Any),
    };
    let covers =
        |part: &ServicePart| matches!(part, ServicePart::Icmpv6(kind) if kind.covers(wanted));
    let decides = |rule: &&Rule| {
        rule.enabled
            && rule.action != RuleAction::Log
            && rule.scope.is_none_or(|scope| scope.has(Family::V6))
            && pairs(rule).contains(&pair)
            && rule.source.is_none()
            && rule.destination.is_none()
            && rule.ipset.is_none()
            && rule.mark.is_none()
            && rule.mac.is_none()
            && rule.tcp_flags.is_none()
            && rule
                .state
                .as_ref()
                .is_none_or(|states| states.contains(&State::Untracked))
            && rule
                .service
                .as_ref()
                .is_none_or(|parts| parts.iter().any(covers))
    };
    let mut rules: Vec<_> = plan.rules.iter().collect();
    rules.sort_by_key(|rule| (rule.stage == Stage::Main, rule.order));
    let first = rules.into_iter().find(decides);
    first.is_some_and(|rule| rule.action == RuleAction::Accept)
}

//! Rules that reject with a TCP reset although they match other protocols: the kernel sends a reset only in answer to TCP.

use crate::analysis::{GaveUp, Space};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Hook, PerFamily, Protocol};
use crate::policy::{Policy, RejectWith};
use crate::resolve::{Finally, Plan, PlannedRule, RuleAction};
use crate::verify::spec::matching::packets;

/// Reports the rules that reject packets of other protocols with a TCP reset, including disabled rules.
pub(super) fn check(policy: &Policy, plan: &Plan, sink: &mut Sink) -> Result<(), GaveUp> {
    let with = PerFamily::from_fn(|_| RejectWith::TcpReset);
    let actions = [
        RuleAction::Reject(with),
        RuleAction::Block(Finally::Reject(with)),
    ];
    for (rule, written) in plan.rules.iter().zip(&policy.rules) {
        if !actions.contains(&rule.action) || is_tcp_only(plan, rule)? {
            continue;
        }
        let span = written.reject_with.as_ref().map(|with| with.span);
        sink.report(
            Diagnostic::error(
                Code::TcpResetNotTcp,
                span.unwrap_or(rule.span),
                "`tcp-reset` on a rule that may match other protocols",
            )
            .help("name only tcp services, or set `reject-with = \"default\"`: a reset for tcp, unreachable for the rest"),
        );
    }
    Ok(())
}

fn is_tcp_only(plan: &Plan, rule: &PlannedRule) -> Result<bool, GaveUp> {
    let rule = PlannedRule {
        enabled: true,
        ..rule.clone()
    };
    for space in Family::ALL.map(Space::new) {
        for hook in Hook::ALL {
            let packets = packets(plan, &rule, &space, hook)?;
            if !space.is_subset(packets, space.protocol(Protocol::TCP)?)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

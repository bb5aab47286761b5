//! Checks `expires`. The generated rules do not depend on the current date, so that builds are reproducible; only these
//! findings do.

use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::{expires_soon, expiring_deny};
use crate::net::Date;
use crate::policy::{Action, Finally, Policy, PolicyRule};

/// The number of days before its end from which a rule is reported.
const SOON: i64 = 14;

/// Reports rules that have expired or expire within [`SOON`] days, and denying rules that expire: these open something
/// when they end.
pub fn check_expiry(policy: &Policy, today: Date, sink: &mut Sink) {
    for (index, rule) in policy.rules.iter().enumerate() {
        let Some(expires) = &rule.expires else {
            continue;
        };
        let (date, span) = (expires.value, expires.span);
        let left = date.duration_since(today).as_hours() / 24;
        if left < 0 {
            sink.report(
                Diagnostic::error(Code::Expired, span, format!("the rule expired on {date}"))
                    .help("remove it, or give it a later date"),
            );
        } else if left <= SOON {
            sink.report(expires_soon::finding(span, left));
        }
        // The rules of a block stand behind it, up to the next one that is in no block.
        let of_block = policy.rules.iter().skip(index + 1);
        let of_block = of_block.take_while(|other| other.in_block.is_some());
        if denies(rule) || of_block.into_iter().any(denies) {
            sink.report(expiring_deny::finding(span));
        }
    }
}

fn denies(rule: &PolicyRule) -> bool {
    let action = rule.action.as_ref().map(|action| action.value);
    let finally = rule.block.as_ref().and_then(|block| block.finally.as_ref());
    let finally = finally.map(|finally| finally.value);
    matches!(action, Some(Action::Drop | Action::Reject))
        || matches!(finally, Some(Finally::Drop | Finally::Reject))
}

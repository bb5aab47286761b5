//! Checks `expires`. The generated rules do not depend on the current date, so that builds are reproducible; only these
//! findings do.

use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::{expires_soon, expiring_deny};
use crate::net::Date;
use crate::policy::{Action, Policy};

/// The number of days before its end from which a rule is reported.
const SOON: i64 = 14;

/// Reports rules that have expired or expire within [`SOON`] days, and denying rules that expire: these open something
/// when they end.
pub fn check_expiry(policy: &Policy, today: Date, sink: &mut Sink) {
    for rule in &policy.rules {
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
        let denies = rule
            .action
            .as_ref()
            .is_some_and(|action| matches!(action.value, Action::Drop | Action::Reject));
        if denies {
            sink.report(expiring_deny::finding(span));
        }
    }
}

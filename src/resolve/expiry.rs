//! Rules that end. What is built does not depend on the day; whether it may still be built does.

use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::{expires_soon, expiring_deny};
use crate::net::Date;
use crate::policy::{Action, Policy};

/// `check` warns so many days before a rule ends.
const SOON: i64 = 14;

/// Reports rules that are past their date, that end soon, and that open something when they end.
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

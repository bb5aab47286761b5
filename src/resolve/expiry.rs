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
        let left = days(today, date);
        if left < 0 {
            sink.report(
                Diagnostic::error(Code::Expired, span, format!("the rule ended on {date}"))
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

fn days(from: Date, to: Date) -> i64 {
    let civil = |date: Date| {
        jiff::civil::Date::new(
            date.year.cast_signed(),
            date.month.cast_signed(),
            date.day.cast_signed(),
        )
        .unwrap_or(jiff::civil::Date::ZERO)
    };
    civil(to).duration_since(civil(from)).as_hours() / 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_between_dates() {
        let date = |year, month, day| Date { year, month, day };
        assert_eq!(days(date(2028, 2, 28), date(2028, 3, 1)), 2);
        assert_eq!(days(date(2027, 1, 1), date(2026, 12, 31)), -1);
        assert_eq!(days(date(1970, 1, 1), date(2038, 1, 18)), 24_854);
    }
}

//! Found by `resolve/expiry.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule that expires soon.
pub const LINT: Lint = Lint::warning(Code::ExpiresSoon);

/// Reports a rule that ends in so many days, at its date.
pub fn finding(span: Span, days: i64) -> Diagnostic {
    let when = match days {
        0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        _ => format!("in {days} days"),
    };
    LINT.at(span, format!("the rule ends {when}"))
        .with_note("the kernel itself ends it at the end of that day, UTC")
}

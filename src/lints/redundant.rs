//! Found by `verify/lints`: `seen.rs` for rules, `entries.rs` for entries; of a rules file by `cli/check/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule or entry without which no packet would be treated otherwise.
pub const LINT: Lint = Lint::note(Code::Redundant);

/// Reports a `rule` or an `entry`.
pub fn finding(span: Span, what: &str) -> Diagnostic {
    LINT.at(
        span,
        format!("without this {what} no packet would be treated otherwise"),
    )
}

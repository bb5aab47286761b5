//! Found by `verify/lints`: `seen.rs` for rules, `entries.rs` for entries; of a rules file by `cli/check/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule or entry whose removal changes nothing for any packet.
pub const LINT: Lint = Lint::note(Code::Redundant);

/// Reports `this rule`, `this entry`, or the first of `these 2 rules`.
pub fn finding(span: Span, subject: &str) -> Diagnostic {
    LINT.at(
        span,
        format!("removing {subject} changes nothing for any packet"),
    )
}

//! Found by `verify/lints`: `seen.rs` for rules, `entries.rs` for entries; of a rules file by `cli/check/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule or entry that no real packet can match.
pub const LINT: Lint = Lint::warning(Code::NeverMatches);

/// Reports a rule or entry, with the reason in words.
pub fn finding(span: Span, why: String) -> Diagnostic {
    LINT.at(span, why)
}

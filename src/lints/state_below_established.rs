//! Found by `verify/lints/seen.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule for states that `established = true` has accepted before.
pub const LINT: Lint = Lint::warning(Code::StateBelowEstablished);

/// Reports the states of a rule.
pub fn finding(span: Span) -> Diagnostic {
    let message = "no packet of these states reaches this rule: `established = true` accepts them before the rules";
    LINT.at(span, message)
        .help("leave the rule out, or set `established = false` under [defaults]")
}

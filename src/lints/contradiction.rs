//! Found by `verify/lints/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule that denies, right behind one that accepted some of it.
pub const LINT: Lint = Lint::note(Code::Contradiction);

/// Reports the rule that denies, with the one that accepts and a packet of both; each rule by its place and what it is called.
pub fn finding(denies: (Span, &str), accepts: (Span, &str), packet: String) -> Diagnostic {
    let message = format!(
        "{} comes too late for some of what it denies: {} has accepted it",
        denies.1, accepts.1
    );
    LINT.at(denies.0, message)
        .also(accepts.0, "accepts it before")
        .with_note(format!("one such packet: {packet}"))
        .help("move the rule that denies before the other one, if it is meant to win")
}

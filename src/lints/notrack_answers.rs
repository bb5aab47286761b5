//! Found by `verify/checks/untracked.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// `answers` of a `notrack` entry that anyone can forge, or that no rule lets in.
pub const LINT: Lint = Lint::warning(Code::NotrackAnswers);

/// Reports `answers` of an entry, where a rule accepts the questions.
pub fn forged(span: Span) -> Diagnostic {
    LINT.at(span, "anyone who forges the source port comes in by this")
        .help("name in `destination` the hosts that are asked, so that only they can")
}

/// Reports `answers` of an entry, where no rule accepts the questions.
pub fn unasked(span: Span) -> Diagnostic {
    let message =
        "no rule accepts the questions, so that no answer comes in: a default is not enough";
    LINT.at(span, message)
        .help("write the rule, `from = \"host\"` with the service")
}

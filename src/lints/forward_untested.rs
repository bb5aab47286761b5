//! Found by `resolve/lints.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// Rules that let packets pass through this host, without a test of them.
pub const LINT: Lint = Lint::note(Code::ForwardUntested);

/// Reports the first rule or entry that lets something pass through.
pub fn finding(span: Span) -> Diagnostic {
    LINT.at(span, "no test is about what passes through this host")
        .help("write one that says what must not pass: `from`, `to`, `expect = \"deny\"`")
}

//! Found by `resolve/lints.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule from `any` to `any`, which matches only what passes through this host.
pub const LINT: Lint = Lint::warning(Code::AnyIsForward);

/// Reports the `to` of a rule.
pub fn finding(span: Span) -> Diagnostic {
    let message = "from `any` to `any` is what passes through this host, and nothing else";
    LINT.at(span, message)
        .help("what comes to this host is `to = \"host\"`; both is `to = [\"any\", \"host\"]`")
}

//! Found by `policy/allow.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A comment that allows what is not found.
pub const LINT: Lint = Lint::warning(Code::UnusedAllow);

/// Reports the code in a comment.
pub fn finding(span: Span, allowed: Code) -> Diagnostic {
    LINT.at(span, format!("`{}` is not found below", allowed.as_str()))
        .with_note("the comment silences nothing")
        .help("remove it")
}

//! Found by `resolve/lints.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A list of addresses that becomes many lines.
pub const LINT: Lint = Lint::warning(Code::LargeList);

/// Reports a list, or the group of addresses in it.
pub fn finding(span: Span, lines: usize) -> Diagnostic {
    let message = format!("the list becomes {lines} lines in each rule that names it");
    LINT.at(span, message)
        .help("a group with `set = true` is one line, and the kernel looks it up at once")
}

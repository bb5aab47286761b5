//! Found by `resolve/lints.rs`; of a rules file by `cli/check/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A name that nothing uses.
pub const LINT: Lint = Lint::note(Code::UnusedName);

/// Reports the name of what a policy defines: an interface, a zone and so on.
pub fn finding(span: Span, what: &str, name: &str) -> Diagnostic {
    LINT.at(span, format!("nothing uses the {what} `{name}`"))
        .help("remove it, or use it")
}

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

/// Reports the first rule of chains that no packet reaches, such as ``the chain `MAIL` `` with `its rule does nothing`.
pub fn unreached(span: Span, chains: &str, does: &str) -> Diagnostic {
    LINT.at(span, format!("no packet reaches {chains}: {does}"))
}

//! Found by `verify/lints`: `rules.rs` for rules, `exposed.rs` for translations.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A port that is open to everybody and should not be.
pub const LINT: Lint = Lint::warning(Code::WorldOpen);

/// Reports a rule that opens a port, such as `tcp 5432` of `PostgreSQL`.
pub fn rule(span: Span, name: &str, port: &str) -> Diagnostic {
    with_help(LINT.at(span, format!("{name} ({port}) is open to everybody")))
}

/// Reports a translation that opens a port.
pub fn translation(span: Span, name: &str, port: &str) -> Diagnostic {
    let message = format!("{name} ({port}) is open to everybody by this translation");
    with_help(LINT.at(span, message))
}

fn with_help(finding: Diagnostic) -> Diagnostic {
    finding.help(
        "say who may: `from` a zone, or `source` an address group; \
         `world-open = \"allow\"` under [lints] where that is meant",
    )
}

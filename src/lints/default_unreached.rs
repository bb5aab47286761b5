//! Found by `verify/lints/mod.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic, Severity};
use crate::source::Span;

/// A default that no packet reaches.
pub const LINT: Lint = Lint::warning(Code::DefaultUnreached);

/// Reports the rule that decides all that is left for the default of a key; it is milder where both do the same.
pub fn finding(span: Span, key: &str, does_same: bool, default: Option<Span>) -> Diagnostic {
    let message =
        format!("no packet reaches the default of {key}: this rule decides all that is left");
    let mut finding = LINT.at(span, message);
    if does_same {
        finding.severity = Severity::Note;
    }
    if let Some(default) = default {
        finding = finding.also(default, "the default");
    }
    finding.help(format!(
        "narrow the rule, or say it as the default: `{key} = ...` under [defaults]"
    ))
}

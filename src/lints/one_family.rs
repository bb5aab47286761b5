//! Found by `resolve/check/keys.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic, Severity};
use crate::net::Family;
use crate::source::Span;

/// A rule for both families whose addresses exist in one only.
pub const LINT: Lint = Lint::note(Code::OneFamily);

/// Reports the key of a rule that has no address of a family. Where the rule denies, hosts pass over that family.
pub fn finding(span: Span, key: &str, lacking: Family, denies: bool) -> Diagnostic {
    let other = match lacking {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let message = format!("the rule is for {other} only: `{key}` has no {lacking} address");
    let mut finding = LINT.at(span, message);
    if denies {
        finding.severity = Severity::Warning;
        finding = finding.with_note(format!("the same hosts are not denied over {lacking}"));
    }
    let scope = other.keyword();
    finding.help(format!("say `scope = \"{scope}\"` when that is meant"))
}

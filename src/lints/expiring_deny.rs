//! Found by `resolve/expiry.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule that denies packets, and expires.
pub const LINT: Lint = Lint::warning(Code::ExpiringDeny);

/// Reports such a rule at its date.
pub fn finding(span: Span) -> Diagnostic {
    let message = "this rule denies and expires: what it denies may be open from then on";
    LINT.at(span, message)
        .help("leave `expires` out unless that is meant")
}

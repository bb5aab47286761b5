//! Found by `resolve/ownership.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A default of forward that holds for no packet.
pub const LINT: Lint = Lint::warning(Code::ForwardNoDevices);

/// Reports the default.
pub fn finding(span: Span) -> Diagnostic {
    let message = "this default holds for no packet: the policy has no interfaces";
    LINT.at(span, message)
        .with_note("in shared mode it holds between devices of the policy only")
        .help("name them under [interfaces]")
}

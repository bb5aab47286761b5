//! Found by `resolve/check/definitions.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// An interface that has the loopback device.
pub const LINT: Lint = Lint::warning(Code::InterfaceLo);

/// Reports the device of an interface of this name.
pub fn finding(span: Span, interface: &str) -> Diagnostic {
    LINT.at(span, format!("`{interface}` has the loopback device"))
        .with_note("with `loopback = true` everything on lo passes before the rules are asked")
}

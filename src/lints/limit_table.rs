//! Found by `resolve/lints.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A limit with `hits`, whose table is small.
pub const LINT: Lint = Lint::note(Code::LimitTable);

/// Reports a limit with `hits`.
pub fn finding(span: Span) -> Diagnostic {
    LINT.at(
        span,
        "the kernel keeps 100 addresses for this limit, and forgets the oldest for a new one",
    )
    .with_note("a sender that uses more addresses than that is never over the limit")
    .help("`options xt_recent ip_list_tot=10000` in /etc/modprobe.d makes the kernel keep more")
    .help("or write a `rate` instead of `hits`: its table grows with the addresses")
}

//! Found by `resolve/lints.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A list of `recent` that rules of both families use.
pub const LINT: Lint = Lint::warning(Code::RecentFamilies);

/// Reports the use in IPv6 of a list that IPv4 rules use, too, and the place of that one if it is another.
pub fn finding(span: Span, name: &str, other: Span) -> Diagnostic {
    let message = format!(
        "the list `{}` is also one of IPv4 rules, so that it counts IPv6 addresses by their first 32 bits",
        name.escape_debug()
    );
    let mut finding = LINT
        .at(span, message)
        .with_note("a list of `recent` belongs to both families, and has the mask of the rule that made it")
        .help("give the rule a `scope`, and the list of the other family a `--name` of its own");
    if other != span {
        finding = finding.also(other, "the list in IPv4");
    }
    finding
}

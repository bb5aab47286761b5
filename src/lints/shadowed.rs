//! Found by `verify/lints`: `seen.rs` for rules, `entries.rs` and `denied.rs` for entries; of a rules file by
//! `cli/check/rules.rs`.

use super::Lint;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;

/// A rule or entry that does nothing, because others decide all of its packets.
pub const LINT: Lint = Lint::warning(Code::Shadowed);

/// Reports a rule, or the first of so many, all of whose packets earlier rules decide.
pub fn by_rules(span: Span, count: usize) -> Diagnostic {
    let (subject, it, its) = match count {
        1 => ("this rule".to_owned(), "it", "its"),
        more => (format!("these {more} rules"), "them", "their"),
    };
    let help = format!("remove {it}, or move {it} before the rules that decide {its} packets");
    LINT.at(span, format!("no packet reaches {subject}"))
        .help(help)
}

/// Reports a rule all of whose packets the preamble decides: it accepts them, or decides them in several ways.
pub fn by_preamble(span: Span, accepts: bool, is_icmp: bool) -> Diagnostic {
    let does = if accepts { "accepts" } else { "decides" };
    let message =
        format!("no packet reaches this rule: what comes before all rules {does} its packets");
    let mut finding = LINT.at(span, message);
    if is_icmp {
        finding = finding
            .help("`icmp = \"essential-no-ping\"` under [defaults] leaves ping to the rules");
    }
    finding.help("use `stage = \"early\"`, or change what [defaults] accepts")
}

/// Reports an entry all of whose packets other entries take.
pub fn entry(span: Span) -> Diagnostic {
    LINT.at(span, "no packet is left for this entry")
}

/// Reports an entry whose changes other entries overwrite.
pub fn overwritten(span: Span) -> Diagnostic {
    LINT.at(span, "other entries overwrite what this entry sets")
}

/// Reports a translation after which all packets are denied.
pub fn denied(span: Span) -> Diagnostic {
    LINT.at(span, "no packet that this entry translates gets through")
}

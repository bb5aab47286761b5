//! The names of the tables in which the limits of rules count: nothing else in the policy may count there.

use crate::diag::{Code, Diagnostic};
use crate::iptables::Match;
use crate::source::Span;

/// The prefixes of the names of fwc's own tables of `hashlimit` and `recent`.
const OWN: [&str; 3] = ["fwc-", "fwc4-", "fwc6-"];

/// Returns the option and the name by which one of some matches uses a table that is fwc's own.
pub fn used(matches: &[Match]) -> Option<(&'static str, String)> {
    matches.iter().find_map(|condition| {
        let Match::Other(module) = condition else {
            return None;
        };
        let (option, shown) = match module.name {
            "recent" => ("name", "--name"),
            "hashlimit" => ("hashlimit-name", "--hashlimit-name"),
            _ => return None,
        };
        let name = module.setting(option)?.value.trim_matches('"').to_owned();
        let is_own = OWN.iter().any(|prefix| name.starts_with(prefix));
        is_own.then_some((shown, name))
    })
}

/// Returns the error for a table that is fwc's own.
pub fn reserved(span: Span, (option, name): (&str, &str)) -> Diagnostic {
    let message = format!("the name `{}` is reserved", name.escape_debug());
    Diagnostic::error(Code::ReservedName, span, message)
        .with_note(
            "the limits of rules count in tables whose names begin with `fwc-`, `fwc4-` or `fwc6-`",
        )
        .help(format!("choose another name for `{option}`"))
}

//! Unified diffs of rules and sets, for people.

use crate::diag::{Style, harmless};
use crate::diff::{self, TextSide};
use crate::live::Ipsets;
use crate::net::{Family, PerFamily};

/// Returns the diff of two groups of sets; empty if they are equal. `names` are those of the two sides, for its head.
pub(super) fn sets(
    from: &Ipsets,
    to: &Ipsets,
    [from_name, to_name]: [&str; 2],
    style: Style,
) -> String {
    let (from_name, to_name) = (format!("{from_name} (sets)"), format!("{to_name} (sets)"));
    let diff = diff::unified(
        TextSide {
            name: &from_name,
            text: &from.text(),
        },
        TextSide {
            name: &to_name,
            text: &to.text(),
        },
        style,
    );
    diff.unwrap_or_default()
}

/// Returns the diff of the rules of both families; empty if they are equal. Anybody may have written the live rules, so
/// characters that a terminal would obey are replaced.
pub(super) fn rules(
    from: &PerFamily<String>,
    to: &PerFamily<String>,
    [from_name, to_name]: [&str; 2],
    style: Style,
) -> String {
    Family::ALL
        .into_iter()
        .filter_map(|family| {
            diff::unified(
                TextSide {
                    name: &format!("{from_name} ({family})"),
                    text: &harmless(&from[family]),
                },
                TextSide {
                    name: &format!("{to_name} ({family})"),
                    text: &harmless(&to[family]),
                },
                style,
            )
        })
        .collect()
}

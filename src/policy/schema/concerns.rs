//! `[concerns]`: what of the host is meant, so that `apply`, `status` and `check --live` do not warn about it.

use std::collections::HashMap;

use super::names::{OVERRIDE, set_twice};
use crate::diag::{Code, ConcernName, Diagnostic, Sink, did_you_mean};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

/// What to do about a concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcernLevel {
    /// It is meant: say nothing.
    Allow,
    /// Warn.
    Warn,
}

const LEVELS: &[(&str, ConcernLevel)] =
    &[("allow", ConcernLevel::Allow), ("warn", ConcernLevel::Warn)];

pub(super) const SECTION: Key = Key::new(
    "concerns",
    Shape::Names {
        names: concerns,
        each: &Shape::Word(&LEVELS),
        keys: &KEYS,
    },
    "What `apply`, `status` and `check --live` find on the host: `allow` what is meant.",
)
.example("{ published-port = 'allow' }");

const KEYS: TableKeys = TableKeys {
    of: "[concerns]",
    known: &[OVERRIDE],
};

fn concerns() -> Vec<(&'static str, String)> {
    let names = ConcernName::ALL.iter();
    names
        .map(|name| (name.as_str(), name.about().to_owned()))
        .collect()
}

/// The levels that the policy sets, each with its place.
pub type PolicyConcerns = HashMap<ConcernName, Located<ConcernLevel>>;

pub(super) fn read(root: CheckedTable<'_>, concerns: &mut PolicyConcerns, sink: &mut Sink) {
    let Some(value) = root.get("concerns") else {
        return;
    };
    let Some(table) = value.table("concerns", sink) else {
        return;
    };
    let overrides = table
        .boolean("override", sink)
        .is_some_and(|flag| flag.value);
    let is_name = |name: &str| KEYS.names().all(|key| key != name);
    for (written, value) in table.entries().filter(|(name, _)| is_name(name.value)) {
        let Some(name) = ConcernName::named(written.value) else {
            let message = format!("no concern is called `{}`", written.value.escape_debug());
            let known = ConcernName::ALL.iter().map(|name| name.as_str());
            sink.report(
                Diagnostic::error(Code::UnknownKey, written.span, message)
                    .suggest(did_you_mean(written.value, known)),
            );
            continue;
        };
        let Some(level) = value.word(written.value, LEVELS, sink) else {
            continue;
        };
        match concerns.get(&name) {
            Some(earlier) if !overrides => {
                let places = [earlier.span, written.span];
                sink.report(set_twice("concerns", written.value, places));
            }
            _ => {
                concerns.insert(name, Located::new(level.value, written.span));
            }
        }
    }
}

//! `[lints]`: severities of lints.

use std::collections::HashMap;

use super::names::{OVERRIDE, set_twice};
use crate::diag::{Code, Diagnostic, Level, Sink, did_you_mean};
use crate::lints::{ALL, Lint};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

const LEVELS: &[(&str, Level)] = &[
    ("allow", Level::Allow),
    ("warn", Level::Warn),
    ("deny", Level::Deny),
];

pub(super) const SECTION: Key = Key::new(
    "lints",
    Shape::Names {
        names: lints,
        each: &Shape::Word(&LEVELS),
        keys: &KEYS,
    },
    "What to do with findings that are a matter of taste.",
)
.example("{ large-list = 'allow' }");

const KEYS: TableKeys = TableKeys {
    of: "[lints]",
    known: &[OVERRIDE],
};

/// Returns the lints, each with what its page begins with.
fn lints() -> Vec<(&'static str, String)> {
    let lints = ALL.iter();
    lints.map(|lint| (lint.name(), lint.about())).collect()
}

/// The severities that the policy sets, each with its place.
pub type Lints = HashMap<Code, Located<Level>>;

pub(super) fn read(root: CheckedTable<'_>, lints: &mut Lints, sink: &mut Sink) {
    let Some(value) = root.get("lints") else {
        return;
    };
    let Some(table) = value.table("lints", sink) else {
        return;
    };
    let overrides = table
        .boolean("override", sink)
        .is_some_and(|flag| flag.value);
    let is_lint = |name: &str| KEYS.names().all(|key| key != name);
    for (name, value) in table.entries().filter(|(name, _)| is_lint(name.value)) {
        let Some(code) = lint(&name, sink) else {
            continue;
        };
        let Some(level) = value.word(name.value, LEVELS, sink) else {
            continue;
        };
        match lints.get(&code) {
            Some(earlier) if !overrides => {
                sink.report(set_twice("lints", name.value, [earlier.span, name.span]));
            }
            _ => {
                lints.insert(code, Located::new(level.value, name.span));
            }
        }
    }
}

fn lint(name: &Located<&str>, sink: &mut Sink) -> Option<Code> {
    if let Some(lint) = Lint::named(name.value) {
        return Some(lint.code);
    }
    let mut codes = Code::ALL.iter();
    let finding = if codes.any(|code| code.as_str() == name.value) {
        let message = format!("`{}` is always an error", name.value);
        Diagnostic::error(Code::BadValue, name.span, message)
            .with_note("only lints have a severity of your choice")
    } else {
        let message = format!("no lint is called `{}`", name.value.escape_debug());
        Diagnostic::error(Code::UnknownKey, name.span, message)
            .suggest(did_you_mean(name.value, Lint::names()))
    };
    sink.report(finding);
    None
}

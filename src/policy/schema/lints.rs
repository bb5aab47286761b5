//! `[lints]`: severities of lints.

use std::collections::HashMap;

use super::names::{OVERRIDE, set_twice};
use crate::diag::{Code, Diagnostic, Level, Sink, did_you_mean};
use crate::policy::keys::{Key, Keys, Shape};
use crate::policy::reader::Table;
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

const KEYS: Keys = Keys {
    of: "[lints]",
    known: &[OVERRIDE],
};

/// Returns all lints, each with the first sentence of its page.
fn lints() -> Vec<(&'static str, String)> {
    let lints = Code::ALL.iter().filter(|code| code.is_lint());
    let about = |code: &Code| {
        let paragraph = code.page().split("\n\n").nth(1).unwrap_or_default();
        paragraph.replace('\n', " ")
    };
    lints.map(|code| (code.as_str(), about(code))).collect()
}

/// The severities that the policy sets, each with its place.
pub type Lints = HashMap<Code, Located<Level>>;

pub(super) fn read(root: Table<'_>, lints: &mut Lints, sink: &mut Sink) {
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
    let found = Code::ALL.iter().find(|code| code.as_str() == name.value);
    match found {
        Some(code) if code.is_lint() => return Some(*code),
        Some(_) => {
            let message = format!("`{}` is always an error", name.value);
            sink.report(
                Diagnostic::error(Code::BadValue, name.span, message)
                    .with_note("only lints have a severity of your choice"),
            );
        }
        None => {
            let lints = Code::ALL.iter().filter(|code| code.is_lint());
            let message = format!("no lint is called `{}`", name.value.escape_debug());
            sink.report(
                Diagnostic::error(Code::UnknownKey, name.span, message)
                    .suggest(did_you_mean(name.value, lints.map(|code| code.as_str()))),
            );
        }
    }
    None
}

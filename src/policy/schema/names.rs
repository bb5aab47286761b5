//! Checks of names and free texts.

use crate::diag::{Code, Diagnostic, Sink, is_harmful};
use crate::policy::keys::{Key, Shape};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::policy::{Definition, Definitions};
use crate::source::{Located, Span};

/// The form of a name, as a regular expression.
macro_rules! name_form {
    () => {
        "[A-Za-z][A-Za-z0-9_.-]*"
    };
}
pub(super) use name_form;

/// A name that the user chooses.
pub const NAME: Shape = Shape::Form(name_form!());
/// Names that users may not choose for interfaces, zones, addresses, users and groups: rules use them as words.
pub const RESERVED: &[&str] = &["any", "host"];

/// The key `override` of every table that may replace an earlier one.
pub const OVERRIDE: Key = Key::new(
    "override",
    Shape::Boolean,
    "Whether this table wins over an earlier one of the same name, of an included file for example.",
)
.default("false");

/// Returns `true` if the text is a valid name: `[A-Za-z][A-Za-z0-9_.-]*`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Reads a table of definitions such as `[services]`, entry by entry.
pub fn read_definitions<T>(
    root: CheckedTable<'_>,
    section: &str,
    definitions: &mut Definitions<T>,
    sink: &mut Sink,
    read: impl Fn(&Located<String>, FileValue<'_>, &mut Sink) -> Option<T>,
) {
    let Some(value) = root.get(section) else {
        return;
    };
    let Some(table) = value.table(section, sink) else {
        return;
    };
    for (name, value) in table.entries() {
        let good = check_name(&name, section, sink);
        let name = name.map(str::to_owned);
        let overrides = value
            .as_table()
            .and_then(|table| table.boolean("override", sink))
            .is_some_and(|flag| flag.value);
        let Some(read) = read(&name, value, sink).filter(|_| good) else {
            definitions.refuse(name.value);
            continue;
        };
        let definition = Definition {
            name: name.clone(),
            value: read,
            overrides,
        };
        if let Err(earlier) = definitions.insert(definition) {
            sink.report(
                Diagnostic::error(
                    Code::NameUsedTwice,
                    name.span,
                    format!("`{}` is defined twice in [{section}]", name.value),
                )
                .also(earlier, "first defined here")
                .help("write it as a table with `override = true` where the later one is meant to win"),
            );
        }
    }
}

/// Returns the error for a key of a section that an earlier file already set, given both places, the earlier one first.
pub fn set_twice(section: &str, key: &str, [earlier, now]: [Span; 2]) -> Diagnostic {
    let message = format!("`{key}` in [{section}] is set twice");
    Diagnostic::error(Code::NameUsedTwice, now, message)
        .also(earlier, "first set here")
        .help(format!(
            "say `override = true` in the later [{section}] where it is meant to win"
        ))
}

fn check_name(name: &Located<&str>, section: &str, sink: &mut Sink) -> bool {
    if RESERVED.contains(&name.value) && section != "services" && section != "log" {
        let message = format!("the name `{}` is reserved", name.value);
        sink.report(
            Diagnostic::error(Code::ReservedName, name.span, message)
                .with_note("`any` is everything, `host` is this machine")
                .help("choose another name"),
        );
        return false;
    }
    if !is_name(name.value) {
        let message = format!("`{}` is not a valid name", name.value.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadName, name.span, message).with_note(
                "a name begins with a letter and goes on with letters, digits, `_`, `.` and `-`",
            ),
        );
        return false;
    }
    true
}

/// Reports a text that must not reach iptables or a terminal: one with control characters, or with Unicode characters
/// that are invisible or change the writing direction. Returns `true` if the text is harmless.
pub fn harmless_text(key: &str, text: &Located<&str>, sink: &mut Sink) -> bool {
    let Some(bad) = text.value.chars().find(|c| is_harmful(*c)) else {
        return true;
    };
    let message = format!(
        "`{key}` has the character U+{:04X}, which could end the line or hide text",
        u32::from(bad)
    );
    sink.report(
        Diagnostic::error(Code::BadText, text.span, message)
            .help("leave out control characters and invisible ones"),
    );
    false
}

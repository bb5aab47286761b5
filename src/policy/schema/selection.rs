//! Keys with one value or several, of which a packet must have one; or with their negation.

use super::addresses::NOT;
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// The values of a key: a packet must have one of them, or none if the key is negated.
#[derive(Clone, Debug)]
pub struct Selection<T> {
    /// The values, at least one.
    pub values: Vec<Located<T>>,
    /// `true` if the key means every packet that has none of them.
    pub negated: bool,
    /// The place of the whole value.
    pub span: Span,
}

/// One value of a key, without the `!` before it.
#[derive(Clone, Copy)]
pub(super) struct Operand<'t> {
    /// The value as written.
    pub value: FileValue<'t>,
    /// What stands behind the `!`, if there is one.
    pub behind_not: Option<&'t str>,
}

impl<'t> Operand<'t> {
    /// Returns the string, without `!`; reports an error for another type.
    pub fn text(self, key: &str, sink: &mut Sink) -> Option<Located<&'t str>> {
        match self.behind_not {
            Some(rest) => Some(Located::new(rest, self.value.span)),
            None => self.value.text(key, sink),
        }
    }
}

/// Reads a key with a value, a list, `"!value"`, or `{ not = [...] }`, if the table has it. `read` reads one value. If a
/// value is refused, there is no selection: without the value it would mean something else.
pub(super) fn read_selection<T>(
    table: CheckedTable<'_>,
    key: &str,
    sink: &mut Sink,
    read: impl Fn(Operand<'_>, &mut Sink) -> Option<Located<T>>,
) -> Option<Selection<T>> {
    let value = table.get(key)?;
    if let Some(one) = read_negation(value, sink, &read) {
        return one;
    }
    let (list, negated) = match value.as_table() {
        None => (value.list(key, sink)?, false),
        Some(table) => {
            let is_misspelt = |name: &str| did_you_mean(name, ["not"]).is_some();
            let mut names = table.entries().map(|(name, _)| name.value);
            if table.get("not").is_none() && !names.any(is_misspelt) {
                value.wrong_type(key, "a value, a list, or `{ not = [...] }`", sink);
                return None;
            }
            table.check(NOT, sink);
            (table.get("not")?.list("not", sink)?, true)
        }
    };
    let values = list.iter().filter_map(|value| {
        if let Some(rest) = behind_not(*value) {
            sink.report(misplaced(key, *value, rest));
            return None;
        }
        let (value, behind_not) = (*value, None);
        read(Operand { value, behind_not }, sink)
    });
    let values: Vec<_> = values.collect();
    (values.len() == list.len()).then_some(Selection {
        values,
        negated,
        span: value.span,
    })
}

/// Reads a key with one value, or with `"!value"`, if the table has it.
pub(super) fn read_one<T>(
    table: CheckedTable<'_>,
    key: &str,
    sink: &mut Sink,
    read: impl Fn(Operand<'_>, &mut Sink) -> Option<Located<T>>,
) -> Option<Selection<T>> {
    let value = table.get(key)?;
    if let Some(one) = read_negation(value, sink, &read) {
        return one;
    }
    let behind_not = None;
    Some(Selection {
        values: vec![read(Operand { value, behind_not }, sink)?],
        negated: false,
        span: value.span,
    })
}

/// Reads `"!value"`; `None` if there is no `!`.
fn read_negation<T>(
    value: FileValue<'_>,
    sink: &mut Sink,
    read: &impl Fn(Operand<'_>, &mut Sink) -> Option<Located<T>>,
) -> Option<Option<Selection<T>>> {
    let behind_not = Some(behind_not(value)?);
    let one = read(Operand { value, behind_not }, sink);
    Some(one.map(|one| Selection {
        values: vec![one],
        negated: true,
        span: value.span,
    }))
}

fn behind_not(value: FileValue<'_>) -> Option<&str> {
    Some(value.as_text()?.strip_prefix('!')?.trim_start())
}

/// Returns the error for a `!` in a list.
fn misplaced(key: &str, value: FileValue<'_>, rest: &str) -> Diagnostic {
    let message = format!(
        "`!` stands before a single value that is the whole of `{key}`, not before `{}` in a list",
        rest.escape_debug()
    );
    // Numbers are written without quotes.
    let is_number = rest.parse::<u32>().is_ok();
    let shown = match is_number {
        true => rest.to_owned(),
        false => format!("\"{}\"", rest.escape_debug()),
    };
    Diagnostic::error(Code::BadValue, value.span, message).help(format!(
        "everything but some values is `{key} = {{ not = [{shown}, ...] }}`"
    ))
}

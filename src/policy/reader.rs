//! Reads TOML tables with precise errors: every key must be known and every value of its type, and all problems of a
//! file are reported at once.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::habits;
use super::keys::TableKeys;
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::Date;
use crate::source::{FileId, Located, Span};

/// A value of the file with its place.
#[derive(Clone, Copy, Debug)]
pub struct FileValue<'t> {
    value: &'t DeValue<'t>,
    /// The place of the value.
    pub span: Span,
}

/// A table of the file with its place.
#[derive(Clone, Copy, Debug)]
pub struct CheckedTable<'t> {
    table: &'t DeTable<'t>,
    file: FileId,
    /// The place of the table.
    pub span: Span,
}

impl<'t> CheckedTable<'t> {
    /// Returns the root table of a file.
    pub fn root(table: &'t Spanned<DeTable<'t>>, file: FileId) -> Self {
        Self {
            table: table.get_ref(),
            file,
            span: Span::new(file, table.span()),
        }
    }

    /// Returns all entries, name and value, in the order of the file. The parser itself sorts keys by name.
    pub fn entries(self) -> impl Iterator<Item = (Located<&'t str>, FileValue<'t>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries.into_iter().map(move |(key, value)| {
            let name = Located::new(key.get_ref().as_ref(), Span::new(self.file, key.span()));
            (name, FileValue::new(value, self.file))
        })
    }

    /// Reports every key that is not among `keys`. Returns `true` if all keys are known. If not, a missing key is not
    /// worth a second error: it was probably misspelt.
    pub fn check(self, keys: TableKeys, sink: &mut Sink) -> bool {
        let errors = sink.errors();
        for (name, value) in self.entries() {
            if keys.names().any(|known| known == name.value) {
                continue;
            }
            let shown = name.value;
            let near = did_you_mean(shown, keys.names());
            let message = format!("{} has no key `{shown}`", keys.of);
            let known = keys.names().collect::<Vec<_>>().join("`, `");
            let diagnostic = Diagnostic::error(Code::UnknownKey, name.span, message);
            let knows = |key: &str| keys.names().any(|known| known == key);
            // A line that can be pasted helps more than the nearest key: `port` is near no key, but `service` is meant.
            let line = habits::line_for(self, shown, value, knows);
            sink.report(match (line, near) {
                (Some(line), _) => diagnostic.help(format!("write {line}")),
                (None, Some(_)) => diagnostic.suggest(near),
                (None, None) => diagnostic.with_note(format!("the keys are `{known}`")),
            });
        }
        sink.errors() == errors
    }

    /// Returns the value of a key.
    pub fn get(self, key: &str) -> Option<FileValue<'t>> {
        let (_, value) = self.table.get_key_value(key)?;
        Some(FileValue::new(value, self.file))
    }

    /// Returns the place of a key itself; that of the table if it has no such key.
    pub fn key_span(self, key: &str) -> Span {
        self.table
            .get_key_value(key)
            .map_or(self.span, |(key, _)| Span::new(self.file, key.span()))
    }

    /// Reads a string, if the table has the key.
    pub fn text(self, key: &str, sink: &mut Sink) -> Option<Located<&'t str>> {
        self.get(key)?.text(key, sink)
    }

    /// Reads `true` or `false`, if the table has the key.
    pub fn boolean(self, key: &str, sink: &mut Sink) -> Option<Located<bool>> {
        self.get(key)?.boolean(key, sink)
    }

    /// Reads one of some words, if the table has the key.
    pub fn word<T: Copy>(
        self,
        key: &str,
        words: &[(&str, T)],
        sink: &mut Sink,
    ) -> Option<Located<T>> {
        self.get(key)?.word(key, words, sink)
    }

    /// Reads a list of values or a single value, if the table has the key. The result is never empty.
    pub fn list(self, key: &str, sink: &mut Sink) -> Option<Vec<FileValue<'t>>> {
        self.get(key)?.list(key, sink)
    }

    /// Reads a list of strings or a single string, if the table has the key. The result is only empty if an error was
    /// reported.
    pub fn texts(self, key: &str, sink: &mut Sink) -> Option<Vec<Located<&'t str>>> {
        let list = self.list(key, sink)?;
        Some(
            list.into_iter()
                .filter_map(|value| value.text(key, sink))
                .collect(),
        )
    }
}

impl<'t> FileValue<'t> {
    fn new(value: &'t Spanned<DeValue<'t>>, file: FileId) -> Self {
        Self {
            value: value.get_ref(),
            span: Span::new(file, value.span()),
        }
    }

    /// Returns the string, if the value is one.
    pub fn as_text(self) -> Option<&'t str> {
        self.value.as_str()
    }

    /// Returns the table, if the value is one.
    pub fn as_table(self) -> Option<CheckedTable<'t>> {
        Some(CheckedTable {
            table: self.value.as_table()?,
            file: self.span.file,
            span: self.span,
        })
    }

    /// Returns the elements, if the value is an array.
    pub fn as_array(self) -> Option<Vec<Self>> {
        let array = self.value.as_array()?;
        Some(
            array
                .iter()
                .map(|value| Self::new(value, self.span.file))
                .collect(),
        )
    }

    /// Returns the boolean, if the value is one.
    pub fn as_boolean(self) -> Option<bool> {
        self.value.as_bool()
    }

    /// Returns the whole number, if the value is one that fits 64 bits.
    pub fn as_integer(self) -> Option<i64> {
        let integer = self.value.as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// Returns the date, if the value is one without a time.
    pub fn as_date(self) -> Option<Date> {
        let datetime = self.value.as_datetime()?;
        let date = datetime.date.filter(|_| datetime.time.is_none())?;
        let (month, day) = (date.month.cast_signed(), date.day.cast_signed());
        Date::new(date.year.cast_signed(), month, day).ok()
    }

    /// Reports that the value of `key` has the wrong type; `wanted` is the right one, for the message.
    pub fn wrong_type(self, key: &str, wanted: &str, sink: &mut Sink) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(date) if date.time.is_some() => "a date with a time",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{key}` must be {wanted}, not {found}");
        let mut diagnostic = Diagnostic::error(Code::BadType, self.span, message);
        if let (Some(text), "true or false") = (self.as_text(), wanted)
            && ["true", "false"].contains(&text)
        {
            diagnostic = diagnostic.help("write it without quotes");
        }
        sink.report(diagnostic);
    }

    /// Returns the string; reports an error for another type.
    pub fn text(self, key: &str, sink: &mut Sink) -> Option<Located<&'t str>> {
        let text = self.as_text();
        if text.is_none() {
            self.wrong_type(key, "a string", sink);
        }
        Some(Located::new(text?, self.span))
    }

    /// Returns the boolean; reports an error for another type.
    pub fn boolean(self, key: &str, sink: &mut Sink) -> Option<Located<bool>> {
        let boolean = self.as_boolean();
        if boolean.is_none() {
            self.wrong_type(key, "true or false", sink);
        }
        Some(Located::new(boolean?, self.span))
    }

    /// Returns the table; reports an error for another type.
    pub fn table(self, key: &str, sink: &mut Sink) -> Option<CheckedTable<'t>> {
        let table = self.as_table();
        if table.is_none() {
            self.wrong_type(key, "a table", sink);
        }
        table
    }

    /// Returns the meaning of one of some words; reports an error that lists the words for any other value.
    pub fn word<T: Copy>(
        self,
        key: &str,
        words: &[(&str, T)],
        sink: &mut Sink,
    ) -> Option<Located<T>> {
        let text = self.text(key, sink)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let message = format!("`{key}` cannot be `{}`", text.value);
            let list: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let known = || words.iter().map(|(word, _)| *word);
            let meant = habits::action_meant(text.value);
            let meant = meant.filter(|meant| known().any(|word| word == *meant));
            let near = meant.or_else(|| did_you_mean(text.value, known()));
            let mut finding = Diagnostic::error(Code::BadValue, self.span, message).suggest(near);
            if let Some(meant) = meant {
                finding = finding.help(format!("write `{key} = \"{meant}\"`"));
            }
            sink.report(finding.help(match &list[..] {
                [only] => format!("the only value is {only}; or leave the key out"),
                _ => format!("it is one of {}", list.join(", ")),
            }));
        }
        found.map(|(_, meaning)| Located::new(*meaning, self.span))
    }

    /// Returns the elements, or the value itself if it is no list. An empty list is an error.
    pub fn list(self, key: &str, sink: &mut Sink) -> Option<Vec<Self>> {
        match self.as_array() {
            None => Some(vec![self]),
            Some(list) if list.is_empty() => {
                sink.report(
                    Diagnostic::error(
                        Code::EmptyList,
                        self.span,
                        format!("`{key}` is an empty list"),
                    )
                    .with_note("an empty list never means \"any\"")
                    .help("leave the key out, or name something"),
                );
                None
            }
            Some(list) => Some(list),
        }
    }
}

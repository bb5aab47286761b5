//! Packets given on the command line (`fwc explain --source ...`), with the keys of a rule.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::rules::{PolicyRule, read_packets};
use crate::diag::Sink;
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// Reads the words of a question: each is a key of rules with its value, or one of its values. `span` is the place of
/// the whole question in the file that holds the words.
///
/// ```
/// use fwc::source::{Located, SourceMap, Span};
/// use fwc::{diag::Sink, policy};
///
/// let mut sources = SourceMap::new();
/// let line = sources.add("command line", "--source !192.0.2.1");
/// let word = Located::new("!192.0.2.1", Span::new(line, 9..19));
/// let mut sink = Sink::new();
/// let asked = policy::question(&[("source", word)], Span::new(line, 0..19), &mut sink);
/// assert!(asked.source.is_some_and(|source| source.negated));
/// ```
pub fn question(
    words: &[(&'static str, Located<&str>)],
    span: Span,
    sink: &mut Sink,
) -> PolicyRule {
    let mut table = DeTable::new();
    for (key, word) in words {
        let value = Spanned::new(word.span.range(), DeValue::String(word.value.into()));
        let Some(earlier) = table.get_mut(*key) else {
            let key = Spanned::new(word.span.range(), (*key).into());
            table.insert(key, value);
            continue;
        };
        match earlier.get_mut() {
            DeValue::Array(list) => list.push(value),
            _ => {
                let range = earlier.span().start..word.span.range().end;
                let first = earlier.clone();
                let list = DeValue::Array(DeArray::from_iter([first, value]));
                *earlier = Spanned::new(range, list);
            }
        }
    }
    let table = Spanned::new(span.range(), table);
    let errors = sink.errors();
    let mut rule = read_packets(CheckedTable::root(&table, span.file), sink);
    rule.complete = sink.errors() == errors;
    rule
}

//! Diagnostics for programs.

use serde_json::{Value, json};

use super::{Diagnostic, Label, Region};
use crate::source::SourceMap;

/// One diagnostic as a JSON object: `code`, `severity`, `message`, `place`, `labels`, `help`.
///
/// A place is `{"file", "line", "column", "end_line", "end_column", "text"}`, counted from 1 in characters.
pub fn to_json(diagnostic: &Diagnostic, sources: &SourceMap) -> Value {
    json!({
        "code": diagnostic.code.as_str(),
        "severity": diagnostic.severity.keyword(),
        "message": diagnostic.message,
        "place": diagnostic.primary.as_ref().map(|label| place(label, sources)),
        "labels": diagnostic.secondary.iter().map(|label| place(label, sources)).collect::<Vec<_>>(),
        "help": diagnostic.help,
    })
}

fn place(label: &Label, sources: &SourceMap) -> Value {
    let Region { file, start, end } = Region::of(label, sources);
    json!({
        "file": file,
        "line": start.0,
        "column": start.1,
        "end_line": end.0,
        "end_column": end.1,
        "text": label.text,
    })
}

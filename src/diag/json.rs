//! Diagnostics for programs.

use serde_json::{Value, json};

use super::{Diagnostic, Label};
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
    let file = sources.file(label.span.file);
    let (line, column) = file.position(label.span.start);
    let (end_line, end_column) = file.position(label.span.end);
    json!({
        "file": file.path().display().to_string(),
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "text": label.text,
    })
}

//! Diagnostics for tools that collect findings: SARIF 2.1.0
//! (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>).
//!
//! Equal findings stay a result each: by the standard, the locations of one result are places that have to be changed together.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Code, Diagnostic, Label, Region, Severity, harmless};
use crate::source::SourceMap;

/// Returns a log with one run that has all findings; each comes with the files that it points into.
///
/// The rules of the run are the codes that were found, each with its page. Columns count characters.
pub fn to_sarif<'a>(findings: impl IntoIterator<Item = (&'a Diagnostic, &'a SourceMap)>) -> Value {
    let findings: Vec<_> = findings.into_iter().collect();
    let codes: BTreeSet<Code> = findings.iter().map(|(finding, _)| finding.code).collect();
    let results = findings
        .iter()
        .map(|(finding, sources)| result(finding, sources, &codes));
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
                "rules": codes.iter().map(|&code| rule(code)).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Vec<_>>(),
        }],
    })
}

fn rule(code: Code) -> Value {
    let page = code.page();
    let text = page.split_once("\n\n").map_or(page, |(_, text)| text);
    let what = text.split_once("\n\n").map_or(text, |(what, _)| what);
    json!({
        "id": code.as_str(),
        "shortDescription": { "text": what.replace('\n', " ") },
        "help": { "text": page, "markdown": page },
    })
}

fn result(finding: &Diagnostic, sources: &SourceMap, codes: &BTreeSet<Code>) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let mut message = finding.message.clone();
    for note in &finding.notes {
        message.push_str(&format!("\nnote: {note}"));
    }
    for help in &finding.help {
        message.push_str(&format!("\nhelp: {help}"));
    }
    let locations = finding.primary.iter();
    let related = finding.secondary.iter().enumerate();
    json!({
        "ruleId": finding.code.as_str(),
        "ruleIndex": codes.iter().position(|&code| code == finding.code),
        "level": level,
        "message": { "text": harmless(&message) },
        "locations": locations.map(|label| location(label, sources)).collect::<Vec<_>>(),
        "relatedLocations": related.map(|(id, label)| {
            let mut location = location(label, sources);
            location["id"] = json!(id);
            location
        }).collect::<Vec<_>>(),
    })
}

fn location(label: &Label, sources: &SourceMap) -> Value {
    let Region { file, start, end } = Region::of(label, sources);
    let mut location = json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(&file) },
        "region": {
            "startLine": start.0, "startColumn": start.1,
            "endLine": end.0, "endColumn": end.1,
        },
    } });
    if !label.text.is_empty() {
        location["message"] = json!({ "text": harmless(&label.text) });
    }
    location
}

/// Returns a path as a URI reference (RFC 3986): relative to the current folder, or with the scheme `file`.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    if path.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_references() {
        assert_eq!(uri("roles/web.toml"), "roles/web.toml");
        assert_eq!(uri("/etc/fwc/fwc.toml"), "file:///etc/fwc/fwc.toml");
        assert_eq!(uri("a b:c%.toml"), "a%20b%3Ac%25.toml");
    }
}

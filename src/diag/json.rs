//! Findings for programs.

use serde::Serialize;

use super::{Diagnostic, FindingGroup, Label, Region, grouped};
use crate::source::SourceMap;

/// A finding, or several that are equal but for their place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonFinding {
    /// Its stable code; `fwc check --explain CODE` prints what it means.
    pub code: &'static str,
    /// `error`, `warning` or `note`.
    pub severity: &'static str,
    /// One sentence that says what is wrong.
    pub message: String,
    /// The first place; `null` where no text is wrong (a missing file).
    pub place: Option<JsonPlace>,
    /// All places that the finding is about, the first included.
    pub places: Vec<JsonPlace>,
    /// Other places that explain the finding, such as the first of two definitions.
    pub labels: Vec<JsonPlace>,
    /// Facts that explain the message.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
}

/// A range of text in a file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonPlace {
    /// The file, as it was named to fwc.
    pub file: String,
    /// The line of the first character.
    pub line: usize,
    /// The column of the first character.
    pub column: usize,
    /// The line of the character behind the last.
    pub end_line: usize,
    /// The column of the character behind the last.
    pub end_column: usize,
    /// What is to be seen there; may be empty.
    pub text: String,
}

/// The findings of one policy, equal ones grouped.
pub fn to_json<'a>(
    findings: impl IntoIterator<Item = &'a Diagnostic>,
    sources: &SourceMap,
) -> Vec<JsonFinding> {
    let groups = grouped(findings);
    let groups = groups.iter();
    groups
        .map(|group| JsonFinding::of(group, sources))
        .collect()
}

impl JsonFinding {
    /// Returns a group as JSON, with its places as file, line and column.
    pub fn of(group: &FindingGroup<'_>, sources: &SourceMap) -> Self {
        let finding = group.first;
        let place = |label: &Label| JsonPlace::of(label, sources);
        let first = finding.primary.iter();
        let places: Vec<_> = first.chain(group.more.iter().copied()).map(place).collect();
        Self {
            code: finding.code.as_str(),
            severity: finding.severity.keyword(),
            message: finding.message.clone(),
            place: places.first().cloned(),
            places,
            labels: finding.secondary.iter().map(place).collect(),
            notes: finding.notes.clone(),
            help: finding.help.clone(),
        }
    }
}

impl JsonPlace {
    fn of(label: &Label, sources: &SourceMap) -> Self {
        let Region { file, start, end } = Region::of(label, sources);
        Self {
            file,
            line: start.0,
            column: start.1,
            end_line: end.0,
            end_column: end.1,
            text: label.text.clone(),
        }
    }
}

//! Groups findings that are equal but for their place, and shortens long lists of findings for people.

use std::collections::HashMap;

use super::{Diagnostic, Label};
use crate::source::SourceMap;

/// Findings that are equal but for their place.
#[derive(Clone, Debug)]
pub struct FindingGroup<'a> {
    /// The one that was reported first.
    pub first: &'a Diagnostic,
    /// The places of the others.
    pub more: Vec<&'a Label>,
}

impl<'a> From<&'a Diagnostic> for FindingGroup<'a> {
    fn from(first: &'a Diagnostic) -> Self {
        let more = Vec::new();
        Self { first, more }
    }
}

/// Groups equal findings, in the order of the first of each group.
pub fn grouped<'a>(findings: impl IntoIterator<Item = &'a Diagnostic>) -> Vec<FindingGroup<'a>> {
    let mut groups: Vec<FindingGroup<'a>> = Vec::new();
    let mut by_message: HashMap<&str, Vec<usize>> = HashMap::new();
    for finding in findings {
        let known = by_message.entry(&finding.message).or_default();
        let twin = known
            .iter()
            .find(|at| are_alike(groups[**at].first, finding));
        match (twin, &finding.primary) {
            (Some(at), Some(place)) => groups[*at].more.push(place),
            _ => {
                known.push(groups.len());
                groups.push(FindingGroup::from(finding));
            }
        }
    }
    groups
}

/// Compares everything but the primary place.
fn are_alike(one: &Diagnostic, other: &Diagnostic) -> bool {
    let Diagnostic {
        code,
        severity,
        message,
        primary,
        secondary,
        notes,
        help,
    } = one;
    let label = |primary: &Option<Label>| primary.as_ref().map(|label| label.text.clone());
    (code, severity, message) == (&other.code, &other.severity, &other.message)
        && (secondary, notes, help) == (&other.secondary, &other.notes, &other.help)
        && label(primary) == label(&other.primary)
}

/// The number of findings of one code in one file that are shown to people. A generated file may have thousands.
const MOST_OF_A_KIND: usize = 10;

/// The number of places that are listed for a group.
const MOST_PLACES: usize = 8;

/// Returns the findings to show to people. Equal ones are grouped, and of one code in one file only the first are kept; notes count
/// the others.
pub fn for_people<'a>(
    findings: impl IntoIterator<Item = &'a Diagnostic>,
    sources: &SourceMap,
) -> Vec<Diagnostic> {
    #[derive(Default)]
    struct Kind {
        shown: usize,
        last: usize,
        hidden: usize,
    }
    let mut shown: Vec<Diagnostic> = Vec::new();
    let mut kinds: HashMap<_, Kind> = HashMap::new();
    for FindingGroup { first, more } in grouped(findings) {
        let file = first.primary.as_ref().map(|label| label.span.file);
        let kind = kinds.entry((first.code, file)).or_default();
        if kind.shown == MOST_OF_A_KIND {
            kind.hidden += 1 + more.len();
            continue;
        }
        kind.shown += 1;
        kind.last = shown.len();
        let mut finding = first.clone();
        if !more.is_empty() {
            let places = more.iter().take(MOST_PLACES);
            let places: Vec<_> = places.map(|label| sources.place(label.span)).collect();
            let end = if more.len() > MOST_PLACES {
                ", ..."
            } else {
                ""
            };
            let (count, places) = (more.len(), places.join(", "));
            let note = format!("... and {count} more like this: {places}{end}");
            finding.notes.push(note);
        }
        shown.push(finding);
    }
    for kind in kinds.into_values().filter(|kind| kind.hidden > 0) {
        let text = format!(
            "{} more of this kind in the file are not shown",
            kind.hidden
        );
        shown[kind.last].notes.push(text);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;
    use crate::source::Span;

    /// Only findings that say the same are grouped; the note has the places of the others.
    #[test]
    fn equal_findings_are_counted() {
        let mut sources = SourceMap::new();
        let file = sources.add("a.toml", "a\nb\nc\nd\n");
        let at = |line: usize, message: &str| {
            Diagnostic::error(
                Code::BadPort,
                Span::new(file, line * 2..line * 2 + 1),
                message,
            )
        };
        let findings = [
            at(0, "same"),
            at(1, "other"),
            at(2, "same"),
            at(3, "same").help("but with advice"),
            at(3, "same"),
        ];
        let shown = for_people(&findings, &sources);
        let notes: Vec<_> = shown.iter().map(|one| one.notes.join("")).collect();
        assert_eq!(
            notes,
            ["... and 2 more like this: a.toml:3:1, a.toml:4:1", "", ""]
        );
        let json = crate::diag::to_json(&findings, &sources);
        let lines: Vec<_> = json[0].places.iter().map(|place| place.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn the_first_of_many_are_shown() {
        let mut sources = SourceMap::new();
        let file = sources.add("a.toml", "x".repeat(20));
        let one =
            |at: usize| Diagnostic::error(Code::BadPort, Span::new(file, at..at), at.to_string());
        let findings: Vec<_> = (0..13).map(one).collect();
        let shown = for_people(&findings, &sources);
        assert_eq!(shown.len(), 10);
        assert_eq!(
            shown[9].notes,
            ["3 more of this kind in the file are not shown"]
        );
    }
}

//! Diagnostics for people, in the manner of rustc.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::{Diagnostic, Severity};
use crate::source::{FileId, SourceMap, Span};

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// ANSI colours.
    Coloured,
}

/// The most bytes of text that are shown for one place. The renderer reads the whole text that it gets, which for one long line would
/// be megabytes.
const LONGEST_WINDOW: usize = 4096;

/// Renders a finding as a block of text without a final newline.
pub fn render(diagnostic: &Diagnostic, sources: &SourceMap, style: Style) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let message = harmless(&diagnostic.message);
    let title = level.primary_title(message).id(diagnostic.code.as_str());

    let mut by_file: BTreeMap<FileId, Vec<(Span, &str, bool)>> = BTreeMap::new();
    let labels = diagnostic.primary.iter().map(|label| (label, true));
    let labels = labels.chain(diagnostic.secondary.iter().map(|label| (label, false)));
    for (label, primary) in labels {
        let labels = by_file.entry(label.span.file).or_default();
        labels.push((label.span, &label.text, primary));
    }
    // The file of the primary label comes first: its place is the one that editors jump to.
    let primary_file = diagnostic.primary.as_ref().map(|label| label.span.file);
    let mut files: Vec<_> = by_file.into_iter().collect();
    files.sort_by_key(|(file, _)| Some(*file) != primary_file);

    let mut group = annotate_snippets::Group::with_title(title);
    for (file, labels) in files {
        for window in windows(sources, file, &labels) {
            group = group.element(snippet(sources, file, &window, &labels));
        }
    }
    for note in &diagnostic.notes {
        group = group.element(Level::NOTE.message(harmless(note)));
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(harmless(help)));
    }

    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    };
    let shown = renderer.decor_style(DecorStyle::Ascii).render(&[group]);
    // The renderer shows control characters of ASCII by pictures, but others as they are: U+009B opens an escape too.
    let is_colour = |c: char| c == '\u{1b}' && style == Style::Coloured;
    let replaced = |c: char| is_harmful(c) && c != '\n' && !is_colour(c);
    shown.replace(replaced, "\u{fffd}")
}

/// Returns the lines around the labels of one file: one window, or several where the labels are far apart.
fn windows(sources: &SourceMap, file: FileId, labels: &[(Span, &str, bool)]) -> Vec<Range<usize>> {
    let source = sources.file(file);
    let mut lines: Vec<(usize, usize)> = labels
        .iter()
        .map(|(span, _, _)| (source.line_of(span.start), source.line_of(span.end)))
        .collect();
    lines.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (first, last) in lines {
        match merged.last_mut() {
            Some(window) if first <= window.1 + 8 => window.1 = window.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
        .into_iter()
        .map(|(first, last)| source.lines(first, last))
        .collect()
}

fn snippet<'a>(
    sources: &'a SourceMap,
    file: FileId,
    window: &Range<usize>,
    labels: &[(Span, &'a str, bool)],
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let source = sources.file(file);
    let inside: Vec<_> = labels
        .iter()
        .filter(|(span, _, _)| {
            window.contains(&span.range().start) || span.range().start == window.end
        })
        .collect();
    let first = inside.iter().map(|(span, _, _)| span.range().start).min();
    let window = shortened(source.text(), window, first.unwrap_or(window.start));
    let (line, _) = source.position(u32::try_from(window.start).unwrap_or(u32::MAX));
    let text = &source.text()[window.clone()];
    let annotations = inside.into_iter().map(|&(span, label, primary)| {
        let kind = if primary {
            AnnotationKind::Primary
        } else {
            AnnotationKind::Context
        };
        let start = span.range().start.clamp(window.start, window.end) - window.start;
        let end = span.range().end.clamp(window.start, window.end) - window.start;
        let label = (!label.is_empty()).then(|| harmless(label));
        kind.span(start..end.max(start)).label(label)
    });
    Snippet::source(text)
        .line_start(line)
        .path(harmless(&source.path().display().to_string()))
        .annotations(annotations)
}

/// Cuts a window around `focus` if it is longer than [`LONGEST_WINDOW`].
fn shortened(text: &str, window: &Range<usize>, focus: usize) -> Range<usize> {
    if window.len() <= LONGEST_WINDOW {
        return window.clone();
    }
    let mut start = focus.saturating_sub(LONGEST_WINDOW / 2).max(window.start);
    let mut end = (start + LONGEST_WINDOW).min(window.end);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    start..end
}

/// Returns whether a character controls a terminal, is invisible, or changes the direction of writing.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' | '\u{e0000}'..='\u{e0fff}')
}

/// Replaces such characters, which must not reach the terminal.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_harmful(c) && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Escapes such characters in JSON, which has them in strings only: the value stays the same.
pub fn harmless_json(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        if !is_harmful(c) || c == '\n' {
            all.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(all, "\\u{unit:04x}");
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;

    #[test]
    fn json_says_the_same_without_harm() {
        let value =
            serde_json::json!({ "comment": "a\u{9b}31m b\u{202e}c\u{e0001} \u{1b} \u{e9}\n" });
        let text = harmless_json(&format!("{value:#}\n"));
        assert!(
            !text.chars().any(|c| is_harmful(c) && c != '\n'),
            "{text:?}"
        );
        assert!(text.contains("\\u009b31m") && text.contains('\u{e9}'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[test]
    fn looks_as_language_says() {
        let mut sources = SourceMap::new();
        let text = "# one\n\n[[rules]]\nservice = [\"htps\", \"ssh\"]\n";
        let file = sources.add("roles/web.toml", text);
        let start = text.find("\"htps\"").unwrap();
        let diagnostic = Diagnostic::error(
            Code::UnknownService,
            Span::new(file, start..start + 6),
            "no service named `htps`",
        )
        .suggest(Some("https"))
        .help("`fwc services` lists the catalog; define your own under [services]");
        let shown = render(&diagnostic, &sources, Style::Plain);
        assert_eq!(
            shown,
            "error[unknown-service]: no service named `htps`\n \
             --> roles/web.toml:4:12\n  |\n\
             4 | service = [\"htps\", \"ssh\"]\n  \
             |            ^^^^^^ did you mean `https`?\n  |\n  \
             = help: `fwc services` lists the catalog; define your own under [services]"
        );
    }

    #[test]
    fn terminal_escapes_do_not_pass() {
        let mut sources = SourceMap::new();
        let text = "name = \"\u{1b}[31mred\u{9b}0m\u{ad}\"\n";
        let file = sources.add("a.toml", text);
        let diagnostic = Diagnostic::error(
            Code::BadText,
            Span::new(file, 7..text.len() - 1),
            "the name `\u{1b}[31mred` has a control character",
        );
        let shown = render(&diagnostic, &sources, Style::Plain);
        let harmful = |c: char| is_harmful(c) && c != '\n';
        assert!(!shown.contains(harmful), "{shown:?}");
        let coloured = render(&diagnostic, &sources, Style::Coloured);
        let harmful = |c: char| harmful(c) && c != '\u{1b}';
        assert!(!coloured.contains(harmful), "{coloured:?}");
        assert!(!coloured.contains("\u{1b}[31mred"), "{coloured:?}");
    }
}

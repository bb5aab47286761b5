//! `# fwc: allow(CODE)` in a policy: a comment that silences a lint for the line or table below it.

use std::sync::OnceLock;

use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::lints::{Lint, unused_allow};
use crate::source::{FileId, Located, Span};

/// A lint that a comment silences in one place.
#[derive(Clone, Debug)]
pub struct Allow {
    /// The lint, with the place of its name.
    pub code: Located<Code>,
    /// The place where it is silenced: the line below the comment, or the whole table if the line begins one.
    covers: Span,
    used: OnceLock<()>,
}

impl Allow {
    /// Returns whether this silences a finding, which is remembered then.
    pub fn silences(&self, finding: &Diagnostic) -> bool {
        let Some(label) = &finding.primary else {
            return false;
        };
        let inside = self.covers.range().contains(&label.span.range().start);
        let silences =
            self.code.value == finding.code && self.covers.file == label.span.file && inside;
        if silences {
            let _ = self.used.set(());
        }
        silences
    }

    /// Returns the finding about a comment that silenced nothing.
    pub fn unused(&self) -> Option<Diagnostic> {
        let unused = self.used.get().is_none();
        unused.then(|| unused_allow::finding(self.code.span, self.code.value))
    }
}

/// Reads the allow comments of one file.
pub(super) fn read(text: &str, file: FileId, sink: &mut Sink) -> Vec<Allow> {
    let mut allows = Vec::new();
    let mut open: Vec<Located<Code>> = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            if let Some(words) = comment.trim_start().strip_prefix("fwc:") {
                let at = start + (words.as_ptr() as usize - line.as_ptr() as usize);
                open.extend(codes(words, at, file, sink));
            }
        } else if !trimmed.is_empty() && !open.is_empty() {
            let end = match trimmed.starts_with('[') {
                true => end_of_table(text, offset),
                false => offset,
            };
            let covers = Span::new(file, start..end);
            allows.extend(open.drain(..).map(|code| Allow {
                code,
                covers,
                used: OnceLock::new(),
            }));
        }
    }
    // Comments below the last line silence nothing, and are reported as unused.
    let covers = Span::new(file, text.len()..text.len());
    allows.extend(open.into_iter().map(|code| Allow {
        code,
        covers,
        used: OnceLock::new(),
    }));
    allows
}

/// Returns where the table ends that a header before `from` begins: at the next header.
fn end_of_table(text: &str, from: usize) -> usize {
    let mut offset = from;
    for line in text[from..].split_inclusive('\n') {
        if line.starts_with('[') {
            break;
        }
        offset += line.len();
    }
    offset
}

/// Returns the codes of ` allow(one, another)`.
fn codes(words: &str, at: usize, file: FileId, sink: &mut Sink) -> Vec<Located<Code>> {
    let list = words.trim().strip_prefix("allow(");
    let Some(list) = list.and_then(|list| list.strip_suffix(')')) else {
        let span = Span::new(file, at..at + words.len());
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                span,
                "this comment to fwc is not understood",
            )
            .help(
                "it is written `# fwc: allow(CODE)`, with several codes `# fwc: allow(CODE, CODE)`",
            ),
        );
        return Vec::new();
    };
    let mut found = Vec::new();
    for name in list.split(',').map(str::trim) {
        let start = at + (name.as_ptr() as usize - words.as_ptr() as usize);
        let span = Span::new(file, start..start + name.len());
        match Lint::named(name) {
            Some(lint) => found.push(Located::new(lint.code, span)),
            None => {
                let message = format!("no lint is called `{}`", name.escape_debug());
                sink.report(
                    Diagnostic::error(Code::BadValue, span, message)
                        .suggest(did_you_mean(name, Lint::names()))
                        .with_note("only lints can be allowed; errors cannot"),
                );
            }
        }
    }
    found
}

//! Diagnostics: findings about the user's text, each with its place, facts and advice.
//!
//! A stage reports everything that it finds to a [`Sink`] and returns `None` when it reported an error, so that
//! all problems of a file are shown at once.

mod code;
mod concern;
mod github;
mod group;
mod human;
mod json;
mod sarif;
mod suggest;

pub use code::Code;
pub use concern::ConcernName;
pub use github::to_github;
pub use group::{FindingGroup, for_people, grouped};
pub use human::{Style, harmless, harmless_json, is_harmful, render};
pub use json::{JsonFinding, to_json};
pub use sarif::to_sarif;
pub use suggest::did_you_mean;

use std::collections::HashMap;

use crate::source::{SourceMap, Span};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing to do.
    Note,
    /// Probably not what was meant; does not stop anything.
    Warning,
    /// Nothing is written.
    Error,
}

impl Severity {
    /// The word before the code.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The level that a policy gives to a lint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The lint is not reported.
    Allow,
    /// The lint is a warning.
    Warn,
    /// The lint is an error.
    Deny,
}

/// A range of text with a few words about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// The words; may be empty.
    pub text: String,
}

/// The lines and columns of a label: of its first character and of the one after its last, from 1.
struct Region {
    file: String,
    start: (usize, usize),
    end: (usize, usize),
}

impl Region {
    fn of(label: &Label, sources: &SourceMap) -> Self {
        let file = sources.file(label.span.file);
        Self {
            file: file.path().display().to_string(),
            start: file.position(label.span.start),
            end: file.position(label.span.end),
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its stable code.
    pub code: Code,
    /// Its severity.
    pub severity: Severity,
    /// One sentence without a full stop; values in backticks.
    pub message: String,
    /// The place that is wrong; `None` only where no text exists (a missing file).
    pub primary: Option<Label>,
    /// Other places that matter, such as the first of two definitions.
    pub secondary: Vec<Label>,
    /// Facts that explain the message, a sentence each: the packet that shows it, the names that are known.
    pub notes: Vec<String>,
    /// What to do, a sentence each.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// Creates an error at a place.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self::at(Severity::Error, code, span, message)
    }

    /// Creates a warning at a place.
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self::at(Severity::Warning, code, span, message)
    }

    /// Creates a note at a place.
    pub fn note(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self::at(Severity::Note, code, span, message)
    }

    /// Creates an error about something that has no text, such as a missing file.
    pub fn error_without_place(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            primary: None,
            secondary: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    fn at(severity: Severity, code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            primary: Some(Label {
                span,
                text: String::new(),
            }),
            secondary: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Sets the words under the underlined text.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(primary) = &mut self.primary {
            primary.text = text.into();
        }
        self
    }

    /// Sets `did you mean ...?` under the underlined text, if there is a similar name.
    #[must_use]
    pub fn suggest(self, near: Option<&str>) -> Self {
        match near {
            Some(name) => self.label(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Adds another place that explains the finding.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label {
            span,
            text: text.into(),
        });
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn with_note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }
}

/// Cuts values in backticks that are longer than a line.
fn shorten(text: &mut String) {
    const LONGEST_VALUE: usize = 120;
    const LONGEST_TEXT: usize = 4000;
    if text.len() <= LONGEST_VALUE {
        return;
    }
    let cut = |part: &str, longest: usize| match part.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &part[..end]),
        None => part.to_owned(),
    };
    let parts = text
        .split('`')
        .enumerate()
        .map(|(index, part)| match index % 2 {
            0 => part.to_owned(),
            _ => cut(part, LONGEST_VALUE),
        });
    // A value with backticks of its own is cut at last.
    *text = cut(&parts.collect::<Vec<_>>().join("`"), LONGEST_TEXT);
}

/// Collects findings in the order in which they are reported; equal ones at one place once.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    diagnostics: Vec<Diagnostic>,
    /// The indices of the findings of a code and place.
    by_place: HashMap<(Code, Option<Span>), Vec<usize>>,
    errors: usize,
}

impl Sink {
    /// An empty sink.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports a finding, unless an equal one was reported for the same place. Values that are too long to be read are cut.
    pub fn report(&mut self, mut diagnostic: Diagnostic) {
        let labels = diagnostic
            .primary
            .iter_mut()
            .chain(&mut diagnostic.secondary);
        let texts = labels
            .map(|label| &mut label.text)
            .chain(&mut diagnostic.notes)
            .chain(&mut diagnostic.help);
        texts.chain([&mut diagnostic.message]).for_each(shorten);
        let place = diagnostic.primary.as_ref().map(|label| label.span);
        let twins = self.by_place.entry((diagnostic.code, place)).or_default();
        if !twins
            .iter()
            .any(|twin| self.diagnostics[*twin] == diagnostic)
        {
            twins.push(self.diagnostics.len());
            self.errors += usize::from(diagnostic.severity == Severity::Error);
            self.diagnostics.push(diagnostic);
        }
    }

    /// Returns whether an error was reported.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Gives each lint the level that was asked for, and counts the errors again.
    pub fn apply_levels(&mut self, level: impl Fn(&Diagnostic) -> Option<Level>) {
        self.diagnostics.retain_mut(|diagnostic| {
            let level = level(diagnostic).filter(|_| diagnostic.severity != Severity::Error);
            match level {
                Some(Level::Allow) => return false,
                Some(Level::Warn) => diagnostic.severity = Severity::Warning,
                Some(Level::Deny) => diagnostic.severity = Severity::Error,
                None => {}
            }
            true
        });
        let errors = self.diagnostics.iter();
        self.errors = errors.filter(|d| d.severity == Severity::Error).count();
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Iterates over the findings in the order in which they were reported.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter()
    }

    /// Returns the findings by place as people see them: equal ones grouped, and of one code in one file the first few.
    pub fn shown(&self, sources: &SourceMap) -> Vec<Diagnostic> {
        for_people(self.sorted(), sources)
    }

    /// Returns the findings by place: file by file, top to bottom; those without a place first.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.diagnostics.iter().collect();
        sorted.sort_by_key(|diagnostic| diagnostic.primary.as_ref().map(|label| label.span));
        sorted
    }
}

//! Prints results to standard output, and diagnostics and messages to standard error.

use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde_json::Value;

use crate::diag::{self, Diagnostic, Severity, Sink, Style, harmless, harmless_json};
use crate::source::SourceMap;

/// A value of `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// In a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A value of `--format`. Each command takes some of them: see [`Format::parser`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For people, as Markdown
    Markdown,
    /// For people, with annotations for GitHub Actions
    Github,
    /// For tools that collect findings (SARIF 2.1.0)
    Sarif,
    /// For CI servers (JUnit XML)
    Junit,
    /// For the textfile collector of node_exporter
    Prometheus,
}

impl Format {
    /// Returns a parser for the formats that a command takes.
    pub fn parser<const N: usize>(formats: [Self; N]) -> impl TypedValueParser<Value = Self> {
        let values = formats.iter().filter_map(Self::to_possible_value);
        PossibleValuesParser::new(values).try_map(|name| Self::from_str(&name, false))
    }
}

/// A JSON document that a command prints.
pub trait Document: Serialize {
    /// The name and version of its schema, such as `fwc.check/1`: the page is `docs/reference/schemas/check-1.json`. A version gets new
    /// fields, and never loses one or changes its meaning.
    const SCHEMA: &'static str;
}

/// A document with the name of its schema.
#[derive(Serialize)]
struct Envelope<'a, T> {
    schema: &'static str,
    #[serde(flatten)]
    document: &'a T,
}

/// Prints results and messages. A closed pipe (`fwc ... | head`) is not an error. Messages go through [`harmless`], because they
/// may quote live rules, and control characters in a comment that someone else wrote must not reach the terminal.
#[derive(Debug)]
pub struct Output {
    out: Style,
    err: Style,
    quiet: bool,
}

impl Output {
    /// Decides once whether output is coloured.
    pub fn new(when: When, quiet: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = |terminal: bool| match when {
            When::Always => Style::Coloured,
            When::Auto if terminal && !no_color => Style::Coloured,
            When::Auto | When::Never => Style::Plain,
        };
        Self {
            out: style(std::io::stdout().is_terminal()),
            err: style(std::io::stderr().is_terminal()),
            quiet,
        }
    }

    /// Returns whether standard output is coloured.
    pub fn style(&self) -> Style {
        self.out
    }

    /// Prints a part of the result to standard output, unchanged.
    pub fn result(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Prints a report of what was done to standard output, unless `--quiet`.
    pub fn tell(&self, text: &str) {
        if !self.quiet {
            self.result(&harmless(text));
        }
    }

    /// Asks on the terminal, and returns `true` if the answer is yes.
    pub fn ask(&self, question: &str) -> bool {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        read.is_ok() && is_yes(&answer)
    }

    /// Asks on the terminal with a countdown, and returns `true` if the answer was yes before `left` returned `None`. `left` returns
    /// the seconds to show.
    pub fn ask_until(&self, question: &str, left: impl Fn() -> Option<u64>) -> bool {
        let (sender, answers) = mpsc::channel();
        // The thread lives until the process ends: a blocking read of a terminal cannot be cancelled.
        thread::spawn(move || {
            let mut answer = String::new();
            let read = std::io::stdin().read_line(&mut answer);
            let _ = sender.send(read.is_ok() && is_yes(&answer));
        });
        while let Some(seconds) = left() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r{question} [y/N] {seconds:>4} s ").and_then(|()| err.flush());
            drop(err);
            match answers.recv_timeout(Duration::from_millis(250)) {
                Ok(answer) => return answer,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.to_stderr("");
        false
    }

    /// Prints a document of fwc's own.
    pub fn json<T: Document>(&self, document: &T) {
        let schema = T::SCHEMA;
        match serde_json::to_value(Envelope { schema, document }) {
            Ok(value) => self.foreign_json(&value),
            Err(error) => self.fatal(&format!("internal error: cannot write {schema}: {error}")),
        }
    }

    /// Prints JSON in a format that fwc does not define, such as SARIF.
    pub fn foreign_json(&self, value: &Value) {
        self.result(&harmless_json(&format!("{value:#}\n")));
    }

    /// Prints a message to standard error, unless `--quiet`.
    pub fn message(&self, text: &str) {
        self.show(&harmless(text));
    }

    /// Prints text to standard error, unless `--quiet`. The text may have colours, so the caller must have made it harmless.
    pub fn show(&self, text: &str) {
        if !self.quiet {
            self.to_stderr(text);
        }
    }

    /// Prints why the command failed: `error: ...`, even with `--quiet`.
    pub fn fatal(&self, text: &str) {
        let word = match self.err {
            Style::Plain => "error",
            Style::Coloured => "\u{1b}[1m\u{1b}[31merror\u{1b}[0m",
        };
        self.to_stderr(&format!("{word}: {}", harmless(text)));
    }

    /// Prints details of a failure to standard error, even with `--quiet`.
    pub fn detail(&self, text: &str) {
        self.to_stderr(&harmless(text));
    }

    /// Prints the findings of a sink, sorted and grouped for people; with `--quiet` only errors.
    pub fn diagnostics(&self, sink: &Sink, sources: &SourceMap) {
        self.findings(&sink.shown(sources), sources);
    }

    /// Prints findings; with `--quiet` only errors.
    pub fn findings(&self, findings: &[Diagnostic], sources: &SourceMap) {
        for diagnostic in findings {
            if !self.quiet || diagnostic.severity == Severity::Error {
                self.to_stderr(&diag::render(diagnostic, sources, self.err));
                self.to_stderr("");
            }
        }
    }

    fn to_stderr(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "{text}");
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
}

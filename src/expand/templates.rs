//! The templates: built in, and replaced one by one by those of a user.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, filters, tests};

use super::context::FileContext;
use super::origin::LineOrigin;
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::files::{Access, FileError, InputFile};
use crate::resolve::Plan;
use crate::source::{FileId, SourceMap, Span};

/// A built-in template.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name, as in `rule.j2`.
    pub name: &'static str,
    /// The part of a rules file that it writes.
    pub about: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! built_in {
    ($($name:literal: $about:literal,)*) => {
        &[$(BuiltIn {
            name: $name,
            about: $about,
            text: include_str!(concat!("../../templates/", $name)),
        }),*]
    };
}

impl BuiltIn {
    /// All built-in templates, from the whole to the parts.
    pub const ALL: &[Self] = built_in! {
        "rules.j2": "a rules file: its tables in order",
        "raw.j2": "the table raw, with antispoof",
        "mangle.j2": "the table mangle",
        "nat.j2": "the table nat",
        "filter.j2": "the table filter, with the defaults",
        "preamble.j2": "the lines before the rules of a chain of the table filter",
        "group.j2": "the lines of one rule or entry of the policy, and the comment above them",
        "rule.j2": "one line",
        "limit.j2": "the limit of a line",
        "time.j2": "the hours and the last day of a line",
        "translate.j2": "the new address in a line of the table nat",
        "log.j2": "the log target of a line",
        "change.j2": "the change of packets in a line of mangle or raw",
    };

    /// Returns the built-in template of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name == name)
    }
}

/// The prefix by which a template can include or extend a built-in one, even if it replaces it.
const BUILT_IN_FOLDER: &str = "builtin/";

/// The instructions that templates may run, for the file and for each line: a loop without an end stops. The built-in
/// templates need less than a tenth.
const FUEL: u64 = 1_000_000;
const FUEL_A_LINE: u64 = 2_000;

/// The largest output in bytes, for the file and for each line. A line of the built-in templates has less than 2 KiB.
const LARGEST_OUTPUT: usize = 1 << 20;
const LARGEST_LINE: usize = 8 << 10;

/// The largest template, in bytes: fifty times the largest of the built-in ones.
const LARGEST_TEMPLATE: usize = 128 << 10;

/// A complete set of parsed templates.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    /// The files that replace built-in templates, by name.
    own: BTreeMap<String, FileId>,
    /// The places where these differ from the built-in ones.
    changes: Vec<Span>,
}

impl Templates {
    /// Returns the built-in templates; `None` if an error was reported.
    pub fn built_in(sink: &mut Sink) -> Option<Self> {
        Self::parse_built_in()
            .map_err(|error| {
                sink.report(Diagnostic::error_without_place(
                    Code::BadTemplate,
                    error.message,
                ));
            })
            .ok()
    }

    fn parse_built_in() -> Result<Self, TemplateError> {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_debug(true);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build();
        environment.set_syntax(syntax.map_err(TemplateError::without_line)?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(guard);
        add_filters_and_tests(&mut environment);
        for BuiltIn { name, text, .. } in BuiltIn::ALL {
            let again = format!("{BUILT_IN_FOLDER}{name}");
            let added = environment.add_template(name, text);
            added
                .and_then(|()| environment.add_template_owned(again, *text))
                .map_err(TemplateError::without_line)?;
        }
        Ok(Self {
            environment,
            own: BTreeMap::new(),
            changes: Vec::new(),
        })
    }

    /// Returns the built-in templates with those of a folder in place of the ones of the same name; `None` if an error
    /// was reported.
    pub fn with_folder(
        folder: &Path,
        access: Access,
        sources: &mut SourceMap,
        sink: &mut Sink,
    ) -> Option<Self> {
        let mut templates = Self::built_in(sink)?;
        let listed = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> = match listed {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
            Err(error) => {
                let message = format!(
                    "cannot read the templates in `{}`: {error}",
                    folder.display()
                );
                sink.report(Diagnostic::error_without_place(Code::Unreadable, message));
                return None;
            }
        };
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "j2"));
        paths.sort();
        let errors = sink.errors();
        for path in paths {
            templates.override_by(&path, access, sources, sink);
        }
        (sink.errors() == errors).then_some(templates)
    }

    fn override_by(
        &mut self,
        path: &Path,
        access: Access,
        sources: &mut SourceMap,
        sink: &mut Sink,
    ) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let shown = path.display();
        let Some(built_in) = BuiltIn::named(&name) else {
            let names = || BuiltIn::ALL.iter().map(|one| one.name);
            let message = format!("`{shown}` is not the name of a template");
            let near = did_you_mean(&name, names());
            sink.report(
                Diagnostic::error_without_place(Code::BadTemplate, message).help(match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "the templates are {}",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                }),
            );
            return;
        };
        let text = match InputFile::open(path).and_then(|file| file.read(access)) {
            Ok(text) => text,
            Err(error) => {
                let code = match error {
                    FileError::Unreadable(_) => Code::Unreadable,
                    FileError::Unsafe(_) => Code::UnsafeFile,
                };
                let message = format!("cannot use the template `{shown}`: {error}");
                sink.report(Diagnostic::error_without_place(code, message));
                return;
            }
        };
        if text.len() > LARGEST_TEMPLATE {
            let message = format!(
                "the template `{shown}` has {} bytes, more than {LARGEST_TEMPLATE}",
                text.len()
            );
            sink.report(Diagnostic::error_without_place(Code::BadTemplate, message));
            return;
        }
        let file = sources.add(path, text.clone());
        self.changes.extend(changes(built_in.text, file, sources));
        let name = name.into_owned();
        self.own.insert(name.clone(), file);
        if let Err(error) = self.environment.add_template_owned(name, text) {
            let error = TemplateError::new(&error, None);
            sink.report(error.diagnostic(self, None, sources));
        }
    }

    /// Returns the lines at which the templates of the folder begin to differ from the built-in ones, one for each part
    /// that differs.
    pub fn changes(&self) -> &[Span] {
        &self.changes
    }

    /// Renders a rules file. `lines` is its approximate length, by which fuel and output are limited.
    pub(super) fn render(
        &self,
        context: FileContext,
        lines: usize,
    ) -> Result<String, TemplateError> {
        let (context, trail) = context.into_value();
        let wrong = |error: Error| TemplateError::new(&error, trail.last());
        let mut environment = self.environment.clone();
        let count = u64::try_from(lines).unwrap_or(u64::MAX);
        let fuel = FUEL.saturating_add(count.saturating_mul(FUEL_A_LINE));
        environment.set_fuel(Some(fuel));
        let template = environment.get_template("rules.j2").map_err(wrong)?;
        let mut output = Bounded {
            bytes: Vec::new(),
            largest: LARGEST_OUTPUT.saturating_add(lines.saturating_mul(LARGEST_LINE)),
        };
        // The template engine has bugs of its own: `[][::-1]` panics in minijinja 3.0.5.
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            template.render_captured_to(context, &mut output).map(drop)
        }));
        rendered
            .unwrap_or_else(|_| {
                let what = "the template engine failed on an expression of the template";
                Err(Error::new(ErrorKind::InvalidOperation, what))
            })
            .map_err(wrong)?;
        Ok(String::from_utf8_lossy(&output.bytes).into_owned())
    }
}

/// A writer that fails beyond a number of bytes.
struct Bounded {
    bytes: Vec<u8>,
    largest: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.largest {
            let message = format!("the output has more than {} bytes", self.largest);
            return Err(io::Error::other(message));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why templates failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// The message of the template language.
    message: String,
    /// The template, its line from 1, and the wrong bytes, as far as they are known.
    template: Option<(String, usize, Option<std::ops::Range<usize>>)>,
    /// The origin of the line that the template read last.
    origin: Option<LineOrigin>,
}

impl TemplateError {
    fn new(error: &Error, origin: Option<LineOrigin>) -> Self {
        // The innermost error has the reason; those around it say which template included which.
        let mut innermost = error;
        let mut reason = None;
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            match cause.downcast_ref::<Error>() {
                Some(inner) => innermost = inner,
                None => reason = Some(cause.to_string()),
            }
            source = cause.source();
        }
        let kind = innermost.kind().to_string();
        let message = match (reason, innermost.detail()) {
            (Some(reason), _) => reason,
            (None, Some(detail)) => format!("{kind}: {detail}"),
            (None, None) => kind,
        };
        let place = innermost.name().zip(innermost.line());
        Self {
            message,
            template: place.map(|(name, line)| (name.to_owned(), line, innermost.range())),
            origin,
        }
    }

    fn without_line(error: Error) -> Self {
        Self::new(&error, None)
    }

    /// Returns the finding: the place in the template, and the rule of the policy whose line was being rendered.
    pub fn diagnostic(
        &self,
        templates: &Templates,
        plan: Option<&Plan>,
        sources: &mut SourceMap,
    ) -> Diagnostic {
        let mut diagnostic = match &self.template {
            Some((name, line, range)) => {
                let file = templates.file(name, sources);
                let span = place(file, *line, range.clone(), sources);
                Diagnostic::error(Code::BadTemplate, span, self.message.clone())
            }
            None => Diagnostic::error_without_place(Code::BadTemplate, self.message.clone()),
        };
        let written = self
            .origin
            .zip(plan)
            .and_then(|(origin, plan)| origin.written(plan));
        if let Some((label, span)) = written {
            diagnostic = diagnostic.also(span, format!("while rendering {label}"));
        }
        diagnostic.help("`fwc templates show NAME` prints the built-in one; docs/guides/templates.md has the variables")
    }
}

impl Templates {
    /// Returns the file of a template; a built-in one has a name under `builtin/`.
    fn file(&self, name: &str, sources: &mut SourceMap) -> FileId {
        if let Some(file) = self.own.get(name) {
            return *file;
        }
        let name = name.trim_start_matches(BUILT_IN_FOLDER);
        let text = BuiltIn::named(name).map_or("", |one| one.text);
        sources.add(format!("{BUILT_IN_FOLDER}{name}"), text)
    }
}

/// Finds the parts of a template that differ from the built-in one; each is marked at its first line that says something.
fn changes(built_in: &str, file: FileId, sources: &SourceMap) -> Vec<Span> {
    let text = sources.file(file).text();
    let (before, after): (Vec<_>, Vec<_>) = (built_in.lines().collect(), text.lines().collect());
    // A template that extends the built-in one differs in every line; its own part is below.
    let is_blank = |line: &&&str| line.trim().is_empty() || line.starts_with("{% extends");
    similar::capture_diff_slices(similar::Algorithm::Myers, &before, &after)
        .iter()
        .filter(|part| part.tag() != similar::DiffTag::Equal)
        .map(|part| {
            let lines = after.get(part.new_range()).unwrap_or_default();
            let skipped = lines.iter().take_while(is_blank).count();
            // Removed lines have no place in the new text: the line after them is marked.
            let line = part.new_range().start + skipped;
            place(
                file,
                line.min(after.len().saturating_sub(1)) + 1,
                None,
                sources,
            )
        })
        .collect()
}

/// Returns the place of the wrong bytes, else of the whole line.
fn place(
    file: FileId,
    line: usize,
    range: Option<std::ops::Range<usize>>,
    sources: &SourceMap,
) -> Span {
    let source = sources.file(file);
    let text = source.text();
    if let Some(range) =
        range.filter(|range| !range.is_empty() && text.get(range.clone()).is_some())
    {
        return Span::new(file, range);
    }
    let line = line.saturating_sub(1);
    let whole = source.lines(line, line);
    let shown = text.get(whole.clone()).unwrap_or_default();
    Span::new(file, whole.start..whole.start + shown.trim_end().len())
}

/// Adds the filters and tests of templates. None multiplies its input, as `replace` or `join` would, so that templates stay
/// within the limits of memory.
fn add_filters_and_tests(environment: &mut Environment<'static>) {
    environment.add_filter("quoted", quoted);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("length", filters::length);
    environment.add_filter("default", filters::default);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    environment.add_test("startingwith", tests::is_startingwith);
    environment.add_test("endingwith", tests::is_endingwith);
}

/// Writes a value to the output. Only strings without control characters and whole numbers reach a rules file: no `None`,
/// no list, and no second line that a value of the policy could smuggle in.
fn guard(output: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "the value is not defined",
        ));
    }
    if let Some(text) = value.as_str() {
        if text.chars().any(char::is_control) && LineOrigin::of_mark(text).is_none() {
            let message = format!("the text {text:?} has a control character");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        return output.write_str(text).map_err(Error::from);
    }
    if value.kind() == ValueKind::Number && value.is_integer() {
        return write!(output, "{value}").map_err(Error::from);
    }
    let message = format!("a {} cannot be printed", value.kind());
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Returns a text as `iptables-save` prints it (`xtables_save_string`): in quotes unless it has only letters, digits, `_`
/// and `-`, with a backslash before quotes and backslashes.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

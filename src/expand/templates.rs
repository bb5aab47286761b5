//! The templates: built in, and overridden one by one.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};

use super::render::is_origin_mark;
use crate::files::{Access, FileError, InputFile};

/// Name and text of each built-in template.
const BUILT_IN: &[(&str, &str)] = &[
    ("rules.j2", include_str!("../../templates/rules.j2")),
    ("raw.j2", include_str!("../../templates/raw.j2")),
    ("mangle.j2", include_str!("../../templates/mangle.j2")),
    ("nat.j2", include_str!("../../templates/nat.j2")),
    ("filter.j2", include_str!("../../templates/filter.j2")),
    ("preamble.j2", include_str!("../../templates/preamble.j2")),
    ("rule.j2", include_str!("../../templates/rule.j2")),
    ("limit.j2", include_str!("../../templates/limit.j2")),
    ("time.j2", include_str!("../../templates/time.j2")),
    ("translate.j2", include_str!("../../templates/translate.j2")),
    ("log.j2", include_str!("../../templates/log.j2")),
    ("change.j2", include_str!("../../templates/change.j2")),
];

/// What a template may compute: so much for the file and so much for each line. The built-in ones need less than a
/// tenth of it; a loop without an end is stopped.
const FUEL: u64 = 1_000_000;
const FUEL_A_LINE: u64 = 2_000;

/// Why the templates give no rules file.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file of the folder cannot be used.
    #[error("cannot use the template `{name}`: {error}")]
    File {
        /// The file.
        name: String,
        /// Why.
        error: FileError,
    },
    /// The folder of templates cannot be read.
    #[error("cannot read the templates in `{folder}`: {error}")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file of the folder that no template of fwc is called like.
    #[error("`{name}` overrides no template; they are called {known}")]
    Unknown {
        /// The file.
        name: String,
        /// The names of the built-in templates.
        known: String,
    },
    /// The template itself is wrong.
    #[error("{0}")]
    Wrong(String),
}

/// A set of templates, parsed.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// The built-in templates.
    pub fn built_in() -> Result<Self, TemplateError> {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .map_err(wrong)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(guard);
        environment.add_filter("quoted", quoted);
        for (name, text) in BUILT_IN {
            environment.add_template(name, text).map_err(wrong)?;
        }
        Ok(Self { environment })
    }

    /// The built-in templates with those of a folder in the place of their namesakes.
    pub fn with_folder(folder: &Path, access: Access) -> Result<Self, TemplateError> {
        let folder_error = |error| TemplateError::Folder {
            folder: folder.display().to_string(),
            error,
        };
        let mut templates = Self::built_in()?;
        for entry in std::fs::read_dir(folder).map_err(folder_error)? {
            let path = entry.map_err(folder_error)?.path();
            if path.extension().is_none_or(|extension| extension != "j2") {
                continue;
            }
            let file_name = path.file_name().unwrap_or_default();
            let name = file_name.to_string_lossy().into_owned();
            if !BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
                let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                return Err(TemplateError::Unknown {
                    name,
                    known: names.join(", "),
                });
            }
            let text = InputFile::open(&path).and_then(|file| file.read(access));
            let text = text.map_err(|error| TemplateError::File {
                name: name.clone(),
                error,
            })?;
            templates
                .environment
                .add_template_owned(name, text)
                .map_err(wrong)?;
        }
        Ok(templates)
    }

    /// The text of a rules file with about so many lines.
    pub(super) fn render(&self, context: Value, lines: usize) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        let lines = u64::try_from(lines).unwrap_or(u64::MAX);
        let fuel = FUEL.saturating_add(lines.saturating_mul(FUEL_A_LINE));
        environment.set_fuel(Some(fuel));
        let template = environment.get_template("rules.j2").map_err(wrong)?;
        template.render(context).map_err(wrong)
    }
}

/// Only texts without control characters and whole numbers reach a rules file: no `None`, no list, no second line.
fn guard(output: &mut Output<'_>, _state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "the value is not defined",
        ));
    }
    if let Some(text) = value.as_str() {
        if text.chars().any(char::is_control) && !is_origin_mark(text) {
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

/// A text as `iptables-save` prints it (`xtables_save_string`): in quotes unless it is of letters, digits, `_` and
/// `-`, with a backslash before quotes and backslashes.
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

fn wrong(error: Error) -> TemplateError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    TemplateError::Wrong(message)
}

//! The way from a policy's file to its rules, for every command that needs it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Output;
use crate::diag::{Severity, Sink};
use crate::expand::{Rendered, Templates, expand};
use crate::files::Access;
use crate::net::Date;
use crate::policy;
use crate::resolve::{Plan, check_expiry, resolve};
use crate::source::SourceMap;

/// Which policy, and which templates.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// The policy's file [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    #[command(flatten)]
    pub templates: TemplateArgs,
}

/// Where the templates come from.
#[derive(Clone, Debug, Args)]
pub struct TemplateArgs {
    /// A folder of templates that take the place of the built-in ones of the same name
    #[arg(long = "templates", value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// A policy that was compiled.
#[derive(Debug)]
pub struct Compiled {
    /// What the policy means.
    pub plan: Plan,
    /// Its rules files.
    pub rendered: Rendered,
    /// The files that it was read from.
    pub sources: SourceMap,
    /// Warnings and notes.
    pub findings: Sink,
}

/// The policy that is meant when none is named.
pub fn policy_path(named: Option<&Path>) -> PathBuf {
    match named {
        Some(path) => path.to_owned(),
        None if Path::new("fwc.toml").exists() => PathBuf::from("fwc.toml"),
        None => {
            let system = Path::new("/etc/fwc/fwc.toml");
            let default = if system.exists() {
                "/etc/fwc/fwc.toml"
            } else {
                "fwc.toml"
            };
            PathBuf::from(default)
        }
    }
}

/// Reads, checks and expands a policy. `None` after an error, which was printed.
pub fn compile(
    path: &Path,
    templates: &TemplateArgs,
    access: Access,
    output: &Output,
) -> Option<Compiled> {
    let (result, sources, findings) = compile_quietly(path, templates, access);
    output.diagnostics(&findings, &sources);
    match result {
        Ok((plan, rendered)) => Some(Compiled {
            plan,
            rendered,
            sources,
            findings,
        }),
        Err(stopped) => {
            match stopped {
                Stopped::Policy => output.message(&count(&findings, path)),
                Stopped::Templates(reason) => output.fatal(&reason),
            }
            None
        }
    }
}

/// Why there are no rules.
#[derive(Debug)]
pub enum Stopped {
    /// The policy is wrong; the findings say how.
    Policy,
    /// The templates are.
    Templates(String),
}

/// The same without printing.
pub fn compile_quietly(
    path: &Path,
    templates: &TemplateArgs,
    access: Access,
) -> (Result<(Plan, Rendered), Stopped>, SourceMap, Sink) {
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(path, access, &mut sources, &mut sink);
    let plan = policy.and_then(|policy| {
        check_expiry(&policy, today(), &mut sink);
        resolve(&policy, &mut sink)
    });
    let result = match plan {
        None => Err(Stopped::Policy),
        Some(plan) => match &templates.folder {
            Some(folder) => Templates::with_folder(folder, access),
            None => Templates::built_in(),
        }
        .and_then(|templates| expand(&plan, &templates))
        .map(|rendered| (plan, rendered))
        .map_err(|error| Stopped::Templates(error.to_string())),
    };
    (result, sources, sink)
}

/// The day that counts for rules that end: today, or the one of `SOURCE_DATE_EPOCH`, so that a check can be repeated.
fn today() -> Date {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok();
    let said = said.and_then(|text| jiff::Timestamp::from_second(text.parse().ok()?).ok());
    let now = said.unwrap_or_else(jiff::Timestamp::now);
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    Date {
        year: date.year().unsigned_abs(),
        month: date.month().unsigned_abs(),
        day: date.day().unsigned_abs(),
    }
}

/// `fwc.toml: 2 errors, 1 warning`
pub fn count(findings: &Sink, path: &Path) -> String {
    let of = |severity: Severity, word: &str| {
        let number = findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        match number {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{number} {word}s")),
        }
    };
    let counts = [
        of(Severity::Error, "error"),
        of(Severity::Warning, "warning"),
        of(Severity::Note, "note"),
    ];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    format!("{}: {}", path.display(), counts.join(", "))
}

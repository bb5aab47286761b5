//! Finds, compiles and reports the policy of a command.

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Output;
use crate::compile::{
    self, Compilation, CompilationStopped, Compiled, Deny, Options, PolicyParts, Tested,
};
use crate::diag::{Code, Severity, Sink};
use crate::explain::Subject;
use crate::files::{Access, Disk, Files};
use crate::lints::Lint;
use crate::net::Date;
use crate::source::SourceMap;

/// The policy argument of a command, and the options to compile it.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// The policy file [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY")]
    pub policy: Option<PathBuf>,
    #[command(flatten)]
    pub compile: CompileArgs,
}

/// Options for compiling.
#[derive(Clone, Debug, Args)]
pub struct CompileArgs {
    /// A folder of templates that replace the built-in ones of the same name
    #[arg(long, value_name = "DIR")]
    pub templates: Option<PathBuf>,
    /// Do not prove that the rules match the policy; the rules files are marked as unverified
    #[arg(long)]
    pub no_verify: bool,
    /// Allow up to N lines of rules for each family [default: 1000000, and an estimated 2 GiB]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub max_lines: Option<u64>,
    /// Treat this lint, or all `warnings`, as errors
    #[arg(long, value_name = "LINT", value_parser = lint)]
    pub deny: Vec<DenyArg>,
}

/// A value of `--deny`.
#[derive(Clone, Copy, Debug)]
pub enum DenyArg {
    /// Every warning.
    Warnings,
    /// One lint.
    Lint(Code),
}

fn lint(text: &str) -> Result<DenyArg, String> {
    if text == "warnings" {
        return Ok(DenyArg::Warnings);
    }
    let found = Lint::named(text);
    found.map(|lint| DenyArg::Lint(lint.code)).ok_or_else(|| {
        let names: Vec<_> = Lint::names().collect();
        format!("unknown lint: use `warnings`, {}", names.join(", "))
    })
}

impl CompileArgs {
    /// Returns the warnings and lints to treat as errors (`--deny`).
    pub fn denied(&self) -> Deny {
        let mut deny = Deny::default();
        for denied in &self.deny {
            match denied {
                DenyArg::Warnings => deny.warnings = true,
                DenyArg::Lint(code) => deny.codes.push(*code),
            }
        }
        deny
    }
}

/// Returns the named policy, else `./fwc.toml`, else `/etc/fwc/fwc.toml`.
pub fn policy_path(named: Option<&Path>) -> PathBuf {
    let system = Path::new("/etc/fwc/fwc.toml");
    match named {
        Some(path) => path.to_owned(),
        None if !Path::new("fwc.toml").exists() && system.exists() => system.to_owned(),
        None => PathBuf::from("fwc.toml"),
    }
}

/// Compiles a policy and prints nothing.
pub fn compile_quietly(path: &Path, args: &CompileArgs, access: Access) -> Compilation {
    with_options(args, access, |options| compile::compile(path, options))
}

fn with_options(
    args: &CompileArgs,
    access: Access,
    compile: impl FnOnce(Options<'_>) -> Compilation,
) -> Compilation {
    let deny = args.denied();
    if args.templates.is_some() {
        bound_memory();
    }
    compile(Options {
        access,
        verify: !args.no_verify,
        deny: &deny,
        templates: args.templates.as_deref(),
        max_lines: args.max_lines,
        today: today(),
    })
}

/// Limits the memory of this process. A template can double a string in a loop without printing it, which the limits on steps and
/// output do not see. With this limit an allocation in fwc fails; without it the kernel might kill another process.
fn bound_memory() {
    /// Twice the memory that 100,000 rules need.
    const MOST: u64 = 4 << 30;
    let limit = getrlimit(Resource::As);
    if limit.current.is_none_or(|current| current > MOST) {
        let current = Some(limit.maximum.map_or(MOST, |maximum| maximum.min(MOST)));
        // If the system refuses, it enforces a limit of its own.
        let _ = setrlimit(Resource::As, Rlimit { current, ..limit });
    }
}

/// Compiles a policy and prints its findings. Returns `None` after printing an error.
pub fn compile(
    path: &Path,
    args: &CompileArgs,
    access: Access,
    output: &Output,
) -> Option<Compiled> {
    compile_from(&Disk, path, args, access, output).map(|(compiled, _)| compiled)
}

/// Compiles a policy from other files than those of this machine, such as a git revision; also returns the files that were read.
pub fn compile_from(
    files: &dyn Files,
    path: &Path,
    args: &CompileArgs,
    access: Access,
    output: &Output,
) -> Option<(Compiled, SourceMap)> {
    let Compilation {
        sources,
        findings,
        result,
    } = with_options(args, access, |options| {
        compile::compile_from(files, path, options)
    });
    output.diagnostics(&findings, &sources);
    match result {
        Ok(compiled) => Some((compiled, sources)),
        Err(CompilationStopped) => {
            output.message(&count(&findings, &files.shown(path)));
            None
        }
    }
}

/// Compiles a policy and proves its tests only; prints nothing.
pub fn test_quietly(path: &Path, templates: Option<&Path>) -> Tested {
    compile::test_policy(path, only_read(&Deny::default(), templates))
}

/// Compiles a policy without the proof, for `explain`. Returns `None` after printing its errors; warnings are not printed.
pub fn subject(path: &Path, templates: Option<&Path>, output: &Output) -> Option<Subject> {
    let opened = compile::open_policy(path, only_read(&Deny::default(), templates));
    match opened.result {
        Ok(PolicyParts {
            policy,
            plan,
            rendered,
            read,
        }) => Some(Subject::of_policy(
            policy,
            plan,
            opened.sources,
            rendered,
            &read,
        )),
        Err(CompilationStopped) => {
            output.diagnostics(&opened.findings, &opened.sources);
            output.message(&count(&opened.findings, path));
            None
        }
    }
}

fn only_read<'a>(deny: &'a Deny, templates: Option<&'a Path>) -> Options<'a> {
    Options {
        access: Access::Read,
        verify: false,
        deny,
        templates,
        max_lines: None,
        today: today(),
    }
}

/// Returns the current date (UTC) for warnings about rules that expire, or that of `SOURCE_DATE_EPOCH`, so that a check can be repeated.
fn today() -> Date {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok();
    let fixed = fixed.and_then(|text| jiff::Timestamp::from_second(text.parse().ok()?).ok());
    let now = fixed.unwrap_or_else(jiff::Timestamp::now);
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Returns the number of findings: `fwc.toml: 2 errors, 1 warning`.
pub fn count(findings: &Sink, path: &Path) -> String {
    let of = |severity: Severity, word: &str| {
        let of_severity = findings.iter().filter(|f| f.severity == severity);
        match of_severity.count() {
            0 => None,
            1 => Some(format!("1 {word}")),
            more => Some(format!("{more} {word}s")),
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

//! The whole way from a policy's file to its rules.

use std::path::Path;

use crate::diag::{Code, Level, Severity, Sink};
use crate::expand::{Rendered, TemplateError, Templates, expand};
use crate::files::Access;
use crate::net::Date;
use crate::policy;
use crate::resolve::{Plan, check_expiry, resolve};
use crate::source::SourceMap;

/// How to compile.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// What the files are read for.
    pub access: Access,
    /// A folder of templates that take the place of the built-in ones.
    pub templates: Option<&'a Path>,
    /// What is an error besides errors.
    pub deny: &'a Deny,
    /// The day that counts for rules that end. The rules that come out do not depend on it.
    pub today: Date,
}

/// Findings that are errors though the policy does not say so: `--deny` of the command line.
#[derive(Clone, Debug, Default)]
pub struct Deny {
    /// Every warning.
    pub warnings: bool,
    /// These lints.
    pub codes: Vec<Code>,
}

impl Deny {
    fn denies(&self, code: Code, severity: Severity, said: Option<Level>) -> bool {
        let warns = match said {
            Some(level) => level == Level::Warn,
            None => severity == Severity::Warning,
        };
        self.codes.contains(&code) || (self.warnings && warns)
    }
}

/// What became of a policy.
#[derive(Debug)]
pub struct Compilation {
    /// The files that were read.
    pub sources: SourceMap,
    /// What is to be said about them.
    pub findings: Sink,
    /// The rules, or why there are none.
    pub result: Result<Compiled, Stopped>,
}

/// A policy that was compiled.
#[derive(Debug)]
pub struct Compiled {
    /// What the policy means.
    pub plan: Plan,
    /// Its rules files.
    pub rendered: Rendered,
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The findings say it.
    #[error("the policy is wrong")]
    Policy,
    /// A template is wrong.
    #[error(transparent)]
    Templates(#[from] TemplateError),
}

/// Reads, checks and expands a policy.
///
/// ```
/// use fwc::compile::{Deny, Options, compile};
/// use fwc::files::Access;
/// use fwc::net::{Date, Family};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let today = Date { year: 2026, month: 1, day: 1 };
/// let deny = Deny::default();
/// let options = Options { access: Access::Read, templates: None, deny: &deny, today };
/// let compiled = compile(&path, options).result?;
/// let rules = compiled.rendered.rules[Family::V4].text();
/// assert!(rules.contains("-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compile(path: &Path, options: Options<'_>) -> Compilation {
    let (mut sources, mut findings) = (SourceMap::new(), Sink::new());
    let policy = policy::load(path, options.access, &mut sources, &mut findings);
    let plan = policy.and_then(|policy| {
        check_expiry(&policy, options.today, &mut findings);
        let plan = resolve(&policy, &mut findings);
        findings.apply_levels(|finding| {
            let said = policy.lints.get(&finding.code).map(|level| level.value);
            let denied = options.deny.denies(finding.code, finding.severity, said);
            if denied { Some(Level::Deny) } else { said }
        });
        plan.filter(|_| !findings.has_errors())
    });
    let result = match plan {
        None => Err(Stopped::Policy),
        Some(plan) => render(plan, options).map_err(Stopped::from),
    };
    Compilation {
        sources,
        findings,
        result,
    }
}

fn render(plan: Plan, options: Options<'_>) -> Result<Compiled, TemplateError> {
    let templates = match options.templates {
        Some(folder) => Templates::with_folder(folder, options.access)?,
        None => Templates::built_in()?,
    };
    let rendered = expand(&plan, &templates)?;
    Ok(Compiled { plan, rendered })
}

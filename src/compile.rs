//! The whole way from a policy's file to its rules.

use std::path::Path;

use crate::diag::Sink;
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
    /// The day that counts for rules that end. The rules that come out do not depend on it.
    pub today: Date,
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
/// use fwc::compile::{Options, compile};
/// use fwc::files::Access;
/// use fwc::net::{Date, Family};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let today = Date { year: 2026, month: 1, day: 1 };
/// let options = Options { access: Access::Read, templates: None, today };
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
        resolve(&policy, &mut findings)
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

//! Runs a command on several policies at once: files, or folders with one policy for each host.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use rayon::prelude::*;

use super::compile::{CompileArgs, compile_quietly, count, policy_path};
use super::{Exit, Output};
use crate::compile::{Compilation, Compiled, Deny};
use crate::diag::{Diagnostic, FindingGroup, JsonFinding, for_people};
use crate::files::Access;

/// The policy arguments of a command.
#[derive(Clone, Debug, Args)]
pub struct PolicyPaths {
    /// Policy files, or folders with one policy file for each host [default: ./fwc.toml, else /etc/fwc/fwc.toml]
    #[arg(value_name = "POLICY")]
    policies: Vec<PathBuf>,
}

/// The policy arguments of a command, and the options to compile them.
#[derive(Clone, Debug, Args)]
pub struct CompileManyArgs {
    #[command(flatten)]
    hosts: PolicyPaths,
    #[command(flatten)]
    compile: CompileArgs,
}

/// One policy of several.
#[derive(Clone, Debug)]
pub struct HostPolicy {
    /// Its file.
    pub path: PathBuf,
    /// The host's name if there are several: the file name without `.toml`, or the whole path if two files have the same name.
    pub name: Option<String>,
}

impl HostPolicy {
    /// Returns the name of this host's folder below the output folder, if there are several hosts: the file name without `.toml`.
    pub fn folder(&self) -> Option<&Path> {
        self.name.as_ref().map(|_| Path::new(stem(&self.path)))
    }
}

/// The result of a command for one policy.
#[derive(Debug)]
pub struct HostReport {
    /// The exit status for this policy.
    pub exit: Exit,
    /// The lines to print, in order.
    pub lines: Vec<HostLine>,
}

/// A line of a report.
#[derive(Debug)]
pub enum HostLine {
    /// Progress or a result.
    Message(String),
    /// The reason why the command failed.
    Fatal(String),
}

/// Returns a line about what the proof covers, with the host's name if there are several.
pub fn proof_line(host: &HostPolicy, compiled: &Compiled) -> HostLine {
    let name = host.name.as_ref();
    let name = name.map_or(String::new(), |name| format!("{name}: "));
    let Some(proven) = &compiled.proof else {
        return HostLine::Message(format!("{name}not verified: --no-verify"));
    };
    let milliseconds = proven.took.as_secs_f64() * 1000.0;
    let mut line = format!(
        "{name}verified: all {} rules match the policy, for every packet ({milliseconds:.1} ms)",
        proven.proof.rules
    );
    match compiled.plan.tests.len() {
        0 => {}
        1 => line.push_str("; 1 test holds"),
        more => line.push_str(&format!("; {more} tests hold")),
    }
    if !proven.open_sets.is_empty() {
        let sets = proven.open_sets.join("`, `");
        line.push_str(&format!(
            "; not verified: members that other programs add to `{sets}`"
        ));
    }
    HostLine::Message(line)
}

impl HostReport {
    /// Creates the report of a command that failed.
    pub fn fatal(text: String) -> Self {
        Self {
            exit: Exit::Failed,
            lines: vec![HostLine::Fatal(text)],
        }
    }
}

/// A policy that was compiled, and the result of the command.
#[derive(Debug)]
pub struct HostOutcome {
    /// The policy.
    pub host: HostPolicy,
    /// The compilation: its sources, findings and rules.
    pub compilation: Compilation,
    /// Its findings by position, without those that were already reported for another policy.
    pub findings: Vec<Diagnostic>,
    /// The report of the command; `None` if the policy did not compile.
    pub report: Option<HostReport>,
}

impl HostOutcome {
    /// Prints the findings and the report.
    pub fn print(&self, output: &Output) {
        let Compilation {
            sources, findings, ..
        } = &self.compilation;
        output.findings(&for_people(&self.findings, sources), sources);
        if self.compilation.result.is_err() {
            output.message(&count(findings, &self.host.path));
        }
        for line in self.report.iter().flat_map(|report| &report.lines) {
            match line {
                HostLine::Message(text) => output.message(text),
                HostLine::Fatal(text) => output.fatal(text),
            }
        }
    }

    /// Returns the exit status for this policy.
    pub fn exit(&self) -> Exit {
        self.report
            .as_ref()
            .map_or(Exit::Failed, |report| report.exit)
    }
}

impl CompileManyArgs {
    /// Returns the warnings and lints to treat as errors (`--deny`).
    pub fn denied(&self) -> Deny {
        self.compile.denied()
    }

    /// Returns whether more than one policy was named.
    pub fn are_several(&self) -> bool {
        self.hosts.are_several()
    }

    /// Returns an error if the output of two policies would go to the same folder.
    pub fn are_apart(&self) -> Result<(), String> {
        let hosts = self.hosts.hosts()?;
        for (at, host) in hosts.iter().enumerate() {
            if let Some(twin) = hosts[..at].iter().find(|it| it.folder() == host.folder()) {
                return Err(format!(
                    "`{}` and `{}` have the same file name, which names the host: rename one of them",
                    twin.path.display(),
                    host.path.display()
                ));
            }
        }
        Ok(())
    }

    /// Compiles all policies in parallel, and runs `work` on those that compile. An error of one host does not stop the others.
    pub fn each(
        &self,
        work: impl Fn(&HostPolicy, &Compiled) -> HostReport + Sync,
    ) -> Result<Vec<HostOutcome>, String> {
        let mut outcomes = self.hosts.each(|host| {
            let compilation = compile_quietly(&host.path, &self.compile, Access::Read);
            let compiled = compilation.result.as_ref().ok();
            let report = compiled.map(|compiled| work(&host, compiled));
            HostOutcome {
                host,
                compilation,
                findings: Vec::new(),
                report,
            }
        })?;
        deduplicate(&mut outcomes);
        Ok(outcomes)
    }
}

/// Gives each outcome its findings. A finding in a file that several hosts include is reported once, for the first host, with a
/// note that names the others; otherwise a mistake in a shared file would be printed once for each host.
fn deduplicate(outcomes: &mut [HostOutcome]) {
    /// At most so many hosts are named in the note.
    const MOST_NAMES: usize = 8;
    let mut known: HashMap<JsonFinding, (usize, usize)> = HashMap::new();
    let mut hosts: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (at, outcome) in outcomes.iter_mut().enumerate() {
        let Compilation {
            sources, findings, ..
        } = &outcome.compilation;
        let name = outcome.host.name.clone().unwrap_or_default();
        for finding in findings.sorted() {
            let own = (at, outcome.findings.len());
            let first = match finding.primary {
                Some(_) => *known
                    .entry(JsonFinding::of(&FindingGroup::from(finding), sources))
                    .or_insert(own),
                None => own,
            };
            hosts.entry(first).or_default().push(name.clone());
            if first == own {
                outcome.findings.push(finding.clone());
            }
        }
    }
    for ((at, finding), names) in hosts {
        if names.len() < 2 {
            continue;
        }
        let shown = names[..names.len().min(MOST_NAMES)].join("`, `");
        let others = match names.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("on {} hosts: `{shown}`{others}", names.len());
        outcomes[at].findings[finding].notes.push(text);
    }
}

impl PolicyPaths {
    /// Returns whether more than one policy was named.
    pub fn are_several(&self) -> bool {
        self.policies.len() > 1 || self.policies.iter().any(|path| path.is_dir())
    }

    /// Runs `work` on each policy in parallel, and returns the results in the order of the policies.
    pub fn each<T: Send>(&self, work: impl Fn(HostPolicy) -> T + Sync) -> Result<Vec<T>, String> {
        let hosts = self.hosts()?;
        let progress = Progress::new(hosts.len());
        let done = hosts.into_par_iter().map(|host| {
            let done = work(host);
            progress.step();
            done
        });
        Ok(done.collect())
    }

    fn hosts(&self) -> Result<Vec<HostPolicy>, String> {
        if !self.are_several() {
            let path = policy_path(self.policies.first().map(PathBuf::as_path));
            return Ok(vec![HostPolicy { path, name: None }]);
        }
        let mut paths = Vec::new();
        for path in &self.policies {
            if path.is_dir() {
                paths.extend(policies_in(path)?);
            } else {
                paths.push(path.clone());
            }
        }
        let host = |path: &PathBuf| {
            let is_alone = paths.iter().filter(|it| stem(it) == stem(path)).count() == 1;
            let name = if is_alone {
                stem(path)
            } else {
                path.as_os_str()
            };
            HostPolicy {
                path: path.clone(),
                name: Some(name.to_string_lossy().into_owned()),
            }
        };
        Ok(paths.iter().map(host).collect())
    }
}

fn stem(path: &Path) -> &OsStr {
    path.file_stem().unwrap_or_default()
}

fn policies_in(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = folder.display();
    let unreadable = |error| format!("cannot read `{shown}`: {error}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = Path::new(&name);
        // Editors leave hidden files behind, such as `.#web.toml`. `include = "*.toml"` skips them, too.
        let is_hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
        if !is_hidden && name.extension().is_some_and(|it| it == "toml") {
            files.push(folder.join(name));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "`{shown}` has no policy: fwc expects a file `NAME.toml` for each host"
        ));
    }
    Ok(files)
}

/// A progress bar on standard error. It appears after half a second, so that short runs do not flicker, and only in a terminal.
struct Progress {
    bar: ProgressBar,
    begun: Instant,
    shown: Mutex<bool>,
}

impl Progress {
    fn new(hosts: usize) -> Self {
        let length = u64::try_from(hosts).unwrap_or(u64::MAX);
        Self {
            bar: ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden()),
            begun: Instant::now(),
            shown: Mutex::new(false),
        }
    }

    fn step(&self) {
        if let Ok(mut shown) = self.shown.lock()
            && !*shown
            && self.begun.elapsed() > Duration::from_millis(500)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            *shown = true;
        }
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

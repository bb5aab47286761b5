//! Reports a change for people and as JSON: what would be done, what was done, and what is pending.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::hooks::{self, HookResults, JsonHook};
use super::output::Document;
use super::{Format, Output};
use crate::apply::{self, ApplyPlan, CommitReport, Error, Finding, FindingKind};
use crate::diag::{ConcernName, Style, harmless};
use crate::live::Concern;
use crate::policy::CommandLine;

/// What a command did to the firewall, or would do.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ApplyDocument {
    /// Whether the command changed something, or would change something.
    changed: bool,
    /// Whether this was a dry run, which changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    /// `done`, `pending` (it reverts unless it is confirmed), or `taken-back` (it was reverted).
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The number of the change that is pending or was reverted.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    /// When a pending change reverts, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(flatten)]
    work: Option<JsonWork>,
    /// With `--dry-run`: a unified diff of the live rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
    /// The hooks that were run, or would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<Vec<JsonHook>>,
    /// Why the command failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Rules of other programs that stopped the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<Vec<ForeignRules>>,
}

impl Document for ApplyDocument {
    const SCHEMA: &'static str = "fwc.apply/1";
}

/// The parts of the firewall that change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonWork {
    /// The families whose live rules are replaced.
    replaced: Vec<&'static str>,
    /// Rules that fwc did not make and that are removed.
    removed: Vec<ForeignRules>,
    /// The sets, by name.
    sets: SetWork,
    /// The files for the next boot that are written.
    written: Vec<PathBuf>,
    /// The files for the next boot that are deleted.
    deleted: Vec<PathBuf>,
    /// The copies of files that were there before fwc's.
    kept: Vec<PathBuf>,
}

/// The sets that change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SetWork {
    created: Vec<String>,
    replaced: Vec<String>,
    removed: Vec<String>,
    /// Sets that could not be removed, and why.
    left: Vec<String>,
}

/// A rule, or a chain with its rules, that fwc did not make.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ForeignRules {
    /// `ipv4` or `ipv6`.
    family: &'static str,
    /// Its table.
    table: &'static str,
    /// Its chain.
    chain: String,
    /// The rule as iptables-save prints it; `null` for a whole chain.
    rule: Option<String>,
    /// The number of rules.
    rules: usize,
    /// The program that made it, as far as chain names tell.
    owner: Option<String>,
}

/// A host setting outside of iptables that changes what the rules do.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonConcern {
    /// Its name.
    name: ConcernName,
    /// What is set up, and what that does to the rules.
    what: String,
    /// What to do about it.
    advice: String,
}

impl From<&Concern> for JsonConcern {
    fn from(concern: &Concern) -> Self {
        Self {
            name: concern.name,
            what: concern.what.clone(),
            advice: concern.advice.clone(),
        }
    }
}

/// Prints the reports of one change.
pub struct ChangeWords<'a> {
    plan: &'a ApplyPlan<'a>,
    persist_dir: &'a Path,
    format: Format,
}

impl<'a> ChangeWords<'a> {
    /// Creates the reporter; prints nothing yet.
    pub fn new(plan: &'a ApplyPlan<'a>, persist_dir: &'a Path, format: Format) -> Self {
        Self {
            plan,
            persist_dir,
            format,
        }
    }

    /// Returns the diff, removals and hooks to show before asking, without control characters of quoted rules.
    pub fn question(&self, style: Style) -> String {
        let plan = self.plan;
        let hooks = hooks::lines("will run", plan.after_apply());
        plan.diff(style) + &harmless(&(removals(plan, "will remove") + &hooks))
    }

    /// Prints what a dry run found, and the hooks that would run.
    pub fn print_dry_run(&self, hooks: &[CommandLine], output: &Output) {
        let plan = self.plan;
        let would = CommitReport {
            replaced: plan.replaced(),
            sets: plan.sets(),
            written: plan.stale_files(),
            deleted: plan.needless_files(),
            ..CommitReport::default()
        };
        if self.format == Format::Json {
            output.json(&ApplyDocument {
                dry_run: Some(true),
                diff: Some(plan.diff(Style::Plain)),
                hooks: Some(hooks.iter().map(JsonHook::planned).collect()),
                ..ApplyDocument::of(plan, &would)
            });
            return;
        }
        output.result(&plan.diff(output.style()));
        let text = removals(plan, "would remove")
            + &summary(&would, self.persist_dir, &WOULD)
            + &hooks::lines("would run", hooks);
        output.result(&harmless(&text));
    }

    /// Prints what was done, for people only: before the hooks run, whose output follows.
    pub fn print_done(&self, done: &CommitReport, output: &Output) {
        if self.format == Format::Text {
            let text = removals(self.plan, "removed") + &summary(done, self.persist_dir, &DID);
            output.tell(&text);
        }
    }

    /// Prints what was done, for programs only: after the hooks, whose results are a part of the document.
    pub fn print_done_json(&self, done: &CommitReport, hooks: &HookResults, output: &Output) {
        if self.format == Format::Json {
            output.json(&ApplyDocument {
                state: Some("done"),
                hooks: Some(hooks.to_json()),
                error: hooks.error().map(str::to_owned),
                ..ApplyDocument::of(self.plan, done)
            });
        }
    }

    /// Prints what was done by a change that reverts unless it is confirmed.
    pub fn print_pending(&self, done: &CommitReport, pending: &PendingChange, output: &Output) {
        if self.format == Format::Json {
            output.json(&ApplyDocument {
                state: Some("pending"),
                number: Some(pending.number),
                deadline: Some(pending.until.clone()),
                ..ApplyDocument::of(self.plan, done)
            });
            return;
        }
        let mut text = removals(self.plan, "removed") + &summary(done, self.persist_dir, &DID);
        let _ = writeln!(text, "{pending}");
        output.tell(&text);
    }
}

/// A change that is active and reverts unless it is confirmed. `Display` says so in one line.
pub struct PendingChange {
    /// Its number in the history.
    pub number: u64,
    /// When it reverts, in milliseconds since boot: the wall clock may jump meanwhile.
    pub deadline: u64,
    /// The same as a time of day, in UTC.
    pub until: String,
}

impl fmt::Display for PendingChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.deadline.saturating_sub(apply::since_boot());
        write!(
            out,
            "Change {} is active. It reverts in {} s (at {}) unless you run `fwc confirm` (over SSH: from a new session).",
            self.number,
            left.div_ceil(1000),
            self.until
        )
    }
}

/// Returns one line for each thing that was done, or would be done.
fn summary(done: &CommitReport, persist_dir: &Path, verbs: &Verbs) -> String {
    let is_live_unchanged = done.replaced.is_empty() && done.sets.is_empty();
    if is_live_unchanged && done.written.is_empty() && done.deleted.is_empty() {
        let folder = persist_dir.display();
        return format!(
            "nothing to do: the live rules and the files in {folder} match the policy\n"
        );
    }
    let mut text = String::new();
    if done.replaced.is_empty() {
        text.push_str("the live rules match the policy already\n");
    } else {
        let families: Vec<_> = done.replaced.iter().map(ToString::to_string).collect();
        let (replace, families) = (verbs.replace, families.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{replace} the live rules: {families}");
    }
    let sets = &done.sets;
    for (verb, names) in [
        (verbs.create, &sets.created),
        (verbs.replace, &sets.replaced),
        (verbs.remove, &sets.removed),
    ] {
        if !names.is_empty() {
            let _ = writeln!(text, "{verb} sets: {}", names.join(", "));
        }
    }
    for left in &done.left {
        let _ = writeln!(text, "could not remove the set {left}");
    }
    text + &files(done, verbs)
}

/// Returns one line for each file for the next boot that was written, deleted or kept.
pub fn files(done: &CommitReport, verbs: &Verbs) -> String {
    let mut text = String::new();
    for path in &done.written {
        let _ = writeln!(text, "{} {}", verbs.write, path.display());
    }
    for path in &done.deleted {
        let _ = writeln!(text, "{} {}", verbs.remove, path.display());
    }
    for path in &done.kept {
        let _ = writeln!(text, "kept the file that was there as {}", path.display());
    }
    text
}

/// The verbs of a report: `would create` or `created`.
pub struct Verbs {
    create: &'static str,
    replace: &'static str,
    remove: &'static str,
    write: &'static str,
}

/// The verbs of a dry run.
const WOULD: Verbs = Verbs {
    create: "would create",
    replace: "would replace",
    remove: "would remove",
    write: "would write",
};

/// The verbs of a change that was made.
pub const DID: Verbs = Verbs {
    create: "created",
    replace: "replaced",
    remove: "removed",
    write: "wrote",
};

/// Returns one line for each rule or chain that fwc did not make and removes.
fn removals(plan: &ApplyPlan<'_>, verb: &str) -> String {
    let mut text = String::new();
    for finding in plan.removed() {
        let maker = match finding.owner {
            Some(owner) => format!("of {owner}"),
            None => "added by hand, or by an unknown tool".to_owned(),
        };
        let _ = writeln!(text, "{verb} ({maker}): {finding}");
    }
    text
}

impl ApplyDocument {
    fn of(plan: &ApplyPlan<'_>, done: &CommitReport) -> Self {
        let families: Vec<_> = done
            .replaced
            .iter()
            .map(|family| family.keyword())
            .collect();
        Self {
            changed: !families.is_empty()
                || !done.sets.is_empty()
                || !done.written.is_empty()
                || !done.deleted.is_empty(),
            dry_run: Some(false),
            work: Some(JsonWork {
                replaced: families,
                removed: plan.removed().map(ForeignRules::from).collect(),
                sets: SetWork {
                    created: done.sets.created.clone(),
                    replaced: done.sets.replaced.clone(),
                    removed: done.sets.removed.clone(),
                    left: done.left.clone(),
                },
                written: done.written.clone(),
                deleted: done.deleted.clone(),
                kept: done.kept.clone(),
            }),
            ..Self::default()
        }
    }

    /// Creates the document of a pending change that was reverted, or would be.
    pub fn taken_back(number: u64, dry_run: bool, hooks: &HookResults) -> Self {
        Self {
            changed: true,
            dry_run: Some(dry_run),
            state: (!dry_run).then_some("taken-back"),
            number: Some(number),
            hooks: Some(hooks.to_json()),
            error: hooks.error().map(str::to_owned),
            ..Self::default()
        }
    }

    /// Creates the document of a command that stopped with an error.
    pub fn failed(error: String, changed: bool) -> Self {
        Self {
            changed,
            error: Some(error),
            others: Some(Vec::new()),
            ..Self::default()
        }
    }
}

impl From<&Error> for ApplyDocument {
    fn from(error: &Error) -> Self {
        let mut document = Self::failed(error.to_string(), error.has_changed());
        if let Error::Others(findings) | Error::Strays(findings) = error {
            document.others = Some(findings.iter().map(ForeignRules::from).collect());
        }
        document
    }
}

impl From<&Finding> for ForeignRules {
    fn from(finding: &Finding) -> Self {
        let (rule, rules) = match &finding.what {
            FindingKind::Rule(spec) => (Some(format!("-A {} {spec}", finding.chain)), 1),
            FindingKind::Chain(rules) => (None, *rules),
        };
        Self {
            family: finding.family.keyword(),
            table: finding.table.as_str(),
            chain: finding.chain.clone(),
            rule,
            rules,
            owner: finding.owner.map(|owner| owner.to_string()),
        }
    }
}

//! How a change is reported: what would be done, what was, what waits.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::hooks::{self, JsonHook, Told};
use super::output::Document;
use super::{Format, Output};
use crate::apply::{ApplyPlan, CommitReport, Error, Finding, FindingKind};
use crate::diag::{Style, harmless};
use crate::live::preflight::Concern;
use crate::policy::CommandLine;

/// What a command did to the firewall, or would do.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ApplyDocument {
    /// Whether it changed something, or would.
    changed: bool,
    /// Whether it only says what it would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    /// `done`, `pending` where it reverts unless it is confirmed, or `taken-back`.
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
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Rules of others that stopped it.
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
    /// Where files that were in their places are kept.
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
    /// The program that made it, where fwc knows it.
    owner: Option<String>,
}

/// What makes the rules mean something else on this host.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonConcern {
    /// Its name.
    name: &'static str,
    /// What it is.
    what: String,
    /// What to do.
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

/// The words for one change.
pub struct ChangeWords<'a> {
    plan: &'a ApplyPlan<'a>,
    persist_dir: &'a Path,
    format: Format,
}

impl<'a> ChangeWords<'a> {
    /// Nothing is printed yet.
    pub fn new(plan: &'a ApplyPlan<'a>, persist_dir: &'a Path, format: Format) -> Self {
        Self {
            plan,
            persist_dir,
            format,
        }
    }

    /// What somebody has to know before saying yes; nothing harmful is in it.
    pub fn question(&self, style: Style) -> String {
        let plan = self.plan;
        let hooks = hooks::lines("will run", plan.after_apply());
        plan.diff(style) + &harmless(&(removals(plan, "will remove") + &hooks))
    }

    /// What would be done, and run then.
    pub fn would(&self, hooks: &[CommandLine], output: &Output) {
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

    /// What was done, for people: before the hooks run.
    pub fn tell(&self, done: &CommitReport, output: &Output) {
        if self.format == Format::Text {
            let text = removals(self.plan, "removed") + &summary(done, self.persist_dir, &DID);
            output.tell(&text);
        }
    }

    /// What was done, for programs: when the hooks have run.
    pub fn did(&self, done: &CommitReport, hooks: &Told, output: &Output) {
        if self.format == Format::Json {
            output.json(&ApplyDocument {
                state: Some("done"),
                hooks: Some(hooks.to_json()),
                error: hooks.error().map(str::to_owned),
                ..ApplyDocument::of(self.plan, done)
            });
        }
    }

    /// What was done and goes back unless it is confirmed.
    pub fn pending(&self, done: &CommitReport, number: u64, until: &str, output: &Output) {
        if self.format == Format::Json {
            output.json(&ApplyDocument {
                state: Some("pending"),
                number: Some(number),
                deadline: Some(until.to_owned()),
                ..ApplyDocument::of(self.plan, done)
            });
            return;
        }
        let mut text = removals(self.plan, "removed") + &summary(done, self.persist_dir, &DID);
        let _ = writeln!(text, "{}", goes_back(number, until));
        output.tell(&text);
    }
}

/// What becomes of a change that waits.
pub fn goes_back(number: u64, until: &str) -> String {
    format!(
        "change {number} is in force, and goes back at {until} unless it is confirmed: `fwc confirm`, over SSH from a new connection"
    )
}

/// What was done, a line each.
pub fn summary(done: &CommitReport, persist_dir: &Path, verbs: &Verbs) -> String {
    let is_live_right = done.replaced.is_empty() && done.sets.is_empty();
    if is_live_right && done.written.is_empty() && done.deleted.is_empty() {
        let folder = persist_dir.display();
        return format!(
            "nothing to do: the live rules and those in {folder} are as the policy says\n"
        );
    }
    let mut text = String::new();
    if done.replaced.is_empty() {
        text.push_str("the live rules are as the policy says; nothing to do there\n");
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

/// What became of the files for the next boot.
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

/// How it is said.
pub struct Verbs {
    create: &'static str,
    replace: &'static str,
    remove: &'static str,
    write: &'static str,
}

const WOULD: Verbs = Verbs {
    create: "would create",
    replace: "would replace",
    remove: "would remove",
    write: "would write",
};

/// Of what was done.
pub const DID: Verbs = Verbs {
    create: "created",
    replace: "replaced",
    remove: "removed",
    write: "wrote",
};

/// The rules that are no part of what fwc made, and go.
fn removals(plan: &ApplyPlan<'_>, verb: &str) -> String {
    let mut text = String::new();
    for finding in plan.removed() {
        let maker = match finding.owner {
            Some(owner) => format!("of {owner}"),
            None => "added by hand".to_owned(),
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

    /// A pending change was reverted, or would be.
    pub fn taken_back(number: u64, dry_run: bool, hooks: &Told) -> Self {
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

    /// It stopped with an error.
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

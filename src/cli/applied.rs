//! How a change is reported: what would be done, what was, what waits.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::hooks::{self, Told};
use super::{Format, Output};
use crate::apply::{Done, Error, Finding, Plan, What};
use crate::diag::{Style, harmless};
use crate::live::preflight::Concern;
use crate::policy::CommandLine;

/// The words for one change.
pub struct Words<'a> {
    plan: &'a Plan<'a>,
    persist_dir: &'a Path,
    format: Format,
}

impl<'a> Words<'a> {
    /// Nothing is printed yet.
    pub fn new(plan: &'a Plan<'a>, persist_dir: &'a Path, format: Format) -> Self {
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
        let would = Done {
            replaced: plan.replaced(),
            sets: plan.sets(),
            written: plan.stale_files(),
            deleted: plan.needless_files(),
            ..Done::default()
        };
        if self.format == Format::Json {
            let mut report = report_json(plan, &would);
            report["dry_run"] = json!(true);
            report["diff"] = json!(plan.diff(Style::Plain));
            report["hooks"] = hooks::would_json(hooks);
            output.json(&report);
            return;
        }
        output.result(&plan.diff(output.style()));
        let text = removals(plan, "would remove")
            + &summary(&would, self.persist_dir, &WOULD)
            + &hooks::lines("would run", hooks);
        output.result(&harmless(&text));
    }

    /// What was done, for people: before the hooks run.
    pub fn tell(&self, done: &Done, output: &Output) {
        if self.format == Format::Text {
            let text = removals(self.plan, "removed") + &summary(done, self.persist_dir, &DID);
            output.tell(&text);
        }
    }

    /// What was done, for programs: when the hooks have run.
    pub fn did(&self, done: &Done, hooks: &Told, output: &Output) {
        if self.format == Format::Json {
            let mut report = report_json(self.plan, done);
            report["state"] = json!("done");
            hooks.report(&mut report);
            output.json(&report);
        }
    }

    /// What was done and goes back unless it is confirmed.
    pub fn pending(&self, done: &Done, number: u64, until: &str, output: &Output) {
        if self.format == Format::Json {
            let mut report = report_json(self.plan, done);
            report["state"] = json!("pending");
            report["number"] = json!(number);
            report["deadline"] = json!(until);
            output.json(&report);
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
pub fn summary(done: &Done, persist_dir: &Path, verbs: &Verbs) -> String {
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
pub fn files(done: &Done, verbs: &Verbs) -> String {
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
fn removals(plan: &Plan<'_>, verb: &str) -> String {
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

fn report_json(plan: &Plan<'_>, done: &Done) -> Value {
    let families: Vec<_> = done
        .replaced
        .iter()
        .map(|family| family.keyword())
        .collect();
    json!({
        "schema": "fwc.apply/1",
        "changed": !families.is_empty()
            || !done.sets.is_empty()
            || !done.written.is_empty()
            || !done.deleted.is_empty(),
        "dry_run": false,
        "replaced": families,
        "removed": plan.removed().map(finding_json).collect::<Vec<_>>(),
        "sets": {
            "created": done.sets.created,
            "replaced": done.sets.replaced,
            "removed": done.sets.removed,
            "left": done.left,
        },
        "written": done.written,
        "deleted": done.deleted,
        "kept": done.kept,
    })
}

/// A change that waited was taken back, or would be.
pub fn back_json(number: u64, dry_run: bool, hooks: &Told) -> Value {
    let mut report = json!({
        "schema": "fwc.apply/1",
        "changed": true,
        "dry_run": dry_run,
        "number": number,
    });
    if !dry_run {
        report["state"] = json!("taken-back");
    }
    hooks.report(&mut report);
    report
}

/// Why it stopped, and what that means for the firewall.
pub fn error_json(error: &Error) -> Value {
    let mut report = failure_json(&error.to_string(), error.has_changed());
    if let Error::Others(findings) | Error::Strays(findings) = error {
        report["others"] = findings.iter().map(finding_json).collect();
    }
    report
}

/// Why nothing came of it.
pub fn failure_json(error: &str, changed: bool) -> Value {
    json!({
        "schema": "fwc.apply/1",
        "changed": changed,
        "error": error,
        "others": [],
    })
}

/// What makes the rules mean something else than they say.
pub fn concerns_json(concerns: &[Concern]) -> Value {
    let one = |one: &Concern| json!({ "name": one.name, "what": one.what, "advice": one.advice });
    concerns.iter().map(one).collect()
}

fn finding_json(finding: &Finding) -> Value {
    let (rule, rules) = match &finding.what {
        What::Rule(spec) => (Some(format!("-A {} {spec}", finding.chain)), 1),
        What::Chain(rules) => (None, *rules),
    };
    json!({
        "family": finding.family.keyword(),
        "table": finding.table.as_str(),
        "chain": finding.chain,
        "rule": rule,
        "rules": rules,
        "owner": finding.owner.map(|owner| owner.to_string()),
    })
}

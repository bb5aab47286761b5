//! `fwc apply`

use std::fmt::Write;
use std::io::{IsTerminal, stderr, stdin};
use std::path::PathBuf;

use clap::Args as ClapArgs;
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::compile::{PolicyArgs, compile, policy_path};
use super::host::HostArgs;
use super::{Exit, Format, Output};
use crate::apply::{self, Done, Error, Finding, Plan, Request, Store, What};
use crate::diag::Style;
use crate::files::Access;
use crate::live::{self, NamespaceId, Real};
use crate::net::PerFamily;
use crate::resolve::Ownership;

/// Put a policy in force, in the network namespace that fwc runs in
///
/// The rules are loaded in a scratch network namespace first. When loading one family fails, or the kernel holds other
/// rules than it was given, both families and the sets go back to what they were. Rules that fwc did not make stop it.
#[derive(Debug, ClapArgs)]
#[command(mut_arg("no_verify", |argument| argument.hide(true)))] // refused with words of its own
pub struct Args {
    #[command(flatten)]
    policy: PolicyArgs,
    /// Show what would change, and change nothing; exit status 2 when something would
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Remove rules that fwc did not make (Docker's, fail2ban's, yours)
    #[arg(long)]
    take_over: bool,
    /// Where rules.v4, rules.v6 and ipsets are kept for the next boot
    #[arg(long, value_name = "DIR", default_value = "/etc/iptables")]
    persist_dir: PathBuf,
    /// Where fwc remembers what it applied
    #[arg(
        long,
        value_name = "DIR",
        env = "FWC_STATE_DIR",
        hide_env_values = true,
        default_value = "/var/lib/fwc"
    )]
    state_dir: PathBuf,
    #[command(flatten)]
    host: HostArgs,
    /// The form of the report
    #[arg(long, value_enum, default_value = "text", help_heading = "Output")]
    format: Format,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output) -> Exit {
    if let Some((exit, text)) = args.refusal() {
        output.fatal(&text);
        return exit;
    }
    let path = policy_path(args.policy.policy.as_deref());
    let Some(compiled) = compile(&path, &args.policy.compile, Access::Apply, output) else {
        if args.format == Format::Json {
            output.json(&error_json("the policy has errors", false, &[]));
        }
        return Exit::Failed;
    };
    if let Some(text) = unsupported(&compiled.plan.ownership) {
        if args.format == Format::Json {
            output.json(&error_json(text, false, &[]));
        }
        output.fatal(text);
        return Exit::Failed;
    }
    let payload = compiled.rendered.texts();
    let sets = compiled.rendered.ipsets.as_deref();
    match args.transaction(&payload, sets, output) {
        Ok(exit) => exit,
        Err(error) => {
            if args.format == Format::Json {
                let others = match &error {
                    Error::Others(findings) => findings.as_slice(),
                    _ => &[],
                };
                output.json(&error_json(&error.to_string(), error.has_changed(), others));
            }
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

/// What a policy may ask for and `apply` cannot do yet: nothing is changed then.
fn unsupported(ownership: &Ownership) -> Option<&'static str> {
    match ownership {
        Ownership::Exclusive { preserve } if preserve.is_empty() => None,
        Ownership::Exclusive { .. } => Some(
            "`apply` does not support `preserve` in [ownership] yet: it would remove what is to stay\n`fwc build` writes the rules files",
        ),
        Ownership::Shared => Some(
            "`apply` does not support `mode = \"shared\"` in [ownership] yet: it would remove others' rules\n`fwc build` writes the rules files, for `iptables-restore --noflush`",
        ),
    }
}

impl Args {
    /// What is wrong with the invocation, before anything is read: exit status and words.
    fn refusal(&self) -> Option<(Exit, String)> {
        if self.policy.compile.no_verify {
            let text = "`apply` puts only in force what is proven: leave `--no-verify` out";
            return Some((Exit::Usage, text.to_owned()));
        }
        let can_ask = stdin().is_terminal() && stderr().is_terminal();
        if !self.dry_run && !self.yes && !can_ask {
            let text = "`fwc apply` asks before it changes the firewall, and there is no terminal to ask on\nadd --yes to change it, or --dry-run to see what would change";
            return Some((Exit::Usage, text.to_owned()));
        }
        if !geteuid().is_root() {
            let text = "reading and changing the live firewall needs root\nrun it with sudo: `sudo fwc apply ...`";
            return Some((Exit::Failed, text.to_owned()));
        }
        None
    }

    fn transaction(
        &self,
        payload: &PerFamily<String>,
        sets: Option<&str>,
        output: &Output,
    ) -> Result<Exit, Error> {
        let mut host = Real::open(self.host.backend()).map_err(Error::Live)?;
        host.only_backend().map_err(Error::Live)?;
        let namespace = NamespaceId::current().map_err(|source| {
            Error::Live(live::Error::Io {
                what: "cannot read the identity of the network namespace".to_owned(),
                source,
            })
        })?;
        let store = Store::new(&self.state_dir, namespace, &self.persist_dir);
        // A dry run makes no file, so that it takes no lock either.
        let _lock = if self.dry_run {
            None
        } else {
            Some(store.lock()?)
        };
        let request = Request {
            payload,
            sets,
            persist_dir: &self.persist_dir,
            take_over: self.take_over,
        };
        let plan = apply::plan(&host, &store, request)?;
        if self.dry_run {
            self.report_plan(&plan, output);
            return Ok(if plan.is_nothing() {
                Exit::Fine
            } else {
                Exit::Different
            });
        }
        if !self.yes && plan.changes_live() {
            let text = plan.diff(output.style()) + &removals(&plan, "will remove");
            output.message(text.trim_end());
            if !output.ask("Put this in force?") {
                output.fatal("not confirmed; nothing was changed");
                return Ok(Exit::Failed);
            }
        }
        let done = apply::commit(&mut host, &store, &plan)?;
        self.report_done(&plan, &done, output);
        Ok(Exit::Fine)
    }

    fn report_plan(&self, plan: &Plan<'_>, output: &Output) {
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
            output.json(&report);
            return;
        }
        output.result(&plan.diff(output.style()));
        output.result(&removals(plan, "would remove"));
        output.result(&self.summary(&would, &WOULD));
    }

    fn report_done(&self, plan: &Plan<'_>, done: &Done, output: &Output) {
        if self.format == Format::Json {
            output.json(&report_json(plan, done));
            return;
        }
        let text = removals(plan, "removed") + &self.summary(done, &DID);
        output.tell(&text);
    }

    fn summary(&self, done: &Done, verbs: &Verbs) -> String {
        let is_live_right = done.replaced.is_empty() && done.sets.is_empty();
        if is_live_right && done.written.is_empty() && done.deleted.is_empty() {
            let folder = self.persist_dir.display();
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
}

/// How it is said.
struct Verbs {
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

const DID: Verbs = Verbs {
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

fn error_json(error: &str, changed: bool, others: &[Finding]) -> Value {
    json!({
        "schema": "fwc.apply/1",
        "changed": changed,
        "error": error,
        "others": others.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let (rule, rules) = match &finding.what {
        What::Rule(spec) => (Some(format!("-A {} {spec}", finding.chain)), 1),
        What::Chain(rules) => (None, *rules),
    };
    json!({
        "family": finding.family.keyword(),
        "table": finding.table.name(),
        "chain": finding.chain,
        "rule": rule,
        "rules": rules,
        "owner": finding.owner.map(|owner| owner.to_string()),
    })
}

//! `fwc status`

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;

use super::change_report::JsonConcern;
use super::history::OpenChange;
use super::output::Document;
use super::state::StateArgs;
use super::{Exit, Format, Output};
use crate::apply::{
    self, ChainDrift, Drift, Error, FileChange, JournalStep, OwedHook, RuleDriftKind, Status,
};
use crate::diag::harmless;
use crate::live::owners::Owner;
use crate::net::Family;

/// Show whether the live firewall is still as applied; exit status 2 if it is not
///
/// Compares fwc's live rules and sets, and the files for the next boot, with the last change. It changes nothing, and does
/// not wait for a running fwc.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    state: StateArgs,
    /// The format of the result
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json, Format::Prometheus]), default_value = "text", help_heading = "Output")]
    format: Format,
}

/// The live firewall against what was applied last.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusDocument {
    /// Whether the live firewall and the files for the next boot are as applied, no change is open, and every hook succeeded.
    as_applied: bool,
    /// Whether something loads the rules at the next boot, as far as fwc knows.
    loaded_at_boot: bool,
    /// The change that was confirmed last.
    applied: Option<AppliedChange>,
    /// The change that is pending, is being made, or was interrupted by a crash.
    open: Option<OpenChange>,
    /// Whether none of the applied rules is live.
    gone: bool,
    /// The chains that differ.
    drift: Vec<JsonChainDrift>,
    /// The sets that differ.
    sets: SetDrift,
    /// The files for the next boot that differ.
    files: Vec<JsonFileDrift>,
    /// The hooks that have not succeeded yet.
    hooks: Option<OwedHooks>,
    /// Host settings outside of iptables that change what the rules do.
    concerns: Vec<JsonConcern>,
}

impl Document for StatusDocument {
    const SCHEMA: &'static str = "fwc.status/1";
}

/// A change that was confirmed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AppliedChange {
    /// Its number.
    number: u64,
    /// When it ended, in UTC.
    time: String,
    /// The policy that was applied, or a description such as `rollback to 3 (web.toml)`.
    policy: String,
}

/// A chain that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonChainDrift {
    /// `ipv4` or `ipv6`.
    family: &'static str,
    /// Its table.
    table: &'static str,
    /// Its name.
    chain: String,
    #[serde(flatten)]
    what: JsonDrift,
}

/// How a chain differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "change", rename_all = "lowercase")]
enum JsonDrift {
    /// The live firewall does not have it.
    Missing {
        /// The number of its rules.
        rules: usize,
    },
    /// Only the live firewall has it.
    Added {
        /// The number of its rules.
        rules: usize,
        /// The program that made it, as far as chain names tell.
        owner: Option<String>,
    },
    /// It has other rules, or another policy.
    Changed {
        /// Its policy, where that differs.
        policy: Option<PolicyDrift>,
        /// Its rules that differ.
        rules: Vec<JsonRuleDrift>,
    },
}

/// The policy of a base chain that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PolicyDrift {
    /// The policy that was applied.
    applied: String,
    /// The policy of the live chain.
    live: String,
}

/// A rule that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonRuleDrift {
    /// What changed: `added`, `missing` or `moved`.
    change: &'static str,
    /// The rule as iptables-save prints it.
    rule: String,
    /// The program that added it, as far as chain names tell.
    owner: Option<String>,
}

/// The sets that differ, by name.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SetDrift {
    /// Sets that are not there.
    missing: Vec<String>,
    /// Sets with other members or another timeout.
    changed: Vec<String>,
    /// Sets that are not part of what was applied.
    needless: Vec<String>,
}

/// A file for the next boot that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonFileDrift {
    /// Its path.
    path: PathBuf,
    /// How it differs.
    change: &'static str,
}

/// The hooks of a change that have not succeeded yet.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OwedHooks {
    /// The number of the change.
    number: u64,
    owed: Vec<JsonOwedHook>,
}

/// A hook that has not succeeded yet.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonOwedHook {
    /// The program and its arguments.
    command: Vec<String>,
    /// Why it failed the last time; `null` if it was not run, or is running now.
    failed: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    if let Some(text) = StateArgs::needs_root("status") {
        output.fatal(&text);
        return Exit::Failed;
    }
    match args.status() {
        Ok(status) => {
            match args.format {
                Format::Json => output.json(&StatusDocument::of(&status)),
                Format::Prometheus => output.result(&metrics(&status)),
                _ => output.result(&harmless(&text(&status))),
            }
            if status.is_as_applied() && status.is_loaded_at_boot() {
                Exit::Fine
            } else {
                Exit::Different
            }
        }
        Err(error) => {
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

impl Args {
    fn status(&self) -> Result<Status, Error> {
        let state = self.state.of_last_change()?;
        let (host, store) = state.open()?;
        apply::status(&host, &store, &state.persist_dir())
    }
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    match &status.kept {
        // Writing to a String cannot fail.
        Some(entry) => drop(writeln!(
            text,
            "applied: change {} of {} ({})",
            entry.number, entry.time, entry.policy
        )),
        None => text.push_str("applied: nothing yet; run `fwc apply` first\n"),
    }
    if let Some((intent, step)) = &status.open {
        let (number, policy) = (intent.number, &intent.policy);
        let state = match step {
            JournalStep::Pending { until, .. } => {
                format!("waits for `fwc confirm` until {until}; live is compared with it")
            }
            JournalStep::Confirmed { .. } => "was confirmed, but not completed: run `fwc recover`".to_owned(),
            _ => "is in progress, or was interrupted: if no fwc is running, run `fwc recover`; live was not compared".to_owned(),
        };
        let _ = writeln!(text, "open:    change {number} ({policy}) {state}");
    }
    let is_compared = status.kept.is_some() || status.open.is_some();
    if status.is_live() && is_compared && !is_half_done(status) {
        text.push_str("live:    as applied\n");
    }
    if status.is_gone {
        text.push_str("live:    NONE of the applied rules is live: someone flushed them (nftables.service runs `nft flush ruleset` when it starts), or they were not loaded at boot\n");
    } else if !status.is_live() {
        text.push_str("live:    differs from what was applied (+ added, - removed, > moved)\n");
    }
    text.extend(status.chains.iter().map(chain_text));
    for (words, names) in [
        ("the set is missing", &status.sets.created),
        (
            "the set has other members or another timeout",
            &status.sets.replaced,
        ),
        (
            "the set is not part of what was applied",
            &status.sets.removed,
        ),
    ] {
        for name in names {
            let _ = writeln!(text, "  {name}: {words}");
        }
    }
    if !status.is_loaded_at_boot() {
        text.push_str("at boot: NOT loaded; see below\n");
    } else if status.files.is_empty() && status.kept.is_some() {
        text.push_str("at boot: the files are as applied\n");
    } else if !status.files.is_empty() {
        text.push_str("at boot: the files differ\n");
    }
    for file in &status.files {
        let words = match file.what {
            FileChange::Missing => "is missing",
            FileChange::Changed => "was changed",
            FileChange::Saved => {
                "was written by iptables-save (`netfilter-persistent save`?): the rules that other programs had then come back at boot"
            }
            FileChange::Needless => {
                "is left from an earlier change, and loads what is not applied any more"
            }
        };
        let _ = writeln!(text, "  {} {words}", file.path.display());
    }
    if let Some(owed) = &status.owed {
        let number = owed.number;
        let _ = writeln!(
            text,
            "hooks:   these hooks of change {number} have not succeeded yet; `fwc apply` and `fwc recover` run them"
        );
        for hook in &owed.hooks {
            let ended = hook.failed.as_deref().unwrap_or("not run, or running now");
            let _ = writeln!(text, "  `{}`: {ended}", hook.command);
        }
    }
    for concern in &status.concerns {
        let _ = writeln!(text, "beware:  {concern}");
    }
    if let (false, Some(entry)) = (status.is_live() && status.files.is_empty(), &status.kept) {
        let _ = writeln!(
            text,
            "what to do: add what you want to keep to the policy, then run `fwc apply` ({}); `--dry-run` shows what it would change",
            entry.policy
        );
    }
    text
}

/// Returns `true` while a change is between two rulesets, so that there is nothing to compare live with.
fn is_half_done(status: &Status) -> bool {
    let step = status.open.as_ref().map(|(_, step)| step);
    step.is_some_and(|step| {
        !matches!(
            step,
            JournalStep::Pending { .. } | JournalStep::Confirmed { .. }
        )
    })
}

fn chain_text(drift: &ChainDrift) -> String {
    let mut text = format!("  {} {} {}", drift.family, drift.table, drift.chain);
    match &drift.what {
        Drift::Gone { rules } => {
            let _ = writeln!(text, ": the chain is gone, with {}", count(*rules));
        }
        Drift::Extra { rules, owner } => {
            let (rules, maker) = (count(*rules), maker(*owner));
            let _ = writeln!(
                text,
                ": a chain that fwc did not make, with {rules}; {maker}"
            );
        }
        Drift::Changed { policy, rules } => {
            text.push('\n');
            if let Some([before, now]) = policy {
                let _ = writeln!(text, "    the policy is {now}; {before} was applied");
            }
            for rule in rules {
                let (spec, chain) = (&rule.spec, &drift.chain);
                let _ = match rule.what {
                    RuleDriftKind::Added => {
                        writeln!(
                            text,
                            "    + -A {chain} {spec}\n        {}",
                            maker(rule.owner)
                        )
                    }
                    RuleDriftKind::Missing => writeln!(text, "    - -A {chain} {spec}"),
                    RuleDriftKind::Elsewhere => writeln!(text, "    > -A {chain} {spec}"),
                };
            }
        }
    }
    text
}

fn count(rules: usize) -> String {
    match rules {
        1 => "1 rule".to_owned(),
        rules => format!("{rules} rules"),
    }
}

/// Names who made a rule or chain. fwc infers it from chain names; the kernel does not record it.
fn maker(owner: Option<Owner>) -> String {
    match owner {
        Some(owner) => format!("of {owner}"),
        None => "by hand, or by a tool that fwc does not know".to_owned(),
    }
}

impl StatusDocument {
    fn of(status: &Status) -> Self {
        let sets = &status.sets;
        Self {
            as_applied: status.is_as_applied(),
            loaded_at_boot: status.is_loaded_at_boot(),
            applied: status.kept.as_ref().map(|entry| AppliedChange {
                number: entry.number,
                time: entry.time.clone(),
                policy: entry.policy.clone(),
            }),
            open: status.open.as_ref().map(OpenChange::from),
            gone: status.is_gone,
            drift: status.chains.iter().map(JsonChainDrift::from).collect(),
            sets: SetDrift {
                missing: sets.created.clone(),
                changed: sets.replaced.clone(),
                needless: sets.removed.clone(),
            },
            files: status
                .files
                .iter()
                .map(|file| JsonFileDrift {
                    path: file.path.clone(),
                    change: file.what.keyword(),
                })
                .collect(),
            hooks: status.owed.as_ref().map(|owed| OwedHooks {
                number: owed.number,
                owed: owed.hooks.iter().map(JsonOwedHook::from).collect(),
            }),
            concerns: status.concerns.iter().map(JsonConcern::from).collect(),
        }
    }
}

impl From<&OwedHook> for JsonOwedHook {
    fn from(hook: &OwedHook) -> Self {
        Self {
            command: hook.command.words().map(str::to_owned).collect(),
            failed: hook.failed.clone(),
        }
    }
}

impl From<&ChainDrift> for JsonChainDrift {
    fn from(drift: &ChainDrift) -> Self {
        let name = |owner: &Option<Owner>| owner.map(|owner| owner.to_string());
        let chain = drift.chain.clone();
        Self {
            family: drift.family.keyword(),
            table: drift.table.as_str(),
            what: match &drift.what {
                Drift::Gone { rules } => JsonDrift::Missing { rules: *rules },
                Drift::Extra { rules, owner } => JsonDrift::Added {
                    rules: *rules,
                    owner: name(owner),
                },
                Drift::Changed { policy, rules } => JsonDrift::Changed {
                    policy: policy
                        .clone()
                        .map(|[applied, live]| PolicyDrift { applied, live }),
                    rules: rules
                        .iter()
                        .map(|rule| JsonRuleDrift {
                            change: rule.what.keyword(),
                            rule: format!("-A {chain} {}", rule.spec),
                            owner: name(&rule.owner),
                        })
                        .collect(),
                },
            },
            chain,
        }
    }
}

/// Returns the status in Prometheus' text format.
fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let yes = |is: bool| plain(u64::from(is));
    gauge(
        "fwc_as_applied",
        "Whether the live firewall and the files for the next boot are as applied, no change is open, and every hook succeeded.",
        &yes(status.is_as_applied()),
    );
    gauge(
        "fwc_loaded_at_boot",
        "Whether something loads the rules at the next boot, as far as fwc knows.",
        &yes(status.is_loaded_at_boot()),
    );
    let number = status.kept.as_ref().map_or(0, |entry| entry.number);
    gauge(
        "fwc_applied_change",
        "The number of the change that was confirmed last, 0 for none.",
        &plain(number),
    );
    let time = status.kept.as_ref().and_then(|entry| {
        let time: jiff::Timestamp = entry.time.parse().ok()?;
        u64::try_from(time.as_second()).ok()
    });
    gauge(
        "fwc_applied_timestamp_seconds",
        "When the change that was confirmed last ended.",
        &time.map(plain).unwrap_or_default(),
    );
    gauge(
        "fwc_open_change",
        "The number of the change that is pending or was interrupted, 0 for none.",
        &plain(status.open.as_ref().map_or(0, |(intent, _)| intent.number)),
    );
    let chains = |family: Family| {
        let of_family = status.chains.iter().filter(|chain| chain.family == family);
        u64::try_from(of_family.count()).unwrap_or(u64::MAX)
    };
    gauge(
        "fwc_drifted_chains",
        "Chains that are not as applied.",
        &Family::ALL.map(|family| {
            (
                format!("{{family=\"{}\"}}", family.keyword()),
                chains(family),
            )
        }),
    );
    let sets = &status.sets;
    let sets = sets.created.len() + sets.replaced.len() + sets.removed.len();
    gauge(
        "fwc_drifted_sets",
        "Sets that are not as applied.",
        &plain(u64::try_from(sets).unwrap_or(u64::MAX)),
    );
    gauge(
        "fwc_drifted_files",
        "Files for the next boot that are not as applied.",
        &plain(u64::try_from(status.files.len()).unwrap_or(u64::MAX)),
    );
    let owed = status.owed.as_ref().map_or(0, |owed| owed.hooks.len());
    gauge(
        "fwc_owed_hooks",
        "Hooks of the last change that have not succeeded yet.",
        &plain(u64::try_from(owed).unwrap_or(u64::MAX)),
    );
    gauge(
        "fwc_concerns",
        "Host settings outside of iptables that change what the rules do.",
        &plain(u64::try_from(status.concerns.len()).unwrap_or(u64::MAX)),
    );
    text
}

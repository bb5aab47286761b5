//! `fwc history`

use clap::Args as ClapArgs;
use serde::Serialize;

use super::output::Document;
use super::state::StateArgs;
use super::{Exit, Format, Output};
use crate::apply::{Error, HistoryEntry, Intent, JournalStep, TransactionOutcome};
use crate::diag::harmless;

/// List the changes of this host: when, which policy, kept or reverted
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    state: StateArgs,
    /// The format of the list
    #[arg(long, value_parser = Format::parser([Format::Text, Format::Json]), default_value = "text", help_heading = "Output")]
    format: Format,
}

/// The changes of this host.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HistoryDocument {
    /// The changes that ended, the oldest first.
    changes: Vec<JsonEntry>,
    /// The change that is pending, is being made, or was interrupted by a crash.
    open: Option<OpenChange>,
}

impl Document for HistoryDocument {
    const SCHEMA: &'static str = "fwc.history/1";
}

/// A change that ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct JsonEntry {
    /// Its number.
    number: u64,
    /// When it ended, in UTC.
    time: String,
    /// The policy that was applied, or a description such as `rollback to 3 (web.toml)`.
    policy: String,
    /// `kept` or `taken-back` (reverted).
    outcome: &'static str,
    /// Who confirmed it, or why it was reverted.
    by: String,
}

/// A change that has not ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OpenChange {
    /// Its number.
    number: u64,
    /// When it began, in UTC.
    begun: String,
    /// The policy that is applied, or a description such as `rollback to 3 (web.toml)`.
    policy: String,
    /// The last step that was reached.
    state: JournalStep,
}

impl From<&(Intent, JournalStep)> for OpenChange {
    fn from((intent, step): &(Intent, JournalStep)) -> Self {
        Self {
            number: intent.number,
            begun: intent.begun.clone(),
            policy: intent.policy.clone(),
            state: step.clone(),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    match args.list(output) {
        Ok(()) => Exit::Fine,
        Err(error) => {
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

impl Args {
    fn list(&self, output: &Output) -> Result<(), Error> {
        let store = self.state.of_last_change()?.store()?;
        let entries = store.history().entries()?;
        let open = store.journal().open()?;
        if self.format == Format::Json {
            output.json(&HistoryDocument {
                changes: entries.iter().map(JsonEntry::from).collect(),
                open: open.as_ref().map(OpenChange::from),
            });
            return Ok(());
        }
        let mut kept = entries
            .iter()
            .filter(|entry| entry.ruleset.is_some())
            .count();
        let mut text = String::new();
        for entry in &entries {
            // The argument of `fwc rollback` that leads to this ruleset.
            let back = if entry.ruleset.is_some() {
                kept -= 1;
                if kept == 0 {
                    "now".to_owned()
                } else {
                    format!("-{kept}")
                }
            } else {
                String::new()
            };
            let outcome = match &entry.outcome {
                TransactionOutcome::Kept(by) if by.is_empty() => String::new(),
                TransactionOutcome::Kept(by) => format!("; kept by {by}"),
                TransactionOutcome::TakenBack(why) => format!("; reverted: {why}"),
            };
            let (number, time, policy) = (entry.number, &entry.time, &entry.policy);
            text.push_str(&format!(
                "{number:>5} {back:>4}  {time}  {policy}{outcome}\n"
            ));
        }
        if let Some((intent, step)) = open {
            let state = match step {
                JournalStep::Pending { until, .. } => {
                    format!("waits for `fwc confirm` until {until}")
                }
                JournalStep::Confirmed { .. } => {
                    "confirmed, but not completed: run `fwc recover`".to_owned()
                }
                _ => "in progress, or interrupted: if no fwc is running, run `fwc recover`"
                    .to_owned(),
            };
            let (number, time, policy) = (intent.number, &intent.begun, &intent.policy);
            text.push_str(&format!("{number:>5}       {time}  {policy}; {state}\n"));
        }
        if text.is_empty() {
            text.push_str("nothing was applied yet\n");
        }
        output.result(&harmless(&text));
        Ok(())
    }
}

impl From<&HistoryEntry> for JsonEntry {
    fn from(entry: &HistoryEntry) -> Self {
        let (outcome, by) = match &entry.outcome {
            TransactionOutcome::Kept(by) => ("kept", by),
            TransactionOutcome::TakenBack(why) => ("taken-back", why),
        };
        Self {
            number: entry.number,
            time: entry.time.clone(),
            policy: entry.policy.clone(),
            outcome,
            by: by.clone(),
        }
    }
}

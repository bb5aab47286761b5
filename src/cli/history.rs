//! `fwc history`

use clap::Args as ClapArgs;
use serde_json::json;

use super::state::StateArgs;
use super::{Exit, Format, Output};
use crate::apply::{Entry, Error, Outcome, Step};
use crate::diag::harmless;

/// What was put in force, when, and what became of it
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    state: StateArgs,
    /// The form of the list
    #[arg(long, value_enum, default_value = "text", help_heading = "Output")]
    format: Format,
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
            let waiting = open.map(|(intent, step)| {
                json!({
                    "number": intent.number,
                    "begun": intent.begun,
                    "policy": intent.policy,
                    "state": step,
                })
            });
            output.json(&json!({
                "schema": "fwc.history/1",
                "changes": entries.iter().map(entry_json).collect::<Vec<_>>(),
                "open": waiting,
            }));
            return Ok(());
        }
        let mut kept = entries
            .iter()
            .filter(|entry| entry.ruleset.is_some())
            .count();
        let mut text = String::new();
        for entry in &entries {
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
                Outcome::Kept(by) if by.is_empty() => String::new(),
                Outcome::Kept(by) => format!("; kept by {by}"),
                Outcome::TakenBack(why) => format!("; taken back: {why}"),
            };
            let (number, time, policy) = (entry.number, &entry.time, &entry.policy);
            text.push_str(&format!(
                "{number:>5} {back:>4}  {time}  {policy}{outcome}\n"
            ));
        }
        if let Some((intent, step)) = open {
            let state = match step {
                Step::Pending { until, .. } => format!("waits for its confirmation until {until}"),
                Step::Confirmed { .. } => "confirmed, not completed: run `fwc recover`".to_owned(),
                _ => "being changed, or left half done: `fwc recover` ends it".to_owned(),
            };
            let (number, time, policy) = (intent.number, &intent.begun, &intent.policy);
            text.push_str(&format!("{number:>5}       {time}  {policy}; {state}\n"));
        }
        if text.is_empty() {
            text.push_str("nothing was put in force yet\n");
        }
        output.result(&harmless(&text));
        Ok(())
    }
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    let (outcome, words) = match &entry.outcome {
        Outcome::Kept(by) => ("kept", by),
        Outcome::TakenBack(why) => ("taken-back", why),
    };
    json!({
        "number": entry.number,
        "time": entry.time,
        "policy": entry.policy,
        "outcome": outcome,
        "by": words,
    })
}

//! Runs the policy's hooks after a change is kept, whichever command kept it.

use serde::Serialize;

use super::{Exit, Output};
use crate::apply::{self, Error, HookRun, Ran, Store, Watcher};
use crate::diag::harmless;
use crate::live::program::Ended;
use crate::policy::CommandLine;

/// The results of the hooks of a change.
pub struct HookResults {
    /// [`Exit::Failed`] if a hook, or another step after the change, failed.
    pub exit: Exit,
    ran: Ran,
    error: Option<String>,
}

impl HookResults {
    /// Creates the results of a command that runs no hook.
    pub fn none() -> Self {
        Self {
            exit: Exit::Fine,
            ran: Ran::default(),
            error: None,
        }
    }

    /// Adds another failure after the change; the change stays active.
    pub fn add_failure(&mut self, text: String) {
        self.exit = Exit::Failed;
        self.error = Some(match self.error.take() {
            Some(error) => format!("{text}\n{error}"),
            None => text,
        });
    }

    /// Returns the hooks that were run, for JSON.
    pub fn to_json(&self) -> Vec<JsonHook> {
        self.ran.hooks.iter().map(JsonHook::ran).collect()
    }

    /// Returns what failed after the change, if anything did.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// Runs the hooks that have not succeeded yet, and prints on standard error how each ended. The caller must not hold the lock:
/// a slow hook would keep others from changing or closing the firewall.
pub fn run(store: &Store, output: &Output) -> HookResults {
    let (ran, error) = match apply::run_owed(store, &mut HookPrinter(output)) {
        Ok(ran) => {
            let error = (!ran.is_fine()).then(|| failed(&ran));
            (ran, error)
        }
        Err(error) => (
            Ran::default(),
            Some(format!(
                "fwc cannot record which hooks ran, so they may run again; the firewall is not changed by this: {error}"
            )),
        ),
    };
    if let Some(error) = &error {
        output.fatal(error);
    }
    HookResults {
        exit: match error {
            Some(_) => Exit::Failed,
            None => Exit::Fine,
        },
        ran,
        error,
    }
}

/// Returns the hooks of an earlier change that have not succeeded yet.
pub fn owed(store: &Store) -> Result<Vec<CommandLine>, Error> {
    let owed = store.owed()?;
    let hooks = owed.into_iter().flat_map(|owed| owed.hooks);
    Ok(hooks.map(|hook| hook.command).collect())
}

/// Describes the hooks that failed, and what to do.
fn failed(ran: &Ran) -> String {
    let bad = ran.hooks.iter().filter(|hook| hook.ended != Ended::Fine);
    let bad: Vec<_> = bad
        .map(|hook| format!("`{}`: {}", hook.command, hook.ended))
        .collect();
    let mut text = format!(
        "change {} is kept, but not all of its hooks succeeded",
        ran.number
    );
    for line in &bad {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if ran.left > 0 {
        text.push_str(&format!("\n  {} more were not started", ran.left));
    }
    text.push_str("\nthe next `fwc apply` or `fwc recover` runs them again");
    text
}

/// Returns one line for each hook: `VERB the hook ...`.
pub fn lines(verb: &str, commands: &[CommandLine]) -> String {
    let lines = commands
        .iter()
        .map(|command| format!("{verb} the hook `{command}`\n"));
    lines.collect()
}

/// A hook, and its result if it was run.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonHook {
    /// The program and its arguments.
    command: Vec<String>,
    /// Whether it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    /// How it ended, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// What it printed on standard output and standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

impl JsonHook {
    /// Creates the entry of a hook that would be run.
    pub fn planned(command: &CommandLine) -> Self {
        Self {
            command: command.words().map(str::to_owned).collect(),
            ok: None,
            ended: None,
            output: None,
        }
    }

    fn ran(hook: &HookRun) -> Self {
        Self {
            ok: Some(hook.ended == Ended::Fine),
            ended: Some(hook.ended.to_string()),
            output: Some(hook.printed.clone()),
            ..Self::planned(&hook.command)
        }
    }
}

/// Prints the progress of hooks.
struct HookPrinter<'a>(&'a Output);

impl Watcher for HookPrinter<'_> {
    fn waits(&mut self, pid: Option<u32>) {
        let process = pid.map(|pid| format!(" (process {pid})"));
        self.0.message(&format!(
            "another fwc{} runs hooks; waiting until it is done",
            process.unwrap_or_default()
        ));
    }

    fn begins(&mut self, command: &CommandLine) {
        self.0.message(&format!("running the hook `{command}`"));
    }

    fn ended(&mut self, hook: &HookRun) {
        // A hook's output may hold control characters, which must not reach root's terminal.
        for line in harmless(&hook.printed).lines() {
            let line = format!("  | {line}");
            match hook.ended {
                Ended::Fine => self.0.message(&line),
                _ => self.0.detail(&line),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exit, HookResults};

    #[test]
    fn a_failure_after_the_change_fails_the_command() {
        let mut results = HookResults::none();
        results.add_failure("second".to_owned());
        results.add_failure("first".to_owned());
        assert!(results.exit == Exit::Failed);
        assert_eq!(results.error(), Some("first\nsecond"));
    }
}

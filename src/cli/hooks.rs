//! Running what a policy wants run when a change stays, by whichever command.

use serde::Serialize;

use super::{Exit, Output};
use crate::apply::{self, Error, HookRun, Ran, Store, Watcher};
use crate::diag::harmless;
use crate::live::program::Ended;
use crate::policy::CommandLine;

/// The outcome of the hooks of a change.
pub struct Told {
    /// The exit status, as far as the hooks decide it.
    pub exit: Exit,
    ran: Ran,
    error: Option<String>,
}

impl Told {
    /// No hook had to be run.
    pub fn nothing() -> Self {
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

/// Runs the hooks that are owed, and says on standard error how each ended. The caller does not hold the lock.
pub fn run(store: &Store, output: &Output) -> Told {
    let (ran, error) = match apply::run_owed(store, &mut Teller(output)) {
        Ok(ran) => {
            let error = (!ran.is_fine()).then(|| failed(&ran));
            (ran, error)
        }
        Err(error) => (
            Ran::default(),
            Some(format!(
                "fwc cannot read or write which hooks were run, so they may run again; the firewall stays as it is: {error}"
            )),
        ),
    };
    if let Some(error) = &error {
        output.fatal(error);
    }
    Told {
        exit: match error {
            Some(_) => Exit::Failed,
            None => Exit::Fine,
        },
        ran,
        error,
    }
}

/// The hooks that an earlier change left.
pub fn owed(store: &Store) -> Result<Vec<CommandLine>, Error> {
    let owed = store.owed()?;
    let hooks = owed.into_iter().flat_map(|owed| owed.hooks);
    Ok(hooks.map(|hook| hook.command).collect())
}

/// What failed, what it means, what to do.
fn failed(ran: &Ran) -> String {
    let bad = ran.hooks.iter().filter(|hook| hook.ended != Ended::Fine);
    let bad: Vec<_> = bad
        .map(|hook| format!("`{}`: {}", hook.command, hook.ended))
        .collect();
    let mut text = format!(
        "change {} stays in force, but not all of its hooks ran to a good end",
        ran.number
    );
    for line in &bad {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if ran.left > 0 {
        text.push_str(&format!("\n  {} more were not begun", ran.left));
    }
    text.push_str("\nthe next `fwc apply` runs these again, and so does `fwc recover`");
    text
}

/// What is to be run, a line each: `would run the hook ...`.
pub fn lines(verb: &str, commands: &[CommandLine]) -> String {
    let lines = commands
        .iter()
        .map(|command| format!("{verb} the hook `{command}`\n"));
    lines.collect()
}

/// A hook; how it ended is known only once it was run.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct JsonHook {
    /// The program and its arguments.
    command: Vec<String>,
    /// Whether it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<bool>,
    /// How it ended, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    /// What it printed on both outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
}

impl JsonHook {
    /// A hook that would be run.
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

struct Teller<'a>(&'a Output);

impl Watcher for Teller<'_> {
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
        // What somebody else's program prints is not for the terminal as it is.
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
    use super::{Exit, Told};

    #[test]
    fn a_failure_behind_the_change_is_one_of_the_command() {
        let mut told = Told::nothing();
        told.add_failure("second".to_owned());
        told.add_failure("first".to_owned());
        assert!(told.exit == Exit::Failed);
        assert_eq!(told.error(), Some("first\nsecond"));
    }
}

//! What a policy wants run when a change stays: owed from the moment the change cannot go back, until it was run to a good end.
//!
//! What is owed is on disk before the journal says that the change is done. So whatever dies, a later fwc knows what was not run:
//! it runs it, or says so. A hook that failed is owed as well. A change that stays replaces what earlier ones left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::Intent;
use super::store::{self, write};
use super::{Error, Store};
use crate::fault::{self, Point};
use crate::files::{self, find_program};
use crate::live::program::{self, Ended, Signals};
use crate::policy::CommandLine;

const SCHEMA: &str = "fwc.hooks/1";

/// So long a hook may take.
pub const TIME_OUT: Duration = Duration::from_secs(60);

/// The hooks that are to be run, or to be run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    schema: String,
    /// The change that they belong to.
    pub number: u64,
    /// In the order of the policy.
    pub hooks: Vec<OwedHook>,
}

/// A hook that is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedHook {
    /// What is run.
    pub command: CommandLine,
    /// How it ended the last time, in words; `None` where it was not run to an end yet.
    pub failed: Option<String>,
}

/// A hook that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// What was run.
    pub command: CommandLine,
    /// How it ended.
    pub ended: Ended,
    /// What it printed on both outputs, as it was: not for a terminal.
    pub printed: String,
}

/// The hooks that were run.
#[derive(Debug, Default)]
pub struct Ran {
    /// The change that they belong to; 0 where none was owed.
    pub number: u64,
    /// In their order. Those behind one that fwc was told to end at are not among them, and stay owed.
    pub hooks: Vec<HookRun>,
    /// How many were not begun.
    pub left: usize,
}

impl Ran {
    /// Whether all that was owed came to a good end.
    pub fn is_fine(&self) -> bool {
        self.left == 0 && self.hooks.iter().all(|hook| hook.ended == Ended::Fine)
    }
}

/// Tells how it goes.
pub trait Watcher {
    /// Another fwc runs hooks, and is waited for: its process, as far as it is known.
    fn waits(&mut self, pid: Option<u32>);
    /// A hook begins.
    fn begins(&mut self, command: &CommandLine);
    /// A hook ended.
    fn ended(&mut self, hook: &HookRun);
}

fn path(folder: &Path) -> PathBuf {
    folder.join("hooks.json")
}

/// What is owed in the folder of a namespace.
pub(super) fn owed_in(folder: &Path) -> Result<Option<Owed>, Error> {
    let path = path(folder);
    let text = files::read_kept(&path).map_err(|error| Error::io("cannot read", &path, error))?;
    let bad = |reason: String| Error::BadOwed {
        path: path.clone(),
        reason,
    };
    let Some(text) = text else {
        return Ok(None);
    };
    let owed: Owed = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if owed.schema != SCHEMA {
        return Err(bad(format!("its schema is `{}`", owed.schema)));
    }
    Ok(Some(owed))
}

/// Writes down that the hooks of a change are to be run. What earlier changes left is forgotten: they are the whole of what is
/// wanted now.
pub(super) fn owe(store: &Store, intent: &Intent) -> Result<(), Error> {
    let hooks = intent.ruleset.after_apply.iter();
    let hooks = hooks.map(|command| OwedHook {
        command: command.clone(),
        failed: None,
    });
    let hooks: Vec<_> = hooks.collect();
    settle(store, intent.number, hooks)
}

fn settle(store: &Store, number: u64, hooks: Vec<OwedHook>) -> Result<(), Error> {
    let folder = store.folder();
    let path = path(&folder);
    let failed = |source| Error::io("cannot write", &path, source);
    if hooks.is_empty() {
        return forget(&folder);
    }
    let owed = Owed {
        schema: SCHEMA.to_owned(),
        number,
        hooks,
    };
    let text = serde_json::to_string(&owed).map_err(|error| failed(error.into()))?;
    write(&path, &(text + "\n"))
}

/// Nothing is owed in the folder of a namespace any more.
pub(super) fn forget(folder: &Path) -> Result<(), Error> {
    let path = path(folder);
    store::remove(&path)
}

/// Runs what is owed, each in its turn; one that fails does not keep the others from being run. The caller does not hold the
/// [`Lock`](super::Lock): what a hook needs a minute for must not keep others from changing the firewall.
///
/// Nothing but the network namespace is this process's own: see [`program::run`]. An error says that it cannot be known what
/// is owed, or not be written down what was run; what was run before is told to the watcher.
pub fn run_owed(store: &Store, watcher: &mut dyn Watcher) -> Result<Ran, Error> {
    // Cheap where there is nothing to do, which is the rule: no lock, no file.
    if store.owed()?.is_none() {
        return Ok(Ran::default());
    }
    let _turn = store.hooks_turn(|pid| watcher.waits(pid))?;
    // Who had the turn before may have run them.
    let Some(owed) = store.owed()? else {
        return Ok(Ran::default());
    };
    let failed = |source| Error::io("cannot run the hooks of", &store.folder(), source);
    fault::at(Point::RunHooks).map_err(failed)?;
    let signals = Signals::held().map_err(failed)?;
    let mut ran = Ran {
        number: owed.number,
        ..Ran::default()
    };
    let mut still = Vec::new();
    for one in owed.hooks {
        if signals.told_to_end() {
            ran.left += 1;
            still.push(one);
            continue;
        }
        watcher.begins(&one.command);
        let hook = run(one.command, &signals);
        watcher.ended(&hook);
        if hook.ended != Ended::Fine {
            still.push(OwedHook {
                command: hook.command.clone(),
                failed: Some(hook.ended.to_string()),
            });
        }
        ran.hooks.push(hook);
    }
    fault::at(Point::HooksRan).map_err(failed)?;
    let _lock = store.lock_memory()?;
    // A change that stayed meanwhile owes its own.
    if store.owed()?.is_some_and(|owed| owed.number == ran.number) {
        settle(store, ran.number, still)?;
    }
    Ok(ran)
}

fn run(command: CommandLine, signals: &Signals) -> HookRun {
    // Looked up again: what was safe when the change was made need not be so now.
    let (ended, printed) = match find_program(command.program()) {
        Ok(path) => program::run(&path, command.arguments(), TIME_OUT, signals),
        Err(unfit) => (Ended::NotRun(unfit.to_string()), String::new()),
    };
    HookRun {
        command,
        ended,
        printed,
    }
}

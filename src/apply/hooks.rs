//! Hooks: the commands of a policy that run once a change is kept (`after_apply`).
//!
//! A hook is owed from the moment that the change cannot be reverted any more, until it succeeded. What is owed is on disk
//! before the journal says that the change is complete: whatever dies, a later fwc knows which hooks did not run, and runs
//! them or says so. The hooks of a change that is kept replace those that earlier changes left.

use std::time::Duration;

use super::error::Error;
use super::owed;
use super::records::OwedHook;
use super::store::Store;
use crate::fault::{self, Point};
use crate::files::find_program;
use crate::live::program::{self, Ended, Signals};
use crate::policy::CommandLine;

/// How long a hook may take.
pub const TIME_OUT: Duration = Duration::from_secs(60);

/// A hook that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// The command.
    pub command: CommandLine,
    /// How it ended.
    pub ended: Ended,
    /// What it printed on both outputs. Not safe to print on a terminal.
    pub printed: String,
}

/// The hooks that were run.
#[derive(Debug, Default)]
pub struct Ran {
    /// The number of their change; 0 if none was owed.
    pub number: u64,
    /// The hooks in their order. After a signal to end, fwc runs no further hook; those stay owed.
    pub hooks: Vec<HookRun>,
    /// How many did not run because of that.
    pub left: usize,
}

impl Ran {
    /// Returns `true` if all owed hooks ran and succeeded.
    pub fn is_fine(&self) -> bool {
        self.left == 0 && self.hooks.iter().all(|hook| hook.ended == Ended::Fine)
    }
}

/// Reports the progress of hooks.
pub trait Watcher {
    /// fwc waits for another fwc that runs hooks, with this process id if it is known.
    fn waits(&mut self, pid: Option<u32>);
    /// A hook begins.
    fn begins(&mut self, command: &CommandLine);
    /// A hook ended.
    fn ended(&mut self, hook: &HookRun);
}

/// Runs the owed hooks one after another, also if one fails. The caller does not hold the [`Lock`](super::Lock): a hook may
/// take a minute, and must not keep others from changing the firewall.
///
/// A hook runs in this network namespace, with an environment of its own: see [`program::run`].
///
/// # Errors
///
/// The list of owed hooks cannot be read, or not be written after they ran. The watcher has seen those that ran.
pub fn run_owed(store: &Store, watcher: &mut dyn Watcher) -> Result<Ran, Error> {
    // Usually nothing is owed: then take no lock and make no file.
    if store.owed()?.is_none() {
        return Ok(Ran::default());
    }
    let _turn = store.hooks_turn(|pid| watcher.waits(pid))?;
    // The fwc that this one waited for may have run them.
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
    let mut still_owed = Vec::new();
    for owed_hook in owed.hooks {
        if signals.told_to_end() {
            ran.left += 1;
            still_owed.push(owed_hook);
            continue;
        }
        watcher.begins(&owed_hook.command);
        let hook = run(owed_hook.command, &signals);
        watcher.ended(&hook);
        if hook.ended != Ended::Fine {
            still_owed.push(OwedHook {
                command: hook.command.clone(),
                failed: Some(hook.ended.to_string()),
            });
        }
        ran.hooks.push(hook);
    }
    fault::at(Point::HooksRan).map_err(failed)?;
    let _lock = store.lock_memory()?;
    // A change that was kept meanwhile owes its own hooks.
    if store.owed()?.is_some_and(|owed| owed.number == ran.number) {
        owed::write(&store.folder(), ran.number, still_owed)?;
    }
    Ok(ran)
}

fn run(command: CommandLine, signals: &Signals) -> HookRun {
    // Looked up again: the program may have become unsafe since the change was made.
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

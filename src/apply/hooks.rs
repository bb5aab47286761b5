//! What a policy wants run when a change stays: owed from the moment the change cannot go back, until it was run to a good end.
//!
//! What is owed is on disk before the journal says that the change is done. So whatever dies, a later fwc knows what was not run:
//! it runs it, or says so. A hook that failed is owed as well. A change that stays replaces what earlier ones left.

use std::time::Duration;

use super::error::Error;
use super::owed;
use super::records::OwedHook;
use super::store::Store;
use crate::fault::{self, Point};
use crate::files::find_program;
use crate::live::program::{self, Ended, Signals};
use crate::policy::CommandLine;

/// So long a hook may take.
pub const TIME_OUT: Duration = Duration::from_secs(60);

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
        owed::write(&store.folder(), ran.number, still)?;
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

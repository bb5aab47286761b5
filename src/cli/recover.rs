//! `fwc recover`

use std::thread;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::hooks;
use super::state::{StateArgs, recovered};
use super::{Exit, Output};
use crate::apply::{self, Boot, Error, LoadedFrom, Lock, Recovered, Store};
use crate::live::Real;

/// Finish or undo a change that a crash interrupted
///
/// A confirmed change is completed, any other is reverted. `apply` and `rollback` do this first. After a restart, run it
/// before the rules are loaded.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Then load the ruleset that was confirmed last, if it is not live already; fwc.service runs this at boot
    #[arg(long)]
    boot: bool,
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    if let Some(text) = StateArgs::needs_root("recover") {
        output.fatal(&text);
        return Exit::Failed;
    }
    let ended = if args.boot {
        args.boot(output)
    } else {
        args.recover(output)
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

impl Args {
    fn recover(&self, output: &Output) -> Result<Exit, Error> {
        let (mut host, store) = self.state.of_last_change()?.open_any_backend()?;
        store.refuse_in_hook()?;
        let lock = store.lock(&mut host)?;
        let found = apply::recover(&mut host, &store)?;
        let text = report(&found);
        output.tell(if text.is_empty() {
            "nothing to recover\n"
        } else {
            &text
        });
        drop(lock);
        Ok(hooks::run(&store, output).exit)
    }

    /// Recovers and loads the rules, and tries again after an error that may pass.
    fn boot(&self, output: &Output) -> Result<Exit, Error> {
        // systemd cannot do this: before version 244 it refuses a oneshot unit with `Restart=`.
        for _ in 1..ATTEMPTS {
            match self.boot_once(output) {
                Ok(Attempt { may_pass: true, .. }) => {}
                Ok(Attempt { exit, .. }) => return Ok(exit),
                Err(error) if error.may_pass() => output.fatal(&error.to_string()),
                Err(error) => return Err(error),
            }
            output.message("trying again");
            thread::sleep(PAUSE);
        }
        self.boot_once(output).map(|attempt| attempt.exit)
    }

    /// Only another running fwc stops it: a host must not stay open because, for example, a folder is read-only. Every other
    /// error is printed, and loading continues.
    fn boot_once(&self, output: &Output) -> Result<Attempt, Error> {
        let mut attempt = Attempt {
            exit: Exit::Fine,
            may_pass: false,
        };
        let mut host = Real::open_at_boot(self.state.host.backend()).map_err(Error::Live)?;
        let store = self.state.unchecked_store()?;
        let mut failed = |what: &str, error: &Error| {
            output.fatal(&format!("{what}{error}"));
            attempt.exit = Exit::Failed;
            attempt.may_pass |= error.may_pass();
        };
        // If others could have written the state directory, nothing in it is trusted: `apply::boot` then loads the files for the
        // next boot.
        let is_safe = self.state.check_safe();
        let _lock = match &is_safe {
            Ok(()) => match lock(&mut host, &store)? {
                Ok(lock) => Some(lock),
                Err(error) => {
                    failed("", &error);
                    None
                }
            },
            Err(_) => None,
        };
        match is_safe.and_then(|()| apply::recover(&mut host, &store)) {
            Ok(found) => {
                output.tell(&report(&found));
                let is_pending = |one: &Recovered| matches!(one, Recovered::Waiting { .. });
                // A pending change with a live watchdog is active now; loading the ruleset before it would revert it early.
                if found.iter().any(is_pending) {
                    return Ok(attempt);
                }
            }
            Err(error) => failed("", &error),
        }
        let persist_dir = self.state.persist_dir();
        let Some(boot) = apply::boot(&mut host, &store, &persist_dir)? else {
            output.tell("nothing was applied yet: there are no rules to load\n");
            return Ok(attempt);
        };
        let Boot {
            from,
            sets,
            families,
        } = boot;
        if let Err(error) = sets {
            failed(&format!("cannot create the sets of {from}: "), &error);
        }
        for (family, result) in families.iter() {
            match result {
                Ok(LoadedFrom::Already) => output.tell(&format!("{family}: {from} is live\n")),
                Ok(LoadedFrom::Now(removed)) => {
                    for stray in removed {
                        output.tell(&format!(
                            "removed (added by hand, or by an unknown tool): {stray}\n"
                        ));
                    }
                    output.tell(&format!("{family}: loaded {from}\n"));
                }
                Err(error) => failed(&format!("{family}: {from} is NOT live: "), error),
            }
        }
        Ok(attempt)
    }
}

/// How often `--boot` tries to load the rules, and the pause between: a host without its rules is open, and what keeps
/// them from loading may pass. Another program holds a lock, memory is short, or the machine stands still.
const ATTEMPTS: u32 = 5;

const PAUSE: Duration = Duration::from_secs(2);

/// How an attempt to load the rules at boot ended.
struct Attempt {
    exit: Exit,
    /// Whether there was an error that may be gone in the next attempt.
    may_pass: bool,
}

/// Takes the lock. The outer error means that another fwc has it; the inner one is any other failure.
fn lock(host: &mut Real, store: &Store) -> Result<Result<Lock, Error>, Error> {
    match store.lock(host) {
        Err(locked @ Error::Locked { .. }) => Err(locked),
        other => Ok(other),
    }
}

/// Returns one line for each interrupted or pending change.
fn report(found: &[Recovered]) -> String {
    let mut text = String::new();
    for one in found {
        if let Recovered::Waiting { number, until } = one {
            text.push_str(&format!(
                "change {number} waits for `fwc confirm` until {until}\n"
            ));
        }
        text.extend(recovered(one).map(|line| line + "\n"));
    }
    text
}

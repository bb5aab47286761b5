//! `fwc recover`

use clap::Args as ClapArgs;

use super::hooks;
use super::state::{StateArgs, recovered};
use super::{Exit, Output};
use crate::apply::{self, Boot, Error, LoadedFrom, Lock, Recovered, Store};
use crate::live::Real;

/// End what a killed fwc left half done
///
/// A change that was confirmed is completed, any other one is taken back. `apply` and `rollback` do this first; after a
/// restart run it before the rules are loaded.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Then load what was confirmed last, where it is not in force: what fwc.service does at boot
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
        let (mut host, store) = self.state.of_last_change()?.open_to_end()?;
        store.refuse_in_hook()?;
        let lock = store.lock(&mut host)?;
        let found = apply::recover(&mut host, &store)?;
        let text = words(&found);
        output.tell(if text.is_empty() {
            "nothing was left half done\n"
        } else {
            &text
        });
        drop(lock);
        Ok(hooks::run(&store, output).exit)
    }

    /// Nothing but another fwc at work keeps it from loading: a host must not stay open because a folder is read-only.
    fn boot(&self, output: &Output) -> Result<Exit, Error> {
        let mut exit = Exit::Fine;
        let mut host = Real::open(self.state.host.backend()).map_err(Error::Live)?;
        let store = self.state.store_as_it_is()?;
        let mut failed = |error: &dyn std::fmt::Display| {
            output.fatal(&error.to_string());
            exit = Exit::Failed;
        };
        // Where others could have written the memory, the files for the next boot are loaded instead.
        let is_safe = self.state.is_safe();
        let _lock = match &is_safe {
            Ok(()) => match lock(&mut host, &store)? {
                Ok(lock) => Some(lock),
                Err(error) => {
                    failed(&error);
                    None
                }
            },
            Err(_) => None,
        };
        match is_safe.and_then(|()| apply::recover(&mut host, &store)) {
            Ok(found) => {
                output.tell(&words(&found));
                let waits = |one: &Recovered| matches!(one, Recovered::Waiting { .. });
                if found.iter().any(waits) {
                    return Ok(exit);
                }
            }
            Err(error) => failed(&error),
        }
        let persist_dir = self.state.persist_dir();
        let Some(boot) = apply::boot(&mut host, &store, &persist_dir)? else {
            output.tell("nothing was put in force yet, so that nothing is loaded\n");
            return Ok(exit);
        };
        let Boot {
            from,
            sets,
            families,
        } = boot;
        if let Err(error) = sets {
            failed(&format!("the sets of {from} could not be made: {error}"));
        }
        for (family, result) in families.iter() {
            match result {
                Ok(LoadedFrom::Already) => output.tell(&format!("{family}: {from} is in force\n")),
                Ok(LoadedFrom::Now(removed)) => {
                    for stray in removed {
                        output.tell(&format!("removed (added by hand): {stray}\n"));
                    }
                    output.tell(&format!("{family}: loaded {from}\n"));
                }
                Err(error) => failed(&format!("{family}: {from} is NOT in force: {error}")),
            }
        }
        Ok(exit)
    }
}

/// The lock, or why there is none, unless another fwc has it.
fn lock(host: &mut Real, store: &Store) -> Result<Result<Lock, Error>, Error> {
    match store.lock(host) {
        Err(locked @ Error::Locked { .. }) => Err(locked),
        other => Ok(other),
    }
}

/// What was found half done, a line each.
fn words(found: &[Recovered]) -> String {
    let mut text = String::new();
    for one in found {
        if let Recovered::Waiting { number, until } = one {
            text.push_str(&format!(
                "change {number} waits for its confirmation until {until}, as it should\n"
            ));
        }
        text.extend(recovered(one).map(|line| line + "\n"));
    }
    text
}

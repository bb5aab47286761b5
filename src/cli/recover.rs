//! `fwc recover`

use clap::Args as ClapArgs;

use super::state::{StateArgs, recovered};
use super::{Exit, Output};
use crate::apply::{self, Error, Recovered};

/// End what a killed fwc left half done
///
/// A change that was confirmed is completed, any other one is taken back. `apply` and `rollback` do this first; after a
/// restart run it before the rules are loaded.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    state: StateArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    if let Some(text) = StateArgs::needs_root("recover") {
        output.fatal(&text);
        return Exit::Failed;
    }
    match args.recover(output) {
        Ok(()) => Exit::Fine,
        Err(error) => {
            output.fatal(&error.to_string());
            Exit::Failed
        }
    }
}

impl Args {
    fn recover(&self, output: &Output) -> Result<(), Error> {
        let (mut host, store) = self.state.open()?;
        let _lock = store.lock()?;
        let found = apply::recover(&mut host, &store)?;
        let mut text = String::new();
        for one in &found {
            if let Recovered::Waiting { number, until } = one {
                text.push_str(&format!(
                    "change {number} waits for its confirmation until {until}, as it should\n"
                ));
            }
            text.extend(recovered(one).map(|line| line + "\n"));
        }
        if text.is_empty() {
            text.push_str("nothing was left half done\n");
        }
        output.tell(&text);
        Ok(())
    }
}

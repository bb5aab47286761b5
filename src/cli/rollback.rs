//! `fwc rollback`

use clap::Args as ClapArgs;

use super::change::{ChangeArgs, end_what_was_begun};
use super::hooks::{self, Told};
use super::{Exit, Format, Output, applied};
use crate::apply::{self, Entry, Error, Ruleset, Step};

/// Take a change back that waits for its confirmation, or put an earlier ruleset in force
///
/// A change that waits is taken back at once: its own effect is undone, and what others did since stays. Otherwise the
/// ruleset of N changes ago is put in force as `apply` would.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How many changes to go back [default: 1]
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    steps: Option<u16>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    match args.waiting(output) {
        Ok(Some(exit)) => exit,
        Ok(None) => match args.earlier(output) {
            Ok(exit) => exit,
            Err(error) => args.change.fail(&error, output),
        },
        Err(error) => args.change.fail(&error, output),
    }
}

impl Args {
    /// Takes back what waits; `None` where nothing does.
    fn waiting(&self, output: &Output) -> Result<Option<Exit>, Error> {
        let store = self.change.state.store()?;
        let number = match store.journal().open() {
            Ok(Some((intent, step))) if !matches!(step, Step::Confirmed { .. }) => intent.number,
            _ => return Ok(None),
        };
        if let Some(text) = super::state::StateArgs::needs_root("rollback") {
            output.fatal(&text);
            return Ok(Some(Exit::Failed));
        }
        if self.steps.is_some() {
            return Err(Error::NoEntry(
                "a change waits for its confirmation; `fwc rollback` without a number takes it back, `fwc confirm` keeps it".to_owned(),
            ));
        }
        let as_json = self.change.format == Format::Json;
        if self.change.dry_run {
            match as_json {
                true => output.json(&applied::back_json(number, true, &Told::nothing())),
                false => output.result(&format!("would take change {number} back\n")),
            }
            return Ok(Some(Exit::Different));
        }
        let (mut host, store) = self.change.state.open_to_end()?;
        store.refuse_in_hook()?;
        let lock = store.lock()?;
        let number = apply::take_back(&mut host, &store, "fwc rollback")?;
        if !as_json {
            output.tell(&format!(
                "took change {number} back: the rules are as they were before\n"
            ));
        }
        drop(lock);
        // Of the change before it, which is in force again.
        let told = hooks::run(&store, output);
        if as_json {
            output.json(&applied::back_json(number, false, &told));
        }
        Ok(Some(told.exit))
    }

    fn earlier(&self, output: &Output) -> Result<Exit, Error> {
        if let Some((exit, text)) = self.change.refusal("rollback") {
            output.fatal(&text);
            return Ok(exit);
        }
        if !self.change.dry_run {
            let (mut host, store) = self.change.state.open()?;
            store.refuse_in_hook()?;
            let _lock = store.lock()?;
            end_what_was_begun(&mut host, &store, output)?;
        }
        let store = self.change.state.store()?;
        let (entry, ruleset) = self.find(store.history().entries()?)?;
        let words = format!("rollback to {} ({})", entry.number, entry.policy);
        output.message(&format!("{words}, of {}", entry.time));
        Ok(self.change.run(&ruleset, &words, output))
    }

    fn find(&self, entries: Vec<Entry>) -> Result<(Entry, Ruleset), Error> {
        let kept = entries.into_iter().filter_map(|entry| {
            let ruleset = entry.ruleset.clone()?;
            Some((entry, ruleset))
        });
        let mut kept: Vec<_> = kept.collect();
        let steps = usize::from(self.steps.unwrap_or(1));
        let there = kept.len().saturating_sub(1);
        if steps > there {
            return Err(Error::NoEntry(format!(
                "there is no ruleset {steps} changes ago: the history has {there} before the present one; see `fwc history`"
            )));
        }
        Ok(kept.swap_remove(there - steps))
    }
}

//! `fwc rollback`

use clap::Args as ClapArgs;

use super::change::{ChangeArgs, recover_first};
use super::hooks::{self, HookResults};
use super::{Exit, Format, Output, change_report};
use crate::apply::{self, Error, HistoryEntry, JournalStep, RulesetFiles, Store};

/// Revert the pending change, or apply an earlier ruleset
///
/// A pending change is reverted at once; changes that other programs made since are kept. Without a pending change, the
/// ruleset of N changes ago is applied as `apply` would.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The number of changes to go back [default: 1]
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    steps: Option<u16>,
    /// Go back to the change with this number in `fwc history`
    #[arg(long, value_name = "NUMBER", conflicts_with = "steps")]
    to: Option<u64>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Exit {
    match args
        .of_last_change()
        .and_then(|args| args.roll_back(output))
    {
        Ok(exit) => exit,
        Err(error) => args.change.fail(&error, output),
    }
}

/// Returns `true` if the last change has this number and was reverted.
fn is_undone(store: &Store, number: u64) -> Result<bool, Error> {
    let last = store.journal().last()?;
    Ok(last.is_some_and(|(intent, step)| intent.number == number && step == JournalStep::Undone))
}

impl Args {
    fn of_last_change(&self) -> Result<Self, Error> {
        let mut of_change = self.clone();
        of_change.change.state = self.change.state.of_last_change()?;
        Ok(of_change)
    }

    fn roll_back(&self, output: &Output) -> Result<Exit, Error> {
        match self.revert_pending(output)? {
            Some(exit) => Ok(exit),
            None => self.apply_earlier(output),
        }
    }

    /// Reverts the pending change; `None` if there is none.
    fn revert_pending(&self, output: &Output) -> Result<Option<Exit>, Error> {
        let store = self.change.state.store()?;
        let number = match store.journal().open() {
            Ok(Some((intent, step))) if !matches!(step, JournalStep::Confirmed { .. }) => {
                intent.number
            }
            _ => return Ok(None),
        };
        if let Some(text) = super::state::StateArgs::needs_root("rollback") {
            output.fatal(&text);
            return Ok(Some(Exit::Failed));
        }
        if self.steps.is_some() || self.to.is_some() {
            return Err(Error::NoEntry(
                "a change is pending: revert it with `fwc rollback` without a number, or keep it with `fwc confirm`".to_owned(),
            ));
        }
        let as_json = self.change.format == Format::Json;
        if self.change.dry_run {
            match as_json {
                true => output.json(&change_report::ApplyDocument::taken_back(
                    number,
                    true,
                    &HookResults::none(),
                )),
                false => output.result(&format!("would revert change {number}\n")),
            }
            return Ok(Some(Exit::Different));
        }
        let (mut host, store) = self.change.state.open_any_backend()?;
        store.refuse_in_hook()?;
        let lock = apply::lock_to_take_back(&mut host, &store)?;
        match apply::take_back(&mut host, &store, "fwc rollback") {
            // The watchdog was faster: `lock_to_take_back` may end the fwc that made the change, and the watchdog acts on that.
            Err(Error::NotPending) if is_undone(&store, number)? => {}
            result => {
                result?;
            }
        }
        if !as_json {
            output.tell(&format!(
                "reverted change {number}: the rules are as they were before\n"
            ));
        }
        drop(lock);
        // Runs the hooks that the change before left to run: its ruleset is active again.
        let hooks = hooks::run(&store, output);
        if as_json {
            output.json(&change_report::ApplyDocument::taken_back(
                number, false, &hooks,
            ));
        }
        Ok(Some(hooks.exit))
    }

    fn apply_earlier(&self, output: &Output) -> Result<Exit, Error> {
        if let Some((exit, text)) = self.change.refusal("rollback") {
            output.fatal(&text);
            return Ok(exit);
        }
        if !self.change.dry_run {
            let (mut host, store) = self.change.state.open()?;
            store.refuse_in_hook()?;
            let _lock = store.lock(&mut host)?;
            recover_first(&mut host, &store, output)?;
        }
        let store = self.change.state.store()?;
        let (entry, ruleset, steps) = self.find(store.history().entries()?)?;
        let (number, policy, time) = (entry.number, &entry.policy, &entry.time);
        let ago = match steps {
            1 => "1 change ago".to_owned(),
            steps => format!("{steps} changes ago"),
        };
        output.message(&format!(
            "rolling back to change {number} ({policy}), {ago}, of {time}"
        ));
        let words = format!("rollback to {number} ({policy})");
        Ok(self.change.run(&ruleset, &words, output))
    }

    /// Finds the entry to go back to. Returns it with its ruleset and the number of changes since.
    fn find(
        &self,
        entries: Vec<HistoryEntry>,
    ) -> Result<(HistoryEntry, RulesetFiles, usize), Error> {
        let is_known = |number| entries.iter().any(|entry| entry.number == number);
        let was_reverted = self.to.is_some_and(is_known);
        let kept = entries.into_iter().filter_map(|entry| {
            let ruleset = entry.ruleset.clone()?;
            Some((entry, ruleset))
        });
        let mut kept: Vec<_> = kept.collect();
        // The last entry is the present ruleset.
        let earlier = kept.len().saturating_sub(1);
        let steps = match self.to {
            None => usize::from(self.steps.unwrap_or(1)),
            Some(number) => match kept.iter().position(|(entry, _)| entry.number == number) {
                Some(at) if at == earlier => {
                    return Err(Error::NoEntry(format!(
                        "change {number} is the present one; `fwc history` lists those before it"
                    )));
                }
                Some(at) => earlier - at,
                None => {
                    let why = match was_reverted {
                        true => "was reverted, so fwc did not keep its ruleset",
                        false => "is not in the history",
                    };
                    return Err(Error::NoEntry(format!(
                        "change {number} {why}; see `fwc history`"
                    )));
                }
            },
        };
        if steps > earlier {
            return Err(Error::NoEntry(format!(
                "there is no ruleset {steps} changes ago: the history has {earlier} before the present one; see `fwc history`"
            )));
        }
        let (entry, ruleset) = kept.swap_remove(earlier - steps);
        Ok((entry, ruleset, steps))
    }
}

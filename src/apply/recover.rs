//! Ends a change that was begun: by `fwc confirm`, by `fwc rollback`, or after a crash.

use super::error::Error;
use super::journal::Journal;
use super::lock::{HolderAction, Lock};
use super::records::{HistoryEntry, Intent, JournalStep};
use super::store::Store;
use super::transaction::{CommitReport, conclude, conclude_history, keep_files};
use super::{clock, in_force, owed, persist, undo};
use crate::live::Host;

/// A half-done change that [`recover`] found, and what it did about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A change waits for its confirmation, and its watchdog lives. Nothing was done.
    Waiting {
        /// Its number.
        number: u64,
        /// When it reverts, in UTC.
        until: String,
    },
    /// A change was reverted: its number, and why.
    TakenBack(u64, String),
    /// A confirmed change was completed: its number, and what was still to do.
    Completed(u64, CommitReport),
    /// The machine restarted before this change was confirmed, so that its rules are gone.
    EndedByBoot(u64),
    /// The machine restarted before hooks of this change succeeded: its number, and how many. They do not run any more.
    HooksEndedByBoot(u64, usize),
}

/// Completes or reverts the change that an earlier fwc left half done. The caller holds the lock.
pub fn recover(host: &mut dyn Host, store: &Store) -> Result<Vec<Recovered>, Error> {
    store.tidy();
    let mut found = earlier_boots(store)?;
    if let Some((intent, step)) = store.journal().open()? {
        found.push(end_change(host, store, &intent, &step)?);
    }
    Ok(found)
}

/// Ends a half-done change of this network namespace.
fn end_change(
    host: &mut dyn Host,
    store: &Store,
    intent: &Intent,
    step: &JournalStep,
) -> Result<Recovered, Error> {
    let store = &store.of_change(intent);
    let why = match step {
        JournalStep::Confirmed { by } => {
            let mut done = CommitReport::default();
            clean(intent);
            conclude(host, store, intent, None, by, &mut done)?;
            return Ok(Recovered::Completed(intent.number, done));
        }
        JournalStep::Pending { deadline, until } if clock::since_boot() < *deadline => {
            if store.is_guarded() {
                return Ok(Recovered::Waiting {
                    number: intent.number,
                    until: until.clone(),
                });
            }
            if in_force::is_gone(host, intent) {
                return ended_with_namespace(store, intent);
            }
            "its watchdog was killed".to_owned()
        }
        JournalStep::Pending { .. } => "nobody confirmed it in time".to_owned(),
        JournalStep::Undoing { why, .. } => why.clone(),
        _ => "fwc died while it changed the firewall".to_owned(),
    };
    clean(intent);
    undo::undo(host, store, intent, &why)?;
    Ok(Recovered::TakenBack(intent.number, why))
}

/// Ends a change whose rules are gone with their network namespace. This is another namespace with the same number, as a
/// restarted container may have: the rules here are not the change's to revert.
fn ended_with_namespace(store: &Store, intent: &Intent) -> Result<Recovered, Error> {
    clean(intent);
    let why = "the network namespace ended before it was confirmed".to_owned();
    store
        .history()
        .add(&HistoryEntry::taken_back(intent, &why))?;
    store.journal().write(intent, &JournalStep::Undone)?;
    Ok(Recovered::TakenBack(intent.number, why))
}

/// Ends the changes of earlier boots: their rules are gone, but some of their files may not be renamed yet.
fn earlier_boots(store: &Store) -> Result<Vec<Recovered>, Error> {
    let mut found = Vec::new();
    for journal in store.earlier_journals() {
        let open = journal.open()?;
        found.extend(hooks_of_earlier_boot(&journal, open.as_ref())?);
        let Some((intent, step)) = open else {
            continue;
        };
        let store = store.of_change(&intent);
        clean(&intent);
        if let JournalStep::Confirmed { by } = &step {
            let mut done = CommitReport::default();
            keep_files(&store, &intent, None, &mut done)?;
            store.persisted(&intent.after)?;
            conclude_history(&store, &intent, by)?;
            journal.write(&intent, &JournalStep::Done)?;
            found.push(Recovered::Completed(intent.number, done));
        } else {
            let why = "the machine restarted before it was confirmed";
            let entry = HistoryEntry::taken_back(&intent, why);
            store.history().add(&entry)?;
            journal.write(&intent, &JournalStep::Undone)?;
            found.push(Recovered::EndedByBoot(intent.number));
        }
    }
    Ok(found)
}

/// Forgets the hooks of an earlier boot: they tell other programs of a change, and those have started since.
fn hooks_of_earlier_boot(
    journal: &Journal,
    open: Option<&(Intent, JournalStep)>,
) -> Result<Option<Recovered>, Error> {
    let folder = journal.folder();
    let left = match open {
        Some((intent, JournalStep::Confirmed { .. })) => {
            Some((intent.number, intent.ruleset.after_apply.len()))
        }
        _ => owed::read(folder)
            .unwrap_or_default()
            .map(|owed| (owed.number, owed.hooks.len())),
    };
    owed::forget(folder)?;
    let left = left.filter(|(_, count)| *count > 0);
    Ok(left.map(|(number, count)| Recovered::HooksEndedByBoot(number, count)))
}

/// Removes temporary files that a killed fwc left beside the rules files.
fn clean(intent: &Intent) {
    persist::remove_leftovers(&intent.persist_dir, &intent.ruleset);
}

/// Confirms the pending change. The caller holds the lock, and has checked that the confirmation proves something.
///
/// # Errors
///
/// No change is pending, its time is over, or its rules are not live any more.
pub fn confirm(host: &mut dyn Host, store: &Store, by: &str) -> Result<(u64, CommitReport), Error> {
    let (intent, step) = store.journal().open()?.ok_or(Error::NotPending)?;
    match step {
        JournalStep::Pending { deadline, .. } if clock::since_boot() < deadline => {
            in_force::check(host, &intent)?;
        }
        JournalStep::Pending { .. } | JournalStep::Undoing { .. } => return Err(Error::TooLate),
        JournalStep::Confirmed { .. } => {}
        _ => return Err(Error::NotPending),
    }
    let mut done = CommitReport::default();
    let store = &store.of_change(&intent);
    conclude(host, store, &intent, None, by, &mut done)?;
    Ok((intent.number, done))
}

/// How long [`lock_to_take_back`] waits for another fwc, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Takes the lock to revert the change that is pending or being made. A fwc that keeps the lock, because it hangs or is stopped, is
/// ended.
pub fn lock_to_take_back(host: &mut dyn Host, store: &Store) -> Result<Lock, Error> {
    let patience = clock::since_boot() + PATIENCE;
    store.lock_unless(host, |pid| {
        let now = clock::since_boot();
        let is_over = match store.journal().last_line().ok().flatten() {
            Some((_, JournalStep::Changing { .. } | JournalStep::Pending { .. })) => now > patience,
            // Another fwc is reverting it: let it, until its deadline.
            Some((_, JournalStep::Undoing { deadline, .. })) => now > deadline,
            _ if now > patience => return Err(Error::Locked { pid }),
            _ => false,
        };
        Ok(if is_over {
            HolderAction::End
        } else {
            HolderAction::Wait
        })
    })
}

/// Reverts the pending change, and returns its number. The caller holds the lock.
pub fn take_back(host: &mut dyn Host, store: &Store, why: &str) -> Result<u64, Error> {
    let (intent, step) = store.journal().open()?.ok_or(Error::NotPending)?;
    if matches!(step, JournalStep::Confirmed { .. }) {
        return Err(Error::NotPending);
    }
    undo::undo(host, &store.of_change(&intent), &intent, why)?;
    Ok(intent.number)
}

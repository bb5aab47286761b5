//! Ending what was begun: by `confirm`, by `rollback`, and after a crash.

use super::error::Error;
use super::journal::Journal;
use super::lock::{Lock, Others};
use super::records::{HistoryEntry, Intent, JournalStep};
use super::store::Store;
use super::transaction::{CommitReport, conclude, conclude_history, keep_files};
use super::{clock, in_force, owed, persist, undo};
use crate::live::Host;

/// What was found half done, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// A change waits for its confirmation, as it should.
    Waiting {
        /// Which.
        number: u64,
        /// Until when, in UTC.
        until: String,
    },
    /// A change was taken back: which, and why.
    TakenBack(u64, String),
    /// A confirmed change was completed.
    Completed(u64, CommitReport),
    /// A change that the machine's restart ended before it was confirmed.
    EndedByBoot(u64),
    /// Hooks of a change that were not run to a good end before the machine restarted: how many. Nobody runs them any more.
    HooksEndedByBoot(u64, usize),
}

/// Ends what an earlier fwc left half done. The caller holds the lock.
pub fn recover(host: &mut dyn Host, store: &Store) -> Result<Vec<Recovered>, Error> {
    store.tidy();
    let mut found = earlier_boots(store)?;
    if let Some((intent, step)) = store.journal().open()? {
        found.push(one(host, store, &intent, &step)?);
    }
    Ok(found)
}

fn one(
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

/// Ends a change whose rules went with the network namespace that they were in: this is another one that has its number, as a
/// container that was started again may. What is live here is not the change's to take back.
fn ended_with_namespace(store: &Store, intent: &Intent) -> Result<Recovered, Error> {
    clean(intent);
    let why = "the network namespace ended before it was confirmed".to_owned();
    store
        .history()
        .add(&HistoryEntry::taken_back(intent, &why))?;
    store.journal().write(intent, &JournalStep::Undone)?;
    Ok(Recovered::TakenBack(intent.number, why))
}

/// What earlier boots left: the rules went with them, files may be half in their places.
fn earlier_boots(store: &Store) -> Result<Vec<Recovered>, Error> {
    let mut found = Vec::new();
    for journal in store.earlier_journals() {
        let open = journal.open()?;
        found.extend(hooks_of_earlier_boot(&journal, open.as_ref())?);
        let Some((intent, step)) = open else {
            continue;
        };
        let of_this = store.of_change(&intent);
        clean(&intent);
        if let JournalStep::Confirmed { by } = &step {
            let mut done = CommitReport::default();
            keep_files(&of_this, &intent, None, &mut done)?;
            of_this.persisted(&intent.after)?;
            conclude_history(&of_this, &intent, by)?;
            journal.write(&intent, &JournalStep::Done)?;
            found.push(Recovered::Completed(intent.number, done));
        } else {
            let why = "the machine restarted before it was confirmed";
            let entry = HistoryEntry::taken_back(&intent, why);
            of_this.history().add(&entry)?;
            journal.write(&intent, &JournalStep::Undone)?;
            found.push(Recovered::EndedByBoot(intent.number));
        }
    }
    Ok(found)
}

/// What was to be told of a firewall that was changed is told by nobody: whoever was to hear it started since.
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

/// Removes what a killed fwc left beside the rules files.
fn clean(intent: &Intent) {
    persist::remove_leftovers(&intent.persist_dir, &intent.ruleset);
}

/// Makes the change that waits stay. The caller holds the lock, and knows that the confirmation counts.
///
/// # Errors
///
/// Nothing waits, it is too late, or the rules of the change are not live any more.
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

/// How long `lock_to_take_back` waits for another fwc, in milliseconds.
const PATIENCE: u64 = 10_000;

/// The lock, to take back the change that waits or is being made: a fwc that does not let go of it, because it hangs or is
/// stopped, is ended.
pub fn lock_to_take_back(host: &mut dyn Host, store: &Store) -> Result<Lock, Error> {
    let patience = clock::since_boot() + PATIENCE;
    store.lock_unless(host, |pid| {
        let now = clock::since_boot();
        let is_over = match store.journal().last_line().ok().flatten() {
            Some((_, JournalStep::Changing { .. } | JournalStep::Pending { .. })) => now > patience,
            // Somebody else does it: let them.
            Some((_, JournalStep::Undoing { deadline, .. })) => now > deadline,
            _ if now > patience => return Err(Error::Locked { pid }),
            _ => false,
        };
        Ok(if is_over { Others::End } else { Others::Wait })
    })
}

/// Takes the change that waits back. The caller holds the lock.
pub fn take_back(host: &mut dyn Host, store: &Store, why: &str) -> Result<u64, Error> {
    let (intent, step) = store.journal().open()?.ok_or(Error::NotPending)?;
    if matches!(step, JournalStep::Confirmed { .. }) {
        return Err(Error::NotPending);
    }
    undo::undo(host, &store.of_change(&intent), &intent, why)?;
    Ok(intent.number)
}

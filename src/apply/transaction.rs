//! The commit of a plan, step by step, and its conclusion.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{Error, Undo};
use super::loads::LoadPhase;
use super::persist::{Persisted, StagedFiles};
use super::plan::ApplyPlan;
use super::records::{HistoryEntry, Intent, JournalStep, RulesetFiles};
use super::rulesets::{normal, save};
use super::sets::{self, Changes};
use super::store::Store;
use super::{clock, owed, panic, points, text_diff, undo};
use crate::diag::Style;
use crate::fault::{self, Point};
use crate::live::{self, Host, LiveRuleset};
use crate::net::{Family, PerFamily};

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// The families whose live rules were replaced.
    pub replaced: Vec<Family>,
    /// The sets that were created, changed or removed.
    pub sets: Changes,
    /// Sets that the policy does not need and that could not be removed, each with the reason.
    pub left: Vec<String>,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The files that were deleted because the policy does not need them.
    pub deleted: Vec<PathBuf>,
    /// The copies of files that fwc did not write, and that its own replaced.
    pub kept: Vec<PathBuf>,
}

/// Starts the process that reverts the change if nobody confirms it or fwc dies.
pub trait Guard {
    /// Starts the process, and returns its id if there is one.
    fn start(&mut self, number: u64) -> Result<Option<u32>, Error>;
}

/// What confirms a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The checks before and after it. The text names them in the history.
    Checks(String),
    /// `fwc confirm` within this time.
    Awaited(Duration),
}

/// The result of a [`commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The change is complete and kept.
    Done(CommitReport),
    /// The new rules are active, and revert unless the change is confirmed.
    Pending {
        /// What was done so far.
        done: CommitReport,
        /// The number of the change.
        number: u64,
        /// When it reverts, in milliseconds since boot.
        deadline: u64,
        /// The same as a time of day, in UTC.
        until: String,
    },
}

/// Commits the plan, or changes nothing.
///
/// The caller has held the [`Lock`](super::Lock) since before [`plan`](super::plan()).
///
/// # Errors
///
/// A step failed and the change was reverted, or could not be; or the change was not begun.
pub fn commit(
    host: &mut dyn Host,
    store: &Store,
    plan: &ApplyPlan<'_>,
    guard: &mut dyn Guard,
    confirmation: &Confirmation,
) -> Result<Progress, Error> {
    points::state(Point::Locked, store)?;
    if plan.is_nothing() {
        remember(store, &plan.target, plan.request.ruleset)?;
        return Ok(Progress::Done(CommitReport::default()));
    }
    let (snapshot, mut intent) = intend(host, store, plan)?;
    // The intent is on disk before the temporary files: whoever recovers the change finds and removes them.
    let staged = match stage(store, plan) {
        Ok(staged) => staged,
        Err(cause) => return nothing_was_changed(store, &intent, cause),
    };
    let mut done = CommitReport {
        replaced: plan.replaced(),
        sets: plan.sets(),
        ..CommitReport::default()
    };
    if !plan.changes_live() {
        let by = "only files were written";
        conclude(host, store, &intent, Some(staged), by, &mut done)?;
        return Ok(Progress::Done(done));
    }
    if let Err(cause) = watch(store, &mut intent, guard) {
        return nothing_was_changed(store, &intent, cause);
    }
    // The deadline counts from here: a tool that hangs, or a stopped fwc, must not leave half a change active.
    let deadline = Deadline::from_now(confirmation.patience(plan));
    host.finish_by(Some(deadline.at));
    let outcome = change(host, store, plan, &intent, &snapshot, deadline.at)
        .and_then(|()| await_confirmation(store, &intent, confirmation, &deadline));
    host.finish_by(None);
    match outcome {
        Ok(None) => {
            let Confirmation::Checks(by) = confirmation else {
                return Err(Error::NotPending);
            };
            conclude(host, store, &intent, Some(staged), by, &mut done)?;
            Ok(Progress::Done(done))
        }
        Ok(Some((deadline, until))) => Ok(Progress::Pending {
            done,
            number: intent.number,
            deadline,
            until,
        }),
        Err(failure) => {
            let why = failure.to_string();
            let undo = match undo::undo(host, store, &intent, &why) {
                Ok(()) => Undo::Complete,
                Err(error) => Undo::Failed(error.to_string()),
            };
            Err(match failure {
                Failure::Load(cause) => Error::Commit { cause, undo },
                Failure::Late => Error::Late { undo },
                Failure::Differs(diff) => Error::ReadBack { diff, undo },
                Failure::Journal(cause) => Error::Journal {
                    cause: Box::new(cause),
                    undo,
                },
            })
        }
    }
}

/// Writes the files for the next boot under temporary names: a folder that cannot be written stops the change before it touches
/// the kernel.
fn stage<'a>(store: &Store, plan: &'a ApplyPlan<'_>) -> Result<StagedFiles<'a>, Error> {
    let staged = plan.persisted.stage(!store.has_persisted())?;
    points::state(Point::Staged, store)?;
    Ok(staged)
}

/// Closes the journal of a change that failed before it began.
fn nothing_was_changed(store: &Store, intent: &Intent, cause: Error) -> Result<Progress, Error> {
    // If that cannot be written, the next fwc closes the journal.
    let _ = store.journal().write(intent, &JournalStep::Undone);
    Err(cause)
}

/// Reads the live rules again, and writes the intent.
fn intend(
    host: &dyn Host,
    store: &Store,
    plan: &ApplyPlan<'_>,
) -> Result<(PerFamily<LiveRuleset>, Intent), Error> {
    points::state(Point::Snapshot, store)?;
    let snapshot = save(host)?;
    let ours = PerFamily::from_fn(|family| plan.owned.of(family, &snapshot[family]));
    let sets_now = plan.sets.read(host).map_err(Error::Live)?;
    if normal(&ours) != plan.live || sets_now != plan.sets.live {
        return Err(Error::LiveChanged);
    }
    // Again: in shared mode the comparison above does not see the chain of `fwc panic`.
    panic::refuse_if_on(&snapshot)?;
    points::state(Point::SnapshotTaken, store)?;
    let tables = |family| plan.owned.tables(family);
    let intent = Intent {
        schema: Intent::SCHEMA.to_owned(),
        number: store.next_number()?,
        begun: clock::now(),
        policy: plan.request.policy.to_owned(),
        owned: plan.owned.clone(),
        before: PerFamily::from_fn(|family| ours[family].restore_text(tables(family))),
        after: plan.target.clone(),
        transitions: plan.transitions.loaded.clone(),
        sets_before: plan.sets.live.text(),
        sets_after: plan.sets.target.text(),
        ruleset: plan.request.ruleset.clone(),
        persist_dir: plan.request.persist_dir.to_owned(),
        connections: live::connection::established()
            .iter()
            .map(ToString::to_string)
            .collect(),
        watchdog: None,
    };
    store.journal().begin(&intent)?;
    Ok((snapshot, intent))
}

fn watch(store: &Store, intent: &mut Intent, guard: &mut dyn Guard) -> Result<(), Error> {
    points::state(Point::WatchdogStart, store)?;
    if let Some(pid) = guard.start(intent.number)? {
        fault::watchdog_is(pid);
        store.journal().watched(intent, pid)?;
    }
    points::state(Point::WatchdogStarted, store)
}

/// What failed between the first change and the confirmation.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Load(live::Error),
    #[error("the change was not complete in time")]
    Late,
    #[error("the live rules differed from those that fwc loaded")]
    Differs(String),
    #[error("{0}")]
    Journal(Error),
}

impl From<live::Error> for Failure {
    fn from(error: live::Error) -> Self {
        Self::Load(error)
    }
}

/// Changes the sets and the rules, and reads them back.
fn change(
    host: &mut dyn Host,
    store: &Store,
    plan: &ApplyPlan<'_>,
    intent: &Intent,
    snapshot: &PerFamily<LiveRuleset>,
    deadline: u64,
) -> Result<(), Failure> {
    let journal = store.journal();
    journal
        .write(intent, &JournalStep::Changing { deadline })
        .map_err(Failure::Journal)?;
    sets::begin(host, &plan.sets)?;
    points::rules(Point::SetsReady)?;
    for family in Family::ALL {
        let mut now = snapshot[family].clone();
        let loads = plan.loads(family)?;
        for (number, load) in loads.in_order().iter().enumerate() {
            // Another program may change its rules in the same chains between two loads.
            if number > 0 && plan.owned.is_beside_others() {
                now = host.save(family)?;
            }
            let (text, after) = loads.edit(&snapshot[family], &now, load);
            now = after;
            if text.is_empty() {
                continue;
            }
            let (before, after) = points_of(family, load.phase);
            points::rules(before)?;
            let text = fault::spoil(before, &text).unwrap_or(text);
            host.restore(family, &text)?;
            points::rules(after)?;
        }
    }
    points::rules(Point::ReadBack)?;
    if let Some(diff) = read_back(host, plan)? {
        return Err(Failure::Differs(diff));
    }
    points::rules(Point::ReadBackDone)?;
    Ok(())
}

/// Returns the fault points before and after a load.
fn points_of(family: Family, phase: LoadPhase) -> (Point, Point) {
    match (family, phase) {
        (Family::V4, LoadPhase::Transition) => (Point::BridgeV4, Point::BridgedV4),
        (Family::V4, LoadPhase::Target) => (Point::RestoreV4, Point::RestoredV4),
        (Family::V6, LoadPhase::Transition) => (Point::BridgeV6, Point::BridgedV6),
        (Family::V6, LoadPhase::Target) => (Point::RestoreV6, Point::RestoredV6),
    }
}

/// When a change must be complete and confirmed.
struct Deadline {
    /// In milliseconds since boot.
    at: u64,
    /// The same as a time of day, in UTC.
    until: String,
}

impl Deadline {
    fn from_now(patience: Duration) -> Self {
        let milliseconds = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Self {
            at: clock::since_boot().saturating_add(milliseconds),
            until: clock::in_a(patience),
        }
    }
}

impl Confirmation {
    /// Returns how long after its first step the change reverts unless it is confirmed. Without a user to confirm it, that is as long
    /// as the tools may take.
    fn patience(&self, plan: &ApplyPlan<'_>) -> Duration {
        match self {
            Self::Awaited(timeout) => *timeout,
            Self::Checks(_) => {
                let rules = &plan.request.ruleset.rules;
                let lines: usize = rules.iter().map(|(_, text)| text.lines().count()).sum();
                Duration::from_secs(60 + lines as u64 / 100)
            }
        }
    }
}

/// Writes to the journal that the change is pending, if a user must confirm it. Returns until when.
fn await_confirmation(
    store: &Store,
    intent: &Intent,
    confirmation: &Confirmation,
    deadline: &Deadline,
) -> Result<Option<(u64, String)>, Failure> {
    if clock::since_boot() >= deadline.at {
        return Err(Failure::Late);
    }
    let Confirmation::Awaited(_) = confirmation else {
        return Ok(None);
    };
    let until = &deadline.until;
    let step = JournalStep::Pending {
        deadline: deadline.at,
        until: until.clone(),
    };
    let written = store.journal().write(intent, &step);
    written.map_err(Failure::Journal)?;
    Ok(Some((deadline.at, until.clone())))
}

/// Reads the live rules and sets, and returns how they differ from the target; `None` if they do not.
fn read_back(host: &dyn Host, plan: &ApplyPlan<'_>) -> Result<Option<String>, live::Error> {
    let names = ["rehearsed", "read back"];
    let mut rules = PerFamily::default();
    for family in Family::ALL {
        rules[family] = plan.owned.of(family, &host.save(family)?).normal();
    }
    let mut sets = plan.sets.read(host)?;
    // Sets that the change removes are still there: they go after the confirmation.
    let target = &plan.sets.target;
    sets.0.retain(|name, _| target.0.contains_key(name));
    if rules == plan.target && sets == *target {
        return Ok(None);
    }
    let diff = text_diff::sets(target, &sets, names, Style::Plain);
    Ok(Some(
        diff + &text_diff::rules(&plan.target, &rules, names, Style::Plain),
    ))
}

/// Confirms a change: from here on it is completed, never reverted. It can be repeated after a crash.
pub(super) fn conclude(
    host: &mut dyn Host,
    store: &Store,
    intent: &Intent,
    staged: Option<StagedFiles<'_>>,
    by: &str,
    done: &mut CommitReport,
) -> Result<(), Error> {
    let journal = store.journal();
    journal.write(intent, &JournalStep::Confirmed { by: by.to_owned() })?;
    keep_files(store, intent, staged, done)?;
    points::state(Point::Published, store)?;
    let before = sets::parse(&intent.sets_before)?;
    let changes = sets::changes(before, sets::parse(&intent.sets_after)?);
    points::state(Point::SetsFinish, store)?;
    done.left = sets::finish(host, &changes);
    points::state(Point::SetsFinished, store)?;
    remember(store, &intent.after, &intent.ruleset)
        .map_err(|error| Error::NotRecorded(Box::new(error)))?;
    conclude_history(store, intent, by).map_err(|error| Error::NotRecorded(Box::new(error)))?;
    points::state(Point::OweHooks, store)?;
    owed::owe(&store.folder(), intent).map_err(|error| Error::NotRecorded(Box::new(error)))?;
    journal.write(intent, &JournalStep::Done)
}

/// Renames the files for the next boot to their names. After a crash there are no `staged` ones, so write them again.
pub(super) fn keep_files(
    store: &Store,
    intent: &Intent,
    staged: Option<StagedFiles<'_>>,
    done: &mut CommitReport,
) -> Result<(), Error> {
    let published = match staged {
        Some(staged) => staged.publish()?,
        None => {
            let persisted = Persisted::compare(&intent.persist_dir, &intent.ruleset)?;
            persisted.stage(!store.has_persisted())?.publish()?
        }
    };
    done.written = published.written;
    done.deleted = published.deleted;
    done.kept = published.kept;
    Ok(())
}

/// Adds the kept change to the history.
pub(super) fn conclude_history(store: &Store, intent: &Intent, by: &str) -> Result<(), Error> {
    points::state(Point::History, store)?;
    let history = store.history();
    if history.begins_with(intent.number)? {
        history.add(&HistoryEntry::before_fwc(intent))?;
    }
    history.add(&HistoryEntry::kept(intent, by))?;
    points::state(Point::HistoryWritten, store)
}

/// Records the rules that are active and those that boot, and what of the host is meant.
fn remember(
    store: &Store,
    target: &PerFamily<String>,
    ruleset: &RulesetFiles,
) -> Result<(), Error> {
    // Also when no rule changed: `[concerns]` of the policy may have.
    store.allow_concerns(&ruleset.allowed_concerns)?;
    points::state(Point::RecordApplied, store)?;
    store.applied(target)?;
    points::state(Point::RecordPersisted, store)?;
    store.persisted(target)
}

//! Named points of an apply at which a test makes fwc fail or die.
//!
//! fwc promises that after any crash the host has the old rules or the new ones, complete (`docs/reference/safety.md`). To test that,
//! each change to the disk, the kernel or a process has a point here, and the tests fail at every one. A debug build reads
//! `FWC_FAULT=POINT=KIND`; in a release build the points compile to nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// The environment variable that names a point and the fault that happens there: `POINT=KIND`.
pub const VARIABLE: &str = "FWC_FAULT";

/// The environment variable that names a file to which the point is written when its fault happens.
pub const TRACE: &str = "FWC_FAULT_TRACE";

macro_rules! points {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)*) => {
        /// A point of the transaction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $name,)*
        }

        impl Point {
            /// All points, in the order in which an apply passes them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name of the point in [`VARIABLE`].
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

points! {
    /// The lock is held, and nothing else was done.
    Locked = "locked",
    /// Before the live rules are read again.
    Snapshot = "snapshot",
    /// The live rules were read again, and are those that the plan was made for.
    SnapshotTaken = "snapshot-taken",
    /// Before the intent (what the change is about to do) is written.
    Intent = "intent",
    /// The intent is on disk, and the journal is not begun.
    IntentWritten = "intent-written",
    /// Before the folder of the files for the next boot is made.
    StageFolder = "stage-folder",
    /// Before the temporary file of `ipsets` is written.
    StageSets = "stage-ipsets",
    /// Before the temporary file of `rules.v4` is written.
    StageV4 = "stage-ipv4",
    /// Before the temporary file of `rules.v6` is written.
    StageV6 = "stage-ipv6",
    /// All temporary files are written.
    Staged = "staged",
    /// Before the watchdog is started.
    WatchdogStart = "watchdog-start",
    /// The watchdog runs.
    WatchdogStarted = "watchdog-started",
    /// Before the journal says that the kernel is being changed.
    JournalChanging = "journal-changing",
    /// The journal says so, and nothing was changed yet.
    Changing = "changing",
    /// Before the new sets are created.
    SetsFill = "sets-fill",
    /// The new sets are created and filled.
    SetsFilled = "sets-filled",
    /// Before a set is swapped.
    SetsSwap = "sets-swap",
    /// A set was swapped.
    SetsSwapped = "sets-swapped",
    /// Before members that other programs added are copied to the new set.
    SetsCarry = "sets-carry",
    /// Before the old set of a swap is emptied.
    SetsEmpty = "sets-empty",
    /// All sets are as the rules need them.
    SetsReady = "sets-ready",
    /// Before the transition filter of a three-phase change is loaded (IPv4).
    BridgeV4 = "bridge-ipv4",
    /// The transition filter is loaded (IPv4).
    BridgedV4 = "bridged-ipv4",
    /// Before the transition filter is loaded (IPv6).
    BridgeV6 = "bridge-ipv6",
    /// The transition filter is loaded (IPv6).
    BridgedV6 = "bridged-ipv6",
    /// Before the IPv4 rules are loaded.
    RestoreV4 = "restore-ipv4",
    /// The IPv4 rules are loaded.
    RestoredV4 = "restored-ipv4",
    /// Before the IPv6 rules are loaded.
    RestoreV6 = "restore-ipv6",
    /// The IPv6 rules are loaded.
    RestoredV6 = "restored-ipv6",
    /// Before the loaded rules are read back.
    ReadBack = "read-back",
    /// The kernel holds the rules that were loaded.
    ReadBackDone = "read-back-done",
    /// Before the journal says that the change waits for a confirmation.
    JournalPending = "journal-pending",
    /// The journal says that the change waits for a confirmation.
    Pending = "pending",
    /// Before the journal says that the change is confirmed.
    JournalConfirmed = "journal-confirmed",
    /// The journal says that the change is confirmed: from here on only a rollback reverts it.
    Confirmed = "confirmed",
    /// Before a file that fwc did not write gets a second name.
    KeepOld = "keep-old",
    /// Before `ipsets` is renamed to its place.
    PublishSets = "publish-ipsets",
    /// Before `rules.v4` is renamed to its place.
    PublishV4 = "publish-ipv4",
    /// Before `rules.v6` is renamed to its place.
    PublishV6 = "publish-ipv6",
    /// Before an `ipsets` file that is no longer needed is removed.
    RemoveSets = "remove-ipsets",
    /// All files for the next boot are in their places.
    Published = "published",
    /// Before sets that are no longer needed are destroyed.
    SetsFinish = "sets-finish",
    /// The sets that were no longer needed are destroyed.
    SetsFinished = "sets-finished",
    /// Before fwc records which rules it applied.
    RecordApplied = "record-applied",
    /// Before fwc records which files it wrote for the next boot.
    RecordPersisted = "record-persisted",
    /// Before the history entry is written.
    History = "history",
    /// The history entry is written.
    HistoryWritten = "history-written",
    /// Before fwc records which hooks it has to run.
    OweHooks = "owe-hooks",
    /// Before the journal says that the change is done.
    JournalDone = "journal-done",
    /// The journal says that the change is done.
    Done = "done",
    /// Before the first hook is run.
    RunHooks = "run-hooks",
    /// All hooks ran, and no record says so yet.
    HooksRan = "hooks-ran",
    /// Before the journal says that the change is being reverted.
    JournalUndoing = "journal-undoing",
    /// The journal says that the change is being reverted.
    Undoing = "undoing",
    /// Before the sets that the old rules need are restored.
    UndoSets = "undo-sets",
    /// Before the IPv4 rules are reverted.
    UndoV4 = "undo-ipv4",
    /// The IPv4 rules are reverted.
    UndoneV4 = "undone-ipv4",
    /// Before the IPv6 rules are reverted.
    UndoV6 = "undo-ipv6",
    /// The IPv6 rules are reverted.
    UndoneV6 = "undone-ipv6",
    /// Before the reverted rules are read back.
    UndoReadBack = "undo-read-back",
    /// Before sets that the old rules do not need are destroyed.
    UndoSetsFinish = "undo-sets-finish",
    /// Before the history entry of the revert is written.
    UndoHistory = "undo-history",
    /// Before the journal says that the change was reverted.
    JournalUndone = "journal-undone",
    /// The journal says that the change was reverted.
    Undone = "undone",
    /// Before the temporary file of a saved plan is written.
    SavePlan = "save-plan",
    /// The temporary file of the plan is written.
    PlanStaged = "plan-staged",
    /// Before the sets are created at boot.
    BootSets = "boot-sets",
    /// Before the IPv4 rules are loaded at boot.
    BootV4 = "boot-ipv4",
    /// Before the IPv6 rules are loaded at boot.
    BootV6 = "boot-ipv6",
    /// Both families are loaded, and no record says so yet.
    Booted = "booted",
    /// Before panic mode is switched on or off in IPv4.
    PanicV4 = "panic-ipv4",
    /// Before panic mode is switched on or off in IPv6.
    PanicV6 = "panic-ipv6",
}

/// The fault that happens at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// This process is killed (SIGKILL).
    Kill,
    /// This process is stopped (SIGSTOP), and nobody continues it.
    Stop,
    /// The watchdog is killed. In the watchdog itself, this process is.
    KillWatchdog,
    /// The system call at the point fails with this error number.
    Errno(i32),
    /// `iptables-restore` fails after some of the tables are committed.
    Refuse,
}

/// The process id of the watchdog; 0 before it is started.
static WATCHDOG: AtomicI32 = AtomicI32::new(0);

/// `true` once the fault has happened.
static STRUCK: AtomicBool = AtomicBool::new(false);

/// Sets the process that `kill-watchdog` kills.
pub fn watchdog_is(pid: u32) {
    WATCHDOG.store(pid.cast_signed(), Ordering::Relaxed);
}

/// Returns the point and the fault that the environment asks for. An unknown fault is ignored.
fn planned() -> Option<&'static (String, Kind)> {
    static PLANNED: OnceLock<Option<(String, Kind)>> = OnceLock::new();
    PLANNED
        .get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let (point, kind) = text.split_once('=')?;
            let kind = match kind {
                "kill" => Kind::Kill,
                "stop" => Kind::Stop,
                "kill-watchdog" => Kind::KillWatchdog,
                "ENOSPC" => Kind::Errno(28),
                "EACCES" => Kind::Errno(13),
                "EIO" => Kind::Errno(5),
                "refuse" => Kind::Refuse,
                _ => return None,
            };
            Some((point.to_owned(), kind))
        })
        .as_ref()
}

/// Passes a point. If a test asked for a fault here, this process or the watchdog is killed, or the error is returned.
pub fn at(point: Point) -> io::Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    let Some((word, kind)) = planned() else {
        return Ok(());
    };
    // A fault happens once: what fwc does to recover from it passes the same points again.
    if word != point.word() || *kind == Kind::Refuse || STRUCK.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    note(word);
    match kind {
        Kind::Errno(number) => return Err(io::Error::from_raw_os_error(*number)),
        Kind::Kill => die(getpid()),
        Kind::Stop => {
            let _ = kill_process(getpid(), Signal::STOP);
        }
        Kind::KillWatchdog => {
            let other = Pid::from_raw(WATCHDOG.load(Ordering::Relaxed));
            die(other.unwrap_or_else(getpid));
        }
        Kind::Refuse => {}
    }
    Ok(())
}

/// Writes the point to the trace file, so that a test can check that its fault happened.
fn note(word: &str) {
    if let Some(path) = std::env::var_os(TRACE) {
        let _ = std::fs::write(path, word);
    }
}

fn die(who: Pid) {
    let _ = kill_process(who, Signal::KILL);
    // A signal to this process arrives before `kill` returns, one to another process soon after.
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// Returns the input with a last table that `iptables-restore` refuses, if a test asked for that at this point. The tables
/// before it are committed by then.
pub fn spoil(point: Point, input: &str) -> Option<String> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let (word, kind) = planned()?;
    let strikes = word == point.word() && *kind == Kind::Refuse;
    if !strikes || STRUCK.swap(true, Ordering::Relaxed) {
        return None;
    }
    note(word);
    Some(format!(
        "{input}*security\n-A INPUT -j NO-SUCH-TARGET\nCOMMIT\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Point;

    #[test]
    fn names_are_many_and_differ() {
        let words: HashSet<_> = Point::ALL.iter().map(|point| point.word()).collect();
        assert_eq!(words.len(), Point::ALL.len());
        assert!(words.len() >= 40);
    }
}

//! Named places at which a test makes fwc fail or die.
//!
//! What apply promises holds whatever dies when, so that each change to disk, kernel or process has a name here. A debug
//! build reads `FWC_FAULT=POINT=KIND`; in a release build the whole of it compiles to nothing.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// The environment variable that names a point and what happens there.
pub const VARIABLE: &str = "FWC_FAULT";

/// The environment variable that names a file for the trace of a fault that happened.
pub const TRACE: &str = "FWC_FAULT_TRACE";

macro_rules! points {
    ($($(#[doc = $doc:literal])* $name:ident = $word:literal,)*) => {
        /// A place in the transaction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Point {
            $($(#[doc = $doc])* $name,)*
        }

        impl Point {
            /// All points in the order in which an apply passes them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in [`VARIABLE`].
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

points! {
    /// The lock is held, nothing else was done.
    Locked = "locked",
    /// Before live is read again.
    Snapshot = "snapshot",
    /// Live was read again, and is what was planned on.
    SnapshotTaken = "snapshot-taken",
    /// Before the intent is written.
    Intent = "intent",
    /// The intent is on disk, the journal not yet begun.
    IntentWritten = "intent-written",
    /// Before the files for the next boot are written beside their places.
    StageFolder = "stage-folder",
    /// Before `ipsets` is written beside its place.
    StageSets = "stage-ipsets",
    /// Before `rules.v4` is written beside its place.
    StageV4 = "stage-ipv4",
    /// Before `rules.v6` is written beside its place.
    StageV6 = "stage-ipv6",
    /// All files are beside their places.
    Staged = "staged",
    /// Before the watchdog is started.
    WatchdogStart = "watchdog-start",
    /// The watchdog runs.
    WatchdogStarted = "watchdog-started",
    /// Before the journal says that the kernel is being changed.
    JournalChanging = "journal-changing",
    /// The journal says so, and nothing was changed yet.
    Changing = "changing",
    /// Before sets are made.
    SetsFill = "sets-fill",
    /// Sets are made and filled.
    SetsFilled = "sets-filled",
    /// Before a set is swapped.
    SetsSwap = "sets-swap",
    /// A set was swapped.
    SetsSwapped = "sets-swapped",
    /// Before others' members are carried over.
    SetsCarry = "sets-carry",
    /// Before the old side of a swap is emptied.
    SetsEmpty = "sets-empty",
    /// The sets are as the rules need them.
    SetsReady = "sets-ready",
    /// Before the filter table of a three-phase change is bridged.
    BridgeV4 = "bridge-ipv4",
    /// It is bridged.
    BridgedV4 = "bridged-ipv4",
    /// The same of IPv6.
    BridgeV6 = "bridge-ipv6",
    /// The same of IPv6.
    BridgedV6 = "bridged-ipv6",
    /// Before the rules of IPv4 are loaded.
    RestoreV4 = "restore-ipv4",
    /// They are.
    RestoredV4 = "restored-ipv4",
    /// Before the rules of IPv6 are loaded.
    RestoreV6 = "restore-ipv6",
    /// They are.
    RestoredV6 = "restored-ipv6",
    /// Before the kernel is read back.
    ReadBack = "read-back",
    /// It holds what it was given.
    ReadBackDone = "read-back-done",
    /// Before the journal says that a confirmation is awaited.
    JournalPending = "journal-pending",
    /// The journal says so.
    Pending = "pending",
    /// Before the journal says that the change is confirmed.
    JournalConfirmed = "journal-confirmed",
    /// The journal says so: from here on there is no way back but a rollback.
    Confirmed = "confirmed",
    /// Before a file of others gets a second name.
    KeepOld = "keep-old",
    /// Before `ipsets` gets its place.
    PublishSets = "publish-ipsets",
    /// Before `rules.v4` gets its place.
    PublishV4 = "publish-ipv4",
    /// Before `rules.v6` gets its place.
    PublishV6 = "publish-ipv6",
    /// Before a needless `ipsets` is removed.
    RemoveSets = "remove-ipsets",
    /// All files are in their places.
    Published = "published",
    /// Before needless sets are removed.
    SetsFinish = "sets-finish",
    /// They are.
    SetsFinished = "sets-finished",
    /// Before fwc writes down what it put in force.
    RecordApplied = "record-applied",
    /// Before fwc writes down what boots.
    RecordPersisted = "record-persisted",
    /// Before the history entry is written.
    History = "history",
    /// It is.
    HistoryWritten = "history-written",
    /// Before fwc writes down which hooks are to be run.
    OweHooks = "owe-hooks",
    /// Before the journal says that all is done.
    JournalDone = "journal-done",
    /// The journal says so.
    Done = "done",
    /// Before the first hook.
    RunHooks = "run-hooks",
    /// Behind the last one, and nobody knows it yet.
    HooksRan = "hooks-ran",
    /// Before the journal says that the change is being taken back.
    JournalUndoing = "journal-undoing",
    /// The journal says so.
    Undoing = "undoing",
    /// Before the sets that the old rules need are brought back.
    UndoSets = "undo-sets",
    /// Before the rules of IPv4 are taken back.
    UndoV4 = "undo-ipv4",
    /// They are.
    UndoneV4 = "undone-ipv4",
    /// Before the rules of IPv6 are taken back.
    UndoV6 = "undo-ipv6",
    /// They are.
    UndoneV6 = "undone-ipv6",
    /// Before the kernel is read back.
    UndoReadBack = "undo-read-back",
    /// Before sets that the old rules do not need are removed.
    UndoSetsFinish = "undo-sets-finish",
    /// Before the history entry of the undo is written.
    UndoHistory = "undo-history",
    /// Before the journal says that the change was taken back.
    JournalUndone = "journal-undone",
    /// The journal says so.
    Undone = "undone",
    /// Before a plan is written beside its place.
    SavePlan = "save-plan",
    /// It is there.
    PlanStaged = "plan-staged",
    /// Before the sets are made at boot.
    BootSets = "boot-sets",
    /// Before the rules of IPv4 are loaded at boot.
    BootV4 = "boot-ipv4",
    /// The same of IPv6.
    BootV6 = "boot-ipv6",
    /// Both are loaded, and nobody knows it yet.
    Booted = "booted",
    /// Before IPv4 is closed but for management, or open again.
    PanicV4 = "panic-ipv4",
    /// The same of IPv6.
    PanicV6 = "panic-ipv6",
}

/// What happens at the point.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// This process dies.
    Kill,
    /// This process is stopped, and nobody lets it go on.
    Stop,
    /// The watchdog dies; in the watchdog itself the same.
    KillWatchdog,
    /// The system refuses with this number.
    Errno(i32),
    /// The kernel refuses the rules after some of the tables are in force.
    Refuse,
}

/// The watchdog's process, once there is one.
static WATCHDOG: AtomicI32 = AtomicI32::new(0);

/// Whether it has happened.
static STRUCK: AtomicBool = AtomicBool::new(false);

/// Tells whom to kill.
pub fn watchdog_is(pid: u32) {
    WATCHDOG.store(pid.cast_signed(), Ordering::Relaxed);
}

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

/// Passes a point: where a test wants it, this process or the watchdog dies here, or an error comes back.
pub fn at(point: Point) -> io::Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    let Some((word, kind)) = planned() else {
        return Ok(());
    };
    // Bad luck strikes once.
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

/// Leaves a trace, so that a test knows that its fault happened.
fn note(word: &str) {
    if let Some(path) = std::env::var_os(TRACE) {
        let _ = std::fs::write(path, word);
    }
}

fn die(who: Pid) {
    let _ = kill_process(who, Signal::KILL);
    // The signal of oneself arrives before the call returns, that of another one soon.
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// Input for `iptables-restore` that fails at its end, where a test wants the kernel to refuse it at this point.
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

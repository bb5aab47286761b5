//! The watchdog: a process that reverts a change if fwc dies or nobody confirms in time.
//!
//! fwc starts itself again. That process has a session of its own and ignores SIGHUP, SIGTERM, SIGINT and SIGQUIT, so that
//! neither a closed terminal nor a lost connection ends it. A pipe that closes shows it that fwc died; the journal shows how
//! far the change is. It is two processes: a worker, and a supervisor that only waits and starts the worker again if something
//! kills it, even while it reverts the change.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::clock;
use super::error::Error;
use super::lock::HolderAction;
use super::records::JournalStep;
use super::recover::recover;
use super::store::Store;
use super::transaction::Guard;
use crate::fault;
use crate::live::lifetime::{self, Lifetime};
use crate::live::{self, Backend, NamespaceId, Real};

/// The hidden command that runs it.
pub const COMMAND: &str = "__watchdog";

/// How often it reads the journal.
const TICK: Duration = Duration::from_millis(50);

/// After so many failures, a second apart, it gives up, and leaves the change to the next fwc.
const ATTEMPTS: usize = 3600;

/// What the watchdog must know, as its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    state_dir: PathBuf,
    persist_dir: PathBuf,
    backend: Option<Backend>,
    number: u64,
}

/// Starts watchdogs.
#[derive(Debug)]
pub struct Watchdog {
    state_dir: PathBuf,
    persist_dir: PathBuf,
    backend: Option<Backend>,
    /// The process. Its input is a pipe that closes when this process dies.
    child: Option<Child>,
    /// The systemd unit that ends together with this process, if there is one.
    unit: Option<String>,
}

impl Watchdog {
    /// Starts nothing yet. The paths must be absolute.
    pub fn new(state_dir: PathBuf, persist_dir: PathBuf, backend: Option<Backend>) -> Self {
        Self {
            state_dir,
            persist_dir,
            backend,
            child: None,
            unit: None,
        }
    }

    /// Makes sure that the watchdog outlives this process. If systemd would end it together with the unit of this process, it will
    /// get a unit of its own: returns a text that says so.
    ///
    /// # Errors
    ///
    /// The watchdog would end together with this process in any case.
    pub fn prepare(&mut self) -> Result<Option<String>, Error> {
        match lifetime::of_children() {
            Lifetime::TheirOwn => Ok(None),
            Lifetime::OfUnit(unit) => {
                let text = format!(
                    "systemd ends all processes of {unit} together with it, so the watchdog runs in a scope of its own (fwc-watchdog-*.scope)"
                );
                self.unit = Some(unit);
                Ok(Some(text))
            }
            Lifetime::OfInit(why) => Err(Error::MortalWatchdog(why)),
        }
    }

    fn spawn(&mut self, number: u64) -> io::Result<u32> {
        let order = Order {
            state_dir: self.state_dir.clone(),
            persist_dir: self.persist_dir.clone(),
            backend: self.backend,
            number,
        };
        let own = env::current_exe()?;
        let mut command = match &self.unit {
            None => live::own_command(&own),
            Some(_) => lifetime::in_scope(
                &own,
                &format!("fwc-watchdog-{}-{number}", std::process::id()),
            )?,
        };
        let mut child = command
            .args([COMMAND, SUPERVISE, &serde_json::to_string(&order)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut answer = String::new();
        if let Some(pipe) = child.stdout.take() {
            BufReader::new(pipe).read_line(&mut answer)?;
        }
        self.child = Some(child);
        let pid = answer.trim().strip_prefix(READY).map(str::trim);
        match pid.and_then(|pid| pid.parse().ok()) {
            Some(pid) => Ok(pid),
            None if answer.is_empty() => Err(io::Error::other(match &self.unit {
                None => "it ended at once".to_owned(),
                Some(unit) => format!(
                    "systemd ends all processes of {unit} together with it, and `systemd-run --scope` cannot start the watchdog elsewhere; run fwc outside that unit"
                ),
            })),
            None => Err(io::Error::other(answer.trim().to_owned())),
        }
    }
}

/// The argument of the supervisor.
const SUPERVISE: &str = "supervise";
/// The argument of the worker.
const WORK: &str = "work";

/// The first word of the worker's answer, before its process id.
const READY: &str = "ready";

impl Guard for Watchdog {
    fn start(&mut self, number: u64) -> Result<Option<u32>, Error> {
        self.spawn(number).map(Some).map_err(Error::NoWatchdog)
    }
}

/// What the worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Wait: nothing to do yet.
    Wait,
    /// Revert the change, or complete it, as soon as the lock is free.
    Act,
    /// The same, and end the fwc that keeps the lock: it is stopped, or hangs.
    Insist,
    /// The change has ended.
    End,
}

/// How long after a deadline the fwc that makes the change may continue, in milliseconds: it reverts the change by itself.
const GRACE: u64 = 5_000;

/// Decides what to do. `last` are the number and the step of the last line of the journal, `now` is in milliseconds since boot.
fn decide(last: Option<&(u64, JournalStep)>, number: u64, owner_is_gone: bool, now: u64) -> Next {
    let Some((_, step)) = last.filter(|(last, step)| *last == number && !step.is_end()) else {
        return Next::End;
    };
    match step {
        JournalStep::Changing { deadline }
        | JournalStep::Pending { deadline, .. }
        | JournalStep::Undoing { deadline, .. }
            if now >= deadline.saturating_add(GRACE) =>
        {
            Next::Insist
        }
        JournalStep::Pending { deadline, .. } if now >= *deadline => Next::Act,
        JournalStep::Pending { .. } => Next::Wait,
        _ if owner_is_gone => Next::Act,
        _ => Next::Wait,
    }
}

/// Runs the watchdog: the processes that [`Watchdog`] starts, with the arguments after [`COMMAND`].
pub fn run(arguments: &[String]) {
    let result = match arguments {
        [word, order] if word == SUPERVISE => supervise(order),
        [word, order] if word == WORK => work(order),
        _ => Err(io::Error::other("no such watchdog")),
    };
    if let Err(error) = result {
        say(&error.to_string());
    }
}

/// Answers the process that started the watchdog.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // If that process does not get the answer, it does not begin the change.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Makes this process ignore the signals that end others.
fn ignore_signals() -> io::Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ignored))?;
    }
    // Among the last to be killed if memory runs out: it needs little, and without it nobody reverts the change.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
    Ok(())
}

/// Starts the worker, and starts it again when it is killed.
fn supervise(order: &str) -> io::Result<()> {
    // An error means that this process leads a session already.
    let _ = rustix::process::setsid();
    ignore_signals()?;
    let own = env::current_exe()?;
    // The worker inherits the copy: as long as one of the two lives, the change counts as guarded.
    let guard = store_of(&serde_json::from_str(order)?)?.guard();
    let guard = guard.map_err(|error| io::Error::other(error.to_string()))?;
    let _inherited = rustix::io::dup(&guard)?;
    let mut command: Command = live::own_command(&own);
    for _ in 0..ATTEMPTS {
        // The worker inherits the pipe that closes when fwc dies.
        let status = command.args([COMMAND, WORK, order]).status()?;
        if status.success() {
            return Ok(());
        }
        thread::sleep(TICK);
        command = live::own_command(&own);
        command.env_remove(fault::VARIABLE);
    }
    Ok(())
}

fn store_of(order: &Order) -> io::Result<Store> {
    let namespace = NamespaceId::current()?;
    Ok(Store::new(&order.state_dir, namespace, &order.persist_dir))
}

fn work(order: &str) -> io::Result<()> {
    ignore_signals()?;
    let order: Order = serde_json::from_str(order)?;
    let store = store_of(&order)?;
    let mut host =
        Real::open(order.backend).map_err(|error| io::Error::other(error.to_string()))?;
    let owner_is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&owner_is_gone);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut byte = [0];
        while matches!(input.read(&mut byte), Ok(1)) {}
        gone.store(true, Ordering::Relaxed);
    });
    say(&format!("{READY} {}", std::process::id()));
    watch(&order, &store, &mut host, &owner_is_gone);
    Ok(())
}

fn watch(order: &Order, store: &Store, host: &mut Real, owner_is_gone: &AtomicBool) {
    let mut attempts = 0;
    let next = || {
        let gone = owner_is_gone.load(Ordering::Relaxed);
        let last = store.journal().last_line().ok()?;
        Some(decide(
            last.as_ref(),
            order.number,
            gone,
            clock::since_boot(),
        ))
    };
    loop {
        let Some(step) = next() else {
            // The journal cannot be read, for example because its folder belongs to another user for now.
            attempts += 1;
            if attempts == ATTEMPTS {
                return;
            }
            thread::sleep(Duration::from_secs(1));
            continue;
        };
        match step {
            Next::End => return,
            Next::Wait => thread::sleep(TICK),
            Next::Act | Next::Insist => {
                // Another fwc may be ending the change: under the lock, `recover` reads the journal again.
                let lock = store.lock_unless(host, |pid| match next() {
                    Some(Next::Insist) => Ok(HolderAction::End),
                    Some(Next::End) => Err(Error::Locked { pid }),
                    Some(Next::Wait | Next::Act) | None => Ok(HolderAction::Wait),
                });
                let ended = lock.and_then(|_lock| recover(host, store).map(drop));
                if ended.is_err() {
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        return;
                    }
                    thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JournalStep, Next, decide};

    #[test]
    fn it_acts_when_time_is_over_or_fwc_is_gone() {
        let pending = JournalStep::Pending {
            deadline: 1000,
            until: String::new(),
        };
        let changing = JournalStep::Changing { deadline: 1000 };
        let undoing = JournalStep::Undoing {
            why: String::new(),
            deadline: 1000,
        };
        let confirmed = JournalStep::Confirmed { by: String::new() };
        let cases = [
            (Some((7, JournalStep::Begun)), false, 0, Next::Wait),
            (Some((7, changing.clone())), false, 5999, Next::Wait),
            (Some((7, changing.clone())), true, 0, Next::Act),
            (Some((7, changing)), false, 6000, Next::Insist),
            (Some((7, undoing.clone())), false, 5999, Next::Wait),
            (Some((7, undoing)), false, 6000, Next::Insist),
            (Some((7, pending.clone())), true, 999, Next::Wait),
            (Some((7, pending.clone())), false, 1000, Next::Act),
            (Some((7, pending.clone())), false, 6000, Next::Insist),
            (Some((7, confirmed.clone())), false, 2000, Next::Wait),
            (Some((7, confirmed)), true, 0, Next::Act),
            (Some((7, JournalStep::Done)), false, 0, Next::End),
            (Some((7, JournalStep::Undone)), true, 0, Next::End),
            (Some((8, pending)), true, 2000, Next::End),
            (None, true, 0, Next::End),
        ];
        for (last, gone, now, next) in cases {
            assert_eq!(decide(last.as_ref(), 7, gone, now), next, "{last:?}");
        }
    }
}

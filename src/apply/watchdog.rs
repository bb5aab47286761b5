//! The process that takes a change back when fwc dies or nobody confirms in time.
//!
//! fwc starts itself again. That process makes a session of its own and takes no notice of SIGHUP, SIGTERM, SIGINT and
//! SIGQUIT: a closed terminal or a dropped connection does not end it. A pipe tells it when fwc dies; the journal tells it
//! how far the change is. It is two processes: one that works, and one that only waits and starts the first again when
//! something kills it, be it in the middle of taking back.

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
use super::lock::Others;
use super::records::JournalStep;
use super::recover::recover;
use super::store::Store;
use super::transaction::Guard;
use crate::fault;
use crate::live::lifetime::{self, Lifetime};
use crate::live::{self, Backend, NamespaceId, Real};

/// The hidden command that runs it.
pub const COMMAND: &str = "__watchdog";

/// How often it looks.
const TICK: Duration = Duration::from_millis(50);

/// After so many failures, a second apart, it gives up: the next fwc goes on.
const ATTEMPTS: usize = 3600;

/// What it is told.
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
    /// Its input stays open while this process lives.
    child: Option<Child>,
    /// The unit of systemd that ends with this process, where there is one.
    unit: Option<String>,
}

impl Watchdog {
    /// Nothing is started yet. The paths must be absolute.
    pub fn new(state_dir: PathBuf, persist_dir: PathBuf, backend: Option<Backend>) -> Self {
        Self {
            state_dir,
            persist_dir,
            backend,
            child: None,
            unit: None,
        }
    }

    /// Makes sure that the watchdog outlives this process: where systemd would end it with the unit that this process is in, the unit
    /// that it gets instead, in words.
    ///
    /// # Errors
    ///
    /// Something ends it with this process, and it cannot be helped.
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

/// The one that waits.
const SUPERVISE: &str = "supervise";
/// The one that works.
const WORK: &str = "work";

const READY: &str = "ready";

impl Guard for Watchdog {
    fn start(&mut self, number: u64) -> Result<Option<u32>, Error> {
        self.spawn(number).map(Some).map_err(Error::NoWatchdog)
    }
}

/// What it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Wait,
    /// Take the change back, or complete it, as soon as the lock is free.
    Act,
    /// The same, and end who keeps the lock: a fwc that is stopped, or that hangs.
    Insist,
    End,
}

/// How long after a deadline a fwc that works on the change may go on, in milliseconds: it takes the change back by itself.
const GRACE: u64 = 5_000;

/// `last`: the last line of the journal, its number and step.
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

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Who does not hear it does not go on.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Takes no notice of what ends other processes.
fn stand_firm() -> io::Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ignored))?;
    }
    // Hard to kill for want of memory: it holds little, and much hangs on it.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
    Ok(())
}

/// Starts the worker, and starts it again when it is killed.
fn supervise(order: &str) -> io::Result<()> {
    // An error says that it leads a session already.
    let _ = rustix::process::setsid();
    stand_firm()?;
    let own = env::current_exe()?;
    // The copy stays open in the worker, too: as long as one of them lives, the change is guarded.
    let guard = store_of(&serde_json::from_str(order)?)?.guard();
    let guard = guard.map_err(|error| io::Error::other(error.to_string()))?;
    let _inherited = rustix::io::dup(&guard)?;
    let mut command: Command = live::own_command(&own);
    for _ in 0..ATTEMPTS {
        // The worker hears of fwc's death by the same pipe.
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
    stand_firm()?;
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
            // Such as a folder that is another user's just now: it may be root's again.
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
                // Others may be at it: under the lock the journal is read again.
                let lock = store.lock_unless(host, |pid| match next() {
                    Some(Next::Insist) => Ok(Others::End),
                    Some(Next::End) => Err(Error::Locked { pid }),
                    Some(Next::Wait | Next::Act) | None => Ok(Others::Wait),
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

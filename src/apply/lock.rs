//! The locks of a network namespace: who may change it, who watches a change, who runs hooks.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::disk::make_folder;
use super::error::Error;
use super::store::Store;
use crate::files;
use crate::live::{self, Host, NamespaceId, holders, process};

/// Held by who changes the firewall, and by the tools that it runs.
const LOCK: &str = "lock";

/// Held by watchdogs.
const GUARD: &str = "guard";

/// Held by who runs hooks.
const HOOKS_LOCK: &str = "hooks.lock";

/// So long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is tried.
const TICK: Duration = Duration::from_millis(20);

/// Where the lock of a network namespace is, below the folder of all.
pub(super) fn lock_file(namespace: &NamespaceId) -> PathBuf {
    Path::new("namespaces")
        .join(namespace.to_string())
        .join(LOCK)
}

/// The right to change a network namespace.
#[derive(Debug)]
pub struct Lock {
    /// Tools that change the kernel inherit it.
    file: Arc<File>,
}

/// Whether a process is a fwc: `pid` is the number that the one which took the lock wrote down.
fn is_fwc(holder: &holders::Holder, pid: Option<u32>) -> bool {
    pid == Some(holder.number()) || holders::is_own_program(holder.pid)
}

/// The program that took the lock and is none of fwc's.
fn stranger(holders: &[holders::Holder]) -> Option<live::XtablesLockHolder> {
    let holder = holders.first()?;
    let is_strange = !holder.has_it_of_fwc && !holders::is_own_program(holder.pid);
    is_strange.then(|| live::XtablesLockHolder {
        pid: holder.number(),
        name: process::name(&holder.number().to_string()).unwrap_or_default(),
    })
}

/// What becomes of a fwc that holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// It is waited for.
    Wait,
    /// It is killed, with the tools that it runs. A panic is waited for all the same, and who is none of fwc's is an error.
    End,
}

impl Store {
    /// One fwc at a time changes a namespace: the lock is held until it is dropped and the tools that `host` ran meanwhile are
    /// gone. Waits a little: what a watchdog does is quickly done.
    ///
    /// # Errors
    ///
    /// Another fwc holds it for longer, or the file cannot be opened.
    pub fn lock(&self, host: &mut dyn Host) -> Result<Lock, Error> {
        let patience = Instant::now() + PATIENCE;
        self.lock_unless(host, |pid| match Instant::now() < patience {
            true => Ok(Others::Wait),
            false => Err(Error::Locked { pid }),
        })
    }

    /// The same, for who may end another fwc that keeps a change from being taken back: `others` says what becomes of the one
    /// that holds the lock.
    ///
    /// What a fwc that died left running is ended in any case: nothing may be decided while it can still change the kernel.
    pub(super) fn lock_unless(
        &self,
        host: &mut dyn Host,
        mut others: impl FnMut(Option<u32>) -> Result<Others, Error>,
    ) -> Result<Lock, Error> {
        let mut pause = TICK;
        loop {
            let (file, pid) = match self.try_lock(LOCK)? {
                Ok(lock) => {
                    host.tie(&lock.file);
                    return Ok(lock);
                }
                Err(held) => held,
            };
            let holders = holders::of(&file);
            // Nobody is seen where the holder is in another PID namespace, or let go just now.
            let is_orphan = holders.iter().any(|holder| holder.has_it_of_fwc)
                && !holders.iter().any(|holder| is_fwc(holder, pid));
            let stranger = stranger(&holders);
            let decided = match is_orphan {
                true => Ok(Others::End),
                false => others(pid),
            };
            match (decided, stranger) {
                (Ok(Others::Wait), _) => {}
                (Ok(Others::End), None) => holders::end(&holders),
                (Ok(Others::End) | Err(Error::Locked { .. }), Some(stranger)) => {
                    return Err(Error::LockedByOther(stranger));
                }
                (Err(error), _) => return Err(error),
            }
            thread::sleep(pause);
            // Looking at all processes is not free.
            pause = (2 * pause).min(10 * TICK);
        }
    }

    /// The lock without a host, for who changes nothing in the kernel.
    pub(super) fn lock_memory(&self) -> Result<Lock, Error> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.try_lock(LOCK)? {
                Ok(lock) => return Ok(lock),
                Err(_) if Instant::now() < patience => thread::sleep(TICK),
                Err((file, pid)) => {
                    let stranger = stranger(&holders::of(&file));
                    return Err(stranger.map_or(Error::Locked { pid }, Error::LockedByOther));
                }
            }
        }
    }

    /// What a watchdog holds as long as it lives, and hands on to the processes that it starts.
    pub fn guard(&self) -> Result<File, Error> {
        let path = self.folder().join(GUARD);
        let failed = |source| Error::io("cannot open", &path, source);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = make_folder(&self.folder())?.file(GUARD.as_ref(), flags);
        let file = file.map_err(failed)?;
        flock(&file, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// Returns whether a watchdog lives.
    ///
    /// Then this network namespace is the one that it was started in: the kernel gives the number of a namespace to another one
    /// only when no process is in it any more.
    pub fn is_guarded(&self) -> bool {
        let Ok(file) = File::open(self.folder().join(GUARD)) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// Stops in a hook of this namespace's: what runs hooks at its end would wait there for the fwc that waits for the hook.
    pub fn refuse_in_hook(&self) -> Result<(), Error> {
        let path = self.folder().join(HOOKS_LOCK);
        let holder = files::read_kept(&path).ok().flatten();
        let holder = holder.and_then(|text| text.trim().parse().ok());
        let Some(pid) = holder.filter(|pid| process::is_above(*pid)) else {
            return Ok(());
        };
        // The file still names who had it last.
        match self.try_lock(HOOKS_LOCK)? {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::InHook(pid)),
        }
    }

    /// The right to run hooks: one fwc at a time, and never kept from the firewall by it. Waits as long as it takes, which the
    /// time that a hook has bounds; says once for whom.
    pub(super) fn hooks_turn(&self, waits: impl FnOnce(Option<u32>)) -> Result<Lock, Error> {
        let mut waits = Some(waits);
        loop {
            match self.try_lock(HOOKS_LOCK)? {
                Ok(lock) => return Ok(lock),
                Err((_, pid)) => {
                    if let Some(waits) = waits.take() {
                        waits(pid);
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// The lock of this name, or its file and the process that took it.
    fn try_lock(&self, name: &str) -> Result<Result<Lock, (File, Option<u32>)>, Error> {
        let folder = make_folder(&self.folder())?;
        let path = self.folder().join(name);
        let failed = |source| Error::io("cannot open the lock", &path, source);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let mut file = folder.file(name.as_ref(), flags).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim().parse().ok();
                return Ok(Err((file, pid)));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The number is for people: a full disk must not keep a change in force.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        holders::mark(&mut file).map_err(failed)?;
        Ok(Ok(Lock {
            file: Arc::new(file),
        }))
    }
}

#[cfg(test)]
mod tests {
    use crate::apply::error::Error;
    use crate::apply::store::Store;
    use crate::live::NamespaceId;
    use crate::live::fake::Fake;

    #[test]
    fn second_lock_says_who_holds_the_first() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(
            root.path(),
            NamespaceId::current().unwrap(),
            &root.path().join("rules"),
        );
        let held = store.lock_memory().unwrap();
        match store.lock_memory() {
            Err(Error::Locked { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        store.lock(&mut Fake::default()).unwrap();
    }
}

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

/// The file that a fwc locks while it changes the firewall. The tools that it runs inherit the lock.
const LOCK: &str = "lock";

/// The file that watchdogs lock as long as they live.
const GUARD: &str = "guard";

/// The file that a fwc locks while it runs hooks.
const HOOKS_LOCK: &str = "hooks.lock";

/// How long fwc waits for a lock.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it tries.
const TICK: Duration = Duration::from_millis(20);

/// Returns the path of the lock of a network namespace, below the state directory.
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

/// Returns `true` if a process is a fwc. `pid` is the process id in the lock file, which the fwc that took the lock wrote.
fn is_fwc(holder: &holders::Holder, pid: Option<u32>) -> bool {
    pid == Some(holder.number()) || holders::is_own_program(holder.pid)
}

/// Returns the program that took the lock, if it is not fwc.
fn stranger(holders: &[holders::Holder]) -> Option<live::LockHolder> {
    let holder = holders.first()?;
    let is_strange = !holder.has_it_of_fwc && !holders::is_own_program(holder.pid);
    is_strange.then(|| live::LockHolder {
        pid: holder.number(),
        name: process::name(&holder.number().to_string()).unwrap_or_default(),
    })
}

/// What to do about a fwc that holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HolderAction {
    /// Wait for it.
    Wait,
    /// Kill it and the tools that it runs, but wait for `fwc panic`. A program other than fwc is an error.
    End,
}

impl Store {
    /// Takes the right to change the network namespace, which one fwc has at a time: until the lock is dropped, and the tools
    /// that `host` ran meanwhile have ended. Waits a little, because a watchdog is done soon.
    ///
    /// # Errors
    ///
    /// Another fwc holds it for longer, or the file cannot be opened.
    pub fn lock(&self, host: &mut dyn Host) -> Result<Lock, Error> {
        let patience = Instant::now() + PATIENCE;
        self.lock_unless(host, |pid| match Instant::now() < patience {
            true => Ok(HolderAction::Wait),
            false => Err(Error::Locked { pid }),
        })
    }

    /// The same, for a caller that may end another fwc, because that keeps a change from being reverted: `decide` says what to do
    /// about the one that holds the lock.
    ///
    /// Tools that a dead fwc left running are ended in any case: while one can still change the kernel, the live rules say
    /// nothing.
    pub(super) fn lock_unless(
        &self,
        host: &mut dyn Host,
        mut decide: impl FnMut(Option<u32>) -> Result<HolderAction, Error>,
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
            // There may be no holder to see: it is in another PID namespace, or let go just now.
            let is_orphan = holders.iter().any(|holder| holder.has_it_of_fwc)
                && !holders.iter().any(|holder| is_fwc(holder, pid));
            let stranger = stranger(&holders);
            let decided = match is_orphan {
                true => Ok(HolderAction::End),
                false => decide(pid),
            };
            match (decided, stranger) {
                (Ok(HolderAction::Wait), _) => {}
                (Ok(HolderAction::End), None) => holders::end(&holders),
                (Ok(HolderAction::End) | Err(Error::Locked { .. }), Some(stranger)) => {
                    return Err(Error::LockedByOther(stranger));
                }
                (Err(error), _) => return Err(error),
            }
            thread::sleep(pause);
            // Searching all processes for the holder costs time.
            pause = (2 * pause).min(10 * TICK);
        }
    }

    /// Takes the lock to change the records alone, and nothing in the kernel.
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

    /// Opens and locks the file that shows that a watchdog lives. The processes that it starts inherit the lock.
    pub fn guard(&self) -> Result<File, Error> {
        let path = self.folder().join(GUARD);
        let failed = |source| Error::io("cannot open", &path, source);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = make_folder(&self.folder())?.file(GUARD.as_ref(), flags);
        let file = file.map_err(failed)?;
        flock(&file, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// Returns `true` if a watchdog lives.
    ///
    /// Then this network namespace is still the one that the watchdog was started in: the kernel reuses the number of a namespace
    /// only once no process is in it any more.
    pub fn is_guarded(&self) -> bool {
        let Ok(file) = File::open(self.folder().join(GUARD)) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// Stops if fwc was started by a hook of this namespace: it would run hooks at its end, and so wait for the fwc that waits for
    /// the hook.
    pub fn refuse_in_hook(&self) -> Result<(), Error> {
        let path = self.folder().join(HOOKS_LOCK);
        let holder = files::read_kept(&path).ok().flatten();
        let holder = holder.and_then(|text| text.trim().parse().ok());
        let Some(pid) = holder.filter(|pid| process::is_above(*pid)) else {
            return Ok(());
        };
        // The file keeps the process id of the last holder: the hook may have outlived the lock.
        match self.try_lock(HOOKS_LOCK)? {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::InHook(pid)),
        }
    }

    /// Takes the right to run hooks, which one fwc has at a time; it keeps nobody from changing the firewall. Waits as long as it
    /// takes: each hook has a time limit. Calls `waits` once, with the process id of the holder, if it has to wait.
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

    /// Takes the lock of this name; else returns its file, and the process id that the holder wrote into it.
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
        // The process id is not needed to lock: a full disk must not keep a change active.
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

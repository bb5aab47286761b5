//! What fwc remembers between two runs: `STATE/namespaces/ID/` for the ruleset of a network namespace,
//! `STATE/persisted/` for what boots.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use super::history::History;
use super::hooks::{self, Owed};
use super::journal::{Intent, Journal};
use crate::files::{self, OpenFolder, Staged, Trust};
use crate::live::{self, Host, LiveRuleset, NamespaceId, holders, process};
use crate::net::PerFamily;

const SCHEMA: &str = "fwc.record/1";

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

/// What was put in force: in a network namespace, or for the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema: String,
    /// In the kernel's form: `iptables-save` without counters.
    applied: Option<PerFamily<String>>,
}

/// Where the lock of a network namespace is, below the folder of all.
pub(super) fn lock_file(namespace: &NamespaceId) -> PathBuf {
    Path::new("namespaces")
        .join(namespace.to_string())
        .join(LOCK)
}

/// The memory of one network namespace and of one folder of rules files.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    namespace: NamespaceId,
    /// The name of the folder of rules files.
    place: String,
}

impl Store {
    /// Nothing is read or made yet.
    pub fn new(root: &Path, namespace: NamespaceId, persist_dir: &Path) -> Self {
        // Several namespaces may boot from folders of their own.
        let folder = real_path(persist_dir);
        let name: String = Sha256::digest(folder.as_os_str().as_encoded_bytes())
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            root: root.to_owned(),
            namespace,
            place: name,
        }
    }

    /// The memory of the folder of rules files that a change is for: it has its own history.
    pub(super) fn of_change(&self, intent: &Intent) -> Self {
        Self::new(&self.root, self.namespace.clone(), &intent.persist_dir)
    }

    /// The number of the next transaction.
    pub(super) fn next_number(&self) -> Result<u64, Error> {
        let last = self
            .journal()
            .last()?
            .map_or(0, |(intent, _)| intent.number);
        Ok(last.max(self.history().last_number()) + 1)
    }

    /// The journal of this namespace.
    pub fn journal(&self) -> Journal {
        Journal::new(self.folder())
    }

    /// The hooks that are to be run.
    pub fn owed(&self) -> Result<Option<Owed>, Error> {
        hooks::owed_in(&self.folder())
    }

    /// The journals of namespaces of earlier boots.
    pub fn earlier_journals(&self) -> Vec<Journal> {
        let folder = self.root.join("namespaces");
        let mut names = files::names_kept(&folder).unwrap_or_default();
        names.retain(|name| !name.to_string_lossy().starts_with(&self.namespace.boot));
        let journals = names.iter().map(|name| Journal::new(folder.join(name)));
        journals.collect()
    }

    /// What was put in force before, for this folder of rules files.
    pub fn history(&self) -> History {
        History::new(self.root.join("history").join(&self.place))
    }

    fn persisted_path(&self) -> PathBuf {
        self.root
            .join("persisted")
            .join(format!("{}.json", self.place))
    }

    /// The folder of this namespace.
    pub fn folder(&self) -> PathBuf {
        self.root
            .join("namespaces")
            .join(self.namespace.to_string())
    }

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

    /// Every ruleset of fwc's that may be in force: the last one applied here, one that was on its way, the one that boots.
    pub fn made(&self) -> Result<Vec<PerFamily<LiveRuleset>>, Error> {
        let mut sets = Vec::new();
        for path in [self.applied_path(), self.persisted_path()] {
            if let Some(texts) = read(&path)?.applied {
                sets.push(parse(&texts, &path)?);
            }
        }
        if let Some((intent, _)) = self.journal().last()? {
            sets.push(parse(&intent.after, &self.folder())?);
        }
        Ok(sets)
    }

    /// The ruleset that boots, as the kernel held it.
    pub(super) fn boots(&self) -> Result<Option<PerFamily<LiveRuleset>>, Error> {
        let path = self.persisted_path();
        let texts = read(&path)?.applied;
        texts.map(|texts| parse(&texts, &path)).transpose()
    }

    /// Writes down what is in force now, unless that is known, and forgets namespaces of earlier boots.
    pub(super) fn applied(&self, target: &PerFamily<String>) -> Result<(), Error> {
        self.forget_earlier_boots();
        keep(&self.applied_path(), target)
    }

    /// Writes down what boots now, unless that is known.
    pub(super) fn persisted(&self, target: &PerFamily<String>) -> Result<(), Error> {
        keep(&self.persisted_path(), target)
    }

    /// Whether fwc wrote the rules files of this folder before.
    pub(super) fn has_persisted(&self) -> bool {
        self.persisted_path().exists()
    }

    fn applied_path(&self) -> PathBuf {
        self.folder().join("applied.json")
    }

    /// Removes what killed processes left half written in the state folder.
    pub(super) fn tidy(&self) {
        let history = self.root.join("history").join(&self.place);
        for folder in [self.folder(), self.root.join("persisted"), history] {
            files::remove_abandoned(&folder);
        }
    }

    /// Tidiness only: no namespace lives longer than its boot. What was left half done in one is still to be ended.
    fn forget_earlier_boots(&self) {
        for journal in self.earlier_journals() {
            if matches!(journal.open(), Ok(None)) {
                let _ = fs::remove_dir_all(journal.folder());
            }
        }
    }
}

/// The path without symbolic links, of which the last parts may not exist yet.
fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(above), path.strip_prefix(above)) {
            // Joining with nothing would append a slash.
            return real.components().chain(rest.components()).collect();
        }
    }
    path
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

fn keep(path: &Path, target: &PerFamily<String>) -> Result<(), Error> {
    let record = Record {
        schema: SCHEMA.to_owned(),
        applied: Some(target.clone()),
    };
    if read(path)? == record {
        return Ok(());
    }
    write_record(path, record)
}

fn parse(texts: &PerFamily<String>, path: &Path) -> Result<PerFamily<LiveRuleset>, Error> {
    let parse = |text| {
        LiveRuleset::parse(text).map_err(|error| Error::BadRecord {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    };
    Ok(PerFamily {
        v4: parse(&texts.v4)?,
        v6: parse(&texts.v6)?,
    })
}

fn read(path: &Path) -> Result<Record, Error> {
    let text = files::read_kept(path).map_err(|error| Error::io("cannot read", path, error))?;
    let bad = |reason: String| Error::BadRecord {
        path: path.to_owned(),
        reason,
    };
    let Some(text) = text else {
        return Ok(Record::default());
    };
    let record: Record = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if record.schema != SCHEMA {
        return Err(bad(format!("its schema is `{}`", record.schema)));
    }
    Ok(record)
}

fn write_record(path: &Path, mut record: Record) -> Result<(), Error> {
    SCHEMA.clone_into(&mut record.schema);
    let text = serde_json::to_string_pretty(&record)
        .map_err(|error| Error::io("cannot write", path, io::Error::other(error)))?;
    write(path, &(text + "\n"))
}

/// Writes a file of the state folder: old or new, whole, on disk when it returns.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    Staged::new(path, text, 0o600, Trust::Root)
        .and_then(Staged::publish)
        .map(drop)
        .map_err(|error| Error::io("cannot write", path, error))
}

/// Removes a file of the state folder, where it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    files::remove_kept(path).map_err(|error| Error::io("cannot remove", path, error))
}

fn make_folder(folder: &Path) -> Result<OpenFolder, Error> {
    OpenFolder::make(folder, 0o700, Trust::Root)
        .map_err(|error| Error::io("cannot make the folder", folder, error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Store;
    use crate::apply::Error;
    use crate::live::NamespaceId;
    use crate::live::fake::Fake;
    use crate::net::PerFamily;

    fn set(policy: &str) -> PerFamily<String> {
        PerFamily::from_fn(|_| format!("*filter\n:INPUT {policy} [0:0]\nCOMMIT\n"))
    }

    fn store(root: &Path) -> Store {
        Store::new(root, NamespaceId::current().unwrap(), &root.join("rules"))
    }

    #[test]
    fn remembers_what_may_be_in_force() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        assert!(store.made().unwrap().is_empty());
        store.applied(&set("DROP")).unwrap();
        assert_eq!(store.made().unwrap().len(), 1);
        store.persisted(&set("DROP")).unwrap();
        assert_eq!(store.made().unwrap().len(), 2);
    }

    #[test]
    fn folders_of_rules_files_are_apart() {
        let root = tempfile::tempdir().unwrap();
        let first = store(root.path());
        first.persisted(&set("DROP")).unwrap();
        let id = NamespaceId::current().unwrap();
        let second = Store::new(root.path(), id, &root.path().join("other"));
        assert!(second.made().unwrap().is_empty());
    }

    #[test]
    fn folder_is_the_same_before_and_after_it_was_made() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let of = |folder: &Path| {
            let id = NamespaceId::current().unwrap();
            Store::new(root.path(), id, folder).persisted_path()
        };
        let before = of(&link.join("a/b"));
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        assert_eq!(of(&link.join("a/b")), before);
        assert_eq!(of(&real.join("a/b")), before);
    }

    #[test]
    fn second_lock_says_who_holds_the_first() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let held = store.lock_memory().unwrap();
        match store.lock_memory() {
            Err(Error::Locked { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        store.lock(&mut Fake::default()).unwrap();
    }

    #[test]
    fn broken_record_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        store.applied(&set("DROP")).unwrap();
        std::fs::write(store.applied_path(), "{}").unwrap();
        assert!(matches!(store.made(), Err(Error::BadRecord { .. })));
    }
}

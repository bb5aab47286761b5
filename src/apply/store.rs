//! What fwc remembers between two runs: `STATE/namespaces/ID/` for the ruleset of a network namespace,
//! `STATE/persisted/` for what boots.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use crate::files::{self, Staged};
use crate::live::{Dump, NamespaceId};
use crate::net::{Family, PerFamily};

const SCHEMA: &str = "fwc.record/1";

/// Rulesets in the kernel's form: `iptables-save` without counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Texts {
    ipv4: String,
    ipv6: String,
}

impl Texts {
    fn new(set: &PerFamily<String>) -> Self {
        Self {
            ipv4: set.v4.clone(),
            ipv6: set.v6.clone(),
        }
    }

    fn parse(&self, path: &Path) -> Result<PerFamily<Dump>, Error> {
        let parse = |text| {
            Dump::parse(text).map_err(|error| Error::BadRecord {
                path: path.to_owned(),
                reason: error.to_string(),
            })
        };
        Ok(PerFamily {
            v4: parse(&self.ipv4)?,
            v6: parse(&self.ipv6)?,
        })
    }
}

/// What was put in force: in a network namespace, or for the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema: String,
    /// The last ruleset that was in force for sure.
    applied: Option<Texts>,
    /// One that was about to be: what is found after fwc was killed may be this one.
    intended: Option<Texts>,
}

/// The memory of one network namespace and of one folder of rules files.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    namespace: NamespaceId,
    persisted: PathBuf,
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
            persisted: root.join("persisted").join(name + ".json"),
        }
    }

    /// The folder of this namespace.
    pub fn folder(&self) -> PathBuf {
        self.root
            .join("namespaces")
            .join(self.namespace.to_string())
    }

    /// One fwc at a time changes a namespace: held until it is dropped, and by no dead process.
    pub fn lock(&self) -> Result<Lock, Error> {
        let folder = self.folder();
        make_folder(&folder)?;
        let path = folder.join("lock");
        let failed = |source| Error::io("cannot open the lock", &path, source);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(Error::Locked {
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Lock { _file: file })
    }

    /// Every ruleset of fwc's that may be in force: the last one applied here, one that was on its way, the one that boots.
    pub fn made(&self) -> Result<Vec<PerFamily<Dump>>, Error> {
        let mut sets = Vec::new();
        for path in [self.applied_path(), self.persisted.clone()] {
            let record = read(&path)?;
            for texts in [record.applied, record.intended].into_iter().flatten() {
                sets.push(texts.parse(&path)?);
            }
        }
        Ok(sets)
    }

    /// Writes down what is about to be loaded, and the live rules as they are, fit for `iptables-restore --counters`.
    pub(super) fn intend(
        &self,
        target: &PerFamily<String>,
        before: &PerFamily<String>,
    ) -> Result<(), Error> {
        for (family, text) in before.iter() {
            write(&self.before(family), text)?;
        }
        let path = self.applied_path();
        let record = Record {
            intended: Some(Texts::new(target)),
            ..read(&path)?
        };
        write_record(&path, record)
    }

    /// Takes the intention back.
    pub(super) fn forget_intention(&self) -> Result<(), Error> {
        let path = self.applied_path();
        let record = Record {
            intended: None,
            ..read(&path)?
        };
        write_record(&path, record)
    }

    /// Writes down what is in force now, unless that is known, and forgets namespaces of earlier boots.
    pub(super) fn applied(&self, target: &PerFamily<String>) -> Result<(), Error> {
        self.forget_earlier_boots();
        keep(&self.applied_path(), target)
    }

    /// Writes down what boots now, unless that is known.
    pub(super) fn persisted(&self, target: &PerFamily<String>) -> Result<(), Error> {
        keep(&self.persisted, target)
    }

    /// Whether fwc wrote the rules files of this folder before.
    pub(super) fn has_persisted(&self) -> bool {
        self.persisted.exists()
    }

    /// Where the live rules from before the last commit are kept.
    pub fn before(&self, family: Family) -> PathBuf {
        self.folder().join(match family {
            Family::V4 => "before.v4",
            Family::V6 => "before.v6",
        })
    }

    fn applied_path(&self) -> PathBuf {
        self.folder().join("applied.json")
    }

    /// Tidiness only: no namespace lives longer than its boot.
    fn forget_earlier_boots(&self) {
        let Ok(entries) = fs::read_dir(self.root.join("namespaces")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with(&self.namespace.boot) {
                let _ = fs::remove_dir_all(entry.path());
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
    _file: File,
}

fn keep(path: &Path, target: &PerFamily<String>) -> Result<(), Error> {
    let record = Record {
        schema: SCHEMA.to_owned(),
        applied: Some(Texts::new(target)),
        intended: None,
    };
    if read(path)? == record {
        return Ok(());
    }
    write_record(path, record)
}

fn read(path: &Path) -> Result<Record, Error> {
    let text = files::read_if_there(path).map_err(|error| Error::io("cannot read", path, error))?;
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

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    Staged::new(path, text, 0o600)
        .and_then(Staged::publish)
        .map(drop)
        .map_err(|error| Error::io("cannot write", path, error))
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    files::create_folder(folder, 0o700)
        .map_err(|error| Error::io("cannot make the folder", folder, error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Store;
    use crate::apply::Error;
    use crate::live::NamespaceId;
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
        store.intend(&set("DROP"), &set("ACCEPT")).unwrap();
        assert_eq!(store.made().unwrap().len(), 1);
        store.applied(&set("DROP")).unwrap();
        store.persisted(&set("DROP")).unwrap();
        store.intend(&set("ACCEPT"), &set("DROP")).unwrap();
        assert_eq!(store.made().unwrap().len(), 3);
        store.forget_intention().unwrap();
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
            Store::new(root.path(), id, folder).persisted
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
        let held = store.lock().unwrap();
        match store.lock() {
            Err(Error::Locked { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        store.lock().unwrap();
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

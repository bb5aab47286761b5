//! The state directory, which is what fwc remembers between two runs: `STATE/namespaces/ID/` for a network namespace,
//! `STATE/persisted/` and `STATE/history/` for a folder of rules files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk;
use super::error::Error;
use super::history::History;
use super::journal::Journal;
use super::owed;
use super::records::{Intent, Owed};
use crate::diag::ConcernName;
use crate::files;
use crate::live::{DumpError, LiveRuleset, NamespaceId};
use crate::net::PerFamily;

const SCHEMA: &str = "fwc.record/1";

/// The rules that fwc applied to a network namespace, or saved for the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    schema: String,
    /// The rules in the kernel's form: as `iptables-save` prints them, without counters.
    applied: Option<PerFamily<String>>,
}

/// The records of one network namespace and of one folder of rules files.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    namespace: NamespaceId,
    /// The name by which the records know the folder of rules files: a hash of its path.
    place: String,
}

impl Store {
    /// Returns the records below `root`, without reading or making anything.
    pub fn new(root: &Path, namespace: NamespaceId, persist_dir: &Path) -> Self {
        // Several network namespaces may each boot from a folder of their own.
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

    /// Returns the records of the folder of rules files that a change is for, which has its own history.
    pub(super) fn of_change(&self, intent: &Intent) -> Self {
        Self::new(&self.root, self.namespace.clone(), &intent.persist_dir)
    }

    /// Returns the number of the next change.
    pub(super) fn next_number(&self) -> Result<u64, Error> {
        let last = self
            .journal()
            .last()?
            .map_or(0, |(intent, _)| intent.number);
        Ok(last.max(self.history().last_number()) + 1)
    }

    /// Returns the journal of this network namespace.
    pub fn journal(&self) -> Journal {
        Journal::new(self.folder())
    }

    /// Reads the hooks that are still to run.
    pub fn owed(&self) -> Result<Option<Owed>, Error> {
        owed::read(&self.folder())
    }

    /// Returns the journals of network namespaces of earlier boots.
    pub fn earlier_journals(&self) -> Vec<Journal> {
        let folder = self.root.join("namespaces");
        let mut names = files::names_kept(&folder).unwrap_or_default();
        names.retain(|name| !name.to_string_lossy().starts_with(&self.namespace.boot));
        let journals = names.iter().map(|name| Journal::new(folder.join(name)));
        journals.collect()
    }

    /// Returns the history of this folder of rules files.
    pub fn history(&self) -> History {
        History::new(self.root.join("history").join(&self.place))
    }

    fn persisted_path(&self) -> PathBuf {
        self.root
            .join("persisted")
            .join(format!("{}.json", self.place))
    }

    /// The file of the facts that are meant is beside that of the rules that boot, because it holds after a restart too.
    fn allowed_path(&self) -> PathBuf {
        self.root
            .join("persisted")
            .join(format!("{}.concerns.json", self.place))
    }

    /// Returns the folder of this network namespace.
    pub fn folder(&self) -> PathBuf {
        self.root
            .join("namespaces")
            .join(self.namespace.to_string())
    }

    /// Reads every ruleset of fwc that may be active: the last one applied here, the one of the last change, however far that came,
    /// and the one that boots.
    pub fn made(&self) -> Result<Vec<PerFamily<LiveRuleset>>, Error> {
        let mut rulesets = Vec::new();
        for path in [self.applied_path(), self.persisted_path()] {
            if let Some(texts) = read(&path)?.applied {
                rulesets.push(parse_record(&texts, &path)?);
            }
        }
        let journal = self.journal();
        if let Some((intent, _)) = journal.last()? {
            let bad = |error: DumpError| Error::BadChange {
                path: journal.intent_path(),
                reason: error.to_string(),
            };
            rulesets.push(parse(&intent.after).map_err(bad)?);
        }
        Ok(rulesets)
    }

    /// Reads the ruleset that boots, in the kernel's form.
    pub(super) fn boots(&self) -> Result<Option<PerFamily<LiveRuleset>>, Error> {
        let path = self.persisted_path();
        let texts = read(&path)?.applied;
        texts.map(|texts| parse_record(&texts, &path)).transpose()
    }

    /// Records the rules that are active now, and forgets network namespaces of earlier boots.
    pub(super) fn applied(&self, target: &PerFamily<String>) -> Result<(), Error> {
        self.forget_earlier_boots();
        keep(&self.applied_path(), target)
    }

    /// Records the rules that boot now.
    pub(super) fn persisted(&self, target: &PerFamily<String>) -> Result<(), Error> {
        keep(&self.persisted_path(), target)
    }

    /// Records the facts about the host that the policy allows.
    pub(super) fn allow_concerns(&self, allowed: &BTreeSet<ConcernName>) -> Result<(), Error> {
        let path = self.allowed_path();
        match allowed.is_empty() {
            true => disk::remove(&path),
            false => disk::write_json(&path, allowed),
        }
    }

    /// Returns the facts about the host that the policy of the last apply allows; none if the record cannot be read, so that
    /// everything is reported.
    pub(super) fn allowed_concerns(&self) -> BTreeSet<ConcernName> {
        let text = disk::read(&self.allowed_path());
        let text = text.ok().flatten().unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Returns `true` if fwc wrote the rules files of this folder before.
    pub(super) fn has_persisted(&self) -> bool {
        self.persisted_path().exists()
    }

    fn applied_path(&self) -> PathBuf {
        self.folder().join("applied.json")
    }

    /// Removes temporary files that killed processes left in the state directory.
    pub(super) fn tidy(&self) {
        let history = self.root.join("history").join(&self.place);
        for folder in [self.folder(), self.root.join("persisted"), history] {
            files::remove_abandoned(&folder);
        }
    }

    /// Removes the folders of network namespaces of earlier boots, except those with a half-done change. Errors do not matter.
    fn forget_earlier_boots(&self) {
        for journal in self.earlier_journals() {
            if matches!(journal.open(), Ok(None)) {
                let _ = fs::remove_dir_all(journal.folder());
            }
        }
    }
}

/// Returns the path without symbolic links. Its last components may not exist yet.
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

/// Writes a record unless the file has it already.
fn keep(path: &Path, target: &PerFamily<String>) -> Result<(), Error> {
    let record = Record {
        schema: SCHEMA.to_owned(),
        applied: Some(target.clone()),
    };
    if read(path)? == record {
        return Ok(());
    }
    disk::write_json(path, &record)
}

fn parse(texts: &PerFamily<String>) -> Result<PerFamily<LiveRuleset>, DumpError> {
    Ok(PerFamily {
        v4: LiveRuleset::parse(&texts.v4)?,
        v6: LiveRuleset::parse(&texts.v6)?,
    })
}

fn parse_record(texts: &PerFamily<String>, path: &Path) -> Result<PerFamily<LiveRuleset>, Error> {
    parse(texts).map_err(|error| Error::BadRecord {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read(path: &Path) -> Result<Record, Error> {
    let bad = |reason: String| Error::BadRecord {
        path: path.to_owned(),
        reason,
    };
    let Some(text) = disk::read(path)? else {
        return Ok(Record::default());
    };
    let record: Record = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if record.schema != SCHEMA {
        return Err(bad(format!("its schema is `{}`", record.schema)));
    }
    Ok(record)
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
    fn broken_record_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        store.applied(&set("DROP")).unwrap();
        std::fs::write(store.applied_path(), "{}").unwrap();
        assert!(matches!(store.made(), Err(Error::BadRecord { .. })));
    }
}

//! The files for the next boot: rules.v4, rules.v6, and ipsets where the policy has sets.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Done, Error, Ruleset};
use crate::diff::IPSETS_FILE;
use crate::expand::{IPSETS_HEADING, RULES_HEADING};
use crate::fault::{self, Point};
use crate::files::{Staged, create_folder, read_if_there};
use crate::net::Family;
use crate::resolve::Ownership;

/// The folder of rules that are loaded beside others'. Who else loads rules at boot replaces whole tables, and looks for its files
/// one folder above.
const SHARED: &str = "fwc";

/// The folders in which files of a persist folder may be.
pub(super) fn folders(persist_dir: &Path) -> [PathBuf; 2] {
    [persist_dir.to_owned(), persist_dir.join(SHARED)]
}

/// What is to be done with the files of a folder.
#[derive(Clone, Debug)]
pub(super) struct Persisted<'a> {
    folder: PathBuf,
    /// In the order in which they are written: at any time the sets that the rules on disk name are on disk, too.
    stale: Vec<Stale<'a>>,
    needless: Vec<PathBuf>,
}

#[derive(Clone, Debug)]
struct Stale<'a> {
    path: PathBuf,
    text: &'a str,
    /// Whether what is in its place is surely somebody else's.
    of_others: bool,
}

impl<'a> Persisted<'a> {
    pub fn compare(persist_dir: &Path, ruleset: &'a Ruleset) -> Result<Self, Error> {
        let read = |path: &Path| {
            read_if_there(path).map_err(|error| Error::io("cannot read", path, error))
        };
        let [whole, shared] = folders(persist_dir);
        let (folder, other) = match ruleset.ownership {
            Ownership::Exclusive { .. } => (whole, shared),
            Ownership::Shared => (shared, whole),
        };
        let path = folder.join(IPSETS_FILE);
        let found = read(&path)?;
        let is_ours = |text: &String, heading| text.lines().next() == Some(heading);
        let is_our_sets = found
            .as_ref()
            .is_some_and(|text| is_ours(text, IPSETS_HEADING));
        let mut persisted = Self {
            folder,
            stale: Vec::new(),
            needless: Vec::new(),
        };
        match ruleset.sets.as_deref() {
            Some(text) if found.as_deref() != Some(text) => persisted.stale.push(Stale {
                path,
                text,
                of_others: found.is_some() && !is_our_sets,
            }),
            None if is_our_sets => persisted.needless.push(path),
            _ => {}
        }
        for family in Family::ALL {
            let path = persisted.folder.join(family.rules_file());
            if read(&path)?.as_ref() != Some(&ruleset.rules[family]) {
                persisted.stale.push(Stale {
                    path,
                    text: &ruleset.rules[family],
                    of_others: false,
                });
            }
        }
        // The rules before the sets that they name.
        let files = Family::ALL.map(|family| (family.rules_file(), RULES_HEADING));
        for (name, heading) in files.into_iter().chain([(IPSETS_FILE, IPSETS_HEADING)]) {
            let path = other.join(name);
            if read(&path)?.is_some_and(|text| is_ours(&text, heading)) {
                persisted.needless.push(path);
            }
        }
        Ok(persisted)
    }

    pub fn is_right(&self) -> bool {
        self.stale.is_empty() && self.needless.is_empty()
    }

    pub fn stale(&self) -> Vec<PathBuf> {
        self.stale.iter().map(|file| file.path.clone()).collect()
    }

    pub fn needless(&self) -> Vec<PathBuf> {
        self.needless.clone()
    }

    /// Puts the files on disk beside their places: a folder that cannot be written stops everything before the kernel is
    /// asked. With `keep`, all that is in their places is kept.
    pub fn stage(&self, keep: bool) -> Result<StagedFiles<'_>, Error> {
        let mut files = Vec::new();
        let at = |point, path: &Path| {
            fault::at(point).map_err(|error| Error::io("cannot write", path, error))
        };
        at(Point::StageFolder, &self.folder)?;
        if !self.stale.is_empty() {
            create_folder(&self.folder, 0o755)
                .map_err(|error| Error::io("cannot make the folder", &self.folder, error))?;
        }
        for file in &self.stale {
            at(stage_point(&file.path), &file.path)?;
            let staged = Staged::new(&file.path, file.text, 0o640)
                .map_err(|error| Error::io("cannot write", &file.path, error))?;
            files.push((staged, keep || file.of_others));
        }
        Ok(StagedFiles {
            folder: &self.folder,
            files,
            needless: &self.needless,
        })
    }
}

fn stage_point(path: &Path) -> Point {
    match family_of(path) {
        Some(Family::V4) => Point::StageV4,
        Some(Family::V6) => Point::StageV6,
        None => Point::StageSets,
    }
}

fn publish_point(path: &Path) -> Point {
    match family_of(path) {
        Some(Family::V4) => Point::PublishV4,
        Some(Family::V6) => Point::PublishV6,
        None => Point::PublishSets,
    }
}

/// The family of a rules file.
fn family_of(path: &Path) -> Option<Family> {
    let mut families = Family::ALL.into_iter();
    families.find(|family| {
        path.file_name()
            .is_some_and(|name| name == family.rules_file())
    })
}

/// Files on disk beside their places; gone when dropped.
#[derive(Debug)]
pub(super) struct StagedFiles<'a> {
    folder: &'a Path,
    /// And whether what is in their places is kept.
    files: Vec<(Staged, bool)>,
    needless: &'a [PathBuf],
}

impl StagedFiles<'_> {
    /// Puts all into their places, and writes down what was done.
    pub fn publish(self, done: &mut Done) -> Result<(), Error> {
        let folder = self.folder;
        self.try_publish(done).map_err(|error| {
            let folder = folder.display();
            Error::NotPersisted(format!("cannot write to {folder}: {error}"))
        })
    }

    fn try_publish(self, done: &mut Done) -> io::Result<()> {
        for (file, keep) in self.files {
            if keep {
                fault::at(Point::KeepOld)?;
                done.kept.extend(file.keep_old()?);
            }
            fault::at(publish_point(file.place()))?;
            done.written.push(file.publish()?);
        }
        // Last: no rules on disk need it any more.
        for path in self.needless {
            fault::at(Point::RemoveSets)?;
            fs::remove_file(path)?;
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
            done.deleted.push(path.to_owned());
        }
        Ok(())
    }
}

//! The files for the next boot: `rules.v4`, `rules.v6`, and `ipsets` if the policy has sets.

use std::io;
use std::path::{Path, PathBuf};

use super::disk;
use super::error::Error;
use super::records::RulesetFiles;
use crate::diff::IPSETS_FILE;
use crate::expand::{IPSETS_HEADING, RULES_HEADING};
use crate::fault::{self, Point};
use crate::files::{self, OpenFolder, Staged, Trust};
use crate::live::Concern;
use crate::live::autoload;
use crate::net::Family;
use crate::resolve::Ownership;

/// The subfolder for rules of shared mode. The folder above is that of `netfilter-persistent` and its like, which load whole tables
/// at boot and would remove other programs' rules.
const SHARED: &str = "fwc";

/// Returns the folders that may have the files: for exclusive mode, and for shared mode.
pub(super) fn folders(persist_dir: &Path) -> [PathBuf; 2] {
    [persist_dir.to_owned(), persist_dir.join(SHARED)]
}

/// Finds what keeps these files from being loaded at the next boot.
pub(super) fn not_loaded_at_boot(persist_dir: &Path, ruleset: &RulesetFiles) -> Option<Concern> {
    autoload::look(autoload::Kept {
        folder: persist_dir,
        is_shared: ruleset.ownership == Ownership::Shared,
        has_sets: ruleset.sets.is_some(),
    })
}

/// Removes temporary files that a killed fwc left beside the files of a ruleset.
pub(super) fn remove_leftovers(persist_dir: &Path, ruleset: &RulesetFiles) {
    for folder in folders(persist_dir) {
        for (family, text) in ruleset.rules.iter() {
            files::remove_leftovers(&folder.join(family.rules_file()), text, Trust::Root);
        }
        if let Some(text) = &ruleset.sets {
            files::remove_leftovers(&folder.join(IPSETS_FILE), text, Trust::Root);
        }
    }
}

/// The comparison of the files for the next boot with a ruleset: what to write and what to delete.
#[derive(Clone, Debug)]
pub(super) struct Persisted<'a> {
    folder: PathBuf,
    /// The files to write, in this order: the sets before the rules that name them, in case of a reboot in between.
    stale: Vec<Stale<'a>>,
    /// Files of fwc that the policy does not need any more.
    needless: Vec<PathBuf>,
}

/// A file that is missing or differs.
#[derive(Clone, Debug)]
struct Stale<'a> {
    path: PathBuf,
    text: &'a str,
    /// Whether the file that it replaces is certainly not fwc's.
    of_others: bool,
}

impl<'a> Persisted<'a> {
    /// Compares the files with a ruleset.
    pub fn compare(persist_dir: &Path, ruleset: &'a RulesetFiles) -> Result<Self, Error> {
        let [whole, shared] = folders(persist_dir);
        let (folder, other) = match ruleset.ownership {
            Ownership::Exclusive { .. } => (whole, shared),
            Ownership::Shared => (shared, whole),
        };
        let path = folder.join(IPSETS_FILE);
        let found = disk::read(&path)?;
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
            if disk::read(&path)?.as_ref() != Some(&ruleset.rules[family]) {
                persisted.stale.push(Stale {
                    path,
                    text: &ruleset.rules[family],
                    of_others: false,
                });
            }
        }
        // The rules before the sets that they name. In the folder of the other mode: the policy has changed its mode.
        let files = Family::ALL.map(|family| (family.rules_file(), RULES_HEADING));
        for (name, heading) in files.into_iter().chain([(IPSETS_FILE, IPSETS_HEADING)]) {
            let path = other.join(name);
            if disk::read(&path)?.is_some_and(|text| is_ours(&text, heading)) {
                persisted.needless.push(path);
            }
        }
        Ok(persisted)
    }

    /// Returns `true` if there is nothing to write and nothing to delete.
    pub fn is_right(&self) -> bool {
        self.stale.is_empty() && self.needless.is_empty()
    }

    /// Returns the paths of the files to write.
    pub fn stale(&self) -> Vec<PathBuf> {
        self.stale.iter().map(|file| file.path.clone()).collect()
    }

    /// Returns those of them that `iptables-save` wrote, as `netfilter-persistent save` does.
    pub fn saved_by_others(&self) -> Vec<PathBuf> {
        let mut stale = self.stale();
        stale.retain(|path| {
            let text = files::read_kept(path).ok().flatten();
            text.is_some_and(|text| text.starts_with("# Generated by ip"))
        });
        stale
    }

    /// Returns the paths of the files to delete.
    pub fn needless(&self) -> Vec<PathBuf> {
        self.needless.clone()
    }

    /// Writes the files under temporary names beside their places: a folder that cannot be written stops the change before it
    /// touches the kernel. With `keep`, a copy of each file that they replace is kept.
    pub fn stage(&self, keep: bool) -> Result<StagedFiles<'_>, Error> {
        let mut files = Vec::new();
        let at = |point, path: &Path| {
            fault::at(point).map_err(|error| Error::io("cannot write", path, error))
        };
        at(Point::StageFolder, &self.folder)?;
        if !self.stale.is_empty() {
            OpenFolder::make(&self.folder, 0o755, Trust::Root)
                .map_err(|error| Error::io("cannot make the folder", &self.folder, error))?;
        }
        for file in &self.stale {
            at(stage_point(&file.path), &file.path)?;
            let staged = Staged::new(&file.path, file.text, 0o640, Trust::Root)
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

/// Returns the family of a rules file; `None` for the sets.
fn family_of(path: &Path) -> Option<Family> {
    let mut families = Family::ALL.into_iter();
    families.find(|family| {
        path.file_name()
            .is_some_and(|name| name == family.rules_file())
    })
}

/// What [`StagedFiles::publish`] did.
#[derive(Debug, Default)]
pub(super) struct PublishedFiles {
    pub written: Vec<PathBuf>,
    /// The files that the policy does not need any more.
    pub deleted: Vec<PathBuf>,
    /// The copies of files that fwc did not write, and that its own replaced.
    pub kept: Vec<PathBuf>,
}

/// Files under temporary names, which are removed on drop unless they are published.
#[derive(Debug)]
pub(super) struct StagedFiles<'a> {
    folder: &'a Path,
    /// Each file, and whether to keep a copy of the one that it replaces.
    files: Vec<(Staged, bool)>,
    needless: &'a [PathBuf],
}

impl StagedFiles<'_> {
    /// Renames all files to their names, then deletes those that are not needed any more.
    pub fn publish(self) -> Result<PublishedFiles, Error> {
        let folder = self.folder;
        self.try_publish().map_err(|error| {
            let folder = folder.display();
            Error::NotPersisted(format!("cannot write to {folder}: {error}"))
        })
    }

    fn try_publish(self) -> io::Result<PublishedFiles> {
        let mut done = PublishedFiles::default();
        for (file, keep) in self.files {
            if keep {
                fault::at(Point::KeepOld)?;
                done.kept.extend(file.keep_old()?);
            }
            fault::at(publish_point(file.place()))?;
            done.written.push(file.publish()?);
        }
        // Last: now no rules on disk name the sets any more.
        for path in self.needless {
            fault::at(Point::RemoveSets)?;
            files::remove_kept(path)?;
            done.deleted.push(path.to_owned());
        }
        Ok(done)
    }
}

//! The history: past changes, kept or reverted, which `fwc history` lists and `fwc rollback N` restores. A file each.

use std::path::PathBuf;

use super::disk;
use super::error::Error;
use super::records::HistoryEntry;
use crate::files;

/// How many kept changes the history remembers, and how many reverted ones.
const LONGEST: usize = 50;

/// The history of one folder of rules files.
#[derive(Clone, Debug)]
pub struct History {
    folder: PathBuf,
}

impl History {
    /// Returns the history in a folder, without reading or making anything.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:08}.json"))
    }

    fn numbers(&self) -> Vec<u64> {
        let names = files::names_kept(&self.folder).unwrap_or_default();
        let mut numbers: Vec<u64> = names
            .into_iter()
            .filter_map(|name| {
                let name = name.into_string().ok()?;
                name.strip_suffix(".json")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// Returns the number of the last entry; 0 if there is none.
    pub fn last_number(&self) -> u64 {
        self.numbers().last().copied().unwrap_or(0)
    }

    /// Reads all entries, the oldest first.
    pub fn entries(&self) -> Result<Vec<HistoryEntry>, Error> {
        let read = |number| -> Result<Option<HistoryEntry>, Error> {
            let path = self.path(number);
            let text = disk::read(&path)?;
            let parse = |text: String| serde_json::from_str(&text);
            text.map(parse)
                .transpose()
                .map_err(|error| Error::BadChange {
                    path: path.clone(),
                    reason: error.to_string(),
                })
        };
        let entries: Result<Vec<_>, _> = self.numbers().into_iter().map(read).collect();
        Ok(entries?.into_iter().flatten().collect())
    }

    /// Reads the last kept change of fwc.
    pub fn last_kept(&self) -> Result<Option<HistoryEntry>, Error> {
        let mut entries = self.entries()?.into_iter();
        Ok(entries.rfind(|entry| entry.number > 0 && entry.ruleset.is_some()))
    }

    /// Returns `true` if this change was kept.
    pub fn has_kept(&self, number: u64) -> Result<bool, Error> {
        let mut entries = self.entries()?.into_iter();
        Ok(entries.any(|entry| entry.number == number && entry.ruleset.is_some()))
    }

    /// Returns `true` if a change with this number is the first one to be kept.
    pub(super) fn begins_with(&self, number: u64) -> Result<bool, Error> {
        let entries = self.entries()?;
        let first = entries.first().map_or(number, |entry| entry.number);
        // If the history does not begin with number 1, older entries were forgotten, and one of them may have been kept.
        Ok(first == 1 && entries.iter().all(|entry| entry.ruleset.is_none()))
    }

    /// Adds an entry, and forgets the oldest beyond the limits.
    pub(super) fn add(&self, entry: &HistoryEntry) -> Result<(), Error> {
        disk::write_json(&self.path(entry.number), entry)?;
        self.forget();
        Ok(())
    }

    /// Removes the oldest entries beyond the limits. Kept and reverted changes have a limit each: many reverted ones must not push
    /// out what `rollback` restores. Errors do not matter.
    fn forget(&self) {
        if self.numbers().len() <= LONGEST {
            return;
        }
        let entries = self.entries().unwrap_or_default();
        let (kept, reverted): (Vec<&HistoryEntry>, Vec<&HistoryEntry>) =
            entries.iter().partition(|entry| entry.ruleset.is_some());
        for entries in [kept, reverted] {
            let excess = entries.len().saturating_sub(LONGEST);
            for entry in entries.into_iter().take(excess) {
                let _ = files::remove_kept(&self.path(entry.number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{History, LONGEST};
    use crate::apply::records::{HistoryEntry, RulesetFiles, TransactionOutcome};

    fn entry(number: u64, kept: bool) -> HistoryEntry {
        HistoryEntry {
            schema: HistoryEntry::SCHEMA.to_owned(),
            number,
            time: String::new(),
            policy: String::new(),
            outcome: match kept {
                true => TransactionOutcome::Kept(String::new()),
                false => TransactionOutcome::TakenBack(String::new()),
            },
            ruleset: kept.then(RulesetFiles::default),
        }
    }

    fn numbers(history: &History, kept: bool) -> Vec<u64> {
        let mut entries = history.entries().unwrap();
        entries.retain(|entry| entry.ruleset.is_some() == kept);
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn reverted_changes_do_not_push_out_kept_ones() {
        let root = tempfile::tempdir().unwrap();
        let history = History::new(root.path().to_owned());
        let many = LONGEST as u64;
        for number in 1..=many + 9 {
            history.add(&entry(number, number <= 3)).unwrap();
        }
        assert_eq!(numbers(&history, true), [1, 2, 3]);
        assert_eq!(history.last_kept().unwrap().unwrap().number, 3);
        assert_eq!(numbers(&history, false).len(), LONGEST);
        assert_eq!(history.last_number(), many + 9);
        for number in 100..100 + many {
            history.add(&entry(number, true)).unwrap();
        }
        assert_eq!(numbers(&history, true)[0], 100);
        assert_eq!(numbers(&history, false).len(), LONGEST);
    }
}

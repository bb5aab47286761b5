//! What was put in force, and what was taken back: the past that `history` lists and `rollback N` goes to.

use std::path::PathBuf;

use super::disk;
use super::error::Error;
use super::records::HistoryEntry;
use crate::files;

/// So many entries are kept of what stayed, and so many of what was taken back.
const LONGEST: usize = 50;

/// The entries of one folder of rules files.
#[derive(Clone, Debug)]
pub struct History {
    folder: PathBuf,
}

impl History {
    /// Nothing is read or made yet.
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

    /// The number of the last entry; 0 where there is none.
    pub fn last_number(&self) -> u64 {
        self.numbers().last().copied().unwrap_or(0)
    }

    /// All entries, the oldest first.
    pub fn entries(&self) -> Result<Vec<HistoryEntry>, Error> {
        let read = |number| -> Result<Option<HistoryEntry>, Error> {
            let path = self.path(number);
            let text = disk::read(&path)?;
            let parse = |text: String| serde_json::from_str(&text);
            text.map(parse)
                .transpose()
                .map_err(|error| Error::BadRecord {
                    path: path.clone(),
                    reason: error.to_string(),
                })
        };
        let entries: Result<Vec<_>, _> = self.numbers().into_iter().map(read).collect();
        Ok(entries?.into_iter().flatten().collect())
    }

    /// The change of fwc's that stayed last.
    pub fn last_kept(&self) -> Result<Option<HistoryEntry>, Error> {
        let mut entries = self.entries()?.into_iter();
        Ok(entries.rfind(|entry| entry.number > 0 && entry.ruleset.is_some()))
    }

    /// Whether this change stayed.
    pub fn has_kept(&self, number: u64) -> Result<bool, Error> {
        let mut entries = self.entries()?.into_iter();
        Ok(entries.any(|entry| entry.number == number && entry.ruleset.is_some()))
    }

    /// Whether a change of this number is the first one that stays.
    pub(super) fn begins_with(&self, number: u64) -> Result<bool, Error> {
        let entries = self.entries()?;
        let first = entries.first().map_or(number, |entry| entry.number);
        // Where older entries are forgotten nobody knows.
        Ok(first == 1 && entries.iter().all(|entry| entry.ruleset.is_none()))
    }

    /// Adds an entry, and forgets the oldest beyond the limits.
    pub(super) fn add(&self, entry: &HistoryEntry) -> Result<(), Error> {
        let path = self.path(entry.number);
        let text = serde_json::to_string(entry)
            .map_err(|error| Error::io("cannot write", &path, error.into()))?;
        disk::write(&path, &(text + "\n"))?;
        self.forget();
        Ok(())
    }

    /// However often changes are taken back, what stayed is not forgotten for it. Tidiness only.
    fn forget(&self) {
        if self.numbers().len() <= LONGEST {
            return;
        }
        let entries = self.entries().unwrap_or_default();
        let (stayed, taken_back): (Vec<&HistoryEntry>, Vec<&HistoryEntry>) =
            entries.iter().partition(|entry| entry.ruleset.is_some());
        for entries in [stayed, taken_back] {
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

    fn entry(number: u64, stayed: bool) -> HistoryEntry {
        HistoryEntry {
            schema: HistoryEntry::SCHEMA.to_owned(),
            number,
            time: String::new(),
            policy: String::new(),
            outcome: match stayed {
                true => TransactionOutcome::Kept(String::new()),
                false => TransactionOutcome::TakenBack(String::new()),
            },
            ruleset: stayed.then(RulesetFiles::default),
        }
    }

    fn numbers(history: &History, stayed: bool) -> Vec<u64> {
        let mut entries = history.entries().unwrap();
        entries.retain(|entry| entry.ruleset.is_some() == stayed);
        entries.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn what_was_taken_back_does_not_push_out_what_stayed() {
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

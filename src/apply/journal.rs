//! What is written down before and while a change is made, so that whoever finds it half done can finish it or take it back.
//!
//! `transaction.json` holds the intent: everything that finishing or undoing needs. `journal` has a line a step, each on disk
//! before the step that it announces begins. A line that a crash cut short counts as not written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::Error;
use super::clock;
use super::owned::Owned;
use super::store;
use crate::fault::{self, Point};
use crate::files::{self, OpenFolder, Trust};
use crate::net::PerFamily;
use crate::policy::CommandLine;
use crate::resolve::Ownership;

const SCHEMA: &str = "fwc.transaction/1";

/// A complete ruleset as files: what an apply puts in force, and a rollback too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesetFiles {
    /// For `iptables-restore`.
    pub rules: PerFamily<String>,
    /// For `ipset restore`; `None` where no set is needed.
    pub sets: Option<String>,
    /// Whose the tables are.
    #[serde(default)]
    pub ownership: Ownership,
    /// What is run when it stays, one after another.
    #[serde(default)]
    pub after_apply: Vec<CommandLine>,
}

/// What a transaction is about to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub(super) schema: String,
    /// Counted up, for each folder of rules files.
    pub number: u64,
    /// When it began, in UTC.
    pub begun: String,
    /// Where the ruleset comes from, in words.
    pub policy: String,
    /// The parts of live that it may change.
    pub owned: Owned,
    /// These parts as they were, with counters.
    pub before: PerFamily<String>,
    /// These parts as they will be, in the kernel's form.
    pub after: PerFamily<String>,
    /// The filter tables in between, where the change has three phases.
    pub bridges: PerFamily<Option<String>>,
    /// The sets that differ, as they were.
    pub sets_before: String,
    /// The sets that differ, as they will be.
    pub sets_after: String,
    /// The files for the next boot.
    pub ruleset: RulesetFiles,
    /// Their folder.
    pub persist_dir: PathBuf,
    /// The TCP connections of this host when it began.
    pub connections: Vec<String>,
    /// The process that guards it.
    #[serde(default)]
    pub watchdog: Option<u32>,
}

impl Intent {
    /// The name of its form.
    pub(super) fn schema() -> String {
        SCHEMA.to_owned()
    }
}

/// How far a transaction is. Each step is written down before it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum JournalStep {
    /// Nothing was changed yet.
    Begun,
    /// Sets and rules are being changed.
    Changing {
        /// When that has to be over and confirmed, in milliseconds since boot.
        #[serde(default = "never")]
        deadline: u64,
    },
    /// All is in force, and goes back unless it is confirmed in time.
    Pending {
        /// On the clock that runs since boot, sleep included, in milliseconds.
        deadline: u64,
        /// The same as a time of day, in UTC.
        until: String,
    },
    /// It stays: the files for the next boot are being written.
    Confirmed {
        /// By what.
        by: String,
    },
    /// All is done.
    Done,
    /// It is being taken back.
    Undoing {
        /// Why.
        why: String,
        /// When that has to be over, in milliseconds since boot; then somebody else does it.
        #[serde(default = "never")]
        deadline: u64,
    },
    /// It was taken back.
    Undone,
}

/// The deadline in a journal that an older version of fwc began.
const fn never() -> u64 {
    u64::MAX
}

impl JournalStep {
    /// Whether nothing is left to do.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Undone)
    }

    /// The points around writing it down.
    fn points(&self) -> Option<(Point, Point)> {
        Some(match self {
            Self::Begun => return None,
            Self::Changing { .. } => (Point::JournalChanging, Point::Changing),
            Self::Pending { .. } => (Point::JournalPending, Point::Pending),
            Self::Confirmed { .. } => (Point::JournalConfirmed, Point::Confirmed),
            Self::Done => (Point::JournalDone, Point::Done),
            Self::Undoing { .. } => (Point::JournalUndoing, Point::Undoing),
            Self::Undone => (Point::JournalUndone, Point::Undone),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    number: u64,
    at: String,
    #[serde(flatten)]
    step: JournalStep,
}

/// The journal of a namespace's folder.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Nothing is read or made yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn intent_path(&self) -> PathBuf {
        self.folder.join("transaction.json")
    }

    fn lines_path(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Writes the intent down and begins a new journal; the transaction before must have ended.
    pub(super) fn begin(&self, intent: &Intent) -> Result<(), Error> {
        let path = self.intent_path();
        let failed = |source| Error::io("cannot write", &path, source);
        fault::at(Point::Intent).map_err(failed)?;
        let text = serde_json::to_string(intent).map_err(|error| failed(error.into()))?;
        store::write(&path, &(text + "\n"))?;
        fault::at(Point::IntentWritten).map_err(failed)?;
        // Its first line: until it is there, the journal speaks of the transaction before.
        let line = line(intent.number, &JournalStep::Begun).map_err(failed)?;
        store::write(&self.lines_path(), &line)
    }

    /// Writes down who guards the transaction.
    pub(super) fn watched(&self, intent: &mut Intent, pid: u32) -> Result<(), Error> {
        intent.watchdog = Some(pid);
        let path = self.intent_path();
        let text = serde_json::to_string(intent)
            .map_err(|error| Error::io("cannot write", &path, error.into()))?;
        store::write(&path, &(text + "\n"))
    }

    /// Writes a step down, on disk when it returns.
    pub(super) fn write(&self, intent: &Intent, step: &JournalStep) -> Result<(), Error> {
        let path = self.lines_path();
        let failed = |source| Error::io("cannot write", &path, source);
        let (before, after) = step.points().unzip();
        let at = |point: Option<Point>| point.map_or(Ok(()), fault::at);
        at(before).map_err(failed)?;
        append(&path, &line(intent.number, step).map_err(failed)?).map_err(failed)?;
        at(after).map_err(failed)
    }

    /// The last transaction and how far it is; `None` where there was none, or nothing of it began.
    pub fn last(&self) -> Result<Option<(Intent, JournalStep)>, Error> {
        let path = self.intent_path();
        let read = |path: &Path| {
            files::read_kept(path).map_err(|error| Error::io("cannot read", path, error))
        };
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let bad = |reason: String| Error::BadRecord {
            path: path.clone(),
            reason,
        };
        let intent: Intent = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if intent.schema != SCHEMA {
            return Err(bad(format!("its schema is `{}`", intent.schema)));
        }
        let lines = read(&self.lines_path())?.unwrap_or_default();
        let mut steps = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let step = steps.rfind(|line| line.number == intent.number);
        Ok(step.map(|line| (intent, line.step)))
    }

    /// The number and the step of the last line.
    pub(super) fn last_line(&self) -> io::Result<Option<(u64, JournalStep)>> {
        let text = files::read_kept(&self.lines_path())?.unwrap_or_default();
        let mut lines = text.lines().rev();
        let last = lines.find_map(|line| serde_json::from_str::<Line>(line).ok());
        Ok(last.map(|line| (line.number, line.step)))
    }

    /// The transaction that has not ended.
    pub fn open(&self) -> Result<Option<(Intent, JournalStep)>, Error> {
        Ok(self.last()?.filter(|(_, step)| !step.is_end()))
    }
}

fn line(number: u64, step: &JournalStep) -> io::Result<String> {
    let line = Line {
        number,
        at: clock::now(),
        step: step.clone(),
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let (folder, name) = OpenFolder::above(path, Trust::Root)?;
    let mut file = folder.file(&name, OFlags::RDWR | OFlags::APPEND)?;
    // What a crash left of a line must not swallow this one.
    let text = io::read_to_string(&file)?;
    let line = if text.is_empty() || text.ends_with('\n') {
        line.to_owned()
    } else {
        format!("\n{line}")
    };
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

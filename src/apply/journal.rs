//! What is written down before and while a change is made, so that whoever finds it half done can finish it or take it back.
//!
//! `transaction.json` holds the intent: everything that finishing or undoing needs. `journal` has a line a step, each on disk
//! before the step that it announces begins. A line that a crash cut short counts as not written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::records::{Intent, JournalStep};
use super::{clock, disk};
use crate::fault::{self, Point};
use crate::files::{self, OpenFolder, Trust};

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
        disk::write(&path, &(text + "\n"))?;
        fault::at(Point::IntentWritten).map_err(failed)?;
        // Its first line: until it is there, the journal speaks of the transaction before.
        let line = line(intent.number, &JournalStep::Begun).map_err(failed)?;
        disk::write(&self.lines_path(), &line)
    }

    /// Writes down who guards the transaction.
    pub(super) fn watched(&self, intent: &mut Intent, pid: u32) -> Result<(), Error> {
        intent.watchdog = Some(pid);
        let path = self.intent_path();
        let text = serde_json::to_string(intent)
            .map_err(|error| Error::io("cannot write", &path, error.into()))?;
        disk::write(&path, &(text + "\n"))
    }

    /// Writes a step down, on disk when it returns.
    pub(super) fn write(&self, intent: &Intent, step: &JournalStep) -> Result<(), Error> {
        let path = self.lines_path();
        let failed = |source| Error::io("cannot write", &path, source);
        let (before, after) = points(step).unzip();
        let at = |point: Option<Point>| point.map_or(Ok(()), fault::at);
        at(before).map_err(failed)?;
        append(&path, &line(intent.number, step).map_err(failed)?).map_err(failed)?;
        at(after).map_err(failed)
    }

    /// The last transaction and how far it is; `None` where there was none, or nothing of it began.
    pub fn last(&self) -> Result<Option<(Intent, JournalStep)>, Error> {
        let path = self.intent_path();
        let Some(text) = disk::read(&path)? else {
            return Ok(None);
        };
        let bad = |reason: String| Error::BadRecord {
            path: path.clone(),
            reason,
        };
        let intent: Intent = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if intent.schema != Intent::SCHEMA {
            return Err(bad(format!("its schema is `{}`", intent.schema)));
        }
        let lines = disk::read(&self.lines_path())?.unwrap_or_default();
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

/// The fault points before and after the line of a step is written.
fn points(step: &JournalStep) -> Option<(Point, Point)> {
    Some(match step {
        JournalStep::Begun => return None,
        JournalStep::Changing { .. } => (Point::JournalChanging, Point::Changing),
        JournalStep::Pending { .. } => (Point::JournalPending, Point::Pending),
        JournalStep::Confirmed { .. } => (Point::JournalConfirmed, Point::Confirmed),
        JournalStep::Done => (Point::JournalDone, Point::Done),
        JournalStep::Undoing { .. } => (Point::JournalUndoing, Point::Undoing),
        JournalStep::Undone => (Point::JournalUndone, Point::Undone),
    })
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

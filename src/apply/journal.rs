//! The journal of a change: with it any later fwc can finish or revert a change that a crash interrupted.
//!
//! `transaction.json` holds the intent: everything that it takes to finish or to revert the change. `journal` has a line for
//! each step, which is on disk before the step begins. A line that a crash cut short counts as not written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::records::{Intent, JournalStep};
use super::{clock, disk};
use crate::fault::{self, Point};
use crate::files::{self, OpenFolder, Trust};

/// A line of the file `journal`.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// The number of the change.
    number: u64,
    /// When the line was written, in UTC.
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
    /// Returns the journal in a folder, without reading or making anything.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of the file that has the intent.
    pub(super) fn intent_path(&self) -> PathBuf {
        self.folder.join("transaction.json")
    }

    fn lines_path(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Writes the intent and begins a new journal. The previous change must have ended.
    pub(super) fn begin(&self, intent: &Intent) -> Result<(), Error> {
        let path = self.intent_path();
        let failed = |source| Error::io("cannot write", &path, source);
        fault::at(Point::Intent).map_err(failed)?;
        disk::write_json(&path, intent)?;
        fault::at(Point::IntentWritten).map_err(failed)?;
        // Until its first line is there, the journal ends with the previous change: `last` finds none of the new number.
        let line = line(intent.number, &JournalStep::Begun).map_err(failed)?;
        disk::write(&self.lines_path(), &line)
    }

    /// Adds the process id of the watchdog to the intent.
    pub(super) fn watched(&self, intent: &mut Intent, pid: u32) -> Result<(), Error> {
        intent.watchdog = Some(pid);
        disk::write_json(&self.intent_path(), intent)
    }

    /// Appends a step, which is on disk on return.
    pub(super) fn write(&self, intent: &Intent, step: &JournalStep) -> Result<(), Error> {
        let path = self.lines_path();
        let failed = |source| Error::io("cannot write", &path, source);
        let (before, after) = points(step).unzip();
        let at = |point: Option<Point>| point.map_or(Ok(()), fault::at);
        at(before).map_err(failed)?;
        append(&path, &line(intent.number, step).map_err(failed)?).map_err(failed)?;
        at(after).map_err(failed)
    }

    /// Reads the last change and how far it is; `None` if there was none, or if its journal has not begun.
    pub fn last(&self) -> Result<Option<(Intent, JournalStep)>, Error> {
        let path = self.intent_path();
        let Some(text) = disk::read(&path)? else {
            return Ok(None);
        };
        let bad = |reason: String| Error::BadChange {
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

    /// Reads the number and the step of the last line. It does not read the intent, which may be large.
    pub(super) fn last_line(&self) -> io::Result<Option<(u64, JournalStep)>> {
        let text = files::read_kept(&self.lines_path())?.unwrap_or_default();
        let mut lines = text.lines().rev();
        let last = lines.find_map(|line| serde_json::from_str::<Line>(line).ok());
        Ok(last.map(|line| (line.number, line.step)))
    }

    /// Reads the last change if it has not ended.
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
    // A line that a crash cut short must not make this one unreadable.
    let text = io::read_to_string(&file)?;
    let line = if text.is_empty() || text.ends_with('\n') {
        line.to_owned()
    } else {
        format!("\n{line}")
    };
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

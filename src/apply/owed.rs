//! The file `hooks.json` of a network namespace: the hooks of the last kept change that have not succeeded yet.

use std::path::{Path, PathBuf};

use super::disk;
use super::error::Error;
use super::records::{Intent, Owed, OwedHook};

fn path(folder: &Path) -> PathBuf {
    folder.join("hooks.json")
}

/// Reads the hooks that are still to run from the folder of a namespace; `None` if there are none.
pub(super) fn read(folder: &Path) -> Result<Option<Owed>, Error> {
    let path = path(folder);
    let bad = |reason: String| Error::BadOwed {
        path: path.clone(),
        reason,
    };
    let Some(text) = disk::read(&path)? else {
        return Ok(None);
    };
    let owed: Owed = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if owed.schema != Owed::SCHEMA {
        return Err(bad(format!("its schema is `{}`", owed.schema)));
    }
    Ok(Some(owed))
}

/// Writes down that the hooks of a change are to run. The hooks of earlier changes are forgotten: the new policy lists all
/// that are wanted now.
pub(super) fn owe(folder: &Path, intent: &Intent) -> Result<(), Error> {
    let hooks = intent.ruleset.after_apply.iter();
    let hooks = hooks.map(|command| OwedHook {
        command: command.clone(),
        failed: None,
    });
    write(folder, intent.number, hooks.collect())
}

/// Writes down the hooks of a change that are still to run.
pub(super) fn write(folder: &Path, number: u64, hooks: Vec<OwedHook>) -> Result<(), Error> {
    if hooks.is_empty() {
        return forget(folder);
    }
    let owed = Owed {
        schema: Owed::SCHEMA.to_owned(),
        number,
        hooks,
    };
    disk::write_json(&path(folder), &owed)
}

/// Forgets all hooks that are still to run.
pub(super) fn forget(folder: &Path) -> Result<(), Error> {
    disk::remove(&path(folder))
}

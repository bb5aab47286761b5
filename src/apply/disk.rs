//! Files on disk that fwc trusts as root. Those of the state directory are written whole, or not at all.

use std::path::Path;

use serde::Serialize;

use super::error::Error;
use crate::files::{self, OpenFolder, Staged, Trust};

/// Writes a file of the state directory: afterwards the old text or the new one is there, whole. The new one is on disk on return.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    Staged::new(path, text, 0o600, Trust::Root)
        .and_then(Staged::publish)
        .map(drop)
        .map_err(|error| Error::io("cannot write", path, error))
}

/// Writes a value as a line of JSON, as [`write`] does.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::io("cannot write", path, error.into()))?;
    write(path, &(text + "\n"))
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    files::read_kept(path).map_err(|error| Error::io("cannot read", path, error))
}

/// Removes a file if it exists.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    files::remove_kept(path).map_err(|error| Error::io("cannot remove", path, error))
}

/// Opens a folder, and makes it first if there is none. Only root can read it.
pub(super) fn make_folder(folder: &Path) -> Result<OpenFolder, Error> {
    OpenFolder::make(folder, 0o700, Trust::Root)
        .map_err(|error| Error::io("cannot make the folder", folder, error))
}

//! Reads and removes the files that fwc keeps and later acts on as root: its state, and the rules files for the next boot.
//!
//! Each is opened through [`OpenFolder`] with [`Trust::Root`], which refuses a path that another user could exchange. The user
//! of sudo is not trusted here: the watchdog and the boot service have no `SUDO_UID`.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::{OpenFolder, Trust};

/// Returns the text of a kept file; `None` if it does not exist.
///
/// # Errors
///
/// If another user could have put the file there, and if it is not a regular file.
pub fn read_kept(path: &Path) -> io::Result<Option<String>> {
    match OpenFolder::above(path, Trust::Root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok((folder, name)) => folder.read(&name),
    }
}

/// Removes a kept file and syncs its folder. A file that does not exist is no error.
pub fn remove_kept(path: &Path) -> io::Result<()> {
    let removed = OpenFolder::above(path, Trust::Root).and_then(|(folder, name)| {
        folder.remove(&name)?;
        folder.sync()
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Returns the names in a folder; none if the folder does not exist.
pub fn names_kept(folder: &Path) -> io::Result<Vec<OsString>> {
    match OpenFolder::open(folder, Trust::Root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(folder) => folder.names(),
    }
}

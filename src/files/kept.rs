//! Files that fwc keeps and acts on later as root: its memory, and what boots.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::{Folder, Trust};

/// The text of a file; `None` where there is none.
///
/// # Errors
///
/// Where another user could have put it there, and where it is not a regular file.
pub fn read_kept(path: &Path) -> io::Result<Option<String>> {
    match Folder::above(path, Trust::Root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok((folder, name)) => folder.read(&name),
    }
}

/// Removes a file, where it is there.
pub fn remove_kept(path: &Path) -> io::Result<()> {
    let removed = Folder::above(path, Trust::Root).and_then(|(folder, name)| {
        folder.remove(&name)?;
        folder.sync()
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The names in a folder; none where there is none.
pub fn names_kept(folder: &Path) -> io::Result<Vec<OsString>> {
    match Folder::open(folder, Trust::Root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(folder) => folder.names(),
    }
}

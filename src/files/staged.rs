//! Writes files so that each is old or new, and whole, whenever the process or the machine stops: the text is written to a
//! temporary file beside the place, synced, and renamed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{OpenFolder, Trust};

/// The number of processes that may write the same text to the same place at once.
const MOST_AT_ONCE: u32 = 16;

/// A file that is on disk under a temporary name; removed when dropped, unless it was published.
///
/// The temporary name is made of the place's name and of the text. Whoever knows both finds what a killed process left, and
/// removes nothing else. (Random names had to be removed by pattern, which could take files of other programs.)
#[derive(Debug)]
pub struct Staged {
    folder: OpenFolder,
    name: OsString,
    temporary: OsString,
    /// Locked while this process writes it, so that another one does not take it for a leftover.
    file: File,
    place: PathBuf,
    is_published: bool,
}

impl Staged {
    /// Writes the text beside `place`, whose folder must exist, and syncs it.
    pub fn new(place: &Path, text: &str, mode: u32, trust: Trust) -> io::Result<Self> {
        let (folder, name) = OpenFolder::above(place, trust)?;
        let (file, temporary) = create(&folder, &name, text)?;
        let mut staged = Self {
            folder,
            name,
            temporary,
            file,
            place: place.to_owned(),
            is_published: false,
        };
        staged.file.write_all(text.as_bytes())?;
        // The mode is set on the open file: the umask does not apply, and the name cannot be exchanged.
        staged.file.set_permissions(Permissions::from_mode(mode))?;
        staged.file.sync_all()?;
        Ok(staged)
    }

    /// Returns the place that the file will have.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Gives the file that is in the place now a second name, `NAME.before-fwc`, unless that exists. Returns the second
    /// name if it was made.
    pub fn keep_old(&self) -> io::Result<Option<PathBuf>> {
        let mut name = self.name.clone();
        name.push(".before-fwc");
        let kept = self.place.with_file_name(&name);
        match self.folder.link(&self.name, &name) {
            Ok(()) => Ok(Some(kept)),
            // There is no file to keep, or one was kept before: the first one is the user's own.
            Err(Errno::NOENT | Errno::EXIST) => Ok(None),
            // The file system has no hard links: copy the file.
            Err(_) => {
                let mut old = self.folder.file(&self.name, OFlags::RDONLY)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let mut copy = self.folder.file(&name, flags)?;
                io::copy(&mut old, &mut copy)?;
                copy.set_permissions(old.metadata()?.permissions())?;
                copy.sync_all()?;
                Ok(Some(kept))
            }
        }
    }

    /// Renames the file to its place and syncs the folder; returns the place.
    pub fn publish(mut self) -> io::Result<PathBuf> {
        self.folder.rename(&self.temporary, &self.name)?;
        self.is_published = true;
        self.folder.sync()?;
        Ok(self.place.clone())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.folder.remove(&self.temporary);
        }
    }
}

/// Returns a temporary name: `.rules.v4.fwc-0123456789abcdef`, with `-NUMBER` behind it if several processes write the
/// same.
fn temporary(name: &OsStr, text: &str, number: u32) -> OsString {
    let digest = Sha256::digest(text.as_bytes());
    let digest: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".fwc-{digest}"));
    if number > 0 {
        temporary.push(format!("-{number}"));
    }
    temporary
}

/// Creates and locks the temporary file. One that a killed process left is removed first.
fn create(folder: &OpenFolder, name: &OsStr, text: &str) -> io::Result<(File, OsString)> {
    let mut number = 0;
    while number < MOST_AT_ONCE {
        let temporary = temporary(name, text, number);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        match folder.file(&temporary, flags) {
            Ok(file) => {
                flock(&file, FlockOperation::LockExclusive)?;
                // Between creating and locking, another process may have removed the file as a leftover: then try again.
                if folder.is_still(&temporary, &file)? {
                    return Ok((file, temporary));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !remove_leftover(folder, &temporary, text) {
                    number += 1;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST.into())
}

/// Removes a temporary file if a killed process left it: a regular file that nobody has locked, whose content is the
/// beginning of the text. Returns `true` if it was removed.
fn remove_leftover(folder: &OpenFolder, temporary: &OsStr, text: &str) -> bool {
    let Ok(mut file) = folder.file(temporary, OFlags::RDONLY) else {
        return false;
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    let mut found = Vec::new();
    let limit = u64::try_from(text.len())
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let is_read = Read::by_ref(&mut file)
        .take(limit)
        .read_to_end(&mut found)
        .is_ok();
    is_read
        && text.as_bytes().starts_with(&found)
        && folder.is_still(temporary, &file).unwrap_or(false)
        && folder.remove(temporary).is_ok()
}

/// Removes the temporary files that killed processes left when they wrote this text to this place, and nothing else.
pub fn remove_leftovers(place: &Path, text: &str, trust: Trust) {
    // Leftovers do no harm, so that a failure is not reported.
    let Ok((folder, name)) = OpenFolder::above(place, trust) else {
        return;
    };
    for number in 0..MOST_AT_ONCE {
        remove_leftover(&folder, &temporary(&name, text, number), text);
    }
}

/// Removes all temporary files without a writer from a folder that belongs to fwc alone, whatever their content.
pub fn remove_abandoned(folder: &Path) {
    // Leftovers do no harm, so that a failure is not reported.
    let Ok(folder) = OpenFolder::open(folder, Trust::Root) else {
        return;
    };
    for name in folder.names().unwrap_or_default() {
        let is_temporary = name.to_str().is_some_and(is_temporary);
        let file = is_temporary.then(|| folder.file(&name, OFlags::RDONLY).ok());
        if let Some(file) = file.flatten()
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && folder.is_still(&name, &file).unwrap_or(false)
        {
            let _ = folder.remove(&name);
        }
    }
}

/// Returns `true` if a name has the form that [`temporary`] gives.
fn is_temporary(name: &str) -> bool {
    let ending = name
        .strip_prefix('.')
        .and_then(|name| name.rsplit_once(".fwc-"));
    ending.is_some_and(|(_, ending)| {
        let digest = ending.split('-').next().unwrap_or_default();
        digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Creates a folder and those above it that are missing.
pub fn create_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(folder)
}

/// Returns the text of a file that any user may have written; `None` if it does not exist. Only compare it: see
/// [`InputFile`](super::InputFile).
pub fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match super::InputFile::open(path) {
        Ok(file) => Ok(Some(file.bytes()?)),
        Err(super::FileError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}

/// Writes a file of mode 0640, unless it is there with this text and mode already. Returns `true` if it was written.
pub fn write_atomically(place: &Path, text: &str) -> io::Result<bool> {
    const MODE: u32 = 0o640;
    if let Ok(metadata) = fs::symlink_metadata(place)
        && metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && fs::read(place)? == text.as_bytes()
    {
        return Ok(false);
    }
    Staged::new(place, text, MODE, Trust::Anybody)?.publish()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Staged, create_folder, remove_leftovers, temporary, write_atomically};
    use crate::files::Trust;

    #[test]
    fn staged_file_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        create_folder(&folder, 0o755).unwrap();
        let place = folder.join("rules.v4");
        fs::write(&place, "old").unwrap();

        drop(Staged::new(&place, "new", 0o640, Trust::Root).unwrap());
        assert_eq!(fs::read_to_string(&place).unwrap(), "old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        Staged::new(&place, "new", 0o640, Trust::Root)
            .unwrap()
            .publish()
            .unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn what_is_right_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("rules.v4");
        assert!(write_atomically(&place, "x").unwrap());
        assert!(!write_atomically(&place, "x").unwrap());
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(write_atomically(&place, "x").unwrap());
    }

    #[test]
    fn only_what_a_killed_process_left_goes() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("rules.v4");
        let beside = |number| {
            root.path()
                .join(temporary("rules.v4".as_ref(), "new text", number))
        };
        fs::write(root.path().join(".fwc-notes"), "mine").unwrap();
        fs::write(beside(0), "new t").unwrap();
        fs::write(beside(1), "somebody else's").unwrap();
        // One that is being written.
        let staged = Staged::new(&place, "new text", 0o640, Trust::Root).unwrap();
        remove_leftovers(&place, "new text", Trust::Root);
        assert_eq!(fs::read_to_string(beside(0)).unwrap(), "new text");
        staged.publish().unwrap();
        fs::write(beside(0), "").unwrap();
        fs::write(beside(2), "new text").unwrap();
        remove_leftovers(&place, "another text", Trust::Root);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 5);
        remove_leftovers(&place, "new text", Trust::Root);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(beside(1)).unwrap(), "somebody else's");
        assert!(root.path().join(".fwc-notes").exists());
    }
}

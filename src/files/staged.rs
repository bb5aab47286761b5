//! Files that are old or new, whole, whatever happens: written beside their place, synced, renamed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// How the name begins of a file that is not in its place yet.
const PREFIX: &str = ".fwc-";

/// A file that is on disk already, but not in its place yet; gone when dropped.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    place: PathBuf,
}

impl Staged {
    /// Writes and syncs the text beside `place`, whose folder must exist.
    pub fn new(place: &Path, text: &str, mode: u32) -> io::Result<Self> {
        let mut file = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(folder(place))?;
        file.write_all(text.as_bytes())?;
        let permissions = Permissions::from_mode(mode);
        file.as_file().set_permissions(permissions)?;
        file.as_file().sync_all()?;
        Ok(Self {
            file,
            place: place.to_owned(),
        })
    }

    /// Where it will be.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Gives the file that is in the place a second name, `NAME.before-fwc`, unless it has one.
    pub fn keep_old(&self) -> io::Result<Option<PathBuf>> {
        let mut name = self.place.as_os_str().to_owned();
        name.push(".before-fwc");
        let name = PathBuf::from(name);
        match fs::hard_link(&self.place, &name) {
            Ok(()) => Ok(Some(name)),
            // Nothing to keep, or kept already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) =>
            {
                Ok(None)
            }
            // A file system without hard links.
            Err(_) => fs::copy(&self.place, &name).map(|_| Some(name)),
        }
    }

    /// Puts it into its place, and makes sure that it stays there.
    pub fn publish(self) -> io::Result<PathBuf> {
        self.file.persist(&self.place)?;
        File::open(folder(&self.place))?.sync_all()?;
        Ok(self.place)
    }
}

fn folder(place: &Path) -> &Path {
    place
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Removes what a killed process left beside the places of its files. Nobody else may be writing there.
pub fn remove_unpublished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it where they are missing.
pub fn create_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(folder)
}

/// The text of a file; `None` where there is none.
pub fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        // Bytes that are no text differ from every text all the same.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file of mode 0640, unless it is there already as it should be; whether it was written.
pub fn write_atomically(place: &Path, text: &str) -> io::Result<bool> {
    const MODE: u32 = 0o640;
    if let Ok(metadata) = fs::symlink_metadata(place)
        && metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && fs::read(place)? == text.as_bytes()
    {
        return Ok(false);
    }
    Staged::new(place, text, MODE)?.publish()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{Staged, create_folder, write_atomically};

    #[test]
    fn staged_file_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        create_folder(&folder, 0o755).unwrap();
        let place = folder.join("rules.v4");
        fs::write(&place, "old").unwrap();

        drop(Staged::new(&place, "new", 0o640).unwrap());
        assert_eq!(fs::read_to_string(&place).unwrap(), "old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        Staged::new(&place, "new", 0o640)
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
}

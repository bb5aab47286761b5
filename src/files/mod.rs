//! Files: reading what the user wrote (regular, of a sane size, as root only what nobody else can change), and
//! writing so that nothing is ever half there.

mod staged;

pub use staged::{Staged, create_folder, read_if_there, remove_unpublished, write_atomically};

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What files are read for: what changes the system wants files that only root can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look at them or to write rules files.
    Read,
    /// To change the firewall of this machine.
    Apply,
}

/// A file is the same however it is called: device and inode.
pub type Identity = (u64, u64);

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not give it, or it is no regular file, too large or not UTF-8.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// Somebody else could have written it.
    #[error("not safe to use as root: {0}")]
    Unsafe(String),
}

/// A larger file is no text of a person.
const LARGEST: u64 = 64 << 20;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct InputFile {
    file: File,
    metadata: Metadata,
    path: PathBuf,
}

impl InputFile {
    /// Opens a regular file of at most 64 MiB. A FIFO or a device is refused, never waited for.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file").into());
        }
        if metadata.len() > LARGEST {
            return Err(io::Error::other("larger than 64 MiB").into());
        }
        Ok(Self {
            file,
            metadata,
            path: path.to_owned(),
        })
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// The text. As root it is refused when others could have written it.
    pub fn read(self, access: Access) -> Result<String, FileError> {
        if rustix::process::geteuid().is_root()
            && let Some(reason) = self.unsafe_because(access)
        {
            return Err(FileError::Unsafe(reason));
        }
        let mut text = String::new();
        self.file.take(LARGEST).read_to_string(&mut text)?;
        Ok(text)
    }

    fn unsafe_because(&self, access: Access) -> Option<String> {
        if writable_by_others(&self.metadata) {
            return Some("others can write it".to_owned());
        }
        let owner = self.metadata.uid();
        if access == Access::Apply && !is_trusted(owner) {
            return Some(format!("it belongs to the user {owner}"));
        }
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let folder = std::fs::metadata(folder).ok()?;
        let sticky = folder.mode() & 0o1000 != 0;
        (writable_by_others(&folder) && !sticky).then(|| "others can write its folder".to_owned())
    }
}

fn writable_by_others(metadata: &Metadata) -> bool {
    metadata.mode() & 0o002 != 0 || (metadata.mode() & 0o020 != 0 && metadata.gid() != 0)
}

/// Root, and who became root by sudo: that user could have run anything.
fn is_trusted(uid: u32) -> bool {
    let sudo = std::env::var("SUDO_UID").ok();
    uid == 0 || sudo.and_then(|text| text.parse().ok()) == Some(uid)
}

//! Files: reading what the user wrote (regular, of a sane size, as root only what nobody else can change), and
//! writing so that nothing is ever half there.

mod folder;
mod git;
mod kept;
mod pattern;
mod program;
mod staged;

pub use folder::{Folder, Trust, UnsafePart, unsafe_folder};
pub use git::{GitError, Kind, Revision};
pub use kept::{names_kept, read_kept, remove_kept};
pub use pattern::FindError;
pub use program::{PROGRAM_FOLDERS, Unfit, find_program, in_folders};
pub use staged::{
    Staged, create_folder, read_if_there, remove_abandoned, remove_leftovers, write_atomically,
};

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
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

/// Where a policy's files are.
pub trait Files {
    /// Opens a file.
    fn open(&self, path: &Path) -> Result<InputFile, FileError>;

    /// The files that fit a pattern, sorted.
    fn find(&self, pattern: &str, options: glob::MatchOptions) -> Result<Vec<PathBuf>, FindError>;

    /// How a path is shown to people.
    fn shown(&self, path: &Path) -> PathBuf;
}

/// The files of this machine, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn open(&self, path: &Path) -> Result<InputFile, FileError> {
        InputFile::open(path)
    }

    fn find(&self, pattern: &str, options: glob::MatchOptions) -> Result<Vec<PathBuf>, FindError> {
        pattern::find(pattern, options)
    }

    fn shown(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// A regular file, open for reading.
#[derive(Debug)]
pub struct InputFile {
    identity: Identity,
    content: Content,
}

#[derive(Debug)]
enum Content {
    OnDisk {
        file: File,
        metadata: Box<Metadata>,
        path: PathBuf,
        /// A folder or link on the way to it which another user could exchange.
        unsafe_part: Option<UnsafePart>,
    },
    Text(String),
}

impl InputFile {
    /// Opens a regular file of at most 64 MiB. A FIFO or a device is refused, never waited for.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let (file, unsafe_part) = folder::open_followed(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file").into());
        }
        if metadata.len() > LARGEST {
            return Err(io::Error::other("larger than 64 MiB").into());
        }
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            content: Content::OnDisk {
                file,
                metadata: Box::new(metadata),
                path: path.to_owned(),
                unsafe_part,
            },
        })
    }

    /// A file that was read already, from where nobody can change it.
    fn of_text(identity: Identity, text: String) -> Self {
        Self {
            identity,
            content: Content::Text(text),
        }
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The bytes as text, whoever could have written them; what is not UTF-8 differs from every text all the same.
    fn bytes(self) -> io::Result<String> {
        let mut bytes = Vec::new();
        match self.content {
            Content::Text(text) => return Ok(text),
            Content::OnDisk { file, .. } => file.take(LARGEST).read_to_end(&mut bytes)?,
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text. As root it is refused when others could have written it.
    pub fn read(self, access: Access) -> Result<String, FileError> {
        let (file, metadata, path, unsafe_part) = match self.content {
            Content::Text(text) => return Ok(text),
            Content::OnDisk {
                file,
                metadata,
                path,
                unsafe_part,
            } => (file, metadata, path, unsafe_part),
        };
        if rustix::process::geteuid().is_root() {
            if let Some(reason) = unsafe_because(&metadata, &path, access) {
                return Err(FileError::Unsafe(reason));
            }
            if let (Access::Apply, Some(part)) = (access, unsafe_part) {
                return Err(FileError::Unsafe(part.to_string()));
            }
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text)?;
        Ok(text)
    }
}

fn unsafe_because(metadata: &Metadata, path: &Path, access: Access) -> Option<String> {
    if writable_by_others(metadata.mode(), metadata.gid()) {
        return Some("others can write it".to_owned());
    }
    let owner = metadata.uid();
    if access == Access::Apply && !is_trusted(owner) {
        return Some(belongs_to(owner));
    }
    moved_by_others(path)
}

/// Whether others can put something else in the place of a file or folder.
fn moved_by_others(path: &Path) -> Option<String> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::metadata(folder).ok()?;
    let sticky = folder.mode() & 0o1000 != 0;
    (writable_by_others(folder.mode(), folder.gid()) && !sticky)
        .then(|| "others can write its folder".to_owned())
}

fn writable_by_others(mode: u32, group: u32) -> bool {
    mode & 0o002 != 0 || (mode & 0o020 != 0 && group != 0)
}

/// Whose it is, in words; where the number says nothing, why.
fn belongs_to(uid: u32) -> String {
    match is_unmapped(uid) {
        true => format!(
            "it belongs to the user {uid}, as which this user namespace shows all whom it does not know, root outside of it too; run fwc outside of it"
        ),
        false => format!("it belongs to the user {uid}"),
    }
}

/// Whether this is how a user namespace shows a user whom it does not know.
fn is_unmapped(uid: u32) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let knows_all =
        read("/proc/self/uid_map")
            .split_ascii_whitespace()
            .eq(["0", "0", "4294967295"]);
    !knows_all && read("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid)
}

/// Root, and who became root by sudo: that user could have run anything.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || is_sudo_user(uid)
}

fn is_sudo_user(uid: u32) -> bool {
    let sudo = std::env::var("SUDO_UID").ok();
    sudo.and_then(|text| text.parse().ok()) == Some(uid)
}

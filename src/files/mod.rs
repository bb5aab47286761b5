//! Reads the files that users write and writes the files that fwc keeps, safely as root.
//!
//! - A file that is read is a regular file of at most 64 MiB. A command that runs as root refuses one that other users can
//!   change, because they could put rules into the firewall with it.
//! - A file that is written appears in its place whole or not at all, whenever the process or the machine stops.

mod folder;
mod git;
mod kept;
mod pattern;
mod program;
mod staged;

pub use folder::{OpenFolder, Trust, UnsafePart, unsafe_folder};
pub use git::{GitEntryKind, GitError, Revision};
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

/// Why files are read. Commands that change the firewall accept only files that no other user can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To check a policy, or to write rules files from it.
    Read,
    /// To change the firewall of this machine, now or at the next boot.
    Apply,
}

/// Device and inode: two paths with the same pair lead to one file.
pub type Identity = (u64, u64);

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused, or the file is not a regular one, is too large or is not UTF-8.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// Another user could have written the file, or could replace it.
    #[error("not safe to use as root: {0}")]
    Unsafe(String),
}

/// The size limit of a file in bytes (64 MiB). A larger file was not written by a person.
const LARGEST: u64 = 64 << 20;

/// A source of a policy's files: the disk, or a revision of a git repository.
pub trait Files {
    /// Opens a regular file for reading.
    fn open(&self, path: &Path) -> Result<InputFile, FileError>;

    /// Returns the paths that match a glob pattern, sorted.
    fn find(&self, pattern: &str, options: glob::MatchOptions) -> Result<Vec<PathBuf>, FindError>;

    /// Returns a path as messages show it.
    fn shown(&self, path: &Path) -> PathBuf;
}

/// The files on this machine's disk.
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
        /// The first part of the path that another user could exchange, if there is one.
        unsafe_part: Option<UnsafePart>,
    },
    Text(String),
}

impl InputFile {
    /// Opens a regular file of at most 64 MiB. A FIFO or a device is refused and never waited for.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let (file, unsafe_part) = folder::open_followed(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file").into());
        }
        // The size is checked again while reading (`take`): the file may grow meanwhile.
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

    /// Returns a file with text that was read already from where other users cannot change it, such as a git object.
    fn of_text(identity: Identity, text: String) -> Self {
        Self {
            identity,
            content: Content::Text(text),
        }
    }

    /// Returns the identity of the file, by which a file that is included twice is recognised.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Reads the bytes as text without any check of who could have written them: the text is compared and not used. Bytes
    /// that are not UTF-8 are replaced, which makes the text differ from every text that fwc writes.
    fn bytes(self) -> io::Result<String> {
        let mut bytes = Vec::new();
        match self.content {
            Content::Text(text) => return Ok(text),
            Content::OnDisk { file, .. } => file.take(LARGEST).read_to_end(&mut bytes)?,
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads the text.
    ///
    /// # Errors
    ///
    /// If the text is not UTF-8. As root, if other users could write the file or replace it in its folder; with
    /// [`Access::Apply`] also if another user owns it, or could exchange any part of its path.
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

/// Returns why root must not use a file for `access`, or `None`.
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

/// Returns a reason if other users can put another file in the place of this one. In a sticky folder such as /tmp they
/// cannot.
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

/// Returns `true` if the mode lets users besides the owner and root's group write.
fn writable_by_others(mode: u32, group: u32) -> bool {
    mode & 0o002 != 0 || (mode & 0o020 != 0 && group != 0)
}

/// Returns the owner in words. In a user namespace the number may stand for any user outside of it; the text then says so.
fn belongs_to(uid: u32) -> String {
    match is_unmapped(uid) {
        true => format!(
            "it belongs to the user {uid}, as which this user namespace shows all whom it does not know, root outside of it too; run fwc outside of it"
        ),
        false => format!("it belongs to the user {uid}"),
    }
}

/// Returns `true` if the user id is the one that a user namespace shows for all users that it does not map
/// (`user_namespaces(7)`). The first user namespace maps every id to itself, so that the number is a real user there.
fn is_unmapped(uid: u32) -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let knows_all =
        read("/proc/self/uid_map")
            .split_ascii_whitespace()
            .eq(["0", "0", "4294967295"]);
    !knows_all && read("/proc/sys/kernel/overflowuid").trim().parse() == Ok(uid)
}

/// Returns `true` for root, and for the user who became root by sudo: that user could have run anything as root.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || is_sudo_user(uid)
}

fn is_sudo_user(uid: u32) -> bool {
    let sudo = std::env::var("SUDO_UID").ok();
    sudo.and_then(|text| text.parse().ok()) == Some(uid)
}

//! Folders that are opened part by part, and used by their descriptor from then on.
//!
//! A path that was checked need not lead to the same place a moment later: whoever owns a folder on the way can put another one
//! in its place. So each part is opened below the part before it (`openat`), checked by its descriptor, and what is read and
//! written in a folder is named relative to the folder's descriptor, without following a link.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{LARGEST, belongs_to, is_sudo_user, is_unmapped, writable_by_others};

/// As in the kernel: more links than this lead in a circle.
const MOST_LINKS: usize = 40;

const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Whom a folder may belong to, when root uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody: nothing is checked.
    Anybody,
    /// Root, and the user who became root by sudo: that user could have run anything.
    Sudo,
    /// Root alone: what is kept there is used by later commands and at boot, where nobody uses sudo.
    Root,
}

impl Trust {
    /// Why a file is not safe, where others could write it.
    fn objection(self, metadata: &Stat) -> Option<String> {
        if self == Self::Anybody {
            return None;
        }
        match others_write(metadata) {
            true => Some("others can write it".to_owned()),
            false => self.strange(metadata.st_uid),
        }
    }

    /// Why an owner is not trusted.
    fn strange(self, uid: u32) -> Option<String> {
        let is_trusted = match self {
            Self::Anybody => true,
            Self::Sudo => uid == 0 || is_sudo_user(uid),
            Self::Root => uid == 0,
        };
        // In a user namespace of its own all of the system belongs to somebody unknown, and root there is a user as any other.
        (!is_trusted && !is_unmapped(uid)).then(|| belongs_to(uid))
    }
}

/// A part of a path which another user could exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafePart {
    /// The folder or link.
    pub part: PathBuf,
    /// Why others can exchange what is in it.
    pub reason: String,
}

impl std::error::Error for UnsafePart {}

impl fmt::Display for UnsafePart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the folder `{}`: {}", self.part.display(), self.reason)
    }
}

impl From<UnsafePart> for io::Error {
    fn from(part: UnsafePart) -> Self {
        Self::other(format!(
            "not safe to use as root: {part}. Give it to root alone (`chown root`, `chmod go-w`), or choose another folder"
        ))
    }
}

/// A path that is followed part by part.
struct Walk {
    folder: OwnedFd,
    here: PathBuf,
    rest: VecDeque<OsString>,
    links: usize,
    trust: Trust,
    unsafe_part: Option<UnsafePart>,
}

impl Walk {
    fn new(path: &Path, trust: Trust) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut walk = Self {
            folder: root()?,
            here: PathBuf::from("/"),
            rest: parts(&path),
            links: 0,
            trust: match geteuid().is_root() {
                true => trust,
                false => Trust::Anybody,
            },
            unsafe_part: None,
        };
        walk.check()?;
        Ok(walk)
    }

    /// Enters a folder below the present one, or follows a link to one.
    fn step(&mut self, name: &OsStr) -> io::Result<()> {
        if name == ".." {
            // The present folder is a real one: the one above it is what `..` is.
            self.folder = fs::openat(&self.folder, "..", FOLDER, Mode::empty())?;
            self.here.pop();
            return Ok(());
        }
        match fs::openat(&self.folder, name, FOLDER, Mode::empty()) {
            Ok(folder) => {
                self.folder = folder;
                self.here.push(name);
                self.check()
            }
            Err(Errno::NOTDIR | Errno::LOOP) => self.link(name),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on where a link leads to.
    fn link(&mut self, name: &OsStr) -> io::Result<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = match fs::readlinkat(&self.folder, name, Vec::new()) {
            Ok(target) => OsString::from_vec(target.into_bytes()),
            Err(Errno::INVAL) => return Err(Errno::NOTDIR.into()),
            Err(error) => return Err(error.into()),
        };
        let metadata = fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(reason) = self.trust.strange(metadata.st_uid) {
            self.found(self.here.join(name), reason);
        }
        let target = PathBuf::from(target);
        if target.is_absolute() {
            self.folder = root()?;
            self.here = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            self.rest.push_front(part);
        }
        Ok(())
    }

    /// Writes down when others can exchange what is in the present folder. In one such as /tmp nobody can exchange what is
    /// another user's.
    fn check(&mut self) -> io::Result<()> {
        if self.trust == Trust::Anybody {
            return Ok(());
        }
        let metadata = fs::fstat(&self.folder)?;
        let is_sticky = metadata.st_mode & 0o1000 != 0;
        if others_write(&metadata) && !is_sticky {
            self.found(self.here.clone(), "others can write it".to_owned());
        } else if let Some(reason) = self.trust.strange(metadata.st_uid) {
            self.found(self.here.clone(), reason);
        }
        Ok(())
    }

    fn found(&mut self, part: PathBuf, reason: String) {
        self.unsafe_part.get_or_insert(UnsafePart { part, reason });
    }

    fn is_safe(&self) -> io::Result<()> {
        match &self.unsafe_part {
            Some(part) => Err(part.clone().into()),
            None => Ok(()),
        }
    }
}

fn root() -> io::Result<OwnedFd> {
    Ok(fs::open("/", FOLDER, Mode::empty())?)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn others_write(metadata: &Stat) -> bool {
    writable_by_others(metadata.st_mode, metadata.st_gid)
}

/// Opens a file for reading, never waiting for it, and returns which part of its path another user could exchange. Links are
/// followed.
pub(super) fn open_followed(path: &Path) -> io::Result<(File, Option<UnsafePart>)> {
    let mut walk = Walk::new(path, Trust::Sudo)?;
    let is_folder = path.as_os_str().as_bytes().ends_with(b"/");
    while let Some(name) = walk.rest.pop_front() {
        if is_folder || !walk.rest.is_empty() || name == ".." {
            walk.step(&name)?;
            continue;
        }
        match fs::openat(&walk.folder, &name, READ, Mode::empty()) {
            Ok(file) => return Ok((file.into(), walk.unsafe_part)),
            Err(Errno::LOOP) => walk.link(&name)?,
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("not a regular file"))
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Why root must not keep in a folder what it acts on later; `None` where only root could exchange it. Of a folder that does not
/// exist yet, the folders above it are what counts.
pub fn unsafe_folder(folder: &Path) -> Option<UnsafePart> {
    let mut walk = Walk::new(folder, Trust::Root).ok()?;
    while let Some(name) = walk.rest.pop_front() {
        if walk.step(&name).is_err() {
            return walk.unsafe_part;
        }
    }
    let folder = Folder {
        descriptor: walk.folder,
        path: walk.here,
        trust: walk.trust,
    };
    walk.unsafe_part.or_else(|| folder.shared().ok()?)
}

/// A folder that is open: what is done in it is done in this one, whatever its path leads to since.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
    path: PathBuf,
    /// Whom its files may belong to.
    trust: Trust,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// As root, where another user could put another folder or file in the place of this one or one in it.
    pub fn open(path: &Path, trust: Trust) -> io::Result<Self> {
        Self::walk(path, trust, None)
    }

    /// The same, after making it and those above it where they are missing.
    pub fn make(path: &Path, mode: u32, trust: Trust) -> io::Result<Self> {
        Self::walk(path, trust, Some(Mode::from_raw_mode(mode)))
    }

    fn walk(path: &Path, trust: Trust, make: Option<Mode>) -> io::Result<Self> {
        let mut walk = Walk::new(path, trust)?;
        while let Some(name) = walk.rest.pop_front() {
            match (walk.step(&name), make) {
                (Err(error), Some(mode)) if error.kind() == io::ErrorKind::NotFound => {
                    // Not where others decide what the names lead to.
                    walk.is_safe()?;
                    match fs::mkdirat(&walk.folder, &name, mode) {
                        // Whatever the umask says.
                        Ok(()) => fs::chmodat(&walk.folder, &name, mode, AtFlags::empty())?,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    walk.step(&name)?;
                }
                (result, _) => result?,
            }
        }
        walk.is_safe()?;
        let folder = Self {
            descriptor: walk.folder,
            path: path.to_owned(),
            trust: walk.trust,
        };
        match folder.shared()? {
            Some(part) if folder.trust != Trust::Anybody => Err(part.into()),
            _ => Ok(folder),
        }
    }

    /// The folder that a path's last part is in, and the last part.
    pub fn above(path: &Path, trust: Trust) -> io::Result<(Self, OsString)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        Ok((Self::open(folder, trust)?, name))
    }

    /// The folder as a part that others can write, sticky or not: what is made in it can be there before.
    fn shared(&self) -> io::Result<Option<UnsafePart>> {
        let metadata = fs::fstat(&self.descriptor)?;
        Ok(others_write(&metadata).then(|| UnsafePart {
            part: self.path.clone(),
            reason: "others can write it".to_owned(),
        }))
    }

    /// Its path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file in it.
    ///
    /// # Errors
    ///
    /// For a link, a FIFO or a device, which is never waited for; as root, for a file that another user could write.
    pub fn file(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = match fs::openat(&self.descriptor, name, flags, mode) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(irregular("a symbolic link")),
            Err(Errno::NXIO) => return Err(irregular("a socket or a device")),
            Err(Errno::ISDIR) => return Err(irregular("a folder")),
            Err(error) => return Err(error.into()),
        };
        let metadata = fs::fstat(&file)?;
        let what = match FileType::from_raw_mode(metadata.st_mode) {
            FileType::RegularFile => {
                return match self.trust.objection(&metadata) {
                    None => {
                        // Whatever the umask says.
                        if flags.contains(OFlags::CREATE) {
                            fs::fchmod(&file, mode)?;
                        }
                        Ok(file)
                    }
                    Some(reason) => Err(io::Error::other(format!(
                        "not safe to use as root: {reason}. Give it to root alone (`chown root`, `chmod go-w`), or remove it"
                    ))),
                };
            }
            FileType::Directory => "a folder",
            FileType::Fifo => "a FIFO",
            _ => "a device",
        };
        Err(irregular(what))
    }

    /// The text of a file in it; `None` where there is none. Bytes that are no text differ from every text all the same.
    pub fn read(&self, name: &OsStr) -> io::Result<Option<String>> {
        let file = match self.file(name, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names of what is in it.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.readable()?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a file in it.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    /// Gives a file in it another name in it, in place of what has that name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.descriptor, from, &self.descriptor, to)?)
    }

    /// Gives a file in it a second name in it.
    pub(super) fn link(&self, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        let folder = &self.descriptor;
        fs::linkat(folder, from, folder, to, AtFlags::empty())
    }

    /// Whether a name in it still is this file.
    pub(super) fn is_still(&self, name: &OsStr, file: &File) -> io::Result<bool> {
        let there = match fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let own = fs::fstat(file)?;
        Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino))
    }

    /// Makes sure that the names in it are on disk.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.readable()?).sync_all()
    }

    fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.descriptor, ".", flags, Mode::empty())?)
    }
}

fn irregular(what: &str) -> io::Error {
    io::Error::other(format!(
        "{what} is in its place, where fwc keeps a regular file; remove it"
    ))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;

    use rustix::process::geteuid;

    use super::{Folder, Trust, unsafe_folder};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn reason(path: &Path) -> String {
        unsafe_folder(path).map_or_else(String::new, |part| part.to_string())
    }

    #[test]
    fn every_folder_above_counts_and_every_link() {
        if !geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (above, folder) = (root.path().join("a"), root.path().join("a/b/c"));
        fs::create_dir_all(&folder).unwrap();
        let link = root.path().join("link");
        symlink(above.join("b"), &link).unwrap();
        for path in [&folder, &link.join("c"), &folder.join("not/yet")] {
            assert_eq!(reason(path), "");
            chown(&above, Some(1), None).unwrap();
            let told = format!("the folder `{}`: it belongs to the user 1", above.display());
            assert_eq!(reason(path), told);
            chown(&above, Some(0), None).unwrap();
            mode(&above, 0o777);
            assert!(reason(path).ends_with("others can write it"));
            // Nobody can move what is another user's there.
            mode(&above, 0o1777);
            assert_eq!(reason(path), "");
            mode(&above, 0o755);
        }
        std::os::unix::fs::lchown(&link, Some(1), None).unwrap();
        assert!(reason(&link.join("c")).contains("belongs to the user 1"));
        // In the folder itself a file of others can be there first.
        mode(&folder, 0o1777);
        assert!(reason(&folder).ends_with("others can write it"));
        assert!(Folder::open(&folder, Trust::Root).is_err());
        assert!(Folder::open(&folder, Trust::Anybody).is_ok());
        chown(&above, Some(1), None).unwrap();
        assert!(Folder::make(&above.join("new"), 0o700, Trust::Root).is_err());
        assert!(!above.join("new").exists());
    }

    #[test]
    fn what_is_open_stays_whatever_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let folder = Folder::make(&path, 0o700, Trust::Root).unwrap();
        fs::write(path.join("journal"), "ours").unwrap();
        fs::rename(&path, root.path().join("moved")).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("journal"), "theirs").unwrap();
        let text = folder.read(OsStr::new("journal")).unwrap();
        assert_eq!(text.as_deref(), Some("ours"));
    }

    #[test]
    fn only_regular_files_are_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), Trust::Root).unwrap();
        let read = |name: &str| {
            folder
                .read(OsStr::new(name))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("nothing"), Ok(None));
        fs::create_dir(root.path().join("folder")).unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        symlink("file", root.path().join("link")).unwrap();
        symlink("nowhere", root.path().join("broken")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(read("file"), Ok(Some("x".to_owned())));
        for (name, what) in [
            ("folder", "a folder"),
            ("link", "a symbolic link"),
            ("broken", "a symbolic link"),
            ("fifo", "a FIFO"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.starts_with(what), "{error}");
        }
        if geteuid().is_root() {
            chown(root.path().join("file"), Some(1), None).unwrap();
            assert!(read("file").unwrap_err().contains("belongs to the user 1"));
            chown(root.path().join("file"), Some(0), None).unwrap();
            mode(&root.path().join("file"), 0o666);
            assert!(read("file").unwrap_err().contains("others can write it"));
        }
    }
}

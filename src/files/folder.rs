//! Opens folders part by part, and uses them by their descriptor from then on.
//!
//! A path that was checked may lead elsewhere a moment later: the owner of a folder on the way can put another one in its
//! place. So each part is opened relative to the part before it (`openat`) and checked by its descriptor. Files in the
//! folder are named relative to its descriptor, and links in their place are not followed.

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

/// The number of symbolic links that are followed in one path, as in the kernel. More are taken for a loop.
const MOST_LINKS: usize = 40;

const FOLDER: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The users whom root trusts as owners of a folder and of the files in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody: nothing is checked.
    Anybody,
    /// Root, and the user who became root by sudo: that user could have run anything as root.
    Sudo,
    /// Root alone. Files that later commands and the boot act on need this: those have no `SUDO_UID` to compare with.
    Root,
}

impl Trust {
    /// Returns why root must not use a file; `None` if only trusted users can write it.
    fn objection(self, metadata: &Stat) -> Option<String> {
        if self == Self::Anybody {
            return None;
        }
        match others_write(metadata) {
            true => Some("others can write it".to_owned()),
            false => self.strange(metadata.st_uid),
        }
    }

    /// Returns why an owner is not trusted; `None` if it is.
    fn strange(self, uid: u32) -> Option<String> {
        let is_trusted = match self {
            Self::Anybody => true,
            Self::Sudo => uid == 0 || is_sudo_user(uid),
            Self::Root => uid == 0,
        };
        // In a user namespace the files of the system belong to users that it does not map, and root there is a user like
        // any other outside of it.
        (!is_trusted && !is_unmapped(uid)).then(|| belongs_to(uid))
    }
}

/// A part of a path that another user could exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafePart {
    /// The folder or link.
    pub part: PathBuf,
    /// Why other users can exchange it.
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

/// A path that is followed part by part, from the root of the file system.
struct Walk {
    /// The folder that was reached.
    folder: OwnedFd,
    /// The path of `folder`, without links.
    here: PathBuf,
    /// The parts that are still to follow.
    rest: VecDeque<OsString>,
    /// The number of links that were followed.
    links: usize,
    trust: Trust,
    /// The first unsafe part that was found.
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
            // For users other than root nothing is checked.
            trust: match geteuid().is_root() {
                true => trust,
                false => Trust::Anybody,
            },
            unsafe_part: None,
        };
        walk.check()?;
        Ok(walk)
    }

    /// Enters a folder below the current one, or follows a link.
    fn step(&mut self, name: &OsStr) -> io::Result<()> {
        if name == ".." {
            // `here` has no links, so that its parent is what `..` leads to.
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

    /// Replaces a link by the parts of its target.
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
        // In a sticky folder the owner of a link can exchange it.
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

    /// Records the current folder if other users can exchange what is in it. In a sticky folder such as /tmp they cannot
    /// exchange files of other users.
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

    /// Records an unsafe part, unless one was found before.
    fn found(&mut self, part: PathBuf, reason: String) {
        self.unsafe_part.get_or_insert(UnsafePart { part, reason });
    }

    /// Returns the error for the first unsafe part, if there is one.
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

/// Returns the parts of a path, `..` included: only the file system knows where `..` leads behind a link.
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

/// Opens a file for reading without waiting for it, and returns which part of its path another user could exchange. Links
/// are followed.
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

/// `NONBLOCK`: opening a FIFO must not wait for a writer.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Returns why root must not keep files in a folder that it acts on later; `None` if only root could exchange them. If the
/// folder does not exist yet, the folders above it are checked.
pub fn unsafe_folder(folder: &Path) -> Option<UnsafePart> {
    let mut walk = Walk::new(folder, Trust::Root).ok()?;
    while let Some(name) = walk.rest.pop_front() {
        if walk.step(&name).is_err() {
            return walk.unsafe_part;
        }
    }
    let folder = OpenFolder {
        descriptor: walk.folder,
        path: walk.here,
        trust: walk.trust,
    };
    walk.unsafe_part.or_else(|| folder.shared().ok()?)
}

/// An open folder. What is done in it is done in this folder, even if its path leads to another one by now.
#[derive(Debug)]
pub struct OpenFolder {
    descriptor: OwnedFd,
    path: PathBuf,
    /// The users whom its files may belong to.
    trust: Trust,
}

impl OpenFolder {
    /// Opens a folder that exists.
    ///
    /// # Errors
    ///
    /// As root, if another user could replace this folder or a file in it.
    pub fn open(path: &Path, trust: Trust) -> io::Result<Self> {
        Self::walk(path, trust, None)
    }

    /// Opens a folder, and first creates it and those above it that are missing, with this mode.
    pub fn make(path: &Path, mode: u32, trust: Trust) -> io::Result<Self> {
        Self::walk(path, trust, Some(Mode::from_raw_mode(mode)))
    }

    fn walk(path: &Path, trust: Trust, make: Option<Mode>) -> io::Result<Self> {
        let mut walk = Walk::new(path, trust)?;
        while let Some(name) = walk.rest.pop_front() {
            match (walk.step(&name), make) {
                (Err(error), Some(mode)) if error.kind() == io::ErrorKind::NotFound => {
                    // Create nothing below a folder that others can exchange: the name could lead anywhere.
                    walk.is_safe()?;
                    match fs::mkdirat(&walk.folder, &name, mode) {
                        // `mkdirat` applies the umask; the mode must be exact.
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

    /// Opens the folder of a file; returns it with the file's name.
    pub fn above(path: &Path, trust: Trust) -> io::Result<(Self, OsString)> {
        let name = path.file_name().ok_or(Errno::ISDIR)?.to_owned();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        Ok((Self::open(folder, trust)?, name))
    }

    /// Returns a reason if others can write the folder itself. A sticky bit does not help here: another user could create a
    /// file with the name that fwc is about to use.
    fn shared(&self) -> io::Result<Option<UnsafePart>> {
        let metadata = fs::fstat(&self.descriptor)?;
        Ok(others_write(&metadata).then(|| UnsafePart {
            part: self.path.clone(),
            reason: "others can write it".to_owned(),
        }))
    }

    /// Returns the path with which the folder was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file in the folder.
    ///
    /// # Errors
    ///
    /// For a link, a FIFO or a device, none of which is waited for; as root, for a file that another user could write.
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
        // The type is checked by descriptor, after opening: before it, another file could take the name in between.
        let metadata = fs::fstat(&file)?;
        let what = match FileType::from_raw_mode(metadata.st_mode) {
            FileType::RegularFile => {
                return match self.trust.objection(&metadata) {
                    None => {
                        // The umask may have removed bits when the file was created.
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

    /// Returns the text of a file in the folder; `None` if it does not exist. Bytes that are not UTF-8 are replaced, which
    /// makes the text differ from every text that fwc writes.
    pub fn read(&self, name: &OsStr) -> io::Result<Option<String>> {
        let file = match self.file(name, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Returns the names of the entries, without `.` and `..`.
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

    /// Removes a file in the folder.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.descriptor, name, AtFlags::empty())?)
    }

    /// Renames a file within the folder, in place of a file that has the new name.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.descriptor, from, &self.descriptor, to)?)
    }

    /// Gives a file a second name within the folder (a hard link).
    pub(super) fn link(&self, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        let folder = &self.descriptor;
        fs::linkat(folder, from, folder, to, AtFlags::empty())
    }

    /// Returns `true` if a name in the folder still leads to this open file.
    pub(super) fn is_still(&self, name: &OsStr, file: &File) -> io::Result<bool> {
        let there = match fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let own = fs::fstat(file)?;
        Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino))
    }

    /// Writes the folder to disk: a rename or removal in it is lasting only after this.
    pub fn sync(&self) -> io::Result<()> {
        File::from(self.readable()?).sync_all()
    }

    /// Opens the folder for reading. The descriptor of the walk has `O_PATH`, which can neither list nor sync.
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

    use super::{OpenFolder, Trust, unsafe_folder};

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
        assert!(OpenFolder::open(&folder, Trust::Root).is_err());
        assert!(OpenFolder::open(&folder, Trust::Anybody).is_ok());
        chown(&above, Some(1), None).unwrap();
        assert!(OpenFolder::make(&above.join("new"), 0o700, Trust::Root).is_err());
        assert!(!above.join("new").exists());
    }

    #[test]
    fn what_is_open_stays_whatever_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        let folder = OpenFolder::make(&path, 0o700, Trust::Root).unwrap();
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
        let folder = OpenFolder::open(root.path(), Trust::Root).unwrap();
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

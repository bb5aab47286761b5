//! Reads files as they were at a revision of a git repository, for `fwc diff git:REVISION`.
//!
//! Nothing is checked out and nothing is written. fwc runs git by an absolute path, without a shell, and turns off
//! everything by which a repository could make git run a program or use the network: hooks, file system monitors, pagers,
//! fetching of missing objects. Replaced objects are turned off as well, since they show another content than the revision
//! has.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{FileError, Files, FindError, InputFile, LARGEST};

/// The paths at which git is looked for, in order. `PATH` is not used: it may lead to another user's program.
const PLACES: [&str; 4] = [
    "/usr/bin/git",
    "/usr/local/bin/git",
    "/bin/git",
    "/run/current-system/sw/bin/git",
];

/// The options that every git command gets, before the folder that it runs in.
const ALWAYS: [&str; 10] = [
    "--no-pager",
    "--no-replace-objects",
    "--literal-pathspecs",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "protocol.allow=never",
    "-C",
];

/// The number of symbolic links that are followed in one path, as in the kernel. More are taken for a loop.
const MOST_LINKS: usize = 40;

/// Why a revision, or a file at a revision, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Git is not installed.
    #[error("reading a git revision needs git, and there is none in {}", PLACES.join(", "))]
    NoGit,
    /// Git could not be started.
    #[error("cannot run git: {0}")]
    NotRun(#[from] io::Error),
    /// The folder is not in a repository that this user may read.
    #[error("`{}` is not in a git repository that can be read: {said}", .folder.display())]
    NoRepository {
        /// The folder.
        folder: PathBuf,
        /// The error message of git.
        said: String,
    },
    /// The text cannot be the name of a revision: it is empty, begins like an option, or has control characters.
    #[error("`{}` is not a valid name of a revision", .0.escape_debug())]
    NoName(String),
    /// The repository does not have the revision.
    #[error("there is no revision `{revision}` in `{}`{}", .repository.display(), hint(*.shallow))]
    NoRevision {
        /// The name of the revision.
        revision: String,
        /// The top folder of the repository.
        repository: PathBuf,
        /// `true` for a shallow clone, which may lack the revision only because it has the last commits alone.
        shallow: bool,
    },
    /// The file (first path) is outside the repository (second path).
    #[error("`{}` is not in the repository `{}`", .0.display(), .1.display())]
    Outside(PathBuf, PathBuf),
    /// The revision does not have the file.
    #[error("there is no `{}` at `{revision}`", .path.display())]
    NoFile {
        /// The path, relative to the top folder of the repository.
        path: PathBuf,
        /// The name of the revision.
        revision: String,
    },
    /// Git failed; the value is its error message.
    #[error("git failed: {0}")]
    Failed(String),
}

fn hint(shallow: bool) -> &'static str {
    match shallow {
        true => {
            ": it is a shallow clone, which has the last commits only; `git fetch --deepen 100` gets more"
        }
        false => "",
    }
}

/// What a path leads to in a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitEntryKind {
    /// A file, or a symbolic link to one.
    File,
    /// A folder.
    Folder,
}

/// The files of a git repository at one revision. Relative paths count from the top folder of the repository.
///
/// The list of files is read once; their content is read when it is asked for.
#[derive(Debug)]
pub struct Revision {
    name: String,
    repository: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
struct Entry {
    link: bool,
    object: String,
    size: u64,
}

impl Revision {
    /// Looks up a revision (a commit, branch or tag) in the repository that contains `folder`.
    pub fn open(folder: &Path, name: &str) -> Result<Self, GitError> {
        let good =
            !name.is_empty() && !name.starts_with('-') && !name.chars().any(char::is_control);
        if !good {
            return Err(GitError::NoName(name.to_owned()));
        }
        let top = git(folder, ["rev-parse", "--show-toplevel"])?;
        if !top.status.success() {
            let said = String::from_utf8_lossy(&top.stderr).trim().to_owned();
            let folder = folder.to_owned();
            return Err(GitError::NoRepository { folder, said });
        }
        let top = String::from_utf8_lossy(&top.stdout);
        let repository = PathBuf::from(top.strip_suffix('\n').unwrap_or(&top));
        // `^{commit}` follows tags to their commit, and refuses names of trees and blobs.
        let wanted = format!("{name}^{{commit}}");
        let found = git(
            &repository,
            [
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                &wanted,
            ],
        )?;
        let commit = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        if !found.status.success() || !is_object(&commit) {
            let said = git(&repository, ["rev-parse", "--is-shallow-repository"])?;
            return Err(GitError::NoRevision {
                revision: name.to_owned(),
                repository,
                shallow: said.stdout.starts_with(b"true"),
            });
        }
        let listed = git(
            &repository,
            ["ls-tree", "-r", "-z", "-l", "--full-tree", &commit],
        )?;
        if !listed.status.success() {
            return Err(failed(&listed));
        }
        Ok(Self {
            name: name.to_owned(),
            repository,
            entries: listed
                .stdout
                .split(|byte| *byte == 0)
                .filter_map(entry)
                .collect(),
        })
    }

    /// Returns the path in the repository of a file on disk. The file need not exist any more.
    pub fn path_of(&self, on_disk: &Path) -> Result<PathBuf, GitError> {
        let absolute = std::path::absolute(on_disk)?;
        // The file may be gone from the disk: resolve links in the part of the path that still exists, and append the rest.
        let there = absolute.ancestors().skip(1).find_map(|folder| {
            let real = folder.canonicalize().ok()?;
            Some(real.join(absolute.strip_prefix(folder).ok()?))
        });
        let outside = || GitError::Outside(on_disk.to_owned(), self.repository.clone());
        let real = normal(&there.unwrap_or(absolute)).ok_or_else(outside)?;
        let inside = real.strip_prefix(&self.repository).map_err(|_| outside())?;
        Ok(inside.to_owned())
    }

    /// Returns the path that `git:REVISION:path` means: relative to the top folder of the repository, as git reads it, or
    /// else relative to the current folder. Paths that begin with `/`, `./` or `../` count from the current folder only.
    pub fn named(&self, path: &Path) -> Result<PathBuf, GitError> {
        let from_here = path.is_absolute() || path.starts_with(".") || path.starts_with("..");
        if !from_here && self.kind(path).is_some() {
            return Ok(path.to_owned());
        }
        let here = self.path_of(path);
        match here {
            Ok(here) if from_here || self.kind(&here).is_some() => Ok(here),
            Err(error) if from_here => Err(error),
            _ => Err(GitError::NoFile {
                path: path.to_owned(),
                revision: self.name.clone(),
            }),
        }
    }

    /// Returns what a path leads to; `None` if the revision has nothing there.
    pub fn kind(&self, path: &Path) -> Option<GitEntryKind> {
        let path = self.real(path)?;
        if self.entries.contains_key(&path) {
            return Some(GitEntryKind::File);
        }
        // Git stores no folders: a folder is where some file is below it.
        let mut inside = self.entries.range(path.clone()..).map(|(other, _)| other);
        inside
            .any(|other| other.starts_with(&path))
            .then_some(GitEntryKind::Folder)
    }

    /// Returns the text of a file; `None` if the revision does not have it.
    pub fn read(&self, path: &Path) -> Result<Option<String>, FileError> {
        match self.open_file(path)? {
            Some((_, text)) => Ok(Some(text)),
            None => Ok(None),
        }
    }

    /// Returns the text of a file with its position in the list of files, which serves as its inode.
    fn open_file(&self, path: &Path) -> Result<Option<(u64, String)>, FileError> {
        let Some(path) = self.real(path) else {
            return Ok(None);
        };
        let Some(entry) = self.entries.get(&path) else {
            return Ok(None);
        };
        if entry.size > LARGEST {
            return Err(io::Error::other("larger than 64 MiB").into());
        }
        let text = String::from_utf8(self.blob(&entry.object)?)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))?;
        let before = self.entries.range(..path).count();
        Ok(Some((before as u64, text)))
    }

    fn blob(&self, object: &str) -> io::Result<Vec<u8>> {
        let output =
            git(&self.repository, ["cat-file", "blob", object]).map_err(io::Error::other)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(io::Error::other(failed(&output))),
        }
    }

    /// Resolves symbolic links and `..` within the repository; `None` if the path leads out of it or in a loop. Links are
    /// those of the revision, and not those on disk.
    fn real(&self, path: &Path) -> Option<PathBuf> {
        let mut path = self.inside(path)?;
        for _ in 0..MOST_LINKS {
            let link = path.ancestors().find_map(|part| {
                let entry = self.entries.get(part).filter(|entry| entry.link)?;
                Some((part.to_owned(), &entry.object))
            });
            let Some((part, object)) = link else {
                return Some(path);
            };
            let target = String::from_utf8(self.blob(object).ok()?).ok()?;
            let folder = part.parent().unwrap_or(Path::new(""));
            let rest = path.strip_prefix(&part).ok()?;
            path = self.inside(&folder.join(target).join(rest))?;
        }
        None
    }

    /// Returns the path relative to the top folder of the repository; `None` if it leads out of it.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let path = normal(path)?;
        match path.is_absolute() {
            true => path.strip_prefix(&self.repository).map(Path::to_owned).ok(),
            false => Some(path),
        }
    }
}

impl Files for Revision {
    fn open(&self, path: &Path) -> Result<InputFile, FileError> {
        if self.inside(path).is_none() {
            let text = format!("not in the repository `{}`", self.repository.display());
            return Err(io::Error::other(text).into());
        }
        match self.open_file(path)? {
            // `u64::MAX` is no device of a disk, so that the file differs from every file there.
            Some((number, text)) => Ok(InputFile::of_text((u64::MAX, number), text)),
            None => Err(io::Error::from(io::ErrorKind::NotFound).into()),
        }
    }

    fn find(&self, pattern: &str, options: glob::MatchOptions) -> Result<Vec<PathBuf>, FindError> {
        let normal = self.inside(Path::new(pattern)).unwrap_or_default();
        let pattern = glob::Pattern::new(&normal.to_string_lossy())?;
        let options = glob::MatchOptions {
            require_literal_separator: true,
            ..options
        };
        let fits = |path: &&PathBuf| pattern.matches_path_with(path, options);
        Ok(self.entries.keys().filter(fits).cloned().collect())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        let path = self.inside(path).unwrap_or_else(|| path.to_owned());
        PathBuf::from(format!("git:{}:{}", self.name, path.display()))
    }
}

/// Returns the path without `.` and `..`; `None` if it leads above its beginning.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            part => normal.push(part),
        }
    }
    Some(normal)
}

/// Returns `true` if the text is the name of an object: 40 hexadecimal digits with SHA-1, 64 with SHA-256.
fn is_object(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Parses a line of `git ls-tree -r -z -l`: `100644 blob OBJECT    SIZE<tab>PATH`. Submodules and names that are not UTF-8
/// give `None`.
fn entry(line: &[u8]) -> Option<(PathBuf, Entry)> {
    let line = std::str::from_utf8(line).ok()?;
    let (about, path) = line.split_once('\t')?;
    let mut words = about.split_ascii_whitespace();
    let (mode, kind, object) = (words.next()?, words.next()?, words.next()?);
    let entry = Entry {
        link: mode == "120000",
        object: object.to_owned(),
        size: words.next()?.parse().ok()?,
    };
    (kind == "blob" && is_object(object)).then(|| (PathBuf::from(path), entry))
}

fn failed(output: &Output) -> GitError {
    let said = String::from_utf8_lossy(&output.stderr);
    GitError::Failed(said.trim().to_owned())
}

/// Runs git in a folder, with nothing of fwc's environment but what [`Command::env`] gets below.
fn git<const N: usize>(folder: &Path, arguments: [&str; N]) -> Result<Output, GitError> {
    let places = PLACES.iter().map(Path::new);
    let tool = places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or(GitError::NoGit)?;
    let mut command = Command::new(tool);
    command.args(ALWAYS).arg(folder.as_os_str()).args(arguments);
    command.env_clear();
    // Git refuses repositories of other users unless `safe.directory` of the user's settings, or `SUDO_UID`, allows them.
    for name in ["HOME", "XDG_CONFIG_HOME", "SUDO_UID"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (name, value) in [
        ("PATH", "/usr/bin:/bin"),
        ("LC_ALL", "C"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ] {
        command.env(name, OsStr::new(value));
    }
    command.stdin(Stdio::null());
    Ok(command.output()?)
}

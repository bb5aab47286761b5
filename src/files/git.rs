//! Files as they were at a revision of a git repository.
//!
//! Nothing is checked out and nothing is written. Git is asked at absolute places, without a shell, and with nothing that a
//! repository could make it run: no hooks, no pager, no fetching of what is missing, no replaced objects.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{FileError, Files, FindError, InputFile, LARGEST};

/// Where git is looked for.
const PLACES: [&str; 4] = [
    "/usr/bin/git",
    "/usr/local/bin/git",
    "/bin/git",
    "/run/current-system/sw/bin/git",
];

/// What git is told before any command.
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

/// More links than this lead in a circle.
const MOST_LINKS: usize = 40;

/// Why there is no such revision, or no such file in it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// Git is not installed.
    #[error("reading a git revision needs git, and there is none in {}", PLACES.join(", "))]
    NoGit,
    /// Git does not run.
    #[error("cannot run git: {0}")]
    NotRun(#[from] io::Error),
    /// The folder is in no repository.
    #[error("`{}` is in no git repository that can be read: {said}", .folder.display())]
    NoRepository {
        /// The folder.
        folder: PathBuf,
        /// What git said.
        said: String,
    },
    /// It is no name of a revision.
    #[error("`{}` is no name of a revision", .0.escape_debug())]
    NoName(String),
    /// The repository does not have it.
    #[error("there is no revision `{revision}` in `{}`{}", .repository.display(), hint(*.shallow))]
    NoRevision {
        /// Its name.
        revision: String,
        /// The folder of the repository.
        repository: PathBuf,
        /// Whether the repository has the last commits only.
        shallow: bool,
    },
    /// The file is not in the repository.
    #[error("`{}` is not in the repository `{}`", .0.display(), .1.display())]
    Outside(PathBuf, PathBuf),
    /// The revision does not have it.
    #[error("there is no `{}` at `{revision}`", .path.display())]
    NoFile {
        /// From the repository's folder.
        path: PathBuf,
        /// The revision's name.
        revision: String,
    },
    /// Git could not do what it was asked for.
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

/// What is in a tree at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, or a link to one.
    File,
    /// A folder.
    Folder,
}

/// The files of a repository at a revision. Paths count from the repository's folder.
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
    /// Looks up a revision in the repository that `folder` is in.
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

    /// The path in the repository of a file of the disk, which need not be there any more.
    pub fn path_of(&self, on_disk: &Path) -> Result<PathBuf, GitError> {
        let absolute = std::path::absolute(on_disk)?;
        // The part that is there tells where it really is.
        let there = absolute.ancestors().skip(1).find_map(|folder| {
            let real = folder.canonicalize().ok()?;
            Some(real.join(absolute.strip_prefix(folder).ok()?))
        });
        let outside = || GitError::Outside(on_disk.to_owned(), self.repository.clone());
        let real = normal(&there.unwrap_or(absolute)).ok_or_else(outside)?;
        let inside = real.strip_prefix(&self.repository).map_err(|_| outside())?;
        Ok(inside.to_owned())
    }

    /// The path that is meant by one that was named together with the revision: from the repository's folder, as git has
    /// it, or else from this one.
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

    /// What is at a path; `None` where nothing is.
    pub fn kind(&self, path: &Path) -> Option<Kind> {
        let path = self.real(path)?;
        if self.entries.contains_key(&path) {
            return Some(Kind::File);
        }
        let mut inside = self.entries.range(path.clone()..).map(|(other, _)| other);
        inside
            .any(|other| other.starts_with(&path))
            .then_some(Kind::Folder)
    }

    /// The text of a file; `None` where there is none.
    pub fn read(&self, path: &Path) -> Result<Option<String>, FileError> {
        match self.open_file(path)? {
            Some((_, text)) => Ok(Some(text)),
            None => Ok(None),
        }
    }

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

    /// The path without links and `..`; `None` where it leads out of the repository.
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

/// A path without `.` and `..`; `None` where it leads above its beginning.
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

fn is_object(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `100644 blob OBJECT    SIZE<tab>PATH`; submodules and names that are not UTF-8 are left out.
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

fn git<const N: usize>(folder: &Path, arguments: [&str; N]) -> Result<Output, GitError> {
    let places = PLACES.iter().map(Path::new);
    let tool = places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or(GitError::NoGit)?;
    let mut command = Command::new(tool);
    command.args(ALWAYS).arg(folder.as_os_str()).args(arguments);
    command.env_clear();
    // Whose repositories git may read is a setting of the user's; so is who called sudo.
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

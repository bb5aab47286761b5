//! Reading the files of a policy: the root file and what it includes, each real file once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::Policy;
use super::reader::Table;
use super::schema;
use crate::diag::{Code, Diagnostic, Sink};
use crate::source::{FileId, Located, SourceMap, Span};

/// What the policy is read for: what changes the system wants files that only root can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look at it or to write rules files.
    Read,
    /// To change the firewall of this machine.
    Apply,
}

/// A larger file is no policy.
const LARGEST_FILE: u64 = 64 << 20;

/// Reads a policy with its includes. Problems go to the sink; `None` when a file could not be read at all, so that
/// looking further would only give errors about what is missing.
///
/// ```
/// use fwc::{diag::Sink, policy, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, policy::Access::Read, &mut sources, &mut sink);
/// assert_eq!(policy.map(|policy| policy.rules.len()), Some(1));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn load(
    path: &Path,
    access: Access,
    sources: &mut SourceMap,
    sink: &mut Sink,
) -> Option<Policy> {
    let mut loader = Loader {
        access,
        sources,
        sink,
        policy: Policy::default(),
        done: Vec::new(),
        open: Vec::new(),
        broken: false,
    };
    loader.file(path, None);
    let (policy, broken) = (loader.policy, loader.broken);
    schema::check_rule_names(&policy.rules, sink);
    (!broken).then_some(policy)
}

/// A file is the same however it is called.
type Identity = (u64, u64);

struct Loader<'a> {
    access: Access,
    sources: &'a mut SourceMap,
    sink: &'a mut Sink,
    policy: Policy,
    done: Vec<Identity>,
    open: Vec<(Identity, PathBuf)>,
    /// A file could not be read.
    broken: bool,
}

impl Loader<'_> {
    fn file(&mut self, path: &Path, included_at: Option<Span>) {
        let opened = open(path);
        let (file, identity) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.unreadable(path, included_at, &error),
        };
        if let Some(at) = self.open.iter().position(|(open, _)| *open == identity) {
            return self.include_loop(at, path, included_at);
        }
        if self.done.contains(&identity) || !self.is_safe(path, &file, included_at) {
            return;
        }
        let text = match read(file) {
            Ok(text) => text,
            Err(error) => return self.unreadable(path, included_at, &error),
        };
        let id = self.sources.add(path, text);
        self.open.push((identity, path.to_owned()));
        self.text(id, path, included_at.is_none());
        self.open.pop();
        self.done.push(identity);
    }

    fn text(&mut self, id: FileId, path: &Path, is_root_file: bool) {
        let text = self.sources.file(id).text().to_owned();
        let (root, errors) = DeTable::parse_recoverable(&text);
        // After the first error the rest is guesswork.
        if let Some(error) = errors.first() {
            let span = Span::new(id, error.span().unwrap_or(0..0));
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            self.sink
                .report(Diagnostic::error(Code::Syntax, span, message));
            return;
        }
        let root = Table::root(&root, id);
        for pattern in root.texts("include", self.sink).unwrap_or_default() {
            for included in self.expand(path, &pattern) {
                self.file(&included, Some(pattern.span));
            }
        }
        schema::read(root, is_root_file, &mut self.policy, self.sink);
    }

    /// The files that an include names, sorted.
    fn expand(&mut self, from: &Path, pattern: &Located<&str>) -> Vec<PathBuf> {
        let folder = from.parent().unwrap_or(Path::new(""));
        if !pattern.value.contains(['*', '?', '[']) {
            return vec![folder.join(pattern.value)];
        }
        let escaped = if Path::new(pattern.value).is_absolute() {
            pattern.value.to_owned()
        } else {
            let folder = glob::Pattern::escape(&folder.to_string_lossy());
            Path::new(&folder)
                .join(pattern.value)
                .to_string_lossy()
                .into_owned()
        };
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let found: Vec<_> = match glob::glob_with(&escaped, options) {
            Ok(paths) => paths.filter_map(Result::ok).collect(),
            Err(error) => {
                let message = format!("`{}` is no pattern: {}", pattern.value, error.msg);
                self.sink.report(Diagnostic::error(
                    Code::IncludeNothing,
                    pattern.span,
                    message,
                ));
                return Vec::new();
            }
        };
        if found.is_empty() {
            self.broken = true;
            let message = format!("no file is called `{}`", pattern.value);
            self.sink.report(
                Diagnostic::error(Code::IncludeNothing, pattern.span, message)
                    .help("paths are relative to the file that includes them"),
            );
        }
        found
    }

    fn unreadable(&mut self, path: &Path, included_at: Option<Span>, error: &io::Error) {
        self.broken = true;
        let shown = path.display();
        self.sink.report(match included_at {
            Some(span) => {
                let message = format!("cannot read `{shown}`: {error}");
                let code = if error.kind() == io::ErrorKind::NotFound {
                    Code::IncludeNothing
                } else {
                    Code::Unreadable
                };
                Diagnostic::error(code, span, message)
                    .help("paths are relative to the file that includes them")
            }
            None => {
                let message = format!("cannot read the policy `{shown}`: {error}");
                Diagnostic::error_without_place(Code::Unreadable, message)
            }
        });
    }

    fn include_loop(&mut self, at: usize, path: &Path, included_at: Option<Span>) {
        let Some(span) = included_at else {
            return; // the root file is included by nobody
        };
        let circle: Vec<_> = self.open[at..]
            .iter()
            .map(|(_, path)| path.display().to_string())
            .chain([path.display().to_string()])
            .collect();
        self.sink.report(
            Diagnostic::error(
                Code::IncludeLoop,
                span,
                "the files include each other in a circle",
            )
            .help(circle.join(" includes ")),
        );
    }

    /// For root a policy is as good as a command: nobody else may be able to write it.
    fn is_safe(&mut self, path: &Path, file: &File, included_at: Option<Span>) -> bool {
        if !rustix::process::geteuid().is_root() {
            return true;
        }
        let problem = match file.metadata() {
            Ok(metadata) => unsafe_because(path, &metadata, self.access),
            Err(error) => Some(error.to_string()),
        };
        let Some(problem) = problem else {
            return true;
        };
        let message = format!("`{}` is not safe to use as root: {problem}", path.display());
        self.broken = true;
        let help = "chown it to root and take the right to write from others: chmod go-w";
        self.sink.report(
            match included_at {
                Some(span) => Diagnostic::error(Code::UnsafeFile, span, message),
                None => Diagnostic::error_without_place(Code::UnsafeFile, message),
            }
            .help(help),
        );
        false
    }
}

fn unsafe_because(path: &Path, metadata: &std::fs::Metadata, access: Access) -> Option<String> {
    if writable_by_others(metadata) {
        return Some("others can write it".to_owned());
    }
    if access == Access::Apply && !trusted_owner(metadata.uid()) {
        return Some(format!("it belongs to the user {}", metadata.uid()));
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::metadata(folder).ok()?;
    let sticky = folder.mode() & 0o1000 != 0;
    (writable_by_others(&folder) && !sticky).then(|| "others can write its folder".to_owned())
}

fn writable_by_others(metadata: &std::fs::Metadata) -> bool {
    metadata.mode() & 0o002 != 0 || (metadata.mode() & 0o020 != 0 && metadata.gid() != 0)
}

/// Root, and who became root by sudo: that user could have run anything.
fn trusted_owner(uid: u32) -> bool {
    let sudo = std::env::var("SUDO_UID").ok();
    uid == 0 || sudo.and_then(|text| text.parse().ok()) == Some(uid)
}

fn open(path: &Path) -> io::Result<(File, Identity)> {
    // A FIFO must not make us wait.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(io::Error::other("larger than 64 MiB"));
    }
    Ok((file, (metadata.dev(), metadata.ino())))
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok(text)
}

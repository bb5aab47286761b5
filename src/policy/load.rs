//! Reads the files of a policy: the root file and all files that it includes, each file once.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use toml::de::DeTable;

use super::reader::CheckedTable;
use super::schema;
use super::{Policy, allow};
use crate::diag::{Code, Diagnostic, Sink};
use crate::files::{Access, Disk, FileError, Files, FindError, Identity};
use crate::source::{FileId, Located, SourceMap, Span};

/// Reads a policy with its includes. Problems go to the sink. Returns `None` if a file could not be read at all: checks
/// would then only report what that file defines as missing.
///
/// ```
/// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink);
/// assert_eq!(policy.map(|policy| policy.rules.len()), Some(1));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn load(
    path: &Path,
    access: Access,
    sources: &mut SourceMap,
    sink: &mut Sink,
) -> Option<Policy> {
    load_from(&Disk, path, access, sources, sink)
}

/// Does the same with the files of `files` in place of those of this machine.
pub fn load_from(
    files: &dyn Files,
    path: &Path,
    access: Access,
    sources: &mut SourceMap,
    sink: &mut Sink,
) -> Option<Policy> {
    let mut loader = Loader {
        files,
        access,
        sources,
        sink,
        policy: Policy::default(),
        done: Vec::new(),
        open: Vec::new(),
        bytes: 0,
        broken: false,
    };
    loader.file(path, None);
    let (policy, broken) = (loader.policy, loader.broken);
    schema::check_names(("rule", "rules"), policy.rules.iter(), sink);
    let mangle = policy.mangle.iter().map(|entry| &entry.packets);
    schema::check_names(("mangle entry", "mangle entries"), mangle, sink);
    let translated = policy.nat.iter().map(|entry| &entry.packets);
    schema::check_names(("nat entry", "nat entries"), translated, sink);
    let raw = policy.raw.iter().map(|entry| &entry.packets);
    schema::check_names(("raw entry", "raw entries"), raw, sink);
    let tests = policy.tests.iter().map(|test| &test.packets);
    schema::check_names(("test", "tests"), tests, sink);
    (!broken).then_some(policy)
}

struct Loader<'a> {
    files: &'a dyn Files,
    access: Access,
    sources: &'a mut SourceMap,
    sink: &'a mut Sink,
    policy: Policy,
    done: Vec<Identity>,
    /// The files that are being read, each with the path to show. An include of one of them is a loop.
    open: Vec<(Identity, PathBuf)>,
    /// The size of all files read so far, in bytes.
    bytes: usize,
    /// `true` if a file could not be read.
    broken: bool,
}

/// The most text of a policy, lists of addresses left out: what is made of it in memory is more than a hundred times as much.
const MOST_BYTES: usize = 8 << 20;

impl Loader<'_> {
    fn file(&mut self, path: &Path, included_at: Option<Span>) {
        let file = match self.files.open(path) {
            Ok(file) => file,
            Err(error) => return self.unreadable(path, included_at, &error),
        };
        let identity = file.identity();
        if let Some(at) = self.open.iter().position(|(open, _)| *open == identity) {
            return self.include_loop(at, included_at);
        }
        // Two includes of one file are no mistake, but its rules count once.
        if self.done.contains(&identity) {
            return;
        }
        // Read from the file that was opened and checked: between two lookups of the path another program could replace
        // it.
        let text = match file.read(self.access) {
            Ok(text) => text,
            Err(error) => return self.unreadable(path, included_at, &error),
        };
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MOST_BYTES {
            return self.too_large(included_at);
        }
        let shown = self.shown(path, Some(identity));
        let id = self.sources.add(&shown, text);
        self.open.push((identity, shown));
        if included_at.is_none() {
            self.policy.root = Some(id);
        }
        self.text(id, path, included_at.is_none());
        self.open.pop();
        self.done.push(identity);
    }

    fn text(&mut self, id: FileId, path: &Path, is_root_file: bool) {
        let text = self.sources.file(id).text().to_owned();
        let (root, errors) = DeTable::parse_recoverable(&text);
        // The parser recovers after an error, but what it then reports is guesswork.
        if let Some(error) = errors.first() {
            let span = Span::new(id, error.span().unwrap_or(0..0));
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            let mut diagnostic = Diagnostic::error(Code::Syntax, span, message);
            if error.message().starts_with("duplicate key") {
                diagnostic = diagnostic
                    .with_note("a key stands once in a table, and a [section] once in a file");
            }
            self.sink.report(diagnostic);
            return;
        }
        let root = CheckedTable::root(&root, id);
        // Included files come first, so that the definitions of this file may override theirs.
        for pattern in root.texts("include", self.sink).unwrap_or_default() {
            for included in self.expand(path, &pattern) {
                self.file(&included, Some(pattern.span));
            }
        }
        self.policy.allows.extend(allow::read(&text, id, self.sink));
        schema::read(root, is_root_file, &mut self.policy, self.sink);
        self.address_files(id, path);
    }

    /// Reads the address files that the groups of one policy file name.
    fn address_files(&mut self, policy_file: FileId, policy_path: &Path) {
        let folder = policy_path.parent().unwrap_or(Path::new(""));
        let (mut unreadable, mut refused) = (Vec::new(), Vec::new());
        for definition in self.policy.addresses.iter_mut() {
            let group = &mut definition.value;
            let Some(named) = group
                .file
                .as_ref()
                .filter(|file| file.span.file == policy_file)
            else {
                continue;
            };
            let path = folder.join(&named.value);
            let read = self.files.open(&path).and_then(|file| {
                let identity = file.identity();
                Ok((identity, file.read(self.access)?))
            });
            let (identity, text) = match read {
                Ok(read) => read,
                Err(error) => {
                    unreadable.push((path, named.span, error));
                    continue;
                }
            };
            let shown = shown(self.files, &path, Some(identity));
            let id = self.sources.add(&shown, text);
            let errors = self.sink.errors();
            let items = schema::read_list(self.sources.file(id).text(), id, self.sink);
            if items.is_empty() && self.sink.errors() == errors {
                let message = format!("`{}` has no address", shown.display());
                self.sink.report(
                    Diagnostic::error(Code::EmptyList, named.span, message)
                        .with_note("an empty list never means \"any\"")
                        .help("leave the group out"),
                );
            }
            if self.sink.errors() > errors {
                refused.push(definition.name.value.clone());
            }
            group.include.extend(items);
        }
        for name in refused {
            self.policy.addresses.refuse(name);
        }
        for (path, span, error) in unreadable {
            self.unreadable(&path, Some(span), &error);
        }
    }

    /// Returns the files that an include names, sorted.
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
        let found = match self.files.find(&escaped, options) {
            Ok(paths) => paths,
            Err(error @ FindError::TooLarge) => {
                self.broken = true;
                let message = format!("cannot look for `{}`: {error}", pattern.value);
                self.sink.report(
                    Diagnostic::error(Code::TooLarge, pattern.span, message)
                        .help("name the folders that hold the files, with fewer `*`"),
                );
                return Vec::new();
            }
            Err(FindError::Pattern(error)) => {
                let message = format!("`{}` is not a valid pattern: {}", pattern.value, error.msg);
                self.sink.report(
                    Diagnostic::error(Code::IncludeNothing, pattern.span, message).with_note(
                        "`*` is any text, `?` any character, `[ab]` one of some, `[[]` a bracket",
                    ),
                );
                return Vec::new();
            }
        };
        if found.is_empty() {
            self.broken = true;
            let message = format!("no file fits `{}`", pattern.value);
            self.sink.report(
                Diagnostic::error(Code::IncludeNothing, pattern.span, message)
                    .with_note("paths are relative to the file that names them"),
            );
        }
        found
    }

    /// Said once, whatever more is included.
    fn too_large(&mut self, included_at: Option<Span>) {
        if !std::mem::replace(&mut self.broken, true) {
            let message = format!("the policy has more than {} MiB of text", MOST_BYTES >> 20);
            let diagnostic = match included_at {
                Some(span) => Diagnostic::error(Code::TooLarge, span, message),
                None => Diagnostic::error_without_place(Code::TooLarge, message),
            };
            self.sink.report(diagnostic.help(
                "give long lists of addresses a file of their own, `file = \"...\"` under [addresses]",
            ));
        }
    }

    fn unreadable(&mut self, path: &Path, included_at: Option<Span>, error: &FileError) {
        self.broken = true;
        let shown = self.shown(path, None);
        let shown = shown.display();
        let (code, help) = match error {
            FileError::Unsafe(_) => (
                Code::UnsafeFile,
                "give it to root and take the right to write from others: chown root, chmod go-w",
            ),
            FileError::Unreadable(error) if error.kind() == ErrorKind::NotFound => (
                Code::IncludeNothing,
                "paths are relative to the file that names them",
            ),
            FileError::Unreadable(_) => (Code::Unreadable, "fwc reads regular files of UTF-8 text"),
        };
        self.sink.report(match included_at {
            Some(span) if code == Code::IncludeNothing => {
                let message = format!("there is no file `{shown}`");
                Diagnostic::error(code, span, message).help(help)
            }
            Some(span) => {
                let message = format!("cannot use `{shown}`: {error}");
                Diagnostic::error(code, span, message).help(help)
            }
            None if code == Code::IncludeNothing => {
                let message = format!("there is no policy `{shown}`");
                Diagnostic::error_without_place(Code::Unreadable, message)
                    .help("name the file, or write it: `version = 1`, `[[rules]]` and `service = \"ssh\"` are enough")
            }
            None => {
                let message = format!("cannot use the policy `{shown}`: {error}");
                Diagnostic::error_without_place(code, message).help(help)
            }
        });
    }

    fn shown(&self, path: &Path, identity: Option<Identity>) -> PathBuf {
        shown(self.files, path, identity)
    }

    fn include_loop(&mut self, at: usize, included_at: Option<Span>) {
        let Some(span) = included_at else {
            return; // the root file is included by nobody
        };
        let circle: Vec<_> = self.open[at..]
            .iter()
            .chain([&self.open[at]])
            .map(|(_, shown)| shown.display().to_string())
            .collect();
        self.sink.report(
            Diagnostic::error(
                Code::IncludeLoop,
                span,
                "the files include each other in a circle",
            )
            .with_note(circle.join(" includes ")),
        );
    }
}

/// Returns a path as messages show it: `roles/x.toml` for `hosts/../roles/x.toml` if both are the same file or neither
/// exists. They may differ if `hosts` is a symbolic link.
fn shown(files: &dyn Files, path: &Path, identity: Option<Identity>) -> PathBuf {
    let plain = without_detours(path);
    if plain == path {
        return files.shown(path);
    }
    let found = files.open(&plain).ok().map(|file| file.identity());
    files.shown(if found == identity { &plain } else { path })
}

/// Removes each `x/..` from a path, as text.
fn without_detours(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        let last = plain.components().next_back();
        match part {
            Component::ParentDir if matches!(last, Some(Component::Normal(_))) => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

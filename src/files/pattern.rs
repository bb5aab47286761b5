//! Finds files by a glob pattern, as the `include` of a policy has them, with a limit.
//!
//! A pattern over the whole disk (`/**/*.toml`) is a mistake and no reason to read the whole disk. The glob crate cannot be
//! stopped before it finds something, so that the search is done here; matching of names is the crate's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern, PatternError};

/// The number of folder entries that are read for one pattern before it is an error.
const MOST_ENTRIES: usize = 10_000;

/// Why the files of a pattern cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The text is not a valid pattern.
    #[error("{}", .0.msg)]
    Pattern(#[from] PatternError),
    /// The pattern covers more folder entries than the limit.
    #[error("it leads past more than {MOST_ENTRIES} files and folders")]
    TooLarge,
}

/// A part of a pattern, between two slashes.
#[derive(Debug)]
enum Part {
    /// A name without wildcards.
    Name(PathBuf),
    /// Names that match a pattern within one folder.
    Fits(Pattern),
    /// Any number of folders: `**`.
    Folders,
}

/// Returns the paths that match a pattern, sorted. A folder that cannot be read counts as empty.
pub(super) fn find(pattern: &str, options: MatchOptions) -> Result<Vec<PathBuf>, FindError> {
    Pattern::new(pattern)?;
    let mut parts: Vec<Part> = Vec::new();
    let mut start = PathBuf::new();
    for component in Path::new(pattern).components() {
        let name = match component {
            Component::Normal(name) => name.to_string_lossy(),
            component if parts.is_empty() => {
                start.push(component);
                continue;
            }
            component => {
                parts.push(Part::Name(component.as_os_str().into()));
                continue;
            }
        };
        match &*name {
            "**" if matches!(parts.last(), Some(Part::Folders)) => {}
            "**" => parts.push(Part::Folders),
            name if name.contains(['*', '?', '[']) => parts.push(Part::Fits(Pattern::new(name)?)),
            name => parts.push(Part::Name(name.into())),
        }
    }
    let mut search = Search {
        options,
        left: MOST_ENTRIES,
        found: BTreeSet::new(),
    };
    search.below(&start, &parts)?;
    Ok(search.found.into_iter().collect())
}

struct Search {
    options: MatchOptions,
    left: usize,
    found: BTreeSet<PathBuf>,
}

impl Search {
    fn below(&mut self, folder: &Path, parts: &[Part]) -> Result<(), FindError> {
        let Some((part, rest)) = parts.split_first() else {
            if fs::symlink_metadata(folder).is_ok() {
                self.found.insert(folder.to_owned());
            }
            return Ok(());
        };
        match part {
            Part::Name(name) => self.below(&folder.join(name), rest),
            Part::Fits(pattern) => {
                for path in self.entries(folder)? {
                    let name = Path::new(path.file_name().unwrap_or_default());
                    if pattern.matches_path_with(name, self.options) {
                        self.below(&path, rest)?;
                    }
                }
                Ok(())
            }
            Part::Folders => {
                self.below(folder, rest)?;
                for path in self.entries(folder)? {
                    // Links are followed; a loop of links ends at the limit of entries.
                    let is_folder = path.is_dir();
                    let name = path.file_name().unwrap_or_default();
                    let is_hidden = name.as_encoded_bytes().starts_with(b".");
                    if is_folder && !(is_hidden && self.options.require_literal_leading_dot) {
                        self.below(&path, parts)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn entries(&mut self, folder: &Path) -> Result<Vec<PathBuf>, FindError> {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            self.left = self.left.checked_sub(1).ok_or(FindError::TooLarge)?;
            paths.push(match folder == Path::new(".") {
                true => PathBuf::from(entry.file_name()),
                false => entry.path(),
            });
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use glob::MatchOptions;

    use super::{FindError, find};

    const OPTIONS: MatchOptions = MatchOptions {
        case_sensitive: true,
        require_literal_separator: false,
        require_literal_leading_dot: true,
    };

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    #[test]
    fn finds_what_the_glob_crate_finds() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "a.toml",
            "b.toml",
            ".hidden.toml",
            "x/a.toml",
            "x/y/b.toml",
            "x-1/c.toml",
            ".git/d.toml",
            "x/y/z/a.toml",
            "[q]/e.toml",
        ] {
            touch(&root.path().join(name));
        }
        std::os::unix::fs::symlink("x", root.path().join("link")).unwrap();
        for pattern in [
            "*.toml",
            "?.toml",
            "*/a.toml",
            "x*/*.toml",
            "**/*.toml",
            "x/**/a.toml",
            "**/y/*.toml",
            "[[]q]/*.toml",
            "link/*.toml",
            "nothing/*.toml",
            "x/../*.toml",
            "**/**/b.toml",
        ] {
            let pattern = format!("{}/{pattern}", root.path().display());
            let theirs: Vec<_> = glob::glob_with(&pattern, OPTIONS)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let mut sorted = theirs.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(find(&pattern, OPTIONS).unwrap(), sorted, "{pattern}");
        }
        // The glob crate finds nothing here, although the pattern begins with the dot.
        let hidden = format!("{}/.*.toml", root.path().display());
        let found = find(&hidden, OPTIONS).unwrap();
        assert_eq!(found, [root.path().join(".hidden.toml")]);
        assert!(matches!(find("a**", OPTIONS), Err(FindError::Pattern(_))));
    }

    #[test]
    fn it_ends() {
        let root = tempfile::tempdir().unwrap();
        for outer in 0..101 {
            let folder = root.path().join(format!("f{outer}"));
            fs::create_dir(&folder).unwrap();
            for inner in 0..100 {
                fs::create_dir(folder.join(format!("g{inner}"))).unwrap();
            }
        }
        let all = format!("{}/**/*.toml", root.path().display());
        assert!(matches!(find(&all, OPTIONS), Err(FindError::TooLarge)));
        let one = format!("{}/f1/**/*.toml", root.path().display());
        assert!(find(&one, OPTIONS).unwrap().is_empty());
    }
}

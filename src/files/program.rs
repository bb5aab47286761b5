//! Finds programs: the hooks that a policy names, which are checked before root runs them, and the tools that fwc runs.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{belongs_to, is_trusted, writable_by_others};

/// The folders in which a program without a path is looked for. `PATH` is not used: it may lead to another user's program.
pub const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// None of the folders has a program of this name.
    #[error("it is in none of {}", PROGRAM_FOLDERS.join(", "))]
    Nowhere,
    /// The file, or a folder above it, cannot be read.
    #[error("{0}")]
    Unseen(#[from] io::Error),
    /// The path leads to a folder or a device.
    #[error("it is not a regular file")]
    NoFile,
    /// The file is not executable for anybody.
    #[error("it is not executable")]
    NotExecutable,
    /// Another user could put another program in its place.
    #[error("not safe to run as root: {0}")]
    Unsafe(String),
}

/// The place of a program: an absolute path, or a name that is looked up in [`PROGRAM_FOLDERS`]. As root it is refused where
/// somebody else can write the file or a folder on the way to it.
///
/// ```
/// use fwc::files::{Unfit, find_program};
///
/// assert!(find_program("sh")?.is_absolute());
/// assert!(matches!(find_program("no-such-program"), Err(Unfit::Nowhere)));
/// assert!(matches!(find_program("/usr"), Err(Unfit::NoFile)));
/// # Ok::<(), Unfit>(())
/// ```
pub fn find_program(program: &str) -> Result<PathBuf, Unfit> {
    let path = match program.starts_with('/') {
        true => PathBuf::from(program),
        false => in_folders(program).ok_or(Unfit::Nowhere)?,
    };
    let metadata = fs::metadata(&path)?;
    if !metadata.is_file() {
        return Err(Unfit::NoFile);
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(Unfit::NotExecutable);
    }
    if rustix::process::geteuid().is_root() {
        // Check the path as written and the path without links: whoever can change either can choose the program.
        for way in [path.clone(), fs::canonicalize(&path)?] {
            check_way(&way)?;
        }
    }
    Ok(path)
}

/// Returns the first file of this name in [`PROGRAM_FOLDERS`].
pub fn in_folders(name: &str) -> Option<PathBuf> {
    let mut places = PROGRAM_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name));
    places.find(|path| path.exists())
}

/// Checks the file and every folder above it: whoever can write one of them can exchange the program.
fn check_way(path: &Path) -> Result<(), Unfit> {
    for (depth, part) in path.ancestors().enumerate() {
        let metadata = fs::metadata(part)?;
        if let Some(reason) = unsafe_because(&metadata, depth == 0) {
            let what = match depth {
                0 => String::new(),
                _ => format!("the folder `{}`: ", part.display()),
            };
            return Err(Unfit::Unsafe(what + &reason));
        }
    }
    Ok(())
}

fn unsafe_because(metadata: &Metadata, is_program: bool) -> Option<String> {
    // In a sticky folder such as /tmp others cannot move what root owns.
    let is_sticky = !is_program && metadata.mode() & 0o1000 != 0;
    if writable_by_others(metadata.mode(), metadata.gid()) && !is_sticky {
        return Some("others can write it".to_owned());
    }
    let owner = metadata.uid();
    (!is_trusted(owner)).then(|| belongs_to(owner))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;

    use super::{Unfit, find_program};

    fn executable(path: &Path) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        mode(path, 0o755);
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn why(path: &Path) -> String {
        find_program(path.to_str().unwrap())
            .map_or_else(|unfit| unfit.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn program_is_a_file_that_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook");
        assert!(matches!(
            find_program(path.to_str().unwrap()),
            Err(Unfit::Unseen(_))
        ));
        executable(&path);
        assert_eq!(why(&path), "fine");
        mode(&path, 0o644);
        assert_eq!(why(&path), "it is not executable");
        assert_eq!(why(folder.path()), "it is not a regular file");
    }

    #[test]
    fn as_root_nobody_else_can_change_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("bin");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("hook");
        executable(&path);
        assert_eq!(why(&path), "fine");
        let link = outer.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(why(&link), "fine");

        mode(&path, 0o757);
        assert!(why(&path).ends_with("as root: others can write it"));
        mode(&path, 0o755);
        chown(&path, Some(1), None).unwrap();
        assert!(why(&path).ends_with("as root: it belongs to the user 1"));
        chown(&path, Some(0), None).unwrap();
        // Far above, and behind a link.
        mode(outer.path(), 0o777);
        let told = format!(
            "the folder `{}`: others can write it",
            outer.path().display()
        );
        assert!(why(&path).ends_with(&told), "{}", why(&path));
        mode(outer.path(), 0o755);
        chown(&folder, Some(1), None).unwrap();
        let told = format!(
            "the folder `{}`: it belongs to the user 1",
            folder.display()
        );
        assert!(why(&link).ends_with(&told), "{}", why(&link));
        chown(&folder, Some(0), None).unwrap();
        mode(outer.path(), 0o1777);
        assert_eq!(why(&link), "fine");
    }
}

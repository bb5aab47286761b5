//! Finds the processes that hold a lock (`flock`), even if they inherited it.
//!
//! A lock belongs to the open file and not to a process: it is held until the last process that inherited the file is
//! gone. So `/proc/locks` may name a process that died long ago, and the file descriptors of all processes have to be
//! examined.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// An open lock file of another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The process.
    pub pid: Pid,
    /// Its descriptor in /proc, through which the file can be opened.
    pub descriptor: PathBuf,
    /// `true` if the process holds the lock, `false` if it only waits for it.
    pub holds: bool,
}

/// Returns the other processes that hold the lock on this file, as far as this process can see them.
pub fn of(file: &File) -> Vec<Pid> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let wanted = (metadata.dev(), metadata.ino());
    let mut found = opened(|descriptor, _| {
        let metadata = fs::metadata(descriptor).ok();
        metadata.is_some_and(|it| (it.dev(), it.ino()) == wanted)
    });
    found.retain(|one| one.holds);
    found.into_iter().map(|one| one.pid).collect()
}

/// Returns the other processes that have a file open whose path ends with `end`, whether they hold its lock or wait for
/// it.
pub fn of_path(end: &Path) -> Vec<Opened> {
    opened(|_, path| path.ends_with(end))
}

/// Kills processes.
pub fn end(processes: &[Pid]) {
    for pid in processes {
        // A process that is already gone needs no signal.
        let _ = kill_process(*pid, Signal::KILL);
    }
}

/// Returns `true` if a process runs the same program file as this one.
pub fn is_own_program(pid: Pid) -> bool {
    let file = |pid: &str| {
        let metadata = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let own = file("self");
    own.is_some() && file(&pid.as_raw_nonzero().to_string()) == own
}

/// Returns the descriptors of other processes that `wanted` selects, given the path in /proc and the path of the open
/// file.
fn opened(wanted: impl Fn(&Path, &Path) -> bool) -> Vec<Opened> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.parse().ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|_| name != own) else {
            continue;
        };
        let descriptors = fs::read_dir(entry.path().join("fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let path = descriptor.path();
            let is_wanted = fs::read_link(&path).is_ok_and(|link| wanted(&path, &link));
            if !is_wanted {
                continue;
            }
            let info = entry.path().join("fdinfo").join(descriptor.file_name());
            let info = fs::read_to_string(info).unwrap_or_default();
            // `lock:  1: FLOCK  ADVISORY  WRITE 4711 00:1a:123 0 EOF`
            let mut lines = info.lines().filter(|line| line.starts_with("lock:"));
            found.push(Opened {
                pid,
                descriptor: path,
                // A process that only waits has the file open, but no `lock:` line.
                holds: lines.any(|line| line.contains("FLOCK")),
            });
        }
    }
    found
}

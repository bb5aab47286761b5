//! Finds the processes that hold a lock (`flock`), even if they inherited it.
//!
//! A lock belongs to the open file, not to a process: it is held until the last process that inherited the file is gone. So
//! the number in `/proc/locks` may be that of a process that died, and the descriptors of all processes have to be looked at.
//!
//! The position in the file belongs to the open file, too. fwc leaves it at a place of its own, by which a tool that inherited
//! the file is told from a program that opened it by itself: that one is none of fwc's, and is never ended.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// A process that holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// Whether it has the open file of the fwc that took the lock: that fwc itself, or what it started.
    pub has_it_of_fwc: bool,
}

impl Holder {
    /// The number of the process.
    pub fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }
}

/// A lock that somebody holds or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockUse {
    /// The process.
    pub pid: Pid,
    /// Its descriptor in /proc, through which the file can be opened.
    pub descriptor: PathBuf,
    /// Whether the process holds the lock, and does not only wait for it.
    holds: bool,
    is_marked: bool,
}

/// The position in an open file of fwc's: far behind the end, where nobody else comes to.
const MARK: u64 = 0x0066_7763;

/// Marks the open file, for all processes that inherit it.
///
/// # Errors
///
/// The file has no position.
pub fn mark(file: &mut File) -> io::Result<()> {
    file.seek(SeekFrom::Start(MARK)).map(drop)
}

/// The other processes that hold the lock on this file, as far as this process can see them.
pub fn of(file: &File) -> Vec<Holder> {
    let Ok(metadata) = file.metadata() else {
        return Vec::new();
    };
    let wanted = (metadata.dev(), metadata.ino());
    let mut found = opened(|descriptor, _| {
        let metadata = fs::metadata(descriptor).ok();
        metadata.is_some_and(|it| (it.dev(), it.ino()) == wanted)
    });
    found.retain(|one| one.holds);
    let holders = found.into_iter().map(|one| Holder {
        pid: one.pid,
        has_it_of_fwc: one.is_marked,
    });
    holders.collect()
}

/// Returns the other processes that have a file open whose path ends with `end`, whether they hold its lock or wait for
/// it.
pub fn of_path(end: &Path) -> Vec<LockUse> {
    opened(|_, path| path.ends_with(end))
}

/// Kills those that have the lock of fwc, and nobody else.
pub fn end(holders: &[Holder]) {
    for holder in holders.iter().filter(|holder| holder.has_it_of_fwc) {
        // Who is gone already needs no signal.
        let _ = kill_process(holder.pid, Signal::KILL);
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
fn opened(wanted: impl Fn(&Path, &Path) -> bool) -> Vec<LockUse> {
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
            let has = |word: &str, value: &str| {
                let mut lines = info.lines().filter_map(|line| line.strip_prefix(word));
                lines.any(|rest| rest.trim() == value)
            };
            let is_marked = has("pos:", &MARK.to_string());
            // `lock:  1: FLOCK  ADVISORY  WRITE 4711 00:1a:123 0 EOF`
            let mut lines = info.lines().filter(|line| line.starts_with("lock:"));
            found.push(LockUse {
                pid,
                descriptor: path,
                // A process that only waits has the file open, but no `lock:` line.
                holds: lines.any(|line| line.contains("FLOCK")),
                is_marked,
            });
        }
    }
    found
}

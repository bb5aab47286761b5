//! The lock that the tools of iptables-legacy share, across all network namespaces.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, major, minor, open};

/// The default lock file; `XTABLES_LOCKFILE` names another one.
const FILE: &str = "/run/xtables.lock";

/// A process that holds a lock, that of iptables or that of fwc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process ID.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` (process {})", self.name, self.pid)
    }
}

/// Waits until no process holds the lock, without taking it for longer than the check. The error is the process that
/// still holds it, if known.
pub(super) fn wait(file: Option<&OsStr>, patience: Duration) -> Result<(), Option<LockHolder>> {
    let path = Path::new(file.unwrap_or(OsStr::new(FILE)));
    let deadline = Instant::now() + patience;
    // Without it nobody holds it. A FIFO in its place is not waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(lock) = open(path, flags, Mode::empty()) else {
        return Ok(());
    };
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            return Err(holder(path));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the process that holds the lock now.
pub(super) fn holder_of(file: Option<&OsStr>) -> Option<LockHolder> {
    holder(Path::new(file.unwrap_or(OsStr::new(FILE))))
}

fn holder(path: &Path) -> Option<LockHolder> {
    let metadata = fs::metadata(path).ok()?;
    let device = metadata.dev();
    let (major, minor, inode) = (major(device), minor(device), metadata.ino());
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = held(&locks, &file)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(LockHolder {
        pid,
        name: name.trim().to_owned(),
    })
}

/// Returns the process in a line such as `1: FLOCK  ADVISORY  WRITE 4711 00:1a:123 0 EOF`. In the line of a waiting
/// process `->` comes first.
fn held(locks: &str, file: &str) -> Option<u32> {
    let mut lines = locks.lines().map(str::split_ascii_whitespace);
    lines.find_map(|words| {
        let words: Vec<_> = words.collect();
        let is_it = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file);
        is_it.then(|| words.get(4)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{held, wait};

    #[test]
    fn fifo_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("lock");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        assert!(wait(Some(fifo.as_os_str()), Duration::ZERO).is_ok());
    }

    #[test]
    fn holder_is_who_does_not_wait() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 00:1a:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 00:1a:7 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 4712 00:1a:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 9 00:1b:7 0 EOF\n";
        assert_eq!(held(locks, "00:1a:7"), Some(4711));
        assert_eq!(held(locks, "00:1b:7"), Some(9));
        assert_eq!(held(locks, "00:1a:8"), None);
    }
}

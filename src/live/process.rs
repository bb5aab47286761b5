//! The processes above this one: who started it, and as whom.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{major, minor};

/// The parent of this process, its parent, and so on.
pub fn parents() -> Vec<String> {
    above("self")
}

/// The parent of a process, its parent, and so on.
pub fn above(pid: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut pid = pid.to_owned();
    while let Some(parent) = status(&pid, "PPid:") {
        if parent == "0" || found.contains(&parent) {
            break;
        }
        found.push(parent.clone());
        pid = parent;
    }
    found
}

/// Whether a process is one of those that this one was started by.
pub fn is_above(pid: u32) -> bool {
    parents().contains(&pid.to_string())
}

/// A variable of the environment that a process began with.
pub fn variable(pid: &str, name: &str) -> Option<String> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut all = all.split(|byte| *byte == 0);
    all.find_map(|one| {
        let value = std::str::from_utf8(one).ok()?.strip_prefix(name)?;
        value.strip_prefix('=').map(str::to_owned)
    })
}

/// The user that a process runs as.
pub fn user(pid: &str) -> Option<String> {
    status(pid, "Uid:")
}

/// The name of a process's program, as the kernel keeps it: 15 bytes that the program may change.
pub fn name(pid: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The controlling terminal of a process: its device's major and minor number.
pub fn terminal(pid: &str) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let number: u64 = rest.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let device = (major(number), minor(number));
    (device != (0, 0)).then_some(device)
}

/// The network namespace of a process.
pub fn network(pid: &str) -> Option<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// All processes that this one can see.
pub fn all() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

/// The first word behind a name in `/proc/PID/status`.
fn status(pid: &str, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{all, is_above, terminal, variable};

    #[test]
    fn who_started_this_is_above() {
        assert!(is_above(std::os::unix::process::parent_id()));
        assert!(!is_above(std::process::id()));
        // Of processes that there are not nothing is known.
        assert_eq!(variable("0", "PATH"), None);
        assert_eq!(terminal("0"), None);
        assert!(variable("self", "NO_SUCH_VARIABLE").is_none());
        assert!(all().contains(&std::process::id().to_string()));
    }
}

//! Facts about processes from /proc: the ancestors of this process, their users, terminals and namespaces.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{major, minor};

/// Returns the parent of this process, its parent, and so on.
pub fn parents() -> Vec<String> {
    above("self")
}

/// Returns the parent of a process, its parent, and so on.
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

/// Returns `true` if a process is an ancestor of this one.
pub fn is_above(pid: u32) -> bool {
    parents().contains(&pid.to_string())
}

/// Returns a variable of the environment that a process was started with.
pub fn variable(pid: &str, name: &str) -> Option<String> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut all = all.split(|byte| *byte == 0);
    all.find_map(|one| {
        let value = std::str::from_utf8(one).ok()?.strip_prefix(name)?;
        value.strip_prefix('=').map(str::to_owned)
    })
}

/// Returns the real user ID of a process.
pub fn user(pid: &str) -> Option<String> {
    status(pid, "Uid:")
}

/// Returns the name of a process's program as the kernel keeps it: at most 15 bytes, which the program may change.
pub fn name(pid: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Returns the major and minor device number of a process's controlling terminal.
pub fn terminal(pid: &str) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let number: u64 = rest.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let device = (major(number), minor(number));
    (device != (0, 0)).then_some(device)
}

/// Returns the device and inode of a process's network namespace.
pub fn network(pid: &str) -> Option<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Returns all processes that this one can see.
pub fn all() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

/// Returns the first word of a field in `/proc/PID/status`.
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
        // A process that does not exist has no facts.
        assert_eq!(variable("0", "PATH"), None);
        assert_eq!(terminal("0"), None);
        assert!(variable("self", "NO_SUCH_VARIABLE").is_none());
        assert!(all().contains(&std::process::id().to_string()));
    }
}

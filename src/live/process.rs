//! The processes above this one: who started it, and as whom.

use std::fs;

/// The parent of this process, its parent, and so on.
pub fn parents() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut pid = "self".to_owned();
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

/// A variable of the environment that the nearest of these processes began with which is not root's: sudo and su hand on little.
pub fn variable_of_user(parents: &[String], name: &str) -> Option<String> {
    let is_root = |pid: &str| status(pid, "Uid:").is_none_or(|uid| uid == "0");
    let mut users = parents.iter().filter(|pid| !is_root(pid));
    users.find_map(|pid| {
        let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut all = all.split(|byte| *byte == 0);
        all.find_map(|one| {
            let value = std::str::from_utf8(one).ok()?.strip_prefix(name)?;
            value.strip_prefix('=').map(str::to_owned)
        })
    })
}

/// The first word behind a name in `/proc/PID/status`.
fn status(pid: &str, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{is_above, parents, variable_of_user};

    #[test]
    fn who_started_this_is_above() {
        assert!(is_above(std::os::unix::process::parent_id()));
        assert!(!is_above(std::process::id()));
        // Of processes that there are not nothing is known.
        assert_eq!(variable_of_user(&["0".to_owned()], "PATH"), None);
        assert!(variable_of_user(&parents(), "NO_SUCH_VARIABLE").is_none());
    }
}

//! How long processes live that fwc starts and leaves running, such as the watchdog of an apply.
//!
//! A process in a session of its own outlives its parent, with two exceptions: when the first process of a PID
//! namespace ends, the kernel kills all others in it, and when a systemd unit ends, systemd kills the rest of its
//! control group. A watchdog that dies with fwc could not revert a change, so this is checked before the change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::{process, tools};

/// The lifetime of this process's children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// They may live as long as they want.
    TheirOwn,
    /// They end with this systemd unit.
    OfUnit(String),
    /// They end with the first process of this PID namespace, which ends with fwc; the text explains it to the user.
    OfInit(String),
}

/// The inode of the machine's first PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Finds out what ends the children of this process.
pub fn of_children() -> Lifetime {
    if let Some(why) = ends_with_init() {
        return Lifetime::OfInit(why);
    }
    match unit_that_kills() {
        Some(unit) => Lifetime::OfUnit(unit),
        None => Lifetime::TheirOwn,
    }
}

fn ends_with_init() -> Option<String> {
    const ADVICE: &str = "when that ends, the kernel kills all others in it. Run it beside a process that stays (`docker exec`), in the host's PID namespace (`docker run --pid=host`), or on the host itself (`nsenter --net=...`)";
    if std::process::id() == 1 {
        return Some(format!(
            "fwc is the first process of its PID namespace, and {ADVICE}"
        ));
    }
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?;
    if namespace.ino() == FIRST_PID_NAMESPACE {
        return None;
    }
    // A shell, tini or another wrapper that was started only to run fwc, and ends with it.
    let words = fs::read("/proc/1/cmdline").ok()?;
    let own = std::env::current_exe().ok()?;
    let own = own.file_name()?.to_string_lossy().into_owned();
    let runs_fwc = process::parents().contains(&"1".to_owned()) && names(&words, &own);
    runs_fwc.then(|| {
        let name = process::name("1").unwrap_or_default();
        format!("the first process of its PID namespace is `{name}`, which was started to run fwc, and {ADVICE}")
    })
}

/// Returns `true` if a command line names a program, also inside the script of a shell's `-c`.
fn names(command_line: &[u8], program: &str) -> bool {
    let text = String::from_utf8_lossy(command_line);
    let mut words =
        text.split(|c: char| c == '\0' || c.is_ascii_whitespace() || ";&|()'\"".contains(c));
    words.any(|word| word.rsplit('/').next() == Some(program))
}

/// Returns the systemd unit of this process, if its end kills everything that runs in it.
fn unit_that_kills() -> Option<String> {
    // The test of sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let unit = unit_in(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    let kills = if unit.ends_with(".scope") {
        // A scope of a login session: logind kills the rest when the session ends, if KillUserProcesses is on. It
        // counts as on if logind does not answer.
        let arguments = [
            "get-property",
            "org.freedesktop.login1",
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
            "KillUserProcesses",
        ];
        let answer = tools::output("busctl", &arguments);
        answer.is_none_or(|answer| answer.trim() != "b false")
    } else {
        let answer = tools::output(
            "systemctl",
            &["show", "--property=KillMode", "--value", &unit],
        );
        answer.is_none_or(|answer| !matches!(answer.trim(), "process" | "none"))
    };
    kills.then_some(unit)
}

/// Returns the outermost service or scope in the text of `/proc/PID/cgroup`.
fn unit_in(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let path = lines.find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let path = rest
            .strip_prefix("name=systemd:")
            .or_else(|| rest.strip_prefix(':'))?;
        // With both cgroup hierarchies mounted, one of them may be empty.
        (path != "/").then_some(path)
    })?;
    let mut parts = path.split('/');
    let unit = parts.find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
    Some(unit.to_owned())
}

/// Returns a command that starts this program again in a systemd scope of this name, outside the control group of the
/// current unit.
pub fn in_scope(program: &Path, name: &str) -> io::Result<Command> {
    let starter =
        tools::find("systemd-run").map_err(|error| io::Error::other(error.to_string()))?;
    let mut command = tools::clean(&starter);
    tools::keep_settings(&mut command);
    command.args(["--scope", "--quiet", "--collect"]);
    command.arg(format!("--unit={name}")).arg("--").arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::{names, unit_in};

    #[test]
    fn units_are_found_in_both_kinds_of_hierarchy() {
        let cases = [
            ("0::/system.slice/policy.service\n", Some("policy.service")),
            (
                "9:name=systemd:/system.slice/cron.service\n0::/\n",
                Some("cron.service"),
            ),
            (
                "0::/\n9:name=systemd:/system.slice/cron.service\n",
                Some("cron.service"),
            ),
            (
                "0::/user.slice/user-0.slice/session-3.scope\n",
                Some("session-3.scope"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n",
                Some("user@1000.service"),
            ),
            ("0::/init.scope\n", Some("init.scope")),
            ("0::/\n", None),
            ("4:memory:/docker/x.service\n0::/\n", None),
        ];
        for (text, unit) in cases {
            assert_eq!(unit_in(text).as_deref(), unit, "{text}");
        }
    }

    #[test]
    fn wrappers_name_what_they_run() {
        assert!(names(
            b"/bin/sh\0-c\0cd /; /usr/bin/fwc apply x.toml\0",
            "fwc"
        ));
        assert!(names(b"tini\0--\0fwc\0apply\0", "fwc"));
        assert!(!names(b"/sbin/init\0", "fwc"));
        assert!(!names(b"sh\0-c\0/usr/bin/fwc-watch\0", "fwc"));
    }
}

//! Runs the tools that fwc uses: within a time limit, and never longer than fwc's decision about them.
//!
//! A tool that changes the kernel inherits fwc's open lock file and so holds the lock as long as it lives. If fwc dies,
//! the process that finishes or reverts the change needs this lock and gets it only when the tool is gone
//! ([`holders`](super::holders) finds and kills it). Otherwise an `iptables-restore` that waits for a lock of its own
//! could commit after its change was reverted.
//!
//! A parent-death signal (`PR_SET_PDEATHSIG`) is no substitute: it needs unsafe code or a second program for each tool,
//! and it does not wait until the tool is gone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Weak;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Error;

/// The time limit of a tool with little to do.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// The most bytes of a tool's output that are read. A million rules take a quarter of it.
const MOST: u64 = 512 << 20;

/// The least time to wait for the rest of a tool's output: a process that it started may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The limits of a tool.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// The time after which it is killed.
    pub limit: Duration,
    /// The lock that it inherits, as long as this process holds it.
    pub lock: Weak<File>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            limit: LIMIT,
            lock: Weak::new(),
        }
    }
}

/// Runs a command with `input`, in a process group of its own, and waits for it.
///
/// # Errors
///
/// The command cannot be started, prints too much, or exceeds its time limit. In the last case it was killed and is
/// gone when this returns.
pub(super) fn run(mut command: Command, input: &str, bounds: &Bounds) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source: io::Error| Error::Io {
        what: format!("cannot run `{program}`"),
        source,
    };
    let lock = bounds.lock.upgrade();
    // Unlike the original, this copy is not closed on exec, so that the tool inherits it.
    let inherited = lock.as_deref().map(rustix::io::dup).transpose();
    let inherited = inherited.map_err(|error| failed(error.into()))?;
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    drop(inherited);
    let group = Pid::from_child(&child);
    let deadline = Instant::now() + bounds.limit;
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_owned();
        // If the tool stops reading, its own output says why.
        thread::spawn(move || pipe.write_all(input.as_bytes()));
    }
    let stdout = child.stdout.take().map(listen);
    let stderr = child.stderr.take().map(listen);
    let status = in_thread(move || child.wait());
    let ended = end(&status, [&stdout, &stderr], deadline);
    let Some(result) = ended else {
        // A process that is already gone needs no signal.
        let _ = kill_process_group(group, Signal::KILL);
        // The kernel may still finish the tool's last step: nothing may be decided before the process is gone.
        let _ = status.recv();
        return Err(Error::TimedOut {
            tool: program,
            limit: bounds.limit,
        });
    };
    let (status, [stdout, stderr]) = result.map_err(failed)?;
    if stdout.len() as u64 > MOST || stderr.len() as u64 > MOST {
        return Err(failed(io::Error::other("it prints without end")));
    }
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

type Printed = Receiver<io::Result<Vec<u8>>>;

/// Returns the exit status and the outputs; `None` if the deadline comes first.
fn end(
    status: &Receiver<io::Result<ExitStatus>>,
    pipes: [&Option<Printed>; 2],
    deadline: Instant,
) -> Option<io::Result<(ExitStatus, [Vec<u8>; 2])>> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let status = status.recv_timeout(left()).ok()?;
    let [stdout, stderr] = pipes.map(|pipe| match pipe {
        Some(pipe) => pipe.recv_timeout(left().max(LAST_WORDS)).ok(),
        None => Some(Ok(Vec::new())),
    });
    let (stdout, stderr) = (stdout?, stderr?);
    Some(status.and_then(|status| Ok((status, [stdout?, stderr?]))))
}

/// Reads a pipe to its end, or up to the limit.
fn listen(pipe: impl Read + Send + 'static) -> Printed {
    in_thread(move || {
        let mut printed = Vec::new();
        pipe.take(MOST + 1).read_to_end(&mut printed)?;
        Ok(printed)
    })
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    // After a time-out no receiver is left.
    thread::spawn(move || sender.send(work()));
    receiver
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use rustix::fs::{FlockOperation, flock};

    use super::{Bounds, run};
    use crate::live::Error;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn it_reads_all_and_tells_what_was_printed() {
        let input = "x".repeat(1 << 20);
        let output = run(sh("cat; echo err >&2; exit 3"), &input, &Bounds::default()).unwrap();
        assert_eq!(output.stdout.len(), input.len());
        assert_eq!(output.stderr, b"err\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn it_is_dead_when_its_time_is_over() {
        let bounds = Bounds {
            limit: Duration::from_millis(200),
            ..Bounds::default()
        };
        let begun = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late");
        let script = format!("sleep 60 & sleep 1; touch {}; wait", file.display());
        let error = run(sh(&script), "", &bounds).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(50));
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!file.exists());
    }

    /// After fwc is killed, its lock is held until its tools are gone.
    #[test]
    fn a_tool_holds_the_lock_as_long_as_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut file = File::create(&path).unwrap();
        crate::live::holders::mark(&mut file).unwrap();
        let file = Arc::new(file);
        let take = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(take(&file));
        let bounds = Bounds {
            lock: Arc::downgrade(&file),
            ..Bounds::default()
        };
        // A process that outlives the tool, as a tool outlives a killed fwc.
        let script = "sleep 60 >/dev/null 2>&1 & echo $!";
        let output = run(sh(script), "", &bounds).unwrap();
        drop(file);
        let other = File::open(&path).unwrap();
        assert!(!take(&other));
        let holders = crate::live::holders::of(&other);
        let pid: i32 = String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_eq!(holders.len(), 1);
        assert_eq!(holders[0].pid.as_raw_nonzero().get(), pid);
        assert!(holders[0].has_it_of_fwc);
        crate::live::holders::end(&holders);
        let begun = Instant::now();
        while !take(&other) {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        // Tools that change nothing do not inherit the lock.
        let script = "ls -l /proc/self/fd";
        let output = run(sh(script), "", &Bounds::default()).unwrap();
        assert!(!String::from_utf8(output.stdout).unwrap().contains("lock"));
    }
}

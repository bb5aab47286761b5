//! Runs programs of the user (`[hooks]`): with an empty environment, within a time limit, and with their output kept.

use std::fmt;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::tools;

/// The most bytes of a program's output that are kept.
const LONGEST: usize = 16 << 10;

/// The interval at which the program is checked.
const TICK: Duration = Duration::from_millis(10);

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// The time to wait for a program's last output after it ended: one of its children may hold the pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With exit status 0.
    Fine,
    /// With this exit status.
    Failed(i32),
    /// By this signal.
    Signalled(i32),
    /// It exceeded this time limit and was killed.
    TimedOut(Duration),
    /// fwc got a signal to end, and ended it.
    Stopped,
    /// It could not be started, for this reason.
    NotRun(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine => out.write_str("exit status 0"),
            Self::Failed(status) => write!(out, "exit status {status}"),
            Self::Signalled(number) => write!(out, "killed by signal {number}"),
            Self::TimedOut(time) => write!(
                out,
                "not done after {} seconds, and killed",
                time.as_secs_f32()
            ),
            Self::Stopped => out.write_str("ended, since fwc was told to end"),
            Self::NotRun(why) => write!(out, "it was not run: {why}"),
        }
    }
}

/// A guard: while it exists, SIGINT and SIGTERM end the running program instead of fwc, and SIGHUP ends neither.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    registered: Vec<SigId>,
}

impl Signals {
    /// Installs the signal handlers.
    pub fn held() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut registered = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            registered.push(signal_hook::flag::register(signal, Arc::clone(&stop))?);
        }
        // SIGHUP means that the connection was lost, which is not a wish to stop.
        let ignored = Arc::default();
        registered.push(signal_hook::flag::register(SIGHUP, ignored)?);
        Ok(Self { stop, registered })
    }

    /// Returns `true` if fwc got a signal to end.
    pub fn told_to_end(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Runs a program in a process group of its own, and returns how it ended and its output on both streams.
///
/// It reads nothing, and its environment is `PATH` and `LC_ALL=C`. After `time_out` its process group gets SIGTERM, and
/// later SIGKILL. Processes that it left running in the background are not touched.
pub fn run(
    program: &Path,
    arguments: &[String],
    time_out: Duration,
    signals: &Signals,
) -> (Ended, String) {
    let started = io::pipe().and_then(|(reader, writer)| {
        let mut command = tools::clean(program);
        command
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        Ok((command.spawn()?, reader))
    });
    let (mut child, reader) = match started {
        Ok(started) => started,
        Err(error) => return (Ended::NotRun(error.to_string()), String::new()),
    };
    let printed = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&printed);
    let listener = thread::spawn(move || listen(reader, &kept));
    let ended = wait(&mut child, time_out, signals)
        .unwrap_or_else(|error| Ended::NotRun(error.to_string()));
    let patience = Instant::now() + LAST_WORDS;
    // Not `join`: a process that the program left in the background may hold the pipe open.
    while !listener.is_finished() && Instant::now() < patience {
        thread::sleep(TICK);
    }
    let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
    (ended, text(&printed))
}

/// Reads to the end, even after enough is kept: a program would block on a full pipe.
fn listen(mut reader: PipeReader, kept: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 4096];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                // One byte more than is shown tells that the output was longer.
                let room = (LONGEST + 1).saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..count.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn text(printed: &[u8]) -> String {
    let shown = &printed[..printed.len().min(LONGEST)];
    let mut text = String::from_utf8_lossy(shown).into_owned();
    if printed.len() > LONGEST {
        text.push_str("\n[...]");
    }
    text
}

fn wait(child: &mut Child, time_out: Duration, signals: &Signals) -> io::Result<Ended> {
    let deadline = Instant::now() + time_out;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(of_status(status));
        }
        let ended = match (signals.told_to_end(), Instant::now() > deadline) {
            (true, _) => Ended::Stopped,
            (_, true) => Ended::TimedOut(time_out),
            _ => {
                thread::sleep(TICK);
                continue;
            }
        };
        end(child)?;
        return Ok(ended);
    }
}

/// Ends a program and its process group.
fn end(child: &mut Child) -> io::Result<()> {
    let group = Pid::from_child(child);
    // A process that is already gone needs no signal.
    let _ = kill_process_group(group, Signal::TERM);
    let patience = Instant::now() + GRACE;
    while child.try_wait()?.is_none() && Instant::now() < patience {
        thread::sleep(TICK);
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait().map(drop)
}

fn of_status(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ended::Fine,
        (Some(code), _) => Ended::Failed(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{Ended, LONGEST, Signals, run};

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str, time_out: Duration) -> (Ended, String) {
        let signals = Signals::held().unwrap();
        let arguments = ["-c".to_owned(), script.to_owned()];
        run(Path::new("/bin/sh"), &arguments, time_out, &signals)
    }

    #[test]
    fn tells_how_it_ended_and_what_it_printed() {
        let printed = "out\nerr\n".to_owned();
        assert_eq!(sh("echo out; echo err >&2", LONG), (Ended::Fine, printed));
        assert_eq!(sh("exit 7", LONG).0, Ended::Failed(7));
        assert_eq!(sh("kill -9 $$", LONG).0, Ended::Signalled(9));
        let signals = Signals::held().unwrap();
        let missing = run(Path::new("/no/such"), &[], LONG, &signals);
        assert!(matches!(missing.0, Ended::NotRun(_)), "{missing:?}");
    }

    #[test]
    fn arguments_reach_it_as_they_are() {
        let signals = Signals::held().unwrap();
        let words = ["%s|", "a b", "", "$HOME", "`id`", "*"].map(str::to_owned);
        let (ended, printed) = run(Path::new("/usr/bin/printf"), &words, LONG, &signals);
        assert_eq!(
            (ended, printed.as_str()),
            (Ended::Fine, "a b||$HOME|`id`|*|")
        );
    }

    #[test]
    fn it_inherits_no_environment_and_reads_nothing() {
        let (ended, printed) = sh("/usr/bin/env; pwd; /usr/bin/wc -c", LONG);
        assert_eq!(ended, Ended::Fine);
        let mut lines: Vec<_> = printed.lines().map(str::trim).collect();
        // Variables that the shell itself adds.
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_="));
        lines.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD="));
        lines.sort_unstable();
        let path = "PATH=/usr/sbin:/sbin:/usr/bin:/bin";
        assert_eq!(lines, ["/", "0", "LC_ALL=C", path]);
    }

    #[test]
    fn it_is_killed_with_what_it_started_when_its_time_is_over() {
        let begun = Instant::now();
        let time = Duration::from_millis(300);
        let (ended, printed) = sh("sleep 300 & echo $!; wait", time);
        assert_eq!(ended, Ended::TimedOut(time));
        assert!(begun.elapsed() < LONG);
        let pid = printed.trim();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        while !gone() {
            assert!(begun.elapsed() < LONG, "{pid} lives on");
            std::thread::sleep(super::TICK);
        }
    }

    #[test]
    fn what_it_leaves_in_the_background_is_not_waited_for() {
        let begun = Instant::now();
        let (ended, printed) = sh("sleep 20 & echo begun", LONG);
        assert_eq!((ended, printed.as_str()), (Ended::Fine, "begun\n"));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn much_output_is_cut() {
        let (ended, printed) = sh("head -c 1000000 /dev/zero | tr '\\0' x", LONG);
        assert_eq!(ended, Ended::Fine);
        assert_eq!(printed.len(), LONGEST + "\n[...]".len());
    }
}

//! Changes that wait for a confirmation: kept, taken back, and by whom.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use serde_json::Value;

use super::Test;
use super::namespace::{Backend, Named, Namespace, run};

pub const TESTS: &[(&str, Test)] = &[
    ("confirmed_change_stays", confirmed_change_stays),
    ("unconfirmed_change_goes_back", unconfirmed_change_goes_back),
    ("waiting_apply_tells_the_end", waiting_apply_tells_the_end),
    (
        "waiting_change_stops_the_next_apply",
        waiting_change_stops_the_next_apply,
    ),
    ("rollback_takes_back_at_once", rollback_takes_back_at_once),
    (
        "what_was_before_fwc_is_kept_whatever_was_taken_back",
        what_was_before_fwc_is_kept_whatever_was_taken_back,
    ),
    (
        "rollback_goes_through_the_history",
        rollback_goes_through_the_history,
    ),
    (
        "change_is_found_in_its_persist_folder",
        change_is_found_in_its_persist_folder,
    ),
    (
        "rollback_to_a_number_of_the_history",
        rollback_to_a_number_of_the_history,
    ),
    (
        "answer_that_comes_too_late_reports_the_revert",
        answer_that_comes_too_late_reports_the_revert,
    ),
    ("undo_leaves_what_others_did", undo_leaves_what_others_did),
    (
        "watchdog_outlives_all_signals",
        watchdog_outlives_all_signals,
    ),
    (
        "killed_fwc_is_taken_back_at_once",
        killed_fwc_is_taken_back_at_once,
    ),
    ("second_apply_keeps_counters", second_apply_keeps_counters),
    ("killed_watchdog_is_replaced", killed_watchdog_is_replaced),
];

type Result = std::result::Result<(), String>;

/// Long enough for whatever should happen.
/// Nothing takes so long but on a machine that stands still.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `done`.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The state of the last change.
pub fn is_open(ns: &Namespace) -> bool {
    let history = ns.kept(&["history", "--format", "json"]).expect(0);
    let history: Value = serde_json::from_str(&history.out).unwrap();
    !history["open"].is_null()
}

/// The process that watches the last change.
pub fn watchdog(ns: &Namespace) -> Pid {
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let intent = folder.unwrap().unwrap().path().join("transaction.json");
    let intent: Value = serde_json::from_str(&fs::read_to_string(intent).unwrap()).unwrap();
    let pid = i32::try_from(intent["watchdog"].as_i64().unwrap()).unwrap();
    Pid::from_raw(pid).unwrap()
}

/// `fwc apply ... --persist-dir ...` in the background, in a process group of its own.
fn start(ns: &Namespace, arguments: &[&str], fault: Option<&str>) -> Child {
    use std::os::unix::process::CommandExt;
    let persist = ns.path("iptables");
    let persist = ["--persist-dir", persist.to_str().unwrap()];
    // Under `nohup` the tests ignore SIGHUP, and fwc would inherit that.
    let program = ["--default-signal=HUP", env!("CARGO_BIN_EXE_fwc")];
    let all = [&program[..], arguments, &persist].concat();
    let mut command = ns.command("env", &all);
    if let Some(fault) = fault {
        command.env("FWC_FAULT", fault);
    }
    let pipes = [Stdio::null(), Stdio::piped(), Stdio::piped()];
    let [stdin, stdout, stderr] = pipes;
    command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    ns.net().enter(|| command.spawn().unwrap())
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn confirmed_change_stays(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let pending = ["--confirm", "--timeout", "60s", "--format", "json"];
    let report = ns.apply("web.toml", &pending).expect(0);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["state"], "pending");
    assert_eq!(report["changed"], true);
    assert!(
        report["deadline"].as_str().unwrap().ends_with('Z'),
        "{report}"
    );
    let live = ns.saved();
    assert!(live.contains("--dport 80 "));
    // A restart would bring the old rules.
    assert!(ns.rules_files().is_empty());
    let dog = watchdog(&ns);
    let kept = ns.kept(&["confirm"]).expect(0);
    assert!(kept.out.contains("kept change 1\n"), "{}", kept.out);
    assert_eq!(ns.rules_files().len(), 2);
    assert_eq!(ns.saved(), live);
    until("the watchdog ends", || test_kill_process(dog).is_err());
    let late = ns.kept(&["confirm"]).expect(1);
    assert!(late.err.contains("no change waits"), "{}", late.err);
    ns.fwc(&["diff", "web.toml"]).expect(0);
    Ok(())
}

fn unconfirmed_change_goes_back(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let (before, files) = (ns.saved(), ns.rules_files());
    // On a slow machine it is back before anything can be looked at: that it was in force the history says.
    ns.apply("web.toml", &["--confirm", "--timeout", "1s"])
        .expect(0);
    until("the change goes back", || !is_open(&ns));
    assert_eq!(ns.saved(), before);
    assert_eq!(ns.rules_files(), files);
    let history = ns.kept(&["history"]).expect(0);
    let words = "web.toml; reverted: nobody confirmed it in time\n";
    assert!(history.out.contains(words), "{}", history.out);
    let late = ns.kept(&["confirm"]).expect(1);
    assert!(late.err.contains("no change waits"), "{}", late.err);
    Ok(())
}

fn waiting_apply_tells_the_end(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let wait = ["--confirm", "--wait", "--timeout", "1s"];
    let ended = ns.apply("web.toml", &wait).expect(1);
    assert!(ended.err.contains("was not confirmed"), "{}", ended.err);
    assert!(!ns.saved().contains("--dport"));

    let child = start(&ns, &["apply", "web.toml", "--confirm", "--wait"], None);
    until("it is in force", || {
        ns.saved().matches("--dport 80 ").count() == 2 && is_open(&ns)
    });
    until("it can be confirmed", || {
        ns.kept(&["confirm"]).code == Some(0)
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(ns.saved().contains("--dport 80 "));
    Ok(())
}

fn waiting_change_stops_the_next_apply(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &["--confirm"]).expect(0);
    let live = ns.saved();
    let refused = ns.apply("ssh.toml", &[]).expect(1);
    assert!(
        refused.err.contains("waits for `fwc confirm`"),
        "{}",
        refused.err
    );
    let refused = ns.kept(&["rollback", "1", "--yes"]).expect(1);
    let words = "a change is pending: revert it with `fwc rollback`";
    assert!(refused.err.contains(words), "{}", refused.err);
    let told = ns.kept(&["recover"]).expect(0);
    assert!(told.out.contains("waits for `fwc confirm`"), "{}", told.out);
    assert_eq!(ns.saved(), live);
    ns.kept(&["confirm"]).expect(0);
    ns.apply("ssh.toml", &[]).expect(0);
    Ok(())
}

fn rollback_takes_back_at_once(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    ns.apply("web.toml", &["--confirm"]).expect(0);
    let dog = watchdog(&ns);
    let told = ns.kept(&["rollback"]).expect(0);
    assert!(told.out.contains("reverted change 2"), "{}", told.out);
    assert_eq!(ns.saved(), before);
    until("the watchdog ends", || test_kill_process(dog).is_err());
    Ok(())
}

fn what_was_before_fwc_is_kept_whatever_was_taken_back(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.iptables("iptables", &["-P", "FORWARD", "DROP"]);
    // The first change does not stay.
    ns.apply("ssh.toml", &["--confirm"]).expect(0);
    ns.kept(&["rollback"]).expect(0);
    let before = ns.saved_family("iptables");
    assert!(before.contains(":FORWARD DROP "), "{before}");
    ns.apply("web.toml", &[]).expect(0);
    let told = ns.kept(&["rollback", "--yes"]).expect(0);
    assert!(
        told.err.contains("what was there before fwc"),
        "{}",
        told.err
    );
    assert_eq!(ns.saved_family("iptables"), before);
    Ok(())
}

fn rollback_goes_through_the_history(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let refused = ns.kept(&["rollback", "--yes"]).expect(1);
    assert!(refused.err.contains("fwc history"), "{}", refused.err);
    ns.apply("ssh.toml", &[]).expect(0);
    let ssh = ns.saved();
    ns.apply("web.toml", &[]).expect(0);
    let web = ns.saved();
    ns.kept(&["rollback", "--dry-run"]).expect(2);
    assert_eq!(ns.saved(), web);
    ns.kept(&["rollback", "--yes"]).expect(0);
    assert_eq!(ns.saved(), ssh);
    ns.fwc(&["diff", ns.path("iptables").to_str().unwrap()])
        .expect(0);
    // The rollback is a change as any other.
    ns.kept(&["rollback", "--yes"]).expect(0);
    assert_eq!(ns.saved(), web);
    let history = ns.kept(&["history"]).expect(0);
    assert_eq!(history.out.lines().count(), 5, "{}", history.out);
    // What was before fwc: nothing.
    ns.kept(&["rollback", "4", "--yes"]).expect(0);
    assert!(!ns.saved().contains("-A "), "{}", ns.saved());
    Ok(())
}

/// What was applied with `--persist-dir` needs no second `--persist-dir`.
fn change_is_found_in_its_persist_folder(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.kept(&["apply", "ssh.toml", "--confirm"]).expect(0);
    let kept = ns.fwc(&["confirm"]).expect(0);
    assert!(kept.out.contains("iptables/rules.v4"), "{}", kept.out);
    assert_eq!(ns.rules_files().len(), 2);
    ns.fwc(&["status"]).expect(0);
    let history = ns.fwc(&["history"]).expect(0);
    assert!(history.out.contains("ssh.toml"), "{}", history.out);
    ns.kept(&["status"]).expect(0);
    let files = ns.rules_files();
    ns.kept(&["apply", "web.toml", "--confirm"]).expect(0);
    // A folder that is named wrongly does not split the change in two.
    let other = ns.path("other");
    ns.fwc(&["confirm", "--persist-dir", other.to_str().unwrap()])
        .expect(0);
    assert!(!other.exists());
    assert_ne!(ns.rules_files(), files);
    ns.fwc(&["rollback", "--yes"]).expect(0);
    assert_eq!(ns.rules_files(), files);
    let history = ns.fwc(&["history"]).expect(0);
    assert_eq!(history.out.lines().count(), 4, "{}", history.out);

    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &["apply", "web.toml", "--yes"]);
    command.env("FWC_PERSIST_DIR", &other);
    ns.net().enter(|| run(&mut command, "")).expect(0);
    assert!(other.join("rules.v4").exists());
    Ok(())
}

fn rollback_to_a_number_of_the_history(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let ssh = ns.saved();
    ns.apply("web.toml", &["--confirm"]).expect(0);
    ns.kept(&["rollback"]).expect(0);
    ns.apply("web.toml", &[]).expect(0);
    let web = ns.saved();
    // Change 2 was reverted, so that change 1 is one change ago.
    let refused = ns.kept(&["rollback", "--to", "2", "--yes"]).expect(1);
    assert!(refused.err.contains("was reverted"), "{}", refused.err);
    let refused = ns.kept(&["rollback", "--to", "3", "--yes"]).expect(1);
    assert!(refused.err.contains("is the present"), "{}", refused.err);
    let refused = ns.kept(&["rollback", "--to", "9", "--yes"]).expect(1);
    assert!(
        refused.err.contains("not in the history"),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), web);
    let told = ns.kept(&["rollback", "--to", "1", "--yes"]).expect(0);
    let words = "change 1 (ssh.toml), 1 change ago";
    assert!(told.err.contains(words), "{}", told.err);
    assert_eq!(ns.saved(), ssh);
    let told = ns.kept(&["rollback", "2", "--dry-run"]).expect(0);
    assert!(
        told.err
            .contains(words.replace("1 change", "2 changes").as_str()),
        "{}",
        told.err
    );
    ns.kept(&["rollback", "1", "--to", "1", "--yes"]).expect(64);
    Ok(())
}

/// On a terminal of another network namespace: the first question is answered, the second one when the time is over.
fn answer_that_comes_too_late_reports_the_revert(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let named = Named::new()?;
    let saved = || named.saved(&ns, backend);
    for answer in ["", "y\n"] {
        let persist = ns.path("iptables");
        let line = format!(
            // The shell stays, and has the terminal.
            "ip netns exec {} {} apply web.toml --timeout 1s --persist-dir {}; exit $?",
            named.0,
            env!("CARGO_BIN_EXE_fwc"),
            persist.to_str().unwrap()
        );
        let mut command = ns.command("script", &["-qec", &line, "/dev/null"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = ns
            .net()
            .enter(|| command.spawn())
            .map_err(|error| format!("script: {error}"))?;
        let mut terminal = child.stdin.take().unwrap();
        terminal.write_all(b"y\n").unwrap();
        until("it is in force", || saved().contains("--dport 80 "));
        // Held, so that both ends of the change come late and at once.
        let lock = hold_the_state(&ns);
        thread::sleep(Duration::from_millis(1100));
        terminal.write_all(answer.as_bytes()).unwrap();
        drop(lock);
        let output = child.wait_with_output().unwrap();
        drop(terminal);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.contains("was reverted"), "{shown}");
        assert!(!shown.contains("no change waits"), "{shown}");
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(!saved().contains("--dport 80 "));
    }
    Ok(())
}

/// Keeps every fwc from this namespace's state until it is dropped.
fn hold_the_state(ns: &Namespace) -> fs::File {
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let path = folder.unwrap().unwrap().path().join("lock");
    let file = fs::File::options().write(true).open(path).unwrap();
    // fwc itself holds it until the change waits.
    until("the lock is free", || {
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    file
}

fn undo_leaves_what_others_did(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.apply("web.toml", &["--confirm"]).expect(0);
    ns.iptables("iptables", &["-N", "f2b-sshd"]);
    ns.iptables(
        "iptables",
        &["-A", "f2b-sshd", "-s", "192.0.2.7", "-j", "DROP"],
    );
    ns.iptables(
        "iptables",
        &[
            "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "f2b-sshd",
        ],
    );
    ns.kept(&["rollback"]).expect(0);
    let saved = ns.saved();
    assert!(!saved.contains("--dport 80 "), "{saved}");
    assert!(
        saved.contains("-A f2b-sshd -s 192.0.2.7/32 -j DROP"),
        "{saved}"
    );
    let input: Vec<_> = saved
        .lines()
        .filter(|line| line.contains("-A INPUT"))
        .collect();
    assert!(input[0].ends_with("-j f2b-sshd"), "{input:#?}");
    Ok(())
}

/// A closed terminal, a dropped connection, a service manager that stops the service: before the change waits for its confirmation,
/// when it reverts at once, and while it waits, when it reverts at its deadline.
fn watchdog_outlives_all_signals(backend: Backend) -> Result {
    for (stop, timeout) in [("read-back=stop", "300s"), ("pending=stop", "30s")] {
        let ns = Namespace::new(backend);
        let arguments = [
            "apply",
            "web.toml",
            "--confirm",
            "--wait",
            "--timeout",
            timeout,
        ];
        // It stops with the rules in force, so that nothing ends before the signals come, on a busy machine either.
        let child = start(&ns, &arguments, Some(stop));
        until("it is in force", || {
            ns.saved().matches("--dport 80 ").count() == 2 && is_open(&ns)
        });
        let dog = watchdog(&ns);
        for signal in [Signal::HUP, Signal::TERM, Signal::INT] {
            kill_process(dog, signal).unwrap();
        }
        // The session of fwc gets it from the kernel when its terminal goes; fwc dies of it once it goes on.
        for signal in [Signal::HUP, Signal::CONT] {
            kill_process_group(pid(&child), signal).unwrap();
        }
        assert!(child.wait_with_output().unwrap().status.code().is_none());
        until("the change goes back", || !is_open(&ns));
        assert!(!ns.saved().contains("--dport"), "{stop}");
    }
    Ok(())
}

fn killed_fwc_is_taken_back_at_once(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    let fault = Some("restored-ipv4=kill");
    let child = start(&ns, &["apply", "web.toml", "--yes"], fault);
    assert!(child.wait_with_output().unwrap().status.code().is_none());
    until("the change goes back", || !is_open(&ns));
    assert_eq!(ns.saved(), before);
    ns.apply("web.toml", &[]).expect(0);
    Ok(())
}

fn killed_watchdog_is_replaced(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &["--confirm", "--timeout", "20s"])
        .expect(0);
    kill_process(watchdog(&ns), Signal::KILL).unwrap();
    until("the change goes back", || !is_open(&ns));
    assert!(!ns.saved().contains("--dport"));
    Ok(())
}

/// Only what changes is touched, and what stays keeps what it counted.
fn second_apply_keeps_counters(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    for tool in super::namespace::TOOLS {
        let counted = ns.saved_family(tool).replace("[0:0] ", "[7:700] ");
        ns.restore(tool, &counted.replace("DROP [0:0]", "DROP [9:900]"))
            .expect(0);
    }
    let before = ns.saved();
    ns.apply("web.toml", &[]).expect(0);
    let now = ns.saved();
    let new = "[0:0] -A INPUT -p tcp -m tcp --dport 80 -j ACCEPT\n";
    assert_eq!(now.matches(new).count(), 2, "{now}");
    assert_eq!(now.replace(new, ""), before);
    Ok(())
}

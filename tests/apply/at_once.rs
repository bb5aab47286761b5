//! Two at the same time, and a dry run seen from below.

use std::fs;
use std::thread;

use rustix::fs::{FlockOperation, flock};

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Ended, Namespace, run};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "two_applies_at_once_take_turns",
        two_applies_at_once_take_turns,
    ),
    (
        "two_confirmations_at_once_are_one",
        two_confirmations_at_once_are_one,
    ),
    (
        "confirmation_and_rollback_exclude_each_other",
        confirmation_and_rollback_exclude_each_other,
    ),
    (
        "rules_by_hand_meanwhile_are_seen",
        rules_by_hand_meanwhile_are_seen,
    ),
    (
        "stranger_with_the_lock_is_named_and_lives",
        stranger_with_the_lock_is_named_and_lives,
    ),
    ("dry_run_writes_nothing", dry_run_writes_nothing),
];

type Result = std::result::Result<(), String>;

/// Runs both at the same time.
fn both(ns: &Namespace, first: &[&str], second: &[&str]) -> [Ended; 2] {
    thread::scope(|scope| {
        let first = scope.spawn(|| ns.kept(first));
        let second = scope.spawn(|| ns.kept(second));
        [first.join().unwrap(), second.join().unwrap()]
    })
}

/// A clear end: done, or told that another one is at it.
fn is_clear(ended: &Ended) -> bool {
    match ended.code {
        Some(0) => true,
        Some(1) => [
            "another fwc is changing this firewall",
            "the live rules changed in the meantime",
            "no change waits for `fwc confirm`",
        ]
        .iter()
        .any(|words| ended.err.contains(words)),
        _ => false,
    }
}

fn two_applies_at_once_take_turns(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    for _ in 0..5 {
        let ends = both(
            &ns,
            &["apply", "ssh.toml", "--yes"],
            &["apply", "web.toml", "--yes"],
        );
        for ended in &ends {
            assert!(is_clear(ended), "{ended:?}");
        }
        assert!(ends.iter().any(|ended| ended.code == Some(0)), "{ends:?}");
        assert!(!is_open(&ns));
        // Live and the files are of the same one.
        let folder = ns.path("iptables");
        ns.fwc(&["diff", "live", folder.to_str().unwrap()])
            .expect(0);
    }
    Ok(())
}

fn two_confirmations_at_once_are_one(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &["--confirm"]).expect(0);
    let ends = both(&ns, &["confirm"], &["confirm"]);
    assert!(ends.iter().all(is_clear), "{ends:?}");
    let done = ends.iter().filter(|ended| ended.code == Some(0)).count();
    assert_eq!(done, 1, "{ends:?}");
    assert!(!is_open(&ns) && ns.saved().contains("--dport 80 "));
    Ok(())
}

fn confirmation_and_rollback_exclude_each_other(backend: Backend) -> Result {
    for _ in 0..3 {
        let ns = Namespace::new(backend);
        ns.apply("ssh.toml", &[]).expect(0);
        ns.apply("web.toml", &["--confirm"]).expect(0);
        let [kept, back] = both(&ns, &["confirm"], &["rollback"]);
        assert!(is_clear(&kept), "{kept:?}");
        let is_web = ns.saved().contains("--dport 80 ");
        // The loser finds nothing to do, or nothing that waits.
        assert_eq!(kept.code == Some(0), is_web, "{kept:?} {back:?}");
        assert!(!is_open(&ns));
        let folder = ns.path("iptables");
        ns.fwc(&["diff", "live", folder.to_str().unwrap()])
            .expect(0);
    }
    Ok(())
}

fn rules_by_hand_meanwhile_are_seen(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let add = ["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"];
    let tool = format!("iptables-{backend}");
    let ended = thread::scope(|scope| {
        let apply = scope.spawn(|| ns.apply("web.toml", &[]));
        for _ in 0..20 {
            ns.run(&tool, &["-w", "10"], "");
            ns.run(&tool, &[&["-w", "10"], &add[..]].concat(), "")
                .expect(0);
        }
        apply.join().unwrap()
    });
    let clear = is_clear(&ended) || ended.err.contains("those that fwc loaded");
    assert!(clear, "{ended:?}");
    assert!(!is_open(&ns));
    // Whatever came of it, the next one ends it.
    ns.apply("web.toml", &[]).expect(0);
    assert!(!ns.saved().contains("192.0.2.7"));
    Ok(())
}

/// A program that is none of fwc's takes fwc's lock: it is waited for, whatever waits, and never ended.
fn stranger_with_the_lock_is_named_and_lives(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.saved();
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let lock = folder.unwrap().unwrap().path().join("lock");
    let stranger = || {
        let mut command = ns.command(
            "flock",
            &["--no-fork", lock.to_str().unwrap(), "sleep", "600"],
        );
        let stranger = command.spawn().unwrap();
        let text = fs::read_to_string(&lock).unwrap();
        until("it has the lock", || {
            let free = fs::File::open(&lock).unwrap();
            flock(&free, FlockOperation::NonBlockingLockExclusive).is_err()
        });
        // What is written there is still the number of the last fwc.
        assert_eq!(fs::read_to_string(&lock).unwrap(), text);
        stranger
    };
    let mut first = stranger();
    let words = format!("`sleep` (process {}) holds the lock of fwc", first.id());
    for command in [&["apply", "web.toml", "--yes"][..], &["recover"]] {
        let told = ns.kept(command).expect(1);
        assert!(told.err.contains(&words), "{}", told.err);
    }
    assert!(first.try_wait().unwrap().is_none(), "it was ended");
    first.kill().unwrap();
    first.wait().unwrap();

    ns.apply("web.toml", &["--confirm", "--timeout", "1s"])
        .expect(0);
    let mut second = stranger();
    let words = format!("`sleep` (process {}) holds", second.id());
    // Longer than a fwc that hangs would be waited for.
    let told = ns.kept(&["rollback"]).expect(1);
    assert!(told.err.contains(&words), "{}", told.err);
    assert!(second.try_wait().unwrap().is_none(), "it was ended");
    second.kill().unwrap();
    second.wait().unwrap();
    until("the change goes back", || !is_open(&ns));
    assert_eq!(ns.saved(), before);
    Ok(())
}

/// What is opened for writing, renamed, removed or made, and which programs are run, by strace.
fn dry_run_writes_nothing(backend: Backend) -> Result {
    let strace = find("strace")?;
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let trace = ns.path("trace");
    let persist = ns.path("iptables");
    let calls = "trace=openat,open,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat,symlinkat,fchmod,fchmodat,truncate,ftruncate,execve,setsid,clone,clone3,fork,vfork";
    let arguments = [
        "-f",
        "-e",
        calls,
        "-o",
        trace.to_str().unwrap(),
        env!("CARGO_BIN_EXE_fwc"),
        "apply",
        "web.toml",
        "--dry-run",
        "--persist-dir",
        persist.to_str().unwrap(),
    ];
    let before = (ns.saved(), ns.rules_files());
    let mut command = ns.command(strace.to_str().unwrap(), &arguments);
    ns.net().enter(|| run(&mut command, "")).expect(2);
    assert_eq!((ns.saved(), ns.rules_files()), before);
    let text = fs::read_to_string(&trace).unwrap();
    assert!(text.contains("execve("), "{text}");
    // The scratch namespace's process and those that it starts may load.
    let scratch: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("\"__rehearse\""))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(!scratch.is_empty(), "{text}");
    let lockfile = ns.path("xtables.lock");
    let lockfile = lockfile.to_str().unwrap();
    for line in text.lines() {
        let succeeded = !line.contains(" = -1 ");
        let writes =
            line.contains("O_WRONLY") || line.contains("O_RDWR") || line.contains("O_CREAT");
        // Reading waits for the lock of iptables' tools, too.
        let allowed = ["/dev/null", lockfile, "/proc/self/fd/", "/dev/tty"];
        let harmless = allowed.iter().any(|path| line.contains(path));
        assert!(
            !(writes && succeeded && line.contains("open") && !harmless),
            "{line}"
        );
        for call in [
            "rename",
            "unlink",
            "mkdir",
            "link(",
            "linkat(",
            "symlink",
            "truncate(",
            "setsid(",
        ] {
            assert!(!(line.contains(&format!(" {call}")) && succeeded), "{line}");
        }
        let loads = line.contains("execve(") && line.contains("-restore\"");
        let pid = line.split(' ').next().unwrap_or_default();
        assert!(
            !(loads && succeeded && !in_scratch(&text, pid, &scratch)),
            "{line}"
        );
    }
    Ok(())
}

/// Whether a process is one of the scratch namespace, or was started by one.
fn in_scratch(text: &str, pid: &str, scratch: &[&str]) -> bool {
    let mut pid = pid.to_owned();
    loop {
        if scratch.contains(&pid.as_str()) {
            return true;
        }
        let child = format!(" = {pid}");
        let started = text.lines().find(|line| {
            line.ends_with(&child) && (line.contains("clone") || line.contains("fork"))
        });
        match started.and_then(|line| line.split(' ').next()) {
            Some(parent) => pid = parent.to_owned(),
            None => return false,
        }
    }
}

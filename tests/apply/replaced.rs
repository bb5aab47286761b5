//! fwc with one of iptables' tools replaced by a script that hangs, waits or lies: what tools do must not depend on luck.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Test;
use super::confirm::{is_open, until, watchdog};
use super::namespace::{Backend, Ended, Namespace, TOOLS, run};

pub const TESTS: &[(&str, Test)] = &[
    ("tools_end_with_the_fwc_that_ran_them", tools_end_with_fwc),
    (
        "tools_end_with_the_watchdog_that_ran_them",
        tools_end_with_the_watchdog,
    ),
    ("hung_tool_is_ended_at_the_deadline", hung_tool),
    ("stopped_fwc_is_ended_at_the_deadline", stopped_fwc),
    ("rollback_ends_a_fwc_that_hangs", rollback_ends_it),
    ("save_that_prints_nothing_is_not_believed", lying_save),
    ("boot_tries_again", boot_tries_again),
    ("boot_waits_for_the_xtables_lock", boot_waits_for_the_lock),
];

type Result = std::result::Result<(), String>;

/// Puts a file over `/usr/sbin`, for the program that it then becomes.
const OVER: &str = "mount -t tmpfs none \"$1\" && mkdir \"$1/up\" \"$1/work\" && cp -p \"$2\" \"$1/up/$3\" && mount -t overlay overlay -o \"lowerdir=/usr/sbin,upperdir=$1/up,workdir=$1/work\" /usr/sbin && shift 3 && exec \"$@\"";

/// `fwc ...` with `tool` replaced by a shell script, in this network namespace alone; `real` in it runs the tool.
fn replaced(ns: &Namespace, tool: &str, script: &str, arguments: &[&str]) -> Command {
    let tool = format!(
        "{}-{}-{}",
        tool.split('-').next().unwrap(),
        ns.backend,
        tool.split('-').nth(1).unwrap()
    );
    let here = ns
        .net()
        .enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    let text = format!(
        "#!/bin/bash\nreal() {{ /usr/sbin/xtables-{}-multi {tool} \"$@\"; }}\nD={}\nif [ \"$1\" != --version ] && [ \"$(readlink /proc/self/ns/net)\" = '{}' ]; then\n{script}\nfi\nreal \"$@\"\n",
        ns.backend,
        ns.path("").display(),
        here.display()
    );
    let file = ns.path("script");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let over = ns.path("over");
    fs::create_dir_all(&over).unwrap();
    let persist = ns.path("iptables");
    let mut all = vec!["--mount", "--", "/bin/sh", "-c", OVER, "sh"];
    let words = [over, file, tool.into(), env!("CARGO_BIN_EXE_fwc").into()];
    let words = words.map(|word| word.to_str().unwrap().to_owned());
    all.extend(words.iter().map(String::as_str));
    all.extend(arguments);
    all.extend(["--persist-dir", persist.to_str().unwrap()]);
    ns.command("unshare", &all)
}

fn start(ns: &Namespace, command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    ns.net().enter(|| command.spawn().unwrap())
}

/// Both families' rules, without counters.
fn rules(ns: &Namespace) -> Vec<String> {
    let saved = ns.saved();
    let lines = saved.lines().filter_map(|line| line.split_once("-A "));
    lines.map(|(_, rule)| rule.to_owned()).collect()
}

/// Waits for a file that says `go`.
const HOLD: &str = "cat > $D/input; echo $$ > $D/waits; until [ -e $D/go ]; do sleep 0.05; done; real \"$@\" < $D/input; exit";

fn pid_in(ns: &Namespace, file: &str) -> Pid {
    let text = fs::read_to_string(ns.path(file)).unwrap_or_default();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

fn is_written(ns: &Namespace, file: &str) -> bool {
    fs::read_to_string(ns.path(file)).is_ok_and(|text| text.ends_with('\n'))
}

fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// fwc is killed while its `iptables-restore` waits for something. What would then still come into force must not.
fn tools_end_with_fwc(backend: Backend) -> Result {
    for tool in TOOLS {
        let ns = Namespace::new(backend);
        ns.apply("ssh.toml", &[]).expect(0);
        let before = rules(&ns);
        let mut command = replaced(
            &ns,
            &format!("{tool}-restore"),
            HOLD,
            &["apply", "web.toml", "--yes"],
        );
        let mut fwc = start(&ns, &mut command);
        until("the tool waits", || is_written(&ns, "waits"));
        let waiting = pid_in(&ns, "waits");
        fwc.kill().unwrap();
        fwc.wait().unwrap();
        until("the change is taken back", || !is_open(&ns));
        assert!(!is_running(waiting), "{tool} lives on");
        fs::write(ns.path("go"), "").unwrap();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(rules(&ns), before, "{tool}");
        let nothing = ns.kept(&["recover"]).expect(0);
        assert_eq!(nothing.out, "nothing to recover\n");
        ns.apply("web.toml", &[]).expect(0);
    }
    Ok(())
}

/// The same for the watchdog, whose own tool is in the way of the one that replaces it.
fn tools_end_with_the_watchdog(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = rules(&ns);
    // Only what takes the change back waits.
    let script = format!("if [ -e $D/back ]; then {HOLD}; fi");
    let apply = ["apply", "web.toml", "--confirm", "--timeout", "300s"];
    let mut command = replaced(&ns, "iptables-restore", &script, &apply);
    let ended = ns.net().enter(|| run(&mut command, "")).expect(0);
    assert!(ended.out.contains("Change 2") || ended.err.contains("Change 2"));
    fs::write(ns.path("back"), "").unwrap();
    let dog = watchdog(&ns);
    // It takes the change back at once when its time is over: here by a journal that says so.
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let journal = folder.unwrap().unwrap().path().join("journal");
    let text = fs::read_to_string(&journal).unwrap();
    let line = text.lines().last().unwrap();
    let (start, rest) = line.split_once("\"deadline\":").unwrap();
    let (_, rest) = rest.split_once(',').unwrap();
    // Appended in one write: the watchdog, which reads it all the time, never sees half of a line or an empty file.
    let line = format!("{start}\"deadline\":0,{rest}\n");
    let mut journal = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    journal.write_all(line.as_bytes()).unwrap();
    until("its tool waits", || is_written(&ns, "waits"));
    let waiting = pid_in(&ns, "waits");
    fs::remove_file(ns.path("back")).unwrap();
    kill_process(dog, Signal::KILL).unwrap();
    until("the change is taken back", || !is_open(&ns));
    assert!(!is_running(waiting), "its tool lives on");
    assert_eq!(rules(&ns), before);
    Ok(())
}

/// One family is new, and the tool of the other one does not end.
fn hung_tool(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = rules(&ns);
    let apply = ["apply", "web.toml", "--confirm", "--timeout", "3s"];
    let mut command = replaced(
        &ns,
        "ip6tables-restore",
        "echo $$ > $D/waits; exec sleep 1000",
        &apply,
    );
    let ended = ns.net().enter(|| run(&mut command, "")).expect(1);
    let words = ended.err;
    assert!(
        words.contains("was not done after") && words.contains("reverted"),
        "{words}"
    );
    assert!(!is_running(pid_in(&ns, "waits")));
    assert_eq!(rules(&ns), before);
    assert!(!is_open(&ns));
    Ok(())
}

fn with_fault(ns: &Namespace, fault: &str, timeout: &str) -> Child {
    let persist = ns.path("iptables");
    let persist = persist.to_str().unwrap();
    let arguments = [
        "apply",
        "web.toml",
        "--confirm",
        "--timeout",
        timeout,
        "--persist-dir",
        persist,
    ];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &arguments);
    command
        .env("FWC_FAULT", fault)
        .env("FWC_FAULT_TRACE", ns.path("trace"));
    start(ns, &mut command)
}

/// Somebody stops fwc (SIGSTOP) between the families: the time that a change has runs on.
fn stopped_fwc(backend: Backend) -> Result {
    for point in [
        "changing",
        "restored-ipv4",
        "restored-ipv6",
        "journal-pending",
        "pending",
    ] {
        let ns = Namespace::new(backend);
        ns.apply("ssh.toml", &[]).expect(0);
        let before = rules(&ns);
        let mut fwc = with_fault(&ns, &format!("{point}=stop"), "2s");
        until("it is stopped", || ns.path("trace").exists());
        until("the change is taken back", || !is_open(&ns));
        assert_eq!(rules(&ns), before, "{point}");
        fwc.wait().unwrap();
    }
    Ok(())
}

fn rollback_ends_it(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = rules(&ns);
    let mut fwc = with_fault(&ns, "restored-ipv4=stop", "300s");
    until("it is stopped", || ns.path("trace").exists());
    ns.kept(&["rollback"]).expect(0);
    assert_eq!(rules(&ns), before);
    assert!(!is_open(&ns));
    fwc.wait().unwrap();
    Ok(())
}

/// `iptables-save` prints nothing, and exits with 0.
fn lying_save(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = rules(&ns);
    let attempt = |tool: &str, script: &str| -> Ended {
        let mut command = replaced(&ns, tool, script, &["apply", "web.toml", "--yes"]);
        ns.net().enter(|| run(&mut command, ""))
    };
    for tool in ["iptables-save", "ip6tables-save"] {
        for script in [
            "exit 0",
            // The first table alone.
            "real \"$@\" | awk '/^\\*/{k++} k<=0'; exit 0",
            // Only when the new rules are there.
            "if real -c | grep -q 'dport 80 '; then exit 0; fi",
        ] {
            let refused = attempt(tool, script).expect(1);
            let words = "left out the table `filter`";
            assert!(
                refused.err.contains(words),
                "{tool}, {script}: {}",
                refused.err
            );
            assert_eq!(rules(&ns), before, "{tool}, {script}");
            assert!(!is_open(&ns));
        }
    }
    Ok(())
}

/// At boot nobody is there to run fwc again: what fails once or twice must not leave the host open.
fn boot_tries_again(backend: Backend) -> Result {
    for tool in ["iptables-restore", "ip6tables-save"] {
        let before = Namespace::new(backend);
        before.apply("web.toml", &[]).expect(0);
        let ns = before.sibling();
        let script = "if [ \"$(cat $D/tries 2>/dev/null)\" != xx ]; then printf x >> $D/tries; echo 'out of memory' >&2; exit 4; fi";
        let mut command = replaced(&ns, tool, script, &["recover", "--boot"]);
        let ended = ns.net().enter(|| run(&mut command, "")).expect(0);
        assert!(ended.err.contains("out of memory"), "{}", ended.err);
        assert!(ended.err.contains("trying again"), "{}", ended.err);
        assert_eq!(rules(&ns), rules(&before), "{tool}");
    }
    // What does not pass is an error in the end.
    let before = Namespace::new(backend);
    before.apply("web.toml", &[]).expect(0);
    let ns = before.sibling();
    let script = "echo 'out of memory' >&2; exit 4";
    let mut command = replaced(&ns, "iptables-restore", script, &["recover", "--boot"]);
    let ended = ns.net().enter(|| run(&mut command, "")).expect(1);
    assert!(ended.err.contains("is NOT live"), "{}", ended.err);
    assert_eq!(
        ns.saved_family("ip6tables"),
        before.saved_family("ip6tables")
    );
    Ok(())
}

/// Another program may hold the lock for longer than fwc waits elsewhere.
fn boot_waits_for_the_lock(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    before.apply("web.toml", &[]).expect(0);
    let ns = before.sibling();
    let lock = fs::File::create(ns.path("xtables.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    thread::scope(|scope| {
        let booting = scope.spawn(|| ns.kept(&["recover", "--boot"]));
        thread::sleep(Duration::from_secs(12));
        drop(lock);
        booting.join().unwrap().expect(0);
    });
    assert_eq!(rules(&ns), rules(&before));
    Ok(())
}

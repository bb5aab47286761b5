//! What counts more than a change that is being made, that waits, or that somebody believes to be there.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};

use super::Test;
use super::confirm::{is_open, until, watchdog};
use super::namespace::{Backend, Ended, Namespace, TOOLS};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("panic_outdoes_a_running_apply", panic_outdoes_an_apply),
    ("panic_outdoes_taking_back", panic_outdoes_taking_back),
    ("panic_stays_whoever_applies", panic_stays),
    ("confirm_looks_at_live", confirm_looks_at_live),
    (
        "boot_trusts_no_change_of_another_life",
        boot_trusts_no_other_life,
    ),
    ("first_process_of_a_pid_namespace_is_refused", first_process),
    ("watchdog_leaves_a_unit_of_systemd", leaves_the_unit),
];

type Result = std::result::Result<(), String>;

/// A policy that changes the table in which a panic is, too.
fn raw(ns: &Namespace, head: &str) {
    let policy = format!(
        "version = 1\n{head}[[rules]]\nservice = [\"ssh\", \"53/udp\"]\n[[raw]]\ntype = \"notrack\"\nservice = \"53/udp\"\n"
    );
    fs::write(ns.path("raw1.toml"), &policy).unwrap();
    fs::write(ns.path("raw2.toml"), policy.replace("53/udp", "123/udp")).unwrap();
}

fn with_fault(ns: &Namespace, fault: &str, more: &[&str]) -> Child {
    let persist = ns.path("iptables");
    let all = [
        "apply",
        "raw2.toml",
        "--persist-dir",
        persist.to_str().unwrap(),
    ];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &[&all, more].concat());
    command
        .env("FWC_FAULT", fault)
        .env("FWC_FAULT_TRACE", ns.path("trace"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ns.net().enter(|| command.spawn().unwrap())
}

/// The jumps of a panic come first, in both families.
fn assert_closed(ns: &Namespace, when: &str) {
    for tool in TOOLS {
        let saved = ns.saved_family(tool);
        for hook in ["PREROUTING", "OUTPUT"] {
            let lines = saved.split("*raw").nth(1).unwrap_or_default().lines();
            let mut rules = lines.filter_map(|line| Some(line.split_once("-A ")?.1));
            let first = rules.find(|rule| rule.starts_with(hook));
            let wanted = format!("{hook} -j FWC-PANIC");
            assert_eq!(first, Some(wanted.as_str()), "{when}: {saved}");
        }
    }
}

/// fwc has read live, and is about to load: it would write what it knows of `raw`.
fn panic_outdoes_an_apply(backend: Backend) -> Result {
    for head in ["", "[ownership]\nmode = \"shared\"\n"] {
        for point in [
            "snapshot-taken",
            "changing",
            "restore-ipv4",
            "restored-ipv4",
            "restored-ipv6",
        ] {
            let ns = Namespace::new(backend);
            raw(&ns, head);
            ns.apply("raw1.toml", &[]).expect(0);
            let mut apply = with_fault(&ns, &format!("{point}=stop"), &["--yes"]);
            until("it is stopped", || ns.path("trace").exists());
            ns.fwc(&["panic"]).expect(0);
            // It is over: it cannot go on where it stood.
            apply.wait().unwrap();
            until("the change is taken back", || !is_open(&ns));
            assert_closed(&ns, point);
            ns.fwc(&["panic", "--off"]).expect(0);
            let saved = ns.saved();
            assert!(
                saved.contains("--dport 53 ") && !saved.contains("--dport 123 "),
                "{saved}"
            );
        }
    }
    Ok(())
}

fn panic_outdoes_taking_back(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    raw(&ns, "");
    ns.apply("raw1.toml", &[]).expect(0);
    ns.apply("raw2.toml", &["--confirm", "--timeout", "5s"])
        .expect(0);
    ns.fwc(&["panic"]).expect(0);
    until("the change is taken back", || !is_open(&ns));
    assert_closed(&ns, "afterwards");
    assert!(ns.saved().contains("--dport 53 "));
    Ok(())
}

fn panic_stays(backend: Backend) -> Result {
    for head in ["", "[ownership]\nmode = \"shared\"\n"] {
        let ns = Namespace::new(backend);
        raw(&ns, head);
        ns.apply("raw1.toml", &[]).expect(0);
        ns.fwc(&["panic"]).expect(0);
        let closed = ns.saved();
        for more in [&["--take-over"][..], &[]] {
            let refused = ns.apply("raw2.toml", more).expect(1);
            assert!(refused.err.contains("fwc panic"), "{}", refused.err);
        }
        ns.kept(&["rollback", "--yes"]).expect(1);
        // It may say that it is not in force; it must not open anything.
        ns.kept(&["recover", "--boot"]);
        assert_eq!(ns.saved(), closed);
    }
    Ok(())
}

/// Somebody flushed the rules of the change, or removed a part.
fn confirm_looks_at_live(backend: Backend) -> Result {
    for commands in [
        &[&["-P", "INPUT", "ACCEPT"][..], &["-F"], &["-X"]][..],
        &[&["-D", "INPUT", "1"]],
        &[&["-P", "FORWARD", "ACCEPT"]],
    ] {
        let ns = Namespace::new(backend);
        ns.apply("web.toml", &["--confirm", "--timeout", "300s"])
            .expect(0);
        // What others add does not matter.
        ns.iptables(
            "iptables",
            &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
        );
        for command in commands {
            ns.iptables("iptables", command);
        }
        let refused = ns.kept(&["confirm"]).expect(1);
        let words = "change 1 cannot be kept";
        assert!(refused.err.contains(words), "{}", refused.err);
        assert!(is_open(&ns) && ns.rules_files().is_empty());
        ns.kept(&["rollback"]).expect(0);
    }
    Ok(())
}

fn boot(ns: &Namespace) -> Ended {
    ns.kept(&["recover", "--boot"])
}

/// A container is started again, and its network namespace has the number of the one before: a change waits there by the
/// journal, the clock has not come to its deadline, and no rule is live.
fn boot_trusts_no_other_life(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let before = ns.rules_files();
    ns.apply("web.toml", &["--confirm", "--timeout", "300s"])
        .expect(0);
    let dog = watchdog(&ns);
    let stat = fs::read_to_string(format!("/proc/{}/stat", dog.as_raw_nonzero())).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    let parent = rustix::process::Pid::from_raw(parent.parse().unwrap()).unwrap();
    for pid in [parent, dog] {
        kill_process(pid, Signal::KILL).unwrap();
    }
    for tool in TOOLS {
        for chain in ["INPUT", "FORWARD", "OUTPUT"] {
            ns.iptables(tool, &["-P", chain, "ACCEPT"]);
        }
        for table in ["filter", "raw", "mangle", "nat"] {
            ns.iptables(tool, &["-t", table, "-F"]);
            ns.iptables(tool, &["-t", table, "-X"]);
        }
    }
    let mut out = String::new();
    until("the processes are gone", || {
        let booted = boot(&ns).expect(0);
        out = booted.out;
        !out.contains("waits for `fwc confirm`")
    });
    assert!(out.contains("IPv4: loaded change 1 ("), "{out}");
    assert!(out.contains("IPv6: loaded change 1 ("), "{out}");
    assert!(!is_open(&ns));
    assert_eq!(ns.rules_files(), before);
    ns.kept(&["status"]).expect(0);
    Ok(())
}

/// When it ends, the kernel kills the watchdog.
fn first_process(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let before = ns.saved();
    let persist = ns.path("iptables");
    let persist = persist.to_str().unwrap();
    let fwc = env!("CARGO_BIN_EXE_fwc");
    let inside = ["--pid", "--fork", "--mount-proc", "--"];
    let apply = ["apply", "web.toml", "--yes", "--persist-dir", persist];
    let first = [&inside[..], &[fwc], &apply].concat();
    let script = format!("{fwc} {}; true", apply.join(" "));
    let shell = [&inside[..], &["/bin/sh", "-c", &script]].concat();
    for (arguments, code) in [(first, 1), (shell, 0)] {
        let ended = ns.run("unshare", &arguments, "").expect(code);
        let words = "would die together with fwc";
        assert!(ended.err.contains(words), "{}", ended.err);
        assert_eq!(ns.saved(), before);
    }
    // A script that may do other things, too, is none that was started to run fwc.
    let entry = ns.path("entry.sh");
    fs::write(&entry, format!("{fwc} {}\n", apply.join(" "))).unwrap();
    let arguments = [&inside[..], &["/bin/sh", entry.to_str().unwrap()]].concat();
    ns.run("unshare", &arguments, "").expect(0);
    assert!(ns.saved().contains("--dport 80 "));
    Ok(())
}

/// systemd kills what is left in the control group of a unit that ends. Here a script does what systemd does, with the kernel's
/// real control groups.
fn leaves_the_unit(backend: Backend) -> Result {
    let root = [
        "/sys/fs/cgroup/systemd",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ];
    let root = root
        .iter()
        .find(|root| fs::metadata(format!("{root}/cgroup.procs")).is_ok());
    let root = root.ok_or("no control groups that can be made here")?;
    find("unshare")?;
    let ns = Namespace::new(backend);
    let own = std::process::id();
    let unit = format!("{root}/system.slice/fwc-test-{own}-{backend}.service");
    let scope = format!("{root}/system.slice/fwc-test-{own}-{backend}.scope");
    for folder in [&unit, &scope] {
        fs::create_dir_all(folder).map_err(|error| format!("no control groups: {error}"))?;
    }
    let tools = ns.path("up");
    fs::create_dir_all(&tools).unwrap();
    let scripts = [
        (
            "systemctl",
            "#!/bin/sh\necho ${KILLMODE:-control-group}\n".to_owned(),
        ),
        (
            "systemd-run",
            format!(
                "#!/bin/sh\necho $$ > {scope}/cgroup.procs || exit 1\nwhile [ \"$1\" != -- ]; do shift; done; shift\nexec \"$@\"\n"
            ),
        ),
    ];
    for (name, text) in scripts {
        fs::write(tools.join(name), text).unwrap();
        Command::new("chmod")
            .arg("755")
            .arg(tools.join(name))
            .status()
            .unwrap();
    }
    let over = ns.path("over");
    fs::create_dir_all(&over).unwrap();
    let script = format!(
        "mount -t tmpfs none {over} && mkdir {over}/up {over}/work && cp -p {tools}/* {over}/up && mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={over}/up,workdir={over}/work /usr/sbin && mount -t tmpfs none /run && mkdir -p /run/systemd/system && echo $$ > {unit}/cgroup.procs && exec \"$@\"",
        over = over.display(),
        tools = tools.display(),
    );
    let persist = ns.path("iptables");
    let apply = [
        "--mount",
        "--",
        "/bin/sh",
        "-c",
        &script,
        "sh",
        env!("CARGO_BIN_EXE_fwc"),
        "apply",
        "web.toml",
        "--confirm",
        "--timeout",
        "5s",
        "--persist-dir",
        persist.to_str().unwrap(),
    ];
    let ended = ns.run("unshare", &apply, "").expect(0);
    assert!(ended.err.contains("in a scope of its own"), "{}", ended.err);
    // The unit ends.
    let left = fs::read_to_string(format!("{unit}/cgroup.procs")).unwrap();
    assert_eq!(left, "", "left in the unit");
    assert!(ns.saved().contains("--dport 80 "));
    until("the change is taken back", || !is_open(&ns));
    assert!(!ns.saved().contains("--dport 80 "));
    until("the watchdog is gone", || fs::remove_dir(&scope).is_ok());
    let _ = fs::remove_dir(&unit);
    Ok(())
}

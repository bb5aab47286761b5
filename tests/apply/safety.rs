//! fwc works as root among what others wrote: terminals, folders, programs, sessions.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

use super::Test;
use super::confirm::is_open;
use super::namespace::{Backend, Namespace, run};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "live_rules_cannot_drive_the_terminal",
        live_rules_cannot_drive_the_terminal,
    ),
    (
        "state_folder_of_others_is_refused",
        state_folder_of_others_is_refused,
    ),
    (
        "exchanged_state_folder_is_not_loaded",
        exchanged_state_folder_is_not_loaded,
    ),
    (
        "files_that_others_can_exchange_are_refused",
        files_that_others_can_exchange_are_refused,
    ),
    (
        "what_is_not_a_file_is_not_waited_for",
        what_is_not_a_file_is_not_waited_for,
    ),
    ("files_of_others_stay", files_of_others_stay),
    (
        "killed_apply_leaves_no_temporary_file",
        killed_apply_leaves_no_temporary_file,
    ),
    (
        "hook_that_runs_fwc_is_refused_at_once",
        hook_that_runs_fwc_is_refused_at_once,
    ),
    (
        "hook_in_a_user_namespace_is_explained",
        hook_in_a_user_namespace_is_explained,
    ),
    ("ssh_is_seen_through_sudo", ssh_is_seen_through_sudo),
    (
        "answer_in_a_stale_session_proves_nothing",
        answer_in_a_stale_session_proves_nothing,
    ),
];

type Result = std::result::Result<(), String>;

fn live_rules_cannot_drive_the_terminal(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let evil = "a\u{1b}[2Jb";
    let add = |chain: &str, target: &str| {
        let comment = ["-m", "comment", "--comment", evil];
        let arguments = [&["-A", chain][..], &comment, &["-j", target]].concat();
        ns.iptables("iptables", &arguments);
    };
    add("INPUT", "ACCEPT");
    assert!(ns.saved().contains(evil), "iptables shows it as it is");
    let shared =
        "version = 1\n[ownership]\npreserve = [{ text = \"a\" }]\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("shared.toml"), shared).unwrap();
    let told = [
        // The list of others' rules; the diff; what decides first.
        ns.apply("web.toml", &[]).expect(1),
        ns.apply("web.toml", &["--dry-run", "--take-over"])
            .expect(2),
        ns.apply("shared.toml", &["--dry-run"]).expect(2),
    ];
    for ended in told {
        let all = ended.out + &ended.err;
        assert!(all.contains("a\u{fffd}[2Jb"), "{all:?}");
        assert!(!all.contains('\u{1b}'), "{all:?}");
    }
    // With colours of its own.
    let coloured = ["--dry-run", "--take-over", "--color", "always"];
    let all = ns.apply("web.toml", &coloured).expect(2).out;
    assert!(all.contains("\u{1b}[31m-"), "{all:?}");
    assert!(!all.contains("\u{1b}[2J"), "{all:?}");

    let name = "web\u{1b}[2J.toml";
    fs::copy(ns.path("web.toml"), ns.path(name)).unwrap();
    ns.apply(name, &["--take-over"]).expect(0);
    let history = ns.kept(&["history"]).expect(0).out;
    assert!(history.contains("web\u{fffd}[2J.toml"), "{history:?}");
    assert!(!history.contains('\u{1b}'), "{history:?}");
    Ok(())
}

fn state_folder_of_others_is_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let (outer, folder) = (ns.path("outer"), ns.path("outer/state"));
    fs::create_dir_all(&folder).unwrap();
    let fwc = |command: &[&str]| ns.kept(&[command, &["--state-dir", "outer/state"]].concat());
    let refused = |why: &str| {
        for command in [
            &["apply", "web.toml", "--yes"][..],
            &["recover"],
            &["status"],
        ] {
            let told = fwc(command).expect(1);
            assert!(told.err.contains(why), "{}", told.err);
            assert!(told.err.contains("--state-dir"), "{}", told.err);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    };
    let mode = |path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    // What is written there fwc runs as root.
    mode(&folder, 0o1777);
    refused("others can write it");
    mode(&folder, 0o755);
    chown(&folder, Some(1), None).unwrap();
    refused("it belongs to the user 1");
    chown(&folder, Some(0), None).unwrap();
    mode(&outer, 0o777);
    refused("outer`: others can write it");
    mode(&outer, 0o755);
    // Whoever owns a folder above can put another state folder in its place.
    chown(&outer, Some(1), None).unwrap();
    refused("outer`: it belongs to the user 1");
    chown(&outer, Some(0), None).unwrap();
    fwc(&["apply", "web.toml", "--yes"]).expect(0);

    // At boot the host is closed all the same, and it is said.
    mode(&folder, 0o777);
    let booted = ns.sibling();
    let boot = ["recover", "--boot", "--state-dir", "outer/state"];
    let told = booted.kept(&boot).expect(1);
    assert!(told.err.contains("others can write it"), "{}", told.err);
    assert!(booted.saved().contains("--dport 80 "));
    Ok(())
}

/// A folder above the state folder comes into the hands of somebody else while a change waits: what they put in its place is not
/// loaded as root.
fn exchanged_state_folder_is_not_loaded(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let outer = ns.path("outer");
    let state = ["--state-dir", "outer/state"];
    ns.apply("ssh.toml", &state).expect(0);
    let before = ns.saved();
    let pending = [&["--confirm", "--timeout", "2s"][..], &state].concat();
    ns.apply("web.toml", &pending).expect(0);
    let watchdog = {
        let folder = fs::read_dir(outer.join("state/namespaces")).unwrap().next();
        folder.unwrap().unwrap().path()
    };
    let intent = watchdog.join("transaction.json");
    let text = fs::read_to_string(&intent).unwrap();
    fs::write(&intent, text.replace("--dport 22 ", "--dport 31337 ")).unwrap();
    chown(&outer, Some(65534), None).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(!ns.saved().contains("31337"), "{}", ns.saved());
    for command in [&["recover"][..], &["confirm"], &["rollback"], &["status"]] {
        let told = ns.kept(&[command, &state].concat()).expect(1);
        assert!(told.err.contains("belongs to the user"), "{}", told.err);
        assert!(!ns.saved().contains("31337"), "{}", ns.saved());
    }
    // In root's hands again, the watchdog goes on.
    fs::write(&intent, text).unwrap();
    chown(&outer, Some(0), None).unwrap();
    super::confirm::until("the change is taken back", || ns.saved() == before);
    Ok(())
}

/// Persist folders, policies, what they include, and lists of addresses.
fn files_that_others_can_exchange_are_refused(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let theirs = ns.path("theirs");
    fs::create_dir_all(theirs.join("deep")).unwrap();
    fs::copy(ns.path("web.toml"), theirs.join("deep/web.toml")).unwrap();
    fs::write(theirs.join("deep/list.txt"), "192.0.2.1\n").unwrap();
    fs::write(
        ns.path("include.toml"),
        "version = 1\ninclude = \"theirs/*/web.toml\"\n",
    )
    .unwrap();
    let list = "version = 1\n[addresses]\noffice = { file = \"theirs/deep/list.txt\" }\n[[rules]]\nsource = \"office\"\nservice = \"ssh\"\n";
    fs::write(ns.path("list.toml"), list).unwrap();
    std::os::unix::fs::symlink("theirs/deep/web.toml", ns.path("link.toml")).unwrap();
    let policies = [
        "theirs/deep/web.toml",
        "include.toml",
        "list.toml",
        "link.toml",
    ];
    for policy in policies {
        ns.apply(policy, &["--dry-run"]).expect(2);
    }
    let before = ns.saved();
    chown(&theirs, Some(65534), None).unwrap();
    for policy in policies {
        let told = ns.apply(policy, &[]).expect(1);
        assert!(told.err.contains("unsafe-file"), "{policy}: {}", told.err);
        assert!(told.err.contains("theirs`: it belongs to"), "{}", told.err);
    }
    // To look at them is another thing.
    ns.fwc(&["check", "theirs/deep/web.toml"]).expect(0);
    for (folder, mode) in [("theirs/deep", 0o755), ("shared", 0o1777)] {
        fs::create_dir_all(ns.path(folder)).unwrap();
        fs::set_permissions(ns.path(folder), Permissions::from_mode(mode)).unwrap();
        let told = ns
            .fwc(&["apply", "ssh.toml", "--yes", "--persist-dir", folder])
            .expect(1);
        assert!(told.err.contains("not safe to use as root"), "{}", told.err);
    }
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn what_is_not_a_file_is_not_waited_for(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let live = ns.saved();
    let rules = ns.path("iptables/rules.v4");
    let replace = |what: &str| {
        if rules.is_dir() {
            fs::remove_dir(&rules).unwrap();
        } else {
            fs::remove_file(&rules).unwrap();
        }
        match what {
            "a FIFO" => {
                run(Command::new("mkfifo").arg(&rules), "").expect(0);
            }
            "a folder" => fs::create_dir(&rules).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", &rules).unwrap(),
        }
    };
    for what in ["a FIFO", "a folder", "a symbolic link"] {
        replace(what);
        for command in [&["apply", "web.toml", "--yes"][..], &["status"]] {
            let told = ns.kept(command).expect(1);
            let words = format!("rules.v4: {what} is in its place");
            assert!(told.err.contains(&words), "{}", told.err);
        }
        assert_eq!(ns.saved(), live);
        // The history has the rules.
        let booted = ns.sibling();
        booted.kept(&["recover", "--boot"]).expect(0);
        assert!(booted.saved().contains("--dport 22 "));
        // Without a history the files would be read.
        let other = ["recover", "--boot", "--state-dir", "other"];
        let told = ns.sibling().kept(&other).expect(1);
        assert!(told.err.contains(what), "{}", told.err);
    }
    Ok(())
}

fn files_of_others_stay(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let mine = [
        "iptables/.fwc-notes",
        "iptables/fwc/.fwc-mine",
        "iptables/.rules.v4.fwc-mine",
    ];
    fs::create_dir_all(ns.path("iptables/fwc")).unwrap();
    for name in mine {
        fs::write(ns.path(name), "mine").unwrap();
    }
    ns.apply("ssh.toml", &["--confirm"]).expect(0);
    ns.kept(&["rollback"]).expect(0);
    ns.apply("ssh.toml", &["--confirm", "--timeout", "1s"])
        .expect(0);
    super::confirm::until("it is taken back", || !is_open(&ns));
    for name in mine {
        assert_eq!(fs::read_to_string(ns.path(name)).unwrap(), "mine", "{name}");
    }
    Ok(())
}

/// Killed while the files for the next boot are beside their places, before and after the kernel was changed.
fn killed_apply_leaves_no_temporary_file(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let persist = ns.path("iptables");
    let files = || -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&persist)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    for point in ["stage-ipv6", "staged", "watchdog-start", "publish-ipv6"] {
        let arguments = [
            "apply",
            "web.toml",
            "--yes",
            "--persist-dir",
            persist.to_str().unwrap(),
        ];
        let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &arguments);
        command.env("FWC_FAULT", format!("{point}=kill"));
        let killed = ns.net().enter(|| run(&mut command, ""));
        assert_eq!(killed.code, None, "{point}: {}", killed.err);
        // The watchdog may be at it.
        super::confirm::until("it is ended", || {
            ns.kept(&["recover"]).code == Some(0) && !is_open(&ns)
        });
        let left = files();
        assert!(
            left.iter().all(|name| name.starts_with("rules.v")),
            "{point}: {left:?}"
        );
    }
    Ok(())
}

/// An answer in a session that outlives its connection says nothing of new ones, also for who insists.
fn answer_in_a_stale_session_proves_nothing(backend: Backend) -> Result {
    find("script")?;
    let ns = Namespace::new(backend);
    let command = format!(
        "{} apply web.toml --allow-lockout --timeout 2s --persist-dir {}",
        env!("CARGO_BIN_EXE_fwc"),
        ns.path("iptables").display()
    );
    let mut script = ns.command("script", &["-qec", &command, "/dev/null"]);
    script.env("SSH_CONNECTION", "198.51.100.7 40000 192.0.2.1 22");
    let told = ns.net().enter(|| run(&mut script, "y\ny\n")).expect(1);
    let words = "answering in this session would not prove that you can still log in";
    assert!(told.out.contains(words), "{}", told.out);
    assert!(!is_open(&ns));
    assert!(!ns.saved().contains("-A "), "{}", ns.saved());
    Ok(())
}

fn hook_that_runs_fwc_is_refused_at_once(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let path = |name: &str| ns.path(name).display().to_string();
    let script = format!(
        "#!/bin/sh\nexport XTABLES_LOCKFILE={} FWC_IPTABLES={backend} FWC_STATE_DIR={}\nfor what in 'apply {} --yes' 'rollback --yes' recover confirm; do {} $what --persist-dir {}; done\nexit 5\n",
        path("xtables.lock"),
        path("state"),
        path("ssh.toml"),
        env!("CARGO_BIN_EXE_fwc"),
        path("iptables"),
    );
    fs::write(ns.path("hook"), script).unwrap();
    fs::set_permissions(ns.path("hook"), Permissions::from_mode(0o755)).unwrap();
    let policy = format!(
        "version = 1\n[hooks]\nafter-apply = [['{}']]\n[[rules]]\nservice = \"http\"\n",
        path("hook")
    );
    fs::write(ns.path("fwc.toml"), policy).unwrap();
    let told = ns.apply("fwc.toml", &[]).expect(1);
    assert!(told.err.contains("exit status 5"), "{}", told.err);
    assert_eq!(
        told.err.matches("runs in a hook of process ").count(),
        4,
        "{}",
        told.err
    );
    assert!(!told.err.contains("waiting"), "{}", told.err);
    // What the hook wanted to be done can be done afterwards.
    ns.apply("ssh.toml", &[]).expect(0);
    Ok(())
}

/// Where root outside is a stranger inside.
fn hook_in_a_user_namespace_is_explained(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    fs::set_permissions(ns.path(""), Permissions::from_mode(0o755)).unwrap();
    let policy = "version = 1\n[hooks]\nafter-apply = [['true']]\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(ns.path("fwc.toml"), policy).unwrap();
    chown(ns.path("fwc.toml"), Some(65534), Some(65534)).unwrap();
    // The test's own folder is closed to others.
    let own = ns.path("fwc");
    fs::copy(env!("CARGO_BIN_EXE_fwc"), &own).unwrap();
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let unshare = [find("unshare")?.display().to_string(), "-Urn".to_owned()];
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(find("setpriv").unwrap());
        command.args(words).args(&unshare).arg("--").arg(program);
        run(command.args(arguments).current_dir(ns.path("")), "")
    };
    find("setpriv")?;
    if inside("true", &[]).code != Some(0) {
        return Err("users may not make user namespaces here".to_owned());
    }
    let told = inside(own.to_str().unwrap(), &["apply", "fwc.toml", "--dry-run"]).expect(1);
    let why = "it belongs to the user 65534, as which this user namespace shows all whom it does not know";
    assert!(told.err.contains(why), "{}", told.err);
    assert!(told.err.contains("outside of it"), "{}", told.err);
    Ok(())
}

/// sudo keeps SSH_CONNECTION from what it runs, and in a tmux or screen no process above has the connection's socket.
fn ssh_is_seen_through_sudo(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let perl = find("perl")?;
    // A user's shell, and what root runs below it.
    let sudo = "use POSIX; pipe(R, W); if (!fork) { close W; <R>; delete $ENV{SSH_CONNECTION}; exec @ARGV } close R; setuid(65534); close W; wait; exit($? >> 8)";
    let below = |arguments: &[&str]| {
        let persist = ns.path("iptables");
        let mut command = ns.command(perl.to_str().unwrap(), &["-e", sudo]);
        command
            .arg(env!("CARGO_BIN_EXE_fwc"))
            .args(arguments)
            .args(["--persist-dir", persist.to_str().unwrap()])
            .env("SSH_CONNECTION", "198.51.100.7 40000 192.0.2.1 22")
            .stdin(Stdio::null());
        ns.net().enter(|| run(&mut command, ""))
    };
    let told = below(&["apply", "web.toml", "--confirm", "--allow-lockout"]).expect(0);
    assert!(told.err.contains("does not exist any more"), "{}", told.err);
    let refused = below(&["confirm"]).expect(1);
    assert!(
        refused.err.contains("does not exist any more"),
        "{}",
        refused.err
    );
    assert!(is_open(&ns));
    ns.kept(&["confirm"]).expect(0);
    Ok(())
}

//! What a policy wants run when a change stays: when it is run, when not, and what becomes of a failure.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Ended, Namespace, run};

pub const TESTS: &[(&str, Test)] = &[
    (
        "hooks_run_when_a_change_stays",
        hooks_run_when_a_change_stays,
    ),
    (
        "hooks_wait_for_the_confirmation",
        hooks_wait_for_the_confirmation,
    ),
    ("failed_hook_is_told_and_owed", failed_hook_is_told_and_owed),
    ("rollback_runs_its_own_hooks", rollback_runs_its_own_hooks),
    ("plan_holds_the_hooks", plan_holds_the_hooks),
    ("killed_fwc_owes_its_hooks", killed_fwc_owes_its_hooks),
    (
        "hooks_of_an_earlier_boot_are_told",
        hooks_of_an_earlier_boot_are_told,
    ),
    ("unfit_hook_stops_first", unfit_hook_stops_first),
    (
        "hook_that_others_can_change_is_not_run",
        hook_that_others_can_change_is_not_run,
    ),
    ("hook_is_given_nothing", hook_is_given_nothing),
    (
        "running_hook_keeps_nobody_out",
        running_hook_keeps_nobody_out,
    ),
    ("signals_end_the_hook", signals_end_the_hook),
];

type Result = std::result::Result<(), String>;

/// A program of the policy's: it writes down what it was called with, and does what the test says.
fn program(ns: &Namespace, rest: &str) {
    let path = ns.path("hook");
    let log = ns.path("log");
    let script = format!("#!/bin/sh\necho \"$*\" >> '{}'\n{rest}\n", log.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
}

/// A policy that lets this port in, and whose hooks are called with these words, each its program's first argument.
fn policy(ns: &Namespace, name: &str, port: u16, words: &[&str]) {
    let path = ns.path("hook");
    let hooks: Vec<_> = words
        .iter()
        .map(|word| format!("['{}', '{word}']", path.display()))
        .collect();
    let hooks = match hooks.is_empty() {
        true => String::new(),
        false => format!("[hooks]\nafter-apply = [{}]\n\n", hooks.join(", ")),
    };
    let text = format!("version = 1\n\n{hooks}[[rules]]\nservice = [\"ssh\", \"{port}/tcp\"]\n");
    fs::write(ns.path(name), text).unwrap();
}

/// What was run so far, a line each.
fn log(ns: &Namespace) -> String {
    fs::read_to_string(ns.path("log")).unwrap_or_default()
}

fn is_live(ns: &Namespace, port: u16) -> bool {
    ns.saved().matches(&format!("dports 22,{port} ")).count() == 2
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"))
}

/// What `status` says is owed: the words of the commands.
fn owed(ns: &Namespace) -> Vec<String> {
    let status = ns.kept(&["status", "--format", "json"]);
    let owed = json_of(&status)["hooks"]["owed"].clone();
    let owed = owed.as_array().cloned().unwrap_or_default();
    assert_eq!(status.code, Some(if owed.is_empty() { 0 } else { 2 }));
    let word = |hook: &Value| hook["command"][1].as_str().unwrap().to_owned();
    owed.iter().map(word).collect()
}

fn start(ns: &Namespace, arguments: &[&str]) -> Child {
    let persist = ns.path("iptables");
    let all = [arguments, &["--persist-dir", persist.to_str().unwrap()]].concat();
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &all);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    ns.net().enter(|| command.spawn().unwrap())
}

fn end(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

fn hooks_run_when_a_change_stays(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "echo told");
    policy(&ns, "fwc.toml", 80, &["one", "two words; $HOME"]);
    let would = ns.apply("fwc.toml", &["--dry-run"]).expect(2).out;
    let line = format!(
        "would run the hook `{} \"two words; $HOME\"`\n",
        ns.path("hook").display()
    );
    assert!(would.ends_with(&line), "{would}");
    let would = json_of(
        &ns.apply("fwc.toml", &["--dry-run", "--format", "json"])
            .expect(2),
    );
    assert_eq!(would["hooks"][0]["command"][1], "one");
    assert_eq!(log(&ns), "");

    let told = ns.apply("fwc.toml", &[]).expect(0);
    assert_eq!(log(&ns), "one\ntwo words; $HOME\n");
    assert!(
        told.err.contains(" one`\n  | told\nrunning the hook `"),
        "{}",
        told.err
    );
    assert_eq!(owed(&ns), [""; 0]);
    // What is right already is not done again.
    ns.apply("fwc.toml", &[]).expect(0);
    ns.apply("fwc.toml", &["--dry-run"]).expect(0);
    // Other hooks are no other firewall.
    policy(&ns, "fwc.toml", 80, &["three"]);
    ns.apply("fwc.toml", &[]).expect(0);
    assert_eq!(log(&ns), "one\ntwo words; $HOME\n");

    // Files alone are a change, too.
    fs::remove_file(ns.path("iptables/rules.v4")).unwrap();
    let report = ns.apply("fwc.toml", &["--format", "json"]).expect(0);
    assert_eq!(log(&ns), "one\ntwo words; $HOME\nthree\n");
    let hook = json!({
        "command": [ns.path("hook"), "three"],
        "ok": true,
        "ended": "exit status 0",
        "output": "told\n",
    });
    let report = json_of(&report);
    assert_eq!(report["hooks"], json!([hook]));
    assert_eq!(report["state"], "done");
    Ok(())
}

fn hooks_wait_for_the_confirmation(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "");
    policy(&ns, "fwc.toml", 80, &["kept"]);
    ns.apply("fwc.toml", &["--confirm"]).expect(0);
    ns.kept(&["rollback"]).expect(0);
    ns.apply("fwc.toml", &["--confirm", "--timeout", "1s"])
        .expect(0);
    until("the change goes back", || !is_open(&ns));
    ns.kept(&["recover"]).expect(0);
    assert_eq!(log(&ns), "", "nothing stayed");
    ns.apply("fwc.toml", &["--confirm"]).expect(0);
    assert_eq!(log(&ns), "", "nothing stays yet");
    let kept = ns.kept(&["confirm"]).expect(0);
    assert!(kept.err.contains("running the hook `"), "{}", kept.err);
    assert_eq!(log(&ns), "kept\n");

    // Who confirms runs them, and nobody else.
    policy(&ns, "fwc.toml", 81, &["once"]);
    let child = start(&ns, &["apply", "fwc.toml", "--confirm", "--wait"]);
    until("it can be confirmed", || {
        ns.kept(&["confirm"]).code == Some(0)
    });
    let waited = end(child).expect(0);
    assert!(!waited.err.contains("running the hook"), "{}", waited.err);
    assert_eq!(log(&ns), "kept\nonce\n");
    Ok(())
}

fn failed_hook_is_told_and_owed(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "[ \"$1\" != bad ] || { echo why; exit 3; }");
    policy(&ns, "fwc.toml", 80, &["bad", "good"]);
    let told = ns.apply("fwc.toml", &["--format", "json"]).expect(1);
    assert_eq!(log(&ns), "bad\ngood\n", "one does not keep the other back");
    assert!(is_live(&ns, 80));
    assert_eq!(ns.rules_files().len(), 2);
    let report = json_of(&told);
    assert_eq!(report["changed"], true);
    assert_eq!(report["hooks"][0]["ended"], "exit status 3");
    assert_eq!(report["hooks"][0]["output"], "why\n");
    assert_eq!(report["hooks"][1]["ok"], true);
    assert!(
        report["error"]
            .as_str()
            .unwrap()
            .starts_with("change 1 is kept, but")
    );
    assert!(
        told.err
            .contains(" bad`: exit status 3\nthe next `fwc apply`"),
        "{}",
        told.err
    );

    // It is not forgotten, and nothing else is run again.
    assert_eq!(owed(&ns), ["bad"]);
    let status = ns.kept(&["status"]).expect(2).out;
    assert!(status.contains("live:    as applied\n"), "{status}");
    assert!(status.contains(" bad`: exit status 3\n"), "{status}");
    let metrics = ns.kept(&["status", "--format", "prometheus"]).expect(2).out;
    assert!(metrics.contains("\nfwc_owed_hooks 1\n"), "{metrics}");
    let would = ns.apply("fwc.toml", &["--dry-run"]).expect(2).out;
    assert!(would.starts_with("nothing to do: "), "{would}");
    assert!(would.ends_with(" bad`\n"), "{would}");
    let again = ns
        .apply("fwc.toml", &["--quiet", "--format", "json"])
        .expect(1);
    assert_eq!(json_of(&again)["changed"], false);
    assert!(
        again.err.starts_with("  | why\nerror: change 1 "),
        "{}",
        again.err
    );
    assert_eq!(log(&ns), "bad\ngood\nbad\n");

    program(&ns, "");
    ns.apply("fwc.toml", &[]).expect(0);
    assert_eq!(log(&ns), "bad\ngood\nbad\nbad\n");
    assert_eq!(owed(&ns), [""; 0]);

    // What nobody can read is said, and no guess is made.
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let path = folder.unwrap().unwrap().path().join("hooks.json");
    let text =
        r#"{"schema":"fwc.hooks/1","number":1,"hooks":[{"command":["../x"],"failed":null}]}"#;
    fs::write(&path, text).unwrap();
    for command in [
        &["recover"][..],
        &["apply", "fwc.toml", "--yes"],
        &["status"],
    ] {
        let told = ns.kept(command).expect(1);
        let why = "not a valid record of fwc: the program is neither a name nor an absolute path";
        assert!(told.err.contains(why), "{}", told.err);
    }
    fs::remove_file(&path).unwrap();
    ns.kept(&["status"]).expect(0);

    // A later change's hooks are the whole of what is wanted.
    program(&ns, "exit 3");
    policy(&ns, "fwc.toml", 81, &["bad"]);
    ns.apply("fwc.toml", &[]).expect(1);
    policy(&ns, "fwc.toml", 82, &[]);
    ns.apply("fwc.toml", &[]).expect(0);
    assert_eq!(owed(&ns), [""; 0]);
    Ok(())
}

fn rollback_runs_its_own_hooks(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "");
    policy(&ns, "old.toml", 80, &["old"]);
    policy(&ns, "new.toml", 81, &["new"]);
    ns.apply("old.toml", &[]).expect(0);
    ns.apply("new.toml", &[]).expect(0);
    let would = ns.kept(&["rollback", "--dry-run"]).expect(2).out;
    assert!(would.ends_with("hook old`\n"), "{would}");
    ns.kept(&["rollback", "--yes"]).expect(0);
    assert!(is_live(&ns, 80));
    assert_eq!(log(&ns), "old\nnew\nold\n");
    // What was before fwc wanted nothing.
    ns.kept(&["rollback", "3", "--yes"]).expect(0);
    assert_eq!(log(&ns), "old\nnew\nold\n");
    // A program that went meanwhile keeps nobody from going back.
    fs::remove_file(ns.path("hook")).unwrap();
    let told = ns.kept(&["rollback", "1", "--yes"]).expect(1);
    assert!(
        told.err.contains("old`: it was not run: No such file"),
        "{}",
        told.err
    );
    assert!(is_live(&ns, 80));
    Ok(())
}

fn plan_holds_the_hooks(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "");
    policy(&ns, "fwc.toml", 80, &["planned"]);
    let keep = ["--dry-run", "--save-plan", "plan.json"];
    ns.apply("fwc.toml", &keep).expect(2);
    policy(&ns, "fwc.toml", 80, &["another"]);
    let refused = ns.apply("fwc.toml", &["--plan", "plan.json"]).expect(1);
    assert!(
        refused
            .err
            .contains("the files for the next boot or the hooks differ"),
        "{}",
        refused.err
    );
    assert_eq!((log(&ns).as_str(), is_live(&ns, 80)), ("", false));
    policy(&ns, "fwc.toml", 80, &["planned"]);
    ns.apply("fwc.toml", &["--plan", "plan.json"]).expect(0);
    assert_eq!(log(&ns), "planned\n");
    Ok(())
}

/// `fwc apply fwc.toml` that is killed there.
fn killed_at(ns: &Namespace, point: &str) {
    let persist = ns.path("iptables");
    let persist = persist.to_str().unwrap();
    let arguments = ["apply", "fwc.toml", "--yes", "--persist-dir", persist];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &arguments);
    command.env("FWC_FAULT", format!("{point}=kill"));
    let output = ns.net().enter(|| command.output().unwrap());
    assert_eq!(output.status.code(), None, "{output:?}");
    until("the change is over", || !is_open(ns));
}

fn killed_fwc_owes_its_hooks(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "");
    // The watchdog completes the change, and runs no program of the policy's.
    policy(&ns, "fwc.toml", 80, &["a"]);
    killed_at(&ns, "confirmed");
    assert!(is_live(&ns, 80));
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("", vec!["a".to_owned()]));
    ns.kept(&["recover"]).expect(0);
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("a\n", vec![]));

    policy(&ns, "fwc.toml", 81, &["b"]);
    killed_at(&ns, "run-hooks");
    assert_eq!(
        (log(&ns).as_str(), owed(&ns)),
        ("a\n", vec!["b".to_owned()])
    );
    ns.apply("fwc.toml", &[]).expect(0);
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("a\nb\n", vec![]));

    // Rather twice than never.
    policy(&ns, "fwc.toml", 82, &["c"]);
    killed_at(&ns, "hooks-ran");
    assert_eq!(
        (log(&ns).as_str(), owed(&ns)),
        ("a\nb\nc\n", vec!["c".to_owned()])
    );
    ns.kept(&["recover"]).expect(0);
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("a\nb\nc\nc\n", vec![]));

    // Taken back is not applied.
    policy(&ns, "fwc.toml", 83, &["d"]);
    killed_at(&ns, "restored-ipv4");
    assert!(is_live(&ns, 82));
    ns.kept(&["recover"]).expect(0);
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("a\nb\nc\nc\n", vec![]));
    Ok(())
}

fn hooks_of_an_earlier_boot_are_told(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "exit 1");
    policy(&ns, "fwc.toml", 80, &["late"]);
    ns.apply("fwc.toml", &[]).expect(1);
    // The folder of this namespace as one of the boot before.
    let folder = fs::read_dir(ns.path("state/namespaces")).unwrap().next();
    let folder = folder.unwrap().unwrap().path();
    fs::rename(&folder, folder.with_file_name("another-boot")).unwrap();
    let ns = ns.sibling();
    let told = ns.kept(&["recover", "--boot"]).expect(0).out;
    let words = "1 of the hooks of change 1 did not succeed before the machine restarted";
    assert!(told.contains(words), "{told}");
    assert!(is_live(&ns, 80));
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("late\n", vec![]));
    let told = ns.kept(&["recover"]).expect(0).out;
    assert_eq!(told, "nothing to recover\n");
    Ok(())
}

fn unfit_hook_stops_first(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    policy(&ns, "fwc.toml", 80, &["x"]);
    let live = ns.saved();
    let refused = |why: &str| {
        let commands: [&[&str]; 3] = [
            &["apply", "fwc.toml", "--yes"],
            &["apply", "fwc.toml", "--dry-run"],
            &["check", "--live", "fwc.toml"],
        ];
        for command in commands {
            let ended = ns.kept(command).expect(1);
            let start = "error[hook-program]: the hook's program `/";
            let line = ended.err.lines().find(|line| line.starts_with(start));
            assert!(
                line.is_some_and(|line| line.ends_with(why)),
                "{}",
                ended.err
            );
            assert!(ended.err.contains("--> fwc.toml:4:16\n"), "{}", ended.err);
        }
        assert_eq!(ns.saved(), live);
    };
    let path = ns.path("hook");
    let mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    refused("No such file or directory (os error 2)");
    program(&ns, "");
    mode(0o644);
    refused("it is not executable");
    mode(0o757);
    refused("not safe to run as root: others can write it");
    mode(0o755);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    refused("not safe to run as root: it belongs to the user 65534");
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    // Another machine may have it.
    fs::remove_file(&path).unwrap();
    ns.fwc(&["check", "fwc.toml"]).expect(0);
    ns.fwc(&["build", "fwc.toml", "-o", "out"]).expect(0);
    assert!(!log(&ns).contains('x'));
    program(&ns, "");
    ns.kept(&["check", "--live", "fwc.toml"]).expect(0);
    assert_eq!(log(&ns), "");
    Ok(())
}

/// Between the look at it and the end of the change there may be a day.
fn hook_that_others_can_change_is_not_run(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    program(&ns, "");
    policy(&ns, "fwc.toml", 80, &["x"]);
    ns.apply("fwc.toml", &["--confirm"]).expect(0);
    fs::set_permissions(ns.path("hook"), Permissions::from_mode(0o777)).unwrap();
    let told = ns.kept(&["confirm"]).expect(1);
    assert!(told.out.starts_with("kept change 1\n"), "{}", told.out);
    let why = "it was not run: not safe to run as root: others can write it";
    assert!(told.err.contains(why), "{}", told.err);
    assert_eq!((log(&ns).as_str(), is_live(&ns, 80)), ("", true));
    assert_eq!(owed(&ns), ["x"]);
    Ok(())
}

fn hook_is_given_nothing(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    // The network namespace is the same: it has the rules that were applied.
    program(
        &ns,
        &format!(
            "/usr/bin/env | /usr/bin/sort\n/bin/cat\nprintf 'a\\033[2Jb\\n'\niptables-{backend}-save | grep -c 'dports 22,80 '"
        ),
    );
    policy(&ns, "fwc.toml", 80, &["x"]);
    let persist = ns.path("iptables");
    let arguments = [
        "apply",
        "fwc.toml",
        "--yes",
        "--persist-dir",
        persist.to_str().unwrap(),
    ];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &arguments);
    command.env("SECRET", "x").env("BASH_ENV", "/dev/null");
    let told = ns
        .net()
        .enter(|| run(&mut command, "not for the hook"))
        .expect(0);
    let own = ["PWD=", "_=", "SHLVL=", "OLDPWD="];
    let lines = told
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("  | "));
    let lines: Vec<_> = lines
        .filter(|line| !own.iter().any(|start| line.starts_with(start)))
        .collect();
    let path = "PATH=/usr/sbin:/sbin:/usr/bin:/bin";
    assert_eq!(lines, ["LC_ALL=C", path, "a\u{fffd}[2Jb", "1"]);
    Ok(())
}

fn running_hook_keeps_nobody_out(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let go = ns.path("go");
    program(
        &ns,
        &format!("until [ -e '{}' ]; do sleep 0.05; done", go.display()),
    );
    policy(&ns, "one.toml", 80, &["one"]);
    policy(&ns, "two.toml", 81, &["two"]);
    let first = start(&ns, &["apply", "one.toml", "--yes"]);
    until("the hook runs", || log(&ns) == "one\n");
    assert_eq!(owed(&ns), ["one"]);
    // Another change is made and taken back meanwhile, and one that stays is made.
    ns.apply("web.toml", &["--confirm"]).expect(0);
    let back = start(&ns, &["rollback"]);
    until("it is back", || is_live(&ns, 80));
    let second = start(&ns, &["apply", "two.toml", "--yes"]);
    until("the second is in force", || is_live(&ns, 81));
    until("its hooks are owed", || owed(&ns) == ["two"]);
    assert_eq!(log(&ns), "one\n", "each in its turn");
    fs::write(&go, "").unwrap();
    end(first).expect(0);
    end(back).expect(0);
    let second = end(second).expect(0);
    assert!(
        second.err.contains("runs hooks; waiting until it is done"),
        "{}",
        second.err
    );
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("one\ntwo\n", vec![]));
    Ok(())
}

fn signals_end_the_hook(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let go = ns.path("go");
    program(
        &ns,
        &format!("until [ -e '{}' ]; do sleep 0.05; done", go.display()),
    );
    policy(&ns, "fwc.toml", 80, &["one", "two"]);
    let child = start(&ns, &["apply", "fwc.toml", "--yes"]);
    until("the hook runs", || log(&ns) == "one\n");
    // A dropped connection is no wish.
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let told = end(child).expect(1);
    let words = "one`: ended, since fwc was told to end\n  1 more were not started\n";
    assert!(told.err.contains(words), "{}", told.err);
    assert!(is_live(&ns, 80));
    assert_eq!(owed(&ns), ["one", "two"]);
    fs::write(&go, "").unwrap();
    ns.kept(&["recover"]).expect(0);
    assert_eq!((log(&ns).as_str(), owed(&ns)), ("one\none\ntwo\n", vec![]));
    Ok(())
}

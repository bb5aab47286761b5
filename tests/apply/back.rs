//! Ways back, as they are told, and what could stand in them.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Ended, Namespace};

pub const TESTS: &[(&str, Test)] = &[
    (
        "rollback_of_what_waits_is_told",
        rollback_of_what_waits_is_told,
    ),
    (
        "rules_in_the_other_backend_do_not_keep_it_from_going_back",
        rules_in_the_other_backend_do_not_keep_it_from_going_back,
    ),
    (
        "waiting_apply_knows_its_own_end",
        waiting_apply_knows_its_own_end,
    ),
];

type Result = std::result::Result<(), String>;

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"))
}

fn rollback_of_what_waits_is_told(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.apply("web.toml", &["--confirm"]).expect(0);
    let live = ns.saved().lines().count();
    // Not of the ruleset that it would go back to if nothing waited.
    let would = ns.kept(&["rollback", "--dry-run"]).expect(2);
    assert_eq!(would.out, "would revert change 2\n");
    let would = json_of(
        &ns.kept(&["rollback", "--dry-run", "--format", "json"])
            .expect(2),
    );
    assert_eq!(
        would,
        json!({"schema": "fwc.apply/1", "changed": true, "dry_run": true, "number": 2, "hooks": []})
    );
    assert!(is_open(&ns));
    assert_eq!(ns.saved().lines().count(), live);
    let told = json_of(&ns.kept(&["rollback", "--format", "json"]).expect(0));
    assert_eq!(
        told,
        json!({"schema": "fwc.apply/1", "changed": true, "dry_run": false, "state": "taken-back", "number": 2, "hooks": []})
    );
    assert!(!is_open(&ns));
    Ok(())
}

/// Somebody's tool wrote them since: the change goes back all the same.
fn rules_in_the_other_backend_do_not_keep_it_from_going_back(backend: Backend) -> Result {
    let other = match backend {
        Backend::Nft => Backend::Legacy,
        Backend::Legacy => Backend::Nft,
    };
    Namespace::possible(other)?;
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let tool = format!("iptables-{other}");
    for command in [&["rollback"][..], &["recover"]] {
        let timeout = match command {
            ["recover"] => "1s",
            _ => "60s",
        };
        ns.apply("web.toml", &["--confirm", "--timeout", timeout])
            .expect(0);
        let rule = ["INPUT", "-j", "ACCEPT"];
        ns.run(&tool, &[&["-A"][..], &rule].concat(), "").expect(0);
        if command == ["recover"] {
            until("its time is over", || !is_open(&ns));
        }
        ns.kept(command).expect(0);
        assert!(!is_open(&ns), "{command:?}");
        ns.run(&tool, &[&["-D"][..], &rule].concat(), "").expect(0);
    }
    Ok(())
}

/// Somebody confirms it, and begins another change before it looks.
fn waiting_apply_knows_its_own_end(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    let persist = ns.path("iptables");
    let persist = persist.to_str().unwrap();
    let arguments = [
        "apply",
        "web.toml",
        "--confirm",
        "--wait",
        "--persist-dir",
        persist,
    ];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = ns.net().enter(|| command.spawn().unwrap());
    until("it waits", || {
        let status = ns.kept(&["status", "--format", "json"]);
        json_of(&status)["open"]["state"]["step"] == "pending"
    });
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();
    ns.kept(&["confirm"]).expect(0);
    ns.apply("ssh.toml", &[]).expect(0);
    kill_process(pid, Signal::CONT).unwrap();
    Ended::from(child.wait_with_output().unwrap()).expect(0);
    Ok(())
}

//! Something dies or fails in `recover --boot`, `panic` and `--save-plan`, and what must hold afterwards.

use std::fs;
use std::io::Write;

use fwc::internals::fault::Point;

use super::Test;
use super::namespace::{Backend, Ended, Namespace};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("faults_at_boot", faults_at_boot),
    ("faults_in_a_panic", faults_in_a_panic),
    ("faults_while_a_plan_is_kept", faults_while_a_plan_is_kept),
];

type Result = std::result::Result<(), String>;

const KINDS: [&str; 4] = ["kill", "ENOSPC", "EACCES", "EIO"];

/// Runs `fwc ...` with a fault that happens once, and checks that it happened.
fn meet(ns: &Namespace, point: Point, kind: &str, arguments: &[&str]) -> Ended {
    let trace = ns.path("trace");
    let _ = fs::remove_file(&trace);
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), arguments);
    command
        .env("FWC_FAULT", format!("{}={kind}", point.word()))
        .env("FWC_FAULT_TRACE", &trace)
        .stdin(std::process::Stdio::null());
    let output = ns.net().enter(|| command.output().unwrap());
    assert!(trace.exists(), "{point:?} {kind}: it was not passed");
    Ended::from(output)
}

/// The same, and fwc has to fail.
fn fail(ns: &Namespace, point: Point, kind: &str, arguments: &[&str]) -> Ended {
    let ended = meet(ns, point, kind, arguments);
    assert_ne!(ended.code, Some(0), "{point:?} {kind}: {}", ended.out);
    ended
}

/// Says how many there were, past the harness, which shows what is printed of failing tests only.
fn tell(backend: Backend, what: &str, faults: usize) {
    let line = format!("{backend}: {faults} faults {what}, 0 violations\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The rules and policies of a family, without counters.
fn rules(ns: &Namespace, tool: &str) -> Vec<String> {
    let saved = ns.saved_family(tool);
    let rule = |line: &str| match line.split_once("-A ") {
        Some((_, rule)) => Some(rule.to_owned()),
        None => Some(line.split_once(" DROP ")?.0.to_owned()),
    };
    saved.lines().filter_map(rule).collect()
}

const TOOLS: [&str; 2] = super::namespace::TOOLS;

fn faults_at_boot(backend: Backend) -> Result {
    find("ipset")?;
    let before = Namespace::new(backend);
    let policy = "version = 1\n\n[addresses]\nblocked = { include = [\"192.0.2.1\"], set = true }\n\n[[rules]]\naction = \"drop\"\nsource = \"blocked\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(before.path("sets.toml"), policy).unwrap();
    before.apply("sets.toml", &[]).expect(0);
    let wanted = TOOLS.map(|tool| rules(&before, tool));
    let persist = before.path("iptables");
    let boot = [
        "recover",
        "--boot",
        "--persist-dir",
        persist.to_str().unwrap(),
    ];
    let mut faults = 0;
    for point in [Point::BootSets, Point::BootV4, Point::BootV6, Point::Booted] {
        for kind in KINDS {
            let ns = before.sibling();
            let ended = meet(&ns, point, kind, &boot);
            for (tool, wanted) in TOOLS.iter().zip(&wanted) {
                let now = rules(&ns, tool);
                assert!(
                    now.is_empty() || now == *wanted,
                    "{point:?} {kind}: half of {tool}"
                );
            }
            // An error that happens once is over at the next attempt; after a kill there is none.
            let is_in = TOOLS.map(|tool| !rules(&ns, tool).is_empty());
            let (should, code) = match (point, kind) {
                (Point::BootSets | Point::BootV4, "kill") => ([false, false], None),
                (Point::BootV6, "kill") => ([true, false], None),
                (_, "kill") => ([true, true], None),
                _ => ([true, true], Some(0)),
            };
            assert_eq!(is_in, should, "{point:?} {kind}");
            assert_eq!(ended.code, code, "{point:?} {kind}");
            ns.fwc(&boot).expect(0);
            assert_eq!(
                TOOLS.map(|tool| rules(&ns, tool)),
                wanted,
                "{point:?} {kind}"
            );
            ns.kept(&["status"]).expect(0);
            faults += 1;
        }
    }
    tell(backend, "at boot", faults);
    Ok(())
}

fn faults_in_a_panic(backend: Backend) -> Result {
    let mut faults = 0;
    let is_on = |ns: &Namespace| TOOLS.map(|tool| ns.saved_family(tool).contains("-j FWC-PANIC"));
    for point in [Point::PanicV4, Point::PanicV6] {
        for kind in KINDS {
            let ns = Namespace::new(backend);
            ns.apply("ssh.toml", &[]).expect(0);
            let before = TOOLS.map(|tool| rules(&ns, tool));
            // What can be closed is closed.
            fail(&ns, point, kind, &["panic"]);
            let closed = match (point, kind) {
                (Point::PanicV4, "kill") => [false, false],
                (Point::PanicV4, _) => [false, true],
                _ => [true, false],
            };
            assert_eq!(is_on(&ns), closed, "{point:?} {kind}");
            ns.fwc(&["panic"]).expect(0);
            assert_eq!(is_on(&ns), [true, true]);
            fail(&ns, point, kind, &["panic", "--off"]);
            ns.fwc(&["panic", "--off"]).expect(0);
            assert_eq!(
                TOOLS.map(|tool| rules(&ns, tool)),
                before,
                "{point:?} {kind}"
            );
            faults += 2;
        }
    }
    tell(backend, "in `panic`", faults);
    Ok(())
}

fn faults_while_a_plan_is_kept(backend: Backend) -> Result {
    let mut faults = 0;
    for point in [Point::SavePlan, Point::PlanStaged] {
        for kind in KINDS {
            let ns = Namespace::new(backend);
            ns.apply("ssh.toml", &[]).expect(0);
            fs::write(ns.path("plan.json"), "old").unwrap();
            let before = ns.saved();
            let persist = ns.path("iptables");
            let arguments = [
                "apply",
                "web.toml",
                "--dry-run",
                "--save-plan",
                "plan.json",
                "--persist-dir",
                persist.to_str().unwrap(),
            ];
            let ended = fail(&ns, point, kind, &arguments);
            if kind != "kill" {
                assert!(
                    ended.err.contains("cannot write the plan plan.json"),
                    "{}",
                    ended.err
                );
            }
            assert_eq!(fs::read_to_string(ns.path("plan.json")).unwrap(), "old");
            assert_eq!(ns.saved(), before);
            ns.fwc(&arguments).expect(2);
            ns.apply("web.toml", &["--plan", "plan.json"]).expect(0);
            faults += 1;
        }
    }
    tell(backend, "while a plan is kept", faults);
    Ok(())
}

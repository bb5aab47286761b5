//! Loading at boot what was confirmed last: `fwc recover --boot`, and the unit that runs it.

use std::fs;
use std::process::Command;

use super::Test;
use super::namespace::{Backend, Ended, Namespace, run};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "boot_loads_what_was_confirmed",
        boot_loads_what_was_confirmed,
    ),
    (
        "boot_beside_netfilter_persistent",
        boot_beside_netfilter_persistent,
    ),
    ("boot_in_shared_mode", boot_in_shared_mode),
    ("boot_makes_the_sets_first", boot_makes_the_sets_first),
    ("boot_closes_what_it_can", boot_closes_what_it_can),
    ("boot_leaves_others_rules", boot_leaves_others_rules),
    ("boot_without_memory", boot_without_memory),
    ("boot_leaves_what_waits", boot_leaves_what_waits),
    ("unit_is_valid", unit_is_valid),
];

type Result = std::result::Result<(), String>;

/// What the unit runs, without the program.
fn arguments() -> Vec<String> {
    let unit = include_str!("../../packaging/fwc.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words = line.unwrap().split(' ').skip(1);
    words.map(str::to_owned).collect()
}

/// A start of the machine: what the unit runs.
fn boot(ns: &Namespace) -> Ended {
    let arguments = arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ns.kept(&arguments)
}

/// The live rules and policies without counters; empty tables may be there or not.
fn rules(ns: &Namespace) -> Vec<String> {
    let saved = ns.saved();
    let rule = |line: &str| match line.split_once("-A ") {
        Some((_, rule)) => Some(rule.to_owned()),
        None => Some(line.split_once(" DROP ")?.0.to_owned()),
    };
    saved.lines().filter_map(rule).collect()
}

fn boot_loads_what_was_confirmed(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    before.apply("ssh.toml", &[]).expect(0);
    let wanted = rules(&before);
    // Nobody confirmed this one.
    before
        .apply("web.toml", &["--confirm", "--timeout", "300s"])
        .expect(0);
    let ns = before.sibling();
    let out = boot(&ns).expect(0).out;
    assert!(out.contains("IPv4: loaded change 1 ("), "{out}");
    assert!(out.contains("IPv6: loaded change 1 ("), "{out}");
    assert_eq!(rules(&ns), wanted);
    ns.kept(&["status"]).expect(0);
    let saved = ns.saved();
    let out = boot(&ns).expect(0).out;
    assert!(out.contains("IPv4: change 1 ("), "{out}");
    assert!(!out.contains("loaded"), "{out}");
    assert_eq!(ns.saved(), saved);
    before.kept(&["rollback"]).expect(0);
    Ok(())
}

/// It loads the files before, or it is not installed, or somebody saved others' rules into them.
fn boot_beside_netfilter_persistent(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    before.apply("web.toml", &[]).expect(0);
    let ns = before.sibling();
    for (tool, file) in [("iptables", "rules.v4"), ("ip6tables", "rules.v6")] {
        let text = fs::read_to_string(ns.path("iptables").join(file)).unwrap();
        ns.restore(tool, &text).expect(0);
    }
    let saved = ns.saved();
    let out = boot(&ns).expect(0).out;
    assert!(!out.contains("loaded"), "{out}");
    assert_eq!(ns.saved(), saved);
    // Older files: some of the rules are there.
    ns.iptables("iptables", &["-D", "INPUT", "1"]);
    let out = boot(&ns).expect(0).out;
    assert!(out.contains("IPv4: loaded"), "{out}");
    assert_eq!(rules(&ns), rules(&before));
    Ok(())
}

const SHARED: &str =
    "version = 1\n\n[ownership]\nmode = \"shared\"\n\n[[rules]]\nservice = \"ssh\"\n";

fn boot_in_shared_mode(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    fs::write(before.path("shared.toml"), SHARED).unwrap();
    before.apply("shared.toml", &[]).expect(0);
    let ns = before.sibling();
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "DROP"],
    );
    for _ in 0..2 {
        boot(&ns).expect(0);
        let saved = ns.saved_family("iptables");
        assert_eq!(
            saved.matches("-A INPUT -j FWC-INPUT\n").count(),
            1,
            "{saved}"
        );
        assert!(saved.contains("-s 192.0.2.7/32 -j DROP\n"), "{saved}");
    }
    ns.kept(&["status"]).expect(0);
    Ok(())
}

fn boot_makes_the_sets_first(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    let policy = "version = 1\n\n[addresses]\nbad = { set = true, include = [\"192.0.2.1\"] }\nbanned = { set = \"dynamic\", timeout = \"1h\" }\n\n[[rules]]\naction = \"drop\"\nsource = \"bad\"\n\n[[rules]]\naction = \"drop\"\nsource = \"banned\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(before.path("sets.toml"), policy).unwrap();
    before.apply("sets.toml", &[]).expect(0);
    let ns = before.sibling();
    boot(&ns).expect(0);
    assert_eq!(rules(&ns), rules(&before));
    ns.run("ipset", &["add", "fwc4-banned", "203.0.113.9"], "")
        .expect(0);
    boot(&ns).expect(0);
    // What others put into a set stays.
    ns.run("ipset", &["test", "fwc4-banned", "203.0.113.9"], "")
        .expect(0);
    ns.run("ipset", &["test", "fwc4-bad", "192.0.2.1"], "")
        .expect(0);
    ns.kept(&["status"]).expect(0);
    Ok(())
}

/// A set of somebody else's is not there yet: the other family loads, and it says which does not.
fn boot_closes_what_it_can(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    let policy = "version = 1\n\n[[rules]]\naction = \"drop\"\nipset = \"others\"\nscope = \"ipv4\"\n\n[[rules]]\nservice = \"ssh\"\n";
    fs::write(before.path("theirs.toml"), policy).unwrap();
    before
        .run("ipset", &["create", "others", "hash:net"], "")
        .expect(0);
    before.apply("theirs.toml", &[]).expect(0);
    let ns = before.sibling();
    let ended = boot(&ns).expect(1);
    assert!(ended.err.contains("IPv4: change 1 "), "{}", ended.err);
    assert!(ended.err.contains("is NOT live"), "{}", ended.err);
    assert!(ended.err.contains("others"), "{}", ended.err);
    assert!(ended.out.contains("IPv6: loaded change 1"), "{}", ended.out);
    assert!(ns.saved_family("ip6tables").contains(":INPUT DROP "));
    ns.run("ipset", &["create", "others", "hash:net"], "")
        .expect(0);
    boot(&ns).expect(0);
    assert_eq!(rules(&ns), rules(&before));
    Ok(())
}

fn boot_leaves_others_rules(backend: Backend) -> Result {
    let before = Namespace::new(backend);
    before.apply("web.toml", &[]).expect(0);
    let ns = before.sibling();
    ns.iptables("iptables", &["-N", "DOCKER"]);
    ns.iptables("iptables", &["-A", "FORWARD", "-j", "DOCKER"]);
    let saved = ns.saved_family("iptables");
    let ended = boot(&ns).expect(1);
    assert!(ended.err.contains("Docker:"), "{}", ended.err);
    assert_eq!(ns.saved_family("iptables"), saved);
    assert!(ns.saved_family("ip6tables").contains(":INPUT DROP "));
    Ok(())
}

/// Only the files are there: an image, or a state folder that was lost.
fn boot_without_memory(backend: Backend) -> Result {
    for policy in ["web.toml", "shared.toml"] {
        let before = Namespace::new(backend);
        fs::write(before.path("shared.toml"), SHARED).unwrap();
        let out = boot(&before).expect(0).out;
        assert!(out.contains("nothing was applied yet"), "{out}");
        before.apply(policy, &[]).expect(0);
        fs::remove_dir_all(before.path("state")).unwrap();
        let ns = before.sibling();
        let out = boot(&ns).expect(0).out;
        assert!(out.contains("IPv4: loaded the files in "), "{out}");
        assert_eq!(rules(&ns), rules(&before));
    }
    Ok(())
}

fn boot_leaves_what_waits(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("ssh.toml", &[]).expect(0);
    ns.apply("web.toml", &["--confirm", "--timeout", "300s"])
        .expect(0);
    let saved = ns.saved();
    let out = boot(&ns).expect(0).out;
    assert!(out.contains("change 2 waits for `fwc confirm`"), "{out}");
    assert_eq!(ns.saved(), saved);
    ns.kept(&["rollback"]).expect(0);
    Ok(())
}

fn unit_is_valid(backend: Backend) -> Result {
    assert_eq!(arguments(), ["recover", "--boot"]);
    let analyze = find("systemd-analyze")?;
    let ns = Namespace::new(backend);
    let unit = include_str!("../../packaging/fwc.service");
    // The place of this build's program.
    let unit = unit.replace("/usr/bin/fwc", env!("CARGO_BIN_EXE_fwc"));
    let path = ns.path("fwc.service");
    fs::write(&path, unit).unwrap();
    let mut command = Command::new(analyze);
    command.arg("verify").arg(&path);
    let ended = run(&mut command, "");
    let about = ended.err.lines().filter(|line| line.contains("fwc"));
    assert_eq!(about.collect::<Vec<_>>(), [""; 0]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    Ok(())
}

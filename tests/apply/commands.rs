//! What `fwc apply` and `fwc diff live` promise, seen from outside.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::Test;
use super::namespace::{Backend, Named, Namespace, TOOLS};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    (
        "applies_to_an_empty_namespace",
        applies_to_an_empty_namespace,
    ),
    ("second_apply_changes_nothing", second_apply_changes_nothing),
    (
        "changes_from_policy_to_policy",
        changes_from_policy_to_policy,
    ),
    (
        "rule_added_by_hand_is_shown_and_removed",
        rule_added_by_hand_is_shown_and_removed,
    ),
    ("refuses_docker_and_fail2ban", refuses_docker_and_fail2ban),
    (
        "refuses_docker_that_came_later",
        refuses_docker_that_came_later,
    ),
    (
        "refuses_rules_by_hand_before_the_first_apply",
        refuses_rules_by_hand_before_the_first_apply,
    ),
    (
        "take_over_removes_and_says_so",
        take_over_removes_and_says_so,
    ),
    ("dry_run_changes_nothing", dry_run_changes_nothing),
    ("held_lock_names_its_holder", held_lock_names_its_holder),
    ("asks_for_a_terminal_or_yes", asks_for_a_terminal_or_yes),
    ("asks_in_a_terminal", asks_in_a_terminal),
    ("works_through_ip_netns_exec", works_through_ip_netns_exec),
    (
        "diff_of_one_family_leaves_the_other_alone",
        diff_of_one_family_leaves_the_other_alone,
    ),
    (
        "first_apply_keeps_rules_files_of_others",
        first_apply_keeps_rules_files_of_others,
    ),
    (
        "rules_in_the_other_backend_are_an_error",
        rules_in_the_other_backend_are_an_error,
    ),
    ("namespaces_are_not_mixed", namespaces_are_not_mixed),
    (
        "rules_that_booted_from_our_files_are_ours",
        rules_that_booted_from_our_files_are_ours,
    ),
    (
        "folder_that_cannot_be_written_stops_first",
        folder_that_cannot_be_written_stops_first,
    ),
    (
        "stale_files_alone_are_written_alone",
        stale_files_alone_are_written_alone,
    ),
];

/// Chains as Docker and fail2ban make them, each beside its built-in jumps.
pub const OTHERS: &str = "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
[3:180] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[0:0] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[2:120] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [12:900]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [4:300]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
[9:540] -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
[0:0] -A FORWARD -j DOCKER-USER
[0:0] -A FORWARD -o docker0 -j DOCKER
[2:120] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[0:0] -A DOCKER-USER -j RETURN
[5:300] -A f2b-sshd -s 198.51.100.66/32 -j REJECT --reject-with icmp-port-unreachable
[4:240] -A f2b-sshd -j RETURN
COMMIT
";

type Result = std::result::Result<(), String>;

fn applies_to_an_empty_namespace(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let applied = ns.apply("web.toml", &[]).expect(0);
    assert!(
        applied.out.contains("replaced the live rules: IPv4, IPv6"),
        "{}",
        applied.out
    );
    for tool in TOOLS {
        let saved = ns.saved_family(tool);
        assert!(
            saved.contains("--dport 22 ") && saved.contains("--dport 80 "),
            "{saved}"
        );
        assert!(saved.contains(":INPUT DROP"), "{saved}");
    }
    for name in ["iptables/rules.v4", "iptables/rules.v6"] {
        let mode = fs::metadata(ns.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640, "{name}");
    }
    // What boots is what is live, and what the policy says.
    let folder = ns.path("iptables");
    ns.fwc(&["diff", "live", folder.to_str().unwrap()])
        .expect(0);
    ns.fwc(&["diff", "web.toml"]).expect(0);
    Ok(())
}

fn second_apply_changes_nothing(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    for tool in TOOLS {
        let counted = ns
            .saved_family(tool)
            .replace("[0:0] -A INPUT", "[7:700] -A INPUT");
        ns.restore(tool, &counted).expect(0);
    }
    let saved = ns.saved();
    assert!(saved.contains("[7:700] -A INPUT"), "{saved}");
    let identity = || {
        ["iptables/rules.v4", "iptables/rules.v6"].map(|name| {
            let file = fs::metadata(ns.path(name)).unwrap();
            (file.ino(), file.mtime(), file.mtime_nsec())
        })
    };
    let files = identity();
    let again = ns.apply("web.toml", &[]).expect(0);
    assert!(again.out.contains("nothing to do"), "{}", again.out);
    assert_eq!(ns.saved(), saved);
    assert_eq!(identity(), files);

    let report = ns.apply("web.toml", &["--format", "json"]).expect(0);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["schema"], "fwc.apply/1");
    assert_eq!(report["changed"], false);
    Ok(())
}

fn changes_from_policy_to_policy(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let report = ns.apply("ssh.toml", &["--format", "json"]).expect(0);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["changed"], true);
    assert_eq!(report["replaced"], serde_json::json!(["ipv4", "ipv6"]));
    // The old policy's rules are fwc's own: nobody needs to hear of them.
    assert_eq!(report["removed"], serde_json::json!([]));
    assert!(!ns.saved().contains("--dport 80 "));
    ns.fwc(&["diff", "ssh.toml"]).expect(0);
    Ok(())
}

fn rule_added_by_hand_is_shown_and_removed(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let before = ns.saved();
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "ACCEPT"],
    );
    let diff = ns.fwc(&["diff", "web.toml", "--unified"]).expect(2);
    assert!(
        diff.out.contains("\n--A INPUT -s 192.0.2.7/32 -j ACCEPT\n"),
        "{}",
        diff.out
    );
    assert!(
        diff.out
            .starts_with("--- live (IPv4)\n+++ web.toml (IPv4)\n"),
        "{}",
        diff.out
    );
    let applied = ns.apply("web.toml", &[]).expect(0);
    let line = "removed (added by hand, or by an unknown tool): IPv4 filter: -A INPUT -s 192.0.2.7/32 -j ACCEPT";
    assert!(applied.out.contains(line), "{}", applied.out);
    assert_eq!(ns.saved(), before);
    ns.fwc(&["diff", "web.toml"]).expect(0);
    Ok(())
}

fn diff_of_one_family_leaves_the_other_alone(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    ns.iptables(
        "ip6tables",
        &["-I", "INPUT", "-s", "2001:db8::7", "-j", "ACCEPT"],
    );
    ns.fwc(&["diff", "--family", "ipv4", "web.toml"]).expect(0);
    let diff = ns.fwc(&["diff", "--family", "ipv6", "web.toml"]).expect(2);
    assert!(diff.out.contains("source 2001:db8::7"), "{}", diff.out);
    Ok(())
}

fn refuses_docker_and_fail2ban(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.restore("iptables", OTHERS).expect(0);
    let before = ns.saved();
    let refused = ns.apply("web.toml", &[]).expect(1);
    for words in [
        "  Docker:\n",
        "  fail2ban:\n",
        "IPv4 nat: chain DOCKER with 1 rule\n",
        "IPv4 nat: -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n",
        "IPv4 filter: chain f2b-sshd with 2 rules\n",
        "--take-over",
    ] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    assert_eq!(ns.saved(), before);
    assert!(ns.rules_files().is_empty());

    let report = ns.apply("web.toml", &["--format", "json"]).expect(1);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["changed"], false);
    assert_eq!(report["others"][0]["owner"], "Docker");
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn refuses_docker_that_came_later(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let files = ns.rules_files();
    ns.iptables("iptables", &["-N", "DOCKER"]);
    ns.iptables(
        "iptables",
        &["-I", "FORWARD", "-o", "docker0", "-j", "DOCKER"],
    );
    ns.iptables(
        "iptables",
        &["-A", "DOCKER", "-p", "tcp", "--dport", "80", "-j", "ACCEPT"],
    );
    let before = ns.saved();
    for policy in ["web.toml", "ssh.toml"] {
        let refused = ns.apply(policy, &[]).expect(1);
        assert!(
            refused.err.contains("chain DOCKER with 1 rule"),
            "{}",
            refused.err
        );
    }
    assert_eq!(ns.saved(), before);
    assert_eq!(ns.rules_files(), files);
    Ok(())
}

fn refuses_rules_by_hand_before_the_first_apply(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.iptables(
        "ip6tables",
        &["-A", "INPUT", "-s", "2001:db8::7", "-j", "DROP"],
    );
    let before = ns.saved();
    let refused = ns.apply("web.toml", &[]).expect(1);
    assert!(refused.err.contains("by hand"), "{}", refused.err);
    assert!(
        refused
            .err
            .contains("IPv6 filter: -A INPUT -s 2001:db8::7/128 -j DROP")
    );
    assert_eq!(ns.saved(), before);
    assert!(ns.rules_files().is_empty());
    Ok(())
}

fn take_over_removes_and_says_so(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.restore("iptables", OTHERS).expect(0);
    let applied = ns.apply("web.toml", &["--take-over"]).expect(0);
    assert!(
        applied
            .out
            .contains("removed (of Docker): IPv4 nat: chain DOCKER"),
        "{}",
        applied.out
    );
    assert!(
        applied.out.contains("removed (of fail2ban): "),
        "{}",
        applied.out
    );
    let now = ns.saved();
    assert!(!now.contains("DOCKER") && !now.contains("f2b"), "{now}");
    for text in ns.rules_files() {
        assert!(!text.contains("DOCKER") && !text.contains("f2b"), "{text}");
    }
    ns.fwc(&["diff", "web.toml"]).expect(0);
    Ok(())
}

fn dry_run_changes_nothing(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let before = ns.saved();
    let would = ns.apply("web.toml", &["--dry-run"]).expect(2);
    assert!(would.out.contains("+:INPUT DROP [0:0]\n"), "{}", would.out);
    assert!(
        would
            .out
            .contains("would replace the live rules: IPv4, IPv6"),
        "{}",
        would.out
    );
    assert_eq!(ns.saved(), before);
    assert!(ns.rules_files().is_empty());
    assert!(!ns.path("state").exists() && !ns.path("iptables").exists());

    ns.apply("web.toml", &[]).expect(0);
    ns.apply("web.toml", &["--dry-run"]).expect(0);
    ns.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "ACCEPT"],
    );
    let before = ns.saved();
    let would = ns.apply("web.toml", &["--dry-run"]).expect(2);
    assert!(
        would
            .out
            .contains("would remove (added by hand, or by an unknown tool): IPv4"),
        "{}",
        would.out
    );
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn held_lock_names_its_holder(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let folder = fs::read_dir(ns.path("state/namespaces"))
        .unwrap()
        .next()
        .unwrap();
    let path = folder.unwrap().path().join("lock");
    let lock = fs::File::options().write(true).open(&path).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    // This process opened the file by itself, so that it is none of fwc's, whatever the file says.
    let own = std::process::id().to_string();
    fs::write(&path, format!("{own}\n")).unwrap();
    let refused = ns.apply("ssh.toml", &[]).expect(1);
    assert!(
        refused.err.contains("holds the lock of fwc and is not fwc") && refused.err.contains(&own),
        "{}",
        refused.err
    );
    drop(lock);
    ns.apply("ssh.toml", &[]).expect(0);
    Ok(())
}

fn asks_for_a_terminal_or_yes(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let refused = ns.fwc(&["apply", "web.toml"]).expect(64);
    assert!(refused.err.contains("--yes"), "{}", refused.err);
    Ok(())
}

/// `script` gives the program a terminal. Who looks at it does so from another network namespace, where no rule can lock him out:
/// of a terminal that belongs to nobody's connection here fwc could not tell whose it is.
fn asks_in_a_terminal(backend: Backend) -> Result {
    find("script")?;
    let ns = Namespace::new(backend);
    let named = Named::new()?;
    let command = format!(
        // The shell stays, and has the terminal.
        "ip netns exec {} {} apply web.toml --persist-dir {}; exit $?",
        named.0,
        env!("CARGO_BIN_EXE_fwc"),
        ns.path("iptables").display()
    );
    let saved = || named.saved(&ns, backend);
    let before = saved();
    for (answer, code) in [("n\n", 1), ("\n", 1), ("y\ny\n", 0)] {
        assert_eq!(saved(), before);
        let ended = ns
            .run("script", &["-qec", &command, "/dev/null"], answer)
            .expect(code);
        assert!(
            ended.out.contains("+:INPUT DROP") && ended.out.contains("[y/N]"),
            "{}",
            ended.out
        );
    }
    assert!(saved().contains("--dport 80 "));
    Ok(())
}

/// The usual way into a namespace that has a name.
fn works_through_ip_netns_exec(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let named = Named::new()?;
    let inside = |program: &str, arguments: &[&str]| {
        let arguments = [&["netns", "exec", &named.0, program], arguments].concat();
        ns.run("ip", &arguments, "").expect(0).out
    };
    let persist = ns.path("iptables");
    let persist = persist.to_str().unwrap();
    let apply = ["apply", "web.toml", "--yes", "--persist-dir", persist];
    inside(env!("CARGO_BIN_EXE_fwc"), &apply);
    let again = inside(env!("CARGO_BIN_EXE_fwc"), &apply);
    assert!(again.contains("nothing to do"), "{again}");
    let saved = inside(&format!("iptables-{backend}-save"), &[]);
    assert!(saved.contains("--dport 80 "), "{saved}");
    assert!(!ns.saved().contains("--dport"));
    Ok(())
}

fn rules_in_the_other_backend_are_an_error(backend: Backend) -> Result {
    let other = match backend {
        Backend::Nft => Backend::Legacy,
        Backend::Legacy => Backend::Nft,
    };
    Namespace::possible(other)?;
    let ns = Namespace::new(backend);
    let tool = format!("iptables-{other}");
    // Looking makes empty tables, which are no rules.
    ns.run(&tool, &["-S"], "").expect(0);
    ns.apply("web.toml", &[]).expect(0);
    ns.run(&tool, &["-A", "INPUT", "-j", "ACCEPT"], "")
        .expect(0);
    let before = ns.saved();
    for ended in [ns.apply("ssh.toml", &[]), ns.fwc(&["diff", "ssh.toml"])] {
        let refused = ended.expect(1);
        assert!(
            refused.err.contains(&format!("in the {other} backend too")),
            "{}",
            refused.err
        );
    }
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn namespaces_are_not_mixed(backend: Backend) -> Result {
    let first = Namespace::new(backend);
    first.apply("web.toml", &[]).expect(0);
    let second = first.sibling();
    assert!(!second.saved().contains("--dport 22"));
    second.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "ACCEPT"],
    );
    let refused = second.apply("web.toml", &[]).expect(1);
    assert!(refused.err.contains("by hand"), "{}", refused.err);
    second.apply("web.toml", &["--take-over"]).expect(0);
    first.apply("web.toml", &["--dry-run"]).expect(0);
    Ok(())
}

fn rules_that_booted_from_our_files_are_ours(backend: Backend) -> Result {
    let first = Namespace::new(backend);
    first.apply("web.toml", &[]).expect(0);
    let rebooted = first.sibling();
    drop(first);
    for (tool, text) in TOOLS.iter().zip(rebooted.rules_files()) {
        rebooted.restore(tool, &text).expect(0);
    }
    rebooted.iptables(
        "iptables",
        &["-A", "INPUT", "-s", "192.0.2.7", "-j", "ACCEPT"],
    );
    let applied = rebooted.apply("ssh.toml", &[]).expect(0);
    let line = "removed (added by hand, or by an unknown tool): IPv4 filter: -A INPUT -s 192.0.2.7/32 -j ACCEPT\n";
    assert_eq!(applied.out.matches("removed").count(), 1, "{}", applied.out);
    assert!(applied.out.contains(line), "{}", applied.out);
    Ok(())
}

fn folder_that_cannot_be_written_stops_first(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let before = ns.saved();
    let place = ns.path("iptables");
    fs::write(&place, "a file where the folder should be").unwrap();
    let refused = ns.apply("web.toml", &[]).expect(1);
    assert!(
        refused.err.contains(place.to_str().unwrap()),
        "{}",
        refused.err
    );
    assert_eq!(ns.saved(), before);
    Ok(())
}

fn stale_files_alone_are_written_alone(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    ns.apply("web.toml", &[]).expect(0);
    let (saved, files) = (ns.saved(), ns.rules_files());
    fs::write(
        ns.path("iptables/rules.v6"),
        "# somebody saved something else\n",
    )
    .unwrap();
    let applied = ns.apply("web.toml", &[]).expect(0);
    assert!(
        applied
            .out
            .contains("the live rules match the policy already"),
        "{}",
        applied.out
    );
    assert!(applied.out.contains("rules.v6") && !applied.out.contains("rules.v4"));
    assert_eq!(ns.rules_files(), files);
    assert_eq!(ns.saved(), saved);
    Ok(())
}

fn first_apply_keeps_rules_files_of_others(backend: Backend) -> Result {
    let ns = Namespace::new(backend);
    let hand_made = "# years of work\n";
    fs::create_dir(ns.path("iptables")).unwrap();
    fs::write(ns.path("iptables/rules.v4"), hand_made).unwrap();
    let applied = ns.apply("web.toml", &[]).expect(0);
    assert!(
        applied.out.contains("rules.v4.before-fwc"),
        "{}",
        applied.out
    );
    let kept = || fs::read_to_string(ns.path("iptables/rules.v4.before-fwc")).unwrap();
    assert_eq!(kept(), hand_made);
    let applied = ns.apply("ssh.toml", &[]).expect(0);
    assert!(!applied.out.contains("before-fwc"), "{}", applied.out);
    assert_eq!(kept(), hand_made);
    assert!(!ns.path("iptables/rules.v6.before-fwc").exists());
    Ok(())
}

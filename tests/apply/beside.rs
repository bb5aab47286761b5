//! Hosts where others have rules, too: shared mode, and what exclusive mode preserves.

use std::fs;

use super::Test;
use super::namespace::{Backend, Namespace};

pub const TESTS: &[(&str, Test)] = &[
    ("shared_leaves_others_alone", shared_leaves_others_alone),
    (
        "shared_jump_comes_first_again",
        shared_jump_comes_first_again,
    ),
    ("shared_change_goes_back", shared_change_goes_back),
    (
        "shared_files_are_not_those_of_others",
        shared_files_are_not_those_of_others,
    ),
    ("preserved_stays", preserved_stays),
    ("preserved_is_not_all", preserved_is_not_all),
    (
        "diff_sees_what_is_left_to_others",
        diff_sees_what_is_left_to_others,
    ),
    (
        "tables_that_depend_beside_others_are_bridged",
        tables_that_depend_beside_others_are_bridged,
    ),
];

type Result = std::result::Result<(), String>;

/// A host with Docker and fail2ban, in the words of `iptables-save`.
const OTHERS: &str = "\
*nat
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
:INPUT ACCEPT [7:700]
:FORWARD DROP [5:500]
:OUTPUT ACCEPT [9:900]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:f2b-sshd - [0:0]
[40:4000] -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
[1:60] -A FORWARD -j DOCKER-USER
[2:120] -A FORWARD -o docker0 -j DOCKER
[2:120] -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
[2:120] -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
[1:60] -A DOCKER-USER -j RETURN
[4:240] -A f2b-sshd -s 203.0.113.9/32 -j REJECT --reject-with icmp-port-unreachable
[36:3760] -A f2b-sshd -j RETURN
COMMIT
";

fn shared(more: &str) -> String {
    format!(
        "version = 1\n\n[ownership]\nmode = \"shared\"\n\n{more}\n[[rules]]\nservice = \"ssh\"\n"
    )
}

const BETWEEN: &str =
    "[defaults]\nforward = \"drop\"\n\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n";

fn host(backend: Backend) -> Namespace {
    let ns = Namespace::new(backend);
    ns.restore("iptables", OTHERS).expect(0);
    let policy = |name: &str, text: &str| fs::write(ns.path(name), text).unwrap();
    policy("shared.toml", &shared(""));
    policy("between.toml", &shared(BETWEEN));
    policy(
        "preserve.toml",
        "version = 1\n\n[ownership]\npreserve = [\"DOCKER*\", \"f2b-*\", { device = \"docker0\" }]\n\n[[rules]]\nservice = \"ssh\"\n",
    );
    policy(
        "some.toml",
        "version = 1\n\n[ownership]\npreserve = \"DOCKER*\"\n\n[[rules]]\nservice = \"ssh\"\n",
    );
    ns
}

/// What is not fwc's, with its counters.
fn others(ns: &Namespace) -> String {
    let saved = ns.saved_family("iptables");
    let lines = saved.lines().filter(|line| !line.contains("FWC-"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The rules of a base chain, without counters.
fn rules(ns: &Namespace, chain: &str) -> Vec<String> {
    let saved = ns.saved_family("iptables");
    let filter = saved.split("*filter\n").nth(1).unwrap();
    let start = format!("-A {chain} ");
    let rules = filter
        .lines()
        .filter_map(|line| Some(line.split_once(&start)?.1.to_owned()));
    rules.collect()
}

fn shared_leaves_others_alone(backend: Backend) -> Result {
    let ns = host(backend);
    let before = others(&ns);
    ns.apply("shared.toml", &["--dry-run"]).expect(2);
    assert_eq!(ns.saved_family("iptables"), before);
    ns.apply("shared.toml", &[]).expect(0);
    assert_eq!(others(&ns), before);
    assert_eq!(
        rules(&ns, "INPUT"),
        [
            "-p tcp -m multiport --dports 22 -j f2b-sshd",
            "-j FWC-INPUT"
        ]
    );
    assert!(
        rules(&ns, "FORWARD")
            .iter()
            .all(|rule| !rule.contains("FWC-"))
    );
    let saved = ns.saved();
    ns.apply("shared.toml", &[]).expect(0);
    assert_eq!(ns.saved(), saved);

    ns.apply("between.toml", &[]).expect(0);
    assert_eq!(others(&ns), before);
    assert_eq!(rules(&ns, "FORWARD")[0], "-j FWC-FORWARD");
    assert!(!rules(&ns, "FWC-FORWARD-DENY").is_empty());
    // A policy with less removes what it had made.
    ns.apply("shared.toml", &[]).expect(0);
    assert_eq!(ns.saved(), saved);
    Ok(())
}

/// `diff` compares what will be: what others have stands on both sides.
fn diff_sees_what_is_left_to_others(backend: Backend) -> Result {
    for policy in ["shared.toml", "between.toml", "preserve.toml"] {
        let ns = host(backend);
        let before = ns.fwc(&["diff", policy, "--rules"]).expect(2);
        for others in ["DOCKER", "f2b-sshd", "MASQUERADE", "policy DROP -> ACCEPT"] {
            assert!(!before.out.contains(others), "{policy}: {}", before.out);
        }
        let packets = ns.fwc(&["diff", policy, "--packets", "--format", "json"]);
        let packets: serde_json::Value = serde_json::from_str(&packets.expect(2).out).unwrap();
        let changes = packets["packets"]["changes"].as_array().unwrap();
        // Of what is forwarded others' rules decide as before, unless the policy says something of it.
        let forward = changes.iter().filter(|change| change["hook"] == "forward");
        assert!(
            policy != "shared.toml" || forward.count() == 0,
            "{changes:?}"
        );
        assert!(changes.iter().all(|change| change["kind"] != "redirected"));
        ns.apply(policy, &[]).expect(0);
        for way in [&["diff", policy][..], &["diff", policy, "live"]] {
            let after = ns.fwc(way).expect(0);
            assert_eq!(after.out, "", "{policy}");
        }
    }
    // A rule that decides is said with where it stands.
    let ns = host(backend);
    ns.apply("shared.toml", &[]).expect(0);
    let closed = fs::read_to_string(ns.path("shared.toml")).unwrap();
    fs::write(ns.path("closed.toml"), closed.replace("ssh", "https")).unwrap();
    let diff = ns.fwc(&["diff", "closed.toml", "--packets"]).expect(2);
    assert!(diff.out.contains("+ closed.toml:"), "{}", diff.out);
    Ok(())
}

fn shared_jump_comes_first_again(backend: Backend) -> Result {
    let ns = host(backend);
    ns.apply("between.toml", &[]).expect(0);
    // Docker starts, a ban comes, somebody opens a port.
    ns.iptables("iptables", &["-I", "FORWARD", "-j", "DOCKER-USER"]);
    ns.iptables(
        "iptables",
        &["-A", "f2b-sshd", "-s", "203.0.113.10", "-j", "DROP"],
    );
    let before = others(&ns);
    ns.apply("between.toml", &["--dry-run"]).expect(2);
    ns.apply("between.toml", &[]).expect(0);
    let forward = rules(&ns, "FORWARD");
    assert_eq!(forward[0], "-j FWC-FORWARD");
    assert_eq!(forward.len(), 5, "{forward:?}");
    assert_eq!(others(&ns), before);
    Ok(())
}

fn shared_change_goes_back(backend: Backend) -> Result {
    let ns = host(backend);
    let before = others(&ns);
    ns.apply("between.toml", &["--confirm", "--timeout", "300s"])
        .expect(0);
    ns.iptables(
        "iptables",
        &["-I", "INPUT", "-s", "198.51.100.1", "-j", "DROP"],
    );
    ns.iptables("iptables", &["-D", "f2b-sshd", "1"]);
    let since = others(&ns);
    assert_ne!(since, before);
    ns.kept(&["rollback", "--yes"]).expect(0);
    assert_eq!(ns.saved_family("iptables"), since);
    Ok(())
}

/// netfilter-persistent would replace whole tables by them.
fn shared_files_are_not_those_of_others(backend: Backend) -> Result {
    let ns = host(backend);
    ns.apply("shared.toml", &[]).expect(0);
    assert!(!ns.path("iptables/rules.v4").exists());
    let kept = fs::read_to_string(ns.path("iptables/fwc/rules.v4")).unwrap();
    assert!(kept.contains("\n-A INPUT -j FWC-INPUT\n"), "{kept}");
    // The other mode's files would bring its rules at the next boot.
    ns.apply("preserve.toml", &[]).expect(0);
    assert!(ns.path("iptables/rules.v4").exists());
    assert!(!ns.path("iptables/fwc/rules.v4").exists());
    Ok(())
}

fn preserved_stays(backend: Backend) -> Result {
    let ns = host(backend);
    ns.apply("preserve.toml", &[]).expect(0);
    let saved = ns.saved_family("iptables");
    for line in OTHERS.lines().filter(|line| line.starts_with('[')) {
        assert!(saved.contains(line), "{line}\n{saved}");
    }
    let input = rules(&ns, "INPUT");
    assert_eq!(input[0], "-p tcp -m multiport --dports 22 -j f2b-sshd");
    assert!(input.contains(&"-i lo -j ACCEPT".to_owned()), "{input:?}");
    assert!(saved.contains("\n:INPUT DROP "), "{saved}");
    let kept = fs::read_to_string(ns.path("iptables/rules.v4")).unwrap();
    assert!(!kept.contains("DOCKER") && !kept.contains("f2b"), "{kept}");
    let again = ns.saved();
    ns.apply("preserve.toml", &[]).expect(0);
    assert_eq!(ns.saved(), again);
    Ok(())
}

fn preserved_is_not_all(backend: Backend) -> Result {
    let ns = host(backend);
    let before = ns.saved();
    let ended = ns.apply("some.toml", &[]).expect(1);
    assert!(ended.err.contains("f2b-sshd"), "{}", ended.err);
    assert_eq!(ns.saved(), before);
    Ok(())
}

/// nat and filter change together, and the step between them writes nothing of others'.
fn tables_that_depend_beside_others_are_bridged(backend: Backend) -> Result {
    let ns = host(backend);
    let ownerships = [
        "preserve = [\"DOCKER*\", \"f2b-*\", { device = \"docker0\" }]",
        "mode = \"shared\"",
    ];
    // Whether what is translated is let through, and whether 8082 of the server is for all.
    let forwards = |ownership: &str, service: &str, port: u16, accept: bool, open: bool| {
        let action = if open { "accept" } else { "drop" };
        format!(
            "version = 1\n\n[ownership]\n{ownership}\n\n[interfaces]\nwan = \"eth0\"\nlan = \"eth1\"\n\n[[nat]]\ntype = \"dnat\"\nscope = \"ipv4\"\nfrom = \"wan\"\nto = \"lan\"\nservice = \"{service}\"\nto-destination = \"192.168.1.5:{port}\"\naccept = {accept}\n\n[[rules]]\nservice = \"ssh\"\n\n[[rules]]\nfrom = \"wan\"\nto = \"lan\"\nservice = \"8082/tcp\"\naction = \"{action}\"\n"
        )
    };
    let policy = |name: &str, text: String| fs::write(ns.path(name), text).unwrap();
    let words = "change together; for some milliseconds new connections can be lost";
    for ownership in ownerships {
        policy("first.toml", forwards(ownership, "http", 8080, true, false));
        policy(
            "second.toml",
            forwards(ownership, "http", 8081, true, false),
        );
        policy(
            "third.toml",
            forwards(ownership, "http", 8082, false, false),
        );
        // It lets through what the third one translates to.
        policy(
            "fourth.toml",
            forwards(ownership, "https", 8080, true, true),
        );
        let changes = [
            ("first.toml", false),
            ("second.toml", false),
            ("third.toml", false),
            ("fourth.toml", true),
        ];
        for (policy, may_lose) in changes {
            let done = ns.apply(policy, &["--take-over"]).expect(0);
            assert_eq!(done.err.contains(words), may_lose, "{policy} {}", done.err);
            assert!(!done.err.contains("ruled out"), "{}", done.err);
            let saved = ns.saved_family("iptables");
            assert!(!saved.contains('~'), "{saved}");
            for line in OTHERS.lines().filter(|line| line.starts_with('[')) {
                assert!(saved.contains(line), "{line}\n{saved}");
            }
        }
    }
    Ok(())
}

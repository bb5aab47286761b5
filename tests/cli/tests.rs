//! `fwc test`, and the tests of a policy in `check` and `build`.

use serde_json::{Value, json};

use crate::fwc::{files_below, folder, root, run};

const POLICY: &str = "\
version = 1

[addresses]
office = [\"203.0.113.0/24\", \"2001:db8:1::/48\"]

[[rules]]
name = \"ssh\"
source = \"office\"
service = \"ssh\"

[[tests]]
name = \"ssh is for the office\"
source = \"!office\"
service = \"ssh\"
expect = \"drop\"
";
const BROKEN: &str = "
[[tests]]
name = \"ssh for nobody\"
service = \"ssh\"
scope = \"ipv6\"
expect = \"deny\"
";

fn broken() -> tempfile::TempDir {
    folder(&[("fwc.toml", &format!("{POLICY}{BROKEN}"))])
}

#[test]
fn tests_that_hold() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["test"]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert_eq!(run.out, "ok     ssh is for the office\n");
    assert_eq!(run.err, "fwc.toml: 1 test holds for every packet\n");
    let quiet = crate::fwc::run(folder.path(), &["test", "-q"]);
    assert_eq!((quiet.status, quiet.out, quiet.err), Default::default());
    let check = crate::fwc::run(folder.path(), &["check"]);
    assert_eq!(check.status, 0);
    assert!(check.err.ends_with("; 1 test holds\n"), "{}", check.err);
}

#[test]
fn no_tests() {
    let (policy, _) = POLICY.split_once("[[tests]]").expect("a test");
    let folder = folder(&[("fwc.toml", policy)]);
    let run = run(folder.path(), &["test"]);
    assert_eq!((run.status, run.out.as_str()), (0, ""));
    assert_eq!(run.err, "fwc.toml: the policy has no tests\n");
}

/// The packet, the rule that decides it and its place are shown; what holds is said too.
#[test]
fn a_test_that_fails() {
    let folder = broken();
    let run = run(folder.path(), &["test"]);
    assert_eq!(run.status, 1);
    assert_eq!(
        run.out,
        "ok     ssh is for the office\nFAILED ssh for nobody\n"
    );
    insta::assert_snapshot!("test_that_fails", run.err);
}

/// A packet is shown as it arrives, with what it became, who made it that, and the rule that decides.
#[test]
fn a_test_of_a_forward_that_fails() {
    let policy = "\
version = 1

[interfaces]
wan = \"eth0\"
lan = { device = \"eth1\", networks = \"192.168.1.0/24\" }

[[nat]]
name = \"the camera\"
type = \"dnat\"
from = \"wan\"
to = \"lan\"
service = \"8080/tcp\"
to-destination = \"192.168.1.80:80\"
accept = false

[[rules]]
name = \"the lan may be reached at port 80\"
from = \"wan\"
to = \"lan\"
service = \"http\"

[[tests]]
name = \"the camera is closed to the world\"
from = \"wan\"
to = \"lan\"
destination = \"203.0.113.1\"
service = \"8080/tcp\"
expect = \"deny\"
";
    let folder = folder(&[("fwc.toml", policy)]);
    let run = run(folder.path(), &["test"]);
    assert_eq!(run.status, 1);
    assert_eq!(run.out, "FAILED the camera is closed to the world\n");
    insta::assert_snapshot!("test_of_a_forward_that_fails", run.err);
}

/// The rules do what the policy says, and still nothing is written.
#[test]
fn check_and_build_stop() {
    let folder = broken();
    for arguments in [&["check"][..], &["build", "-o", "out"]] {
        let run = run(folder.path(), arguments);
        assert_eq!((run.status, run.out.as_str()), (1, ""), "{arguments:?}");
        assert!(run.err.starts_with("error[test-failed]: "), "{}", run.err);
        assert!(run.err.ends_with("fwc.toml: 1 error\n"), "{}", run.err);
        assert_eq!(files_below(folder.path()), ["fwc.toml"], "{arguments:?}");
    }
    let unproven = run(folder.path(), &["build", "--no-verify", "-o", "out"]);
    assert_eq!(unproven.status, 0, "{}", unproven.err);
}

#[test]
fn for_programs() {
    let folder = broken();
    let run = run(folder.path(), &["test", "--format", "json"]);
    assert_eq!((run.status, run.err.as_str()), (1, ""));
    let found: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(found["schema"], "fwc.test/1");
    assert_eq!(found["ok"], false);
    let policy = &found["policies"][0];
    assert_eq!(policy["policy"], "fwc.toml");
    let tests = json!([
        {
            "name": "ssh is for the office", "file": "fwc.toml", "line": 11,
            "expect": "drop", "outcome": "holds",
        },
        {
            "name": "ssh for nobody", "file": "fwc.toml", "line": 17,
            "expect": "deny", "outcome": "fails",
        },
    ]);
    assert_eq!(policy["tests"], tests);
    assert_eq!(policy["findings"][0]["code"], "test-failed");
    assert_eq!(policy["findings"][0]["labels"][0]["line"], 6);
}

/// What a CI server reads: a suite a policy, a case a test, and why.
#[test]
fn for_ci_servers() {
    let folder = broken();
    std::fs::write(
        folder.path().join("wrong.toml"),
        "version = 1\nrulez = \"<&>\"\n",
    )
    .expect("a file");
    let run = run(
        folder.path(),
        &["test", "fwc.toml", "wrong.toml", "--format", "junit"],
    );
    assert_eq!((run.status, run.err.as_str()), (1, ""));
    insta::assert_snapshot!("for_ci_servers", run.out);
}

/// A policy that is wrong has no outcomes; the tests of the others are proven.
#[test]
fn several_policies() {
    let folder = folder(&[
        ("hosts/good.toml", POLICY),
        ("hosts/wrong.toml", "version = 1\nrulez = 1\n"),
    ]);
    let run = run(folder.path(), &["test", "hosts"]);
    assert_eq!(run.status, 1);
    assert_eq!(run.out, "ok     ssh is for the office\n");
    let good = "hosts/good.toml: 1 test holds for every packet\n";
    assert!(run.err.starts_with(good), "{}", run.err);
    assert!(
        run.err.ends_with("hosts/wrong.toml: 1 error\n"),
        "{}",
        run.err
    );
}

/// The tests are proven on the rules that a template gives, not on the policy: without its source the rule for SSH is
/// wider than the policy says.
#[test]
fn rules_of_another_template() {
    let template = std::fs::read_to_string(root().join("templates/group.j2"));
    let template = template.expect("a built-in template");
    let wider = template.replace(
        "{% for line in group.lines %}",
        "{% if group.lines[0].comment == \"fwc:ssh\" %}-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n\
         {% endif %}{% for line in group.lines %}",
    );
    assert_ne!(wider, template);
    let folder = folder(&[("fwc.toml", POLICY), ("mine/group.j2", &wider)]);
    let run = run(folder.path(), &["test", "--templates", "mine"]);
    assert_eq!(run.status, 1);
    assert_eq!(run.out, "FAILED ssh is for the office\n", "{}", run.err);
    assert!(run.err.starts_with("error[proof-failed]: "), "{}", run.err);
    for words in ["policy: drop, by the default", "rules: accept, by line "] {
        assert!(run.err.contains(words), "no `{words}` in\n{}", run.err);
    }
}

#[test]
fn no_templates() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["test", "--templates", "nowhere"]);
    assert_eq!((run.status, run.out.as_str()), (1, ""));
    assert!(run.err.starts_with("error[unreadable]: "), "{}", run.err);
}

/// What raw and mangle write into a packet the rules behind read: with the tracking or the hop limit that was there before, both
/// tests would hold.
#[test]
fn a_test_sees_what_rules_write() {
    let untracked = "version = 1
[[raw]]
type = \"notrack\"
service = \"53/udp\"
[[custom]]
table = \"raw\"
chain = \"PREROUTING\"
place = \"after\"
rule = \"-m conntrack --ctstate UNTRACKED -j DROP\"
[[rules]]
service = \"53/udp\"
[[tests]]
name = \"dns is served\"
service = \"53/udp\"
state = [\"untracked\", \"new\"]
scope = \"ipv4\"
expect = \"accept\"
";
    let hops = "version = 1
[[custom]]
table = \"mangle\"
chain = \"PREROUTING\"
place = \"after\"
scope = \"ipv4\"
rule = \"-p tcp -j TTL --ttl-set 5\"
[[custom]]
table = \"filter\"
chain = \"INPUT\"
place = \"before\"
scope = \"ipv4\"
rule = \"-m ttl --ttl-lt 9 -j DROP\"
[[rules]]
service = \"ssh\"
[[tests]]
name = \"ssh is served\"
service = \"ssh\"
scope = \"ipv4\"
expect = \"accept\"
";
    for (policy, write) in [(untracked, "--ctstate UNTRACKED"), (hops, "--ttl-set 5")] {
        let wrong = folder(&[("fwc.toml", policy)]);
        let found = run(wrong.path(), &["test"]);
        assert_eq!(found.status, 1, "{write}: {}", found.err);
        assert!(found.out.starts_with("FAILED "), "{}", found.out);
    }
    // A hop limit that is large enough still lets them in, whatever it was on arrival.
    let enough = hops.replace("--ttl-set 5", "--ttl-set 50");
    let right = folder(&[("fwc.toml", &enough)]);
    let found = run(right.path(), &["test"]);
    assert_eq!(found.status, 0, "{}", found.err);
}

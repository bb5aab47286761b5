//! `fwc diff` between policies, files, folders and revisions.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fwc::{folder, run};

const BEFORE: &str = r#"version = 1

[interfaces]
wan = "eth0"
lan = "eth1"

[addresses]
office = ["203.0.113.0/24", "2001:db8:1::/48"]

[[rules]]
name = "ssh"
from = "lan"
service = "ssh"

[[rules]]
name = "web"
service = ["http", "https"]

[[rules]]
name = "out"
from = "lan"
to = "wan"
"#;

fn after() -> String {
    BEFORE
        .replace(
            "from = \"lan\"\nservice = \"ssh\"",
            "from = [\"lan\", \"wan\"]\nsource = \"office\"\nservice = \"ssh\"",
        )
        .replace("[\"http\", \"https\"]", "[\"http\"]")
}

fn rules(body: &str) -> String {
    format!("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{body}COMMIT\n")
}

#[test]
fn packets_between_policies() {
    let folder = folder(&[("before.toml", BEFORE), ("after.toml", &after())]);
    let diff = run(
        folder.path(),
        &["diff", "--packets", "before.toml", "after.toml"],
    );
    assert_eq!(diff.status, 2, "{}", diff.err);
    insta::assert_snapshot!(diff.out);
}

const FORWARDING: &str = r#"version = 1

[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = "10.0.0.0/24" }

[[nat]]
name = "the web server"
type = "dnat"
from = "wan"
to = "lan"
destination = "203.0.113.1"
service = "8080/tcp"
to-destination = "10.0.0.5:80"

[[nat]]
name = "one address for all"
type = "masquerade"
from = "lan"
to = "wan"

[[rules]]
name = "out"
from = "lan"
to = "wan"
"#;

/// Packets as they arrive, with where they went and go, and the entries that send them there.
#[test]
fn packets_that_go_elsewhere() {
    let moved = FORWARDING.replace("10.0.0.5:80", "10.0.0.6:80");
    let closed = FORWARDING.replace("10.0.0.5:80\"", "10.0.0.5:80\"\naccept = false");
    let opened = FORWARDING.replace("\"8080/tcp\"", "[\"8080/tcp\", \"8443/tcp\"]");
    let as_other = FORWARDING.replace(
        "type = \"masquerade\"",
        "type = \"snat\"\nto-source = \"203.0.113.1\"",
    );
    let redirected = format!(
        "{FORWARDING}\n[[nat]]\ntype = \"redirect\"\nfrom = \"lan\"\nservice = \"http\"\n\
         destination = \"!10.0.0.0/24\"\nscope = \"ipv4\"\nto-port = 3128\n"
    );
    let folder = folder(&[
        ("before.toml", FORWARDING),
        ("moved.toml", &moved),
        ("closed.toml", &closed),
        ("opened.toml", &opened),
        ("as-other.toml", &as_other),
        ("redirected.toml", &redirected),
    ]);
    let mut all = String::new();
    for after in ["moved", "closed", "opened", "as-other", "redirected"] {
        let file = format!("{after}.toml");
        let diff = run(folder.path(), &["diff", "--packets", "before.toml", &file]);
        assert_eq!(diff.status, 2, "{}", diff.err);
        all += &format!("=== {after}\n{}\n", diff.out);
    }
    insta::assert_snapshot!(all);
    let json = run(
        folder.path(),
        &[
            "diff",
            "--packets",
            "--format",
            "json",
            "before.toml",
            "moved.toml",
        ],
    );
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    let change = &json["packets"]["changes"][0];
    assert_eq!(change["hook"], "forward");
    assert_eq!(change["kind"], "redirected");
    assert_eq!(change["before"], "to 10.0.0.5:80, accept");
    assert_eq!(change["after"], "to 10.0.0.6:80, accept");
    assert_eq!(
        change["rules"]["before"][0]["name"],
        "nat \"the web server\""
    );
    assert_eq!(change["example"]["destination"], "203.0.113.1");
}

/// What a template or a hand writes otherwise, and means the same.
#[test]
fn translations_that_are_written_otherwise() {
    let nat = |rule: &str| {
        format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n{rule}COMMIT\n{}",
            rules("-A FORWARD -d 10.0.0.5/32 -j ACCEPT\n")
        )
    };
    let one = nat("-A PREROUTING -d 203.0.113.1/32 -j DNAT --to-destination 10.0.0.5\n");
    let two = nat(
        "-A PREROUTING -d 203.0.113.1/32 -p tcp -j DNAT --to-destination 10.0.0.5\n\
         -A PREROUTING -d 203.0.113.1/32 -j DNAT --to-destination 10.0.0.5\n",
    );
    let folder = folder(&[("one.v4", &one), ("two.v4", &two)]);
    let diff = run(folder.path(), &["diff", "--packets", "one.v4", "two.v4"]);
    assert_eq!(diff.status, 0, "{}", diff.out);
    assert_eq!(
        diff.out,
        "1 rule changed, no packet does: proven for every packet of IPv4\n"
    );
}

#[test]
fn packets_then_rules() {
    let folder = folder(&[
        (
            "a.v4",
            &rules(
                "-A INPUT -s 192.0.2.0/24 -p tcp --dport 22 -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n-A INPUT -j LOG --log-prefix \"no: \"\n",
            ),
        ),
        (
            "b.v4",
            &rules(
                "-A INPUT -p icmp -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp --dport 23 -j REJECT\n-A INPUT -j LOG --log-prefix \"denied: \"\n",
            ),
        ),
    ]);
    let diff = run(folder.path(), &["diff", "a.v4", "b.v4"]);
    assert_eq!(diff.status, 2, "{}", diff.err);
    insta::assert_snapshot!(diff.out);
}

#[test]
fn as_markdown() {
    let folder = folder(&[("before.toml", BEFORE), ("after.toml", &after())]);
    let diff = run(
        folder.path(),
        &["diff", "--format", "markdown", "before.toml", "after.toml"],
    );
    assert_eq!(diff.status, 2, "{}", diff.err);
    insta::assert_snapshot!(diff.out);
}

#[test]
fn as_json() {
    let folder = folder(&[("before.toml", BEFORE), ("after.toml", &after())]);
    let arguments = [
        "diff",
        "--format",
        "json",
        "before.toml",
        "after.toml",
        "--unified",
        "--packets",
        "--rules",
    ];
    let diff = run(folder.path(), &arguments);
    assert_eq!(diff.status, 2, "{}", diff.err);
    let value: Value = serde_json::from_str(&diff.out).unwrap();
    assert_eq!(value["schema"], "fwc.diff/1");
    assert_eq!(value["from"], "before.toml");
    assert_eq!(value["compared"], serde_json::json!(["ipv4", "ipv6"]));
    assert_eq!(value["different"], true);
    assert_eq!(value["packets"]["complete"], true);
    // One entry a box: what the contract of all commands says, and before, after, rules.
    let opened = &value["packets"]["changes"][0];
    let expected = serde_json::json!({
        "family": "ipv4",
        "hook": "input",
        "table": "filter",
        "kind": "opened",
        "before": "drop",
        "after": "accept",
        "where": {
            "from": ["wan"], "to": [], "source": ["office"], "destination": [], "service": ["ssh"],
            "state": ["new", "untracked"],
        },
        "example": {
            "in": "eth0", "source": "203.0.113.1", "destination": "1.0.0.1", "protocol": "tcp",
            "source-port": 32768, "destination-port": 22, "tcp-flags": "syn/fin,syn,rst,psh,ack,urg",
            "state": "new", "hop-limit": 64,
        },
        "depends_on": [],
        "effects": { "before": ["LOG --log-prefix \"fwc denied: \""], "after": [] },
        "possible": true,
        "rules": {
            "before": [{ "rule": "the default of INPUT: DROP", "file": "before.toml", "line": null, "name": null }],
            "after": [{
                "rule": "-A INPUT -s 203.0.113.0/24 -i eth0 -p tcp -m tcp --dport 22 -m comment --comment \"fwc:ssh\" -j ACCEPT",
                "file": "after.toml",
                "line": 10,
                "name": "rule \"ssh\"",
            }],
        },
    });
    assert_eq!(*opened, expected);
    assert_eq!(value["rules"]["ipv4"][0]["chain"], "INPUT");
    let unified = value["unified"]["ipv4"].as_str().unwrap();
    assert!(
        unified.starts_with("--- before.toml (ipv4)\n+++ after.toml (ipv4)\n")
            || unified.contains("--- before.toml (IPv4)")
    );
}

/// Other rules, no other packet: said, and status 0 for `--packets`.
#[test]
fn no_packet_changes() {
    let folder = folder(&[
        (
            "a.v4",
            &rules(
                "-A INPUT -s 192.0.2.0/25 -j ACCEPT\n-A INPUT -s 192.0.2.128/25 -j ACCEPT\n-A INPUT -s 192.0.2.7/32 -j DROP\n",
            ),
        ),
        ("b.v4", &rules("-A INPUT -s 192.0.2.0/24 -j ACCEPT\n")),
    ]);
    let packets = run(folder.path(), &["diff", "--packets", "a.v4", "b.v4"]);
    let said = "3 rules changed, no packet does: proven for every packet of IPv4\n";
    assert_eq!((packets.status, packets.out.as_str()), (0, said));
    let both = run(folder.path(), &["diff", "a.v4", "b.v4"]);
    assert_eq!(both.status, 2);
    assert!(both.out.starts_with(said), "{}", both.out);
    let json = run(
        folder.path(),
        &["diff", "--packets", "--format", "json", "a.v4", "b.v4"],
    );
    let value: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.status, &value["different"]), (0, &Value::Bool(false)));
    assert_eq!(value["packets"]["changes"], serde_json::json!([]));
}

/// What the tools treat as equal is no difference, and nothing is printed on standard output.
#[test]
fn other_words_are_no_difference() {
    let folder = folder(&[
        (
            "a.v4",
            &rules(
                "-A INPUT -p tcp --dport ssh -s 192.0.2.1 -j ACCEPT\n-A INPUT -m state --state NEW -j DROP\n",
            ),
        ),
        (
            "b.v4",
            "*filter\n:OUTPUT ACCEPT [5:7]\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n# comment\n[1:2] -A INPUT -s 192.0.2.1/32 -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -m conntrack --ctstate NEW -j DROP\nCOMMIT\n*nat\nCOMMIT\n",
        ),
    ]);
    for form in [&[][..], &["--packets"], &["--rules"], &["--unified"]] {
        let arguments = [&["diff"][..], form, &["a.v4", "b.v4"]].concat();
        let diff = run(folder.path(), &arguments);
        assert_eq!((diff.status, diff.out.as_str()), (0, ""), "{form:?}");
        assert_eq!(diff.err, "no difference\n");
    }
}

#[test]
fn sets_are_a_part_of_it() {
    let policy = |members: &str| {
        format!(
            "version = 1\naddresses.bad = {{ include = [{members}], set = true }}\n\
             addresses.banned = {{ set = \"dynamic\", timeout = \"1h\" }}\n\
             [[rules]]\naction = \"drop\"\nsource = [\"bad\", \"banned\"]\n[[rules]]\nservice = \"ssh\"\n"
        )
    };
    let folder = folder(&[
        ("a.toml", &policy("\"192.0.2.0/25\", \"2001:db8::1\"")),
        ("b.toml", &policy("\"192.0.2.0/24\", \"2001:db8::1\"")),
    ]);
    let diff = run(folder.path(), &["diff", "a.toml", "b.toml"]);
    assert_eq!(diff.status, 2, "{}", diff.err);
    insta::assert_snapshot!(diff.out);
    // The same in files, of which the sets are one.
    for name in ["a", "b"] {
        let policy = format!("{name}.toml");
        assert_eq!(
            run(folder.path(), &["build", "-o", name, &policy]).status,
            0
        );
    }
    let files = run(folder.path(), &["diff", "--packets", "a", "b.toml"]);
    assert_eq!(files.status, 2, "{}", files.err);
    assert!(files.out.contains("source 192.0.2.128/25"), "{}", files.out);
    assert_eq!(run(folder.path(), &["diff", "b", "b.toml"]).status, 0);
}

/// `--family` compares that family alone: policies, folders with sets, and revisions, in every form and for the exit status.
#[test]
fn one_family_is_compared_alone() {
    let policy = |v4: &str, v6: &str| {
        format!(
            "version = 1\naddresses.bad = {{ include = [\"{v4}\", \"{v6}\"], set = true }}\n\
             [[rules]]\naction = \"drop\"\nsource = \"bad\"\n[[rules]]\nservice = \"ssh\"\n"
        )
    };
    // The members of IPv6 alone differ, and one rule of IPv6.
    let before = policy("192.0.2.0/25", "2001:db8::1");
    let after = policy("192.0.2.0/25", "2001:db8::2")
        + "[[rules]]\nservice = \"http\"\nsource = \"2001:db8:5::/48\"\nscope = \"ipv6\"\n";
    let folder = folder(&[("a.toml", &before), ("b.toml", &after)]);
    for name in ["a", "b"] {
        let policy = format!("{name}.toml");
        assert_eq!(
            run(folder.path(), &["build", "-o", name, &policy]).status,
            0
        );
    }
    for sides in [["a.toml", "b.toml"], ["a", "b"], ["a", "b.toml"]] {
        let diff = |more: &[&str]| {
            let arguments = [&["diff"], &sides[..], more].concat();
            run(folder.path(), &arguments)
        };
        for views in [&[][..], &["--packets"], &["--rules"], &["--unified"]] {
            let v4 = diff(&[views, &["--family", "ipv4"]].concat());
            assert_eq!((v4.status, v4.out.as_str()), (0, ""), "{sides:?} {views:?}");
            assert!(v4.err.ends_with("no difference in IPv4\n"), "{}", v4.err);
            let v6 = diff(&[views, &["--family", "ipv6"]].concat());
            assert_eq!(v6.status, 2, "{sides:?} {views:?}: {}", v6.err);
            let both = diff(views);
            assert_eq!(both.status, 2, "{sides:?} {views:?}: {}", both.err);
        }
        let json = diff(&["--family", "ipv4", "--format", "json"]);
        let value: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(json.status, 0);
        assert_eq!(value["compared"], serde_json::json!(["ipv4"]));
        assert_eq!(value["different"], false);
        assert_eq!(value["packets"]["changes"], serde_json::json!([]));
        assert_eq!(value["rules"]["ipv6"], Value::Null);
        assert_eq!(value["rules"]["sets"], serde_json::json!([]));
        let json = diff(&["--family", "ipv6", "--format", "json"]);
        let value: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(value["compared"], serde_json::json!(["ipv6"]));
        assert_eq!(value["rules"]["ipv4"], Value::Null);
        assert_eq!(value["rules"]["sets"].as_array().unwrap().len(), 1);
    }
}

/// What is wrong in the other family does not keep a family from being compared; a side without the family is an error.
#[test]
fn of_a_family_that_is_not_asked_for_nothing_is_read() {
    let odd = "*filter\n-A INPUT -s nonsense -j ACCEPT\nCOMMIT\n";
    let folder = folder(&[
        ("a/rules.v4", &rules("-A INPUT -p udp -j ACCEPT\n")),
        ("a/rules.v6", odd),
        ("b/rules.v4", &rules("")),
    ]);
    let diff = run(folder.path(), &["diff", "--family", "ipv4", "a", "b"]);
    assert_eq!(diff.status, 2, "{}", diff.err);
    assert_eq!(diff.err, "");
    let both = run(folder.path(), &["diff", "a", "a"]);
    assert_eq!(both.status, 1, "{}", both.err);
    let v6 = run(folder.path(), &["diff", "--family", "ipv6", "a", "b"]);
    assert_eq!(v6.status, 1, "{}", v6.err);
    assert_eq!(v6.err, "error: `b` has no rules for IPv6\n");
}

/// A rule that was changed keeps its bucket: other packets come to it, that is all.
#[test]
fn a_limit_of_a_changed_rule_is_the_same_limit() {
    let folder = folder(&[
        (
            "a.v4",
            &rules("-A INPUT -p tcp --dport 22 -m limit --limit 3/min -j ACCEPT\n"),
        ),
        (
            "b.v4",
            &rules("-A INPUT -p tcp --dport 22:23 -m limit --limit 3/min -j ACCEPT\n"),
        ),
        (
            "c.v4",
            &rules("-A INPUT -p tcp --dport 22 -m limit --limit 4/min -j ACCEPT\n"),
        ),
    ]);
    let diff = run(folder.path(), &["diff", "--packets", "a.v4", "b.v4"]);
    insta::assert_snapshot!(diff.out);
    let rate = run(folder.path(), &["diff", "--packets", "a.v4", "c.v4"]);
    insta::assert_snapshot!("a_rate_that_changed", rate.out);
}

#[test]
fn a_name_that_changed_its_meaning_is_marked() {
    let folder = folder(&[
        (
            "a.toml",
            "version = 1\naddresses.office = [\"192.0.2.0/24\"]\n[[rules]]\nsource = \"office\"\nservice = \"ssh\"\n",
        ),
        (
            "b.toml",
            "version = 1\naddresses.office = [\"198.51.100.0/24\"]\n[[rules]]\nsource = \"office\"\nservice = \"ssh\"\n",
        ),
    ]);
    let diff = run(folder.path(), &["diff", "--packets", "a.toml", "b.toml"]);
    insta::assert_snapshot!(diff.out);
}

#[test]
fn what_is_not_shown_is_counted() {
    let many: String = (0..40)
        .map(|at| {
            format!(
                "-A INPUT -s 10.{at}.0.0/16 -p tcp --dport {} -j ACCEPT\n",
                1000 + 7 * at
            )
        })
        .collect();
    let folder = folder(&[("a.v4", &rules("")), ("b.v4", &rules(&many))]);
    let diff = run(
        folder.path(),
        &["diff", "--packets", "--most", "2", "a.v4", "b.v4"],
    );
    insta::assert_snapshot!(diff.out);
}

/// What a file says does not steer the terminal.
#[test]
fn escapes_do_not_reach_the_terminal() {
    let comment = "-A INPUT -p tcp -m comment --comment \"a\u{1b}[31mb\" -j LOG --log-prefix \"\u{1b}[1m\"\n-A INPUT -j ACCEPT -m comment --comment \"\u{9b}1m\"\n";
    let folder = folder(&[("a.v4", &rules("")), ("b.v4", &rules(comment))]);
    for format in ["text", "markdown"] {
        let arguments = [
            "diff",
            "--packets",
            "--rules",
            "--unified",
            "--format",
            format,
            "a.v4",
            "b.v4",
        ];
        let diff = run(folder.path(), &arguments);
        assert_eq!(diff.status, 2, "{}", diff.err);
        let harmful = |c: char| c.is_control() && c != '\n';
        assert!(!diff.out.contains(harmful), "{:?}", diff.out);
    }
}

#[test]
fn chains_that_cannot_be_compared() {
    let folder = folder(&[
        ("a.v4", &rules("")),
        (
            "b.v4",
            "*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n-A INPUT -j A\n-A A -j A\nCOMMIT\n",
        ),
        (
            "c.v4",
            "*filter\n-A INPUT -p tcp --no-such-option 22 -j ACCEPT\nCOMMIT\n",
        ),
    ]);
    let looped = run(folder.path(), &["diff", "a.v4", "b.v4"]);
    assert_eq!(looped.status, 1);
    assert_eq!(
        looped.err,
        "error[bad-rules]: a loop: this jump leads to chain `A` again\n --> b.v4:5:1\n  |\n5 | -A A -j A\n  | ^^^^^^^^^\n\n"
    );
    let unread = run(folder.path(), &["diff", "a.v4", "c.v4"]);
    assert_eq!(unread.status, 1, "{}", unread.err);
    assert!(
        unread.err.contains("c.v4:2") && unread.err.contains("no-such-option"),
        "{}",
        unread.err
    );
}

/// A git repository: two commits of a policy with an include and a list, in a folder of it.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let policy = "version = 1\ninclude = [\"../common/*.toml\"]\naddresses.bad = { file = \"lists/bad.txt\" }\n\
                      [[rules]]\naction = \"drop\"\nsource = \"bad\"\n[[rules]]\nservice = \"ssh\"\n";
        let files = folder(&[
            ("hosts/fwc.toml", policy),
            ("hosts/lists/bad.txt", "192.0.2.1\n"),
            ("common/web.toml", "[[rules]]\nservice = \"http\"\n"),
            ("rules.v4", &rules("")),
        ]);
        let repository = Self(files);
        repository.git(&["init", "-q", "-b", "main"]);
        repository.commit();
        repository.write("common/web.toml", "[[rules]]\nservice = \"https\"\n");
        repository.write("hosts/lists/bad.txt", "192.0.2.0/24\n");
        repository.write("rules.v4", &rules("-A INPUT -p tcp -j ACCEPT\n"));
        repository.commit();
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&[
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.net",
            "commit",
            "-q",
            "-m",
            "x",
        ]);
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(self.path());
        // A hook that runs the tests has these.
        for name in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
            git.env_remove(name);
        }
        let ended = git.output().unwrap();
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
}

#[test]
fn a_policy_as_it_was() {
    let repository = Repository::new();
    let from_hosts = run(
        &repository.path().join("hosts"),
        &["diff", "--packets", "git:HEAD~1", "fwc.toml"],
    );
    assert_eq!(from_hosts.status, 2, "{}", from_hosts.err);
    insta::assert_snapshot!(from_hosts.out);
    // From any folder, and by any name of the file.
    let top = repository.path();
    let said = |at: &Path, arguments: &[&str]| {
        let diff = run(at, &[&["diff", "--packets"], arguments].concat());
        assert_eq!(diff.status, 2, "{arguments:?}: {}", diff.err);
        diff.out
            .replace("git:HEAD~1:", "git:REV:")
            .replace("git:main^:", "git:REV:")
    };
    let one = said(top, &["git:HEAD~1", "hosts/fwc.toml"]);
    assert_eq!(
        one,
        said(top, &["git:main^:hosts/fwc.toml", "hosts/fwc.toml"])
    );
    let outside = folder(&[]);
    let absolute = top.join("hosts/fwc.toml");
    let absolute = absolute.to_str().unwrap();
    said(outside.path(), &["git:HEAD~1", absolute]);
    said(
        outside.path(),
        &[&format!("git:HEAD~1:{absolute}"), absolute],
    );
    let common = top.join("common");
    said(&common, &["git:HEAD~1", "../hosts/fwc.toml"]);
    said(
        &common,
        &["git:HEAD~1:../hosts/fwc.toml", "../hosts/fwc.toml"],
    );
    said(&common, &["git:HEAD~1:hosts/fwc.toml", "git:HEAD"]);
    said(
        &top.join("hosts"),
        &["git:HEAD~1:fwc.toml", "git:HEAD:./fwc.toml"],
    );
    said(&top.join("hosts"), &["git:HEAD~1", "git:HEAD"]);
    // Rules files and folders too.
    said(top, &["git:HEAD~1", "rules.v4"]);
    said(top, &["git:HEAD~1:.", "git:HEAD:rules.v4"]);
    // The same revision is no difference.
    let same = run(top, &["diff", "git:HEAD", "hosts/fwc.toml"]);
    assert_eq!((same.status, same.out.as_str()), (0, ""), "{}", same.err);
}

#[test]
fn a_file_that_is_gone_is_still_read() {
    let repository = Repository::new();
    let top = repository.path();
    std::fs::rename(top.join("hosts/fwc.toml"), top.join("new.toml")).unwrap();
    let text = std::fs::read_to_string(top.join("new.toml")).unwrap();
    let moved = text
        .replace("../common", "common")
        .replace("lists/bad", "hosts/lists/bad");
    repository.write("new.toml", &moved);
    let diff = run(
        top,
        &["diff", "--packets", "git:HEAD:hosts/fwc.toml", "new.toml"],
    );
    assert_eq!(diff.status, 0, "{}{}", diff.out, diff.err);
}

#[test]
fn links_in_a_repository() {
    let repository = Repository::new();
    let top = repository.path();
    std::os::unix::fs::symlink("hosts", top.join("machines")).unwrap();
    std::os::unix::fs::symlink("../rules.v4", top.join("common/out.v4")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", top.join("common/passwd.v4")).unwrap();
    std::os::unix::fs::symlink("circle.v4", top.join("common/circle.v4")).unwrap();
    repository.commit();
    assert_eq!(
        run(
            top,
            &["diff", "git:HEAD:machines/fwc.toml", "hosts/fwc.toml"]
        )
        .status,
        0
    );
    assert_eq!(
        run(top, &["diff", "git:HEAD:common/out.v4", "rules.v4"]).status,
        0
    );
    for name in ["passwd", "circle"] {
        let refused = run(
            top,
            &["diff", &format!("git:HEAD:common/{name}.v4"), "rules.v4"],
        );
        assert_eq!(refused.status, 1, "{name}: {}", refused.out);
        assert!(!refused.err.contains("root:"), "{}", refused.err);
    }
}

#[test]
fn a_shallow_clone() {
    let repository = Repository::new();
    let clone = folder(&[]);
    let url = format!("file://{}", repository.path().display());
    repository.git(&[
        "clone",
        "-q",
        "--depth",
        "1",
        &url,
        clone.path().join("it").to_str().unwrap(),
    ]);
    let clone = clone.path().join("it");
    let there = run(&clone, &["diff", "git:HEAD", "hosts/fwc.toml"]);
    assert_eq!(there.status, 0, "{}", there.err);
    let gone = run(&clone, &["diff", "git:HEAD~1", "hosts/fwc.toml"]);
    assert_eq!(gone.status, 1);
    assert!(
        gone.err.contains("no revision `HEAD~1`") && gone.err.contains("git fetch --deepen"),
        "{}",
        gone.err
    );
}

#[test]
fn what_a_repository_does_not_have() {
    let repository = Repository::new();
    let top = repository.path();
    let outside = folder(&[("fwc.toml", BEFORE)]);
    let path = outside.path().join("fwc.toml");
    let path = path.to_str().unwrap();
    for (at, arguments, status, said) in [
        (
            top,
            ["git:nope", "rules.v4"],
            1,
            "there is no revision `nope`",
        ),
        (
            top,
            ["git:HEAD:nope.toml", "rules.v4"],
            1,
            "there is no `nope.toml` at `HEAD`",
        ),
        (
            top,
            ["git:HEAD:./nope.toml", "rules.v4"],
            1,
            "there is no `nope.toml` at `HEAD`",
        ),
        (
            top,
            ["git:HEAD:../nope.toml", "rules.v4"],
            1,
            "is not in the repository",
        ),
        (
            top,
            ["git:HEAD:hosts", "rules.v4"],
            64,
            "holds neither rules.v4 nor rules.v6",
        ),
        (top, ["git:", "rules.v4"], 64, "does not name a revision"),
        (
            top,
            ["git::rules.v4", "rules.v4"],
            64,
            "does not name a revision",
        ),
        (
            top,
            ["git:--output=x", "rules.v4"],
            64,
            "is not a valid name of a revision",
        ),
        (
            top,
            ["git:HEAD\u{1b}[31m", "rules.v4"],
            64,
            "is not a valid name of a revision",
        ),
        (
            outside.path(),
            ["git:HEAD", path],
            1,
            "is not in a git repository",
        ),
    ] {
        let refused = run(at, &["diff", arguments[0], arguments[1]]);
        assert_eq!(
            refused.status, status,
            "{arguments:?}: {}{}",
            refused.out, refused.err
        );
        assert!(refused.err.contains(said), "{arguments:?}: {}", refused.err);
        assert!(!refused.err.contains('\u{1b}'), "{arguments:?}");
    }
    assert!(!top.join("x").exists());
}

/// A repository may name programs to run; none is.
#[test]
fn nothing_that_a_repository_says_is_run() {
    let repository = Repository::new();
    let top = repository.path();
    let ran = top.join("ran");
    let script = format!("#!/bin/sh\ntouch {}\n", ran.display());
    repository.write("run.sh", &script);
    let mut mode = Command::new("chmod");
    mode.arg("755").arg(top.join("run.sh"));
    assert!(mode.status().unwrap().success());
    let tool = top.join("run.sh");
    let tool = tool.to_str().unwrap();
    for key in [
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "diff.external",
        "filter.x.smudge",
    ] {
        repository.git(&["config", key, tool]);
    }
    repository.git(&["config", "core.hooksPath", top.to_str().unwrap()]);
    repository.write(".gitattributes", "* filter=x diff=x\n");
    let diff = run(top, &["diff", "git:HEAD~1", "hosts/fwc.toml"]);
    assert_eq!(diff.status, 2, "{}", diff.err);
    assert!(!ran.exists());
}

/// What the policy includes must be in the repository too.
#[test]
fn an_include_from_outside() {
    let repository = Repository::new();
    let top = repository.path();
    let outside = folder(&[("more.toml", "[[rules]]\nservice = \"ntp\"\n")]);
    let include = outside.path().join("more.toml");
    repository.write(
        "far.toml",
        &format!(
            "version = 1\ninclude = [{:?}]\n[[rules]]\nservice = \"ssh\"\n",
            include.to_str().unwrap()
        ),
    );
    repository.commit();
    let refused = run(top, &["diff", "git:HEAD:far.toml", "hosts/fwc.toml"]);
    assert_eq!(refused.status, 1, "{}", refused.out);
    assert!(
        refused.err.contains("not in the repository")
            && refused.err.contains("git:HEAD:far.toml:2"),
        "{}",
        refused.err
    );
}

/// What rules that write the same header field leave in the end is compared, not their order or number: `TTL` and `DSCP` may
/// change places, two `DSCP` or three decrements instead of two may not.
#[test]
fn what_is_left_of_hop_limit_and_type_of_service_is_compared() {
    let dscp = |class: u8| format!("-A FORWARD -p udp -j DSCP --set-dscp {class}\n");
    let less = "-A FORWARD -p udp -j TTL --ttl-dec 1\n".to_owned();
    let set = "-A FORWARD -p udp -j TTL --ttl-set 9\n".to_owned();
    let bits = |bits: &str| format!("-A FORWARD -p udp -j TOS --set-tos {bits}\n");
    let all = |parts: &[&String]| parts.iter().map(|part| part.as_str()).collect::<String>();
    let (low, high) = (dscp(10), dscp(18));
    let [one, two] = [bits("0x01/0x01"), bits("0x02/0x02")];
    let same = [
        (all(&[&low, &set]), all(&[&set, &low])),
        (all(&[&one, &two]), all(&[&two, &one])),
        (all(&[&less, &less, &set]), all(&[&less, &set, &set])),
        (all(&[&low, &high]), all(&[&low, &low, &high])),
    ];
    let other = [
        (
            all(&[&low, &high]),
            all(&[&high, &low]),
            "altogether TOS 0x48/0xfc -> altogether TOS 0x28/0xfc",
        ),
        (
            all(&[&low, &high, &low, &high]),
            all(&[&high, &low, &high, &low]),
            "altogether TOS 0x48/0xfc -> altogether TOS 0x28/0xfc",
        ),
        (
            all(&[&less, &less]),
            all(&[&less, &less, &less]),
            "altogether TTL -2 -> altogether TTL -3",
        ),
        (
            all(&[&set, &less]),
            all(&[&less, &set]),
            "altogether TTL 8 -> altogether TTL 9",
        ),
    ];
    // In one table, and beside another that does something.
    for filter in ["", "-A FORWARD -i eth5 -j DROP\n"] {
        let text = |mangle: &str| {
            format!(
                "*mangle\n:FORWARD ACCEPT [0:0]\n{mangle}COMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n{filter}COMMIT\n"
            )
        };
        let diff = |one: &str, two: &str| {
            let folder = folder(&[("a.v4", &text(one)), ("b.v4", &text(two))]);
            run(folder.path(), &["diff", "--packets", "a.v4", "b.v4"])
        };
        for (one, two) in &same {
            let diff = diff(one, two);
            assert_eq!(diff.status, 0, "{one}{two}{}", diff.out);
        }
        for (one, two, said) in &other {
            let diff = diff(one, two);
            assert_eq!(diff.status, 2, "{one}{two}{}", diff.out);
            let heading = format!("affected in mangle FORWARD: {said}\n  ");
            assert!(diff.out.starts_with(&heading), "{}", diff.out);
            assert!(diff.out.contains("\n    - a.v4:4: "), "{}", diff.out);
        }
    }
}

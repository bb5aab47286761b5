//! Rules of other programs that fwc reads with difficulty, or not at all: they stop no command that need not read them, and keep
//! no change in force.

use std::fs;

use super::Test;
use super::confirm::{is_open, until};
use super::namespace::{Backend, Namespace};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("odd_comments_stop_no_command", odd_comments),
    ("odd_comments_do_not_keep_a_change", |backend| {
        keeps_no_change(backend, "")
    }),
    ("unreadable_tables_do_not_keep_a_change", |backend| {
        unreadable(backend, "")
    }),
    ("unreadable_tables_do_not_keep_a_shared_change", |backend| {
        unreadable(backend, "[ownership]\nmode = \"shared\"\n")
    }),
    (
        "unreadable_tables_do_not_keep_a_change_beside_others",
        |backend| unreadable(backend, "[ownership]\npreserve = [\"f2b-*\"]\n"),
    ),
];

type Result = std::result::Result<(), String>;

const COMMENTS: &[&str] = &[
    "for Bob\nsee ticket 7",
    "a\nCOMMIT\n*filter\n-A INPUT -j ACCEPT\n# b",
    "\"quoted\"\n\\",
    "[unsupported revision] of the plan",
    "# Table `filter' is incompatible, use 'nft' tool.",
    "x\n# Table `filter' is incompatible, use 'nft' tool.",
];

const SHARED: &str = "version = 1\n[ownership]\nmode = \"shared\"\n";

/// A co-tenant's rule, and a chain of his.
fn add(ns: &Namespace, comment: &str) {
    let rule = ["-m", "comment", "--comment", comment, "-j", "RETURN"];
    ns.iptables("iptables", &["-N", "f2b-x"]);
    ns.iptables("iptables", &[&["-A", "f2b-x"], &rule[..]].concat());
    ns.iptables(
        "iptables",
        &[&["-A", "FORWARD", "-s", "192.0.2.1"], &rule[..]].concat(),
    );
    ns.iptables("iptables", &["-I", "INPUT", "-j", "f2b-x"]);
}

/// What others have, byte for byte.
fn of_others(ns: &Namespace) -> String {
    let saved = ns
        .run(&format!("iptables-{}-save", ns.backend), &[], "")
        .expect(0)
        .out;
    let mut kept = String::new();
    let mut is_ours = false;
    for line in saved.lines().filter(|line| !line.starts_with(':')) {
        if line.starts_with("-A ") {
            is_ours = line.contains("FWC-");
        }
        let is_comment = line.starts_with("# Generated") || line.starts_with("# Completed");
        if !is_ours && !is_comment {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn odd_comments(backend: Backend) -> Result {
    for comment in COMMENTS {
        let ns = Namespace::new(backend);
        let rules = "[[rules]]\nservice = \"ssh\"\n";
        fs::write(ns.path("one.toml"), format!("{SHARED}{rules}")).unwrap();
        let more = "[[rules]]\nservice = \"http\"\n";
        fs::write(ns.path("two.toml"), format!("{SHARED}{rules}{more}")).unwrap();
        add(&ns, comment);
        let before = of_others(&ns);
        ns.kept(&["status"]).expect(2);
        ns.apply("one.toml", &["--dry-run"]).expect(2);
        ns.apply("one.toml", &[]).expect(0);
        ns.apply("two.toml", &[]).expect(0);
        ns.kept(&["rollback", "--yes"]).expect(0);
        ns.kept(&["status"]).expect(0);
        assert_eq!(of_others(&ns), before, "{comment:?}");
        // Alone it says whose rules are in the way, and takes them away where that is wanted.
        let refused = ns.apply("ssh.toml", &[]).expect(1);
        assert!(
            refused.err.contains("rules that fwc did not make"),
            "{}",
            refused.err
        );
        ns.apply("ssh.toml", &["--take-over"]).expect(0);
        assert!(!ns.saved().contains("f2b-x"));
    }
    Ok(())
}

fn keeps_no_change(backend: Backend, ownership: &str) -> Result {
    for comment in COMMENTS {
        let ns = Namespace::new(backend);
        let closed = format!("version = 1\n{ownership}[[rules]]\nservice = \"http\"\n");
        fs::write(ns.path("closed.toml"), closed).unwrap();
        ns.apply("ssh.toml", &[]).expect(0);
        ns.apply("closed.toml", &["--confirm", "--timeout", "5s"])
            .expect(0);
        add(&ns, comment);
        until("the change goes back", || !is_open(&ns));
        let saved = ns.saved();
        assert_eq!(
            saved.matches("--dport 22 ").count(),
            2,
            "{comment:?}\n{saved}"
        );
        assert!(!saved.contains("--dport 80 "), "{comment:?}\n{saved}");
        assert!(saved.contains("-A FORWARD -s 192.0.2.1/32 "), "{saved}");
    }
    Ok(())
}

/// A native nft rule in a table of iptables' that iptables has no words for.
fn unreadable(backend: Backend, ownership: &str) -> Result {
    if backend == Backend::Legacy {
        return Err("its tables are iptables' alone".to_owned());
    }
    find("nft")?;
    let ns = Namespace::new(backend);
    // Two tables, so that the filter comes to the new rules by a bridge.
    let policy = |service: &str, class: &str| {
        format!(
            "version = 1\n{ownership}[[rules]]\nservice = \"{service}\"\n\n[[mangle]]\ntype = \"dscp\"\nfrom = \"host\"\nservice = \"sip\"\nset = \"{class}\"\n"
        )
    };
    fs::write(ns.path("old.toml"), policy("ssh", "ef")).unwrap();
    fs::write(ns.path("new.toml"), policy("http", "af41")).unwrap();
    ns.iptables(
        "iptables",
        &["-A", "FORWARD", "-s", "192.0.2.7", "-j", "DROP"],
    );
    let mut arguments = vec!["--take-over"];
    if ownership.contains("shared") {
        arguments.clear();
    }
    ns.apply("old.toml", &arguments).expect(0);
    let listed = || {
        let text = ns
            .run("nft", &["--stateless", "list", "ruleset"], "")
            .expect(0)
            .out;
        let lines = text.lines().filter(|line| !line.contains('#'));
        lines
            .map(|line| line.replace(" counter packets 0 bytes 0", ""))
            .collect::<Vec<_>>()
    };
    let before = listed();
    ns.apply("new.toml", &["--confirm", "--timeout", "5s"])
        .expect(0);
    let commands = "add set ip filter seen { type ipv4_addr; flags dynamic; timeout 1m; }\nadd chain ip filter theirs\nadd rule ip filter theirs tcp dport 22 add @seen { ip saddr } counter\n";
    ns.run("nft", &["-f", "-"], commands).expect(0);
    let unreadable = ns.run("iptables-nft-save", &[], "").expect(0);
    assert!(
        unreadable.out.contains("incompatible"),
        "{}",
        unreadable.out
    );
    until("the change goes back", || !is_open(&ns));
    let now = listed();
    assert!(
        now.iter().any(|line| line.contains("add @seen")),
        "{now:#?}"
    );
    ns.run("nft", &["delete", "chain", "ip", "filter", "theirs"], "")
        .expect(0);
    ns.run("nft", &["delete", "set", "ip", "filter", "seen"], "")
        .expect(0);
    assert_eq!(listed(), before);
    ns.kept(&["status"]).expect(0);
    Ok(())
}

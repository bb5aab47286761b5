//! `fwc check --rules`: rules that do nothing.

use serde_json::Value;

use crate::fwc::{Run, folder, root, run};

/// The rules that the page shows.
fn rules() -> String {
    let page = std::fs::read_to_string(root().join("docs/guides/idle.md")).expect("the page");
    let (_, rest) = page.split_once("```iptables\n").expect("rules");
    rest.split_once("```").expect("an end").0.to_owned()
}

fn check(rules: &str, more: &[&str]) -> Run {
    let folder = folder(&[("rules.v4", rules)]);
    run(
        folder.path(),
        &[&["check", "--rules", "rules.v4"], more].concat(),
    )
}

#[test]
fn each_kind_is_found() {
    let run = check(&rules(), &[]);
    assert_eq!((run.status, run.out.as_str()), (0, ""));
    insta::assert_snapshot!("idle", run.err);
    // The page shows the whole of it.
    let page = std::fs::read_to_string(root().join("docs/guides/idle.md")).expect("the page");
    let shown = format!("```text\n{}\n```", run.err.trim_end());
    if std::env::var("INSTA_UPDATE").is_ok_and(|it| it == "always") {
        let (before, rest) = page.split_once("```text\n").expect("a block");
        let (_, after) = rest.split_once("\n```").expect("an end");
        let page = format!("{before}{shown}{after}");
        std::fs::write(root().join("docs/guides/idle.md"), page).expect("the page");
    }
    assert!(
        page.contains(&shown),
        "docs/guides/idle.md: look at it with INSTA_UPDATE=always"
    );
}

#[test]
fn forms_and_levels() {
    let json = check(&rules(), &["--format", "json"]);
    let report: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.status, &report["ok"]), (0, &Value::Bool(true)));
    let findings = report["findings"].as_array().expect("findings");
    let codes: Vec<_> = findings
        .iter()
        .map(|one| one["code"].as_str().expect("a code"))
        .collect();
    assert_eq!(
        codes,
        ["never-matches", "redundant", "shadowed", "unused-name"]
    );
    let denied = check(&rules(), &["--deny", "warnings"]);
    assert_eq!(denied.status, 1, "{}", denied.err);
    assert!(denied.err.contains("error[shadowed]"), "{}", denied.err);
    assert!(denied.err.contains("note[redundant]"), "{}", denied.err);
    let github = check(&rules(), &["--format", "github"]);
    assert!(
        github.out.contains("::warning file=rules.v4,line=11"),
        "{}",
        github.out
    );
}

#[test]
fn what_is_fine_and_what_cannot_be_read() {
    let run = check("*filter\n-A INPUT -s 192.0.2.1/32 -j DROP\nCOMMIT\n", &[]);
    assert_eq!(
        (run.status, run.err.as_str()),
        (0, "rules.v4: 1 rule, no findings\n")
    );
    let run = check("*filter\n-A INPUT -p tpc -j DROP\nCOMMIT\n", &[]);
    assert_eq!(run.status, 1);
    assert!(run.err.contains("error[bad-rules]"), "{}", run.err);
    let run = check(&rules(), &["--live"]);
    assert_eq!(run.status, 64, "{}", run.err);
}

/// The members of sets that nobody else fills are known in a folder.
#[test]
fn a_folder_with_sets() {
    let rules = "*filter\n-A INPUT -m set --match-set office src -j ACCEPT\n-A INPUT -s 192.0.2.7/32 -j DROP\nCOMMIT\n";
    let folder = folder(&[
        ("r/rules.v4", rules),
        (
            "r/ipsets",
            "create office hash:net family inet\nadd office 192.0.2.0/24\n",
        ),
    ]);
    let run = run(folder.path(), &["check", "--rules", "r"]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.err.contains("warning[shadowed]"), "{}", run.err);
    assert!(run.err.contains("r/rules.v4:3:1"), "{}", run.err);
}

/// What a file has that fwc does not know is said once.
#[test]
fn what_is_not_known_is_said_once() {
    let rules = "*filter\n-A INPUT -p tcp -j ULOG\n-A INPUT -p udp -j ULOG\n-A INPUT -j TARPIT\n-A INPUT -p icmp -j ULOG\nCOMMIT\n";
    let run = check(rules, &[]);
    assert_eq!(
        run.err.matches("unknown-extension").count(),
        2,
        "{}",
        run.err
    );
    assert!(
        run.err.contains("= note: 2 more rules have it"),
        "{}",
        run.err
    );
}

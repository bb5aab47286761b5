//! `fwc check`, and what all commands do with colours, pipes and policies that are not named.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::fwc::{command, folder, run};

const GOOD: &str = "version = 1\n\n[[rules]]\nservice = \"ssh\"\n";
const WRONG: &str = "version = 1\n\n[[rules]]\nservice = \"htps\"\n";
/// A note, two warnings.
const ODD: &str = "\
version = 1

[interfaces]
self = \"lo\"

[[rules]]
source = \"192.0.2.1\"
service = \"ssh\"

[[rules]]
action = \"drop\"
source = \"198.51.100.0/24\"
service = \"ssh\"

[[rules]]
from = \"self\"
state = \"established\"
";

#[test]
fn a_good_policy() {
    let folder = folder(&[("fwc.toml", GOOD)]);
    let run = run(folder.path(), &["check"]);
    assert_eq!((run.status, run.out.as_str()), (0, ""));
    let lines = |name: &str| {
        let family = if name == "rules.v4" { "ipv4" } else { "ipv6" };
        let built = crate::fwc::run(folder.path(), &["build", "-o", "-", "--family", family]);
        built
            .out
            .lines()
            .filter(|line| line.starts_with("-A "))
            .count()
    };
    let (v4, v6) = (lines("rules.v4"), lines("rules.v6"));
    let good = format!("fwc.toml: ok; 1 rule, {v4} lines in rules.v4, {v6} in rules.v6\n");
    assert_eq!(run.err, good + &crate::fwc::proven(v4 + v6));
}

#[test]
fn a_wrong_policy() {
    let folder = folder(&[("fwc.toml", WRONG)]);
    let run = run(folder.path(), &["check"]);
    assert_eq!((run.status, run.out.as_str()), (1, ""));
    insta::assert_snapshot!("check_wrong", run.err);
}

/// Warnings and notes do not change the exit status.
#[test]
fn an_odd_policy() {
    let folder = folder(&[("fwc.toml", ODD)]);
    let run = run(folder.path(), &["check"]);
    assert_eq!((run.status, run.out.as_str()), (0, ""));
    insta::assert_snapshot!("check_odd", run.err);
}

#[test]
fn quiet_prints_errors_only() {
    let folder = folder(&[("odd.toml", ODD), ("wrong.toml", WRONG)]);
    let odd = run(folder.path(), &["check", "-q", "odd.toml"]);
    assert_eq!(
        (odd.status, odd.out.as_str(), odd.err.as_str()),
        (0, "", "")
    );
    let wrong = run(folder.path(), &["check", "-q", "wrong.toml"]);
    assert_eq!((wrong.status, wrong.out.as_str()), (1, ""));
    assert!(
        wrong.err.starts_with("error[unknown-service]"),
        "{}",
        wrong.err
    );
}

#[test]
fn the_policy_that_is_not_named() {
    let folder = folder(&[("fwc.toml", GOOD), ("empty/x", "")]);
    let run_there = run(folder.path(), &["check"]);
    assert!(
        run_there.err.starts_with("fwc.toml: ok; "),
        "{}",
        run_there.err
    );
    if std::path::Path::new("/etc/fwc/fwc.toml").exists() {
        return; // then that one is meant
    }
    let missing = run(&folder.path().join("empty"), &["check"]);
    assert_eq!(missing.status, 1);
    insta::assert_snapshot!("check_no_policy", missing.err);
}

#[test]
fn json_of_a_good_policy() {
    let folder = folder(&[("fwc.toml", GOOD)]);
    let run = run(folder.path(), &["check", "--format", "json"]);
    assert_eq!(run.status, 0);
    let found: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(
        found,
        json!({"schema": "fwc.check/1", "ok": true, "findings": []})
    );
}

#[test]
fn json_of_a_wrong_policy() {
    let folder = folder(&[("fwc.toml", WRONG)]);
    let run = run(folder.path(), &["check", "--format", "json"]);
    assert_eq!(run.status, 1);
    let found: Value = serde_json::from_str(&run.out).expect("JSON");
    let place = json!({
        "file": "fwc.toml",
        "line": 4,
        "column": 11,
        "end_line": 4,
        "end_column": 17,
        "text": "did you mean `https`?",
    });
    let expected = json!({
        "schema": "fwc.check/1",
        "ok": false,
        "findings": [{
            "code": "unknown-service",
            "severity": "error",
            "message": "no service named `htps`",
            "place": place,
            "places": [place],
            "labels": [],
            "notes": [],
            "help": ["`fwc services` lists the catalog; define your own under [services]"],
        }],
    });
    assert_eq!(found, expected);
}

/// The second place, and a finding without any.
#[test]
fn json_of_places() {
    let twice = "version = 1\n[[rules]]\nname = \"a\"\nservice = \"ssh\"\n[[rules]]\nname = \"a\"\nservice = \"dns\"\n";
    let folder = folder(&[("fwc.toml", twice)]);
    let found = |policy: &str| -> Value {
        let run = run(folder.path(), &["check", "--format", "json", policy]);
        let found: Value = serde_json::from_str(&run.out).expect("JSON");
        found["findings"][0].clone()
    };
    let two = found("fwc.toml");
    assert_eq!(two["place"]["line"], 6);
    assert_eq!(two["labels"][0]["line"], 3);
    assert_eq!(two["labels"][0]["text"], "the first of them");
    let none = found("missing.toml");
    assert_eq!(none["code"], "unreadable");
    assert_eq!(none["place"], Value::Null);
}

#[test]
fn colours() {
    let folder = folder(&[("fwc.toml", WRONG)]);
    let coloured = |arguments: &[&str], no_color: Option<&str>| {
        let mut command = command(folder.path(), &[&["check"], arguments].concat());
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let output = command.output().expect("fwc");
        output.stderr.contains(&0x1b)
    };
    assert!(!coloured(&[], None), "no terminal, no colours");
    assert!(!coloured(&["--color", "auto"], None));
    assert!(coloured(&["--color", "always"], None));
    assert!(
        coloured(&["--color", "always"], Some("1")),
        "who asks for colours gets them"
    );
    assert!(!coloured(&["--color", "never"], None));
    assert!(!coloured(&[], Some("1")));
}

/// The same words with and without colours.
#[test]
fn colours_change_no_word() {
    let folder = folder(&[("fwc.toml", WRONG)]);
    let plain = run(folder.path(), &["check"]).err;
    let coloured = run(folder.path(), &["check", "--color", "always"]).err;
    let mut words = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, escape)) = rest.split_once('\u{1b}') {
        words.push_str(before);
        rest = escape.split_once('m').expect("the end of a colour").1;
    }
    words.push_str(rest);
    assert_eq!(words, plain);
}

/// A reader that goes away is no error, and nothing is said about it.
#[test]
fn a_closed_pipe() {
    let folder = folder(&[]);
    let mut child = command(folder.path(), &["services"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fwc");
    let mut first = String::new();
    let mut out = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
    out.read_line(&mut first).expect("a line");
    drop(out);
    let output = child.wait_with_output().expect("fwc ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn services() {
    let folder = folder(&[]);
    let run = |arguments: &[&str]| run(folder.path(), &[&["services"], arguments].concat());

    let all = run(&[]);
    assert_eq!((all.status, all.err.as_str()), (0, ""));
    assert!(all.out.lines().count() >= 150);

    let one = run(&["ssh"]);
    assert_eq!(one.status, 0);
    assert_eq!(one.out, "ssh  22/tcp  Secure Shell, RFC 4253\n");

    let unknown = run(&["htps"]);
    assert_eq!((unknown.status, unknown.out.as_str()), (1, ""));
    assert_eq!(
        unknown.err,
        "error: there is no built-in service `htps`; did you mean `https`?\n"
    );
    assert_eq!(
        run(&["frobnicate"]).err,
        "error: there is no built-in service `frobnicate`\n"
    );

    let json: Value = serde_json::from_str(&run(&["ping", "--format", "json"]).out).expect("JSON");
    assert_eq!(json["schema"], "fwc.services/1");
    assert_eq!(json["services"][0]["name"], "ping");
    assert_eq!(
        json["services"][0]["parts"],
        json!(["icmp 8", "icmpv6 128"])
    );
}

/// A finding a line on standard output, where the lines of a policy can neither end a command nor begin one; people read the
/// rest as ever.
#[test]
fn for_github() {
    let folder = folder(&[("fwc.toml", WRONG)]);
    let github = run(folder.path(), &["check", "--format", "github"]);
    assert_eq!(github.status, 1);
    assert_eq!(
        github.out,
        "::error file=fwc.toml,line=4,endLine=4,col=11,endColumn=16,title=unknown-service::no service named `htps`\
         %0Adid you mean `https`?%0Ahelp: `fwc services` lists the catalog; define your own under [services]\n"
    );
    assert_eq!(github.err, run(folder.path(), &["check"]).err);
}

#[test]
fn for_tools_that_collect_findings() {
    let folder = folder(&[
        (
            "fwc.toml",
            "version = 1\ninclude = \"a b.toml\"\n[addresses]\nx = \"192.0.2.1\"\n",
        ),
        (
            "a b.toml",
            "[addresses]\nx = \"192.0.2.2\"\n\n[[rules]]\nsource = \"x\"\nservice = \"htps\"\n",
        ),
    ]);
    let run = run(folder.path(), &["check", "--format", "sarif"]);
    assert_eq!((run.status, run.err.as_str()), (1, ""));
    let log: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["tool"]["driver"]["name"], "fwc");
    let rules: Vec<&Value> = run["tool"]["driver"]["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let results: Vec<&Value> = run["results"].as_array().into_iter().flatten().collect();
    assert_eq!(results.len(), 2, "{results:#?}");
    for result in &results {
        let rule = rules[result["ruleIndex"].as_u64().expect("an index") as usize];
        assert_eq!(rule["id"], result["ruleId"]);
        assert_eq!(result["level"], "error");
    }
    let service = results
        .iter()
        .find(|it| it["ruleId"] == "unknown-service")
        .expect("one");
    assert_eq!(
        service["locations"],
        json!([{
            "message": { "text": "did you mean `https`?" },
            "physicalLocation": {
                "artifactLocation": { "uri": "a%20b.toml" },
                "region": { "startLine": 6, "startColumn": 11, "endLine": 6, "endColumn": 17 },
            },
        }])
    );
    let twice = results
        .iter()
        .find(|it| it["ruleId"] != "unknown-service")
        .expect("another");
    assert_eq!(
        twice["relatedLocations"].as_array().map(Vec::len),
        Some(1),
        "the other place"
    );
}

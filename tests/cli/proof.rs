//! The proof: a template of one's own cannot change what the rules do, and what is not proven says so.

use std::path::Path;

use crate::fwc::{Run, command, files_below, folder, proven, root, rules_in, run};

const POLICY: &str = "\
version = 1

[[rules]]
name = \"ssh\"
scope = \"ipv4\"
source = \"192.0.2.0/24\"
destination = \"198.51.100.1\"
service = \"ssh\"
log = true

[[rules]]
name = \"web\"
service = \"http\"
";

const MARK: &str = "# NOT PROVEN: built with --no-verify.\n";

/// A built-in template with one text replaced everywhere.
fn changed(name: &str, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(root().join("templates").join(name));
    let text = text.expect("a built-in template");
    assert!(text.contains(from), "{name} has no `{from}`");
    text.replace(from, to)
}

/// A folder with the policy and one template of one's own.
fn with_template(name: &str, text: &str) -> tempfile::TempDir {
    folder(&[("fwc.toml", POLICY), (&format!("mine/{name}"), text)])
}

fn build(folder: &Path, more: &[&str]) -> Run {
    let arguments = ["build", "--templates", "mine", "-o", "out"];
    run(folder, &[&arguments, more].concat())
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a file")
}

/// Builds with a wrong template: one finding says every word, at the template's line, and nothing is written.
fn assert_not_proven(name: &str, text: &str, words: &[&str]) {
    let folder = with_template(name, text);
    let before = files_below(folder.path());
    let run = build(folder.path(), &[]);
    assert_eq!((run.status, run.out.as_str()), (1, ""), "{}", run.err);
    assert_eq!(files_below(folder.path()), before, "nothing is written");
    let errors = run.err.lines().filter(|line| line.starts_with("error"));
    let errors: Vec<_> = errors.collect();
    assert!(
        matches!(&errors[..], [one] if one.starts_with("error[proof-failed]: ")),
        "{}",
        run.err
    );
    assert!(!run.err.contains("verified: "), "{}", run.err);
    for word in words {
        assert!(run.err.contains(word), "no `{word}` in\n{}", run.err);
    }
}

/// Packet, policy and rules are shown, at the place that decides, and the line is that of the file.
#[test]
fn a_rule_that_is_dropped() {
    let text = changed(
        "group.j2",
        "{% for line in group.lines %}",
        "{% for line in group.lines if not line.comment == \"fwc:web\" %}",
    );
    assert_not_proven(
        "group.j2",
        &text,
        &[
            "the generated rules do not match the policy\n  --> mine/group.j2:4:1\n",
            "this differs from the built-in template",
            "::: fwc.toml:11:1\n",
            "the policy decides the packet here",
            "= note: the rules in rules.v4 do not do what the policy says\n",
            "packet: IPv4 INPUT in ",
            ":80 NEW\n",
            "policy: accept, by rule \"web\"\n",
            "rules: drop, by the chain's policy",
            "the rules in rules.v6 do not do what the policy says\n",
            "packet: IPv6 INPUT in ",
        ],
    );
}

/// A packet that two lines of a rule match is counted once: the set of what is logged does not show the second time.
#[test]
fn a_rule_that_counts_twice() {
    let overlapping = "version = 1\n[zones]\nwide = { networks = [\"10.0.0.0/8\"] }\n\
                       near = { networks = [\"10.1.0.0/16\"] }\n\
                       [[rules]]\nfrom = [\"wide\", \"near\"]\nservice = [\"22-80/tcp\", \"gre\"]\n";
    let jump = changed("rule.j2", "\"-g\" if line.goto else \"-j\"", "\"-j\"");
    for (keys, said) in [
        (
            "action = \"log\"\n",
            "the rules in rules.v4 do not log what the policy says",
        ),
        (
            "limit = { rate = \"10/minute\", over = \"continue\" }\n",
            "in the table filter twice, and its limits and logs count it twice",
        ),
    ] {
        let policy = format!("{overlapping}{keys}");
        let folder = folder(&[("fwc.toml", &policy), ("mine/rule.j2", &jump)]);
        let right = run(folder.path(), &["check"]);
        assert_eq!(right.status, 0, "{}", right.err);
        let wrong = build(folder.path(), &[]);
        assert_eq!(wrong.status, 1, "{}", wrong.err);
        assert!(wrong.err.contains(said), "{}", wrong.err);
    }
}

/// A bucket that the kernel forgets before the burst is whole again gives a source more than its rate. No packet alone shows it.
#[test]
fn a_rate_that_is_forgotten_too_early() {
    let policy = "version = 1\n[[rules]]\nservice = \"514/udp\"\n\
                  limit = { rate = \"1/second\", burst = 30, per = \"source\" }\n";
    let option = "{%- if limit.expire %} --hashlimit-htable-expire {{ limit.expire }}{% endif %}";
    let shorter = option.replace("{{ limit.expire }}", "{{ limit.expire - 1 }}");
    let longer = option.replace("{{ limit.expire }}", "{{ limit.expire + 1 }}");
    for (instead, forgotten) in [("", "1000"), (&shorter, "29999")] {
        let text = changed("limit.j2", option, instead);
        let folder = folder(&[("fwc.toml", policy), ("mine/limit.j2", &text)]);
        let wrong = build(folder.path(), &[]);
        assert_eq!(wrong.status, 1, "{}", wrong.err);
        let said = format!("(forgotten after {forgotten} ms, before the bucket is full again)");
        assert!(wrong.err.contains(&said), "{}", wrong.err);
    }
    // What is full may as well be remembered.
    let text = changed("limit.j2", option, &longer);
    let folder = folder(&[("fwc.toml", policy), ("mine/limit.j2", &text)]);
    let right = build(folder.path(), &[]);
    assert_eq!(right.status, 0, "{}", right.err);
}

/// Two rules that name one limit, each with a table of its own, let through twice its rate; and two rules that share the table of
/// another limit less than theirs.
#[test]
fn a_limit_in_several_tables() {
    let policy = "version = 1\n[limits]\nsyn = \"20/second\"\ntwo = \"20/second\"\n\
                  [[rules]]\nname = \"a\"\nservice = \"ssh\"\nlimit = \"syn\"\n\
                  [[rules]]\nname = \"b\"\nservice = \"http\"\nlimit = \"syn\"\n\
                  [[rules]]\nname = \"c\"\nservice = \"smtp\"\nlimit = \"two\"\n\
                  [[rules]]\nname = \"d\"\naction = \"log\"\nservice = \"imaps\"\nlimit = \"two\"\n";
    let option = "--hashlimit-name {{ limit.table }}";
    for (instead, is_right) in [
        (option.to_owned(), true),
        (format!("{option}x"), true),
        (
            option.to_owned() + "{% if line.comment == 'fwc:b' %}x{% endif %}",
            false,
        ),
        (
            option.to_owned() + "{% if line.comment == 'fwc:d' %}x{% endif %}",
            false,
        ),
        (
            "--hashlimit-name {% if line.comment == 'fwc:c' %}fwc-syn-0{% else %}{{ limit.table }}{% endif %}".to_owned(),
            false,
        ),
    ] {
        let text = changed("limit.j2", option, &instead);
        let folder = folder(&[("fwc.toml", policy), ("mine/limit.j2", &text)]);
        let run = build(folder.path(), &[]);
        assert_eq!(run.status == 0, is_right, "{instead}: {}", run.err);
        let is_found = run.err.contains("error[proof-failed]");
        assert_eq!(is_found, !is_right, "{instead}: {}", run.err);
    }
}

/// No packet shows it, and still nothing is written: the first rule decides what the second would.
#[test]
fn a_shadowed_rule_that_is_dropped() {
    let policy = "version = 1\n\n[[rules]]\nname = \"ssh\"\nservice = \"ssh\"\n\n\
                  [[rules]]\nname = \"again\"\nservice = \"ssh\"\n";
    let template = changed(
        "group.j2",
        "{% for line in group.lines %}",
        "{% for line in group.lines if not line.comment == \"fwc:again\" %}",
    );
    let folder = folder(&[("fwc.toml", policy), ("mine/group.j2", &template)]);
    let run = build(folder.path(), &[]);
    assert_eq!(run.status, 1, "{}", run.err);
    let errors = run.err.matches("error[").count();
    assert_eq!(errors, 1, "{}", run.err);
    assert!(
        run.err.contains(
            "::: fwc.toml:7:1\n  |\n7 | [[rules]]\n  | --------- no line comes from this rule\n"
        ),
        "{}",
        run.err
    );
    assert!(!folder.path().join("out").exists());
}

#[test]
fn source_and_destination_swapped() {
    let text = changed("rule.j2", "}}-s {{", "}}-x {{");
    let text = text.replace("}}-d {{", "}}-s {{");
    let text = text.replace("}}-x {{", "}}-d {{");
    assert_not_proven(
        "rule.j2",
        &text,
        &[
            "the rules in rules.v4 do not do what the policy says\n",
            " 192.0.2.1:",
            " -> 198.51.100.1:22 NEW\n",
            "policy: accept, by rule \"ssh\", logged once\n",
            "rules: drop, by the chain's policy",
        ],
    );
}

#[test]
fn a_log_line_that_is_lost() {
    let text = changed(
        "group.j2",
        "{% for line in group.lines %}",
        "{% for line in group.lines if not line.log %}",
    );
    assert_not_proven(
        "group.j2",
        &text,
        &[
            "::: fwc.toml:3:1\n",
            "the rules in rules.v4 do not log what the policy says\n",
            "policy: accept, by rule \"ssh\", logged once\n",
            "rules: accept, by line ",
            ": -s 192.0.2.0/24 -d 198.51.100.1/32 -p tcp -m tcp --dport 22 -m comment --comment \"fwc:ssh\" -j ACCEPT\n",
        ],
    );
}

#[test]
fn the_policy_of_a_chain() {
    let text = changed("filter.j2", "{{ chain.policy }}", "ACCEPT");
    assert_not_proven(
        "filter.j2",
        &text,
        &[
            "rules.v4: the policy of INPUT is ACCEPT, but must be DROP\n",
            "rules.v4: the policy of FORWARD is ACCEPT, but must be DROP\n",
            "rules.v6: the policy of INPUT is ACCEPT, but must be DROP\n",
            "policy: drop, by the default",
            "rules: accept, by the chain's policy",
        ],
    );
}

/// What iptables-restore does not hear of stays as it was: a rule of somebody else's could be left in there.
#[test]
fn a_chain_that_is_not_declared() {
    for (name, from, to, chain) in [
        (
            "mangle.j2",
            ":{{ chain.name }}",
            "{{ \"# \" if chain.name == \"POSTROUTING\" else \":\" }}{{ chain.name }}",
            "POSTROUTING in the table mangle",
        ),
        (
            "nat.j2",
            ":{{ chain.name }}",
            "{{ \"# \" if chain.name == \"PREROUTING\" else \":\" }}{{ chain.name }}",
            "PREROUTING in the table nat",
        ),
        (
            "raw.j2",
            ":{{ chain.name }}",
            "{{ \"# \" if chain.name == \"OUTPUT\" else \":\" }}{{ chain.name }}",
            "OUTPUT in the table raw",
        ),
    ] {
        let words = ["rules.v4", "rules.v6"].map(|file| format!("{file}: {chain} is not declared"));
        let words = words.each_ref().map(String::as_str);
        assert_not_proven(name, &changed(name, from, to), &words);
    }
    let none = changed("rules.j2", "{% include \"nat.j2\" %}\n", "");
    assert_not_proven("rules.j2", &none, &["rules.v4: the table nat is missing"]);
}

/// The line that is named is the one in the file that would have been written.
#[test]
fn too_much_is_accepted() {
    let text = changed("filter.j2", "COMMIT", "-A INPUT -p udp -j ACCEPT\nCOMMIT");
    let folder = with_template("filter.j2", &text);
    let unproven = build(folder.path(), &["--no-verify"]);
    assert_eq!(unproven.status, 0, "{}", unproven.err);
    let file = read(folder.path(), "out/rules.v4").replace(MARK, "");
    let index = file
        .lines()
        .position(|line| line == "-A INPUT -p udp -j ACCEPT");
    let number = index.expect("the rule") + 1;
    assert_not_proven(
        "filter.j2",
        &text,
        &[
            "the rules in rules.v4 do not do what the policy says\n",
            "packet: IPv4 INPUT in ",
            " udp ",
            "policy: drop, by the default",
            &format!("rules: accept, by line {number}: -p udp -j ACCEPT"),
        ],
    );
    let early = changed(
        "preamble.j2",
        "RELATED,ESTABLISHED",
        "NEW,RELATED,ESTABLISHED",
    );
    assert_not_proven("preamble.j2", &early, &["policy: drop, by the default"]);
}

/// A table that the policy leaves empty.
#[test]
fn another_table() {
    let text = changed(
        "nat.j2",
        "COMMIT",
        "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT",
    );
    assert_not_proven("nat.j2", &text, &[]);
    let text = changed("mangle.j2", "COMMIT", "-A INPUT -p tcp -j DROP\nCOMMIT");
    assert_not_proven("mangle.j2", &text, &[]);
}

#[test]
fn rules_that_cannot_be_read() {
    let text = changed("filter.j2", "COMMIT", "-A INPUT --frob\nCOMMIT");
    assert_not_proven(
        "filter.j2",
        &text,
        &["the generated rules cannot be parsed: the IPv4 rules, line "],
    );
}

/// All commands that give rules hold them against the policy.
#[test]
fn every_command_proves() {
    let text = changed("filter.j2", "{{ chain.policy }}", "ACCEPT");
    let folder = with_template("filter.j2", &text);
    for arguments in [
        &["check", "--templates", "mine"][..],
        &["diff", "--templates", "mine", "fwc.toml", "fwc.toml"],
        &["build", "--templates", "mine", "-o", "out", "--check"],
        &[
            "build",
            "--templates",
            "mine",
            "-o",
            "-",
            "--family",
            "ipv6",
        ],
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!((run.status, run.out.as_str()), (1, ""), "{arguments:?}");
        assert!(run.err.starts_with("error[proof-failed]"), "{arguments:?}");
    }
    let json = run(
        folder.path(),
        &["check", "--templates", "mine", "--format", "json"],
    );
    let found: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.status, &found["ok"]), (1, &false.into()));
    assert_eq!(found["findings"][0]["code"], "proof-failed");
}

#[test]
fn a_harmless_override() {
    let text = changed(
        "group.j2",
        "# {{ group.label }}",
        "# ours: {{ group.label }}",
    );
    let folder = with_template("group.j2", &text);
    let run = build(folder.path(), &[]);
    let lines = "out/rules.v4 written\nout/rules.v6 written\n";
    let told = proven(rules_in(&folder.path().join("out"))) + lines;
    assert_eq!((run.status, run.err), (0, told));
    assert!(read(folder.path(), "out/rules.v6").contains("\n# ours: "));
}

/// What was not proven says so in each file, is still good for iptables-restore, and does not stay.
#[test]
fn no_verify() {
    let policy = "version = 1\n\n[addresses]\nbad = { set = true, include = \"192.0.2.0/24\" }\n\n[[rules]]\nscope = \"ipv4\"\naction = \"drop\"\nsource = \"bad\"\n";
    let folder = folder(&[("fwc.toml", policy)]);
    let names = ["rules.v4", "rules.v6", "ipsets"];
    let build = |more: &[&str]| run(folder.path(), &[&["build", "-o", "out"], more].concat());
    let texts = || names.map(|name| read(folder.path(), &format!("out/{name}")));

    let proven = build(&[]);
    assert_eq!(proven.status, 0, "{}", proven.err);
    let before = texts();

    let unproven = build(&["--no-verify"]);
    assert_eq!(unproven.status, 0, "{}", unproven.err);
    assert_eq!(
        unproven.err,
        "not verified: --no-verify\nout/rules.v4 written\nout/rules.v6 written\nout/ipsets written\n"
    );
    for (name, (text, before)) in names.iter().zip(texts().iter().zip(&before)) {
        assert_eq!(text.lines().nth(1), Some(MARK.trim_end()), "{name}");
        assert_eq!(text.replace(MARK, ""), *before, "{name}");
        assert!(!before.contains(MARK), "{name}");
    }
    for name in ["out/rules.v4", "out/rules.v6"] {
        let marked = run(folder.path(), &["fmt", name]);
        assert_eq!((marked.status, marked.err.as_str()), (0, ""), "{name}");
        assert!(marked.out.contains(":FORWARD DROP"), "{}", marked.out);
    }

    let check = build(&["--check"]);
    assert_eq!(check.status, 2, "{}", check.err);
    let check = build(&["--check", "--no-verify"]);
    assert_eq!(check.status, 0, "{}", check.err);
    let again = build(&[]);
    assert_eq!(again.status, 0, "{}", again.err);
    assert_eq!(texts(), before);
}

/// Without the proof a template may do anything; the files say so.
#[test]
fn no_verify_with_a_wrong_template() {
    let folder = with_template(
        "filter.j2",
        &changed("filter.j2", "{{ chain.policy }}", "ACCEPT"),
    );
    let run = build(folder.path(), &["--no-verify"]);
    assert_eq!(run.status, 0, "{}", run.err);
    let text = read(folder.path(), "out/rules.v4");
    assert!(text.contains(MARK) && text.contains(":INPUT ACCEPT"));
}

/// What nobody proved is not put in force, dry or not. The policy is one that could not be: this test runs as root.
#[test]
fn apply_takes_no_unproven_rules() {
    let folder = folder(&[("fwc.toml", "version = 2\n")]);
    for more in [&["--yes"][..], &["--dry-run"], &[]] {
        let run = run(folder.path(), &[&["apply", "--no-verify"], more].concat());
        assert_eq!((run.status, run.out.as_str()), (64, ""), "{more:?}");
        assert_eq!(
            run.err,
            "error: `apply` loads only verified rules: leave `--no-verify` out\n"
        );
    }
}

/// The tests compare what is said without the time; here it is.
#[test]
fn the_proof_says_how_long_it_took() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let output = command(folder.path(), &["check"]).output().expect("fwc");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let line = text.lines().last().expect("a line");
    let time = line.rsplit_once(" (").expect("a time").1;
    let number = time.strip_suffix(" ms)").expect("milliseconds");
    assert!(number.parse::<f64>().expect("a number") > 0.0, "{line}");
}

/// Custom rules translate as they say, and where they stand is proven.
#[test]
fn custom_rules_of_nat_in_another_place() {
    let policy = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["10.1.0.0/24"] }
[[nat]]
type = "masquerade"
from = "lan"
to = "wan"
[[custom]]
table = "nat"
chain = "POSTROUTING"
rule = "-d 10.9.0.0/16 -j ACCEPT"
scope = "ipv4"
[[rules]]
service = "ssh"
"#;
    let turned = changed(
        "nat.j2",
        "in chain.groups %}",
        "in (chain.groups[::-1] if chain.groups else []) %}",
    );
    let folder = folder(&[("fwc.toml", policy), ("mine/nat.j2", &turned)]);
    let run = build(folder.path(), &[]);
    assert_eq!(run.status, 1, "{}", run.err);
    assert!(
        run.err.contains(
            "POSTROUTING in the table nat: the custom rules are not at the positions that the policy gives them"
        ),
        "{}",
        run.err
    );
}

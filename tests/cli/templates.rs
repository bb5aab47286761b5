//! `--templates DIR`: a template of one's own in the place of a built-in one, and what it cannot do. `fwc templates`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fwc::{Run, files_below, folder, root, run};

const POLICY: &str = r#"version = 1

[[rules]]
name = "a \"quoted\" name"
service = "ssh"
log = true

[[rules]]
name = "the shop"
comment = "NET-7"
service = "https"

[[nat]]
type = "redirect"
service = "80/tcp"
to-port = 8080

[[mangle]]
type = "dscp"
service = "https"
set = "ef"
"#;

/// Builds with templates of one's own.
fn build(templates: &[(&str, &str)]) -> (Run, String) {
    let folder = folder(&[("fwc.toml", POLICY), ("mine/README", "")]);
    for (name, text) in templates {
        std::fs::write(folder.path().join("mine").join(name), text).expect("a file");
    }
    let run = run(
        folder.path(),
        &["build", "--templates", "mine", "-o", "out"],
    );
    let text = std::fs::read_to_string(folder.path().join("out/rules.v4"));
    if run.status != 0 {
        assert!(!folder.path().join("out").exists(), "nothing is written");
    }
    (run, text.unwrap_or_default())
}

fn assert_refused(name: &str, template: &str, words: &[&str]) {
    let (run, _) = build(&[(name, template)]);
    assert_eq!(run.status, 1, "{template}: {}", run.err);
    assert!(run.err.starts_with("error[bad-template]: "), "{}", run.err);
    for word in words {
        assert!(run.err.contains(word), "{template}: {}", run.err);
    }
}

/// The rules alone.
fn rules(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn one_is_overridden() {
    // In another order than the built-in one.
    let declared = "*raw\n:OUTPUT ACCEPT [0:0]\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
    let (run, text) = build(&[("raw.j2", declared)]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(text.contains(declared), "{text}");
    assert!(
        text.contains("*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT"),
        "the others stay"
    );
}

#[test]
fn the_built_in_one_is_extended_and_included() {
    let group = "{% extends \"builtin/group.j2\" %}\n{% block heading %}\n#! {{ group.label }}: {{ group.remark|default(\"?\", true) }}\n{% endblock %}\n";
    let rule = "{% include \"builtin/rule.j2\" %}\n\n";
    let (run, text) = build(&[("group.j2", group), ("rule.j2", rule)]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(text.contains("#! rule \"the shop\": NET-7\n"), "{text}");
    assert!(
        text.contains("#! rule \"a \"quoted\" name\": ?\n"),
        "{text}"
    );
    let (built_in, plain) = build(&[]);
    assert_eq!(built_in.status, 0, "{}", built_in.err);
    let lines = |text| -> Vec<String> {
        let lines = rules(text).into_iter().filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    assert_eq!(lines(&text), lines(&plain));
}

#[test]
fn the_comment_of_a_line_is_another() {
    let rule = "{% extends \"builtin/rule.j2\" %}\n{% block comment %}{% if line.comment %} -m comment --comment {{ line.comment|upper|quoted }}{% endif %}{% endblock %}\n";
    let (run, text) = build(&[("rule.j2", rule)]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(
        text.contains("--comment \"FWC:THE SHOP\" -j ACCEPT\n"),
        "{text}"
    );
}

/// What `apply` and the boot know a file by is not the templates'.
#[test]
fn the_first_line_is_fwcs_own() {
    let own = "# mine\n{% include \"builtin/rules.j2\" %}\n";
    let (run, text) = build(&[("rules.j2", own)]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(text.starts_with(
        "# Made by fwc from a policy: edit the policy, not this file.\n# mine\n*raw\n"
    ));
}

#[test]
fn a_name_that_overrides_nothing() {
    assert_refused(
        "natt.j2",
        "",
        &[
            "`mine/natt.j2` is not the name of a template",
            "did you mean `nat.j2`?",
        ],
    );
    assert_refused("firewall.j2", "", &["the templates are rules.j2, raw.j2"]);
}

/// Notes and backups beside the templates are no templates.
#[test]
fn other_files_are_left_alone() {
    let (run, _) = build(&[("README.md", "{{ nonsense"), ("nat.j2~", "{{ nonsense")]);
    assert_eq!(run.status, 0, "{}", run.err);
}

#[test]
fn a_syntax_error() {
    assert_refused("nat.j2", "*nat\n{% if %}\n", &["--> mine/nat.j2:2:"]);
}

/// All that are wrong are named at once.
#[test]
fn several_are_wrong() {
    let (run, _) = build(&[("nat.j2", "{{"), ("raw.j2", "{{"), ("rwa.j2", "")]);
    assert_eq!(
        run.err.matches("error[bad-template]").count(),
        2,
        "{}",
        run.err
    );
    for words in [
        "... and 1 more like this: mine/raw.j2:1:",
        "fwc.toml: 3 errors",
    ] {
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
}

/// The line of the template, and what of the policy it was made at.
#[test]
fn a_mistake_is_shown_at_both_places() {
    let template =
        "{% if line.nat %}\n{{ line.frob }}\n{% endif %}\n{% include \"builtin/rule.j2\" %}\n\n";
    let (run, _) = build(&[("rule.j2", template)]);
    assert_eq!(run.status, 1);
    insta::assert_snapshot!(run.err, @r"
    error[bad-template]: undefined value: `line.frob` is undefined
      --> mine/rule.j2:2:4
       |
     2 | {{ line.frob }}
       |    ^^^^^^^^^
       |
      ::: fwc.toml:13:1
       |
    13 | [[nat]]
       | ------- while rendering nat: redirect 80/tcp
       |
       = help: `fwc templates show NAME` prints the built-in one; docs/guides/templates.md has the variables

    fwc.toml: 1 error
    ");
    // A line of no rule has no place in the policy.
    let log = "{{ chain.frob }}\n";
    let (run, _) = build(&[("preamble.j2", log)]);
    assert!(run.err.contains("--> mine/preamble.j2:1:"), "{}", run.err);
    assert!(!run.err.contains("::: fwc.toml:"), "{}", run.err);
}

/// A mistake that shows in a template of fwc's own is still one of the user's.
#[test]
fn a_mistake_in_what_a_built_in_template_gets() {
    let group = "{% for line in group.lines %}\n{% set line = \"x\" %}\n{% include \"rule.j2\" %}\n{% endfor %}\n";
    assert_refused("group.j2", group, &["--> builtin/rule.j2:2:"]);
}

/// minijinja would print `none`, `true`, `[1, 2]`.
#[test]
fn values_that_are_no_text() {
    for value in ["none", "true", "[1, 2]", "{\"a\": 1}", "1.5"] {
        assert_refused(
            "nat.j2",
            &format!("*nat\n{{{{ {value} }}}}\nCOMMIT\n"),
            &["cannot be printed", "--> mine/nat.j2:2:"],
        );
    }
}

#[test]
fn a_variable_that_is_not_defined() {
    assert_refused(
        "nat.j2",
        "*nat\n{{ frob }}\nCOMMIT\n",
        &["undefined", "--> mine/nat.j2:2:4"],
    );
    // Asked for, not printed.
    assert_refused("nat.j2", "{% if frob.x %}{% endif %}", &["undefined"]);
    assert_refused("nat.j2", "{% if frob %}{% endif %}", &["undefined"]);
}

#[test]
fn a_value_with_a_line_break() {
    let template = "*nat\n{{ \"x\\nCOMMIT\\n*filter\" }}\nCOMMIT\n";
    assert_refused("nat.j2", template, &["control character"]);
}

/// A mark that no line has is not taken out.
#[test]
fn a_false_mark() {
    let template = "*nat\n{{ \"\\u0001rule 0\" }}\nCOMMIT\n";
    assert_refused("nat.j2", template, &["control character"]);
}

/// A bug of the template engine does not end fwc.
#[test]
fn what_the_language_itself_cannot_do() {
    let (run, _) = build(&[("nat.j2", "{% for x in [][::-1] %}{% endfor %}")]);
    assert_eq!(run.status, 1, "{}", run.err);
    let words = "error[bad-template]: invalid operation: the template engine failed";
    assert!(run.err.contains(words), "{}", run.err);
}

/// Ten times ten times ten ...: longer than anybody waits.
#[test]
fn a_loop_without_an_end() {
    let start = Instant::now();
    let (mut open, mut close) = (String::new(), String::new());
    for depth in 0..12 {
        open.push_str(&format!(
            "{{% for a{depth} in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] %}}"
        ));
        close.push_str("{% endfor %}");
    }
    assert_refused("nat.j2", &format!("{open}{close}"), &["fuel"]);
    assert!(
        start.elapsed() < Duration::from_secs(180),
        "{:?}",
        start.elapsed()
    );
}

/// More text than any rules file of so many lines has.
#[test]
fn a_text_without_an_end() {
    let long = "# nothing\n".repeat(1000);
    let template = format!(
        "{{% for a in [1, 2, 3, 4, 5, 6, 7, 8] %}}{{% for b in [1, 2, 3, 4, 5, 6, 7, 8] %}}{{% for c in [1, 2, 3, 4, 5, 6, 7, 8] %}}{long}{{% endfor %}}{{% endfor %}}{{% endfor %}}"
    );
    assert_refused("nat.j2", &template, &["the output has more than"]);
}

/// A text that doubles before anybody sees it ends fwc at the latest where the memory that it may have does, and nothing is
/// written.
#[test]
fn a_text_that_doubles() {
    let doubling = "{% set x = x ~ x %}\n".repeat(60);
    let template = format!("{{% set x = \"0123456789abcdef\" %}}\n{doubling}");
    let folder = folder(&[("fwc.toml", POLICY), ("mine/nat.j2", &template)]);
    let arguments = ["build", "--templates", "mine", "-o", "out"];
    // Less than fwc allows itself, so that the machine is not filled.
    let mut limited = std::process::Command::new("prlimit");
    limited.args(["--as=500000000", env!("CARGO_BIN_EXE_fwc")]);
    let output = limited.args(arguments).current_dir(folder.path()).output();
    let output = output.expect("prlimit of util-linux");
    assert!(!output.status.success());
    assert!(!folder.path().join("out").exists());
}

/// What fwc allows itself.
#[test]
fn memory_is_bounded() {
    let folder = folder(&[("fwc.toml", POLICY), ("mine/README", "")]);
    let calls = |arguments: &[&str]| {
        let mut strace = std::process::Command::new("strace");
        strace.args([
            "-qq",
            "-f",
            "-e",
            "trace=prlimit64",
            env!("CARGO_BIN_EXE_fwc"),
        ]);
        let output = strace.args(arguments).current_dir(folder.path()).output();
        let output = output.expect("strace, which scripts/test installs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let limit = "RLIMIT_AS, {rlim_cur=4194304*1024";
    let own = calls(&["check", "--templates", "mine"]);
    assert!(own.contains(limit), "{own}");
    assert!(
        !calls(&["check"]).contains(limit),
        "the built-in templates need no limit"
    );
}

#[test]
fn a_template_that_is_too_long() {
    let long = "# nothing\n".repeat(14_000);
    assert_refused("nat.j2", &long, &["has 140000 bytes, more than 131072"]);
}

#[test]
fn a_template_that_includes_itself() {
    assert_refused("nat.j2", "{% include \"nat.j2\" %}\n", &["recursion"]);
}

/// A template sees no file but those of the folder.
#[test]
fn other_files_cannot_be_included() {
    for path in [
        "/etc/passwd",
        "../fwc.toml",
        "mine/nat.j2",
        "builtin/../nat.j2",
    ] {
        let template = format!("{{% include \"{path}\" %}}\n");
        assert_refused("nat.j2", &template, &[path, "template not found"]);
    }
}

/// It says in other words what the policy says, and never something else.
#[test]
fn one_that_changes_what_the_rules_do() {
    let template = "{% if line.destination_port == \"443\" %}\n-A {{ chain.name }} -p tcp -m tcp --dport 8443 -j ACCEPT{{ line.origin }}\n{% else %}\n{% include \"builtin/rule.j2\" %}\n\n{% endif %}\n";
    let (run, _) = build(&[("rule.j2", template), ("log.j2", &built_in("log.j2"))]);
    assert_eq!(run.status, 1, "{}", run.err);
    assert!(run.err.contains("error[proof-failed]"), "{}", run.err);
    for words in [
        "packet: ",
        "policy: accept, by rule \"the shop\"",
        "the generated rules do not match the policy\n  --> mine/rule.j2:1:1\n",
        "= note: a template may word the rules differently, but it must not change what they do; nothing was written",
        "= help: change what the rules do in the policy, or with [[custom]] rules",
    ] {
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
}

/// What of the policy has no line at all is named, though the proof may miss nothing.
#[test]
fn one_that_leaves_entries_out() {
    for (without, words) in [
        (
            "line.nat",
            "the rules in rules.v4 do not translate as the policy says",
        ),
        (
            "line.change",
            "no line of the rules files comes from a mangle entry",
        ),
        (
            "line.destination_port == \"443\"",
            "no line of the rules files comes from a rule",
        ),
    ] {
        let template = format!(
            "{{% if not ({without}) %}}\n{{% include \"builtin/rule.j2\" %}}\n\n{{% endif %}}\n"
        );
        let (run, _) = build(&[("rule.j2", &template)]);
        assert!(run.err.contains(words), "{words}: {}", run.err);
    }
}

fn built_in(name: &str) -> String {
    let shown = run(root(), &["templates", "show", name]);
    assert_eq!(shown.status, 0, "{}", shown.err);
    shown.out
}

#[test]
fn a_fifo_is_not_waited_for() {
    let folder = folder(&[("fwc.toml", POLICY), ("mine/README", "")]);
    let mode = Mode::from_raw_mode(0o600);
    let path = folder.path().join("mine/nat.j2");
    mknodat(CWD, &path, FileType::Fifo, mode, 0).expect("a FIFO");
    let run = run(
        folder.path(),
        &["build", "--templates", "mine", "-o", "out"],
    );
    assert_eq!(run.status, 1);
    assert!(run.err.starts_with(
        "error[unreadable]: cannot use the template `mine/nat.j2`: not a regular file\n"
    ));
    assert_eq!(files_below(folder.path()).len(), 3);
}

#[test]
fn a_folder_that_does_not_exist() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["check", "--templates", "mine"]);
    assert_eq!(run.status, 1);
    assert!(
        run.err
            .starts_with("error[unreadable]: cannot read the templates in `mine`: "),
        "{}",
        run.err
    );
}

/// Who can change a template can change what root loads.
#[test]
fn root_refuses_what_others_can_write() {
    if !rustix::process::geteuid().is_root() {
        return; // without root nothing that matters can happen
    }
    for (file, templates, why) in [
        (0o666, 0o755, "others can write it"),
        (0o644, 0o777, "others can write its folder"),
    ] {
        let folder = folder(&[("fwc.toml", POLICY), ("mine/nat.j2", &built_in("nat.j2"))]);
        let set = |path: &Path, mode: u32| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, permissions).expect("a mode");
        };
        set(&folder.path().join("mine/nat.j2"), file);
        set(&folder.path().join("mine"), templates);
        let run = run(
            folder.path(),
            &["build", "--templates", "mine", "-o", "out"],
        );
        assert_eq!(run.status, 1, "{}", run.err);
        assert!(run.err.starts_with("error[unsafe-file]: "), "{}", run.err);
        assert!(run.err.contains(why), "{}", run.err);
        assert!(!folder.path().join("out").exists());
    }
}

/// JSON has what people read.
#[test]
fn mistakes_are_findings() {
    let folder = folder(&[("fwc.toml", POLICY), ("mine/nat.j2", "*nat\n{{ frob }}\n")]);
    let arguments = ["check", "--templates", "mine", "--format", "json"];
    let run = run(folder.path(), &arguments);
    assert_eq!(run.status, 1);
    let json: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(json["findings"][0]["code"], "bad-template");
    assert_eq!(
        json["findings"][0]["place"]["file"], "mine/nat.j2",
        "{json:#}"
    );
}

#[test]
fn the_list() {
    let folder = folder(&[("mine/nat.j2", "")]);
    let arguments = ["templates", "list", "--templates", "mine"];
    insta::assert_snapshot!(run(folder.path(), &arguments).out, @r"
    rules.j2      a rules file: its tables in order
    raw.j2        the table raw, with antispoof
    mangle.j2     the table mangle
    nat.j2        the table nat (yours: mine/nat.j2)
    filter.j2     the table filter, with the defaults
    preamble.j2   the lines before the rules of a chain of the table filter
    group.j2      the lines of one rule or entry of the policy, and the comment above them
    rule.j2       one line
    limit.j2      the limit of a line
    time.j2       the hours and the last day of a line
    translate.j2  the new address in a line of the table nat
    log.j2        the log target of a line
    change.j2     the change of packets in a line of mangle or raw
    ");
    let json = run(folder.path(), &["templates", "list", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["schema"], "fwc.templates/1");
    assert_eq!(json["context"], 1);
    let names = json["templates"].as_array().expect("a list");
    assert_eq!(names.len(), files_below(&root().join("templates")).len());
    let wrong = run(folder.path(), &["templates", "list", "--templates", "no"]);
    assert_eq!(
        (wrong.status, wrong.err.as_str()),
        (1, "error: `no` is not a folder\n")
    );
}

#[test]
fn what_is_shown_is_what_is_used() {
    for name in files_below(&root().join("templates")) {
        let file = std::fs::read_to_string(root().join("templates").join(&name));
        assert_eq!(built_in(&name), file.expect("a template"));
    }
    let wrong = run(root(), &["templates", "show", "rulez.j2"]);
    assert_eq!(wrong.status, 1);
    assert_eq!(
        wrong.err,
        "error: there is no template `rulez.j2`; did you mean `rule.j2`?\n"
    );
}

/// Copies of all of them say what the built-in ones say.
#[test]
fn ejected_ones_say_the_same() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let ejected = run(folder.path(), &["templates", "eject", "-o", "mine"]);
    assert_eq!(ejected.status, 0, "{}", ejected.err);
    let names = files_below(&root().join("templates"));
    assert_eq!(files_below(&folder.path().join("mine")), names);
    for (arguments, out) in [(&["--templates", "mine"][..], "own"), (&[], "plain")] {
        let all = [&["build", "-o", out], arguments].concat();
        let run = run(folder.path(), &all);
        assert_eq!(run.status, 0, "{}", run.err);
    }
    for name in ["rules.v4", "rules.v6"] {
        let text = |out: &str| std::fs::read_to_string(folder.path().join(out).join(name));
        assert_eq!(text("own").expect("rules"), text("plain").expect("rules"));
    }
}

#[test]
fn nothing_is_overwritten() {
    let folder = folder(&[("mine/nat.j2", "mine")]);
    let arguments = ["templates", "eject", "raw.j2", "nat.j2", "-o", "mine"];
    let run = run(folder.path(), &arguments);
    assert_eq!(run.status, 1);
    assert!(
        run.err.starts_with("error: `mine/nat.j2` exists already"),
        "{}",
        run.err
    );
    assert_eq!(files_below(folder.path()), ["mine/nat.j2"]);
}

/// The page shows a template that is an example's, and the example's rules are those without it.
#[test]
fn the_page_and_the_example() {
    let page = std::fs::read_to_string(root().join("docs/guides/templates.md")).expect("a page");
    let example = root().join("examples/custom-template");
    let (_, rest) = page.split_once("```jinja group.j2\n").expect("a block");
    let (shown, _) = rest.split_once("```").expect("an end");
    let own = std::fs::read_to_string(example.join("templates/group.j2"));
    assert_eq!(shown, own.expect("a template"));
    let policy = example.join("fwc.toml").display().to_string();
    for family in ["ipv4", "ipv6"] {
        let plain = run(
            root(),
            &["build", "-q", &policy, "-o", "-", "--family", family],
        );
        let file = example
            .join("expected")
            .join(family.replace("ip", "rules."));
        let own = std::fs::read_to_string(file).expect("rules");
        assert_eq!(rules(&own), rules(&plain.out));
        assert_ne!(own, plain.out);
    }
}

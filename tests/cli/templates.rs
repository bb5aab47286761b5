//! `--templates DIR`: a template of one's own in the place of a built-in one, and what it cannot do.

use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fwc::{Run, files_below, folder, run};

const POLICY: &str =
    "version = 1\n\n[[rules]]\nname = \"a \\\"quoted\\\" name\"\nservice = \"ssh\"\nlog = true\n";

/// Builds with one template of one's own.
fn build(name: &str, template: &str) -> (Run, String) {
    let folder = folder(&[("fwc.toml", POLICY), (&format!("mine/{name}"), template)]);
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
    let (run, _) = build(name, template);
    assert_eq!(run.status, 1, "{template}: {}", run.err);
    let last = run.err.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{template}: {}", run.err);
    for word in words {
        assert!(last.contains(word), "{template}: {last}");
    }
}

#[test]
fn one_is_overridden() {
    // In another order than the built-in one.
    let chains = ["OUTPUT", "POSTROUTING", "INPUT", "PREROUTING"];
    let chains = chains.map(|chain| format!(":{chain} ACCEPT [0:0]\n"));
    let table = format!("*nat\n{}COMMIT\n", chains.concat());
    let (run, text) = build("nat.j2", &table);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(text.contains(&table), "{text}");
    assert!(
        text.contains("*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT"),
        "the others stay"
    );
}

#[test]
fn a_name_that_overrides_nothing() {
    assert_refused("natt.j2", "", &["`natt.j2`", "nat.j2", "filter.j2"]);
}

/// Notes and backups beside the templates are no templates.
#[test]
fn other_files_are_left_alone() {
    let (run, _) = build("README.md", "{{ nonsense");
    assert_eq!(run.status, 0, "{}", run.err);
}

#[test]
fn a_syntax_error() {
    assert_refused("nat.j2", "*nat\n{% if %}\n", &["nat.j2:2"]);
}

#[test]
fn a_variable_that_is_not_defined() {
    assert_refused(
        "nat.j2",
        "*nat\n{{ frob }}\nCOMMIT\n",
        &["undefined", "nat.j2:2"],
    );
}

/// minijinja would print `none`, `true`, `[1, 2]`.
#[test]
fn values_that_are_no_text() {
    for value in ["none", "true", "[1, 2]", "{\"a\": 1}", "1.5"] {
        assert_refused(
            "nat.j2",
            &format!("*nat\n{{{{ {value} }}}}\nCOMMIT\n"),
            &["printed"],
        );
    }
}

#[test]
fn a_value_with_a_line_break() {
    let template = "*nat\n{{ \"x\\nCOMMIT\\n*filter\" }}\nCOMMIT\n";
    assert_refused("nat.j2", template, &["control character"]);
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
    assert_refused("nat.j2", &format!("{open}x{close}"), &["fuel"]);
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_template_that_includes_itself() {
    assert_refused("nat.j2", "{% include \"nat.j2\" %}\n", &[]);
}

/// A template sees no file but those of the folder.
#[test]
fn other_files_cannot_be_included() {
    assert_refused(
        "nat.j2",
        "{% include \"/etc/passwd\" %}\n",
        &["/etc/passwd"],
    );
    assert_refused(
        "nat.j2",
        "{% include \"../fwc.toml\" %}\n",
        &["../fwc.toml"],
    );
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
    assert_eq!(
        run.err,
        "error: cannot use the template `nat.j2`: not a regular file\n"
    );
    assert_eq!(files_below(folder.path()).len(), 3);
}

#[test]
fn a_folder_that_does_not_exist() {
    let folder = folder(&[("fwc.toml", POLICY)]);
    let run = run(folder.path(), &["check", "--templates", "mine"]);
    assert_eq!(run.status, 1);
    assert!(
        run.err
            .starts_with("error: cannot read the templates in `mine`: "),
        "{}",
        run.err
    );
}

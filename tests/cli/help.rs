//! What `--help` says, and the exit status of wrong usage.

use crate::fwc::{folder, root, run};

/// Every command has its help here.
const COMMANDS: &[&str] = &[
    "check",
    "explain",
    "build",
    "diff",
    "apply",
    "confirm",
    "rollback",
    "history",
    "recover",
    "status",
    "panic",
    "services",
    "templates",
    "fmt",
    "test",
    "matrix",
    "schema",
    "completions",
    "man",
];

fn assert_help(name: &str, arguments: &[&str]) {
    let run = run(root(), arguments);
    assert_eq!(run.status, 0, "{arguments:?}");
    assert_eq!(run.err, "", "{arguments:?}");
    insta::assert_snapshot!(name, run.out);
}

#[test]
fn help() {
    assert_help("help", &["--help"]);
}

#[test]
fn help_of_commands() {
    for command in COMMANDS {
        assert_help(&format!("help_{command}"), &[command, "--help"]);
    }
}

#[test]
fn every_command_has_its_snapshot() {
    let run = run(root(), &["--help"]);
    let commands = run.out.lines().skip_while(|line| *line != "Commands:");
    let commands: Vec<_> = commands
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What goes on from the line above stands further in.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let missing: Vec<_> = commands
        .iter()
        .filter(|name| !COMMANDS.contains(name))
        .collect();
    assert!(
        missing.is_empty() && commands.len() == COMMANDS.len(),
        "{commands:?}"
    );
}

#[test]
fn wrong_usage() {
    let folder = folder(&[("fwc.toml", "version = 1\n[[rules]]\nservice = \"ssh\"\n")]);
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["build"],
        &["build", "-o"],
        &["build", "-o", "-"],
        &["build", "-o", "-", "--check", "--family", "ipv4"],
        &["build", "-o", "out", "--family", "ipv5"],
        &["check", "--format", "yaml"],
        &["check", "--color", "sometimes"],
        &["check", "--deny", "frob"],
        &["check", "--deny", "unknown-key"],
        &["check", "--explain", "frob"],
        &["check", "--explain", "syntax", "fwc.toml"],
        &["build", "-o", "-", "--family", "ipv4", "fwc.toml", "x.toml"],
        &["build", "-o", "-", "--family", "ipv4", "."],
        &["apply", "--no-verify", "missing.toml"],
        &["services", "ssh", "http"],
        &["services", "--frob"],
    ] {
        let run = run(folder.path(), arguments);
        assert_eq!(run.status, 64, "{arguments:?}: {}", run.err);
        assert_eq!(run.out, "", "{arguments:?}");
        assert!(!run.err.is_empty(), "{arguments:?}");
    }
    assert_eq!(crate::fwc::files_below(folder.path()), ["fwc.toml"]);
}

#[test]
fn version() {
    let run = run(root(), &["--version"]);
    assert_eq!(
        (run.status, run.out.as_str()),
        (0, concat!("fwc ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

//! Policies with the rules files that they must give, byte for byte: `tests/cases/` and `examples/`.
//!
//! The expected files were written from the words of `docs/reference/language.md`, not by the compiler. After a change that
//! is meant, `FWC_BLESS=1 cargo test --test cli cases` rewrites them: read the diff.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fwc::{root, run};

/// Policies, each with the folder of its expected files: `NAME/fwc.toml` and `NAME/expected`, or for a folder of
/// hosts `NAME/hosts/HOST.toml` and `NAME/expected/HOST`.
fn cases() -> Vec<(PathBuf, PathBuf)> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("a folder");
        let mut paths: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
    };
    let mut cases = Vec::new();
    for folder in ["tests/cases", "examples"] {
        for case in entries(&root().join(folder)) {
            let (hosts, expected) = (case.join("hosts"), case.join("expected"));
            if !hosts.is_dir() {
                cases.push((case.join("fwc.toml"), expected));
                continue;
            }
            cases.extend(entries(&hosts).into_iter().map(|host| {
                let name = host.file_stem().expect("a name").to_owned();
                (host, expected.join(name))
            }));
        }
    }
    cases
}

/// The folder of templates that belong to a policy, if it has one.
fn templates(policy: &Path) -> Option<String> {
    let folder = policy.with_file_name("templates");
    folder.is_dir().then(|| folder.display().to_string())
}

/// What differs, as a few lines for people.
fn difference(expected: &str, got: &str) -> String {
    let diff = similar::TextDiff::from_lines(expected, got);
    diff.unified_diff().context_radius(1).to_string()
}

/// The expected files of a policy, and what the compiler writes.
fn compare((policy, expected): &(PathBuf, PathBuf), wrong: &mut Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, path) = (
        folder.path().display().to_string(),
        policy.display().to_string(),
    );
    let mut arguments = vec!["build", "-q", &path, "-o", &out];
    let own = templates(policy);
    if let Some(own) = &own {
        arguments.extend(["--templates", own]);
    }
    let run = run(root(), &arguments);
    if run.status != 0 {
        wrong.push(format!("{path}: {}", run.err));
        return;
    }
    let mut files = BTreeSet::from(["rules.v4".to_owned(), "rules.v6".to_owned()]);
    for folder in [folder.path(), expected] {
        files.extend(crate::fwc::files_below(folder));
    }
    for file in files {
        let (expected, got) = (expected.join(&file), folder.path().join(&file));
        // A file that is not there is none of the same text.
        let got = std::fs::read_to_string(got).unwrap_or_default();
        if std::env::var_os("FWC_BLESS").is_some() {
            std::fs::write(&expected, &got).expect("the expected file can be written");
        }
        let text = std::fs::read_to_string(&expected).unwrap_or_default();
        if text != got || got.is_empty() {
            wrong.push(format!(
                "{}\n{}",
                expected.display(),
                difference(&text, &got)
            ));
        }
    }
}

#[test]
fn every_case_gives_its_rules_files() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        compare(case, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 45, "only {} cases", cases.len());
}

/// What an example teaches comes without a warning or a note.
#[test]
fn examples_are_without_findings() {
    let folder = root().join("examples");
    for (policy, _) in cases()
        .into_iter()
        .filter(|(policy, _)| policy.starts_with(&folder))
    {
        let run = run(
            root(),
            &[
                "check",
                "-q",
                "--deny",
                "warnings",
                &policy.display().to_string(),
            ],
        );
        assert_eq!(
            (run.status, run.err.as_str()),
            (0, ""),
            "{}",
            policy.display()
        );
    }
}

/// Each has a page of about ten lines that says what it is and how to build it.
#[test]
fn examples_have_a_page() {
    for entry in std::fs::read_dir(root().join("examples")).expect("a folder") {
        let example = entry.expect("an entry").path();
        let page = std::fs::read_to_string(example.join("README.md")).expect("a page");
        let name = example
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            page.contains(&format!("fwc build examples/{name}/")),
            "{name}"
        );
        assert!(
            page.lines().count() <= 20,
            "{name}: a page for those in a hurry"
        );
    }
}

/// A name in a policy is one word of one line, whatever is in it.
#[test]
fn texts_are_inert() {
    let case = root().join("tests/cases/comments");
    let run = run(
        &case,
        &["build", "-q", "-o", "-", "--family", "ipv4", "fwc.toml"],
    );
    let targets = run
        .out
        .lines()
        .filter(|line| line.ends_with("\" -j ACCEPT"));
    assert_eq!(targets.count(), 5, "one line a rule, the name in quotes");
}

//! Policies with the rules files that they must give, byte for byte: `tests/cases/` and `examples/`.
//!
//! The expected files were written from the words of `docs/language.md`, not by the compiler. After a change that
//! is meant, `FWC_BLESS=1 cargo test --test cli cases` rewrites them: read the diff.

use std::path::{Path, PathBuf};

use crate::fwc::{root, run};

fn cases() -> Vec<PathBuf> {
    let mut cases = Vec::new();
    for folder in ["tests/cases", "examples"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            cases.push(entry.expect("an entry").path());
        }
    }
    cases.sort();
    cases
}

/// What differs, as a few lines for people.
fn difference(expected: &str, got: &str) -> String {
    let diff = similar::TextDiff::from_lines(expected, got);
    diff.unified_diff().context_radius(1).to_string()
}

/// The expected file of a family, and what the compiler gives.
fn compare(case: &Path, family: &str, file: &str) -> Result<(), String> {
    let run = run(
        case,
        &["build", "-q", "-o", "-", "--family", family, "fwc.toml"],
    );
    if run.status != 0 {
        return Err(format!("{}: {}", case.display(), run.err));
    }
    let path = case.join("expected").join(file);
    if std::env::var_os("FWC_BLESS").is_some() {
        std::fs::write(&path, &run.out).expect("the expected file can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the expected file");
    if expected == run.out {
        return Ok(());
    }
    let difference = difference(&expected, &run.out);
    Err(format!("{}\n{difference}", path.display()))
}

#[test]
fn every_case_gives_its_rules_files() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(compare(case, "ipv4", "rules.v4").err());
        wrong.extend(compare(case, "ipv6", "rules.v6").err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 30, "only {} cases", cases.len());
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

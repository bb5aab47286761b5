//! Every TOML block of the README and the docs is a policy without a finding.
//! A block that is no whole policy is marked ```` ```toml,fragment ````.

#![allow(clippy::expect_used)] // in the helpers

use std::path::{Path, PathBuf};

use fwc::diag::Sink;
use fwc::files::Access;
use fwc::policy;
use fwc::resolve;
use fwc::source::SourceMap;

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = std::fs::read_dir(root.join("docs"))
        .expect("docs/ exists")
        .map(|entry| entry.expect("docs/ can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages.push(root.join("README.md"));
    pages
}

/// The blocks fenced as plain `toml`, each with the number of its first line.
fn policies(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match &mut open {
            Some(_) if line.starts_with("```") => found.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line == "```toml" => open = Some((number + 1, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// What fwc has to say about a policy, each finding with its line in the page.
fn findings(page: &Path, first_line: usize, text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, text).expect("a file");
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    if let Some(policy) = policy::load(&path, Access::Read, &mut sources, &mut sink) {
        resolve::resolve(&policy, &mut sink);
    }
    sink.sorted()
        .iter()
        .map(|diagnostic| format!("{}:{first_line}: {diagnostic:?}", page.display()))
        .collect()
}

#[test]
fn every_policy_in_the_docs_is_right() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (line, policy) in policies(&text) {
            seen += 1;
            wrong.extend(findings(&page, line, &policy));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen >= 15, "only {seen} policies were found");
}

#[test]
fn a_wrong_policy_would_be_found() {
    let wrong = findings(Path::new("page.md"), 1, "version = 1\nrulez = 1\n");
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}

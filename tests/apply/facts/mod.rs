//! What the design of `apply` stands on: a test for each fact about the kernel and its tools, so that one that behaves
//! otherwise is noticed. `docs/internals/facts.md` is the list.

mod addresses;
mod edits;
mod packets;
mod surroundings;
mod unusual;
mod words;

use super::Test;
use super::namespace::{Ended, Namespace};

/// All of them.
pub fn tests() -> impl Iterator<Item = &'static (&'static str, Test)> {
    let groups = [
        addresses::TESTS,
        edits::TESTS,
        packets::TESTS,
        surroundings::TESTS,
        unusual::TESTS,
        words::TESTS,
    ];
    groups.into_iter().flatten()
}

type Result = std::result::Result<(), String>;

/// `iptables-restore OPTIONS` on these lines of a table.
fn load(ns: &Namespace, options: &[&str], table: &str, lines: &[&str]) -> Ended {
    load_text(ns, options, &text(table, lines))
}

/// The same of a whole file.
fn load_text(ns: &Namespace, options: &[&str], text: &str) -> Ended {
    let program = format!("iptables-{}-restore", ns.backend);
    ns.run(&program, options, text)
}

fn text(table: &str, lines: &[&str]) -> String {
    let lines = lines.iter().flat_map(|line| [line, "\n"]);
    format!("*{table}\n{}COMMIT\n", lines.collect::<String>())
}

/// The IPv4 rules with counters.
fn saved(ns: &Namespace) -> String {
    ns.saved_family("iptables")
}

/// Fails the test unless it failed.
#[track_caller]
fn refused(ended: Ended) -> Ended {
    assert!(!matches!(ended.code, Some(0) | None), "{ended:?}");
    ended
}

#[track_caller]
fn has(text: &str, words: &str) {
    assert!(text.contains(words), "`{words}` is not in\n{text}");
}

#[track_caller]
fn lacks(text: &str, words: &str) {
    assert!(!text.contains(words), "`{words}` is in\n{text}");
}

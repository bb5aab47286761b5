//! The examples of the repository: where they are, and whether the kernel gives back what fwc writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fwc::net::{Family, PerFamily};
use libtest_mimic::{Completion, Trial};

use crate::compile::{Compiled, compile};
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// The rules of `examples/NAME/fwc.toml`.
pub fn rules(name: &str) -> Result<PerFamily<String>, String> {
    match compile(&folder().join(name).join("fwc.toml")) {
        Compiled::Rules(rules) => Ok(rules),
        Compiled::Waiting(keys) => Err(format!("keys that are not supported yet: {keys:?}")),
        Compiled::Wrong(_, messages) => Err(messages),
    }
}

/// Cases whose lines no example has.
const CASES: [&str; 1] = ["mangle"];

/// What is loaded reads back unchanged, for each example, some cases and both backends.
pub fn all() -> Vec<Trial> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("examples/")
        .flatten()
        .filter(|entry| entry.path().join("fwc.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(!names.is_empty(), "no examples");
    names.extend(CASES.map(|name| format!("../tests/cases/{name}")));
    let mut tests = Vec::new();
    for name in names {
        for backend in Backend::ALL {
            let name = name.clone();
            let short = name.trim_start_matches("../tests/");
            let title = format!("examples::{short}::reads-back-{backend}");
            tests.push(kernel_test(title, backend, move || {
                let rules = rules(&name)?;
                let namespace = Namespace::new()?;
                for (family, text) in rules.iter() {
                    reads_back(&namespace, backend, family, text)?;
                }
                Ok(Completion::Completed)
            }));
        }
    }
    tests
}

fn reads_back(
    namespace: &Namespace,
    backend: Backend,
    family: Family,
    text: &str,
) -> Result<(), String> {
    namespace.restore(backend, family, &[], text)?;
    let saved = namespace.save(backend, family, &[])?;
    let (written, saved) = (tables(text), tables(&saved));
    if written == saved {
        return Ok(());
    }
    let difference: Vec<String> = written
        .iter()
        .flat_map(|(table, lines)| {
            let none = Vec::new();
            let saved = saved.get(table).unwrap_or(&none).clone();
            let gone = lines.iter().filter(|line| !saved.contains(line));
            let new = saved.iter().filter(|line| !lines.contains(line));
            gone.map(|line| format!("-{line}"))
                .chain(new.map(|line| format!("+{line}")))
                .collect::<Vec<_>>()
        })
        .collect();
    Err(format!("{family} differs:\n{}", difference.join("\n")))
}

/// The lines of each table without comments and counters. The order of tables is the tool's own.
fn tables(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut table = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let line = match line.strip_prefix(':') {
            Some(chain) => chain.split(" [").next().unwrap_or(chain),
            None => line,
        };
        tables.entry(table).or_default().push(line);
    }
    tables
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

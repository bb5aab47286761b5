//! The examples of the repository: where they are, and whether the kernel gives back what fwc writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fwc::net::Family;
use libtest_mimic::{Completion, Trial};

use crate::compile::{Compiled, Rules, compile};
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// The files of a policy below `examples/`.
pub fn rules(policy: &str) -> Result<Rules, String> {
    match compile(&folder().join(policy)) {
        Compiled::Rules(rules) => Ok(rules),
        Compiled::Wrong(_, messages) => Err(messages),
    }
}

/// The policies below `examples/`: `NAME/fwc.toml` and `NAME/hosts/HOST.toml`.
fn policies() -> Vec<String> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut paths = Vec::new();
    for example in entries(&folder()) {
        paths.extend(entries(&example.join("hosts")));
        paths.push(example.join("fwc.toml"));
    }
    paths.retain(|path| path.is_file());
    paths.sort();
    let relative = paths
        .iter()
        .filter_map(|path| path.strip_prefix(folder()).ok());
    relative.map(|path| path.display().to_string()).collect()
}

/// Cases whose lines no example has.
const CASES: [&str; 6] = [
    "../tests/cases/mangle/fwc.toml",
    "../tests/cases/custom/fwc.toml",
    "../tests/cases/custom-here/fwc.toml",
    "../tests/cases/custom-shared/fwc.toml",
    "../tests/cases/custom-nat/fwc.toml",
    "../tests/cases/shared-nat/fwc.toml",
];

/// What is loaded reads back unchanged, for each example and backend.
pub fn all() -> Vec<Trial> {
    let mut policies = policies();
    assert!(policies.len() > 15, "only {policies:?}");
    policies.extend(CASES.map(str::to_owned));
    let mut tests = Vec::new();
    for policy in policies {
        for backend in Backend::ALL {
            let policy = policy.clone();
            let name = policy.trim_end_matches(".toml").trim_end_matches("/fwc");
            let name = name.trim_start_matches("../tests/");
            let title = format!("examples::{name}::reads-back-{backend}");
            tests.push(kernel_test(title, backend, move || {
                let rules = rules(&policy)?;
                let namespace = Namespace::new()?;
                namespace.restore_sets(&rules.sets)?;
                for (family, text) in rules.texts.iter() {
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
    let (mut written, mut saved) = (tables(text), tables(&saved));
    if !text.contains("\n:INPUT ") {
        // Of shared mode: the base chains are not the file's.
        for tables in [&mut written, &mut saved] {
            only_own_chains(tables);
        }
    }
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

/// Leaves out what base chains are declared as, and tables with nothing else.
fn only_own_chains(tables: &mut BTreeMap<&str, Vec<&str>>) {
    for lines in tables.values_mut() {
        lines.retain(|line| !line.ends_with(" ACCEPT") || line.starts_with("-A"));
    }
    tables.retain(|_, lines| lines.len() > 2);
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

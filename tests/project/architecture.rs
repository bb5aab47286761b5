//! What the compiler does not check: which module may use which, that every code has its page, and that every test
//! file is run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

/// The modules from the bottom up. A module uses what stands on a lower line, nothing on its own.
const LAYERS: &[&[&str]] = &[
    &["fault"],
    &["source", "files"],
    &["diag"],
    &["net"],
    &["lints"],
    &["policy", "iptables"],
    &["resolve", "analysis"],
    &["expand"],
    &["verify", "diff"],
    &["compile", "explain"],
    &["live"],
    &["apply"],
    &["cli"],
];

/// Arrows that the layers would allow. The text that `expand` makes gets a reading of its own, so that a mistake of
/// a template cannot hide; what it should mean is written down a second time, without a look at `expand`: the specification,
/// the proof, the tests and the lints all read the rules as text.
const FORBIDDEN: &[(&str, &str)] = &[
    ("expand", "iptables"),
    ("expand", "analysis"),
    ("verify", "expand"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a folder of the crate, as paths from its root.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(root().join(&next)).expect("a folder") {
            let path = next.join(entry.expect("an entry").file_name());
            if root().join(&path).is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).expect("a file of the crate")
}

/// The text without line comments and unit tests: those may look at everything.
fn code_of(path: &Path) -> String {
    let text = text_of(path);
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = text.lines().map(|line| match line.split_once("//") {
        Some((code, _)) => code,
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns `true` for a file of unit tests, which may use everything. `src/verify/tests.rs` is none: it is about the tests
/// of policies.
fn is_unit_test(path: &Path) -> bool {
    let parent = path.with_file_name("mod.rs");
    let name = path.file_stem().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    name.ends_with("tests") && text_of(&parent).contains(&format!("#[cfg(test)]\nmod {name};"))
}

/// `src/policy/schema/mod.rs` is `["policy", "schema"]`.
fn module_of(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let parts = parts.components().skip(1).filter_map(|part| match part {
        Component::Normal(name) => name.to_str().map(str::to_owned),
        _ => None,
    });
    parts
        .filter(|name| name != "mod" && name != "lib")
        .collect()
}

/// The first words of the paths that begin with `start`: of `{a::b, c}` both `a` and `c`.
fn words_after(code: &str, start: &str) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        if code[..at].ends_with(|c| is_word(c) || c == ':') {
            continue; // the end of another path
        }
        let rest = code[at + start.len()..].trim_start();
        let Some(group) = rest.strip_prefix('{') else {
            found.push(rest.chars().take_while(|c| is_word(*c)).collect());
            continue;
        };
        let (mut depth, mut at_word) = (1, true);
        let mut word = String::new();
        for c in group.chars() {
            if at_word && is_word(c) {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                found.push(std::mem::take(&mut word));
                at_word = false;
            }
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_word = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// The top-level modules that a file uses, by `crate::` or by as many `super::` as lead to the root.
fn used_by(path: &Path, code: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let module = module_of(path);
    let mut words = words_after(code, "crate::");
    let up = "super::".repeat(module.len().max(1));
    words.extend(words_after(code, &up));
    let own = module.first();
    let used = words.into_iter().filter(|word| modules.contains(word));
    used.filter(|word| Some(word) != own).collect()
}

/// A long file is no mistake, but a question: has it one subject?
fn report_long_files() {
    for path in [rust_files("src"), rust_files("tests")].concat() {
        let lines = text_of(&path).lines().count();
        if lines > 500 {
            // Past the harness, which shows what is printed of failing tests only.
            let _ = writeln!(std::io::stderr(), "{}: {lines} lines", path.display());
        }
    }
}

fn layer(module: &str) -> usize {
    let layer = LAYERS.iter().position(|names| names.contains(&module));
    layer.unwrap_or_else(|| panic!("`{module}` has no place in LAYERS"))
}

fn is_wrong(module: &[String], used: &str) -> bool {
    let path = module.join("::");
    let forbidden = FORBIDDEN.iter().any(|(from, to)| {
        let inside = path == *from || path.starts_with(&format!("{from}::"));
        inside && used == *to
    });
    forbidden || layer(used) >= layer(&module[0])
}

#[test]
fn arrows_go_one_way() {
    let files = rust_files("src");
    let modules: BTreeSet<_> = files
        .iter()
        .filter_map(|path| module_of(path).into_iter().next())
        .filter(|module| module != "main")
        .collect();
    let mut arrows: BTreeMap<(String, String), PathBuf> = BTreeMap::new();
    let mut wrong = Vec::new();
    for path in &files {
        let module = module_of(path);
        let is_root = module.is_empty() || module == ["main"];
        if is_root || is_unit_test(path) {
            continue;
        }
        for used in used_by(path, &code_of(path), &modules) {
            if is_wrong(&module, &used) {
                wrong.push(format!("{} uses {used}", path.display()));
            }
            arrows.insert((module[0].clone(), used), path.clone());
        }
    }
    report_long_files();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The reader of `use` lines would find nothing wrong if it found nothing.
    let known = ["cli expand", "expand resolve", "policy net", "diag source"];
    for arrow in known {
        let (from, to) = arrow.split_once(' ').expect("two words");
        let arrow = (from.to_owned(), to.to_owned());
        assert!(arrows.contains_key(&arrow), "{from} uses {to}: not seen");
    }
}

#[test]
fn wrong_arrows_are_seen() {
    let modules: BTreeSet<_> = LAYERS.concat().into_iter().map(str::to_owned).collect();
    let wrong = |path: &str, code: &str| {
        let path = Path::new(path);
        let module = module_of(path);
        let used = used_by(path, code, &modules);
        used.iter().any(|used| is_wrong(&module, used))
    };
    for (path, code) in [
        (
            "src/net/port.rs",
            "use crate::diag::{Code, Sink};\nuse crate::policy::Rule;",
        ),
        ("src/net/mod.rs", "fn x() { crate::cli::run() }"),
        (
            "src/net/mod.rs",
            "use crate::{diag::{Code, Sink}, resolve::Plan};",
        ),
        ("src/net/mod.rs", "use crate::{diag, resolve};"),
        ("src/net/mod.rs", "use super::expand::Rendered;"),
        ("src/net/port.rs", "use super::super::policy;"),
        ("src/expand/rules/mod.rs", "use crate::iptables::parse;"),
        ("src/iptables/parse.rs", "use crate::expand::Rendered;"),
        ("src/iptables/parse.rs", "use crate::policy::Rule;"),
        ("src/verify/spec/rules.rs", "use crate::expand::Rendered;"),
        ("src/verify/mod.rs", "use crate::expand::Rendered;"),
        ("src/verify/tests.rs", "use crate::expand::Rendered;"),
        ("src/diff/mod.rs", "use crate::live::Host;"),
    ] {
        assert!(wrong(path, code), "{path}: {code}");
    }
    for (path, code) in [
        (
            "src/net/port.rs",
            "use crate::diag::Code; use super::policy_like;",
        ),
        (
            "src/policy/load.rs",
            "use super::Policy; use crate::policy::Rule;",
        ),
        (
            "src/cli/build.rs",
            "use crate::{apply, expand, net::Family};",
        ),
        ("src/verify/mod.rs", "use crate::resolve::Plan;"),
        ("src/diag/code.rs", "use xcrate::cli;"),
    ] {
        assert!(!wrong(path, code), "{path}: {code}");
    }
}

/// The modules whose files form no circle. Each of their files imports an item from the file that defines it, never through
/// `mod.rs`, which would hide the arrow.
const WITHOUT_CIRCLES: &[&str] = &["apply"];

/// The words after the module's own path in a file: files of the module, and what `mod.rs` holds.
fn used_within(path: &Path, code: &str) -> BTreeSet<String> {
    let module = module_of(path);
    let mut words = words_after(code, &format!("crate::{}::", module[0]));
    words.extend(words_after(code, &"super::".repeat(module.len() - 1)));
    words.into_iter().filter(|word| word != "super").collect()
}

/// What is left of the arrows between files without those that lead into no circle or out of none.
fn circles(mut arrows: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let known: BTreeSet<String> = arrows.keys().cloned().collect();
        let used: BTreeSet<String> = arrows.values().flatten().cloned().collect();
        arrows.retain(|file, uses| {
            uses.retain(|file| known.contains(file));
            !uses.is_empty() && used.contains(file)
        });
        if arrows.len() == known.len() {
            return arrows;
        }
    }
}

#[test]
fn files_form_no_circles() {
    for room in WITHOUT_CIRCLES {
        let mut files = rust_files(&format!("src/{room}"));
        files.retain(|path| module_of(path).len() > 1 && !is_unit_test(path));
        let names: BTreeSet<String> = files
            .iter()
            .map(|path| module_of(path)[1].clone())
            .collect();
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in &files {
            let own = module_of(path)[1].clone();
            let used = used_within(path, &code_of(path));
            let hidden: Vec<_> = used.difference(&names).collect();
            let path = path.display();
            assert!(hidden.is_empty(), "{path} uses mod.rs for {hidden:?}");
            let others = used.into_iter().filter(|used| *used != own);
            arrows.entry(own.clone()).or_default().extend(others);
        }
        let found = circles(arrows.clone());
        assert!(found.is_empty(), "circles in src/{room}: {found:#?}");
        // The reader of `use` lines would find nothing if it saw no arrow.
        assert!(arrows.values().flatten().count() > files.len());
    }
}

#[test]
fn circles_are_seen() {
    let arrows = |text: &str| -> BTreeMap<String, BTreeSet<String>> {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in text.split(' ').filter_map(|arrow| arrow.split_once('>')) {
            arrows.entry(to.to_owned()).or_default();
            arrows
                .entry(from.to_owned())
                .or_default()
                .insert(to.to_owned());
        }
        arrows
    };
    assert!(circles(arrows("a>b a>c b>c c>d")).is_empty());
    let found = circles(arrows("a>b b>c c>b c>d"));
    assert!(found.keys().eq(["b", "c"]), "{found:?}");
    let used = |path: &str, code: &str| used_within(Path::new(path), code);
    let words = ["Error", "disk", "owned"].map(str::to_owned);
    let code = "use super::{Error, disk};\nuse crate::apply::owned::Owned;";
    assert_eq!(used("src/apply/plan.rs", code), BTreeSet::from(words));
    let code = "use super::super::disk::read;\nuse super::Side;";
    let words = ["disk".to_owned()];
    assert_eq!(used("src/apply/order/side.rs", code), BTreeSet::from(words));
}

/// The files that a file names by `mod`.
fn children(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().expect("a folder");
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .expect("a name");
    // A target's root and a mod.rs have their modules beside them, other files in a folder of their name.
    let is_root = stem == "mod" || stem == "main" || folder == Path::new("tests");
    let inside = if is_root {
        folder.to_owned()
    } else {
        folder.join(stem)
    };
    let code = code_of(path);
    let mut found = Vec::new();
    let mut elsewhere = None;
    for line in code.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            elsewhere = rest.split('"').next().map(|name| folder.join(name));
            continue;
        }
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let Some(name) = line
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        found.extend(elsewhere.take());
        found.push(inside.join(name).with_extension("rs"));
        found.push(inside.join(name).join("mod.rs"));
    }
    found.iter().map(|path| normal(path)).collect()
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

fn is_target(path: &Path) -> bool {
    let folder = path.parent().expect("a folder");
    folder == Path::new("tests")
        || (path.ends_with("main.rs") && folder.parent() == Some(Path::new("tests")))
}

#[test]
fn every_test_file_is_run() {
    let files: BTreeSet<_> = rust_files("tests").into_iter().collect();
    let mut open: Vec<_> = files
        .iter()
        .filter(|path| is_target(path))
        .cloned()
        .collect();
    let mut reached = BTreeSet::new();
    while let Some(path) = open.pop() {
        if files.contains(&path) && reached.insert(path.clone()) {
            open.extend(children(&path));
        }
    }
    let forgotten: Vec<_> = files.difference(&reached).collect();
    assert!(forgotten.is_empty(), "nothing runs {forgotten:#?}");
    assert!(reached.contains(Path::new("tests/cli/wrong.rs")));
}

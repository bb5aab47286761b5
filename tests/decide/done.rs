//! Each key of the language has all that makes it done: a probe or a case, a policy that the kernel's tests load, a wrong use
//! with a snapshot, a description in the schema, words in the documentation, a place in the random policies.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use fwc::compile::{Deny, Options, compile};
use fwc::files::Access;
use fwc::net::Date;
use fwc::policy::json_schema;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::generate::{Random, sample};
use crate::positions::keys_of;
use crate::{customs, promises, views};

/// What a key has when it is done.
const WHAT: [&str; 6] = ["case", "kernel", "wrong", "schema", "docs", "random"];

/// Keys that need not have something, and why; a `*` in front or at the end is all keys that end or begin so.
const EXCEPT: &[(&str, &[&str], &str)] = &[
    (
        "version",
        &["kernel"],
        "a policy without it is refused: all cases have it",
    ),
    (
        "lints*",
        &["case", "kernel", "random"],
        "says how loud a finding is, and never what the rules are: tests/cli/lints.rs",
    ),
    (
        "lints.*",
        &["wrong", "docs"],
        "one kind of key with the name of each code, which has a page and wrong policies of its own",
    ),
    (
        "hooks*",
        &["kernel", "random"],
        "what is run when a change stays: no rule and no packet depends on it; tests/apply/hooks.rs runs it beside both kernels' rules",
    ),
    (
        "addresses.*.size",
        &["case", "kernel", "random"],
        "how many members a set may have, and never which packets are in it: tests/apply and tests/cli/sets.rs",
    ),
    (
        "concerns*",
        &["case", "kernel", "random"],
        "what is said of a host, and never what the rules are: tests/apply/preflight.rs",
    ),
    (
        "concerns.*",
        &["wrong", "docs"],
        "one kind of key with the name of each concern; docs/guides/apply.md lists them",
    ),
    (
        "extensions*",
        &["kernel", "random"],
        "what iptables here does not have, so that nothing here can load it",
    ),
    (
        "nat.group.not",
        &["wrong", "random"],
        "the negation of rules, read by the same code",
    ),
    ("nat.user.not", &["wrong", "random"], "the same"),
    ("nat.mac.not", &["wrong", "random"], "the same"),
    ("nat.ipset.name", &["wrong", "random"], "the same"),
    ("nat.ipset.flags", &["wrong", "random"], "the same"),
    (
        "rules.rules.*",
        &["case", "kernel", "wrong", "docs", "random"],
        "the keys of rules, read by the same code",
    ),
    ("include", &["random"], "random policies are one file"),
    (
        "addresses.*.file",
        &["random"],
        "random policies are one file",
    ),
    ("*.override", &["random"], "random policies are one file"),
];

/// The tests.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("done::every_key", every_key)]
}

fn every_key() -> Result<(), Failed> {
    let schema = json_schema();
    let keys = schema_keys(&schema);
    assert!(keys.len() > 150, "only {} keys", keys.len());
    let mut has: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let loaded = [
        "examples",
        "tests/probes",
        "tests/cases/mangle",
        "tests/cases/custom",
    ];
    let in_tests = used_in_tests(&schema);
    let mut kernel = used_below(&schema, &loaded);
    kernel.extend(in_tests.iter().cloned());
    has.insert("kernel", kernel);
    let cases = ["examples", "tests/probes", "tests/cases"];
    let mut cases = used_below(&schema, &cases);
    cases.extend(in_tests);
    has.insert("case", cases);
    has.insert("wrong", found_wrong(&schema));
    has.insert("random", random(&schema));
    let described = keys.iter().filter(|(_, about)| !about.is_empty());
    has.insert("schema", described.map(|(key, _)| key.clone()).collect());
    let documented = keys.iter().filter(|(key, _)| is_documented(key));
    has.insert("docs", documented.map(|(key, _)| key.clone()).collect());

    let excepted = |key: &str, what: &str| {
        let mut except = EXCEPT.iter();
        except.any(|(name, whats, _)| is_like(key, name) && whats.contains(&what))
    };
    let mut missing = Vec::new();
    for key in keys.keys() {
        let lacks = |what: &&str| !has[what].contains(key) && !excepted(key, what);
        let lacks: Vec<&str> = WHAT.into_iter().filter(lacks).collect();
        if !lacks.is_empty() {
            missing.push(format!("{key}: no {}", lacks.join(", no ")));
        }
    }
    let idle = EXCEPT
        .iter()
        .filter(|(name, ..)| !keys.keys().any(|key| is_like(key, name)));
    missing.extend(idle.map(|(name, ..)| format!("{name}: no such key, but an exception")));
    match missing.is_empty() {
        true => Ok(()),
        false => Err(missing.join("\n").into()),
    }
}

/// Whether a key is meant: by its name, its beginning or its end.
fn is_like(key: &str, name: &str) -> bool {
    match (name.strip_prefix("*."), name.strip_suffix('*')) {
        (Some(end), _) => key.ends_with(end),
        (_, Some(start)) => key.starts_with(start),
        _ => key == name,
    }
}

/// The keys with their descriptions: `rules.limit.rate`, and `log.*.prefix` below a name of the user's own.
fn schema_keys(schema: &Value) -> BTreeMap<String, String> {
    let mut keys = Vec::new();
    keys_of(schema, &mut Vec::new(), &mut keys);
    let paths = keys.into_iter().map(|(steps, _)| {
        let about = tables(schema, &steps).find_map(|key| key["description"].as_str());
        let names: Vec<_> = steps.into_iter().filter(|step| step != "[]").collect();
        (names.join("."), about.unwrap_or_default().to_owned())
    });
    paths.collect()
}

/// The schemas at the end of the steps.
fn tables<'s>(schema: &'s Value, steps: &[String]) -> impl Iterator<Item = &'s Value> {
    let mut at = vec![schema];
    for step in steps {
        at = at.into_iter().flat_map(alternatives).collect();
        let next = at.into_iter().filter_map(|table| match step.as_str() {
            "[]" => table.get("items"),
            "*" => table.get("additionalProperties"),
            name => table.get("properties")?.get(name),
        });
        at = next.collect();
    }
    at.into_iter()
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    match schema["anyOf"].as_array() {
        Some(all) => all.iter().flat_map(alternatives).collect(),
        None => vec![schema],
    }
}

/// A policy's keys, each with where it and its value stand.
fn written(schema: &Value, text: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    if let Ok(table) = DeTable::parse(text) {
        collect(&[schema], table.get_ref(), "", &mut found);
    }
    found
}

fn collect(
    schemas: &[&Value],
    table: &DeTable<'_>,
    path: &str,
    found: &mut Vec<(String, Range<usize>)>,
) {
    // A value alone stands for a list of it.
    let schemas: Vec<&Value> = schemas
        .iter()
        .flat_map(|schema| alternatives(schema))
        .collect();
    let items = schemas.iter().filter_map(|schema| schema.get("items"));
    let schemas: Vec<&Value> = schemas
        .iter()
        .copied()
        .chain(items.flat_map(alternatives))
        .collect();
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let known = schemas
            .iter()
            .filter_map(|schema| schema.get("properties")?.get(name));
        let mut inner: Vec<&Value> = known.collect();
        let mut step = name;
        if inner.is_empty() {
            let others = schemas
                .iter()
                .filter_map(|schema| schema.get("additionalProperties"));
            inner = others.filter(|other| other.is_object()).collect();
            step = "*";
        }
        if inner.is_empty() {
            continue;
        }
        let path = match path {
            "" => step.to_owned(),
            _ => format!("{path}.{step}"),
        };
        let (start, end) = (key.span().start, value.span().end);
        found.push((path.clone(), start..end.max(key.span().end)));
        match value.get_ref() {
            DeValue::Table(table) => collect(&inner, table, &path, found),
            DeValue::Array(array) => {
                for element in array.iter() {
                    if let DeValue::Table(table) = element.get_ref() {
                        collect(&inner, table, &path, found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn used_below(schema: &Value, folders: &[&str]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for folder in folders {
        for path in policies(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).expect("a policy");
            used.extend(written(schema, &text).into_iter().map(|(key, _)| key));
        }
    }
    used
}

/// The keys of the policies that stand in the kernel's tests themselves.
fn used_in_tests(schema: &Value) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for path in files(&root().join("tests/kernel"), "rs") {
        let text = std::fs::read_to_string(&path).expect("a test");
        let strings = text.split("r#\"").skip(1);
        let strings = strings.filter_map(|rest| rest.split("\"#").next());
        used.extend(
            strings
                .flat_map(|text| written(schema, text))
                .map(|(key, _)| key),
        );
    }
    used
}

/// The keys that some wrong policy is told of: a message points at the key or into its value.
fn found_wrong(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in policies(&root().join("tests/wrong")) {
        let options = Options {
            access: Access::Read,
            templates: None,
            deny: &Deny::default(),
            verify: true,
            max_lines: None,
            today: Date::constant(2026, 6, 1),
        };
        let compilation = compile(&path, options);
        let text = std::fs::read_to_string(&path).expect("a policy");
        let keys = written(schema, &text);
        for finding in compilation.findings.iter() {
            for label in finding.primary.iter().chain(&finding.secondary) {
                let (file, told) = (label.span.file, label.span.range());
                if compilation.sources.file(file).path() != path {
                    continue;
                }
                let around =
                    |range: &Range<usize>| range.start <= told.start && told.end <= range.end;
                let keys = keys.iter().filter(|(_, range)| around(range));
                found.extend(keys.map(|(key, _)| key.clone()));
            }
        }
    }
    // Who is told of a key is told of its table.
    for key in found.clone() {
        let ends = key.match_indices('.').map(|(end, _)| key[..end].to_owned());
        found.extend(ends.collect::<Vec<_>>());
    }
    found
}

/// The keys of random policies that are not refused.
fn random(schema: &Value) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for seed in 0..400 {
        let mut random = Random(seed);
        let sample = sample(&mut random);
        let Ok(compiled) = views::compile(&sample.text) else {
            continue;
        };
        let tests = promises::written(&mut random, &sample, &compiled.policy);
        let customs = customs::written(&mut random);
        for text in [&sample.text, &tests, &customs] {
            used.extend(written(schema, text).into_iter().map(|(key, _)| key));
        }
    }
    used
}

/// Whether the language's documentation speaks of a key where it speaks of its table.
fn is_documented(key: &str) -> bool {
    let text =
        std::fs::read_to_string(root().join("docs/reference/language.md")).expect("the language");
    let names: Vec<&str> = key.split('.').collect();
    let sections = || text.split("\n## ");
    let named = |name: &str| sections().find(|section| section.starts_with(&format!("{name}\n")));
    // What one file takes from another stands where files are put together.
    let place = if key.ends_with(".override") {
        "include"
    } else {
        names[0]
    };
    let own = named(place).unwrap_or(&text);
    // Entries have the keys of a rule besides their own, and say so.
    let says_so = [
        "those of a rule",
        "keys of a rule",
        "of rules",
        "[rules](#rules)",
    ];
    let rules = named("rules").filter(|_| says_so.iter().any(|words| own.contains(words)));
    let last = names[names.len() - 1];
    [Some(own), rules]
        .into_iter()
        .flatten()
        .any(|section| code(section).contains(last))
}

/// The words in blocks, in backticks and in bold.
fn code(text: &str) -> BTreeSet<&str> {
    let blocks = text.split("```").skip(1).step_by(2);
    let prose = || text.split("```").step_by(2);
    let ticked = prose().flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let bold = prose().flat_map(|prose| prose.split("**").skip(1).step_by(2));
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let all = blocks.chain(ticked).chain(bold);
    all.flat_map(|code| code.split(move |c| !is_part(c)))
        .collect()
}

/// The policies below a folder, and what they include.
fn policies(folder: &Path) -> Vec<PathBuf> {
    let mut found = files(folder, "toml");
    found.retain(|path| !path.ends_with("probes.toml"));
    found
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

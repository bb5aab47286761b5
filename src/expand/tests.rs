//! Tests that `docs/guides/templates.md` lists the variables of templates exactly.

#![allow(clippy::expect_used, clippy::panic)] // in the helpers

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use minijinja::value::{Value, ValueKind};

use super::contexts;
use super::values::VERSION;
use crate::diag::Sink;
use crate::files::Access;
use crate::net::PerFamily;
use crate::policy;
use crate::resolve::resolve;
use crate::source::SourceMap;

const PAGE: &str = include_str!("../../docs/guides/templates.md");

/// The documented types of the variables, by the heading that they stand under.
type Documented = BTreeMap<String, BTreeMap<String, String>>;

fn documented() -> Documented {
    let mut kinds = Documented::new();
    let mut kind = None;
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            kind = heading.strip_prefix("## ").map(str::to_owned);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (Some(kind), [_, name, is, _, _]) = (&kind, cells.as_slice())
            && let Some(name) = name
                .strip_prefix('`')
                .and_then(|name| name.strip_suffix('`'))
        {
            let variables = kinds.entry(kind.clone()).or_default();
            let twin = variables.insert(name.to_owned(), (*is).to_owned());
            assert!(twin.is_none(), "{kind}.{name} is documented twice");
        }
    }
    kinds
}

/// A walk through a context by the documented types.
struct Walk<'d> {
    kinds: &'d Documented,
    /// Variables that had a value.
    seen: BTreeSet<(String, String)>,
    wrong: BTreeSet<String>,
}

impl Walk<'_> {
    fn value(&mut self, at: &str, is: &str, value: &Value) -> bool {
        if let Some(is) = is.strip_suffix(" or none") {
            return !value.is_none() && self.value(at, is, value);
        }
        if let Some(of) = is.strip_prefix("list of ") {
            if value.kind() != ValueKind::Seq {
                self.wrong.insert(format!("{at} is not a list"));
                return false;
            }
            let items: Vec<_> = value.try_iter().expect("a list").collect();
            for item in &items {
                self.value(at, of, item);
            }
            return !items.is_empty();
        }
        let right = match is {
            "text" => value.as_str().is_some(),
            "number" => value.is_integer(),
            "true or false" => value.kind() == ValueKind::Bool,
            kind => return self.object(at, kind, value),
        };
        if !right {
            self.wrong
                .insert(format!("{at} is documented as {is}, and is {value:?}"));
        }
        value.is_true()
    }

    fn object(&mut self, at: &str, kind: &str, value: &Value) -> bool {
        let Some(variables) = self.kinds.get(kind) else {
            self.wrong.insert(format!("{at}: no table for {kind}"));
            return false;
        };
        let keys = value.try_iter().map(Iterator::collect::<Vec<_>>);
        let keys = keys.unwrap_or_default();
        let given: BTreeSet<_> = keys.iter().filter_map(Value::as_str).collect();
        for name in &given {
            if !variables.contains_key(*name) {
                self.wrong
                    .insert(format!("{kind}.{name} is not documented"));
            }
        }
        for (name, is) in variables {
            if !given.contains(name.as_str()) {
                self.wrong.insert(format!("{kind}.{name} is not given"));
                continue;
            }
            let value = value.get_attr(name).expect("a value");
            if self.value(&format!("{kind}.{name}"), is, &value) {
                self.seen.insert((kind.to_owned(), name.clone()));
            }
        }
        true
    }
}

fn policies() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patterns = [
        "examples/*/fwc.toml",
        "tests/cases/*/fwc.toml",
        "tests/probes/*/fwc.toml",
    ];
    let found = patterns.iter().flat_map(|pattern| {
        let pattern = root.join(pattern).display().to_string();
        glob::glob(&pattern).expect("a pattern").flatten()
    });
    found.collect()
}

/// Policies with features that no other policy of the project has.
const RARE: &[&str] = &[
    r#"
version = 1
[interfaces]
lan = { device = "eth1", networks = ["10.8.0.0/24"] }
wan = "eth0"
[[nat]]
type = "snat"
from = "lan"
to = "wan"
to-source = "203.0.113.5"
[[nat]]
type = "netmap"
from = "wan"
destination = "203.0.113.0/24"
to = "10.8.0.0/24"
[[raw]]
type = "helper"
helper = "ftp"
service = "21/tcp"
[[rules]]
service = "ftp"
schedule = { days = ["mon"], from = "08:00", until = "18:00", timezone = "local" }
"#,
    r#"
version = 1
[ownership]
mode = "shared"
[[mangle]]
type = "mark"
set = "0x1/0x1"
[[raw]]
type = "notrack"
service = "53/udp"
[[nat]]
type = "redirect"
service = "80/tcp"
to-port = 8080
[[rules]]
service = "dns"
"#,
];

#[test]
fn what_is_documented_is_what_is_given() {
    let kinds = documented();
    let mut walk = Walk {
        kinds: &kinds,
        seen: BTreeSet::new(),
        wrong: BTreeSet::new(),
    };
    let mut contexts_seen = 0;
    let folder = tempfile::tempdir().expect("a folder");
    let rare = RARE.iter().enumerate().map(|(index, text)| {
        let path = folder.path().join(format!("{index}.toml"));
        std::fs::write(&path, text).expect("a file");
        path
    });
    for path in policies().into_iter().chain(rare) {
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let policy = policy::load(&path, Access::Read, &mut sources, &mut sink);
        let Some(plan) = policy.and_then(|policy| resolve(&policy, &mut sink)) else {
            continue;
        };
        let PerFamily { v4, v6 } = contexts(&plan);
        for context in [v4, v6] {
            contexts_seen += 1;
            let (value, _) = context.into_value();
            walk.object("the file", "file", &value);
        }
    }
    assert!(contexts_seen > 100, "only {contexts_seen} contexts");
    assert!(walk.wrong.is_empty(), "{:#?}", walk.wrong);
    let all = kinds
        .iter()
        .flat_map(|(kind, names)| names.keys().map(|name| (kind.clone(), name.clone())));
    let never: Vec<_> = all.filter(|one| !walk.seen.contains(one)).collect();
    assert!(never.is_empty(), "never with a value: {never:?}");
}

#[test]
fn the_version_is_documented() {
    assert!(PAGE.contains(&format!("This is version {VERSION} of the context.")));
}

/// Checks that the walk finds errors: a walk that never does would prove nothing.
#[test]
fn a_wrong_page_is_seen() {
    let mut kinds = documented();
    let line = kinds.get_mut("line").expect("a table");
    line.remove("mac");
    line.insert("macc".to_owned(), "text or none".to_owned());
    line.insert("target".to_owned(), "number".to_owned());
    let mut walk = Walk {
        kinds: &kinds,
        seen: BTreeSet::new(),
        wrong: BTreeSet::new(),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web-server/fwc.toml");
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(&path, Access::Read, &mut sources, &mut sink);
    let plan = policy.and_then(|policy| resolve(&policy, &mut sink));
    let (value, _) = contexts(&plan.expect("a plan")).v4.into_value();
    walk.object("the file", "file", &value);
    let wrong: Vec<_> = walk.wrong.iter().map(String::as_str).collect();
    assert!(wrong.contains(&"line.mac is not documented"), "{wrong:?}");
    assert!(wrong.contains(&"line.macc is not given"), "{wrong:?}");
    assert!(
        wrong
            .iter()
            .any(|one| one.starts_with("line.target is documented as number"))
    );
}

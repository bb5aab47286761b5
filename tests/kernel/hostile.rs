//! Hostile text in every string of the language: an error, or inert. What is compiled is loaded, and the kernel holds
//! the rules of the text, no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use fwc::net::{Family, PerFamily};
use fwc::policy::json_schema;
use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;

use crate::compile::{Compiled, compile};
use crate::environment::kernel_test;
use crate::positions::{keys_of, policy_with};
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// Line ends, quotes, shells, options, templates, terminals, and what looks like something else.
const TEXTS: &[&str] = &[
    "x\n-A INPUT -j ACCEPT",
    "x\r-A INPUT -j ACCEPT",
    "\nCOMMIT\n*nat\n",
    "x\u{0}y",
    "x\" -j ACCEPT -m comment --comment \"y",
    "x' -j ACCEPT '",
    "x\\",
    "x\\\" -j ACCEPT",
    "--jump",
    "-j ACCEPT",
    "! -s 10.0.0.0/8",
    "$(touch /tmp/fwc-was-here)",
    "`touch /tmp/fwc-was-here`",
    "x; touch /tmp/fwc-was-here",
    "| id",
    "\u{1b}[31mred\u{1b}]0;title\u{7}",
    "\u{9b}31m",
    "x\u{202e}tpecca",
    "x\u{200b}y",
    "x\u{2028}y",
    "x\u{85}y",
    "\u{430}dmin",
    "\u{feff}x",
    "{{ 7 * 7 }}",
    "{% include \"raw.j2\" %}",
    "%s%n%x",
    "# x",
    ":INPUT ACCEPT [0:0]",
    "*filter",
    "COMMIT",
    "[0:0] -A INPUT -j ACCEPT",
    "x\ty",
    " ",
];

pub fn all() -> Vec<Trial> {
    let trial = |backend| {
        let title = format!("hostile::every-string-{backend}");
        kernel_test(title, backend, move || every_string(backend))
    };
    Backend::ALL.map(trial).into()
}

/// Every place of the language where a text may stand, alone or in a list, or be a name.
fn policies(text: &str) -> Vec<(String, String)> {
    let schema = json_schema();
    let mut keys = Vec::new();
    keys_of(&schema, &mut Vec::new(), &mut keys);
    let quoted = Value::from(text).to_string();
    let mut found = Vec::new();
    let mut sections = BTreeSet::new();
    for (steps, _) in keys {
        let place = steps.join(".");
        if let [section, name, ..] = &steps[..]
            && name == "*"
            && sections.insert(section.clone())
        {
            let example = &schema["properties"][section]["examples"][0];
            let value = example.as_object().and_then(|it| it.values().next());
            let value = value.map_or("1".to_owned(), crate::positions::toml_of);
            let text = format!("version = 1\n{section} = {{ {quoted} = {value} }}\n");
            found.push((format!("{section}: a name"), text));
        }
        for (form, value) in [("", quoted.clone()), (" in a list", format!("[{quoted}]"))] {
            // One rule of iptables is what this key is for; what it takes has cases of its own.
            let last = steps.last().map(String::as_str);
            if place == "custom.[].rule" || last == Some("custom") {
                continue;
            }
            found.push((
                format!("{place}{form}"),
                policy_with(&schema, &steps, &value),
            ));
        }
    }
    found
}

/// What was compiled: a place with its text, and rules that no other of them has.
type Loads = Result<Vec<(String, Family, String)>, String>;

fn compiled() -> Loads {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("fwc.toml");
    let harmless = policies("harmless");
    let (mut seen, mut found, mut refused) = (BTreeSet::new(), Vec::new(), 0);
    for text in TEXTS {
        for ((place, policy), (_, other)) in policies(text).into_iter().zip(&harmless) {
            let Some(rules) = rules_of(&path, &policy)? else {
                refused += 1;
                continue;
            };
            let place = format!("{place} = {text:?}");
            for (family, rules) in rules.iter() {
                if !seen.insert(rules.clone()) {
                    continue;
                }
                let expected = rules_of(&path, other)?;
                let expected =
                    expected.ok_or_else(|| format!("{place}, but `harmless` is refused"))?;
                if first_words(rules) != first_words(&expected[family]) {
                    return Err(format!(
                        "{place}: other lines than with `harmless`:\n{rules}"
                    ));
                }
                found.push((place.clone(), family, rules.clone()));
            }
        }
    }
    // A test that compiles nothing, or refuses nothing, would say nothing.
    if found.len() < 30 || refused < 1000 {
        return Err(format!("{} files, {refused} policies refused", found.len()));
    }
    Ok(found)
}

fn every_string(backend: Backend) -> Result<Completion, Failed> {
    static COMPILED: LazyLock<Loads> = LazyLock::new(compiled);
    let namespace = Namespace::new()?;
    for (place, family, rules) in COMPILED.as_ref()? {
        let wrong = |what: String| Failed::from(format!("{place}: {what}"));
        for name in sets_in(rules) {
            let family = match family {
                Family::V4 => "inet",
                Family::V6 => "inet6",
            };
            let create = ["create", name, "hash:net", "family", family, "-exist"];
            namespace.run("ipset", &create, "").map_err(wrong)?;
        }
        namespace
            .restore(backend, *family, &[], rules)
            .map_err(wrong)?;
        let (written, held) = (count(rules), count(&namespace.save(backend, *family, &[])?));
        if written != held {
            return Err(wrong(format!(
                "{written} rules were written, {held} are held"
            )));
        }
    }
    if Path::new("/tmp/fwc-was-here").exists() {
        return Err("a shell was asked".into());
    }
    Ok(Completion::Completed)
}

/// The sets that rules name, which nobody made.
fn sets_in(rules: &str) -> impl Iterator<Item = &str> {
    let parts = rules.split("--match-set ").skip(1);
    parts.filter_map(|part| part.split(' ').next())
}

fn first_words(text: &str) -> Vec<&str> {
    let words = text.lines().map(|line| line.split(' ').next());
    words.map(Option::unwrap_or_default).collect()
}

fn count(rules: &str) -> usize {
    rules.lines().filter(|line| line.starts_with("-A ")).count()
}

fn rules_of(path: &Path, policy: &str) -> Result<Option<PerFamily<String>>, String> {
    std::fs::write(path, policy).map_err(|error| error.to_string())?;
    Ok(match compile(path) {
        Compiled::Rules(rules) => Some(rules.texts),
        Compiled::Wrong(..) => None,
    })
}

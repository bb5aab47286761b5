//! The JSON Schema takes what fwc takes, and sees what a schema can see.

use std::path::{Path, PathBuf};

use fwc::compile::{Deny, Options, compile};
use fwc::diag::{Code, Severity, Sink};
use fwc::files::Access;
use fwc::net::Date;
use fwc::source::SourceMap;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::folders::{cases, folders, is_not_yet_said};
use crate::fwc::{folder, root, run};
use crate::positions::{keys_of, policy_with, toml_of};

fn schema() -> Value {
    let run = run(root(), &["schema"]);
    assert_eq!((run.status, run.err.as_str()), (0, ""));
    serde_json::from_str(&run.out).expect("JSON")
}

fn validator() -> Validator {
    let schema = schema();
    jsonschema::draft7::meta::validate(&schema).expect("draft-07");
    jsonschema::draft7::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema")
}

/// The policy as editors hand it to a schema: dates are texts. `None` when it is no TOML.
fn as_json(text: &str) -> Option<Value> {
    fn convert(value: toml::Value) -> Value {
        match value {
            toml::Value::String(text) => json!(text),
            toml::Value::Integer(number) => json!(number),
            toml::Value::Float(number) => json!(number),
            toml::Value::Boolean(boolean) => json!(boolean),
            toml::Value::Datetime(date) => json!(date.to_string()),
            toml::Value::Array(array) => array.into_iter().map(convert).collect(),
            toml::Value::Table(table) => {
                let members = table
                    .into_iter()
                    .map(|(name, value)| (name, convert(value)));
                Value::Object(members.collect())
            }
        }
    }
    Some(convert(toml::Value::Table(text.parse().ok()?)))
}

fn toml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            toml_files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
}

/// The codes of the errors of a policy.
fn errors(path: &Path) -> Vec<Code> {
    let options = Options {
        access: Access::Read,
        templates: None,
        deny: &Deny::default(),
        verify: false,
        max_lines: None,
        today: Date::constant(2026, 6, 1),
    };
    let findings = compile(path, options).findings;
    let errors = findings.iter().filter(|it| it.severity == Severity::Error);
    errors.map(|error| error.code).collect()
}

#[test]
fn right_policies_are_valid() {
    let validator = validator();
    let mut files = Vec::new();
    for folder in ["examples", "tests/cases"] {
        toml_files(&root().join(folder), &mut files);
    }
    let cases = folders().into_iter().flat_map(|folder| cases(&folder));
    let said = cases.filter(|case| {
        let codes = errors(&case.join("fwc.toml"));
        !is_not_yet_said(case, codes.iter().map(|code| code.as_str()))
    });
    for case in said {
        toml_files(&case, &mut files);
    }
    files.retain(|path| !path.ends_with("probes.toml"));
    let mut texts: Vec<_> = files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a file");
            (path.display().to_string(), text)
        })
        .collect();
    for page in [
        "README.md",
        "docs/reference/language.md",
        "docs/guides/apply.md",
    ] {
        let text = std::fs::read_to_string(root().join(page)).expect("a page");
        for fence in ["```toml\n", "```toml,fragment\n"] {
            let blocks = text.split(fence).skip(1);
            let blocks = blocks.filter_map(|block| block.split("```").next());
            texts.extend(blocks.map(|block| (page.to_owned(), block.to_owned())));
        }
    }
    for code in Code::ALL {
        let blocks = code.page().split("```toml\n").skip(1);
        let blocks = blocks.filter_map(|block| block.split("```").next());
        texts.extend(blocks.map(|block| (code.as_str().to_owned(), block.to_owned())));
    }
    assert!(texts.len() > 100, "only {} policies", texts.len());
    let mut wrong = Vec::new();
    for (place, text) in texts {
        let policy = as_json(&text).unwrap_or_else(|| panic!("{place} is no TOML"));
        let found = validator.iter_errors(&policy);
        wrong.extend(found.map(|error| format!("{place}: {}: {error}", error.instance_path())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Codes of mistakes that one sees in a value alone.
const SEEN: &[Code] = &[
    Code::VersionUnknown,
    Code::UnknownKey,
    Code::BadType,
    Code::BadValue,
    Code::MissingKey,
    Code::EmptyList,
    Code::BadName,
    Code::ReservedName,
    Code::BadDevice,
    Code::BadRate,
    Code::BadSchedule,
    Code::BadMark,
    Code::BadMac,
    Code::BadTcpFlags,
    Code::BadPort,
    Code::BadService,
    Code::BadProtocol,
    Code::ProtocolIcmp,
    Code::BadIcmpType,
    Code::BadPrefix,
    Code::BadAddress,
    Code::WrongKey,
];

/// Cases with such a code that a schema of one file cannot see.
const UNSEEN: &[&str] = &[
    // In another file.
    "address-file-wrong",
    "empty-list-address-file",
    "include-twice-wrong",
    "include-version",
    "include-wrong-and-root",
    // Whether a protocol is matched depends on the families of the rule that names it.
    "bad-protocol-extension-header",
    "bad-protocol-extension-header-negated",
    "protocol-ipv6-frag",
    // Arithmetic.
    "bad-prefix-netmask",
    "address-mask-nat",
    "mask-is-a-prefix",
    "bad-address-leading-zeros",
    "bad-address-octet",
    "bad-mark-mask",
    "bad-rate-burst",
    "bad-rate-too-fast",
    "bad-rate-zero",
    "bad-schedule-instant",
    "bad-tcp-flags-order",
    "bad-value-timeout",
    "limit-bytes-range",
    // What an entry of nat needs its type says.
    "nat-address-brackets",
    "nat-keys-missing",
    "nat-netmap-to-place",
    // A helper is one of a few, or of those for a port.
    "helper-of-service",
    // One key or the other is needed.
    "bad-schedule-empty",
    "bad-schedule-half",
    "missing-include",
    "missing-service-parts",
    "missing-zone-parts",
    // What the name means is said elsewhere.
    "reserved-name-in-zone",
    "reserved-name-tables",
    "reserved-name-zone-used",
    "wrong-key-any-in-source",
    "wrong-key-group-in-to",
    "wrong-key-host-in-destination",
    "wrong-key-interface-in-destination",
    "wrong-key-interface-in-source",
    "wrong-key-zone-in-interfaces",
    "wrong-key-zone-in-source",
    "zone-in-source",
    "original-host",
    // `false` is a boolean, too.
    "log-rate-true",
    // To a schema a date is a text.
    "bad-type-expires",
    // What goes with which mode of ownership.
    "bad-value-continue",
    "forward-continue-exclusive",
    // Which families the host has.
    "families-and-interface",
    "families-and-scope",
    "families-scope",
    "limit-prefix-other-family",
    // Which of the texts of a list are programs.
    "hooks-no-shell",
    "hooks-one-or-several",
    "hooks-relative",
    // A schema sees no comments.
    "allow-comment",
    // An empty text is a text.
    "bad-name-empty-rule",
    "match-options",
];

#[test]
fn wrong_policies_are_seen() {
    let validator = validator();
    let mut files = Vec::new();
    toml_files(&root().join("tests/wrong"), &mut files);
    for folder in folders().into_iter().map(|folder| folder.join("wrong")) {
        if folder.is_dir() {
            toml_files(&folder, &mut files);
        }
    }
    files.sort();
    let mut unseen = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a file");
        let Some(policy) = as_json(&text) else {
            continue;
        };
        let name = path.file_stem().expect("a name").to_string_lossy();
        let codes = errors(&path);
        let is_seen = codes.iter().any(|code| SEEN.contains(code));
        let is_hidden = UNSEEN.contains(&name.as_ref());
        if (is_seen && !is_hidden) == validator.is_valid(&policy) && (is_seen || is_hidden) {
            unseen.push(format!("{name}: {codes:?}"));
        }
    }
    assert!(unseen.is_empty(), "{unseen:#?}");
}

/// Values of every type.
const VALUES: &[&str] = &[
    "true",
    "false",
    "0",
    "1",
    "-1",
    "4294967296",
    "1.5",
    "2027-03-31",
    "2027-03-31T10:00:00",
    "''",
    "'any'",
    "'no such word'",
    "'10.0.0.0/8'",
    "'80/tcp'",
    "[]",
    "['no such word']",
    "[1]",
    "[[]]",
    "[{}]",
    "{}",
    "{ no-such-key = 1 }",
];

/// Every key of every table with every value: what the schema refuses the reader refuses, and what is of the wrong
/// type to the reader is wrong to the schema.
#[test]
fn reader_and_schema_agree_about_every_key() {
    let (schema, validator) = (schema(), validator());
    let mut keys = Vec::new();
    keys_of(&schema, &mut Vec::new(), &mut keys);
    assert!(keys.len() > 90, "only {} keys", keys.len());
    let mut wrong = Vec::new();
    let folder = folder(&[]);
    let path = folder.path().join("fwc.toml");
    for (steps, example) in &keys {
        let values = VALUES.iter().map(|value| (*value).to_owned());
        let examples = example.iter().map(toml_of);
        for (value, is_example) in values
            .map(|it| (it, false))
            .chain(examples.map(|it| (it, true)))
        {
            let text = policy_with(&schema, steps, &value);
            let json = as_json(&text).unwrap_or_else(|| panic!("no TOML: {text}"));
            std::fs::write(&path, &text).expect("a file");
            let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
            let policy = fwc::policy::load(&path, Access::Read, &mut sources, &mut sink);
            policy.and_then(|policy| fwc::internals::resolve::resolve(&policy, &mut sink));
            let errors: Vec<_> = sink
                .iter()
                .filter(|it| it.severity == Severity::Error)
                .collect();
            let is_valid = validator.is_valid(&json);
            let has_wrong_type = errors.iter().any(|error| {
                [Code::BadType, Code::EmptyList, Code::UnknownKey].contains(&error.code)
            });
            // A date is a text to a schema.
            let is_hidden = value.starts_with("2027");
            let place = steps.join(".");
            if !is_valid && errors.is_empty() {
                wrong.push(format!("{place} = {value}: the schema refuses it"));
            } else if is_valid && has_wrong_type && !is_hidden {
                wrong.push(format!(
                    "{place} = {value}: the reader refuses it: {}",
                    errors[0].message
                ));
            } else if is_example && !is_valid {
                wrong.push(format!("{place} = {value}: the example is wrong"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

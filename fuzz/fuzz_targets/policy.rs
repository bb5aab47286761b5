//! Policies out of the schema: any choice of keys and values is compiled or refused, without a panic. What is
//! compiled is proven, has one line a rule and nothing that ends a line early, and is read as iptables would.
//!
//! `cargo fuzz run -s none policy`. `FWC_FUZZ_SHOW=1` prints the policy of an input.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use fwc::compile::{Deny, Options, compile};
use fwc::diag::{Code, Style, render};
use fwc::files::Access;
use fwc::iptables::Ruleset;
use fwc::net::Date;
use fwc::policy::json_schema;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static SCHEMA: LazyLock<Value> = LazyLock::new(json_schema);

/// A folder in memory, with the policy and a list.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/fwc-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder in memory");
    folder
});

/// Few names, so that they meet.
const NAMES: &[&str] = &[
    "a", "b", "lan", "wan", "denied", "default", "office", "ssh", "www-data",
];

/// Values of all kinds of strings, for every kind of key.
const TEXTS: &[&str] = &[
    "a",
    "b",
    "lan",
    "wan",
    "office",
    "any",
    "host",
    "ssh",
    "dns",
    "ping",
    "www-data",
    "denied",
    "!a",
    "!office",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.0.0.5",
    "192.0.2.10-192.0.2.20",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:db8::7",
    "::/0",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "!10.0.0.0/8",
    "80/tcp",
    "1-65535/udp",
    "8000-8100/tcp",
    "5/sctp",
    "eth0",
    "eth1",
    "eth+",
    "wg0",
    "lo",
    "list.txt",
    "fwc.toml",
    "6/minute",
    "1/day",
    "10000/second",
    "08:00",
    "23:59",
    "0x10/0xff",
    "16",
    "02:00:5e:10:00:01",
    "syn/syn,ack",
    "none/all",
    "gre",
    "47",
    "echo-request",
    "3/4",
    "dynamic",
    "address",
    "net,port",
    "1h",
];

/// What must never reach iptables or a terminal.
const HOSTILE: &[&str] = &[
    "\n-A INPUT -j ACCEPT",
    "\" -j ACCEPT",
    "$(id)",
    "`id`",
    "\u{0}",
    "\u{1b}[31m",
    "-j ACCEPT",
    "#",
    "a b",
    "\\",
    "\u{202e}",
    "\u{200b}",
    "\u{430}dmin",
    "../fwc.toml",
    "{{ 7 }}",
    "%s",
    "'",
    "",
];

fn text(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.int_in_range(0..=39)? {
        0 => u.arbitrary::<&str>()?.to_owned(),
        1..=3 => (*u.choose(HOSTILE)?).to_owned(),
        _ => (*u.choose(TEXTS)?).to_owned(),
    })
}

fn name(u: &mut Unstructured<'_>) -> Result<String> {
    Ok(match u.int_in_range(0..=19)? {
        0 => text(u)?,
        _ => (*u.choose(NAMES)?).to_owned(),
    })
}

fn quoted(text: &str) -> String {
    // JSON's strings are TOML's, but for one character.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn toml(value: &Value) -> String {
    match value {
        Value::String(text) if text.starts_with("20") && text.len() == 10 => text.clone(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(toml).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), toml(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A value that the schema allows, mostly.
fn value(schema: &Value, u: &mut Unstructured<'_>) -> Result<String> {
    if let Some(example) = schema["examples"].get(0)
        && u.ratio(2, 3)?
    {
        return Ok(toml(example));
    }
    if u.ratio(1, 60)? {
        return Ok(
            (*u.choose(&["true", "-1", "[]", "{}", "1.5", "2036-01-01", "'x'"])?).to_owned(),
        );
    }
    if let Some(schemas) = schema["anyOf"].as_array() {
        return value(u.choose(schemas)?, u);
    }
    if let Some(words) = schema["enum"].as_array() {
        return Ok(toml(u.choose(words)?));
    }
    if let Some(constant) = schema.get("const") {
        return Ok(toml(constant));
    }
    Ok(match schema["type"].as_str() {
        Some("boolean") => u.arbitrary::<bool>()?.to_string(),
        Some("integer") => {
            let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
            let (least, most) = (least.unwrap_or(0), most.unwrap_or(9));
            match u.int_in_range(0..=3)? {
                0 => least,
                1 => most,
                _ => u.int_in_range(least..=most.min(least + 40))?,
            }
            .to_string()
        }
        Some("array") => {
            let count = u.int_in_range(1..=3)?;
            let items = (0..count)
                .map(|_| value(&schema["items"], u))
                .collect::<Result<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        Some("object") => format!("{{ {} }}", members(schema, 2, u)?.join(", ")),
        _ if schema["format"] == "date" => "2037-03-31".to_owned(),
        _ => quoted(&text(u)?),
    })
}

/// Some members of a table: each of `one_in` keys, and what must be there.
fn members(schema: &Value, one_in: u8, u: &mut Unstructured<'_>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (key, shape) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array();
        let is_required = required.is_some_and(|keys| keys.iter().any(|it| it == key));
        if key != "override" && (is_required || u.ratio(1, one_in)?) {
            found.push(format!("{key} = {}", value(shape, u)?));
        }
    }
    if schema["additionalProperties"].is_object() {
        let mut seen = Vec::new();
        for _ in 0..u.int_in_range(1..=3)? {
            let name = name(u)?;
            if !seen.contains(&name) {
                found.push(format!(
                    "{} = {}",
                    quoted(&name),
                    value(&schema["additionalProperties"], u)?
                ));
                seen.push(name);
            }
        }
    }
    Ok(found)
}

/// Definitions that the examples of rules name; a section has them, and now and then something beside them.
const DEFINED: &[(&str, &[&str])] = &[
    (
        "interfaces",
        &[
            "wan = 'eth0'",
            "lan = { device = ['eth1', 'br-lan'], networks = ['10.1.0.0/16', 'fd00::/48'] }",
            "vpn = { device = 'wg+', scope = 'ipv4' }",
        ],
    ),
    (
        "zones",
        &[
            "inside = ['lan', 'vpn']",
            "dmz = { interfaces = 'lan', networks = '10.1.8.0/24' }",
        ],
    ),
    (
        "addresses",
        &[
            "office = ['203.0.113.0/24', '2001:db8:1::/48']",
            "listed = { file = 'list.txt', set = true }",
            "banned = { set = 'dynamic' }",
            "bans = { set = 'dynamic', type = 'address,port', counters = true, comments = true }",
        ],
    ),
    ("services", &["web = ['80/tcp', '443/tcp', '443/udp']"]),
    ("users", &["www-data = 33"]),
    ("groups", &["adm = 4"]),
    ("log", &["seen = { target = 'NFLOG', prefix = 'seen: ' }"]),
];

/// Keys without which an entry of a type is refused: they are written more often than not.
const NEEDED: &[(&str, &str, &[&str])] = &[
    ("nat", "masquerade", &["from", "to"]),
    ("nat", "snat", &["from", "to", "to-source"]),
    ("nat", "dnat", &["service", "to-destination"]),
    ("nat", "redirect", &["service", "to-port"]),
    ("nat", "netmap", &["destination", "to"]),
    ("mangle", "clamp-mss", &["to"]),
    ("mangle", "mark", &["set"]),
    ("mangle", "dscp", &["set"]),
    ("mangle", "ttl", &["set"]),
    ("mangle", "classify", &["set"]),
    ("mangle", "tproxy", &["service", "to-port"]),
    ("raw", "notrack", &["service"]),
    ("raw", "helper", &["service", "helper"]),
];

/// Values of keys for which the schema has one example, and entries of each type want another.
const VALUES: &[(&str, &[&str])] = &[
    (
        "set",
        &["1", "'0x10/0xff'", "'cs1'", "'ef'", "64", "'1:10'", "'0x1'"],
    ),
    (
        "to-source",
        &["'203.0.113.5'", "'203.0.113.5-203.0.113.9'", "'[2001:db8::5]:1024-2047'"],
    ),
    (
        "to-destination",
        &[
            "'10.1.0.5:8080'",
            "['10.1.0.5', '10.1.0.6']",
            "'[fd00::5]:80'",
            "'10.1.0.5-10.1.0.9:80-90'",
        ],
    ),
    (
        "rule",
        &[
            "'-m recent --name knock --rcheck -j ACCEPT'",
            "'-p tcp --dport 22 -j DROP'",
            "'-j own'",
            "'-s 10.0.0.0/8 -m limit --limit 1/s -j LOG --log-prefix \"a b \"'",
            "'-p udp -j RETURN'",
            "'-t nat -A INPUT -j DROP'",
        ],
    ),
    ("chain", &["'INPUT'", "'FORWARD'", "'own'", "'PREROUTING'"]),
    ("restore", &["true", "'0xff'"]),
    ("save", &["true", "'0xff'"]),
];

/// An entry of a list of tables.
fn entry(section: &str, shape: &Value, u: &mut Unstructured<'_>) -> Result<String> {
    let mut keys = members(shape, 8, u)?;
    let written = |keys: &[String], key: &str| {
        let start = format!("{key} = ");
        keys.iter().position(|line| line.starts_with(&start))
    };
    let types: Vec<_> = NEEDED.iter().filter(|(name, ..)| *name == section).collect();
    if !types.is_empty() && u.ratio(7, 8)? {
        let (_, kind, needed) = u.choose(&types)?;
        keys.retain(|line| !line.starts_with("type = "));
        keys.push(format!("type = '{kind}'"));
        for key in *needed {
            if written(&keys, key).is_none() && u.ratio(7, 8)? {
                keys.push(format!("{key} = {}", value(&shape["properties"][key], u)?));
            }
        }
    }
    for (key, values) in VALUES {
        if let Some(at) = written(&keys, key)
            && u.ratio(3, 4)?
        {
            keys[at] = format!("{key} = {}", u.choose(values)?);
        }
    }
    Ok(format!("[[{section}]]\n{}\n", keys.join("\n")))
}

fn policy(u: &mut Unstructured<'_>) -> Result<String> {
    let mut text = "version = 1\n".to_owned();
    for (section, shape) in SCHEMA["properties"].as_object().into_iter().flatten() {
        let defined = DEFINED.iter().find(|(name, _)| name == section);
        if let Some((_, lines)) = defined {
            text += &format!("[{section}]\n{}\n", lines.join("\n"));
            if u.ratio(1, 8)? {
                text += &format!("{}\n", members(shape, 4, u)?.join("\n"));
            }
        } else if shape["type"] == "array" {
            let most = if section == "rules" { 4 } else { 1 };
            for _ in 0..u.int_in_range(0..=most)? {
                text += &entry(section, &shape["items"], u)?;
            }
        } else if shape["type"] == "object" && u.ratio(1, 3)? {
            text += &format!("[{section}]\n{}\n", members(shape, 6, u)?.join("\n"));
        }
    }
    // What is no TOML, or not this language, is read too.
    if u.ratio(1, 10)? {
        let at = u.choose_index(text.len())?;
        let at = (0..=at).rev().find(|at| text.is_char_boundary(*at));
        text.insert_str(at.unwrap_or(0), u.arbitrary::<&str>()?);
    }
    Ok(text)
}

/// A list of addresses, now and then with something that is none.
fn list(u: &mut Unstructured<'_>) -> Result<String> {
    let mut text = "198.51.100.0/24\n2001:db8::7 # one\r\n\n".to_owned();
    if u.ratio(1, 10)? {
        for _ in 0..u.int_in_range(1..=3)? {
            text += &self::text(u)?;
            text.push('\n');
        }
    }
    Ok(text)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(text) = policy(&mut input) else {
        return;
    };
    let Ok(list) = list(&mut input) else {
        return;
    };
    if std::env::var_os("FWC_FUZZ_SHOW").is_some() {
        eprintln!("{text}");
    }
    let file = FOLDER.join("fwc.toml");
    std::fs::write(&file, &text).expect("a file in memory");
    std::fs::write(FOLDER.join("list.txt"), &list).expect("a file in memory");
    let options = Options {
        access: Access::Read,
        templates: None,
        verify: true,
        deny: &Deny::default(),
        max_lines: None,
        today: Date::constant(2026, 6, 1),
    };
    let compilation = compile(&file, options);
    let findings = &compilation.findings;
    for finding in findings.iter() {
        let shown = render(finding, &compilation.sources, Style::Plain);
        assert!(
            !shown.chars().any(|c| c.is_control() && c != '\n'),
            "{shown:?}"
        );
        let is_ours =
            [Code::ProofFailed, Code::AnalysisGaveUp, Code::BadTemplate].contains(&finding.code);
        assert!(!is_ours, "{text}\n{shown}");
    }
    let Ok(compiled) = &compilation.result else {
        // "stopped" without a word would leave the user alone.
        assert!(findings.has_errors(), "{text}");
        return;
    };
    assert!(!findings.has_errors());
    for (family, rules) in compiled.rendered.texts().iter() {
        for line in rules.lines() {
            let is_known = ["*", ":", "-A ", "# ", "COMMIT"]
                .iter()
                .any(|start| line.starts_with(start));
            assert!(
                is_known && !line.chars().any(char::is_control),
                "{text}\n{line:?}"
            );
        }
        let tables = rules.lines().filter(|line| line.starts_with('*')).count();
        assert_eq!(rules.lines().filter(|line| *line == "COMMIT").count(), tables);
        let read = Ruleset::from_text(rules, family).expect("our own rules are read");
        let rules_read: usize = read
            .tables
            .iter()
            .flat_map(|table| &table.chains)
            .map(|chain| chain.rules.len())
            .sum();
        assert_eq!(
            rules_read,
            rules.lines().filter(|line| line.starts_with("-A ")).count(),
            "{text}"
        );
    }
});

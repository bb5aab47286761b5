//! `[ownership]`: which tables and chains fwc owns, and which rules of other programs it preserves.

use serde::{Deserialize, Serialize};

use super::interfaces::DEVICE;
use super::names::{OVERRIDE, harmless_text, set_twice};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::InterfacePattern;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::Located;

/// The parts of the tables that fwc owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every table that fwc writes, with all its chains.
    Exclusive,
    /// Only the chains named `FWC-*` and the jumps to them.
    Shared,
}

/// Rules of other programs that fwc preserves in tables that it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preserve {
    /// Chains by name, with the jumps to them. `*` matches any text.
    Chain(String),
    /// Rules that match this device, as `-i` or `-o`.
    Device(InterfacePattern),
    /// Rules with this target. `*` matches any text.
    Target(String),
    /// Rules whose text, as `iptables-save` prints it, contains this.
    Text(String),
}

/// `[ownership]` as written; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct PolicyOwnership {
    /// `mode`
    pub mode: Option<Located<Mode>>,
    /// `preserve`, of all files together.
    pub preserve: Vec<Located<Preserve>>,
}

pub(super) const KEYS: TableKeys = TableKeys {
    of: "[ownership]",
    known: &[
        Key::new(
            "mode",
            Shape::Word(&MODES),
            "`exclusive`: the tables raw, mangle, nat and filter are the policy's, whole. `shared`: only chains named `FWC-*` and the \
             jumps to them are, and what others wrote is never touched.",
        )
        .default("'exclusive'"),
        Key::new(
            "preserve",
            Shape::List(&Shape::OneOf(&[PATTERN, Shape::Table(&PRESERVE)])),
            "In exclusive mode: what of others stays, with the jumps to it. A chain by its name, or rules by device, target or text.",
        )
        .example("['DOCKER*', 'f2b-*', { device = 'docker0' }]"),
        OVERRIDE,
    ],
};

/// A chain name in which `*` matches any text.
const PATTERN: Shape = Shape::Form(r"^[A-Za-z0-9_.:+=@%~^/*][A-Za-z0-9_.:+=@%~^/*-]*$");

const PRESERVE: TableKeys = TableKeys {
    of: "an entry of `preserve`",
    known: &[
        Key::new(
            "chain",
            PATTERN,
            "Chains of this name; `*` stands for any text.",
        )
        .example("'f2b-*'"),
        Key::new(
            "device",
            DEVICE,
            "Rules that match this device, coming in or going out.",
        )
        .example("'docker0'"),
        Key::new(
            "target",
            PATTERN,
            "Rules with this target; `*` stands for any text.",
        )
        .example("'DOCKER*'"),
        Key::new(
            "text",
            Shape::Text(255),
            "Rules whose text, as iptables-save prints it, has this in it.",
        )
        .example("'10.8.0.0/24'"),
    ],
};

const MODES: &[(&str, Mode)] = &[("exclusive", Mode::Exclusive), ("shared", Mode::Shared)];

/// The longest name of a chain (`XT_EXTENSION_MAXNAMELEN` without the final zero).
const LONGEST_CHAIN: usize = 28;

pub(super) fn read(root: CheckedTable<'_>, ownership: &mut PolicyOwnership, sink: &mut Sink) {
    let Some(value) = root.get("ownership") else {
        return;
    };
    let Some(table) = value.table("ownership", sink) else {
        return;
    };
    table.check(KEYS, sink);
    let overrides = table
        .boolean("override", sink)
        .is_some_and(|flag| flag.value);
    if let Some(mode) = table.word("mode", MODES, sink) {
        match &ownership.mode {
            Some(earlier) if !overrides => {
                sink.report(set_twice("ownership", "mode", [earlier.span, mode.span]));
            }
            _ => ownership.mode = Some(mode),
        }
    }
    let list = table.list("preserve", sink).unwrap_or_default();
    let read = list.into_iter().filter_map(|value| {
        let preserve = preserve(value, sink)?;
        Some(Located::new(preserve, value.span))
    });
    let read: Vec<_> = read.collect();
    if overrides && !read.is_empty() {
        ownership.preserve.clear();
    }
    ownership.preserve.extend(read);
}

fn preserve(value: FileValue<'_>, sink: &mut Sink) -> Option<Preserve> {
    if let Some(name) = value.as_text() {
        return chain(&Located::new(name, value.span), sink).map(Preserve::Chain);
    }
    let Some(table) = value.as_table() else {
        value.wrong_type("preserve", "a chain's name or a table", sink);
        return None;
    };
    if !table.check(PRESERVE, sink) {
        return None;
    }
    if table.entries().count() != 1 {
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                table.span,
                "an entry of `preserve` has exactly one key",
            )
            .help("it is one of `chain`, `device`, `target`, `text`; write one entry for each"),
        );
        return None;
    }
    if let Some(name) = table.text("chain", sink) {
        return chain(&name, sink).map(Preserve::Chain);
    }
    if let Some(name) = table.text("device", sink) {
        return device(&name, sink).map(Preserve::Device);
    }
    if let Some(name) = table.text("target", sink) {
        return pattern("target", &name, sink).map(Preserve::Target);
    }
    let text = table.text("text", sink)?;
    let good = harmless_text("text", &text, sink) && is_not_everything("text", &text, sink);
    good.then(|| Preserve::Text(text.value.to_owned()))
}

/// Reads a pattern for chains of other programs.
fn chain(name: &Located<&str>, sink: &mut Sink) -> Option<String> {
    let pattern = pattern("preserve", name, sink)?;
    let matches = |chain: &str| is_matched(&pattern, chain);
    let base = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
    let own = pattern.starts_with("FWC-");
    if let Some(chain) = base.into_iter().find(|chain| matches(chain)) {
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                name.span,
                format!("`preserve` cannot keep the base chain {chain}"),
            )
            .help("name the others' own chains; rules of theirs in a base chain are kept by `{ device = ... }`, `{ target = ... }` or `{ text = ... }`"),
        );
        return None;
    }
    if own {
        sink.report(
            Diagnostic::error(
                Code::BadValue,
                name.span,
                format!("`{pattern}` is fwc's own: there is nothing of others to keep"),
            )
            .with_note("chains named FWC-* are made and removed by fwc"),
        );
        return None;
    }
    Some(pattern)
}

fn pattern(key: &str, name: &Located<&str>, sink: &mut Sink) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.:+=@%~^/*-".contains(c);
    let is_bad = name.value.starts_with('-') || !name.value.chars().all(good);
    if is_bad || name.value.len() > LONGEST_CHAIN {
        let shown = name.value.escape_debug();
        sink.report(
            Diagnostic::error(
                Code::BadName,
                name.span,
                format!("`{shown}` is not the name of a chain"),
            )
            .with_note("letters, digits, `-`, `_`, `.`, 28 at most, and `*` for any text"),
        );
        return None;
    }
    is_not_everything(key, name, sink).then(|| name.value.to_owned())
}

fn is_not_everything(key: &str, text: &Located<&str>, sink: &mut Sink) -> bool {
    if !text.value.trim_matches(['*', ' ']).is_empty() {
        return true;
    }
    sink.report(
        Diagnostic::error(
            Code::BadValue,
            text.span,
            format!("`{key}` would keep everything that others ever wrote"),
        )
        .help("where others rule too, say `mode = \"shared\"`"),
    );
    false
}

fn device(name: &Located<&str>, sink: &mut Sink) -> Option<InterfacePattern> {
    let device = InterfacePattern::parse(name.value);
    if device.is_err() {
        let shown = name.value.escape_debug();
        sink.report(
            Diagnostic::error(
                Code::BadDevice,
                name.span,
                format!("`{shown}` is not the name of a device"),
            )
            .with_note("a name as `ip link` shows it, 15 characters at most; a trailing `+` is for any text"),
        );
    }
    device.ok()
}

/// Returns `true` if a name matches a pattern, in which `*` stands for any text.
pub fn is_matched(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::is_matched;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, matched) in [
            ("DOCKER", "DOCKER", true),
            ("DOCKER", "DOCKER-USER", false),
            ("DOCKER*", "DOCKER", true),
            ("DOCKER*", "DOCKER-USER", true),
            ("f2b-*", "f2b-sshd", true),
            ("f2b-*", "f2b", false),
            ("*-forward", "ufw-forward", true),
            ("*-forward", "ufw-forward-", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(is_matched(pattern, name), matched, "{pattern} {name}");
        }
    }
}

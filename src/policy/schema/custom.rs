//! `[[custom]]`

use super::harmless_text;
use super::interfaces::{SCOPES, Scope};
use super::rules::{COMMENT, ENABLED, SCOPE, read_comment, read_entries};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Keys, Shape};
use crate::policy::reader::Table;
use crate::source::{Located, Span};

/// A table that a custom rule may stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CustomTable {
    /// raw
    Raw,
    /// mangle
    Mangle,
    /// nat
    Nat,
    /// filter
    Filter,
}

impl CustomTable {
    /// All, in the order in which a packet meets them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// The word of the language, and of iptables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// Where a custom rule stands in a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Before the rules of the policy.
    Before,
    /// Behind them.
    After,
}

/// One rule of iptables as written.
#[derive(Clone, Debug)]
pub struct Custom {
    /// The whole table.
    pub span: Span,
    /// `name`
    pub name: Option<Located<String>>,
    /// `comment`
    pub comment: Option<String>,
    /// `table`; not written it is filter
    pub table: Option<Located<CustomTable>>,
    /// `chain`
    pub chain: Option<Located<String>>,
    /// `place`; not written it is before
    pub place: Option<Located<Place>>,
    /// `rule`
    pub rule: Option<Located<String>>,
    /// `scope`
    pub scope: Option<Located<Scope>>,
    /// `enabled`
    pub enabled: bool,
}

pub(super) const KEYS: Keys = Keys {
    of: "a custom rule",
    known: &[
        Key::new(
            "name",
            Shape::Text(u32::MAX),
            "What it is for, in a few words.",
        )
        .example("'knocking'"),
        Key::new("table", Shape::Word(&TABLES), "The table of iptables.").default("'filter'"),
        Key::new(
            "chain",
            Shape::Text(28),
            "A base chain of the table, or a chain of your own, which is made.",
        )
        .example("'INPUT'")
        .required(),
        Key::new(
            "place",
            Shape::Word(&PLACES),
            "In a base chain: before or behind the rules of the policy.",
        )
        .default("'before'"),
        Key::new(
            "rule",
            Shape::Text(u32::MAX),
            "One rule of iptables: what stands behind `-A CHAIN`.",
        )
        .example("'-p tcp -m recent --name knock --rcheck -j ACCEPT'")
        .required(),
        SCOPE,
        ENABLED,
        COMMENT,
    ],
};

const TABLES: &[(&str, CustomTable)] = &[
    ("raw", CustomTable::Raw),
    ("mangle", CustomTable::Mangle),
    ("nat", CustomTable::Nat),
    ("filter", CustomTable::Filter),
];

const PLACES: &[(&str, Place)] = &[("before", Place::Before), ("after", Place::After)];

pub(super) fn read(root: Table<'_>, customs: &mut Vec<Custom>, sink: &mut Sink) {
    read_entries(root, "custom", sink, |table, sink| {
        customs.push(read_entry(table, sink));
    });
}

fn read_entry(table: Table<'_>, sink: &mut Sink) -> Custom {
    let all_known = table.check(KEYS, sink);
    let text = |key: &str, sink: &mut Sink| -> Option<Located<String>> {
        let text = table.text(key, sink)?;
        harmless_text(key, &text, sink).then(|| text.map(str::to_owned))
    };
    for key in ["chain", "rule"] {
        if all_known && table.get(key).is_none() {
            let message = format!("a custom rule needs `{key}`");
            let diagnostic = Diagnostic::error(Code::MissingKey, table.span, message);
            sink.report(diagnostic.help(match key {
                "chain" => "it is a base chain such as `INPUT`, or a chain of your own",
                _ => "it is what stands behind `-A CHAIN` in iptables",
            }));
        }
    }
    Custom {
        span: table.span,
        name: text("name", sink),
        comment: read_comment(table, sink),
        table: table.word("table", TABLES, sink),
        chain: text("chain", sink),
        place: table.word("place", PLACES, sink),
        rule: text("rule", sink),
        scope: table.word("scope", SCOPES, sink),
        enabled: table.boolean("enabled", sink).is_none_or(|flag| flag.value),
    }
}

//! `[[custom]]`: rules in the words of iptables.

use super::harmless_text;
use super::interfaces::{SCOPES, Scope};
use super::rules::{COMMENT, ENABLED, SCOPE, read_comment, read_entries};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::Policy;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// The table of a custom rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CustomTable {
    /// The raw table.
    Raw,
    /// The mangle table.
    Mangle,
    /// The nat table.
    Nat,
    /// The filter table.
    Filter,
}

impl CustomTable {
    /// All tables, in the order in which a packet passes them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// Returns the table's name in the language, which is that of iptables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// The value of `place`: the position of a custom rule in a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CustomPlace {
    /// After the preamble, before all rules of the policy.
    Before,
    /// Between the rules, where it is written.
    Here,
    /// After all rules of the policy.
    After,
}

/// The position of a custom rule in a base chain, relative to the rules of the policy or, in tables other than filter,
/// to the entries for that table. Positions sort in the order in which packets meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CustomPosition {
    /// Before all of them, even before those of `order = "first"`.
    Before,
    /// After this many of them in the order of writing: where a rule of `order = "normal"` would be.
    Behind(usize),
    /// After all of them.
    After,
    /// In a block.
    InBlock {
        /// The block, by its index in [`Policy::rules`].
        block: usize,
        /// The number of rules of the policy that are written before it.
        behind: usize,
    },
}

/// One iptables rule as written.
#[derive(Clone, Debug)]
pub struct PolicyCustom {
    /// The place of the whole table.
    pub span: Span,
    /// `name`
    pub name: Option<Located<String>>,
    /// `comment`
    pub comment: Option<String>,
    /// `table`; filter if absent.
    pub table: Option<Located<CustomTable>>,
    /// `chain`; absent in a block.
    pub chain: Option<Located<String>>,
    /// The block that it is in, by its index in [`Policy::rules`].
    pub in_block: Option<usize>,
    /// `place`; `here` if absent.
    pub place: Option<Located<CustomPlace>>,
    /// The number of rules (in tables other than filter, of entries for that table) that are written before it.
    pub written_before: usize,
    /// `rule`
    pub rule: Option<Located<String>>,
    /// `scope`
    pub scope: Option<Located<Scope>>,
    /// `enabled`
    pub enabled: bool,
}

impl PolicyCustom {
    /// Returns the position of the rule, for a rule in a base chain.
    pub fn position(&self) -> CustomPosition {
        if let Some(block) = self.in_block {
            return CustomPosition::InBlock {
                block,
                behind: self.written_before,
            };
        }
        match self
            .place
            .as_ref()
            .map_or(CustomPlace::Here, |place| place.value)
        {
            CustomPlace::Before => CustomPosition::Before,
            CustomPlace::Here => CustomPosition::Behind(self.written_before),
            CustomPlace::After => CustomPosition::After,
        }
    }
}

pub(super) const KEYS: TableKeys = TableKeys {
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
            "In a base chain: among the rules of the policy where it is written, before them, or after them.",
        )
        .default("'here'"),
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

const PLACES: &[(&str, CustomPlace)] = &[
    ("here", CustomPlace::Here),
    ("before", CustomPlace::Before),
    ("after", CustomPlace::After),
];

/// Reads the custom rules of a file. It must run after the file's rules and entries, and those of its includes, because
/// it counts them.
pub(super) fn read(root: CheckedTable<'_>, policy: &mut Policy, sink: &mut Sink) {
    read_entries(root, "custom", sink, |table, sink| {
        let custom = read_entry(table, policy, sink);
        policy.custom.push(custom);
    });
}

/// Counts the rules, or the entries for another table, that are written before a place in the file that is being read.
fn written_before(policy: &Policy, table: CustomTable, place: Span) -> usize {
    let is_before = |span: &Span| span.file != place.file || span.start < place.start;
    match table {
        CustomTable::Filter => policy
            .rules
            .iter()
            .filter(|one| is_before(&one.span))
            .count(),
        CustomTable::Nat => policy.nat.iter().filter(|one| is_before(&one.span)).count(),
        CustomTable::Mangle => policy
            .mangle
            .iter()
            .filter(|one| is_before(&one.span))
            .count(),
        CustomTable::Raw => policy.raw.iter().filter(|one| is_before(&one.span)).count(),
    }
}

/// Reads an entry of a list of rules with the key `custom`: a custom rule that stands there. `in_block` is the block of the
/// list.
pub(super) fn read_among_rules(
    table: CheckedTable<'_>,
    in_block: Option<usize>,
    written_before: usize,
    sink: &mut Sink,
) -> PolicyCustom {
    for (name, _) in table.entries() {
        if !["custom", "chain", "name", "comment", "scope", "enabled"].contains(&name.value) {
            let message = format!("a custom rule has no key `{}`", name.value);
            sink.report(
                Diagnostic::error(Code::UnknownKey, name.span, message)
                    .help("write it as a match or target of iptables, in `custom`"),
            );
        }
    }
    let text = |key: &str, sink: &mut Sink| -> Option<Located<String>> {
        let text = table.text(key, sink)?;
        harmless_text(key, &text, sink).then(|| text.map(str::to_owned))
    };
    let chain = text("chain", sink);
    let finding = match (&chain, in_block) {
        (Some(chain), Some(_)) => Some((
            Diagnostic::error(
                Code::Conflict,
                chain.span,
                "`chain` on a custom rule of a block",
            ),
            "leave it out: the rule stands in the chain of the block",
        )),
        (None, None) if table.get("chain").is_none() => Some((
            Diagnostic::error(Code::MissingKey, table.span, "a custom rule needs `chain`"),
            "name a base chain, such as `chain = \"INPUT\"`",
        )),
        (Some(chain), None) if ["INPUT", "FORWARD", "OUTPUT"].contains(&&*chain.value) => None,
        (Some(chain), None) => Some((
            Diagnostic::error(
                Code::CustomChain,
                chain.span,
                "`chain` of a custom rule in a list is INPUT, FORWARD or OUTPUT",
            ),
            "write the rules of a chain of your own as `[[custom]]`",
        )),
        (None, _) => None,
    };
    if let Some((diagnostic, help)) = finding {
        sink.report(diagnostic.help(help));
    }
    PolicyCustom {
        span: table.span,
        written_before,
        name: text("name", sink),
        comment: read_comment(table, sink),
        table: None,
        chain: chain.filter(|_| in_block.is_none()),
        in_block,
        place: None,
        rule: text("custom", sink),
        scope: table.word("scope", SCOPES, sink),
        enabled: table.boolean("enabled", sink).is_none_or(|flag| flag.value),
    }
}

fn read_entry(table: CheckedTable<'_>, policy: &Policy, sink: &mut Sink) -> PolicyCustom {
    let all_known = table.check(KEYS, sink);
    let text = |key: &str, sink: &mut Sink| -> Option<Located<String>> {
        let text = table.text(key, sink)?;
        harmless_text(key, &text, sink).then(|| text.map(str::to_owned))
    };
    for key in ["chain", "rule"] {
        if all_known && table.get(key).is_none() {
            let message = format!("a custom rule needs `{key}`");
            let diagnostic = Diagnostic::error(Code::MissingKey, table.span, message);
            sink.report(diagnostic.with_note(match key {
                "chain" => "it is a base chain such as `INPUT`, or a chain of your own",
                _ => "it is what stands behind `-A CHAIN` in iptables",
            }));
        }
    }
    let own_table = table.word("table", TABLES, sink);
    let of = own_table
        .as_ref()
        .map_or(CustomTable::Filter, |own| own.value);
    PolicyCustom {
        span: table.span,
        written_before: written_before(policy, of, table.span),
        name: text("name", sink),
        comment: read_comment(table, sink),
        table: own_table,
        chain: text("chain", sink),
        in_block: None,
        place: table.word("place", PLACES, sink),
        rule: text("rule", sink),
        scope: table.word("scope", SCOPES, sink),
        enabled: table.boolean("enabled", sink).is_none_or(|flag| flag.value),
    }
}

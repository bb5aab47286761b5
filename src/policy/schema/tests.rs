//! `[[tests]]`: packets whose verdict the policy asserts.

use super::addresses::{AddressExpression, AddressItem, EXPRESSION};
use super::rules::{FROM, PolicyRule, SCOPE, SOURCE, STATE, TO, read_packets};
use super::services::ITEMS;
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// The verdict that a test expects for its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// They pass.
    Accept,
    /// They are dropped without an answer.
    Drop,
    /// They are rejected, with any answer.
    Reject,
    /// They are dropped or rejected.
    Deny,
}

impl Expect {
    /// Returns the word in the policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Deny => "deny",
        }
    }
}

/// What a test assumes about a dynamic set, whose members only the running host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assume {
    /// The set is empty.
    Empty,
    /// The set may have any members. The test must hold for all of them, as it must without an assumption.
    Anything,
}

/// One test as written.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// The place of the whole table.
    pub span: Span,
    /// The packets of the test, with the keys of a rule. `name` is that of the test.
    pub packets: PolicyRule,
    /// `true` for `destination = "host"`: the packets arrive for an address of this host.
    pub for_this_host: bool,
    /// `expect`
    pub expect: Option<Located<Expect>>,
    /// `assume`: dynamic sets by name.
    pub assume: Vec<(Located<String>, Assume)>,
}

pub(super) const KEYS: TableKeys = TableKeys {
    of: "a test",
    known: &[
        Key::new(
            "name",
            Shape::Text(u32::MAX),
            "What must hold, in a few words; unique.",
        )
        .example("'the database is closed to the world'")
        .required(),
        FROM,
        TO,
        SOURCE,
        Key::new(
            "destination",
            EXPRESSION,
            "The destination as the packet arrives, before a `[[nat]]` entry translates it; `\"host\"`: any address of this host.",
        )
        .example("'host'"),
        ITEMS,
        SCOPE,
        STATE.default("'new'"),
        Key::new(
            "expect",
            Shape::Word(&EXPECTS),
            "What must become of every packet that fits; `deny`: dropped or rejected.",
        )
        .example("'drop'")
        .required(),
        Key::new(
            "assume",
            Shape::Definitions {
                reserved: &[],
                each: &Shape::Word(&ASSUMES),
            },
            "What dynamic sets are taken to be, by name; left out, a set may have anything in it.",
        )
        .example("{ banned = 'empty' }"),
    ],
};

const EXPECTS: &[(&str, Expect)] = &[
    ("accept", Expect::Accept),
    ("drop", Expect::Drop),
    ("reject", Expect::Reject),
    ("deny", Expect::Deny),
];

const ASSUMES: &[(&str, Assume)] = &[("empty", Assume::Empty), ("anything", Assume::Anything)];

const LIST: &str = "a list of tables, each written `[[tests]]`";

pub(super) fn read(root: CheckedTable<'_>, tests: &mut Vec<PolicyTest>, sink: &mut Sink) {
    let Some(value) = root.get("tests") else {
        return;
    };
    let Some(list) = value.as_array() else {
        return value.wrong_type("tests", LIST, sink);
    };
    for value in list {
        let Some(table) = value.as_table() else {
            return value.wrong_type("tests", LIST, sink);
        };
        tests.push(read_test(table, sink));
    }
}

fn read_test(table: CheckedTable<'_>, sink: &mut Sink) -> PolicyTest {
    let errors = sink.errors();
    let all_known = table.check(KEYS, sink);
    let mut packets = read_packets(table, sink);
    let is_host = |destination: &AddressExpression| {
        let [item] = &destination.items[..] else {
            return false;
        };
        !destination.negated && matches!(&item.value, AddressItem::Name(name) if name == "host")
    };
    let for_this_host = packets.destination.take_if(|it| is_host(it)).is_some();
    let mut test = PolicyTest {
        span: table.span,
        packets,
        for_this_host,
        expect: table.word("expect", EXPECTS, sink),
        assume: read_assume(table, sink),
    };
    let missing = [
        ("name", "say in a few words what must hold"),
        ("expect", "it is one of `accept`, `drop`, `reject`, `deny`"),
    ];
    for (key, help) in missing {
        if all_known && table.get(key).is_none() {
            let message = format!("a test needs `{key}`");
            sink.report(Diagnostic::error(Code::MissingKey, table.span, message).help(help));
        }
    }
    test.packets.complete = sink.errors() == errors;
    test
}

fn read_assume(table: CheckedTable<'_>, sink: &mut Sink) -> Vec<(Located<String>, Assume)> {
    let value = table.get("assume");
    let Some(table) = value.and_then(|value| value.table("assume", sink)) else {
        return Vec::new();
    };
    let entries = table.entries().filter_map(|(name, value)| {
        let assumed = value.word(name.value, ASSUMES, sink)?;
        Some((name.map(str::to_owned), assumed.value))
    });
    entries.collect()
}

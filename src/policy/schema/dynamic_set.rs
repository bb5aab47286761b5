//! The keys of a dynamic set: an address group that other programs fill.

use super::limits::read_number;
use super::times::{DURATION, read_duration};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::SetType;
use crate::policy::keys::{Key, Shape};
use crate::policy::reader::{CheckedTable, FileValue};

/// An ipset that other programs fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DynamicSet {
    /// What its members are.
    pub kind: SetType,
    /// The lifetime of an entry in seconds; `None` means no limit.
    pub timeout: Option<u32>,
    /// The most entries that it holds; `None` means ipset's default (65,536).
    pub size: Option<u32>,
    /// The kernel counts the packets and bytes of each entry.
    pub counters: bool,
    /// An entry may have a comment.
    pub comments: bool,
}

pub(super) const TYPE: Key = Key::new(
    "type",
    Shape::Word(&TYPES),
    "What an entry of a dynamic set is. With a port, `source` and `destination` compare the port that the packet goes to.",
)
.default("'net'");

pub(super) const TIMEOUT: Key = Key::new(
    "timeout",
    DURATION,
    "How long an entry of a dynamic set stays, up to 24 days.",
)
.example("'1h'");

pub(super) const SIZE: Key = Key::new(
    "size",
    Shape::Number(1, u32::MAX as i64),
    "How many entries a dynamic set holds at most. One that is full refuses more.",
)
.default("65536");

pub(super) const COUNTERS: Key = Key::new(
    "counters",
    Shape::Boolean,
    "Count the packets and bytes of each entry of a dynamic set.",
)
.default("false");

pub(super) const COMMENTS: Key = Key::new(
    "comments",
    Shape::Boolean,
    "Let entries of a dynamic set have comments.",
)
.default("false");

const TYPES: &[(&str, SetType)] = &[
    ("net", SetType::Net),
    ("address", SetType::Address),
    ("net,port", SetType::NetPort),
    ("address,port", SetType::AddressPort),
];

/// Reads the keys of a dynamic set; `None` if one of them is wrong.
pub(super) fn read(table: CheckedTable<'_>, sink: &mut Sink) -> Option<DynamicSet> {
    let errors = sink.errors();
    let most = i64::from(u32::MAX);
    let set = DynamicSet {
        kind: table
            .word("type", TYPES, sink)
            .map_or_else(SetType::default, |kind| kind.value),
        timeout: table
            .get("timeout")
            .and_then(|value| read_timeout(value, sink)),
        size: read_number(table, "size", 1, most, sink).map(|size| size.value),
        counters: is_on(table, "counters", sink),
        comments: is_on(table, "comments", sink),
    };
    (sink.errors() == errors).then_some(set)
}

fn is_on(table: CheckedTable<'_>, key: &str, sink: &mut Sink) -> bool {
    table.boolean(key, sink).is_some_and(|on| on.value)
}

/// Reports the keys of a dynamic set in a group that is none.
pub(super) fn refuse(table: CheckedTable<'_>, sink: &mut Sink) {
    for (key, help) in [
        (
            "type",
            "a set that the policy fills has networks: leave `type` out",
        ),
        ("timeout", "what the policy itself names stays in the set"),
        (
            "size",
            "a set that the policy fills is as large as it has to be",
        ),
        (
            "counters",
            "fwc replaces a set that the policy fills when its members change, and counters would start again; the rules that name it count",
        ),
        (
            "comments",
            "write comments into the policy, or behind `#` in its `file`",
        ),
    ] {
        if table.get(key).is_some() {
            let message = format!("`{key}` is for dynamic sets");
            sink.report(Diagnostic::error(Code::Conflict, table.key_span(key), message).help(help));
        }
    }
}

/// The longest timeout that ipset accepts, in seconds (`ip_set_timeout.h`).
const LONGEST_TIMEOUT: u32 = 2_147_483;

fn read_timeout(value: FileValue<'_>, sink: &mut Sink) -> Option<u32> {
    let timeout = read_duration("timeout", value, LONGEST_TIMEOUT, "24 days", sink);
    timeout.map(|timeout| timeout.value)
}

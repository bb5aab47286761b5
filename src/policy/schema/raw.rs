//! `[[raw]]`: exceptions from connection tracking, conntrack helpers, and packets to drop before tracking.

use super::helpers::{HELPER, Helper, read_helper};
use super::rules::{
    COMMENT, DESTINATION, ENABLED, FROM, LOG, MATCH, PLAIN_TO, PolicyRule, RULE_NAME, SCOPE,
    SOURCE, finish_packets, read_entries, refuse_negated,
};
use super::services::ITEMS;
use super::times::{EXPIRES, SCHEDULE};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// How packets are treated before conntrack sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// They are not tracked, and so belong to no connection.
    NoTrack {
        /// `true` if answers to requests of this host may come in. Without tracking they would not be ESTABLISHED.
        answers: bool,
    },
    /// A helper reads the connection, so that the connections that it announces are RELATED.
    Helper(Helper),
    /// They are dropped.
    Drop,
}

/// One entry as written.
#[derive(Clone, Debug)]
pub struct PolicyRaw {
    /// The place of the whole table.
    pub span: Span,
    /// The packets of the entry, with the keys of a rule.
    pub packets: PolicyRule,
    /// The treatment; `None` if it could not be read.
    pub treatment: Option<Located<Treatment>>,
    /// The place of `answers`.
    pub answers: Option<Span>,
}

// Without `ipset`: of a `notrack` entry the raw table also matches the replies, and neither `expand` nor `verify::spec` asks there
// whether the set has their destination.
pub(super) const KEYS: TableKeys = TableKeys {
    of: "a raw entry",
    known: &[
        Key::new("type", Shape::Word(&TYPES), "What is done to the packets.")
            .example("'notrack'")
            .required(),
        HELPER,
        Key::new(
            "answers",
            Shape::Boolean,
            "Of `notrack`: let the answers to this host's own questions in.",
        )
        .default("false"),
        RULE_NAME,
        FROM,
        PLAIN_TO,
        SOURCE,
        DESTINATION,
        ITEMS,
        SCOPE,
        MATCH,
        SCHEDULE,
        EXPIRES,
        LOG,
        ENABLED,
        COMMENT,
    ],
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    NoTrack,
    Helper,
    Drop,
}

const TYPES: &[(&str, Type)] = &[
    ("notrack", Type::NoTrack),
    ("helper", Type::Helper),
    ("drop", Type::Drop),
];

pub(super) fn read(root: CheckedTable<'_>, entries: &mut Vec<PolicyRaw>, sink: &mut Sink) {
    read_entries(root, "raw", sink, |table, sink| {
        entries.push(read_entry(table, sink));
    });
}

fn read_entry(table: CheckedTable<'_>, sink: &mut Sink) -> PolicyRaw {
    let errors = sink.errors();
    let all_known = table.check(KEYS, sink);
    let treatment = read_treatment(table, all_known, sink);
    let answers = table.get("answers").map(|value| value.span);
    let mut packets = finish_packets(table, errors, sink);
    let is_drop = treatment
        .as_ref()
        .is_some_and(|treatment| treatment.value == Treatment::Drop);
    let service = (
        "service",
        Code::BadValue,
        "it says what is not tracked, or which ports a helper reads",
    );
    let to = (
        "to",
        Code::BadValue,
        "the raw table is before routing, when the outgoing device is not known",
    );
    let keys: &[_] = match is_drop {
        true => &[to],
        false => &[to, service],
    };
    refuse_negated(&packets, "a raw entry", keys, sink);
    packets.complete = sink.errors() == errors;
    PolicyRaw {
        span: table.span,
        packets,
        treatment,
        answers,
    }
}

fn read_treatment(
    table: CheckedTable<'_>,
    all_known: bool,
    sink: &mut Sink,
) -> Option<Located<Treatment>> {
    let Some(kind) = table.get("type") else {
        if all_known {
            sink.report(
                Diagnostic::error(Code::MissingKey, table.span, "a raw entry needs `type`")
                    .help("it is `notrack`, `helper` or `drop`"),
            );
        }
        return None;
    };
    let kind = kind.word("type", TYPES, sink)?;
    let own = [
        ("helper", "helper", Type::Helper),
        ("answers", "notrack", Type::NoTrack),
    ];
    let of_others = own.into_iter().filter(|(_, _, of)| *of != kind.value);
    for (key, word, _) in of_others {
        if table.get(key).is_some() {
            let message = format!("`{key}` is for `type = \"{word}\"`");
            sink.report(
                Diagnostic::error(Code::Conflict, table.key_span(key), message)
                    .help("leave the key out, or change the type"),
            );
            return None;
        }
    }
    let treatment = match kind.value {
        Type::NoTrack => Treatment::NoTrack {
            answers: table
                .boolean("answers", sink)
                .is_some_and(|flag| flag.value),
        },
        Type::Helper => {
            if table.get("helper").is_none() {
                sink.report(
                    Diagnostic::error(Code::MissingKey, kind.span, "which helper reads along?")
                        .help("say it, such as `helper = \"ftp\"`"),
                );
            }
            Treatment::Helper(read_helper(table, sink)?.value)
        }
        Type::Drop => Treatment::Drop,
    };
    Some(Located::new(treatment, kind.span))
}

//! `limit` and `connections` of rules.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Rate, RateError};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// What happens to packets over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// They are dropped.
    Drop,
    /// They are rejected with an answer.
    Reject,
    /// The next rules decide.
    Continue,
}

/// The packets that share one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// All packets of the rule.
    Rule,
    /// Packets of the same source: an IPv4 address, or an IPv6 /64.
    Source,
}

/// `limit`: the most packets in a time.
#[derive(Clone, Debug)]
pub struct PolicyLimit {
    /// The place of the whole value.
    pub span: Span,
    /// The average rate.
    pub rate: Rate,
    /// The number of packets that may pass at once before the rate applies.
    pub burst: u32,
    /// The packets that share one counter.
    pub per: Per,
    /// What happens to packets over it; `None` if absent.
    pub over: Option<Located<Over>>,
}

/// `connections`: the most connections at the same time.
#[derive(Clone, Debug)]
pub struct PolicyConnections {
    /// The place of the whole value.
    pub span: Span,
    /// The most connections.
    pub max: u32,
    /// The connections that share one counter.
    pub per: Per,
    /// What happens to further connections.
    pub over: Over,
}

/// The burst of iptables if none is given.
const DEFAULT_BURST: u32 = 5;
/// The highest burst that iptables accepts for `-m limit`.
const LARGEST_BURST: i64 = 10_000;

/// The key `limit` of a rule.
pub(super) const LIMIT: Key = Key::new(
    "limit",
    Shape::OneOf(&[RATE, Shape::Table(&LIMIT_KEYS)]),
    "How many packets the rule lets through in a time: the rate alone, or a table.",
)
.example("{ rate = '6/minute', burst = 3, per = 'source', over = 'drop' }");

/// The key `connections` of a rule.
pub(super) const CONNECTIONS: Key = Key::new(
    "connections",
    Shape::Table(&CONNECTIONS_KEYS),
    "How many connections may be open at the same time.",
)
.example("{ max = 20, per = 'source', over = 'reject' }");

/// A rate; see [`Rate::parse`].
pub(super) const RATE: Shape = Shape::Form(
    "[0-9]+/(s|se|sec|seco|secon|second|m|mi|min|minu|minut|minute|h|ho|hou|hour|d|da|day)",
);

const LIMIT_KEYS: TableKeys = TableKeys {
    of: "a limit",
    known: &[
        Key::new(
            "rate",
            RATE,
            "How often: a number, `/`, and `second`, `minute`, `hour` or `day`.",
        )
        .example("'6/minute'")
        .required(),
        Key::new(
            "burst",
            Shape::Number(1, LARGEST_BURST),
            "How many at once.",
        )
        .default("5"),
        PER_KEY,
        OVER_KEY,
    ],
};

const CONNECTIONS_KEYS: TableKeys = TableKeys {
    of: "`connections`",
    known: &[
        Key::new(
            "max",
            Shape::Number(1, u32::MAX as i64),
            "How many at the same time, at most.",
        )
        .example("20")
        .required(),
        PER_KEY,
        OVER_KEY,
    ],
};

const PER_KEY: Key = Key::new(
    "per",
    Shape::Word(&PER),
    "`source`: each host counts for itself, an IPv4 address or a /64 of IPv6. Left out: all packets of the rule together.",
);

const OVER_KEY: Key = Key::new(
    "over",
    Shape::Word(&OVER),
    "What becomes of packets beyond it; `continue`: the next rules decide.",
)
.default("'drop'");

const OVER: &[(&str, Over)] = &[
    ("drop", Over::Drop),
    ("reject", Over::Reject),
    ("continue", Over::Continue),
];

const PER: &[(&str, Per)] = &[("source", Per::Source)];

pub(super) fn read_limit(table: CheckedTable<'_>, sink: &mut Sink) -> Option<PolicyLimit> {
    let value = table.get("limit")?;
    let Some(table) = value.as_table() else {
        return Some(PolicyLimit {
            span: value.span,
            rate: read_rate("limit", value, sink)?.value,
            burst: DEFAULT_BURST,
            per: Per::Rule,
            over: None,
        });
    };
    let keys_are_known = table.check(LIMIT_KEYS, sink);
    let burst = read_number(table, "burst", 1, LARGEST_BURST, sink);
    let over = table.word("over", OVER, sink);
    let per = read_per(table, sink);
    let Some(rate) = table.get("rate") else {
        if keys_are_known {
            sink.report(
                Diagnostic::error(Code::MissingKey, value.span, "the limit has no `rate`")
                    .help("say how often, such as `rate = \"6/minute\"`"),
            );
        }
        return None;
    };
    let rate = read_rate("rate", rate, sink)?;
    let burst = burst.unwrap_or(Located::new(DEFAULT_BURST, value.span));
    check_burst(&rate, &burst, sink);
    Some(PolicyLimit {
        span: value.span,
        rate: rate.value,
        burst: burst.value,
        per,
        over,
    })
}

pub(super) fn read_connections(
    table: CheckedTable<'_>,
    sink: &mut Sink,
) -> Option<PolicyConnections> {
    let value = table.get("connections")?;
    let table = value.table("connections", sink)?;
    let keys_are_known = table.check(CONNECTIONS_KEYS, sink);
    let over = table.word("over", OVER, sink);
    let per = read_per(table, sink);
    if table.get("max").is_none() && keys_are_known {
        sink.report(
            Diagnostic::error(Code::MissingKey, value.span, "`connections` has no `max`")
                .help("say how many at the same time, such as `max = 20`"),
        );
    }
    let max = read_number(table, "max", 1, i64::from(u32::MAX), sink)?;
    Some(PolicyConnections {
        span: value.span,
        max: max.value,
        per,
        over: over.map_or(Over::Drop, |over| over.value),
    })
}

fn read_per(table: CheckedTable<'_>, sink: &mut Sink) -> Per {
    table
        .word("per", PER, sink)
        .map_or(Per::Rule, |per| per.value)
}

/// Reports a burst that is too large for the kernel's counter at this rate.
pub(super) fn check_burst(rate: &Located<Rate>, burst: &Located<u32>, sink: &mut Sink) {
    if !rate.value.allows_burst(burst.value) {
        let message = format!(
            "the kernel cannot count a burst of {} at {}: it would stand for more than a day",
            burst.value,
            rate.value.of_limit()
        );
        sink.report(
            Diagnostic::error(Code::BadRate, rate.span, message)
                .help("lower the burst, or say the rate in a shorter time"),
        );
    }
}

pub(super) fn read_rate(key: &str, value: FileValue<'_>, sink: &mut Sink) -> Option<Located<Rate>> {
    let text = match (value.as_text(), value.as_integer()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => {
            value.wrong_type(key, "a string such as \"10/minute\"", sink);
            return None;
        }
    };
    let at = |message: String| Diagnostic::error(Code::BadRate, value.span, message);
    let shown = text.escape_debug();
    match Rate::parse(&text) {
        Ok(rate) => return Some(Located::new(rate, value.span)),
        Err(RateError::NoUnit) => sink.report(
            at(format!(
                "`{shown}` is not a valid rate: it has no unit of time"
            ))
            .label(format!("did you mean `{shown}/minute`?")),
        ),
        Err(RateError::NotARate) => sink.report(
            at(format!("`{shown}` is not a valid rate"))
                .help("write a number, `/`, and `second`, `minute`, `hour` or `day`"),
        ),
        Err(RateError::OutOfRange) => sink.report(
            at(format!("the kernel cannot count `{shown}`"))
                .with_note("a rate is at least 1 a day and at most 10000 a second"),
        ),
    }
    None
}

pub(super) fn read_number<T: TryFrom<i64>>(
    table: CheckedTable<'_>,
    key: &str,
    least: i64,
    most: i64,
    sink: &mut Sink,
) -> Option<Located<T>> {
    let value = table.get(key)?;
    let Some(number) = value.as_integer() else {
        value.wrong_type(key, "a whole number", sink);
        return None;
    };
    let read = T::try_from(number)
        .ok()
        .filter(|_| (least..=most).contains(&number));
    if read.is_none() {
        let message = format!("`{key}` cannot be {number}");
        sink.report(
            Diagnostic::error(Code::BadValue, value.span, message)
                .help(format!("it is a number from {least} to {most}")),
        );
    }
    Some(Located::new(read?, value.span))
}

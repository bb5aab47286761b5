//! `limit` and `connections` of rules.

use super::names::{NAME, OVERRIDE, RESERVED, is_name, read_definitions};
use super::windows::{
    HITS, LimitWindow, NAMED_WINDOW_KEYS, WINDOW_KEYS, WITHIN, is_window, read_window,
};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{ByteRate, ByteRateError, Family, PerFamily, Rate, RateError};
use crate::policy::Definitions;
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

/// The connections that share one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// All connections of the rule.
    Rule,
    /// Connections of the same source: an IPv4 address, or an IPv6 /64.
    Source,
}

/// The parts of a packet by which a limit has buckets: packets that are equal in all of them share one. Without any part, all
/// packets of the rule share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitPer {
    /// The source, and how much of it.
    pub source: Option<HostPrefix>,
    /// The destination, and how much of it.
    pub destination: Option<HostPrefix>,
    /// The destination port.
    pub destination_port: bool,
}

/// The leading bits of an address by which a limit has buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPrefix {
    /// One host: no prefix is written.
    Host,
    /// `/24`: the bits in the only family of the rule.
    Only(u8),
    /// `/24/56`: the bits in each family.
    Each(PerFamily<u8>),
}

/// How much a limit lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitRate {
    /// Packets in a time, and the number that may pass at once before the rate applies.
    Packets(Rate, u32),
    /// Bytes a second; a full bucket has the bytes of one second.
    Bytes(ByteRate),
    /// Packets in a sliding window, of one source or destination.
    Window(LimitWindow),
}

/// A limit, of a rule or of `[limits]`: the most packets in a time.
#[derive(Clone, Debug)]
pub struct PolicyLimit {
    /// The place of the whole value.
    pub span: Span,
    /// How much it lets through.
    pub rate: LimitRate,
    /// The packets that share a bucket.
    pub per: LimitPer,
    /// The place of `per`; that of the whole value if absent.
    pub per_span: Span,
    /// What happens to packets over it; `None` if absent.
    pub over: Option<Located<Over>>,
}

/// `limit` of a rule.
#[derive(Clone, Debug)]
pub enum RuleLimit {
    /// A limit of the rule alone.
    Own(PolicyLimit),
    /// The name of a limit of `[limits]`, which all rules that name it share.
    Named(Located<String>),
}

impl RuleLimit {
    /// Returns the place of the value.
    pub fn span(&self) -> Span {
        match self {
            Self::Own(limit) => limit.span,
            Self::Named(name) => name.span,
        }
    }
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
    Shape::OneOf(&[
        RATE,
        BYTE_RATE,
        Shape::Table(&RATE_KEYS),
        NAME,
        Shape::Table(&WINDOW_KEYS),
    ]),
    "How many packets the rule lets through in a time, or how many bytes: the rate alone, or a table. With `hits` and `within` a sliding window. \
     Or a name of `[limits]`.",
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

/// A rate of bytes; see [`ByteRate::parse`].
const BYTE_RATE: Shape = Shape::Form("[0-9]+(B|KiB|MiB)/(s|se|sec|seco|secon|second)");

/// The keys of a limit with a rate.
const RATE_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[RATE_KEY.required(), BURST_KEY, LIMIT_PER_KEY, OVER_KEY],
};

/// The section `[limits]`.
pub(super) const SECTION: Key = Key::new(
    "limits",
    Shape::Definitions {
        reserved: RESERVED,
        each: &Shape::OneOf(&[
            RATE,
            BYTE_RATE,
            Shape::Table(&NAMED_RATE_KEYS),
            Shape::Table(&NAMED_WINDOW_KEYS),
        ]),
    },
    "Names for limits. All rules that name one share it: together they let through what it says, in each family.",
)
.example("{ syn = { rate = '20/second', burst = 40 } }");

/// The longest name of a limit. A list of `recent` has 199 characters at most, with `fwc4-` in front and a hash behind.
const LONGEST_LIMIT_NAME: usize = 100;

/// The keys of a named limit with a rate.
const NAMED_RATE_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[
        RATE_KEY.required(),
        BURST_KEY,
        LIMIT_PER_KEY,
        OVER_KEY,
        OVERRIDE,
    ],
};

/// The keys of named limits of any kind.
const NAMED_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[
        RATE_KEY,
        BURST_KEY,
        HITS,
        WITHIN,
        LIMIT_PER_KEY,
        OVER_KEY,
        OVERRIDE,
    ],
};

/// The keys of limits of any kind. Which of them go together is found later, so that a message can say why they do not.
const LIMIT_KEYS: TableKeys = TableKeys {
    of: LIMIT_TABLE,
    known: &[RATE_KEY, BURST_KEY, HITS, WITHIN, LIMIT_PER_KEY, OVER_KEY],
};

/// What messages call the table of a limit.
pub(super) const LIMIT_TABLE: &str = "a limit";

const RATE_KEY: Key = Key::new(
    "rate",
    Shape::OneOf(&[RATE, BYTE_RATE]),
    "How often: a number, `/`, and `second`, `minute`, `hour` or `day`. Or how many bytes: `10MiB/second`, also with `B` and `KiB`.",
)
.example("'6/minute'");

const BURST_KEY: Key = Key::new(
    "burst",
    Shape::Number(1, LARGEST_BURST),
    "How many packets at once. Rates of bytes have none.",
)
.default("5");

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
        CONNECTIONS_PER_KEY,
        OVER_KEY,
    ],
};

const CONNECTIONS_PER_KEY: Key = Key::new(
    "per",
    Shape::Word(&PER),
    "`source`: each host counts for itself, an IPv4 address or a /64 of IPv6. Left out: all connections of the rule together.",
);

const LIMIT_PER_KEY: Key = Key::new(
    "per",
    Shape::List(&PER_PART),
    "What counts for itself: `source` (an IPv4 address, or a /64 of IPv6), `destination` (an address), `destination-port`, or each combination \
     of a list. `source/24/56` has prefixes of IPv4 and IPv6. Left out: all packets of the rule together.",
)
.example("['source/24/56', 'destination-port']");

/// A part of a packet that a limit has buckets for; see [`read_part`].
const PER_PART: Shape = Shape::Form(concat!(
    "(source|destination)",
    "(/([1-9]|[12][0-9]|3[0-2])/([1-9][0-9]?|1[01][0-9]|12[0-8])|/([1-9][0-9]?|1[01][0-9]|12[0-8]))?",
    "|destination-port"
));

pub(super) const OVER_KEY: Key = Key::new(
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

/// Reads `limit` of a rule: a limit of its own, or the name of one.
pub(super) fn read_limit(table: CheckedTable<'_>, sink: &mut Sink) -> Option<RuleLimit> {
    let value = table.get("limit")?;
    match value.as_text() {
        Some(name) if is_name(name) => {
            Some(RuleLimit::Named(Located::new(name.to_owned(), value.span)))
        }
        _ => read_limit_value("limit", value, LIMIT_KEYS, sink).map(RuleLimit::Own),
    }
}

/// Reads `[limits]`.
pub(super) fn read_limits(
    root: CheckedTable<'_>,
    limits: &mut Definitions<PolicyLimit>,
    sink: &mut Sink,
) {
    read_definitions(root, "limits", limits, sink, |name, value, sink| {
        let length = name.value.len();
        if length > LONGEST_LIMIT_NAME {
            let message = format!(
                "the name of a limit has {LONGEST_LIMIT_NAME} characters at most, not {length}"
            );
            sink.report(
                Diagnostic::error(Code::TooLong, name.span, message)
                    .help("shorten it: the kernel's table is called `fwc-NAME-HASH`"),
            );
            return None;
        }
        read_limit_value(&name.value, value, NAMED_KEYS, sink)
    });
}

/// Reads a limit: the rate alone, or a table with some of these keys.
fn read_limit_value(
    key: &str,
    value: FileValue<'_>,
    keys: TableKeys,
    sink: &mut Sink,
) -> Option<PolicyLimit> {
    let Some(table) = value.as_table() else {
        return Some(PolicyLimit {
            span: value.span,
            rate: read_limit_rate(key, value, None, sink)?,
            per: LimitPer::default(),
            per_span: value.span,
            over: None,
        });
    };
    let keys_are_known = table.check(keys, sink);
    let burst = read_number(table, "burst", 1, LARGEST_BURST, sink);
    let over = table.word("over", OVER, sink);
    let per = read_limit_per(table, sink);
    if is_window(table) {
        let (window, per) = read_window(table, value.span, per, sink)?;
        return Some(PolicyLimit {
            span: value.span,
            rate: LimitRate::Window(window),
            per: per.value,
            per_span: per.span,
            over,
        });
    }
    let Some(rate) = table.get("rate") else {
        if keys_are_known {
            sink.report(
                Diagnostic::error(Code::MissingKey, value.span, "the limit has no `rate`")
                    .help("say how often, such as `rate = \"6/minute\"`"),
            );
        }
        return None;
    };
    let rate = read_limit_rate("rate", rate, burst, sink)?;
    let per = match per {
        Some(per) => per?,
        None => Located::new(LimitPer::default(), value.span),
    };
    Some(PolicyLimit {
        span: value.span,
        rate,
        per: per.value,
        per_span: per.span,
        over,
    })
}

/// Reads a rate of packets or of bytes. `burst` is the burst of packets, if the limit has one.
fn read_limit_rate(
    key: &str,
    value: FileValue<'_>,
    burst: Option<Located<u32>>,
    sink: &mut Sink,
) -> Option<LimitRate> {
    let Some(bytes) = value.as_text().and_then(ByteRate::parse) else {
        let rate = read_rate(key, value, sink)?;
        let burst = burst.unwrap_or(Located::new(DEFAULT_BURST, value.span));
        check_burst(&rate, &burst, sink);
        return Some(LimitRate::Packets(rate.value, burst.value));
    };
    let rate = match bytes {
        Ok(rate) => rate,
        Err(error) => {
            sink.report(wrong_bytes(value, error));
            return None;
        }
    };
    if let Some(burst) = burst {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                burst.span,
                "`burst` is a number of packets, but the rate is of bytes",
            )
            .with_note("a limit of bytes lets through at once what it lets through in a second")
            .help("leave `burst` out"),
        );
        return None;
    }
    Some(LimitRate::Bytes(rate))
}

/// Returns the error for a rate of bytes.
fn wrong_bytes(value: FileValue<'_>, error: ByteRateError<'_>) -> Diagnostic {
    let shown = value.as_text().unwrap_or_default().escape_debug();
    let at = |message: String| Diagnostic::error(Code::BadRate, value.span, message);
    match error {
        ByteRateError::UnknownUnit { unit, in_mib } => {
            let finding = at(format!(
                "`{shown}` is not a valid rate: `{unit}` is not a unit of bytes here"
            ));
            match in_mib {
                Some(count) => finding.help(format!("write `{count}MiB/second`")),
                None => finding.help("write `B`, `KiB` or `MiB`, such as `10MiB/second`"),
            }
        }
        ByteRateError::NotASecond => at(format!(
            "`{shown}` is not a valid rate: bytes are per second"
        ))
        .with_note("the kernel counts bytes in no other unit of time")
        .help("write the bytes of one second, such as `10MiB/second`"),
        ByteRateError::OutOfRange => at(format!("the kernel cannot count `{shown}`"))
            .with_note("a rate of bytes is at least 16B and at most 1024MiB a second"),
    }
}

pub(super) fn read_connections(
    table: CheckedTable<'_>,
    sink: &mut Sink,
) -> Option<PolicyConnections> {
    let value = table.get("connections")?;
    let table = value.table("connections", sink)?;
    let keys_are_known = table.check(CONNECTIONS_KEYS, sink);
    let over = table.word("over", OVER, sink);
    let per = table
        .word("per", PER, sink)
        .map_or(Per::Rule, |per| per.value);
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

/// Reads `per` of a limit, if the table has it. `Some(None)` if it is wrong: without it the limit would mean something else.
fn read_limit_per(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Option<Located<LimitPer>>> {
    let value = table.get("per")?;
    let mut per = LimitPer::default();
    let mut is_wrong = false;
    for part in value.list("per", sink).unwrap_or_default() {
        is_wrong |= read_part(part, &mut per, sink).is_none();
    }
    let is_right = !is_wrong && per != LimitPer::default();
    Some(is_right.then(|| Located::new(per, value.span)))
}

/// Reads a part of a packet: `source`, `source/24/56`, `destination`, `destination-port`. `None` if it is wrong.
fn read_part(value: FileValue<'_>, per: &mut LimitPer, sink: &mut Sink) -> Option<()> {
    let text = value.text("per", sink)?.value;
    let (name, prefixes) = match text.split_once('/') {
        Some((name, prefixes)) => (name, Some(prefixes)),
        None => (text, None),
    };
    let is_twice = match (name, prefixes) {
        ("source", _) => {
            let prefix = read_prefixes(name, prefixes, value, sink)?;
            per.source.replace(prefix).is_some()
        }
        ("destination", _) => {
            let prefix = read_prefixes(name, prefixes, value, sink)?;
            per.destination.replace(prefix).is_some()
        }
        ("destination-port", None) => std::mem::replace(&mut per.destination_port, true),
        _ => {
            let known = ["source", "destination", "destination-port"];
            let shown = text.escape_debug();
            let message = format!("`per` cannot be `{shown}`");
            sink.report(
                Diagnostic::error(Code::BadValue, value.span, message)
                    .suggest(did_you_mean(text, known))
                    .help("it is `source`, `destination`, `destination-port`, or a list of them")
                    .help("`source` and `destination` may have prefixes: `source/24/56`"),
            );
            return None;
        }
    };
    if is_twice {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                value.span,
                format!("`per` names `{name}` twice"),
            )
            .help("name it once"),
        );
        return None;
    }
    Some(())
}

/// Reads the prefixes behind `source` or `destination`: none, one, or one for each family.
fn read_prefixes(
    name: &str,
    prefixes: Option<&str>,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<HostPrefix> {
    let Some(prefixes) = prefixes else {
        return Some(HostPrefix::Host);
    };
    let number = |text: &str, most: u8| {
        let bits: u8 = text.parse().ok()?;
        let is_plain = bits.to_string() == text;
        (is_plain && (1..=most).contains(&bits)).then_some(bits)
    };
    let [v4, v6] = [Family::V4.bits(), Family::V6.bits()];
    let read = match prefixes.split_once('/') {
        None => number(prefixes, v6).map(HostPrefix::Only),
        Some((first, second)) => match (number(first, v4), number(second, v6)) {
            (Some(v4), Some(v6)) => Some(HostPrefix::Each(PerFamily { v4, v6 })),
            _ => None,
        },
    };
    if read.is_none() {
        let shown = prefixes.escape_debug();
        let message = format!("`/{shown}` is not a prefix of IPv4 and one of IPv6");
        sink.report(
            Diagnostic::error(Code::BadPrefix, value.span, message)
                .with_note("a prefix has 1 to 32 bits in IPv4, 1 to 128 in IPv6")
                .help(format!(
                    "write `{name}/24/56`, or `{name}/24` in a rule of one family"
                )),
        );
    }
    read
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

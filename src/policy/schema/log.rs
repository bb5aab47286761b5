//! `[log.*]`: classes of log lines.

use super::harmless_text;
use super::limits::{RATE, check_burst, read_number, read_rate};
use super::names::{OVERRIDE, read_definitions};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::Rate;
use crate::policy::Definitions;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::Located;

/// The target of a log rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDestination {
    /// `LOG`: the kernel log.
    Log,
    /// `NFLOG`: a netlink group, which ulogd and other programs read.
    Nflog,
}

impl LogDestination {
    /// Returns the longest prefix that the target keeps, in bytes. Longer ones are cut silently (`xt_LOG.h`,
    /// `xt_NFLOG.h`, without the final zero). For NFLOG it is the limit of iptables-legacy; iptables-nft keeps 127.
    pub const fn longest_prefix(self) -> usize {
        match self {
            Self::Log => 29,
            Self::Nflog => 63,
        }
    }
}

/// A field that LOG adds to its lines. The order is that of `iptables-save`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOption {
    /// The TCP sequence numbers.
    TcpSequence,
    /// The options of the TCP header.
    TcpOptions,
    /// The options of the IP header.
    IpOptions,
    /// The user of the process that sends the packet.
    Uid,
    /// The MAC addresses, decoded.
    MacDecode,
}

/// `[log.NAME]` as written; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct PolicyLogClass {
    /// `target`
    pub target: Option<Located<LogDestination>>,
    /// `prefix`
    pub prefix: Option<Located<String>>,
    /// `level`: 0 (emergency) to 7 (debug).
    pub level: Option<Located<u8>>,
    /// `rate`; its value is `None` for `false`, which logs every packet.
    pub rate: Option<Located<Option<Rate>>>,
    /// `burst`
    pub burst: Option<Located<u32>>,
    /// `group`, for NFLOG.
    pub group: Option<Located<u16>>,
    /// `options`, for LOG.
    pub options: Option<Vec<Located<LogOption>>>,
    /// `size`, for NFLOG.
    pub size: Option<Located<u16>>,
    /// `threshold`, for NFLOG.
    pub threshold: Option<Located<u16>>,
}

pub(super) const SECTION: Key = Key::new(
    "log",
    Shape::Definitions {
        reserved: &[],
        each: &Shape::Table(&KEYS),
    },
    "How log lines look and how many there may be, by class; the classes `default` and `denied` exist.",
)
.example("{ denied = { prefix = 'fwc denied: ', rate = '10/minute' } }");

const TARGETS: &[(&str, LogDestination)] = &[
    ("LOG", LogDestination::Log),
    ("NFLOG", LogDestination::Nflog),
];

const KEYS: TableKeys = TableKeys {
    of: "a log class",
    known: &[
        Key::new(
            "target",
            Shape::Word(&TARGETS),
            "`LOG`: the kernel's log. `NFLOG`: a netlink group, read by ulogd and others.",
        )
        .default("'LOG'"),
        Key::new(
            "prefix",
            Shape::Form("[ -~]{0,63}"),
            "What each line begins with: 29 characters at most for LOG, 63 for NFLOG.",
        )
        .example("'fwc denied: '"),
        Key::new("level", Shape::Word(&LEVELS), "The severity, of LOG.").default("'warning'"),
        Key::new(
            "rate",
            Shape::OneOf(&[RATE, Shape::Boolean]),
            "How many lines in a time, at most. `false`: a line for every packet.",
        )
        .default("'10/minute'"),
        Key::new(
            "burst",
            Shape::Number(1, LARGEST_BURST),
            "How many lines at once.",
        )
        .default("20"),
        Key::new(
            "group",
            Shape::Number(0, u16::MAX as i64),
            "The netlink group, of NFLOG.",
        )
        .default("0"),
        Key::new(
            "options",
            Shape::List(&Shape::Word(&OPTIONS)),
            "Of LOG: more fields in each line, such as the user of the process that sends the packet (`uid`).",
        )
        .example("['uid', 'tcp-options']"),
        Key::new(
            "size",
            Shape::Number(1, LARGEST_SIZE),
            "Of NFLOG: how many bytes of each packet the reader gets, at most. Left out: the whole packet.",
        )
        .example("128"),
        Key::new(
            "threshold",
            Shape::Number(1, u16::MAX as i64),
            "Of NFLOG: how many packets the kernel collects before it wakes the reader. Left out: as the reader sets it.",
        )
        .example("50"),
        OVERRIDE,
    ],
};

/// The levels of syslog(3), with the other names that iptables has for them.
const LEVELS: &[(&str, u8)] = &[
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

const OPTIONS: &[(&str, LogOption)] = &[
    ("uid", LogOption::Uid),
    ("tcp-options", LogOption::TcpOptions),
    ("ip-options", LogOption::IpOptions),
    ("tcp-sequence", LogOption::TcpSequence),
    ("macdecode", LogOption::MacDecode),
];

/// The size of the largest IP packet.
const LARGEST_SIZE: i64 = u16::MAX as i64;

/// The highest burst that iptables accepts. The kernel also counts tokens in 32 bits, so that burst times period must
/// fit (`xt_limit.c`).
const LARGEST_BURST: i64 = 10_000;

pub(super) fn read(
    root: CheckedTable<'_>,
    classes: &mut Definitions<PolicyLogClass>,
    sink: &mut Sink,
) {
    read_definitions(root, "log", classes, sink, |name, value, sink| {
        let key = format!("log.{}", name.value);
        let table = value.table(&key, sink)?;
        table.check(KEYS, sink);
        let class = PolicyLogClass {
            target: table.word("target", TARGETS, sink),
            prefix: read_prefix(table, sink),
            level: table.word("level", LEVELS, sink),
            rate: table
                .get("rate")
                .and_then(|value| read_log_rate(value, sink)),
            burst: read_number(table, "burst", 1, LARGEST_BURST, sink),
            group: read_number(table, "group", 0, i64::from(u16::MAX), sink),
            options: read_options(table, sink),
            size: read_number(table, "size", 1, LARGEST_SIZE, sink),
            threshold: read_number(table, "threshold", 1, i64::from(u16::MAX), sink),
        };
        check(&class, sink);
        Some(class)
    });
}

/// The burst of a log class that sets none.
pub const DEFAULT_LOG_BURST: u32 = 20;

/// Reads `rate`: a rate, or `false`.
fn read_log_rate(value: FileValue<'_>, sink: &mut Sink) -> Option<Located<Option<Rate>>> {
    match value.as_boolean() {
        Some(false) => Some(Located::new(None, value.span)),
        Some(true) => {
            sink.report(
                Diagnostic::error(Code::BadValue, value.span, "`rate` cannot be true")
                    .help("write how many lines there may be, such as `rate = \"10/minute\"`, or `rate = false` for a line for every packet"),
            );
            None
        }
        None => {
            let rate = read_rate("rate", value, sink)?;
            Some(rate.map(Some))
        }
    }
}

fn read_options(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Vec<Located<LogOption>>> {
    let list = table.list("options", sink)?.into_iter();
    Some(
        list.filter_map(|value| value.word("options", OPTIONS, sink))
            .collect(),
    )
}

fn check(class: &PolicyLogClass, sink: &mut Sink) {
    match (&class.rate, &class.burst) {
        (
            Some(Located {
                value: Some(rate),
                span,
            }),
            burst,
        ) => {
            let burst = burst.clone();
            let burst = burst.unwrap_or(Located::new(DEFAULT_LOG_BURST, *span));
            check_burst(&Located::new(*rate, *span), &burst, sink);
        }
        (Some(Located { value: None, span }), Some(burst)) => sink.report(
            Diagnostic::error(
                Code::Conflict,
                burst.span,
                "`burst` has no meaning with `rate = false`",
            )
            .also(*span, "every packet is logged")
            .help("leave `burst` out, or write a rate such as `rate = \"10/minute\"`"),
        ),
        _ => {}
    }
    let target = class
        .target
        .as_ref()
        .map_or(LogDestination::Log, |t| t.value);
    if let Some(prefix) = &class.prefix {
        let (length, longest) = (prefix.value.len(), target.longest_prefix());
        if length > longest {
            let name = match target {
                LogDestination::Log => "LOG",
                LogDestination::Nflog => "NFLOG",
            };
            let message = format!("the prefix has {length} characters, {name} keeps {longest}");
            sink.report(
                Diagnostic::error(Code::LogPrefixTooLong, prefix.span, message)
                    .with_note("the kernel cuts the rest without a word")
                    .help("shorten it"),
            );
        }
    }
    let conflict = |span, key: &str, other: &str| {
        Diagnostic::error(
            Code::Conflict,
            span,
            format!("`{key}` is for `target = \"{other}\"`"),
        )
        .help("leave the key out, or change the target")
    };
    match target {
        LogDestination::Log => {
            if let Some(group) = &class.group
                && group.value != 0
            {
                sink.report(conflict(group.span, "group", "NFLOG"));
            }
            for (key, number) in [("size", &class.size), ("threshold", &class.threshold)] {
                if let Some(number) = number {
                    sink.report(conflict(number.span, key, "NFLOG"));
                }
            }
        }
        LogDestination::Nflog => {
            if let Some(level) = &class.level {
                sink.report(conflict(level.span, "level", "LOG"));
            }
            if let Some(option) = class.options.iter().flatten().next() {
                sink.report(conflict(option.span, "options", "LOG"));
            }
        }
    }
}

fn read_prefix(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<String>> {
    let text = table.text("prefix", sink)?;
    if let Some(bad) = text
        .value
        .chars()
        .find(|c| !c.is_ascii() || c.is_ascii_control())
    {
        let message = format!("`prefix` has the character U+{:04X}", u32::from(bad));
        sink.report(
            Diagnostic::error(Code::BadText, text.span, message)
                .with_note("a log prefix is of printable ASCII characters"),
        );
        return None;
    }
    harmless_text("prefix", &text, sink).then(|| text.map(str::to_owned))
}

//! `[log.*]`

use super::harmless_text;
use super::names::read_definitions;
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Rate, RateError};
use crate::policy::Definitions;
use crate::policy::reader::{Keys, Table, Value};
use crate::source::Located;

/// Who writes the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The kernel's log.
    Log,
    /// A netlink group, read by ulogd and others.
    Nflog,
}

impl LogTarget {
    /// How many bytes of a prefix the target keeps; more are cut without a word
    /// (`xt_LOG.h`, `xt_NFLOG.h`: the final zero is not counted).
    pub const fn longest_prefix(self) -> usize {
        match self {
            Self::Log => 29,
            Self::Nflog => 63,
        }
    }
}

/// `[log.NAME]`: what was written; what was not is `None`.
#[derive(Clone, Debug, Default)]
pub struct LogClass {
    /// `target`
    pub target: Option<Located<LogTarget>>,
    /// `prefix`
    pub prefix: Option<Located<String>>,
    /// `level`: 0 (emergency) to 7 (debug)
    pub level: Option<Located<u8>>,
    /// `rate`
    pub rate: Option<Located<Rate>>,
    /// `burst`
    pub burst: Option<Located<u32>>,
    /// `group`, of NFLOG
    pub group: Option<Located<u16>>,
}

const KEYS: Keys = Keys {
    of: "a log class",
    known: &[
        "target", "prefix", "level", "rate", "burst", "group", "override",
    ],
    later: &[],
};

/// syslog(3), and the other names that iptables has for the levels.
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

/// The kernel counts tokens in 32 bits: the burst times the period must fit (`xt_limit.c`). 10,000 is the
/// highest that iptables takes.
const LARGEST_BURST: i64 = 10_000;

pub(super) fn read(root: Table<'_>, classes: &mut Definitions<LogClass>, sink: &mut Sink) {
    read_definitions(root, "log", classes, sink, |name, value, sink| {
        let key = format!("log.{}", name.value);
        let table = value.table(&key, sink)?;
        table.check(KEYS, sink);
        let targets = [("LOG", LogTarget::Log), ("NFLOG", LogTarget::Nflog)];
        let class = LogClass {
            target: table.word("target", &targets, sink),
            prefix: read_prefix(table, sink),
            level: table.word("level", LEVELS, sink),
            rate: table.get("rate").and_then(|value| read_rate(value, sink)),
            burst: read_number(table, "burst", 1, LARGEST_BURST, sink),
            group: read_number(table, "group", 0, i64::from(u16::MAX), sink),
        };
        check(&class, sink);
        Some(class)
    });
}

fn check(class: &LogClass, sink: &mut Sink) {
    let target = class.target.as_ref().map_or(LogTarget::Log, |t| t.value);
    if let Some(prefix) = &class.prefix {
        let (length, longest) = (prefix.value.len(), target.longest_prefix());
        if length > longest {
            let name = match target {
                LogTarget::Log => "LOG",
                LogTarget::Nflog => "NFLOG",
            };
            let message = format!("the prefix has {length} characters, {name} keeps {longest}");
            sink.report(
                Diagnostic::error(Code::LogPrefixTooLong, prefix.span, message)
                    .help("shorten it: the kernel cuts the rest without a word"),
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
        LogTarget::Log => {
            if let Some(group) = &class.group
                && group.value != 0
            {
                sink.report(conflict(group.span, "group", "NFLOG"));
            }
        }
        LogTarget::Nflog => {
            if let Some(level) = &class.level {
                sink.report(conflict(level.span, "level", "LOG"));
            }
        }
    }
}

fn read_prefix(table: Table<'_>, sink: &mut Sink) -> Option<Located<String>> {
    let text = table.text("prefix", sink)?;
    if let Some(bad) = text
        .value
        .chars()
        .find(|c| !c.is_ascii() || c.is_ascii_control())
    {
        let message = format!("`prefix` has the character U+{:04X}", u32::from(bad));
        sink.report(
            Diagnostic::error(Code::BadText, text.span, message)
                .help("a log prefix is of printable ASCII characters"),
        );
        return None;
    }
    harmless_text("prefix", &text, sink).then(|| text.map(str::to_owned))
}

fn read_rate(value: Value<'_>, sink: &mut Sink) -> Option<Located<Rate>> {
    let text = match (value.as_text(), value.as_integer()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => {
            value.wrong_type("rate", "a text such as \"10/minute\"", sink);
            return None;
        }
    };
    let at = |message: String| Diagnostic::error(Code::BadRate, value.span, message);
    let shown = text.escape_debug();
    match Rate::parse(&text) {
        Ok(rate) => return Some(Located::new(rate, value.span)),
        Err(RateError::NoUnit) => sink.report(
            at(format!("`{shown}` is no rate: in what time?"))
                .label(format!("did you mean `{shown}/minute`?")),
        ),
        Err(RateError::NotARate) => sink.report(
            at(format!("`{shown}` is no rate"))
                .help("write a number, `/`, and `second`, `minute`, `hour` or `day`"),
        ),
        Err(RateError::OutOfRange) => sink.report(
            at(format!("the kernel cannot count `{shown}`"))
                .help("a rate is at least 1 a day and at most 10000 a second"),
        ),
    }
    None
}

fn read_number<T: TryFrom<i64>>(
    table: Table<'_>,
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

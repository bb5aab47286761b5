//! `[[mangle]]`: changes to packets, and packets to drop by their marks.

use std::net::IpAddr;

use super::foreign_set::IPSET;
use super::matches::{MAC, MARK, TCP_FLAGS, mark_of};
use super::rules::{
    COMMENT, DESTINATION, ENABLED, FROM, LOG, MATCH, PolicyRule, RULE_NAME, SCOPE, SOURCE, STATE,
    TO, finish_packets, read_entries,
};
use super::services::ITEMS;
use super::times::{EXPIRES, SCHEDULE};
use super::users::{GROUP, USER};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{AddressRange, MarkMatch};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// The change that an entry makes to its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MangleChange {
    /// Lowers the maximum segment size of TCP connections to this many bytes, where it is larger; `None` means to the
    /// path's MTU.
    ClampMss(Option<u16>),
    /// Sets the packet's mark, in the bits of the mask.
    SetMark(MarkMatch),
    /// Copies the packet's mark to the connection, in these bits.
    SaveMark(u32),
    /// Copies the connection's mark to the packet, in these bits.
    RestoreMark(u32),
    /// Sets the differentiated services code point: six bits (RFC 2474).
    Dscp(u8),
    /// Changes the time to live (IPv4) or the hop limit (IPv6).
    HopLimit(HopLimitChange),
    /// Sets the class of a queueing discipline: `major:minor`.
    Classify(u16, u16),
    /// Hands the packet to a socket of this host, with its addresses unchanged (transparent proxy).
    Proxy(Proxy),
    /// Computes the checksum, where the packet leaves it to the network card.
    Checksum,
    /// Drops the packet.
    Drop,
}

/// A change of the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopLimitChange {
    /// Set it to this value.
    Set(u8),
    /// Increase it by this number.
    Increase(u8),
    /// Decrease it by this number.
    Decrease(u8),
}

/// The socket of a transparent proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// The port of the socket.
    pub port: u16,
    /// The address of the socket; `None` means any address of this host.
    pub address: Option<IpAddr>,
    /// The mark by which the packets are routed to this host.
    pub mark: Option<MarkMatch>,
}

/// One entry as written.
#[derive(Clone, Debug)]
pub struct PolicyMangle {
    /// The place of the whole table.
    pub span: Span,
    /// The packets of the entry, with the keys of a rule.
    pub packets: PolicyRule,
    /// The change; `None` if it could not be read.
    pub change: Option<Located<MangleChange>>,
}

pub(super) const KEYS: TableKeys = TableKeys {
    of: "a mangle entry",
    known: &[
        Key::new(
            "type",
            Shape::Word(&TYPES),
            "What is changed; `drop`: the packets are dropped, by their marks for example.",
        )
            .example("'clamp-mss'")
            .required(),
        Key::new(
            "set",
            Shape::OneOf(&[Shape::Number(0, u32::MAX as i64), Shape::Text(32)]),
            "What it becomes: bytes of a segment, `VALUE/MASK` of a mark (also the one of a `tproxy`), a class of DSCP, \
             hops, a class of `tc`.",
        )
        .example("'0x10/0xff'"),
        Key::new(
            "save",
            ALL_OR_MASK,
            "Of `mark`: keep the packet's mark with its connection, all of it or these bits.",
        )
        .example("true"),
        Key::new(
            "restore",
            ALL_OR_MASK,
            "Of `mark`: take the connection's mark, all of it or these bits.",
        )
        .example("'0xff'"),
        Key::new(
            "increase",
            Shape::Number(1, 255),
            "Of `ttl`: so many hops more.",
        )
        .example("1"),
        Key::new(
            "decrease",
            Shape::Number(1, 255),
            "Of `ttl`: so many hops less.",
        )
        .example("1"),
        Key::new(
            "to-port",
            Shape::Number(1, 65535),
            "Of `tproxy`: the port of the proxy on this host.",
        )
        .example("3129"),
        Key::new(
            "to-address",
            Shape::Text(64),
            "Of `tproxy`: the address on which the proxy listens; left out, any.",
        )
        .example("'127.0.0.1'"),
        RULE_NAME,
        FROM,
        TO.default("'any'"),
        SOURCE,
        DESTINATION,
        ITEMS,
        IPSET,
        SCOPE,
        STATE,
        MARK,
        MAC,
        TCP_FLAGS,
        MATCH,
        SCHEDULE,
        EXPIRES,
        USER,
        GROUP,
        LOG,
        ENABLED,
        COMMENT,
    ],
};

const ALL_OR_MASK: Shape = Shape::OneOf(&[
    Shape::Boolean,
    Shape::Number(1, u32::MAX as i64),
    Shape::Text(10),
]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    ClampMss,
    Mark,
    Dscp,
    Ttl,
    Classify,
    Tproxy,
    Checksum,
    Drop,
}

const TYPES: &[(&str, Type)] = &[
    ("clamp-mss", Type::ClampMss),
    ("mark", Type::Mark),
    ("dscp", Type::Dscp),
    ("ttl", Type::Ttl),
    ("classify", Type::Classify),
    ("tproxy", Type::Tproxy),
    ("checksum", Type::Checksum),
    ("drop", Type::Drop),
];

/// Returns the keys that a type has for its change.
const fn own_keys(kind: Type) -> &'static [&'static str] {
    match kind {
        Type::ClampMss | Type::Dscp | Type::Classify => &["set"],
        Type::Mark => &["set", "save", "restore"],
        Type::Ttl => &["set", "increase", "decrease"],
        Type::Tproxy => &["to-port", "to-address", "set"],
        Type::Checksum | Type::Drop => &[],
    }
}

pub(super) fn read(root: CheckedTable<'_>, entries: &mut Vec<PolicyMangle>, sink: &mut Sink) {
    read_entries(root, "mangle", sink, |table, sink| {
        entries.push(read_entry(table, sink));
    });
}

fn read_entry(table: CheckedTable<'_>, sink: &mut Sink) -> PolicyMangle {
    let errors = sink.errors();
    let all_known = table.check(KEYS, sink);
    let change = read_change(table, all_known, sink);
    let packets = finish_packets(table, errors, sink);
    PolicyMangle {
        span: table.span,
        packets,
        change,
    }
}

fn read_change(
    table: CheckedTable<'_>,
    all_known: bool,
    sink: &mut Sink,
) -> Option<Located<MangleChange>> {
    let Some(kind) = table.get("type") else {
        if all_known {
            let words: Vec<_> = TYPES.iter().map(|(word, _)| format!("`{word}`")).collect();
            let words = words.join(", ");
            sink.report(
                Diagnostic::error(Code::MissingKey, table.span, "a mangle entry needs `type`")
                    .help(format!("it is one of {words}")),
            );
        }
        return None;
    };
    let kind = kind.word("type", TYPES, sink)?;
    if !keys_fit(table, kind.value, sink) {
        return None;
    }
    let change = match kind.value {
        Type::ClampMss => MangleChange::ClampMss(match table.get("set") {
            None => None,
            Some(value) => Some(number("set", value, SMALLEST_MSS, LARGEST_MSS, sink)?),
        }),
        Type::Mark => read_mark(table, kind.span, sink)?,
        Type::Dscp => MangleChange::Dscp(read_dscp(
            needed(table, kind.span, &["set"], sink)?.1,
            sink,
        )?),
        Type::Ttl => MangleChange::HopLimit(read_hop_limit(table, kind.span, sink)?),
        Type::Classify => {
            let (_, value) = needed(table, kind.span, &["set"], sink)?;
            let (major, minor) = read_class(value, sink)?;
            MangleChange::Classify(major, minor)
        }
        Type::Tproxy => MangleChange::Proxy(read_proxy(table, kind.span, sink)?),
        Type::Checksum => MangleChange::Checksum,
        Type::Drop => MangleChange::Drop,
    };
    Some(Located::new(change, kind.span))
}

/// Returns `true` if the table has no keys of another type.
fn keys_fit(table: CheckedTable<'_>, kind: Type, sink: &mut Sink) -> bool {
    let word = |kind: Type| {
        TYPES
            .iter()
            .find(|(_, one)| *one == kind)
            .map_or("", |one| one.0)
    };
    let own = [
        "set",
        "save",
        "restore",
        "increase",
        "decrease",
        "to-port",
        "to-address",
    ];
    let others = own
        .iter()
        .filter(|key| table.get(key).is_some() && !own_keys(kind).contains(key));
    let mut fit = true;
    for key in others {
        fit = false;
        let of: Vec<_> = TYPES
            .iter()
            .filter(|(_, other)| own_keys(*other).contains(key))
            .map(|(word, _)| format!("`{word}`"))
            .collect();
        let message = format!("`{key}` does not apply to `type = \"{}\"`", word(kind));
        sink.report(
            Diagnostic::error(Code::Conflict, table.key_span(key), message)
                .with_note(format!("it is for {}", of.join(", "))),
        );
    }
    fit
}

/// Returns the one of some keys that the table has; none or several are an error.
fn needed<'t>(
    table: CheckedTable<'t>,
    at: Span,
    keys: &[&'static str],
    sink: &mut Sink,
) -> Option<(&'static str, FileValue<'t>)> {
    let mut there = keys.iter().filter_map(|key| Some((*key, table.get(key)?)));
    let Some(first) = there.next() else {
        let list: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        let message = format!(
            "the entry does not say what becomes of it: {}",
            list.join(" or ")
        );
        sink.report(Diagnostic::error(Code::MissingKey, at, message));
        return None;
    };
    if let Some((key, value)) = there.next() {
        let message = format!("`{}` and `{key}` in one entry", first.0);
        sink.report(
            Diagnostic::error(Code::Conflict, value.span, message)
                .with_note("an entry does one thing")
                .help("make two of it, in the order that you mean"),
        );
        return None;
    }
    Some(first)
}

fn read_mark(table: CheckedTable<'_>, at: Span, sink: &mut Sink) -> Option<MangleChange> {
    let (key, value) = needed(table, at, &["set", "save", "restore"], sink)?;
    if key == "set" {
        return Some(MangleChange::SetMark(mark_of(key, value, sink)?.value));
    }
    let mask = match value.as_boolean() {
        Some(true) => u32::MAX,
        Some(false) => {
            let message = format!("`{key} = false` says nothing");
            sink.report(
                Diagnostic::error(Code::BadValue, value.span, message)
                    .help("leave the key out; `enabled = false` takes the entry out"),
            );
            return None;
        }
        None => read_mask(key, value, sink)?,
    };
    Some(match key {
        "save" => MangleChange::SaveMark(mask),
        _ => MangleChange::RestoreMark(mask),
    })
}

/// Reads the bits to save or restore: at least one.
fn read_mask(key: &str, value: FileValue<'_>, sink: &mut Sink) -> Option<u32> {
    let mask = mark_of(key, value, sink)?.value;
    if mask.mask == u32::MAX && mask.value != 0 {
        return Some(mask.value);
    }
    let message = format!("`{key}` is `true` for all bits, or those that are meant");
    sink.report(
        Diagnostic::error(Code::BadMark, value.span, message)
            .help(format!("write `{key} = \"0xff\"`")),
    );
    None
}

/// Returns the number of a class that RFC 2474, RFC 2597, RFC 3246 or RFC 8622 names.
fn dscp_class(name: &str) -> Option<u8> {
    let digit = |text: &str, from: u8, to: u8| {
        let digit = text.parse::<u8>().ok()?;
        (from..=to).contains(&digit).then_some(digit)
    };
    match name {
        "be" => Some(0),
        "le" => Some(1),
        "ef" => Some(46),
        _ => match name.split_at_checked(2)? {
            ("cs", class) if class.len() == 1 => Some(8 * digit(class, 0, 7)?),
            ("af", rest) if rest.len() == 2 => {
                let (class, drop) = rest.split_at_checked(1)?;
                Some(8 * digit(class, 1, 4)? + 2 * digit(drop, 1, 3)?)
            }
            _ => None,
        },
    }
}

fn read_dscp(value: FileValue<'_>, sink: &mut Sink) -> Option<u8> {
    let Some(name) = value.as_text() else {
        return number("set", value, 0, 63, sink);
    };
    let class = dscp_class(name);
    if class.is_none() {
        let classes = (0..8).map(|class| format!("cs{class}"));
        let assured = (1..5).flat_map(|class| (1..4).map(move |drop| format!("af{class}{drop}")));
        let names: Vec<_> = classes
            .chain(assured)
            .chain(["ef", "be", "le"].map(str::to_owned))
            .collect();
        let message = format!("no class of DSCP is called `{}`", name.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadValue, value.span, message)
                .suggest(did_you_mean(name, names.iter().map(String::as_str)))
                .with_note("the classes are cs0 to cs7, af11 to af43, ef, be and le; or a number from 0 to 63"),
        );
    }
    class
}

fn read_hop_limit(table: CheckedTable<'_>, at: Span, sink: &mut Sink) -> Option<HopLimitChange> {
    let (key, value) = needed(table, at, &["set", "increase", "decrease"], sink)?;
    let hops = number(key, value, 1, 255, sink)?;
    Some(match key {
        "set" => HopLimitChange::Set(hops),
        "increase" => HopLimitChange::Increase(hops),
        _ => HopLimitChange::Decrease(hops),
    })
}

/// Reads a class as `tc` writes it: two hexadecimal numbers.
fn read_class(value: FileValue<'_>, sink: &mut Sink) -> Option<(u16, u16)> {
    let text = value.text("set", sink)?;
    let part = |part: &str| {
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        u16::from_str_radix(part, 16).ok().filter(|_| plain)
    };
    let class = text.value.split_once(':');
    let class = class.and_then(|(major, minor)| Some((part(major)?, part(minor)?)));
    if class.is_none() {
        let message = format!("`{}` is not a valid class", text.value.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadValue, text.span, message)
                .help("write `MAJOR:MINOR` in hex, as `tc class show` does: `1:10`"),
        );
    }
    class
}

fn read_proxy(table: CheckedTable<'_>, at: Span, sink: &mut Sink) -> Option<Proxy> {
    let port = needed(table, at, &["to-port"], sink)
        .map(|(key, value)| number(key, value, 1, 65535, sink));
    let address = match table.get("to-address") {
        None => None,
        Some(value) => Some(read_host(value, sink)?),
    };
    let mark = match table.get("set") {
        None => None,
        Some(value) => Some(mark_of("set", value, sink)?.value),
    };
    Some(Proxy {
        port: port??,
        address,
        mark,
    })
}

/// Reads the address of a single host.
fn read_host(value: FileValue<'_>, sink: &mut Sink) -> Option<IpAddr> {
    let text = value.text("to-address", sink)?;
    let range = AddressRange::parse(text.value).ok();
    let host = range.filter(|range| range.first == range.last && !text.value.contains('/'));
    if host.is_none() {
        let message = format!(
            "`{}` is not a valid host address",
            text.value.escape_debug()
        );
        sink.report(
            Diagnostic::error(Code::BadAddress, text.span, message)
                .help("write the address on which the proxy listens, or leave the key out"),
        );
    }
    host.map(|host| crate::net::address_of(host.family, host.first))
}

/// The smallest accepted segment size leaves room for tunnels in tunnels below the 536 bytes that RFC 9293 assumes
/// where no size is given. The largest fills a packet.
const SMALLEST_MSS: i64 = 256;
const LARGEST_MSS: i64 = 65495;

fn number<T: TryFrom<i64>>(
    key: &str,
    value: FileValue<'_>,
    least: i64,
    most: i64,
    sink: &mut Sink,
) -> Option<T> {
    let Some(number) = value.as_integer() else {
        // The type of `set` depends on the type of the entry.
        if value.as_text().is_some() && key == "set" {
            sink.report(
                Diagnostic::error(Code::BadValue, value.span, "`set` is a number here").help(
                    format!("it is a number from {least} to {most}, without quotes"),
                ),
            );
        } else {
            value.wrong_type(key, "a whole number", sink);
        }
        return None;
    };
    let read = T::try_from(number).ok();
    let read = read.filter(|_| (least..=most).contains(&number));
    if read.is_none() {
        let message = format!("`{key}` cannot be {number}");
        sink.report(
            Diagnostic::error(Code::BadValue, value.span, message)
                .help(format!("it is a number from {least} to {most}")),
        );
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of RFC 8436, section 3 and RFC 8622.
    #[test]
    fn classes_have_their_numbers() {
        let known = [
            ("cs0", 0),
            ("be", 0),
            ("le", 1),
            ("cs1", 8),
            ("af11", 10),
            ("af13", 14),
            ("af21", 18),
            ("af43", 38),
            ("cs5", 40),
            ("ef", 46),
            ("cs7", 56),
        ];
        for (name, number) in known {
            assert_eq!(dscp_class(name), Some(number), "{name}");
        }
        for name in [
            "", "cs", "cs8", "cs10", "af", "af1", "af14", "af51", "af111", "EF", "af+1", "ü",
        ] {
            assert_eq!(dscp_class(name), None, "{name}");
        }
    }
}

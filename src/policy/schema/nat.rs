//! `[[nat]]`: translations of addresses and ports.

use super::addresses::{PREFIX, read_literal, v4_form, v6_form};
use super::names::NAME;
use super::rules::{
    DESTINATION, FROM, LONGEST_NAME, PolicyRule, SCOPE, SOURCE, TO, fits_comment, read_packets,
};
use super::services::{ITEMS, port_form};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressRange, Family, PortError, PortRange};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// One entry as written.
#[derive(Clone, Debug)]
pub struct PolicyNat {
    /// The place of the whole table.
    pub span: Span,
    /// The packets of the entry as they arrive, with the keys of a rule. Only `to` means where they go after the
    /// translation.
    pub packets: PolicyRule,
    /// The translation; `None` if it could not be read.
    pub translation: Option<PolicyTranslation>,
}

/// A translation of a connection's addresses.
#[derive(Clone, Debug)]
pub enum PolicyTranslation {
    /// Replaces the source by the address of the device by which the connection leaves.
    Masquerade,
    /// Replaces the source by this address or range; at most one for each family.
    Snat(Vec<Located<NatEnd>>),
    /// Replaces the destination by one of these backends, in turn.
    Dnat {
        /// The backends; at least one.
        backends: Vec<Located<NatEnd>>,
        /// `true` if the translated connections are also accepted.
        accept: bool,
        /// `hairpin`: `true` if hosts in the network of a backend can reach it by the original address too.
        hairpin: Option<Located<bool>>,
    },
    /// Replaces the destination by this host, at another port.
    Redirect {
        /// The port.
        port: Located<u16>,
        /// `true` if the translated connections are also accepted.
        accept: bool,
    },
    /// `to` of a netmap: replaces the prefix of the destination; at most one for each family.
    NetmapDestination(Vec<Located<AddressRange>>),
    /// `to-source` of a netmap: replaces the prefix of the source; at most one for each family.
    NetmapSource(Vec<Located<AddressRange>>),
}

/// A new source or destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatEnd {
    /// The address, or a range to choose from.
    pub addresses: AddressRange,
    /// The ports; `None` if they do not change.
    pub ports: Option<PortRange>,
}

/// An address or a range, with optional ports.
const END: Shape = Shape::Form(concat!(
    v4_form!(),
    "(-",
    v4_form!(),
    ")?(:",
    port_form!(),
    "(-",
    port_form!(),
    ")?)?|",
    v6_form!(),
    "(-",
    v6_form!(),
    ")?|\\[",
    v6_form!(),
    "(-",
    v6_form!(),
    ")?\\](:",
    port_form!(),
    "(-",
    port_form!(),
    ")?)?"
));

pub(super) const KEYS: TableKeys = TableKeys {
    of: "a nat entry",
    known: &[
        Key::new(
            "type",
            Shape::Word(&KINDS),
            "`masquerade`, `snat`: another source for what leaves; `dnat`, `redirect`: another destination for what \
             comes; `netmap`: a whole prefix becomes another one.",
        )
        .example("'masquerade'")
        .required(),
        Key::new(
            "name",
            Shape::Text(LONGEST_NAME as u32),
            "What it is for, in a few words; unique. It becomes the comment of the rules.",
        )
        .example("'the web server'"),
        Key {
            about: "Where the packets come from: zones and interfaces by name, `any`, or `host` for this machine. Of what \
                    leaves it means the networks that are known of them.",
            ..FROM
        },
        Key {
            about: "Where the packets end: zones and interfaces by name. Of a netmap the prefix that takes the place of \
                    `destination`.",
            shape: Shape::List(&Shape::OneOf(&[NAME, PREFIX])),
            ..TO
        }
        .example("'wan'"),
        SOURCE,
        Key {
            about: "Destination addresses as the packets come. Left out, `dnat` and `redirect` mean those of this host.",
            ..DESTINATION
        },
        ITEMS,
        Key {
            about: "The families. Left out, `masquerade` is IPv4, and others have those of their addresses.",
            default: None,
            ..SCOPE
        }
        .example("'ipv4'"),
        Key::new(
            "to-source",
            Shape::List(&Shape::OneOf(&[END, PREFIX])),
            "The new source of a `snat`: an address or a range, of each family, with ports behind `:` where they change. Of \
             a netmap the prefix that takes the place of the source's.",
        )
        .example("'203.0.113.5'"),
        Key::new(
            "to-destination",
            Shape::List(&END),
            "The new destination of a `dnat`: addresses or ranges, with ports behind `:` where they change; several of a \
             family take turns.",
        )
        .example("['10.8.0.5:8080', '[2001:db8::5]:8080']"),
        Key::new(
            "to-port",
            Shape::OneOf(&[Shape::Number(1, 65535), Shape::Form(port_form!())]),
            "The port of this host to which a `redirect` leads.",
        )
        .example("3128"),
        Key::new(
            "accept",
            Shape::Boolean,
            "Of `dnat` and `redirect`: what is translated is accepted where no rule decides.",
        )
        .default("true"),
        Key::new(
            "hairpin",
            Shape::Boolean,
            "Of `dnat`: hosts beside a backend reach it by the same address.",
        )
        .default("false"),
        Key::new(
            "enabled",
            Shape::Boolean,
            "`false` takes the entry out; it is still checked.",
        )
        .default("true"),
        Key::new(
            "comment",
            Shape::Text(u32::MAX),
            "For people; it never reaches iptables.",
        )
        .example("'asked for in NET-112'"),
    ],
};

/// The value of `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Masquerade,
    Snat,
    Dnat,
    Redirect,
    Netmap,
}

const KINDS: &[(&str, Kind)] = &[
    ("masquerade", Kind::Masquerade),
    ("snat", Kind::Snat),
    ("dnat", Kind::Dnat),
    ("redirect", Kind::Redirect),
    ("netmap", Kind::Netmap),
];

/// Keys that only some types have, with these types.
const OF_SOME: &[(&str, &[Kind])] = &[
    ("to-source", &[Kind::Snat, Kind::Netmap]),
    ("to-destination", &[Kind::Dnat]),
    ("to-port", &[Kind::Redirect]),
    ("accept", &[Kind::Dnat, Kind::Redirect]),
    ("hairpin", &[Kind::Dnat]),
];

const LIST: &str = "a list of tables, each written `[[nat]]`";

pub(super) fn read(root: CheckedTable<'_>, entries: &mut Vec<PolicyNat>, sink: &mut Sink) {
    let Some(value) = root.get("nat") else {
        return;
    };
    let Some(list) = value.as_array() else {
        return value.wrong_type("nat", LIST, sink);
    };
    for value in list {
        let Some(table) = value.as_table() else {
            return value.wrong_type("nat", LIST, sink);
        };
        entries.push(read_entry(table, sink));
    }
}

fn read_entry(table: CheckedTable<'_>, sink: &mut Sink) -> PolicyNat {
    let errors = sink.errors();
    let all_known = table.check(KEYS, sink);
    let kind = table.word("type", KINDS, sink);
    if table.get("type").is_none() && all_known {
        let words: Vec<_> = KINDS.iter().map(|(word, _)| format!("`{word}`")).collect();
        sink.report(
            Diagnostic::error(Code::MissingKey, table.span, "a nat entry needs `type`")
                .help(format!("it is one of {}", words.join(", "))),
        );
    }
    let kind = kind.map(|kind| kind.value);
    let mut packets = read_packets(table, sink);
    if let Some(name) = &packets.name {
        fits_comment(name, sink);
    }
    let translation = kind.and_then(|kind| {
        only_own_keys(table, kind, sink);
        // If there is an unknown key, a missing one was probably misspelt: it is not reported as well.
        all_known
            .then(|| read_translation(table, kind, &mut packets, sink))
            .flatten()
    });
    packets.complete = sink.errors() == errors;
    PolicyNat {
        span: table.span,
        packets,
        translation,
    }
}

fn only_own_keys(table: CheckedTable<'_>, kind: Kind, sink: &mut Sink) {
    for (key, kinds) in OF_SOME {
        if table.get(key).is_some() && !kinds.contains(&kind) {
            let word = |wanted: Kind| {
                let mut words = KINDS.iter();
                let found = words.find(|(_, kind)| *kind == wanted);
                found.map_or("", |(word, _)| *word)
            };
            let all: Vec<_> = kinds.iter().map(|kind| word(*kind)).collect();
            let message = format!("`{key}` in an entry of type `{}`", word(kind));
            sink.report(
                Diagnostic::error(Code::Conflict, table.key_span(key), message)
                    .with_note(format!("`{key}` is for `{}`", all.join("` and `"))),
            );
        }
    }
}

fn read_translation(
    table: CheckedTable<'_>,
    kind: Kind,
    packets: &mut PolicyRule,
    sink: &mut Sink,
) -> Option<PolicyTranslation> {
    let accept = |sink: &mut Sink| {
        let accept = table.boolean("accept", sink);
        accept.is_none_or(|accept| accept.value)
    };
    match kind {
        Kind::Masquerade => Some(PolicyTranslation::Masquerade),
        Kind::Snat => {
            let ends = needed(table, "to-source", "such as \"203.0.113.5\"", sink)?;
            let ends = read_ends("to-source", ends, sink)?;
            one_a_family("to-source", &ends, |end| end.addresses, sink)
                .then_some(PolicyTranslation::Snat(ends))
        }
        Kind::Dnat => {
            let ends = needed(table, "to-destination", "such as \"10.8.0.5:8080\"", sink);
            Some(PolicyTranslation::Dnat {
                accept: accept(sink),
                hairpin: table.boolean("hairpin", sink),
                backends: read_ends("to-destination", ends?, sink)?,
            })
        }
        Kind::Redirect => {
            let value = needed(table, "to-port", "such as 3128", sink);
            let accept = accept(sink);
            let port = read_port(value?, sink)?;
            Some(PolicyTranslation::Redirect { port, accept })
        }
        Kind::Netmap if table.get("to-source").is_some() => {
            let texts = owned(table.texts("to-source", sink)?);
            Some(PolicyTranslation::NetmapSource(read_networks(
                "to-source",
                &texts,
                sink,
            )?))
        }
        // `to` of a netmap is a network and not a zone or interface.
        Kind::Netmap => {
            let help = "the network that takes the place of `destination`, such as \"10.1.0.0/24\"";
            needed(table, "to", help, sink)?;
            let texts = packets.to.take()?;
            Some(PolicyTranslation::NetmapDestination(read_networks(
                "to", &texts, sink,
            )?))
        }
    }
}

fn owned(texts: Vec<Located<&str>>) -> Vec<Located<String>> {
    let texts = texts.into_iter();
    texts.map(|text| text.map(str::to_owned)).collect()
}

fn needed<'t>(
    table: CheckedTable<'t>,
    key: &'static str,
    help: &str,
    sink: &mut Sink,
) -> Option<FileValue<'t>> {
    let value = table.get(key);
    if value.is_none() {
        let kind = table
            .get("type")
            .and_then(FileValue::as_text)
            .unwrap_or("nat");
        let message = format!("`{kind}` needs `{key}`");
        sink.report(Diagnostic::error(Code::MissingKey, table.span, message).help(help));
    }
    value
}

fn read_networks(
    key: &str,
    texts: &[Located<String>],
    sink: &mut Sink,
) -> Option<Vec<Located<AddressRange>>> {
    let networks: Vec<_> = texts
        .iter()
        .filter_map(|text| {
            let shown = Located::new(text.value.as_str(), text.span);
            if !AddressRange::looks_like_one(shown.value) || shown.value.contains('-') {
                let message = format!("`{}` is not a valid network", shown.value.escape_debug());
                sink.report(
                    Diagnostic::error(Code::BadAddress, shown.span, message).with_note(format!(
                        "`{key}` of a netmap is a prefix, such as \"10.1.0.0/24\""
                    )),
                );
                return None;
            }
            read_literal(&shown, sink)
        })
        .collect();
    let all = !texts.is_empty() && networks.len() == texts.len();
    (all && one_a_family(key, &networks, |network| *network, sink)).then_some(networks)
}

fn read_ends(key: &str, value: FileValue<'_>, sink: &mut Sink) -> Option<Vec<Located<NatEnd>>> {
    let list = value.list(key, sink)?;
    let ends: Vec<_> = list
        .iter()
        .filter_map(|value| read_end(&value.text(key, sink)?, sink))
        .collect();
    (ends.len() == list.len()).then_some(ends)
}

/// Reads `10.8.0.5` or `10.8.0.5-10.8.0.9`, with optional ports behind `:`. An IPv6 address with ports is written in
/// brackets.
fn read_end(text: &Located<&str>, sink: &mut Sink) -> Option<Located<NatEnd>> {
    let shown = text.value;
    let (addresses, ports) = match shown.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((addresses, "")) => (addresses, None),
            Some((addresses, rest)) => (addresses, Some(rest.strip_prefix(':').unwrap_or(rest))),
            None => (shown, None),
        },
        None => match shown.split_once(':') {
            Some((addresses, ports)) if !ports.contains(':') => (addresses, Some(ports)),
            _ => (shown, None),
        },
    };
    let is_host_name =
        addresses.starts_with(|c: char| c.is_ascii_alphabetic()) && addresses.contains('.');
    if is_host_name && !addresses.contains(':') {
        let message = format!(
            "`{}` looks like a host name: fwc does not resolve names",
            addresses.escape_debug()
        );
        sink.report(
            Diagnostic::error(Code::HostName, text.span, message).help("write its address"),
        );
        return None;
    }
    if !AddressRange::looks_like_one(addresses) || addresses.contains('/') {
        let message = format!(
            "`{}` is not a valid address to translate to",
            shown.escape_debug()
        );
        sink.report(Diagnostic::error(Code::BadAddress, text.span, message).help(
            "write a host or a range, with ports behind it where they change: \"10.8.0.5:8080\", \"[2001:db8::5]:8080\"",
        ));
        return None;
    }
    let addresses = read_literal(&Located::new(addresses, text.span), sink)?.value;
    let ports = match ports {
        Some(ports) => Some(read_ports(ports, text.span, sink)?),
        None => None,
    };
    Some(Located::new(NatEnd { addresses, ports }, text.span))
}

fn read_ports(ports: &str, span: Span, sink: &mut Sink) -> Option<PortRange> {
    match PortRange::parse(ports) {
        Ok(ports) => return Some(ports),
        Err(PortError::NotAPort(port)) => {
            let message = format!("`{}` is not a valid port", port.escape_debug());
            sink.report(
                Diagnostic::error(Code::BadPort, span, message).with_note(
                    "a port is a number from 1 to 65535, a range is written `8000-8100`",
                ),
            );
        }
        Err(PortError::Reversed(right)) => {
            let message = format!("the ports `{ports}` end before they begin");
            sink.report(
                Diagnostic::error(Code::ReversedRange, span, message)
                    .label(format!("did you mean `{right}`?")),
            );
        }
    }
    None
}

/// Reads `to-port`: a number, or a number in a string.
fn read_port(value: FileValue<'_>, sink: &mut Sink) -> Option<Located<u16>> {
    let text = match (value.as_integer(), value.as_text()) {
        (Some(number), _) => number.to_string(),
        (_, Some(text)) => text.to_owned(),
        _ => {
            value.wrong_type("to-port", "a port", sink);
            return None;
        }
    };
    let ports = read_ports(&text, value.span, sink)?;
    if ports.first != ports.last {
        let message = format!("`{ports}` is a range, and `to-port` is one port");
        sink.report(
            Diagnostic::error(Code::BadPort, value.span, message)
                .with_note("a redirect leads to one port of this host"),
        );
        return None;
    }
    Some(Located::new(ports.first, value.span))
}

/// Checks that there is at most one value for each family: with two it would be unclear which to use.
fn one_a_family<T>(
    key: &str,
    all: &[Located<T>],
    of: impl Fn(&T) -> AddressRange,
    sink: &mut Sink,
) -> bool {
    for family in Family::ALL {
        let mut same = all.iter().filter(|one| of(&one.value).family == family);
        if let (Some(first), Some(second)) = (same.next(), same.next()) {
            let message = format!("`{key}` has two {family} addresses");
            sink.report(
                Diagnostic::error(Code::Conflict, second.span, message)
                    .also(first.span, "the first of them")
                    .help("name one of each family; several that follow each other are a range"),
            );
            return false;
        }
    }
    true
}

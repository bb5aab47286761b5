//! `[[nat]]`: translations of addresses and ports.

use super::addresses::{PREFIX, read_literal, v4_form, v6_form};
use super::foreign_set::IPSET;
use super::matches::{MAC, MARK, TCP_FLAGS};
use super::names::{NAME, is_name, name_form};
use super::rules::{
    DESTINATION, FROM, LOG, LONGEST_NAME, MATCH, PLACES_OR_NOT, PolicyRule, SCOPE, SOURCE, TO,
    Unnegated, fits_comment, read_packets, refuse_negated,
};
use super::services::{ITEMS, port_form};
use super::users::{GROUP, USER};
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
    /// `random`: `true` if the kernel takes a random port where it has a choice.
    pub random: Option<Located<bool>>,
    /// `persistent`: `true` if a client gets the same address of a range for all its connections.
    pub persistent: Option<Located<bool>>,
}

/// A translation of a connection's addresses.
#[derive(Clone, Debug)]
pub enum PolicyTranslation {
    /// Replaces the source by the address of the device by which the connection leaves.
    Masquerade {
        /// `ports`: the ports to choose the new source port from; `None` for any.
        ports: Option<Located<PortRange>>,
    },
    /// Replaces the source by this address or range; at most one for each family.
    Snat {
        /// The new sources. None of them has ports if `ports` is there.
        ends: Vec<Located<PolicyNatEnd>>,
        /// `ports`: the ports to choose the new source port from.
        ports: Option<Located<PortRange>>,
    },
    /// Replaces the destination by one of these backends, in turn.
    Dnat {
        /// The backends; at least one.
        backends: Vec<Located<PolicyNatEnd>>,
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
    /// `no-snat`: no later entry replaces the source.
    NoSnat,
    /// `no-dnat`: no later entry replaces the destination.
    NoDnat,
}

impl PolicyTranslation {
    /// Returns the names of the groups in the new addresses.
    pub fn groups(&self) -> Vec<&str> {
        let (Self::Snat { ends, .. } | Self::Dnat { backends: ends, .. }) = self else {
            return Vec::new();
        };
        let names = ends.iter().filter_map(|end| match &end.value.address {
            PolicyNatAddress::Group(name) => Some(name.as_str()),
            PolicyNatAddress::Literal(_) => None,
        });
        names.collect()
    }
}

/// A new source or destination as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyNatEnd {
    /// The address.
    pub address: PolicyNatAddress,
    /// The ports; `None` if they do not change.
    pub ports: Option<PortRange>,
}

/// The address of a new source or destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyNatAddress {
    /// A host, or a range to choose from.
    Literal(AddressRange),
    /// The name of a group with at most one address of each family.
    Group(String),
}

/// A new source or destination of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatEnd {
    /// The address, or a range to choose from.
    pub addresses: AddressRange,
    /// The ports; `None` if they do not change.
    pub ports: Option<PortRange>,
}

/// The name of a group, with optional ports.
const NAMED_END: Shape = Shape::Form(concat!(
    name_form!(),
    "(:",
    port_form!(),
    "(-",
    port_form!(),
    ")?)?"
));

/// A port or a range of ports, as a string.
const PORTS: Shape = Shape::Form(concat!(port_form!(), "(-", port_form!(), ")?"));

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
             comes; `netmap`: a whole prefix becomes another one; `no-snat`, `no-dnat`: no later entry translates it.",
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
                    leaves it means the networks that are known of them. `\"!wan\"`, of what arrives: every other device.",
            ..FROM
        },
        Key {
            about: "Where the packets end: zones and interfaces by name. Of a netmap the prefix that takes the place of \
                    `destination`. `\"!wan\"`: every other device.",
            shape: Shape::OneOf(&[Shape::List(&Shape::OneOf(&[NAME, PREFIX])), PLACES_OR_NOT]),
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
            Shape::List(&Shape::OneOf(&[END, PREFIX, NAMED_END])),
            "The new source of a `snat`: an address or a range, of each family, with ports behind `:` where they change, or a \
             group of `[addresses]` with one address of each family. Of a netmap the prefix that takes the place of the source's.",
        )
        .example("'203.0.113.5'"),
        Key::new(
            "to-destination",
            Shape::List(&Shape::OneOf(&[END, NAMED_END])),
            "The new destination of a `dnat`: addresses or ranges, with ports behind `:` where they change; several of a \
             family take turns. A group of `[addresses]` with one address of each family, too.",
        )
        .example("['10.8.0.5:8080', '[2001:db8::5]:8080']"),
        Key::new(
            "to-port",
            Shape::OneOf(&[Shape::Number(1, 65535), Shape::Form(port_form!())]),
            "The port of this host to which a `redirect` leads.",
        )
        .example("3128"),
        Key::new(
            "ports",
            Shape::OneOf(&[Shape::Number(1, 65535), PORTS]),
            "Of `masquerade` and `snat`: the source ports to choose from. It needs a `service` with ports.",
        )
        .example("'1024-65535'"),
        Key::new(
            "random",
            Shape::Boolean,
            "Whether the kernel takes a random port where it has a choice; not of a `netmap`.",
        )
        .default("false"),
        Key::new(
            "persistent",
            Shape::Boolean,
            "Of `snat` and `dnat` to a range: a client gets the same address for all its connections.",
        )
        .default("false"),
        IPSET,
        MARK,
        MAC,
        TCP_FLAGS,
        USER,
        GROUP,
        MATCH,
        LOG,
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
    NoSnat,
    NoDnat,
}

const KINDS: &[(&str, Kind)] = &[
    ("masquerade", Kind::Masquerade),
    ("snat", Kind::Snat),
    ("dnat", Kind::Dnat),
    ("redirect", Kind::Redirect),
    ("netmap", Kind::Netmap),
    ("no-snat", Kind::NoSnat),
    ("no-dnat", Kind::NoDnat),
];

/// Keys that only some types have, with these types.
const OF_SOME: &[(&str, &[Kind])] = &[
    ("to-source", &[Kind::Snat, Kind::Netmap]),
    ("to-destination", &[Kind::Dnat]),
    ("to-port", &[Kind::Redirect]),
    ("accept", &[Kind::Dnat, Kind::Redirect]),
    ("hairpin", &[Kind::Dnat]),
    ("ports", &[Kind::Masquerade, Kind::Snat]),
    (
        "random",
        &[Kind::Masquerade, Kind::Snat, Kind::Dnat, Kind::Redirect],
    ),
    ("persistent", &[Kind::Snat, Kind::Dnat]),
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
    let keys = kind.map_or_else(Vec::new, |kind| unnegated(table, kind));
    refuse_negated(&packets, "a nat entry", &keys, sink);
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
    let random = table.boolean("random", sink);
    let persistent = table.boolean("persistent", sink);
    packets.complete = sink.errors() == errors;
    PolicyNat {
        span: table.span,
        packets,
        translation,
        random,
        persistent,
    }
}

/// Returns the keys that cannot be negated in an entry of a type.
fn unnegated(table: CheckedTable<'_>, kind: Kind) -> Vec<Unnegated> {
    let from = (
        "from",
        Code::NatSourceUnknown,
        "where the source changes, the device that a packet came in by is not known",
    );
    let to = |why| ("to", Code::BadValue, why);
    match kind {
        Kind::Masquerade | Kind::Snat | Kind::NoSnat => vec![from],
        Kind::Netmap if table.get("to-source").is_some() => vec![from],
        Kind::Netmap => vec![to("it is the prefix that takes the place of `destination`")],
        Kind::Redirect => vec![to("a redirect ends at this host")],
        Kind::NoDnat => vec![to(
            "destinations are translated before routing, when the outgoing device is not known",
        )],
        Kind::Dnat => Vec::new(),
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
            let all: Vec<_> = kinds
                .iter()
                .map(|kind| format!("`{}`", word(*kind)))
                .collect();
            let all = match all.split_last() {
                Some((last, others)) if !others.is_empty() => {
                    format!("{} and {last}", others.join(", "))
                }
                _ => all.join(""),
            };
            let message = format!("`{key}` in an entry of type `{}`", word(kind));
            sink.report(
                Diagnostic::error(Code::Conflict, table.key_span(key), message)
                    .with_note(format!("`{key}` is for {all}")),
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
        Kind::Masquerade => Some(PolicyTranslation::Masquerade {
            ports: read_port_range(table, sink)?,
        }),
        Kind::Snat => {
            let ends = needed(table, "to-source", "such as \"203.0.113.5\"", sink)?;
            let ends = read_ends("to-source", ends, sink)?;
            let ports = read_port_range(table, sink)?;
            let literal = |end: &PolicyNatEnd| match end.address {
                PolicyNatAddress::Literal(range) => Some(range),
                PolicyNatAddress::Group(_) => None,
            };
            let good = one_a_family("to-source", &ends, literal, sink)
                && ports_once(&ends, ports.as_ref(), sink);
            good.then_some(PolicyTranslation::Snat { ends, ports })
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
        Kind::NoSnat => Some(PolicyTranslation::NoSnat),
        Kind::NoDnat => Some(PolicyTranslation::NoDnat),
    }
}

/// Reads `ports`: `Some(None)` if it is absent, `None` if it is wrong.
fn read_port_range(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Option<Located<PortRange>>> {
    let Some(value) = table.get("ports") else {
        return Some(None);
    };
    let text = port_text("ports", value, "ports such as \"1024-65535\"", sink)?;
    let ports = read_ports(&text, value.span, sink)?;
    Some(Some(Located::new(ports, value.span)))
}

/// Reports ports that are written twice. Returns `true` if there are none.
fn ports_once(
    ends: &[Located<PolicyNatEnd>],
    ports: Option<&Located<PortRange>>,
    sink: &mut Sink,
) -> bool {
    let (Some(ports), Some(end)) = (ports, ends.iter().find(|end| end.value.ports.is_some()))
    else {
        return true;
    };
    sink.report(
        Diagnostic::error(
            Code::Conflict,
            ports.span,
            "`ports` and a port in `to-source`",
        )
        .also(end.span, "has ports, too")
        .help("write the ports once"),
    );
    false
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
    (all && one_a_family(key, &networks, |network| Some(*network), sink)).then_some(networks)
}

fn read_ends(
    key: &str,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Vec<Located<PolicyNatEnd>>> {
    let list = value.list(key, sink)?;
    let ends: Vec<_> = list
        .iter()
        .filter_map(|value| read_end(&value.text(key, sink)?, sink))
        .collect();
    (ends.len() == list.len()).then_some(ends)
}

/// Reads `10.8.0.5`, `10.8.0.5-10.8.0.9` or the name of a group, with optional ports behind `:`. An IPv6 address with ports
/// is written in brackets.
fn read_end(text: &Located<&str>, sink: &mut Sink) -> Option<Located<PolicyNatEnd>> {
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
    if is_name(addresses) {
        let ports = match ports {
            Some(ports) => Some(read_ports(ports, text.span, sink)?),
            None => None,
        };
        let address = PolicyNatAddress::Group(addresses.to_owned());
        return Some(Located::new(PolicyNatEnd { address, ports }, text.span));
    }
    if !AddressRange::looks_like_one(addresses) || addresses.contains('/') {
        let message = format!(
            "`{}` is not a valid address to translate to",
            shown.escape_debug()
        );
        sink.report(Diagnostic::error(Code::BadAddress, text.span, message).help(
            "write a host, a range or a group, with ports behind it where they change: \"10.8.0.5:8080\", \"[2001:db8::5]:8080\"",
        ));
        return None;
    }
    let addresses = read_literal(&Located::new(addresses, text.span), sink)?.value;
    let ports = match ports {
        Some(ports) => Some(read_ports(ports, text.span, sink)?),
        None => None,
    };
    let address = PolicyNatAddress::Literal(addresses);
    Some(Located::new(PolicyNatEnd { address, ports }, text.span))
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
    let text = port_text("to-port", value, "a port", sink)?;
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

/// Returns a number, or the text of a string.
fn port_text(key: &str, value: FileValue<'_>, wanted: &str, sink: &mut Sink) -> Option<String> {
    match (value.as_integer(), value.as_text()) {
        (Some(number), _) => Some(number.to_string()),
        (_, Some(text)) => Some(text.to_owned()),
        _ => {
            value.wrong_type(key, wanted, sink);
            None
        }
    }
}

/// Checks that there is at most one value for each family: with two it would be unclear which to use.
fn one_a_family<T>(
    key: &str,
    all: &[Located<T>],
    of: impl Fn(&T) -> Option<AddressRange>,
    sink: &mut Sink,
) -> bool {
    for family in Family::ALL {
        let is_here = |one: &&Located<T>| of(&one.value).is_some_and(|it| it.family == family);
        let mut same = all.iter().filter(is_here);
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

//! `[services]`, and `service` of rules.

use super::helpers::{HELPER, Helper, read_helper};
use super::names::{NAME, OVERRIDE, is_name, name_form, read_definitions};
use super::selection::{Selection, read_selection};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{AddressRange, Family, IcmpType, PortError, PortRange, Protocol};
use crate::policy::habits;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::policy::{Definitions, catalog_names};
use crate::source::Located;

/// One element of a rule's `service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceItem {
    /// A service by name.
    Name(String),
    /// Destination ports with their protocol.
    Ports(Protocol, PortRange),
}

/// The parts of a service besides the services that it includes; the service is their union.
#[derive(Clone, Debug, Default)]
pub struct ServiceParts {
    /// Destination ports.
    pub ports: Vec<Located<(Protocol, PortRange)>>,
    /// Source ports. A packet must match these and the destination ports of the same protocol.
    pub source_ports: Vec<Located<(Protocol, PortRange)>>,
    /// All packets of a protocol.
    pub protocol: Option<Located<Protocol>>,
    /// ICMP types, for IPv4.
    pub icmp: Vec<Located<IcmpType>>,
    /// ICMPv6 types, for IPv6.
    pub icmpv6: Vec<Located<IcmpType>>,
    /// The families of which it has every ICMP type: `icmp = "any"`, `icmpv6 = "any"`.
    pub every_icmp: Vec<Located<Family>>,
}

/// A service: at least one part, or one other service.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Its own parts.
    pub parts: ServiceParts,
    /// The names of the services that it includes.
    pub include: Vec<Located<String>>,
    /// The conntrack helper for connections that rules accept to its ports.
    pub helper: Option<Located<Helper>>,
}

pub(super) const SECTION: Key = Key::new(
    "services",
    Shape::Definitions {
        reserved: &[],
        each: &Shape::OneOf(&[Shape::List(&PORTS_LITERAL), Shape::Table(&SERVICE)]),
    },
    "Names for services beside the built-in ones, or instead of them: ports, or a table.",
)
.example("{ web = ['80/tcp', '443/tcp', '443/udp'], tunnel = { protocol = 'gre' } }");

/// `80/tcp` and `8000-8100/udp`, as a regular expression.
macro_rules! ports_form {
    () => {
        concat!(
            port_form!(),
            "(-",
            port_form!(),
            ")?/(tcp|udp|sctp|dccp|udplite)"
        )
    };
}
macro_rules! port_form {
    () => {
        "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
pub(super) use port_form;

const PORTS_LITERAL: Shape = Shape::Form(ports_form!());

/// Services, without a negation.
pub(super) const SERVICES: Shape = Shape::List(&Shape::OneOf(&[
    Shape::Known("catalog", || catalog_names().collect()),
    Shape::Form(concat!(name_form!(), "|", ports_form!())),
]));

/// The key `service` of entries, whose tables have no chain for what a negation leaves out.
pub(super) const PLAIN_ITEMS: Key = Key::new(
    "service",
    SERVICES,
    "What the packets are for: services by name (`fwc services` lists the built-in ones), or ports. Left out: everything.",
)
.example("['ssh', '8443/tcp']");

const NOT_SERVICES: TableKeys = TableKeys {
    of: "a negation",
    known: &[
        Key::new("not", SERVICES, "Every packet but those of these services.")
            .example("['ssh', 'dns']")
            .required(),
    ],
};

/// The key `service` of rules and tests.
pub(super) const ITEMS: Key = Key::new(
    "service",
    Shape::OneOf(&[
        SERVICES,
        Shape::Form(concat!("!\\s*(", name_form!(), "|", ports_form!(), ")")),
        Shape::Table(&NOT_SERVICES),
    ]),
    "What the packets are for: services by name (`fwc services` lists the built-in ones), or ports. Left out: everything. \
     `\"!ssh\"`: every other packet, of any protocol.",
)
.example("['ssh', '8443/tcp']");

const PORTS: Key = Key::new(
    "ports",
    Shape::List(&PORTS_LITERAL),
    "Destination ports: `PORT/PROTOCOL` or `FIRST-LAST/PROTOCOL`.",
)
.example("['27000-27100/udp']");

const SOURCE_PORTS: Key = Key::new(
    "source-ports",
    Shape::List(&PORTS_LITERAL),
    "The sender's ports, together with `ports` or alone.",
)
.example("['1024-65535/udp']");

const PROTOCOL: Key = Key::new(
    "protocol",
    Shape::OneOf(&[
        Shape::Known("protocol", protocols),
        Shape::Form("[1-9][0-9]{0,2}"),
        Shape::Number(2, 57),
        Shape::Number(59, 255),
    ]),
    "A whole IP protocol, by name or number. For ICMP say which types, by `icmp` and `icmpv6`.",
)
.example("'gre'");

const ICMP: Key = Key::new(
    "icmp",
    Shape::List(&Shape::OneOf(&[
        Shape::Known("icmp", || IcmpType::names(Family::V4).collect()),
        ICMP_NUMBER,
        Shape::Number(0, 255),
        Shape::Literally(ANY),
    ])),
    "ICMP types, in IPv4: names of iptables, numbers, `type/code`, or `any` for all of ICMP.",
)
.example("['echo-request']");

const ICMPV6: Key = Key::new(
    "icmpv6",
    Shape::List(&Shape::OneOf(&[
        Shape::Known("icmpv6", || IcmpType::names(Family::V6).collect()),
        ICMP_NUMBER,
        Shape::Number(0, 255),
        Shape::Literally(ANY),
    ])),
    "ICMPv6 types, in IPv6: names of iptables, numbers, `type/code`, or `any` for all of ICMPv6.",
)
.example("['echo-request']");

/// Every type of a family, in `icmp` and `icmpv6`.
const ANY: &str = "any";

const ICMP_NUMBER: Shape = Shape::Form("[0-9]{1,3}(/[0-9]{1,3})?");

const INCLUDE: Key = Key::new(
    "include",
    Shape::List(&Shape::OneOf(&[
        Shape::Known("catalog", || catalog_names().collect()),
        NAME,
    ])),
    "Other services by name, which are part of it.",
)
.example("['web', 'ping']");

fn protocols() -> Vec<&'static str> {
    let icmp = |name: &&str| {
        Protocol::parse(name).is_some_and(|it| [Protocol::ICMP, Protocol::ICMPV6].contains(&it))
    };
    Protocol::names().filter(|name| !icmp(name)).collect()
}

const SERVICE: TableKeys = TableKeys {
    of: "a service",
    known: &[
        PORTS,
        SOURCE_PORTS,
        PROTOCOL,
        ICMP,
        ICMPV6,
        INCLUDE,
        HELPER,
        OVERRIDE,
    ],
};

/// The keys of a service of the catalog, which has a description for people.
const CATALOG: TableKeys = TableKeys {
    of: "a service of the catalog",
    known: &[
        Key::new("about", Shape::Text(80), "What it is, in a few words."),
        PORTS,
        SOURCE_PORTS,
        PROTOCOL,
        ICMP,
        ICMPV6,
        INCLUDE,
    ],
};

pub(super) fn read(root: CheckedTable<'_>, services: &mut Definitions<Service>, sink: &mut Sink) {
    read_definitions(root, "services", services, sink, |name, value, sink| {
        read_service(name, value, SERVICE, sink)
    });
}

/// Reads one service of the built-in catalog.
pub(in crate::policy) fn read_catalog_service(
    name: &Located<String>,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Service> {
    read_service(name, value, CATALOG, sink)
}

/// Reads one service: a string, a list of strings, or a table.
fn read_service(
    name: &Located<String>,
    value: FileValue<'_>,
    keys: TableKeys,
    sink: &mut Sink,
) -> Option<Service> {
    let Some(table) = value.as_table() else {
        let parts = ServiceParts {
            ports: read_ports(&name.value, value, sink)?,
            ..ServiceParts::default()
        };
        return Some(Service {
            parts,
            include: Vec::new(),
            helper: None,
        });
    };
    let errors = sink.errors();
    let keys_are_known = table.check(keys, sink);
    let ports = |key: &str, sink: &mut Sink| {
        let read = table.get(key).map(|value| read_ports(key, value, sink));
        read.flatten().unwrap_or_default()
    };
    let (icmp, every_icmp) = read_icmp(table, "icmp", Family::V4, sink);
    let (icmpv6, every_icmpv6) = read_icmp(table, "icmpv6", Family::V6, sink);
    let parts = ServiceParts {
        ports: ports("ports", sink),
        source_ports: ports("source-ports", sink),
        protocol: table
            .get("protocol")
            .and_then(|value| read_protocol(value, sink)),
        icmp,
        icmpv6,
        every_icmp: every_icmp.into_iter().chain(every_icmpv6).collect(),
    };
    let include = table.texts("include", sink).unwrap_or_default();
    let include: Vec<_> = include
        .into_iter()
        .filter(|text| check_included_name(text, sink))
        .map(|text| text.map(str::to_owned))
        .collect();
    let helper = read_helper(table, sink);
    let parts_are_named = |key: &&str| !["about", "override", "helper"].contains(key);
    let mut keys_of_parts = keys.names().filter(parts_are_named);
    let is_empty = !keys_of_parts.any(|key| table.get(key).is_some());
    if is_empty && keys_are_known {
        let message = format!("the service `{}` has no parts", name.value);
        sink.report(
            Diagnostic::error(Code::MissingKey, name.span, message)
                .help("give it `ports`, `protocol`, `icmp`, `icmpv6` or `include`"),
        );
    }
    check_parts(&parts, sink);
    if let Some(helper) = helper.as_ref().filter(|_| !is_empty) {
        check_helper(&parts, helper, sink);
    }
    // A service without its refused part would match less than its name says, so there is none at all.
    (sink.errors() == errors).then_some(Service {
        parts,
        include,
        helper,
    })
}

/// Checks that `ports` and `source-ports` name the same protocols, since a packet must match both, and that `protocol`
/// does not repeat the protocol of ports.
fn check_parts(parts: &ServiceParts, sink: &mut Sink) {
    if !parts.ports.is_empty() {
        for source in &parts.source_ports {
            let (protocol, _) = source.value;
            if !parts.ports.iter().any(|port| port.value.0 == protocol) {
                let message =
                    format!("`source-ports` has {protocol}, but `ports` has none of {protocol}");
                sink.report(
                    Diagnostic::error(Code::Conflict, source.span, message)
                        .with_note("source and destination ports go together protocol by protocol")
                        .help("make two services of it"),
                );
                return;
            }
        }
        for port in &parts.ports {
            let (protocol, _) = port.value;
            let sources = &parts.source_ports;
            if !sources.is_empty() && !sources.iter().any(|source| source.value.0 == protocol) {
                let message =
                    format!("`ports` has {protocol}, but `source-ports` has none of {protocol}");
                sink.report(
                    Diagnostic::error(Code::Conflict, port.span, message)
                        .with_note("source and destination ports go together protocol by protocol")
                        .help("make two services of it"),
                );
            }
        }
    }
    if let Some(protocol) = &parts.protocol {
        let ports = parts.ports.iter().chain(&parts.source_ports);
        if let Some(port) = ports
            .into_iter()
            .find(|port| port.value.0 == protocol.value)
        {
            let message = format!(
                "`protocol` already includes every port of {}",
                protocol.value
            );
            sink.report(
                Diagnostic::error(Code::Conflict, protocol.span, message)
                    .also(port.span, "a port of the same protocol")
                    .help("leave one of the two out"),
            );
        }
    }
}

/// Checks that the helper reads the protocols of the service's own ports. Those of included services do not count.
fn check_helper(parts: &ServiceParts, helper: &Located<Helper>, sink: &mut Sink) {
    let unread = parts.ports.iter().find(|port| {
        let (protocol, _) = port.value;
        !helper.value.reads(protocol)
    });
    let span = match unread {
        Some(port) => port.span,
        None if parts.ports.is_empty() => helper.span,
        None => return,
    };
    let message = format!(
        "the helper `{}` reads ports of {} only",
        helper.value.name(),
        helper.value.protocols()
    );
    sink.report(
        Diagnostic::error(Code::HelperProtocol, span, message)
            .help("give `ports` at which its protocol is spoken, as in `21/tcp`; other ports into a service of their own"),
    );
}

fn check_included_name(text: &Located<&str>, sink: &mut Sink) -> bool {
    if is_name(text.value) {
        return true;
    }
    let message = format!(
        "`include` takes names of services, not `{}`",
        text.value.escape_debug()
    );
    sink.report(
        Diagnostic::error(Code::BadService, text.span, message).help("ports go into `ports`"),
    );
    false
}

fn read_ports(
    key: &str,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Vec<Located<(Protocol, PortRange)>>> {
    let list = value.list(key, sink)?;
    let ports: Vec<_> = list
        .iter()
        .filter_map(|value| {
            let text = value.text(key, sink)?;
            if is_name(text.value) {
                let message = format!("`{}` is not a valid port", text.value);
                sink.report(
                    Diagnostic::error(Code::BadService, text.span, message).help(format!(
                        "other services go into `{{ include = [\"{}\"] }}`",
                        text.value
                    )),
                );
                return None;
            }
            Some(Located::new(
                read_port_literal(key, &text, sink)?,
                text.span,
            ))
        })
        .collect();
    (ports.len() == list.len()).then_some(ports)
}

fn read_protocol(value: FileValue<'_>, sink: &mut Sink) -> Option<Located<Protocol>> {
    let shown = match (value.as_text(), value.as_integer()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => {
            value.wrong_type("protocol", "a name or a number", sink);
            return None;
        }
    };
    let at = |code, message: String| Diagnostic::error(code, value.span, message);
    match Protocol::parse(&shown) {
        Some(Protocol::ICMP | Protocol::ICMPV6) => sink.report(
            at(
                Code::ProtocolIcmp,
                format!("`{shown}` is not said by `protocol`"),
            )
            .help("name the types: `icmp = [...]` for IPv4, `icmpv6 = [...]` for IPv6"),
        ),
        Some(protocol) => return Some(Located::new(protocol, value.span)),
        None if ["0", "all", "ip", "any"].contains(&shown.as_str()) => sink.report(
            at(
                Code::BadProtocol,
                format!("`{shown}` is not a valid protocol"),
            )
            .with_note("a rule without `service` has every protocol"),
        ),
        None => sink.report(
            at(
                Code::BadProtocol,
                format!("no protocol is called `{}`", shown.escape_debug()),
            )
            .suggest(did_you_mean(&shown, Protocol::names()))
            .help("write its name in lower case, or its number from 1 to 255"),
        ),
    }
    None
}

/// Reads `icmp` or `icmpv6`: the types, and the family if it has all of its types (`any`).
fn read_icmp(
    table: CheckedTable<'_>,
    key: &str,
    family: Family,
    sink: &mut Sink,
) -> (Vec<Located<IcmpType>>, Option<Located<Family>>) {
    let Some(mut list) = table.list(key, sink) else {
        return (Vec::new(), None);
    };
    let every = list.iter().find(|value| value.as_text() == Some(ANY));
    let every = every.map(|value| Located::new(family, value.span));
    list.retain(|value| value.as_text() != Some(ANY));
    if let (Some(every), Some(other)) = (&every, list.first()) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                every.span,
                "`any` already includes every type",
            )
            .also(other.span, "a type beside it")
            .help(format!("write `{key} = \"any\"` alone, or the types")),
        );
    }
    let types = list.into_iter().filter_map(|value| {
        let shown = match (value.as_text(), value.as_integer()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(number)) => number.to_string(),
            _ => {
                value.wrong_type(key, "a type's name or number", sink);
                return None;
            }
        };
        let read = IcmpType::parse(family, &shown);
        if read.is_none() {
            let message = format!("`{key}` has no type `{}`", shown.escape_debug());
            sink.report(
                Diagnostic::error(Code::BadIcmpType, value.span, message)
                    .suggest(did_you_mean(&shown, IcmpType::names(family)))
                    .help(
                        "write a name of iptables such as `echo-request`, a number, or `type/code`",
                    ),
            );
        }
        Some(Located::new(read?, value.span))
    });
    (types.collect(), every)
}

/// Reads the `service` of a rule.
pub(super) fn read_services(
    table: CheckedTable<'_>,
    sink: &mut Sink,
) -> Option<Selection<ServiceItem>> {
    read_selection(table, "service", sink, |one, sink| {
        let text = one.text("service", sink)?;
        let item = if is_name(text.value) {
            ServiceItem::Name(text.value.to_owned())
        } else {
            let (protocol, ports) = read_port_literal("service", &text, sink)?;
            ServiceItem::Ports(protocol, ports)
        };
        Some(Located::new(item, text.span))
    })
}

/// Suggests what a text in another notation probably means.
fn suggest(diagnostic: Diagnostic, key: &str, meant: &[String]) -> Diagnostic {
    let label = format!("did you mean `{}`?", meant.join("`, `"));
    diagnostic
        .label(label)
        .help(format!("write `{}`", habits::list(key, meant)))
}

/// Reads `8443/tcp` or `8000-8100/udp` in a key; reports an error for anything else.
fn read_port_literal(
    key: &str,
    text: &Located<&str>,
    sink: &mut Sink,
) -> Option<(Protocol, PortRange)> {
    let shown = text.value.escape_debug();
    let meant = habits::services_meant(text.value);
    let at = |code, message: String| Diagnostic::error(code, text.span, message);
    if AddressRange::parse(text.value).is_ok() {
        let message = format!("`{shown}` is an address, and services are wanted here");
        sink.report(at(Code::WrongKey, message).label("goes into `source` or `destination`"));
        return None;
    }
    let Some((ports, protocol)) = text.value.split_once('/') else {
        let diagnostic = at(Code::BadService, format!("`{shown}` has no protocol"));
        sink.report(match (PortRange::parse(text.value), &meant) {
            (Ok(ports), _) => diagnostic
                .label(format!("did you mean `{ports}/tcp`?"))
                .help(format!("write `{ports}/tcp` or `{ports}/udp`")),
            (Err(_), Some(meant)) => suggest(diagnostic, key, meant),
            (Err(_), None) => diagnostic.help("write a service's name, or ports as in `8443/tcp`"),
        });
        return None;
    };
    let known = Protocol::parse(protocol).filter(|protocol| protocol.has_ports());
    let Some(known) = known else {
        let names = || {
            Protocol::WITH_PORTS
                .iter()
                .filter_map(|protocol| protocol.name())
        };
        let list: Vec<_> = names().collect();
        let other = protocol.escape_debug();
        let message = match Protocol::parse(protocol).and_then(Protocol::name) {
            Some(_) => format!("`{other}` has no ports"),
            None => format!("no protocol is called `{other}`"),
        };
        let diagnostic = at(Code::BadService, message);
        let near = did_you_mean(&protocol.to_lowercase(), names());
        let near = near.map(|near| format!("{ports}/{near}"));
        sink.report(match meant {
            Some(meant) => suggest(diagnostic, key, &meant),
            None => diagnostic
                .suggest(near.as_deref())
                .with_note(format!("the protocols with ports are {}", list.join(", "))),
        });
        return None;
    };
    match PortRange::parse(ports) {
        Ok(ports) => return Some((known, ports)),
        Err(PortError::NotAPort(port)) => {
            let message = format!("`{}` is not a valid port", port.escape_debug());
            let diagnostic = at(Code::BadPort, message);
            sink.report(match meant {
                Some(meant) => suggest(diagnostic, key, &meant),
                None => diagnostic.with_note(
                    "a port is a number from 1 to 65535, a range is written `8000-8100/tcp`",
                ),
            });
        }
        Err(PortError::Reversed(right)) => sink.report(
            at(
                Code::ReversedRange,
                format!("the range `{shown}` ends before it begins"),
            )
            .label(format!("did you mean `{right}/{protocol}`?")),
        ),
    }
    None
}

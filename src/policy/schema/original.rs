//! `original` of rules: the first packet of the connection, before its destination was translated.

use super::addresses::{AddressExpression, AddressItem, EXPRESSION, read_expression};
use super::services::{PLAIN_ITEMS, ServiceItem, read_services};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// `original`: the destination of the connection's first packet as its sender wrote it.
#[derive(Clone, Debug)]
pub struct PolicyOriginal {
    /// The place of the whole value.
    pub span: Span,
    /// `destination`
    pub destination: Option<AddressExpression>,
    /// `service`
    pub service: Option<Vec<Located<ServiceItem>>>,
}

/// The key `original` of a rule.
pub(super) const ORIGINAL: Key = Key::new(
    "original",
    Shape::Table(&KEYS),
    "The destination and port to which the connection's first packet was sent, before DNAT, such as a port that Docker published.",
)
.example("{ destination = '203.0.113.5', service = '8080/tcp' }");

const KEYS: TableKeys = TableKeys {
    of: "`original`",
    known: &[
        Key::new(
            "destination",
            EXPRESSION,
            "The destination before DNAT: names of `[addresses]`, hosts, prefixes, ranges. `\"!office\"` is everything but the office.",
        )
        .example("'203.0.113.5'"),
        Key {
            about: "The ports before DNAT: services by name that have ports only, or ports.",
            ..PLAIN_ITEMS
        }
        .example("'8080/tcp'"),
    ],
};

pub(super) fn read_original(table: CheckedTable<'_>, sink: &mut Sink) -> Option<PolicyOriginal> {
    let table = table.get("original")?.table("original", sink)?;
    let all_known = table.check(KEYS, sink);
    let destination = table
        .get("destination")
        .and_then(|value| read_expression("destination", value, sink))
        .filter(|destination| !names_host(destination, sink));
    let service = read_services(table, sink).map(|services| {
        if services.negated {
            sink.report(
                Diagnostic::error(
                    Code::BadValue,
                    services.span,
                    "`service` of `original` cannot be negated",
                )
                .help("name the ports that you mean"),
            );
        }
        services.values
    });
    if all_known && table.get("destination").is_none() && table.get("service").is_none() {
        sink.report(
            Diagnostic::error(Code::MissingKey, table.span, "`original` asks nothing").help(
                "give it `destination`, `service` or both, such as `{ service = \"8080/tcp\" }`",
            ),
        );
    }
    Some(PolicyOriginal {
        span: table.span,
        destination,
        service,
    })
}

/// Reports `host` among the addresses, which iptables cannot ask of the original destination. Returns `true` if it is there.
fn names_host(destination: &AddressExpression, sink: &mut Sink) -> bool {
    let is_host = |item: &&Located<AddressItem>| matches!(&item.value, AddressItem::Name(name) if name == "host");
    let Some(host) = destination.items.iter().find(is_host) else {
        return false;
    };
    sink.report(
        Diagnostic::error(
            Code::BadValue,
            host.span,
            "`original` cannot ask for `host`: iptables compares the original destination with addresses only",
        )
        .help("write the addresses of this host that the senders use, such as `destination = \"203.0.113.5\"`"),
    );
    true
}

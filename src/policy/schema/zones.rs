//! `[zones]`: named sets of hosts.

use super::addresses::{ADDRESS, AddressItem, read_items};
use super::names::{NAME, OVERRIDE, RESERVED, read_definitions};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::Definitions;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

/// A named set of hosts.
#[derive(Clone, Debug)]
pub enum PolicyZone {
    /// The union of other zones and interfaces.
    Union(Vec<Located<String>>),
    /// The hosts behind some interfaces, in some networks, or both, with or without IPsec.
    Hosts {
        /// Interfaces by name; `None` means every device.
        interfaces: Option<Vec<Located<String>>>,
        /// Networks; `None` means every address.
        networks: Option<Vec<Located<AddressItem>>>,
        /// `true`: only what came out of IPsec or will go into it; `false`: only what did not and will not.
        ipsec: Option<Located<bool>>,
    },
}

pub(super) const SECTION: Key = Key::new(
    "zones",
    Shape::Definitions {
        reserved: RESERVED,
        each: &Shape::OneOf(&[Shape::List(&NAME), Shape::Table(&KEYS)]),
    },
    "Names for sets of hosts: a list of zones and interfaces, or a table.",
)
.example(
    "{ internal = ['lan', 'vpn'], dmz = { interfaces = 'lan', networks = '192.168.1.128/25' } }",
);

const KEYS: TableKeys = TableKeys {
    of: "a zone",
    known: &[
        Key::new(
            "interfaces",
            Shape::List(&NAME),
            "The interfaces that the hosts are behind; left out: any device.",
        )
        .example("['lan']"),
        Key::new(
            "networks",
            Shape::List(&ADDRESS),
            "The addresses of the hosts; left out: any address.",
        )
        .example("['192.168.1.128/25']"),
        Key::new(
            "ipsec",
            Shape::Boolean,
            "`true`: in `from` what came out of IPsec, in `to` what will go into it; `false`: what did not, and will not. Left out: either.",
        )
        .example("true"),
        OVERRIDE,
    ],
};

pub(super) fn read(root: CheckedTable<'_>, zones: &mut Definitions<PolicyZone>, sink: &mut Sink) {
    read_definitions(root, "zones", zones, sink, |name, value, sink| {
        let Some(table) = value.as_table() else {
            let list = value.list(&name.value, sink)?;
            return Some(PolicyZone::Union(names(&name.value, list, sink)?));
        };
        let keys_are_known = table.check(KEYS, sink);
        let interfaces = match table.list("interfaces", sink) {
            Some(list) => Some(names("interfaces", list, sink)?),
            None => None,
        };
        let networks = match table.get("networks") {
            Some(value) => Some(read_items("networks", value, sink)?),
            None => None,
        };
        let ipsec = table.boolean("ipsec", sink);
        let is_empty = |key: &&str| table.get(key).is_none();
        if ["interfaces", "networks", "ipsec"].iter().all(is_empty) {
            if keys_are_known {
                let message = format!(
                    "the zone `{}` has neither `interfaces` nor `networks` nor `ipsec`",
                    name.value
                );
                sink.report(
                    Diagnostic::error(Code::MissingKey, name.span, message)
                        .help("say where its hosts are"),
                );
            }
            return None;
        }
        let failed = table.get("interfaces").is_some() && interfaces.is_none()
            || table.get("ipsec").is_some() && ipsec.is_none();
        (!failed).then_some(PolicyZone::Hosts {
            interfaces,
            networks,
            ipsec,
        })
    });
}

fn names(
    key: &str,
    list: Vec<crate::policy::reader::FileValue<'_>>,
    sink: &mut Sink,
) -> Option<Vec<Located<String>>> {
    let names: Vec<_> = list
        .iter()
        .filter_map(|value| Some(value.text(key, sink)?.map(str::to_owned)))
        .collect();
    (names.len() == list.len()).then_some(names)
}

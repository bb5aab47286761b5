//! `[interfaces]`: names for devices.

use super::addresses::{PREFIX, read_literal};
use super::names::{OVERRIDE, RESERVED, read_definitions};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressRange, DeviceError, Family, InterfacePattern, LONGEST_DEVICE};
use crate::policy::Definitions;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// The address families of a rule or definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Both families.
    Dual,
    /// One family.
    Only(Family),
}

impl Scope {
    /// Returns `true` if it includes a family.
    pub fn has(self, family: Family) -> bool {
        match self {
            Self::Dual => true,
            Self::Only(only) => only == family,
        }
    }
}

pub(super) const SCOPES: &[(&str, Scope)] = &[
    ("dual", Scope::Dual),
    ("ipv4", Scope::Only(Family::V4)),
    ("ipv6", Scope::Only(Family::V6)),
];

/// A named group of one or more devices.
#[derive(Clone, Debug)]
pub struct PolicyInterface {
    /// The devices; at least one.
    pub devices: Vec<Located<InterfacePattern>>,
    /// The networks behind it. They are known to `antispoof` and to analyses; they never restrict a rule that names the
    /// interface.
    pub networks: Vec<Located<AddressRange>>,
    /// The families of rules that name it.
    pub scope: Scope,
    /// The place of `scope`, if it is written.
    pub scope_span: Option<Span>,
}

pub(super) const SECTION: Key = Key::new(
    "interfaces",
    Shape::Definitions {
        reserved: RESERVED,
        each: &Shape::OneOf(&[Shape::List(&DEVICE), Shape::Table(&KEYS)]),
    },
    "Names for network devices: the device alone, or a table.",
)
.example("{ wan = 'eth0', lan = { device = ['eth1', 'br-lan'], networks = '192.168.1.0/24' } }");

pub(super) const DEVICE: Shape =
    Shape::Form("[A-Za-z0-9._@][A-Za-z0-9._@-]{0,14}|[A-Za-z0-9._@][A-Za-z0-9._@-]{0,13}[+]");

const KEYS: TableKeys = TableKeys {
    of: "an interface",
    known: &[
        Key::new(
            "device",
            Shape::List(&DEVICE),
            "The devices by name; a trailing `+` stands for the rest of the name.",
        )
        .example("'eth0'")
        .required(),
        Key::new(
            "networks",
            Shape::List(&PREFIX),
            "The prefixes behind it, for `antispoof`. They never narrow a rule.",
        )
        .example("['192.168.1.0/24', 'fd12:3456::/64']"),
        Key::new(
            "scope",
            Shape::Word(&SCOPES),
            "The families that the device carries: rules that name it have no part in the other.",
        )
        .default("'dual'"),
        OVERRIDE,
    ],
};

pub(super) fn read(
    root: CheckedTable<'_>,
    interfaces: &mut Definitions<PolicyInterface>,
    sink: &mut Sink,
) {
    read_definitions(root, "interfaces", interfaces, sink, |name, value, sink| {
        let Some(table) = value.as_table() else {
            return Some(PolicyInterface {
                devices: read_devices(&name.value, value, sink)?,
                networks: Vec::new(),
                scope: Scope::Dual,
                scope_span: None,
            });
        };
        let keys_are_known = table.check(KEYS, sink);
        let networks = table.texts("networks", sink).unwrap_or_default();
        let networks = networks
            .iter()
            .filter_map(|text| read_network(text, sink))
            .collect();
        let scope = table.word("scope", SCOPES, sink);
        let Some(device) = table.get("device") else {
            if keys_are_known {
                let message = format!("the interface `{}` has no `device`", name.value);
                sink.report(
                    Diagnostic::error(Code::MissingKey, name.span, message)
                        .help("name its device, such as `device = \"eth0\"`"),
                );
            }
            return None;
        };
        Some(PolicyInterface {
            devices: read_devices("device", device, sink)?,
            networks,
            scope: scope.as_ref().map_or(Scope::Dual, |scope| scope.value),
            scope_span: scope.map(|scope| scope.span),
        })
    });
}

fn read_network(text: &Located<&str>, sink: &mut Sink) -> Option<Located<AddressRange>> {
    let is_range = text.value.contains('-');
    if AddressRange::looks_like_one(text.value) && !is_range {
        return read_literal(text, sink);
    }
    let message = format!("`{}` is not a valid network", text.value.escape_debug());
    sink.report(
        Diagnostic::error(Code::BadAddress, text.span, message).with_note(
            "the networks of an interface are prefixes, written out, such as \"192.168.1.0/24\"",
        ),
    );
    None
}

fn read_devices(
    key: &str,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Vec<Located<InterfacePattern>>> {
    let list = value.list(key, sink)?;
    let devices = list.into_iter().filter_map(|value| {
        let text = value.text(key, sink)?;
        match InterfacePattern::parse(text.value) {
            Ok(pattern) => Some(Located::new(pattern, text.span)),
            Err(error) => {
                sink.report(device_error(&text, error));
                None
            }
        }
    });
    Some(devices.collect())
}

fn device_error(text: &Located<&str>, error: DeviceError) -> Diagnostic {
    let shown = text.value.escape_debug();
    match error {
        DeviceError::Empty => Diagnostic::error(
            Code::BadDevice,
            text.span,
            format!("`{shown}` names no device"),
        )
        .help("every device is meant by `any`, without an interface"),
        DeviceError::TooLong => Diagnostic::error(
            Code::TooLong,
            text.span,
            format!(
                "the device name `{shown}` has {} characters, the kernel takes {LONGEST_DEVICE}",
                text.value.len()
            ),
        )
        .help("shorten it; a trailing `+` stands for the rest of the name"),
        DeviceError::BadCharacter => Diagnostic::error(
            Code::BadDevice,
            text.span,
            format!("`{shown}` is not a valid device name"),
        )
        .with_note("letters, digits, `_`, `.`, `-`, `@`, and one `+` at the end for every name that begins so"),
    }
}

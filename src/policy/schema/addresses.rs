//! `[addresses]`, and the addresses of rules

use std::net::{IpAddr, SocketAddr};

use super::names::{is_name, read_definitions};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressError, AddressRange};
use crate::policy::Definitions;
use crate::policy::reader::{Keys, Table, Value};
use crate::source::{Located, Span};

/// One element of a list of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressItem {
    /// Written out.
    Literal(AddressRange),
    /// The name of a group.
    Name(String),
}

/// A named group of addresses.
#[derive(Clone, Debug)]
pub struct AddressGroup {
    /// What is in it; at least one element.
    pub include: Vec<Located<AddressItem>>,
    /// What of that is not.
    pub exclude: Vec<Located<AddressItem>>,
}

/// `source` or `destination` of a rule.
#[derive(Clone, Debug)]
pub struct AddressExpression {
    /// The union of these; at least one element.
    pub items: Vec<Located<AddressItem>>,
    /// Everything but the union.
    pub negated: bool,
    /// The whole value.
    pub span: Span,
}

const GROUP: Keys = Keys {
    of: "an address group",
    known: &["include", "exclude", "override"],
    later: &["file", "set", "timeout"],
};

pub(super) fn read(root: Table<'_>, groups: &mut Definitions<AddressGroup>, sink: &mut Sink) {
    read_definitions(root, "addresses", groups, sink, |name, value, sink| {
        let Some(table) = value.as_table() else {
            return Some(AddressGroup {
                include: read_items(&name.value, value, sink)?,
                exclude: Vec::new(),
            });
        };
        let keys_are_known = table.check(GROUP, sink);
        let exclude = match table.get("exclude") {
            Some(value) => read_items("exclude", value, sink)?,
            None => Vec::new(),
        };
        let Some(include) = table.get("include") else {
            if keys_are_known {
                let message = format!("the address group `{}` has no `include`", name.value);
                sink.report(
                    Diagnostic::error(Code::MissingKey, name.span, message)
                        .help("name what is in it, such as `include = [\"10.0.0.0/8\"]`"),
                );
            }
            return None;
        };
        Some(AddressGroup {
            include: read_items("include", include, sink)?,
            exclude,
        })
    });
}

/// Reads `source` or `destination` of a rule.
pub(super) fn read_expression(
    key: &str,
    value: Value<'_>,
    sink: &mut Sink,
) -> Option<AddressExpression> {
    const NOT: Keys = Keys {
        of: "a negation",
        known: &["not"],
        later: &[],
    };
    let span = value.span;
    if let Some(table) = value.as_table() {
        let keys_are_known = table.check(NOT, sink);
        let Some(not) = table.get("not") else {
            if keys_are_known {
                value.wrong_type(key, "addresses, or `{ not = [...] }`", sink);
            }
            return None;
        };
        return Some(AddressExpression {
            items: read_items("not", not, sink)?,
            negated: true,
            span,
        });
    }
    if let Some(text) = value.as_text()
        && let Some(rest) = text.strip_prefix('!')
    {
        let item = read_item(&Located::new(rest.trim_start(), span), sink)?;
        return Some(AddressExpression {
            items: vec![item],
            negated: true,
            span,
        });
    }
    Some(AddressExpression {
        items: read_items(key, value, sink)?,
        negated: false,
        span,
    })
}

pub(super) fn read_items(
    key: &str,
    value: Value<'_>,
    sink: &mut Sink,
) -> Option<Vec<Located<AddressItem>>> {
    let list = value.list(key, sink)?;
    let items: Vec<_> = list
        .iter()
        .filter_map(|value| read_item(&value.text(key, sink)?, sink))
        .collect();
    // An element that was refused must not leave a smaller list behind.
    (items.len() == list.len()).then_some(items)
}

fn read_item(text: &Located<&str>, sink: &mut Sink) -> Option<Located<AddressItem>> {
    if let Some(rest) = text.value.strip_prefix('!') {
        sink.report(
            Diagnostic::error(
                Code::BadAddress,
                text.span,
                format!("`!` stands before a single name or address that is the whole value, not before `{rest}` in a list"),
            )
            .help(format!("everything but some addresses is `{{ not = [\"{rest}\", ...] }}`")),
        );
        return None;
    }
    if AddressRange::looks_like_one(text.value) || text.value.contains('/') {
        return Some(read_literal(text, sink)?.map(AddressItem::Literal));
    }
    if ["any", "host"].contains(&text.value) {
        let message = format!("`{}` is no address", text.value);
        sink.report(Diagnostic::error(Code::WrongKey, text.span, message).help(
            "all addresses are said by leaving the key out; `host` goes into `from` or `to`",
        ));
        return None;
    }
    if !is_name(text.value) {
        sink.report(not_an_address(text));
        return None;
    }
    Some(Located::new(
        AddressItem::Name(text.value.to_owned()),
        text.span,
    ))
}

/// Reads an address, a prefix or a range, or reports what is wrong with it.
pub(super) fn read_literal(text: &Located<&str>, sink: &mut Sink) -> Option<Located<AddressRange>> {
    match AddressRange::parse(text.value) {
        Ok(range) => Some(Located::new(range, text.span)),
        Err(error) => {
            sink.report(address_error(text, error));
            None
        }
    }
}

fn not_an_address(text: &Located<&str>) -> Diagnostic {
    let message = format!("`{}` is no address", text.value.escape_debug());
    let diagnostic = Diagnostic::error(Code::BadAddress, text.span, message);
    if let Ok(socket) = text.value.parse::<SocketAddr>() {
        return diagnostic
            .suggest(Some(&socket.ip().to_string()))
            .help("a port goes into `service`, with its protocol");
    }
    let bare = text.value.trim_matches([' ', '\t', '[', ']']);
    diagnostic
        .suggest(bare.parse::<IpAddr>().ok().map(|_| bare))
        .help("write a name of [addresses], a host, a prefix (`192.0.2.0/24`) or a range (`192.0.2.10-192.0.2.20`)")
}

fn address_error(text: &Located<&str>, error: AddressError) -> Diagnostic {
    let shown = text.value.escape_debug();
    let at = |code, message: String| Diagnostic::error(code, text.span, message);
    match error {
        AddressError::NotAnAddress => not_an_address(text),
        AddressError::LeadingZeros => at(
            Code::BadAddress,
            format!("`{shown}` has leading zeros, which some tools read as octal"),
        )
        .help("write the numbers without them"),
        AddressError::ZoneId => at(
            Code::BadAddress,
            format!("`{shown}` has a zone id, which a rule cannot match"),
        )
        .help("write the address without `%...` and name the interface in `from` or `to`"),
        AddressError::Ipv4Mapped(v4) => {
            // ::ffff:0:0/96 is what stands before the 32 bits of the IPv4 address.
            let length = text.value.split_once('/').map(|(_, length)| length);
            let length = length.and_then(|length| length.parse::<u8>().ok()?.checked_sub(96));
            let length = length.map_or(String::new(), |length| format!("/{length}"));
            at(
                Code::Ipv4Mapped,
                format!("`{shown}` is an IPv4 address written as IPv6"),
            )
            .help(format!("write `{v4}{length}`: packets carry it as IPv4"))
        }
        AddressError::PrefixLength(family) => at(
            Code::BadPrefix,
            format!("`{shown}` has no good prefix length"),
        )
        .help(format!(
            "the length of an {family} prefix is a number from 0 to {}",
            family.bits()
        )),
        AddressError::Netmask(length) => {
            let diagnostic = at(
                Code::BadPrefix,
                format!("`{shown}` has a netmask instead of a prefix length"),
            );
            match (length, text.value.split_once('/')) {
                (Some(length), Some((host, _))) => {
                    diagnostic.help(format!("write `{host}/{length}`"))
                }
                _ => diagnostic.help("the mask is no prefix: write the networks one by one"),
            }
        }
        AddressError::HostBits { network, host } => {
            at(Code::HostBitsSet, format!("`{shown}` has host bits set"))
                .label(format!("did you mean `{network}`?"))
                .help(format!(
                    "the network is `{network}`, the host alone is `{host}`"
                ))
        }
        AddressError::MixedFamilies => at(
            Code::MixedFamilies,
            format!("the range `{shown}` goes from one family to the other"),
        )
        .help("write one range for each family"),
        AddressError::Reversed(right) => at(
            Code::ReversedRange,
            format!("the range `{shown}` ends before it begins"),
        )
        .label(format!("did you mean `{right}`?")),
    }
}

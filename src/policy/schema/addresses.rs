//! `[addresses]`, and `source` and `destination` of rules.

use std::net::{IpAddr, SocketAddr};

use super::dynamic_set::{self, COMMENTS, COUNTERS, DynamicSet, SIZE, TIMEOUT, TYPE};
use super::names::{OVERRIDE, RESERVED, is_name, name_form, read_definitions};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressError, AddressMask, AddressRange};
use crate::policy::Definitions;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{FileId, Located, Span};

/// One element of a list of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressItem {
    /// A host, prefix or range.
    Literal(AddressRange),
    /// An address and a mask that is not that of a prefix.
    Mask(AddressMask),
    /// The name of a group.
    Name(String),
}

/// A named group of addresses.
#[derive(Clone, Debug)]
pub struct AddressGroup {
    /// Its members. Empty only for a dynamic set, or until its file was read.
    pub include: Vec<Located<AddressItem>>,
    /// Members to exclude.
    pub exclude: Vec<Located<AddressItem>>,
    /// A file with further members, relative to the policy file.
    pub file: Option<Located<String>>,
    /// How the kernel stores it.
    pub kind: GroupKind,
}

/// How the kernel stores a group of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// In the rules themselves, as `-s` and `-d`.
    Plain,
    /// In an ipset that fwc fills.
    Set,
    /// In an ipset that other programs fill.
    Dynamic(DynamicSet),
}

/// `source` or `destination` of a rule.
#[derive(Clone, Debug)]
pub struct AddressExpression {
    /// The addresses; the expression is their union. At least one.
    pub items: Vec<Located<AddressItem>>,
    /// `true` if the expression means every address but these.
    pub negated: bool,
    /// The place of the whole value.
    pub span: Span,
}

pub(super) const SECTION: Key = Key::new(
    "addresses",
    Shape::Definitions {
        reserved: RESERVED,
        each: &Shape::OneOf(&[Shape::List(&ADDRESS), Shape::Table(&GROUP)]),
    },
    "Names for sets of addresses: a list, or a table.",
)
.example("{ office = ['203.0.113.0/24', '2001:db8:1::/48'] }");

/// A host or a prefix, as a regular expression. It is only rough, because editors show it to users; the parser checks
/// the rest.
macro_rules! prefix_form {
    () => {
        concat!(
            v4_form!(),
            "(/([0-9]|[12][0-9]|3[0-2]))?|",
            v6_form!(),
            "(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?"
        )
    };
}
macro_rules! range_form {
    () => {
        concat!(
            v4_form!(),
            "-",
            v4_form!(),
            "|",
            v6_form!(),
            "-",
            v6_form!()
        )
    };
}
macro_rules! v4_form {
    () => {
        "[0-9]{1,3}([.][0-9]{1,3}){3}"
    };
}
macro_rules! v6_form {
    () => {
        "[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*"
    };
}
pub(super) use {v4_form, v6_form};
macro_rules! mask_form {
    () => {
        concat!(
            v4_form!(),
            "/",
            v4_form!(),
            "|",
            v6_form!(),
            "/",
            v6_form!()
        )
    };
}
macro_rules! address_form {
    () => {
        concat!(
            name_form!(),
            "|",
            prefix_form!(),
            "|",
            range_form!(),
            "|",
            mask_form!()
        )
    };
}

/// A host or a prefix.
pub(super) const PREFIX: Shape = Shape::Form(prefix_form!());

/// An address: a name, a host, a prefix, a range, or an address with a mask.
pub(super) const ADDRESS: Shape = Shape::Form(address_form!());

/// The value of `source` and `destination`.
pub(super) const EXPRESSION: Shape = Shape::OneOf(&[
    Shape::List(&ADDRESS),
    Shape::Form(concat!("!\\s*(", address_form!(), ")")),
    Shape::Table(&NOT),
]);

pub(super) const NOT: TableKeys = TableKeys {
    of: "a negation",
    known: &[Key::new(
        "not",
        Shape::List(&ADDRESS),
        "Everything but the union of these.",
    )
    .example("['office', '10.0.0.1']")
    .required()],
};

const GROUP: TableKeys = TableKeys {
    of: "an address group",
    known: &[
        Key::new(
            "include",
            Shape::List(&ADDRESS),
            "What is in it: names, hosts, prefixes, ranges.",
        )
        .example("['10.0.0.0/8', '192.0.2.10-192.0.2.20']"),
        Key::new("exclude", Shape::List(&ADDRESS), "What of that is not in it.")
            .example("['10.9.0.0/16']"),
        Key::new(
            "file",
            Shape::Text(4096),
            "A file with more of what is in it, relative to this one: one address a line, `#` begins a comment.",
        )
        .example("'lists/drop.txt'"),
        Key::new(
            "set",
            Shape::OneOf(&[Shape::Boolean, Shape::Literally("dynamic")]),
            "`true`: the kernel keeps it in an ipset. `\"dynamic\"`: an ipset that others fill; fwc makes it and never empties it.",
        )
        .default("false"),
        TYPE,
        TIMEOUT,
        SIZE,
        COUNTERS,
        COMMENTS,
        OVERRIDE,
    ],
};

pub(super) fn read(
    root: CheckedTable<'_>,
    groups: &mut Definitions<AddressGroup>,
    sink: &mut Sink,
) {
    read_definitions(
        root,
        "addresses",
        groups,
        sink,
        |name, value, sink| match value.as_table() {
            Some(table) => read_group(name, table, sink),
            None => Some(AddressGroup {
                include: read_items(&name.value, value, sink)?,
                exclude: Vec::new(),
                file: None,
                kind: GroupKind::Plain,
            }),
        },
    );
}

fn read_group(
    name: &Located<String>,
    table: CheckedTable<'_>,
    sink: &mut Sink,
) -> Option<AddressGroup> {
    let keys_are_known = table.check(GROUP, sink);
    let kind = read_kind(table, sink)?;
    check_set_name(name, kind, sink);
    let mut items = |key: &str| match table.get(key) {
        Some(value) => read_items(key, value, sink),
        None => Some(Vec::new()),
    };
    let (include, exclude) = (items("include")?, items("exclude")?);
    let file = table.text("file", sink);
    if table.get("file").is_some() && file.is_none() {
        return None;
    }
    let is_dynamic = matches!(kind, GroupKind::Dynamic { .. });
    let contents = ["include", "exclude", "file"]
        .into_iter()
        .find(|key| table.get(key).is_some());
    match contents {
        Some(key) if is_dynamic => {
            let message = format!("`{key}` in a dynamic set, which others fill");
            sink.report(
                Diagnostic::error(Code::Conflict, table.key_span(key), message)
                    .help("say `set = true` for a set that the policy fills"),
            );
            return None;
        }
        None | Some("exclude") if !is_dynamic => {
            if !keys_are_known {
                return None;
            }
            let message = format!("the address group `{}` has no `include`", name.value);
            sink.report(
                Diagnostic::error(Code::MissingKey, name.span, message)
                    .help("name what is in it, such as `include = [\"10.0.0.0/8\"]`, or a `file`"),
            );
            return None;
        }
        _ => {}
    }
    Some(AddressGroup {
        include,
        exclude,
        file: file.map(|file| file.map(str::to_owned)),
        kind,
    })
}

fn read_kind(table: CheckedTable<'_>, sink: &mut Sink) -> Option<GroupKind> {
    let Some(set) = table.get("set") else {
        dynamic_set::refuse(table, sink);
        return Some(GroupKind::Plain);
    };
    let kind = match (set.as_boolean(), set.as_text()) {
        (Some(true), _) => GroupKind::Set,
        (Some(false), _) => GroupKind::Plain,
        (_, Some("dynamic")) => {
            return dynamic_set::read(table, sink).map(GroupKind::Dynamic);
        }
        _ => {
            set.wrong_type("set", "true, false or \"dynamic\"", sink);
            return None;
        }
    };
    dynamic_set::refuse(table, sink);
    Some(kind)
}

/// The longest name of a group that becomes an ipset. ipset keeps 31 characters (`IPSET_MAXNAMELEN`): five are the
/// prefix `fwc4-`, and one marks the temporary set that is swapped in.
const LONGEST_SET_NAME: usize = 25;

fn check_set_name(name: &Located<String>, kind: GroupKind, sink: &mut Sink) {
    let length = name.value.len();
    if kind != GroupKind::Plain && length > LONGEST_SET_NAME {
        let message =
            format!("the name of a set has {LONGEST_SET_NAME} characters at most, not {length}");
        sink.report(
            Diagnostic::error(Code::TooLong, name.span, message)
                .help("shorten it: the kernel's name for it is `fwc4-NAME`"),
        );
    }
}

/// Reads a file of addresses, one in a line. `#` and `;` begin comments.
pub(in crate::policy) fn read_list(
    text: &str,
    file: FileId,
    sink: &mut Sink,
) -> Vec<Located<AddressItem>> {
    let mut items = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.split(['#', ';']).next().unwrap_or_default();
        let word = content.trim();
        if !word.is_empty() {
            let at = start + (content.len() - content.trim_start().len());
            let word = Located::new(word, Span::new(file, at..at + word.len()));
            if AddressRange::looks_like_one(word.value) || word.value.contains('/') {
                items.extend(read_address(&word, sink));
            } else {
                let message = format!("`{}` is not a valid address", word.value.escape_debug());
                sink.report(
                    Diagnostic::error(Code::BadAddress, word.span, message)
                        .with_note("a file has a host, a prefix or a range a line, and no names"),
                );
            }
        }
        start += line.len();
    }
    items
}

/// Reads `source` or `destination` of a rule.
pub(super) fn read_expression(
    key: &str,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<AddressExpression> {
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
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Vec<Located<AddressItem>>> {
    let list = value.list(key, sink)?;
    let items: Vec<_> = list
        .iter()
        .filter_map(|value| read_item(&value.text(key, sink)?, sink))
        .collect();
    // A list without its refused element would be a smaller set than the user wrote, so there is none at all.
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
        return read_address(text, sink);
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

/// Reads a host, a prefix, a range, or an address with a mask; reports an error for anything else.
fn read_address(text: &Located<&str>, sink: &mut Sink) -> Option<Located<AddressItem>> {
    let item = match AddressRange::parse(text.value) {
        Err(AddressError::Netmask(None)) => AddressMask::parse(text.value).map(AddressItem::Mask),
        range => range.map(AddressItem::Literal),
    };
    match item {
        Ok(item) => Some(Located::new(item, text.span)),
        Err(error) => {
            sink.report(address_error(text, error));
            None
        }
    }
}

/// Reads a host, a prefix or a range; reports an error for anything else.
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
    let message = format!("`{}` is not a valid address", text.value.escape_debug());
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
            // ::ffff:0:0/96 is the prefix in front of the 32 bits of the IPv4 address.
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
            format!("`{shown}` has no valid prefix length"),
        )
        .with_note(format!(
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
                _ => diagnostic
                    .with_note("such a mask is for `source` and `destination`, and for groups of [addresses]")
                    .help("write the networks one by one"),
            }
        }
        AddressError::OutsideMask(right) => at(
            Code::HostBitsSet,
            format!("`{shown}` has bits set outside its mask"),
        )
        .label(format!("did you mean `{right}`?"))
        .with_note(
            "a packet's address is compared under the mask, so that it would never be equal",
        ),
        AddressError::HostBits { network, host } => {
            at(Code::HostBitsSet, format!("`{shown}` has host bits set"))
                .label(format!("did you mean `{network}`?"))
                .with_note(format!(
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

//! `ipset` of rules: a set that fwc does not manage.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::SetEnds;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// A set that something else makes and fills.
#[derive(Clone, Debug)]
pub struct PolicyForeignSet {
    /// Its name in the kernel.
    pub name: Located<String>,
    /// `true` if the rule matches what is not in it.
    pub negated: bool,
    /// The ends of a packet that its members are compared with.
    pub ends: SetEnds,
}

/// The name of a set, with or without `!`.
const SET_NAME: Shape = Shape::Form("(!\\s*)?[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}");

/// The key `ipset` of rules.
pub(super) const IPSET: Key = Key::new(
    "ipset",
    Shape::OneOf(&[SET_NAME, Shape::Table(&KEYS)]),
    "A set that something else made and fills; it matches the source, `\"!NAME\"` what is not in it. The rule says its `scope`.",
)
.example("'crowdsec-blacklists'");

const KEYS: TableKeys = TableKeys {
    of: "a set",
    known: &[
        Key::new("name", SET_NAME, "Its name; `\"!NAME\"` matches what is not in it.")
            .example("'crowdsec-blacklists'")
            .required(),
        Key::new(
            "flags",
            Shape::Form("(src|dst)(,(src|dst)){0,2}"),
            "What each part of its members is compared with, as in `--match-set`. A set whose members have more parts never matches.",
        )
        .default("'src'"),
    ],
};

/// The longest name of an ipset (`IPSET_MAXNAMELEN` of `ip_set.h`, without the final zero).
const LONGEST_IPSET: usize = 31;

/// Reads `ipset` of a rule.
pub(super) fn read_ipset(table: CheckedTable<'_>, sink: &mut Sink) -> Option<PolicyForeignSet> {
    let value = table.get("ipset")?;
    let Some(of_table) = value.as_table() else {
        if value.as_text().is_none() {
            value.wrong_type("ipset", "a name, or `{ name = ..., flags = ... }`", sink);
        }
        return read_name(value.as_text()?, value.span, sink, SetEnds::SOURCE);
    };
    let keys_are_known = of_table.check(KEYS, sink);
    let Some(name) = of_table.get("name") else {
        if keys_are_known {
            sink.report(
                Diagnostic::error(Code::MissingKey, value.span, "the set has no `name`")
                    .help("write for example `{ name = \"partners\", flags = \"src,dst\" }`"),
            );
        }
        return None;
    };
    let name = name.text("name", sink);
    let ends = match of_table.get("flags") {
        None => Some(SetEnds::SOURCE),
        Some(flags) => {
            let text = flags.text("flags", sink)?;
            let ends = SetEnds::parse(text.value);
            if ends.is_none() {
                let message = format!("`{}` is not valid for `flags`", text.value.escape_debug());
                sink.report(
                    Diagnostic::error(Code::BadValue, text.span, message).help(
                        "write one to three of `src` and `dst`, as in `--match-set`: `src,dst`",
                    ),
                );
            }
            ends
        }
    };
    let name = name?;
    read_name(name.value, name.span, sink, ends?)
}

fn read_name(text: &str, span: Span, sink: &mut Sink, ends: SetEnds) -> Option<PolicyForeignSet> {
    let behind_not = text.strip_prefix('!').map(str::trim_start);
    let name = behind_not.unwrap_or(text);
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.is_empty() || !name.bytes().all(good) || name.starts_with('-') {
        let message = format!("`{}` is not a valid set name", name.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadName, span, message)
                .help("letters, digits, `_`, `.` and `-`; a set of the policy goes into `source`"),
        );
        return None;
    }
    if name.len() > LONGEST_IPSET {
        let message = format!("the name of a set has {LONGEST_IPSET} characters at most");
        sink.report(Diagnostic::error(Code::TooLong, span, message));
        return None;
    }
    Some(PolicyForeignSet {
        name: Located::new(name.to_owned(), span),
        negated: behind_not.is_some(),
        ends,
    })
}

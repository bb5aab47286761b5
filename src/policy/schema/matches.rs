//! `mark`, `mac` and `tcp-flags` of rules.

use super::selection::{Selection, read_one, read_selection};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{MacAddress, MarkError, MarkMatch, TcpFlagsError, TcpFlagsMatch};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::Located;

/// The key `mark` of a rule.
pub(super) const MARK: Key = Key::new(
    "mark",
    Shape::OneOf(&[
        Shape::Form(
            "(!\\s*)?(0x0*[0-9A-Fa-f]{1,8}|0|[1-9][0-9]{0,9})(/(0x0*[0-9A-Fa-f]{1,8}|0|[1-9][0-9]{0,9}))?",
        ),
        Shape::Number(0, u32::MAX as i64),
    ]),
    "The packet's mark, under a mask after `/`; `\"!0x10/0xff\"`: every other.",
)
.example("'0x10/0xff'");

macro_rules! mac_form {
    () => {
        "[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"
    };
}

/// The key `mac` of a rule.
pub(super) const MAC: Key = Key::new(
    "mac",
    Shape::OneOf(&[
        Shape::List(&MAC_ADDRESS),
        Shape::Form(concat!("!\\s*", mac_form!())),
        Shape::Table(&NOT_MAC),
    ]),
    "The sender's address on the link: one, several, or `\"!ADDRESS\"` for every other. Packets of this host have none, and \
     those of devices that are not Ethernet.",
)
.example("'02:00:5e:10:00:01'");

const MAC_ADDRESS: Shape = Shape::Form(mac_form!());

const NOT_MAC: TableKeys = TableKeys {
    of: "a negation",
    known: &[
        Key::new("not", Shape::List(&MAC_ADDRESS), "Every address but these.")
            .example("['02:00:5e:10:00:01', '02:00:5e:10:00:02']")
            .required(),
    ],
};

macro_rules! flags_form {
    () => {
        "(all|none|(fin|syn|rst|psh|ack|urg)(,(fin|syn|rst|psh|ack|urg))*)"
    };
}

/// The key `tcp-flags` of a rule.
pub(super) const TCP_FLAGS: Key = Key::new(
    "tcp-flags",
    Shape::Form(concat!("(!\\s*)?", flags_form!(), "/", flags_form!())),
    "The TCP flags that are set, `/`, and those that are looked at; `\"!syn/syn,ack\"`: every other packet of tcp.",
)
.example("'syn/syn,ack,fin,rst'");

pub(super) fn read_mark(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Selection<MarkMatch>> {
    read_one(table, "mark", sink, |one, sink| match one.behind_not {
        Some(rest) => parsed_mark(&Located::new(rest, one.value.span), sink),
        None => mark_of("mark", one.value, sink),
    })
}

/// Reads the value of a key as a mark with a mask.
pub(super) fn mark_of(
    key: &str,
    value: FileValue<'_>,
    sink: &mut Sink,
) -> Option<Located<MarkMatch>> {
    let text = match (value.as_text(), value.as_integer()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => number.to_string(),
        _ => {
            value.wrong_type(key, "a string such as \"0x10/0xff\"", sink);
            return None;
        }
    };
    parsed_mark(&Located::new(text.as_str(), value.span), sink)
}

fn parsed_mark(text: &Located<&str>, sink: &mut Sink) -> Option<Located<MarkMatch>> {
    let shown = text.value.escape_debug();
    let at = |message: String| Diagnostic::error(Code::BadMark, text.span, message);
    match MarkMatch::parse(text.value) {
        Ok(mark) => return Some(Located::new(mark, text.span)),
        Err(MarkError::NotAMark) => sink
            .report(at(format!("`{shown}` is not a valid mark")).help(
                "write a value of 32 bits, or `VALUE/MASK`, in hex (`0x10/0xff`) or decimal",
            )),
        Err(MarkError::OutsideMask) => sink.report(
            at(format!(
                "`{shown}` is not a valid mark: the mask leaves out bits of the value"
            ))
            .help("widen the mask, or take the bits from the value"),
        ),
    }
    None
}

pub(super) fn read_mac(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Selection<MacAddress>> {
    read_selection(table, "mac", sink, |one, sink| {
        parsed_mac(&one.text("mac", sink)?, sink)
    })
}

fn parsed_mac(text: &Located<&str>, sink: &mut Sink) -> Option<Located<MacAddress>> {
    let mac = MacAddress::parse(text.value);
    if mac.is_none() {
        let message = format!("`{}` is not a valid MAC address", text.value.escape_debug());
        sink.report(
            Diagnostic::error(Code::BadMac, text.span, message)
                .help("write six pairs of hex digits, as in `02:00:5e:10:00:01`"),
        );
    }
    Some(Located::new(mac?, text.span))
}

pub(super) fn read_tcp_flags(
    table: CheckedTable<'_>,
    sink: &mut Sink,
) -> Option<Selection<TcpFlagsMatch>> {
    read_one(table, "tcp-flags", sink, |one, sink| {
        parsed_tcp_flags(&one.text("tcp-flags", sink)?, sink)
    })
}

fn parsed_tcp_flags(text: &Located<&str>, sink: &mut Sink) -> Option<Located<TcpFlagsMatch>> {
    let shown = text.value.escape_debug();
    let at = |message: String| Diagnostic::error(Code::BadTcpFlags, text.span, message);
    match TcpFlagsMatch::parse(text.value) {
        Ok(flags) => return Some(Located::new(flags, text.span)),
        Err(TcpFlagsError::NotFlags) => sink.report(
            at(format!("`{shown}` is not a valid match of TCP flags")).help(
                "write the flags that are set, `/`, and those that are looked at: `syn/syn,ack,fin,rst`; \
                 the flags are fin, syn, rst, psh, ack, urg",
            ),
        ),
        Err(TcpFlagsError::NotLookedAt) => sink.report(
            at(format!("no packet matches `{shown}`: a flag is to be set that is not looked at"))
                .help("name it after the `/` too"),
        ),
    }
    None
}

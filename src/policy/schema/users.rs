//! `[users]` and `[groups]`, and `user` and `group` of rules.

use super::names::{NAME, RESERVED, is_name, name_form, read_definitions};
use super::selection::{Operand, Selection, read_selection};
use crate::diag::{Code, Diagnostic, Sink};
use crate::policy::Definitions;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

/// `user` or `group` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The number of the account.
    Id(u32),
    /// A name of `[users]` or `[groups]`.
    Name(String),
}

/// The largest number of an account: 4294967295 means "no account" in the kernel.
const LARGEST_ID: i64 = u32::MAX as i64 - 1;

const ID: Shape = Shape::Number(0, LARGEST_ID);

const IDS: Shape = Shape::Definitions {
    reserved: RESERVED,
    each: &ID,
};

pub(super) const USERS: Key = Key::new(
    "users",
    IDS,
    "Names for the numbers of users, so that nothing is looked up when rules load.",
)
.example("{ www-data = 33 }");

pub(super) const GROUPS: Key = Key::new(
    "groups",
    IDS,
    "Names for the numbers of groups, so that nothing is looked up when rules load.",
)
.example("{ adm = 4 }");

const ACCOUNT: Shape = Shape::OneOf(&[ID, NAME]);

const ACCOUNTS: Shape = Shape::OneOf(&[
    Shape::List(&ACCOUNT),
    Shape::Form(concat!("!\\s*([0-9]{1,10}|", name_form!(), ")")),
    Shape::Table(&NOT_ACCOUNT),
]);

const NOT_ACCOUNT: TableKeys = TableKeys {
    of: "a negation",
    known: &[Key::new(
        "not",
        Shape::List(&ACCOUNT),
        "Every packet of this host but those of these, also of no process.",
    )
    .example("[0, 33]")
    .required()],
};

/// The key `user` of a rule.
pub(super) const USER: Key = Key::new(
    "user",
    ACCOUNTS,
    "The user of the process that sends: numbers, or names of `[users]`. `\"!33\"` is every packet that 33 does not send. For \
     rules `from = \"host\"`.",
)
.example("33");

/// The key `group` of a rule.
pub(super) const GROUP: Key = Key::new(
    "group",
    ACCOUNTS,
    "The group of the process that sends: numbers, or names of `[groups]`. `\"!4\"` is every packet that 4 does not send. For \
     rules `from = \"host\"`.",
)
.example("4");

pub(super) fn read(
    root: CheckedTable<'_>,
    section: &str,
    ids: &mut Definitions<u32>,
    sink: &mut Sink,
) {
    read_definitions(root, section, ids, sink, |name, value, sink| {
        read_id(&name.value, value, sink)
    });
}

pub(super) fn read_accounts(
    table: CheckedTable<'_>,
    key: &str,
    sink: &mut Sink,
) -> Option<Selection<Account>> {
    read_selection(table, key, sink, |one, sink| read_account(key, one, sink))
}

fn read_account(key: &str, one: Operand<'_>, sink: &mut Sink) -> Option<Located<Account>> {
    let value = one.value;
    if let Some(number) = one.behind_not.and_then(|rest| rest.parse().ok()) {
        let id = id_of(key, number, value.span, sink)?;
        return Some(Located::new(Account::Id(id), value.span));
    }
    let Some(name) = one.behind_not.or(value.as_text()) else {
        let id = read_id(key, value, sink)?;
        return Some(Located::new(Account::Id(id), value.span));
    };
    if !is_name(name) {
        let message = format!("`{}` is not a valid {key} name", name.escape_debug());
        let diagnostic = Diagnostic::error(Code::BadValue, value.span, message);
        sink.report(if name.bytes().all(|b| b.is_ascii_digit()) {
            diagnostic.help("write the number without quotes")
        } else {
            diagnostic.help(format!("write a number, or a name defined under [{key}s]"))
        });
        return None;
    }
    Some(Located::new(Account::Name(name.to_owned()), value.span))
}

fn read_id(key: &str, value: FileValue<'_>, sink: &mut Sink) -> Option<u32> {
    let Some(number) = value.as_integer() else {
        value.wrong_type(key, "a number", sink);
        return None;
    };
    id_of(key, number, value.span, sink)
}

fn id_of(key: &str, number: i64, span: Span, sink: &mut Sink) -> Option<u32> {
    let id = u32::try_from(number).ok().filter(|_| number <= LARGEST_ID);
    if id.is_none() {
        let message = format!("`{key}` cannot be {number}");
        sink.report(
            Diagnostic::error(Code::BadValue, span, message)
                .help(format!("it is a number from 0 to {LARGEST_ID}")),
        );
    }
    id
}

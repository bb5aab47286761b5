//! `[[rules]]`, and the keys for packets that other entries share with rules.

use std::collections::HashMap;

use super::addresses::{AddressExpression, EXPRESSION, read_expression};
use super::custom::read_among_rules;
use super::defaults::{REJECT_WITH, RejectWith};
use super::foreign_set::{IPSET, PolicyForeignSet, read_ipset};
use super::harmless_text;
use super::interfaces::{SCOPES, Scope};
use super::limits::{
    CONNECTIONS, LIMIT, PolicyConnections, RuleLimit, read_connections, read_limit,
};
use super::matches::{MAC, MARK, TCP_FLAGS, read_mac, read_mark, read_tcp_flags};
use super::names::{NAME, name_form};
use super::original::{ORIGINAL, PolicyOriginal, read_original};
use super::selection::{Selection, read_selection};
use super::services::{ITEMS, ServiceItem, read_services};
use super::times::{EXPIRES, PolicySchedule, SCHEDULE, read_expires, read_schedule};
use super::users::{Account, GROUP, USER, read_accounts};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Date, MacAddress, MarkMatch, State, TcpFlagsMatch};
use crate::policy::Policy;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::{Located, Span};

/// What a rule does with its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Accept them.
    Accept,
    /// Drop them without an answer.
    Drop,
    /// Reject them with an answer.
    Reject,
    /// Log them; the next rules decide.
    Log,
    /// Count them; the next rules decide.
    Continue,
}

/// The part of the chain that a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleStage {
    /// Before ESTABLISHED is accepted, so that the rule also affects open connections.
    Early,
    /// After the preamble, which accepts ESTABLISHED.
    Main,
}

/// The position of a rule among all rules, whatever file it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Before all other rules.
    First,
    /// In the order of writing.
    Normal,
    /// After all other rules.
    Last,
}

/// `log` of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChoice {
    /// `false`
    Off,
    /// `true`: the class "default"
    Default,
    /// A class by name
    Class(String),
}

/// One rule as written; absent keys are `None`.
#[derive(Clone, Debug)]
pub struct PolicyRule {
    /// The place of the whole table.
    pub span: Span,
    /// `name`
    pub name: Option<Located<String>>,
    /// `comment`
    pub comment: Option<String>,
    /// `action`; accept if absent.
    pub action: Option<Located<Action>>,
    /// `from`
    pub from: Option<Vec<Located<String>>>,
    /// `from`, negated: the packets come from none of these places.
    pub not_from: Option<Vec<Located<String>>>,
    /// `to`
    pub to: Option<Vec<Located<String>>>,
    /// `to`, negated: the packets go to none of these places.
    pub not_to: Option<Vec<Located<String>>>,
    /// `source`
    pub source: Option<AddressExpression>,
    /// `destination`
    pub destination: Option<AddressExpression>,
    /// `service`
    pub service: Option<Vec<Located<ServiceItem>>>,
    /// `service`, negated: the packets are of none of these services.
    pub not_service: Option<Vec<Located<ServiceItem>>>,
    /// `ipset`: a set of source addresses that fwc does not manage.
    pub ipset: Option<PolicyForeignSet>,
    /// `scope`
    pub scope: Option<Located<Scope>>,
    /// `state`
    pub state: Option<Vec<Located<State>>>,
    /// `stage`
    pub stage: Option<Located<RuleStage>>,
    /// `order`
    pub order: Option<Located<Order>>,
    /// `mark`: one value.
    pub mark: Option<Selection<MarkMatch>>,
    /// `mac`
    pub mac: Option<Selection<MacAddress>>,
    /// `tcp-flags`: one value.
    pub tcp_flags: Option<Selection<TcpFlagsMatch>>,
    /// `original`: the connection's first packet before its destination was translated.
    pub original: Option<PolicyOriginal>,
    /// `match`: matches of iptables that no key says.
    pub matches: Option<Located<String>>,
    /// `limit`
    pub limit: Option<RuleLimit>,
    /// `connections`
    pub connections: Option<PolicyConnections>,
    /// `schedule`
    pub schedule: Option<PolicySchedule>,
    /// `expires`
    pub expires: Option<Located<Date>>,
    /// `user`
    pub user: Option<Selection<Account>>,
    /// `group`
    pub group: Option<Selection<Account>>,
    /// `log`
    pub log: Option<Located<LogChoice>>,
    /// `reject-with`
    pub reject_with: Option<Located<RejectWith>>,
    /// `enabled`
    pub enabled: bool,
    /// `rules` and `finally`: the rule is a block, whose keys choose the packets that its own rules are asked about.
    pub block: Option<PolicyBlock>,
    /// The block that the rule is in, by its index in [`Policy::rules`](crate::policy::Policy::rules).
    pub in_block: Option<usize>,
    /// `true` if every key could be read.
    pub complete: bool,
}

/// The keys of a block. Its rules follow it in [`Policy::rules`](crate::policy::Policy::rules), and name it in
/// [`PolicyRule::in_block`].
#[derive(Clone, Debug)]
pub struct PolicyBlock {
    /// `finally`
    pub finally: Option<Located<Finally>>,
}

/// `finally` of a block: the action for packets that none of its rules decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finally {
    /// Accept them.
    Accept,
    /// Drop them without an answer.
    Drop,
    /// Reject them with an answer.
    Reject,
}

/// The longest name: the kernel keeps 255 bytes of a comment (`xt_comment.h`), and `fwc:` takes four of them.
pub(super) const LONGEST_NAME: usize = 251;

/// Zones and interfaces, without a negation.
pub(super) const PLACES: Shape = Shape::List(&NAME);

/// Zones and interfaces, or a negation of them.
pub(super) const PLACES_OR_NOT: Shape = Shape::OneOf(&[
    PLACES,
    // Neither `any` nor `host` can be negated.
    Shape::Form(concat!("!\\s*(?!(any|host)$)", name_form!())),
    Shape::Table(&NOT_PLACES),
]);

const NOT_PLACES: TableKeys = TableKeys {
    of: "a negation",
    known: &[Key::new(
        "not",
        PLACES,
        "Every device but those of these, and not this machine.",
    )
    .example("['lan', 'dmz']")
    .required()],
};

/// The key `to` of raw entries, which are before routing.
pub(super) const PLAIN_TO: Key = Key::new(
    "to",
    PLACES,
    "Where the packets go to: zones and interfaces by name, `any`, or `host` for this machine. \
     Left out it is `host`, or `any` when `from` is only `host`.",
)
.example("'host'");

/// The key `from` of rules and tests.
pub(super) const FROM: Key = Key::new(
    "from",
    PLACES_OR_NOT,
    "Where the packets come from: zones and interfaces by name, `any`, or `host` for this machine. `\"!wan\"`: every other \
     device, and not this machine.",
)
.default("'any'")
.example("'wan'");

/// The key `to` of rules and tests.
pub(super) const TO: Key = Key::new(
    "to",
    PLACES_OR_NOT,
    "Where the packets go to: zones and interfaces by name, `any`, or `host` for this machine. \
     Left out it is `host`, or `any` when `from` is only `host`. `\"!wan\"`: every other device, and not this machine.",
)
.example("'host'");

/// The key `source` of rules and tests.
pub(super) const SOURCE: Key = Key::new(
    "source",
    EXPRESSION,
    "Source addresses: names of `[addresses]`, hosts, prefixes, ranges. `\"!office\"` is everything but the office.",
)
.example("['office', '198.51.100.7']");

/// The key `destination` of rules and tests.
pub(super) const DESTINATION: Key = Key::new(
    "destination",
    EXPRESSION,
    "Destination addresses: names of `[addresses]`, hosts, prefixes, ranges. `\"!office\"` is everything but the office.",
)
.example("'10.8.0.5'");

/// The key `scope` of rules and tests.
pub(super) const SCOPE: Key = Key::new(
    "scope",
    Shape::Word(&SCOPES),
    "The families; narrowed by the addresses and services that are used.",
)
.default("'dual'");

/// The key `state` of rules and tests.
pub(super) const STATE: Key = Key::new(
    "state",
    Shape::List(&Shape::Word(&STATES)),
    "What the kernel's connection tracking says of the packets.",
)
.example("'new'");

/// The key `log` of rules and entries.
pub(super) const LOG: Key = Key::new(
    "log",
    Shape::OneOf(&[Shape::Boolean, NAME]),
    "`true`: log the packets in the class `default`; a name: in that class.",
)
.default("false");

/// The key `match` of rules and entries.
pub(super) const MATCH: Key = Key::new(
    "match",
    Shape::Text(u32::MAX),
    "Matches of iptables for what no key says; they are asked after the other keys, and before limits.",
)
.example("'-m length --length 0:100'");

/// The key `name` of rules.
pub(super) const RULE_NAME: Key = Key::new(
    "name",
    Shape::Text(LONGEST_NAME as u32),
    "What it is for, in a few words; unique. It becomes the comment of the rules.",
)
.example("'ssh from the office'");

/// The key `enabled` of rules.
pub(super) const ENABLED: Key = Key::new(
    "enabled",
    Shape::Boolean,
    "`false` takes the rule out; it is still checked.",
)
.default("true");

/// The key `comment` of rules.
pub(super) const COMMENT: Key = Key::new(
    "comment",
    Shape::Text(u32::MAX),
    "For people; it never reaches iptables.",
)
.example("'asked for in NET-112'");

/// The keys of a rule, in the order of the documentation: those that every rule has, and between them `$place`, which a rule of a
/// block does not have, and `$block`, which make a rule a block.
macro_rules! keys {
    ($of:literal, [$($place:expr),*], [$($block:expr),*]) => {
        TableKeys {
            of: $of,
            known: &[
                RULE_NAME, ACTION, $($place,)* SOURCE, DESTINATION, ITEMS, IPSET, SCOPE, STATE, MARK, MAC, TCP_FLAGS, ORIGINAL,
                MATCH, LIMIT, CONNECTIONS, SCHEDULE, USER, GROUP, LOG, RULE_REJECT_WITH, $($block,)* CUSTOM, ENABLED, COMMENT,
            ],
        }
    };
}

pub(super) const KEYS: TableKeys = keys!(
    "a rule",
    [FROM, TO, CHAIN, STAGE, ORDER, EXPIRES],
    [block_rules(&IN_BLOCK), FINALLY]
);

// Blocks nest three deep.
const IN_BLOCK: TableKeys = keys!(
    "a rule of a block",
    [],
    [block_rules(&IN_SECOND_BLOCK), FINALLY]
);
const IN_SECOND_BLOCK: TableKeys = keys!(
    "a rule of a block",
    [],
    [block_rules(&IN_THIRD_BLOCK), FINALLY]
);
const IN_THIRD_BLOCK: TableKeys = keys!("a rule of a block in two others", [], []);

const ACTION: Key = Key::new(
    "action",
    Shape::Word(&ACTIONS),
    "What the rule does with its packets; `log` writes a log entry and passes them to the next rule, `continue` only counts them.",
)
.default("'accept'");

const CUSTOM: Key = Key::new(
    "custom",
    Shape::Text(u32::MAX),
    "Makes the entry a rule of iptables in this place: the text after `-A CHAIN`. It takes only `chain`, `name`, `comment`, `scope` and \
     `enabled` beside it.",
)
.example("'-p tcp -m recent --name knock --rcheck -j ACCEPT'");

const CHAIN: Key = Key::new(
    "chain",
    Shape::Form("INPUT|FORWARD|OUTPUT"),
    "The base chain of `custom`. In a block it is left out.",
)
.example("'INPUT'");

const STAGE: Key = Key::new(
    "stage",
    Shape::Word(&STAGES),
    "`early`: before what belongs to running connections is accepted, so that it cuts them too.",
)
.default("'main'");

const ORDER: Key = Key::new(
    "order",
    Shape::Word(&ORDERS),
    "`first`, `last`: before or behind all other rules, whatever file they come from.",
)
.default("'normal'");

const RULE_REJECT_WITH: Key = Key::new(
    "reject-with",
    Shape::OneOf(&[Shape::Word(&REJECT_WITH), Shape::Literally(TCP_RESET)]),
    "The answer of a reject. Left out it is that of `[defaults]`.",
)
.example("'tcp-reset'");

const fn block_rules(of: &'static TableKeys) -> Key {
    Key::new(
        "rules",
        Shape::Tables(of),
        "Makes the rule a block: its keys choose packets, and only these are asked about the rules of this list, in their order.",
    )
    .example("[{ service = 'smtp' }, { service = 'imaps', source = 'office' }]")
}

const FINALLY: Key = Key::new(
    "finally",
    Shape::Word(&FINALS),
    "The action for packets of a block that none of its rules decides. Without it, the next rule after the block decides.",
)
.example("'drop'");

const FINALS: &[(&str, Finally)] = &[
    ("accept", Finally::Accept),
    ("drop", Finally::Drop),
    ("reject", Finally::Reject),
];

const TCP_RESET: &str = "tcp-reset";

const ACTIONS: &[(&str, Action)] = &[
    ("accept", Action::Accept),
    ("drop", Action::Drop),
    ("reject", Action::Reject),
    ("log", Action::Log),
    ("continue", Action::Continue),
];

const STAGES: &[(&str, RuleStage)] = &[("early", RuleStage::Early), ("main", RuleStage::Main)];

const ORDERS: &[(&str, Order)] = &[
    ("first", Order::First),
    ("normal", Order::Normal),
    ("last", Order::Last),
];

const STATES: &[(&str, State)] = &[
    ("new", State::New),
    ("established", State::Established),
    ("related", State::Related),
    ("invalid", State::Invalid),
    ("untracked", State::Untracked),
];

pub(super) fn read(root: CheckedTable<'_>, policy: &mut Policy, sink: &mut Sink) {
    read_entries(root, "rules", sink, |table, sink| {
        read_rule(
            table,
            &[KEYS, IN_BLOCK, IN_SECOND_BLOCK, IN_THIRD_BLOCK],
            None,
            policy,
            sink,
        );
    });
}

/// Reads each table of a list that is written `[[KEY]]`.
pub(super) fn read_entries(
    root: CheckedTable<'_>,
    key: &str,
    sink: &mut Sink,
    mut read: impl FnMut(CheckedTable<'_>, &mut Sink),
) {
    let Some(value) = root.get(key) else {
        return;
    };
    let wanted = format!("a list of tables, each written `[[{key}]]`");
    let Some(list) = value.as_array() else {
        return value.wrong_type(key, &wanted, sink);
    };
    for value in list {
        let Some(table) = value.as_table() else {
            return value.wrong_type(key, &wanted, sink);
        };
        read(table, sink);
    }
}

/// Reads a rule, and behind it the rules of a block. `keys` are those of the rule, of the rules in it, and so on.
fn read_rule(
    table: CheckedTable<'_>,
    keys: &[TableKeys],
    in_block: Option<usize>,
    policy: &mut Policy,
    sink: &mut Sink,
) {
    let index = policy.rules.len();
    if table.get("custom").is_some() {
        let custom = read_among_rules(table, in_block, index, sink);
        policy.custom.push(custom);
        return;
    }
    let [keys, inner @ ..] = keys else {
        return;
    };
    let errors = sink.errors();
    table.check(*keys, sink);
    let mut rule = finish_packets(table, errors, sink);
    rule.in_block = in_block;
    let entries = table.get("rules").filter(|_| !inner.is_empty());
    rule.block = entries.map(|_| PolicyBlock {
        finally: table.word("finally", FINALS, sink),
    });
    check_keys_together(&rule, table, sink);
    rule.complete = sink.errors() == errors;
    policy.rules.push(rule);
    let Some(entries) = entries else {
        return;
    };
    if entries.as_array().is_some_and(|list| list.is_empty()) {
        sink.report(
            Diagnostic::error(Code::BadValue, entries.span, "the block has no rules").help(
                "name its rules, such as `rules = [{ service = \"smtp\" }]`, or leave `rules` out",
            ),
        );
    }
    read_entries(table, "rules", sink, |table, sink| {
        read_rule(table, inner, Some(index), policy, sink);
    });
}

/// Reads the keys for packets, and `name`. The result is complete if there are no more errors than `errors` afterwards.
pub(super) fn finish_packets(
    table: CheckedTable<'_>,
    errors: usize,
    sink: &mut Sink,
) -> PolicyRule {
    let mut rule = read_packets(table, sink);
    if let Some(name) = &rule.name {
        fits_comment(name, sink);
    }
    rule.complete = sink.errors() == errors;
    rule
}

/// A key of an entry that cannot be negated, the code for it, and why.
pub(super) type Unnegated = (&'static str, Code, &'static str);

/// Reports `!` in keys of an entry that cannot have it. `what` is the entry in messages.
pub(super) fn refuse_negated(
    packets: &PolicyRule,
    what: &str,
    keys: &[Unnegated],
    sink: &mut Sink,
) {
    let first = |names: &Option<Vec<Located<String>>>| Some(names.as_ref()?.first()?.span);
    let service = packets.not_service.as_ref().and_then(|items| items.first());
    for (key, code, why) in keys {
        let span = match *key {
            "from" => first(&packets.not_from),
            "to" => first(&packets.not_to),
            _ => service.map(|item| item.span),
        };
        if let Some(span) = span {
            let message = format!("`{key}` of {what} cannot be negated");
            let finding = Diagnostic::error(*code, span, message).with_note(*why);
            sink.report(finding.help(match *key {
                "service" => "name the services that you mean",
                _ => "name the zones and interfaces that you mean",
            }));
        }
    }
}

/// Reads the keys of a rule that the table has.
pub(super) fn read_packets(table: CheckedTable<'_>, sink: &mut Sink) -> PolicyRule {
    let mut reject_with = REJECT_WITH.to_vec();
    reject_with.push((TCP_RESET, RejectWith::TcpReset));
    let (from, not_from) = divided(read_places(table, "from", sink));
    let (to, not_to) = divided(read_places(table, "to", sink));
    let (service, not_service) = divided(read_services(table, sink));
    PolicyRule {
        span: table.span,
        name: read_name(table, sink),
        comment: read_comment(table, sink),
        action: table.word("action", ACTIONS, sink),
        from,
        not_from,
        to,
        not_to,
        source: read_addresses(table, "source", sink),
        destination: read_addresses(table, "destination", sink),
        service,
        not_service,
        ipset: read_ipset(table, sink),
        scope: table.word("scope", SCOPES, sink),
        state: read_states(table, sink),
        stage: table.word("stage", STAGES, sink),
        order: table.word("order", ORDERS, sink),
        mark: read_mark(table, sink),
        mac: read_mac(table, sink),
        tcp_flags: read_tcp_flags(table, sink),
        original: read_original(table, sink),
        matches: read_match(table, sink),
        limit: read_limit(table, sink),
        connections: read_connections(table, sink),
        schedule: read_schedule(table, sink),
        expires: read_expires(table, sink),
        user: read_accounts(table, "user", sink),
        group: read_accounts(table, "group", sink),
        log: read_log(table, sink),
        reject_with: table.word("reject-with", &reject_with, sink),
        enabled: table.boolean("enabled", sink).is_none_or(|flag| flag.value),
        block: None,
        in_block: None,
        complete: true,
    }
}

/// Reads `comment`, a text for people.
pub(super) fn read_comment(table: CheckedTable<'_>, sink: &mut Sink) -> Option<String> {
    let text = table.text("comment", sink)?;
    harmless_text("comment", &text, sink).then(|| text.value.to_owned())
}

fn read_name(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<String>> {
    let text = table.text("name", sink)?;
    harmless_text("name", &text, sink);
    if text.value.trim().is_empty() {
        sink.report(
            Diagnostic::error(Code::BadName, text.span, "the name is empty")
                .help("say in a few words what it is for; a rule may do without"),
        );
    }
    Some(text.map(str::to_owned))
}

pub(super) fn fits_comment(name: &Located<String>, sink: &mut Sink) {
    let length = name.value.len();
    if length > LONGEST_NAME {
        let message = format!(
            "the name has {length} bytes, the kernel's comment has room for {LONGEST_NAME}"
        );
        sink.report(
            Diagnostic::error(Code::TooLong, name.span, message)
                .help("shorten it; `comment` may be as long as you like"),
        );
    }
}

/// Reports each rule or test that has the name of an earlier one. `what` and `several` name its kind in singular and
/// plural.
pub(in crate::policy) fn check_names<'r>(
    (what, several): (&str, &str),
    rules: impl Iterator<Item = &'r PolicyRule>,
    sink: &mut Sink,
) {
    let mut seen = HashMap::new();
    for name in rules.filter_map(|rule| rule.name.as_ref()) {
        if let Some(first) = seen.get(name.value.as_str()) {
            let message = format!("two {several} are called `{}`", name.value);
            sink.report(
                Diagnostic::error(Code::DuplicateRuleName, name.span, message)
                    .also(*first, "the first of them")
                    .with_note(format!(
                        "{what} names are unique: reports and comments refer to them"
                    )),
            );
        } else {
            seen.insert(name.value.as_str(), name.span);
        }
    }
}

/// The values of a key that are not negated, and those that are.
type Divided<T> = (Option<Vec<Located<T>>>, Option<Vec<Located<T>>>);

fn divided<T>(selection: Option<Selection<T>>) -> Divided<T> {
    match selection {
        None => (None, None),
        Some(one) if one.negated => (None, Some(one.values)),
        Some(one) => (Some(one.values), None),
    }
}

fn read_places(table: CheckedTable<'_>, key: &str, sink: &mut Sink) -> Option<Selection<String>> {
    read_selection(table, key, sink, |one, sink| {
        Some(one.text(key, sink)?.map(str::to_owned))
    })
}

fn read_addresses(
    table: CheckedTable<'_>,
    key: &str,
    sink: &mut Sink,
) -> Option<AddressExpression> {
    read_expression(key, table.get(key)?, sink)
}

fn read_match(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<String>> {
    let text = table.text("match", sink)?;
    harmless_text("match", &text, sink).then(|| text.map(str::to_owned))
}

fn read_states(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Vec<Located<State>>> {
    let list = table.list("state", sink)?;
    Some(
        list.into_iter()
            .filter_map(|value| value.word("state", STATES, sink))
            .collect(),
    )
}

fn read_log(table: CheckedTable<'_>, sink: &mut Sink) -> Option<Located<LogChoice>> {
    let value = table.get("log")?;
    let choice = match (value.as_boolean(), value.as_text()) {
        (Some(false), _) => LogChoice::Off,
        (Some(true), _) => LogChoice::Default,
        (_, Some(class)) => LogChoice::Class(class.to_owned()),
        _ => {
            value.wrong_type("log", "true, false or a log class", sink);
            return None;
        }
    };
    Some(Located::new(choice, value.span))
}

fn check_keys_together(rule: &PolicyRule, table: CheckedTable<'_>, sink: &mut Sink) {
    let action = rule.action.as_ref().map_or(Action::Accept, |a| a.value);
    let finally = rule.block.as_ref().and_then(|block| block.finally.as_ref());
    if let (Some(_), Some(action)) = (&rule.block, &rule.action) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                action.span,
                "a block takes no `action`: each of its rules has one",
            )
            .help("for the packets that none of its rules decides, write `finally`"),
        );
    }
    if table.get("chain").is_some() {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                table.key_span("chain"),
                "`chain` on a rule without `custom`",
            )
            .help("a rule's `from` and `to` choose its chain: `from = \"any\"` and `to = \"host\"` are INPUT, `from = \"host\"` is OUTPUT, all others are FORWARD"),
        );
    }
    if rule.block.is_none() && table.get("finally").is_some() {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                table.key_span("finally"),
                "`finally` is a key of blocks, and this rule has no `rules`",
            )
            .help("write `action` for what the rule does with its packets, or add `rules`"),
        );
    }
    let rejects = match &rule.block {
        Some(_) => finally.is_some_and(|finally| finally.value == Finally::Reject),
        None => action == Action::Reject,
    };
    if let Some(reject_with) = &rule.reject_with
        && !rejects
    {
        let (what, key) = match &rule.block {
            Some(_) => ("a block", "finally"),
            None => ("a rule", "action"),
        };
        let message = format!("`reject-with` on {what} that does not reject");
        sink.report(
            Diagnostic::error(Code::Conflict, reject_with.span, message).help(format!(
                "say `{key} = \"reject\"`, or leave `reject-with` out"
            )),
        );
    }
    if let Some(log) = &rule.log
        && log.value == LogChoice::Off
        && action == Action::Log
    {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                log.span,
                "`log = false` on a rule whose action is to log",
            )
            .help("say `enabled = false` to switch the rule off"),
        );
    }
}

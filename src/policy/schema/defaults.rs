//! `[defaults]`: what happens to packets that no rule decides, and the preamble in front of the rules.

use super::names::{NAME, OVERRIDE, set_twice};
use crate::diag::Sink;
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::CheckedTable;
use crate::source::Located;

/// What happens to a packet that no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Accept it.
    Accept,
    /// Drop it without an answer.
    Drop,
    /// Reject it with an answer.
    Reject,
    /// Return to the base chain, where rules of other programs follow. Shared mode only.
    Continue,
}

/// How the default action is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforce {
    /// As the policy of the chain.
    Policy,
    /// As a last rule, with the chain policy ACCEPT.
    Rule,
}

/// What happens to packets that conntrack calls INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidAction {
    /// They are dropped before the rules.
    Drop,
    /// They are accepted before the rules.
    Accept,
    /// The rules decide.
    Off,
}

/// The ICMP types that are accepted without a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// The types that a network needs to work, and echo-request.
    Essential,
    /// The same without echo-request.
    EssentialNoPing,
    /// Every type.
    All,
    /// No type.
    None,
}

/// The answer of a reject (`--reject-with` of iptables).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// A TCP reset for TCP, port-unreachable for the rest.
    Default,
    /// A TCP reset; for TCP only.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP host unreachable, ICMPv6 address unreachable.
    HostUnreachable,
    /// ICMP net unreachable, ICMPv6 no route.
    NetUnreachable,
    /// ICMP and ICMPv6 administratively prohibited.
    AdminProhibited,
}

/// `[defaults]` as written; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct PolicyDefaults {
    /// `input`
    pub input: Option<Located<DefaultAction>>,
    /// `forward`
    pub forward: Option<Located<DefaultAction>>,
    /// `output`
    pub output: Option<Located<DefaultAction>>,
    /// `enforce`
    pub enforce: Option<Located<Enforce>>,
    /// `loopback`
    pub loopback: Option<Located<bool>>,
    /// `established`
    pub established: Option<Located<bool>>,
    /// `invalid`
    pub invalid: Option<Located<InvalidAction>>,
    /// `icmp`
    pub icmp: Option<Located<Icmp>>,
    /// `dhcp-client`
    pub dhcp_client: Option<Located<bool>>,
    /// `antispoof`
    pub antispoof: Option<Located<bool>>,
    /// `log`: a class, or `None` for `false`.
    pub log: Option<Located<Option<String>>>,
    /// `reject-with`
    pub reject_with: Option<Located<RejectWith>>,
    /// `comments`
    pub comments: Option<Located<bool>>,
}

pub(super) const KEYS: TableKeys = TableKeys {
    of: "[defaults]",
    known: &[
        Key::new(
            "input",
            Shape::Word(&ACTIONS),
            "What becomes of packets to this host that no rule decides.",
        )
        .default("'drop'"),
        Key::new(
            "forward",
            Shape::Word(&ACTIONS_OR_CONTINUE),
            "What becomes of packets through this host that no rule decides. In shared mode it holds between devices of the policy, and \
             `continue` (back to the base chain) is the default.",
        )
        .default("'drop'"),
        Key::new(
            "output",
            Shape::Word(&ACTIONS_OR_CONTINUE),
            "What becomes of packets of this host that no rule decides. In shared mode `continue` (back to the base chain) is the default.",
        )
        .default("'accept'"),
        Key::new(
            "enforce",
            Shape::Word(&ENFORCE),
            "`policy`: the chain's policy is the default action. `rule`: the chain's policy is ACCEPT and a last rule denies, so that \
             a flushed chain leaves the host reachable.",
        )
        .default("'policy'"),
        Key::new("loopback", Shape::Boolean, "Accept everything on `lo`, first.").default("true"),
        Key::new(
            "established",
            Shape::Boolean,
            "Accept what belongs to connections that were accepted before, second.",
        )
        .default("true"),
        Key::new(
            "invalid",
            Shape::Word(&INVALID),
            "What becomes of packets that conntrack calls INVALID; `off`: the rules decide.",
        )
        .default("'drop'"),
        Key::new(
            "icmp",
            Shape::Word(&ICMP),
            "Which ICMP passes without a rule: what the network needs (`essential`, with ping), `all` of it, or `none`.",
        )
        .default("'essential'"),
        Key::new(
            "dhcp-client",
            Shape::Boolean,
            "Let the answers to this host's own DHCP client in.",
        )
        .default("true"),
        Key::new(
            "antispoof",
            Shape::Boolean,
            "Drop packets whose source belongs to the `networks` of another interface.",
        )
        .default("false"),
        Key::new(
            "log",
            Shape::OneOf(&[Shape::Boolean, NAME]),
            "The log class for what the default action denies; `false`: no log.",
        )
        .default("'denied'"),
        Key::new(
            "reject-with",
            Shape::Word(&REJECT_WITH),
            "The answer of a reject; `default`: a reset for tcp, port unreachable for the rest.",
        )
        .default("'default'"),
        Key::new(
            "comments",
            Shape::Boolean,
            "Write the names of rules into the rules, as comments.",
        )
        .default("true"),
        OVERRIDE,
    ],
};

const ACTIONS: &[(&str, DefaultAction)] = &[
    ("drop", DefaultAction::Drop),
    ("reject", DefaultAction::Reject),
    ("accept", DefaultAction::Accept),
];

/// The actions for chains in which rules of other programs may follow.
const ACTIONS_OR_CONTINUE: &[(&str, DefaultAction)] = &[
    ("drop", DefaultAction::Drop),
    ("reject", DefaultAction::Reject),
    ("accept", DefaultAction::Accept),
    ("continue", DefaultAction::Continue),
];

const ENFORCE: &[(&str, Enforce)] = &[("policy", Enforce::Policy), ("rule", Enforce::Rule)];

const INVALID: &[(&str, InvalidAction)] = &[
    ("drop", InvalidAction::Drop),
    ("accept", InvalidAction::Accept),
    ("off", InvalidAction::Off),
];

const ICMP: &[(&str, Icmp)] = &[
    ("essential", Icmp::Essential),
    ("essential-no-ping", Icmp::EssentialNoPing),
    ("all", Icmp::All),
    ("none", Icmp::None),
];

/// The answers that every protocol accepts.
pub(super) const REJECT_WITH: &[(&str, RejectWith)] = &[
    ("default", RejectWith::Default),
    ("port-unreachable", RejectWith::PortUnreachable),
    ("host-unreachable", RejectWith::HostUnreachable),
    ("net-unreachable", RejectWith::NetUnreachable),
    ("admin-prohibited", RejectWith::AdminProhibited),
];

pub(super) fn read(table: CheckedTable<'_>, defaults: &mut PolicyDefaults, sink: &mut Sink) {
    table.check(KEYS, sink);
    let overrides = table
        .boolean("override", sink)
        .is_some_and(|flag| flag.value);
    let mut merge = Merge {
        table,
        overrides,
        sink,
    };
    merge.word("input", ACTIONS, &mut defaults.input);
    merge.word("forward", ACTIONS_OR_CONTINUE, &mut defaults.forward);
    merge.word("output", ACTIONS_OR_CONTINUE, &mut defaults.output);
    merge.word("enforce", ENFORCE, &mut defaults.enforce);
    merge.boolean("loopback", &mut defaults.loopback);
    merge.boolean("established", &mut defaults.established);
    merge.word("invalid", INVALID, &mut defaults.invalid);
    merge.word("icmp", ICMP, &mut defaults.icmp);
    merge.boolean("dhcp-client", &mut defaults.dhcp_client);
    merge.boolean("antispoof", &mut defaults.antispoof);
    merge.log(&mut defaults.log);
    merge.word("reject-with", REJECT_WITH, &mut defaults.reject_with);
    merge.boolean("comments", &mut defaults.comments);
}

/// Merges the keys of one file with those of the files before.
struct Merge<'t, 's> {
    table: CheckedTable<'t>,
    overrides: bool,
    sink: &'s mut Sink,
}

impl Merge<'_, '_> {
    fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)], slot: &mut Option<Located<T>>) {
        let value = self.table.word(key, words, self.sink);
        self.set(key, value, slot);
    }

    fn boolean(&mut self, key: &str, slot: &mut Option<Located<bool>>) {
        let value = self.table.boolean(key, self.sink);
        self.set(key, value, slot);
    }

    fn log(&mut self, slot: &mut Option<Located<Option<String>>>) {
        let Some(value) = self.table.get("log") else {
            return;
        };
        let read = match (value.as_boolean(), value.as_text()) {
            (Some(false), _) => None,
            // `true` is the class "default", as in a rule.
            (Some(true), _) => Some("default".to_owned()),
            (_, Some(class)) => Some(class.to_owned()),
            _ => {
                value.wrong_type("log", "a log class, or false", self.sink);
                return;
            }
        };
        self.set("log", Some(Located::new(read, value.span)), slot);
    }

    fn set<T>(&mut self, key: &str, value: Option<Located<T>>, slot: &mut Option<Located<T>>) {
        let Some(value) = value else {
            return;
        };
        if let Some(earlier) = slot
            && !self.overrides
        {
            let twice = set_twice("defaults", key, [earlier.span, value.span]);
            self.sink.report(twice);
            return;
        }
        *slot = Some(value);
    }
}

//! `[defaults]`: what happens to packets that no rule decides, and the preamble in front of the rules.

use super::interfaces::{SCOPES, Scope};
use super::names::{NAME, OVERRIDE, set_twice};
use crate::diag::Sink;
use crate::net::{Family, PerFamily, PerHook};
use crate::policy::keys::{Key, Shape, TableKeys};
use crate::policy::reader::{CheckedTable, FileValue};
use crate::source::{Located, Span};

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
    /// ICMP host prohibited; ICMPv6 has administratively prohibited only.
    HostProhibited,
    /// ICMP net prohibited; ICMPv6 has administratively prohibited only.
    NetProhibited,
    /// ICMP protocol unreachable, ICMPv6 port unreachable.
    ProtoUnreachable,
    /// ICMPv6 source address failed policy, ICMP administratively prohibited.
    PolicyFail,
    /// ICMPv6 reject route, ICMP net unreachable.
    RejectRoute,
}

/// `[defaults]` as written; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct PolicyDefaults {
    /// `families`
    pub families: Option<Located<Scope>>,
    /// `preamble = "none"`
    pub no_preamble: Option<Located<()>>,
    /// `enforce`
    pub enforce: Option<Located<Enforce>>,
    /// `comments`
    pub comments: Option<Located<bool>>,
    /// The keys that hold for both families.
    pub both: PolicyFamilyDefaults,
    /// `[defaults.ipv4]` and `[defaults.ipv6]`
    pub own: PerFamily<PolicyFamilyDefaults>,
    /// The places of `[defaults.ipv4]` and `[defaults.ipv6]`.
    pub tables: PerFamily<Option<Span>>,
}

/// The keys of `[defaults]` that a family can have for itself.
#[derive(Clone, Debug, Default)]
pub struct PolicyFamilyDefaults {
    /// `input`, `forward` and `output`
    pub actions: HookValues<DefaultAction>,
    /// `loopback`
    pub loopback: HookValues<bool>,
    /// `established`
    pub established: HookValues<bool>,
    /// `invalid`
    pub invalid: HookValues<InvalidAction>,
    /// `icmp`
    pub icmp: HookValues<Icmp>,
    /// `dhcp-client`
    pub dhcp_client: HookValues<bool>,
    /// `log`: a class, or `None` for `false`.
    pub log: HookValues<Option<String>>,
    /// `antispoof`
    pub antispoof: Option<Located<bool>>,
    /// `reject-with`
    pub reject_with: Option<Located<RejectWith>>,
}

/// The value of a key in each hook. A key without a table has the same value, at the same place, in all hooks.
pub type HookValues<T> = PerHook<Option<Located<T>>>;

impl PolicyDefaults {
    /// Returns the place of the value that holds in a family: the family's own, else that of both; `None` if neither is
    /// written.
    pub fn place<T>(
        &self,
        family: Family,
        key: impl Fn(&PolicyFamilyDefaults) -> &Option<Located<T>>,
    ) -> Option<Span> {
        let written = [&self.own[family], &self.both];
        written
            .into_iter()
            .find_map(|keys| key(keys).as_ref().map(|written| written.span))
    }
}

const INPUT: Key = Key::new(
    "input",
    Shape::Word(&ACTIONS),
    "What becomes of packets to this host that no rule decides.",
)
.default("'drop'");

const FORWARD: Key = Key::new(
    "forward",
    Shape::Word(&ACTIONS_OR_CONTINUE),
    "What becomes of packets through this host that no rule decides. In shared mode it holds between devices of the policy, and \
     `continue` (back to the base chain) is the default.",
)
.default("'drop'");

const OUTPUT: Key = Key::new(
    "output",
    Shape::Word(&ACTIONS_OR_CONTINUE),
    "What becomes of packets of this host that no rule decides. In shared mode `continue` (back to the base chain) is the default.",
)
.default("'accept'");

const LOOPBACK: Key = Key::new(
    "loopback",
    Shape::OneOf(&[Shape::Boolean, Shape::Table(&LOOPBACK_HOOKS)]),
    "Accept everything on `lo`, first. A table has a value for each hook: `{ input = true, output = false }`.",
)
.default("true");

const LOOPBACK_HOOKS: TableKeys = TableKeys {
    of: "`loopback`",
    known: &in_input_and_output(Shape::Boolean),
};

const ESTABLISHED: Key = Key::new(
    "established",
    Shape::OneOf(&[Shape::Boolean, Shape::Table(&ESTABLISHED_HOOKS)]),
    "Accept what belongs to connections that were accepted before, second. A table has a value for each hook: `{ forward = false }`.",
)
.default("true");

const ESTABLISHED_HOOKS: TableKeys = TableKeys {
    of: "`established`",
    known: &in_all_hooks(Shape::Boolean),
};

const INVALID: Key = Key::new(
    "invalid",
    Shape::OneOf(&[Shape::Word(&INVALID_WORDS), Shape::Table(&INVALID_HOOKS)]),
    "What becomes of packets that conntrack calls INVALID; `off`: the rules decide. A table has a value for each hook.",
)
.default("'drop'");

const INVALID_HOOKS: TableKeys = TableKeys {
    of: "`invalid`",
    known: &in_all_hooks(Shape::Word(&INVALID_WORDS)),
};

const ICMP: Key = Key::new(
    "icmp",
    Shape::OneOf(&[Shape::Word(&ICMP_WORDS), Shape::Table(&ICMP_HOOKS)]),
    "Which ICMP passes without a rule: what the network needs (`essential`, with ping), `all` of it, or `none`. A table has a value \
     for each hook.",
)
.default("'essential'");

const ICMP_HOOKS: TableKeys = TableKeys {
    of: "`icmp`",
    known: &in_all_hooks(Shape::Word(&ICMP_WORDS)),
};

const DHCP_CLIENT: Key = Key::new(
    "dhcp-client",
    Shape::OneOf(&[Shape::Boolean, Shape::Table(&DHCP_CLIENT_HOOKS)]),
    "Let the answers to this host's own DHCP client in, and its requests out. A table has a value for each hook.",
)
.default("true");

const DHCP_CLIENT_HOOKS: TableKeys = TableKeys {
    of: "`dhcp-client`",
    known: &in_input_and_output(Shape::Boolean),
};

const ANTISPOOF: Key = Key::new(
    "antispoof",
    Shape::Boolean,
    "Drop packets whose source belongs to the `networks` of another interface.",
)
.default("false");

const LOG: Key = Key::new(
    "log",
    Shape::OneOf(&[Shape::Boolean, NAME, Shape::Table(&LOG_HOOKS)]),
    "The log class for what the default action denies; `false`: no log. A table has a value for each hook.",
)
.default("'denied'");

const LOG_HOOKS: TableKeys = TableKeys {
    of: "`log`",
    known: &in_all_hooks(LOG_VALUE),
};

const LOG_VALUE: Shape = Shape::OneOf(&[Shape::Boolean, NAME]);

const REJECT: Key = Key::new(
    "reject-with",
    Shape::Word(&REJECT_WITH),
    "The answer of a reject; `default`: a reset for tcp, port unreachable for the rest.",
)
.default("'default'");

const IN_INPUT: &str = "For packets to this host.";
const IN_OUTPUT: &str = "For packets of this host.";

/// Returns the keys of a table with a value for each hook.
const fn in_all_hooks(value: Shape) -> [Key; 3] {
    [
        Key::new("input", value, IN_INPUT),
        Key::new("forward", value, "For packets through this host."),
        Key::new("output", value, IN_OUTPUT),
    ]
}

/// Returns the keys of a table for what FORWARD never has.
const fn in_input_and_output(value: Shape) -> [Key; 2] {
    [
        Key::new("input", value, IN_INPUT),
        Key::new("output", value, IN_OUTPUT),
    ]
}

/// The keys of `[defaults.ipv4]` and `[defaults.ipv6]`.
const OF_A_FAMILY: &[Key] = &[
    INPUT,
    FORWARD,
    OUTPUT,
    LOOPBACK,
    ESTABLISHED,
    INVALID,
    ICMP,
    DHCP_CLIENT,
    ANTISPOOF,
    LOG,
    REJECT,
    OVERRIDE,
];

const IPV4_KEYS: TableKeys = TableKeys {
    of: "[defaults.ipv4]",
    known: OF_A_FAMILY,
};

const IPV6_KEYS: TableKeys = TableKeys {
    of: "[defaults.ipv6]",
    known: OF_A_FAMILY,
};

pub(super) const KEYS: TableKeys = TableKeys {
    of: "[defaults]",
    known: &[
        Key::new(
            "families",
            Shape::Word(&SCOPES),
            "The families of this host. `ipv4`: IPv6 is closed but for `lo`, and every `scope` is `ipv4`.",
        )
        .default("'dual'"),
        INPUT,
        FORWARD,
        OUTPUT,
        Key::new(
            "enforce",
            Shape::Word(&ENFORCE),
            "`policy`: the chain's policy is the default action. `rule`: the chain's policy is ACCEPT and a last rule denies, so that \
             a flushed chain leaves the host reachable.",
        )
        .default("'policy'"),
        Key::new(
            "preamble",
            Shape::Word(&PREAMBLE),
            "`none`: `loopback`, `established`, `invalid`, `icmp`, `dhcp-client` and `log` are off unless they are written.",
        )
        .example("'none'"),
        LOOPBACK,
        ESTABLISHED,
        INVALID,
        ICMP,
        DHCP_CLIENT,
        ANTISPOOF,
        LOG,
        REJECT,
        Key::new(
            "comments",
            Shape::Boolean,
            "Write the names of rules into the rules, as comments.",
        )
        .default("true"),
        Key::new(
            "ipv4",
            Shape::Table(&IPV4_KEYS),
            "Defaults for IPv4 alone; what is left out is as in `[defaults]`.",
        ),
        Key::new(
            "ipv6",
            Shape::Table(&IPV6_KEYS),
            "Defaults for IPv6 alone; what is left out is as in `[defaults]`.",
        ),
        OVERRIDE,
    ],
};

const PREAMBLE: &[(&str, ())] = &[("none", ())];

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

const INVALID_WORDS: &[(&str, InvalidAction)] = &[
    ("drop", InvalidAction::Drop),
    ("accept", InvalidAction::Accept),
    ("off", InvalidAction::Off),
];

const ICMP_WORDS: &[(&str, Icmp)] = &[
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
    ("host-prohibited", RejectWith::HostProhibited),
    ("net-prohibited", RejectWith::NetProhibited),
    ("proto-unreachable", RejectWith::ProtoUnreachable),
    ("policy-fail", RejectWith::PolicyFail),
    ("reject-route", RejectWith::RejectRoute),
];

pub(super) fn read(table: CheckedTable<'_>, defaults: &mut PolicyDefaults, sink: &mut Sink) {
    table.check(KEYS, sink);
    let mut merge = Merge::new(table, "defaults", sink);
    merge.word("families", SCOPES, &mut defaults.families);
    merge.word("preamble", PREAMBLE, &mut defaults.no_preamble);
    merge.word("enforce", ENFORCE, &mut defaults.enforce);
    merge.boolean("comments", &mut defaults.comments);
    merge.family_keys(&mut defaults.both);
    for (family, section, keys) in [
        (Family::V4, "defaults.ipv4", IPV4_KEYS),
        (Family::V6, "defaults.ipv6", IPV6_KEYS),
    ] {
        let Some(value) = table.get(family.keyword()) else {
            continue;
        };
        let Some(own) = value.table(family.keyword(), sink) else {
            continue;
        };
        own.check(keys, sink);
        defaults.tables[family].get_or_insert(table.key_span(family.keyword()));
        Merge::new(own, section, sink).family_keys(&mut defaults.own[family]);
    }
}

/// Merges the keys of one file with those of the files before.
struct Merge<'t, 's> {
    table: CheckedTable<'t>,
    /// The name of the table, for messages.
    section: &'static str,
    overrides: bool,
    sink: &'s mut Sink,
}

impl<'t, 's> Merge<'t, 's> {
    fn new(table: CheckedTable<'t>, section: &'static str, sink: &'s mut Sink) -> Self {
        let overrides = table.boolean("override", sink);
        Self {
            table,
            section,
            overrides: overrides.is_some_and(|flag| flag.value),
            sink,
        }
    }

    fn family_keys(&mut self, keys: &mut PolicyFamilyDefaults) {
        let PolicyFamilyDefaults {
            actions,
            loopback,
            established,
            invalid,
            icmp,
            dhcp_client,
            log,
            antispoof,
            reject_with,
        } = keys;
        self.word("input", ACTIONS, &mut actions.input);
        self.word("forward", ACTIONS_OR_CONTINUE, &mut actions.forward);
        self.word("output", ACTIONS_OR_CONTINUE, &mut actions.output);
        self.hooks("loopback", LOOPBACK_HOOKS, read_boolean, loopback);
        self.hooks("established", ESTABLISHED_HOOKS, read_boolean, established);
        self.hooks("invalid", INVALID_HOOKS, read_invalid, invalid);
        self.hooks("icmp", ICMP_HOOKS, read_icmp, icmp);
        self.hooks("dhcp-client", DHCP_CLIENT_HOOKS, read_boolean, dhcp_client);
        self.hooks("log", LOG_HOOKS, read_log, log);
        self.boolean("antispoof", antispoof);
        self.word("reject-with", REJECT_WITH, reject_with);
    }

    fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)], slot: &mut Option<Located<T>>) {
        let value = self.table.word(key, words, self.sink);
        self.set(key, value, slot);
    }

    fn set<T>(&mut self, key: &str, value: Option<Located<T>>, slot: &mut Option<Located<T>>) {
        if let Some(value) = value {
            let earlier = slot.as_ref().map(|earlier| earlier.span);
            if self.may_set(key, earlier, value.span) {
                *slot = Some(value);
            }
        }
    }

    fn boolean(&mut self, key: &str, slot: &mut Option<Located<bool>>) {
        let value = self.table.boolean(key, self.sink);
        self.set(key, value, slot);
    }

    /// Reads one value for all hooks, or a table of values for some. A table replaces an earlier value as a whole.
    fn hooks<T: Clone>(
        &mut self,
        key: &str,
        keys: TableKeys,
        read: ReadValue<T>,
        slot: &mut HookValues<T>,
    ) {
        let Some(value) = self.table.get(key) else {
            return;
        };
        let values = match value.as_table() {
            None => {
                let Some(one) = read(value, key, self.sink) else {
                    return;
                };
                PerHook::from_fn(|_| Some(one.clone()))
            }
            Some(table) => {
                table.check(keys, self.sink);
                let mut of = |hook| read(table.get(hook)?, hook, self.sink);
                PerHook {
                    input: of("input"),
                    forward: of("forward"),
                    output: of("output"),
                }
            }
        };
        let earlier = [&slot.input, &slot.forward, &slot.output];
        let earlier = earlier.into_iter().flatten().next();
        let earlier = earlier.map(|earlier| earlier.span);
        if self.may_set(key, earlier, value.span) {
            *slot = values;
        }
    }

    /// Returns `true` if a value may be set; reports an error if another file has set it.
    fn may_set(&mut self, key: &str, earlier: Option<Span>, now: Span) -> bool {
        match earlier {
            Some(earlier) if !self.overrides => {
                let twice = set_twice(self.section, key, [earlier, now]);
                self.sink.report(twice);
                false
            }
            _ => true,
        }
    }
}

/// Reads a value of a key; reports an error if it is of the wrong kind.
type ReadValue<T> = fn(FileValue<'_>, &str, &mut Sink) -> Option<Located<T>>;

fn read_boolean(value: FileValue<'_>, key: &str, sink: &mut Sink) -> Option<Located<bool>> {
    value.boolean(key, sink)
}

fn read_invalid(
    value: FileValue<'_>,
    key: &str,
    sink: &mut Sink,
) -> Option<Located<InvalidAction>> {
    value.word(key, INVALID_WORDS, sink)
}

fn read_icmp(value: FileValue<'_>, key: &str, sink: &mut Sink) -> Option<Located<Icmp>> {
    value.word(key, ICMP_WORDS, sink)
}

fn read_log(value: FileValue<'_>, key: &str, sink: &mut Sink) -> Option<Located<Option<String>>> {
    let class = match (value.as_boolean(), value.as_text()) {
        (Some(false), _) => None,
        // `true` is the class "default", as in a rule.
        (Some(true), _) => Some("default".to_owned()),
        (_, Some(class)) => Some(class.to_owned()),
        _ => {
            value.wrong_type(key, "a log class, or false", sink);
            return None;
        }
    };
    Some(Located::new(class, value.span))
}

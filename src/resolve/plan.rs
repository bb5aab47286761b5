//! What a policy means, with every name resolved.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::net::{
    AddressRange, AddressSet, Date, IcmpType, InterfacePattern, IntervalSet, MacAddress, MarkMatch,
    PerFamily, Protocol, Rate, State, TcpFlagsMatch, TimeOfDay, Weekday,
};
use crate::policy::{
    CommandLine, CustomPosition, CustomTable, DefaultAction, Enforce, Expect, Icmp, InvalidAction,
    LogDestination, MangleChange, NatEnd, Order, Over, Per, Preserve, RejectWith, RuleStage, Scope,
    Treatment,
};
use crate::source::Span;

/// A policy with every name resolved and every value filled in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `[defaults]`
    pub defaults: Defaults,
    /// Whose the tables are.
    pub ownership: Ownership,
    /// What is run when a change stays, one after another.
    pub after_apply: Vec<CommandLine>,
    /// The interfaces; a [`Endpoint`] refers to them by index.
    pub interfaces: Vec<PlannedInterface>,
    /// The zones; a [`Endpoint`] refers to them by index.
    pub zones: Vec<Zone>,
    /// The sets of the policy; [`AddressCondition`] refer to them by index.
    pub sets: Vec<AddressGroupSet>,
    /// The log classes; rules and defaults refer to them by index.
    pub log_classes: Vec<LogClass>,
    /// The rules in the order of the policy, the disabled ones too.
    pub rules: Vec<PlannedRule>,
    /// The nat entries in the order of the policy, the disabled ones too.
    pub nat: Vec<PlannedNat>,
    /// What is changed in packets, in the order of the policy, the disabled entries too.
    pub mangle: Vec<PlannedMangle>,
    /// What is done before connections are known, in the order of the policy, the disabled entries too; behind them the
    /// helpers of services that rules accept, in the order of the rules.
    pub raw: Vec<PlannedRaw>,
    /// The custom rules that are enabled, in the order of the policy.
    pub custom: Vec<PlannedCustom>,
    /// The tests in the order of the policy.
    pub tests: Vec<PlannedTest>,
    /// What the policy calls things.
    pub names: Names,
}

/// Names for people, whether a rule uses them or not: nothing is decided by them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The groups of addresses of which the policy knows all.
    pub addresses: Vec<(String, AddressSet)>,
    /// The services of the policy, then those of the catalog that its rules and tests name.
    pub services: Vec<(String, Vec<ServicePart>)>,
}

/// Whose the tables are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// All of raw, mangle, nat and filter is fwc's, but what of others is to stay.
    Exclusive {
        /// What stays.
        preserve: Vec<Preserve>,
    },
    /// Only chains named `FWC-*` and the jumps to them are fwc's.
    Shared,
}

impl Default for Ownership {
    fn default() -> Self {
        Self::Exclusive {
            preserve: Vec::new(),
        }
    }
}

/// `[defaults]`, complete.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// What happens in INPUT when no rule decides.
    pub input: DefaultAction,
    /// What happens in FORWARD when no rule decides.
    pub forward: DefaultAction,
    /// What happens in OUTPUT when no rule decides.
    pub output: DefaultAction,
    /// By chain policy or by last rule.
    pub enforce: Enforce,
    /// Everything on the loopback device passes.
    pub loopback: bool,
    /// ESTABLISHED and RELATED pass.
    pub established: bool,
    /// What happens to INVALID.
    pub invalid: InvalidAction,
    /// Which ICMP passes without a rule.
    pub icmp: Icmp,
    /// The answers to this host's DHCP client pass.
    pub dhcp_client: bool,
    /// Sources that belong to another interface's networks are dropped.
    pub antispoof: bool,
    /// The log class of what the default action denies.
    pub log: Option<usize>,
    /// The answer of a default of reject.
    pub reject_with: RejectWith,
}

/// A named group of devices.
#[derive(Clone, Debug)]
pub struct PlannedInterface {
    /// Its name in the policy.
    pub name: String,
    /// Its devices; disjoint.
    pub devices: Vec<InterfacePattern>,
    /// The networks behind it: prefixes.
    pub networks: Vec<AddressRange>,
    /// The families of the parts of rules that name it.
    pub scope: Scope,
}

/// A named set of hosts: the union of its members.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name in the policy.
    pub name: String,
    /// At least one.
    pub members: Vec<ZoneMember>,
}

/// Hosts behind one interface, in some networks, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneMember {
    /// The interface, by its index; `None` is every device.
    pub interface: Option<usize>,
    /// The networks; `None` is every address.
    pub networks: Option<AddressSet>,
}

/// A log class, complete.
#[derive(Clone, Debug)]
pub struct LogClass {
    /// Who writes it.
    pub target: LogDestination,
    /// What stands before the packet; fits the target.
    pub prefix: String,
    /// syslog level of LOG.
    pub level: u8,
    /// At most this often.
    pub rate: Rate,
    /// So many at once.
    pub burst: u32,
    /// netlink group of NFLOG.
    pub group: u16,
}

/// One element of `from` or `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Every device; never this host.
    Any,
    /// This host.
    Host,
    /// An interface, by its index.
    Interface(usize),
    /// A zone, by its index.
    Zone(usize),
}

impl Plan {
    /// Whether others have rules in the same tables, so that fwc's stand in chains of its own.
    pub fn is_shared(&self) -> bool {
        self.ownership == Ownership::Shared
    }

    /// What the policy knows to be in some addresses, in sets or not; and whether others may put in more.
    pub fn known(&self, addresses: &AddressCondition) -> (AddressSet, bool) {
        let mut known = addresses.set.clone();
        let mut open = false;
        for set in &addresses.sets {
            match &self.sets[*set].members {
                Members::Static(members) => known = known.union(members),
                Members::Dynamic { .. } => open = true,
            }
        }
        (known, open)
    }

    /// What a place stands for: `any` and `host` are one member that asks for nothing.
    pub fn members(&self, place: Endpoint) -> Vec<ZoneMember> {
        match place {
            Endpoint::Any | Endpoint::Host => vec![ZoneMember::default()],
            Endpoint::Interface(index) => vec![ZoneMember {
                interface: Some(index),
                networks: None,
            }],
            Endpoint::Zone(index) => self.zones[index].members.clone(),
        }
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Let through.
    Accept,
    /// Drop.
    Drop,
    /// Refuse with this answer.
    Reject(RejectWith),
    /// Log and go on.
    Log,
}

/// A group of addresses that the kernel keeps in an ipset of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressGroupSet {
    /// Its name in the policy.
    pub name: String,
    /// What is in it.
    pub members: Members,
}

/// What is in a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// What the policy says.
    Static(AddressSet),
    /// What others put in.
    Dynamic {
        /// How long an entry stays, in seconds; `None` is for ever.
        timeout: Option<u32>,
        /// How many entries it holds at most; `None` is ipset's own default.
        size: Option<u32>,
    },
}

/// `source` or `destination` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressCondition {
    /// The addresses that were named, but those in sets.
    pub set: AddressSet,
    /// The sets that were named too, by index.
    pub sets: Vec<usize>,
    /// Everything but those is meant.
    pub negated: bool,
}

/// Ports of one protocol: a packet fits when both its ports do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePorts {
    /// The protocol; one that has ports.
    pub protocol: Protocol,
    /// Source ports; `None` is every port.
    pub source: Option<IntervalSet>,
    /// Destination ports; `None` is every port.
    pub destination: Option<IntervalSet>,
}

/// One part of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePart {
    /// Ports of a protocol.
    Ports(ServicePorts),
    /// Every packet of a protocol.
    Protocol(Protocol),
    /// An ICMP type, in IPv4.
    Icmp(IcmpType),
    /// An ICMPv6 type, in IPv6.
    Icmpv6(IcmpType),
}

/// So many packets in a time, and what happens to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How often.
    pub rate: Rate,
    /// How many at once.
    pub burst: u32,
    /// What is counted together.
    pub per: Per,
    /// Beyond it.
    pub over: Over,
}

/// So many connections at the same time, and what happens to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// At most.
    pub max: u32,
    /// What is counted together.
    pub per: Per,
    /// Beyond it.
    pub over: Over,
}

/// When a rule holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The days, ascending; `None` is every day.
    pub days: Option<Vec<Weekday>>,
    /// From when until when; across midnight where it ends before it begins. `None` is the whole day.
    pub hours: Option<(TimeOfDay, TimeOfDay)>,
    /// In the kernel's timezone instead of UTC.
    pub local: bool,
}

/// One rule. Keys that are `None` do not narrow it.
#[derive(Clone, Debug)]
pub struct PlannedRule {
    /// The rule in the policy.
    pub span: Span,
    /// What it is called in comments: its name, or its words.
    pub label: String,
    /// Whether the label is a name, which is unique.
    pub named: bool,
    /// The comment that its lines carry into the kernel.
    pub comment: Option<String>,
    /// What the policy says about it for people.
    pub remark: Option<String>,
    /// What it does.
    pub action: RuleAction,
    /// Where its packets come from; `None` when it was not written.
    pub from: Option<Vec<Endpoint>>,
    /// Where they go; `None` when it was not written.
    pub to: Option<Vec<Endpoint>>,
    /// Their source addresses.
    pub source: Option<AddressCondition>,
    /// Their destination addresses.
    pub destination: Option<AddressCondition>,
    /// The union of these parts.
    pub service: Option<Vec<ServicePart>>,
    /// A set that is not ours, of their source addresses.
    pub ipset: Option<String>,
    /// The families that were asked for; `None` when it was not written.
    pub scope: Option<Scope>,
    /// Their connection states.
    pub state: Option<BTreeSet<State>>,
    /// Their mark.
    pub mark: Option<MarkMatch>,
    /// Their source MAC address.
    pub mac: Option<MacAddress>,
    /// Their TCP flags.
    pub tcp_flags: Option<TcpFlagsMatch>,
    /// The user whose processes send them.
    pub user: Option<u32>,
    /// The group whose processes send them.
    pub group: Option<u32>,
    /// How often.
    pub limit: Option<Limit>,
    /// How many connections at the same time.
    pub connections: Option<Connections>,
    /// When the rule holds.
    pub schedule: Option<Schedule>,
    /// The last day on which it holds.
    pub expires: Option<Date>,
    /// When the rule is asked.
    pub stage: RuleStage,
    /// Where it stands among the others.
    pub order: Order,
    /// The log class of its packets.
    pub log: Option<usize>,
    /// A disabled rule decides nothing.
    pub enabled: bool,
}

/// One nat entry: the first that has a new connection's packet translates it.
#[derive(Clone, Debug)]
pub struct PlannedNat {
    /// Its packets, said with the keys of a rule. `source`, `destination` and `service` are those of the packet as it
    /// comes to the nat table, `to` is where it ends.
    pub packets: PlannedRule,
    /// What becomes of them.
    pub translation: PlannedTranslation,
}

/// What becomes of a connection's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedTranslation {
    /// The source becomes the address of the device by which it leaves.
    Masquerade,
    /// The source becomes one of these; one element of a family at most.
    Snat(Vec<NatEnd>),
    /// The destination becomes one of these.
    Dnat {
        /// At least one; those of a family take turns.
        backends: Vec<NatEnd>,
        /// Whether what is translated is accepted too.
        accept: bool,
        /// Where the hosts are that reach a backend beside them by the same address; `None` is nowhere.
        hairpin: Option<Vec<Endpoint>>,
    },
    /// The destination becomes this host, at this port.
    Redirect {
        /// The port.
        port: u16,
        /// Whether what is translated is accepted too.
        accept: bool,
    },
    /// A prefix becomes another one of the same length, the rest of the address stays.
    Netmap {
        /// Which address it is.
        side: NatSide,
        /// The new prefixes; one of a family at most.
        to: Vec<AddressRange>,
    },
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatSide {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// An entry of `[[mangle]]`.
#[derive(Clone, Debug)]
pub struct PlannedMangle {
    /// Its packets: those that a rule with these keys has. `from` and `to` are written out, but for what is decided before
    /// routing: its `to` is `None`, and where it is from this host it goes anywhere.
    pub packets: PlannedRule,
    /// What becomes of them.
    pub change: MangleChange,
}

impl PlannedMangle {
    /// Whether routing looks at what the entry changes, and nobody asks where the packet leaves.
    pub fn before_routing(&self) -> bool {
        self.packets.to.is_none()
    }
}

/// An entry of `[[raw]]`.
#[derive(Clone, Debug)]
pub struct PlannedRaw {
    /// Its packets: those that a rule with these keys has. `from` and `to` are written out.
    pub packets: PlannedRule,
    /// What is done to them.
    pub treatment: Treatment,
}

/// A rule of iptables.
#[derive(Clone, Debug)]
pub struct PlannedCustom {
    /// The rule in the policy.
    pub span: Span,
    /// What it is called in comments.
    pub label: String,
    /// What the policy says about it for people.
    pub remark: Option<String>,
    /// Its table.
    pub table: CustomTable,
    /// Its chain.
    pub chain: String,
    /// Where it stands in a base chain; `None` in a chain of the policy's own.
    pub place: Option<CustomPosition>,
    /// What stands behind `-A CHAIN`, as `iptables-save` prints it; `None` in a family that the scope leaves out.
    pub rules: PerFamily<Option<String>>,
}

/// What has to hold, whatever the rules are.
#[derive(Clone, Debug)]
pub struct PlannedTest {
    /// The test in the policy.
    pub span: Span,
    /// Its name, which is unique.
    pub name: String,
    /// Its packets, by the keys of a rule: as they arrive, or as this host sends them; `to` is where they end.
    pub packets: PlannedRule,
    /// They arrive for an address of this host: `destination = "host"`.
    pub for_this_host: bool,
    /// What has to become of each.
    pub expect: Expect,
    /// Where that is said.
    pub expect_span: Span,
    /// The dynamic sets that are taken to be empty, by their names in the policy.
    pub empty_sets: Vec<String>,
}

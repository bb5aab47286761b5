//! The plan: a policy with every name resolved and every default filled in.

use crate::diag::ConcernName;
use crate::iptables::Match;
use crate::net::{
    AddressMask, AddressRange, AddressSet, Date, Family, IcmpType, InterfacePattern, IntervalSet,
    MacAddress, MarkMatch, PerFamily, PerHook, PortRange, Protocol, Rate, SetEnds, SetType, State,
    TcpFlagsMatch, TimeOfDay, Weekday,
};
use crate::policy::{
    CommandLine, CustomPosition, CustomTable, DefaultAction, DynamicSet, Enforce, Expect, Icmp,
    InvalidAction, LimitPer, LimitRate, LogDestination, LogOption, MangleChange, NatEnd, Order,
    Over, Per, Preserve, RejectWith, RuleStage, Scope, Treatment,
};
use crate::source::Span;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;

/// A policy with every name resolved and every value filled in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `[defaults]`
    pub defaults: Defaults,
    /// Who owns the tables.
    pub ownership: Ownership,
    /// The commands to run after a change was kept, one after another.
    pub after_apply: Vec<CommandLine>,
    /// The facts about the host that are meant.
    pub allowed_concerns: BTreeSet<ConcernName>,
    /// The interfaces; an [`Endpoint`] refers to them by index.
    pub interfaces: Vec<PlannedInterface>,
    /// The zones; an [`Endpoint`] refers to them by index.
    pub zones: Vec<Zone>,
    /// The ipsets of the policy; [`AddressCondition::sets`] refer to them by index.
    pub sets: Vec<AddressGroupSet>,
    /// The log classes; rules and defaults refer to them by index.
    pub log_classes: Vec<LogClass>,
    /// The rules in the order of the policy, including disabled ones.
    pub rules: Vec<PlannedRule>,
    /// The nat entries in the order of the policy, including disabled ones.
    pub nat: Vec<PlannedNat>,
    /// The mangle entries in the order of the policy, including disabled ones.
    pub mangle: Vec<PlannedMangle>,
    /// The raw entries in the order of the policy, including disabled ones, followed by one for each helper of a service
    /// that a rule accepts, in the order of the rules.
    pub raw: Vec<PlannedRaw>,
    /// The enabled custom rules, in the order of the policy.
    pub custom: Vec<PlannedCustom>,
    /// The tests in the order of the policy.
    pub tests: Vec<PlannedTest>,
    /// Names for output that people read.
    pub names: Names,
}

/// Names for output that people read, whether a rule uses them or not. They decide nothing.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The address groups without dynamic sets, with their members.
    pub addresses: Vec<(String, AddressSet)>,
    /// The services of the policy, then those of the catalog that its rules and tests name.
    pub services: Vec<(String, Vec<ServicePart>)>,
}

/// Who owns the tables raw, mangle, nat and filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// fwc owns all chains of the tables, except those to preserve.
    Exclusive {
        /// The chains and rules of other programs that an apply leaves alone.
        preserve: Vec<Preserve>,
    },
    /// fwc owns only the chains named `FWC-*` and the jumps to them.
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
    /// Whether the chain's policy or a last rule enforces a denying default.
    pub enforce: Enforce,
    /// The families of the host. The defaults of a family that it does not have deny everything except loopback.
    pub families: Scope,
    /// The defaults of each family.
    pub of: PerFamily<FamilyDefaults>,
}

impl Index<Family> for Defaults {
    type Output = FamilyDefaults;

    fn index(&self, family: Family) -> &FamilyDefaults {
        &self.of[family]
    }
}

/// The defaults of one family.
#[derive(Clone, Debug)]
pub struct FamilyDefaults {
    /// The default action in each hook.
    pub actions: PerHook<DefaultAction>,
    /// Accept everything on the loopback device. Not in FORWARD.
    pub loopback: PerHook<bool>,
    /// Accept ESTABLISHED and RELATED packets.
    pub established: PerHook<bool>,
    /// The action for INVALID packets.
    pub invalid: PerHook<InvalidAction>,
    /// The ICMP types to accept without a rule.
    pub icmp: PerHook<Icmp>,
    /// Accept the answers to this host's DHCP client, and its requests. Not in FORWARD.
    pub dhcp_client: PerHook<bool>,
    /// Drop packets whose source belongs to the networks of another interface.
    pub antispoof: bool,
    /// The log class of packets that the default action denies; `None` logs nothing.
    pub log: PerHook<Option<usize>>,
    /// The answer of a rejecting default, and of rejecting rules without their own.
    pub reject_with: RejectWith,
}

/// A named group of devices.
#[derive(Clone, Debug)]
pub struct PlannedInterface {
    /// Its name in the policy.
    pub name: String,
    /// Its devices. The patterns do not overlap, also not with those of other interfaces.
    pub devices: Vec<InterfacePattern>,
    /// The prefixes behind it; empty if the policy does not list any.
    pub networks: Vec<AddressRange>,
    /// The families of rules that name it.
    pub scope: Scope,
}

/// A named set of hosts: the union of its members.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name in the policy.
    pub name: String,
    /// Its members, at least one.
    pub members: Vec<ZoneMember>,
}

/// Hosts behind one interface, in some networks, with or without IPsec, or several of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneMember {
    /// The interface, by its index; `None` for every device.
    pub interface: Option<usize>,
    /// The networks; `None` for every address.
    pub networks: Option<AddressSet>,
    /// Whether packets came out of IPsec (`from`) or will go into it (`to`); `None` for both kinds.
    pub ipsec: Option<bool>,
}

/// A log class, complete.
#[derive(Clone, Debug)]
pub struct LogClass {
    /// The target that writes the entry: LOG or NFLOG.
    pub target: LogDestination,
    /// The text before each entry, no longer than the target allows.
    pub prefix: String,
    /// The syslog level of LOG, 0 to 7.
    pub level: u8,
    /// The limit of entries; `None` logs every packet.
    pub limit: Option<LogLimit>,
    /// The fields that LOG adds.
    pub options: BTreeSet<LogOption>,
    /// The netlink group of NFLOG.
    pub group: u16,
    /// The number of bytes of each packet that NFLOG copies, at most; `None` for the whole packet.
    pub size: Option<u16>,
    /// The number of packets that NFLOG collects for its reader; `None` for the reader's own setting.
    pub threshold: Option<u16>,
}

/// The limit of a log class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimit {
    /// The highest rate of entries.
    pub rate: Rate,
    /// The number of entries that may exceed the rate at once.
    pub burst: u32,
}

/// One element of `from` or `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Every device, but never this host.
    Any,
    /// This host.
    Host,
    /// An interface, by its index.
    Interface(usize),
    /// A zone, by its index.
    Zone(usize),
}

impl Plan {
    /// Returns `true` if other programs have rules in the same tables, so that all rules of fwc are in chains of its own.
    pub fn is_shared(&self) -> bool {
        self.ownership == Ownership::Shared
    }

    /// Returns the addresses that the policy lists for a condition, in sets or not, and `true` if a dynamic set or a mask
    /// adds more.
    pub fn known(&self, addresses: &AddressCondition) -> (AddressSet, bool) {
        let mut known = addresses.listed.clone();
        let mut open = !addresses.masks.is_empty();
        for set in &addresses.sets {
            match &self.sets[*set].members {
                Members::Static(members) => known = known.union(members),
                Members::Dynamic { .. } => open = true,
            }
        }
        (known, open)
    }

    /// Returns `true` if no address of a family is in a condition and in the networks of a zone (`None`: any address), whatever
    /// other programs put into dynamic sets. Masks that are negated do not count: they always leave some address, but of very
    /// small networks.
    pub fn excludes_all(
        &self,
        addresses: &AddressCondition,
        networks: Option<&AddressSet>,
        family: Family,
    ) -> bool {
        let everything = || IntervalSet::from_intervals([(0, family.last_address())]);
        let mut left = networks.map_or_else(everything, |set| set.family(family).clone());
        let mut known = vec![addresses.listed.family(family)];
        for set in &addresses.sets {
            match &self.sets[*set].members {
                Members::Static(members) => known.push(members.family(family)),
                // It may lack any address, and may have any.
                Members::Dynamic { .. } if addresses.negated => {}
                Members::Dynamic { .. } => return left.is_empty(),
            }
        }
        // Set by set: a union of large sets would be sorted anew for each rule.
        if addresses.negated {
            for set in known {
                left = left.difference(set);
            }
            return left.is_empty();
        }
        let is_masked = |mask: AddressMask| {
            let mut parts = left.intervals().iter();
            parts.any(|(first, last)| mask.next_from(*first).is_some_and(|it| it <= *last))
        };
        known.iter().all(|set| left.intersection(set).is_empty())
            && !addresses.masks_of(family).any(is_masked)
    }

    /// Returns the blocks around a rule, from the inside out.
    pub fn blocks_around<'p>(
        &'p self,
        rule: &PlannedRule,
    ) -> impl Iterator<Item = &'p PlannedRule> + use<'p> {
        let block = |index: usize| self.rules.get(index);
        let first = rule.in_block.and_then(block);
        std::iter::successors(first, move |rule| rule.in_block.and_then(block))
    }

    /// Returns the rules of a block, without those of the blocks in it, with their index.
    pub fn rules_of(&self, block: usize) -> impl Iterator<Item = (usize, &PlannedRule)> {
        let rules = self.rules.iter().enumerate();
        rules.filter(move |(_, rule)| rule.in_block == Some(block))
    }

    /// Returns `true` if an endpoint has a member that asks for IPsec, with (`true`) or without (`false`).
    pub fn asks_ipsec(&self, place: Endpoint, with: bool) -> bool {
        let members = self.members(place).into_iter();
        members
            .map(|member| member.ipsec)
            .any(|ipsec| ipsec == Some(with))
    }

    /// Returns the members of an endpoint. `any` and `host` have one member without conditions.
    pub fn members(&self, place: Endpoint) -> Vec<ZoneMember> {
        match place {
            Endpoint::Any | Endpoint::Host => vec![ZoneMember::default()],
            Endpoint::Interface(index) => vec![ZoneMember {
                interface: Some(index),
                ..ZoneMember::default()
            }],
            Endpoint::Zone(index) => self.zones[index].members.clone(),
        }
    }
}

/// The action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Accept the packet.
    Accept,
    /// Drop the packet.
    Drop,
    /// Drop the packet and send the answer of its family.
    Reject(PerFamily<RejectWith>),
    /// Log the packet and continue with the next rule.
    Log,
    /// Count the packet and continue with the next rule.
    Continue,
    /// Ask the rules of the block, which are those that name it in [`PlannedRule::within`].
    Block(Finally),
}

/// The action for packets of a block that none of its rules decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finally {
    /// The next rule after the block decides.
    Next,
    /// Accept the packet.
    Accept,
    /// Drop the packet.
    Drop,
    /// Drop the packet and send the answer of its family.
    Reject(PerFamily<RejectWith>),
}

/// A group of addresses that the kernel keeps in an ipset of each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressGroupSet {
    /// Its name in the policy.
    pub name: String,
    /// Its members.
    pub members: Members,
}

impl AddressGroupSet {
    /// Returns what its members are.
    pub fn kind(&self) -> SetType {
        match &self.members {
            Members::Static(_) => SetType::Net,
            Members::Dynamic(set) => set.kind,
        }
    }
}

/// The members of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// The policy lists them.
    Static(AddressSet),
    /// Other programs add them.
    Dynamic(DynamicSet),
}

/// `source` or `destination` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressCondition {
    /// The addresses that are not in sets.
    pub listed: AddressSet,
    /// The addresses with a mask.
    pub masks: Vec<AddressMask>,
    /// The sets, by their index in [`Plan::sets`].
    pub sets: Vec<usize>,
    /// Match every address except those.
    pub negated: bool,
    /// The condition is asked of replies: a member with a port has the one that the request went to, where the reply
    /// comes from.
    pub of_reply: bool,
}

impl AddressCondition {
    /// Returns the masks of a family.
    pub fn masks_of(&self, family: Family) -> impl Iterator<Item = AddressMask> {
        let masks = self.masks.iter().copied();
        masks.filter(move |mask| mask.family == family)
    }
}

/// The values of a key of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOf<T> {
    /// The values, at least one.
    pub values: Vec<T>,
    /// `false`: a packet must have one of the values. `true`: it must have none of them.
    pub negated: bool,
}

impl<T> OneOf<T> {
    /// Returns the key with one value, not negated.
    pub fn only(value: T) -> Self {
        Self {
            values: vec![value],
            negated: false,
        }
    }
}

/// An ipset that fwc does not manage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSet {
    /// Its name in the kernel.
    pub name: String,
    /// Match what is not in it.
    pub negated: bool,
    /// The ends of a packet that its members are compared with.
    pub ends: SetEnds,
}

/// Ports of one protocol. A packet matches if both its ports do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePorts {
    /// The protocol, which has ports.
    pub protocol: Protocol,
    /// Source ports; `None` for every port.
    pub source: Option<IntervalSet>,
    /// Destination ports; `None` for every port.
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
    /// Every ICMP type of a family, in that family.
    EveryIcmp(Family),
}

/// `original`: the destination of the connection's first packet, before it was translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedOriginal {
    /// The destination, without sets.
    pub destination: Option<AddressCondition>,
    /// The destination ports of each protocol.
    pub ports: Option<BTreeMap<Protocol, IntervalSet>>,
}

/// `match`: matches of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMatch {
    /// As `iptables-save` prints them; `None` in a family whose iptables does not take them.
    pub texts: PerFamily<Option<String>>,
    /// The same, as they are read.
    pub matches: PerFamily<Vec<Match>>,
    /// One of them counts each time that it is asked.
    pub counts: bool,
}

/// A rate limit, and the action beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name of a limit of `[limits]`: all rules that have it count in the same buckets, one of each family. `None` for a
    /// limit of one rule, which has buckets of its own in each hook.
    pub shared: Option<String>,
    /// The rate.
    pub rate: LimitRate,
    /// The packets that share a bucket.
    pub per: LimitPer,
    /// The action beyond the limit.
    pub over: Over,
}

/// A limit of simultaneous connections, and the action beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// The largest number of connections.
    pub max: u32,
    /// Whether the rule or each source has a limit.
    pub per: Per,
    /// The action beyond the limit.
    pub over: Over,
}

/// The days and hours at which a rule holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The days, ascending; `None` for every day.
    pub days: Option<Vec<Weekday>>,
    /// Start and end; across midnight if the end is before the start. `None` for the whole day.
    pub hours: Option<(TimeOfDay, TimeOfDay)>,
    /// The times are in the kernel's timezone instead of UTC.
    pub local: bool,
}

/// A rule, or the packets of another entry with the keys of a rule. A key that is `None` does not narrow it.
#[derive(Clone, Debug)]
pub struct PlannedRule {
    /// The rule in the policy.
    pub span: Span,
    /// Its description in the comments of rules files: its name, or a summary of its keys.
    pub label: String,
    /// The label is a name, and unique.
    pub named: bool,
    /// The `-m comment` of its lines.
    pub comment: Option<String>,
    /// The policy's `comment` about it, for people.
    pub remark: Option<String>,
    /// The action.
    pub action: RuleAction,
    /// The origins of its packets; `None` if the key is not written.
    pub from: Option<Vec<Endpoint>>,
    /// The places that `from` leaves out: interfaces and zones. `from` is [`Endpoint::Any`] then.
    pub not_from: Option<Vec<Endpoint>>,
    /// Their destinations; `None` if the key is not written.
    pub to: Option<Vec<Endpoint>>,
    /// The places that `to` leaves out: interfaces and zones. `to` is [`Endpoint::Any`] then.
    pub not_to: Option<Vec<Endpoint>>,
    /// Their source addresses.
    pub source: Option<AddressCondition>,
    /// Their destination addresses.
    pub destination: Option<AddressCondition>,
    /// The services; a packet matches if one of these parts does.
    pub service: Option<Vec<ServicePart>>,
    /// Services that a packet must not match; `service` is `None` then.
    pub not_service: Option<Vec<ServicePart>>,
    /// A match of an ipset that fwc does not manage; it may be negated.
    pub ipset: Option<ForeignSet>,
    /// The families; `None` if the key is not written.
    pub scope: Option<Scope>,
    /// Their connection states.
    pub state: Option<BTreeSet<State>>,
    /// Their mark.
    pub mark: Option<OneOf<MarkMatch>>,
    /// Their source MAC address.
    pub mac: Option<OneOf<MacAddress>>,
    /// Their TCP flags.
    pub tcp_flags: Option<OneOf<TcpFlagsMatch>>,
    /// The first packet of their connection.
    pub original: Option<PlannedOriginal>,
    /// Matches of iptables that must hold, too.
    pub matches: Option<PlannedMatch>,
    /// The users whose processes send them.
    pub user: Option<OneOf<u32>>,
    /// The groups whose processes send them.
    pub group: Option<OneOf<u32>>,
    /// The rate limit.
    pub limit: Option<Limit>,
    /// The limit of simultaneous connections.
    pub connections: Option<Connections>,
    /// The days and hours at which the rule holds.
    pub schedule: Option<Schedule>,
    /// The last day on which it holds.
    pub expires: Option<Date>,
    /// The stage of the chain: before ESTABLISHED is accepted, or after the preamble.
    pub stage: RuleStage,
    /// Its order among the rules of its stage.
    pub order: Order,
    /// The log class of its packets.
    pub log: Option<usize>,
    /// `false` if the rule or a block around it is disabled: it has no lines.
    pub enabled: bool,
    /// The block that the rule is in, by its index in [`Plan::rules`], which is lower than that of the rule. A packet of the rule
    /// also fits all keys of the block, from which the rule has `from`, `to`, `stage` and `order`.
    pub in_block: Option<usize>,
}

impl PlannedRule {
    /// Returns `true` if a rule accepts packets, or a block those that none of its rules decides.
    pub fn accepts(&self) -> bool {
        matches!(
            self.action,
            RuleAction::Accept | RuleAction::Block(Finally::Accept)
        )
    }

    /// Returns `true` if a rule denies packets, or a block those that none of its rules decides.
    pub fn denies(&self) -> bool {
        match self.action {
            RuleAction::Drop | RuleAction::Reject(_) => true,
            RuleAction::Block(Finally::Drop | Finally::Reject(_)) => true,
            RuleAction::Accept | RuleAction::Log | RuleAction::Continue => false,
            RuleAction::Block(Finally::Next | Finally::Accept) => false,
        }
    }
}

/// An entry of `[[nat]]`. The first entry that matches the first packet of a connection translates it.
#[derive(Clone, Debug)]
pub struct PlannedNat {
    /// Its packets. `source`, `destination` and `service` match the packet before the translation, `to` is its final
    /// destination.
    pub packets: PlannedRule,
    /// Their translation.
    pub translation: PlannedTranslation,
    /// The kernel takes a random port where it has a choice.
    pub random: bool,
    /// A client gets the same address of a range for all its connections.
    pub persistent: bool,
}

/// The translation of a connection's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedTranslation {
    /// The source becomes the address of the outgoing device.
    Masquerade {
        /// The ports to choose the new source port from.
        ports: Option<PortRange>,
    },
    /// The source becomes one of these, at most one element of each family.
    Snat(Vec<NatEnd>),
    /// The destination becomes one of these.
    Dnat {
        /// The new destinations, at least one; those of a family take turns.
        backends: Vec<NatEnd>,
        /// Accept the translated packets in the filter table.
        accept: bool,
        /// The places of hosts that reach a backend in their own network by the public address; `None` without `hairpin`.
        hairpin: Option<Vec<Endpoint>>,
    },
    /// The destination becomes this host, at this port.
    Redirect {
        /// The new port.
        port: u16,
        /// Accept the translated packets in the filter table.
        accept: bool,
    },
    /// A prefix becomes another one of the same length; the host bits stay.
    Netmap {
        /// The address that changes.
        side: NatSide,
        /// The new prefixes, at most one of each family.
        to: Vec<AddressRange>,
    },
    /// No later entry translates this address.
    Untranslated(NatSide),
}

/// The address that a netmap changes, or that stays.
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
    /// Its packets. `from` is always set. `to` is `None` for a change before routing, when the outgoing device is not
    /// known: such an entry matches packets of this host to anywhere.
    pub packets: PlannedRule,
    /// The change.
    pub change: MangleChange,
}

impl PlannedMangle {
    /// Returns `true` if the entry belongs before routing: routing can read what it changes, and it has no `to`.
    pub fn before_routing(&self) -> bool {
        self.packets.to.is_none()
    }
}

/// An entry of `[[raw]]`.
#[derive(Clone, Debug)]
pub struct PlannedRaw {
    /// Its packets. `from` and `to` are always set.
    pub packets: PlannedRule,
    /// The treatment.
    pub treatment: Treatment,
}

/// A custom rule, written in the words of iptables.
#[derive(Clone, Debug)]
pub struct PlannedCustom {
    /// The rule in the policy.
    pub span: Span,
    /// Its description in comments.
    pub label: String,
    /// The policy's `comment` about it, for people.
    pub remark: Option<String>,
    /// Its table.
    pub table: CustomTable,
    /// Its chain; empty in a block, whose chains have names of their own.
    pub chain: String,
    /// Its position in a base chain or a block; `None` in a chain of the policy's own.
    pub place: Option<CustomPosition>,
    /// The text after `-A CHAIN`, as `iptables-save` prints it; `None` in a family that the scope leaves out.
    pub rules: PerFamily<Option<String>>,
}

/// A test: what the rules must do with some packets.
#[derive(Clone, Debug)]
pub struct PlannedTest {
    /// The test in the policy.
    pub span: Span,
    /// Its name, which is unique.
    pub name: String,
    /// Its packets, as they arrive or as this host sends them; `to` is their final destination.
    pub packets: PlannedRule,
    /// The packets are for an address of this host: `destination = "host"`.
    pub for_this_host: bool,
    /// The expected outcome for every packet.
    pub expect: Expect,
    /// The place of the expectation in the policy.
    pub expect_span: Span,
    /// The dynamic sets that the test assumes to be empty, by their names in the policy.
    pub empty_sets: Vec<String>,
}

//! Decides one packet directly from the policy as it is written.
//!
//! This is slow and obvious on purpose, since `expand` and `verify` are tested against it: nothing here resolves the
//! policy, computes with sets of packets, or knows rules of iptables.

mod addresses;
mod antispoof;
mod follow;
mod mangle;
mod nat;
mod original;
mod places;
mod preamble;
mod raw;
mod rule;
mod services;

pub use follow::{Chance, PolicyTrace, follow};
pub use mangle::{Mangled, Moment, mangle};
pub use nat::{BackendTurn, NatChain, NewAddress, NewEnd};
pub use raw::{RawTreatment, raw};

use rule::Shows;

use super::{
    Action, CustomPosition, CustomTable, DefaultAction, LogChoice, Mode, Order, Over, Policy,
    PolicyFamilyDefaults, PolicyRule, PolicySchedule, RejectWith, RuleStage,
};
use crate::net::{AddressRange, Date, Family, Hook, Packet, PortRange, Protocol, SetEnds};
use crate::source::Located;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyVerdict {
    /// The packet is accepted.
    Accept,
    /// The packet is dropped without an answer.
    Drop,
    /// The packet is dropped, and its sender gets this answer.
    Reject(RejectAnswer),
    /// A custom rule decides. It is in the words of iptables, which this module does not read.
    Custom,
    /// The packet returns to the base chain, where rules of other programs decide (shared mode).
    Continue,
}

/// The answer to a rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectAnswer {
    /// A TCP RST.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP host unreachable; in IPv6 address unreachable.
    HostUnreachable,
    /// ICMP network unreachable; in IPv6 no route to the destination.
    NetUnreachable,
    /// ICMP communication administratively prohibited.
    AdminProhibited,
    /// ICMP host prohibited; IPv4 only.
    HostProhibited,
    /// ICMP network prohibited; IPv4 only.
    NetProhibited,
    /// ICMP protocol unreachable; IPv4 only.
    ProtoUnreachable,
    /// ICMPv6 source address failed policy; IPv6 only.
    PolicyFail,
    /// ICMPv6 reject route to destination; IPv6 only.
    RejectRoute,
}

/// The part of the policy that decides a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// `antispoof`
    Antispoof,
    /// The entry of this index in [`Policy::raw`], which drops the packet.
    RawDrop(usize),
    /// The entry of this index in [`Policy::mangle`], which drops the packet.
    Mangle(usize),
    /// `loopback`
    Loopback,
    /// `established`
    Established,
    /// `icmp`
    Icmp,
    /// `invalid`
    Invalid,
    /// `dhcp-client`
    DhcpClient,
    /// The rule of this index in [`Policy::rules`].
    Rule(usize),
    /// The entry of this index in [`Policy::nat`], which accepts what it translated.
    Nat(usize),
    /// The entry of this index in [`Policy::raw`]: the packet is a reply to an untracked request that a rule accepts.
    Raw(usize),
    /// A custom rule at this position.
    Custom(CustomPosition),
    /// `input`, `forward` or `output`
    Default,
}

/// The verdict on a packet and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: PolicyVerdict,
    /// The part of the policy that decided.
    pub by: DecidedBy,
    /// The logs of the packet in the table that decides, in their order. Each has a rate, beyond which it writes nothing.
    pub logs: Vec<Logged>,
}

/// A log of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The log class.
    pub class: String,
    /// The rule, by its index in [`Policy::rules`]; `None` for the default action and for entries.
    pub rule: Option<usize>,
}

/// A condition of a policy that the packet alone does not answer. Rules are named by their index in [`Policy::rules`].
#[derive(Clone, Copy, Debug)]
pub enum Circumstance<'p> {
    /// The rule's `limit` is not used up.
    WithinLimit(usize),
    /// The rule's `connections` are not exceeded.
    WithinConnections(usize),
    /// A process of this user sends it.
    User(u32),
    /// A process of this group sends it.
    Group(u32),
    /// It is the time of this schedule.
    Time(&'p PolicySchedule),
    /// The current date is not after this one.
    NotAfter(Date),
    /// The dynamic set of this name contains an address of the packet, or an address and a port.
    InSet {
        /// The group's name.
        name: &'p str,
        /// The ends of the packet that its members are compared with.
        ends: SetEnds,
    },
    /// An ipset that fwc does not own contains an address of the packet.
    InForeignSet {
        /// The set's name.
        name: &'p str,
        /// The ends of the packet that its members are compared with.
        ends: SetEnds,
    },
    /// The packet came out of IPsec.
    FromIpsec,
    /// The packet will go into IPsec.
    IntoIpsec,
    /// An authentication header precedes the protocol; IPv6 only.
    AuthHeader,
    /// The destination is an address of this host.
    ToThisHost,
    /// It is the turn of this backend, and not of one before it.
    Turn(BackendTurn),
    /// The packet goes in the direction of the first packet of its connection.
    OriginalDirection,
    /// The first packet of the connection was sent to an address of this range.
    OriginalDestination(AddressRange),
    /// The first packet of the connection was sent to one of these ports.
    OriginalPort {
        /// The protocol of the connection.
        protocol: Protocol,
        /// The ports.
        ports: PortRange,
    },
    /// All matches of iptables in this text, the `match` of a rule, hold for the packet. They are in the words of iptables,
    /// which this module does not read.
    Matches(&'p Located<String>),
    /// A custom rule at this position of the packet's chain decides the packet.
    Custom(CustomPosition),
}

impl Circumstance<'_> {
    /// Returns whether the circumstance usually holds: limits are not exceeded, schedules are active, sets are empty,
    /// users are unknown, packets are for this host, go in the direction of their connection, and match nothing of iptables, and
    /// the first backend has its turn.
    pub fn usual(self) -> bool {
        match self {
            Self::WithinLimit(_) | Self::WithinConnections(_) => true,
            Self::Time(_) | Self::NotAfter(_) => true,
            Self::User(_) | Self::Group(_) | Self::InSet { .. } => false,
            Self::InForeignSet { .. } | Self::AuthHeader => false,
            Self::FromIpsec | Self::IntoIpsec => false,
            Self::ToThisHost | Self::Turn(_) => true,
            Self::OriginalDirection => true,
            Self::OriginalDestination(_) | Self::OriginalPort { .. } | Self::Matches(_) => false,
            Self::Custom(_) => false,
        }
    }
}

impl Circumstance<'_> {
    /// Returns the circumstance as it is for the opposite direction.
    fn reversed(self) -> Self {
        match self {
            Self::InSet { name, ends } => Self::InSet {
                name,
                ends: ends.reversed(),
            },
            Self::InForeignSet { name, ends } => Self::InForeignSet {
                name,
                ends: ends.reversed(),
            },
            Self::FromIpsec => Self::IntoIpsec,
            Self::IntoIpsec => Self::FromIpsec,
            other => other,
        }
    }
}

/// Decides one packet under [usual](Circumstance::usual) circumstances: first in the raw table, then in the filter table. No
/// translation and no change in between is assumed. The policy must be one that [`crate::resolve`] accepts: a name without a
/// definition matches nothing.
///
/// ```
/// use fwc::{diag::Sink, files::Access, net::*, policy::{self, DecidedBy, PolicyVerdict}, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let Some(policy) = policy::load(&path, Access::Read, &mut sources, &mut sink) else {
///     panic!("{sink:?}");
/// };
/// let packet = Packet {
///     family: Family::V4,
///     hook: Hook::Input,
///     in_device: Some("eth0".into()),
///     out_device: None,
///     source: "198.51.100.7".parse()?,
///     destination: "192.0.2.1".parse()?,
///     protocol: Protocol::TCP.0,
///     source_port: Some(40000),
///     destination_port: Some(22),
///     icmp: None,
///     tcp_flags: Some(TcpFlags::SYN),
///     state: State::New,
///     hop_limit: 64,
///     mark: 0,
///     mac: None,
///     translated: Translated::default(),
/// };
/// let decision = policy::decide(&policy, &packet);
/// assert_eq!((decision.verdict, decision.by), (PolicyVerdict::Accept, DecidedBy::Rule(0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decide(policy: &Policy, packet: &Packet) -> Decision {
    decide_when(policy, packet, &|circumstance| circumstance.usual())
}

/// Decides one packet like [`decide`], under the circumstances for which `holds` returns `true`.
pub fn decide_when(
    policy: &Policy,
    packet: &Packet,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Decision {
    let evaluation = Evaluation {
        policy,
        packet,
        holds,
    };
    evaluation
        .before_tracking()
        .unwrap_or_else(|| evaluation.in_filter())
}

/// Returns the new source or destination of a connection, decided by its first packet, under the circumstances for which
/// `holds` returns `true`; `None` if it is not translated.
///
/// The packet is as it is in the chain: in `Prerouting` it has no out-device yet, in `Postrouting` its destination is
/// the translated one.
///
/// ```
/// use fwc::{diag::Sink, files::Access, net::*, policy::*, source::SourceMap};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, r#"
///     version = 1
///     [[nat]]
///     type = "dnat"
///     service = "http"
///     to-destination = "10.8.0.5:8080"
/// "#)?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let Some(policy) = load(&path, Access::Read, &mut sources, &mut sink) else {
///     panic!("{sink:?}");
/// };
/// let packet = Packet {
///     family: Family::V4,
///     hook: Hook::Input,
///     in_device: Some("eth0".into()),
///     out_device: None,
///     source: "198.51.100.7".parse()?,
///     destination: "192.0.2.1".parse()?,
///     protocol: Protocol::TCP.0,
///     source_port: Some(40000),
///     destination_port: Some(80),
///     icmp: None,
///     tcp_flags: Some(TcpFlags::SYN),
///     state: State::New,
///     hop_limit: 64,
///     mark: 0,
///     mac: None,
///     translated: Translated::default(),
/// };
/// let usual = |circumstance: Circumstance<'_>| circumstance.usual();
/// let end = translate_when(&policy, &packet, NatChain::Prerouting, &usual).unwrap();
/// assert_eq!(end.address, NewAddress::Destination(AddressRange::parse("10.8.0.5").unwrap()));
/// assert_eq!(end.ports, PortRange::parse("8080").ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn translate_when(
    policy: &Policy,
    packet: &Packet,
    chain: NatChain,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Option<NewEnd> {
    let evaluation = Evaluation {
        policy,
        packet,
        holds,
    };
    nat::translate(evaluation, chain)
}

/// Returns the entry, by its index in [`Policy::nat`], that a packet matches first in a chain of the nat table, under the
/// circumstances for which `holds` returns `true`. An entry of `no-snat` or `no-dnat` matches, too; the hairpin of a `dnat`
/// does not.
pub fn nat_entry_when(
    policy: &Policy,
    packet: &Packet,
    chain: NatChain,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Option<usize> {
    let evaluation = Evaluation {
        policy,
        packet,
        holds,
    };
    nat::first(evaluation, chain)
}

/// Returns the log of the packets of an entry of `[[nat]]`, `[[mangle]]` or `[[raw]]`; `None` if it does not log.
pub fn entry_log(packets: &PolicyRule) -> Option<Logged> {
    let class = match packets.log.as_ref().map(|log| &log.value)? {
        LogChoice::Class(class) => class.clone(),
        LogChoice::Default => "default".to_owned(),
        LogChoice::Off => return None,
    };
    Some(Logged { class, rule: None })
}

/// The evaluation of one packet.
#[derive(Clone, Copy)]
struct Evaluation<'a> {
    policy: &'a Policy,
    packet: &'a Packet,
    holds: &'a dyn Fn(Circumstance<'_>) -> bool,
}

impl Evaluation<'_> {
    /// Decides the packet in the raw table: `antispoof` and the entries that drop.
    fn before_tracking(&self) -> Option<Decision> {
        let (by, logs) = match raw::dropped(*self) {
            _ if self.is_spoofed() => (DecidedBy::Antispoof, Vec::new()),
            entry => (DecidedBy::RawDrop(entry?), raw::logs(*self)),
        };
        Some(Decision {
            verdict: PolicyVerdict::Drop,
            by,
            logs,
        })
    }

    /// Decides the packet in the filter table.
    fn in_filter(&self) -> Decision {
        let mut logs = Vec::new();
        let (verdict, by) = self.filter(&mut logs);
        Decision { verdict, by, logs }
    }

    /// Decides the packet in the chain of its hook, from the preamble to the default.
    fn filter(&self, logs: &mut Vec<Logged>) -> (PolicyVerdict, DecidedBy) {
        if is_closed(self.policy, self.packet.family) {
            return self.closed_family();
        }
        let default = default_of(self.policy, self.packet.hook, self.packet.family);
        let any = |action| rule::any_in(self.policy, self.packet.hook, action);
        // A chain without rules that denies nothing has no preamble either: it is empty.
        if !any(None) {
            match default {
                DefaultAction::Accept => return (PolicyVerdict::Accept, DecidedBy::Default),
                DefaultAction::Continue => return (PolicyVerdict::Continue, DecidedBy::Default),
                DefaultAction::Drop | DefaultAction::Reject => {}
            }
        }
        let continues = default == DefaultAction::Continue;
        if self.loopback() {
            return (PolicyVerdict::Accept, DecidedBy::Loopback);
        }
        if let Some(decided) = self.rules(RuleStage::Early, logs) {
            return decided;
        }
        if self.established() && (!continues || any(Some(Action::Accept))) {
            return (PolicyVerdict::Accept, DecidedBy::Established);
        }
        if self.icmp_accepted() {
            return (PolicyVerdict::Accept, DecidedBy::Icmp);
        }
        if let Some(verdict) = self.invalid().filter(|_| !continues) {
            return (verdict, DecidedBy::Invalid);
        }
        if self.dhcp_client() {
            return (PolicyVerdict::Accept, DecidedBy::DhcpClient);
        }
        if let Some(decided) = self.custom(CustomPosition::Before) {
            return decided;
        }
        if let Some(decided) = self.rules(RuleStage::Main, logs) {
            return decided;
        }
        if let Some(entry) = nat::accepted(*self) {
            return (PolicyVerdict::Accept, DecidedBy::Nat(entry));
        }
        if let Some(entry) = raw::replied(*self) {
            return (PolicyVerdict::Accept, DecidedBy::Raw(entry));
        }
        if let Some(decided) = self.custom(CustomPosition::After) {
            return decided;
        }
        let verdict = match default {
            DefaultAction::Accept => PolicyVerdict::Accept,
            DefaultAction::Continue => PolicyVerdict::Continue,
            _ if !self.is_for_the_default() => PolicyVerdict::Continue,
            DefaultAction::Drop => PolicyVerdict::Drop,
            DefaultAction::Reject => PolicyVerdict::Reject(self.answer(None)),
        };
        if matches!(verdict, PolicyVerdict::Drop | PolicyVerdict::Reject(_)) {
            let class = match self.default_key(|keys| keys.log[self.packet.hook].as_ref()) {
                Some(class) => class.clone(),
                None if self.policy.defaults.no_preamble.is_some() => None,
                None => Some("denied".to_owned()),
            };
            logs.extend(class.map(|class| Logged { class, rule: None }));
        }
        (verdict, DecidedBy::Default)
    }

    /// Decides a packet of a family that the host does not have: what this host sends to itself passes, everything else
    /// is dropped. In shared mode other programs decide what it forwards and sends.
    fn closed_family(&self) -> (PolicyVerdict, DecidedBy) {
        let device = match self.packet.hook {
            Hook::Input => &self.packet.in_device,
            Hook::Forward | Hook::Output if is_shared(self.policy) => {
                return (PolicyVerdict::Continue, DecidedBy::Default);
            }
            Hook::Forward => return (PolicyVerdict::Drop, DecidedBy::Default),
            Hook::Output => &self.packet.out_device,
        };
        match device.as_deref() {
            Some("lo") => (PolicyVerdict::Accept, DecidedBy::Loopback),
            _ => (PolicyVerdict::Drop, DecidedBy::Default),
        }
    }

    /// Returns the value of a key of the defaults for the packet's family, if it is written.
    fn default_key<T>(
        &self,
        key: impl Fn(&PolicyFamilyDefaults) -> Option<&Located<T>>,
    ) -> Option<&T> {
        default_key(self.policy, self.packet.family, key)
    }

    /// Returns `true` if the default applies to the packet. In shared mode the default of FORWARD applies only between
    /// devices of the policy, since other programs forward too.
    fn is_for_the_default(&self) -> bool {
        let is_own = |device: &Option<String>| {
            let own = self.policy.interfaces.iter();
            let mut own = own.flat_map(|interface| &interface.value.devices);
            let device = device.as_deref();
            device.is_some_and(|device| own.any(|own| own.value.matches(device)))
        };
        !is_shared(self.policy)
            || self.packet.hook != Hook::Forward
            || (is_own(&self.packet.in_device) && is_own(&self.packet.out_device))
    }

    /// Returns the positions of the enabled custom rules of the packet's chain.
    fn customs(&self) -> impl Iterator<Item = CustomPosition> {
        let customs = self.policy.custom.iter().filter(|custom| {
            let table = custom.table.as_ref().map(|table| table.value);
            let chain = custom.chain.as_ref().map(|chain| chain.value.as_str());
            custom.enabled
                && table.is_none_or(|table| table == CustomTable::Filter)
                && chain == Some(self.packet.hook.chain())
        });
        customs.map(|custom| custom.position())
    }

    /// Returns the decision of a custom rule at a position, if there is one and it decides the packet.
    fn custom(&self, position: CustomPosition) -> Option<(PolicyVerdict, DecidedBy)> {
        let any = self.customs().any(|own| own == position);
        let decides = any && (self.holds)(Circumstance::Custom(position));
        decides.then_some((PolicyVerdict::Custom, DecidedBy::Custom(position)))
    }

    /// Returns the positions of custom rules among the rules of a stage, as the number of rules that are written before
    /// them, ascending. Only stage main has any.
    fn customs_here(&self, stage: RuleStage) -> Vec<usize> {
        let mut counts: Vec<usize> = Vec::new();
        for position in self.customs() {
            if let CustomPosition::Behind(count) = position
                && stage == RuleStage::Main
                && !counts.contains(&count)
            {
                counts.push(count);
            }
        }
        counts.sort_unstable();
        counts
    }

    /// Returns the decision of the first rule of a stage that matches and does more than log.
    fn rules(
        &self,
        stage: RuleStage,
        logs: &mut Vec<Logged>,
    ) -> Option<(PolicyVerdict, DecidedBy)> {
        let mut customs = self.customs_here(stage).into_iter().peekable();
        for (index, rule) in rule::in_order(self.policy, stage) {
            let order = rule.order.as_ref().map_or(Order::Normal, |own| own.value);
            // A custom rule is placed like a rule of order normal.
            while let Some(count) = customs.next_if(|count| match order {
                Order::First => false,
                Order::Normal => *count <= index,
                Order::Last => true,
            }) {
                if let Some(decided) = self.custom(CustomPosition::Behind(count)) {
                    return Some(decided);
                }
            }
            if self.is_in(rule)
                && let Some(decided) = self.rule(index, rule, logs)
            {
                return Some(decided);
            }
        }
        customs.find_map(|count| self.custom(CustomPosition::Behind(count)))
    }

    /// Returns the decision of a rule about a packet that fits it, or of the block that it is; `None` if the next rule
    /// decides.
    fn rule(
        &self,
        index: usize,
        rule: &PolicyRule,
        logs: &mut Vec<Logged>,
    ) -> Option<(PolicyVerdict, DecidedBy)> {
        let action = match &rule.block {
            Some(block) => rule::finally(block),
            None => Some(rule.action.as_ref().map_or(Action::Accept, |own| own.value)),
        };
        let beyond = match &rule.block {
            Some(_) => self.beyond(index, rule, Action::Continue),
            None => self.beyond(index, rule, action?),
        };
        if beyond == Some(Over::Continue) {
            return None;
        }
        let class = match rule.log.as_ref().map(|log| &log.value) {
            Some(LogChoice::Class(class)) => Some(class.clone()),
            Some(LogChoice::Default) => Some("default".to_owned()),
            None if action == Some(Action::Log) => Some("default".to_owned()),
            Some(LogChoice::Off) | None => None,
        };
        logs.extend(class.map(|class| Logged {
            class,
            rule: Some(index),
        }));
        let by = DecidedBy::Rule(index);
        match beyond {
            Some(Over::Drop) => return Some((PolicyVerdict::Drop, by)),
            Some(Over::Reject) => {
                return Some((PolicyVerdict::Reject(self.answer(None)), by));
            }
            Some(Over::Continue) | None => {}
        }
        if rule.block.is_some() {
            let customs = self.policy.custom.iter();
            let customs = customs.filter(|custom| custom.enabled && custom.in_block == Some(index));
            let mut customs: Vec<_> = customs.map(|custom| custom.position()).collect();
            customs.dedup();
            let mut customs = customs.into_iter().peekable();
            let decides = |position: &CustomPosition| (self.holds)(Circumstance::Custom(*position));
            let by_custom = |position| (PolicyVerdict::Custom, DecidedBy::Custom(position));
            let rules = self.policy.rules.iter().enumerate();
            for (inner, rule) in rules.filter(|(_, rule)| rule.in_block == Some(index)) {
                while let Some(position) = customs.next_if(|position| match position {
                    CustomPosition::InBlock { behind, .. } => *behind <= inner,
                    _ => false,
                }) {
                    if decides(&position) {
                        return Some(by_custom(position));
                    }
                }
                if self.fits(rule, Shows::Everything)
                    && let Some(decided) = self.rule(inner, rule, logs)
                {
                    return Some(decided);
                }
            }
            if let Some(position) = customs.find(|position| decides(position)) {
                return Some(by_custom(position));
            }
        }
        let own = rule.reject_with.as_ref().map(|with| with.value);
        let verdict = match action? {
            Action::Log | Action::Continue => return None,
            Action::Accept => PolicyVerdict::Accept,
            Action::Drop => PolicyVerdict::Drop,
            Action::Reject => PolicyVerdict::Reject(self.answer(own)),
        };
        Some((verdict, by))
    }

    /// Returns the action beyond the rule's limits, if one is exceeded. Connections are counted first.
    ///
    /// The `limit` of a log rule replaces the rate of its class: it limits the log, and decides nothing.
    fn beyond(&self, index: usize, rule: &PolicyRule, action: Action) -> Option<Over> {
        if let Some(connections) = &rule.connections
            && !(self.holds)(Circumstance::WithinConnections(index))
        {
            return Some(connections.over);
        }
        if let Some(limit) = &rule.limit
            && let Some(limit) = rule::limit_of(self.policy, limit)
            && action != Action::Log
            && !(self.holds)(Circumstance::WithinLimit(index))
        {
            return Some(limit.over.as_ref().map_or(Over::Drop, |over| over.value));
        }
        None
    }

    /// Returns the answer of a reject: the rule's own, else that of the defaults.
    fn answer(&self, own: Option<RejectWith>) -> RejectAnswer {
        let of_defaults = self.default_key(|keys| keys.reject_with.as_ref()).copied();
        let is_v4 = self.packet.family == Family::V4;
        match own.or(of_defaults).unwrap_or(RejectWith::Default) {
            RejectWith::Default if self.packet.protocol == Protocol::TCP.0 => {
                RejectAnswer::TcpReset
            }
            RejectWith::Default | RejectWith::PortUnreachable => RejectAnswer::PortUnreachable,
            RejectWith::TcpReset => RejectAnswer::TcpReset,
            RejectWith::HostUnreachable => RejectAnswer::HostUnreachable,
            RejectWith::NetUnreachable => RejectAnswer::NetUnreachable,
            RejectWith::AdminProhibited => RejectAnswer::AdminProhibited,
            RejectWith::HostProhibited if is_v4 => RejectAnswer::HostProhibited,
            RejectWith::NetProhibited if is_v4 => RejectAnswer::NetProhibited,
            RejectWith::HostProhibited | RejectWith::NetProhibited => RejectAnswer::AdminProhibited,
            RejectWith::ProtoUnreachable if is_v4 => RejectAnswer::ProtoUnreachable,
            RejectWith::ProtoUnreachable => RejectAnswer::PortUnreachable,
            RejectWith::PolicyFail if is_v4 => RejectAnswer::AdminProhibited,
            RejectWith::PolicyFail => RejectAnswer::PolicyFail,
            RejectWith::RejectRoute if is_v4 => RejectAnswer::NetUnreachable,
            RejectWith::RejectRoute => RejectAnswer::RejectRoute,
        }
    }
}

/// Returns the default action of a hook in a family that the host has.
fn default_of(policy: &Policy, hook: Hook, family: Family) -> DefaultAction {
    let written = default_key(policy, family, |keys| keys.actions[hook].as_ref());
    written.copied().unwrap_or(match hook {
        Hook::Input => DefaultAction::Drop,
        Hook::Forward | Hook::Output if is_shared(policy) => DefaultAction::Continue,
        Hook::Forward => DefaultAction::Drop,
        Hook::Output => DefaultAction::Accept,
    })
}

/// Returns the value of a key in `[defaults.ipv4]` or `[defaults.ipv6]`, else that in `[defaults]`; `None` if neither has
/// it.
fn default_key<'p, T>(
    policy: &'p Policy,
    family: Family,
    key: impl Fn(&'p PolicyFamilyDefaults) -> Option<&'p Located<T>>,
) -> Option<&'p T> {
    let of_family = key(&policy.defaults.own[family]);
    let written = of_family.or_else(|| key(&policy.defaults.both));
    written.map(|written| &written.value)
}

/// Returns `true` if the host does not have a family (`families`).
fn is_closed(policy: &Policy, family: Family) -> bool {
    let families = policy.defaults.families.as_ref();
    families.is_some_and(|families| !families.value.has(family))
}

fn is_shared(policy: &Policy) -> bool {
    let mode = policy.ownership.mode.as_ref();
    mode.is_some_and(|mode| mode.value == Mode::Shared)
}

#[cfg(test)]
mod tests;

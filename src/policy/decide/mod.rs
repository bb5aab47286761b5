//! What becomes of one packet, read from the policy as it is written.
//!
//! Slow and obvious on purpose: the yardstick for everything clever. Nothing here resolves the policy, computes with
//! sets of packets or knows a rule of iptables.

mod addresses;
mod antispoof;
mod follow;
mod mangle;
mod nat;
mod places;
mod preamble;
mod raw;
mod rule;
mod services;

pub use follow::{Chance, PolicyTrace, follow};
pub use mangle::{Mangled, Moment, mangle};
pub use nat::{BackendTurn, NatChain, NewAddress, NewEnd};
pub use raw::{RawTreatment, raw};

use super::{
    Action, CustomPosition, CustomTable, DefaultAction, LogChoice, Mode, Order, Over, Policy,
    PolicyRule, PolicySchedule, RejectWith, RuleStage,
};
use crate::net::{Date, Hook, Packet, Protocol};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyVerdict {
    /// It passes.
    Accept,
    /// It is dropped without a word.
    Drop,
    /// It is dropped, and its sender gets this answer.
    Reject(RejectAnswer),
    /// A custom rule decides, which only iptables can read.
    Custom,
    /// It goes back to the base chain, where others decide.
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
}

/// What decides a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecidedBy {
    /// `antispoof` of the defaults.
    Antispoof,
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
    /// The entry of this index in [`Policy::nat`], which translated it.
    Nat(usize),
    /// The entry of this index in [`Policy::raw`]: it is a reply to what a rule accepts.
    Raw(usize),
    /// A custom rule at this position.
    Custom(CustomPosition),
    /// `input`, `forward` or `output`
    Default,
}

/// The verdict on a packet and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub verdict: PolicyVerdict,
    /// What decided.
    pub by: DecidedBy,
    /// Who logs it on the way, in their order. Their rates may keep any of them silent.
    pub logs: Vec<Logged>,
}

/// Somebody who logs a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The log class.
    pub class: String,
    /// The rule by its index in [`Policy::rules`]; `None` is the default action.
    pub rule: Option<usize>,
}

/// What a packet does not tell, and a policy may ask. Rules are named by their index in [`Policy::rules`].
#[derive(Clone, Copy, Debug)]
pub enum Circumstance<'p> {
    /// The rule's `limit` is not used up.
    WithinLimit(usize),
    /// There are no more than the rule's `connections`.
    WithinConnections(usize),
    /// A process of this user sends it.
    User(u32),
    /// A process of this group sends it.
    Group(u32),
    /// It is the time of this schedule.
    Time(&'p PolicySchedule),
    /// The day is not over.
    NotAfter(Date),
    /// The dynamic set of this name has the packet's source, or else its destination.
    InSet {
        /// The group's name.
        name: &'p str,
        /// The source is asked for.
        source: bool,
    },
    /// The set of somebody else has the packet's source, or else its destination.
    InForeignSet {
        /// The set's name.
        name: &'p str,
        /// The source is asked for.
        source: bool,
    },
    /// It came in a tunnel of IPsec.
    FromIpsec,
    /// An authentication header stands before its protocol; asked of IPv6 only.
    AuthHeader,
    /// The destination is an address of this host.
    ToThisHost,
    /// It is the turn of a backend, and of none before it.
    Turn(BackendTurn),
    /// A custom rule at this position of the packet's chain decides it.
    Custom(CustomPosition),
}

impl Circumstance<'_> {
    /// What holds for most packets: limits are not used up, it is time, dynamic sets are empty, nothing is known of users;
    /// and what is not said to go elsewhere goes to this host, to the first of several backends.
    pub fn usual(self) -> bool {
        match self {
            Self::WithinLimit(_) | Self::WithinConnections(_) => true,
            Self::Time(_) | Self::NotAfter(_) => true,
            Self::User(_) | Self::Group(_) | Self::InSet { .. } => false,
            Self::InForeignSet { .. } | Self::FromIpsec | Self::AuthHeader => false,
            Self::ToThisHost | Self::Turn(_) => true,
            Self::Custom(_) => false,
        }
    }
}

impl Circumstance<'_> {
    /// The same asked about the packet that goes the other way.
    fn turned(self) -> Self {
        match self {
            Self::InSet { name, source } => Self::InSet {
                name,
                source: !source,
            },
            Self::InForeignSet { name, source } => Self::InForeignSet {
                name,
                source: !source,
            },
            other => other,
        }
    }
}

/// Decides one packet in the filter hook in which it is, under [usual](Circumstance::usual) circumstances. The policy must
/// be one that [`crate::resolve`] takes: a name without a definition stands for nothing.
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

/// The same under circumstances that `holds` knows.
pub fn decide_when(
    policy: &Policy,
    packet: &Packet,
    holds: &dyn Fn(Circumstance<'_>) -> bool,
) -> Decision {
    let way = Way {
        policy,
        packet,
        holds,
    };
    let mut logs = Vec::new();
    let (verdict, by) = way.filter(&mut logs);
    Decision { verdict, by, logs }
}

/// What becomes of a new connection's source or destination by its first packet, under circumstances that `holds` knows;
/// `None`: it stays.
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
    let way = Way {
        policy,
        packet,
        holds,
    };
    nat::translate(way, chain)
}

/// A packet on its way through a policy.
#[derive(Clone, Copy)]
struct Way<'a> {
    policy: &'a Policy,
    packet: &'a Packet,
    holds: &'a dyn Fn(Circumstance<'_>) -> bool,
}

impl Way<'_> {
    /// The chain of the packet's hook, from its first line to its default; before it, where it comes from outside,
    /// whether it may have its source.
    fn filter(&self, logs: &mut Vec<Logged>) -> (PolicyVerdict, DecidedBy) {
        if self.is_spoofed() {
            return (PolicyVerdict::Drop, DecidedBy::Antispoof);
        }
        let default = default_of(self.policy, self.packet.hook);
        let any = |action| rule::any_in(self.policy, self.packet.hook, action);
        if !any(None) {
            match default {
                DefaultAction::Accept => return (PolicyVerdict::Accept, DecidedBy::Default),
                DefaultAction::Continue => return (PolicyVerdict::Continue, DecidedBy::Default),
                DefaultAction::Drop | DefaultAction::Reject => {}
            }
        }
        let goes_on = default == DefaultAction::Continue;
        if self.loopback() {
            return (PolicyVerdict::Accept, DecidedBy::Loopback);
        }
        if let Some(decided) = self.rules(RuleStage::Early, logs) {
            return decided;
        }
        if self.established() && (!goes_on || any(Some(Action::Accept))) {
            return (PolicyVerdict::Accept, DecidedBy::Established);
        }
        if self.icmp_accepted() {
            return (PolicyVerdict::Accept, DecidedBy::Icmp);
        }
        if let Some(verdict) = self.invalid().filter(|_| !goes_on) {
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
            let class = match self.policy.defaults.log.as_ref().map(|log| &log.value) {
                Some(class) => class.clone(),
                None => Some("denied".to_owned()),
            };
            logs.extend(class.map(|class| Logged { class, rule: None }));
        }
        (verdict, DecidedBy::Default)
    }

    /// Where others forward too, what the policy denies by default is only what goes from a device of its own to another.
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

    /// The enabled custom rules of the packet's chain, by their positions.
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

    /// What becomes of the packet if a custom rule at a position decides it.
    fn custom(&self, position: CustomPosition) -> Option<(PolicyVerdict, DecidedBy)> {
        let any = self.customs().any(|own| own == position);
        let decides = any && (self.holds)(Circumstance::Custom(position));
        decides.then_some((PolicyVerdict::Custom, DecidedBy::Custom(position)))
    }

    /// The custom rules among the rules of stage main, each by the number of rules that are written before it, in order.
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

    /// The first rule of a stage that has the packet and does not only log it.
    fn rules(
        &self,
        stage: RuleStage,
        logs: &mut Vec<Logged>,
    ) -> Option<(PolicyVerdict, DecidedBy)> {
        let mut customs = self.customs_here(stage).into_iter().peekable();
        for (index, rule) in rule::in_order(self.policy, stage) {
            let order = rule.order.as_ref().map_or(Order::Normal, |own| own.value);
            // A custom rule stands where a rule of order normal would.
            while let Some(count) = customs.next_if(|count| match order {
                Order::First => false,
                Order::Normal => *count <= index,
                Order::Last => true,
            }) {
                if let Some(decided) = self.custom(CustomPosition::Behind(count)) {
                    return Some(decided);
                }
            }
            if !self.is_in(rule) {
                continue;
            }
            let action = rule.action.as_ref().map_or(Action::Accept, |a| a.value);
            let beyond = self.beyond(index, rule, action);
            if beyond == Some(Over::Continue) {
                continue;
            }
            let class = match rule.log.as_ref().map(|log| &log.value) {
                Some(LogChoice::Class(class)) => Some(class.clone()),
                Some(LogChoice::Default) => Some("default".to_owned()),
                None if action == Action::Log => Some("default".to_owned()),
                Some(LogChoice::Off) | None => None,
            };
            logs.extend(class.map(|class| Logged {
                class,
                rule: Some(index),
            }));
            let own = rule.reject_with.as_ref().map(|with| with.value);
            let verdict = match (beyond, action) {
                (Some(Over::Drop), _) => PolicyVerdict::Drop,
                (Some(Over::Reject), _) => PolicyVerdict::Reject(self.answer(None)),
                (_, Action::Log) => continue,
                (_, Action::Accept) => PolicyVerdict::Accept,
                (_, Action::Drop) => PolicyVerdict::Drop,
                (_, Action::Reject) => PolicyVerdict::Reject(self.answer(own)),
            };
            return Some((verdict, DecidedBy::Rule(index)));
        }
        customs.find_map(|count| self.custom(CustomPosition::Behind(count)))
    }

    /// What happens when the rule has had enough: connections are counted first.
    ///
    /// The `limit` of a rule that logs is how often it writes a line, instead of its class's rate.
    fn beyond(&self, index: usize, rule: &PolicyRule, action: Action) -> Option<Over> {
        if let Some(connections) = &rule.connections
            && !(self.holds)(Circumstance::WithinConnections(index))
        {
            return Some(connections.over);
        }
        if let Some(limit) = &rule.limit
            && action != Action::Log
            && !(self.holds)(Circumstance::WithinLimit(index))
        {
            return Some(limit.over.as_ref().map_or(Over::Drop, |over| over.value));
        }
        None
    }

    /// The answer of a reject: the rule's own, else that of the defaults.
    fn answer(&self, own: Option<RejectWith>) -> RejectAnswer {
        let of_defaults = self
            .policy
            .defaults
            .reject_with
            .as_ref()
            .map(|with| with.value);
        match own.or(of_defaults).unwrap_or(RejectWith::Default) {
            RejectWith::Default if self.packet.protocol == Protocol::TCP.0 => {
                RejectAnswer::TcpReset
            }
            RejectWith::Default | RejectWith::PortUnreachable => RejectAnswer::PortUnreachable,
            RejectWith::TcpReset => RejectAnswer::TcpReset,
            RejectWith::HostUnreachable => RejectAnswer::HostUnreachable,
            RejectWith::NetUnreachable => RejectAnswer::NetUnreachable,
            RejectWith::AdminProhibited => RejectAnswer::AdminProhibited,
        }
    }
}

/// What happens in a hook to a packet that no rule decides.
fn default_of(policy: &Policy, hook: Hook) -> DefaultAction {
    let defaults = &policy.defaults;
    let (written, otherwise) = match hook {
        Hook::Input => (&defaults.input, DefaultAction::Drop),
        Hook::Forward if is_shared(policy) => (&defaults.forward, DefaultAction::Continue),
        Hook::Forward => (&defaults.forward, DefaultAction::Drop),
        Hook::Output if is_shared(policy) => (&defaults.output, DefaultAction::Continue),
        Hook::Output => (&defaults.output, DefaultAction::Accept),
    };
    written.as_ref().map_or(otherwise, |written| written.value)
}

fn is_shared(policy: &Policy) -> bool {
    let mode = policy.ownership.mode.as_ref();
    mode.is_some_and(|mode| mode.value == Mode::Shared)
}

#[cfg(test)]
mod tests;

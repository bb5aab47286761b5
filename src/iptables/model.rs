//! What a rules file says, in types.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::value::{Interface, MarkMask, Negatable, Network, PortRange};
use crate::net::{Family, State, TcpFlags};

/// The rules of one family: what one `iptables-save` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The tables in the order in which `iptables-save` prints them, each at most once.
    pub tables: Vec<Table>,
}

impl Ruleset {
    /// A ruleset without tables.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            tables: Vec::new(),
        }
    }

    /// The table of a name.
    pub fn table(&self, name: TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// The tables that exist, in the order in which `iptables-save` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableName {
    /// Changes to packets.
    Mangle,
    /// Mandatory access control.
    Security,
    /// Before connection tracking.
    Raw,
    /// Verdicts.
    Filter,
    /// Address translation.
    Nat,
}

impl TableName {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Mangle,
        Self::Security,
        Self::Raw,
        Self::Filter,
        Self::Nat,
    ];

    /// The word after `*`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Security => "security",
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// The table of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == word)
    }

    /// Its base chains, in the order in which `iptables-save` prints them.
    pub const fn base_chains(self) -> &'static [&'static str] {
        match self {
            Self::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            Self::Security | Self::Filter => &["INPUT", "FORWARD", "OUTPUT"],
            Self::Raw => &["PREROUTING", "OUTPUT"],
            Self::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which.
    pub name: TableName,
    /// All base chains in the kernel's order, then the other chains by name.
    pub chains: Vec<Chain>,
}

impl Table {
    /// A table with its base chains, which accept everything.
    pub fn new(name: TableName) -> Self {
        let base = name.base_chains().iter();
        Self {
            name,
            chains: base
                .map(|&chain| Chain::new(chain, Some(Policy::Accept)))
                .collect(),
        }
    }

    /// The chain of a name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| &*chain.name == name)
    }
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Box<str>,
    /// What happens at its end; `None` for a user-defined chain.
    pub policy: Option<Policy>,
    /// The policy's counters as they were read.
    pub counters: Counters,
    /// The rules in their order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain without rules.
    pub fn new(name: &str, policy: Option<Policy>) -> Self {
        Self {
            name: name.into(),
            policy,
            counters: Counters::default(),
            rules: Vec::new(),
        }
    }
}

/// What a base chain does with a packet that no rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is thrown away.
    Drop,
}

impl Policy {
    /// The word of the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
        }
    }
}

/// How many packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[{}:{}]", self.packets, self.bytes)
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The conditions, all of which must hold: addresses, interfaces, protocol and fragment in the order in which
    /// `iptables-save` prints them and each at most once, then the modules in the order of the file.
    pub matches: Vec<Match>,
    /// What happens.
    pub target: Target,
    /// The counters, where the file has them.
    pub counters: Option<Counters>,
    /// The line that it was read from, from 1; 0 where there is none. One line may give several rules.
    pub line: u32,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// `-s`
    Source(Negatable<Network>),
    /// `-d`
    Destination(Negatable<Network>),
    /// `-i`
    InInterface(Negatable<Interface>),
    /// `-o`
    OutInterface(Negatable<Interface>),
    /// `-p`: an IP protocol number, never 0
    Protocol(Negatable<u8>),
    /// `-f` (IPv4): a fragment that is not the first; with `!`: a first fragment or no fragment.
    Fragment {
        /// `! -f`
        negated: bool,
    },
    /// `-m tcp`
    Tcp(Tcp),
    /// `-m udp`
    Udp(Ports),
    /// `-m sctp`: ports, and the settings that are not typed (`--chunk-types`)
    Sctp(Ports, Vec<Setting>),
    /// `-m dccp`: ports, and the settings that are not typed (`--dccp-types`, `--dccp-option`)
    Dccp(Ports, Vec<Setting>),
    /// `-m multiport`
    Multiport(Negatable<Box<Multiport>>),
    /// `-m icmp` in IPv4, `-m icmp6` in IPv6
    Icmp(Negatable<IcmpType>),
    /// `-m conntrack`
    Conntrack(Conntrack),
    /// `-m state`; never SNAT or DNAT
    State(Negatable<States>),
    /// `-m comment`: always holds; at most 255 bytes
    Comment(Box<str>),
    /// `-m addrtype`
    AddressType(AddressType),
    /// `-m mark`: the packet's mark
    Mark(Negatable<MarkMask>),
    /// `-m connmark`: the connection's mark
    ConnectionMark(Negatable<MarkMask>),
    /// `-m mac`: the source address
    Mac(Negatable<[u8; 6]>),
    /// `-m iprange`
    AddressRange(Box<AddressRange>),
    /// `-m set`: an ipset
    Set(Box<SetMatch>),
    /// `-m ttl` in IPv4, `-m hl` in IPv6
    HopLimit(HopLimit),
    /// `-m pkttype`
    PacketType(Negatable<PacketType>),
    /// A known module whose options are kept in canonical form.
    Other(Box<Module>),
    /// A module that is not known, as it was written.
    Unknown(Box<Unknown>),
}

/// Source and destination ports; both must hold where both are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// `--sport`
    pub source: Option<Negatable<PortRange>>,
    /// `--dport`
    pub destination: Option<Negatable<PortRange>>,
}

/// `-m tcp`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// The ports.
    pub ports: Ports,
    /// `--tcp-option`: the header has the option
    pub option: Option<Negatable<u8>>,
    /// `--tcp-flags`, `--syn`
    pub flags: Option<Negatable<FlagTest>>,
}

/// `--tcp-flags MASK SET`: of the flags in `mask` exactly those in `set` are set (a flag outside `mask` never is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlagTest {
    /// The flags that are looked at.
    pub mask: TcpFlags,
    /// Those of them that must be set.
    pub set: TcpFlags,
}

/// `-m multiport`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Multiport {
    /// Which port is compared.
    pub side: PortSide,
    /// At most 15 ports, a range counting twice.
    pub ports: Vec<PortRange>,
}

/// Which port `-m multiport` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortSide {
    /// `--sports`
    Source,
    /// `--dports`
    Destination,
    /// `--ports`: one of both fits
    Either,
}

/// The operand of `--icmp-type` and `--icmpv6-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpType {
    /// Every type (IPv4 only).
    Any,
    /// One type, and its codes from `first_code` to `last_code`.
    Type {
        /// The type.
        kind: u8,
        /// The lowest code.
        first_code: u8,
        /// The highest code.
        last_code: u8,
    },
}

/// `-m conntrack`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conntrack {
    /// `--ctstate`
    pub states: Option<Negatable<States>>,
    /// All other settings.
    pub settings: Vec<Setting>,
}

/// A set of connection states, and of the two marks that address translation leaves on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct States(pub(super) u8);

impl States {
    /// The connection's source was translated.
    pub const SNAT: Self = Self(1 << 5);
    /// The connection's destination was translated.
    pub const DNAT: Self = Self(1 << 6);

    /// The set of these states.
    pub fn of(states: &[State]) -> Self {
        Self(
            states
                .iter()
                .fold(0, |bits, &state| bits | Self::bit(state)),
        )
    }

    /// Whether the state is one of them.
    pub fn contains(self, state: State) -> bool {
        self.0 & Self::bit(state) != 0
    }

    /// Whether SNAT is one of them.
    pub fn has_snat(self) -> bool {
        self.0 & Self::SNAT.0 != 0
    }

    /// Whether DNAT is one of them.
    pub fn has_dnat(self) -> bool {
        self.0 & Self::DNAT.0 != 0
    }

    /// The states, without SNAT and DNAT, in the order of printing.
    pub fn iter(self) -> impl Iterator<Item = State> {
        State::ALL
            .into_iter()
            .filter(move |&state| self.contains(state))
    }

    const fn bit(state: State) -> u8 {
        match state {
            State::Invalid => 1,
            State::New => 2,
            State::Related => 4,
            State::Established => 8,
            State::Untracked => 16,
        }
    }

    pub(super) fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// `-m addrtype`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressType {
    /// `--src-type`
    pub source: Option<Negatable<AddressTypes>>,
    /// `--dst-type`
    pub destination: Option<Negatable<AddressTypes>>,
    /// `--limit-iface-in`, `--limit-iface-out`: ask the routing table about this interface only
    pub limit: Option<Direction>,
}

/// A set of routing types, as bits in the order of [`AddressTypes::NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressTypes(pub u16);

impl AddressTypes {
    /// The words, lowest bit first.
    pub const NAMES: [&'static str; 12] = [
        "UNSPEC",
        "UNICAST",
        "LOCAL",
        "BROADCAST",
        "ANYCAST",
        "MULTICAST",
        "BLACKHOLE",
        "UNREACHABLE",
        "PROHIBIT",
        "THROW",
        "NAT",
        "XRESOLVE",
    ];

    /// The words of the types in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let bits = (0..).zip(Self::NAMES);
        bits.filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

/// In or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Where the packet came in.
    In,
    /// Where the packet leaves.
    Out,
}

/// `-m iprange`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// `--src-range`: first and last
    pub source: Option<Negatable<(IpAddr, IpAddr)>>,
    /// `--dst-range`: first and last
    pub destination: Option<Negatable<(IpAddr, IpAddr)>>,
}

/// `-m set`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetMatch {
    /// `! --match-set`
    pub negated: bool,
    /// The set.
    pub name: Box<str>,
    /// `src` (true) or `dst` (false) for each dimension of the set.
    pub from_source: Vec<bool>,
    /// All other settings.
    pub settings: Vec<Setting>,
}

/// `-m ttl`, `-m hl`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopLimit {
    /// `--ttl-eq`
    Equal(Negatable<u8>),
    /// `--ttl-lt`
    Less(u8),
    /// `--ttl-gt`
    Greater(u8),
}

/// How a packet was addressed on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// To this host.
    Unicast,
    /// To all.
    Broadcast,
    /// To a group.
    Multicast,
}

/// A known match or target and its settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// The name after `-m` or `-j`.
    pub name: &'static str,
    /// The settings in the order of printing.
    pub settings: Vec<Setting>,
}

impl Module {
    /// The mark that `TPROXY` gives packets.
    pub fn proxy_mark(&self) -> Option<MarkMask> {
        let mark = self.setting("tproxy-mark")?;
        let (value, mask) = mark.value.split_once('/')?;
        let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        (self.name == "TPROXY").then_some(MarkMask {
            value: number(value)?,
            mask: number(mask)?,
        })
    }

    /// The setting of an option's printed name, without dashes.
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }
}

/// One option as `iptables-save` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    /// The option's name without dashes.
    pub name: &'static str,
    /// `!` before it.
    pub negated: bool,
    /// Its value in canonical form, with quotes where they are printed; empty for an option without value.
    pub value: Box<str>,
}

/// A match or target that is not known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unknown {
    /// The name after `-m` or `-j`.
    pub name: Box<str>,
    /// The words that follow.
    pub arguments: Vec<Box<str>>,
}

impl Unknown {
    /// Whether it is a target that wrote packets down and let them go on, wherever there was one: `ULOG`, which kernels before
    /// 3.17 had. Nothing loads it today, but many a file has it.
    pub fn is_old_log(&self) -> bool {
        &*self.name == "ULOG"
    }
}

/// What a rule does with a packet that all its conditions hold for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Nothing but count.
    None,
    /// Let the packet pass this table.
    Accept,
    /// Throw it away.
    Drop,
    /// Back to the chain that jumped here; in a base chain: the policy.
    Return,
    /// Hand it to a program (`QUEUE`, number 0).
    Queue,
    /// `-j CHAIN`
    Jump(Box<str>),
    /// `-g CHAIN`: like a jump, but what returns from it returns from this chain too
    Goto(Box<str>),
    /// Throw it away and answer.
    Reject(Reject),
    /// Write a line and go on.
    Log(Box<Log>),
    /// `MARK`: the packet's mark becomes `(mark & !mask) ^ value`; go on.
    Mark(MarkMask),
    /// Address translation.
    Nat(Box<Nat>),
    /// A known target whose options are kept in canonical form.
    Other(Box<Module>),
    /// A target that is not known, as it was written.
    Unknown(Box<Unknown>),
}

/// What a rejected packet is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// A TCP RST.
    TcpReset,
    /// An ICMP error, by its name in iptables (`icmp-port-unreachable`, `icmp6-no-route` ...).
    Icmp(&'static str),
}

impl Reject {
    /// The word after `--reject-with`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpReset => "tcp-reset",
            Self::Icmp(name) => name,
        }
    }
}

/// `-j LOG`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// `--log-prefix`, at most 29 bytes; empty when there is none.
    pub prefix: Box<str>,
    /// `--log-level`, as syslog numbers them: 0 emergency to 7 debug.
    pub level: u8,
    /// `--log-tcp-sequence`, `--log-tcp-options`, `--log-ip-options`, `--log-uid`, `--log-macdecode`, in this order.
    pub flags: [bool; 5],
}

impl Log {
    /// The level that is not printed: warning.
    pub const DEFAULT_LEVEL: u8 = 4;
}

/// The targets of the nat table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nat {
    /// Which.
    pub kind: NatKind,
    /// The new addresses, first and last (`SNAT`, `DNAT`); of `NETMAP` those of its network.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The new ports.
    pub ports: Option<PortRange>,
    /// `DNAT`: the port that the first of `ports` stands for.
    pub base_port: Option<u16>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub random_fully: bool,
    /// `--persistent`
    pub persistent: bool,
}

impl Nat {
    /// A translation of a kind, and nothing else said.
    pub fn new(kind: NatKind) -> Self {
        Self {
            kind,
            addresses: None,
            ports: None,
            base_port: None,
            random: false,
            random_fully: false,
            persistent: false,
        }
    }
}

/// The kinds of address translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// New source.
    Snat,
    /// New destination.
    Dnat,
    /// The destination becomes this host.
    Redirect,
    /// The source becomes the outgoing interface's address.
    Masquerade,
    /// The network's part of an address is exchanged: of the destination in PREROUTING and OUTPUT, of the source in
    /// INPUT and POSTROUTING.
    Netmap,
}

impl NatKind {
    /// The word after `-j`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snat => "SNAT",
            Self::Dnat => "DNAT",
            Self::Redirect => "REDIRECT",
            Self::Masquerade => "MASQUERADE",
            Self::Netmap => "NETMAP",
        }
    }
}

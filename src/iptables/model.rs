//! The types of a ruleset: tables, chains, rules, matches and targets.
//!
//! Matches and targets that fwc reasons about have a type of their own; all others are a module with settings, kept as text
//! in the form that `iptables-save` prints. Equal values mean rules that print alike.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::value::{Interface, MarkMask, Negatable, Network, PortMatch};
use crate::net::{Family, State, TcpFlags};

/// The rules of one address family: what one run of `iptables-save` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The address family.
    pub family: Family,
    /// The tables in the order in which `iptables-save` prints them, each at most once.
    pub tables: Vec<Table>,
}

impl Ruleset {
    /// Returns a ruleset without tables.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            tables: Vec::new(),
        }
    }

    /// Returns the table of this name, if the ruleset has it.
    pub fn table(&self, name: TableName) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// The tables of iptables, in the order in which `iptables-save` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableName {
    /// `mangle`: changes packets.
    Mangle,
    /// `security`: marks for mandatory access control (SELinux).
    Security,
    /// `raw`: rules before connection tracking.
    Raw,
    /// `filter`: accepts, drops and rejects packets.
    Filter,
    /// `nat`: translates addresses, for the first packet of each connection.
    Nat,
}

impl TableName {
    /// All tables.
    pub const ALL: [Self; 5] = [
        Self::Mangle,
        Self::Security,
        Self::Raw,
        Self::Filter,
        Self::Nat,
    ];

    /// All tables in the order in which fwc loads them: those that prepare packets before the one that filters them, so
    /// that new verdicts never meet packets that the other tables have not prepared yet.
    pub const LOAD_ORDER: [Self; 5] = [
        Self::Raw,
        Self::Mangle,
        Self::Nat,
        Self::Filter,
        Self::Security,
    ];

    /// Returns the name, as after `*` in a rules file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Security => "security",
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// Returns the table of a name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == word)
    }

    /// Returns the base chains of the table, in the order in which `iptables-save` prints them.
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

/// A table with its chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The name of the table.
    pub name: TableName,
    /// All base chains in the kernel's order, then the user-defined chains by name.
    pub chains: Vec<Chain>,
}

impl Table {
    /// Returns a table whose base chains have no rules and accept everything.
    pub fn new(name: TableName) -> Self {
        let base = name.base_chains().iter();
        Self {
            name,
            chains: base
                .map(|&chain| Chain::new(chain, Some(ChainPolicy::Accept)))
                .collect(),
        }
    }

    /// Returns the chain of this name, if the table has it.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| &*chain.name == name)
    }

    /// Returns the indices in [`Self::chains`] of a chain and of all chains that its rules lead to, also through other
    /// chains; none if the table does not have the chain.
    pub fn reached_from(&self, chain: &str) -> BTreeSet<usize> {
        let names = self.chains.iter().map(|chain| &*chain.name);
        let index: HashMap<&str, usize> = names.zip(0..).collect();
        let mut open: Vec<usize> = index.get(chain).copied().into_iter().collect();
        let mut reached = BTreeSet::new();
        while let Some(chain) = open.pop() {
            if !reached.insert(chain) {
                continue;
            }
            let rules = self.chains[chain].rules.iter();
            open.extend(rules.filter_map(|rule| match &rule.target {
                Target::Jump(name) | Target::Goto(name) => index.get(&**name).copied(),
                _ => None,
            }));
        }
        reached
    }
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The name of the chain.
    pub name: Box<str>,
    /// The policy of a base chain; `None` for a user-defined chain.
    pub policy: Option<ChainPolicy>,
    /// The counters of the policy, as they were read.
    pub counters: Counters,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Returns a chain without rules.
    pub fn new(name: &str, policy: Option<ChainPolicy>) -> Self {
        Self {
            name: name.into(),
            policy,
            counters: Counters::default(),
            rules: Vec::new(),
        }
    }
}

/// The policy of a base chain: the verdict for a packet that no rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainPolicy {
    /// Accept the packet.
    Accept,
    /// Drop the packet.
    Drop,
}

impl ChainPolicy {
    /// Returns the word of a rules file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
        }
    }
}

/// The packet and byte counters of a rule or a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters {
    /// The number of packets.
    pub packets: u64,
    /// The number of bytes.
    pub bytes: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[{}:{}]", self.packets, self.bytes)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The conditions, all of which must hold: addresses, devices, protocol and fragment in the order in which
    /// `iptables-save` prints them and each at most once, then the modules in the order of the file.
    pub matches: Vec<Match>,
    /// What happens to a packet that matches.
    pub target: Target,
    /// The counters, if the file has them.
    pub counters: Option<Counters>,
    /// The number of the line that it was read from, from 1; 0 for a rule that was not read. A line with several addresses
    /// gives several rules.
    pub line: u32,
}

/// A condition of a rule.
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
    /// `-p`: an IP protocol number, never 0, which is no condition
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
    Sctp(Ports, Vec<ModuleOption>),
    /// `-m dccp`: ports, and the settings that are not typed (`--dccp-types`, `--dccp-option`)
    Dccp(Ports, Vec<ModuleOption>),
    /// `-m multiport`
    Multiport(Negatable<Box<Multiport>>),
    /// `-m icmp` in IPv4, `-m icmp6` in IPv6
    Icmp(Negatable<IcmpMatch>),
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
    AddressRange(Box<RangeMatch>),
    /// `-m set`: an ipset
    Set(Box<SetMatch>),
    /// `-m ttl` in IPv4, `-m hl` in IPv6
    HopLimit(HopLimitMatch),
    /// `-m pkttype`
    PacketType(Negatable<PacketType>),
    /// A known module whose options are kept in canonical form.
    Other(Box<Module>),
    /// A module that is not known, as it was written
    Unknown(Box<UnknownModule>),
}

/// The conditions on ports; both must hold if both are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// `--sport`
    pub source: Option<Negatable<PortMatch>>,
    /// `--dport`
    pub destination: Option<Negatable<PortMatch>>,
}

/// `-m tcp`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// The ports.
    pub ports: Ports,
    /// `--tcp-option`: the header has this option
    pub option: Option<Negatable<u8>>,
    /// `--tcp-flags`, `--syn`
    pub flags: Option<Negatable<FlagTest>>,
}

/// `--tcp-flags MASK SET`: of the flags in `mask`, exactly those in `set` are set. With a flag of `set` outside `mask`, no
/// packet matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlagTest {
    /// The flags that are compared.
    pub mask: TcpFlags,
    /// The flags that must be set.
    pub set: TcpFlags,
}

/// `-m multiport`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Multiport {
    /// The port that is compared.
    pub side: PortSide,
    /// At most 15 ports, where a range counts as two.
    pub ports: Vec<PortMatch>,
}

/// The port that `-m multiport` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortSide {
    /// `--sports`
    Source,
    /// `--dports`
    Destination,
    /// `--ports`: the source or the destination port matches
    Either,
}

/// The operand of `--icmp-type` and `--icmpv6-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpMatch {
    /// Every type (`any`, IPv4 only).
    Any,
    /// One type, with its codes from `first_code` to `last_code`.
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
    pub settings: Vec<ModuleOption>,
}

/// A set of connection states, and of the two virtual states SNAT and DNAT: the connection's source or destination was
/// translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct States(pub(super) u8);

impl States {
    /// SNAT: the connection's source was translated.
    pub const SNAT: Self = Self(1 << 5);
    /// DNAT: the connection's destination was translated.
    pub const DNAT: Self = Self(1 << 6);

    /// Returns the set of these states.
    pub fn of(states: &[State]) -> Self {
        Self(
            states
                .iter()
                .fold(0, |bits, &state| bits | Self::bit(state)),
        )
    }

    /// Returns `true` if the set contains the state.
    pub fn contains(self, state: State) -> bool {
        self.0 & Self::bit(state) != 0
    }

    /// Returns `true` if the set contains SNAT.
    pub fn has_snat(self) -> bool {
        self.0 & Self::SNAT.0 != 0
    }

    /// Returns `true` if the set contains DNAT.
    pub fn has_dnat(self) -> bool {
        self.0 & Self::DNAT.0 != 0
    }

    /// Returns the states, without SNAT and DNAT, in the order of printing.
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
    /// `--limit-iface-in`, `--limit-iface-out`: the type of the address on this device only
    pub limit: Option<Direction>,
}

/// A set of address types of the routing table, as bits in the order of [`AddressTypes::NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressTypes(pub u16);

impl AddressTypes {
    /// The words of iptables, lowest bit first.
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

    /// Returns the words of the types in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let bits = (0..).zip(Self::NAMES);
        bits.filter(move |(bit, _)| self.0 & (1 << bit) != 0)
            .map(|(_, name)| name)
    }
}

/// The incoming or the outgoing device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device by which the packet came in.
    In,
    /// The device by which the packet leaves.
    Out,
}

/// `-m iprange`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeMatch {
    /// `--src-range`: the first and the last address
    pub source: Option<Negatable<(IpAddr, IpAddr)>>,
    /// `--dst-range`: the first and the last address
    pub destination: Option<Negatable<(IpAddr, IpAddr)>>,
}

/// `-m set`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetMatch {
    /// `! --match-set`
    pub negated: bool,
    /// The name of the ipset.
    pub name: Box<str>,
    /// `src` (true) or `dst` (false) for each dimension of the set.
    pub from_source: Vec<bool>,
    /// All other settings.
    pub settings: Vec<ModuleOption>,
}

/// `-m ttl`, `-m hl`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HopLimitMatch {
    /// `--ttl-eq`
    Equal(Negatable<u8>),
    /// `--ttl-lt`
    Less(u8),
    /// `--ttl-gt`
    Greater(u8),
}

/// How a packet was addressed on the link (`--pkt-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// To this host's MAC address.
    Unicast,
    /// To the broadcast address of the link.
    Broadcast,
    /// To a multicast address of the link.
    Multicast,
}

/// A known match or target without a type of its own, with its settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// The name after `-m` or `-j`.
    pub name: &'static str,
    /// The settings in the order of printing.
    pub settings: Vec<ModuleOption>,
}

impl Module {
    /// Returns the mark that a `TPROXY` target gives packets; `None` for other modules.
    pub fn proxy_mark(&self) -> Option<MarkMask> {
        let mark = self.setting("tproxy-mark")?;
        let (value, mask) = mark.value.split_once('/')?;
        let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        (self.name == "TPROXY").then_some(MarkMask {
            value: number(value)?,
            mask: number(mask)?,
        })
    }

    /// Returns the setting of an option, by its printed name without dashes.
    pub fn setting(&self, name: &str) -> Option<&ModuleOption> {
        self.settings.iter().find(|setting| setting.name == name)
    }
}

/// An option as `iptables-save` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleOption {
    /// The name of the option, without dashes.
    pub name: &'static str,
    /// `true` for `!` before it.
    pub negated: bool,
    /// The value in the printed form, with quotes where they are printed; empty for an option without a value.
    pub value: Box<str>,
}

/// A match or target that iptables 1.8.9 does not have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownModule {
    /// The name after `-m` or `-j`.
    pub name: Box<str>,
    /// The words that follow the name.
    pub arguments: Vec<Box<str>>,
}

impl UnknownModule {
    /// Returns `true` for `ULOG`, which logged packets and let them continue. Kernels before 3.17 had it; nothing loads it
    /// today, but many old files have it.
    pub fn is_old_log(&self) -> bool {
        &*self.name == "ULOG"
    }
}

/// What a rule does with a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Nothing: the rule only counts packets.
    None,
    /// Accept the packet in this table.
    Accept,
    /// Drop the packet.
    Drop,
    /// Return to the chain that jumped here; in a base chain, apply the policy.
    Return,
    /// Hand the packet to a program (`QUEUE`, queue number 0).
    Queue,
    /// `-j CHAIN`
    Jump(Box<str>),
    /// `-g CHAIN`: like a jump, but what returns from the chain returns from this one too
    Goto(Box<str>),
    /// Drop the packet and answer with an error.
    Reject(Reject),
    /// Write a log line; the packet continues with the next rule.
    Log(Box<LogTarget>),
    /// `MARK`: the packet's mark becomes `(mark & !mask) ^ value`, and the packet continues with the next rule.
    Mark(MarkMask),
    /// A translation of addresses or ports.
    Nat(Box<NatTarget>),
    /// A known target whose options are kept in canonical form.
    Other(Box<Module>),
    /// A target that is not known, as it was written.
    Unknown(Box<UnknownModule>),
}

/// The answer to a rejected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// A TCP RST.
    TcpReset,
    /// An ICMP error, by its name in iptables (`icmp-port-unreachable`, `icmp6-no-route`).
    Icmp(&'static str),
}

impl Reject {
    /// Returns the word after `--reject-with`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TcpReset => "tcp-reset",
            Self::Icmp(name) => name,
        }
    }
}

/// `-j LOG`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// `--log-prefix`, at most 29 bytes; empty for none.
    pub prefix: Box<str>,
    /// `--log-level`, as syslog numbers it: 0 (emergency) to 7 (debug).
    pub level: u8,
    /// `--log-tcp-sequence`, `--log-tcp-options`, `--log-ip-options`, `--log-uid`, `--log-macdecode`, in this order.
    pub flags: [bool; 5],
}

impl LogTarget {
    /// The default level, which is not printed: warning.
    pub const DEFAULT_LEVEL: u8 = 4;
}

/// A target of the nat table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NatTarget {
    /// The kind of translation.
    pub kind: NatKind,
    /// The new addresses, first and last (`SNAT`, `DNAT`); for `NETMAP`, the first and the last address of its network.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// The new ports.
    pub ports: Option<PortMatch>,
    /// `DNAT`: the original port that is mapped to the first of `ports`.
    pub base_port: Option<u16>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub random_fully: bool,
    /// `--persistent`
    pub persistent: bool,
}

impl NatTarget {
    /// Returns a translation of this kind, without addresses, ports or options.
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
    /// `SNAT`: a new source.
    Snat,
    /// `DNAT`: a new destination.
    Dnat,
    /// `REDIRECT`: the destination becomes an address of this host.
    Redirect,
    /// `MASQUERADE`: the source becomes the address of the outgoing device.
    Masquerade,
    /// `NETMAP`: the network part of an address is exchanged, that of the destination in PREROUTING and OUTPUT, that of the
    /// source in INPUT and POSTROUTING.
    Netmap,
}

impl NatKind {
    /// Returns the word after `-j`.
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

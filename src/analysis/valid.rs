//! Decides which packets can exist at a base chain: no rule ever sees a source of 224.0.0.1, or a NEW packet with RST.
//!
//! Examples, counts and display use it. Comparisons never do, so a mistake here cannot make two different rulesets
//! equal.

use std::collections::BTreeSet;

use super::GaveUp;
use super::behaviour::BaseChain;
use super::field::{Field, NO_MAC};
use super::space::{Set, Space};
use crate::net::{Family, IntervalSet, Protocol, State};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// The TCP flags, without PSH, with which conntrack accepts a packet (`tcp_valid_flags` of `nf_conntrack_proto_tcp.c`).
const TCP_TRACKED: [u8; 9] = [
    SYN,
    SYN | URG,
    SYN | ACK,
    RST,
    RST | ACK,
    FIN | ACK,
    FIN | ACK | URG,
    ACK,
    ACK | URG,
];
/// The flags with which a packet may open a connection: a SYN, or an ACK of a connection that conntrack picks up
/// midway.
const TCP_NEW: [u8; 4] = [SYN, SYN | URG, ACK, ACK | URG];

/// A setting of a host with which its rules see packets that they never see otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostSetting {
    /// `net.ipv4.conf.*.route_localnet`: addresses of 127.0.0.0/8 on devices other than `lo`.
    RouteLocalnet,
    /// A route by `lo` to an address of another host: forwarded packets on `lo`.
    LoopbackRoute,
    /// `net.bridge.bridge-nf-call-iptables` (and `ip6tables`): frames that a bridge forwards, whose addresses routing
    /// does not check.
    BridgedFrames,
}

impl HostSetting {
    /// All settings, the most common first.
    pub const ALL: [Self; 3] = [
        Self::RouteLocalnet,
        Self::BridgedFrames,
        Self::LoopbackRoute,
    ];

    /// Returns the setting as a clause after "only where".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RouteLocalnet => "route_localnet is on",
            Self::LoopbackRoute => "a route leads to it by lo",
            Self::BridgedFrames => {
                "a bridge hands its frames to iptables (bridge-nf-call-iptables)"
            }
        }
    }
}

/// Why no packet of a set gets to a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnseenReason {
    /// No host shows such a packet; the reason, if a single one is enough.
    Never(Option<&'static str>),
    /// Only a host with this setting shows such packets.
    Unless(HostSetting),
}

impl UnseenReason {
    /// Returns the reason for several base chains, given the reason for each.
    pub fn of(reasons: &BTreeSet<Self>) -> Self {
        let unless = reasons
            .iter()
            .find(|reason| matches!(reason, Self::Unless(_)));
        match (reasons.first(), unless) {
            (Some(one), _) if reasons.len() == 1 => *one,
            (_, Some(unless)) => *unless,
            _ => Self::Never(None),
        }
    }

    /// Returns the message about a rule for such packets.
    pub fn message(self) -> String {
        match self {
            Self::Never(_) => "no real packet can match this".to_owned(),
            Self::Unless(setting) => {
                format!("packets like this come only where {}", setting.as_str())
            }
        }
    }

    /// Returns the reason or what to do; `otherwise` if no single reason is enough.
    pub fn help(self, otherwise: &'static str) -> &'static str {
        match self {
            Self::Never(why) => why.unwrap_or(otherwise),
            Self::Unless(_) => "keep it if this host has that setting; otherwise remove it",
        }
    }
}

impl Space {
    /// Returns the packets that a base chain can see.
    ///
    /// Fields that a packet's protocol does not have are 0. Otherwise only packets are left out that no kernel shows:
    /// loopback addresses on other devices than `lo`, TCP flags or ICMP types in a state that conntrack never gives
    /// them, devices that the hook does not have. Packets that need a [`HostSetting`] are left out too.
    pub fn valid(&self, chain: BaseChain) -> Result<Set, GaveUp> {
        self.valid_with(chain, None)
    }

    /// Returns the packets that a base chain can see on a host with a setting; see [`Space::valid`].
    pub fn valid_where(&self, chain: BaseChain, setting: HostSetting) -> Result<Set, GaveUp> {
        self.valid_with(chain, Some(setting))
    }

    /// Returns the setting that a host needs to show a packet of a set at a base chain; `None` if it needs none, or if
    /// no setting is enough.
    pub fn only_where(&self, chain: BaseChain, set: Set) -> Result<Option<HostSetting>, GaveUp> {
        if self.and(set, self.valid(chain)?)? != self.none() {
            return Ok(None);
        }
        for setting in HostSetting::ALL {
            if self.and(set, self.valid_where(chain, setting)?)? != self.none() {
                return Ok(Some(setting));
            }
        }
        Ok(None)
    }

    fn valid_with(&self, chain: BaseChain, setting: Option<HostSetting>) -> Result<Set, GaveUp> {
        let is_v4 = self.family() == Family::V4;
        // IPv6 sources are checked in front of the first hook, IPv4 sources by the routing behind PREROUTING
        // (ip6_input.c, route.c).
        let is_unchecked = is_v4 && chain == BaseChain::Prerouting;
        let is_bridged = setting == Some(HostSetting::BridgedFrames)
            && matches!(chain, BaseChain::Prerouting | BaseChain::Forward);
        // There is no such setting for IPv6: the kernel drops ::1 from other devices in any case.
        let is_localnet = is_v4 && setting == Some(HostSetting::RouteLocalnet);
        let mut parts = vec![
            self.protocol_fields()?,
            self.devices(chain, setting == Some(HostSetting::LoopbackRoute))?,
            self.tcp_states()?,
            self.icmp_states()?,
            self.states_and_rest(chain)?,
        ];
        if !is_unchecked && !is_bridged {
            parts.push(self.sources(&self.unicast())?);
            if !is_localnet {
                parts.push(self.loopback(chain)?);
            }
        }
        self.every(parts)
    }

    /// Returns why no kernel shows a packet of a set at a base chain. The set must be one that none does.
    pub fn impossible_because(&self, chain: BaseChain, set: Set) -> Result<UnseenReason, GaveUp> {
        if set == self.none() {
            return Ok(UnseenReason::Never(None));
        }
        if let Some(setting) = self.only_where(chain, set)? {
            return Ok(UnseenReason::Unless(setting));
        }
        let devices = match chain {
            BaseChain::Forward => "forwarded packets neither come in nor leave by lo",
            _ => "no packet of this chain has such a device",
        };
        let mut reasons = Vec::new();
        let is_unchecked = self.family() == Family::V4 && chain == BaseChain::Prerouting;
        if !is_unchecked {
            let loopback = "loopback addresses are on lo only";
            let source = "no packet has such a source address";
            reasons.push((self.loopback(chain)?, loopback));
            reasons.push((self.sources(&self.unicast())?, source));
        }
        reasons.extend([
            (self.devices(chain, false)?, devices),
            (
                self.has_protocol()?,
                "routing, fragment and option headers of IPv6 are not protocols: `-p` matches what follows them",
            ),
            (
                self.icmp_states()?,
                "of ICMP only a request opens a connection: an answer is ESTABLISHED, an error RELATED, or both INVALID",
            ),
            (
                self.tcp_states()?,
                "TCP packets with these flags are never in this state",
            ),
        ]);
        if chain == BaseChain::Input {
            reasons.push((
                self.range(Field::Fragment, 0, 0)?,
                "the kernel reassembles packets for this host before INPUT, so that no later fragment gets there",
            ));
        }
        for (part, reason) in reasons {
            if self.and(part, set)? == self.none() {
                return Ok(UnseenReason::Never(Some(reason)));
            }
        }
        Ok(UnseenReason::Never(None))
    }

    pub(super) fn protocols(&self, protocols: &[Protocol]) -> Result<Set, GaveUp> {
        let numbers = protocols
            .iter()
            .map(|protocol| (protocol.0.into(), protocol.0.into()));
        self.values(Field::Protocol, &IntervalSet::from_intervals(numbers))
    }

    fn icmp_protocol(&self) -> Protocol {
        match self.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        }
    }

    fn protocol_fields(&self) -> Result<Set, GaveUp> {
        let zero = |field| self.range(field, 0, 0);
        let no_ports = self.and(zero(Field::DestinationPort)?, zero(Field::SourcePort)?)?;
        let no_flags = self.tcp_flags(crate::net::TcpFlags(63), crate::net::TcpFlags(0))?;
        self.every([
            self.or(self.protocols(&Protocol::WITH_PORTS)?, no_ports)?,
            self.or(self.protocol(Protocol::TCP)?, no_flags)?,
            self.or(self.protocol(self.icmp_protocol())?, zero(Field::Icmp)?)?,
            self.has_protocol()?,
        ])
    }

    /// Returns the packets with a protocol that `-p` can match: in IPv6 the kernel skips extension headers.
    fn has_protocol(&self) -> Result<Set, GaveUp> {
        let any = self.range(Field::Protocol, 1, 255)?;
        match self.family() {
            Family::V4 => Ok(any),
            Family::V6 => self.minus(any, self.protocols(&Protocol::EXTENSION_HEADERS)?),
        }
    }

    fn devices(&self, chain: BaseChain, forwards_loopback: bool) -> Result<Set, GaveUp> {
        let some = |field: Field| self.range(field, 1, u128::MAX);
        let none = |field: Field| self.range(field, 0, 0);
        match chain {
            BaseChain::Prerouting | BaseChain::Input => {
                self.and(some(Field::InDevice)?, none(Field::OutDevice)?)
            }
            BaseChain::Forward => {
                let lo = self.or(self.in_device("lo")?, self.out_device("lo")?)?;
                let both = self.and(some(Field::InDevice)?, some(Field::OutDevice)?)?;
                match forwards_loopback {
                    true => Ok(both),
                    false => self.minus(both, lo),
                }
            }
            BaseChain::Output => self.and(none(Field::InDevice)?, some(Field::OutDevice)?),
            BaseChain::Postrouting => some(Field::OutDevice),
        }
    }

    fn loopback(&self, chain: BaseChain) -> Result<Set, GaveUp> {
        let addresses = IntervalSet::from_intervals([self.family().loopback()]);
        let looped = self.or(self.sources(&addresses)?, self.destinations(&addresses)?)?;
        let on_loopback = match chain {
            BaseChain::Prerouting | BaseChain::Input => self.in_device("lo")?,
            BaseChain::Forward => self.none(),
            BaseChain::Output | BaseChain::Postrouting => self.out_device("lo")?,
        };
        self.or(on_loopback, self.not(looped)?)
    }

    /// Returns the addresses that a packet can come from.
    pub(super) fn unicast(&self) -> IntervalSet {
        let last = self.family().last_address();
        match self.family() {
            Family::V4 => {
                IntervalSet::from_intervals([(0, (224 << 24) - 1), (240 << 24, last - 1)])
            }
            Family::V6 => IntervalSet::from_intervals([(0, (0xff << 120) - 1)]),
        }
    }

    /// Returns the packets whose TCP flags, without PSH, are one of these.
    fn flags_of(&self, flags: &[u8]) -> Result<Set, GaveUp> {
        let mask = crate::net::TcpFlags(63 & !8);
        let sets: Result<Vec<Set>, GaveUp> = flags
            .iter()
            .map(|set| self.tcp_flags(mask, crate::net::TcpFlags(*set)))
            .collect();
        self.any(sets?)
    }

    fn tcp_states(&self) -> Result<Set, GaveUp> {
        let known = [State::Established, State::Related];
        let new = self.and(self.states(&[State::New])?, self.flags_of(&TCP_NEW)?)?;
        let known = self.and(self.states(&known)?, self.flags_of(&TCP_TRACKED)?)?;
        let other = self.states(&[State::Invalid, State::Untracked])?;
        let fits = self.any([new, known, other])?;
        self.or(self.not(self.protocol(Protocol::TCP)?)?, fits)
    }

    /// Returns the packets whose ICMP type fits their state, and all packets of other protocols. A query opens a
    /// connection and its answer belongs to it. An error is RELATED or INVALID. Neighbour and router discovery and
    /// multicast listener messages of IPv6 are never tracked (`nf_conntrack_proto_icmp.c`,
    /// `nf_conntrack_proto_icmpv6.c`).
    fn icmp_states(&self) -> Result<Set, GaveUp> {
        let kinds = |kinds: &[(u128, u128)]| {
            let types = kinds
                .iter()
                .map(|(first, last)| (first << 8, last << 8 | 0xff));
            self.values(Field::Icmp, &IntervalSet::from_intervals(types))
        };
        let (queries, answers, errors, untracked) = match self.family() {
            Family::V4 => (
                kinds(&[(8, 8), (13, 13), (15, 15), (17, 17)])?,
                kinds(&[(0, 0), (14, 14), (16, 16), (18, 18)])?,
                kinds(&[(3, 5), (11, 12)])?,
                self.none(),
            ),
            Family::V6 => (
                kinds(&[(128, 128), (139, 139)])?,
                kinds(&[(129, 129), (140, 140)])?,
                kinds(&[(1, 127)])?,
                kinds(&[(130, 137), (143, 143)])?,
            ),
        };
        let in_states = |set, states: &[State]| self.and(set, self.states(states)?);
        let fits = self.any([
            in_states(queries, &[State::New, State::Established, State::Related])?,
            in_states(answers, &[State::Established])?,
            in_states(errors, &[State::Related])?,
            in_states(self.not(untracked)?, &[State::Invalid])?,
            self.states(&[State::Untracked])?,
        ])?;
        self.or(self.not(self.protocol(self.icmp_protocol())?)?, fits)
    }

    fn states_and_rest(&self, chain: BaseChain) -> Result<Set, GaveUp> {
        let untranslated = self.and(
            self.range(Field::SourceTranslated, 0, 0)?,
            self.range(Field::DestinationTranslated, 0, 0)?,
        )?;
        let mut rest = vec![
            self.or(super::matches::tracked(self)?, untranslated)?,
            self.range(Field::HopLimit, 1, 255)?,
        ];
        if chain == BaseChain::Input {
            // Packets for this host are reassembled before INPUT.
            rest.push(self.range(Field::Fragment, 0, 0)?);
        }
        if matches!(chain, BaseChain::Output | BaseChain::Postrouting) {
            rest.push(self.range(Field::Mac, NO_MAC, NO_MAC)?);
        }
        self.every(rest)
    }
}

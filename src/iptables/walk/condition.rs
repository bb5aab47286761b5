//! Decides whether a condition holds for a packet, and what targets change in the packet.

use crate::iptables::Tos;
use crate::iptables::model::*;
use crate::iptables::value::{Interface, MarkMask, Negatable, Network, PortMatch};
use crate::net::{Packet, State};

/// A packet while it walks through a table, with what is known of its connection.
pub(super) struct PacketView<'a> {
    pub packet: &'a mut Packet,
    /// The mark of the connection; `None` if it is not known.
    pub connection_mark: Option<&'a mut u32>,
    /// The packet as it arrived, if it is the first of its connection.
    pub first: Option<&'a Packet>,
    /// What rules have written into the type of service.
    pub tos: WrittenTos,
    /// What `CT` has made of a packet that conntrack has not seen yet: UNTRACKED, or NEW with a template in place of a
    /// connection.
    pub tracking: Option<State>,
}

/// The type of service as a function of the byte on arrival, which a [`Packet`] does not have: `(byte & kept) ^ flipped`.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenTos {
    kept: u8,
    flipped: u8,
}

impl Default for WrittenTos {
    fn default() -> Self {
        let (kept, flipped) = (u8::MAX, 0);
        Self { kept, flipped }
    }
}

impl WrittenTos {
    fn write(&mut self, Tos { value, mask }: Tos) {
        self.kept &= !mask;
        self.flipped = (self.flipped & !mask) ^ value;
    }

    /// Returns what a question about the byte now asks about the byte on arrival; `Err` has the answer if what was written
    /// decides it.
    fn on_arrival(self, asked: Tos) -> Result<Tos, bool> {
        let Tos { value, mask } = asked;
        // The bits that are decided: those that were overwritten, and those outside the mask. A value outside the mask
        // never matches.
        let settled = !(self.kept & mask);
        if (value ^ (self.flipped & mask)) & settled != 0 {
            return Err(false);
        }
        let mask = mask & self.kept;
        let value = (value ^ self.flipped) & mask;
        match mask {
            0 => Err(true),
            _ => Ok(Tos { value, mask }),
        }
    }
}

/// Returns the condition to ask about the packet on arrival, if it differs from `condition`; `Err` has the answer if what
/// was written into the type of service decides it.
pub(super) fn on_arrival(condition: &Match, tos: WrittenTos) -> Result<Option<Match>, bool> {
    let Match::Other(module) = condition else {
        return Ok(None);
    };
    let [setting] = &module.settings[..] else {
        return Ok(None);
    };
    match Tos::asked(module.name, setting.name, &setting.value) {
        Some(asked) => match tos.on_arrival(asked) {
            Ok(same) if same == asked => Ok(None),
            Ok(other) => Ok(Some(Match::Other(Box::new(
                other.as_match(setting.negated),
            )))),
            Err(answer) => Err(answer != setting.negated),
        },
        None => Ok(None),
    }
}

impl<'a> PacketView<'a> {
    /// Returns a packet of whose connection only the state is known.
    pub fn alone(packet: &'a mut Packet) -> Self {
        Self {
            packet,
            connection_mark: None,
            first: None,
            tos: WrittenTos::default(),
            tracking: None,
        }
    }

    fn has_template(&self) -> bool {
        self.tracking == Some(State::New)
    }

    /// Applies what a target writes into the packet and its connection for later rules.
    pub fn write(&mut self, target: &Target) {
        match target {
            Target::Mark(change) => {
                self.packet.mark = (self.packet.mark & !change.mask) ^ change.value;
            }
            Target::Other(module) => self.write_module(module),
            _ => {}
        }
    }

    fn write_module(&mut self, module: &Module) {
        if module.name == "CONNMARK" && is_tracked(self.packet) {
            if let Some(connection) = &mut self.connection_mark {
                change_connection_mark(module, &mut self.packet.mark, connection);
            }
        } else if let Some(change) = module.hop_change() {
            self.packet.hop_limit = change.apply(self.packet.hop_limit);
        } else if let Some(tos) = module.written_tos() {
            self.tos.write(tos);
        } else if let Some(untracks) = module.untracks()
            && self.packet.state == State::Invalid
        {
            // A packet that has a connection or a template, or is untracked, keeps it (`xt_ct_target` of `xt_CT.c`): the
            // first `CT` rule of raw counts.
            self.packet.state = match untracks {
                true => State::Untracked,
                false => State::New,
            };
            self.tracking = Some(self.packet.state);
        }
    }
}

/// Applies `CONNMARK` (`connmark_tg_shift` of `xt_connmark.c`).
fn change_connection_mark(module: &Module, packet: &mut u32, connection: &mut u32) {
    let number = |text: &str| {
        let digits = text.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).unwrap_or(u32::MAX)
    };
    let mask = |name: &str| {
        let setting = module.setting(name);
        setting.map_or(u32::MAX, |setting| number(&setting.value))
    };
    let by = |name: &str| {
        let bits = module.setting(name)?.value.parse::<u32>().ok()?;
        Some(bits)
    };
    let shifted = |mark: u32| match (by("left-shift-mark"), by("right-shift-mark")) {
        (Some(bits), _) => mark << bits,
        (None, Some(bits)) => mark >> bits,
        (None, None) => mark,
    };
    if let Some((value, mask)) = module
        .setting("set-xmark")
        .and_then(|setting| setting.value.split_once('/'))
    {
        *connection = shifted((*connection & !number(mask)) ^ number(value));
    } else if module.setting("save-mark").is_some() {
        *connection = (*connection & !mask("ctmask")) ^ shifted(*packet & mask("nfmask"));
    } else if module.setting("restore-mark").is_some() {
        *packet = (*packet & !mask("nfmask")) ^ shifted(*connection & mask("ctmask"));
    }
}

/// Returns `true` if the packet has a connection.
pub(super) fn is_tracked(packet: &Packet) -> bool {
    !matches!(packet.state, State::Invalid | State::Untracked)
}

/// Returns `true` if the condition holds for the packet; `None` if the packet does not decide it.
pub(super) fn decide(condition: &Match, seen: &PacketView<'_>) -> Option<bool> {
    let packet = &*seen.packet;
    let device = |device: &Option<String>, name: &Negatable<Interface>| {
        name.holds(|name| name.matches(device.as_deref().unwrap_or_default()))
    };
    Some(match condition {
        Match::Source(network) => network.holds(|network| network.contains(packet.source)),
        Match::Destination(network) => {
            network.holds(|network| network.contains(packet.destination))
        }
        Match::InInterface(name) => device(&packet.in_device, name),
        Match::OutInterface(name) => device(&packet.out_device, name),
        Match::Protocol(protocol) => protocol.holds(|protocol| *protocol == packet.protocol),
        Match::Tcp(tcp) => {
            let flags = packet.tcp_flags.unwrap_or_default().0;
            let test = |test: &FlagTest| flags & test.mask.0 == test.set.0;
            let flags = tcp.flags.is_none_or(|flags| flags.holds(test));
            let rest = ports(&tcp.ports, packet) && flags;
            return only_if(rest, tcp.option.is_none());
        }
        Match::Udp(both) => ports(both, packet),
        Match::Sctp(both, settings) | Match::Dccp(both, settings) => {
            return only_if(ports(both, packet), settings.is_empty());
        }
        Match::Multiport(multiport) => {
            let (Some(source), Some(destination)) = (packet.source_port, packet.destination_port)
            else {
                return Some(false);
            };
            let any = |port: u16| {
                multiport
                    .value
                    .ports
                    .iter()
                    .any(|range| range.contains(port))
            };
            multiport.holds(|multiport| match multiport.side {
                PortSide::Source => any(source),
                PortSide::Destination => any(destination),
                PortSide::Either => any(source) || any(destination),
            })
        }
        Match::Icmp(kind) => {
            let Some((packet_kind, code)) = packet.icmp else {
                return Some(false);
            };
            kind.holds(|kind| match *kind {
                IcmpMatch::Any => true,
                IcmpMatch::Type {
                    kind,
                    first_code,
                    last_code,
                } => kind == packet_kind && (first_code..=last_code).contains(&code),
            })
        }
        Match::Conntrack(conntrack) => {
            let state = match &conntrack.states {
                Some(states) => states_hold(states, seen),
                None => true,
            };
            let is_known = seen.connection_mark.is_some() || seen.tracking.is_some();
            if is_known && !is_tracked(packet) {
                // Without a connection, `conntrack_mt` of `xt_conntrack.c` compares the state and nothing else.
                return Some(state && conntrack.states.is_some());
            }
            let settings = conntrack.settings.iter();
            let answers: Vec<_> = settings.map(|one| of_connection(one, seen)).collect();
            let known = state && !answers.contains(&Some(false));
            return only_if(known, !answers.contains(&None));
        }
        Match::State(states) => states_hold(states, seen),
        Match::Comment(_) => true,
        Match::Mark(test) => test.holds(|test| test.matches(packet.mark)),
        // The kernel compares nothing without an Ethernet header: neither the condition nor its negation holds then.
        Match::Mac(mac) => packet
            .mac
            .is_some_and(|packet| mac.holds(|mac| *mac == packet)),
        Match::AddressRange(range) => {
            let inside = |range: &Option<Negatable<_>>, address| match range {
                Some(range) => range.holds(|(first, last)| (*first..=*last).contains(&address)),
                None => true,
            };
            inside(&range.source, packet.source) && inside(&range.destination, packet.destination)
        }
        Match::HopLimit(limit) => match limit {
            HopLimitMatch::Equal(value) => value.holds(|value| *value == packet.hop_limit),
            HopLimitMatch::Less(value) => packet.hop_limit < *value,
            HopLimitMatch::Greater(value) => packet.hop_limit > *value,
        },
        Match::ConnectionMark(test) => {
            let mark = match &seen.connection_mark {
                Some(mark) => **mark,
                None if seen.tracking.is_some() => 0,
                None => return None,
            };
            is_tracked(packet) && test.holds(|test: &MarkMask| test.matches(mark))
        }
        Match::Fragment { .. }
        | Match::AddressType(_)
        | Match::Set(_)
        | Match::PacketType(_)
        | Match::Other(_)
        | Match::Unknown(_) => return None,
    })
}

/// Returns the answer of a condition of which only a part is known: `false` is final, `true` only if all parts are known.
fn only_if(known: bool, all: bool) -> Option<bool> {
    match known {
        false => Some(false),
        true => all.then_some(true),
    }
}

/// Returns `true` if both ports match. A packet without ports matches no port, not even a negated one.
fn ports(ports: &Ports, packet: &Packet) -> bool {
    let holds = |test: Option<Negatable<PortMatch>>, port: Option<u16>| match test {
        None => true,
        Some(test) => port.is_some_and(|port| test.holds(|range| range.contains(port))),
    };
    holds(ports.source, packet.source_port) && holds(ports.destination, packet.destination_port)
}

fn states_hold(states: &Negatable<States>, seen: &PacketView<'_>) -> bool {
    let packet = &*seen.packet;
    let translated = packet.translated;
    // SNAT and DNAT are marks of a connection: a packet without one, or with a template, never has them.
    states.holds(|states| {
        states.contains(packet.state)
            || is_tracked(packet)
                && !seen.has_template()
                && ((states.has_snat() && translated.source)
                    || (states.has_dnat() && translated.destination))
    })
}

/// Decides a condition on the original addresses, ports and direction of a connection, which are those of its first packet.
fn of_connection(setting: &ModuleOption, seen: &PacketView<'_>) -> Option<bool> {
    const OF_BOTH_ENDS: [&str; 3] = ["ctorig", "ctrepl", "ctproto"];
    let is_end = OF_BOTH_ENDS
        .iter()
        .any(|begin| setting.name.starts_with(begin));
    if seen.has_template() && is_end {
        // A template has no addresses to compare with: the plain condition fails.
        return Some(setting.negated);
    }
    let first = seen.first?;
    let (begin, end) = setting
        .value
        .split_once(':')
        .unwrap_or((&setting.value, &setting.value));
    let port = |port: Option<u16>| {
        let (begin, end) = (begin.parse().ok()?, end.parse().ok()?);
        Some((begin..=end).contains(&port.unwrap_or(0)))
    };
    let address = |address| {
        let network = Network::from_text(first.family, &setting.value)?;
        Some(network.contains(address))
    };
    let holds = match setting.name {
        "ctorigsrc" => address(first.source)?,
        "ctorigdst" => address(first.destination)?,
        "ctproto" => setting.value.parse() == Ok(first.protocol),
        "ctdir" => &*setting.value == "ORIGINAL",
        "ctorigsrcport" => port(first.source_port)?,
        "ctorigdstport" => port(first.destination_port)?,
        _ => return None,
    };
    Some(holds != setting.negated)
}

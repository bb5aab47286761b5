//! Follows one packet through all tables, as it arrives or as this host sends it.

use std::net::IpAddr;

use super::{
    Circumstance, DecidedBy, Decision, Evaluation, Logged, Moment, NatChain, NewAddress, NewEnd,
    entry_log, mangle,
};
use super::{PolicyVerdict, RawTreatment, raw, translate_when};
use crate::net::{
    AddressRange, Family, Hook, Packet, PortRange, Protocol, State, Translated, address_of,
};
use crate::policy::{Policy, Treatment};

/// Answers that neither the packet nor the policy gives: the kernel's choices, and its memory of connections.
pub trait Chance {
    /// Returns `true` if a circumstance holds for the packet in its current form.
    fn holds(&self, asked: Circumstance<'_>, packet: &Packet) -> bool;

    /// Returns the address that a translation chooses from a range; `None` asks for an address of this host.
    fn address(&self, of: Option<AddressRange>, packet: &Packet) -> IpAddr;

    /// Returns the port that a translation chooses from a range.
    fn port(&self, of: PortRange, packet: &Packet) -> u16;

    /// Returns the destination of a packet whose connection was translated by an earlier packet.
    fn destination(&self, packet: &Packet) -> (IpAddr, Option<u16>);

    /// Returns `true` if a RELATED packet is the first of its connection.
    fn is_first(&self, packet: &Packet) -> bool;
}

/// The path of a packet, from arrival to verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrace {
    /// The translation of its destination; `None` if there was none.
    pub translated: Option<NewEnd>,
    /// The packet as the filter table sees it.
    pub packet: Packet,
    /// The decision of the filter table, or of the raw or the mangle table before it.
    pub decision: Decision,
}

/// Follows a packet through all tables. The packet is as it arrives or as this host sends it, but its hook and devices
/// are those of the filter table.
///
/// Its state is the one that it has if it is tracked: NEW for the first packet of a connection. `connection_mark` is the
/// mark of its connection.
pub fn follow(
    policy: &Policy,
    packet: &Packet,
    connection_mark: u32,
    chance: &dyn Chance,
) -> PolicyTrace {
    let mut arriving = Arriving {
        policy,
        chance,
        packet: packet.clone(),
        connection_mark,
        // A packet that this host sent to itself has passed OUTPUT: it keeps its connection, so that raw cannot untrack
        // it and nat does not translate it again. An INVALID packet has no connection to keep.
        looped: packet.hook == Hook::Input
            && packet.in_device.as_deref() == Some("lo")
            && packet.state != State::Invalid,
    };
    if let Some(decision) = arriving.evaluated(|it| it.before_tracking()) {
        return PolicyTrace {
            translated: None,
            packet: arriving.packet,
            decision,
        };
    }
    arriving.track();
    let chain = match packet.hook {
        Hook::Output => NatChain::Output,
        Hook::Input | Hook::Forward => NatChain::Prerouting,
    };
    let first = match chain {
        NatChain::Output => Moment::Hook,
        _ => Moment::Arrival,
    };
    let mut dropped = arriving.mark(first);
    let mut translated = None;
    if dropped.is_none() {
        translated = arriving.translate(chain);
        if first == Moment::Arrival {
            dropped = arriving.mark(Moment::Hook);
        }
    }
    if let Some((entry, logs)) = dropped {
        return PolicyTrace {
            translated,
            packet: arriving.packet,
            decision: Decision {
                verdict: PolicyVerdict::Drop,
                by: DecidedBy::Mangle(entry),
                logs,
            },
        };
    }
    PolicyTrace {
        translated,
        decision: arriving.evaluated(|it| it.in_filter()),
        packet: arriving.packet,
    }
}

struct Arriving<'a> {
    policy: &'a Policy,
    chance: &'a dyn Chance,
    packet: Packet,
    connection_mark: u32,
    looped: bool,
}

impl Arriving<'_> {
    /// Evaluates the packet as it is now.
    fn evaluated<T>(&self, evaluate: impl FnOnce(&Evaluation<'_>) -> T) -> T {
        let packet = &self.packet;
        evaluate(&Evaluation {
            policy: self.policy,
            packet,
            holds: &|asked| self.chance.holds(asked, packet),
        })
    }

    /// Applies the raw table: the first entry that matches decides the tracking.
    fn track(&mut self) {
        let packet = &self.packet;
        let entries = raw(self.policy, packet, &|asked| {
            self.chance.holds(asked, packet)
        });
        let mut entries = entries.iter().filter_map(|at| match at {
            RawTreatment::Entry(at) => self.policy.raw.get(*at),
            RawTreatment::Service(..) | RawTreatment::Antispoof => None,
        });
        let first = entries.find_map(|entry| entry.treatment.as_ref());
        let is_untracked =
            first.is_some_and(|first| matches!(first.value, Treatment::NoTrack { .. }));
        if is_untracked && !self.looped {
            self.packet.state = State::Untracked;
        }
    }

    /// Applies the mangle table at a moment. Returns the entry that drops the packet, and the logs there.
    fn mark(&mut self, moment: Moment) -> Option<(usize, Vec<Logged>)> {
        let packet = &self.packet;
        let holds = |asked: Circumstance<'_>| self.chance.holds(asked, packet);
        let marked = mangle(self.policy, packet, self.connection_mark, moment, &holds);
        self.connection_mark = marked.connection_mark;
        (self.packet.mark, self.packet.hop_limit) = (marked.mark, marked.hop_limit);
        let entries = marked.entries.iter();
        let entries = entries.filter_map(|entry| self.policy.mangle.get(*entry));
        let logs = entries.filter_map(|entry| entry_log(&entry.packets));
        Some((marked.dropped?, logs.collect()))
    }

    fn translate(&mut self, chain: NatChain) -> Option<NewEnd> {
        let packet = &self.packet;
        let is_error = packet.protocol
            == match packet.family {
                Family::V4 => Protocol::ICMP.0,
                Family::V6 => Protocol::ICMPV6.0,
            };
        let before = packet.translated != Translated::default();
        let is_first = match packet.state {
            State::New => true,
            State::Related if !is_error && !before => self.chance.is_first(packet),
            State::Invalid | State::Untracked => return None,
            State::Established | State::Related => false,
        };
        if !is_first {
            if before {
                let (address, port) = self.chance.destination(packet);
                self.send_to(address, port);
            }
            return None;
        }
        if self.looped {
            return None;
        }
        // PREROUTING comes before routing: there is no outgoing device yet.
        let mut asked = packet.clone();
        if chain == NatChain::Prerouting {
            asked.out_device = None;
        }
        let holds = |one: Circumstance<'_>| self.chance.holds(one, &asked);
        let end = translate_when(self.policy, &asked, chain, &holds)?;
        let address = match end.address {
            NewAddress::Destination(range) if range.first == range.last => {
                address_of(range.family, range.first)
            }
            NewAddress::Destination(range) => self.chance.address(Some(range), packet),
            // In OUTPUT, REDIRECT changes the destination to the first loopback address.
            NewAddress::ThisHost if chain == NatChain::Output => {
                address_of(packet.family, packet.family.loopback().0 | 1)
            }
            NewAddress::ThisHost => self.chance.address(None, packet),
            NewAddress::OfDevice | NewAddress::Source(_) => packet.destination,
        };
        let port = end.ports.map(|ports| match ports.first == ports.last {
            true => ports.first,
            false => self.chance.port(ports, packet),
        });
        let before = (packet.destination, packet.destination_port);
        self.send_to(address, port);
        let after = (self.packet.destination, self.packet.destination_port);
        self.packet.translated.destination |= before != after;
        Some(end)
    }

    fn send_to(&mut self, address: IpAddr, port: Option<u16>) {
        self.packet.destination = address;
        if let (Some(to), Some(port)) = (&mut self.packet.destination_port, port) {
            *to = port;
        }
    }
}

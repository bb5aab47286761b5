//! One packet's whole way, as it arrives or as this host sends it.

use std::net::IpAddr;

use super::{Circumstance, Decision, Moment, NatChain, NewAddress, NewEnd, decide_when, mangle};
use super::{RawTreatment, raw, translate_when};
use crate::net::{
    AddressRange, Family, Hook, Packet, PortRange, Protocol, State, Translated, address_of,
};
use crate::policy::{Policy, Treatment};

/// What neither a packet nor the policy tells.
pub trait Chance {
    /// Whether a circumstance is so, for the packet as it is then.
    fn holds(&self, asked: Circumstance<'_>, packet: &Packet) -> bool;

    /// The address that a translation takes of several; of any, where it is one of this host's.
    fn address(&self, of: Option<AddressRange>, packet: &Packet) -> IpAddr;

    /// The port that a translation takes of several.
    fn port(&self, of: PortRange, packet: &Packet) -> u16;

    /// Where a packet goes whose connection was translated before.
    fn destination(&self, packet: &Packet) -> (IpAddr, Option<u16>);

    /// Whether a packet is the first of a connection that another is the cause of.
    fn is_first(&self, packet: &Packet) -> bool;
}

/// A packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTrace {
    /// What translated its destination; `None`: nothing did.
    pub translated: Option<NewEnd>,
    /// The packet as it came to the filter table.
    pub packet: Packet,
    /// What became of it there, or before.
    pub decision: Decision,
}

/// Takes a packet the whole way: as it arrives, or as this host sends it, but with the hook and the devices that it meets.
///
/// Its state is the one that it has if it is tracked, NEW the first packet of its connection; the mark is that of its
/// connection.
pub fn follow(
    policy: &Policy,
    packet: &Packet,
    connection_mark: u32,
    chance: &dyn Chance,
) -> PolicyTrace {
    let mut way = Arriving {
        policy,
        chance,
        packet: packet.clone(),
        connection_mark,
        // What this host sent to itself has been through OUTPUT: it is tracked, and translated. What is INVALID has no
        // connection to bring along, and is looked at anew.
        looped: packet.hook == Hook::Input
            && packet.in_device.as_deref() == Some("lo")
            && packet.state != State::Invalid,
    };
    way.track();
    let chain = match packet.hook {
        Hook::Output => NatChain::Output,
        Hook::Input | Hook::Forward => NatChain::Prerouting,
    };
    let first = match chain {
        NatChain::Output => Moment::Hook,
        _ => Moment::Arrival,
    };
    way.mark(first);
    let translated = way.translate(chain);
    if first == Moment::Arrival {
        way.mark(Moment::Hook);
    }
    let packet = way.packet;
    PolicyTrace {
        translated,
        decision: decide_when(policy, &packet, &|asked| chance.holds(asked, &packet)),
        packet,
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
    /// The first entry that says how it is tracked holds.
    fn track(&mut self) {
        let packet = &self.packet;
        let entries = raw(self.policy, packet, &|asked| {
            self.chance.holds(asked, packet)
        });
        let mut entries = entries.iter().filter_map(|at| match at {
            RawTreatment::Entry(at) => self.policy.raw.get(*at),
            RawTreatment::Service(..) => None,
        });
        let first = entries.find_map(|entry| entry.treatment.as_ref());
        let is_untracked =
            first.is_some_and(|first| matches!(first.value, Treatment::NoTrack { .. }));
        if is_untracked && !self.looped {
            self.packet.state = State::Untracked;
        }
    }

    fn mark(&mut self, moment: Moment) {
        let packet = &self.packet;
        let holds = |asked: Circumstance<'_>| self.chance.holds(asked, packet);
        let marked = mangle(self.policy, packet, self.connection_mark, moment, &holds);
        self.connection_mark = marked.connection_mark;
        (self.packet.mark, self.packet.hop_limit) = (marked.mark, marked.hop_limit);
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
        // As it is before its way is known.
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
            // What this host sends comes back to it.
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

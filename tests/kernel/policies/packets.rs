//! Packets at the borders of a random policy, each in a state that can be had for real.

use std::collections::HashSet;
use std::net::IpAddr;

use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated};

use super::bench::{DEVICES, Sent, Ways, own_addresses};
use crate::generate::{Random, Sample};
use crate::lab::frame::{CAUSE_PORTS, Defect, is_error, protocol};
use crate::lab::{PEER_MAC, is_never_tracked, question_of};

/// A connection that is there before the batch.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The packet that opened it.
    pub packet: Packet,
    pub mark: u32,
    /// Where its packets go instead.
    pub to: Option<IpAddr>,
    /// Where they come from instead, as the other end sees it.
    pub from: Option<IpAddr>,
}

/// How connection tracking knows a flow: protocol, addresses, ports or type and code.
type Tuple = (u8, IpAddr, IpAddr, u16, u16);

/// How many flows are there before a batch.
const FLOWS: usize = 8;
/// The first source port of those that only one packet has.
const FIRST_PORT: u16 = 20_000;
const MARKS: [u32; 4] = [0, 1, 0x10, 0x110];

pub struct Packets<'a> {
    random: &'a mut Random,
    sample: &'a Sample,
    family: Family,
    ways: &'a Ways,
    pub flows: Vec<Flow>,
    used: HashSet<Tuple>,
    next_port: u16,
}

impl<'a> Packets<'a> {
    pub fn new(random: &'a mut Random, sample: &'a Sample, family: Family, ways: &'a Ways) -> Self {
        let mut packets = Self {
            random,
            sample,
            family,
            ways,
            flows: Vec::new(),
            used: HashSet::new(),
            next_port: FIRST_PORT,
        };
        for number in 0..FLOWS {
            if let Some(flow) = packets.flow(number) {
                packets.flows.push(flow);
            }
        }
        packets
    }

    /// The numbers that everything is drawn from.
    pub fn random(&mut self) -> &mut Random {
        self.random
    }

    /// A packet, and sometimes some more like it, each of a connection of its own.
    pub fn some(&mut self) -> Vec<Sent> {
        let shape = self.random.below(20);
        let sent = match shape {
            0..4 => self.of_flow(),
            4..6 => self.about_flow(),
            6..8 => self.spoilt(),
            _ => self.fresh(),
        };
        let Some(sent) = sent else {
            return Vec::new();
        };
        let mut all = vec![sent];
        let packet = &all[0].packet;
        if packet.state == State::New && packet.source_port.is_some() && self.random.once_in(5) {
            for _ in 0..self.random.below(9) {
                let mut like = all[0].clone();
                like.packet.source_port = Some(self.port());
                all.push(like);
            }
        }
        all
    }

    /// The same packet of another connection, where there can be one.
    pub fn again(&mut self, sent: &Sent) -> Option<Sent> {
        let packet = &sent.packet;
        if packet.state != State::New || packet.source_port.is_none() {
            return None;
        }
        let mut again = sent.clone();
        again.packet.source_port = Some(self.port());
        Some(again)
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// A packet with addresses that every kernel takes, and a way through this host.
    fn packet(&mut self) -> Packet {
        loop {
            let mut packet = self.sample.packet(self.random);
            for end in [&mut packet.source, &mut packet.destination] {
                if !is_ordinary(*end) {
                    *end = self.random.pick(&anywhere(packet.family)).to_owned();
                }
            }
            let (icmp, other) = match self.family {
                Family::V4 => (protocol::ICMP, protocol::ICMPV6),
                Family::V6 => (protocol::ICMPV6, protocol::ICMP),
            };
            let fits = packet.family == self.family
                && packet.source != packet.destination
                && !own_addresses(self.family).contains(&packet.source)
                && !self.ways.local.contains(&packet.source)
                && packet.protocol != other
                && (packet.protocol == icmp) == packet.icmp.is_some()
                && !is_redirect(&packet);
            if !fits {
                continue;
            }
            packet.translated = Translated::default();
            if packet.source_port.is_some() && !self.random.once_in(3) {
                packet.source_port = Some(self.port());
            }
            if packet.hook == Hook::Output {
                (packet.in_device, packet.mac) = (None, None);
                if self.random.once_in(4) {
                    packet.out_device = Some("lo".to_owned());
                }
                return packet;
            }
            packet.mark = 0;
            let device = packet.in_device.clone().unwrap_or_default();
            let Some(way) = self.ways.of(&device) else {
                continue;
            };
            packet.mac = Some(packet.mac.unwrap_or(PEER_MAC));
            packet.hook = match way {
                Some(_) => Hook::Forward,
                None => Hook::Input,
            };
            packet.out_device = way.map(str::to_owned);
            // The kernel counts a hop before FORWARD sees the packet.
            if packet.hook == Hook::Forward && packet.hop_limit == u8::MAX {
                packet.hop_limit = 254;
            }
            return packet;
        }
    }

    fn flow(&mut self, number: usize) -> Option<Flow> {
        let mut packet = self.packet();
        let (echo, question) = match self.family {
            Family::V4 => (protocol::ICMP, 8),
            Family::V6 => (protocol::ICMPV6, 128),
        };
        (packet.tcp_flags, packet.icmp) = (None, None);
        let port = self.port();
        let server = *self.random.pick(&[22, 53, 80, 85, 443]);
        (packet.source_port, packet.destination_port) = (Some(port), Some(server));
        match number % 4 {
            0 => packet.protocol = protocol::TCP,
            1 => packet.protocol = protocol::UDP,
            // What an ICMP error may be about.
            2 => {
                packet.protocol = protocol::UDP;
                let (from, to) = CAUSE_PORTS;
                (packet.source_port, packet.destination_port) = (Some(from), Some(to));
            }
            _ => {
                packet.protocol = echo;
                packet.icmp = Some((question, 0));
                (packet.source_port, packet.destination_port) = (None, None);
            }
        }
        packet.state = State::Established;
        if !self.use_up(&packet) {
            return None;
        }
        let mut flow = Flow {
            mark: *self.random.pick(&MARKS),
            to: None,
            from: None,
            packet,
        };
        if number % 4 == 1 {
            let other = self.packet();
            match self.random.below(3) {
                0 => flow.to = Some(other.destination),
                1 => flow.from = Some(other.source),
                _ => {}
            }
        }
        Some(flow)
    }

    /// A packet of a flow that is known, on its own way through this host.
    fn of_flow(&mut self) -> Option<Sent> {
        let flow = self.random.below(self.flows.len().max(1));
        let known = self.flows.get(flow)?.clone();
        let mut packet = self.packet();
        let of = &known.packet;
        (packet.source, packet.destination) = (of.source, of.destination);
        (packet.source_port, packet.destination_port) = (of.source_port, of.destination_port);
        (packet.protocol, packet.icmp) = (of.protocol, of.icmp);
        packet.tcp_flags =
            (of.protocol == protocol::TCP).then(|| TcpFlags(*self.random.pick(&[0x10, 0x18])));
        packet.state = State::Established;
        packet.translated = Translated {
            source: known.from.is_some(),
            destination: known.to.is_some(),
        };
        let plain = packet.translated == Translated::default();
        if plain && self.random.once_in(2) {
            std::mem::swap(&mut packet.source, &mut packet.destination);
            std::mem::swap(&mut packet.source_port, &mut packet.destination_port);
            packet.icmp = packet.icmp.map(|(kind, code)| match kind {
                8 => (0, code),
                question => (question + 1, code),
            });
            if !self.may_send(&packet) {
                return None;
            }
        }
        Some(Sent {
            flow: Some(flow),
            ..self.sent(packet)
        })
    }

    /// An ICMP error about a flow that is known.
    fn about_flow(&mut self) -> Option<Sent> {
        let is_cause = |flow: &&(usize, Flow)| {
            flow.1.packet.source_port == Some(CAUSE_PORTS.0) && flow.1.packet.icmp.is_none()
        };
        let all: Vec<(usize, Flow)> = self.flows.iter().cloned().enumerate().collect();
        let causes: Vec<_> = all.iter().filter(is_cause).collect();
        if causes.is_empty() {
            return None;
        }
        let (number, flow) = *self.random.pick(&causes);
        let errors: &[u8] = match self.family {
            Family::V4 => &[3, 3, 4, 11, 12],
            Family::V6 => &[1, 1, 2, 3, 4],
        };
        let mut packet = self.packet();
        packet.protocol = match self.family {
            Family::V4 => protocol::ICMP,
            Family::V6 => protocol::ICMPV6,
        };
        let code = *self.random.pick(&[0, 1, 3, 4]);
        packet.icmp = Some((*self.random.pick(errors), code));
        (packet.source, packet.destination) = (flow.packet.destination, flow.packet.source);
        (packet.source_port, packet.destination_port) = (None, None);
        packet.tcp_flags = None;
        packet.state = State::Related;
        self.may_send(&packet).then(|| Sent {
            flow: Some(*number),
            ..self.sent(packet)
        })
    }

    fn may_send(&self, packet: &Packet) -> bool {
        !own_addresses(self.family).contains(&packet.source)
            && !self.ways.local.contains(&packet.source)
    }

    /// A packet that connection tracking takes for broken.
    fn spoilt(&mut self) -> Option<Sent> {
        let mut packet = self.packet();
        packet.state = State::Invalid;
        let defect = match (packet.hook, packet.protocol) {
            (Hook::Output, protocol::UDP) => Defect::Length,
            (Hook::Output, protocol::TCP) => {
                // TCPMSS drops a header that is longer than its packet, whatever the rules say.
                packet.tcp_flags = Some(TcpFlags(0x06));
                Defect::None
            }
            (Hook::Input | Hook::Forward, protocol::TCP | protocol::UDP) => Defect::Checksum,
            _ => return None,
        };
        Some(Sent {
            defect,
            ..self.sent(packet)
        })
    }

    fn fresh(&mut self) -> Option<Sent> {
        let mut packet = self.packet();
        if packet.protocol == protocol::TCP && !self.random.once_in(6) {
            packet.tcp_flags = Some(TcpFlags::SYN);
        }
        packet.state = own_state(&packet);
        let is_known = |flow: &Flow| {
            let ends = [flow.packet.source, flow.packet.destination];
            ends.contains(&packet.source) && ends.contains(&packet.destination)
        };
        match packet.state {
            State::New if !self.use_up(&packet) => None,
            // What belongs to no connection may belong to one that is known.
            State::Invalid if self.flows.iter().any(is_known) || !self.use_up(&packet) => None,
            _ => Some(self.sent(packet)),
        }
    }

    fn sent(&mut self, packet: Packet) -> Sent {
        let user = packet.hook == Hook::Output && self.random.once_in(3);
        Sent {
            packet,
            defect: Defect::None,
            flow: None,
            user: if user { (33, 5) } else { (0, 0) },
        }
    }

    /// Notes a flow that connection tracking may know from now on; false where it may know it already.
    fn use_up(&mut self, packet: &Packet) -> bool {
        let (one, two) = match packet.icmp {
            Some((kind, code)) => (u16::from(kind), u16::from(code)),
            None => (
                packet.source_port.unwrap_or(0),
                packet.destination_port.unwrap_or(0),
            ),
        };
        let (from, to) = (packet.source, packet.destination);
        let there = (packet.protocol, from, to, one, two);
        let back = match packet.icmp {
            Some(_) => (packet.protocol, to, from, one, two),
            None => (packet.protocol, to, from, two, one),
        };
        let is_new = !self.used.contains(&there) && !self.used.contains(&back);
        self.used.extend([there, back]);
        is_new
    }
}

/// Connection tracking looks into a redirect of ICMPv6 (`nf_conntrack_icmpv6_redirect`), and these are empty.
fn is_redirect(packet: &Packet) -> bool {
    packet.protocol == protocol::ICMPV6 && packet.icmp.is_some_and(|(kind, _)| kind == 137)
}

/// The state of a packet of no flow that is known.
fn own_state(packet: &Packet) -> State {
    if is_never_tracked(packet) {
        return State::Untracked;
    }
    match (packet.icmp, packet.tcp_flags) {
        (Some((kind, _)), _) if is_error(packet.protocol, kind) => State::Invalid,
        (Some((kind, _)), _) => match question_of(packet) {
            Some(question) if question == kind => State::New,
            _ => State::Invalid,
        },
        // What `nf_conntrack_proto_tcp.c` lets begin a connection: SYN, or ACK of one that it did not see begin.
        (None, Some(TcpFlags(flags))) => match flags & 0x17 {
            0x02 | 0x10 => State::New,
            _ => State::Invalid,
        },
        _ => State::New,
    }
}

/// Addresses that a policy need not have.
fn anywhere(family: Family) -> [IpAddr; 3] {
    let texts = match family {
        Family::V4 => ["10.0.0.1", "10.3.0.3", "198.51.100.9"],
        Family::V6 => ["fd00::1", "fd03::3", "2001:db8:51::9"],
    };
    texts.map(|text| text.parse().expect("an address"))
}

/// Whether an address may be anybody's, near or far.
pub fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_multicast()
                && first & 0xffc0 != 0xfe80
                // REDIRECT looks for an address of the same scope (`nf_nat_redirect_ipv6`), and here all are global.
                && first & 0xffc0 != 0xfec0
                && first != 0
        }
    }
}

/// A way through this host for each device that packets come in by.
pub fn ways(random: &mut Random) -> Vec<(String, Option<String>)> {
    let way = |device: &str| {
        let out = *random.pick(&DEVICES);
        let way = (!random.once_in(2)).then(|| out.to_owned());
        (device.to_owned(), way)
    };
    DEVICES.map(way).into()
}

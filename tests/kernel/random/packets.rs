//! Packets at the edges of what rules ask about, in states that cost no work of their own: flows that are known
//! beforehand, packets of fresh flows, packets that no flow can begin with, packets that are not tracked.

use std::collections::HashSet;
use std::net::IpAddr;

use fwc::iptables::{
    HopLimitMatch, IcmpMatch, Match, PortMatch, PortSide, Ports, Rule, Ruleset, TableName,
};
use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated, address_of, number_of};

use super::expected::filter;
use super::rules::{Numbers, SERVICE_PORT, WIRES, addresses};
use crate::lab::frame::{CAUSE_PORTS, Defect, is_error, protocol};
use crate::lab::{is_never_tracked, question_of};

/// A packet, and what has to be done to it so that it has its state.
#[derive(Clone, Debug)]
pub struct Sent {
    pub packet: Packet,
    pub defect: Defect,
    /// Its state is UNTRACKED because a rule of the raw table says so.
    pub notrack: bool,
    /// The mark of its connection.
    pub connection_mark: u32,
}

/// How connection tracking knows a flow: protocol, addresses, ports or type, code.
type Tuple = (u8, IpAddr, IpAddr, u16, u16);

/// The mark of the connections that are known beforehand.
pub const KNOWN_MARK: u32 = 1;
pub const MARKS: [u32; 8] = [0, 1, 2, 0x10, 0x1f, 0xf0, 0x8000_0000, u32::MAX];
const MACS: [[u8; 6]; 3] = [
    [2, 0, 0, 0, 0, 2],
    [2, 0, 0, 0, 0, 3],
    [2, 0, 0x5e, 1, 2, 3],
];

/// The flows that connection tracking is told of once: packets were seen both ways.
pub fn known_flows(family: Family) -> Vec<Packet> {
    let pool = addresses(family).map(|text| text.parse::<IpAddr>().expect("an address"));
    let mut flows = Vec::new();
    for (number, &source) in (0u16..).zip(&pool) {
        for step in [1, 3] {
            let destination = pool[(usize::from(number) + step) % pool.len()];
            let flow = |protocol, ports: Option<(u16, u16)>, icmp| Packet {
                family,
                hook: Hook::Input,
                in_device: None,
                out_device: None,
                source,
                destination,
                protocol,
                source_port: ports.map(|ports| ports.0),
                destination_port: ports.map(|ports| ports.1),
                icmp,
                tcp_flags: None,
                state: State::Established,
                hop_limit: 64,
                mark: 0,
                mac: None,
                translated: Translated::default(),
            };
            let server = [22, 80, 443, 1023][usize::from(number) % 4];
            flows.push(flow(protocol::TCP, Some((1024 + number, server)), None));
            flows.push(flow(protocol::UDP, Some((5000, server)), None));
            flows.push(flow(protocol::UDP, Some(CAUSE_PORTS), None));
            let (echo, question) = icmp_of(family);
            flows.push(flow(echo, None, Some((question, 0))));
        }
    }
    flows
}

/// ICMP's protocol number and its echo request.
const fn icmp_of(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (protocol::ICMP, 8),
        Family::V6 => (protocol::ICMPV6, 128),
    }
}

fn tuple(packet: &Packet) -> Tuple {
    let (one, two) = match packet.icmp {
        Some((kind, code)) => (kind.into(), code.into()),
        None => (
            packet.source_port.unwrap_or(0),
            packet.destination_port.unwrap_or(0),
        ),
    };
    (packet.protocol, packet.source, packet.destination, one, two)
}

/// Makes the packets of one batch.
pub struct Packets<'a> {
    numbers: &'a mut Numbers,
    family: Family,
    hook: Hook,
    flows: &'a [Packet],
    /// Flows that connection tracking may know already.
    used: HashSet<Tuple>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    rules: Vec<&'a Rule>,
}

impl<'a> Packets<'a> {
    pub fn new(
        numbers: &'a mut Numbers,
        hook: Hook,
        flows: &'a [Packet],
        ruleset: &'a Ruleset,
    ) -> Self {
        let family = ruleset.family;
        let mut packets = Self {
            addresses: edges(numbers, ruleset),
            numbers,
            family,
            hook,
            flows,
            used: HashSet::new(),
            ports: ports(ruleset),
            rules: filter(ruleset)
                .iter()
                .flat_map(|table| &table.chains)
                .flat_map(|chain| &chain.rules)
                .collect(),
        };
        flows.iter().for_each(|flow| packets.use_up(flow));
        packets
    }

    pub fn next(&mut self) -> Sent {
        loop {
            let shape = self.numbers.below(100);
            let sent = match shape {
                0..14 => Some(self.of_known_flow()),
                14..20 => self.about_known_flow(),
                20..30 => Some(Sent {
                    notrack: true,
                    ..self.sent(State::Untracked)
                }),
                30..38 => self.spoilt(),
                _ => self.fresh(),
            };
            if let Some(sent) = sent {
                return sent;
            }
        }
    }

    fn use_up(&mut self, packet: &Packet) {
        let (protocol, from, to, one, two) = tuple(packet);
        self.used.insert((protocol, from, to, one, two));
        if packet.icmp.is_none() {
            self.used.insert((protocol, to, from, two, one));
        }
    }

    fn sent(&mut self, state: State) -> Sent {
        Sent {
            packet: Packet {
                state,
                ..self.packet()
            },
            defect: Defect::None,
            notrack: false,
            connection_mark: 0,
        }
    }

    fn of_known_flow(&mut self) -> Sent {
        let flow = self.numbers.of(self.flows);
        let mut sent = self.sent(State::Established);
        sent.connection_mark = KNOWN_MARK;
        let packet = &mut sent.packet;
        (packet.source, packet.destination) = (flow.source, flow.destination);
        (packet.source_port, packet.destination_port) = (flow.source_port, flow.destination_port);
        (packet.protocol, packet.icmp) = (flow.protocol, flow.icmp);
        packet.tcp_flags = (flow.protocol == protocol::TCP)
            .then(|| TcpFlags(self.numbers.of(&[0x10, 0x18, 0x30])));
        if self.numbers.percent(50) {
            std::mem::swap(&mut packet.source, &mut packet.destination);
            std::mem::swap(&mut packet.source_port, &mut packet.destination_port);
            packet.icmp = flow.icmp.map(|(kind, code)| match kind {
                8 => (0, code),
                question => (question + 1, code),
            });
        }
        sent
    }

    /// An ICMP error about a flow that is known.
    fn about_known_flow(&mut self) -> Option<Sent> {
        let flow = self.numbers.of(self.flows);
        if flow.source_port != Some(CAUSE_PORTS.0) {
            return None;
        }
        let errors: &[u8] = match self.family {
            Family::V4 => &[3, 3, 4, 5, 11, 12],
            Family::V6 => &[1, 1, 2, 3, 4],
        };
        let mut sent = self.sent(State::Related);
        sent.connection_mark = KNOWN_MARK;
        let kind = (self.numbers.of(errors), self.numbers.of(&[0, 1, 3, 4, 13]));
        sent.packet = Packet {
            source: flow.destination,
            destination: flow.source,
            protocol: icmp_of(self.family).0,
            icmp: Some(kind),
            source_port: None,
            destination_port: None,
            tcp_flags: None,
            ..sent.packet
        };
        Some(sent)
    }

    fn spoilt(&mut self) -> Option<Sent> {
        let mut sent = self.sent(State::Invalid);
        sent.defect = match (self.hook, sent.packet.protocol) {
            (Hook::Output, protocol::TCP | protocol::UDP) => Defect::Length,
            (Hook::Input | Hook::Forward, protocol::TCP | protocol::UDP) => Defect::Checksum,
            _ => return None,
        };
        Some(sent)
    }

    /// A packet in the state that it has by itself.
    fn fresh(&mut self) -> Option<Sent> {
        let mut sent = self.sent(State::New);
        sent.packet.state = self.own_state(&sent.packet)?;
        if sent.packet.state == State::New {
            self.use_up(&sent.packet);
        }
        Some(sent)
    }

    /// The state of a packet of no known flow; `None` where one may be known.
    fn own_state(&self, packet: &Packet) -> Option<State> {
        let state = match (packet.icmp, packet.tcp_flags) {
            _ if is_never_tracked(packet) => return Some(State::Untracked),
            (Some((kind, _)), _) if is_error(packet.protocol, kind) => {
                let (from, to) = CAUSE_PORTS;
                let cause = (protocol::UDP, packet.destination, packet.source, from, to);
                return (!self.used.contains(&cause)).then_some(State::Invalid);
            }
            (Some((kind, code)), _) => match question_of(packet) {
                Some(question) if question != kind => {
                    let (from, to) = (packet.destination, packet.source);
                    let question = (packet.protocol, from, to, question.into(), code.into());
                    return (!self.used.contains(&question)).then_some(State::Invalid);
                }
                Some(_) => State::New,
                None => return Some(State::Invalid),
            },
            // What `nf_conntrack_proto_tcp.c` lets begin a connection: SYN, or ACK of one that it did not see begin.
            (None, Some(TcpFlags(flags))) => match flags & 0x17 {
                0x02 | 0x10 => State::New,
                _ => State::Invalid,
            },
            _ => State::New,
        };
        let is_new = packet.source != packet.destination && !self.used.contains(&tuple(packet));
        is_new.then_some(state)
    }

    fn packet(&mut self) -> Packet {
        let mut packet = self.any_packet();
        if !self.rules.is_empty() && self.numbers.percent(65) {
            let rule = self.numbers.of(&self.rules);
            rule.matches
                .iter()
                .for_each(|condition| self.aim(&mut packet, condition));
            self.fit(&mut packet);
        }
        packet
    }

    /// Changes the packet so that a condition without `!` holds, as far as that is simple.
    fn aim(&mut self, packet: &mut Packet, condition: &Match) {
        let numbers = &mut *self.numbers;
        let mut port = |range: &PortMatch| Some(numbers.of(&[range.first, range.last]));
        let mut both = |packet: &mut Packet, ports: &Ports| {
            if let Some(source) = ports.source.filter(|test| !test.negated) {
                packet.source_port = port(&source.value);
            }
            if let Some(destination) = ports.destination.filter(|test| !test.negated) {
                packet.destination_port = port(&destination.value);
            }
        };
        match condition {
            Match::Protocol(protocol) if !protocol.negated => {
                let known = [
                    protocol::TCP,
                    protocol::UDP,
                    protocol::SCTP,
                    protocol::UDPLITE,
                ];
                if known.contains(&protocol.value)
                    || [icmp_of(self.family).0, 47, 50].contains(&protocol.value)
                {
                    packet.protocol = protocol.value;
                }
            }
            Match::Source(network)
                if !network.negated && self.addresses.contains(&network.value.address()) =>
            {
                packet.source = network.value.address();
            }
            Match::Destination(network)
                if !network.negated && self.addresses.contains(&network.value.address()) =>
            {
                packet.destination = network.value.address();
            }
            Match::InInterface(name) if !name.negated && packet.in_device.is_some() => {
                let wires: Vec<&str> = WIRES
                    .into_iter()
                    .filter(|wire| name.value.matches(wire))
                    .collect();
                if !wires.is_empty() && packet.mac.is_some() {
                    packet.in_device = Some(numbers.of(&wires).to_owned());
                }
            }
            Match::OutInterface(name) if !name.negated && packet.out_device.is_some() => {
                let wires: Vec<&str> = WIRES
                    .into_iter()
                    .filter(|wire| name.value.matches(wire))
                    .collect();
                if !wires.is_empty() {
                    packet.out_device = Some(numbers.of(&wires).to_owned());
                }
            }
            Match::Tcp(tcp) => {
                both(packet, &tcp.ports);
                if let Some(flags) = tcp.flags.filter(|flags| !flags.negated) {
                    let old = packet.tcp_flags.unwrap_or_default().0;
                    packet.tcp_flags =
                        Some(TcpFlags(old & !flags.value.mask.0 | flags.value.set.0));
                }
            }
            Match::Udp(ports) | Match::Sctp(ports, _) => both(packet, ports),
            Match::Multiport(multiport) if !multiport.negated => {
                let range = numbers.of(&multiport.value.ports);
                match multiport.value.side {
                    PortSide::Source => packet.source_port = Some(range.last),
                    _ => packet.destination_port = Some(range.last),
                }
            }
            Match::Icmp(kind) if !kind.negated => {
                if let IcmpMatch::Type {
                    kind, first_code, ..
                } = kind.value
                {
                    packet.icmp = Some((kind, first_code));
                }
            }
            Match::Mark(test) if !test.negated && MARKS.contains(&test.value.value) => {
                packet.mark = test.value.value;
            }
            Match::HopLimit(HopLimitMatch::Equal(value)) if !value.negated => {
                packet.hop_limit = value.value
            }
            Match::Mac(mac) if !mac.negated && packet.mac.is_some() => packet.mac = Some(mac.value),
            _ => {}
        }
    }

    /// Gives the packet the fields of its protocol, and no others.
    fn fit(&mut self, packet: &mut Packet) {
        let other = loop {
            let other = self.any_packet();
            if other.protocol == packet.protocol {
                break other;
            }
        };
        packet.source_port = other
            .source_port
            .and(packet.source_port.or(other.source_port));
        packet.destination_port = other
            .destination_port
            .and(packet.destination_port.or(other.destination_port));
        packet.icmp = other.icmp.and(packet.icmp.or(other.icmp));
        packet.tcp_flags = other.tcp_flags.and(packet.tcp_flags.or(other.tcp_flags));
    }

    fn any_packet(&mut self) -> Packet {
        let (icmp, _) = icmp_of(self.family);
        let protocol = match self.numbers.below(20) {
            0..7 => protocol::TCP,
            7..12 => protocol::UDP,
            12..16 => icmp,
            16 => protocol::SCTP,
            17 => protocol::UDPLITE,
            18 => protocol::GRE,
            _ => 50,
        };
        let has_ports = [
            protocol::TCP,
            protocol::UDP,
            protocol::SCTP,
            protocol::UDPLITE,
        ];
        let has_ports = has_ports.contains(&protocol);
        let (hook, numbers) = (self.hook, &mut *self.numbers);
        let mut device = |there: bool, loopback: bool| {
            there.then(|| match loopback && numbers.percent(12) {
                true => "lo".to_owned(),
                false => numbers.of(&WIRES).to_owned(),
            })
        };
        let in_device = device(hook != Hook::Output, hook == Hook::Input);
        let out_device = device(hook != Hook::Input, hook == Hook::Output);
        let kinds: &[(u8, u8)] = match self.family {
            Family::V4 => &[
                (8, 0),
                (8, 0),
                (8, 1),
                (0, 0),
                (3, 0),
                (3, 3),
                (3, 4),
                (3, 5),
                (3, 13),
                (5, 1),
                (11, 0),
                (12, 0),
                (13, 0),
                (13, 0),
                (14, 0),
                (17, 0),
                (9, 0),
                (30, 0),
                (255, 0),
            ],
            Family::V6 => &[
                (128, 0),
                (128, 0),
                (128, 1),
                (129, 0),
                (0, 0),
                (1, 0),
                (1, 4),
                (1, 5),
                (2, 0),
                (4, 1),
                (127, 0),
                (135, 0),
                (136, 0),
                (143, 0),
                (139, 0),
                (140, 0),
                (200, 0),
                (255, 255),
                (255, 254),
            ],
        };
        // A wire carries an Ethernet header; what comes from the host itself has none yet.
        let has_mac = in_device.as_deref().is_some_and(|device| device != "lo");
        Packet {
            family: self.family,
            hook,
            in_device,
            out_device,
            source: numbers.of(&self.addresses),
            destination: numbers.of(&self.addresses),
            protocol,
            source_port: has_ports.then(|| numbers.of(&self.ports)),
            destination_port: has_ports.then(|| numbers.of(&self.ports)),
            icmp: (protocol == icmp).then(|| numbers.of(kinds)),
            tcp_flags: (protocol == protocol::TCP).then(|| match numbers.below(10) {
                0..5 => TcpFlags::SYN,
                5..8 => TcpFlags(numbers.of(&[0x10, 0x12, 0x11, 0x04, 0x14, 0x18, 0x22, 0x29])),
                _ => TcpFlags(numbers.below(64) as u8),
            }),
            state: State::New,
            hop_limit: numbers.of(&[1, 62, 63, 64, 64, 65, 66, 253, 254]),
            mark: numbers.of(&MARKS),
            mac: has_mac.then(|| numbers.of(&MACS)),
            translated: Translated::default(),
        }
    }
}

/// The first and last addresses of what rules ask about, and their neighbours, as far as they can travel.
fn edges(numbers: &mut Numbers, ruleset: &Ruleset) -> Vec<IpAddr> {
    let family = ruleset.family;
    let last = family.last_address();
    let pool = addresses(family).map(|text| text.parse::<IpAddr>().expect("an address"));
    let mut found: Vec<u128> = pool.map(number_of).to_vec();
    let own = found.len();
    let mut ends = |first: u128, end: u128| {
        found.extend([first, end, first.saturating_sub(1), end.saturating_add(1)]);
    };
    for condition in conditions(ruleset) {
        match condition {
            Match::Source(network) | Match::Destination(network) => {
                let (address, mask) = (network.value.address(), network.value.mask());
                let (first, mask) = (number_of(address), number_of(mask));
                ends(first, first | (!mask & last));
                // One bit of those that count is another.
                let bit = numbers.below(if family == Family::V4 { 32 } else { 128 });
                ends(first ^ (1 << bit), first);
            }
            Match::AddressRange(range) => {
                for side in [&range.source, &range.destination].into_iter().flatten() {
                    ends(number_of(side.value.0), number_of(side.value.1));
                }
            }
            _ => {}
        }
    }
    let travels = |number: &u128| match family {
        Family::V4 => matches!(number >> 24, 1..=126 | 128..=223),
        Family::V6 => matches!(number >> 125, 1) || matches!(number >> 121, 0x7e),
    };
    let mut addresses: Vec<u128> = found.iter().copied().filter(travels).collect();
    // The addresses that rules share come more often.
    addresses.extend_from_within(..own);
    addresses
        .into_iter()
        .map(|number| address_of(family, number))
        .collect()
}

fn ports(ruleset: &Ruleset) -> Vec<u16> {
    let mut ports = vec![SERVICE_PORT, 80, 40000];
    let mut add = |range: &PortMatch| {
        let around = [range.first.saturating_sub(1), range.last.saturating_add(1)];
        ports.extend([range.first, range.last]);
        ports.extend(around);
    };
    for condition in conditions(ruleset) {
        let both = match condition {
            Match::Tcp(tcp) => tcp.ports,
            Match::Udp(ports) | Match::Sctp(ports, _) => *ports,
            Match::Multiport(multiport) => {
                multiport.value.ports.iter().for_each(&mut add);
                continue;
            }
            _ => continue,
        };
        let sides = [both.source, both.destination].into_iter().flatten();
        sides.for_each(|side| add(&side.value));
    }
    // The ports of the flow that ICMP errors speak of stay out of it.
    ports.retain(|port| *port != CAUSE_PORTS.0 && *port != CAUSE_PORTS.1);
    ports
}

fn conditions(ruleset: &Ruleset) -> impl Iterator<Item = &Match> {
    let chains = ruleset
        .table(TableName::Filter)
        .into_iter()
        .flat_map(|table| &table.chains);
    chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.matches)
}

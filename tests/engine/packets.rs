//! Packets at the edges of what rules ask about.

use fwc::iptables::{HopLimitMatch, IcmpMatch, Match, Ruleset};
use fwc::net::{
    Family, Hook, LONGEST_DEVICE, Packet, State, TcpFlags, Translated, address_of, number_of,
};

/// A small generator of numbers (xorshift64*): the same seed, the same packets.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        number as usize % end.max(1)
    }

    pub fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// Values that some rule tells from their neighbours.
pub struct Edges {
    pub addresses: Vec<u128>,
    pub ports: Vec<u16>,
    pub devices: Vec<String>,
    pub protocols: Vec<u8>,
    pub icmp: Vec<(u8, u8)>,
    pub marks: Vec<u32>,
    pub macs: Vec<[u8; 6]>,
    pub hop_limits: Vec<u8>,
}

impl Edges {
    /// What a ruleset's rules ask about, and what lies beside it.
    pub fn of(ruleset: &Ruleset) -> Self {
        let family = ruleset.family;
        let mut edges = Self {
            addresses: vec![0, family.last_address()],
            ports: vec![0, 1, 65535],
            devices: vec!["eth0".into(), "lo".into(), "other".into()],
            protocols: vec![6, 17, 132, 47, if family == Family::V4 { 1 } else { 58 }],
            icmp: vec![(0, 0), (8, 0), (3, 4)],
            marks: vec![0, 1],
            macs: vec![[2, 0, 0, 0, 0, 1]],
            hop_limits: vec![1, 64, 255],
        };
        let last = family.last_address();
        let rules = ruleset
            .tables
            .iter()
            .flat_map(|table| table.chains.iter().flat_map(|chain| &chain.rules));
        for condition in rules.flat_map(|rule| &rule.matches) {
            let mut addresses = |first: u128, end: u128| {
                edges.addresses.extend([
                    first,
                    end,
                    first.saturating_sub(1),
                    end.saturating_add(1).min(last),
                ]);
            };
            let mut ports = Vec::new();
            match condition {
                Match::Source(network) | Match::Destination(network) => {
                    let mask = number_of(network.value.mask());
                    let first = number_of(network.value.address());
                    addresses(first, first | !mask & last);
                }
                Match::AddressRange(range) => {
                    for range in [range.source, range.destination].into_iter().flatten() {
                        addresses(number_of(range.value.0), number_of(range.value.1));
                    }
                }
                Match::InInterface(name) | Match::OutInterface(name) => {
                    let name = name.value.as_str().trim_end_matches('+');
                    edges.devices.push(name.to_owned());
                    edges
                        .devices
                        .push(format!("{name}9").chars().take(LONGEST_DEVICE).collect());
                }
                Match::Protocol(protocol) => edges.protocols.push(protocol.value),
                Match::Tcp(tcp) => ports.extend([tcp.ports.source, tcp.ports.destination]),
                Match::Udp(both) | Match::Sctp(both, _) | Match::Dccp(both, _) => {
                    ports.extend([both.source, both.destination]);
                }
                Match::Multiport(multiport) => {
                    for range in &multiport.value.ports {
                        edges
                            .ports
                            .extend([range.first, range.last, range.last.saturating_add(1)]);
                    }
                }
                Match::Icmp(kind) => {
                    if let IcmpMatch::Type {
                        kind,
                        first_code,
                        last_code,
                    } = kind.value
                    {
                        edges.icmp.extend([(kind, first_code), (kind, last_code)]);
                    }
                }
                Match::Mark(mark) => edges.marks.push(mark.value.value),
                Match::Mac(mac) => edges.macs.push(mac.value),
                Match::HopLimit(limit) => edges.hop_limits.push(match limit {
                    HopLimitMatch::Equal(value) => value.value,
                    HopLimitMatch::Less(value) | HopLimitMatch::Greater(value) => *value,
                }),
                _ => {}
            }
            for range in ports.into_iter().flatten() {
                let (first, last) = (range.value.first, range.value.last);
                edges
                    .ports
                    .extend([first, last, first.saturating_sub(1), last.saturating_add(1)]);
            }
        }
        edges
    }

    pub fn packet(&self, numbers: &mut Numbers, family: Family, hook: Hook) -> Packet {
        let protocol = numbers.of(&self.protocols);
        let ports = [6, 17, 33, 132, 136].contains(&protocol);
        let is_icmp = protocol == if family == Family::V4 { 1 } else { 58 };
        let mut device = |there: bool| there.then(|| numbers.of(&self.devices));
        Packet {
            family,
            hook,
            in_device: device(hook != Hook::Output),
            out_device: device(hook != Hook::Input),
            source: address_of(family, numbers.of(&self.addresses)),
            destination: address_of(family, numbers.of(&self.addresses)),
            protocol,
            source_port: ports.then(|| numbers.of(&self.ports)),
            destination_port: ports.then(|| numbers.of(&self.ports)),
            icmp: is_icmp.then(|| numbers.of(&self.icmp)),
            tcp_flags: (protocol == 6).then(|| TcpFlags(numbers.below(64) as u8)),
            state: numbers.of(&State::ALL),
            hop_limit: numbers.of(&self.hop_limits),
            mark: numbers.of(&self.marks),
            mac: (hook != Hook::Output && numbers.below(2) == 0).then(|| numbers.of(&self.macs)),
            translated: Translated::default(),
        }
    }
}

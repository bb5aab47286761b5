//! Packets at the edges of what rules ask about.

use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated, address_of};

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

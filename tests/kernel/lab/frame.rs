//! Packets as bytes.

use std::net::IpAddr;

use fwc::net::{Packet, TcpFlags};

/// IP protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const AH: u8 = 51;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const OPTIONS: u8 = 60;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
}

/// The identifier of every echo packet that the harness sends.
pub const ECHO_ID: u16 = 0x4242;
/// The flow that an ICMP error is about: udp from the error's destination to its source.
pub const CAUSE_PORTS: (u16, u16) = (5353, 7);

/// What is wrong with a packet on purpose, so that connection tracking calls it INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    None,
    /// A checksum that does not fit; noticed in PREROUTING only.
    Checksum,
    /// A header that claims to be longer than the packet; noticed everywhere.
    Length,
}

/// What a packet carries, and how much of its stream went before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data<'a> {
    pub offset: u32,
    pub bytes: &'a [u8],
    /// The extension header that stands before it (IPv6), by its number.
    pub extension_header: Option<u8>,
}

/// The packet and its payload with an extension header in between that asks nothing of anybody: options that pad (RFC 8200,
/// section 4.2), a routing header without segments left, a fragment that is the whole packet, a header of SPI 256 (RFC 4302).
pub fn behind_header(packet: &Packet, header: u8, payload: &[u8]) -> (Packet, Vec<u8>) {
    let next = packet.protocol;
    let mut bytes = match header {
        protocol::ROUTING => vec![next, 0, 253, 0, 0, 0, 0, 0],
        protocol::FRAGMENT => vec![next, 0, 0, 0, 0, 0, 0, 1],
        protocol::AH => {
            // 24 bytes: the length is counted in words, less two.
            let mut bytes = vec![next, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
            bytes.extend([0; 12]);
            bytes
        }
        _ => vec![next, 0, 1, 4, 0, 0, 0, 0],
    };
    bytes.extend_from_slice(payload);
    let outer = Packet {
        protocol: header,
        ..packet.clone()
    };
    (outer, bytes)
}

/// The header and payload above IP, by default what opens a connection or is a plain message of its type.
pub fn ip_payload(packet: &Packet, data: Data<'_>, defect: Defect) -> Vec<u8> {
    let ports = [
        packet.source_port.unwrap_or(0).to_be_bytes(),
        packet.destination_port.unwrap_or(0).to_be_bytes(),
    ]
    .concat();
    let (mut bytes, checksum_at) = match packet.protocol {
        protocol::TCP => (tcp(packet, &ports, data), 16),
        protocol::UDP | protocol::UDPLITE => (udp(&ports, data.bytes), 6),
        protocol::ICMP | protocol::ICMPV6 => (icmp(packet), 2),
        protocol::IGMP => (vec![0x11, 0, 0, 0, 0, 0, 0, 0], 2),
        protocol::SCTP => return sctp_init(&ports),
        protocol::GRE => return [&[0, 0, 8, 0][..], data.bytes].concat(),
        _ => return [&ports[..], &[0; 20], data.bytes].concat(),
    };
    if defect == Defect::Length {
        match packet.protocol {
            protocol::TCP => bytes[12] = 0xf0,
            protocol::UDP | protocol::UDPLITE => bytes[4] = 0xff,
            _ => {}
        }
    }
    let pseudo = match packet.protocol {
        protocol::ICMP | protocol::IGMP => Vec::new(),
        _ => pseudo_header(packet, bytes.len()),
    };
    let sum = match checksum(&[&pseudo, &bytes]) {
        0 => 0xffff,
        sum => sum,
    };
    let sum = if defect == Defect::Checksum {
        sum ^ 0x5555
    } else {
        sum
    };
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The whole IP packet. `hop_limit` is what stands in the header when it is sent.
pub fn ip_packet(packet: &Packet, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ip_header(
        packet.source,
        packet.destination,
        packet.protocol,
        hop_limit,
        payload.len(),
    );
    bytes.extend_from_slice(payload);
    bytes
}

/// How many bytes the packet carries if it has a length in all.
pub fn room(packet: &Packet, length: u16) -> Result<usize, String> {
    let payload = ip_payload(packet, Data::default(), Defect::None);
    let least = ip_packet(packet, packet.hop_limit, &payload).len();
    let room = usize::from(length).checked_sub(least);
    room.ok_or_else(|| format!("the packet has {least} bytes at least"))
}

/// Writes the type of service (IPv6: traffic class) into a packet.
pub fn set_service(bytes: &mut [u8], service: u8) {
    if bytes[0] >> 4 == 6 {
        bytes[0] = 0x60 | service >> 4;
        bytes[1] = service << 4;
        return;
    }
    bytes[1] = service;
    bytes[10..12].fill(0);
    let words = bytes[..20]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, hop_limit: u8, length: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend(word(20 + length));
            header.extend([0x12, 0x34, 0, 0, hop_limit, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(word(length));
            header.extend([protocol, hop_limit]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => unreachable!("a packet has addresses of one family"),
    }
}

fn tcp(packet: &Packet, ports: &[u8], data: Data<'_>) -> Vec<u8> {
    let TcpFlags(flags) = packet.tcp_flags.unwrap_or(TcpFlags::SYN);
    let mut bytes = ports.to_vec();
    bytes.extend((1000 + data.offset).to_be_bytes());
    bytes.extend(if flags & 0x10 == 0 {
        [0; 4]
    } else {
        1u32.to_be_bytes()
    });
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend_from_slice(data.bytes);
    bytes
}

fn udp(ports: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = ports.to_vec();
    bytes.extend(word(8 + data.len()));
    bytes.extend([0, 0]);
    bytes.extend_from_slice(data);
    bytes
}

fn icmp(packet: &Packet) -> Vec<u8> {
    let (kind, code) = packet.icmp.unwrap_or((0, 0));
    let mut bytes = vec![kind, code, 0, 0];
    if is_error(packet.protocol, kind) {
        bytes.extend(1280u32.to_be_bytes());
        let (source_port, destination_port) = CAUSE_PORTS;
        let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
        bytes.extend(ip_header(
            packet.destination,
            packet.source,
            protocol::UDP,
            60,
            8,
        ));
        bytes.extend(udp(&ports, &[]));
    } else {
        bytes.extend(ECHO_ID.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend([0; 16]);
    }
    bytes
}

/// Whether an ICMP type speaks about another packet (RFC 792, RFC 4443 section 2.1).
pub fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        _ => kind < 128,
    }
}

/// RFC 9260 section 3.3.2.
fn sctp_init(ports: &[u8]) -> Vec<u8> {
    let mut bytes = ports.to_vec();
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn word(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a small packet").to_be_bytes()
}

fn pseudo_header(packet: &Packet, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [packet.source, packet.destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    // Connection tracking sums UDP-Lite as if it were UDP, and calls a right checksum INVALID.
    bytes.extend(match packet.protocol {
        protocol::UDPLITE => [0, protocol::UDP],
        other => [0, other],
    });
    bytes.extend(word(length));
    bytes
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

//! One packet as a netfilter hook sees it.

use std::fmt;
use std::net::IpAddr;

use super::Family;

/// The filter table's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
}

impl Hook {
    /// All, in the order in which `iptables-save` lists their chains.
    pub const ALL: [Self; 3] = [Self::Input, Self::Forward, Self::Output];

    /// The base chain's name.
    pub const fn chain(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.chain())
    }
}

/// What connection tracking says of a packet (`nf_conntrack(5)`, `iptables-extensions(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Belongs to no known connection.
    Invalid,
    /// Opens a connection.
    New,
    /// Belongs to a connection that has another as its cause.
    Related,
    /// Belongs to a connection that has seen packets both ways.
    Established,
    /// Not tracked.
    Untracked,
}

impl State {
    /// All, in the order in which `iptables-save` lists them.
    pub const ALL: [Self; 5] = [
        Self::Invalid,
        Self::New,
        Self::Related,
        Self::Established,
        Self::Untracked,
    ];

    /// The word that iptables uses.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::Related => "RELATED",
            Self::Established => "ESTABLISHED",
            Self::Untracked => "UNTRACKED",
        }
    }
}

/// TCP flags as in the header's byte (RFC 9293 section 3.1): FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// SYN alone: the first packet of a connection.
    pub const SYN: Self = Self(2);
}

/// Which addresses of a connection are translated (`--ctstate SNAT`, `DNAT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Translated {
    /// The source, of the packets of its direction.
    pub source: bool,
    /// The destination.
    pub destination: bool,
}

/// One packet as a hook of the filter table sees it: after DNAT, before SNAT.
///
/// Fields that a protocol does not have are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address family.
    pub family: Family,
    /// Where in the kernel it is.
    pub hook: Hook,
    /// The device that it came in by; `None` in OUTPUT.
    pub in_device: Option<String>,
    /// The device that it leaves by; `None` in INPUT.
    pub out_device: Option<String>,
    /// Source address, of the packet's family.
    pub source: IpAddr,
    /// Destination address, of the packet's family.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port (tcp, udp, sctp, dccp, udplite).
    pub source_port: Option<u16>,
    /// Destination port (tcp, udp, sctp, dccp, udplite).
    pub destination_port: Option<u16>,
    /// ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// TCP flags.
    pub tcp_flags: Option<TcpFlags>,
    /// Connection state.
    pub state: State,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// The packet mark (`nfmark`).
    pub mark: u32,
    /// Source MAC address, where there is one.
    pub mac: Option<[u8; 6]>,
    /// What was translated of its connection. Of a packet without a connection nothing is.
    pub translated: Translated,
}

impl fmt::Display for Packet {
    /// As people write it: `IPv4 INPUT in eth0 tcp 198.51.100.7:40000 -> 192.0.2.1:22 NEW`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.family, self.hook)?;
        if let Some(device) = &self.in_device {
            write!(out, " in {device}")?;
        }
        if let Some(device) = &self.out_device {
            write!(out, " out {device}")?;
        }
        let end = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => std::net::SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        let protocol = super::Protocol(self.protocol);
        let source = end(self.source, self.source_port);
        let destination = end(self.destination, self.destination_port);
        write!(out, " {protocol} {source} -> {destination}")?;
        if let Some((kind, code)) = self.icmp {
            write!(out, " type {kind} code {code}")?;
        }
        write!(out, " {}", self.state.keyword())?;
        if let Some(flags) = self.tcp_flags.filter(|flags| *flags != TcpFlags::SYN) {
            write!(out, " flags {:#04x}", flags.0)?;
        }
        if self.translated.source {
            out.write_str(" SNAT")?;
        }
        if self.translated.destination {
            out.write_str(" DNAT")?;
        }
        if self.mark != 0 {
            write!(out, " mark {:#x}", self.mark)?;
        }
        if let Some(mac) = self.mac {
            write!(out, " from {}", super::MacAddress(mac))?;
        }
        Ok(())
    }
}

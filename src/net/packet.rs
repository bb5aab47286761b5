//! One packet with the fields that rules can match, its hook, and its connection state.

use std::fmt;
use std::net::IpAddr;
use std::ops::{Index, IndexMut};

use super::Family;

/// The netfilter hooks that the filter table has a chain for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Packets for this host.
    Input,
    /// Packets that this host forwards.
    Forward,
    /// Packets that this host sends.
    Output,
}

impl Hook {
    /// All hooks, in the order in which `iptables-save` prints their chains.
    pub const ALL: [Self; 3] = [Self::Input, Self::Forward, Self::Output];

    /// Returns the name of the hook's base chain.
    pub const fn chain(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
        }
    }
}

/// One value for each hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerHook<T> {
    /// The value for packets to this host.
    pub input: T,
    /// The value for packets that this host forwards.
    pub forward: T,
    /// The value for packets that this host sends.
    pub output: T,
}

impl<T> PerHook<T> {
    /// Makes all values with the same function.
    pub fn from_fn(mut make: impl FnMut(Hook) -> T) -> Self {
        Self {
            input: make(Hook::Input),
            forward: make(Hook::Forward),
            output: make(Hook::Output),
        }
    }
}

impl<T> Index<Hook> for PerHook<T> {
    type Output = T;

    fn index(&self, hook: Hook) -> &T {
        match hook {
            Hook::Input => &self.input,
            Hook::Forward => &self.forward,
            Hook::Output => &self.output,
        }
    }
}

impl<T> IndexMut<Hook> for PerHook<T> {
    fn index_mut(&mut self, hook: Hook) -> &mut T {
        match hook {
            Hook::Input => &mut self.input,
            Hook::Forward => &mut self.forward,
            Hook::Output => &mut self.output,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.chain())
    }
}

/// The state that connection tracking gives a packet (`--ctstate`, `iptables-extensions(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The packet belongs to no connection that conntrack knows, and does not start one.
    Invalid,
    /// The packet starts a connection, or belongs to one that has not seen packets in both directions.
    New,
    /// The packet starts a connection that belongs to another one (an FTP data transfer), or is an ICMP error about one.
    Related,
    /// The packet belongs to a connection that has seen packets in both directions.
    Established,
    /// Conntrack does not look at the packet, because a rule of the raw table untracked it (`-j CT --notrack`).
    Untracked,
}

impl State {
    /// All states, in the order in which `iptables-save` prints them.
    pub const ALL: [Self; 5] = [
        Self::Invalid,
        Self::New,
        Self::Related,
        Self::Established,
        Self::Untracked,
    ];

    /// Returns the word that iptables uses for the state.
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

/// TCP flags as bits of the header's byte (RFC 9293 section 3.1): FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// SYN alone: the first packet of a connection.
    pub const SYN: Self = Self(2);
}

/// Which ends of a packet's connection NAT has translated (`--ctstate SNAT`, `--ctstate DNAT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Translated {
    /// The original source differs from the destination of the replies.
    pub source: bool,
    /// The original destination differs from the source of the replies.
    pub destination: bool,
}

/// One packet as a hook of the filter table sees it: after DNAT and before SNAT.
///
/// Fields that the packet's protocol does not have are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The address family.
    pub family: Family,
    /// The hook that the packet passes.
    pub hook: Hook,
    /// The incoming device (`-i`); `None` in OUTPUT.
    pub in_device: Option<String>,
    /// The outgoing device (`-o`); `None` in INPUT.
    pub out_device: Option<String>,
    /// The source address, of the packet's family.
    pub source: IpAddr,
    /// The destination address, of the packet's family.
    pub destination: IpAddr,
    /// The IP protocol number.
    pub protocol: u8,
    /// The source port (tcp, udp, sctp, dccp, udplite).
    pub source_port: Option<u16>,
    /// The destination port (tcp, udp, sctp, dccp, udplite).
    pub destination_port: Option<u16>,
    /// The ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// The TCP flags.
    pub tcp_flags: Option<TcpFlags>,
    /// The connection state.
    pub state: State,
    /// The time to live (IPv4) or hop limit (IPv6), as the hook sees it: forwarding lowers it by one before FORWARD.
    pub hop_limit: u8,
    /// The packet mark (`nfmark`).
    pub mark: u32,
    /// The source MAC address; `None` if the packet has no Ethernet header.
    pub mac: Option<[u8; 6]>,
    /// Which ends of the packet's connection are translated; neither for a packet without a connection.
    pub translated: Translated,
}

impl fmt::Display for Packet {
    /// Writes the packet for people: `IPv4 INPUT in eth0 tcp 198.51.100.7:40000 -> 192.0.2.1:22 NEW`. TCP flags are left
    /// out where they are SYN alone.
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

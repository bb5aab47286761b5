//! IP protocol numbers and their names.

use std::fmt;

/// An IP protocol number, as `-p` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

/// The protocol names of Debian 12's `/etc/protocols`, which `iptables-save` prints there. They are built in, so that a
/// policy gives the same rules on every machine.
const NAMES: &[(u8, &str)] = &[
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (8, "egp"),
    (9, "igp"),
    (12, "pup"),
    (17, "udp"),
    (20, "hmp"),
    (22, "xns-idp"),
    (27, "rdp"),
    (29, "iso-tp4"),
    (33, "dccp"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (41, "ipv6"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (57, "skip"),
    (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (73, "rspf"),
    (81, "vmtp"),
    (88, "eigrp"),
    (89, "ospf"),
    (93, "ax.25"),
    (94, "ipip"),
    (97, "etherip"),
    (98, "encap"),
    (103, "pim"),
    (108, "ipcomp"),
    (112, "vrrp"),
    (115, "l2tp"),
    (124, "isis"),
    (132, "sctp"),
    (133, "fc"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
];

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// Internet Group Management Protocol.
    pub const IGMP: Self = Self(2);
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// Datagram Congestion Control Protocol.
    pub const DCCP: Self = Self(33);
    /// IP Authentication Header (RFC 4302). In IPv6 it is an extension header, which iptables-legacy skips to find the
    /// protocol and iptables-nft takes for the protocol: only `-m ah` matches it with both.
    pub const AH: Self = Self(51);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// The protocols that have ports.
    pub const WITH_PORTS: [Self; 5] = [Self::TCP, Self::UDP, Self::SCTP, Self::DCCP, Self::UDPLITE];

    /// Extension headers of IPv6 that `-p` never matches: routing, fragment, destination options. The kernel skips them to
    /// find a packet's protocol (`ipv6_find_hdr` of `net/ipv6/exthdrs_core.c`). It skips hop-by-hop options too, but their
    /// number 0 means every protocol to iptables. Mobility (135), HIP and Shim6 count as protocols.
    pub const EXTENSION_HEADERS: [Self; 3] = [Self(43), Self(44), Self(60)];

    /// Parses a protocol name or a number from 1 to 255. `icmpv6` is a second name of `ipv6-icmp`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "icmpv6" {
            return Some(Self::ICMPV6);
        }
        if let Some(&(number, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return Some(Self(number));
        }
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        text.parse().ok().filter(|_| plain).map(Self)
    }

    /// Returns the protocol's name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(number, _)| *number == self.0)
            .map(|(_, name)| *name)
    }

    /// Returns all names, for suggestions in messages.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }

    /// Returns `true` if `-p` with this number never matches in IPv6, because it is an extension header there.
    pub fn is_extension_header(self) -> bool {
        Self::EXTENSION_HEADERS.contains(&self)
    }

    /// Returns `true` if packets of this protocol have ports.
    pub fn has_ports(self) -> bool {
        Self::WITH_PORTS.contains(&self)
    }
}

impl fmt::Display for Protocol {
    /// Writes the name, or the number if the protocol has no name, as `iptables-save` does.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => out.write_str(name),
            None => write!(out, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fwc writes must be what the system's tools read back.
    #[test]
    fn names_agree_with_the_system() {
        let Ok(system) = std::fs::read_to_string("/etc/protocols") else {
            return; // a system without the file has nothing that could disagree
        };
        for line in system.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(number)) = (words.next(), words.next()) else {
                continue;
            };
            if name.starts_with('#') {
                continue;
            }
            if let (Some(ours), Ok(number)) = (Protocol::parse(name), number.parse::<u16>()) {
                assert_eq!(u16::from(ours.0), number, "{name}");
            }
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(Protocol::parse("47"), Some(Protocol(47)));
        assert_eq!(Protocol(47).to_string(), "gre");
        assert_eq!(Protocol(200).to_string(), "200");
        for bad in ["", "0", "256", "007", "+6", "TCPX"] {
            assert_eq!(Protocol::parse(bad), None, "{bad}");
        }
    }
}

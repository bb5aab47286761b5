//! Finds the route of packets to an address, and the packets that carry a tunnel.

use std::net::{IpAddr, SocketAddr};

use super::tools;
use crate::net::Protocol;

/// The route to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The device that packets leave by.
    pub device: String,
    /// Their source address.
    pub source: Option<IpAddr>,
    /// Who has the address.
    pub reaches: Reaches,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaches {
    /// This host.
    ThisHost,
    /// Another host.
    Another,
    /// Several hosts: a broadcast, multicast or anycast address.
    Many,
}

/// The kind of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not a tunnel, as far as it is known.
    Plain,
    /// A tunnel, with the packets that carry it.
    Tunnel(Vec<Carrier>),
    /// A tunnel that a program carries (a VPN, for example); the kernel does not tell how.
    Unseen,
}

/// The packets that carry a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Their protocol.
    pub protocol: Protocol,
    /// The other end of the tunnel. The port is 0 if the protocol has none.
    pub remote: SocketAddr,
    /// The port of this host, if the protocol has one.
    pub local_port: Option<u16>,
    /// `true` if packets in both directions belong to one connection, so that it is enough if the rules let one side
    /// open it.
    pub answers: bool,
}

/// Returns the route to an address; `None` if there is none, or if `ip` is not installed.
pub fn to(address: IpAddr) -> Option<Route> {
    let text = tools::output("ip", &["-o", "route", "get", &address.to_string()])?;
    read(&text)
}

/// Reads the output of `ip -o route get`.
fn read(text: &str) -> Option<Route> {
    let reaches = match text.split_ascii_whitespace().next()? {
        "local" => Reaches::ThisHost,
        "broadcast" | "multicast" | "anycast" => Reaches::Many,
        _ => Reaches::Another,
    };
    Some(Route {
        device: after(text, "dev")?.to_owned(),
        source: after(text, "src").and_then(|word| word.parse().ok()),
        reaches,
    })
}

/// Returns the kind of a device, and for a tunnel the packets that carry it.
pub fn link(device: &str) -> Link {
    let Some(text) = tools::output("ip", &["-o", "-d", "link", "show", "dev", device]) else {
        return Link::Plain;
    };
    if text
        .split_ascii_whitespace()
        .any(|word| word == "wireguard")
    {
        return match tools::output("wg", &["show", device, "dump"]) {
            Some(dump) => Link::Tunnel(wireguard(&dump)),
            None => Link::Unseen,
        };
    }
    described(&text)
}

/// Reads the output of `ip -o -d link show` for one device.
fn described(text: &str) -> Link {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let is = |kinds: &[&str]| kinds.iter().any(|kind| words.contains(kind));
    let port = || after(text, "dstport").and_then(|word| word.parse().ok());
    let (protocol, port) = if is(&["gre", "gretap", "ip6gre", "ip6gretap", "erspan"]) {
        (Protocol(47), None)
    } else if is(&["ipip"]) {
        (Protocol(4), None)
    } else if is(&["sit", "ip6tnl"]) {
        (Protocol(41), None)
    } else if is(&["vxlan"]) {
        (Protocol::UDP, port().or(Some(4789)))
    } else if is(&["geneve"]) {
        (Protocol::UDP, port().or(Some(6081)))
    } else if is(&["tun", "vti", "vti6", "xfrm"]) {
        return Link::Unseen;
    } else {
        return Link::Plain;
    };
    let Some(remote) = after(text, "remote").and_then(|word| word.parse().ok()) else {
        return Link::Unseen;
    };
    Link::Tunnel(vec![Carrier {
        protocol,
        remote: SocketAddr::new(remote, port.unwrap_or(0)),
        local_port: port,
        // With VXLAN and GENEVE the source port is a hash of the inner packet, so that the two directions are different
        // connections.
        answers: port.is_none(),
    }])
}

/// Reads the output of `wg show DEVICE dump`: a line for the device, then one for each peer.
fn wireguard(dump: &str) -> Vec<Carrier> {
    let mut lines = dump
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let local_port = lines.next().and_then(|device| device.get(2)?.parse().ok());
    let peers = lines.filter_map(|peer| peer.get(2)?.parse().ok());
    peers
        .map(|remote| Carrier {
            protocol: Protocol::UDP,
            remote,
            local_port,
            answers: true,
        })
        .collect()
}

/// Returns the word after a word.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut words = text.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::{Carrier, Link, Reaches, described, read, wireguard};
    use crate::net::Protocol;

    #[test]
    fn ways_are_read() {
        let local =
            read("local 10.94.0.1 dev lo src 10.94.0.1 uid 0 \\    cache <local> ").unwrap();
        assert_eq!((&*local.device, local.reaches), ("lo", Reaches::ThisHost));
        let far =
            read("192.0.2.1 via 10.94.0.9 dev eth0 src 10.94.0.1 uid 0 \\    cache ").unwrap();
        assert_eq!((&*far.device, far.reaches), ("eth0", Reaches::Another));
        assert_eq!(far.source, Some("10.94.0.1".parse().unwrap()));
        for many in [
            "broadcast 10.94.0.255 dev eth0 src 10.94.0.1 uid 0 \\    cache <local,brd> ",
            "multicast 224.0.0.251 dev eth0 src 10.94.0.1 uid 0 \\    cache <mc> ",
            "multicast ff02::fb from :: dev eth0 table 255 proto kernel src fe80::1 metric 256",
        ] {
            assert_eq!(read(many).unwrap().reaches, Reaches::Many);
        }
    }

    #[test]
    fn tunnels_are_known_by_their_kind() {
        let gre = "4: gre1@NONE: <POINTOPOINT,NOARP,UP> mtu 1476 qdisc noqueue link/gre 10.0.0.1 peer 10.0.0.2 promiscuity 0 gre remote 10.0.0.2 local 10.0.0.1 ttl inherit nopmtudisc";
        assert_eq!(
            described(gre),
            Link::Tunnel(vec![Carrier {
                protocol: Protocol(47),
                remote: "10.0.0.2:0".parse().unwrap(),
                local_port: None,
                answers: true,
            }])
        );
        let vxlan = "5: vx0: <BROADCAST> mtu 1450 link/ether 1a:2b promiscuity 0 vxlan id 42 remote 10.0.0.2 srcport 0 0 dstport 4790 ttl auto";
        assert_eq!(
            described(vxlan),
            Link::Tunnel(vec![Carrier {
                protocol: Protocol::UDP,
                remote: "10.0.0.2:4790".parse().unwrap(),
                local_port: Some(4790),
                answers: false,
            }])
        );
        assert_eq!(
            described("3: tun0: mtu 1500 link/none promiscuity 0 tun type tun pi off"),
            Link::Unseen
        );
        assert_eq!(
            described("2: eth0@if3: mtu 1500 link/ether 1a:2b veth"),
            Link::Plain
        );
        let dump = "PRIVATE\tPUBLIC\t51820\toff\nKEY\t(none)\t198.51.100.7:4500\t10.0.0.0/8\t0\t0\t0\toff\nKEY2\t(none)\t(none)\t10.1.0.0/16\t0\t0\t0\toff\n";
        assert_eq!(
            wireguard(dump),
            [Carrier {
                protocol: Protocol::UDP,
                remote: "198.51.100.7:4500".parse().unwrap(),
                local_port: Some(51820),
                answers: true,
            }]
        );
    }
}

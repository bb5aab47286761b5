//! A host whose four tables are all under test.
//!
//! An nftables table in front of them lets nothing in but the packets that the bench sends, which have a class of service of
//! their own. What leaves is seen at the other end of the wires.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fwc::iptables::{Chain, Ruleset};
use fwc::net::{Family, Hook, Packet};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    recvfrom, sendto, setsockopt, socket, sockopt,
};

use super::FIRST_PORT;
use super::rules::{WIRES, own_addresses};
use crate::lab::frame::{self, Data, Defect, set_service};
use crate::lab::{
    DEVICE_MAC, PEER_MAC, QUIET_ROUTER, link_addresses, mac, packet_socket, raw_socket,
};
use crate::random::PACKETS;
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// Packets take a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The class of service of what the bench sends, as it sends it: no answer of the kernel has it.
pub const OURS: u8 = 0xfc;
/// `PACKET_OUTGOING` of `linux/if_packet.h`: what this end sent itself.
const OUTGOING: u8 = 4;

/// The mark of connections that were there before.
pub const KNOWN_MARK: u32 = 1;

/// A packet, and what is known of its connection.
#[derive(Clone, Debug)]
pub struct Sent {
    pub packet: Packet,
    pub known: Option<Known>,
}

/// How a connection was translated that was there before.
#[derive(Clone, Copy, Debug)]
pub enum Known {
    Plain,
    To(IpAddr),
    From(IpAddr),
}

/// What a packet looked like when it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub destination_port: u16,
    pub device: String,
}

pub struct Bench {
    backend: Backend,
    family: Family,
    hook: Hook,
    inside: Namespace,
    _outside: Namespace,
    frames: OwnedFd,
    seen: OwnedFd,
    from_host: HashMap<String, OwnedFd>,
    peers: HashMap<String, LinkAddr>,
}

impl Bench {
    pub fn new(backend: Backend, family: Family, hook: Hook) -> Result<Self, String> {
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        outside.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        inside.sysctl(QUIET_ROUTER)?;
        let option = match family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        let mut links = String::new();
        for (number, device) in WIRES.iter().enumerate() {
            let (here, there, netns) = (mac(DEVICE_MAC), mac(PEER_MAC), outside.path());
            links += &format!(
                "link add {device} address {here} type veth peer name peer{number} address {there} netns {netns}\n\
                 link set {device} arp off up\n"
            );
        }
        inside.run("ip", &["-batch", "-"], &links)?;
        let peers: Vec<String> = (0..WIRES.len())
            .map(|number| format!("peer{number}"))
            .collect();
        outside.set_up(&peers)?;
        inside.set_up(&WIRES)?;
        inside.run("ip", &[option, "-batch", "-"], &routing(family, hook))?;
        inside.await_addresses()?;
        inside.run("nft", &["-f", "-"], &guard(hook))?;

        let (frames, seen, by_number) =
            outside.enter(|| (packet_socket(), tap(), link_addresses()));
        let kind = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let from_host = inside.enter(|| {
            let bound = WIRES.map(|device| {
                let socket = raw_socket(kind);
                let name = std::ffi::OsString::from(device);
                setsockopt(&socket, sockopt::BindToDevice, &name).expect("a device");
                (device.to_owned(), socket)
            });
            bound.into_iter().collect()
        });
        let wires = WIRES.iter().enumerate();
        let peers = wires
            .map(|(number, device)| ((*device).to_owned(), by_number[&format!("peer{number}")]))
            .collect();
        Ok(Self {
            backend,
            family,
            hook,
            inside,
            _outside: outside,
            frames,
            seen,
            from_host,
            peers,
        })
    }

    /// Loads the rules, sends the packets, and returns what each rule and policy counted, table by table, and what left, by
    /// source port.
    pub fn batch(
        &self,
        rules: &str,
        packets: &[Sent],
        enough: &dyn Fn(&[u64]) -> bool,
    ) -> Result<(Vec<u64>, HashMap<u16, Left>), String> {
        self.inside.restore(self.backend, self.family, &[], rules)?;
        self.inside.run("conntrack", &["-F"], "")?;
        for sent in packets {
            self.know(sent)?;
        }
        self.left();
        for Sent { packet, .. } in packets {
            self.send(packet)
                .map_err(|error| format!("{error}: {packet}"))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.inside.save(self.backend, self.family, &["-c"])?;
            let saved = Ruleset::from_text(&text, self.family)
                .map_err(|error| format!("{error}\n{text}"))?;
            let chains = saved.tables.iter().flat_map(|table| &table.chains);
            let counted: Vec<u64> = chains.flat_map(counts).collect();
            if enough(&counted) || Instant::now() > deadline {
                return Ok((counted, self.left()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells connection tracking of a connection that was there before.
    fn know(&self, sent: &Sent) -> Result<(), String> {
        let packet = &sent.packet;
        let translation = match sent.known {
            None => return Ok(()),
            Some(Known::Plain) => String::new(),
            Some(Known::To(address)) => format!(" --dst-nat {address}"),
            Some(Known::From(address)) => format!(" --src-nat {address}"),
        };
        let (from, to) = (packet.source, packet.destination);
        let [source_port, destination_port] =
            [packet.source_port, packet.destination_port].map(|port| port.unwrap_or(0));
        let words = format!(
            "-I -t 1000 -u SEEN_REPLY,ASSURED -m {KNOWN_MARK} -s {from} -d {to} -p udp \
             --sport {source_port} --dport {destination_port}{translation}"
        );
        let words: Vec<&str> = words.split(' ').collect();
        self.inside.run("conntrack", &words, "").map(drop)
    }

    fn send(&self, packet: &Packet) -> Result<(), String> {
        let payload = frame::ip_payload(packet, Data::default(), Defect::None);
        let forwarded = packet.hook == Hook::Forward;
        let hop_limit = packet.hop_limit + u8::from(forwarded);
        let mut bytes = frame::ip_packet(packet, hop_limit, &payload);
        set_service(&mut bytes, OURS);
        let flags = MsgFlags::empty();
        let done = if self.hook == Hook::Output {
            let device = packet.out_device.as_deref().unwrap_or_default();
            let socket = &self.from_host[device];
            setsockopt(socket, sockopt::Mark, &packet.mark).map_err(|error| error.to_string())?;
            match packet.destination {
                IpAddr::V4(to) => {
                    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                    sendto(socket.as_raw_fd(), &bytes, &to, flags)
                }
                IpAddr::V6(to) => {
                    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                    sendto(socket.as_raw_fd(), &bytes, &to, flags)
                }
            }
        } else {
            let kind: [u8; 2] = match packet.family {
                Family::V4 => [0x08, 0x00],
                Family::V6 => [0x86, 0xdd],
            };
            let bytes = [&DEVICE_MAC[..], &PEER_MAC, &kind, &bytes].concat();
            let device = packet.in_device.as_deref().unwrap_or_default();
            sendto(self.frames.as_raw_fd(), &bytes, &self.peers[device], flags)
        };
        match done {
            // How a sender hears that a table dropped its packet.
            Ok(_) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What has left since the last time, by source port.
    fn left(&self) -> HashMap<u16, Left> {
        let mut all = HashMap::new();
        let mut buffer = [0; 2048];
        let device = |from: &LinkAddr| {
            let peer = self.peers.iter();
            let found = peer
                .clone()
                .find(|(_, peer)| peer.ifindex() == from.ifindex());
            found.map(|(device, _)| device.clone()).unwrap_or_default()
        };
        while let Ok((length, Some(from))) =
            recvfrom::<LinkAddr>(self.seen.as_raw_fd(), &mut buffer)
        {
            if from.pkttype() == OUTGOING {
                continue;
            }
            if let Some((port, mut left)) = read(&buffer[..length]) {
                left.device = device(&from);
                all.insert(port, left);
            }
        }
        all
    }
}

/// A socket that sees every frame and waits for none.
fn tap() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        flags,
        SockProtocol::EthAll,
    )
    .expect("a packet socket");
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).expect("a large buffer");
    socket
}

/// A frame of ours: its source port, by which it is known whatever rules wrote into its class of service, and what it looks like.
fn read(frame: &[u8]) -> Option<(u16, Left)> {
    let ip = frame.get(14..)?;
    let (source, destination, rest) = match ip.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into());
            (
                IpAddr::V4(address(12).map(|address: Ipv4Addr| address)?),
                IpAddr::V4(address(16)?),
                ip.get(20..)?,
            )
        }
        6 => {
            let address = |at: usize| Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into());
            (
                IpAddr::V6(address(8).map(|address: Ipv6Addr| address)?),
                IpAddr::V6(address(24)?),
                ip.get(40..)?,
            )
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let left = Left {
        source,
        destination,
        destination_port: port(2)?,
        device: String::new(),
    };
    let ports = usize::from(FIRST_PORT)..usize::from(FIRST_PORT) + PACKETS;
    let known = port(0).filter(|port| ports.contains(&usize::from(*port)))?;
    Some((known, left))
}

/// A chain's policy, if it has one, and its rules.
fn counts(chain: &Chain) -> impl Iterator<Item = u64> {
    let policy = chain.policy.map(|_| chain.counters.packets);
    let rules = chain.rules.iter();
    policy
        .into_iter()
        .chain(rules.map(|rule| rule.counters.map_or(0, |counters| counters.packets)))
}

/// Keeps everything out but what the bench sends to the hook.
fn guard(hook: Hook) -> String {
    let ours = "ip dscp != 0x3f drop; ip6 dscp != 0x3f drop;";
    let (prerouting, output) = match hook {
        Hook::Output => ("drop;", ours),
        _ => (ours, "drop;"),
    };
    format!(
        "table inet guard {{\n\
         chain first {{ type filter hook prerouting priority -500; {prerouting} }}\n\
         chain own {{ type filter hook output priority -500; {output} }}\n\
         }}\n"
    )
}

/// Routes that bring every packet into the hook, wherever it goes: what enters by one device leaves by the other.
fn routing(family: Family, hook: Hook) -> String {
    let mut lines = "rule add pref 100 lookup local\nrule del pref 0\n".to_owned();
    let (length, once) = match family {
        Family::V4 => (32, ""),
        Family::V6 => (128, " nodad"),
    };
    for (number, (device, address)) in WIRES.iter().zip(own_addresses(family)).enumerate() {
        lines += &format!("addr add {address}/{length} dev {device}{once}\n");
        let table = 1001 + number;
        let other = WIRES[1 - number];
        lines += &match hook {
            // IPv6 looks for some destinations on the device itself.
            Hook::Input => {
                let on = if family == Family::V6 { device } else { &"lo" };
                format!(
                    "rule add pref 10 iif {device} lookup {table}\nroute add local default dev {on} table {table}\n"
                )
            }
            Hook::Forward => format!(
                "rule add pref 10 iif {device} lookup {table}\nroute add default dev {other} table {table}\n"
            ),
            Hook::Output => format!("route add default dev {device} metric {table} table 1000\n"),
        };
    }
    if hook == Hook::Output {
        lines += "rule add pref 10 iif lo lookup 1000\n";
    }
    lines
}

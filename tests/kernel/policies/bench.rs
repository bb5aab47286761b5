//! A host whose rules are those of one policy after the other, all tables and both ways of every packet.
//!
//! An nftables table in front of them lets nothing pass but what the bench sends: a class of service of its own marks what
//! comes in, another what this host sends. What comes in by a device goes to this host or leaves by another, as a batch says;
//! what this host sends on `lo` comes back to it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fwc::iptables::Ruleset;
use fwc::net::{Family, Hook, Packet};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, sendto,
    setsockopt, socket, sockopt,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::buckets::Round;
use super::packets::Flow;
use crate::lab::frame::{self, Data, Defect, protocol, set_service};
use crate::lab::{
    DEVICE_MAC, EMPTY, NO_MAC, QUIET_ROUTER, link_addresses, mac, packet_socket, raw_socket,
};
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// Nothing waits so long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// The devices, but `lo`: those of the policies, and their neighbours by name.
pub const DEVICES: [&str; 8] = [
    "eth0", "eth1", "eth10", "wg", "wg0", "wgx", "br-lan", "dummy0",
];
/// The users and groups that send.
const SENDERS: [(u32, u32); 2] = [(0, 0), (33, 5)];
/// The port at which a transparent proxy listens.
const PROXY: u16 = 3129;
/// The classes of service of what comes in and of what this host sends.
const COMES: u8 = 0xfc;
const LEAVES: u8 = 0xf8;
/// The priority of what this host sends, as the guard knows it.
const PRIORITY: i32 = 5;

/// The address that the host has on a device.
pub fn own_addresses(family: Family) -> Vec<IpAddr> {
    let numbers = 0..DEVICES.len();
    let texts = numbers.map(|number| match family {
        Family::V4 => format!("100.64.{number}.1"),
        Family::V6 => format!("2001:db8:99:{number}::1"),
    });
    texts
        .map(|text| text.parse().expect("an address"))
        .collect()
}

/// Where what comes in by a device goes: `None` is this host. And which other addresses are this host's.
#[derive(Clone, Debug)]
pub struct Ways {
    pub all: Vec<(String, Option<String>)>,
    pub local: Vec<IpAddr>,
}

impl Ways {
    /// The way of what comes in by a device; `None` where nothing may.
    pub fn of(&self, device: &str) -> Option<Option<&str>> {
        let mut all = self.all.iter();
        let (_, way) = all.find(|(name, _)| name == device)?;
        Some(way.as_deref())
    }

    /// Whether the kernel takes the destination for an address of its own. In IPv6 it looks for the route by which this host
    /// would send (`match_lookup_rt6` of `xt_addrtype.c`), and while it sends here, that is one out for all.
    pub fn is_local(&self, packet: &Packet) -> bool {
        let address = packet.destination;
        let sends = packet.hook == Hook::Output || packet.in_device.as_deref() == Some("lo");
        if packet.family == Family::V6 && sends {
            return false;
        }
        address.is_loopback()
            || self.local.contains(&address)
            || own_addresses(packet.family).contains(&address)
    }
}

/// A packet, and what the bench has to know to send it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub packet: Packet,
    pub defect: Defect,
    /// The flow that was there before and to which it belongs.
    pub flow: Option<usize>,
    /// User and group of the process that sends it.
    pub user: (u32, u32),
}

/// What is loaded for a batch.
pub struct Load<'a> {
    pub rules: &'a str,
    /// `ipset restore` text.
    pub sets: &'a str,
    pub flows: &'a [Flow],
    pub ways: &'a Ways,
}

pub struct Bench {
    pub backend: Backend,
    pub family: Family,
    inside: Namespace,
    _outside: Namespace,
    frames: OwnedFd,
    _proxies: Vec<OwnedFd>,
    from_host: HashMap<(String, (u32, u32)), OwnedFd>,
    peers: HashMap<String, LinkAddr>,
    /// What takes the routes of the last packets away.
    routes: RefCell<String>,
}

impl Bench {
    pub fn new(backend: Backend, family: Family) -> Result<Self, String> {
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        outside.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        inside.sysctl(QUIET_ROUTER)?;
        let mut links = String::new();
        for (number, device) in DEVICES.iter().enumerate() {
            let (here, there) = (mac(DEVICE_MAC), mac(crate::lab::PEER_MAC));
            let netns = outside.path();
            links += &format!(
                "link add {device} address {here} type veth peer name peer{number} address {there} netns {netns}\n\
                 link set {device} arp off up\n"
            );
        }
        inside.run("ip", &["-batch", "-"], &links)?;
        let peers: Vec<String> = (0..DEVICES.len())
            .map(|number| format!("peer{number}"))
            .collect();
        outside.set_up(&peers)?;
        inside.set_up(&DEVICES)?;
        let (length, once) = match family {
            Family::V4 => (32, ""),
            Family::V6 => (128, " nodad"),
        };
        let mut lines = "rule add pref 100 lookup local\nrule del pref 0\n".to_owned();
        for (device, address) in DEVICES.iter().zip(own_addresses(family)) {
            lines += &format!("addr add {address}/{length} dev {device}{once}\n");
        }
        inside.run("ip", &[option(family), "-batch", "-"], &lines)?;
        inside.run("nft", &["-f", "-"], GUARD)?;

        let (frames, by_number) = outside.enter(|| (packet_socket(), link_addresses()));
        let kind = kind_of(family);
        let proxies = inside.enter(|| proxies(family));
        let mut from_host = HashMap::new();
        for sender in SENDERS {
            from_host.extend(inside.enter(|| {
                // Of this thread alone: a socket belongs to who makes it.
                setfsgid(Gid::from_raw(sender.1));
                setfsuid(Uid::from_raw(sender.0));
                let bound = DEVICES.iter().chain(&["lo"]).map(|device| {
                    let socket = raw_socket(kind);
                    let name = std::ffi::OsString::from(device);
                    setsockopt(&socket, sockopt::BindToDevice, &name).expect("a device");
                    // The kernel's own answers have the class of service of what they answer, but not this.
                    setsockopt(&socket, sockopt::Priority, &PRIORITY).expect("a priority");
                    (((*device).to_owned(), sender), socket)
                });
                bound.collect::<Vec<_>>()
            }));
        }
        let wires = DEVICES.iter().enumerate();
        let peers: HashMap<String, LinkAddr> = wires
            .map(|(number, device)| ((*device).to_owned(), by_number[&format!("peer{number}")]))
            .collect();
        Ok(Self {
            backend,
            family,
            inside,
            _outside: outside,
            frames,
            _proxies: proxies,
            from_host,
            peers,
            routes: RefCell::new(String::new()),
        })
    }

    /// Loads the rules, sends the packets in rounds with a pause between them, and returns when the rounds were and what
    /// the kernel counted. `expected` says how much that is, where the times tell.
    pub fn batch(
        &self,
        load: &Load<'_>,
        rounds: &[Vec<Sent>],
        pause: Duration,
    ) -> Result<(Vec<Round>, Ruleset), String> {
        self.load(load)?;
        let loaded = Instant::now();
        let mut times = Vec::new();
        for (number, packets) in rounds.iter().enumerate() {
            if number > 0 {
                std::thread::sleep(pause);
            }
            times.push(self.round(load.ways, packets, loaded)?);
        }
        Ok((times, self.counted()?))
    }

    /// What each rule has counted.
    pub fn counted(&self) -> Result<Ruleset, String> {
        let text = self.inside.save(self.backend, self.family, &["-c"])?;
        Ruleset::from_text(&text, self.family).map_err(|error| format!("{error}\n{text}"))
    }

    /// The addresses, the routes and the connections of the host, for whoever looks for what went wrong.
    pub fn surroundings(&self) -> String {
        let option = option(self.family);
        let commands: [(&str, &[&str]); 4] = [
            ("ip", &[option, "addr", "show", "dev", "lo"]),
            ("ip", &[option, "rule"]),
            ("ip", &[option, "route", "show", "table", "all"]),
            ("conntrack", &["-L", "-f", self.family.keyword()]),
        ];
        let run = |(program, words): (&str, &[&str])| {
            self.inside
                .run(program, words, "")
                .unwrap_or_else(|error| error)
        };
        commands.map(run).concat()
    }

    fn load(&self, load: &Load<'_>) -> Result<(), String> {
        // Tables that a policy has not would stay, and so would the buckets of hashlimit.
        self.inside.restore(self.backend, self.family, &[], EMPTY)?;
        if load.rules.contains("--match-set") {
            self.inside.run("ipset", &["destroy"], "")?;
            self.inside.restore_sets(load.sets)?;
        }
        // Rules of shared mode come to base chains that are there.
        let beside: &[&str] = match load.rules.contains("\n:INPUT ") {
            true => &[],
            false => &["--noflush"],
        };
        self.inside
            .restore(self.backend, self.family, beside, load.rules)?;
        self.inside.run("conntrack", &["-F"], "")?;
        let flows: String = load.flows.iter().map(line_of_flow).collect();
        self.inside.run("conntrack", &["-R", "-"], &flows)?;
        Ok(())
    }

    /// Makes the routes of what comes in, or of what this host sends, in the place of those that were there.
    fn route(&self, ways: &Ways, comes: bool) -> Result<(), String> {
        let (mut lines, mut undo) = (String::new(), String::new());
        let length = match self.family {
            Family::V4 => "/32",
            Family::V6 => "/128 nodad",
        };
        let mut rule = |pref: usize, device: &str, table: usize| {
            lines += &format!("rule add pref {pref} iif {device} lookup {table}\n");
            undo += &format!("rule del pref {pref}\nroute flush table {table}\n");
        };
        let mut routes = String::new();
        if comes {
            for (number, (device, way)) in ways.all.iter().enumerate() {
                let table = 1000 + number;
                rule(10 + number, device, table);
                // IPv6 looks for some destinations on the device itself.
                let route = match way {
                    Some(out) => format!("default dev {out}"),
                    None if self.family == Family::V6 => format!("local default dev {device}"),
                    None => "local default dev lo".to_owned(),
                };
                routes += &format!("route add {route} table {table}\n");
            }
        } else {
            rule(10, "lo", 1000);
            for (metric, device) in (1..).zip(DEVICES) {
                routes += &format!("route add default dev {device} metric {metric} table 1000\n");
            }
            routes += "route add local default dev lo metric 99 table 1000\n";
        }
        for address in &ways.local {
            lines += &format!("addr add {address}{length} dev lo\n");
            undo += &format!(
                "addr del {address}{} dev lo\n",
                length.replace(" nodad", "")
            );
        }
        let before = self.routes.replace(undo);
        let option = option(self.family);
        let lines = before + &lines + &routes;
        self.inside.run("ip", &[option, "-batch", "-"], &lines)?;
        match self.family {
            Family::V4 => Ok(()),
            Family::V6 => self.await_local_routes(&ways.local),
        }
    }

    /// Waits for the routes of addresses that are this host's from now on: the kernel makes them in a work queue, and `addrtype`
    /// asks for them.
    fn await_local_routes(&self, addresses: &[IpAddr]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let routes = self
                .inside
                .run("ip", &["-6", "route", "show", "table", "local"], "")?;
            let is_there = |address: &IpAddr| routes.contains(&format!("local {address} dev lo "));
            if addresses.iter().all(is_there) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("no routes of {addresses:?}: {routes}"));
            }
        }
    }

    /// Sends what comes in, then what this host sends, and waits until all has arrived.
    fn round(&self, ways: &Ways, packets: &[Sent], loaded: Instant) -> Result<Round, String> {
        let (own, foreign): (Vec<_>, Vec<_>) = packets
            .iter()
            .partition(|sent| sent.packet.hook == Hook::Output);
        if !foreign.is_empty() {
            self.route(ways, true)?;
        }
        let before = self.arrived()?;
        let begin = loaded.elapsed();
        for sent in &foreign {
            self.send(sent)
                .map_err(|error| format!("{error}: {}", sent.packet))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.arrived()? < before + foreign.len() as u64 {
            if Instant::now() > deadline {
                return Err("packets were lost on the wire".to_owned());
            }
        }
        if !own.is_empty() {
            self.route(ways, false)?;
            for sent in &own {
                self.send(sent)
                    .map_err(|error| format!("{error}: {}", sent.packet))?;
            }
        }
        Ok(Round {
            begin,
            end: loaded.elapsed(),
        })
    }

    /// How many packets of ours have come in.
    fn arrived(&self) -> Result<u64, String> {
        let text = self
            .inside
            .run("nft", &["list", "counter", "inet", "guard", "arrived"], "")?;
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "packets");
        let count = words.nth(1).and_then(|count| count.parse().ok());
        count.ok_or_else(|| format!("no counter in {text}"))
    }

    fn send(&self, sent: &Sent) -> Result<(), String> {
        let packet = &sent.packet;
        // `gre_manip_pkt` of `nf_nat_proto.c` drops what is shorter than a header with both of its options.
        let bytes: &[u8] = match packet.protocol {
            protocol::GRE => &[0; 8],
            _ => &[],
        };
        let payload = frame::ip_payload(
            packet,
            Data {
                offset: 0,
                bytes,
                extension_header: None,
            },
            sent.defect,
        );
        let flags = MsgFlags::empty();
        let done = if packet.hook == Hook::Output {
            let device = packet.out_device.clone().unwrap_or_default();
            let socket = &self.from_host[&(device, sent.user)];
            setsockopt(socket, sockopt::Mark, &packet.mark).map_err(|error| error.to_string())?;
            let mut bytes = frame::ip_packet(packet, packet.hop_limit, &payload);
            set_service(&mut bytes, LEAVES);
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
            // The kernel counts a hop before FORWARD sees the packet.
            let hop_limit = packet.hop_limit + u8::from(packet.hook == Hook::Forward);
            let mut bytes = frame::ip_packet(packet, hop_limit, &payload);
            set_service(&mut bytes, COMES);
            let device = packet.in_device.as_deref().unwrap_or_default();
            let kind: [u8; 2] = match packet.family {
                Family::V4 => [0x08, 0x00],
                Family::V6 => [0x86, 0xdd],
            };
            let from = packet.mac.unwrap_or(NO_MAC);
            let bytes = [&DEVICE_MAC[..], &from, &kind, &bytes].concat();
            sendto(self.frames.as_raw_fd(), &bytes, &self.peers[device], flags)
        };
        match done {
            // How a sender hears that a table dropped its packet.
            Ok(_) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

fn kind_of(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Transparent proxies for tcp and udp: without one TPROXY drops what it takes.
fn proxies(family: Family) -> Vec<OwnedFd> {
    let kinds = [SockType::Stream, SockType::Datagram];
    let sockets = kinds.map(|kind| {
        let socket = socket(kind_of(family), kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&socket, sockopt::IpTransparent, &true).expect("a transparent socket");
        let bound = match family {
            Family::V4 => bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, PROXY)),
            Family::V6 => {
                let any = SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, PROXY, 0, 0);
                bind(socket.as_raw_fd(), &SockaddrIn6::from(any))
            }
        };
        bound.expect("a free port");
        if kind == SockType::Stream {
            let backlog = nix::sys::socket::Backlog::new(1000).expect("a backlog");
            nix::sys::socket::listen(&socket, backlog).expect("a listening socket");
        }
        socket
    });
    sockets.into()
}

/// A flow as `conntrack -R` reads it.
fn line_of_flow(flow: &Flow) -> String {
    let packet = &flow.packet;
    let (from, to) = (packet.source, packet.destination);
    let [source_port, destination_port] =
        [packet.source_port, packet.destination_port].map(|port| port.unwrap_or(0));
    let ports = format!("--sport {source_port} --dport {destination_port}");
    let id = frame::ECHO_ID;
    let kind = match packet.protocol {
        protocol::TCP => format!("tcp --state ESTABLISHED {ports}"),
        protocol::UDP => format!("udp {ports}"),
        protocol::ICMP => format!("icmp --icmp-type 8 --icmp-code 0 --icmp-id {id}"),
        _ => format!("icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id {id}"),
    };
    let translated = match (flow.to, flow.from) {
        (Some(to), _) => format!(" --dst-nat {to}"),
        (_, Some(from)) => format!(" --src-nat {from}"),
        _ => String::new(),
    };
    let mark = flow.mark;
    format!("-I -t 1000 -u SEEN_REPLY,ASSURED -m {mark} -s {from} -d {to} -p {kind}{translated}\n")
}

/// Keeps everything away but what the bench sends, and counts what came in. Connections are tracked, as on any host whose
/// rules ask for them, whatever a policy asks.
const GUARD: &str = "table inet guard {
    counter arrived { }
    chain first {
        type filter hook prerouting priority -500;
        iifname lo accept
        ip dscp != 0x3f drop
        ip6 dscp != 0x3f drop
        counter name arrived
    }
    chain tracked {
        type filter hook prerouting priority -150;
        ct state invalid counter
    }
    chain own {
        type filter hook output priority -500;
        meta priority != 0:5 drop
        ip dscp != 0x3e drop
        ip6 dscp != 0x3e drop
    }
}
";

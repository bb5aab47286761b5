//! A host for one hook, set up once for many batches: nothing but the filter table changes between them.
//!
//! What a packet needs beside its own bytes is written into the byte that used to be the type of service: that it is
//! ours, whether it is tracked, by which device it leaves, its mark. Rules in other tables act on that, routing rules on
//! the mark. So one restore, a hundred packets and one save make a batch.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fwc::iptables::{Chain, Ruleset, TableName};
use fwc::net::{Family, Hook, Packet};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockaddrIn, SockaddrIn6, sendto, setsockopt, sockopt,
};

use super::packets::{KNOWN_MARK, MARKS, Sent, known_flows};
use super::rules::{LOCAL, SERVICE_PORT, SERVICES, WIRES, addresses, sets};
use crate::lab::frame::{self, Data, protocol, set_service};
use crate::lab::{
    DEVICE_MAC, NO_MAC, PEER_MAC, QUIET_ROUTER, link_addresses, mac, packet_socket, raw_socket,
};
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

/// Packets take a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bits of a packet's type of service: ours; not tracked; the device that it leaves by, from 1; the number of its mark.
const OURS: u8 = 0x01;
const NOTRACK: u8 = 0x02;
const DEVICE: u8 = 0x1c;
const MARK: u8 = 0xe0;

/// What was counted: of each chain its policy, if it has one, and its rules; then the states, then what passed.
pub type Counts = Vec<u64>;

pub struct Bench {
    backend: Backend,
    family: Family,
    hook: Hook,
    inside: Namespace,
    _outside: Namespace,
    frames: OwnedFd,
    loopback_frames: OwnedFd,
    /// A socket for each device that packets leave by.
    from_host: HashMap<String, OwnedFd>,
    peers: HashMap<String, LinkAddr>,
    /// What the tables beside the filter table had counted before the batch.
    before: Vec<u64>,
}

impl Bench {
    pub fn new(backend: Backend, family: Family, hook: Hook) -> Result<Self, String> {
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        outside.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        inside.sysctl(QUIET_ROUTER)?;
        inside.sysctl(PATIENT_TRACKING)?;
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

        let (frames, by_number) = outside.enter(|| (packet_socket(), link_addresses()));
        let kind = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let (loopback_frames, here, from_host) = inside.enter(|| {
            let bound = WIRES.iter().chain(&["lo"]).map(|device| {
                let socket = raw_socket(kind);
                let name = std::ffi::OsString::from(device);
                setsockopt(&socket, sockopt::BindToDevice, &name).expect("a device");
                ((*device).to_owned(), socket)
            });
            (packet_socket(), link_addresses(), bound.collect())
        });
        let wires = WIRES.iter().enumerate();
        let mut peers: HashMap<String, LinkAddr> = wires
            .map(|(number, device)| ((*device).to_owned(), by_number[&format!("peer{number}")]))
            .collect();
        peers.insert("lo".to_owned(), here["lo"]);

        inside.run("ipset", &["restore"], &sets_of(family))?;
        inside.restore(backend, family, &[], &helpers(hook))?;
        let mut bench = Self {
            backend,
            family,
            hook,
            inside,
            _outside: outside,
            frames,
            loopback_frames,
            from_host,
            peers,
            before: Vec::new(),
        };
        bench.know_flows()?;
        bench.before = others(&bench.save()?, hook)?;
        Ok(bench)
    }

    /// Tells connection tracking of the flows that are known beforehand.
    fn know_flows(&self) -> Result<(), String> {
        for flow in known_flows(self.family) {
            let (from, to) = (flow.source, flow.destination);
            let ports = [flow.source_port, flow.destination_port].map(|port| port.unwrap_or(0));
            let [source_port, destination_port] = ports;
            let ports = format!("--sport {source_port} --dport {destination_port}");
            let id = frame::ECHO_ID;
            let flow = match flow.protocol {
                protocol::TCP => format!("tcp --state ESTABLISHED {ports}"),
                protocol::UDP => format!("udp {ports}"),
                protocol::ICMP => format!("icmp --icmp-type 8 --icmp-code 0 --icmp-id {id}"),
                _ => format!("icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id {id}"),
            };
            let words = format!(
                "-I -t 10000 -u SEEN_REPLY,ASSURED -m {KNOWN_MARK} -s {from} -d {to} -p {flow}"
            );
            let words: Vec<&str> = words.split(' ').collect();
            self.inside.run("conntrack", &words, "")?;
        }
        Ok(())
    }

    fn forget_other_flows(&self) -> Result<(), String> {
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let words = ["-D", "-f", family, "-m", "0"];
        match self.inside.run("conntrack", &words, "") {
            Err(error) if !error.contains(" 0 flow entries") => Err(error),
            _ => Ok(()),
        }
    }

    fn save(&self) -> Result<Ruleset, String> {
        let text = self.inside.save(self.backend, self.family, &["-c"])?;
        Ruleset::from_text(&text, self.family).map_err(|error| format!("{error}\n{text}"))
    }

    /// Loads the filter table, sends the packets, and counts.
    pub fn batch(&mut self, rules: &str, packets: &[Sent]) -> Result<Counts, String> {
        self.inside.restore(self.backend, self.family, &[], rules)?;
        self.forget_other_flows()?;
        for sent in packets {
            self.send(sent)
                .map_err(|error| format!("{error}: {}", sent.packet))?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let saved = self.save()?;
            let now = others(&saved, self.hook)?;
            let here: Vec<u64> = now
                .iter()
                .zip(&self.before)
                .map(|(now, then)| now - then)
                .collect();
            let seen: u64 = here[..5].iter().sum();
            if seen >= packets.len() as u64 || Instant::now() > deadline {
                self.before = now;
                let filter = saved.table(TableName::Filter).ok_or("no filter table")?;
                let chains = filter.chains.iter().map(counts);
                return Ok(chains.flatten().chain(here).collect());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn send(&self, sent: &Sent) -> Result<(), String> {
        let packet = &sent.packet;
        let payload = frame::ip_payload(packet, Data::default(), sent.defect);
        let device = |device: &Option<String>| device.clone().unwrap_or_default();
        let flags = MsgFlags::empty();
        let done = if packet.hook == Hook::Output {
            let socket = &self.from_host[&device(&packet.out_device)];
            setsockopt(socket, sockopt::Mark, &packet.mark).map_err(|error| error.to_string())?;
            let mut bytes = frame::ip_packet(packet, packet.hop_limit, &payload);
            set_service(&mut bytes, service(sent));
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
            set_service(&mut bytes, service(sent));
            let device = device(&packet.in_device);
            let (socket, to) = match device.as_str() {
                "lo" => (&self.loopback_frames, NO_MAC),
                _ => (&self.frames, DEVICE_MAC),
            };
            let kind: [u8; 2] = match packet.family {
                Family::V4 => [0x08, 0x00],
                Family::V6 => [0x86, 0xdd],
            };
            let from = packet.mac.unwrap_or(NO_MAC);
            let bytes = [&to[..], &from, &kind, &bytes].concat();
            sendto(socket.as_raw_fd(), &bytes, &self.peers[&device], flags)
        };
        match done {
            // How a sender hears that OUTPUT dropped its packet.
            Ok(_) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn service(sent: &Sent) -> u8 {
    let packet = &sent.packet;
    let mut service = OURS | if sent.notrack { NOTRACK } else { 0 };
    if packet.hook != Hook::Output {
        let mark = MARKS
            .iter()
            .position(|mark| *mark == packet.mark)
            .unwrap_or(0);
        let device = WIRES
            .iter()
            .position(|wire| packet.out_device.as_deref() == Some(wire));
        service |= (mark as u8) << 5 | device.map_or(0, |device| device as u8 + 1) << 2;
    }
    service
}

/// A chain's policy, if it has one, and its rules.
fn counts(chain: &Chain) -> impl Iterator<Item = u64> {
    let policy = chain.policy.map(|_| chain.counters.packets);
    let rules = chain.rules.iter();
    policy
        .into_iter()
        .chain(rules.map(|rule| rule.counters.map_or(0, |counters| counters.packets)))
}

/// What the other tables counted: the states, and what passed the filter table.
fn others(saved: &Ruleset, hook: Hook) -> Result<Vec<u64>, String> {
    let states = saved
        .table(TableName::Mangle)
        .and_then(|table| table.chain("STATE"));
    let passed = saved
        .table(TableName::Security)
        .and_then(|table| table.chain(hook.chain()));
    let (states, passed) = states.zip(passed).ok_or("tables are missing")?;
    Ok(counts(states).chain(counts(passed)).collect())
}

/// Routes that bring every packet into the hook.
fn routing(family: Family, hook: Hook) -> String {
    let mut lines = "rule add pref 100 lookup local\nrule del pref 0\n".to_owned();
    let devices = WIRES.iter().chain(&["lo"]);
    for (number, device) in (1..).zip(devices) {
        lines += &match hook {
            // IPv6 looks for some destinations on the device itself.
            Hook::Input => {
                let on = if family == Family::V6 { device } else { &"lo" };
                let table = 1000 + number;
                format!(
                    "rule add pref 10 iif {device} lookup {table}\nroute add local default dev {on} table {table}\n"
                )
            }
            Hook::Forward if *device == "lo" => String::new(),
            Hook::Forward => {
                let table = 1000 + number;
                format!(
                    "rule add pref 10 fwmark {number} lookup {table}\nroute add default dev {device} table {table}\n"
                )
            }
            Hook::Output if *device == "lo" => format!(
                "rule add pref 10 iif lo lookup 1000\nroute add local default dev lo metric {number} table 1000\n"
            ),
            Hook::Output => format!("route add default dev {device} metric {number} table 1000\n"),
        };
    }
    if family == Family::V4 {
        for address in LOCAL {
            lines += &format!("addr add {address}/32 dev lo\n");
        }
    }
    lines
}

fn sets_of(family: Family) -> String {
    let word = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    let mut lines = String::new();
    for (name, members) in sets(family) {
        lines += &format!("create {name} hash:net family {word}\n");
        lines.extend(
            members
                .iter()
                .map(|member| format!("add {name} {member}\n")),
        );
    }
    let member = addresses(family)[0];
    lines
        + &format!(
            "create {SERVICES} hash:ip,port family {word}\nadd {SERVICES} {member},tcp:{SERVICE_PORT}\n"
        )
}

/// The tables beside the filter table.
fn helpers(hook: Hook) -> String {
    let (travels, other) = match hook {
        Hook::Output => ("OUTPUT", "PREROUTING"),
        _ => ("PREROUTING", "OUTPUT"),
    };
    let mut raw = format!(
        "-A {other} -j DROP\n\
         -A {travels} -m tos ! --tos {OURS:#x}/{OURS:#x} -j DROP\n\
         -A {travels} -m tos --tos {NOTRACK:#x}/{NOTRACK:#x} -j CT --notrack\n"
    );
    let mut mangle = String::new();
    if hook != Hook::Output {
        for number in 1..=WIRES.len() {
            let service = number << 2;
            raw += &format!(
                "-A {travels} -m tos --tos {service:#x}/{DEVICE:#x} -j MARK --set-mark {number}\n"
            );
        }
        for (number, mark) in MARKS.iter().enumerate() {
            let service = number << 5;
            mangle += &format!(
                "-A {hook} -m tos --tos {service:#x}/{MARK:#x} -j MARK --set-mark {mark:#x}\n"
            );
        }
    }
    let states = fwc::net::State::ALL
        .map(|state| format!("-A STATE -m conntrack --ctstate {}\n", state.keyword()));
    format!(
        "*raw\n{raw}COMMIT\n*mangle\n:STATE - [0:0]\n{}-A {hook} -j STATE\n{mangle}COMMIT\n\
         *security\n:{hook} ACCEPT [0:0]\nCOMMIT\n*filter\nCOMMIT\n",
        states.concat()
    )
}

/// The index of a packet's state among the counters of states.
pub fn state_index(packet: &Packet) -> usize {
    let place = fwc::net::State::ALL
        .iter()
        .position(|state| *state == packet.state);
    place.unwrap_or(0)
}

/// Connections that are known stay known.
const PATIENT_TRACKING: &[(&str, &str)] = &[
    ("netfilter/nf_conntrack_udp_timeout", "10000"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "10000"),
    ("netfilter/nf_conntrack_icmp_timeout", "10000"),
    ("netfilter/nf_conntrack_icmpv6_timeout", "10000"),
    ("netfilter/nf_conntrack_tcp_timeout_close", "10000"),
    ("netfilter/nf_conntrack_tcp_timeout_close_wait", "10000"),
    ("netfilter/nf_conntrack_tcp_timeout_unacknowledged", "10000"),
];

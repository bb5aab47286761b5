//! One host between many wires: packets of any kind are sent to, through or from it, and its counters judge them.
//!
//! `inside` holds the devices that policies speak of and the rules; the other end of each is in `outside`, from
//! where frames are sent byte by byte. No address is assigned: for each packet a route says that its destination is
//! this host's own, or lies behind a device. Rules in two other tables help: `raw` sets marks
//! and turns tracking off, and silences answers; `mangle` counts the connection state, so that a packet that
//! is not what the probe says is an error instead of a wrong verdict.

mod flows;
pub mod frame;
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fwc::net::{Family, Hook, Packet, PerFamily, State};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    sendto, setsockopt, socket, sockopt,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

pub use self::flows::{is_never_tracked, question_of};
use self::frame::{Data, Defect};
pub use self::tests::all as tests;
use crate::circumstances::Circumstances;
use crate::compile::Rules;
use crate::counters::{Counters, Verdict, decision, dropped_early};
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

pub const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const NO_MAC: [u8; 6] = [0; 6];
/// A packet takes a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the kernel did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// The rules of the filter table that counted it, and the policy if that decided.
    pub matched: Vec<String>,
}

/// A host with devices, rules and wires to the outside.
pub struct Lab {
    backend: Backend,
    inside: Namespace,
    _outside: Namespace,
    frames: OwnedFd,
    loopback_frames: OwnedFd,
    from_host: PerFamily<OwnedFd>,
    /// The user and group of what this host sends.
    sender: (u32, u32),
    /// The sets that others make, each with the ends that the rules ask of it, as in `--match-set`.
    foreign: HashMap<String, String>,
    /// The devices but `lo`, sorted.
    wires: Vec<String>,
    peers: HashMap<String, LinkAddr>,
    device_indices: HashMap<String, u32>,
    rules: PerFamily<String>,
    /// What the helper chains and the routes were last set to.
    helpers: PerFamily<Option<String>>,
    route: Option<(Family, String, String)>,
    joined: HashSet<String>,
}

impl Lab {
    /// A host with these devices (`lo` is always there) and rules that accept everything.
    pub fn new(backend: Backend, devices: &[String]) -> Result<Self, String> {
        let (inside, outside) = (Namespace::new()?, Namespace::new()?);
        outside.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        inside.sysctl(QUIET_ROUTER)?;

        let mut setup = Vec::new();
        for family in ["-4", "-6"] {
            setup.push((family, "rule add pref 100 lookup local".to_owned()));
            setup.push((family, "rule del pref 0".to_owned()));
        }
        setup.push(("-6", "addr add fd99::1/128 dev lo".to_owned()));
        let mut wires: Vec<String> = devices
            .iter()
            .filter(|name| *name != "lo")
            .cloned()
            .collect();
        wires.sort();
        wires.dedup();
        for (number, device) in wires.iter().enumerate() {
            setup.push((
                "-4",
                format!(
                    "link add {device} address {} type veth peer name peer{number} address {} netns {}",
                    mac(DEVICE_MAC),
                    mac(PEER_MAC),
                    outside.path()
                ),
            ));
            setup.push(("-4", format!("link set {device} arp off up")));
        }
        for device in wires.iter().map(String::as_str).chain(["lo"]) {
            let table = table_of(&wires, device);
            for family in ["-4", "-6"] {
                setup.push((
                    family,
                    format!("rule add pref 10 iif {device} lookup {table}"),
                ));
            }
        }
        for family in ["-4", "-6"] {
            let lines = setup.iter().filter(|line| line.0 == family);
            inside.run(
                "ip",
                &[family, "-batch", "-"],
                &lines.fold(String::new(), |all, line| all + &line.1 + "\n"),
            )?;
        }
        let peers: Vec<String> = (0..wires.len())
            .map(|number| format!("peer{number}"))
            .collect();
        outside.set_up(&peers)?;
        inside.set_up(&wires)?;
        inside.await_addresses()?;

        let (frames, by_number) = outside.enter(|| (packet_socket(), link_addresses()));
        let (loopback_frames, here, from_host) =
            inside.enter(|| (packet_socket(), link_addresses(), raw_sockets()));
        let mut peers: HashMap<String, LinkAddr> = wires
            .iter()
            .enumerate()
            .map(|(number, device)| (device.clone(), by_number[&format!("peer{number}")]))
            .collect();
        peers.insert("lo".to_owned(), here["lo"]);
        let mut lab = Self {
            backend,
            inside,
            _outside: outside,
            frames,
            loopback_frames,
            from_host,
            sender: (0, 0),
            foreign: HashMap::new(),
            wires,
            peers,
            device_indices: here
                .iter()
                .map(|(name, address)| (name.clone(), address.ifindex() as u32))
                .collect(),
            rules: PerFamily::default(),
            helpers: PerFamily::default(),
            route: None,
            joined: HashSet::new(),
        };
        lab.load(&PerFamily::from_fn(|_| String::new()))?;
        Ok(lab)
    }

    /// Whether it uses this backend and has these devices.
    pub fn fits(&self, backend: Backend, devices: &[String]) -> bool {
        self.backend == backend && devices.iter().all(|device| self.peers.contains_key(device))
    }

    /// The rules of a family as the tool prints them.
    pub fn saved(&self, family: Family) -> Result<String, String> {
        self.inside.save(self.backend, family, &[])
    }

    /// Replaces all rules of both families by those of a policy, and its sets. Sets that others make are made too.
    pub fn load_policy(&mut self, rules: &Rules) -> Result<(), String> {
        self.load(&PerFamily::default())?;
        self.inside.run("ipset", &["destroy"], "")?;
        self.inside.restore_sets(&rules.sets)?;
        for (family, text) in rules.texts.iter() {
            let inet = match family {
                Family::V4 => "inet",
                Family::V6 => "inet6",
            };
            for asked in text.split(" --match-set ").skip(1) {
                let mut words = asked.split_whitespace();
                let (Some(set), Some(ends)) = (words.next(), words.next()) else {
                    return Err(format!("a set without flags: {asked}"));
                };
                if set.starts_with("fwc") {
                    continue;
                }
                // A kernel may have no type with several parts. This one compares the first end, and ignores the others.
                let create = ["-exist", "create", set, "hash:net", "family", inet];
                self.inside.run("ipset", &create, "")?;
                self.foreign.insert(set.to_owned(), ends.to_owned());
            }
        }
        self.load(&rules.texts)
    }

    /// Replaces all rules of both families by `rules` (`iptables-restore` text).
    pub fn load(&mut self, rules: &PerFamily<String>) -> Result<(), String> {
        self.rules = rules.clone();
        Family::ALL
            .into_iter()
            .try_for_each(|family| self.load_family(family, &rules[family]))
    }

    fn load_family(&mut self, family: Family, rules: &str) -> Result<(), String> {
        self.helpers[family] = None;
        self.inside.restore(self.backend, family, &[], EMPTY)?;
        if !rules.is_empty() {
            // Rules of shared mode come to base chains that are there.
            let beside: &[&str] = match rules.contains("\n:INPUT ") {
                true => &[],
                false => &["--noflush"],
            };
            self.inside.restore(self.backend, family, beside, rules)?;
        }
        self.inside
            .restore(self.backend, family, &["--noflush"], HELPERS)
    }

    /// Sends one packet, as its hook will see it, and reads what the kernel did with it.
    pub fn judge(&mut self, packet: &Packet) -> Result<Judgement, String> {
        self.judge_when(packet, &Circumstances::default())
    }

    /// The same under circumstances that the packet does not tell; those of time cannot be made.
    pub fn judge_when(
        &mut self,
        packet: &Packet,
        circumstances: &Circumstances,
    ) -> Result<Judgement, String> {
        self.fill_sets(packet, &circumstances.member_of, "add")?;
        let first = self.attempt(packet, circumstances);
        // A packet of someone else's (a late multicast report) can spoil one attempt.
        let judged = match circumstances.earlier {
            0 => first.or_else(|_| self.attempt(packet, circumstances)),
            _ => first,
        };
        self.fill_sets(packet, &circumstances.member_of, "del")?;
        judged
    }

    /// Puts the packet's source into sets, with the port that it goes to where members have one, or takes it out; of sets of
    /// others what the rules ask for.
    fn fill_sets(&self, packet: &Packet, sets: &[String], action: &str) -> Result<(), String> {
        let dynamic = match packet.family {
            Family::V4 => "fwc4-",
            Family::V6 => "fwc6-",
        };
        for set in sets {
            let ours = format!("{dynamic}{set}");
            let is_ours = self.inside.run("ipset", &["-n", "list", &ours], "").is_ok();
            let name = if is_ours { &ours } else { set };
            let asked = self.foreign.get(name).map_or("src", String::as_str);
            let member = match asked.starts_with("src") {
                true => packet.source.to_string(),
                false => packet.destination.to_string(),
            };
            let listed = self.inside.run("ipset", &["list", "-terse", name], "")?;
            let member = match listed
                .lines()
                .any(|line| line == "Type: hash:ip,port" || line == "Type: hash:net,port")
            {
                true => format!("{member},{}", port_of_member(packet)),
                false => member,
            };
            self.inside.run("ipset", &[action, name, &member], "")?;
        }
        Ok(())
    }

    fn attempt(
        &mut self,
        packet: &Packet,
        circumstances: &Circumstances,
    ) -> Result<Judgement, String> {
        self.forget_flows()?;
        let defect = self.arrange_state(packet)?;
        self.route_for(packet)?;
        self.set_helpers(packet)?;
        self.become_sender(circumstances);
        let first = self.counters(packet.family)?;
        for number in 0..circumstances.earlier {
            let port = u16::try_from(number)
                .ok()
                .and_then(|number| 50_000u16.checked_add(number));
            let earlier = Packet {
                source_port: packet.source_port.and(port),
                ..circumstances.others.of(packet)
            };
            self.send(&earlier, Defect::None, Data::default())?;
        }
        if circumstances.earlier > 0 {
            self.await_all(packet.family, &first, circumstances.earlier)?;
        }
        let before = self.counters(packet.family)?;
        let padding = match circumstances.length {
            Some(length) => vec![0; frame::room(packet, length)?],
            None => Vec::new(),
        };
        let data = Data {
            extension_header: circumstances.extension_header,
            bytes: &padding,
            ..Data::default()
        };
        self.send(packet, defect, data)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counted = self.counters(packet.family)?.since(&before)?;
            if let Some(matched) = dropped_early(&counted) {
                return Ok(Judgement {
                    verdict: Verdict::Drop,
                    matched,
                });
            }
            let states: Vec<_> = counted
                .iter()
                .filter(|counter| counter.chain == "TEST-STATE")
                .collect();
            let decided = decision(packet.hook, &counted)?;
            match (&states[..], decided) {
                ([state], Some((verdict, matched))) if state.packets == 1 => {
                    let wanted = format!("--ctstate {}", packet.state.keyword());
                    if !state.text.ends_with(&wanted) {
                        return Err(format!("wanted {wanted}, the kernel says {}", state.text));
                    }
                    return Ok(Judgement { verdict, matched });
                }
                (_, _) if Instant::now() > deadline => {
                    return Err(format!(
                        "the packet did not come through {}; counted: {counted:?}",
                        packet.hook
                    ));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Waits until so many packets have come as far as the tables count them all, or were dropped before.
    fn await_all(&self, family: Family, before: &Counters, packets: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counted = self.counters(family)?.since(before)?;
            let states = counted.iter().filter(|one| one.chain == "TEST-STATE");
            let seen: u64 = states.map(|one| one.packets).sum();
            if seen >= packets as u64 || dropped_early(&counted).is_some() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{seen} of {packets} earlier packets came"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What this host sends comes from a process of that user and group.
    fn become_sender(&mut self, circumstances: &Circumstances) {
        let sender = (
            circumstances.user.unwrap_or(0),
            circumstances.group.unwrap_or(0),
        );
        if self.sender != sender {
            self.from_host = self.inside.enter(|| {
                // Of this thread alone: a socket belongs to who makes it.
                setfsgid(Gid::from_raw(sender.1));
                setfsuid(Uid::from_raw(sender.0));
                raw_sockets()
            });
            self.sender = sender;
        }
    }

    fn counters(&self, family: Family) -> Result<Counters, String> {
        self.inside
            .save(self.backend, family, &["-c"])
            .map(|saved| Counters::parse(&saved))
    }

    /// Makes the route that brings the packet into its hook.
    fn route_for(&mut self, packet: &Packet) -> Result<(), String> {
        self.join(packet)?;
        let here = |packet: &Packet| packet.in_device.clone().unwrap_or_default();
        let there = |packet: &Packet| packet.out_device.clone().unwrap_or_default();
        let (enters_by, route) = match packet.hook {
            // IPv6 looks for link-local and multicast destinations on the device itself.
            Hook::Input if packet.family == Family::V6 => {
                (here(packet), format!("local default dev {}", here(packet)))
            }
            Hook::Input => (here(packet), "local default dev lo".to_owned()),
            Hook::Forward => (here(packet), format!("default dev {}", there(packet))),
            Hook::Output if there(packet) == "lo" => {
                ("lo".to_owned(), "local default dev lo".to_owned())
            }
            Hook::Output => ("lo".to_owned(), format!("default dev {}", there(packet))),
        };
        let wanted = (packet.family, enters_by, route);
        if self.route.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let (family, enters_by, route) = &wanted;
        let option = match family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        let table = table_of(&self.wires, enters_by);
        self.inside.run(
            "ip",
            &[option, "-force", "-batch", "-"],
            &format!("route flush table {table}\nroute add {route} table {table}\n"),
        )?;
        self.route = Some(wanted);
        Ok(())
    }

    /// Gives a device what the kernel asks of it once: the IPv4 group that it is to hear; an address of its own from
    /// which to speak to its IPv6 neighbours.
    fn join(&mut self, packet: &Packet) -> Result<(), String> {
        let (device, address) = match (packet.hook, packet.destination) {
            (Hook::Input, IpAddr::V4(group))
                if group.is_multicast() && group != Ipv4Addr::new(224, 0, 0, 1) =>
            {
                (&packet.in_device, format!("{group}/32 autojoin"))
            }
            (Hook::Output, IpAddr::V6(to)) if is_on_link(to) => {
                (&packet.out_device, "fe80::99/128 nodad".to_owned())
            }
            _ => return Ok(()),
        };
        let line = format!(
            "addr add {address} dev {}",
            device.as_deref().unwrap_or_default()
        );
        if self.joined.insert(line.clone()) {
            self.inside.ip([line])?;
            self.inside.await_addresses()?;
        }
        Ok(())
    }

    /// Fills the helper chains of the raw table.
    fn set_helpers(&mut self, packet: &Packet) -> Result<(), String> {
        let mut lines = String::new();
        let (travels, other) = match packet.hook {
            Hook::Input | Hook::Forward => ("TEST-IN", "TEST-OUT"),
            Hook::Output => ("TEST-OUT", "TEST-IN"),
        };
        if packet.mark != 0 {
            lines += &format!("-A {travels} -j MARK --set-xmark {:#x}\n", packet.mark);
        }
        if packet.state == State::Untracked && !is_never_tracked(packet) {
            lines += &format!("-A {travels} -j CT --notrack\n");
        }
        lines += &format!("-A {other} -j DROP\n");
        if packet.hook == Hook::Output && packet.family == Family::V6 && !is_never_tracked(packet) {
            // The kernel's own reports of the groups that it joined.
            lines += "-A TEST-OUT -p icmpv6 --icmpv6-type 143 -j DROP\n";
        }
        self.fill_helpers(packet.family, lines)
    }

    fn fill_helpers(&mut self, family: Family, lines: String) -> Result<(), String> {
        if self.helpers[family].as_ref() != Some(&lines) {
            let text = format!("*raw\n:TEST-IN - [0:0]\n:TEST-OUT - [0:0]\n{lines}COMMIT\n");
            self.inside
                .restore(self.backend, family, &["--noflush"], &text)?;
            self.helpers[family] = Some(lines);
        }
        Ok(())
    }

    fn send(&self, packet: &Packet, defect: Defect, data: Data<'_>) -> Result<(), String> {
        let mut payload = frame::ip_payload(packet, data, defect);
        let mut outer = packet.clone();
        if let Some(header) = data.extension_header {
            (outer, payload) = frame::behind_header(packet, header, &payload);
        }
        let packet = &outer;
        let flags = MsgFlags::empty();
        let sent = if packet.hook == Hook::Output {
            let bytes = frame::ip_packet(packet, packet.hop_limit, &payload);
            let socket = self.from_host[packet.family].as_raw_fd();
            match packet.destination {
                IpAddr::V4(to) => {
                    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                    sendto(socket, &bytes, &to, flags)
                }
                IpAddr::V6(to) => {
                    let device = packet.out_device.as_deref().unwrap_or_default();
                    let scope = if is_on_link(to) {
                        self.device_indices[device]
                    } else {
                        0
                    };
                    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, scope));
                    sendto(socket, &bytes, &to, flags)
                }
            }
        } else {
            // The kernel counts a hop before FORWARD sees the packet.
            let hop_limit = match packet.hook {
                Hook::Forward => packet
                    .hop_limit
                    .checked_add(1)
                    .ok_or("hop limit 255 in FORWARD")?,
                _ => packet.hop_limit,
            };
            let device = packet.in_device.as_deref().unwrap_or_default();
            let peer = self
                .peers
                .get(device)
                .ok_or_else(|| format!("no device {device}"))?;
            let (socket, to, from) = match device {
                "lo" => (&self.loopback_frames, NO_MAC, NO_MAC),
                _ => (&self.frames, DEVICE_MAC, PEER_MAC),
            };
            let kind: [u8; 2] = match packet.family {
                Family::V4 => [0x08, 0x00],
                Family::V6 => [0x86, 0xdd],
            };
            let from = packet.mac.unwrap_or(from);
            let bytes = frame::ip_packet(packet, hop_limit, &payload);
            let bytes = [&to[..], &from, &kind, &bytes].concat();
            sendto(socket.as_raw_fd(), &bytes, peer, flags)
        };
        match sent {
            // How a sender hears that OUTPUT dropped its packet.
            Err(Errno::EPERM) if packet.hook == Hook::Output => Ok(()),
            Err(error) => Err(format!("sending: {error}")),
            Ok(_) => Ok(()),
        }
    }
}

/// Whether an address means another host on each device.
fn is_on_link(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.is_multicast()
}

pub fn packet_socket() -> OwnedFd {
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a packet socket")
}

fn raw_sockets() -> PerFamily<OwnedFd> {
    PerFamily {
        v4: raw_socket(AddressFamily::Inet),
        v6: raw_socket(AddressFamily::Inet6),
    }
}

pub fn raw_socket(family: AddressFamily) -> OwnedFd {
    let socket = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .expect("a raw socket");
    // Questions of a DHCP client go to 255.255.255.255.
    setsockopt(&socket, sockopt::Broadcast, &true).expect("a socket that may broadcast");
    socket
}

pub fn link_addresses() -> HashMap<String, LinkAddr> {
    getifaddrs()
        .expect("the list of devices")
        .filter_map(|device| {
            let address = *device.address?.as_link_addr()?;
            Some((device.interface_name, address))
        })
        .collect()
}

/// The routing table for what enters by `device`.
fn table_of(wires: &[String], device: &str) -> usize {
    let position = wires.iter().position(|wire| wire == device);
    1000 + position.map_or(0, |position| position + 1)
}

pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// A router that takes any source by any device and never speaks of its own accord.
pub const QUIET_ROUTER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/default/accept_local", "1"),
    ("ipv4/conf/all/route_localnet", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/autoconf", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("netfilter/nf_conntrack_checksum", "1"),
    ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
];

pub const EMPTY: &str = "\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
";

const HELPERS: &str = "\
*raw
:TEST-IN - [0:0]
:TEST-OUT - [0:0]
-I PREROUTING 1 -j TEST-IN
-I OUTPUT 1 -j TEST-OUT
COMMIT
*mangle
:TEST-STATE - [0:0]
-A TEST-STATE -m conntrack --ctstate NEW
-A TEST-STATE -m conntrack --ctstate ESTABLISHED
-A TEST-STATE -m conntrack --ctstate RELATED
-A TEST-STATE -m conntrack --ctstate INVALID
-A TEST-STATE -m conntrack --ctstate UNTRACKED
-I INPUT 1 -j TEST-STATE
-I FORWARD 1 -j TEST-STATE
-I OUTPUT 1 -j TEST-STATE
COMMIT
";

/// What a member of a set with ports has of a packet: its port, its type of ICMP, or its protocol alone.
fn port_of_member(packet: &Packet) -> String {
    let protocol = packet.protocol;
    match (packet.destination_port, packet.icmp) {
        (Some(port), _) => format!("{protocol}:{port}"),
        (None, Some((kind, code))) => format!("{protocol}:{kind}/{code}"),
        (None, None) => format!("{protocol}:0"),
    }
}

//! What the mangle table does to real packets, seen on the wire at the other end and in the kernel's own counters.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fwc::net::Family;
use libtest_mimic::{Completion, Failed, Trial};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::compile::rules_of;
use crate::counters::Counters;
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Reply, connect, expecting, link, tcp, udp};
use crate::support::tools::Backend;

/// One test for each subject and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(Backend) -> Result<Completion, String>;
    let tests: [(&str, Body); 6] = [
        ("changed-on-the-wire", on_the_wire),
        ("marks", marks),
        ("untracked", untracked),
        ("helper", helper),
        ("dropped", dropped),
        ("checksum", checksum),
    ];
    let mut trials = Vec::new();
    for (name, body) in tests {
        for backend in Backend::ALL {
            let title = format!("treated::{name}::{backend}");
            trials.push(kernel_test(title, backend, move || {
                body(backend).map_err(Failed::from)
            }));
        }
    }
    trials
}

/// A packet takes a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The addresses of the client.
pub const CLIENT: [&str; 2] = ["10.1.0.9", "2001:db8:1::9"];
/// The addresses of the server.
pub const SERVER: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// A client, a router, and a server behind a line that carries no more than 1400 bytes.
pub struct Line {
    pub client: Namespace,
    pub router: Namespace,
    pub server: Namespace,
}

impl Line {
    pub fn new() -> Result<Self, String> {
        let line = Self {
            client: Namespace::new()?,
            router: Namespace::new()?,
            server: Namespace::new()?,
        };
        link(
            &End(&line.router, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
            &End(&line.server, "eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
        )?;
        link(
            &End(&line.router, "eth1", &["10.1.0.1/24", "2001:db8:1::1/64"]),
            &End(&line.client, "eth0", &["10.1.0.9/24", "2001:db8:1::9/64"]),
        )?;
        line.router
            .sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        line.router.ip(["link set eth0 mtu 1400"])?;
        for (host, v4, v6) in [
            (&line.server, "192.0.2.1", "2001:db8::1"),
            (&line.client, "10.1.0.1", "2001:db8:1::1"),
        ] {
            host.ip([
                format!("route add default via {v4}"),
                format!("route add ::/0 via {v6}"),
            ])?;
        }
        Ok(line)
    }

    /// Puts a policy into force on the router.
    pub fn load(&self, backend: Backend, policy: &str) -> Result<(), String> {
        let rules = rules_of(policy)?;
        rules
            .iter()
            .try_for_each(|(family, text)| self.router.restore(backend, family, &[], text))
    }

    /// The first packet of a connection from the client to the server, as the server gets it.
    fn first_packet(&self, to: IpAddr, port: u16) -> Result<Syn, String> {
        let address = SocketAddr::new(to, port);
        let socket = self.server.enter(listening_socket)?;
        let _listener = self
            .server
            .enter(|| TcpListener::bind(address))
            .map_err(|error| error.to_string())?;
        let connected = self
            .client
            .enter(|| TcpStream::connect_timeout(&address, PATIENCE));
        connected.map_err(|error| format!("{address}: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut frame = [0; 2000];
        while Instant::now() < deadline {
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if let Some(syn) = Syn::read(&frame[..length], port) {
                        return Ok(syn);
                    }
                }
                Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("{address}: no first packet was seen"))
    }
}

/// A socket that hears every frame.
fn listening_socket() -> Result<OwnedFd, String> {
    let made = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    );
    made.map_err(|error| error.to_string())
}

/// What a first packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Syn {
    dscp: u8,
    hops: u8,
    segment: u16,
}

impl Syn {
    /// Reads an Ethernet frame with a SYN to this port.
    fn read(frame: &[u8], port: u16) -> Option<Self> {
        let ip = frame.get(14..)?;
        let (traffic_class, hops, protocol, header) = match ip.first()? >> 4 {
            4 => (ip[1], ip[8], ip[9], 4 * usize::from(ip[0] & 15)),
            6 => ((ip[0] << 4) | (ip[1] >> 4), ip[7], ip[6], 40),
            _ => return None,
        };
        let tcp = ip.get(header..).filter(|_| protocol == 6)?;
        let is_syn = tcp.get(13)? & 0x12 == 2;
        if !is_syn || tcp.get(2..4)? != port.to_be_bytes() {
            return None;
        }
        let mut options = tcp.get(20..4 * usize::from(tcp[12] >> 4))?;
        let segment = loop {
            match options {
                [2, 4, high, low, ..] => break u16::from_be_bytes([*high, *low]),
                [1, rest @ ..] => options = rest,
                [_, length, ..] => options = options.get(usize::from(*length)..)?,
                _ => return None,
            }
        };
        Some(Self {
            dscp: traffic_class >> 2,
            hops,
            segment,
        })
    }
}

/// Questions that are not tracked are answered, though nothing else may leave, and no connection is known of them.
fn untracked(backend: Backend) -> Result<Completion, String> {
    let (server, client) = (Namespace::new()?, Namespace::new()?);
    link(
        &End(&server, "eth1", &["10.1.0.1/24", "2001:db8:1::1/64"]),
        &End(&client, "eth0", &["10.1.0.9/24", "2001:db8:1::9/64"]),
    )?;
    let rules = rules_of(
        r#"version = 1
[defaults]
output = "drop"
[interfaces]
lan = "eth1"
[[raw]]
type = "notrack"
from = "lan"
service = "53/udp"
[[rules]]
from = "lan"
service = ["53/udp", "54/udp"]
"#,
    )?;
    for (family, text) in rules.iter() {
        server.restore(backend, family, &[], text)?;
    }
    for (family, address) in Family::ALL.into_iter().zip(["10.1.0.1", "2001:db8:1::1"]) {
        let address: IpAddr = address.parse().map_err(|_| "an address")?;
        for port in [53, 54] {
            let reply = udp(&client, &server, SocketAddr::new(address, port))?;
            if reply != Reply::Answer {
                return Err(format!("{address}:{port}: {reply}"));
            }
        }
        let list = server.run("conntrack", &["-L", "-f", family.keyword()], "")?;
        let known = |port: u16| list.contains(&format!("dport={port} "));
        if known(53) || !known(54) {
            return Err(format!("{family}: {list}"));
        }
    }
    Ok(Completion::Completed)
}

/// A server calls back where its client said so, and only where a rule lets the helper read that: by a service of the lan's
/// rule, and not by the plain port of another rule.
fn helper(backend: Backend) -> Result<Completion, String> {
    let line = Line::new()?;
    let try_out = "*raw\n-A PREROUTING -p tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";
    let scratch = Namespace::new()?;
    for family in Family::ALL {
        if let Err(error) = scratch.restore(backend, family, &[], try_out) {
            if std::env::var_os("FWC_REQUIRE_KERNEL").is_some_and(|set| set == "1") {
                return Err(format!("FWC_REQUIRE_KERNEL=1, but {error}"));
            }
            return Ok(Completion::ignored_with(format!(
                "no helper for FTP here: {error}"
            )));
        }
    }
    line.load(
        backend,
        r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["10.1.0.0/24", "2001:db8:1::/64"] }
[services]
files = { ports = "21/tcp", helper = "ftp" }
[[rules]]
from = "lan"
to = "wan"
service = ["files", "2121/tcp"]
"#,
    )?;
    let clients = ["10.1.0.9", "2001:db8:1::9"];
    for (server, client) in SERVER.into_iter().zip(clients) {
        let (server, client): (IpAddr, IpAddr) = (
            server.parse().map_err(|_| "an address")?,
            client.parse().map_err(|_| "an address")?,
        );
        for (control, wanted) in [(21, Reply::Answer), (2121, Reply::Silence)] {
            let control = SocketAddr::new(server, control);
            let session = connect(None, &line.client, &line.server, control)?;
            let session = session.map_err(|reply| format!("{control}: {reply}"))?;
            let data = SocketAddr::new(client, 40_021);
            let said = match client {
                IpAddr::V4(_) => format!(
                    "PORT {},{},{}\r\n",
                    client.to_string().replace('.', ","),
                    data.port() >> 8,
                    data.port() & 255
                ),
                IpAddr::V6(_) => format!("EPRT |2|{client}|{}|\r\n", data.port()),
            };
            // The helper reads from the end of the first line on.
            session.say("USER x\r\n")?;
            session.say(&said)?;
            let called = expecting(wanted, || tcp(&line.server, &line.client, data))?;
            if called != wanted {
                return Err(format!("{data}, named at {control}: {called}"));
            }
        }
        // Nobody named this one.
        let unnamed = SocketAddr::new(client, 40_022);
        let other = expecting(Reply::Silence, || tcp(&line.server, &line.client, unnamed))?;
        if other != Reply::Silence {
            return Err(format!("a port that nobody named: {other}"));
        }
    }
    Ok(Completion::Completed)
}

/// Entries of raw and mangle drop what arrives, what goes through and what the router sends, and nothing on lo; those of raw
/// before conntrack sees it, those of mangle by a mark.
fn dropped(backend: Backend) -> Result<Completion, String> {
    let line = Line::new()?;
    let policy = format!(
        "{NAMES}{}",
        r#"
[[rules]]
service = ["80-90/tcp"]
[[raw]]
type = "drop"
from = ["lan", "host"]
service = "81/tcp"
[[raw]]
type = "drop"
from = "host"
to = "wan"
service = "82/tcp"
[[mangle]]
type = "mark"
from = ["lan", "host"]
service = ["83/tcp", "84/tcp"]
set = "0x10/0x10"
[[mangle]]
type = "drop"
from = ["any", "host"]
mark = "0x10/0x10"
service = "83/tcp"
[[mangle]]
type = "drop"
from = "lan"
to = "wan"
mark = "0x10/0x10"
"#
    );
    line.load(backend, &policy)?;
    let (client, router, server) = (&line.client, &line.router, &line.server);
    for (there, here) in SERVER.into_iter().zip(["10.1.0.1", "2001:db8:1::1"]) {
        let [there, here]: [IpAddr; 2] =
            [there, here].map(|text| text.parse().unwrap_or(IpAddr::from([0; 4])));
        for (from, to, address, port, wanted) in [
            (client, server, there, 80, Reply::Answer),
            (client, server, there, 81, Reply::Silence),
            (client, router, here, 81, Reply::Silence),
            (router, server, there, 81, Reply::Silence),
            (router, router, here, 81, Reply::Answer),
            (client, server, there, 82, Reply::Answer),
            (router, server, there, 82, Reply::Silence),
            (client, server, there, 83, Reply::Silence),
            (client, router, here, 83, Reply::Silence),
            (router, server, there, 83, Reply::Silence),
            (router, router, here, 83, Reply::Answer),
            (client, server, there, 84, Reply::Silence),
            (client, router, here, 84, Reply::Answer),
            (router, server, there, 84, Reply::Answer),
        ] {
            let address = SocketAddr::new(address, port);
            let found = expecting(wanted, || tcp(from, to, address))?;
            if found != wanted {
                return Err(format!("{address}: wanted {wanted}, found {found}"));
            }
        }
    }
    let list = line.router.run("conntrack", &["-L"], "")?;
    // What the router sends to itself is tracked.
    let own = ["src=10.1.0.1 ", "src=2001:db8:1::1 "];
    let is_own = |flow: &&str| own.iter().any(|own| flow.contains(own));
    let mut flows = list.lines().filter(|flow| !is_own(flow));
    match flows.find(|flow| flow.contains("dport=81 ")) {
        Some(flow) => Err(format!("tracked: {flow}")),
        None => Ok(Completion::Completed),
    }
}

/// The rule counts what leaves to the port, whoever sends it, and the datagrams arrive.
fn checksum(backend: Backend) -> Result<Completion, String> {
    let line = Line::new()?;
    let policy = format!(
        "{NAMES}{}",
        r#"
[[mangle]]
type = "checksum"
from = "host"
to = "wan"
service = "68/udp"
"#
    );
    line.load(backend, &policy)?;
    for (family, server) in Family::ALL.into_iter().zip(SERVER) {
        let server: IpAddr = server.parse().map_err(|_| "an address")?;
        for (from, port, wanted) in [
            (&line.router, 68, true),
            (&line.client, 68, true),
            (&line.router, 69, false),
        ] {
            let count = || -> Result<Counters, String> {
                let saved = line.router.save(backend, family, &["-c"])?;
                Ok(Counters::parse(&saved))
            };
            let before = count()?;
            let reply = udp(from, &line.server, SocketAddr::new(server, port))?;
            if reply != Reply::Answer {
                return Err(format!("{server}:{port}: {reply}"));
            }
            let counted = count()?.since(&before)?;
            let filled = counted
                .iter()
                .any(|one| one.text.contains("CHECKSUM --checksum-fill"));
            if filled != wanted {
                return Err(format!("port {port}: {counted:?}"));
            }
        }
    }
    Ok(Completion::Completed)
}

const NAMES: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = "eth1"
[[rules]]
from = "lan"
to = "wan"
"#;

fn on_the_wire(backend: Backend) -> Result<Completion, String> {
    let line = Line::new()?;
    let policy = format!(
        "{NAMES}{}",
        r#"
[[mangle]]
type = "clamp-mss"
to = "wan"
[[mangle]]
type = "clamp-mss"
from = "lan"
to = "wan"
service = "81/tcp"
set = 1000
[[mangle]]
type = "dscp"
to = "wan"
service = "80/tcp"
set = "ef"
[[mangle]]
type = "ttl"
to = "wan"
service = "80/tcp"
set = 99
[[mangle]]
type = "ttl"
from = "lan"
service = "81/tcp"
increase = 7
"#
    );
    // Without rules each packet arrives as it was sent, less the router's hop.
    let mut before = Vec::new();
    for (server, header) in SERVER.into_iter().zip([40, 60]) {
        let server = server.parse().map_err(|_| "an address")?;
        let syn = line.first_packet(server, 80)?;
        let plain = Syn {
            dscp: 0,
            hops: 63,
            segment: 1500 - header,
        };
        expect(syn, plain)?;
        before.push(syn);
    }
    line.load(backend, &policy)?;
    for (server, header) in SERVER.into_iter().zip([40, 60]) {
        let server = server.parse().map_err(|_| "an address")?;
        let clamped = Syn {
            dscp: 46,
            hops: 99,
            segment: 1400 - header,
        };
        expect(line.first_packet(server, 80)?, clamped)?;
        let set = Syn {
            dscp: 0,
            hops: 63 + 7,
            segment: 1000,
        };
        expect(line.first_packet(server, 81)?, set)?;
    }
    Ok(Completion::Completed)
}

fn expect(found: Syn, wanted: Syn) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("wanted {wanted:?}, found {found:?}")),
    }
}

/// A mark is set on a connection's first packet, kept with it, and found again on the answer.
fn marks(backend: Backend) -> Result<Completion, String> {
    let line = Line::new()?;
    let policy = format!(
        "{NAMES}{}",
        r#"
[[rules]]
name = "answers with the mark"
stage = "early"
from = "wan"
to = "lan"
mark = "0x10/0xff"
[[rules]]
name = "answers without it"
stage = "early"
from = "wan"
to = "lan"
state = "established"
[[mangle]]
type = "mark"
restore = "0xff"
[[mangle]]
type = "mark"
from = "lan"
service = "80/tcp"
state = "new"
mark = "0/0xff"
set = "0x10/0xff"
[[mangle]]
type = "mark"
save = "0xff"
[[mangle]]
type = "classify"
to = "wan"
set = "1:a"
"#
    );
    line.load(backend, &policy)?;
    for (family, server) in Family::ALL.into_iter().zip(SERVER) {
        let server: IpAddr = server.parse().map_err(|_| "an address")?;
        for (port, of_it, of_others) in [(80, true, false), (81, false, true)] {
            let count = || -> Result<Counters, String> {
                let saved = line.router.save(backend, family, &["-c"])?;
                Ok(Counters::parse(&saved))
            };
            let before = count()?;
            let reply = tcp(&line.client, &line.server, SocketAddr::new(server, port))?;
            if reply != Reply::Answer {
                return Err(format!("{server}:{port}: {reply}"));
            }
            let counted = count()?.since(&before)?;
            let matched = |text: &str| counted.iter().any(|one| one.text.contains(text));
            for (rule, wanted) in [
                ("fwc:answers with the mark", of_it),
                ("fwc:answers without it", of_others),
                ("CLASSIFY --set-class 0001:000a", true),
            ] {
                if matched(rule) != wanted {
                    return Err(format!("port {port}, {rule}: {counted:?}"));
                }
            }
        }
    }
    // Of a datagram too, and nothing is marked that is of another service.
    let server: IpAddr = SERVER[0].parse().map_err(|_| "an address")?;
    udp(&line.client, &line.server, SocketAddr::new(server, 80))?;
    let list = line.router.run("conntrack", &["-L", "-f", "ipv4"], "")?;
    for flow in list.lines() {
        let marked = flow.contains("mark=16");
        if marked != (flow.contains("tcp") && flow.contains("dport=80 ")) {
            return Err(format!("the mark of {flow}"));
        }
    }
    Ok(Completion::Completed)
}

//! No open window: many applies back and forth between two rulesets that differ in nat, filter and a set, under numbered
//! probes. None gets through that neither lets through, none is lost that both let through.

use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fwc::apply::{self, Confirmation, Error, Guard, Insist, Progress, Request, Ruleset, Store};
use fwc::live::{self, NamespaceId, Real};
use fwc::net::PerFamily;

use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

/// The first argument that leads to the inner side.
pub const COMMAND: &str = "__window";

pub const TESTS: &[(&str, Test)] = &[("no_open_window", no_open_window)];

/// A probe of each kind every so often.
const PACE: Duration = Duration::from_millis(5);

/// The ruleset that forwards to this port of the server, and blocks this network.
fn ruleset(port: u16, blocked: &str) -> Ruleset {
    let nat = format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A PREROUTING -i eth0 -p udp -m udp --dport 5000 -j DNAT --to-destination 10.95.0.2:{port}\nCOMMIT\n"
    );
    let v4 = format!(
        "{nat}*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:to-{port} - [0:0]\n-A INPUT -m set --match-set fwc4-list src -j DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -p udp -m udp --dport 7000 -j ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j to-{port}\n-A to-{port} -d 10.95.0.2/32 -p udp -m udp --dport {port} -j ACCEPT\nCOMMIT\n"
    );
    let v6 = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
    let sets = format!(
        "create fwc4-list hash:net family inet maxelem 65536\nadd fwc4-list 10.96.0.3\nadd fwc4-list {blocked}\n"
    );
    Ruleset {
        rules: PerFamily {
            v4,
            v6: v6.to_owned(),
        },
        sets: Some(sets),
        ..Ruleset::default()
    }
}

/// Nobody watches: nothing fails here.
struct NoGuard;

impl Guard for NoGuard {
    fn start(&mut self, _number: u64) -> Result<Option<u32>, Error> {
        Ok(None)
    }
}

/// The inner side: so many applies in a row.
pub fn run(arguments: &[String]) {
    let [number, backend] = arguments else {
        panic!("{arguments:?}");
    };
    let backend = match backend.as_str() {
        "nft" => live::Backend::Nft,
        _ => live::Backend::Legacy,
    };
    let mut host = Real::open(Some(backend)).unwrap();
    let here = env::current_dir().unwrap();
    let persist_dir = here.join("iptables");
    let store = Store::new(
        &here.join("state"),
        NamespaceId::current().unwrap(),
        &persist_dir,
    );
    let both = [
        ruleset(6000, "192.0.2.0/24"),
        ruleset(6001, "198.51.100.0/24"),
    ];
    let checks = Confirmation::Checks("a test".to_owned());
    for turn in 0..number.parse::<usize>().unwrap() {
        let request = Request {
            ruleset: &both[turn % 2],
            policy: "a test",
            persist_dir: &persist_dir,
            insist: Insist::default(),
        };
        let plan = apply::plan(&host, &store, request).unwrap();
        let progress = apply::commit(&mut host, &store, &plan, &mut NoGuard, &checks).unwrap();
        let Progress::Done(done) = progress else {
            panic!("nothing was to be confirmed");
        };
        assert!(!done.replaced.is_empty() || turn == 0);
    }
}

/// Probes to one place.
struct Kind {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    passes: bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "translated",
        from: "10.96.0.2",
        to: "10.96.0.1:5000",
        passes: true,
    },
    Kind {
        name: "to the host",
        from: "10.96.0.2",
        to: "10.96.0.1:7000",
        passes: true,
    },
    Kind {
        name: "to a closed port",
        from: "10.96.0.2",
        to: "10.96.0.1:7001",
        passes: false,
    },
    Kind {
        name: "to a closed port of the server",
        from: "10.96.0.2",
        to: "10.95.0.2:6002",
        passes: false,
    },
    Kind {
        name: "from a blocked address",
        from: "10.96.0.3",
        to: "10.96.0.1:7000",
        passes: false,
    },
];

/// What arrives: each datagram says its kind and its number.
fn listen(sockets: &[UdpSocket], stop: &AtomicBool) -> Vec<(u32, u32)> {
    let mut seen = Vec::new();
    for socket in sockets {
        socket.set_nonblocking(true).unwrap();
    }
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for socket in sockets {
            let mut bytes = [0; 8];
            while let Ok(8) = socket.recv(&mut bytes) {
                idle = false;
                let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
                seen.push((word(0), word(4)));
            }
        }
        if idle {
            thread::sleep(Duration::from_micros(300));
        }
    }
    seen
}

/// Datagrams that found no room, of a namespace's sockets.
fn dropped(net: &Net) -> u64 {
    net.enter(|| {
        let text = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        let drops = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().last());
        drops.map(|word| word.parse::<u64>().unwrap()).sum()
    })
}

fn no_open_window(backend: Backend) -> Result<(), String> {
    find("ipset")?;
    let ns = Namespace::new(backend);
    let (client, server) = (Net::new()?, Net::new()?);
    link(
        &End(ns.net(), "eth0", &["10.96.0.1/24"]),
        &End(&client, "eth0", &["10.96.0.2/24", "10.96.0.3/24"]),
    )?;
    link(
        &End(ns.net(), "eth1", &["10.95.0.1/24"]),
        &End(&server, "eth0", &["10.95.0.2/24"]),
    )?;
    ns.net().sysctl(&[("ipv4/ip_forward", "1")])?;
    client.ip(["route add 10.95.0.0/24 via 10.96.0.1"])?;
    server.ip(["route add default via 10.95.0.1"])?;
    let number = env::var("FWC_APPLIES").unwrap_or_else(|_| match backend {
        Backend::Nft => "200".to_owned(),
        Backend::Legacy => "50".to_owned(),
    });
    let own = env::current_exe().unwrap();
    let inside = |number: &str| {
        let arguments = [COMMAND, number, &backend.to_string()];
        ns.run(own.to_str().unwrap(), &arguments, "")
    };
    // In force, so that both directions are rulesets of ours.
    inside("1").expect(0);

    let at = |net: &Net, address: &str| net.enter(|| UdpSocket::bind(address).unwrap());
    let here = [
        at(ns.net(), "10.96.0.1:7000"),
        at(ns.net(), "10.96.0.1:7001"),
    ];
    let there = ["6000", "6001", "6002"].map(|port| at(&server, &format!("10.95.0.2:{port}")));
    let (stop_sending, stop_listening) = (AtomicBool::new(false), AtomicBool::new(false));
    let begun = Instant::now();
    let (sent, seen) = thread::scope(|scope| {
        let listeners =
            [&here[..], &there[..]].map(|sockets| scope.spawn(|| listen(sockets, &stop_listening)));
        let sender = scope.spawn(|| client.enter(|| send(&stop_sending)));
        let ended = inside(&number);
        stop_sending.store(true, Ordering::Relaxed);
        let sent = sender.join();
        // What is on its way still arrives.
        thread::sleep(Duration::from_secs(1));
        // Before anything can fail: nobody else ends the listeners.
        stop_listening.store(true, Ordering::Relaxed);
        let sent = sent.unwrap();
        let seen: Vec<_> = listeners
            .into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect();
        ended.expect(0);
        (sent, seen)
    });
    let overrun = dropped(ns.net()) + dropped(&server);
    if overrun > 0 {
        return Err(format!(
            "{overrun} datagrams found no room: this machine is too busy to tell"
        ));
    }
    let mut wrong = Vec::new();
    for (index, kind) in (0_u32..).zip(&KINDS) {
        let mut numbers: Vec<u32> = seen
            .iter()
            .filter(|(of, _)| *of == index)
            .map(|(_, number)| *number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let arrived = u32::try_from(numbers.len()).unwrap();
        let wanted = if kind.passes { sent } else { 0 };
        if arrived != wanted {
            wrong.push(format!(
                "{}: {arrived} of {sent} arrived, not {wanted}",
                kind.name
            ));
        }
    }
    assert!(sent > 100, "only {sent} probes");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let line = format!(
        "{backend}: {number} applies under {sent} probes of {} kinds, none wrong, {:.0} s\n",
        KINDS.len(),
        begun.elapsed().as_secs_f64()
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    Ok(())
}

/// Sends a probe of each kind, numbered, each from a port of its own: a new connection. How many.
fn send(stop: &AtomicBool) -> u32 {
    let targets: Vec<SocketAddr> = KINDS.iter().map(|kind| kind.to.parse().unwrap()).collect();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for (index, (kind, target)) in (0_u32..).zip(KINDS.iter().zip(&targets)) {
            // No port comes again while the kernel remembers where its last packet went. Each kind has its own: a process that
            // another test starts may still hold the socket of the kind before.
            let port = 10_000 * (1 + index) + number % 10_000;
            let port = u16::try_from(port).unwrap();
            let socket = UdpSocket::bind((kind.from, port)).unwrap();
            let bytes = [index.to_be_bytes(), u32::to_be_bytes(number)].concat();
            socket.send_to(&bytes, target).unwrap();
        }
        number += 1;
        thread::sleep(PACE);
    }
    number
}

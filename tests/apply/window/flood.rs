//! Many applies under a flood: `fwc apply` itself, while packets come as fast as a sender can make them, each from a port of its own.

use std::env;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::super::namespace::{Backend, Namespace};
use super::super::support::namespace::Namespace as Net;
use super::super::support::network::{End, link};
use super::dropped;

/// How many there are without a word about it.
const APPLIES: usize = 4;

/// Between two packets of a kind.
const PACE: Duration = Duration::from_micros(250);

/// What is sent all the time.
struct Kind {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    /// Whether all get through, or none; `None` where one ruleset lets them in and the other one does not.
    passes: Option<bool>,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "let in by both",
        from: "10.94.0.2",
        to: "10.94.0.1:1000",
        passes: Some(true),
    },
    Kind {
        name: "let in by both, over IPv6",
        from: "2001:db8:94::2",
        to: "[2001:db8:94::1]:1000",
        passes: Some(true),
    },
    Kind {
        name: "let in by none",
        from: "10.94.0.2",
        to: "10.94.0.1:1003",
        passes: Some(false),
    },
    Kind {
        name: "let in by none, over IPv6",
        from: "2001:db8:94::2",
        to: "[2001:db8:94::1]:1003",
        passes: Some(false),
    },
    Kind {
        name: "from a blocked address",
        from: "10.94.0.3",
        to: "10.94.0.1:1000",
        passes: Some(false),
    },
    Kind {
        name: "let in by one",
        from: "10.94.0.2",
        to: "10.94.0.1:1001",
        passes: None,
    },
];

fn policy(open: u16, redirected: u16, blocked: &str) -> String {
    format!(
        r#"version = 1

[addresses]
blocked = {{ include = ["10.94.0.3", "{blocked}"], set = true }}

[[rules]]
source = "blocked"
action = "drop"

[[rules]]
service = ["1000/udp", "{open}/udp"]

[[nat]]
type = "redirect"
service = "{redirected}/udp"
to-port = 1000
"#
    )
}

/// A flood that a host gets while `fwc apply` goes back and forth.
pub fn under_a_flood(backend: Backend) -> Result<(), String> {
    super::find("ipset")?;
    let ns = Namespace::new(backend);
    let client = Net::new()?;
    link(
        &End(ns.net(), "eth0", &["10.94.0.1/24", "2001:db8:94::1/64"]),
        &End(
            &client,
            "eth0",
            &["10.94.0.2/24", "10.94.0.3/24", "2001:db8:94::2/64"],
        ),
    )?;
    // No port comes again while the kernel remembers where its last packet went.
    ns.net().sysctl(&[
        ("netfilter/nf_conntrack_udp_timeout", "1"),
        ("netfilter/nf_conntrack_udp_timeout_stream", "1"),
    ])?;
    let both = [
        policy(1001, 8080, "192.0.2.0/24"),
        policy(1002, 8081, "198.51.100.0/24"),
    ];
    for (name, text) in ["a.toml", "b.toml"].iter().zip(both) {
        fs::write(ns.path(name), text).unwrap();
    }
    ns.apply("a.toml", &[]).expect(0);
    let applies = env::var("FWC_APPLIES").map_or(APPLIES, |number| number.parse().unwrap());

    let servers: Vec<UdpSocket> = KINDS
        .iter()
        .map(|kind| kind.to.parse::<SocketAddr>().unwrap().to_string())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .map(|address| ns.net().enter(|| UdpSocket::bind(&address).unwrap()))
        .collect();
    for server in &servers {
        // Root may have more than the system's limit.
        setsockopt(server, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
    }
    let (stop_sending, stop_listening) = (AtomicBool::new(false), AtomicBool::new(false));
    let begun = Instant::now();
    let (sent, seen) = thread::scope(|scope| {
        let listeners: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| count(server, &stop_listening)))
            .collect();
        let senders: Vec<_> = KINDS
            .iter()
            .enumerate()
            .map(|(number, kind)| {
                let (client, stop) = (&client, &stop_sending);
                scope.spawn(move || client.enter(|| send(number, kind, stop)))
            })
            .collect();
        let turns = ["b.toml", "a.toml"].into_iter().cycle().take(applies);
        let failed: Vec<_> = turns
            .map(|policy| ns.apply(policy, &[]))
            .filter(|ended| ended.code != Some(0))
            .collect();
        stop_sending.store(true, Ordering::Relaxed);
        let sent: Vec<_> = senders.into_iter().map(|one| one.join()).collect();
        // What is on its way still arrives.
        thread::sleep(Duration::from_millis(500));
        // Before anything can fail: nobody else ends the listeners.
        stop_listening.store(true, Ordering::Relaxed);
        let mut seen = vec![0; KINDS.len()];
        for one in listeners {
            for (sum, more) in seen.iter_mut().zip(one.join().unwrap()) {
                *sum += more;
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
        let sent: Vec<u64> = sent.into_iter().map(std::result::Result::unwrap).collect();
        (sent, seen)
    });
    if dropped(ns.net()) > 0 {
        return Err("datagrams found no room: this machine is too busy to tell".to_owned());
    }
    let mut wrong = Vec::new();
    for ((kind, sent), seen) in KINDS.iter().zip(&sent).zip(&seen) {
        let wanted = match kind.passes {
            Some(true) => *sent,
            Some(false) => 0,
            None => continue,
        };
        if *seen != wanted {
            wrong.push(format!("{}: {seen} of {sent} arrived", kind.name));
        }
    }
    let all: u64 = sent.iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let line = format!(
        "{backend}, flood: {applies} applies under {all} new connections of {} kinds ({:.0} a second), {} wrong, {seconds:.0} s\n",
        KINDS.len(),
        f64::from(u32::try_from(all).unwrap()) / seconds,
        wrong.len(),
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(sent.iter().all(|one| *one > 100), "{sent:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// How many arrive of each kind.
fn count(server: &UdpSocket, stop: &AtomicBool) -> Vec<u64> {
    let mut seen = vec![0; KINDS.len()];
    let mut kind = [0];
    loop {
        match server.recv(&mut kind) {
            Ok(1) => seen[usize::from(kind[0])] += 1,
            _ if stop.load(Ordering::Relaxed) => return seen,
            _ => {}
        }
    }
}

/// Sends datagrams that say their kind, each from another port: how many.
fn send(number: usize, kind: &Kind, stop: &AtomicBool) -> u64 {
    let from: IpAddr = kind.from.parse().unwrap();
    let to: SocketAddr = kind.to.parse().unwrap();
    let bytes = [u8::try_from(number).unwrap()];
    let mut sent = 0;
    let ports = (2_000..62_000).cycle();
    for port in ports {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Another kind may have it at this moment.
        let Ok(socket) = UdpSocket::bind((from, port)) else {
            continue;
        };
        if socket.send_to(&bytes, to).is_ok() {
            sent += 1;
        }
        thread::sleep(PACE);
    }
    sent
}

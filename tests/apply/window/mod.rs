//! No open window: many applies back and forth between two rulesets that differ in nat, filter and a set, under numbered
//! probes, on a host of its own and beside others. None gets through that neither lets through, none is lost that both do.

mod flood;
mod scenes;

use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fwc::internals::apply::{
    self, Confirmation, Error, Guard, Overrides, Progress, Request, Store,
};
use fwc::internals::live::{self, NamespaceId, Real};

use self::scenes::{Kind, Scene};
use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
use super::support::tools::find;

/// The first argument that leads to the inner side.
pub const COMMAND: &str = "__window";

pub const TESTS: &[(&str, Test)] = &[
    ("no_open_window", |backend| {
        no_open_window(backend, "alone", Way::Forth)
    }),
    ("no_open_window_in_shared_mode", |backend| {
        no_open_window(backend, "shared", Way::Forth)
    }),
    ("no_open_window_beside_preserved", |backend| {
        no_open_window(backend, "preserve", Way::Forth)
    }),
    (
        "nothing_opens_where_tables_cross_in_shared_mode",
        |backend| no_open_window(backend, "crossed in shared mode", Way::Forth),
    ),
    (
        "nothing_opens_where_tables_cross_beside_preserved",
        |backend| no_open_window(backend, "crossed beside preserved", Way::Forth),
    ),
    ("no_open_window_on_the_way_back", |backend| {
        no_open_window(backend, "alone", Way::Back)
    }),
    ("no_open_window_on_the_way_back_in_shared_mode", |backend| {
        no_open_window(backend, "shared", Way::Back)
    }),
    (
        "nothing_opens_on_the_way_back_where_tables_cross",
        |backend| no_open_window(backend, "crossed in shared mode", Way::Back),
    ),
    ("no_open_window_under_a_flood", flood::under_a_flood),
];

/// How the rulesets take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each is applied.
    Forth,
    /// The second is applied and taken back.
    Back,
}

/// How many probes of each kind the applies meet at least.
const ENOUGH: u32 = 100;

/// A probe of each kind every so often.
const PACE: Duration = Duration::from_millis(5);

/// Nobody watches: nothing fails here.
struct NoGuard;

impl Guard for NoGuard {
    fn start(&mut self, _number: u64) -> Result<Option<u32>, Error> {
        Ok(None)
    }
}

/// The inner side: so many applies in a row.
pub fn run(arguments: &[String]) {
    let [number, backend, scene, way] = arguments else {
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
    let scene = Scene::named(scene);
    let both = (scene.rulesets)();
    let checks = Confirmation::Checks("a test".to_owned());
    for turn in 0..number.parse::<usize>().unwrap() {
        let goes_back = turn > 0 && *way == format!("{:?}", Way::Back);
        let request = Request {
            ruleset: &both[if goes_back { 1 } else { turn % 2 }],
            policy: "a test",
            persist_dir: &persist_dir,
            insist: Overrides::default(),
        };
        let plan = apply::plan(&host, &store, request).unwrap();
        // From the second on both are rulesets of the scene.
        if turn > 0 {
            let may_lose = scene.kinds().any(|kind| kind.passes.is_none());
            assert_eq!(plan.gaps().is_empty(), !may_lose, "{:?}", plan.gaps());
            assert!(
                plan.gaps()
                    .iter()
                    .all(|gap| gap.is_bridged && !gap.may_open)
            );
        }
        if goes_back {
            let awaited = Confirmation::Awaited(Duration::from_secs(600));
            let progress = apply::commit(&mut host, &store, &plan, &mut NoGuard, &awaited);
            assert!(matches!(progress, Ok(Progress::Pending { .. })));
            apply::take_back(&mut host, &store, "a test").unwrap();
            continue;
        }
        let progress = apply::commit(&mut host, &store, &plan, &mut NoGuard, &checks).unwrap();
        let Progress::Done(done) = progress else {
            panic!("nothing was to be confirmed");
        };
        assert!(!done.replaced.is_empty() || turn == 0);
    }
}

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

fn no_open_window(backend: Backend, scene: &str, way: Way) -> Result<(), String> {
    find("ipset")?;
    let scene = Scene::named(scene);
    let ns = Namespace::new(backend);
    let (client, server, container) = (Net::new()?, Net::new()?, Net::new()?);
    link(
        &End(ns.net(), "eth0", &["10.96.0.1/24"]),
        &End(
            &client,
            "eth0",
            &["10.96.0.2/24", "10.96.0.3/24", "10.96.0.4/24"],
        ),
    )?;
    link(
        &End(ns.net(), "eth2", &["10.97.0.1/24"]),
        &End(&container, "eth0", &["10.97.0.2/24"]),
    )?;
    link(
        &End(ns.net(), "eth1", &["10.95.0.1/24"]),
        &End(&server, "eth0", &["10.95.0.2/24"]),
    )?;
    ns.net().sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("netfilter/nf_conntrack_udp_timeout", "10"),
    ])?;
    client.ip([
        "route add 10.95.0.0/24 via 10.96.0.1",
        "route add 10.97.0.0/24 via 10.96.0.1",
    ])?;
    server.ip(["route add default via 10.95.0.1"])?;
    container.ip(["route add default via 10.97.0.1"])?;
    ns.restore("iptables", scene.others).expect(0);
    let applies = match way {
        Way::Forth => scene.applies,
        Way::Back => 16,
    };
    let number = env::var("FWC_APPLIES").unwrap_or_else(|_| match backend {
        Backend::Nft => applies.to_string(),
        Backend::Legacy => applies.div_ceil(4).to_string(),
    });
    let own = env::current_exe().unwrap();
    let inside = |number: &str| {
        let (backend, way) = (backend.to_string(), format!("{way:?}"));
        let arguments = [COMMAND, number, &backend, scene.name, &way];
        ns.run(own.to_str().unwrap(), &arguments, "")
    };
    // In force, so that both directions are rulesets of ours.
    inside("1").expect(0);

    let at = |net: &Net, address: &str| net.enter(|| UdpSocket::bind(address).unwrap());
    let here = [
        at(ns.net(), "10.96.0.1:7000"),
        at(ns.net(), "10.96.0.1:7001"),
    ];
    let there =
        ["6000", "6001", "6002", "6003"].map(|port| at(&server, &format!("10.95.0.2:{port}")));
    let inner = ["6200", "6201"].map(|port| at(&container, &format!("10.97.0.2:{port}")));
    let (stop_sending, stop_listening) = (AtomicBool::new(false), AtomicBool::new(false));
    let sent = AtomicU32::new(0);
    let begun = Instant::now();
    let seen = thread::scope(|scope| {
        let listeners = [&here[..], &there[..], &inner[..]]
            .map(|sockets| scope.spawn(|| listen(sockets, &stop_listening)));
        let sender = scope.spawn(|| client.enter(|| send(scene, &stop_sending, &sent)));
        let mut ended = inside(&number);
        // A slow machine sends little meanwhile: the applies go on until they have met enough.
        while ended.code == Some(0) && sent.load(Ordering::Relaxed) <= ENOUGH {
            ended = inside(&number);
        }
        stop_sending.store(true, Ordering::Relaxed);
        let sender = sender.join();
        // What is on its way still arrives.
        thread::sleep(Duration::from_secs(1));
        // Before anything can fail: nobody else ends the listeners.
        stop_listening.store(true, Ordering::Relaxed);
        sender.unwrap();
        let seen: Vec<_> = listeners
            .into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect();
        ended.expect(0);
        seen
    });
    let sent = sent.into_inner();
    let overrun = dropped(ns.net()) + dropped(&server) + dropped(&container);
    if overrun > 0 {
        return Err(format!(
            "{overrun} datagrams found no room: this machine is too busy to tell"
        ));
    }
    let mut wrong = Vec::new();
    for (index, kind) in (0_u32..).zip(scene.kinds()) {
        let mut numbers: Vec<u32> = seen
            .iter()
            .filter(|(of, _)| *of == index)
            .map(|(_, number)| *number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let arrived = u32::try_from(numbers.len()).unwrap();
        let Some(passes) = kind.passes else { continue };
        let wanted = if passes { sent } else { 0 };
        if arrived != wanted {
            wrong.push(format!(
                "{}: {arrived} of {sent} arrived, not {wanted}",
                kind.name
            ));
        }
    }
    assert!(sent > ENOUGH, "only {sent} probes");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let saved = ns.saved_family("iptables");
    for rule in scene.others.lines().filter(|line| line.starts_with("-A ")) {
        assert_eq!(saved.matches(rule).count(), 1, "{rule}\n{saved}");
    }
    let line = format!(
        "{backend}, {}, {way:?}: {number} applies under {sent} probes of {} kinds, none wrong, {:.0} s\n",
        scene.name,
        scene.kinds().count(),
        begun.elapsed().as_secs_f64()
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    Ok(())
}

/// Sends a probe of each kind, numbered, each from a port of its own: a new connection. How many.
/// Sends a datagram of each kind again and again, and counts the rounds in `sent`.
fn send(scene: &Scene, stop: &AtomicBool, sent: &AtomicU32) {
    let kinds: Vec<&Kind> = scene.kinds().collect();
    let targets: Vec<SocketAddr> = kinds.iter().map(|kind| kind.to.parse().unwrap()).collect();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        for (index, (kind, target)) in (0_u32..).zip(kinds.iter().zip(&targets)) {
            // No port comes again while the kernel remembers where its last packet went. Each kind has its own: a process that
            // another test starts may still hold the socket of the kind before.
            let port = 10_000 + 5_000 * index + number % 5_000;
            let port = u16::try_from(port).unwrap();
            let socket = UdpSocket::bind((kind.from, port)).unwrap();
            let bytes = [index.to_be_bytes(), u32::to_be_bytes(number)].concat();
            socket.send_to(&bytes, target).unwrap();
        }
        sent.store(number + 1, Ordering::Relaxed);
        thread::sleep(PACE);
    }
}

//! The kernel facts behind limits in a window: what a list of `recent` keeps, and of whom.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use fwc::net::Family;
use libtest_mimic::Trial;

use crate::counters::Counters;
use crate::environment::tests_with_each_backend;
use crate::support::namespace::Namespace;
use crate::support::tools::Backend;

type Fact = fn(Backend) -> Result<String, String>;

pub fn all() -> Vec<Trial> {
    let facts: [(&str, Fact); 4] = [
        ("fact-the-last-of-the-hits-is-over", last_of_the_hits),
        ("fact-a-list-is-of-both-families", of_both_families),
        ("fact-a-list-forgets-the-oldest", forgets_the_oldest),
        ("fact-a-list-outlives-a-load", outlives_a_load),
    ];
    tests_with_each_backend("windows", facts)
}

/// The leading bits that a host has in each family, as masks.
const HOSTS: [&str; 2] = ["255.255.255.255", "ffff:ffff:ffff:ffff::"];

/// A host that sends to itself, from any address of its networks.
struct Host {
    namespace: Namespace,
    backend: Backend,
}

impl Host {
    fn new(backend: Backend) -> Result<Self, String> {
        let namespace = Namespace::new()?;
        namespace.ip([
            "link set lo up",
            "route add local 198.18.0.0/15 dev lo",
            "route add local 2001:db8::/32 dev lo",
        ])?;
        // IPv6 addresses have to be there, or this, before a socket may use them.
        namespace.sysctl(&[("ipv6/ip_nonlocal_bind", "1")])?;
        Ok(Self { namespace, backend })
    }

    /// Loads a rule for UDP at the port 9 that lets fewer than so many hits pass, and counts those over it.
    fn load(&self, family: Family, name: &str, hits: u32) -> Result<(), String> {
        let list = format!("--name {name} --mask {} --rsource", HOSTS[family as usize]);
        let text = format!(
            "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -m udp --dport 9 -m recent --set {list} -m recent ! --rcheck \
             --seconds 600 --hitcount {hits} {list} -j ACCEPT\n-A OUTPUT -p udp -m udp --dport 9 -j DROP\nCOMMIT\n"
        );
        self.namespace.restore(self.backend, family, &[], &text)
    }

    /// Sends datagrams from an address, and returns how many have passed since the rules were loaded.
    fn passed(&self, from: &str, number: u32) -> Result<u64, String> {
        let from: IpAddr = from.parse().map_err(|_| "an address")?;
        let to = match from {
            IpAddr::V4(_) => "198.18.255.255",
            IpAddr::V6(_) => "2001:db8:ffff::1",
        };
        let to = SocketAddr::new(to.parse().map_err(|_| "an address")?, 9);
        self.namespace.enter(|| {
            let socket = UdpSocket::bind(SocketAddr::new(from, 0));
            let socket = socket.map_err(|error| format!("{from}: {error}"))?;
            for _ in 0..number {
                // A packet that a rule drops on its way out is an error of the sender, and a closed port one of the next send.
                let _ = socket.send_to(b"x", to);
            }
            Ok::<_, String>(())
        })?;
        let saved = self
            .namespace
            .save(self.backend, Family::of(from), &["-c"])?;
        let counters = Counters::parse(&saved).0;
        let passed = counters
            .iter()
            .filter(|one| one.text.ends_with("-j ACCEPT"));
        Ok(passed.map(|one| one.packets).sum())
    }
}

/// Notes a number that is another than the expected one.
fn expect(wrong: &mut String, what: &str, passed: u64, expected: u64) {
    if passed != expected {
        *wrong += &format!("{what}: {passed} passed, not {expected}\n");
    }
}

/// The packet that `--set` has just recorded is one of the hits, for every number that policies may have.
fn last_of_the_hits(backend: Backend) -> Result<String, String> {
    let mut wrong = String::new();
    for (family, from) in [(Family::V4, "198.18.0.1"), (Family::V6, "2001:db8::1")] {
        for hits in [2, 6, 8, 16, 32, 33, 255] {
            let host = Host::new(backend)?;
            host.load(family, &format!("hits-{hits}"), hits)?;
            let passed = host.passed(from, hits + 20)?;
            let what = format!("{family}, {hits} hits");
            expect(&mut wrong, &what, passed, u64::from(hits) - 1);
        }
    }
    Ok(wrong)
}

/// One list counts the addresses of both families under the mask of the rule that made it.
fn of_both_families(backend: Backend) -> Result<String, String> {
    let mut wrong = String::new();
    let own = Host::new(backend)?;
    own.load(Family::V4, "one4", 2)?;
    own.load(Family::V6, "one6", 2)?;
    own.passed("2001:db8::1", 1)?;
    let passed = own.passed("2001:db8:0:1::1", 1)?;
    expect(&mut wrong, "a list of its own, another /64", passed, 2);
    let shared = Host::new(backend)?;
    shared.load(Family::V4, "both", 2)?;
    shared.load(Family::V6, "both", 2)?;
    shared.passed("2001:db8::1", 1)?;
    let passed = shared.passed("2001:db8:0:1::1", 1)?;
    expect(&mut wrong, "a list of IPv4, another /64", passed, 1);
    Ok(wrong)
}

/// The 101st address makes a list forget the first.
fn forgets_the_oldest(backend: Backend) -> Result<String, String> {
    let mut wrong = String::new();
    let host = Host::new(backend)?;
    host.load(Family::V4, "oldest", 2)?;
    let passed = host.passed("198.18.0.1", 2)?;
    expect(&mut wrong, "the first address", passed, 1);
    for last in 1..100 {
        host.passed(&format!("198.18.1.{last}"), 1)?;
    }
    let passed = host.passed("198.18.0.1", 1)?;
    expect(&mut wrong, "the first of 100 addresses", passed, 100);
    for last in 1..=100 {
        host.passed(&format!("198.18.2.{last}"), 1)?;
    }
    let passed = host.passed("198.18.0.1", 1)?;
    expect(&mut wrong, "an address behind 100 others", passed, 201);
    Ok(wrong)
}

/// The list stays as long as a rule has its name, and is emptied where its entries are too short.
fn outlives_a_load(backend: Backend) -> Result<String, String> {
    let mut wrong = String::new();
    let host = Host::new(backend)?;
    let mut passed = |hits: u32, number: u32, expected: u64| -> Result<(), String> {
        host.load(Family::V4, "kept", hits)?;
        let passed = host.passed("198.18.0.1", number)?;
        expect(&mut wrong, &format!("{hits} hits"), passed, expected);
        Ok(())
    };
    passed(6, 7, 5)?;
    passed(6, 1, 0)?;
    passed(20, 20, 11)?;
    passed(40, 1, 1)?;
    passed(40, 40, 38)?;
    Ok(wrong)
}

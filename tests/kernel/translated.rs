//! What `[[nat]]` does to real connections: where they arrive, and as whose, seen at the other end.

use std::fmt::Write as _;
use std::net::SocketAddr;

use libtest_mimic::{Completion, Failed, Trial};

use crate::compile::rules_of;
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Listener, Reply, connect_to_one, link, ping, udp_by_way};
use crate::support::tools::Backend;

/// One test for each subject and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(&Network, Backend) -> Result<String, String>;
    let tests: [(&str, Body); 12] = [
        ("masquerade", masquerade),
        ("snat", snat),
        ("dnat", dnat),
        ("hairpin", hairpin),
        ("backends", backends),
        ("port-range", port_range),
        ("backends-and-range", backends_and_range),
        ("whole-address", whole_address),
        ("of-this-host", of_this_host),
        ("kept", kept),
        ("redirect", redirect),
        ("netmap", netmap),
    ];
    let mut trials = Vec::new();
    for (name, body) in tests {
        for backend in Backend::ALL {
            let title = format!("translated::{name}::{backend}");
            trials.push(kernel_test(title, backend, move || {
                let wrong = body(&Network::new()?, backend)?;
                if wrong.is_empty() {
                    Ok(Completion::Completed)
                } else {
                    Err(Failed::from(wrong))
                }
            }));
        }
    }
    trials
}

/// A router between the world (`eth0`), a lan whose hosts reach each other without it (`eth1`), and guests (`eth2`).
///
/// Everybody sends what is not beside him by the router: without rules each reaches each under his own address.
struct Network {
    router: Namespace,
    world: Namespace,
    /// `10.1.0.5` and `2001:db8:1::5`.
    first: Namespace,
    /// `10.1.0.6` and `2001:db8:1::6`.
    second: Namespace,
    guest: Namespace,
    /// The wire of the lan.
    switch: Namespace,
}

impl Network {
    fn new() -> Result<Self, String> {
        let network = Self {
            router: Namespace::new()?,
            world: Namespace::new()?,
            first: Namespace::new()?,
            second: Namespace::new()?,
            guest: Namespace::new()?,
            switch: Namespace::new()?,
        };
        let (router, switch) = (&network.router, &network.switch);
        link(
            &End(router, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
            &End(&network.world, "eth0", &["192.0.2.9/24", "2001:db8::9/64"]),
        )?;
        link(
            &End(router, "eth2", &["10.2.0.1/24", "2001:db8:2::1/64"]),
            &End(&network.guest, "eth0", &["10.2.0.7/24", "2001:db8:2::7/64"]),
        )?;
        switch.ip(["link add lan type bridge", "link set lan up"])?;
        for (number, host, device, addresses) in [
            (1, router, "eth1", ["10.1.0.1/24", "2001:db8:1::1/64"]),
            (
                5,
                &network.first,
                "eth0",
                ["10.1.0.5/24", "2001:db8:1::5/64"],
            ),
            (
                6,
                &network.second,
                "eth0",
                ["10.1.0.6/24", "2001:db8:1::6/64"],
            ),
        ] {
            let port = format!("port{number}");
            link(&End(host, device, &addresses), &End(switch, &port, &[]))?;
            switch.ip([format!("link set {port} master lan")])?;
        }
        router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        for (host, v4, v6) in [
            (&network.world, "192.0.2.1", "2001:db8::1"),
            (&network.first, "10.1.0.1", "2001:db8:1::1"),
            (&network.second, "10.1.0.1", "2001:db8:1::1"),
            (&network.guest, "10.2.0.1", "2001:db8:2::1"),
        ] {
            host.ip([
                format!("route add default via {v4}"),
                format!("route add ::/0 via {v6}"),
            ])?;
        }
        Ok(network)
    }

    /// Puts the entries into force, behind the names of the interfaces.
    fn load(&self, backend: Backend, entries: &str) -> Result<(), String> {
        let rules = rules_of(&format!("{NAMES}{entries}"))?;
        rules
            .iter()
            .try_for_each(|(family, text)| self.router.restore(backend, family, &[], text))
    }
}

const NAMES: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["10.1.0.0/24", "2001:db8:1::/64"] }
guests = { device = "eth2", networks = ["10.2.0.0/24", "2001:db8:2::/64"] }
"#;

/// Who calls, which address and port, where the server stands, at which address and port, and from which address the
/// server must see it come; `None` where nothing may be heard.
pub type Call<'a> = (
    &'a Namespace,
    &'a str,
    &'a Namespace,
    &'a str,
    Option<&'a str>,
);

/// Makes the calls one after the other, each with a word both ways; a line for each that went otherwise.
pub fn call(calls: &[Call<'_>]) -> Result<String, String> {
    let mut wrong = String::new();
    for (from, called, to, listening, wanted) in calls {
        let servers = [Listener::new(to, address(listening)?)?];
        let found = match connect_to_one(from, address(called)?, &servers) {
            Ok(Ok((connection, _))) => match (connection.talk()?, connection.talk_back()?) {
                (Reply::Answer, Reply::Answer) => connection.seen()?.ip().to_string(),
                (there, back) => format!("{there} and {back}"),
            },
            Ok(Err(reply)) => reply.to_string(),
            Err(error) => error,
        };
        let wanted = wanted.unwrap_or("silence");
        if found != wanted {
            let _ = writeln!(
                wrong,
                "{called} to {listening}: wanted {wanted}, found {found}"
            );
        }
    }
    Ok(wrong)
}

/// The same by datagrams.
fn send(calls: &[Call<'_>]) -> Result<String, String> {
    let mut wrong = String::new();
    for (from, called, to, listening, wanted) in calls {
        let (reply, seen) = udp_by_way(from, address(called)?, to, address(listening)?)?;
        let found = seen.map(|seen| seen.ip().to_string());
        let answer = match wanted {
            Some(_) => Reply::Answer,
            None => Reply::Silence,
        };
        if found.as_deref() != *wanted || reply != answer {
            let _ = writeln!(
                wrong,
                "udp {called} to {listening}: wanted {wanted:?}, found {found:?} and {reply}"
            );
        }
    }
    Ok(wrong)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("address {text}"))
}

/// The lan leaves as the router, over IPv4 and, where it says so, over IPv6; nobody else does, and not by other ways.
fn masquerade(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, guest) = (&net.router, &net.world, &net.first, &net.guest);
    let rules = "\n[[rules]]\nfrom = [\"lan\", \"guests\"]\nto = [\"wan\", \"guests\"]\n";
    let entry = "[[nat]]\ntype = \"masquerade\"\nfrom = \"lan\"\nto = \"wan\"\n";
    let [v4, v6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    net.load(backend, &format!("{entry}{rules}"))?;
    let mut wrong = call(&[
        (first, v4, world, v4, Some("192.0.2.1")),
        (first, v6, world, v6, Some("2001:db8:1::5")),
        (guest, v4, world, v4, Some("10.2.0.7")),
        (router, v4, world, v4, Some("192.0.2.1")),
        (first, "10.2.0.7:80", guest, "10.2.0.7:80", Some("10.1.0.5")),
        // It lets nobody in.
        (world, "10.1.0.5:80", first, "10.1.0.5:80", None),
    ])?;
    wrong += &send(&[
        (first, v4, world, v4, Some("192.0.2.1")),
        (guest, v4, world, v4, Some("10.2.0.7")),
    ])?;
    net.load(backend, &format!("{entry}scope = \"dual\"\n{rules}"))?;
    wrong += &call(&[
        (first, v4, world, v4, Some("192.0.2.1")),
        (first, v6, world, v6, Some("2001:db8::1")),
        (guest, v6, world, v6, Some("2001:db8:2::7")),
    ])?;
    Ok(wrong)
}

/// Sources become an address that the router itself need not have; the first entry that fits decides.
fn snat(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first, second, guest) = (&net.world, &net.first, &net.second, &net.guest);
    net.world.ip([
        "route add 203.0.113.0/24 via 192.0.2.1",
        "route add 2001:db8:77::/64 via 2001:db8::1",
    ])?;
    net.load(
        backend,
        r#"
[[nat]]
type = "snat"
source = ["10.1.0.6", "2001:db8:1::6"]
to = "wan"
to-source = ["203.0.113.6", "2001:db8:77::6"]
[[nat]]
type = "snat"
from = "lan"
to = "wan"
service = ["1-65535/tcp", "1-65535/udp"]
to-source = ["203.0.113.5:40000-40999", "[2001:db8:77::5]:40000-40999"]
[[rules]]
from = ["lan", "guests"]
to = "wan"
"#,
    )?;
    let [v4, v6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let mut wrong = call(&[
        (first, v4, world, v4, Some("203.0.113.5")),
        (first, v6, world, v6, Some("2001:db8:77::5")),
        (second, v4, world, v4, Some("203.0.113.6")),
        (second, v6, world, v6, Some("2001:db8:77::6")),
        (guest, v4, world, v4, Some("10.2.0.7")),
    ])?;
    wrong += &send(&[
        (first, v4, world, v4, Some("203.0.113.5")),
        (second, v6, world, v6, Some("2001:db8:77::6")),
    ])?;
    let servers = [Listener::new(world, address(v4)?)?];
    let connected = connect_to_one(first, address(v4)?, &servers)?;
    let (connection, _) = connected.map_err(|reply| reply.to_string())?;
    let port = connection.seen()?.port();
    if !(40000..=40999).contains(&port) {
        let _ = writeln!(wrong, "the source port became {port}");
    }
    Ok(wrong)
}

const WEB: &str = r#"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = ["http", "53/udp"]
to-destination = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"]
"#;

/// The port arrives at the backend, as who called; its own address stays shut, and other addresses are not meant.
fn dnat(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, second) = (&net.router, &net.world, &net.first, &net.second);
    net.load(
        backend,
        &format!("{WEB}\n[[rules]]\nfrom = \"lan\"\nto = \"wan\"\n"),
    )?;
    let [v4, v6] = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"];
    let mut wrong = call(&[
        (world, "192.0.2.1:80", first, v4, Some("192.0.2.9")),
        (world, "[2001:db8::1]:80", first, v6, Some("2001:db8::9")),
        // Nobody gets past the entry, to another port, or to the router itself.
        (world, v4, first, v4, None),
        (world, v6, first, v6, None),
        (world, "10.1.0.5:80", first, "10.1.0.5:80", None),
        (world, "192.0.2.1:8080", first, v4, None),
        (world, "192.0.2.1:81", router, "192.0.2.1:81", None),
        // Without hairpin the lan gets the router, which is shut.
        (second, "192.0.2.1:80", first, v4, None),
        // What the lan calls goes where it calls.
        (
            second,
            "192.0.2.9:80",
            &net.world,
            "192.0.2.9:80",
            Some("10.1.0.6"),
        ),
    ])?;
    wrong += &send(&[
        (world, "192.0.2.1:53", first, v4, Some("192.0.2.9")),
        (world, "[2001:db8::1]:53", first, v6, Some("2001:db8::9")),
        (world, v4, first, v4, None),
    ])?;
    net.load(backend, &format!("{WEB}accept = false\n"))?;
    wrong += &call(&[(world, "192.0.2.1:80", first, v4, None)])?;
    net.load(
        backend,
        &format!("{WEB}\n[[rules]]\naction = \"drop\"\nfrom = \"wan\"\nto = \"lan\"\nsource = \"192.0.2.9\"\n"),
    )?;
    wrong += &call(&[
        (world, "192.0.2.1:80", first, v4, None),
        (world, "[2001:db8::1]:80", first, v6, Some("2001:db8::9")),
    ])?;
    // What the router itself calls.
    net.load(backend, &WEB.replace("\"wan\"", "\"host\""))?;
    wrong += &call(&[
        (router, "192.0.2.1:80", first, v4, Some("192.0.2.1")),
        (router, "[2001:db8::1]:80", first, v6, Some("2001:db8::1")),
        (world, "192.0.2.1:80", first, v4, None),
    ])?;
    Ok(wrong)
}

/// Hosts beside the backend, and the backend itself, use the address of the world and get answers.
fn hairpin(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, second) = (&net.router, &net.world, &net.first, &net.second);
    let entries = format!("{WEB}hairpin = true\n");
    let rule = "\n[[rules]]\nfrom = \"lan\"\nservice = \"http\"\n";
    net.load(backend, &format!("{entries}{rule}"))?;
    let [v4, v6] = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"];
    let mut wrong = call(&[
        (second, "192.0.2.1:80", first, v4, Some("10.1.0.1")),
        (second, "[2001:db8::1]:80", first, v6, Some("2001:db8:1::1")),
        (first, "192.0.2.1:80", first, v4, Some("10.1.0.1")),
        (first, "[2001:db8::1]:80", first, v6, Some("2001:db8:1::1")),
        // The world is still seen as it is.
        (world, "192.0.2.1:80", first, v4, Some("192.0.2.9")),
        // The router's address in the lan is its own.
        (
            second,
            "10.1.0.1:80",
            router,
            "10.1.0.1:80",
            Some("10.1.0.6"),
        ),
        // Past the router nothing changes.
        (second, v4, first, v4, Some("10.1.0.6")),
    ])?;
    wrong += &send(&[
        (second, "192.0.2.1:53", first, v4, Some("10.1.0.1")),
        (second, "[2001:db8::1]:53", first, v6, Some("2001:db8:1::1")),
    ])?;
    Ok(wrong)
}

/// Backends of a family take turns.
fn backends(net: &Network, backend: Backend) -> Result<String, String> {
    net.first.ip(["addr add 10.1.0.7/24 dev eth0"])?;
    net.load(
        backend,
        r#"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = "http"
to-destination = ["10.1.0.5:81", "10.1.0.6:82", "10.1.0.7:83", "[2001:db8:1::5]:84", "[2001:db8:1::6]:85"]
"#,
    )?;
    let mut wrong = String::new();
    for (called, seen, servers) in [
        (
            "192.0.2.1:80",
            "192.0.2.9",
            vec![
                (&net.first, "10.1.0.5:81"),
                (&net.second, "10.1.0.6:82"),
                (&net.first, "10.1.0.7:83"),
            ],
        ),
        (
            "[2001:db8::1]:80",
            "2001:db8::9",
            vec![
                (&net.first, "[2001:db8:1::5]:84"),
                (&net.second, "[2001:db8:1::6]:85"),
            ],
        ),
    ] {
        wrong += &turns(&net.world, called, &servers, seen)?;
    }
    Ok(wrong)
}

/// Calls an address often enough for each server, given as host and address, to have four turns; says where it was
/// otherwise. All must see this client.
pub fn turns(
    from: &Namespace,
    called: &str,
    servers: &[(&Namespace, &str)],
    seen: &str,
) -> Result<String, String> {
    let mut wrong = String::new();
    let servers: Result<Vec<_>, String> = servers
        .iter()
        .map(|(host, at)| Listener::new(host, address(at)?))
        .collect();
    let servers = servers?;
    let mut got = vec![0; servers.len()];
    for _ in 0..4 * servers.len() {
        let connected = connect_to_one(from, address(called)?, &servers)?;
        let (connection, number) = connected.map_err(|reply| format!("{called}: {reply}"))?;
        let replies = (connection.talk()?, connection.talk_back()?);
        let as_who = connection.seen()?.ip().to_string();
        if replies != (Reply::Answer, Reply::Answer) || as_who != seen {
            let _ = writeln!(wrong, "server {number}: {replies:?} as {as_who}");
        }
        got[number] += 1;
    }
    if got.iter().any(|number| *number != 4) {
        let _ = writeln!(wrong, "{called}: the servers got {got:?}");
    }
    Ok(wrong)
}

/// Each port of a range becomes the one at its place in the other.
fn port_range(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first) = (&net.world, &net.first);
    net.load(
        backend,
        r#"
[[nat]]
type = "dnat"
from = "wan"
service = ["8000-8100/tcp", "8000-8100/udp"]
to-destination = ["10.1.0.5:9000-9100", "[2001:db8:1::5]:9000-9100"]
"#,
    )?;
    let mut wrong = String::new();
    for (called, arrives) in [(8000, 9000), (8033, 9033), (8100, 9100)] {
        for (here, there, seen) in [
            ("192.0.2.1", "10.1.0.5", "192.0.2.9"),
            ("[2001:db8::1]", "[2001:db8:1::5]", "2001:db8::9"),
        ] {
            let (called, arrives) = (format!("{here}:{called}"), format!("{there}:{arrives}"));
            let calls = [(world, called.as_str(), first, arrives.as_str(), Some(seen))];
            wrong += &call(&calls)?;
            wrong += &send(&calls)?;
        }
    }
    wrong += &call(&[
        (world, "192.0.2.1:7999", first, "10.1.0.5:8999", None),
        (world, "192.0.2.1:8101", first, "10.1.0.5:9101", None),
    ])?;
    Ok(wrong)
}

/// A range of ports at backends that take turns, for the world and for the lan.
fn backends_and_range(net: &Network, backend: Backend) -> Result<String, String> {
    net.load(
        backend,
        r#"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = "8000-8100/tcp"
to-destination = [
    "10.1.0.5:9000-9100", "10.1.0.6:9000-9100",
    "[2001:db8:1::5]:9000-9100", "[2001:db8:1::6]:9000-9100",
]
hairpin = true
"#,
    )?;
    let v4 = [
        (&net.first, "10.1.0.5:9042"),
        (&net.second, "10.1.0.6:9042"),
    ];
    let v6 = [
        (&net.first, "[2001:db8:1::5]:9042"),
        (&net.second, "[2001:db8:1::6]:9042"),
    ];
    let mut wrong = String::new();
    for (from, seen, seen6) in [
        (&net.world, "192.0.2.9", "2001:db8::9"),
        (&net.second, "10.1.0.1", "2001:db8:1::1"),
    ] {
        wrong += &turns(from, "192.0.2.1:8042", &v4, seen)?;
        wrong += &turns(from, "[2001:db8::1]:8042", &v6, seen6)?;
    }
    Ok(wrong)
}

/// An address that the router itself does not have, with all that is sent to it; and sources out of a range.
fn whole_address(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first, second) = (&net.world, &net.first, &net.second);
    world.ip([
        "route add 203.0.113.0/24 via 192.0.2.1",
        "route add 2001:db8:77::/64 via 2001:db8::1",
    ])?;
    net.load(
        backend,
        r#"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
destination = ["203.0.113.80", "2001:db8:77::80"]
to-destination = ["10.1.0.5", "2001:db8:1::5"]
hairpin = true
[[nat]]
type = "snat"
from = "lan"
to = "wan"
to-source = ["203.0.113.5-203.0.113.7", "2001:db8:77::5-2001:db8:77::7"]
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [v4, v6] = ["10.1.0.5:1234", "[2001:db8:1::5]:1234"];
    let [public4, public6] = ["203.0.113.80:1234", "[2001:db8:77::80]:1234"];
    let calls = [
        (world, public4, first, v4, Some("192.0.2.9")),
        (world, public6, first, v6, Some("2001:db8::9")),
        (second, public4, first, v4, Some("10.1.0.1")),
        (second, public6, first, v6, Some("2001:db8:1::1")),
    ];
    let mut wrong = call(&calls)? + &send(&calls)?;
    for address in ["203.0.113.80", "2001:db8:77::80"] {
        let address = address.parse().map_err(|_| "an address")?;
        for from in [world, second] {
            let reply = ping(from, address);
            if reply != Reply::Answer {
                let _ = writeln!(wrong, "ping of {address}: {reply}");
            }
        }
    }
    for (called, sources) in [
        (
            "192.0.2.9:80",
            ["203.0.113.5", "203.0.113.6", "203.0.113.7"],
        ),
        (
            "[2001:db8::9]:80",
            ["2001:db8:77::5", "2001:db8:77::6", "2001:db8:77::7"],
        ),
    ] {
        let servers = [Listener::new(world, address(called)?)?];
        let connected = connect_to_one(first, address(called)?, &servers)?;
        let (connection, _) = connected.map_err(|reply| format!("{called}: {reply}"))?;
        let seen = connection.seen()?.ip().to_string();
        if connection.talk()? != Reply::Answer || !sources.contains(&seen.as_str()) {
            let _ = writeln!(wrong, "{called} was called by {seen}");
        }
    }
    Ok(wrong)
}

/// What the router itself sends, by `from = "host"` or its addresses, and nothing of others.
fn of_this_host(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first) = (&net.router, &net.world, &net.first);
    world.ip([
        "route add 203.0.113.0/24 via 192.0.2.1",
        "route add 2001:db8:77::/64 via 2001:db8::1",
    ])?;
    net.load(
        backend,
        r#"
[[nat]]
type = "redirect"
from = "host"
service = "http"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3128
[[nat]]
type = "snat"
source = ["192.0.2.1", "2001:db8::1"]
to = "wan"
to-source = ["203.0.113.9", "2001:db8:77::9"]
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [web4, web6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let [v4, v6] = ["192.0.2.9:443", "[2001:db8::9]:443"];
    call(&[
        (router, web4, router, "0.0.0.0:3128", Some("192.0.2.1")),
        (router, web6, router, "[::]:3128", Some("2001:db8::1")),
        (first, web4, world, web4, Some("10.1.0.5")),
        (router, v4, world, v4, Some("203.0.113.9")),
        (router, v6, world, v6, Some("2001:db8:77::9")),
        (first, v4, world, v4, Some("10.1.0.5")),
        (first, v6, world, v6, Some("2001:db8:1::5")),
    ])
}

/// A connection that runs keeps its translation when the entry is taken away; a new one has none.
fn kept(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first) = (&net.world, &net.first);
    let mut wrong = String::new();
    for (called, server) in [
        ("192.0.2.1:80", "10.1.0.5:8080"),
        ("[2001:db8::1]:80", "[2001:db8:1::5]:8080"),
    ] {
        net.load(backend, WEB)?;
        let servers = [Listener::new(first, address(server)?)?];
        let connected = connect_to_one(world, address(called)?, &servers)?;
        let (connection, _) = connected.map_err(|reply| format!("{called}: {reply}"))?;
        drop(servers);
        net.load(backend, "[[rules]]\nfrom = \"lan\"\nto = \"wan\"\n")?;
        let replies = (connection.talk()?, connection.talk_back()?);
        if replies != (Reply::Answer, Reply::Answer) {
            let _ = writeln!(
                wrong,
                "{called}: {replies:?} after the entry was taken away"
            );
        }
        drop(connection);
        let again = address(server)?.port() + 1;
        let server = SocketAddr::new(address(server)?.ip(), again).to_string();
        wrong += &call(&[(world, called, first, &server, None)])?;
    }
    Ok(wrong)
}

/// What the lan calls in the world is answered by the router, and only what was redirected gets to the proxy.
fn redirect(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, guest) = (&net.router, &net.world, &net.first, &net.guest);
    net.load(
        backend,
        r#"
[[nat]]
type = "redirect"
from = "lan"
service = "http"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3128
[[rules]]
from = ["lan", "guests"]
to = "wan"
"#,
    )?;
    let [proxy, proxy6] = ["0.0.0.0:3128", "[::]:3128"];
    let [v4, v6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let (other, direct) = ("192.0.2.9:81", "10.1.0.1:3128");
    let mut wrong = call(&[
        (first, v4, router, proxy, Some("10.1.0.5")),
        (first, v6, router, proxy6, Some("2001:db8:1::5")),
        (guest, v4, world, v4, Some("10.2.0.7")),
        (first, other, world, other, Some("10.1.0.5")),
        (first, direct, router, direct, None),
        (world, "192.0.2.1:80", router, proxy, None),
    ])?;
    // Without `destination` the router's own addresses are meant.
    net.load(
        backend,
        "[[nat]]\ntype = \"redirect\"\nfrom = \"wan\"\nservice = \"http\"\nto-port = 3128\n",
    )?;
    wrong += &call(&[
        (world, "192.0.2.1:80", router, proxy, Some("192.0.2.9")),
        (
            world,
            "[2001:db8::1]:80",
            router,
            proxy6,
            Some("2001:db8::9"),
        ),
        (world, "10.1.0.5:80", router, proxy, None),
    ])?;
    Ok(wrong)
}

/// A prefix in the place of another, both ways, with the last bits as they were.
fn netmap(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first, second) = (&net.world, &net.first, &net.second);
    net.world.ip([
        "route add 10.77.0.0/24 via 192.0.2.1",
        "route add 2001:db8:77::/64 via 2001:db8::1",
    ])?;
    let mut entries = String::new();
    for (outside, inside) in [
        ("10.77.0.0/24", "10.1.0.0/24"),
        ("2001:db8:77::/64", "2001:db8:1::/64"),
    ] {
        let _ = write!(
            entries,
            r#"
[[nat]]
type = "netmap"
from = "wan"
destination = "{outside}"
to = "{inside}"
[[nat]]
type = "netmap"
source = "{inside}"
to = "wan"
to-source = "{outside}"
"#
        );
    }
    let rules = r#"
[[rules]]
from = "lan"
to = "wan"
[[rules]]
from = "wan"
to = "lan"
destination = ["10.1.0.6", "2001:db8:1::6"]
"#;
    net.load(backend, &format!("{entries}{rules}"))?;
    let [v4, v6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let [second4, second6] = ["10.1.0.6:80", "[2001:db8:1::6]:80"];
    call(&[
        (first, v4, world, v4, Some("10.77.0.5")),
        (second, v4, world, v4, Some("10.77.0.6")),
        (first, v6, world, v6, Some("2001:db8:77::5")),
        (world, "10.77.0.6:80", second, second4, Some("192.0.2.9")),
        (
            world,
            "[2001:db8:77::6]:80",
            second,
            second6,
            Some("2001:db8::9"),
        ),
        // It is the rules that say who may come.
        (world, "10.77.0.5:80", first, "10.1.0.5:80", None),
    ])
}

//! Entries that change the destination of what comes.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Network, address, call, send, turns};
use crate::support::network::{Listener, Reply, connect_to_one, ping};
use crate::support::tools::Backend;

const WEB: &str = r#"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = ["http", "53/udp"]
to-destination = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"]
"#;

/// The port arrives at the backend, as who called; its own address stays shut, and other addresses are not meant.
pub(super) fn dnat(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn hairpin(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn backends(net: &Network, backend: Backend) -> Result<String, String> {
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

/// Each port of a range becomes the one at its place in the other.
pub(super) fn port_range(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn backends_and_range(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn whole_address(net: &Network, backend: Backend) -> Result<String, String> {
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

/// A connection that runs keeps its translation when the entry is taken away; a new one has none.
pub(super) fn kept(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn redirect(net: &Network, backend: Backend) -> Result<String, String> {
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

/// A group stands for its address of each family; a random port is any of the range.
pub(super) fn of_a_group(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first) = (&net.world, &net.first);
    net.load(
        backend,
        r#"
[addresses]
web = ["10.1.0.5", "2001:db8:1::5"]
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = "https"
to-destination = "web:8443"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = "http"
to-destination = "web:8080-8082"
random = true
"#,
    )?;
    let mut wrong = call(&[
        (
            world,
            "192.0.2.1:443",
            first,
            "10.1.0.5:8443",
            Some("192.0.2.9"),
        ),
        (
            world,
            "[2001:db8::1]:443",
            first,
            "[2001:db8:1::5]:8443",
            Some("2001:db8::9"),
        ),
    ])?;
    for (called, inside) in [
        ("192.0.2.1:80", "10.1.0.5"),
        ("[2001:db8::1]:80", "[2001:db8:1::5]"),
    ] {
        let servers: Result<Vec<_>, String> = (8080..=8082)
            .map(|port| Listener::new(first, address(&format!("{inside}:{port}"))?))
            .collect();
        let servers = servers?;
        for _ in 0..4 {
            if let Err(reply) = connect_to_one(world, address(called)?, &servers)? {
                let _ = writeln!(wrong, "{called}: {reply}");
            }
        }
    }
    Ok(wrong)
}

/// Only packets with the mark, the user, the MAC address or the flags of an entry are translated. What was translated is
/// accepted without them: a reply has none.
pub(super) fn more_keys(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, second) = (&net.router, &net.world, &net.first, &net.second);
    second.ip(["link set eth0 address 02:00:5e:10:00:06"])?;
    second.ip([
        "route replace default via 10.1.0.1",
        "route replace ::/0 via 2001:db8:1::1",
    ])?;
    net.load(
        backend,
        r#"
[[mangle]]
type = "mark"
from = "wan"
service = "8443/tcp"
set = "0x10/0x10"
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
mark = "0x10/0x10"
tcp-flags = "syn/syn,ack"
service = ["8443/tcp", "8080/tcp"]
to-destination = ["10.1.0.5:443", "[2001:db8:1::5]:443"]
[[nat]]
type = "redirect"
from = "host"
user = 0
service = "http"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3128
[[nat]]
type = "redirect"
from = "host"
group = 77
service = "https"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3129
[[nat]]
type = "redirect"
from = "lan"
mac = "02:00:5e:10:00:06"
service = "http"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3128
[[nat]]
type = "masquerade"
to = "wan"
service = "https"
user = 0
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [app4, app6] = ["10.1.0.5:443", "[2001:db8:1::5]:443"];
    let [web4, web6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let [other4, other6] = ["192.0.2.9:443", "[2001:db8::9]:443"];
    call(&[
        (world, "192.0.2.1:8443", first, app4, Some("192.0.2.9")),
        (
            world,
            "[2001:db8::1]:8443",
            first,
            app6,
            Some("2001:db8::9"),
        ),
        // Without the mark.
        (world, "192.0.2.1:8080", first, app4, None),
        (world, "[2001:db8::1]:8080", first, app6, None),
        (router, web4, router, "0.0.0.0:3128", Some("192.0.2.1")),
        (router, web6, router, "[::]:3128", Some("2001:db8::1")),
        // Of another group.
        (router, other4, world, other4, Some("192.0.2.1")),
        (router, other6, world, other6, Some("2001:db8::1")),
        (second, web4, router, "0.0.0.0:3128", Some("10.1.0.6")),
        (second, web6, router, "[::]:3128", Some("2001:db8:1::6")),
        // From another MAC address.
        (first, web4, world, web4, Some("10.1.0.5")),
        (first, web6, world, web6, Some("2001:db8:1::5")),
        // Only what this host sends.
        (first, other4, world, other4, Some("10.1.0.5")),
    ])
}

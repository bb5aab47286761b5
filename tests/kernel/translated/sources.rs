//! Entries that change the source of what leaves, and those that exchange a prefix.

use std::fmt::Write as _;

use super::{Network, address, call, send};
use crate::support::network::{Listener, connect_to_one};
use crate::support::tools::Backend;

/// The lan leaves as the router, over IPv4 and, where it says so, over IPv6; nobody else does, and not by other ways.
pub(super) fn masquerade(net: &Network, backend: Backend) -> Result<String, String> {
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
pub(super) fn snat(net: &Network, backend: Backend) -> Result<String, String> {
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

/// All but some, and an entry that is switched off in front.
pub(super) fn all_but(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first, second) = (&net.world, &net.first, &net.second);
    net.world.ip([
        "route add 203.0.113.0/24 via 192.0.2.1",
        "addr add 192.0.2.8/24 dev eth0",
    ])?;
    net.load(
        backend,
        r#"
[[nat]]
enabled = false
type = "masquerade"
from = "lan"
to = "wan"
[[nat]]
name = "as one address"
comment = "since the move"
type = "snat"
source = { not = ["10.1.0.6", "10.2.0.0/24"] }
destination = { not = ["192.0.2.8", "198.51.100.0/24"] }
to = "wan"
to-source = "203.0.113.6"
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [v4, other, v6] = ["192.0.2.9:80", "192.0.2.8:80", "[2001:db8::9]:80"];
    call(&[
        (first, v4, world, v4, Some("203.0.113.6")),
        (first, other, world, other, Some("10.1.0.5")),
        (second, v4, world, v4, Some("10.1.0.6")),
        (first, v6, world, v6, Some("2001:db8:1::5")),
    ])
}

/// What the router itself sends, by `from = "host"` or its addresses, and nothing of others.
pub(super) fn of_this_host(net: &Network, backend: Backend) -> Result<String, String> {
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

/// What is translated of what the router sends passes a closed OUTPUT, and INPUT where it comes back, `lo` closed or not; it
/// leaves by another device than the one that it wanted to.
pub(super) fn where_output_denies(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first) = (&net.router, &net.world, &net.first);
    router.ip([
        "route add 203.0.113.0/24 via 192.0.2.9",
        "route add 2001:db8:77::/64 via 2001:db8::9",
    ])?;
    let [web4, web6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let [other4, other6] = ["192.0.2.9:443", "[2001:db8::9]:443"];
    let [app4, app6] = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"];
    let mut wrong = String::new();
    for loopback in [true, false] {
        net.load(
            backend,
            &format!(
                r#"
[defaults]
output = "drop"
loopback = {loopback}
[[nat]]
type = "dnat"
from = "host"
to = "lan"
destination = ["203.0.113.80", "2001:db8:77::80"]
service = "http"
to-destination = ["10.1.0.5:8080", "[2001:db8:1::5]:8080"]
[[nat]]
type = "redirect"
from = "host"
destination = ["0.0.0.0/0", "::/0"]
service = "http"
to-port = 3128
"#
            ),
        )?;
        wrong += &call(&[
            (router, web4, router, "0.0.0.0:3128", Some("192.0.2.1")),
            (router, web6, router, "[::]:3128", Some("2001:db8::1")),
            (router, "203.0.113.80:80", first, app4, Some("192.0.2.1")),
            (
                router,
                "[2001:db8:77::80]:80",
                first,
                app6,
                Some("2001:db8::1"),
            ),
            // Not translated, so the default decides.
            (router, other4, world, other4, None),
            (router, other6, world, other6, None),
            (router, app4, first, app4, None),
            (router, app6, first, app6, None),
        ])?;
    }
    Ok(wrong)
}

/// A prefix in the place of another, both ways, with the last bits as they were.
pub(super) fn netmap(net: &Network, backend: Backend) -> Result<String, String> {
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

/// What an entry in front exempts keeps its address, on its side only: the other side is still translated.
pub(super) fn untranslated(net: &Network, backend: Backend) -> Result<String, String> {
    let (router, world, first, second) = (&net.router, &net.world, &net.first, &net.second);
    world.ip([
        "addr add 192.0.2.8/24 dev eth0",
        "addr add 2001:db8::8/64 dev eth0 nodad",
    ])?;
    net.load(
        backend,
        r#"
[[nat]]
type = "no-snat"
to = "wan"
destination = ["192.0.2.8", "2001:db8::8"]
[[nat]]
type = "masquerade"
scope = "dual"
from = "lan"
to = "wan"
[[nat]]
type = "no-dnat"
from = "lan"
source = ["10.1.0.6", "2001:db8:1::6"]
service = "http"
[[nat]]
type = "redirect"
from = "lan"
service = "http"
destination = ["0.0.0.0/0", "::/0"]
to-port = 3128
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [v4, v6] = ["192.0.2.9:443", "[2001:db8::9]:443"];
    let [other4, other6] = ["192.0.2.8:443", "[2001:db8::8]:443"];
    let [web4, web6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    call(&[
        (first, v4, world, v4, Some("192.0.2.1")),
        (first, v6, world, v6, Some("2001:db8::1")),
        (first, other4, world, other4, Some("10.1.0.5")),
        (first, other6, world, other6, Some("2001:db8:1::5")),
        (first, web4, router, "0.0.0.0:3128", Some("10.1.0.5")),
        (first, web6, router, "[::]:3128", Some("2001:db8:1::5")),
        (second, web4, world, web4, Some("192.0.2.1")),
        (second, web6, world, web6, Some("2001:db8::1")),
    ])
}

/// The new source port is one of those that the entry names, chosen at random or not.
pub(super) fn source_ports(net: &Network, backend: Backend) -> Result<String, String> {
    let (world, first, second) = (&net.world, &net.first, &net.second);
    world.ip([
        "route add 203.0.113.0/24 via 192.0.2.1",
        "route add 2001:db8:77::/64 via 2001:db8::1",
    ])?;
    net.load(
        backend,
        r#"
[addresses]
outside = ["203.0.113.5", "2001:db8:77::5"]
[[nat]]
type = "snat"
source = ["10.1.0.6", "2001:db8:1::6"]
to = "wan"
service = ["1-65535/tcp", "1-65535/udp"]
to-source = "outside"
ports = "50000-50999"
random = true
[[nat]]
type = "masquerade"
scope = "dual"
from = "lan"
to = "wan"
service = "1-65535/tcp"
ports = "40000-40999"
random = true
[[rules]]
from = "lan"
to = "wan"
"#,
    )?;
    let [v4, v6] = ["192.0.2.9:80", "[2001:db8::9]:80"];
    let mut wrong = String::new();
    for (client, called, wanted, ports) in [
        (first, v4, "192.0.2.1", 40000..=40999),
        (first, v6, "2001:db8::1", 40000..=40999),
        (second, v4, "203.0.113.5", 50000..=50999),
        (second, v6, "2001:db8:77::5", 50000..=50999),
    ] {
        let servers = [Listener::new(world, address(called)?)?];
        let connected = connect_to_one(client, address(called)?, &servers)?;
        let (connection, _) = connected.map_err(|reply| reply.to_string())?;
        let seen = connection.seen()?;
        if seen.ip().to_string() != wanted || !ports.contains(&seen.port()) {
            let _ = writeln!(wrong, "{called} saw {seen}, wanted {wanted} and {ports:?}");
        }
    }
    Ok(wrong)
}

//! What `[[nat]]` does to real connections: where they arrive, and as whose, seen at the other end.

mod destinations;
mod sources;

use std::fmt::Write as _;
use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::compile::rules_of;
use crate::environment::tests_with_each_backend;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Listener, Reply, connect_to_one, expecting, link, udp_by_way};
use crate::support::tools::Backend;

/// One test for each subject and backend.
pub fn all() -> Vec<Trial> {
    type Body = fn(&Network, Backend) -> Result<String, String>;
    let tests: [(&str, Body); 18] = [
        ("masquerade", sources::masquerade),
        ("snat", sources::snat),
        ("dnat", destinations::dnat),
        ("hairpin", destinations::hairpin),
        ("backends", destinations::backends),
        ("port-range", destinations::port_range),
        ("backends-and-range", destinations::backends_and_range),
        ("whole-address", destinations::whole_address),
        ("of-this-host", sources::of_this_host),
        (
            "of-this-host-where-output-denies",
            sources::where_output_denies,
        ),
        ("all-but", sources::all_but),
        ("kept", destinations::kept),
        ("redirect", destinations::redirect),
        ("netmap", sources::netmap),
        ("untranslated", sources::untranslated),
        ("source-ports", sources::source_ports),
        ("of-a-group", destinations::of_a_group),
        ("more-keys", destinations::more_keys),
    ];
    let tests = tests.map(|(name, body)| {
        let in_a_network = move |backend: Backend| body(&Network::new()?, backend);
        (name, in_a_network)
    });
    tests_with_each_backend("translated", tests)
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
        let called_address = address(called)?;
        let connected = expecting(answer_to(*wanted), || {
            connect_to_one(from, called_address, &servers)
        });
        let found = match connected {
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
        let (address, listening_at) = (address(called)?, address(listening)?);
        let answer = answer_to(*wanted);
        let (reply, seen) = expecting(answer, || udp_by_way(from, address, to, listening_at))?;
        let found = seen.map(|seen| seen.ip().to_string());
        if found.as_deref() != *wanted || reply != answer {
            let _ = writeln!(
                wrong,
                "udp {called} to {listening}: wanted {wanted:?}, found {found:?} and {reply}"
            );
        }
    }
    Ok(wrong)
}

/// What a caller hears whom the server is to see, or not.
fn answer_to(wanted: Option<&str>) -> Reply {
    match wanted {
        Some(_) => Reply::Answer,
        None => Reply::Silence,
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("address {text}"))
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

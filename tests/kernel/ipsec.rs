//! Zones with `ipsec`, asked by real packets: the same connections in the clear and in ESP between two hosts.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use fwc::net::Family;
use libtest_mimic::{Completion, Failed, Trial};

use crate::compile::rules_of;
use crate::environment::kernel_test;
use crate::support::namespace::Namespace;
use crate::support::network::{End, Reply, expecting, link, tcp};
use crate::support::tools::Backend;

/// `ssh` and `25/tcp` need IPsec, `http` and `587/tcp` need that there is none.
const POLICY: &str = r#"version = 1

[defaults]
output = "drop"

[interfaces]
wan = "eth0"

[zones]
tunnel = { interfaces = "wan", ipsec = true }
clear = { interfaces = "wan", ipsec = false }

[[rules]]
name = "the encrypted packets themselves"
from = ["wan", "host"]
to = ["host", "wan"]
service = "esp"

[[rules]]
from = "tunnel"
service = "ssh"

[[rules]]
from = "!tunnel"
service = "http"

[[rules]]
from = "host"
to = "tunnel"
service = "25/tcp"

[[rules]]
from = "host"
to = "clear"
service = "587/tcp"
"#;

/// The addresses of this host and of its peer.
fn ends(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["198.51.100.1", "198.51.100.2"],
        Family::V6 => ["2001:db8::1", "2001:db8::2"],
    }
}

/// One test for each backend and family.
pub fn all() -> Vec<Trial> {
    let places = Backend::ALL
        .into_iter()
        .flat_map(|backend| Family::ALL.map(|family| (backend, family)));
    let tests = places.map(|(backend, family)| {
        let name = format!("ipsec::{backend}-{}", family.keyword());
        kernel_test(name, backend, move || run(backend, family))
    });
    tests.collect()
}

fn run(backend: Backend, family: Family) -> Result<Completion, Failed> {
    let (host, peer) = (Namespace::new()?, Namespace::new()?);
    let length = match family {
        Family::V4 => 24,
        Family::V6 => 64,
    };
    let [own, other] = ends(family);
    link(
        &End(&host, "eth0", &[&format!("{own}/{length}")]),
        &End(&peer, "eth0", &[&format!("{other}/{length}")]),
    )?;
    let states = states(family);
    // Netfilter alone is not enough here.
    if let Err(reason) = host.ip(&states) {
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        return Ok(Completion::ignored_with(format!(
            "the kernel has no ESP: {reason}"
        )));
    }
    peer.ip(&states)?;
    host.restore(backend, family, &[], &rules_of(POLICY)?[family])?;

    let mut wrong = connections("in the clear", [&host, &peer], family, false)?;
    host.ip(policies([own, other]))?;
    peer.ip(policies([other, own]))?;
    wrong += &connections("in ESP", [&host, &peer], family, true)?;
    match wrong.is_empty() {
        true => Ok(Completion::Completed),
        false => Err(wrong.into()),
    }
}

/// A state with fixed keys for each direction.
fn states(family: Family) -> Vec<String> {
    let [own, other] = ends(family);
    let state = |source: &str, destination: &str, spi: u32| {
        let (cipher, hash) = ("1".repeat(32), "2".repeat(64));
        format!(
            "xfrm state add src {source} dst {destination} proto esp spi {spi} reqid 1 mode transport \
             enc cbc(aes) 0x{cipher} auth-trunc hmac(sha256) 0x{hash} 128"
        )
    };
    vec![state(own, other, 257), state(other, own, 258)]
}

/// All TCP between the hosts goes through ESP, as one of them sees it.
fn policies([own, other]: [&str; 2]) -> Vec<String> {
    let policy = |source: &str, destination: &str, direction: &str| {
        format!(
            "xfrm policy add src {source} dst {destination} proto tcp dir {direction} \
             tmpl src {source} dst {destination} proto esp reqid 1 mode transport"
        )
    };
    vec![policy(own, other, "out"), policy(other, own, "in")]
}

/// Opens a connection to each port, and returns what is wrong, a line each.
fn connections(
    how: &str,
    [host, peer]: [&Namespace; 2],
    family: Family,
    is_encrypted: bool,
) -> Result<String, String> {
    let [own, other] = ends(family).map(|address| address.parse::<IpAddr>());
    let [own, other] = [own, other].map(|address| address.map_err(|error| error.to_string()));
    let (own, other) = (own?, other?);
    let cases = [
        (peer, host, own, 22, is_encrypted),
        (peer, host, own, 80, !is_encrypted),
        (host, peer, other, 25, is_encrypted),
        (host, peer, other, 587, !is_encrypted),
    ];
    let mut wrong = String::new();
    for (from, to, address, port, passes) in cases {
        let wanted = match passes {
            true => Reply::Answer,
            false => Reply::Silence,
        };
        let found = expecting(wanted, || tcp(from, to, SocketAddr::new(address, port)))?;
        if found != wanted {
            let _ = writeln!(wrong, "port {port} {how}: expected {wanted}, found {found}");
        }
    }
    Ok(wrong)
}

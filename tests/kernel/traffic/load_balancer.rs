//! `examples/load-balancer`: each server gets its turn, and nobody gets past the address of the site.

use super::Service::{Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::network::{End, link};
use crate::support::tools::Backend;
use crate::translated::{call, turns};

pub fn load_balancer(backend: Backend) -> Result<String, String> {
    let (balancer, world) = (Namespace::new()?, Namespace::new()?);
    let (servers, admin) = (Namespace::new()?, Namespace::new()?);
    link(
        &End(&balancer, "eth0", &["192.0.2.10/24", "2001:db8:9::10/64"]),
        &End(&world, "eth0", &["192.0.2.9/24", "2001:db8:9::9/64"]),
    )?;
    // Three servers as three addresses of one host.
    let mut addresses = Vec::new();
    for number in 11..=13 {
        addresses.push(format!("10.4.0.{number}/24"));
        addresses.push(format!("2001:db8:4::{number}/64"));
    }
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    link(
        &End(&balancer, "eth1", &["10.4.0.1/24", "2001:db8:4::1/64"]),
        &End(&servers, "eth0", &addresses),
    )?;
    link(
        &End(&balancer, "eth2", &["10.5.0.1/24", "2001:db8:5::1/64"]),
        &End(&admin, "eth0", &["10.5.0.9/24", "2001:db8:5::9/64"]),
    )?;
    balancer.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (host, v4, v6) in [
        (&world, "192.0.2.10", "2001:db8:9::10"),
        (&servers, "10.4.0.1", "2001:db8:4::1"),
        (&admin, "10.5.0.1", "2001:db8:5::1"),
    ] {
        host.ip([
            format!("route add default via {v4}"),
            format!("route add ::/0 via {v6}"),
        ])?;
    }
    let mut wrong = ask(&[(&world, &servers, "10.4.0.11", Tcp(8080), Answer)])?;

    load(&balancer, backend, "load-balancer/fwc.toml")?;
    for (called, port) in [(80, 8080), (443, 8443)] {
        for (site, network, seen) in [
            ("192.0.2.10", "10.4.0.", "192.0.2.9"),
            ("[2001:db8:9::10]", "[2001:db8:4::", "2001:db8:9::9"),
        ] {
            let end = if site.starts_with('[') { "]" } else { "" };
            let listening = [11, 12, 13].map(|number| format!("{network}{number}{end}:{port}"));
            let listening: Vec<_> = listening.iter().map(|at| (&servers, at.as_str())).collect();
            wrong += &turns(&world, &format!("{site}:{called}"), &listening, seen)?;
        }
    }
    for [outside, server, here, desk] in [
        ["192.0.2.9", "10.4.0.12", "10.5.0.1", "10.5.0.9"],
        [
            "2001:db8:9::9",
            "2001:db8:4::12",
            "2001:db8:5::1",
            "2001:db8:5::9",
        ],
    ] {
        wrong += &ask(&[
            (&world, &servers, server, Tcp(8080), Silence),
            (&world, &servers, server, Tcp(22), Silence),
            (&admin, &servers, server, Tcp(22), Answer),
            (&admin, &balancer, here, Tcp(22), Answer),
            (&servers, &admin, desk, Tcp(22), Silence),
            (&servers, &world, outside, Udp(53), Answer),
            (&servers, &world, outside, Tcp(25), Silence),
        ])?;
    }
    let [v4, v6] = ["192.0.2.9:443", "[2001:db8:9::9]:443"];
    wrong += &call(&[
        (&servers, v4, &world, v4, Some("192.0.2.10")),
        (&servers, v6, &world, v6, Some("2001:db8:9::10")),
    ])?;
    Ok(wrong)
}

//! `examples/home-router`: one address for all, one server behind it, and guests who see no more than the world does.

use super::Service::{Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::network::{End, link};
use crate::support::tools::Backend;
use crate::translated::call;

pub fn home_router(backend: Backend) -> Result<String, String> {
    let (router, world, guest) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let (switch, server, lan) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    link(
        &End(&router, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        &End(&world, "eth0", &["192.0.2.9/24", "2001:db8::9/64"]),
    )?;
    link(
        &End(&router, "eth2", &["192.168.20.1/24", "2001:db8:2::1/64"]),
        &End(&guest, "eth0", &["192.168.20.7/24", "2001:db8:2::7/64"]),
    )?;
    switch.ip(["link add lan type bridge", "link set lan up"])?;
    for (port, host, device, addresses) in [
        (
            "port1",
            &router,
            "eth1",
            ["192.168.1.1/24", "2001:db8:1::1/64"],
        ),
        (
            "port2",
            &server,
            "eth0",
            ["192.168.1.80/24", "2001:db8:1::80/64"],
        ),
        (
            "port3",
            &lan,
            "eth0",
            ["192.168.1.9/24", "2001:db8:1::9/64"],
        ),
    ] {
        link(&End(host, device, &addresses), &End(&switch, port, &[]))?;
        switch.ip([format!("link set {port} master lan")])?;
    }
    router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (host, v4, v6) in [
        (&world, "192.0.2.1", "2001:db8::1"),
        (&server, "192.168.1.1", "2001:db8:1::1"),
        (&lan, "192.168.1.1", "2001:db8:1::1"),
        (&guest, "192.168.20.1", "2001:db8:2::1"),
    ] {
        host.ip([
            format!("route add default via {v4}"),
            format!("route add ::/0 via {v6}"),
        ])?;
    }
    let mut wrong = ask(&[
        (&world, &lan, "192.168.1.9", Tcp(22), Answer),
        (&guest, &lan, "192.168.1.9", Tcp(22), Answer),
    ])?;

    load(&router, backend, "home-router/fwc.toml")?;
    let [out4, out6] = ["192.0.2.9:443", "[2001:db8::9]:443"];
    let [web4, web6] = ["192.168.1.80:443", "[2001:db8:1::80]:443"];
    let public = "192.0.2.1:443";
    wrong += &call(&[
        (&lan, out4, &world, out4, Some("192.0.2.1")),
        (&guest, out4, &world, out4, Some("192.0.2.1")),
        (&lan, out6, &world, out6, Some("2001:db8:1::9")),
        (&guest, out6, &world, out6, Some("2001:db8:2::7")),
        (&world, public, &server, web4, Some("192.0.2.9")),
        (&guest, public, &server, web4, Some("192.168.20.7")),
        (&lan, public, &server, web4, Some("192.168.1.1")),
        (&server, public, &server, web4, Some("192.168.1.1")),
        (&world, web6, &server, web6, Some("2001:db8::9")),
        (&guest, web6, &server, web6, Some("2001:db8:2::7")),
    ])?;
    wrong += &ask(&[
        (&world, &server, "192.168.1.80", Tcp(443), Silence),
        (&guest, &server, "192.168.1.80", Tcp(443), Silence),
        (&guest, &lan, "192.168.1.9", Tcp(22), Silence),
        (&guest, &lan, "2001:db8:1::9", Tcp(80), Silence),
        (&guest, &server, "2001:db8:1::80", Tcp(22), Silence),
        (&world, &lan, "2001:db8:1::9", Tcp(80), Silence),
        (&world, &guest, "192.168.20.7", Tcp(80), Silence),
        (&lan, &router, "192.168.1.1", Tcp(22), Answer),
        (&guest, &router, "192.168.20.1", Tcp(22), Silence),
        (&world, &router, "192.0.2.1", Tcp(22), Silence),
        (&guest, &router, "192.168.20.1", Udp(53), Answer),
        (&world, &router, "192.0.2.1", Udp(53), Silence),
    ])?;
    Ok(wrong)
}

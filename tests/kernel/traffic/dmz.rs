//! `examples/dmz`: who may talk to whom across a router, and who lies about where it is.

use super::Service::{Ping, Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::network::{End, link};
use crate::support::tools::Backend;

pub fn dmz(backend: Backend) -> Result<String, String> {
    let (router, world, lan) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let (dmz, vpn, liar) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let dmz_addresses = [
        "10.2.0.80/24",
        "10.2.0.25/24",
        "2001:db8:2::80/64",
        "2001:db8:2::25/64",
    ];
    link(
        &End(&router, "eth0", &["192.0.2.1/24", "2001:db8:9::1/64"]),
        &End(&world, "eth0", &["192.0.2.2/24", "2001:db8:9::2/64"]),
    )?;
    link(
        &End(&router, "eth1", &["10.1.0.1/24", "2001:db8:1::1/64"]),
        &End(&lan, "eth0", &["10.1.0.9/24", "2001:db8:1::9/64"]),
    )?;
    link(
        &End(&router, "eth2", &["10.2.0.1/24", "2001:db8:2::1/64"]),
        &End(&dmz, "eth0", &dmz_addresses),
    )?;
    link(
        &End(&router, "wg0", &["10.3.0.1/24", "2001:db8:3::1/64"]),
        &End(&vpn, "eth0", &["10.3.0.9/24", "2001:db8:3::9/64"]),
    )?;
    // Behind a tunnel, and says to be from the lan; answers find the way to it.
    link(
        &End(&router, "wg1", &["10.3.9.1/24"]),
        &End(&liar, "eth0", &["10.1.0.200/32"]),
    )?;
    router.ip(["route add 10.1.0.200/32 dev wg1"])?;
    liar.ip([
        "route add 10.3.9.1 dev eth0",
        "route add default via 10.3.9.1",
    ])?;
    router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (host, v4, v6) in [
        (&world, "192.0.2.1", "2001:db8:9::1"),
        (&lan, "10.1.0.1", "2001:db8:1::1"),
        (&dmz, "10.2.0.1", "2001:db8:2::1"),
        (&vpn, "10.3.0.1", "2001:db8:3::1"),
    ] {
        host.ip([
            format!("route add default via {v4}"),
            format!("route add ::/0 via {v6}"),
        ])?;
    }
    let mut wrong = ask(&[
        (&dmz, &lan, "10.1.0.9", Tcp(22), Answer),
        (&liar, &dmz, "10.2.0.80", Tcp(80), Answer),
    ])?;

    load(&router, backend, "dmz/fwc.toml")?;
    for [web, mail, inside, outside, here] in [
        [
            "10.2.0.80",
            "10.2.0.25",
            "10.1.0.9",
            "192.0.2.2",
            "10.1.0.1",
        ],
        [
            "2001:db8:2::80",
            "2001:db8:2::25",
            "2001:db8:1::9",
            "2001:db8:9::2",
            "2001:db8:1::1",
        ],
    ] {
        wrong += &ask(&[
            (&world, &dmz, web, Tcp(80), Answer),
            (&world, &dmz, web, Tcp(443), Answer),
            (&world, &dmz, web, Tcp(25), Silence),
            (&world, &dmz, web, Tcp(22), Silence),
            (&world, &dmz, mail, Tcp(25), Answer),
            (&world, &dmz, mail, Tcp(80), Silence),
            (&world, &lan, inside, Tcp(80), Silence),
            (&world, &lan, inside, Ping, Silence),
            (&lan, &dmz, web, Tcp(443), Answer),
            (&lan, &dmz, mail, Tcp(22), Answer),
            (&lan, &dmz, mail, Tcp(25), Silence),
            (&lan, &world, outside, Udp(4000), Answer),
            (&lan, &router, here, Tcp(22), Answer),
            (&dmz, &lan, inside, Tcp(22), Silence),
            (&dmz, &world, outside, Udp(53), Answer),
            (&dmz, &world, outside, Tcp(443), Silence),
        ])?;
    }
    wrong += &ask(&[
        (&dmz, &router, "10.2.0.1", Tcp(22), Silence),
        (&world, &router, "192.0.2.1", Tcp(22), Silence),
        (&vpn, &dmz, "10.2.0.80", Tcp(80), Answer),
        (&vpn, &world, "192.0.2.2", Tcp(443), Answer),
        // The tunnel carries no IPv6.
        (&vpn, &dmz, "2001:db8:2::80", Tcp(80), Silence),
        (&liar, &dmz, "10.2.0.80", Tcp(80), Silence),
    ])?;
    // A zone in `from` is the host, not the device alone.
    router.ip(["route add 198.51.100.25/32 via 192.0.2.2"])?;
    world.ip(["addr add 198.51.100.25/32 dev lo"])?;
    dmz.ip(["route add 198.51.100.25/32 via 10.2.0.1 src 10.2.0.25"])?;
    wrong += &ask(&[(&dmz, &world, "198.51.100.25", Tcp(25), Answer)])?;
    dmz.ip(["route change 198.51.100.25/32 via 10.2.0.1 src 10.2.0.80"])?;
    wrong += &ask(&[(&dmz, &world, "198.51.100.25", Tcp(25), Silence)])?;
    Ok(wrong)
}

//! `examples/vpn-gateway`: peers of a tunnel (two veths stand in for WireGuard's devices) in the office and out in the world.

use super::Service::{Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{self, Answer, Silence};
use crate::support::network::{End, connect, link};
use crate::support::tools::Backend;
use crate::translated::call;

const OUT4: &str = "192.0.2.9:80";
const OUT6: &str = "[2001:db8::9]:80";

pub fn vpn_gateway(backend: Backend) -> Result<String, String> {
    let (gateway, world) = (Namespace::new()?, Namespace::new()?);
    let (office, peer) = (Namespace::new()?, Namespace::new()?);
    for (device, own, host, its) in [
        (
            "eth0",
            ["192.0.2.1/24", "2001:db8::1/64"],
            &world,
            ["192.0.2.9/24", "2001:db8::9/64"],
        ),
        (
            "eth1",
            ["10.0.0.1/24", "2001:db8:1::1/64"],
            &office,
            ["10.0.0.5/24", "2001:db8:1::5/64"],
        ),
        (
            "wg0",
            ["10.99.0.1/24", "fd12:3456:99::1/64"],
            &peer,
            ["10.99.0.7/24", "fd12:3456:99::7/64"],
        ),
    ] {
        link(&End(&gateway, device, &own), &End(host, "eth0", &its))?;
    }
    // The tunnel of WireGuard carries so much over a wire of 1500 bytes. The peer does not know.
    gateway.ip(["link set wg0 mtu 1420"])?;
    gateway.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (host, v4, v6) in [
        (&world, "192.0.2.1", "2001:db8::1"),
        (&office, "10.0.0.1", "2001:db8:1::1"),
        (&peer, "10.99.0.1", "fd12:3456:99::1"),
    ] {
        host.ip([
            format!("route add default via {v4}"),
            format!("route add ::/0 via {v6}"),
        ])?;
    }
    let [out4, out6] = [OUT4, OUT6];
    let mut wrong = call(&[
        (&peer, out4, &world, out4, Some("10.99.0.7")),
        (&peer, out6, &world, out6, Some("fd12:3456:99::7")),
    ])?;
    wrong += &segments(&peer, &world, [1448, 1428])?;
    // An address of the tunnel that comes by the wire.
    world.ip(["addr add 10.99.0.8/32 dev lo"])?;
    gateway.ip(["route add 10.99.0.8/32 via 192.0.2.9"])?;
    let forged = |expected: Reply| -> Result<String, String> {
        world.ip(["route add 192.0.2.1/32 dev eth0 src 10.99.0.8"])?;
        let wrong = ask(&[(&world, &gateway, "192.0.2.1", Udp(51820), expected)])?;
        world.ip(["route del 192.0.2.1/32 dev eth0 src 10.99.0.8"])?;
        Ok(wrong)
    };
    wrong += &forged(Answer)?;

    load(&gateway, backend, "vpn-gateway/fwc.toml")?;
    let [work4, work6] = ["10.0.0.5:443", "[2001:db8:1::5]:443"];
    wrong += &call(&[
        (&peer, out4, &world, out4, Some("192.0.2.1")),
        (&peer, out6, &world, out6, Some("2001:db8::1")),
        (&peer, work4, &office, work4, Some("10.99.0.7")),
        (&peer, work6, &office, work6, Some("fd12:3456:99::7")),
        // The office has addresses of its own.
        (&office, out6, &world, out6, Some("2001:db8:1::5")),
    ])?;
    wrong += &ask(&[
        (&world, &gateway, "192.0.2.1", Udp(51820), Answer),
        (&world, &gateway, "2001:db8::1", Udp(51820), Answer),
        (&world, &gateway, "192.0.2.1", Tcp(22), Silence),
        (&world, &gateway, "2001:db8::1", Udp(53), Silence),
        (&peer, &gateway, "10.99.0.1", Udp(53), Answer),
        (&office, &gateway, "2001:db8:1::1", Tcp(22), Answer),
        (&peer, &office, "10.0.0.5", Tcp(80), Silence),
        (&peer, &office, "2001:db8:1::5", Udp(443), Silence),
        (&office, &peer, "10.99.0.7", Tcp(443), Silence),
        (&world, &office, "10.0.0.5", Tcp(443), Silence),
        (&world, &peer, "10.99.0.7", Tcp(443), Silence),
        (&world, &office, "2001:db8:1::5", Tcp(22), Silence),
    ])?;
    wrong += &forged(Silence)?;
    // 1420 bytes less the headers of IP and TCP, and 12 of timestamps.
    wrong += &segments(&peer, &world, [1368, 1348])?;
    Ok(wrong)
}

/// How many bytes the peer sends to the world in a segment: more than the tunnel carries, were it not told.
fn segments(peer: &Namespace, world: &Namespace, largest: [u32; 2]) -> Result<String, String> {
    let mut wrong = String::new();
    for (called, largest) in [OUT4, OUT6].into_iter().zip(largest) {
        let address = called.parse().map_err(|_| "an address".to_owned())?;
        let segment = match connect(None, peer, world, address)? {
            Ok(connection) => connection.segment()?,
            Err(reply) => return Err(format!("{called}: {reply}")),
        };
        if segment != largest {
            wrong += &format!("{called}: segments of {segment} bytes, and not of {largest}\n");
        }
    }
    Ok(wrong)
}

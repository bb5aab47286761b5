//! The examples that one begins with: a web server, a router, a bastion.

use super::Service::{Ping, Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Refusal, Silence};
use crate::support::network::{End, link};
use crate::support::tools::Backend;
use crate::translated::call;

pub fn web_server(backend: Backend) -> Result<String, String> {
    let (server, client) = (Namespace::new()?, Namespace::new()?);
    link(
        &End(&server, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        &End(&client, "eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
    )?;
    // Without rules the network itself works: what is silent later is silent because of them.
    let open = [
        (&client, &server, "192.0.2.1", Tcp(3306), Answer),
        (&client, &server, "2001:db8::1", Tcp(3306), Answer),
        (&client, &server, "192.0.2.1", Udp(80), Answer),
    ];
    let mut wrong = ask(&open)?;

    load(&server, backend, "web-server/fwc.toml")?;
    for (here, there) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        wrong += &ask(&[
            (&client, &server, here, Tcp(22), Answer),
            (&client, &server, here, Tcp(80), Answer),
            (&client, &server, here, Tcp(443), Silence),
            (&client, &server, here, Tcp(3306), Silence),
            (&client, &server, here, Udp(80), Silence),
            (&client, &server, here, Ping, Answer),
            (&server, &client, there, Tcp(8080), Answer),
            (&server, &client, there, Udp(53), Answer),
            (&server, &client, there, Ping, Answer),
            (&server, &server, here, Tcp(3307), Answer),
        ])?;
    }

    // Neighbour discovery: with forgotten neighbours the server is found again, and would not be without 135.
    let forget = ["neigh flush dev eth0"];
    let asks_ipv6 = |reply| [(&client, &server, "2001:db8::1", Ping, reply)];
    server.ip(forget)?;
    client.ip(forget)?;
    wrong += &ask(&asks_ipv6(Answer))?;
    let ip6tables = backend.tool(fwc::net::Family::V6, None);
    let no_solicitations = "-I INPUT 1 -p icmpv6 --icmpv6-type 135 -j DROP";
    let arguments: Vec<&str> = no_solicitations.split(' ').collect();
    server.run(&ip6tables, &arguments, "")?;
    server.ip(forget)?;
    client.ip(forget)?;
    wrong += &ask(&asks_ipv6(Silence))?;
    Ok(wrong)
}

pub fn router(backend: Backend) -> Result<String, String> {
    let (router, world, lan) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    link(
        &End(&router, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        &End(&world, "eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
    )?;
    link(
        &End(&router, "eth1", &["10.1.0.1/24", "2001:db8:1::1/64"]),
        &End(
            &lan,
            "eth0",
            &["10.1.0.9/24", "2001:db8:1::9/64", "2001:db8:1::80/64"],
        ),
    )?;
    router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    for (host, v4, v6) in [
        (&world, "192.0.2.1", "2001:db8::1"),
        (&lan, "10.1.0.1", "2001:db8:1::1"),
    ] {
        host.ip([
            format!("route add default via {v4}"),
            format!("route add ::/0 via {v6}"),
        ])?;
    }
    let mut wrong = ask(&[
        (&world, &lan, "10.1.0.9", Tcp(80), Answer),
        (&world, &lan, "2001:db8:1::80", Tcp(22), Answer),
    ])?;

    load(&router, backend, "router/fwc.toml")?;
    wrong += &ask(&[
        (&lan, &world, "192.0.2.2", Tcp(443), Answer),
        (&lan, &world, "2001:db8::2", Tcp(443), Answer),
        (&lan, &world, "192.0.2.2", Udp(4000), Answer),
        (&lan, &world, "192.0.2.2", Ping, Answer),
        (&lan, &world, "2001:db8::2", Ping, Answer),
        (&world, &lan, "10.1.0.9", Tcp(80), Silence),
        (&world, &lan, "10.1.0.9", Ping, Silence),
        (&world, &lan, "2001:db8:1::9", Tcp(80), Silence),
        (&world, &lan, "2001:db8:1::80", Tcp(80), Answer),
        (&world, &lan, "2001:db8:1::80", Tcp(443), Answer),
        (&world, &lan, "2001:db8:1::80", Tcp(22), Silence),
        (&lan, &router, "10.1.0.1", Tcp(22), Answer),
        (&lan, &router, "2001:db8:1::1", Udp(53), Answer),
        (&lan, &router, "10.1.0.1", Udp(123), Answer),
        (&lan, &router, "10.1.0.1", Tcp(80), Silence),
        (&world, &router, "192.0.2.1", Tcp(22), Silence),
        (&world, &router, "2001:db8::1", Udp(53), Silence),
        (&world, &router, "192.0.2.1", Ping, Answer),
        (&world, &router, "2001:db8::1", Ping, Answer),
        (&router, &world, "192.0.2.2", Tcp(80), Answer),
    ])?;
    let web = "192.0.2.2:80";
    wrong += &call(&[(&lan, web, &world, web, Some("192.0.2.1"))])?;
    Ok(wrong)
}

pub fn bastion(backend: Backend) -> Result<String, String> {
    let bastion = Namespace::new()?;
    let (office, world, inner) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let networks = [
        (
            &office,
            "eth0",
            ["203.0.113.1/24", "2001:db8:1::1/48"],
            ["203.0.113.9/24", "2001:db8:1::9/48"],
        ),
        (
            &world,
            "eth1",
            ["192.0.2.1/24", "2001:db8:2::1/48"],
            ["192.0.2.9/24", "2001:db8:2::9/48"],
        ),
        (
            &inner,
            "eth2",
            ["10.8.0.1/16", "2001:db8:8::1/48"],
            ["10.8.0.9/16", "2001:db8:8::9/48"],
        ),
    ];
    for (host, device, here, there) in networks {
        link(&End(&bastion, device, &here), &End(host, "eth0", &there))?;
    }
    let mut wrong = ask(&[
        (&world, &bastion, "192.0.2.1", Tcp(22), Answer),
        (&bastion, &inner, "10.8.0.9", Tcp(25), Answer),
    ])?;

    load(&bastion, backend, "bastion/fwc.toml")?;
    wrong += &ask(&[
        (&office, &bastion, "203.0.113.1", Tcp(22), Answer),
        (&office, &bastion, "2001:db8:1::1", Tcp(22), Answer),
        (&office, &bastion, "203.0.113.1", Tcp(80), Silence),
        (&world, &bastion, "192.0.2.1", Tcp(22), Silence),
        (&world, &bastion, "2001:db8:2::1", Tcp(22), Silence),
        (&world, &bastion, "192.0.2.1", Tcp(113), Refusal),
        (&world, &bastion, "2001:db8:2::1", Tcp(113), Refusal),
        (&world, &bastion, "192.0.2.1", Ping, Answer),
        (&world, &bastion, "2001:db8:2::1", Ping, Answer),
        (&bastion, &inner, "10.8.0.9", Tcp(22), Answer),
        (&bastion, &inner, "2001:db8:8::9", Tcp(22), Answer),
        (&bastion, &inner, "10.8.0.9", Tcp(25), Silence),
        (&bastion, &world, "192.0.2.9", Tcp(22), Silence),
        (&bastion, &world, "192.0.2.9", Tcp(443), Answer),
        (&bastion, &world, "2001:db8:2::9", Tcp(80), Answer),
        (&bastion, &world, "192.0.2.9", Udp(53), Answer),
        (&bastion, &world, "192.0.2.9", Udp(9999), Silence),
        (&bastion, &world, "192.0.2.9", Ping, Answer),
        (&bastion, &world, "2001:db8:2::9", Ping, Answer),
    ])?;
    Ok(wrong)
}

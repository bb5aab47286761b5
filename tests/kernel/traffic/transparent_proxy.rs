//! `examples/transparent-proxy`: a socket of the router gets what the lan sends to others, under their addresses.

use super::Service::{Tcp, Udp};
use super::{ask, load};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::network::{End, Listener, connect_to_one, link};
use crate::support::tools::Backend;

pub fn transparent_proxy(backend: Backend) -> Result<String, String> {
    let (router, world, lan) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    link(
        &End(&router, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        &End(&world, "eth0", &["192.0.2.9/24", "2001:db8::9/64"]),
    )?;
    link(
        &End(&router, "eth1", &["10.1.0.1/24", "2001:db8:1::1/64"]),
        &End(&lan, "eth0", &["10.1.0.7/24", "2001:db8:1::7/64"]),
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
        (&lan, &world, "192.0.2.9", Tcp(80), Answer),
        (&lan, &world, "2001:db8::9", Tcp(80), Answer),
    ])?;

    load(&router, backend, "transparent-proxy/fwc.toml")?;
    // Without the routes that the README asks for.
    wrong += &ask(&[
        (&lan, &world, "192.0.2.9", Tcp(80), Silence),
        (&lan, &world, "2001:db8::9", Tcp(80), Silence),
    ])?;
    for family in ["-4", "-6"] {
        for line in [
            &["rule", "add", "fwmark", "0x1/0x1", "lookup", "100"][..],
            &[
                "route", "add", "local", "default", "dev", "lo", "table", "100",
            ],
        ] {
            router.run("ip", &[&[family][..], line].concat(), "")?;
        }
    }
    for (proxy, called, client) in [
        ("0.0.0.0:3129", "192.0.2.9:80", "10.1.0.7"),
        ("[::]:3129", "[2001:db8::9]:80", "2001:db8:1::7"),
        // An address that nobody has.
        ("0.0.0.0:3129", "198.51.100.77:80", "10.1.0.7"),
        ("[::]:3129", "[2001:db8:77::7]:80", "2001:db8:1::7"),
    ] {
        let address = |text: &str| text.parse().map_err(|_| format!("an address: {text}"));
        let listener = Listener::transparent(&router, address(proxy)?)?;
        let called = address(called)?;
        let (connection, _) = match connect_to_one(&lan, called, &[listener])? {
            Ok(got) => got,
            Err(reply) => {
                wrong += &format!("{called}: the proxy was not asked, the client heard {reply}\n");
                continue;
            }
        };
        let (seen, at) = (connection.seen()?.ip().to_string(), connection.called()?);
        if (seen.as_str(), at) != (client, called) {
            wrong += &format!("{called}: the proxy sees {seen} call {at}\n");
        }
        for reply in [connection.talk()?, connection.talk_back()?] {
            if reply != Answer {
                wrong += &format!("{called} through the proxy: {reply}\n");
            }
        }
    }
    wrong += &ask(&[
        (&lan, &world, "192.0.2.9", Tcp(443), Answer),
        (&lan, &world, "2001:db8::9", Udp(123), Answer),
        (&lan, &world, "192.0.2.9", Tcp(8080), Silence),
        (&lan, &router, "10.1.0.1", Tcp(22), Answer),
        (&lan, &router, "10.1.0.1", Tcp(3129), Silence),
        (&world, &router, "192.0.2.1", Tcp(3129), Silence),
        (&world, &router, "2001:db8::1", Tcp(80), Silence),
        (&world, &lan, "10.1.0.7", Tcp(80), Silence),
    ])?;
    Ok(wrong)
}

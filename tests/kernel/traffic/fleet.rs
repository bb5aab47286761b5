//! `examples/fleet`: one host of each role, all with their own rules, between themselves.

use super::Service::{Tcp, Udp};
use super::{ask, load, star};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Silence};
use crate::support::tools::Backend;

pub fn fleet(backend: Backend) -> Result<String, String> {
    let (middle, gate, web) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let (database, monitor) = (Namespace::new()?, Namespace::new()?);
    let (office, world, ill) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    let hosts = [
        (&gate, "10.30.0.1", "2001:db8:30::1"),
        (&web, "10.30.1.6", "2001:db8:30:1::6"),
        (&database, "10.30.8.1", "2001:db8:30:8::1"),
        (&monitor, "10.30.0.23", "2001:db8:30::23"),
        (&office, "203.0.113.9", "2001:db8:1::9"),
        (&world, "192.0.2.9", "2001:db8:2::9"),
        (&ill, "10.30.66.6", "2001:db8:30:66::6"),
    ];
    star(&middle, &hosts)?;
    let mut wrong = ask(&[(&ill, &web, "10.30.1.6", Tcp(80), Answer)])?;

    for (host, policy) in [
        (&gate, "gate"),
        (&web, "web6"),
        (&database, "db1"),
        (&monitor, "mon2"),
    ] {
        load(host, backend, &format!("fleet/hosts/{policy}.toml"))?;
    }
    for [to_gate, to_web, to_database, to_monitor] in [
        [hosts[0].1, hosts[1].1, hosts[2].1, hosts[3].1],
        [hosts[0].2, hosts[1].2, hosts[2].2, hosts[3].2],
    ] {
        wrong += &ask(&[
            (&office, &gate, to_gate, Tcp(22), Answer),
            (&world, &gate, to_gate, Tcp(22), Silence),
            (&gate, &web, to_web, Tcp(22), Answer),
            (&gate, &database, to_database, Tcp(22), Answer),
            (&office, &web, to_web, Tcp(22), Silence),
            (&world, &web, to_web, Tcp(80), Answer),
            (&world, &web, to_web, Tcp(8443), Silence),
            (&office, &web, to_web, Tcp(8443), Answer),
            (&ill, &web, to_web, Tcp(80), Silence),
            (&web, &database, to_database, Tcp(5432), Answer),
            (&office, &database, to_database, Tcp(5432), Silence),
            (&ill, &database, to_database, Tcp(5432), Silence),
            (&monitor, &web, to_web, Tcp(9100), Answer),
            (&monitor, &gate, to_gate, Tcp(9100), Answer),
            (&web, &gate, to_gate, Tcp(9100), Silence),
            (&office, &monitor, to_monitor, Tcp(3000), Answer),
            (&world, &monitor, to_monitor, Tcp(3000), Silence),
            (&web, &monitor, to_monitor, Udp(514), Answer),
            (&world, &monitor, to_monitor, Udp(514), Silence),
        ])?;
    }
    Ok(wrong)
}

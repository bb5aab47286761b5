//! `examples/knock`: ssh opens to whoever knocks at two ports in their order, by IPv4, and to nobody by IPv6.

use std::net::{IpAddr, SocketAddr};

use super::{load, star};
use crate::support::namespace::Namespace;
use crate::support::network::{Reply, expecting, tcp};
use crate::support::tools::Backend;

pub fn knock(backend: Backend) -> Result<String, String> {
    let (middle, server) = (Namespace::new()?, Namespace::new()?);
    let (client, hasty, stranger) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    star(
        &middle,
        &[
            (&server, "10.30.0.1", "2001:db8:30::1"),
            (&client, "10.30.1.1", "2001:db8:30:1::1"),
            (&hasty, "10.30.2.1", "2001:db8:30:2::1"),
            (&stranger, "10.30.3.1", "2001:db8:30:3::1"),
        ],
    )?;
    load(&server, backend, "knock/fwc.toml")?;
    let mut wrong = String::new();
    for (address, opens) in [("10.30.0.1", true), ("2001:db8:30::1", false)] {
        let host: IpAddr = address.parse().map_err(|_| "an address")?;
        let at = |from: &Namespace, port: u16, expected: Reply| {
            expecting(expected, || tcp(from, &server, SocketAddr::new(host, port)))
        };
        let mut expect = |what: &str, from: &Namespace, ports: &[u16], last: Reply| {
            let (end, before) = ports.split_last().ok_or("no port")?;
            for port in before {
                at(from, *port, Reply::Silence)?;
            }
            let reply = at(from, *end, last)?;
            if reply != last {
                wrong += &format!("{what} at {address}: expected {last}, found {reply}\n");
            }
            Ok::<bool, String>(reply == last)
        };
        expect("the web", &stranger, &[80], Reply::Answer)?;
        expect("without a knock", &client, &[22], Reply::Silence)?;
        expect("one knock", &client, &[7000, 22], Reply::Silence)?;
        expect("the second alone", &hasty, &[8000, 22], Reply::Silence)?;
        expect(
            "in the wrong order",
            &hasty,
            &[8000, 7000, 22],
            Reply::Silence,
        )?;
        expect(
            "with another port between",
            &hasty,
            &[7000, 7001, 8000, 22],
            Reply::Silence,
        )?;
        // The second knock has ten seconds after the first, which a busy machine may need: a person would try again too.
        let mut tries = (0..if opens { 5 } else { 1 }).map(|_| {
            for port in [7000, 8000] {
                at(&client, port, Reply::Silence)?;
            }
            at(
                &client,
                22,
                if opens { Reply::Answer } else { Reply::Silence },
            )
        });
        let opened = tries.any(|reply| reply == Ok(Reply::Answer));
        if opened != opens {
            wrong += &format!("two knocks at {address}: opened is {opened}\n");
        }
        let reply = at(&stranger, 22, Reply::Silence)?;
        if reply != Reply::Silence {
            wrong += &format!("a stranger at {address}: {reply}\n");
        }
    }
    Ok(wrong)
}

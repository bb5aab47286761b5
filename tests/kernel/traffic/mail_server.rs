//! `examples/mail-server`: two sets, three connections at a time, so many in a minute.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Service::Tcp;
use super::{ask, load, star};
use crate::support::namespace::Namespace;
use crate::support::network::Reply::{Answer, Refusal, Silence};
use crate::support::network::{connect, expecting, no_open_tcp, tcp};
use crate::support::tools::Backend;

const SERVER: [&str; 2] = ["192.0.2.1", "2001:db8:9::1"];

pub fn mail_server(backend: Backend) -> Result<String, String> {
    let (middle, server) = (Namespace::new()?, Namespace::new()?);
    let (peer, other) = (Namespace::new()?, Namespace::new()?);
    let (admin, spammer) = (Namespace::new()?, Namespace::new()?);
    star(
        &middle,
        &[
            (&server, SERVER[0], SERVER[1]),
            (&peer, "192.0.2.2", "2001:db8:2::2"),
            (&other, "192.0.2.3", "2001:db8:3::3"),
            (&admin, "203.0.113.9", "2001:db8:1::9"),
            (&spammer, "192.0.2.200", "2001:db8:bad::9"),
        ],
    )?;
    let mut wrong = ask(&[
        (&spammer, &server, SERVER[0], Tcp(993), Answer),
        (&spammer, &server, SERVER[1], Tcp(993), Answer),
    ])?;

    load(&server, backend, "mail-server/fwc.toml")?;
    for address in SERVER {
        wrong += &ask(&[
            (&peer, &server, address, Tcp(25), Answer),
            (&peer, &server, address, Tcp(993), Answer),
            (&peer, &server, address, Tcp(143), Silence),
            (&peer, &server, address, Tcp(22), Silence),
            (&admin, &server, address, Tcp(22), Answer),
            (&spammer, &server, address, Tcp(25), Silence),
            (&spammer, &server, address, Tcp(993), Silence),
        ])?;
        wrong += &submission(&peer, &other, &server, address)?;
        wrong += &connections(&peer, &other, &server, address)?;
    }
    wrong += &banned(&peer, &server)?;
    Ok(wrong)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Three at once, over both ports together; who has not asked yet is not kept waiting by the others.
fn submission(
    peer: &Namespace,
    other: &Namespace,
    server: &Namespace,
    address: &str,
) -> Result<String, String> {
    let mut wrong = String::new();
    let asked = [587, 465, 587, 465];
    for (number, port) in asked.into_iter().enumerate() {
        let expected = if number < 3 { Answer } else { Silence };
        let found = expecting(expected, || tcp(peer, server, at(address, port)))?;
        if found != expected {
            let _ = writeln!(wrong, "submission {number} at {address}: {found}");
        }
    }
    Ok(wrong + &ask(&[(other, server, address, Tcp(587), Answer)])?)
}

/// What was asked before counts while the kernel waits for late packets: all of it is forgotten, when the last of these have
/// come, since each would make its connection known again.
fn forget(server: &Namespace, clients: [&Namespace; 2]) -> Result<(), String> {
    for host in [server].into_iter().chain(clients) {
        no_open_tcp(host)?;
    }
    server.run("conntrack", &["-F"], "")?;
    Ok(())
}

/// Three that stay open, and the fourth is refused: to this peer, to no other, and until one is closed.
fn connections(
    peer: &Namespace,
    other: &Namespace,
    server: &Namespace,
    address: &str,
) -> Result<String, String> {
    forget(server, [peer, other])?;
    let mut wrong = String::new();
    let mut open = Vec::new();
    for number in 0..3 {
        match connect(None, peer, server, at(address, 25))? {
            Ok(connection) => open.push(connection),
            Err(reply) => {
                let _ = writeln!(wrong, "connection {number} at {address}: {reply}");
            }
        }
    }
    wrong += &ask(&[
        (peer, server, address, Tcp(25), Refusal),
        (other, server, address, Tcp(25), Answer),
    ])?;
    drop(open);
    forget(server, [peer, other])?;
    Ok(wrong + &ask(&[(peer, server, address, Tcp(25), Answer)])?)
}

/// Who is put into the set is cut off in the middle of a connection.
fn banned(peer: &Namespace, server: &Namespace) -> Result<String, String> {
    let mut wrong = String::new();
    for (address, set, member) in [
        (SERVER[0], "fwc4-banned", "192.0.2.2"),
        (SERVER[1], "fwc6-banned", "2001:db8:2::2"),
    ] {
        let open = connect(None, peer, server, at(address, 993))?;
        let open = open.map_err(|reply| format!("{address}: {reply}"))?;
        let before = open.talk_back()?;
        server.run("ipset", &["add", set, member], "")?;
        let after = expecting(Silence, || open.talk_back())?;
        if (before, after) != (Answer, Silence) {
            let _ = writeln!(
                wrong,
                "{address}: {before} before the ban, {after} after it"
            );
        }
        wrong += &ask(&[(peer, server, address, Tcp(993), Silence)])?;
        server.run("ipset", &["del", set, member], "")?;
        wrong += &ask(&[(peer, server, address, Tcp(993), Answer)])?;
    }
    Ok(wrong)
}

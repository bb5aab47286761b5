//! `clamp-mss` in real handshakes over a line of 1400 bytes: how much each end then puts into a segment.

use std::fmt::Write as _;
use std::net::SocketAddr;

use libtest_mimic::Trial;

use crate::environment::tests_with_each_backend;
use crate::support::namespace::Namespace;
use crate::support::network::connect;
use crate::support::tools::Backend;
use crate::treated::{CLIENT, Line, SERVER};

/// One test for each backend.
pub fn all() -> Vec<Trial> {
    tests_with_each_backend("clamped", [("both-directions", both_directions)])
}

const POLICY: &str = r#"version = 1
[defaults]
input = "accept"
forward = "accept"
[interfaces]
wan = "eth0"
lan = "eth1"
"#;

/// What fits into packets of 1500 and of 1400 bytes beside the headers of IP and TCP and 12 bytes of timestamps.
const WHOLE: [u32; 2] = [1448, 1428];
const CLAMPED: [u32; 2] = [1348, 1328];
/// Of `set = 1000`.
const SET: [u32; 2] = [988, 988];

fn both_directions(backend: Backend) -> Result<String, String> {
    let line = Line::new()?;
    let (client, router, server) = (&line.client, &line.router, &line.server);
    let there = |what: &str, port: u16, wanted: [[u32; 2]; 2]| {
        segments(what, client, server, SERVER, port, wanted)
    };
    let back = |what: &str, port: u16, wanted: [[u32; 2]; 2]| {
        segments(what, server, client, CLIENT, port, wanted)
    };
    // The router alone knows how little the line carries.
    let mut wrong = there("no rules", 80, [WHOLE, WHOLE])?;

    line.load(
        backend,
        &format!("{POLICY}[[mangle]]\ntype = \"clamp-mss\"\nto = \"wan\"\n"),
    )?;
    wrong += &there("to wan", 80, [CLAMPED, CLAMPED])?;
    wrong += &back("to wan, called from there", 80, [CLAMPED, CLAMPED])?;

    // All keys of the entry count for the answers too, with source and destination exchanged.
    let narrow = format!(
        "{POLICY}[[mangle]]\ntype = \"clamp-mss\"\nfrom = \"lan\"\nto = \"wan\"\nservice = \"8080/tcp\"\n\
         source = [\"10.1.0.9\", \"2001:db8:1::9\"]\ndestination = [\"192.0.2.2\", \"2001:db8::2\"]\nset = 1000\n"
    );
    line.load(backend, &narrow)?;
    wrong += &there("a service", 8080, [SET, SET])?;
    wrong += &there("another service", 80, [WHOLE, WHOLE])?;
    wrong += &back("called from there", 8080, [WHOLE, WHOLE])?;

    // What the router receives is clamped by nobody: it sends what its own line carries.
    line.load(
        backend,
        &format!(
            "{POLICY}[[mangle]]\ntype = \"clamp-mss\"\nfrom = \"host\"\nto = \"wan\"\nset = 1000\n"
        ),
    )?;
    wrong += &segments("from the host", router, server, SERVER, 80, [CLAMPED, SET])?;
    wrong += &there("through the host", 80, [WHOLE, WHOLE])?;
    Ok(wrong)
}

/// Opens a connection in each family, and compares how much the client and the server put into a segment.
fn segments(
    what: &str,
    client: &Namespace,
    server: &Namespace,
    addresses: [&str; 2],
    port: u16,
    wanted: [[u32; 2]; 2],
) -> Result<String, String> {
    let mut wrong = String::new();
    for (number, address) in addresses.into_iter().enumerate() {
        let address = address.parse().map_err(|_| format!("address {address}"))?;
        let address = SocketAddr::new(address, port);
        let found = match connect(None, client, server, address)? {
            Ok(connection) => connection.segments()?,
            Err(reply) => return Err(format!("{what}: {address}: {reply}")),
        };
        let wanted = wanted.map(|by_family| by_family[number]);
        if found != wanted {
            let _ = writeln!(
                wrong,
                "{what}: {address}: {found:?} bytes there and back, not {wanted:?}"
            );
        }
    }
    Ok(wrong)
}

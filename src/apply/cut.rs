//! Ending connections that the new rules would not let begin.
//!
//! Forgetting a connection does not end it: the next packet that this host sends makes it known again. Its socket is closed.

use std::net::SocketAddr;

use super::{Error, Plan, guard};
use crate::live::Host;
use crate::live::connection::{self, Connection, Seat};
use crate::net::{Protocol, State};

/// The TCP connections of this host that could not begin under the rules to come; never those that the user sits on.
pub(super) fn denied(
    host: &dyn Host,
    seat: &Seat,
    plan: &Plan<'_>,
) -> Result<Vec<Connection>, Error> {
    let mut open = connection::established();
    open.retain(|one| {
        let is_within = one.local.ip() == one.remote.ip() || one.remote.ip().is_loopback();
        !is_within && !seat.connections.contains(one)
    });
    let all = Seat {
        connections: open.clone(),
        ..Seat::default()
    };
    let stopped = guard::check(host, &all, plan)?;
    let beginnings: Vec<[SocketAddr; 2]> = stopped
        .into_iter()
        .filter_map(|lockout| {
            let packet = lockout.packet?;
            let is_first = packet.state == State::New && packet.protocol == Protocol::TCP.0;
            let end = |address, port: Option<u16>| Some(SocketAddr::new(address, port?));
            let ends = [
                end(packet.source, packet.source_port)?,
                end(packet.destination, packet.destination_port)?,
            ];
            is_first.then_some(ends)
        })
        .collect();
    open.retain(|one| {
        beginnings.contains(&[one.remote, one.local])
            || beginnings.contains(&[one.local, one.remote])
    });
    Ok(open)
}

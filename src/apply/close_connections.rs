//! Finds the open connections that the new rules would not let begin, to close them.
//!
//! Deleting a connection from the connection table does not end it: the next packet that this host sends adds it again. So
//! fwc closes the socket of a TCP connection of this host. A forwarded connection, and UDP, has no socket that fwc could
//! close: fwc deletes it from the table, and the rules then see its next packet as a new one.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::error::Error;
use super::guard::{self, GuardedRules, HostRoutes, PacketFacts, packet};
use super::plan::ApplyPlan;
use crate::live::connection::{self, TcpConnection};
use crate::live::requester::ClientConnection;
use crate::live::route::Reaches;
use crate::live::tracked::{Tracked, tracked};
use crate::live::{self, Host};
use crate::net::{Hook, Packet, PerFamily, Protocol, State, TcpFlags};

/// The open connections that the new rules would not let begin.
#[derive(Debug, Default)]
pub struct DeniedConnections {
    /// TCP connections of this host, except those of the user's own session.
    pub own: Vec<TcpConnection>,
    /// Forwarded connections, and those of UDP.
    pub tracked: Vec<SocketlessConnection>,
    /// Why the latter could not be read.
    pub unseen: Option<live::Error>,
}

/// A connection without a socket that fwc could close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketlessConnection {
    /// Its entry in the connection table.
    pub connection: Tracked,
    /// Whether the new rules accept it when it begins at the answering side: then it continues as soon as that side sends.
    pub comes_back: bool,
}

impl ApplyPlan<'_> {
    /// Finds the open connections that the new rules would not let begin, except those of the user's own session.
    pub fn denied(
        &self,
        host: &dyn Host,
        client: &ClientConnection,
    ) -> Result<DeniedConnections, Error> {
        let mut denied = DeniedConnections {
            own: own(host, client, self)?,
            ..DeniedConnections::default()
        };
        match tracked() {
            Ok(all) => denied.tracked = flows(host, self, &all)?,
            Err(error) => denied.unseen = Some(error),
        }
        Ok(denied)
    }
}

/// Finds the TCP connections of this host that could not begin: the guard checks the first packet of each.
fn own(
    host: &dyn Host,
    client: &ClientConnection,
    plan: &ApplyPlan<'_>,
) -> Result<Vec<TcpConnection>, Error> {
    let mut open = connection::established();
    open.retain(|one| {
        let is_within = one.local.ip() == one.remote.ip() || one.remote.ip().is_loopback();
        !is_within && !client.connections.contains(one)
    });
    let stopped = guard::check(host, &open, plan)?;
    let beginnings: HashSet<[SocketAddr; 2]> = stopped
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

/// Finds the connections without a socket of this host that could not begin.
fn flows(
    host: &dyn Host,
    plan: &ApplyPlan<'_>,
    all: &[Tracked],
) -> Result<Vec<SocketlessConnection>, Error> {
    let mut rules = PerFamily::default();
    let mut routes = HostRoutes::default();
    let mut found = Vec::new();
    for one in all {
        let ends = [one.from, one.to, one.answers_from, one.answers_to];
        let mut reach = |end: &SocketAddr| (end.ip(), routes.reaches(end.ip()));
        let reached: Vec<(IpAddr, Reaches)> = ends.iter().map(&mut reach).collect();
        // The address of a group: the kernel does not say which of its members is this host.
        if reached.iter().any(|(_, reaches)| *reaches == Reaches::Many) {
            continue;
        }
        let is_this_host = |(_, reaches): &&(IpAddr, Reaches)| *reaches == Reaches::ThisHost;
        let here = reached.iter().filter(is_this_host);
        let here: Vec<IpAddr> = here.map(|(address, _)| *address).collect();
        let is_here = |end: SocketAddr| here.contains(&end.ip());
        let (hook, back) = match (is_here(one.from), is_here(one.answers_from)) {
            (true, true) => continue,
            (true, false) => (Hook::Output, Hook::Input),
            (false, true) => (Hook::Input, Hook::Output),
            (false, false) => (Hook::Forward, Hook::Forward),
        };
        if hook != Hook::Forward && one.protocol == Protocol::TCP {
            continue;
        }
        let mut device = |end: SocketAddr| routes.to(end.ip()).map(|route| route.device);
        let devices = (device(one.from), device(one.answers_from));
        let rules = GuardedRules::of(&mut rules, host, plan, one.from.ip())?;
        let (in_device, out_device) = devices.clone();
        let first = first(
            one.protocol,
            (one.from, one.to),
            hook,
            in_device,
            out_device,
        );
        let known = PacketFacts {
            here: here.clone(),
            arrives: Some((one.answers_from.ip(), Some(one.answers_from.port()))),
        };
        if rules.stops_as_far(&first, &known).is_none() {
            continue;
        }
        let (out_device, in_device) = devices;
        let ends = (one.answers_from, one.answers_to);
        let other = self::first(one.protocol, ends, back, in_device, out_device);
        let known = PacketFacts {
            here,
            arrives: None,
        };
        found.push(SocketlessConnection {
            connection: *one,
            comes_back: rules.stops_as_far(&other, &known).is_none(),
        });
    }
    Ok(found)
}

/// Returns the first packet of a connection between two ends.
fn first(
    protocol: Protocol,
    (from, to): (SocketAddr, SocketAddr),
    hook: Hook,
    in_device: Option<String>,
    out_device: Option<String>,
) -> Packet {
    let mut first = packet(protocol, from, to, hook, State::New, None);
    first.in_device = in_device.filter(|_| hook != Hook::Output);
    first.out_device = out_device.filter(|_| hook != Hook::Input);
    first.tcp_flags = (protocol == Protocol::TCP).then_some(TcpFlags::SYN);
    first
}

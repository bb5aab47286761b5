//! Dropping all but management: ahead of every other rule, and away again without a trace.
//!
//! A chain and the jumps to it at the beginning of `raw`, before connection tracking, forwarding and whatever others have. It only
//! ever closes: what it lets through still has to pass all other rules. As nothing else is touched, taking it away leaves live as
//! it would be without, with counters, and with what others changed meanwhile.

use std::fmt::Write;
use std::net::IpAddr;

use super::Error;
use super::transaction::kernel;
use crate::fault::Point;
use crate::live::connection::Seat;
use crate::live::route::{self, Link};
use crate::live::{Dump, Host, Table};
use crate::net::{Family, PerFamily};

/// No chain of a policy's, and not one of those that shared mode writes.
pub const CHAIN: &str = "FWC-PANIC";

const HOOKS: [&str; 2] = ["PREROUTING", "OUTPUT"];

/// What gets through while all else is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Management {
    /// The connections, in words.
    pub kept: Vec<String>,
    /// Why the user's own connection may be cut.
    pub doubts: Vec<String>,
    rules: PerFamily<Vec<String>>,
}

impl Management {
    /// The connections that the user sits on, and what carries the tunnels that they come through.
    pub fn of(seat: &Seat) -> Self {
        let mut kept = Self::default();
        for connection in &seat.connections {
            let (remote, local) = (connection.remote, connection.local);
            kept.kept.push(connection.to_string());
            let ports = |from: u16, to: u16| format!("-p tcp -m tcp --sport {from} --dport {to}");
            let rules = &mut kept.rules[family_of(remote.ip())];
            rules.push(format!(
                "-s {} -d {} {} -j ACCEPT",
                remote.ip(),
                local.ip(),
                ports(remote.port(), local.port())
            ));
            rules.push(format!(
                "-s {} -d {} {} -j ACCEPT",
                local.ip(),
                remote.ip(),
                ports(local.port(), remote.port())
            ));
            let Some(way) = route::to(remote.ip()) else {
                continue;
            };
            match route::link(&way.device) {
                Link::Plain => {}
                Link::Unseen => kept.doubts.push(format!(
                    "{connection} comes through the tunnel `{}`, and the kernel does not tell what carries it",
                    way.device
                )),
                Link::Tunnel(carriers) => {
                    for carrier in carriers {
                        let (protocol, remote) = (carrier.protocol, carrier.remote.ip());
                        let device = &way.device;
                        kept.kept.push(format!(
                            "{protocol} with {remote}, which carries the tunnel `{device}`"
                        ));
                        let rules = &mut kept.rules[family_of(remote)];
                        rules.push(format!("-s {remote} -p {protocol} -j ACCEPT"));
                        rules.push(format!("-d {remote} -p {protocol} -j ACCEPT"));
                    }
                }
            }
        }
        if let (true, Some(stale)) = (seat.connections.is_empty(), &seat.stale) {
            kept.doubts.push(format!(
                "SSH_CONNECTION names a connection that does not exist any more ({stale})"
            ));
        }
        kept
    }

    /// The rules of the chain.
    fn chain(&self, family: Family) -> Vec<String> {
        let mut rules = vec!["-i lo -j ACCEPT".to_owned(), "-o lo -j ACCEPT".to_owned()];
        let kept = &self.rules[family];
        if family == Family::V6 && !kept.is_empty() {
            // Without neighbour discovery no packet finds its way.
            let kinds = [133, 134, 135, 136].into_iter();
            rules.extend(
                kinds.map(|kind| format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT")),
            );
        }
        rules.extend(kept.iter().cloned());
        rules.push("-j DROP".to_owned());
        rules
    }
}

fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Drops all but this host's own and `management`, in each family by itself: why one could not be closed.
pub fn on(host: &mut dyn Host, management: &Management) -> PerFamily<Result<(), Error>> {
    PerFamily::from_fn(|family| {
        // There is nothing to close.
        if host.lacks(family) {
            return Ok(());
        }
        let live = host.save(family).map_err(Error::Live)?;
        let mut text = format!("*raw\n:{CHAIN} - [0:0]\n");
        for rule in management.chain(family) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "-A {CHAIN} {rule}");
        }
        // What somebody put before it goes behind it.
        text.push_str(&without_jumps(&live));
        for hook in HOOKS {
            let _ = writeln!(text, "-I {hook} 1 -j {CHAIN}");
        }
        text.push_str("COMMIT\n");
        kernel(point(family)).map_err(Error::Live)?;
        host.restore(family, &text).map_err(Error::Live)
    })
}

fn point(family: Family) -> Point {
    match family {
        Family::V4 => Point::PanicV4,
        Family::V6 => Point::PanicV6,
    }
}

/// Takes it away: whether it was there.
pub fn off(host: &mut dyn Host) -> PerFamily<Result<bool, Error>> {
    PerFamily::from_fn(|family| {
        let live = host.save(family).map_err(Error::Live)?;
        if !is_on(&live) {
            return Ok(false);
        }
        let jumps = without_jumps(&live);
        let text = format!("*raw\n{jumps}:{CHAIN} - [0:0]\n-X {CHAIN}\nCOMMIT\n");
        kernel(point(family)).map_err(Error::Live)?;
        host.restore(family, &text).map_err(Error::Live)?;
        Ok(true)
    })
}

/// Whether all but management is dropped.
pub fn is_on(live: &Dump) -> bool {
    live.chain(Table::Raw, CHAIN).is_some()
}

/// Input that takes the jumps to the chain away.
fn without_jumps(live: &Dump) -> String {
    let mut text = String::new();
    for (name, chain) in live.chains(Table::Raw).into_iter().flatten() {
        let jumps = chain
            .rules
            .iter()
            .filter(|rule| rule.target() == Some(CHAIN));
        for rule in jumps {
            let _ = writeln!(text, "-D {name} {}", rule.spec);
        }
    }
    text
}

//! `fwc panic`: drops all packets except loopback and the user's own session, before every other rule.
//!
//! It is a chain, and the jumps to it at the beginning of the table `raw`, which comes before connection tracking, translation
//! and other programs' rules. It can only close: a packet that it does not drop must still pass all other rules. It changes
//! nothing else, so that after `panic --off` the live rules are as if it had never been on, with counters and with other
//! programs' changes.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use super::lock::lock_file;
use super::points;
use crate::fault::Point;
use crate::iptables::TableName;
use crate::live::requester::{ClientConnection, Requester};
use crate::live::route::{self, Link};
use crate::live::{Host, LiveRuleset, NamespaceId, holders};
use crate::net::{Family, PerFamily};

/// The name of the chain. No policy and no part of shared mode makes one with this name.
pub const CHAIN: &str = "FWC-PANIC";

const HOOKS: [&str; 2] = ["PREROUTING", "OUTPUT"];

/// The packets that panic mode does not drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Management {
    /// The connections, in words.
    pub kept: Vec<String>,
    /// Why the user's own connection may be cut.
    pub doubts: Vec<String>,
    rules: PerFamily<Vec<String>>,
}

impl Management {
    /// Returns the connections of the user's session, and what carries the tunnels that they come through.
    pub fn of(client: &ClientConnection) -> Self {
        let mut kept = Self::default();
        for connection in &client.connections {
            let (remote, local) = (connection.remote, connection.local);
            kept.kept.push(connection.to_string());
            let ports = |from: u16, to: u16| format!("-p tcp -m tcp --sport {from} --dport {to}");
            let rules = &mut kept.rules[Family::of(remote.ip())];
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
            let Some(route) = route::to(remote.ip()) else {
                continue;
            };
            match route::link(&route.device) {
                Link::Plain => {}
                Link::Unseen => kept.doubts.push(format!(
                    "{connection} comes through the tunnel `{}`, and the kernel does not show what carries it",
                    route.device
                )),
                Link::Tunnel(carriers) => {
                    for carrier in carriers {
                        let (protocol, remote) = (carrier.protocol, carrier.remote.ip());
                        let device = &route.device;
                        kept.kept.push(format!(
                            "{protocol} with {remote}, which carries the tunnel `{device}`"
                        ));
                        let rules = &mut kept.rules[Family::of(remote)];
                        rules.push(format!("-s {remote} -p {protocol} -j ACCEPT"));
                        rules.push(format!("-d {remote} -p {protocol} -j ACCEPT"));
                    }
                }
            }
        }
        if let Requester::NotKnown(why) = &client.who {
            kept.doubts
                .push(format!("fwc cannot tell how you reach this host: {why}"));
        }
        kept
    }

    /// Returns the rules of the chain.
    fn chain(&self, family: Family) -> Vec<String> {
        let mut rules = vec!["-i lo -j ACCEPT".to_owned(), "-o lo -j ACCEPT".to_owned()];
        let kept = &self.rules[family];
        if family == Family::V6 && !kept.is_empty() {
            // Without neighbour discovery (router and neighbour messages) no IPv6 packet reaches its next hop.
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

/// Drops all packets except loopback and `management`. Returns for each family whether it could be closed.
///
/// No other fwc may open what this one closes: fwc first waits for one that is changing the network namespace, or ends it.
pub fn on(host: &mut dyn Host, management: &Management) -> PerFamily<Result<(), Error>> {
    let mut precedence = Precedence::default();
    loop {
        precedence.take();
        let closed = close(host, management);
        // A fwc that began meanwhile may have read the live rules before they were closed, and would restore those.
        if !precedence.take() {
            return closed;
        }
    }
}

/// The locks of the fwc processes that work on this network namespace, wherever their state folders are.
#[derive(Debug, Default)]
struct Precedence {
    locks: Vec<File>,
}

/// How long panic waits for another fwc before it ends it.
const PATIENCE: Duration = Duration::from_millis(300);

impl Precedence {
    /// Takes the locks of fwc processes that it does not hold yet. Returns `true` if there was one.
    fn take(&mut self) -> bool {
        let Ok(namespace) = NamespaceId::current() else {
            return false;
        };
        let file = lock_file(&namespace);
        let mut is_new = false;
        for other in holders::of_path(&file) {
            // Through the descriptor of the process: its state directory may be in another mount namespace.
            let Ok(lock) = File::open(&other.descriptor) else {
                continue;
            };
            if self.has(&lock) {
                continue;
            }
            is_new = true;
            let begun = Instant::now();
            while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                let waited = begun.elapsed();
                if waited > PATIENCE {
                    holders::end(&holders::of(&lock));
                }
                if waited > 20 * PATIENCE {
                    // It is in another PID namespace, and cannot be ended.
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            self.locks.push(lock);
        }
        is_new
    }

    fn has(&self, lock: &File) -> bool {
        let id = |file: &File| file.metadata().ok().map(|it| (it.dev(), it.ino()));
        self.locks.iter().any(|known| id(known) == id(lock))
    }
}

fn close(host: &mut dyn Host, management: &Management) -> PerFamily<Result<(), Error>> {
    PerFamily::from_fn(|family| {
        // The kernel has nothing to close.
        if host.lacks(family) {
            return Ok(());
        }
        let live = host.save(family).map_err(Error::Live)?;
        let mut text = format!("*raw\n:{CHAIN} - [0:0]\n");
        for rule in management.chain(family) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "-A {CHAIN} {rule}");
        }
        // Delete the old jumps first: a rule that somebody inserted before them would still come first.
        text.push_str(&without_jumps(&live));
        for hook in HOOKS {
            let _ = writeln!(text, "-I {hook} 1 -j {CHAIN}");
        }
        text.push_str("COMMIT\n");
        points::rules(point(family)).map_err(Error::Live)?;
        host.restore(family, &text).map_err(Error::Live)
    })
}

fn point(family: Family) -> Point {
    match family {
        Family::V4 => Point::PanicV4,
        Family::V6 => Point::PanicV6,
    }
}

/// Ends panic mode. Returns for each family whether it was on.
pub fn off(host: &mut dyn Host) -> PerFamily<Result<bool, Error>> {
    PerFamily::from_fn(|family| {
        let live = host.save(family).map_err(Error::Live)?;
        if !is_on(&live) {
            return Ok(false);
        }
        let jumps = without_jumps(&live);
        let text = format!("*raw\n{jumps}:{CHAIN} - [0:0]\n-X {CHAIN}\nCOMMIT\n");
        points::rules(point(family)).map_err(Error::Live)?;
        host.restore(family, &text).map_err(Error::Live)?;
        Ok(true)
    })
}

/// Returns `true` if panic mode is on.
pub fn is_on(live: &LiveRuleset) -> bool {
    live.chain(TableName::Raw, CHAIN).is_some()
}

/// Stops while `fwc panic` is on.
pub(super) fn refuse_if_on(live: &PerFamily<LiveRuleset>) -> Result<(), Error> {
    match live.iter().any(|(_, rules)| is_on(rules)) {
        true => Err(Error::PanicIsOn),
        false => Ok(()),
    }
}

/// The same if the live rules cannot be read: tries to delete one of the jumps and to insert it again, in one step. That fails if
/// there is none.
pub(super) fn is_on_unread(host: &mut dyn Host, family: Family) -> bool {
    let [hook, _] = HOOKS;
    let text = format!("*raw\n-D {hook} -j {CHAIN}\n-I {hook} 1 -j {CHAIN}\nCOMMIT\n");
    host.restore(family, &text).is_ok()
}

/// Returns the lines that delete all jumps to the chain.
fn without_jumps(live: &LiveRuleset) -> String {
    let mut text = String::new();
    for (name, chain) in live.chains(TableName::Raw).into_iter().flatten() {
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

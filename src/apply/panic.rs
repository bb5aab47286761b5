//! Dropping all but management: ahead of every other rule, and away again without a trace.
//!
//! A chain and the jumps to it at the beginning of `raw`, before connection tracking, forwarding and whatever others have. It only
//! ever closes: what it lets through still has to pass all other rules. As nothing else is touched, taking it away leaves live as
//! it would be without, with counters, and with what others changed meanwhile.

use std::fmt::Write;
use std::fs::File;
use std::net::IpAddr;
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
    pub fn of(seat: &ClientConnection) -> Self {
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
                    "{connection} comes through the tunnel `{}`, and the kernel does not show what carries it",
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
        if let Requester::NotKnown(why) = &seat.who {
            kept.doubts
                .push(format!("fwc cannot tell how you reach this host: {why}"));
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
///
/// No other fwc may open what is closed here: one that works on this network namespace is waited for, or ended, before.
pub fn on(host: &mut dyn Host, management: &Management) -> PerFamily<Result<(), Error>> {
    let mut precedence = Precedence::default();
    loop {
        precedence.take();
        let closed = close(host, management);
        // One that began meanwhile read live before it was closed.
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

/// How long a fwc at work is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

impl Precedence {
    /// Takes the locks that are not taken yet: whether there was one.
    fn take(&mut self) -> bool {
        let Ok(namespace) = NamespaceId::current() else {
            return false;
        };
        let file = lock_file(&namespace);
        let mut is_new = false;
        for other in holders::of_path(&file) {
            // By its descriptor: it may be in a folder that this process does not see.
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

/// Takes it away: whether it was there.
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

/// Whether all but management is dropped.
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

/// The same where live cannot be read: whether one of the jumps can be deleted, and inserted again in the same step.
pub(super) fn is_on_unread(host: &mut dyn Host, family: Family) -> bool {
    let [hook, _] = HOOKS;
    let text = format!("*raw\n-D {hook} -j {CHAIN}\n-I {hook} 1 -j {CHAIN}\nCOMMIT\n");
    host.restore(family, &text).is_ok()
}

/// Input that takes the jumps to the chain away.
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

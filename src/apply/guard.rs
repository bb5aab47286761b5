//! The lockout guard: the connection that the user sits on has to pass the rules to come, and a new one like it too.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Error, Plan};
use crate::iptables::{Match, Ruleset, TableName, Verdict, walk};
use crate::live::connection::{Connection, Seat};
use crate::live::route::{self, Carrier, Link};
use crate::live::{self, Host, Sets, connection};
use crate::net::{Family, Hook, Packet, Protocol, State, TcpFlags, Translated};

/// Something of the user's way to this host that the rules to come stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lockout {
    /// What it is, in words.
    pub what: String,
    /// The packet; `None` where it is not known well enough.
    pub packet: Option<Packet>,
    /// What stops it.
    pub by: String,
}

impl fmt::Display for Lockout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.what)?;
        if let Some(packet) = &self.packet {
            write!(out, "\n    packet: {packet}")?;
        }
        write!(out, "\n    stopped by: {}", self.by)
    }
}

/// What of the user's connections, and of the tunnels that they come through, would not get through.
pub(super) fn check(host: &dyn Host, seat: &Seat, plan: &Plan<'_>) -> Result<Vec<Lockout>, Error> {
    let mut found = Vec::new();
    for connection in &seat.connections {
        let way = route::to(connection.remote.ip());
        let device = way.map(|way| way.device);
        let rules = Rules::new(host, plan, family_of(connection.local.ip()))?;
        found.extend(rules.connection(connection, device.as_deref()));
        let Some(device) = device else { continue };
        match route::link(&device) {
            Link::Plain => {}
            Link::Unseen => found.push(Lockout {
                what: format!("{connection} comes through the tunnel `{device}`"),
                packet: None,
                by: "nobody knows: the kernel does not tell what carries this tunnel. Check by hand that the policy lets it through".to_owned(),
            }),
            Link::Tunnel(carriers) => {
                for carrier in carriers {
                    let rules = Rules::new(host, plan, family_of(carrier.remote.ip()))?;
                    found.extend(rules.carrier(&carrier, &device));
                }
            }
        }
    }
    Ok(found)
}

fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The rules to come of one family, and what is in sets.
struct Rules {
    ruleset: Ruleset,
    sets: Sets,
}

impl Rules {
    fn new(host: &dyn Host, plan: &Plan<'_>, family: Family) -> Result<Self, Error> {
        // With others' rules, which may come first.
        let live = host.save(family).map_err(Error::Live)?;
        let all = plan.target_of(family, &live).map_err(Error::Live)?;
        let ruleset = Ruleset::from_text(&all.normal(), family).map_err(|invalid| {
            Error::Live(live::Error::Io {
                what: "cannot read the rules to come".to_owned(),
                source: std::io::Error::other(invalid.to_string()),
            })
        })?;
        let mut sets = plan.sets.target.clone();
        for (name, set) in &mut sets.0 {
            // Others fill it: what is in it now counts.
            if set.is_dynamic() && plan.sets.live.0.contains_key(name) {
                set.members = host.save_set(name).map_err(Error::Live)?.members;
            }
        }
        Ok(Self { ruleset, sets })
    }

    /// A TCP connection: its own packets, and a new one like it.
    fn connection(&self, connection: &Connection, device: Option<&str>) -> Vec<Lockout> {
        let (remote, local) = (connection.remote, connection.local);
        let tcp = |from, to, hook, state, flags| {
            let mut packet = packet(Protocol::TCP, from, to, hook, state, device);
            packet.tcp_flags = Some(TcpFlags(flags));
            packet
        };
        // Who began it: the side that does not listen.
        let opens = if connection::listens(local.port()) {
            tcp(remote, local, Hook::Input, State::New, SYN)
        } else {
            tcp(local, remote, Hook::Output, State::New, SYN)
        };
        let packets = [
            (
                "the connection that you sit on",
                tcp(remote, local, Hook::Input, State::Established, ACK),
            ),
            (
                "the connection that you sit on",
                tcp(local, remote, Hook::Output, State::Established, ACK),
            ),
            ("a new connection like the one that you sit on", opens),
        ];
        let stopped = packets.into_iter().filter_map(|(what, packet)| {
            let by = self.stops(&packet)?;
            Some(Lockout {
                what: format!("{what} ({connection})"),
                packet: Some(packet),
                by,
            })
        });
        stopped.collect()
    }

    /// What carries a tunnel: its packets both ways, and the first one of either side.
    fn carrier(&self, carrier: &Carrier, tunnel: &str) -> Vec<Lockout> {
        let way = route::to(carrier.remote.ip());
        let device = way.as_ref().map(|way| way.device.as_str());
        let source = way.as_ref().and_then(|way| way.source);
        let Some(source) = source else {
            return Vec::new();
        };
        let local = SocketAddr::new(source, carrier.local_port.unwrap_or(0));
        let of = |from, to, hook, state| packet(carrier.protocol, from, to, hook, state, device);
        let comes = |state| of(carrier.remote, local, Hook::Input, state);
        let goes = |state| of(local, carrier.remote, Hook::Output, state);
        let lockout = |packet: Packet, by| Lockout {
            what: format!(
                "the tunnel `{tunnel}`, which the connection that you sit on comes through"
            ),
            packet: Some(packet),
            by,
        };
        let mut found = Vec::new();
        for packet in [comes(State::Established), goes(State::Established)] {
            if let Some(by) = self.stops(&packet) {
                found.push(lockout(packet, by));
            }
        }
        let may_begin = carrier.answers && self.stops(&goes(State::New)).is_none();
        if let Some(by) = self.stops(&comes(State::New)).filter(|_| !may_begin) {
            found.push(lockout(comes(State::New), by));
        }
        found
    }

    /// What stops a packet; `None` where it gets through.
    ///
    /// What nobody can know now (rates, what was seen before) counts as favourable.
    fn stops(&self, packet: &Packet) -> Option<String> {
        let tables: &[TableName] = match packet.hook {
            Hook::Output => &[TableName::Raw, TableName::Mangle, TableName::Filter],
            _ => &[TableName::Mangle, TableName::Filter],
        };
        let mut first = None;
        for favour in [true, false] {
            let stopped = tables
                .iter()
                .find_map(|table| self.stops_in(*table, packet, favour));
            match stopped {
                None => return None,
                Some(by) => first = first.or(Some(by)),
            }
        }
        first
    }

    fn stops_in(&self, table: TableName, packet: &Packet, favour: bool) -> Option<String> {
        let mut oracle = |_, condition: &Match| match condition {
            Match::Set(set) => {
                let address = match set.from_source.first() {
                    Some(true) => packet.source,
                    _ => packet.destination,
                };
                let there = self.sets.0.get(&*set.name).map(|set| {
                    let mut members = set.members.iter();
                    members.any(|member| member.network.contains(&address))
                });
                Some(there.map_or(favour, |there| there != set.negated))
            }
            _ => Some(favour),
        };
        let walked = walk(&self.ruleset, table, packet, &mut oracle);
        let walked = match walked {
            Ok(walked) => walked,
            Err(error) => return Some(format!("nobody knows: {error}")),
        };
        if walked.verdict == Verdict::Accept {
            return None;
        }
        let chains = self.ruleset.table(table).map(|table| &table.chains);
        let rule = walked.decided.zip(chains).map(|(id, chains)| {
            let chain = &chains[id.chain];
            let rule = chain.rules[id.rule].to_text(self.ruleset.family);
            format!(
                "the rule `-A {} {rule}` of the table {}",
                chain.name,
                table.as_str()
            )
        });
        Some(rule.unwrap_or_else(|| {
            format!(
                "the policy of {} in the table {}",
                packet.hook.chain(),
                table.as_str()
            )
        }))
    }
}

const SYN: u8 = TcpFlags::SYN.0;
const ACK: u8 = 0x10;

fn packet(
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
    hook: Hook,
    state: State,
    device: Option<&str>,
) -> Packet {
    let device = device.map(str::to_owned);
    let (in_device, out_device) = match hook {
        Hook::Output => (None, device),
        _ => (device, None),
    };
    let has_ports = protocol == Protocol::TCP || protocol == Protocol::UDP;
    Packet {
        family: family_of(from.ip()),
        hook,
        in_device,
        out_device,
        source: from.ip(),
        destination: to.ip(),
        protocol: protocol.0,
        source_port: has_ports.then(|| from.port()),
        destination_port: has_ports.then(|| to.port()),
        icmp: None,
        tcp_flags: None,
        state,
        hop_limit: 64,
        mark: 0,
        mac: None,
        translated: Translated::default(),
    }
}

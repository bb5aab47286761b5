//! The lockout guard: the connection that the user sits on has to pass the rules to come, and a new one like it too.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Error, Plan};
use crate::iptables::{
    AddressTypes, Asked, Match, Nat, Negatable, Ruleset, Step, TableName, Unknowns, Verdict, follow,
};
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

    /// What stops a packet, or takes it elsewhere, on its way through all tables; `None` where it gets through.
    ///
    /// What nobody can know now (rates, what was seen before) counts as favourable.
    fn stops(&self, packet: &Packet) -> Option<String> {
        let mut first = None;
        for favour in [true, false] {
            match self.stops_where(packet, favour) {
                None => return None,
                Some(by) => first = first.or(Some(by)),
            }
        }
        first
    }

    fn stops_where(&self, packet: &Packet, favour: bool) -> Option<String> {
        let mut unknowns = AsFarAsKnown {
            sets: &self.sets,
            first: packet,
            favour,
        };
        let journey = match follow(&self.ruleset, packet, 0, &mut unknowns) {
            Ok(journey) => journey,
            Err(error) => return Some(format!("nobody knows: {error}")),
        };
        let end = |packet: &Packet| (packet.destination, packet.destination_port);
        let mut before = packet;
        for step in &journey.steps {
            if end(&step.packet) != end(before) {
                let port = step.packet.destination_port;
                let port = port.map_or(String::new(), |port| format!(" port {port}"));
                let to = step.packet.destination;
                let by = self.decided(step, packet.hook);
                return Some(format!("{by}, which takes it to {to}{port}"));
            }
            before = &step.packet;
        }
        let last = journey.steps.last();
        let last = last.filter(|_| journey.verdict != Verdict::Accept)?;
        Some(self.decided(last, packet.hook))
    }

    /// What decides a packet in a table.
    fn decided(&self, step: &Step, hook: Hook) -> String {
        let table = step.table.as_str();
        let chains = self.ruleset.table(step.table).map(|table| &table.chains);
        let rule = step.walk.decided.zip(chains).map(|(id, chains)| {
            let chain = &chains[id.chain];
            let rule = chain.rules[id.rule].to_text(self.ruleset.family);
            format!("the rule `-A {} {rule}` of the table {table}", chain.name)
        });
        rule.unwrap_or_else(|| {
            let chain = match step.table {
                TableName::Filter => hook.chain(),
                _ => step.chain,
            };
            format!("the policy of {chain} in the table {table}")
        })
    }
}

/// What is known of this host, the rest in favour of the packet or not.
struct AsFarAsKnown<'a> {
    sets: &'a Sets,
    /// The packet as it arrives, or as this host sends it.
    first: &'a Packet,
    favour: bool,
}

impl AsFarAsKnown<'_> {
    /// Whether an address is this host's: the end of the connection that is here.
    fn is_here(&self, address: IpAddr) -> bool {
        address
            == match self.first.hook {
                Hook::Output => self.first.source,
                Hook::Input | Hook::Forward => self.first.destination,
            }
    }
}

impl Unknowns for AsFarAsKnown<'_> {
    fn holds(&mut self, asked: Asked<'_>) -> Option<bool> {
        let packet = asked.packet;
        let types = |types: &Option<Negatable<AddressTypes>>, address| {
            let wanted = match self.is_here(address) {
                true => "LOCAL",
                false => "UNICAST",
            };
            let types = types.as_ref();
            types.is_none_or(|types| types.holds(|types| types.names().any(|it| it == wanted)))
        };
        Some(match asked.condition {
            Match::Set(set) => {
                let address = match set.from_source.first() {
                    Some(true) => packet.source,
                    _ => packet.destination,
                };
                let there = self.sets.0.get(&*set.name).map(|set| {
                    let mut members = set.members.iter();
                    members.any(|member| member.network.contains(&address))
                });
                there.map_or(self.favour, |there| there != set.negated)
            }
            Match::AddressType(one) if one.limit.is_none() => {
                types(&one.source, packet.source) && types(&one.destination, packet.destination)
            }
            _ => self.favour,
        })
    }

    fn address(&mut self, nat: &Nat, packet: &Packet) -> Option<IpAddr> {
        // A redirect leaves it here.
        Some(nat.addresses.map_or(packet.destination, |(first, _)| first))
    }

    fn port(&mut self, nat: &Nat, packet: &Packet) -> Option<u16> {
        let ports = nat.ports?;
        let own = packet.destination_port.filter(|port| ports.contains(*port));
        own.or(Some(ports.first))
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        Some((packet.destination, packet.destination_port))
    }

    fn is_first(&mut self, _: &Packet) -> Option<bool> {
        Some(false)
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

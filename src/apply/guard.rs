//! The lockout guard: the new rules must accept the user's own connection, and a new connection like it.
//!
//! It follows the packets through the new rules as they will be, with other programs' rules and the members of sets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::error::Error;
use super::lockout::Lockout;
use super::plan::ApplyPlan;
use crate::iptables::{
    AddressTypes, Match, NatTarget, Negatable, Ruleset, TableName, Target, UndecidedCondition,
    Unknowns, WalkStep, WalkVerdict, follow,
};
use crate::live::connection::TcpConnection;
use crate::live::requester::ClientConnection;
use crate::live::route::{self, Carrier, Link, Reaches, Route};
use crate::live::{self, Host, Ipsets, connection};
use crate::net::{Family, Hook, Packet, PerFamily, Protocol, State, TcpFlags, Translated};

impl ApplyPlan<'_> {
    /// Finds what the new rules would block of the user's session, and of the tunnels that carry it.
    pub fn lockouts(
        &self,
        host: &dyn Host,
        client: &ClientConnection,
    ) -> Result<Vec<Lockout>, Error> {
        check(host, &client.connections, self)
    }
}

/// Finds what the new rules would block of these connections, and of the tunnels that carry them.
pub(super) fn check(
    host: &dyn Host,
    connections: &[TcpConnection],
    plan: &ApplyPlan<'_>,
) -> Result<Vec<Lockout>, Error> {
    let mut rules = PerFamily::default();
    let mut routes = HostRoutes::default();
    let listening = connection::listening();
    let mut found = Vec::new();
    for connection in connections {
        let device = routes.to(connection.remote.ip()).map(|route| route.device);
        let is_incoming = listening.contains(&connection.local.port());
        let rules_of = |rules| GuardedRules::of(rules, host, plan, connection.local.ip());
        found.extend(rules_of(&mut rules)?.connection(connection, device.as_deref(), is_incoming));
        let Some(device) = device else { continue };
        match routes.link(&device) {
            Link::Plain => {}
            Link::Unseen => found.push(Lockout {
                what: format!("{connection} comes through the tunnel `{device}`"),
                packet: None,
                by: "unknown: the kernel does not show what carries this tunnel. Check by hand that the policy accepts it".to_owned(),
            }),
            Link::Tunnel(carriers) => {
                for carrier in carriers {
                    let rules = GuardedRules::of(&mut rules, host, plan, carrier.remote.ip())?;
                    found.extend(rules.carrier(&carrier, &device, routes.to(carrier.remote.ip())));
                }
            }
        }
    }
    Ok(found)
}

/// The routes to other hosts. The kernel is queried once for each.
#[derive(Default)]
pub(super) struct HostRoutes {
    routes: HashMap<IpAddr, Option<Route>>,
    links: HashMap<String, Link>,
}

impl HostRoutes {
    pub(super) fn to(&mut self, address: IpAddr) -> Option<Route> {
        let route = self.routes.entry(address);
        route.or_insert_with(|| route::to(address)).clone()
    }

    /// Returns whether an address is this host, another one, or a group of hosts.
    pub(super) fn reaches(&mut self, address: IpAddr) -> Reaches {
        if address.is_multicast() || address == Ipv4Addr::BROADCAST {
            return Reaches::Many;
        }
        self.to(address)
            .map_or(Reaches::Another, |route| route.reaches)
    }

    fn link(&mut self, device: &str) -> Link {
        let link = self.links.entry(device.to_owned());
        link.or_insert_with(|| route::link(device)).clone()
    }
}

/// The new rules of one family, and the members of sets.
pub(super) struct GuardedRules {
    ruleset: Ruleset,
    sets: Ipsets,
}

impl GuardedRules {
    /// Returns the rules of the family of an address. They are read once.
    pub(super) fn of<'a>(
        rules: &'a mut PerFamily<Option<Self>>,
        host: &dyn Host,
        plan: &ApplyPlan<'_>,
        address: IpAddr,
    ) -> Result<&'a Self, Error> {
        let family = Family::of(address);
        let rules = &mut rules[family];
        match rules {
            Some(rules) => Ok(rules),
            None => Ok(rules.insert(Self::new(host, plan, family)?)),
        }
    }

    fn new(host: &dyn Host, plan: &ApplyPlan<'_>, family: Family) -> Result<Self, Error> {
        // With other programs' rules, which may decide first.
        let live = host.save(family).map_err(Error::Live)?;
        let all = plan.target_of(family, &live).map_err(Error::Live)?;
        let ruleset = Ruleset::from_text(&all.normal(), family).map_err(|invalid| {
            Error::Live(live::Error::Io {
                what: "cannot read the new rules".to_owned(),
                source: std::io::Error::other(invalid.to_string()),
            })
        })?;
        let mut sets = plan.sets.target.clone();
        for (name, set) in &mut sets.0 {
            // Other programs fill it: its members now are the ones that count.
            if set.is_dynamic() && plan.sets.live.0.contains_key(name) {
                set.members = host.save_set(name).map_err(Error::Live)?.members;
            }
        }
        Ok(Self { ruleset, sets })
    }

    /// Checks a TCP connection: its own packets, and the first packet of a new one like it.
    fn connection(
        &self,
        connection: &TcpConnection,
        device: Option<&str>,
        is_incoming: bool,
    ) -> Vec<Lockout> {
        let (remote, local) = (connection.remote, connection.local);
        let tcp = |from, to, hook, state, flags| {
            let mut packet = packet(Protocol::TCP, from, to, hook, state, device);
            packet.tcp_flags = Some(TcpFlags(flags));
            packet
        };
        // The side that does not listen began the connection.
        let first = if is_incoming {
            tcp(remote, local, Hook::Input, State::New, SYN)
        } else {
            tcp(local, remote, Hook::Output, State::New, SYN)
        };
        let packets = [
            (
                "your own connection",
                tcp(remote, local, Hook::Input, State::Established, ACK),
            ),
            (
                "your own connection",
                tcp(local, remote, Hook::Output, State::Established, ACK),
            ),
            ("a new connection like yours", first),
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

    /// Checks what carries a tunnel: its packets in both directions, and the first packet of either side.
    fn carrier(&self, carrier: &Carrier, tunnel: &str, route: Option<Route>) -> Vec<Lockout> {
        let device = route.as_ref().map(|route| route.device.as_str());
        let source = route.as_ref().and_then(|route| route.source);
        let Some(source) = source else {
            return Vec::new();
        };
        let local = SocketAddr::new(source, carrier.local_port.unwrap_or(0));
        let of = |from, to, hook, state| packet(carrier.protocol, from, to, hook, state, device);
        let incoming = |state| of(carrier.remote, local, Hook::Input, state);
        let outgoing = |state| of(local, carrier.remote, Hook::Output, state);
        let lockout = |packet: Packet, by| Lockout {
            what: format!("the tunnel `{tunnel}`, which carries your own connection"),
            packet: Some(packet),
            by,
        };
        let mut found = Vec::new();
        for packet in [incoming(State::Established), outgoing(State::Established)] {
            if let Some(by) = self.stops(&packet) {
                found.push(lockout(packet, by));
            }
        }
        // A tunnel that this host may begin needs no packet from the other side first.
        let may_begin = carrier.answers && self.stops(&outgoing(State::New)).is_none();
        if let Some(by) = self.stops(&incoming(State::New)).filter(|_| !may_begin) {
            found.push(lockout(incoming(State::New), by));
        }
        found
    }

    /// Returns what stops a packet in any table, or translates it to another destination; `None` if it arrives.
    fn stops(&self, packet: &Packet) -> Option<String> {
        let here = match packet.hook {
            Hook::Output => packet.source,
            Hook::Input | Hook::Forward => packet.destination,
        };
        let known = PacketFacts {
            here: vec![here],
            arrives: Some((packet.destination, packet.destination_port)),
        };
        self.stops_as_far(packet, &known)
    }

    /// The same, with what is known of the packet. What cannot be known now, such as rates and recent packets, is tried in
    /// favour of the packet and against it; the packet counts as stopped only if both stop it.
    pub(super) fn stops_as_far(&self, packet: &Packet, known: &PacketFacts) -> Option<String> {
        let mut first = None;
        for favour in [true, false] {
            match self.stops_where(packet, known, favour) {
                None => return None,
                Some(by) => first = first.or(Some(by)),
            }
        }
        first
    }

    fn stops_where(&self, packet: &Packet, known: &PacketFacts, favour: bool) -> Option<String> {
        let mut unknowns = AsFarAsKnown {
            rules: self,
            known,
            favour,
        };
        let trace = match follow(&self.ruleset, packet, 0, &mut unknowns) {
            Ok(trace) => trace,
            Err(error) => return Some(format!("unknown: {error}")),
        };
        let end = |packet: &Packet| (packet.destination, packet.destination_port);
        let mut before = packet;
        for step in &trace.steps {
            let now = end(&step.packet);
            if now != end(before) && known.arrives.is_some_and(|arrives| arrives != now) {
                let port = now.1.map_or(String::new(), |port| format!(" port {port}"));
                let by = self.decided(step, packet.hook);
                return Some(format!("{by}, which takes it to {}{port}", now.0));
            }
            before = &step.packet;
        }
        if trace.verdict != WalkVerdict::Accept {
            let last = trace.steps.last();
            return last.map(|last| self.decided(last, packet.hook));
        }
        let elsewhere = known.arrives.is_some_and(|arrives| arrives != end(before));
        elsewhere.then(|| "nothing: no rule translates it as now".to_owned())
    }

    /// Returns the rule or the chain policy that decides a packet in a table, in words.
    fn decided(&self, step: &WalkStep, hook: Hook) -> String {
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

/// What is known of a packet besides its contents.
pub(super) struct PacketFacts {
    /// Addresses of this host, among those of its connection.
    pub(super) here: Vec<IpAddr>,
    /// The address and port at which it must arrive; `None` if any will do.
    pub(super) arrives: Option<(IpAddr, Option<u16>)>,
}

/// Answers the conditions that a walk cannot decide: from what is known of the packet, the rest in its favour or not.
struct AsFarAsKnown<'a> {
    rules: &'a GuardedRules,
    known: &'a PacketFacts,
    favour: bool,
}

impl AsFarAsKnown<'_> {
    /// Returns `true` if a translation may lead to where the packet must arrive.
    fn leads(&self, rule: &Target) -> bool {
        let (Target::Nat(nat), Some((address, port))) = (rule, self.known.arrives) else {
            return self.favour;
        };
        let within = nat
            .addresses
            .is_none_or(|(first, last)| (first..=last).contains(&address));
        let reached = nat
            .ports
            .zip(port)
            .is_none_or(|(ports, port)| ports.contains(port));
        within && reached
    }
}

impl Unknowns for AsFarAsKnown<'_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let packet = asked.packet;
        let types = |types: &Option<Negatable<AddressTypes>>, address| {
            let wanted = match self.known.here.contains(&address) {
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
                let known = self.rules.sets.0.get(&*set.name);
                let known = known.filter(|_| set.settings.is_empty());
                let there = known.and_then(|known| match set.from_source[..] {
                    [_] => known.has(address),
                    [_, port_of_source] => {
                        let port = match port_of_source {
                            true => packet.source_port,
                            false => packet.destination_port,
                        };
                        known.has_with_port(address, packet.protocol, port?)
                    }
                    _ => None,
                });
                there.map_or(self.favour, |there| there != set.negated)
            }
            Match::AddressType(one) if one.limit.is_none() => {
                types(&one.source, packet.source) && types(&one.destination, packet.destination)
            }
            // The packets of the connections that the guard checks are no fragments.
            Match::Fragment { negated } => *negated,
            // In nat, the condition chose one of several destinations when the connection began: the one that it has.
            _ if asked.table == TableName::Nat => {
                let table = self.rules.ruleset.table(asked.table);
                let chain = table.and_then(|table| table.chains.get(asked.rule.chain));
                let rule = chain.and_then(|chain| chain.rules.get(asked.rule.rule));
                rule.map_or(self.favour, |rule| self.leads(&rule.target))
            }
            _ => self.favour,
        })
    }

    fn address(&mut self, nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        let wanted = self.known.arrives.map(|(address, _)| address);
        Some(match nat.addresses {
            Some((first, last)) => wanted
                .filter(|wanted| (first..=last).contains(wanted))
                .unwrap_or(first),
            // REDIRECT has no address: the packet stays on this host.
            None => wanted.unwrap_or(packet.destination),
        })
    }

    fn port(&mut self, nat: &NatTarget, packet: &Packet) -> Option<u16> {
        let ports = nat.ports?;
        let wanted = self.known.arrives.and_then(|(_, port)| port);
        let own = wanted.or(packet.destination_port);
        let own = own.filter(|port| ports.contains(*port));
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

/// Returns a packet between two ends. `device` is the one towards the other host.
pub(super) fn packet(
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
        family: Family::of(from.ip()),
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

#[cfg(test)]
mod tests {
    use super::{GuardedRules, PacketFacts, packet};
    use crate::iptables::Ruleset;
    use crate::live::Ipsets;
    use crate::net::{Family, Hook, Protocol, State};

    /// A member with a port stops packets from its address to its port, and no others.
    #[test]
    fn members_with_ports_stop_what_goes_to_their_port() {
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -m set --match-set fwc4-bans src,dst -j DROP\nCOMMIT\n";
        let sets = "create fwc4-bans hash:ip,port family inet\nadd fwc4-bans 198.51.100.7,tcp:22\n";
        let guarded = GuardedRules {
            ruleset: Ruleset::from_text(rules, Family::V4).unwrap(),
            sets: Ipsets::parse(sets).unwrap(),
        };
        let stops = |from: &str, to: &str| {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = packet(Protocol::TCP, from, to, Hook::Input, State::New, None);
            let known = PacketFacts {
                here: vec![packet.destination],
                arrives: None,
            };
            guarded.stops_as_far(&packet, &known).is_some()
        };
        assert!(stops("198.51.100.7:40000", "192.0.2.1:22"));
        assert!(!stops("198.51.100.7:22", "192.0.2.1:2222"));
        assert!(!stops("198.51.100.8:40000", "192.0.2.1:22"));
    }
}

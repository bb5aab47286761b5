//! Follows one packet through all tables of its hooks, in the kernel's order, with translations and marks.

use std::net::IpAddr;

use super::condition::{PacketView, WrittenTos};
use super::{Choice, Doubt, NoWalk, RuleId, Walk, WalkVerdict, walk_chain};
use crate::iptables::model::*;
use crate::iptables::value::{MarkMask, PortMatch, address_bits, address_from};
use crate::net::{Family, Hook, Packet, Protocol, State, Translated};

/// A condition that the packet does not decide, with the rule that has it.
#[derive(Clone, Copy, Debug)]
pub struct UndecidedCondition<'a> {
    /// The table of the rule.
    pub table: TableName,
    /// The rule.
    pub rule: RuleId,
    /// The condition; the answer includes its `!`.
    pub condition: &'a Match,
    /// The packet as the rule sees it.
    pub packet: &'a Packet,
}

/// Answers what neither the packet nor the rules tell. With `None` (not known) the walk ends without an outcome.
pub trait Unknowns {
    /// Answers whether a condition holds, its `!` included.
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool>;

    /// Answers whether a target that may or may not end the table does so: `SYNPROXY`, or one that is not known.
    fn ends(&mut self, _target: &Target) -> Option<bool> {
        Some(true)
    }

    /// Chooses the address of a translation that allows several: a range, or the addresses of this host.
    fn address(&mut self, _nat: &NatTarget, _packet: &Packet) -> Option<IpAddr> {
        None
    }

    /// Chooses the port of a translation that allows several.
    fn port(&mut self, _nat: &NatTarget, _packet: &Packet) -> Option<u16> {
        None
    }

    /// Answers the destination of a packet whose connection was translated before: address and port.
    fn destination(&mut self, _packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        None
    }

    /// Answers whether a RELATED packet is the first of its own connection.
    fn is_first(&mut self, _packet: &Packet) -> Option<bool> {
        None
    }

    /// Answers the device by which a packet of this host leaves after its destination or mark has changed.
    fn device(&mut self, packet: &Packet) -> Option<String> {
        packet.out_device.clone()
    }
}

/// A table that a packet passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkStep {
    /// The table.
    pub table: TableName,
    /// The base chain.
    pub chain: &'static str,
    /// The trace through the chain.
    pub walk: Walk,
    /// The packet behind the table.
    pub packet: Packet,
}

/// The trace of a packet through all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkTrace {
    /// The tables that saw the packet, in order.
    pub steps: Vec<WalkStep>,
    /// The last verdict: [`WalkVerdict::Accept`] if all tables accept the packet, [`WalkVerdict::Other`] for a queue, and never for
    /// a translation or a transparent proxy.
    pub verdict: WalkVerdict,
    /// The packet at the end. Its source is the translated one only if the rule allows a single address.
    pub packet: Packet,
    /// The mark of its connection at the end.
    pub connection_mark: u32,
}

/// Returns the base chains that a packet of a hook passes, in the kernel's order (`enum nf_ip_hook_priorities`).
const fn places(hook: Hook) -> &'static [(TableName, &'static str)] {
    use TableName::{Filter, Mangle, Nat, Raw, Security};
    match hook {
        Hook::Input => &[
            (Raw, "PREROUTING"),
            (Mangle, "PREROUTING"),
            (Nat, "PREROUTING"),
            (Mangle, "INPUT"),
            (Filter, "INPUT"),
            (Security, "INPUT"),
            (Nat, "INPUT"),
        ],
        Hook::Forward => &[
            (Raw, "PREROUTING"),
            (Mangle, "PREROUTING"),
            (Nat, "PREROUTING"),
            (Mangle, "FORWARD"),
            (Filter, "FORWARD"),
            (Security, "FORWARD"),
            (Mangle, "POSTROUTING"),
            (Nat, "POSTROUTING"),
        ],
        Hook::Output => &[
            (Raw, "OUTPUT"),
            (Mangle, "OUTPUT"),
            (Nat, "OUTPUT"),
            (Filter, "OUTPUT"),
            (Security, "OUTPUT"),
            (Mangle, "POSTROUTING"),
            (Nat, "POSTROUTING"),
        ],
    }
}

/// Follows a packet through all tables, as it arrives or as this host sends it.
///
/// The caller gives the hook and the devices, since no rule tells where the packet is routed. Its state is the one that it
/// has if it is tracked: NEW for the first packet of a connection. Its hop limit is the one that the hook sees.
/// `connection_mark` is the mark of its connection, 0 for a new one.
///
/// # Errors
///
/// [`NoWalk`], if `unknowns` does not know an answer, or the rules jump in a loop or to a missing chain.
///
/// ```
/// use fwc::iptables::{Ruleset, UndecidedCondition, Unknowns, WalkVerdict, follow};
/// use fwc::net::{Family, Hook, Packet, State};
///
/// struct Nothing;
/// impl Unknowns for Nothing {
///     fn holds(&mut self, _: UndecidedCondition<'_>) -> Option<bool> {
///         None
///     }
/// }
///
/// let rules = "*nat\n-A PREROUTING -p tcp --dport 443 -j DNAT --to-destination 10.8.0.5:8443\nCOMMIT\n\
///     *filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n";
/// let ruleset = Ruleset::from_text(rules, Family::V4).unwrap();
/// let packet = Packet {
///     family: Family::V4,
///     hook: Hook::Forward,
///     in_device: Some("eth0".to_owned()),
///     out_device: Some("eth1".to_owned()),
///     source: "198.51.100.7".parse().unwrap(),
///     destination: "203.0.113.5".parse().unwrap(),
///     protocol: 6,
///     source_port: Some(40000),
///     destination_port: Some(443),
///     icmp: None,
///     tcp_flags: Some(fwc::net::TcpFlags::SYN),
///     state: State::New,
///     hop_limit: 63,
///     mark: 0,
///     mac: None,
///     translated: Default::default(),
/// };
/// let trace = follow(&ruleset, &packet, 0, &mut Nothing).unwrap();
/// assert_eq!(trace.verdict, WalkVerdict::Accept);
/// assert_eq!(trace.packet.destination.to_string(), "10.8.0.5");
/// assert_eq!(trace.packet.destination_port, Some(8443));
/// assert_eq!(trace.steps.len(), 3); // nat PREROUTING, filter FORWARD, nat POSTROUTING
/// ```
pub fn follow(
    ruleset: &Ruleset,
    packet: &Packet,
    connection_mark: u32,
    unknowns: &mut dyn Unknowns,
) -> Result<WalkTrace, NoWalk> {
    let mut way = Way {
        packet: packet.clone(),
        connection_mark,
        // A packet that comes in by lo was sent by this host: it went through OUTPUT, is tracked, and was translated there.
        // An INVALID packet has no connection to bring along, and is tracked anew.
        looped: packet.hook == Hook::Input
            && packet.in_device.as_deref() == Some("lo")
            && packet.state != State::Invalid,
        rerouted: None,
        tos: WrittenTos::default(),
        unknowns,
    };
    let mut steps = Vec::new();
    for &(name, chain) in places(packet.hook) {
        // Routed again in OUTPUT, the packet still has the first device in filter and security; POSTROUTING sees the new
        // one.
        if chain == "POSTROUTING" && way.rerouted.is_some() {
            way.packet.out_device = way.rerouted.take();
        }
        let Some(table) = ruleset.table(name) else {
            continue;
        };
        if table.chain(chain).is_none() || (name == TableName::Nat && !way.asks_nat(chain)?) {
            continue;
        }
        let walk = way.table(ruleset, table, chain, packet)?;
        let target = walk
            .decided
            .map(|id| &table.chains[id.chain].rules[id.rule].target);
        match target {
            Some(Target::Nat(nat)) => way.translate(nat, chain)?,
            Some(Target::Other(module)) => way.proxied(module),
            _ => {}
        }
        let goes_on = target.is_some_and(goes_on) || walk.verdict == WalkVerdict::Accept;
        steps.push(WalkStep {
            table: name,
            chain,
            walk,
            packet: way.packet.clone(),
        });
        if !goes_on {
            break;
        }
    }
    let verdict = steps.last().map(|step| &step.walk.verdict);
    Ok(WalkTrace {
        verdict: match verdict {
            Some(WalkVerdict::Other(target)) if goes_on(target) => WalkVerdict::Accept,
            Some(verdict) => verdict.clone(),
            None => WalkVerdict::Accept,
        },
        steps,
        packet: way.packet,
        connection_mark: way.connection_mark,
    })
}

/// Returns `true` if the packet continues with the next table although the target ended its walk through this one: it is
/// translated, or handed to a proxy of this host, which INPUT accepts or not.
fn goes_on(target: &Target) -> bool {
    match target {
        Target::Nat(_) => true,
        Target::Other(module) => module.name == "TPROXY",
        _ => false,
    }
}

/// A packet on its way through the tables.
struct Way<'a> {
    packet: Packet,
    connection_mark: u32,
    /// `true` if this host sent the packet to itself.
    looped: bool,
    /// The outgoing device after the packet was routed again. The tables of OUTPUT still see the first one.
    rerouted: Option<String>,
    /// What rules have written into the type of service.
    tos: WrittenTos,
    unknowns: &'a mut dyn Unknowns,
}

impl Way<'_> {
    /// Returns `true` if the nat table sees the packet, which is so for the first packet of a connection. Other packets of
    /// a translated connection are sent where it goes.
    fn asks_nat(&mut self, chain: &str) -> Result<bool, NoWalk> {
        let packet = &self.packet;
        // nat does not see ICMP errors: they are RELATED to the connection that they are about, and are translated with it.
        let icmp = match packet.family {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let before = packet.translated != Translated::default();
        let first = match packet.state {
            State::New => true,
            State::Related if packet.protocol != icmp.0 && !before => {
                let first = self.unknowns.is_first(packet);
                first.ok_or(NoWalk::Choice(Choice::First))?
            }
            State::Invalid | State::Untracked => return Ok(false),
            _ => false,
        };
        let to = matches!(chain, "PREROUTING" | "OUTPUT");
        if !first && before && to {
            let (address, port) = self
                .unknowns
                .destination(packet)
                .ok_or(NoWalk::Choice(Choice::Translation))?;
            self.send_to(Some(address), port, chain)?;
        }
        Ok(first && !self.looped)
    }

    /// Walks the packet through one table, as the chain sees it.
    fn table(
        &mut self,
        ruleset: &Ruleset,
        table: &Table,
        chain: &str,
        first: &Packet,
    ) -> Result<Walk, NoWalk> {
        let mut packet = self.packet.clone();
        match chain {
            "PREROUTING" | "INPUT" => packet.out_device = None,
            "OUTPUT" => packet.in_device = None,
            _ => {}
        }
        // PREROUTING sees the packet before forwarding lowers its hop limit.
        if chain == "PREROUTING" && packet.hook == Hook::Forward {
            packet.hop_limit = packet.hop_limit.saturating_add(1);
        }
        if packet.hook == Hook::Output {
            packet.in_device = None;
        }
        let is_raw = table.name == TableName::Raw;
        if is_raw && !self.looped {
            // Conntrack has not seen the packet yet: to conditions in raw it is INVALID.
            packet.state = State::Invalid;
        }
        // In raw a packet may have a template instead of a connection, whose mark is 0 at first and is not the
        // connection's.
        let mut template_mark = 0;
        let has_connection = !is_raw || packet.state != State::Invalid;
        let hop_limit = packet.hop_limit;
        let mut seen = PacketView {
            first: (packet.state == State::New).then_some(first),
            packet: &mut packet,
            connection_mark: Some(match has_connection {
                true => &mut self.connection_mark,
                false => &mut template_mark,
            }),
            tos: self.tos,
            tracking: None,
        };
        let unknowns = &mut *self.unknowns;
        let mut answers = |rule: RuleId, asked: Doubt<'_>, packet: &Packet| match asked {
            Doubt::Holds(condition) => unknowns.holds(UndecidedCondition {
                table: table.name,
                rule,
                condition,
                packet,
            }),
            Doubt::Ends(target) => unknowns.ends(target),
        };
        let walk = walk_chain(ruleset, table, chain, &mut seen, &mut answers)?;
        self.tos = seen.tos;
        let remarked = packet.mark != self.packet.mark;
        self.packet.mark = packet.mark;
        if packet.hop_limit != hop_limit {
            let counted = u8::from(chain == "PREROUTING" && packet.hook == Hook::Forward);
            self.packet.hop_limit = packet.hop_limit.saturating_sub(counted);
        }
        if is_raw && packet.state == State::Untracked {
            self.packet.state = State::Untracked;
        }
        if remarked && chain == "OUTPUT" && table.name == TableName::Mangle {
            self.reroute()?;
        }
        Ok(walk)
    }

    /// Applies the mark of `TPROXY`, by which the packet is routed to this host (`tproxy_tg4` of `xt_TPROXY.c`).
    fn proxied(&mut self, module: &Module) {
        if let Some(MarkMask { value, mask }) = module.proxy_mark() {
            self.packet.mark = (self.packet.mark & !mask) ^ value;
        }
    }

    /// Routes the packet again, after its mark or its destination has changed in OUTPUT.
    fn reroute(&mut self) -> Result<(), NoWalk> {
        let device = self.unknowns.device(&self.packet);
        let device = device.ok_or(NoWalk::Choice(Choice::Device))?;
        self.rerouted = Some(device);
        Ok(())
    }

    /// Gives the packet a new destination. In OUTPUT it is routed again if the address changed.
    fn send_to(
        &mut self,
        address: Option<IpAddr>,
        port: Option<u16>,
        chain: &str,
    ) -> Result<(), NoWalk> {
        let packet = &mut self.packet;
        if packet.destination_port.is_some() && port.is_some() {
            packet.destination_port = port;
        }
        let address = address.unwrap_or(packet.destination);
        let moved = std::mem::replace(&mut packet.destination, address) != address;
        match moved && chain == "OUTPUT" {
            true => self.reroute(),
            false => Ok(()),
        }
    }

    /// Translates the packet: its destination in PREROUTING and OUTPUT, its source in INPUT and POSTROUTING.
    fn translate(&mut self, nat: &NatTarget, chain: &str) -> Result<(), NoWalk> {
        let to = matches!(chain, "PREROUTING" | "OUTPUT");
        let old = match to {
            true => self.packet.destination,
            false => self.packet.source,
        };
        let family = self.packet.family;
        let single = |(first, last): (IpAddr, IpAddr)| (first == last).then_some(first);
        let known = match nat.kind {
            NatKind::Netmap => nat.addresses.map(|(first, last)| {
                let [first, last, old] = [first, last, old].map(address_bits);
                let host = first ^ last;
                Some(address_from(family, (first & !host) | (old & host)))
            }),
            // In OUTPUT, `REDIRECT` leads to the loopback address; elsewhere to an address of the incoming device.
            NatKind::Redirect if chain == "OUTPUT" => Some(Some(match family {
                Family::V4 => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            })),
            NatKind::Redirect | NatKind::Masquerade => Some(None),
            NatKind::Dnat | NatKind::Snat => nat.addresses.map(single),
        };
        let range = nat.ports.filter(|_| self.packet.destination_port.is_some());
        let port = range
            .filter(|PortMatch { first, last }| first == last)
            .map(|range| range.first);
        if !to {
            // An unknown new source does not matter: no later table sees it. It is left as it was.
            if let Some(Some(address)) = known {
                self.packet.source = address;
            }
            if let (Some(_), Some(port)) = (self.packet.source_port, port) {
                self.packet.source_port = Some(port);
            }
            self.packet.translated.source = true;
            return Ok(());
        }
        let address = match known {
            Some(None) => {
                let chosen = self.unknowns.address(nat, &self.packet);
                Some(chosen.ok_or(NoWalk::Choice(Choice::Address))?)
            }
            Some(known) => known,
            None => None,
        };
        let port = match (range, port) {
            (Some(_), None) => {
                let chosen = self.unknowns.port(nat, &self.packet);
                Some(chosen.ok_or(NoWalk::Choice(Choice::Port))?)
            }
            (_, port) => port,
        };
        let before = (self.packet.destination, self.packet.destination_port);
        self.send_to(address, port, chain)?;
        let after = (self.packet.destination, self.packet.destination_port);
        self.packet.translated.destination |= before != after;
        Ok(())
    }
}

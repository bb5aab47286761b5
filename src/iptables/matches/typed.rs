//! Makes the matches that have a type of their own in [`Match`] from their options.

use super::{CONNTRACK, SET};
use crate::iptables::argument::{self, Parsed};
use crate::iptables::model::*;
use crate::iptables::names::Transport;
use crate::iptables::spec::*;
use crate::iptables::value::{Negatable, PortMatch, address_bits, write_address};
use crate::iptables::words;
use crate::net::Family;

pub(super) fn tcp(given: &Arguments<'_, '_>) -> Made<Match> {
    let range = |text: &str| argument::port_range(text, Transport::Tcp);
    let option = given.read("tcp-option", |text| {
        argument::number(text, 1, 255).map(|number| number as u8)
    })?;
    let mut flags = None;
    if let Some(syn) = given.find("syn") {
        flags = Some(Negatable {
            negated: syn.negated,
            value: argument::SYN,
        });
    } else if let Some(two) = given.find("tcp-flags") {
        let value = argument::tcp_flags(given.text(two), given.second(two))
            .map_err(|message| given.problem(two, message))?;
        flags = Some(Negatable {
            negated: two.negated,
            value,
        });
    }
    // `--tcp-flags NONE NONE` holds for every packet, and is not saved.
    let flags =
        flags.filter(|test| test.negated || test.value.mask.0 != 0 || test.value.set.0 != 0);
    let mut ports = Ports {
        source: given.read("sport", range)?,
        destination: given.read("dport", range)?,
    };
    if option.is_none() {
        ports = native(ports);
    }
    Ok(Match::Tcp(Tcp {
        ports: without_all(ports),
        option,
        flags,
    }))
}

/// Turns `! 0:N` into the ports above N, as iptables-nft keeps and saves it.
pub(super) fn native(ports: Ports) -> Ports {
    let turned = |port: Negatable<PortMatch>| match port {
        Negatable {
            negated: true,
            value: PortMatch { first: 0, last },
        } if last > 0 && last < u16::MAX => Negatable {
            negated: false,
            value: PortMatch {
                first: last + 1,
                last: u16::MAX,
            },
        },
        port => port,
    };
    Ports {
        source: ports.source.map(turned),
        destination: ports.destination.map(turned),
    }
}

/// Removes ranges of all ports, which are no condition and are not printed. The negated range is not printed either, but
/// matches nothing; the reader warns of it.
pub(super) fn without_all(ports: Ports) -> Ports {
    let some = |port: &Negatable<PortMatch>| port.negated || port.value != PortMatch::ALL;
    Ports {
        source: ports.source.filter(some),
        destination: ports.destination.filter(some),
    }
}

/// Reads the ports of `dccp` as they are written.
pub(super) fn loose_ports_kept(given: &Arguments<'_, '_>) -> Made<Ports> {
    Ok(Ports {
        source: given.read("sport", argument::loose_port_range)?,
        destination: given.read("dport", argument::loose_port_range)?,
    })
}

/// Reads the ports of `udp` as iptables-nft saves them.
pub(super) fn loose_ports_of(given: &Arguments<'_, '_>) -> Made<Ports> {
    Ok(without_all(native(loose_ports_kept(given)?)))
}

pub(super) fn sctp(given: &Arguments<'_, '_>) -> Made<Match> {
    let range = |text: &str| argument::port_range(text, Transport::Sctp);
    let ports = Ports {
        source: given.read("sport", range)?,
        destination: given.read("dport", range)?,
    };
    let mut settings = Vec::new();
    if let Some(chunks) = given.find("chunk-types") {
        let value = words::chunk_types(given.text(chunks), given.second(chunks))
            .map_err(|message| given.problem(chunks, message))?;
        settings.push(ModuleOption {
            name: "chunk-types",
            negated: chunks.negated,
            value: value.into(),
        });
    }
    Ok(Match::Sctp(ports, settings))
}

pub(super) fn multiport(given: &Arguments<'_, '_>) -> Made<Match> {
    let [one, ..] = given.given else {
        return Err(given.missing("no ports given".into()));
    };
    // The protocol must stand before the ports: the tool needs it to look up the names of services.
    let protocol = one.protocol.filter(|protocol| !protocol.negated);
    let transport = match protocol.map(|protocol| protocol.value) {
        Some(6) => Transport::Tcp,
        Some(17) => Transport::Udp,
        Some(132) => Transport::Sctp,
        Some(33 | 136) => Transport::Other,
        _ => {
            let help = "needs `-p tcp`, `-p udp`, `-p udplite`, `-p sctp` or `-p dccp` before it";
            return Err(given.problem(one, help.into()));
        }
    };
    let side = match one.option.name {
        "sports" => PortSide::Source,
        "dports" => PortSide::Destination,
        _ => PortSide::Either,
    };
    let ports = given.need(one.option.name, |text| {
        argument::port_list(text, Some(transport))
    })?;
    Ok(Match::Multiport(Negatable {
        negated: ports.negated,
        value: Box::new(Multiport {
            side,
            ports: ports.value,
        }),
    }))
}

pub(super) fn conntrack(given: &Arguments<'_, '_>) -> Made<Match> {
    if given.given.is_empty() {
        return Err(given.missing("at least one option is required".into()));
    }
    Ok(Match::Conntrack(Conntrack {
        states: given.read("ctstate", |text| argument::states(text, true))?,
        settings: given.settings(&CONNTRACK)?,
    }))
}

pub(super) fn address_type(given: &Arguments<'_, '_>) -> Made<Match> {
    let types = |text: &str| {
        let types = argument::address_types(text)?;
        // The kernel has these types in IPv4 only (`xt_addrtype.c` refuses them for IPv6).
        let foreign = [
            "BROADCAST",
            "BLACKHOLE",
            "PROHIBIT",
            "THROW",
            "NAT",
            "XRESOLVE",
        ];
        match types
            .names()
            .find(|name| given.family == Family::V6 && foreign.contains(name))
        {
            Some(name) => Err(format!("IPv6 has no type {name}")),
            None => Ok(types),
        }
    };
    let types = AddressType {
        source: given.read("src-type", types)?,
        destination: given.read("dst-type", types)?,
        limit: match (given.has("limit-iface-in"), given.has("limit-iface-out")) {
            (true, _) => Some(Direction::In),
            (_, true) => Some(Direction::Out),
            _ => None,
        },
    };
    match types.source.is_none() && types.destination.is_none() {
        true => Err(given.missing("you must specify --src-type or --dst-type".into())),
        false => Ok(Match::AddressType(types)),
    }
}

pub(super) fn address_range(given: &Arguments<'_, '_>) -> Made<Match> {
    let range = |text: &str| argument::address_range(text, given.family);
    let range = RangeMatch {
        source: given.read("src-range", range)?,
        destination: given.read("dst-range", range)?,
    };
    match range == RangeMatch::default() {
        true => Err(given.missing("you must specify --src-range or --dst-range".into())),
        false => Ok(Match::AddressRange(Box::new(range))),
    }
}

pub(super) fn set(given: &Arguments<'_, '_>) -> Made<Match> {
    let Some(set) = given.find("match-set") else {
        return Err(given.missing("you must specify `--match-set` with proper arguments".into()));
    };
    let from_source =
        words::set_directions(given.second(set)).map_err(|message| given.problem(set, message))?;
    let name = given.text(set);
    if name.len() > 31 {
        return Err(given.problem(
            set,
            format!("the set's name `{name}` is longer than 31 bytes"),
        ));
    }
    let mut settings = given.settings(&SET)?;
    // Counters are updated by default; only the negation changes something.
    settings.retain(|setting| setting.negated || !setting.name.starts_with("update-"));
    Ok(Match::Set(Box::new(SetMatch {
        negated: set.negated,
        name: name.into(),
        from_source,
        settings,
    })))
}

pub(super) fn hop_limit(given: &Arguments<'_, '_>) -> Made<Match> {
    let [one, ..] = given.given else {
        return Err(given.missing("a comparison must be given".into()));
    };
    let number = |text: &str| argument::number(text, 0, 255).map(|number| number as u8);
    let limit = given.need(one.option.name, number)?;
    Ok(Match::HopLimit(match one.option.name {
        "ttl-eq" | "hl-eq" => HopLimitMatch::Equal(limit),
        "ttl-lt" | "hl-lt" => HopLimitMatch::Less(limit.value),
        _ => HopLimitMatch::Greater(limit.value),
    }))
}

pub(super) fn packet_type_match(given: &Arguments<'_, '_>) -> Made<Match> {
    // A packet to another host (`otherhost`) is seen in promiscuous mode only. The model has no packets of this type, so
    // the match is kept as settings.
    match given
        .find("pkt-type")
        .filter(|one| given.text(one).eq_ignore_ascii_case("otherhost"))
    {
        Some(one) => Ok(other_match(
            "pkttype",
            vec![ModuleOption {
                name: "pkt-type",
                negated: one.negated,
                value: "otherhost".into(),
            }],
        )),
        None => Ok(Match::PacketType(given.need("pkt-type", packet_type)?)),
    }
}

pub(super) fn packet_type(text: &str) -> Parsed<PacketType> {
    match text.to_ascii_lowercase().as_str() {
        "unicast" | "host" => Ok(PacketType::Unicast),
        "broadcast" | "bcast" => Ok(PacketType::Broadcast),
        "multicast" | "mcast" => Ok(PacketType::Multicast),
        _ => Err(format!("bad packet type `{text}`")),
    }
}

pub(super) fn protocol_number(text: &str, _: Family) -> Parsed<String> {
    argument::protocol(text).map(|number| number.to_string())
}

pub(super) fn loose_ports(text: &str, _: Family) -> Parsed<String> {
    argument::loose_port_range(text).map(|range| range.to_string())
}

pub(super) fn connection_direction(text: &str, _: Family) -> Parsed<String> {
    match text.to_ascii_uppercase().as_str() {
        word @ ("ORIGINAL" | "REPLY") => Ok(word.to_owned()),
        _ => Err(format!("`{text}` is neither ORIGINAL nor REPLY")),
    }
}

/// An address with its mask, as several matches print it: the host bits are kept, and a mask of all bits is not printed.
pub(in crate::iptables) fn plain_network(text: &str, family: Family) -> Parsed<String> {
    let (address, mask) = argument::address_and_mask(text, family)?;
    let address = crate::iptables::value::address_from(family, address);
    let mut out = String::new();
    let _ = write_address(&mut out, address);
    let network = crate::iptables::value::Network::new(family, address_bits(address), mask);
    match network.prefix_length() {
        Some(length) if length == family.bits() => {}
        Some(length) => out.push_str(&format!("/{length}")),
        None => {
            out.push('/');
            let _ = write_address(&mut out, network.mask());
        }
    }
    Ok(out)
}

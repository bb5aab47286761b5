//! Expands services to matches of single lines. No packet matches two of them, so that none is logged twice; an exception
//! is the authentication header of IPv6, which may come before any protocol.

use crate::net::{Family, IcmpType, IntervalSet, Protocol};
use crate::resolve::{ServicePart, ServicePorts};

/// One line's protocol match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceMatch {
    /// Every packet.
    All,
    /// Every packet of a protocol.
    Protocol(Protocol),
    /// Every packet with an authentication header, in IPv6 (`-m ah`). There `-p ah` matches nothing with iptables-legacy,
    /// which skips the header.
    AuthHeader,
    /// Ports of a protocol.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// Source ports; `None` for every port.
        source: Option<PortList>,
        /// Destination ports; `None` for every port.
        destination: Option<PortList>,
    },
    /// An ICMP type: `8` or `3/4`.
    Icmp(String),
    /// An ICMPv6 type.
    Icmpv6(String),
}

/// Ports of one match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortList {
    /// One port or range, for the protocol's own match.
    One(String),
    /// Several ports and ranges, for multiport.
    Several(String),
}

/// The largest number of ports in a multiport match; a range counts as two (`XT_MULTI_PORTS`, `xt_multiport.h`).
const MULTIPORT_SLOTS: usize = 15;
const LAST_PORT: u128 = u16::MAX as u128;

/// Returns the matches that together match exactly the parts that exist in the family.
pub fn matches(parts: Option<&Vec<ServicePart>>, family: Family) -> Vec<ServiceMatch> {
    let Some(parts) = parts else {
        return vec![ServiceMatch::All];
    };
    let mut found = Vec::new();
    let mut with_ports: Vec<Protocol> = Vec::new();
    for part in parts {
        match part {
            ServicePart::Protocol(protocol) => found.push(match (family, *protocol) {
                (Family::V6, Protocol::AH) => ServiceMatch::AuthHeader,
                (_, protocol) => ServiceMatch::Protocol(protocol),
            }),
            ServicePart::EveryIcmp(of) if *of == family => {
                found.push(ServiceMatch::Protocol(match of {
                    Family::V4 => Protocol::ICMP,
                    Family::V6 => Protocol::ICMPV6,
                }));
            }
            ServicePart::EveryIcmp(_) => {}
            // A type beside all types would match a packet twice.
            ServicePart::Icmp(_) | ServicePart::Icmpv6(_)
                if parts.contains(&ServicePart::EveryIcmp(family)) => {}
            ServicePart::Icmp(kind) if family == Family::V4 => {
                let all = icmp_types(parts, family);
                found.extend(uncovered(*kind, &all).map(ServiceMatch::Icmp));
            }
            ServicePart::Icmpv6(kind) if family == Family::V6 => {
                let all = icmp_types(parts, family);
                found.extend(uncovered(*kind, &all).map(ServiceMatch::Icmpv6));
            }
            ServicePart::Ports(ports)
                if !has_whole(parts, ports.protocol) && !with_ports.contains(&ports.protocol) =>
            {
                // All ports of a protocol are merged where the first are named, which needs the fewest lines.
                with_ports.push(ports.protocol);
                found.extend(port_matches(parts, ports.protocol));
            }
            ServicePart::Ports(_) | ServicePart::Icmp(_) | ServicePart::Icmpv6(_) => {}
        }
    }
    let mut unique = Vec::with_capacity(found.len());
    for service in found {
        if !unique.contains(&service) {
            unique.push(service);
        }
    }
    unique
}

fn has_whole(parts: &[ServicePart], protocol: Protocol) -> bool {
    parts.contains(&ServicePart::Protocol(protocol))
}

fn icmp_types(parts: &[ServicePart], family: Family) -> Vec<IcmpType> {
    let types = parts.iter().filter_map(|part| match (part, family) {
        (ServicePart::Icmp(kind), Family::V4) | (ServicePart::Icmpv6(kind), Family::V6) => {
            Some(*kind)
        }
        _ => None,
    });
    types.collect()
}

/// Returns an ICMP type as iptables takes it; `None` if a wider one is in the same list.
fn uncovered(kind: IcmpType, all: &[IcmpType]) -> Option<String> {
    let wider = all.iter().any(|other| *other != kind && other.covers(kind));
    (!wider).then(|| match kind.code {
        Some(code) => format!("{}/{code}", kind.kind),
        None => kind.kind.to_string(),
    })
}

/// Source and destination ports; a packet must match both.
type PortBox = (IntervalSet, IntervalSet);

fn port_matches(parts: &[ServicePart], protocol: Protocol) -> Vec<ServiceMatch> {
    let all = || IntervalSet::from_intervals([(0, LAST_PORT)]);
    // Ports with the same source ports are merged to one box.
    let mut boxes: Vec<PortBox> = Vec::new();
    for part in parts {
        let ServicePart::Ports(ServicePorts {
            protocol: of,
            source,
            destination,
        }) = part
        else {
            continue;
        };
        if *of != protocol {
            continue;
        }
        let source = source.clone().unwrap_or_else(all);
        let destination = destination.clone().unwrap_or_else(all);
        match boxes.iter_mut().find(|(other, _)| *other == source) {
            Some((_, ports)) => *ports = ports.union(&destination),
            None => boxes.push((source, destination)),
        }
    }
    let mut found = Vec::new();
    for (source, destination) in disjoint(boxes) {
        for source in lists(&source, protocol) {
            for destination in lists(&destination, protocol) {
                found.push(ServiceMatch::Ports {
                    protocol,
                    source: source.clone(),
                    destination,
                });
            }
        }
    }
    found
}

/// Splits boxes so that no two have a packet in common.
fn disjoint(boxes: Vec<PortBox>) -> Vec<PortBox> {
    let mut done: Vec<PortBox> = Vec::with_capacity(boxes.len());
    for new in boxes {
        let mut pieces = vec![new];
        for (source, destination) in &done {
            pieces = pieces
                .into_iter()
                .flat_map(|(s, d)| {
                    let beside = (s.difference(source), d.clone());
                    let above = (s.intersection(source), d.difference(destination));
                    [beside, above]
                })
                .filter(|(s, d)| !s.is_empty() && !d.is_empty())
                .collect();
        }
        done.extend(pieces);
    }
    done
}

/// Returns ports in lists that each fit a match; one `None` for all ports.
fn lists(ports: &IntervalSet, protocol: Protocol) -> Vec<Option<PortList>> {
    let intervals = ports.intervals();
    if *intervals == [(0, LAST_PORT)] {
        return vec![None];
    }
    // iptables has `-m tcp`, `-m udp`, `-m sctp` and `-m dccp`, but for the ports of udplite only multiport.
    if let [one] = intervals
        && protocol != Protocol::UDPLITE
    {
        return vec![Some(PortList::One(shown(one)))];
    }
    let mut lists = Vec::new();
    let (mut list, mut slots) = (Vec::new(), 0);
    for interval in intervals {
        let needed = if interval.0 == interval.1 { 1 } else { 2 };
        if slots + needed > MULTIPORT_SLOTS {
            lists.push(std::mem::take(&mut list));
            slots = 0;
        }
        slots += needed;
        list.push(shown(interval));
    }
    lists.push(list);
    lists
        .into_iter()
        .map(|list| Some(PortList::Several(list.join(","))))
        .collect()
}

fn shown((first, last): &(u128, u128)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}:{last}")
    }
}

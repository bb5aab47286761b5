//! Decides whether a packet belongs to a service.

use super::{Circumstance, Evaluation};
use crate::net::{Family, IcmpType, Packet, PortRange, Protocol};
use crate::policy::{Helper, Policy, Service, ServiceItem, ServiceParts, catalog};
use crate::source::Located;

/// Returns `true` if the packet matches one of the services.
pub(super) fn any_has(evaluation: Evaluation<'_>, items: &[Located<ServiceItem>]) -> bool {
    let packet = evaluation.packet;
    items.iter().any(|item| match &item.value {
        ServiceItem::Name(name) => {
            all_parts(evaluation.policy, name).any(|parts| part_has(evaluation, parts))
        }
        ServiceItem::Ports(protocol, ports) => {
            protocol.0 == packet.protocol && is_in(packet.destination_port, ports)
        }
    })
}

/// Returns `true` if one of the services has a part in the family.
pub(super) fn exist(policy: &Policy, items: &[Located<ServiceItem>], family: Family) -> bool {
    items.iter().any(|item| match &item.value {
        ServiceItem::Ports(..) => true,
        ServiceItem::Name(name) => all_parts(policy, name).any(|parts| {
            let icmp = match family {
                Family::V4 => &parts.icmp,
                Family::V6 => &parts.icmpv6,
            };
            let everywhere = !parts.ports.is_empty()
                || !parts.source_ports.is_empty()
                || parts.protocol.is_some();
            let all = parts.every_icmp.iter().any(|of| of.value == family);
            everywhere || all || !icmp.is_empty()
        }),
    })
}

/// Returns `true` if one of the services has a destination port, without regard to source ports.
pub(super) fn asks_for(
    policy: &Policy,
    items: &[Located<ServiceItem>],
    protocol: Protocol,
    port: u16,
) -> bool {
    let ranges = ranges(policy, items, protocol);
    ranges.iter().any(|range| is_in(Some(port), range))
}

/// Returns the first port of each range of the services' destination ports, and port 1, which stands for all ports of a
/// whole protocol.
pub(super) fn first_ports(
    policy: &Policy,
    items: &[Located<ServiceItem>],
    protocol: Protocol,
) -> Vec<u16> {
    let ranges = ranges(policy, items, protocol);
    ranges.iter().map(|range| range.first).chain([1]).collect()
}

/// Returns the destination ports of a protocol that the services have, without regard to source ports.
pub(super) fn ranges(
    policy: &Policy,
    items: &[Located<ServiceItem>],
    protocol: Protocol,
) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    for item in items {
        match &item.value {
            ServiceItem::Ports(of, range) if *of == protocol => ranges.push(*range),
            ServiceItem::Ports(..) => {}
            ServiceItem::Name(name) => {
                let parts = all_parts(policy, name).flat_map(|parts| &parts.ports);
                let own = parts.filter(|ports| ports.value.0 == protocol);
                ranges.extend(own.map(|ports| ports.value.1));
            }
        }
    }
    ranges
}

/// Returns the helpers of the services whose own ports match the packet, each once, by name.
pub(super) fn helpers<'p>(
    policy: &'p Policy,
    items: &[Located<ServiceItem>],
    packet: &Packet,
) -> Vec<&'p Helper> {
    let protocol = Protocol(packet.protocol);
    let mut helpers = Vec::new();
    for item in items {
        let ServiceItem::Name(name) = &item.value else {
            continue;
        };
        for service in all_services(policy, name) {
            let helper = service.helper.as_ref().map(|helper| &helper.value);
            let read = helper.filter(|_| ports_have(&service.parts, protocol, packet));
            helpers.extend(read.filter(|helper| !helpers.contains(helper)));
        }
    }
    helpers.sort();
    helpers
}

/// Returns the parts of a service and of the services that it includes.
fn all_parts<'p>(policy: &'p Policy, name: &str) -> impl Iterator<Item = &'p ServiceParts> {
    all_services(policy, name).map(|service| &service.parts)
}

/// Returns a service and the services that it includes, each once.
fn all_services<'p>(policy: &'p Policy, name: &str) -> impl Iterator<Item = &'p Service> {
    let mut names = vec![name.to_owned()];
    let mut found: Vec<&Service> = Vec::new();
    let mut next = 0;
    while let Some(name) = names.get(next) {
        if let Some(service) = named(policy, name) {
            found.push(service);
            for included in &service.include {
                if !names.contains(&included.value) {
                    names.push(included.value.clone());
                }
            }
        }
        next += 1;
    }
    found.into_iter()
}

/// Returns the service of a name. One of the policy replaces the built-in one.
fn named<'p>(policy: &'p Policy, name: &str) -> Option<&'p Service> {
    match policy.services.get(name) {
        Some(own) => Some(&own.value),
        None => catalog(name).map(|entry| &entry.service),
    }
}

fn part_has(evaluation: Evaluation<'_>, parts: &ServiceParts) -> bool {
    let packet = evaluation.packet;
    let protocol = Protocol(packet.protocol);
    let whole_protocol = parts.protocol.as_ref().is_some_and(|wanted| {
        // In IPv6 an authentication header precedes the protocol of the packet.
        match (packet.family, wanted.value) {
            (Family::V6, Protocol::AH) => (evaluation.holds)(Circumstance::AuthHeader),
            (_, wanted) => wanted == protocol,
        }
    });
    let types = match packet.family {
        Family::V4 if protocol == Protocol::ICMP => parts.icmp.as_slice(),
        Family::V6 if protocol == Protocol::ICMPV6 => parts.icmpv6.as_slice(),
        _ => &[],
    };
    // The request of a reply has no type if the reply is no answer, so `any` asks for a type, too.
    let is_icmp = match packet.family {
        Family::V4 => protocol == Protocol::ICMP,
        Family::V6 => protocol == Protocol::ICMPV6,
    };
    let mut every = parts.every_icmp.iter().map(|of| of.value);
    let any_type = is_icmp && packet.icmp.is_some() && every.any(|of| of == packet.family);
    whole_protocol
        || any_type
        || ports_have(parts, protocol, packet)
        || types.iter().any(|icmp| is_type(packet.icmp, icmp.value))
}

/// Returns `true` if the packet matches the ports of a service. If it has source and destination ports of one protocol,
/// both must match.
fn ports_have(parts: &ServiceParts, protocol: Protocol, packet: &Packet) -> bool {
    let of_protocol = |ports: &'_ [Located<(Protocol, PortRange)>]| -> Vec<PortRange> {
        let ports = ports.iter().map(|ports| ports.value);
        ports
            .filter(|(of, _)| *of == protocol)
            .map(|(_, range)| range)
            .collect()
    };
    let destinations = of_protocol(&parts.ports);
    let sources = of_protocol(&parts.source_ports);
    let fits = |wanted: &[PortRange], port| {
        wanted.is_empty() || wanted.iter().any(|range| is_in(port, range))
    };
    !(destinations.is_empty() && sources.is_empty())
        && fits(&destinations, packet.destination_port)
        && fits(&sources, packet.source_port)
}

fn is_in(port: Option<u16>, range: &PortRange) -> bool {
    port.is_some_and(|port| (range.first..=range.last).contains(&port))
}

fn is_type(icmp: Option<(u8, u8)>, wanted: IcmpType) -> bool {
    icmp.is_some_and(|(kind, code)| {
        kind == wanted.kind && wanted.code.is_none_or(|wanted| wanted == code)
    })
}

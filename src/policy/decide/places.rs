//! Where packets come from and go to: `from` and `to` of a rule.

use super::{Way, addresses};
use crate::net::{Family, Hook, InterfacePattern};
use crate::policy::{AddressExpression, AddressItem, Policy, PolicyRule, PolicyZone};
use crate::source::Located;

/// One element of `from` with one of `to`.
pub(super) struct EndpointPair<'r> {
    from: &'r str,
    to: &'r str,
}

/// All pairs of from × to, with what is meant where one of them is not written.
pub(super) fn pairs(rule: &PolicyRule) -> Vec<EndpointPair<'_>> {
    let from: Vec<&str> = match &rule.from {
        Some(places) => places.iter().map(|place| place.value.as_str()).collect(),
        None => vec!["any"],
    };
    let to: Vec<&str> = match &rule.to {
        Some(places) => places.iter().map(|place| place.value.as_str()).collect(),
        None if from.iter().all(|place| *place == "host") => vec!["any"],
        None => vec!["host"],
    };
    from.iter()
        .flat_map(|from| to.iter().map(move |to| EndpointPair { from, to }))
        .collect()
}

impl<'r> EndpointPair<'r> {
    /// From the one to the other.
    pub fn new(from: &'r str, to: &'r str) -> Self {
        Self { from, to }
    }

    /// The way back.
    pub fn turned(&self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }

    /// Where packets come from.
    pub fn from(&self) -> &'r str {
        self.from
    }

    /// Where they go.
    pub fn to(&self) -> &'r str {
        self.to
    }

    /// The hook of the pair; host × host has none.
    pub fn hook(&self) -> Option<Hook> {
        match (self.from, self.to) {
            ("host", "host") => None,
            ("host", _) => Some(Hook::Output),
            (_, "host") => Some(Hook::Input),
            _ => Some(Hook::Forward),
        }
    }

    /// Whether any packet of the family goes from the one to the other, from the rule's sources to its destinations.
    pub fn exists(&self, policy: &Policy, rule: &PolicyRule, family: Family) -> bool {
        place_exists(policy, self.from, rule.source.as_ref(), family)
            && place_exists(policy, self.to, rule.destination.as_ref(), family)
    }
}

impl Way<'_> {
    /// Whether the packet goes from the one to the other.
    pub(super) fn goes(&self, pair: &EndpointPair<'_>) -> bool {
        let packet = self.packet;
        pair.hook() == Some(packet.hook)
            && self.is_at(pair.from, packet.in_device.as_deref(), true)
            && self.is_at(pair.to, packet.out_device.as_deref(), false)
    }

    /// Whether the packet's source, or else its destination, is behind the device and in the place. `host` and `any`
    /// ask nothing.
    pub(super) fn is_at(&self, place: &str, device: Option<&str>, source: bool) -> bool {
        if ["host", "any"].contains(&place) {
            return true;
        }
        members(self.policy, place)
            .iter()
            .any(|member| self.is_in_member(member, device, source))
    }

    /// The same for one part of a place.
    pub(super) fn is_in_member(
        &self,
        member: &MemberCondition<'_>,
        device: Option<&str>,
        source: bool,
    ) -> bool {
        let address = match source {
            true => self.packet.source,
            false => self.packet.destination,
        };
        let networks = member.networks;
        member.interface.is_none_or(|name| self.is_on(name, device))
            && networks.is_none_or(|networks| self.is_any(networks, address, source))
    }

    /// Whether the device is one of the interface's, in a family that it carries.
    fn is_on(&self, interface: &str, device: Option<&str>) -> bool {
        let Some(interface) = self.policy.interfaces.get(interface) else {
            return false;
        };
        let mut devices = interface.value.devices.iter();
        interface.value.scope.has(self.packet.family)
            && devices.any(|pattern| device.is_some_and(|device| is_named(&pattern.value, device)))
    }
}

/// Whether a place has any address of a family among those that a rule asks for.
pub(super) fn place_exists(
    policy: &Policy,
    place: &str,
    asked: Option<&AddressExpression>,
    family: Family,
) -> bool {
    if ["host", "any"].contains(&place) {
        return addresses::exist(policy, asked, None, family);
    }
    members(policy, place).iter().any(|member| {
        let scope = member
            .interface
            .and_then(|name| policy.interfaces.get(name))
            .is_none_or(|interface| interface.value.scope.has(family));
        scope && addresses::exist(policy, asked, member.networks, family)
    })
}

/// A part of a zone: behind one interface, or in some networks, or both.
pub(super) struct MemberCondition<'p> {
    pub interface: Option<&'p str>,
    pub networks: Option<&'p [Located<AddressItem>]>,
}

/// The parts of a zone, and of the zones in it; an interface is its own only part.
pub(super) fn members<'p>(policy: &'p Policy, place: &'p str) -> Vec<MemberCondition<'p>> {
    let mut names = vec![place];
    let mut members = Vec::new();
    let mut next = 0;
    while let Some(name) = names.get(next).copied() {
        next += 1;
        match policy.zones.get(name).map(|zone| &zone.value) {
            None => members.push(MemberCondition {
                interface: Some(name),
                networks: None,
            }),
            Some(PolicyZone::Union(parts)) => {
                for part in parts {
                    if !names.contains(&part.value.as_str()) {
                        names.push(&part.value);
                    }
                }
            }
            Some(PolicyZone::Hosts {
                interfaces: None,
                networks,
            }) => members.push(MemberCondition {
                interface: None,
                networks: networks.as_deref(),
            }),
            Some(PolicyZone::Hosts {
                interfaces: Some(interfaces),
                networks,
            }) => members.extend(interfaces.iter().map(|interface| MemberCondition {
                interface: Some(interface.value.as_str()),
                networks: networks.as_deref(),
            })),
        }
    }
    members
}

/// iptables(8): a trailing `+` is every name that begins so.
pub(super) fn is_named(pattern: &InterfacePattern, device: &str) -> bool {
    match pattern.as_str().strip_suffix('+') {
        Some(beginning) => device.starts_with(beginning),
        None => device == pattern.as_str(),
    }
}

//! Decides `from` and `to` of a rule.

use super::{Circumstance, Evaluation, addresses};
use crate::net::{Family, Hook, InterfacePattern};
use crate::policy::{AddressExpression, AddressItem, Policy, PolicyRule, PolicyZone};
use crate::source::Located;

/// One element of `from` with one of `to`.
pub(super) struct EndpointPair<'r> {
    from: &'r str,
    to: &'r str,
}

/// Returns all pairs of `from` and `to`, with the defaults of keys that are not written.
pub(super) fn pairs(rule: &PolicyRule) -> Vec<EndpointPair<'_>> {
    let from: Vec<&str> = match &rule.from {
        Some(places) => places.iter().map(|place| place.value.as_str()).collect(),
        None => vec!["any"],
    };
    let to: Vec<&str> = match &rule.to {
        Some(places) => places.iter().map(|place| place.value.as_str()).collect(),
        // Negated: every device but those that `is_left_out` knows.
        None if rule.not_to.is_some() => vec!["any"],
        None if from.iter().all(|place| *place == "host") => vec!["any"],
        None => vec!["host"],
    };
    from.iter()
        .flat_map(|from| to.iter().map(move |to| EndpointPair { from, to }))
        .collect()
}

impl<'r> EndpointPair<'r> {
    /// Returns the pair of two names.
    pub fn new(from: &'r str, to: &'r str) -> Self {
        Self { from, to }
    }

    /// Returns the pair of the opposite direction.
    pub fn reversed(&self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }

    /// Returns the element of `from`.
    pub fn from(&self) -> &'r str {
        self.from
    }

    /// Returns the element of `to`.
    pub fn to(&self) -> &'r str {
        self.to
    }

    /// Returns the hook of the pair; host with host has none.
    pub fn hook(&self) -> Option<Hook> {
        match (self.from, self.to) {
            ("host", "host") => None,
            ("host", _) => Some(Hook::Output),
            (_, "host") => Some(Hook::Input),
            _ => Some(Hook::Forward),
        }
    }

    /// Returns `true` if some packet of the family matches the pair and the rule's `source` and `destination`.
    pub fn exists(&self, policy: &Policy, rule: &PolicyRule, family: Family) -> bool {
        place_exists(policy, self.from, rule.source.as_ref(), family)
            && place_exists(policy, self.to, rule.destination.as_ref(), family)
    }
}

impl Evaluation<'_> {
    /// Returns `true` if the packet matches the pair in its hook.
    pub(super) fn goes(&self, pair: &EndpointPair<'_>) -> bool {
        let packet = self.packet;
        pair.hook() == Some(packet.hook)
            && self.is_at(pair.from, packet.in_device.as_deref(), true)
            && self.is_at(pair.to, packet.out_device.as_deref(), false)
    }

    /// Returns `true` if the packet's source (or destination) and the device match an element of `from` (or `to`). `host`
    /// and `any` always match: the hook is checked elsewhere.
    pub(super) fn is_at(&self, place: &str, device: Option<&str>, source: bool) -> bool {
        if ["host", "any"].contains(&place) {
            return true;
        }
        members(self.policy, place)
            .iter()
            .any(|member| self.is_in_member(member, device, source))
    }

    /// Returns `true` if the packet comes from a place that the rule's `from` leaves out, or goes to one that its `to` does.
    pub(super) fn is_left_out(&self, rule: &PolicyRule) -> bool {
        let (came, leaves) = (&self.packet.in_device, &self.packet.out_device);
        self.is_at_any_of(rule.not_from.as_ref(), came.as_deref(), true)
            || self.is_at_any_of(rule.not_to.as_ref(), leaves.as_deref(), false)
    }

    /// The same for a packet that may be a reply to one of the rule: it comes from where the request went.
    pub(super) fn is_reply_left_out(&self, rule: &PolicyRule) -> bool {
        let (came, leaves) = (&self.packet.in_device, &self.packet.out_device);
        self.is_at_any_of(rule.not_from.as_ref(), leaves.as_deref(), false)
            || self.is_at_any_of(rule.not_to.as_ref(), came.as_deref(), true)
    }

    /// Returns `true` if the packet's device and its source (or destination) match one of the places. The `scope` of an
    /// interface does not count here: what is left out is the device.
    pub(super) fn is_at_any_of(
        &self,
        places: Option<&Vec<Located<String>>>,
        device: Option<&str>,
        source: bool,
    ) -> bool {
        let address = match source {
            true => self.packet.source,
            false => self.packet.destination,
        };
        let has_device = |name: &str| {
            let interface = self.policy.interfaces.get(name);
            interface.is_some_and(|interface| {
                let mut devices = interface.value.devices.iter();
                devices.any(|pattern| device.is_some_and(|it| is_named(&pattern.value, it)))
            })
        };
        let names = places.into_iter().flatten();
        let mut all = names.flat_map(|place| members(self.policy, &place.value));
        all.any(|member| {
            let networks = member.networks;
            member.interface.is_none_or(has_device)
                && networks.is_none_or(|networks| self.is_any(networks, address, source))
                && self.has_ipsec(&member, source)
        })
    }

    /// Returns `true` if the packet's source (or destination) and the device match a member of a zone.
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
            && self.has_ipsec(member, source)
    }

    /// Returns `true` if the packet came out of IPsec (or will go into it) as a member of a zone asks.
    pub(super) fn has_ipsec(&self, member: &MemberCondition<'_>, source: bool) -> bool {
        let asked = match source {
            true => Circumstance::FromIpsec,
            false => Circumstance::IntoIpsec,
        };
        member
            .ipsec
            .is_none_or(|wanted| (self.holds)(asked) == wanted)
    }

    /// Returns `true` if the device belongs to the interface and the packet has a family of its scope.
    fn is_on(&self, interface: &str, device: Option<&str>) -> bool {
        let Some(interface) = self.policy.interfaces.get(interface) else {
            return false;
        };
        let mut devices = interface.value.devices.iter();
        interface.value.scope.has(self.packet.family)
            && devices.any(|pattern| device.is_some_and(|device| is_named(&pattern.value, device)))
    }
}

/// Returns `true` if some address of a family is in a place and matches a rule's addresses.
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

/// A member of a zone: an interface, networks, IPsec, or several of them. `None` matches everything.
pub(super) struct MemberCondition<'p> {
    pub interface: Option<&'p str>,
    pub networks: Option<&'p [Located<AddressItem>]>,
    /// `true`: with IPsec; `false`: without.
    pub ipsec: Option<bool>,
}

/// Returns the members of a zone and of the zones in it; an interface is its own only member.
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
                ipsec: None,
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
                ipsec,
            }) => members.push(MemberCondition {
                interface: None,
                networks: networks.as_deref(),
                ipsec: ipsec.as_ref().map(|ipsec| ipsec.value),
            }),
            Some(PolicyZone::Hosts {
                interfaces: Some(interfaces),
                networks,
                ipsec,
            }) => members.extend(interfaces.iter().map(|interface| MemberCondition {
                interface: Some(interface.value.as_str()),
                networks: networks.as_deref(),
                ipsec: ipsec.as_ref().map(|ipsec| ipsec.value),
            })),
        }
    }
    members
}

/// Returns `true` if a pattern matches a device: a trailing `+` matches every name that begins so (iptables(8)).
pub(super) fn is_named(pattern: &InterfacePattern, device: &str) -> bool {
    match pattern.as_str().strip_suffix('+') {
        Some(beginning) => device.starts_with(beginning),
        None => device == pattern.as_str(),
    }
}

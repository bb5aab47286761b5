//! The packets of a rule: the AND of its keys, each list an OR.

use crate::analysis::{GaveUp, Set, Space};
use crate::net::{Family, Hook, IntervalSet, Protocol};
use crate::resolve::{Addresses, Place, Plan, Ports, Rule, ServicePart};

/// Where rules are matched.
pub(super) struct Matching<'a> {
    pub plan: &'a Plan,
    pub space: &'a Space,
    pub hook: Hook,
}

impl Matching<'_> {
    /// The packets that a rule has in the hook and family; none when it is disabled.
    pub fn rule(&self, rule: &Rule) -> Result<Set, GaveUp> {
        let space = self.space;
        let family = space.family();
        if !rule.enabled || !in_scope(rule, family) {
            return Ok(space.none());
        }
        let mut places = Vec::new();
        for (from, to) in pairs(rule) {
            if hook_of(from, to) == Some(self.hook) && both_exist(self.plan, from, to, family) {
                places
                    .push(space.and(self.at(from, Direction::In)?, self.at(to, Direction::Out)?)?);
            }
        }
        let mut keys = vec![space.any(places)?];
        if let Some(source) = &rule.source {
            keys.push(space.sources(&meant(source, family))?);
        }
        if let Some(destination) = &rule.destination {
            keys.push(space.destinations(&meant(destination, family))?);
        }
        if let Some(parts) = &rule.service {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| self.part(part)).collect();
            keys.push(space.any(parts?)?);
        }
        if let Some(states) = &rule.state {
            let states: Vec<_> = states.iter().copied().collect();
            keys.push(space.states(&states)?);
        }
        if keys.contains(&space.none()) {
            return Ok(space.none());
        }
        space.every(keys)
    }

    fn at(&self, place: Place, direction: Direction) -> Result<Set, GaveUp> {
        let space = self.space;
        match place {
            Place::Any | Place::Host => Ok(space.all()),
            Place::Interface(index) => {
                let devices = self.plan.interfaces[index].devices.iter();
                let sets: Result<Vec<_>, _> = devices
                    .map(|device| match direction {
                        Direction::In => space.in_device(device.as_str()),
                        Direction::Out => space.out_device(device.as_str()),
                    })
                    .collect();
                space.any(sets?)
            }
        }
    }

    fn part(&self, part: &ServicePart) -> Result<Set, GaveUp> {
        let space = self.space;
        if !part_exists(part, space.family()) {
            return Ok(space.none());
        }
        match part {
            ServicePart::Ports(ports) => self.ports(ports),
            ServicePart::Protocol(protocol) => space.protocol(*protocol),
            ServicePart::Icmp(icmp) => {
                space.and(space.protocol(Protocol::ICMP)?, space.icmp(*icmp)?)
            }
            ServicePart::Icmpv6(icmp) => {
                space.and(space.protocol(Protocol::ICMPV6)?, space.icmp(*icmp)?)
            }
        }
    }

    fn ports(&self, ports: &Ports) -> Result<Set, GaveUp> {
        use crate::analysis::Field;
        let space = self.space;
        let side = |field, ports: &Option<IntervalSet>| match ports {
            None => Ok(space.all()),
            Some(ports) => space.values(field, ports),
        };
        space.every([
            space.protocol(ports.protocol)?,
            side(Field::SourcePort, &ports.source)?,
            side(Field::DestinationPort, &ports.destination)?,
        ])
    }
}

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// Whether an enabled rule has packets in a hook and family.
pub(super) fn exists(plan: &Plan, rule: &Rule, hook: Hook, family: Family) -> bool {
    let has_address = |addresses: &Option<Addresses>| {
        addresses
            .as_ref()
            .is_none_or(|addresses| !meant(addresses, family).is_empty())
    };
    rule.enabled
        && in_scope(rule, family)
        && pairs(rule)
            .any(|(from, to)| hook_of(from, to) == Some(hook) && both_exist(plan, from, to, family))
        && has_address(&rule.source)
        && has_address(&rule.destination)
        && rule
            .service
            .as_ref()
            .is_none_or(|parts| parts.iter().any(|part| part_exists(part, family)))
}

fn in_scope(rule: &Rule, family: Family) -> bool {
    rule.scope.is_none_or(|scope| scope.has(family))
}

fn part_exists(part: &ServicePart, family: Family) -> bool {
    match part {
        ServicePart::Ports(_) | ServicePart::Protocol(_) => true,
        ServicePart::Icmp(_) => family == Family::V4,
        ServicePart::Icmpv6(_) => family == Family::V6,
    }
}

/// from × to, with what is meant where one was not written.
fn pairs(rule: &Rule) -> impl Iterator<Item = (Place, Place)> {
    let from = rule.from.clone().unwrap_or_else(|| vec![Place::Any]);
    let only_host = from.iter().all(|place| *place == Place::Host);
    let to = rule.to.clone().unwrap_or_else(|| match only_host {
        true => vec![Place::Any],
        false => vec![Place::Host],
    });
    from.into_iter()
        .flat_map(move |from| to.clone().into_iter().map(move |to| (from, to)))
}

fn hook_of(from: Place, to: Place) -> Option<Hook> {
    match (from, to) {
        (Place::Host, Place::Host) => None,
        (Place::Host, _) => Some(Hook::Output),
        (_, Place::Host) => Some(Hook::Input),
        _ => Some(Hook::Forward),
    }
}

/// Whether no interface of the pair is of the other family only.
fn both_exist(plan: &Plan, from: Place, to: Place, family: Family) -> bool {
    [from, to].into_iter().all(|place| match place {
        Place::Any | Place::Host => true,
        Place::Interface(index) => plan.interfaces[index].scope.has(family),
    })
}

/// The addresses of the family that are meant: the negation of nothing is everything.
fn meant(addresses: &Addresses, family: Family) -> IntervalSet {
    let named = addresses.set.family(family);
    match addresses.negated {
        true => named.complement(family.last_address()),
        false => named.clone(),
    }
}

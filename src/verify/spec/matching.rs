//! The packets that a rule matches: those that fit all its keys, and of each list at least one value.

use std::collections::BTreeSet;

use super::connection;
use crate::analysis::{Field, GaveUp, Set, Space};
use crate::net::{
    Family, Hook, IntervalSet, MacAddress, MarkMatch, Protocol, SetEnds, SetType, State,
    TcpFlagsMatch,
};
use crate::resolve::{
    AddressCondition, Endpoint, Members, OneOf, Plan, PlannedInterface, PlannedMatch,
    PlannedOriginal, PlannedRule, ServicePart, ServicePorts,
};
use crate::verify::condition::Condition;

/// Returns the packets that a rule with these keys matches in a hook; none if it is disabled.
///
/// # Errors
///
/// If the packet sets become too large.
pub fn packets(plan: &Plan, rule: &PlannedRule, space: &Space, hook: Hook) -> Result<Set, GaveUp> {
    Matching { plan, space, hook }.rule(rule)
}

/// Returns the packets that fit the keys of a rule at a hook, as they arrive or leave this host: before any translation, and
/// without regard to the outgoing device (`to`).
///
/// # Errors
///
/// If the packet sets become too large.
pub fn arriving(plan: &Plan, rule: &PlannedRule, space: &Space, hook: Hook) -> Result<Set, GaveUp> {
    let matching = Matching { plan, space, hook };
    match hooks(rule).contains(&hook) {
        true => matching.coming(rule),
        false => Ok(space.none()),
    }
}

/// Returns the packets whose destination is an address of this host. The policy does not know these addresses, so this is a
/// condition, not a set of addresses.
///
/// # Errors
///
/// If the packet sets become too large.
pub fn for_this_host(space: &Space) -> Result<Set, GaveUp> {
    Condition::ToThisHost.set(space)
}

/// Returns the packets that fit the `to` of a rule at a hook, after the kernel chose their route.
///
/// # Errors
///
/// If the packet sets become too large.
pub fn ending(plan: &Plan, rule: &PlannedRule, space: &Space, hook: Hook) -> Result<Set, GaveUp> {
    let matching = Matching { plan, space, hook };
    let going = pairs(rule).filter(|(from, to)| hook_of(*from, *to) == Some(hook));
    let going = going.map(|(_, to)| matching.at(to, &None, PacketEnd::To));
    let going = space.any(going.collect::<Result<Vec<_>, _>>()?)?;
    space.minus(going, matching.left_out(&rule.not_to, PacketEnd::To)?)
}

/// Returns the hooks that a rule applies to, by its `from` and `to`.
pub fn hooks(rule: &PlannedRule) -> Vec<Hook> {
    let has = |hook: &Hook| pairs(rule).any(|(from, to)| hook_of(from, to) == Some(*hook));
    Hook::ALL.into_iter().filter(has).collect()
}

/// A hook in a family, in which rules match packets.
pub(in crate::verify) struct Matching<'a> {
    pub plan: &'a Plan,
    pub space: &'a Space,
    pub hook: Hook,
}

impl Matching<'_> {
    /// Returns the packets that a rule matches in the hook and family; none if it is disabled.
    pub fn rule(&self, rule: &PlannedRule) -> Result<Set, GaveUp> {
        let space = self.space;
        if !rule.enabled || !in_scope(rule, space.family()) {
            return Ok(space.none());
        }
        let mut places = Vec::new();
        for (from, to) in pairs(rule) {
            if hook_of(from, to) == Some(self.hook) {
                let source = self.at(from, &rule.source, PacketEnd::From)?;
                let destination = self.at(to, &rule.destination, PacketEnd::To)?;
                places.push(space.and(source, destination)?);
            }
        }
        let places = space.any(places)?;
        let places = space.minus(places, self.left_out(&rule.not_from, PacketEnd::From)?)?;
        let places = space.minus(places, self.left_out(&rule.not_to, PacketEnd::To)?)?;
        let own = self.keys(rule, places)?;
        // A rule of a block is asked only about packets of the block.
        match rule.in_block {
            Some(block) if own != space.none() => {
                let entered = self.rule(&self.plan.rules[block])?;
                space.and(own, entered)
            }
            _ => Ok(own),
        }
    }

    /// Returns the packets of a rule that come in from other hosts, without regard to `to`; none if it is disabled.
    pub fn arriving(&self, rule: &PlannedRule) -> Result<Set, GaveUp> {
        let from = rule.from.iter().flatten().copied();
        self.coming_from(rule, from.filter(|from| *from != Endpoint::Host))
    }

    /// Returns the packets of a rule as they come to the hook, without regard to `to`; none if it is disabled.
    fn coming(&self, rule: &PlannedRule) -> Result<Set, GaveUp> {
        let here = pairs(rule).filter(|(from, to)| hook_of(*from, *to) == Some(self.hook));
        self.coming_from(rule, here.map(|(from, _)| from))
    }

    fn coming_from(
        &self,
        rule: &PlannedRule,
        all: impl Iterator<Item = Endpoint>,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        if !rule.enabled || !in_scope(rule, space.family()) {
            return Ok(space.none());
        }
        let mut places = Vec::new();
        for from in all {
            places.push(self.at(from, &rule.source, PacketEnd::From)?);
        }
        let places = space.any(places)?;
        let places = space.minus(places, self.left_out(&rule.not_from, PacketEnd::From)?)?;
        match &rule.destination {
            None => self.keys(rule, places),
            Some(asked) => self.keys(rule, space.and(places, self.meant(asked, PacketEnd::To)?)?),
        }
    }

    /// Returns the packets of `places` (those that fit `from` and `to`) that fit the other keys of a rule.
    pub fn keys(&self, rule: &PlannedRule, places: Set) -> Result<Set, GaveUp> {
        let Keys {
            service,
            not_service,
            state,
            mark,
            mac,
            tcp_flags,
            original,
            matches,
            circumstances,
        } = Keys::of(rule);
        let space = self.space;
        let mut keys = vec![places];
        if let Some(parts) = service {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| self.part(part)).collect();
            keys.push(space.any(parts?)?);
        }
        if let Some(parts) = not_service {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| self.part(part)).collect();
            keys.push(space.not(space.any(parts?)?)?);
        }
        if let Some(states) = state {
            let states: Vec<_> = states.iter().copied().collect();
            keys.push(space.states(&states)?);
        }
        if let Some(marks) = mark {
            keys.push(self.one_of(marks, |mark| space.mark(mark.value, mark.mask))?);
        }
        if let Some(macs) = mac {
            keys.push(space.has_mac()?);
            keys.push(self.one_of(macs, |mac| space.mac(mac.0))?);
        }
        if let Some(flags) = tcp_flags {
            keys.push(space.protocol(Protocol::TCP)?);
            keys.push(self.one_of(flags, |flags| space.tcp_flags(flags.looked_at, flags.set))?);
        }
        // Conditions create variables in the space, so none are created for rules without packets.
        if keys.contains(&space.none()) {
            return Ok(space.none());
        }
        if let Some(asked) = original {
            keys.push(connection::original(space, asked)?);
        }
        if let Some(asked) = matches {
            keys.push(connection::matched(space, asked)?);
        }
        for conditions in circumstances {
            keys.push(self.one_of(&conditions, |condition| condition.set(space))?);
        }
        space.every(keys)
    }

    /// Returns the packets that have one of the values of a key, or none if the key is negated.
    fn one_of<T>(
        &self,
        key: &OneOf<T>,
        set: impl Fn(&T) -> Result<Set, GaveUp>,
    ) -> Result<Set, GaveUp> {
        let sets: Result<Vec<_>, _> = key.values.iter().map(set).collect();
        let any = self.space.any(sets?)?;
        match key.negated {
            true => self.space.not(any),
            false => Ok(any),
        }
    }

    /// Returns the packets that a negated `from` or `to` leaves out: those on the devices of the places, whatever the `scope` of
    /// an interface, and in their networks.
    pub fn left_out(&self, places: &Option<Vec<Endpoint>>, side: PacketEnd) -> Result<Set, GaveUp> {
        let places = places.iter().flatten();
        let parts = places.flat_map(|place| all_parts(self.plan, *place, self.space.family()));
        let sets = parts.map(|part| self.at_part(&part, side));
        self.space.any(sets.collect::<Result<Vec<_>, _>>()?)
    }

    /// Returns the packets with an endpoint on one side, and with the addresses that the rule has for this side.
    pub fn at(
        &self,
        place: Endpoint,
        asked: &Option<AddressCondition>,
        side: PacketEnd,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        let parts = parts(self.plan, place, space.family()).into_iter();
        let members = parts.map(|part| self.at_part(&part, side));
        let place = space.any(members.collect::<Result<Vec<_>, _>>()?)?;
        match asked {
            None => Ok(place),
            Some(asked) => space.and(place, self.meant(asked, side)?),
        }
    }

    /// Returns the packets with one part of an endpoint on one side.
    pub fn at_part(&self, part: &ZonePart<'_>, side: PacketEnd) -> Result<Set, GaveUp> {
        let space = self.space;
        let devices = match part.interface {
            None => space.all(),
            Some(interface) => {
                let devices = interface.devices.iter().map(|device| match side {
                    PacketEnd::From => space.in_device(device.as_str()),
                    PacketEnd::To => space.out_device(device.as_str()),
                });
                space.any(devices.collect::<Result<Vec<_>, _>>()?)?
            }
        };
        let networks = match (part.networks, side) {
            (None, _) => space.all(),
            (Some(networks), PacketEnd::From) => space.values(Field::Source, networks)?,
            (Some(networks), PacketEnd::To) => space.values(Field::Destination, networks)?,
        };
        space.every([devices, networks, self.ipsec(part, side)?])
    }

    /// Returns the packets that came out of IPsec, or will go into it, as a part of an endpoint asks on one side.
    pub fn ipsec(&self, part: &ZonePart<'_>, side: PacketEnd) -> Result<Set, GaveUp> {
        let condition = match side {
            PacketEnd::From => Condition::FromIpsec,
            PacketEnd::To => Condition::IntoIpsec,
        };
        match part.ipsec {
            None => Ok(self.space.all()),
            Some(true) => condition.set(self.space),
            Some(false) => self.space.not(condition.set(self.space)?),
        }
    }

    /// Returns the packets whose address on one side fits `source` or `destination` of a rule.
    pub fn meant(&self, asked: &AddressCondition, side: PacketEnd) -> Result<Set, GaveUp> {
        let space = self.space;
        let field = match side {
            PacketEnd::From => Field::Source,
            PacketEnd::To => Field::Destination,
        };
        let mut named = vec![space.values(field, &known(self.plan, asked, space.family()))?];
        for masked in &asked.masks {
            if masked.family == space.family() {
                named.push(space.under_mask(field, masked.value, masked.mask)?);
            }
        }
        for (name, kind) in dynamic(self.plan, asked) {
            let ends = ends_of_members(kind, side, asked.of_reply);
            named.push(in_set(name, ends, space.family()).set(space)?);
        }
        let named = space.any(named)?;
        match asked.negated {
            true => space.not(named),
            false => Ok(named),
        }
    }

    /// Returns the packets of a part of a service.
    pub fn part(&self, part: &ServicePart) -> Result<Set, GaveUp> {
        let space = self.space;
        if !part_exists(part, space.family()) {
            return Ok(space.none());
        }
        match part {
            ServicePart::Ports(ports) => self.ports(ports),
            // In IPv6 this is an extension header. The protocol of the packet is that of the header after it.
            ServicePart::Protocol(Protocol::AH) if space.family() == Family::V6 => {
                Condition::AuthHeader.set(space)
            }
            ServicePart::Protocol(protocol) => space.protocol(*protocol),
            ServicePart::Icmp(icmp) => {
                space.and(space.protocol(Protocol::ICMP)?, space.icmp(*icmp)?)
            }
            ServicePart::Icmpv6(icmp) => {
                space.and(space.protocol(Protocol::ICMPV6)?, space.icmp(*icmp)?)
            }
            ServicePart::EveryIcmp(Family::V4) => space.protocol(Protocol::ICMP),
            ServicePart::EveryIcmp(Family::V6) => space.protocol(Protocol::ICMPV6),
        }
    }

    pub fn ports(&self, ports: &ServicePorts) -> Result<Set, GaveUp> {
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

/// The keys of a rule that match packets, apart from `from`, `to`, `source`, `destination` and `scope`.
struct Keys<'r> {
    service: Option<&'r [ServicePart]>,
    not_service: Option<&'r [ServicePart]>,
    state: Option<&'r BTreeSet<State>>,
    mark: Option<&'r OneOf<MarkMatch>>,
    mac: Option<&'r OneOf<MacAddress>>,
    tcp_flags: Option<&'r OneOf<TcpFlagsMatch>>,
    original: Option<&'r PlannedOriginal>,
    /// Without those that count, which a rule asks once for all its packets.
    matches: Option<&'r PlannedMatch>,
    /// Conditions that a packet alone does not answer: times, users, groups and sets of other programs (`ipset`).
    circumstances: Vec<OneOf<Condition>>,
}

impl<'r> Keys<'r> {
    fn of(rule: &'r PlannedRule) -> Self {
        // Without `..`, so that a new key does not compile until its packets are defined here.
        #[rustfmt::skip]
        let PlannedRule {
    service, state, mark, mac, tcp_flags, original, matches, ipset, user, group, schedule, expires, not_service,
            // The callers of `Matching::keys` apply these.
            enabled: _, in_block: _, scope: _, from: _, not_from: _, to: _, not_to: _, source: _, destination: _,
            // These match no packets.
            span: _, label: _, named: _, comment: _, remark: _, action: _, limit: _, connections: _, stage: _,
            order: _, log: _,
        } = rule;
        let schedule = schedule.as_ref().and_then(|schedule| {
            Condition::of_schedule(schedule.days.as_deref(), schedule.hours, schedule.local)
        });
        let foreign = ipset.as_ref().map(|set| {
            let (name, ends) = (set.name.clone(), set.ends);
            OneOf {
                values: vec![Condition::InSet { name, ends }],
                negated: set.negated,
            }
        });
        let accounts = |key: &Option<OneOf<u32>>, condition: fn(u32) -> Condition| {
            let key = key.as_ref()?;
            Some(OneOf {
                values: key.values.iter().map(|id| condition(*id)).collect(),
                negated: key.negated,
            })
        };
        let circumstances = [
            schedule.map(OneOf::only),
            foreign,
            expires.map(|day| OneOf::only(Condition::not_after(day))),
            accounts(user, Condition::User),
            accounts(group, Condition::Group),
        ];
        Self {
            service: service.as_deref(),
            not_service: not_service.as_deref(),
            state: state.as_ref(),
            mark: mark.as_ref(),
            mac: mac.as_ref(),
            tcp_flags: tcp_flags.as_ref(),
            original: original.as_ref(),
            matches: matches.as_ref(),
            circumstances: circumstances.into_iter().flatten().collect(),
        }
    }
}

/// Returns the conditions of a rule that a packet alone does not answer, without limits and dynamic sets of the policy.
pub(in crate::verify) fn circumstances(rule: &PlannedRule) -> Vec<Condition> {
    let keys = Keys::of(rule).circumstances.into_iter();
    keys.flat_map(|key| key.values).collect()
}

/// One side of a packet.
#[derive(Clone, Copy)]
pub(in crate::verify) enum PacketEnd {
    /// The incoming device and the source.
    From,
    /// The outgoing device and the destination.
    To,
}

/// The hosts behind an interface, in some networks, with or without IPsec; all hosts if nothing is set.
pub(in crate::verify) struct ZonePart<'a> {
    pub interface: Option<&'a PlannedInterface>,
    pub networks: Option<&'a IntervalSet>,
    pub ipsec: Option<bool>,
}

/// Returns the parts of an endpoint that exist in a family.
pub(in crate::verify) fn parts(plan: &Plan, place: Endpoint, family: Family) -> Vec<ZonePart<'_>> {
    let exists = |part: &ZonePart<'_>| {
        part.interface
            .is_none_or(|interface| interface.scope.has(family))
            && part.networks.is_none_or(|networks| !networks.is_empty())
    };
    let parts = all_parts(plan, place, family).into_iter();
    parts.filter(exists).collect()
}

/// Returns the parts of an endpoint, also those without hosts in a family.
fn all_parts(plan: &Plan, place: Endpoint, family: Family) -> Vec<ZonePart<'_>> {
    let everywhere = ZonePart {
        interface: None,
        networks: None,
        ipsec: None,
    };
    let of_interface = |index: usize| Some(&plan.interfaces[index]);
    match place {
        Endpoint::Any | Endpoint::Host => vec![everywhere],
        Endpoint::Interface(index) => vec![ZonePart {
            interface: of_interface(index),
            networks: None,
            ipsec: None,
        }],
        Endpoint::Zone(index) => {
            let members = plan.zones[index].members.iter();
            members
                .map(|member| ZonePart {
                    interface: member.interface.and_then(of_interface),
                    networks: member.networks.as_ref().map(|set| set.family(family)),
                    ipsec: member.ipsec,
                })
                .collect()
        }
    }
}

/// Returns `true` if an enabled rule can match packets in a hook and family. This decides whether a base chain has a preamble.
pub(in crate::verify) fn exists(
    plan: &Plan,
    rule: &PlannedRule,
    hook: Hook,
    family: Family,
) -> bool {
    let has_hosts = |place, asked: &Option<AddressCondition>| {
        let all = || IntervalSet::from_intervals([(0, family.last_address())]);
        // Masks only add addresses. What negated masks leave out is never all, but of very small networks.
        let masks = || {
            let named = asked.iter().filter(|asked| !asked.negated);
            let masks = named.flat_map(|asked| &asked.masks);
            masks.filter(|mask| mask.family == family)
        };
        let has_masked = |networks: &IntervalSet| {
            masks().any(|mask| {
                let mut intervals = networks.intervals().iter();
                intervals.any(|(first, last)| mask.next_from(*first).is_some_and(|it| it <= *last))
            })
        };
        // A dynamic set may have any address as member, or none.
        let asked = asked.as_ref().map_or_else(all, |asked| {
            let open = dynamic(plan, asked).next().is_some();
            match (asked.negated, open) {
                (false, true) => all(),
                (false, false) => known(plan, asked, family),
                (true, _) => known(plan, asked, family).complement(family.last_address()),
            }
        });
        // The places are those of the block, which has its own addresses.
        if rule.in_block.is_some() {
            return !asked.is_empty() || masks().next().is_some();
        }
        parts(plan, place, family).iter().any(|part| {
            let here = part.networks.map(|networks| networks.intersection(&asked));
            !here.as_ref().unwrap_or(&asked).is_empty()
                || part.networks.map_or(masks().next().is_some(), has_masked)
        })
    };
    let in_block = |block: usize| exists(plan, &plan.rules[block], hook, family);
    rule.enabled
        && rule.in_block.is_none_or(in_block)
        && in_scope(rule, family)
        && pairs(rule).any(|(from, to)| {
            hook_of(from, to) == Some(hook)
                && has_hosts(from, &rule.source)
                && has_hosts(to, &rule.destination)
        })
        && rule
            .service
            .as_ref()
            .is_none_or(|parts| parts.iter().any(|part| part_exists(part, family)))
        && rule.original.as_ref().is_none_or(|original| {
            let asked = original.destination.as_ref();
            asked.is_none_or(|asked| match asked.negated {
                false => !known(plan, asked, family).is_empty(),
                true => !known(plan, asked, family)
                    .complement(family.last_address())
                    .is_empty(),
            })
        })
}

pub(in crate::verify) fn in_scope(rule: &PlannedRule, family: Family) -> bool {
    rule.scope.is_none_or(|scope| scope.has(family))
}

fn part_exists(part: &ServicePart, family: Family) -> bool {
    match part {
        ServicePart::Ports(_) | ServicePart::Protocol(_) => true,
        ServicePart::Icmp(_) => family == Family::V4,
        ServicePart::Icmpv6(_) => family == Family::V6,
        ServicePart::EveryIcmp(of) => family == *of,
    }
}

/// Returns each pair of `from` and `to` of a rule. `from` defaults to `any`; `to` defaults to `host`, or to `any` if all of
/// `from` is `host`.
fn pairs(rule: &PlannedRule) -> impl Iterator<Item = (Endpoint, Endpoint)> {
    let from = rule.from.clone().unwrap_or_else(|| vec![Endpoint::Any]);
    let only_host = from.iter().all(|place| *place == Endpoint::Host);
    let to = rule.to.clone().unwrap_or_else(|| match only_host {
        true => vec![Endpoint::Any],
        false => vec![Endpoint::Host],
    });
    from.into_iter()
        .flat_map(move |from| to.clone().into_iter().map(move |to| (from, to)))
}

/// Returns the hook of packets between two endpoints; `None` from this host to itself.
fn hook_of(from: Endpoint, to: Endpoint) -> Option<Hook> {
    match (from, to) {
        (Endpoint::Host, Endpoint::Host) => None,
        (Endpoint::Host, _) => Some(Hook::Output),
        (_, Endpoint::Host) => Some(Hook::Input),
        _ => Some(Hook::Forward),
    }
}

/// Returns the addresses that a condition names, including the members of static sets.
fn known(plan: &Plan, addresses: &AddressCondition, family: Family) -> IntervalSet {
    let sets = addresses
        .sets
        .iter()
        .filter_map(|set| match &plan.sets[*set].members {
            Members::Static(members) => Some(members.family(family)),
            Members::Dynamic { .. } => None,
        });
    sets.fold(addresses.listed.family(family).clone(), |all, set| {
        all.union(set)
    })
}

/// Returns the names and types of the dynamic sets of a condition, which other programs fill.
pub(in crate::verify) fn dynamic<'a>(
    plan: &'a Plan,
    addresses: &'a AddressCondition,
) -> impl Iterator<Item = (&'a str, SetType)> {
    let sets = addresses.sets.iter().map(|set| &plan.sets[*set]);
    sets.filter_map(|set| match &set.members {
        Members::Static(_) => None,
        Members::Dynamic(dynamic) => Some((set.name.as_str(), dynamic.kind)),
    })
}

/// Returns the condition that a set of the policy has these ends of a packet.
pub(in crate::verify) fn in_set(name: &str, ends: SetEnds, family: Family) -> Condition {
    Condition::InSet {
        name: set_name(name, family),
        ends,
    }
}

/// Returns the ends that members of a set are compared with, where a rule asks for the address on one side. The port of a
/// member is the one that the request goes to.
pub(in crate::verify) fn ends_of_members(
    kind: SetType,
    side: PacketEnd,
    of_reply: bool,
) -> SetEnds {
    let port_from_source = kind.has_ports().then_some(of_reply);
    SetEnds::of(matches!(side, PacketEnd::From), port_from_source)
}

/// Returns the name of a set of the policy in the kernel: `fwc4-NAME` or `fwc6-NAME`, because an ipset has one family.
pub(in crate::verify) fn set_name(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("fwc4-{name}"),
        Family::V6 => format!("fwc6-{name}"),
    }
}

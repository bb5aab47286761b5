//! The hooks and devices of a rule.

use super::context::NegatableContext;
use crate::net::{AddressSet, Family, Hook, InterfacePattern};
use crate::policy::DefaultAction;
use crate::resolve::{Endpoint, Plan, PlannedRule};

/// A path through a hook: devices, and the networks of zones. `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPath<'p> {
    pub input: Option<&'p InterfacePattern>,
    pub output: Option<&'p InterfacePattern>,
    /// the networks that the packet comes from
    pub source: Option<AddressSet>,
    /// the networks that it goes to
    pub destination: Option<AddressSet>,
}

/// Returns `true` if the default action of a hook denies.
pub fn denies(plan: &Plan, family: Family, hook: Hook) -> bool {
    matches!(
        plan.defaults[family].actions[hook],
        DefaultAction::Drop | DefaultAction::Reject
    )
}

/// Returns the paths of a rule in a hook and family; none if it has no lines there.
pub fn paths<'p>(
    plan: &'p Plan,
    rule: &PlannedRule,
    hook: Hook,
    family: Family,
) -> Vec<HookPath<'p>> {
    let mut found = Vec::new();
    for from in from(rule) {
        for to in to(rule) {
            let pair_hook = match (from, to) {
                (Endpoint::Host, Endpoint::Host) => continue,
                (Endpoint::Host, _) => Hook::Output,
                (_, Endpoint::Host) => Hook::Input,
                _ => Hook::Forward,
            };
            if pair_hook != hook {
                continue;
            }
            let destinations = side(plan, *to, family);
            for (input, source) in side(plan, *from, family) {
                for (output, destination) in &destinations {
                    let path = HookPath {
                        input,
                        output: *output,
                        source: source.clone(),
                        destination: destination.clone(),
                    };
                    if !found.contains(&path) {
                        found.push(path);
                    }
                }
            }
        }
    }
    found
}

/// Returns the devices and networks that a negated `from` or `to` leaves out. They do not depend on the `scope` of an interface:
/// what is left out is the device.
pub fn left_out<'p>(plan: &'p Plan, places: Option<&Vec<Endpoint>>) -> Vec<HookSide<'p>> {
    let mut sides: Vec<HookSide<'p>> = Vec::new();
    let members = places.into_iter().flatten();
    for member in members.flat_map(|place| plan.members(*place)) {
        let devices: Vec<_> = match member.interface {
            None => vec![None],
            Some(index) => plan.interfaces[index].devices.iter().map(Some).collect(),
        };
        for device in devices {
            let side = (device, member.networks.clone());
            if !sides.contains(&side) {
                sides.push(side);
            }
        }
    }
    sides
}

/// Returns the only device that a negated `from` or `to` leaves out, which one line can negate; `None` if it leaves out more,
/// or networks.
pub fn only_left_out<'p>(
    plan: &'p Plan,
    places: Option<&Vec<Endpoint>>,
) -> Option<&'p InterfacePattern> {
    match left_out(plan, places)[..] {
        [(Some(device), None)] => Some(device),
        _ => None,
    }
}

/// Returns `! lo` for lines that drop in a chain; `None` if `loopback` is off where the packets arrive or are sent. The
/// checks refuse interfaces that have lo.
pub fn not_lo(plan: &Plan, family: Family, chain: &str) -> Option<NegatableContext> {
    let hook = match chain {
        "OUTPUT" => Hook::Output,
        _ => Hook::Input,
    };
    let is_kept = plan.defaults[family].loopback[hook];
    is_kept.then(|| NegatableContext {
        not: "! ",
        value: "lo".to_owned(),
    })
}

/// Returns the paths by which the packets of a rule arrive, before routing: their outgoing device is not known.
pub fn paths_in<'p>(plan: &'p Plan, rule: &PlannedRule, family: Family) -> Vec<HookPath<'p>> {
    let mut found = Vec::new();
    for from in from(rule).iter().filter(|from| **from != Endpoint::Host) {
        for (input, source) in side(plan, *from, family) {
            let path = HookPath {
                input,
                source,
                ..HookPath::default()
            };
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the origins of a rule's packets; `any` if it has no `from`.
pub fn from(rule: &PlannedRule) -> &[Endpoint] {
    rule.from.as_deref().unwrap_or(&[Endpoint::Any])
}

/// Returns the destinations of a rule's packets. Without `to` it is this host, or anywhere if they come from this host.
pub fn to(rule: &PlannedRule) -> &[Endpoint] {
    match &rule.to {
        Some(to) => to,
        None if from(rule) == [Endpoint::Host] => &[Endpoint::Any],
        None => &[Endpoint::Host],
    }
}

/// A device, and the networks to match besides.
pub type HookSide<'p> = (Option<&'p InterfacePattern>, Option<AddressSet>);

/// Returns the devices and networks of an endpoint. A rule matches one device, so each becomes a line.
pub fn side(plan: &Plan, place: Endpoint, family: Family) -> Vec<HookSide<'_>> {
    let mut sides = Vec::new();
    for member in plan.members(place) {
        let Some(index) = member.interface else {
            sides.push((None, member.networks));
            continue;
        };
        let interface = &plan.interfaces[index];
        if interface.scope.has(family) {
            let devices = interface.devices.iter();
            sides.extend(devices.map(|device| (Some(device), member.networks.clone())));
        }
    }
    sides
}

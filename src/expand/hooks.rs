//! The hooks and devices of a rule.

use super::context::NegatableContext;
use crate::net::{AddressSet, Family, Hook, InterfacePattern};
use crate::policy::DefaultAction;
use crate::resolve::{Endpoint, Plan, PlannedRule};

/// A path through a hook: devices, and the networks and IPsec of zones. `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPath<'p> {
    pub input: Option<&'p InterfacePattern>,
    pub output: Option<&'p InterfacePattern>,
    /// the networks that the packet comes from
    pub source: Option<AddressSet>,
    /// the networks that it goes to
    pub destination: Option<AddressSet>,
    /// it came out of IPsec, or did not
    pub ipsec_in: Option<bool>,
    /// it will go into IPsec, or will not
    pub ipsec_out: Option<bool>,
}

impl<'p> HookPath<'p> {
    /// Returns the path of packets that come by a side, wherever they go.
    pub fn coming(side: HookSide<'p>) -> Self {
        Self {
            input: side.device,
            source: side.networks,
            ipsec_in: side.ipsec,
            ..Self::default()
        }
    }

    /// Returns the path of packets that go to a side, wherever they came from.
    pub fn going(side: HookSide<'p>) -> Self {
        Self {
            output: side.device,
            destination: side.networks,
            ipsec_out: side.ipsec,
            ..Self::default()
        }
    }

    /// Returns the path of packets that come by one side and go to another.
    pub fn between(from: HookSide<'p>, to: HookSide<'p>) -> Self {
        let going = Self::going(to);
        Self {
            output: going.output,
            destination: going.destination,
            ipsec_out: going.ipsec_out,
            ..Self::coming(from)
        }
    }
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
            for source in side(plan, *from, family) {
                for destination in &destinations {
                    let path = HookPath::between(source.clone(), destination.clone());
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
            let side = HookSide {
                device,
                networks: member.networks.clone(),
                ipsec: member.ipsec,
            };
            if !sides.contains(&side) {
                sides.push(side);
            }
        }
    }
    sides
}

/// Returns the only device that a negated `from` or `to` leaves out, which one line can negate; `None` if it leaves out more,
/// networks, or only packets with or without IPsec.
pub fn only_left_out<'p>(
    plan: &'p Plan,
    places: Option<&Vec<Endpoint>>,
) -> Option<&'p InterfacePattern> {
    match left_out(plan, places)[..] {
        [
            HookSide {
                device: Some(device),
                networks: None,
                ipsec: None,
            },
        ] => Some(device),
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
        for source in side(plan, *from, family) {
            let path = HookPath::coming(source);
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

/// A device, and the networks and IPsec to match besides. `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookSide<'p> {
    pub device: Option<&'p InterfacePattern>,
    pub networks: Option<AddressSet>,
    /// with IPsec, or without
    pub ipsec: Option<bool>,
}

/// Returns the devices and networks of an endpoint. A rule matches one device, so each becomes a line.
pub fn side(plan: &Plan, place: Endpoint, family: Family) -> Vec<HookSide<'_>> {
    let mut sides = Vec::new();
    for member in plan.members(place) {
        let side = |device| HookSide {
            device,
            networks: member.networks.clone(),
            ipsec: member.ipsec,
        };
        let Some(index) = member.interface else {
            sides.push(side(None));
            continue;
        };
        let interface = &plan.interfaces[index];
        if interface.scope.has(family) {
            let devices = interface.devices.iter();
            sides.extend(devices.map(|device| side(Some(device))));
        }
    }
    sides
}

//! In which hooks a rule stands, and on which devices.

use crate::net::{AddressSet, Family, Hook, InterfacePattern};
use crate::policy::DefaultAction;
use crate::resolve::{Endpoint, Plan, PlannedRule};

/// A way through a hook: devices, and the networks of zones. `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookPath<'p> {
    pub input: Option<&'p InterfacePattern>,
    pub output: Option<&'p InterfacePattern>,
    /// where the packet comes from
    pub source: Option<AddressSet>,
    /// where it goes
    pub destination: Option<AddressSet>,
}

/// What happens in a hook when no rule decides.
pub fn default_of(plan: &Plan, hook: Hook) -> DefaultAction {
    match hook {
        Hook::Input => plan.defaults.input,
        Hook::Forward => plan.defaults.forward,
        Hook::Output => plan.defaults.output,
    }
}

/// Whether packets that no rule decides are refused in a hook.
pub fn denies(plan: &Plan, hook: Hook) -> bool {
    matches!(
        default_of(plan, hook),
        DefaultAction::Drop | DefaultAction::Reject
    )
}

/// The ways of a rule in a hook and family; none when the rule does not stand there.
pub fn ways<'p>(
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
                    let way = HookPath {
                        input,
                        output: *output,
                        source: source.clone(),
                        destination: destination.clone(),
                    };
                    if !found.contains(&way) {
                        found.push(way);
                    }
                }
            }
        }
    }
    found
}

/// The ways by which the packets of a rule come in, before anybody knows where they go.
pub fn ways_in<'p>(plan: &'p Plan, rule: &PlannedRule, family: Family) -> Vec<HookPath<'p>> {
    let mut found = Vec::new();
    for from in from(rule).iter().filter(|from| **from != Endpoint::Host) {
        for (input, source) in side(plan, *from, family) {
            let way = HookPath {
                input,
                source,
                ..HookPath::default()
            };
            if !found.contains(&way) {
                found.push(way);
            }
        }
    }
    found
}

/// Where the packets of a rule come from.
pub fn from(rule: &PlannedRule) -> &[Endpoint] {
    rule.from.as_deref().unwrap_or(&[Endpoint::Any])
}

/// Where the packets of a rule go.
pub fn to(rule: &PlannedRule) -> &[Endpoint] {
    match &rule.to {
        Some(to) => to,
        None if from(rule) == [Endpoint::Host] => &[Endpoint::Any],
        None => &[Endpoint::Host],
    }
}

/// A device and the networks behind it, where they matter.
pub type HookSide<'p> = (Option<&'p InterfacePattern>, Option<AddressSet>);

/// One side of a pair, device by device.
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

//! In which hooks a rule stands, and on which devices.

use crate::net::{Family, Hook, InterfacePattern};
use crate::policy::{DefaultAction, Scope};
use crate::resolve::{Place, Plan, Rule};

/// The devices of a line; `None` matches every device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices<'p> {
    pub input: Option<&'p InterfacePattern>,
    pub output: Option<&'p InterfacePattern>,
}

/// What happens in a hook when no rule decides.
pub fn default_of(plan: &Plan, hook: Hook) -> DefaultAction {
    match hook {
        Hook::Input => plan.defaults.input,
        Hook::Forward => plan.defaults.forward,
        Hook::Output => plan.defaults.output,
    }
}

/// The device pairs of a rule in a hook and family; none when the rule does not stand there.
pub fn devices<'p>(plan: &'p Plan, rule: &Rule, hook: Hook, family: Family) -> Vec<Devices<'p>> {
    let mut found = Vec::new();
    for from in from(rule) {
        for to in to(rule) {
            let pair_hook = match (from, to) {
                (Place::Host, Place::Host) => continue,
                (Place::Host, _) => Hook::Output,
                (_, Place::Host) => Hook::Input,
                _ => Hook::Forward,
            };
            if pair_hook != hook {
                continue;
            }
            for input in side(plan, *from, family) {
                for output in side(plan, *to, family) {
                    let pair = Devices { input, output };
                    if !found.contains(&pair) {
                        found.push(pair);
                    }
                }
            }
        }
    }
    found
}

fn from(rule: &Rule) -> &[Place] {
    rule.from.as_deref().unwrap_or(&[Place::Any])
}

fn to(rule: &Rule) -> &[Place] {
    match &rule.to {
        Some(to) => to,
        None if from(rule) == [Place::Host] => &[Place::Any],
        None => &[Place::Host],
    }
}

/// The devices of one side of a pair: one `None` where every device is meant.
fn side(plan: &Plan, place: Place, family: Family) -> Vec<Option<&InterfacePattern>> {
    match place {
        Place::Any | Place::Host => vec![None],
        Place::Interface(index) => {
            let interface = &plan.interfaces[index];
            match interface.scope {
                Scope::Only(only) if only != family => Vec::new(),
                _ => interface.devices.iter().map(Some).collect(),
            }
        }
    }
}

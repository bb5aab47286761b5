//! Whether a rule has a packet: the AND of its keys, each list an OR.

use super::{addresses, services};
use crate::net::{Family, Hook, InterfacePattern, Packet};
use crate::policy::{Policy, Rule, Scope};

/// Whether the rule has the packet.
pub(super) fn has(policy: &Policy, rule: &Rule, packet: &Packet) -> bool {
    rule.enabled
        && in_scope(rule, packet.family)
        && pairs(rule).iter().any(|pair| pair.has(policy, packet))
        && rule
            .source
            .as_ref()
            .is_none_or(|source| addresses::meant(policy, source, packet.source))
        && rule
            .destination
            .as_ref()
            .is_none_or(|destination| addresses::meant(policy, destination, packet.destination))
        && rule
            .service
            .as_ref()
            .is_none_or(|items| services::any_has(policy, items, packet))
        && rule
            .state
            .as_ref()
            .is_none_or(|states| states.iter().any(|state| state.value == packet.state))
}

/// Whether a rule that is not disabled has packets of a hook, in either family.
pub(super) fn any_in(policy: &Policy, hook: Hook) -> bool {
    let exists = |rule: &Rule, family| {
        in_scope(rule, family)
            && pairs(rule)
                .iter()
                .any(|pair| pair.hook() == Some(hook) && pair.in_scope(policy, family))
            && [&rule.source, &rule.destination]
                .into_iter()
                .flatten()
                .all(|expression| addresses::exist(policy, expression, family))
            && rule
                .service
                .as_ref()
                .is_none_or(|items| services::exist(policy, items, family))
    };
    policy
        .rules
        .iter()
        .any(|rule| rule.enabled && Family::ALL.into_iter().any(|family| exists(rule, family)))
}

fn in_scope(rule: &Rule, family: Family) -> bool {
    rule.scope
        .as_ref()
        .is_none_or(|scope| scope.value.has(family))
}

/// One element of `from` with one of `to`.
struct Pair<'r> {
    from: &'r str,
    to: &'r str,
}

/// All pairs of from × to, with what is meant where one of them is not written.
fn pairs(rule: &Rule) -> Vec<Pair<'_>> {
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
        .flat_map(|from| to.iter().map(move |to| Pair { from, to }))
        .collect()
}

impl Pair<'_> {
    /// The hook of the pair; host × host has none.
    fn hook(&self) -> Option<Hook> {
        match (self.from, self.to) {
            ("host", "host") => None,
            ("host", _) => Some(Hook::Output),
            (_, "host") => Some(Hook::Input),
            _ => Some(Hook::Forward),
        }
    }

    /// Whether both places exist in the family.
    fn in_scope(&self, policy: &Policy, family: Family) -> bool {
        [self.from, self.to].into_iter().all(|place| {
            let scope = policy.interfaces.get(place).map(|found| found.value.scope);
            scope.unwrap_or(Scope::Dual).has(family)
        })
    }

    fn has(&self, policy: &Policy, packet: &Packet) -> bool {
        self.hook() == Some(packet.hook)
            && self.in_scope(policy, packet.family)
            && is_at(policy, self.from, packet.in_device.as_deref())
            && is_at(policy, self.to, packet.out_device.as_deref())
    }
}

/// Whether a device belongs to a place. For `host` and `any` no device is asked.
fn is_at(policy: &Policy, place: &str, device: Option<&str>) -> bool {
    if ["host", "any"].contains(&place) {
        return true;
    }
    let Some(interface) = policy.interfaces.get(place) else {
        return false;
    };
    let of = |pattern: &InterfacePattern| device.is_some_and(|device| is_named(pattern, device));
    interface
        .value
        .devices
        .iter()
        .any(|pattern| of(&pattern.value))
}

/// iptables(8): a trailing `+` is every name that begins so.
fn is_named(pattern: &InterfacePattern, device: &str) -> bool {
    match pattern.as_str().strip_suffix('+') {
        Some(beginning) => device.starts_with(beginning),
        None => device == pattern.as_str(),
    }
}

//! Whether a rule has a packet: the AND of its keys, each list an OR.

use super::{addresses, places, services};
use crate::net::{Family, Hook, Packet, Protocol};
use crate::policy::{Order, Policy, Rule, Stage};

/// The rules of a stage in the order in which they are asked, with their places in [`Policy::rules`].
pub(super) fn in_order(policy: &Policy, stage: Stage) -> Vec<(usize, &Rule)> {
    let all = || policy.rules.iter().enumerate();
    let of_order = |order: Order| {
        all().filter(move |(_, rule)| {
            rule.stage.as_ref().map_or(Stage::Main, |stage| stage.value) == stage
                && rule
                    .order
                    .as_ref()
                    .map_or(Order::Normal, |order| order.value)
                    == order
        })
    };
    of_order(Order::First)
        .chain(of_order(Order::Normal))
        .chain(of_order(Order::Last))
        .collect()
}

/// Whether the rule has the packet.
pub(super) fn has(policy: &Policy, rule: &Rule, packet: &Packet) -> bool {
    rule.enabled
        && in_scope(rule, packet.family)
        && places::pairs(rule)
            .iter()
            .any(|pair| pair.has(policy, packet))
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
        && rule
            .mark
            .as_ref()
            .is_none_or(|mark| packet.mark & mark.value.mask == mark.value.value)
        && rule
            .mac
            .as_ref()
            .is_none_or(|mac| packet.mac == Some(mac.value.0))
        && rule.tcp_flags.as_ref().is_none_or(|wanted| {
            let (looked_at, set) = (wanted.value.looked_at.0, wanted.value.set.0);
            packet.protocol == Protocol::TCP.0
                && packet
                    .tcp_flags
                    .is_some_and(|flags| flags.0 & looked_at == set)
        })
}

/// Whether a rule that is not disabled has packets of a hook, in either family.
pub(super) fn any_in(policy: &Policy, hook: Hook) -> bool {
    let exists = |rule: &Rule, family| {
        in_scope(rule, family)
            && places::pairs(rule)
                .iter()
                .any(|pair| pair.hook() == Some(hook) && pair.exists(policy, rule, family))
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

//! Decides whether a rule matches a packet: all keys must match, and of each list one element.

use std::net::IpAddr;

use super::{Circumstance, Evaluation, addresses, is_closed, nat, places, services};
use crate::net::{Family, Hook, Protocol};
use crate::policy::{
    Account, Action, AddressExpression, CustomTable, Definitions, Finally, Order, Over, Policy,
    PolicyBlock, PolicyLimit, PolicyRule, RuleLimit, RuleStage, Scope, Selection,
};
use crate::source::Located;

/// Returns the rules of a stage in the order in which packets meet them, without those of blocks, with their index in [`Policy::rules`].
pub(super) fn in_order(policy: &Policy, stage: RuleStage) -> Vec<(usize, &PolicyRule)> {
    let all = || policy.rules.iter().enumerate();
    let of_order = |order: Order| {
        all().filter(move |(_, rule)| {
            rule.in_block.is_none()
                && rule
                    .stage
                    .as_ref()
                    .map_or(RuleStage::Main, |stage| stage.value)
                    == stage
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

/// The properties of a packet that can be compared with a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shows {
    /// All: the packet is in a table after connection tracking.
    Everything,
    /// All except state, mark and flags: the packet is in the raw table. The caller compares the service.
    BeforeTracking,
    /// Addresses, service and time: the packet is rebuilt from its reply.
    Reply,
}

impl Evaluation<'_> {
    /// Returns `true` if the rule matches the packet, without regard to `limit` and `connections`.
    pub(super) fn is_in(&self, rule: &PolicyRule) -> bool {
        self.fits(rule, Shows::Everything)
            && places::pairs(rule).iter().any(|pair| self.goes(pair))
            && !self.is_left_out(rule)
    }

    /// Returns `true` if the packet matches the keys of the rule that it shows. The caller compares `from` and `to`.
    pub(super) fn fits(&self, rule: &PolicyRule, shows: Shows) -> bool {
        // Without `..`, so that code with a new key does not compile until somebody decides here what it matches.
        #[rustfmt::skip]
        let PolicyRule {
            span: _, name: _, comment: _, complete: _, from: _, not_from: _, to: _, not_to: _,
            // A rule of a block is asked only about packets that fit the block.
            in_block: _, block: _,
            // What the rule does with its packets, and in which order.
            action: _, stage: _, order: _, limit: _, connections: _, log: _, reject_with: _,
    enabled, scope, source, destination, ipset, service, state, mark, mac, tcp_flags, original, matches, schedule, expires, user, group, not_service,
        } = rule;
        let packet = self.packet;
        let is_tracked = shows == Shows::Everything;
        let is_sent = shows != Shows::Reply;
        *enabled
            && in_scope(scope.as_ref(), packet.family)
            && !is_closed(self.policy, packet.family)
            && self.has_address(source.as_ref(), packet.source, true)
            && self.has_address(destination.as_ref(), packet.destination, false)
            && ipset.as_ref().is_none_or(|set| {
                let (name, ends) = (set.name.value.as_str(), set.ends);
                (self.holds)(Circumstance::InForeignSet { name, ends }) != set.negated
            })
            && (shows == Shows::BeforeTracking
                || service
                    .as_ref()
                    .is_none_or(|items| services::any_has(*self, items)))
            && (shows == Shows::BeforeTracking
                || not_service
                    .as_ref()
                    .is_none_or(|items| !services::any_has(*self, items)))
            && (!is_tracked
                || state
                    .as_ref()
                    .is_none_or(|states| states.iter().any(|state| state.value == packet.state)))
            && (!is_tracked
                || is_one_of(mark, |mark| packet.mark & mark.mask == mark.value))
            // A packet without an Ethernet header has no address to compare, also not with the negation.
            && (!is_sent
                || mac.is_none()
                || packet.mac.is_some() && is_one_of(mac, |mac| packet.mac == Some(mac.0)))
            && (!is_tracked
                || tcp_flags.is_none()
                || packet.protocol == Protocol::TCP.0
                    && packet.tcp_flags.is_some_and(|flags| {
                        is_one_of(tcp_flags, |wanted| {
                            flags.0 & wanted.looked_at.0 == wanted.set.0
                        })
                    }))
            && schedule
                .as_ref()
                .is_none_or(|schedule| (self.holds)(Circumstance::Time(schedule)))
            && is_none_or(expires, |day| (self.holds)(Circumstance::NotAfter(*day)))
            && (!is_sent
                || is_one_of(user, |user| {
                    let id = id_of(user, &self.policy.users);
                    id.is_some_and(|id| (self.holds)(Circumstance::User(id)))
                }))
            && (!is_sent
                || is_one_of(group, |group| {
                    let id = id_of(group, &self.policy.groups);
                    id.is_some_and(|id| (self.holds)(Circumstance::Group(id)))
                }))
            && (!is_tracked || original.as_ref().is_none_or(|one| self.was_sent_to(one)))
            && (!is_tracked
                || matches
                    .as_ref()
                    .is_none_or(|text| (self.holds)(Circumstance::Matches(text))))
    }

    fn has_address(
        &self,
        expression: Option<&AddressExpression>,
        address: IpAddr,
        source: bool,
    ) -> bool {
        expression.is_none_or(|expression| self.matches_addresses(expression, address, source))
    }
}

/// Returns `true` if a rule has a key that a reply does not show, so that the rule may have matched the request or not.
/// `state` is not such a key: the caller only asks about untracked packets.
pub(super) fn is_hidden_from_replies(policy: &Policy, rule: &PolicyRule) -> bool {
    #[rustfmt::skip]
    let PolicyRule {
        span: _, name: _, comment: _, complete: _, action: _, from: _, to: _,
        service: _, ipset: _, scope: _, state: _, stage: _, order: _, connections: _, schedule: _, expires: _,
        log: _, reject_with: _, enabled: _, in_block: _, block: _,
        // It never matches an untracked packet, which the caller knows.
        original: _,
        mark, mac, tcp_flags, matches, user, group, limit, not_from, not_to, not_service, source, destination,
    } = rule;
    let continues = |limit: &PolicyLimit| is_some_and(&limit.over, |over| *over == Over::Continue);
    // Of a rule that denies all but some packets no reply tells that it denied the request.
    not_from.is_some()
        || not_to.is_some()
        || not_service.is_some()
        || addresses::leaves_out_masks(policy, source.as_ref())
        || addresses::leaves_out_masks(policy, destination.as_ref())
        || mark.is_some()
        || mac.is_some()
        || tcp_flags.is_some()
        || matches.is_some()
        || user.is_some()
        || group.is_some()
        || limit
            .as_ref()
            .and_then(|limit| limit_of(policy, limit))
            .is_some_and(continues)
}

/// Returns a rule's limit: its own, or the one that it names.
pub(super) fn limit_of<'p>(policy: &'p Policy, limit: &'p RuleLimit) -> Option<&'p PolicyLimit> {
    match limit {
        RuleLimit::Own(limit) => Some(limit),
        RuleLimit::Named(name) => policy.limits.get(&name.value).map(|named| &named.value),
    }
}

/// Returns `true` if the packet fits a key, where `has` tells whether it has a value of the key.
fn is_one_of<T>(key: &Option<Selection<T>>, has: impl Fn(&T) -> bool) -> bool {
    key.as_ref().is_none_or(|key| {
        let mut values = key.values.iter();
        values.any(|value| has(&value.value)) != key.negated
    })
}

fn is_none_or<T>(key: &Option<Located<T>>, is: impl Fn(&T) -> bool) -> bool {
    key.as_ref().is_none_or(|key| is(&key.value))
}

fn is_some_and<T>(key: &Option<Located<T>>, is: impl Fn(&T) -> bool) -> bool {
    key.as_ref().is_some_and(|key| is(&key.value))
}

fn id_of(account: &Account, names: &Definitions<u32>) -> Option<u32> {
    match account {
        Account::Id(id) => Some(*id),
        Account::Name(name) => names.get(name).map(|named| named.value),
    }
}

/// Returns `true` if an enabled rule matches packets of a hook in either family, or a nat entry accepts some. With an
/// action, only rules of that action count.
pub(super) fn any_in(policy: &Policy, hook: Hook, action: Option<Action>) -> bool {
    let exists = |rule: &PolicyRule, family| {
        let in_block = || {
            let mut sides = [&rule.source, &rule.destination].into_iter();
            sides.all(|side| addresses::exist(policy, side.as_ref(), None, family))
        };
        rule.enabled
            && in_scope(rule.scope.as_ref(), family)
            && !is_closed(policy, family)
            && (rule.in_block.is_some() && in_block()
                || rule.in_block.is_none()
                    && places::pairs(rule)
                        .iter()
                        .any(|pair| pair.hook() == Some(hook) && pair.exists(policy, rule, family)))
            && rule
                .service
                .as_ref()
                .is_none_or(|items| services::exist(policy, items, family))
            && rule.original.as_ref().is_none_or(|original| {
                let destination = original.destination.as_ref();
                addresses::exist(policy, destination, None, family)
            })
    };
    let accepts = |family| nat::accepts_in(policy, hook, family);
    if action.is_none_or(|action| action == Action::Accept) && Family::ALL.into_iter().any(accepts)
    {
        return true;
    }
    let custom = policy.custom.iter().any(|custom| {
        let table = custom.table.as_ref().map(|table| table.value);
        let chain = custom.chain.as_ref().map(|chain| chain.value.as_str());
        custom.enabled
            && table.is_none_or(|table| table == CustomTable::Filter)
            && chain == Some(hook.chain())
    });
    if action.is_none() && custom {
        return true;
    }
    policy
        .rules
        .iter()
        .filter(|rule| {
            let own = match &rule.block {
                Some(block) => finally(block),
                None => Some(rule.action.as_ref().map_or(Action::Accept, |own| own.value)),
            };
            action.is_none_or(|action| Some(action) == own)
        })
        .any(|rule| {
            let mut families = Family::ALL.into_iter();
            families.any(|family| {
                exists(rule, family)
                    && policy
                        .blocks_around(rule.in_block)
                        .all(|block| exists(block, family))
            })
        })
}

/// Returns the action for packets of a block that none of its rules decides; `None` if the next rule decides.
pub(super) fn finally(block: &PolicyBlock) -> Option<Action> {
    Some(match block.finally.as_ref()?.value {
        Finally::Accept => Action::Accept,
        Finally::Drop => Action::Drop,
        Finally::Reject => Action::Reject,
    })
}

fn in_scope(scope: Option<&Located<Scope>>, family: Family) -> bool {
    scope.is_none_or(|scope| scope.value.has(family))
}

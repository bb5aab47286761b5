//! Whether a rule has a packet: the AND of its keys, each list an OR.

use super::{Circumstance, Way, nat, places, services};
use crate::net::{Family, Hook, Protocol};
use crate::policy::{
    Account, Action, AddressExpression, CustomTable, Definitions, Order, Policy, Rule, Stage,
};

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

impl Way<'_> {
    /// Whether the rule has the packet; `limit` and `connections` are not asked.
    pub(super) fn is_in(&self, rule: &Rule) -> bool {
        self.fits(rule) && places::pairs(rule).iter().any(|pair| self.goes(pair))
    }

    /// Whether the packet has all keys of the rule but `from` and `to`.
    pub(super) fn fits(&self, rule: &Rule) -> bool {
        rule.enabled
            && in_scope(rule, self.packet.family)
            && self.has_addresses(rule)
            && rule
                .service
                .as_ref()
                .is_none_or(|items| services::any_has(*self, items))
            && self.has_marks(rule)
            && self.is_timely(rule)
            && self.is_sent_by(rule)
    }

    /// Whether the packet has the keys of a rule that are known before its connection is, but `service`, `from` and `to`.
    pub(super) fn fits_but_service(&self, rule: &Rule) -> bool {
        let mac = rule.mac.as_ref().map(|mac| mac.value);
        rule.enabled
            && in_scope(rule, self.packet.family)
            && self.has_addresses(rule)
            && mac.is_none_or(|wanted| self.packet.mac == Some(wanted.0))
            && self.is_timely(rule)
            && self.is_sent_by(rule)
    }

    /// The same of a request of which only a reply is known: that does not show its state, its marks and who sent it.
    pub(super) fn fits_as_request(&self, rule: &Rule) -> bool {
        rule.enabled
            && in_scope(rule, self.packet.family)
            && self.has_addresses(rule)
            && rule
                .service
                .as_ref()
                .is_none_or(|items| services::any_has(*self, items))
            && self.is_timely(rule)
    }

    fn has_addresses(&self, rule: &Rule) -> bool {
        let is = |expression: &Option<AddressExpression>, address, source| {
            expression
                .as_ref()
                .is_none_or(|expression| self.is_meant(expression, address, source))
        };
        is(&rule.source, self.packet.source, true)
            && is(&rule.destination, self.packet.destination, false)
            && rule.ipset.as_ref().is_none_or(|set| {
                let (name, source) = (set.value.as_str(), true);
                (self.holds)(Circumstance::InForeignSet { name, source })
            })
    }

    /// State, mark, MAC address and TCP flags.
    fn has_marks(&self, rule: &Rule) -> bool {
        let packet = self.packet;
        let state = rule.state.as_ref();
        let mark = rule.mark.as_ref().map(|mark| mark.value);
        let mac = rule.mac.as_ref().map(|mac| mac.value);
        let flags = rule.tcp_flags.as_ref().map(|flags| flags.value);
        state.is_none_or(|states| states.iter().any(|state| state.value == packet.state))
            && mark.is_none_or(|wanted| packet.mark & wanted.mask == wanted.value)
            && mac.is_none_or(|wanted| packet.mac == Some(wanted.0))
            && flags.is_none_or(|wanted| {
                let set = packet.tcp_flags.map(|flags| flags.0 & wanted.looked_at.0);
                packet.protocol == Protocol::TCP.0 && set == Some(wanted.set.0)
            })
    }

    fn is_timely(&self, rule: &Rule) -> bool {
        let schedule = rule.schedule.as_ref();
        let expires = rule.expires.as_ref();
        schedule.is_none_or(|schedule| (self.holds)(Circumstance::Time(schedule)))
            && expires.is_none_or(|day| (self.holds)(Circumstance::NotAfter(day.value)))
    }

    fn is_sent_by(&self, rule: &Rule) -> bool {
        let id = |account: &Account, names: &Definitions<u32>| match account {
            Account::Id(id) => Some(*id),
            Account::Name(name) => names.get(name).map(|named| named.value),
        };
        let user = rule.user.as_ref();
        let group = rule.group.as_ref();
        user.is_none_or(|user| {
            let id = id(&user.value, &self.policy.users);
            id.is_some_and(|id| (self.holds)(Circumstance::User(id)))
        }) && group.is_none_or(|group| {
            let id = id(&group.value, &self.policy.groups);
            id.is_some_and(|id| (self.holds)(Circumstance::Group(id)))
        })
    }
}

/// Whether a rule that is not disabled, of this action where one is asked for, has packets of a hook, or a nat entry accepts
/// some, in either family.
pub(super) fn any_in(policy: &Policy, hook: Hook, action: Option<Action>) -> bool {
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
            let own = rule.action.as_ref().map_or(Action::Accept, |own| own.value);
            action.is_none_or(|action| action == own)
        })
        .any(|rule| rule.enabled && Family::ALL.into_iter().any(|family| exists(rule, family)))
}

fn in_scope(rule: &Rule, family: Family) -> bool {
    rule.scope
        .as_ref()
        .is_none_or(|scope| scope.value.has(family))
}

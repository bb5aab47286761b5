//! The specification of `[[raw]]`, and of the replies that the filter table accepts because of it.

use super::Spec;
use super::connection::{self, Counted, Counters};
use super::custom;
use super::matching::Matching;
use crate::analysis::{BaseChain, Flow, GaveUp, RuleStep, Set, Space, Verdict, Write};
use crate::iptables::{ChainPolicy, TableName};
use crate::net::{Family, Hook, IcmpType, State};
use crate::policy::{CustomPosition, Order, Over, RuleStage, Treatment};
use crate::resolve::{
    AddressCondition, Endpoint, Plan, PlannedRaw, PlannedRule, RuleAction, ServicePart,
};
use crate::verify::condition::Condition;

/// Adds the effects of the raw table. `first` (antispoof) comes before the entries.
pub(in crate::verify) fn add_to(
    spec: &mut Spec,
    plan: &Plan,
    space: &Space,
    first: Option<Flow>,
) -> Result<(), GaveUp> {
    let mut first = first;
    for chain in [BaseChain::Prerouting, BaseChain::Output] {
        let mut steps = Vec::new();
        if chain == BaseChain::Prerouting {
            steps.extend(first.take().map(|flow| RuleStep::run(space.all(), flow)));
        }
        let place = (TableName::Raw, chain);
        let mut customs = spec.custom.of_chain(place);
        for (index, entry) in plan.raw.iter().enumerate() {
            steps.extend(custom::steps(space, customs.before_entry(index)));
            let when = packets(plan, space, index, chain)?;
            if when != space.none() {
                let counted = counted(plan, space, index, chain)?;
                if !counted.is_empty() {
                    let place = (TableName::Raw, chain, index);
                    spec.counted_by_entries.insert(place, counted);
                }
                let at = (TableName::Raw, index);
                steps.extend(spec.log_of_entry(when, &entry.packets, at));
                let write = match entry.treatment {
                    Treatment::NoTrack { .. } => Write::Untracked,
                    Treatment::Helper(_) => Write::Template,
                    Treatment::Drop => {
                        steps.push(RuleStep::verdict(when, Verdict::Drop));
                        continue;
                    }
                };
                steps.extend(RuleStep::write(space, when, effect(entry), write)?);
            }
        }
        let after = customs.up_to(CustomPosition::After);
        steps.extend(custom::steps(space, after));
        if steps.is_empty() {
            continue;
        }
        let flow = Flow::from_rules(space, steps)?.with_policy(space, Verdict::Accept)?;
        spec.behaviour.insert(space, place, flow)?;
        spec.behaviour
            .structure
            .policies
            .insert(place, ChainPolicy::Accept);
    }
    Ok(())
}

/// Returns the target of an entry as `iptables-save` prints it.
pub(in crate::verify) fn effect(entry: &PlannedRaw) -> String {
    match &entry.treatment {
        Treatment::NoTrack { .. } => "CT --notrack".to_owned(),
        Treatment::Helper(helper) => format!("CT --helper {}", helper.name()),
        Treatment::Drop => "DROP".to_owned(),
    }
}

/// Returns the packets of an entry in a base chain of the raw table, by its index in the plan. `notrack` applies to the
/// replies too.
pub(in crate::verify) fn packets(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: BaseChain,
) -> Result<Set, GaveUp> {
    let PlannedRaw { packets, treatment } = &plan.raw[index];
    let there = one_way(plan, space, packets, treatment, chain)?;
    let there = connection::where_counted(space, there, &counted(plan, space, index, chain)?)?;
    match treatment {
        Treatment::NoTrack { .. } => {
            let back = one_way(plan, space, &reversed(packets).0, treatment, chain)?;
            space.or(there, back)
        }
        Treatment::Helper(helper) if helper.exists(space.family()) => Ok(there),
        Treatment::Helper(_) => Ok(space.none()),
        Treatment::Drop => Ok(there),
    }
}

/// Returns the matches of an entry that count in a base chain. Their numbers depend on the entries before it.
fn counted(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: BaseChain,
) -> Result<Vec<Counted>, GaveUp> {
    let counts = |entry: &PlannedRaw| entry.packets.matches.as_ref().is_some_and(|all| all.counts);
    if !counts(&plan.raw[index]) {
        return Ok(Vec::new());
    }
    let mut counters = Counters::default();
    let mut last = Vec::new();
    for entry in plan.raw[..=index].iter().filter(|entry| counts(entry)) {
        let PlannedRaw { packets, treatment } = entry;
        last.clear();
        if let Some(asked) = &packets.matches
            && one_way(plan, space, packets, treatment, chain)? != space.none()
        {
            last = counters.counted(asked, space.family(), (TableName::Raw, chain));
        }
    }
    Ok(last)
}

/// Returns the packets of one direction in a base chain of the raw table, whatever the matches of the entry count.
fn one_way(
    plan: &Plan,
    space: &Space,
    rule: &PlannedRule,
    treatment: &Treatment,
    chain: BaseChain,
) -> Result<Set, GaveUp> {
    if *treatment == Treatment::Drop {
        return dropped(plan, space, rule, chain);
    }
    let is_helper = matches!(treatment, Treatment::Helper(_));
    match chain {
        BaseChain::Output => {
            let hook = Hook::Output;
            Matching { plan, space, hook }.rule(rule)
        }
        BaseChain::Prerouting => coming(plan, space, rule, is_helper),
        _ => Ok(space.none()),
    }
}

/// Returns the packets that an entry drops: without regard to where arriving packets go, and not on lo while `loopback`
/// accepts everything there.
pub(in crate::verify) fn dropped(
    plan: &Plan,
    space: &Space,
    rule: &PlannedRule,
    chain: BaseChain,
) -> Result<Set, GaveUp> {
    let loopback = &plan.defaults[space.family()].loopback;
    let (when, on_lo, keeps) = match chain {
        BaseChain::Prerouting => {
            let hook = Hook::Input;
            let arriving = Matching { plan, space, hook }.arriving(rule)?;
            (arriving, space.in_device("lo")?, loopback.input)
        }
        BaseChain::Output => {
            let hook = Hook::Output;
            let sent = Matching { plan, space, hook }.rule(rule)?;
            (sent, space.out_device("lo")?, loopback.output)
        }
        _ => return Ok(space.none()),
    };
    match keeps {
        true => space.minus(when, on_lo),
        false => Ok(when),
    }
}

/// Returns the packets of a rule as PREROUTING sees them. There is no outgoing device yet, so `to` is read from the
/// destination address alone.
fn coming(plan: &Plan, space: &Space, rule: &PlannedRule, is_helper: bool) -> Result<Set, GaveUp> {
    let here = Condition::ToThisHost.set(space)?;
    let mut all = Vec::new();
    for to in rule.to.iter().flatten() {
        let heads = match to {
            Endpoint::Host => here,
            Endpoint::Any => space.not(here)?,
            Endpoint::Interface(_) | Endpoint::Zone(_) => {
                let mut networks = Vec::new();
                for member in plan.members(*to) {
                    let interface = member.interface.map(|index| &plan.interfaces[index]);
                    if !interface.is_none_or(|one| one.scope.has(space.family())) {
                        continue;
                    }
                    networks.push(match (&member.networks, interface) {
                        (Some(networks), _) => {
                            space.destinations(networks.family(space.family()))?
                        }
                        // Without known networks of its own, the interface may have all addresses that no other
                        // interface has.
                        (None, Some(interface)) if is_helper && interface.networks.is_empty() => {
                            let mut others = space.none();
                            for network in plan.interfaces.iter().flat_map(|one| &one.networks) {
                                if network.family == space.family() {
                                    let one = [(network.first, network.last)];
                                    let one = crate::net::IntervalSet::from_intervals(one);
                                    others = space.or(others, space.destinations(&one)?)?;
                                }
                            }
                            space.not(others)?
                        }
                        (None, Some(interface)) => {
                            let own = interface.networks.iter();
                            let own = own.filter(|network| network.family == space.family());
                            let own = own.map(|network| (network.first, network.last));
                            space.destinations(&crate::net::IntervalSet::from_intervals(own))?
                        }
                        (None, None) => space.all(),
                    });
                }
                space.minus(space.any(networks)?, here)?
            }
        };
        let hook = Hook::Input;
        let arriving = Matching { plan, space, hook }.arriving(rule)?;
        all.push(space.and(arriving, heads)?);
    }
    space.any(all)
}

/// Returns the replies to untracked requests that are accepted in a hook: connection tracking does not know them, so
/// `established` does not accept them. A reply is accepted if a rule accepts its request.
pub(in crate::verify) fn replies(plan: &Plan, space: &Space, hook: Hook) -> Result<Set, GaveUp> {
    let matching = Matching { plan, space, hook };
    let mut asked = Vec::new();
    for entry in &plan.raw {
        let passes = match entry.treatment {
            Treatment::NoTrack { answers } => answers || hook != Hook::Input,
            Treatment::Helper(_) | Treatment::Drop => false,
        };
        if passes {
            asked.push(matching.rule(&reversed(&entry.packets).0)?);
        }
    }
    let untracked = space.states(&[State::Untracked])?;
    let mut open = space.and(space.any(asked)?, untracked)?;
    let mut accepted = space.none();
    let mut rules: Vec<&PlannedRule> = plan.rules.iter().filter(|rule| rule.enabled).collect();
    rules.sort_by_key(|rule| {
        let order = match rule.order {
            Order::First => 0,
            Order::Normal => 1,
            Order::Last => 2,
        };
        (rule.stage != RuleStage::Early, order)
    });
    for rule in rules {
        if open == space.none() {
            break;
        }
        let (back, mut hides) = reversed(rule);
        let accepts = rule.accepts();
        // A rule that denies, but by properties that the reply does not show (such as a mark), may have let the request
        // pass, so it does not count.
        let denies = rule.denies();
        // Neither does one of a block, or the end of a block: the chain of the block cannot leave the chain for replies.
        hides |= rule.in_block.is_some() || matches!(rule.action, RuleAction::Block(_));
        let mut counts = accepts || denies && !hides;
        let mut here = space.and(open, in_any_state(&matching, back)?)?;
        for block in plan.blocks_around(rule) {
            here = space.and(here, answers(&matching, block)?)?;
        }
        for asked in plan.blocks_around(rule).chain([rule]) {
            let states = asked.state.as_ref();
            // A packet without a connection has no original destination.
            counts &= asked.original.is_none();
            counts &= states.is_none_or(|states| states.contains(&State::Untracked));
        }
        if !counts {
            continue;
        }
        if accepts {
            accepted = space.or(accepted, here)?;
        }
        open = space.minus(open, here)?;
    }
    Ok(accepted)
}

/// Returns the replies to the packets of a rule, in any state.
pub(in crate::verify) fn answers(
    matching: &Matching<'_>,
    rule: &PlannedRule,
) -> Result<Set, GaveUp> {
    let (back, _) = reversed(rule);
    in_any_state(matching, back)
}

/// Returns the packets of a reversed rule, in any state. Its `ipset` applies to the opposite ends.
fn in_any_state(matching: &Matching<'_>, mut back: PlannedRule) -> Result<Set, GaveUp> {
    back.state = None;
    let foreign = back.ipset.take();
    let when = matching.rule(&back)?;
    let Some(foreign) = foreign else {
        return Ok(when);
    };
    let (name, ends) = (foreign.name, foreign.ends.reversed());
    let set = Condition::InSet { name, ends }.set(matching.space)?;
    match foreign.negated {
        true => matching.space.minus(when, set),
        false => matching.space.and(when, set),
    }
}

/// Returns the reverse of a rule, which matches the replies to its packets, and whether the rule has keys that a reply does
/// not show.
fn reversed(rule: &PlannedRule) -> (PlannedRule, bool) {
    let mut back = rule.clone();
    // Without `..`, so that a new key does not compile until its meaning for replies is defined here.
    #[rustfmt::skip]
    let PlannedRule {
        from, not_from, to, not_to, source, destination, service, not_service, mark, mac, tcp_flags, original, matches,
        user, group, limit,
        // The same in both directions; `in_any_state` handles the first two, which `notrack` entries do not have.
        state: _, ipset: _, scope: _, schedule: _, expires: _, enabled: _,
        // The caller asks the blocks around the rule, reversed too.
        in_block,
        // These match no packets.
        action: _, connections: _, stage: _, order: _, log: _, span: _, label: _, named: _, comment: _,
        remark: _,
    } = &mut back;
    *in_block = None;
    let any = || vec![Endpoint::Any];
    let came = from.take().unwrap_or_else(any);
    let host_only = came.iter().all(|place| *place == Endpoint::Host);
    let went = to.take().unwrap_or_else(|| match host_only {
        true => any(),
        false => vec![Endpoint::Host],
    });
    (*from, *to) = (Some(went), Some(came));
    std::mem::swap(source, destination);
    for asked in [&mut *source, &mut *destination].into_iter().flatten() {
        asked.of_reply = !asked.of_reply;
    }
    std::mem::swap(not_from, not_to);
    let leaves_out_masks = |asked: &Option<AddressCondition>| {
        asked
            .as_ref()
            .is_some_and(|asked| asked.negated && !asked.masks.is_empty())
    };
    let has_exceptions = not_from.is_some()
        || not_to.is_some()
        || not_service.is_some()
        || leaves_out_masks(source)
        || leaves_out_masks(destination);
    for parts in [service, not_service].into_iter().flatten() {
        let every = |family| parts.contains(&ServicePart::EveryIcmp(family));
        let (v4, v6) = (every(Family::V4), every(Family::V6));
        let whole = |kind| IcmpType { kind, code: None };
        // Every type is also every type that has a reply.
        if v4 {
            parts.extend([8, 13, 15, 17].map(|kind| ServicePart::Icmp(whole(kind))));
        }
        if v6 {
            parts.push(ServicePart::Icmpv6(whole(128)));
        }
        parts.retain_mut(|part| match part {
            ServicePart::Ports(ports) => {
                std::mem::swap(&mut ports.source, &mut ports.destination);
                true
            }
            ServicePart::Icmp(kind) => reply_type(Family::V4, kind),
            ServicePart::Icmpv6(kind) => reply_type(Family::V6, kind),
            ServicePart::Protocol(_) => true,
            ServicePart::EveryIcmp(_) => false,
        });
    }
    let hides = [
        // Such a rule that denies does not count for replies.
        has_exceptions,
        mark.take().is_some(),
        mac.take().is_some(),
        tcp_flags.take().is_some(),
        original.take().is_some(),
        matches.take().is_some(),
        user.take().is_some(),
        group.take().is_some(),
        limit
            .as_ref()
            .is_some_and(|limit| limit.over == Over::Continue),
    ];
    (back, hides.contains(&true))
}

/// Replaces an ICMP request type by its reply type; returns `false` if it has none.
fn reply_type(family: Family, kind: &mut IcmpType) -> bool {
    let answer = match (family, kind.kind) {
        (Family::V4, 8) => 0,
        (Family::V4, question @ (13 | 15 | 17)) => question + 1,
        (Family::V6, 128) => 129,
        _ => return false,
    };
    kind.kind = answer;
    true
}

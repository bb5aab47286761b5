//! The specification of `[[mangle]]`.

use super::Spec;
use super::connection::{self, Counted, Counters};
use super::custom;
use super::matching::{Matching, PacketEnd, in_scope};
use super::raw;
use crate::analysis::{BaseChain, Flow, GaveUp, RuleStep, Set, Space, Verdict, Write};
use crate::iptables::{ChainPolicy, HopChange, TableName, Tos};
use crate::net::{Family, Hook, MarkMatch, Protocol, State, TcpFlags};
use crate::policy::{CustomPosition, HopLimitChange, MangleChange};
use crate::resolve::{Endpoint, Plan, PlannedMangle, PlannedRule};

/// Adds the changes of the entries in each base chain.
pub(in crate::verify) fn add_to(spec: &mut Spec, plan: &Plan, space: &Space) -> Result<(), GaveUp> {
    for chain in BaseChain::ALL {
        let mut steps = Vec::new();
        let place = (TableName::Mangle, chain);
        let mut customs = spec.custom.of_chain(place);
        for (index, entry) in plan.mangle.iter().enumerate() {
            steps.extend(custom::steps(space, customs.before_entry(index)));
            let when = packets(plan, space, index, chain)?;
            if when != space.none() {
                let counted = counted(plan, space, index, chain)?;
                if !counted.is_empty() {
                    let place = (TableName::Mangle, chain, index);
                    spec.counted_by_entries.insert(place, counted);
                }
                let at = (TableName::Mangle, index);
                steps.extend(spec.log_of_entry(when, &entry.packets, at));
                steps.extend(self::steps(space, entry.change, when)?);
            }
        }
        let after = customs.up_to(CustomPosition::After);
        steps.extend(custom::steps(space, after));
        if steps.is_empty() {
            continue;
        }
        let flow = Flow::from_rules(space, steps)?.with_policy(space, Verdict::Accept)?;
        spec.behaviour.insert(space, place, flow)?;
        let policies = &mut spec.behaviour.structure.policies;
        policies.insert(place, ChainPolicy::Accept);
    }
    Ok(())
}

/// Returns the packets of an entry in a base chain, by its index in the plan.
pub(in crate::verify) fn packets(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: BaseChain,
) -> Result<Set, GaveUp> {
    let entry = &plan.mangle[index];
    let mut when = one_way(plan, space, entry, chain)?;
    if matches!(entry.change, MangleChange::ClampMss(_)) && chain == BaseChain::Forward {
        // Each end announces the segment size that it can receive, so a clamp of one direction only limits the other.
        let hook = Hook::Forward;
        let matching = Matching { plan, space, hook };
        let mut back = raw::answers(&matching, &entry.packets)?;
        if let Some(asked) = &entry.packets.matches {
            back = space.and(back, connection::matched(space, asked)?)?;
        }
        when = space.or(when, changed(plan, space, entry, hook, back)?)?;
    }
    connection::where_counted(space, when, &counted(plan, space, index, chain)?)
}

/// Returns the matches of an entry that count in a base chain. Their numbers depend on the entries before it.
fn counted(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: BaseChain,
) -> Result<Vec<Counted>, GaveUp> {
    let counts =
        |entry: &PlannedMangle| entry.packets.matches.as_ref().is_some_and(|all| all.counts);
    if !counts(&plan.mangle[index]) {
        return Ok(Vec::new());
    }
    let mut counters = Counters::default();
    let mut last = Vec::new();
    for entry in plan.mangle[..=index].iter().filter(|entry| counts(entry)) {
        last.clear();
        if let Some(asked) = &entry.packets.matches
            && one_way(plan, space, entry, chain)? != space.none()
        {
            last = counters.counted(asked, space.family(), (TableName::Mangle, chain));
        }
    }
    Ok(last)
}

/// Returns the packets of an entry in a base chain, without those in the other direction and whatever its matches count.
fn one_way(
    plan: &Plan,
    space: &Space,
    entry: &PlannedMangle,
    chain: BaseChain,
) -> Result<Set, GaveUp> {
    let PlannedMangle {
        packets: rule,
        change,
    } = entry;
    let hook = match chain {
        BaseChain::Prerouting | BaseChain::Input => Hook::Input,
        BaseChain::Forward => Hook::Forward,
        BaseChain::Output => Hook::Output,
        BaseChain::Postrouting => {
            return match change {
                MangleChange::Checksum => leaving(plan, space, rule),
                _ => Ok(space.none()),
            };
        }
    };
    if *change == MangleChange::Checksum {
        return Ok(space.none());
    }
    let matching = Matching { plan, space, hook };
    let when = match (entry.before_routing(), chain) {
        (true, BaseChain::Prerouting) => matching.arriving(rule)?,
        (true, BaseChain::Output) => {
            let from = rule.from.iter().flatten();
            matching.rule(&PlannedRule {
                from: Some(
                    from.filter(|from| **from == Endpoint::Host)
                        .copied()
                        .collect(),
                ),
                to: Some(vec![Endpoint::Any]),
                ..rule.clone()
            })?
        }
        (true, _) | (false, BaseChain::Prerouting) => return Ok(space.none()),
        (false, _) => matching.rule(rule)?,
    };
    changed(plan, space, entry, hook, when)
}

/// Returns those packets that a change applies to.
fn changed(
    plan: &Plan,
    space: &Space,
    entry: &PlannedMangle,
    hook: Hook,
    when: Set,
) -> Result<Set, GaveUp> {
    let rule = &entry.packets;
    match entry.change {
        // The SYN packets of both directions have the segment size.
        MangleChange::ClampMss(_) => {
            // SYN and RST, as in the man page of TCPMSS.
            let looked_at = TcpFlags(TcpFlags::SYN.0 | 4);
            space.every([
                when,
                space.protocol(Protocol::TCP)?,
                space.tcp_flags(looked_at, TcpFlags::SYN)?,
            ])
        }
        // Hosts ignore neighbour discovery with a hop limit other than 255, so a change must not touch ICMPv6 unless
        // `service` names it.
        MangleChange::HopLimit(_) if space.family() == Family::V6 && rule.service.is_none() => {
            space.minus(when, space.protocol(Protocol::ICMPV6)?)
        }
        // `loopback` accepts everything on lo.
        MangleChange::Drop => {
            let loopback = &plan.defaults[space.family()].loopback;
            match hook {
                Hook::Input if loopback.input => space.minus(when, space.in_device("lo")?),
                Hook::Output if loopback.output => space.minus(when, space.out_device("lo")?),
                Hook::Input | Hook::Output | Hook::Forward => Ok(when),
            }
        }
        _ => Ok(when),
    }
}

/// Returns the packets of a rule that leave, wherever they came from.
fn leaving(plan: &Plan, space: &Space, rule: &PlannedRule) -> Result<Set, GaveUp> {
    if !rule.enabled || !in_scope(rule, space.family()) {
        return Ok(space.none());
    }
    let hook = Hook::Forward;
    let matching = Matching { plan, space, hook };
    let mut places = Vec::new();
    for to in rule.to.iter().flatten() {
        places.push(matching.at(*to, &rule.destination, PacketEnd::To)?);
    }
    let mut places = space.any(places)?;
    places = space.minus(places, matching.left_out(&rule.not_to, PacketEnd::To)?)?;
    if let Some(source) = &rule.source {
        places = space.and(places, matching.meant(source, PacketEnd::From)?)?;
    }
    matching.keys(rule, places)
}

/// Returns the steps that apply a change to the packets of a set.
pub(in crate::verify) fn steps(
    space: &Space,
    change: MangleChange,
    when: Set,
) -> Result<Vec<RuleStep>, GaveUp> {
    // Invalid and untracked packets have no connection, and so no connection mark.
    let tracked = || space.states(&[State::New, State::Established, State::Related]);
    Ok(vec![match change {
        MangleChange::SetMark(MarkMatch { value, mask }) => RuleStep::set_mark(when, value, mask),
        MangleChange::SaveMark(mask) => RuleStep::save_mark(space.and(when, tracked()?)?, mask),
        MangleChange::RestoreMark(mask) => {
            RuleStep::restore_mark(space.and(when, tracked()?)?, mask)
        }
        MangleChange::ClampMss(None) => RuleStep::effect(when, "TCPMSS --clamp-mss-to-pmtu"),
        MangleChange::ClampMss(Some(size)) => {
            RuleStep::effect(when, format!("TCPMSS --set-mss {size}"))
        }
        MangleChange::Dscp(class) => {
            let write = Write::TypeOfService(Tos {
                value: class << 2,
                mask: 0b1111_1100,
            });
            let effect = format!("DSCP --set-dscp 0x{class:02x}");
            return Ok(RuleStep::write(space, when, effect, write)?.into());
        }
        MangleChange::Classify(major, minor) => RuleStep::effect(
            when,
            format!("CLASSIFY --set-class {major:04x}:{minor:04x}"),
        ),
        MangleChange::HopLimit(hops) => {
            let (word, count, change) = match hops {
                HopLimitChange::Set(count) => ("set", count, HopChange::Set(count)),
                HopLimitChange::Increase(count) => ("inc", count, HopChange::Increase(count)),
                HopLimitChange::Decrease(count) => ("dec", count, HopChange::Decrease(count)),
            };
            let effect = match space.family() {
                Family::V4 => format!("TTL --ttl-{word} {count}"),
                Family::V6 => format!("HL --hl-{word} {count}"),
            };
            let write = Write::HopLimit(change);
            return Ok(RuleStep::write(space, when, effect, write)?.into());
        }
        MangleChange::Proxy(proxy) => {
            let anywhere = match space.family() {
                Family::V4 => "0.0.0.0",
                Family::V6 => "::",
            };
            let to = proxy
                .address
                .map_or_else(|| anywhere.to_owned(), |address| address.to_string());
            let (value, mask) = proxy.mark.map_or((0, 0), |mark| (mark.value, mark.mask));
            let target = format!(
                "TPROXY --on-port {} --on-ip {to} --tproxy-mark {value:#x}/{mask:#x}",
                proxy.port
            );
            RuleStep::verdict(when, Verdict::Target(target.into()))
        }
        MangleChange::Checksum => RuleStep::effect(when, "CHECKSUM --checksum-fill"),
        MangleChange::Drop => RuleStep::verdict(when, Verdict::Drop),
    }])
}

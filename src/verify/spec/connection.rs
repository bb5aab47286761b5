//! The packets that `original` and `match` choose. What a match of iptables means is read by the analysis, as for custom
//! rules; which matches a rule asks is decided here.

use crate::analysis::{BaseChain, GaveUp, Reading, Set, Space, TextError, has_memory, rule_sets};
use crate::iptables::{Chain, ChainPolicy, Match, Rule, Ruleset, Table, TableName, Target};
use crate::net::{Family, State, address_of};
use crate::resolve::{PlannedMatch, PlannedOriginal};
use crate::verify::condition::{Bucket, Condition, RateLimit};

/// Returns the packets whose connection's first packet was sent to a destination, in the direction of that packet.
pub(super) fn original(space: &Space, asked: &PlannedOriginal) -> Result<Set, GaveUp> {
    let PlannedOriginal { destination, ports } = asked;
    let family = space.family();
    let mut all = vec![
        // INVALID and UNTRACKED packets have no connection.
        space.states(&[State::New, State::Established, State::Related])?,
        connection(space, "--ctdir ORIGINAL")?,
    ];
    if let Some(destination) = destination {
        let last = family.last_address();
        let mut named = Vec::new();
        for (first, end) in destination.listed.family(family).intervals() {
            let bits = u32::from(family.bits());
            named.push(within(space, (*first, *end), (0, last), bits)?);
        }
        let named = space.any(named)?;
        all.push(match destination.negated {
            true => space.not(named)?,
            false => named,
        });
    }
    if let Some(ports) = ports {
        let mut any = Vec::new();
        for (protocol, ports) in ports {
            let mut ranges = Vec::new();
            for (first, last) in ports.intervals() {
                let range = match first == last {
                    true => format!("--ctorigdstport {first}"),
                    false => format!("--ctorigdstport {first}:{last}"),
                };
                ranges.push(connection(space, &range)?);
            }
            let of_protocol = connection(space, &format!("--ctproto {}", protocol.0))?;
            any.push(space.and(of_protocol, space.any(ranges)?)?);
        }
        all.push(space.any(any)?);
    }
    space.every(all)
}

/// Returns the packets whose original destination is in a range of addresses, among the prefix `part` with so many bits
/// left. A range is halved down to prefixes, since iptables asks for one prefix at a time.
fn within(
    space: &Space,
    range: (u128, u128),
    part: (u128, u128),
    bits: u32,
) -> Result<Set, GaveUp> {
    let family = space.family();
    if range.1 < part.0 || part.1 < range.0 {
        return Ok(space.none());
    }
    if range.0 <= part.0 && part.1 <= range.1 {
        if bits == u32::from(family.bits()) {
            return Ok(space.all());
        }
        let length = u32::from(family.bits()) - bits;
        let prefix = format!("--ctorigdst {}/{length}", address_of(family, part.0));
        return connection(space, &prefix);
    }
    let half = part.0 + (part.1 - part.0) / 2;
    let low = within(space, range, (part.0, half), bits - 1)?;
    let high = within(space, range, (half + 1, part.1), bits - 1)?;
    space.or(low, high)
}

/// Returns the packets for which a match of `conntrack` holds.
fn connection(space: &Space, option: &str) -> Result<Set, GaveUp> {
    let text =
        format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack {option} -j ACCEPT\nCOMMIT\n");
    // Cannot fail: the options are those of iptables.
    let rules = Ruleset::from_text(&text, space.family());
    let rules = rules.unwrap_or_else(|_| Ruleset::new(space.family()));
    packets(space, &rules)
}

/// Returns the packets for which the matches of a rule hold that do not count.
pub(super) fn matched(space: &Space, asked: &PlannedMatch) -> Result<Set, GaveUp> {
    let family = space.family();
    if asked.texts[family].is_none() {
        return Ok(space.none());
    }
    let all = asked.matches[family].iter();
    let all = all.filter(|one| !has_memory(one)).flat_map(normalised);
    packets(space, &alone(all.collect(), family))
}

/// Returns the texts of a rule's matches that count, in their order.
pub(super) fn counting(asked: &PlannedMatch, family: Family) -> Vec<String> {
    let all = asked.matches[family].iter().filter(|one| has_memory(one));
    all.map(|one| one.to_text(family)).collect()
}

/// A match of an entry that counts: as iptables prints it, and the condition that it asks for, negated or not.
pub(in crate::verify) type Counted = (String, Condition, bool);

/// The numbers of the counters so far in a base chain, by their kinds.
#[derive(Default)]
pub(super) struct Counters {
    limits: usize,
    connections: usize,
    pub turns: usize,
    counting: usize,
}

impl Counters {
    /// Returns the matches of an entry that count, in their order, each with a counter of its own.
    pub fn counted(
        &mut self,
        asked: &PlannedMatch,
        family: Family,
        (table, chain): (TableName, BaseChain),
    ) -> Vec<Counted> {
        let next = |number: &mut usize| {
            *number += 1;
            Bucket::of_table(table, chain.as_str(), *number - 1)
        };
        let mut all = Vec::new();
        for one in asked.matches[family].iter().filter(|one| has_memory(one)) {
            let text = one.to_text(family);
            let turn = Condition::turn(one).filter(|_| table == TableName::Nat);
            let (condition, negated) = if let Some((most, of, over)) = Condition::connections(one) {
                let bucket = next(&mut self.connections);
                (Condition::Connections(bucket, most, of), over)
            } else if let Some(every) = turn {
                self.turns += 1;
                let bucket = Bucket {
                    chain: chain.as_str().to_owned(),
                    place: self.turns - 1,
                };
                (Condition::Turn(bucket, every), false)
            } else if let Some((rate, over)) = RateLimit::of_match(one, family) {
                (Condition::Within(next(&mut self.limits), rate), over)
            } else {
                let bucket = next(&mut self.counting);
                (Condition::Counting(bucket, text.clone()), false)
            };
            all.push((text, condition, negated));
        }
        all
    }
}

/// Returns the packets of a set for which all of these matches hold.
pub(super) fn where_counted(space: &Space, when: Set, all: &[Counted]) -> Result<Set, GaveUp> {
    let mut left = when;
    for (_, condition, negated) in all {
        let holds = condition.set(space)?;
        left = match negated {
            true => space.minus(left, holds)?,
            false => space.and(left, holds)?,
        };
    }
    Ok(left)
}

/// Returns the conditions in place of a match, if it asks what keys of the policy ask, too.
fn normalised(one: &Match) -> Vec<Match> {
    match Condition::of_match(one) {
        Some(conditions) => {
            let each = conditions.iter();
            each.map(|(condition, negated)| condition.as_match(*negated))
                .collect()
        }
        None => vec![one.clone()],
    }
}

/// Returns a ruleset with one rule, in INPUT of the filter table, that has these matches and accepts.
pub(in crate::verify) fn alone(matches: Vec<Match>, family: Family) -> Ruleset {
    let mut chain = Chain::new("INPUT", Some(ChainPolicy::Accept));
    chain.rules.push(Rule {
        matches,
        target: Target::Accept,
        counters: None,
        line: 0,
    });
    let mut ruleset = Ruleset::new(family);
    ruleset.tables.push(Table {
        name: TableName::Filter,
        chains: vec![chain],
    });
    ruleset
}

/// Returns the packets that the only rule of a ruleset matches.
fn packets(space: &Space, rules: &Ruleset) -> Result<Set, GaveUp> {
    let reading = Reading {
        // The rules of the policy track connections, so the kernel reassembles fragments.
        is_reassembled: true,
        ..Reading::default()
    };
    match rule_sets(space, rules, &reading) {
        Ok(sets) => Ok(sets.into_values().next().unwrap_or(space.none())),
        Err(TextError::GaveUp(gave_up)) => Err(gave_up),
        // The others are about jumps and counters.
        Err(_) => Ok(space.none()),
    }
}

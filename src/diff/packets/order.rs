//! Finds the effects whose order or repetition must be tracked, because the positions of the rules alone do not prove that it
//! is the same on both sides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::buckets::shared_name;
use crate::analysis::{BaseChain, Buckets, Effect, Space, counted, counter};
use crate::iptables::{Rule, RuleId, Ruleset, Table, Target};

/// A group of effects whose order matters: targets that log or write (`Some("")`), or the conditions that share a list or bucket
/// of a name. `None` for effects without an order, such as verdicts and marks.
type OrderGroup = Option<String>;

/// The positions of an effect in a base chain, counted as if the chains that it calls were part of it.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
    times: u64,
}

/// Makes the space track whether a packet gets an effect twice, if several rules have it, and which of two effects of a group
/// comes first, unless the positions of the rules show that this is the same on both sides. Writes of header fields are
/// compared by their result instead.
pub(super) fn watch(space: &Space, sides: [(&Ruleset, &Buckets); 2]) {
    for table in crate::iptables::TableName::ALL {
        let of = |(ruleset, buckets): (&Ruleset, &Buckets)| {
            let table = ruleset.table(table);
            table.map_or_else(BTreeMap::new, |table| spans(space, table, buckets))
        };
        let [old, new] = sides.map(of);
        let nothing = BTreeMap::new();
        for base in BaseChain::ALL {
            let [old, new] = [&old, &new].map(|side| side.get(&base).unwrap_or(&nothing));
            for (one, span) in old.iter().chain(new) {
                if span.times > 1 && !writes_header(&one.1) && !is_idempotent(&one.1) {
                    space.watch(&one.1, &one.1);
                }
            }
            let both: Vec<_> = old.keys().filter(|one| new.contains_key(*one)).collect();
            for (at, one) in both.iter().enumerate() {
                let company = both[at + 1..].iter();
                for other in company.take_while(|other| one.0.is_some() && other.0 == one.0) {
                    if writes_header(&one.1) && writes_header(&other.1) {
                        continue;
                    }
                    let comes_first = |side: &Spans| {
                        let (one, other) = (side.get(*one)?, side.get(*other)?);
                        match (one.last < other.first, other.last < one.first) {
                            (true, _) => Some(true),
                            (_, true) => Some(false),
                            _ => None,
                        }
                    };
                    let (before, after) = (comes_first(old), comes_first(new));
                    if before.is_none() || before != after {
                        space.watch(&one.1, &other.1);
                        space.watch(&other.1, &one.1);
                    }
                }
            }
        }
    }
}

/// Returns `true` for a target that writes the hop limit or the type of service. Order and repetition of these do not
/// matter by themselves: most orders leave the same values, and those are compared ([`Space::header_changes`]).
pub(super) fn writes_header(effect: &str) -> bool {
    let target = effect.split(' ').next();
    target.is_some_and(|target| ["TTL", "HL", "DSCP", "TOS"].contains(&target))
}

/// Returns `true` for a target that changes nothing when it comes a second time: the checksum is right, the segment size
/// is low enough, the class is set. What comes between is compared by its order.
fn is_idempotent(effect: &str) -> bool {
    let target = effect.split(' ').next();
    target.is_some_and(|target| ["CHECKSUM", "CLASSIFY", "TCPMSS"].contains(&target))
}

type Spans = BTreeMap<(OrderGroup, Effect), Span>;

/// Returns the effects of each base chain of a table, including those of the chains that it calls.
fn spans(space: &Space, table: &Table, buckets: &Buckets) -> BTreeMap<BaseChain, Spans> {
    let names = table.chains.iter().map(|chain| &*chain.name);
    let index: HashMap<&str, usize> = names.zip(0..).collect();
    let callee = |rule: &Rule| match &rule.target {
        Target::Jump(name) | Target::Goto(name) => index.get(&**name).copied(),
        _ => None,
    };
    let mut known: Vec<Option<(u64, Spans)>> = vec![None; table.chains.len()];
    for chain in callees_first(table, callee) {
        let (mut length, mut all) = (0u64, Spans::new());
        for (number, rule) in table.chains[chain].rules.iter().enumerate() {
            let id = RuleId {
                chain,
                rule: number,
            };
            for effect in effects(space, table, id, rule, buckets) {
                length = length.saturating_add(1);
                let here = Span {
                    first: length,
                    last: length,
                    times: 1,
                };
                add(&mut all, effect, here);
            }
            let called = callee(rule).and_then(|callee| known[callee].as_ref());
            if let Some((steps, inside)) = called {
                for (effect, span) in inside {
                    let here = Span {
                        first: length.saturating_add(span.first),
                        last: length.saturating_add(span.last),
                        times: span.times,
                    };
                    add(&mut all, effect.clone(), here);
                }
                length = length.saturating_add(*steps);
            }
        }
        known[chain] = Some((length, all));
    }
    let chains = table.chains.iter().zip(known);
    chains
        .filter_map(|(chain, known)| Some((BaseChain::from_name(&chain.name)?, known?.1)))
        .collect()
}

fn add(all: &mut Spans, effect: (OrderGroup, Effect), here: Span) {
    let known = all.entry(effect).or_insert(Span { times: 0, ..here });
    *known = Span {
        first: known.first.min(here.first),
        last: known.last.max(here.last),
        times: known.times.saturating_add(here.times),
    };
}

/// Returns the chains, each behind those that it calls. A loop and not a recursion: chains may call each other to any
/// depth.
fn callees_first(table: &Table, callee: impl Fn(&Rule) -> Option<usize>) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for start in 0..table.chains.len() {
        let mut open = Vec::new();
        if seen.insert(start) {
            open.push((start, 0));
        }
        while let Some((chain, next)) = open.last_mut() {
            let Some(rule) = table.chains[*chain].rules.get(*next) else {
                order.push(*chain);
                open.pop();
                continue;
            };
            *next += 1;
            if let Some(callee) = callee(rule)
                && seen.insert(callee)
            {
                open.push((callee, 0));
            }
        }
    }
    order
}

/// Returns the effects that a rule may have, in the order in which the kernel runs them.
fn effects(
    space: &Space,
    table: &Table,
    id: RuleId,
    rule: &Rule,
    buckets: &Buckets,
) -> Vec<(OrderGroup, Effect)> {
    let mut all = Vec::new();
    for (at, condition) in rule.matches.iter().enumerate() {
        if let Some(key) = buckets.get(&(table.name, id, at)) {
            all.push((shared_name(condition), counted(&key.key)));
        }
    }
    match &rule.target {
        Target::Accept
        | Target::Drop
        | Target::Reject(_)
        | Target::Return
        | Target::Queue
        | Target::Nat(_)
        | Target::Mark(_)
        | Target::Jump(_)
        | Target::Goto(_) => {}
        // The order of counters does not matter.
        Target::None => all.push((None, counter(rule, space.family()))),
        // Only the first rule that sets the tracking counts; flows already respect that.
        Target::Other(module) if matches!(module.name, "CT" | "NOTRACK") => {}
        target => {
            let text = target.to_text();
            let effect = text.strip_prefix("-j ").unwrap_or(&text).into();
            all.push((Some(String::new()), effect));
        }
    }
    all
}

//! Chains with limits or logs that a packet can pass twice. It would be logged twice, or use up a limit twice, and the
//! comparison of packet sets does not show that.

use std::collections::{BTreeMap, BTreeSet};

use super::normalised::Normalised;
use crate::analysis::{BaseChain, Behaviour, Effect, GaveUp, Reading, Set, Space, TextError};
use crate::iptables::{Chain, LogTarget, Reject, Rule, RuleId, Ruleset, Table, TableName, Target};

/// A chain with a limit, a count of connections or a log, and the packets that can pass it twice.
pub(super) struct DoubleCount {
    pub table: TableName,
    pub base: BaseChain,
    pub chain: String,
    pub packets: Set,
}

/// Finds the chains with limits or logs that a packet can pass twice.
///
/// Each path into such a chain gets an effect of its own. A packet with the effects of two paths passes the chain twice.
pub(super) fn double_counts(
    space: &Space,
    normalised: &Normalised,
    reading: &Reading<'_>,
) -> Result<Vec<DoubleCount>, GaveUp> {
    let mut marked = normalised.ruleset.clone();
    let mut paths: BTreeMap<(TableName, usize), Vec<Effect>> = BTreeMap::new();
    for table in &mut marked.tables {
        for chain in candidates(table, normalised) {
            paths.insert((table.name, chain), mark_paths(table, chain));
        }
    }
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let behaviour = match Behaviour::of(space, &marked, reading) {
        Ok(behaviour) => behaviour,
        Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
        // Other errors are about matches, which are those of the original rules.
        Err(_) => return Ok(Vec::new()),
    };
    let mut found = Vec::new();
    for ((name, chain), paths) in paths {
        for ((table, base), flow) in behaviour
            .flows
            .iter()
            .filter(|((table, _), _)| *table == name)
        {
            let (mut once, mut packets) = (space.none(), space.none());
            for path in paths.iter().filter_map(|path| flow.effects.get(path)) {
                packets = space.or(packets, space.and(once, *path)?)?;
                once = space.or(once, *path)?;
            }
            if packets != space.none() {
                found.push(DoubleCount {
                    table: *table,
                    base: *base,
                    chain: name_of(&normalised.ruleset, *table, chain),
                    packets,
                });
            }
        }
    }
    Ok(found)
}

fn name_of(ruleset: &Ruleset, table: TableName, chain: usize) -> String {
    let chain = ruleset
        .table(table)
        .and_then(|table| table.chains.get(chain));
    chain.map_or(String::new(), |chain| chain.name.to_string())
}

/// Returns the chains that count, or call one that does, that packets can enter by several paths, and can come back from.
fn candidates(table: &Table, normalised: &Normalised) -> Vec<usize> {
    let counts = |chain: usize| {
        let rules = 0..table.chains[chain].rules.len();
        rules
            .into_iter()
            .any(|rule| normalised.counts(table.name, RuleId { chain, rule }))
    };
    let mut counting: BTreeSet<usize> = (0..table.chains.len()).filter(|at| counts(*at)).collect();
    let sites = sites(table);
    let mut open: Vec<usize> = counting.iter().copied().collect();
    while let Some(chain) = open.pop() {
        let callers = sites.get(&*table.chains[chain].name).into_iter().flatten();
        open.extend(
            callers
                .map(|site| site.chain)
                .filter(|caller| counting.insert(*caller)),
        );
    }
    counting.retain(|chain| {
        let own = &table.chains[*chain];
        let sites = sites.get(&*own.name).map_or(&[][..], Vec::as_slice);
        sites.len() > 1 && comes_back(own) && !one_of(table, sites)
    });
    counting.into_iter().collect()
}

/// Returns the rules that call each chain, by its name.
fn sites(table: &Table) -> BTreeMap<&str, Vec<RuleId>> {
    let mut sites: BTreeMap<&str, Vec<RuleId>> = BTreeMap::new();
    for (chain, one) in table.chains.iter().enumerate() {
        for (rule, target) in one.rules.iter().map(|rule| &rule.target).enumerate() {
            if let Target::Jump(to) | Target::Goto(to) = target {
                sites.entry(to).or_default().push(RuleId { chain, rule });
            }
        }
    }
    sites
}

/// Returns `true` if a packet can come back from a chain to its caller: no rule decides every packet before the end.
fn comes_back(chain: &Chain) -> bool {
    let decides = |rule: &Rule| {
        let target = match &rule.target {
            Target::Accept | Target::Drop => true,
            // A TCP reset answers only TCP.
            Target::Reject(with) => *with != Reject::TcpReset,
            _ => false,
        };
        target && rule.matches.is_empty()
    };
    let leaves = |rule: &Rule| matches!(rule.target, Target::Return | Target::Goto(_));
    let end = chain.rules.iter().position(decides);
    end.is_none_or(|end| chain.rules[..end].iter().any(leaves))
}

/// Returns `true` if a packet takes at most one of these calls: all are a `goto` of the same chain.
fn one_of(table: &Table, sites: &[RuleId]) -> bool {
    let for_good = |site: &RuleId| {
        let target = &table.chains[site.chain].rules[site.rule].target;
        site.chain == sites[0].chain && matches!(target, Target::Goto(_))
    };
    sites.iter().all(for_good)
}

/// Gives each path into a chain an effect of its own, by a chain in between that logs. Returns the effects.
fn mark_paths(table: &mut Table, chain: usize) -> Vec<Effect> {
    let name = table.chains[chain].name.clone();
    let all: Vec<RuleId> = sites(table).remove(&*name).unwrap_or_default();
    let mut paths = Vec::with_capacity(all.len());
    for (number, site) in all.into_iter().enumerate() {
        let between: Box<str> = format!("path-{chain}-{number}").into();
        let log = Target::Log(Box::new(LogTarget {
            prefix: between.clone(),
            level: LogTarget::DEFAULT_LEVEL,
            flags: [false; 5],
        }));
        let text = log.to_text();
        paths.push(text.strip_prefix("-j ").unwrap_or(&text).into());
        let mut own = Chain::new(&between, None);
        own.rules
            .extend([log, Target::Goto(name.clone())].map(|target| Rule {
                matches: Vec::new(),
                target,
                counters: None,
                line: 0,
            }));
        table.chains.push(own);
        let target = &mut table.chains[site.chain].rules[site.rule].target;
        *target = match target {
            Target::Goto(_) => Target::Goto(between),
            _ => Target::Jump(between),
        };
    }
    paths
}

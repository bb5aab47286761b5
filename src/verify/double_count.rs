//! What counts may not be met twice by a packet: it would be logged twice, or use up a limit twice. A set of packets does not show that.

use std::collections::{BTreeMap, BTreeSet};

use super::normalised::Normalised;
use crate::analysis::{BaseChain, Behaviour, Effect, GaveUp, Reading, Set, Space, TextError};
use crate::iptables::{Chain, LogTarget, Reject, Rule, RuleId, Ruleset, Table, TableName, Target};

/// Packets that come to a chain with something that counts more than once.
pub(super) struct DoubleCount {
    pub table: TableName,
    pub base: BaseChain,
    pub chain: String,
    pub packets: Set,
}

/// Where packets come twice to what counts.
pub(super) fn twice(
    space: &Space,
    tagged: &Normalised,
    reading: &Reading<'_>,
) -> Result<Vec<DoubleCount>, GaveUp> {
    let mut marked = tagged.ruleset.clone();
    let mut ways: BTreeMap<(TableName, usize), Vec<Effect>> = BTreeMap::new();
    for table in &mut marked.tables {
        for chain in in_question(table, tagged) {
            ways.insert((table.name, chain), mark_ways(table, chain));
        }
    }
    if ways.is_empty() {
        return Ok(Vec::new());
    }
    let behaviour = match Behaviour::of(space, &marked, reading) {
        Ok(behaviour) => behaviour,
        Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
        // The rules themselves have a behaviour, and so have these.
        Err(_) => return Ok(Vec::new()),
    };
    let mut found = Vec::new();
    for ((name, chain), ways) in ways {
        for ((table, base), flow) in behaviour
            .flows
            .iter()
            .filter(|((table, _), _)| *table == name)
        {
            let (mut once, mut packets) = (space.none(), space.none());
            for way in ways.iter().filter_map(|way| flow.effects.get(way)) {
                packets = space.or(packets, space.and(once, *way)?)?;
                once = space.or(once, *way)?;
            }
            if packets != space.none() {
                found.push(DoubleCount {
                    table: *table,
                    base: *base,
                    chain: name_of(&tagged.ruleset, *table, chain),
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

/// The chains that have something that counts, or call one that has, that packets may come to by several ways, and may come
/// back from.
fn in_question(table: &Table, tagged: &Normalised) -> Vec<usize> {
    let counts = |chain: usize| {
        let rules = 0..table.chains[chain].rules.len();
        rules
            .into_iter()
            .any(|rule| tagged.counts(table.name, RuleId { chain, rule }))
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

/// The rules that call each chain.
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

/// Whether a packet may come back from a chain to its caller.
fn comes_back(chain: &Chain) -> bool {
    let decides = |rule: &Rule| {
        let target = match &rule.target {
            Target::Accept | Target::Drop => true,
            Target::Reject(with) => *with != Reject::TcpReset,
            _ => false,
        };
        target && rule.matches.is_empty()
    };
    let leaves = |rule: &Rule| matches!(rule.target, Target::Return | Target::Goto(_));
    let end = chain.rules.iter().position(decides);
    end.is_none_or(|end| chain.rules[..end].iter().any(leaves))
}

/// Whether a packet takes one of these ways at most: all leave the same chain for good.
fn one_of(table: &Table, sites: &[RuleId]) -> bool {
    let for_good = |site: &RuleId| {
        let target = &table.chains[site.chain].rules[site.rule].target;
        site.chain == sites[0].chain && matches!(target, Target::Goto(_))
    };
    sites.iter().all(for_good)
}

/// Gives each way to a chain an effect of its own: a chain in between.
fn mark_ways(table: &mut Table, chain: usize) -> Vec<Effect> {
    let name = table.chains[chain].name.clone();
    let all: Vec<RuleId> = sites(table).remove(&*name).unwrap_or_default();
    let mut ways = Vec::with_capacity(all.len());
    for (number, site) in all.into_iter().enumerate() {
        let between: Box<str> = format!("way-{chain}-{number}").into();
        let log = Target::Log(Box::new(LogTarget {
            prefix: between.clone(),
            level: LogTarget::DEFAULT_LEVEL,
            flags: [false; 5],
        }));
        let text = log.to_text();
        ways.push(text.strip_prefix("-j ").unwrap_or(&text).into());
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
    ways
}

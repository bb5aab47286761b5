//! Rules made ready for the comparison: every log line an effect of its own, and every question that a packet does not
//! answer in the policy's words.

use std::collections::{HashMap, HashSet};

use super::condition::{Bucket, Condition, RateLimit, Translated};
use super::logging::{LogLine, is_limit, is_log};
use crate::analysis::{Effect, Verdict};
use crate::iptables::{
    LogTarget, Match, Module, ModuleOption, Rule, RuleId, Ruleset, Table, TableName, Target,
};
use crate::net::Family;

/// What becomes of packets that fwc's chains leave to others: a verdict that no rules file can give.
pub(super) fn goes_on() -> Verdict {
    Verdict::Target(format!("{GOES_ON} --{GOES_ON_OPTION}").into())
}

const GOES_ON: &str = "NFQUEUE";
const GOES_ON_OPTION: &str = "goes-on";

/// Whether a packet's way ends there.
pub(super) fn is_goes_on(target: &Target) -> bool {
    matches!(target, Target::Other(module) if module.setting(GOES_ON_OPTION).is_some())
}

/// The rules as they stand beside others': who comes to the end of a base chain of the filter table goes on to those.
pub(super) fn open_ended(ruleset: &Ruleset) -> Ruleset {
    let mut open = ruleset.clone();
    let filter = open.tables.iter_mut();
    let filter = filter.filter(|table| table.name == TableName::Filter);
    for chain in filter.flat_map(|table| &mut table.chains) {
        if chain.policy.is_some() {
            chain.rules.push(Rule {
                target: Target::Other(Box::new(Module {
                    name: GOES_ON,
                    settings: vec![ModuleOption {
                        name: GOES_ON_OPTION,
                        negated: false,
                        value: "".into(),
                    }],
                })),
                matches: Vec::new(),
                counters: None,
                line: 0,
            });
        }
    }
    open
}

/// A ruleset and what was replaced in it.
pub(super) struct Normalised {
    /// The rules with their tags.
    pub ruleset: Ruleset,
    /// The log lines, by the effects that stand for them.
    pub logs: HashMap<Effect, LogLine>,
    /// Effects of log rules that packets may come to by several ways: the order of the effects says nothing of theirs.
    pub unordered: HashSet<Effect>,
    /// Log rules that no policy can ask for: line and text.
    pub strange: Vec<(u32, String)>,
    conditions: HashMap<(TableName, RuleId), Vec<Replaced>>,
}

/// A match and the conditions that took its place, each negated or not.
type Replaced = (Match, Vec<(Condition, bool)>);

impl Normalised {
    /// Reads the rules; what is in the sets of these names is known, so they stay.
    pub fn new(ruleset: &Ruleset, known_set: impl Fn(&str) -> bool) -> Self {
        Self::with_customs(ruleset, known_set, |_, _, _| false)
    }

    /// The same where custom rules stay as they are.
    pub fn with_customs(
        ruleset: &Ruleset,
        known_set: impl Fn(&str) -> bool,
        custom: impl Fn(TableName, &str, &Rule) -> bool,
    ) -> Self {
        let mut tagged = Self {
            ruleset: ruleset.clone(),
            logs: HashMap::new(),
            unordered: HashSet::new(),
            strange: Vec::new(),
            conditions: HashMap::new(),
        };
        for table in &ruleset.tables {
            let mut buckets = Buckets::default();
            for (chain, id) in in_order(table) {
                let own = &table.chains[id.chain];
                if custom(table.name, &own.name, &own.rules[id.rule]) {
                    continue;
                }
                tagged.conditions(table, chain, id, &known_set, &mut buckets, ruleset.family);
            }
        }
        tagged.logs(ruleset.family, &custom);
        tagged
    }

    /// Whether a match of a rule holds, its `!` included, by what holds of its conditions.
    pub fn holds(
        &self,
        table: TableName,
        id: RuleId,
        condition: &Match,
        holds: impl Fn(&Condition) -> bool,
    ) -> Option<bool> {
        let translated = self.conditions.get(&(table, id))?;
        // The same match twice in a rule counts twice: the rule holds where both do.
        let same = |(original, _): &&Replaced| original == condition;
        let mut same = translated.iter().filter(same).peekable();
        same.peek()?;
        let each = |(condition, negated): &(Condition, bool)| holds(condition) != *negated;
        Some(same.flat_map(|(_, all)| all).all(each))
    }

    /// Whether a rule logs, or has a condition that it counts by.
    pub fn counts(&self, table: TableName, id: RuleId) -> bool {
        let counts = |condition: &Condition| {
            matches!(
                condition,
                Condition::Within(..) | Condition::Connections(..) | Condition::Turn(..)
            )
        };
        let replaced = self.conditions.get(&(table, id)).into_iter().flatten();
        let mut conditions = replaced.flat_map(|(_, all)| all);
        let chains = self.ruleset.table(table).map(|table| &table.chains);
        let rule = chains.and_then(|chains| chains.get(id.chain)?.rules.get(id.rule));
        let is_line = |target: &Target| {
            let text = target.to_text();
            self.logs
                .contains_key(text.strip_prefix("-j ").unwrap_or(&text))
        };
        conditions.any(|(condition, _)| counts(condition))
            || rule.is_some_and(|rule| is_log(&rule.target) && is_line(&rule.target))
    }

    fn conditions(
        &mut self,
        table: &Table,
        base: &str,
        id: RuleId,
        known_set: &impl Fn(&str) -> bool,
        buckets: &mut Buckets,
        family: Family,
    ) {
        let rule = &table.chains[id.chain].rules[id.rule];
        let logs = is_log(&rule.target);
        let mut matches = Vec::with_capacity(rule.matches.len());
        let mut replaced = Vec::new();
        for condition in &rule.matches {
            let is_known = matches!(condition, Match::Set(set) if known_set(&set.name));
            let translated = match condition {
                _ if is_known => None,
                limit if logs && is_limit(limit) => None,
                other => {
                    Condition::of_match(other).or_else(|| buckets.counted(other, base, family))
                }
            };
            match translated {
                None => matches.push(condition.clone()),
                Some(all) => {
                    matches.extend(all.iter().map(|(one, negated)| one.as_match(*negated)));
                    replaced.push((condition.clone(), all));
                }
            }
        }
        if replaced.is_empty() {
            return;
        }
        self.conditions.insert((table.name, id), replaced);
        let tables = self.ruleset.tables.iter_mut();
        for other in tables.filter(|other| other.name == table.name) {
            let chain = other.chains.get_mut(id.chain);
            if let Some(rule) = chain.and_then(|chain| chain.rules.get_mut(id.rule)) {
                rule.matches = std::mem::take(&mut matches);
            }
        }
    }

    /// A limit in front of a log decides nothing else, so it is part of the line.
    fn logs(&mut self, family: Family, custom: &impl Fn(TableName, &str, &Rule) -> bool) {
        let tables = self.ruleset.tables.iter_mut();
        for table in tables.filter(|table| table.name == TableName::Filter) {
            let order: Vec<_> = in_order(table).into_iter().map(|(_, id)| id).collect();
            let ways = by_several_ways(table);
            for id in order {
                let chain = &table.chains[id.chain];
                if custom(TableName::Filter, &chain.name, &chain.rules[id.rule]) {
                    continue;
                }
                let rule = &mut table.chains[id.chain].rules[id.rule];
                if !is_log(&rule.target) {
                    continue;
                }
                let Some(line) = LogLine::of_rule(rule, family) else {
                    self.strange.push((rule.line, rule.to_text(family)));
                    continue;
                };
                rule.matches.retain(|condition| !is_limit(condition));
                rule.target = Target::Log(Box::new(LogTarget {
                    // Sorts as packets meet the lines.
                    prefix: format!("line-{:08}", self.logs.len()).into(),
                    level: LogTarget::DEFAULT_LEVEL,
                    flags: [false; 5],
                }));
                let text = rule.target.to_text();
                let effect = text.strip_prefix("-j ").unwrap_or(&text);
                if ways.contains(&id.chain) {
                    self.unordered.insert(effect.into());
                }
                self.logs.insert(effect.into(), line);
            }
        }
    }
}

/// Counts what counts, base chain by base chain.
#[derive(Default)]
struct Buckets {
    limits: HashMap<String, usize>,
    connections: HashMap<String, usize>,
    turns: HashMap<String, usize>,
    /// Rules that name the same table of buckets share them.
    named: HashMap<String, Bucket>,
}

impl Buckets {
    fn counted(&mut self, condition: &Match, base: &str, family: Family) -> Translated {
        let next = |counts: &mut HashMap<String, usize>| {
            let count = counts.entry(base.to_owned()).or_default();
            *count += 1;
            Bucket {
                chain: base.to_owned(),
                place: *count - 1,
            }
        };
        if let Some((most, counted, beyond)) = Condition::connections(condition) {
            let bucket = next(&mut self.connections);
            return Some(vec![(
                Condition::Connections(bucket, most, counted),
                beyond,
            )]);
        }
        if let Some(every) = Condition::turn(condition) {
            let bucket = next(&mut self.turns);
            return Some(vec![(Condition::Turn(bucket, every), false)]);
        }
        let (rated, beyond) = RateLimit::of_match(condition, family)?;
        let mut bucket = next(&mut self.limits);
        if let Match::Other(module) = condition
            && let Some(name) = module.setting("hashlimit-name")
        {
            bucket = self
                .named
                .entry(name.value.to_string())
                .or_insert(bucket)
                .clone();
        }
        Some(vec![(Condition::Within(bucket, rated), beyond)])
    }
}

/// The chains that packets may come to at more than one place: from rules that do not stand one below the other, or by
/// way of such a chain.
fn by_several_ways(table: &Table) -> HashSet<usize> {
    let mut entered: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
    for (chain, one) in table.chains.iter().enumerate() {
        for (at, rule) in one.rules.iter().enumerate() {
            if let Target::Jump(to) | Target::Goto(to) = &rule.target {
                entered.entry(to).or_default().push((chain, at));
            }
        }
    }
    let is_one_way = |ways: &Vec<(usize, usize)>| {
        let mut pairs = ways.iter().zip(ways.iter().skip(1));
        pairs.all(|(one, next)| one.0 == next.0 && one.1 + 1 == next.1)
    };
    let of_name = |name: &str| table.chains.iter().position(|chain| &*chain.name == name);
    let mut open: Vec<usize> = entered
        .iter()
        .filter(|(_, ways)| !is_one_way(ways))
        .filter_map(|(name, _)| of_name(name))
        .collect();
    let mut found = HashSet::new();
    while let Some(chain) = open.pop() {
        if found.insert(chain) {
            for rule in &table.chains[chain].rules {
                if let Target::Jump(to) | Target::Goto(to) = &rule.target {
                    open.extend(of_name(to));
                }
            }
        }
    }
    found
}

/// The rules that base chains reach, in the order in which a packet may meet them, each once and with the base chain
/// that reaches it first.
fn in_order(table: &Table) -> Vec<(&str, RuleId)> {
    let find = |name: &str| table.chains.iter().position(|chain| &*chain.name == name);
    let mut entered = vec![false; table.chains.len()];
    let mut order = Vec::new();
    for base in 0..table.chains.len() {
        if table.chains[base].policy.is_none() {
            continue;
        }
        let name = &*table.chains[base].name;
        let mut open = vec![RuleId {
            chain: base,
            rule: 0,
        }];
        while let Some(at) = open.last_mut() {
            let id = *at;
            at.rule += 1;
            let Some(rule) = table.chains[id.chain].rules.get(id.rule) else {
                open.pop();
                continue;
            };
            order.push((name, id));
            if let Target::Jump(to) | Target::Goto(to) = &rule.target
                && let Some(chain) = find(to).filter(|chain| !entered[*chain])
            {
                entered[chain] = true;
                open.push(RuleId { chain, rule: 0 });
            }
        }
    }
    order
}

//! Rules prepared for the comparison with the policy: each log line becomes an effect of its own, and each condition that a
//! packet alone does not answer is replaced by a match that names it in the words of the policy.

use std::collections::{HashMap, HashSet};

use super::condition::{Bucket, Condition, RateLimit, Translated, own_list, shared_table};
use super::logging::{LogLine, is_limit, is_log};
use crate::analysis::{Effect, Verdict, has_memory};
use crate::iptables::{
    LogTarget, Match, Module, ModuleOption, Rule, RuleId, Ruleset, Table, TableName, Target,
};
use crate::net::Family;

/// Returns the verdict of packets that fwc's chains leave to the rules of other programs. Its target has an option that does
/// not exist, so no rule of a file has the same verdict.
pub(super) fn left_to_others() -> Verdict {
    Verdict::Target(format!("{MARKER_TARGET} --{MARKER_OPTION}").into())
}

const MARKER_TARGET: &str = "NFQUEUE";
const MARKER_OPTION: &str = "left-to-others";

/// Returns `true` for the target of the rules that [`open_ended`] adds.
pub(super) fn leaves_to_others(target: &Target) -> bool {
    matches!(target, Target::Other(module) if module.setting(MARKER_OPTION).is_some())
}

/// Returns the rules as they are in shared mode: each base chain of the filter table ends with a rule that leaves packets to
/// the rules of other programs.
pub(super) fn open_ended(ruleset: &Ruleset) -> Ruleset {
    let mut open = ruleset.clone();
    let filter = open.tables.iter_mut();
    let filter = filter.filter(|table| table.name == TableName::Filter);
    for chain in filter.flat_map(|table| &mut table.chains) {
        if chain.policy.is_some() {
            chain.rules.push(Rule {
                target: Target::Other(Box::new(Module {
                    name: MARKER_TARGET,
                    settings: vec![ModuleOption {
                        name: MARKER_OPTION,
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

/// A ruleset prepared for the comparison, and what was replaced in it.
pub(super) struct Normalised {
    /// The rules with the replacements.
    pub ruleset: Ruleset,
    /// The log lines, by the effect that replaces each.
    pub logs: HashMap<Effect, LogLine>,
    /// The effects of log rules that packets can reach by several paths: for these the order of the effects is not the order
    /// in which a packet meets them.
    pub unordered: HashSet<Effect>,
    /// The `-m comment` of each rule without a target, by the effect that replaces it: such rules only count.
    pub counts: HashMap<Effect, Option<String>>,
    /// The log rules that no policy produces: line and text.
    pub strange: Vec<(u32, String)>,
    conditions: HashMap<(TableName, RuleId), Vec<Replaced>>,
}

/// A match and the conditions that replace it, each negated or not.
type Replaced = (Match, Vec<(Condition, bool)>);

impl Normalised {
    /// Prepares rules. Matches of sets for which `known_set` returns `true` stay, because the analysis knows their members.
    pub fn new(ruleset: &Ruleset, known_set: impl Fn(&str) -> bool) -> Self {
        Self::with_customs(ruleset, known_set, |_, _, _| false)
    }

    /// Prepares rules, but leaves those unchanged for which `custom` returns `true`: their own text is their specification.
    pub fn with_customs(
        ruleset: &Ruleset,
        known_set: impl Fn(&str) -> bool,
        custom: impl Fn(TableName, &str, &Rule) -> bool,
    ) -> Self {
        let mut normalised = Self {
            ruleset: ruleset.clone(),
            logs: HashMap::new(),
            unordered: HashSet::new(),
            counts: HashMap::new(),
            strange: Vec::new(),
            conditions: HashMap::new(),
        };
        let torn = torn_limits(ruleset);
        for table in &ruleset.tables {
            let mut buckets = Buckets::new(&torn);
            for (chain, id) in in_order(table) {
                let own = &table.chains[id.chain];
                if custom(table.name, &own.name, &own.rules[id.rule]) {
                    continue;
                }
                normalised.conditions(table, chain, id, &known_set, &mut buckets, ruleset.family);
            }
        }
        normalised.logs(ruleset.family, &torn, &custom);
        normalised.counting(&custom);
        normalised
    }

    /// Returns whether a match of a rule holds, including its `!`, if `holds` answers its conditions; `None` if the match was
    /// not replaced.
    pub fn holds(
        &self,
        table: TableName,
        id: RuleId,
        condition: &Match,
        holds: impl Fn(&Condition) -> bool,
    ) -> Option<bool> {
        let translated = self.conditions.get(&(table, id))?;
        // A rule may have the same match twice, for example two `limit`s with a bucket each: both must hold.
        let same = |(original, _): &&Replaced| original == condition;
        let mut same = translated.iter().filter(same).peekable();
        same.peek()?;
        let each = |(condition, negated): &(Condition, bool)| holds(condition) != *negated;
        Some(same.flat_map(|(_, all)| all).all(each))
    }

    /// Returns `true` if a rule logs, or has a condition that counts packets or connections.
    pub fn counts(&self, table: TableName, id: RuleId) -> bool {
        let counts = |condition: &Condition| {
            matches!(
                condition,
                Condition::Within(..)
                    | Condition::Connections(..)
                    | Condition::Turn(..)
                    | Condition::Counting(..)
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
        buckets: &mut Buckets<'_>,
        family: Family,
    ) {
        let rule = &table.chains[id.chain].rules[id.rule];
        let logs = is_log(&rule.target);
        let mut matches = Vec::with_capacity(rule.matches.len());
        let mut replaced = Vec::new();
        let mut rest = rule.matches.as_slice();
        while let [condition, behind @ ..] = rest {
            if !logs
                && let Some((window, beyond)) = RateLimit::of_window(rest, family)
                && let [asked, behind @ ..] = behind
            {
                // The first match records every packet that reaches it, and holds.
                let bucket = buckets.of_list(asked, (table.name, base), &window);
                let within = Condition::Within(bucket, whole(window, buckets.torn));
                matches.push(within.as_match(beyond));
                replaced.push((condition.clone(), Vec::new()));
                replaced.push((asked.clone(), vec![(within, beyond)]));
                rest = behind;
                continue;
            }
            rest = behind;
            let is_known = matches!(condition, Match::Set(set) if known_set(&set.name));
            let translated = match condition {
                _ if is_known => None,
                limit if logs && is_limit(limit) => None,
                other => {
                    let counted = || buckets.counted(other, table.name, base, family);
                    Condition::of_match(other).or_else(counted)
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

    /// Replaces the rules without a target by effects, so that the packets that they count can be compared.
    fn counting(&mut self, custom: &impl Fn(TableName, &str, &Rule) -> bool) {
        let tables = self.ruleset.tables.iter_mut();
        for table in tables.filter(|table| table.name == TableName::Filter) {
            for chain in &mut table.chains {
                for rule in &mut chain.rules {
                    if rule.target != Target::None || custom(table.name, &chain.name, rule) {
                        continue;
                    }
                    let comment = rule.matches.iter().find_map(|condition| match condition {
                        Match::Comment(text) => Some(text.to_string()),
                        _ => None,
                    });
                    rule.target = effect_target(format!("count-{:08}", self.counts.len()));
                    self.counts.insert(effect_of(&rule.target), comment);
                }
            }
        }
    }

    /// Replaces the log rules by effects. The limit of a log rule only decides how often the line is written, so it becomes
    /// part of the line.
    fn logs(
        &mut self,
        family: Family,
        torn: &HashSet<String>,
        custom: &impl Fn(TableName, &str, &Rule) -> bool,
    ) {
        for table in &mut self.ruleset.tables {
            let order: Vec<_> = in_order(table).into_iter().map(|(_, id)| id).collect();
            let several = on_several_paths(table);
            for id in order {
                let chain = &table.chains[id.chain];
                if custom(table.name, &chain.name, &chain.rules[id.rule]) {
                    continue;
                }
                let rule = &mut table.chains[id.chain].rules[id.rule];
                if !is_log(&rule.target) {
                    continue;
                }
                let Some(mut line) = LogLine::of_rule(rule, family) else {
                    self.strange.push((rule.line, rule.to_text(family)));
                    continue;
                };
                line.limit = line.limit.map(|limit| whole(limit, torn));
                rule.matches.retain(|condition| !is_limit(condition));
                // Effects sort by name, so this keeps the order in which packets meet the lines.
                rule.target = effect_target(format!("line-{:08}", self.logs.len()));
                let effect = effect_of(&rule.target);
                if several.contains(&id.chain) {
                    self.unordered.insert(effect.clone());
                }
                self.logs.insert(effect, line);
            }
        }
    }
}

/// Returns a target that the analysis reads as an effect with this name.
fn effect_target(name: String) -> Target {
    Target::Log(Box::new(LogTarget {
        prefix: name.into(),
        level: LogTarget::DEFAULT_LEVEL,
        flags: [false; 5],
    }))
}

/// Returns the effect that the analysis reads from a target of [`effect_target`].
fn effect_of(target: &Target) -> Effect {
    let text = target.to_text();
    text.strip_prefix("-j ").unwrap_or(&text).into()
}

/// Numbers the conditions that count, for each base chain and kind.
struct Buckets<'t> {
    /// The limits of the policy that are no single table; see [`torn_limits`].
    torn: &'t HashSet<String>,
    limits: HashMap<String, usize>,
    connections: HashMap<String, usize>,
    turns: HashMap<String, usize>,
    counting: HashMap<String, usize>,
    /// The bucket of each `--hashlimit-name` and each list of `recent`: in the kernel rules with the same name share one.
    named: HashMap<String, Bucket>,
}

impl<'t> Buckets<'t> {
    fn new(torn: &'t HashSet<String>) -> Self {
        Self {
            torn,
            limits: HashMap::new(),
            connections: HashMap::new(),
            turns: HashMap::new(),
            counting: HashMap::new(),
            named: HashMap::new(),
        }
    }

    /// Returns the bucket of a limit in a window: the list of its `recent` match.
    fn of_list(
        &mut self,
        condition: &Match,
        place: (TableName, &str),
        limit: &RateLimit,
    ) -> Bucket {
        let name = match condition {
            Match::Other(module) => own_list(module),
            _ => None,
        };
        self.of_table(name, place, limit)
    }

    /// Returns the next bucket, or that of a table which was seen before. Rules that share a limit of the policy ask it one after
    /// the other: each has an answer of its own.
    fn of_table(
        &mut self,
        name: Option<&str>,
        (table, base): (TableName, &str),
        limit: &RateLimit,
    ) -> Bucket {
        let bucket = next(&mut self.limits, table, base);
        match name.filter(|_| limit.shared.is_none()) {
            Some(name) => self.named.entry(name.to_owned()).or_insert(bucket).clone(),
            None => bucket,
        }
    }

    fn counted(
        &mut self,
        condition: &Match,
        table: TableName,
        base: &str,
        family: Family,
    ) -> Translated {
        let next = |counts: &mut HashMap<String, usize>| next(counts, table, base);
        if let Some((most, counted, beyond)) = Condition::connections(condition) {
            let bucket = next(&mut self.connections);
            return Some(vec![(
                Condition::Connections(bucket, most, counted),
                beyond,
            )]);
        }
        if let Some(every) = Condition::turn(condition)
            && table == TableName::Nat
        {
            let count = self.turns.entry(base.to_owned()).or_default();
            *count += 1;
            let bucket = Bucket {
                chain: base.to_owned(),
                place: *count - 1,
            };
            return Some(vec![(Condition::Turn(bucket, every), false)]);
        }
        let Some((rated, beyond)) = RateLimit::of_match(condition, family) else {
            return has_memory(condition).then(|| {
                let text = condition.to_text(family);
                let bucket = next(&mut self.counting);
                vec![(Condition::Counting(bucket, text), false)]
            });
        };
        let name = match condition {
            Match::Other(module) => module.setting("hashlimit-name").map(|name| &*name.value),
            _ => None,
        };
        let bucket = self.of_table(name, (table, base), &rated);
        let within = Condition::Within(bucket, whole(rated, self.torn));
        Some(vec![(within, beyond)])
    }
}

/// Returns the shared limits of the policy of which the rules have several tables: they are no single bucket.
fn torn_limits(ruleset: &Ruleset) -> HashSet<String> {
    let (mut tables, mut torn) = (HashMap::new(), HashSet::new());
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let rules = chains.flat_map(|chain| &chain.rules);
    for condition in rules.flat_map(|rule| &rule.matches) {
        if let Match::Other(module) = condition
            && let Some((limit, table)) = shared_table(module, ruleset.family)
            && *tables.entry(limit.clone()).or_insert(table) != table
        {
            torn.insert(limit);
        }
    }
    torn
}

/// Returns a limit as it is, or with a name that no policy has if it is one of several tables.
fn whole(limit: RateLimit, torn: &HashSet<String>) -> RateLimit {
    let shared = limit.shared.map(|name| match torn.contains(&name) {
        true => format!("{name}, in several tables"),
        false => name,
    });
    RateLimit { shared, ..limit }
}

/// Returns the next counter of a kind in a base chain.
fn next(counts: &mut HashMap<String, usize>, table: TableName, base: &str) -> Bucket {
    let count = counts.entry(base.to_owned()).or_default();
    *count += 1;
    Bucket::of_table(table, base, *count - 1)
}

/// Returns the chains that packets can reach by several paths: from rules that are not directly below each other, or from
/// such a chain.
fn on_several_paths(table: &Table) -> HashSet<usize> {
    let mut entered: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
    for (chain, one) in table.chains.iter().enumerate() {
        for (at, rule) in one.rules.iter().enumerate() {
            if let Target::Jump(to) | Target::Goto(to) = &rule.target {
                entered.entry(to).or_default().push((chain, at));
            }
        }
    }
    let is_one_path = |sites: &Vec<(usize, usize)>| {
        let mut pairs = sites.iter().zip(sites.iter().skip(1));
        pairs.all(|(one, next)| one.0 == next.0 && one.1 + 1 == next.1)
    };
    let of_name = |name: &str| table.chains.iter().position(|chain| &*chain.name == name);
    let mut open: Vec<usize> = entered
        .iter()
        .filter(|(_, sites)| !is_one_path(sites))
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

/// Returns the rules that base chains reach, in the order in which a packet can meet them, each once and with the base chain
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

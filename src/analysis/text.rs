//! Reads rules as `iptables-save` prints them into flows: chains, jumps, and the names of conditions that the engine
//! does not understand.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::behaviour::{BaseChain, Behaviour};
use super::condition_keys::{ConditionKeys, with_memory_key};
use super::field::Field;
use super::flow::{Effect, Flow, RuleStep, counted};
use super::space::{Set, Space};
use super::verdicts::Verdict;
use super::{GaveUp, TextError, matches, targets};
use crate::iptables::{ChainPolicy, Match, Rule, RuleId, Ruleset, Table, TableName, Target};
use crate::net::{Family, IntervalSet};

/// Facts about a ruleset that its text does not have.
pub struct Reading<'a> {
    /// The members of ipsets, where they are known and of one dimension; a match of any other set is an opaque
    /// condition.
    pub sets: &'a BTreeMap<String, IntervalSet>,
    /// Returns what a rule was made from, if that is known; see [`with_memory_key`].
    pub origin: &'a dyn Fn(&Rule) -> Option<String>,
    /// `true` if rules of the same origin are copies, of which one stands for all. If it is `false`, two such rules
    /// with a memory are an error ([`TextError::TwoBuckets`]).
    pub has_copies: bool,
    /// Keys for conditions with memory, in place of text and origin; for the comparison of two rulesets.
    pub buckets: Option<&'a Buckets>,
    /// `true` if the kernel reassembles fragments before any rule sees them, for a reason outside these rules: the
    /// other ruleset of a comparison or another family's rules track connections.
    pub is_reassembled: bool,
    /// `true` to give each rule opaque conditions of its own, even where two rules have the same one. The result then
    /// has more packets than exist, but the diagrams stay small. It serves a partial answer where the exact one is too
    /// large.
    pub apart: bool,
}

/// A condition of a rule, by its index among the rule's conditions.
pub type ConditionId = (TableName, RuleId, usize);

/// The variable that stands for a condition with memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketKey {
    /// The key of the variable.
    pub key: String,
    /// When the condition holds.
    pub holds: BucketHolds,
}

/// When a condition with memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketHolds {
    /// Where the variable of its key is true.
    True,
    /// Where the variable is false: `--hashlimit-above` for a key of `--hashlimit-upto`.
    False,
    /// For every packet: `recent --set`, which writes its list and answers nothing.
    Always,
}

/// Keys of conditions with memory. Reaching one of these conditions is then an effect ([`counted`]). So is matching a
/// rule without a target, because its counter may be read.
pub type Buckets = BTreeMap<ConditionId, BucketKey>;

impl Default for Reading<'_> {
    /// No facts.
    fn default() -> Self {
        const NONE: &BTreeMap<String, IntervalSet> = &BTreeMap::new();
        Self {
            sets: NONE,
            origin: &|_| None,
            has_copies: false,
            buckets: None,
            is_reassembled: false,
            apart: false,
        }
    }
}

/// Returns, for every rule, the packets for which all its conditions hold, whether a packet can reach the rule or not.
///
/// Opaque conditions have the same keys as in the ruleset's [`Behaviour`].
pub fn rule_sets(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<BTreeMap<(TableName, RuleId), Set>, TextError> {
    let reader = ConditionReader::new(space, ruleset, reading)?;
    let mut all = BTreeMap::new();
    for (table, id, rule) in rules(ruleset) {
        all.insert((table, id), reader.when(table, id, rule)?);
    }
    Ok(all)
}

/// The conditions of a ruleset's rules, one by one, for callers that walk a single packet through the rules.
pub struct Conditions<'a>(ConditionReader<'a>);

impl<'a> Conditions<'a> {
    /// Prepares the conditions of a ruleset, with the keys of its [`Behaviour`].
    pub fn new(
        space: &'a Space,
        ruleset: &Ruleset,
        reading: &'a Reading<'a>,
    ) -> Result<Self, TextError> {
        ConditionReader::new(space, ruleset, reading).map(Self)
    }

    /// Returns `true` if a condition of a rule, with its `!`, holds for a packet with these values.
    pub fn hold(
        &self,
        (table, rule): (TableName, RuleId),
        condition: &Match,
        value: impl Fn(super::Field) -> u128,
    ) -> Result<bool, GaveUp> {
        let space = self.0.space;
        let set = self.0.condition((table, rule, usize::MAX), condition)?;
        Ok(space.contains(set, value))
    }
}

/// Returns `true` if some rule makes the kernel reassemble fragments before any rule sees them. Modules that track
/// connections or look for sockets enable that as they load (`nf_defrag_ipv4_enable`).
fn reassembles(ruleset: &Ruleset) -> bool {
    let tracks = |one: &Match| match one {
        Match::Conntrack(_) | Match::State(_) | Match::ConnectionMark(_) => true,
        Match::Other(module) => matches!(
            module.name,
            "connbytes" | "connlabel" | "connlimit" | "cluster" | "helper" | "socket"
        ),
        _ => false,
    };
    let changes = |target: &Target| match target {
        Target::Nat(_) => true,
        Target::Other(module) => matches!(
            module.name,
            "CONNMARK" | "CONNSECMARK" | "CT" | "NOTRACK" | "SYNPROXY" | "TPROXY"
        ),
        _ => false,
    };
    rules(ruleset).any(|(_, _, rule)| changes(&rule.target) || rule.matches.iter().any(tracks))
}

/// Iterates over all rules in the order of the file.
fn rules(ruleset: &Ruleset) -> impl Iterator<Item = (TableName, RuleId, &Rule)> {
    ruleset.tables.iter().flat_map(|table| {
        table
            .chains
            .iter()
            .enumerate()
            .flat_map(move |(chain, one)| {
                let rules = one.rules.iter().enumerate();
                rules.map(move |(rule, one)| (table.name, RuleId { chain, rule }, one))
            })
    })
}

/// Returns the flow of each chain that a base chain reaches, as its callers see it and without a policy, by table and
/// name.
pub fn chain_flows(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<BTreeMap<(TableName, Box<str>), Flow>, TextError> {
    let reader = ConditionReader::new(space, ruleset, reading)?;
    let mut all = BTreeMap::new();
    for table in &ruleset.tables {
        let flows = reader.chains(table)?;
        for (chain, flow) in table.chains.iter().zip(flows) {
            if let Some(flow) = flow.filter(|_| !chain.rules.is_empty()) {
                all.insert((table.name, chain.name.clone()), flow.as_chain(space)?);
            }
        }
    }
    Ok(all)
}

pub(super) fn behaviour(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<Behaviour, TextError> {
    let reader = ConditionReader::new(space, ruleset, reading)?;
    let mut all = Behaviour::default();
    for table in &ruleset.tables {
        let flows = reader.chains(table)?;
        for (chain, flow) in table.chains.iter().zip(flows) {
            let base = BaseChain::from_name(&chain.name);
            let (Some(base), Some(policy)) = (base, chain.policy) else {
                all.structure
                    .chains
                    .insert((table.name, chain.name.clone()));
                continue;
            };
            all.structure.policies.insert((table.name, base), policy);
            let verdict = match policy {
                ChainPolicy::Accept => Verdict::Accept,
                ChainPolicy::Drop => Verdict::Drop,
            };
            if let Some(mut flow) = flow {
                if base == BaseChain::Input {
                    // Packets for this host are reassembled before INPUT (`ip_local_deliver` of `ip_input.c`).
                    flow = flow.with(space, Field::Fragment, 0)?;
                }
                all.insert(space, (table.name, base), flow.with_policy(space, verdict)?)?;
            }
        }
    }
    Ok(all)
}

pub(super) struct ConditionReader<'a> {
    space: &'a Space,
    reading: &'a Reading<'a>,
    /// The origins of the rules whose conditions may need one for their keys.
    origins: HashMap<(TableName, RuleId), String>,
    fragments: bool,
}

impl<'a> ConditionReader<'a> {
    pub fn new(
        space: &'a Space,
        ruleset: &Ruleset,
        reading: &'a Reading<'a>,
    ) -> Result<Self, TextError> {
        let mut origins = HashMap::new();
        let mut copies: HashMap<String, usize> = HashMap::new();
        let mut buckets = HashSet::new();
        for (table, id, rule) in rules(ruleset) {
            // Only rules whose conditions need a key pay for its text.
            let needs_key = |one: &&Match| matches!(one, Match::Other(_) | Match::Unknown(_));
            let Some(_) = rule.matches.iter().find(needs_key) else {
                continue;
            };
            let Some(origin) = (reading.origin)(rule) else {
                // Equal rules have a bucket each, so a copy gets a number. The n-th copies of two rulesets then share a
                // key.
                let text = rule.to_text(ruleset.family);
                let copy = copies.entry(text.clone()).or_default();
                *copy += 1;
                origins.insert((table, id), format!("{text} ({copy})"));
                continue;
            };
            for condition in rule.matches.iter().filter(|one| matches::has_memory(one)) {
                let condition = condition.to_text(ruleset.family);
                // A condition of the policy that two rules would check lets twice its rate through.
                if !reading.has_copies && !buckets.insert((condition.clone(), origin.clone())) {
                    return Err(TextError::TwoBuckets { condition, origin });
                }
            }
            origins.insert((table, id), origin);
        }
        Ok(Self {
            space,
            reading,
            origins,
            fragments: !reading.is_reassembled && !reassembles(ruleset),
        })
    }

    /// Returns the packets for which all conditions of a rule hold.
    pub fn when(&self, table: TableName, id: RuleId, rule: &Rule) -> Result<Set, GaveUp> {
        let conditions = rule.matches.iter().enumerate();
        let sets = conditions.map(|(at, one)| self.condition((table, id, at), one));
        let sets: Result<Vec<Set>, GaveUp> = sets.collect();
        self.space.every(sets?)
    }

    /// Returns the packets for which one condition of a rule holds.
    fn condition(&self, id: ConditionId, condition: &Match) -> Result<Set, GaveUp> {
        let space = self.space;
        let set = matches::set_of(space, condition, &self.keys(id))?;
        if !self.reading.apart {
            return Ok(set);
        }
        let (table, rule, _) = id;
        let origin = format!("-A {} {}.{}", table.as_str(), rule.chain, rule.rule);
        let mut own = set.0;
        for field in space.support(set) {
            if let Field::Opaque(number) = field
                && let Some(key) = space.opaque_key(number)
            {
                let asked = space.opaque(&with_memory_key(&key, &origin))?;
                own = space.replaced(own, field, asked)?;
            }
        }
        Ok(Set(own))
    }

    fn keys(&self, (table, id, at): ConditionId) -> ConditionKeys<'_> {
        let origin = self.origins.get(&(table, id)).map_or("", String::as_str);
        ConditionKeys {
            sets: self.reading.sets,
            origin,
            fragments: self.fragments,
            bucket: self.bucket((table, id, at)),
        }
    }

    fn bucket(&self, condition: ConditionId) -> Option<&BucketKey> {
        self.reading.buckets?.get(&condition)
    }

    /// Returns the flow of each chain that a base chain reaches: a base chain without its policy, another one as its
    /// callers see it.
    fn chains(&self, table: &Table) -> Result<Vec<Option<Flow>>, TextError> {
        let index: HashMap<&str, usize> = (0..)
            .zip(&table.chains)
            .map(|(i, c)| (&*c.name, i))
            .collect();
        let mut flows: Vec<Option<Flow>> = vec![None; table.chains.len()];
        // Callees first. A loop and not a recursion: chains may call each other to any depth.
        let mut open: Vec<(usize, usize)> = Vec::new();
        let mut entered = vec![false; table.chains.len()];
        for base in 0..table.chains.len() {
            if table.chains[base].policy.is_none() || entered[base] {
                continue;
            }
            entered[base] = true;
            open.push((base, 0));
            while let Some((at, rule)) = open.last_mut() {
                let chain = &table.chains[*at];
                let Some(next) = chain.rules.get(*rule) else {
                    let flow = self.chain(table, *at, &index, &flows)?;
                    // A base chain has no caller, so that RETURN is left for its policy.
                    flows[*at] = Some(match chain.policy {
                        Some(_) => flow,
                        None => flow.as_chain(self.space)?,
                    });
                    open.pop();
                    continue;
                };
                *rule += 1;
                if let Target::Jump(name) | Target::Goto(name) = &next.target {
                    let callee = *index
                        .get(&**name)
                        .ok_or_else(|| TextError::NoChain(name.clone()))?;
                    match (entered[callee], &flows[callee]) {
                        (false, _) => {
                            entered[callee] = true;
                            open.push((callee, 0));
                        }
                        // The chain was entered and is not finished, so it is one of its own callers. The kernel
                        // refuses such rules.
                        (true, None) => return Err(TextError::Loop(name.clone())),
                        (true, Some(_)) => {}
                    }
                }
            }
        }
        Ok(flows)
    }

    fn chain(
        &self,
        table: &Table,
        chain: usize,
        index: &HashMap<&str, usize>,
        flows: &[Option<Flow>],
    ) -> Result<Flow, TextError> {
        let space = self.space;
        let rules = &table.chains[chain].rules;
        let mut steps = Vec::with_capacity(rules.len());
        for (number, rule) in rules.iter().enumerate() {
            let id = RuleId {
                chain,
                rule: number,
            };
            let mut when = space.all();
            let mut sets: Vec<Set> = Vec::with_capacity(rule.matches.len());
            let mut is_remembered = false;
            for (at, condition) in rule.matches.iter().enumerate() {
                let condition_id = (table.name, id, at);
                // A match runs as soon as all matches before it hold: `recent` writes its list, and a bucket loses a
                // token, even if a later match of the rule fails.
                let written = remembers(condition, space).map(Effect::from);
                is_remembered |= written.is_some();
                let key = self.bucket(condition_id).filter(|_| !is_chance(condition));
                let counted = key.map(|key| counted(&key.key));
                for effect in written.into_iter().chain(counted) {
                    steps.push(RuleStep::effect(space.every(sets.iter().copied())?, effect));
                }
                sets.push(self.condition(condition_id, condition)?);
            }
            // In a comparison the counter of a rule without a target matters: such a rule exists only to be counted.
            let counts = self.reading.buckets.is_some() && !is_remembered;
            if rule.target != Target::None || counts {
                when = space.every(sets)?;
            }
            match &rule.target {
                Target::None if counts => {
                    steps.push(RuleStep::effect(when, counter(rule, space.family())));
                }
                Target::Jump(name) | Target::Goto(name) => {
                    let callee = index
                        .get(&**name)
                        .and_then(|callee| flows[*callee].as_ref());
                    let callee = callee.ok_or_else(|| TextError::NoChain(name.clone()))?;
                    let flow = match &rule.target {
                        Target::Goto(_) => callee.as_goto(space)?,
                        _ => callee.clone(),
                    };
                    steps.push(RuleStep::run(when, flow));
                }
                target => targets::add_steps(space, target, when, &mut steps)?,
            }
        }
        Ok(Flow::from_rules(space, steps)?)
    }
}

/// Returns `true` if a condition matches at random, independent of earlier packets (`statistic --mode random`).
fn is_chance(condition: &Match) -> bool {
    let Match::Other(module) = condition else {
        return false;
    };
    let mode = module.setting("mode");
    module.name == "statistic" && mode.is_some_and(|mode| &*mode.value == "random")
}

/// Returns the effect of a rule without a target: its counter.
pub fn counter(rule: &Rule, family: Family) -> Effect {
    format!("counter of `{}`", rule.to_text(family)).into()
}

/// Returns the effect of a condition that records the packet's source (`recent --set`).
fn remembers(condition: &Match, space: &Space) -> Option<String> {
    let Match::Other(module) = condition else {
        return None;
    };
    let writes = ["set", "update", "remove"]
        .iter()
        .any(|name| module.setting(name).is_some());
    (module.name == "recent" && writes).then(|| condition.to_text(space.family()))
}

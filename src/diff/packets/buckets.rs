//! Pairs the conditions with memory (`limit`, `recent`, `connlimit`) of two rulesets.
//!
//! Whether such a condition matches depends on the packets that reached it before. Two of them always match the same packets
//! if they ask the same and have the same initial state, and if the same packets reach them. The proof is an induction over
//! the packets and, for one packet, over the conditions on its path. So both conditions of a pair are one variable, and the
//! packets that reach them (an effect, see [`Reading::buckets`]) are compared as sets. A pair with different sets or
//! different questions is reported as a change.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::memory::{self, Question};
use super::{ComparedRules, Incomparable, SideName};
use crate::analysis::{
    BaseChain, Behaviour, BucketHolds, BucketKey, Buckets, ConditionId, Effect, GaveUp, Reading,
    Set, Space, TextError, counted, counted_by, has_memory,
};
use crate::diff::rules::{ChainDiff, RuleChange, RulesDiff};
use crate::iptables::{Chain, Match, RuleId, Ruleset, TableName, Target};
use crate::net::IntervalSet;

/// A condition with memory that both rulesets have.
#[derive(Clone, Debug)]
pub(super) struct BucketPair {
    /// Its text on each side, as `iptables-save` prints it.
    pub texts: [Box<str>; 2],
    /// `true` if both count and match the same packets.
    same: bool,
    /// `true` if both belong to rules that only log.
    of_logs: bool,
}

impl BucketPair {
    /// Returns `true` if the log lines, which are effects themselves, tell all about the packets that reach it: its rule
    /// only logs, and its rate is the same.
    pub fn is_shown_by_log(&self) -> bool {
        self.of_logs && !self.is_changed()
    }

    /// Returns `true` if its two texts ask something else, for example another rate.
    pub fn is_changed(&self) -> bool {
        !self.same
    }
}

/// The conditions with memory of two rulesets.
#[derive(Debug, Default)]
pub(super) struct BucketPairs {
    /// The pairs, by key.
    pairs: BTreeMap<String, BucketPair>,
    /// The conditions of one side that take from the buckets of others: their texts, by key.
    lone: BTreeMap<String, Box<str>>,
    /// The keys of all conditions of each side; both conditions of a pair have the same one.
    pub keys: [Buckets; 2],
}

impl BucketPairs {
    /// Pairs the conditions: first by the origins that the caller knows, then by rules that stayed, moved or changed,
    /// last by text and the packets that reach them. The last also pairs again rules that stayed but are reached by other
    /// packets.
    pub fn new(
        space: &Space,
        sides: [ComparedRules<'_>; 2],
        members: &[BTreeMap<String, IntervalSet>; 2],
        changed: &RulesDiff,
    ) -> Result<Self, Incomparable> {
        let mut pairing = Pairing::new(sides);
        pairing.by_origin();
        pairing.by_rules(sides, changed);
        let arrivals = |pairing: &Pairing| -> Result<Vec<_>, Incomparable> {
            let keys = pairing.paired().keys;
            let mut arrivals = Vec::new();
            for (at, side) in [(0, SideName::Before), (1, SideName::After)] {
                let found = arrivals_of(space, sides[at].ruleset, &members[at], &keys[at]);
                arrivals.push(found.map_err(|error| Incomparable::Rules(side, error))?);
            }
            Ok(arrivals)
        };
        let (mut released, mut known) = (Vec::new(), None);
        if pairing.may_be_exchanged() {
            let found = arrivals(&pairing)?;
            released = pairing.release_exchanged(&found);
            // The keys of conditions, and so their arrivals, depend on the pairs alone.
            known = released.is_empty().then_some(found);
        }
        while pairing.has_candidates() {
            let arrivals = match known.take() {
                Some(found) => found,
                None => arrivals(&pairing)?,
            };
            let same = |one: &Arrivals, other: &Arrivals| Ok(one == other);
            if pairing.by_arrivals(&arrivals, same)? {
                continue;
            }
            let overlap = |one: &Arrivals, other: &Arrivals| {
                for (base, set) in one {
                    if let Some(other) = other.get(base)
                        && space.and(*set, *other)? != space.none()
                    {
                        return Ok(true);
                    }
                }
                Ok(false)
            };
            pairing.restore(&released);
            pairing.by_arrivals(&arrivals, overlap)?;
            break;
        }
        Ok(pairing.paired())
    }

    /// Returns the pair of an effect of [`counted`].
    pub fn pair(&self, effect: &str) -> Option<&BucketPair> {
        self.pairs.get(counted_by(effect)?)
    }

    /// Returns the text on a side of the condition that an effect of [`counted`] is about.
    pub fn text(&self, effect: &str, side: SideName) -> Option<&str> {
        match self.pair(effect) {
            Some(pair) => Some(&pair.texts[side as usize]),
            None => self.lone.get(counted_by(effect)?).map(|text| &**text),
        }
    }

    /// Returns `true` for an effect of [`counted`] about a condition that only one side has. It needs no comparison:
    /// whether it matched already shows in the verdicts and the other effects. But what takes from the buckets of other
    /// conditions shows only later.
    pub fn is_of_one_side(&self, effect: &str) -> bool {
        let key = counted_by(effect);
        key.is_some_and(|key| !self.pairs.contains_key(key) && !self.lone.contains_key(key))
    }

    /// Returns the effects of [`counted`] for pairs that are changed.
    pub fn changed(&self) -> impl Iterator<Item = Effect> {
        let pairs = self.pairs.iter().filter(|(_, pair)| pair.is_changed());
        pairs.map(|(key, _)| counted(key))
    }
}

/// The packets that reach a condition, by base chain.
type Arrivals = BTreeMap<BaseChain, Set>;

/// Returns the packets that reach each condition of a ruleset, by key.
fn arrivals_of(
    space: &Space,
    ruleset: &Ruleset,
    members: &BTreeMap<String, IntervalSet>,
    keys: &Buckets,
) -> Result<HashMap<String, Arrivals>, TextError> {
    let reading = Reading {
        sets: members,
        buckets: Some(keys),
        ..Reading::default()
    };
    let behaviour = Behaviour::of(space, ruleset, &reading)?;
    let mut all: HashMap<String, Arrivals> = HashMap::new();
    for ((_, base), flow) in &behaviour.flows {
        for (effect, set) in &flow.effects {
            if let Some(key) = counted_by(effect) {
                all.entry(key.to_owned()).or_default().insert(*base, *set);
            }
        }
    }
    Ok(all)
}

/// A condition with memory of one side.
struct Memory {
    at: ConditionId,
    /// The condition as `iptables-save` prints it.
    text: Box<str>,
    question: Question,
    /// `true` if it takes from the buckets of other conditions.
    is_shared: bool,
    /// `true` if its rule is in a base chain.
    in_base: bool,
    /// `true` if its rule only logs.
    of_log: bool,
    /// The origin of its rule: see [`ComparedRules::origin`].
    origin: Option<String>,
}

impl Memory {
    /// Returns the beginning of the text with the module: `-m limit`.
    fn module(&self) -> &str {
        let end = self.text.match_indices(' ').nth(1);
        end.map_or(&*self.text, |(end, _)| &self.text[..end])
    }
}

fn memories(side: ComparedRules<'_>) -> Vec<Memory> {
    let family = side.ruleset.family;
    let uses = memory::uses(side.ruleset);
    let mut all = Vec::new();
    for table in &side.ruleset.tables {
        for (chain, one) in table.chains.iter().enumerate() {
            for (number, rule) in one.rules.iter().enumerate() {
                let conditions = rule.matches.iter().enumerate();
                for (at, condition) in conditions.filter(|(_, one)| has_memory(one)) {
                    let id = RuleId {
                        chain,
                        rule: number,
                    };
                    all.push(Memory {
                        at: (table.name, id, at),
                        text: condition.to_text(family).into(),
                        question: Question::of(condition, side.ruleset, &uses),
                        is_shared: memory::is_shared(condition, &uses),
                        in_base: one.policy.is_some(),
                        of_log: match &rule.target {
                            Target::Log(_) => true,
                            Target::Other(module) => module.name == "NFLOG",
                            _ => false,
                        },
                        origin: side.origin.and_then(|origin| origin(rule)),
                    });
                }
            }
        }
    }
    all
}

/// The conditions of both sides, with the pairs found so far.
struct Pairing {
    sides: [Vec<Memory>; 2],
    /// For each condition the index of its partner on the other side.
    partners: [Vec<Option<usize>>; 2],
    /// The pairs that the caller knows, by the index of the old condition.
    known: HashSet<usize>,
}

impl Pairing {
    fn new(sides: [ComparedRules<'_>; 2]) -> Self {
        let sides = sides.map(memories);
        let partners = [0, 1].map(|side: usize| vec![None; sides[side].len()]);
        Self {
            sides,
            partners,
            known: HashSet::new(),
        }
    }

    fn pair(&mut self, before: usize, after: usize) {
        self.partners[0][before] = Some(after);
        self.partners[1][after] = Some(before);
    }

    /// Returns the conditions without a partner.
    fn free(&self, side: usize) -> Vec<usize> {
        let partners = self.partners[side].iter().enumerate();
        let free = partners.filter(|(_, partner)| partner.is_none());
        free.map(|(at, _)| at).collect()
    }

    /// Pairs conditions of the same module whose rules have the same origin.
    fn by_origin(&mut self) {
        let mut open: HashMap<(String, String), VecDeque<usize>> = HashMap::new();
        let key = |one: &Memory| Some((one.origin.clone()?, one.module().to_owned()));
        for (at, one) in self.sides[1].iter().enumerate() {
            if let Some(key) = key(one) {
                open.entry(key).or_default().push_back(at);
            }
        }
        for before in self.free(0) {
            let same = key(&self.sides[0][before]).and_then(|key| open.get_mut(&key)?.pop_front());
            if let Some(after) = same {
                self.pair(before, after);
                self.known.insert(before);
            }
        }
    }

    /// Returns the pairs of user-defined chains whose two conditions have the same question and table, unless the caller knows
    /// them, by that question and table. Base chains keep their names.
    fn alike(&self) -> BTreeMap<(TableName, &str), Vec<[usize; 2]>> {
        let mut alike: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (before, after) in self.partners[0].iter().enumerate() {
            let Some(after) = *after else { continue };
            let (old, new) = (&self.sides[0][before], &self.sides[1][after]);
            let may_be_renamed = !old.in_base && !new.in_base && !self.known.contains(&before);
            if may_be_renamed && old.at.0 == new.at.0 && old.question.text == new.question.text {
                let pairs = alike.entry((old.at.0, &*old.question.text)).or_default();
                pairs.push([before, after]);
            }
        }
        alike
    }

    /// Returns `true` if there are pairs of rules for [`Self::release_exchanged`].
    fn may_be_exchanged(&self) -> bool {
        self.alike().values().any(|pairs| pairs.len() > 1)
    }

    /// Dissolves the pairs with one text that different packets reach, if a text has several such pairs, and returns
    /// them. Programs that number their chains may exchange the names of two chains with the same rule: the rules are
    /// unchanged then, but the packets that reach them are not.
    fn release_exchanged(&mut self, arrivals: &[HashMap<String, Arrivals>]) -> Vec<[usize; 2]> {
        let keys = [self.key_of(0), self.key_of(1)];
        let is_other = |[before, after]: &[usize; 2]| {
            arrivals[0].get(&keys[0][*before]) != arrivals[1].get(&keys[1][*after])
        };
        let alike = self.alike().into_values().map(|pairs| {
            let other = pairs.into_iter().filter(is_other);
            other.collect::<Vec<_>>()
        });
        let released: Vec<[usize; 2]> = alike.filter(|pairs| pairs.len() > 1).flatten().collect();
        for [before, after] in &released {
            self.partners[0][*before] = None;
            self.partners[1][*after] = None;
        }
        released
    }

    /// Restores those pairs whose two conditions still have no partner.
    fn restore(&mut self, pairs: &[[usize; 2]]) {
        for [before, after] in pairs {
            if self.partners[0][*before].is_none() && self.partners[1][*after].is_none() {
                self.pair(*before, *after);
            }
        }
    }

    /// Pairs the conditions of rules that stayed, moved or changed, those with the same question first.
    fn by_rules(&mut self, sides: [ComparedRules<'_>; 2], changed: &RulesDiff) {
        let of_rules = |side: usize| {
            let mut all: HashMap<(TableName, RuleId), Vec<usize>> = HashMap::new();
            for (at, one) in self.sides[side].iter().enumerate() {
                all.entry((one.at.0, one.at.1)).or_default().push(at);
            }
            all
        };
        let [old, new] = [of_rules(0), of_rules(1)];
        for [before, after] in rule_pairs(sides[0].ruleset, sides[1].ruleset, changed) {
            let (Some(before), Some(after)) = (old.get(&before), new.get(&after)) else {
                continue;
            };
            for same_question in [true, false] {
                for &one in before {
                    let fits = |other: &&usize| {
                        let (one, another) = (&self.sides[0][one], &self.sides[1][**other]);
                        let fits = match same_question {
                            true => one.question.text == another.question.text,
                            false => one.module() == another.module(),
                        };
                        fits && self.partners[1][**other].is_none()
                    };
                    if self.partners[0][one].is_none()
                        && let Some(&other) = after.iter().find(fits)
                    {
                        self.pair(one, other);
                    }
                }
            }
        }
    }

    /// Returns `true` if conditions of both sides without a partner have the same question.
    fn has_candidates(&self) -> bool {
        let written = |side: usize| {
            let free = self.free(side).into_iter();
            free.map(move |at| {
                let one = &self.sides[side][at];
                (one.at.0, &one.question.text)
            })
        };
        let old: HashSet<_> = written(0).collect();
        written(1).any(|one| old.contains(&one))
    }

    /// Pairs conditions of one table with the same question whose packets `fits` accepts. Returns `true` if it found a pair.
    fn by_arrivals(
        &mut self,
        arrivals: &[HashMap<String, Arrivals>],
        fits: impl Fn(&Arrivals, &Arrivals) -> Result<bool, GaveUp>,
    ) -> Result<bool, Incomparable> {
        let nobody = Arrivals::new();
        let keys = [self.key_of(0), self.key_of(1)];
        let of = |side: usize, at: usize| arrivals[side].get(&keys[side][at]).unwrap_or(&nobody);
        let mut others: HashMap<(TableName, Box<str>), Vec<usize>> = HashMap::new();
        for after in self.free(1) {
            let one = &self.sides[1][after];
            let written = (one.at.0, one.question.text.clone());
            others.entry(written).or_default().push(after);
        }
        let mut found = false;
        for before in self.free(0) {
            let one = &self.sides[0][before];
            let Some(alike) = others.get_mut(&(one.at.0, one.question.text.clone())) else {
                continue;
            };
            let mut place = None;
            for (index, &after) in alike.iter().enumerate() {
                if fits(of(0, before), of(1, after))? {
                    place = Some(index);
                    break;
                }
            }
            if let Some(place) = place {
                let after = alike.remove(place);
                self.pair(before, after);
                found = true;
            }
        }
        Ok(found)
    }

    /// Returns the keys of a side's conditions.
    fn key_of(&self, side: usize) -> Vec<String> {
        let sides = [SideName::Before, SideName::After];
        let key = |at: usize| match self.partners[side][at] {
            Some(other) => {
                let after = if side == 1 { at } else { other };
                format!("{} of both, {after}", self.sides[1][after].text)
            }
            None => format!("{} of {:?}, {at}", self.sides[side][at].text, sides[side]),
        };
        (0..self.sides[side].len()).map(key).collect()
    }

    fn paired(&self) -> BucketPairs {
        let keys = [self.key_of(0), self.key_of(1)];
        let mut pairs = BTreeMap::new();
        for (before, after) in self.partners[0].iter().enumerate() {
            if let Some(after) = *after {
                let (old, new) = (&self.sides[0][before], &self.sides[1][after]);
                let pair = BucketPair {
                    texts: [old.text.clone(), new.text.clone()],
                    same: old.question.text == new.question.text,
                    of_logs: old.of_log && new.of_log,
                };
                pairs.insert(keys[1][after].clone(), pair);
            }
        }
        let mut lone = BTreeMap::new();
        for (side, keys) in keys.iter().enumerate() {
            for at in self.free(side) {
                let one = &self.sides[side][at];
                if one.is_shared {
                    lone.insert(keys[at].clone(), one.text.clone());
                }
            }
        }
        let buckets = [0, 1].map(|side: usize| {
            let all = self.sides[side].iter().zip(&keys[side]);
            let named = all.enumerate().map(|(at, (one, key))| {
                // The new condition of a pair gives the key.
                let partner = self.partners[side][at].filter(|_| side == 0);
                let other = partner.map_or(&one.question, |new| &self.sides[1][new].question);
                let is_same = one.question.negated == other.negated;
                let holds = match (one.question.always, is_same) {
                    (true, _) => BucketHolds::Always,
                    (_, true) => BucketHolds::True,
                    (_, false) => BucketHolds::False,
                };
                let key = BucketKey {
                    key: key.clone(),
                    holds,
                };
                (one.at, key)
            });
            named.collect()
        });
        BucketPairs {
            pairs,
            lone,
            keys: buckets,
        }
    }
}

/// Returns the rules that both sides have: those that stayed, moved or changed.
fn rule_pairs(
    before: &Ruleset,
    after: &Ruleset,
    changed: &RulesDiff,
) -> Vec<[(TableName, RuleId); 2]> {
    let chains = changed.chains.iter().chain(&changed.foreign);
    let changed: HashMap<(TableName, &str), &ChainDiff> = chains
        .map(|chain| ((chain.table, &*chain.chain), chain))
        .collect();
    let mut pairs = Vec::new();
    for old in &before.tables {
        let Some(new) = after.table(old.name) else {
            continue;
        };
        let names = new.chains.iter().map(|chain| &*chain.name);
        let index: HashMap<&str, usize> = names.zip(0..).collect();
        for (old_chain, chain) in old.chains.iter().enumerate() {
            let Some(&new_chain) = index.get(&*chain.name) else {
                continue;
            };
            let diff = changed.get(&(old.name, &*chain.name)).copied();
            for [from, to] in same_rules(chain, &new.chains[new_chain], diff) {
                let id = |chain, rule| (old.name, RuleId { chain, rule });
                pairs.push([id(old_chain, from), id(new_chain, to)]);
            }
        }
    }
    pairs
}

/// Returns the indices of the rules that two chains share.
fn same_rules(before: &Chain, after: &Chain, diff: Option<&ChainDiff>) -> Vec<[usize; 2]> {
    let mut gone = vec![false; before.rules.len()];
    let mut come = vec![false; after.rules.len()];
    let mut pairs = Vec::new();
    for change in diff.into_iter().flat_map(|diff| &diff.rules) {
        let (from, to) = match change {
            RuleChange::Added { to, .. } => (None, Some(*to)),
            RuleChange::Removed { from, .. } => (Some(*from), None),
            RuleChange::Moved { from, to, .. } | RuleChange::Changed { from, to, .. } => {
                (Some(*from), Some(*to))
            }
        };
        // Positions count from 1.
        if let Some(gone) = from.and_then(|from| gone.get_mut(from - 1)) {
            *gone = true;
        }
        if let Some(come) = to.and_then(|to| come.get_mut(to - 1)) {
            *come = true;
        }
        pairs.extend(from.zip(to).map(|(from, to)| [from - 1, to - 1]));
    }
    let rest = |marked: &[bool]| -> Vec<usize> {
        let all = marked.iter().enumerate();
        all.filter(|(_, marked)| !**marked)
            .map(|(at, _)| at)
            .collect()
    };
    let stayed = rest(&gone).into_iter().zip(rest(&come));
    pairs.extend(stayed.map(|(from, to)| [from, to]));
    pairs
}

/// Returns the module and name of a list, bucket or account that conditions of several rules may share.
pub(super) fn shared_name(condition: &Match) -> Option<String> {
    let Match::Other(module) = condition else {
        return None;
    };
    let name = match module.name {
        "recent" => module
            .setting("name")
            .map_or("DEFAULT", |name| &*name.value),
        "hashlimit" => &module.setting("hashlimit-name")?.value,
        "nfacct" => &module.setting("nfacct-name")?.value,
        _ => return None,
    };
    Some(format!("{} {name}", module.name))
}

//! Rules as they stand in a file: what they do with packets.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::behaviour::{BaseChain, Behaviour};
use super::flow::{Flow, Step};
use super::mark::Marks;
use super::space::{Set, Space};
use super::verdicts::Verdict;
use super::{GaveUp, matches};
use crate::iptables::{
    Chain, MarkMask, Match, Module, Policy, Reject, Rule, Ruleset, SetMatch, Table, Target,
};
use crate::net::IntervalSet;

/// What is known about a ruleset besides its text.
pub struct Reading<'a> {
    /// The members of the ipsets whose members are known, of one dimension each; the others are opaque.
    pub sets: &'a BTreeMap<String, IntervalSet>,
    /// What a rule was made from, where that is known: see [`with_memory_key`].
    pub origin: &'a dyn Fn(&Rule) -> Option<String>,
}

impl Default for Reading<'_> {
    /// Nothing.
    fn default() -> Self {
        const NONE: &BTreeMap<String, IntervalSet> = &BTreeMap::new();
        Self {
            sets: NONE,
            origin: &|_| None,
        }
    }
}

/// Why a ruleset has no behaviour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The analysis is too large.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
    /// Chains that jump in a circle.
    #[error("chain `{0}` is reached from itself")]
    Loop(Box<str>),
    /// A jump to a chain that the table does not have.
    #[error("there is no chain `{0}`")]
    NoChain(Box<str>),
    /// One condition with memory, of one origin, stands in two rules: each has a bucket of its own, so twice as much
    /// passes as was meant.
    #[error("`{condition}` of `{origin}` stands in two rules, which have a bucket each")]
    TwoBuckets {
        /// The condition.
        condition: String,
        /// What both rules were made from.
        origin: String,
    },
}

/// The key of the opaque condition for a match with memory of its own (`limit`, `recent`): the match as
/// `iptables-save` prints it, and what the rule was made from.
pub fn with_memory_key(condition: &str, origin: &str) -> String {
    format!("{condition} of {origin}")
}

/// The key of the opaque condition that an unknown target ends the table.
pub fn ends_key(target: &str) -> String {
    format!("{target} ends the table")
}

/// How the conditions of one rule are named.
pub(super) struct Keys<'a> {
    sets: &'a BTreeMap<String, IntervalSet>,
    origin: String,
    used: RefCell<Vec<String>>,
}

impl Keys<'_> {
    /// The members of a set, where they and the match are simple.
    pub fn members(&self, set: &SetMatch) -> Option<&IntervalSet> {
        let simple = set.from_source.len() == 1 && set.settings.is_empty();
        simple.then(|| self.sets.get(&*set.name)).flatten()
    }

    /// The key of a condition with memory.
    pub fn with_memory(&self, condition: &str) -> String {
        self.used.borrow_mut().push(condition.to_owned());
        with_memory_key(condition, &self.origin)
    }
}

pub(super) fn behaviour(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<Behaviour, TextError> {
    let mut reader = Reader {
        space,
        reading,
        copies: HashMap::new(),
        buckets: HashMap::new(),
    };
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
                Policy::Accept => Verdict::Accept,
                Policy::Drop => Verdict::Drop,
            };
            if let Some(flow) = flow {
                all.insert(space, (table.name, base), flow.with_policy(space, verdict)?)?;
            }
        }
    }
    Ok(all)
}

struct Reader<'a> {
    space: &'a Space,
    reading: &'a Reading<'a>,
    /// How often a rule without origin was seen, by its text.
    copies: HashMap<String, usize>,
    /// The conditions with memory of each origin.
    buckets: HashMap<String, Vec<String>>,
}

impl<'a> Reader<'a> {
    /// What each chain does that a base chain reaches: before policies, RETURN and end told apart.
    fn chains(&mut self, table: &Table) -> Result<Vec<Option<Flow>>, TextError> {
        let index: HashMap<&str, usize> = (0..)
            .zip(&table.chains)
            .map(|(i, c)| (&*c.name, i))
            .collect();
        let mut flows: Vec<Option<Flow>> = vec![None; table.chains.len()];
        // Callees first; no recursion, for chains may call each other as deep as they like.
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
                    flows[*at] = Some(self.chain(chain, &index, &flows)?);
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
                        (true, None) => return Err(TextError::Loop(name.clone())),
                        (true, Some(_)) => {}
                    }
                }
            }
        }
        Ok(flows)
    }

    fn chain(
        &mut self,
        chain: &Chain,
        index: &HashMap<&str, usize>,
        flows: &[Option<Flow>],
    ) -> Result<Flow, TextError> {
        let space = self.space;
        let mut steps = Vec::with_capacity(chain.rules.len());
        for rule in &chain.rules {
            let keys = self.keys(rule);
            let mut when = space.all();
            let mut sets: Vec<Set> = Vec::with_capacity(rule.matches.len());
            for condition in &rule.matches {
                if let Some(effect) = remembers(condition, space) {
                    // The list is written by whoever got as far as this condition.
                    steps.push(Step::effect(space.every(sets.iter().copied())?, effect));
                }
                sets.push(matches::set_of(space, condition, &keys)?);
            }
            if rule.target != Target::None {
                when = space.every(sets)?;
            }
            self.buckets_of(keys)?;
            match &rule.target {
                Target::Jump(name) | Target::Goto(name) => {
                    let callee = index
                        .get(&**name)
                        .and_then(|callee| flows[*callee].as_ref());
                    let callee = callee.ok_or_else(|| TextError::NoChain(name.clone()))?;
                    let flow = callee.as_chain(space)?;
                    let flow = match &rule.target {
                        Target::Goto(_) => flow.as_goto(space)?,
                        _ => flow,
                    };
                    steps.push(Step::run(when, flow));
                }
                target => self.target(target, when, &mut steps)?,
            }
        }
        Ok(Flow::from_rules(space, steps)?)
    }

    fn target(&self, target: &Target, when: Set, steps: &mut Vec<Step>) -> Result<(), TextError> {
        let space = self.space;
        let text = || -> Box<str> {
            let text = target.to_text();
            text.strip_prefix("-j ").unwrap_or(&text).into()
        };
        steps.push(match target {
            Target::None | Target::Jump(_) | Target::Goto(_) => return Ok(()),
            Target::Accept => Step::verdict(when, Verdict::Accept),
            Target::Drop => Step::verdict(when, Verdict::Drop),
            Target::Reject(Reject::TcpReset) => {
                Step::verdict(when, Verdict::Reject("tcp-reset".into()))
            }
            Target::Reject(reject) => Step::verdict(when, Verdict::Reject(reject.as_str().into())),
            Target::Return => Step::returns(when),
            Target::Queue => Step::verdict(when, Verdict::Target(text())),
            Target::Nat(_) => Step::verdict(when, Verdict::Nat(text())),
            Target::Log(_) => Step::effect(when, text()),
            Target::Mark(MarkMask { value, mask }) => Step::set_mark(when, *value, *mask),
            Target::Other(module) => match does(module) {
                Does::Translates => Step::verdict(when, Verdict::Nat(text())),
                Does::Ends => Step::verdict(when, Verdict::Target(text())),
                Does::Changes(marks) => {
                    Step::change(space.and(when, matches::tracked(space)?)?, marks)
                }
                Does::GoesOn => Step::effect(when, text()),
                Does::Either => return self.either(text(), when, steps),
            },
            Target::Unknown(_) => return self.either(text(), when, steps),
        });
        Ok(())
    }

    /// A target that may end the table or not: it is seen by both, and a condition of its own decides.
    fn either(&self, text: Box<str>, when: Set, steps: &mut Vec<Step>) -> Result<(), TextError> {
        let ends = self.space.and(when, self.space.opaque(&ends_key(&text))?)?;
        steps.push(Step::verdict(ends, Verdict::Target(text.clone())));
        steps.push(Step::effect(when, text));
        Ok(())
    }

    fn keys(&mut self, rule: &Rule) -> Keys<'a> {
        // Only the rules that need a key pay for its text.
        let memory = rule
            .matches
            .iter()
            .any(|one| matches!(one, Match::Other(_) | Match::Unknown(_)));
        let origin = match (memory, (self.reading.origin)(rule)) {
            (false, _) => String::new(),
            (true, Some(origin)) => origin,
            (true, None) => {
                let text = rule.to_text(self.space.family());
                let copy = self.copies.entry(text.clone()).or_default();
                *copy += 1;
                format!("{text} ({copy})")
            }
        };
        Keys {
            sets: self.reading.sets,
            origin,
            used: RefCell::default(),
        }
    }

    fn buckets_of(&mut self, keys: Keys<'_>) -> Result<(), TextError> {
        let used = keys.used.into_inner();
        if used.is_empty() {
            return Ok(());
        }
        let known = self.buckets.entry(keys.origin.clone()).or_default();
        for condition in used {
            if known.contains(&condition) {
                return Err(TextError::TwoBuckets {
                    condition,
                    origin: keys.origin,
                });
            }
            known.push(condition);
        }
        Ok(())
    }
}

/// The effect of a condition that writes down who asked (`recent --set`).
fn remembers(condition: &Match, space: &Space) -> Option<String> {
    let Match::Other(module) = condition else {
        return None;
    };
    let writes = ["set", "update", "remove"]
        .iter()
        .any(|name| module.setting(name).is_some());
    (module.name == "recent" && writes).then(|| condition.to_text(space.family()))
}

enum Does {
    /// The connection is translated.
    Translates,
    /// The table ends.
    Ends,
    /// The marks of a tracked packet change.
    Changes(Marks),
    /// The packet goes on, after something happened to it.
    GoesOn,
    /// One or the other.
    Either,
}

fn does(module: &Module) -> Does {
    match module.name {
        "NETMAP" => Does::Translates,
        "NFQUEUE" | "TPROXY" => Does::Ends,
        // A handshake's packets end here, others go on (xt_SYNPROXY.c).
        "SYNPROXY" => Does::Either,
        "CONNMARK" => connection_mark(module).map_or(Does::GoesOn, Does::Changes),
        _ => Does::GoesOn,
    }
}

fn connection_mark(module: &Module) -> Option<Marks> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    if let Some(set) = module.setting("set-xmark") {
        let (value, mask) = set.value.split_once('/')?;
        return Some(Marks::set_connection(number(value)?, number(mask)?));
    }
    let packet = number(&module.setting("nfmask")?.value)?;
    let connection = number(&module.setting("ctmask")?.value)?;
    match module.setting("save-mark") {
        Some(_) => Some(Marks::save(packet, connection)),
        None => Some(Marks::restore(connection, packet)),
    }
}

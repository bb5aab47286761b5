//! Rules as they stand in a file: what they do with packets.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::behaviour::{BaseChain, Behaviour};
use super::field::Field;
use super::flow::{Effect, Flow, Step, counted};
use super::mark::Marks;
use super::space::{Set, Space};
use super::translation::Translation;
use super::verdicts::Verdict;
use super::writes::Write;
use super::{GaveUp, matches};
use crate::iptables::{
    MarkMask, Match, Module, Policy, Reject, Rule, RuleId, Ruleset, SetMatch, Table, TableName,
    Target,
};
use crate::net::{Family, IntervalSet};

/// What is known about a ruleset besides its text.
pub struct Reading<'a> {
    /// The members of the ipsets whose members are known, of one dimension each; the others are opaque.
    pub sets: &'a BTreeMap<String, IntervalSet>,
    /// What a rule was made from, where that is known: see [`with_memory_key`].
    pub origin: &'a dyn Fn(&Rule) -> Option<String>,
    /// Whether rules made from the same are copies, of which one stands for all. Else two with a memory are an error.
    pub has_copies: bool,
    /// What conditions with memory are called, where two rulesets are compared; in place of text and origin.
    pub buckets: Option<&'a Buckets>,
    /// Whether the kernel puts fragments together before any rule sees them, whatever these rules say: others track connections.
    pub is_reassembled: bool,
    /// Whether each rule asks its opaque conditions for itself, as if no other rule had the same: what comes out has more packets
    /// than there are, but its diagrams stay as small as the rules are few. For a partial answer where the exact one is too large.
    pub apart: bool,
}

/// A condition of a rule, by its number among the rule's conditions.
pub type ConditionId = (TableName, RuleId, usize);

/// Keys of conditions with memory. Who comes to one of them is an effect then ([`counted`]), and so is that a packet fits a
/// rule without a target, whose counter somebody may read.
pub type Buckets = BTreeMap<ConditionId, String>;

impl Default for Reading<'_> {
    /// Nothing.
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

/// The key of the opaque condition that a target ends the table which may end it or not.
pub fn ends_key(target: &Target) -> String {
    format!("{} ends the table", target_text(target))
}

/// The target as `iptables-save` prints it, without `-j`.
fn target_text(target: &Target) -> Box<str> {
    let text = target.to_text();
    text.strip_prefix("-j ").unwrap_or(&text).into()
}

/// How the conditions of one rule are named.
pub(super) struct Keys<'a> {
    sets: &'a BTreeMap<String, IntervalSet>,
    origin: &'a str,
    /// Whether rules see fragments that are not the first: see [`reassembles`].
    pub fragments: bool,
    bucket: Option<&'a str>,
}

impl Keys<'_> {
    /// The members of a set, where they and the match are simple.
    pub fn members(&self, set: &SetMatch) -> Option<&IntervalSet> {
        let simple = set.from_source.len() == 1 && set.settings.is_empty();
        simple.then(|| self.sets.get(&*set.name)).flatten()
    }

    /// The key of a condition with memory.
    pub fn with_memory(&self, condition: &str) -> String {
        match self.bucket {
            Some(key) => key.to_owned(),
            None => with_memory_key(condition, self.origin),
        }
    }
}

/// The packets for which all conditions of a rule hold, for every rule: wherever it stands, reached or not.
///
/// Conditions that are not understood are the same as those of the ruleset's [`Behaviour`].
pub fn rule_sets(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<BTreeMap<(TableName, RuleId), Set>, TextError> {
    let reader = Reader::new(space, ruleset, reading)?;
    let mut all = BTreeMap::new();
    for (table, id, rule) in rules(ruleset) {
        all.insert((table, id), reader.when(table, id, rule)?);
    }
    Ok(all)
}

/// The conditions of a ruleset's rules, one by one: for whoever walks a packet and is asked what it does not tell.
pub struct Conditions<'a>(Reader<'a>);

impl<'a> Conditions<'a> {
    /// Those of a ruleset, named as in its [`Behaviour`].
    pub fn new(
        space: &'a Space,
        ruleset: &Ruleset,
        reading: &'a Reading<'a>,
    ) -> Result<Self, TextError> {
        Reader::new(space, ruleset, reading).map(Self)
    }

    /// Whether a condition of a rule holds, its `!` included, for a packet with these values.
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

/// Whether some rule makes the kernel put fragments together before any rule sees them: what tracks connections needs that, and
/// what looks for sockets (`nf_defrag_ipv4_enable`, which modules ask for as they load).
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

/// All rules in the order of the file.
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

/// What each chain does that a base chain reaches, as its callers see it, before its policy: by table and name.
pub fn chain_flows(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<BTreeMap<(TableName, Box<str>), Flow>, TextError> {
    let reader = Reader::new(space, ruleset, reading)?;
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
    let reader = Reader::new(space, ruleset, reading)?;
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
            if let Some(mut flow) = flow {
                if base == BaseChain::Input {
                    // What is for this host is put together before (`ip_local_deliver` of `ip_input.c`).
                    flow = flow.with(space, Field::Fragment, 0)?;
                }
                all.insert(space, (table.name, base), flow.with_policy(space, verdict)?)?;
            }
        }
    }
    Ok(all)
}

pub(super) struct Reader<'a> {
    space: &'a Space,
    reading: &'a Reading<'a>,
    /// What the rules were made from whose conditions may need it.
    origins: HashMap<(TableName, RuleId), String>,
    fragments: bool,
}

impl<'a> Reader<'a> {
    pub fn new(
        space: &'a Space,
        ruleset: &Ruleset,
        reading: &'a Reading<'a>,
    ) -> Result<Self, TextError> {
        let mut origins = HashMap::new();
        let mut copies: HashMap<String, usize> = HashMap::new();
        let mut buckets = HashSet::new();
        for (table, id, rule) in rules(ruleset) {
            // Only the rules that need a key pay for its text.
            let needs_key = |one: &&Match| matches!(one, Match::Other(_) | Match::Unknown(_));
            let Some(_) = rule.matches.iter().find(needs_key) else {
                continue;
            };
            let Some(origin) = (reading.origin)(rule) else {
                let text = rule.to_text(ruleset.family);
                let copy = copies.entry(text.clone()).or_default();
                *copy += 1;
                origins.insert((table, id), format!("{text} ({copy})"));
                continue;
            };
            for condition in rule.matches.iter().filter(|one| matches::has_memory(one)) {
                let condition = condition.to_text(ruleset.family);
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

    /// The packets for which all conditions of a rule hold.
    pub fn when(&self, table: TableName, id: RuleId, rule: &Rule) -> Result<Set, GaveUp> {
        let conditions = rule.matches.iter().enumerate();
        let sets = conditions.map(|(at, one)| self.condition((table, id, at), one));
        let sets: Result<Vec<Set>, GaveUp> = sets.collect();
        self.space.every(sets?)
    }

    /// The packets for which one condition of a rule holds.
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

    fn keys(&self, (table, id, at): ConditionId) -> Keys<'_> {
        let origin = self.origins.get(&(table, id)).map_or("", String::as_str);
        Keys {
            sets: self.reading.sets,
            origin,
            fragments: self.fragments,
            bucket: self.bucket((table, id, at)),
        }
    }

    fn bucket(&self, condition: ConditionId) -> Option<&str> {
        self.reading.buckets?.get(&condition).map(String::as_str)
    }

    /// What each chain does that a base chain reaches: a base chain before its policy, others as their callers see it.
    fn chains(&self, table: &Table) -> Result<Vec<Option<Flow>>, TextError> {
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
                    let flow = self.chain(table, *at, &index, &flows)?;
                    // A base chain has no callers: its policy takes RETURN, too.
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
                // A list is written, and a bucket emptied, by whoever got as far as this condition.
                let written = remembers(condition, space).map(Effect::from);
                is_remembered |= written.is_some();
                let key = self.bucket(condition_id).filter(|_| !is_chance(condition));
                let counted = key.map(counted);
                for effect in written.into_iter().chain(counted) {
                    steps.push(Step::effect(space.every(sets.iter().copied())?, effect));
                }
                sets.push(self.condition(condition_id, condition)?);
            }
            let counts = self.reading.buckets.is_some() && !is_remembered;
            if rule.target != Target::None || counts {
                when = space.every(sets)?;
            }
            match &rule.target {
                Target::None if counts => {
                    steps.push(Step::effect(when, counter(rule, space.family())));
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
                    steps.push(Step::run(when, flow));
                }
                target => self.target(target, when, &mut steps)?,
            }
        }
        Ok(Flow::from_rules(space, steps)?)
    }

    /// What a target does that is no jump with the packets of a set.
    pub fn target(
        &self,
        target: &Target,
        when: Set,
        steps: &mut Vec<Step>,
    ) -> Result<(), TextError> {
        let space = self.space;
        let text = || target_text(target);
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
            Target::Nat(nat) => Step::verdict(when, Verdict::Nat(Translation::of(nat))),
            Target::Log(_) => Step::effect(when, text()),
            Target::Mark(MarkMask { value, mask }) => Step::set_mark(when, *value, *mask),
            Target::Other(module) => match does(module) {
                Does::Ends => Step::verdict(when, Verdict::Target(text())),
                Does::Changes(marks) => {
                    Step::change(space.and(when, matches::tracked(space)?)?, (*marks).into())
                }
                Does::Writes(write) => {
                    steps.extend(Step::write(space, when, text(), write)?);
                    return Ok(());
                }
                Does::GoesOn => Step::effect(when, text()),
                Does::Either => return self.either(target, when, steps),
            },
            Target::Unknown(unknown) if unknown.is_old_log() => Step::effect(when, text()),
            Target::Unknown(_) => return self.either(target, when, steps),
        });
        Ok(())
    }

    /// A target that may end the table or not: it is seen by both, and a condition of its own decides.
    fn either(&self, target: &Target, when: Set, steps: &mut Vec<Step>) -> Result<(), TextError> {
        let text = target_text(target);
        let ends = self
            .space
            .and(when, self.space.opaque(&ends_key(target))?)?;
        steps.push(Step::verdict(ends, Verdict::Target(text.clone())));
        steps.push(Step::effect(when, text));
        Ok(())
    }
}

/// Whether a condition holds by chance, whatever came before.
fn is_chance(condition: &Match) -> bool {
    let Match::Other(module) = condition else {
        return false;
    };
    let mode = module.setting("mode");
    module.name == "statistic" && mode.is_some_and(|mode| &*mode.value == "random")
}

/// The effect of a rule without a target.
pub fn counter(rule: &Rule, family: Family) -> Effect {
    format!("counter of `{}`", rule.to_text(family)).into()
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
    /// The table ends.
    Ends,
    /// The marks of a tracked packet change.
    Changes(Box<Marks>),
    /// Something is written that later rules read.
    Writes(Write),
    /// The packet goes on, after something happened to it.
    GoesOn,
    /// One or the other.
    Either,
}

fn does(module: &Module) -> Does {
    match module.name {
        "NFQUEUE" | "TPROXY" => Does::Ends,
        // A handshake's packets end here, others go on (xt_SYNPROXY.c).
        "SYNPROXY" => Does::Either,
        "CONNMARK" => match connection_mark(module) {
            Some(marks) => Does::Changes(Box::new(marks)),
            None => Does::GoesOn,
        },
        _ => written(module).map_or(Does::GoesOn, Does::Writes),
    }
}

fn written(module: &Module) -> Option<Write> {
    let hops = module.hop_change().map(Write::HopLimit);
    let tos = module.written_tos().map(Write::TypeOfService);
    let tracking = module.untracks().map(|untracks| match untracks {
        true => Write::Untracked,
        false => Write::Template,
    });
    hops.or(tos).or(tracking)
}

fn connection_mark(module: &Module) -> Option<Marks> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let by = |name: &str| module.setting(name)?.value.parse::<i8>().ok();
    let up = by("left-shift-mark");
    let shift = up.or_else(|| by("right-shift-mark").map(|places| -places));
    let shift = shift.unwrap_or(0);
    if let Some(set) = module.setting("set-xmark") {
        let (value, mask) = set.value.split_once('/')?;
        return Some(Marks::set_connection(number(value)?, number(mask)?, shift));
    }
    let packet = number(&module.setting("nfmask")?.value)?;
    let connection = number(&module.setting("ctmask")?.value)?;
    match module.setting("save-mark") {
        Some(_) => Some(Marks::save(packet, connection, shift)),
        None => Some(Marks::restore(connection, packet, shift)),
    }
}

//! The transition filter: a filter table between an old one and a new one. It runs the old rules, then the new rules on the
//! packets that the old ones do not decide alone.
//!
//! It has only fwc's rules. In shared mode, packets that these do not decide go on to other programs' rules, as before and
//! afterwards.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::owned::Fallthrough;
use crate::iptables::{
    Chain, ChainPolicy, Match, ParseError, Rule, Ruleset, Table, TableName, Target,
};
use crate::live::{DumpError, LiveRuleset};
use crate::net::Family;

/// What a transition filter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionWidth {
    /// What the old rules or the new ones accept. In shared mode not all of it: the new rules may drop packets that the old ones
    /// leave to other programs' rules.
    Either,
    /// What both accept; in shared mode perhaps less.
    Both,
}

/// Why there is no transition filter: fwc cannot read a rule.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A rule of the old or the new table.
    #[error(transparent)]
    Rule(#[from] ParseError),
    /// The transition filter itself.
    #[error(transparent)]
    Filter(#[from] DumpError),
}

/// fwc's part of a filter table between an old one and a new one.
#[derive(Clone, Debug)]
pub struct TransitionFilter {
    /// Its chains.
    pub ours: LiveRuleset,
    /// The names of the conditions of copied rules, by chain and index: those of the rules that they are copies of.
    copies: BTreeMap<(Box<str>, usize), String>,
    /// Whether the packet engine has a model of every target.
    is_understood: bool,
}

impl TransitionFilter {
    /// Returns the transition filter between fwc's parts of two rulesets. A packet that `new` rejects is rejected as `new` does it.
    pub fn between(
        old: &LiveRuleset,
        new: &LiveRuleset,
        family: Family,
        width: TransitionWidth,
        rest: Fallthrough,
    ) -> Result<Self, Unreadable> {
        let filter = |dump: &LiveRuleset| -> Result<Table, Unreadable> {
            let text = dump.only(&[TableName::Filter]).normal();
            let ruleset = Ruleset::from_text(&text, family)?;
            let table = ruleset.table(TableName::Filter).cloned();
            Ok(table.unwrap_or_else(|| Table::new(TableName::Filter)))
        };
        let (old, new) = (filter(old)?, filter(new)?);
        let (old, new) = (Side::new(&old, family), Side::new(&new, family));
        let builder = Builder {
            rest,
            made: Vec::new(),
            taken: [old.table, new.table]
                .iter()
                .flat_map(|table| table.chains.iter().map(|chain| chain.name.clone()))
                .collect(),
        };
        builder.build(&old, &new, family, width)
    }

    /// Returns `true` if, by its construction alone, a filter of [`TransitionWidth::Both`] accepts nothing that one side does not.
    pub fn is_understood(&self) -> bool {
        self.is_understood
    }

    /// Returns the name of the conditions of a rule; `None` if it is not a copy.
    pub fn origin(&self, chain: &str, index: usize) -> Option<&String> {
        self.copies.get(&(chain.into(), index))
    }
}

/// Names the conditions that have a state, such as rates, or of which the engine has no model, by chain and index. Rules with
/// equal names have the same condition for the engine.
pub fn origins(table: &Table, family: Family) -> HashMap<(&str, usize), String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut all = HashMap::new();
    for chain in &table.chains {
        for (index, rule) in chain.rules.iter().enumerate() {
            let opaque = |one: &Match| matches!(one, Match::Other(_) | Match::Unknown(_));
            if !rule.matches.iter().any(opaque) {
                continue;
            }
            let conditions = with_target(rule, Target::None).to_text(family);
            let name = format!("{} {}: {conditions}", table.name.as_str(), chain.name);
            let copy = seen.entry(name.clone()).or_default();
            *copy += 1;
            all.insert((&*chain.name, index), format!("{name} ({copy})"));
        }
    }
    all
}

/// The old filter table, or the new one.
struct Side<'a> {
    table: &'a Table,
    origins: HashMap<(&'a str, usize), String>,
}

impl<'a> Side<'a> {
    fn new(table: &'a Table, family: Family) -> Self {
        Self {
            table,
            origins: origins(table, family),
        }
    }

    /// Returns a base chain, or the chain that it calls for every packet if it does nothing else.
    fn top(&self, base: &str) -> Option<&'a Chain> {
        let base = self.table.chain(base)?;
        let called = leads_to(base).and_then(|name| self.table.chain(name));
        Some(called.unwrap_or(base))
    }

    /// Returns `true` if some packet may return from a chain to the rule that called it.
    fn returns(&self, name: &str) -> bool {
        let Some(chain) = self.table.chain(name) else {
            return true;
        };
        for rule in &chain.rules {
            let ends = match &rule.target {
                Target::Return => return true,
                Target::Goto(name) if self.returns(name) => return true,
                Target::Accept | Target::Drop | Target::Reject(_) | Target::Goto(_) => true,
                Target::Jump(name) => !self.returns(name),
                _ => false,
            };
            if ends && rule.matches.is_empty() {
                return false;
            }
        }
        true
    }
}

/// Returns the chain that a base chain calls for every packet, if it does nothing else.
fn leads_to(base: &Chain) -> Option<&str> {
    match &base.rules[..] {
        [rule] if rule.matches.is_empty() => match &rule.target {
            Target::Jump(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// Returns `true` if a chain and the chains that it calls have the same rules in two tables.
fn is_same(old: &Table, new: &Table, name: &str, seen: &mut BTreeSet<Box<str>>) -> bool {
    if !seen.insert(name.into()) {
        return true;
    }
    let (old_chain, new_chain) = match (old.chain(name), new.chain(name)) {
        (Some(old), Some(new)) => (old, new),
        (None, None) => return true,
        _ => return false,
    };
    old_chain.policy == new_chain.policy
        && old_chain.rules.len() == new_chain.rules.len()
        && old_chain.rules.iter().zip(&new_chain.rules).all(|(a, b)| {
            let called = match &a.target {
                Target::Jump(name) | Target::Goto(name) => Some(name),
                _ => None,
            };
            a.matches == b.matches
                && a.target == b.target
                && called.is_none_or(|name| is_same(old, new, name, seen))
        })
}

/// How the copy of a rule changes its verdict.
#[derive(Clone)]
struct Mode {
    /// The target in place of DROP and REJECT; `None` keeps them.
    refused: Option<Target>,
    /// The target in place of ACCEPT; `None` keeps it.
    accepted: Option<Target>,
    /// The target of packets that no rule decides.
    rest: Target,
}

impl Mode {
    /// `undecided` is the target of packets that no rule decides, if other programs' rules follow.
    fn new(
        (base, rest): (&Chain, Fallthrough),
        refused: Option<Target>,
        accepted: Option<Target>,
        undecided: Target,
    ) -> Self {
        let rest = match (rest, base.policy) {
            (Fallthrough::Others, _) => undecided,
            (Fallthrough::Policy, Some(ChainPolicy::Drop)) => {
                refused.clone().unwrap_or(Target::Drop)
            }
            (Fallthrough::Policy, _) => accepted.clone().unwrap_or(Target::Accept),
        };
        Self {
            refused,
            accepted,
            rest,
        }
    }
}

/// A rule, and the name of its conditions if it is a copy.
type Step = (Rule, Option<String>);

struct Builder {
    rest: Fallthrough,
    /// The chains made so far.
    made: Vec<(Box<str>, Vec<Step>)>,
    /// The names that chains have already.
    taken: BTreeSet<Box<str>>,
}

impl Builder {
    fn build(
        mut self,
        old: &Side<'_>,
        new: &Side<'_>,
        family: Family,
        width: TransitionWidth,
    ) -> Result<TransitionFilter, Unreadable> {
        let mut table = Table::new(TableName::Filter);
        for base in &mut table.chains {
            let name = base.name.clone();
            let (Some(old_base), Some(new_base)) = (old.table.chain(&name), new.table.chain(&name))
            else {
                continue;
            };
            base.policy = old_base.policy;
            if is_same(old.table, new.table, &name, &mut BTreeSet::new()) {
                base.rules.clone_from(&old_base.rules);
                continue;
            }
            let steps = self.cross(old, new, (old_base, new_base), width);
            // In shared mode the jump to fwc's chain stays where it is, so that other programs' rules keep their order.
            let entry = [(old, old_base), (new, new_base)]
                .into_iter()
                .find_map(|(side, base)| {
                    let name = leads_to(base)?;
                    (self.rest == Fallthrough::Others && called(side.table, name) == 1)
                        .then_some(name)
                });
            let entry = match entry {
                Some(name) => {
                    self.made.push((name.into(), steps));
                    name.into()
                }
                None => self.add(steps),
            };
            base.rules = vec![plain(Target::Jump(entry)).0];
        }
        // Keep the old chains too: rules that the target has again then keep their counters.
        let is_kept = |chain: &&Chain| {
            chain.policy.is_none() && self.made.iter().all(|(name, _)| *name != chain.name)
        };
        table
            .chains
            .extend(old.table.chains.iter().filter(is_kept).cloned());
        let mut copies = BTreeMap::new();
        for (name, steps) in self.made {
            let mut chain = Chain::new(&name, None);
            for (index, (rule, origin)) in steps.into_iter().enumerate() {
                copies.extend(origin.map(|origin| ((name.clone(), index), origin)));
                chain.rules.push(rule);
            }
            table.chains.push(chain);
        }
        let targets = [old, new]
            .into_iter()
            .flat_map(|side| side.table.chains.iter().flat_map(|chain| &chain.rules));
        let is_understood = targets.clone().all(|rule| is_understood(&rule.target));
        let mut ruleset = Ruleset::new(family);
        ruleset.tables.push(table);
        Ok(TransitionFilter {
            ours: LiveRuleset::parse(&ruleset.to_string())?,
            copies,
            is_understood,
        })
    }

    /// Returns the rules for a base chain: the old ones, which go on to copies of the new ones.
    fn cross(
        &mut self,
        old: &Side<'_>,
        new: &Side<'_>,
        (old_base, new_base): (&Chain, &Chain),
        width: TransitionWidth,
    ) -> Vec<Step> {
        let rest = self.rest;
        let after = Mode::new((new_base, rest), None, None, Target::Return);
        let entry = self.top(new, new_base, &after);
        let next = Target::Goto(self.add(entry));
        let base = (old_base, rest);
        let before = match (width, rest) {
            (TransitionWidth::Either, _) => Mode::new(base, Some(next.clone()), None, next),
            // A packet that the old rules leave to other programs' rules may be accepted there, unless the new rules drop it.
            (TransitionWidth::Both, Fallthrough::Others) => {
                let closing =
                    Mode::new((new_base, rest), None, Some(Target::Return), Target::Return);
                let entry = self.top(new, new_base, &closing);
                let last = Target::Goto(self.add(entry));
                Mode::new(base, None, Some(next), last)
            }
            (TransitionWidth::Both, Fallthrough::Policy) => {
                Mode::new(base, None, Some(next.clone()), next)
            }
        };
        self.top(old, old_base, &before)
    }

    /// Adds a chain with these rules, and returns its name.
    fn add(&mut self, steps: Vec<Step>) -> Box<str> {
        let mut numbers = 1_usize..;
        let name = numbers.find_map(|number| {
            let name: Box<str> = format!("FWC-~{number}").into();
            self.taken.insert(name.clone()).then_some(name)
        });
        // There are more numbers than chains, so that one is always free.
        let name = name.unwrap_or_default();
        self.made.push((name.clone(), steps));
        name
    }

    /// Copies the rules of a base chain, and decides the rest of the packets at its end.
    fn top(&mut self, side: &Side<'_>, base: &Chain, mode: &Mode) -> Vec<Step> {
        let mut copies = BTreeMap::new();
        let mut steps = Vec::new();
        let chain = side.top(&base.name).unwrap_or(base);
        for (index, rule) in chain.rules.iter().enumerate() {
            let target = match &rule.target {
                Target::Return => mode.rest.clone(),
                // A packet that returns from there is not decided yet.
                Target::Goto(name) if side.returns(name) => {
                    let inner = self.copy(side, name, mode, &mut copies);
                    let steps = [Target::Jump(inner), mode.rest.clone()];
                    Target::Goto(self.add(steps.map(plain).to_vec()))
                }
                target => self.target(side, target, mode, &mut copies),
            };
            steps.push(side.step((chain, index), rule, target));
        }
        steps.push(plain(mode.rest.clone()));
        steps
    }

    /// Copies a user-defined chain, and returns the name of the copy.
    fn copy(
        &mut self,
        side: &Side<'_>,
        name: &str,
        mode: &Mode,
        copies: &mut BTreeMap<Box<str>, Box<str>>,
    ) -> Box<str> {
        if let Some(copy) = copies.get(name) {
            return copy.clone();
        }
        let mut steps = Vec::new();
        if let Some(chain) = side.table.chain(name) {
            for (index, rule) in chain.rules.iter().enumerate() {
                let target = self.target(side, &rule.target, mode, copies);
                steps.push(side.step((chain, index), rule, target));
            }
        }
        let copy = self.add(steps);
        copies.insert(name.into(), copy.clone());
        copy
    }

    /// Returns the target of the copy of a rule.
    fn target(
        &mut self,
        side: &Side<'_>,
        target: &Target,
        mode: &Mode,
        copies: &mut BTreeMap<Box<str>, Box<str>>,
    ) -> Target {
        match target {
            Target::Drop | Target::Reject(_) => {
                mode.refused.clone().unwrap_or_else(|| target.clone())
            }
            Target::Accept => mode.accepted.clone().unwrap_or(Target::Accept),
            Target::Jump(name) if side.returns(name) => {
                Target::Jump(self.copy(side, name, mode, copies))
            }
            // No packet returns from there, so that a goto does the same as a jump.
            Target::Jump(name) | Target::Goto(name) => {
                Target::Goto(self.copy(side, name, mode, copies))
            }
            target => target.clone(),
        }
    }
}

impl Side<'_> {
    fn step(&self, (chain, index): (&Chain, usize), rule: &Rule, target: Target) -> Step {
        let origin = self.origins.get(&(&*chain.name, index)).cloned();
        (with_target(rule, target), origin)
    }
}

/// Returns how many rules of a table lead to a chain.
fn called(table: &Table, name: &str) -> usize {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    rules
        .filter(|rule| match &rule.target {
            Target::Jump(to) | Target::Goto(to) => &**to == name,
            _ => false,
        })
        .count()
}

/// Returns `true` if fwc knows what a target does to packets. Of the others nobody knows whether they accept.
fn is_understood(target: &Target) -> bool {
    !matches!(
        target,
        Target::Queue | Target::Unknown(_) | Target::Other(_)
    )
}

fn with_target(rule: &Rule, target: Target) -> Rule {
    Rule {
        target,
        ..rule.clone()
    }
}

fn plain(target: Target) -> Step {
    let rule = Rule {
        matches: Vec::new(),
        target,
        counters: None,
        line: 0,
    };
    (rule, None)
}

#[cfg(test)]
mod tests;

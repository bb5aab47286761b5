//! Changes tables that depend on each other in three phases.
//!
//! The kernel commits each table by itself. Between the commit of `nat` and that of `filter` a packet would meet the new
//! translation and the old filter, and be lost although both the old rules and the new ones accept it. So first the filter
//! table becomes a [`TransitionFilter`], which accepts what the old filter or the new one accepts; then the other tables change,
//! then the filter table. If a packet could pass in between that neither ruleset accepts, the transition filter is the one that
//! accepts only what both filters accept. Other programs' rules are in every state as they are live.

use std::collections::HashMap;

use super::owned::Owned;
use super::transition_filter::{self, TransitionFilter, TransitionWidth, origins};
use crate::analysis::{
    BaseChain, Behaviour, Budget, GaveUp, Path, Reading, Set, Space, TextError, Verdict,
};
use crate::iptables::{ParseError, Rule, Ruleset, TableName};
use crate::live::LiveRuleset;
use crate::net::{Family, Hook};

/// Returns `true` if a change of these tables needs the three phases.
pub fn depend(changed: &[TableName]) -> bool {
    let filter = changed.contains(&TableName::Filter);
    filter && changed.len() > 1
}

/// What may happen to new connections for some milliseconds, while the tables of a family change one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The family of the tables.
    pub family: Family,
    /// Whether there is a transition filter. There is none if fwc cannot read a rule of the filter table.
    pub is_bridged: bool,
    /// Whether connections may begin that neither ruleset accepts, or fwc cannot tell. In any case some may be lost that both
    /// accept.
    pub may_open: bool,
}

/// A change of the tables of one family that depend on each other.
#[derive(Clone, Copy, Debug)]
pub struct DependentTables<'a> {
    /// fwc's parts of the tables.
    pub owned: &'a Owned,
    /// The family of the tables.
    pub family: Family,
    /// All live rules.
    pub live: &'a LiveRuleset,
    /// All rules after the change.
    pub target: &'a LiveRuleset,
    /// The tables that change, in the order of their commits.
    pub changed: &'a [TableName],
}

impl DependentTables<'_> {
    /// Returns the transition filter, `None` if there can be none, and what the change may do to new connections by the packet
    /// engine; `None` if it does nothing to them.
    pub fn transition(&self) -> (Option<TransitionFilter>, Option<Gap>) {
        let judge = Judge::new(self);
        let gap = |is_bridged, may_open| Gap {
            family: self.family,
            is_bridged,
            may_open,
        };
        let (Ok(either), Ok(both)) = (
            self.between(TransitionWidth::Either),
            self.between(TransitionWidth::Both),
        ) else {
            let seen = judge.and_then(|judge| judge.look(None));
            return (None, Some(gap(false, seen.is_none_or(|seen| seen.opens))));
        };
        let Some(judge) = judge else {
            let opens = !self.is_argued(&both);
            return (Some(both), Some(gap(true, opens)));
        };
        match judge.look(Some(&either)) {
            Some(seen) if !seen.opens => {
                return (Some(either), seen.loses.then(|| gap(true, false)));
            }
            _ => {}
        }
        // Also if the engine gives up: a packet lost for an instant is better than one that nobody accepts and that passes.
        let seen = judge.look(Some(&both));
        let opens = seen.map_or_else(|| !self.is_argued(&both), |seen| seen.opens);
        (Some(both), Some(gap(true, opens)))
    }

    /// Returns the transition filter of this width.
    fn between(
        &self,
        width: TransitionWidth,
    ) -> Result<TransitionFilter, transition_filter::Unreadable> {
        let old = self.owned.wherever(self.family, self.live);
        let new = self.owned.of(self.family, self.target);
        TransitionFilter::between(&old, &new, self.family, width, self.owned.rest())
    }

    /// Returns `true` if nothing can pass that neither ruleset accepts, for a change that the engine cannot decide: the transition
    /// filter accepts only what both filters accept, and it meets one other table, which is the old one or the new one.
    fn is_argued(&self, both: &TransitionFilter) -> bool {
        let (owned, family) = (self.owned, self.family);
        let placed = owned.with(family, self.live, &owned.of(family, self.live));
        both.is_understood() && self.changed.len() == 2 && placed.normal() == self.live.normal()
    }

    /// Returns the rules after each step except the last.
    fn states(&self, filter: Option<&TransitionFilter>) -> Vec<LiveRuleset> {
        let mut state = self.live.clone();
        let mut states = Vec::new();
        if let Some(filter) = filter {
            let whole = self.owned.with(self.family, self.live, &filter.ours);
            *state.table_mut(TableName::Filter) = whole.table(TableName::Filter);
            states.push(state.clone());
        }
        for &table in self
            .changed
            .iter()
            .filter(|table| **table != TableName::Filter)
        {
            *state.table_mut(table) = self.target.table(table);
            states.push(state.clone());
        }
        states
    }
}

/// What a change does to packets between its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Some packet passes that neither ruleset accepts.
    opens: bool,
    /// Some packet is lost that both rulesets accept.
    loses: bool,
}

/// The packet engine, with the packets that the two rulesets accept.
struct Judge<'a> {
    change: &'a DependentTables<'a>,
    space: Space,
    /// The packets that one of the rulesets accepts, by hook.
    either: Vec<Set>,
    /// The packets that both rulesets accept, by hook.
    both: Vec<Set>,
}

const HOOKS: [Hook; 3] = [Hook::Input, Hook::Forward, Hook::Output];

impl<'a> Judge<'a> {
    /// `None` if the engine gives up.
    fn new(change: &'a DependentTables<'a>) -> Option<Self> {
        let space = Space::with_budget(change.family, BUDGET);
        let old = let_through(&space, change.live, None).ok()?;
        let new = let_through(&space, change.target, None).ok()?;
        let pairs = || old.iter().zip(&new);
        let either: Result<Vec<Set>, GaveUp> = pairs().map(|(a, b)| space.or(*a, *b)).collect();
        let both: Result<Vec<Set>, GaveUp> = pairs().map(|(a, b)| space.and(*a, *b)).collect();
        let (either, both) = (either.ok()?, both.ok()?);
        Some(Self {
            change,
            space,
            either,
            both,
        })
    }

    /// Checks the rules between the steps; `None` if the engine gives up.
    fn look(&self, filter: Option<&TransitionFilter>) -> Option<Seen> {
        let mut seen = Seen::default();
        for state in self.change.states(filter) {
            let through = let_through(&self.space, &state, filter).ok()?;
            for (index, through) in through.into_iter().enumerate() {
                let within = |a, b| self.space.is_subset(a, b).ok();
                seen.opens |= !within(through, self.either[index])?;
                seen.loses |= !within(self.both[index], through)?;
            }
        }
        Some(seen)
    }
}

/// Returns the packets that the rules may accept, by hook.
fn let_through(
    space: &Space,
    dump: &LiveRuleset,
    filter: Option<&TransitionFilter>,
) -> Result<Vec<Set>, GapUnknown> {
    let ruleset = Ruleset::from_text(&dump.normal(), space.family())?;
    let mut by_line = HashMap::new();
    for table in &ruleset.tables {
        let own = origins(table, space.family());
        for chain in &table.chains {
            for (index, rule) in chain.rules.iter().enumerate() {
                let copied = filter.filter(|_| table.name == TableName::Filter);
                let copied = copied.and_then(|filter| filter.origin(&chain.name, index));
                let origin = copied.or_else(|| own.get(&(&*chain.name, index)));
                by_line.extend(origin.map(|origin| (rule.line, origin.clone())));
            }
        }
    }
    let reading = Reading {
        origin: &|rule: &Rule| by_line.get(&rule.line).cloned(),
        has_copies: true,
        ..Reading::default()
    };
    let behaviour = Behaviour::of(space, &ruleset, &reading)?;
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Drop | Verdict::Reject(_));
    let sets = HOOKS.map(|hook| -> Result<Set, GapUnknown> {
        let arriving = space.valid(BaseChain::from(hook))?;
        let path = Path::of(space, &behaviour, hook, arriving)?;
        Ok(path.may(space, |end| !refused(&end.verdict))?)
    });
    sets.into_iter().collect()
}

/// The limits of the packet engine: about a second.
const BUDGET: Budget = Budget {
    edges: 6_000_000,
    steps: 40_000_000,
};

/// Why the packet engine cannot tell what the rules accept.
#[derive(Debug, thiserror::Error)]
enum GapUnknown {
    /// fwc cannot read a rule.
    #[error(transparent)]
    Invalid(#[from] ParseError),
    /// The engine has no model of a rule.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The rules are too large for the limits.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
}

#[cfg(test)]
mod tests;

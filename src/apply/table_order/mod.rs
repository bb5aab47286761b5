//! Tables that depend on each other, changed in three phases.
//!
//! Each table is a commit of its own. Between the one of `nat` and the one of `filter` a packet would meet the new
//! translation and the old filter, and be lost though the old rules and the new ones let it through. So the filter goes first
//! to a [`TransitionFilter`], which lets through what the old or the new filter does, then the other tables change, then the filter.
//! Where a packet would get through in between that neither ruleset lets through, the bridge is the one that lets through
//! what both filters do. Others' rules stand in every state as they are live.

use std::collections::HashMap;

use super::owned::Owned;
use super::transition_filter::{self, TransitionFilter, TransitionWidth, origins};
use crate::analysis::{
    BaseChain, Behaviour, Budget, GaveUp, Path, Reading, Set, Space, TextError, Verdict,
};
use crate::iptables::{ParseError, Rule, Ruleset, TableName};
use crate::live::LiveRuleset;
use crate::net::{Family, Hook};

/// Whether the change of these tables needs the three phases.
pub fn depend(changed: &[TableName]) -> bool {
    let filter = changed.contains(&TableName::Filter);
    filter && changed.len() > 1
}

/// What may happen to new connections for some milliseconds, while the tables of a family change one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The family.
    pub family: Family,
    /// Whether the filter has a step between the old rules and the new ones. It has none where only the kernel understands it.
    pub is_bridged: bool,
    /// Whether some may get through that neither ruleset lets through, or nobody can tell. In any case some may be lost that
    /// both let through.
    pub may_open: bool,
}

/// A change of the tables of one family that depend on each other.
#[derive(Clone, Copy, Debug)]
pub struct Crossing<'a> {
    /// Which parts are fwc's.
    pub owned: &'a Owned,
    /// Which family.
    pub family: Family,
    /// All rules as they are, others' too.
    pub live: &'a LiveRuleset,
    /// The same, as they will be.
    pub target: &'a LiveRuleset,
    /// The tables that change, in their order.
    pub changed: &'a [TableName],
}

impl Crossing<'_> {
    /// The step in between, and what the packet engine sees it do to packets, or cannot rule out.
    pub fn bridge(&self) -> (Option<TransitionFilter>, Option<Gap>) {
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
        // Where nobody can tell, too: rather a packet lost for an instant than one let through.
        let seen = judge.look(Some(&both));
        let opens = seen.map_or_else(|| !self.is_argued(&both), |seen| seen.opens);
        (Some(both), Some(gap(true, opens)))
    }

    fn between(
        &self,
        width: TransitionWidth,
    ) -> Result<TransitionFilter, transition_filter::Unreadable> {
        let old = self.owned.wherever(self.family, self.live);
        let new = self.owned.of(self.family, self.target);
        TransitionFilter::between(&old, &new, self.family, width, self.owned.rest())
    }

    /// Whether nothing can get through where the engine cannot tell: a filter that lets through what both sides do, and no
    /// more, stands beside the old other table or the new one.
    fn is_argued(&self, both: &TransitionFilter) -> bool {
        let (owned, family) = (self.owned, self.family);
        let placed = owned.with(family, self.live, &owned.of(family, self.live));
        both.is_understood() && self.changed.len() == 2 && placed.normal() == self.live.normal()
    }

    /// The rules after each step but the last.
    fn states(&self, bridge: Option<&TransitionFilter>) -> Vec<LiveRuleset> {
        let mut state = self.live.clone();
        let mut states = Vec::new();
        if let Some(bridge) = bridge {
            let whole = self.owned.with(self.family, self.live, &bridge.ours);
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

/// What a change does on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Some packet gets through that neither ruleset lets through.
    opens: bool,
    /// Some packet does not that both let through.
    loses: bool,
}

/// The packet engine, with what both rulesets let through.
struct Judge<'a> {
    crossing: &'a Crossing<'a>,
    space: Space,
    /// By hook.
    either: Vec<Set>,
    both: Vec<Set>,
}

const HOOKS: [Hook; 3] = [Hook::Input, Hook::Forward, Hook::Output];

impl<'a> Judge<'a> {
    /// `None` where the engine has no answer.
    fn new(crossing: &'a Crossing<'a>) -> Option<Self> {
        let space = Space::with_budget(crossing.family, BUDGET);
        let old = let_through(&space, crossing.live, None).ok()?;
        let new = let_through(&space, crossing.target, None).ok()?;
        let pairs = || old.iter().zip(&new);
        let either: Result<Vec<Set>, GaveUp> = pairs().map(|(a, b)| space.or(*a, *b)).collect();
        let both: Result<Vec<Set>, GaveUp> = pairs().map(|(a, b)| space.and(*a, *b)).collect();
        let (either, both) = (either.ok()?, both.ok()?);
        Some(Self {
            crossing,
            space,
            either,
            both,
        })
    }

    fn look(&self, bridge: Option<&TransitionFilter>) -> Option<Seen> {
        let mut seen = Seen::default();
        for state in self.crossing.states(bridge) {
            let through = let_through(&self.space, &state, bridge).ok()?;
            for (index, through) in through.into_iter().enumerate() {
                let within = |a, b| self.space.is_subset(a, b).ok();
                seen.opens |= !within(through, self.either[index])?;
                seen.loses |= !within(self.both[index], through)?;
            }
        }
        Some(seen)
    }
}

/// The packets that may get through, by hook.
fn let_through(
    space: &Space,
    dump: &LiveRuleset,
    bridge: Option<&TransitionFilter>,
) -> Result<Vec<Set>, GapUnknown> {
    let ruleset = Ruleset::from_text(&dump.normal(), space.family())?;
    let mut by_line = HashMap::new();
    for table in &ruleset.tables {
        let own = origins(table, space.family());
        for chain in &table.chains {
            for (place, rule) in chain.rules.iter().enumerate() {
                let copied = bridge.filter(|_| table.name == TableName::Filter);
                let copied = copied.and_then(|bridge| bridge.origin(&chain.name, place));
                let origin = copied.or_else(|| own.get(&(&*chain.name, place)));
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

/// About a second.
const BUDGET: Budget = Budget {
    edges: 6_000_000,
    steps: 40_000_000,
};

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
enum GapUnknown {
    /// A rule that only the kernel understands.
    #[error(transparent)]
    Invalid(#[from] ParseError),
    /// The analysis has no answer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It is too large.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
}

#[cfg(test)]
mod tests;

//! The rehearsal of a change: exactly the edits of the commit, on a copy of the live rules in a scratch network namespace.

use super::error::Error;
use super::loads::Loads;
use super::owned::Owned;
use super::rulesets::parse_live;
use super::sets::Compared;
use super::table_order::{self, DependentTables, Gap};
use super::{patch, text_diff};
use crate::diag::Style;
use crate::live::{Host, LiveRuleset, Payload};
use crate::net::{Family, PerFamily};

/// The transition filters of a change that needs them.
#[derive(Clone, Debug, Default)]
pub(super) struct Transitions {
    /// fwc's part of each transition filter, as it is loaded.
    pub filters: PerFamily<Option<LiveRuleset>>,
    /// The same in the kernel's form.
    pub loaded: PerFamily<Option<String>>,
    /// What may happen to new connections during the change.
    pub gaps: Vec<Gap>,
}

/// A change that is to be rehearsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rehearsal<'a> {
    pub owned: &'a Owned,
    /// All live rules.
    pub live: &'a PerFamily<LiveRuleset>,
    /// fwc's parts of the rules after the change, in the kernel's form.
    pub target: &'a PerFamily<String>,
    pub sets: &'a Compared,
}

impl Rehearsal<'_> {
    /// Finds the transition filters and, if `has_scratch`, tries the edits.
    ///
    /// # Errors
    ///
    /// The edits do not load, or lead to other rules than the target.
    pub fn run(&self, host: &dyn Host, has_scratch: bool) -> Result<Transitions, Error> {
        let mut transitions = Transitions::default();
        let mut payload = Payload {
            sets: self.sets.stand_ins(host, self.live).map_err(Error::Live)?,
            ..Payload::default()
        };
        for family in Family::ALL {
            if host.lacks(family) {
                continue;
            }
            let live = &self.live[family];
            let target = parse_live(family, &self.target[family]).map_err(Error::Rehearsal)?;
            let (filter, gap) = self.transition(family, &target);
            transitions.gaps.extend(gap);
            payload.rules[family] = Some(live.restore_text(self.owned.tables(family)));
            let loads = Loads {
                owned: self.owned,
                family,
                target,
                transition: filter.as_ref(),
            };
            let mut now = live.clone();
            for load in loads.in_order() {
                let (text, after) = loads.edit(live, &now, &load);
                now = after;
                payload.edits[family].extend((!text.is_empty()).then_some(text));
            }
            transitions.filters[family] = filter;
        }
        if !has_scratch {
            for family in Family::ALL {
                let filter = transitions.filters[family].as_ref();
                transitions.loaded[family] = filter.map(LiveRuleset::normal);
            }
            return Ok(transitions);
        }
        let rehearsed = host.rehearse(&payload).map_err(Error::Rehearsal)?;
        for family in Family::ALL {
            if transitions.filters[family].is_some() {
                let after_first = rehearsed.stages[family].first();
                transitions.loaded[family] =
                    after_first.map(|dump| self.owned.of(family, dump).normal());
            }
        }
        let result = PerFamily::from_fn(|family| {
            let dump = rehearsed.rules[family].clone().unwrap_or_default();
            self.owned.of(family, &dump).normal()
        });
        if result == *self.target {
            return Ok(transitions);
        }
        let names = ["wanted", "rehearsed"];
        let diff = text_diff::rules(self.target, &result, names, Style::Plain);
        Err(Error::RehearsalDiffers(diff))
    }

    /// Finds the transition filter of a family, `None` if its change needs none or can have none, and what may happen to new
    /// connections meanwhile.
    fn transition(
        &self,
        family: Family,
        target: &LiveRuleset,
    ) -> (Option<LiveRuleset>, Option<Gap>) {
        let live = &self.live[family];
        let target = self.owned.with(family, live, target);
        let changed = patch::changed(live, &target, self.owned.tables(family));
        if !table_order::depend(&changed) {
            return (None, None);
        }
        let change = DependentTables {
            owned: self.owned,
            family,
            live,
            target: &target,
            changed: &changed,
        };
        let (filter, gap) = change.transition();
        (filter.map(|filter| filter.ours), gap)
    }
}

//! The loads that lead from the live rules of a family to the target, one after another.

use super::owned::Owned;
use super::patch;
use crate::iptables::TableName;
use crate::live::LiveRuleset;
use crate::net::Family;

/// What a load leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadPhase {
    /// The transition filter: the filter table between the old rules and the new ones.
    Transition,
    /// The tables of the target.
    Target,
}

/// A load of one family: one run of `iptables-restore`.
#[derive(Clone, Debug)]
pub struct FamilyLoad {
    pub phase: LoadPhase,
    /// fwc's parts of the rules after the load.
    ours: LiveRuleset,
    /// The tables that the load changes.
    tables: Vec<TableName>,
}

/// The change of one family's rules.
#[derive(Clone, Debug)]
pub struct Loads<'a> {
    pub owned: &'a Owned,
    pub family: Family,
    /// fwc's parts of the rules after the change.
    pub target: LiveRuleset,
    /// The transition filter, if the change needs one.
    pub transition: Option<&'a LiveRuleset>,
}

impl Loads<'_> {
    /// Lists the loads in their order.
    pub fn in_order(&self) -> Vec<FamilyLoad> {
        let load = |phase, ours: &LiveRuleset, tables: Vec<TableName>| FamilyLoad {
            phase,
            ours: ours.clone(),
            tables,
        };
        let tables = self.owned.tables(self.family).to_vec();
        let Some(transition) = self.transition else {
            return vec![load(LoadPhase::Target, &self.target, tables)];
        };
        let is_filter = |table: &TableName| *table == TableName::Filter;
        let (filter, others): (Vec<_>, Vec<_>) = tables.into_iter().partition(is_filter);
        vec![
            load(LoadPhase::Transition, transition, filter.clone()),
            load(LoadPhase::Target, &self.target, others),
            load(LoadPhase::Target, &self.target, filter),
        ]
    }

    /// Returns the input of `iptables-restore --noflush --counters` for a load, empty if nothing differs, and the rules after
    /// it. `now` are the rules before it.
    ///
    /// A rule of the target keeps the counters that it had in `snapshot`, the rules before the first load: the transition
    /// filter may not have the rule.
    pub fn edit(
        &self,
        snapshot: &LiveRuleset,
        now: &LiveRuleset,
        load: &FamilyLoad,
    ) -> (String, LiveRuleset) {
        let whole = self.owned.with(self.family, now, &load.ours);
        let whole = patch::carry(snapshot, &whole, &load.tables);
        let text = self.owned.between(now, &whole, &load.tables);
        let mut after = now.clone();
        for &table in &load.tables {
            *after.table_mut(table) = whole.table(table);
        }
        (text, after)
    }
}

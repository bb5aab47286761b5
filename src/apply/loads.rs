//! The loads that lead from live to the target, one after another.

use super::table_order::{self, Crossing};
use super::{ApplyPlan, Error, compare, patch};
use crate::diag::Style;
use crate::iptables::TableName;
use crate::live::{self, Host, LiveRuleset, Payload};
use crate::net::{Family, PerFamily};

/// What a load leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadPhase {
    /// The filter table between the phases.
    Bridge,
    /// The tables as they will be.
    Target,
}

/// A load of one family.
#[derive(Clone, Debug)]
pub struct FamilyLoad {
    pub phase: LoadPhase,
    /// fwc's parts afterwards.
    ours: LiveRuleset,
    /// The tables that it changes.
    tables: Vec<TableName>,
}

impl ApplyPlan<'_> {
    /// Makes exactly the edits of the commit on a copy of live in a scratch namespace.
    pub(super) fn rehearse_edits(
        &mut self,
        host: &dyn Host,
        snapshot: &PerFamily<LiveRuleset>,
    ) -> Result<(), Error> {
        let mut payload = Payload {
            sets: self.sets.stand_ins(host, snapshot).map_err(Error::Live)?,
            ..Payload::default()
        };
        for family in Family::ALL {
            if host.lacks(family) {
                continue;
            }
            let live = &snapshot[family];
            self.bridge(family, live).map_err(Error::Rehearsal)?;
            payload.rules[family] = Some(live.restore_text(self.owned.tables(family)));
            let mut now = live.clone();
            for stage in self.stages(family).map_err(Error::Rehearsal)? {
                let (text, after) = self.edit(family, live, &now, &stage);
                now = after;
                payload.edits[family].extend((!text.is_empty()).then_some(text));
            }
        }
        if self.unrehearsed.is_some() {
            for family in Family::ALL {
                let bridge = self.bridges[family].as_ref();
                self.bridged[family] = bridge.map(LiveRuleset::normal);
            }
            return Ok(());
        }
        let rehearsed = host.rehearse(&payload).map_err(Error::Rehearsal)?;
        for family in Family::ALL {
            if self.bridges[family].is_some() {
                let stage = rehearsed.stages[family].first();
                self.bridged[family] = stage.map(|dump| self.owned.of(family, dump).normal());
            }
        }
        let result = PerFamily::from_fn(|family| {
            let dump = rehearsed.rules[family].clone().unwrap_or_default();
            self.owned.of(family, &dump).normal()
        });
        if result == self.target {
            return Ok(());
        }
        let names = ["wanted", "rehearsed"];
        let diff = compare(&self.target, &result, names, Style::Plain);
        Err(Error::RehearsalDiffers(diff))
    }

    /// Finds the filter table between the phases, where the change of a family needs them.
    fn bridge(&mut self, family: Family, live: &LiveRuleset) -> Result<(), live::Error> {
        let target = self.target_of(family, live)?;
        let changed = patch::changed(live, &target, self.owned.tables(family));
        if !table_order::depend(&changed) {
            return Ok(());
        }
        let crossing = Crossing {
            owned: &self.owned,
            family,
            live,
            target: &target,
            changed: &changed,
        };
        let (bridge, gap) = crossing.bridge();
        self.bridges[family] = bridge.map(|bridge| bridge.ours);
        self.gaps.extend(gap);
        Ok(())
    }

    /// What leads from live to the target, one after another.
    pub(super) fn stages(&self, family: Family) -> Result<Vec<FamilyLoad>, live::Error> {
        let target = LiveRuleset::parse(&self.target[family])
            .map_err(|source| live::Error::Unreadable { family, source })?;
        let stage = |phase, ours: &LiveRuleset, tables: Vec<TableName>| FamilyLoad {
            phase,
            ours: ours.clone(),
            tables,
        };
        let tables = self.owned.tables(family).to_vec();
        let Some(bridge) = &self.bridges[family] else {
            return Ok(vec![stage(LoadPhase::Target, &target, tables)]);
        };
        let filter = |table: &TableName| *table == TableName::Filter;
        let (filter, others): (Vec<_>, Vec<_>) = tables.into_iter().partition(filter);
        Ok(vec![
            stage(LoadPhase::Bridge, bridge, filter.clone()),
            stage(LoadPhase::Target, &target, others),
            stage(LoadPhase::Target, &target, filter),
        ])
    }

    /// Input for `iptables-restore --noflush --counters` that makes a stage of what is live `now`, empty where nothing differs;
    /// and what is live then. What stays counts on from the `snapshot`, though a bridge may not have it.
    pub(super) fn edit(
        &self,
        family: Family,
        snapshot: &LiveRuleset,
        now: &LiveRuleset,
        stage: &FamilyLoad,
    ) -> (String, LiveRuleset) {
        let whole = self.owned.with(family, now, &stage.ours);
        let whole = patch::carry(snapshot, &whole, &stage.tables);
        let text = self.owned.between(now, &whole, &stage.tables);
        let mut after = now.clone();
        for &table in &stage.tables {
            *after.table_mut(table) = whole.table(table);
        }
        (text, after)
    }

    /// Whether others may change the rules that a stage is made of while the stage before it is loaded.
    pub(super) fn is_beside_others(&self) -> bool {
        self.owned.is_beside_others()
    }
}

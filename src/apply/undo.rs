//! Reverts a change, for fwc itself, the watchdog, `rollback` and `recover`.
//!
//! What to do is computed from the live rules at that moment, so it can be repeated: parts that are reverted already are left
//! alone.

use super::error::Error;
use super::inverse::inverse;
use super::records::{HistoryEntry, Intent, JournalStep};
use super::rulesets::parse_file;
use super::store::Store;
use super::{blind, clock, patch, points, sets, table_order};
use crate::fault::{self, Point};
use crate::iptables::TableName;
use crate::live::{self, Host, LiveRuleset};
use crate::net::Family;

/// How long reverting may take before another process may take over, in milliseconds.
const LONGEST: u64 = 120_000;

/// How often fwc tries to read the live rules before they count as unreadable.
const ATTEMPTS: usize = 3;

/// Reverts the change, and writes that to the journal and the history. The caller holds the lock.
pub(super) fn undo(
    host: &mut dyn Host,
    store: &Store,
    intent: &Intent,
    why: &str,
) -> Result<(), Error> {
    let journal = store.journal();
    let why_text = why.lines().next().unwrap_or_default().to_owned();
    // The deadline was for the change: reverting has its own.
    host.finish_by(None);
    let step = JournalStep::Undoing {
        why: why_text.clone(),
        deadline: clock::since_boot().saturating_add(LONGEST),
    };
    // The firewall comes first: a full disk must not keep the new rules active.
    let written = journal.write(intent, &step);
    in_kernel(host, intent)?;
    written?;
    points::state(Point::UndoHistory, store)?;
    store
        .history()
        .add(&HistoryEntry::taken_back(intent, &why_text))?;
    journal.write(intent, &JournalStep::Undone)
}

/// Reverts sets and rules.
fn in_kernel(host: &mut dyn Host, intent: &Intent) -> Result<(), Error> {
    points::rules(Point::UndoSets).map_err(Error::Live)?;
    // An error of the sets or of one family must not keep the rest from being reverted.
    let sets = begin_sets(host, intent);
    let families = Family::ALL.map(|family| family_in_kernel(host, intent, family));
    families.into_iter().collect::<Result<(), Error>>()?;
    let changes = sets?;
    points::rules(Point::UndoSetsFinish).map_err(Error::Live)?;
    // The old rules do not need the new sets; one that cannot be destroyed does no harm.
    sets::finish(host, &changes);
    Ok(())
}

/// Restores the sets that the old rules need. Returns the sets to destroy after them.
fn begin_sets(host: &mut dyn Host, intent: &Intent) -> Result<sets::Changes, Error> {
    let (before, after) = (
        sets::parse(&intent.sets_before)?,
        sets::parse(&intent.sets_after)?,
    );
    let sets = sets::revert(host, before, &after).map_err(Error::Live)?;
    sets::begin(host, &sets).map_err(Error::Live)?;
    Ok(sets.changes())
}

/// Reverts the rules of one family.
fn family_in_kernel(host: &mut dyn Host, intent: &Intent, family: Family) -> Result<(), Error> {
    let back = Back::new(intent, family)?;
    match by_inverse(host, &back) {
        // Unreadable rules must not keep the change active.
        Err(Failed::Read) => {
            let (before, after) = points_of(family);
            points::rules(before).map_err(Error::Live)?;
            let states: Vec<&LiveRuleset> = back.states().collect();
            blind::take_back(host, &intent.owned, family, &back.before, &states)
                .map_err(Error::Live)?;
            points::rules(after).map_err(Error::Live)
        }
        Err(Failed::Other(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Why a family was not reverted.
enum Failed {
    /// The live rules cannot be read.
    Read,
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads the live rules. A tool that was killed is run again; one that hangs is not, because it took all its time already.
fn read(host: &dyn Host, family: Family) -> Result<LiveRuleset, Failed> {
    for _ in 0..ATTEMPTS {
        match host.save(family) {
            Ok(live) => return Ok(live),
            Err(live::Error::TimedOut { .. }) => break,
            Err(_) => {}
        }
    }
    Err(Failed::Read)
}

/// Returns the fault points before and after a family is reverted.
fn points_of(family: Family) -> (Point, Point) {
    match family {
        Family::V4 => (Point::UndoV4, Point::UndoneV4),
        Family::V6 => (Point::UndoV6, Point::UndoneV6),
    }
}

/// Reverts the rules of one family to the inverse of the change, computed from the live rules.
fn by_inverse(host: &mut dyn Host, back: &Back<'_>) -> Result<(), Failed> {
    let family = back.family;
    let (before, done) = points_of(family);
    let mut live = read(host, family)?;
    let mut loaded = false;
    for load in back.loads(&live) {
        if loaded {
            live = read(host, family)?;
        }
        let text = back.text(&live, &load);
        if text.is_empty() {
            continue;
        }
        points::rules(before).map_err(Error::Live)?;
        let text = fault::spoil(before, &text).unwrap_or(text);
        match host.restore(family, &text) {
            // Without the transition filter packets are lost for an instant; the old rules matter more.
            Err(_) if load == Load::Transition => {}
            result => result.map_err(Error::Live)?,
        }
        loaded = true;
        points::rules(done).map_err(Error::Live)?;
    }
    if !loaded {
        return Ok(());
    }
    points::rules(Point::UndoReadBack).map_err(Error::Live)?;
    let now = read(host, family)?;
    let ours = |dump: &LiveRuleset| back.intent.owned.of(family, dump).normal();
    if ours(&now) == ours(&back.wanted(&live)) {
        return Ok(());
    }
    Err(Failed::Other(Error::Live(live::Error::Io {
        what: format!("{family}: the live rules are not the reverted ones"),
        source: std::io::Error::other("another program changes them at the same time"),
    })))
}

/// The change of one family, and its states, to be reverted.
struct Back<'a> {
    intent: &'a Intent,
    family: Family,
    before: LiveRuleset,
    after: LiveRuleset,
    transition: Option<LiveRuleset>,
}

/// A load that reverts part of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Load {
    /// The filter table becomes the transition filter of the change.
    Transition,
    /// These tables become what they were before the change.
    Tables(Vec<TableName>),
}

impl<'a> Back<'a> {
    fn new(intent: &'a Intent, family: Family) -> Result<Self, Error> {
        let parse = |text: &str| parse_file(family, text);
        Ok(Self {
            intent,
            family,
            before: parse(&intent.before[family])?,
            after: parse(&intent.after[family])?,
            transition: intent.transitions[family]
                .as_deref()
                .map(parse)
                .transpose()?,
        })
    }

    /// Returns the loads in their order. Tables that depend on each other are reverted through the states of the change, in the
    /// opposite order. If somebody changed fwc's filter rules since, they are reverted at once: rules that were added would lose
    /// their place in the transition filter.
    fn loads(&self, live: &LiveRuleset) -> Vec<Load> {
        let owned = &self.intent.owned;
        let tables = owned.tables(self.family);
        let changed = patch::changed(live, &self.wanted(live), tables);
        let all = Load::Tables(tables.to_vec());
        let filter = |dump: &LiveRuleset| dump.only(&[TableName::Filter]).normal();
        let now = filter(&owned.of(self.family, live));
        let is_unchanged = self.transition.as_ref().is_some_and(|transition| {
            let mut states = [transition, &self.after].into_iter();
            states.any(|state| filter(state) == now)
        });
        if !is_unchanged || !table_order::depend(&changed) {
            return vec![all];
        }
        let mut others = tables.to_vec();
        others.retain(|table| *table != TableName::Filter);
        others.reverse();
        vec![Load::Transition, Load::Tables(others), all]
    }

    /// Returns the rulesets that the change went through.
    fn states(&self) -> impl Iterator<Item = &LiveRuleset> {
        std::iter::once(&self.after).chain(&self.transition)
    }

    /// Returns the live rules without the change.
    fn wanted(&self, live: &LiveRuleset) -> LiveRuleset {
        let states: Vec<&LiveRuleset> = self.states().collect();
        let tables = self.intent.owned.tables(self.family);
        inverse(&self.before, &states, live, tables)
    }

    /// Returns the input of `iptables-restore` for a load.
    fn text(&self, live: &LiveRuleset, load: &Load) -> String {
        let filter = &[TableName::Filter];
        let owned = &self.intent.owned;
        match (load, &self.transition) {
            (Load::Tables(tables), _) => owned.between(live, &self.wanted(live), tables),
            (Load::Transition, Some(transition)) => {
                let sides = [&self.after, &self.before];
                owned.between(live, &inverse(transition, &sides, live, filter), filter)
            }
            (Load::Transition, None) => String::new(),
        }
    }
}

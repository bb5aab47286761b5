//! Taking a change back, by whoever does it: fwc itself, the watchdog, `rollback`, `recover`.
//!
//! It is computed against live at that moment and can be done again: what is taken back already is left alone.

use super::error::Error;
use super::inverse::inverse;
use super::records::{HistoryEntry, Intent, JournalStep};
use super::store::Store;
use super::{blind, clock, patch, points, sets, table_order};
use crate::fault::{self, Point};
use crate::iptables::TableName;
use crate::live::{self, Host, LiveRuleset};
use crate::net::Family;

/// How long taking back may take before somebody else does it, in milliseconds.
const LONGEST: u64 = 120_000;

/// How often live is read before it counts as unreadable.
const ATTEMPTS: usize = 3;

/// Takes the change back and writes that down. The caller holds the lock.
pub(super) fn undo(
    host: &mut dyn Host,
    store: &Store,
    intent: &Intent,
    why: &str,
) -> Result<(), Error> {
    let journal = store.journal();
    let why_text = why.lines().next().unwrap_or_default().to_owned();
    // The deadline of the change is over, or was for the change alone.
    host.finish_by(None);
    let step = JournalStep::Undoing {
        why: why_text.clone(),
        deadline: clock::since_boot().saturating_add(LONGEST),
    };
    // The firewall comes first: a full disk must not keep the new rules in force.
    let written = journal.write(intent, &step);
    in_kernel(host, intent)?;
    written?;
    points::state(Point::UndoHistory, store)?;
    store
        .history()
        .add(&HistoryEntry::taken_back(intent, &why_text))?;
    journal.write(intent, &JournalStep::Undone)
}

fn in_kernel(host: &mut dyn Host, intent: &Intent) -> Result<(), Error> {
    points::rules(Point::UndoSets).map_err(Error::Live)?;
    // What keeps sets or one family from going back does not keep the others.
    let sets = begin_sets(host, intent);
    let families = Family::ALL.map(|family| family_in_kernel(host, intent, family));
    families.into_iter().collect::<Result<(), Error>>()?;
    let changes = sets?;
    points::rules(Point::UndoSetsFinish).map_err(Error::Live)?;
    // The old rules do not need the new sets; what cannot be removed harms nobody.
    sets::finish(host, &changes);
    Ok(())
}

/// Brings back the sets that the old rules need; what is to be removed afterwards.
fn begin_sets(host: &mut dyn Host, intent: &Intent) -> Result<sets::Changes, Error> {
    let (before, after) = (
        sets::parse(&intent.sets_before)?,
        sets::parse(&intent.sets_after)?,
    );
    let sets = sets::revert(host, before, &after).map_err(Error::Live)?;
    sets::begin(host, &sets).map_err(Error::Live)?;
    Ok(sets.changes())
}

fn family_in_kernel(host: &mut dyn Host, intent: &Intent, family: Family) -> Result<(), Error> {
    let back = Back::new(intent, family)?;
    match by_what_is_live(host, &back) {
        // What cannot be read must not keep the change in force.
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

/// Why a family did not go back.
enum Failed {
    /// Live cannot be read.
    Read,
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Reads live. A tool that somebody killed is run again; one that hangs has had its time.
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

fn points_of(family: Family) -> (Point, Point) {
    match family {
        Family::V4 => (Point::UndoV4, Point::UndoneV4),
        Family::V6 => (Point::UndoV6, Point::UndoneV6),
    }
}

/// Takes the change of one family back by the inverse against live.
fn by_what_is_live(host: &mut dyn Host, back: &Back<'_>) -> Result<(), Failed> {
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
            // Without it packets are lost for an instant; the old rules matter more.
            Err(_) if load == Load::Bridge => {}
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

/// The way back of one family.
struct Back<'a> {
    intent: &'a Intent,
    family: Family,
    before: LiveRuleset,
    after: LiveRuleset,
    bridge: Option<LiveRuleset>,
}

/// A load on the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Load {
    /// The filter goes to the bridge that the change came by.
    Bridge,
    /// These tables go back to what they were.
    Tables(Vec<TableName>),
}

impl<'a> Back<'a> {
    fn new(intent: &'a Intent, family: Family) -> Result<Self, Error> {
        let parse = |text: &str| {
            LiveRuleset::parse(text).map_err(|source| Error::Payload { family, source })
        };
        Ok(Self {
            intent,
            family,
            before: parse(&intent.before[family])?,
            after: parse(&intent.after[family])?,
            bridge: intent.transitions[family]
                .as_deref()
                .map(parse)
                .transpose()?,
        })
    }

    /// Tables that depend on each other go back as they came: through the same states, in the other order. Where others changed
    /// the filter's rules of fwc's since, at once: what they added could not keep its place.
    fn loads(&self, live: &LiveRuleset) -> Vec<Load> {
        let owned = &self.intent.owned;
        let tables = owned.tables(self.family);
        let changed = patch::changed(live, &self.wanted(live), tables);
        let all = Load::Tables(tables.to_vec());
        let filter = |dump: &LiveRuleset| dump.only(&[TableName::Filter]).normal();
        let now = filter(&owned.of(self.family, live));
        let is_crossed = self.bridge.as_ref().is_some_and(|bridge| {
            let mut states = [bridge, &self.after].into_iter();
            states.any(|state| filter(state) == now)
        });
        if !is_crossed || !table_order::depend(&changed) {
            return vec![all];
        }
        let mut others = tables.to_vec();
        others.retain(|table| *table != TableName::Filter);
        others.reverse();
        vec![Load::Bridge, Load::Tables(others), all]
    }

    /// The rulesets that the change went through.
    fn states(&self) -> impl Iterator<Item = &LiveRuleset> {
        std::iter::once(&self.after).chain(&self.bridge)
    }

    /// What live has to become.
    fn wanted(&self, live: &LiveRuleset) -> LiveRuleset {
        let states: Vec<&LiveRuleset> = self.states().collect();
        let tables = self.intent.owned.tables(self.family);
        inverse(&self.before, &states, live, tables)
    }

    /// Input for `iptables-restore` that does it.
    fn text(&self, live: &LiveRuleset, load: &Load) -> String {
        let filter = &[TableName::Filter];
        let owned = &self.intent.owned;
        match (load, &self.bridge) {
            (Load::Tables(tables), _) => owned.between(live, &self.wanted(live), tables),
            (Load::Bridge, Some(bridge)) => {
                let sides = [&self.after, &self.before];
                owned.between(live, &inverse(bridge, &sides, live, filter), filter)
            }
            (Load::Bridge, None) => String::new(),
        }
    }
}

//! Taking a change back, by whoever does it: fwc itself, the watchdog, `rollback`, `recover`.
//!
//! It is computed against live at that moment and can be done again: what is taken back already is left alone.

use super::history::Entry;
use super::inverse::inverse;
use super::journal::{Intent, Step};
use super::transaction::{at, intent_sets};
use super::{Error, Store, sets};
use crate::fault::{self, Point};
use crate::live::{self, Dump, Host};
use crate::net::Family;

/// Takes the change back and writes that down. The caller holds the lock.
pub(super) fn undo(
    host: &mut dyn Host,
    store: &Store,
    intent: &Intent,
    why: &str,
) -> Result<(), Error> {
    let journal = store.journal();
    let why_text = why.lines().next().unwrap_or_default().to_owned();
    let step = Step::Undoing {
        why: why_text.clone(),
    };
    // The firewall comes first: a full disk must not keep the new rules in force.
    let written = journal.write(intent, &step);
    in_kernel(host, intent)?;
    written?;
    at(Point::UndoHistory, store)?;
    store.history().add(&Entry::taken_back(intent, &why_text))?;
    journal.write(intent, &Step::Undone)
}

fn in_kernel(host: &mut dyn Host, intent: &Intent) -> Result<(), Error> {
    let after = intent_sets(&intent.sets_after)?;
    kernel(Point::UndoSets)?;
    let sets =
        sets::revert(host, intent_sets(&intent.sets_before)?, &after).map_err(Error::Live)?;
    sets::begin(host, &sets).map_err(Error::Live)?;
    for (family, before, done) in [
        (Family::V4, Point::UndoV4, Point::UndoneV4),
        (Family::V6, Point::UndoV6, Point::UndoneV6),
    ] {
        let live = host.save(family).map_err(Error::Live)?;
        let wanted = wanted(intent, family, &live)?;
        let tables = intent.owned.tables(family);
        let text = intent.owned.between(&live, &wanted, tables);
        if text.is_empty() {
            continue;
        }
        kernel(before)?;
        let text = fault::spoil(before, &text).unwrap_or(text);
        host.restore(family, &text).map_err(Error::Live)?;
        kernel(done)?;
        kernel(Point::UndoReadBack)?;
        let now = host.save(family).map_err(Error::Live)?;
        let ours = |dump: &Dump| intent.owned.of(family, dump).normal();
        if ours(&now) != ours(&wanted) {
            return Err(Error::Live(live::Error::Io {
                what: format!("{family}: it reads back as something else"),
                source: std::io::Error::other("somebody else changes it at the same time"),
            }));
        }
    }
    kernel(Point::UndoSetsFinish)?;
    // The old rules do not need the new sets; what cannot be removed harms nobody.
    sets::finish(host, &sets.changes());
    Ok(())
}

/// What live has to become.
fn wanted(intent: &Intent, family: Family, live: &Dump) -> Result<Dump, Error> {
    let parse = |text: &str| Dump::parse(text).map_err(|source| Error::Payload { family, source });
    let before = parse(&intent.before[family])?;
    let after = parse(&intent.after[family])?;
    let bridge = intent.bridges[family].as_deref().map(parse).transpose()?;
    let states: Vec<&Dump> = [Some(&after), bridge.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    Ok(inverse(&before, &states, live, intent.owned.tables(family)))
}

fn kernel(point: Point) -> Result<(), Error> {
    fault::at(point).map_err(|source| {
        Error::Live(live::Error::Io {
            what: "cannot change the rules".to_owned(),
            source,
        })
    })
}

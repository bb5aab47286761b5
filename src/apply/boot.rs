//! Loads the last confirmed ruleset when the machine starts. It may run twice, and other programs may load rules as well.
//!
//! There is no journal: the rules before it are not worth restoring, and a second run completes what a first one began. A
//! family that does not load does not keep the other one from being closed.

use std::path::Path;

use super::error::Error;
use super::owned::Owned;
use super::ownership::{Finding, judge};
use super::persist::folders;
use super::records::RulesetFiles;
use super::rulesets::{normal, parse, save};
use super::store::Store;
use super::{absent, disk, panic, points, sets};
use crate::diff::IPSETS_FILE;
use crate::expand::RULES_HEADING;
use crate::fault::Point;
use crate::live::{self, Host, LiveRuleset};
use crate::net::{Family, PerFamily};
use crate::resolve::Ownership;

/// What [`boot`] did with the last confirmed ruleset.
#[derive(Debug)]
pub struct Boot {
    /// Where the ruleset comes from, in words.
    pub from: String,
    /// Why the sets of the rules could not be created.
    pub sets: Result<(), Error>,
    /// How the rules of each family were loaded, or why they are not active.
    pub families: PerFamily<Result<LoadedFrom, Error>>,
}

/// How the rules of a family became active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedFrom {
    /// They were active already.
    Already,
    /// fwc loaded them, and removed these rules that somebody had added to its chains.
    Now(Vec<Finding>),
}

/// Creates the sets and loads the rules of the last confirmed change, unless they are active; `None` if no change was ever
/// confirmed. The caller holds the lock, and has recovered half-done changes.
pub fn boot(host: &mut dyn Host, store: &Store, persist_dir: &Path) -> Result<Option<Boot>, Error> {
    let Some((from, ruleset)) = last_confirmed(store, persist_dir)? else {
        return Ok(None);
    };
    let target = parse(&ruleset.rules)?;
    let owned = Owned::of_files(&target, &ruleset.ownership);
    // A broken record must not leave the host open.
    let made = store.made().unwrap_or_default();
    let boots = store.boots().ok().flatten();
    let sets = make_sets(host, ruleset.sets.as_deref().unwrap_or_default());
    let lives = PerFamily::from_fn(|family| host.save(family));
    let ours = PerFamily::from_fn(|family| {
        let live = lives[family].as_ref().ok();
        live.map(|live| owned.of(family, live)).unwrap_or_default()
    });
    let findings = judge(&ours, &made, &target);
    let mut load =
        |family: Family, live: Result<LiveRuleset, live::Error>| -> Result<LoadedFrom, Error> {
            let live = live.map_err(Error::Live)?;
            if panic::is_on(&live) {
                return Err(Error::PanicIsOn);
            }
            let now = ours[family].normal();
            if host.lacks(family) && absent::closes(&target[family]) {
                return Ok(LoadedFrom::Already);
            }
            let mut known = boots.iter().chain([&target]);
            if known.any(|set| set[family].normal() == now) {
                return Ok(LoadedFrom::Already);
            }
            let of_family = |findings: &[Finding]| -> Vec<Finding> {
                let found = findings.iter().filter(|one| one.family == family);
                found.cloned().collect()
            };
            let others = of_family(&findings.others);
            if !others.is_empty() {
                return Err(Error::Others(others));
            }
            let point = match family {
                Family::V4 => Point::BootV4,
                Family::V6 => Point::BootV6,
            };
            points::rules(point).map_err(Error::Live)?;
            let wanted = owned.with(family, &live, &target[family]);
            let text = owned.between(&live, &wanted, owned.tables(family));
            host.restore(family, &text).map_err(Error::Live)?;
            Ok(LoadedFrom::Now(of_family(&findings.strays)))
        };
    let families = PerFamily {
        v4: load(Family::V4, lives.v4),
        v6: load(Family::V6, lives.v6),
    };
    if families.iter().all(|(_, result)| result.is_ok()) {
        points::state(Point::Booted, store)?;
        let now = save(host)?;
        let ours = PerFamily::from_fn(|family| owned.of(family, &now[family]));
        store.applied(&normal(&ours))?;
    }
    Ok(Some(Boot {
        from,
        sets,
        families,
    }))
}

/// Finds the last confirmed ruleset: in the history, else in files that fwc made. Returns where it comes from as well.
fn last_confirmed(
    store: &Store,
    persist_dir: &Path,
) -> Result<Option<(String, RulesetFiles)>, Error> {
    // A broken history must not leave the host open either.
    if let Ok(Some(entry)) = store.history().last_kept() {
        let from = format!("change {} ({})", entry.number, entry.policy);
        return Ok(entry.ruleset.map(|ruleset| (from, ruleset)));
    }
    let [whole, shared] = folders(persist_dir);
    for (folder, ownership) in [(whole, Ownership::default()), (shared, Ownership::Shared)] {
        let read = |name: &str| disk::read(&folder.join(name));
        let (v4, v6) = (
            read(Family::V4.rules_file())?,
            read(Family::V6.rules_file())?,
        );
        let is_ours = |text: &Option<String>| {
            let first = text.as_ref().and_then(|text| text.lines().next());
            first == Some(RULES_HEADING)
        };
        if is_ours(&v4) && is_ours(&v6) {
            let rules = PerFamily {
                v4: v4.unwrap_or_default(),
                v6: v6.unwrap_or_default(),
            };
            let ruleset = RulesetFiles {
                rules,
                sets: read(IPSETS_FILE)?,
                ownership,
                ..RulesetFiles::default()
            };
            return Ok(Some((
                format!("the files in {}", folder.display()),
                ruleset,
            )));
        }
    }
    Ok(None)
}

/// Creates the missing sets. The members of sets that exist are left to `apply`.
fn make_sets(host: &mut dyn Host, text: &str) -> Result<(), Error> {
    let mut sets = sets::parse(text)?;
    if sets.0.is_empty() {
        return Ok(());
    }
    let there = host.list_sets().map_err(Error::Live)?;
    sets.0.retain(|name, _| !there.contains_key(name));
    if sets.0.is_empty() {
        return Ok(());
    }
    points::rules(Point::BootSets).map_err(Error::Live)?;
    host.change_sets(&sets.text()).map_err(Error::Live)
}

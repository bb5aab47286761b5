//! Loading what was confirmed last, when the machine starts: idempotent, and beside whoever else loads rules.
//!
//! No journal: nothing that was there is worth going back to, and a second run does what is missing. What can be closed is closed:
//! a family that does not load leaves the other one alone.

use std::path::Path;

use super::error::Error;
use super::owned::Owned;
use super::ownership::{Finding, judge};
use super::persist::folders;
use super::records::RulesetFiles;
use super::rulesets::{normal, parse, save};
use super::store::Store;
use super::{absent, panic, points};
use crate::diff::IPSETS_FILE;
use crate::expand::RULES_HEADING;
use crate::fault::Point;
use crate::files::read_kept;
use crate::live::{self, Host, Ipsets, LiveRuleset};
use crate::net::{Family, PerFamily};
use crate::resolve::Ownership;

/// What became of the ruleset that was confirmed last.
#[derive(Debug)]
pub struct Boot {
    /// Where it comes from, in words.
    pub from: String,
    /// Why sets could not be made that the rules need.
    pub sets: Result<(), Error>,
    /// What became of the rules; an error says what is not in force.
    pub families: PerFamily<Result<LoadedFrom, Error>>,
}

/// How the rules of a family came into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedFrom {
    /// They were.
    Already,
    /// They were loaded, and rules went that somebody had put among fwc's.
    Now(Vec<Finding>),
}

/// Makes the sets and loads the rules that were confirmed last, where they are not in force; `None` where nothing was
/// confirmed. The caller holds the lock, and has ended what was half done.
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
            let is = ours[family].normal();
            if host.lacks(family) && absent::closes(&target[family]) {
                return Ok(LoadedFrom::Already);
            }
            let mut known = boots.iter().chain([&target]);
            if known.any(|set| set[family].normal() == is) {
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

/// The ruleset that was confirmed last: of the history, else of files that fwc made.
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
        let read = |name: &str| {
            let path = folder.join(name);
            read_kept(&path).map_err(|error| Error::io("cannot read", &path, error))
        };
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
                after_apply: Vec::new(),
            };
            return Ok(Some((
                format!("the files in {}", folder.display()),
                ruleset,
            )));
        }
    }
    Ok(None)
}

/// Makes the sets that are not there; what is in the others is left to `apply`.
fn make_sets(host: &mut dyn Host, text: &str) -> Result<(), Error> {
    let mut sets = Ipsets::parse(text).map_err(Error::Sets)?;
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

//! The transaction that puts a ruleset in force, and how each of its promises is met.
//!
//! 1. *Nothing is loaded that the kernel would refuse or change*: [`plan`] loads the payload in a scratch network namespace
//!    and takes what is read back there as the target.
//! 2. *What is right already is not touched*, not even counters: families whose live rules equal the target are left alone.
//! 3. *Nobody else's rules are removed silently*: [`ownership`](Findings) compares live with what fwc made.
//! 4. *Sets and both families, or none*: when one fails, or reads back as something else, all go back to what they were,
//!    with counters.
//! 5. *What was decided on is what is replaced*: [`commit`] reads live again and stops when it changed since [`plan`].
//! 6. *Sets are part of it*: what the rules name is there before them, what they no longer name goes after them, and what
//!    others put into a set stays in it.
//! 7. *Files are old or new*: they are on disk before the commit, and renamed after the read-back. Files that were there
//!    before fwc's first are kept beside them.
//!
//! Not promised yet: a process that is killed between the commits (sets, IPv4, IPv6) leaves some old and some new.

mod error;
mod ownership;
mod persist;
mod sets;
mod store;

use std::path::{Path, PathBuf};

pub use error::{Error, Undo};
pub use ownership::{Finding, Findings, What};
pub use sets::Changes;
pub use store::{Lock, Store};

use crate::diag::Style;
use crate::diff::{self, Side};
use crate::live::{Dump, Host, Sets, Table};
use crate::net::{Family, PerFamily};
use persist::Persisted;
use sets::{Compared, Work};

/// What is to be in force.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Complete rules files: they declare every built-in chain of every table that fwc owns.
    pub payload: &'a PerFamily<String>,
    /// The sets that they name, for `ipset restore`, but for others'; `None` where there are none.
    pub sets: Option<&'a str>,
    /// Where rules.v4, rules.v6 and ipsets are kept for the next boot.
    pub persist_dir: &'a Path,
    /// Remove others' rules.
    pub take_over: bool,
}

/// What a commit would do. Nothing was touched to find it out.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    request: Request<'a>,
    /// The tables that the payload replaces.
    tables: PerFamily<Vec<Table>>,
    /// The live rules of these tables.
    live: PerFamily<String>,
    /// The same, as they will be.
    target: PerFamily<String>,
    sets: Compared,
    findings: Findings,
    persisted: Persisted<'a>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The families whose live rules were replaced.
    pub replaced: Vec<Family>,
    /// The sets that were made, changed, removed.
    pub sets: Changes,
    /// Sets that the policy does not need, and that could not be removed: why.
    pub left: Vec<String>,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The files that went, because the policy does not need them.
    pub deleted: Vec<PathBuf>,
    /// Where files that fwc did not write, and that were in their places, are now.
    pub kept: Vec<PathBuf>,
}

/// Rehearses the payload and compares it with live; stops at others' rules unless they are to be taken over.
pub fn plan<'a>(host: &dyn Host, store: &Store, request: Request<'a>) -> Result<Plan<'a>, Error> {
    let payload = request.payload;
    let dumps = parse(payload)?;
    let tables = PerFamily::from_fn(|family| dumps[family].tables().collect::<Vec<_>>());
    let own = request.sets.unwrap_or_default();
    let (rehearsed, compared) = sets::rehearse(host, payload, own, &dumps)?;
    let target = PerFamily::from_fn(|family| {
        let dump = rehearsed.rules[family].clone().unwrap_or_default();
        dump.only(&tables[family])
    });
    let live = save(host, &tables)?;
    let findings = if normal(&live) == normal(&target) {
        Findings::default()
    } else {
        ownership::judge(&live, &store.made()?, &target)
    };
    if !findings.others.is_empty() && !request.take_over {
        return Err(Error::Others(findings.others));
    }
    let sets = sets::compare(host, &live, compared)?;
    let persisted = Persisted::compare(request.persist_dir, payload, request.sets)?;
    Ok(Plan {
        request,
        tables,
        live: normal(&live),
        target: normal(&target),
        sets,
        findings,
        persisted,
    })
}

impl Plan<'_> {
    /// The families whose live rules differ from the target.
    pub fn replaced(&self) -> Vec<Family> {
        let mut families = Family::ALL.to_vec();
        families.retain(|&family| self.live[family] != self.target[family]);
        families
    }

    /// The sets that differ.
    pub fn sets(&self) -> Changes {
        self.sets.changes()
    }

    /// The files that differ from the payload.
    pub fn stale_files(&self) -> Vec<PathBuf> {
        self.persisted.stale()
    }

    /// The files that the policy does not need.
    pub fn needless_files(&self) -> Vec<PathBuf> {
        self.persisted.needless()
    }

    /// Whether nothing is to be done.
    pub fn is_nothing(&self) -> bool {
        self.persisted.is_right() && !self.changes_live()
    }

    /// Whether rules or sets in the kernel are to be changed.
    pub fn changes_live(&self) -> bool {
        !self.replaced().is_empty() || !self.sets().is_empty()
    }

    /// What of others' and of strays will be removed.
    pub fn removed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.others.iter().chain(&self.findings.strays)
    }

    /// The unified diff from live to the target: sets, and both families.
    pub fn diff(&self, style: Style) -> String {
        let names = ["live", "policy"];
        compare_sets(&self.sets.live, &self.sets.target, names, style)
            + &compare(&self.live, &self.target, names, style)
    }
}

/// Puts the plan in force, or changes nothing.
///
/// The caller holds the [`Lock`] since before [`plan`].
pub fn commit(host: &mut dyn Host, store: &Store, plan: &Plan<'_>) -> Result<Done, Error> {
    let staged = plan.persisted.stage(!store.has_persisted())?;
    let mut done = Done {
        replaced: plan.replaced(),
        sets: plan.sets(),
        ..Done::default()
    };
    if plan.changes_live() {
        done.left = replace(host, store, plan, &done.replaced)?;
    }
    staged.publish(&mut done)?;
    store
        .applied(&plan.target)
        .and_then(|()| store.persisted(&plan.target))
        .map_err(|error| Error::NotRecorded(Box::new(error)))?;
    Ok(done)
}

/// Changes sets and rules, or nothing; returns which sets could not be removed.
fn replace(
    host: &mut dyn Host,
    store: &Store,
    plan: &Plan<'_>,
    families: &[Family],
) -> Result<Vec<String>, Error> {
    let snapshot = save(host, &plan.tables)?;
    let sets_now = plan.sets.read(host).map_err(Error::Live)?;
    if normal(&snapshot) != plan.live || sets_now != plan.sets.live {
        return Err(Error::LiveChanged);
    }
    let before = PerFamily::from_fn(|family| snapshot[family].restore_text(&plan.tables[family]));
    store.intend(&plan.target, &before)?;
    let mut sets = Work::default();
    let result = match sets.begin(host, &plan.sets) {
        Ok(()) => load(host, plan, families),
        Err(cause) => Err((Failure::Load(cause), Vec::new())),
    };
    let Err((failure, touched)) = result else {
        return Ok(sets.finish(host, &plan.sets));
    };
    let undo = undo(host, store, plan, &before, &touched, sets);
    Err(match failure {
        Failure::Load(cause) => Error::Commit { cause, undo },
        Failure::Differs(diff) => Error::ReadBack { diff, undo },
    })
}

enum Failure {
    Load(crate::live::Error),
    Differs(String),
}

/// Loads the families in order and reads back; with an error also come the families that may have changed.
fn load(
    host: &mut dyn Host,
    plan: &Plan<'_>,
    families: &[Family],
) -> Result<(), (Failure, Vec<Family>)> {
    let mut touched = Vec::new();
    for &family in families {
        touched.push(family);
        if let Err(cause) = host.restore(family, &plan.request.payload[family]) {
            return Err((Failure::Load(cause), touched));
        }
    }
    match read_back(host, plan) {
        Ok(None) => Ok(()),
        Ok(Some(diff)) => Err((Failure::Differs(diff), touched)),
        Err(Error::Live(cause)) => Err((Failure::Load(cause), touched)),
        Err(other) => Err((Failure::Differs(other.to_string()), touched)),
    }
}

/// The difference from the target to what is live; `None` without one.
fn read_back(host: &dyn Host, plan: &Plan<'_>) -> Result<Option<String>, Error> {
    let names = ["rehearsed", "read back"];
    let rules = normal(&save(host, &plan.tables)?);
    let mut sets = plan.sets.read(host).map_err(Error::Live)?;
    // Those that go are still there.
    let target = &plan.sets.target;
    sets.0.retain(|name, _| target.0.contains_key(name));
    if rules == plan.target && sets == *target {
        return Ok(None);
    }
    let diff = compare_sets(target, &sets, names, Style::Plain);
    Ok(Some(
        diff + &compare(&plan.target, &rules, names, Style::Plain),
    ))
}

fn undo(
    host: &mut dyn Host,
    store: &Store,
    plan: &Plan<'_>,
    before: &PerFamily<String>,
    touched: &[Family],
    sets: Work,
) -> Undo {
    let mut failed = Vec::new();
    for &family in touched {
        let restored = host.restore(family, &before[family]);
        let now = host.save(family);
        let now = now.map(|dump| dump.only(&plan.tables[family]).normal());
        let reason = match (restored, now) {
            // Also where the load failed before it began, and the undo for the same reason: a lock that is held.
            (_, Ok(now)) if now == plan.live[family] => continue,
            (Err(error), _) | (Ok(()), Err(error)) => error.to_string(),
            (Ok(()), Ok(_)) => format!("{family}: it reads back as something else"),
        };
        let tool = match family {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        };
        let file = store.before(family);
        let command = format!("{tool} --counters < {}", file.display());
        failed.push((reason, command));
    }
    // The old rules do not need the new sets.
    failed.extend(sets.undo(host, &plan.sets));
    if failed.is_empty() {
        // If this fails, the next run only knows one ruleset more than it needs.
        let _ = store.forget_intention();
        Undo::Complete
    } else {
        Undo::Failed(failed)
    }
}

fn parse(payload: &PerFamily<String>) -> Result<PerFamily<Dump>, Error> {
    let read = |family| {
        let text: &String = &payload[family];
        Dump::parse(text).map_err(|source| Error::Payload { family, source })
    };
    Ok(PerFamily {
        v4: read(Family::V4)?,
        v6: read(Family::V6)?,
    })
}

fn save(host: &dyn Host, tables: &PerFamily<Vec<Table>>) -> Result<PerFamily<Dump>, Error> {
    let read = |family| -> Result<Dump, Error> {
        let dump = host.save(family).map_err(Error::Live)?;
        Ok(dump.only(&tables[family]))
    };
    Ok(PerFamily {
        v4: read(Family::V4)?,
        v6: read(Family::V6)?,
    })
}

fn normal(dumps: &PerFamily<Dump>) -> PerFamily<String> {
    PerFamily::from_fn(|family| dumps[family].normal())
}

fn compare_sets(from: &Sets, to: &Sets, [from_name, to_name]: [&str; 2], style: Style) -> String {
    let (from_name, to_name) = (format!("{from_name} (sets)"), format!("{to_name} (sets)"));
    let diff = diff::unified(
        Side {
            name: &from_name,
            text: &from.text(),
        },
        Side {
            name: &to_name,
            text: &to.text(),
        },
        style,
    );
    diff.unwrap_or_default()
}

fn compare(
    from: &PerFamily<String>,
    to: &PerFamily<String>,
    [from_name, to_name]: [&str; 2],
    style: Style,
) -> String {
    Family::ALL
        .into_iter()
        .filter_map(|family| {
            diff::unified(
                Side {
                    name: &format!("{from_name} ({family})"),
                    text: &from[family],
                },
                Side {
                    name: &format!("{to_name} ({family})"),
                    text: &to[family],
                },
                style,
            )
        })
        .collect()
}

#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod tests;

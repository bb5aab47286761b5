//! The transaction that puts a ruleset in force, and how each of its promises is met.
//!
//! 1. *Nothing is loaded that the kernel would refuse or change*: [`plan`] loads the payload in a scratch network namespace
//!    and takes what is read back there as the target.
//! 2. *What is right already is not touched*, not even counters: families whose live rules equal the target are left alone.
//! 3. *Nobody else's rules are removed silently*: [`ownership`](Findings) compares live with what fwc made.
//! 4. *Both families or none*: when one fails, or reads back as something else, both go back to what they were, with
//!    counters.
//! 5. *What was decided on is what is replaced*: [`commit`] reads live again and stops when it changed since [`plan`].
//! 6. *Files are old or new*: they are on disk before the commit, and renamed after the read-back. Files that were there
//!    before fwc's first are kept beside them.
//!
//! Not promised yet: a process that is killed between the two families' commits leaves one old and one new.

mod error;
mod ownership;
mod store;

use std::path::{Path, PathBuf};

pub use error::{Error, Undo};
pub use ownership::{Finding, Findings, What};
pub use store::{Lock, Store};

use crate::diag::Style;
use crate::diff::{self, Side};
use crate::files::{Staged, create_folder, read_if_there};
use crate::live::{Dump, Host, Table};
use crate::net::{Family, PerFamily};

/// What is to be in force.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Complete rules files: they declare every built-in chain of every table that fwc owns.
    pub payload: &'a PerFamily<String>,
    /// Where rules.v4 and rules.v6 are kept for the next boot.
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
    findings: Findings,
    stale: Vec<Family>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The families whose live rules were replaced.
    pub replaced: Vec<Family>,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// Where files that fwc did not write, and that were in their places, are now.
    pub kept: Vec<PathBuf>,
}

/// Rehearses the payload and compares it with live; stops at others' rules unless they are to be taken over.
pub fn plan<'a>(host: &dyn Host, store: &Store, request: Request<'a>) -> Result<Plan<'a>, Error> {
    let payload = request.payload;
    let tables = tables(payload)?;
    let rehearsed = host
        .rehearse(&PerFamily::from_fn(|family| Some(payload[family].clone())))
        .map_err(Error::Rehearsal)?;
    let target = PerFamily::from_fn(|family| {
        let dump = rehearsed[family].clone().unwrap_or_default();
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
    let mut stale = Vec::new();
    for family in Family::ALL {
        let path = request.persist_dir.join(family.rules_file());
        let text = read_if_there(&path).map_err(|error| Error::io("cannot read", &path, error))?;
        if text.as_ref() != Some(&payload[family]) {
            stale.push(family);
        }
    }
    Ok(Plan {
        request,
        tables,
        live: normal(&live),
        target: normal(&target),
        findings,
        stale,
    })
}

impl Plan<'_> {
    /// The families whose live rules differ from the target.
    pub fn replaced(&self) -> Vec<Family> {
        let mut families = Family::ALL.to_vec();
        families.retain(|&family| self.live[family] != self.target[family]);
        families
    }

    /// The rules files that differ from the payload.
    pub fn stale_files(&self) -> Vec<PathBuf> {
        self.stale.iter().map(|&family| self.file(family)).collect()
    }

    /// Whether nothing is to be done.
    pub fn is_nothing(&self) -> bool {
        self.stale.is_empty() && self.replaced().is_empty()
    }

    /// What of others' and of strays will be removed.
    pub fn removed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.others.iter().chain(&self.findings.strays)
    }

    /// The unified diff from live to the target, both families.
    pub fn diff(&self, style: Style) -> String {
        compare(&self.live, &self.target, ["live", "policy"], style)
    }

    fn file(&self, family: Family) -> PathBuf {
        self.request.persist_dir.join(family.rules_file())
    }
}

/// Puts the plan in force, or changes nothing.
///
/// The caller holds the [`Lock`] since before [`plan`].
pub fn commit(host: &mut dyn Host, store: &Store, plan: &Plan<'_>) -> Result<Done, Error> {
    let staged = stage(plan)?;
    let replaced = plan.replaced();
    if !replaced.is_empty() {
        replace(host, store, plan, &replaced)?;
    }
    let not_persisted = |error: std::io::Error| {
        let folder = plan.request.persist_dir.display();
        Error::NotPersisted(format!("cannot write to {folder}: {error}"))
    };
    let (mut written, mut kept) = (Vec::new(), Vec::new());
    for file in staged {
        if !store.has_persisted() {
            kept.extend(file.keep_old().map_err(not_persisted)?);
        }
        written.push(file.publish().map_err(not_persisted)?);
    }
    store
        .applied(&plan.target)
        .and_then(|()| store.persisted(&plan.target))
        .map_err(|error| Error::NotRecorded(Box::new(error)))?;
    Ok(Done {
        replaced,
        written,
        kept,
    })
}

/// Puts the files on disk beside their places: a folder that cannot be written stops everything before the kernel is asked.
fn stage(plan: &Plan<'_>) -> Result<Vec<Staged>, Error> {
    if plan.stale.is_empty() {
        return Ok(Vec::new());
    }
    let folder = plan.request.persist_dir;
    create_folder(folder, 0o755)
        .map_err(|error| Error::io("cannot make the folder", folder, error))?;
    plan.stale
        .iter()
        .map(|&family| {
            let path = plan.file(family);
            Staged::new(&path, &plan.request.payload[family], 0o640)
                .map_err(|error| Error::io("cannot write", &path, error))
        })
        .collect()
}

fn replace(
    host: &mut dyn Host,
    store: &Store,
    plan: &Plan<'_>,
    families: &[Family],
) -> Result<(), Error> {
    let snapshot = save(host, &plan.tables)?;
    if normal(&snapshot) != plan.live {
        return Err(Error::LiveChanged);
    }
    let before = PerFamily::from_fn(|family| snapshot[family].restore_text(&plan.tables[family]));
    store.intend(&plan.target, &before)?;
    let result = load(host, plan, families);
    let Err((failure, touched)) = result else {
        return Ok(());
    };
    let undo = undo(host, store, plan, &before, &touched);
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
    match save(host, &plan.tables) {
        Ok(now) if normal(&now) == plan.target => Ok(()),
        Ok(now) => {
            let names = ["rehearsed", "read back"];
            let diff = compare(&plan.target, &normal(&now), names, Style::Plain);
            Err((Failure::Differs(diff), touched))
        }
        Err(Error::Live(cause)) => Err((Failure::Load(cause), touched)),
        Err(other) => Err((Failure::Differs(other.to_string()), touched)),
    }
}

fn undo(
    host: &mut dyn Host,
    store: &Store,
    plan: &Plan<'_>,
    before: &PerFamily<String>,
    touched: &[Family],
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
        failed.push((reason, store.before(family)));
    }
    if failed.is_empty() {
        // If this fails, the next run only knows one ruleset more than it needs.
        let _ = store.forget_intention();
        Undo::Complete
    } else {
        Undo::Failed(failed)
    }
}

/// The tables that each payload names.
fn tables(payload: &PerFamily<String>) -> Result<PerFamily<Vec<Table>>, Error> {
    let read = |family| {
        let text: &String = &payload[family];
        Dump::parse(text)
            .map(|dump| dump.tables().collect())
            .map_err(|source| Error::Payload { family, source })
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
mod tests;

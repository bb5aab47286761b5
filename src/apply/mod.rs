//! The transaction that puts a ruleset in force, and how each of its goals is met.
//!
//! 1. *Nothing is loaded that the kernel would refuse or change*: [`plan`] loads the payload in a scratch network namespace
//!    and takes what is read back there as the target; then it loads a copy of live there, and exactly the edits that
//!    [`commit`] will make, which have to give the target.
//! 2. *What is right already is not touched*, not even counters: [`patch`] writes the chains that change and no others, with
//!    the counters of rules that stay.
//! 3. *Nobody else's rules are removed silently*: [`ownership`](Findings) compares live with what fwc made, and [`Owned`] says
//!    which parts of live may be changed at all.
//! 4. *Sets and both families, or none*: when one fails, or reads back as something else, the change is taken back.
//! 5. *Taking back is not a restore of a snapshot*: [`inverse`] computes what live has to become so that our change is gone
//!    and what others did since stays.
//! 6. *What was decided on is what is replaced*: [`commit`] reads live again and stops when it changed since [`plan`].
//! 7. *Whatever dies, somebody can end it*: the [`journal`] says on disk what is about to happen before it does. The
//!    [`watchdog`] takes the change back when fwc dies or nobody confirms in time; when it dies too, [`recover`] does, which
//!    every later fwc runs first.
//! 8. *Sets are part of it*: what the rules name is there before them, what they no longer name goes after the confirmation,
//!    and what others put into a set stays in it.
//! 9. *Files are old or new*: they are on disk before the commit, and renamed after the confirmation, so that a restart before it
//!    brings the old firewall. Files that were there before fwc's first are kept beside them.
//! 10. *Nobody locks himself out*: the connection that the user sits on has to pass the rules to come, and a new one like it
//!     too, and what carries the tunnel that they come through ([`Lockout`]).
//! 11. *Hooks are no part of it*: they run when the change cannot go back any more, and whatever becomes of them it stays
//!     ([`run_owed`]). What was not run to a good end is written down.
//! 12. *One at a time*: a [`Lock`] for each network namespace.
//!
//! Each goal is tested at each [`Point`](crate::fault::Point) where something can die or fail.

mod boot;
mod clock;
mod cut;
mod dominance;
mod error;
mod guard;
mod history;
mod hooks;
mod inverse;
mod journal;
mod owned;
mod ownership;
pub mod panic;
mod patch;
mod persist;
mod phases;
mod plan_file;
mod recover;
mod sets;
mod status;
mod store;
mod transaction;
mod undo;
mod unrehearsed;
pub mod watchdog;

use std::path::{Path, PathBuf};

pub use boot::{Boot, Loaded, boot};
pub use clock::since_boot;
pub use error::{Error, Undo};
pub use guard::Lockout;
pub use history::{Entry, History, Outcome};
pub use hooks::{Hook, Owed, OwedHook, Ran, TIME_OUT as HOOK_TIME_OUT, Watcher, run_owed};
pub use journal::{Intent, Journal, Ruleset, Step};
pub use owned::Owned;
pub use ownership::{Finding, Findings, What};
pub use plan_file::PlanFile;
pub use recover::{Recovered, confirm, recover, take_back};
pub use sets::Changes;
pub use status::{ChainDrift, Drift, FileChange, FileDrift, Moved, RuleDrift, Status, status};
pub use store::{Lock, Store};
pub use transaction::{Confirmation, Guard, Progress, commit};

use crate::diag::Style;
use crate::diff::{self, Side};
use crate::live::connection::{Connection, Seat};
use crate::live::preflight::{self, Concern};
use crate::live::{self, Dump, Host, Payload, Sets, Table};
use crate::net::{Family, PerFamily};
use crate::policy::CommandLine;
use persist::Persisted;
use phases::Width;
use sets::Compared;
use transaction::save;
use unrehearsed::printed;

/// What is to be in force.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Complete rules files: they declare every built-in chain of every table that fwc owns. And the sets that they name, for
    /// `ipset restore`, but for others'.
    pub ruleset: &'a Ruleset,
    /// Where it comes from, in words for the history.
    pub policy: &'a str,
    /// Where rules.v4, rules.v6 and ipsets are kept for the next boot.
    pub persist_dir: &'a Path,
    /// What the user insists on.
    pub insist: Insist,
}

/// What the user insists on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Insist {
    /// Remove others' rules.
    pub take_over: bool,
    /// Stop where rules would go that somebody put among fwc's.
    pub keep_stray: bool,
    /// Go on where nothing can be rehearsed.
    pub no_rehearse: bool,
}

/// What a commit would do. Nothing was touched to find it out.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    request: Request<'a>,
    /// The parts of live that may be changed.
    owned: Owned,
    /// These parts as they are.
    live: PerFamily<String>,
    /// The same, as they will be.
    target: PerFamily<String>,
    /// The filter tables between the phases, as they are loaded.
    bridges: PerFamily<Option<String>>,
    /// The same, in the kernel's form.
    bridged: PerFamily<Option<String>>,
    /// The families whose filter lets through only what both rulesets do between the phases.
    narrow: Vec<Family>,
    /// The families whose tables change one after another without a step between, and whether packets can get through meanwhile
    /// that neither ruleset lets through.
    loose: Vec<(Family, bool)>,
    sets: Compared,
    findings: Findings,
    persisted: Persisted<'a>,
    /// The files in the places of fwc's that a tool wrote which saves live rules.
    saved_by_others: Vec<PathBuf>,
    /// Why nothing was rehearsed, where that was insisted on.
    unrehearsed: Option<String>,
}

/// A load of one family.
struct Edit {
    /// For `iptables-restore --noflush --counters`.
    text: String,
    phase: Phase,
}

/// What a load leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The filter table between the phases.
    Bridge,
    /// The tables as they will be.
    Target,
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
    let (mut plan, snapshot) = compare_with_live(host, store, request)?;
    if !plan.replaced().is_empty() {
        plan.rehearse_edits(host, &snapshot)?;
    }
    Ok(plan)
}

/// The plan, with edits that were not tried yet, and live as it was.
fn compare_with_live<'a>(
    host: &dyn Host,
    store: &Store,
    request: Request<'a>,
) -> Result<(Plan<'a>, PerFamily<Dump>), Error> {
    let payload = &request.ruleset.rules;
    let dumps = parse(payload)?;
    let owned = Owned::of_files(&dumps, &request.ruleset.ownership);
    let own_sets = request.ruleset.sets.as_deref();
    let mut unrehearsed = None;
    let mut rehearse = |payload: &Payload| match host.rehearse(payload) {
        Err(live::Error::NoScratch(why)) if request.insist.no_rehearse => {
            unrehearsed = Some(why);
            printed(payload)
        }
        result => result.map_err(Error::Rehearsal),
    };
    let own_sets = own_sets.unwrap_or_default();
    let (rehearsed, compared) = sets::rehearse(host, &mut rehearse, payload, own_sets, &dumps)?;
    let target = PerFamily::from_fn(|family| {
        let dump = rehearsed.rules[family].clone().unwrap_or_default();
        owned.of(family, &dump)
    });
    let snapshot = save(host)?;
    let live = PerFamily::from_fn(|family| owned.of(family, &snapshot[family]));
    let findings = if normal(&live) == normal(&target) {
        Findings::default()
    } else {
        ownership::judge(&live, &store.made()?, &target)
    };
    if !findings.others.is_empty() && !request.insist.take_over {
        return Err(Error::Others(findings.others));
    }
    if !findings.strays.is_empty() && request.insist.keep_stray {
        return Err(Error::Strays(findings.strays));
    }
    let sets = sets::compare(host, &live, compared)?;
    let persisted = Persisted::compare(request.persist_dir, request.ruleset)?;
    let plan = Plan {
        request,
        owned,
        live: normal(&live),
        target: normal(&target),
        bridges: PerFamily::default(),
        bridged: PerFamily::default(),
        narrow: Vec::new(),
        loose: Vec::new(),
        sets,
        findings,
        saved_by_others: match store.has_persisted() {
            true => persisted.saved_by_others(),
            false => Vec::new(),
        },
        persisted,
        unrehearsed,
    };
    Ok((plan, snapshot))
}

impl Plan<'_> {
    /// Makes exactly the edits of the commit on a copy of live in a scratch namespace.
    fn rehearse_edits(&mut self, host: &dyn Host, snapshot: &PerFamily<Dump>) -> Result<(), Error> {
        let mut payload = Payload {
            sets: self.sets.stand_ins(host, snapshot).map_err(Error::Live)?,
            ..Payload::default()
        };
        for family in Family::ALL {
            let live = &snapshot[family];
            self.bridges[family] = self.bridge(family, live).map_err(Error::Rehearsal)?;
            payload.rules[family] = Some(live.restore_text(self.owned.tables(family)));
            let edits = self.edits(family, live).map_err(Error::Rehearsal)?;
            payload.edits[family] = edits.into_iter().map(|edit| edit.text).collect();
        }
        if self.unrehearsed.is_some() {
            for family in Family::ALL {
                let bridge = self.bridges[family].as_deref().map(Dump::parse).transpose();
                let bridge = bridge.map_err(|source| Error::Payload { family, source })?;
                self.bridged[family] = bridge.map(|bridge| self.owned.of(family, &bridge).normal());
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

    /// The filter table between the phases, where the change of a family needs them.
    fn bridge(&mut self, family: Family, live: &Dump) -> Result<Option<String>, live::Error> {
        let target = self.target_of(family, live)?;
        let changed = patch::changed(live, &target, self.owned.tables(family));
        if !phases::depend(&changed) {
            return Ok(None);
        }
        let bridge = |width| phases::bridge(live, &target, family, width).ok();
        // It would write others' rules, and rules that only the kernel understands have none: then the tables change one after
        // another.
        let either = bridge(Width::Either).filter(|_| !self.owned.is_beside_others());
        let Some(either) = either else {
            let opens = phases::opens(live, &target, live, &changed, family);
            self.loose.push((family, opens.unwrap_or(true)));
            return Ok(None);
        };
        let between =
            Dump::parse(&either).map_err(|source| live::Error::Unreadable { family, source })?;
        match phases::opens(live, &target, &between, &changed, family) {
            Ok(false) => Ok(Some(either)),
            // Where nobody can tell, too: rather a packet lost for an instant than one let through.
            Ok(true) | Err(_) => {
                self.narrow.push(family);
                Ok(bridge(Width::Both))
            }
        }
    }

    /// What leads from live to the target, one after another.
    fn edits(&self, family: Family, live: &Dump) -> Result<Vec<Edit>, live::Error> {
        let target = self.target_of(family, live)?;
        let tables = self.owned.tables(family);
        let edit = |from: &Dump, to: &Dump, tables: &[Table], phase| Edit {
            text: self.owned.between(from, to, tables),
            phase,
        };
        let Some(bridge) = &self.bridges[family] else {
            let all = edit(live, &target, tables, Phase::Target);
            return Ok(Vec::from_iter((!all.text.is_empty()).then_some(all)));
        };
        let bridge =
            Dump::parse(bridge).map_err(|source| live::Error::Unreadable { family, source })?;
        // What stays counts on, though the bridge may not have it.
        let carried = patch::carry(live, &target, tables);
        let filter = &[Table::Filter];
        let bridge = patch::carry(live, &bridge, filter);
        let others: Vec<_> = tables
            .iter()
            .copied()
            .filter(|table| *table != Table::Filter)
            .collect();
        Ok(vec![
            edit(live, &bridge, filter, Phase::Bridge),
            edit(live, &target, &others, Phase::Target),
            edit(&bridge, &carried, filter, Phase::Target),
        ])
    }

    /// What the whole of a family's live rules will be.
    fn target_of(&self, family: Family, live: &Dump) -> Result<Dump, live::Error> {
        let target = Dump::parse(&self.target[family])
            .map_err(|source| live::Error::Unreadable { family, source })?;
        Ok(self.owned.with(family, live, &target))
    }

    /// What of the user's connections the rules to come would stop, or of the tunnels that carry them.
    pub fn lockouts(&self, host: &dyn Host, seat: &Seat) -> Result<Vec<Lockout>, Error> {
        guard::check(host, seat, self)
    }

    /// The families whose tables change one after another without a step between them, so that packets can be lost for some
    /// milliseconds; and whether others can get through meanwhile that neither ruleset lets through, or nobody can tell.
    pub fn loose(&self) -> &[(Family, bool)] {
        &self.loose
    }

    /// The TCP connections of this host that could not begin under the rules to come; never those that the user sits on.
    pub fn denied(&self, host: &dyn Host, seat: &Seat) -> Result<Vec<Connection>, Error> {
        cut::denied(host, seat, self)
    }

    /// What makes the rules to come mean something else than they say.
    pub fn concerns(&self, host: &dyn Host) -> Result<Vec<Concern>, Error> {
        let live = save(host)?;
        let mut found = preflight::look(&live, &parse(&self.target)?);
        for family in Family::ALL {
            let all = self.target_of(family, &live[family]).map_err(Error::Live)?;
            found.extend(dominance::look(&self.owned, family, &all));
        }
        found.extend(self.saved_by_others.iter().map(|path| Concern {
            name: "saved-by-others",
            what: format!(
                "{} was written by iptables-save (`netfilter-persistent save`?) after fwc wrote it",
                path.display()
            ),
            advice: "`fwc apply` writes its own again; with fwc nobody has to save the rules"
                .to_owned(),
        }));
        Ok(found)
    }

    /// The families in which packets that the old and the new rules let through can be lost for some milliseconds, because
    /// otherwise others would get through.
    pub fn narrow(&self) -> &[Family] {
        &self.narrow
    }

    /// Why nothing was rehearsed.
    pub fn unrehearsed(&self) -> Option<&str> {
        self.unrehearsed.as_deref()
    }

    /// The families whose live rules differ from the target.
    pub fn replaced(&self) -> Vec<Family> {
        let mut families = Family::ALL.to_vec();
        families.retain(|&family| self.live[family] != self.target[family]);
        families
    }

    /// What is run when the change stays.
    pub fn after_apply(&self) -> &[CommandLine] {
        &self.request.ruleset.after_apply
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

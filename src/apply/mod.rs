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

mod absent;
mod blind;
mod boot;
mod clock;
mod close_connections;
mod disk;
mod dominance;
mod error;
mod guard;
mod history;
mod hooks;
mod in_force;
mod inverse;
mod journal;
mod loads;
mod lock;
mod lockout;
mod owed;
mod owned;
mod ownership;
pub mod panic;
mod patch;
mod persist;
mod plan_file;
mod records;
mod recover;
mod sets;
mod status;
mod store;
mod table_order;
mod transaction;
mod transition_filter;
mod undo;
mod unrehearsed;
pub mod watchdog;

use std::path::{Path, PathBuf};

pub use boot::{Boot, LoadedFrom, boot};
pub use clock::since_boot;
pub use close_connections::{DeniedConnections, SocketlessConnection};
pub use error::{Error, Undo};
pub use history::History;
pub use hooks::{HookRun, Ran, TIME_OUT as HOOK_TIME_OUT, Watcher, run_owed};
pub use journal::Journal;
pub use lock::Lock;
pub use lockout::Lockout;
pub use owned::Owned;
pub use ownership::{Finding, FindingKind, Findings};
pub use plan_file::PlanFile;
pub use records::{
    HistoryEntry, Intent, JournalStep, Owed, OwedHook, RulesetFiles, TransactionOutcome,
};
pub use recover::{Recovered, confirm, lock_to_take_back, recover, take_back};
pub use sets::Changes;
pub use status::{
    ChainDrift, Drift, FileChange, FileDrift, RuleDrift, RuleDriftKind, Status, status,
};
pub use store::Store;
pub use table_order::Gap;
pub use transaction::{Confirmation, Guard, Progress, commit};

use crate::diag::{Style, harmless};
use crate::diff::{self, TextSide};
use crate::live::autoload;
use crate::live::preflight::{self, Concern};
use crate::live::requester::ClientConnection;
use crate::live::{self, Host, Ipsets, LiveRuleset, Payload};
use crate::net::{Family, PerFamily};
use crate::policy::CommandLine;
use crate::resolve::Ownership;
use persist::Persisted;
use sets::Compared;
use transaction::save;
use unrehearsed::printed;

/// What is to be in force.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Complete rules files: they declare every built-in chain of every table that fwc owns. And the sets that they name, for
    /// `ipset restore`, but for others'.
    pub ruleset: &'a RulesetFiles,
    /// Where it comes from, in words for the history.
    pub policy: &'a str,
    /// Where rules.v4, rules.v6 and ipsets are kept for the next boot.
    pub persist_dir: &'a Path,
    /// What the user insists on.
    pub insist: Overrides,
}

/// What the user insists on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Remove others' rules.
    pub take_over: bool,
    /// Stop where rules would go that somebody put among fwc's.
    pub keep_stray: bool,
    /// Go on where nothing can be rehearsed.
    pub no_rehearse: bool,
}

/// What a commit would do. Nothing was touched to find it out.
#[derive(Clone, Debug)]
pub struct ApplyPlan<'a> {
    request: Request<'a>,
    /// The parts of live that may be changed.
    owned: Owned,
    /// These parts as they are.
    live: PerFamily<String>,
    /// The same, as they will be.
    target: PerFamily<String>,
    /// fwc's parts of the filter tables between the phases, as they are loaded.
    bridges: PerFamily<Option<LiveRuleset>>,
    /// The same, in the kernel's form.
    bridged: PerFamily<Option<String>>,
    gaps: Vec<Gap>,
    sets: Compared,
    findings: Findings,
    persisted: Persisted<'a>,
    /// The files in the places of fwc's that a tool wrote which saves live rules.
    saved_by_others: Vec<PathBuf>,
    /// Why nothing was rehearsed, where that was insisted on.
    unrehearsed: Option<String>,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
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
pub fn plan<'a>(
    host: &dyn Host,
    store: &Store,
    request: Request<'a>,
) -> Result<ApplyPlan<'a>, Error> {
    let (mut plan, snapshot) = compare_with_live(host, store, request)?;
    plan.sets.check_room(host)?;
    refuse_in_panic(&snapshot)?;
    if !plan.replaced().is_empty() {
        plan.rehearse_edits(host, &snapshot)?;
    }
    Ok(plan)
}

/// Stops while `fwc panic` is on.
fn refuse_in_panic(live: &PerFamily<LiveRuleset>) -> Result<(), Error> {
    let is_on = live.iter().any(|(_, dump)| panic::is_on(dump));
    if is_on { Err(Error::PanicIsOn) } else { Ok(()) }
}

/// The plan, with edits that were not tried yet, and live as it was.
fn compare_with_live<'a>(
    host: &dyn Host,
    store: &Store,
    request: Request<'a>,
) -> Result<(ApplyPlan<'a>, PerFamily<LiveRuleset>), Error> {
    let payload = &request.ruleset.rules;
    let dumps = parse(payload)?;
    absent::check(host, &dumps)?;
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
    let plan = ApplyPlan {
        request,
        owned,
        live: normal(&live),
        target: normal(&target),
        bridges: PerFamily::default(),
        bridged: PerFamily::default(),
        gaps: Vec::new(),
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

impl ApplyPlan<'_> {
    /// What the whole of a family's live rules will be.
    fn target_of(&self, family: Family, live: &LiveRuleset) -> Result<LiveRuleset, live::Error> {
        let target = LiveRuleset::parse(&self.target[family])
            .map_err(|source| live::Error::Unreadable { family, source })?;
        Ok(self.owned.with(family, live, &target))
    }

    /// What of the user's connections the rules to come would stop, or of the tunnels that carry them.
    pub fn lockouts(
        &self,
        host: &dyn Host,
        seat: &ClientConnection,
    ) -> Result<Vec<Lockout>, Error> {
        guard::check(host, seat, self)
    }

    /// What may happen to new connections while tables change that depend on each other; nothing of families that are not
    /// named.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The connections that could not begin under the rules to come; never those that the user sits on.
    pub fn denied(
        &self,
        host: &dyn Host,
        seat: &ClientConnection,
    ) -> Result<DeniedConnections, Error> {
        close_connections::denied(host, seat, self)
    }

    /// What makes the rules to come mean something else than they say.
    pub fn concerns(&self, host: &dyn Host) -> Result<Vec<Concern>, Error> {
        let live = save(host)?;
        let mut found = preflight::look(&live, &parse(&self.target)?);
        for family in Family::ALL {
            let all = self.target_of(family, &live[family]).map_err(Error::Live)?;
            found.extend(dominance::look(&self.owned, family, &all));
        }
        found.extend(absent::concerns(host));
        found.extend(loaded_at_boot(
            self.request.persist_dir,
            self.request.ruleset,
        ));
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

    /// The unified diff from live to the target: sets, and both families. Nothing in it is harmful to a terminal.
    pub fn diff(&self, style: Style) -> String {
        let names = ["live", "policy"];
        compare_sets(&self.sets.live, &self.sets.target, names, style)
            + &compare(&self.live, &self.target, names, style)
    }
}

/// What keeps a ruleset from being loaded at the next boot.
fn loaded_at_boot(persist_dir: &Path, ruleset: &RulesetFiles) -> Option<Concern> {
    autoload::look(autoload::Kept {
        folder: persist_dir,
        is_shared: ruleset.ownership == Ownership::Shared,
        has_sets: ruleset.sets.is_some(),
    })
}

fn parse(payload: &PerFamily<String>) -> Result<PerFamily<LiveRuleset>, Error> {
    let read = |family| {
        let text: &String = &payload[family];
        LiveRuleset::parse(text).map_err(|source| Error::Payload { family, source })
    };
    Ok(PerFamily {
        v4: read(Family::V4)?,
        v6: read(Family::V6)?,
    })
}

fn normal(dumps: &PerFamily<LiveRuleset>) -> PerFamily<String> {
    PerFamily::from_fn(|family| dumps[family].normal())
}

fn compare_sets(
    from: &Ipsets,
    to: &Ipsets,
    [from_name, to_name]: [&str; 2],
    style: Style,
) -> String {
    let (from_name, to_name) = (format!("{from_name} (sets)"), format!("{to_name} (sets)"));
    let diff = diff::unified(
        TextSide {
            name: &from_name,
            text: &from.text(),
        },
        TextSide {
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
                TextSide {
                    name: &format!("{from_name} ({family})"),
                    text: &harmless(&from[family]),
                },
                TextSide {
                    name: &format!("{to_name} ({family})"),
                    text: &harmless(&to[family]),
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

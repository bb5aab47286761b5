//! The plan of a change: what it would do to the live rules, the sets and the files for the next boot.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::loads::Loads;
use super::owned::Owned;
use super::ownership::{self, Finding, Findings};
use super::persist::{self, Persisted};
use super::records::RulesetFiles;
use super::rehearsal::{Rehearsal, Transitions};
use super::rulesets::{normal, parse, parse_live, save};
use super::sets::{self, Changes, Compared};
use super::store::Store;
use super::table_order::Gap;
use super::unrehearsed::printed;
use super::{absent, dominance, panic, text_diff};
use crate::diag::ConcernName;
use crate::diag::Style;
use crate::live::Concern;
use crate::live::preflight;
use crate::live::{self, Host, LiveRuleset, Payload};
use crate::net::{Family, PerFamily};
use crate::policy::CommandLine;

/// A ruleset to apply.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The files. The rules declare every built-in chain of every table that fwc owns; the sets are those of the policy that
    /// the rules name, not those of other programs.
    pub ruleset: &'a RulesetFiles,
    /// Where the ruleset comes from, in words, for the history.
    pub policy: &'a str,
    /// The folder of rules.v4, rules.v6 and ipsets for the next boot.
    pub persist_dir: &'a Path,
    /// The safety stops that the user overrides.
    pub insist: Overrides,
}

/// The safety stops that the user overrides, or asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Remove other programs' rules (`--take-over`).
    pub take_over: bool,
    /// Stop instead of removing rules that somebody added to fwc's chains (`--keep-stray`).
    pub keep_stray: bool,
    /// Apply without a rehearsal if no scratch network namespace can be made (`--no-rehearse`).
    pub no_rehearse: bool,
}

/// What a commit would do. Making it changes nothing.
#[derive(Clone, Debug)]
pub struct ApplyPlan<'a> {
    pub(super) request: Request<'a>,
    /// The parts of the live rules that may be changed.
    pub(super) owned: Owned,
    /// Those parts now.
    pub(super) live: PerFamily<String>,
    /// Those parts after the commit, in the kernel's form.
    pub(super) target: PerFamily<String>,
    pub(super) transitions: Transitions,
    pub(super) sets: Compared,
    findings: Findings,
    pub(super) persisted: Persisted<'a>,
    /// The files of fwc's that `iptables-save` overwrote.
    saved_by_others: Vec<PathBuf>,
    /// Why nothing was rehearsed, if the user insisted on that.
    unrehearsed: Option<String>,
}

/// Makes a plan and rehearses it: compares the ruleset with the live rules, and tries the edits of the commit on a copy of
/// them.
///
/// # Errors
///
/// The ruleset does not load, the commit would remove other programs' rules without `take_over`, a set would become too
/// small, or `fwc panic` is on.
pub fn plan<'a>(
    host: &dyn Host,
    store: &Store,
    request: Request<'a>,
) -> Result<ApplyPlan<'a>, Error> {
    let (mut plan, snapshot) = compare_with_live(host, store, request)?;
    plan.sets.check_room(host)?;
    panic::refuse_if_on(&snapshot)?;
    if !plan.replaced().is_empty() {
        let rehearsal = Rehearsal {
            owned: &plan.owned,
            live: &snapshot,
            target: &plan.target,
            sets: &plan.sets,
        };
        plan.transitions = rehearsal.run(host, plan.unrehearsed.is_none())?;
    }
    Ok(plan)
}

/// Makes a plan without rehearsing its edits, and returns all live rules that it was made from.
///
/// The ruleset itself is loaded in a scratch network namespace, and what the kernel prints there is the target: the kernel's
/// form of a rule may differ from the written one, so only that can be compared with the live rules.
pub(super) fn compare_with_live<'a>(
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
    // If the rules are right already nothing will be removed, so a broken record of what fwc made does no harm.
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
        transitions: Transitions::default(),
        sets,
        findings,
        // Before fwc's first apply the files are not fwc's yet, and nobody overwrote any.
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
    /// Returns all rules of a family after the commit: fwc's and, as they are in `live`, everybody else's.
    pub(super) fn target_of(
        &self,
        family: Family,
        live: &LiveRuleset,
    ) -> Result<LiveRuleset, live::Error> {
        let target = parse_live(family, &self.target[family])?;
        Ok(self.owned.with(family, live, &target))
    }

    /// Returns the loads of a family.
    pub(super) fn loads(&self, family: Family) -> Result<Loads<'_>, live::Error> {
        Ok(Loads {
            owned: &self.owned,
            family,
            target: parse_live(family, &self.target[family])?,
            transition: self.transitions.filters[family].as_ref(),
        })
    }

    /// Returns what may happen to new connections while tables change that depend on each other. A family that is not listed
    /// has no gap.
    pub fn gaps(&self) -> &[Gap] {
        &self.transitions.gaps
    }

    /// Finds what makes the new rules mean something other than the policy says: settings of the host, other programs' rules,
    /// files for the next boot.
    pub fn concerns(&self, host: &dyn Host) -> Result<Vec<Concern>, Error> {
        let live = save(host)?;
        let mut found = preflight::look(&live, &parse(&self.target)?);
        for family in Family::ALL {
            let all = self.target_of(family, &live[family]).map_err(Error::Live)?;
            found.extend(dominance::look(&self.owned, family, &all));
        }
        found.extend(absent::concerns(host));
        found.extend(persist::not_loaded_at_boot(
            self.request.persist_dir,
            self.request.ruleset,
        ));
        found.extend(self.saved_by_others.iter().map(|path| Concern {
            name: ConcernName::SavedByOthers,
            what: format!(
                "{} was written by iptables-save (`netfilter-persistent save`?) after fwc wrote it",
                path.display()
            ),
            advice: "`fwc apply` writes its own file again; with fwc you need not save the rules yourself"
                .to_owned(),
        }));
        Ok(found)
    }

    /// Returns why nothing was rehearsed; `None` if it was.
    pub fn unrehearsed(&self) -> Option<&str> {
        self.unrehearsed.as_deref()
    }

    /// Returns the families whose live rules differ from the target.
    pub fn replaced(&self) -> Vec<Family> {
        let mut families = Family::ALL.to_vec();
        families.retain(|&family| self.live[family] != self.target[family]);
        families
    }

    /// Returns the hooks that run once the change is kept.
    pub fn after_apply(&self) -> &[CommandLine] {
        &self.request.ruleset.after_apply
    }

    /// Returns the sets that differ.
    pub fn sets(&self) -> Changes {
        self.sets.changes()
    }

    /// Returns the files for the next boot that are missing or differ.
    pub fn stale_files(&self) -> Vec<PathBuf> {
        self.persisted.stale()
    }

    /// Returns the files of fwc's that the policy does not need any more.
    pub fn needless_files(&self) -> Vec<PathBuf> {
        self.persisted.needless()
    }

    /// Returns `true` if there is nothing to do: neither in the kernel nor to the files.
    pub fn is_nothing(&self) -> bool {
        self.persisted.is_right() && !self.changes_live()
    }

    /// Returns `true` if rules or sets in the kernel differ.
    pub fn changes_live(&self) -> bool {
        !self.replaced().is_empty() || !self.sets().is_empty()
    }

    /// Lists the rules and chains that fwc did not make and that the commit removes.
    pub fn removed(&self) -> impl Iterator<Item = &Finding> {
        self.findings.others.iter().chain(&self.findings.strays)
    }

    /// Returns the unified diff from live to the target: sets, then both families. It is safe to print on a terminal.
    pub fn diff(&self, style: Style) -> String {
        let names = ["live", "policy"];
        text_diff::sets(&self.sets.live, &self.sets.target, names, style)
            + &text_diff::rules(&self.live, &self.target, names, style)
    }
}

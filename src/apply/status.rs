//! `fwc status`: whether the applied ruleset is still active, and whether the next boot will load it. It changes nothing.

use std::path::{Path, PathBuf};

use super::drift::{ChainDrift, drift, has_no_rule_of};
use super::error::Error;
use super::persist::{self, Persisted};
use super::plan::{Overrides, Request, compare_with_live};
use super::records::{HistoryEntry, Intent, JournalStep, Owed, RulesetFiles};
use super::rulesets::parse;
use super::sets::Changes;
use super::store::Store;
use super::{absent, dominance};
use crate::live::Concern;
use crate::live::preflight;
use crate::live::{Host, autoload};
use crate::net::Family;

/// The state of the firewall, compared with the applied ruleset.
#[derive(Clone, Debug)]
pub struct Status {
    /// The last confirmed change; `None` if fwc has applied nothing yet.
    pub kept: Option<HistoryEntry>,
    /// The change that is pending, being made, or half done after a crash.
    pub open: Option<(Intent, JournalStep)>,
    /// The chains that differ from those of the last change.
    pub chains: Vec<ChainDrift>,
    /// The sets that differ: what an apply would do to them.
    pub sets: Changes,
    /// The files for the next boot that differ from those of the last confirmed change.
    pub files: Vec<FileDrift>,
    /// `true` if not a single applied rule is live.
    pub is_gone: bool,
    /// The hooks of a kept change that have not succeeded.
    pub owed: Option<Owed>,
    /// What makes the rules mean something other than the policy says.
    pub concerns: Vec<Concern>,
}

/// A file for the next boot that differs from the written one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDrift {
    /// Its path.
    pub path: PathBuf,
    /// How it differs.
    pub what: FileChange,
}

/// How a file for the next boot differs from the written one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It is missing.
    Missing,
    /// Its text changed.
    Changed,
    /// `iptables-save` overwrote it, for example by `netfilter-persistent save`.
    Saved,
    /// It exists, but the applied ruleset has no such file.
    Needless,
}

impl FileChange {
    /// Returns its name in JSON output.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Saved => "saved-by-others",
            Self::Needless => "needless",
        }
    }
}

impl Status {
    /// Returns `true` if the live rules and the files are as applied, and neither a change nor a hook is pending.
    pub fn is_as_applied(&self) -> bool {
        let waits = self.open.is_some() || self.owed.is_some();
        self.kept.is_some() && !waits && self.is_live() && self.files.is_empty()
    }

    /// Returns `true` unless fwc knows that nothing loads the rules at the next boot.
    pub fn is_loaded_at_boot(&self) -> bool {
        !self.concerns.iter().any(autoload::is_not_loaded)
    }

    /// Returns `true` if the live rules and sets are as applied.
    pub fn is_live(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }
}

/// Compares the live rules, the sets and the files for the next boot with the applied ruleset.
pub fn status(host: &dyn Host, store: &Store, persist_dir: &Path) -> Result<Status, Error> {
    let kept = store.history().last_kept()?;
    let open = store.journal().open()?;
    let mut status = Status {
        kept,
        open,
        chains: Vec::new(),
        sets: Changes::default(),
        files: Vec::new(),
        is_gone: false,
        owed: store.owed()?,
        concerns: Vec::new(),
    };
    let last = status
        .kept
        .as_ref()
        .and_then(|entry| entry.ruleset.as_ref());
    if let Some(ruleset) = last {
        status.files = files(persist_dir, ruleset)?;
    }
    let active = match &status.open {
        Some((intent, JournalStep::Pending { .. } | JournalStep::Confirmed { .. })) => {
            Some(&intent.ruleset)
        }
        // Between two steps of a change there is no ruleset to compare with.
        Some(_) => None,
        None => last,
    };
    let Some(ruleset) = active else {
        return Ok(status);
    };
    let request = Request {
        ruleset,
        policy: "",
        persist_dir,
        insist: Overrides {
            take_over: true,
            ..Overrides::default()
        },
    };
    let (plan, snapshot) = compare_with_live(host, store, request)?;
    let (mut chains, mut is_gone) = (Vec::new(), true);
    let (applied, live) = (parse(&plan.target)?, parse(&plan.live)?);
    for family in Family::ALL {
        let (applied, live) = (&applied[family], &live[family]);
        chains.extend(drift(family, applied, live, &snapshot[family]));
        is_gone &= has_no_rule_of(live, applied);
    }
    let sets = plan.sets();
    status.concerns = preflight::look(&applied, &applied);
    status.concerns.extend(absent::concerns(host));
    let at_boot = persist::not_loaded_at_boot(persist_dir, ruleset);
    status.concerns.extend(at_boot);
    for (family, live) in snapshot.iter() {
        let concerns = dominance::look(&plan.owned, family, live);
        status.concerns.extend(concerns);
    }
    let allowed = store.allowed_concerns();
    status
        .concerns
        .retain(|concern| !allowed.contains(&concern.name));
    status.is_gone = is_gone && !chains.is_empty();
    (status.chains, status.sets) = (chains, sets);
    Ok(status)
}

/// Compares the files for the next boot with a ruleset.
fn files(persist_dir: &Path, ruleset: &RulesetFiles) -> Result<Vec<FileDrift>, Error> {
    let persisted = Persisted::compare(persist_dir, ruleset)?;
    let saved = persisted.saved_by_others();
    let stale = persisted.stale().into_iter().map(|path| {
        let what = match path.exists() {
            _ if saved.contains(&path) => FileChange::Saved,
            true => FileChange::Changed,
            false => FileChange::Missing,
        };
        FileDrift { path, what }
    });
    let needless = persisted.needless().into_iter().map(|path| FileDrift {
        path,
        what: FileChange::Needless,
    });
    Ok(stale.chain(needless).collect())
}

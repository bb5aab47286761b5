//! Whether what was applied is still in force, and will be after the next boot. Nothing is changed to find it out.

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
use crate::live::preflight::{self, Concern};
use crate::live::{Host, LiveRuleset, autoload};
use crate::net::Family;

/// How the firewall stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// The change that was confirmed last; `None` where fwc put nothing in force yet.
    pub kept: Option<HistoryEntry>,
    /// The change that waits for its confirmation, is being made, or was left half done.
    pub open: Option<(Intent, JournalStep)>,
    /// The chains that are not as the last change made them.
    pub chains: Vec<ChainDrift>,
    /// The sets that are not, as what would have to be done with them.
    pub sets: Changes,
    /// The files for the next boot that are not those of the last confirmed change.
    pub files: Vec<FileDrift>,
    /// Whether nothing at all of the applied rules is live.
    pub is_gone: bool,
    /// The hooks of a change that stayed which were not run to a good end.
    pub owed: Option<Owed>,
    /// What makes the rules mean something else than they say.
    pub concerns: Vec<Concern>,
}

/// A file for the next boot that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDrift {
    /// Where it is.
    pub path: PathBuf,
    /// What became of it.
    pub what: FileChange,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It is not there.
    Missing,
    /// Somebody wrote another one in its place.
    Changed,
    /// The tool that saves live rules did (`netfilter-persistent save`, `iptables-save > ...`).
    Saved,
    /// It is there, and the applied ruleset has none.
    Needless,
}

impl FileChange {
    /// The word in machine output.
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
    /// Whether all is as it was applied, and nothing waits.
    pub fn is_as_applied(&self) -> bool {
        let waits = self.open.is_some() || self.owed.is_some();
        self.kept.is_some() && !waits && self.is_live() && self.files.is_empty()
    }

    /// Whether something loads the rules at the next boot, as far as it is known.
    pub fn is_loaded_at_boot(&self) -> bool {
        !self.concerns.iter().any(autoload::is_not_loaded)
    }

    /// Whether live is as it was applied.
    pub fn is_live(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }
}

/// Compares live and the files with what was applied.
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
    let in_force = match &status.open {
        Some((intent, JournalStep::Pending { .. } | JournalStep::Confirmed { .. })) => {
            Some(&intent.ruleset)
        }
        // Half of it may be in force: whoever makes or ends it knows.
        Some(_) => None,
        None => last,
    };
    let Some(ruleset) = in_force else {
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
    for family in Family::ALL {
        let read = |text: &str| {
            LiveRuleset::parse(text).map_err(|source| Error::Payload { family, source })
        };
        let (applied, live) = (read(&plan.target[family])?, read(&plan.live[family])?);
        chains.extend(drift(family, &applied, &live, &snapshot[family]));
        is_gone &= has_no_rule_of(&live, &applied);
    }
    let sets = plan.sets();
    let applied = parse(&plan.target)?;
    status.concerns = preflight::look(&applied, &applied);
    status.concerns.extend(absent::concerns(host));
    let at_boot = persist::not_loaded_at_boot(persist_dir, ruleset);
    status.concerns.extend(at_boot);
    for (family, live) in snapshot.iter() {
        let concerns = dominance::look(&plan.owned, family, live);
        status.concerns.extend(concerns);
    }
    status.is_gone = is_gone && !chains.is_empty();
    (status.chains, status.sets) = (chains, sets);
    Ok(status)
}

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

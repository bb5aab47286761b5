//! What fwc writes down on disk about a change: what it is about to do, how far it is, what became of it, and which hooks
//! are still to run.
//!
//! These types read and write nothing. [`Journal`](super::Journal), [`History`](super::History) and `owed` do.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::clock;
use super::owned::Owned;
use crate::diag::ConcernName;
use crate::net::PerFamily;
use crate::policy::CommandLine;
use crate::resolve::Ownership;

/// A complete ruleset as files: the input of an apply and of a rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesetFiles {
    /// Input for `iptables-restore` and `ip6tables-restore`.
    pub rules: PerFamily<String>,
    /// Input for `ipset restore`; `None` if the rules need no set.
    pub sets: Option<String>,
    /// Whether fwc owns whole tables or only its own chains.
    #[serde(default)]
    pub ownership: Ownership,
    /// The hooks to run once the change is kept, in this order.
    #[serde(default)]
    pub after_apply: Vec<CommandLine>,
    /// The facts about the host that are meant, and not reported.
    #[serde(default)]
    pub allowed_concerns: BTreeSet<ConcernName>,
}

/// What a change is about to do: everything that it takes to finish it or to revert it after a crash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub(super) schema: String,
    /// The number of the change. Each folder of rules files counts its own changes, from 1.
    pub number: u64,
    /// When the change began, in UTC.
    pub begun: String,
    /// Where the ruleset comes from, in words.
    pub policy: String,
    /// The parts of the live rules that the change may touch.
    pub owned: Owned,
    /// Those parts before the change, with counters.
    pub before: PerFamily<String>,
    /// Those parts after the change, in the kernel's form.
    pub after: PerFamily<String>,
    /// The transition filter, in the kernel's form, if the change has three phases.
    #[serde(rename = "bridges")]
    pub transitions: PerFamily<Option<String>>,
    /// The sets that differ, before the change.
    pub sets_before: String,
    /// The sets that differ, after the change.
    pub sets_after: String,
    /// The files for the next boot.
    pub ruleset: RulesetFiles,
    /// The folder of those files.
    pub persist_dir: PathBuf,
    /// The TCP connections of this host when the change began. A confirmation from one of them proves nothing.
    pub connections: Vec<String>,
    /// The process id of the watchdog.
    #[serde(default)]
    pub watchdog: Option<u32>,
}

impl Intent {
    pub(super) const SCHEMA: &str = "fwc.transaction/1";
}

/// How far a change is. Each step is on disk before it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum JournalStep {
    /// Nothing has changed yet.
    Begun,
    /// Sets and rules are being changed.
    Changing {
        /// When the change must be complete and confirmed, in milliseconds since boot.
        #[serde(default = "never")]
        deadline: u64,
    },
    /// The new rules are active, and revert unless the change is confirmed in time.
    Pending {
        /// When the change reverts, in milliseconds since boot, including time spent asleep.
        deadline: u64,
        /// The same as a time of day, in UTC.
        until: String,
    },
    /// The change is kept: the files for the next boot are being written.
    Confirmed {
        /// What confirmed it.
        by: String,
    },
    /// The change is complete.
    Done,
    /// The change is being reverted.
    Undoing {
        /// The reason.
        why: String,
        /// When that must be over, in milliseconds since boot. After it another process may take over.
        #[serde(default = "never")]
        deadline: u64,
    },
    /// The change was reverted.
    Undone,
}

/// The deadline of a journal that an older version of fwc began.
const fn never() -> u64 {
    u64::MAX
}

impl JournalStep {
    /// Returns `true` if nothing is left to do.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Done | Self::Undone)
    }
}

/// A past change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub(super) schema: String,
    /// The number of the change; 0 for the rules before fwc's first change.
    pub number: u64,
    /// When the change ended, in UTC.
    pub time: String,
    /// Where its ruleset came from, in words.
    pub policy: String,
    /// How the change ended.
    pub outcome: TransactionOutcome,
    /// The ruleset that was kept; `None` for a reverted change.
    pub ruleset: Option<RulesetFiles>,
}

/// How a change ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionOutcome {
    /// It was kept; the text says what confirmed it.
    Kept(String),
    /// It was reverted; the text says why.
    TakenBack(String),
}

impl HistoryEntry {
    pub(super) const SCHEMA: &str = "fwc.history/1";

    /// The entry of a kept change.
    pub(super) fn kept(intent: &Intent, by: &str) -> Self {
        Self {
            schema: Self::SCHEMA.to_owned(),
            number: intent.number,
            time: clock::now(),
            policy: intent.policy.clone(),
            outcome: TransactionOutcome::Kept(by.to_owned()),
            ruleset: Some(intent.ruleset.clone()),
        }
    }

    /// The entry of a reverted change.
    pub(super) fn taken_back(intent: &Intent, why: &str) -> Self {
        Self {
            outcome: TransactionOutcome::TakenBack(why.to_owned()),
            ruleset: None,
            ..Self::kept(intent, "")
        }
    }

    /// Entry 0: the rules before fwc's first change, as far as that change could touch them. `rollback 0` restores them.
    pub(super) fn before_fwc(intent: &Intent) -> Self {
        Self {
            number: 0,
            policy: "what was there before fwc".to_owned(),
            ruleset: Some(RulesetFiles {
                rules: intent.before.clone(),
                ownership: intent.ruleset.ownership.clone(),
                ..RulesetFiles::default()
            }),
            ..Self::kept(intent, "")
        }
    }
}

/// The hooks of a kept change that have not succeeded yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub(super) schema: String,
    /// The number of the change.
    pub number: u64,
    /// The hooks, in the order of the policy.
    pub hooks: Vec<OwedHook>,
}

impl Owed {
    pub(super) const SCHEMA: &str = "fwc.hooks/1";
}

/// A hook that is still to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedHook {
    /// The command.
    pub command: CommandLine,
    /// How its last run failed, in words; `None` if it has not run to its end yet.
    pub failed: Option<String>,
}

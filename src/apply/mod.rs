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
mod drift;
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
mod plan;
mod plan_file;
mod points;
mod records;
mod recover;
mod rehearsal;
mod rulesets;
mod sets;
mod status;
mod store;
mod table_order;
mod text_diff;
mod transaction;
mod transition_filter;
mod undo;
mod unrehearsed;
pub mod watchdog;

pub use boot::{Boot, LoadedFrom, boot};
pub use clock::since_boot;
pub use close_connections::{DeniedConnections, SocketlessConnection};
pub use drift::{ChainDrift, Drift, RuleDrift, RuleDriftKind};
pub use error::{Error, Undo};
pub use history::History;
pub use hooks::{HookRun, Ran, TIME_OUT as HOOK_TIME_OUT, Watcher, run_owed};
pub use journal::Journal;
pub use lock::Lock;
pub use lockout::Lockout;
pub use owned::Owned;
pub use ownership::{Finding, FindingKind, Findings};
pub use plan::{ApplyPlan, Overrides, Request, plan};
pub use plan_file::PlanFile;
pub use records::{
    HistoryEntry, Intent, JournalStep, Owed, OwedHook, RulesetFiles, TransactionOutcome,
};
pub use recover::{Recovered, confirm, lock_to_take_back, recover, take_back};
pub use sets::Changes;
pub use status::{FileChange, FileDrift, Status, status};
pub use store::Store;
pub use table_order::Gap;
pub use transaction::{CommitReport, Confirmation, Guard, Progress, commit};

#[cfg(test)]
mod set_tests;
#[cfg(test)]
mod tests;

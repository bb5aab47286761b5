//! Applies a ruleset to the running firewall as one transaction: complete and confirmed, or reverted.
//!
//! The goals, and how each is met:
//!
//! 1. *Load nothing that the kernel refuses or reads differently.* [`plan`](plan()) loads the ruleset in a scratch network
//!    namespace, and takes what `iptables-save` prints there as the target. Then it loads a copy of the live rules there, and
//!    exactly the edits that [`commit`] will make; the result must be the target.
//! 2. *Leave alone what is right already*, even its counters: [`patch`] writes only the chains that change, and keeps the
//!    counters of the rules that remain in them.
//! 3. *Remove no other program's rule silently*: [`ownership`] compares the live rules with those that fwc made, and
//!    [`Owned`] says which parts of the live rules may change at all.
//! 4. *Change the sets and both families, or nothing*: if a step fails, or the live rules differ afterwards from the
//!    rehearsed ones, the change is reverted.
//! 5. *Reverting is not restoring a snapshot*: [`inverse`] computes the live rules without fwc's change, but with every change
//!    that other programs made since.
//! 6. *Replace only what the plan was made for*: [`commit`] reads the live rules again, and stops if they changed since.
//! 7. *Survive any crash*: the [`journal`] has each step on disk before it begins. The [`watchdog`] reverts the change if fwc
//!    dies or nobody confirms in time; if the watchdog dies as well, the next fwc does, which always runs [`recover`](recover())
//!    first.
//! 8. *Sets belong to the change*: [`sets`] creates those that the rules need before the rules, removes those that they no
//!    longer need after the confirmation, and keeps the members that other programs added.
//! 9. *The files for the next boot are old or new, never half written* ([`persist`]): they are on disk before the commit and
//!    renamed after the confirmation, so a reboot before it brings the old firewall. Files that were there before fwc's first
//!    apply are kept beside them.
//! 10. *Do not lock the user out*: [`guard`] follows packets of the user's own connection, of a new one like it and of the
//!     tunnel that carries it through the new rules ([`Lockout`]).
//! 11. *Hooks cannot fail a change*: [`hooks`] run once the change is kept, and it stays kept whatever they do
//!     ([`run_owed`]). A hook that did not succeed is on disk, for a later fwc to run or to report.
//! 12. *One change at a time*: a [`Lock`] for each network namespace.
//!
//! The tests let each step fail, and kill fwc there ([`Point`](crate::fault::Point)).
//!
//! The files, from the bottom up; none imports from a file above it:
//!
//! - pure functions on rules: [`patch`], [`owned`], [`inverse`], [`ownership`], [`transition_filter`], [`table_order`],
//!   [`drift`], [`loads`];
//! - what is on disk: [`records`], written by [`disk`], [`journal`], [`history`], [`owed`], [`store`] and [`lock`];
//! - the change: [`absent`], [`dominance`], [`sets`], [`persist`], [`rehearsal`] (or [`unrehearsed`]), [`mod@plan`], and on a plan
//!   [`guard`], [`close_connections`], [`plan_file`];
//! - what acts on it: [`in_force`], [`undo`] (with [`blind`]), [`transaction`], [`hooks`], [`mod@recover`], [`watchdog`],
//!   [`mod@boot`], [`mod@status`], [`panic`].

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

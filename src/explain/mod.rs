//! Answers for `fwc explain`: what the rules do with packets, through every table and chain in the kernel's order, and why.
//!
//! A [`Question`] describes a set of packets; every property that it does not restrict may have any value. [`explain`] groups
//! these packets by their verdict and translations. Each group lists the rules that decide it, and has the [`Trace`] of one
//! example packet.

mod partition;
mod question;
mod subject;
mod trace;

pub use partition::{Decider, HookAnswer, PacketGroup, explain, explain_roughly};
pub use question::{AskedHook, AskedPackets, AskedStates, Question, QuestionError};
pub use subject::{DecisionSource, FamilyRules, Subject};
pub use trace::{ByPolicy, MatchedRule, TableVisit, Trace, TraceError};

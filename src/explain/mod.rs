//! What becomes of packets, and why: through every table and chain, in the kernel's order, to the verdict.
//!
//! A [`Question`] is about one packet or about many: what it does not say is free. [`explain`] splits them by what becomes of
//! them; each part has the rules that decide it and the [`Trace`] of one of its packets.

mod partition;
mod question;
mod subject;
mod trace;

pub use partition::{Decider, HookAnswer, PacketGroup, explain, explain_roughly};
pub use question::{AskedHook, AskedPackets, AskedStates, Question, QuestionError};
pub use subject::{DecisionSource, FamilyRules, Subject};
pub use trace::{ByPolicy, MatchedRule, TableVisit, Trace, TraceError};

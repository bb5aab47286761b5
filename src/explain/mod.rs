//! What becomes of packets, and why: through every table and chain, in the kernel's order, to the verdict.
//!
//! A [`Question`] is about one packet or about many: what it does not say is free. [`explain`] splits them by what becomes of
//! them; each part has the rules that decide it and the [`Story`] of one of its packets.

mod ground;
mod parts;
mod question;
mod story;

pub use ground::{Ground, Origin, Rules};
pub use parts::{Answer, Decider, Part, explain, explain_roughly};
pub use question::{Asked, Contradiction, Question, States, Where};
pub use story::{ByPolicy, Matched, Story, Untold, Visit};

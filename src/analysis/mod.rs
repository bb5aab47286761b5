//! The packet engine: what a ruleset does with every packet, exactly.
//!
//! A [`Space`] owns sets of packets ([`Set`]) and maps from packets to outcomes ([`Verdicts`]) of one address family as
//! decision diagrams, so equality, differences and witnesses are questions about values, not searches. A [`Flow`] is
//! what a run of rules does with each packet.
//!
//! ```
//! use fwc::analysis::{Flow, Space, Step, Verdict};
//! use fwc::net::{Family, Protocol, State};
//!
//! # fn main() -> Result<(), fwc::analysis::GaveUp> {
//! let space = Space::new(Family::V4);
//! let ssh = space.and(space.protocol(Protocol::TCP)?, space.destination_port(22, 22)?)?;
//! let new = space.states(&[State::New])?;
//!
//! // Two ways to write the same: accept, then drop the rest; or accept nothing but.
//! let one = Flow::from_rules(&space, [
//!     Step::verdict(space.and(ssh, new)?, Verdict::Accept),
//!     Step::verdict(new, Verdict::Drop),
//! ])?;
//! let two = Flow::from_rules(&space, [
//!     Step::verdict(space.minus(new, ssh)?, Verdict::Drop),
//!     Step::verdict(new, Verdict::Accept),
//! ])?;
//! assert_eq!(one, two);
//! # Ok(())
//! # }
//! ```

mod address;
mod address_types;
mod behaviour;
mod boxes;
mod deciders;
mod diagram;
mod dimension;
mod field;
mod flow;
mod json;
mod mark;
mod matches;
mod matrix;
mod order;
mod path;
mod redundant;
mod rewrite;
mod shadow;
mod space;
mod spell;
mod text;
mod translation;
mod valid;
mod verdicts;
mod witness;
mod words;
mod writes;

pub use behaviour::{BaseChain, Behaviour, Difference, Fate, Observable, Structure};
pub use boxes::{Boxes, Limits, PacketBox};
pub use deciders::{Decided, Deciders};
pub use diagram::Budget;
pub use dimension::Dimension;
pub use field::{Field, NO_MAC, device_number};
pub use flow::{Effect, Flow, Step, counted, counted_by};
pub use json::{example_json, packet_json};
pub use matches::has_memory;
pub use matrix::{Behind, Matrix};
pub use path::{
    Change as PathChange, End, Exchanged, FIRST_OF_RELATED, Path, Place, after_translation, places,
};
pub use redundant::{Idle, changed_sets, idle};
pub use shadow::{Covers, Shadowed, shadowed};
pub use space::{Set, Space, Split};
pub use text::{
    Buckets, ConditionId, Conditions, Reading, TextError, chain_flows, counter, ends_key,
    rule_sets, with_memory_key,
};
pub use translation::Translation;
pub use valid::{Setting, Unseen};
pub use verdicts::{Verdict, Verdicts};
pub use witness::{Witness, device_name};
pub use words::{List, Part, Vocabulary, Words};
pub use writes::{Write, is_header_effect};

/// Why an analysis has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// It would need more memory than its [`Budget`].
    #[error("the analysis gave up: the packet sets became too large")]
    TooLarge,
    /// It would take more steps than its [`Budget`].
    #[error("the analysis gave up: it took too long")]
    TooLong,
}

//! The packet engine: computes exactly what a ruleset does with every packet, without sending any.
//!
//! Where iptables walks the rules for one packet, the engine walks them once for all packets. A [`Space`] owns sets of
//! packets ([`Set`]) and maps from packets to outcomes ([`Verdicts`]) of one address family. Both are decision
//! diagrams, and equal sets are the same value, so that two rulesets are compared with `==` and not by trying packets.
//! A [`Flow`] is what a run of rules does with each packet. docs/internals/engine.md describes the whole engine, its
//! limits and its measured costs.
//!
//! ```
//! use fwc::analysis::{Flow, Space, RuleStep, Verdict};
//! use fwc::net::{Family, Protocol, State};
//!
//! # fn main() -> Result<(), fwc::analysis::GaveUp> {
//! let space = Space::new(Family::V4);
//! let ssh = space.and(space.protocol(Protocol::TCP)?, space.destination_port(22, 22)?)?;
//! let new = space.states(&[State::New])?;
//!
//! // Two ways to write the same policy: accept SSH and drop the rest; or drop everything but SSH and accept the rest.
//! let one = Flow::from_rules(&space, [
//!     RuleStep::verdict(space.and(ssh, new)?, Verdict::Accept),
//!     RuleStep::verdict(new, Verdict::Drop),
//! ])?;
//! let two = Flow::from_rules(&space, [
//!     RuleStep::verdict(space.minus(new, ssh)?, Verdict::Drop),
//!     RuleStep::verdict(new, Verdict::Accept),
//! ])?;
//! assert_eq!(one, two);
//! # Ok(())
//! # }
//! ```

mod address;
mod address_types;
mod behaviour;
mod boxes;
mod condition_keys;
mod deciders;
mod diagram;
mod dimension;
mod field;
mod flow;
mod header;
mod json;
mod mark;
mod matches;
mod matrix;
mod naming;
mod order;
mod path;
mod redundant;
mod render_values;
mod rewrite;
mod shadow;
mod space;
mod targets;
mod text;
mod translation;
mod valid;
mod verdicts;
mod witness;
mod writes;

pub use behaviour::{BaseChain, Behaviour, Difference, Observable, Structure, TableFate};
pub use boxes::{Boxes, Limits, PacketBox};
pub use condition_keys::with_memory_key;
pub use deciders::{Decided, Deciders};
pub use diagram::Budget;
pub use dimension::Dimension;
pub use field::{Field, NO_MAC, device_number};
pub use flow::{Effect, Flow, RuleStep, counted, counted_by};
pub use header::is_header_effect;
pub use json::{JsonBox, JsonCondition, JsonPacket, JsonWhere};
pub use matches::has_memory;
pub use matrix::{DevicesBehind, Matrix};
pub use naming::{BoxWords, PacketPart, ValueList, Vocabulary};
pub use path::{
    Exchanged, FIRST_OF_RELATED, Path, PathChange, PathEnd, TableChain, after_translation, places,
};
pub use redundant::{IdleRules, changed_sets, idle};
pub use shadow::{Covers, Shadowed, shadowed};
pub use space::{Set, Space, Split};
pub use targets::ends_key;
pub use text::{
    BucketHolds, BucketKey, Buckets, ConditionId, Conditions, Reading, chain_flows, counter,
    rule_sets,
};
pub use translation::Translation;
pub use valid::{HostSetting, UnseenReason};
pub use verdicts::{Verdict, Verdicts};
pub use witness::{Witness, device_name};
pub use writes::Write;

/// Why an analysis ended without an answer: it reached a limit of its [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// It needs more memory than [`Budget::edges`] allows.
    #[error("the analysis gave up: the packet sets became too large")]
    TooLarge,
    /// It takes more steps than [`Budget::steps`] allows.
    #[error("the analysis gave up: it took too long")]
    TooLong,
}

/// Why the behaviour of a ruleset could not be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The analysis needs more than its budget.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
    /// A chain can reach itself by jumps.
    #[error("chain `{0}` is reached from itself")]
    Loop(Box<str>),
    /// A jump to a chain that the table does not have.
    #[error("there is no chain `{0}`")]
    NoChain(Box<str>),
    /// Two rules made from one origin have the same condition with memory. Each rule has a bucket of its own in the
    /// kernel, so that twice as many packets pass as intended.
    #[error("`{condition}` of `{origin}` stands in two rules, which have a bucket each")]
    TwoBuckets {
        /// The condition, as `iptables-save` prints it.
        condition: String,
        /// The origin of both rules.
        origin: String,
    },
}

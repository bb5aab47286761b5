//! The proof that rules do what the policy says.
//!
//! [`spec`] is the policy's own behaviour, from the plan and the language's words alone: it has never seen a template or
//! a rule. [`Verifier::prove`] holds it against what rendered rules do, for every packet. Where the two differ, a packet is
//! looked for on which both plain walkers, [`crate::policy::decide`] and [`crate::iptables::walk`], differ too.
//! [`test`] holds the rules against what the policy promises in its `[[tests]]`.

mod both_sides;
mod checks;
mod condition;
mod double_count;
mod end_to_end;
mod families;
mod files;
mod lints;
mod logging;
mod matrix;
mod normalised;
mod proof;
mod prove;
mod report;
mod routed;
mod side_effects;
mod spec;
mod tests;
mod translated;
mod verifier;
mod vocabulary;
mod walkers;

pub use both_sides::{
    beside_others, condition_words, in_words_of_policy, is_left_to_others, known_members,
};
pub use checks::check;
pub use condition::{CountScope, RateLimit};
pub use end_to_end::ArrivedPacket;
pub use files::{RenderedRules, Unread};
pub use logging::{LogLine, LogTo};
pub use matrix::{Cell, Opens, Places, matrix};
pub use proof::{Disagreement, DisagreementKind, Proof};
pub use report::INTERNAL;
pub use side_effects::SideEffect;
pub use spec::matching::{arriving, ending, for_this_host, hooks, packets};
pub use spec::{LogRequest, Spec, spec};
pub use tests::{TestOutcome, test};
pub use translated::{ComparedTranslation, RuleTranslation, new_end};
pub use verifier::Verifier;
pub use vocabulary::{add_words, vocabulary};
pub use walkers::{Actual, ComparedEffects, ComparedWalk, Expected};

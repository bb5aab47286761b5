//! The proof that rules do what the policy says.
//!
//! [`spec`] is the policy's own behaviour, from the plan and the language's words alone: it has never seen a template or
//! a rule. [`Verifier::prove`] holds it against what rendered rules do, for every packet. Where the two differ, a packet is
//! looked for on which both plain walkers, [`crate::policy::decide`] and [`crate::iptables::walk`], differ too.
//! [`test`] holds the rules against what the policy promises in its `[[tests]]`.

mod acts;
mod arrival;
mod checks;
mod condition;
mod families;
mod files;
mod lints;
mod logging;
mod matrix;
mod proof;
mod prove;
mod report;
mod routed;
mod spec;
mod tagged;
mod tests;
mod translated;
mod twice;
mod verifier;
mod views;
mod vocabulary;
mod walkers;

pub use acts::Act;
pub use arrival::Became;
pub use checks::check;
pub use condition::{Counted, Rated};
pub use files::{RenderedRules, Unread};
pub use logging::{LogLine, LogTo};
pub use matrix::{Cell, Opens, Places, matrix};
pub use proof::{Difference, Disagreement, Proof};
pub use report::INTERNAL;
pub use spec::matching::{arriving, ending, for_this_host, hooks, packets};
pub use spec::{Logging, Spec, spec};
pub use tests::{Outcome, test};
pub use translated::{Made, Translated, new_end};
pub use verifier::Verifier;
pub use views::{
    beside_others, condition_words, in_words_of_policy, is_left_to_others, known_members,
};
pub use vocabulary::{add_words, vocabulary};
pub use walkers::{Done, Said, Treated, Walked};

//! The proof that the generated rules match the policy.
//!
//! [`spec`] computes from the plan alone what the policy does with every packet; it shares no code with the templates.
//! [`Verifier::prove`] compares it with what the rendered rules do. If the two differ, it looks for one packet on which the
//! two walkers, [`crate::policy::decide`] and [`crate::iptables::walk`], differ too, so that a report never rests on the
//! packet sets alone. [`test`] checks the rules against the `[[tests]]` of the policy.

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
pub use condition::{CountScope, Pace, RateLimit};
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
pub use translated::{ComparedTranslation, RuleTranslation, TranslationEnd, new_end};
pub use verifier::Verifier;
pub use vocabulary::{add_words, vocabulary};
pub use walkers::{Actual, ComparedEffects, ComparedWalk, Expected};

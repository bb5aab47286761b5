//! Errors that the packet sets of a policy show.
//!
//! These checks compare packet sets and never look at single keys of a rule, so that every key counts, also future ones.

mod neighbour_discovery;
mod tcp_reset;
mod untracked;

use crate::analysis::GaveUp;
use crate::diag::Sink;
use crate::policy::Policy;
use crate::resolve::Plan;

/// Reports policies that block neighbour discovery, rules that miss untracked packets, and TCP resets for other protocols.
///
/// The plan must be that of the policy, without errors.
///
/// # Errors
///
/// If the packet sets become too large. Findings made before that are reported.
pub fn check(policy: &Policy, plan: &Plan, sink: &mut Sink) -> Result<(), GaveUp> {
    tcp_reset::check(policy, plan, sink)?;
    neighbour_discovery::check(policy, plan, sink)?;
    untracked::check(policy, plan, sink)
}

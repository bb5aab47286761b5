//! Errors that the packet sets of the policy show.
//!
//! What a question about packets needs is a packet set, in which every key counts: no check here asks which keys a rule has.

mod neighbour_discovery;
mod tcp_reset;
mod untracked;

use crate::analysis::GaveUp;
use crate::diag::Sink;
use crate::policy::Policy;
use crate::resolve::Plan;

/// Reports rules that break IPv6, that lose packets to `notrack`, and that answer with what their packets cannot get.
///
/// The plan must be that of the policy, and sound.
///
/// # Errors
///
/// When the packet sets become too large; what was found until then is reported.
pub fn check(policy: &Policy, plan: &Plan, sink: &mut Sink) -> Result<(), GaveUp> {
    tcp_reset::check(policy, plan, sink)?;
    neighbour_discovery::check(policy, plan, sink)?;
    untracked::check(policy, plan, sink)
}

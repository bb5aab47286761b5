//! Rules for packets that `[[raw]]` leaves untracked: their state is UNTRACKED, never NEW.
//!
//! The check intersects the packet sets of rule and entry, so that every key of both counts.

use crate::analysis::{GaveUp, Space};
use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::notrack_answers;
use crate::net::{Family, Hook, State};
use crate::policy::{self, Policy, Treatment};
use crate::resolve::{Endpoint, Plan, PlannedRaw, PlannedRule};
use crate::source::Span;
use crate::verify::spec::matching::packets;

/// Reports rules for new connections that miss the packets of a `notrack` entry, and entries whose `answers` accept
/// unrequested packets.
pub(super) fn check(policy: &Policy, plan: &Plan, sink: &mut Sink) -> Result<(), GaveUp> {
    let written = policy.raw.iter().filter(|entry| entry.treatment.is_some());
    let entries = plan.raw.iter().zip(written);
    let spaces = Family::ALL.map(Space::new);
    let is_notrack = |entry: &PlannedRaw| matches!(entry.treatment, Treatment::NoTrack { .. });
    if !plan.raw.iter().any(is_notrack) {
        return Ok(());
    }
    // Rules and blocks match packets here whatever state they ask for.
    let mut plan = plan.clone();
    for rule in &mut plan.rules {
        rule.state = None;
    }
    for (entry, written) in entries.filter(|(entry, _)| entry.packets.enabled) {
        let Treatment::NoTrack { answers } = entry.treatment else {
            continue;
        };
        let untracked = Untracked {
            plan: &plan,
            spaces: &spaces,
            entry,
        };
        if let Some(span) = written.answers.filter(|_| answers) {
            untracked.answers(span, sink)?;
        }
        untracked.states(policy, written, sink)?;
    }
    Ok(())
}

/// A `notrack` entry.
struct Untracked<'a> {
    /// The plan, with rules of any state.
    plan: &'a Plan,
    spaces: &'a [Space; 2],
    entry: &'a PlannedRaw,
}

impl Untracked<'_> {
    /// Reports rules for new connections that miss the packets of the entry.
    fn states(
        &self,
        policy: &Policy,
        written: &policy::PolicyRaw,
        sink: &mut Sink,
    ) -> Result<(), GaveUp> {
        for (rule, of_rule) in self.plan.rules.iter().zip(&policy.rules) {
            // The state of a block holds for its rules, too.
            let blocks = policy.blocks_around(of_rule.in_block);
            let mut asked = std::iter::once(of_rule).chain(blocks);
            let lost = asked.find_map(|written| {
                let states = written.state.as_ref()?;
                let has = |state| states.iter().any(|one| one.value == state);
                (has(State::New) && !has(State::Untracked)).then_some(states)
            });
            let decides = rule.accepts() || rule.denies();
            let Some(span) = lost.filter(|_| decides) else {
                continue;
            };
            if !self.meets(rule)? {
                continue;
            }
            let span = span.first().map_or(rule.span, |state| state.span);
            let does = match rule.accepts() {
                true => "accept",
                false => "deny",
            };
            let message = format!("untracked packets are not new: the rule does not {does} them");
            sink.report(
                Diagnostic::error(Code::NotrackState, span, message)
                    .also(written.span, "this entry leaves them untracked")
                    .help("use `state = [\"new\", \"untracked\"]`, or remove `state`"),
            );
        }
        Ok(())
    }

    /// Reports the key `answers`. Without connection tracking the kernel cannot tell an answer from a forged packet, so
    /// answers to requests of this host are accepted from everyone to whom a rule accepts the requests.
    fn answers(&self, span: Span, sink: &mut Sink) -> Result<(), GaveUp> {
        let mut from = self.entry.packets.from.iter().flatten();
        if !from.any(|place| *place == Endpoint::Host) {
            return Ok(()); // no requests of this host, which is another finding
        }
        let mut asked = false;
        for rule in &self.plan.rules {
            asked |= rule.accepts() && self.meets(rule)?;
        }
        sink.report(match asked {
            true => notrack_answers::forged(span),
            false => notrack_answers::unasked(span),
        });
        Ok(())
    }

    /// Returns `true` if an enabled rule matches packets of the entry, apart from their state.
    fn meets(&self, rule: &PlannedRule) -> Result<bool, GaveUp> {
        for space in self.spaces {
            for hook in Hook::ALL {
                let ours = packets(self.plan, &self.entry.packets, space, hook)?;
                let theirs = packets(self.plan, rule, space, hook)?;
                let both = space.and(ours, theirs)?;
                if space.and(both, space.states(&[State::Untracked])?)? != space.none() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

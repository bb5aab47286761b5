//! What was seen of a rule in all its hooks and families, and what is reported of it.

use std::collections::BTreeSet;

use super::MOST_LABELS;
use crate::analysis::UnseenReason;
use crate::diag::{Diagnostic, Sink};
use crate::lints::{never_matches, redundant, shadowed, state_below_established};
use crate::net::State;
use crate::policy::Policy;
use crate::resolve::{Endpoint, Plan, PlannedRule, RuleAction, ServicePart};

/// What was seen of a rule in its hooks and families.
#[derive(Default)]
pub(super) struct RuleSummary {
    pub places: usize,
    /// It depends on what a packet does not tell.
    pub opaque: bool,
    /// Places where nothing gets as far, and the rules in front.
    pub shadowed: usize,
    pub by: BTreeSet<usize>,
    /// Places where the preamble alone accepts all.
    pub accepted_before: usize,
    /// Places where the preamble alone does the same with all.
    pub same_before: usize,
    /// Places where what comes behind would do the same, and the rules there.
    pub redundant: usize,
    pub behind: BTreeSet<usize>,
    /// Places where no packet exists that it matches.
    pub impossible: usize,
    /// Why.
    pub reasons: BTreeSet<UnseenReason>,
    /// What is to be said when the next rule comes too late for some packets; once is enough, as hooks and families are alike.
    pub contradiction: Option<Diagnostic>,
}

impl RuleSummary {
    /// What was seen in other places too.
    pub fn add(&mut self, other: Self) {
        self.places += other.places;
        self.opaque |= other.opaque;
        self.shadowed += other.shadowed;
        self.by.extend(other.by);
        self.accepted_before += other.accepted_before;
        self.same_before += other.same_before;
        self.redundant += other.redundant;
        self.behind.extend(other.behind);
        self.impossible += other.impossible;
        self.reasons.extend(other.reasons);
        self.contradiction = self.contradiction.take().or(other.contradiction);
    }

    pub fn report(self, index: usize, policy: &Policy, plan: &Plan, sink: &mut Sink) {
        if let Some(finding) = self.contradiction {
            sink.report(finding);
        }
        let rule = &plan.rules[index];
        let accepts = rule.action == RuleAction::Accept;
        let label = |rules: &BTreeSet<usize>, text: &str, mut finding: Diagnostic| {
            for other in rules.iter().take(MOST_LABELS) {
                finding = finding.also(plan.rules[*other].span, text);
            }
            finding
        };
        if self.shadowed == self.places && !self.by.is_empty() {
            let text = match self.by.len() {
                1 => "decides all its packets",
                _ => "decides some of its packets",
            };
            let finding = shadowed::by_rules(rule.span, 1);
            sink.report(label(&self.by, text, finding));
        } else if self.shadowed == self.places && is_below_established(plan, rule) {
            let written = policy.rules[index].state.as_ref();
            let span = written.and_then(|states| states.first());
            let span = span.map_or(rule.span, |state| state.span);
            sink.report(state_below_established::finding(span));
        } else if self.shadowed == self.places
            && (self.same_before < self.places || self.opaque || says_more(plan, rule))
        {
            let accepts = self.accepted_before == self.places;
            sink.report(shadowed::by_preamble(rule.span, accepts, is_icmp(rule)));
        } else if self.impossible == self.places && accepts {
            let why = UnseenReason::of(&self.reasons);
            let help = match why {
                UnseenReason::Never(_) => {
                    "its keys exclude each other: a state, an ICMP type, a loopback address"
                }
                UnseenReason::Unless(_) => why.help(""),
            };
            sink.report(never_matches::finding(rule.span, why.message()).help(help));
        } else if self.redundant == self.places && !self.behind.is_empty() {
            let finding = redundant::finding(rule.span, "this rule");
            let text = "does the same with its packets";
            sink.report(label(&self.behind, text, finding).help(match accepts {
                true => "remove it; if it was meant to narrow what is accepted, the later rule opens more",
                false => "remove it, if it is not there to be read",
            }));
        }
    }
}

/// Returns whether a rule is about connections that were accepted before only.
fn is_below_established(plan: &Plan, rule: &PlannedRule) -> bool {
    let decided = [State::Established, State::Related];
    let states = rule.state.as_ref();
    plan.defaults.established
        && states.is_some_and(|states| states.iter().all(|state| decided.contains(state)))
}

/// Returns whether a rule does more than to accept or deny all packets of some services, so that its writer misses it where the
/// preamble does the same with its packets.
fn says_more(plan: &Plan, rule: &PlannedRule) -> bool {
    #[rustfmt::skip]
    let PlannedRule {
        action, from, source, ipset, mac, mark, log, limit, connections,
        // A service as such is what the preamble accepts, whatever else narrows it.
        service: _, scope: _, state: _, to: _, destination: _, tcp_flags: _, user: _, group: _, schedule: _,
        expires: _, stage: _, order: _, enabled: _, span: _, label: _, named: _, comment: _, remark: _,
    } = rule;
    // An interface on lo is reported as such.
    let is_loopback = |place: &Endpoint| match place {
        Endpoint::Interface(index) => {
            let mut devices = plan.interfaces[*index].devices.iter();
            devices.all(|device| device.as_str() == "lo")
        }
        _ => false,
    };
    let is_whole = |place: &Endpoint| *place == Endpoint::Host || is_loopback(place);
    let narrows =
        |from: &Vec<Endpoint>| !from.contains(&Endpoint::Any) && !from.iter().all(is_whole);
    let accepts_some = *action == RuleAction::Accept
        && (from.as_ref().is_some_and(narrows)
            || source.is_some()
            || ipset.is_some()
            || mac.is_some()
            || mark.is_some());
    accepts_some || log.is_some() || limit.is_some() || connections.is_some()
}

fn is_icmp(rule: &PlannedRule) -> bool {
    let is_icmp =
        |part: &ServicePart| matches!(part, ServicePart::Icmp(_) | ServicePart::Icmpv6(_));
    let parts = rule.service.as_ref();
    parts.is_some_and(|parts| parts.iter().all(is_icmp))
}

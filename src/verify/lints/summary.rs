//! The lint results for a rule over all its hooks and families, and the finding that follows from them.

use std::collections::BTreeSet;

use super::MOST_LABELS;
use crate::analysis::UnseenReason;
use crate::diag::{Diagnostic, Sink};
use crate::lints::{never_matches, redundant, shadowed, state_below_established};
use crate::net::{Family, State};
use crate::policy::Policy;
use crate::resolve::{Endpoint, Plan, PlannedRule, RuleAction, ServicePart};
use crate::verify::spec::matching::hooks;

/// The results for a rule. A place is one hook in one family.
#[derive(Default)]
pub(super) struct RuleSummary {
    /// The number of places in which it has packets.
    pub places: usize,
    /// `true` if it depends on conditions that a packet alone does not answer.
    pub opaque: bool,
    /// The number of places where earlier lines decide all its packets.
    pub shadowed: usize,
    /// The rules that do so, by index.
    pub by: BTreeSet<usize>,
    /// The number of places where the preamble alone accepts all its packets.
    pub accepted_before: usize,
    /// The number of places where the preamble alone does the same with all its packets.
    pub same_before: usize,
    /// The number of places where later lines would do the same with all its packets.
    pub redundant: usize,
    /// The rules that would do so, by index.
    pub behind: BTreeSet<usize>,
    /// The number of places where no real packet matches.
    pub impossible: usize,
    /// The reasons for that.
    pub reasons: BTreeSet<UnseenReason>,
    /// The finding if the next rule comes too late for some packets. One is enough, because hooks and families are alike.
    pub contradiction: Option<Diagnostic>,
}

impl RuleSummary {
    /// Adds the results of the other family.
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

    /// Reports the findings for the rule: a contradiction, and at most one of shadowed, impossible and redundant.
    pub fn report(self, index: usize, policy: &Policy, plan: &Plan, sink: &mut Sink) {
        if let Some(finding) = self.contradiction {
            sink.report(finding);
        }
        let rule = &plan.rules[index];
        let accepts = rule.accepts();
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
                    "its keys exclude each other: check its state, ICMP types and loopback addresses"
                }
                UnseenReason::Unless(_) => why.help(""),
            };
            sink.report(never_matches::finding(rule.span, why.message()).help(help));
        } else if self.redundant == self.places && !self.behind.is_empty() {
            let finding = redundant::finding(rule.span, "this rule");
            let text = "does the same with its packets";
            sink.report(label(&self.behind, text, finding).help(match accepts {
                true => {
                    "remove it; if it was meant to restrict access, the later rule accepts more"
                }
                false => "remove it, unless it is there as documentation",
            }));
        }
    }
}

/// Returns `true` if a rule matches only states that the preamble accepts (`established`).
fn is_below_established(plan: &Plan, rule: &PlannedRule) -> bool {
    let decided = [State::Established, State::Related];
    let states = rule.state.as_ref();
    let families = Family::ALL.into_iter();
    let mut families = families.filter(|family| plan.defaults.families.has(*family));
    let hooks = hooks(rule);
    families.all(|family| {
        let established = &plan.defaults[family].established;
        hooks.iter().all(|hook| established[*hook])
    }) && states.is_some_and(|states| states.iter().all(|state| decided.contains(state)))
}

/// Returns `true` if a rule does more than accept or deny all packets of some services. Such a rule is reported even if the
/// preamble does the same with its packets, because its author would miss the effect of the other keys.
fn says_more(plan: &Plan, rule: &PlannedRule) -> bool {
    #[rustfmt::skip]
    let PlannedRule {
    action, from, source, ipset, mac, mark, original, matches, log, limit, connections, not_from,
        // The preamble accepts whole services, whatever else narrows the rule.
        service: _, not_service: _, scope: _, state: _, to: _, not_to: _, destination: _, tcp_flags: _, user: _, group: _, schedule: _,
        expires: _, stage: _, order: _, enabled: _, in_block: _, span: _, label: _, named: _, comment: _, remark: _,
    } = rule;
    // An interface on `lo` has a finding of its own.
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
    let accepts_some = matches!(action, RuleAction::Accept | RuleAction::Block(_))
        && (from.as_ref().is_some_and(narrows)
            || not_from.is_some()
            || source.is_some()
            || ipset.is_some()
            || mac.is_some()
            || mark.is_some()
            || original.is_some()
            || matches.is_some());
    accepts_some || log.is_some() || limit.is_some() || connections.is_some()
}

fn is_icmp(rule: &PlannedRule) -> bool {
    let is_icmp = |part: &ServicePart| match part {
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => true,
        ServicePart::Ports(_) | ServicePart::Protocol(_) => false,
    };
    let parts = rule.service.as_ref();
    parts.is_some_and(|parts| parts.iter().all(is_icmp))
}

//! Checks resolved rules: each key is valid by itself, but together they are wrong.

use std::collections::HashMap;

use super::matches;
use super::plan::{Endpoint, Plan, PlannedRule};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Hook};
use crate::policy::{self, CustomTable, Policy};

mod definitions;
mod everything;
mod keys;
mod nat;
mod nothing;

pub use definitions::{antispoof, devices, unique_names};
pub use nat::nat;
use nothing::{Obstacle, obstacle};

/// Checks the rules of the plan, each by itself. `plan.rules` have the order of `policy.rules`; `sound` tells which can
/// be checked.
pub fn rules(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for ((rule, written), sound) in plan.rules.iter().zip(&policy.rules).zip(sound) {
        if *sound {
            let checked = Checked::new(plan, rule, written);
            checked.report(plan, policy, sink);
        }
    }
}

/// Checks the packets of the tests, each by itself. `plan.tests` have the order of `policy.tests`.
pub fn tests(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for ((test, written), sound) in plan.tests.iter().zip(&policy.tests).zip(sound) {
        if *sound {
            let checked = Checked::new(plan, &test.packets, &written.packets);
            checked.has_packets("test", sink);
        }
    }
}

/// Checks the packets of a question, such as one of `fwc explain`.
pub fn question(plan: &Plan, rule: &PlannedRule, written: &policy::PolicyRule, sink: &mut Sink) {
    Checked::new(plan, rule, written).has_packets("question", sink);
}

/// A rule, or an entry with the keys of a rule, that is being checked.
pub struct Checked<'a> {
    rule: &'a PlannedRule,
    written: &'a policy::PolicyRule,
    /// Each element of `from` with each of `to`, without the pair of host and host.
    pairs: Vec<(Endpoint, Endpoint)>,
    /// Why the rule matches nothing in a family.
    obstacles: HashMap<Family, Obstacle>,
}

impl<'a> Checked<'a> {
    /// Prepares the check of a rule of the plan, `written` is the same rule in the policy.
    pub fn new(plan: &Plan, rule: &'a PlannedRule, written: &'a policy::PolicyRule) -> Self {
        Self::with_pairs(plan, rule, written, pairs(rule))
    }

    /// The same with other pairs of `from` and `to` than a rule has.
    pub fn with_pairs(
        plan: &Plan,
        rule: &'a PlannedRule,
        written: &'a policy::PolicyRule,
        pairs: Vec<(Endpoint, Endpoint)>,
    ) -> Self {
        let obstacles = Family::ALL
            .into_iter()
            .filter_map(|family| Some((family, obstacle(plan, rule, &pairs, family)?)))
            .collect();
        Self {
            rule,
            written,
            pairs,
            obstacles,
        }
    }

    /// Adds the reason why nothing matches in a family, unless there is one already.
    pub fn add_obstacle(&mut self, family: Family, obstacle: Obstacle) {
        self.obstacles.entry(family).or_insert(obstacle);
    }

    fn report(&self, plan: &Plan, policy: &Policy, sink: &mut Sink) {
        self.report_packets(plan, "rule", sink);
        self.everything(plan, policy, sink);
        self.matches(policy, sink);
        self.limits(sink);
        self.limit_prefixes(sink);
    }

    /// Reports what is wrong with the keys that choose packets. `what` names the kind of the entry in messages.
    pub fn report_packets(&self, plan: &Plan, what: &str, sink: &mut Sink) {
        self.has_packets(what, sink);
        self.extension_headers(sink);
        self.negation_one_family(plan, sink);
        self.leaves_nothing(plan, sink);
        self.one_family(plan, sink);
        self.tcp_flags(sink);
        self.mac_from_host(sink);
        self.user_not_from_host(sink);
        self.ipset_scope(sink);
    }

    /// Reports a rule or entry that no packet can match.
    fn has_packets(&self, what: &str, sink: &mut Sink) {
        self.host_to_host(what, sink);
        self.matches_nothing(what, sink);
    }

    /// Reports a `match` that iptables does not take in one of the rule's lines, or that a key says.
    fn matches(&self, policy: &Policy, sink: &mut Sink) {
        let hook_of = |pair: &(Endpoint, Endpoint)| match pair {
            (Endpoint::Host, _) => Hook::Output,
            (_, Endpoint::Host) => Hook::Input,
            _ => Hook::Forward,
        };
        let hooks = Hook::ALL.into_iter();
        let hooks = hooks.filter(|hook| self.pairs.iter().any(|pair| hook_of(pair) == *hook));
        let chains = hooks.map(Hook::chain).collect();
        let has_flags = self.rule.tcp_flags.is_some();
        self.matches_in(policy, (CustomTable::Filter, chains, has_flags), sink);
    }

    /// Reports a `match` that iptables does not take in one of the lines, by their table and base chains and whether they ask
    /// for TCP flags, or that a key says.
    pub fn matches_in(
        &self,
        policy: &Policy,
        (table, chains, has_flags): (CustomTable, Vec<&'static str>, bool),
        sink: &mut Sink,
    ) {
        let Some(text) = &self.written.matches else {
            return;
        };
        let families = Family::ALL.into_iter();
        let families = families.filter(|family| !self.obstacles.contains_key(family));
        let lines = matches::Lines {
            table,
            chains,
            families: families.collect(),
            service: self.rule.service.as_deref(),
            has_flags,
        };
        matches::check(policy, text, &lines, sink);
    }

    fn host_to_host(&self, what: &str, sink: &mut Sink) {
        if !self.pairs.is_empty() {
            return;
        }
        let keys = [&self.written.to, &self.written.from];
        let span = keys.into_iter().flatten().flatten().next();
        sink.report(
            Diagnostic::error(
                Code::HostToHost,
                span.map_or(self.rule.span, |name| name.span),
                format!("the {what} goes from this host to this host only"),
            )
            .help("packets from this host to itself pass on lo; name an interface or `any` on one side"),
        );
    }
}

/// Returns the families in which a rule may match packets, by each of its keys alone.
pub fn families(plan: &Plan, rule: &PlannedRule) -> Vec<Family> {
    let pairs = pairs(rule);
    let families = Family::ALL.into_iter();
    families
        .filter(|family| obstacle(plan, rule, &pairs, *family).is_none())
        .collect()
}

/// Returns the hooks of a rule.
pub fn hooks(rule: &PlannedRule) -> Vec<Hook> {
    let pairs = pairs(rule);
    let has = |hook: &Hook| pairs.iter().any(|pair| hook_of(pair) == *hook);
    Hook::ALL.into_iter().filter(has).collect()
}

fn hook_of(pair: &(Endpoint, Endpoint)) -> Hook {
    match pair {
        (Endpoint::Host, _) => Hook::Output,
        (_, Endpoint::Host) => Hook::Input,
        _ => Hook::Forward,
    }
}

/// Returns the pairs of `from` and `to`, with their defaults where they are not written.
fn pairs(rule: &PlannedRule) -> Vec<(Endpoint, Endpoint)> {
    let any = [Endpoint::Any];
    let host = [Endpoint::Host];
    let from = rule.from.as_deref().unwrap_or(&any);
    let only_from_host = from.iter().all(|place| *place == Endpoint::Host);
    let default_to = if only_from_host { &any } else { &host };
    let to = rule.to.as_deref().unwrap_or(default_to);
    let pairs = from
        .iter()
        .flat_map(|from| to.iter().map(move |to| (*from, *to)));
    pairs
        .filter(|pair| *pair != (Endpoint::Host, Endpoint::Host))
        .collect()
}

//! Lints on the packet sets of a policy: rules and entries that do nothing, and ports that are open to the world.
//!
//! Each finding is proven for all packets of the rule or entry, in every hook and family in which it has packets. A rule that
//! depends on conditions which a packet alone does not answer (a rate, a schedule, a user, a set that other programs fill) can
//! be reported as shadowed, but never makes another rule shadowed or redundant. The preamble (`[defaults]`) is never reported.

mod changes;
mod denied;
mod entries;
mod exposed;
mod first;
mod rules;
mod summary;
mod world;

use std::collections::BTreeMap;

use self::exposed::exposed;
use self::rules::LintedChain;
use self::summary::RuleSummary;
use super::families::in_both;
use super::spec::custom::changed_sets;
use super::spec::matching::{packets, set_name};
use super::verifier::Specified;
use crate::analysis::GaveUp;
use crate::diag::{Diagnostic, Sink};
use crate::lints::{default_unreached, never_matches};
use crate::net::{Family, Hook};
use crate::policy::DynamicSet;
use crate::policy::{DefaultAction, Policy};
use crate::resolve::{Finally, Members, Plan, PlannedRule, RuleAction};

/// Reports rules and entries that change nothing, defaults that no packet reaches and ports that are open to the world.
pub(super) fn lints(
    policy: &Policy,
    plan: &Plan,
    families: &mut [Specified; 2],
    sink: &mut Sink,
) -> Result<(), GaveUp> {
    let (changing, mut own);
    let (plan, families) = match with_changing_sets(plan) {
        None => (plan, families),
        Some(with_sets) => {
            changing = with_sets;
            own = Specified::both(&changing);
            (&changing, &mut own)
        }
    };
    let [v4, v6] = in_both(families, |family| {
        // The space already has the packet sets of the proof. If the lints do not fit beside them, start with an empty one.
        Found::of(plan, family).or_else(|_| {
            *family = Specified::of(plan, family.space.family());
            Found::of(plan, family)
        })
    });
    let (mut all, more) = (v4?, v6?);
    all.add(more);
    for finding in all.exposed.into_values().chain(all.open) {
        sink.report(finding);
    }
    for (index, seen) in all.seen {
        seen.report(index, policy, plan, sink);
    }
    for rule in without_packets_of_block(plan, families)? {
        sink.report(
            never_matches::finding(
                rule.span,
                "no packet of its block matches this rule".to_owned(),
            )
            .also(
                plan.rules[rule.in_block.unwrap_or_default()].span,
                "the block",
            )
            .help("a packet must match the keys of the block, too"),
        );
    }
    entries::report(all.entries, &all.denied, policy, plan, families, sink)?;
    // A default that packets of one family reach is needed.
    let families = Family::ALL.into_iter();
    let families = families.filter(|family| plan.defaults.families.has(*family));
    let families: Vec<Family> = families.collect();
    for (hook, rules) in all.closed {
        if let Some(last) = rules.iter().max()
            && rules.len() == families.len()
        {
            unreached((hook, &families), *last, plan, policy, sink);
        }
    }
    Ok(())
}

/// Returns the enabled rules of blocks that match packets, but none of their block.
fn without_packets_of_block<'p>(
    plan: &'p Plan,
    families: &[Specified; 2],
) -> Result<Vec<&'p PlannedRule>, GaveUp> {
    let mut found = Vec::new();
    for rule in &plan.rules {
        let Some(block) = rule.in_block.filter(|_| rule.enabled) else {
            continue;
        };
        let alone = PlannedRule {
            in_block: None,
            ..rule.clone()
        };
        let matched = |rule: &PlannedRule| -> Result<bool, GaveUp> {
            for Specified { space, .. } in families {
                for hook in Hook::ALL {
                    if packets(plan, rule, space, hook)? != space.none() {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        };
        if !matched(rule)? && matched(&alone)? && matched(&plan.rules[block])? {
            found.push(rule);
        }
    }
    Ok(found)
}

/// Returns the plan with each static set that custom rules change as a dynamic set, because its members may differ later from
/// those of the policy; `None` if custom rules change no set.
fn with_changing_sets(plan: &Plan) -> Option<Plan> {
    let changed = Family::ALL.map(|family| (family, changed_sets(plan, family)));
    let is_changed = |name: &str| {
        let mut families = changed.iter();
        families.any(|(family, changed)| changed.contains(&set_name(name, *family)))
    };
    let mut plan = plan.clone();
    let changing = plan.sets.iter_mut().filter(|set| is_changed(&set.name));
    let count = changing
        .map(|set| {
            set.members = Members::Dynamic(DynamicSet::default());
        })
        .count();
    (count > 0).then_some(plan)
}

/// The findings of a family.
#[derive(Default)]
struct Found {
    /// Nat entries that open a guarded port to the world, by index.
    exposed: BTreeMap<usize, Diagnostic>,
    /// Rules that open a guarded port to the world.
    open: Vec<Diagnostic>,
    /// The rules, by index.
    seen: BTreeMap<usize, RuleSummary>,
    /// The entries of nat, mangle and raw.
    entries: entries::EntrySummaries,
    /// The nat entries whose packets the filter table denies.
    denied: denied::DeniedEntries,
    /// The rules after which no packet is left for the default of the hook, one for each family.
    closed: BTreeMap<Hook, Vec<usize>>,
}

impl Found {
    fn of(plan: &Plan, Specified { space, spec }: &Specified) -> Result<Self, GaveUp> {
        let spec = spec.as_ref().map_err(|gave_up| *gave_up)?;
        let mut found = Self {
            exposed: exposed(plan, space, spec)?,
            entries: entries::check(plan, space, spec)?,
            denied: denied::check(plan, space, spec)?,
            ..Self::default()
        };
        for hook in Hook::ALL {
            let chain = LintedChain::new(plan, space, spec, hook)?;
            for at in 0..chain.lines.len() {
                chain.check(at, &mut found)?;
            }
            if let Some(first) = chain.closed_by()? {
                found.closed.insert(hook, vec![first]);
            }
        }
        Ok(found)
    }

    /// Adds the findings of the other family.
    fn add(&mut self, other: Self) {
        for (index, finding) in other.exposed {
            self.exposed.entry(index).or_insert(finding);
        }
        self.open.extend(other.open);
        for (index, seen) in other.seen {
            self.seen.entry(index).or_default().add(seen);
        }
        for (entry, seen) in other.entries {
            self.entries.entry(entry).or_default().add(seen);
        }
        for (index, seen) in other.denied {
            self.denied.entry(index).or_default().add(seen);
        }
        for (hook, rules) in other.closed {
            self.closed.entry(hook).or_default().extend(rules);
        }
    }
}

/// The maximum number of other rules to show with a finding.
const MOST_LABELS: usize = 4;

fn unreached(
    (hook, families): (Hook, &[Family]),
    rule: usize,
    plan: &Plan,
    policy: &Policy,
    sink: &mut Sink,
) {
    let key = match hook {
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
    };
    let does = match plan.rules[rule].action {
        RuleAction::Accept | RuleAction::Block(Finally::Accept) => DefaultAction::Accept,
        RuleAction::Drop | RuleAction::Block(Finally::Drop) => DefaultAction::Drop,
        RuleAction::Reject(_) | RuleAction::Block(Finally::Reject(_)) => DefaultAction::Reject,
        RuleAction::Log | RuleAction::Continue | RuleAction::Block(Finally::Next) => return,
    };
    let differs = |family: &&Family| plan.defaults[**family].actions[hook] != does;
    let other = families.iter().find(differs);
    let same = other.is_none();
    let family = other.or(families.first());
    let written = family.and_then(|family| {
        let defaults = &policy.defaults;
        defaults.place(*family, |keys| &keys.actions[hook])
    });
    let span = plan.rules[rule].span;
    sink.report(default_unreached::finding(span, key, same, written));
}

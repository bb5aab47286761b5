//! Entries of `[[nat]]` without effect because the filter table denies every new connection that they translate.

use std::collections::{BTreeMap, BTreeSet};

use super::MOST_LABELS;
use crate::analysis::{BaseChain, GaveUp, Set, Space, Verdict};
use crate::diag::Diagnostic;
use crate::iptables::TableName;
use crate::lints::shadowed;
use crate::net::{Hook, State};
use crate::policy::NatChain;
use crate::resolve::{Endpoint, Ownership, Plan, PlannedTranslation};
use crate::verify::spec::Spec;
use crate::verify::spec::nat;

/// The verdicts on the packets of a nat entry, over all hooks and families.
#[derive(Debug, Default)]
pub(super) struct DeniedEntry {
    /// The number of hooks in which it has packets.
    places: usize,
    /// The number of hooks in which all of them are denied.
    denied: usize,
    /// The rules that deny them, by index.
    by: BTreeSet<usize>,
}

/// The nat entries, by index in [`Plan::nat`].
pub(super) type DeniedEntries = BTreeMap<usize, DeniedEntry>;

impl DeniedEntry {
    /// Adds the counts of the other family.
    pub fn add(&mut self, other: Self) {
        self.places += other.places;
        self.denied += other.denied;
        self.by.extend(other.by);
    }

    /// Returns the finding if all packets that the entry translates are denied.
    pub fn finding(&self, index: usize, plan: &Plan) -> Option<Diagnostic> {
        if self.places == 0 || self.denied < self.places {
            return None;
        }
        let mut finding = shadowed::denied(plan.nat[index].packets.span);
        let text = match self.by.len() {
            1 => "denies what it translates",
            _ => "denies some of what it translates",
        };
        for rule in self.by.iter().take(MOST_LABELS) {
            finding = finding.also(plan.rules[*rule].span, text);
        }
        Some(match self.by.is_empty() {
            true => finding.help(
                "the default denies its packets: accept them in a rule with its `from` and `to`",
            ),
            false => finding.help(
                "remove it, or accept its packets before the rule that denies them: \
                 the accept of an entry comes after all rules",
            ),
        })
    }
}

/// Checks the nat entries in one family. In shared mode, or with preserved chains, rules of other programs may accept what the
/// policy denies, so nothing is reported.
pub(super) fn check(plan: &Plan, space: &Space, spec: &Spec) -> Result<DeniedEntries, GaveUp> {
    let mut all = DeniedEntries::new();
    let nobody_else = Ownership::Exclusive {
        preserve: Vec::new(),
    };
    if plan.ownership != nobody_else {
        return Ok(all);
    }
    for hook in Hook::ALL {
        let filter = (TableName::Filter, BaseChain::from(hook));
        let verdicts = spec.behaviour.flow(space, filter).verdicts;
        let passing = space
            .parts(verdicts)?
            .into_iter()
            .filter(|(verdict, _)| !matches!(verdict, Some(Verdict::Drop | Verdict::Reject(_))));
        let passes = space.any(passing.map(|(_, set)| set))?;
        let new = space.and(space.as_state(State::New)?, space.valid(hook.into())?)?;
        for (index, entry) in plan.nat.iter().enumerate() {
            if let PlannedTranslation::Untranslated(_) = entry.translation {
                continue;
            }
            let mut packets = nat::translated_in(plan, space, index, hook)?;
            if hook == Hook::Forward || (hook == Hook::Output && is_of_anyone(plan, index)) {
                packets = space.or(packets, leaving(spec, space, index)?)?;
            }
            let packets = space.and(packets, new)?;
            if packets == space.none() {
                continue;
            }
            let seen = all.entry(index).or_default();
            seen.places += 1;
            if space.and(packets, passes)? == space.none() {
                seen.denied += 1;
                seen.by.extend(denying(spec, space, hook, packets)?);
            }
        }
    }
    Ok(all)
}

/// Returns `true` if an entry also applies to packets of this host.
fn is_of_anyone(plan: &Plan, index: usize) -> bool {
    let from = plan.nat[index].packets.from.as_ref();
    from.is_none_or(|from| from.contains(&Endpoint::Any) || from.contains(&Endpoint::Host))
}

/// Returns the packets whose source an entry translates.
fn leaving(spec: &Spec, space: &Space, index: usize) -> Result<Set, GaveUp> {
    let entries = spec.translated.iter();
    let own =
        entries.filter(|(chain, entry, _)| *chain == NatChain::Postrouting && *entry == index);
    space.any(own.map(|(_, _, packets)| *packets))
}

/// Returns the rules that deny packets of a set, in their order.
fn denying(spec: &Spec, space: &Space, hook: Hook, mut left: Set) -> Result<Vec<usize>, GaveUp> {
    let mut rules = Vec::new();
    for decision in spec.decisions.get(&hook).into_iter().flatten() {
        let here = space.and(left, decision.set)?;
        if decision.verdict.is_none() || here == space.none() {
            continue;
        }
        rules.extend(decision.rule);
        left = space.minus(left, decision.set)?;
    }
    Ok(rules)
}

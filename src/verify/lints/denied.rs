//! Translations of which nothing comes: the filter table denies every new connection that an entry of `[[nat]]` translates.

use std::collections::{BTreeMap, BTreeSet};

use super::MOST_LABELS;
use crate::analysis::{BaseChain, GaveUp, Set, Space, Verdict};
use crate::diag::Diagnostic;
use crate::iptables::TableName;
use crate::lints::shadowed;
use crate::net::{Hook, State};
use crate::policy::NatChain;
use crate::resolve::{Endpoint, Ownership, Plan};
use crate::verify::spec::Spec;
use crate::verify::spec::nat;

/// What was seen of an entry in its hooks and families.
#[derive(Debug, Default)]
pub(super) struct DeniedEntry {
    /// Hooks in which it has packets.
    places: usize,
    /// Those in which all of them are denied, and the rules that do it.
    denied: usize,
    by: BTreeSet<usize>,
}

/// What was seen of each entry, by its index in [`Plan::nat`].
pub(super) type DeniedEntries = BTreeMap<usize, DeniedEntry>;

impl DeniedEntry {
    /// Adds what was seen in the other family.
    pub fn add(&mut self, other: Self) {
        self.places += other.places;
        self.denied += other.denied;
        self.by.extend(other.by);
    }

    /// Returns the finding, where nothing that the entry translates gets through.
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
            true => {
                finding.help("the default denies it: accept it in a rule, with its `from` and `to`")
            }
            false => finding.help(
                "remove it, or accept its packets in front of the rule that denies them: \
                 what an entry accepts is asked behind all rules",
            ),
        })
    }
}

/// Looks at the entries in one family. Where others have rules beside those of fwc nothing is known of what they let through.
pub(super) fn look(plan: &Plan, space: &Space, spec: &Spec) -> Result<DeniedEntries, GaveUp> {
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
        for index in 0..plan.nat.len() {
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

/// Returns whether an entry is also for what this host itself sends.
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

/// Returns the rules that deny some of a set, in their order.
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

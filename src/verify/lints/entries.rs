//! Entries of `[[nat]]`, `[[mangle]]` and `[[raw]]` that do nothing.
//!
//! An entry stands in several base chains, and what it lets pass in the filter table: it is spoken of only where all of that
//! is idle. What is found base chain by base chain is proven once more for the tables beside the entry's own, with a policy
//! that lacks it: they do the same, or on the ways of all packets none comes with which they do not.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use super::{MOST_LABELS, changes, denied, first};
use crate::analysis::{
    BaseChain, Behaviour, Field, GaveUp, Path, Set, Space, TableChain, UnseenReason, places,
};
use crate::diag::{Diagnostic, Sink};
use crate::iptables::TableName;
use crate::lints::{never_matches, redundant, shadowed};
use crate::net::Hook;
use crate::policy::Policy;
use crate::resolve::{Ownership, Plan, PlannedRule, PlannedTranslation};
use crate::verify::condition::Condition;
use crate::verify::families::in_both;
use crate::verify::spec::{Spec, spec};
use crate::verify::verifier::Specified;

/// An entry, by its index in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    Nat(usize),
    Mangle(usize),
    Raw(usize),
}

impl Entry {
    /// Returns its index among the entries of its table.
    pub fn index(self) -> usize {
        match self {
            Self::Nat(index) | Self::Mangle(index) | Self::Raw(index) => index,
        }
    }

    fn packets(self, plan: &Plan) -> &PlannedRule {
        match self {
            Self::Nat(index) => &plan.nat[index].packets,
            Self::Mangle(index) => &plan.mangle[index].packets,
            Self::Raw(index) => &plan.raw[index].packets,
        }
    }

    /// Returns the plan as it is without the entry.
    fn taken_from(self, plan: &Plan) -> Plan {
        let mut without = plan.clone();
        let packets = match self {
            Self::Nat(index) => &mut without.nat[index].packets,
            Self::Mangle(index) => &mut without.mangle[index].packets,
            Self::Raw(index) => &mut without.raw[index].packets,
        };
        packets.enabled = false;
        without
    }

    /// Returns whether it is written as an entry: the helpers of services belong to rules.
    fn is_written(self, policy: &Policy) -> bool {
        match self {
            Self::Raw(index) => index < policy.raw.len(),
            Self::Nat(_) | Self::Mangle(_) => true,
        }
    }
}

/// What another entry has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// It has its packets before.
    Takes,
    /// It changes the mark that is asked for.
    Marks,
    /// It changes the same thing later.
    Overwrites,
    /// It does the same later.
    DoesSame,
    /// It did the same before.
    DidSame,
}

/// What was seen of an entry in its base chains and families.
#[derive(Debug, Default)]
pub(super) struct EntrySummary {
    places: usize,
    /// Places where others leave nothing of what it does.
    shadowed: usize,
    /// Places where others do the same.
    redundant: usize,
    /// Places where no packet exists that it matches, and why.
    impossible: usize,
    reasons: BTreeSet<UnseenReason>,
    /// Who is behind all that.
    others: BTreeMap<Entry, Role>,
}

/// What was seen of each entry.
pub(super) type EntrySummaries = BTreeMap<Entry, EntrySummary>;

impl EntrySummary {
    /// Another place where it stands.
    pub fn place(&mut self) {
        self.places += 1;
    }

    /// The place is one where it does nothing, because of others.
    pub fn idle(&mut self, others: impl IntoIterator<Item = (Entry, Role)>) {
        let is_same = |role| matches!(role, Role::DoesSame | Role::DidSame);
        let mut all_same = true;
        for (other, role) in others {
            all_same &= is_same(role);
            self.others.entry(other).or_insert(role);
        }
        match all_same {
            true => self.redundant += 1,
            false => self.shadowed += 1,
        }
    }

    /// Looks whether the place is one that no packet comes to that a kernel shows.
    pub fn look_at_packets(
        &mut self,
        space: &Space,
        chain: BaseChain,
        set: Set,
    ) -> Result<(), GaveUp> {
        let set = match chain {
            // What routing refuses, or a translation makes, still comes by here.
            BaseChain::Prerouting | BaseChain::Postrouting => space.project(set, |field| {
                let is_address = matches!(field, Field::Source | Field::Destination);
                !is_address && field.address().is_none()
            })?,
            BaseChain::Input | BaseChain::Forward | BaseChain::Output => set,
        };
        if space.and(set, space.valid(chain)?)? == space.none() {
            self.impossible += 1;
            self.reasons.insert(space.impossible_because(chain, set)?);
        }
        Ok(())
    }

    /// What was seen in other places too.
    pub fn add(&mut self, other: Self) {
        self.places += other.places;
        self.shadowed += other.shadowed;
        self.redundant += other.redundant;
        self.impossible += other.impossible;
        self.reasons.extend(other.reasons);
        for (entry, role) in other.others {
            self.others.entry(entry).or_insert(role);
        }
    }

    /// Returns whether it does nothing wherever it stands in its own table.
    fn is_idle(&self) -> bool {
        self.places > 0 && self.shadowed + self.redundant == self.places
    }

    fn finding(&self, entry: Entry, plan: &Plan) -> Diagnostic {
        let span = entry.packets(plan).span;
        let has = |role| self.others.values().any(|other| *other == role);
        let (mut finding, help) = if self.shadowed < self.places {
            let help = "remove it, if it is not there to be read";
            (redundant::finding(span, "this entry"), help)
        } else if has(Role::Overwrites) {
            let help = "remove it, or put it behind what overwrites it";
            (shadowed::overwritten(span), help)
        } else {
            let help = match has(Role::Marks) {
                true => "remove it, or put it in front of what changes the mark that it asks for",
                false => "remove it, or put it in front of what takes its packets",
            };
            (shadowed::entry(span), help)
        };
        for (other, role) in self.others.iter().take(MOST_LABELS) {
            let text = match (role, self.others.len()) {
                (Role::Takes, 1) => "takes all that it is for",
                (Role::Takes, _) => "takes some of what it is for",
                (Role::Marks, _) => "changes the mark of its packets",
                (Role::Overwrites, 1) => "overwrites what it sets",
                (Role::Overwrites, _) => "overwrites some of what it sets",
                (Role::DoesSame, _) => "does the same with its packets",
                (Role::DidSame, _) => "has done the same with its packets",
            };
            finding = finding.also(other.packets(plan).span, text);
        }
        finding.help(help)
    }
}

/// Looks at each entry in a family, base chain by base chain.
pub(super) fn look(plan: &Plan, space: &Space, spec: &Spec) -> Result<EntrySummaries, GaveUp> {
    let mut seen = EntrySummaries::new();
    first::look(plan, space, &mut seen)?;
    changes::look(plan, space, &spec.custom, &mut seen)?;
    Ok(seen)
}

/// Reports what was seen in both families.
pub(super) fn report(
    seen: EntrySummaries,
    denied: &denied::DeniedEntries,
    policy: &Policy,
    plan: &Plan,
    families: &mut [Specified; 2],
    sink: &mut Sink,
) -> Result<(), GaveUp> {
    let written = |entry: &Entry| entry.is_written(policy);
    let idle = seen.iter().filter(|(_, seen)| seen.is_idle());
    let idle: Vec<Entry> = idle.map(|(entry, _)| *entry).filter(written).collect();
    let idle = changing_nothing(plan, families, &idle)?;
    for (entry, seen) in seen.iter().filter(|(entry, _)| written(entry)) {
        if idle.contains(entry) {
            sink.report(seen.finding(*entry, plan));
        } else if seen.impossible == seen.places {
            let span = entry.packets(plan).span;
            // In several places there may be a reason for each.
            let why = UnseenReason::of(&seen.reasons);
            let finding = never_matches::finding(span, why.message());
            sink.report(finding.help(why.help("its keys exclude each other")));
        } else if let Entry::Nat(index) = entry {
            let seen = denied.get(index);
            if let Some(finding) = seen.and_then(|seen| seen.finding(*index, plan)) {
                sink.report(finding);
            }
        }
    }
    Ok(())
}

/// Returns those of some entries without which nothing changes in the other tables either, in both families: an entry of nat
/// also accepts, and one that is not tracked lets replies pass.
fn changing_nothing(
    plan: &Plan,
    families: &mut [Specified; 2],
    entries: &[Entry],
) -> Result<Vec<Entry>, GaveUp> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let same = |Specified { space, spec }: &mut Specified| {
        let mut whole = Whole {
            plan,
            space,
            behaviour: &spec.as_ref().map_err(|gave_up| *gave_up)?.behaviour,
            paths: BTreeMap::new(),
        };
        let same = entries.iter().map(|entry| whole.is_same_without(*entry));
        same.collect::<Result<Vec<bool>, _>>()
    };
    let [v4, v6] = in_both(families, same);
    let both = v4?.into_iter().zip(v6?).map(|(v4, v6)| v4 && v6);
    let kept = entries.iter().zip(both).filter(|(_, same)| *same);
    Ok(kept.map(|(entry, _)| *entry).collect())
}

/// All tables of a family.
struct Whole<'a> {
    plan: &'a Plan,
    space: &'a Space,
    behaviour: &'a Behaviour,
    /// The ways of all packets, as far as they were asked for.
    paths: BTreeMap<Hook, Path>,
}

impl Whole<'_> {
    /// Returns whether what an entry of nat or raw has in other tables is idle too, where it is in its own.
    fn is_same_without(&mut self, entry: Entry) -> Result<bool, GaveUp> {
        if let Entry::Mangle(_) = entry {
            // It has nothing elsewhere.
            return Ok(true);
        }
        let without = spec(&entry.taken_from(self.plan), self.space)?;
        let others = without.behaviour;
        for differ in self.behaviour.differences(self.space, &others)? {
            let place = (differ.table, differ.chain);
            let is_elsewhere = match differ.table {
                TableName::Filter | TableName::Raw => true,
                TableName::Nat => is_only_for_hairpins(self.plan, entry, differ.chain),
                TableName::Mangle | TableName::Security => false,
            };
            if is_elsewhere && self.comes(place, differ.packets)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether one of these packets comes to a place: to one that an entry is for which translates nothing, none
    /// does that is translated to there, where nobody else translates.
    fn comes(&mut self, place: TableChain, packets: Set) -> Result<bool, GaveUp> {
        let nobody_else = Ownership::Exclusive {
            preserve: Vec::new(),
        };
        if self.plan.ownership != nobody_else {
            return Ok(true);
        }
        for hook in Hook::ALL {
            if !places(hook).contains(&place) {
                continue;
            }
            let path = match self.paths.entry(hook) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(free) => {
                    let (space, silent) = (self.space, self.behaviour.silent());
                    free.insert(Path::of(space, &silent, hook, space.all())?)
                }
            };
            let met = path.meeting(self.space, self.behaviour, place, packets)?;
            if met != self.space.none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns whether an entry stands in a chain of nat only for what comes round to where it came from.
pub(super) fn is_only_for_hairpins(plan: &Plan, entry: Entry, chain: BaseChain) -> bool {
    let Entry::Nat(index) = entry else {
        return false;
    };
    let is_dnat = matches!(plan.nat[index].translation, PlannedTranslation::Dnat { .. });
    is_dnat && chain == BaseChain::Postrouting
}

/// Returns whether a set depends on something that a packet does not tell. Whether its destination is an address of this
/// host is known by the destination: all entries that ask get the same answer.
pub(super) fn is_opaque(space: &Space, set: Set) -> Result<bool, GaveUp> {
    let told = space.support(Condition::ToThisHost.set(space)?);
    let support = space.support(set);
    let mut opaque = support
        .iter()
        .filter(|field| matches!(field, Field::Opaque(_)));
    Ok(opaque.any(|field| !told.contains(field)))
}

//! Entries of `[[nat]]`, `[[mangle]]` and `[[raw]]` that do nothing.
//!
//! An entry can have rules in several base chains, and accepts in the filter table too. It is reported only if all of that is
//! idle. The base chains of its own table are checked one by one. For the other tables the check compares the specification
//! with that of the same policy without the entry: they must be equal, or no packet with which they differ may reach them.

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

    /// Returns the plan without the entry.
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

    /// Returns `true` if the policy has the entry: helpers that a service of a rule needs are entries of the plan only.
    fn is_written(self, policy: &Policy) -> bool {
        match self {
            Self::Raw(index) => index < policy.raw.len(),
            Self::Nat(_) | Self::Mangle(_) => true,
        }
    }
}

/// How another entry makes an entry idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// It takes the packets before.
    Takes,
    /// It changes the mark that the entry matches.
    Marks,
    /// It changes the same field later.
    Overwrites,
    /// It does the same later.
    DoesSame,
    /// It did the same before.
    DidSame,
}

/// The results for an entry, over its base chains and families. A place is one base chain in one family.
#[derive(Debug, Default)]
pub(super) struct EntrySummary {
    /// The number of places in which it has packets.
    places: usize,
    /// The number of places where other entries take its packets or undo its effect.
    shadowed: usize,
    /// The number of places where other entries do the same.
    redundant: usize,
    /// The number of places where no real packet matches.
    impossible: usize,
    /// The reasons for that.
    reasons: BTreeSet<UnseenReason>,
    /// The other entries that make it idle.
    others: BTreeMap<Entry, Role>,
}

/// The results for each entry.
pub(super) type EntrySummaries = BTreeMap<Entry, EntrySummary>;

impl EntrySummary {
    /// Counts a place.
    pub fn place(&mut self) {
        self.places += 1;
    }

    /// Counts a place where the entry is idle because of other entries.
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

    /// Counts the place as impossible if no real packet is in `set` there.
    pub fn check_packets(
        &mut self,
        space: &Space,
        chain: BaseChain,
        set: Set,
    ) -> Result<(), GaveUp> {
        let set = match chain {
            // PREROUTING also sees packets that routing drops later, and POSTROUTING those that a translation made, so no
            // address is impossible there.
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

    /// Adds the results of the other family.
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

    /// Returns `true` if the entry is idle in all its places.
    fn is_idle(&self) -> bool {
        self.places > 0 && self.shadowed + self.redundant == self.places
    }

    fn finding(&self, entry: Entry, plan: &Plan) -> Diagnostic {
        let span = entry.packets(plan).span;
        let has = |role| self.others.values().any(|other| *other == role);
        let (mut finding, help) = if self.shadowed < self.places {
            let help = "remove it, unless it is there as documentation";
            (redundant::finding(span, "this entry"), help)
        } else if has(Role::Overwrites) {
            let help = "remove it, or move it after the entry that overwrites it";
            (shadowed::overwritten(span), help)
        } else {
            let help = match has(Role::Marks) {
                true => {
                    "remove it, or move it before the entry that changes the mark that it matches"
                }
                false => "remove it, or move it before the entry that takes its packets",
            };
            (shadowed::entry(span), help)
        };
        for (other, role) in self.others.iter().take(MOST_LABELS) {
            let text = match (role, self.others.len()) {
                (Role::Takes, 1) => "takes all its packets",
                (Role::Takes, _) => "takes some of its packets",
                (Role::Marks, _) => "changes the mark of its packets",
                (Role::Overwrites, 1) => "overwrites what it sets",
                (Role::Overwrites, _) => "overwrites some of what it sets",
                (Role::DoesSame, _) => "does the same with its packets",
                (Role::DidSame, _) => "already did the same with its packets",
            };
            finding = finding.also(other.packets(plan).span, text);
        }
        finding.help(help)
    }
}

/// Checks each entry in a family, base chain by base chain.
pub(super) fn check(plan: &Plan, space: &Space, spec: &Spec) -> Result<EntrySummaries, GaveUp> {
    let mut seen = EntrySummaries::new();
    first::check(plan, space, &mut seen)?;
    changes::check(plan, space, &spec.custom, &mut seen)?;
    Ok(seen)
}

/// Reports the entries that are idle, impossible or denied in both families.
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
            // Places may differ in their reasons.
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

/// Returns the entries without which nothing changes in the other tables either, in both families: an entry of nat also
/// accepts in the filter table, and one of `notrack` accepts replies.
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
    /// The paths of all packets of a hook, once they were needed.
    paths: BTreeMap<Hook, Path>,
}

impl Whole<'_> {
    /// Returns `true` if an entry that is idle in its own table changes nothing in the other tables.
    fn is_same_without(&mut self, entry: Entry) -> Result<bool, GaveUp> {
        // What it logs is missing without it.
        if entry.packets(self.plan).log.is_some() {
            return Ok(false);
        }
        if let Entry::Mangle(_) = entry {
            // Mangle entries have no rules in other tables.
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

    /// Returns `true` if one of these packets reaches a base chain. The accept of an entry that translates nothing is only for
    /// packets that it translated, so none reaches it; but rules of other programs may translate to the same destination.
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

/// Returns `true` if an entry has rules in a chain of nat only for hairpin connections, which leave where they came from.
pub(super) fn is_only_for_hairpins(plan: &Plan, entry: Entry, chain: BaseChain) -> bool {
    let Entry::Nat(index) = entry else {
        return false;
    };
    let is_dnat = matches!(plan.nat[index].translation, PlannedTranslation::Dnat { .. });
    is_dnat && chain == BaseChain::Postrouting
}

/// Returns `true` if a set depends on conditions that a packet alone does not answer. Whether the destination is an address of
/// this host does not count: the answer is the same for all entries.
pub(super) fn is_opaque(space: &Space, set: Set) -> Result<bool, GaveUp> {
    let known = space.support(Condition::ToThisHost.set(space)?);
    let support = space.support(set);
    let mut opaque = support
        .iter()
        .filter(|field| matches!(field, Field::Opaque(_)));
    Ok(opaque.any(|field| !known.contains(field)))
}

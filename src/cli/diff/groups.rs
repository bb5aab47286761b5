//! Groups packet changes for people: the same change of both families is shown once, with the rules responsible for it.

use std::collections::BTreeSet;

use super::Difference;
use super::side::{Described, DiffSide};
use crate::analysis::{BaseChain, BoxWords, Effect, HostSetting};
use crate::diff::{ChangeKind, PacketChange, PacketFate, Responsible, SideName};
use crate::iptables::TableName;
use crate::net::Family;

/// Packet changes that differ in nothing but the family.
pub struct FamilyGroup<'a> {
    pub kind: ChangeKind,
    /// The table and base chain in which the packets change.
    pub place: (TableName, BaseChain),
    pub before: &'a PacketFate,
    pub after: &'a PacketFate,
    /// `false` if no real packet is like these.
    pub possible: bool,
    /// The host setting without which such packets cannot occur.
    pub only_where: Option<HostSetting>,
    /// The logs, marks and so on that differ, with the side that has them.
    pub effects: BTreeSet<&'a (SideName, Effect)>,
    pub lines: Vec<GroupLine<'a>>,
    /// For each family: the number of lines that are left out, and `true` if there are even more than that.
    pub more: Vec<(Family, usize, bool)>,
}

/// Packets of one or both families, and the rules that decide them on each side.
pub struct GroupLine<'a> {
    pub families: Vec<Family>,
    pub words: &'a BoxWords,
    pub before: Vec<Described>,
    pub after: Vec<Described>,
}

impl GroupLine<'_> {
    /// Returns `true` if the packets and their rules are the same. Rules with a line are compared by file and line, because one rule
    /// of a policy has a different text in each family.
    fn is_same(&self, words: &BoxWords, before: &[Described], after: &[Described]) -> bool {
        let same = |one: &[Described], other: &[Described]| {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| {
                    let placed =
                        one.line.is_some() && (one.line, &one.file) == (other.line, &other.file);
                    placed || (one.line.is_none() && one.text == other.text)
                })
        };
        self.words == words && same(&self.before, before) && same(&self.after, after)
    }
}

fn groups<'a>(difference: &'a Difference<'_>) -> Vec<FamilyGroup<'a>> {
    let mut groups: Vec<FamilyGroup<'a>> = Vec::new();
    for (family, change) in difference.changes() {
        let place = (change.table, change.chain);
        let same = |group: &&mut FamilyGroup<'_>| {
            (group.kind, group.place) == (change.kind, place)
                && (group.possible, group.only_where) == (change.possible, change.only_where)
                && (group.before, group.after) == (&change.before, &change.after)
        };
        let at = match groups.iter_mut().find(same) {
            Some(group) => group,
            None => {
                groups.push(FamilyGroup {
                    kind: change.kind,
                    place,
                    before: &change.before,
                    after: &change.after,
                    possible: change.possible,
                    only_where: change.only_where,
                    effects: BTreeSet::new(),
                    lines: Vec::new(),
                    more: Vec::new(),
                });
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        at.effects.extend(&change.effects);
        add_lines(at, difference, family, change);
    }
    let rank = |group: &FamilyGroup<'_>| {
        let table = (group.place.0 != TableName::Filter, group.place);
        (group.kind, table)
    };
    groups.sort_by_key(rank);
    groups
}

/// Returns the groups to show, and a line about those that are left out. Changes of packets that cannot occur are left out unless
/// nothing else changes.
pub fn shown_groups<'a>(difference: &'a Difference<'_>) -> (Vec<FamilyGroup<'a>>, Option<String>) {
    let groups = groups(difference);
    let can_occur = |group: &FamilyGroup<'_>| group.possible || group.only_where.is_some();
    if !groups.iter().any(can_occur) {
        return (groups, None);
    }
    let (shown, left_out): (Vec<_>, Vec<_>) = groups.into_iter().partition(can_occur);
    let kinds: BTreeSet<ChangeKind> = left_out.iter().map(|group| group.kind).collect();
    let kinds: Vec<&str> = kinds.into_iter().map(ChangeKind::as_str).collect();
    let note = || {
        format!(
            "packets that cannot occur are {} too; --format json lists them",
            kinds.join(", ")
        )
    };
    let note = (!kinds.is_empty()).then(note);
    (shown, note)
}

fn add_lines<'a>(
    group: &mut FamilyGroup<'a>,
    difference: &Difference<'_>,
    family: Family,
    change: &'a PacketChange,
) {
    for one in &change.boxes {
        // One rule of a policy may expand to many lines of iptables; it is shown once.
        let described = |side: &DiffSide, responsible: &[Responsible]| -> Vec<Described> {
            let mut places = BTreeSet::new();
            let all = responsible.iter().map(|one| side.describe(family, *one));
            let first = |rule: &Described| match rule.line {
                Some(line) => places.insert((rule.file.clone(), line)),
                None => true,
            };
            all.filter(first).collect()
        };
        let words = &one.packets.words;
        let before = described(difference.from, &one.before);
        let after = described(difference.to, &one.after);
        let mut known = group.lines.iter_mut();
        let known = known.find(|line| line.is_same(words, &before, &after));
        match known {
            // The tables before routing see a packet in the same way for INPUT and for FORWARD, so a family may come twice.
            Some(line) if line.families.contains(&family) => {}
            Some(line) => line.families.push(family),
            None => group.lines.push(GroupLine {
                families: vec![family],
                words,
                before,
                after,
            }),
        }
    }
    if change.more > 0 || change.uncounted {
        group.more.push((family, change.more, change.uncounted));
    }
}

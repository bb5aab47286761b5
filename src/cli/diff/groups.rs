//! Changes as people read them: of both families together, with the rules that are responsible.

use std::collections::BTreeSet;

use super::Difference;
use super::side::{Described, DiffSide};
use crate::analysis::{BaseChain, BoxWords, Effect, HostSetting};
use crate::diff::{ChangeKind, PacketChange, PacketFate, Responsible, SideName};
use crate::iptables::TableName;
use crate::net::Family;

/// Changes of both families that are the same but for the family.
pub struct FamilyGroup<'a> {
    pub kind: ChangeKind,
    pub place: (TableName, BaseChain),
    pub before: &'a PacketFate,
    pub after: &'a PacketFate,
    pub possible: bool,
    pub only_where: Option<HostSetting>,
    pub effects: BTreeSet<&'a (SideName, Effect)>,
    pub lines: Vec<GroupLine<'a>>,
    /// So many lines more, and whether even those are not all.
    pub more: Vec<(Family, usize, bool)>,
}

/// Some packets, in both families or in one.
pub struct GroupLine<'a> {
    pub families: Vec<Family>,
    pub words: &'a BoxWords,
    pub before: Vec<Described>,
    pub after: Vec<Described>,
}

impl GroupLine<'_> {
    /// Whether the same is said of the same packets: a policy's rule is another text in each family.
    fn is_said_of(&self, words: &BoxWords, before: &[Described], after: &[Described]) -> bool {
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

/// The groups to be shown, and what is said of those that are not: packets that no kernel shows are of interest only where
/// nothing else changes.
pub fn shown_groups<'a>(difference: &'a Difference<'_>) -> (Vec<FamilyGroup<'a>>, Option<String>) {
    let groups = groups(difference);
    let comes = |group: &FamilyGroup<'_>| group.possible || group.only_where.is_some();
    if !groups.iter().any(comes) {
        return (groups, None);
    }
    let (shown, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(comes);
    let kinds: BTreeSet<ChangeKind> = others.iter().map(|group| group.kind).collect();
    let kinds: Vec<&str> = kinds.into_iter().map(ChangeKind::as_str).collect();
    let said = || {
        format!(
            "packets that no kernel shows are {} too; --format json has them",
            kinds.join(", ")
        )
    };
    let said = (!kinds.is_empty()).then(said);
    (shown, said)
}

fn add_lines<'a>(
    group: &mut FamilyGroup<'a>,
    difference: &Difference<'_>,
    family: Family,
    change: &'a PacketChange,
) {
    for one in &change.boxes {
        // A policy's rule is shown once, however many lines are made of it.
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
        let known = known.find(|line| line.is_said_of(words, &before, &after));
        match known {
            // What comes in meets the same tables whether it stays or goes on.
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

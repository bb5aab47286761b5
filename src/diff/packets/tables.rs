//! Compares each table by itself.

use std::collections::BTreeMap;

use super::buckets::BucketPair;
use super::{
    At, ChangeKind, Comparison, Incomparable, PacketChange, PacketFate, Responsible, SideName, View,
};
use crate::analysis::{Decided, Difference, Effect, Flow, GaveUp, Set, TableChain, counted_by};

/// Packets with their old and new fate.
pub(super) type FatePair = ((PacketFate, PacketFate), Set);

impl Comparison<'_> {
    /// Compares table by table. This is complete if only one table does anything.
    pub(super) fn in_tables(
        &self,
        differences: Vec<Difference>,
    ) -> Result<Vec<PacketChange>, Incomparable> {
        let mut places: BTreeMap<TableChain, (Set, Vec<Effect>)> = BTreeMap::new();
        for one in differences {
            let place = (one.table, one.chain);
            let nothing = || (self.space.none(), Vec::new());
            let (otherwise, effects) = places.entry(place).or_insert_with(nothing);
            match one.effect {
                Some(effect) => effects.push(effect),
                None => *otherwise = one.packets,
            }
        }
        let mut changes = Vec::new();
        for (place, (otherwise, effects)) in places {
            self.at(place, otherwise, effects, &mut changes)?;
        }
        Ok(changes)
    }

    /// Adds the changes of one base chain.
    fn at(
        &self,
        place: TableChain,
        differ: Set,
        effects: Vec<Effect>,
        changes: &mut Vec<PacketChange>,
    ) -> Result<(), Incomparable> {
        let space = self.space;
        let flows = [
            self.before.behaviour.flow(space, place),
            self.after.behaviour.flow(space, place),
        ];
        let has = |flow: &Flow, effect: &Effect| {
            flow.effects.get(effect).copied().unwrap_or(space.none())
        };
        // If the verdict of packets changes too, the effect is a part of that change.
        let mut lost: Vec<(&Effect, Set)> = Vec::new();
        let mut gained: Vec<(&Effect, Set)> = Vec::new();
        for effect in &effects {
            let (old, new) = (has(&flows[0], effect), has(&flows[1], effect));
            lost.push((effect, space.minus(old, new)?));
            gained.push((effect, space.minus(new, old)?));
        }
        for ((before, after), packets) in space.changes(flows[0].verdicts, flows[1].verdicts)? {
            let mut there = Vec::new();
            for (side, list) in [(SideName::Before, &lost), (SideName::After, &gained)] {
                for (effect, set) in list {
                    if space.and(*set, packets)? != space.none() {
                        there.extend(self.shown_effect(side, effect).map(|shown| (side, shown)));
                    }
                }
            }
            let kind = ChangeKind::of(&before, &after);
            let fates = (PacketFate::Verdict(before), PacketFate::Verdict(after));
            let decides = |view: &View<'_>, _: &PacketFate, some| {
                let decided = view.deciding(place, some)?.into_iter();
                let responsible = |one: Decided| {
                    let rule = one.rule;
                    (Responsible { place, rule }, one.packets)
                };
                Ok(decided.map(responsible).collect())
            };
            let mut change = self.change(At::table(place), kind, fates, packets, decides)?;
            change.effects = there;
            changes.push(change);
        }
        for effect in &effects {
            if self.paired.pair(effect).is_some_and(BucketPair::is_changed) {
                let met = space.or(has(&flows[0], effect), has(&flows[1], effect))?;
                let fates = (
                    PacketFate::Effect(effect.clone()),
                    PacketFate::Effect(effect.clone()),
                );
                let having = |view: &View<'_>, fate: &PacketFate, some| {
                    view.having(space, place, fate, some)
                };
                changes.push(self.effect_change(At::table(place), fates, met, having)?);
            }
        }
        self.effects(place, differ, lost, gained, changes)
    }

    /// Adds changes of effects for packets with the same verdict as before.
    fn effects(
        &self,
        place: TableChain,
        differ: Set,
        lost: Vec<(&Effect, Set)>,
        gained: Vec<(&Effect, Set)>,
        changes: &mut Vec<PacketChange>,
    ) -> Result<(), Incomparable> {
        let space = self.space;
        let owned = |list: Vec<(&Effect, Set)>| -> Vec<(Effect, Set)> {
            let list = list.into_iter();
            list.map(|(effect, set)| (effect.clone(), set)).collect()
        };
        let all = self.paired(differ, owned(lost), owned(gained))?;
        for (fates, packets) in all {
            let having =
                |view: &View<'_>, fate: &PacketFate, some| view.having(space, place, fate, some);
            let at = At::table(place);
            changes.push(self.effect_change(at, fates, packets, having)?);
        }
        Ok(())
    }

    /// Returns the changes of effects for packets that have no other change. If an effect is lost and another one with
    /// the same target is gained by exactly the same packets, that is one change.
    pub(super) fn paired(
        &self,
        otherwise: Set,
        lost: Vec<(Effect, Set)>,
        gained: Vec<(Effect, Set)>,
    ) -> Result<Vec<FatePair>, GaveUp> {
        let space = self.space;
        // Makes a set independent of the answer of a condition with memory.
        let whatever = |set: Set, key: &str| -> Result<Set, GaveUp> {
            let answer = space.support(space.opaque(key)?);
            space.project(set, |field| !answer.contains(&field))
        };
        let rest = |list: Vec<(Effect, Set)>| -> Result<Vec<(Effect, Set)>, GaveUp> {
            let mut rest = Vec::new();
            for (effect, set) in &list {
                let (effect, mut set) = (effect.clone(), *set);
                // If the verdict of packets changes, so may the conditions that count them: that is no change of its own.
                let mut otherwise = otherwise;
                if let Some(key) = counted_by(&effect) {
                    otherwise = whatever(otherwise, key)?;
                    let pair = self.paired.pair(&effect);
                    if pair.is_some_and(BucketPair::is_shown_by_log) {
                        // A gained or lost log line is reported as that, so these packets are left out.
                        for (_, logged) in list.iter().filter(|(one, _)| is_log(one)) {
                            set = space.minus(set, whatever(*logged, key)?)?;
                        }
                    }
                }
                let set = space.minus(set, otherwise)?;
                if set != space.none() {
                    rest.push((effect, set));
                }
            }
            Ok(rest)
        };
        let (lost, mut gained) = (rest(lost)?, rest(gained)?);
        let mut all = Vec::new();
        for (effect, packets) in lost {
            let is_counted = counted_by(&effect).is_some();
            let same_target = |other: &Effect| other.split(' ').next() == effect.split(' ').next();
            let instead = gained
                .iter()
                .position(|(other, set)| *set == packets && same_target(other) && !is_counted);
            let after = instead.map_or(PacketFate::NoEffect, |at| {
                PacketFate::Effect(gained.remove(at).0)
            });
            all.push(((PacketFate::Effect(effect), after), packets));
        }
        let gained = gained.into_iter();
        all.extend(gained.map(|(effect, packets)| {
            ((PacketFate::NoEffect, PacketFate::Effect(effect)), packets)
        }));
        Ok(all)
    }
}

/// Returns `true` if an effect is a log line.
fn is_log(effect: &Effect) -> bool {
    let name = effect.split(' ').next();
    name.is_some_and(|name| ["LOG", "NFLOG"].contains(&name))
}

impl At {
    fn table(place: TableChain) -> Self {
        Self {
            place,
            seen: place.1,
            hook: None,
            hidden: None,
        }
    }
}

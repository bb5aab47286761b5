//! Compares the whole paths of packets: from their arrival through all tables to their end.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    At, ChangeKind, Comparison, Ending, Incomparable, PacketChange, PacketFate, Responsible,
    Responsibles, SideName, View,
};
use crate::analysis::{
    BaseChain, Difference, Effect, Exchanged, FIRST_OF_RELATED, Field, GaveUp, Path, PathChange,
    PathEnd, Set, Space, TableChain, Verdict, places,
};
use crate::iptables::{NatKind, TableName};
use crate::net::{Hook, State};

/// The end of some packets; their changed fields, if they are accepted; and the translation of their destination, which
/// may leave the kernel a choice.
type Key = (Ending, Option<PathChange>, Exchanged);

/// Effects that some packets get on one side only.
type OnlyThere = Vec<((TableChain, Effect), Set)>;

/// The old and the new end of some packets.
type Fates = (Ending, Ending);
type ByFates = BTreeMap<Fates, Set>;

impl Comparison<'_> {
    /// Compares the paths of each hook.
    pub(super) fn on_paths(
        &self,
        differences: Vec<Difference>,
    ) -> Result<Vec<PacketChange>, Incomparable> {
        let space = self.space;
        let mut differ: BTreeMap<TableChain, Set> = BTreeMap::new();
        for one in differences {
            let place = (one.table, one.chain);
            let known = differ.entry(place).or_insert(space.none());
            *known = space.or(*known, one.packets)?;
        }
        let hidden = self.follow_ups()?;
        let changes = self.at_hooks(&differ, hidden)?;
        match changes.is_empty() {
            // Only these packets change, so they have to be shown.
            true => self.at_hooks(&differ, space.none()),
            false => Ok(changes),
        }
    }

    /// Returns the packets that are not shown if other packets change too: the first packets of RELATED connections, and
    /// those of connections that were translated before. NEW packets meet the same rules, and show the same change.
    fn follow_ups(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let related = space.states(&[State::Related])?;
        let old = space.or(related, space.states(&[State::Established])?)?;
        let translated = space.or(
            space.range(Field::SourceTranslated, 1, 1)?,
            space.range(Field::DestinationTranslated, 1, 1)?,
        )?;
        space.or(
            space.and(space.opaque(FIRST_OF_RELATED)?, related)?,
            space.and(old, translated)?,
        )
    }

    fn at_hooks(
        &self,
        differ: &BTreeMap<TableChain, Set>,
        hidden: Set,
    ) -> Result<Vec<PacketChange>, Incomparable> {
        let mut changes = Vec::new();
        for hook in Hook::ALL {
            if places(hook).iter().any(|place| differ.contains_key(place)) {
                let concerned = self.concerned(hook, differ, hidden)?;
                let found = self.at_hook(hook, concerned)?;
                self.report(found, hidden, &mut changes)?;
            }
        }
        Ok(changes)
    }

    /// Returns the arriving packets that reach a table that treats them differently, and perhaps more, without the hidden
    /// ones. The path of all other packets is unchanged, and need not be computed.
    fn concerned(
        &self,
        hook: Hook,
        differ: &BTreeMap<TableChain, Set>,
        hidden: Set,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        // The last of those tables and all after it may be large, and do not matter for which packets reach it.
        let mut until = self.before.behaviour.clone();
        let last = places(hook)
            .iter()
            .rposition(|place| differ.contains_key(place));
        for place in &places(hook)[last.unwrap_or_default()..] {
            until.flows.remove(place);
        }
        let path = Path::of(space, &until, hook, space.not(hidden)?)?;
        let mut all = space.none();
        for place in places(hook) {
            if let Some(set) = differ.get(place) {
                let arriving = path.before(space, *place, *set)?;
                all = space.or(all, space.whatever_is_chosen(arriving)?)?;
            }
        }
        Ok(all)
    }

    fn at_hook(&self, hook: Hook, concerned: Set) -> Result<Found, GaveUp> {
        let space = self.space;
        let path = |view: &View<'_>| Path::of(space, &view.behaviour, hook, concerned);
        let (before, after) = (path(&self.before)?, path(&self.after)?);
        let [ends, marked] = self.ends(&before, &after)?;
        let (lost, gained) = self.effects_of(hook, &before, &after)?;
        Ok(Found {
            hook,
            ends,
            marked,
            lost,
            gained,
            rates: self.rates_of(hook, &before, &after)?,
        })
    }

    /// Adds the changes of a hook.
    fn report(
        &self,
        found: Found,
        hidden: Set,
        changes: &mut Vec<PacketChange>,
    ) -> Result<(), Incomparable> {
        let space = self.space;
        let Found {
            hook,
            ends,
            marked,
            lost,
            gained,
            rates,
        } = found;
        let otherwise = space.any(ends.values().copied())?;
        let ends = ends.into_iter().map(|one| (false, one));
        let all = ends.chain(marked.into_iter().map(|one| (true, one)));
        for (is_marked, ((old, new), packets)) in all {
            if packets == space.none() {
                continue;
            }
            let decides = |view: &View<'_>, fate: &PacketFate, some| match fate {
                PacketFate::End(ending) => {
                    OnPath::new(space, view, hook, some)?.responsible(ending)
                }
                _ => Ok(Vec::new()),
            };
            let kind = match is_marked {
                true => ChangeKind::MarkChanged,
                false => ChangeKind::of_ends(&old, &new),
            };
            let at = At::path(hook, (TableName::Filter, hook.into()), hidden);
            let fates = (PacketFate::End(old), PacketFate::End(new));
            let mut change = self.change(at, kind, fates, packets, decides)?;
            let mut there = BTreeSet::new();
            for (side, list) in [(SideName::Before, &lost), (SideName::After, &gained)] {
                for ((_, effect), set) in list {
                    if !is_marked && space.and(*set, packets)? != space.none() {
                        there.extend(self.shown_effect(side, effect).map(|shown| (side, shown)));
                    }
                }
            }
            change.effects = there.into_iter().collect();
            changes.push(change);
        }
        for ((place, effect), packets) in rates {
            let having = |view: &View<'_>, fate: &PacketFate, some| {
                OnPath::new(space, view, hook, some)?.having(place, fate)
            };
            let fates = (
                PacketFate::Effect(effect.clone()),
                PacketFate::Effect(effect),
            );
            let at = At::path(hook, place, hidden);
            changes.push(self.effect_change(at, fates, packets, having)?);
        }
        self.rest((hook, hidden), otherwise, lost, gained, changes)
    }

    /// Returns the arriving packets that reach conditions with memory whose text changed.
    fn rates_of(&self, hook: Hook, before: &Path, after: &Path) -> Result<OnlyThere, GaveUp> {
        let space = self.space;
        let mut rates = Vec::new();
        for effect in self.paired.changed() {
            for place in places(hook) {
                let mut met = space.none();
                for (view, path) in [(&self.before, before), (&self.after, after)] {
                    let flow = view.behaviour.flows.get(place);
                    if let Some(when) = flow.and_then(|flow| flow.effects.get(&effect)) {
                        let set = path.meeting(space, &view.behaviour, *place, *when)?;
                        met = space.or(met, space.whatever_is_chosen(set)?)?;
                    }
                }
                if met != space.none() {
                    rates.push(((*place, effect.clone()), met));
                }
            }
        }
        Ok(rates)
    }

    /// Returns the arriving packets whose end changes, by their old and new end, and those that are accepted with another
    /// mark.
    fn ends(&self, before: &Path, after: &Path) -> Result<[ByFates; 2], GaveUp> {
        let space = self.space;
        let (one, two) = (by_key(space, before)?, by_key(space, after)?);
        let rest = |mine: &BTreeMap<Key, Set>, other: &BTreeMap<Key, Set>| {
            let mut rest = Vec::new();
            for (key, packets) in mine {
                let same = other.get(key).copied().unwrap_or(space.none());
                let left = space.minus(*packets, same)?;
                if left != space.none() {
                    rest.push((key.clone(), left));
                }
            }
            Ok::<Vec<(Key, Set)>, GaveUp>(rest)
        };
        let (old, new) = (rest(&one, &two)?, rest(&two, &one)?);
        let (mut ends, mut marked) = (ByFates::new(), ByFates::new());
        let add = |to: &mut ByFates, fates, packets| -> Result<(), GaveUp> {
            let packets = space.whatever_is_chosen(packets)?;
            if packets != space.none() {
                let known = to.entry(fates).or_insert(space.none());
                *known = space.or(*known, packets)?;
            }
            Ok(())
        };
        for ((old_end, old_change, old_translation), old) in &old {
            for ((new_end, new_change, new_translation), new) in &new {
                let fates = (old_end.clone(), new_end.clone());
                let both = match old_translation == new_translation {
                    true => space.and(*old, *new)?,
                    // The translations differ, so the kernel's choices on both sides are independent.
                    false => space.and(
                        space.whatever_is_chosen(*old)?,
                        space.whatever_is_chosen(*new)?,
                    )?,
                };
                if old_end != new_end {
                    if let Some(fates) = shown(fates) {
                        add(&mut ends, fates, both)?;
                    }
                } else if let (Some(one), Some(two)) = (old_change, new_change) {
                    let differ = one.marks_differ(space, two)?;
                    add(&mut marked, fates, space.and(both, differ)?)?;
                }
            }
        }
        Ok([ends, marked])
    }

    /// Returns the arriving packets that lose an effect, and those that gain one.
    fn effects_of(
        &self,
        hook: Hook,
        before: &Path,
        after: &Path,
    ) -> Result<(OnlyThere, OnlyThere), GaveUp> {
        let space = self.space;
        let is_nat = |place: &&TableChain| place.0 == TableName::Nat;
        let same = |place: &TableChain| {
            let flow = |view: &View<'_>| view.behaviour.flow(space, *place);
            flow(&self.before) == flow(&self.after)
        };
        // If both sides have the same translations, the kernel makes the same choices on both.
        let same_choices = places(hook).iter().filter(is_nat).all(same);
        let (mut lost, mut gained) = (Vec::new(), Vec::new());
        let views = [&self.before, &self.after];
        let flows = views.iter().flat_map(|view| &view.behaviour.flows);
        let keys: BTreeSet<(TableChain, &Effect)> = flows
            .filter(|(place, _)| places(hook).contains(place))
            .flat_map(|(place, flow)| flow.effects.keys().map(|effect| (*place, effect)))
            .filter(|(_, effect)| !self.paired.is_of_one_side(effect))
            .collect();
        for (place, effect) in keys {
            let when = |view: &View<'_>| {
                let flow = view.behaviour.flows.get(&place);
                let when = flow.and_then(|flow| flow.effects.get(effect));
                when.copied().unwrap_or(space.none())
            };
            let (mut lost_when, mut gained_when) = (when(&self.before), when(&self.after));
            if same_choices && before.comes_as(after, place) {
                // Unchanged packets may be many, and need not be followed.
                (lost_when, gained_when) = (
                    space.minus(lost_when, gained_when)?,
                    space.minus(gained_when, lost_when)?,
                );
            }
            let of = |view: &View<'_>, path: &Path, when: Set| -> Result<Set, GaveUp> {
                let set = path.meeting(space, &view.behaviour, place, when)?;
                match same_choices {
                    true => Ok(set),
                    false => space.whatever_is_chosen(set),
                }
            };
            let old = of(&self.before, before, lost_when)?;
            let new = of(&self.after, after, gained_when)?;
            for (list, one, other) in [(&mut lost, old, new), (&mut gained, new, old)] {
                let only = space.whatever_is_chosen(space.minus(one, other)?)?;
                if only != space.none() {
                    list.push(((place, effect.clone()), only));
                }
            }
        }
        Ok((lost, gained))
    }

    /// Adds changes of effects for packets with the same end as before.
    fn rest(
        &self,
        (hook, hidden): (Hook, Set),
        otherwise: Set,
        lost: OnlyThere,
        gained: OnlyThere,
        changes: &mut Vec<PacketChange>,
    ) -> Result<(), Incomparable> {
        let mut at_places: BTreeMap<TableChain, [Vec<(Effect, Set)>; 2]> = BTreeMap::new();
        for (side, list) in [lost, gained].into_iter().enumerate() {
            for ((place, effect), packets) in list {
                at_places.entry(place).or_default()[side].push((effect, packets));
            }
        }
        for (place, [lost, gained]) in at_places {
            for (fates, packets) in self.paired(otherwise, lost, gained)? {
                let having = |view: &View<'_>, fate: &PacketFate, some| {
                    OnPath::new(self.space, view, hook, some)?.having(place, fate)
                };
                let at = At::path(hook, place, hidden);
                changes.push(self.effect_change(at, fates, packets, having)?);
            }
        }
        Ok(())
    }
}

/// The differences of a hook.
struct Found {
    hook: Hook,
    /// Packets whose end changes.
    ends: ByFates,
    /// Packets that are accepted with another mark.
    marked: ByFates,
    lost: OnlyThere,
    gained: OnlyThere,
    /// Packets that reach a condition with memory whose text changed.
    rates: OnlyThere,
}

impl At {
    fn path(hook: Hook, place: TableChain, hidden: Set) -> Self {
        Self {
            hidden: Some(hidden),
            place,
            seen: hook.into(),
            hook: Some(hook),
        }
    }
}

impl ChangeKind {
    fn of_ends(before: &Ending, after: &Ending) -> Self {
        match (&before.verdict, &after.verdict) {
            (Some(before), Some(after)) if before != after => Self::of(before, after),
            _ => Self::TranslationChanged,
        }
    }
}

impl Ending {
    fn of(hook: Hook, end: &PathEnd) -> Self {
        let change = &end.change;
        let is_redirected = match &change.destination {
            Exchanged::By(translation) => translation.nat().kind == NatKind::Redirect,
            _ => false,
        };
        match &end.verdict {
            _ if is_redirected && hook == Hook::Forward => Self {
                verdict: None,
                destination: change.destination.clone(),
                source: Exchanged::No,
            },
            Verdict::Drop | Verdict::Reject(_) => Self {
                verdict: Some(end.verdict.clone()),
                destination: Exchanged::No,
                source: Exchanged::No,
            },
            verdict => Self {
                verdict: Some(verdict.clone()),
                destination: change.destination.clone(),
                source: change.source.clone(),
            },
        }
    }

    fn passes(&self) -> bool {
        !matches!(
            self.verdict,
            None | Some(Verdict::Drop | Verdict::Reject(_))
        )
    }
}

/// Returns two ends as they are shown; `None` if there is nothing to show. Translations are left out if they are equal,
/// or if a side denies the packets: nobody sees the new address then.
fn shown((mut before, mut after): Fates) -> Option<Fates> {
    match (&before.verdict, &after.verdict) {
        // INPUT decides redirected packets, and reports their change itself.
        (None, Some(Verdict::Drop | Verdict::Reject(_)))
        | (Some(Verdict::Drop | Verdict::Reject(_)), None) => return None,
        _ => {}
    }
    let both_pass = before.passes() && after.passes();
    if !both_pass || before.source == after.source {
        (before.source, after.source) = (Exchanged::No, Exchanged::No);
    }
    if both_pass && before.destination == after.destination {
        (before.destination, after.destination) = (Exchanged::No, Exchanged::No);
    }
    Some((before, after))
}

fn by_key(space: &Space, path: &Path) -> Result<BTreeMap<Key, Set>, GaveUp> {
    let mut all = BTreeMap::new();
    for end in &path.ends {
        let ending = Ending::of(path.hook, end);
        let change = ending.passes().then(|| end.change.clone());
        let key = (ending, change, end.change.destination.clone());
        let known = all.entry(key).or_insert(space.none());
        *known = space.or(*known, end.packets)?;
    }
    Ok(all)
}

/// The path of some changed packets on one side.
struct OnPath<'a> {
    space: &'a Space,
    view: &'a View<'a>,
    /// The packets, as they arrive.
    packets: Set,
    path: Path,
}

impl<'a> OnPath<'a> {
    fn new(space: &'a Space, view: &'a View<'a>, hook: Hook, packets: Set) -> Result<Self, GaveUp> {
        Ok(Self {
            space,
            view,
            packets,
            path: Path::of(space, &view.behaviour, hook, packets)?,
        })
    }

    /// Returns the rules that translate the packets or decide their end, in the order in which the packets meet them.
    fn responsible(&self, ending: &Ending) -> Result<Responsibles, Incomparable> {
        let space = self.space;
        let hook = self.path.hook;
        let mut all = Vec::new();
        for place in places(hook) {
            let side = match place.1 {
                BaseChain::Prerouting | BaseChain::Output => &ending.destination,
                _ => &ending.source,
            };
            let mut wanted = Vec::new();
            if let (TableName::Nat, Exchanged::By(translation)) = (place.0, side) {
                wanted.push((Verdict::Nat(translation.clone()), self.packets));
            }
            let ends = self.path.ends.iter();
            let here = ends.filter(|end| {
                let at = end.place.unwrap_or((TableName::Filter, hook.into()));
                at == *place && Ending::of(hook, end).verdict == ending.verdict
            });
            let here = space.any(here.map(|end| end.packets))?;
            let here = space.and(space.whatever_is_chosen(here)?, self.packets)?;
            wanted.extend(ending.verdict.clone().map(|verdict| (verdict, here)));
            wanted.retain(|(_, among)| *among != space.none());
            if wanted.is_empty() {
                continue;
            }
            let come = self.path.may_come(space, *place)?;
            let decided = self.view.deciding(*place, come)?;
            for (verdict, among) in wanted {
                for one in decided.iter().filter(|one| one.verdict == verdict) {
                    let packets = self.arriving(*place, one.packets, among)?;
                    if packets != space.none() {
                        let (place, rule) = (*place, one.rule);
                        all.push((Responsible { place, rule }, packets));
                    }
                }
            }
        }
        Ok(all)
    }

    /// Returns the rules that may have an effect on the packets.
    fn having(&self, place: TableChain, fate: &PacketFate) -> Result<Responsibles, Incomparable> {
        let come = self.path.may_come(self.space, place)?;
        let having = self.view.having(self.space, place, fate, come)?;
        let mut all = Vec::new();
        for (responsible, packets) in having {
            let packets = self.arriving(place, packets, self.packets)?;
            if packets != self.space.none() {
                all.push((responsible, packets));
            }
        }
        Ok(all)
    }

    /// Returns those of the arriving packets `among` that are in `set` when they reach a base chain.
    fn arriving(&self, place: TableChain, set: Set, among: Set) -> Result<Set, GaveUp> {
        let space = self.space;
        let arriving = self.path.before(space, place, set)?;
        space.and(space.whatever_is_chosen(arriving)?, among)
    }
}

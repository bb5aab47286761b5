//! Compares two rulesets by what they do: finds the packets that get another verdict or effect.

mod buckets;
mod memory;
mod order;
mod paths;
mod tables;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::buckets::BucketPairs;
use super::rules::RulesDiff;
use crate::analysis::{
    BaseChain, Behaviour, Boxes, Decided, Deciders, Difference, Effect, Exchanged, Field, Flow,
    GaveUp, HostSetting, Limits, PacketBox, Reading, Set, Space, TableChain, TextError, Verdict,
    Vocabulary, counted, counter, is_header_effect, rule_sets,
};
use crate::iptables::{Match, Rule, RuleId, Ruleset, TableName, Target};
use crate::net::{Hook, IntervalSet};

/// Returns what a rule was made from, if the caller knows it.
pub type OriginOf<'a> = &'a dyn Fn(&Rule) -> Option<String>;

/// One of two rulesets to compare.
#[derive(Clone, Copy)]
pub struct ComparedRules<'a> {
    /// The rules.
    pub ruleset: &'a Ruleset,
    /// The members of the sets that are known: see [`Reading::sets`].
    pub members: &'a BTreeMap<String, IntervalSet>,
    /// Returns what a rule was made from. Rules of both sides with the same origin share their conditions with memory
    /// (`limit`, `recent`), wherever they are.
    pub origin: Option<OriginOf<'a>>,
}

impl fmt::Debug for ComparedRules<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_struct("ComparedRules");
        out.field("ruleset", self.ruleset)
            .field("members", self.members);
        out.finish_non_exhaustive()
    }
}

/// One of the two sides of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SideName {
    /// The old rules.
    Before,
    /// The new rules.
    After,
}

/// Why two rulesets cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// The behaviour of one side cannot be computed.
    #[error("{1}")]
    Rules(SideName, TextError),
    /// The comparison is too large.
    #[error(transparent)]
    GaveUp(#[from] GaveUp),
}

/// The kind of a change, the most important one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Packets are accepted that were not.
    Opened,
    /// Packets are no longer accepted.
    Closed,
    /// Packets are denied with another answer.
    RejectTypeChanged,
    /// Packets are accepted with another translation or queue.
    TranslationChanged,
    /// A condition with memory (`limit`, `recent`) has another rate, or other packets reach it: more or fewer packets may
    /// pass than before.
    LimitChanged,
    /// Packets are accepted with another mark.
    MarkChanged,
    /// Packets get another effect with the same verdict: for example, they are logged now, or their hop limit changes.
    EffectChanged,
}

impl ChangeKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 7] = [
        Self::Opened,
        Self::Closed,
        Self::RejectTypeChanged,
        Self::TranslationChanged,
        Self::LimitChanged,
        Self::MarkChanged,
        Self::EffectChanged,
    ];

    /// Returns the word for the kind in JSON and text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::RejectTypeChanged => "answered",
            Self::TranslationChanged => "redirected",
            Self::LimitChanged => "limit-changed",
            Self::MarkChanged => "marked",
            Self::EffectChanged => "affected",
        }
    }

    fn of(before: &Verdict, after: &Verdict) -> Self {
        let passes = |verdict: &Verdict| !matches!(verdict, Verdict::Drop | Verdict::Reject(_));
        match (passes(before), passes(after)) {
            (false, true) => Self::Opened,
            (true, false) => Self::Closed,
            (false, false) => Self::RejectTypeChanged,
            // Packets are grouped by verdict and mark, so that equal verdicts mean another mark.
            (true, true) if before == after => Self::MarkChanged,
            (true, true) => Self::TranslationChanged,
        }
    }
}

/// The fate of packets on one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PacketFate {
    /// The verdict of the table.
    Verdict(Verdict),
    /// The end of their path through all tables, with its translations.
    End(Ending),
    /// They get this effect.
    Effect(Effect),
    /// They do not get the effect.
    NoEffect,
    /// They reach this condition with memory, in the form of `iptables-save`.
    Counted(Box<str>),
}

/// The end of a packet's path through all tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ending {
    /// The verdict; `None` for forwarded packets that are redirected to this host, so that INPUT decides.
    pub verdict: Option<Verdict>,
    /// The translation of their destination; [`Exchanged::No`] for packets that are denied.
    pub destination: Exchanged,
    /// The translation of their source; [`Exchanged::No`] for packets that are denied.
    pub source: Exchanged,
}

/// Packets that change from one fate to another.
///
/// If only the filter table does anything, a fate is its verdict or an effect. Otherwise the packets are as they arrive
/// at a hook (or leave this host), and a fate is the end of their path, or an effect on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketChange {
    /// The hook of the packets; `None` if a single table is compared.
    pub hook: Option<Hook>,
    /// The table that changed; for the end of a path, the filter table.
    pub table: TableName,
    /// The base chain there.
    pub chain: BaseChain,
    /// The kind of the change.
    pub kind: ChangeKind,
    /// Their fate on the old side.
    pub before: PacketFate,
    /// Their fate on the new side.
    pub after: PacketFate,
    /// Effects that some of these packets lose (`Before`) or gain (`After`).
    pub effects: Vec<(SideName, Effect)>,
    /// All packets of the change.
    pub packets: Set,
    /// The packets in boxes, each with the rules that are responsible before and after.
    pub boxes: Vec<ChangedBox>,
    /// The number of boxes beyond those.
    pub more: usize,
    /// `true` if there are more boxes than were counted.
    pub uncounted: bool,
    /// `true` if such packets can exist.
    pub possible: bool,
    /// The host setting without which such packets cannot exist; `None` if none is needed, or if no setting is enough.
    pub only_where: Option<HostSetting>,
}

impl PacketChange {
    /// Returns the base chain whose view of the packets is shown.
    pub fn seen(&self) -> BaseChain {
        self.hook.map_or(self.chain, BaseChain::from)
    }
}

/// Some of the packets of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBox {
    /// The packets.
    pub packets: PacketBox,
    /// The rules that decided them, in the order in which the packets meet them.
    pub before: Vec<Responsible>,
    /// The rules that decide them now.
    pub after: Vec<Responsible>,
}

/// A rule, or a base chain's policy, that decides or translates packets, or has an effect on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Responsible {
    /// The table and its base chain.
    pub place: TableChain,
    /// The rule; `None` for the policy of the base chain, or if there is no such chain.
    pub rule: Option<RuleId>,
}

/// Returns the packets that two rulesets treat differently, the most important change first; nothing if every packet gets
/// the same verdict, mark and effects from both.
///
/// A condition with memory (`limit`, `recent`) of one side is the same as one of the other side if their rules have the
/// same origin, if the rule stayed, moved or changed between the two, or if both ask the same and the same packets
/// reach them. If the two of a pair ask something else, or if other packets reach them, that is a change
/// ([`ChangeKind::Limited`]).
///
/// Without any change both rulesets do the same with every packet: effects come in the same order and as often, and all
/// conditions with memory give the same answers. After a change of one condition, a later one may count other packets
/// because of it; that is not reported again.
///
/// ```
/// use fwc::analysis::{Limits, Space, Vocabulary};
/// use fwc::diff::{ChangeKind, ComparedRules, packets, rules};
/// use fwc::iptables::Ruleset;
/// use fwc::net::Family;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let read = |rule: &str| Ruleset::from_text(&format!("*filter\n:INPUT DROP [0:0]\n{rule}\nCOMMIT\n"), Family::V4);
/// let before = read("-A INPUT -s 192.0.2.0/24 -p tcp --dport 22 -j ACCEPT")?;
/// let after = read("-A INPUT -p tcp --dport 22 -j ACCEPT")?;
/// let nothing = Default::default();
/// let side = |ruleset| ComparedRules { ruleset, members: &nothing, origin: None };
/// let space = Space::new(Family::V4);
/// let changed = rules(&before, &after, &|_, _| false);
/// let changes = packets(
///     &Vocabulary::new(&space), side(&before), side(&after), &changed, Limits::default(),
/// )?;
/// assert_eq!(changes[0].kind, ChangeKind::Opened);
/// assert_eq!(changes[0].boxes[0].packets.words.to_string(), "source !192.0.2.0/24, service 22/tcp");
/// # Ok(())
/// # }
/// ```
pub fn packets(
    vocabulary: &Vocabulary<'_>,
    before: ComparedRules<'_>,
    after: ComparedRules<'_>,
    changed: &RulesDiff,
    limits: Limits,
) -> Result<Vec<PacketChange>, Incomparable> {
    let space = vocabulary.space();
    let members = [before, after].map(|side| exact_members(side, [before, after]));
    let paired = BucketPairs::new(space, [before, after], &members, changed)?;
    order::watch(
        space,
        [
            (before.ruleset, &paired.keys[0]),
            (after.ruleset, &paired.keys[1]),
        ],
    );
    let reading = |at: usize| Reading {
        sets: &members[at],
        buckets: Some(&paired.keys[at]),
        ..Reading::default()
    };
    let readings = [reading(0), reading(1)];
    let side = |side: SideName, ruleset| {
        let reading = &readings[side as usize];
        let view = Behaviour::of(space, ruleset, reading).and_then(|behaviour| {
            Ok(View {
                side,
                ruleset,
                reading,
                behaviour,
                deciders: Deciders::new(space, ruleset, reading)?,
                sets: OnceCell::new(),
            })
        });
        view.map_err(|error| Incomparable::Rules(side, error))
    };
    let mut comparison = Comparison {
        space,
        vocabulary,
        limits,
        paired: &paired,
        before: side(SideName::Before, before.ruleset)?,
        after: side(SideName::After, after.ruleset)?,
    };
    comparison.name_headers()?;
    comparison.changes()
}

/// Returns the members of the sets that every side with the set knows. A set that one side does not know is compared by
/// its name instead: its members may be equal or not.
fn exact_members(
    side: ComparedRules<'_>,
    both: [ComparedRules<'_>; 2],
) -> BTreeMap<String, IntervalSet> {
    let named = both.map(|side| named_sets(side.ruleset));
    let is_exact = |name: &str| {
        let mut sides = both.iter().zip(&named);
        sides.all(|(side, named)| side.members.contains_key(name) || !named.contains(name))
    };
    let known = side.members.iter().filter(|(name, _)| is_exact(name));
    known
        .map(|(name, members)| (name.clone(), members.clone()))
        .collect()
}

/// Returns the names of the sets that rules match.
pub fn named_sets(ruleset: &Ruleset) -> BTreeSet<&str> {
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let matches = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.matches);
    let names = matches.filter_map(|condition| match condition {
        Match::Set(set) => Some(&*set.name),
        _ => None,
    });
    names.collect()
}

/// One side, with everything that is computed about it.
struct View<'a> {
    side: SideName,
    ruleset: &'a Ruleset,
    reading: &'a Reading<'a>,
    behaviour: Behaviour,
    deciders: Deciders<'a>,
    /// The packets that each rule matches, computed when first needed: it is expensive.
    sets: OnceCell<RuleSets>,
}

/// The rules that are responsible for some packets, each with its packets.
type Responsibles = Vec<(Responsible, Set)>;

type RuleSets = BTreeMap<(TableName, RuleId), Set>;

struct Comparison<'a> {
    space: &'a Space,
    vocabulary: &'a Vocabulary<'a>,
    limits: Limits,
    paired: &'a BucketPairs,
    before: View<'a>,
    after: View<'a>,
}

/// The place of a change.
#[derive(Clone, Copy)]
struct At {
    place: TableChain,
    /// The base chain whose view of the packets is shown.
    seen: BaseChain,
    /// The hook, if the packets are as they arrive; `None` if a single table is compared.
    hook: Option<Hook>,
    /// Packets that are not shown.
    hidden: Option<Set>,
}

impl Comparison<'_> {
    fn changes(&self) -> Result<Vec<PacketChange>, Incomparable> {
        let mut differences = self
            .before
            .behaviour
            .differences(self.space, &self.after.behaviour)?;
        differences.retain(|one| {
            let effect = one.effect.as_deref();
            !effect.is_some_and(|effect| self.paired.is_of_one_side(effect))
        });
        self.add_other_rates(&mut differences)?;
        let mut changes = match differences.is_empty() || self.is_filter_alone() {
            true => self.in_tables(differences)?,
            false => self.on_paths(differences)?,
        };
        let rank = |change: &PacketChange| {
            let table = (change.table != TableName::Filter, change.table);
            (change.kind, !change.possible, table, change.chain)
        };
        changes.sort_by_key(rank);
        Ok(changes)
    }

    /// Adds an effect for packets that leave with another hop limit or type of service although the same rules changed
    /// it: the order of the rules changed, or a packet meets one of them more often.
    fn name_headers(&mut self) -> Result<(), GaveUp> {
        let space = self.space;
        let sides = [&self.before.behaviour, &self.after.behaviour];
        let places = sides.iter().flat_map(|side| side.flows.keys().copied());
        for place in places.collect::<BTreeSet<TableChain>>() {
            let flows = [&self.before, &self.after].map(|view| view.behaviour.flow(space, place));
            let writes = |flow: &Flow| -> BTreeSet<Effect> {
                let effects = flow.effects.keys();
                let writing = effects.filter(|effect| order::writes_header(effect));
                writing.cloned().collect()
            };
            let all: BTreeSet<Effect> = flows.iter().flat_map(writes).collect();
            if all.is_empty() || flows[0].verdicts == flows[1].verdicts {
                continue;
            }
            let mut reported = space.none();
            for effect in &all {
                let has = |flow: &Flow| flow.effects.get(effect).copied().unwrap_or(space.none());
                let [old, new] = [has(&flows[0]), has(&flows[1])];
                let either = space.or(space.minus(old, new)?, space.minus(new, old)?)?;
                reported = space.or(reported, either)?;
            }
            let [before, after] = [flows[0].verdicts, flows[1].verdicts];
            for (effects, packets) in space.header_changes(before, after)? {
                let packets = space.minus(packets, reported)?;
                if packets == space.none() {
                    continue;
                }
                let views = [&mut self.before, &mut self.after];
                for (view, effect) in views.into_iter().zip(effects) {
                    if let Some(flow) = view.behaviour.flows.get_mut(&place) {
                        let known = flow.effects.entry(effect).or_insert(space.none());
                        *known = space.or(*known, packets)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the packets that reach conditions with memory whose text changed.
    fn add_other_rates(&self, differences: &mut Vec<Difference>) -> Result<(), GaveUp> {
        let space = self.space;
        for effect in self.paired.changed() {
            let mut places: BTreeMap<TableChain, Set> = BTreeMap::new();
            for view in [&self.before, &self.after] {
                for (place, flow) in &view.behaviour.flows {
                    if let Some(set) = flow.effects.get(&effect) {
                        let known = places.entry(*place).or_insert(space.none());
                        *known = space.or(*known, *set)?;
                    }
                }
            }
            for ((table, chain), packets) in places {
                differences.push(Difference {
                    table,
                    chain,
                    effect: Some(effect.clone()),
                    packets,
                });
            }
        }
        Ok(())
    }

    /// Returns a change of an effect. For the effect of reaching a condition with memory it is a change of the rate.
    fn effect_change(
        &self,
        at: At,
        fates: (PacketFate, PacketFate),
        packets: Set,
        having: impl Fn(&View<'_>, &PacketFate, Set) -> Result<Responsibles, Incomparable>,
    ) -> Result<PacketChange, Incomparable> {
        let mut change = self.change(at, ChangeKind::EffectChanged, fates, packets, having)?;
        let sides = [
            (&mut change.before, SideName::Before),
            (&mut change.after, SideName::After),
        ];
        for (fate, side) in sides {
            if let PacketFate::Effect(effect) = fate
                && let Some(text) = self.paired.text(effect, side)
            {
                *fate = PacketFate::Counted(text.into());
                change.kind = ChangeKind::LimitChanged;
            }
        }
        Ok(change)
    }

    /// Returns an effect as it is shown beside another change; `None` if another effect already shows it.
    fn shown_effect(&self, side: SideName, effect: &Effect) -> Option<Effect> {
        match self.paired.pair(effect) {
            Some(pair) if pair.is_shown_by_log() => None,
            Some(pair) => Some(format!("counted by {}", pair.texts[side as usize]).into()),
            None => Some(effect.clone()),
        }
    }

    /// Returns `true` if only the filter table does anything. Its verdicts are then the ends of all paths, which saves
    /// following packets through all tables.
    fn is_filter_alone(&self) -> bool {
        let accepts = Flow::of(self.space.verdict(Verdict::Accept));
        let flows = |view: &View<'_>| {
            let others = view.behaviour.flows.iter();
            let mut others = others.filter(|(place, _)| place.0 != TableName::Filter);
            others.all(|(_, flow)| *flow == accepts)
        };
        flows(&self.before) && flows(&self.after)
    }

    /// Returns a change with its packets in boxes. Responsible rules are only searched for the packets of shown boxes.
    fn change(
        &self,
        at: At,
        kind: ChangeKind,
        (before, after): (PacketFate, PacketFate),
        packets: Set,
        responsible: impl Fn(&View<'_>, &PacketFate, Set) -> Result<Responsibles, Incomparable>,
    ) -> Result<PacketChange, Incomparable> {
        let space = self.space;
        let mut valid = space.valid(at.seen)?;
        if let Some(hidden) = at.hidden {
            valid = space.minus(valid, hidden)?;
        }
        let Boxes {
            shown,
            more,
            uncounted,
            possible,
        } = self
            .vocabulary
            .boxes_among(packets, valid, at.seen, self.limits)?;
        let care = if possible {
            space.valid(at.seen)?
        } else {
            space.all()
        };
        let mut own = Vec::with_capacity(shown.len());
        for one in &shown {
            own.push(space.every([packets, one.packets, care])?);
        }
        let all = space.any(own.iter().copied())?;
        let [old, new] = [
            responsible(&self.before, &before, all)?,
            responsible(&self.after, &after, all)?,
        ];
        let among = |responsibles: &Responsibles, own: Set| {
            let mut found = Vec::new();
            for (responsible, set) in responsibles {
                if space.and(*set, own)? != space.none() {
                    found.push(*responsible);
                }
            }
            Ok::<_, GaveUp>(found)
        };
        let mut boxes = Vec::with_capacity(shown.len());
        for (packets, own) in shown.into_iter().zip(own) {
            boxes.push(ChangedBox {
                before: among(&old, own)?,
                after: among(&new, own)?,
                packets,
            });
        }
        Ok(PacketChange {
            hook: at.hook,
            table: at.place.0,
            chain: at.place.1,
            kind,
            before,
            after,
            effects: Vec::new(),
            packets,
            boxes,
            more,
            uncounted,
            possible,
            only_where: space.only_where(at.seen, packets)?,
        })
    }
}

impl View<'_> {
    /// Returns the rules that decide packets in a table.
    fn deciding(&self, place: TableChain, packets: Set) -> Result<Vec<Decided>, Incomparable> {
        self.deciders
            .of(place, packets)
            .map_err(|error| Incomparable::Rules(self.side, error))
    }

    /// Returns the rules that may have an effect on packets: all that do, and sometimes one that an earlier rule keeps
    /// the packets from.
    fn having(
        &self,
        space: &Space,
        (table, base): TableChain,
        fate: &PacketFate,
        packets: Set,
    ) -> Result<Responsibles, Incomparable> {
        let (PacketFate::Effect(effect), Some(table)) = (fate, self.ruleset.table(table)) else {
            return Ok(Vec::new());
        };
        if let Some((first, second)) = space.watched(effect) {
            let mut having = Vec::new();
            for effect in BTreeSet::from([first, second]) {
                let fate = PacketFate::Effect(effect);
                having.extend(self.having(space, (table.name, base), &fate, packets)?);
            }
            having.sort_by_key(|(responsible, _)| *responsible);
            having.dedup_by_key(|(responsible, _)| *responsible);
            return Ok(having);
        }
        let family = self.ruleset.family;
        let keys = self.reading.buckets;
        let is_key = |id: RuleId, at: usize| {
            let key = keys.and_then(|keys| keys.get(&(table.name, id, at)));
            key.is_some_and(|key| counted(&key.key) == *effect)
        };
        let mut having = Vec::new();
        for chain in table.reached_from(base.as_str()) {
            for (at, rule) in table.chains[chain].rules.iter().enumerate() {
                let id = RuleId { chain, rule: at };
                let target = rule.target.to_text();
                let is_counter = rule.target == Target::None && counter(rule, family) == *effect;
                let target = target.strip_prefix("-j ").unwrap_or(&target);
                let is_target =
                    target == &**effect || is_header_effect(effect) && order::writes_header(target);
                let set = if is_target || is_counter {
                    // Earlier rules may have changed these fields before the packets reach this rule.
                    let is_written = |field| match field {
                        Field::Mark(_) | Field::ConnectionMark(_) | Field::HopLimit => true,
                        Field::State => table.name == TableName::Raw,
                        _ => false,
                    };
                    let set = self.rule_sets(space)?.get(&(table.name, id)).copied();
                    space.project(set.unwrap_or(space.none()), |field| !is_written(field))?
                } else if rule
                    .matches
                    .iter()
                    .enumerate()
                    .any(|(at, one)| is_key(id, at) || one.to_text(family) == **effect)
                {
                    // Every packet that reaches this condition is added to its list, or takes from its bucket.
                    space.all()
                } else {
                    continue;
                };
                let set = space.and(set, packets)?;
                if set != space.none() {
                    let (place, rule) = ((table.name, base), Some(id));
                    having.push((Responsible { place, rule }, set));
                }
            }
        }
        Ok(having)
    }

    fn rule_sets(&self, space: &Space) -> Result<&RuleSets, Incomparable> {
        if self.sets.get().is_none() {
            let sets = rule_sets(space, self.ruleset, self.reading)
                .map_err(|error| Incomparable::Rules(self.side, error))?;
            let _ = self.sets.set(sets);
        }
        Ok(self.sets.get_or_init(BTreeMap::new))
    }
}

//! Finds shadowed rules: earlier rules of the chain decide every packet that they match.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;

use super::address::Partly;
use super::field::{Field, is_address};
use super::space::{Set, Space, Split};
use super::text::{Reading, rule_sets};
use super::{GaveUp, TextError};
use crate::iptables::{Chain, Match, RuleId, Ruleset, Table, TableName, Target};
use crate::net::Family;

/// A shadowed rule: no packet reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The table.
    pub table: TableName,
    /// The rule.
    pub rule: RuleId,
    /// Earlier rules of its chain that together decide all of its packets, in their order. Each decides some packets
    /// that those before it in the list do not. If a single rule decides all of them, the list has only that rule.
    pub by: Vec<RuleId>,
}

/// Sets in an order, for questions about what the first of them leave of another set. A tree of their unions makes a
/// question visit few of them.
pub struct Covers<'s> {
    space: &'s Space,
    /// The sets themselves, then the unions of pairs, of pairs of pairs, and so on up to the union of all.
    levels: Vec<Vec<Set>>,
}

/// The number of sample packets to try before computing with the set itself.
const TRIED: u64 = 6;
/// The number of sample packets to try where the answer needs what other sets leave of the set: computing that costs as
/// much as thousands of samples.
const TRIED_FOR_REST: u64 = 100;

impl<'s> Covers<'s> {
    /// Builds the tree of unions of some sets.
    pub fn new(space: &'s Space, sets: Vec<Set>) -> Result<Self, GaveUp> {
        let mut levels = vec![sets];
        while let Some(last) = levels.last().filter(|last| last.len() > 1) {
            let unions = last.chunks(2).map(|pair| match pair {
                [one, two] => space.or(*one, *two),
                pair => Ok(pair[0]),
            });
            levels.push(unions.collect::<Result<_, _>>()?);
        }
        Ok(Self { space, levels })
    }

    /// Returns the nodes of the tree, by level and index, that together are the first `count` sets.
    fn blocks(&self, count: usize) -> Vec<(usize, usize)> {
        let (mut blocks, mut from) = (Vec::new(), 0);
        for level in (0..self.levels.len()).rev() {
            let size = 1 << level;
            // The last node of a level may have fewer sets than the others, and then it ends with the last set.
            if from + size <= count {
                blocks.push((level, from >> level));
                from += size;
            }
        }
        blocks
    }

    /// Returns the packets of a set that none of the first `count` sets has.
    pub fn left(&self, set: Set, count: usize) -> Result<Set, GaveUp> {
        let mut left = set;
        for (level, place) in self.blocks(count) {
            left = self.space.minus(left, self.levels[level][place])?;
        }
        Ok(left)
    }

    /// Returns those of the first `count` sets that together have all packets of a set, each some that those before it
    /// in the result do not have; only the last if it has them all. Returns `None` if packets are left, and for the
    /// empty set.
    pub fn covering(&self, set: Set, count: usize) -> Result<Option<Vec<usize>>, GaveUp> {
        let space = self.space;
        if set == space.none() || count == 0 {
            return Ok(None);
        }
        // A few samples show for most sets that they are not covered.
        if space
            .some_packets(set, TRIED)
            .any(|packet| !self.has(count, &packet))
        {
            return Ok(None);
        }
        if self.left(set, count)? != space.none() {
            return Ok(None);
        }
        let (mut left, mut by) = (set, Vec::new());
        while left != space.none() {
            let Some(next) = self.first_meeting(left, 0)?.filter(|next| *next < count) else {
                return Ok(None);
            };
            left = space.minus(left, self.levels[0][next])?;
            by.push(next);
        }
        // A single set that has all packets tells a reader more than several that have a part each.
        if let Some(&last) = by.last()
            && by.len() > 1
            && space.is_subset(set, self.levels[0][last])?
        {
            by = vec![last];
        }
        Ok(Some(by))
    }

    /// Returns the sets from index `from` on that together take the packets of a set, in order, as long as `same`
    /// accepts each; and the packets that none takes. Returns only the last set if it has them all. Returns `None` if
    /// the packets meet a set that `same` does not accept, or if some are left although `rest` is `false`.
    pub fn behind(
        &self,
        set: Set,
        from: usize,
        same: impl Fn(usize) -> bool,
        rest: bool,
    ) -> Result<Option<(Vec<usize>, Set)>, GaveUp> {
        // A few samples show for most sets that they meet another one.
        let mut firsts = self.samples(set, from);
        if !firsts.all(|first| first.map_or(rest, &same)) {
            return Ok(None);
        }
        let (mut left, mut found, mut from) = (set, Vec::new(), from);
        while let Some(next) = self.first_meeting(left, from)? {
            if !same(next) {
                return Ok(None);
            }
            left = self.space.minus(left, self.levels[0][next])?;
            found.push(next);
            from = next + 1;
        }
        if left != self.space.none() && !rest {
            return Ok(None);
        }
        // A single set that has all packets tells a reader more than several that have a part each.
        if let Some(&last) = found.last()
            && found.len() > 1
            && self.space.is_subset(set, self.levels[0][last])?
        {
            found = vec![last];
        }
        Ok(Some((found, left)))
    }

    /// Returns, for some sample packets of a set, the first set from index `from` on that has each.
    pub fn samples(&self, set: Set, from: usize) -> impl Iterator<Item = Option<usize>> {
        let packets = self.space.some_packets(set, TRIED);
        packets.map(move |packet| self.first_having(from, &packet))
    }

    /// Returns `true` if [`Covers::behind`] finds nothing for what the first `at` sets of `earlier` leave of a set:
    /// some packet that they leave meets a set behind `at` that `same` does not accept before any that it accepts.
    ///
    /// Ask this first: where hundreds of sets overlap, what they leave of a set is costly to build. This tries samples,
    /// then the small intersections with single sets behind it.
    pub fn is_needed(
        &self,
        earlier: &Self,
        set: Set,
        at: usize,
        same: impl Fn(usize) -> bool,
        rest: bool,
    ) -> Result<bool, GaveUp> {
        let space = self.space;
        let mut packets = space
            .some_packets(set, TRIED_FOR_REST)
            .filter(|packet| !earlier.has(at, packet));
        if packets.any(|packet| !self.first_having(at + 1, &packet).map_or(rest, &same)) {
            return Ok(true);
        }
        let (mut from, mut met) = (at + 1, Vec::new());
        while let Some(next) = self.first_meeting(set, from)? {
            from = next + 1;
            let other = self.levels[0][next];
            if same(next) {
                met.push(other);
                continue;
            }
            let mut left = earlier.left(space.and(set, other)?, at)?;
            for between in &met {
                if left == space.none() {
                    break;
                }
                left = space.minus(left, *between)?;
            }
            if left != space.none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns `true` if one of the first `count` sets has a packet.
    fn has(&self, count: usize, packet: &Sample) -> bool {
        let has = |(level, place): (usize, usize)| {
            let block = self.levels[level][place];
            self.space.contains(block, |field| packet.value(field))
        };
        self.blocks(count).into_iter().any(has)
    }

    /// Returns the first set from index `from` on that has a packet.
    fn first_having(&self, from: usize, packet: &Sample) -> Option<usize> {
        let has = |block| Ok(self.space.contains(block, |field| packet.value(field)));
        let Ok(found) = self.first_where::<Infallible>(from, has);
        found
    }

    /// Returns the first set from index `from` on that meets another set.
    pub fn first_meeting(&self, set: Set, from: usize) -> Result<Option<usize>, GaveUp> {
        self.first_where(from, |block| self.space.meets(set, block))
    }

    /// Returns the first set from index `from` on for which a predicate holds. If it holds for a set it must hold for
    /// every union with it.
    fn first_where<E>(
        &self,
        from: usize,
        holds: impl Fn(Set) -> Result<bool, E>,
    ) -> Result<Option<usize>, E> {
        let Some(top) = self.levels.len().checked_sub(1) else {
            return Ok(None);
        };
        // The nodes still to visit, the next one last.
        let mut open = vec![(top, 0)];
        while let Some((level, place)) = open.pop() {
            let ends_before = (place + 1) << level <= from;
            let Some(block) = self.levels[level].get(place).filter(|_| !ends_before) else {
                continue;
            };
            if !holds(*block)? {
                continue;
            }
            match level.checked_sub(1) {
                None => return Ok(Some(place)),
                Some(below) => open.extend([(below, 2 * place + 1), (below, 2 * place)]),
            }
        }
        Ok(None)
    }
}

/// A sample packet of a set.
struct Sample {
    values: BTreeMap<Field, u128>,
    seed: u64,
    family: Family,
}

impl Sample {
    /// Returns a field's value. A field that the set does not ask gets a pseudo-random one.
    fn value(&self, field: Field) -> u128 {
        let drawn = || between(self.seed, field, 0, field.last(self.family));
        self.values.get(&field).copied().unwrap_or_else(drawn)
    }
}

/// Returns a pseudo-random value, always the same for the same seed and field, so that results do not vary from run to
/// run.
fn between(seed: u64, field: Field, first: u128, last: u128) -> u128 {
    let mut hasher = FxHasher::default();
    (seed, field).hash(&mut hasher);
    let number = u128::from(hasher.finish()) << 64 | u128::from(hasher.finish().rotate_left(29));
    match (last - first).checked_add(1) {
        Some(size) => first + number % size,
        None => number,
    }
}

impl Space {
    /// Returns some sample packets of a set; none of the empty set.
    fn some_packets(&self, set: Set, count: u64) -> impl Iterator<Item = Sample> {
        let count = if set == self.none() { 0 } else { count };
        (0..count).map(move |seed| self.some_packet(set, seed))
    }

    fn some_packet(&self, set: Set, seed: u64) -> Sample {
        let (mut at, mut values) = (set, BTreeMap::new());
        let mut addresses: BTreeMap<Field, Partly> = BTreeMap::new();
        while let Split::By(field, mut runs) = self.split(at) {
            runs.retain(|(_, _, rest)| *rest != self.none());
            let chosen = between(seed, field, 0, runs.len() as u128 - 1) as usize;
            let (first, last, rest) = runs[chosen];
            at = rest;
            match field.address() {
                Some((address, bit)) => {
                    let all = Partly::range(0, address.last(self.family()));
                    let known = addresses.entry(address).or_insert(all);
                    *known = known.with(bit, first == 1);
                }
                None if is_address(field) => {
                    addresses.insert(field, Partly::range(first, last));
                }
                None => drop(values.insert(field, between(seed + 1, field, first, last))),
            }
        }
        for (field, known) in addresses {
            let drawn = between(seed + 1, field, known.first, known.last);
            let address = known.next(drawn).or_else(|| known.next(known.first));
            values.insert(field, address.unwrap_or(drawn));
        }
        Sample {
            values,
            seed,
            family: self.family(),
        }
    }

    /// Returns `true` if a set depends on a condition that the packet itself does not answer.
    pub fn is_opaque(&self, set: Set) -> bool {
        let support = self.support(set);
        support
            .iter()
            .any(|field| matches!(field, Field::Opaque(_)))
    }
}

/// Returns the shadowed rules of a ruleset, chain by chain: the earlier rules of the same chain decide all packets that
/// they match. They can be deleted without a change for any packet, whoever calls the chain.
///
/// A rule shadows no other if it depends on a condition that the packet does not answer (`limit`, a set of unknown
/// members, an unknown match), or on marks and hop limits, which rules may change on the way. Such a rule can itself be
/// shadowed: whatever its conditions answer, no packet reaches them.
///
/// ```
/// use fwc::analysis::{Reading, Space, shadowed};
/// use fwc::iptables::Ruleset;
/// use fwc::net::Family;
///
/// let rules = "*filter\n\
///     -A INPUT -s 192.0.2.0/25 -j ACCEPT\n\
///     -A INPUT -s 192.0.2.128/25 -j DROP\n\
///     -A INPUT -s 192.0.2.0/24 -p tcp -j ACCEPT\n\
///     COMMIT\n";
/// let ruleset = Ruleset::from_text(rules, Family::V4)?;
/// let found = shadowed(&Space::new(Family::V4), &ruleset, &Reading::default())?;
/// assert_eq!(found[0].rule.rule, 2);
/// assert_eq!(found[0].by.iter().map(|by| by.rule).collect::<Vec<_>>(), [0, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shadowed(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<Vec<Shadowed>, TextError> {
    let sets = rule_sets(space, ruleset, reading)?;
    Ok(shadowed_of(space, ruleset, &sets)?)
}

/// Does the same for a caller that has the packets of each rule.
pub(super) fn shadowed_of(
    space: &Space,
    ruleset: &Ruleset,
    sets: &BTreeMap<(TableName, RuleId), Set>,
) -> Result<Vec<Shadowed>, GaveUp> {
    let mut found = Vec::new();
    for table in &ruleset.tables {
        let ends = ending_chains(table);
        for (number, chain) in table.chains.iter().enumerate() {
            let id = |rule| RuleId {
                chain: number,
                rule,
            };
            let own: Vec<Set> = (0..chain.rules.len())
                .map(|rule| sets.get(&(table.name, id(rule))).copied())
                .map(|set| set.unwrap_or(space.none()))
                .collect();
            let decided = own.iter().zip(&chain.rules).map(|(set, rule)| {
                // A rule that may not decide some packet after all shadows none.
                let decides = decides(&rule.target, &ends) && is_certain(space, table.name, *set);
                if decides { *set } else { space.none() }
            });
            let covers = Covers::new(space, decided.collect())?;
            for (rule, set) in own.iter().enumerate() {
                if let Some(by) = covers.covering(*set, rule)? {
                    found.push(Shadowed {
                        table: table.name,
                        rule: id(rule),
                        by: by.into_iter().map(id).collect(),
                    });
                }
            }
        }
    }
    Ok(found)
}

/// Returns `true` if the packet as it enters the table determines whether it is in the set. In raw its state may change
/// on the way, by the first `CT`.
pub(super) fn is_certain(space: &Space, table: TableName, set: Set) -> bool {
    let changes =
        |field: &Field| is_open(field) || table == TableName::Raw && matches!(field, Field::State);
    !space.support(set).iter().any(changes)
}

/// Returns `true` for a field that the packet does not determine as it enters a table, or that may change inside it.
pub(super) fn is_open(field: &Field) -> bool {
    matches!(
        field,
        Field::Opaque(_) | Field::Mark(_) | Field::ConnectionMark(_) | Field::HopLimit
    )
}

/// Returns `true` if no packet that the rule matches goes to the next rule.
pub(super) fn decides(target: &Target, ends: &BTreeSet<&str>) -> bool {
    match target {
        Target::Accept
        | Target::Drop
        | Target::Return
        | Target::Reject(_)
        | Target::Nat(_)
        | Target::Queue
        | Target::Goto(_) => true,
        Target::Jump(chain) => ends.contains(&**chain),
        Target::None | Target::Log(_) | Target::Mark(_) | Target::Other(_) | Target::Unknown(_) => {
            false
        }
    }
}

/// Returns the chains that never return: a rule without conditions ends the table, and no rule before it returns.
pub(super) fn ending_chains(table: &Table) -> BTreeSet<&str> {
    let ends = |chain: &Chain| {
        for rule in &chain.rules {
            let is_plain = |one: &Match| matches!(one, Match::Comment(_));
            match rule.target {
                Target::Return | Target::Goto(_) => return false,
                Target::Accept | Target::Drop | Target::Reject(_)
                    if rule.matches.iter().all(is_plain) =>
                {
                    return true;
                }
                _ => {}
            }
        }
        false
    };
    let chains = table.chains.iter().filter(|chain| ends(chain));
    chains.map(|chain| &*chain.name).collect()
}

//! Describes a set of packets in few words: as a union of boxes such as "from wan, service ssh, state new".
//!
//! As long as packets are left, the algorithm takes the largest path through the diagram and widens it part by part to
//! the set with the fewest words that keeps the box inside. At the end, boxes that differ in one part are merged, and
//! boxes whose packets the others have are dropped.

use std::collections::BTreeMap;

use super::GaveUp;
use super::behaviour::BaseChain;
use super::dimension::Dimension;
use super::naming::{BoxWords, PacketPart, Phrase, SPEECHLESS, ValueList, Vocabulary};
use super::space::{Set, Space};
use super::witness::Witness;

/// How many boxes to show and to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most boxes to show.
    pub shown: usize,
    /// The most boxes to count. Beyond that the output only says that there are more.
    pub counted: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shown: 12,
            counted: 100,
        }
    }
}

/// A product of parts: the packets for which every part has one of some values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketBox {
    /// The packets. Packets that no kernel shows may be in the box even if they are not in the set.
    pub packets: Set,
    /// The box in words.
    pub words: BoxWords,
    /// One packet of the set in the box.
    pub example: Witness,
}

/// A set of packets as boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boxes {
    /// The boxes, the largest first; they may overlap. If `more` is 0 they cover the set.
    pub shown: Vec<PacketBox>,
    /// The number of further boxes that were counted.
    pub more: usize,
    /// `true` if there are more boxes than were counted.
    pub uncounted: bool,
    /// `true` if a kernel can show such packets. If `false`, the set has no packet that a kernel can show.
    pub possible: bool,
}

/// The most steps for counting boxes that are not shown, for all sets of a vocabulary together. What is left when they
/// are used up is not counted.
const MOST_STEPS: u64 = 1_000_000;

impl Vocabulary<'_> {
    /// Describes a set as a union of boxes in the words of this vocabulary.
    ///
    /// The choices of the kernel on a packet's path are left out. A box may contain packets that no kernel shows at
    /// this base chain (see [`Space::valid`]), unless the set has no others: leaving them free makes boxes larger and
    /// their words fewer.
    ///
    /// ```
    /// # use fwc::analysis::{BaseChain, Dimension, Limits, Space, Vocabulary};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let ssh = space.and(space.protocol(Protocol::TCP)?, space.destination_port(22, 22)?)?;
    /// let wan = space.in_device("ppp0")?;
    /// let set = space.and(space.not(ssh)?, wan)?;
    ///
    /// let plain = Vocabulary::new(&space).boxes(set, BaseChain::Input, Limits::default())?;
    /// assert_eq!(plain.shown[0].words.to_string(), "from ppp0, service !22/tcp");
    /// let mut vocabulary = Vocabulary::new(&space);
    /// vocabulary.name(Dimension::From, "wan", wan);
    /// vocabulary.name(Dimension::Service, "ssh", ssh);
    /// let named = vocabulary.boxes(set, BaseChain::Input, Limits::default())?;
    /// assert_eq!(named.shown[0].words.to_string(), "from wan, service !ssh");
    /// assert_eq!((named.shown.len(), named.more), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn boxes(&self, set: Set, chain: BaseChain, limits: Limits) -> Result<Boxes, GaveUp> {
        let valid = self.space.valid(chain)?;
        self.boxes_among(set, valid, chain, limits)
    }

    /// Does the same for a caller that only cares about the packets in `valid`: a box may or may not contain others.
    pub fn boxes_among(
        &self,
        set: Set,
        valid: Set,
        chain: BaseChain,
        limits: Limits,
    ) -> Result<Boxes, GaveUp> {
        let space = self.space;
        let set = space.whatever_is_chosen(set)?;
        let mut wanted = space.and(set, valid)?;
        let possible = wanted != space.none();
        let valid = if possible { valid } else { space.all() };
        if !possible {
            wanted = set;
        }
        let coverage = Coverage {
            vocabulary: self,
            space,
            valid,
            bad: space.minus(valid, set)?,
        };
        let mut found: Vec<(Set, Vec<Factor>)> = Vec::new();
        let mut left = wanted;
        while left != space.none() {
            let only_counts = found.len() >= limits.shown;
            let is_enough = found.len() >= limits.counted || self.counting.get() > MOST_STEPS;
            if only_counts && is_enough {
                break;
            }
            let begun = space.steps();
            let factors = coverage.widen(space.largest_way(left)?)?;
            let packets = coverage.product(&factors)?;
            left = space.minus(left, packets)?;
            found.push((packets, factors));
            if only_counts {
                let counting = self.counting.get() + space.steps() - begun;
                self.counting.set(counting);
            }
        }
        let uncounted = left != space.none();
        coverage.merge(&mut found)?;
        // A box found early may be covered by wider ones found later.
        coverage.drop_covered(&mut found, wanted)?;
        let more = found.len().saturating_sub(limits.shown);
        found.truncate(limits.shown);
        let mut shown = Vec::with_capacity(found.len());
        for (packets, factors) in found {
            let Some(example) = space.witness(space.and(packets, wanted)?, chain, &[])? else {
                continue;
            };
            let words = self.words(&factors);
            shown.push(PacketBox {
                packets,
                words,
                example,
            });
        }
        Ok(Boxes {
            shown,
            more,
            uncounted,
            possible,
        })
    }

    fn words(&self, factors: &[Factor]) -> BoxWords {
        let mut words = BoxWords::default();
        let mut parts: BTreeMap<PacketPart, ValueList> = BTreeMap::new();
        for (dimension, phrase) in factors.iter().filter(|(_, phrase)| phrase.cost > 0) {
            match (PacketPart::of(*dimension), *dimension) {
                (Some(part), _) => {
                    let list = ValueList {
                        words: phrase.words.clone(),
                        negated: phrase.negated,
                    };
                    parts.insert(part, list);
                }
                (None, Dimension::Condition(number)) => {
                    let key = self.space.opaque_key(number).unwrap_or_default();
                    let holds = self.space.contains(phrase.set, |_| 1);
                    words.depends_on.push((self.condition_words(&key), holds));
                }
                (None, _) => {}
            }
        }
        words.parts = parts.into_iter().collect();
        words.depends_on.sort();
        words
    }
}

/// One part of a box, with its words.
type Factor = (Dimension, Phrase);

struct Coverage<'a> {
    vocabulary: &'a Vocabulary<'a>,
    space: &'a Space,
    /// The packets that the caller cares about.
    valid: Set,
    /// Those of them that no box may contain.
    bad: Set,
}

impl Coverage<'_> {
    fn product(&self, factors: &[Factor]) -> Result<Set, GaveUp> {
        self.space
            .every(factors.iter().map(|(_, phrase)| phrase.set))
    }

    /// Widens a product that is in the set to a box with as few words as possible.
    fn widen(&self, way: Vec<(Dimension, Set)>) -> Result<Vec<Factor>, GaveUp> {
        let mut sets: BTreeMap<Dimension, Set> = way.into_iter().collect();
        let mut factors = Vec::with_capacity(sets.len());
        let places = [
            (Dimension::From, Dimension::Source),
            (Dimension::To, Dimension::Destination),
        ];
        let of_place = |dimension: &Dimension| {
            places
                .iter()
                .any(|(place, address)| [*place, *address].contains(dimension))
        };
        let alone: Vec<Dimension> = sets.keys().copied().filter(|one| !of_place(one)).collect();
        // Parts that readers think of last become free first.
        let (rare, often): (Vec<_>, Vec<_>) = alone
            .into_iter()
            .partition(|one| ![Dimension::State, Dimension::Service].contains(one));
        for dimension in rare.into_iter().rev().chain(often) {
            let Some(own) = sets.remove(&dimension) else {
                continue;
            };
            let bad = self.bad_within(&sets, &factors, &[dimension])?;
            let widest = self.space.not(bad)?;
            let phrase = self.best(dimension, own, widest)?;
            if phrase.cost > 0 {
                factors.push((dimension, phrase));
            }
        }
        for (place, address) in places {
            let all = self.space.all();
            let own = (
                sets.remove(&place).unwrap_or(all),
                sets.remove(&address).unwrap_or(all),
            );
            if own == (all, all) {
                continue;
            }
            let bad = self.bad_within(&sets, &factors, &[place, address])?;
            let pair = self.best_pair((place, address), own, bad)?;
            factors.extend(pair.into_iter().filter(|(_, phrase)| phrase.cost > 0));
        }
        Ok(factors)
    }

    /// Returns the values of some parts that a box with these other parts must not have.
    fn bad_within(
        &self,
        sets: &BTreeMap<Dimension, Set>,
        factors: &[Factor],
        parts: &[Dimension],
    ) -> Result<Set, GaveUp> {
        let sets = sets.values().copied();
        let fixed = factors.iter().map(|(_, phrase)| phrase.set);
        let others = self.space.every(sets.chain(fixed))?;
        self.space.shadow_of_both((self.bad, others), parts)
    }

    /// Returns the values of a part among the packets that the caller cares about.
    fn care(&self, dimension: Dimension) -> Result<Set, GaveUp> {
        self.space.shadow(self.valid, dimension)
    }

    /// Returns, of the sets between `own` and `widest`, the one with the fewest words; of two equally short ones the
    /// wider one.
    fn best(&self, dimension: Dimension, own: Set, widest: Set) -> Result<Phrase, GaveUp> {
        let space = self.space;
        let care = self.care(dimension)?;
        let mut best = self.vocabulary.phrase(dimension, widest, care)?;
        let mut consider = |set: Set| -> Result<(), GaveUp> {
            let phrase = self.vocabulary.phrase(dimension, set, care)?;
            if phrase.cost < best.cost {
                best = phrase;
            }
            Ok(())
        };
        if widest == space.all() {
            return Ok(best);
        }
        consider(space.touched(widest, own)?)?;
        for name in self
            .vocabulary
            .names_of(dimension)
            .filter(|name| name.plain)
        {
            let cared = space.and(name.set, care)?;
            if space.is_subset(own, name.set)? && space.is_subset(cared, widest)? {
                consider(name.set)?;
            }
            if space.and(own, name.set)? == space.none()
                && space.is_subset(space.minus(care, name.set)?, widest)?
            {
                consider(space.not(name.set)?)?;
            }
        }
        // Values that the caller does not care about may be in it or not.
        consider(space.or(own, space.not(care)?)?)?;
        consider(own)?;
        Ok(best)
    }

    /// Does the same for a device and its addresses together, because the name of a zone may stand for both.
    fn best_pair(
        &self,
        (place, address): (Dimension, Dimension),
        (own_place, own_address): (Set, Set),
        bad: Set,
    ) -> Result<[Factor; 2], GaveUp> {
        let space = self.space;
        let own = space.and(own_place, own_address)?;
        let care = self.care(place)?;
        let widest_place = space.not(space.shadow(space.and(bad, own_address)?, place)?)?;
        let mut candidates = vec![self.vocabulary.phrase(place, space.all(), care)?];
        for name in self.vocabulary.names_of(place) {
            candidates.push(Phrase {
                set: name.set,
                words: vec![name.word.clone()],
                negated: false,
                cost: 1,
            });
        }
        candidates.push(self.best(place, own_place, widest_place)?);
        let mut best: Option<(usize, [Factor; 2])> = None;
        for candidate in candidates {
            if best
                .as_ref()
                .is_some_and(|(cost, _)| *cost <= candidate.cost)
                || !space.is_subset(own, candidate.set)?
            {
                continue;
            }
            let within = space.and(bad, candidate.set)?;
            let widest = space.not(space.shadow(within, address)?)?;
            if !space.is_subset(own_address, widest)? {
                continue;
            }
            let phrase = self.best(address, own_address, widest)?;
            let cost = candidate.cost + phrase.cost;
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, [(place, candidate), (address, phrase)]));
            }
        }
        match best {
            Some((_, pair)) => Ok(pair),
            // The device's own values always fit.
            None => Ok([
                (place, self.vocabulary.phrase(place, own_place, care)?),
                (
                    address,
                    self.vocabulary
                        .phrase(address, own_address, self.care(address)?)?,
                ),
            ]),
        }
    }

    /// Merges boxes that differ in one part.
    fn merge(&self, found: &mut Vec<(Set, Vec<Factor>)>) -> Result<(), GaveUp> {
        let mut one = 0;
        while one < found.len() {
            let mut other = one + 1;
            while other < found.len() {
                match self.merged(&found[one].1, &found[other].1)? {
                    Some(factors) => {
                        found[one] = (self.product(&factors)?, factors);
                        found.remove(other);
                        other = one + 1;
                    }
                    None => other += 1,
                }
            }
            one += 1;
        }
        Ok(())
    }

    fn merged(&self, one: &[Factor], other: &[Factor]) -> Result<Option<Vec<Factor>>, GaveUp> {
        if one.len() != other.len() {
            return Ok(None);
        }
        let mut different = None;
        for (at, (one, other)) in one.iter().zip(other).enumerate() {
            // Sets with the same words are the same as far as the caller cares.
            let same = |one: &Phrase, other: &Phrase| {
                (&one.words, one.negated) == (&other.words, other.negated)
            };
            if one.0 == other.0 && same(&one.1, &other.1) {
                continue;
            }
            if one.0 != other.0 || different.replace(at).is_some() {
                return Ok(None);
            }
        }
        let mut merged = one.to_vec();
        let Some(at) = different else {
            return Ok(Some(merged));
        };
        let (dimension, own) = &one[at];
        let theirs = &other[at].1;
        if own.negated || theirs.negated || matches!(dimension, Dimension::Condition(_)) {
            return Ok(None);
        }
        let set = self.space.or(own.set, theirs.set)?;
        let plain = self
            .space
            .support(set)
            .iter()
            .all(|field| Dimension::of(*field) == *dimension);
        let phrase = match plain {
            true => self
                .vocabulary
                .phrase(*dimension, set, self.care(*dimension)?)?,
            false => {
                let mut words = own.words.clone();
                words.extend(
                    theirs
                        .words
                        .iter()
                        .filter(|word| !own.words.contains(word))
                        .cloned(),
                );
                Phrase {
                    set,
                    cost: words.len(),
                    words,
                    negated: false,
                }
            }
        };
        if phrase.cost >= SPEECHLESS {
            return Ok(None);
        }
        merged[at].1 = phrase;
        Ok(Some(merged))
    }

    /// Drops boxes whose packets the other boxes have, the smallest first.
    fn drop_covered(&self, found: &mut Vec<(Set, Vec<Factor>)>, wanted: Set) -> Result<(), GaveUp> {
        let space = self.space;
        // For each box the packets that none before it has.
        let mut own = Vec::with_capacity(found.len());
        let mut left = wanted;
        for (packets, _) in found.iter() {
            own.push(space.and(left, *packets)?);
            left = space.minus(left, *packets)?;
        }
        for at in (0..found.len()).rev() {
            let mut alone = own[at];
            for (packets, _) in &found[at + 1..] {
                if alone == space.none() {
                    break;
                }
                alone = space.minus(alone, *packets)?;
            }
            if alone == space.none() {
                found.remove(at);
            }
        }
        Ok(())
    }
}

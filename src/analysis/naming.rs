//! Names for sets of values, and the shortest way to describe a set with them.

use std::cell::{Cell, RefCell};
use std::fmt;

use rustc_hash::FxHashMap;

use super::GaveUp;
use super::dimension::Dimension;
use super::matches::WITH_MEMORY;
use super::render_values::spell;
use super::space::{Set, Space};

/// Names for sets of values, for example the zones and services of a policy.
///
/// Without names a set is described by devices, prefixes, ranges and port numbers.
pub struct Vocabulary<'s> {
    pub(super) space: &'s Space,
    names: Vec<(Dimension, SetName)>,
    conditions: FxHashMap<String, String>,
    known: RefCell<FxHashMap<(Dimension, Set, Set), Phrase>>,
    /// The steps taken so far to count boxes that are not shown.
    pub(super) counting: Cell<u64>,
}

/// A named set.
#[derive(Clone, Debug)]
pub(super) struct SetName {
    pub word: String,
    pub set: Set,
    /// `true` if the set asks for fields of its own part only. A zone with networks also asks for addresses.
    pub plain: bool,
    /// The part of all packets that the set has; see [`Space::share`].
    share: f64,
}

/// A set of a part's values, with the words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    pub set: Set,
    pub words: Vec<String>,
    /// `true` if the words name what is not in the set.
    pub negated: bool,
    /// The number of words, as a measure of length. A free part costs nothing.
    pub cost: usize,
}

/// The cost of a set that no words describe. A quarter of the range, so that sums of it do not overflow.
pub(super) const SPEECHLESS: usize = usize::MAX / 4;

impl<'s> Vocabulary<'s> {
    /// Creates a vocabulary without names.
    pub fn new(space: &'s Space) -> Self {
        Self {
            space,
            names: Vec::new(),
            conditions: FxHashMap::default(),
            known: RefCell::default(),
            counting: Cell::default(),
        }
    }

    /// Returns the space of the named sets.
    pub fn space(&self) -> &'s Space {
        self.space
    }

    /// Adds a name. If a set has two names the first is used. The set of a device ([`Dimension::From`],
    /// [`Dimension::To`]) may also ask for addresses.
    pub fn name(&mut self, dimension: Dimension, word: impl Into<String>, set: Set) {
        let support = self.space.support(set);
        let plain = support
            .iter()
            .all(|field| Dimension::of(*field) == dimension);
        let name = SetName {
            word: word.into(),
            set,
            plain,
            share: self.space.share(set),
        };
        // The largest first, so that a description needs the fewest names.
        let larger = |other: &(Dimension, SetName)| other.1.share >= name.share;
        let place = self.names.partition_point(larger);
        self.names.insert(place, (dimension, name));
    }

    /// Returns the set of a name.
    pub fn named(&self, dimension: Dimension, word: &str) -> Option<Set> {
        let mut names = self.names_of(dimension);
        names.find(|name| name.word == word).map(|name| name.set)
    }

    /// Sets the words for a condition that the engine does not understand.
    pub fn condition(&mut self, key: impl Into<String>, words: impl Into<String>) {
        self.conditions.insert(key.into(), words.into());
    }

    pub(super) fn condition_words(&self, key: &str) -> String {
        if let Some(said) = self.conditions.get(key) {
            return said.clone();
        }
        // The key of a condition with memory ends with its rule, which is long and helps little.
        let module = key
            .strip_prefix("-m ")
            .and_then(|rest| rest.split(' ').next());
        let plain = match module.is_some_and(|name| WITH_MEMORY.contains(&name)) {
            true => key
                .split_once(" of ")
                .map_or(key, |(condition, _)| condition),
            false => key,
        };
        plain.to_owned()
    }

    pub(super) fn names_of(&self, dimension: Dimension) -> impl Iterator<Item = &SetName> {
        let of = self.names.iter().filter(move |(of, _)| *of == dimension);
        of.map(|(_, name)| name)
    }

    /// Returns the shortest words for a set, where only the values in `care` matter.
    pub(super) fn phrase(
        &self,
        dimension: Dimension,
        set: Set,
        care: Set,
    ) -> Result<Phrase, GaveUp> {
        let key = (dimension, set, care);
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(known.clone());
        }
        let space = self.space;
        let phrase = if space.is_subset(care, set)? {
            Phrase {
                set: space.all(),
                words: Vec::new(),
                negated: false,
                cost: 0,
            }
        } else {
            let mut best = self.plain(dimension, set, care)?;
            let mut negated = false;
            if best.1 > 1 && !matches!(dimension, Dimension::Condition(_)) {
                let not = self.plain(dimension, space.not(set)?, care)?;
                if not.1 < best.1 {
                    (best, negated) = (not, true);
                }
            }
            Phrase {
                set,
                words: best.0,
                negated,
                cost: best.1,
            }
        };
        self.known.borrow_mut().insert(key, phrase.clone());
        Ok(phrase)
    }

    /// Returns words that together describe the set, and their cost.
    fn plain(
        &self,
        dimension: Dimension,
        set: Set,
        care: Set,
    ) -> Result<(Vec<String>, usize), GaveUp> {
        let space = self.space;
        let inside = space.and(set, care)?;
        let around = space.or(set, space.not(care)?)?;
        let raw = |set: Set| {
            let Some(words) = spell(space, dimension, set) else {
                return (Vec::new(), SPEECHLESS);
            };
            let cost: usize = words.iter().map(|word| word.cost).sum();
            (
                words.into_iter().map(|word| word.text).collect::<Vec<_>>(),
                cost,
            )
        };
        // Values outside `care` may be in the description or not, whichever is shorter.
        let raw_best = |one: Set, inside: Set, around: Set| {
            let all = [one, inside, around].map(raw);
            all.into_iter()
                .min_by_key(|(_, cost)| *cost)
                .unwrap_or_default()
        };
        let mut best = raw_best(set, inside, around);
        let mut named = Vec::new();
        let mut left = inside;
        for name in self.names_of(dimension).filter(|name| name.plain) {
            let cared = space.and(name.set, care)?;
            if space.and(cared, left)? == space.none() || !space.is_subset(cared, inside)? {
                continue;
            }
            let rest = space.minus(left, name.set)?;
            let without = match rest == space.none() {
                true => (Vec::new(), 0),
                false => raw_best(rest, rest, space.or(rest, space.not(care)?)?),
            };
            if without.1 + named.len() < best.1 || (without.1 + named.len() + 1 == best.1) {
                named.push(name.word.clone());
                left = rest;
                let cost = without.1 + named.len();
                best = (named.iter().cloned().chain(without.0).collect(), cost);
            }
        }
        Ok(best)
    }
}

/// The conditions of a box in words: a packet is in the box if every part matches. A part without words is free.
///
/// ```text
/// from wan, source office, service ssh or https, state new
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BoxWords {
    /// The parts that are not free, in reading order.
    pub parts: Vec<(PacketPart, ValueList)>,
    /// Conditions that the engine does not understand, and the answer that each must have.
    pub depends_on: Vec<(String, bool)>,
}

/// A part of a packet that has a keyword in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PacketPart {
    /// Zones, interfaces or devices that packets come in by.
    From,
    /// Zones, interfaces or devices that packets leave by.
    To,
    /// Source addresses.
    Source,
    /// Destination addresses.
    Destination,
    /// Services, ports, protocols, ICMP types.
    Service,
    /// Connection states.
    State,
    /// TCP flags: those set, of those tested.
    TcpFlags,
    /// Translated source of the connection, or not.
    SourceNat,
    /// Translated destination of the connection, or not.
    DestinationNat,
    /// Marks.
    Mark,
    /// Hop limits.
    HopLimit,
    /// Source MAC addresses.
    Mac,
    /// How the packet was addressed on the link.
    PacketType,
    /// Later fragments.
    Fragment,
}

impl PacketPart {
    /// Returns the keyword in front of the values.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Service => "service",
            Self::State => "state",
            Self::TcpFlags => "tcp-flags",
            Self::SourceNat => "source-nat",
            Self::DestinationNat => "destination-nat",
            Self::Mark => "mark",
            Self::HopLimit => "hop-limit",
            Self::Mac => "mac",
            Self::PacketType => "packet-type",
            Self::Fragment => "fragment",
        }
    }

    /// Returns the part of a dimension; `None` for a condition.
    pub(super) fn of(dimension: Dimension) -> Option<Self> {
        Some(match dimension {
            Dimension::From => Self::From,
            Dimension::To => Self::To,
            Dimension::State => Self::State,
            Dimension::Source => Self::Source,
            Dimension::Destination => Self::Destination,
            Dimension::Service => Self::Service,
            Dimension::TcpFlags => Self::TcpFlags,
            Dimension::SourceTranslated => Self::SourceNat,
            Dimension::DestinationTranslated => Self::DestinationNat,
            Dimension::Marks => Self::Mark,
            Dimension::HopLimit => Self::HopLimit,
            Dimension::Mac => Self::Mac,
            Dimension::PacketType => Self::PacketType,
            Dimension::Fragment => Self::Fragment,
            Dimension::Condition(_) => return None,
        })
    }
}

/// A list of values in words: any of them, or, if it is negated, anything else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueList {
    /// The values; at least one.
    pub words: Vec<String>,
    /// `true` if the list means anything but its values.
    pub negated: bool,
}

impl ValueList {
    /// Returns the words one by one, with `!` before each if the list is negated.
    pub fn marked(&self) -> Vec<String> {
        let not = if self.negated { "!" } else { "" };
        self.words
            .iter()
            .map(|word| format!("{not}{word}"))
            .collect()
    }
}

impl BoxWords {
    /// Returns the values of a part; `None` if it is free.
    pub fn get(&self, part: PacketPart) -> Option<&ValueList> {
        let found = self.parts.iter().find(|(of, _)| *of == part);
        found.map(|(_, list)| list)
    }
}

/// The most words of a list in text output; further ones are only counted.
const MOST_WORDS: usize = 8;

impl fmt::Display for ValueList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self.words.len() {
            all if all <= MOST_WORDS => all,
            _ => MOST_WORDS - 1,
        };
        let mut text = self.words[..shown].join(" or ");
        let more = self.words.len() - shown;
        if more > 0 {
            text.push_str(&format!(" or {more} more"));
        }
        match (self.negated, self.words.len()) {
            (false, _) => out.write_str(&text),
            (true, 1) => write!(out, "!{text}"),
            (true, _) => write!(out, "!({text})"),
        }
    }
}

impl fmt::Display for BoxWords {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter();
        let mut texts: Vec<String> = parts
            .map(|(part, list)| format!("{} {list}", part.as_str()))
            .collect();
        if texts.is_empty() {
            texts.push("every packet".to_owned());
        }
        out.write_str(&texts.join(", "))?;
        for (at, (condition, holds)) in self.depends_on.iter().enumerate() {
            let word = match (at, holds) {
                (0, true) => " where",
                (0, false) => " where not",
                (_, true) => " and",
                (_, false) => " and not",
            };
            write!(out, "{word} `{condition}`")?;
        }
        Ok(())
    }
}

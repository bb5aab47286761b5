//! What people call sets of values, and the shortest way to say one.

use std::cell::{Cell, RefCell};
use std::fmt;

use rustc_hash::FxHashMap;

use super::GaveUp;
use super::dimension::Dimension;
use super::matches::WITH_MEMORY;
use super::space::{Set, Space};
use super::spell::spell;

/// Names for sets of values: those of a policy, or none.
///
/// Without names a set is said in devices, prefixes, ranges and port numbers.
pub struct Vocabulary<'s> {
    pub(super) space: &'s Space,
    names: Vec<(Dimension, Name)>,
    conditions: FxHashMap<String, String>,
    known: RefCell<FxHashMap<(Dimension, Set, Set), Phrase>>,
    /// The steps that were taken to count boxes that are not shown.
    pub(super) counting: Cell<u64>,
}

/// A set with a name.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub word: String,
    pub set: Set,
    /// Whether it asks for nothing but its own part: a zone with networks asks for addresses too.
    pub plain: bool,
    /// How large a part of all packets it is.
    share: f64,
}

/// A set of a part's values, and how it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    pub set: Set,
    pub words: Vec<String>,
    /// The words say what it is not.
    pub negated: bool,
    /// Of how many words it is; what is free costs nothing.
    pub cost: usize,
}

/// The cost of what nobody can say.
pub(super) const SPEECHLESS: usize = usize::MAX / 4;

impl<'s> Vocabulary<'s> {
    /// No names.
    pub fn new(space: &'s Space) -> Self {
        Self {
            space,
            names: Vec::new(),
            conditions: FxHashMap::default(),
            known: RefCell::default(),
            counting: Cell::default(),
        }
    }

    /// The space that the names are of.
    pub fn space(&self) -> &'s Space {
        self.space
    }

    /// Adds a name. Of two names of one set the first is used. A place ([`Dimension::From`], [`Dimension::To`]) may
    /// ask for addresses too.
    pub fn name(&mut self, dimension: Dimension, word: impl Into<String>, set: Set) {
        let support = self.space.support(set);
        let plain = support
            .iter()
            .all(|field| Dimension::of(*field) == dimension);
        let name = Name {
            word: word.into(),
            set,
            plain,
            share: self.space.share(set),
        };
        // The largest first: the fewest are needed then.
        let larger = |other: &(Dimension, Name)| other.1.share >= name.share;
        let place = self.names.partition_point(larger);
        self.names.insert(place, (dimension, name));
    }

    /// What a name stands for.
    pub fn named(&self, dimension: Dimension, word: &str) -> Option<Set> {
        let mut names = self.names_of(dimension);
        names.find(|name| name.word == word).map(|name| name.set)
    }

    /// Says in other words what a condition is that is not understood.
    pub fn condition(&mut self, key: impl Into<String>, words: impl Into<String>) {
        self.conditions.insert(key.into(), words.into());
    }

    pub(super) fn condition_words(&self, key: &str) -> String {
        if let Some(said) = self.conditions.get(key) {
            return said.clone();
        }
        // Of a condition with memory, the rule that it stands in says less than it is long.
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

    pub(super) fn names_of(&self, dimension: Dimension) -> impl Iterator<Item = &Name> {
        let of = self.names.iter().filter(move |(of, _)| *of == dimension);
        of.map(|(_, name)| name)
    }

    /// The shortest words for a set, as far as values in `care` are concerned.
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

    /// Words that together are the set, and what they cost.
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
        // Where nobody cares the set may end wherever it is easily said.
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

/// What a box asks for, in words: a packet is in it when every part fits. A part without words is free.
///
/// ```text
/// from wan, source office, service ssh or https, state new
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Words {
    /// The parts that are not free, in the order of reading.
    pub parts: Vec<(Part, List)>,
    /// Conditions that are not understood, and whether they must hold.
    pub depends_on: Vec<(String, bool)>,
}

/// A part of a packet that people have a word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Zones, interfaces or devices that packets come in by.
    From,
    /// Zones, interfaces or devices that they leave by.
    To,
    /// Source addresses.
    Source,
    /// Destination addresses.
    Destination,
    /// Services, ports, protocols, ICMP types.
    Service,
    /// Connection states.
    State,
    /// TCP flags: those set, of those looked at.
    TcpFlags,
    /// Whether the connection's source was translated.
    SourceNat,
    /// Whether the connection's destination was translated.
    DestinationNat,
    /// Marks.
    Mark,
    /// Hop limits.
    HopLimit,
    /// Source MAC addresses.
    Mac,
    /// How it was addressed on the link.
    PacketType,
    /// Later fragments.
    Fragment,
}

impl Part {
    /// The word before the values.
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

    /// The part of a dimension; none for a condition.
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

/// Values in words: any of them, or where it is negated anything but those.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct List {
    /// At least one.
    pub words: Vec<String>,
    /// Anything but those.
    pub negated: bool,
}

impl List {
    /// The words one by one, with `!` before each where the list is negated.
    pub fn marked(&self) -> Vec<String> {
        let not = if self.negated { "!" } else { "" };
        self.words
            .iter()
            .map(|word| format!("{not}{word}"))
            .collect()
    }
}

impl Words {
    /// The values of a part; `None` where it is free.
    pub fn get(&self, part: Part) -> Option<&List> {
        let found = self.parts.iter().find(|(of, _)| *of == part);
        found.map(|(_, list)| list)
    }
}

/// More words than this are counted in text.
const MOST_WORDS: usize = 8;

impl fmt::Display for List {
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

impl fmt::Display for Words {
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

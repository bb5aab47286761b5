//! Values that targets write into a packet and later rules match: both marks, the hop limit, the type of service, and
//! the tracking state.

use std::collections::BTreeMap;

use super::GaveUp;
use super::diagram::Ref;
use super::field::{Field, state_number};
use super::mark::Marks;
use super::space::{Set, Space};
use super::verdicts::Verdicts;
use crate::iptables::{HopChange, Tos};
use crate::net::State;

/// A value that a target writes into a packet, which then goes to the next rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `TTL` and `HL`.
    HopLimit(HopChange),
    /// `DSCP` and `TOS`: the bits of the mask are cleared, then those of the value are flipped.
    TypeOfService(Tos),
    /// `CT --notrack` and `NOTRACK`: the packet's state is UNTRACKED.
    Untracked,
    /// Any other `CT`: until it is tracked the packet has a template instead of a connection, which conditions see as
    /// NEW.
    Template,
}

/// All writes of a run of rules, as functions of the packet's old values. Two such functions, one after the other, are
/// one of the same form, so that a run of any length stays exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Writes {
    pub marks: Marks,
    pub hops: Hops,
    pub tos: Bits,
    /// UNTRACKED, or NEW for a packet with a template; `None` if no rule set how the packet is tracked.
    pub state: Option<State>,
}

impl Default for Writes {
    fn default() -> Self {
        Self::SAME
    }
}

impl From<Marks> for Writes {
    fn from(marks: Marks) -> Self {
        Self {
            marks,
            ..Self::SAME
        }
    }
}

impl From<Write> for Writes {
    fn from(write: Write) -> Self {
        let same = Self::SAME;
        match write {
            Write::HopLimit(change) => Self {
                hops: change.into(),
                ..same
            },
            Write::TypeOfService(Tos { value, mask }) => Self {
                tos: Bits {
                    kept: !mask,
                    flipped: value,
                },
                ..same
            },
            Write::Untracked => Self {
                state: Some(State::Untracked),
                ..same
            },
            Write::Template => Self {
                state: Some(State::New),
                // A template has a mark of its own, which is 0 (`nf_ct_tmpl_alloc` of `nf_conntrack_core.c`).
                marks: Marks::set_connection(0, u32::MAX, 0),
                ..same
            },
        }
    }
}

impl Writes {
    /// Writes nothing.
    pub const SAME: Self = Self {
        marks: Marks::SAME,
        hops: Hops::SAME,
        tos: Bits::SAME,
        state: None,
    };

    /// Returns the writes of `before` followed by these.
    pub fn after(self, before: Self) -> Self {
        Self {
            marks: self.marks.after(before.marks),
            hops: self.hops.after(before.hops),
            tos: self.tos.after(before.tos),
            state: self.state.or(before.state),
        }
    }

    /// Returns only what is written into the packet's header: hop limit and type of service.
    pub fn header(self) -> Self {
        Self {
            hops: self.hops,
            tos: self.tos,
            ..Self::SAME
        }
    }
}

/// A hop limit as a function of its old value: a number is added, and the sum is clamped between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Hops {
    pub added: i16,
    pub least: u8,
    pub most: u8,
}

impl From<HopChange> for Hops {
    fn from(change: HopChange) -> Self {
        let added = |added| Self {
            added,
            ..Self::SAME
        };
        // xt_HL.c
        match change {
            HopChange::Set(value) => Self {
                added: 0,
                least: value,
                most: value,
            },
            HopChange::Increase(count) => added(count.into()),
            HopChange::Decrease(count) => added(-i16::from(count)),
        }
    }
}

impl Hops {
    pub const SAME: Self = Self {
        added: 0,
        least: 0,
        most: u8::MAX,
    };

    pub fn apply(self, value: u8) -> u8 {
        let sum = i16::from(value) + self.added;
        sum.clamp(self.least.into(), self.most.into()) as u8
    }

    fn after(self, before: Self) -> Self {
        let (least, most) = (self.apply(before.least), self.apply(before.most));
        Self {
            // Adding more than this takes every hop limit to a bound.
            added: (self.added + before.added).clamp(-255, 255),
            least,
            most,
        }
    }

    /// Returns the same function for a hop limit that is one less than the one that the rules see.
    pub fn one_less(self) -> Self {
        match self == Self::SAME {
            true => self,
            false => Self {
                added: self.added,
                least: self.least.saturating_sub(1),
                most: self.most.saturating_sub(1),
            },
        }
    }
}

/// A byte as a function of its old value: `(byte & kept) ^ flipped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bits {
    pub kept: u8,
    pub flipped: u8,
}

impl Bits {
    pub const SAME: Self = Self {
        kept: u8::MAX,
        flipped: 0,
    };

    fn after(self, before: Self) -> Self {
        Self {
            kept: before.kept & self.kept,
            flipped: (before.flipped & self.kept) ^ self.flipped,
        }
    }

    /// Turns a question about the byte after the write into one about the byte before it. `Err` holds the answer if
    /// nothing is left to ask.
    fn asked(self, Tos { value, mask }: Tos) -> Result<Tos, bool> {
        let known = mask & !self.kept;
        if value & !mask != 0 || (value ^ self.flipped) & known != 0 {
            return Err(false);
        }
        let mask = mask & self.kept;
        match mask {
            0 => Err(true),
            _ => Ok(Tos {
                value: (value ^ self.flipped) & mask,
                mask,
            }),
        }
    }
}

/// Returns `true` if an opaque condition asks for the addresses, ports or protocol of a connection.
fn asks_ends(key: &str) -> bool {
    let ends = ["ctorig", "ctrepl", "ctproto"];
    let setting = key.strip_prefix("conntrack ");
    setting.is_some_and(|setting| ends.iter().any(|begin| setting.starts_with(begin)))
}

/// Returns the question about the type of service that an opaque condition asks, if it is one.
fn asked_by(key: &str) -> Option<Tos> {
    let (module, setting) = key.split_once(' ')?;
    let (name, value) = setting.split_once(' ')?;
    Tos::asked(module, name, value)
}

/// Returns the key of the opaque condition that asks this about the type of service.
pub(super) fn key_of(asked: Tos) -> String {
    let module = asked.as_match(false);
    let value = module.settings.first().map(|setting| &*setting.value);
    format!(
        "{} {} {}",
        module.name,
        module.name,
        value.unwrap_or_default()
    )
}

impl Space {
    /// Turns a diagram about packets after a write into one about packets before it, with the same terminals. The
    /// recursion is at most as deep as there are fields in front of the opaque ones.
    pub(super) fn ask_writes(&self, diagram: Ref, before: Writes) -> Result<Ref, GaveUp> {
        let mut diagram = diagram;
        if before.tos != Bits::SAME {
            for field in self.fields_of(diagram) {
                let Field::Opaque(number) = field else {
                    continue;
                };
                let key = self.opaque_key(number);
                let Some(asked) = key.and_then(|key| asked_by(&key)) else {
                    continue;
                };
                diagram = match before.tos.asked(asked) {
                    Err(answer) => self.fixed(diagram, field, answer.into())?,
                    Ok(left) if left == asked => diagram,
                    Ok(left) => self.replaced(diagram, field, self.opaque(&key_of(left))?)?,
                };
            }
        }
        if before.state == Some(State::New) {
            // A template has neither addresses nor ports and is not translated: such conditions never hold.
            for field in self.fields_of(diagram) {
                let is_none = match field {
                    Field::SourceTranslated | Field::DestinationTranslated => true,
                    Field::Opaque(number) => {
                        self.opaque_key(number).is_some_and(|key| asks_ends(&key))
                    }
                    _ => false,
                };
                if is_none {
                    diagram = self.fixed(diagram, field, 0)?;
                }
            }
        }
        let fields = [
            (before.hops != Hops::SAME, Field::HopLimit),
            (before.marks != Marks::SAME, Field::ConnectionMark(31)),
            (before.state.is_some(), Field::State),
        ];
        let last = fields.into_iter().find(|(is_written, _)| *is_written);
        match last {
            Some((_, field)) => {
                let last = self.variable(field);
                self.ask_written(diagram, before, last, &mut BTreeMap::new())
            }
            None => Ok(diagram),
        }
    }

    fn ask_written(
        &self,
        diagram: Ref,
        before: Writes,
        last: u32,
        known: &mut BTreeMap<Ref, Ref>,
    ) -> Result<Ref, GaveUp> {
        let variable = self.diagrams.borrow().variable(diagram);
        if variable > last {
            return Ok(diagram);
        }
        if let Some(result) = known.get(&diagram) {
            return Ok(*result);
        }
        let field = Field::of_variable(variable);
        let word = match field {
            Field::Mark(bit) => Some((before.marks.packet, bit)),
            Field::ConnectionMark(bit) => Some((before.marks.connection, bit)),
            _ => None,
        };
        // Most rules set whole marks to constants, so only the branch of the bit's value is followed. With hundreds of
        // marks in a table following both branches of every bit would be most of the work.
        if let Some((word, bit)) = word
            && let Some(value) = word.known_bit(bit)
        {
            let target = self.diagrams.borrow().follow(diagram, value.into());
            let result = self.ask_written(target, before, last, known)?;
            known.insert(diagram, result);
            return Ok(result);
        }
        let mut runs: Vec<(u128, Ref)> = self.diagrams.borrow().runs(diagram).collect();
        if let (Field::State, Some(state)) = (field, before.state) {
            let here = runs.iter().rev().find(|run| run.0 <= state_number(state));
            runs = here.map(|run| (0, run.1)).into_iter().collect();
        }
        for (_, target) in &mut runs {
            *target = self.ask_written(*target, before, last, known)?;
        }
        let mut asked = runs.clone();
        asked.dedup_by_key(|run| run.1);
        let result = match (word, field, &asked[..]) {
            (_, _, [(_, only)]) => *only,
            (Some((word, bit)), _, &[(_, zero), (_, one)]) => {
                let set = self.word_bit(word, bit)?;
                self.choose(set, Verdicts(one), Verdicts(zero))?.0
            }
            (_, Field::HopLimit, runs) => {
                let target = |value: u8| {
                    let now = u128::from(before.hops.apply(value));
                    let run = runs.iter().rev().find(|run| run.0 <= now);
                    run.map_or(diagram, |run| run.1)
                };
                let runs = (0..=u8::MAX).map(|value| (value.into(), target(value)));
                self.node_of(field, runs.collect())?
            }
            (_, field, runs) => self.node(field, runs)?,
        };
        known.insert(diagram, result);
        Ok(result)
    }

    /// Returns the packets that two writes leave different in something that rules can match.
    pub(super) fn writes_differ(&self, one: Writes, two: Writes) -> Result<Set, GaveUp> {
        // The state is a constant that is only written over INVALID, so two different writes differ for every packet.
        if one.state != two.state {
            return Ok(self.all());
        }
        let mut set = self.marks_differ(one.marks, two.marks)?;
        if one.hops != two.hops {
            let differ = |value: &u8| one.hops.apply(*value) != two.hops.apply(*value);
            let values = (0..=u8::MAX).filter(differ);
            let values = values.map(|value| (value.into(), value.into()));
            let values = crate::net::IntervalSet::from_intervals(values);
            set = self.or(set, self.values(Field::HopLimit, &values)?)?;
        }
        let changed = (one.tos.kept ^ two.tos.kept) | (one.tos.flipped ^ two.tos.flipped);
        for bit in (0..8)
            .map(|bit| 1u8 << bit)
            .filter(|bit| changed & bit != 0)
        {
            set = match (one.tos.kept ^ two.tos.kept) & bit != 0 {
                false => self.all(),
                // One write keeps the bit, possibly flipped, and the other sets it to a constant: they agree for one
                // value of the bit.
                true => {
                    let is_set = (one.tos.flipped ^ two.tos.flipped) & bit != 0;
                    let same = Tos {
                        value: if is_set { bit } else { 0 },
                        mask: bit,
                    };
                    self.or(set, self.not(self.opaque(&key_of(same))?)?)?
                }
            };
        }
        Ok(set)
    }

    /// Returns the packets of a set as they are after the hop limit is written.
    pub(super) fn hops_image(&self, set: Set, hops: Hops) -> Result<Set, GaveUp> {
        if hops == Hops::SAME {
            return Ok(set);
        }
        let field = Field::HopLimit;
        let image = self.rewrite(set.0, field, |node| {
            let (_, runs) = self.open(node);
            let mut there = vec![self.none(); 256];
            for (first, last, target) in runs {
                for value in first..=last.min(255) {
                    let to = usize::from(hops.apply(value as u8));
                    there[to] = self.or(there[to], Set(target))?;
                }
            }
            let runs = (0..).zip(there).map(|(value, target)| (value, target.0));
            self.node_of(field, runs.collect())
        })?;
        let (least, most) = (hops.apply(0), hops.apply(u8::MAX));
        let possible = self.range(field, least.into(), most.into())?;
        self.and(Set(image), possible)
    }

    /// Returns a superset of the packets of a set after the type of service is written: the conditions about it are
    /// dropped.
    pub(super) fn tos_image(&self, set: Set, tos: Bits) -> Result<Set, GaveUp> {
        if tos == Bits::SAME {
            return Ok(set);
        }
        self.project(set, |field| match field {
            Field::Opaque(number) => {
                let key = self.opaque_key(number);
                key.and_then(|key| asked_by(&key)).is_none()
            }
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = HopChange> {
        (0..3u8, any::<u8>()).prop_map(|(kind, count)| match kind {
            0 => HopChange::Set(count),
            1 => HopChange::Increase(count),
            _ => HopChange::Decrease(count),
        })
    }

    proptest! {
        #[test]
        fn hop_limits_are_one_after_the_other(
            changes in prop::collection::vec(change(), 0..6), value: u8,
        ) {
            let all = changes.iter().fold(Hops::SAME, |before, change| Hops::from(*change).after(before));
            let one_by_one = changes.iter().fold(value, |value, change| change.apply(value));
            prop_assert_eq!(all.apply(value), one_by_one);
        }

        #[test]
        fn what_is_asked_of_a_byte_is_asked_of_what_it_was(
            writes in prop::collection::vec((any::<u8>(), any::<u8>()), 0..4),
            asked in (any::<u8>(), any::<u8>()), byte: u8,
        ) {
            let writes = writes.into_iter().map(|(value, mask)| Tos { value, mask });
            let (mut all, mut now) = (Bits::SAME, byte);
            for write in writes {
                all = Writes::from(Write::TypeOfService(write)).tos.after(all);
                now = (now & !write.mask) ^ write.value;
            }
            let asked = Tos { value: asked.0 & asked.1, mask: asked.1 };
            let answer = match all.asked(asked) {
                Ok(left) => byte & left.mask == left.value,
                Err(answer) => answer,
            };
            prop_assert_eq!(answer, now & asked.mask == asked.value);
        }
    }
}

//! The parts of a packet as people name them (interface, source, service, ...), each of which is a group of fields that
//! are neighbours in the diagrams.

use std::cell::RefCell;

use rustc_hash::FxHashMap;
use rustc_hash::FxHashSet;

use super::GaveUp;
use super::diagram::Ref;
use super::field::Field;
use super::render_values::spell;
use super::space::{Set, Space, Split};
use crate::net::IntervalSet;

/// A part of a packet, as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// The device that the packet came in by.
    From,
    /// The device that the packet leaves by.
    To,
    /// The connection's state.
    State,
    /// The source address.
    Source,
    /// The source MAC address.
    Mac,
    /// The destination address.
    Destination,
    /// Protocol, ports, ICMP type and code.
    Service,
    /// TCP flags.
    TcpFlags,
    /// Translated source of the connection (`--ctstate SNAT`) or not.
    SourceTranslated,
    /// Translated destination of the connection (`--ctstate DNAT`) or not.
    DestinationTranslated,
    /// The marks of packet and connection.
    Marks,
    /// The time to live of IPv4, or the hop limit of IPv6.
    HopLimit,
    /// How the packet was addressed on the link.
    PacketType,
    /// A fragment other than the first, or not.
    Fragment,
    /// A condition that the engine does not understand, by its number in the space.
    Condition(u32),
}

impl Dimension {
    /// Returns the part that a field belongs to.
    pub fn of(field: Field) -> Self {
        match field {
            Field::InDevice => Self::From,
            Field::OutDevice | Field::NewOutDevice => Self::To,
            Field::State => Self::State,
            Field::Source | Field::SourceBit(_) => Self::Source,
            Field::Destination
            | Field::DestinationBit(_)
            | Field::NewDestination
            | Field::NewDestinationBit(_) => Self::Destination,
            Field::Protocol
            | Field::DestinationPort
            | Field::NewDestinationPort
            | Field::SourcePort
            | Field::Icmp => Self::Service,
            Field::TcpFlag(_) => Self::TcpFlags,
            Field::SourceTranslated => Self::SourceTranslated,
            Field::DestinationTranslated => Self::DestinationTranslated,
            Field::Mark(_) | Field::ConnectionMark(_) => Self::Marks,
            Field::HopLimit => Self::HopLimit,
            Field::Mac => Self::Mac,
            Field::PacketType => Self::PacketType,
            Field::Fragment => Self::Fragment,
            Field::Opaque(number) => Self::Condition(number),
        }
    }

    /// Returns the last of the part's fields in the order of the diagrams.
    const fn last(self) -> Field {
        match self {
            Self::From => Field::InDevice,
            Self::To => Field::NewOutDevice,
            Self::State => Field::State,
            Self::Source => Field::SourceBit(0),
            Self::Mac => Field::Mac,
            Self::Destination => Field::NewDestinationBit(0),
            Self::Service => Field::Icmp,
            Self::TcpFlags => Field::TcpFlag(5),
            Self::SourceTranslated => Field::SourceTranslated,
            Self::DestinationTranslated => Field::DestinationTranslated,
            Self::Marks => Field::ConnectionMark(31),
            Self::HopLimit => Field::HopLimit,
            Self::PacketType => Field::PacketType,
            Self::Fragment => Field::Fragment,
            Self::Condition(number) => Field::Opaque(number),
        }
    }
}

impl Space {
    /// Projects a set to the fields that are kept: returns the packets that are in the set for some values of the other
    /// fields.
    ///
    /// ```
    /// # use fwc::analysis::{Field, Space};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let tcp = space.protocol(Protocol::TCP)?;
    /// let ssh = space.and(tcp, space.destination_port(22, 22)?)?;
    /// assert_eq!(space.project(ssh, |field| field == Field::Protocol)?, tcp);
    /// # Ok(())
    /// # }
    /// ```
    pub fn project(&self, set: Set, keeps: impl Fn(Field) -> bool) -> Result<Set, GaveUp> {
        // From the bottom up; a terminal's variable is the greatest.
        let nodes = self.nodes_below(set.0);
        let mut shadows: FxHashMap<Ref, Ref> = FxHashMap::default();
        let shadow =
            |shadows: &FxHashMap<Ref, Ref>, at: Ref| shadows.get(&at).copied().unwrap_or(at);
        let mut runs: Vec<(u128, Ref)> = Vec::new();
        for (variable, at) in nodes.into_iter().rev() {
            if at.number().is_some() {
                continue;
            }
            let field = Field::of_variable(variable);
            runs.clear();
            for (first, target) in self.diagrams.borrow().runs(at) {
                let target = shadow(&shadows, target);
                if runs.last().is_none_or(|last| last.1 != target) {
                    runs.push((first, target));
                }
            }
            let result = if keeps(field) {
                self.node(field, &runs)?
            } else {
                let mut targets: Vec<Ref> = runs.iter().map(|run| run.1).collect();
                targets.sort_unstable();
                targets.dedup();
                self.any(targets.into_iter().map(Set))?.0
            };
            shadows.insert(at, result);
        }
        Ok(Set(shadow(&shadows, set.0)))
    }

    /// Projects a set to one part.
    pub(super) fn shadow(&self, set: Set, dimension: Dimension) -> Result<Set, GaveUp> {
        self.project(set, |field| Dimension::of(field) == dimension)
    }

    /// Projects the intersection of two sets to some parts, without building what is behind them in the diagrams.
    pub(super) fn shadow_of_both(
        &self,
        (left, right): (Set, Set),
        parts: &[Dimension],
    ) -> Result<Set, GaveUp> {
        if self.diagrams.borrow().asks_bits() {
            // The intersection must be built here: only then it shows whether some address of a run has the bits.
            let both = self.and(left, right)?;
            return self.project(both, |field| parts.contains(&Dimension::of(field)));
        }
        let no = self.none().0;
        let apart = RefCell::new(FxHashSet::default());
        let places = parts.iter().map(|part| self.variable(part.last()));
        let last = places.max().unwrap_or_default();
        let behind = |variable: u32| variable > last;
        let front = self.apply(self.fresh(), left.0, right.0, |diagrams, left, right| {
            if left == no || right == no {
                return Some(no);
            }
            let first = diagrams.variable(left).min(diagrams.variable(right));
            let meet = || diagrams.meet(left, right, &mut apart.borrow_mut());
            behind(first).then(|| Ref::terminal(meet().into()))
        })?;
        self.diagrams.borrow().gave_up()?;
        self.project(Set(front), |field| parts.contains(&Dimension::of(field)))
    }

    /// Returns the runs of `set`, by its one field, that share a value with `own`. Returns the whole set if it asks for
    /// more fields.
    pub(super) fn touched(&self, set: Set, own: Set) -> Result<Set, GaveUp> {
        let Split::By(field, runs) = self.split(set) else {
            return Ok(set);
        };
        if runs
            .iter()
            .any(|run| run.2 != self.all() && run.2 != self.none())
        {
            return Ok(set);
        }
        let mut touched = Vec::new();
        for (first, last, _) in runs.into_iter().filter(|run| run.2 == self.all()) {
            if self.and(own, self.range(field, first, last)?)? != self.none() {
                touched.push((first, last));
            }
        }
        self.values(field, &IntervalSet::from_intervals(touched))
    }

    /// Returns the part of all values of all fields that a set has: 1 for every packet, 0 for none. It tells larger
    /// sets from smaller ones and gives every field the same weight.
    pub fn share(&self, set: Set) -> f64 {
        let mut open = vec![set.0];
        let mut shares = self.shares.borrow_mut();
        while let Some(&at) = open.last() {
            if shares.contains_key(&at) {
                open.pop();
                continue;
            }
            let share = match at.number() {
                Some(number) => f64::from(u8::from(number != 0)),
                None => {
                    let (field, runs) = self.open(at);
                    let before = open.len();
                    let targets = runs.iter().map(|run| run.2);
                    open.extend(targets.filter(|target| !shares.contains_key(target)));
                    if open.len() > before {
                        continue;
                    }
                    let all = field.last(self.family()) as f64 + 1.0;
                    let part = |(first, last, target): (u128, u128, Ref)| {
                        let share = shares.get(&target).copied().unwrap_or_default();
                        ((last - first) as f64 + 1.0) / all * share
                    };
                    runs.into_iter().map(part).sum()
                }
            };
            shares.insert(at, share);
            open.pop();
        }
        shares.get(&set.0).copied().unwrap_or_default()
    }

    /// Returns the largest path through a set's diagram, as one set of values for each part. Their product is a subset
    /// of the set.
    ///
    /// The set of a part is complete: it has all values of the part's fields that lead to the same rest.
    pub(super) fn largest_way(&self, set: Set) -> Result<Vec<(Dimension, Set)>, GaveUp> {
        self.share(set);
        let shares = self.shares.borrow();
        let mut way = Vec::new();
        let mut at = set.0;
        while at.number().is_none() {
            let dimension = Dimension::of(self.open(at).0);
            let mut end = at;
            let mut bits = Vec::new();
            while end.number().is_none() {
                let (field, runs) = self.open(end);
                if Dimension::of(field) != dimension {
                    break;
                }
                let share = |(first, last, target): &(u128, u128, Ref)| {
                    ((last - first) as f64 + 1.0) * shares.get(target).copied().unwrap_or_default()
                };
                // Of several runs with the largest share, the first.
                let widest = runs
                    .iter()
                    .rev()
                    .max_by(|a, b| share(a).total_cmp(&share(b)));
                let Some(&(first, last, target)) = widest else {
                    break;
                };
                bits.push((field, first, last));
                end = target;
            }
            let mut part = self.leading_to(at, dimension, end)?;
            let has_bits = match dimension {
                Dimension::Marks | Dimension::TcpFlags => true,
                Dimension::Source | Dimension::Destination => self.diagrams.borrow().asks_bits(),
                _ => false,
            };
            let is_speechless = |set: Set| spell(self, dimension, set).is_none();
            if has_bits && is_speechless(part) && is_speechless(self.not(part)?) {
                // Bits have a name if all of them are fixed, or if the set is all but such a one.
                let fixed = bits
                    .iter()
                    .map(|(field, first, last)| self.range(*field, *first, *last));
                part = self.every(fixed.collect::<Result<Vec<_>, _>>()?)?;
            }
            way.push((dimension, part));
            at = end;
        }
        Ok(way)
    }

    /// Returns the values of a part that lead from one node to another.
    fn leading_to(&self, from: Ref, dimension: Dimension, end: Ref) -> Result<Set, GaveUp> {
        let beyond = |variable: u32| {
            variable == u32::MAX || Dimension::of(Field::of_variable(variable)) != dimension
        };
        self.apply(self.fresh(), from, Ref::terminal(0), |diagrams, left, _| {
            let yes = u32::from(left == end);
            beyond(diagrams.variable(left)).then_some(Ref::terminal(yes))
        })
        .map(Set)
    }

    /// Returns the bits that a set requires, if it is a conjunction of bits.
    pub(super) fn cube(&self, set: Set) -> Option<Vec<(Field, bool)>> {
        let (no, yes) = (self.none().0, self.all().0);
        let mut bits = Vec::new();
        let mut at = set.0;
        while at != yes {
            if at == no {
                return None;
            }
            let (field, runs) = self.open(at);
            let (value, target) = match runs[..] {
                [(_, _, zero), (_, _, one)] if zero == no => (true, one),
                [(_, _, zero), (_, _, one)] if one == no => (false, zero),
                _ => return None,
            };
            bits.push((field, value));
            at = target;
        }
        Some(bits)
    }

    /// Returns the nodes and terminals of a diagram, in the order of their variables.
    fn nodes_below(&self, diagram: Ref) -> Vec<(u32, Ref)> {
        let diagrams = self.diagrams.borrow();
        let below = diagrams.below(diagram);
        let mut nodes: Vec<(u32, Ref)> = below.map(|at| (diagrams.variable(at), at)).collect();
        nodes.sort_unstable();
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Budget;
    use crate::net::Family;

    /// Addresses by port that no packet of the other set has; `None` is an unlimited budget.
    fn shadow(steps: Option<u64>) -> (u64, Result<Set, GaveUp>) {
        let budget = Budget {
            steps: steps.unwrap_or(u64::MAX),
            ..Budget::default()
        };
        let space = Space::with_budget(Family::V4, budget);
        let ports = |odd: u16| {
            let sets = (0..200u16).map(|number| {
                let port = 2 * number + odd;
                let low = u128::from(number);
                let sets = [
                    space.range(Field::SourcePort, 0, low)?,
                    space.destination_port(port, port)?,
                ];
                space.every(sets)
            });
            space.any(sets.collect::<Result<Vec<_>, _>>()?)
        };
        let both = (ports(0).unwrap(), ports(1).unwrap());
        let begun = space.steps();
        (begun, space.shadow_of_both(both, &[Dimension::Source]))
    }

    #[test]
    fn a_shadow_gives_up_when_the_budget_is_used_up() {
        let (begun, whole) = shadow(None);
        assert_eq!(
            whole.map(|set| set == Space::new(Family::V4).none()),
            Ok(true)
        );
        assert_eq!(shadow(Some(begun)).1, Err(GaveUp::TooLong));
    }
}

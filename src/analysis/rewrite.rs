//! Diagrams seen through a change of one field.

use rustc_hash::FxHashMap;

use super::GaveUp;
use super::diagram::Ref;
use super::field::Field;
use super::space::{Set, Space};
use super::verdicts::Verdicts;
use crate::net::IntervalSet;

const NO: Ref = Ref::terminal(0);

impl Space {
    /// The packets that differ from one of the set in this field at most, which stands in front of the opaque ones.
    pub(super) fn whatever(&self, set: Set, field: Field) -> Result<Set, GaveUp> {
        let any = |node| {
            let (_, runs) = self.open(node);
            Ok(self.any(runs.into_iter().map(|run| Set(run.2)))?.0)
        };
        self.rewrite(set.0, field, any).map(Set)
    }

    /// A larger set that depends on nothing after a field.
    pub(super) fn front(&self, set: Set, last: Field) -> Result<Set, GaveUp> {
        let last = self.variable(last);
        self.apply(self.fresh(), set.0, NO, |diagrams, left, _| {
            let is_beyond = left.number().is_none() && diagrams.variable(left) > last;
            match is_beyond {
                true => Some(Ref::terminal(1)),
                false => left.number().map(|_| left),
            }
        })
        .map(Set)
    }

    /// The values that a field has among the packets of a set.
    pub(super) fn values_in(&self, set: Set, field: Field) -> Result<IntervalSet, GaveUp> {
        let mut found = Vec::new();
        let rest = self.rewrite(set.0, field, |node| {
            let (_, runs) = self.open(node);
            let some = runs.into_iter().filter(|run| run.2 != NO);
            found.extend(some.map(|(first, last, _)| (first, last)));
            Ok(NO)
        })?;
        if rest != NO {
            found.push((0, field.last(self.family()))); // some packets were never asked
        }
        Ok(IntervalSet::from_intervals(found))
    }

    /// The diagram with other nodes in place of those that ask a field, which stands in front of the opaque ones: so
    /// the recursion is as deep as there are fields. What takes a node's place may ask what comes after the field.
    pub(super) fn rewrite(
        &self,
        diagram: Ref,
        field: Field,
        mut place: impl FnMut(Ref) -> Result<Ref, GaveUp>,
    ) -> Result<Ref, GaveUp> {
        let variable = self.variable(field);
        if !self.diagrams.borrow().is_asked(variable) {
            return Ok(diagram);
        }
        self.rewrite_below(diagram, variable, &mut place, &mut FxHashMap::default())
    }

    fn rewrite_below(
        &self,
        diagram: Ref,
        variable: u32,
        place: &mut impl FnMut(Ref) -> Result<Ref, GaveUp>,
        known: &mut FxHashMap<Ref, Ref>,
    ) -> Result<Ref, GaveUp> {
        let here = self.diagrams.borrow().variable(diagram);
        if here > variable {
            return Ok(diagram);
        }
        if let Some(result) = known.get(&diagram) {
            return Ok(*result);
        }
        let result = match here == variable {
            true => place(diagram)?,
            false => {
                let mut runs: Vec<(u128, Ref)> = self.diagrams.borrow().runs(diagram).collect();
                for (_, target) in &mut runs {
                    *target = self.rewrite_below(*target, variable, place, known)?;
                }
                self.node_of(Field::of_variable(here), runs)?
            }
        };
        known.insert(diagram, result);
        Ok(result)
    }

    /// A node of runs of which neighbours may be equal.
    pub(super) fn node_of(&self, field: Field, mut runs: Vec<(u128, Ref)>) -> Result<Ref, GaveUp> {
        runs.dedup_by_key(|run| run.1);
        self.node(field, &runs)
    }

    /// The diagram that asks `new` where it asked `field`, which comes right before it.
    pub(super) fn renamed(&self, diagram: Ref, field: Field, new: Field) -> Result<Ref, GaveUp> {
        self.rewrite(diagram, field, |node| {
            let runs: Vec<(u128, Ref)> = self.diagrams.borrow().runs(node).collect();
            self.node(new, &runs)
        })
    }

    /// The diagram for packets whose field then has the value `v - from + to`, where `v` is from `from` to
    /// `from + more`; of the others it says anything.
    pub(super) fn shifted(
        &self,
        diagram: Ref,
        field: Field,
        (from, to, more): (u128, u128, u128),
    ) -> Result<Ref, GaveUp> {
        self.rewrite(diagram, field, |node| {
            let (_, runs) = self.open(node);
            let inside = runs
                .into_iter()
                .filter(|(first, last, _)| *last >= to && *first <= to + more);
            let mut runs: Vec<(u128, Ref)> = inside
                .map(|(first, _, target)| (first.max(to) - to + from, target))
                .collect();
            if let Some(run) = runs.first_mut() {
                run.0 = 0;
            }
            self.node_of(field, runs)
        })
    }

    /// The diagram with a condition in place of a field of one bit.
    pub(super) fn replaced(
        &self,
        diagram: Ref,
        field: Field,
        condition: Set,
    ) -> Result<Ref, GaveUp> {
        let (yes, no) = (
            self.fixed(diagram, field, 1)?,
            self.fixed(diagram, field, 0)?,
        );
        Ok(self.choose(condition, Verdicts(yes), Verdicts(no))?.0)
    }
}

//! Diagrams seen through a change of one field: another value, another name, or no longer asked.

use std::ops::RangeInclusive;

use rustc_hash::FxHashMap;

use super::GaveUp;
use super::diagram::Ref;
use super::field::{ADDRESS_BITS, Field, is_address};
use super::space::{Set, Space};
use super::verdicts::Verdicts;
use crate::net::IntervalSet;

const NO: Ref = Ref::terminal(0);

/// A node's runs: first values and targets.
type Runs = Vec<(u128, Ref)>;

impl Space {
    /// Returns the packets that differ from some packet of the set in this field at most. The field must be in front of
    /// the opaque ones.
    pub(super) fn whatever(&self, set: Set, field: Field) -> Result<Set, GaveUp> {
        let any = |node| Ok(self.any(self.behind(node, field).into_iter().map(Set))?.0);
        self.rewrite(set.0, field, any).map(Set)
    }

    /// Returns the diagrams behind a field and its bits, below a node that asks one of them.
    fn behind(&self, node: Ref, field: Field) -> Vec<Ref> {
        let (mut found, mut open) = (Vec::new(), vec![node]);
        while let Some(node) = open.pop() {
            let targets = self.open(node).1.into_iter().map(|run| run.2);
            let (own, others): (Vec<_>, Vec<_>) = targets.partition(|at| self.asks(*at, field));
            open.extend(own);
            found.extend(others);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Returns `true` if a diagram asks a field or a bit of it next.
    fn asks(&self, at: Ref, field: Field) -> bool {
        let asked = || Field::of_variable(self.diagrams.borrow().variable(at));
        at.number().is_none()
            && (asked() == field || asked().address().is_some_and(|(of, _)| of == field))
    }

    /// Returns the smallest larger set that asks no field behind `last`.
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

    /// Returns the values that a field has among the packets of a set.
    pub(super) fn values_in(&self, set: Set, field: Field) -> Result<IntervalSet, GaveUp> {
        let mut found = Vec::new();
        let rest = self.rewrite(set.0, field, |node| {
            let (asked, runs) = self.open(node);
            if asked != field {
                found.push((0, field.last(self.family()))); // whatever the rest of the address is
                return Ok(NO);
            }
            let some = runs.into_iter().filter(|run| run.2 != NO);
            found.extend(some.map(|(first, last, _)| (first, last)));
            Ok(NO)
        })?;
        if rest != NO {
            found.push((0, field.last(self.family()))); // some packets were never asked
        }
        Ok(IntervalSet::from_intervals(found))
    }

    /// Replaces the nodes that ask a field by what `place` returns for them. A replacement may ask the fields behind
    /// this one. For an address, `place` also gets nodes that ask a bit, if no node in front of them asks the address.
    ///
    /// The field must be in front of the opaque ones: the recursion is then at most as deep as there are fields.
    pub(super) fn rewrite(
        &self,
        diagram: Ref,
        field: Field,
        mut place: impl FnMut(Ref) -> Result<Ref, GaveUp>,
    ) -> Result<Ref, GaveUp> {
        let first = self.variable(field);
        let bits = if is_address(field) { ADDRESS_BITS } else { 0 };
        {
            let diagrams = self.diagrams.borrow();
            let has_bits = bits > 0 && diagrams.asks_bits();
            if !has_bits && !diagrams.is_asked(first) {
                return Ok(diagram);
            }
        }
        let known = &mut FxHashMap::default();
        self.rewrite_below(diagram, &(first..=first + bits), &mut place, known)
    }

    fn rewrite_below(
        &self,
        diagram: Ref,
        variables: &RangeInclusive<u32>,
        place: &mut impl FnMut(Ref) -> Result<Ref, GaveUp>,
        known: &mut FxHashMap<Ref, Ref>,
    ) -> Result<Ref, GaveUp> {
        let here = self.diagrams.borrow().variable(diagram);
        if here > *variables.end() {
            return Ok(diagram);
        }
        if let Some(result) = known.get(&diagram) {
            return Ok(*result);
        }
        let result = match variables.contains(&here) {
            true => place(diagram)?,
            false => {
                let mut runs: Vec<(u128, Ref)> = self.diagrams.borrow().runs(diagram).collect();
                for (_, target) in &mut runs {
                    *target = self.rewrite_below(*target, variables, place, known)?;
                }
                self.node_of(Field::of_variable(here), runs)?
            }
        };
        known.insert(diagram, result);
        Ok(result)
    }

    /// Returns a node of runs of which neighbours may be equal.
    pub(super) fn node_of(&self, field: Field, mut runs: Vec<(u128, Ref)>) -> Result<Ref, GaveUp> {
        runs.dedup_by_key(|run| run.1);
        self.node(field, &runs)
    }

    /// Returns the diagram that asks `new` wherever it asked `field`. No field that the diagram asks may lie between
    /// the two.
    pub(super) fn renamed(&self, diagram: Ref, field: Field, new: Field) -> Result<Ref, GaveUp> {
        let kept = |runs: &mut Runs| std::mem::take(runs);
        self.rewrite(diagram, field, |node| {
            self.moved_node(node, (field, new), &kept, &|_| None)
        })
    }

    /// Returns the diagram for packets whose field gets the value `v - from + to`, for `v` between `from` and `from +
    /// more`. For other packets its answer is arbitrary. For addresses, both ranges must be networks of one size.
    pub(super) fn shifted(
        &self,
        diagram: Ref,
        field: Field,
        (from, to, more): (u128, u128, u128),
    ) -> Result<Ref, GaveUp> {
        let runs = |runs: &mut Runs| {
            let lasts: Vec<u128> = runs.iter().skip(1).map(|run| run.0 - 1).collect();
            let lasts = lasts.into_iter().chain([field.last(self.family())]);
            let inside = runs
                .iter()
                .zip(lasts)
                .filter(|((first, _), last)| *last >= to && *first <= to + more);
            let mut moved: Vec<(u128, Ref)> = inside
                .map(|((first, target), _)| ((*first).max(to) - to + from, *target))
                .collect();
            if let Some(run) = moved.first_mut() {
                run.0 = 0;
            }
            moved
        };
        // The bits of the network part are those of the other network.
        let fixed = |bit: u8| (more >> bit & 1 == 0).then_some(to >> bit & 1);
        self.rewrite(diagram, field, |node| {
            self.moved_node(node, (field, field), &runs, &fixed)
        })
    }

    /// Returns a node that asks a field, or a bit of it, with another field in its place. `change` maps the runs of the
    /// field; the bits for which `fixed` returns a value are left out.
    fn moved_node(
        &self,
        node: Ref,
        (field, new): (Field, Field),
        change: &dyn Fn(&mut Runs) -> Runs,
        fixed: &dyn Fn(u8) -> Option<u128>,
    ) -> Result<Ref, GaveUp> {
        if !self.asks(node, field) {
            return Ok(node);
        }
        let asked = Field::of_variable(self.diagrams.borrow().variable(node));
        let bit = asked.address().map(|(_, bit)| bit);
        if let Some(value) = bit.and_then(fixed) {
            let target = self.diagrams.borrow().follow(node, value);
            return self.moved_node(target, (field, new), change, fixed);
        }
        let mut runs: Vec<(u128, Ref)> = self.diagrams.borrow().runs(node).collect();
        for (_, target) in &mut runs {
            *target = self.moved_node(*target, (field, new), change, fixed)?;
        }
        match bit {
            Some(bit) => self.node_of(new.bit(bit), runs),
            None => self.node_of(new, change(&mut runs)),
        }
    }

    /// Returns the diagram with a condition in place of a field of one bit.
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

//! Aligns two lists of rules: which rules both have in the same order, which moved, and what differs between them.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

/// The time limit of the search for a short difference. Chains of 100,000 rules with little in common would take minutes;
/// what is found until then is a correct difference, only a longer one.
const PATIENCE: Duration = Duration::from_secs(5);

/// A part of both lists that differs, between two rules that both have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// The positions in the old list.
    pub old: Range<usize>,
    /// The positions in the new list.
    pub new: Range<usize>,
}

/// How a new list of rules differs from an old one.
#[derive(Clone, Debug, Default)]
pub struct Alignment {
    /// The rules that both lists have in the same order: position in the old list, position in the new list.
    pub kept: Vec<(usize, usize)>,
    /// The differences between those rules, in order.
    pub hunks: Vec<Hunk>,
    /// The rules that hunks remove at one place and add at another: position in the new list to position in the old list.
    /// Of equal rules, the first that is removed is the first that is added.
    pub moved: HashMap<usize, usize>,
}

impl Alignment {
    /// Aligns two lists in which equal keys mean equal rules.
    pub fn new<K: Copy + Eq + Hash + Ord>(old: &[K], new: &[K]) -> Self {
        if old == new {
            return Self {
                kept: (0..old.len()).map(|index| (index, index)).collect(),
                ..Self::default()
            };
        }
        let deadline = Instant::now().checked_add(PATIENCE);
        let mut alignment = Self::default();
        for op in capture_diff_slices_deadline(Algorithm::Histogram, old, new, deadline) {
            match op {
                DiffOp::Equal { .. } => {
                    let pairs = op.old_range().zip(op.new_range());
                    alignment.kept.extend(pairs);
                }
                _ => alignment.differ(op.old_range(), op.new_range()),
            }
        }
        alignment.find_moved(old, new);
        alignment
    }

    /// Adds a difference, to the last hunk if no common rule lies in between.
    fn differ(&mut self, old: Range<usize>, new: Range<usize>) {
        match self.hunks.last_mut() {
            Some(last) if last.old.end == old.start && last.new.end == new.start => {
                (last.old.end, last.new.end) = (old.end, new.end);
            }
            _ => self.hunks.push(Hunk { old, new }),
        }
    }

    /// Finds the rules that hunks remove at one place and add at another.
    fn find_moved<K: Copy + Eq + Hash>(&mut self, old: &[K], new: &[K]) {
        let mut gone: HashMap<K, Vec<usize>> = HashMap::new();
        // From the back, so that `pop` takes the first copy first.
        for index in self
            .hunks
            .iter()
            .rev()
            .flat_map(|hunk| hunk.old.clone().rev())
        {
            gone.entry(old[index]).or_default().push(index);
        }
        for index in self.hunks.iter().flat_map(|hunk| hunk.new.clone()) {
            if let Some(from) = gone.get_mut(&new[index]).and_then(Vec::pop) {
                self.moved.insert(index, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alignment, Hunk};

    #[test]
    fn hunks_lie_between_what_stays() {
        let found = Alignment::new(&['a', 'b', 'c', 'd'], &['a', 'x', 'c', 'd', 'e']);
        assert_eq!(found.kept, [(0, 0), (2, 2), (3, 3)]);
        let hunks = [
            Hunk {
                old: 1..2,
                new: 1..2,
            },
            Hunk {
                old: 4..4,
                new: 4..5,
            },
        ];
        assert_eq!(found.hunks, hunks);
        assert!(found.moved.is_empty());
    }

    #[test]
    fn a_rule_that_is_gone_here_and_comes_there_moves() {
        let found = Alignment::new(&['a', 'b', 'c', 'd'], &['b', 'c', 'd', 'a']);
        assert_eq!(found.moved.into_iter().collect::<Vec<_>>(), [(3, 0)]);
    }

    #[test]
    fn of_two_copies_one_moves_and_one_goes() {
        let found = Alignment::new(&['x', 'x', 'a', 'b', 'c'], &['a', 'b', 'c', 'x']);
        assert_eq!(found.moved.into_iter().collect::<Vec<_>>(), [(3, 0)]);
        assert_eq!(found.hunks[0].old, 0..2);
    }
}

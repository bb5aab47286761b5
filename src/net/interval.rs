//! Sets of numbers (addresses, ports) as sorted lists of intervals.

use super::Family;

/// A set of numbers as inclusive intervals: sorted, disjoint and not adjacent, so that equal sets compare as equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntervalSet {
    intervals: Vec<(u128, u128)>,
}

impl IntervalSet {
    /// Returns the empty set.
    pub const fn empty() -> Self {
        Self {
            intervals: Vec::new(),
        }
    }

    /// Returns the union of inclusive intervals, given in any order. An interval that ends before it begins is empty.
    pub fn from_intervals(intervals: impl IntoIterator<Item = (u128, u128)>) -> Self {
        let mut sorted: Vec<_> = intervals
            .into_iter()
            .filter(|(first, last)| first <= last)
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                // Adjacent intervals are merged too: each set must have one form only.
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self { intervals: merged }
    }

    /// Returns the intervals in ascending order.
    pub fn intervals(&self) -> &[(u128, u128)] {
        &self.intervals
    }

    /// Returns `true` if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Returns `true` if `number` is in the set.
    pub fn contains(&self, number: u128) -> bool {
        let after = self
            .intervals
            .partition_point(|(first, _)| *first <= number);
        after > 0 && number <= self.intervals[after - 1].1
    }

    /// Returns the numbers that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_intervals(self.intervals.iter().chain(&other.intervals).copied())
    }

    /// Returns the numbers that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.intervals.iter(), other.intervals.iter());
        let (mut a, mut b) = (left.next(), right.next());
        let mut common = Vec::new();
        while let (Some(x), Some(y)) = (a, b) {
            let (first, last) = (x.0.max(y.0), x.1.min(y.1));
            if first <= last {
                common.push((first, last));
            }
            if x.1 < y.1 {
                a = left.next();
            } else {
                b = right.next();
            }
        }
        Self { intervals: common }
    }

    /// Returns the numbers of `0..=last` that are not in the set.
    #[must_use]
    pub fn complement(&self, last: u128) -> Self {
        let mut gaps = Vec::with_capacity(self.intervals.len() + 1);
        // `None` once an interval ends at `u128::MAX`: no number follows it.
        let mut next = Some(0);
        for &(first, end) in &self.intervals {
            if let Some(start) = next
                && start < first
            {
                gaps.push((start, (first - 1).min(last)));
            }
            next = end.checked_add(1);
        }
        if let Some(start) = next
            && start <= last
        {
            gaps.push((start, last));
        }
        gaps.retain(|(first, end)| first <= end);
        Self { intervals: gaps }
    }

    /// Returns the numbers that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement(u128::MAX))
    }
}

/// Returns the length in bits of the prefix that is exactly the interval `first..=last`, or `None` if no prefix is.
pub fn prefix_length(family: Family, first: u128, last: u128) -> Option<u8> {
    let size_less_one = last.checked_sub(first)?;
    // The size of a prefix is a power of two, and its first address a multiple of the size. The size less one is compared,
    // since the size of `::/0` does not fit into 128 bits.
    if size_less_one & size_less_one.wrapping_add(1) != 0 || first & size_less_one != 0 {
        return None;
    }
    let host_bits = 128 - size_less_one.leading_zeros();
    family.bits().checked_sub(u8::try_from(host_bits).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(intervals: &[(u128, u128)]) -> IntervalSet {
        IntervalSet::from_intervals(intervals.iter().copied())
    }

    #[test]
    fn both_ends_of_the_number_line() {
        let all = set(&[(0, u128::MAX)]);
        assert!(all.complement(u128::MAX).is_empty());
        assert_eq!(IntervalSet::empty().complement(u128::MAX), all);
        assert_eq!(
            set(&[(u128::MAX, u128::MAX), (0, 0)]).complement(u128::MAX),
            set(&[(1, u128::MAX - 1)])
        );
        assert_eq!(set(&[(5, 9)]).complement(9), set(&[(0, 4)]));
        assert!(all.contains(u128::MAX) && all.contains(0));
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix_length(Family::V4, 0, u128::from(u32::MAX)), Some(0));
        assert_eq!(prefix_length(Family::V4, 0x0a00_0000, 0x0aff_ffff), Some(8));
        assert_eq!(prefix_length(Family::V4, 7, 7), Some(32));
        assert_eq!(prefix_length(Family::V4, 1, 2), None);
        assert_eq!(prefix_length(Family::V4, 2, 4), None);
        assert_eq!(prefix_length(Family::V6, 0, u128::MAX), Some(0));
        assert_eq!(prefix_length(Family::V6, 4, 7), Some(126));
    }

    const LAST: u128 = 40;

    fn small() -> impl Strategy<Value = IntervalSet> {
        prop::collection::vec((0..=LAST, 0..=LAST), 0..6).prop_map(IntervalSet::from_intervals)
    }

    proptest! {
        #[test]
        fn operations_are_those_of_sets(a in small(), b in small()) {
            for n in 0..=LAST {
                prop_assert_eq!(a.union(&b).contains(n), a.contains(n) || b.contains(n));
                prop_assert_eq!(a.intersection(&b).contains(n), a.contains(n) && b.contains(n));
                prop_assert_eq!(a.difference(&b).contains(n), a.contains(n) && !b.contains(n));
                prop_assert_eq!(a.complement(LAST).contains(n), !a.contains(n));
            }
            prop_assert!(!a.complement(LAST).contains(LAST + 1));
            // Equal sets are equal values.
            let again = a.complement(LAST).complement(LAST);
            prop_assert_eq!(&again, &a);
            prop_assert_eq!(a.union(&b).intersection(&a), a);
        }
    }
}

//! Addresses under masks that are not prefixes, such as `10.0.0.1/255.0.0.255` or `::5/::ffff:ffff:ffff:ffff`.
//!
//! A prefix is one run of an address's values. `10.0.0.1/255.0.0.255` would be 65,536 runs, and the IPv6 mask above
//! more than fit into any memory. So the bits behind a mask's first hole are fields of their own, right behind the
//! address in the field order. An address and its bits then state the same fact twice, and a diagram could ask for both
//! and contradict itself. To prevent that, every node of an address keeps, below a run, only the questions about bits
//! that the addresses of the run leave open. A set without a packet is then the empty diagram, however it was built.
//!
//! The reverse does not hold: two equal sets that are not empty may be two values where one asked for a run of
//! addresses and the other for their bits. `minus`, `is_subset` and `differ` are exact all the same, because they end
//! in the empty set.

use super::GaveUp;
use super::diagram::{Diagrams, Ref};
use super::field::{ADDRESS_BITS, Field};
use super::space::{Set, Space};

/// Partial knowledge about an address: its range, and some of its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partly {
    pub first: u128,
    pub last: u128,
    /// A mask of the known bits.
    pub mask: u128,
    /// The values of the known bits; all other bits are 0.
    pub bits: u128,
}

impl Partly {
    /// Returns the knowledge that an address is in a range, without any known bit.
    pub const fn range(first: u128, last: u128) -> Self {
        Self {
            first,
            last,
            mask: 0,
            bits: 0,
        }
    }

    /// Returns the same knowledge with one more known bit.
    pub const fn with(mut self, bit: u8, is_set: bool) -> Self {
        self.mask |= 1 << bit;
        if is_set {
            self.bits |= 1 << bit;
        }
        self
    }

    /// Returns the lowest address that fits and is not below `from`.
    pub fn next(&self, from: u128) -> Option<u128> {
        let from = from.max(self.first);
        let wrong = (from ^ self.bits) & self.mask;
        let address = match wrong.checked_ilog2() {
            None => from,
            Some(highest) => {
                // The address grows at one bit and keeps all bits above it. That is the highest wrong bit if it is 0 in
                // `from`; if it is 1, it must become 0, and the next free 0 above it carries.
                let grows = match from >> highest & 1 {
                    0 => Some(highest),
                    _ => (highest + 1..128).find(|bit| (from | self.mask) >> bit & 1 == 0),
                };
                let grows = grows?;
                from >> grows << grows | 1 << grows | self.bits & low(grows)
            }
        };
        (address <= self.last).then_some(address)
    }

    /// Returns `true` if some address fits.
    fn is_possible(&self) -> bool {
        self.next(self.first).is_some()
    }

    /// Returns `true` if the known facts surely allow all combinations of the bits from 0 to `highest`. A `false` may
    /// be wrong for ranges that are not aligned; that only costs a node.
    fn leaves_open(&self, highest: u8) -> bool {
        let below = low(u32::from(highest) + 1);
        let Some(first) = self.first.checked_add(below) else {
            return false;
        };
        // Combinations are all there if one aligned block of addresses fits as a whole.
        let blocks = Self {
            first: first & !below,
            mask: self.mask | below,
            bits: self.bits & !below,
            ..*self
        };
        let block = blocks.next(blocks.first);
        block.is_some_and(|block| block | below <= self.last)
    }
}

/// Returns a mask of the bits below `bit`; all bits if `bit` is 128 or more.
const fn low(bit: u32) -> u128 {
    match 1u128.checked_shl(bit) {
        Some(power) => power - 1,
        None => u128::MAX,
    }
}

/// Returns the address bit that a variable asks, if it is a bit of the address with the variable `address`.
fn bit_of(variable: u32, address: u32) -> Option<u8> {
    let place = variable.checked_sub(address + 1)?;
    (place < ADDRESS_BITS).then(|| (ADDRESS_BITS - 1 - place) as u8)
}

impl Diagrams {
    /// Returns the runs of an address, without the questions below them that the run's addresses already answer.
    pub(super) fn narrowed(
        &mut self,
        address: u32,
        runs: &[(u128, Ref)],
    ) -> Result<Vec<(u128, Ref)>, GaveUp> {
        let mut kept: Vec<(Partly, Ref)> = Vec::with_capacity(runs.len());
        for (at, (first, target)) in runs.iter().enumerate() {
            let last = runs
                .get(at + 1)
                .map_or(self.last_address(), |run| run.0 - 1);
            let here = Partly::range(*first, last);
            let target = self.narrow(address, *target, here)?;
            let Some((before, other)) = kept.last().copied() else {
                kept.push((here, target));
                continue;
            };
            // Two neighbours are one run if a single diagram is right for both.
            let joined = if other == target || self.narrow(address, other, here)? == target {
                Some(other)
            } else if self.narrow(address, target, before)? == other {
                Some(target)
            } else {
                None
            };
            match joined {
                Some(joined) => {
                    kept.pop();
                    kept.push((Partly::range(before.first, last), joined));
                }
                None => kept.push((here, target)),
            }
        }
        Ok(kept
            .into_iter()
            .map(|(run, target)| (run.first, target))
            .collect())
    }

    /// Returns the diagram for an address of which something is known. It recurses once per bit at most, so at most 128
    /// deep.
    fn narrow(&mut self, address: u32, diagram: Ref, known: Partly) -> Result<Ref, GaveUp> {
        let Some(bit) = bit_of(self.variable(diagram), address) else {
            return Ok(diagram);
        };
        if known.leaves_open(bit) {
            return Ok(diagram);
        }
        let (zero, one) = (self.follow(diagram, 0), self.follow(diagram, 1));
        let (unset, set) = (known.with(bit, false), known.with(bit, true));
        match (unset.is_possible(), set.is_possible()) {
            (true, false) => self.narrow(address, zero, unset),
            (false, _) => self.narrow(address, one, set),
            (true, true) => {
                let zero = self.narrow(address, zero, unset)?;
                let one = self.narrow(address, one, set)?;
                match zero == one {
                    true => Ok(zero),
                    false => self.node(self.variable(diagram), &[(0, zero), (1, one)]),
                }
            }
        }
    }

    /// Returns where a diagram leads for an address. The diagram must ask the address or its bits next, or not at all.
    pub(super) fn follow_address(&self, diagram: Ref, address: u32, value: u128) -> Ref {
        let mut at = diagram;
        loop {
            let variable = self.variable(at);
            at = match bit_of(variable, address) {
                Some(bit) => self.follow(at, value >> bit & 1),
                None if variable == address => self.follow(at, value),
                None => return at,
            };
        }
    }
}

impl Space {
    /// Returns the packets with `address & mask == value`; none if `value` has bits outside `mask`.
    ///
    /// ```
    /// # use fwc::analysis::{Field, Space};
    /// # use fwc::net::Family;
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V6);
    /// let suffix = space.masked(Field::Source, 5, u64::MAX.into())?;
    /// let host = space.range(Field::Source, 0x2001 << 112 | 5, 0x2001 << 112 | 5)?;
    /// assert!(space.is_subset(host, suffix)?);
    /// assert_eq!(space.minus(host, suffix)?, space.none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn masked(&self, field: Field, value: u128, mask: u128) -> Result<Set, GaveUp> {
        if value & !mask != 0 {
            return Ok(self.none());
        }
        let last = field.last(self.family());
        // The highest bit that the mask leaves out. The bits above it are a prefix, those behind it are asked one by
        // one.
        // Asking every bit of an address instead of runs would be simpler, but a prefix would then cost 128 levels.
        let hole = (!mask & last).checked_ilog2();
        let behind = hole.map_or(0, |hole| low(hole + 1));
        let network = self.range(field, value & !behind, value & !behind | behind)?;
        let bits = (0..128u8).filter(|bit| (mask & behind) >> bit & 1 == 1);
        let bits = bits.map(|bit| {
            let value = value >> bit & 1;
            self.range(field.bit(bit), value, value)
        });
        let bits: Vec<Set> = bits.collect::<Result<_, _>>()?;
        self.and(network, self.every(bits)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::{Family, IntervalSet};

    proptest! {
        #[test]
        fn the_next_address_is_the_least_that_fits(from: u8, first: u8, last: u8, mask: u8, bits: u8) {
            let known = Partly {
                first: first.into(),
                last: last.into(),
                mask: u128::from(mask) | !0xff,
                bits: (bits & mask).into(),
            };
            let fits = |address: &u128| address & known.mask == known.bits;
            let least = (u128::from(from.max(first))..=last.into()).find(fits);
            prop_assert_eq!(known.next(from.into()), least);
        }

        #[test]
        fn bits_are_open_where_every_value_of_them_comes(first: u8, last: u8, mask: u8, bits: u8, highest in 0..8u8) {
            let above = mask & !(low(u32::from(highest) + 1) as u8);
            let known = Partly {
                first: first.into(),
                last: last.into(),
                mask: u128::from(above) | !0xff,
                bits: (bits & above).into(),
            };
            let below = low(u32::from(highest) + 1);
            let comes = |value: u128| {
                let mut all = u128::from(first)..=u128::from(last);
                all.any(|address| address & known.mask == known.bits && address & below == value)
            };
            if known.leaves_open(highest) {
                prop_assert!((0..=below).all(comes));
            }
        }

        /// Compares sets of masks and ranges with a check of each address.
        #[test]
        fn masks_are_exact(
            tests in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u8>(), any::<u8>()), 1..6),
            joins in prop::collection::vec(0..3u8, 6),
        ) {
            let space = Space::new(Family::V4);
            let set_of = |&(is_mask, negated, one, two): &(bool, bool, u8, u8)| {
                let set = match is_mask {
                    // The bits are spread, so that the masks are never a few runs.
                    true => space.masked(Field::Source, spread(one & two), spread(two)).unwrap(),
                    false => space.range(Field::Source, spread(one.min(two)), spread(one.max(two))).unwrap(),
                };
                if negated { space.not(set).unwrap() } else { set }
            };
            let has = |&(is_mask, negated, one, two): &(bool, bool, u8, u8), address: u128| {
                let there = match is_mask {
                    true => address & spread(two) == spread(one & two),
                    false => (spread(one.min(two))..=spread(one.max(two))).contains(&address),
                };
                there != negated
            };
            let mut set = set_of(&tests[0]);
            for (test, join) in tests[1..].iter().zip(&joins) {
                let other = set_of(test);
                set = match join {
                    0 => space.and(set, other),
                    1 => space.or(set, other),
                    _ => space.minus(set, other),
                }.unwrap();
            }
            let mut any = false;
            for number in 0..=255u8 {
                let address = spread(number);
                let mut there = has(&tests[0], address);
                for (test, join) in tests[1..].iter().zip(&joins) {
                    let other = has(test, address);
                    there = match join {
                        0 => there && other,
                        1 => there || other,
                        _ => there && !other,
                    };
                }
                any |= there;
                let one = IntervalSet::from_intervals([(address, address)]);
                let one = space.sources(&one).unwrap();
                let found = space.and(set, one).unwrap();
                prop_assert_eq!(found, if there { one } else { space.none() }, "{}", number);
                prop_assert_eq!(space.contains(set, |_| address), there);
            }
            // The set may have addresses between the spread ones, but an empty set has none at all.
            prop_assert!(!any || set != space.none());
        }
    }

    const PLACES: [u8; 8] = [0, 3, 9, 12, 17, 21, 26, 31];

    /// Spreads the bits of a byte over a word.
    fn spread(byte: u8) -> u128 {
        let bits = PLACES.iter().enumerate();
        bits.fold(0, |all, (bit, place)| {
            all | u128::from(byte >> bit & 1) << place
        })
    }

    #[test]
    fn a_set_with_an_address_that_no_address_is_has_no_packet() {
        let space = Space::new(Family::V6);
        let masked = |value| {
            space
                .masked(Field::Destination, value, u64::MAX.into())
                .unwrap()
        };
        let (five, six) = (masked(5), masked(6));
        assert_eq!(space.and(five, six).unwrap(), space.none());
        let lab = 0x2001_0db8u128 << 96;
        let host = |last| {
            space
                .range(Field::Destination, lab | last, lab | last)
                .unwrap()
        };
        assert_eq!(space.and(host(6), five).unwrap(), space.none());
        assert_eq!(space.minus(host(5), five).unwrap(), space.none());
        // Equal sets may be two values; see the module's documentation.
        let same = |one, other| {
            let none = space.none();
            space.minus(one, other).unwrap() == none && space.minus(other, one).unwrap() == none
        };
        assert!(same(space.or(five, host(5)).unwrap(), five));
        let network = space
            .range(Field::Destination, lab, lab | u128::from(u64::MAX))
            .unwrap();
        assert!(same(space.and(network, five).unwrap(), host(5)));
        let both = space.or(space.not(five).unwrap(), five).unwrap();
        assert!(same(both, space.all()));
    }
}

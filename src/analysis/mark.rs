//! Marks: computes what a run of `MARK` and `CONNMARK` rules does to the mark of the packet and of its connection.
//!
//! All these targets keep, copy, shift, clear or flip bits. So a run of them is, for each bit, an exclusive or of old
//! bits and a constant, and two such runs composed are again of this form. That makes the result exact without listing
//! any marks.

/// One 32-bit word as a function of both old marks: each bit is the exclusive or of some of their bits, possibly
/// flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MarkWord {
    /// For each bit a mask of the old bits to combine: the packet's mark in the lower half, the connection's in the
    /// upper half.
    sums: [u64; 32],
    /// A mask of the bits that are flipped afterwards.
    flip: u32,
}

impl MarkWord {
    const ZERO: Self = Self {
        sums: [0; 32],
        flip: 0,
    };

    /// Returns an unchanged mark: the packet's for a `half` of 0, the connection's for 32.
    const fn same(half: u32) -> Self {
        let mut word = Self::ZERO;
        let mut bit = 0;
        while bit < 32 {
            word.sums[bit as usize] = 1 << (bit + half);
            bit += 1;
        }
        word
    }

    /// Keeps the bits of the mask and clears the others.
    fn masked(mut self, mask: u32) -> Self {
        for (bit, sum) in self.sums.iter_mut().enumerate() {
            if mask >> bit & 1 == 0 {
                *sum = 0;
            }
        }
        self.flip &= mask;
        self
    }

    /// Shifts left by `by` bits, or right if it is negative. Zeros are shifted in.
    fn shifted(self, by: i8) -> Self {
        let mut word = Self::ZERO;
        for (bit, sum) in (0i8..).zip(&mut word.sums) {
            let from = usize::try_from(bit - by).ok();
            *sum = from
                .and_then(|from| self.sums.get(from).copied())
                .unwrap_or(0);
        }
        let places = u32::from(by.unsigned_abs());
        word.flip = match by < 0 {
            true => self.flip.checked_shr(places).unwrap_or(0),
            false => self.flip.checked_shl(places).unwrap_or(0),
        };
        word
    }

    pub fn xor(mut self, other: Self) -> Self {
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum ^= more;
        }
        self.flip ^= other.flip;
        self
    }

    const fn constant(flip: u32) -> Self {
        let mut word = Self::ZERO;
        word.flip = flip;
        word
    }

    /// Returns the old bits that a bit combines (of the packet's mark, of the connection's), and `true` if it is
    /// flipped.
    pub const fn bit(&self, bit: u8) -> (u32, u32, bool) {
        let sum = self.sums[bit as usize];
        (sum as u32, (sum >> 32) as u32, self.flip >> bit & 1 == 1)
    }

    fn after(self, before: Marks) -> Self {
        let mut word = Self::constant(self.flip);
        for (bit, sum) in self.sums.iter().enumerate() {
            let mut left = *sum;
            while left != 0 {
                let from = left.trailing_zeros();
                left &= left - 1;
                let source = match from < 32 {
                    true => &before.packet,
                    false => &before.connection,
                };
                word.sums[bit] ^= source.sums[from as usize % 32];
                word.flip ^= (source.flip >> (from % 32) & 1) << bit;
            }
        }
        word
    }

    /// Returns the value of a bit that does not depend on the old marks.
    pub const fn known_bit(&self, bit: u8) -> Option<u32> {
        match self.sums[bit as usize] {
            0 => Some(self.flip >> bit & 1),
            _ => None,
        }
    }

    fn apply(&self, packet: u32, connection: u32) -> u32 {
        let both = u64::from(packet) | u64::from(connection) << 32;
        let sums = self.sums.iter().enumerate();
        sums.fold(self.flip, |word, (bit, sum)| {
            word ^ ((both & sum).count_ones() & 1) << bit
        })
    }
}

/// Both new marks as functions of the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Marks {
    /// The packet's new mark.
    pub packet: MarkWord,
    /// The connection's new mark.
    pub connection: MarkWord,
}

impl Default for Marks {
    fn default() -> Self {
        Self::SAME
    }
}

impl Marks {
    /// Changes nothing.
    pub const SAME: Self = Self {
        packet: MarkWord::same(0),
        connection: MarkWord::same(32),
    };

    /// Returns the effect of `MARK`: the packet's mark becomes `(mark & !mask) ^ value`.
    pub fn set_packet(value: u32, mask: u32) -> Self {
        let kept = Self::SAME.packet.masked(!mask);
        Self {
            packet: kept.xor(MarkWord::constant(value)),
            ..Self::SAME
        }
    }

    /// Returns the effect of `CONNMARK --set-xmark`: the connection's mark becomes `(mark & !mask) ^ value`, shifted as
    /// a whole.
    pub fn set_connection(value: u32, mask: u32, shift: i8) -> Self {
        let kept = Self::SAME.connection.masked(!mask);
        Self {
            connection: kept.xor(MarkWord::constant(value)).shifted(shift),
            ..Self::SAME
        }
    }

    /// Returns the effect of `CONNMARK --save-mark`: the connection's mark becomes `(its & !to) ^ (packet's & from)`,
    /// of which only the second part is shifted.
    pub fn save(from: u32, to: u32, shift: i8) -> Self {
        let kept = Self::SAME.connection.masked(!to);
        Self {
            connection: kept.xor(Self::SAME.packet.masked(from).shifted(shift)),
            ..Self::SAME
        }
    }

    /// Returns the effect of `CONNMARK --restore-mark`: the packet's mark becomes `(its & !to) ^ (connection's &
    /// from)`, of which only the second part is shifted.
    pub fn restore(from: u32, to: u32, shift: i8) -> Self {
        let kept = Self::SAME.packet.masked(!to);
        Self {
            packet: kept.xor(Self::SAME.connection.masked(from).shifted(shift)),
            ..Self::SAME
        }
    }

    /// Returns `true` if each bit depends on nothing but the bits of the same position in both marks.
    pub fn is_bitwise(&self) -> bool {
        [&self.packet, &self.connection].into_iter().all(|word| {
            let mut sums = word.sums.iter().enumerate();
            sums.all(|(bit, sum)| sum & !(1 << bit | 1 << (bit + 32)) == 0)
        })
    }

    /// Returns whether a bit of the packet's mark keeps its value, and whether the same bit of the connection's mark
    /// does.
    pub fn keeps(&self, bit: u8) -> (bool, bool) {
        let same = Self::SAME;
        let packet = self.packet.bit(bit) == same.packet.bit(bit);
        (packet, self.connection.bit(bit) == same.connection.bit(bit))
    }

    /// Returns the effect of `before` followed by this one.
    pub fn after(self, before: Self) -> Self {
        Self {
            packet: self.packet.after(before),
            connection: self.connection.after(before),
        }
    }

    /// Returns the new marks for two old ones: the packet's and the connection's.
    pub fn apply(self, packet: u32, connection: u32) -> (u32, u32) {
        (
            self.packet.apply(packet, connection),
            self.connection.apply(packet, connection),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step() -> impl Strategy<Value = Marks> {
        (0..4u8, any::<u32>(), any::<u32>(), -31..32i8).prop_map(|(kind, a, b, shift)| match kind {
            0 => Marks::set_packet(a, b),
            1 => Marks::set_connection(a, b, shift),
            2 => Marks::save(a, b, shift),
            _ => Marks::restore(a, b, shift),
        })
    }

    proptest! {
        #[test]
        fn composed_is_one_after_the_other(
            steps in prop::collection::vec(step(), 0..5), packet: u32, connection: u32,
        ) {
            let all = steps.iter().fold(Marks::SAME, |before, step| step.after(before));
            let one_by_one = steps.iter().fold((packet, connection), |marks, step| step.apply(marks.0, marks.1));
            prop_assert_eq!(all.apply(packet, connection), one_by_one);
        }
    }

    #[test]
    fn what_the_targets_do() {
        assert_eq!(Marks::set_packet(0x10, 0xff).apply(0xabcd, 7), (0xab10, 7));
        assert_eq!(Marks::restore(u32::MAX, u32::MAX, 0).apply(1, 2), (2, 2));
        assert_eq!(
            Marks::save(0xff, 0xff, 0).apply(0x1234, 0xabcd),
            (0x1234, 0xab34)
        );
        let (to, back) = (Marks::save(0xf, 0xff0, 4), Marks::restore(0xf0, 0xff, -4));
        assert_eq!(to.apply(0x5, 0xffff), (0x5, 0xf05f));
        assert_eq!(back.apply(0x1200, 0x50), (0x1205, 0x50));
        assert_eq!(back.after(to).apply(0x1205, 0), (0x1205, 0x50));
        assert_eq!(
            Marks::set_connection(5, u32::MAX, 4).apply(1, 0xff),
            (1, 0x50)
        );
        assert!(!to.is_bitwise() && Marks::save(0xf, 0xff0, 0).is_bitwise());
    }
}

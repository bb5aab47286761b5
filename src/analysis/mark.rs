//! What a run of rules does to the packet's mark and the connection's: bit by bit, and so exactly.

/// One 32-bit word as a function of both old marks: bit by bit `(mark & packet) ^ (mark & connection) ^ flip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Word {
    /// Bits taken from the packet's mark.
    pub packet: u32,
    /// Bits taken from the connection's mark.
    pub connection: u32,
    /// Bits turned round.
    pub flip: u32,
}

impl Word {
    /// The bits of a mask keep their value, the others become 0; then `^ flip`.
    const fn masked(self, mask: u32) -> Self {
        Self {
            packet: self.packet & mask,
            connection: self.connection & mask,
            flip: self.flip & mask,
        }
    }

    pub const fn xor(self, other: Self) -> Self {
        Self {
            packet: self.packet ^ other.packet,
            connection: self.connection ^ other.connection,
            flip: self.flip ^ other.flip,
        }
    }

    const fn constant(flip: u32) -> Self {
        Self {
            packet: 0,
            connection: 0,
            flip,
        }
    }

    const fn after(self, before: Marks) -> Self {
        before
            .packet
            .masked(self.packet)
            .xor(before.connection.masked(self.connection))
            .xor(Self::constant(self.flip))
    }

    /// Returns the value of a bit that does not depend on either old mark.
    pub const fn known_bit(self, bit: u8) -> Option<u32> {
        match (self.packet | self.connection) >> bit & 1 {
            0 => Some(self.flip >> bit & 1),
            _ => None,
        }
    }

    fn apply(self, packet: u32, connection: u32) -> u32 {
        (packet & self.packet) ^ (connection & self.connection) ^ self.flip
    }
}

/// Both marks as functions of what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Marks {
    /// The packet's.
    pub packet: Word,
    /// The connection's.
    pub connection: Word,
}

impl Default for Marks {
    fn default() -> Self {
        Self::SAME
    }
}

impl Marks {
    /// Nothing changes.
    pub const SAME: Self = Self {
        packet: Word {
            packet: u32::MAX,
            connection: 0,
            flip: 0,
        },
        connection: Word {
            packet: 0,
            connection: u32::MAX,
            flip: 0,
        },
    };

    /// `MARK`: the packet's mark becomes `(mark & !mask) ^ value`.
    pub fn set_packet(value: u32, mask: u32) -> Self {
        let kept = Self::SAME.packet.masked(!mask);
        Self {
            packet: kept.xor(Word::constant(value)),
            ..Self::SAME
        }
    }

    /// `CONNMARK --set-xmark`: the connection's mark becomes `(mark & !mask) ^ value`.
    pub fn set_connection(value: u32, mask: u32) -> Self {
        let kept = Self::SAME.connection.masked(!mask);
        Self {
            connection: kept.xor(Word::constant(value)),
            ..Self::SAME
        }
    }

    /// `CONNMARK --save-mark`: the connection's becomes `(its & !to) ^ (packet's & from)`.
    pub fn save(from: u32, to: u32) -> Self {
        let kept = Self::SAME.connection.masked(!to);
        Self {
            connection: kept.xor(Self::SAME.packet.masked(from)),
            ..Self::SAME
        }
    }

    /// `CONNMARK --restore-mark`: the packet's becomes `(its & !to) ^ (connection's & from)`.
    pub fn restore(from: u32, to: u32) -> Self {
        let kept = Self::SAME.packet.masked(!to);
        Self {
            packet: kept.xor(Self::SAME.connection.masked(from)),
            ..Self::SAME
        }
    }

    /// First `before`, then this.
    pub const fn after(self, before: Self) -> Self {
        Self {
            packet: self.packet.after(before),
            connection: self.connection.after(before),
        }
    }

    /// What becomes of both marks.
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
        (0..4u8, any::<u32>(), any::<u32>()).prop_map(|(kind, a, b)| match kind {
            0 => Marks::set_packet(a, b),
            1 => Marks::set_connection(a, b),
            2 => Marks::save(a, b),
            _ => Marks::restore(a, b),
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
        assert_eq!(Marks::restore(u32::MAX, u32::MAX).apply(1, 2), (2, 2));
        assert_eq!(
            Marks::save(0xff, 0xff).apply(0x1234, 0xabcd),
            (0x1234, 0xab34)
        );
    }
}

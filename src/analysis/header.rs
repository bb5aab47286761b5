//! Words for what a run of rules writes into the headers of packets: hop limit and type of service.

use std::fmt;

use super::flow::Effect;
use super::writes::{Bits, Hops, Writes};
use crate::net::Family;

/// The first word of an effect of [`Space::header_changes`](super::Space::header_changes). No target has this name.
const ALTOGETHER: &str = "altogether ";

/// Returns `true` for an effect of [`Space::header_changes`](super::Space::header_changes).
pub fn is_header_effect(effect: &Effect) -> bool {
    effect.starts_with(ALTOGETHER)
}

impl Writes {
    /// Returns the effect that stands for all header writes together: `altogether TTL 8, TOS 0x28/0xfc`.
    pub fn header_effect(self, family: Family) -> Effect {
        let mut words = Vec::new();
        if self.hops != Hops::SAME {
            let name = match family {
                Family::V4 => "TTL",
                Family::V6 => "hop limit",
            };
            words.push(format!("{name} {}", self.hops));
        }
        if self.tos != Bits::SAME {
            words.push(format!("TOS {}", self.tos));
        }
        if words.is_empty() {
            words.push("nothing".to_owned());
        }
        format!("{ALTOGETHER}{}", words.join(", ")).into()
    }
}

impl fmt::Display for Hops {
    /// Writes `8` for a constant, `+3` for a sum, `-2 (at least 5)` for a sum with a bound.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most {
            return write!(out, "{}", self.least);
        }
        write!(out, "{:+}", self.added)?;
        // Bounds that the sum alone keeps to are left out.
        let sum = Self {
            added: self.added,
            ..Self::SAME
        };
        let (least, most) = (sum.apply(0), sum.apply(u8::MAX));
        match (self.least > least, self.most < most) {
            (false, false) => Ok(()),
            (true, false) => write!(out, " (at least {})", self.least),
            (false, true) => write!(out, " (at most {})", self.most),
            (true, true) => write!(out, " (from {} to {})", self.least, self.most),
        }
    }
}

impl fmt::Display for Bits {
    /// Writes `0x28/0xfc`, the value and the mask of the bits that are set; `^0x01` follows with the bits outside the
    /// mask that are flipped.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = !self.kept;
        write!(out, "{:#04x}/{written:#04x}", self.flipped & written)?;
        match self.flipped & self.kept {
            0 => Ok(()),
            turned => write!(out, " ^{turned:#04x}"),
        }
    }
}

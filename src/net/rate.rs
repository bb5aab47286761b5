//! Rates of the `limit` match.

use std::fmt;

/// The kernel counts in ten-thousandths of a second (`XT_LIMIT_SCALE`, `xt_limit.h`).
const SCALE: u32 = 10_000;
const UNITS: [(&str, u32); 4] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 60 * 60),
    ("day", 24 * 60 * 60),
];

/// So many packets in a unit of time, as the kernel keeps it: the time between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Ten-thousandths of a second between two packets; never 0.
    period: u32,
}

/// Why a text is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// Not `NUMBER/UNIT`.
    NotARate,
    /// A number without a unit.
    NoUnit,
    /// Nothing in any time, or more than 10,000 a second, which the kernel cannot count.
    OutOfRange,
}

impl Rate {
    /// The rate of a log class that does not say its own.
    pub const TEN_A_MINUTE: Self = Self {
        period: SCALE * 60 / 10,
    };

    /// Reads `10/minute`; the units are second, minute, hour, day, or short forms of them from one letter on.
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let Some((count, unit)) = text.split_once('/') else {
            return Err(if plain(text) {
                RateError::NoUnit
            } else {
                RateError::NotARate
            });
        };
        let seconds = UNITS
            .iter()
            .find(|(name, _)| !unit.is_empty() && name.starts_with(unit))
            .ok_or(RateError::NotARate)?
            .1;
        if !plain(count) {
            return Err(RateError::NotARate);
        }
        let count: u32 = count.parse().map_err(|_| RateError::OutOfRange)?;
        let period = (SCALE * seconds)
            .checked_div(count)
            .ok_or(RateError::OutOfRange)?;
        if period == 0 {
            return Err(RateError::OutOfRange);
        }
        Ok(Self { period })
    }
}

impl fmt::Display for Rate {
    /// As `iptables-save` prints it: in the smallest unit that shows it without too much of a remainder
    /// (`print_rate` of iptables' `libxt_limit.c`).
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut best = ("day", SCALE * 24 * 60 * 60 / self.period);
        for (name, seconds) in [("hour", 3600), ("min", 60), ("sec", 1)] {
            let unit = SCALE * seconds;
            if self.period > unit || unit / self.period < unit % self.period {
                break;
            }
            best = (name, unit / self.period);
        }
        write!(out, "{}/{}", best.1, best.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_iptables_prints_it() {
        for (text, shown) in [
            ("10/minute", "10/min"),
            ("60/minute", "1/sec"),
            ("100/minute", "100/min"),
            ("7/m", "7/min"),
            ("1/day", "1/day"),
            ("24/day", "1/hour"),
            ("10000/second", "10000/sec"),
        ] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for (text, error) in [
            ("6", RateError::NoUnit),
            ("6/", RateError::NotARate),
            ("/minute", RateError::NotARate),
            ("6/fortnight", RateError::NotARate),
            ("0/minute", RateError::OutOfRange),
            ("10001/second", RateError::OutOfRange),
            ("99999999999/day", RateError::OutOfRange),
            ("-1/day", RateError::NotARate),
        ] {
            assert_eq!(Rate::parse(text), Err(error), "{text}");
        }
    }
}

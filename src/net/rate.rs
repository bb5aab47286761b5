//! Rates of the `limit` and `hashlimit` matches.
//!
//! The kernel keeps the time between two packets and not the text of the rate. `iptables-save` computes a text from that
//! time, so that it may print `1/sec` for `60/min`. What fwc writes is the text that comes back.

/// The units of a second in which `limit` keeps the time between packets (`XT_LIMIT_SCALE`, `xt_limit.h`).
const LIMIT_SCALE: u64 = 10_000;
/// The units of a second in which `hashlimit` keeps the time between packets (`XT_HASHLIMIT_SCALE_v2`, `xt_hashlimit.h`).
const HASHLIMIT_SCALE: u64 = 1_000_000;
/// The units of time that a rate may have, with their seconds.
const UNITS: [(&str, u32); 4] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 60 * 60),
    ("day", 24 * 60 * 60),
];

/// A number of packets in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    seconds: u32,
}

/// Why a text is not a valid rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// The text is not `NUMBER/UNIT`.
    NotARate,
    /// The text is a number without a unit.
    NoUnit,
    /// The rate is 0, or more than 10,000 packets a second, which the kernel cannot count.
    OutOfRange,
}

impl Rate {
    /// The rate of a log class that sets none.
    pub const TEN_A_MINUTE: Self = Self {
        count: 10,
        seconds: 60,
    };

    /// Parses `10/minute`. The units are second, minute, hour and day; any beginning of these words is enough.
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
        let rate = Self { count, seconds };
        // `limit` has the coarser unit of time: a rate that it can count, `hashlimit` can count too.
        if count == 0 || rate.period(LIMIT_SCALE) == 0 {
            return Err(RateError::OutOfRange);
        }
        Ok(rate)
    }

    /// Returns `true` if the kernel can count a burst of this many packets: at this rate they may take a day at most
    /// (`user2credits` of `xt_limit.c`).
    pub fn allows_burst(self, burst: u32) -> bool {
        u64::from(burst) * u64::from(self.seconds) <= u64::from(self.count) * 24 * 60 * 60
    }

    /// Returns the number of packets, and the seconds in which so many may pass: `6/minute` is 6 in 60.
    pub fn parts(self) -> (u32, u32) {
        (self.count, self.seconds)
    }

    /// Returns the rate as `iptables-save` prints it for the `limit` match.
    pub fn of_limit(self) -> String {
        self.shown(LIMIT_SCALE).0
    }

    /// Returns the rate as `iptables-save` prints it for the `hashlimit` match.
    pub fn of_hashlimit(self) -> String {
        self.shown(HASHLIMIT_SCALE).0
    }

    /// Returns the `--hashlimit-htable-expire`, in milliseconds, with which a bucket lives until its whole burst is
    /// available again. `None` where iptables' default is long enough: one unit of the rate as [`Self::of_hashlimit`]
    /// writes it (`hashlimit_mt_check` of `libxt_hashlimit.c`).
    ///
    /// A bucket that the kernel forgets earlier comes back full, so that a source which waits that long gets more than its
    /// rate.
    pub fn hashlimit_expiry(self, burst: u32) -> Option<u64> {
        let (_, unit) = self.shown(HASHLIMIT_SCALE);
        let refill = u64::from(burst) * u64::from(self.seconds) * 1000;
        let refill = refill.div_ceil(u64::from(self.count));
        Some(refill).filter(|refill| *refill > unit * 1000)
    }

    /// Returns the time between two packets in units of `1/scale` seconds, rounded down as the kernel does.
    fn period(self, scale: u64) -> u64 {
        scale * u64::from(self.seconds) / u64::from(self.count)
    }

    /// Returns the rate in the smallest unit that shows it without too much of a remainder (`print_rate` of iptables'
    /// `libxt_limit.c` and `libxt_hashlimit.c`), and the seconds of that unit.
    fn shown(self, scale: u64) -> (String, u64) {
        let period = self.period(scale);
        let day = 24 * 60 * 60;
        let mut best = ("day", day, scale * day / period);
        for (name, seconds) in [("hour", 3600), ("min", 60), ("sec", 1)] {
            let unit = scale * seconds;
            if period > unit || unit / period < unit % period {
                break;
            }
            best = (name, seconds, unit / period);
        }
        let (name, seconds, count) = best;
        (format!("{count}/{name}"), seconds)
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
            assert_eq!(Rate::parse(text).unwrap().of_limit(), shown, "{text}");
        }
        assert_eq!(Rate::parse("7/minute").unwrap().of_hashlimit(), "7/min");
        for (text, burst, expiry) in [
            ("1/second", 1, None),
            ("1/second", 30, Some(30_000)),
            ("60/minute", 5, Some(5_000)),
            ("6/minute", 3, None),
            ("6/minute", 6, None),
            ("6/minute", 7, Some(70_000)),
            ("7/minute", 30, Some(257_143)),
            ("1/hour", 24, Some(86_400_000)),
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(
                rate.hashlimit_expiry(burst),
                expiry,
                "{text}, burst {burst}"
            );
        }
        assert!(Rate::parse("1/day").unwrap().allows_burst(1));
        assert!(!Rate::parse("1/day").unwrap().allows_burst(2));
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

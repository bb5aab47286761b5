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

/// The units of bytes that a rate may have, with their bytes.
const BYTE_UNITS: [(&str, u64); 3] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)];
/// The bytes that `hashlimit` counts as one.
const BYTE_STEP: u64 = 16;
/// The largest rate in bytes a second. The kernel keeps the cost of 16 bytes as a whole number, which is 63 here: a larger rate
/// would be off by several percent.
const MOST_BYTES: u64 = 1 << 30;

/// A number of bytes a second, which only `hashlimit` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRate {
    bytes: u64,
}

/// Why a text is not a valid rate of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRateError<'t> {
    /// The text has a unit of bytes other than `B`, `KiB` and `MiB`.
    UnknownUnit {
        /// The unit.
        unit: &'t str,
        /// The count of the same rate in `MiB`, if the unit is a larger one and the rate is valid.
        in_mib: Option<u64>,
    },
    /// The unit of time is not the second.
    NotASecond,
    /// The rate is less than 16 bytes or more than 1024 MiB a second.
    OutOfRange,
}

impl ByteRate {
    /// Parses `10MiB/second`. `None` if the text names no unit of bytes.
    pub fn parse(text: &str) -> Option<Result<Self, ByteRateError<'_>>> {
        let (amount, time) = text.split_once('/')?;
        let end = amount.find(|c: char| !c.is_ascii_digit())?;
        let (count, unit) = amount.split_at(end);
        let is_unit = unit.bytes().all(|b| b.is_ascii_alphabetic()) && unit.ends_with(['b', 'B']);
        if count.is_empty() || !is_unit {
            return None;
        }
        let count: Option<u64> = count.parse().ok();
        let Some((_, size)) = BYTE_UNITS.iter().find(|(name, _)| *name == unit) else {
            let larger = [("GiB", 1 << 10), ("TiB", 1 << 20)];
            let larger = larger.iter().find(|(name, _)| *name == unit);
            let in_mib = larger.and_then(|(_, factor)| count?.checked_mul(*factor));
            let in_mib = in_mib.filter(|count| *count <= MOST_BYTES >> 20);
            return Some(Err(ByteRateError::UnknownUnit { unit, in_mib }));
        };
        // `hashlimit` takes `512kb/minute` for 512 packets a minute: no other unit of time counts bytes.
        if time.is_empty() || !"second".starts_with(time) {
            return Some(Err(ByteRateError::NotASecond));
        }
        let bytes = count.and_then(|count| count.checked_mul(*size));
        let bytes = bytes.filter(|bytes| (BYTE_STEP..=MOST_BYTES).contains(bytes));
        Some(
            bytes
                .map(|bytes| Self { bytes })
                .ok_or(ByteRateError::OutOfRange),
        )
    }

    /// Returns the bytes a second.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Returns the rate as `iptables-save` prints it for the `hashlimit` match: from the cost of 16 bytes, in the largest unit
    /// that has the same cost (`print_bytes` of `libxt_hashlimit.c`).
    pub fn of_hashlimit(self) -> String {
        let all = u64::from(u32::MAX);
        let cost = |bytes: u64| all / (bytes / BYTE_STEP + 1);
        let saved = (all / cost(self.bytes) - 1) * BYTE_STEP;
        for (name, size) in [("mb", 1 << 20), ("kb", 1 << 10)] {
            let count = saved / size;
            if count > 0 && cost(count * size) == cost(self.bytes) {
                return format!("{count}{name}/s");
            }
        }
        format!("{saved}b/s")
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

    #[test]
    fn bytes_as_iptables_prints_them() {
        for (text, shown) in [
            ("10MiB/second", "10mb/s"),
            ("512KiB/s", "512kb/s"),
            ("1024KiB/sec", "1mb/s"),
            ("1000B/second", "992b/s"),
            ("16B/second", "16b/s"),
            ("1024MiB/second", "1040mb/s"),
        ] {
            let rate = ByteRate::parse(text).unwrap().unwrap();
            assert_eq!(rate.of_hashlimit(), shown, "{text}");
        }
    }

    #[test]
    fn wrong_rates_of_bytes() {
        for text in [
            "6/minute",
            "10 MiB/second",
            "MiB/second",
            "10MiB",
            "10x/second",
        ] {
            assert_eq!(ByteRate::parse(text), None, "{text}");
        }
        let unknown = |unit, in_mib| ByteRateError::UnknownUnit { unit, in_mib };
        for (text, error) in [
            ("512KiB/minute", ByteRateError::NotASecond),
            ("512KiB/", ByteRateError::NotASecond),
            ("1GiB/second", unknown("GiB", Some(1024))),
            ("2GiB/second", unknown("GiB", None)),
            ("1gb/s", unknown("gb", None)),
            ("10MB/second", unknown("MB", None)),
            ("15B/second", ByteRateError::OutOfRange),
            ("0MiB/second", ByteRateError::OutOfRange),
            ("1025MiB/second", ByteRateError::OutOfRange),
            ("99999999999999999999999B/second", ByteRateError::OutOfRange),
        ] {
            assert_eq!(ByteRate::parse(text), Some(Err(error)), "{text}");
        }
    }
}

//! Rate limits as numbers, computed separately from the policy and from the text of a rule.

use std::fmt;

use crate::iptables::{Match, Module, ModuleOption};
use crate::net::{Family, Rate};
use crate::policy::{HostPrefix, LimitPer, LimitRate, Per};
use crate::resolve;

/// A rate limit in numbers. The policy and the text of a rule are converted separately, so that a wrong conversion in the
/// generator is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The rate, with the precision of the kernel.
    pub pace: Pace,
    /// The packets that share a bucket.
    pub counted: CountScope,
    /// The name of the limit of `[limits]` whose buckets all rules that name it share; `None` for a limit of one rule.
    pub shared: Option<String>,
    /// The time in milliseconds after which the kernel forgets the bucket of a silent source, if that is before the bucket is
    /// full again: a source that waits that long gets more than its rate. `None` for every limit of a policy.
    pub forgotten_after: Option<u64>,
}

/// The rate of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pace {
    /// A number of packets in a time.
    Packets {
        /// The time from one packet to the next in microseconds.
        every: u64,
        /// The number of packets that may come at once.
        burst: u32,
    },
    /// Bytes per second.
    Bytes {
        /// What each 16 bytes take from a bucket that has `u32::MAX` after a second.
        cost: u64,
    },
    /// Fewer than so many packets in a time. Those beyond it count, too.
    Window {
        /// The packet that is over.
        hits: u32,
        /// The time in seconds.
        seconds: u32,
    },
}

/// The packets that share a bucket: those that are equal in each of these parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CountScope {
    /// The number of leading bits of the source.
    pub source: Option<u8>,
    /// The number of leading bits of the destination.
    pub destination: Option<u8>,
    /// The destination port.
    pub destination_port: bool,
}

impl CountScope {
    /// All packets of the rule.
    pub const TOGETHER: Self = Self {
        source: None,
        destination: None,
        destination_port: false,
    };

    /// Packets whose sources share this number of leading bits.
    pub const fn by_source(bits: u8) -> Self {
        Self {
            source: Some(bits),
            ..Self::TOGETHER
        }
    }

    /// Converts `per` of connections for a family. A source is one address in IPv4 and a /64 in IPv6, because an IPv6 host may
    /// use any address of its /64.
    pub(in crate::verify) fn of(per: Per, family: Family) -> Self {
        match per {
            Per::Rule => Self::TOGETHER,
            Per::Source => Self::by_source(source_of_one_host(family)),
        }
    }

    /// Converts `per` of a limit for a family. A destination is one address, because it is not the sender's to choose from
    /// a /64.
    fn of_limit(per: LimitPer, family: Family) -> Self {
        let LimitPer {
            source,
            destination,
            destination_port,
        } = per;
        let bits = |prefix: HostPrefix, host: u8| match (prefix, family) {
            (HostPrefix::Host, _) => host,
            (HostPrefix::Only(bits), _) => bits,
            (HostPrefix::Each(bits), Family::V4) => bits.v4,
            (HostPrefix::Each(bits), Family::V6) => bits.v6,
        };
        Self {
            source: source.map(|prefix| bits(prefix, source_of_one_host(family))),
            destination: destination.map(|prefix| match family {
                Family::V4 => bits(prefix, 32),
                Family::V6 => bits(prefix, 128),
            }),
            destination_port,
        }
    }

    /// Reads the mode and the masks of a `hashlimit` match; `None` for those that no policy produces.
    fn of_module(module: &Module, family: Family) -> Option<Self> {
        let mut scope = Self::TOGETHER;
        let mask = |name: &str| match module.setting(name) {
            Some(mask) => mask.value.parse().ok(),
            None => Some(family.bits()),
        };
        if let Some(mode) = module.setting("hashlimit-mode") {
            for part in mode.value.split(',') {
                match part {
                    "srcip" => scope.source = Some(mask("hashlimit-srcmask")?),
                    "dstip" => scope.destination = Some(mask("hashlimit-dstmask")?),
                    "dstport" => scope.destination_port = true,
                    _ => return None,
                }
            }
        }
        let is_unused =
            |name: &str, part: Option<u8>| part.is_none() && module.setting(name).is_some();
        let strange = is_unused("hashlimit-srcmask", scope.source)
            || is_unused("hashlimit-dstmask", scope.destination);
        (!strange).then_some(scope)
    }
}

/// Returns the bits of a source that one host has to itself.
fn source_of_one_host(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 64,
    }
}

impl RateLimit {
    /// Returns the limit of a rule of the policy. Its buckets must not be forgotten before they are full.
    pub(in crate::verify) fn of_limit(limit: &resolve::Limit, family: Family) -> Self {
        let counted = CountScope::of_limit(limit.per, family);
        let shared = limit.shared.clone();
        let pace = match limit.rate {
            LimitRate::Packets(rate, burst) => {
                Pace::of_rate(rate, burst, Clock::of(counted, shared.is_some()))
            }
            LimitRate::Bytes(rate) => Pace::of_bytes(rate.bytes()),
            LimitRate::Window(window) => Pace::Window {
                hits: window.hits.into(),
                seconds: window.within,
            },
        };
        Self {
            pace,
            counted,
            shared,
            forgotten_after: None,
        }
    }

    /// Returns the limit for a rate and a burst of the policy.
    pub(in crate::verify) fn of_policy(rate: Rate, burst: u32, counted: CountScope) -> Self {
        Self {
            pace: Pace::of_rate(rate, burst, Clock::of(counted, false)),
            counted,
            shared: None,
            forgotten_after: None,
        }
    }

    /// Returns the limit of a `limit` or `hashlimit` match, and whether it matches beyond the rate (`--hashlimit-above`)
    /// instead of within. `None` for other matches, and for options that no policy produces.
    pub(in crate::verify) fn of_match(condition: &Match, family: Family) -> Option<(Self, bool)> {
        let Match::Other(module) = condition else {
            return None;
        };
        let number = |name: &str| module.setting(name)?.value.parse().ok();
        match module.name {
            "limit" => {
                let (count, unit) = count_and_unit(&module.setting("limit")?.value)?;
                let rated = Self {
                    pace: Pace::Packets {
                        every: Clock::Limit.micros(count, unit)?,
                        // The default of `xt_limit.h`, which iptables-save does not print.
                        burst: match module.setting("limit-burst") {
                            Some(_) => number("limit-burst")?,
                            None => 5,
                        },
                    },
                    counted: CountScope::TOGETHER,
                    shared: None,
                    forgotten_after: None,
                };
                Some((rated, false))
            }
            "hashlimit" => {
                let known = [
                    "above",
                    "upto",
                    "burst",
                    "mode",
                    "name",
                    "htable-expire",
                    "srcmask",
                    "dstmask",
                ];
                let is_known = |setting: &ModuleOption| {
                    let name = setting.name.strip_prefix("hashlimit-");
                    name.is_some_and(|name| known.contains(&name))
                };
                if !module.settings.iter().all(is_known) {
                    return None;
                }
                let beyond = module.setting("hashlimit-above");
                let rate = &beyond.or(module.setting("hashlimit-upto"))?.value;
                let counted = CountScope::of_module(module, family)?;
                let burst = module.setting("hashlimit-burst");
                let table = &*module.setting("hashlimit-name")?.value;
                let shared = limit_named(table, "fwc-");
                // libxt_hashlimit.c: without the option a bucket lives for one unit of a rate of packets, and for 15 seconds
                // with a rate of bytes.
                let (pace, refill, expiry) = match bytes(rate) {
                    Some(bytes) if burst.is_none() => (Pace::of_bytes(bytes), 1_000_000, 15_000),
                    Some(_) => return None,
                    // A policy counts packets together with `limit`, unless rules share the bucket.
                    None if counted == CountScope::TOGETHER && shared.is_none() => return None,
                    None => {
                        let (count, unit) = count_and_unit(rate)?;
                        let every = Clock::Hashlimit.micros(count, unit)?;
                        let burst = number("hashlimit-burst")?;
                        let pace = Pace::Packets { every, burst };
                        (pace, u64::from(burst) * every, unit * 1000)
                    }
                };
                let expiry: u64 = match module.setting("hashlimit-htable-expire") {
                    Some(expiry) => expiry.value.parse().ok()?,
                    None => expiry,
                };
                let rated = Self {
                    pace,
                    counted,
                    shared,
                    forgotten_after: Some(expiry).filter(|expiry| expiry * 1000 < refill),
                };
                Some((rated, beyond.is_some()))
            }
            _ => None,
        }
    }
}

/// Returns the name of the limit that the name of a table shows, which is `PREFIX-NAME-HASH`; `None` for a table of one rule.
pub(super) fn limit_named(table: &str, prefix: &str) -> Option<String> {
    let (name, _) = table.strip_prefix(prefix)?.rsplit_once('-')?;
    Some(name.to_owned())
}

impl Pace {
    /// Converts a rate of packets, as it comes back from `iptables-save`.
    fn of_rate(rate: Rate, burst: u32, clock: Clock) -> Self {
        let (count, seconds) = rate.parts();
        Self::Packets {
            every: clock.saved(count.into(), seconds.into()),
            burst,
        }
    }

    /// Converts bytes per second, which the kernel counts in steps of 16 (`user2credits_byte` of `xt_hashlimit.c`).
    fn of_bytes(bytes: u64) -> Self {
        Self::Bytes {
            cost: u64::from(u32::MAX) / ((bytes >> 4) + 1),
        }
    }
}

/// Parses a rate such as `10mb/s` into bytes; `None` if it is of packets.
fn bytes(rate: &str) -> Option<u64> {
    let amount = rate.strip_suffix("b/s")?;
    let (count, shift) = match (amount.strip_suffix('m'), amount.strip_suffix('k')) {
        (Some(count), _) => (count, 20),
        (_, Some(count)) => (count, 10),
        _ => (amount, 0),
    };
    let count: u64 = count.parse().ok()?;
    count.checked_mul(1 << shift)
}

/// The resolution with which a match of the kernel measures time.
#[derive(Clone, Copy)]
enum Clock {
    /// 100 microseconds (`XT_LIMIT_SCALE` of `xt_limit.h`).
    Limit,
    /// One microsecond (`XT_HASHLIMIT_SCALE_v2` of `xt_hashlimit.h`).
    Hashlimit,
}

impl Clock {
    /// Returns the resolution for some packets. `limit` cannot count for several rules.
    fn of(counted: CountScope, is_shared: bool) -> Self {
        match counted {
            CountScope::TOGETHER if !is_shared => Self::Limit,
            _ => Self::Hashlimit,
        }
    }

    fn ticks_a_second(self) -> u64 {
        match self {
            Self::Limit => 10_000,
            Self::Hashlimit => 1_000_000,
        }
    }

    /// Returns the microseconds from one packet to the next for `count` packets in `seconds`; `None` if `count` is 0.
    fn micros(self, count: u64, seconds: u64) -> Option<u64> {
        let ticks = (self.ticks_a_second() * seconds).checked_div(count)?;
        Some(ticks * (1_000_000 / self.ticks_a_second()))
    }

    /// Returns the time from one packet to the next after the rate went through `iptables-save`, which rounds: it writes the
    /// rate in the smallest unit whose remainder is not larger than the number of packets (`print_rate` of
    /// `libxt_limit.c`). A period of 9,999 ticks becomes one of 10,000.
    fn saved(self, count: u64, seconds: u64) -> u64 {
        let period = (self.ticks_a_second() * seconds) / count.max(1);
        let (mut count, mut seconds) = (count, seconds);
        for unit in [86_400, 3_600, 60, 1] {
            let ticks = self.ticks_a_second() * unit;
            match (ticks.checked_div(period), ticks.checked_rem(period)) {
                (Some(whole), Some(rest)) if whole >= rest.max(1) => {
                    (count, seconds) = (whole, unit);
                }
                _ => break,
            }
        }
        self.micros(count, seconds).unwrap_or_default()
    }
}

/// Parses a rate such as `6/min` into the number of packets and the seconds of the unit.
fn count_and_unit(rate: &str) -> Option<(u64, u64)> {
    let (count, unit) = rate.split_once('/')?;
    let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    Some((count.parse().ok()?, seconds))
}

/// The units of rates in `iptables-save`, with their seconds.
const UNITS: [(&str, u64); 4] = [("sec", 1), ("min", 60), ("hour", 3_600), ("day", 86_400)];

impl fmt::Display for CountScope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            destination_port,
        } = self;
        let parts = [
            source.map(|bits| format!("source (/{bits})")),
            destination.map(|bits| format!("destination (/{bits})")),
            destination_port.then(|| "destination port".to_owned()),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => Ok(()),
            false => write!(out, " a {}", parts.join(" and ")),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pace {
            Pace::Packets { every, burst } => {
                match self.in_a_unit(every) {
                    Some((count, unit)) => write!(out, "{count}/{unit}")?,
                    None => write!(out, "1 in {every} µs")?,
                }
                write!(out, "{}, burst {burst}", self.counted)?;
            }
            Pace::Bytes { cost } => {
                let steps = u64::from(u32::MAX).checked_div(cost).unwrap_or_default();
                let bytes = steps.saturating_sub(1) << 4;
                write!(out, "{bytes} bytes/sec{}", self.counted)?;
            }
            Pace::Window { hits, seconds } => write!(
                out,
                "fewer than {hits} packets in {seconds} s{}",
                self.counted
            )?,
        }
        if let Some(name) = &self.shared {
            write!(out, ", shared as {name}")?;
        }
        match self.forgotten_after {
            Some(expiry) => write!(
                out,
                " (forgotten after {expiry} ms, before the bucket is full again)"
            ),
            None => Ok(()),
        }
    }
}

impl RateLimit {
    /// Returns a rate of packets in the smallest unit that expresses it exactly.
    fn in_a_unit(&self, every: u64) -> Option<(u64, &'static str)> {
        let clock = Clock::of(self.counted, self.shared.is_some());
        UNITS.into_iter().find_map(|(unit, seconds)| {
            let count = (seconds * 1_000_000).checked_div(every)?;
            (clock.micros(count, seconds) == Some(every)).then_some((count, unit))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::iptables::{Ruleset, TableName};
    use crate::net::{ByteRate, Rate};
    use crate::policy::Over;

    fn every(limit: &RateLimit) -> Option<u64> {
        match limit.pace {
            Pace::Packets { every, .. } => Some(every),
            Pace::Bytes { .. } | Pace::Window { .. } => None,
        }
    }

    fn read(options: &str) -> RateLimit {
        let text = format!("*filter\n-A INPUT {options} -j DROP\nCOMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
        let rule = &chain.unwrap().rules[0];
        RateLimit::of_match(&rule.matches[0], Family::V4).unwrap().0
    }

    /// Each rate of a policy is the same number as its text in a rule.
    #[test]
    fn rates_are_the_same_on_both_sides() {
        let units = ["second", "minute", "hour", "day"];
        let texts = units
            .iter()
            .flat_map(|unit| (1..600).map(move |count| format!("{count}/{unit}")));
        let odd = ["86408/day", "7919/minute", "9999/second"].map(str::to_owned);
        let mut text = String::from("*filter\n");
        let rates: Vec<Rate> = texts
            .chain(odd)
            .filter_map(|text| Rate::parse(&text).ok())
            .collect();
        for rate in &rates {
            let (plain, by_source) = (rate.of_limit(), rate.of_hashlimit());
            let _ = writeln!(text, "-A INPUT -m limit --limit {plain} -j DROP");
            let _ = writeln!(
                text,
                "-A INPUT -m hashlimit --hashlimit-upto {by_source} --hashlimit-burst 1 --hashlimit-mode srcip \
                 --hashlimit-name x -j DROP"
            );
        }
        let ruleset = Ruleset::from_text(&(text + "COMMIT\n"), Family::V4).unwrap();
        let table = ruleset.table(TableName::Filter).unwrap();
        let rules = &table.chain("INPUT").unwrap().rules;
        let read = |rule: usize| {
            RateLimit::of_match(&rules[rule].matches[0], Family::V4)
                .unwrap()
                .0
        };
        for (at, rate) in rates.iter().enumerate() {
            let plain = RateLimit::of_policy(*rate, 5, CountScope::TOGETHER);
            assert_eq!(read(2 * at), plain, "{rate:?}");
            let by_source = RateLimit::of_policy(*rate, 1, CountScope::by_source(32));
            assert_eq!(read(2 * at + 1), by_source, "{rate:?}");
        }
    }

    /// The text of a rule is converted with the precision of the kernel, without the code that generates it.
    #[test]
    fn rates_are_numbers() {
        assert_eq!(every(&read("-m limit --limit 6/min")), Some(10_000_000));
        assert_eq!(every(&read("-m limit --limit 7/min")), Some(8_571_400));
        let minute = Rate::parse("7/minute").unwrap();
        let by_source = RateLimit::of_policy(minute, 9, CountScope::by_source(24));
        assert_eq!(every(&by_source), Some(8_571_428));
        for (rate, shown) in [
            ("7/minute", "7/min a source (/24), burst 9"),
            ("60/minute", "1/sec a source (/24), burst 9"),
            ("100/hour", "100/hour a source (/24), burst 9"),
        ] {
            let rated =
                RateLimit::of_policy(Rate::parse(rate).unwrap(), 9, CountScope::by_source(24));
            assert_eq!(rated.to_string(), shown);
        }
    }

    /// A bucket that is forgotten before it is full again is reported.
    #[test]
    fn early_expiry_is_seen() {
        let hashlimit = |options: &str| {
            read(&format!(
                "-m hashlimit --hashlimit-mode srcip --hashlimit-name x {options}"
            ))
            .forgotten_after
        };
        for (options, early) in [
            ("--hashlimit-upto 1/sec --hashlimit-burst 1", None),
            ("--hashlimit-upto 1/sec --hashlimit-burst 30", Some(1_000)),
            (
                "--hashlimit-upto 1/sec --hashlimit-burst 30 --hashlimit-htable-expire 29999",
                Some(29_999),
            ),
            (
                "--hashlimit-upto 1/sec --hashlimit-burst 30 --hashlimit-htable-expire 30000",
                None,
            ),
            (
                "--hashlimit-upto 1/sec --hashlimit-burst 30 --hashlimit-htable-expire 90000",
                None,
            ),
            ("--hashlimit-upto 6/min --hashlimit-burst 6", None),
            ("--hashlimit-upto 6/min --hashlimit-burst 7", Some(60_000)),
        ] {
            assert_eq!(hashlimit(options), early, "{options}");
        }
    }

    /// Each rate of bytes is the same number as its text in a rule, and the text is the one that comes back.
    #[test]
    fn bytes_are_the_same_on_both_sides() {
        let counts = (1..40).chain([100, 128, 500, 512, 999, 1000, 1023, 1024]);
        let texts = counts.flat_map(|count| {
            let units = [("B", 16), ("KiB", 1), ("MiB", 1)];
            units.map(|(unit, factor)| format!("{}{unit}/second", count * factor))
        });
        for text in texts {
            let rate = ByteRate::parse(&text).unwrap().unwrap();
            let shown = rate.of_hashlimit();
            let rule = format!(
                "-m hashlimit --hashlimit-upto {shown} --hashlimit-mode dstip,dstport --hashlimit-name x"
            );
            let limit = resolve::Limit {
                shared: None,
                rate: LimitRate::Bytes(rate),
                per: LimitPer {
                    source: None,
                    destination: Some(HostPrefix::Host),
                    destination_port: true,
                },
                over: Over::Drop,
            };
            assert_eq!(
                read(&rule),
                RateLimit::of_limit(&limit, Family::V4),
                "{text}"
            );
            let ruleset = format!("*filter\n-A INPUT {rule} -j DROP\nCOMMIT\n");
            let ruleset = Ruleset::from_text(&ruleset, Family::V4).unwrap();
            let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
            let printed = chain.unwrap().rules[0].to_text(Family::V4);
            assert!(
                printed.contains(&format!("--hashlimit-upto {shown} ")),
                "{text}: {printed}"
            );
        }
    }

    /// What no policy writes is not taken for what one does.
    #[test]
    fn other_modes_are_not_read() {
        for options in [
            "--hashlimit-upto 1/sec --hashlimit-burst 5",
            "--hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-mode srcip,srcport",
            "--hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-mode dstip --hashlimit-srcmask 24",
            "--hashlimit-upto 1mb/s --hashlimit-burst 2mb --hashlimit-mode srcip",
        ] {
            let text = format!(
                "*filter\n-A INPUT -m hashlimit {options} --hashlimit-name x -j DROP\nCOMMIT\n"
            );
            let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
            let chain = ruleset.table(TableName::Filter).unwrap().chain("INPUT");
            let rule = &chain.unwrap().rules[0];
            assert_eq!(
                RateLimit::of_match(&rule.matches[0], Family::V4),
                None,
                "{options}"
            );
        }
        let early = read(
            "-m hashlimit --hashlimit-upto 1mb/s --hashlimit-mode srcip --hashlimit-name x --hashlimit-htable-expire 900",
        );
        assert_eq!(early.forgotten_after, Some(900));
        assert_eq!(
            early.to_string(),
            "1048576 bytes/sec a source (/32) (forgotten after 900 ms, before the bucket is full again)"
        );
    }
}

//! Rate limits as numbers, computed separately from the policy and from the text of a rule.

use std::fmt;

use crate::iptables::{Match, ModuleOption};
use crate::net::{Family, Rate};
use crate::policy::Per;
use crate::resolve;

/// A rate limit in numbers. The policy and the text of a rule are converted separately, so that a wrong conversion in the
/// generator is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The time from one packet to the next in microseconds, with the precision of the kernel.
    pub every: u64,
    /// The number of packets that may come at once.
    pub burst: u32,
    /// The packets that share a bucket.
    pub counted: CountScope,
    /// The time in milliseconds after which the kernel forgets the bucket of a silent source, if that is before the bucket is
    /// full again: a source that waits that long gets more than its rate. `None` for every limit of a policy.
    pub forgotten_after: Option<u64>,
}

/// The packets that share a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CountScope {
    /// All packets of the rule.
    Together,
    /// Packets whose sources share this number of leading bits.
    BySource(u8),
}

impl CountScope {
    /// Converts `per` for a family. A source is one address in IPv4 and a /64 in IPv6, because an IPv6 host may use any
    /// address of its /64.
    pub(in crate::verify) fn of(per: Per, family: Family) -> Self {
        match (per, family) {
            (Per::Rule, _) => Self::Together,
            (Per::Source, Family::V4) => Self::BySource(32),
            (Per::Source, Family::V6) => Self::BySource(64),
        }
    }
}

impl RateLimit {
    /// Returns the limit of a rule of the policy. Its buckets must not be forgotten before they are full.
    pub(in crate::verify) fn of_limit(limit: &resolve::Limit, family: Family) -> Self {
        let counted = CountScope::of(limit.per, family);
        Self::of_policy(limit.rate, limit.burst, counted)
    }

    /// Returns the limit for a rate and a burst of the policy.
    pub(in crate::verify) fn of_policy(rate: Rate, burst: u32, counted: CountScope) -> Self {
        let (count, seconds) = rate.parts();
        Self {
            every: Clock::of(counted).saved(count.into(), seconds.into()),
            burst,
            counted,
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
                    every: Clock::Limit.micros(count, unit)?,
                    // The default of `xt_limit.h`, which iptables-save does not print.
                    burst: match module.setting("limit-burst") {
                        Some(_) => number("limit-burst")?,
                        None => 5,
                    },
                    counted: CountScope::Together,
                    forgotten_after: None,
                };
                Some((rated, false))
            }
            "hashlimit" if &*module.setting("hashlimit-mode")?.value == "srcip" => {
                let beyond = module.setting("hashlimit-above");
                let rate = beyond.or(module.setting("hashlimit-upto"))?;
                let (count, unit) = count_and_unit(&rate.value)?;
                let every = Clock::Hashlimit.micros(count, unit)?;
                let burst = number("hashlimit-burst")?;
                let bits = match module.setting("hashlimit-srcmask") {
                    Some(mask) => mask.value.parse().ok()?,
                    None => family.bits(),
                };
                // libxt_hashlimit.c: without the option a bucket lives for one unit of the rate.
                let expiry = match module.setting("hashlimit-htable-expire") {
                    Some(expiry) => expiry.value.parse().ok()?,
                    None => unit * 1000,
                };
                let known = [
                    "above",
                    "upto",
                    "burst",
                    "mode",
                    "name",
                    "htable-expire",
                    "srcmask",
                ];
                let is_known = |setting: &ModuleOption| {
                    let name = setting.name.strip_prefix("hashlimit-");
                    name.is_some_and(|name| known.contains(&name))
                };
                let rated = Self {
                    every,
                    burst,
                    counted: CountScope::BySource(bits),
                    forgotten_after: Some(expiry)
                        .filter(|expiry| expiry * 1000 < u64::from(burst) * every),
                };
                let all_known = module.settings.iter().all(is_known);
                all_known.then_some((rated, beyond.is_some()))
            }
            _ => None,
        }
    }
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
    fn of(counted: CountScope) -> Self {
        match counted {
            CountScope::Together => Self::Limit,
            CountScope::BySource(_) => Self::Hashlimit,
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
        match self {
            Self::Together => Ok(()),
            Self::BySource(bits) => write!(out, " a source (/{bits})"),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.in_a_unit() {
            Some((count, unit)) => write!(out, "{count}/{unit}")?,
            None => write!(out, "1 in {} µs", self.every)?,
        }
        write!(out, "{}, burst {}", self.counted, self.burst)?;
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
    /// Returns the rate in the smallest unit that expresses it exactly.
    fn in_a_unit(&self) -> Option<(u64, &'static str)> {
        let clock = Clock::of(self.counted);
        UNITS.into_iter().find_map(|(unit, seconds)| {
            let count = (seconds * 1_000_000).checked_div(self.every)?;
            (clock.micros(count, seconds) == Some(self.every)).then_some((count, unit))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::iptables::{Ruleset, TableName};
    use crate::net::Rate;

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
            let plain = RateLimit::of_policy(*rate, 5, CountScope::Together);
            assert_eq!(read(2 * at), plain, "{rate:?}");
            let by_source = RateLimit::of_policy(*rate, 1, CountScope::BySource(32));
            assert_eq!(read(2 * at + 1), by_source, "{rate:?}");
        }
    }

    /// The text of a rule is converted with the precision of the kernel, without the code that generates it.
    #[test]
    fn rates_are_numbers() {
        assert_eq!(read("-m limit --limit 6/min").every, 10_000_000);
        assert_eq!(read("-m limit --limit 7/min").every, 8_571_400);
        let minute = Rate::parse("7/minute").unwrap();
        let by_source = RateLimit::of_policy(minute, 9, CountScope::BySource(24));
        assert_eq!(by_source.every, 8_571_428);
        for (rate, shown) in [
            ("7/minute", "7/min a source (/24), burst 9"),
            ("60/minute", "1/sec a source (/24), burst 9"),
            ("100/hour", "100/hour a source (/24), burst 9"),
        ] {
            let rated =
                RateLimit::of_policy(Rate::parse(rate).unwrap(), 9, CountScope::BySource(24));
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
}

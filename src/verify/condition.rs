//! What a packet does not tell: the same question in the policy's words and in those of a rule.
//!
//! Both sides are translated into [`Condition`]s, each an opaque condition of the analysis, so that a set or a rate is the
//! same whatever the rule calls it.

use std::fmt;

use crate::analysis::{GaveUp, Set, Space};
use crate::iptables::{Match, Module, SetMatch, Setting};
use crate::net::{Date, Family, TimeOfDay, Weekday};
use crate::policy::Per;
use crate::resolve;

/// How the analysis ends the name of a question that is asked again about the destination which a translation gave.
const AFTER: &str = ", after translation";

/// A question that the packet alone does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// A rate is not used up; each bucket is one of its own.
    Within(Bucket, Rated),
    /// There are no more connections.
    Connections(Bucket, u32, Counted),
    /// A process of this user sends it.
    User(u32),
    /// A process of this group sends it.
    Group(u32),
    /// It is time.
    Time {
        /// `Mon,Fri`; `None` is every day.
        days: Option<String>,
        /// From when until when, `08:00`; across midnight the day is the one on which it begins.
        hours: Option<(String, String)>,
        /// In the kernel's timezone.
        local: bool,
    },
    /// The day (`2027-03-31`) is not over.
    NotAfter {
        /// The last day.
        day: String,
        /// In the kernel's timezone; else UTC, as the policy has it.
        local: bool,
    },
    /// An ipset has the source, or else the destination.
    InSet {
        /// The set.
        name: String,
        /// The source is asked for.
        source: bool,
    },
    /// It came in a tunnel of IPsec.
    FromIpsec,
    /// The routing table says that the destination is an address of this host.
    ToThisHost,
    /// It is one of so many connections that go here.
    Turn(Bucket, u32),
}

/// What counts on its own: the how-manieth of its kind in a base chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    /// The base chain.
    pub chain: String,
    /// From 0, in the order of the rules.
    pub place: usize,
}

/// So many in a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rated {
    /// As `iptables-save` prints it: `10/min`.
    pub rate: String,
    /// So many at once.
    pub burst: u32,
    /// What is counted together.
    pub counted: Counted,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Everything.
    Together,
    /// What shares so many leading bits of the source.
    BySource(u8),
}

impl Counted {
    /// `per` in a family: a host is an address of IPv4, or a /64.
    pub(super) fn of(per: Per, family: Family) -> Self {
        match (per, family) {
            (Per::Rule, _) => Self::Together,
            (Per::Source, Family::V4) => Self::BySource(32),
            (Per::Source, Family::V6) => Self::BySource(64),
        }
    }
}

impl Rated {
    /// A rule's `limit`.
    pub(super) fn of_limit(limit: &resolve::Limit, family: Family) -> Self {
        Self {
            rate: match limit.per {
                Per::Rule => limit.rate.of_limit(),
                Per::Source => limit.rate.of_hashlimit(),
            },
            burst: limit.burst,
            counted: Counted::of(limit.per, family),
        }
    }

    /// A `limit` or `hashlimit`, and whether it holds beyond the rate instead of within.
    pub(super) fn of_match(condition: &Match, family: Family) -> Option<(Self, bool)> {
        let Match::Other(module) = condition else {
            return None;
        };
        let number = |name: &str| module.setting(name)?.value.parse().ok();
        match module.name {
            "limit" => Some((
                Self {
                    rate: module.setting("limit")?.value.to_string(),
                    // xt_limit.h: what the tool does not print.
                    burst: match module.setting("limit-burst") {
                        Some(_) => number("limit-burst")?,
                        None => 5,
                    },
                    counted: Counted::Together,
                },
                false,
            )),
            "hashlimit" if &*module.setting("hashlimit-mode")?.value == "srcip" => {
                let beyond = module.setting("hashlimit-above");
                let rate = beyond.or(module.setting("hashlimit-upto"))?;
                let bits = match module.setting("hashlimit-srcmask") {
                    Some(mask) => mask.value.parse().ok()?,
                    None => family.bits(),
                };
                let known = ["above", "upto", "burst", "mode", "name", "srcmask"];
                let is_known = |setting: &Setting| {
                    let name = setting.name.strip_prefix("hashlimit-");
                    name.is_some_and(|name| known.contains(&name))
                };
                let rated = Self {
                    rate: rate.value.to_string(),
                    burst: number("hashlimit-burst")?,
                    counted: Counted::BySource(bits),
                };
                let all_known = module.settings.iter().all(is_known);
                all_known.then_some((rated, beyond.is_some()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    /// In words; different conditions differ.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(bucket, rated) => write!(out, "within {rated}, {bucket}"),
            Self::Connections(bucket, most, counted) => {
                write!(out, "at most {most} connections{counted}, {bucket}")
            }
            Self::User(id) => write!(out, "sent by user {id}"),
            Self::Group(id) => write!(out, "sent by group {id}"),
            Self::Time { days, hours, local } => {
                out.write_str(if *local { "local time" } else { "time" })?;
                if let Some(days) = days {
                    write!(out, " {days}")?;
                }
                if let Some((from, until)) = hours {
                    write!(out, " {from} to {until}")?;
                }
                Ok(())
            }
            Self::NotAfter { day, local: false } => write!(out, "not after {day} UTC"),
            Self::NotAfter { day, local: true } => write!(out, "not after {day} local time"),
            Self::InSet { name, source } => {
                write!(
                    out,
                    "{} in set {name}",
                    if *source { "source" } else { "destination" }
                )
            }
            Self::FromIpsec => out.write_str("came by IPsec"),
            Self::ToThisHost => out.write_str("goes to an address of this host"),
            Self::Turn(bucket, every) => write!(out, "one in {every}, {bucket}"),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "number {} of {}", self.place + 1, self.chain)
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Together => Ok(()),
            Self::BySource(bits) => write!(out, " a source (/{bits})"),
        }
    }
}

impl fmt::Display for Rated {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}, burst {}", self.rate, self.counted, self.burst)
    }
}

/// Conditions of a match, and whether each is negated; `None` where the match says something else.
pub(super) type Translated = Option<Vec<(Condition, bool)>>;

impl Condition {
    /// What this is called in the analysis.
    pub fn key(&self, family: Family) -> String {
        self.as_match(false).to_text(family)
    }

    /// The packets for which it holds.
    pub fn set(&self, space: &Space) -> Result<Set, GaveUp> {
        space.opaque(&self.key(space.family()))
    }

    /// A match that the analysis takes for this condition: a set whose members nobody knows.
    pub fn as_match(&self, negated: bool) -> Match {
        Match::Set(Box::new(SetMatch {
            negated,
            name: self.to_string().into(),
            // What is asked about the destination is another question when that is another one.
            from_source: vec![!self.asks_destination()],
            settings: Vec::new(),
        }))
    }

    fn asks_destination(&self) -> bool {
        matches!(self, Self::ToThisHost | Self::InSet { source: false, .. })
    }

    /// The condition's words, from what the analysis calls it.
    pub fn words(key: &str) -> String {
        if let Some(key) = key.strip_suffix(AFTER) {
            return Self::words(key) + AFTER;
        }
        let name = key.strip_prefix("-m set --match-set ").and_then(|rest| {
            rest.strip_suffix(" src")
                .or_else(|| rest.strip_suffix(" dst"))
        });
        name.unwrap_or(key).trim_matches('"').to_owned()
    }

    /// Of the end of a day, in UTC.
    pub fn not_after(day: Date) -> Self {
        let (day, local) = (day.to_string(), false);
        Self::NotAfter { day, local }
    }

    /// What holds for most packets.
    pub fn usual(&self) -> bool {
        match self {
            Self::Within(..)
            | Self::Connections(..)
            | Self::Time { .. }
            | Self::NotAfter { .. }
            | Self::ToThisHost
            | Self::Turn(..) => true,
            Self::User(_) | Self::Group(_) | Self::InSet { .. } | Self::FromIpsec => false,
        }
    }

    /// A schedule of the policy; `None` where it is every hour of every day.
    pub fn of_schedule(
        days: Option<&[Weekday]>,
        hours: Option<(TimeOfDay, TimeOfDay)>,
        local: bool,
    ) -> Option<Self> {
        let days = days.filter(|days| days.len() < 7);
        let words = |days: &[Weekday]| days.iter().map(ToString::to_string).collect::<Vec<_>>();
        let always = days.is_none() && hours.is_none();
        (!always).then(|| Self::Time {
            days: days.map(|days| words(days).join(",")),
            hours: hours.map(|(from, until)| (from.to_string(), until.to_string())),
            local,
        })
    }

    /// `! -m set`, `-m owner`, `-m time`, `-m policy`: what needs no memory.
    pub fn of_match(condition: &Match) -> Translated {
        match condition {
            Match::Set(set) if set.settings.is_empty() => match set.from_source[..] {
                [source] => {
                    let name = set.name.to_string();
                    Some(vec![(Self::InSet { name, source }, set.negated)])
                }
                _ => None,
            },
            Match::AddressType(types) => {
                let local = types.destination.as_ref()?;
                let mut names = local.value.names();
                let is_local = names.next() == Some("LOCAL") && names.next().is_none();
                let alone = types.source.is_none() && types.limit.is_none();
                (is_local && alone).then(|| vec![(Self::ToThisHost, local.negated)])
            }
            Match::Other(module) => match module.name {
                "owner" => owner(module),
                "time" => time(module),
                "policy" => {
                    let settings = module.settings.iter();
                    let words = settings.map(|one| (one.name, &*one.value, one.negated));
                    let ipsec = [("dir", "in", false), ("pol", "ipsec", false)];
                    words.eq(ipsec).then(|| vec![(Self::FromIpsec, false)])
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// `-m statistic`: one in so many, the first of them.
    pub fn turn(condition: &Match) -> Option<u32> {
        let Match::Other(module) = condition else {
            return None;
        };
        let known = ["mode", "every", "packet"];
        let text = |name: &str| module.setting(name).map(|setting| &*setting.value);
        let plain = module
            .settings
            .iter()
            .all(|setting| known.contains(&setting.name) && !setting.negated);
        let first_of_some = text("mode") == Some("nth") && text("packet") == Some("0");
        let is_turn = module.name == "statistic" && plain && first_of_some;
        text("every")?.parse().ok().filter(|_| is_turn)
    }

    /// `-m connlimit`: at most so many, what is counted together, and whether it holds beyond.
    pub fn connections(condition: &Match) -> Option<(u32, Counted, bool)> {
        let Match::Other(module) = condition else {
            return None;
        };
        if module.name != "connlimit" || module.setting("connlimit-saddr").is_none() {
            return None;
        }
        let beyond = module.setting("connlimit-above");
        let most = beyond.or(module.setting("connlimit-upto"))?;
        let bits = module.setting("connlimit-mask")?.value.parse().ok()?;
        let counted = match bits {
            0 => Counted::Together,
            bits => Counted::BySource(bits),
        };
        Some((most.value.parse().ok()?, counted, beyond.is_some()))
    }
}

fn owner(module: &Module) -> Translated {
    let one = |setting: &Setting| {
        let id = setting.value.parse().ok()?;
        let condition = match setting.name {
            "uid-owner" => Condition::User(id),
            "gid-owner" => Condition::Group(id),
            _ => return None,
        };
        Some((condition, setting.negated))
    };
    module.settings.iter().map(one).collect()
}

/// The latest moment that the kernel can count to, which is always printed.
const LAST_MOMENT: &str = "2038-01-19T03:14:07";

fn time(module: &Module) -> Translated {
    let text = |name: &str| module.setting(name).map(|setting| &*setting.value);
    let known = [
        "timestart",
        "timestop",
        "weekdays",
        "datestop",
        "kerneltz",
        "contiguous",
    ];
    if !module
        .settings
        .iter()
        .all(|setting| known.contains(&setting.name))
    {
        return None;
    }
    let local = text("kerneltz").is_some();
    let mut all = Vec::new();
    let minutes = |time: &str| time.strip_suffix(":00").map(str::to_owned);
    let hours = match (text("timestart"), text("timestop")) {
        (None, None) => None,
        (start, stop) => Some((minutes(start?)?, minutes(stop?)?)),
    };
    let days = text("weekdays").map(str::to_owned);
    let crosses = hours.as_ref().is_some_and(|(from, until)| until < from);
    if crosses && days.is_some() && text("contiguous").is_none() {
        // Both ends of the day would belong to the same day.
        return None;
    }
    if days.is_some() || hours.is_some() {
        all.push((Condition::Time { days, hours, local }, false));
    }
    match text("datestop")? {
        LAST_MOMENT => {}
        // The kernel counts the date in the same timezone as the hours (`time_mt` of `xt_time.c`).
        stop => {
            let day = stop.strip_suffix("T23:59:59")?.to_owned();
            all.push((Condition::NotAfter { day, local }, false));
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::iptables::{Ruleset, TableName};
    use crate::net::Rate;

    /// What the policy writes is what is read back, whatever the rate.
    #[test]
    fn rates_are_the_same_on_both_sides() {
        let units = ["second", "minute", "hour", "day"];
        let texts = units
            .iter()
            .flat_map(|unit| (1..600).map(move |count| format!("{count}/{unit}")));
        let rates: Vec<Rate> = texts.filter_map(|text| Rate::parse(&text).ok()).collect();
        let mut text = String::from("*filter\n");
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
            Rated::of_match(&rules[rule].matches[0], Family::V4)
                .unwrap()
                .0
        };
        for (at, rate) in rates.iter().enumerate() {
            assert_eq!(read(2 * at).rate, rate.of_limit());
            assert_eq!(read(2 * at + 1).rate, rate.of_hashlimit());
        }
    }
}

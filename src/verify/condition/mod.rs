//! What a packet does not tell: the same question in the policy's words and in those of a rule.
//!
//! Both sides are translated into [`Condition`]s, each an opaque condition of the analysis, so that a set or a rate is the
//! same whatever the rule calls it.

mod rates;
mod read;

pub use rates::{CountScope, RateLimit};
pub(super) use read::Translated;

use std::fmt;

use crate::analysis::{GaveUp, Set, Space};
use crate::iptables::{Match, SetMatch};
use crate::net::{Date, Family, TimeOfDay, Weekday};

/// How the analysis ends the name of a question that is asked again about the destination which a translation gave.
const AFTER: &str = ", after translation";

/// A question that the packet alone does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// A rate is not used up; each bucket is one of its own.
    Within(Bucket, RateLimit),
    /// There are no more connections.
    Connections(Bucket, u32, CountScope),
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
    /// It has an authentication header, whatever its protocol is; asked of IPv6 only.
    AuthHeader,
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
            Self::AuthHeader => out.write_str("has an authentication header"),
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

impl Condition {
    /// Returns its name in the analysis.
    pub fn key(&self, family: Family) -> String {
        self.as_match(false).to_text(family)
    }

    /// Returns the packets for which it holds.
    pub fn set(&self, space: &Space) -> Result<Set, GaveUp> {
        space.opaque(&self.key(space.family()))
    }

    /// Returns a match that the analysis takes for this condition: a set whose members nobody knows.
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

    /// Returns the condition's words, from what the analysis calls it.
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

    /// Returns whether it holds for most packets.
    pub fn usual(&self) -> bool {
        match self {
            Self::Within(..)
            | Self::Connections(..)
            | Self::Time { .. }
            | Self::NotAfter { .. }
            | Self::ToThisHost
            | Self::Turn(..) => true,
            Self::User(_) | Self::Group(_) | Self::InSet { .. } => false,
            Self::FromIpsec | Self::AuthHeader => false,
        }
    }

    /// Returns a schedule of the policy; `None` where it is every hour of every day.
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
}

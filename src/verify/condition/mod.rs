//! Conditions that a packet alone does not answer (rates, times, sets, users), in a form that policy and rules share.
//!
//! Each side is translated into [`Condition`]s on its own. A condition is one opaque variable of the analysis, so the same
//! set or rate compares as equal whatever options the rule writes it with.

mod rates;
mod read;
mod windows;

pub use rates::{CountScope, Pace, RateLimit};
pub(super) use read::Translated;
pub(super) use windows::{own_list, shared_table};

use std::fmt;

use crate::analysis::{GaveUp, Set, Space};
use crate::iptables::{Match, SetMatch, TableName};
use crate::net::{Date, Family, SetEnds, TimeOfDay, Weekday};

/// Suffix of the analysis' key for a condition about the destination after translation.
const AFTER: &str = ", after translation";

/// A condition that the packet alone does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// The packet is within a rate limit; each bucket counts alone.
    Within(Bucket, RateLimit),
    /// There are at most this many connections.
    Connections(Bucket, u32, CountScope),
    /// A process of this user (UID) sends the packet.
    User(u32),
    /// A process of this group (GID) sends the packet.
    Group(u32),
    /// The packet arrives at a certain time.
    Time {
        /// The weekdays, such as `Mon,Fri`; `None` for every day.
        days: Option<String>,
        /// Start and end, such as `08:00`. A period across midnight belongs to the day on which it begins.
        hours: Option<(String, String)>,
        /// `true` for the timezone of the kernel, `false` for UTC.
        local: bool,
    },
    /// The last day has not ended.
    NotAfter {
        /// The last day, such as `2027-03-31`.
        day: String,
        /// `true` for the timezone of the kernel, `false` for UTC, which policies use.
        local: bool,
    },
    /// The source, the destination, or both are in an ipset.
    InSet {
        /// The name of the set in the kernel.
        name: String,
        /// The ends of the packet that its members are compared with.
        ends: SetEnds,
    },
    /// The packet came out of IPsec.
    FromIpsec,
    /// The packet will go into IPsec, by the route that the kernel chose.
    IntoIpsec,
    /// The packet has an authentication header, whatever its protocol; for IPv6 only, where the header is an extension.
    AuthHeader,
    /// The destination is an address of this host, by the routing table.
    ToThisHost,
    /// It is the turn of this backend: one in so many connections (`-m statistic --mode nth`).
    Turn(Bucket, u32),
    /// A match of iptables that counts each time that it is asked, as iptables prints it; each use counts alone.
    Counting(Bucket, String),
}

/// The identity of a counter: its number among the counters of its kind in a base chain. Policy and rules count in the same
/// order, so equal numbers mean the same counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    /// The base chain.
    pub chain: String,
    /// Its number in the order of the rules, from 0.
    pub place: usize,
}

impl fmt::Display for Condition {
    /// Writes the condition in words. The text also identifies the condition in the analysis, so different conditions must
    /// have different texts.
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
            Self::InSet { name, ends } => {
                let ends = ends.from_source().iter();
                let ends = ends.map(|source| if *source { "source" } else { "destination" });
                write!(out, "{} in set {name}", ends.collect::<Vec<_>>().join(", "))
            }
            Self::FromIpsec => out.write_str("came by IPsec"),
            Self::IntoIpsec => out.write_str("goes into IPsec"),
            Self::AuthHeader => out.write_str("has an authentication header"),
            Self::ToThisHost => out.write_str("goes to an address of this host"),
            Self::Turn(bucket, every) => write!(out, "one in {every}, {bucket}"),
            Self::Counting(bucket, text) => write!(out, "{text}, {bucket}"),
        }
    }
}

impl Bucket {
    /// Returns the counter with a number in a base chain. The chains of other tables than filter have counters of their own.
    pub fn of_table(table: TableName, base: &str, place: usize) -> Self {
        let chain = match table {
            TableName::Filter => base.to_owned(),
            _ => format!("{base} of {}", table.as_str()),
        };
        Self { chain, place }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "number {} of {}", self.place + 1, self.chain)
    }
}

impl Condition {
    /// Returns the key of the condition in the analysis.
    pub fn key(&self, family: Family) -> String {
        self.as_match(false).to_text(family)
    }

    /// Returns the packets for which it holds.
    pub fn set(&self, space: &Space) -> Result<Set, GaveUp> {
        space.opaque(&self.key(space.family()))
    }

    /// Returns a match that the analysis reads as this condition: a match of an ipset with the text as name. The members of
    /// such a set are unknown, so it becomes an opaque variable.
    pub fn as_match(&self, negated: bool) -> Match {
        Match::Set(Box::new(SetMatch {
            negated,
            name: self.to_string().into(),
            // The analysis has separate variables for the destination before and after translation, but one for the source.
            from_source: vec![!self.asks_destination()],
            settings: Vec::new(),
        }))
    }

    fn asks_destination(&self) -> bool {
        match self {
            // A translation of the destination changes the route.
            Self::ToThisHost | Self::IntoIpsec => true,
            Self::InSet { ends, .. } => ends.from_source().contains(&false),
            _ => false,
        }
    }

    /// Returns the words for a condition, from its key in the analysis.
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

    /// Returns the condition for a rule that expires at the end of a day, in UTC.
    pub fn not_after(day: Date) -> Self {
        let (day, local) = (day.to_string(), false);
        Self::NotAfter { day, local }
    }

    /// Returns `true` if the condition usually holds. Walks use this answer for conditions that do not matter to the witness.
    pub fn usual(&self) -> bool {
        match self {
            Self::Within(..)
            | Self::Connections(..)
            | Self::Time { .. }
            | Self::NotAfter { .. }
            | Self::ToThisHost
            | Self::Turn(..)
            | Self::Counting(..) => true,
            Self::User(_) | Self::Group(_) | Self::InSet { .. } => false,
            Self::FromIpsec | Self::IntoIpsec | Self::AuthHeader => false,
        }
    }

    /// Returns the condition for a schedule of the policy; `None` for every hour of every day.
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

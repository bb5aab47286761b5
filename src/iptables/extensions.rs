//! The choice of what happens to matches and targets that fwc does not know.

use super::{matches, targets};
use crate::net::Family;

/// Returns `true` if iptables 1.8.9 has a match of this name in a family.
pub fn has_match(name: &str, family: Family) -> bool {
    matches::find(name, family).is_some()
}

/// Returns `true` if iptables 1.8.9 has a target of this name in a family: a verdict, or one with options.
pub fn has_target(name: &str, family: Family) -> bool {
    ["ACCEPT", "DROP", "RETURN", "QUEUE"].contains(&name) || targets::find(name, family).is_some()
}

/// What to do with a match or target that iptables 1.8.9 does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions<'a> {
    /// Report an error, as `iptables-restore` does.
    KnownOnly,
    /// Keep it as it was written, with a warning: for rules that some kernel printed.
    KeepUnknown,
    /// Keep it as it was written, with a warning, unless it is a target that is probably the name of a chain that does not
    /// exist: that is an error.
    KeepPlausible,
    /// Keep these names, and report an error for others.
    Declared {
        /// Names after `-m`.
        matches: &'a [&'a str],
        /// Names after `-j`.
        targets: &'a [&'a str],
    },
}

impl Extensions<'_> {
    /// Returns `true` if a match that is not known is kept.
    pub(super) fn keeps_match(self, name: &str) -> bool {
        match self {
            Self::KnownOnly => false,
            Self::KeepUnknown | Self::KeepPlausible => !name.is_empty(),
            Self::Declared { matches, .. } => matches.contains(&name),
        }
    }
}

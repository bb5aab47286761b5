//! The keys by which opaque conditions are known.

use std::collections::BTreeMap;

use super::text::{BucketHolds, BucketKey};
use crate::iptables::SetMatch;
use crate::net::IntervalSet;

/// Returns the key of the opaque condition for a match with memory (`limit`, `recent`): the match as `iptables-save`
/// prints it, and what its rule was made from.
pub fn with_memory_key(condition: &str, origin: &str) -> String {
    format!("{condition} of {origin}")
}

/// What is needed to name the conditions of one rule.
pub(super) struct ConditionKeys<'a> {
    pub sets: &'a BTreeMap<String, IntervalSet>,
    pub origin: &'a str,
    /// `true` if rules see fragments other than the first.
    pub fragments: bool,
    pub bucket: Option<&'a BucketKey>,
}

impl ConditionKeys<'_> {
    /// Returns the members of a set, if they are known and the match has one dimension and no further options.
    pub fn members(&self, set: &SetMatch) -> Option<&IntervalSet> {
        let simple = set.from_source.len() == 1 && set.settings.is_empty();
        simple.then(|| self.sets.get(&*set.name)).flatten()
    }

    /// Returns when a condition with memory holds.
    pub fn holds(&self) -> BucketHolds {
        self.bucket.map_or(BucketHolds::True, |bucket| bucket.holds)
    }

    /// Returns the key of a condition with memory.
    pub fn with_memory(&self, condition: &str) -> String {
        match self.bucket {
            Some(bucket) => bucket.key.clone(),
            None => with_memory_key(condition, self.origin),
        }
    }
}

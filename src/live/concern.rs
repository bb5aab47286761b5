//! A concern: a fact about this host that changes what the rules do, with advice.

use crate::diag::ConcernName;

/// A fact that the user should know before relying on the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// Its name.
    pub name: ConcernName,
    /// The fact.
    pub what: String,
    /// The advice.
    pub advice: String,
}

impl std::fmt::Display for Concern {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}; {}", self.what, self.advice)
    }
}

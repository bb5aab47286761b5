//! A concern: a fact about this host that changes what the rules do, with advice.

/// A fact that the user should know before relying on the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// A short, stable name for programs.
    pub name: &'static str,
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

//! The chains that fwc makes in a table, and their names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::context::{ChainContext, GroupContext, LineContext};
use crate::resolve::PlannedRule;

/// The chains of a table that are fwc's own, by name.
#[derive(Default)]
pub struct OwnChains(BTreeMap<String, ChainContext>);

impl OwnChains {
    /// Returns a name for a chain of a rule or entry below a base chain that stays the same as long as the rule does: a hash
    /// of the rule's name, else of its lines. A name that changed would show in every diff.
    pub fn name_for(&self, base: &str, rule: &PlannedRule, lines: &[LineContext]) -> String {
        let lines = if rule.named { &[] } else { lines };
        self.name_of(base, rule, lines.iter())
    }

    /// Returns a name that depends on the lines even if the rule has a name of its own: it has several such chains.
    pub fn name_of<'l>(
        &self,
        base: &str,
        rule: &PlannedRule,
        lines: impl Iterator<Item = &'l LineContext>,
    ) -> String {
        let mut identity = rule.label.clone();
        for line in lines {
            let _ = write!(identity, "\n{}", line.identity());
        }
        // Two rules may have the same identity.
        let names = (0u32..).map(|twin| {
            let hash = short_hash(format!("{twin}/{identity}"));
            format!("FWC-{base}-{hash}")
        });
        let mut free = names.filter(|name| !self.0.contains_key(name));
        free.next().unwrap_or_default()
    }

    /// Adds a chain with the lines of a rule or entry.
    pub fn add(&mut self, name: &str, rule: &PlannedRule, lines: Vec<LineContext>) {
        self.add_groups(name, vec![GroupContext::of(rule, lines)]);
    }

    /// Adds a chain.
    pub fn add_groups(&mut self, name: &str, groups: Vec<GroupContext>) {
        let chain = ChainContext::own(name.to_owned(), groups);
        self.0.insert(name.to_owned(), chain);
    }

    /// Returns the chains, by name.
    pub fn into_chains(self) -> impl Iterator<Item = ChainContext> {
        self.0.into_values()
    }
}

/// Returns the first eight hex digits of a SHA-256. More would not leave room in a chain's name for its prefix and
/// suffix: 28 bytes at most (`XT_EXTENSION_MAXNAMELEN`, which counts the final zero).
pub fn short_hash(identity: String) -> String {
    let digest = Sha256::digest(identity);
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

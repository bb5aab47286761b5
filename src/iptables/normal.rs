//! What the tools treat as equal.
//!
//! Reading does most of it: values are values, options stand in the order of printing, defaults are filled in.
//! What is left are other names of one thing, counters, lines, and the order of chains.

use super::model::*;
use super::spec::setting;

impl Ruleset {
    /// The ruleset that all its equals become.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut tables: Vec<_> = self.tables.iter().map(Table::normalised).collect();
        tables.sort_by_key(|table| table.name);
        Self {
            family: self.family,
            tables,
        }
    }

    /// Whether the tools treat both as equal.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }
}

impl Table {
    /// The table with its chains in the order of printing, each normalised.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let base = self.name.base_chains();
        let rank = |chain: &Chain| {
            let position = base.iter().position(|name| *name == &*chain.name);
            (position.unwrap_or(base.len()), chain.name.clone())
        };
        let mut chains: Vec<_> = self.chains.iter().map(Chain::normalised).collect();
        chains.sort_by_cached_key(rank);
        Self {
            name: self.name,
            chains,
        }
    }
}

impl Chain {
    fn normalised(&self) -> Self {
        Self {
            name: self.name.clone(),
            policy: self.policy,
            counters: Counters::default(),
            rules: self.rules.iter().map(Rule::normalised).collect(),
        }
    }
}

impl Rule {
    /// The rule that all its equals become: no counters, no line, `-m state` as `-m conntrack`, `NOTRACK` as `CT`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let conditions = self.matches.iter().map(|condition| match condition {
            Match::State(states) => Match::Conntrack(Conntrack {
                states: Some(*states),
                settings: Vec::new(),
            }),
            other => other.clone(),
        });
        let target = match &self.target {
            Target::Other(module) if module.name == "NOTRACK" => Target::Other(Box::new(Module {
                name: "CT",
                settings: vec![setting("notrack", "")],
            })),
            other => other.clone(),
        };
        Self {
            matches: conditions.collect(),
            target,
            counters: None,
            line: 0,
        }
    }

    /// Whether the tools treat both as equal.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }
}

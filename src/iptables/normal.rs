//! Compares rulesets by what the tools treat as equal.
//!
//! Reading does most of it: values are compared as values, options are in the order of printing, defaults are filled in.
//! What is left is other names of one thing, counters, line numbers, and the order of chains and tables.

use super::model::*;
use super::spec::setting;

impl Ruleset {
    /// Returns the ruleset in the form that it shares with all equal ones: tables and chains in the order of printing,
    /// rules normalised.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut tables: Vec<_> = self.tables.iter().map(Table::normalised).collect();
        tables.sort_by_key(|table| table.name);
        Self {
            family: self.family,
            tables,
        }
    }

    /// Returns `true` if the tools treat both rulesets as equal.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }
}

impl Table {
    /// Returns the table with its chains in the order of printing, each normalised.
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
    /// Returns the rule in the form that it shares with all equal ones: no counters, no line number, `NOTRACK` as
    /// `CT --notrack`, and `-m state` as `-m conntrack`.
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

    /// Returns `true` if the tools treat both rules as equal.
    pub fn is_same(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }
}

//! Drift: what differs between the rules that fwc applied and the live ones.

use std::collections::BTreeSet;

use crate::iptables::{Alignment, Hunk, TableName};
use crate::live::owners::{self, Owner};
use crate::live::{LiveChain, LiveRule, LiveRuleset};
use crate::net::Family;

/// A chain that differs from the applied one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDrift {
    /// The family that it is in.
    pub family: Family,
    /// The table that it is in.
    pub table: TableName,
    /// Its name.
    pub chain: String,
    /// How it differs.
    pub what: Drift,
}

/// How a chain differs from the applied one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// It was removed.
    Gone {
        /// The number of its rules.
        rules: usize,
    },
    /// It was added.
    Extra {
        /// The number of its rules.
        rules: usize,
        /// The program that added it, if it is known.
        owner: Option<Owner>,
    },
    /// Its rules or its policy changed.
    Changed {
        /// The applied policy and the live one, if they differ.
        policy: Option<[String; 2]>,
        /// The rules that differ, in the order of the chain.
        rules: Vec<RuleDrift>,
    },
}

/// A rule that differs from the applied ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDrift {
    /// The rule without its `-A CHAIN`.
    pub spec: String,
    /// How it differs.
    pub what: RuleDriftKind,
    /// The program that added it, if it is known.
    pub owner: Option<Owner>,
}

/// How a rule differs from the applied ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleDriftKind {
    /// It was added.
    Added,
    /// It was removed.
    Missing,
    /// It was moved.
    Elsewhere,
}

impl RuleDriftKind {
    /// Returns its name in JSON output.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Missing => "missing",
            Self::Elsewhere => "moved",
        }
    }
}

/// Compares fwc's parts of the live rules with the applied ones. `all` are all live rules.
pub(super) fn drift(
    family: Family,
    applied: &LiveRuleset,
    live: &LiveRuleset,
    all: &LiveRuleset,
) -> Vec<ChainDrift> {
    let named = |table: &TableName| applied.chains(*table).or(live.chains(*table)).is_some();
    let tables = TableName::LOAD_ORDER.into_iter().filter(named);
    let mut found = Vec::new();
    for table in tables {
        let (before, now) = (applied.table(table), live.table(table));
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for name in names {
            let what = match (before.get(name), now.get(name)) {
                (Some(chain), None) => Some(Drift::Gone {
                    rules: chain.rules.len(),
                }),
                (None, Some(chain)) => Some(Drift::Extra {
                    rules: chain.rules.len(),
                    owner: owners::of_chain(name)
                        .or_else(|| chain.rules.iter().find_map(owners::of_rule)),
                }),
                (Some(before), Some(now)) => changed(before, now, all.chain(table, name)),
                (None, None) => None,
            };
            found.extend(what.map(|what| ChainDrift {
                family,
                table,
                chain: name.clone(),
                what,
            }));
        }
    }
    found
}

/// Compares a chain. `all` is the live chain with other programs' rules.
fn changed(before: &LiveChain, now: &LiveChain, all: Option<&LiveChain>) -> Option<Drift> {
    let word = |chain: &LiveChain| chain.policy.clone().unwrap_or_default();
    let policy = (before.policy != now.policy).then(|| [word(before), word(now)]);
    let rules = rules(before, now, all);
    let is_same = policy.is_none() && rules.is_empty();
    (!is_same).then_some(Drift::Changed { policy, rules })
}

/// Lists the rules that differ. `all` is the live chain with other programs' rules.
fn rules(before: &LiveChain, now: &LiveChain, all: Option<&LiveChain>) -> Vec<RuleDrift> {
    let (old, new) = (before.specs(), now.specs());
    let alignment = Alignment::new(&old, &new);
    let gone: BTreeSet<usize> = alignment.moved.values().copied().collect();
    // In shared mode a jump out of its place does not count as fwc's, so it is missing here, but live among the others.
    let is_elsewhere = |spec: &str| {
        let is_single = old.iter().filter(|other| **other == spec).count() == 1;
        is_single && all.is_some_and(|all| all.rules.iter().any(|other| other.spec == spec))
    };
    let mut found = Vec::new();
    for Hunk { old: from, new: to } in &alignment.hunks {
        let missing = from.clone().filter(|index| !gone.contains(index));
        found.extend(missing.map(|index| RuleDrift {
            spec: old[index].to_owned(),
            what: match is_elsewhere(old[index]) {
                true => RuleDriftKind::Elsewhere,
                false => RuleDriftKind::Missing,
            },
            owner: None,
        }));
        found.extend(to.clone().map(|index| {
            let is_moved = alignment.moved.contains_key(&index);
            RuleDrift {
                spec: new[index].to_owned(),
                what: match is_moved {
                    true => RuleDriftKind::Elsewhere,
                    false => RuleDriftKind::Added,
                },
                owner: match is_moved {
                    true => None,
                    false => owners::of_rule(&now.rules[index]),
                },
            }
        }));
    }
    found
}

/// Returns `true` if no rule of `applied` is in the same chain of `live`.
pub(super) fn has_no_rule_of(live: &LiveRuleset, applied: &LiveRuleset) -> bool {
    let has = |table, name: &str, rule: &LiveRule| {
        let chain = live.chain(table, name);
        chain.is_some_and(|chain| chain.rules.iter().any(|other| other.spec == rule.spec))
    };
    applied
        .all_chains()
        .all(|(table, name, chain)| !chain.rules.iter().any(|rule| has(table, name, rule)))
}

#[cfg(test)]
mod tests {
    use super::{Drift, drift};
    use crate::live::LiveRuleset;
    use crate::net::Family;

    /// `+` added, `-` missing, `>` moved.
    fn compared(before: &str, now: &str, all: &str) -> Vec<String> {
        let filter = |body: &str| LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap();
        let found = drift(Family::V4, &filter(before), &filter(now), &filter(all));
        let lines = found.into_iter().flat_map(|one| match one.what {
            Drift::Gone { rules } => vec![format!("-{}/{rules}", one.chain)],
            Drift::Extra { rules, owner } => vec![format!("+{}/{rules} {owner:?}", one.chain)],
            Drift::Changed { policy, rules } => {
                let policy = policy.map(|[before, now]| format!("{} {before} {now}", one.chain));
                let rule = |rule: super::RuleDrift| {
                    let sign = match rule.what {
                        super::RuleDriftKind::Added => '+',
                        super::RuleDriftKind::Missing => '-',
                        super::RuleDriftKind::Elsewhere => '>',
                    };
                    let owner = rule.owner.map(|owner| format!(" ({owner})"));
                    let (chain, spec) = (&one.chain, &rule.spec);
                    format!("{sign}{chain} {spec}{}", owner.unwrap_or_default())
                };
                policy
                    .into_iter()
                    .chain(rules.into_iter().map(rule))
                    .collect()
            }
        });
        lines.collect()
    }

    const OURS: &str = ":INPUT DROP [0:0]\n:mine - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j mine\n-A mine -j LOG\n-A mine -j LOG\n-A mine -j DROP\n";

    fn live(now: &str) -> Vec<String> {
        compared(OURS, now, now)
    }

    #[test]
    fn same_rules_are_no_drift() {
        assert!(live(OURS).is_empty());
        assert!(compared("", "", OURS).is_empty());
    }

    #[test]
    fn rules_added_and_missing_and_moved() {
        let more =
            format!("{OURS}-A INPUT -m set --match-set f2b-sshd src -j DROP\n-A INPUT -j LOG\n");
        assert_eq!(
            live(&more),
            [
                "+INPUT -m set --match-set f2b-sshd src -j DROP (fail2ban)",
                "+INPUT -j LOG"
            ]
        );
        let less = OURS.replacen("-A mine -j LOG\n", "", 1);
        assert_eq!(live(&less), ["-mine -j LOG"]);
        let moved = OURS.replace("-A INPUT -i lo -j ACCEPT\n", "") + "-A INPUT -i lo -j ACCEPT\n";
        assert_eq!(live(&moved).len(), 1);
        assert!(live(&moved)[0].starts_with('>'));
    }

    #[test]
    fn policies_and_chains() {
        let open = OURS.replace("INPUT DROP", "INPUT ACCEPT");
        assert_eq!(live(&open), ["INPUT DROP ACCEPT"]);
        let docker = format!(":DOCKER - [0:0]\n{OURS}-A DOCKER -j RETURN\n");
        assert_eq!(live(&docker), ["+DOCKER/1 Some(Owner(\"Docker\"))"]);
        assert_eq!(
            live(""),
            [
                "INPUT DROP ACCEPT",
                "-INPUT -i lo -j ACCEPT",
                "-INPUT -j mine",
                "-mine/3"
            ]
        );
    }

    #[test]
    fn jump_out_of_its_place_is_moved() {
        let now = OURS.replace("-A INPUT -j mine\n", "");
        let all = format!("{now}-A INPUT -j LOG\n-A INPUT -j mine\n");
        assert_eq!(compared(OURS, &now, &all), [">INPUT -j mine"]);
    }
}

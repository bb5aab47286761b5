//! Compares two rulesets chain by chain: rules added, removed, moved, and changed in place.
//!
//! Rules are compared as the tools compare them ([`Rule::normalised`]): counters, lines and spelling do not matter.

use std::collections::{HashMap, HashSet};

use crate::iptables::{
    Alignment, Chain, ChainPolicy, Match, Rule, Ruleset, Table, TableName, Target,
};
use crate::net::Family;

/// The differences between two rulesets of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesDiff {
    /// The family of both.
    pub family: Family,
    /// The chains of fwc with a difference, in the order of printing.
    pub chains: Vec<ChainDiff>,
    /// The chains of other programs with a difference.
    pub foreign: Vec<ChainDiff>,
}

/// The differences of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDiff {
    /// Its table.
    pub table: TableName,
    /// Its name.
    pub chain: Box<str>,
    /// Which of the rulesets has it.
    pub presence: Presence,
    /// The policies before and after, if they differ.
    pub policy: Option<(Option<ChainPolicy>, Option<ChainPolicy>)>,
    /// The changed rules in the order of the new chain, removed rules at their old place.
    pub rules: Vec<RuleChange>,
}

/// Which of two rulesets has a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Both rulesets have it. A base chain that a ruleset lacks counts as empty, with the policy `ACCEPT`.
    Both,
    /// Only the new ruleset has it.
    Added,
    /// Only the old ruleset has it.
    Removed,
}

/// One difference between two chains. Positions count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// Only the new chain has the rule.
    Added {
        /// Its position in the new chain.
        to: usize,
        /// The rule.
        rule: Rule,
    },
    /// Only the old chain has the rule.
    Removed {
        /// Its position in the old chain.
        from: usize,
        /// The rule.
        rule: Rule,
    },
    /// The rule is before or after other rules than it was.
    Moved {
        /// Its position in the old chain.
        from: usize,
        /// Its position in the new chain.
        to: usize,
        /// The rule as it is in the new chain.
        rule: Rule,
    },
    /// A rule replaced another one, with which it shares at least half of its parts.
    Changed {
        /// The old position.
        from: usize,
        /// The new position.
        to: usize,
        /// The old rule.
        before: Rule,
        /// The new rule.
        after: Rule,
        /// The parts that differ.
        parts: Vec<PartChange>,
    },
}

/// A condition or a target that differs, as it is printed: `-s 10.0.0.0/8`, `-m tcp --dport 22`, `-j ACCEPT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartChange {
    /// The old part; `None` if it was added.
    pub before: Option<String>,
    /// The new part; `None` if it was removed.
    pub after: Option<String>,
}

/// The largest number of pairs of rules between two unchanged rules that are compared with each other. Beyond it,
/// comparing all pairs would take too long, and rules are only compared by position.
const MOST_PAIRS: usize = 100_000;

/// Compares two rulesets. `is_foreign` returns `true` for chains of other programs (Docker, fail2ban ...).
pub fn rules(
    from: &Ruleset,
    to: &Ruleset,
    is_foreign: &dyn Fn(TableName, &str) -> bool,
) -> RulesDiff {
    let mut diff = RulesDiff {
        family: to.family,
        chains: Vec::new(),
        foreign: Vec::new(),
    };
    for name in TableName::ALL {
        for (before, after) in pairs(from.table(name), to.table(name)) {
            let Some(found) = chain_diff(to.family, name, before, after) else {
                continue;
            };
            match is_foreign(name, &found.chain) {
                true => diff.foreign.push(found),
                false => diff.chains.push(found),
            }
        }
    }
    diff
}

/// Returns the chains of two tables in pairs by name: in the order of the new table, then those of the old table only.
fn pairs<'a>(
    from: Option<&'a Table>,
    to: Option<&'a Table>,
) -> Vec<(Option<&'a Chain>, Option<&'a Chain>)> {
    let chains = |table: Option<&'a Table>| table.map_or(&[] as &[Chain], |table| &table.chains);
    let index = |chains: &'a [Chain]| -> HashMap<&'a str, &'a Chain> {
        chains.iter().map(|chain| (&*chain.name, chain)).collect()
    };
    let (old, new) = (index(chains(from)), index(chains(to)));
    let kept = chains(to)
        .iter()
        .map(|chain| (old.get(&*chain.name).copied(), Some(chain)));
    let gone = chains(from)
        .iter()
        .filter(|chain| !new.contains_key(&*chain.name));
    kept.chain(gone.map(|chain| (Some(chain), None))).collect()
}

fn chain_diff(
    family: Family,
    table: TableName,
    before: Option<&Chain>,
    after: Option<&Chain>,
) -> Option<ChainDiff> {
    let policy = |chain: Option<&Chain>, other: Option<&Chain>| match chain {
        Some(chain) => chain.policy,
        // The kernel accepts every packet in a base chain that was never loaded.
        None => other
            .and_then(|other| other.policy)
            .map(|_| ChainPolicy::Accept),
    };
    let (old, new) = (policy(before, after), policy(after, before));
    let base = old.is_some() || new.is_some();
    let presence = match (before, after) {
        (None, Some(_)) if !base => Presence::Added,
        (Some(_), None) if !base => Presence::Removed,
        _ => Presence::Both,
    };
    let rules =
        |chain: Option<&'_ Chain>| chain.map(|chain| chain.rules.clone()).unwrap_or_default();
    let diff = ChainDiff {
        table,
        chain: after.or(before)?.name.clone(),
        presence,
        policy: (old != new).then_some((old, new)),
        rules: Comparison::new(family, rules(before), rules(after)).changes(),
    };
    let same = presence == Presence::Both && diff.policy.is_none() && diff.rules.is_empty();
    (!same).then_some(diff)
}

/// The rules of two chains that are being compared.
struct Comparison {
    family: Family,
    old: Vec<Rule>,
    new: Vec<Rule>,
    /// A number for each rule, equal for equal rules of both sides, so that the alignment compares numbers and not rules.
    old_keys: Vec<u32>,
    new_keys: Vec<u32>,
}

impl Comparison {
    fn new(family: Family, old: Vec<Rule>, new: Vec<Rule>) -> Self {
        let mut numbers: HashMap<Rule, u32> = HashMap::new();
        let mut keys = |rules: &[Rule]| -> Vec<u32> {
            let number = |rule: &Rule| {
                let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                *numbers.entry(rule.normalised()).or_insert(next)
            };
            rules.iter().map(number).collect()
        };
        let (old_keys, new_keys) = (keys(&old), keys(&new));
        Self {
            family,
            old,
            new,
            old_keys,
            new_keys,
        }
    }

    fn changes(self) -> Vec<RuleChange> {
        let Alignment { hunks, moved, .. } = Alignment::new(&self.old_keys, &self.new_keys);
        let left: HashSet<usize> = moved.values().copied().collect();
        let mut changes = Vec::new();
        for hunk in hunks {
            let old: Vec<_> = hunk.old.filter(|index| !left.contains(index)).collect();
            let new = hunk.new.clone().filter(|index| !moved.contains_key(index));
            let new: Vec<_> = new.collect();
            let pairs = self.similar(&old, &new);
            let paired: HashSet<usize> = pairs.values().copied().collect();
            let removed = old
                .into_iter()
                .filter(|index| !paired.contains(index))
                .map(|index| RuleChange::Removed {
                    from: index + 1,
                    rule: self.old[index].clone(),
                });
            changes.extend(removed);
            for index in hunk.new {
                changes.push(match (moved.get(&index), pairs.get(&index)) {
                    (Some(from), _) => RuleChange::Moved {
                        from: from + 1,
                        to: index + 1,
                        rule: self.new[index].clone(),
                    },
                    (None, Some(from)) => RuleChange::Changed {
                        from: from + 1,
                        to: index + 1,
                        before: self.old[*from].clone(),
                        after: self.new[index].clone(),
                        parts: part_changes(self.family, &self.old[*from], &self.new[index]),
                    },
                    (None, None) => RuleChange::Added {
                        to: index + 1,
                        rule: self.new[index].clone(),
                    },
                });
            }
        }
        changes
    }

    /// Returns for new rules of a hunk the similar old rule that each replaces. Pairs keep the order of both sides.
    fn similar(&self, old: &[usize], new: &[usize]) -> HashMap<usize, usize> {
        let mut pairs = HashMap::new();
        if old.len() * new.len() > MOST_PAIRS {
            let by_position = old
                .iter()
                .zip(new)
                .filter(|(one, other)| is_similar(&self.old[**one], &self.new[**other]));
            return by_position.map(|(one, other)| (*other, *one)).collect();
        }
        let mut start = 0;
        for &index in new {
            let near = old[start..]
                .iter()
                .position(|one| is_similar(&self.old[*one], &self.new[index]));
            if let Some(offset) = near {
                pairs.insert(index, old[start + offset]);
                start += offset + 1;
            }
        }
        pairs
    }
}

/// Returns `true` if two rules are versions of one rule: they share at least half of their parts. The target alone is enough
/// only if both have matches of the same kinds.
fn is_similar(one: &Rule, other: &Rule) -> bool {
    let (one, other) = (one.normalised(), other.normalised());
    let shared = one
        .matches
        .iter()
        .filter(|condition| other.matches.contains(condition))
        .count();
    let same_target = one.target == other.target && one.target != Target::None;
    let most = one.matches.len().max(other.matches.len()) + 1;
    let kinds = one
        .matches
        .iter()
        .zip(&other.matches)
        .all(|(one, other)| kind(one) == kind(other));
    let same_shape = kinds && one.matches.len() == other.matches.len() && !one.matches.is_empty();
    2 * (shared + usize::from(same_target)) >= most && (shared > 0 || same_shape)
}

fn kind(condition: &Match) -> std::mem::Discriminant<Match> {
    std::mem::discriminant(condition)
}

/// Returns the parts that differ between two rules: parts of one kind side by side, in the order of the new rule.
fn part_changes(family: Family, before: &Rule, after: &Rule) -> Vec<PartChange> {
    let (before, after) = (before.normalised(), after.normalised());
    let mut gone: Vec<&Match> = before
        .matches
        .iter()
        .filter(|one| !after.matches.contains(one))
        .collect();
    let mut changes = Vec::new();
    for condition in after
        .matches
        .iter()
        .filter(|one| !before.matches.contains(one))
    {
        let same_kind = gone.iter().position(|one| kind(one) == kind(condition));
        changes.push(PartChange {
            before: same_kind.map(|index| gone.remove(index).to_text(family)),
            after: Some(condition.to_text(family)),
        });
    }
    changes.extend(gone.into_iter().map(|condition| PartChange {
        before: Some(condition.to_text(family)),
        after: None,
    }));
    if before.target != after.target {
        let text = |target: &Target| Some(target.to_text()).filter(|text| !text.is_empty());
        changes.push(PartChange {
            before: text(&before.target),
            after: text(&after.target),
        });
    }
    if changes.is_empty() {
        // Both rules have the same conditions in another order, which matters for conditions with memory.
        let parts = |rule: &Rule| {
            let parts: Vec<_> = rule
                .matches
                .iter()
                .map(|condition| condition.to_text(family))
                .collect();
            Some(parts.join(" "))
        };
        changes.push(PartChange {
            before: parts(&before),
            after: parts(&after),
        });
    }
    changes
}

impl RulesDiff {
    /// Returns `true` if no chain differs, neither of fwc nor of other programs.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.foreign.is_empty()
    }

    /// Returns the number of changed rules and chain policies.
    pub fn count(&self) -> usize {
        let chains = self.chains.iter().chain(&self.foreign);
        chains
            .map(|chain| chain.rules.len() + usize::from(chain.policy.is_some()))
            .sum()
    }

    /// Returns the differences as text, chain by chain: `-` removed, `+` added, `>` moved, `~` changed.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for chain in &self.chains {
            write_chain(&mut out, self.family, chain);
        }
        if !self.foreign.is_empty() {
            out.push_str("chains of other programs:\n");
        }
        for chain in &self.foreign {
            write_chain(&mut out, self.family, chain);
        }
        out
    }
}

fn write_chain(out: &mut String, family: Family, chain: &ChainDiff) {
    let presence = match chain.presence {
        Presence::Both => "",
        Presence::Added => " (new chain)",
        Presence::Removed => " (chain removed)",
    };
    *out += &format!("{} {}{presence}\n", chain.table.as_str(), chain.chain);
    if let Some((before, after)) = chain.policy {
        let word = |policy: Option<ChainPolicy>| policy.map_or("-", ChainPolicy::as_str);
        *out += &format!("  policy {} -> {}\n", word(before), word(after));
    }
    for change in &chain.rules {
        *out += &match change {
            RuleChange::Added { to, rule } => format!("  + {to}: {}\n", rule.to_text(family)),
            RuleChange::Removed { from, rule } => format!("  - {from}: {}\n", rule.to_text(family)),
            RuleChange::Moved { from, to, rule } => {
                format!("  > {from} -> {to}: {}\n", rule.to_text(family))
            }
            RuleChange::Changed {
                from,
                to,
                after,
                parts,
                ..
            } => {
                let mut lines = format!("  ~ {from} -> {to}: {}\n", after.to_text(family));
                for part in parts {
                    let word = |text: &Option<String>| {
                        text.clone().unwrap_or_else(|| "nothing".to_owned())
                    };
                    lines += &format!("      {} -> {}\n", word(&part.before), word(&part.after));
                }
                lines
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruleset(rules: &str) -> Ruleset {
        let text = format!("*filter\n:DOCKER - [0:0]\n{rules}COMMIT\n");
        Ruleset::from_text(&text, Family::V4).unwrap()
    }

    fn compared(from: &str, to: &str) -> String {
        let foreign = |_, chain: &str| chain == "DOCKER";
        rules(&ruleset(from), &ruleset(to), &foreign).to_text()
    }

    const A: &str = "-A INPUT -s 10.0.0.1 -j ACCEPT\n";
    const B: &str = "-A INPUT -s 10.0.0.2 -p tcp --dport 22 -j ACCEPT\n";
    const C: &str = "-A INPUT -i lo -j ACCEPT\n";

    #[test]
    fn equal_rulesets_differ_in_nothing() {
        assert_eq!(compared(&format!("{A}{B}"), &format!("{A}{B}")), "");
        let spelled = "-A INPUT -j ACCEPT -s 10.0.0.1/32\n[5:6] -A INPUT --dport ssh -s 10.0.0.2 -j ACCEPT -p 6\n";
        let spelled = spelled.replace(
            "--dport ssh -s 10.0.0.2 -j ACCEPT -p 6",
            "-p 6 --dport ssh -s 10.0.0.2 -j ACCEPT",
        );
        assert_eq!(compared(&format!("{A}{B}"), &spelled), "");
        assert_eq!(
            compared(
                "-A INPUT -m state --state NEW\n",
                "-A INPUT -m conntrack --ctstate NEW\n"
            ),
            ""
        );
    }

    #[test]
    fn rules_are_added_and_removed() {
        assert_eq!(
            compared(&format!("{A}{B}"), &format!("{A}{C}{B}")),
            "filter INPUT\n  + 2: -i lo -j ACCEPT\n"
        );
        assert_eq!(
            compared(&format!("{A}{C}{B}"), &format!("{A}{B}")),
            "filter INPUT\n  - 2: -i lo -j ACCEPT\n"
        );
    }

    #[test]
    fn a_rule_that_changed_places_is_moved() {
        assert_eq!(
            compared(&format!("{A}{B}{C}"), &format!("{C}{A}{B}")),
            "filter INPUT\n  > 3 -> 1: -i lo -j ACCEPT\n"
        );
    }

    #[test]
    fn a_rule_changed_in_place_shows_its_parts() {
        let other = B.replace("22", "2222").replace("ACCEPT", "DROP");
        assert_eq!(
            compared(&format!("{A}{B}{C}"), &format!("{A}{other}{C}")),
            "filter INPUT\n  ~ 2 -> 2: -s 10.0.0.2/32 -p tcp -m tcp --dport 2222 -j DROP\n      \
             -m tcp --dport 22 -> -m tcp --dport 2222\n      -j ACCEPT -> -j DROP\n"
        );
        let with_state = B.replace("-j", "-m conntrack --ctstate NEW -j");
        assert_eq!(
            compared(B, &with_state),
            "filter INPUT\n  ~ 1 -> 1: -s 10.0.0.2/32 -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -j ACCEPT\n      \
             nothing -> -m conntrack --ctstate NEW\n"
        );
    }

    #[test]
    fn policies_and_chains_are_told() {
        assert_eq!(
            compared(
                ":X - [0:0]\n-A X -j DROP\n",
                ":INPUT DROP [1:2]\n:Y - [0:0]\n"
            ),
            "filter INPUT\n  policy ACCEPT -> DROP\nfilter Y (new chain)\nfilter X (chain removed)\n  - 1: -j DROP\n"
        );
        assert_eq!(
            compared("", "-A DOCKER -j DROP\n"),
            "chains of other programs:\nfilter DOCKER\n  + 1: -j DROP\n"
        );
    }

    #[test]
    fn doubled_rules_count() {
        assert_eq!(
            compared(&format!("{A}{A}"), A),
            "filter INPUT\n  - 2: -s 10.0.0.1/32 -j ACCEPT\n"
        );
    }

    proptest::proptest! {
        /// All rules that no change names are in both chains, in the same order.
        #[test]
        fn the_rest_stayed(from in rule_list(), to in rule_list()) {
            let diff = rules(&ruleset(&from.concat()), &ruleset(&to.concat()), &|_, _| false);
            let changes: Vec<_> = diff.chains.iter().flat_map(|chain| &chain.rules).collect();
            let (mut gone, mut come) = (Vec::new(), Vec::new());
            for change in changes {
                let (from, to) = match change {
                    RuleChange::Added { to, .. } => (None, Some(*to)),
                    RuleChange::Removed { from, .. } => (Some(*from), None),
                    RuleChange::Moved { from, to, .. } | RuleChange::Changed { from, to, .. } => (Some(*from), Some(*to)),
                };
                gone.extend(from);
                come.extend(to);
            }
            let rest = |rules: &[String], without: &[usize]| -> Vec<String> {
                let kept = rules.iter().enumerate().filter(|(index, _)| !without.contains(&(index + 1)));
                kept.map(|(_, rule)| rule.clone()).collect()
            };
            proptest::prop_assert_eq!(rest(&from, &gone), rest(&to, &come));
        }
    }

    fn rule_list() -> impl proptest::strategy::Strategy<Value = Vec<String>> {
        let rule = proptest::sample::select(vec![
            A,
            B,
            C,
            "-A INPUT -j LOG\n",
            "-A INPUT -s 10.0.0.1 -j DROP\n",
        ]);
        proptest::collection::vec(
            proptest::strategy::Strategy::prop_map(rule, str::to_owned),
            0..8,
        )
    }
}

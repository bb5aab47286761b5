//! Rules that a ruleset could do without: others shadow them, what comes behind does the same, no packet is like that, or no
//! rule leads to their chain.

use std::collections::{BTreeMap, BTreeSet};

use super::behaviour::BaseChain;
use super::field::Field;
use super::shadow::{Covers, Shadowed, decides, ending_chains, is_certain, is_open, shadowed_of};
use super::space::{Set, Space};
use super::text::{Reading, TextError, rule_sets};
use super::valid::Unseen;
use crate::iptables::{Chain, Match, Policy, Rule, RuleId, Ruleset, Table, TableName, Target};

/// Rules of a ruleset that do nothing that would not happen without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Rules that no packet gets as far as: see [`shadowed`](super::shadowed).
    pub shadowed: Vec<Shadowed>,
    /// Rules whose packets all go to rules behind them in their chain that do the same with them: those rules.
    pub redundant: Vec<(TableName, RuleId, Vec<RuleId>)>,
    /// Rules that accept what no kernel shows at the base chains that lead to them, and why, if one reason is enough.
    pub impossible: Vec<(TableName, RuleId, Unseen)>,
    /// Chains with rules that no base chain leads to: by table, and place in it.
    pub unreached: Vec<(TableName, usize)>,
}

/// Finds them, chain by chain. A rule that depends on what a packet does not tell may be shadowed or impossible, never
/// redundant. Nothing is said of the rules of a chain that nothing leads to.
///
/// ```
/// use fwc::analysis::{Reading, Space, idle};
/// use fwc::iptables::Ruleset;
/// use fwc::net::Family;
///
/// let rules = "*filter\n\
///     :INPUT ACCEPT [0:0]\n\
///     -A INPUT -s 192.0.2.7/32 -j DROP\n\
///     -A INPUT -p icmp -m icmp --icmp-type 3 -m conntrack --ctstate NEW -j ACCEPT\n\
///     -A INPUT -s 192.0.2.0/24 -j DROP\n\
///     COMMIT\n";
/// let ruleset = Ruleset::from_text(rules, Family::V4)?;
/// let idle = idle(&Space::new(Family::V4), &ruleset, &Reading::default())?;
/// assert_eq!(idle.impossible[0].1.rule, 1);
/// // The second rule accepts some of what the first one drops.
/// assert!(idle.redundant.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn idle(space: &Space, ruleset: &Ruleset, reading: &Reading<'_>) -> Result<Idle, TextError> {
    let sets = rule_sets(space, ruleset, reading)?;
    let mut idle = Idle {
        shadowed: shadowed_of(space, ruleset, &sets)?,
        ..Idle::default()
    };
    let shadowed = idle.shadowed.iter().map(|one| (one.table, one.rule));
    let shadowed: BTreeSet<(TableName, RuleId)> = shadowed.collect();
    for table in &ruleset.tables {
        let callers = base_callers(table);
        let ends = ending_chains(table);
        for (number, chain) in table.chains.iter().enumerate() {
            let bases = &callers[number];
            if bases.is_empty() {
                if !chain.rules.is_empty() {
                    idle.unreached.push((table.name, number));
                }
                continue;
            }
            let id = |rule| RuleId {
                chain: number,
                rule,
            };
            let own: Vec<Set> = (0..chain.rules.len())
                .map(|rule| sets.get(&(table.name, id(rule))).copied())
                .map(|set| set.unwrap_or(space.none()))
                .collect();
            let shown: Result<Vec<Set>, _> = bases.iter().map(|base| space.valid(*base)).collect();
            let shown = space.any(shown?)?;
            let look = Look {
                space,
                chain,
                own: &own,
                bases,
                shown,
            };
            let impossible = look.impossible(table.name)?;
            let found = impossible.iter();
            idle.impossible
                .extend(found.map(|(rule, why)| (table.name, id(*rule), *why)));
            let shadowed = |rule: usize| shadowed.contains(&(table.name, id(rule)));
            for (rule, behind) in look.redundant(table.name, &ends, shadowed)? {
                if !impossible.contains_key(&rule) {
                    let behind = behind.into_iter().map(id).collect();
                    idle.redundant.push((table.name, id(rule), behind));
                }
            }
        }
    }
    let unreached: BTreeSet<(TableName, usize)> = idle.unreached.iter().copied().collect();
    idle.shadowed
        .retain(|one| !unreached.contains(&(one.table, one.rule.chain)));
    idle.impossible
        .retain(|(table, rule, _)| !shadowed.contains(&(*table, *rule)));
    Ok(idle)
}

/// One chain, and the packets of its rules.
struct Look<'a> {
    space: &'a Space,
    chain: &'a Chain,
    own: &'a [Set],
    /// The base chains that lead here.
    bases: &'a BTreeSet<BaseChain>,
    /// What a kernel can show at the base chains that lead here.
    shown: Set,
}

impl Look<'_> {
    /// The rules that accept what no kernel shows. Those that deny it are somebody's belt.
    fn impossible(&self, table: TableName) -> Result<BTreeMap<usize, Unseen>, TextError> {
        let mut found = BTreeMap::new();
        // In `raw` nothing is tracked yet: there a state is another question.
        if table == TableName::Raw {
            return Ok(found);
        }
        for (at, (rule, set)) in self.chain.rules.iter().zip(self.own).enumerate() {
            let accepts = matches!(rule.target, Target::Accept);
            if accepts && self.space.and(*set, self.shown)? == self.space.none() {
                let reasons = self.bases.iter();
                let reasons = reasons.map(|base| self.space.impossible_because(*base, *set));
                let reasons = reasons.collect::<Result<BTreeSet<_>, _>>()?;
                // With several base chains there may be a reason for each.
                let why = match Unseen::of(&reasons) {
                    // Rules that track connections leave `-f` without packets (see `Match::Fragment` in matches.rs).
                    Unseen::Never(None) if asks_for_fragments(rule) => {
                        Unseen::Never(Some(REASSEMBLED))
                    }
                    why => why,
                };
                found.insert(at, why);
            }
        }
        Ok(found)
    }

    fn redundant(
        &self,
        table: TableName,
        ends: &BTreeSet<&str>,
        shadowed: impl Fn(usize) -> bool,
    ) -> Result<Vec<(usize, Vec<usize>)>, TextError> {
        let space = self.space;
        let own = self.own.iter();
        let certain: Vec<bool> = own.map(|set| is_certain(space, table, *set)).collect();
        let rules = &self.chain.rules;
        let sure =
            (0..rules.len()).map(|at| match certain[at] && decides(&rules[at].target, ends) {
                true => self.own[at],
                false => space.none(),
            });
        let sure = Covers::new(space, sure.collect())?;
        // What may meet a packet: whatever a condition says that is not known, and whatever a mark has become.
        let may = (0..rules.len()).map(|at| match certain[at] {
            true => Ok(self.own[at]),
            false => space.project(self.own[at], |field| {
                !(is_open(&field) || (table == TableName::Raw && field == Field::State))
            }),
        });
        let may = Covers::new(space, may.collect::<Result<_, _>>()?)?;
        let mut found = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            let target = &rule.target;
            let is_verdict = matches!(
                target,
                Target::Accept | Target::Drop | Target::Reject(_) | Target::Nat(_)
            );
            if !is_verdict || !certain[at] {
                continue;
            }
            let by_policy = match self.chain.policy {
                Some(Policy::Accept) => *target == Target::Accept,
                Some(Policy::Drop) => *target == Target::Drop,
                None => false,
            };
            // Of two that do the same one is idle, not both.
            let same =
                |next: usize| certain[next] && rules[next].target == *target && !shadowed(next);
            if may.is_needed(&sure, self.own[at], at, same, by_policy)? {
                continue;
            }
            let left = sure.left(self.own[at], at)?;
            let behind = match left == space.none() {
                true => None,
                false => may.behind(left, at + 1, same, by_policy)?,
            };
            // That a policy is what it is shows nothing.
            if let Some((behind, _)) = behind.filter(|(behind, _)| !behind.is_empty()) {
                found.push((at, behind));
            }
        }
        Ok(found)
    }
}

const REASSEMBLED: &str = "where rules track connections, packets are put together before any rule: no later fragment comes by";

/// Returns whether a rule asks for later fragments (`-f`).
fn asks_for_fragments(rule: &Rule) -> bool {
    let asks = |one: &Match| matches!(one, Match::Fragment { negated: false });
    rule.matches.iter().any(asks)
}

/// The sets that rules of a ruleset add to or take from.
pub fn changed_sets(ruleset: &Ruleset) -> BTreeSet<String> {
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let targets = chains
        .flat_map(|chain| &chain.rules)
        .map(|rule| &rule.target);
    let settings = targets.filter_map(|target| match target {
        Target::Other(module) if module.name == "SET" => Some(&module.settings),
        _ => None,
    });
    let changes = settings
        .flatten()
        .filter(|setting| ["add-set", "del-set"].contains(&setting.name));
    let names = changes.filter_map(|setting| setting.value.split(' ').next());
    names.map(str::to_owned).collect()
}

/// Of each chain of a table the base chains from which rules lead to it.
fn base_callers(table: &Table) -> Vec<BTreeSet<BaseChain>> {
    let names = table.chains.iter().map(|chain| &*chain.name);
    let index: BTreeMap<&str, usize> = names.zip(0..).collect();
    let mut callers = vec![BTreeSet::new(); table.chains.len()];
    for (at, chain) in table.chains.iter().enumerate() {
        let Some(base) = chain.policy.and_then(|_| BaseChain::from_name(&chain.name)) else {
            continue;
        };
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            if !callers[at].insert(base) {
                continue;
            }
            for rule in &table.chains[at].rules {
                if let Target::Jump(name) | Target::Goto(name) = &rule.target {
                    open.extend(index.get(&**name));
                }
            }
        }
    }
    callers
}

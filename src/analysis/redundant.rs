//! Finds rules that a ruleset could do without: shadowed rules, rules that later rules repeat, rules for packets that
//! cannot exist, and rules in chains that no rule jumps to.

use std::collections::{BTreeMap, BTreeSet};

use super::TextError;
use super::behaviour::BaseChain;
use super::field::Field;
use super::shadow::{Covers, Shadowed, decides, ending_chains, is_certain, is_open, shadowed_of};
use super::space::{Set, Space};
use super::text::{Reading, rule_sets};
use super::valid::UnseenReason;
use crate::iptables::{Chain, ChainPolicy, Match, Rule, RuleId, Ruleset, Table, TableName, Target};

/// The rules of a ruleset that make no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdleRules {
    /// Shadowed rules; see [`shadowed`](super::shadowed).
    pub shadowed: Vec<Shadowed>,
    /// Rules whose packets all get to later rules of the chain that do the same with them; with those rules.
    pub redundant: Vec<(TableName, RuleId, Vec<RuleId>)>,
    /// Rules that accept packets that no kernel shows at the base chains that lead to them; with the reason, if a
    /// single one is enough.
    pub impossible: Vec<(TableName, RuleId, UnseenReason)>,
    /// Chains with rules that no base chain leads to, by table and index.
    pub unreached: Vec<(TableName, usize)>,
}

/// Finds these rules, chain by chain. A rule that depends on conditions that the packet does not answer may be shadowed
/// or impossible, but is never called redundant. Rules of unreached chains are not examined.
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
pub fn idle(
    space: &Space,
    ruleset: &Ruleset,
    reading: &Reading<'_>,
) -> Result<IdleRules, TextError> {
    let sets = rule_sets(space, ruleset, reading)?;
    let mut idle = IdleRules {
        shadowed: shadowed_of(space, ruleset, &sets)?,
        ..IdleRules::default()
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
    /// The packets that a kernel can show at these base chains.
    shown: Set,
}

impl Look<'_> {
    /// Returns the rules that accept packets that no kernel shows. Rules that drop or reject such packets are not
    /// reported: they are a precaution.
    fn impossible(&self, table: TableName) -> Result<BTreeMap<usize, UnseenReason>, TextError> {
        let mut found = BTreeMap::new();
        // In raw nothing is tracked yet, so that a state there means something else.
        if table == TableName::Raw {
            return Ok(found);
        }
        for (at, (rule, set)) in self.chain.rules.iter().zip(self.own).enumerate() {
            let accepts = matches!(rule.target, Target::Accept);
            // A rule of a user-defined chain is impossible only if it is at all base chains that lead to the chain.
            if accepts && self.space.and(*set, self.shown)? == self.space.none() {
                let reasons = self.bases.iter();
                let reasons = reasons.map(|base| self.space.impossible_because(*base, *set));
                let reasons = reasons.collect::<Result<BTreeSet<_>, _>>()?;
                // Each base chain may have its own reason.
                let why = match UnseenReason::of(&reasons) {
                    // Rules that track connections leave `-f` without packets (see `Match::Fragment` in matches.rs).
                    UnseenReason::Never(None) if asks_for_fragments(rule) => {
                        UnseenReason::Never(Some(REASSEMBLED))
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
        // The packets that a rule may match: opaque conditions and changed marks may have any value.
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
                Some(ChainPolicy::Accept) => *target == Target::Accept,
                Some(ChainPolicy::Drop) => *target == Target::Drop,
                None => false,
            };
            // Of two rules that do the same, only one is redundant.
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
            // A rule that only the chain's policy repeats is not reported.
            if let Some((behind, _)) = behind.filter(|(behind, _)| !behind.is_empty()) {
                found.push((at, behind));
            }
        }
        Ok(found)
    }
}

const REASSEMBLED: &str = "rules here track connections, so that the kernel reassembles packets first: no rule sees a later fragment";

/// Returns `true` if a rule asks for later fragments (`-f`).
fn asks_for_fragments(rule: &Rule) -> bool {
    let asks = |one: &Match| matches!(one, Match::Fragment { negated: false });
    rule.matches.iter().any(asks)
}

/// Returns the ipsets that rules of a ruleset add to or delete from.
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

/// Returns, for each chain of a table, the base chains from which rules lead to it.
fn base_callers(table: &Table) -> Vec<BTreeSet<BaseChain>> {
    let mut callers = vec![BTreeSet::new(); table.chains.len()];
    for chain in &table.chains {
        let Some(base) = chain.policy.and_then(|_| BaseChain::from_name(&chain.name)) else {
            continue;
        };
        for reached in table.reached_from(&chain.name) {
            callers[reached].insert(base);
        }
    }
    callers
}

//! Finds the live rules that fwc did not make.

use std::collections::HashMap;
use std::fmt;

use crate::iptables::TableName;
use crate::live::owners::{self, Owner};
use crate::live::{LiveChain, LiveRule, LiveRuleset};
use crate::net::{Family, PerFamily};

/// A live rule or chain that is in no ruleset of fwc's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The family that it is in.
    pub family: Family,
    /// The table that it is in.
    pub table: TableName,
    /// The name of the chain, or of the rule's chain.
    pub chain: String,
    /// The rule or the chain.
    pub what: FindingKind,
    /// The program that made it; `None` if it was made by hand, or by a program that fwc does not know.
    pub owner: Option<Owner>,
}

/// What a [`Finding`] is: a rule or a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// A rule of a chain that fwc has as well, or of a base chain; without its `-A CHAIN`.
    Rule(String),
    /// A whole chain, with the number of its rules.
    Chain(usize),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: ", self.family, self.table)?;
        match &self.what {
            FindingKind::Rule(spec) => write!(out, "-A {} {spec}", self.chain),
            FindingKind::Chain(1) => write!(out, "chain {} with 1 rule", self.chain),
            FindingKind::Chain(rules) => write!(out, "chain {} with {rules} rules", self.chain),
        }
    }
}

/// What a load of fwc's ruleset would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Other programs' rules and chains, which fwc removes only with `--take-over`.
    pub others: Vec<Finding>,
    /// Rules that somebody added to fwc's chains while fwc's ruleset was active.
    pub strays: Vec<Finding>,
}

/// Compares the live rules with all rulesets of fwc that may be active (`made`), and with the one to come.
///
/// An unknown rule in a chain of fwc's is a stray only if a ruleset of fwc's is active, which means that at least half of its
/// rules are live. The records alone prove nothing: a new network namespace may have the number of an old one.
pub fn judge(
    live: &PerFamily<LiveRuleset>,
    made: &[PerFamily<LiveRuleset>],
    target: &PerFamily<LiveRuleset>,
) -> Findings {
    let mut findings = Findings::default();
    for (family, dump) in live.iter() {
        let active: Vec<&LiveRuleset> = made
            .iter()
            .filter(|set| is_active(set, live, family))
            .map(|set| &set[family])
            .collect();
        let mut ours = active.clone();
        ours.push(&target[family]);
        for (table, name, chain) in dump.all_chains() {
            let found = |what, owner| Finding {
                family,
                table,
                chain: name.to_owned(),
                what,
                owner,
            };
            let same: Vec<&LiveChain> = ours
                .iter()
                .filter_map(|set| set.chain(table, name))
                .collect();
            if same.is_empty() && !table.base_chains().contains(&name) {
                let owner =
                    owners::of_chain(name).or_else(|| chain.rules.iter().find_map(owners::of_rule));
                findings
                    .others
                    .push(found(FindingKind::Chain(chain.rules.len()), owner));
                continue;
            }
            for rule in surplus(chain, &same) {
                let owner = owners::of_rule(rule);
                let finding = found(FindingKind::Rule(rule.spec.clone()), owner);
                if owner.is_some() || active.is_empty() || enters_other(rule, table, dump, &ours) {
                    findings.others.push(finding);
                } else {
                    findings.strays.push(finding);
                }
            }
        }
    }
    findings
}

/// Returns `true` if at least half of the rules of a family are live. A ruleset without rules of this family is active if its
/// other family is.
fn is_active(set: &PerFamily<LiveRuleset>, live: &PerFamily<LiveRuleset>, family: Family) -> bool {
    let half = |family| {
        let (set, live): (&LiveRuleset, &LiveRuleset) = (&set[family], &live[family]);
        let (mut all, mut missing) = (0, 0);
        for (table, name, chain) in set.all_chains() {
            let same: Vec<_> = live.chain(table, name).into_iter().collect();
            all += chain.rules.len();
            missing += surplus(chain, &same).len();
        }
        (all > 0).then_some(2 * missing <= all)
    };
    half(family).unwrap_or_else(|| {
        let mut others = Family::ALL.into_iter().filter_map(half);
        others.any(|is_active| is_active)
    })
}

/// Returns the rules of `chain` that none of `others` has, counting copies: a rule that is there twice and once in `others`
/// is returned once.
fn surplus<'a>(chain: &'a LiveChain, others: &[&LiveChain]) -> Vec<&'a LiveRule> {
    let mut allowed: HashMap<&str, usize> = HashMap::new();
    for other in others {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for rule in &other.rules {
            *count.entry(&rule.spec).or_default() += 1;
        }
        for (spec, number) in count {
            let most = allowed.entry(spec).or_default();
            *most = number.max(*most);
        }
    }
    chain
        .rules
        .iter()
        .filter(|rule| match allowed.get_mut(rule.spec.as_str()) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        })
        .collect()
}

/// Returns `true` if the rule leads to a chain that is not fwc's.
fn enters_other(
    rule: &LiveRule,
    table: TableName,
    live: &LiveRuleset,
    ours: &[&LiveRuleset],
) -> bool {
    rule.target().is_some_and(|target| {
        live.chain(table, target).is_some()
            && ours.iter().all(|set| set.chain(table, target).is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::{FindingKind, Findings, judge};
    use crate::live::LiveRuleset;
    use crate::net::PerFamily;

    fn filter(body: &str) -> PerFamily<LiveRuleset> {
        PerFamily {
            v4: LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap(),
            v6: LiveRuleset::default(),
        }
    }

    fn names(findings: &Findings) -> (Vec<String>, Vec<String>) {
        let list = |findings: &[super::Finding]| {
            findings
                .iter()
                .map(|finding| match &finding.what {
                    FindingKind::Rule(spec) => format!("{} {spec}", finding.chain),
                    FindingKind::Chain(rules) => format!("{}/{rules}", finding.chain),
                })
                .collect()
        };
        (list(&findings.others), list(&findings.strays))
    }

    const OURS: &str = ":mine - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j mine\n";

    #[test]
    fn fresh_host_has_no_findings() {
        let closed = filter(":FORWARD DROP [0:0]\n");
        assert_eq!(judge(&closed, &[], &filter(OURS)), Findings::default());
    }

    #[test]
    fn rules_before_the_first_apply_are_others() {
        let live = filter("-A INPUT -s 192.0.2.1/32 -j DROP\n");
        let (others, strays) = names(&judge(&live, &[], &filter(OURS)));
        assert_eq!(others, ["INPUT -s 192.0.2.1/32 -j DROP"]);
        assert!(strays.is_empty());
    }

    #[test]
    fn rule_added_to_our_ruleset_is_a_stray() {
        let live = filter(&format!(
            "{OURS}-A mine -j DROP\n-A INPUT -i lo -j ACCEPT\n"
        ));
        let (others, strays) = names(&judge(&live, &[filter(OURS)], &filter("")));
        assert!(others.is_empty());
        assert_eq!(strays, ["INPUT -i lo -j ACCEPT", "mine -j DROP"]);
    }

    #[test]
    fn record_that_is_not_active_proves_nothing() {
        let live = filter("-A INPUT -j DROP\n");
        let (others, strays) = names(&judge(&live, &[filter(OURS)], &filter(OURS)));
        assert_eq!(others, ["INPUT -j DROP"]);
        assert!(strays.is_empty());
    }

    #[test]
    fn families_are_judged_apart() {
        let mut live = filter(OURS);
        live.v6 = filter("-A INPUT -j DROP\n").v4;
        let mut made = filter(OURS);
        made.v6 = made.v4.clone();
        let (others, strays) = names(&judge(&live, std::slice::from_ref(&made), &filter(OURS)));
        assert_eq!(others, ["INPUT -j DROP"]);
        assert!(strays.is_empty());
        // A family that fwc left empty goes with the other.
        made.v6 = LiveRuleset::default();
        let (others, strays) = names(&judge(&live, &[made], &filter(OURS)));
        assert!(others.is_empty());
        assert_eq!(strays, ["INPUT -j DROP"]);
    }

    #[test]
    fn known_owners_and_chains_are_others_even_beside_our_ruleset() {
        let live = filter(&format!(
            ":DOCKER - [0:0]\n:byhand - [0:0]\n{OURS}-A FORWARD -o docker0 -j DOCKER\n-A INPUT -j byhand\n-A byhand -j DROP\n-A INPUT -j DROP\n"
        ));
        let findings = judge(&live, &[filter(OURS)], &filter(OURS));
        let (others, strays) = names(&findings);
        assert_eq!(
            others,
            [
                "DOCKER/0",
                "FORWARD -o docker0 -j DOCKER",
                "INPUT -j byhand",
                "byhand/1"
            ]
        );
        assert_eq!(strays, ["INPUT -j DROP"]);
        assert_eq!(findings.others[0].owner.unwrap().to_string(), "Docker");
        assert_eq!(findings.others[3].owner, None);
    }

    #[test]
    fn what_the_policy_itself_says_is_ours() {
        let docker = ":DOCKER-USER - [0:0]\n-A FORWARD -i docker0 -j DOCKER-USER\n";
        assert_eq!(
            judge(&filter(docker), &[], &filter(docker)),
            Findings::default()
        );
    }
}

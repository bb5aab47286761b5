//! The comparison of everything but the effect of rules: declared chains, chain policies, ipsets.

use super::Prover;
use crate::analysis::BaseChain;
use crate::iptables::{self, Ruleset, TableName, Target};
use crate::net::{Hook, IntervalSet, SetType};
use crate::resolve::Members;
use crate::verify::both_sides::BothSides;
use crate::verify::proof::DisagreementKind;
use crate::verify::spec::matching::set_name;

/// The prefix of the chains that belong to fwc in shared mode.
const OWN: &str = "FWC-";

impl Prover<'_> {
    /// Checks that every base chain of every table is declared: an undeclared chain keeps its rules on one backend and becomes
    /// empty on the other. In shared mode checks instead that the file only writes to fwc's own chains.
    pub(super) fn declarations(&mut self) {
        self.own_policies();
        if self.plan.is_shared() {
            return self.only_own_chains();
        }
        for table in [
            TableName::Raw,
            TableName::Mangle,
            TableName::Nat,
            TableName::Filter,
        ] {
            let head = format!("*{}", table.as_str());
            let mut lines = self.rules.texts[self.space.family()]
                .lines()
                .skip_while(|line| **line != head)
                .skip(1);
            if self.ruleset.table(table).is_none() {
                self.found(DisagreementKind::Undeclared { table, chain: None });
                continue;
            }
            let declared: Vec<&str> = lines
                .by_ref()
                .take_while(|line| *line != "COMMIT")
                .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
                .collect();
            for chain in table.base_chains() {
                if !declared.contains(chain) {
                    let chain = Some(*chain);
                    self.found(DisagreementKind::Undeclared { table, chain });
                }
            }
        }
        if self.ruleset.table(TableName::Security).is_some() {
            let (table, chain) = (TableName::Security, BaseChain::Input);
            self.found(DisagreementKind::UnusedBaseChain { table, chain });
        }
    }

    /// Checks that only base chains have a policy: for other chains iptables-legacy refuses it and iptables-nft ignores it.
    fn own_policies(&mut self) {
        let lines = self.rules.texts[self.space.family()].lines();
        let declared = lines.filter_map(|line| line.strip_prefix(':')?.split_once(' '));
        for (chain, policy) in declared {
            if BaseChain::from_name(chain).is_none() && !policy.starts_with("- ") {
                self.found(DisagreementKind::PolicyOnUserChain(chain.to_owned()));
            }
        }
    }

    /// Checks for shared mode that only `FWC-*` chains are declared (a declaration empties a chain, or sets the policy of a
    /// base chain), and that base chains get only jumps to those.
    fn only_own_chains(&mut self) {
        let lines = self.rules.texts[self.space.family()].lines();
        let declared = lines.filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        for chain in declared.filter(|chain| !chain.starts_with(OWN)) {
            let what = format!(
                "{chain} is declared, but in shared mode fwc may declare only its own chains, {OWN}*"
            );
            self.found(DisagreementKind::TouchesOtherRules(what));
        }
        let own = |to: &str| to.starts_with(OWN);
        for table in &self.ruleset.tables {
            let base = table.chains.iter().filter(|chain| chain.policy.is_some());
            for rule in base.flat_map(|chain| &chain.rules) {
                if !matches!(&rule.target, Target::Jump(to) if own(to)) {
                    let what = format!(
                        "line {}: in shared mode fwc may add only jumps to {OWN}* to a base chain",
                        rule.line
                    );
                    self.found(DisagreementKind::TouchesOtherRules(what));
                }
            }
        }
    }

    /// Compares chain policies, and reports chains that no packet reaches and base chains that the policy does not use.
    pub(super) fn structure(&mut self, sides: &BothSides<'_>) {
        for ((table, chain), found) in &sides.text.structure.policies {
            let policies = &sides.spec.behaviour.structure.policies;
            let wanted = policies.get(&(*table, *chain)).copied();
            let wanted = wanted.unwrap_or(iptables::ChainPolicy::Accept);
            if wanted == *found {
                continue;
            }
            let hook = Hook::ALL
                .into_iter()
                .find(|hook| BaseChain::from(*hook) == *chain);
            self.found(match hook.filter(|_| *table == TableName::Filter) {
                Some(hook) => DisagreementKind::ChainPolicy {
                    hook,
                    wanted,
                    found: *found,
                },
                None => DisagreementKind::UnusedBaseChain {
                    table: *table,
                    chain: *chain,
                },
            });
        }
        for (table, chain) in &sides.text.structure.chains {
            if !is_reached(self.ruleset, *table, chain) {
                let (table, chain) = (*table, chain.to_string());
                self.found(DisagreementKind::UnreachableChain { table, chain });
            }
        }
        let ruleset = self.ruleset;
        for table in ruleset
            .tables
            .iter()
            .filter(|table| table.name != TableName::Filter)
        {
            for chain in table.chains.iter().filter(|chain| !chain.rules.is_empty()) {
                let Some(base) = BaseChain::from_name(&chain.name) else {
                    continue;
                };
                let place = (table.name, base);
                if !sides.spec.behaviour.flows.contains_key(&place) {
                    let (table, chain) = place;
                    self.found(DisagreementKind::UnusedBaseChain { table, chain });
                }
            }
        }
    }

    /// Compares the ipsets of the file with those of the policy.
    pub(super) fn sets(&mut self) {
        let family = self.space.family();
        let mut wanted = Vec::new();
        for set in &self.plan.sets {
            let name = set_name(&set.name, family);
            let (kind, options, size, own) = match &set.members {
                Members::Static(all) => {
                    let own = all.family(family).clone();
                    (SetType::Net, (None, false, false), None, own)
                }
                Members::Dynamic(set) => (
                    set.kind,
                    (set.timeout, set.counters, set.comments),
                    // The default of `ipset create`.
                    Some(set.size.unwrap_or(65_536)),
                    IntervalSet::empty(),
                ),
            };
            let found = self.rules.sets.get(&name);
            let is_static = matches!(set.members, Members::Static(_));
            let same = match found {
                // A static set without members in this family is not created.
                None => is_static && own.is_empty(),
                Some(found) => {
                    (found.family, found.kind, &found.members) == (family, kind, &own)
                        && (found.timeout, found.counters, found.comments) == options
                        && size.is_none_or(|size| size == found.size)
                }
            };
            if !same {
                self.found(DisagreementKind::IpSet(name.clone()));
            }
            wanted.push(name);
        }
        let sets = self.rules.sets.iter();
        let others = sets.filter(|(name, set)| set.family == family && !wanted.contains(name));
        for (name, _) in others {
            self.found(DisagreementKind::IpSet(name.clone()));
        }
    }
}

/// Returns `true` if a chain is reached from a base chain by jumps.
fn is_reached(ruleset: &Ruleset, table: TableName, name: &str) -> bool {
    let Some(table) = ruleset.table(table) else {
        return false;
    };
    let base = table.chains.iter().filter(|chain| chain.policy.is_some());
    let mut reached: Vec<&str> = base.map(|chain| &*chain.name).collect();
    let mut at = 0;
    while let Some(chain) = reached.get(at).and_then(|name| table.chain(name)) {
        for rule in &chain.rules {
            if let Target::Jump(to) | Target::Goto(to) = &rule.target
                && !reached.contains(&&**to)
            {
                reached.push(to);
            }
        }
        at += 1;
    }
    reached.contains(&name)
}

//! Custom rules. Their effect is read from their own text; the policy specifies only their positions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::vec::IntoIter;

use super::matching::hooks;
use crate::analysis::{
    self, BaseChain, Flow, GaveUp, Reading, RuleStep, Space, TextError, chain_flows,
};
use crate::iptables::{Rule, Ruleset, TableName};
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{CustomPosition, CustomTable};
use crate::resolve::{Plan, PlannedCustom};

/// The custom rules of one family.
pub(in crate::verify) struct Customs {
    /// The rules at each position, as a ruleset without other rules.
    alone: BTreeMap<CustomPosition, Ruleset>,
    /// The table, chain and text of each rule.
    texts: HashSet<(TableName, String, String)>,
}

pub(in crate::verify) fn table_of(custom: &PlannedCustom) -> TableName {
    match custom.table {
        CustomTable::Raw => TableName::Raw,
        CustomTable::Mangle => TableName::Mangle,
        CustomTable::Nat => TableName::Nat,
        CustomTable::Filter => TableName::Filter,
    }
}

impl Customs {
    /// Collects the custom rules of a plan.
    pub fn new(plan: &Plan, family: Family) -> Self {
        let of = |custom: &PlannedCustom| {
            let text = custom.rules[family].clone()?;
            Some((table_of(custom), custom.chain.clone(), text))
        };
        let positions = plan.custom.iter().filter_map(|custom| custom.place);
        let positions: BTreeSet<CustomPosition> = positions.collect();
        let alone = positions
            .into_iter()
            .map(|position| (position, alone(plan, family, position)));
        Self {
            alone: alone.collect(),
            texts: plan.custom.iter().filter_map(of).collect(),
        }
    }

    /// Returns the rules at a position as a ruleset of their own, with base chains that accept all other packets; `None` if
    /// there are none.
    pub fn alone(&self, position: CustomPosition) -> Option<&Ruleset> {
        self.alone.get(&position)
    }

    /// Returns `true` if a rule is a custom rule, by its text.
    pub fn has(&self, table: TableName, chain: &str, rule: &Rule, family: Family) -> bool {
        if self.texts.is_empty() {
            return false;
        }
        // In shared mode custom rules for a base chain go to fwc's own chain for it, such as FWC-INPUT.
        let own = chain.strip_prefix("FWC-").unwrap_or(chain);
        // Those of a block have no chain in the plan.
        let is_of_fwc = chain.starts_with("FWC-");
        let text = rule.to_text(family);
        let has = |chain: &str| {
            self.texts
                .contains(&(table, chain.to_owned(), text.clone()))
        };
        has(own) || has(chain) || is_of_fwc && has("")
    }

    /// Returns `true` if there is a custom rule in a table.
    pub fn any_in(&self, table: TableName) -> bool {
        self.texts.iter().any(|(other, ..)| *other == table)
    }

    /// Computes what the custom rules do at each of their positions.
    pub fn flows(
        &self,
        space: &Space,
        sets: &BTreeMap<String, IntervalSet>,
    ) -> Result<CustomFlows, GaveUp> {
        let reading = Reading {
            sets,
            // The rules of the policy track connections, so the kernel reassembles fragments. The custom rules alone do not
            // show that.
            is_reassembled: true,
            ..Reading::default()
        };
        let mut all = CustomFlows::default();
        for (position, rules) in &self.alone {
            let flows = match chain_flows(space, rules, &reading) {
                Ok(flows) => flows,
                Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
                // The rules files have the same error, which is reported for them.
                Err(_) => BTreeMap::new(),
            };
            for ((table, chain), flow) in flows {
                let Some(base) = BaseChain::from_name(&chain) else {
                    continue;
                };
                if let CustomPosition::InBlock { block, behind } = *position {
                    let of_block = all.in_blocks.entry((base, block)).or_default();
                    of_block.push((behind, flow));
                } else {
                    let chain = all.in_chains.entry((table, base)).or_default();
                    chain.push((*position, flow));
                }
            }
        }
        Ok(all)
    }
}

/// Returns the names of the ipsets whose members custom rules of a family change (target `SET`).
pub(in crate::verify) fn changed_sets(plan: &Plan, family: Family) -> BTreeSet<String> {
    let customs = Customs::new(plan, family);
    let rulesets = customs.alone.values();
    rulesets.flat_map(analysis::changed_sets).collect()
}

/// What custom rules do, position by position.
#[derive(Clone, Debug, Default)]
pub(in crate::verify) struct CustomFlows {
    /// In base chains.
    in_chains: BTreeMap<(TableName, BaseChain), Vec<(CustomPosition, Flow)>>,
    /// In the blocks of a base chain, by their index, with the number of rules before each.
    in_blocks: BTreeMap<(BaseChain, usize), Vec<(usize, Flow)>>,
}

impl CustomFlows {
    /// Returns the custom rules of a base chain, to be merged with the rules or entries of the policy.
    pub fn of_chain(&self, place: (TableName, BaseChain)) -> CustomTurns {
        let flows = self.in_chains.get(&place).cloned().unwrap_or_default();
        CustomTurns(flows.into_iter().peekable())
    }

    /// Returns the custom rules of a block in a base chain that stand behind some numbers of rules of the policy.
    pub fn of_block(
        &self,
        chain: BaseChain,
        block: usize,
        numbers: RangeInclusive<usize>,
    ) -> Vec<Flow> {
        let flows = self.in_blocks.get(&(chain, block)).into_iter().flatten();
        let here = flows.filter(|(behind, _)| numbers.contains(behind));
        here.map(|(_, flow)| flow.clone()).collect()
    }
}

/// The custom rules of a base chain that have not been placed yet.
pub(in crate::verify) struct CustomTurns(Peekable<IntoIter<(CustomPosition, Flow)>>);

impl CustomTurns {
    /// Takes the rules at a position and before it.
    pub fn up_to(&mut self, position: CustomPosition) -> Vec<Flow> {
        let mut met = Vec::new();
        while let Some((_, flow)) = self.0.next_if(|(own, _)| *own <= position) {
            met.push(flow);
        }
        met
    }

    /// Takes the rules before the rule or entry with an index.
    pub fn before_entry(&mut self, index: usize) -> Vec<Flow> {
        self.up_to(CustomPosition::Behind(index))
    }
}

/// Returns steps that run custom rules for all packets.
pub(in crate::verify) fn steps(space: &Space, flows: Vec<Flow>) -> impl Iterator<Item = RuleStep> {
    let all = space.all();
    flows.into_iter().map(move |flow| RuleStep::run(all, flow))
}

/// Builds the ruleset of the custom rules at a position. Rules in chains of their own have no position: they are in each.
fn alone(plan: &Plan, family: Family, position: CustomPosition) -> Ruleset {
    let mut text = String::new();
    for table in [
        TableName::Raw,
        TableName::Mangle,
        TableName::Nat,
        TableName::Filter,
    ] {
        let here = || {
            plan.custom
                .iter()
                .filter(move |custom| table_of(custom) == table && custom.rules[family].is_some())
        };
        if here().next().is_none() {
            continue;
        }
        text += &format!("*{}\n", table.as_str());
        for base in table.base_chains() {
            text += &format!(":{base} ACCEPT [0:0]\n");
        }
        let mut own: Vec<&str> = Vec::new();
        for custom in here().filter(|custom| custom.place.is_none()) {
            if !own.contains(&custom.chain.as_str()) {
                own.push(&custom.chain);
                text += &format!(":{} - [0:0]\n", custom.chain);
            }
        }
        for custom in here().filter(|custom| custom.place.is_none_or(|other| other == position)) {
            let rule = custom.rules[family].as_deref().unwrap_or_default();
            let chains = match custom.place {
                Some(CustomPosition::InBlock { block, .. }) => {
                    let hooks = hooks(&plan.rules[block]).into_iter();
                    hooks.map(Hook::chain).collect()
                }
                _ => vec![custom.chain.as_str()],
            };
            for chain in chains {
                text += &format!("-A {chain} {rule}\n");
            }
        }
        text += "COMMIT\n";
    }
    // Cannot fail: the resolver has parsed each rule.
    Ruleset::from_text(&text, family).unwrap_or_else(|_| Ruleset::new(family))
}

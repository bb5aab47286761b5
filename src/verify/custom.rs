//! Custom rules: what they do is read from their own text, where they stand is the policy's word.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::analysis::{
    self, BaseChain, Flow, GaveUp, Reading, Space, Step, TextError, chain_flows,
};
use crate::iptables::{Rule, Ruleset, TableName};
use crate::net::{Family, IntervalSet};
use crate::policy::{CustomPlace, CustomTable};
use crate::resolve::{Custom, Plan};

/// The custom rules of one family.
pub(super) struct Customs {
    before: Ruleset,
    after: Ruleset,
    /// Table, chain and text of each.
    texts: HashSet<(TableName, String, String)>,
}

pub(super) fn table_of(custom: &Custom) -> TableName {
    match custom.table {
        CustomTable::Raw => TableName::Raw,
        CustomTable::Mangle => TableName::Mangle,
        CustomTable::Nat => TableName::Nat,
        CustomTable::Filter => TableName::Filter,
    }
}

impl Customs {
    /// Those of a plan.
    pub fn new(plan: &Plan, family: Family) -> Self {
        let of = |custom: &Custom| {
            let text = custom.rules[family].clone()?;
            Some((table_of(custom), custom.chain.clone(), text))
        };
        Self {
            before: alone(plan, family, CustomPlace::Before),
            after: alone(plan, family, CustomPlace::After),
            texts: plan.custom.iter().filter_map(of).collect(),
        }
    }

    /// The rules of a place by themselves, in base chains that accept the rest.
    pub fn alone(&self, place: CustomPlace) -> &Ruleset {
        match place {
            CustomPlace::Before => &self.before,
            CustomPlace::After => &self.after,
        }
    }

    /// Whether a rule is one of them.
    pub fn has(&self, table: TableName, chain: &str, rule: &Rule, family: Family) -> bool {
        if self.texts.is_empty() {
            return false;
        }
        // In shared mode base chains mean those of fwc.
        let own = chain.strip_prefix("FWC-").unwrap_or(chain);
        let text = rule.to_text(family);
        let has = |chain: &str| {
            self.texts
                .contains(&(table, chain.to_owned(), text.clone()))
        };
        has(own) || has(chain)
    }

    /// Whether there is one in a table.
    pub fn any_in(&self, table: TableName) -> bool {
        self.texts.iter().any(|(other, ..)| *other == table)
    }

    /// What they do at a place of each base chain.
    pub fn flows(
        &self,
        space: &Space,
        place: CustomPlace,
        sets: &BTreeMap<String, IntervalSet>,
    ) -> Result<BTreeMap<(TableName, BaseChain), Flow>, GaveUp> {
        let reading = Reading {
            sets,
            ..Reading::default()
        };
        let flows = match chain_flows(space, self.alone(place), &reading) {
            Ok(flows) => flows,
            Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
            // The rules files have the same mistake, and it is said of them.
            Err(_) => BTreeMap::new(),
        };
        let base = flows.into_iter().filter_map(|((table, chain), flow)| {
            Some(((table, BaseChain::from_name(&chain)?), flow))
        });
        Ok(base.collect())
    }
}

/// The sets that custom rules of a family add to or take from.
pub(super) fn changed_sets(plan: &Plan, family: Family) -> BTreeSet<String> {
    let customs = Customs::new(plan, family);
    let rulesets = [&customs.before, &customs.after].into_iter();
    rulesets.flat_map(analysis::changed_sets).collect()
}

/// The step that runs what stands at a base chain, where something does.
pub(super) fn step(
    space: &Space,
    flows: &BTreeMap<(TableName, BaseChain), Flow>,
    place: (TableName, BaseChain),
) -> Option<Step> {
    let flow = flows.get(&place)?;
    Some(Step::run(space.all(), flow.clone()))
}

fn alone(plan: &Plan, family: Family, place: CustomPlace) -> Ruleset {
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
        for custom in here().filter(|custom| custom.place.is_none_or(|other| other == place)) {
            let rule = custom.rules[family].as_deref().unwrap_or_default();
            text += &format!("-A {} {rule}\n", custom.chain);
        }
        text += "COMMIT\n";
    }
    // Each rule was read before.
    Ruleset::from_text(&text, family).unwrap_or_else(|_| Ruleset::new(family))
}

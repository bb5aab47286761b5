//! Custom rules as lines, at their places.

use super::context::{Chain, Group, Line};
use super::render::Origin;
use crate::net::Family;
use crate::policy::{CustomPlace, CustomTable};
use crate::resolve::{Custom, Plan};

/// Puts the custom rules of a table and family into its chains, and adds the chains that they make.
pub fn place(plan: &Plan, family: Family, table: CustomTable, chains: &mut Vec<Chain>) {
    let customs: Vec<(usize, &Custom)> = plan
        .custom
        .iter()
        .enumerate()
        .filter(|(_, custom)| custom.table == table && custom.rules[family].is_some())
        .collect();
    for chain in chains.iter_mut() {
        let at = |place: CustomPlace| -> Vec<Group> {
            let here = customs
                .iter()
                .filter(|(_, custom)| custom.place == Some(place) && custom.chain == chain.name);
            here.map(|(index, custom)| group(*index, custom, family))
                .collect()
        };
        let (before, after) = (at(CustomPlace::Before), at(CustomPlace::After));
        chain.groups.splice(0..0, before);
        chain.groups.extend(after);
    }
    let mut own: Vec<Chain> = Vec::new();
    for (index, custom) in customs.iter().filter(|(_, custom)| custom.place.is_none()) {
        match own.iter_mut().find(|chain| chain.name == custom.chain) {
            Some(chain) => chain.groups.push(group(*index, custom, family)),
            None => own.push(Chain {
                name: custom.chain.clone(),
                policy: "-",
                groups: vec![group(*index, custom, family)],
                ..Chain::default()
            }),
        }
    }
    chains.extend(own);
}

fn group(index: usize, custom: &Custom, family: Family) -> Group {
    Group {
        label: custom.label.clone(),
        lines: vec![Line {
            custom: custom.rules[family].clone(),
            origin: Origin::Custom(index).mark(),
            ..Line::default()
        }],
        ..Group::default()
    }
}

/// Whether custom rules stand in a base chain of the filter table, in either family.
pub fn any_in(plan: &Plan, chain: &str) -> bool {
    plan.custom
        .iter()
        .any(|custom| custom.table == CustomTable::Filter && custom.chain == chain)
}

//! Custom rules as lines, at their places.

use super::context::{Chain, Group, Line};
use super::render::Origin;
use crate::net::Family;
use crate::policy::{CustomPosition, CustomTable, Order};
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
        let of_chain: Vec<(usize, &Custom)> = customs
            .iter()
            .filter(|(_, custom)| custom.chain == chain.name)
            .copied()
            .collect();
        let at = |position: CustomPosition| -> Vec<Group> {
            let here = of_chain
                .iter()
                .filter(|(_, custom)| custom.place == Some(position));
            here.map(|(index, custom)| group(*index, custom, family))
                .collect()
        };
        let mut here: Vec<(usize, Group)> = of_chain
            .iter()
            .filter_map(|(index, custom)| match custom.place? {
                CustomPosition::Behind(count) => Some((count, group(*index, custom, family))),
                CustomPosition::Before | CustomPosition::After => None,
            })
            .collect();
        // Stable: custom rules between the same two rules stay as written.
        here.sort_by_key(|(count, _)| *count);
        let mut here = here.into_iter().peekable();
        let mut groups: Vec<Group> = at(CustomPosition::Before);
        for group in &chain.groups {
            // What is not a rule or an entry stands after all of them.
            let place = group.written.unwrap_or((Order::Last, 0));
            while let Some((_, custom)) =
                here.next_if(|(count, _)| (Order::Normal, *count) <= place)
            {
                groups.push(custom);
            }
            groups.push(group.clone());
        }
        groups.extend(here.map(|(_, custom)| custom));
        groups.extend(at(CustomPosition::After));
        chain.groups = groups;
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

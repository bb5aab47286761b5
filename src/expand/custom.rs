//! Expands custom rules to lines at their positions.

use super::context::{ChainContext, GroupContext, LineContext};
use super::origin::LineOrigin;
use crate::net::Family;
use crate::policy::{CustomPosition, CustomTable, Order};
use crate::resolve::{Plan, PlannedCustom};

/// Adds the custom rules of a table and family to its chains, and the chains that they create.
pub fn place(plan: &Plan, family: Family, table: CustomTable, chains: &mut Vec<ChainContext>) {
    let customs: Vec<(usize, &PlannedCustom)> = plan
        .custom
        .iter()
        .enumerate()
        .filter(|(_, custom)| custom.table == table && custom.rules[family].is_some())
        .collect();
    for chain in chains.iter_mut() {
        let of_chain: Vec<(usize, &PlannedCustom)> = customs
            .iter()
            .filter(|(_, custom)| custom.chain == chain.name)
            .copied()
            .collect();
        let at = |position: CustomPosition| -> Vec<GroupContext> {
            let here = of_chain
                .iter()
                .filter(|(_, custom)| custom.place == Some(position));
            here.map(|(index, custom)| group(*index, custom, family))
                .collect()
        };
        let mut here: Vec<(usize, GroupContext)> = of_chain
            .iter()
            .filter_map(|(index, custom)| match custom.place? {
                CustomPosition::Behind(count) => Some((count, group(*index, custom, family))),
                CustomPosition::Before | CustomPosition::After => None,
                CustomPosition::InBlock { .. } => None,
            })
            .collect();
        // A stable sort: custom rules between the same two rules keep the order of the policy.
        here.sort_by_key(|(count, _)| *count);
        let mut here = here.into_iter().peekable();
        let mut groups: Vec<GroupContext> = at(CustomPosition::Before);
        for group in &chain.groups {
            // Groups that are no rule or entry, such as accepts of nat, come after all of them.
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
    let mut own: Vec<ChainContext> = Vec::new();
    for (index, custom) in customs.iter().filter(|(_, custom)| custom.place.is_none()) {
        match own.iter_mut().find(|chain| chain.name == custom.chain) {
            Some(chain) => chain.groups.push(group(*index, custom, family)),
            None => own.push(ChainContext::own(
                custom.chain.clone(),
                vec![group(*index, custom, family)],
            )),
        }
    }
    chains.extend(own);
}

/// Returns the line of a custom rule.
pub fn group(index: usize, custom: &PlannedCustom, family: Family) -> GroupContext {
    GroupContext {
        label: custom.label.clone(),
        lines: vec![LineContext {
            custom: custom.rules[family].clone(),
            origin: LineOrigin::Custom(index).mark(),
            ..LineContext::default()
        }],
        ..GroupContext::default()
    }
}

/// Returns `true` if there are custom rules in a base chain of the filter table, in either family.
pub fn any_in(plan: &Plan, chain: &str) -> bool {
    plan.custom
        .iter()
        .any(|custom| custom.table == CustomTable::Filter && custom.chain == chain)
}

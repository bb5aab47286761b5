//! Expands `antispoof`: drops packets whose source belongs to the networks of another interface.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::context::{ChainContext, GroupContext, LineContext, NegatableContext};
use crate::net::{Family, address_of, prefix_length};
use crate::resolve::Plan;

/// Returns the chain that drops forged sources of a family; `None` if no interface has networks of it.
///
/// Longer prefixes come first, so that the longest one decides: packets from its own devices return, all others are
/// dropped.
pub fn chain(plan: &Plan, family: Family) -> Option<ChainContext> {
    if !plan.defaults[family].antispoof {
        return None;
    }
    let groups: Vec<_> = owners(plan, family)
        .into_iter()
        .map(|((Reverse(length), first), owners)| group(plan, family, first, length, &owners))
        .collect();
    (!groups.is_empty()).then(|| ChainContext {
        name: "FWC-ANTISPOOF".to_owned(),
        groups,
        ..ChainContext::default()
    })
}

/// Returns each prefix, the longest first, with the interfaces that have it in their `networks`.
fn owners(plan: &Plan, family: Family) -> BTreeMap<(Reverse<u8>, u128), Vec<usize>> {
    let mut owners: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, interface) in plan.interfaces.iter().enumerate() {
        for network in interface.networks.iter().filter(|n| n.family == family) {
            if let Some(length) = prefix_length(family, network.first, network.last) {
                let behind = owners.entry((Reverse(length), network.first)).or_default();
                if !behind.contains(&index) {
                    behind.push(index);
                }
            }
        }
    }
    owners
}

fn group(plan: &Plan, family: Family, first: u128, length: u8, owners: &[usize]) -> GroupContext {
    let address = address_of(family, first);
    let source = (length > 0).then(|| NegatableContext::plain(format!("{address}/{length}")));
    let to = |target: &str, device: Option<String>| LineContext {
        source: source.clone(),
        in_device: device.map(NegatableContext::plain),
        target: target.to_owned(),
        ..LineContext::default()
    };
    let interfaces: Vec<_> = owners
        .iter()
        .map(|owner| &plan.interfaces[*owner])
        .collect();
    let mut lines: Vec<_> = interfaces
        .iter()
        .flat_map(|interface| &interface.devices)
        .map(|device| to("RETURN", Some(device.to_string())))
        .collect();
    lines.push(to("DROP", None));
    let names: Vec<_> = interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    GroupContext {
        label: format!("{address}/{length} is behind {}", names.join(", ")),
        lines,
        ..GroupContext::default()
    }
}

//! Expands address conditions to matches of single lines.

use super::context::{NegatableContext, SetContext};
use super::sets;
use crate::net::{AddressSet, Family, IntervalSet, address_of, prefix_length};
use crate::resolve::{AddressCondition, Plan};

/// The match of one line for its source or destination.
#[derive(Clone, Debug, Default)]
pub struct AddressMatch {
    /// A prefix.
    pub prefix: Option<NegatableContext>,
    /// A range that is not a prefix, for `-m iprange`.
    pub range: Option<NegatableContext>,
    /// Sets; a packet must match all of them.
    pub sets: Vec<SetContext>,
}

/// The address that `-m set` looks up: `src` or `dst`.
pub type SetDirection = &'static str;

/// Returns the lines that together match exactly the packets whose address is in the condition and in the networks of a
/// zone; none if there is no such address in the family. Negated masks are left to [`left_out_masks`].
pub fn matches(
    plan: &Plan,
    addresses: Option<&AddressCondition>,
    networks: Option<&AddressSet>,
    family: Family,
    side: SetDirection,
) -> Vec<AddressMatch> {
    // Without this, a rule that matches nothing here would give its chain a preamble, which has effects of its own (it drops INVALID
    // packets).
    if addresses.is_some_and(|addresses| plan.excludes_all(addresses, networks, family)) {
        return Vec::new();
    }
    let networks = networks.map(|networks| networks.family(family));
    let Some(addresses) = addresses else {
        return match networks {
            None => vec![AddressMatch::default()],
            Some(networks) => positive(family, networks),
        };
    };
    let sets = addresses.sets.iter().map(|set| &plan.sets[*set]);
    let not = if addresses.negated { "! " } else { "" };
    let sets = sets.filter_map(|set| {
        Some(SetContext {
            not,
            name: sets::live_name(set, family)?,
            side: sets::ends(set, side, addresses.of_reply),
        })
    });
    let literals = addresses.listed.family(family);
    if addresses.negated {
        let not_in_sets: Vec<_> = sets.collect();
        let mut lines = match networks {
            None => negative(family, literals),
            Some(networks) => positive(family, &networks.difference(literals)),
        };
        for line in &mut lines {
            line.sets.clone_from(&not_in_sets);
        }
        return lines;
    }
    let mut lines = match networks {
        None => positive(family, literals),
        Some(networks) => positive(family, &networks.intersection(literals)),
    };
    for set in sets {
        let around = match networks {
            None => vec![AddressMatch::default()],
            Some(networks) => positive(family, networks),
        };
        lines.extend(around.into_iter().map(|line| AddressMatch {
            sets: vec![set.clone()],
            ..line
        }));
    }
    lines.extend(masked(addresses, networks, family));
    lines
}

/// Returns the lines for the addresses of a condition that have a mask. iptables takes one mask in a line, so a zone's
/// networks are ranges beside it.
fn masked(
    addresses: &AddressCondition,
    networks: Option<&IntervalSet>,
    family: Family,
) -> Vec<AddressMatch> {
    let mut lines = Vec::new();
    for asked in addresses.masks_of(family) {
        let line = AddressMatch {
            prefix: Some(NegatableContext::plain(asked.to_string())),
            ..AddressMatch::default()
        };
        let Some(networks) = networks else {
            lines.push(line);
            continue;
        };
        for (first, last) in networks.intervals() {
            if asked.next_from(*first).is_none_or(|next| next > *last) {
                continue;
            }
            let (start, end) = (address_of(family, *first), address_of(family, *last));
            lines.push(AddressMatch {
                range: Some(NegatableContext::plain(format!("{start}-{end}"))),
                ..line.clone()
            });
        }
    }
    lines
}

/// Returns the lines for the addresses with a mask that a negated condition leaves out: none of its own lines can.
pub fn left_out_masks(addresses: Option<&AddressCondition>, family: Family) -> Vec<AddressMatch> {
    let negated = addresses.filter(|addresses| addresses.negated);
    negated.map_or_else(Vec::new, |addresses| masked(addresses, None, family))
}

/// Returns `true` if a line asks for an address with a mask that is not that of a prefix.
pub fn has_mask(address: Option<&NegatableContext>) -> bool {
    let mask = address.and_then(|address| address.value.split_once('/'));
    mask.is_some_and(|(_, mask)| mask.contains(['.', ':']))
}

/// Returns the number of lines of [`matches`].
pub fn count(
    addresses: Option<&AddressCondition>,
    networks: Option<&AddressSet>,
    plan: &Plan,
    family: Family,
) -> usize {
    if addresses.is_some_and(|addresses| plan.excludes_all(addresses, networks, family)) {
        return 0;
    }
    let networks = networks.map(|networks| networks.family(family));
    let around = networks.map_or(1, |networks| networks.intervals().len());
    let Some(addresses) = addresses else {
        return around;
    };
    let literals = addresses.listed.family(family);
    let number = |set: &IntervalSet| set.intervals().len();
    if addresses.negated {
        return match (networks, literals.intervals()) {
            (Some(networks), _) => number(&networks.difference(literals)),
            (None, [] | [_]) => 1,
            (None, _) => number(&literals.complement(family.last_address())),
        };
    }
    let sets = addresses.sets.iter().map(|set| &plan.sets[*set]);
    let sets = sets.filter_map(|set| sets::live_name(set, family)).count();
    let plain = match networks {
        None => number(literals),
        Some(networks) => number(&networks.intersection(literals)),
    };
    plain
        .saturating_add(sets.saturating_mul(around))
        .saturating_add(masked(addresses, networks, family).len())
}

fn negative(family: Family, set: &IntervalSet) -> Vec<AddressMatch> {
    let last = family.last_address();
    match set.intervals() {
        [] => vec![AddressMatch::default()],
        [(0, end)] if *end == last => Vec::new(),
        [one] => vec![of_interval(family, *one, "! ")],
        // iptables cannot negate several addresses in one rule, so the complement is written as positive matches.
        _ => positive(family, &set.complement(last)),
    }
}

fn positive(family: Family, set: &IntervalSet) -> Vec<AddressMatch> {
    let intervals = set.intervals().iter();
    intervals
        .map(|interval| of_interval(family, *interval, ""))
        .collect()
}

fn of_interval(family: Family, (first, last): (u128, u128), not: &'static str) -> AddressMatch {
    let start = address_of(family, first);
    match prefix_length(family, first, last) {
        Some(0) => AddressMatch::default(),
        Some(length) => AddressMatch {
            prefix: Some(NegatableContext {
                not,
                value: format!("{start}/{length}"),
            }),
            ..AddressMatch::default()
        },
        None => AddressMatch {
            range: Some(NegatableContext {
                not,
                value: format!("{start}-{}", address_of(family, last)),
            }),
            ..AddressMatch::default()
        },
    }
}

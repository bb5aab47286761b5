//! Sets of addresses as matches of single lines.

use super::context::Negatable;
use crate::net::{AddressSet, Family, IntervalSet, address_of, prefix_length};
use crate::resolve::Addresses;

/// One line's address match.
#[derive(Clone, Debug)]
pub enum AddressMatch {
    /// Every address.
    All,
    /// A prefix.
    Prefix(Negatable),
    /// A range that is no prefix.
    Range(Negatable),
}

/// The lines that together match exactly what is in the addresses and in the networks of a zone; none when there
/// is nothing in the family.
pub fn matches(
    addresses: Option<&Addresses>,
    networks: Option<&AddressSet>,
    family: Family,
) -> Vec<AddressMatch> {
    let networks = networks.map(|networks| networks.family(family));
    let (addresses, networks) = match (addresses, networks) {
        (None, None) => return vec![AddressMatch::All],
        (None, Some(networks)) => return positive(family, networks),
        (Some(addresses), networks) => (addresses, networks),
    };
    if let Some(networks) = networks {
        let set = addresses.set.family(family);
        return positive(
            family,
            &if addresses.negated {
                networks.difference(set)
            } else {
                networks.intersection(set)
            },
        );
    }
    let set = addresses.set.family(family);
    let last = family.last_address();
    if addresses.negated {
        return match set.intervals() {
            [] => vec![AddressMatch::All],
            [(0, end)] if *end == last => Vec::new(),
            [one] => vec![of_interval(family, *one, "! ")],
            // "None of several" cannot be said by one line: what is left is said instead.
            _ => positive(family, &set.complement(last)),
        };
    }
    positive(family, set)
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
        Some(0) => AddressMatch::All,
        Some(length) => AddressMatch::Prefix(Negatable {
            not,
            value: format!("{start}/{length}"),
        }),
        None => AddressMatch::Range(Negatable {
            not,
            value: format!("{start}-{}", address_of(family, last)),
        }),
    }
}

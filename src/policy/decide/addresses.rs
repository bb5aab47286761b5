//! Whether an address is meant by `source` or `destination`.

use std::net::IpAddr;

use crate::net::{AddressRange, Family, address_of, number_of};
use crate::policy::{AddressExpression, AddressItem, Policy};
use crate::source::Located;

/// Whether the expression means the address.
pub(super) fn meant(policy: &Policy, expression: &AddressExpression, address: IpAddr) -> bool {
    any_is(policy, &expression.items, address) != expression.negated
}

/// Whether any address of the family is meant by the expression and is in the networks, where they are asked.
///
/// Both are made of ranges by OR, NOT and exclusion, so if there is an address at all, one is the first of the family,
/// the first of a range or the one behind a range.
pub(super) fn exist(
    policy: &Policy,
    expression: Option<&AddressExpression>,
    networks: Option<&[Located<AddressItem>]>,
    family: Family,
) -> bool {
    let mut literals = Vec::new();
    let items = expression.map(|expression| expression.items.as_slice());
    for items in [items, networks].into_iter().flatten() {
        collect(policy, items, &mut literals);
    }
    let behind = |range: &AddressRange| range.last.checked_add(1);
    let borders = literals
        .iter()
        .filter(|range| range.family == family)
        .flat_map(|range| [Some(range.first), behind(range)])
        .flatten()
        .filter(|number| *number <= family.last_address());
    std::iter::once(0).chain(borders).any(|number| {
        let address = address_of(family, number);
        expression.is_none_or(|expression| meant(policy, expression, address))
            && networks.is_none_or(|networks| any_is(policy, networks, address))
    })
}

/// Whether an address is one of the items.
pub(super) fn any_is(policy: &Policy, items: &[Located<AddressItem>], address: IpAddr) -> bool {
    items.iter().any(|item| is(policy, &item.value, address))
}

fn is(policy: &Policy, item: &AddressItem, address: IpAddr) -> bool {
    match item {
        AddressItem::Literal(range) => within(range, address),
        AddressItem::Name(name) => policy.addresses.get(name).is_some_and(|group| {
            any_is(policy, &group.value.include, address)
                && !any_is(policy, &group.value.exclude, address)
        }),
    }
}

fn within(range: &AddressRange, address: IpAddr) -> bool {
    let family = if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    range.family == family && (range.first..=range.last).contains(&number_of(address))
}

fn collect(policy: &Policy, items: &[Located<AddressItem>], into: &mut Vec<AddressRange>) {
    for item in items {
        match &item.value {
            AddressItem::Literal(range) => into.push(*range),
            AddressItem::Name(name) => {
                if let Some(group) = policy.addresses.get(name) {
                    collect(policy, &group.value.include, into);
                    collect(policy, &group.value.exclude, into);
                }
            }
        }
    }
}

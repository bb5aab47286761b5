//! Decides whether an address matches `source` or `destination`.

use std::cell::Cell;
use std::net::IpAddr;

use super::{Circumstance, Evaluation};
use crate::net::{AddressMask, AddressRange, Family, SetEnds, SetType, address_of, number_of};
use crate::policy::{AddressExpression, AddressItem, GroupKind, Policy};
use crate::source::Located;

impl Evaluation<'_> {
    /// Returns `true` if `address` matches the expression. `source` tells whether it is the packet's source or destination.
    pub(super) fn matches_addresses(
        &self,
        expression: &AddressExpression,
        address: IpAddr,
        source: bool,
    ) -> bool {
        self.is_any(&expression.items, address, source) != expression.negated
    }

    /// Returns `true` if `address` matches one of the items.
    pub(super) fn is_any(
        &self,
        items: &[Located<AddressItem>],
        address: IpAddr,
        source: bool,
    ) -> bool {
        let is_member = |name: &str, kind: SetType| {
            // A member with a port has the one that the packet goes to.
            let port = match kind {
                SetType::Net | SetType::Address => None,
                SetType::NetPort | SetType::AddressPort => Some(false),
            };
            let ends = SetEnds::of(source, port);
            (self.holds)(Circumstance::InSet { name, ends })
        };
        any_is(self.policy, items, address, true, &is_member)
    }
}

/// Returns `true` if some address of the family matches the expression and is in the networks, if there are any.
///
/// Both combine ranges by OR, NOT and exclusion, so that the answer changes only at the borders of ranges. It is enough
/// to try the first address of the family, the first of each range, the first after each range, and from each of these on
/// the first that has a mask. Negated masks do not count: but for very small networks they leave some address.
pub(super) fn exist(
    policy: &Policy,
    expression: Option<&AddressExpression>,
    networks: Option<&[Located<AddressItem>]>,
    family: Family,
) -> bool {
    // A dynamic set may contain any address, or not.
    let is_one = |number: u128| {
        let address = address_of(family, number);
        [true, false].into_iter().any(|full| {
            let is = |items, masks| any_is(policy, items, address, masks, &|_: &str, _| full);
            let meant = expression.is_none_or(|e| is(&e.items, !e.negated) != e.negated);
            meant && networks.is_none_or(|networks| is(networks, true))
        })
    };
    let is_border = |range: &AddressRange| {
        let behind = range.last.checked_add(1);
        let borders = [Some(range.first), behind].into_iter().flatten();
        range.family == family
            && borders
                .filter(|number| *number <= family.last_address())
                .any(is_one)
    };
    let items = expression.map(|expression| expression.items.as_slice());
    let mut lists = [items, networks].into_iter().flatten();
    let is_under = |mask: &AddressMask| {
        let is_next = |number: u128| mask.next_from(number).is_some_and(is_one);
        let from_border = |range: &AddressRange| {
            let mut borders = [Some(range.first), range.last.checked_add(1)]
                .into_iter()
                .flatten();
            range.family == family
                && borders.any(|number| number <= family.last_address() && is_next(number))
        };
        let networks = networks.unwrap_or_default();
        mask.family == family && (is_next(0) || any_range(policy, networks, &from_border))
    };
    lists.any(|items| any_range(policy, items, &is_border))
        || is_one(0)
        || items.is_some_and(|items| any_mask(policy, items, &is_under))
}

/// Returns `true` if an expression leaves addresses with a mask out.
pub(super) fn leaves_out_masks(policy: &Policy, expression: Option<&AddressExpression>) -> bool {
    expression.is_some_and(|expression| {
        expression.negated && any_mask(policy, &expression.items, &|_| true)
    })
}

/// Returns `true` if an address matches one of the items; those with a mask only with `masks`. `is_in_dynamic` answers for
/// dynamic sets.
fn any_is(
    policy: &Policy,
    items: &[Located<AddressItem>],
    address: IpAddr,
    masks: bool,
    is_in_dynamic: &dyn Fn(&str, SetType) -> bool,
) -> bool {
    items.iter().any(|item| match &item.value {
        AddressItem::Literal(range) => within(range, address),
        AddressItem::Mask(mask) => {
            masks
                && mask.family == Family::of(address)
                && number_of(address) & mask.mask == mask.value
        }
        AddressItem::Name(name) => policy.addresses.get(name).is_some_and(|group| {
            let any = |items| any_is(policy, items, address, masks, is_in_dynamic);
            match group.value.kind {
                GroupKind::Dynamic(set) => is_in_dynamic(name, set.kind),
                GroupKind::Plain | GroupKind::Set => {
                    any(&group.value.include) && !any(&group.value.exclude)
                }
            }
        }),
    })
}

/// Returns the only address of a family in a group; `None` if it has none.
pub(super) fn only_address(
    policy: &Policy,
    group: &Located<String>,
    family: Family,
) -> Option<AddressRange> {
    let name = AddressItem::Name(group.value.clone());
    let group = [Located::new(name, group.span)];
    let found = Cell::new(None);
    let is_it = |number: u128| {
        let is_member = number <= family.last_address()
            && any_is(
                policy,
                &group,
                address_of(family, number),
                true,
                &|_: &str, _| false,
            );
        if is_member {
            found.set(Some(number));
        }
        is_member
    };
    // A part of a range may be excluded: then the address is the first of the range or the first after an excluded range.
    any_range(policy, &group, &|range| {
        let borders = [Some(range.first), range.last.checked_add(1)];
        range.family == family && borders.into_iter().flatten().any(is_it)
    });
    let number = found.get()?;
    Some(AddressRange {
        family,
        first: number,
        last: number,
    })
}

/// Returns `true` if an address is in a range of its family.
pub(super) fn within(range: &AddressRange, address: IpAddr) -> bool {
    range.family == Family::of(address) && (range.first..=range.last).contains(&number_of(address))
}

/// Returns `true` if `holds` does for one of the ranges of the items, or of the groups that they name.
fn any_range(
    policy: &Policy,
    items: &[Located<AddressItem>],
    holds: &dyn Fn(&AddressRange) -> bool,
) -> bool {
    items.iter().any(|item| match &item.value {
        AddressItem::Literal(range) => holds(range),
        AddressItem::Mask(_) => false,
        AddressItem::Name(name) => policy.addresses.get(name).is_some_and(|group| {
            let any = |items| any_range(policy, items, holds);
            any(&group.value.include) || any(&group.value.exclude)
        }),
    })
}

/// Returns `true` if `holds` does for one of the masks of the items, or of the groups that they name.
fn any_mask(
    policy: &Policy,
    items: &[Located<AddressItem>],
    holds: &dyn Fn(&AddressMask) -> bool,
) -> bool {
    items.iter().any(|item| match &item.value {
        AddressItem::Literal(_) => false,
        AddressItem::Mask(mask) => holds(mask),
        AddressItem::Name(name) => policy
            .addresses
            .get(name)
            .is_some_and(|group| any_mask(policy, &group.value.include, holds)),
    })
}

//! Finds the rules that can be checked. A rule that names a definition with an error would only repeat that error; all
//! other rules are checked at once, so that one run reports as much as possible.

use std::collections::HashSet;

use crate::policy::{
    AddressExpression, AddressGroup, AddressItem, Definitions, GroupKind, Policy, PolicyRule,
    PolicyZone, ServiceItem, catalog,
};
use crate::source::Located;

/// The definitions without errors that use only such definitions.
pub struct Sound<'p> {
    addresses: HashSet<&'p str>,
    places: HashSet<&'p str>,
    services: HashSet<&'p str>,
}

impl<'p> Sound<'p> {
    /// Checks every definition of a policy.
    pub fn new(policy: &'p Policy) -> Self {
        let all = |group: &'p AddressGroup| {
            names(group.include.iter().chain(&group.exclude)).collect::<Vec<_>>()
        };
        // The members of a dynamic set are not known here: rules may name it, a zone or an `exclude` may not.
        let known = closure(&policy.addresses, HashSet::new(), |group| {
            let is_dynamic = matches!(group.kind, GroupKind::Dynamic { .. });
            (!is_dynamic).then(|| all(group))
        });
        let addresses = closure(&policy.addresses, HashSet::new(), |group| {
            let may_be_dynamic = group.kind == GroupKind::Plain && group.exclude.is_empty();
            let good = may_be_dynamic || all(group).iter().all(|name| known.contains(name));
            good.then(|| all(group))
        });
        let interfaces = policy.interfaces.names();
        let interfaces = interfaces.filter(|name| !policy.interfaces.was_refused(name));
        let interfaces: HashSet<_> = interfaces.collect();
        let named = interfaces.iter().copied().chain(["any", "host"]).collect();
        // `any` and `host` are allowed in rules, but not in a zone.
        let is_zone = |name: &&str| !["any", "host"].contains(name);
        let places = closure(&policy.zones, named, |zone| match zone {
            PolicyZone::Union(names) => {
                let names: Vec<_> = texts(names).collect();
                names.iter().all(is_zone).then_some(names)
            }
            PolicyZone::Hosts {
                interfaces: named,
                networks,
                ipsec: _,
            } => {
                let networks = names(networks.iter().flatten()).all(|name| known.contains(name));
                let named = texts(named.iter().flatten()).all(|name| interfaces.contains(name));
                (networks && named).then(Vec::new)
            }
        });
        let own = &policy.services;
        let used = own.iter().flat_map(|service| texts(&service.value.include));
        let built_in = used.filter(|name| own.get(name).is_none() && catalog(name).is_some());
        let built_in = built_in.collect();
        let services = closure(own, built_in, |service| {
            Some(texts(&service.include).collect())
        });
        Self {
            addresses,
            places,
            services,
        }
    }

    /// Returns `true` if a list of group names has sound groups only.
    pub fn has_groups<'n>(&self, mut groups: impl Iterator<Item = &'n str>) -> bool {
        groups.all(|name| self.addresses.contains(name))
    }

    /// Returns `true` if a rule names sound definitions only.
    pub fn has(&self, policy: &Policy, rule: &PolicyRule) -> bool {
        let places = [&rule.from, &rule.not_from, &rule.to, &rule.not_to];
        let places = places.into_iter().flatten();
        let mut places = places.flat_map(texts);
        let before = rule.original.as_ref();
        let written = before.and_then(|one| one.destination.as_ref());
        let addresses = [&rule.source, &rule.destination].into_iter().flatten();
        let addresses = addresses.chain(written);
        let mut addresses = addresses.flat_map(|list: &AddressExpression| names(&list.items));
        let written = before.and_then(|one| one.service.as_ref());
        let services = [rule.service.as_ref(), rule.not_service.as_ref(), written];
        let mut services = services.into_iter().flatten().flatten();
        places.all(|name| self.places.contains(name))
            && addresses.all(|name| self.addresses.contains(name))
            && services.all(|item| match &item.value {
                ServiceItem::Ports(..) => true,
                ServiceItem::Name(name) => match policy.services.get(name) {
                    Some(_) => self.services.contains(name.as_str()),
                    None => catalog(name).is_some() && !policy.services.was_refused(name),
                },
            })
    }
}

/// Returns `sound` with the definitions that use only sound ones. Definitions in a circle never become sound. `uses`
/// returns the names that a definition uses, or `None` if the definition has an error.
fn closure<'p, T>(
    definitions: &'p Definitions<T>,
    mut sound: HashSet<&'p str>,
    uses: impl Fn(&'p T) -> Option<Vec<&'p str>>,
) -> HashSet<&'p str> {
    let mut open: Vec<_> = definitions
        .iter()
        .filter(|definition| !definitions.was_refused(&definition.name.value))
        .filter_map(|definition| Some((definition.name.value.as_str(), uses(&definition.value)?)))
        .collect();
    loop {
        let before = open.len();
        open.retain(|(name, used)| {
            let is_sound = used.iter().all(|used| sound.contains(used));
            if is_sound {
                sound.insert(name);
            }
            !is_sound
        });
        if open.len() == before {
            return sound;
        }
    }
}

fn names<'p>(
    items: impl IntoIterator<Item = &'p Located<AddressItem>>,
) -> impl Iterator<Item = &'p str> {
    items.into_iter().filter_map(|item| match &item.value {
        AddressItem::Name(name) => Some(name.as_str()),
        AddressItem::Literal(_) | AddressItem::Mask(_) => None,
    })
}

fn texts<'p>(list: impl IntoIterator<Item = &'p Located<String>>) -> impl Iterator<Item = &'p str> {
    list.into_iter().map(|text| text.value.as_str())
}

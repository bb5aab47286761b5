//! Finds what is allowed but probably not meant.

use std::collections::HashSet;

use super::plan::{AddressCondition, Endpoint, Plan, PlannedNat, PlannedRule, PlannedTranslation};
use crate::diag::Sink;
use crate::lints::{
    any_is_forward, forward_untested, large_list, limit_table, recent_families, unused_name,
};
use crate::net::{Family, Hook, PerFamily};
use crate::policy::{
    self, AddressItem, Definition, Definitions, LimitRate, LogChoice, Policy, PolicyZone,
    RuleLimit, ServiceItem,
};
use crate::source::{FileId, Located, Span};

/// The number of lines from which a set is better than a list.
const LARGE: usize = 64;

/// Reports rules whose addresses become many lines.
pub fn large_lists(plan: &Plan, policy: &Policy, sink: &mut Sink) {
    let mut seen = HashSet::new();
    for (rule, written) in plan.rules.iter().zip(&policy.rules) {
        let sides = [
            (&rule.source, &written.source),
            (&rule.destination, &written.destination),
        ];
        for (addresses, written) in sides {
            let (Some(addresses), Some(written)) = (addresses, written) else {
                continue;
            };
            let lines = lines(addresses);
            if lines < LARGE {
                continue;
            }
            // A group is reported once, where it is defined, however many rules name it.
            let group = written.items.iter().find_map(|item| match &item.value {
                AddressItem::Name(name) => policy.addresses.get(name),
                AddressItem::Literal(_) | AddressItem::Mask(_) => None,
            });
            let span = group.map_or(written.span, |group| group.name.span);
            if seen.insert(span) {
                sink.report(large_list::finding(span, lines));
            }
        }
    }
}

/// Reports limits in a window: the kernel keeps few addresses for each.
pub fn limit_tables(policy: &Policy, sink: &mut Sink) {
    let of_rules = policy.rules.iter().filter_map(|rule| match &rule.limit {
        Some(RuleLimit::Own(limit)) => Some(limit),
        Some(RuleLimit::Named(_)) | None => None,
    });
    let named = policy.limits.iter().map(|limit| &limit.value);
    for limit in of_rules.chain(named) {
        if matches!(limit.rate, LimitRate::Window(_)) {
            sink.report(limit_table::finding(limit.span));
        }
    }
}

/// Reports lists of `recent` that `match` and custom rules of both families use.
pub fn recent_families(plan: &Plan, sink: &mut Sink) {
    let entries = plan.rules.iter();
    let entries = entries.chain(plan.nat.iter().map(|entry| &entry.packets));
    let entries = entries.chain(plan.mangle.iter().map(|entry| &entry.packets));
    let entries = entries.chain(plan.raw.iter().map(|entry| &entry.packets));
    let enabled = entries.filter(|entry| entry.enabled);
    let matches = enabled.filter_map(|entry| Some((entry, entry.matches.as_ref()?)));
    let customs = plan.custom.iter();
    let customs = customs.map(|custom| (custom.span, &custom.rules));
    let mut lists = PerFamily::<Vec<(&str, Span)>>::default();
    for family in Family::ALL {
        let has = |entry: &PlannedRule| entry.scope.is_none_or(|scope| scope.has(family));
        let of_matches = matches.clone().filter(|(entry, _)| has(entry));
        let of_matches = of_matches.map(|(entry, asked)| (entry.span, &asked.texts));
        for (span, texts) in of_matches.chain(customs.clone()) {
            let names = texts[family].as_deref().into_iter().flat_map(recent_lists);
            lists[family].extend(names.map(|name| (name, span)));
        }
    }
    let mut seen = HashSet::new();
    for (name, span) in &lists.v6 {
        let other = lists.v4.iter().find(|(other, _)| other == name);
        if let Some((_, other)) = other.filter(|_| seen.insert(name)) {
            sink.report(recent_families::finding(*span, name, *other));
        }
    }
}

/// Returns the names of the lists of `recent` in matches as `iptables-save` prints them.
fn recent_lists(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("-m ").filter(|part| part.starts_with("recent "));
    parts.filter_map(|part| part.split_once("--name ")?.1.split(' ').next())
}

/// Reports rules from `any` to `any`: they apply to FORWARD only, since `any` never includes this host.
pub fn any_is_forward(policy: &Policy, sink: &mut Sink) {
    let is_any = |places: &[Located<String>]| places.iter().all(|place| place.value == "any");
    for rule in &policy.rules {
        // A rule of a block has the `from` of the block.
        if rule.in_block.is_some() {
            continue;
        }
        let from_any = rule.from.as_deref().is_none_or(is_any) && rule.not_from.is_none();
        let to = rule.to.as_deref().filter(|to| from_any && is_any(to));
        if let Some(first) = to.and_then(<[_]>::first) {
            sink.report(any_is_forward::finding(first.span));
        }
    }
}

/// Reports the first rule that lets packets pass through this host if the policy has tests, but none for such packets.
pub fn forward_untested(plan: &Plan, sink: &mut Sink) {
    let forwards = |rule: &PlannedRule| {
        let is_host = |place: &Endpoint| *place == Endpoint::Host;
        let to = rule.to.as_ref();
        let from_elsewhere = rule
            .from
            .as_ref()
            .is_none_or(|from| !from.iter().all(is_host));
        from_elsewhere && to.is_some_and(|to| !to.iter().all(is_host))
    };
    let accepts = |rule: &&PlannedRule| rule.enabled && rule.accepts() && forwards(rule);
    if plan.tests.is_empty() || plan.tests.iter().any(|test| forwards(&test.packets)) {
        return;
    }
    let translates = |nat: &&PlannedNat| {
        nat.packets.enabled
            && matches!(
                nat.translation,
                PlannedTranslation::Dnat { accept: true, .. }
            )
    };
    let nat = plan.nat.iter().find(translates).map(|nat| &nat.packets);
    if let Some(rule) = plan.rules.iter().find(accepts).or(nat) {
        sink.report(forward_untested::finding(rule.span));
    }
}

fn lines(addresses: &AddressCondition) -> usize {
    let of = |family: Family| {
        let masks = addresses.masks_of(family).count();
        addresses.listed.family(family).intervals().len() + masks
    };
    of(Family::V4).max(of(Family::V6))
}

/// Reports names that the root file defines and nothing uses. Included files are left out: several policies often share
/// them, and none needs all of their names.
pub fn unused_names(policy: &Policy, root: FileId, sink: &mut Sink) {
    let used = Used::of(policy);
    let mut report = |what: &str, name: &Located<String>, used: bool| {
        if !used && name.span.file == root {
            sink.report(unused_name::finding(name.span, what, &name.value));
        }
    };
    for name in names(&policy.interfaces) {
        // An interface with networks is in use without being named: `antispoof` and nat read them.
        let interface = policy.interfaces.get(&name.value);
        let serves = interface.is_some_and(|interface| !interface.value.networks.is_empty());
        report(
            "interface",
            name,
            serves || used.places.contains(name.value.as_str()),
        );
    }
    for name in names(&policy.zones) {
        report("zone", name, used.places.contains(name.value.as_str()));
    }
    for name in names(&policy.addresses) {
        report(
            "address group",
            name,
            used.addresses.contains(name.value.as_str()),
        );
    }
    for name in names(&policy.services) {
        report("service", name, used.services.contains(name.value.as_str()));
    }
    for name in names(&policy.limits) {
        report("limit", name, used.limits.contains(name.value.as_str()));
    }
    for name in names(&policy.log_classes) {
        let built_in = ["default", "denied"].contains(&name.value.as_str());
        report(
            "log class",
            name,
            built_in || used.classes.contains(name.value.as_str()),
        );
    }
}

fn names<T>(definitions: &Definitions<T>) -> impl Iterator<Item = &Located<String>> {
    definitions
        .iter()
        .map(|definition: &Definition<T>| &definition.name)
}

/// Every name that something refers to.
#[derive(Default)]
struct Used<'p> {
    places: HashSet<&'p str>,
    addresses: HashSet<&'p str>,
    services: HashSet<&'p str>,
    classes: HashSet<&'p str>,
    limits: HashSet<&'p str>,
    /// Texts with matches of iptables, which may name devices and sets of the policy.
    named_in_text: Vec<&'p str>,
}

impl<'p> Used<'p> {
    fn of(policy: &'p Policy) -> Self {
        let mut used = Self::default();
        for rule in &policy.rules {
            used.rule(rule);
        }
        for entry in &policy.nat {
            used.rule(&entry.packets);
            let groups = entry.translation.iter().flat_map(|it| it.groups());
            used.addresses.extend(groups);
        }
        for test in &policy.tests {
            used.rule(&test.packets);
        }
        for entry in &policy.mangle {
            used.rule(&entry.packets);
        }
        for entry in &policy.raw {
            used.rule(&entry.packets);
        }
        for zone in policy.zones.iter() {
            match &zone.value {
                PolicyZone::Union(names) => used.places.extend(texts(names)),
                PolicyZone::Hosts {
                    interfaces,
                    networks,
                    ipsec: _,
                } => {
                    used.places
                        .extend(interfaces.iter().flat_map(|names| texts(names)));
                    used.items(networks.iter().flatten());
                }
            }
        }
        for group in policy.addresses.iter() {
            used.items(group.value.include.iter().chain(&group.value.exclude));
        }
        for service in policy.services.iter() {
            used.services.extend(texts(&service.value.include));
        }
        for rule in policy
            .custom
            .iter()
            .filter_map(|custom| custom.rule.as_ref())
        {
            used.custom(policy, &rule.value);
        }
        for text in std::mem::take(&mut used.named_in_text) {
            used.custom(policy, text);
        }
        let defaults = &policy.defaults;
        for table in [&defaults.both, &defaults.own.v4, &defaults.own.v6] {
            for hook in Hook::ALL {
                let log = table.log[hook].as_ref();
                used.classes
                    .extend(log.and_then(|class| class.value.as_deref()));
            }
        }
        used
    }

    fn rule(&mut self, rule: &'p policy::PolicyRule) {
        #[rustfmt::skip]
        let policy::PolicyRule {
    from, to, source, destination, service, original, matches, limit, log, not_from, not_to, not_service,
            // Not reported: one list of accounts often serves several hosts.
            user: _, group: _,
            // These name nothing that the policy defines.
            span: _, name: _, comment: _, action: _, ipset: _, scope: _, state: _, stage: _, order: _, mark: _,
            mac: _, tcp_flags: _, connections: _, schedule: _, expires: _, reject_with: _, enabled: _,
            complete: _, block: _, in_block: _,
        } = rule;
        for places in [from, not_from, to, not_to].into_iter().flatten() {
            self.places.extend(texts(places));
        }
        for addresses in [source, destination].into_iter().flatten() {
            self.items(&addresses.items);
        }
        let before = original.as_ref().and_then(|one| one.service.as_ref());
        let services = [service.as_ref(), not_service.as_ref(), before];
        for item in services.into_iter().flatten().flatten() {
            if let ServiceItem::Name(name) = &item.value {
                self.services.insert(name);
            }
        }
        if let Some(destination) = original.as_ref().and_then(|one| one.destination.as_ref()) {
            self.items(&destination.items);
        }
        if let Some(text) = matches {
            self.named_in_text.push(&text.value);
        }
        if let Some(RuleLimit::Named(limit)) = limit {
            self.limits.insert(&limit.value);
        }
        if let Some(LogChoice::Class(class)) = log.as_ref().map(|log| &log.value) {
            self.classes.insert(class);
        }
    }

    /// Adds the interfaces and address groups that a custom rule names, by their devices and ipsets.
    fn custom(&mut self, policy: &'p Policy, rule: &str) {
        let words = || {
            rule.split_whitespace()
                .map(|word| word.trim_matches(['"', '\'']))
        };
        for interface in policy.interfaces.iter() {
            let mut devices = interface.value.devices.iter();
            if devices.any(|device| {
                words().any(|word| device.value.as_str() == word || device.value.matches(word))
            }) {
                self.places.insert(&interface.name.value);
            }
        }
        for group in names(&policy.addresses) {
            let of_group = |word: &str| {
                let name = word.strip_prefix("fwc4-").or(word.strip_prefix("fwc6-"));
                name == Some(&*group.value)
            };
            if words().any(of_group) {
                self.addresses.insert(&group.value);
            }
        }
    }

    fn items(&mut self, items: impl IntoIterator<Item = &'p Located<AddressItem>>) {
        self.addresses
            .extend(items.into_iter().filter_map(|item| match &item.value {
                AddressItem::Name(name) => Some(name.as_str()),
                AddressItem::Literal(_) | AddressItem::Mask(_) => None,
            }));
    }
}

fn texts(names: &[Located<String>]) -> impl Iterator<Item = &str> {
    names.iter().map(|name| name.value.as_str())
}

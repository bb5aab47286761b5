//! Resolves the names in address lists to addresses and sets.

use std::collections::HashMap;

use super::plan::{AddressCondition, AddressGroupSet, Members};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{AddressMask, AddressSet};
use crate::policy::{AddressExpression, AddressItem, GroupKind, Policy};
use crate::source::{Located, Span};

/// The groups of `[addresses]`. Each is resolved once, so that its errors are reported once, however many rules name it.
pub struct Groups {
    groups: HashMap<String, Group>,
    sets: Vec<AddressGroupSet>,
}

/// The meaning of a list or of a group.
#[derive(Clone, Debug, Default)]
struct Group {
    /// The condition of a rule that names it.
    named: AddressCondition,
    /// All members that the policy lists, both those written into rules and those kept in a set.
    contents: AddressSet,
    /// The place of a dynamic set in it: such a set has members that the policy does not know.
    dynamic: Option<Span>,
    /// The place of an address with a mask in it, which is no set of prefixes.
    masked: Option<Span>,
}

impl Groups {
    /// Resolves every group, used or not, so that a mistake in one is never found late.
    pub fn new(policy: &Policy, sink: &mut Sink) -> Self {
        let mut groups = Self {
            groups: HashMap::new(),
            sets: Vec::new(),
        };
        for definition in policy.addresses.iter() {
            groups.group(policy, &definition.name.value, &mut Vec::new(), sink);
        }
        groups
    }

    /// Returns the groups without dynamic sets and masks, in the order of the policy.
    pub fn names(&self, policy: &Policy) -> Vec<(String, AddressSet)> {
        let named = policy.addresses.iter().filter_map(|definition| {
            let name = &definition.name.value;
            let group = self
                .groups
                .get(name)
                .filter(|group| group.dynamic.is_none() && group.masked.is_none())?;
            Some((name.clone(), group.contents.clone()))
        });
        named.collect()
    }

    /// Returns the sets that the groups need; [`AddressCondition::sets`] are indices into them.
    pub fn into_sets(self) -> Vec<AddressGroupSet> {
        self.sets
    }

    /// Resolves a rule's `source` or `destination`.
    pub fn expression(
        &mut self,
        policy: &Policy,
        expression: Option<&AddressExpression>,
        sink: &mut Sink,
    ) -> Option<AddressCondition> {
        let expression = expression?;
        let list = self.list(policy, &expression.items, &mut Vec::new(), sink);
        Some(AddressCondition {
            negated: expression.negated,
            ..list.named
        })
    }

    /// Resolves a list whose addresses must be known, such as the networks of a zone. `what` names its owner in an error.
    pub fn known(
        &mut self,
        policy: &Policy,
        items: &[Located<AddressItem>],
        what: &str,
        sink: &mut Sink,
    ) -> AddressSet {
        let list = self.list(policy, items, &mut Vec::new(), sink);
        refuse_dynamic(list.dynamic, what, sink);
        refuse_masks(list.masked, what, sink);
        list.contents
    }

    /// Resolves a list. `open` holds the groups that are being resolved, which finds a group that includes itself.
    fn list(
        &mut self,
        policy: &Policy,
        items: &[Located<AddressItem>],
        open: &mut Vec<String>,
        sink: &mut Sink,
    ) -> Group {
        let literals = items.iter().filter_map(|item| match &item.value {
            AddressItem::Literal(range) => Some(*range),
            AddressItem::Name(_) | AddressItem::Mask(_) => None,
        });
        let literals = AddressSet::from_ranges(literals);
        let mut list = Group {
            contents: literals.clone(),
            ..Group::default()
        };
        list.named.listed = literals;
        for item in items {
            let name = match &item.value {
                AddressItem::Name(name) => name,
                AddressItem::Mask(mask) => {
                    list.add_mask(*mask);
                    list.masked = list.masked.or(Some(item.span));
                    continue;
                }
                AddressItem::Literal(_) => continue,
            };
            if policy.addresses.was_refused(name) {
                continue;
            }
            if policy.addresses.get(name).is_none() {
                sink.report(unknown(policy, &Located::new(name.as_str(), item.span)));
                continue;
            }
            if let Some(at) = open.iter().position(|open| open == name) {
                let circle: Vec<_> = open[at..].iter().chain([name]).cloned().collect();
                let message = format!("`{name}` is defined in terms of itself");
                sink.report(
                    Diagnostic::error(Code::DefinitionLoop, item.span, message)
                        .with_note(circle.join(" names ")),
                );
                continue;
            }
            let group = self.group(policy, name, open, sink);
            list.named.listed = list.named.listed.union(&group.named.listed);
            for set in group.named.sets {
                if !list.named.sets.contains(&set) {
                    list.named.sets.push(set);
                }
            }
            for mask in group.named.masks {
                list.add_mask(mask);
            }
            list.masked = list.masked.or(group.masked.map(|_| item.span));
            list.contents = list.contents.union(&group.contents);
            list.dynamic = list.dynamic.or(group.dynamic.map(|_| item.span));
        }
        list
    }

    fn group(
        &mut self,
        policy: &Policy,
        name: &str,
        open: &mut Vec<String>,
        sink: &mut Sink,
    ) -> Group {
        if let Some(known) = self.groups.get(name) {
            return known.clone();
        }
        let Some(definition) = policy.addresses.get(name) else {
            return Group::default();
        };
        open.push(name.to_owned());
        let written = &definition.value;
        let include = self.list(policy, &written.include, open, sink);
        let exclude = self.list(policy, &written.exclude, open, sink);
        open.pop();
        // Only the kernel knows the members of a dynamic set, so they cannot be subtracted here.
        refuse_dynamic(exclude.dynamic, "an `exclude`", sink);
        refuse_masks(exclude.masked, "an `exclude`", sink);
        let contents = include.contents.difference(&exclude.contents);
        let group = match written.kind {
            GroupKind::Plain if written.exclude.is_empty() => include,
            GroupKind::Plain => {
                refuse_dynamic(include.dynamic, "a group with `exclude`", sink);
                refuse_masks(include.masked, "a group with `exclude`", sink);
                Group {
                    named: AddressCondition {
                        listed: contents.clone(),
                        ..AddressCondition::default()
                    },
                    contents,
                    dynamic: None,
                    masked: None,
                }
            }
            GroupKind::Set => {
                refuse_dynamic(include.dynamic, "another set", sink);
                refuse_masks(include.masked, "a set", sink);
                Group {
                    named: self.add_set(name, Members::Static(contents.clone())),
                    contents,
                    dynamic: None,
                    masked: None,
                }
            }
            GroupKind::Dynamic(set) => Group {
                named: self.add_set(name, Members::Dynamic(set)),
                contents,
                dynamic: Some(definition.name.span),
                masked: None,
            },
        };
        self.groups.insert(name.to_owned(), group.clone());
        group
    }

    fn add_set(&mut self, name: &str, members: Members) -> AddressCondition {
        self.sets.push(AddressGroupSet {
            name: name.to_owned(),
            members,
        });
        AddressCondition {
            sets: vec![self.sets.len() - 1],
            ..AddressCondition::default()
        }
    }
}

impl Group {
    fn add_mask(&mut self, mask: AddressMask) {
        if !self.named.masks.contains(&mask) {
            self.named.masks.push(mask);
        }
    }
}

fn refuse_masks(masked: Option<Span>, what: &str, sink: &mut Sink) {
    if let Some(span) = masked {
        let message = format!(
            "{what} cannot contain an address with a mask: it has prefixes and ranges only"
        );
        sink.report(
            Diagnostic::error(Code::Conflict, span, message)
                .with_note("use it in `source` or `destination` of a rule, or in a group without `set` and `exclude`"),
        );
    }
}

fn refuse_dynamic(dynamic: Option<Span>, what: &str, sink: &mut Sink) {
    if let Some(span) = dynamic {
        let message = format!("{what} cannot contain a dynamic set: fwc does not know its members");
        sink.report(
            Diagnostic::error(Code::Conflict, span, message)
                .with_note("use it in `source` or `destination` of a rule"),
        );
    }
}

/// Returns the error for a name that is not in `[addresses]`, with the key that it probably belongs to.
pub(super) fn unknown(policy: &Policy, name: &Located<&str>) -> Diagnostic {
    let shown = name.value;
    if ["any", "host"].contains(&shown) {
        let message = format!("`{shown}` is not an address");
        return Diagnostic::error(Code::WrongKey, name.span, message)
            .help("to match every address, leave the key out; `host` goes into `from` or `to`");
    }
    let is_zone = policy.zones.get(shown).is_some();
    if is_zone || policy.interfaces.get(shown).is_some() {
        let what = if is_zone { "a zone" } else { "an interface" };
        let message = format!("`{shown}` is {what}, but this key takes addresses");
        return Diagnostic::error(Code::WrongKey, name.span, message)
            .label("goes into `from` or `to`")
            .with_note("an interface in `from` matches the device that a packet comes in by");
    }
    let near = did_you_mean(shown, policy.addresses.names());
    if shown.contains('.') && near.is_none() {
        let message = format!("`{shown}` looks like a host name: fwc does not resolve names");
        return Diagnostic::error(Code::HostName, name.span, message)
            .help("write its addresses, or a group of [addresses] that has them");
    }
    let message = format!("no address is called `{shown}`");
    Diagnostic::error(Code::UnknownName, name.span, message)
        .suggest(near)
        .help("define it under [addresses]")
}

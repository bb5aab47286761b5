//! Names in address lists.

use std::collections::HashMap;

use super::plan::Addresses;
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::AddressSet;
use crate::policy::{AddressExpression, AddressItem, Policy};
use crate::source::Located;

/// The groups of `[addresses]`, each resolved once.
pub struct Groups {
    sets: HashMap<String, AddressSet>,
}

impl Groups {
    /// Resolves every group, used or not, so that a mistake in one is never found late.
    pub fn new(policy: &Policy, sink: &mut Sink) -> Self {
        let mut groups = Self {
            sets: HashMap::new(),
        };
        for definition in policy.addresses.iter() {
            groups.group(policy, &definition.name.value, &mut Vec::new(), sink);
        }
        groups
    }

    /// The addresses of a rule's `source` or `destination`.
    pub fn expression(
        &mut self,
        policy: &Policy,
        expression: Option<&AddressExpression>,
        sink: &mut Sink,
    ) -> Option<Addresses> {
        let expression = expression?;
        Some(Addresses {
            set: self.items(policy, &expression.items, sink),
            negated: expression.negated,
        })
    }

    /// The union of a list, outside of any group.
    pub fn items(
        &mut self,
        policy: &Policy,
        items: &[Located<AddressItem>],
        sink: &mut Sink,
    ) -> AddressSet {
        self.items_of(policy, items, &mut Vec::new(), sink)
    }

    fn items_of(
        &mut self,
        policy: &Policy,
        items: &[Located<AddressItem>],
        open: &mut Vec<String>,
        sink: &mut Sink,
    ) -> AddressSet {
        let literals = items.iter().filter_map(|item| match &item.value {
            AddressItem::Literal(range) => Some(*range),
            AddressItem::Name(_) => None,
        });
        let mut set = AddressSet::from_ranges(literals);
        for item in items {
            let AddressItem::Name(name) = &item.value else {
                continue;
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
                sink.report(
                    Diagnostic::error(
                        Code::DefinitionLoop,
                        item.span,
                        format!("`{name}` is defined by itself"),
                    )
                    .help(circle.join(" names ")),
                );
                continue;
            }
            set = set.union(&self.group(policy, name, open, sink));
        }
        set
    }

    fn group(
        &mut self,
        policy: &Policy,
        name: &str,
        open: &mut Vec<String>,
        sink: &mut Sink,
    ) -> AddressSet {
        if let Some(known) = self.sets.get(name) {
            return known.clone();
        }
        let Some(definition) = policy.addresses.get(name) else {
            return AddressSet::default();
        };
        open.push(name.to_owned());
        let include = self.items_of(policy, &definition.value.include, open, sink);
        let exclude = self.items_of(policy, &definition.value.exclude, open, sink);
        open.pop();
        let set = include.difference(&exclude);
        self.sets.insert(name.to_owned(), set.clone());
        set
    }
}

fn unknown(policy: &Policy, name: &Located<&str>) -> Diagnostic {
    let shown = name.value;
    let is_zone = policy.zones.get(shown).is_some();
    if is_zone || policy.interfaces.get(shown).is_some() {
        let what = if is_zone { "a zone" } else { "an interface" };
        let message = format!("`{shown}` is {what}, and addresses are wanted here");
        return Diagnostic::error(Code::WrongKey, name.span, message)
            .label("goes into `from` or `to`")
            .help("an interface in `from` matches the device that a packet comes in by");
    }
    let near = did_you_mean(shown, policy.addresses.names());
    if shown.contains('.') && near.is_none() {
        let message = format!("`{shown}` looks like a host name; nothing is resolved");
        return Diagnostic::error(Code::HostName, name.span, message)
            .help("write its addresses, or a group of [addresses] that has them");
    }
    let message = format!("no address is called `{shown}`");
    Diagnostic::error(Code::UnknownName, name.span, message)
        .suggest(near)
        .help("define it under [addresses]")
}

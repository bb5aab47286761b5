//! Resolves `[zones]` to interfaces and networks.

use std::collections::HashMap;

use super::addresses::Groups;
use super::plan::{Zone, ZoneMember};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::AddressRange;
use crate::policy::{self, Policy};
use crate::source::Located;

/// Resolves every zone, in the order of the policy.
pub fn resolve(policy: &Policy, groups: &mut Groups, sink: &mut Sink) -> Vec<Zone> {
    let mut resolver = Resolver {
        policy,
        groups,
        done: HashMap::new(),
    };
    let zones = policy.zones.iter().map(|definition| {
        let name = &definition.name.value;
        Zone {
            name: name.clone(),
            members: resolver.zone(name, &mut Vec::new(), sink),
        }
    });
    zones.collect()
}

struct Resolver<'a> {
    policy: &'a Policy,
    groups: &'a mut Groups,
    done: HashMap<String, Vec<ZoneMember>>,
}

impl Resolver<'_> {
    fn zone(&mut self, name: &str, open: &mut Vec<String>, sink: &mut Sink) -> Vec<ZoneMember> {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        let Some(definition) = self.policy.zones.get(name) else {
            return Vec::new();
        };
        open.push(name.to_owned());
        let members = match &definition.value {
            policy::PolicyZone::Union(names) => self.union(names, open, sink),
            policy::PolicyZone::Hosts {
                interfaces,
                networks,
                ipsec,
            } => {
                let networks = networks
                    .as_ref()
                    .map(|items| self.groups.known(self.policy, items, "a zone", sink));
                let interfaces = match interfaces {
                    None => vec![None],
                    Some(names) => self.interfaces(names, sink),
                };
                let members = interfaces.into_iter().map(|interface| ZoneMember {
                    interface,
                    networks: networks.clone(),
                    ipsec: ipsec.as_ref().map(|ipsec| ipsec.value),
                });
                members.collect()
            }
        };
        open.pop();
        self.done.insert(name.to_owned(), members.clone());
        members
    }

    fn union(
        &mut self,
        names: &[Located<String>],
        open: &mut Vec<String>,
        sink: &mut Sink,
    ) -> Vec<ZoneMember> {
        let mut members = Vec::new();
        for name in names {
            if let Some(at) = open.iter().position(|open| *open == name.value) {
                let circle: Vec<_> = open[at..].iter().chain([&name.value]).cloned().collect();
                let message = format!("the zone `{}` is part of itself", name.value);
                sink.report(
                    Diagnostic::error(Code::DefinitionLoop, name.span, message)
                        .with_note(circle.join(" has ")),
                );
            } else if let Some(index) = self.policy.interfaces.index_of(&name.value) {
                members.push(ZoneMember {
                    interface: Some(index),
                    ..ZoneMember::default()
                });
            } else if self.policy.zones.get(&name.value).is_some() {
                members.extend(self.zone(&name.value, open, sink));
            } else {
                self.unknown(name, "zone or interface", sink);
            }
        }
        members
    }

    fn interfaces(&self, names: &[Located<String>], sink: &mut Sink) -> Vec<Option<usize>> {
        let mut found = Vec::new();
        for name in names {
            match self.policy.interfaces.index_of(&name.value) {
                Some(index) => found.push(Some(index)),
                None if self.policy.zones.get(&name.value).is_some() => {
                    let message = format!(
                        "`{}` is a zone, but `interfaces` takes interfaces",
                        name.value
                    );
                    sink.report(
                        Diagnostic::error(Code::WrongKey, name.span, message)
                            .help("write a zone of zones as a list: `name = [\"one\", \"two\"]`"),
                    );
                }
                None => self.unknown(name, "interface", sink),
            }
        }
        found
    }

    fn unknown(&self, name: &Located<String>, wanted: &str, sink: &mut Sink) {
        let policy = self.policy;
        let shown = name.value.escape_debug();
        if policy.interfaces.was_refused(&name.value) || policy.zones.was_refused(&name.value) {
            return;
        }
        if ["any", "host"].contains(&name.value.as_str()) {
            let message = format!("`{shown}` cannot be part of a zone");
            sink.report(
                Diagnostic::error(Code::ReservedName, name.span, message)
                    .with_note("write `host` and `any` in `from` and `to` of rules"),
            );
            return;
        }
        let is_group = policy.addresses.get(&name.value).is_some();
        if is_group || AddressRange::looks_like_one(&name.value) {
            let message = format!("`{shown}` is an address, but this list takes {wanted} names");
            sink.report(
                Diagnostic::error(Code::WrongKey, name.span, message).help(format!(
                    "write a zone of addresses as `{{ networks = [\"{shown}\"] }}`"
                )),
            );
            return;
        }
        let known = policy.interfaces.names().chain(policy.zones.names());
        let message = format!("no {wanted} is called `{shown}`");
        sink.report(
            Diagnostic::error(Code::UnknownName, name.span, message)
                .suggest(did_you_mean(&name.value, known))
                .help("define it under [interfaces] or [zones]"),
        );
    }
}

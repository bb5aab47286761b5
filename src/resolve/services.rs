//! Resolves the names in service lists.

use std::collections::HashSet;

use super::plan::{ServicePart, ServicePorts};
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::{IntervalSet, PortRange, Protocol};
use crate::policy::{
    Definitions, Helper, Policy, Service, ServiceItem, ServiceParts, catalog, catalog_names,
};
use crate::source::{Located, Span};

/// The services of the policy, and after them the built-in catalog.
pub struct Services<'p> {
    own: &'p Definitions<Service>,
}

impl<'p> Services<'p> {
    /// A service of the policy replaces the built-in one of the same name.
    pub fn new(own: &'p Definitions<Service>) -> Self {
        Self { own }
    }

    /// Resolves every service of the policy, used or not, so that a mistake in one is never found late.
    pub fn check_all(&self, sink: &mut Sink) {
        for definition in self.own.iter() {
            let mut open = vec![definition.name.value.clone()];
            self.service(&definition.value, &mut open, &mut Vec::new(), sink);
        }
    }

    /// Resolves a rule's `service`, in the order of writing. Parts may overlap.
    pub fn parts(&self, items: &[Located<ServiceItem>], sink: &mut Sink) -> Vec<ServicePart> {
        let mut parts = Vec::new();
        for item in items {
            match &item.value {
                ServiceItem::Ports(protocol, ports) => {
                    parts.push(destination_ports(*protocol, [*ports]));
                }
                ServiceItem::Name(name) => {
                    let name = Located::new(name.as_str(), item.span);
                    self.named(&name, &mut Vec::new(), &mut parts, sink);
                }
            }
        }
        parts
    }

    /// Returns the helpers of these services, sorted by name, each with the ports that it reads.
    pub fn helpers(&self, items: &[Located<ServiceItem>]) -> Vec<(Helper, Vec<ServicePart>)> {
        let mut names: Vec<&str> = Vec::new();
        for item in items {
            if let ServiceItem::Name(name) = &item.value {
                names.push(name);
            }
        }
        let mut found: Vec<(Helper, Vec<ServicePart>)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(name) = names.pop() {
            let Some(service) = self.find(name).filter(|_| seen.insert(name.to_owned())) else {
                continue;
            };
            names.extend(service.include.iter().map(|name| name.value.as_str()));
            let Some(helper) = &service.helper else {
                continue;
            };
            let mut parts = Vec::new();
            own_parts(&service.parts, &mut parts);
            parts.retain(|part| matches!(part, ServicePart::Ports(_)));
            match found.iter_mut().find(|(one, _)| *one == helper.value) {
                Some((_, all)) => all.extend(parts),
                None => found.push((helper.value.clone(), parts)),
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    /// Returns the services of the policy, then those of the catalog that its rules and tests name, with their parts.
    pub fn names(&self, policy: &Policy) -> Vec<(String, Vec<ServicePart>)> {
        let rules = policy.rules.iter();
        let asked = rules.chain(policy.tests.iter().map(|test| &test.packets));
        let items = asked.flat_map(|rule| [&rule.service, &rule.not_service]);
        let items = items.flatten().flatten();
        let from_catalog = items.filter_map(|item| match &item.value {
            ServiceItem::Name(name) if self.own.get(name).is_none() => Some(name.as_str()),
            _ => None,
        });
        let mut names: Vec<(&str, Span)> = Vec::new();
        let mut seen = HashSet::new();
        let own = self
            .own
            .iter()
            .map(|one| (one.name.value.as_str(), one.name.span));
        let nowhere = policy.root.map(|root| Span::new(root, 0..0));
        let catalog = from_catalog.filter_map(|name| Some((name, nowhere?)));
        names.extend(own.chain(catalog).filter(|(name, _)| seen.insert(*name)));
        let parts = |(name, span): (&str, Span)| {
            let mut parts = Vec::new();
            // `check_all` and the rules have reported its errors.
            let name = Located::new(name, span);
            self.named(&name, &mut Vec::new(), &mut parts, &mut Sink::new());
            (name.value.to_owned(), parts)
        };
        names.into_iter().map(parts).collect()
    }

    fn find(&self, name: &str) -> Option<&Service> {
        let own = self.own.get(name).map(|definition| &definition.value);
        own.or_else(|| catalog(name).map(|entry| &entry.service))
    }

    fn named(
        &self,
        name: &Located<&str>,
        open: &mut Vec<String>,
        parts: &mut Vec<ServicePart>,
        sink: &mut Sink,
    ) {
        if let Some(at) = open.iter().position(|open| open == name.value) {
            sink.report(self.circle(&open[at..], name));
            return;
        }
        let Some(service) = self.find(name.value) else {
            if !self.own.was_refused(name.value) {
                sink.report(self.unknown(name));
            }
            return;
        };
        open.push(name.value.to_owned());
        self.service(service, open, parts, sink);
        open.pop();
    }

    fn service(
        &self,
        service: &Service,
        open: &mut Vec<String>,
        parts: &mut Vec<ServicePart>,
        sink: &mut Sink,
    ) {
        own_parts(&service.parts, parts);
        for included in &service.include {
            let name = Located::new(included.value.as_str(), included.span);
            self.named(&name, open, parts, sink);
        }
    }

    /// Returns the error for services that include each other. It begins with the service that was defined first, so that
    /// it is equal, and [`Sink::report`] keeps it once, from whichever service the circle was entered.
    fn circle(&self, circle: &[String], name: &Located<&str>) -> Diagnostic {
        let mut circle = circle.to_vec();
        let first = (0..circle.len()).min_by_key(|&at| self.own.index_of(&circle[at]));
        circle.rotate_left(first.unwrap_or(0));
        let last = circle.last().and_then(|last| self.find(last));
        let back = last.and_then(|last| last.include.iter().find(|name| name.value == circle[0]));
        let message = format!("the service `{}` includes itself", circle[0]);
        let span = back.map_or(name.span, |back| back.span);
        circle.push(circle[0].clone());
        Diagnostic::error(Code::DefinitionLoop, span, message).with_note(circle.join(" includes "))
    }

    fn unknown(&self, name: &Located<&str>) -> Diagnostic {
        let built_in = catalog_names().map(|name| -> &str { name });
        let known = self.own.names().chain(built_in);
        Diagnostic::error(
            Code::UnknownService,
            name.span,
            format!("no service named `{}`", name.value),
        )
        .suggest(did_you_mean(name.value, known))
        .help("`fwc services` lists the catalog; define your own under [services]")
    }
}

fn own_parts(written: &ServiceParts, parts: &mut Vec<ServicePart>) {
    for protocol in Protocol::WITH_PORTS {
        let of = |ports: &[Located<(Protocol, PortRange)>]| {
            let of_protocol = ports.iter().filter(|port| port.value.0 == protocol);
            let set = port_set(of_protocol.map(|port| port.value.1));
            (!set.is_empty()).then_some(set)
        };
        let (source, destination) = (of(&written.source_ports), of(&written.ports));
        if source.is_some() || destination.is_some() {
            parts.push(ServicePart::Ports(ServicePorts {
                protocol,
                source,
                destination,
            }));
        }
    }
    parts.extend(
        written
            .protocol
            .iter()
            .map(|p| ServicePart::Protocol(p.value)),
    );
    parts.extend(written.icmp.iter().map(|t| ServicePart::Icmp(t.value)));
    parts.extend(written.icmpv6.iter().map(|t| ServicePart::Icmpv6(t.value)));
    let every = written.every_icmp.iter();
    parts.extend(every.map(|family| ServicePart::EveryIcmp(family.value)));
}

fn destination_ports(
    protocol: Protocol,
    ports: impl IntoIterator<Item = PortRange>,
) -> ServicePart {
    ServicePart::Ports(ServicePorts {
        protocol,
        source: None,
        destination: Some(port_set(ports)),
    })
}

fn port_set(ports: impl IntoIterator<Item = PortRange>) -> IntervalSet {
    IntervalSet::from_intervals(
        ports
            .into_iter()
            .map(|range| (u128::from(range.first), u128::from(range.last))),
    )
}

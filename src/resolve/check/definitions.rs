//! Checks that compare definitions with each other.

use std::collections::HashMap;

use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::interface_lo;
use crate::net::InterfacePattern;
use crate::policy::{self, Definitions, Policy};
use crate::source::{Located, Span};

/// Reports names that are used twice: interfaces, zones and address groups share one namespace.
pub fn unique_names(policy: &Policy, sink: &mut Sink) {
    fn names<'d, T>(
        what: &'static str,
        definitions: &'d Definitions<T>,
    ) -> Vec<(&'static str, &'d Located<String>)> {
        let names = definitions.iter().map(|definition| &definition.name);
        names.map(|name| (what, name)).collect()
    }
    let mut all = names("an interface", &policy.interfaces);
    all.extend(names("a zone", &policy.zones));
    all.extend(names("an address group", &policy.addresses));
    let mut seen: HashMap<&str, (&str, Span)> = HashMap::new();
    for (what, name) in all {
        let Some((other, span)) = seen.insert(&name.value, (what, name.span)) else {
            continue;
        };
        let message = format!("`{}` names both {other} and {what}", name.value);
        sink.report(
            Diagnostic::error(Code::NameUsedTwice, name.span, message)
                .also(span, other)
                .with_note("a name refers to one thing only")
                .help("rename one of them"),
        );
    }
}

/// Reports `antispoof` without any interface that has `networks`: it would drop nothing.
pub fn antispoof(policy: &Policy, sink: &mut Sink) {
    let defaults = &policy.defaults;
    let tables = [&defaults.both, &defaults.own.v4, &defaults.own.v6];
    let mut written = tables
        .into_iter()
        .filter_map(|table| table.antispoof.as_ref());
    let Some(written) = written.find(|written| written.value) else {
        return;
    };
    let mut interfaces = policy.interfaces.iter();
    if !interfaces.any(|interface| !interface.value.networks.is_empty()) {
        sink.report(
            Diagnostic::error(
                Code::AntispoofNoNetworks,
                written.span,
                "`antispoof` would drop nothing: no interface has `networks`",
            )
            .help("give interfaces their `networks`, such as `lan = { device = \"eth1\", networks = [\"192.168.1.0/24\"] }`"),
        );
    }
}

/// Reports devices that belong to two interfaces, or twice to one. `eth+` and `eth0` overlap too.
pub fn devices(interfaces: &Definitions<policy::PolicyInterface>, sink: &mut Sink) {
    let all = || {
        interfaces.iter().flat_map(|definition| {
            let devices = definition.value.devices.iter();
            devices.map(move |device| (&definition.name.value, device))
        })
    };
    for (index, (name, device)) in all().enumerate() {
        if device.value.matches("lo") {
            sink.report(interface_lo::finding(device.span, name));
        }
        let overlaps = |(_, other): &(&String, &Located<InterfacePattern>)| {
            device.value.overlaps(&other.value)
        };
        if let Some((other_name, other)) = all().take(index).find(overlaps) {
            let message = if name == other_name {
                format!("the device `{}` is already in `{name}`", device.value)
            } else if device.value == other.value {
                format!(
                    "the device `{}` belongs to `{other_name}` and `{name}`",
                    device.value
                )
            } else {
                format!(
                    "the devices `{}` of `{other_name}` and `{}` of `{name}` overlap",
                    other.value, device.value
                )
            };
            sink.report(
                Diagnostic::error(Code::DevicesOverlap, device.span, message)
                    .also(other.span, "also here")
                    .with_note(
                        "a device belongs to one interface; a rule may name several interfaces",
                    ),
            );
        }
    }
}

//! Resolves the names in `from` and `to`.

use super::plan::Endpoint;
use crate::diag::{Code, Diagnostic, Sink, did_you_mean};
use crate::net::AddressRange;
use crate::policy::Policy;
use crate::source::Located;

/// Resolves `from` or `to` (`key`). Unknown names are reported and left out.
pub fn resolve(
    policy: &Policy,
    key: &str,
    names: &[Located<String>],
    sink: &mut Sink,
) -> Vec<Endpoint> {
    let places: Vec<_> = names
        .iter()
        .filter_map(|name| Some((place(policy, key, name, sink)?, name)))
        .collect();
    let any = places.iter().find(|(place, _)| *place == Endpoint::Any);
    let named = places
        .iter()
        .find(|(place, _)| matches!(place, Endpoint::Interface(_) | Endpoint::Zone(_)));
    if let (Some((_, any)), Some((_, other))) = (any, named) {
        let message = format!("`any` already includes `{}`", other.value);
        sink.report(
            Diagnostic::error(Code::Conflict, any.span, message)
                .also(other.span, "is part of `any`")
                .help("leave one of the two out; only `host` can be combined with `any`"),
        );
    }
    places.into_iter().map(|(place, _)| place).collect()
}

/// Resolves what a negated `from` or `to` (`key`) leaves out. Unknown names are reported and left out.
pub fn resolve_left_out(
    policy: &Policy,
    key: &str,
    names: &[Located<String>],
    sink: &mut Sink,
) -> Vec<Endpoint> {
    let places = names.iter().filter_map(|name| {
        let place = place(policy, key, name, sink)?;
        let (message, help) = match place {
            Endpoint::Interface(_) | Endpoint::Zone(_) => return Some(place),
            Endpoint::Any => (
                "`any` cannot be negated: nothing would be left".to_owned(),
                "leave the key out to mean every device",
            ),
            Endpoint::Host => (
                "`host` cannot be negated".to_owned(),
                "`any` is every device, and never this host",
            ),
        };
        sink.report(Diagnostic::error(Code::BadValue, name.span, message).help(help));
        None
    });
    places.collect()
}

fn place(policy: &Policy, key: &str, name: &Located<String>, sink: &mut Sink) -> Option<Endpoint> {
    match name.value.as_str() {
        "any" => return Some(Endpoint::Any),
        "host" => return Some(Endpoint::Host),
        other => {
            if let Some(index) = policy.interfaces.index_of(other) {
                return Some(Endpoint::Interface(index));
            }
            if let Some(index) = policy.zones.index_of(other) {
                return Some(Endpoint::Zone(index));
            }
        }
    }
    if !policy.interfaces.was_refused(&name.value) && !policy.zones.was_refused(&name.value) {
        sink.report(unknown(policy, key, name));
    }
    None
}

fn unknown(policy: &Policy, key: &str, name: &Located<String>) -> Diagnostic {
    let shown = name.value.escape_debug();
    let right_key = if key == "from" {
        "source"
    } else {
        "destination"
    };
    let plain = name.value.as_str();
    if AddressRange::looks_like_one(plain) || policy.addresses.get(plain).is_some() {
        let what = if policy.addresses.get(plain).is_some() {
            "a name of [addresses]"
        } else {
            "an address"
        };
        let message = format!("`{shown}` is {what}, but `{key}` takes zones and interfaces");
        return Diagnostic::error(Code::WrongKey, name.span, message)
            .label(format!("goes into `{right_key}`"));
    }
    let device = policy.interfaces.iter().find(|definition| {
        let mut devices = definition.value.devices.iter();
        devices.any(|device| device.value.matches(plain))
    });
    let message = format!("no interface or zone is called `{shown}`");
    let diagnostic = Diagnostic::error(Code::UnknownName, name.span, message);
    if let Some(interface) = device {
        return diagnostic
            .label(format!("a device of `{}`", interface.name.value))
            .with_note(
                "rules name interfaces, never devices, so that you change a device in one place",
            );
    }
    let known = policy.interfaces.names().chain(policy.zones.names());
    let known = known.chain(["any", "host"]);
    let near = did_you_mean(&name.value, known);
    // `eth0.100` is a device: the last part of a host name has letters.
    let domain = plain.rsplit_once('.').map(|(_, domain)| domain);
    if near.is_none() && domain.is_some_and(|domain| domain.contains(|c: char| c.is_alphabetic())) {
        let message = format!("`{shown}` looks like a host name: fwc does not resolve names");
        return Diagnostic::error(Code::HostName, name.span, message).help(format!(
            "write the host's addresses, in `{right_key}`; `{key}` takes zones and interfaces"
        ));
    }
    diagnostic
        .suggest(near)
        .help("define it under [interfaces] or [zones]; `any` and `host` are built in")
}

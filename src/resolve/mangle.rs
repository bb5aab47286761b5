//! Resolves `[[mangle]]`: its packets like those of rules.

use super::Resolver;
use super::check::Checked;
use super::plan::{Defaults, Endpoint, Plan, PlannedMangle, RuleAction, ServicePart};
use super::raw;
use super::well_formed::Sound;
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{Family, Protocol};
use crate::policy::{self, MangleChange, Policy, Proxy, Scope};

/// Resolves every entry. Also returns for each whether it can be checked.
pub fn resolve(
    resolver: &mut Resolver<'_>,
    defaults: &Defaults,
    definitions: &Sound<'_>,
    sink: &mut Sink,
) -> (Vec<PlannedMangle>, Vec<bool>) {
    let policy = resolver.policy;
    let mut entries = (Vec::new(), Vec::new());
    for written in &policy.mangle {
        let errors = sink.errors();
        let policy::PolicyMangle {
            span: _,
            packets: written,
            change,
        } = written;
        let mut packets = resolver.rule(policy::CustomTable::Mangle, written, defaults, sink);
        // The reader reported the change, so that no plan comes of this policy.
        let Some(change) = change.as_ref().map(|change| change.value) else {
            continue;
        };
        packets.label = match &written.name {
            Some(name) => format!("mangle \"{}\"", name.value),
            None => label(&packets.label, change),
        };
        if let Some(family) = family_of(change) {
            packets.scope.get_or_insert(Scope::Only(family));
        }
        if !routed(change) {
            packets.to.get_or_insert_with(|| vec![Endpoint::Any]);
        }
        packets.from.get_or_insert_with(|| vec![Endpoint::Any]);
        if change == MangleChange::Drop {
            packets.action = RuleAction::Drop;
        }
        let complete = written.complete && sink.errors() == errors;
        entries.0.push(PlannedMangle { packets, change });
        entries.1.push(complete && definitions.has(policy, written));
    }
    entries
}

/// Returns the family of the address in a change.
fn family_of(change: MangleChange) -> Option<Family> {
    let MangleChange::Proxy(Proxy {
        address: Some(address),
        ..
    }) = change
    else {
        return None;
    };
    Some(Family::of(address))
}

/// Returns `true` if routing may depend on the change: `ip rule` can read marks, and TPROXY works before routing only. What
/// drops packets by their marks stands with what sets them.
/// Without `to` such an entry is put before routing.
fn routed(change: MangleChange) -> bool {
    matches!(
        change,
        MangleChange::SetMark(_)
            | MangleChange::SaveMark(_)
            | MangleChange::RestoreMark(_)
            | MangleChange::Proxy(_)
            | MangleChange::Drop
    )
}

/// Returns a short description of an entry without a name: `mangle: clamp-mss to wan`.
fn label(words: &str, change: MangleChange) -> String {
    let kind = match change {
        MangleChange::ClampMss(_) => "clamp-mss",
        MangleChange::SetMark(_) => "mark",
        MangleChange::SaveMark(_) => "save mark",
        MangleChange::RestoreMark(_) => "restore mark",
        MangleChange::Dscp(_) => "dscp",
        MangleChange::HopLimit(_) => "ttl",
        MangleChange::Classify(..) => "classify",
        MangleChange::Proxy(_) => "tproxy",
        MangleChange::Checksum => "checksum",
        MangleChange::Drop => "drop",
    };
    let rest = words.strip_prefix("rule: accept").unwrap_or_default();
    format!("mangle: {kind}{rest}")
}

/// Checks the entries of the plan, each by itself. They have the order of the policy.
pub fn check(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    let written = policy.mangle.iter().filter(|entry| entry.change.is_some());
    for ((entry, written), sound) in plan.mangle.iter().zip(written).zip(sound) {
        if *sound {
            let checked = Checked::new(plan, &entry.packets, &written.packets);
            checked.report_packets(plan, "mangle entry", sink);
            checked.negated_masks("a mangle entry", sink);
            chains(entry, written, sink);
            protocols(entry, written, sink);
            let is_clamp = matches!(entry.change, MangleChange::ClampMss(_));
            let has_flags = is_clamp || entry.packets.tcp_flags.is_some();
            let lines = (policy::CustomTable::Mangle, chains_of(entry), has_flags);
            checked.matches_in(policy, lines, sink);
            if entry.change == MangleChange::Drop {
                checked.drops_everything(sink);
                raw::on_loopback(plan, &entry.packets, &written.packets, sink);
            }
        }
    }
}

/// Returns the base chains in which an entry has lines.
fn chains_of(entry: &PlannedMangle) -> Vec<&'static str> {
    if entry.change == MangleChange::Checksum {
        return vec!["POSTROUTING"];
    }
    let from = || entry.packets.from.iter().flatten();
    let is_host = |place: &Endpoint| *place == Endpoint::Host;
    let arrives = from().any(|from| !is_host(from));
    let to = || entry.packets.to.iter().flatten();
    let chains = match entry.before_routing() {
        true => [
            ("PREROUTING", arrives),
            ("OUTPUT", from().any(is_host)),
            ("", false),
        ],
        false => [
            ("INPUT", arrives && to().any(is_host)),
            ("FORWARD", arrives && to().any(|to| !is_host(to))),
            ("OUTPUT", from().any(is_host) && to().any(|to| !is_host(to))),
        ],
    };
    let own = chains.into_iter().filter(|(_, has_lines)| *has_lines);
    own.map(|(chain, _)| chain).collect()
}

/// Reports changes that are not possible on the packets' path.
fn chains(entry: &PlannedMangle, written: &policy::PolicyMangle, sink: &mut Sink) {
    let packets = &entry.packets;
    let has = |places: &Option<Vec<Endpoint>>, wanted: Endpoint| {
        places
            .as_ref()
            .is_some_and(|places| places.contains(&wanted))
    };
    let place = |keys: &Option<Vec<crate::source::Located<String>>>, name: &str| {
        let mut names = keys.iter().flatten();
        let named = names.find(|one| one.value == name);
        named.map_or(entry.packets.span, |one| one.span)
    };
    let error = |span, message: &str| Diagnostic::error(Code::MangleChain, span, message);
    match entry.change {
        MangleChange::ClampMss(_) | MangleChange::Classify(..) | MangleChange::Checksum
            if has(&packets.to, Endpoint::Host) =>
        {
            sink.report(
                error(
                    place(&written.packets.to, "host"),
                    "packets to this host leave by no device",
                )
                .help("name in `to` where the packets leave, or leave `to` out: everywhere"),
            );
        }
        MangleChange::Checksum => leaving(entry, written, sink),
        MangleChange::Proxy(_) if has(&packets.from, Endpoint::Host) => {
            sink.report(
                error(
                    place(&written.packets.from, "host"),
                    "a transparent proxy takes arriving packets, not those that this host sends",
                )
                .help("name in `from` the interfaces by which the packets come in"),
            );
        }
        MangleChange::Proxy(_) if packets.to.is_some() => {
            let names = written.packets.to.iter().chain(&written.packets.not_to);
            let first = names.flatten().next();
            sink.report(
                error(
                    first.map_or(packets.span, |name| name.span),
                    "a transparent proxy decides before routing, when the outgoing device is not known",
                )
                .help("leave `to` out; `destination` matches the addresses that the packets are sent to"),
            );
        }
        _ => {}
    }
}

/// Reports what POSTROUTING does not match: devices by which packets came in, and MAC addresses.
fn leaving(entry: &PlannedMangle, written: &policy::PolicyMangle, sink: &mut Sink) {
    let places = entry.packets.from.iter().flatten();
    let names = written.packets.from.iter().flatten();
    let mut places = places.zip(names);
    let other = places.find(|(place, _)| !matches!(place, Endpoint::Any | Endpoint::Host));
    let other = other.map(|(_, name)| name);
    if let Some(name) = other.or(written.packets.not_from.iter().flatten().next()) {
        let message =
            "checksums are filled where packets leave, which does not show where they came in";
        sink.report(
            Diagnostic::error(Code::MangleChain, name.span, message).help(
                "leave `from` out and name addresses in `source`, or write `from = \"host\"`",
            ),
        );
    }
    if let Some(mac) = &written.packets.mac {
        let message =
            "checksums are filled where packets leave, which does not show a source MAC address";
        sink.report(
            Diagnostic::error(Code::MangleChain, mac.span, message).help("leave `mac` out"),
        );
    }
}

/// Reports services that the target of the change does not support: TCPMSS needs tcp, TPROXY tcp or udp, CHECKSUM udp.
fn protocols(entry: &PlannedMangle, written: &policy::PolicyMangle, sink: &mut Sink) {
    let (code, wanted, of): (_, &[Protocol], _) = match entry.change {
        MangleChange::ClampMss(_) => (Code::MangleProtocol, &[Protocol::TCP], "tcp"),
        MangleChange::Proxy(_) => (
            Code::MangleProtocol,
            &[Protocol::TCP, Protocol::UDP],
            "tcp and udp",
        ),
        MangleChange::Checksum => (Code::MangleProtocol, &[Protocol::UDP], "udp"),
        _ => return,
    };
    let is_wanted = |part: &ServicePart| match part {
        ServicePart::Ports(ports) => wanted.contains(&ports.protocol),
        ServicePart::Protocol(protocol) => wanted.contains(protocol),
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => false,
    };
    let words = match entry.change {
        MangleChange::ClampMss(_) => "only tcp has segments",
        MangleChange::Checksum => "the kernel fills checksums of udp only",
        _ => "a transparent proxy takes tcp and udp only",
    };
    let named = written
        .packets
        .service
        .as_ref()
        .and_then(|items| items.first());
    match &entry.packets.service {
        None if matches!(entry.change, MangleChange::Proxy(_))
            && entry.packets.tcp_flags.is_none() =>
        {
            sink.report(
                Diagnostic::error(
                    code,
                    entry.packets.span,
                    "a transparent proxy needs `service`",
                )
                .help("write for example `service = \"http\"`: a proxy for everything would take your SSH connection too"),
            );
        }
        None if entry.change == MangleChange::Checksum => {
            sink.report(
                Diagnostic::error(code, entry.packets.span, "`checksum` needs `service`")
                    .help("write for example `service = \"68/udp\"`, the answers of a DHCP server"),
            );
        }
        Some(parts) if !parts.iter().all(is_wanted) => {
            let span = named.map_or(entry.packets.span, |item| item.span);
            sink.report(Diagnostic::error(code, span, words).help(format!(
                "name services of {of}, with their ports as in `443/tcp`"
            )));
        }
        _ => {}
    }
    if let (MangleChange::ClampMss(_), Some(flags)) = (entry.change, &written.packets.tcp_flags) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                flags.span,
                "`tcp-flags` on an entry that matches TCP flags itself",
            )
            .help("leave it out: the segment size is agreed on in the first packet each way (SYN)"),
        );
    }
    if let (Some(family), Some(scope)) = (family_of(entry.change), &written.packets.scope)
        && scope.value != Scope::Only(family)
    {
        let message = format!("`to-address` is an {family} address");
        sink.report(
            Diagnostic::error(Code::Conflict, scope.span, message).help(format!(
                "write `scope = \"{}\"`, or leave it out",
                family.keyword()
            )),
        );
    }
}

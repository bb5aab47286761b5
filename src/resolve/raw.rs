//! Resolves `[[raw]]`: its packets like those of rules.

use super::Resolver;
use super::check::Checked;
use super::plan::{Defaults, Endpoint, Plan, PlannedRaw, PlannedRule, RuleAction, ServicePart};
use super::well_formed::Sound;
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::Hook;
use crate::policy::{self, Helper, Policy, Treatment};

/// Resolves every entry. Also returns for each whether it can be checked.
pub fn resolve(
    resolver: &mut Resolver<'_>,
    defaults: &Defaults,
    definitions: &Sound<'_>,
    sink: &mut Sink,
) -> (Vec<PlannedRaw>, Vec<bool>) {
    let policy = resolver.policy;
    let mut entries = (Vec::new(), Vec::new());
    for written in &policy.raw {
        let errors = sink.errors();
        let policy::PolicyRaw {
            span: _,
            packets: written,
            treatment,
            // The place of the key; `treatment` has its value.
            answers: _,
        } = written;
        let mut packets = resolver.rule(policy::CustomTable::Raw, written, defaults, sink);
        // The reader reported the treatment, so that no plan comes of this policy.
        let Some(treatment) = treatment else {
            continue;
        };
        let kind = match &treatment.value {
            Treatment::NoTrack { .. } => "notrack",
            Treatment::Helper(helper) => helper.name(),
            Treatment::Drop => "drop",
        };
        packets.label = match &written.name {
            Some(name) => format!("raw \"{}\"", name.value),
            None => {
                let rest = packets.label.strip_prefix("rule: accept");
                format!("raw: {kind}{}", rest.unwrap_or_default())
            }
        };
        let from = packets.from.get_or_insert_with(|| vec![Endpoint::Any]);
        let only_host = from.iter().all(|place| *place == Endpoint::Host);
        let is_drop = treatment.value == Treatment::Drop;
        packets
            .to
            .get_or_insert_with(|| match only_host || is_drop {
                true => vec![Endpoint::Any],
                false => vec![Endpoint::Host],
            });
        if is_drop {
            packets.action = RuleAction::Drop;
        }
        let complete = written.complete && sink.errors() == errors;
        entries.0.push(PlannedRaw {
            packets,
            treatment: treatment.value.clone(),
        });
        entries.1.push(complete && definitions.has(policy, written));
    }
    entries
}

/// Returns the entries for services with a helper: if a rule accepts such a service, the helper is attached to its packets.
/// Keys that the raw table cannot match do not narrow them.
pub fn of_services(
    resolver: &Resolver<'_>,
    rules: &[PlannedRule],
    sink: &mut Sink,
) -> Vec<PlannedRaw> {
    let mut entries = Vec::new();
    for (rule, written) in rules.iter().zip(&resolver.policy.rules) {
        let is_block = matches!(rule.action, RuleAction::Block(_));
        if !rule.enabled || rule.action != RuleAction::Accept && !is_block {
            continue;
        }
        let items = written.service.as_deref().unwrap_or_default();
        let helpers = resolver.services.helpers(items);
        let left_out = written.not_from.iter().chain(&written.not_to);
        let in_block = rule.in_block.is_some() || is_block;
        if let (Some((helper, _)), Some(item)) = (helpers.first(), items.first())
            && in_block
        {
            let message = format!(
                "a block cannot attach the helper `{}` of this service",
                helper.name()
            );
            sink.report(
                Diagnostic::error(Code::Conflict, item.span, message)
                    .with_note(
                        "the helper is attached in the raw table, where the block's chain is not",
                    )
                    .help("write a rule of its own for the service, outside of blocks"),
            );
            continue;
        }
        if let (Some((helper, _)), Some(place)) = (helpers.first(), left_out.flatten().next()) {
            let message = format!(
                "`!` on a rule whose service has the helper `{}`",
                helper.name()
            );
            sink.report(
                Diagnostic::error(Code::Conflict, place.span, message)
                    .with_note("the helper is attached before the kernel knows by which device a packet leaves")
                    .help("name the zones and interfaces that you mean"),
            );
            continue;
        }
        let excepted = [
            (&rule.source, &written.source),
            (&rule.destination, &written.destination),
        ];
        let excepted = excepted.into_iter().find_map(|(resolved, written)| {
            let has_masks = resolved
                .as_ref()
                .is_some_and(|it| it.negated && !it.masks.is_empty());
            written.as_ref().filter(|_| has_masks)
        });
        if let (Some((helper, _)), Some(written)) = (helpers.first(), excepted) {
            let message = format!(
                "a negated mask on a rule whose service has the helper `{}`",
                helper.name()
            );
            sink.report(
                Diagnostic::error(Code::Conflict, written.span, message)
                    .help("name the addresses that you mean"),
            );
            continue;
        }
        for (helper, parts) in helpers {
            let from = rule.from.clone().unwrap_or_else(|| vec![Endpoint::Any]);
            let only_host = from.iter().all(|place| *place == Endpoint::Host);
            let to = rule.to.clone().unwrap_or_else(|| match only_host {
                true => vec![Endpoint::Any],
                false => vec![Endpoint::Host],
            });
            entries.push(PlannedRaw {
                packets: before_tracking(PlannedRule {
                    label: format!("helper {} of {}", helper.name(), rule.label),
                    service: Some(parts),
                    from: Some(from),
                    to: Some(to),
                    ..rule.clone()
                }),
                treatment: Treatment::Helper(helper),
            });
        }
    }
    entries
}

/// Removes the keys that the raw table cannot match, and those for what the rule does with its packets.
fn before_tracking(mut rule: PlannedRule) -> PlannedRule {
    #[rustfmt::skip]
    let PlannedRule {
        span: _, label: _, named: _, comment: _, remark: _, action: _, from: _, not_from: _, to: _, not_to: _,
        source: _, destination: _, service: _, not_service: _, ipset: _, scope: _, mac: _, user: _, group: _, schedule: _, expires: _,
        stage: _, order: _, enabled: _, in_block: _,
        // The raw table is before connection tracking and before mangle, where marks are set.
        state, mark,
        // The helper reads every packet of the connection, not only those with these flags or within a limit.
        tcp_flags, original, matches, limit, connections, log,
    } = &mut rule;
    (*state, *mark, *tcp_flags) = (None, None, None);
    (*original, *matches) = (None, None);
    (*limit, *connections, *log) = (None, None, None);
    rule
}

/// Checks the entries of the plan, each by itself. They have the order of the policy.
pub fn check(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    let written = policy.raw.iter().filter(|entry| entry.treatment.is_some());
    for ((entry, written), sound) in plan.raw.iter().zip(written).zip(sound) {
        if !*sound {
            continue;
        }
        let checked = Checked::new(plan, &entry.packets, &written.packets);
        checked.report_packets(plan, "raw entry", sink);
        checked.negated_masks("a raw entry", sink);
        let from = || entry.packets.from.iter().flatten();
        let arrives = from().any(|place| *place != Endpoint::Host);
        let sends = from().any(|place| *place == Endpoint::Host);
        let chains = [("PREROUTING", arrives), ("OUTPUT", sends)].into_iter();
        let chains = chains.filter(|(_, has_lines)| *has_lines);
        let chains = chains.map(|(chain, _)| chain).collect();
        let lines = (policy::CustomTable::Raw, chains, false);
        checked.matches_in(policy, lines, sink);
        match &entry.treatment {
            Treatment::NoTrack { answers } => {
                places(plan, entry, written, sink);
                ipsec(plan, entry, written, sink);
                questions(entry, written, *answers, sink);
            }
            Treatment::Helper(helper) => {
                ipsec(plan, entry, written, sink);
                protocols(entry, written, helper, sink);
            }
            Treatment::Drop => {
                checked.drops_everything(sink);
                drops(plan, entry, written, sink);
            }
        }
    }
}

/// Reports `to` of arriving packets, and devices on which `loopback` accepts everything.
fn drops(plan: &Plan, entry: &PlannedRaw, written: &policy::PolicyRaw, sink: &mut Sink) {
    let from = entry.packets.from.iter().flatten();
    let arriving = from.clone().any(|place| *place != Endpoint::Host);
    let to = written.packets.to.iter().flatten().next();
    if let Some(to) = to.filter(|_| arriving) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                to.span,
                "arriving packets are dropped before routing, when the outgoing device is not known",
            )
            .help("leave `to` out, and name addresses in `destination`; `to` is for `from = \"host\"`")
            .help("to drop what goes to an interface, write a rule with `action = \"drop\"` and `stage = \"early\"`"),
        );
        return;
    }
    on_loopback(plan, &entry.packets, &written.packets, sink);
}

/// Reports interfaces with the device lo in an entry that drops while `loopback` accepts everything there.
pub fn on_loopback(
    plan: &Plan,
    packets: &PlannedRule,
    written: &policy::PolicyRule,
    sink: &mut Sink,
) {
    let scope = packets.scope;
    let keeps = |hook: Hook| {
        let families = plan.defaults.of.iter();
        let mut families = families.filter(|(family, _)| {
            plan.defaults.families.has(*family) && scope.is_none_or(|scope| scope.has(*family))
        });
        families.any(|(_, defaults)| defaults.loopback[hook])
    };
    let sides = [
        (&packets.from, &written.from, keeps(Hook::Input)),
        (&packets.to, &written.to, keeps(Hook::Output)),
    ];
    for (places, names, keeps_loopback) in sides {
        for (place, name) in places.iter().flatten().zip(names.iter().flatten()) {
            let members = plan.members(*place).into_iter();
            let mut devices = members
                .filter_map(|member| member.interface)
                .flat_map(|index| &plan.interfaces[index].devices);
            if keeps_loopback && devices.any(|device| device.matches("lo")) {
                let message = format!(
                    "`{}` has the device lo, on which `loopback` accepts everything",
                    name.value
                );
                sink.report(
                    Diagnostic::error(Code::Conflict, name.span, message)
                        .help("name other devices, or write `loopback = false` under [defaults]"),
                );
            }
        }
    }
}

/// Returns `true` if an entry may have packets that pass through this host.
fn forwards(packets: &PlannedRule) -> bool {
    let elsewhere = |places: &Option<Vec<Endpoint>>| {
        let mut places = places.iter().flatten();
        places.any(|place| *place != Endpoint::Host)
    };
    elsewhere(&packets.from) && elsewhere(&packets.to)
}

/// Reports interfaces without networks between which untracked packets are forwarded. The raw table is before routing, so
/// the interface that a packet leaves by is matched by its networks.
fn places(plan: &Plan, entry: &PlannedRaw, written: &policy::PolicyRaw, sink: &mut Sink) {
    let packets = &entry.packets;
    if !forwards(packets) {
        return;
    }
    if let Some(name) = written.packets.not_from.iter().flatten().next() {
        let message = "the raw table does not show by which device the replies leave, and this leaves devices out";
        sink.report(
            Diagnostic::error(Code::NotrackPlace, name.span, message)
                .help("name in `from` interfaces with `networks`, or write `from = \"any\"` and the addresses")
                .help("`from` can be negated where `to` is only `host`"),
        );
        return;
    }
    let sides = [
        ("to", &packets.to, &written.packets.to),
        ("from", &packets.from, &written.packets.from),
    ];
    for (key, places, names) in sides {
        for (place, name) in places.iter().flatten().zip(names.iter().flatten()) {
            let unknown = plan.members(*place).iter().find_map(|member| {
                let interface = &plan.interfaces[member.interface?];
                let known = member.networks.is_some() || !interface.networks.is_empty();
                (!known).then(|| interface.name.clone())
            });
            let Some(interface) = unknown.filter(|_| *place != Endpoint::Host) else {
                continue;
            };
            let which = match key {
                "to" => "the packets",
                _ => "their replies",
            };
            let message = format!(
                "the raw table does not show by which device {which} leave, and `{interface}` has no `networks`"
            );
            sink.report(
                Diagnostic::error(Code::NotrackPlace, name.span, message).help(format!(
                    "give `{interface}` its `networks`, or write `{key} = \"any\"` and the addresses"
                )),
            );
        }
    }
}

/// Reports zones with `ipsec` that forwarded packets of an entry go to, or that the replies of notrack go to: the raw table
/// is before routing, which decides whether a packet goes into IPsec.
fn ipsec(plan: &Plan, entry: &PlannedRaw, written: &policy::PolicyRaw, sink: &mut Sink) {
    let packets = &entry.packets;
    if !forwards(packets) {
        return;
    }
    let has_replies = matches!(entry.treatment, Treatment::NoTrack { .. });
    let sides = [
        (
            "to",
            "the packets go",
            &packets.to,
            &written.packets.to,
            true,
        ),
        (
            "from",
            "their replies go",
            &packets.from,
            &written.packets.from,
            has_replies,
        ),
    ];
    for (key, who, places, names, is_asked) in sides {
        for (place, name) in places.iter().flatten().zip(names.iter().flatten()) {
            let asks = [true, false]
                .iter()
                .any(|with| plan.asks_ipsec(*place, *with));
            if !asks || !is_asked {
                continue;
            }
            let message = format!(
                "the raw table does not show whether {who} into IPsec, as `{}` asks",
                name.value
            );
            sink.report(
                Diagnostic::error(Code::NotrackPlace, name.span, message)
                    .with_note("routing decides it, after the raw table")
                    .help(format!(
                        "write `{key} = \"any\"` and name the addresses in `{}`",
                        match key {
                            "to" => "destination",
                            _ => "source",
                        }
                    )),
            );
        }
    }
}

/// Reports `answers` on an entry that has no packets of this host.
fn questions(entry: &PlannedRaw, written: &policy::PolicyRaw, answers: bool, sink: &mut Sink) {
    let Some(span) = written.answers.filter(|_| answers) else {
        return;
    };
    let mut from = entry.packets.from.iter().flatten();
    if !from.any(|place| *place == Endpoint::Host) {
        sink.report(
            Diagnostic::error(
                Code::Conflict,
                span,
                "`answers` is about replies to this host's own requests, but the entry matches none",
            )
            .help("write `from = \"host\"`, or leave `answers` out: replies of this host leave where a rule accepts the requests"),
        );
    }
}

/// Reports services whose protocols the helper does not read.
fn protocols(entry: &PlannedRaw, written: &policy::PolicyRaw, helper: &Helper, sink: &mut Sink) {
    let reads = |part: &ServicePart| match part {
        ServicePart::Ports(ports) => helper.reads(ports.protocol),
        _ => false,
    };
    let parts = entry.packets.service.as_ref();
    if parts.is_some_and(|parts| parts.iter().all(reads)) {
        return;
    }
    let service = written
        .packets
        .service
        .as_ref()
        .and_then(|items| items.first());
    let message = format!(
        "the helper `{}` reads ports of {} only",
        helper.name(),
        helper.protocols()
    );
    sink.report(
        Diagnostic::error(
            Code::HelperProtocol,
            service.map_or(entry.packets.span, |item| item.span),
            message,
        )
        .help("name the ports of its protocol in `service`, as in `21/tcp`"),
    );
}

//! What the lines of a rule match.

use crate::expand::addresses;
use crate::expand::context::{LineContext, NegatableContext, SetContext, TimeContext};
use crate::expand::hooks::{self, HookPath};
use crate::expand::original;
use crate::expand::services::{self, PortList, ServiceMatch};
use crate::net::{Date, Family, InterfacePattern, Protocol, State};
use crate::resolve::{Endpoint, OneOf, Plan, PlannedRule, Schedule};

/// Returns the number of lines of [`packets`] without making them: there may be more than memory holds.
pub fn count(plan: &Plan, rule: &PlannedRule, path: &HookPath<'_>, family: Family) -> u64 {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let side = |addresses: &Option<_>, networks: &Option<_>| {
        number(addresses::count(
            addresses.as_ref(),
            networks.as_ref(),
            plan,
            family,
        ))
    };
    side(&rule.source, &path.source)
        .saturating_mul(side(&rule.destination, &path.destination))
        .saturating_mul(number(
            services::matches(rule.service.as_ref(), family).len(),
        ))
        .saturating_mul(number(
            original::matches(rule.original.as_ref(), family).len(),
        ))
        .saturating_mul(number(lines_of(rule.mac.as_ref()).len()))
        .saturating_mul(number(lines_of(rule.user.as_ref()).len()))
        .saturating_mul(number(lines_of(rule.group.as_ref()).len()))
}

/// What one line asks of a key: one of the values, or, of a negated key, none of them.
#[derive(Clone)]
struct LineValues {
    is: Option<String>,
    is_not: Vec<String>,
}

/// Returns what the lines ask of a key: of several values each is a line of its own, since iptables takes one; a negated key
/// is one line, with a match for each value.
fn lines_of<T: ToString>(key: Option<&OneOf<T>>) -> Vec<LineValues> {
    let nothing = LineValues {
        is: None,
        is_not: Vec::new(),
    };
    let Some(key) = key else {
        return vec![nothing];
    };
    let mut texts: Vec<String> = Vec::new();
    for text in key.values.iter().map(ToString::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if key.negated {
        return vec![LineValues {
            is_not: texts,
            ..nothing
        }];
    }
    let each = texts.into_iter().map(|text| LineValues {
        is: Some(text),
        ..nothing.clone()
    });
    each.collect()
}

/// Returns lines without a target that match a rule's packets on one path. A packet may match several of them, such as an
/// address of a list that is also in a set.
pub fn packets(
    plan: &Plan,
    rule: &PlannedRule,
    path: &HookPath<'_>,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    // Without `..`, so that code with a new key does not compile until somebody decides here what a line matches.
    #[rustfmt::skip]
    let PlannedRule {
        not_from, not_to, source, destination, service, ipset, state, mark, mac, tcp_flags, original, matches, user, group,
        schedule, expires, comment,
        // The caller skips disabled rules and finds the paths. What one line cannot negate is in `exceptions`.
        enabled: _, scope: _, from: _, to: _, not_service: _,
        // The lines of a rule of a block are in the block's chain.
        in_block: _,
        // The targets of the lines, and their place.
        action: _, limit: _, connections: _, log: _, stage: _, order: _, span: _, label: _, named: _, remark: _,
    } = rule;
    let sources = addresses::matches(plan, source.as_ref(), path.source.as_ref(), family, "src");
    let destinations = addresses::matches(
        plan,
        destination.as_ref(),
        path.destination.as_ref(),
        family,
        "dst",
    );
    let not_device = |places: Option<&Vec<Endpoint>>| {
        let device = hooks::only_left_out(plan, places)?;
        Some(NegatableContext {
            not: "! ",
            value: device.to_string(),
        })
    };
    let not_in = not_device(not_from.as_ref());
    let not_out = not_device(not_to.as_ref());
    let foreign = ipset.as_ref().map(|set| SetContext {
        not: if set.negated { "! " } else { "" },
        name: set.name.clone(),
        side: set.ends.to_string(),
    });
    let mut senders = Vec::new();
    for mac in lines_of(mac.as_ref()) {
        for user in lines_of(user.as_ref()) {
            for group in lines_of(group.as_ref()) {
                senders.push((mac.clone(), user.clone(), group));
            }
        }
    }
    // Both keys have one value.
    let mark = lines_of(mark.as_ref()).pop();
    let (mark, not_mark) = mark.map_or((None, None), |mut mark| (mark.is, mark.is_not.pop()));
    let flags = lines_of(tcp_flags.as_ref()).pop();
    let (flags, not_flags) = flags.map_or((None, None), |mut flags| (flags.is, flags.is_not.pop()));
    let services = services::matches(service.as_ref(), family);
    let times = times(schedule.as_ref(), *expires);
    let states = state.as_ref().map(|states| {
        let words: Vec<_> = states.iter().map(|state: &State| state.keyword()).collect();
        words.join(",")
    });
    let originals = original::matches(original.as_ref(), family);
    // A match that counts stands once, in a chain of the rule.
    let matches = matches.as_ref().filter(|matches| !matches.counts);
    let matches = matches.and_then(|matches| matches.texts[family].clone());
    let mut lines = Vec::with_capacity(sources.len() * destinations.len() * services.len());
    for source in &sources {
        for destination in &destinations {
            for service in &services {
                let mut line = LineContext {
                    in_device: path
                        .input
                        .map(|device| NegatableContext::plain(device.to_string()))
                        .or_else(|| not_in.clone()),
                    out_device: path
                        .output
                        .map(|device| NegatableContext::plain(device.to_string()))
                        .or_else(|| not_out.clone()),
                    ipsec_in: path.ipsec_in.map(ipsec),
                    ipsec_out: path.ipsec_out.map(ipsec),
                    mark: mark.clone(),
                    not_mark: not_mark.clone(),
                    tcp_flags: flags.clone(),
                    not_tcp_flags: not_flags.clone(),
                    times: times.clone(),
                    states: states.clone(),
                    matches: matches.clone(),
                    comment: comment.clone(),
                    origin: origin.to_owned(),
                    ..LineContext::default()
                };
                line.source.clone_from(&source.prefix);
                line.source_range.clone_from(&source.range);
                line.destination.clone_from(&destination.prefix);
                line.destination_range.clone_from(&destination.range);
                let sets = source.sets.iter().chain(&destination.sets).chain(&foreign);
                line.sets = sets.cloned().collect();
                put_service(&mut line, service);
                if tcp_flags.is_some() {
                    line.protocol = Some(Protocol::TCP.to_string());
                }
                for originals in &originals {
                    for (mac, user, group) in &senders {
                        lines.push(LineContext {
                            originals: originals.clone(),
                            mac: mac.is.clone(),
                            not_macs: mac.is_not.clone(),
                            uid: user.is.clone(),
                            not_uids: user.is_not.clone(),
                            gid: group.is.clone(),
                            not_gids: group.is_not.clone(),
                            ..line.clone()
                        });
                    }
                }
            }
        }
    }
    lines
}

/// Returns lines, without a target, for the packets that a rule's negated keys leave out, as far as [`packets`] cannot say it in
/// its own lines: iptables negates one device in a line, and no list, no zone with networks or IPsec, no service, and one address without a mask.
pub fn exceptions(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    let plain = LineContext {
        comment: rule.comment.clone(),
        origin: origin.to_owned(),
        ..LineContext::default()
    };
    let mut lines = Vec::new();
    let sides = |places: &Option<Vec<Endpoint>>| match hooks::only_left_out(plan, places.as_ref()) {
        Some(_) => Vec::new(),
        None => hooks::left_out(plan, places.as_ref()),
    };
    let device = |device: Option<&InterfacePattern>| {
        device.map(|device| NegatableContext::plain(device.to_string()))
    };
    for from in sides(&rule.not_from) {
        for source in addresses::matches(plan, None, from.networks.as_ref(), family, "src") {
            lines.push(LineContext {
                in_device: device(from.device),
                source: source.prefix,
                source_range: source.range,
                ipsec_in: from.ipsec.map(ipsec),
                ..plain.clone()
            });
        }
    }
    for to in sides(&rule.not_to) {
        for destination in addresses::matches(plan, None, to.networks.as_ref(), family, "dst") {
            lines.push(LineContext {
                out_device: device(to.device),
                destination: destination.prefix,
                destination_range: destination.range,
                ipsec_out: to.ipsec.map(ipsec),
                ..plain.clone()
            });
        }
    }
    for source in addresses::left_out_masks(rule.source.as_ref(), family) {
        lines.push(LineContext {
            source: source.prefix,
            ..plain.clone()
        });
    }
    for destination in addresses::left_out_masks(rule.destination.as_ref(), family) {
        lines.push(LineContext {
            destination: destination.prefix,
            ..plain.clone()
        });
    }
    if rule.not_service.is_some() {
        for service in services::matches(rule.not_service.as_ref(), family) {
            let mut line = plain.clone();
            put_service(&mut line, &service);
            lines.push(line);
        }
    }
    lines
}

/// Returns the word of `--pol` for packets with IPsec, or without.
fn ipsec(with: bool) -> &'static str {
    match with {
        true => "ipsec",
        false => "none",
    }
}

/// Returns the time matches of a rule: none, one, or two if its hours are local, since its last day is in UTC and
/// `--kerneltz` would apply to both.
fn times(schedule: Option<&Schedule>, expires: Option<Date>) -> Vec<TimeContext> {
    /// The end that iptables-save prints for a match without a last day.
    const END_OF_TIME: &str = "2038-01-19T03:14:07";
    let last = expires.map(|date| format!("{date}T23:59:59"));
    let expiry = last.clone().map(|last| TimeContext {
        last,
        ..TimeContext::default()
    });
    let Some(schedule) = schedule else {
        return expiry.into_iter().collect();
    };
    let hours = schedule.hours;
    let mut hourly = TimeContext {
        from: hours.map(|(from, _)| from.to_string()),
        until: hours.map(|(_, until)| until.to_string()),
        days: schedule.days.as_ref().map(|days| {
            let names: Vec<_> = days.iter().map(ToString::to_string).collect();
            names.join(",")
        }),
        last: END_OF_TIME.to_owned(),
        contiguous: hours.is_some_and(|(from, until)| until < from),
        local: schedule.local,
    };
    match (expiry, last) {
        (Some(expiry), _) if schedule.local => vec![hourly, expiry],
        (_, Some(last)) => {
            hourly.last = last;
            vec![hourly]
        }
        _ => vec![hourly],
    }
}

fn put_service(line: &mut LineContext, service: &ServiceMatch) {
    match service {
        ServiceMatch::All => {}
        ServiceMatch::Protocol(protocol) => line.protocol = Some(protocol.to_string()),
        ServiceMatch::AuthHeader => line.auth_header = true,
        ServiceMatch::Icmp(kind) => {
            line.protocol = Some(Protocol::ICMP.to_string());
            line.icmp = Some(kind.clone());
        }
        ServiceMatch::Icmpv6(kind) => {
            line.protocol = Some(Protocol::ICMPV6.to_string());
            line.icmpv6 = Some(kind.clone());
        }
        ServiceMatch::Ports {
            protocol,
            source,
            destination,
        } => {
            line.protocol = Some(protocol.to_string());
            match source {
                Some(PortList::One(port)) => line.source_port = Some(port.clone()),
                Some(PortList::Several(ports)) => line.source_ports = Some(ports.clone()),
                None => {}
            }
            match destination {
                Some(PortList::One(port)) => line.destination_port = Some(port.clone()),
                Some(PortList::Several(ports)) => line.destination_ports = Some(ports.clone()),
                None => {}
            }
        }
    }
}

/// Returns `true` if a packet may fit several of a rule's lines: those of a set or a mask and a list, of an authentication header and
/// the protocol behind it, and of places with and without a device or IPsec.
pub fn may_overlap(lines: &[LineContext]) -> bool {
    let overlaps = |line: &LineContext| {
        line.auth_header
            || !line.sets.is_empty()
            || addresses::has_mask(line.source.as_ref())
            || addresses::has_mask(line.destination.as_ref())
    };
    let differ = |has: fn(&LineContext) -> bool| lines.iter().any(has) && !lines.iter().all(has);
    lines.len() > 1
        && (lines.iter().any(overlaps)
            || differ(|line| line.in_device.is_some())
            || differ(|line| line.out_device.is_some())
            || differ(|line| line.ipsec_in.is_some())
            || differ(|line| line.ipsec_out.is_some()))
}

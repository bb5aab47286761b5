//! Expands the entries of `[[mangle]]` to lines of the mangle table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::context::{ChainContext, ChangeContext, GroupContext, LineContext};
use super::entries::{EntryChains, EntryPart, counting, log_of};
use super::hooks::{self, HookPath};
use super::origin::LineOrigin;
use super::raw;
use super::rules;
use crate::expand::own_chains::OwnChains;
use crate::net::{Family, Hook, MarkMatch, Protocol, TcpFlags, TcpFlagsMatch};
use crate::policy::{self, HopLimitChange};
use crate::resolve::{Endpoint, OneOf, Plan, PlannedMangle, PlannedRule};

const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Returns the chains of the mangle table in a family: the base chains, then fwc's own.
pub fn chains(plan: &Plan, family: Family) -> Vec<ChainContext> {
    let mut own = Vec::new();
    let mut of_entries = OwnChains::default();
    let base = CHAINS.iter().map(|name| ChainContext {
        name: (*name).to_owned(),
        policy: "ACCEPT",
        groups: groups(plan, name, family, &mut own, &mut of_entries),
        ..ChainContext::default()
    });
    let mut chains: Vec<_> = base.collect();
    chains.extend(own);
    chains.extend(of_entries.into_chains());
    chains
}

fn groups(
    plan: &Plan,
    chain: &str,
    family: Family,
    own: &mut Vec<ChainContext>,
    of_entries: &mut OwnChains,
) -> Vec<GroupContext> {
    let mut groups = Vec::new();
    for (index, entry) in plan.mangle.iter().enumerate() {
        let PlannedMangle {
            packets,
            change: of_entry,
        } = entry;
        if !packets.enabled || !packets.scope.is_none_or(|scope| scope.has(family)) {
            continue;
        }
        let origin = LineOrigin::Mangle(index).mark();
        let entry_chains = EntryChains {
            packets,
            chain,
            log: log_of(plan, packets),
        };
        if *of_entry == policy::MangleChange::Drop {
            let part = drops(plan, entry, chain, family, &origin);
            let lines = entry_chains.place(vec![part], of_entries);
            if !lines.is_empty() {
                groups.push(GroupContext::of_written(packets, index, lines));
            }
            continue;
        }
        let change = change(*of_entry, family);
        let rule = matched(entry);
        let paths = paths(plan, entry, chain, family);
        let lines: Vec<_> = paths
            .iter()
            .flat_map(|path| rules::packets(plan, &rule, path, family, &origin))
            .map(|line| match leaves_icmpv6_alone(entry, family) {
                true => without_icmpv6(line),
                false => line,
            })
            .collect();
        let mut parts = vec![EntryPart {
            lines,
            exceptions: rules::exceptions(plan, &rule, family, &origin),
            counting: counting(&rule, family),
        }];
        if matches!(of_entry, policy::MangleChange::ClampMss(_)) && chain == Hook::Forward.chain() {
            let part = answers(plan, &rule, family, &origin, &parts[0].lines);
            parts.push(part);
        }
        if parts.iter().all(|part| part.lines.is_empty()) {
            continue;
        }
        // Setting a value twice does no harm, but `inc` and `dec` add up. A packet may match several lines: those of other paths,
        // of a set and a list, and of an authentication header and the protocol behind it.
        let adds = matches!(change.hops, Some("inc" | "dec"));
        let may_add_twice =
            paths.len() > 1 || parts.iter().any(|part| rules::may_overlap(&part.lines));
        let is_plain = parts.iter().all(EntryPart::is_plain) && entry_chains.log.is_none();
        let lines = if adds && may_add_twice && is_plain {
            let lines = parts.into_iter().flat_map(|part| part.lines).collect();
            change_once(lines, change, packets, chain, own)
        } else {
            for line in parts.iter_mut().flat_map(|part| &mut part.lines) {
                line.change = Some(change.clone());
            }
            entry_chains.place(parts, of_entries)
        };
        groups.push(GroupContext::of_written(packets, index, lines));
    }
    groups
}

/// Returns the lines for the SYN of the other direction. Each end announces in its own SYN the largest segment that it
/// receives, so clamping one direction leaves the other as it was. `lines` are those of the entry itself.
fn answers(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    origin: &str,
    lines: &[LineContext],
) -> EntryPart {
    let shown = |line: &LineContext| format!("{line:?}");
    let known: Vec<String> = lines.iter().map(shown).collect();
    let flags = rule.tcp_flags.as_ref().and_then(|of| of.values.first());
    let flags = flags.map(|flags| flags.to_string());
    let exceptions = raw::reply_exceptions(plan, rule, family, origin);
    let answers = raw::reply_lines(plan, rule, None, Hook::Forward, family, "").into_iter();
    // A match asks about each packet as it is. What counts is asked once for both directions.
    let matches = rule.matches.as_ref().filter(|matches| !matches.counts);
    let matches = matches.and_then(|matches| matches.texts[family].clone());
    let answers = answers.map(|line| LineContext {
        protocol: Some(Protocol::TCP.to_string()),
        tcp_flags: flags.clone(),
        matches: matches.clone(),
        origin: origin.to_owned(),
        ..line
    });
    EntryPart {
        // An entry for both directions already has them.
        lines: answers
            .filter(|line| !exceptions.is_empty() || !known.contains(&shown(line)))
            .collect(),
        exceptions,
        counting: counting(rule, family),
    }
}

/// Makes lines change each packet once. Lines may match the same packet, and its hop limit must not grow twice: the first
/// line that matches enters the chain of the change by `-g`, which returns to the base chain and so skips the other
/// lines.
fn change_once(
    mut lines: Vec<LineContext>,
    change: ChangeContext,
    packets: &PlannedRule,
    chain: &str,
    own: &mut Vec<ChainContext>,
) -> Vec<LineContext> {
    let name = format!("FWC-{chain}-HOPS-{}", own.len() / 2 + 1);
    let changes = format!("{name}-DO");
    for line in &mut lines {
        line.target.clone_from(&changes);
        line.goto = true;
    }
    let origin = lines.first().map(|line| line.origin.clone());
    let origin = origin.unwrap_or_default();
    let changing = LineContext {
        change: Some(change),
        origin: origin.clone(),
        ..LineContext::default()
    };
    for (name, lines) in [(&name, lines), (&changes, vec![changing])] {
        own.push(ChainContext::own(
            name.clone(),
            vec![GroupContext::of(packets, lines)],
        ));
    }
    vec![LineContext {
        origin,
        ..LineContext::to(&name)
    }]
}

/// Returns the lines that drop the packets of an entry in a chain.
fn drops(
    plan: &Plan,
    entry: &PlannedMangle,
    chain: &str,
    family: Family,
    origin: &str,
) -> EntryPart {
    let paths = paths(plan, entry, chain, family);
    let lines = paths
        .iter()
        .flat_map(|path| rules::packets(plan, &entry.packets, path, family, origin));
    raw::dropped(plan, &entry.packets, chain, family, origin, lines.collect())
}

/// Returns the paths of an entry through a chain.
fn paths<'p>(
    plan: &'p Plan,
    entry: &PlannedMangle,
    chain: &str,
    family: Family,
) -> Vec<HookPath<'p>> {
    let packets = &entry.packets;
    if entry.change == policy::MangleChange::Checksum {
        return match chain {
            "POSTROUTING" => paths_out(plan, packets, family),
            _ => Vec::new(),
        };
    }
    if entry.before_routing() {
        return match chain {
            "PREROUTING" => hooks::paths_in(plan, packets, family),
            "OUTPUT" if hooks::from(packets).contains(&Endpoint::Host) => {
                let anywhere = PlannedRule {
                    from: Some(vec![Endpoint::Host]),
                    to: Some(vec![Endpoint::Any]),
                    ..packets.clone()
                };
                hooks::paths(plan, &anywhere, Hook::Output, family)
            }
            _ => Vec::new(),
        };
    }
    let hook = Hook::ALL.into_iter().find(|hook| hook.chain() == chain);
    hook.map_or_else(Vec::new, |hook| hooks::paths(plan, packets, hook, family))
}

/// Returns the paths by which the packets of an entry leave, wherever they came from.
fn paths_out<'p>(plan: &'p Plan, packets: &PlannedRule, family: Family) -> Vec<HookPath<'p>> {
    let mut found = Vec::new();
    for to in hooks::to(packets) {
        for side in hooks::side(plan, *to, family) {
            let path = HookPath::going(side);
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// Returns `true` if an entry must not change ICMPv6: neighbour discovery must arrive with the hop limit 255, and multicast
/// listener reports with 1, so that only an entry that names their types may change them.
fn leaves_icmpv6_alone(entry: &PlannedMangle, family: Family) -> bool {
    let hops = matches!(entry.change, policy::MangleChange::HopLimit(_));
    hops && family == Family::V6 && entry.packets.service.is_none()
}

fn without_icmpv6(line: LineContext) -> LineContext {
    LineContext {
        // A line with another protocol does not match ICMPv6.
        not_protocol: Some("ipv6-icmp").filter(|_| line.protocol.is_none()),
        ..line
    }
}

/// Returns the packets that the entry matches. Only packets with SYN carry a segment size.
fn matched(entry: &PlannedMangle) -> PlannedRule {
    let mut rule = entry.packets.clone();
    if let policy::MangleChange::ClampMss(_) = entry.change {
        const SYN: TcpFlags = TcpFlags::SYN;
        const RST: TcpFlags = TcpFlags(4);
        rule.tcp_flags = Some(OneOf::only(TcpFlagsMatch {
            looked_at: TcpFlags(SYN.0 | RST.0),
            set: SYN,
        }));
    }
    rule
}

fn change(change: policy::MangleChange, family: Family) -> ChangeContext {
    let to = |target: &'static str| ChangeContext {
        target,
        ..ChangeContext::default()
    };
    let masked = |mark: MarkMatch| Some(format!("{:#x}/{:#x}", mark.value, mark.mask));
    match change {
        policy::MangleChange::ClampMss(mss) => ChangeContext {
            mss,
            ..to("TCPMSS")
        },
        policy::MangleChange::SetMark(mark) => ChangeContext {
            mark: masked(mark),
            ..to("MARK")
        },
        policy::MangleChange::SaveMark(mask) => ChangeContext {
            copy: Some("save"),
            mask: Some(format!("{mask:#x}")),
            ..to("CONNMARK")
        },
        policy::MangleChange::RestoreMark(mask) => ChangeContext {
            copy: Some("restore"),
            mask: Some(format!("{mask:#x}")),
            ..to("CONNMARK")
        },
        policy::MangleChange::Dscp(class) => ChangeContext {
            dscp: Some(format!("{class:#04x}")),
            ..to("DSCP")
        },
        policy::MangleChange::HopLimit(hops) => {
            let (word, count) = match hops {
                HopLimitChange::Set(count) => ("set", count),
                HopLimitChange::Increase(count) => ("inc", count),
                HopLimitChange::Decrease(count) => ("dec", count),
            };
            ChangeContext {
                hops: Some(word),
                count: Some(count),
                ..to(match family {
                    Family::V4 => "TTL",
                    Family::V6 => "HL",
                })
            }
        }
        policy::MangleChange::Classify(major, minor) => ChangeContext {
            class: Some(format!("{major:04x}:{minor:04x}")),
            ..to("CLASSIFY")
        },
        policy::MangleChange::Proxy(proxy) => {
            let anywhere: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            let unmarked = MarkMatch { value: 0, mask: 0 };
            ChangeContext {
                port: Some(proxy.port),
                address: Some(proxy.address.unwrap_or(anywhere).to_string()),
                mark: masked(proxy.mark.unwrap_or(unmarked)),
                ..to("TPROXY")
            }
        }
        policy::MangleChange::Checksum => to("CHECKSUM"),
        // Not used: `drops` writes the lines of such an entry.
        policy::MangleChange::Drop => to("DROP"),
    }
}

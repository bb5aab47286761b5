//! Expands the entries of `[[mangle]]` to lines of the mangle table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::context::{ChainContext, ChangeContext, GroupContext, LineContext};
use super::hooks::{self, HookPath};
use super::origin::LineOrigin;
use super::raw;
use super::rules;
use crate::net::{Family, Hook, MarkMatch, Protocol, TcpFlags, TcpFlagsMatch};
use crate::policy::{self, HopLimitChange};
use crate::resolve::{Endpoint, OneOf, Plan, PlannedMangle, PlannedRule};

const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Returns the chains of the mangle table in a family: the base chains, then fwc's own.
pub fn chains(plan: &Plan, family: Family) -> Vec<ChainContext> {
    let mut own = Vec::new();
    let base = CHAINS.iter().map(|name| ChainContext {
        name: (*name).to_owned(),
        policy: "ACCEPT",
        groups: groups(plan, name, family, &mut own),
        ..ChainContext::default()
    });
    let mut chains: Vec<_> = base.collect();
    chains.extend(own);
    chains
}

fn groups(
    plan: &Plan,
    chain: &str,
    family: Family,
    own: &mut Vec<ChainContext>,
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
        if *of_entry == policy::MangleChange::Drop {
            let lines = drops(plan, entry, chain, family, &origin);
            if !lines.is_empty() {
                groups.push(GroupContext::of_written(packets, index, lines));
            }
            continue;
        }
        let change = change(*of_entry, family);
        let rule = matched(entry);
        let paths = paths(plan, entry, chain, family);
        let mut lines: Vec<_> = paths
            .iter()
            .flat_map(|path| rules::packets(plan, &rule, path, family, &origin))
            .map(|line| match leaves_icmpv6_alone(entry, family) {
                true => without_icmpv6(line),
                false => line,
            })
            .collect();
        if matches!(of_entry, policy::MangleChange::ClampMss(_)) && chain == Hook::Forward.chain() {
            add_answers(plan, &rule, family, &origin, &mut lines);
        }
        if lines.is_empty() {
            continue;
        }
        // Setting a value twice does no harm, but `inc` and `dec` add up. A packet may match several lines: those of other paths,
        // of a set and a list, and of an authentication header and the protocol behind it.
        let adds = matches!(change.hops, Some("inc" | "dec"));
        let may_add_twice = paths.len() > 1 || rules::may_overlap(&lines);
        let lines = if adds && may_add_twice {
            change_once(lines, change, packets, chain, own)
        } else {
            let change = Some(change);
            let changing = lines.into_iter().map(|line| LineContext {
                change: change.clone(),
                ..line
            });
            changing.collect()
        };
        groups.push(GroupContext::of_written(packets, index, lines));
    }
    groups
}

/// Adds lines for the SYN of the other direction. Each end announces in its own SYN the largest segment that it receives, so
/// clamping one direction leaves the other as it was.
fn add_answers(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    origin: &str,
    lines: &mut Vec<LineContext>,
) {
    let shown = |line: &LineContext| format!("{line:?}");
    let known: Vec<String> = lines.iter().map(shown).collect();
    let flags = rule.tcp_flags.as_ref().and_then(|of| of.values.first());
    let flags = flags.map(|flags| flags.to_string());
    let answers = raw::reply_lines(plan, rule, None, Hook::Forward, family, "").into_iter();
    let answers = answers.map(|line| LineContext {
        protocol: Some(Protocol::TCP.to_string()),
        tcp_flags: flags.clone(),
        origin: origin.to_owned(),
        ..line
    });
    // An entry for both directions already has them.
    lines.extend(answers.filter(|line| !known.contains(&shown(line))));
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
        own.push(ChainContext {
            name: name.clone(),
            policy: "-",
            groups: vec![GroupContext::of(packets, lines)],
            ..ChainContext::default()
        });
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
) -> Vec<LineContext> {
    let not_lo = || hooks::not_lo(plan, family, chain);
    let paths = paths(plan, entry, chain, family);
    let lines = paths
        .iter()
        .flat_map(|path| rules::packets(plan, &entry.packets, path, family, origin));
    lines
        .map(|mut line| {
            match chain {
                "PREROUTING" | "INPUT" => line.in_device = line.in_device.or_else(not_lo),
                "OUTPUT" => line.out_device = line.out_device.or_else(not_lo),
                _ => {}
            }
            LineContext {
                target: "DROP".to_owned(),
                ..line
            }
        })
        .collect()
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

//! The entries of `[[mangle]]` as lines of the mangle table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::context::{Chain, Change, Group, Line};
use super::hooks::{self, Way};
use super::raw;
use super::render::Origin;
use super::rules;
use crate::net::{Family, Hook, MarkMatch, Protocol, TcpFlags, TcpFlagsMatch};
use crate::policy::{self, HopLimit};
use crate::resolve::{Mangle, Place, Plan, Rule};

const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The chains of the mangle table in a family: the base chains, then our own.
pub fn chains(plan: &Plan, family: Family) -> Vec<Chain> {
    let mut own = Vec::new();
    let base = CHAINS.iter().map(|name| Chain {
        name: (*name).to_owned(),
        policy: "ACCEPT",
        groups: groups(plan, name, family, &mut own),
        ..Chain::default()
    });
    let mut chains: Vec<_> = base.collect();
    chains.extend(own);
    chains
}

fn groups(plan: &Plan, chain: &str, family: Family, own: &mut Vec<Chain>) -> Vec<Group> {
    let mut groups = Vec::new();
    for (index, entry) in plan.mangle.iter().enumerate() {
        let Mangle {
            packets,
            change: of_entry,
        } = entry;
        if !packets.enabled || !packets.scope.is_none_or(|scope| scope.has(family)) {
            continue;
        }
        let change = change(*of_entry, family);
        let rule = looked_at(entry);
        let ways = ways(plan, entry, chain, family);
        let origin = Origin::Mangle(index).mark();
        let mut lines: Vec<_> = ways
            .iter()
            .flat_map(|way| rules::packets(plan, &rule, way, family, &origin))
            .map(|line| match spares_icmpv6(entry, family) {
                true => but_icmpv6(line),
                false => line,
            })
            .collect();
        if matches!(of_entry, policy::Change::ClampMss(_)) && chain == Hook::Forward.chain() {
            add_answers(plan, &rule, family, &origin, &mut lines);
        }
        if lines.is_empty() {
            continue;
        }
        let adds = matches!(change.hops, Some("inc" | "dec"));
        let lines = if adds && ways.len() > 1 {
            once(lines, change, packets, chain, own)
        } else {
            let change = Some(change);
            let changing = lines.into_iter().map(|line| Line {
                change: change.clone(),
                ..line
            });
            changing.collect()
        };
        groups.push(Group::of_written(packets, index, lines));
    }
    groups
}

/// Each end says in its own SYN how large the segments may be that it receives, so the answers are clamped too.
fn add_answers(plan: &Plan, rule: &Rule, family: Family, origin: &str, lines: &mut Vec<Line>) {
    let shown = |line: &Line| format!("{line:?}");
    let known: Vec<String> = lines.iter().map(shown).collect();
    let answers = raw::back(plan, rule, None, Hook::Forward, family, "").into_iter();
    let answers = answers.map(|line| Line {
        protocol: Some(Protocol::TCP.to_string()),
        tcp_flags: rule.tcp_flags.map(|flags| flags.to_string()),
        origin: origin.to_owned(),
        ..line
    });
    // An entry for both directions already has them.
    lines.extend(answers.filter(|line| !known.contains(&shown(line))));
}

/// Ways may have packets in common, and none may gain hops twice: the first line that matches leads to the change, and
/// from there back to the base chain.
fn once(
    mut lines: Vec<Line>,
    change: Change,
    packets: &Rule,
    chain: &str,
    own: &mut Vec<Chain>,
) -> Vec<Line> {
    let name = format!("FWC-{chain}-HOPS-{}", own.len() / 2 + 1);
    let changes = format!("{name}-DO");
    for line in &mut lines {
        line.target.clone_from(&changes);
        line.goto = true;
    }
    let origin = lines.first().map(|line| line.origin.clone());
    let origin = origin.unwrap_or_default();
    let changing = Line {
        change: Some(change),
        origin: origin.clone(),
        ..Line::default()
    };
    for (name, lines) in [(&name, lines), (&changes, vec![changing])] {
        own.push(Chain {
            name: name.clone(),
            policy: "-",
            groups: vec![Group::of(packets, lines)],
            ..Chain::default()
        });
    }
    vec![Line {
        origin,
        ..Line::to(&name)
    }]
}

/// The ways of an entry through a chain.
fn ways<'p>(plan: &'p Plan, entry: &Mangle, chain: &str, family: Family) -> Vec<Way<'p>> {
    let packets = &entry.packets;
    if entry.before_routing() {
        return match chain {
            "PREROUTING" => hooks::ways_in(plan, packets, family),
            "OUTPUT" if hooks::from(packets).contains(&Place::Host) => {
                let anywhere = Rule {
                    from: Some(vec![Place::Host]),
                    to: Some(vec![Place::Any]),
                    ..packets.clone()
                };
                hooks::ways(plan, &anywhere, Hook::Output, family)
            }
            _ => Vec::new(),
        };
    }
    let hook = Hook::ALL.into_iter().find(|hook| hook.chain() == chain);
    hook.map_or_else(Vec::new, |hook| hooks::ways(plan, packets, hook, family))
}

/// Whether an entry leaves ICMPv6 alone: neighbour discovery must arrive with the hop limit 255, and multicast listener reports
/// with 1, so that only an entry which names their types may change it.
fn spares_icmpv6(entry: &Mangle, family: Family) -> bool {
    let hops = matches!(entry.change, policy::Change::HopLimit(_));
    hops && family == Family::V6 && entry.packets.service.is_none()
}

fn but_icmpv6(line: Line) -> Line {
    Line {
        // A line of another protocol has no ICMPv6.
        not_protocol: Some("ipv6-icmp").filter(|_| line.protocol.is_none()),
        ..line
    }
}

/// What the entry matches: the segment size stands in the packets that open a connection.
fn looked_at(entry: &Mangle) -> Rule {
    let mut rule = entry.packets.clone();
    if let policy::Change::ClampMss(_) = entry.change {
        const SYN: TcpFlags = TcpFlags::SYN;
        const RST: TcpFlags = TcpFlags(4);
        rule.tcp_flags = Some(TcpFlagsMatch {
            looked_at: TcpFlags(SYN.0 | RST.0),
            set: SYN,
        });
    }
    rule
}

fn change(change: policy::Change, family: Family) -> Change {
    let to = |target: &'static str| Change {
        target,
        ..Change::default()
    };
    let masked = |mark: MarkMatch| Some(format!("{:#x}/{:#x}", mark.value, mark.mask));
    match change {
        policy::Change::ClampMss(mss) => Change {
            mss,
            ..to("TCPMSS")
        },
        policy::Change::SetMark(mark) => Change {
            mark: masked(mark),
            ..to("MARK")
        },
        policy::Change::SaveMark(mask) => Change {
            copy: Some("save"),
            mask: Some(format!("{mask:#x}")),
            ..to("CONNMARK")
        },
        policy::Change::RestoreMark(mask) => Change {
            copy: Some("restore"),
            mask: Some(format!("{mask:#x}")),
            ..to("CONNMARK")
        },
        policy::Change::Dscp(class) => Change {
            dscp: Some(format!("{class:#04x}")),
            ..to("DSCP")
        },
        policy::Change::HopLimit(hops) => {
            let (word, count) = match hops {
                HopLimit::Set(count) => ("set", count),
                HopLimit::Increase(count) => ("inc", count),
                HopLimit::Decrease(count) => ("dec", count),
            };
            Change {
                hops: Some(word),
                count: Some(count),
                ..to(match family {
                    Family::V4 => "TTL",
                    Family::V6 => "HL",
                })
            }
        }
        policy::Change::Classify(major, minor) => Change {
            class: Some(format!("{major:04x}:{minor:04x}")),
            ..to("CLASSIFY")
        },
        policy::Change::Proxy(proxy) => {
            let anywhere: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            let unmarked = MarkMatch { value: 0, mask: 0 };
            Change {
                port: Some(proxy.port),
                address: Some(proxy.address.unwrap_or(anywhere).to_string()),
                mark: masked(proxy.mark.unwrap_or(unmarked)),
                ..to("TPROXY")
            }
        }
    }
}

//! What the kernel demands of a rule beyond its words (protocol, hooks), and where the two backends do not agree about it.

use super::model::*;
use super::spec::hook;
use super::value::{Negatable, PortMatch};
use crate::net::Family;

/// What a match demands of its rule.
pub(super) struct Demand {
    /// The protocol that `-p` must name before the rule loads; `true` if the rule loads with `! -p` of it too (iptables-nft
    /// only).
    pub protocol: Option<(u8, bool)>,
    /// The hooks in which the kernel accepts the rule.
    pub hooks: u8,
}

/// Returns what a match demands of its rule.
pub(super) fn of_match(made: &Match, family: Family) -> Demand {
    let protocol = |number: u8, loose: bool| Demand {
        protocol: Some((number, loose)),
        hooks: hook::ALL,
    };
    let hooks = |hooks: u8| Demand {
        protocol: None,
        hooks,
    };
    match made {
        Match::Tcp(_) => protocol(6, true),
        Match::Udp(_) => protocol(17, true),
        Match::Sctp(..) => protocol(132, false),
        Match::Dccp(..) => protocol(33, false),
        Match::Icmp(_) => match family {
            Family::V4 => protocol(1, false),
            Family::V6 => protocol(58, false),
        },
        Match::AddressType(types) => hooks(match types.limit {
            None => hook::ALL,
            Some(Direction::In) => hook::BEFORE,
            Some(Direction::Out) => hook::AFTER,
        }),
        Match::Other(module) => match module.name {
            "esp" => protocol(50, false),
            "ah" if family == Family::V4 => protocol(51, false),
            "ipcomp" => protocol(108, false),
            "tcpmss" | "osf" => protocol(6, false),
            "mh" => protocol(135, false),
            "ecn"
                if module
                    .settings
                    .iter()
                    .any(|one| one.name.starts_with("ecn-tcp")) =>
            {
                protocol(6, false)
            }
            "policy" => match module.setting("dir").is_some_and(|dir| &*dir.value == "in") {
                true => hooks(hook::BEFORE),
                false => hooks(hook::AFTER),
            },
            "devgroup" => {
                let knows = |name: &str, known: u8| match module.setting(name) {
                    Some(_) => known,
                    None => hook::ALL,
                };
                hooks(knows("src-group", hook::BEFORE) & knows("dst-group", hook::AFTER))
            }
            "physdev" => {
                // The kernel refuses the outgoing bridge port in OUTPUT, where it is not known yet, unless only bridged
                // packets match.
                let out = ["physdev-out", "physdev-is-out"]
                    .iter()
                    .any(|name| module.setting(name).is_some());
                let bridged = module
                    .setting("physdev-is-bridged")
                    .is_some_and(|one| !one.negated);
                hooks(if out && !bridged {
                    hook::ALL & !hook::OUTPUT
                } else {
                    hook::ALL
                })
            }
            _ => hooks(hook::ALL),
        },
        _ => hooks(hook::ALL),
    }
}

/// Returns the protocols of which `-p` must name one before a target loads; empty if any will do.
pub(super) fn of_target(name: &str, target: &Target) -> &'static [u8] {
    match (name, target) {
        (_, Target::Reject(Reject::TcpReset)) => &[6],
        ("TCPMSS" | "SYNPROXY" | "ECN" | "TCPOPTSTRIP", _) => &[6],
        ("TPROXY", _) => &[6, 17],
        _ => &[],
    }
}

/// Returns the hooks in which a target loads, besides those of the table of options.
pub(super) fn hooks_of_target(target: &Target) -> u8 {
    match target {
        Target::Other(module) if module.setting("clamp-mss-to-pmtu").is_some() => hook::AFTER,
        _ => hook::ALL,
    }
}

/// Returns `true` if a target needs `-p` with some protocol: a helper belongs to a protocol of the transport layer.
pub(super) fn needs_a_protocol(target: &Target) -> bool {
    let Target::Other(module) = target else {
        return false;
    };
    module.name == "CT" && module.setting("helper").is_some() && module.setting("notrack").is_none()
}

/// Returns why iptables-legacy refuses a target that iptables-nft accepts, if it does.
pub(super) fn legacy_refuses(
    name: &str,
    table: TableName,
    conditions: &[Match],
) -> Option<&'static str> {
    let syn = |one: &Match| match one {
        Match::Tcp(Tcp {
            flags: Some(test), ..
        }) => !test.negated && test.value.set.0 & 2 != 0,
        _ => false,
    };
    match name {
        "TCPMSS" if !conditions.iter().any(syn) => {
            Some("TCPMSS without `--syn`: iptables-legacy refuses it")
        }
        "TRACE" if table != TableName::Raw => {
            Some("TRACE outside of the table raw: iptables-legacy refuses it")
        }
        _ => None,
    }
}

/// Returns the match as iptables-nft loads it (`None` if nothing of it is left), and what iptables-legacy does differently.
pub(super) fn as_loaded(made: Match, before: &[Match]) -> (Option<Match>, Option<&'static str>) {
    // iptables-nft has no `tcp` module for this: it makes native comparisons of ports and flags, and a comparison with an
    // empty mask falls away with its negation.
    if let Match::Tcp(Tcp {
        flags: Some(test),
        option: None,
        ports,
    }) = &made
        && (test.negated, test.value.mask.0, test.value.set.0) == (true, 0, 0)
    {
        let remark =
            "`!` and no flags: iptables-legacy never matches it, iptables-nft does not ask";
        let kept = (*ports != Ports::default()).then_some(Match::Tcp(Tcp {
            flags: None,
            option: None,
            ports: *ports,
        }));
        return (kept, Some(remark));
    }
    let (ports, bare) = match &made {
        Match::Tcp(tcp) => (tcp.ports, tcp.flags.is_none()),
        Match::Udp(ports) => (*ports, true),
        _ => return (Some(made), None),
    };
    // With `--tcp-option` iptables-nft loads the kernel's `tcp` module, which both backends share.
    let native = !matches!(&made, Match::Tcp(tcp) if tcp.option.is_some());
    let left = Ports {
        source: ports.source.filter(|port| !is_no_port(port)),
        destination: ports.destination.filter(|port| !is_no_port(port)),
    };
    if native && left != ports {
        let remark = "`!` and every port: iptables-legacy never matches it, iptables-nft matches every packet of the protocol";
        let kept = match made {
            _ if bare && left == Ports::default() => None,
            Match::Tcp(tcp) => Some(Match::Tcp(Tcp { ports: left, ..tcp })),
            _ => Some(Match::Udp(left)),
        };
        return (kept, Some(remark));
    }
    let one_port = |port: &Option<Negatable<PortMatch>>| {
        port.is_some_and(|port| {
            port.negated && port.value.first == port.value.last && port.value.first != 0
        })
    };
    if native && one_port(&ports.source) && one_port(&ports.destination) {
        let remark = "`!` and one port on both sides: iptables-nft compares both at once and matches unless both are these, iptables-legacy matches where neither is";
        return (Some(made), Some(remark));
    }
    let again = |one: &Match| std::mem::discriminant(one) == std::mem::discriminant(&made);
    let remark = before.iter().any(again).then_some(
        "a second match of the same protocol: iptables-nft saves the ports of the last one only",
    );
    (Some(made), remark)
}

/// Returns `true` for the negation of all ports.
fn is_no_port(port: &Negatable<PortMatch>) -> bool {
    port.negated && port.value == PortMatch::ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen with 1.8.9: random rulesets in the kernel, and `nft --debug=netlink list table ip filter`.
    #[test]
    fn two_ports_with_a_not_are_one_comparison_in_nft() {
        let port = |first, last, negated| {
            let value = PortMatch { first, last };
            Some(Negatable { negated, value })
        };
        let differs = |source, destination| {
            let ports = Ports {
                source,
                destination,
            };
            as_loaded(Match::Udp(ports), &[]).1.is_some()
        };
        assert!(differs(port(443, 443, true), port(80, 80, true)));
        assert!(!differs(port(443, 443, true), port(80, 80, false)));
        assert!(!differs(port(443, 443, true), port(80, 81, true)));
        assert!(!differs(port(0, 0, true), port(80, 80, true)));
        assert!(!differs(port(443, 443, true), None));
    }
}

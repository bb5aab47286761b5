//! What a ruleset does with one packet, rule by rule, as the kernel goes through it.
//!
//! Plain on purpose: it is one of the independent views that a faster engine is held against.

use super::model::*;
use super::value::{Negatable, PortRange};
use crate::net::Packet;

/// A rule's place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    /// Index into [`Table::chains`].
    pub chain: usize,
    /// Index into [`Chain::rules`].
    pub rule: usize,
}

/// What becomes of a packet in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes the table.
    Accept,
    /// It is thrown away.
    Drop,
    /// It is thrown away and answered.
    Reject(Reject),
    /// Another target ended the walk: address translation, a queue, a proxy.
    Other(Box<Target>),
}

/// A packet's way through a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What became of it.
    pub verdict: Verdict,
    /// The rule that decided; `None` where the policy did, or where there is no chain.
    pub decided: Option<RuleId>,
    /// Every rule all of whose conditions held, in order: those whose counters the kernel increases.
    pub counted: Vec<RuleId>,
}

/// Why a walk has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWalk {
    /// The packet does not tell whether this condition holds, and nobody else did.
    #[error("the packet does not tell whether `{condition}` holds")]
    Undecided {
        /// The rule.
        rule: RuleId,
        /// The condition as it is printed.
        condition: String,
    },
    /// A jump to a chain that the table does not have.
    #[error("there is no chain `{0}`")]
    NoChain(Box<str>),
    /// Chains that jump in a circle.
    #[error("chain `{0}` is reached from itself")]
    Loop(Box<str>),
}

/// Answers for a condition that the packet alone does not decide (sets, rates, routing ...): whether the whole match holds, its `!` included. `None`: not known.
pub type Oracle<'a> = dyn FnMut(RuleId, &Match) -> Option<bool> + 'a;

/// Walks `packet` through the base chain of its hook in a table. A table or chain that is not there accepts.
///
/// `MARK` changes the mark that later rules see; all other targets that do not end the walk change nothing.
pub fn walk(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    oracle: &mut Oracle<'_>,
) -> Result<Walk, NoWalk> {
    let mut walk = Walk {
        verdict: Verdict::Accept,
        decided: None,
        counted: Vec::new(),
    };
    let Some(table) = ruleset.table(table) else {
        return Ok(walk);
    };
    let find = |name: &str| table.chains.iter().position(|chain| &*chain.name == name);
    let Some(base) = find(packet.hook.chain()) else {
        return Ok(walk);
    };
    // Where to go on when a chain ends: the callers, the base chain at the bottom.
    let mut callers: Vec<RuleId> = Vec::new();
    let mut at = RuleId {
        chain: base,
        rule: 0,
    };
    let mut mark = packet.mark;
    loop {
        let Some(rule) = table.chains[at.chain].rules.get(at.rule) else {
            match callers.pop() {
                Some(caller) => at = caller,
                None => {
                    if table.chains[base].policy == Some(Policy::Drop) {
                        walk.verdict = Verdict::Drop;
                    }
                    return Ok(walk);
                }
            }
            continue;
        };
        let mut holds = true;
        for condition in &rule.matches {
            holds = match decide(condition, packet, mark).or_else(|| oracle(at, condition)) {
                Some(holds) => holds,
                None => {
                    return Err(NoWalk::Undecided {
                        rule: at,
                        condition: condition.to_text(ruleset.family),
                    });
                }
            };
            if !holds {
                break;
            }
        }
        let next = RuleId {
            rule: at.rule + 1,
            ..at
        };
        if !holds {
            at = next;
            continue;
        }
        walk.counted.push(at);
        let ends = match &rule.target {
            Target::Accept => Some(Verdict::Accept),
            Target::Drop => Some(Verdict::Drop),
            Target::Reject(reject) => Some(Verdict::Reject(*reject)),
            target if ends_walk(target) => Some(Verdict::Other(Box::new(target.clone()))),
            _ => None,
        };
        if let Some(verdict) = ends {
            walk.verdict = verdict;
            walk.decided = Some(at);
            return Ok(walk);
        }
        at = match &rule.target {
            Target::Jump(name) | Target::Goto(name) => {
                let chain = find(name).ok_or_else(|| NoWalk::NoChain(name.clone()))?;
                if matches!(rule.target, Target::Jump(_)) {
                    callers.push(next);
                }
                // A goto does not grow the stack, but it goes back to a chain in a loop only.
                if callers.len() > table.chains.len() || walk.counted.len() > WALK_LIMIT {
                    return Err(NoWalk::Loop(name.clone()));
                }
                RuleId { chain, rule: 0 }
            }
            Target::Return => RuleId {
                rule: usize::MAX,
                ..at
            },
            Target::Mark(change) => {
                mark = (mark & !change.mask) ^ change.value;
                next
            }
            _ => next,
        };
    }
}

/// More rules than this are counted for one packet in a loop only.
const WALK_LIMIT: usize = 10_000_000;

/// Whether a target that is neither a verdict nor a jump ends the walk.
fn ends_walk(target: &Target) -> bool {
    match target {
        Target::Queue | Target::Nat(_) => true,
        Target::Other(module) => {
            matches!(module.name, "NFQUEUE" | "TPROXY" | "SYNPROXY" | "NETMAP")
        }
        Target::Unknown(_) => true,
        _ => false,
    }
}

/// Whether the condition holds for the packet, where the packet tells.
fn decide(condition: &Match, packet: &Packet, mark: u32) -> Option<bool> {
    let device = |device: &Option<String>, name: &Negatable<super::value::Interface>| {
        name.holds(|name| name.matches(device.as_deref().unwrap_or_default()))
    };
    Some(match condition {
        Match::Source(network) => network.holds(|network| network.contains(packet.source)),
        Match::Destination(network) => {
            network.holds(|network| network.contains(packet.destination))
        }
        Match::InInterface(name) => device(&packet.in_device, name),
        Match::OutInterface(name) => device(&packet.out_device, name),
        Match::Protocol(protocol) => protocol.holds(|protocol| *protocol == packet.protocol),
        Match::Fragment { negated } => *negated,
        Match::Tcp(tcp) => {
            let flags = packet.tcp_flags.unwrap_or_default().0;
            let test = |test: &FlagTest| flags & test.mask.0 == test.set.0;
            let flags = tcp.flags.is_none_or(|flags| flags.holds(test));
            let rest = ports(&tcp.ports, packet) && flags;
            return only_if(rest, tcp.option.is_none());
        }
        Match::Udp(both) => ports(both, packet),
        Match::Sctp(both, settings) | Match::Dccp(both, settings) => {
            return only_if(ports(both, packet), settings.is_empty());
        }
        Match::Multiport(multiport) => {
            let (Some(source), Some(destination)) = (packet.source_port, packet.destination_port)
            else {
                return Some(false);
            };
            let any = |port: u16| {
                multiport
                    .value
                    .ports
                    .iter()
                    .any(|range| range.contains(port))
            };
            multiport.holds(|multiport| match multiport.side {
                PortSide::Source => any(source),
                PortSide::Destination => any(destination),
                PortSide::Either => any(source) || any(destination),
            })
        }
        Match::Icmp(kind) => {
            let Some((packet_kind, code)) = packet.icmp else {
                return Some(false);
            };
            kind.holds(|kind| match *kind {
                IcmpType::Any => true,
                IcmpType::Type {
                    kind,
                    first_code,
                    last_code,
                } => kind == packet_kind && (first_code..=last_code).contains(&code),
            })
        }
        Match::Conntrack(conntrack) => {
            let state = match &conntrack.states {
                Some(states) => states_hold(states, packet),
                None => true,
            };
            return only_if(state, conntrack.settings.is_empty());
        }
        Match::State(states) => states_hold(states, packet),
        Match::Comment(_) => true,
        Match::Mark(test) => test.holds(|test| test.matches(mark)),
        // Without an Ethernet header nothing holds, not even `!`.
        Match::Mac(mac) => packet
            .mac
            .is_some_and(|packet| mac.holds(|mac| *mac == packet)),
        Match::AddressRange(range) => {
            let inside = |range: &Option<Negatable<_>>, address| match range {
                Some(range) => range.holds(|(first, last)| (*first..=*last).contains(&address)),
                None => true,
            };
            inside(&range.source, packet.source) && inside(&range.destination, packet.destination)
        }
        Match::HopLimit(limit) => match limit {
            HopLimit::Equal(value) => value.holds(|value| *value == packet.hop_limit),
            HopLimit::Less(value) => packet.hop_limit < *value,
            HopLimit::Greater(value) => packet.hop_limit > *value,
        },
        Match::ConnectionMark(_)
        | Match::AddressType(_)
        | Match::Set(_)
        | Match::PacketType(_)
        | Match::Other(_)
        | Match::Unknown(_) => return None,
    })
}

/// False is final; true is the answer where nothing else was to be asked.
fn only_if(known: bool, all: bool) -> Option<bool> {
    match known {
        false => Some(false),
        true => all.then_some(true),
    }
}

fn ports(ports: &Ports, packet: &Packet) -> bool {
    let holds = |test: Option<Negatable<PortRange>>, port: Option<u16>| match test {
        None => true,
        Some(test) => port.is_some_and(|port| test.holds(|range| range.contains(port))),
    };
    holds(ports.source, packet.source_port) && holds(ports.destination, packet.destination_port)
}

fn states_hold(states: &Negatable<States>, packet: &Packet) -> bool {
    let translated = packet.translated;
    states.holds(|states| {
        states.contains(packet.state)
            || (states.has_snat() && translated.source)
            || (states.has_dnat() && translated.destination)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Family, Hook, State, TcpFlags, Translated};

    fn packet() -> Packet {
        Packet {
            family: Family::V4,
            hook: Hook::Input,
            in_device: Some("eth0".into()),
            out_device: None,
            source: "192.0.2.1".parse().unwrap(),
            destination: "192.0.2.2".parse().unwrap(),
            protocol: 6,
            source_port: Some(40000),
            destination_port: Some(22),
            icmp: None,
            tcp_flags: Some(TcpFlags::SYN),
            state: State::New,
            hop_limit: 64,
            mark: 0,
            mac: None,
            translated: Translated::default(),
        }
    }

    /// The walk's verdict, and the counted rules by chain and number from 1.
    fn walked(rules: &str) -> (Verdict, Vec<String>) {
        let text = format!("*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n{rules}COMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let walk = walk(&ruleset, TableName::Filter, &packet(), &mut |_, _| None).unwrap();
        let table = ruleset.table(TableName::Filter).unwrap();
        let name = |id: &RuleId| format!("{}{}", table.chains[id.chain].name, id.rule + 1);
        (walk.verdict, walk.counted.iter().map(name).collect())
    }

    #[test]
    fn chains_return_and_policies_decide() {
        let (verdict, counted) = walked(
            "-A INPUT -j A\n-A INPUT -j LOG\n-A A -p udp -j ACCEPT\n-A A -j RETURN\n-A A -j ACCEPT\n",
        );
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(counted, ["INPUT1", "A2", "INPUT2"]);
    }

    #[test]
    fn what_returns_from_a_goto_returns_to_the_callers_caller() {
        let (verdict, counted) =
            walked("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -g B\n-A A -j DROP\n-A B -j LOG\n");
        assert_eq!(verdict, Verdict::Accept);
        assert_eq!(counted, ["INPUT1", "A1", "B1", "INPUT2"]);
        let (verdict, counted) = walked("-A INPUT -g B\n-A INPUT -j ACCEPT\n-A B -j RETURN\n");
        assert_eq!(verdict, Verdict::Drop);
        assert_eq!(counted, ["INPUT1", "B1"]);
    }

    #[test]
    fn marks_are_seen_by_later_rules() {
        let (verdict, _) =
            walked("-A INPUT -j MARK --set-mark 5\n-A INPUT -m mark --mark 5 -j ACCEPT\n");
        assert_eq!(verdict, Verdict::Accept);
    }

    #[test]
    fn conditions_hold_as_in_the_kernel() {
        let counts = |rule: &str| walked(&format!("-A INPUT {rule}\n")).1.len() == 1;
        for yes in [
            "-i eth+ -p tcp --dport 20:25 --syn",
            "! -s 192.0.2.2 -d 192.0.2.0/24",
            "-m conntrack --ctstate NEW,DNAT",
            "-p tcp -m multiport --ports 1,22",
            "-p tcp --tcp-flags ALL SYN",
            "-m iprange --src-range 192.0.2.0-192.0.2.9",
            "-m ttl --ttl-gt 63",
            "-i +",
        ] {
            assert!(counts(yes), "{yes}");
        }
        for no in [
            "! -i eth+",
            "-p tcp ! --dport 22",
            "-p tcp --tcp-flags SYN SYN,ACK",
            "-m state --state RELATED,ESTABLISHED",
            "-m mac ! --mac-source 00:11:22:33:44:55",
            "-m mark --mark 2/1",
            "! -i +",
            "-f",
        ] {
            assert!(!counts(no), "{no}");
        }
    }

    #[test]
    fn what_the_packet_does_not_tell_is_asked() {
        let text = "*filter\n-A INPUT -p tcp -m limit --limit 1/sec -j ACCEPT\nCOMMIT\n";
        let ruleset = Ruleset::from_text(text, Family::V4).unwrap();
        let ask = |oracle: &mut Oracle<'_>| walk(&ruleset, TableName::Filter, &packet(), oracle);
        assert!(matches!(
            ask(&mut |_, _| None),
            Err(NoWalk::Undecided { .. })
        ));
        assert_eq!(ask(&mut |_, _| Some(true)).unwrap().counted.len(), 1);
        assert_eq!(ask(&mut |_, _| Some(false)).unwrap().counted.len(), 0);
    }
}

//! Walks one packet through a ruleset, rule by rule, in the order in which the kernel does.
//!
//! It is plain on purpose: tests compare its answers with those of the packet engine ([`crate::analysis`]), which computes
//! with sets of packets and is written apart from it.

mod condition;
mod follow;

use self::condition::{PacketView, decide, on_arrival};
use super::model::*;
use crate::net::{Packet, State};

pub use self::follow::{UndecidedCondition, Unknowns, WalkStep, WalkTrace, follow};

/// The position of a rule in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    /// The index into [`Table::chains`].
    pub chain: usize,
    /// The index into [`Chain::rules`].
    pub rule: usize,
}

/// The outcome of a table for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkVerdict {
    /// The table accepts the packet.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The packet is rejected, with this answer.
    Reject(Reject),
    /// Another target ended the walk: a translation, a queue, a proxy.
    Other(Box<Target>),
}

/// The trace of a packet through a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The outcome.
    pub verdict: WalkVerdict,
    /// The rule that decided; `None` if the policy did, or if the table has no such chain.
    pub decided: Option<RuleId>,
    /// The rules whose conditions all held, in order: those whose counters the kernel increases.
    pub counted: Vec<RuleId>,
}

/// Why a walk has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWalk {
    /// The packet does not decide a condition (or whether a target ends the walk), and the caller did not answer.
    #[error("the packet does not tell whether `{condition}` holds")]
    Undecided {
        /// The rule.
        rule: RuleId,
        /// The condition or target as `iptables-save` prints it.
        condition: String,
    },
    /// A rule jumps to a chain that the table does not have.
    #[error("there is no chain `{0}`")]
    NoChain(Box<str>),
    /// Chains jump in a loop.
    #[error("chain `{0}` is reached from itself")]
    Loop(Box<str>),
    /// The kernel chooses something, and the caller did not say what.
    #[error("nobody says {0}")]
    Choice(Choice),
}

/// A choice that the kernel makes for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Choice {
    /// One of several addresses of a translation.
    #[error("which address it gets")]
    Address,
    /// One of several ports of a translation.
    #[error("which port it gets")]
    Port,
    /// The destination of a connection that was translated before.
    #[error("where its connection goes")]
    Translation,
    /// Whether a RELATED packet is the first of its own connection, which nat then translates.
    #[error("whether it is the first of its connection")]
    First,
    /// The outgoing device after a change of destination or mark.
    #[error("by which device it leaves")]
    Device,
}

/// Answers a condition that the packet alone does not decide (sets, rates, routing): `true` if the whole match holds, its
/// `!` included. `None`: not known.
pub type Oracle<'a> = dyn FnMut(RuleId, &Match) -> Option<bool> + 'a;

/// Walks a packet through the base chain of its hook in a table. A table or chain that does not exist accepts. A target
/// that may or may not end the walk (`SYNPROXY`, an unknown one) ends it.
///
/// Later rules see the mark that `MARK` sets, the hop limit of `TTL` and `HL`, the type of service of `DSCP` and `TOS`, and
/// the state of an INVALID packet that meets `CT`. The mark of the connection is not known: the oracle answers for it, and
/// `CONNMARK` changes nothing. All other targets that do not end the walk change nothing either.
///
/// # Errors
///
/// [`NoWalk`], if the oracle does not know an answer, or the rules jump in a loop or to a missing chain.
pub fn walk(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    oracle: &mut Oracle<'_>,
) -> Result<Walk, NoWalk> {
    walk_table(ruleset, table, packet, None, &|_| true, oracle)
}

/// What the caller knows of a packet's connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionFacts<'a> {
    /// The mark of the connection.
    pub mark: u32,
    /// The packet as it arrived, if it is the first of the connection; `--ctorigdst` and its like compare with it.
    pub first: Option<&'a Packet>,
}

/// Walks a packet of a known connection, whose mark `CONNMARK` may change. `ends` answers, for a target that may or may not
/// end the walk, whether it does.
pub fn walk_marked(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    connection: ConnectionFacts<'_>,
    ends: &dyn Fn(&Target) -> bool,
    oracle: &mut Oracle<'_>,
) -> Result<Walk, NoWalk> {
    walk_table(ruleset, table, packet, Some(connection), ends, oracle)
}

fn walk_table(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    connection: Option<ConnectionFacts<'_>>,
    ends: &dyn Fn(&Target) -> bool,
    oracle: &mut Oracle<'_>,
) -> Result<Walk, NoWalk> {
    let mut packet = packet.clone();
    let chain = packet.hook.chain();
    let mut at = PacketView::alone(&mut packet);
    let mut mark = connection.map(|connection| connection.mark);
    at.connection_mark = mark.as_mut();
    let first = connection.and_then(|connection| connection.first);
    at.first = first.filter(|_| at.packet.state == State::New);
    match ruleset.table(table) {
        Some(table) => {
            let mut answers = |at: RuleId, asked: Doubt<'_>, _: &Packet| match asked {
                Doubt::Holds(condition) => oracle(at, condition),
                Doubt::Ends(target) => Some(ends(target)),
            };
            walk_chain(ruleset, table, chain, &mut at, &mut answers)
        }
        None => Ok(Walk::passed()),
    }
}

impl Walk {
    /// The walk through a table or chain that does not exist.
    fn passed() -> Self {
        Self {
            verdict: WalkVerdict::Accept,
            decided: None,
            counted: Vec::new(),
        }
    }
}

/// A question that the packet and the rules do not answer.
#[derive(Clone, Copy)]
enum Doubt<'a> {
    /// Whether this condition holds.
    Holds(&'a Match),
    /// Whether this target ends the walk.
    Ends(&'a Target),
}

/// Answers a [`Doubt`] at a rule, for the packet as the rule sees it.
type Answers<'a> = dyn FnMut(RuleId, Doubt<'_>, &Packet) -> Option<bool> + 'a;

/// Walks a packet through a base chain. Targets change the packet on the way, and later rules see the change.
fn walk_chain(
    ruleset: &Ruleset,
    table: &Table,
    base: &str,
    seen: &mut PacketView<'_>,
    answers: &mut Answers<'_>,
) -> Result<Walk, NoWalk> {
    let mut walk = Walk::passed();
    let find = |name: &str| table.chains.iter().position(|chain| &*chain.name == name);
    let Some(base) = find(base) else {
        return Ok(walk);
    };
    // The rules behind the jumps that led here, the outermost first. A goto adds none: what returns from its chain returns
    // to the rule behind the last jump.
    let mut callers: Vec<RuleId> = Vec::new();
    let mut at = RuleId {
        chain: base,
        rule: 0,
    };
    loop {
        let Some(rule) = table.chains[at.chain].rules.get(at.rule) else {
            match callers.pop() {
                Some(caller) => at = caller,
                None => {
                    if table.chains[base].policy == Some(ChainPolicy::Drop) {
                        walk.verdict = WalkVerdict::Drop;
                    }
                    return Ok(walk);
                }
            }
            continue;
        };
        let mut holds = true;
        for condition in &rule.matches {
            let answer = decide(condition, seen).or_else(|| {
                // The byte of the type of service is asked about as it was on arrival: the caller does not know what rules
                // wrote since.
                let asked = on_arrival(condition, seen.tos);
                match &asked {
                    Ok(other) => {
                        let asked = Doubt::Holds(other.as_ref().unwrap_or(condition));
                        answers(at, asked, seen.packet)
                    }
                    Err(answer) => Some(*answer),
                }
            });
            holds = match answer {
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
            Target::Accept => Some(WalkVerdict::Accept),
            Target::Drop => Some(WalkVerdict::Drop),
            Target::Reject(reject) => Some(WalkVerdict::Reject(*reject)),
            target => {
                let ask = || answers(at, Doubt::Ends(target), seen.packet);
                let ends = ends_walk(target).or_else(ask);
                let ends = ends.ok_or_else(|| NoWalk::Undecided {
                    rule: at,
                    condition: target.to_text(),
                })?;
                ends.then(|| WalkVerdict::Other(Box::new(target.clone())))
            }
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
                // A loop of jumps grows the stack beyond the number of chains. A loop of gotos does not, but counts rules
                // for ever.
                if callers.len() > table.chains.len() || walk.counted.len() > WALK_LIMIT {
                    return Err(NoWalk::Loop(name.clone()));
                }
                RuleId { chain, rule: 0 }
            }
            Target::Return => RuleId {
                rule: usize::MAX,
                ..at
            },
            target => {
                seen.write(target);
                next
            }
        };
    }
}

/// The number of rules that one packet may match. Only a loop matches more.
const WALK_LIMIT: usize = 10_000_000;

/// Returns `true` if a target that is neither a verdict nor a jump ends the walk; `None` if it may or may not.
fn ends_walk(target: &Target) -> Option<bool> {
    match target {
        Target::Queue | Target::Nat(_) => Some(true),
        Target::Other(module) => match module.name {
            "NFQUEUE" | "TPROXY" => Some(true),
            // It consumes the packets of a handshake and lets others continue (`xt_SYNPROXY.c`).
            "SYNPROXY" => None,
            _ => Some(false),
        },
        Target::Unknown(unknown) => unknown.is_old_log().then_some(false),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Family, Hook, TcpFlags, Translated};

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
    fn walked(rules: &str) -> (WalkVerdict, Vec<String>) {
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
        assert_eq!(verdict, WalkVerdict::Drop);
        assert_eq!(counted, ["INPUT1", "A2", "INPUT2"]);
    }

    #[test]
    fn what_returns_from_a_goto_returns_to_the_callers_caller() {
        let (verdict, counted) =
            walked("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -g B\n-A A -j DROP\n-A B -j LOG\n");
        assert_eq!(verdict, WalkVerdict::Accept);
        assert_eq!(counted, ["INPUT1", "A1", "B1", "INPUT2"]);
        let (verdict, counted) = walked("-A INPUT -g B\n-A INPUT -j ACCEPT\n-A B -j RETURN\n");
        assert_eq!(verdict, WalkVerdict::Drop);
        assert_eq!(counted, ["INPUT1", "B1"]);
    }

    #[test]
    fn marks_are_seen_by_later_rules() {
        let (verdict, _) =
            walked("-A INPUT -j MARK --set-mark 5\n-A INPUT -m mark --mark 5 -j ACCEPT\n");
        assert_eq!(verdict, WalkVerdict::Accept);
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

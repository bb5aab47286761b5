//! One packet through both plain walkers.

use super::logging::{LogLine, as_limit, is_log};
use crate::iptables::{self, NoWalk, Reject, RuleId, Ruleset, TableName};
use crate::net::{Family, Packet};
use crate::policy::{self, Answer, DecidedBy, Decision, Policy};
use crate::source::Span;

/// What the policy says of a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The verdict, what decides and the log classes on the way.
    pub decision: Decision,
    /// The place in the policy that decides; `None` where nothing was written.
    pub place: Option<Span>,
    /// The lines of those classes.
    pub logs: Vec<LogLine>,
}

/// What the rules do with a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The end of its way.
    pub verdict: iptables::Verdict,
    /// The rule that decides, as it is written, and its line; `None` where the chain's policy does.
    pub rule: Option<(u32, String)>,
    /// The lines that are logged on the way when no rate keeps them silent; a line that no class can say is missing.
    pub logs: Vec<LogLine>,
}

/// A packet, and what becomes of it by both.
#[derive(Clone, Debug, PartialEq)]
pub struct Walked {
    /// The packet.
    pub packet: Packet,
    /// What the policy says.
    pub policy: Said,
    /// What the rules do.
    pub rules: Done,
}

impl Walked {
    /// Takes a packet both ways. An error says why the rules cannot be walked with it.
    pub(super) fn new(policy: &Policy, ruleset: &Ruleset, packet: Packet) -> Result<Self, NoWalk> {
        Ok(Self {
            policy: said(policy, &packet),
            rules: done(ruleset, &packet)?,
            packet,
        })
    }

    /// Whether both come to the same end.
    pub fn same_verdict(&self) -> bool {
        use iptables::Verdict as Rules;
        use policy::Verdict as Says;
        match (&self.policy.decision.verdict, &self.rules.verdict) {
            (Says::Accept, Rules::Accept) | (Says::Drop, Rules::Drop) => true,
            (Says::Reject(answer), Rules::Reject(reject)) => {
                is_answer(*answer, *reject, self.packet.family)
            }
            _ => false,
        }
    }

    /// Whether both log the same, in the same order.
    pub fn same_logs(&self) -> bool {
        self.policy.logs == self.rules.logs
    }
}

fn is_answer(answer: Answer, reject: Reject, family: Family) -> bool {
    let (v4, v6) = match answer {
        Answer::TcpReset => return reject == Reject::TcpReset,
        Answer::PortUnreachable => ("icmp-port-unreachable", "icmp6-port-unreachable"),
        Answer::HostUnreachable => ("icmp-host-unreachable", "icmp6-addr-unreachable"),
        Answer::NetUnreachable => ("icmp-net-unreachable", "icmp6-no-route"),
        Answer::AdminProhibited => ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
    };
    let word = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    reject == Reject::Icmp(word)
}

fn said(policy: &Policy, packet: &Packet) -> Said {
    let decision = policy::decide(policy, packet);
    let logs = decision.logs.iter();
    Said {
        logs: logs.map(|class| LogLine::of_name(policy, class)).collect(),
        place: place(policy, &decision, packet),
        decision,
    }
}

/// Where the policy says what decided.
fn place(policy: &Policy, decision: &Decision, packet: &Packet) -> Option<Span> {
    use crate::net::Hook;
    fn at<T>(written: &Option<crate::source::Located<T>>) -> Option<Span> {
        written.as_ref().map(|written| written.span)
    }
    let defaults = &policy.defaults;
    match decision.by {
        DecidedBy::Rule(index) => policy.rules.get(index).map(|rule| rule.span),
        DecidedBy::Loopback => at(&defaults.loopback),
        DecidedBy::Established => at(&defaults.established),
        DecidedBy::Icmp => at(&defaults.icmp),
        DecidedBy::Invalid => at(&defaults.invalid),
        DecidedBy::DhcpClient => at(&defaults.dhcp_client),
        DecidedBy::Default => match packet.hook {
            Hook::Input => at(&defaults.input),
            Hook::Forward => at(&defaults.forward),
            Hook::Output => at(&defaults.output),
        },
    }
}

fn done(ruleset: &Ruleset, packet: &Packet) -> Result<Done, NoWalk> {
    let mut rates_allow =
        |_: RuleId, condition: &iptables::Match| as_limit(condition).map(|_| true);
    let walk = iptables::walk(ruleset, TableName::Filter, packet, &mut rates_allow)?;
    let rule = |id: &RuleId| {
        let table = ruleset.table(TableName::Filter)?;
        table.chains.get(id.chain)?.rules.get(id.rule)
    };
    let logs = walk.counted.iter().filter_map(rule);
    Ok(Done {
        logs: logs
            .filter(|rule| is_log(&rule.target))
            .filter_map(LogLine::of_rule)
            .collect(),
        rule: walk.decided.as_ref().and_then(rule).map(|rule| {
            let text = rule.to_text(ruleset.family);
            (rule.line, text)
        }),
        verdict: walk.verdict,
    })
}

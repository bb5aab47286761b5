//! One packet through both plain walkers.

use std::collections::{BTreeMap, HashMap};

use super::condition::Condition;
use super::end_to_end::ArrivedPacket;
use super::logging::{LogLine, is_limit, is_log};
use super::normalised::{Normalised, is_goes_on};
use super::side_effects::SideEffect;
use super::spec::Spec;
use super::spec::custom::Customs;
use super::spec::matching::in_set;
use crate::analysis::BaseChain;
use crate::iptables::{
    self, ConnectionFacts, NoWalk, Reject, RuleId, Ruleset, TableName, Target, Walk,
};
use crate::net::{Family, Hook, IntervalSet, Packet, number_of};
use crate::policy::{
    self, Circumstance, CustomPosition, DecidedBy, Decision, Moment, Policy, RawTreatment,
    RejectAnswer, Treatment,
};
use crate::source::Span;

/// What the policy says of a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The verdict, what decides and the log classes on the way.
    pub decision: Decision,
    /// The place in the policy that decides; `None` where nothing was written.
    pub place: Option<Span>,
    /// The lines of those classes.
    pub logs: Vec<LogLine>,
}

/// What the rules do with a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Actual {
    /// The end of its way.
    pub verdict: iptables::WalkVerdict,
    /// The table in which it ends.
    pub table: TableName,
    /// The rule that decides, as it is written, and its line; `None` where the chain's policy does.
    pub rule: Option<(u32, String)>,
    /// A custom rule decides.
    pub custom: bool,
    /// The lines that are logged on the way when no rate keeps them silent; a line that no class can say is missing.
    pub logs: Vec<LogLine>,
}

/// A packet, and what becomes of it by both.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedWalk {
    /// The packet.
    pub packet: Packet,
    /// What it became on its way to the filter table, where it was followed from its arrival and is another then.
    pub became: Option<Box<ArrivedPacket>>,
    /// Both make the same of it on that way.
    pub same_way: bool,
    /// What else is so, in words: limits, times, sets.
    pub when: Vec<(String, bool)>,
    /// What the policy says.
    pub policy: Expected,
    /// What the rules do.
    pub rules: Actual,
}

/// A packet, and what is done to it besides its verdict in one base chain, by both.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedEffects {
    /// The packet.
    pub packet: Packet,
    /// The table.
    pub table: TableName,
    /// The base chain.
    pub chain: BaseChain,
    /// What else is so, in words: limits, times, sets.
    pub when: Vec<(String, bool)>,
    /// What the policy says, with the places where it does.
    pub policy: Vec<(SideEffect, Span)>,
    /// What the rules do: the act, the rule's line and its text.
    pub rules: Vec<(SideEffect, u32, String)>,
}

impl ComparedEffects {
    /// Whether both do the same, in the same order.
    pub fn same(&self) -> bool {
        let policy = self.policy.iter().map(|(act, _)| act.clone());
        let rules = self.rules.iter().map(|(act, ..)| act.clone());
        SideEffect::once(policy) == SideEffect::once(rules)
    }
}

/// What packets are taken through.
#[derive(Clone, Copy)]
pub(super) struct Walkers<'a> {
    pub policy: &'a Policy,
    pub spec: &'a Spec,
    pub tagged: &'a Normalised,
    pub customs: &'a Customs,
    pub ruleset: &'a Ruleset,
    /// The members of the sets that the policy fills.
    pub members: &'a BTreeMap<String, IntervalSet>,
    /// Answers for what no policy can ask.
    pub strange: &'a OpaqueOracle<'a>,
    /// Whether a target ends the table that may end it or not.
    pub ends: &'a dyn Fn(&Target) -> bool,
    /// The packet's connection.
    pub connection: ConnectionFacts<'a>,
}

/// Whether a condition holds: of a rule of custom rules alone, or of the rules.
pub(super) type OpaqueOracle<'a> =
    dyn Fn(Option<&Ruleset>, (TableName, RuleId), &iptables::Match) -> bool + 'a;

impl Walkers<'_> {
    /// Takes a packet both ways, under circumstances that `holds` knows. An error says why the rules cannot be walked.
    pub fn walk(
        &self,
        packet: Packet,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<ComparedWalk, NoWalk> {
        Ok(ComparedWalk {
            policy: self.said(&packet, holds),
            rules: self.done(&packet, holds)?,
            when: Vec::new(),
            became: None,
            same_way: true,
            packet,
        })
    }

    /// Takes a packet through a base chain of the raw or the mangle table both ways.
    pub fn treat(
        &self,
        packet: &Packet,
        (table, chain): (TableName, BaseChain),
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<ComparedEffects, NoWalk> {
        let moment = match chain {
            BaseChain::Prerouting => Moment::Arrival,
            _ => Moment::Hook,
        };
        let circumstance = |asked: Circumstance<'_>| self.circumstance(packet, asked, holds);
        let says: Vec<(SideEffect, Span)> = if table == TableName::Raw {
            let helper = |helper: &policy::Helper| SideEffect::Helper(helper.name().to_owned());
            let act = |treatment: RawTreatment<'_>| match treatment {
                RawTreatment::Service(rule, of_service) => {
                    Some((helper(of_service), self.policy.rules.get(rule)?.span))
                }
                RawTreatment::Entry(index) => {
                    let entry = self.policy.raw.get(index)?;
                    let act = match &entry.treatment.as_ref()?.value {
                        Treatment::NoTrack { .. } => SideEffect::NoTrack,
                        Treatment::Helper(of_entry) => helper(of_entry),
                    };
                    Some((act, entry.span))
                }
            };
            let treatments = policy::raw(self.policy, packet, &circumstance);
            treatments.into_iter().filter_map(act).collect()
        } else {
            let mangled = policy::mangle(self.policy, packet, 0, moment, &circumstance);
            let entries = mangled.entries.iter();
            let entries = entries.filter_map(|index| self.policy.mangle.get(*index));
            let change = |entry: &policy::PolicyMangle| {
                let change = entry.change.as_ref()?.value;
                Some((SideEffect::Change(change), entry.span))
            };
            entries.filter_map(change).collect()
        };
        let ruleset = seen_from(self.ruleset, table, chain, packet.hook);
        let walk = self.walked(table, &ruleset, packet, holds)?;
        let counted = walk.counted.iter();
        let counted = counted.filter_map(|id| rule_of(&ruleset, table, *id));
        // Nothing ends here by the policy of a chain.
        let dropped = walk.decided.is_none() && walk.verdict == iptables::WalkVerdict::Drop;
        let dropped = dropped.then(|| {
            let policy = format!(":{} DROP", chain.as_str());
            (SideEffect::Strange("DROP".to_owned()), 0, policy)
        });
        Ok(ComparedEffects {
            table,
            chain,
            when: Vec::new(),
            policy: says,
            rules: counted
                // What antispoof drops is dropped by both, or the verdicts differ.
                .filter(|rule| table != TableName::Raw || rule.target != Target::Drop)
                .filter_map(|rule| {
                    let text = rule.to_text(ruleset.family);
                    Some((SideEffect::of_target(&rule.target)?, rule.line, text))
                })
                .chain(dropped)
                .collect(),
            packet: packet.clone(),
        })
    }

    fn said(&self, packet: &Packet, holds: &dyn Fn(&Condition) -> bool) -> Expected {
        let family = packet.family;
        let circumstance = |asked: Circumstance<'_>| self.circumstance(packet, asked, holds);
        let decision = policy::decide_when(self.policy, packet, &circumstance);
        let logs = decision.logs.iter();
        Expected {
            logs: logs
                .map(|logged| LogLine::of_policy(self.policy, logged, family))
                .collect(),
            place: place(self.policy, &decision, packet),
            decision,
        }
    }

    /// Whether it is as the policy asks.
    pub fn circumstance(
        &self,
        packet: &Packet,
        asked: Circumstance<'_>,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> bool {
        let family = packet.family;
        let bucket = |buckets: &HashMap<(Hook, usize), Condition>, rule: usize| {
            // A rule that the spec has no bucket for is asked by nobody.
            buckets.get(&(packet.hook, rule)).is_none_or(holds)
        };
        match asked {
            Circumstance::WithinLimit(rule) => bucket(&self.spec.limits, rule),
            Circumstance::WithinConnections(rule) => bucket(&self.spec.connections, rule),
            Circumstance::User(id) => holds(&Condition::User(id)),
            Circumstance::Group(id) => holds(&Condition::Group(id)),
            Circumstance::Time(schedule) => {
                let days = schedule.days.as_deref();
                let time = Condition::of_schedule(days, schedule.hours, schedule.local);
                time.as_ref().is_none_or(holds)
            }
            Circumstance::NotAfter(day) => holds(&Condition::not_after(day)),
            Circumstance::InSet { name, source } => holds(&in_set(name, source, family)),
            Circumstance::InForeignSet { name, source } => holds(&Condition::InSet {
                name: name.to_owned(),
                source,
            }),
            Circumstance::FromIpsec => holds(&Condition::FromIpsec),
            Circumstance::AuthHeader => holds(&Condition::AuthHeader),
            Circumstance::ToThisHost => holds(&Condition::ToThisHost),
            Circumstance::Turn(turn) => self.spec.turns.get(&turn).is_none_or(holds),
            Circumstance::Custom(position) => self.custom_decides(packet, position),
        }
    }

    /// Whether a custom rule at a position of the packet's chain decides it.
    fn custom_decides(&self, packet: &Packet, position: CustomPosition) -> bool {
        let Some(rules) = self.customs.alone(position) else {
            return false;
        };
        let mut answer = |id: RuleId, condition: &iptables::Match| {
            let known = self.has_member(condition, packet);
            let rule = (TableName::Filter, id);
            known.or_else(|| Some((self.strange)(Some(rules), rule, condition)))
        };
        let connection = self.connection;
        iptables::walk_marked(
            rules,
            TableName::Filter,
            packet,
            connection,
            self.ends,
            &mut answer,
        )
        .is_ok_and(|walk| walk.decided.is_some())
    }

    /// What comes from outside goes through the raw table first.
    fn done(&self, packet: &Packet, holds: &dyn Fn(&Condition) -> bool) -> Result<Actual, NoWalk> {
        if packet.hook != Hook::Output {
            let prerouting = BaseChain::Prerouting;
            let raw = seen_from(self.ruleset, TableName::Raw, prerouting, packet.hook);
            let first = self.table(TableName::Raw, &raw, packet, holds)?;
            if first.verdict != iptables::WalkVerdict::Accept {
                return Ok(first);
            }
        }
        self.table(TableName::Filter, self.ruleset, packet, holds)
    }

    fn table(
        &self,
        name: TableName,
        ruleset: &Ruleset,
        packet: &Packet,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<Actual, NoWalk> {
        let walk = self.walked(name, ruleset, packet, holds)?;
        Ok(self.done_in(ruleset, name, &walk, packet.family))
    }

    /// What a walk through a table did.
    pub fn done_in(
        &self,
        ruleset: &Ruleset,
        name: TableName,
        walk: &Walk,
        family: Family,
    ) -> Actual {
        let rule = |id: &RuleId| rule_of(ruleset, name, *id);
        let logs = walk.counted.iter().filter_map(rule);
        Actual {
            logs: logs
                .filter(|rule| is_log(&rule.target))
                .filter_map(|rule| LogLine::of_rule(rule, family))
                .collect(),
            rule: walk
                .decided
                .as_ref()
                .and_then(rule)
                .filter(|rule| !is_goes_on(&rule.target))
                .map(|rule| {
                    let text = rule.to_text(ruleset.family);
                    (rule.line, text)
                }),
            custom: walk.decided.is_some_and(|id| {
                let chain = ruleset
                    .table(name)
                    .and_then(|table| table.chains.get(id.chain));
                let rule = rule(&id);
                chain.zip(rule).is_some_and(|(chain, rule)| {
                    self.customs.has(name, &chain.name, rule, ruleset.family)
                })
            }),
            verdict: walk.verdict.clone(),
            table: name,
        }
    }

    /// The packet's way through a table.
    pub fn walked(
        &self,
        name: TableName,
        ruleset: &Ruleset,
        packet: &Packet,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<Walk, NoWalk> {
        let mut answer = |id: RuleId, condition: &iptables::Match| {
            let logs = rule_of(ruleset, name, id).is_some_and(|rule| is_log(&rule.target));
            match logs && is_limit(condition) {
                // Lines are compared as if no rate kept them silent.
                true => Some(true),
                false => self
                    .has_member(condition, packet)
                    .or_else(|| self.tagged.holds(name, id, condition, holds))
                    .or_else(|| Some((self.strange)(None, (name, id), condition))),
            }
        };
        iptables::walk_marked(
            ruleset,
            name,
            packet,
            self.connection,
            self.ends,
            &mut answer,
        )
    }
}

pub(super) fn rule_of(ruleset: &Ruleset, table: TableName, id: RuleId) -> Option<&iptables::Rule> {
    let chains = &ruleset.table(table)?.chains;
    chains.get(id.chain)?.rules.get(id.rule)
}

impl Walkers<'_> {
    /// Whether a set whose members the policy says has the packet.
    pub fn has_member(&self, condition: &iptables::Match, packet: &Packet) -> Option<bool> {
        let iptables::Match::Set(set) = condition else {
            return None;
        };
        let members = self.members.get(&*set.name)?;
        let address = match set.from_source.first()? {
            true => packet.source,
            false => packet.destination,
        };
        Some(members.contains(number_of(address)) != set.negated)
    }
}

/// A table in which packets of a hook meet another base chain.
pub(super) fn seen_from(
    ruleset: &Ruleset,
    table: TableName,
    chain: BaseChain,
    hook: Hook,
) -> Ruleset {
    let mut seen = Ruleset::new(ruleset.family);
    seen.tables.extend(ruleset.table(table).cloned());
    let (from, to) = (chain.as_str(), hook.chain());
    for chain in seen.tables.iter_mut().flat_map(|table| &mut table.chains) {
        if &*chain.name == from {
            chain.name = to.into();
        } else if &*chain.name == to {
            chain.name = from.into();
        }
    }
    seen
}

impl ComparedWalk {
    /// Whether both come to the same end.
    pub fn same_verdict(&self) -> bool {
        use iptables::WalkVerdict as Rules;
        use policy::PolicyVerdict as Says;
        match (&self.policy.decision.verdict, &self.rules.verdict) {
            // What it does is the rule's own word.
            (Says::Custom, _) => self.rules.custom,
            (Says::Accept, Rules::Accept) | (Says::Drop, Rules::Drop) => true,
            (Says::Continue, Rules::Other(target)) => is_goes_on(target),
            (Says::Reject(answer), Rules::Reject(reject)) => {
                is_answer(*answer, *reject, self.packet.family)
            }
            _ => false,
        }
    }

    /// Whether both or neither take the source for a lie.
    pub(super) fn same_source(&self) -> bool {
        let by_policy = self.policy.decision.by == DecidedBy::Antispoof;
        by_policy == (self.rules.table == TableName::Raw)
    }

    /// Whether both log the same, in the same order.
    pub fn same_logs(&self) -> bool {
        self.policy.logs == self.rules.logs
    }
}

fn is_answer(answer: RejectAnswer, reject: Reject, family: Family) -> bool {
    let (v4, v6) = match answer {
        RejectAnswer::TcpReset => return reject == Reject::TcpReset,
        RejectAnswer::PortUnreachable => ("icmp-port-unreachable", "icmp6-port-unreachable"),
        RejectAnswer::HostUnreachable => ("icmp-host-unreachable", "icmp6-addr-unreachable"),
        RejectAnswer::NetUnreachable => ("icmp-net-unreachable", "icmp6-no-route"),
        RejectAnswer::AdminProhibited => ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
    };
    let word = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    reject == Reject::Icmp(word)
}

/// Where the policy says what decided.
pub(super) fn place(policy: &Policy, decision: &Decision, packet: &Packet) -> Option<Span> {
    fn at<T>(written: &Option<crate::source::Located<T>>) -> Option<Span> {
        written.as_ref().map(|written| written.span)
    }
    let defaults = &policy.defaults;
    match decision.by {
        DecidedBy::Rule(index) => policy.rules.get(index).map(|rule| rule.span),
        DecidedBy::Nat(index) => policy.nat.get(index).map(|entry| entry.span),
        DecidedBy::Raw(index) => policy.raw.get(index).map(|entry| entry.span),
        DecidedBy::Antispoof => at(&defaults.antispoof),
        DecidedBy::Loopback => at(&defaults.loopback),
        DecidedBy::Established => at(&defaults.established),
        DecidedBy::Icmp => at(&defaults.icmp),
        DecidedBy::Invalid => at(&defaults.invalid),
        DecidedBy::DhcpClient => at(&defaults.dhcp_client),
        DecidedBy::Custom(_) => None,
        DecidedBy::Default => match packet.hook {
            Hook::Input => at(&defaults.input),
            Hook::Forward => at(&defaults.forward),
            Hook::Output => at(&defaults.output),
        },
    }
}

//! One packet through both walkers: the interpreter of the policy and the walker of the rules.

use std::collections::{BTreeMap, HashMap};

use super::condition::Condition;
use super::end_to_end::ArrivedPacket;
use super::logging::{LogLine, is_limit, is_log};
use super::normalised::{Normalised, leaves_to_others};
use super::side_effects::SideEffect;
use super::spec::Spec;
use super::spec::connection::Counted;
use super::spec::custom::Customs;
use super::spec::matching::in_set;
use crate::analysis::BaseChain;
use crate::iptables::{
    self, ConnectionFacts, NoWalk, Reject, RuleId, Ruleset, TableName, Target, Walk,
};
use crate::net::{AddressRange, Family, Hook, IntervalSet, Packet, address_of, number_of};
use crate::policy::{
    self, Circumstance, CustomPosition, DecidedBy, Decision, MangleChange, Moment, NatChain,
    Policy, PolicyRule, RawTreatment, RejectAnswer, Treatment,
};
use crate::source::{Located, Span};

/// The result of the policy for a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The verdict, the key or rule that decides, and the log classes met before.
    pub decision: Decision,
    /// The place in the policy that decides; `None` for a default that the policy does not set.
    pub place: Option<Span>,
    /// The log lines of those classes, in order.
    pub logs: Vec<LogLine>,
}

/// The result of the rules for a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Actual {
    /// The final verdict.
    pub verdict: iptables::WalkVerdict,
    /// The table that gives the verdict.
    pub table: TableName,
    /// The line and the text of the rule that decides; `None` if the policy of the chain decides.
    pub rule: Option<(u32, String)>,
    /// `true` if a custom rule decides.
    pub custom: bool,
    /// The log lines, in order, as if no rate limit suppressed any; lines that no log class of a policy produces are missing.
    pub logs: Vec<LogLine>,
}

/// A packet, and the results of the policy and the rules for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedWalk {
    /// The packet.
    pub packet: Packet,
    /// The packet as the filter table sees it, if the walk began at its arrival and a table changed it.
    pub became: Option<Box<ArrivedPacket>>,
    /// `true` if policy and rules change it to the same packet before the filter table.
    pub same_path: bool,
    /// The conditions that the packet alone does not answer (limits, times, sets), in words, and whether each holds.
    pub when: Vec<(String, bool)>,
    /// The result of the policy.
    pub policy: Expected,
    /// The result of the rules.
    pub rules: Actual,
}

/// A packet, and the effects of the policy and the rules on it in one base chain, beside the verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedEffects {
    /// The packet.
    pub packet: Packet,
    /// The table.
    pub table: TableName,
    /// The base chain.
    pub chain: BaseChain,
    /// The conditions that the packet alone does not answer (limits, times, sets), in words, and whether each holds.
    pub when: Vec<(String, bool)>,
    /// The effects that the policy wants, each with its place.
    pub policy: Vec<(SideEffect, Span)>,
    /// The effects of the rules, each with the line and the text of its rule.
    pub rules: Vec<(SideEffect, u32, String)>,
}

impl ComparedEffects {
    /// Returns `true` if policy and rules have the same effects in the same order.
    pub fn same(&self) -> bool {
        let policy = self.policy.iter().map(|(effect, _)| effect.clone());
        let rules = self.rules.iter().map(|(effect, ..)| effect.clone());
        SideEffect::once(policy) == SideEffect::once(rules)
    }
}

/// The policy and the rules that packets walk through, and the circumstances of the walk.
#[derive(Clone, Copy)]
pub(super) struct Walkers<'a> {
    pub policy: &'a Policy,
    pub spec: &'a Spec,
    pub normalised: &'a Normalised,
    pub customs: &'a Customs,
    pub ruleset: &'a Ruleset,
    /// The members of the sets that the policy fills.
    pub members: &'a BTreeMap<String, IntervalSet>,
    /// Answers conditions that no policy can express, which only custom rules and changed templates have.
    pub strange: &'a OpaqueOracle<'a>,
    /// Returns `true` if a target that fwc does not know ends the table.
    pub ends: &'a dyn Fn(&Target) -> bool,
    /// The connection of the packet.
    pub connection: ConnectionFacts<'a>,
}

/// Returns `true` if a condition of a rule holds. The first argument is the ruleset of the rule if it is one of custom rules
/// alone, and `None` if it is the whole ruleset.
pub(super) type OpaqueOracle<'a> =
    dyn Fn(Option<&Ruleset>, (TableName, RuleId), &iptables::Match) -> bool + 'a;

impl Walkers<'_> {
    /// Walks a packet of the filter table through policy and rules. `holds` answers conditions that the packet does not.
    pub fn walk(
        &self,
        packet: Packet,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<ComparedWalk, NoWalk> {
        Ok(ComparedWalk {
            policy: self.expected(&packet, holds),
            rules: self.actual(&packet, holds)?,
            when: Vec::new(),
            became: None,
            same_path: true,
            packet,
        })
    }

    /// Walks a packet through a base chain of the raw, mangle or nat table, by policy and by rules. Translations are not
    /// among the effects.
    pub fn treat(
        &self,
        packet: &Packet,
        (table, chain): (TableName, BaseChain),
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<ComparedEffects, NoWalk> {
        let moment = match chain {
            BaseChain::Prerouting => Moment::Arrival,
            BaseChain::Postrouting => Moment::Departure,
            BaseChain::Input | BaseChain::Forward | BaseChain::Output => Moment::Hook,
        };
        let circumstance = |asked: Circumstance<'_>| self.circumstance(packet, asked, holds);
        let log = |written: &PolicyRule| {
            let line = LogLine::of_policy(self.policy, &policy::entry_log(written)?, packet.family);
            Some((SideEffect::Log(line), written.span))
        };
        let by_policy: Vec<(SideEffect, Span)> = if table == TableName::Raw {
            let helper = |helper: &policy::Helper| SideEffect::Helper(helper.name().to_owned());
            let antispoof = || {
                let defaults = &self.policy.defaults;
                defaults.place(packet.family, |keys| &keys.antispoof)
            };
            let effect = |treatment: RawTreatment<'_>| match treatment {
                RawTreatment::Antispoof => Some((SideEffect::Drop, antispoof()?)),
                RawTreatment::Service(rule, of_service) => {
                    Some((helper(of_service), self.policy.rules.get(rule)?.span))
                }
                RawTreatment::Entry(index) => {
                    let entry = self.policy.raw.get(index)?;
                    let effect = match &entry.treatment.as_ref()?.value {
                        Treatment::NoTrack { .. } => SideEffect::NoTrack,
                        Treatment::Helper(of_entry) => helper(of_entry),
                        Treatment::Drop => SideEffect::Drop,
                    };
                    Some((effect, entry.span))
                }
            };
            let treatments = policy::raw(self.policy, packet, &circumstance).into_iter();
            let effects = treatments.flat_map(|treatment| {
                let entry = match &treatment {
                    RawTreatment::Entry(index) => self.policy.raw.get(*index),
                    RawTreatment::Antispoof | RawTreatment::Service(..) => None,
                };
                let log = entry.and_then(|entry| log(&entry.packets));
                [log, effect(treatment)]
            });
            effects.flatten().collect()
        } else if table == TableName::Nat {
            let of_chain = match chain {
                BaseChain::Prerouting => Some(NatChain::Prerouting),
                BaseChain::Output => Some(NatChain::Output),
                BaseChain::Postrouting => Some(NatChain::Postrouting),
                BaseChain::Input | BaseChain::Forward => None,
            };
            let logs = of_chain.and_then(|chain| {
                let entry = policy::nat_entry_when(self.policy, packet, chain, &circumstance)?;
                log(&self.policy.nat.get(entry)?.packets)
            });
            logs.into_iter().collect()
        } else {
            let mangled = policy::mangle(self.policy, packet, 0, moment, &circumstance);
            let entries = mangled.entries.iter();
            let entries = entries.filter_map(|index| self.policy.mangle.get(*index));
            let change = |entry: &policy::PolicyMangle| {
                let effect = match entry.change.as_ref()?.value {
                    MangleChange::Drop => SideEffect::Drop,
                    change => SideEffect::Change(change),
                };
                Some((effect, entry.span))
            };
            let effects = entries.flat_map(|entry| [log(&entry.packets), change(entry)]);
            effects.flatten().collect()
        };
        let ruleset = seen_from(self.ruleset, table, chain, packet.hook);
        let walk = self.walked(table, &ruleset, packet, holds)?;
        let counted = walk.counted.iter();
        let counted = counted.filter_map(|id| rule_of(&ruleset, table, *id));
        // fwc never gives the chains of these tables a DROP policy.
        let dropped = walk.decided.is_none() && walk.verdict == iptables::WalkVerdict::Drop;
        let dropped = dropped.then(|| {
            let policy = format!(":{} DROP", chain.as_str());
            (SideEffect::Strange("DROP".to_owned()), 0, policy)
        });
        Ok(ComparedEffects {
            table,
            chain,
            when: Vec::new(),
            policy: by_policy,
            rules: counted
                .filter_map(|rule| {
                    let text = rule.to_text(ruleset.family);
                    let effect = SideEffect::of_rule(rule, ruleset.family)?;
                    Some((effect, rule.line, text))
                })
                .chain(dropped)
                .collect(),
            packet: packet.clone(),
        })
    }

    fn expected(&self, packet: &Packet, holds: &dyn Fn(&Condition) -> bool) -> Expected {
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

    /// Returns `true` if a circumstance that the policy asks about holds.
    pub fn circumstance(
        &self,
        packet: &Packet,
        asked: Circumstance<'_>,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> bool {
        let family = packet.family;
        let bucket = |buckets: &HashMap<(Hook, usize), Condition>, rule: usize| {
            // The specification has a bucket for each rule with packets in the hook; no other rule is asked.
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
            Circumstance::InSet { name, ends } => holds(&in_set(name, ends, family)),
            Circumstance::InForeignSet { name, ends } => holds(&Condition::InSet {
                name: name.to_owned(),
                ends,
            }),
            Circumstance::FromIpsec => holds(&Condition::FromIpsec),
            Circumstance::IntoIpsec => holds(&Condition::IntoIpsec),
            Circumstance::AuthHeader => holds(&Condition::AuthHeader),
            Circumstance::ToThisHost => holds(&Condition::ToThisHost),
            Circumstance::Turn(turn) => self.spec.turns.get(&turn).is_none_or(holds),
            Circumstance::Custom(position) => self.custom_decides(packet, position),
            Circumstance::Matches(text) => self.matches_hold(packet, text, holds),
            Circumstance::OriginalDirection => self.was_sent(packet, "--ctdir ORIGINAL"),
            Circumstance::OriginalDestination(range) => prefixes(range).any(|(address, length)| {
                self.was_sent(packet, &format!("--ctorigdst {address}/{length}"))
            }),
            Circumstance::OriginalPort { protocol, ports } => {
                let range = format!("{}:{}", ports.first, ports.last);
                self.was_sent(packet, &format!("--ctproto {}", protocol.0))
                    && self.was_sent(packet, &format!("--ctorigdstport {range}"))
            }
        }
    }

    /// Returns `true` if the `match` of a rule holds.
    fn matches_hold(
        &self,
        packet: &Packet,
        text: &Located<String>,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> bool {
        let is_own = |rule: &PolicyRule| {
            rule.matches
                .as_ref()
                .is_some_and(|own| own.span == text.span)
        };
        let counted = self.counted(packet.hook, &is_own);
        let count = |condition: &iptables::Match| {
            let text = condition.to_text(packet.family);
            let mut same = counted.iter().filter(|(own, ..)| *own == text).peekable();
            same.peek()?;
            Some(same.all(|(_, condition, negated)| holds(condition) != *negated))
        };
        self.rule_holds(packet, &text.value, &|condition| {
            let of_policy = Condition::of_match(condition).map(|all| {
                let mut all = all.iter();
                all.all(|(one, negated)| holds(one) != *negated)
            });
            of_policy.or_else(|| count(condition))
        })
    }

    /// Returns the matches that count of a rule or entry, for packets of a hook: of an entry a packet passes one base chain.
    fn counted(&self, hook: Hook, is_own: &dyn Fn(&PolicyRule) -> bool) -> Vec<Counted> {
        let policy = self.policy;
        if let Some(index) = policy.rules.iter().position(is_own) {
            let conditions = self.spec.counted.get(&(hook, index)).into_iter().flatten();
            let counted = conditions.filter_map(|condition| match condition {
                Condition::Counting(_, text) => Some((text.clone(), condition.clone(), false)),
                _ => None,
            });
            return counted.collect();
        }
        let nat = policy.nat.iter().position(|entry| is_own(&entry.packets));
        let mangle = policy
            .mangle
            .iter()
            .position(|entry| is_own(&entry.packets));
        let raw = policy.raw.iter().position(|entry| is_own(&entry.packets));
        let tables = [
            (TableName::Nat, nat),
            (TableName::Mangle, mangle),
            (TableName::Raw, raw),
        ];
        let chains: &[BaseChain] = match hook {
            Hook::Input => &[BaseChain::Prerouting, BaseChain::Input],
            Hook::Forward => &[
                BaseChain::Prerouting,
                BaseChain::Forward,
                BaseChain::Postrouting,
            ],
            Hook::Output => &[BaseChain::Output, BaseChain::Postrouting],
        };
        for (table, index) in tables {
            let Some(index) = index else { continue };
            let mut places = chains.iter().map(|chain| (table, *chain, index));
            let counted = places.find_map(|place| self.spec.counted_by_entries.get(&place));
            return counted.cloned().unwrap_or_default();
        }
        Vec::new()
    }

    /// Returns `true` if an option of `-m conntrack` holds for the connection of a packet.
    fn was_sent(&self, packet: &Packet, option: &str) -> bool {
        self.rule_holds(packet, &format!("-m conntrack {option}"), &|_| None)
    }

    /// Returns `true` if matches of iptables hold for a packet. `known` answers those that a packet alone does not.
    fn rule_holds(
        &self,
        packet: &Packet,
        matches: &str,
        known: &dyn Fn(&iptables::Match) -> Option<bool>,
    ) -> bool {
        // The rule has lines only in families and chains, and for protocols, with which iptables takes the matches.
        let Some(rules) = alone_in_filter(packet, matches) else {
            return false;
        };
        let mut answer = |id: RuleId, condition: &iptables::Match| {
            let known = self
                .has_member(condition, packet)
                .or_else(|| known(condition));
            let rule = (TableName::Filter, id);
            known.or_else(|| Some((self.strange)(Some(&rules), rule, condition)))
        };
        iptables::walk_marked(
            &rules,
            TableName::Filter,
            packet,
            self.connection,
            self.ends,
            &mut answer,
        )
        .is_ok_and(|walk| walk.decided.is_some())
    }

    /// Returns `true` if a custom rule at a position of the packet's chain decides it.
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

    /// Walks a packet through the rules. It passes the raw table first, which may drop it.
    fn actual(
        &self,
        packet: &Packet,
        holds: &dyn Fn(&Condition) -> bool,
    ) -> Result<Actual, NoWalk> {
        let chain = match packet.hook {
            Hook::Output => BaseChain::Output,
            Hook::Input | Hook::Forward => BaseChain::Prerouting,
        };
        let raw = seen_from(self.ruleset, TableName::Raw, chain, packet.hook);
        let first = self.table(TableName::Raw, &raw, packet, holds)?;
        if first.verdict != iptables::WalkVerdict::Accept {
            return Ok(first);
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
        Ok(self.actual_in(ruleset, name, &walk, packet.family))
    }

    /// Describes the result of a walk through a table.
    pub fn actual_in(
        &self,
        ruleset: &Ruleset,
        name: TableName,
        walk: &Walk,
        family: Family,
    ) -> Actual {
        let rule = |id: &RuleId| rule_of(ruleset, name, *id);
        let is_custom = |id: &RuleId| {
            let table = ruleset.table(name);
            let chain = table.and_then(|table| table.chains.get(id.chain));
            chain.zip(rule(id)).is_some_and(|(chain, rule)| {
                self.customs.has(name, &chain.name, rule, ruleset.family)
            })
        };
        // The text of a custom rule is its specification, and the interpreter of the policy knows none of its logs.
        let of_policy = walk.counted.iter().filter(|id| !is_custom(id));
        let logs = of_policy.filter_map(rule);
        Actual {
            logs: logs
                .filter(|rule| is_log(&rule.target))
                .filter_map(|rule| LogLine::of_rule(rule, family))
                .collect(),
            rule: walk
                .decided
                .as_ref()
                .and_then(rule)
                .filter(|rule| !leaves_to_others(&rule.target))
                .map(|rule| {
                    let text = rule.to_text(ruleset.family);
                    (rule.line, text)
                }),
            custom: walk.decided.as_ref().is_some_and(is_custom),
            verdict: walk.verdict.clone(),
            table: name,
        }
    }

    /// Walks a packet through a table.
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
                // Log lines are compared as if no rate limit suppressed them: the limit is part of the line.
                true => Some(true),
                false => self
                    .has_member(condition, packet)
                    .or_else(|| self.normalised.holds(name, id, condition, holds))
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

/// Returns a rule with some matches in the chain of a packet's hook of the filter table; `None` if no table takes them. A match may
/// exist in some tables and chains only, but means the same in each.
fn alone_in_filter(packet: &Packet, matches: &str) -> Option<Ruleset> {
    let places = [
        TableName::Filter,
        TableName::Mangle,
        TableName::Raw,
        TableName::Nat,
    ];
    let chains = [
        packet.hook.chain(),
        "PREROUTING",
        "POSTROUTING",
        "INPUT",
        "FORWARD",
        "OUTPUT",
    ];
    let mut places = places
        .into_iter()
        .flat_map(|table| chains.map(|chain| (table, chain)));
    places.find_map(|(name, chain)| {
        let text = format!(
            "*{}\n:{chain} ACCEPT [0:0]\n-A {chain} -p {} {matches} -j ACCEPT\nCOMMIT\n",
            name.as_str(),
            packet.protocol
        );
        let mut rules = Ruleset::from_text(&text, packet.family).ok()?;
        for table in &mut rules.tables {
            table.name = TableName::Filter;
            table.chains.retain(|own| &*own.name == chain);
            for own in &mut table.chains {
                own.name = packet.hook.chain().into();
            }
        }
        Some(rules)
    })
}

pub(super) fn rule_of(ruleset: &Ruleset, table: TableName, id: RuleId) -> Option<&iptables::Rule> {
    let chains = &ruleset.table(table)?.chains;
    chains.get(id.chain)?.rules.get(id.rule)
}

impl Walkers<'_> {
    /// Returns whether a match of a set holds, if the policy fills the set; otherwise `None`.
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

/// Returns a table with the base chain `chain` renamed to that of `hook`, and the other way round. The walker takes the base
/// chain from the hook of the packet, so this makes it walk PREROUTING with a packet of INPUT, for example.
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
    /// Returns `true` if policy and rules have the same verdict.
    pub fn same_verdict(&self) -> bool {
        use iptables::WalkVerdict as Rules;
        use policy::PolicyVerdict as Wanted;
        match (&self.policy.decision.verdict, &self.rules.verdict) {
            // The policy does not know the verdict of a custom rule, only that such a rule must decide.
            (Wanted::Custom, _) => self.rules.custom,
            (Wanted::Accept, Rules::Accept) | (Wanted::Drop, Rules::Drop) => true,
            (Wanted::Continue, Rules::Other(target)) => leaves_to_others(target),
            (Wanted::Reject(answer), Rules::Reject(reject)) => {
                is_answer(*answer, *reject, self.packet.family)
            }
            _ => false,
        }
    }

    /// Returns `true` if both or neither drop the packet in the raw table.
    pub(super) fn same_source(&self) -> bool {
        let by = self.policy.decision.by;
        let by_policy = matches!(by, DecidedBy::Antispoof | DecidedBy::RawDrop(_));
        by_policy == (self.rules.table == TableName::Raw)
    }

    /// Returns `true` if both write the same log lines in the same order.
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
        RejectAnswer::HostProhibited => return reject == Reject::Icmp("icmp-host-prohibited"),
        RejectAnswer::NetProhibited => return reject == Reject::Icmp("icmp-net-prohibited"),
        RejectAnswer::ProtoUnreachable => return reject == Reject::Icmp("icmp-proto-unreachable"),
        RejectAnswer::PolicyFail => return reject == Reject::Icmp("icmp6-policy-fail"),
        RejectAnswer::RejectRoute => return reject == Reject::Icmp("icmp6-reject-route"),
    };
    let word = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    reject == Reject::Icmp(word)
}

/// Returns the prefixes that make up a range, as addresses with their lengths.
fn prefixes(range: AddressRange) -> impl Iterator<Item = (std::net::IpAddr, u32)> {
    let bits = u32::from(range.family.bits());
    let mut next = Some(range.first);
    std::iter::from_fn(move || {
        let first = next.filter(|first| *first <= range.last)?;
        let fits = |size: &u32| {
            let end = (1u128 << size)
                .checked_sub(1)
                .and_then(|more| first.checked_add(more));
            first.trailing_zeros() >= *size && end.is_some_and(|end| end <= range.last)
        };
        let size = (0..bits).rev().find(fits).unwrap_or(0);
        next = first.checked_add(1 << size);
        Some((address_of(range.family, first), bits - size))
    })
}

/// Returns the place in the policy of the rule or key that decided.
pub(super) fn place(policy: &Policy, decision: &Decision, packet: &Packet) -> Option<Span> {
    let (hook, family) = (packet.hook, packet.family);
    let defaults = &policy.defaults;
    match decision.by {
        DecidedBy::Rule(index) => policy.rules.get(index).map(|rule| rule.span),
        DecidedBy::Nat(index) => policy.nat.get(index).map(|entry| entry.span),
        DecidedBy::Mangle(index) => policy.mangle.get(index).map(|entry| entry.span),
        DecidedBy::Raw(index) | DecidedBy::RawDrop(index) => {
            policy.raw.get(index).map(|entry| entry.span)
        }
        DecidedBy::Antispoof => defaults.place(family, |keys| &keys.antispoof),
        DecidedBy::Loopback => defaults.place(family, |keys| &keys.loopback[hook]),
        DecidedBy::Established => defaults.place(family, |keys| &keys.established[hook]),
        DecidedBy::Icmp => defaults.place(family, |keys| &keys.icmp[hook]),
        DecidedBy::Invalid => defaults.place(family, |keys| &keys.invalid[hook]),
        DecidedBy::DhcpClient => defaults.place(family, |keys| &keys.dhcp_client[hook]),
        DecidedBy::Custom(_) => None,
        DecidedBy::Default => defaults.place(family, |keys| &keys.actions[hook]),
    }
}

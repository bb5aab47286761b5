//! The trace of one packet: every table and rule that it meets.

use std::cell::RefCell;
use std::net::IpAddr;

use super::subject::{DecisionSource, FamilyRules, Subject};
use crate::analysis::{
    BaseChain, Conditions, FIRST_OF_RELATED, Field, Space, TableChain, TextError, Verdict, Witness,
    after_translation, device_name, ends_key,
};
use crate::iptables::{
    self, Match, NatTarget, Rule, RuleId, TableName, Target, UndecidedCondition, Unknowns,
};
use crate::net::{Packet, address_of};

/// The trace of one packet through all tables of its hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The packet as it arrives.
    pub packet: Packet,
    /// Facts about the packet that [`Packet`] has no field for, by name; see [`Witness::besides`].
    pub besides: Vec<(&'static str, String)>,
    /// Conditions that the packet alone does not answer (rates, times, sets), by their keys in the analysis, and whether each
    /// holds in this trace.
    pub conditions: Vec<(String, bool)>,
    /// The tables that the packet reaches, in the kernel's order.
    pub visits: Vec<TableVisit>,
    /// The verdict of the plain walker.
    pub verdict: iptables::WalkVerdict,
}

/// A table that the packet goes through.
#[derive(Clone, Debug, PartialEq)]
pub struct TableVisit {
    /// The table and its base chain.
    pub place: TableChain,
    /// The rules that match, in order; the last one decides, unless `policy` is set.
    pub matched: Vec<MatchedRule>,
    /// The policy of the base chain, if no rule decides.
    pub policy: Option<ByPolicy>,
    /// The packet after the table, if the table changed it.
    pub became: Option<Packet>,
}

/// A rule that a packet matches.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchedRule {
    /// Its position in the table.
    pub id: RuleId,
    /// The name of its chain.
    pub chain: String,
    /// Its number in the chain, from 1.
    pub number: usize,
    /// The rule as `iptables-save` prints it, without `-A CHAIN`.
    pub text: String,
    /// `true` if it only jumps to another chain or returns from one.
    pub only_leads: bool,
    /// Where it is written.
    pub origin: DecisionSource,
}

/// The end of a base chain that no rule decided before.
#[derive(Clone, Debug, PartialEq)]
pub struct ByPolicy {
    /// `ACCEPT` or `DROP`; [`ByPolicy::OTHERS`] if rules of other programs decide.
    pub verdict: &'static str,
    /// Where it is written.
    pub origin: DecisionSource,
}

impl ByPolicy {
    /// The value of `verdict` in shared mode: rules of other programs decide, which are not part of the explained rules.
    pub const OTHERS: &'static str = "others";
}

impl TableVisit {
    /// Returns `true` if the table does nothing to the packet: the only rules that match are jumps and returns, and the
    /// packet leaves the table unchanged. The filter table is never quiet, because passing it is the decision to accept.
    pub fn is_quiet(&self) -> bool {
        let accepts = self.policy.as_ref().is_none_or(|by| by.verdict == "ACCEPT");
        let decides = self.place.0 == TableName::Filter;
        let leads = self.matched.iter().all(|rule| rule.only_leads);
        !decides && leads && self.became.is_none() && accepts
    }
}

impl Subject {
    /// Describes a rule that a packet matched; `None` if the rule is not in `rules`.
    pub fn matched(
        &self,
        rules: &FamilyRules,
        table: TableName,
        id: RuleId,
    ) -> Option<MatchedRule> {
        let family = rules.written.family;
        let chain = rules.written.table(table)?.chains.get(id.chain)?;
        let rule = chain.rules.get(id.rule)?;
        Some(MatchedRule {
            id,
            chain: chain.name.to_string(),
            number: id.rule + 1,
            text: rule.to_text(family),
            only_leads: only_leads(rule),
            origin: self.origin(family, rule.line, &chain.name),
        })
    }

    /// Describes the end of a base chain: its policy, or the rules of other programs in shared mode.
    pub fn by_policy(&self, rules: &FamilyRules, (table, chain): TableChain) -> ByPolicy {
        let family = rules.written.family;
        let name = chain.as_str();
        let found = rules.written.table(table);
        let found = found.and_then(|table| table.chain(name)?.policy);
        let verdict = match self.is_left_to_others(table) {
            true => ByPolicy::OTHERS,
            false => found.map_or("ACCEPT", |policy| policy.as_str()),
        };
        ByPolicy {
            verdict,
            origin: self.chain_policy(family, table, name),
        }
    }
}

/// Returns `true` if a rule only jumps to a chain, or is a RETURN without conditions.
///
/// A RETURN with conditions is an exception that the author of the rules made, so it explains why later rules do not apply.
/// A jump with `-m recent` is not quiet either: it records the source.
fn only_leads(rule: &Rule) -> bool {
    let is_comment = |one: &Match| matches!(one, Match::Comment(_));
    let records = |one: &Match| matches!(one, Match::Other(module) if module.name == "recent");
    match rule.target {
        Target::Jump(_) | Target::Goto(_) => !rule.matches.iter().any(records),
        Target::Return => rule.matches.iter().all(is_comment),
        _ => false,
    }
}

/// Traces example packets that the analysis found.
pub(super) struct Tracer<'a> {
    pub subject: &'a Subject,
    pub rules: &'a FamilyRules,
    pub conditions: &'a Conditions<'a>,
    pub space: &'a Space,
}

impl Tracer<'_> {
    /// Walks the packet of a witness through the rules. `verdict` is the verdict of the analysis, which the walk must confirm.
    pub fn trace(&self, witness: &Witness, verdict: &Verdict) -> Result<Trace, TraceError> {
        let value = witness.value();
        let connection_mark = (0..32).fold(0, |mark, bit| {
            mark | (value(Field::ConnectionMark(bit)) as u32 & 1) << bit
        });
        let mut answers = Answers {
            space: self.space,
            conditions: self.conditions,
            witness,
            failed: RefCell::new(None),
        };
        let walk = iptables::follow(
            &self.rules.asked,
            &witness.packet,
            connection_mark,
            &mut answers,
        );
        if let Some(error) = answers.failed.into_inner() {
            return Err(error.into());
        }
        let walk = walk?;
        if !is_same(&walk.verdict, verdict) {
            return Err(TraceError::Otherwise(Box::new(walk.verdict)));
        }
        let mut before = &witness.packet;
        let mut visits = Vec::new();
        for step in &walk.steps {
            let Some(base) = BaseChain::from_name(step.chain) else {
                continue;
            };
            let place = (step.table, base);
            let counted = step.walk.counted.iter();
            visits.push(TableVisit {
                place,
                matched: counted
                    .filter_map(|id| self.subject.matched(self.rules, step.table, *id))
                    .collect(),
                // In shared mode a rule that is only in `asked` ends each base chain, in place of the rules of other programs.
                policy: match step.walk.decided {
                    Some(id) if self.subject.matched(self.rules, step.table, id).is_some() => None,
                    _ => Some(self.subject.by_policy(self.rules, place)),
                },
                became: (step.packet != *before).then(|| step.packet.clone()),
            });
            before = &step.packet;
        }
        Ok(Trace {
            packet: witness.packet.clone(),
            besides: witness.besides(),
            conditions: witness.conditions.clone(),
            visits,
            verdict: walk.verdict,
        })
    }
}

/// Why a packet has no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A condition of the rules has no meaning in the analysis.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The walker does not understand a rule.
    #[error(transparent)]
    NoWalk(#[from] iptables::NoWalk),
    /// The walker and the analysis have different verdicts for the packet.
    #[error(
        "internal error: the analysis of these rules and a walk through them have different verdicts; please report this with the rules"
    )]
    Otherwise(Box<iptables::WalkVerdict>),
}

/// Returns `true` if the verdict of the walker is that of the analysis.
fn is_same(walked: &iptables::WalkVerdict, verdict: &Verdict) -> bool {
    match (walked, verdict) {
        (iptables::WalkVerdict::Accept, Verdict::Accept)
        | (iptables::WalkVerdict::Drop, Verdict::Drop) => true,
        (iptables::WalkVerdict::Reject(one), Verdict::Reject(other)) => one.as_str() == &**other,
        (iptables::WalkVerdict::Other(target), Verdict::Target(text)) => {
            let target = target.to_text();
            target.strip_prefix("-j ").unwrap_or(&target) == &**text
        }
        _ => false,
    }
}

/// Answers for the walker what the packet alone does not show, as the witness has it.
struct Answers<'a> {
    space: &'a Space,
    conditions: &'a Conditions<'a>,
    witness: &'a Witness,
    failed: RefCell<Option<TextError>>,
}

impl Answers<'_> {
    fn condition(&self, key: &str) -> Option<bool> {
        let mut known = self.witness.conditions.iter();
        known
            .find(|(other, _)| other == key)
            .map(|(_, holds)| *holds)
    }

    fn chosen(&self, field: Field) -> u128 {
        self.witness.value()(field)
    }
}

impl Unknowns for Answers<'_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let packet = asked.packet;
        let first = &self.witness.packet;
        let moved = packet.destination != first.destination
            || packet.destination_port != first.destination_port;
        let holds = |key: &str| {
            // The analysis has one condition for the destination before DNAT and one for the destination after it. A DNAT to
            // the destination that the packet had already leaves `moved` false, so either condition serves as a fallback.
            let (before, after) = (self.condition(key), self.condition(&after_translation(key)));
            let first = if moved { after } else { before };
            first.or(before).or(after).unwrap_or(false)
        };
        let of_packet = self.space.values_of(packet, holds);
        let of_witness = self.witness.value();
        let value = |field| match field {
            // A `Packet` has no such fields.
            Field::ConnectionMark(_) | Field::PacketType | Field::Fragment => of_witness(field),
            field => of_packet(field),
        };
        let place = (asked.table, asked.rule);
        match self.conditions.hold(place, asked.condition, value) {
            Ok(holds) => Some(holds),
            Err(gave_up) => {
                self.failed.replace(Some(gave_up.into()));
                None
            }
        }
    }

    fn ends(&mut self, target: &Target) -> Option<bool> {
        Some(self.condition(&ends_key(target)).unwrap_or(false))
    }

    fn address(&mut self, _nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        Some(address_of(
            packet.family,
            self.chosen(Field::NewDestination),
        ))
    }

    fn port(&mut self, _nat: &NatTarget, _packet: &Packet) -> Option<u16> {
        u16::try_from(self.chosen(Field::NewDestinationPort)).ok()
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        let port = self.chosen(Field::NewDestinationPort);
        let port = packet.destination_port.and(u16::try_from(port).ok());
        Some((
            address_of(packet.family, self.chosen(Field::NewDestination)),
            port,
        ))
    }

    fn is_first(&mut self, _packet: &Packet) -> Option<bool> {
        Some(self.condition(FIRST_OF_RELATED).unwrap_or(false))
    }

    fn device(&mut self, packet: &Packet) -> Option<String> {
        let device = device_name(self.chosen(Field::NewOutDevice));
        match device.is_empty() {
            true => packet.out_device.clone(),
            false => Some(device),
        }
    }
}

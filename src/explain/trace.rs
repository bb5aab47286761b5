//! One packet's way, told rule by rule.

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

/// The way of one packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The packet as it arrives.
    pub packet: Packet,
    /// Facts about the packet that [`Packet`] has no field for, by name; see [`Witness::besides`].
    pub besides: Vec<(&'static str, String)>,
    /// What else is so: conditions that a packet does not answer, by what the analysis calls them.
    pub conditions: Vec<(String, bool)>,
    /// The tables in the kernel's order, as far as the packet gets.
    pub visits: Vec<TableVisit>,
    /// How it ends by the plain walker.
    pub verdict: iptables::WalkVerdict,
}

/// A table on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct TableVisit {
    /// The table and its base chain.
    pub place: TableChain,
    /// The rules all of whose conditions hold, in order; the last one decides unless `policy` is there.
    pub matched: Vec<MatchedRule>,
    /// The policy of the base chain, where no rule decides.
    pub policy: Option<ByPolicy>,
    /// The packet after the table, where that changed it.
    pub became: Option<Packet>,
}

/// A rule that a packet matches.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchedRule {
    /// Its place in the table.
    pub id: RuleId,
    /// Its chain.
    pub chain: String,
    /// Its number in the chain, from 1.
    pub number: usize,
    /// What it says, as `iptables-save` prints it, without `-A CHAIN`.
    pub text: String,
    /// It leads into another chain or back, and does nothing else.
    pub only_leads: bool,
    /// Where it is written.
    pub origin: DecisionSource,
}

/// A base chain's policy that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct ByPolicy {
    /// `ACCEPT` or `DROP`; [`ByPolicy::OTHERS`] if rules of other programs decide.
    pub verdict: &'static str,
    /// Where it is written.
    pub origin: DecisionSource,
}

impl ByPolicy {
    /// Rules of other programs decide, which fwc does not know here.
    pub const OTHERS: &'static str = "others";
}

impl TableVisit {
    /// Whether nothing happens: no rule matches that does more than lead to others, and the packet goes on as it is. In the
    /// filter table that is a decision.
    pub fn is_quiet(&self) -> bool {
        let accepts = self.policy.as_ref().is_none_or(|by| by.verdict == "ACCEPT");
        let decides = self.place.0 == TableName::Filter;
        let leads = self.matched.iter().all(|rule| rule.only_leads);
        !decides && leads && self.became.is_none() && accepts
    }
}

impl Subject {
    /// A rule with its place.
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

    /// The policy of a base chain with its place.
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

/// Whether a rule leads into a chain or, whatever the packet, back, and writes nothing down. A RETURN with conditions is an
/// exception that somebody made: it says why others do nothing.
fn only_leads(rule: &Rule) -> bool {
    let is_plain = |one: &Match| matches!(one, Match::Comment(_));
    let remembers = |one: &Match| matches!(one, Match::Other(module) if module.name == "recent");
    match rule.target {
        Target::Jump(_) | Target::Goto(_) => !rule.matches.iter().any(remembers),
        Target::Return => rule.matches.iter().all(is_plain),
        _ => false,
    }
}

/// Tells the way of packets that the analysis found.
pub(super) struct Tracer<'a> {
    pub ground: &'a Subject,
    pub rules: &'a FamilyRules,
    pub conditions: &'a Conditions<'a>,
    pub space: &'a Space,
}

impl Tracer<'_> {
    /// Walks the packet. An error says why it cannot be walked.
    pub fn tell(&self, witness: &Witness, verdict: &Verdict) -> Result<Trace, TraceError> {
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
        let journey = iptables::follow(
            &self.rules.asked,
            &witness.packet,
            connection_mark,
            &mut answers,
        );
        if let Some(error) = answers.failed.into_inner() {
            return Err(error.into());
        }
        let journey = journey?;
        if !is_same(&journey.verdict, verdict) {
            return Err(TraceError::Otherwise(Box::new(journey.verdict)));
        }
        let mut before = &witness.packet;
        let mut visits = Vec::new();
        for step in &journey.steps {
            let Some(base) = BaseChain::from_name(step.chain) else {
                continue;
            };
            let place = (step.table, base);
            let counted = step.walk.counted.iter();
            visits.push(TableVisit {
                place,
                matched: counted
                    .filter_map(|id| self.ground.matched(self.rules, step.table, *id))
                    .collect(),
                // The rule that stands for the rules of other programs is not in the written rules.
                policy: match step.walk.decided {
                    Some(id) if self.ground.matched(self.rules, step.table, id).is_some() => None,
                    _ => Some(self.ground.by_policy(self.rules, place)),
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
            verdict: journey.verdict,
        })
    }
}

/// Why a packet's way cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The rules have no meaning.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The walk has no answer.
    #[error(transparent)]
    NoWalk(#[from] iptables::NoWalk),
    /// The walk ends otherwise than the sets say.
    #[error(
        "internal error: the analysis of these rules and a walk through them end differently; please report it with the rules"
    )]
    Otherwise(Box<iptables::WalkVerdict>),
}

/// Whether the plain walker and the sets have the same end.
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

/// What a packet does not tell, as it is for the witness.
struct Answers<'a> {
    space: &'a Space,
    conditions: &'a Conditions<'a>,
    witness: &'a Witness,
    failed: RefCell<Option<TextError>>,
}

impl Answers<'_> {
    fn says(&self, key: &str) -> Option<bool> {
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
        let says = |key: &str| {
            // A translation may give a packet the destination that it had.
            let (before, after) = (self.says(key), self.says(&after_translation(key)));
            let first = if moved { after } else { before };
            first.or(before).or(after).unwrap_or(false)
        };
        let of_packet = self.space.values_of(packet, says);
        let of_witness = self.witness.value();
        let value = |field| match field {
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
        Some(self.says(&ends_key(target)).unwrap_or(false))
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
        Some(self.says(FIRST_OF_RELATED).unwrap_or(false))
    }

    fn device(&mut self, packet: &Packet) -> Option<String> {
        let device = device_name(self.chosen(Field::NewOutDevice));
        match device.is_empty() {
            true => packet.out_device.clone(),
            false => Some(device),
        }
    }
}

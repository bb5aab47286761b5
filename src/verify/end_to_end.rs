//! One packet's whole way both ways: as it arrives, through whatever changes it, to its end.

use std::net::IpAddr;

use super::both_sides::{BothSides, NoWitness, when};
use super::condition::Condition;
use super::logging::{LogLine, is_limit, is_log};
use super::translated::chosen_port;
use super::walkers::{Actual, ComparedWalk, Expected, Walkers, place, rule_of};
use crate::analysis::{
    FIRST_OF_RELATED, Field, GaveUp, Set, Witness, after_translation, device_name,
};
use crate::iptables::{
    self, ConnectionFacts, NatTarget, NoWalk, TableName, Target, UndecidedCondition, Unknowns,
};
use crate::net::{AddressRange, Hook, Packet, PortRange, address_of};
use crate::policy::{self, Chance, Circumstance, CustomTable, NewEnd, PolicyTrace};
use crate::source::Span;

/// What a packet became before it came to the filter table.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrivedPacket {
    /// The packet there.
    pub packet: Packet,
    /// What the policy makes of its destination; `None` where no entry does.
    pub policy: Option<NewEnd>,
    /// The entry.
    pub place: Option<Span>,
    /// The rule that translates it, and its line.
    pub rule: Option<(u32, String)>,
}

impl BothSides<'_> {
    /// A packet of the set, which is of packets as they arrive, taken the whole way through its hook by both.
    pub fn arrive(
        &self,
        hook: Hook,
        packets: Set,
    ) -> Result<Result<Box<ComparedWalk>, NoWitness>, GaveUp> {
        let prefer = [self.honest()?, self.between_interfaces(hook)?];
        let witness = self.space.witness(packets, hook.into(), &prefer)?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(hook.into())));
        };
        let walked = self.taken(&witness, |walkers, _| {
            let connection = ConnectionFacts {
                first: Some(&witness.packet),
                ..walkers.connection
            };
            let met = Met {
                walkers: Walkers {
                    connection,
                    ..walkers
                },
                witness: &witness,
            };
            met.walk()
        });
        let when = when(&witness);
        Ok(walked.map(|walked| Box::new(ComparedWalk { when, ..walked })))
    }
}

/// What a packet met on its way, as it is for a witness.
struct Met<'a> {
    walkers: Walkers<'a>,
    witness: &'a Witness,
}

impl Met<'_> {
    fn walk(mut self) -> Result<ComparedWalk, NoWalk> {
        let packet = &self.witness.packet;
        let connection_mark = self.walkers.connection.mark;
        let ruleset = self.walkers.ruleset;
        let journey = iptables::follow(ruleset, packet, connection_mark, &mut self)?;
        let before = journey.steps.iter();
        let before = before.take_while(|step| step.table != TableName::Filter);
        // A connection that was translated before may be so without a rule that is asked.
        let mut steps = journey.steps.iter();
        let filter = steps.find(|step| step.table == TableName::Filter);
        let there = filter.or(before.clone().last()).map(|step| &step.packet);
        let there = there.unwrap_or(packet).clone();
        let rules = self.done(&journey, &there);
        let translation = before
            .filter(|step| step.table == TableName::Nat)
            .find_map(|step| {
                let rule = rule_of(ruleset, step.table, step.walk.decided?)?;
                let is_nat = matches!(rule.target, Target::Nat(_));
                is_nat.then(|| (rule.line, rule.to_text(ruleset.family)))
            });
        let said = self.said(&there, connection_mark);
        // A packet that no translation concerns, and no mark, is the same everywhere.
        let same = there == *packet && said.packet == *packet;
        let entry = said.translated.map(|end| end.entry);
        let entry = entry.and_then(|entry| self.walkers.policy.nat.get(entry));
        Ok(ComparedWalk {
            became: (!same).then(|| {
                Box::new(ArrivedPacket {
                    policy: said.translated,
                    place: entry.map(|entry| entry.span),
                    rule: translation,
                    packet: there.clone(),
                })
            }),
            same_way: end_of(&there) == end_of(&said.packet),
            policy: Expected {
                logs: {
                    let logs = said.decision.logs.iter();
                    let policy = self.walkers.policy;
                    logs.map(|logged| LogLine::of_policy(policy, logged, packet.family))
                        .collect()
                },
                place: place(self.walkers.policy, &said.decision, packet),
                decision: said.decision,
            },
            rules,
            when: Vec::new(),
            packet: packet.clone(),
        })
    }

    /// What the policy says. What custom rules do in front of the filter table only iptables can read.
    fn said(&self, there: &Packet, connection_mark: u32) -> PolicyTrace {
        let policy = self.walkers.policy;
        let mut customs = policy.custom.iter().filter(|custom| custom.enabled);
        let is_early = customs.any(|custom| {
            let table = custom.table.as_ref().map(|table| table.value);
            table.is_some_and(|table| table != CustomTable::Filter)
        });
        match is_early {
            true => PolicyTrace {
                translated: None,
                decision: policy::decide_when(policy, there, &|asked| {
                    Chance::holds(self, asked, there)
                }),
                packet: there.clone(),
            },
            false => policy::follow(policy, &self.witness.packet, connection_mark, self),
        }
    }

    fn done(&self, journey: &iptables::WalkTrace, there: &Packet) -> Actual {
        let ruleset = self.walkers.ruleset;
        // The first table that does not let it pass, else the filter table.
        let passes = |verdict: &iptables::WalkVerdict| match verdict {
            iptables::WalkVerdict::Accept => true,
            iptables::WalkVerdict::Other(target) => matches!(**target, Target::Nat(_)),
            _ => false,
        };
        let mut steps = journey.steps.iter();
        let last = steps.clone().next_back();
        let stops = last.filter(|step| !passes(&step.walk.verdict));
        let step = stops.or_else(|| steps.find(|step| step.table == TableName::Filter));
        let Some(step) = step else {
            return Actual {
                verdict: journey.verdict.clone(),
                table: TableName::Filter,
                rule: None,
                custom: false,
                logs: Vec::new(),
            };
        };
        self.walkers
            .done_in(ruleset, step.table, &step.walk, there.family)
    }

    /// Whether a condition is so, for the packet as it is then.
    fn is(&self, key: &str, packet: &Packet) -> Option<bool> {
        let says = |key: &str| {
            let mut known = self.witness.conditions.iter();
            let known = known.find(|(other, _)| other == key);
            known.map(|(_, holds)| *holds)
        };
        let first = &self.witness.packet;
        let moved = (packet.destination, packet.destination_port)
            != (first.destination, first.destination_port);
        // A translation may give a packet the destination that it had.
        let (before, after) = (says(key), says(&after_translation(key)));
        let now = if moved { after } else { before };
        now.or(before).or(after)
    }

    fn condition(&self, condition: &Condition, packet: &Packet) -> bool {
        let holds = self.is(&condition.key(packet.family), packet);
        holds.unwrap_or_else(|| condition.usual())
    }

    fn chosen(&self, field: Field) -> u128 {
        self.witness.value()(field)
    }

    fn new_address(&self, packet: &Packet) -> IpAddr {
        address_of(packet.family, self.chosen(Field::NewDestination))
    }

    fn new_port(&self) -> u16 {
        self.chosen(Field::NewDestinationPort) as u16
    }

    fn is_first_of_related(&self) -> bool {
        let mut known = self.witness.conditions.iter();
        known.any(|(key, holds)| key == FIRST_OF_RELATED && *holds)
    }
}

/// What of a packet its way may change.
fn end_of(packet: &Packet) -> impl PartialEq + use<> {
    let end = (packet.destination, packet.destination_port);
    (
        end,
        packet.translated.destination,
        packet.state,
        packet.mark,
        packet.hop_limit,
    )
}

impl Chance for Met<'_> {
    fn holds(&self, asked: Circumstance<'_>, packet: &Packet) -> bool {
        let holds = |condition: &Condition| self.condition(condition, packet);
        self.walkers.circumstance(packet, asked, &holds)
    }

    fn address(&self, _: Option<AddressRange>, packet: &Packet) -> IpAddr {
        self.new_address(packet)
    }

    fn port(&self, _: PortRange, _: &Packet) -> u16 {
        self.new_port()
    }

    fn destination(&self, packet: &Packet) -> (IpAddr, Option<u16>) {
        let port = packet.destination_port.map(|_| self.new_port());
        (self.new_address(packet), port)
    }

    fn is_first(&self, _: &Packet) -> bool {
        self.is_first_of_related()
    }
}

impl Unknowns for Met<'_> {
    fn ends(&mut self, target: &Target) -> Option<bool> {
        Some((self.walkers.ends)(target))
    }

    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let UndecidedCondition {
            table,
            rule,
            condition,
            packet,
        } = asked;
        let walkers = &self.walkers;
        let logs = rule_of(walkers.ruleset, table, rule).is_some_and(|rule| is_log(&rule.target));
        if logs && is_limit(condition) {
            // Lines are compared as if no rate kept them silent.
            return Some(true);
        }
        let holds = |condition: &Condition| self.condition(condition, packet);
        walkers
            .has_member(condition, packet)
            .or_else(|| walkers.tagged.holds(table, rule, condition, holds))
            .or_else(|| Some((walkers.strange)(None, (table, rule), condition)))
    }

    fn address(&mut self, _: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        Some(self.new_address(packet))
    }

    fn port(&mut self, nat: &NatTarget, packet: &Packet) -> Option<u16> {
        Some(chosen_port(nat, packet).unwrap_or_else(|| self.new_port()))
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        Some(Chance::destination(self, packet))
    }

    fn is_first(&mut self, _: &Packet) -> Option<bool> {
        Some(self.is_first_of_related())
    }

    fn device(&mut self, packet: &Packet) -> Option<String> {
        let device = device_name(self.chosen(Field::NewOutDevice));
        match device.is_empty() {
            true => packet.out_device.clone(),
            false => Some(device),
        }
    }
}

//! One packet through policy and rules from its arrival: through all tables that change it, to its verdict.

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

/// A packet as the filter table sees it, and what changed it before.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrivedPacket {
    /// The packet in the filter table.
    pub packet: Packet,
    /// The translation of its destination by the policy; `None` if no entry translates it.
    pub policy: Option<NewEnd>,
    /// The place of that entry.
    pub place: Option<Span>,
    /// The line and the text of the rule that translates it.
    pub rule: Option<(u32, String)>,
}

impl BothSides<'_> {
    /// Walks one packet of a set through all tables of its hook, by policy and by rules. The set has packets as they arrive.
    pub fn walk_from_arrival(
        &self,
        hook: Hook,
        packets: Set,
    ) -> Result<Result<Box<ComparedWalk>, NoWitness>, GaveUp> {
        let prefer = [self.honest()?, self.between_interfaces(hook)?];
        let witness = self.space.witness(packets, hook.into(), &prefer)?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(hook.into())));
        };
        let walked = self.with_circumstances(&witness, |walkers, _| {
            let connection = ConnectionFacts {
                first: Some(&witness.packet),
                ..walkers.connection
            };
            let walk = WitnessWalk {
                walkers: Walkers {
                    connection,
                    ..walkers
                },
                witness: &witness,
            };
            walk.run()
        });
        let when = when(&witness);
        Ok(walked.map(|walked| Box::new(ComparedWalk { when, ..walked })))
    }
}

/// The walk of a witness; it answers what the packet alone does not show.
struct WitnessWalk<'a> {
    walkers: Walkers<'a>,
    witness: &'a Witness,
}

impl WitnessWalk<'_> {
    fn run(mut self) -> Result<ComparedWalk, NoWalk> {
        let packet = &self.witness.packet;
        let connection_mark = self.walkers.connection.mark;
        let ruleset = self.walkers.ruleset;
        let trace = iptables::follow(ruleset, packet, connection_mark, &mut self)?;
        let before = trace.steps.iter();
        let before = before.take_while(|step| step.table != TableName::Filter);
        // The nat table sees only the first packet of a connection: a later one is translated without a step there.
        let mut steps = trace.steps.iter();
        let filter = steps.find(|step| step.table == TableName::Filter);
        let there = filter.or(before.clone().last()).map(|step| &step.packet);
        let there = there.unwrap_or(packet).clone();
        let rules = self.actual(&trace, &there);
        let translation = before
            .filter(|step| step.table == TableName::Nat)
            .find_map(|step| {
                let rule = rule_of(ruleset, step.table, step.walk.decided?)?;
                let is_nat = matches!(rule.target, Target::Nat(_));
                is_nat.then(|| (rule.line, rule.to_text(ruleset.family)))
            });
        let expected = self.expected(&there, connection_mark);
        // A packet that nothing translates or marks stays the same.
        let same = there == *packet && expected.packet == *packet;
        let entry = expected.translated.map(|end| end.entry);
        let entry = entry.and_then(|entry| self.walkers.policy.nat.get(entry));
        Ok(ComparedWalk {
            became: (!same).then(|| {
                Box::new(ArrivedPacket {
                    policy: expected.translated,
                    place: entry.map(|entry| entry.span),
                    rule: translation,
                    packet: there.clone(),
                })
            }),
            same_path: end_of(&there) == end_of(&expected.packet),
            policy: Expected {
                logs: {
                    let logs = expected.decision.logs.iter();
                    let policy = self.walkers.policy;
                    logs.map(|logged| LogLine::of_policy(policy, logged, packet.family))
                        .collect()
                },
                place: place(self.walkers.policy, &expected.decision, packet),
                decision: expected.decision,
            },
            rules,
            when: Vec::new(),
            packet: packet.clone(),
        })
    }

    /// Returns the result of the policy. The interpreter of the policy does not read custom rules, so if there are any in
    /// front of the filter table, it starts there with the packet that the rules made.
    fn expected(&self, there: &Packet, connection_mark: u32) -> PolicyTrace {
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

    fn actual(&self, trace: &iptables::WalkTrace, there: &Packet) -> Actual {
        let ruleset = self.walkers.ruleset;
        // The verdict is that of the table that stopped the packet, or else of the filter table.
        let passes = |verdict: &iptables::WalkVerdict| match verdict {
            iptables::WalkVerdict::Accept => true,
            iptables::WalkVerdict::Other(target) => matches!(**target, Target::Nat(_)),
            _ => false,
        };
        let mut steps = trace.steps.iter();
        let last = steps.clone().next_back();
        let stops = last.filter(|step| !passes(&step.walk.verdict));
        let step = stops.or_else(|| steps.find(|step| step.table == TableName::Filter));
        let Some(step) = step else {
            return Actual {
                verdict: trace.verdict.clone(),
                table: TableName::Filter,
                rule: None,
                custom: false,
                logs: Vec::new(),
            };
        };
        self.walkers
            .actual_in(ruleset, step.table, &step.walk, there.family)
    }

    /// Returns whether the condition with a key holds for the packet as it is now; `None` if the witness does not depend on
    /// it.
    fn is(&self, key: &str, packet: &Packet) -> Option<bool> {
        let holds = |key: &str| {
            let mut known = self.witness.conditions.iter();
            let known = known.find(|(other, _)| other == key);
            known.map(|(_, holds)| *holds)
        };
        let first = &self.witness.packet;
        let moved = (packet.destination, packet.destination_port)
            != (first.destination, first.destination_port);
        // The analysis has one condition for the destination before DNAT and one for the destination after it. A DNAT to
        // the destination that the packet had already leaves `moved` false, so either condition serves as a fallback.
        let (before, after) = (holds(key), holds(&after_translation(key)));
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

/// Returns the properties of a packet that the tables in front of filter may change.
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

impl Chance for WitnessWalk<'_> {
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

impl Unknowns for WitnessWalk<'_> {
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
            // Log lines are compared as if no rate limit suppressed them: the limit is part of the line.
            return Some(true);
        }
        let holds = |condition: &Condition| self.condition(condition, packet);
        walkers
            .has_member(condition, packet)
            .or_else(|| walkers.normalised.holds(table, rule, condition, holds))
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

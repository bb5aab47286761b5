//! The comparison of the specification of the policy with the rules, in one family.

use super::both_sides::{BothSides, NoWitness, contradiction};
use super::condition::Condition;
use super::files::RenderedRules;
use super::proof::{Disagreement, DisagreementKind, Proof};
use super::spec::Spec;
use super::spec::mangle;
use super::spec::matching::Matching;
use super::spec::nat;
use super::spec::raw;
use super::verifier::Specified;
use crate::analysis::{BaseChain, Effect, Flow, GaveUp, Set, Space, TextError, Verdict};
use crate::iptables::{Ruleset, TableName};
use crate::net::Hook;
use crate::policy::{NatChain, Policy};
use crate::resolve::Plan;

mod logs;
mod shape;

/// Compares policy and rules in one family.
pub(super) fn family_proof(
    policy: &Policy,
    plan: &Plan,
    rules: &RenderedRules,
    Specified { space, spec }: &Specified,
) -> Proof {
    let family = space.family();
    let ruleset = rules.ruleset(family);
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let mut proof = Proof {
        rules: chains.map(|chain| chain.rules.len()).sum(),
        ..Proof::default()
    };
    let mut prover = Prover {
        policy,
        plan,
        rules,
        ruleset,
        space,
        proof: &mut proof,
    };
    let proven = spec.as_ref().map_err(|gave_up| *gave_up);
    if let Err(gave_up) = proven.and_then(|spec| prover.family(spec)) {
        proof.gave_up.push((family, gave_up));
    }
    let keys = (0..).map_while(|number| space.opaque_key(number));
    proof
        .whatever
        .extend(keys.map(|key| Condition::words(&key)));
    proof
}

/// The approximate maximum of example packets that walk through the rules of a family after the comparison of sets.
const MOST_WALKED: usize = 250;

/// The approximate maximum of policy rules that these packets meet in total: a walk is linear in the number of rules, so
/// large policies get fewer walks.
const MOST_MET: usize = 1_000_000;

/// The comparison of one family.
struct Prover<'a> {
    policy: &'a Policy,
    plan: &'a Plan,
    rules: &'a RenderedRules,
    ruleset: &'a Ruleset,
    space: &'a Space,
    proof: &'a mut Proof,
}

impl Prover<'_> {
    fn family(&mut self, spec: &Spec) -> Result<(), GaveUp> {
        self.declarations();
        self.sets();
        let (policy, plan, space) = (self.policy, self.plan, self.space);
        let sides = match BothSides::new(policy, plan, self.rules, space, spec) {
            Ok(sides) => sides,
            Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
            Err(error) => {
                self.found(DisagreementKind::Unreadable(error));
                return Ok(());
            }
        };
        for (line, text) in &sides.normalised.strange {
            self.found(DisagreementKind::UnexpectedLog(*line, text.clone()));
        }
        self.structure(&sides);
        self.sources(&sides)?;
        for chain in CHAINS {
            self.translations(&sides, chain)?;
        }
        for chain in BaseChain::ALL {
            self.treatments(&sides, (TableName::Raw, chain))?;
            if sides.customs.any_in(TableName::Nat) {
                self.treatments(&sides, (TableName::Nat, chain))?;
            }
            self.treatments(&sides, (TableName::Mangle, chain))?;
            for table in [TableName::Raw, TableName::Mangle, TableName::Nat] {
                self.entry_logs(&sides, (table, chain))?;
            }
        }
        for hook in Hook::ALL {
            self.verdicts(&sides, hook)?;
            self.logs(&sides, hook)?;
        }
        self.double_counts(&sides)?;
        if self.proof.disagreements.is_empty() {
            self.walk_rules(&sides)?;
        }
        Ok(())
    }

    /// Reports chains with limits or logs that a packet can pass twice.
    fn double_counts(&mut self, sides: &BothSides<'_>) -> Result<(), GaveUp> {
        for twice in sides.double_counts()? {
            let hook = Hook::ALL
                .into_iter()
                .find(|hook| BaseChain::from(*hook) == twice.base);
            let hook = hook.filter(|_| twice.table == TableName::Filter);
            let walked = hook
                .map(|hook| sides.walk(hook, twice.packets))
                .transpose()?;
            self.found(match walked {
                Some(Ok(walked)) if !walked.same_logs() => DisagreementKind::Logs(walked),
                _ => DisagreementKind::CountedTwice {
                    table: twice.table,
                    chain: twice.chain,
                },
            });
        }
        Ok(())
    }

    fn found(&mut self, what: DisagreementKind) {
        let family = self.space.family();
        self.proof.disagreements.push(Disagreement { family, what });
    }

    /// Compares the packets that the raw table drops as they arrive: by antispoof or by an entry.
    fn sources(&mut self, sides: &BothSides<'_>) -> Result<(), GaveUp> {
        let place = (TableName::Raw, BaseChain::Prerouting);
        let expected = sides.spec.behaviour.flow(self.space, place);
        let actual = sides.text.flow(self.space, place);
        if !sides.spec.behaviour.flows.contains_key(&place) {
            return Ok(());
        }
        let packets = self.space.ends_differ(expected.verdicts, actual.verdicts)?;
        if packets == self.space.none() {
            return Ok(());
        }
        let what = match sides.walk(Hook::Input, packets)? {
            Ok(walked) if !walked.same_source() => DisagreementKind::Verdict(walked),
            // The walker of the policy does not read custom rules, so it cannot confirm the difference.
            Ok(_) if sides.customs.any_in(TableName::Raw) => {
                let (table, chain) = place;
                DisagreementKind::CustomPlace { table, chain }
            }
            other => contradiction(
                other,
                "the raw table differs for a set of packets, but not for one of them",
            ),
        };
        self.found(what);
        Ok(())
    }

    /// Compares the effects on packets in a chain of the raw, mangle or (with custom rules) nat table.
    fn treatments(
        &mut self,
        sides: &BothSides<'_>,
        place: (TableName, BaseChain),
    ) -> Result<(), GaveUp> {
        // Rules in a chain that the policy does not use were reported by `structure`.
        if !sides.spec.behaviour.flows.contains_key(&place) {
            return Ok(());
        }
        let (expected, actual) = self.without_logs(sides, place);
        if expected == actual {
            return Ok(());
        }
        let sources = place == (TableName::Raw, BaseChain::Prerouting);
        let ends = || self.space.ends_differ(expected.verdicts, actual.verdicts);
        if sources && ends()? != self.space.none() {
            // The verdicts differ, which `sources` reported.
            return Ok(());
        }
        let packets = self.differing(sides, place)?;
        if packets != self.space.none() && sides.customs.any_in(place.0) {
            // The walker of the policy does not read custom rules, so it cannot confirm the difference.
            let (table, chain) = place;
            self.found(DisagreementKind::CustomPlace { table, chain });
            return Ok(());
        }
        if packets != self.space.none() {
            let what = match sides.treat(place, packets)? {
                Ok(treated) if !treated.same() => DisagreementKind::Treatment(treated),
                Ok(treated) => DisagreementKind::Internal(
                    None,
                    format!(
                        "a set of packets has other effects, but its packet {} has not",
                        treated.packet
                    ),
                ),
                Err(no_witness) => no_witness.into(),
            };
            self.found(what);
        }
        Ok(())
    }

    /// Returns what policy and rules do in a base chain of the raw, mangle or nat table, without the logs of entries.
    fn without_logs(&self, sides: &BothSides<'_>, place: (TableName, BaseChain)) -> (Flow, Flow) {
        let mut expected = sides.spec.behaviour.flow(self.space, place);
        let mut actual = sides.text.flow(self.space, place);
        let logs = &sides.spec.entry_logs;
        expected
            .effects
            .retain(|effect, _| !logs.contains_key(effect));
        let lines = &sides.normalised.logs;
        actual
            .effects
            .retain(|effect, _| !lines.contains_key(effect));
        (expected, actual)
    }

    /// Returns the packets that policy and rules treat differently in a base chain.
    fn differing(
        &self,
        sides: &BothSides<'_>,
        place: (TableName, BaseChain),
    ) -> Result<Set, GaveUp> {
        let all = sides.spec.behaviour.differences(self.space, &sides.text)?;
        let is_log = |effect: &Effect| {
            sides.spec.entry_logs.contains_key(effect) || sides.normalised.logs.contains_key(effect)
        };
        let here = all.into_iter().filter(|difference| {
            (difference.table, difference.chain) == place
                && !difference.effect.as_ref().is_some_and(is_log)
        });
        self.space.any(here.map(|difference| difference.packets))
    }

    /// Returns the packets of a set that the raw table lets through to a hook, by the policy and by the rules. A packet that
    /// the raw table drops shows no difference in the filter table.
    pub(super) fn passing_raw(
        &self,
        sides: &BothSides<'_>,
        hook: Hook,
        packets: Set,
    ) -> Result<Set, GaveUp> {
        let chain = match hook {
            Hook::Output => BaseChain::Output,
            Hook::Input | Hook::Forward => BaseChain::Prerouting,
        };
        let place = (TableName::Raw, chain);
        let mut passing = packets;
        for behaviour in [&sides.spec.behaviour, &sides.text] {
            let verdicts = behaviour.flow(self.space, place).verdicts;
            let dropped = self.space.decided(verdicts, &Verdict::Drop)?;
            passing = self.space.minus(passing, dropped)?;
        }
        Ok(passing)
    }

    fn verdicts(&mut self, sides: &BothSides<'_>, hook: Hook) -> Result<(), GaveUp> {
        let place = (TableName::Filter, BaseChain::from(hook));
        let expected = sides.spec.behaviour.flow(self.space, place).verdicts;
        let actual = sides.text.flow(self.space, place).verdicts;
        if expected == actual {
            return Ok(());
        }
        let packets = self.space.differ(expected, actual)?;
        let packets = self.passing_raw(sides, hook, packets)?;
        if packets == self.space.none() {
            self.found(DisagreementKind::DroppedBefore(place.1));
            return Ok(());
        }
        let what = match sides.walk(hook, packets)? {
            Ok(walked) if !walked.same_verdict() => DisagreementKind::Verdict(walked),
            other => contradiction(
                other,
                "the verdicts of a set of packets differ, but not those of one of them",
            ),
        };
        self.found(what);
        Ok(())
    }

    /// Compares the translations in a chain of the nat table.
    fn translations(&mut self, sides: &BothSides<'_>, chain: NatChain) -> Result<(), GaveUp> {
        let place = (TableName::Nat, nat::base_chain(chain));
        let (expected, actual) = self.without_logs(sides, place);
        if expected == actual {
            return Ok(());
        }
        if sides.customs.any_in(TableName::Nat) {
            // `treatments` compares the nat table then: the walker of the policy does not read custom rules.
            return Ok(());
        }
        let packets = self.space.differ(expected.verdicts, actual.verdicts)?;
        let how = "a chain of the nat table differs for a set of packets, but not for one of them";
        let what = match sides.translate(chain, packets)? {
            Ok(translated) if !translated.same_end() => DisagreementKind::Translation(translated),
            Ok(_) => DisagreementKind::Internal(None, how.to_owned()),
            Err(no_witness) => no_witness.into(),
        };
        self.found(what);
        Ok(())
    }

    /// Walks one packet of an entry by policy and by rules.
    fn walk_entry(
        &mut self,
        sides: &BothSides<'_>,
        place: (TableName, BaseChain),
        packets: Set,
    ) -> Result<(), GaveUp> {
        if packets == self.space.none() || sides.customs.any_in(place.0) {
            return Ok(());
        }
        self.proof.walked += 1;
        match sides.treat(place, packets)? {
            Ok(treated) if treated.same() => {}
            // Two entries may have the same effect on a packet, which the packet sets do not show.
            Ok(treated) => self.found(DisagreementKind::Treatment(treated)),
            Err(NoWitness::Unseen(_)) => {}
            Err(no_witness) => self.found(no_witness.into()),
        }
        Ok(())
    }

    /// Walks one packet of each rule and entry (of some, if there are many) by policy and by rules, although their packet sets
    /// are equal: the walkers share no code with the sets, and find what sets cannot show.
    fn walk_rules(&mut self, sides: &BothSides<'_>) -> Result<(), GaveUp> {
        let how = "the walkers differ, but the packet sets do not";
        let apart = sides.spec.translated.len().div_ceil(MOST_WALKED).max(1);
        let readable = !sides.customs.any_in(TableName::Nat);
        let entries = sides.spec.translated.iter().filter(|_| readable);
        for (chain, index, packets) in entries.step_by(apart) {
            self.proof.walked += 1;
            if self.plan.nat[*index].packets.log.is_some() {
                let place = (TableName::Nat, nat::base_chain(*chain));
                self.walk_entry(sides, place, *packets)?;
            }
            match sides.translate(*chain, *packets)? {
                Ok(translated) if translated.same_end() => {}
                Err(NoWitness::Unseen(_)) => {}
                Ok(_) => self.found(DisagreementKind::Internal(None, how.to_owned())),
                Err(no_witness) => self.found(no_witness.into()),
            }
        }
        for chain in BaseChain::ALL {
            for index in 0..self.plan.raw.len() {
                let packets = raw::packets(self.plan, self.space, index, chain)?;
                self.walk_entry(sides, (TableName::Raw, chain), packets)?;
            }
            for index in 0..self.plan.mangle.len() {
                let packets = mangle::packets(self.plan, self.space, index, chain)?;
                self.walk_entry(sides, (TableName::Mangle, chain), packets)?;
            }
        }
        let rules = self.plan.rules.len();
        let most = (MOST_MET / rules.max(1)).clamp(1, MOST_WALKED);
        let apart = rules.div_ceil(most).max(1);
        for (index, rule) in self.plan.rules.iter().enumerate().step_by(apart) {
            for hook in Hook::ALL {
                let matching = Matching {
                    plan: self.plan,
                    space: self.space,
                    hook,
                };
                let mut packets = matching.rule(rule)?;
                if packets == self.space.none() {
                    continue;
                }
                // If the rule logs, take a packet that reaches it, so that the log line is compared too.
                let logged = sides.spec.logged(self.space, hook, index);
                packets = logged.unwrap_or(packets);
                self.proof.walked += 1;
                match sides.walk(hook, packets)? {
                    Ok(walked) if walked.same_verdict() && walked.same_logs() => {}
                    // A set of logged packets does not show that a packet is logged twice.
                    Ok(walked) if walked.same_verdict() => {
                        self.found(DisagreementKind::Logs(walked))
                    }
                    Err(NoWitness::Unseen(_)) => {}
                    other => self.found(contradiction(other, how)),
                }
            }
        }
        Ok(())
    }
}

/// The chains of the nat table in which policies translate.
const CHAINS: [NatChain; 3] = [
    NatChain::Prerouting,
    NatChain::Output,
    NatChain::Postrouting,
];

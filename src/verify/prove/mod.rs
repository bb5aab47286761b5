//! spec = text: the policy's behaviour held against the rules'.

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
use crate::analysis::{BaseChain, GaveUp, Set, Space, TextError};
use crate::iptables::{Ruleset, TableName};
use crate::net::Hook;
use crate::policy::{NatChain, Policy};
use crate::resolve::Plan;

mod logs;
mod shape;

/// Proves one family.
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

/// At most about so many packets of rules are walked in a family besides the proof.
const MOST_WALKED: usize = 250;

/// At most about so many rules of the policy are met on their ways.
const MOST_MET: usize = 1_000_000;

/// One family on its way to a proof.
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
        let views = match BothSides::new(policy, plan, self.rules, space, spec) {
            Ok(views) => views,
            Err(TextError::GaveUp(gave_up)) => return Err(gave_up),
            Err(error) => {
                self.found(DisagreementKind::Unreadable(error));
                return Ok(());
            }
        };
        for (line, text) in &views.tagged.strange {
            self.found(DisagreementKind::StrangeLog(*line, text.clone()));
        }
        self.structure(&views);
        self.sources(&views)?;
        for chain in CHAINS {
            self.translations(&views, chain)?;
        }
        for chain in BaseChain::ALL {
            self.treatments(&views, (TableName::Raw, chain))?;
            if views.customs.any_in(TableName::Nat) {
                self.treatments(&views, (TableName::Nat, chain))?;
            }
            self.treatments(&views, (TableName::Mangle, chain))?;
        }
        for hook in Hook::ALL {
            self.verdicts(&views, hook)?;
            self.logs(&views, hook)?;
        }
        self.twice(&views)?;
        if self.proof.disagreements.is_empty() {
            self.walk_rules(&views)?;
        }
        Ok(())
    }

    /// Nothing that counts is met twice.
    fn twice(&mut self, views: &BothSides<'_>) -> Result<(), GaveUp> {
        for twice in views.twice()? {
            let hook = Hook::ALL
                .into_iter()
                .find(|hook| BaseChain::from(*hook) == twice.base);
            let hook = hook.filter(|_| twice.table == TableName::Filter);
            let walked = hook
                .map(|hook| views.walk(hook, twice.packets))
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

    /// Which sources are dropped before anything else.
    fn sources(&mut self, views: &BothSides<'_>) -> Result<(), GaveUp> {
        let place = (TableName::Raw, BaseChain::Prerouting);
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        if !views.spec.behaviour.flows.contains_key(&place) {
            return Ok(());
        }
        let packets = self.space.ends_differ(says.verdicts, does.verdicts)?;
        if packets == self.space.none() {
            return Ok(());
        }
        let what = match views.walk(Hook::Input, packets)? {
            Ok(walked) if !walked.same_source() => DisagreementKind::Verdict(walked),
            // Nobody but iptables can read what custom rules do with one packet.
            Ok(_) if views.customs.any_in(TableName::Raw) => {
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

    /// What is done to packets in the raw and the mangle table.
    fn treatments(
        &mut self,
        views: &BothSides<'_>,
        place: (TableName, BaseChain),
    ) -> Result<(), GaveUp> {
        let (spec, text) = (&views.spec.behaviour, &views.text);
        // Rules of a chain for which the policy has no entry were found already.
        if !spec.flows.contains_key(&place)
            || spec.flow(self.space, place) == text.flow(self.space, place)
        {
            return Ok(());
        }
        let (says, does) = (spec.flow(self.space, place), text.flow(self.space, place));
        let sources = place == (TableName::Raw, BaseChain::Prerouting);
        let ends = || self.space.ends_differ(says.verdicts, does.verdicts);
        if sources && ends()? != self.space.none() {
            // What is dropped here was compared before: nothing else happens to it.
            return Ok(());
        }
        let packets = self.differing(views, place)?;
        if packets != self.space.none() && views.customs.any_in(place.0) {
            // Nobody but iptables can read what custom rules do with one packet.
            let (table, chain) = place;
            self.found(DisagreementKind::CustomPlace { table, chain });
            return Ok(());
        }
        if packets != self.space.none() {
            let what = match views.treat(place, packets)? {
                Ok(treated) if !treated.same() => DisagreementKind::Treatment(treated),
                Ok(treated) => DisagreementKind::Internal(
                    None,
                    format!(
                        "a set of packets is changed otherwise, {} is not",
                        treated.packet
                    ),
                ),
                Err(NoWitness::Unseen(chain)) => DisagreementKind::Unseen(chain),
                Err(NoWitness::NoWalk(error)) => {
                    DisagreementKind::Internal(None, error.to_string())
                }
            };
            self.found(what);
        }
        Ok(())
    }

    /// The packets with which policy and rules do not do the same at a base chain.
    fn differing(
        &self,
        views: &BothSides<'_>,
        place: (TableName, BaseChain),
    ) -> Result<Set, GaveUp> {
        let all = views.spec.behaviour.differences(self.space, &views.text)?;
        let here = all
            .into_iter()
            .filter(|difference| (difference.table, difference.chain) == place);
        self.space.any(here.map(|difference| difference.packets))
    }

    fn verdicts(&mut self, views: &BothSides<'_>, hook: Hook) -> Result<(), GaveUp> {
        let place = (TableName::Filter, BaseChain::from(hook));
        let says = views.spec.behaviour.flow(self.space, place).verdicts;
        let does = views.text.flow(self.space, place).verdicts;
        if says == does {
            return Ok(());
        }
        let packets = self.space.differ(says, does)?;
        let what = match views.walk(hook, packets)? {
            Ok(walked) if !walked.same_verdict() => DisagreementKind::Verdict(walked),
            other => contradiction(
                other,
                "the verdicts of a set of packets differ, those of one of them do not",
            ),
        };
        self.found(what);
        Ok(())
    }

    /// What each chain of the nat table makes of every packet.
    fn translations(&mut self, views: &BothSides<'_>, chain: NatChain) -> Result<(), GaveUp> {
        let place = (TableName::Nat, nat::base_chain(chain));
        let says = views.spec.behaviour.flow(self.space, place);
        let does = views.text.flow(self.space, place);
        if says == does {
            return Ok(());
        }
        if views.customs.any_in(TableName::Nat) {
            // Compared as the other tables are: nobody but iptables can read what custom rules do with one packet.
            return Ok(());
        }
        let packets = self.space.differ(says.verdicts, does.verdicts)?;
        let how = "a chain of the nat table differs for a set of packets, but not for one of them";
        let what = match views.translate(chain, packets)? {
            Ok(translated) if !translated.same_end() => DisagreementKind::Translation(translated),
            Ok(_) => DisagreementKind::Internal(None, how.to_owned()),
            Err(NoWitness::Unseen(chain)) => DisagreementKind::Unseen(chain),
            Err(NoWitness::NoWalk(error)) => DisagreementKind::Internal(None, error.to_string()),
        };
        self.found(what);
        Ok(())
    }

    /// A packet of an entry through both walkers.
    fn walk_entry(
        &mut self,
        views: &BothSides<'_>,
        place: (TableName, BaseChain),
        packets: Set,
    ) -> Result<(), GaveUp> {
        if packets == self.space.none() || views.customs.any_in(place.0) {
            return Ok(());
        }
        self.proof.walked += 1;
        match views.treat(place, packets)? {
            Ok(treated) if treated.same() => {}
            // Two entries may do the same to a packet, which a set does not show.
            Ok(treated) => self.found(DisagreementKind::Treatment(treated)),
            Err(NoWitness::Unseen(_)) => {}
            Err(NoWitness::NoWalk(error)) => {
                self.found(DisagreementKind::Internal(None, error.to_string()));
            }
        }
        Ok(())
    }

    /// A packet of each rule and nat entry through both walkers, of many rules of some: a view of its own beside the sets.
    fn walk_rules(&mut self, views: &BothSides<'_>) -> Result<(), GaveUp> {
        let how = "the walkers differ where the sets do not";
        let apart = views.spec.translated.len().div_ceil(MOST_WALKED).max(1);
        let readable = !views.customs.any_in(TableName::Nat);
        let entries = views.spec.translated.iter().filter(|_| readable);
        for (chain, _, packets) in entries.step_by(apart) {
            self.proof.walked += 1;
            match views.translate(*chain, *packets)? {
                Ok(translated) if translated.same_end() => {}
                Err(NoWitness::Unseen(_)) => {}
                Ok(_) => self.found(DisagreementKind::Internal(None, how.to_owned())),
                Err(NoWitness::NoWalk(error)) => {
                    self.found(DisagreementKind::Internal(None, error.to_string()));
                }
            }
        }
        for chain in BaseChain::ALL {
            for entry in &self.plan.raw {
                let packets = raw::packets(self.plan, self.space, entry, chain)?;
                self.walk_entry(views, (TableName::Raw, chain), packets)?;
            }
            for entry in &self.plan.mangle {
                let packets = mangle::packets(self.plan, self.space, entry, chain)?;
                self.walk_entry(views, (TableName::Mangle, chain), packets)?;
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
                // Where the rule logs, a packet that comes so far.
                let logged = views.spec.logged(self.space, hook, index);
                packets = logged.unwrap_or(packets);
                self.proof.walked += 1;
                match views.walk(hook, packets)? {
                    Ok(walked) if walked.same_verdict() && walked.same_logs() => {}
                    // A packet that comes by a log line twice is in its set once.
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

/// The chains of the nat table where policies translate.
const CHAINS: [NatChain; 3] = [
    NatChain::Prerouting,
    NatChain::Output,
    NatChain::Postrouting,
];

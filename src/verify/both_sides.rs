//! A family's rules in every view, and packets taken through them.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::condition::Condition;
use super::double_count::{DoubleCount, twice};
use super::files::RenderedRules;
use super::normalised::{Normalised, goes_on, open_ended};
use super::proof::DisagreementKind;
use super::spec::Spec;
use super::spec::custom::Customs;
use super::spec::matching::set_name;
use super::spec::nat;
use super::translated::ComparedTranslation;
use super::walkers::{ComparedEffects, ComparedWalk, Walkers};
use crate::analysis::{
    BaseChain, Behaviour, Conditions, Effect, Field, GaveUp, Reading, Set, Space, TextError,
    Verdict, Verdicts, Witness, ends_key,
};
use crate::iptables::{self, ConnectionFacts, Match, NoWalk, RuleId, Ruleset, TableName, Target};
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{NatChain, Policy};
use crate::resolve::{Members, Plan};

/// What the policy says and what the rules do in the space's family.
pub(super) struct BothSides<'a> {
    pub policy: &'a Policy,
    pub plan: &'a Plan,
    pub ruleset: Cow<'a, Ruleset>,
    pub space: &'a Space,
    /// The members of the sets that the policy fills.
    pub members: BTreeMap<String, IntervalSet>,
    pub spec: &'a Spec,
    pub tagged: Normalised,
    pub customs: Customs,
    pub text: Behaviour,
}

impl<'a> BothSides<'a> {
    /// Reads the rules of the family. An error says why they have no behaviour.
    pub fn new(
        policy: &'a Policy,
        plan: &'a Plan,
        rules: &'a RenderedRules,
        space: &'a Space,
        spec: &'a Spec,
    ) -> Result<Self, TextError> {
        let family = space.family();
        let ruleset = match plan.is_shared() {
            true => Cow::Owned(open_ended(rules.ruleset(family))),
            false => Cow::Borrowed(rules.ruleset(family)),
        };
        let members = known_members(plan, rules, family);
        let customs = Customs::new(plan, family);
        let tagged = Normalised::with_customs(
            &ruleset,
            |name| members.contains_key(name),
            |table, chain, rule| customs.has(table, chain, rule, family),
        );
        let reading = Reading {
            sets: &members,
            is_reassembled: true,
            ..Reading::default()
        };
        let text = Behaviour::of(space, &tagged.ruleset, &reading)?;
        Ok(Self {
            policy,
            plan,
            ruleset,
            space,
            members,
            spec,
            tagged,
            customs,
            text,
        })
    }

    /// A packet of the set both ways, under the circumstances that make it one.
    pub fn walk(
        &self,
        hook: Hook,
        packets: Set,
    ) -> Result<Result<Box<ComparedWalk>, NoWitness>, GaveUp> {
        let prefer = [self.honest()?, self.between_interfaces(hook)?];
        let witness = self.space.witness(packets, hook.into(), &prefer)?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(hook.into())));
        };
        let walked = self.taken(&witness, |walkers, holds| {
            walkers.walk(witness.packet.clone(), holds)
        });
        let when = when(&witness);
        Ok(walked.map(|walked| Box::new(ComparedWalk { when, ..walked })))
    }

    /// A packet of the set through a base chain of the raw or the mangle table both ways.
    pub fn treat(
        &self,
        place: (TableName, BaseChain),
        packets: Set,
    ) -> Result<Result<Box<ComparedEffects>, NoWitness>, GaveUp> {
        // Whoever walks knows no connection with a mark.
        let unmarked = self.space.connection_mark(0, u32::MAX)?;
        let packets = self.space.and(packets, unmarked)?;
        let witness = self.space.witness(packets, place.1, &[self.honest()?])?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(place.1)));
        };
        let treated = self.taken(&witness, |walkers, holds| {
            walkers.treat(&witness.packet, place, holds)
        });
        let when = when(&witness);
        Ok(treated.map(|treated| Box::new(ComparedEffects { when, ..treated })))
    }

    /// A packet of the set both ways through a chain of the nat table.
    pub fn translate(
        &self,
        chain: NatChain,
        packets: Set,
    ) -> Result<Result<Box<ComparedTranslation>, NoWitness>, GaveUp> {
        let base = nat::base_chain(chain);
        let witness = self.space.witness(packets, base, &[self.honest()?])?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(base)));
        };
        let translated = self.taken(&witness, |walkers, holds| {
            walkers.translate(witness.packet.clone(), chain, holds)
        });
        let when = when(&witness);
        Ok(translated.map(|translated| Box::new(ComparedTranslation { when, ..translated })))
    }

    /// Asks the walkers about a packet, under the circumstances that it shows.
    pub(super) fn taken<T>(
        &self,
        witness: &Witness,
        walk: impl FnOnce(Walkers<'_>, &dyn Fn(&Condition) -> bool) -> Result<T, NoWalk>,
    ) -> Result<T, NoWitness> {
        let family = self.space.family();
        let reading = Reading {
            sets: &self.members,
            is_reassembled: true,
            ..Reading::default()
        };
        // Seldom asked, and then for many rules.
        let tagged = OnceCell::new();
        let strange = |rules: Option<&Ruleset>, rule: (TableName, RuleId), condition: &Match| {
            let conditions = |rules: &Ruleset| Conditions::new(self.space, rules, &reading).ok();
            let own;
            let conditions = match rules {
                Some(rules) => {
                    own = conditions(rules);
                    &own
                }
                None => tagged.get_or_init(|| conditions(&self.tagged.ruleset)),
            };
            let holds = conditions
                .as_ref()
                .and_then(|all| all.hold(rule, condition, witness.value()).ok());
            // Whoever gives up here has given up before.
            holds.unwrap_or(true)
        };
        let ends = |target: &Target| {
            let key = ends_key(target);
            let mut known = witness.conditions.iter();
            known.any(|(other, holds)| *holds && *other == key)
        };
        let walkers = Walkers {
            strange: &strange,
            ends: &ends,
            connection: ConnectionFacts {
                mark: connection_mark(witness),
                first: None,
            },
            policy: self.policy,
            spec: self.spec,
            tagged: &self.tagged,
            customs: &self.customs,
            ruleset: &self.ruleset,
            members: &self.members,
        };
        let holds = |condition: &Condition| {
            let key = condition.key(family);
            let known = witness.conditions.iter().find(|(other, _)| *other == key);
            known.map_or_else(|| condition.usual(), |(_, holds)| *holds)
        };
        walk(walkers, &holds).map_err(NoWitness::NoWalk)
    }

    /// Where packets come twice to what counts.
    pub fn twice(&self) -> Result<Vec<DoubleCount>, GaveUp> {
        let reading = Reading {
            sets: &self.members,
            is_reassembled: true,
            ..Reading::default()
        };
        twice(self.space, &self.tagged, &reading)
    }

    /// The packets that have one effect before they come to another's rule.
    pub fn logged_before(&self, hook: Hook, first: &Effect, last: &Effect) -> Result<Set, GaveUp> {
        let mut stopped = self.tagged.ruleset.clone();
        let tables = stopped.tables.iter_mut();
        let chains = tables.flat_map(|table| &mut table.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            if rule.target.to_text().strip_prefix("-j ") == Some(last) {
                rule.target = iptables::Target::Drop;
            }
        }
        let reading = Reading {
            sets: &self.members,
            is_reassembled: true,
            ..Reading::default()
        };
        match Behaviour::of(self.space, &stopped, &reading) {
            Ok(text) => {
                let place = (TableName::Filter, BaseChain::from(hook));
                let effects = text.flow(self.space, place).effects;
                Ok(effects.get(first).copied().unwrap_or(self.space.none()))
            }
            Err(TextError::GaveUp(gave_up)) => Err(gave_up),
            // The whole ruleset has a behaviour, and so has this.
            Err(_) => Ok(self.space.none()),
        }
    }

    /// What the raw table does before routing, where it is not empty.
    pub fn raw(&self) -> Verdicts {
        let place = (TableName::Raw, BaseChain::Prerouting);
        self.text.flow(self.space, place).verdicts
    }

    /// Packets whose source is where it may be.
    pub(super) fn honest(&self) -> Result<Set, GaveUp> {
        let place = (TableName::Raw, BaseChain::Prerouting);
        let raw = self.spec.behaviour.flow(self.space, place).verdicts;
        self.space.decided(raw, &Verdict::Accept)
    }

    /// Packets on devices that the policy names.
    pub(super) fn between_interfaces(&self, hook: Hook) -> Result<Set, GaveUp> {
        let patterns = || {
            self.plan
                .interfaces
                .iter()
                .flat_map(|interface| &interface.devices)
        };
        let any = |devices: Result<Vec<Set>, GaveUp>| match devices? {
            devices if devices.is_empty() => Ok(self.space.all()),
            devices => self.space.any(devices),
        };
        let came = patterns().map(|device| self.space.in_device(device.as_str()));
        let leaves = patterns().map(|device| self.space.out_device(device.as_str()));
        let (came, leaves) = (any(came.collect())?, any(leaves.collect())?);
        match hook {
            Hook::Input => Ok(came),
            Hook::Output => Ok(leaves),
            Hook::Forward => self.space.and(came, leaves),
        }
    }
}

/// The mark of the packet's connection.
pub(super) fn connection_mark(witness: &Witness) -> u32 {
    let value = witness.value();
    (0..32).fold(0, |mark, bit| {
        mark | (value(Field::ConnectionMark(bit)) as u32 & 1) << bit
    })
}

/// What else is so where the packet is one of its set, in words.
pub(super) fn when(witness: &Witness) -> Vec<(String, bool)> {
    let conditions = witness.conditions.iter();
    let besides = witness.besides().into_iter();
    let besides = besides.map(|(name, value)| (format!("{name} {value}"), true));
    conditions
        // Whether a choice of the kernel's is what was there before the walk shows.
        .filter(|(key, _)| !key.ends_with(CHANGES))
        .map(|(key, holds)| (Condition::words(key), *holds))
        .chain(besides)
        .collect()
}

/// How the analysis ends the name of the question whether a choice of the kernel's is what was there before.
const CHANGES: &str = " changes something";

/// The members of the sets of a family that the policy fills, by the names that the rules have for them.
pub fn known_members(
    plan: &Plan,
    rules: &RenderedRules,
    family: Family,
) -> BTreeMap<String, IntervalSet> {
    let mut members = BTreeMap::new();
    for set in &plan.sets {
        let name = set_name(&set.name, family);
        if let (Members::Static(_), Some(found)) = (&set.members, rules.sets.get(&name)) {
            members.insert(name, found.members.clone());
        }
    }
    members
}

/// The same rules with conditions that packets do not answer in the policy's words, as [`packets`](super::packets) has them:
/// [`condition_words`] reads them. Log lines are as if no rate kept them silent.
pub fn in_words_of_policy(ruleset: &Ruleset, members: &BTreeMap<String, IntervalSet>) -> Ruleset {
    Normalised::new(ruleset, |name| members.contains_key(name)).ruleset
}

/// Rules that stand beside others' rules: who comes to the end of a base chain of the filter table is left to those, which is
/// an end of its own ([`is_left_to_others`]).
pub fn beside_others(ruleset: &Ruleset) -> Ruleset {
    open_ended(ruleset)
}

/// Whether packets with this verdict are left to others' rules.
pub fn is_left_to_others(verdict: &Verdict) -> bool {
    *verdict == goes_on()
}

/// The words of a condition, from what the analysis calls it.
pub fn condition_words(key: &str) -> String {
    Condition::words(key)
}

/// Why no packet was walked.
pub(super) enum NoWitness {
    /// No kernel shows one of the set.
    Unseen(BaseChain),
    /// The rules cannot be walked.
    NoWalk(NoWalk),
}

/// What to say of a set of packets when one of them, walked, does not show how the set differs.
pub(super) fn contradiction(
    walked: Result<Box<ComparedWalk>, NoWitness>,
    how: &str,
) -> DisagreementKind {
    match walked {
        Ok(walked) => DisagreementKind::Internal(Some(walked), how.to_owned()),
        Err(NoWitness::Unseen(chain)) => DisagreementKind::Unseen(chain),
        Err(NoWitness::NoWalk(error)) => DisagreementKind::Internal(None, error.to_string()),
    }
}

//! Policy and rules of a family side by side, as packet sets, and packets that walk through both.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::condition::Condition;
use super::double_count::{DoubleCount, double_counts};
use super::files::RenderedRules;
use super::normalised::{Normalised, left_to_others, open_ended};
use super::proof::DisagreementKind;
use super::spec::Spec;
use super::spec::custom::Customs;
use super::spec::matching::set_name;
use super::spec::nat;
use super::translated::ComparedTranslation;
use super::walkers::{ComparedEffects, ComparedWalk, Walkers};
use crate::analysis::{
    BaseChain, Behaviour, Conditions, Effect, Field, GaveUp, Reading, Set, Space, TextError,
    Verdict, Witness, ends_key,
};
use crate::iptables::{self, ConnectionFacts, Match, NoWalk, RuleId, Ruleset, TableName, Target};
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{NatChain, Policy};
use crate::resolve::{Members, Plan};

/// The policy and the rules in the family of the space.
pub(super) struct BothSides<'a> {
    pub policy: &'a Policy,
    pub plan: &'a Plan,
    /// The rules as they are in the file; in shared mode with the end of [`beside_others`].
    pub ruleset: Cow<'a, Ruleset>,
    pub space: &'a Space,
    /// The members of the sets that the policy fills.
    pub members: BTreeMap<String, IntervalSet>,
    pub spec: &'a Spec,
    /// The rules as they are compared.
    pub normalised: Normalised,
    pub customs: Customs,
    /// What the rules do.
    pub text: Behaviour,
}

impl<'a> BothSides<'a> {
    /// Reads the rules of the family and computes what they do.
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
        let normalised = Normalised::with_customs(
            &ruleset,
            |name| members.contains_key(name),
            |table, chain, rule| customs.has(table, chain, rule, family),
        );
        let text = Behaviour::of(space, &normalised.ruleset, &reading(&members))?;
        Ok(Self {
            policy,
            plan,
            ruleset,
            space,
            members,
            spec,
            normalised,
            customs,
            text,
        })
    }

    /// Walks one packet of a set through raw and filter, by policy and by rules, under the circumstances that put it into the
    /// set.
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
        let walked = self.with_circumstances(&witness, |walkers, holds| {
            walkers.walk(witness.packet.clone(), holds)
        });
        let when = when(&witness);
        Ok(walked.map(|walked| Box::new(ComparedWalk { when, ..walked })))
    }

    /// Walks one packet of a set through a base chain of the raw or the mangle table, by policy and by rules.
    pub fn treat(
        &self,
        place: (TableName, BaseChain),
        packets: Set,
    ) -> Result<Result<Box<ComparedEffects>, NoWitness>, GaveUp> {
        // The walk of the policy starts with a connection mark of 0.
        let unmarked = self.space.connection_mark(0, u32::MAX)?;
        let packets = self.space.and(packets, unmarked)?;
        let witness = self.space.witness(packets, place.1, &[self.honest()?])?;
        let Some(witness) = witness.filter(|witness| witness.possible) else {
            return Ok(Err(NoWitness::Unseen(place.1)));
        };
        let treated = self.with_circumstances(&witness, |walkers, holds| {
            walkers.treat(&witness.packet, place, holds)
        });
        let when = when(&witness);
        Ok(treated.map(|treated| Box::new(ComparedEffects { when, ..treated })))
    }

    /// Walks one packet of a set through a chain of the nat table, by policy and by rules.
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
        let translated = self.with_circumstances(&witness, |walkers, holds| {
            walkers.translate(witness.packet.clone(), chain, holds)
        });
        let when = when(&witness);
        Ok(translated.map(|translated| Box::new(ComparedTranslation { when, ..translated })))
    }

    /// Runs a walk with the circumstances of a witness.
    pub(super) fn with_circumstances<T>(
        &self,
        witness: &Witness,
        walk: impl FnOnce(Walkers<'_>, &dyn Fn(&Condition) -> bool) -> Result<T, NoWalk>,
    ) -> Result<T, NoWitness> {
        let family = self.space.family();
        let reading = reading(&self.members);
        // Computed on the first use: few walks need it, but those ask for many rules.
        let normalised = OnceCell::new();
        let strange = |rules: Option<&Ruleset>, rule: (TableName, RuleId), condition: &Match| {
            let conditions = |rules: &Ruleset| Conditions::new(self.space, rules, &reading).ok();
            let own;
            let conditions = match rules {
                Some(rules) => {
                    own = conditions(rules);
                    &own
                }
                None => normalised.get_or_init(|| conditions(&self.normalised.ruleset)),
            };
            let holds = conditions
                .as_ref()
                .and_then(|all| all.hold(rule, condition, witness.value()).ok());
            // These conditions were read before, when the rules became packet sets, so that giving up here is not possible.
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
            normalised: &self.normalised,
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

    /// Finds the chains with limits or logs that a packet can pass twice.
    pub fn double_counts(&self) -> Result<Vec<DoubleCount>, GaveUp> {
        double_counts(self.space, &self.normalised, &reading(&self.members))
    }

    /// Returns the packets that have the effect `first` before they reach the rule of the effect `last`.
    pub fn logged_before(&self, hook: Hook, first: &Effect, last: &Effect) -> Result<Set, GaveUp> {
        // If the rule of `last` drops, only packets that meet `first` before it have that effect.
        let mut stopped = self.normalised.ruleset.clone();
        let tables = stopped.tables.iter_mut();
        let chains = tables.flat_map(|table| &mut table.chains);
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            if rule.target.to_text().strip_prefix("-j ") == Some(last) {
                rule.target = iptables::Target::Drop;
            }
        }
        match Behaviour::of(self.space, &stopped, &reading(&self.members)) {
            Ok(text) => {
                let place = (TableName::Filter, BaseChain::from(hook));
                let effects = text.flow(self.space, place).effects;
                Ok(effects.get(first).copied().unwrap_or(self.space.none()))
            }
            Err(TextError::GaveUp(gave_up)) => Err(gave_up),
            // Other errors are about matches, which are those of the original ruleset.
            Err(_) => Ok(self.space.none()),
        }
    }

    /// Returns the packets that the raw table does not drop in PREROUTING.
    pub(super) fn honest(&self) -> Result<Set, GaveUp> {
        let place = (TableName::Raw, BaseChain::Prerouting);
        let raw = self.spec.behaviour.flow(self.space, place).verdicts;
        self.space.decided(raw, &Verdict::Accept)
    }

    /// Returns the packets on devices that the policy names; all packets if it names none.
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

/// Returns how the analysis reads the rules of a policy. They track connections, so the kernel reassembles fragments before
/// any rule.
fn reading(sets: &BTreeMap<String, IntervalSet>) -> Reading<'_> {
    Reading {
        sets,
        is_reassembled: true,
        ..Reading::default()
    }
}

/// Returns the mark of the connection that a witness belongs to.
pub(super) fn connection_mark(witness: &Witness) -> u32 {
    let value = witness.value();
    (0..32).fold(0, |mark, bit| {
        mark | (value(Field::ConnectionMark(bit)) as u32 & 1) << bit
    })
}

/// Returns the circumstances that put a witness into its set, in words, and whether each holds.
pub(super) fn when(witness: &Witness) -> Vec<(String, bool)> {
    let conditions = witness.conditions.iter();
    let besides = witness.besides().into_iter();
    let besides = besides.map(|(name, value)| (format!("{name} {value}"), true));
    conditions
        // Whether a choice of the kernel changes anything is visible in the walk itself.
        .filter(|(key, _)| !key.ends_with(CHANGES))
        .map(|(key, holds)| (Condition::words(key), *holds))
        .chain(besides)
        .collect()
}

/// Suffix of the analysis' key for the condition that a choice of the kernel (a new address or port) changes the packet.
const CHANGES: &str = " changes something";

/// Returns the members of the sets of a family that the policy fills, by their names in the rules.
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

/// Returns the rules with each condition that a packet alone does not answer replaced by a match that names it, as the sets
/// of [`packets`](super::packets) do; [`condition_words`] returns the name. Log rules lose their rate limits.
pub fn in_words_of_policy(ruleset: &Ruleset, members: &BTreeMap<String, IntervalSet>) -> Ruleset {
    Normalised::new(ruleset, |name| members.contains_key(name)).ruleset
}

/// Returns the rules as they are in shared mode: packets that reach the end of a base chain of the filter table are left to
/// the rules of other programs, which is a verdict of its own ([`is_left_to_others`]).
pub fn beside_others(ruleset: &Ruleset) -> Ruleset {
    open_ended(ruleset)
}

/// Returns `true` for the verdict of packets that are left to the rules of other programs (see [`beside_others`]).
pub fn is_left_to_others(verdict: &Verdict) -> bool {
    *verdict == left_to_others()
}

/// Returns the words for a condition, from its key in the analysis.
pub fn condition_words(key: &str) -> String {
    Condition::words(key)
}

/// The reason why no packet of a set was walked.
pub(super) enum NoWitness {
    /// No packet of the set can exist in the chain.
    Unseen(BaseChain),
    /// The walker does not understand the rules.
    NoWalk(NoWalk),
}

/// Returns the difference to report for a set of packets if the walk of one of them does not confirm it.
pub(super) fn contradiction(
    walked: Result<Box<ComparedWalk>, NoWitness>,
    how: &str,
) -> DisagreementKind {
    match walked {
        Ok(walked) => DisagreementKind::Internal(Some(walked), how.to_owned()),
        Err(no_witness) => no_witness.into(),
    }
}

impl From<NoWitness> for DisagreementKind {
    fn from(no_witness: NoWitness) -> Self {
        match no_witness {
            NoWitness::Unseen(chain) => Self::ImpossiblePackets(chain),
            NoWitness::NoWalk(error) => Self::Internal(None, error.to_string()),
        }
    }
}

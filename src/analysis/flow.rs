//! A run of rules: its verdict for each packet, and its effects on the way (log lines, marks, translations).

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use super::GaveUp;
use super::diagram::{Operation, Ref};
use super::mark::Marks;
use super::space::{Set, Space, balanced, operation};
use super::verdicts::{RunExit, Verdict, VerdictLeaf, Verdicts};
use super::writes::{Write, Writes};
use crate::net::State;

/// Something that a rule does to a packet without ending the table: the target as `iptables-save` prints it, without
/// `-j` (`LOG --log-prefix x`).
pub type Effect = Box<str>;

/// Returns the effect of reaching a condition with memory, by the condition's key. Which packets reach a `limit`
/// decides when it stops matching, so a comparison of two rulesets has to compare them.
pub fn counted(key: &str) -> Effect {
    format!("counted by {key}").into()
}

/// Returns the key of the condition with memory that [`counted`] named this effect for.
pub fn counted_by(effect: &str) -> Option<&str> {
    effect.strip_prefix("counted by ")
}

/// Pairs of effects whose order matters to a caller, or effects whose repetition does; see [`Space::watch`].
#[derive(Default)]
pub(super) struct Watched {
    /// For each later effect: the earlier one, and the name of the pair.
    by_later: FxHashMap<Effect, Vec<(Effect, Effect)>>,
    /// Both effects, by the name of the pair.
    by_name: FxHashMap<Effect, (Effect, Effect)>,
}

/// Returns `true` if an effect changes how conntrack sees the packet.
pub(super) fn is_tracking(effect: &str) -> bool {
    effect == "NOTRACK" || effect == "CT" || effect.starts_with("CT ")
}

/// The right-hand operand of operations on one diagram.
const NOTHING: Ref = Ref::terminal(0);

/// The result of a run of rules for each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The verdict for each packet.
    pub verdicts: Verdicts,
    /// The packets that have each effect at least once; never an empty set.
    ///
    /// Effects are not part of the outcome: n log lines would make up to 2^n outcomes.
    pub effects: BTreeMap<Effect, Set>,
}

/// One rule: a set of packets, and what the rule does with them.
#[derive(Clone, Debug)]
pub struct RuleStep {
    pub(super) when: Set,
    pub(super) does: Does,
}

#[derive(Clone, Debug)]
pub(super) enum Does {
    Verdict(Verdict),
    Return,
    Effect(Effect),
    Change(Box<Writes>),
    Run(Flow),
}

impl RuleStep {
    /// Creates a rule that decides its packets.
    pub fn verdict(when: Set, verdict: Verdict) -> Self {
        Self {
            when,
            does: Does::Verdict(verdict),
        }
    }

    /// Creates a rule that returns its packets to the calling chain (RETURN).
    pub fn returns(when: Set) -> Self {
        Self {
            when,
            does: Does::Return,
        }
    }

    /// Creates a rule whose packets have an effect and go to the next rule.
    pub fn effect(when: Set, effect: impl Into<Effect>) -> Self {
        Self {
            when,
            does: Does::Effect(effect.into()),
        }
    }

    /// Creates a rule that makes the packet's mark `(mark & !mask) ^ value`; its packets go to the next rule.
    pub fn set_mark(when: Set, value: u32, mask: u32) -> Self {
        Self::change(when, Marks::set_packet(value, mask).into())
    }

    /// Creates a rule that copies the packet's mark to the connection, in the bits of the mask.
    pub fn save_mark(when: Set, mask: u32) -> Self {
        Self::change(when, Marks::save(mask, mask, 0).into())
    }

    /// Creates a rule that copies the connection's mark to the packet, in the bits of the mask.
    pub fn restore_mark(when: Set, mask: u32) -> Self {
        Self::change(when, Marks::restore(mask, mask, 0).into())
    }

    /// Creates a rule that sends its packets through another run of rules.
    pub fn run(when: Set, flow: Flow) -> Self {
        Self {
            when,
            does: Does::Run(flow),
        }
    }

    /// Creates a rule whose target writes a value that later rules match, as two steps: the effect, and the write
    /// itself. Its packets go to the next rule.
    ///
    /// Of the `CT` targets that a packet meets only the first counts (`xt_ct_target` of xt_CT.c). Conditions see
    /// INVALID until then, so the write is limited to packets of that state.
    pub fn write(
        space: &Space,
        when: Set,
        effect: impl Into<Effect>,
        write: Write,
    ) -> Result<[Self; 2], GaveUp> {
        let written = match write {
            Write::HopLimit(_) | Write::TypeOfService(_) => when,
            Write::Untracked | Write::Template => {
                space.and(when, space.states(&[State::Invalid])?)?
            }
        };
        Ok([
            Self::effect(when, effect),
            Self::change(written, write.into()),
        ])
    }

    pub(super) fn change(when: Set, writes: Writes) -> Self {
        Self {
            when,
            does: Does::Change(Box::new(writes)),
        }
    }
}

impl Flow {
    /// Returns the flow without rules.
    pub fn empty(space: &Space) -> Self {
        Self::of(space.undecided())
    }

    /// Returns the flow with these verdicts and no effects.
    pub fn of(verdicts: Verdicts) -> Self {
        Self {
            verdicts,
            effects: BTreeMap::new(),
        }
    }

    /// Joins rules in their order.
    ///
    /// They are joined as a tree that is cut where the rules' own conditions say, not where their numbers do: a rule
    /// added in front does not move the cuts. So two rulesets that share most of their rules share most of the tree,
    /// and the second costs only what differs (`Space::once`).
    ///
    /// ```
    /// # use fwc::analysis::{Flow, Space, RuleStep, Verdict};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let udp = space.protocol(Protocol::UDP)?;
    /// let flow = Flow::from_rules(&space, [
    ///     RuleStep::verdict(udp, Verdict::Accept),
    ///     RuleStep::effect(space.all(), "LOG --log-prefix denied"),
    ///     RuleStep::verdict(space.all(), Verdict::Drop),
    /// ])?;
    /// assert_eq!(flow.effects["LOG --log-prefix denied"], space.not(udp)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_rules(
        space: &Space,
        rules: impl IntoIterator<Item = RuleStep>,
    ) -> Result<Self, GaveUp> {
        let flows = rules.into_iter().map(|step| {
            let mut hasher = FxHasher::default();
            step.when.hash(&mut hasher);
            Ok((hasher.finish() >> 32, Self::rule(space, step)?))
        });
        let mut flows = flows.collect::<Result<Vec<(u64, Self)>, GaveUp>>()?;
        while flows.len() > 1 {
            let mut joined = Vec::with_capacity(flows.len() / 2);
            let mut rest = &flows[..];
            while !rest.is_empty() {
                let (group, others) = rest.split_at(group(rest));
                let mark = group
                    .iter()
                    .fold(0, |mark: u64, (other, _)| mark.rotate_left(5) ^ other);
                let group = group.iter().map(|(_, flow)| flow.clone()).collect();
                let join = |first: Self, second: Self| first.seq(space, &second);
                joined.push((mark, balanced(group, Self::empty(space), join)?));
                rest = others;
            }
            flows = joined;
        }
        Ok(flows
            .pop()
            .map_or_else(|| Self::empty(space), |(_, flow)| flow))
    }

    /// Returns the flow of one rule.
    pub fn rule(space: &Space, step: RuleStep) -> Result<Self, GaveUp> {
        let verdicts = match step.does {
            Does::Run(flow) => return flow.guard(space, step.when),
            Does::Effect(effect) => {
                let some = step.when != space.none();
                return Ok(Self {
                    verdicts: space.undecided(),
                    effects: some.then_some((effect, step.when)).into_iter().collect(),
                });
            }
            Does::Verdict(verdict) => space.verdict(verdict),
            Does::Return => space.returns(),
            Does::Change(writes) => space.change(*writes),
        };
        space.guard(step.when, verdicts).map(Self::of)
    }

    /// Limits a flow to the packets of a set; it does nothing with others.
    pub fn guard(&self, space: &Space, when: Set) -> Result<Self, GaveUp> {
        let make = || Ok(space.guard(when, self.verdicts)?.0);
        let verdicts = space.once(operation::GUARD, (when.0, self.verdicts.0), make)?;
        Ok(Self {
            verdicts: Verdicts(verdicts),
            effects: self.effects_by(space, |set| space.and(when, set))?,
        })
    }

    /// Returns this flow followed by the other, which gets the packets that this one does not decide.
    pub fn seq(&self, space: &Space, next: &Self) -> Result<Self, GaveUp> {
        let mut effects = self.effects.clone();
        if !next.effects.is_empty() {
            // An effect of the second flow is only for packets that fall through the first, as they are after what that
            // wrote into them.
            for (writes, set) in space.falls_by_writes(self.verdicts)? {
                for (effect, when) in &next.effects {
                    let mut when = space.and(set, space.set_seen(*when, writes)?)?;
                    if is_tracking(effect) {
                        // Only the first rule that sets how a packet is tracked has an effect (xt_CT.c).
                        for (_, earlier) in self.effects.iter().filter(|one| is_tracking(one.0)) {
                            when = space.minus(when, *earlier)?;
                        }
                    }
                    if when == space.none() {
                        continue;
                    }
                    for (earlier, both) in space.watched_before(effect) {
                        if let Some(had) = self.effects.get(&earlier) {
                            let had = space.and(*had, when)?;
                            add_effect(&mut effects, space, &both, had)?;
                        }
                    }
                    add_effect(&mut effects, space, effect, when)?;
                }
            }
        }
        Ok(Self {
            verdicts: space.seq(self.verdicts, next.verdicts)?,
            effects,
        })
    }

    /// Returns a user-defined chain as its caller sees it: RETURN is the same as the end of the chain.
    pub fn as_chain(&self, space: &Space) -> Result<Self, GaveUp> {
        self.exit_by(space, (operation::CHAIN, NOTHING), |exit| {
            (*exit == RunExit::Returns).then_some(RunExit::Falls)
        })
    }

    /// Returns a chain as a caller by `goto` sees it: its end returns from the calling chain too.
    pub fn as_goto(&self, space: &Space) -> Result<Self, GaveUp> {
        self.exit_by(space, (operation::GOTO, NOTHING), |exit| {
            (*exit == RunExit::Falls).then_some(RunExit::Returns)
        })
    }

    /// Returns a base chain with its policy, which decides at the end and at RETURN.
    pub fn with_policy(&self, space: &Space, policy: Verdict) -> Result<Self, GaveUp> {
        let side = space.verdict(policy.clone()).0;
        self.exit_by(space, (operation::POLICY, side), |exit| match exit {
            RunExit::Falls | RunExit::Returns => Some(RunExit::Ends(policy.clone())),
            _ => None,
        })
    }

    /// Returns the flow for packets with a known field: in OUTPUT, for example, no packet has an in-device.
    pub fn with(&self, space: &Space, field: super::Field, value: u128) -> Result<Self, GaveUp> {
        Ok(Self {
            verdicts: Verdicts(space.fixed(self.verdicts.0, field, value)?),
            effects: self.effects_by(space, |set| space.with(set, field, value))?,
        })
    }

    fn exit_by(
        &self,
        space: &Space,
        operation: (Operation, Ref),
        other: impl Fn(&RunExit) -> Option<RunExit>,
    ) -> Result<Self, GaveUp> {
        Ok(Self {
            verdicts: space.exit_by(self.verdicts, operation, other)?,
            effects: self.effects.clone(),
        })
    }

    fn effects_by(
        &self,
        space: &Space,
        change: impl Fn(Set) -> Result<Set, GaveUp>,
    ) -> Result<BTreeMap<Effect, Set>, GaveUp> {
        let mut effects = BTreeMap::new();
        for (effect, when) in &self.effects {
            let when = change(*when)?;
            if when != space.none() {
                effects.insert(effect.clone(), when);
            }
        }
        Ok(effects)
    }
}

/// Adds the packets that have an effect to those that already have it.
fn add_effect(
    effects: &mut BTreeMap<Effect, Set>,
    space: &Space,
    effect: &Effect,
    when: Set,
) -> Result<(), GaveUp> {
    if when != space.none() {
        let before = effects.get(effect).copied().unwrap_or(space.none());
        effects.insert(effect.clone(), space.or(before, when)?);
    }
    Ok(())
}

/// Returns how many of the first flows form a group. A group ends after a flow whose condition's hash is a multiple of
/// three. The cut depends on the rule and not on its position, so that after an added or removed rule the groups are
/// soon the same again.
fn group(flows: &[(u64, Flow)]) -> usize {
    let ends = flows.iter().skip(1).position(|(mark, _)| mark % 3 == 0);
    let until = ends.map_or(flows.len(), |at| at + 2);
    until.min(LARGEST_GROUP)
}

/// The most flows in a group, for rules whose hashes end none.
const LARGEST_GROUP: usize = 8;

impl Space {
    /// Watches two effects: from now on, flows give a packet that has the first effect and later the second one more
    /// effect, named for the pair. With the same effect twice that tells which packets have it twice. Without a watch
    /// an effect only tells that a packet has it at least once.
    pub fn watch(&self, first: &Effect, second: &Effect) {
        let name: Effect = match first == second {
            true => format!("twice {first}").into(),
            false => format!("first {first}, then {second}").into(),
        };
        let mut watched = self.watched.borrow_mut();
        let both = (first.clone(), second.clone());
        if watched.by_name.insert(name.clone(), both).is_none() {
            let earlier = watched.by_later.entry(second.clone()).or_default();
            earlier.push((first.clone(), name));
        }
    }

    /// Returns the two effects, in their order, if the effect is one that [`Space::watch`] created.
    pub fn watched(&self, effect: &str) -> Option<(Effect, Effect)> {
        self.watched.borrow().by_name.get(effect).cloned()
    }

    fn watched_before(&self, later: &Effect) -> Vec<(Effect, Effect)> {
        let watched = self.watched.borrow();
        watched.by_later.get(later).cloned().unwrap_or_default()
    }

    /// Returns the packets that no rule decides, by what was written into them.
    fn falls_by_writes(&self, verdicts: Verdicts) -> Result<Vec<(Writes, Set)>, GaveUp> {
        if !self.writes_and_falls(verdicts) {
            return Ok(vec![(Writes::SAME, self.falls(verdicts)?)]);
        }
        let falls = |outcome: &VerdictLeaf| outcome.exit == RunExit::Falls;
        let all = self.by_outcome(verdicts)?.into_iter();
        Ok(all
            .filter(|(outcome, _)| falls(outcome))
            .map(|(outcome, set)| (self.writes_of(outcome.writes), set))
            .collect())
    }

    /// Returns the packets that are in the set after something was written into them.
    pub(super) fn set_seen(&self, set: Set, before: Writes) -> Result<Set, GaveUp> {
        match before == Writes::SAME {
            true => Ok(set),
            false => self.ask_writes(set.0, before).map(Set),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Family;

    #[test]
    fn what_two_runs_share_is_put_together_once() -> Result<(), GaveUp> {
        let space = Space::new(Family::V4);
        let rule = |number: u128| {
            let from = space.range(crate::analysis::Field::Source, number, number * 3)?;
            let port = (number % 7 * 100) as u16;
            let when = space.and(from, space.destination_port(port, port + 900)?)?;
            let verdict = if number.is_multiple_of(2) {
                Verdict::Accept
            } else {
                Verdict::Drop
            };
            Ok(RuleStep::verdict(when, verdict))
        };
        let run = |numbers: Vec<u128>| {
            let rules: Result<Vec<RuleStep>, GaveUp> = numbers.into_iter().map(rule).collect();
            let (rules, begun) = (rules?, space.steps());
            Flow::from_rules(&space, rules)?;
            Ok(space.steps() - begun)
        };
        let one = run((1..400).collect())?;
        let new_in_front = run([700].into_iter().chain(1..400).collect())?;
        let without = run((1..400).filter(|number| *number != 150).collect())?;
        for steps in [new_in_front, without] {
            assert!(3 * steps < one, "{one} steps, then {steps}");
        }
        Ok(())
    }
}

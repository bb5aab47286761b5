//! What a run of rules does with each packet: its verdicts, and its effects on the way.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};

use super::GaveUp;
use super::diagram::{Operation, Ref};
use super::mark::Marks;
use super::space::{Set, Space, balanced, operation};
use super::verdicts::{Exit, Outcome, Verdict, Verdicts};
use super::writes::{Write, Writes};
use crate::net::State;

/// Something that happens to a packet, which then goes on: the target as `iptables-save` prints it
/// (`-j LOG --log-prefix x`).
pub type Effect = Box<str>;

/// The effect that packets come to a condition with memory, by its key: who comes to it decides what it answers later.
pub fn counted(key: &str) -> Effect {
    format!("counted by {key}").into()
}

/// The key of the condition with memory that packets with an effect come to.
pub fn counted_by(effect: &str) -> Option<&str> {
    effect.strip_prefix("counted by ")
}

/// Effects of which somebody asks which comes first, or whether a packet has one twice.
#[derive(Default)]
pub(super) struct Watched {
    /// By the later effect: the earlier one, and what both together are called.
    by_later: FxHashMap<Effect, Vec<(Effect, Effect)>>,
    /// Both, by what they are called.
    by_name: FxHashMap<Effect, (Effect, Effect)>,
}

/// Whether an effect sets how conntrack sees the packet.
pub(super) fn is_tracking(effect: &str) -> bool {
    effect == "NOTRACK" || effect == "CT" || effect.starts_with("CT ")
}

/// No other side of an operation.
const NOTHING: Ref = Ref::terminal(0);

/// What a run of rules does with each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The verdicts.
    pub verdicts: Verdicts,
    /// The packets that have each effect, at least once; never an empty set.
    pub effects: BTreeMap<Effect, Set>,
}

/// One rule: what happens to the packets of a set.
#[derive(Clone, Debug)]
pub struct Step {
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

impl Step {
    /// The table ends.
    pub fn verdict(when: Set, verdict: Verdict) -> Self {
        Self {
            when,
            does: Does::Verdict(verdict),
        }
    }

    /// Back to the chain that jumped here.
    pub fn returns(when: Set) -> Self {
        Self {
            when,
            does: Does::Return,
        }
    }

    /// Something happens and the packet goes on.
    pub fn effect(when: Set, effect: impl Into<Effect>) -> Self {
        Self {
            when,
            does: Does::Effect(effect.into()),
        }
    }

    /// The packet's mark becomes `(mark & !mask) ^ value`, and it goes on.
    pub fn set_mark(when: Set, value: u32, mask: u32) -> Self {
        Self::change(when, Marks::set_packet(value, mask).into())
    }

    /// The connection's mark becomes the packet's in the bits of the mask, and the packet goes on.
    pub fn save_mark(when: Set, mask: u32) -> Self {
        Self::change(when, Marks::save(mask, mask, 0).into())
    }

    /// The packet's mark becomes the connection's in the bits of the mask, and it goes on.
    pub fn restore_mark(when: Set, mask: u32) -> Self {
        Self::change(when, Marks::restore(mask, mask, 0).into())
    }

    /// Another run of rules.
    pub fn run(when: Set, flow: Flow) -> Self {
        Self {
            when,
            does: Does::Run(flow),
        }
    }

    /// A target writes something that later rules read, and the packet goes on: an effect, and what it writes.
    ///
    /// How a packet is tracked the first such target says (`xt_ct_target` of xt_CT.c): it is INVALID to conditions until then.
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
    /// No rules.
    pub fn empty(space: &Space) -> Self {
        Self::of(space.undecided())
    }

    /// Verdicts without effects.
    pub fn of(verdicts: Verdicts) -> Self {
        Self {
            verdicts,
            effects: BTreeMap::new(),
        }
    }

    /// Rules one after the other, put together as a tree whose shape the rules tell: two runs that share most of their rules
    /// share most of the tree.
    ///
    /// ```
    /// # use fwc::analysis::{Flow, Space, Step, Verdict};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let udp = space.protocol(Protocol::UDP)?;
    /// let flow = Flow::from_rules(&space, [
    ///     Step::verdict(udp, Verdict::Accept),
    ///     Step::effect(space.all(), "LOG --log-prefix denied"),
    ///     Step::verdict(space.all(), Verdict::Drop),
    /// ])?;
    /// assert_eq!(flow.effects["LOG --log-prefix denied"], space.not(udp)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_rules(
        space: &Space,
        rules: impl IntoIterator<Item = Step>,
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

    /// One rule.
    pub fn rule(space: &Space, step: Step) -> Result<Self, GaveUp> {
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

    /// This only for the packets of a set; nothing happens to the others.
    pub fn guard(&self, space: &Space, when: Set) -> Result<Self, GaveUp> {
        let make = || Ok(space.guard(when, self.verdicts)?.0);
        let verdicts = space.once(operation::GUARD, (when.0, self.verdicts.0), make)?;
        Ok(Self {
            verdicts: Verdicts(verdicts),
            effects: self.effects_by(space, |set| space.and(when, set))?,
        })
    }

    /// First this, then where it decides nothing the other.
    pub fn seq(&self, space: &Space, next: &Self) -> Result<Self, GaveUp> {
        let mut effects = self.effects.clone();
        if !next.effects.is_empty() {
            for (writes, set) in space.falls_by_writes(self.verdicts)? {
                for (effect, when) in &next.effects {
                    let mut when = space.and(set, space.set_seen(*when, writes)?)?;
                    if is_tracking(effect) {
                        // Of the rules that set how a packet is tracked the first holds (xt_CT.c).
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

    /// A user-defined chain as its caller sees it: RETURN is like the end.
    pub fn as_chain(&self, space: &Space) -> Result<Self, GaveUp> {
        self.exit_by(space, (operation::CHAIN, NOTHING), |exit| {
            (*exit == Exit::Returns).then_some(Exit::Falls)
        })
    }

    /// The same chain entered by `goto`: its end returns from the calling chain too.
    pub fn as_goto(&self, space: &Space) -> Result<Self, GaveUp> {
        self.exit_by(space, (operation::GOTO, NOTHING), |exit| {
            (*exit == Exit::Falls).then_some(Exit::Returns)
        })
    }

    /// A base chain: at its end and by RETURN its policy decides.
    pub fn with_policy(&self, space: &Space, policy: Verdict) -> Result<Self, GaveUp> {
        let side = space.verdict(policy.clone()).0;
        self.exit_by(space, (operation::POLICY, side), |exit| match exit {
            Exit::Falls | Exit::Returns => Some(Exit::Ends(policy.clone())),
            _ => None,
        })
    }

    /// What happens to packets of which a field is known: to those of OUTPUT, say, which have no in-device.
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
        other: impl Fn(&Exit) -> Option<Exit>,
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

/// Adds the packets that have an effect to those that have it already.
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

/// How many flows are put together first: up to one whose condition says so, by its number, so that after one more or one
/// less the groups are soon the same again.
fn group(flows: &[(u64, Flow)]) -> usize {
    let ends = flows.iter().skip(1).position(|(mark, _)| mark % 3 == 0);
    let until = ends.map_or(flows.len(), |at| at + 2);
    until.min(LARGEST_GROUP)
}

const LARGEST_GROUP: usize = 8;

impl Space {
    /// From now on, of a packet that has the first effect and later the second (the same one for "twice") flows say so: as one
    /// more effect. Without this an effect says that a packet has it at least once.
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

    /// The two effects, in their order, that an effect which was asked for by [`Space::watch`] stands for.
    pub fn watched(&self, effect: &str) -> Option<(Effect, Effect)> {
        self.watched.borrow().by_name.get(effect).cloned()
    }

    fn watched_before(&self, later: &Effect) -> Vec<(Effect, Effect)> {
        let watched = self.watched.borrow();
        watched.by_later.get(later).cloned().unwrap_or_default()
    }

    /// The packets that nothing is decided for, by what was written into them.
    fn falls_by_writes(&self, verdicts: Verdicts) -> Result<Vec<(Writes, Set)>, GaveUp> {
        if !self.writes_and_falls(verdicts) {
            return Ok(vec![(Writes::SAME, self.falls(verdicts)?)]);
        }
        let falls = |outcome: &Outcome| outcome.exit == Exit::Falls;
        let all = self.by_outcome(verdicts)?.into_iter();
        Ok(all
            .filter(|(outcome, _)| falls(outcome))
            .map(|(outcome, set)| (self.writes_of(outcome.writes), set))
            .collect())
    }

    /// The set as it was before something was written.
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
            Ok(Step::verdict(when, verdict))
        };
        let run = |numbers: Vec<u128>| {
            let rules: Result<Vec<Step>, GaveUp> = numbers.into_iter().map(rule).collect();
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

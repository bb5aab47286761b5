//! Packets split by what becomes of them.

use std::collections::BTreeMap;

use super::question::Question;
use super::subject::{FamilyRules, Subject};
use super::trace::{Trace, TraceError, Tracer};
use crate::analysis::{
    Behaviour, Conditions, Decided, Deciders, Exchanged, Field, GaveUp, HostSetting, Path, Reading,
    Set, Space, TableChain, TextError, Verdict,
};
use crate::iptables::{RuleId, TableName};
use crate::net::{AddressRange, Family, Hook, IntervalSet};

/// What becomes of the packets of a question at one hook.
#[derive(Clone, Debug)]
pub struct HookAnswer {
    /// The hook.
    pub hook: Hook,
    /// The packets, as they arrive; none where no kernel shows such a packet here.
    pub asked: Set,
    /// Every packet that is spoken of, whether it was asked about or not.
    pub possible: Set,
    /// The setting that a host needs to have such packets; `None` if it needs none.
    pub only_where: Option<HostSetting>,
    /// Nothing was said of the state, and no such packet opens a connection: they may have any.
    pub never_new: bool,
    /// The packets by what becomes of them: the largest part first, as far as packets without a mark are concerned, which most
    /// are when they arrive. Together they are all that were asked about.
    pub parts: Vec<PacketGroup>,
}

/// Packets of which the same becomes.
#[derive(Clone, Debug)]
pub struct PacketGroup {
    /// How their way ends.
    pub verdict: Verdict,
    /// What became of their destination.
    pub destination: Exchanged,
    /// What became of their source.
    pub source: Exchanged,
    /// The packets, as they arrive.
    pub packets: Set,
    /// What decides that, in the order in which packets meet it.
    pub rules: Vec<Decider>,
    /// The way of one of them, or why it cannot be told.
    pub story: Result<Trace, TraceError>,
    /// Of some of the packets something else may become too: the kernel chooses where they go.
    pub is_choice: bool,
}

/// What decides some packets of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decider {
    /// Where it stands.
    pub place: TableChain,
    /// The rule; `None` where the base chain's policy decides.
    pub rule: Option<RuleId>,
    /// The packets, as they arrive.
    pub packets: Set,
}

/// What becomes of the packets of a question by the rules of a family, hook by hook. The space is the family's, and fresh.
pub fn explain(
    ground: &Subject,
    space: &Space,
    question: &Question,
) -> Result<Vec<HookAnswer>, TextError> {
    explain_by(ground, space, question, false)
}

/// Returns a less exact answer, for questions on which [`explain`] gives up: opaque conditions of different rules are
/// independent even if they are the same ([`Reading::apart`]). Every packet is in the part that it belongs to, but a part may
/// also have packets that cannot occur.
pub fn explain_roughly(
    ground: &Subject,
    space: &Space,
    question: &Question,
) -> Result<Vec<HookAnswer>, TextError> {
    explain_by(ground, space, question, true)
}

fn explain_by(
    ground: &Subject,
    space: &Space,
    question: &Question,
    apart: bool,
) -> Result<Vec<HookAnswer>, TextError> {
    let Some(rules) = &ground.rules[space.family()] else {
        return Ok(Vec::new());
    };
    let reading = Reading {
        sets: &rules.members,
        apart,
        ..Reading::default()
    };
    let behaviour = Behaviour::of(space, &rules.asked, &reading)?;
    let explainer = Explainer {
        ground,
        rules,
        reading: &reading,
        space,
        behaviour: &behaviour,
        deciders: Deciders::new(space, &rules.asked, &reading)?,
    };
    let hooks = question.hooks.iter();
    hooks
        .map(|hook| explainer.answer(question, *hook))
        .collect()
}

struct Explainer<'a> {
    ground: &'a Subject,
    rules: &'a FamilyRules,
    reading: &'a Reading<'a>,
    space: &'a Space,
    behaviour: &'a Behaviour,
    deciders: Deciders<'a>,
}

/// How packets end, for people: where exactly they are stopped is another question.
type Fate = (Verdict, Exchanged, Exchanged);

impl Explainer<'_> {
    fn answer(&self, question: &Question, hook: Hook) -> Result<HookAnswer, TextError> {
        let space = self.space;
        let asked = question.asked(&self.ground.plan, space, hook)?;
        let path = Path::of(space, self.behaviour, hook, asked.arriving)?;
        let packets = path.going(space, asked.ending)?;
        let path = match packets == asked.arriving {
            true => path,
            false => Path::of(space, self.behaviour, hook, packets)?,
        };
        let undetermined = path.undetermined(space)?;
        let mut fates: BTreeMap<Fate, Vec<(TableChain, Set)>> = BTreeMap::new();
        for end in &path.ends {
            let change = &end.change;
            let fate = (
                end.verdict.clone(),
                change.destination.clone(),
                change.source.clone(),
            );
            let place = end.place.unwrap_or((TableName::Filter, hook.into()));
            fates.entry(fate).or_default().push((place, end.packets));
        }
        let mut decided: BTreeMap<TableChain, Vec<(Decided, Set)>> = BTreeMap::new();
        let mut parts = Vec::new();
        let readable = readable(space)?;
        let teller = Tracer {
            ground: self.ground,
            rules: self.rules,
            conditions: &Conditions::new(space, &self.rules.asked, self.reading)?,
            space,
        };
        for ((verdict, destination, source), ends) in fates {
            let arriving = space.any(ends.iter().map(|(_, packets)| *packets))?;
            let packets = space.whatever_is_chosen(arriving)?;
            let mut rules = Vec::new();
            for place in crate::analysis::places(hook) {
                let here = ends.iter().filter(|(at, _)| at == place);
                let here = space.any(here.map(|(_, packets)| *packets))?;
                if here == space.none() {
                    continue;
                }
                if !decided.contains_key(place) {
                    decided.insert(*place, self.decided(&path, *place)?);
                }
                for (one, packets) in decided.get(place).into_iter().flatten() {
                    if one.verdict != verdict {
                        continue;
                    }
                    let packets = space.and(*packets, here)?;
                    if packets != space.none() {
                        rules.push(Decider {
                            place: *place,
                            rule: one.rule,
                            packets: space.whatever_is_chosen(packets)?,
                        });
                    }
                }
            }
            let liked = [&readable[..], &here(space, arriving)?].concat();
            let Some(witness) = space.witness(arriving, hook.into(), &liked)? else {
                continue;
            };
            parts.push(PacketGroup {
                is_choice: space.and(packets, undetermined)? != space.none(),
                story: teller.tell(&witness, &verdict),
                verdict,
                destination,
                source,
                packets,
                rules,
            });
        }
        let unmarked = space.and(
            space.mark(0, u32::MAX)?,
            space.connection_mark(0, u32::MAX)?,
        )?;
        let mut sized = Vec::with_capacity(parts.len());
        for part in parts {
            let plain = space.share(space.and(part.packets, unmarked)?);
            sized.push((plain, space.share(part.packets), part));
        }
        sized.sort_by(|one, other| {
            let plain = other.0.total_cmp(&one.0);
            plain.then(other.1.total_cmp(&one.1))
        });
        let parts = sized.into_iter().map(|(_, _, part)| part).collect();
        Ok(HookAnswer {
            hook,
            asked: space.whatever_is_chosen(packets)?,
            possible: asked.possible,
            only_where: asked.only_where,
            never_new: asked.never_new,
            parts,
        })
    }
}

impl Explainer<'_> {
    /// What decides at a place, each with its packets as they arrive.
    fn decided(&self, path: &Path, place: TableChain) -> Result<Vec<(Decided, Set)>, TextError> {
        let space = self.space;
        let arrivals = path.arrivals(space, self.behaviour, place)?;
        let found = self.deciders.of(place, path.may_come(space, place)?)?;
        let found = found.into_iter().map(|one| {
            let packets = arrivals.before(one.packets)?;
            Ok((one, packets))
        });
        found.collect()
    }
}

/// Packets to an address of this host, where a set asks for that: the plainest of the kinds that an address may be of.
fn here(space: &Space, set: Set) -> Result<Vec<Set>, GaveUp> {
    let support = space.support(set);
    let asked = support.iter().find(|field| match field {
        Field::Opaque(number) => {
            let key = space.opaque_key(*number);
            key.is_some_and(|key| key == "addrtype destination LOCAL")
        }
        _ => false,
    });
    match asked {
        Some(field) => Ok(vec![space.range(*field, 1, 1)?]),
        None => Ok(Vec::new()),
    }
}

/// Packets whose ends are told apart at a glance: addresses for documentation (RFC 5737, RFC 3849), a high source port.
fn readable(space: &Space) -> Result<[Set; 3], GaveUp> {
    let (source, destination) = match space.family() {
        Family::V4 => ("198.51.100.0/24", "192.0.2.0/24"),
        Family::V6 => ("2001:db8:ffff::/48", "2001:db8::/48"),
    };
    let network = |field, text: &str| {
        let range = AddressRange::parse(text).ok();
        let range = range.map(|range| (range.first, range.last));
        space.values(field, &IntervalSet::from_intervals(range))
    };
    Ok([
        network(Field::Source, source)?,
        network(Field::Destination, destination)?,
        space.source_port(40000, 60999)?,
    ])
}

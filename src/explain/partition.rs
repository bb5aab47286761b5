//! Groups the packets of a question by their verdict and translations.

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

/// What the rules do with the packets of a question at one hook.
#[derive(Clone, Debug)]
pub struct HookAnswer {
    /// The hook.
    pub hook: Hook,
    /// The packets of the question, as they arrive; empty if no real packet at this hook fits it.
    pub asked: Set,
    /// The packets that can reach the hook, within which the answer is described: `asked` is a
    /// subset.
    pub possible: Set,
    /// The setting that a host needs for such packets to occur; `None` if they occur on every host.
    pub only_where: Option<HostSetting>,
    /// `true` if the question names no state and none of its packets can open a connection. `asked` has packets in every
    /// state then.
    pub never_new: bool,
    /// The groups, largest first; together they have all packets of `asked`. Size is compared among packets without a mark,
    /// because most packets have none when they arrive.
    pub groups: Vec<PacketGroup>,
}

/// Packets with the same verdict and the same translations.
#[derive(Clone, Debug)]
pub struct PacketGroup {
    /// The verdict of the last table that they reach.
    pub verdict: Verdict,
    /// The translation of their destination.
    pub destination: Exchanged,
    /// The translation of their source.
    pub source: Exchanged,
    /// The packets, as they arrive.
    pub packets: Set,
    /// The rules and chain policies that decide them, in the order in which packets meet them.
    pub rules: Vec<Decider>,
    /// The trace of an example packet, or why there is none.
    pub trace: Result<Trace, TraceError>,
    /// `true` if some of the packets are in another group too: the outcome depends on a choice of the kernel, for example on
    /// which address of a DNAT range it takes.
    pub is_choice: bool,
}

/// A rule or a chain policy that decides some packets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decider {
    /// The table and base chain.
    pub place: TableChain,
    /// The rule; `None` if the policy of the base chain decides.
    pub rule: Option<RuleId>,
    /// The packets that it decides, as they arrive.
    pub packets: Set,
}

/// Explains what the rules of a family do with the packets of a question, one answer for each hook.
///
/// `space` determines the family. It must be a new one from [`Subject::space`].
///
/// # Errors
///
/// If the rules have no meaning, or if the packet sets become too large ([`explain_roughly`] may still answer then).
pub fn explain(
    subject: &Subject,
    space: &Space,
    question: &Question,
) -> Result<Vec<HookAnswer>, TextError> {
    explain_by(subject, space, question, false)
}

/// Returns a less exact answer, for questions on which [`explain`] gives up: opaque conditions of different rules are
/// independent even if they are the same ([`Reading::apart`]). Every packet is in the group that it belongs to, but a group
/// may also have packets that cannot occur.
///
/// # Errors
///
/// See [`explain`].
pub fn explain_roughly(
    subject: &Subject,
    space: &Space,
    question: &Question,
) -> Result<Vec<HookAnswer>, TextError> {
    explain_by(subject, space, question, true)
}

fn explain_by(
    subject: &Subject,
    space: &Space,
    question: &Question,
    apart: bool,
) -> Result<Vec<HookAnswer>, TextError> {
    let Some(rules) = &subject.rules[space.family()] else {
        return Ok(Vec::new());
    };
    let reading = Reading {
        sets: &rules.members,
        apart,
        ..Reading::default()
    };
    let behaviour = Behaviour::of(space, &rules.asked, &reading)?;
    let explainer = Explainer {
        subject,
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
    subject: &'a Subject,
    rules: &'a FamilyRules,
    reading: &'a Reading<'a>,
    space: &'a Space,
    behaviour: &'a Behaviour,
    deciders: Deciders<'a>,
}

/// What a group has in common: verdict, destination, source. The chain that decides is not part of it: for the reader a
/// packet dropped in raw and one dropped in filter are both dropped.
type Fate = (Verdict, Exchanged, Exchanged);

impl Explainer<'_> {
    fn answer(&self, question: &Question, hook: Hook) -> Result<HookAnswer, TextError> {
        let space = self.space;
        let asked = question.asked(&self.subject.plan, space, hook)?;
        let path = Path::of(space, self.behaviour, hook, asked.arriving)?;
        let packets = path.going(space, asked.ending)?;
        // If `to` excludes some of the packets, the path has to be computed again: its ends have all of them.
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
        let tracer = Tracer {
            subject: self.subject,
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
            let preferred = [&readable[..], &to_local_address(space, arriving)?].concat();
            let Some(witness) = space.witness(arriving, hook.into(), &preferred)? else {
                continue;
            };
            parts.push(PacketGroup {
                is_choice: space.and(packets, undetermined)? != space.none(),
                trace: tracer.trace(&witness, &verdict),
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
        let mut with_sizes = Vec::with_capacity(parts.len());
        for part in parts {
            let unmarked_share = space.share(space.and(part.packets, unmarked)?);
            with_sizes.push((unmarked_share, space.share(part.packets), part));
        }
        with_sizes.sort_by(|one, other| {
            let by_unmarked = other.0.total_cmp(&one.0);
            by_unmarked.then(other.1.total_cmp(&one.1))
        });
        let parts = with_sizes.into_iter().map(|(_, _, part)| part).collect();
        Ok(HookAnswer {
            hook,
            asked: space.whatever_is_chosen(packets)?,
            possible: asked.possible,
            only_where: asked.only_where,
            never_new: asked.never_new,
            groups: parts,
        })
    }
}

impl Explainer<'_> {
    /// Returns the rules and the chain policy that decide packets in a base chain, each with its packets as they arrive.
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

/// Returns the packets to an address of this host, if a set depends on that: the simplest of the types that a destination
/// may have.
fn to_local_address(space: &Space, set: Set) -> Result<Vec<Set>, GaveUp> {
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

/// Returns packets that make readable examples: documentation addresses (RFC 5737, RFC 3849) that differ for source and
/// destination, and a high source port.
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

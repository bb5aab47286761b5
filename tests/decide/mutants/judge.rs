//! What becomes of one mistake.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use fwc::internals::resolve::{Members, Plan};
use fwc::internals::verify::{DisagreementKind, RenderedRules, Verifier};
use fwc::iptables::{
    AddressTypes, Match, Module, NatTarget, Negatable, NoWalk, Ruleset, TableName, Target,
    UndecidedCondition, Unknowns, WalkTrace, follow,
};
use fwc::net::{Family, Hook, IntervalSet, Packet, PerFamily, address_of, number_of};

use super::policies::Right;
use crate::packets::{Edges, Numbers};

/// Packets of a family that are taken through the rules before they are called equal.
const PACKETS: usize = 200;

/// What becomes of a mistake in the rules of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The rules are the same, but for comments.
    Unchanged,
    /// The proof holds, and packets at the rules' borders have the same way.
    Equal,
    /// There are no rules, or they cannot be read.
    Refused,
    /// The proof fails: declarations, policies of chains, sets, limits.
    Structure,
    /// The proof fails with a packet that both walkers confirm.
    Packet,
}

/// Judges rules that a mistake was made in. An error is a mistake that nobody saw, or a contradiction.
pub fn judge(right: &Right, texts: PerFamily<String>, sets: Option<&str>) -> Result<Fate, String> {
    let compiled = &right.compiled;
    let same = |family| rules_only(&compiled.text[family]).eq(rules_only(&texts[family]));
    if sets == compiled.sets.as_deref() && Family::ALL.into_iter().all(same) {
        return Ok(Fate::Unchanged);
    }
    let Ok(rules) = RenderedRules::read(texts, sets) else {
        return Ok(Fate::Refused);
    };
    let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&rules);
    if !proof.gave_up.is_empty() {
        return Err(format!("{}: {:?}", right.name, proof.gave_up));
    }
    let mut fate = Fate::Equal;
    for disagreement in &proof.disagreements {
        fate = fate.max(match &disagreement.what {
            DisagreementKind::Internal(_, why) => {
                return Err(format!("{}: {why}: {disagreement:#?}", right.name));
            }
            DisagreementKind::Verdict(_)
            | DisagreementKind::Translation(_)
            | DisagreementKind::Logs(_)
            | DisagreementKind::Treatment(_) => Fate::Packet,
            _ => Fate::Structure,
        });
    }
    if fate == Fate::Equal {
        for family in Family::ALL {
            same_ways(right, family, rules.ruleset(family))
                .map_err(|why| format!("{}: survived: {why}", right.name))?;
        }
    }
    Ok(fate)
}

/// The lines that a kernel reads.
fn rules_only(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// Packets at the borders of both rulesets go the same way through both.
fn same_ways(right: &Right, family: Family, wrong: &Ruleset) -> Result<(), String> {
    let sets = filled_sets(&right.compiled.plan, family);
    let right = right.rulesets()[family];
    if right.is_same(wrong) {
        return Ok(());
    }
    let (edges, more) = (Edges::of(right), Edges::of(wrong));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..PACKETS {
        let edges = if round % 2 == 0 { &edges } else { &more };
        let hook = numbers.of(&Hook::ALL);
        let packet = edges.packet(&mut numbers, right.family, hook);
        let way = |ruleset: &Ruleset| {
            let journey = follow(ruleset, &packet, 0, &mut Answers { round, sets: &sets })?;
            Ok::<_, NoWalk>(seen(ruleset, &journey))
        };
        let (before, after) = (way(right), way(wrong));
        if before != after {
            return Err(format!("{before:?}, then {after:?} for {packet:?}"));
        }
    }
    Ok(())
}

fn filled_sets(plan: &Plan, family: Family) -> BTreeMap<String, IntervalSet> {
    let number = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    let sets = plan.sets.iter().filter_map(|set| match &set.members {
        Members::Static(members) => {
            let name = format!("fwc{number}-{}", set.name);
            Some((name, members.family(family).clone()))
        }
        Members::Dynamic { .. } => None,
    });
    sets.collect()
}

/// What happens in a table on a packet's way.
type Acts = (TableName, &'static str, Vec<String>);

/// What of a way can be seen: how it ends, and what happens on it.
fn seen(ruleset: &Ruleset, journey: &WalkTrace) -> (String, Vec<Acts>) {
    let steps = journey.steps.iter().map(|step| {
        let chains = &ruleset.table(step.table).unwrap().chains;
        let counted = step.walk.counted.iter();
        let mut acts: Vec<String> = Vec::new();
        for target in counted.map(|id| &chains[id.chain].rules[id.rule].target) {
            let is_log = match target {
                Target::Log(_) => true,
                Target::Other(module) => module.name == "NFLOG",
                Target::Mark(_) => false,
                _ => continue,
            };
            let text = target.to_text();
            // To do the same once more changes nothing; to log it does.
            let again = !is_log && acts.last() == Some(&text);
            // What was decided of a packet's tracking stays (`xt_ct_target` of the kernel's xt_CT.c).
            let is_tracking = |text: &String| text.starts_with("-j CT ");
            let is_settled = is_tracking(&text) && acts.iter().any(is_tracking);
            if !again && !is_settled {
                acts.push(text);
            }
        }
        (step.table, step.chain, acts)
    });
    let end = format!("{:?} {:?}", journey.verdict, journey.packet);
    (end, steps.filter(|(.., acts)| !acts.is_empty()).collect())
}

/// What a condition on the time says when there is no end: the kernel's last moment.
const NO_END: &str = "false datestop 2038-01-19T03:14:07";

/// Answers that are the same for the same question, and others in each round.
struct Answers<'a> {
    round: usize,
    /// The members of sets that the policy fills.
    sets: &'a BTreeMap<String, IntervalSet>,
}

impl Answers<'_> {
    /// Whether the conditions of a module hold: those that say the same by other words are asked the same.
    fn module(&self, module: &Module) -> bool {
        let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            let settings = module.settings.iter().filter(|one| wanted(one.name));
            settings
                .map(|one| format!("{} {} {}", one.negated, one.name, one.value))
                .collect()
        };
        let holds = |question: Vec<String>| !self.number(question).is_multiple_of(3);
        match module.name {
            // Hours and an end in one condition are as good as in two.
            "time" => {
                let zone = of(&|name| name == "kerneltz");
                let end = of(&|name| name == "datestop");
                // `--contiguous` says to which day the hours after midnight belong: without days it says nothing (`time_mt` of
                // the kernel's xt_time.c).
                let has_days = ["weekdays", "monthdays"]
                    .iter()
                    .any(|name| module.setting(name).is_some());
                let rest = of(&|name| {
                    !["kerneltz", "datestop"].contains(&name) && (has_days || name != "contiguous")
                });
                [rest, end]
                    .into_iter()
                    .filter(|asked| !asked.is_empty() && *asked != [NO_END])
                    .all(|asked| holds([asked, zone.clone()].concat()))
            }
            // One question for both.
            "policy" if of(&|name| name == "pol") == ["false pol none"] => {
                let mut ipsec = module.clone();
                for setting in ipsec.settings.iter_mut().filter(|one| one.name == "pol") {
                    setting.value = "ipsec".into();
                }
                !self.module(&ipsec)
            }
            // Its name only tells a limit from others, and a bucket that is whole again may as well be forgotten.
            name => {
                let quiet = ["hashlimit-name", "hashlimit-htable-expire"];
                let mut question = vec![name.to_owned(), format!("{}", forgets(module))];
                question.extend(of(&|name| !quiet.contains(&name)));
                holds(question)
            }
        }
    }

    fn number(&self, asked: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.round, asked).hash(&mut hasher);
        hasher.finish() >> 7
    }
}

/// Whether the kernel forgets a source before its burst is whole again, which gives it more than its rate.
fn forgets(module: &Module) -> bool {
    let number = |name| module.setting(name)?.value.parse::<u64>().ok();
    let rate = module
        .setting("hashlimit-upto")
        .or(module.setting("hashlimit-above"));
    let parts = rate.and_then(|rate| rate.value.split_once('/'));
    let Some((Ok(count), unit)) = parts.map(|(count, unit)| (count.parse::<u64>(), unit)) else {
        return false;
    };
    let unit = match unit {
        "sec" => 1_000,
        "min" => 60_000,
        "hour" => 3_600_000,
        _ => 86_400_000,
    };
    let burst = number("hashlimit-burst").unwrap_or(5);
    number("hashlimit-htable-expire").unwrap_or(unit) * count < burst * unit
}

impl Unknowns for Answers<'_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let question = asked.condition.to_text(asked.packet.family);
        Some(match asked.condition {
            // One question, whether it is negated or not.
            Match::Set(set) => {
                let packet = asked.packet;
                let address = match set.from_source[0] {
                    true => packet.source,
                    false => packet.destination,
                };
                let plain = match self.sets.get(&*set.name) {
                    Some(members) => members.contains(number_of(address)),
                    None => self.number((&set.name, &set.from_source)).is_multiple_of(2),
                };
                plain != set.negated
            }
            // An address has one type, whatever is asked about it.
            Match::AddressType(test) => {
                let is_one_of = |types: Option<Negatable<AddressTypes>>, address: IpAddr| {
                    let number = self.number((test.limit, address));
                    let kind = ["UNICAST", "LOCAL", "BROADCAST", "MULTICAST"][number as usize % 4];
                    types.is_none_or(|types| {
                        types.holds(|types| types.names().any(|name| name == kind))
                    })
                };
                is_one_of(test.source, asked.packet.source)
                    && is_one_of(test.destination, asked.packet.destination)
            }
            Match::Other(module) => self.module(module),
            _ => !self.number(question).is_multiple_of(3),
        })
    }

    fn address(&mut self, nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        let (first, last) = nat
            .addresses
            .unwrap_or((packet.destination, packet.destination));
        let (first, last) = (number_of(first), number_of(last));
        let number = first + u128::from(self.number("address")) % (last - first + 1);
        Some(address_of(packet.family, number))
    }

    fn port(&mut self, _: &NatTarget, _: &Packet) -> Option<u16> {
        Some(8080)
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        Some((packet.destination, packet.destination_port))
    }

    fn is_first(&mut self, _: &Packet) -> Option<bool> {
        Some(self.number("first").is_multiple_of(2))
    }
}

/// How many mistakes had which fate.
#[derive(Default)]
pub struct Tally(BTreeMap<String, [usize; 5]>);

impl Tally {
    pub fn count(&mut self, way: &str, fate: Fate) {
        self.0.entry(way.to_owned()).or_default()[fate as usize] += 1;
    }

    /// Counts what another has counted too.
    pub fn add(&mut self, other: &Self) {
        for (way, counts) in &other.0 {
            let own = self.0.entry(way.clone()).or_default();
            for (sum, count) in own.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }

    /// The sum of a fate.
    pub fn of(&self, fate: Fate) -> usize {
        self.0.values().map(|counts| counts[fate as usize]).sum()
    }

    /// A line for each way, and one for all.
    pub fn print(&self, of: &str) {
        println!("{of:20} by a packet  structure  refused  equal  no rule changed");
        let line = |way: &str, [unchanged, equal, refused, structure, packet]: [usize; 5]| {
            println!("  {way:20} {packet:9} {structure:10} {refused:8} {equal:6} {unchanged:16}");
        };
        let mut all = [0; 5];
        for (way, counts) in &self.0 {
            line(way, *counts);
            for (sum, count) in all.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        line("all", all);
    }
}

//! Finds the rules that decide the packets of a set.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;

use super::behaviour::BaseChain;
use super::field::Field;
use super::flow::{Does, RuleStep};
use super::space::{Set, Space};
use super::text::{ConditionReader, Reading};
use super::verdicts::Verdict;
use super::writes::Writes;
use super::{GaveUp, TextError, targets};
use crate::iptables::{ChainPolicy, Rule, RuleId, Ruleset, Table, TableName, Target};

/// A rule, or a policy, and the packets that it decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The rule; `None` if the policy of the base chain decides.
    pub rule: Option<RuleId>,
    /// The verdict of the table.
    pub verdict: Verdict,
    /// The packets; never an empty set.
    pub packets: Set,
}

/// The deepest nesting of chains before the search gives up, because it recurses from chain to chain.
const DEEPEST: usize = 1000;
/// The most visits of rules before the search gives up. A rule is visited once for each time that packets reach its
/// chain.
const MOST_VISITS: usize = 2_000_000;

/// Finds the rules of a ruleset that decide given packets.
///
/// A [`Behaviour`](super::Behaviour) does not keep which rule decided: if it did, rules with the same verdict would be
/// different outcomes, and its diagrams much larger. So this is a search of its own, for sets that a caller asks about.
///
/// ```
/// use fwc::analysis::{BaseChain, Deciders, Reading, Space};
/// use fwc::iptables::{Ruleset, TableName};
/// use fwc::net::Family;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -j DROP\nCOMMIT\n";
/// let ruleset = Ruleset::from_text(text, Family::V4)?;
/// let space = Space::new(Family::V4);
/// let place = (TableName::Filter, BaseChain::Input);
/// let reading = Reading::default();
/// let deciders = Deciders::new(&space, &ruleset, &reading)?;
/// let decided = deciders.of(place, space.all())?;
/// let rules: Vec<_> = decided.iter().map(|one| one.rule.map(|id| id.rule)).collect();
/// assert_eq!(rules, [Some(0), None]); // the second rule decides nothing
/// # Ok(())
/// # }
/// ```
pub struct Deciders<'a> {
    space: &'a Space,
    reader: ConditionReader<'a>,
    tables: BTreeMap<TableName, Chains<'a>>,
}

/// The chains of a table.
struct Chains<'a> {
    table: &'a Table,
    index: HashMap<&'a str, usize>,
    /// The prepared rules of each chain, once packets reached it.
    rules: Vec<OnceCell<Vec<Prepared>>>,
}

impl<'a> Deciders<'a> {
    /// Prepares the search in a ruleset. The space must be of its family.
    pub fn new(
        space: &'a Space,
        ruleset: &'a Ruleset,
        reading: &'a Reading<'a>,
    ) -> Result<Self, TextError> {
        let chains = |table: &'a Table| {
            let names = table.chains.iter().map(|chain| &*chain.name);
            Chains {
                table,
                index: names.zip(0..).collect(),
                rules: table.chains.iter().map(|_| OnceCell::new()).collect(),
            }
        };
        let tables = ruleset.tables.iter();
        Ok(Self {
            space,
            reader: ConditionReader::new(space, ruleset, reading)?,
            tables: tables.map(|table| (table.name, chains(table))).collect(),
        })
    }

    /// Returns what decides the packets of a set in a table, in the order in which the packets meet it. Together the
    /// results are the set.
    pub fn of(
        &self,
        (table, base): (TableName, BaseChain),
        packets: Set,
    ) -> Result<Vec<Decided>, TextError> {
        let found = self.tables.get(&table);
        let found = found.and_then(|chains| Some((chains, *chains.index.get(base.as_str())?)));
        let Some((chains, chain)) = found else {
            let (rule, verdict) = (None, Verdict::Accept);
            return Ok(vec![Decided {
                rule,
                verdict,
                packets,
            }]);
        };
        let mut search = Search {
            deciders: self,
            chains,
            space: self.space,
            found: IndexMap::new(),
            visits: 0,
        };
        // Later fragments never get to INPUT. They are added to what decides the whole packet.
        let is_whole = base == BaseChain::Input;
        let space = self.space;
        let looked_at = match is_whole {
            true => space.and(packets, space.range(Field::Fragment, 0, 0)?)?,
            false => packets,
        };
        let left = search.chain(chain, Moving::from([(Writes::SAME, looked_at)]), 0)?;
        let verdict = match chains.table.chains[chain].policy {
            Some(ChainPolicy::Drop) => Verdict::Drop,
            _ => Verdict::Accept,
        };
        for (_, packets) in left {
            search.decide(None, verdict.clone(), packets)?;
        }
        let found = search.found.into_iter();
        let decided = found.map(|((rule, verdict), set)| {
            let packets = match is_whole {
                true => space.and(packets, space.whatever(set, Field::Fragment)?)?,
                false => set,
            };
            Ok(Decided {
                rule,
                verdict,
                packets,
            })
        });
        decided.collect()
    }

    fn rules<'c>(&self, chains: &'c Chains<'_>, chain: usize) -> Result<&'c [Prepared], TextError> {
        if let Some(known) = chains.rules[chain].get() {
            return Ok(known);
        }
        let rules = (0..).zip(&chains.table.chains[chain].rules);
        let prepared: Result<Vec<_>, _> = rules
            .map(|(at, rule)| self.prepared(chains, RuleId { chain, rule: at }, rule))
            .collect();
        let prepared = prepared?;
        Ok(chains.rules[chain].get_or_init(|| prepared))
    }

    fn prepared(
        &self,
        chains: &Chains<'_>,
        id: RuleId,
        rule: &Rule,
    ) -> Result<Prepared, TextError> {
        let when = self.reader.when(chains.table.name, id, rule)?;
        let callee = |name: &str| {
            let found = chains.index.get(name).copied();
            found.ok_or_else(|| TextError::NoChain(name.into()))
        };
        let does = match &rule.target {
            Target::Jump(name) => Doing::Jump(callee(name)?),
            Target::Goto(name) => Doing::Goto(callee(name)?),
            target => {
                let mut steps = Vec::new();
                targets::add_steps(self.space, target, when, &mut steps)?;
                let quiet = |step: &RuleStep| matches!(step.does, Does::Effect(_));
                match &steps[..] {
                    steps if steps.iter().all(quiet) => Doing::Nothing,
                    [
                        RuleStep {
                            does: Does::Verdict(verdict),
                            ..
                        },
                    ] => Doing::Verdict(verdict.clone()),
                    _ => Doing::Steps(steps),
                }
            }
        };
        Ok(Prepared { when, does })
    }
}

/// Packets inside a table, as they entered it, by what was written into them since. No set is empty.
type Moving = BTreeMap<Writes, Set>;

struct Search<'a> {
    deciders: &'a Deciders<'a>,
    chains: &'a Chains<'a>,
    space: &'a Space,
    found: IndexMap<(Option<RuleId>, Verdict), Set>,
    visits: usize,
}

struct Prepared {
    when: Set,
    does: Doing,
}

enum Doing {
    /// The packets go to the next rule unchanged.
    Nothing,
    Verdict(Verdict),
    Jump(usize),
    Goto(usize),
    Steps(Vec<RuleStep>),
}

/// Neighbouring rules that end the table, each with the packets that match it. Between them are only rules that none of
/// the packets match.
type Run = Vec<(RuleId, Verdict, Moving)>;

impl Search<'_> {
    /// Sends packets through a chain. Returns those that leave it at its end or by RETURN.
    fn chain(&mut self, chain: usize, moving: Moving, depth: usize) -> Result<Moving, TextError> {
        if depth > DEEPEST {
            return Err(GaveUp::TooLarge.into());
        }
        let rules = self.deciders.rules(self.chains, chain)?;
        let (mut moving, mut returned) = (moving, Moving::new());
        let mut run = Run::new();
        for (number, rule) in rules.iter().enumerate() {
            if moving.is_empty() {
                break;
            }
            // A log line or a counter decides nothing.
            if matches!(rule.does, Doing::Nothing) {
                continue;
            }
            let here = self.both(&moving, rule.when)?;
            if here.is_empty() {
                continue;
            }
            self.visits += 1;
            if self.visits > MOST_VISITS {
                return Err(GaveUp::TooLong.into());
            }
            let id = RuleId {
                chain,
                rule: number,
            };
            // Collected first: taking each rule of a long block list out of the packets by itself would rebuild them
            // thousands of times.
            if let Doing::Verdict(verdict) = &rule.does {
                run.push((id, verdict.clone(), here));
                continue;
            }
            if !run.is_empty() {
                moving = self.end(std::mem::take(&mut run), moving)?;
            }
            let (here, missed) = self.split(moving, rule.when)?;
            let left = self.rule(id, rule, here, &mut returned, depth)?;
            moving = self.join(missed, left)?;
        }
        let left = self.end(run, moving)?;
        Ok(self.join(left, returned)?)
    }

    /// Decides the packets that a run of rules matches. The rules are joined as a tree of unions, so that a block list
    /// of thousands of rules costs little more than its union.
    fn end(&mut self, run: Run, moving: Moving) -> Result<Moving, GaveUp> {
        let mut unions = vec![
            run.iter()
                .map(|(.., here)| here.clone())
                .collect::<Vec<_>>(),
        ];
        while let Some(last) = unions.last().filter(|last| last.len() > 1) {
            let mut next = Vec::with_capacity(last.len().div_ceil(2));
            for pair in last.chunks(2) {
                next.push(match pair {
                    [one, other] => self.join(one.clone(), other.clone())?,
                    _ => pair[0].clone(),
                });
            }
            unions.push(next);
        }
        let top = unions.len() - 1;
        let Some(union) = unions[top].first() else {
            return Ok(moving);
        };
        let (here, missed) = self.apart(&moving, union)?;
        self.end_some(&run, &unions, (top, 0), here)?;
        Ok(missed)
    }

    /// Decides packets that match some rules of a run: those below one node of the tree of unions.
    fn end_some(
        &mut self,
        run: &Run,
        unions: &[Vec<Moving>],
        (level, at): (usize, usize),
        here: Moving,
    ) -> Result<(), GaveUp> {
        if here.is_empty() {
            return Ok(());
        }
        if level == 0 {
            let (id, verdict, _) = &run[at];
            for packets in here.into_values() {
                self.decide(Some(*id), verdict.clone(), packets)?;
            }
            return Ok(());
        }
        let (left, right) = self.apart(&here, &unions[level - 1][2 * at])?;
        self.end_some(run, unions, (level - 1, 2 * at), left)?;
        match unions[level - 1].len() > 2 * at + 1 {
            true => self.end_some(run, unions, (level - 1, 2 * at + 1), right),
            false => Ok(()),
        }
    }

    /// Sends packets through a rule that they match. Returns those that go to the next rule.
    fn rule(
        &mut self,
        id: RuleId,
        rule: &Prepared,
        moving: Moving,
        returned: &mut Moving,
        depth: usize,
    ) -> Result<Moving, TextError> {
        match &rule.does {
            Doing::Nothing => Ok(moving),
            Doing::Verdict(verdict) => {
                for packets in moving.into_values() {
                    self.decide(Some(id), verdict.clone(), packets)?;
                }
                Ok(Moving::new())
            }
            Doing::Jump(callee) => self.chain(*callee, moving, depth + 1),
            Doing::Goto(callee) => {
                let back = self.chain(*callee, moving, depth + 1)?;
                *returned = self.join(std::mem::take(returned), back)?;
                Ok(Moving::new())
            }
            Doing::Steps(steps) => Ok(self.steps(id, steps, moving, returned)?),
        }
    }

    fn steps(
        &mut self,
        id: RuleId,
        steps: &[RuleStep],
        mut moving: Moving,
        returned: &mut Moving,
    ) -> Result<Moving, GaveUp> {
        for step in steps {
            let (here, missed) = self.split(moving, step.when)?;
            let left = match &step.does {
                Does::Verdict(verdict) => {
                    for packets in here.into_values() {
                        self.decide(Some(id), verdict.clone(), packets)?;
                    }
                    Moving::new()
                }
                Does::Return => {
                    *returned = self.join(std::mem::take(returned), here)?;
                    Moving::new()
                }
                Does::Change(writes) => {
                    let mut changed = Moving::new();
                    for (before, packets) in here {
                        let one = Moving::from([(writes.after(before), packets)]);
                        changed = self.join(changed, one)?;
                    }
                    changed
                }
                Does::Effect(_) | Does::Run(_) => here,
            };
            moving = self.join(missed, left)?;
        }
        Ok(moving)
    }

    fn decide(
        &mut self,
        rule: Option<RuleId>,
        verdict: Verdict,
        packets: Set,
    ) -> Result<(), GaveUp> {
        let before = self.found.entry((rule, verdict));
        let set = before.or_insert_with(|| self.space.none());
        *set = self.space.or(*set, packets)?;
        Ok(())
    }

    /// Returns the packets for which a condition holds, with what was written into them.
    fn both(&self, moving: &Moving, when: Set) -> Result<Moving, GaveUp> {
        let mut here = Moving::new();
        for (writes, packets) in moving {
            let packets = self
                .space
                .and(*packets, self.space.set_seen(when, *writes)?)?;
            if packets != self.space.none() {
                here.insert(*writes, packets);
            }
        }
        Ok(here)
    }

    /// Splits packets into those for which a condition holds, and the others.
    fn split(&self, moving: Moving, when: Set) -> Result<(Moving, Moving), GaveUp> {
        let here = self.both(&moving, when)?;
        self.apart(&moving, &here)
    }

    /// Splits packets into those that are among `others`, and the rest.
    fn apart(&self, moving: &Moving, others: &Moving) -> Result<(Moving, Moving), GaveUp> {
        let none = self.space.none();
        let (mut inside, mut outside) = (Moving::new(), Moving::new());
        for (writes, packets) in moving {
            let others = others.get(writes).copied().unwrap_or(none);
            let parts = [
                (&mut inside, self.space.and(*packets, others)?),
                (&mut outside, self.space.minus(*packets, others)?),
            ];
            for (to, part) in parts.into_iter().filter(|(_, part)| *part != none) {
                to.insert(*writes, part);
            }
        }
        Ok((inside, outside))
    }

    fn join(&self, mut one: Moving, other: Moving) -> Result<Moving, GaveUp> {
        for (writes, packets) in other {
            let before = one.get(&writes).copied().unwrap_or(self.space.none());
            one.insert(writes, self.space.or(before, packets)?);
        }
        Ok(one)
    }
}

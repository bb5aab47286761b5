//! Which rules decide the packets of a set.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;

use super::GaveUp;
use super::behaviour::BaseChain;
use super::field::Field;
use super::flow::{Does, Step};
use super::space::{Set, Space};
use super::text::{Reader, Reading, TextError};
use super::verdicts::Verdict;
use super::writes::Writes;
use crate::iptables::{Policy, Rule, RuleId, Ruleset, Table, TableName, Target};

/// What decides some packets in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The rule; `None` where the base chain's policy decides.
    pub rule: Option<RuleId>,
    /// How the table ends for them.
    pub verdict: Verdict,
    /// The packets; never none.
    pub packets: Set,
}

/// Chains that call each other deeper than this are given up.
const DEEPEST: usize = 1000;
/// More rules than this are not looked at, each as often as packets come to it.
const MOST_VISITS: usize = 2_000_000;

/// Which rules of a ruleset decide, for sets that are asked about.
///
/// A whole behaviour does not need to know who decided ([`Behaviour`](super::Behaviour)).
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
    reader: Reader<'a>,
    tables: BTreeMap<TableName, Chains<'a>>,
}

/// The chains of a table.
struct Chains<'a> {
    table: &'a Table,
    index: HashMap<&'a str, usize>,
    /// What the rules of each chain do, once packets came to it.
    rules: Vec<OnceCell<Vec<Prepared>>>,
}

impl<'a> Deciders<'a> {
    /// Those of a ruleset. The space must be of its family.
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
            reader: Reader::new(space, ruleset, reading)?,
            tables: tables.map(|table| (table.name, chains(table))).collect(),
        })
    }

    /// What decides the packets of a set in a table, in the order in which they meet it: together they are the set.
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
        // No fragment comes to INPUT that is not the first: one that did would go as the whole packet does.
        let is_whole = base == BaseChain::Input;
        let space = self.space;
        let looked_at = match is_whole {
            true => space.and(packets, space.range(Field::Fragment, 0, 0)?)?,
            false => packets,
        };
        let left = search.chain(chain, Moving::from([(Writes::SAME, looked_at)]), 0)?;
        let verdict = match chains.table.chains[chain].policy {
            Some(Policy::Drop) => Verdict::Drop,
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
                self.reader.target(target, when, &mut steps)?;
                let quiet = |step: &Step| matches!(step.does, Does::Effect(_));
                match &steps[..] {
                    steps if steps.iter().all(quiet) => Doing::Nothing,
                    [
                        Step {
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

/// Packets on their way, as they came into the table, by what was written into them; no set is empty.
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
    /// The packets go on as they are.
    Nothing,
    Verdict(Verdict),
    Jump(usize),
    Goto(usize),
    Steps(Vec<Step>),
}

/// Neighbours that end the table, each with the packets that match it; others do not stand between them that some packet
/// matches.
type Run = Vec<(RuleId, Verdict, Moving)>;

impl Search<'_> {
    /// Takes packets through a chain; what comes out at its end or by RETURN.
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

    /// Ends the way of the packets that a run of rules matches: in halves, so that the sets of many rules are put together
    /// few times.
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

    /// Ends the way of packets that match some of a run: those below a node of the tree of unions.
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

    /// What becomes of packets that match a rule.
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
        steps: &[Step],
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

    /// Those that a condition holds for, by what they are now.
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

    /// Those that a condition holds for, and the others.
    fn split(&self, moving: Moving, when: Set) -> Result<(Moving, Moving), GaveUp> {
        let here = self.both(&moving, when)?;
        self.apart(&moving, &here)
    }

    /// Those that are among some others, and the rest.
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

//! Maps from packets to outcomes: the verdict of a run of rules for each packet, or that no rule decided.

use std::cell::RefCell;
use std::collections::BTreeMap;

use indexmap::IndexSet;
use rustc_hash::FxHashMap;

use super::GaveUp;
use super::diagram::{Diagrams, Operation, Ref};
use super::field::Field;
use super::flow::Effect;
use super::mark::{MarkWord, Marks};
use super::space::{Set, Space, operation};
use super::translation::Translation;
use super::writes::Writes;

/// The final decision of a table about a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The packet passes.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The packet is dropped and its sender answered; the word after `--reject-with`.
    Reject(Box<str>),
    /// The packet's connection is translated, and the packet passes.
    Nat(Translation),
    /// Another target that ends the table (`NFQUEUE`, `TPROXY`), as `iptables-save` prints it.
    Target(Box<str>),
}

/// How a packet leaves a run of rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum RunExit {
    /// It passes the last rule without a decision.
    Falls,
    /// A rule with RETURN sends it back to the calling chain.
    Returns,
    /// A gap that the next step of an operation fills; never in a finished map.
    Gap,
    /// A verdict decides it.
    Ends(Verdict),
}

/// A terminal of [`Verdicts`]: the exit of its packets, and what was written into them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct VerdictLeaf {
    pub exit: RunExit,
    /// What rules wrote into the packet, by its number in the space; 0 is nothing.
    pub writes: u32,
}

impl VerdictLeaf {
    /// Returns the outcomes that every space has, in the order of the terminals below.
    pub fn fixed() -> [Self; 3] {
        [RunExit::Falls, RunExit::Returns, RunExit::Gap].map(|exit| Self { exit, writes: 0 })
    }
}

const NO: Ref = Ref::terminal(0);
const YES: Ref = Ref::terminal(1);
const FALLS: Ref = Ref::terminal(0);
const GAP: Ref = Ref::terminal(2);

/// The decision of a run of rules for each packet: a verdict, or none, so that the next rule decides.
///
/// It also holds what the rules write into the packet, such as its mark, except for dropped packets. Without writes
/// equal maps are equal values. With writes two different values may mean the same for all packets; [`Space::differ`]
/// is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verdicts(pub(super) Ref);

impl Space {
    /// Returns the map without a decision for any packet.
    pub fn undecided(&self) -> Verdicts {
        Verdicts(FALLS)
    }

    /// Returns the map with the same verdict for every packet.
    pub fn verdict(&self, verdict: Verdict) -> Verdicts {
        Verdicts(self.outcome(RunExit::Ends(verdict), 0))
    }

    /// Returns the map that sends every packet back to the calling chain.
    pub fn returns(&self) -> Verdicts {
        Verdicts(self.outcome(RunExit::Returns, 0))
    }

    /// Returns the map that makes every packet's mark `(mark & !mask) ^ value` and decides nothing.
    pub fn set_mark(&self, value: u32, mask: u32) -> Verdicts {
        self.change(Marks::set_packet(value, mask))
    }

    /// Returns the decisions for packets for which the condition holds, and no decision for others.
    pub fn guard(&self, condition: Set, verdicts: Verdicts) -> Result<Verdicts, GaveUp> {
        self.apply(
            operation::GUARD,
            condition.0,
            verdicts.0,
            |_, condition, verdicts| match condition.number() {
                Some(0) => Some(FALLS),
                Some(_) => Some(verdicts),
                None => (verdicts == FALLS).then_some(FALLS),
            },
        )
        .map(Verdicts)
    }

    /// Returns the decisions of `yes` where the condition holds and those of `no` elsewhere.
    pub fn choose(&self, condition: Set, yes: Verdicts, no: Verdicts) -> Result<Verdicts, GaveUp> {
        let picked =
            self.apply(
                operation::PICK,
                condition.0,
                yes.0,
                |_, condition, yes| match condition.number() {
                    Some(0) => Some(GAP),
                    Some(_) => Some(yes),
                    None => (yes == GAP).then_some(GAP),
                },
            )?;
        // Two steps with two operands each, because the cache and the walk only know operations of two diagrams.
        self.fill(operation::FILL, picked, GAP, no.0).map(Verdicts)
    }

    /// Returns the decisions of the first map, and of the second where the first decides nothing.
    ///
    /// ```
    /// # use fwc::analysis::{Space, Verdict};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let tcp = space.protocol(Protocol::TCP)?;
    /// let accept_tcp = space.guard(tcp, space.verdict(Verdict::Accept))?;
    /// let all = space.seq(accept_tcp, space.verdict(Verdict::Drop))?;
    /// assert_eq!(space.decided(all, &Verdict::Accept)?, tcp);
    /// assert_eq!(space.decided(all, &Verdict::Drop)?, space.not(tcp)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn seq(&self, first: Verdicts, second: Verdicts) -> Result<Verdicts, GaveUp> {
        let make = || Ok(self.made_seq(first, second)?.0);
        self.once(operation::SEQUENCE, (first.0, second.0), make)
            .map(Verdicts)
    }

    fn made_seq(&self, first: Verdicts, second: Verdicts) -> Result<Verdicts, GaveUp> {
        let mut all = self.fill(operation::SEQUENCE, first.0, FALLS, second.0)?;
        // Later rules match what earlier rules wrote.
        if !self.writes_and_falls(first) {
            return Ok(Verdicts(all));
        }
        for (outcome, here) in self.by_outcome(first)? {
            if outcome.exit == RunExit::Falls && outcome.writes != 0 {
                // With hundreds of marks each outcome has few packets, and rewriting the whole second map for each
                // would be most of the work. So the second map is first cut down to packets like these, by the fields
                // in front.
                let writes = self.writes_of(outcome.writes);
                let mut roughly = self.front(here, Field::Source)?;
                if writes.state.is_some() {
                    roughly = self.whatever(roughly, Field::State)?;
                }
                let second = self.guard(roughly, second)?;
                let second = self.see_writes(second.0, writes)?;
                all = self.choose(here, Verdicts(second), Verdicts(all))?.0;
            }
        }
        Ok(Verdicts(all))
    }

    /// Returns the packets that get this verdict, whatever was written into them.
    pub fn decided(&self, verdicts: Verdicts, verdict: &Verdict) -> Result<Set, GaveUp> {
        self.exits(verdicts, |exit| *exit == RunExit::Ends(verdict.clone()))
    }

    /// Returns the packets that no rule decides.
    pub fn falls(&self, verdicts: Verdicts) -> Result<Set, GaveUp> {
        self.map(operation::FALLS, verdicts.0, |number| {
            Ref::terminal((self.outcome_of(number).exit == RunExit::Falls).into())
        })
        .map(Set)
    }

    /// Returns the packets of each verdict, and under `None` those that no rule decides.
    pub fn parts(&self, verdicts: Verdicts) -> Result<BTreeMap<Option<Verdict>, Set>, GaveUp> {
        let mut parts = BTreeMap::new();
        for (outcome, set) in self.by_outcome(verdicts)? {
            let verdict = match outcome.exit {
                RunExit::Ends(verdict) => Some(verdict),
                _ => None,
            };
            let before = parts.get(&verdict).copied().unwrap_or(self.none());
            parts.insert(verdict, self.or(before, set)?);
        }
        Ok(parts)
    }

    /// Returns the packets for which two maps differ in verdict or mark, by verdict before and verdict after. Exact.
    ///
    /// ```
    /// # use fwc::analysis::{Space, Verdict};
    /// # use fwc::net::{Family, Protocol};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let tcp = space.protocol(Protocol::TCP)?;
    /// let drop = space.verdict(Verdict::Drop);
    /// let open = space.choose(tcp, space.verdict(Verdict::Accept), drop)?;
    /// let changes = space.changes(drop, open)?;
    /// assert_eq!(changes, [((Verdict::Drop, Verdict::Accept), tcp)].into());
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(
        &self,
        before: Verdicts,
        after: Verdicts,
    ) -> Result<BTreeMap<(Verdict, Verdict), Set>, GaveUp> {
        let mut changes = BTreeMap::new();
        // Other writes are effects as well, which are compared by name.
        let marks = |one: Writes, two: Writes| self.marks_differ(one.marks, two.marks);
        for ([before, after], packets) in self.pairs(before, after, marks)? {
            if let (RunExit::Ends(before), RunExit::Ends(after)) = (before.exit, after.exit) {
                let known = changes.entry((before, after)).or_insert(self.none());
                *known = self.or(*known, packets)?;
            }
        }
        Ok(changes)
    }

    /// Returns the packets that keep their verdict but get another hop limit or type of service, by what the rules of each
    /// map do to these fields altogether. Exact.
    pub fn header_changes(
        &self,
        before: Verdicts,
        after: Verdicts,
    ) -> Result<BTreeMap<[Effect; 2], Set>, GaveUp> {
        let mut changes = BTreeMap::new();
        let header = |one: Writes, two: Writes| self.writes_differ(one.header(), two.header());
        for (outcomes, packets) in self.pairs(before, after, header)? {
            if outcomes[0].exit != outcomes[1].exit {
                continue;
            }
            let writes = outcomes.map(|outcome| self.writes_of(outcome.writes));
            let effects = writes.map(|writes| writes.header_effect(self.family()));
            let known = changes.entry(effects).or_insert(self.none());
            *known = self.or(*known, packets)?;
        }
        Ok(changes)
    }

    /// Returns the packets for which two maps differ in verdict or in what was written into them. Exact.
    pub fn differ(&self, left: Verdicts, right: Verdicts) -> Result<Set, GaveUp> {
        if self.writes.borrow().len() > 1 {
            let written = |one, two| self.writes_differ(one, two);
            let pairs = self.pairs(left, right, written)?.into_iter();
            return self.any(pairs.map(|(_, packets)| packets));
        }
        // Without writes two terminals differ exactly if their exits do.
        self.apply(self.fresh(), left.0, right.0, |_, left, right| {
            if left == right {
                return Some(NO);
            }
            left.number().and(right.number()).map(|_| YES)
        })
        .map(Set)
    }

    /// Returns the packets for which two maps differ in verdict, whatever was written into them.
    pub fn ends_differ(&self, left: Verdicts, right: Verdicts) -> Result<Set, GaveUp> {
        let pairs = self.pairs(left, right, |_, _| Ok(self.none()))?;
        self.any(pairs.into_iter().map(|(_, packets)| packets))
    }

    /// Returns the packets of each pair of different outcomes: different exits, or the same exit and writes that
    /// `differ` says leave these packets different. None of the sets is empty.
    fn pairs(
        &self,
        left: Verdicts,
        right: Verdicts,
        differ: impl Fn(Writes, Writes) -> Result<Set, GaveUp>,
    ) -> Result<Vec<([VerdictLeaf; 2], Set)>, GaveUp> {
        // Each pair of outcomes gets a terminal of its own; 0 is where both are the same.
        let pairs = RefCell::new(IndexSet::new());
        let paired = self.apply(self.fresh(), left.0, right.0, |_, left, right| {
            if left == right {
                return Some(NO);
            }
            let pair = [left.number()?, right.number()?];
            let (index, _) = pairs.borrow_mut().insert_full(pair);
            Some(Ref::terminal(index as u32 + 1))
        })?;
        let pairs = pairs.into_inner();
        let mut found = Vec::new();
        for (number, mut packets) in self.by_terminal(paired)? {
            let index = (number as usize).checked_sub(1);
            let Some(pair) = index.and_then(|index| pairs.get_index(index)) else {
                continue;
            };
            let [left, right] = pair.map(|number| self.outcome_of(number));
            if left.exit == right.exit {
                // Two writes may agree for some packets: setting the mark to 0 changes nothing for a packet that has 0.
                let [left, right] =
                    [left.writes, right.writes].map(|writes| self.writes_of(writes));
                packets = self.and(packets, differ(left, right)?)?;
            }
            if packets != self.none() {
                found.push(([left, right], packets));
            }
        }
        Ok(found)
    }

    /// Returns the verdict for one packet given by its fields' values (`None` if no rule decides), and its mark
    /// afterwards.
    pub fn verdict_of(
        &self,
        verdicts: Verdicts,
        value: impl Fn(Field) -> u128,
    ) -> (Option<Verdict>, u32) {
        let terminal = self.find(verdicts.0, &value).number().unwrap_or_default();
        let outcome = self.outcome_of(terminal);
        let word = |field: fn(u8) -> Field| {
            (0..32).fold(0u32, |word, bit| {
                word | (value(field(bit)) as u32 & 1) << bit
            })
        };
        let (packet, connection) = (word(Field::Mark), word(Field::ConnectionMark));
        let marks = self.writes_of(outcome.writes).marks;
        let marks = marks.apply(packet, connection);
        match outcome.exit {
            RunExit::Ends(verdict) => (Some(verdict), marks.0),
            _ => (None, marks.0),
        }
    }
}

/// Building blocks for the other files of the engine.
impl Space {
    pub(super) fn outcome(&self, exit: RunExit, writes: u32) -> Ref {
        // No later rule sees a packet that is gone, so its writes are forgotten, and more maps are equal.
        let gone = matches!(exit, RunExit::Ends(Verdict::Drop | Verdict::Reject(_)));
        let writes = if gone { 0 } else { writes };
        let (number, _) = self
            .outcomes
            .borrow_mut()
            .insert_full(VerdictLeaf { exit, writes });
        Ref::terminal(number as u32)
    }

    pub(super) fn outcome_of(&self, terminal: u32) -> VerdictLeaf {
        let outcomes = self.outcomes.borrow();
        let found = outcomes.get_index(terminal as usize);
        found.cloned().unwrap_or(VerdictLeaf {
            exit: RunExit::Falls,
            writes: 0,
        })
    }

    pub(super) fn writes_of(&self, number: u32) -> Writes {
        let writes = self.writes.borrow();
        writes
            .get_index(number as usize)
            .copied()
            .unwrap_or(Writes::SAME)
    }

    /// Returns the map that writes into every packet and decides nothing.
    pub(super) fn change(&self, writes: impl Into<Writes>) -> Verdicts {
        let (number, _) = self.writes.borrow_mut().insert_full(writes.into());
        Verdicts(self.outcome(RunExit::Falls, number as u32))
    }

    /// Returns the map with other exits. The cache key is the operation with its right-hand terminal, so the two must
    /// determine `other`.
    pub(super) fn exit_by(
        &self,
        verdicts: Verdicts,
        (operation, side): (Operation, Ref),
        other: impl Fn(&RunExit) -> Option<RunExit>,
    ) -> Result<Verdicts, GaveUp> {
        let number = |terminal| {
            let outcome = self.outcome_of(terminal);
            match other(&outcome.exit) {
                Some(exit) => self.outcome(exit, outcome.writes),
                None => Ref::terminal(terminal),
            }
        };
        let leaf = |_: &Diagrams, left: Ref, _| left.number().map(&number);
        let make = || self.apply(operation, verdicts.0, side, leaf);
        self.once(operation, (verdicts.0, side), make).map(Verdicts)
    }

    /// Returns the packets that leave by one of the wanted exits.
    pub(super) fn exits(
        &self,
        verdicts: Verdicts,
        wanted: impl Fn(&RunExit) -> bool,
    ) -> Result<Set, GaveUp> {
        let number = |terminal| Ref::terminal(wanted(&self.outcome_of(terminal).exit).into());
        self.map(self.fresh(), verdicts.0, number).map(Set)
    }

    /// Returns the numbers of a diagram's terminals, ascending.
    pub(super) fn terminals(&self, diagram: Ref) -> Vec<u32> {
        let diagrams = self.diagrams.borrow();
        let mut found: Vec<u32> = diagrams.below(diagram).filter_map(Ref::number).collect();
        found.sort_unstable();
        found
    }

    fn fill(&self, operation: Operation, first: Ref, gap: Ref, second: Ref) -> Result<Ref, GaveUp> {
        self.apply(operation, first, second, |_, first, second| {
            match first.number() {
                _ if first == gap => Some(second),
                Some(_) => Some(first),
                None => (second == gap).then_some(first),
            }
        })
    }

    /// Returns the packets of each outcome.
    pub(super) fn by_outcome(&self, verdicts: Verdicts) -> Result<Vec<(VerdictLeaf, Set)>, GaveUp> {
        let all = self.by_terminal(verdicts.0)?.into_iter();
        Ok(all
            .map(|(number, set)| (self.outcome_of(number), set))
            .collect())
    }

    /// Returns the packets of each terminal, computed in one pass: its cost is that of the sets that come out.
    fn by_terminal(&self, diagram: Ref) -> Result<Vec<(u32, Set)>, GaveUp> {
        let mut nodes: Vec<(u32, Ref)> = {
            let diagrams = self.diagrams.borrow();
            let below = diagrams.below(diagram);
            below.map(|at| (diagrams.variable(at), at)).collect()
        };
        // From the bottom up: a terminal's variable is the greatest.
        nodes.sort_unstable_by_key(|(variable, _)| std::cmp::Reverse(*variable));
        let mut sets: FxHashMap<Ref, Vec<(u32, Ref)>> = FxHashMap::default();
        for (variable, at) in nodes {
            let found = match at.number() {
                Some(number) => vec![(number, YES)],
                None => self.node_by_terminal(variable, at, &sets)?,
            };
            sets.insert(at, found);
        }
        let all = sets.remove(&diagram).unwrap_or_default().into_iter();
        Ok(all.map(|(number, set)| (number, Set(set))).collect())
    }

    /// Returns the packets of each terminal for one node, given the sets of the nodes below it.
    fn node_by_terminal(
        &self,
        variable: u32,
        node: Ref,
        below: &FxHashMap<Ref, Vec<(u32, Ref)>>,
    ) -> Result<Vec<(u32, Ref)>, GaveUp> {
        let mut diagrams = self.diagrams.borrow_mut();
        let edges: Vec<(u128, Ref)> = diagrams.runs(node).collect();
        let mut runs: BTreeMap<u32, Vec<(u128, Ref)>> = BTreeMap::new();
        for (at, (first, target)) in edges.iter().enumerate() {
            for &(number, set) in below.get(target).map(Vec::as_slice).unwrap_or_default() {
                let runs = runs.entry(number).or_default();
                if runs.is_empty() && *first > 0 {
                    runs.push((0, NO));
                }
                runs.push((*first, set));
                // The packets of this terminal end here unless the next run continues them.
                if let Some((next, _)) = edges.get(at + 1) {
                    runs.push((*next, NO));
                }
            }
        }
        let node = |(number, mut runs): (u32, Vec<(u128, Ref)>)| {
            // A run is empty if the next one begins at the same value.
            let mut kept: Vec<(u128, Ref)> = Vec::with_capacity(runs.len());
            for run in runs.drain(..) {
                if kept.last().is_some_and(|last| last.0 == run.0) {
                    kept.pop();
                }
                if kept.last().is_none_or(|last| last.1 != run.1) {
                    kept.push(run);
                }
            }
            Ok((number, diagrams.node(variable, &kept)?))
        };
        runs.into_iter().map(node).collect()
    }

    /// Returns the packets for which two changes leave different marks, of packet or connection.
    pub(super) fn marks_differ(&self, one: Marks, two: Marks) -> Result<Set, GaveUp> {
        let words = [(one.packet, two.packet), (one.connection, two.connection)];
        let mut set = self.none();
        for (one, two) in words.into_iter().filter(|(one, two)| one != two) {
            for bit in 0..32 {
                set = self.or(set, self.word_bit(one.xor(two), bit)?)?;
            }
        }
        Ok(set)
    }

    /// Returns the packets whose own mark differs after the two changes, whatever the connection's mark.
    pub(super) fn mark_changes(&self, one: Marks, two: Marks) -> Result<Set, GaveUp> {
        let connection = Marks::SAME.connection;
        self.marks_differ(Marks { connection, ..one }, Marks { connection, ..two })
    }

    /// Returns `true` if rules wrote something into packets that no rule decided yet.
    pub(super) fn writes_and_falls(&self, verdicts: Verdicts) -> bool {
        let is_written = |number| {
            let outcome = self.outcome_of(number);
            outcome.exit == RunExit::Falls && outcome.writes != 0
        };
        self.writes.borrow().len() > 1 && self.terminals(verdicts.0).into_iter().any(is_written)
    }

    /// Returns a map as it applies to packets that were written into before: its questions are about what the packets
    /// are after the write, and its outcomes then contain both writes.
    pub(super) fn see_writes(&self, diagram: Ref, before: Writes) -> Result<Ref, GaveUp> {
        let asked = self.ask_writes(diagram, before)?;
        self.map(self.fresh(), asked, |terminal| {
            let outcome = self.outcome_of(terminal);
            let writes = self.writes_of(outcome.writes).after(before);
            let (number, _) = self.writes.borrow_mut().insert_full(writes);
            self.outcome(outcome.exit, number as u32)
        })
    }

    /// Returns the packets for which a bit of the word is set.
    pub(super) fn word_bit(&self, word: MarkWord, bit: u8) -> Result<Set, GaveUp> {
        let (packet, connection, is_flipped) = word.bit(bit);
        let mut set = if is_flipped { self.all() } else { self.none() };
        let fields = (0..32).flat_map(|bit| {
            let own = (packet >> bit & 1 == 1).then_some(Field::Mark(bit));
            let other = (connection >> bit & 1 == 1).then_some(Field::ConnectionMark(bit));
            own.into_iter().chain(other)
        });
        for field in fields {
            let one = self.range(field, 1, 1)?;
            set = self.ite(one, self.not(set)?, set)?;
        }
        Ok(set)
    }
}

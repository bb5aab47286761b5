//! Decision diagrams: reduced, ordered, shared, with many-valued variables and many terminals.
//!
//! A node asks one variable and has an edge for each run of values that lead to the same place. Runs carry their
//! first value as it is, an address say, so that nothing needs to be known beforehand of the values that will come.
//! Equal functions are the same [`Ref`].

use std::cell::Cell;
use std::hash::Hasher;
use std::ops::Range;

use hashbrown::HashTable;
use rustc_hash::{FxHashSet, FxHasher};

use super::GaveUp;
use super::field::{OPAQUE, asks_address, is_address_bit};

/// A diagram: a node, or a terminal with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ref(u32);

const TERMINAL: u32 = 1 << 31;

/// The words of the bits for the variables in front of the opaque ones.
const ASKED: usize = OPAQUE.div_ceil(u64::BITS) as usize;

/// What a node costs besides its edges, in edges: itself, its place in the table of nodes, its part of the cache.
const NODE_EDGES: usize = 4;

impl Ref {
    /// The terminal of a number.
    pub const fn terminal(number: u32) -> Self {
        Self(number | TERMINAL)
    }

    /// The number of a terminal.
    pub const fn number(self) -> Option<u32> {
        match self.0 & TERMINAL {
            0 => None,
            _ => Some(self.0 & !TERMINAL),
        }
    }
}

#[derive(Clone, Copy)]
struct Node {
    variable: u32,
    length: u32,
    firsts: Firsts,
    /// Where its targets begin.
    targets: u32,
    hash: u64,
}

/// Where the first values of a node's runs begin: those of a node are in four bytes each where all of them fit.
#[derive(Clone, Copy)]
enum Firsts {
    Narrow(u32),
    Wide(u32),
}

/// An operation on two diagrams, for the cache. Two that differ in what they do must differ in this.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Operation(pub u32);

impl Operation {
    /// Where the left diagram is terminal 0 the result is terminal 0, whatever the right one is.
    pub const LEFT_DECIDES: u32 = 1 << 31;
    /// The same of the right diagram.
    pub const RIGHT_DECIDES: u32 = 1 << 30;

    /// Where either is terminal 0 there is nothing to look at.
    const MEET: Self = Self(Self::LEFT_DECIDES | Self::RIGHT_DECIDES);

    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

#[derive(Clone, Copy)]
struct Cached {
    operation: u32,
    left: Ref,
    right: Ref,
    result: Ref,
}

const NOTHING: Cached = Cached {
    operation: u32::MAX,
    left: Ref(0),
    right: Ref(0),
    result: Ref(0),
};

/// How much may be built before an analysis gives up.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Edges of all nodes together, each node counted as four more; 8 to 20 bytes each.
    pub edges: usize,
    /// Pairs of edges looked at; some ten million a second.
    pub steps: u64,
}

impl Budget {
    /// Returns the budget times a factor, rounded down.
    pub fn times(self, factor: f64) -> Self {
        Self {
            edges: (self.edges as f64 * factor) as usize,
            steps: (self.steps as f64 * factor) as u64,
        }
    }
}

impl Default for Budget {
    /// Half a gigabyte and about ten seconds.
    fn default() -> Self {
        Self {
            edges: 24_000_000,
            steps: 400_000_000,
        }
    }
}

/// All diagrams of a space. Nothing is ever thrown away; nothing is reserved before it is needed.
pub(super) struct Diagrams {
    nodes: Vec<Node>,
    narrow: Vec<u32>,
    wide: Vec<u128>,
    targets: Vec<Ref>,
    unique: HashTable<u32>,
    cache: Vec<Cached>,
    /// The variables that some node asks, of the first ones: a bit each.
    asked: [u64; ASKED],
    /// Whether some node asks a bit of an address.
    asks_bits: bool,
    /// The last address of the family.
    last_address: u128,
    budget: Budget,
    steps: Cell<u64>,
    /// Empty between operations; kept for their memory.
    frames: Vec<Frame>,
    found: Vec<(u128, Ref)>,
}

/// One of the two diagrams of a call, and the edge that is looked at.
#[derive(Clone, Copy)]
struct Side {
    diagram: Ref,
    firsts: Firsts,
    targets: usize,
    /// Its edges from the present one on; none where it does not ask the variable of the call.
    at: usize,
    end: usize,
}

/// One call of an operation that waits for a result.
struct Frame {
    left: Side,
    right: Side,
    variable: u32,
    /// The first value of the present run.
    from: u128,
    /// Where its finished runs begin.
    runs: usize,
}

impl Diagrams {
    pub fn new(budget: Budget, last_address: u128) -> Self {
        Self {
            nodes: Vec::new(),
            narrow: Vec::new(),
            wide: Vec::new(),
            targets: Vec::new(),
            unique: HashTable::new(),
            cache: Vec::new(),
            asked: [0; ASKED],
            asks_bits: false,
            last_address,
            budget,
            steps: Cell::new(0),
            frames: Vec::new(),
            found: Vec::new(),
        }
    }

    pub fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// Nodes and edges so far.
    pub fn size(&self) -> (usize, usize) {
        (self.nodes.len(), self.targets.len())
    }

    /// Pairs of edges looked at so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Whether some node asks a variable: never false where one does.
    pub fn is_asked(&self, variable: u32) -> bool {
        let word = self.asked.get((variable / u64::BITS) as usize);
        word.is_none_or(|word| word >> (variable % u64::BITS) & 1 == 1)
    }

    /// Whether some node asks a bit of an address.
    pub fn asks_bits(&self) -> bool {
        self.asks_bits
    }

    /// The last address of the family.
    pub fn last_address(&self) -> u128 {
        self.last_address
    }

    /// The variable that a diagram asks first; `u32::MAX` for a terminal.
    pub fn variable(&self, diagram: Ref) -> u32 {
        match diagram.number() {
            Some(_) => u32::MAX,
            None => self.nodes[diagram.0 as usize].variable,
        }
    }

    /// A node's runs: first values, ascending from 0, and where they lead.
    pub fn runs(&self, diagram: Ref) -> impl DoubleEndedIterator<Item = (u128, Ref)> + '_ {
        let (firsts, targets, length) = match diagram.number() {
            Some(_) => (Firsts::Narrow(0), 0, 0),
            None => {
                let node = self.nodes[diagram.0 as usize];
                (node.firsts, node.targets as usize, node.length as usize)
            }
        };
        (0..length).map(move |at| (self.first(firsts, at), self.targets[targets + at]))
    }

    /// The first value of a node's run, counted from 0.
    fn first(&self, firsts: Firsts, run: usize) -> u128 {
        match firsts {
            Firsts::Narrow(start) => self.narrow[start as usize + run].into(),
            Firsts::Wide(start) => self.wide[start as usize + run],
        }
    }

    /// How many of these runs begin at a value or before it.
    fn begun(&self, firsts: Firsts, runs: Range<usize>, value: u128) -> usize {
        match firsts {
            Firsts::Narrow(start) => {
                let start = start as usize;
                self.narrow[start + runs.start..start + runs.end]
                    .partition_point(|first| u128::from(*first) <= value)
            }
            Firsts::Wide(start) => {
                let start = start as usize;
                self.wide[start + runs.start..start + runs.end]
                    .partition_point(|first| *first <= value)
            }
        }
    }

    /// A diagram and everything below it, each once.
    pub fn below(&self, diagram: Ref) -> impl Iterator<Item = Ref> + '_ {
        let mut seen: FxHashSet<Ref> = [diagram].into_iter().collect();
        let mut left = vec![diagram];
        std::iter::from_fn(move || {
            let at = left.pop()?;
            left.extend(
                self.runs(at)
                    .map(|run| run.1)
                    .filter(|target| seen.insert(*target)),
            );
            Some(at)
        })
    }

    /// Where a node leads for a value.
    pub fn follow(&self, diagram: Ref, value: u128) -> Ref {
        if diagram.number().is_some() {
            return diagram;
        }
        let node = self.nodes[diagram.0 as usize];
        let begun = self.begun(node.firsts, 0..node.length as usize, value);
        self.targets[node.targets as usize + begun - 1]
    }

    /// The diagram that asks `variable` and goes on by these runs, of which the first begins at 0.
    pub fn node(&mut self, variable: u32, runs: &[(u128, Ref)]) -> Result<Ref, GaveUp> {
        if self.asks_bits && asks_address(variable) {
            let runs = self.narrowed(variable, runs)?;
            return self.reduced(variable, &runs);
        }
        self.reduced(variable, runs)
    }

    fn reduced(&mut self, variable: u32, runs: &[(u128, Ref)]) -> Result<Ref, GaveUp> {
        if let [(_, only)] = runs {
            return Ok(*only);
        }
        let mut hasher = FxHasher::default();
        hasher.write_u32(variable);
        for (first, target) in runs {
            hasher.write_u64(*first as u64 ^ (*first >> 64) as u64);
            hasher.write_u32(target.0);
        }
        let hash = hasher.finish();
        let same = |id: &u32| {
            let node = self.nodes[*id as usize];
            node.hash == hash
                && node.variable == variable
                && node.length as usize == runs.len()
                && self.runs(Ref(*id)).eq(runs.iter().copied())
        };
        if let Some(id) = self.unique.find(hash, same) {
            return Ok(Ref(*id));
        }
        let edges = self.targets.len() + runs.len() + NODE_EDGES * (self.nodes.len() + 1);
        // Places are kept in 32 bits.
        let too_many = edges > self.budget.edges.min(u32::MAX as usize);
        let id = u32::try_from(self.nodes.len()).unwrap_or(TERMINAL);
        if too_many || id >= TERMINAL {
            return Err(GaveUp::TooLarge);
        }
        let firsts = self.keep(runs);
        if let Some(word) = self.asked.get_mut((variable / u64::BITS) as usize) {
            *word |= 1 << (variable % u64::BITS);
            self.asks_bits |= is_address_bit(variable);
        }
        self.nodes.push(Node {
            variable,
            length: runs.len() as u32,
            firsts,
            targets: self.targets.len() as u32,
            hash,
        });
        self.targets.extend(runs.iter().map(|(_, target)| target));
        let nodes = &self.nodes;
        self.unique
            .insert_unique(hash, id, |id| nodes[*id as usize].hash);
        Ok(Ref(id))
    }

    /// Puts the first values of runs where they take least.
    fn keep(&mut self, runs: &[(u128, Ref)]) -> Firsts {
        let firsts = runs.iter().map(|(first, _)| *first);
        // They ascend.
        match runs.last() {
            Some((last, _)) if u32::try_from(*last).is_err() => {
                let start = self.wide.len() as u32;
                self.wide.extend(firsts);
                Firsts::Wide(start)
            }
            _ => {
                let start = self.narrow.len() as u32;
                self.narrow.extend(firsts.map(|first| first as u32));
                Firsts::Narrow(start)
            }
        }
    }

    /// The operation that `leaf` defines where it gives a result, and that goes by values where it gives none.
    ///
    /// `leaf` must give one for two terminals. No recursion: a diagram may be as deep as it likes.
    pub fn apply(
        &mut self,
        operation: Operation,
        left: Ref,
        right: Ref,
        leaf: impl Fn(&Self, Ref, Ref) -> Option<Ref>,
    ) -> Result<Ref, GaveUp> {
        if let Some(result) = leaf(self, left, right) {
            return Ok(result);
        }
        let mut frames = std::mem::take(&mut self.frames);
        let mut runs = std::mem::take(&mut self.found);
        let result = self.apply_by(operation, left, right, leaf, &mut frames, &mut runs);
        frames.clear();
        runs.clear();
        (self.frames, self.found) = (frames, runs);
        result
    }

    fn apply_by(
        &mut self,
        operation: Operation,
        mut left: Ref,
        mut right: Ref,
        leaf: impl Fn(&Self, Ref, Ref) -> Option<Ref>,
        frames: &mut Vec<Frame>,
        runs: &mut Vec<(u128, Ref)>,
    ) -> Result<Ref, GaveUp> {
        loop {
            let known = leaf(self, left, right).or_else(|| self.cached(operation, left, right));
            let Some(mut result) = known else {
                let frame = self.frame(left, right, runs.len());
                (left, right) = self.pair(&frame);
                frames.push(frame);
                continue;
            };
            // Hand the result down until a frame has a pair left to look at.
            loop {
                let Some(frame) = frames.last_mut() else {
                    return Ok(result);
                };
                if runs[frame.runs..].last().map(|run| run.1) != Some(result) {
                    runs.push((frame.from, result));
                }
                self.count(1);
                if self.advance(frame, operation) {
                    (left, right) = self.pair(frame);
                    break;
                }
                self.gave_up()?;
                result = self.node(frame.variable, &runs[frame.runs..])?;
                runs.truncate(frame.runs);
                let (left, right) = (frame.left.diagram, frame.right.diagram);
                self.remember(operation, left, right, result);
                frames.pop();
            }
        }
    }

    /// Whether two diagrams of terminals 0 and 1 are 1 for the same values somewhere; `apart` has pairs that are known not to. Once
    /// the budget is used up the answer says nothing, and [`Diagrams::gave_up`] says so.
    pub fn meet(&self, left: Ref, right: Ref, apart: &mut FxHashSet<(Ref, Ref)>) -> bool {
        let (no, yes) = (Ref::terminal(0), Ref::terminal(1));
        let mut seen: FxHashSet<(Ref, Ref)> = FxHashSet::default();
        let mut open = vec![(left, right)];
        while let Some(pair) = open.pop() {
            let (left, right) = pair;
            if left == no || right == no || apart.contains(&pair) {
                continue;
            }
            // Only terminal 0 leads nowhere.
            if left == yes || right == yes || left == right {
                return true;
            }
            if !seen.insert(pair) {
                continue;
            }
            self.count(1);
            if self.gave_up().is_err() {
                return false;
            }
            let mut frame = self.frame(left, right, 0);
            open.push(self.pair(&frame));
            while self.advance(&mut frame, Operation::MEET) {
                open.push(self.pair(&frame));
            }
        }
        apart.extend(seen);
        false
    }

    /// An error once there were too many steps.
    pub fn gave_up(&self) -> Result<(), GaveUp> {
        match self.steps.get() > self.budget.steps {
            true => Err(GaveUp::TooLong),
            false => Ok(()),
        }
    }

    fn count(&self, steps: u64) {
        self.steps.set(self.steps.get() + steps);
    }

    fn frame(&self, left: Ref, right: Ref, runs: usize) -> Frame {
        let variable = self.variable(left).min(self.variable(right));
        let side = |diagram: Ref| {
            let (firsts, targets, end) = match self.variable(diagram) == variable {
                true => {
                    let node = self.nodes[diagram.0 as usize];
                    (node.firsts, node.targets as usize, node.length as usize)
                }
                false => (Firsts::Narrow(0), 0, 0),
            };
            Side {
                diagram,
                firsts,
                targets,
                at: 0,
                end,
            }
        };
        Frame {
            left: side(left),
            right: side(right),
            variable,
            from: 0,
            runs,
        }
    }

    fn pair(&self, frame: &Frame) -> (Ref, Ref) {
        let target = |side: Side| match side.end {
            0 => side.diagram,
            _ => self.targets[side.targets + side.at],
        };
        (target(frame.left), target(frame.right))
    }

    /// Goes to the next run of either side, if there is one.
    fn advance(&self, frame: &mut Frame, operation: Operation) -> bool {
        let next =
            |side: Side| (side.at + 1 < side.end).then(|| self.first(side.firsts, side.at + 1));
        let (left, right) = (next(frame.left), next(frame.right));
        // A small set against a large one: runs of the large one are only looked at where the small one has something.
        let nothing =
            |side: Side| side.end > 0 && self.targets[side.targets + side.at] == Ref::terminal(0);
        if operation.has(Operation::LEFT_DECIDES) && nothing(frame.left) {
            return self.skip(&mut frame.left, &mut frame.right, &mut frame.from);
        }
        if operation.has(Operation::RIGHT_DECIDES) && nothing(frame.right) {
            return self.skip(&mut frame.right, &mut frame.left, &mut frame.from);
        }
        let from = match (left, right) {
            (Some(left), Some(right)) => left.min(right),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return false,
        };
        frame.left.at += usize::from(left == Some(from));
        frame.right.at += usize::from(right == Some(from));
        frame.from = from;
        true
    }

    /// Goes to the next run of the one side, and to that of the other in which it begins.
    fn skip(&self, one: &mut Side, other: &mut Side, from: &mut u128) -> bool {
        let Some(next) = (one.at + 1 < one.end).then(|| self.first(one.firsts, one.at + 1)) else {
            return false;
        };
        one.at += 1;
        let runs = other.at..other.end.max(other.at);
        other.at += self.begun(other.firsts, runs, next).saturating_sub(1);
        *from = next;
        true
    }

    fn slot(&self, operation: Operation, left: Ref, right: Ref) -> usize {
        let mut hasher = FxHasher::default();
        hasher.write_u64(u64::from(left.0) << 32 | u64::from(right.0));
        hasher.write_u32(operation.0);
        hasher.finish() as usize & (self.cache.len() - 1)
    }

    fn cached(&self, operation: Operation, left: Ref, right: Ref) -> Option<Ref> {
        if self.cache.is_empty() {
            return None;
        }
        let found = self.cache[self.slot(operation, left, right)];
        let same = found.operation == operation.0 && found.left == left && found.right == right;
        same.then_some(found.result)
    }

    /// The cache forgets what falls into the same slot; it has at least as many slots as there are nodes.
    fn remember(&mut self, operation: Operation, left: Ref, right: Ref, result: Ref) {
        if self.nodes.len() >= self.cache.len() {
            let size = (self.nodes.len() + 1).next_power_of_two().max(1 << 8);
            let old = std::mem::replace(&mut self.cache, vec![NOTHING; size]);
            for entry in old.into_iter().filter(|entry| entry.operation != u32::MAX) {
                let slot = self.slot(Operation(entry.operation), entry.left, entry.right);
                self.cache[slot] = entry;
            }
        }
        let slot = self.slot(operation, left, right);
        self.cache[slot] = Cached {
            operation: operation.0,
            left,
            right,
            result,
        };
    }
}

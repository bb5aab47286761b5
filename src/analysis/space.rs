//! Sets of packets of one address family, and the operations on them: intersection, union, difference, and one
//! constructor for each kind of iptables match (addresses, ports, devices, states, marks, flags).

use std::cell::{Cell, RefCell};

use indexmap::IndexSet;
use rustc_hash::{FxHashMap, FxHashSet};

use super::diagram::{Budget, Diagrams, Operation, Ref};
use super::field::{
    Field, MacPlace, NO_MAC, device_number, devices_like, is_address, mac_number, state_number,
};
use super::flow::Watched;
use super::verdicts::VerdictLeaf;
use super::{GaveUp, writes::Writes};
use crate::net::{Family, IcmpType, IntervalSet, Protocol, State, TcpFlags};

/// The packets of one address family, with everything that is built from them.
///
/// Comparing two sets or verdicts of one space with `==` is a comparison of two integers. Values of two spaces must
/// never be mixed: a value is an index into its own space. Every operation may give up when the space's [`Budget`] is
/// used up.
pub struct Space {
    family: Family,
    macs: MacPlace,
    pub(super) diagrams: RefCell<Diagrams>,
    pub(super) outcomes: RefCell<IndexSet<VerdictLeaf>>,
    pub(super) writes: RefCell<IndexSet<Writes>>,
    opaque: RefCell<IndexSet<String>>,
    pub(super) watched: RefCell<Watched>,
    /// The results of [`Space::share`], by diagram.
    pub(super) shares: RefCell<FxHashMap<Ref, f64>>,
    /// Results of operations on whole rules and chains, so that those that two rulesets share are computed once.
    done: RefCell<FxHashMap<(Operation, Ref, Ref), Ref>>,
    fresh: Cell<u32>,
}

/// A set of packets of a [`Space`].
///
/// A field that a set never asks about is free: a set of ports has packets of every protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set(pub(super) Ref);

/// A set, opened at the first field that it depends on; see [`Space::split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// The set is empty.
    None,
    /// The set has every packet.
    All,
    /// The set depends on a field: runs of its values (first, last) with the packets of the set that have such a value.
    /// The runs ascend and together cover all values.
    By(Field, Vec<(u128, u128, Set)>),
}

const NO: Ref = Ref::terminal(0);
const YES: Ref = Ref::terminal(1);

/// Operations whose meaning never changes, so that the cache of results serves later calls too. An operation that
/// depends on a closure's captured values must be a [`Space::fresh`] one: the cache would return results for other
/// values.
pub(super) mod operation {
    use super::Operation;
    pub const AND: Operation = Operation(Operation::LEFT_DECIDES | Operation::RIGHT_DECIDES);
    pub const OR: Operation = Operation(1);
    pub const MINUS: Operation = Operation(2 | Operation::LEFT_DECIDES);
    pub const GUARD: Operation = Operation(3 | Operation::LEFT_DECIDES);
    pub const PICK: Operation = Operation(4);
    pub const FILL: Operation = Operation(5);
    pub const SEQUENCE: Operation = Operation(6);
    pub const FALLS: Operation = Operation(7);
    pub const CHAIN: Operation = Operation(8);
    pub const GOTO: Operation = Operation(9);
    pub const POLICY: Operation = Operation(10);
    pub const FIRST_FRESH: u32 = 11;
}

impl Space {
    /// Creates the space of a family's packets with the default budget. It reserves no memory before it is needed.
    pub fn new(family: Family) -> Self {
        Self::with_budget(family, Budget::default())
    }

    /// Creates the space of a family's packets with another budget.
    pub fn with_budget(family: Family, budget: Budget) -> Self {
        Self {
            family,
            macs: MacPlace::BehindSource,
            diagrams: RefCell::new(Diagrams::new(budget, family.last_address())),
            outcomes: RefCell::new(VerdictLeaf::fixed().into_iter().collect()),
            writes: RefCell::new([Writes::SAME].into_iter().collect()),
            opaque: RefCell::default(),
            watched: RefCell::default(),
            shares: RefCell::default(),
            done: RefCell::default(),
            fresh: Cell::new(operation::FIRST_FRESH),
        }
    }

    /// Replaces the budget, that of an empty space.
    pub fn within(mut self, budget: Budget) -> Self {
        self.diagrams.get_mut().set_budget(budget);
        self
    }

    /// Creates the space of a family's packets with another position for MAC addresses in the field order.
    pub(super) fn ordered(family: Family, macs: MacPlace) -> Self {
        Self {
            macs,
            ..Self::new(family)
        }
    }

    /// Returns the position of a field in the order of this space's diagrams.
    pub(super) fn variable(&self, field: Field) -> u32 {
        field.variable(self.macs)
    }

    /// Returns the address family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns how many nodes and edges were built so far.
    pub fn size(&self) -> (usize, usize) {
        self.diagrams.borrow().size()
    }

    /// Returns how many steps of the budget were taken so far.
    pub(super) fn steps(&self) -> u64 {
        self.diagrams.borrow().steps()
    }

    /// Returns the set of every packet.
    pub fn all(&self) -> Set {
        Set(YES)
    }

    /// Returns the empty set.
    pub fn none(&self) -> Set {
        Set(NO)
    }

    /// Returns the packets that are in both sets.
    pub fn and(&self, left: Set, right: Set) -> Result<Set, GaveUp> {
        // Both orders of the arguments find one cached result.
        let (left, right) = (left.min(right), left.max(right));
        self.apply(operation::AND, left.0, right.0, |_, left, right| {
            match (left, right) {
                (NO, _) | (_, NO) => Some(NO),
                (YES, other) | (other, YES) => Some(other),
                _ => (left == right).then_some(left),
            }
        })
        .map(Set)
    }

    /// Returns `true` if some packet is in both sets. Unlike [`Space::and`] it builds nothing, and it stops at the
    /// first packet found, unless rules of this space ask for single bits of addresses.
    pub fn meets(&self, left: Set, right: Set) -> Result<bool, GaveUp> {
        if self.diagrams.borrow().asks_bits() {
            // The walk below takes the bits for independent of their address; only the intersection shows whether some
            // address of a run has them.
            return Ok(self.and(left, right)? != self.none());
        }
        let diagrams = self.diagrams.borrow();
        let meets = diagrams.meet(left.0, right.0, &mut FxHashSet::default());
        diagrams.gave_up()?;
        Ok(meets)
    }

    /// Returns the packets that are in at least one of the sets.
    pub fn or(&self, left: Set, right: Set) -> Result<Set, GaveUp> {
        let (left, right) = (left.min(right), left.max(right));
        self.apply(operation::OR, left.0, right.0, |_, left, right| {
            match (left, right) {
                (YES, _) | (_, YES) => Some(YES),
                (NO, other) | (other, NO) => Some(other),
                _ => (left == right).then_some(left),
            }
        })
        .map(Set)
    }

    /// Returns the packets that are in the first set and not in the second.
    pub fn minus(&self, left: Set, right: Set) -> Result<Set, GaveUp> {
        self.apply(operation::MINUS, left.0, right.0, |_, left, right| {
            match (left, right) {
                (NO, _) | (_, YES) => Some(NO),
                (other, NO) => Some(other),
                _ => (left == right).then_some(NO),
            }
        })
        .map(Set)
    }

    /// Returns the packets that are not in the set.
    pub fn not(&self, set: Set) -> Result<Set, GaveUp> {
        self.minus(self.all(), set)
    }

    /// Returns the packets of `yes` where `condition` holds, and of `no` where it does not.
    pub fn ite(&self, condition: Set, yes: Set, no: Set) -> Result<Set, GaveUp> {
        self.or(self.and(condition, yes)?, self.minus(no, condition)?)
    }

    /// Returns the packets that are in at least one of the sets. They are joined as a balanced tree: adding thousands
    /// of sets to a growing one would copy it thousands of times.
    pub fn any(&self, sets: impl IntoIterator<Item = Set>) -> Result<Set, GaveUp> {
        balanced(sets.into_iter().collect(), self.none(), |a, b| {
            self.or(a, b)
        })
    }

    /// Returns the packets that are in all of the sets.
    pub fn every(&self, sets: impl IntoIterator<Item = Set>) -> Result<Set, GaveUp> {
        let mut sets: Vec<Set> = sets.into_iter().collect();
        // The deepest field first: each step then only puts a node on top of the diagram that is already there.
        sets.sort_by_key(|set| std::cmp::Reverse(self.diagrams.borrow().variable(set.0)));
        let mut all = self.all();
        for set in sets {
            all = self.and(all, set)?;
        }
        Ok(all)
    }

    /// Returns `true` if every packet of the first set is in the second.
    pub fn is_subset(&self, left: Set, right: Set) -> Result<bool, GaveUp> {
        Ok(self.minus(left, right)? == self.none())
    }

    /// Returns the packets whose field has one of the values.
    ///
    /// ```
    /// # use fwc::analysis::{Field, Space};
    /// # use fwc::net::{Family, IntervalSet};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V6);
    /// let ports = |first, last| IntervalSet::from_intervals([(first, last)]);
    /// let low = space.values(Field::SourcePort, &ports(0, 1023))?;
    /// let high = space.values(Field::SourcePort, &ports(1024, 65535))?;
    /// assert_eq!(space.not(low)?, high);
    /// assert_eq!(space.or(low, high)?, space.all());
    /// # Ok(())
    /// # }
    /// ```
    pub fn values(&self, field: Field, values: &IntervalSet) -> Result<Set, GaveUp> {
        let last = field.last(self.family);
        let mut runs = Vec::with_capacity(2 * values.intervals().len() + 1);
        if values
            .intervals()
            .first()
            .is_none_or(|(first, _)| *first > 0)
        {
            runs.push((0, NO));
        }
        for &(first, end) in values
            .intervals()
            .iter()
            .filter(|(first, _)| *first <= last)
        {
            runs.push((first, YES));
            if end < last {
                runs.push((end + 1, NO));
            }
        }
        self.node(field, &runs).map(Set)
    }

    /// Returns the packets whose field has a value from `first` to `last`, both included.
    pub fn range(&self, field: Field, first: u128, last: u128) -> Result<Set, GaveUp> {
        self.values(field, &IntervalSet::from_intervals([(first, last)]))
    }

    /// Returns the packets that come from these addresses.
    pub fn sources(&self, addresses: &IntervalSet) -> Result<Set, GaveUp> {
        self.values(Field::Source, addresses)
    }

    /// Returns the packets that go to these addresses.
    pub fn destinations(&self, addresses: &IntervalSet) -> Result<Set, GaveUp> {
        self.values(Field::Destination, addresses)
    }

    /// Returns the packets of an IP protocol.
    pub fn protocol(&self, protocol: Protocol) -> Result<Set, GaveUp> {
        self.range(Field::Protocol, protocol.0.into(), protocol.0.into())
    }

    /// Returns the packets whose source port is in the range. The caller states the protocol, as an iptables rule must.
    pub fn source_port(&self, first: u16, last: u16) -> Result<Set, GaveUp> {
        self.range(Field::SourcePort, first.into(), last.into())
    }

    /// Returns the packets whose destination port is in the range. The caller states the protocol, as an iptables rule
    /// must.
    pub fn destination_port(&self, first: u16, last: u16) -> Result<Set, GaveUp> {
        self.range(Field::DestinationPort, first.into(), last.into())
    }

    /// Returns the packets that came in by a device, or for a pattern with a trailing `+` by any device whose name
    /// begins so (iptables(8), `-i`).
    pub fn in_device(&self, pattern: &str) -> Result<Set, GaveUp> {
        self.device(Field::InDevice, pattern)
    }

    /// Returns the packets that leave by a device, or for a pattern with a trailing `+` by any device whose name begins
    /// so (iptables(8), `-o`).
    pub fn out_device(&self, pattern: &str) -> Result<Set, GaveUp> {
        self.device(Field::OutDevice, pattern)
    }

    fn device(&self, field: Field, pattern: &str) -> Result<Set, GaveUp> {
        let (first, last) = match pattern.strip_suffix('+') {
            Some(prefix) => devices_like(prefix),
            None => (device_number(pattern), device_number(pattern)),
        };
        self.range(field, first, last)
    }

    /// Returns the packets that have one of the connection states.
    pub fn states(&self, states: &[State]) -> Result<Set, GaveUp> {
        let numbers = states.iter().map(|state| state_number(*state));
        let values = IntervalSet::from_intervals(numbers.map(|number| (number, number)));
        self.values(Field::State, &values)
    }

    /// Returns the packets of an ICMP type, with any code if it names none. The caller states the protocol.
    pub fn icmp(&self, icmp: IcmpType) -> Result<Set, GaveUp> {
        let (first, last) = icmp.code.map_or((0, u8::MAX), |code| (code, code));
        self.icmp_codes(icmp.kind, first, last)
    }

    /// Returns the packets of an ICMP type with a code in the range. The caller states the protocol.
    pub fn icmp_codes(&self, kind: u8, first: u8, last: u8) -> Result<Set, GaveUp> {
        let number = |code: u8| u128::from(kind) << 8 | u128::from(code);
        self.range(Field::Icmp, number(first), number(last))
    }

    /// Returns the packets that have, of the TCP flags in `mask`, exactly those in `set` (`--tcp-flags`). The caller
    /// states the protocol.
    pub fn tcp_flags(&self, mask: TcpFlags, set: TcpFlags) -> Result<Set, GaveUp> {
        // The kernel compares the masked flags with all of `set`, so that a flag outside the mask never matches.
        if set.0 & !mask.0 != 0 {
            return Ok(self.none());
        }
        let bits = (0..6).filter(|bit| mask.0 >> bit & 1 == 1);
        self.bits(bits.map(|bit| (Field::TcpFlag(bit), set.0 >> bit & 1 == 1)))
    }

    /// Returns the packets with `mark & mask == value` (`-m mark`); none if `value` has bits outside `mask`.
    pub fn mark(&self, value: u32, mask: u32) -> Result<Set, GaveUp> {
        self.marked(Field::Mark, value, mask)
    }

    /// Returns the packets whose connection has `mark & mask == value` (`-m connmark`); none if `value` has bits
    /// outside `mask`.
    pub fn connection_mark(&self, value: u32, mask: u32) -> Result<Set, GaveUp> {
        self.marked(Field::ConnectionMark, value, mask)
    }

    fn marked(&self, field: fn(u8) -> Field, value: u32, mask: u32) -> Result<Set, GaveUp> {
        // The kernel compares the masked mark with the whole value, so that a rule with further bits in its value never
        // matches.
        if value & !mask != 0 {
            return Ok(self.none());
        }
        let bits = (0..32).filter(|bit| mask >> bit & 1 == 1);
        self.bits(bits.map(|bit| (field(bit), value >> bit & 1 == 1)))
    }

    /// Returns the packets with this source MAC address.
    pub fn mac(&self, address: [u8; 6]) -> Result<Set, GaveUp> {
        let number = mac_number(address);
        self.range(Field::Mac, number, number)
    }

    /// Returns the packets that have a source MAC address. Neither `--mac-source` nor `! --mac-source` matches a packet
    /// without one.
    pub fn has_mac(&self) -> Result<Set, GaveUp> {
        self.range(Field::Mac, 0, NO_MAC - 1)
    }

    /// Returns the packets for which a condition holds that the engine does not understand. The same key is the same
    /// condition.
    ///
    /// Key a condition without memory (`string`, `bpf`) by its text, one with memory (`limit`, `recent`) by its text
    /// and the rule that it belongs to: two buckets of the same rate fill and drain apart, so they are two conditions.
    pub fn opaque(&self, key: &str) -> Result<Set, GaveUp> {
        self.range(self.opaque_field(key), 1, 1)
    }

    pub(super) fn opaque_field(&self, key: &str) -> Field {
        let mut opaque = self.opaque.borrow_mut();
        let number = match opaque.get_index_of(key) {
            Some(number) => number,
            None => opaque.insert_full(key.to_owned()).0,
        };
        Field::Opaque(number as u32)
    }

    /// Returns the key of an opaque condition, if the space has one of this number.
    pub fn opaque_key(&self, number: u32) -> Option<String> {
        self.opaque.borrow().get_index(number as usize).cloned()
    }

    /// Opens a set at the first field that it depends on.
    ///
    /// ```
    /// # use fwc::analysis::{Field, Space, Split};
    /// # use fwc::net::Family;
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let web = space.destination_port(80, 80)?;
    /// let Split::By(field, runs) = space.split(web) else { panic!() };
    /// assert_eq!(field, Field::DestinationPort);
    /// assert_eq!(runs, [(0, 79, space.none()), (80, 80, space.all()), (81, 65535, space.none())]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(&self, set: Set) -> Split {
        match set.0 {
            NO => Split::None,
            YES => Split::All,
            node => {
                let (field, runs) = self.open(node);
                let set = |(first, last, target)| (first, last, Set(target));
                Split::By(field, runs.into_iter().map(set).collect())
            }
        }
    }

    /// Returns `true` if the set has the packet with these field values. Bits of an address are taken from the
    /// address's value.
    pub fn contains(&self, set: Set, value: impl Fn(Field) -> u128) -> bool {
        self.find(set.0, value) == YES
    }

    /// Returns the fields that a set depends on, in the order of the diagrams.
    pub fn support(&self, set: Set) -> Vec<Field> {
        self.fields_of(set.0)
    }

    /// Returns the set with one field fixed: what the other fields may be where that field has the value.
    pub fn with(&self, set: Set, field: Field, value: u128) -> Result<Set, GaveUp> {
        self.fixed(set.0, field, value).map(Set)
    }
}

/// Building blocks for the other files of the engine.
impl Space {
    pub(super) fn apply(
        &self,
        operation: Operation,
        left: Ref,
        right: Ref,
        leaf: impl Fn(&Diagrams, Ref, Ref) -> Option<Ref>,
    ) -> Result<Ref, GaveUp> {
        self.diagrams
            .borrow_mut()
            .apply(operation, left, right, leaf)
    }

    /// Returns the result of an operation of [`operation`], computed with `make` at its first use only.
    pub(super) fn once(
        &self,
        operation: Operation,
        (left, right): (Ref, Ref),
        make: impl FnOnce() -> Result<Ref, GaveUp>,
    ) -> Result<Ref, GaveUp> {
        let key = (operation, left, right);
        if let Some(known) = self.done.borrow().get(&key) {
            return Ok(*known);
        }
        let made = make()?;
        self.done.borrow_mut().insert(key, made);
        Ok(made)
    }

    /// Returns an operation that was never used before, so that the cache holds no results of it.
    pub(super) fn fresh(&self) -> Operation {
        let number = self.fresh.get();
        self.fresh.set(number + 1);
        Operation(number)
    }

    /// Returns the same diagram with its terminals replaced.
    pub(super) fn map(
        &self,
        operation: Operation,
        diagram: Ref,
        terminal: impl Fn(u32) -> Ref,
    ) -> Result<Ref, GaveUp> {
        self.apply(operation, diagram, NO, |_, left, _| {
            left.number().map(&terminal)
        })
    }

    pub(super) fn node(&self, field: Field, runs: &[(u128, Ref)]) -> Result<Ref, GaveUp> {
        let variable = self.variable(field);
        self.diagrams.borrow_mut().node(variable, runs)
    }

    pub(super) fn fixed(&self, diagram: Ref, field: Field, value: u128) -> Result<Ref, GaveUp> {
        let variable = self.variable(field);
        self.apply(
            self.fresh(),
            diagram,
            NO,
            |diagrams, left, _| match diagrams.variable(left).cmp(&variable) {
                std::cmp::Ordering::Less => None,
                // The bits of the address have to follow the same value, even if the diagram does not ask the address
                // itself.
                _ if is_address(field) => Some(diagrams.follow_address(left, variable, value)),
                std::cmp::Ordering::Equal => Some(diagrams.follow(left, value)),
                std::cmp::Ordering::Greater => Some(left),
            },
        )
    }

    pub(super) fn open(&self, node: Ref) -> (Field, Vec<(u128, u128, Ref)>) {
        let diagrams = self.diagrams.borrow();
        let field = Field::of_variable(diagrams.variable(node));
        let mut next = field.last(self.family);
        let mut runs: Vec<_> = diagrams
            .runs(node)
            .rev()
            .map(|(first, target)| {
                let last = std::mem::replace(&mut next, first.saturating_sub(1));
                (first, last, target)
            })
            .collect();
        runs.reverse();
        (field, runs)
    }

    pub(super) fn find(&self, diagram: Ref, value: impl Fn(Field) -> u128) -> Ref {
        let diagrams = self.diagrams.borrow();
        let mut at = diagram;
        while at.number().is_none() {
            let field = Field::of_variable(diagrams.variable(at));
            let asked = match field.address() {
                Some((address, bit)) => value(address) >> bit & 1,
                None => value(field),
            };
            at = diagrams.follow(at, asked);
        }
        at
    }

    pub(super) fn fields_of(&self, diagram: Ref) -> Vec<Field> {
        let diagrams = self.diagrams.borrow();
        let variables = diagrams.below(diagram).map(|at| diagrams.variable(at));
        let variables: std::collections::BTreeSet<u32> = variables.collect();
        let fields = variables
            .into_iter()
            .filter(|variable| *variable != u32::MAX);
        fields.map(Field::of_variable).collect()
    }

    fn bits(&self, bits: impl DoubleEndedIterator<Item = (Field, bool)>) -> Result<Set, GaveUp> {
        let mut all = YES;
        for (field, set) in bits.rev() {
            let (zero, one) = if set { (NO, all) } else { (all, NO) };
            all = self.node(field, &[(0, zero), (1, one)])?;
        }
        Ok(Set(all))
    }
}

/// Joins neighbours pair by pair until one item is left, and keeps their order. Returns `nothing` for an empty list.
pub(super) fn balanced<T: Clone, E>(
    mut items: Vec<T>,
    nothing: T,
    join: impl Fn(T, T) -> Result<T, E>,
) -> Result<T, E> {
    while items.len() > 1 {
        let mut joined = Vec::with_capacity(items.len().div_ceil(2));
        let mut pairs = items.into_iter();
        while let Some(left) = pairs.next() {
            joined.push(match pairs.next() {
                Some(right) => join(left, right)?,
                None => left,
            });
        }
        items = joined;
    }
    Ok(items.pop().unwrap_or(nothing))
}

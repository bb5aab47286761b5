//! Computes who can reach whom: groups addresses that a set of packets treats alike, and tells which group reaches
//! which.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::GaveUp;
use super::behaviour::{BaseChain, Behaviour};
use super::diagram::Ref;
use super::field::Field;
use super::path::{Exchanged, Path, PathEnd};
use super::space::{Set, Space};
use super::verdicts::Verdict;
use crate::iptables::{NatKind, TableName};
use crate::net::{AddressRange, Hook, IntervalSet, Protocol, State, TcpFlags};

/// Classes of addresses, and which class reaches which.
///
/// All addresses of a class behave alike, as sources and as destinations: of two classes, either every address of the
/// first reaches every address of the second, or none does. No two classes could be merged, so these are the fewest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The classes, in the order of their first addresses. Every address of the family is in exactly one.
    pub classes: Vec<IntervalSet>,
    /// Pairs of source class and destination class, as indices into `classes`, ascending.
    pub edges: Vec<(usize, usize)>,
}

/// Which addresses are behind which device. A packet from an address comes in by that device, one to it leaves by it.
///
/// Where networks overlap, the longest prefix decides; a network given for two devices is behind both. An address in no
/// network is behind any device without a network.
#[derive(Clone, Debug, Default)]
pub struct DevicesBehind {
    networks: Vec<(AddressRange, String)>,
}

/// The most 64-bit words for the differences between addresses: a quarter of a gigabyte.
const MOST_WORDS: usize = 1 << 25;

const NO: Ref = Ref::terminal(0);
const YES: Ref = Ref::terminal(1);

impl DevicesBehind {
    /// Returns the default: only loopback addresses have a known device.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Creates it from networks and their devices. A device may end in `+`, as in iptables. Both families may be mixed.
    pub fn new(networks: impl IntoIterator<Item = (AddressRange, String)>) -> Self {
        Self {
            networks: networks.into_iter().collect(),
        }
    }

    /// Returns `true` if the device of some network is known.
    pub fn is_known(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Returns the packets whose device, on one side, is that of their address.
    ///
    /// Forwarded packets are never on `lo`. At other hooks `lo` has the loopback addresses, unless a network was given
    /// for it.
    fn side(
        &self,
        space: &Space,
        chain: BaseChain,
        device: Field,
        address: Field,
    ) -> Result<Set, GaveUp> {
        let one = |name: &str| match device {
            Field::OutDevice => space.out_device(name),
            _ => space.in_device(name),
        };
        let mut networks: BTreeMap<(u128, u128), Vec<&str>> = BTreeMap::new();
        let mut add = |range: &AddressRange, name| {
            let devices = networks.entry((range.last - range.first, range.first));
            devices.or_default().push(name);
        };
        let family = space.family();
        for (range, name) in self.networks.iter().filter(|(it, _)| it.family == family) {
            add(range, name);
        }
        let mut named = space.any([space.range(device, 0, 0)?, one("lo")?])?;
        let lo_is_named = self.networks.iter().any(|(_, name)| name == "lo");
        if chain != BaseChain::Forward && !lo_is_named {
            let (first, last) = family.loopback();
            add(
                &AddressRange {
                    family,
                    first,
                    last,
                },
                "lo",
            );
        }
        let mut taken = IntervalSet::empty();
        let mut sides = Vec::new();
        // The smallest network first: the longest prefix decides.
        for ((size, first), names) in networks {
            let range = IntervalSet::from_intervals([(first, first + size)]);
            let devices: Result<Vec<Set>, GaveUp> = names.iter().map(|name| one(name)).collect();
            let devices = space.any(devices?)?;
            named = space.or(named, devices)?;
            let own = space.values(address, &range.difference(&taken))?;
            sides.push(space.and(devices, own)?);
            taken = taken.union(&range);
        }
        let other = space.values(address, &taken.complement(family.last_address()))?;
        sides.push(space.minus(other, named)?);
        space.any(sides)
    }
}

impl Space {
    /// Returns the packets that look like a state: for NEW, no later fragment, and of TCP only a SYN.
    pub fn as_state(&self, state: State) -> Result<Set, GaveUp> {
        let state_is = self.states(&[state])?;
        if state != State::New {
            return Ok(state_is);
        }
        let syn = self.tcp_flags(TcpFlags(63), TcpFlags(2))?;
        let opens = self.or(self.not(self.protocol(Protocol::TCP)?)?, syn)?;
        self.every([state_is, opens, self.range(Field::Fragment, 0, 0)?])
    }

    /// Groups addresses by the packets of a set. There is an edge if the set has some packet from some address of the
    /// one class to some address of the other, whatever its other fields and conditions are.
    ///
    /// ```
    /// # use fwc::analysis::Space;
    /// # use fwc::net::{Family, IntervalSet};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let lan = IntervalSet::from_intervals([(10 << 24, (11 << 24) - 1)]);
    /// let matrix = space.matrix(space.sources(&lan)?)?;
    /// assert_eq!(matrix.classes, [lan.complement(u32::MAX.into()), lan]);
    /// // From the LAN to everybody.
    /// assert_eq!(matrix.edges, [(1, 0), (1, 1)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn matrix(&self, packets: Set) -> Result<Matrix, GaveUp> {
        let pairs = self.address_pairs(packets)?;
        let runs = |at: Ref, field: Field| -> Vec<(u128, u128, Ref)> {
            match at.number() {
                None if self.open(at).0 == field => self.open(at).1,
                _ => vec![(0, field.last(self.family()), at)],
            }
        };
        let sources = runs(pairs, Field::Source);
        // The different sets of destinations that sources reach, each once.
        let reached: BTreeSet<Ref> = sources.iter().map(|(_, _, target)| *target).collect();
        let reached: Vec<Ref> = reached.into_iter().collect();
        let place: HashMap<Ref, usize> = (0..).zip(&reached).map(|(at, one)| (*one, at)).collect();
        // For each address at which a set of destinations begins or ends: the address, the set, and whether it is in it
        // from there.
        let mut changes: Vec<(u128, usize, bool)> = Vec::new();
        for (at, one) in reached.iter().enumerate() {
            let runs = runs(*one, Field::Destination);
            changes.extend(
                runs.iter()
                    .map(|(first, _, target)| (*first, at, *target != NO)),
            );
        }
        changes.sort_unstable();
        let mut borders: Vec<u128> = sources.iter().map(|(first, _, _)| *first).collect();
        borders.extend(changes.iter().map(|(first, _, _)| *first));
        borders.sort_unstable();
        borders.dedup();

        let mut by = vec![0u64; reached.len().div_ceil(64)];
        let mut signatures: HashMap<Vec<u64>, usize> = HashMap::new();
        let mut classes: Vec<Class> = Vec::new();
        let mut known: HashMap<(usize, usize), usize> = HashMap::new();
        let (mut change, mut source) = (changes.iter().peekable(), sources.iter().peekable());
        let mut reaches = 0;
        for (at, first) in borders.iter().enumerate() {
            let last = borders.get(at + 1).map(|next| next - 1);
            let last = last.unwrap_or(self.family().last_address());
            while let Some((_, bit, value)) = change.next_if(|change| change.0 == *first) {
                let mask = 1 << (bit % 64);
                by[bit / 64] = by[bit / 64] & !mask | u64::from(*value) << (bit % 64);
            }
            if let Some((_, _, target)) = source.next_if(|run| run.0 == *first) {
                reaches = place.get(target).copied().unwrap_or_default();
            }
            let number = signatures.len();
            let signature = match signatures.get(&by) {
                Some(known) => *known,
                // Checked before the row is stored: the number of different rows is only known at the end.
                None if (number + 1) * by.len() > MOST_WORDS => return Err(GaveUp::TooLarge),
                None => *signatures.entry(by.clone()).or_insert(number),
            };
            let class = *known.entry((reaches, signature)).or_insert_with(|| {
                classes.push(Class {
                    reaches,
                    signature,
                    addresses: Vec::new(),
                });
                classes.len() - 1
            });
            classes[class].addresses.push((*first, last));
        }
        let mut reached_by: Vec<&[u64]> = vec![&[]; signatures.len()];
        for (words, number) in &signatures {
            reached_by[*number] = words;
        }
        let mut edges = Vec::new();
        for (from, source) in classes.iter().enumerate() {
            let (word, bit) = (source.reaches / 64, source.reaches % 64);
            for (to, destination) in classes.iter().enumerate() {
                if reached_by[destination.signature][word] >> bit & 1 == 1 {
                    edges.push((from, to));
                }
            }
        }
        let classes = classes.into_iter();
        Ok(Matrix {
            classes: classes
                .map(|class| IntervalSet::from_intervals(class.addresses))
                .collect(),
            edges,
        })
    }

    /// Returns the pairs of source and destination of a set's packets, as a diagram that asks nothing else.
    fn address_pairs(&self, packets: Set) -> Result<Ref, GaveUp> {
        let last = self.variable(Field::Destination);
        let known = self.apply(self.fresh(), packets.0, NO, |diagrams, left, _| {
            let below = diagrams.variable(left) > last;
            below.then(|| if left == NO { NO } else { YES })
        })?;
        let is_address = |field| matches!(field, Field::Source | Field::Destination);
        self.project(Set(known), is_address).map(|set| set.0)
    }
}

/// Addresses that reach the same addresses and are reached by the same.
struct Class {
    reaches: usize,
    signature: usize,
    addresses: Vec<(u128, u128)>,
}

impl Behaviour {
    /// Returns the packets of `asked`, as they arrive, that may pass at a hook, given the devices that addresses are
    /// behind. A packet with a translated destination leaves by the device of the new address. Packets handed to
    /// another program (`NFQUEUE`) may pass.
    pub fn may_pass(
        &self,
        space: &Space,
        hook: Hook,
        asked: Set,
        behind: &DevicesBehind,
    ) -> Result<Set, GaveUp> {
        let comes = match hook {
            Hook::Output => space.all(),
            _ => behind.side(space, hook.into(), Field::InDevice, Field::Source)?,
        };
        let path = Path::of(space, &self.silent(), hook, space.and(asked, comes)?)?;
        let passes = |end: &PathEnd| {
            let passes = !matches!(end.verdict, Verdict::Drop | Verdict::Reject(_));
            // A redirected packet goes to this host, so it is not forwarded.
            let redirected = match &end.change.destination {
                Exchanged::By(translation) => translation.nat().kind == NatKind::Redirect,
                _ => false,
            };
            passes && !(redirected && hook == Hook::Forward)
        };
        let ends = path.ends.iter().filter(|end| passes(end));
        let mut passing = space.any(ends.map(|end| end.packets))?;
        if hook != Hook::Input {
            let leaves = behind.side(space, hook.into(), Field::OutDevice, Field::Destination)?;
            let filter = (TableName::Filter, hook.into());
            passing = space.and(passing, path.before(space, filter, leaves)?)?;
        }
        space.whatever_is_chosen(passing)
    }
}

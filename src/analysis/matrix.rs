//! Who can reach whom: the addresses that a set of packets does not tell apart, and which of them reach which.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::GaveUp;
use super::behaviour::{BaseChain, Behaviour};
use super::diagram::Ref;
use super::field::Field;
use super::path::{End, Exchanged, Path};
use super::space::{Set, Space};
use super::verdicts::Verdict;
use crate::iptables::{NatKind, TableName};
use crate::net::{AddressRange, Hook, IntervalSet, Protocol, State, TcpFlags};

/// Address classes, and which reaches which.
///
/// All addresses of a class behave alike, as sources and as destinations, so of two classes either every address of the
/// first reaches every address of the second or none does. No two classes could be one: the fewest there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// The classes: every address of the family is in exactly one. In the order of their first addresses.
    pub classes: Vec<IntervalSet>,
    /// Source class and destination class, by their places; ascending.
    pub edges: Vec<(usize, usize)>,
}

/// Which devices the addresses are behind: a packet from an address comes in by its device, one to it leaves by it.
///
/// Where networks overlap the longest prefix decides; one network of two devices is behind both. What no network has is
/// behind any device that has none.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    networks: Vec<(AddressRange, String)>,
}

/// Words that hold what differs from one address to the next; at most so many are kept, a quarter of a gigabyte.
const MOST_WORDS: usize = 1 << 25;

const NO: Ref = Ref::terminal(0);
const YES: Ref = Ref::terminal(1);

impl Behind {
    /// Nothing is known but that loopback addresses are on the loopback device.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// The networks behind devices; a device may end in `+`, as in iptables. Both families may be in it.
    pub fn new(networks: impl IntoIterator<Item = (AddressRange, String)>) -> Self {
        Self {
            networks: networks.into_iter().collect(),
        }
    }

    /// Whether some network is behind some device.
    pub fn is_known(&self) -> bool {
        !self.networks.is_empty()
    }

    /// The packets whose device is that of the address, on one side.
    ///
    /// Nobody is asked about `lo` in FORWARD, where nothing is on it; elsewhere it has the loopback addresses unless it
    /// was named.
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
        // The smallest first.
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
    /// Packets in a state as far as other fields tell: what opens a connection is no later fragment, and of TCP a SYN.
    pub fn as_state(&self, state: State) -> Result<Set, GaveUp> {
        let state_is = self.states(&[state])?;
        if state != State::New {
            return Ok(state_is);
        }
        let syn = self.tcp_flags(TcpFlags(63), TcpFlags(2))?;
        let opens = self.or(self.not(self.protocol(Protocol::TCP)?)?, syn)?;
        self.every([state_is, opens, self.range(Field::Fragment, 0, 0)?])
    }

    /// Address classes by the packets of a set: an edge where some packet of the set goes from some address of the one to
    /// some address of the other, whatever its other fields are and whatever must hold for it.
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
        // What a source reaches, each once.
        let reached: BTreeSet<Ref> = sources.iter().map(|(_, _, target)| *target).collect();
        let reached: Vec<Ref> = reached.into_iter().collect();
        let place: HashMap<Ref, usize> = (0..).zip(&reached).map(|(at, one)| (*one, at)).collect();
        // Where what is reached changes: the address, which, and to what.
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

    /// Sources and destinations of a set's packets: a diagram that asks nothing else.
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

/// Addresses that reach the same and are reached by the same.
struct Class {
    reaches: usize,
    signature: usize,
    addresses: Vec<(u128, u128)>,
}

impl Behaviour {
    /// The packets of `asked`, as they arrive, that may pass at a hook, with the devices that their addresses are behind: a
    /// translated one leaves by the device of the new address. What is handed to another program (`NFQUEUE`) may
    /// pass.
    pub fn may_pass(
        &self,
        space: &Space,
        hook: Hook,
        asked: Set,
        behind: &Behind,
    ) -> Result<Set, GaveUp> {
        let comes = match hook {
            Hook::Output => space.all(),
            _ => behind.side(space, hook.into(), Field::InDevice, Field::Source)?,
        };
        let path = Path::of(space, &self.silent(), hook, space.and(asked, comes)?)?;
        let passes = |end: &End| {
            let passes = !matches!(end.verdict, Verdict::Drop | Verdict::Reject(_));
            // What is redirected is for this host.
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

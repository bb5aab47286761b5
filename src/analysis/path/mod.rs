//! Follows packets through all tables in the kernel's order, with what the tables change in them: marks, translated
//! destinations, tracking.

mod change;
mod follow;
mod translate;

use std::collections::{BTreeMap, BTreeSet};

use self::follow::Follower;
use super::GaveUp;
use super::behaviour::{BaseChain, Behaviour};
use super::field::Field;
use super::flow::Effect;
use super::space::{Set, Space};
use super::verdicts::{Verdict, Verdicts};
use crate::iptables::TableName;
use crate::net::Hook;

pub use self::change::{Exchanged, PathChange, after_translation};

/// The key of the opaque condition that a RELATED packet is the first of its connection. Only then is it sent through
/// nat.
pub const FIRST_OF_RELATED: &str = "the first packet of a related connection";

/// A table at a base chain.
pub type TableChain = (TableName, BaseChain);

/// Returns the tables that packets of a hook pass, in the kernel's order (`enum nf_ip_hook_priorities`).
pub const fn places(hook: Hook) -> &'static [TableChain] {
    use BaseChain as At;
    use TableName as In;
    match hook {
        Hook::Input => &[
            (In::Raw, At::Prerouting),
            (In::Mangle, At::Prerouting),
            (In::Nat, At::Prerouting),
            (In::Mangle, At::Input),
            (In::Filter, At::Input),
            (In::Security, At::Input),
            (In::Nat, At::Input),
        ],
        Hook::Forward => &[
            (In::Raw, At::Prerouting),
            (In::Mangle, At::Prerouting),
            (In::Nat, At::Prerouting),
            (In::Mangle, At::Forward),
            (In::Filter, At::Forward),
            (In::Security, At::Forward),
            (In::Mangle, At::Postrouting),
            (In::Nat, At::Postrouting),
        ],
        Hook::Output => &[
            (In::Raw, At::Output),
            (In::Mangle, At::Output),
            (In::Nat, At::Output),
            (In::Filter, At::Output),
            (In::Security, At::Output),
            (In::Mangle, At::Postrouting),
            (In::Nat, At::Postrouting),
        ],
    }
}

/// One way in which some packets end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEnd {
    /// Accept for packets that pass all tables, else the verdict that ended them. After a [`Verdict::Target`] (a queue)
    /// the rules do not tell what follows. Never [`Verdict::Nat`] or a transparent proxy: such packets continue to the
    /// next table.
    pub verdict: Verdict,
    /// The table that ended them; `None` for packets that pass all tables.
    pub place: Option<TableChain>,
    /// What changed in them on the way.
    pub change: PathChange,
    /// The packets as they arrive, with the choices of the kernel for which they end so; never an empty set.
    pub packets: Set,
}

/// The path of some packets through all tables of a ruleset, with the changes on the way.
///
/// A packet is given as it arrives (or as this host sends it), but with the hook and the devices that it will have:
/// routing is not part of a ruleset. Its hop limit is the one that the hook sees, which in FORWARD is one less than on
/// the wire. NEW means the first packet of its connection.
///
/// ```
/// use fwc::analysis::{Behaviour, Path, Reading, Space, Exchanged, Verdict};
/// use fwc::iptables::{Ruleset, TableName};
/// use fwc::net::{Family, Hook, IntervalSet, Protocol, State};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rules = "*nat\n\
///     -A PREROUTING -i eth0 -p tcp -m tcp --dport 443 -j DNAT --to-destination 10.8.0.5:8443\n\
///     COMMIT\n\
///     *filter\n:FORWARD DROP [0:0]\n\
///     -A FORWARD -d 10.8.0.5/32 -p tcp -m tcp --dport 8443 -j ACCEPT\n\
///     COMMIT\n";
/// let space = Space::new(Family::V4);
/// let ruleset = Ruleset::from_text(rules, Family::V4)?;
/// let behaviour = Behaviour::of(&space, &ruleset, &Reading::default())?;
///
/// // What arrives for port 443 and is forwarded is let through, to another place.
/// let https = space.every([
///     space.in_device("eth0")?,
///     space.states(&[State::New])?,
///     space.protocol(Protocol::TCP)?,
///     space.destination_port(443, 443)?,
/// ])?;
/// let path = Path::of(&space, &behaviour, Hook::Forward, https)?;
/// let [end] = &path.ends[..] else { panic!() };
/// assert_eq!(end.verdict, Verdict::Accept);
/// let Exchanged::By(translation) = &end.change.destination else { panic!() };
/// assert_eq!(translation.text(), "DNAT --to-destination 10.8.0.5:8443");
/// assert_eq!(end.packets, https);
///
/// // The filter table sees them translated.
/// let seen = path.at(&space, (TableName::Filter, fwc::analysis::BaseChain::Forward))?;
/// assert!(space.is_subset(seen, space.destination_port(8443, 8443)?)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Path {
    /// The hook.
    pub hook: Hook,
    /// The ends. No two share a packet with the same choices of the kernel.
    pub ends: Vec<PathEnd>,
    /// The packets that get to each table.
    entries: BTreeMap<TableChain, Threads>,
}

/// Packets as they arrived, grouped by what changed in them since.
type Threads = BTreeMap<PathChange, Set>;

impl Path {
    /// Follows the packets of a set through the tables of a hook.
    pub fn of(
        space: &Space,
        behaviour: &Behaviour,
        hook: Hook,
        arriving: Set,
    ) -> Result<Self, GaveUp> {
        let mut follower = Follower::new(space, behaviour, hook)?;
        let mut threads = Threads::new();
        follower.add(&mut threads, PathChange::default(), arriving)?;
        for place in places(hook) {
            // Kept for each table, so that later questions about what it sees need not follow the packets again.
            follower.entries.insert(*place, threads.clone());
            threads = match place.0 {
                TableName::Nat => follower.translate(*place, threads)?,
                _ => follower.table(*place, threads)?,
            };
        }
        for (change, packets) in threads {
            follower.end(Verdict::Accept, None, change, packets)?;
        }
        let ends = follower.ends.into_iter();
        Ok(Self {
            hook,
            ends: ends
                .map(|((verdict, place, change), packets)| PathEnd {
                    verdict,
                    place,
                    change,
                    packets,
                })
                .collect(),
            entries: follower.entries,
        })
    }

    /// Returns the arriving packets of each effect, by table and chain. `behaviour` must be the one that this path was
    /// computed with.
    pub fn effects(
        &self,
        space: &Space,
        behaviour: &Behaviour,
    ) -> Result<BTreeMap<(TableChain, Effect), Set>, GaveUp> {
        let mut all = BTreeMap::new();
        for place in places(self.hook) {
            let flow = behaviour.flows.get(place);
            for (effect, when) in flow.into_iter().flat_map(|flow| &flow.effects) {
                let packets = self.meeting(space, behaviour, *place, *when)?;
                if packets != space.none() {
                    all.insert((*place, effect.clone()), packets);
                }
            }
        }
        Ok(all)
    }

    /// Returns the arriving packets that get to a table and are in a set as the table sees them. `behaviour` must be
    /// the one that this path was computed with.
    pub fn meeting(
        &self,
        space: &Space,
        behaviour: &Behaviour,
        place: TableChain,
        when: Set,
    ) -> Result<Set, GaveUp> {
        match self.entries.get(&place) {
            Some(threads) if when != space.none() => {
                Follower::new(space, behaviour, self.hook)?.happens(place, threads, when)
            }
            _ => Ok(space.none()),
        }
    }

    /// Returns `true` if the same packets get to a table on another path, with the same changes.
    pub fn comes_as(&self, other: &Self, place: TableChain) -> bool {
        self.entries.get(&place) == other.entries.get(&place)
    }

    /// Returns the packets that get to a table, as they look there.
    pub fn at(&self, space: &Space, place: TableChain) -> Result<Set, GaveUp> {
        let threads = self.entries.get(&place).into_iter().flatten();
        let images: Result<Vec<Set>, GaveUp> = threads
            .map(|(change, set)| change.image(space, place.1, *set))
            .collect();
        space.any(images?)
    }

    /// Returns a superset of the packets that get to a table, as its rules see them: fields that the rules see
    /// differently from the packet's own value are left free.
    pub fn may_come(&self, space: &Space, (table, chain): TableChain) -> Result<Set, GaveUp> {
        let freed = |field: Field| match field {
            // Conntrack comes after raw.
            Field::State => table == TableName::Raw,
            Field::HopLimit => chain == BaseChain::Prerouting,
            Field::InDevice => chain == BaseChain::Postrouting,
            Field::SourceTranslated | Field::DestinationTranslated => true,
            _ => false,
        };
        space.project(self.at(space, (table, chain))?, |field| !freed(field))
    }

    /// Returns the arriving packets, with the choices of the kernel, that are in a set when they get to a table, as its
    /// rules see them. For many sets, [`Path::arrivals`] is faster.
    pub fn before(&self, space: &Space, place: TableChain, set: Set) -> Result<Set, GaveUp> {
        // Only the changes on the way matter here, which the entries hold; no table is asked again.
        let nothing = Behaviour::default();
        let follower = Follower::new(space, &nothing, self.hook)?;
        let mut all = space.none();
        for (change, packets) in self.entries.get(&place).into_iter().flatten() {
            let seen = Set(follower.seen(place, change, Verdicts(set.0))?.0);
            all = space.or(all, space.and(*packets, seen)?)?;
        }
        Ok(all)
    }

    /// Prepares the packets that get to a table for questions about many sets. `behaviour` must be the one that this
    /// path was computed with.
    pub fn arrivals<'a>(
        &'a self,
        space: &'a Space,
        behaviour: &'a Behaviour,
        place: TableChain,
    ) -> Result<Arrivals<'a>, GaveUp> {
        // The rules see these fields as the change has them; others they may see differently.
        let is_kept = |field: Field| match field {
            Field::InDevice => place.1 != BaseChain::Postrouting,
            Field::OutDevice
            | Field::Source
            | Field::Destination
            | Field::Protocol
            | Field::SourcePort
            | Field::DestinationPort => true,
            _ => false,
        };
        let threads = self.entries.get(&place).into_iter().flatten();
        let threads = threads.map(|(change, packets)| {
            let image = change.image(space, place.1, *packets)?;
            Ok((change, *packets, space.project(image, is_kept)?))
        });
        Ok(Arrivals {
            follower: Follower::new(space, behaviour, self.hook)?,
            place,
            threads: threads.collect::<Result<_, GaveUp>>()?,
        })
    }

    /// Returns the arriving packets for which `ending` holds in the filter table, or as they arrive if they do not get
    /// there.
    pub fn going(&self, space: &Space, ending: Set) -> Result<Set, GaveUp> {
        let ends = self.ends.iter().map(|end| end.packets);
        let arriving = space.any(ends)?;
        if ending == space.all() {
            return Ok(arriving);
        }
        let filter = (TableName::Filter, self.hook.into());
        let come = self.before(space, filter, space.all())?;
        let go = self.before(space, filter, ending)?;
        let stopped = space.minus(space.and(arriving, ending)?, come)?;
        space.or(go, stopped)
    }

    /// Returns the arriving packets that get to a table with their original destination address. Packets for which a
    /// translation chooses one of several addresses are not among them, because the rules do not tell which.
    pub fn straight(&self, space: &Space, place: TableChain) -> Result<Set, GaveUp> {
        let mut straight = space.none();
        for (change, packets) in self.entries.get(&place).into_iter().flatten() {
            let here = match change.new_address() {
                None => *packets,
                Some(None) => continue,
                Some(Some(address)) => {
                    let same = space.range(Field::Destination, address, address)?;
                    space.and(*packets, same)?
                }
            };
            straight = space.or(straight, here)?;
        }
        Ok(straight)
    }

    /// Returns the packets for which some choice of the kernel leads to such an end.
    pub fn may(&self, space: &Space, way: impl Fn(&PathEnd) -> bool) -> Result<Set, GaveUp> {
        let ends = self.ends.iter().filter(|end| way(end));
        let sets: Result<Vec<Set>, GaveUp> = ends
            .map(|end| space.whatever_is_chosen(end.packets))
            .collect();
        space.any(sets?)
    }

    /// Returns the arriving packets whose verdict depends on a choice of the kernel: which of several backends it gives
    /// a connection, or where an existing connection was translated to.
    pub fn undetermined(&self, space: &Space) -> Result<Set, GaveUp> {
        let verdicts: BTreeSet<&Verdict> = self.ends.iter().map(|end| &end.verdict).collect();
        let (mut seen, mut twice) = (space.none(), space.none());
        for verdict in verdicts {
            let may = self.may(space, |end| end.verdict == *verdict)?;
            twice = space.or(twice, space.and(seen, may)?)?;
            seen = space.or(seen, may)?;
        }
        Ok(twice)
    }

    /// Returns the end of one packet, given by its fields' values, with the kernel's choices among them; `None` if the
    /// packet is not among the arriving ones.
    pub fn end(&self, space: &Space, value: impl Fn(Field) -> u128) -> Option<&PathEnd> {
        self.ends
            .iter()
            .find(|end| space.contains(end.packets, &value))
    }
}

/// The packets that get to a table; see [`Path::arrivals`].
pub struct Arrivals<'a> {
    follower: Follower<'a>,
    place: TableChain,
    /// For each change: the packets as they arrived, and a superset of what the table sees of them, by addresses,
    /// devices, protocol and ports only.
    threads: Vec<(&'a PathChange, Set, Set)>,
}

impl Arrivals<'_> {
    /// Returns the same as [`Path::before`]. With hundreds of translations most changes have no packet in the set; the
    /// supersets show that without rewriting the set.
    pub fn before(&self, set: Set) -> Result<Set, GaveUp> {
        let space = self.follower.space;
        let mut all = space.none();
        for (change, packets, image) in &self.threads {
            let here = space.and(*image, set)?;
            if here != space.none() {
                let seen = self.follower.seen(self.place, change, Verdicts(here.0))?;
                all = space.or(all, space.and(*packets, Set(seen.0))?)?;
            }
        }
        Ok(all)
    }
}

impl Space {
    /// Returns the packets of a set for any choice of the kernel.
    pub fn whatever_is_chosen(&self, set: Set) -> Result<Set, GaveUp> {
        let fields = [
            Field::NewOutDevice,
            Field::NewDestination,
            Field::NewDestinationPort,
        ];
        fields
            .into_iter()
            .try_fold(set, |set, field| self.whatever(set, field))
    }
}

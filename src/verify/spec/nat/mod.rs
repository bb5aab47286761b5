//! The specification of `[[nat]]`: the translations of each chain, and the translated packets that the filter table accepts.

mod packets;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Spec;
use super::connection::{self, Counted, Counters};
use super::custom::{self, CustomTurns};
use super::matching::{Matching, in_scope};
use crate::analysis::{BaseChain, Field, Flow, GaveUp, RuleStep, Set, Space, Translation, Verdict};
use crate::iptables::{self, NatKind, TableName};
use crate::net::{AddressRange, Family, Hook, IntervalSet, Protocol, State, address_of};
use crate::policy::{BackendTurn, CustomPosition, NatChain, NatEnd};
use crate::resolve::{self, NatSide, Plan, PlannedNat, PlannedRule, ServicePart};
use crate::verify::condition::{Bucket, Condition};

/// Adds the translations of the nat table.
pub(in crate::verify) fn add_to(spec: &mut Spec, plan: &Plan, space: &Space) -> Result<(), GaveUp> {
    for chain in [
        NatChain::Prerouting,
        NatChain::Output,
        NatChain::Postrouting,
    ] {
        translations(plan, space, chain, spec)?;
    }
    // In INPUT only custom rules translate.
    let place = (TableName::Nat, BaseChain::Input);
    let customs = spec.custom.of_chain(place).up_to(CustomPosition::After);
    let steps = custom::steps(space, customs).collect();
    add_translations(space, place, steps, spec)
}

/// Adds one chain of the nat table. The first entry that matches a packet translates it.
fn translations(
    plan: &Plan,
    space: &Space,
    chain: NatChain,
    spec: &mut Spec,
) -> Result<(), GaveUp> {
    let place = (TableName::Nat, base_chain(chain));
    let mut customs = spec.custom.of_chain(place);
    let in_chain = self::chain(plan, space, chain, &mut customs, spec)?;
    let packets = in_chain.packets.into_iter();
    spec.translated
        .extend(packets.map(|(entry, packets)| (chain, entry, packets)));
    add_translations(space, place, in_chain.steps, spec)
}

/// Adds the steps of a base chain of the nat table.
fn add_translations(
    space: &Space,
    place: (TableName, BaseChain),
    steps: Vec<RuleStep>,
    spec: &mut Spec,
) -> Result<(), GaveUp> {
    if steps.is_empty() {
        return Ok(());
    }
    let flow = Flow::from_rules(space, steps)?.with_policy(space, Verdict::Accept)?;
    spec.behaviour.insert(space, place, flow)
}

/// Returns the base chain of the nat table for a chain of the interpreter of the policy.
pub(in crate::verify) fn base_chain(chain: NatChain) -> BaseChain {
    match chain {
        NatChain::Prerouting => BaseChain::Prerouting,
        NatChain::Output => BaseChain::Output,
        NatChain::Postrouting => BaseChain::Postrouting,
    }
}

/// The specification of one chain of the nat table.
pub(in crate::verify) struct NatSpec {
    /// The translations in order.
    pub steps: Vec<RuleStep>,
    /// The packets of each entry, by index in [`Plan::nat`], without regard to earlier entries.
    pub packets: Vec<(usize, Set)>,
}

/// Returns what entries and custom rules do in one chain. Adds to `spec` the conditions that count there, and the logs.
pub(in crate::verify) fn chain(
    plan: &Plan,
    space: &Space,
    chain: NatChain,
    customs: &mut CustomTurns,
    spec: &mut Spec,
) -> Result<NatSpec, GaveUp> {
    let mut in_chain = NatSpec {
        steps: Vec::new(),
        packets: Vec::new(),
    };
    let mut counting = Counting::default();
    for (index, nat) in plan.nat.iter().enumerate() {
        let before = customs.before_entry(index);
        in_chain.steps.extend(custom::steps(space, before));
        let entry = Entry::new(plan, space, index, nat);
        if !entry.is_here() {
            continue;
        }
        let mut own = Vec::new();
        let packets = entry.steps(chain, &mut counting, &mut own)?;
        if packets == space.none() {
            continue;
        }
        in_chain.packets.push((index, packets));
        // A hairpin masquerades what the entry logged when it changed the destination.
        if entry.is_of(chain) {
            let at = (TableName::Nat, index);
            in_chain
                .steps
                .extend(spec.log_of_entry(packets, &nat.packets, at));
        }
        in_chain.steps.extend(own);
    }
    spec.turns.extend(counting.turns);
    for (index, counted) in counting.counted {
        let place = (TableName::Nat, base_chain(chain), index);
        spec.counted_by_entries.insert(place, counted);
    }
    let after = customs.up_to(CustomPosition::After);
    in_chain.steps.extend(custom::steps(space, after));
    Ok(in_chain)
}

/// Returns what one entry does in a chain, without regard to earlier entries; an empty flow if it is disabled or has no
/// packets.
pub(in crate::verify) fn alone(
    plan: &Plan,
    space: &Space,
    index: usize,
    chain: NatChain,
) -> Result<Flow, GaveUp> {
    let mut steps = Vec::new();
    if let Some(nat) = plan.nat.get(index) {
        let entry = Entry::new(plan, space, index, nat);
        if entry.is_here() {
            entry.steps(chain, &mut Counting::default(), &mut steps)?;
        }
    }
    Flow::from_rules(space, steps)
}

/// Returns the packets that each entry accepts in a hook, as they are after translation.
pub(in crate::verify) fn accepted(
    plan: &Plan,
    space: &Space,
    hook: Hook,
) -> Result<Vec<Set>, GaveUp> {
    let mut all = Vec::new();
    for (index, nat) in plan.nat.iter().enumerate() {
        let entry = Entry::new(plan, space, index, nat);
        if entry.is_here() && entry.accepts() {
            let set = space.and(entry.through(hook)?, entry.made()?)?;
            all.push(space.and(set, translated(space)?)?);
        }
    }
    Ok(all)
}

/// Returns the packets whose destination an entry translated, as a hook of the filter table sees them, accepted or not.
pub(in crate::verify) fn translated_in(
    plan: &Plan,
    space: &Space,
    index: usize,
    hook: Hook,
) -> Result<Set, GaveUp> {
    let entry = Entry::new(plan, space, index, &plan.nat[index]);
    match entry.is_here() {
        true => space.every([entry.through(hook)?, entry.made()?, translated(space)?]),
        false => Ok(space.none()),
    }
}

/// Returns `true` if an entry accepts packets in a hook, in either family.
pub(in crate::verify) fn accepts_any(plan: &Plan, hook: Hook) -> Result<bool, GaveUp> {
    for family in Family::ALL {
        let space = Space::new(family);
        let all = accepted(plan, &space, hook)?;
        if all.iter().any(|set| *set != space.none()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the packets of connections whose destination was translated (ctstate DNAT).
fn translated(space: &Space) -> Result<Set, GaveUp> {
    let tracked = [State::New, State::Established, State::Related];
    let other = space.range(Field::DestinationTranslated, 1, 1)?;
    space.and(space.states(&tracked)?, other)
}

/// What counts in a chain of the nat table.
#[derive(Default)]
struct Counting {
    counters: Counters,
    /// The conditions that select one of several backends.
    turns: HashMap<BackendTurn, Condition>,
    /// The matches that count, of each entry by its index.
    counted: Vec<(usize, Vec<Counted>)>,
}

struct Entry<'a> {
    space: &'a Space,
    plan: &'a Plan,
    index: usize,
    packets: &'a PlannedRule,
    translation: &'a resolve::PlannedTranslation,
    random: bool,
    persistent: bool,
    matching: Matching<'a>,
}

/// Connections of an entry that take turns among its backends together: those of a protocol, or of a range of ports.
struct Class {
    protocol: Option<Protocol>,
    first_port: Option<u16>,
    packets: Set,
}

impl<'a> Entry<'a> {
    fn new(plan: &'a Plan, space: &'a Space, index: usize, nat: &'a PlannedNat) -> Self {
        // Endpoints and addresses match the same packets in every hook.
        let hook = Hook::Forward;
        let PlannedNat {
            packets,
            translation,
            random,
            persistent,
        } = nat;
        Self {
            space,
            plan,
            index,
            packets,
            translation,
            random: *random,
            persistent: *persistent,
            matching: Matching { plan, space, hook },
        }
    }

    fn family(&self) -> Family {
        self.space.family()
    }

    /// Returns `true` if the entry is enabled and applies to the family.
    fn is_here(&self) -> bool {
        let family = self.family();
        let has = |range: &AddressRange| range.family == family;
        let by_addresses = match self.translation {
            // IPv4 only, unless the entry has a `scope`.
            resolve::PlannedTranslation::Masquerade { .. } => {
                family == Family::V4 || self.packets.scope.is_some()
            }
            resolve::PlannedTranslation::Snat(ends)
            | resolve::PlannedTranslation::Dnat { backends: ends, .. } => {
                ends.iter().any(|end| has(&end.addresses))
            }
            resolve::PlannedTranslation::Netmap { to, .. } => to.iter().any(has),
            resolve::PlannedTranslation::Redirect { .. }
            | resolve::PlannedTranslation::Untranslated(_) => true,
        };
        self.packets.enabled && in_scope(self.packets, family) && by_addresses
    }

    /// Adds the steps of the entry in a chain, and returns its packets there.
    fn steps(
        &self,
        chain: NatChain,
        counting: &mut Counting,
        steps: &mut Vec<RuleStep>,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        let sources = self.changes_source();
        let is_last = chain == NatChain::Postrouting;
        if is_last && !sources {
            // Hairpin: with this host's address as source, the replies come back through this host.
            let hairpin = space.every([self.hairpin()?, self.made()?, translated(space)?])?;
            steps.push(RuleStep::verdict(hairpin, masquerade()));
            return Ok(hairpin);
        }
        if sources != is_last {
            return Ok(space.none());
        }
        if sources {
            let leaving = self.matching.keys(self.packets, self.leaves()?)?;
            let leaving = self.counted(chain, leaving, counting)?;
            steps.push(RuleStep::verdict(leaving, self.new_source()));
            return Ok(leaving);
        }
        let arriving = self.matching.keys(self.packets, self.arrives(chain)?)?;
        let arriving = self.counted(chain, arriving, counting)?;
        match self.translation {
            resolve::PlannedTranslation::Redirect { port, .. } => {
                let target = self.redirect(*port);
                steps.push(RuleStep::verdict(arriving, target));
            }
            resolve::PlannedTranslation::Untranslated(_) => {
                steps.push(RuleStep::verdict(arriving, Verdict::Accept));
            }
            resolve::PlannedTranslation::Netmap { to, .. } => {
                steps.push(RuleStep::verdict(arriving, self.netmap(to)));
            }
            _ => self.to_backends(chain, arriving, counting, steps)?,
        }
        Ok(arriving)
    }

    /// Returns `true` if the source changes, or stays: in POSTROUTING.
    fn changes_source(&self) -> bool {
        matches!(
            self.translation,
            resolve::PlannedTranslation::Masquerade { .. }
                | resolve::PlannedTranslation::Snat(_)
                | resolve::PlannedTranslation::Untranslated(NatSide::Source)
                | resolve::PlannedTranslation::Netmap {
                    side: NatSide::Source,
                    ..
                }
        )
    }

    /// Returns `true` if a chain is one of the entry's type, and not only of its hairpin.
    fn is_of(&self, chain: NatChain) -> bool {
        self.changes_source() == (chain == NatChain::Postrouting)
    }

    /// Returns the packets of a set for which the entry's matches that count hold, too.
    fn counted(&self, chain: NatChain, when: Set, counting: &mut Counting) -> Result<Set, GaveUp> {
        let Some(asked) = &self.packets.matches else {
            return Ok(when);
        };
        if when == self.space.none() || !asked.counts {
            return Ok(when);
        }
        let place = (TableName::Nat, base_chain(chain));
        let counted = counting.counters.counted(asked, self.family(), place);
        let when = connection::where_counted(self.space, when, &counted)?;
        counting.counted.push((self.index, counted));
        Ok(when)
    }

    /// Adds the steps that distribute connections among the backends.
    fn to_backends(
        &self,
        chain: NatChain,
        arriving: Set,
        counting: &mut Counting,
        steps: &mut Vec<RuleStep>,
    ) -> Result<(), GaveUp> {
        let space = self.space;
        let backends = self.backends();
        for class in self.classes()? {
            let mut left = space.and(arriving, class.packets)?;
            if left == space.none() {
                continue;
            }
            for (place, end) in backends.iter().enumerate() {
                let others = backends.len() - place;
                let mut here = left;
                if others > 1 {
                    let bucket = Bucket {
                        chain: base_chain(chain).as_str().to_owned(),
                        place: counting.counters.turns,
                    };
                    counting.counters.turns += 1;
                    let condition = Condition::Turn(bucket, u32::try_from(others).unwrap_or(0));
                    let set = condition.set(space)?;
                    here = space.and(left, set)?;
                    left = space.minus(left, set)?;
                    let turn = BackendTurn {
                        entry: self.index,
                        chain,
                        protocol: class.protocol.map(|protocol| protocol.0),
                        first_port: class.first_port,
                        backend: place,
                    };
                    counting.turns.insert(turn, condition);
                }
                steps.push(RuleStep::verdict(
                    here,
                    self.destination(end, class.first_port),
                ));
            }
        }
        Ok(())
    }

    /// Returns the classes of connections that take turns separately. They follow the rules that iptables needs: a DNAT with a
    /// port is for one protocol, and one with a port range is for the range that it replaces.
    fn classes(&self) -> Result<Vec<Class>, GaveUp> {
        let space = self.space;
        let backends = self.backends();
        let mut ports = backends.iter().filter_map(|end| end.ports);
        let whole = Class {
            protocol: None,
            first_port: None,
            packets: space.all(),
        };
        let Some(first) = ports.next() else {
            return Ok(vec![whole]);
        };
        let has_range = std::iter::once(first)
            .chain(ports)
            .any(|ports| ports.first < ports.last);
        let mut protocols: BTreeMap<Protocol, Vec<(u128, u128)>> = BTreeMap::new();
        for part in self.packets.service.iter().flatten() {
            match part {
                ServicePart::Ports(ports) => {
                    let known = protocols.entry(ports.protocol).or_default();
                    known.extend(ports.destination.iter().flat_map(|set| set.intervals()));
                }
                ServicePart::Protocol(protocol) => {
                    protocols.entry(*protocol).or_default();
                }
                ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => {}
            }
        }
        let mut classes = Vec::new();
        for (protocol, ports) in protocols {
            let of_protocol = space.protocol(protocol)?;
            // A random port does not depend on the old one, so the ranges of the service do not matter.
            if !has_range || self.random {
                classes.push(Class {
                    protocol: Some(protocol),
                    first_port: None,
                    packets: of_protocol,
                });
                continue;
            }
            for (first, last) in IntervalSet::from_intervals(ports).intervals() {
                let between = space.range(Field::DestinationPort, *first, *last)?;
                classes.push(Class {
                    protocol: Some(protocol),
                    first_port: u16::try_from(*first).ok(),
                    packets: space.and(of_protocol, between)?,
                });
            }
        }
        Ok(classes)
    }

    fn backends(&self) -> Vec<NatEnd> {
        let resolve::PlannedTranslation::Dnat { backends, .. } = self.translation else {
            return Vec::new();
        };
        let here = |end: &&NatEnd| end.addresses.family == self.family();
        backends.iter().filter(here).copied().collect()
    }

    fn new_source(&self) -> Verdict {
        match self.translation {
            resolve::PlannedTranslation::Snat(ends) => {
                let mut nat = iptables::NatTarget::new(NatKind::Snat);
                let own = ends
                    .iter()
                    .find(|end| end.addresses.family == self.family());
                if let Some(end) = own {
                    nat.addresses = Some(both_ends(&end.addresses));
                    nat.ports = end.ports.map(|ports| iptables::PortMatch {
                        first: ports.first,
                        last: ports.last,
                    });
                }
                (nat.random_fully, nat.persistent) = (self.random, self.persistent);
                verdict(nat)
            }
            resolve::PlannedTranslation::Netmap { to, .. } => self.netmap(to),
            resolve::PlannedTranslation::Masquerade { ports } => {
                let mut nat = iptables::NatTarget::new(NatKind::Masquerade);
                nat.ports = ports.map(|ports| iptables::PortMatch {
                    first: ports.first,
                    last: ports.last,
                });
                nat.random_fully = self.random;
                verdict(nat)
            }
            // The packets leave the table as they are.
            _ => Verdict::Accept,
        }
    }

    fn destination(&self, end: &NatEnd, first_port: Option<u16>) -> Verdict {
        let mut nat = iptables::NatTarget::new(NatKind::Dnat);
        nat.addresses = Some(both_ends(&end.addresses));
        if let Some(ports) = end.ports {
            let (first, last) = (ports.first, ports.last);
            nat.ports = Some(iptables::PortMatch { first, last });
            // A range that begins with the original first port keeps each port, so it needs no base port.
            nat.base_port = first_port.filter(|port| first < last && *port != first);
        }
        (nat.random, nat.persistent) = (self.random, self.persistent);
        verdict(nat)
    }

    fn redirect(&self, port: u16) -> Verdict {
        let mut nat = iptables::NatTarget::new(NatKind::Redirect);
        nat.ports = Some(iptables::PortMatch {
            first: port,
            last: port,
        });
        nat.random = self.random;
        verdict(nat)
    }

    fn netmap(&self, to: &[AddressRange]) -> Verdict {
        let own = to.iter().find(|to| to.family == self.family());
        let mut nat = iptables::NatTarget::new(NatKind::Netmap);
        nat.addresses = own.map(both_ends);
        verdict(nat)
    }
}

fn verdict(nat: iptables::NatTarget) -> Verdict {
    Verdict::Nat(Translation::of(&nat))
}

/// Returns the translation of a hairpin connection.
fn masquerade() -> Verdict {
    verdict(iptables::NatTarget::new(NatKind::Masquerade))
}

fn both_ends(range: &AddressRange) -> (IpAddr, IpAddr) {
    (
        address_of(range.family, range.first),
        address_of(range.family, range.last),
    )
}

//! Takes sets of packets from table to table.

use std::collections::BTreeMap;

use super::change::{Address, Exchanged, PathChange, Port};
use super::{FIRST_OF_RELATED, TableChain, Threads};
use crate::analysis::GaveUp;
use crate::analysis::behaviour::{BaseChain, Behaviour};
use crate::analysis::field::{Field, state_number};
use crate::analysis::mark::Marks;
use crate::analysis::matches::network_set;
use crate::analysis::space::{Set, Space};
use crate::analysis::verdicts::{RunExit, Verdict, Verdicts};
use crate::analysis::writes::Writes;
use crate::iptables::{Network, TableName};
use crate::net::{Family, Hook, Protocol, State};

/// The packets that go through the nat table, and those whose connection was translated before.
struct Askers {
    asks: Set,
    known: Set,
}

/// One result of a table: a verdict, the change of the packets so far, and the packets as they arrived.
type Part = (Verdict, PathChange, Set);

pub(super) struct Follower<'a> {
    pub(super) space: &'a Space,
    behaviour: &'a Behaviour,
    pub(super) hook: Hook,
    /// Packets that this host sent to itself. They already passed OUTPUT and POSTROUTING and bring their connection
    /// along. INVALID ones have no connection to bring, so that conntrack looks at them again.
    looped: Set,
    pub(super) ends: BTreeMap<(Verdict, Option<TableChain>, PathChange), Set>,
    pub(super) entries: BTreeMap<TableChain, Threads>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        space: &'a Space,
        behaviour: &'a Behaviour,
        hook: Hook,
    ) -> Result<Self, GaveUp> {
        Ok(Self {
            space,
            behaviour,
            hook,
            looped: match hook {
                Hook::Input => {
                    let invalid = space.states(&[State::Invalid])?;
                    space.minus(space.in_device("lo")?, invalid)?
                }
                _ => space.none(),
            },
            ends: BTreeMap::new(),
            entries: BTreeMap::new(),
        })
    }

    pub(super) fn add(
        &self,
        threads: &mut Threads,
        change: PathChange,
        packets: Set,
    ) -> Result<(), GaveUp> {
        if packets != self.space.none() {
            let before = threads.entry(change).or_insert(self.space.none());
            *before = self.space.or(*before, packets)?;
        }
        Ok(())
    }

    pub(super) fn end(
        &mut self,
        verdict: Verdict,
        place: Option<TableChain>,
        change: PathChange,
        packets: Set,
    ) -> Result<(), GaveUp> {
        let none = self.space.none();
        if packets != none {
            let before = self.ends.entry((verdict, place, change)).or_insert(none);
            *before = self.space.or(*before, packets)?;
        }
        Ok(())
    }

    /// Sends packets through a table other than nat.
    pub(super) fn table(&mut self, place: TableChain, threads: Threads) -> Result<Threads, GaveUp> {
        let space = self.space;
        let mut after = Threads::new();
        for (before, packets) in threads {
            let passed = self.thread(place, &before, packets)?;
            for (verdict, change, packets) in passed {
                if verdict != Verdict::Accept {
                    self.end(verdict, Some(place), change, packets)?;
                    continue;
                }
                let mut packets = packets;
                if place == (TableName::Mangle, BaseChain::Output) {
                    // A packet of this host is routed again if its mark changed (`ipt_mangle_out`).
                    let other = space.mark_changes(before.writes.marks, change.writes.marks)?;
                    let rerouted = PathChange {
                        rerouted: true,
                        ..change.clone()
                    };
                    self.add(&mut after, rerouted, space.and(packets, other)?)?;
                    packets = space.minus(packets, other)?;
                }
                self.add(&mut after, change, packets)?;
            }
        }
        Ok(after)
    }

    /// Sends packets through the nat table, if the ruleset has one.
    pub(super) fn translate(
        &mut self,
        place: TableChain,
        threads: Threads,
    ) -> Result<Threads, GaveUp> {
        let space = self.space;
        if !self.behaviour.flows.contains_key(&place) {
            return Ok(threads);
        }
        let askers = self.askers(place)?;
        let mut after = Threads::new();
        for (change, packets) in threads {
            // The nat table is asked about connections, and an untracked packet has none.
            if change.untracked {
                self.add(&mut after, change, packets)?;
                continue;
            }
            // Packets of a connection that was translated before are treated as they were then; only the first packet
            // asks the rules.
            let asks = space.and(packets, askers.asks)?;
            let known = space.and(packets, askers.known)?;
            let others = space.minus(space.minus(packets, asks)?, known)?;
            self.add(&mut after, change.clone(), others)?;
            let mut as_before = change.clone();
            match place.1 {
                BaseChain::Prerouting | BaseChain::Output => {
                    as_before.destination = Exchanged::AsBefore;
                    (as_before.address, as_before.port) = (Address::Chosen, Port::Chosen);
                    as_before.rerouted |= place.1 == BaseChain::Output;
                }
                _ => as_before.source = Exchanged::AsBefore,
            }
            self.add(&mut after, as_before, known)?;
            let passed = self.thread(place, &change, asks)?;
            for (verdict, change, packets) in passed {
                match verdict {
                    Verdict::Accept => self.add(&mut after, change, packets)?,
                    Verdict::Nat(translation) => {
                        for (change, packets) in
                            self.translated(place.1, change, packets, translation)?
                        {
                            self.add(&mut after, change, packets)?;
                        }
                    }
                    verdict => self.end(verdict, Some(place), change, packets)?,
                }
            }
        }
        Ok(after)
    }

    /// Returns the arriving packets with a change that are in a set as a table sees them.
    fn when(
        &self,
        place: TableChain,
        change: &PathChange,
        packets: Set,
        set: Set,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        let roughly = self.roughly(place, change, packets)?;
        let seen = self.seen(place, change, Verdicts(space.and(roughly, set)?.0))?;
        space.and(packets, Set(seen.0))
    }

    /// Returns the arriving packets that are in `when`, as a table sees them, and that the table is asked about.
    pub(super) fn happens(
        &self,
        place: TableChain,
        threads: &Threads,
        when: Set,
    ) -> Result<Set, GaveUp> {
        let space = self.space;
        let asks = match place.0 {
            TableName::Nat => Some(self.askers(place)?.asks),
            _ => None,
        };
        let mut all = space.none();
        for (change, packets) in threads {
            let packets = match asks {
                Some(_) if change.untracked => continue,
                Some(asks) => space.and(*packets, asks)?,
                None => *packets,
            };
            all = space.or(all, self.when(place, change, packets, when)?)?;
        }
        Ok(all)
    }

    /// Returns what a table does with packets that have a change.
    fn thread(
        &mut self,
        place: TableChain,
        change: &PathChange,
        packets: Set,
    ) -> Result<Vec<Part>, GaveUp> {
        let space = self.space;
        if packets == space.none() {
            return Ok(Vec::new());
        }
        // A base chain that the ruleset does not name accepts everything.
        let Some(flow) = self.behaviour.flows.get(&place) else {
            return Ok(vec![(Verdict::Accept, change.clone(), packets)]);
        };
        let roughly = self.roughly(place, change, packets)?;
        let verdicts = space.guard(roughly, flow.verdicts)?;
        let seen = self.seen(place, change, Verdicts(verdicts.0))?;
        let passed = space.guard(packets, seen)?;
        let mut parts = Vec::new();
        for (outcome, set) in space.by_outcome(passed)? {
            if let RunExit::Ends(verdict) = outcome.exit {
                let mut change = self.written(place, change, space.writes_of(outcome.writes));
                let proxy = match place.0 {
                    TableName::Mangle => proxy_mark(&verdict),
                    _ => None,
                };
                if let Some(proxy) = proxy {
                    // Whether a proxy on this host takes the packet is decided later, at INPUT.
                    change.writes = Writes::from(proxy).after(change.writes);
                    parts.push((Verdict::Accept, change, set));
                    continue;
                }
                parts.push((verdict, change, set));
            }
        }
        Ok(parts)
    }

    /// Returns the change of a packet after a table wrote into it.
    fn written(&self, place: TableChain, before: &PathChange, mut writes: Writes) -> PathChange {
        let mut change = before.clone();
        if place.1 == BaseChain::Prerouting && self.hook == Hook::Forward {
            // The kernel decrements the hop limit between PREROUTING and FORWARD.
            writes.hops = writes.hops.one_less();
        }
        change.writes = writes.after(before.writes);
        if let Some(state) = change.writes.state.take() {
            // How raw set the tracking decides the state in all later tables, so it is kept apart from what later rules
            // write.
            change.untracked |= state == State::Untracked;
            // The template, with its mark, is gone once the packet is tracked.
            change.writes.marks.connection = before.writes.marks.connection;
        }
        change
    }

    /// Returns a larger set that asks few fields, none of them changed on the way. With it only the part of a table
    /// that may concern these packets is rewritten.
    fn roughly(&self, place: TableChain, change: &PathChange, packets: Set) -> Result<Set, GaveUp> {
        let mut set = self.space.front(packets, Field::Source)?;
        let other = [
            (self.hook == Hook::Output, Field::InDevice),
            (change.rerouted, Field::OutDevice),
            (change.rerouted, Field::NewOutDevice),
            (change.untracked || place.0 == TableName::Raw, Field::State),
        ];
        for (_, field) in other.into_iter().filter(|(is_other, _)| *is_other) {
            set = self.space.whatever(set, field)?;
        }
        Ok(set)
    }

    /// Returns a table's diagram in terms of the packets as they arrived.
    pub(super) fn seen(
        &self,
        place: TableChain,
        change: &PathChange,
        diagram: Verdicts,
    ) -> Result<Verdicts, GaveUp> {
        let space = self.space;
        let mut seen = diagram.0;
        let fields = space.fields_of(seen);
        if place.1 == BaseChain::Prerouting && self.hook == Hook::Forward {
            // The kernel decrements the hop limit between PREROUTING and FORWARD.
            seen = space.shifted(seen, Field::HopLimit, (0, 1, 254))?;
        }
        if place.1 == BaseChain::Postrouting && self.hook == Hook::Output {
            seen = space.fixed(seen, Field::InDevice, 0)?;
        }
        if place.0 == TableName::Raw && fields.contains(&Field::State) {
            // Nothing is tracked yet, and conditions take that for INVALID (nf_conntrack.h, xt_conntrack.c).
            let invalid = state_number(State::Invalid);
            let asked = Verdicts(space.fixed(seen, Field::State, invalid)?);
            seen = space.choose(self.looped, Verdicts(seen), asked)?.0;
        }
        seen = change.seen(space, place.1, seen)?;
        for field in fields {
            seen = match field {
                Field::SourceTranslated | Field::DestinationTranslated => {
                    // A new connection is not translated before a rule does it.
                    let new = space.minus(space.states(&[State::New])?, self.looped)?;
                    let not = Verdicts(space.fixed(seen, field, 0)?);
                    space.choose(new, not, Verdicts(seen))?.0
                }
                Field::Opaque(number) => match space.opaque_key(number) {
                    Some(key) => match self.original(&key)? {
                        Some(original) => {
                            let new = space.states(&[State::New])?;
                            let itself = space.range(field, 1, 1)?;
                            let condition = space.ite(new, original, itself)?;
                            space.replaced(seen, field, condition)?
                        }
                        None => seen,
                    },
                    None => seen,
                },
                _ => seen,
            };
        }
        Ok(Verdicts(seen))
    }

    /// Returns a condition about a connection's original addresses, ports, protocol or direction as one about its first packet.
    fn original(&self, key: &str) -> Result<Option<Set>, GaveUp> {
        let Some((setting, value)) = key
            .strip_prefix("conntrack ")
            .and_then(|rest| rest.split_once(' '))
        else {
            return Ok(None);
        };
        let space = self.space;
        let network = Network::from_text(space.family(), value);
        let (first, last) = value.split_once(':').unwrap_or((value, value));
        let ports = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        let original = match (setting, network, ports) {
            ("ctorigsrc", Some(network), _) => network_set(space, Field::Source, &network)?,
            ("ctorigdst", Some(network), _) => network_set(space, Field::Destination, &network)?,
            ("ctorigsrcport", _, Some((first, last))) => space.source_port(first, last)?,
            ("ctorigdstport", _, Some((first, last))) => space.destination_port(first, last)?,
            ("ctproto", _, Some((number, _))) => {
                space.range(Field::Protocol, number.into(), number.into())?
            }
            // The first packet of a connection sets its direction.
            ("ctdir", ..) if value == "ORIGINAL" => space.all(),
            ("ctdir", ..) => space.none(),
            _ => return Ok(None),
        };
        Ok(Some(original))
    }

    /// Returns the packets that go through the nat table: the first packet of each connection. ICMP errors are
    /// translated like the connection that they are about, without asking the table (`nf_nat_inet_fn`,
    /// `nf_nat_icmp_reply_translation`).
    fn askers(&self, place: TableChain) -> Result<Askers, GaveUp> {
        let space = self.space;
        let new = space.states(&[State::New])?;
        let looped = match place.1 {
            BaseChain::Prerouting | BaseChain::Input => self.looped,
            _ => space.none(),
        };
        let icmp = space.protocol(match space.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        })?;
        let related = space.states(&[State::Related])?;
        let translated = space.or(
            space.range(Field::SourceTranslated, 1, 1)?,
            space.range(Field::DestinationTranslated, 1, 1)?,
        )?;
        let first = space.opaque(FIRST_OF_RELATED)?;
        let expected = space.minus(space.minus(related, icmp)?, translated)?;
        let old = space.or(related, space.states(&[State::Established])?)?;
        Ok(Askers {
            asks: space.or(
                space.minus(new, looped)?,
                space.minus(space.and(expected, first)?, looped)?,
            )?,
            known: space.and(old, translated)?,
        })
    }
}

/// Returns the change of the mark by `TPROXY`, whose packets go on to the next table; `None` for another verdict.
fn proxy_mark(verdict: &Verdict) -> Option<Marks> {
    let Verdict::Target(text) = verdict else {
        return None;
    };
    let settings = text.strip_prefix("TPROXY ")?;
    let mark = settings.split_once("--tproxy-mark ").and_then(|(_, rest)| {
        let (value, mask) = rest.split(' ').next()?.split_once('/')?;
        let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        Some(Marks::set_packet(number(value)?, number(mask)?))
    });
    Some(mark.unwrap_or_default())
}

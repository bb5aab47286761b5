//! What a translation makes of a set of packets.

use std::collections::BTreeSet;

use super::change::{Address, Bit, Change, Exchanged, Port};
use super::follow::Follower;
use crate::analysis::GaveUp;
use crate::analysis::behaviour::BaseChain;
use crate::analysis::field::Field;
use crate::analysis::space::Set;
use crate::analysis::translation::Translation;
use crate::iptables::NatKind;
use crate::net::{Family, IntervalSet, Protocol, number_of};

/// Of a range of more ports than this every one may be taken.
const MOST_PORTS: u32 = 4096;
/// More networks than this that one `NETMAP` maps from are not told apart.
const MOST_NETWORKS: u128 = 16;

impl Follower<'_> {
    /// What becomes of packets whose connection a rule translates.
    pub(super) fn translated(
        &self,
        chain: BaseChain,
        change: Change,
        packets: Set,
        translation: Translation,
    ) -> Result<Vec<(Change, Set)>, GaveUp> {
        let space = self.space;
        let nat = translation.nat();
        let by = Exchanged::By(translation.clone());
        if !matches!(chain, BaseChain::Prerouting | BaseChain::Output) {
            return Ok(vec![(
                Change {
                    source: by,
                    ..change
                },
                packets,
            )]);
        }
        let change = Change {
            destination: by,
            ..change
        };
        let ends = |(first, last)| (number_of(first), number_of(last));
        let all = (0, space.family().last_address());
        // The range that the new destination is from; one address where there is no choice.
        let (addresses, moved) = match (nat.kind, nat.addresses.map(ends)) {
            (NatKind::Netmap, Some(network)) => (Some(network), true),
            (NatKind::Redirect, _) if chain == BaseChain::Output => {
                let loopback = match space.family() {
                    Family::V4 => 127 << 24 | 1,
                    Family::V6 => 1,
                };
                (Some((loopback, loopback)), false)
            }
            // An address of the device that it came in by.
            (NatKind::Redirect, _) => (Some(all), false),
            (_, addresses) => (addresses, false),
        };
        if let (true, Some(network)) = (moved, addresses)
            && let Some(parts) = self.moved(chain, &change, packets, network)?
        {
            return Ok(parts);
        }
        let ports = nat.ports.map(|range| (range.first, range.last));
        let address = addresses.map(|(first, last)| match first == last {
            true => Address::Is(first),
            false => Address::Chosen,
        });
        let port = ports.map(|(first, last)| match first == last {
            true => Port::Is(first),
            false => Port::Chosen,
        });
        let mut chosen = packets;
        if let (Some(Address::Chosen), Some((first, last))) = (address, addresses) {
            chosen = space.and(chosen, space.range(Field::NewDestination, first, last)?)?;
        }
        if let (Some(Port::Chosen), Some((first, last))) = (port, ports) {
            let range = space.range(Field::NewDestinationPort, first.into(), last.into())?;
            chosen = space.and(chosen, range)?;
            chosen = space.and(chosen, self.usual_ports((first, last), nat.base_port)?)?;
        }
        // Who has the address, and the port, already.
        let (first, last) = addresses.unwrap_or(all);
        let has_address = space.range(Field::Destination, first, last)?;
        let has_port = match ports {
            Some((first, last)) => {
                let without = space.not(space.protocols(&Protocol::WITH_PORTS)?)?;
                space.or(space.destination_port(first, last)?, without)?
            }
            None => space.all(),
        };
        let is_choice = address == Some(Address::Chosen) || port == Some(Port::Chosen);
        let maybe = match space.opaque_field(&format!("{translation} changes something")) {
            Field::Opaque(number) if is_choice => Bit::If(number),
            _ => change.mark,
        };
        let here = chain == BaseChain::Output;
        let part = |is_there: bool, rerouted: bool| Change {
            address: address.unwrap_or(change.address),
            port: port.unwrap_or(change.port),
            mark: if is_there { maybe } else { Bit::Yes },
            rerouted: change.rerouted || (here && rerouted),
            ..change.clone()
        };
        let may_move = address == Some(Address::Chosen);
        let same_address = space.and(chosen, has_address)?;
        Ok(vec![
            (part(false, true), space.minus(chosen, has_address)?),
            (part(false, may_move), space.minus(same_address, has_port)?),
            (part(true, may_move), space.and(same_address, has_port)?),
        ])
    }

    /// Which port of a range the kernel takes: the one as far behind its first as the packet's is behind the base, or the
    /// packet's own where it is in the range (`nf_nat_l4proto_unique_tuple`, `get_unique_tuple` of `nf_nat_core.c`). That
    /// another connection has it already is left out.
    fn usual_ports(&self, (first, last): (u16, u16), base: Option<u16>) -> Result<Set, GaveUp> {
        let space = self.space;
        let count = u32::from(last - first) + 1;
        if count > MOST_PORTS {
            return Ok(space.all());
        }
        let (mut known, mut ports) = (Vec::new(), Vec::new());
        for from in first..=last {
            let (from, to) = match base {
                Some(base) => (base.wrapping_add(from - first), from),
                None => (from, from),
            };
            known.push((from.into(), from.into()));
            let there = space.range(Field::NewDestinationPort, to.into(), to.into())?;
            ports.push(space.and(space.destination_port(from, from)?, there)?);
        }
        let known = space.values(Field::DestinationPort, &IntervalSet::from_intervals(known))?;
        space.or(space.any(ports)?, space.not(known)?)
    }

    /// The parts of a `NETMAP`, one for each network that it maps from; `None` where there are too many.
    fn moved(
        &self,
        chain: BaseChain,
        change: &Change,
        packets: Set,
        (to, last): (u128, u128),
    ) -> Result<Option<Vec<(Change, Set)>>, GaveUp> {
        let space = self.space;
        let more = last - to;
        let mut networks = BTreeSet::new();
        for (first, last) in space.values_in(packets, Field::Destination)?.intervals() {
            let (mut from, last) = (first & !more, last & !more);
            if (last - from) / (more.saturating_add(1)) >= MOST_NETWORKS {
                return Ok(None);
            }
            networks.insert(from);
            while from < last {
                from += more + 1;
                networks.insert(from);
            }
        }
        if networks.len() as u128 > MOST_NETWORKS {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for from in networks {
            let here = space.and(packets, space.range(Field::Destination, from, from + more)?)?;
            let change = match from == to {
                true => change.clone(),
                false => Change {
                    address: Address::Moved { from, to, more },
                    mark: Bit::Yes,
                    rerouted: change.rerouted || chain == BaseChain::Output,
                    ..change.clone()
                },
            };
            parts.push((change, here));
        }
        Ok(Some(parts))
    }
}

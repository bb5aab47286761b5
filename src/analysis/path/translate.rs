//! Applies a translation (DNAT, REDIRECT, NETMAP, SNAT, MASQUERADE) to a set of packets.

use std::collections::BTreeSet;

use super::change::{Address, Bit, Exchanged, PathChange, Port};
use super::follow::Follower;
use crate::analysis::GaveUp;
use crate::analysis::behaviour::BaseChain;
use crate::analysis::field::Field;
use crate::analysis::space::Set;
use crate::analysis::translation::Translation;
use crate::iptables::NatKind;
use crate::net::{Family, IntervalSet, Protocol, number_of};

/// For a range of more ports than this, the engine lets the kernel choose any of them.
const MOST_PORTS: u32 = 4096;
/// The most networks that one `NETMAP` maps from, before the engine stops telling them apart.
const MOST_NETWORKS: u128 = 16;

impl Follower<'_> {
    /// Returns the changes of packets whose connection a rule translates.
    pub(super) fn translated(
        &self,
        chain: BaseChain,
        change: PathChange,
        packets: Set,
        translation: Translation,
    ) -> Result<Vec<(PathChange, Set)>, GaveUp> {
        let space = self.space;
        let nat = translation.nat();
        let by = Exchanged::By(translation.clone());
        if !matches!(chain, BaseChain::Prerouting | BaseChain::Output) {
            return Ok(vec![(
                PathChange {
                    source: by,
                    ..change
                },
                packets,
            )]);
        }
        let change = PathChange {
            destination: by,
            ..change
        };
        let ends = |(first, last)| (number_of(first), number_of(last));
        let all = (0, space.family().last_address());
        // The range of the new destination; a single address if there is no choice.
        let (addresses, moved) = match (nat.kind, nat.addresses.map(ends)) {
            (NatKind::Netmap, Some(network)) => (Some(network), true),
            (NatKind::Redirect, _) if chain == BaseChain::Output => {
                // For a packet of this host REDIRECT leads to the loopback address; the packet then comes back on `lo`.
                let loopback = match space.family() {
                    Family::V4 => 127 << 24 | 1,
                    Family::V6 => 1,
                };
                (Some((loopback, loopback)), false)
            }
            // The kernel takes an address of the in-device, which the rules do not name.
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
            let is_random = nat.random || nat.random_fully;
            if nat.base_port.is_some() || !is_random {
                chosen = space.and(chosen, self.usual_ports((first, last), nat.base_port)?)?;
            }
        }
        // Packets that have such an address and port already keep them: `--ctstate DNAT` does not hold for them.
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
        // If the kernel may choose what the packet already has, whether it is translated at all depends on the choice.
        let maybe = match space.opaque_field(&format!("{translation} changes something")) {
            Field::Opaque(number) if is_choice => Bit::If(number),
            _ => change.mark,
        };
        let here = chain == BaseChain::Output;
        let part = |is_there: bool, rerouted: bool| PathChange {
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

    /// Returns the packets with the port of a range that the kernel chooses for them: the port as far behind the
    /// range's first as the packet's is behind the base, or the packet's own if it is in the range
    /// (`nf_nat_l4proto_unique_tuple`, `get_unique_tuple` of `nf_nat_core.c`). Collisions with existing connections are
    /// not modelled.
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

    /// Splits packets by the networks that a `NETMAP` maps from; `None` if there are too many.
    fn moved(
        &self,
        chain: BaseChain,
        change: &PathChange,
        packets: Set,
        (to, last): (u128, u128),
    ) -> Result<Option<Vec<(PathChange, Set)>>, GaveUp> {
        let space = self.space;
        let more = last - to;
        let mut networks = BTreeSet::new();
        for (first, last) in space.values_in(packets, Field::Destination)?.intervals() {
            let (mut from, last) = (first & !more, last & !more);
            // Counted before they are listed: with a /128 as target and any destination there would be 2^128 of them.
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
                false => PathChange {
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

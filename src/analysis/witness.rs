//! Finds one packet of a set, as an example that a reader would recognize from a wire.

use std::collections::BTreeMap;

use super::GaveUp;
use super::address::Partly;
use super::behaviour::BaseChain;
use super::field::{Field, NO_MAC, device_number, is_address, mac_number, state_number};
use super::space::{Set, Space, Split};
use crate::net::{
    Family, Hook, IntervalSet, Packet, Protocol, State, TcpFlags, Translated, address_of, number_of,
};

/// Well-known ports, the best known first.
const KNOWN_PORTS: [u16; 8] = [443, 80, 22, 53, 25, 993, 123, 8080];
/// Usual names of devices.
const KNOWN_DEVICES: [&str; 8] = ["eth0", "eth1", "eth2", "br0", "wlan0", "tun0", "ppp0", "lo"];

/// One packet of a set, and the further conditions under which it is in the set.
///
/// ```
/// # use fwc::analysis::{BaseChain, Space};
/// # use fwc::net::{Family, Protocol};
/// # fn main() -> Result<(), fwc::analysis::GaveUp> {
/// let space = Space::new(Family::V4);
/// let slow = space.opaque("-m limit --limit 1/sec")?;
/// let pings = space.every([space.protocol(Protocol::ICMP)?, space.icmp_codes(8, 0, 0)?, slow])?;
/// let witness = space.witness(pings, BaseChain::Input, &[])?.unwrap();
/// assert!(witness.possible);
/// assert_eq!(witness.packet.icmp, Some((8, 0)));
/// assert_eq!(witness.conditions, [("-m limit --limit 1/sec".to_owned(), true)]);
/// assert!(space.contains(pings, witness.value()));
///
/// // Ports without a protocol that has ports: no real packet is like this.
/// let strange = space.and(space.protocol(Protocol::ICMP)?, space.destination_port(22, 22)?)?;
/// assert!(!space.witness(strange, BaseChain::Input, &[])?.unwrap().possible);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The packet. One of PREROUTING is given with the hook INPUT, one of POSTROUTING with OUTPUT.
    pub packet: Packet,
    /// The opaque conditions that the set depends on for this packet, and the answer that each must have.
    pub conditions: Vec<(String, bool)>,
    /// `true` if a kernel can show such a packet. If `false`, the set has no packet that a kernel can show.
    pub possible: bool,
    values: BTreeMap<Field, u128>,
}

impl Witness {
    /// Returns the packet's field values, for questions to sets and verdicts.
    pub fn value(&self) -> impl Fn(Field) -> u128 + '_ {
        |field| {
            self.values
                .get(&field)
                .copied()
                .unwrap_or_else(|| default_value(field))
        }
    }
}

impl Witness {
    /// Returns the facts about the packet that [`Packet`] has no field for or does not print, by name: the connection's
    /// mark, the packet type, a later fragment, an unusual hop limit.
    pub fn besides(&self) -> Vec<(&'static str, String)> {
        let value = self.value();
        let mut all = Vec::new();
        let mark = (0..32).fold(0u32, |mark, bit| {
            mark | (value(Field::ConnectionMark(bit)) as u32 & 1) << bit
        });
        if mark != 0 {
            all.push(("connection-mark", format!("{mark:#x}")));
        }
        let kind = match value(Field::PacketType) {
            1 => Some("broadcast"),
            2 => Some("multicast"),
            _ => None,
        };
        all.extend(kind.map(|kind| ("packet-type", kind.to_owned())));
        if value(Field::Fragment) == 1 {
            all.push(("fragment", "yes".to_owned()));
        }
        let hop_limit = value(Field::HopLimit);
        if hop_limit != default_value(Field::HopLimit) {
            all.push(("hop-limit", hop_limit.to_string()));
        }
        all
    }
}

impl Space {
    /// Returns a packet of a set at a base chain; `None` for the empty set.
    ///
    /// It prefers packets that a kernel can show, then packets of each set in `prefer` in turn as long as some are
    /// left, then the most common kind: NEW, TCP with SYN, a known port, a known device, an ordinary source.
    ///
    /// ```
    /// # use fwc::analysis::{BaseChain, Space};
    /// # use fwc::net::{Family, Protocol, State};
    /// # fn main() -> Result<(), fwc::analysis::GaveUp> {
    /// let space = Space::new(Family::V4);
    /// let not_tcp = space.not(space.protocol(Protocol::TCP)?)?;
    /// let witness = space.witness(not_tcp, BaseChain::Input, &[])?.unwrap();
    /// assert_eq!(witness.packet.protocol, Protocol::UDP.0);
    /// assert_eq!(witness.packet.state, State::New);
    /// assert!(witness.possible && space.contains(not_tcp, witness.value()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn witness(
        &self,
        set: Set,
        chain: BaseChain,
        prefer: &[Set],
    ) -> Result<Option<Witness>, GaveUp> {
        if set == self.none() {
            return Ok(None);
        }
        // A packet that some kernel shows first; one that needs a setting of the host second; an impossible one last.
        let mut left = self.and(set, self.valid(chain)?)?;
        let possible = left != self.none();
        if !possible {
            left = match self.only_where(chain, set)? {
                Some(setting) => self.and(set, self.valid_where(chain, setting)?)?,
                None => set,
            };
        }
        let prefer = prefer.iter().copied().map(Ok);
        for narrower in prefer.chain(
            self.common(chain)
                .map(|common| self.values(common.0, &common.1)),
        ) {
            let narrowed = self.and(left, narrower?)?;
            if narrowed != self.none() {
                left = narrowed;
            }
        }
        let mut values = BTreeMap::new();
        let mut conditions = Vec::new();
        let mut addresses: BTreeMap<Field, Partly> = BTreeMap::new();
        while let Split::By(field, runs) = self.split(left) {
            let Some(&(first, last, below)) = runs.iter().find(|run| run.2 != self.none()) else {
                break;
            };
            let (address, bit) = field.address().unzip();
            let address = address.unwrap_or(field);
            if is_address(address) {
                // The bits of the address come next in the diagram; only with them the address is complete.
                let all = Partly::range(0, address.last(self.family()));
                let known = addresses.entry(address).or_insert(all);
                *known = match bit {
                    Some(bit) => known.with(bit, first == 1),
                    None => Partly::range(first, last),
                };
                left = below;
                continue;
            }
            let value = nice_value(field, first, last);
            values.insert(field, value);
            if let Field::Opaque(number) = field {
                conditions.extend(self.opaque_key(number).map(|key| (key, value == 1)));
            }
            left = below;
        }
        for (field, known) in addresses {
            // A packet whose source is its destination would look strange.
            let avoided = match field {
                Field::Destination => values.get(&Field::Source).copied(),
                _ => None,
            };
            values.insert(field, nice_address(known, avoided));
        }
        let packet = self.packet_of(chain, &values);
        Ok(Some(Witness {
            packet,
            conditions,
            possible,
            values,
        }))
    }

    /// Returns the field values of a packet. `condition` answers the opaque conditions by their keys; fields that a
    /// packet does not have are 0.
    pub fn values_of<'a>(
        &'a self,
        packet: &'a Packet,
        condition: impl Fn(&str) -> bool + 'a,
    ) -> impl Fn(Field) -> u128 + 'a {
        let device = |device: &Option<String>| device.as_deref().map_or(0, device_number);
        move |field| match field {
            Field::InDevice => device(&packet.in_device),
            Field::OutDevice => device(&packet.out_device),
            Field::State => state_number(packet.state),
            Field::Source => number_of(packet.source),
            Field::Destination => number_of(packet.destination),
            Field::Protocol => packet.protocol.into(),
            Field::DestinationPort => packet.destination_port.unwrap_or_default().into(),
            Field::SourcePort => packet.source_port.unwrap_or_default().into(),
            Field::Icmp => packet
                .icmp
                .map_or(0, |(kind, code)| u128::from(kind) << 8 | u128::from(code)),
            Field::TcpFlag(bit) => (packet.tcp_flags.unwrap_or_default().0 >> bit & 1).into(),
            Field::Mark(bit) => (packet.mark >> bit & 1).into(),
            Field::HopLimit => packet.hop_limit.into(),
            Field::Mac => packet.mac.map_or(NO_MAC, mac_number),
            Field::Opaque(number) => self
                .opaque_key(number)
                .is_some_and(|key| condition(&key))
                .into(),
            Field::SourceTranslated => packet.translated.source.into(),
            Field::DestinationTranslated => packet.translated.destination.into(),
            Field::NewOutDevice
            | Field::NewDestination
            | Field::NewDestinationPort
            | Field::ConnectionMark(_)
            | Field::PacketType
            | Field::Fragment
            // Asked as a part of the address.
            | Field::SourceBit(_)
            | Field::DestinationBit(_)
            | Field::NewDestinationBit(_) => 0,
        }
    }

    /// Lists the preferences for an example, the most important first.
    fn common(&self, chain: BaseChain) -> impl Iterator<Item = (Field, IntervalSet)> + use<> {
        let one = |field, value: u128| (field, IntervalSet::from_intervals([(value, value)]));
        let some = |field, first, last| (field, IntervalSet::from_intervals([(first, last)]));
        let icmp = match self.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        // Any ordinary public or private source, not loopback, multicast or 0.0.0.0/8.
        let ordinary = match self.family() {
            Family::V4 => (
                Field::Source,
                IntervalSet::from_intervals([
                    (1 << 24, (127 << 24) - 1),
                    (128 << 24, (224 << 24) - 1),
                ]),
            ),
            Family::V6 => some(Field::Source, 0x2000 << 112, (0x4000 << 112) - 1),
        };
        let destination = (Field::Destination, ordinary.1.clone());
        let mut all = vec![
            one(Field::State, state_number(State::New)),
            one(Field::Protocol, Protocol::TCP.0.into()),
            one(Field::Protocol, Protocol::UDP.0.into()),
            one(Field::Protocol, icmp.0.into()),
            one(Field::TcpFlag(1), 1),
            one(Field::TcpFlag(4), 0),
            ordinary,
            destination,
            one(Field::HopLimit, 64),
            one(Field::Mac, NO_MAC),
        ];
        all.extend((0..6).map(|bit| one(Field::TcpFlag(bit), u128::from(bit == 1))));
        all.extend(KNOWN_PORTS.map(|port| one(Field::DestinationPort, port.into())));
        all.push(some(Field::DestinationPort, 1, 65535));
        all.push(some(Field::SourcePort, 32768, 60999));
        all.push(some(Field::SourcePort, 1024, 65535));
        all.push(some(Field::SourcePort, 1, 65535));
        all.extend(KNOWN_DEVICES.map(|name| one(Field::InDevice, device_number(name))));
        // A forwarded packet leaves by another device than it came in by.
        let skipped = usize::from(chain == BaseChain::Forward);
        let leaves = KNOWN_DEVICES
            .iter()
            .cycle()
            .skip(skipped)
            .take(KNOWN_DEVICES.len());
        all.extend(leaves.map(|name| one(Field::OutDevice, device_number(name))));
        all.extend((0..32).map(|bit| one(Field::Mark(bit), 0)));
        all.into_iter()
    }

    fn packet_of(&self, chain: BaseChain, values: &BTreeMap<Field, u128>) -> Packet {
        let value = |field| {
            values
                .get(&field)
                .copied()
                .unwrap_or_else(|| default_value(field))
        };
        let device = |field| match value(field) {
            0 => None,
            number => Some(device_name(number)),
        };
        let protocol = Protocol(value(Field::Protocol) as u8);
        let port = |field| protocol.has_ports().then(|| value(field) as u16);
        let is_icmp = matches!(
            (self.family(), protocol),
            (Family::V4, Protocol::ICMP) | (Family::V6, Protocol::ICMPV6)
        );
        let icmp = value(Field::Icmp);
        let bits = |field: fn(u8) -> Field, count: u8| {
            (0..count).fold(0u32, |word, bit| {
                word | (value(field(bit)) as u32 & 1) << bit
            })
        };
        let address = |field| address_of(self.family(), value(field));
        Packet {
            family: self.family(),
            hook: match chain {
                BaseChain::Prerouting | BaseChain::Input => Hook::Input,
                BaseChain::Forward => Hook::Forward,
                BaseChain::Output | BaseChain::Postrouting => Hook::Output,
            },
            in_device: device(Field::InDevice),
            out_device: device(Field::OutDevice),
            source: address(Field::Source),
            destination: address(Field::Destination),
            protocol: protocol.0,
            source_port: port(Field::SourcePort),
            destination_port: port(Field::DestinationPort),
            icmp: is_icmp.then_some(((icmp >> 8) as u8, icmp as u8)),
            tcp_flags: (protocol == Protocol::TCP).then(|| TcpFlags(bits(Field::TcpFlag, 6) as u8)),
            state: *State::ALL
                .get(value(Field::State) as usize)
                .unwrap_or(&State::New),
            hop_limit: value(Field::HopLimit) as u8,
            mark: bits(Field::Mark, 32),
            mac: match value(Field::Mac) {
                NO_MAC => None,
                number => {
                    let bytes = number.to_be_bytes();
                    Some([
                        bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
                    ])
                }
            },
            translated: Translated {
                source: value(Field::SourceTranslated) == 1,
                destination: value(Field::DestinationTranslated) == 1,
            },
        }
    }
}

/// Returns the value of a field that the set does not ask about.
fn default_value(field: Field) -> u128 {
    match field {
        Field::HopLimit => 64,
        Field::Mac => NO_MAC,
        _ => 0,
    }
}

/// Returns the value of a run that a reader would choose.
fn nice_value(field: Field, first: u128, last: u128) -> u128 {
    match field {
        Field::InDevice | Field::OutDevice | Field::NewOutDevice => nice_device(first, last),
        _ => first,
    }
}

/// Returns the address that a reader would choose: neither the network's own nor the one to be avoided, if there is
/// another.
fn nice_address(known: Partly, avoided: Option<u128>) -> u128 {
    let least = known.next(known.first).unwrap_or(known.first);
    let behind = |address: u128| known.next(address.checked_add(1)?);
    let nice = match least & 0xff {
        0 => behind(least).unwrap_or(least),
        _ => least,
    };
    match avoided == Some(nice) {
        true => behind(nice).unwrap_or(least),
        false => nice,
    }
}

fn nice_device(first: u128, last: u128) -> u128 {
    let inside = |number: &u128| (first..=last).contains(number);
    let known = KNOWN_DEVICES.map(device_number).into_iter();
    let start = device_name(first);
    // For a pattern, its prefix with one more character; else some short name inside.
    let longer = (b'0'..=b'z').filter(u8::is_ascii_alphanumeric);
    let longer = longer.map(|byte| device_number(&format!("{start}{}", char::from(byte))));
    let other = (b'a'..=b'z').map(|byte| device_number(&format!("{}0", char::from(byte))));
    let unique = |number: &u128| *number != first;
    known
        .chain(longer.filter(unique))
        .chain(other)
        .find(inside)
        .unwrap_or(first)
}

/// Returns the readable beginning of a device's number; see [`device_number`].
pub fn device_name(number: u128) -> String {
    let bytes = number.to_be_bytes();
    let readable = bytes.iter().take_while(|byte| byte.is_ascii_graphic());
    readable.map(|byte| char::from(*byte)).collect()
}

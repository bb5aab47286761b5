//! The fields of a packet that rules can ask about, and the order in which diagrams ask them.
//!
//! This file alone knows the order. It decides the size of every diagram: of the orders tried on a ruleset of 5,529
//! rules this one needs the fewest nodes (58,000; with state and protocol first it is 121,000; see
//! docs/internals/engine.md).

use crate::net::{Family, LONGEST_DEVICE, State};

/// A field of a packet, or a condition that the engine does not understand.
///
/// Values are numbers; each variant documents their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// The device that the packet came in by, as [`device_number`]; 0 if there is none.
    InDevice,
    /// The device that the packet leaves by, as [`device_number`]; 0 if there is none.
    OutDevice,
    /// A choice of the kernel (see [`super::Path`]): the device by which a packet of this host leaves when it is routed
    /// again, after its mark or its destination changed.
    NewOutDevice,
    /// The connection's state, as its index in [`State::ALL`].
    State,
    /// The source address.
    Source,
    /// A bit of the source address, 0 the lowest. Only masks that are not prefixes ask for it.
    SourceBit(u8),
    /// The destination address.
    Destination,
    /// A bit of the destination address, 0 the lowest.
    DestinationBit(u8),
    /// A choice of the kernel (see [`super::Path`]): the destination that a translation gives if it allows several.
    NewDestination,
    /// A bit of [`Field::NewDestination`], 0 the lowest.
    NewDestinationBit(u8),
    /// The IP protocol number. In IPv6 it is the first header that `-p` does not skip.
    Protocol,
    /// The destination port.
    DestinationPort,
    /// A choice of the kernel (see [`super::Path`]): the destination port that a translation gives if it allows
    /// several.
    NewDestinationPort,
    /// The source port.
    SourcePort,
    /// The ICMP or ICMPv6 type times 256, plus the code.
    Icmp,
    /// A TCP flag, by its bit in the header's byte (0 is FIN, 5 is URG): 1 if it is set.
    TcpFlag(u8),
    /// 1 if the connection's source was translated (`--ctstate SNAT`).
    SourceTranslated,
    /// 1 if the connection's destination was translated (`--ctstate DNAT`).
    DestinationTranslated,
    /// A bit of the packet's mark, 0 the lowest.
    Mark(u8),
    /// A bit of the connection's mark, 0 the lowest.
    ConnectionMark(u8),
    /// The time to live of IPv4, or the hop limit of IPv6.
    HopLimit,
    /// The source MAC address as a number; [`NO_MAC`] if there is none.
    Mac,
    /// How the packet was addressed on the link: 0 to this host, 1 broadcast, 2 multicast, 3 to another host.
    PacketType,
    /// 1 for a fragment other than the first of its packet.
    Fragment,
    /// A condition that the engine does not understand, by its number in the space: 1 if it holds.
    Opaque(u32),
}

/// The value of [`Field::Mac`] for a packet without a MAC address. It follows the highest address, so that it fits no
/// address.
pub const NO_MAC: u128 = 1 << 48;

/// The number of positions that each address reserves for its bits, in either family.
pub(super) const ADDRESS_BITS: u32 = 128;
const SOURCE: u32 = 4;
const SOURCE_BITS: u32 = SOURCE + 1;
const MAC: u32 = SOURCE + 1 + ADDRESS_BITS;
const DESTINATION: u32 = MAC + 1;
const DESTINATION_BITS: u32 = DESTINATION + 1;
const NEW_DESTINATION: u32 = DESTINATION + 1 + ADDRESS_BITS;
const NEW_DESTINATION_BITS: u32 = NEW_DESTINATION + 1;
const PROTOCOL: u32 = NEW_DESTINATION + 1 + ADDRESS_BITS;
const PORTS: u32 = PROTOCOL + 1;
const FLAGS: u32 = PORTS + 4;
const SOURCE_TRANSLATED: u32 = FLAGS + 6;
const DESTINATION_TRANSLATED: u32 = SOURCE_TRANSLATED + 1;
const MARKS: u32 = DESTINATION_TRANSLATED + 1;
const HOP_LIMIT: u32 = MARKS + 64;
const MAC_LAST: u32 = HOP_LIMIT + 1;
const PACKET_TYPE: u32 = MAC_LAST + 1;
const FRAGMENT: u32 = PACKET_TYPE + 1;
pub(super) const OPAQUE: u32 = FRAGMENT + 1;

/// The position of MAC addresses in the field order of a space; [`Space::for_rules`](super::Space::for_rules) chooses
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MacPlace {
    /// Right behind the source: for rules that name the two together.
    BehindSource,
    /// Behind all fields that rules name more often.
    Last,
}

impl Field {
    /// Returns the field's position in the order. The bits of an address follow it from the highest to the lowest. Mark
    /// bits of packet and connection alternate, because `CONNMARK` changes one by the other bit by bit.
    pub(super) const fn variable(self, macs: MacPlace) -> u32 {
        match self {
            Self::InDevice => 0,
            Self::OutDevice => 1,
            Self::NewOutDevice => 2,
            Self::State => 3,
            Self::Source => SOURCE,
            Self::SourceBit(bit) => SOURCE + ADDRESS_BITS - bit as u32,
            Self::Mac => match macs {
                MacPlace::BehindSource => MAC,
                MacPlace::Last => MAC_LAST,
            },
            Self::Destination => DESTINATION,
            Self::DestinationBit(bit) => DESTINATION + ADDRESS_BITS - bit as u32,
            Self::NewDestination => NEW_DESTINATION,
            Self::NewDestinationBit(bit) => NEW_DESTINATION + ADDRESS_BITS - bit as u32,
            Self::Protocol => PROTOCOL,
            Self::DestinationPort => PROTOCOL + 1,
            Self::NewDestinationPort => PROTOCOL + 2,
            Self::SourcePort => PROTOCOL + 3,
            Self::Icmp => PROTOCOL + 4,
            Self::TcpFlag(bit) => FLAGS + bit as u32,
            Self::SourceTranslated => SOURCE_TRANSLATED,
            Self::DestinationTranslated => DESTINATION_TRANSLATED,
            Self::Mark(bit) => MARKS + 2 * bit as u32,
            Self::ConnectionMark(bit) => MARKS + 2 * bit as u32 + 1,
            Self::HopLimit => HOP_LIMIT,
            Self::PacketType => PACKET_TYPE,
            Self::Fragment => FRAGMENT,
            Self::Opaque(number) => OPAQUE + number,
        }
    }

    /// Returns the field at a position in the order.
    pub(super) fn of_variable(variable: u32) -> Self {
        match variable {
            0 => Self::InDevice,
            1 => Self::OutDevice,
            2 => Self::NewOutDevice,
            3 => Self::State,
            SOURCE => Self::Source,
            SOURCE_BITS..MAC => Self::SourceBit((MAC - 1 - variable) as u8),
            MAC => Self::Mac,
            DESTINATION => Self::Destination,
            DESTINATION_BITS..NEW_DESTINATION => {
                Self::DestinationBit((NEW_DESTINATION - 1 - variable) as u8)
            }
            NEW_DESTINATION => Self::NewDestination,
            NEW_DESTINATION_BITS..PROTOCOL => {
                Self::NewDestinationBit((PROTOCOL - 1 - variable) as u8)
            }
            PROTOCOL => Self::Protocol,
            PORTS..FLAGS => match variable - PORTS {
                0 => Self::DestinationPort,
                1 => Self::NewDestinationPort,
                2 => Self::SourcePort,
                _ => Self::Icmp,
            },
            FLAGS..SOURCE_TRANSLATED => Self::TcpFlag((variable - FLAGS) as u8),
            SOURCE_TRANSLATED => Self::SourceTranslated,
            DESTINATION_TRANSLATED => Self::DestinationTranslated,
            MARKS..HOP_LIMIT => {
                let bit = ((variable - MARKS) / 2) as u8;
                match (variable - MARKS) % 2 {
                    0 => Self::Mark(bit),
                    _ => Self::ConnectionMark(bit),
                }
            }
            HOP_LIMIT => Self::HopLimit,
            MAC_LAST => Self::Mac,
            PACKET_TYPE => Self::PacketType,
            FRAGMENT => Self::Fragment,
            _ => Self::Opaque(variable - OPAQUE),
        }
    }

    /// Returns a bit of the address that this field is. For a field that is not an address it returns the field itself.
    pub fn bit(self, bit: u8) -> Self {
        match self {
            Self::Source => Self::SourceBit(bit),
            Self::Destination => Self::DestinationBit(bit),
            Self::NewDestination => Self::NewDestinationBit(bit),
            other => other,
        }
    }

    /// Returns the address that this field is a bit of, and the number of the bit.
    pub fn address(self) -> Option<(Self, u8)> {
        match self {
            Self::SourceBit(bit) => Some((Self::Source, bit)),
            Self::DestinationBit(bit) => Some((Self::Destination, bit)),
            Self::NewDestinationBit(bit) => Some((Self::NewDestination, bit)),
            _ => None,
        }
    }

    /// Returns the field's greatest value.
    pub fn last(self, family: Family) -> u128 {
        match self {
            Self::InDevice | Self::OutDevice | Self::NewOutDevice => u128::MAX,
            Self::State => State::ALL.len() as u128 - 1,
            Self::Source | Self::Destination | Self::NewDestination => family.last_address(),
            Self::Protocol | Self::HopLimit => u8::MAX.into(),
            Self::DestinationPort | Self::NewDestinationPort | Self::SourcePort | Self::Icmp => {
                u16::MAX.into()
            }
            Self::Mac => NO_MAC,
            Self::PacketType => 3,
            _ => 1,
        }
    }
}

/// Returns `true` if a field is an address.
pub(super) fn is_address(field: Field) -> bool {
    matches!(
        field,
        Field::Source | Field::Destination | Field::NewDestination
    )
}

/// Returns `true` if the position is that of an address.
pub(super) const fn asks_address(variable: u32) -> bool {
    matches!(variable, SOURCE | DESTINATION | NEW_DESTINATION)
}

/// Returns `true` if the position is that of a bit of an address.
pub(super) const fn is_address_bit(variable: u32) -> bool {
    variable > SOURCE
        && variable < PROTOCOL
        && !matches!(variable, MAC | DESTINATION | NEW_DESTINATION)
}

/// Returns a device's name as a number, with the first byte the highest. Names with a common prefix are then an
/// interval, so that a pattern such as `eth+` is one run and needs no list of the devices that exist.
pub fn device_number(name: &str) -> u128 {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(LONGEST_DEVICE)) {
        *to = from;
    }
    u128::from_be_bytes(bytes)
}

/// Returns the first and the last number of the devices whose names begin with `prefix`.
pub(super) fn devices_like(prefix: &str) -> (u128, u128) {
    let first = device_number(prefix);
    let rest = 128 - 8 * prefix.len().min(LONGEST_DEVICE) as u32;
    let more = 1u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1);
    (first, first | more)
}

/// Returns a MAC address as a number, with the first byte the highest.
pub(super) fn mac_number(address: [u8; 6]) -> u128 {
    address
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Returns a connection state as a number.
pub(super) fn state_number(state: State) -> u128 {
    let place = State::ALL.iter().position(|other| *other == state);
    place.unwrap_or_default() as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_fields_agree() {
        for variable in 0..OPAQUE + 10 {
            let place = match variable {
                MAC_LAST => MacPlace::Last,
                _ => MacPlace::BehindSource,
            };
            assert_eq!(Field::of_variable(variable).variable(place), variable);
        }
    }

    #[test]
    fn names_that_begin_alike_are_an_interval() {
        let (first, last) = devices_like("eth");
        for name in ["eth", "eth0", "eth9.4094", "ethzzzzzzzzzzzz", "eth\u{fc}"] {
            assert!((first..=last).contains(&device_number(name)), "{name}");
        }
        for name in ["", "et", "esh", "eti", "lo"] {
            assert!(!(first..=last).contains(&device_number(name)), "{name}");
        }
        assert_eq!(devices_like(""), (0, u128::MAX));
    }
}

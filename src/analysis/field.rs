//! What a packet's decision can depend on, and in which order diagrams ask: the one place that knows it.

use crate::net::{Family, LONGEST_DEVICE, State};

/// A field of a packet, or a condition that is not understood.
///
/// Values are numbers; the doc comment of each variant says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// The device that it came in by: see [`device_number`]; 0 where there is none.
    InDevice,
    /// The device that it leaves by; 0 where there is none.
    OutDevice,
    /// A choice of the kernel ([`super::Path`]): the device that a packet of this host leaves by after its mark or its
    /// destination changed.
    NewOutDevice,
    /// The connection's state, by its place in [`State::ALL`].
    State,
    /// The source address.
    Source,
    /// A bit of the source address, 0 the lowest: asked by masks that are not prefixes.
    SourceBit(u8),
    /// The destination address.
    Destination,
    /// A bit of the destination address.
    DestinationBit(u8),
    /// A choice of the kernel ([`super::Path`]): the destination that a translation gives where several may be.
    NewDestination,
    /// A bit of [`Field::NewDestination`].
    NewDestinationBit(u8),
    /// The IP protocol.
    Protocol,
    /// The destination port.
    DestinationPort,
    /// A choice of the kernel ([`super::Path`]): the destination port that a translation gives where several may be.
    NewDestinationPort,
    /// The source port.
    SourcePort,
    /// ICMP type times 256, and the code.
    Icmp,
    /// A TCP flag, by its bit in the header's byte (0 FIN to 5 URG): 1 where it is set.
    TcpFlag(u8),
    /// 1 where the connection's source was translated.
    SourceTranslated,
    /// 1 where the connection's destination was translated.
    DestinationTranslated,
    /// A bit of the packet's mark, 0 the lowest.
    Mark(u8),
    /// A bit of the connection's mark, 0 the lowest.
    ConnectionMark(u8),
    /// Time to live, or hop limit.
    HopLimit,
    /// The source MAC address as a number; [`NO_MAC`] where there is none.
    Mac,
    /// How it was addressed on the link: 0 to this host, 1 broadcast, 2 multicast, 3 other.
    PacketType,
    /// 1 for a fragment that is not the first.
    Fragment,
    /// A condition that is not understood, by its number in the space: 1 where it holds.
    Opaque(u32),
}

/// The value of [`Field::Mac`] of a packet without a MAC address.
pub const NO_MAC: u128 = 1 << 48;

/// So many places has an address for its bits, in either family.
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

/// Where MAC addresses stand in the order of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MacPlace {
    /// Behind the source: for rules that name the two together.
    BehindSource,
    /// Behind everything that rules name oftener.
    Last,
}

impl Field {
    /// Its place in the order. That of the fields in front of the flags is the best of those measured on a ruleset of 5,529 rules
    /// (docs/design/engine.md).
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

    /// The field of a place in the order.
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

    /// A bit of the address that this field is. Of another field it is the field itself.
    pub fn bit(self, bit: u8) -> Self {
        match self {
            Self::Source => Self::SourceBit(bit),
            Self::Destination => Self::DestinationBit(bit),
            Self::NewDestination => Self::NewDestinationBit(bit),
            other => other,
        }
    }

    /// The address that this field is a bit of, and which.
    pub fn address(self) -> Option<(Self, u8)> {
        match self {
            Self::SourceBit(bit) => Some((Self::Source, bit)),
            Self::DestinationBit(bit) => Some((Self::Destination, bit)),
            Self::NewDestinationBit(bit) => Some((Self::NewDestination, bit)),
            _ => None,
        }
    }

    /// Its greatest value.
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

/// Whether a field is an address.
pub(super) fn is_address(field: Field) -> bool {
    matches!(
        field,
        Field::Source | Field::Destination | Field::NewDestination
    )
}

/// Whether a place in the order is that of an address.
pub(super) const fn asks_address(variable: u32) -> bool {
    matches!(variable, SOURCE | DESTINATION | NEW_DESTINATION)
}

/// Whether a place in the order is that of a bit of an address.
pub(super) const fn is_address_bit(variable: u32) -> bool {
    variable > SOURCE
        && variable < PROTOCOL
        && !matches!(variable, MAC | DESTINATION | NEW_DESTINATION)
}

/// A device's name as a number: its bytes, the first the highest. So the names that begin alike are an interval.
pub fn device_number(name: &str) -> u128 {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(LONGEST_DEVICE)) {
        *to = from;
    }
    u128::from_be_bytes(bytes)
}

/// The first and the last number of the devices whose names begin like this.
pub(super) fn devices_like(prefix: &str) -> (u128, u128) {
    let first = device_number(prefix);
    let rest = 128 - 8 * prefix.len().min(LONGEST_DEVICE) as u32;
    let more = 1u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1);
    (first, first | more)
}

/// A MAC address as a number.
pub(super) fn mac_number(address: [u8; 6]) -> u128 {
    address
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// A state as a number.
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

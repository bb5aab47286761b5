//! Addresses, prefixes and address ranges as a policy writes them, and sets of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Family;
use super::interval::{IntervalSet, prefix_length};

/// A range of addresses of one family, both ends included, as numbers (see [`number_of`]). A single address and a prefix
/// are ranges too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The family of both ends.
    pub family: Family,
    /// The first address.
    pub first: u128,
    /// The last address.
    pub last: u128,
}

/// Returns an address as a number; an IPv4 address uses the low 32 bits.
pub fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Returns the address with this number.
pub fn address_of(family: Family, number: u128) -> IpAddr {
    match family {
        // No range goes beyond the last address of its family, so the fallback is never reached.
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).unwrap_or(u32::MAX),
        )),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// Why a text is not a valid address, prefix or range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The text is not an address.
    NotAnAddress,
    /// An octet has leading zeros, which some tools read as octal.
    LeadingZeros,
    /// The address has a zone id such as `%eth0`.
    ZoneId,
    /// An IPv4-mapped IPv6 address such as `::ffff:192.0.2.1`; the value is the IPv4 address in it.
    Ipv4Mapped(String),
    /// The length after `/` is not a number from 0 to the number of bits in an address of the family.
    PrefixLength(Family),
    /// A netmask follows `/` instead of a length; the value is the equivalent length, if the mask has no holes.
    Netmask(Option<u8>),
    /// The address has bits set outside its mask; the value is the text without them.
    OutsideMask(String),
    /// The address has bits set behind the prefix length. The fields are the two texts that may have been meant.
    HostBits {
        /// The prefix with its host bits cleared.
        network: String,
        /// The address alone.
        host: String,
    },
    /// The ends of the range are addresses of different families.
    MixedFamilies,
    /// The range ends before it begins; the value is the range with its ends in order.
    Reversed(String),
}

impl AddressRange {
    /// Returns the range of all addresses of a family.
    pub const fn all(family: Family) -> Self {
        Self {
            family,
            first: 0,
            last: family.last_address(),
        }
    }

    /// Parses `192.0.2.1`, `192.0.2.0/24`, `192.0.2.10-192.0.2.20`, or the same forms in IPv6.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (parse_host(first)?, parse_host(last)?);
            let (family, low) = split(first);
            let (other, high) = split(last);
            if family != other {
                return Err(AddressError::MixedFamilies);
            }
            if high < low {
                return Err(AddressError::Reversed(format!("{last}-{first}")));
            }
            return Ok(Self {
                family,
                first: low,
                last: high,
            });
        }
        let Some((host, length)) = text.split_once('/') else {
            let (family, number) = split(parse_host(text)?);
            return Ok(Self {
                family,
                first: number,
                last: number,
            });
        };
        let host = parse_host(host)?;
        let (family, number) = split(host);
        let length = parse_length(family, length)?;
        let host_mask = host_mask(family, length);
        if number & host_mask != 0 {
            let network = address_of(family, number & !host_mask);
            return Err(AddressError::HostBits {
                network: format!("{network}/{length}"),
                host: host.to_string(),
            });
        }
        Ok(Self {
            family,
            first: number,
            last: number | host_mask,
        })
    }

    /// Returns `true` if `text` was meant as an address, valid or not. Names in a policy never look like this.
    pub fn looks_like_one(text: &str) -> bool {
        text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(':')
    }
}

impl fmt::Display for AddressRange {
    /// Writes a single address without a length, a prefix as `address/length`, and any other range as `first-last`: the
    /// forms that the policy language reads.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = address_of(self.family, self.first);
        match prefix_length(self.family, self.first, self.last) {
            Some(length) if length == self.family.bits() => write!(out, "{first}"),
            Some(length) => write!(out, "{first}/{length}"),
            None => write!(out, "{first}-{}", address_of(self.family, self.last)),
        }
    }
}

/// The addresses of one family that have a value under a mask, such as a host under any prefix
/// (`::5/::ffff:ffff:ffff:ffff`). The mask is not that of a prefix, which is an [`AddressRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressMask {
    /// The family.
    pub family: Family,
    /// The bits under the mask; all others are clear.
    pub value: u128,
    /// The bits that are compared.
    pub mask: u128,
}

impl AddressMask {
    /// Parses an address and a mask with holes: `10.0.0.5/255.0.0.255`, `::5/::ffff:ffff:ffff:ffff`.
    ///
    /// # Errors
    ///
    /// [`AddressError::Netmask`] for the mask of a prefix, [`AddressError::OutsideMask`] for further bits in the address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (host, mask) = text.split_once('/').ok_or(AddressError::NotAnAddress)?;
        let (family, value) = split(parse_host(host)?);
        let mask = match mask.parse::<IpAddr>() {
            Ok(mask) if Family::of(mask) == family => number_of(mask),
            _ => return Err(AddressError::PrefixLength(family)),
        };
        if let Some(length) = length_of(family, mask) {
            return Err(AddressError::Netmask(Some(length)));
        }
        let masked = Self {
            family,
            value: value & mask,
            mask,
        };
        match value & !mask {
            0 => Ok(masked),
            _ => Err(AddressError::OutsideMask(masked.to_string())),
        }
    }

    /// Returns `true` if the address with this number has the value under the mask.
    pub fn has(self, number: u128) -> bool {
        number & self.mask == self.value
    }

    /// Returns the first address from a number on that has the value under the mask; `None` if there is none.
    pub fn next_from(self, number: u128) -> Option<u128> {
        if self.has(number) {
            return Some(number);
        }
        // The address is larger in some bit, which decides; before that bit it is the same. The lowest such bit gives the
        // first address.
        (0..u32::from(self.family.bits())).find_map(|bit| {
            let raised = 1u128 << bit;
            let below = raised - 1;
            let above = !(raised | below);
            let same = number & above & self.mask == self.value & above;
            let may_be_raised =
                number & raised == 0 && (self.mask & raised == 0 || self.value & raised != 0);
            (same && may_be_raised).then_some(number & above | raised | self.value & below)
        })
    }
}

impl fmt::Display for AddressMask {
    /// Writes the address and the mask, as the policy language reads them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, mask) = (
            address_of(self.family, self.value),
            address_of(self.family, self.mask),
        );
        write!(out, "{value}/{mask}")
    }
}

/// Returns the length of the prefix that a mask stands for; `None` if it has holes.
fn length_of(family: Family, mask: u128) -> Option<u8> {
    let length = mask.count_ones();
    let length = u8::try_from(length).ok()?;
    (mask == family.last_address() & !host_mask(family, length)).then_some(length)
}

fn split(address: IpAddr) -> (Family, u128) {
    (Family::of(address), number_of(address))
}

/// Returns the bits of an address behind a prefix length, all set.
fn host_mask(family: Family, length: u8) -> u128 {
    let host_bits = u32::from(family.bits().saturating_sub(length));
    1u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |size| size - 1)
        & family.last_address()
}

fn parse_host(text: &str) -> Result<IpAddr, AddressError> {
    if text.contains('%') {
        return Err(AddressError::ZoneId);
    }
    match text.parse::<IpAddr>() {
        // Programs show IPv4 peers like this, but on the wire the packet is IPv4: an IPv6 rule would never match it.
        Ok(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(AddressError::Ipv4Mapped(v4.to_string())),
            None => Ok(IpAddr::V6(v6)),
        },
        Ok(v4) => Ok(v4),
        Err(_) if has_leading_zeros(text) => Err(AddressError::LeadingZeros),
        Err(_) => Err(AddressError::NotAnAddress),
    }
}

fn has_leading_zeros(text: &str) -> bool {
    let octets: Vec<_> = text.split('.').collect();
    octets.len() == 4
        && octets
            .iter()
            .all(|octet| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit()))
        && octets
            .iter()
            .any(|octet| octet.len() > 1 && octet.starts_with('0'))
}

fn parse_length(family: Family, text: &str) -> Result<u8, AddressError> {
    // Netmasks are recognised only to suggest the length in the message.
    if let Ok(mask) = text.parse::<IpAddr>()
        && Family::of(mask) == family
    {
        return Err(AddressError::Netmask(length_of(family, number_of(mask))));
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    text.parse::<u8>()
        .ok()
        .filter(|length| plain && *length <= family.bits())
        .ok_or(AddressError::PrefixLength(family))
}

/// A set of addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet(super::PerFamily<IntervalSet>);

impl AddressSet {
    /// Returns the union of address ranges.
    pub fn from_ranges(ranges: impl IntoIterator<Item = AddressRange>) -> Self {
        let mut intervals = super::PerFamily::<Vec<(u128, u128)>>::default();
        for range in ranges {
            intervals[range.family].push((range.first, range.last));
        }
        Self(super::PerFamily {
            v4: IntervalSet::from_intervals(intervals.v4),
            v6: IntervalSet::from_intervals(intervals.v6),
        })
    }

    /// Returns the addresses of one family, as numbers.
    pub fn family(&self, family: Family) -> &IntervalSet {
        &self.0[family]
    }

    /// Returns `true` if the set has no address of either family.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, set)| set.is_empty())
    }

    /// Returns the addresses that are in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(super::PerFamily::from_fn(|family| {
            self.0[family].union(&other.0[family])
        }))
    }

    /// Returns the addresses that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(super::PerFamily::from_fn(|family| {
            self.0[family].difference(&other.0[family])
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.10-192.0.2.20", "192.0.2.10-192.0.2.20"),
            ("192.0.2.0-192.0.2.255", "192.0.2.0/24"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("2001:db8::1-2001:db8::ff", "2001:db8::1-2001:db8::ff"),
        ] {
            assert_eq!(
                AddressRange::parse(text).unwrap().to_string(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn masks_with_holes() {
        use AddressError as E;
        let parse = AddressMask::parse;
        for text in [
            "10.0.0.5/255.0.0.255",
            "0.0.0.1/0.0.0.1",
            "::5/::ffff:ffff:ffff:ffff",
            "2001:db8::5/ffff:ffff::ffff",
            // The mask looks like an IPv4-mapped address.
            "::1/::ffff:ffff:ffff",
        ] {
            let shown = parse(text).unwrap().to_string();
            assert_eq!(parse(&shown), parse(text), "{text}");
        }
        for (text, error) in [
            ("10.0.0.0/255.0.0.0", E::Netmask(Some(8))),
            ("10.0.0.0/0.0.0.0", E::Netmask(Some(0))),
            ("2001:db8::/ffff:ffff::", E::Netmask(Some(32))),
            (
                "10.9.0.5/255.0.0.255",
                E::OutsideMask("10.0.0.5/255.0.0.255".into()),
            ),
            ("::1:5/::ffff", E::OutsideMask("::5/::ffff".into())),
            ("10.0.0.5/::ffff", E::PrefixLength(Family::V4)),
            ("10.0.0.5/8", E::PrefixLength(Family::V4)),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_next_address_under_a_mask() {
        for mask in 0..=255u128 {
            for value in (0..=255).filter(|value| value & !mask == 0) {
                let masked = AddressMask {
                    family: Family::V4,
                    value,
                    mask: mask | 0xffff_ff00,
                };
                for from in 0..=255 {
                    let next = (from..=255).find(|number| masked.has(*number));
                    assert_eq!(masked.next_from(from), next, "{masked} from {from}");
                }
            }
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        use AddressError as E;
        for (text, error) in [
            ("192.0.2", E::NotAnAddress),
            ("192.0.2.1 - 192.0.2.9", E::NotAnAddress),
            ("192.0.2.256", E::NotAnAddress),
            ("example.com", E::NotAnAddress),
            ("192.0.02.1", E::LeadingZeros),
            ("fe80::1%eth0", E::ZoneId),
            ("::ffff:10.0.0.1", E::Ipv4Mapped("10.0.0.1".into())),
            ("10.0.0.0/33", E::PrefixLength(Family::V4)),
            ("10.0.0.0/08", E::PrefixLength(Family::V4)),
            ("10.0.0.0/+8", E::PrefixLength(Family::V4)),
            ("10.0.0.0/", E::PrefixLength(Family::V4)),
            ("2001:db8::/129", E::PrefixLength(Family::V6)),
            ("10.0.0.0/255.0.0.0", E::Netmask(Some(8))),
            ("10.0.0.0/255.0.255.0", E::Netmask(None)),
            ("2001:db8::/ffff:ffff::", E::Netmask(Some(32))),
            ("::5/::ffff", E::Netmask(None)),
            ("10.0.0.0/ffff::", E::PrefixLength(Family::V4)),
            ("10.0.0.1-2001:db8::1", E::MixedFamilies),
            ("10.0.0.9-10.0.0.1", E::Reversed("10.0.0.1-10.0.0.9".into())),
        ] {
            assert_eq!(AddressRange::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            AddressRange::parse("192.168.1.5/24"),
            Err(E::HostBits {
                network: "192.168.1.0/24".into(),
                host: "192.168.1.5".into()
            })
        );
    }
}

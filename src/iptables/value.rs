//! The values that options of rules have: networks, device patterns, port ranges, marks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Family;

/// The operand of a condition, with the `!` before its option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Negatable<T> {
    /// `true` for `!`: the condition holds where the plain one does not.
    pub negated: bool,
    /// The operand.
    pub value: T,
}

impl<T> Negatable<T> {
    /// Returns the answer of the plain condition for the operand, inverted if there is a `!`.
    pub fn holds(&self, plain: impl FnOnce(&T) -> bool) -> bool {
        plain(&self.value) != self.negated
    }
}

/// An address and a mask. The mask is mostly a prefix, but iptables takes any. Address bits outside the mask are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    mask: IpAddr,
}

impl Network {
    /// Returns the network of an address and a mask, with the host bits cleared.
    pub fn new(family: Family, address: u128, mask: u128) -> Self {
        let mask = mask & family.last_address();
        Self {
            address: address_from(family, address & mask),
            mask: address_from(family, mask),
        }
    }

    /// Returns the network of the addresses that share their first `length` bits with `address`.
    pub fn prefix(family: Family, address: u128, length: u8) -> Self {
        Self::new(family, address, prefix_mask(family, length))
    }

    /// Parses `address`, `address/length` or `address/mask`; `None` for anything else.
    pub fn from_text(family: Family, text: &str) -> Option<Self> {
        let address = |text: &str| {
            let address: IpAddr = text.parse().ok()?;
            (address.is_ipv4() == (family == Family::V4)).then(|| address_bits(address))
        };
        let (host, mask) = match text.split_once('/') {
            None => (text, family.last_address()),
            Some((host, mask)) => match mask.parse::<u8>() {
                Ok(length) if length <= family.bits() => (host, prefix_mask(family, length)),
                _ => (host, address(mask)?),
            },
        };
        Some(Self::new(family, address(host)?, mask))
    }

    /// Returns the family of the address and the mask.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Returns the address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the mask.
    pub fn mask(&self) -> IpAddr {
        self.mask
    }

    /// Returns the prefix length; `None` if the mask has holes.
    pub fn prefix_length(&self) -> Option<u8> {
        let (family, mask) = (self.family(), address_bits(self.mask));
        let length = u8::try_from(mask.count_ones()).unwrap_or(u8::MAX);
        (prefix_mask(family, length) == mask).then_some(length)
    }

    /// Returns `true` if the network contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && address_bits(address) & address_bits(self.mask) == address_bits(self.address)
    }
}

/// Writes `address/length`, or `address/mask` if the mask has holes.
impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(out, self.address)?;
        out.write_str("/")?;
        match self.prefix_length() {
            Some(length) => write!(out, "{length}"),
            None => write_address(out, self.mask),
        }
    }
}

/// Returns the mask of a prefix length.
pub(super) fn prefix_mask(family: Family, length: u8) -> u128 {
    let host_bits = u32::from(family.bits().saturating_sub(length));
    let host = 1u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |bit| bit - 1);
    family.last_address() & !host
}

/// Returns an address as a number.
pub(super) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Returns the address with this number.
pub(super) fn address_from(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from((bits & u128::from(u32::MAX)) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}

/// Writes an address as the C library does (`inet_ntop`), and so `iptables-save`: unlike Rust, it writes `::1.2.3.4`.
pub(super) fn write_address(out: &mut impl fmt::Write, address: IpAddr) -> fmt::Result {
    if let IpAddr::V6(v6) = address {
        let segments = v6.segments();
        if segments[..6].iter().all(|&segment| segment == 0) && segments[6] != 0 {
            let [a, b, c, d] = (u128::from(v6) as u32).to_be_bytes();
            return write!(out, "::{a}.{b}.{c}.{d}");
        }
    }
    write!(out, "{address}")
}

/// A device name, or with a trailing `+` the beginning of device names: `eth0`, `eth+`, `+`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface(pub(super) Box<str>);

impl Interface {
    /// Returns the text, with the `+`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the beginning that matching names share; `None` for a whole name.
    pub fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('+')
    }

    /// Returns `true` if a device name matches. A packet without a device has the empty name: only `+` matches it, as in
    /// the kernel.
    pub fn matches(&self, device: &str) -> bool {
        match self.prefix() {
            Some(prefix) => device.starts_with(prefix),
            None => device == &*self.0,
        }
    }
}

/// The ports from `first` to `last`; no port if `first` is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortMatch {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Returns `true` if the range contains the port.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Writes `22` or `1024:65535`.
impl fmt::Display for PortMatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(out, "{}", self.first),
            false => write!(out, "{}:{}", self.first, self.last),
        }
    }
}

/// A mark and the mask under which it is compared or set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkMask {
    /// The value. It is compared as it is: with a bit outside the mask, no mark matches.
    pub value: u32,
    /// The bits of the packet's mark that are compared, or changed.
    pub mask: u32,
}

impl MarkMask {
    /// Returns `true` if a packet or connection with this mark matches.
    pub fn matches(&self, mark: u32) -> bool {
        mark & self.mask == self.value
    }
}

/// Writes `0x1` or `0x1/0xff`, as `iptables-save` does.
impl fmt::Display for MarkMask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.value)?;
        match self.mask {
            u32::MAX => Ok(()),
            mask => write!(out, "/{mask:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_print_as_the_tool() {
        let v4 = |address, mask| Network::new(Family::V4, address, mask).to_string();
        assert_eq!(v4(0x0102_0304, 0xffff_ff00), "1.2.3.0/24");
        assert_eq!(v4(0x0102_0304, 0xffff_00ff), "1.2.0.4/255.255.0.255");
        assert_eq!(v4(0x0102_0304, 0), "0.0.0.0/0");
        let v6 = |text: &str| {
            let address: Ipv6Addr = text.parse().unwrap();
            Network::prefix(Family::V6, address.into(), 128).to_string()
        };
        assert_eq!(v6("::1.2.3.4"), "::1.2.3.4/128");
        assert_eq!(v6("::1"), "::1/128");
        assert_eq!(v6("::ffff:1.2.3.4"), "::ffff:1.2.3.4/128");
        assert_eq!(v6("2001:db8:0:1:1:1:1:1"), "2001:db8:0:1:1:1:1:1/128");
    }

    #[test]
    fn interfaces_match_by_prefix() {
        let eth = Interface("eth+".into());
        assert!(eth.matches("eth0") && eth.matches("eth") && !eth.matches("wlan0"));
        assert!(Interface("+".into()).matches(""));
        assert!(!Interface("eth0".into()).matches("eth01"));
    }
}

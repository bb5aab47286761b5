//! The two address families, and a pair of values with one for each.

use std::fmt;
use std::net::IpAddr;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: `iptables`, `rules.v4`.
    V4,
    /// IPv6: `ip6tables`, `rules.v6`.
    V6,
}

impl Family {
    /// Both families, in the order in which they are built and applied.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the number of bits in an address: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Returns the last address of the family as a number.
    pub const fn last_address(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
        }
    }

    /// Returns the first and the last loopback address as numbers: 127.0.0.0/8, or ::1 alone.
    pub const fn loopback(self) -> (u128, u128) {
        match self {
            Self::V4 => (127 << 24, (128 << 24) - 1),
            Self::V6 => (1, 1),
        }
    }

    /// Returns the name of the rules file: `rules.v4` or `rules.v6`.
    pub const fn rules_file(self) -> &'static str {
        match self {
            Self::V4 => "rules.v4",
            Self::V6 => "rules.v6",
        }
    }

    /// Returns the family's word in the policy language and in machine-readable output: `ipv4` or `ipv6`.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One value for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerFamily<T> {
    /// The value for IPv4.
    #[serde(rename = "ipv4")]
    pub v4: T,
    /// The value for IPv6.
    #[serde(rename = "ipv6")]
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// Makes both values with the same function.
    pub fn from_fn(mut make: impl FnMut(Family) -> T) -> Self {
        Self {
            v4: make(Family::V4),
            v6: make(Family::V6),
        }
    }

    /// Returns both values with their families, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        [(Family::V4, &self.v4), (Family::V6, &self.v6)].into_iter()
    }
}

impl<T> IntoIterator for PerFamily<T> {
    type Item = (Family, T);
    type IntoIter = std::array::IntoIter<(Family, T), 2>;

    fn into_iter(self) -> Self::IntoIter {
        [(Family::V4, self.v4), (Family::V6, self.v6)].into_iter()
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

//! ICMP and ICMPv6 types, by the names that iptables gives them.

use super::Family;

/// An ICMP or ICMPv6 type, with one of its codes or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IcmpType {
    /// The type.
    pub kind: u8,
    /// The code; `None` means every code.
    pub code: Option<u8>,
}

/// A name, its type, and its code.
type Named = (&'static str, u8, Option<u8>);

/// The names of `iptables -p icmp -h`, without `any`.
const V4: &[Named] = &[
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("TOS-network-unreachable", 3, Some(11)),
    ("TOS-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("TOS-network-redirect", 5, Some(2)),
    ("TOS-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

/// The names of `ip6tables -p icmpv6 -h`.
const V6: &[Named] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("beyond-scope", 1, Some(2)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("failed-policy", 1, Some(5)),
    ("reject-route", 1, Some(6)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("ttl-zero-during-transit", 3, Some(0)),
    ("ttl-zero-during-reassembly", 3, Some(1)),
    ("parameter-problem", 4, None),
    ("bad-header", 4, Some(0)),
    ("unknown-header-type", 4, Some(1)),
    ("unknown-option", 4, Some(2)),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];

fn names_of(family: Family) -> &'static [Named] {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

impl IcmpType {
    /// Parses a name of iptables, a type number, or `type/code`.
    pub fn parse(family: Family, text: &str) -> Option<Self> {
        let named = names_of(family).iter().find(|(name, ..)| *name == text);
        if let Some(&(_, kind, code)) = named {
            return Some(Self { kind, code });
        }
        match text.split_once('/') {
            Some((kind, code)) => Some(Self {
                kind: number(kind)?,
                code: Some(number(code)?),
            }),
            None => Some(Self {
                kind: number(text)?,
                code: None,
            }),
        }
    }

    /// Returns all names of a family, for suggestions in messages.
    pub fn names(family: Family) -> impl Iterator<Item = &'static str> {
        names_of(family).iter().map(|(name, ..)| *name)
    }

    /// Returns `true` if this type matches every packet that `other` matches.
    pub fn covers(self, other: Self) -> bool {
        self.kind == other.kind && (self.code.is_none() || self.code == other.code)
    }
}

fn number(text: &str) -> Option<u8> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // iptables reads a leading zero as octal.
    let canonical = text == "0" || !text.starts_with('0');
    text.parse().ok().filter(|_| plain && canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_codes() {
        let of = |kind, code| Some(IcmpType { kind, code });
        assert_eq!(IcmpType::parse(Family::V4, "echo-request"), of(8, None));
        assert_eq!(IcmpType::parse(Family::V6, "echo-request"), of(128, None));
        assert_eq!(
            IcmpType::parse(Family::V4, "fragmentation-needed"),
            of(3, Some(4))
        );
        assert_eq!(IcmpType::parse(Family::V4, "3/4"), of(3, Some(4)));
        assert_eq!(IcmpType::parse(Family::V4, "0"), of(0, None));
        assert_eq!(IcmpType::parse(Family::V4, "packet-too-big"), None);
        for bad in ["", "256", "08", "8/", "/1", "8/256", "any-type", "-1"] {
            assert_eq!(IcmpType::parse(Family::V4, bad), None, "{bad}");
        }
    }
}

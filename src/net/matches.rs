//! Operands of the matches on marks, MAC addresses, TCP flags and ipsets.

use std::fmt;

use super::TcpFlags;

/// The operand of `-m mark --mark VALUE/MASK`: it matches where `mark & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkMatch {
    /// The value that the masked mark must have. It has no bits outside the mask.
    pub value: u32,
    /// The bits of the mark that are compared.
    pub mask: u32,
}

/// Why a text is not a valid mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkError {
    /// The text is not `VALUE` or `VALUE/MASK` with 32-bit numbers in hexadecimal (`0x10`) or decimal.
    NotAMark,
    /// The value has bits outside the mask, so that no packet can match.
    OutsideMask,
}

impl MarkMatch {
    /// Parses `0x10`, `16` or `0x10/0xff`. Without a mask, all 32 bits are compared.
    pub fn parse(text: &str) -> Result<Self, MarkError> {
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value)?, number(mask)?),
            None => (number(text)?, u32::MAX),
        };
        if value & !mask != 0 {
            return Err(MarkError::OutsideMask);
        }
        Ok(Self { value, mask })
    }

    /// Returns `true` if a packet with this mark matches.
    pub fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }
}

impl fmt::Display for MarkMatch {
    /// Writes the mark as `iptables-save` prints it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.value)?;
        if self.mask != u32::MAX {
            write!(out, "/{:#x}", self.mask)?;
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, MarkError> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        // iptables reads a number with a leading zero as octal.
        None if text.len() > 1 && text.starts_with('0') => return Err(MarkError::NotAMark),
        None => (text, 10),
    };
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(MarkError::NotAMark);
    }
    u32::from_str_radix(digits, radix).map_err(|_| MarkError::NotAMark)
}

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Parses six pairs of hexadecimal digits separated by `:`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next()?;
            let plain = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| plain)?;
        }
        pairs.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    /// Writes the address as `iptables-save` prints it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(out, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The operand of `--tcp-flags`: of the flags in `looked_at`, exactly those in `set` are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlagsMatch {
    /// The flags that are compared.
    pub looked_at: TcpFlags,
    /// The flags that must be set, a subset of `looked_at`.
    pub set: TcpFlags,
}

/// Why a text is not a valid match of TCP flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFlagsError {
    /// The text is not `SET/LOOKED-AT`, it names a flag that iptables does not have, or it compares no flag at all.
    NotFlags,
    /// A flag must be set that is not compared, so that no packet can match.
    NotLookedAt,
}

/// The flags and their bits in the header, in the order in which iptables prints them. iptables has no names for ECE and
/// CWR.
const FLAGS: [(&str, u8); 6] = [
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
];
const ALL_FLAGS: u8 = 63;

impl TcpFlagsMatch {
    /// Parses `syn/syn,ack,fin,rst`: the flags that must be set, then the flags that are compared, which is the reverse of
    /// `--tcp-flags`. Either list may be `none` or `all`.
    pub fn parse(text: &str) -> Result<Self, TcpFlagsError> {
        let (set, looked_at) = text.split_once('/').ok_or(TcpFlagsError::NotFlags)?;
        let (set, looked_at) = (flags(set)?, flags(looked_at)?);
        if looked_at.0 == 0 {
            return Err(TcpFlagsError::NotFlags);
        }
        if set.0 & !looked_at.0 != 0 {
            return Err(TcpFlagsError::NotLookedAt);
        }
        Ok(Self { looked_at, set })
    }

    /// Returns `true` if a packet with these flags matches.
    pub fn matches(self, flags: TcpFlags) -> bool {
        flags.0 & self.looked_at.0 == self.set.0
    }

    /// Returns the match as the policy language writes it: `syn/fin,syn,rst,ack`.
    pub fn keyword(self) -> String {
        let (set, looked_at) = (list(self.set), list(self.looked_at));
        format!("{set}/{looked_at}").to_lowercase()
    }
}

impl fmt::Display for TcpFlagsMatch {
    /// Writes the operand of `--tcp-flags`: the flags that are compared, then the flags that must be set.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", list(self.looked_at), list(self.set))
    }
}

fn list(flags: TcpFlags) -> String {
    let there = FLAGS.iter().filter(|(_, bit)| flags.0 & bit != 0);
    let names: Vec<_> = there.map(|(name, _)| name.to_uppercase()).collect();
    match names.is_empty() {
        true => "NONE".to_owned(),
        false => names.join(","),
    }
}

fn flags(text: &str) -> Result<TcpFlags, TcpFlagsError> {
    match text {
        "none" => return Ok(TcpFlags(0)),
        "all" => return Ok(TcpFlags(ALL_FLAGS)),
        _ => {}
    }
    let mut flags = 0;
    for word in text.split(',') {
        let known = FLAGS.iter().find(|(name, _)| *name == word);
        flags |= known.ok_or(TcpFlagsError::NotFlags)?.1;
    }
    Ok(TcpFlags(flags))
}

/// The type of an ipset of addresses: what its members are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SetType {
    /// Networks and addresses (`hash:net`).
    #[default]
    Net,
    /// Addresses (`hash:ip`).
    Address,
    /// A network or an address, and a port of a protocol (`hash:net,port`).
    NetPort,
    /// An address, and a port of a protocol (`hash:ip,port`).
    AddressPort,
}

impl SetType {
    /// Returns `true` if a member has a protocol and a port.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::NetPort | Self::AddressPort)
    }
}

/// The ends of a packet that a match of an ipset compares with the parts of a member, in their order: one to three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetEnds {
    /// `true` for the source, `false` for the destination; those behind `count` are `false`.
    from_source: [bool; Self::MOST],
    count: usize,
}

impl SetEnds {
    /// The largest number of parts that a member has (`hash:ip,port,net`).
    pub const MOST: usize = 3;

    /// The source alone.
    pub const SOURCE: Self = Self {
        from_source: [true, false, false],
        count: 1,
    };

    /// Returns the ends for an address, and for a port if members have one; `true` for the source.
    pub fn of(address: bool, port: Option<bool>) -> Self {
        Self {
            from_source: [address, port.unwrap_or(false), false],
            count: 1 + usize::from(port.is_some()),
        }
    }

    /// Returns all ends with which rules may ask for members of a type.
    pub fn all(kind: SetType) -> Vec<Self> {
        let ports: &[_] = match kind.has_ports() {
            true => &[Some(true), Some(false)],
            false => &[None],
        };
        let addresses = [true, false].into_iter();
        addresses
            .flat_map(|address| ports.iter().map(move |port| Self::of(address, *port)))
            .collect()
    }

    /// Returns the ends for these parts, each `true` for the source; `None` if they are none, or more than three.
    pub fn new(from_source: &[bool]) -> Option<Self> {
        if from_source.is_empty() {
            return None;
        }
        let mut ends = [false; Self::MOST];
        ends.get_mut(..from_source.len())?
            .copy_from_slice(from_source);
        Some(Self {
            from_source: ends,
            count: from_source.len(),
        })
    }

    /// Parses `src`, or `src,dst`.
    pub fn parse(text: &str) -> Option<Self> {
        let ends = text.split(',').map(|word| match word {
            "src" => Some(true),
            "dst" => Some(false),
            _ => None,
        });
        Self::new(&ends.collect::<Option<Vec<_>>>()?)
    }

    /// Returns for each part `true` if it is compared with the source.
    pub fn from_source(&self) -> &[bool] {
        &self.from_source[..self.count]
    }

    /// Returns the ends of a packet of the opposite direction.
    pub fn reversed(mut self) -> Self {
        for end in &mut self.from_source[..self.count] {
            *end = !*end;
        }
        self
    }
}

impl fmt::Display for SetEnds {
    /// Writes the ends as in `--match-set`: `src,dst`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.from_source().iter();
        let words: Vec<_> = ends
            .map(|source| if *source { "src" } else { "dst" })
            .collect();
        out.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        for (text, shown) in [
            ("0x10", "0x10"),
            ("16", "0x10"),
            ("0x10/0xff", "0x10/0xff"),
            ("0/0x1", "0x0/0x1"),
            ("0xffffffff", "0xffffffff"),
        ] {
            assert_eq!(MarkMatch::parse(text).unwrap().to_string(), shown, "{text}");
        }
        assert_eq!(MarkMatch::parse("0x100/0xff"), Err(MarkError::OutsideMask));
        for bad in ["", "0x", "010", "-1", "0x100000000", "1/", "ten", "0x1/0xg"] {
            assert_eq!(MarkMatch::parse(bad), Err(MarkError::NotAMark), "{bad}");
        }
    }

    #[test]
    fn mac_addresses() {
        let shown = MacAddress::parse("02:00:5E:10:00:01").map(|mac| mac.to_string());
        assert_eq!(shown.as_deref(), Some("02:00:5e:10:00:01"));
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:0:5e:10:0:1",
            "02-00-5e-10-00-01",
        ] {
            assert_eq!(MacAddress::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn set_ends() {
        let ends = SetEnds::parse("src,dst,dst").unwrap();
        assert_eq!(ends.from_source(), [true, false, false]);
        assert_eq!(ends.reversed().to_string(), "dst,src,src");
        assert_eq!(SetEnds::parse("src"), Some(SetEnds::SOURCE));
        assert_ne!(SetEnds::parse("src,dst"), Some(SetEnds::SOURCE));
        for bad in ["", "src,", "SRC", "src dst", "src,src,src,src"] {
            assert_eq!(SetEnds::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn tcp_flags() {
        let parsed = TcpFlagsMatch::parse("syn/syn,ack,fin,rst").unwrap();
        assert_eq!(parsed.to_string(), "FIN,SYN,RST,ACK SYN");
        assert!(parsed.matches(TcpFlags(2)) && parsed.matches(TcpFlags(2 + 8)));
        assert!(!parsed.matches(TcpFlags(2 + 16)));
        let none = TcpFlagsMatch::parse("none/all").unwrap();
        assert_eq!(none.to_string(), "FIN,SYN,RST,PSH,ACK,URG NONE");
        assert_eq!(
            TcpFlagsMatch::parse("ack/syn"),
            Err(TcpFlagsError::NotLookedAt)
        );
        for bad in ["syn", "syn/", "/syn", "syn/none", "ece/ece", "SYN/SYN"] {
            assert_eq!(
                TcpFlagsMatch::parse(bad),
                Err(TcpFlagsError::NotFlags),
                "{bad}"
            );
        }
    }
}

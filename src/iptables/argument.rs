//! Reads values from the words of a line, as the tool's own functions read them: numbers, ports, addresses, states.
//!
//! An error is the tool's message without the name of the option.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::{AddressTypes, FlagTest, IcmpMatch, States};
use super::names::{self, Transport};
use super::services::service_port;
use super::value::{MarkMask, Network, PortMatch, prefix_mask};
use crate::net::{Family, State, TcpFlags};

/// A value, or why the text is not one.
pub(super) type Parsed<T> = Result<T, String>;

/// Reads a number at the start of `text` as C's `strtoul` does with base 0 (0x hexadecimal, 0 octal, else decimal; white
/// space and `+` before it), and returns it with the rest of the text. Unlike `strtoul`, a minus is refused.
pub(super) fn leading_number(text: &str) -> Option<(u64, &str)> {
    let bytes = text.as_bytes();
    // The fast path: nearly all numbers of a rules file are plain decimal ones.
    if matches!(bytes.first(), Some(b'1'..=b'9')) {
        return digits(text, 0, 10);
    }
    let blanks = bytes
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r'))
        .count();
    let start = blanks + usize::from(bytes.get(blanks) == Some(&b'+'));
    match bytes.get(start..)? {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => digits(text, start + 2, 16),
        [b'0', ..] => digits(text, start, 8),
        _ => digits(text, start, 10),
    }
}

/// Reads the digits from `start` as a number, and returns it with what follows them; `None` on overflow.
fn digits(text: &str, start: usize, radix: u32) -> Option<(u64, &str)> {
    let mut number = 0u64;
    let mut end = start;
    while let Some(digit) = text
        .as_bytes()
        .get(end)
        .and_then(|&byte| char::from(byte).to_digit(radix))
    {
        number = number
            .checked_mul(radix.into())?
            .checked_add(digit.into())?;
        end += 1;
    }
    (end > start).then(|| (number, &text[end..]))
}

/// Reads the whole text as a number from `min` to `max`.
pub(super) fn number(text: &str, min: u64, max: u64) -> Parsed<u64> {
    match leading_number(text) {
        Some((number, "")) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is not a number from {min} to {max}")),
    }
}

/// Reads `a`, `a:b`, `a:`, `:b` or `:`; an open end is 0 or `max`. The first number may be greater than the last.
pub(super) fn number_range(text: &str, max: u64) -> Parsed<(u64, u64)> {
    match text.split_once(':') {
        None => number(text, 0, max).map(|number| (number, number)),
        Some((first, last)) => Ok((
            if first.is_empty() {
                0
            } else {
                number(first, 0, max)?
            },
            if last.is_empty() {
                max
            } else {
                number(last, 0, max)?
            },
        )),
    }
}

/// Reads a port as `tcp`, `sctp` and `multiport` do: a number of any base, or a service name of the protocol.
pub(super) fn port(text: &str, transport: Option<Transport>) -> Parsed<u16> {
    match number(text, 0, u16::MAX.into()) {
        Ok(number) => Ok(number as u16),
        Err(_) => service_port(text, transport)
            .ok_or_else(|| format!("invalid port/service `{text}` specified")),
    }
}

/// Reads a port as `udp`, `dccp` and `conntrack` do, which ask the C library (`getaddrinfo`): a decimal number whose low 16
/// bits count, or a service name of any protocol.
pub(super) fn loose_port(text: &str) -> Parsed<u16> {
    let digits = text.trim_start();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if decimal && let Ok(number) = digits.parse::<u64>() {
        return Ok((number & 0xffff) as u16);
    }
    service_port(text, None).ok_or_else(|| format!("port `{text}` does not resolve to anything"))
}

/// Reads `a`, `a:b`, `a:` or `:b` with ports as `tcp` reads them ([`port`]). The first must not be greater than the last.
pub(super) fn port_range(text: &str, transport: Transport) -> Parsed<PortMatch> {
    let Some((first, last)) = text.split_once(':') else {
        let only = port(text, Some(transport))?;
        return Ok(PortMatch {
            first: only,
            last: only,
        });
    };
    let range = PortMatch {
        first: if first.is_empty() {
            0
        } else {
            port(first, Some(transport))?
        },
        last: if last.is_empty() {
            u16::MAX
        } else {
            port(last, Some(transport))?
        },
    };
    match range.first > range.last {
        true => Err("the range's first port is greater than its last".into()),
        false => Ok(range),
    }
}

/// Reads `a`, `a:b`, `a:` or `:b` with ports as `udp` reads them ([`loose_port`]). The first may be greater than the last.
pub(super) fn loose_port_range(text: &str) -> Parsed<PortMatch> {
    let Some((first, last)) = text.split_once(':') else {
        let only = loose_port(text)?;
        return Ok(PortMatch {
            first: only,
            last: only,
        });
    };
    if last.contains(':') {
        return Err("a range has two ports".into());
    }
    Ok(PortMatch {
        first: if first.is_empty() {
            0
        } else {
            loose_port(first)?
        },
        last: if last.is_empty() {
            u16::MAX
        } else {
            loose_port(last)?
        },
    })
}

/// Reads the list of `multiport`: at most 15 ports, where a range counts as two.
pub(super) fn port_list(text: &str, transport: Option<Transport>) -> Parsed<Vec<PortMatch>> {
    let mut ports = Vec::with_capacity(text.bytes().filter(|&byte| byte == b',').count() + 1);
    let mut slots = 0;
    for item in text.split(',') {
        let range = match item.split_once(':') {
            None => {
                let only = port(item, transport)?;
                PortMatch {
                    first: only,
                    last: only,
                }
            }
            Some((first, last)) => PortMatch {
                first: port(first, transport)?,
                last: port(last, transport)?,
            },
        };
        slots += if item.contains(':') { 2 } else { 1 };
        if item.contains(':') && range.first >= range.last {
            return Err("a range's first port must be less than its last".into());
        }
        ports.push(range);
    }
    match slots > 15 {
        true => Err("too many ports: at most 15, a range counting twice".into()),
        false => Ok(ports),
    }
}

/// Reads an address with an optional mask or prefix length, and clears the host bits.
pub(super) fn network(text: &str, family: Family) -> Parsed<Network> {
    let (address, mask) = address_and_mask(text, family)?;
    Ok(Network::new(family, address, mask))
}

/// Reads an address with an optional mask or prefix length, and keeps the host bits.
pub(super) fn address_and_mask(text: &str, family: Family) -> Parsed<(u128, u128)> {
    // Byte by byte: the texts are too short for a substring search to pay off.
    let slash = text.bytes().rposition(|byte| byte == b'/');
    let (address, mask) = match slash {
        Some(index) => (&text[..index], mask_of(&text[index + 1..], family)?),
        None => (text, family.last_address()),
    };
    let address = match family {
        Family::V4 => v4_bits(address),
        Family::V6 => address.parse::<Ipv6Addr>().ok().map(u128::from),
    };
    let host = text.split('/').next().unwrap_or(text);
    // Host names are not resolved: what they mean depends on the day and on the host. `localhost` means the same
    // everywhere.
    let named = host == "localhost" && family == Family::V4;
    let address = address.or_else(|| named.then(|| u32::from(Ipv4Addr::LOCALHOST).into()));
    match address {
        Some(address) => Ok((address, mask)),
        None => Err(format!(
            "host/network `{host}` not found: not an {family} address, and names are not resolved"
        )),
    }
}

/// Reads `a.b.c.d` or its first bytes: `10.1` is 10.1.0.0, as in iptables, and not 10.0.0.1 as in `inet_aton`. Each byte
/// may be octal.
fn v4_bits(text: &str) -> Option<u128> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(u32::from(address).into());
    }
    let mut bits = 0u32;
    let mut shift = 32;
    for part in text.split('.') {
        shift -= 8;
        if shift < 0 {
            return None;
        }
        bits |= (number(part, 0, 255).ok()? as u32) << shift;
    }
    Some(bits.into())
}

/// Reads a netmask or a prefix length.
fn mask_of(text: &str, family: Family) -> Parsed<u128> {
    // A prefix length first: dotted masks are rare.
    if let Some((length, "")) = leading_number(text)
        && length <= family.bits().into()
    {
        return Ok(prefix_mask(family, length as u8));
    }
    let dotted = match family {
        Family::V4 => text
            .parse::<Ipv4Addr>()
            .ok()
            .map(|mask| u32::from(mask).into()),
        Family::V6 => text.parse::<Ipv6Addr>().ok().map(u128::from),
    };
    dotted.ok_or_else(|| format!("invalid mask `{text}` specified"))
}

/// Reads one address without a mask.
pub(super) fn address(text: &str, family: Family) -> Parsed<IpAddr> {
    let address = match family {
        Family::V4 => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Family::V6 => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    };
    address.ok_or_else(|| format!("`{text}` is not an {family} address"))
}

/// Reads `first-last`, or one address.
pub(super) fn address_range(text: &str, family: Family) -> Parsed<(IpAddr, IpAddr)> {
    match text.split_once('-') {
        Some((first, last)) => Ok((address(first, family)?, address(last, family)?)),
        None => address(text, family).map(|only| (only, only)),
    }
}

/// Reads `value[/mask]` of 32 bits each.
pub(super) fn mark(text: &str) -> Parsed<MarkMask> {
    let bad = || format!("`{text}` is not a 32-bit mark, or mark/mask");
    let part = |text: &str| number(text, 0, u32::MAX.into()).map(|number| number as u32);
    match text.split_once('/') {
        Some((value, mask)) => Ok(MarkMask {
            value: part(value).map_err(|_| bad())?,
            mask: part(mask).map_err(|_| bad())?,
        }),
        None => Ok(MarkMask {
            value: part(text).map_err(|_| bad())?,
            mask: u32::MAX,
        }),
    }
}

/// Reads a protocol number, or a protocol name in upper or lower case.
pub(super) fn protocol(text: &str) -> Parsed<u8> {
    if let Some((number, "")) = leading_number(text) {
        let number = u8::try_from(number).ok();
        return number.ok_or_else(|| format!("unknown protocol `{text}` specified"));
    }
    let found = match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => names::protocol_number(&text.to_ascii_lowercase()),
        false => names::protocol_number(text),
    };
    found.ok_or_else(|| format!("unknown protocol `{text}` specified"))
}

/// Reads the two operands of `--tcp-flags`: the flags that are compared, and those that must be set.
pub(super) fn tcp_flags(mask: &str, set: &str) -> Parsed<FlagTest> {
    Ok(FlagTest {
        mask: flags(mask)?,
        set: flags(set)?,
    })
}

/// `--syn`: of SYN, RST, ACK and FIN, only SYN is set.
pub(super) const SYN: FlagTest = FlagTest {
    mask: TcpFlags(0b1_0111),
    set: TcpFlags::SYN,
};

/// Reads a list of TCP flags, with `ALL` and `NONE`.
fn flags(text: &str) -> Parsed<TcpFlags> {
    let mut bits = 0;
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let known = names::TCP_FLAGS
            .iter()
            .position(|name| name.eq_ignore_ascii_case(word));
        bits |= match known {
            Some(bit) => 1 << bit,
            None if word.eq_ignore_ascii_case("ALL") => 0b11_1111,
            None if word.eq_ignore_ascii_case("NONE") => 0,
            None => return Err(format!("unknown TCP flag `{word}`")),
        };
    }
    Ok(TcpFlags(bits))
}

/// Reads the list of `--state`, or with `nat` that of `--ctstate`, which has SNAT and DNAT too.
pub(super) fn states(text: &str, nat: bool) -> Parsed<States> {
    let mut states = States::default();
    for word in text.split(',') {
        let known = State::ALL
            .into_iter()
            .find(|state| state.keyword().eq_ignore_ascii_case(word));
        states.insert(match known {
            Some(state) => States::of(&[state]),
            None if nat && word.eq_ignore_ascii_case("SNAT") => States::SNAT,
            None if nat && word.eq_ignore_ascii_case("DNAT") => States::DNAT,
            None => return Err(format!("bad state `{word}`")),
        });
    }
    Ok(states)
}

/// Reads the list of `--src-type` and `--dst-type`.
pub(super) fn address_types(text: &str) -> Parsed<AddressTypes> {
    let mut bits = 0;
    for word in text.split(',') {
        let known = AddressTypes::NAMES
            .iter()
            .position(|name| name.eq_ignore_ascii_case(word));
        bits |= 1 << known.ok_or_else(|| format!("bad type `{word}`"))?;
    }
    Ok(AddressTypes(bits))
}

/// Reads a MAC address: six bytes of one or two hexadecimal digits.
pub(super) fn mac(text: &str) -> Parsed<[u8; 6]> {
    let bad = || format!("`{text}` is not a MAC address: six bytes such as 00:11:22:aa:bb:cc");
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().ok_or_else(bad)?;
        if part.is_empty() || part.len() > 2 || part.starts_with('+') {
            return Err(bad());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    match parts.next() {
        Some(_) => Err(bad()),
        None => Ok(bytes),
    }
}

/// Reads the operand of `--icmp-type` and `--icmpv6-type`: a name, the beginning of a name that no other name shares, or
/// `type[/code]`.
pub(super) fn icmp_type(text: &str, family: Family) -> Parsed<IcmpMatch> {
    let make = |kind: u8, first_code: u8, last_code: u8| match (family, kind, first_code, last_code)
    {
        // Type 255 is how iptables stores `any` in IPv4: the number and the name are the same condition.
        (Family::V4, 255, ..) => IcmpMatch::Any,
        _ => IcmpMatch::Type {
            kind,
            first_code,
            last_code,
        },
    };
    let protocol = match family {
        Family::V4 => "ICMP",
        Family::V6 => "ICMPv6",
    };
    let begins = |name: &str| {
        name.get(..text.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(text))
    };
    let known = names::icmp_names(family);
    if let Some(&(_, kind, first, last)) = known
        .iter()
        .find(|(name, ..)| name.eq_ignore_ascii_case(text))
    {
        return Ok(make(kind, first, last));
    }
    let mut near = known.iter().filter(|(name, ..)| begins(name));
    if let Some(&(name, kind, first, last)) = near.next() {
        return match near.next() {
            Some((other, ..)) => Err(format!(
                "ambiguous {protocol} type `{text}`: `{name}` or `{other}`?"
            )),
            None => Ok(make(kind, first, last)),
        };
    }
    let (kind, codes) = match text.split_once('/') {
        Some((kind, codes)) => (kind, Some(codes)),
        None => (text, None),
    };
    let byte = |text: &str, max: u64| number(text, 0, max).map(|number| number as u8);
    let kind = byte(kind, 255).map_err(|_| format!("unknown {protocol} type `{text}`"))?;
    let bad = |_| format!("unknown {protocol} code `{text}`");
    match codes {
        None => Ok(make(kind, 0, 255)),
        Some(codes) => {
            let (first, last) = codes.split_once(':').unwrap_or((codes, codes));
            Ok(make(
                kind,
                byte(first, 255).map_err(bad)?,
                byte(last, 255).map_err(bad)?,
            ))
        }
    }
}

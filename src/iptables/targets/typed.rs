//! Makes the targets that have a type of their own in [`Target`], or rules of their own, from their options.

use std::net::IpAddr;

use super::{find, plain};
use crate::iptables::argument::{self, Parsed};
use crate::iptables::model::*;
use crate::iptables::names;
use crate::iptables::spec::*;
use crate::iptables::value::{MarkMask, PortMatch, address_bits, address_from, write_address};
use crate::iptables::words;
use crate::net::Family;

pub(super) fn reject(given: &Arguments<'_, '_>) -> Made<Target> {
    let known = names::reject_names(given.family);
    let read = |text: &str| {
        // As in the tool, the beginning of a word is enough and the first word that fits counts.
        let begins = |name: &str| {
            name.get(..text.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(text))
        };
        let found = known.iter().find(|(name, _)| begins(name));
        found
            .map(|(_, printed)| *printed)
            .ok_or_else(|| format!("unknown reject type `{text}`"))
    };
    let default = match given.family {
        Family::V4 => "icmp-port-unreachable",
        Family::V6 => "icmp6-port-unreachable",
    };
    Ok(Target::Reject(
        match given
            .read("reject-with", read)?
            .map_or(default, |word| word.value)
        {
            "tcp-reset" => Reject::TcpReset,
            name => Reject::Icmp(name),
        },
    ))
}

pub(super) fn log(given: &Arguments<'_, '_>) -> Made<Target> {
    let prefix = given.read("log-prefix", |text| prefix(text, 29).map(Box::from))?;
    let level = |text: &str| {
        let named = names::LOG_LEVELS.iter().find(|(name, _)| *name == text);
        let number = || argument::number(text, 0, 7).ok().map(|number| number as u8);
        named
            .map(|(_, level)| *level)
            .or_else(number)
            .ok_or_else(|| format!("log level `{text}` unknown"))
    };
    let level = given.read("log-level", level)?;
    Ok(Target::Log(Box::new(LogTarget {
        prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
        level: level.map_or(LogTarget::DEFAULT_LEVEL, |level| level.value),
        flags: names::LOG_FLAGS.map(|name| given.has(name)),
    })))
}

pub(super) fn audit_type(text: &str, _: Family) -> Parsed<String> {
    match text.to_ascii_lowercase() {
        word if matches!(word.as_str(), "accept" | "drop" | "reject") => Ok(word),
        _ => Err(format!("bad action type value `{text}`")),
    }
}

/// Returns the prefix of a log line, cut to `most` bytes: the tools cut without a warning (29 for LOG, 127 for NFLOG with
/// nft).
pub(super) fn prefix(text: &str, most: usize) -> Parsed<&str> {
    match text {
        "" => Err("the prefix must have at least one character".into()),
        _ if text.contains('\n') => Err("a newline is not allowed in a prefix".into()),
        _ => Ok(cut(text, most)),
    }
}

pub(super) fn nflog_prefix(text: &str, _: Family) -> Parsed<String> {
    quoted(prefix(text, 127)?)
}

pub(super) fn nflog(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut made = plain("NFLOG", given)?;
    if let Target::Other(module) = &mut made {
        // Group 0 and threshold 0 are not printed. `--nflog-range` never had an effect in the kernel
        // (`iptables-extensions(8)`).
        module.settings.retain(|one| match (one.name, &*one.value) {
            ("nflog-group" | "nflog-threshold", "0") => false,
            (name, _) => name != "nflog-range",
        });
    }
    Ok(made)
}

pub(super) fn queue(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut made = plain("NFQUEUE", given)?;
    // Queue 0 is the default, and is printed.
    if let Target::Other(module) = &mut made
        && !given.has("queue-num")
        && !given.has("queue-balance")
    {
        module.settings.insert(0, setting("queue-num", "0"));
    }
    Ok(made)
}

pub(super) fn tcp_mss(given: &Arguments<'_, '_>) -> Made<Target> {
    // If both options are given, the tool keeps the last one.
    match given.given.last() {
        Some(last) => Ok(other_target("TCPMSS", vec![given.setting(last)?])),
        None => Err(given.missing("at least one option is required".into())),
    }
}

/// Reads the five options that change a mark, as value and mask of `--set-xmark`, which makes the mark
/// `(mark & !mask) ^ value`.
pub(super) fn changed_mark(given: &Arguments<'_, '_>) -> Made<Option<MarkMask>> {
    let named = |one: &&Given| {
        matches!(
            one.option.name,
            "set-xmark" | "set-mark" | "and-mark" | "or-mark" | "xor-mark"
        )
    };
    let Some(one) = given.given.iter().find(named) else {
        return Ok(None);
    };
    let text = given.text(one);
    let number = |text: &str| argument::number(text, 0, U32).map(|number| number as u32);
    let mark = match one.option.name {
        "set-xmark" => argument::mark(text),
        // `--set-mark` clears the mask and then sets the value, so that the mask covers the bits of the value too.
        "set-mark" => argument::mark(text).map(|mark| MarkMask {
            value: mark.value,
            mask: mark.value | mark.mask,
        }),
        "and-mark" => number(text).map(|bits| MarkMask {
            value: 0,
            mask: !bits,
        }),
        "or-mark" => number(text).map(|bits| MarkMask {
            value: bits,
            mask: bits,
        }),
        _ => number(text).map(|bits| MarkMask {
            value: bits,
            mask: 0,
        }),
    };
    mark.map(Some)
        .map_err(|message| given.problem(one, message))
}

pub(super) fn connection_mark(given: &Arguments<'_, '_>) -> Made<Target> {
    let shift = shift(given)?;
    if let Some(mark) = changed_mark(given)? {
        let value = format!("{:#x}/{:#x}", mark.value, mark.mask);
        let settings = std::iter::once(setting("set-xmark", value)).chain(shift);
        return Ok(other_target("CONNMARK", settings.collect()));
    }
    let mode = ["save-mark", "restore-mark"]
        .into_iter()
        .find(|name| given.has(name));
    let Some(mode) = mode else {
        return Err(given.missing("no operation specified".into()));
    };
    let mask = |name: &str| -> Made<Option<u64>> {
        Ok(given
            .read(name, |text| argument::number(text, 0, U32))?
            .map(|mask| mask.value))
    };
    // `--mask` sets both masks. Both are always printed.
    let both = mask("mask")?;
    let netfilter = mask("nfmask")?.or(both).unwrap_or(U32);
    let connection = mask("ctmask")?.or(both).unwrap_or(U32);
    let settings = [
        setting(mode, ""),
        setting("nfmask", format!("{netfilter:#x}")),
        setting("ctmask", format!("{connection:#x}")),
    ];
    Ok(other_target(
        "CONNMARK",
        settings.into_iter().chain(shift).collect(),
    ))
}

/// Reads the shift of `CONNMARK`. If both directions are given, the tool keeps the last one; a shift by 0 is not printed.
fn shift(given: &Arguments<'_, '_>) -> Made<Option<ModuleOption>> {
    let names = ["left-shift-mark", "right-shift-mark"];
    let mut shifts = given.given.iter().rev();
    let Some(last) = shifts.find(|one| names.contains(&one.option.name)) else {
        return Ok(None);
    };
    let bits = argument::number(given.text(last), 0, 31);
    let bits = bits.map_err(|message| given.problem(last, message))?;
    Ok((bits > 0).then(|| setting(last.option.name, bits.to_string())))
}

pub(super) fn transparent_proxy(given: &Arguments<'_, '_>) -> Made<Target> {
    let port = given.need("on-port", argument::loose_port)?.value;
    let address = given.read("on-ip", |text| argument::address(text, given.family))?;
    let address = address.map_or(
        crate::iptables::value::address_from(given.family, 0),
        |one| one.value,
    );
    let mark = given.read("tproxy-mark", argument::mark)?;
    let mark = mark.map_or(MarkMask { value: 0, mask: 0 }, |mark| mark.value);
    let mut on = String::new();
    let _ = write_address(&mut on, address);
    Ok(other_target(
        "TPROXY",
        vec![
            setting("on-port", port.to_string()),
            setting("on-ip", on),
            setting("tproxy-mark", format!("{:#x}/{:#x}", mark.value, mark.mask)),
        ],
    ))
}

pub(super) fn change_set(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut settings = Vec::new();
    for name in ["add-set", "del-set", "map-set"] {
        let Some(two) = given.find(name) else {
            continue;
        };
        let directions = words::set_directions(given.second(two));
        let directions = directions.map_err(|message| given.problem(two, message))?;
        let words = list(
            directions
                .iter()
                .map(|&source| if source { "src" } else { "dst" }),
        );
        settings.push(setting(
            two.option.name,
            format!("{} {words}", given.text(two)),
        ));
    }
    if settings.is_empty() {
        return Err(given.missing("you must specify --add-set, --del-set or --map-set".into()));
    }
    settings.extend(given.settings(find("SET", given.family).map_or(&[], |spec| spec.options))?);
    Ok(other_target("SET", settings))
}

pub(super) fn nat(kind: NatKind, option: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    let mut nat = NatTarget {
        random: given.has("random"),
        random_fully: given.has("random-fully"),
        persistent: given.has("persistent"),
        ..NatTarget::new(kind)
    };
    if let Some(one) = given.find(option) {
        // The tool checks the number of the protocol only, so that `! -p tcp` allows ports too.
        let with_ports = one
            .protocol
            .is_some_and(|protocol| matches!(protocol.value, 1 | 6 | 17 | 33 | 132));
        let read = match kind {
            NatKind::Snat | NatKind::Dnat => {
                nat_range(given.text(one), with_ports, given.family, &mut nat)
            }
            NatKind::Redirect | NatKind::Masquerade => {
                nat_ports(given.text(one), with_ports, &mut nat)
            }
            NatKind::Netmap => network(given.text(one), given.family)
                .map(|addresses| nat.addresses = Some(addresses)),
        };
        read.map_err(|message| given.problem(one, message))?;
    }
    Ok(Target::Nat(Box::new(nat)))
}

/// Reads `[address[-address]][:port[-port[/port]]]`, with an IPv6 address in brackets if ports follow.
pub(super) fn nat_range(
    text: &str,
    with_ports: bool,
    family: Family,
    nat: &mut NatTarget,
) -> Parsed<()> {
    let (addresses, ports) = match text.strip_prefix('[') {
        Some(inside) if family == Family::V6 => match inside.split_once(']') {
            Some((addresses, "")) => (addresses, None),
            Some((addresses, rest)) => match rest.strip_prefix(':') {
                Some(ports) => (addresses, Some(ports)),
                None => return Err(format!("`{text}`: garbage after `]`")),
            },
            None => return Err(format!("`{text}`: `]` is missing")),
        },
        _ => match text.split_once(':') {
            Some((addresses, ports)) if !ports.contains(':') => (addresses, Some(ports)),
            _ => (text, None),
        },
    };
    if let Some(ports) = ports {
        nat_ports(ports, with_ports, nat)?;
        if addresses.is_empty() {
            return Ok(());
        }
    }
    nat.addresses = Some(argument::address_range(addresses, family)?);
    Ok(())
}

/// Reads `port[-port[/port]]`. The last port is the base: the original port that is mapped to the first one of the range.
pub(super) fn nat_ports(text: &str, with_ports: bool, nat: &mut NatTarget) -> Parsed<()> {
    if !with_ports {
        return Err("ports need `-p tcp`, `-p udp`, `-p sctp` or `-p dccp` before it".into());
    }
    let (range, base) = match text.split_once('/') {
        Some((range, base)) => (range, Some(base)),
        None => (text, None),
    };
    let bad = |_| format!("port `{text}` not valid");
    nat.ports = Some(match argument::port(range, None) {
        Ok(only) => PortMatch {
            first: only,
            last: only,
        },
        Err(_) => {
            let (first, last) = range.split_once('-').ok_or_else(|| bad(String::new()))?;
            let number = |text: &str| argument::number(text, 0, U16).map(|number| number as u16);
            let first = number(first).map_err(bad)?;
            PortMatch {
                first,
                last: number(last).map_err(bad)?,
            }
        }
    });
    if nat.ports.is_some_and(|range| range.first > range.last) {
        return Err(format!("port range `{text}` is reversed"));
    }
    let range = nat.ports.is_some_and(|range| range.first < range.last);
    if base.is_some() && (nat.kind != NatKind::Dnat || !range) {
        return Err(format!("`{text}`: only DNAT to a range has a base port"));
    }
    if let Some(base) = base {
        nat.base_port = Some(argument::port(base, None).map_err(bad)?);
    }
    Ok(())
}

/// Reads a network (`NETMAP --to`) and returns its first and last address.
pub(super) fn network(text: &str, family: Family) -> Parsed<(IpAddr, IpAddr)> {
    let network = argument::network(text, family)?;
    if network.prefix_length().is_none() {
        return Err(format!("`{text}` has a mask with holes"));
    }
    let [first, mask] = [network.address(), network.mask()].map(address_bits);
    let last = first | (family.last_address() & !mask);
    Ok((network.address(), address_from(family, last)))
}

pub(super) fn one_address(text: &str, family: Family) -> Parsed<String> {
    let mut out = String::new();
    let _ = write_address(&mut out, argument::address(text, family)?);
    Ok(out)
}

/// Reads a prefix of at most 64 bits without host bits (`SNPT`, `DNPT`).
pub(super) fn translated_prefix(text: &str, family: Family) -> Parsed<String> {
    let (address, _) = argument::address_and_mask(text, family)?;
    let network = argument::network(text, family)?;
    match network.prefix_length() {
        Some(length) if length <= 64 && address_bits(network.address()) == address => {
            Ok(network.to_string())
        }
        _ => Err(format!(
            "`{text}` is not a prefix of at most 64 bits without host bits"
        )),
    }
}

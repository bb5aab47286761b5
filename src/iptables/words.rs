//! Reads option values that are words or lists of words, and returns each in the form that `iptables-save` prints.

use super::argument::{self, Parsed};
use super::names;
use super::spec::U16;
use super::spec::{list, range_text};
use crate::net::Family;

/// A class of differentiated services (`--dscp-class EF`), as its number.
pub(super) fn dscp_class(text: &str, _: Family) -> Parsed<String> {
    let known = names::DSCP_CLASSES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    let known = known.map(|(_, number)| format!("0x{number:02x}"));
    known.ok_or_else(|| format!("invalid DSCP class `{text}`"))
}

/// A device group, as a number or a name of `/etc/iproute2/group`.
pub(super) fn device_group(text: &str, _: Family) -> Parsed<String> {
    number_or_name(text, "default")
}

/// A routing realm, as a number or a name of `/etc/iproute2/rt_realms`.
pub(super) fn realm(text: &str, _: Family) -> Parsed<String> {
    number_or_name(text, "cosmos")
}

/// A number with or without a mask, or a name. The tools print a name where the host's file has one for the number, and
/// iproute2's own files have one for 0 (`zero`). That name becomes the number, which loads on every host. Other names are
/// kept: only the host knows their numbers.
fn number_or_name(text: &str, zero: &str) -> Parsed<String> {
    if let Ok(mark) = argument::mark(text) {
        return Ok(mark.to_string());
    }
    let is_name = |text: &str| {
        let mut letters = text.chars();
        letters.next().is_some_and(char::is_alphabetic)
            && letters.all(|one| one.is_alphanumeric() || "-_.".contains(one))
    };
    match text {
        _ if text == zero => Ok("0x0".to_owned()),
        _ if is_name(text) => Ok(text.to_owned()),
        _ => Err(format!(
            "`{text}` is not a number, with or without `/MASK`, and not a name"
        )),
    }
}

/// Reads a type of service as value and mask. A name means one of the old TOS bits, with the mask 0x3f.
fn tos(text: &str) -> Parsed<(u8, u8)> {
    if let Some((_, number)) = names::TOS_NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
    {
        return Ok((*number, 0x3f));
    }
    let byte = |text: &str| argument::number(text, 0, 255).map(|number| number as u8);
    match text.split_once('/') {
        Some((value, mask)) => Ok((byte(value)?, byte(mask)?)),
        None => byte(text)
            .map(|number| (number, 0xff))
            .map_err(|_| format!("`{text}` is not a type of service")),
    }
}

/// The operand of `-m tos --tos`: value and mask in hexadecimal.
pub(super) fn tos_match(text: &str, _: Family) -> Parsed<String> {
    tos(text).map(|(value, mask)| format!("0x{value:02x}/0x{mask:02x}"))
}

/// The operand of `-j TOS --set-tos`.
pub(super) fn tos_target(text: &str, family: Family) -> Parsed<String> {
    tos_match(text, family)
}

/// The operand of `--and-tos`, `--or-tos` or `--xor-tos` as the one of `--set-tos` that does the same, which is what the
/// tools print.
fn tos_bits(text: &str, make: impl FnOnce(u8) -> (u8, u8)) -> Parsed<String> {
    let (value, mask) = make(argument::number(text, 0, 255)? as u8);
    Ok(format!("0x{value:02x}/0x{mask:02x}"))
}

pub(super) fn tos_and(text: &str, _: Family) -> Parsed<String> {
    tos_bits(text, |bits| (0, !bits))
}

pub(super) fn tos_or(text: &str, _: Family) -> Parsed<String> {
    tos_bits(text, |bits| (bits, bits))
}

pub(super) fn tos_xor(text: &str, _: Family) -> Parsed<String> {
    tos_bits(text, |bits| (bits, 0))
}

/// The range of `-m tcpmss --mss`.
pub(super) fn mss_range(text: &str, _: Family) -> Parsed<String> {
    match argument::number_range(text, U16)? {
        (first, last) if first > last => Err(format!("invalid range `{text}`")),
        range => Ok(range_text(range)),
    }
}

/// A text that is printed in quotes even where it needs none.
pub(super) fn always_quoted(text: &str, _: Family) -> Parsed<String> {
    Ok(format!("\"{text}\""))
}

/// The range of `--mh-type` (IPv6 mobility headers), by names or numbers.
pub(super) fn mobility_types(text: &str, _: Family) -> Parsed<String> {
    const TYPES: [[&str; 2]; 8] = [
        ["binding-refresh-request", "brr"],
        ["home-test-init", "hoti"],
        ["careof-test-init", "coti"],
        ["home-test", "hot"],
        ["careof-test", "cot"],
        ["binding-update", "bu"],
        ["binding-acknowledgement", "ba"],
        ["binding-error", "be"],
    ];
    let one =
        |text: &str, open: u64| match (0..).zip(TYPES).find(|(_, names)| names.contains(&text)) {
            Some((number, _)) => Ok(number),
            None if text.is_empty() => Ok(open),
            None => argument::number(text, 0, 255),
        };
    // 256 marks a missing end of the range, since 255 is a type.
    let range = match text.split_once(':') {
        Some((first, last)) => (one(first, 0)?, one(last, 255)?),
        None => (
            argument::number(text, 0, 255).or_else(|_| one(text, 256))?,
            256,
        ),
    };
    match range {
        (only, 256) if only < 256 => Ok(only.to_string()),
        (first, last) if first <= last && last < 256 => Ok(range_text(range)),
        _ => Err(format!("invalid MH type or range `{text}`")),
    }
}

/// The range of `--connbytes`. An open end, and a last value of 0, are printed as no end.
pub(super) fn connection_bytes(text: &str, _: Family) -> Parsed<String> {
    let (first, last) = argument::number_range(text, u64::MAX)?;
    match text.split_once(':') {
        Some((_, end)) if !end.is_empty() && first > last => Err(format!("`{text}` is reversed")),
        Some((_, end)) if !end.is_empty() && last > 0 => Ok(format!("{first}:{last}")),
        _ => Ok(first.to_string()),
    }
}

/// The number of a connection label, which the tools print in quotes.
pub(super) fn connection_label(text: &str, _: Family) -> Parsed<String> {
    argument::number(text, 0, 127).map(|number| format!("\"{number}\""))
}

/// The list of `--header` (IPv6 extension headers), by long names in the order of printing.
pub(super) fn ipv6_headers(text: &str, _: Family) -> Parsed<String> {
    const HEADERS: [(&str, &str, u64); 8] = [
        ("hop-by-hop", "hop", 0),
        ("ipv6-opts", "dst", 60),
        ("ipv6-route", "route", 43),
        ("ipv6-frag", "frag", 44),
        ("ah", "auth", 51),
        ("esp", "esp", 50),
        ("ipv6-nonxt", "none", 59),
        ("protocol", "prot", 255),
    ];
    let mut seen = [false; 8];
    for word in text.split(',') {
        let number = argument::number(word, 0, 255).ok();
        let fits = |(long, short, code): &(&str, &str, u64)| {
            *long == word || *short == word || Some(*code) == number
        };
        let index = HEADERS.iter().position(fits);
        seen[index.ok_or_else(|| format!("unknown header `{word}`"))?] = true;
    }
    Ok(list(
        HEADERS
            .iter()
            .zip(seen)
            .filter(|(_, seen)| *seen)
            .map(|((long, ..), _)| *long),
    ))
}

/// Reads a list of known words and returns them in the order of `known`, which is the order of printing, each once.
fn known_words(text: &str, known: &[&str], ignore_case: bool) -> Parsed<String> {
    let mut seen = vec![false; known.len()];
    for word in text.split(',') {
        let same = |name: &&str| *name == word || ignore_case && name.eq_ignore_ascii_case(word);
        let index = known.iter().position(same);
        seen[index.ok_or_else(|| format!("`{word}` is none of {}", known.join(", ")))?] = true;
    }
    Ok(list(
        known
            .iter()
            .zip(seen)
            .filter(|(_, seen)| *seen)
            .map(|(name, _)| *name),
    ))
}

/// The list of `--dccp-types`.
pub(super) fn dccp_types(text: &str, _: Family) -> Parsed<String> {
    const TYPES: [&str; 11] = [
        "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC",
        "SYNCACK", "INVALID",
    ];
    known_words(text, &TYPES, true)
}

/// The list of `--ctstatus`.
pub(super) fn connection_status(text: &str, _: Family) -> Parsed<String> {
    let words = known_words(
        text,
        &["NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"],
        true,
    )?;
    // NONE is no bit: beside other words it disappears when the rule is saved.
    Ok(words.strip_prefix("NONE,").unwrap_or(&words).to_owned())
}

/// The list of `-j CT --ctevents`.
pub(super) fn connection_events(text: &str, _: Family) -> Parsed<String> {
    const EVENTS: [&str; 10] = [
        "new",
        "related",
        "destroy",
        "reply",
        "assured",
        "protoinfo",
        "helper",
        "mark",
        "natseqinfo",
        "secmark",
    ];
    known_words(text, &EVENTS, false)
}

/// A conntrack zone: a number, or `mark` for the packet's mark.
pub(super) fn zone(text: &str, _: Family) -> Parsed<String> {
    match text.eq_ignore_ascii_case("mark") {
        true => Ok("mark".into()),
        false => argument::number(text, 0, U16).map(|number| number.to_string()),
    }
}

/// The two operands of `--chunk-types`: `all`, `any` or `only`, and the list of chunks, sorted by number as the tools print
/// it.
pub(super) fn chunk_types(how: &str, text: &str) -> Parsed<String> {
    const CHUNKS: [(&str, u8); 20] = [
        ("DATA", 0),
        ("INIT", 1),
        ("INIT_ACK", 2),
        ("SACK", 3),
        ("HEARTBEAT", 4),
        ("HEARTBEAT_ACK", 5),
        ("ABORT", 6),
        ("SHUTDOWN", 7),
        ("SHUTDOWN_ACK", 8),
        ("ERROR", 9),
        ("COOKIE_ECHO", 10),
        ("COOKIE_ACK", 11),
        ("ECN_ECNE", 12),
        ("ECN_CWR", 13),
        ("SHUTDOWN_COMPLETE", 14),
        ("ASCONF_ACK", 128),
        ("RE_CONFIG", 130),
        ("PAD", 132),
        ("FORWARD_TSN", 192),
        ("ASCONF", 193),
    ];
    if !["all", "any", "only"].contains(&how) {
        return Err(format!("`{how}` is none of all, any, only"));
    }
    if text.eq_ignore_ascii_case("all") || text.eq_ignore_ascii_case("none") {
        return Ok(format!("{how} {}", text.to_ascii_uppercase()));
    }
    let mut chunks = Vec::new();
    for word in text.split(',') {
        let (name, flags) = word.split_once(':').unwrap_or((word, ""));
        let known = CHUNKS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (name, number) = known.ok_or_else(|| format!("unknown chunk type `{name}`"))?;
        chunks.push((
            *number,
            format!("{name}{}{flags}", if flags.is_empty() { "" } else { ":" }),
        ));
    }
    chunks.sort();
    chunks.dedup();
    Ok(format!(
        "{how} {}",
        list(chunks.into_iter().map(|(_, word)| word))
    ))
}

/// The list of `src` (`true`) and `dst` (`false`) for the dimensions of a set, at most six (`IPSET_DIM_MAX`).
pub(super) fn set_directions(text: &str) -> Parsed<Vec<bool>> {
    let words: Parsed<Vec<bool>> = text
        .split(',')
        .map(|word| match word {
            "src" => Ok(true),
            "dst" => Ok(false),
            _ => Err(format!("`{word}` is neither src nor dst")),
        })
        .collect();
    words.and_then(|words| match words.len() > 6 {
        true => Err("at most six dimensions".into()),
        false => Ok(words),
    })
}

/// The range of `-j NFQUEUE --queue-balance`.
pub(super) fn queue_balance(text: &str, _: Family) -> Parsed<String> {
    match argument::number_range(text, U16)? {
        (first, last) if first >= last => Err(format!("{first} should be less than {last}")),
        (0, U16) => Err("all queues at once do not load".into()),
        range => Ok(range_text(range)),
    }
}

/// The operand of `-j CLASSIFY --set-class`: `major:minor` in hexadecimal.
pub(super) fn class(text: &str, _: Family) -> Parsed<String> {
    let part = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16);
    let (major, minor) = text.split_once(':').unwrap_or((text, ""));
    match (part(major), part(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major:04x}:{minor:04x}")),
        _ => Err(format!("bad class value `{text}`")),
    }
}

/// The list of `-j TCPOPTSTRIP --strip-options`, by numbers in ascending order.
pub(super) fn tcp_options(text: &str, _: Family) -> Parsed<String> {
    const OPTIONS: [(&str, u64); 6] = [
        ("wscale", 3),
        ("mss", 2),
        ("sack-permitted", 4),
        ("sack", 5),
        ("timestamp", 8),
        ("md5", 19),
    ];
    let mut numbers = Vec::new();
    for word in text.split(',') {
        let named = OPTIONS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, number)| *number);
        numbers.push(match named {
            Some(number) => number,
            None => argument::number(word, 2, 255)?,
        });
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(list(numbers.into_iter()))
}

/// The list of `--hbh-opts` and `--dst-opts` (options of an IPv6 extension header): at most 16 types, each with or without
/// a length.
pub(super) fn header_options(text: &str, _: Family) -> Parsed<String> {
    let items: Vec<&str> = text.split(',').collect();
    if items.len() > 16 {
        return Err("at most 16 options".into());
    }
    let option = |item: &&str| match item.split_once(':') {
        Some((kind, length)) => Ok(format!(
            "{}:{}",
            argument::number(kind, 0, 255)?,
            argument::number(length, 0, 255)?
        )),
        None => argument::number(item, 0, 255).map(|kind| kind.to_string()),
    };
    let options: Parsed<Vec<String>> = items.iter().map(option).collect();
    options.map(|options| list(options.into_iter()))
}

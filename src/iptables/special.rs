//! Modules and values of modules that the table's forms do not cover.

use super::argument::{self, Parsed};
use super::matches::plain_network;
use super::model::*;
use super::names;
use super::rates::prefix_length;
use super::spec::*;
use super::value::{Network, address_bits};
use crate::net::Family;

const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;

pub(super) static RECENT: [Opt; 12] = [
    flag("set")
        .not()
        .excludes(&["rcheck", "update", "remove", "seconds", "hitcount", "rttl"]),
    flag("rcheck").not().excludes(&["set", "update", "remove"]),
    flag("update").not().excludes(&["set", "rcheck", "remove"]),
    flag("remove")
        .not()
        .excludes(&["set", "rcheck", "update", "seconds", "hitcount", "rttl"]),
    value("seconds", Form::Number(1, U32)),
    flag("reap").needs("seconds"),
    value("hitcount", Form::Number(0, U16 - 1)),
    flag("rttl"),
    value("name", Form::By(recent_name)),
    value("mask", Form::By(plain_network)),
    flag("rsource"),
    flag("rdest"),
];

fn recent_name(text: &str, _: Family) -> Parsed<String> {
    match text.is_empty() || text.contains('/') {
        true => Err(format!("bad name `{text}`")),
        false => word(cut(text, 199)),
    }
}

pub(super) fn recent(given: &Arguments<'_, '_>) -> Made<Match> {
    if !["set", "rcheck", "update", "remove"]
        .iter()
        .any(|name| given.has(name))
    {
        let message = "you must specify one of `--set`, `--rcheck`, `--update` or `--remove`";
        return Err(given.missing(message.into()));
    }
    let mut settings = given.settings(&RECENT)?;
    let by_source = given
        .given
        .iter()
        .rev()
        .find(|one| matches!(one.option.name, "rsource" | "rdest"));
    let side = by_source.map_or("rsource", |one| one.option.name);
    let mut take = |name: &str| {
        let index = settings.iter().position(|one| one.name == name)?;
        Some(settings.remove(index))
    };
    let name = take("name").unwrap_or_else(|| setting("name", "DEFAULT"));
    let all = match given.family {
        Family::V4 => "255.255.255.255",
        Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    };
    let mask = take("mask").unwrap_or_else(|| setting("mask", all));
    settings.retain(|one| !matches!(one.name, "rsource" | "rdest"));
    settings.retain(|one| one.name != "hitcount" || &*one.value != "0");
    settings.extend([name, mask, setting(side, "")]);
    Ok(other_match("recent", settings))
}

pub(super) static OWNER: [Opt; 4] = [
    value("uid-owner", Form::By(owner_range)).not(),
    value("gid-owner", Form::By(owner_range)).not(),
    flag("socket-exists").not(),
    flag("suppl-groups"),
];

/// Names of users and groups belong to one machine; only root's is known.
fn owner_range(text: &str, _: Family) -> Parsed<String> {
    if text == "root" {
        return Ok("0".into());
    }
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    let bad = |_| format!("`{text}`: numbers only, names of users and groups are not looked up");
    let range = (
        argument::number(first, 0, U32 - 1).map_err(bad)?,
        argument::number(last, 0, U32 - 1).map_err(bad)?,
    );
    match range.0 > range.1 {
        true => Err(format!("`{text}` is reversed")),
        false => Ok(range_text(range).replace(':', "-")),
    }
}

pub(super) fn owner(given: &Arguments<'_, '_>) -> Made<Match> {
    let groups = given
        .given
        .iter()
        .position(|one| one.option.name == "suppl-groups");
    let owner = given
        .given
        .iter()
        .position(|one| one.option.name == "gid-owner");
    if groups.is_some() && owner.is_none_or(|index| Some(index) > groups) {
        return Err(given.missing("--suppl-groups: you need to use --gid-owner first".into()));
    }
    match given.given.is_empty() {
        true => Err(given.missing(
            "at least one of --uid-owner, --gid-owner or --socket-exists is required".into(),
        )),
        false => Ok(other_match("owner", given.settings(&OWNER)?)),
    }
}

pub(super) static PHYSDEV: [Opt; 5] = [
    flag("physdev-is-in").not(),
    value("physdev-in", Form::By(interface)).not(),
    flag("physdev-is-out").not(),
    value("physdev-out", Form::By(interface)).not(),
    flag("physdev-is-bridged").not(),
];

fn interface(text: &str, _: Family) -> Parsed<String> {
    match text.is_empty() || text.len() > 15 {
        true => Err(format!("`{text}` is no name of a device: 1 to 15 bytes")),
        false => word(text),
    }
}

pub(super) fn physdev(given: &Arguments<'_, '_>) -> Made<Match> {
    match given.given.is_empty() {
        true => Err(given.missing("no option specified".into())),
        false => Ok(other_match("physdev", given.settings(&PHYSDEV)?)),
    }
}

pub(super) static CONNLIMIT: [Opt; 5] = [
    value("connlimit-upto", Form::Number(0, U32))
        .not()
        .excludes(&["connlimit-above"]),
    value("connlimit-above", Form::Number(0, U32))
        .not()
        .excludes(&["connlimit-upto"]),
    value("connlimit-mask", Form::By(group_length)),
    flag("connlimit-saddr").excludes(&["connlimit-daddr"]),
    flag("connlimit-daddr").excludes(&["connlimit-saddr"]),
];

/// A prefix length, at most the whole address, or a netmask.
fn group_length(text: &str, family: Family) -> Parsed<String> {
    if let Ok(length) = argument::number(text, 0, U32) {
        return Ok(length.min(family.bits().into()).to_string());
    }
    let mask = argument::address(text, family)?;
    let network = Network::new(family, 0, address_bits(mask));
    let length = network.prefix_length();
    length
        .map(|length| length.to_string())
        .ok_or_else(|| format!("`{text}` is no netmask"))
}

pub(super) fn connlimit(given: &Arguments<'_, '_>) -> Made<Match> {
    let limit = given
        .find("connlimit-upto")
        .or_else(|| given.find("connlimit-above"));
    let Some(limit) = limit else {
        return Err(given.missing("you must specify --connlimit-above or --connlimit-upto".into()));
    };
    let above = (limit.option.name == "connlimit-above") != limit.negated;
    let name = if above {
        "connlimit-above"
    } else {
        "connlimit-upto"
    };
    let mask = match given.find("connlimit-mask") {
        Some(mask) => given.setting(mask)?,
        None => setting("connlimit-mask", given.family.bits().to_string()),
    };
    let side = match given.has("connlimit-daddr") {
        true => "connlimit-daddr",
        false => "connlimit-saddr",
    };
    let limit = setting(name, given.setting(limit)?.value);
    Ok(other_match(
        "connlimit",
        vec![limit, mask, setting(side, "")],
    ))
}

pub(super) static POLICY: [Opt; 10] = [
    value("dir", Form::OneOf(&["in", "out"])).required(),
    value("pol", Form::OneOf(&["ipsec", "none"])),
    flag("strict"),
    value("reqid", Form::Number(0, U32)).not().repeats(),
    value("spi", Form::By(security_index)).not().repeats(),
    value("proto", Form::By(transformation)).not().repeats(),
    value("mode", Form::OneOf(&["tunnel", "transport"]))
        .not()
        .repeats(),
    value("tunnel-dst", Form::By(plain_network)).not().repeats(),
    value("tunnel-src", Form::By(plain_network)).not().repeats(),
    flag("next").repeats().needs("strict"),
];

fn security_index(text: &str, _: Family) -> Parsed<String> {
    argument::number(text, 0, U32).map(|number| format!("{number:#x}"))
}

fn transformation(text: &str, _: Family) -> Parsed<String> {
    match argument::protocol(text)? {
        50 => Ok("esp".into()),
        51 => Ok("ah".into()),
        108 => Ok("ipcomp".into()),
        _ => Err(format!("protocol `{text}` is neither esp, ah nor ipcomp")),
    }
}

pub(super) fn policy(given: &Arguments<'_, '_>) -> Made<Match> {
    let elements = given.given.split(|one| one.option.name == "next");
    let mut parts = Vec::new();
    for element in elements {
        let mut settings = Vec::new();
        for option in &POLICY[3..9] {
            let same = |one: &&Given| std::ptr::eq(one.option, option);
            let mut found = element.iter().filter(same);
            if let Some(one) = found.next() {
                settings.push(given.setting(one)?);
            }
            if let Some(again) = found.next() {
                return Err(given.problem(again, format!("double --{} option", option.name)));
            }
        }
        let tunnel = settings
            .iter()
            .any(|one| one.name == "mode" && !one.negated && &*one.value == "tunnel");
        if !tunnel && settings.iter().any(|one| one.name.starts_with("tunnel-")) {
            let message = "--tunnel-src and --tunnel-dst are only valid in tunnel mode";
            return Err(given.missing(message.into()));
        }
        parts.push(settings);
    }
    if given.text_of("pol") == Some("none") {
        if given.has("strict") {
            return Err(given.missing("policy none but --strict given".into()));
        }
        parts.clear();
    }
    if given.has("strict") && parts.iter().any(Vec::is_empty) {
        return Err(given.missing("--strict is given, but an element is empty".into()));
    }
    let mut settings = vec![
        setting("dir", given.text_of("dir").unwrap_or_default()),
        setting("pol", given.text_of("pol").unwrap_or("ipsec")),
    ];
    settings.extend(given.has("strict").then(|| setting("strict", "")));
    for (index, part) in parts.into_iter().enumerate() {
        settings.extend((index > 0).then(|| setting("next", "")));
        settings.extend(part);
    }
    Ok(other_match("policy", settings))
}

pub(super) static STATISTIC: [Opt; 4] = [
    value("mode", Form::OneOf(&["random", "nth"])).required(),
    value("probability", Form::By(probability)).not(),
    value("every", Form::Number(1, U32))
        .not()
        .excludes(&["probability"])
        .needs("packet"),
    value("packet", Form::Number(0, U32))
        .excludes(&["probability"])
        .needs("every"),
];

/// The kernel keeps 31 bits of it.
fn probability(text: &str, _: Family) -> Parsed<String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| (0.0..=1.0).contains(number));
    let number = number.ok_or_else(|| format!("`{text}` is no number from 0 to 1"))?;
    let whole = f64::from(1u32 << 31);
    Ok(format!("{:.11}", (number * whole).round() / whole))
}

pub(super) fn statistic(given: &Arguments<'_, '_>) -> Made<Match> {
    let random = given.text_of("mode") == Some("random");
    if random && !given.has("probability") {
        return Err(given.missing("--probability must be specified when using random mode".into()));
    }
    if !random && !given.has("every") {
        let message = "--every and --packet must be specified when using nth mode";
        return Err(given.missing(message.into()));
    }
    let number = |name: &str| {
        given
            .text_of(name)
            .and_then(|text| argument::number(text, 0, U32).ok())
    };
    if number("every").is_some_and(|every| number("packet").is_some_and(|packet| packet >= every)) {
        return Err(given.missing("the --packet p must be 0 <= p <= n-1".into()));
    }
    Ok(other_match("statistic", given.settings(&STATISTIC)?))
}

pub(super) static RT: [Opt; 6] = [
    value("rt-type", Form::Number(0, U32)).not(),
    value("rt-segsleft", Form::Numbers(U32)).not(),
    value("rt-len", Form::Number(0, U32)).not(),
    flag("rt-0-res"),
    value("rt-0-addrs", Form::By(address_list)),
    flag("rt-0-not-strict").needs("rt-0-addrs"),
];

fn address_list(text: &str, family: Family) -> Parsed<String> {
    let addresses = text.split(',').map(|item| plain_network(item, family));
    Ok(list(addresses.collect::<Parsed<Vec<_>>>()?.into_iter()))
}

pub(super) fn rt(given: &Arguments<'_, '_>) -> Made<Match> {
    let mut settings = given.settings(&RT)?;
    let zero = settings
        .iter()
        .any(|one| one.name == "rt-type" && !one.negated && &*one.value == "0");
    if !zero && settings.iter().any(|one| one.name.starts_with("rt-0-")) {
        return Err(given.missing("the options of type 0 need `--rt-type 0`".into()));
    }
    settings.retain(|one| one.name != "rt-segsleft" || *one.value != *range_text((0, U32)));
    Ok(other_match("rt", settings))
}

pub(super) static CLUSTER: [Opt; 4] = [
    value("cluster-local-nodemask", Form::Hex(8, U32))
        .not()
        .excludes(&["cluster-local-node"]),
    value("cluster-local-node", Form::Number(1, 32))
        .not()
        .excludes(&["cluster-local-nodemask"]),
    value("cluster-total-nodes", Form::Number(1, 32)).required(),
    value("cluster-hash-seed", Form::Hex(8, U32)).required(),
];

pub(super) fn cluster(given: &Arguments<'_, '_>) -> Made<Match> {
    let mut settings = given.settings(&CLUSTER)?;
    let Some(first) = settings
        .first_mut()
        .filter(|one| one.name.starts_with("cluster-local-"))
    else {
        let message = "`--cluster-local-node` or `--cluster-local-nodemask` is missing";
        return Err(given.missing(message.into()));
    };
    if let Ok(node) = first.value.parse::<u32>()
        && first.name == "cluster-local-node"
    {
        first.name = "cluster-local-nodemask";
        first.value = format!("0x{:08x}", 1u32 << (node - 1)).into();
    }
    Ok(other_match("cluster", settings))
}

pub(super) static RATEEST: [Opt; 13] = [
    flag("rateest-delta"),
    value("rateest", Form::Word).also(&["rateest1"]),
    value("rateest-bps1", Form::By(bits)),
    value("rateest-pps1", Form::Number(0, U32)),
    flag("rateest-lt").not(),
    flag("rateest-gt").not(),
    flag("rateest-eq").not(),
    value("rateest-bps", Form::By(bits)),
    value("rateest-pps", Form::Number(0, U32)),
    value("rateest-bps2", Form::By(bits)),
    value("rateest-pps2", Form::Number(0, U32)),
    value("rateest2", Form::Word),
    value("rateest-abs", Form::Word),
];

fn bits(text: &str, _: Family) -> Parsed<String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let count: u64 = text[..end]
        .parse()
        .map_err(|_| format!("bad rate `{text}`"))?;
    let factor = match &text[end..] {
        "" | "bit" => 1,
        "kbit" => 1000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(format!("bad rate `{text}`")),
    };
    Ok(format!("{}bit", count.saturating_mul(factor)))
}

pub(super) fn rateest(given: &Arguments<'_, '_>) -> Made<Match> {
    let mut settings = given.settings(&RATEEST)?;
    let two = settings.iter().any(|one| one.name == "rateest2");
    if let Some(first) = settings.iter_mut().find(|one| one.name == "rateest")
        && two
    {
        first.name = "rateest1";
    }
    match settings
        .iter()
        .any(|one| matches!(one.name, "rateest-lt" | "rateest-gt" | "rateest-eq"))
    {
        true => Ok(other_match("rateest", settings)),
        false => Err(given.missing("a comparison must be given".into())),
    }
}

const fn segment(name: &'static str, max: u64) -> Opt {
    value(name, Form::Number(0, max)).not()
}

pub(super) static SRH: [Opt; 14] = [
    segment("srh-next-hdr", 255),
    segment("srh-hdr-len-eq", 255),
    segment("srh-hdr-len-gt", 255),
    segment("srh-hdr-len-lt", 255),
    segment("srh-segs-left-eq", 255),
    segment("srh-segs-left-gt", 255),
    segment("srh-segs-left-lt", 255),
    segment("srh-last-entry-eq", 255),
    segment("srh-last-entry-gt", 255),
    segment("srh-last-entry-lt", 255),
    segment("srh-tag", U16),
    value("srh-psid", Form::By(segment_id)).not(),
    value("srh-nsid", Form::By(segment_id)).not(),
    value("srh-lsid", Form::By(segment_id)).not(),
];

fn segment_id(text: &str, family: Family) -> Parsed<String> {
    let plain = plain_network(text, family)?;
    Ok(match plain.contains('/') {
        true => plain,
        false => format!("{plain}/{}", family.bits()),
    })
}

pub(super) static HMARK: [Opt; 10] = [
    value("hmark-src-prefix", Form::By(prefix_length)),
    value("hmark-dst-prefix", Form::By(prefix_length)),
    value("hmark-sport-mask", Form::Hex(4, U16)).excludes(&["hmark-spi-mask"]),
    value("hmark-dport-mask", Form::Hex(4, U16)).excludes(&["hmark-spi-mask"]),
    value("hmark-spi-mask", Form::Hex(8, U32)),
    value("hmark-proto-mask", Form::Hex(2, U16)),
    value("hmark-rnd", Form::Hex(8, U32)).required(),
    value("hmark-mod", Form::Number(1, U32)).required(),
    value("hmark-offset", Form::Number(1, U32)),
    value("hmark-tuple", Form::Word),
];

pub(super) fn hash_mark(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut settings = given.settings(&HMARK)?;
    let Some(tuple) = given.find("hmark-tuple") else {
        return Ok(other_target("HMARK", settings));
    };
    // The words of the tuple stand for whole masks.
    settings.retain(|one| one.name != "hmark-tuple");
    let whole = given.family.bits().to_string();
    for word in given.text(tuple).split(',') {
        let (name, value) = match word {
            "src" => ("hmark-src-prefix", whole.as_str()),
            "dst" => ("hmark-dst-prefix", whole.as_str()),
            "sport" => ("hmark-sport-mask", "0xffff"),
            "dport" => ("hmark-dport-mask", "0xffff"),
            "spi" => ("hmark-spi-mask", "0xffffffff"),
            "proto" => ("hmark-proto-mask", "0xff"),
            "ct" => ("hmark-tuple", "ct"),
            _ => {
                return Err(
                    given.problem(tuple, format!("`{word}` is no part of a packet to hash"))
                );
            }
        };
        settings.retain(|one| one.name != name);
        settings.push(setting(name, value));
    }
    let rank = |one: &Setting| HMARK.iter().position(|option| option.name == one.name);
    settings.sort_by_key(rank);
    Ok(other_target("HMARK", settings))
}

/// The settings of a module whose options are ways to say the same; they take the first one's name.
pub(super) fn renamed(
    module: &str,
    name: &'static str,
    given: &Arguments<'_, '_>,
) -> Made<Vec<Setting>> {
    match given.given.first() {
        Some(one) => Ok(vec![Setting {
            name,
            ..given.setting(one)?
        }]),
        None => Err(given.missing(format!("{module} needs an option"))),
    }
}

pub(super) fn dscp_class(text: &str, _: Family) -> Parsed<String> {
    let known = names::DSCP_CLASSES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    let known = known.map(|(_, number)| format!("0x{number:02x}"));
    known.ok_or_else(|| format!("invalid DSCP class `{text}`"))
}

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
            .map_err(|_| format!("`{text}` is no type of service")),
    }
}

pub(super) fn tos_match(text: &str, _: Family) -> Parsed<String> {
    tos(text).map(|(value, mask)| format!("0x{value:02x}/0x{mask:02x}"))
}

pub(super) fn tos_target(text: &str, family: Family) -> Parsed<String> {
    tos_match(text, family)
}

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

pub(super) fn mss_range(text: &str, _: Family) -> Parsed<String> {
    match argument::number_range(text, U16)? {
        (first, last) if first > last => Err(format!("invalid range `{text}`")),
        range => Ok(range_text(range)),
    }
}

pub(super) fn always_quoted(text: &str, _: Family) -> Parsed<String> {
    Ok(format!("\"{text}\""))
}

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

pub(super) fn connection_bytes(text: &str, _: Family) -> Parsed<String> {
    let (first, last) = argument::number_range(text, u64::MAX)?;
    match text.split_once(':') {
        Some((_, end)) if !end.is_empty() && first > last => Err(format!("`{text}` is reversed")),
        Some((_, end)) if !end.is_empty() && last > 0 => Ok(format!("{first}:{last}")),
        _ => Ok(first.to_string()),
    }
}

pub(super) fn connection_label(text: &str, _: Family) -> Parsed<String> {
    argument::number(text, 0, 127).map(|number| format!("\"{number}\""))
}

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

/// The words of a list that are known, in the order in which they are known, which is that of printing.
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

pub(super) fn dccp_types(text: &str, _: Family) -> Parsed<String> {
    const TYPES: [&str; 11] = [
        "REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC",
        "SYNCACK", "INVALID",
    ];
    known_words(text, &TYPES, true)
}

pub(super) fn connection_status(text: &str, _: Family) -> Parsed<String> {
    let words = known_words(
        text,
        &["NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"],
        true,
    )?;
    // NONE adds nothing to the others.
    Ok(words.strip_prefix("NONE,").unwrap_or(&words).to_owned())
}

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

pub(super) fn zone(text: &str, _: Family) -> Parsed<String> {
    match text.eq_ignore_ascii_case("mark") {
        true => Ok("mark".into()),
        false => argument::number(text, 0, U16).map(|number| number.to_string()),
    }
}

/// The chunks of `--chunk-types`: which of them must be there, and their list.
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

/// `src` (true) and `dst` for the dimensions of a set.
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

pub(super) fn queue_balance(text: &str, _: Family) -> Parsed<String> {
    match argument::number_range(text, U16)? {
        (first, last) if first >= last => Err(format!("{first} should be less than {last}")),
        (0, U16) => Err("all queues at once do not load".into()),
        range => Ok(range_text(range)),
    }
}

pub(super) fn class(text: &str, _: Family) -> Parsed<String> {
    let part = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16);
    let (major, minor) = text.split_once(':').unwrap_or((text, ""));
    match (part(major), part(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major:04x}:{minor:04x}")),
        _ => Err(format!("bad class value `{text}`")),
    }
}

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

/// The tests of `--u32` with all numbers in hexadecimal and no blanks.
pub(super) fn u32_tests(text: &str, _: Family) -> Parsed<String> {
    let mut out = String::from("\"");
    let mut rest = text.trim_start();
    let bad = || format!("`{text}` is no list of tests such as 0>>22&0x3c@8=0x1");
    let number = |rest: &mut &str, out: &mut String| -> Parsed<u64> {
        let (number, after) = argument::leading_number(rest).ok_or_else(bad)?;
        *rest = after.trim_start();
        out.push_str(&format!("{number:#x}"));
        Ok(number)
    };
    loop {
        number(&mut rest, &mut out)?;
        while !rest.starts_with('=') {
            let operator = ["&", "<<", ">>", "@"]
                .into_iter()
                .find(|one| rest.starts_with(one));
            let operator = operator.ok_or_else(bad)?;
            out.push_str(operator);
            rest = rest[operator.len()..].trim_start();
            number(&mut rest, &mut out)?;
        }
        loop {
            out.push_str(&rest[..1]);
            rest = rest[1..].trim_start();
            let first = number(&mut rest, &mut out)?;
            if let Some(after) = rest.strip_prefix(':') {
                let mark = out.len();
                rest = after.trim_start();
                out.push(':');
                if number(&mut rest, &mut out)? == first {
                    out.truncate(mark);
                }
            }
            if !rest.starts_with(',') {
                break;
            }
        }
        match rest.strip_prefix("&&") {
            Some(after) => {
                out.push_str("&&");
                rest = after.trim_start();
            }
            None if rest.is_empty() => break,
            None => return Err(bad()),
        }
    }
    out.push('"');
    Ok(out)
}

pub(super) static STRING: [Opt; 6] = [
    own("string").not().excludes(&["hex-string"]),
    own("hex-string").not().excludes(&["string"]),
    value("algo", Form::OneOf(&["bm", "kmp"])).required(),
    value("from", Form::Number(0, U16)),
    value("to", Form::Number(0, U16)),
    flag("icase"),
];

pub(super) fn string(given: &Arguments<'_, '_>) -> Made<Match> {
    let Some(one) = given.find("string").or_else(|| given.find("hex-string")) else {
        return Err(given.missing("you must specify `--string` or `--hex-string`".into()));
    };
    let text = given.text(one);
    let pattern = match one.option.name {
        "string" => Ok(text.as_bytes().to_vec()),
        _ => hex_pattern(text),
    };
    let pattern = pattern.and_then(|pattern| match pattern.len() {
        1..=128 => Ok(pattern),
        length => Err(format!(
            "the string has {length} bytes; 1 to 128 are possible"
        )),
    });
    let pattern = pattern.map_err(|message| given.problem(one, message))?;
    let printable =
        pattern.iter().all(|byte| matches!(byte, b' '..=b'~')) && pattern.last() != Some(&b'\\');
    let mut shown = String::from("\"");
    for &byte in &pattern {
        match (printable, byte) {
            (true, b'"' | b'\\') => shown.extend(['\\', char::from(byte)]),
            (true, _) => shown.push(char::from(byte)),
            (false, _) => shown.push_str(&format!("{byte:02x}")),
        }
    }
    shown.push('"');
    let (name, value) = match printable {
        true => ("string", shown),
        false => ("hex-string", format!("\"|{}|\"", shown.trim_matches('"'))),
    };
    let mut settings = vec![Setting {
        name,
        negated: one.negated,
        value: value.into(),
    }];
    settings.extend(given.settings(&STRING)?);
    let offset = |name: &str| {
        given
            .text_of(name)
            .and_then(|text| argument::number(text, 0, U16).ok())
    };
    if offset("from").unwrap_or(0) > offset("to").unwrap_or(U16) {
        return Err(given.missing("--from is greater than --to".into()));
    }
    settings.retain(|one| !matches!((one.name, &*one.value), ("from", "0") | ("to", "65535")));
    Ok(other_match("string", settings))
}

/// Text with bytes in hexadecimal between bars; a backslash keeps the next character as it is.
fn hex_pattern(text: &str) -> Parsed<Vec<u8>> {
    let mut pattern = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => pattern.push(bytes.next().ok_or("nothing after the last backslash")?),
            b'|' => loop {
                let digit = |byte: Option<u8>| {
                    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
                    digit.ok_or_else(|| format!("`{text}`: an invalid hexadecimal block"))
                };
                while bytes.next_if_eq(&b' ').is_some() {}
                match bytes.next() {
                    Some(b'|') => break,
                    high => pattern.push((digit(high)? * 16 + digit(bytes.next())?) as u8),
                }
            },
            byte => pattern.push(byte),
        }
    }
    Ok(pattern)
}

pub(super) static TIME: [Opt; 9] = [
    own("timestart"),
    own("timestop"),
    own("monthdays").not(),
    own("weekdays").not(),
    own("datestart"),
    own("datestop"),
    flag("kerneltz").also(&["localtz"]).excludes(&["utc"]),
    flag("utc").excludes(&["kerneltz"]),
    flag("contiguous"),
];

pub(super) fn time(given: &Arguments<'_, '_>) -> Made<Match> {
    const WHOLE_DAY: (u32, u32) = (0, 86_399);
    let start = given
        .read("timestart", day_time)?
        .map_or(WHOLE_DAY.0, |time| time.value);
    let stop = given
        .read("timestop", day_time)?
        .map_or(WHOLE_DAY.1, |time| time.value);
    let mut settings = Vec::new();
    if (start, stop) != WHOLE_DAY {
        let shown =
            |time: u32| format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60);
        settings.push(setting("timestart", shown(start)));
        settings.push(setting("timestop", shown(stop)));
    }
    if let Some(days) = given.read("monthdays", month_days)? {
        let set = (1..=31).filter(|day| (days.value >> day & 1 != 0) != days.negated);
        if set.clone().count() < 31 {
            settings.push(setting("monthdays", list(set)));
        }
    }
    if let Some(days) = given.read("weekdays", week_days)? {
        let set = (1..=7).filter(|day| (days.value >> day & 1 != 0) != days.negated);
        if set.clone().count() < 7 {
            settings.push(setting(
                "weekdays",
                list(set.map(|day: usize| WEEK[day - 1])),
            ));
        }
    }
    if let Some(date) = given.read("datestart", date)?
        && date.value != "1970-01-01T00:00:00"
    {
        settings.push(setting("datestart", date.value));
    }
    // The latest moment of the kernel's 31 bits is printed too (iptables compares it with another number).
    let stop_date = given.read("datestop", date)?;
    let last = || "2038-01-19T03:14:07".to_owned();
    settings.push(setting(
        "datestop",
        stop_date.map_or_else(last, |date| date.value),
    ));
    for name in ["kerneltz", "contiguous"] {
        settings.extend(given.has(name).then(|| setting(name, "")));
    }
    match given.has("contiguous") && start < stop {
        true => {
            Err(given.missing("--contiguous only makes sense when stop is before start".into()))
        }
        false => Ok(other_match("time", settings)),
    }
}

const WEEK: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn day_time(text: &str) -> Parsed<u32> {
    let mut parts = text.split(':').map(|part| decimal(part, 60));
    let bad = || format!("invalid time `{text}`: hh:mm[:ss]");
    let mut part = || parts.next().unwrap_or(None);
    let (hour, minute) = (part().ok_or_else(bad)?, part().ok_or_else(bad)?);
    let second = match text.matches(':').count() {
        1 => 0,
        2 => part().ok_or_else(bad)?,
        _ => return Err(bad()),
    };
    match hour < 24 && minute < 60 && second < 60 {
        true => Ok(hour * 3600 + minute * 60 + second),
        false => Err(bad()),
    }
}

fn decimal(text: &str, max: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())?
        .filter(|number| *number <= max)
}

/// `YYYY[-MM[-DD[Thh[:mm[:ss]]]]]` in full.
fn date(text: &str) -> Parsed<String> {
    let bad = || format!("invalid date `{text}`: YYYY[-MM[-DD[Thh[:mm[:ss]]]]]");
    let mut fields = [1970, 1, 1, 0, 0, 0];
    let limits = [(1970, 2038), (1, 12), (1, 31), (0, 23), (0, 59), (0, 59)];
    let mut rest = text;
    for (index, (field, (min, max))) in fields.iter_mut().zip(limits).enumerate() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number = decimal(&rest[..end], max).filter(|number| *number >= min);
        *field = number.ok_or_else(bad)?;
        rest = &rest[end..];
        let separator = ["-", "-", "T", ":", ":", ""][index];
        match rest.strip_prefix(separator) {
            _ if rest.is_empty() => break,
            Some(after) if !separator.is_empty() => rest = after,
            _ => return Err(bad()),
        }
    }
    let [year, month, day, hour, minute, second] = fields;
    let days = match month {
        2 if year % 4 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // The C library counts on into the next month.
    let (month, day) = match day > days {
        true => (month + 1, day - days),
        false => (month, day),
    };
    Ok(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    ))
}

fn month_days(text: &str) -> Parsed<u32> {
    let mut days = 0u32;
    for word in text.split(',') {
        days |= 1
            << argument::number(word, 0, 31)
                .map_err(|_| format!("`{word}` is no day of a month"))?;
    }
    Ok(days)
}

fn week_days(text: &str) -> Parsed<u32> {
    let mut days = 0u32;
    for word in text.split(',') {
        let named = WEEK
            .iter()
            .position(|day| word.get(..2) == day.get(..2))
            .map(|index| index as u64 + 1);
        let number = argument::number(word, 1, 7).ok();
        days |= 1
            << named
                .or(number)
                .ok_or_else(|| format!("`{word}` is no day of the week"))?;
    }
    Ok(days)
}

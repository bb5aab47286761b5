//! Matches and targets whose options need more than the forms of the table: defaults that are printed, options that depend
//! on each other, and other names for one thing.

use super::argument::{self, Parsed};
use super::matches::typed::plain_network;
use super::model::*;
use super::rates::prefix_length;
use super::spec::*;
use super::value::{Network, address_bits};
use crate::net::Family;

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

/// `--name` of `recent`, which becomes a file in /proc/net/xt_recent: no slash, at most 199 bytes.
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
    // Name, mask and side are always printed, also where they are the defaults. Of `--rsource` and `--rdest` the last one
    // counts.
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

/// A user or group id, or a range of them. Names are not looked up, since they belong to one machine; `root` is 0 on all.
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
    // The tool reads `--suppl-groups` only behind `--gid-owner`.
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

/// The name of a device: 1 to 15 bytes.
fn interface(text: &str, _: Family) -> Parsed<String> {
    match text.is_empty() || text.len() > 15 {
        true => Err(format!(
            "`{text}` is not a valid device name: use 1 to 15 bytes"
        )),
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

/// `--connlimit-mask`: a prefix length, cut to the bits of an address, or a netmask.
fn group_length(text: &str, family: Family) -> Parsed<String> {
    if let Ok(length) = argument::number(text, 0, U32) {
        return Ok(length.min(family.bits().into()).to_string());
    }
    let mask = argument::address(text, family)?;
    let network = Network::new(family, 0, address_bits(mask));
    let length = network.prefix_length();
    length
        .map(|length| length.to_string())
        .ok_or_else(|| format!("`{text}` is not a netmask"))
}

pub(super) fn connlimit(given: &Arguments<'_, '_>) -> Made<Match> {
    let limit = given
        .find("connlimit-upto")
        .or_else(|| given.find("connlimit-above"));
    let Some(limit) = limit else {
        return Err(given.missing("you must specify --connlimit-above or --connlimit-upto".into()));
    };
    // `! --connlimit-upto` is saved as `--connlimit-above`, and the reverse; mask and side are always printed.
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

/// `--spi`, printed in hexadecimal.
fn security_index(text: &str, _: Family) -> Parsed<String> {
    argument::number(text, 0, U32).map(|number| format!("{number:#x}"))
}

/// `--proto` of `policy`: the protocols of IPsec.
fn transformation(text: &str, _: Family) -> Parsed<String> {
    match argument::protocol(text)? {
        50 => Ok("esp".into()),
        51 => Ok("ah".into()),
        108 => Ok("ipcomp".into()),
        _ => Err(format!("protocol `{text}` is neither esp, ah nor ipcomp")),
    }
}

pub(super) fn policy(given: &Arguments<'_, '_>) -> Made<Match> {
    // `--next` separates the elements of the policy; within one, the order of printing is fixed.
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

/// `--probability`, rounded as the kernel keeps it (31 bits) and printed with 11 digits.
fn probability(text: &str, _: Family) -> Parsed<String> {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| (0.0..=1.0).contains(number));
    let number = number.ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))?;
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

/// The list of `--rt-0-addrs`.
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
    // `--cluster-local-node 3` is kept and saved as the mask with bit 2.
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

/// A rate in bits per second with a unit, printed in `bit`.
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
    // With a second estimator, the first one is printed as `--rateest1`.
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

/// An option of `srh` that compares a number.
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

/// A segment id: an address with a prefix length, which is always printed.
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
    // `--hmark-tuple` is short for whole masks, which are what is kept and saved.
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
                    given.problem(tuple, format!("`{word}` is not a part of a packet to hash"))
                );
            }
        };
        settings.retain(|one| one.name != name);
        settings.push(setting(name, value));
    }
    let rank = |one: &ModuleOption| HMARK.iter().position(|option| option.name == one.name);
    settings.sort_by_key(rank);
    Ok(other_target("HMARK", settings))
}

/// Returns the setting of a module whose options are several ways to write one value. It is printed by the name `name`.
pub(super) fn renamed(
    module: &str,
    name: &'static str,
    given: &Arguments<'_, '_>,
) -> Made<Vec<ModuleOption>> {
    match given.given.first() {
        Some(one) => Ok(vec![ModuleOption {
            name,
            ..given.setting(one)?
        }]),
        None => Err(given.missing(format!("{module} needs an option"))),
    }
}

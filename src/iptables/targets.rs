//! The targets of iptables 1.8.9: the table of their options (`iptables-extensions(8)`).

use super::argument::{self, Parsed};
use super::model::*;
use super::names;
use super::spec::*;
use super::special;
use super::value::{MarkMask, PortRange, address_bits, address_from, write_address};
use super::words;
use crate::net::Family;
use std::net::IpAddr;

/// The target of a name.
pub(super) fn find(name: &str, family: Family) -> Option<&'static Spec<Target>> {
    let here =
        |spec: &&Spec<Target>| spec.name == name && spec.family.is_none_or(|one| one == family);
    TARGETS.iter().find(here)
}

/// All of them.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static Spec<Target>> {
    TARGETS.iter()
}

const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;
const V4: Option<Family> = Some(Family::V4);
const V6: Option<Family> = Some(Family::V6);

const fn spec(
    name: &'static str,
    family: Option<Family>,
    options: &'static [Opt],
    make: fn(&Arguments<'_, '_>) -> Made<Target>,
) -> Spec<Target> {
    Spec {
        name,
        family,
        options,
        make,
        place: ANYWHERE,
    }
}

const fn at(mut spec: Spec<Target>, tables: &'static [TableName], hooks: u8) -> Spec<Target> {
    spec.place = Place { tables, hooks };
    spec
}

const MANGLE: &[TableName] = &[TableName::Mangle];
const NAT: &[TableName] = &[TableName::Nat];
const RAW: &[TableName] = &[TableName::Raw];

static LOG: [Opt; 7] = [
    own("log-prefix"),
    own("log-level"),
    flag("log-tcp-sequence"),
    flag("log-tcp-options"),
    flag("log-ip-options"),
    flag("log-uid"),
    flag("log-macdecode"),
];
static CT: [Opt; 8] = [
    flag("notrack"),
    value("helper", Form::Word),
    value("timeout", Form::Word),
    value("ctevents", Form::By(words::connection_events)),
    value("expevents", Form::OneOf(&["new"])),
    value("zone", Form::By(words::zone)),
    value("zone-orig", Form::By(words::zone)),
    value("zone-reply", Form::By(words::zone)),
];

/// All targets, the frequent ones first.
static TARGETS: &[Spec<Target>] = &[
    at(
        spec("REJECT", None, &[own("reject-with")], reject),
        &[TableName::Filter],
        hook::ALL,
    ),
    spec("LOG", None, &LOG, log),
    at(
        spec(
            "MASQUERADE",
            None,
            &[own("to-ports"), flag("random"), flag("random-fully")],
            |given| nat(NatKind::Masquerade, "to-ports", given),
        ),
        NAT,
        hook::POSTROUTING,
    ),
    at(
        spec(
            "DNAT",
            None,
            &[
                own("to-destination").required(),
                flag("random"),
                flag("persistent"),
            ],
            |given| nat(NatKind::Dnat, "to-destination", given),
        ),
        NAT,
        hook::PREROUTING | hook::OUTPUT,
    ),
    at(
        spec(
            "SNAT",
            None,
            &[
                own("to-source").required(),
                flag("random"),
                flag("random-fully"),
                flag("persistent"),
            ],
            |given| nat(NatKind::Snat, "to-source", given),
        ),
        NAT,
        hook::POSTROUTING | hook::INPUT,
    ),
    at(
        spec(
            "REDIRECT",
            None,
            &[own("to-ports"), flag("random")],
            |given| nat(NatKind::Redirect, "to-ports", given),
        ),
        NAT,
        hook::PREROUTING | hook::OUTPUT,
    ),
    at(
        spec("NETMAP", None, &[own("to").required()], |given| {
            nat(NatKind::Netmap, "to", given)
        }),
        NAT,
        hook::ALL,
    ),
    spec(
        "MARK",
        None,
        &[
            own("set-xmark").excludes(&["set-mark", "and-mark", "or-mark", "xor-mark"]),
            own("set-mark").excludes(&["set-xmark", "and-mark", "or-mark", "xor-mark"]),
            own("and-mark").excludes(&["set-xmark", "set-mark", "or-mark", "xor-mark"]),
            own("or-mark").excludes(&["set-xmark", "set-mark", "and-mark", "xor-mark"]),
            own("xor-mark").excludes(&["set-xmark", "set-mark", "and-mark", "or-mark"]),
        ],
        |given| match changed_mark(given)? {
            Some(mark) => Ok(Target::Mark(mark)),
            None => Err(given.missing("one of the mark options is required".into())),
        },
    ),
    spec(
        "CONNMARK",
        None,
        &[
            own("set-xmark").excludes(&[
                "set-mark",
                "and-mark",
                "or-mark",
                "xor-mark",
                "save-mark",
                "restore-mark",
            ]),
            own("set-mark").excludes(&[
                "set-xmark",
                "and-mark",
                "or-mark",
                "xor-mark",
                "save-mark",
                "restore-mark",
            ]),
            own("and-mark").excludes(&[
                "set-xmark",
                "set-mark",
                "or-mark",
                "xor-mark",
                "save-mark",
                "restore-mark",
            ]),
            own("or-mark").excludes(&[
                "set-xmark",
                "set-mark",
                "and-mark",
                "xor-mark",
                "save-mark",
                "restore-mark",
            ]),
            own("xor-mark").excludes(&[
                "set-xmark",
                "set-mark",
                "and-mark",
                "or-mark",
                "save-mark",
                "restore-mark",
            ]),
            flag("save-mark").excludes(&["restore-mark"]),
            flag("restore-mark").excludes(&["save-mark"]),
            own("nfmask").excludes(&["mask"]),
            own("ctmask").excludes(&["mask"]),
            own("mask").excludes(&["nfmask", "ctmask"]),
        ],
        connection_mark,
    ),
    at(
        spec("CT", None, &CT, |given| {
            let mut made = plain("CT", given)?;
            if let Target::Other(module) = &mut made {
                // Zone 0 is the one that a packet is in anyway.
                module
                    .settings
                    .retain(|one| !one.name.starts_with("zone") || &*one.value != "0");
            }
            Ok(made)
        }),
        RAW,
        hook::ALL,
    ),
    at(
        spec("NOTRACK", None, &[], |given| plain("NOTRACK", given)),
        RAW,
        hook::ALL,
    ),
    spec(
        "NFLOG",
        None,
        &[
            value("nflog-prefix", Form::By(nflog_prefix)),
            value("nflog-group", Form::Number(0, U16)),
            value("nflog-range", Form::Number(0, U32)),
            value("nflog-size", Form::Number(0, U32)),
            value("nflog-threshold", Form::Number(0, U16)),
        ],
        nflog,
    ),
    spec(
        "NFQUEUE",
        None,
        &[
            value("queue-num", Form::Number(0, U16)).excludes(&["queue-balance"]),
            value("queue-balance", Form::By(words::queue_balance)).excludes(&["queue-num"]),
            flag("queue-bypass"),
            flag("queue-cpu-fanout").needs("queue-balance"),
        ],
        queue,
    ),
    at(
        spec(
            "TCPMSS",
            None,
            &[
                value("set-mss", Form::Number(0, U16)),
                flag("clamp-mss-to-pmtu"),
            ],
            tcp_mss,
        ),
        &[],
        hook::ALL,
    ),
    at(
        spec(
            "DSCP",
            None,
            &[
                value("set-dscp", Form::Hex(2, 63)).excludes(&["set-dscp-class"]),
                value("set-dscp-class", Form::By(words::dscp_class)).excludes(&["set-dscp"]),
            ],
            |given| {
                special::renamed("DSCP", "set-dscp", given).map(|made| other_target("DSCP", made))
            },
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "TOS",
            None,
            &[
                value("set-tos", Form::By(words::tos_target))
                    .excludes(&["and-tos", "or-tos", "xor-tos"]),
                value("and-tos", Form::By(words::tos_and))
                    .excludes(&["set-tos", "or-tos", "xor-tos"]),
                value("or-tos", Form::By(words::tos_or))
                    .excludes(&["set-tos", "and-tos", "xor-tos"]),
                value("xor-tos", Form::By(words::tos_xor))
                    .excludes(&["set-tos", "and-tos", "or-tos"]),
            ],
            |given| special::renamed("TOS", "set-tos", given).map(|made| other_target("TOS", made)),
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "TTL",
            V4,
            &[
                value("ttl-set", Form::Number(0, 255)).excludes(&["ttl-dec", "ttl-inc"]),
                value("ttl-dec", Form::Number(1, 255)).excludes(&["ttl-set", "ttl-inc"]),
                value("ttl-inc", Form::Number(1, 255)).excludes(&["ttl-set", "ttl-dec"]),
            ],
            |given| some_of("TTL", given),
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "HL",
            V6,
            &[
                value("hl-set", Form::Number(0, 255)).excludes(&["hl-dec", "hl-inc"]),
                value("hl-dec", Form::Number(1, 255)).excludes(&["hl-set", "hl-inc"]),
                value("hl-inc", Form::Number(1, 255)).excludes(&["hl-set", "hl-dec"]),
            ],
            |given| some_of("HL", given),
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "CLASSIFY",
            None,
            &[value("set-class", Form::By(words::class)).required()],
            |given| plain("CLASSIFY", given),
        ),
        &[],
        hook::FORWARD | hook::OUTPUT | hook::POSTROUTING,
    ),
    at(
        spec(
            "TPROXY",
            None,
            &[own("on-port").required(), own("on-ip"), own("tproxy-mark")],
            transparent_proxy,
        ),
        MANGLE,
        hook::PREROUTING,
    ),
    spec(
        "SET",
        None,
        &[
            own2("add-set").excludes(&["map-set"]),
            own2("del-set").excludes(&["map-set"]),
            own2("map-set").excludes(&["add-set", "del-set"]),
            flag("exist"),
            value("timeout", Form::Number(0, U32)),
            flag("map-mark"),
            flag("map-prio"),
            flag("map-queue"),
        ],
        change_set,
    ),
    spec("TRACE", None, &[], |given| plain("TRACE", given)),
    spec(
        "AUDIT",
        None,
        &[value("type", Form::By(audit_type)).required()],
        |given| plain("AUDIT", given),
    ),
    at(
        spec(
            "CHECKSUM",
            None,
            &[flag("checksum-fill").required()],
            |given| plain("CHECKSUM", given),
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "SYNPROXY",
            None,
            &[
                flag("sack-perm"),
                flag("timestamp"),
                value("wscale", Form::Number(0, 255)),
                value("mss", Form::Number(0, U16)),
                flag("ecn"),
            ],
            |given| plain("SYNPROXY", given),
        ),
        &[],
        hook::INPUT | hook::FORWARD,
    ),
    spec(
        "TEE",
        None,
        &[
            value("gateway", Form::By(one_address)).required(),
            value("oif", Form::Word),
        ],
        |given| plain("TEE", given),
    ),
    spec(
        "IDLETIMER",
        None,
        &[
            value("timeout", Form::Number(1, U32)).required(),
            value("label", Form::Word).required(),
            flag("alarm"),
            flag("send_nl_msg"),
        ],
        |given| plain("IDLETIMER", given),
    ),
    at(
        spec("ECN", V4, &[flag("ecn-tcp-remove").required()], |given| {
            plain("ECN", given)
        }),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "TCPOPTSTRIP",
            None,
            &[value("strip-options", Form::By(words::tcp_options))],
            |given| plain("TCPOPTSTRIP", given),
        ),
        MANGLE,
        hook::ALL,
    ),
    at(
        spec(
            "SECMARK",
            None,
            &[value("selctx", Form::Word).required()],
            |given| plain("SECMARK", given),
        ),
        &[TableName::Mangle, TableName::Security],
        hook::ALL,
    ),
    at(
        spec(
            "CONNSECMARK",
            None,
            &[
                flag("save").excludes(&["restore"]),
                flag("restore").excludes(&["save"]),
            ],
            |given| some_of("CONNSECMARK", given),
        ),
        &[TableName::Mangle, TableName::Security],
        hook::ALL,
    ),
    spec(
        "RATEEST",
        None,
        &[
            value("rateest-name", Form::Word).required(),
            value("rateest-interval", Form::Word).required(),
            value("rateest-ewmalog", Form::Word).required(),
        ],
        |given| plain("RATEEST", given),
    ),
    spec("HMARK", None, &special::HMARK, special::hash_mark),
    at(
        spec(
            "SNPT",
            V6,
            &[
                value("src-pfx", Form::By(translated_prefix)).required(),
                value("dst-pfx", Form::By(translated_prefix)).required(),
            ],
            |given| plain("SNPT", given),
        ),
        MANGLE,
        hook::INPUT | hook::POSTROUTING,
    ),
    at(
        spec(
            "DNPT",
            V6,
            &[
                value("src-pfx", Form::By(translated_prefix)).required(),
                value("dst-pfx", Form::By(translated_prefix)).required(),
            ],
            |given| plain("DNPT", given),
        ),
        MANGLE,
        hook::PREROUTING | hook::OUTPUT,
    ),
];

/// A target whose options all print by their forms.
fn plain(name: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    let spec = find(name, given.family);
    let options = spec.map_or(&[] as &[Opt], |spec| spec.options);
    Ok(other_target(name, given.settings(options)?))
}

/// The same where at least one option must be there.
fn some_of(name: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    match given.given.is_empty() {
        true => Err(given.missing("an action must be given".into())),
        false => plain(name, given),
    }
}

fn reject(given: &Arguments<'_, '_>) -> Made<Target> {
    let known = names::reject_names(given.family);
    let read = |text: &str| {
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

fn log(given: &Arguments<'_, '_>) -> Made<Target> {
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
    Ok(Target::Log(Box::new(Log {
        prefix: prefix.map(|prefix| prefix.value).unwrap_or_default(),
        level: level.map_or(Log::DEFAULT_LEVEL, |level| level.value),
        flags: names::LOG_FLAGS.map(|name| given.has(name)),
    })))
}

fn audit_type(text: &str, _: Family) -> Parsed<String> {
    match text.to_ascii_lowercase() {
        word if matches!(word.as_str(), "accept" | "drop" | "reject") => Ok(word),
        _ => Err(format!("bad action type value `{text}`")),
    }
}

/// The prefix of a log line, cut to so many bytes.
fn prefix(text: &str, most: usize) -> Parsed<&str> {
    match text {
        "" => Err("the prefix must have at least one character".into()),
        _ if text.contains('\n') => Err("a newline is not allowed in a prefix".into()),
        _ => Ok(cut(text, most)),
    }
}

fn nflog_prefix(text: &str, _: Family) -> Parsed<String> {
    quoted(prefix(text, 127)?)
}

fn nflog(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut made = plain("NFLOG", given)?;
    if let Target::Other(module) = &mut made {
        // Group 0 and threshold 1 are what it is without them; the range never meant anything.
        module.settings.retain(|one| match (one.name, &*one.value) {
            ("nflog-group" | "nflog-threshold", "0") => false,
            (name, _) => name != "nflog-range",
        });
    }
    Ok(made)
}

fn queue(given: &Arguments<'_, '_>) -> Made<Target> {
    let mut made = plain("NFQUEUE", given)?;
    if let Target::Other(module) = &mut made
        && !given.has("queue-num")
        && !given.has("queue-balance")
    {
        module.settings.insert(0, setting("queue-num", "0"));
    }
    Ok(made)
}

fn tcp_mss(given: &Arguments<'_, '_>) -> Made<Target> {
    // Of both, the tool keeps the one that comes last.
    match given.given.last() {
        Some(last) => Ok(other_target("TCPMSS", vec![given.setting(last)?])),
        None => Err(given.missing("at least one option is required".into())),
    }
}

/// What the five options that change a mark come to.
fn changed_mark(given: &Arguments<'_, '_>) -> Made<Option<MarkMask>> {
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

fn connection_mark(given: &Arguments<'_, '_>) -> Made<Target> {
    if let Some(mark) = changed_mark(given)? {
        let value = format!("{:#x}/{:#x}", mark.value, mark.mask);
        return Ok(other_target("CONNMARK", vec![setting("set-xmark", value)]));
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
    let both = mask("mask")?;
    let netfilter = mask("nfmask")?.or(both).unwrap_or(U32);
    let connection = mask("ctmask")?.or(both).unwrap_or(U32);
    Ok(other_target(
        "CONNMARK",
        vec![
            setting(mode, ""),
            setting("nfmask", format!("{netfilter:#x}")),
            setting("ctmask", format!("{connection:#x}")),
        ],
    ))
}

fn transparent_proxy(given: &Arguments<'_, '_>) -> Made<Target> {
    let port = given.need("on-port", argument::loose_port)?.value;
    let address = given.read("on-ip", |text| argument::address(text, given.family))?;
    let address = address.map_or(super::value::address_from(given.family, 0), |one| one.value);
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

fn change_set(given: &Arguments<'_, '_>) -> Made<Target> {
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

fn nat(kind: NatKind, option: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    let mut nat = Nat {
        random: given.has("random"),
        random_fully: given.has("random-fully"),
        persistent: given.has("persistent"),
        ..Nat::new(kind)
    };
    if let Some(one) = given.find(option) {
        // Even `! -p tcp` will do.
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

/// `[address[-address]][:port[-port[/port]]]`, an IPv6 address with ports in brackets.
fn nat_range(text: &str, with_ports: bool, family: Family, nat: &mut Nat) -> Parsed<()> {
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

/// `port[-port[/port]]`
fn nat_ports(text: &str, with_ports: bool, nat: &mut Nat) -> Parsed<()> {
    if !with_ports {
        return Err("ports need `-p tcp`, `-p udp`, `-p sctp` or `-p dccp` before it".into());
    }
    let (range, base) = match text.split_once('/') {
        Some((range, base)) => (range, Some(base)),
        None => (text, None),
    };
    let bad = |_| format!("port `{text}` not valid");
    nat.ports = Some(match argument::port(range, None) {
        Ok(only) => PortRange {
            first: only,
            last: only,
        },
        Err(_) => {
            let (first, last) = range.split_once('-').ok_or_else(|| bad(String::new()))?;
            let number = |text: &str| argument::number(text, 0, U16).map(|number| number as u16);
            let first = number(first).map_err(bad)?;
            PortRange {
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

/// The first and the last address of a network.
fn network(text: &str, family: Family) -> Parsed<(IpAddr, IpAddr)> {
    let network = argument::network(text, family)?;
    if network.prefix_length().is_none() {
        return Err(format!("`{text}` has a mask with holes"));
    }
    let [first, mask] = [network.address(), network.mask()].map(address_bits);
    let last = first | (family.last_address() & !mask);
    Ok((network.address(), address_from(family, last)))
}

fn one_address(text: &str, family: Family) -> Parsed<String> {
    let mut out = String::new();
    let _ = write_address(&mut out, argument::address(text, family)?);
    Ok(out)
}

/// A prefix of at most 64 bits without host bits.
fn translated_prefix(text: &str, family: Family) -> Parsed<String> {
    let (address, _) = argument::address_and_mask(text, family)?;
    let network = argument::network(text, family)?;
    match network.prefix_length() {
        Some(length) if length <= 64 && address_bits(network.address()) == address => {
            Ok(network.to_string())
        }
        _ => Err(format!(
            "`{text}` is no prefix of at most 64 bits without host bits"
        )),
    }
}

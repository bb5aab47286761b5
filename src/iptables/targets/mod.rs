//! The targets of iptables 1.8.9: the table of their options (`iptables-extensions(8)`, and `xt_*.c` of the kernel for
//! tables and hooks).

use super::model::*;
use super::spec::*;
use super::special;
use super::words;
use crate::net::Family;

mod typed;

use typed::*;

/// Returns the target of a name after `-j`.
pub(super) fn find(name: &str, family: Family) -> Option<&'static ModuleSpec<Target>> {
    let here = |spec: &&ModuleSpec<Target>| {
        spec.name == name && spec.family.is_none_or(|one| one == family)
    };
    TARGETS.iter().find(here)
}

/// Returns all targets.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static ModuleSpec<Target>> {
    TARGETS.iter()
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

/// All targets, the frequent ones first: `find` searches from the front.
static TARGETS: &[ModuleSpec<Target>] = &[
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
            own("left-shift-mark"),
            own("right-shift-mark"),
        ],
        connection_mark,
    ),
    at(
        spec("CT", None, &CT, |given| {
            let mut made = plain("CT", given)?;
            if let Target::Other(module) = &mut made {
                // Zone 0 is the default, and is not printed.
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

/// Makes a target whose options all print by their forms.
fn plain(name: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    let spec = find(name, given.family);
    let options = spec.map_or(&[] as &[Opt], |spec| spec.options);
    Ok(other_target(name, given.settings(options)?))
}

/// Makes such a target, with at least one option.
fn some_of(name: &'static str, given: &Arguments<'_, '_>) -> Made<Target> {
    match given.given.is_empty() {
        true => Err(given.missing("an action must be given".into())),
        false => plain(name, given),
    }
}

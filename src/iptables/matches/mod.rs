//! The matches of iptables 1.8.9: the table of their options (`iptables-extensions(8)`, and `xt_*.c` of the kernel for
//! tables and hooks).

use super::argument::{self};
use super::model::*;
use super::rates;
use super::spec::*;
use super::special;
use super::{pattern, time, words};
use crate::net::Family;

pub(super) mod typed;

use typed::*;

/// Returns the match of a name after `-m`.
pub(super) fn find(name: &str, family: Family) -> Option<&'static ModuleSpec<Match>> {
    let name = match name {
        "icmpv6" | "ipv6-icmp" => "icmp6",
        "ipv6-mh" => "mh",
        name => name,
    };
    let here = |spec: &&ModuleSpec<Match>| {
        spec.name == name && spec.family.is_none_or(|one| one == family)
    };
    MATCHES.iter().find(here)
}

/// Returns all matches.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static ModuleSpec<Match>> {
    MATCHES.iter()
}

const SPORT: Opt = own("sport").also(&["source-port"]).not();
const DPORT: Opt = own("dport").also(&["destination-port"]).not();

static TCP: [Opt; 5] = [
    SPORT,
    DPORT,
    own("tcp-option").not(),
    own2("tcp-flags").not().excludes(&["syn"]),
    flag("syn").not().excludes(&["tcp-flags"]),
];
static UDP: [Opt; 2] = [SPORT, DPORT];
static SCTP: [Opt; 3] = [SPORT, DPORT, own2("chunk-types").not()];
static DCCP: [Opt; 4] = [
    SPORT,
    DPORT,
    value("dccp-types", Form::By(words::dccp_types)).not(),
    value("dccp-option", Form::Number(1, U8)).not(),
];
static CONNTRACK: [Opt; 13] = [
    own("ctstate").not(),
    value("ctproto", Form::By(protocol_number)).not(),
    value("ctorigsrc", Form::By(plain_network)).not(),
    value("ctorigdst", Form::By(plain_network)).not(),
    value("ctreplsrc", Form::By(plain_network)).not(),
    value("ctrepldst", Form::By(plain_network)).not(),
    value("ctorigsrcport", Form::By(loose_ports)).not(),
    value("ctorigdstport", Form::By(loose_ports)).not(),
    value("ctreplsrcport", Form::By(loose_ports)).not(),
    value("ctrepldstport", Form::By(loose_ports)).not(),
    value("ctstatus", Form::By(words::connection_status)).not(),
    value("ctexpire", Form::Numbers(U32)).not(),
    value("ctdir", Form::By(connection_direction)),
];
static SET: [Opt; 10] = [
    own2("match-set").also(&["set"]).not(),
    flag("return-nomatch"),
    flag("update-counters").not(),
    flag("update-subcounters").not(),
    value("packets-eq", Form::Number(0, u64::MAX)).not(),
    value("packets-lt", Form::Number(0, u64::MAX)),
    value("packets-gt", Form::Number(0, u64::MAX)),
    value("bytes-eq", Form::Number(0, u64::MAX)).not(),
    value("bytes-lt", Form::Number(0, u64::MAX)),
    value("bytes-gt", Form::Number(0, u64::MAX)),
];

/// All matches, the frequent ones first: `find` searches from the front.
static MATCHES: &[ModuleSpec<Match>] = &[
    spec("tcp", None, &TCP, tcp),
    spec("udp", None, &UDP, |given| {
        Ok(Match::Udp(loose_ports_of(given)?))
    }),
    spec("conntrack", None, &CONNTRACK, conntrack),
    spec("comment", None, &[own("comment").required()], |given| {
        let text = given.need("comment", |text| Ok(cut(text, 255).into()))?;
        Ok(Match::Comment(text.value))
    }),
    spec("state", None, &[own("state").not().required()], |given| {
        Ok(Match::State(
            given.need("state", |text| argument::states(text, false))?,
        ))
    }),
    spec(
        "multiport",
        None,
        &[
            own("sports")
                .also(&["source-ports"])
                .not()
                .excludes(&["dports", "ports"]),
            own("dports")
                .also(&["destination-ports"])
                .not()
                .excludes(&["sports", "ports"]),
            own("ports").not().excludes(&["sports", "dports"]),
        ],
        multiport,
    ),
    at(
        spec(
            "mac",
            None,
            &[own("mac-source").not().required()],
            |given| Ok(Match::Mac(given.need("mac-source", argument::mac)?)),
        ),
        &[],
        hook::PREROUTING | hook::INPUT | hook::FORWARD,
    ),
    spec("icmp", V4, &[own("icmp-type").not().required()], |given| {
        Ok(Match::Icmp(given.need("icmp-type", |text| {
            argument::icmp_type(text, Family::V4)
        })?))
    }),
    spec(
        "icmp6",
        V6,
        &[own("icmpv6-type").not().required()],
        |given| {
            Ok(Match::Icmp(given.need("icmpv6-type", |text| {
                argument::icmp_type(text, Family::V6)
            })?))
        },
    ),
    spec("mark", None, &[own("mark").not().required()], |given| {
        Ok(Match::Mark(given.need("mark", argument::mark)?))
    }),
    spec("connmark", None, &[own("mark").not().required()], |given| {
        Ok(Match::ConnectionMark(given.need("mark", argument::mark)?))
    }),
    spec(
        "addrtype",
        None,
        &[
            own("src-type").not(),
            own("dst-type").not(),
            flag("limit-iface-in").excludes(&["limit-iface-out"]),
            flag("limit-iface-out").excludes(&["limit-iface-in"]),
        ],
        address_type,
    ),
    spec(
        "limit",
        None,
        &[
            value("limit", Form::By(rates::limit)),
            value("limit-burst", Form::Number(0, 10000)),
        ],
        rates::make_limit,
    ),
    spec("hashlimit", None, &rates::HASHLIMIT, rates::make_hashlimit),
    spec("recent", None, &special::RECENT, special::recent),
    spec(
        "iprange",
        None,
        &[own("src-range").not(), own("dst-range").not()],
        address_range,
    ),
    spec("set", None, &SET, set),
    spec("sctp", None, &SCTP, sctp),
    spec("dccp", None, &DCCP, |given| {
        Ok(Match::Dccp(
            loose_ports_kept(given)?,
            given.settings(&DCCP)?,
        ))
    }),
    spec(
        "ttl",
        V4,
        &[
            own("ttl-eq")
                .also(&["ttl"])
                .not()
                .excludes(&["ttl-lt", "ttl-gt"]),
            own("ttl-lt").excludes(&["ttl-eq", "ttl-gt"]),
            own("ttl-gt").excludes(&["ttl-eq", "ttl-lt"]),
        ],
        hop_limit,
    ),
    spec(
        "hl",
        V6,
        &[
            own("hl-eq").not().excludes(&["hl-lt", "hl-gt"]),
            own("hl-lt").excludes(&["hl-eq", "hl-gt"]),
            own("hl-gt").excludes(&["hl-eq", "hl-lt"]),
        ],
        hop_limit,
    ),
    spec(
        "pkttype",
        None,
        &[own("pkt-type").not().required()],
        packet_type_match,
    ),
    at(
        spec("owner", None, &special::OWNER, special::owner),
        &[],
        hook::OUTPUT | hook::POSTROUTING,
    ),
    spec("physdev", None, &special::PHYSDEV, special::physdev),
    spec("connlimit", None, &special::CONNLIMIT, special::connlimit),
    spec("policy", None, &special::POLICY, special::policy),
    spec(
        "length",
        None,
        &[value("length", Form::Numbers(U16)).not().required()],
        |given| plain("length", given),
    ),
    spec("time", None, &time::TIME, time::time),
    spec("string", None, &pattern::STRING, pattern::string),
    spec("statistic", None, &special::STATISTIC, special::statistic),
    at(
        spec(
            "rpfilter",
            None,
            &[
                flag("loose"),
                flag("validmark"),
                flag("accept-local"),
                flag("invert"),
            ],
            |given| plain("rpfilter", given),
        ),
        &[TableName::Raw, TableName::Mangle],
        hook::PREROUTING,
    ),
    at(
        spec(
            "socket",
            None,
            &[
                flag("transparent"),
                flag("nowildcard"),
                flag("restore-skmark"),
            ],
            |given| plain("socket", given),
        ),
        &[],
        hook::PREROUTING | hook::INPUT,
    ),
    spec(
        "helper",
        None,
        &[value("helper", Form::Text(29)).not().required()],
        |given| plain("helper", given),
    ),
    spec(
        "dscp",
        None,
        &[
            value("dscp", Form::Hex(2, 63))
                .not()
                .excludes(&["dscp-class"]),
            value("dscp-class", Form::By(words::dscp_class))
                .not()
                .excludes(&["dscp"]),
        ],
        |given| {
            special::renamed("dscp", "dscp", given).map(|settings| other_match("dscp", settings))
        },
    ),
    spec(
        "tos",
        None,
        &[value("tos", Form::By(words::tos_match)).not().required()],
        |given| plain("tos", given),
    ),
    spec(
        "ecn",
        None,
        &[
            flag("ecn-tcp-ece").not(),
            flag("ecn-tcp-cwr").not(),
            value("ecn-ip-ect", Form::Number(0, 3)).not(),
        ],
        |given| some_of("ecn", given),
    ),
    spec(
        "tcpmss",
        None,
        &[value("mss", Form::By(words::mss_range)).not().required()],
        |given| plain("tcpmss", given),
    ),
    spec(
        "frag",
        V6,
        &[
            value("fragid", Form::Numbers(U32)).not(),
            value("fraglen", Form::Number(0, U32)).not(),
            flag("fragres"),
            flag("fragfirst"),
            flag("fragmore").excludes(&["fraglast"]),
            flag("fraglast").excludes(&["fragmore"]),
        ],
        |given| without_full_range("frag", "fragid", U32, given),
    ),
    spec("rt", V6, &special::RT, special::rt),
    spec(
        "u32",
        None,
        &[value("u32", Form::By(pattern::u32_tests)).not().required()],
        |given| plain("u32", given),
    ),
    spec(
        "bpf",
        None,
        &[
            value("bytecode", Form::By(pattern::bytecode)).excludes(&["object-pinned"]),
            value("object-pinned", Form::Word).excludes(&["bytecode"]),
        ],
        |given| some_of("bpf", given),
    ),
    at(
        spec(
            "cgroup",
            None,
            &[
                value("path", Form::By(words::always_quoted))
                    .not()
                    .excludes(&["cgroup"]),
                value("cgroup", Form::Number(0, U32))
                    .not()
                    .excludes(&["path"]),
            ],
            |given| some_of("cgroup", given),
        ),
        &[],
        hook::INPUT | hook::OUTPUT | hook::POSTROUTING,
    ),
    spec(
        "quota",
        None,
        &[value("quota", Form::Number(0, u64::MAX)).not().required()],
        |given| plain("quota", given),
    ),
    spec(
        "cpu",
        None,
        &[value("cpu", Form::Number(0, U32)).not().required()],
        |given| plain("cpu", given),
    ),
    spec(
        "ah",
        V4,
        &[value("ahspi", Form::Numbers(U32)).not()],
        |given| without_full_range("ah", "ahspi", U32, given),
    ),
    spec(
        "ah",
        V6,
        &[
            value("ahspi", Form::Numbers(U32)).not(),
            value("ahlen", Form::Number(0, U32)).not(),
            flag("ahres"),
        ],
        |given| without_full_range("ah", "ahspi", U32, given),
    ),
    spec(
        "esp",
        None,
        &[value("espspi", Form::Numbers(U32)).not()],
        |given| without_full_range("esp", "espspi", U32, given),
    ),
    spec(
        "ipcomp",
        None,
        &[value("ipcompspi", Form::Numbers(U32)).not()],
        |given| without_full_range("ipcomp", "ipcompspi", U32, given),
    ),
    spec(
        "mh",
        V6,
        &[value("mh-type", Form::By(words::mobility_types)).not()],
        |given| without_full_range("mh", "mh-type", U8, given),
    ),
    spec(
        "connbytes",
        None,
        &[
            value("connbytes", Form::By(words::connection_bytes))
                .not()
                .required(),
            value(
                "connbytes-mode",
                Form::OneOf(&["packets", "bytes", "avgpkt"]),
            )
            .required(),
            value("connbytes-dir", Form::OneOf(&["original", "reply", "both"])).required(),
        ],
        |given| plain("connbytes", given),
    ),
    spec(
        "connlabel",
        None,
        &[
            value("label", Form::By(words::connection_label))
                .not()
                .required(),
            flag("set"),
        ],
        |given| plain("connlabel", given),
    ),
    at(
        spec(
            "realm",
            V4,
            &[value("realm", Form::By(words::realm)).not().required()],
            |given| plain("realm", given),
        ),
        &[],
        hook::ALL & !hook::PREROUTING,
    ),
    spec(
        "devgroup",
        None,
        &[
            value("src-group", Form::By(words::device_group)).not(),
            value("dst-group", Form::By(words::device_group)).not(),
        ],
        |given| some_of("devgroup", given),
    ),
    spec("cluster", None, &special::CLUSTER, special::cluster),
    spec(
        "osf",
        V4,
        &[
            value("genre", Form::Text(31)).not().required(),
            value("ttl", Form::Number(0, 2)),
            value("log", Form::Number(0, 2)),
        ],
        |given| plain("osf", given),
    ),
    spec(
        "nfacct",
        None,
        &[value("nfacct-name", Form::Word).required()],
        |given| plain("nfacct", given),
    ),
    spec("rateest", None, &special::RATEEST, special::rateest),
    spec(
        "hbh",
        V6,
        &[
            value("hbh-len", Form::Number(0, U32)).not(),
            value("hbh-opts", Form::By(words::header_options)),
        ],
        |given| plain("hbh", given),
    ),
    spec(
        "dst",
        V6,
        &[
            value("dst-len", Form::Number(0, U32)).not(),
            value("dst-opts", Form::By(words::header_options)),
        ],
        |given| plain("dst", given),
    ),
    spec(
        "ipv6header",
        V6,
        &[
            value("header", Form::By(words::ipv6_headers))
                .not()
                .required(),
            flag("soft"),
        ],
        |given| plain("ipv6header", given),
    ),
    at(
        spec("eui64", V6, &[], |given| plain("eui64", given)),
        &[],
        hook::PREROUTING | hook::INPUT | hook::FORWARD,
    ),
    spec("srh", V6, &special::SRH, |given| plain("srh", given)),
];

/// Makes a match whose options all print by their forms.
fn plain(name: &'static str, given: &Arguments<'_, '_>) -> Made<Match> {
    let spec = find(name, given.family);
    let options = spec.map_or(&[] as &[Opt], |spec| spec.options);
    Ok(other_match(name, given.settings(options)?))
}

/// Makes such a match, with at least one option.
fn some_of(name: &'static str, given: &Arguments<'_, '_>) -> Made<Match> {
    match given.given.is_empty() {
        true => Err(given.missing("at least one option is required".into())),
        false => plain(name, given),
    }
}

/// Makes such a match, and leaves out a range that covers every value: `iptables-save` does not print it.
fn without_full_range(
    name: &'static str,
    option: &str,
    max: u64,
    given: &Arguments<'_, '_>,
) -> Made<Match> {
    let mut made = plain(name, given)?;
    if let Match::Other(module) = &mut made {
        let full = range_text((0, max));
        module
            .settings
            .retain(|setting| setting.name != option || *setting.value != *full);
    }
    Ok(made)
}

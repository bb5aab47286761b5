//! Rules that `iptables-restore` loads, made at random.

use proptest::prelude::*;
use proptest::sample::select;

use fwc::net::Family;

/// A rule as words: options that stand by themselves, and modules whose order is kept.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Options without a module, in any order.
    pub basic: Vec<String>,
    /// The protocol, and the matches and the target after it: each a list of options that may change places.
    pub modules: Vec<Module>,
}

/// `-m NAME` or `-j NAME` and its options.
#[derive(Clone, Debug)]
pub struct Module {
    pub head: String,
    pub options: Vec<String>,
}

impl Rule {
    /// The rule as it would be written.
    pub fn text(&self) -> String {
        let modules = self.modules.iter().map(Module::text);
        let words: Vec<_> = self.basic.iter().cloned().chain(modules).collect();
        words.join(" ")
    }
}

impl Module {
    pub fn text(&self) -> String {
        let words: Vec<_> = std::iter::once(&self.head)
            .chain(&self.options)
            .cloned()
            .collect();
        words.join(" ")
    }
}

fn module(head: &str, options: &[String]) -> Module {
    Module {
        head: head.to_owned(),
        options: options
            .iter()
            .filter(|one| !one.is_empty())
            .cloned()
            .collect(),
    }
}

fn not() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "! "])
}

fn network(family: Family) -> BoxedStrategy<String> {
    match family {
        Family::V4 => (any::<[u8; 4]>(), 1..=32u8)
            .prop_map(|([a, b, c, d], length)| format!("{a}.{b}.{c}.{d}/{length}"))
            .boxed(),
        Family::V6 => (any::<[u16; 4]>(), 1..=128u8)
            .prop_map(|([a, b, c, d], length)| format!("2001:{a:x}:{b:x}::{c:x}:{d:x}/{length}"))
            .boxed(),
    }
}

fn ports() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u16>().prop_map(|port| port.to_string()),
        (1..40000u16, 1..20000u16).prop_map(|(first, more)| format!("{first}:{}", first + more)),
        select(vec!["ssh", "http", "domain", "1024:", ":1023", "0x50"]).prop_map(str::to_owned),
    ]
}

fn decimal_ports() -> impl Strategy<Value = String> {
    ports().prop_filter("udp reads decimal only", |ports| !ports.starts_with("0x"))
}

fn with_protocol() -> impl Strategy<Value = Vec<Module>> {
    let tcp = (not(), ports(), not(), ports(), any::<u8>()).prop_map(|(a, from, b, to, pick)| {
        let flags = [
            "",
            "--syn",
            "! --syn",
            "--tcp-flags ALL NONE",
            "--tcp-flags ACK,SYN,FIN SYN",
        ];
        let options = [
            if pick & 8 == 0 {
                format!("{a}--sport {from}")
            } else {
                String::new()
            },
            if pick & 16 == 0 {
                format!("{b}--dport {to}")
            } else {
                String::new()
            },
            flags[pick as usize % 5].to_owned(),
        ];
        vec![module("-p tcp -m tcp", &options)]
    });
    let udp = (not(), decimal_ports(), not(), decimal_ports()).prop_map(|(a, from, b, to)| {
        vec![module(
            "-p udp",
            &[format!("{a}--sport {from}"), format!("{b}--dport {to}")],
        )]
    });
    let multiport = (
        select(vec!["tcp", "udp", "sctp"]),
        not(),
        select(vec!["--sports", "--dports", "--ports"]),
        prop::collection::vec(any::<u16>(), 1..15),
    )
        .prop_map(|(protocol, not, side, ports)| {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            let options = [format!("{not}{side} {}", ports.join(","))];
            vec![
                module(&format!("-p {protocol}"), &[]),
                module("-m multiport", &options),
            ]
        });
    prop_oneof![
        2 => Just(Vec::new()),
        3 => tcp,
        2 => udp,
        1 => multiport,
        1 => (not(), 1..=255u8).prop_map(|(not, number)| vec![module(&format!("{not}-p {number}"), &[])]),
    ]
}

fn state_list(nat: bool) -> impl Strategy<Value = String> {
    let mut words = vec!["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"];
    if nat {
        words.extend(["SNAT", "DNAT"]);
    }
    prop::sample::subsequence(words, 1..=3)
        .prop_shuffle()
        .prop_map(|words| words.join(","))
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{1,20}".prop_map(|text| text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn matches(family: Family) -> impl Strategy<Value = Module> {
    let hop = match family {
        Family::V4 => "ttl",
        Family::V6 => "hl",
    };
    prop_oneof![
        (not(), state_list(true)).prop_map(|(not, states)| module(
            "-m conntrack",
            &[format!("{not}--ctstate {states}")]
        )),
        (not(), state_list(false))
            .prop_map(|(not, states)| module("-m state", &[format!("{not}--state {states}")])),
        text().prop_map(|text| module("-m comment", &[format!("--comment \"{text}\"")])),
        (not(), any::<u32>(), any::<u32>()).prop_map(|(not, mark, mask)| module(
            "-m mark",
            &[format!("{not}--mark {mark:#x}/{mask}")]
        )),
        (not(), any::<[u8; 6]>()).prop_map(|(not, [a, b, c, d, e, f])| {
            module(
                "-m mac",
                &[format!(
                    "{not}--mac-source {a:02X}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
                )],
            )
        }),
        (
            1..500u16,
            select(vec!["sec", "minute", "h", "day"]),
            1..200u16
        )
            .prop_map(|(count, unit, burst)| {
                module(
                    "-m limit",
                    &[
                        format!("--limit {count}/{unit}"),
                        format!("--limit-burst {burst}"),
                    ],
                )
            }),
        (
            not(),
            select(vec!["LOCAL", "UNICAST,LOCAL", "MULTICAST", "unicast"])
        )
            .prop_map(|(not, types)| module("-m addrtype", &[format!("{not}--dst-type {types}")])),
        (not(), select(vec!["unicast", "MULTICAST", "broadcast"]))
            .prop_map(|(not, kind)| module("-m pkttype", &[format!("{not}--pkt-type {kind}")])),
        (not(), any::<u8>()).prop_map(move |(not, limit)| module(
            &format!("-m {hop}"),
            &[format!("{not}--{hop}-eq {limit}")]
        )),
        (any::<u16>(), any::<u16>()).prop_map(|(one, other)| {
            let (first, last) = (one.min(other), one.max(other));
            module("-m length", &[format!("--length {first}:{last}")])
        }),
        (
            select(vec!["--rcheck", "--update", "! --rcheck"]),
            1..99u8,
            1..20u8,
            "[a-z]{1,9}"
        )
            .prop_map(|(action, seconds, hits, name)| {
                let options = [
                    action.to_owned(),
                    format!("--seconds {seconds}"),
                    format!("--hitcount {hits}"),
                    format!("--name {name}"),
                ];
                module("-m recent", &options)
            }),
        (1..=1000u32).prop_map(|p| {
            module(
                "-m statistic",
                &[
                    "--mode random".into(),
                    format!("--probability {}", f64::from(p) / 1000.0),
                ],
            )
        }),
    ]
}

fn target() -> impl Strategy<Value = Module> {
    prop_oneof![
        select(vec![
            "-j ACCEPT",
            "-j DROP",
            "-j RETURN",
            "-j USER",
            "-g USER",
            "-j REJECT"
        ])
        .prop_map(|verdict| module(verdict, &[])),
        (text(), 0..8u8, any::<bool>()).prop_map(|(prefix, level, uid)| {
            let options = [
                format!("--log-prefix \"{prefix}\""),
                format!("--log-level {level}"),
                if uid {
                    "--log-uid".to_owned()
                } else {
                    String::new()
                },
            ];
            module("-j LOG", &options)
        }),
        (any::<u16>(), text()).prop_map(|(group, prefix)| module(
            "-j NFLOG",
            &[
                format!("--nflog-group {group}"),
                format!("--nflog-prefix \"{prefix}\"")
            ]
        )),
        (
            select(vec!["--set-mark", "--set-xmark"]),
            any::<u32>(),
            any::<u32>()
        )
            .prop_map(|(option, mark, mask)| module(
                "-j MARK",
                &[format!("{option} {mark}/{mask:#x}")]
            )),
        (
            select(vec!["--or-mark", "--and-mark", "--xor-mark"]),
            any::<u32>()
        )
            .prop_map(|(option, mark)| module("-j CONNMARK", &[format!("{option} {mark}")])),
        any::<u16>().prop_map(|number| module("-j NFQUEUE", &[format!("--queue-num {number}")])),
    ]
}

/// A rule for the chain INPUT of the filter table; there is a chain `USER`.
pub fn rule(family: Family) -> impl Strategy<Value = Rule> {
    let address = |option: &'static str| {
        prop_oneof![
            Just(String::new()),
            (not(), network(family))
                .prop_map(move |(not, network)| format!("{not}{option} {network}")),
        ]
    };
    let interface = prop_oneof![
        Just(String::new()),
        (not(), "[a-z]{2,6}[0-9]?[+]?").prop_map(|(not, name)| format!("{not}-i {name}")),
    ];
    (
        address("-s"),
        address("-d"),
        interface,
        with_protocol(),
        prop::collection::vec(matches(family), 0..3),
        target(),
    )
        .prop_map(
            |(source, destination, interface, protocol, matches, target)| Rule {
                basic: [source, destination, interface]
                    .into_iter()
                    .filter(|one| !one.is_empty())
                    .collect(),
                modules: protocol
                    .into_iter()
                    .chain(matches)
                    .chain([target])
                    .collect(),
            },
        )
}

/// A file with these rules in INPUT.
pub fn file(rules: &[String]) -> String {
    let rules: String = rules
        .iter()
        .map(|rule| format!("-A INPUT {rule}\n"))
        .collect();
    format!("*filter\n:INPUT ACCEPT [0:0]\n:USER - [0:0]\n{rules}COMMIT\n")
}

//! Random rulesets over what the model knows, packet by packet against the plain walker.

use std::sync::atomic::{AtomicUsize, Ordering};

use fwc::analysis::{Behaviour, Deciders, Reading, Space};
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook};
use proptest::prelude::*;
use proptest::sample::select;

use crate::packets::{Edges, Numbers};
use crate::walked;

const V4: [&str; 10] = [
    "10.0.0.3/255.0.0.255",
    "0.0.2.0/0.0.255.0",
    "0.0.0.0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "10.1.2.0/255.255.254.255",
    "192.0.2.0/31",
    "255.255.255.255",
    "128.0.0.0/1",
];
const V4_RANGES: [&str; 3] = [
    "10.1.2.3-10.1.2.5",
    "0.0.0.0-9.255.255.255",
    "255.255.255.254-255.255.255.255",
];
const V6: [&str; 8] = [
    "::1/::ffff:ffff:ffff:ffff",
    "0:db8::1/0:ffff::1",
    "::/128",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8::1",
    "fe80::/10",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const V6_RANGES: [&str; 2] = ["2001:db8::-2001:db8::ff", "::-::ffff"];

fn maybe_not(
    option: &'static str,
    values: &[&'static str],
) -> impl Strategy<Value = String> + use<> {
    (prop::bool::weighted(0.3), select(values.to_vec()))
        .prop_map(move |(not, value)| format!("{}{option} {value}", if not { "! " } else { "" }))
}

fn some(weight: f64, one: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (prop::bool::weighted(weight), one)
        .prop_map(|(there, one)| if there { one } else { String::new() })
}

fn addresses(family: Family, option: &'static str) -> impl Strategy<Value = String> {
    let values: &[&str] = if family == Family::V4 { &V4 } else { &V6 };
    some(0.35, maybe_not(option, values))
}

fn protocol(family: Family) -> impl Strategy<Value = String> {
    let ports = [
        "0",
        "22",
        "20:25",
        "0:1023",
        "1024:65535",
        "65535",
        "0:65534",
    ];
    let lists = ["22", "22,80,443", "0,20:25,65535", "80,1000:2000"];
    let flags = [
        "SYN SYN",
        "ALL NONE",
        "SYN,RST SYN,RST",
        "FIN,SYN,RST,ACK SYN",
        "ACK ACK",
    ];
    let kinds = match family {
        Family::V4 => maybe_not(
            "-p icmp -m icmp --icmp-type",
            &["8", "3/4", "3", "any", "0"],
        )
        .boxed(),
        Family::V6 => maybe_not(
            "-p ipv6-icmp -m icmp6 --icmpv6-type",
            &["128", "1/4", "1", "255/255"],
        )
        .boxed(),
    };
    // The `!` belongs to the option, not to the protocol.
    let kinds = kinds.prop_map(|text| match text.strip_prefix("! ") {
        Some(text) => text.replacen(" --", " ! --", 1),
        None => text,
    });
    prop_oneof![
        3 => Just(String::new()),
        2 => maybe_not("-p", &["tcp", "udp", "47", "icmp"]),
        2 => kinds,
        4 => (select(&["tcp", "udp"][..]), some(0.6, maybe_not("--dport", &ports)), some(0.3, maybe_not("--sport", &ports)))
            .prop_map(|(name, to, from)| format!("-p {name} -m {name} {from} {to}")),
        2 => maybe_not("--tcp-flags", &flags).prop_map(|flags| format!("-p tcp -m tcp {flags}")),
        1 => Just("-p tcp -m tcp --tcp-option 5".to_owned()),
        3 => (select(&["tcp", "udp", "sctp"][..]), select(&["--dports", "--sports", "--ports"][..]), any::<bool>(), select(lists.to_vec()))
            .prop_map(|(name, side, not, list)| {
                let not = if not { "! " } else { "" };
                format!("-p {name} -m multiport {not}{side} {list}")
            }),
    ]
}

fn modules(family: Family) -> impl Strategy<Value = String> {
    let (hop, option) = if family == Family::V4 {
        ("ttl", "ttl")
    } else {
        ("hl", "hl")
    };
    let ranges: &[&str] = if family == Family::V4 {
        &V4_RANGES
    } else {
        &V6_RANGES
    };
    let module = |name: &'static str, one: BoxedStrategy<String>| {
        one.prop_map(move |text| format!("-m {name} {text}"))
            .boxed()
    };
    let address = if family == Family::V4 {
        "10.1.2.3"
    } else {
        "2001:db8::1"
    };
    let states = [
        "NEW",
        "ESTABLISHED,RELATED",
        "INVALID,UNTRACKED",
        "NEW,DNAT",
        "SNAT",
    ];
    let equal: &'static str = if option == "ttl" {
        "--ttl-eq"
    } else {
        "--hl-eq"
    };
    prop_oneof![
        6 => Just(String::new()),
        3 => module("conntrack", maybe_not("--ctstate", &states).boxed()),
        1 => module("conntrack", maybe_not("--ctorigdst", &[address]).boxed()),
        1 => module("state", maybe_not("--state", &states[..3]).boxed()),
        2 => module("mark", maybe_not("--mark", &["0x1", "0x0/0x1", "0x2/0x1", "0x10/0xf0", "0xffffffff"]).boxed()),
        1 => module("connmark", maybe_not("--mark", &["0x1", "0x0/0x1"]).boxed()),
        1 => module("iprange", maybe_not("--src-range", ranges).boxed()),
        1 => module("iprange", maybe_not("--dst-range", ranges).boxed()),
        1 => module(hop, maybe_not(equal, &["64", "1"]).boxed()),
        1 => module(hop, select(&["lt 64", "gt 64", "gt 255", "lt 1"][..]).prop_map(move |rest| format!("--{option}-{rest}")).boxed()),
        1 => module("pkttype", maybe_not("--pkt-type", &["unicast", "broadcast"]).boxed()),
        1 => module("addrtype", maybe_not("--dst-type", &["LOCAL", "UNICAST,MULTICAST", "UNICAST"]).boxed()),
        1 => Just("-m limit --limit 5/min".to_owned()),
        1 => Just("-m string --string abc --algo bm".to_owned()),
        1 => Just("-m recent --set --name known".to_owned()),
        1 => module("set", maybe_not("--match-set", &["banned src", "other dst"]).boxed()),
        1 => Just("-m comment --comment nothing".to_owned()),
    ]
}

/// A rule of a chain, which may call the chains after it: INPUT, FORWARD, OUTPUT, A, B, C.
fn rule(family: Family, chain: usize) -> impl Strategy<Value = String> {
    const CHAINS: [&str; 6] = ["INPUT", "FORWARD", "OUTPUT", "A", "B", "C"];
    let devices = ["eth0", "eth+", "wg+", "lo", "eth", "+"];
    let incoming = if chain == 2 { 0.0 } else { 0.3 };
    let outgoing = if chain == 0 { 0.0 } else { 0.3 };
    let mac = if chain < 2 { 0.2 } else { 0.0 };
    let reject = match family {
        Family::V4 => "-j REJECT --reject-with icmp-admin-prohibited",
        Family::V6 => "-j REJECT --reject-with icmp6-adm-prohibited",
    };
    let plain = [
        "-j ACCEPT",
        "-j DROP",
        "-j RETURN",
        "-j LOG --log-prefix one",
        "-j LOG --log-prefix \"two: \"",
        "",
        "-j MARK --set-xmark 0x1/0x1",
        "-j MARK --set-xmark 0x10/0xf0",
        "-j MARK --set-xmark 0x0/0xffffffff",
        "-j NFLOG --nflog-group 5",
        "-j NFQUEUE --queue-num 2",
        "-j QUUX --strange yes",
        reject,
    ];
    let calls: Vec<String> = CHAINS[chain.max(2) + 1..]
        .iter()
        .flat_map(|name| [format!("-j {name}"), format!("-g {name}")])
        .collect();
    let target = match calls.is_empty() {
        true => select(plain.to_vec()).prop_map(str::to_owned).boxed(),
        false => {
            prop_oneof![2 => select(plain.to_vec()).prop_map(str::to_owned), 1 => select(calls)]
                .boxed()
        }
    };
    (
        addresses(family, "-s"),
        addresses(family, "-d"),
        some(incoming, maybe_not("-i", &devices)),
        some(outgoing, maybe_not("-o", &devices)),
        protocol(family),
        modules(family),
        some(
            mac,
            maybe_not("--mac-source", &["02:00:00:00:00:01"])
                .prop_map(|mac| format!("-m mac {mac}")),
        ),
        target,
    )
        .prop_map(move |(s, d, i, o, p, m, mac, target)| {
            format!(
                "-A {} {s} {d} {i} {o} {p} {m} {mac} {target}",
                CHAINS[chain]
            )
        })
}

pub fn ruleset(family: Family) -> impl Strategy<Value = String> {
    let chain = move |chain| prop::collection::vec(rule(family, chain), 0..6);
    let policy = || select(&["ACCEPT", "DROP"][..]);
    let rules = (chain(0), chain(1), chain(2), chain(3), chain(4), chain(5));
    (policy(), policy(), policy(), rules).prop_map(|(input, forward, output, rules)| {
        let mut text = format!(
            "*filter\n:INPUT {input} [0:0]\n:FORWARD {forward} [0:0]\n:OUTPUT {output} [0:0]\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n"
        );
        let (a, b, c, d, e, f) = rules;
        for rule in [a, b, c, d, e, f].concat() {
            text.push_str(rule.trim_end());
            text.push('\n');
        }
        text + "COMMIT\n"
    })
}

fn edges(family: Family) -> Edges {
    let ends: &[u128] = match family {
        Family::V4 => &[
            0,
            9 << 24,
            10 << 24,
            11 << 24,
            0x0a01_0000,
            0x0a01_0203,
            0x0a01_0205,
            0x0a01_0300,
            0xc000_0200,
            0xc000_0201,
            1 << 31,
            u32::MAX as u128,
        ],
        Family::V6 => &[
            0,
            0xffff,
            0x2001_0db8 << 96,
            0x2001_0db8_0001 << 80,
            (0x2001_0db8 << 96) + 1,
            (0x2001_0db8 << 96) + 0xff,
            0xfe80 << 112,
            u128::MAX,
        ],
    };
    let last = family.last_address();
    let around = ends.iter().flat_map(|end| {
        [
            end.saturating_sub(1),
            *end,
            (end + u128::from(*end < last)).min(last),
        ]
    });
    Edges {
        addresses: around.collect(),
        ports: vec![
            0, 1, 19, 20, 22, 25, 26, 80, 443, 999, 1000, 1023, 1024, 2000, 2001, 65534, 65535,
        ],
        devices: ["eth0", "eth1", "eth", "et", "lo", "wg", "wg0", "ppp0"]
            .map(str::to_owned)
            .to_vec(),
        protocols: vec![6, 6, 17, 132, 1, 58, 47],
        icmp: vec![
            (8, 0),
            (3, 4),
            (3, 3),
            (0, 0),
            (128, 0),
            (1, 4),
            (1, 0),
            (255, 255),
        ],
        marks: vec![0, 1, 2, 0x10, 0x1f, u32::MAX],
        macs: vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
        hop_limits: vec![0, 1, 63, 64, 65, 255],
    }
}

fn check(family: Family, text: &str, seed: u64) {
    let ruleset =
        Ruleset::from_text(text, family).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let space = Space::for_rules(family, [&ruleset]);
    let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
    let filter = TableName::Filter;
    let reading = Reading::default();
    let search = Deciders::new(&space, &ruleset, &reading).unwrap();
    let deciders = Hook::ALL.map(|hook| {
        let place = (filter, hook.into());
        let all = space.all();
        let decided = search.of(place, all).unwrap();
        let parts = decided.iter().map(|one| one.packets);
        assert_eq!(space.any(parts).unwrap(), all, "{text}");
        decided
    });
    let (edges, mut numbers) = (edges(family), Numbers(seed | 1));
    for _ in 0..60 {
        let hook = numbers.of(&Hook::ALL);
        let packet = edges.packet(&mut numbers, family, hook);
        walked::agree(&space, &ruleset, &behaviour, filter, &packet, seed);
        let deciders = &deciders[hook as usize];
        walked::decided(&space, &ruleset, filter, &packet, deciders, seed);
    }
}

/// A ruleset and one with two neighbours swapped, or a rule lost or twice.
pub fn near(family: Family) -> impl Strategy<Value = (String, String)> {
    (ruleset(family), 0..3usize, any::<prop::sample::Index>()).prop_map(|(text, kind, index)| {
        // The walker takes an unknown target for an end, always.
        let text = text.replace("-j QUUX --strange yes", "-j LOG --log-prefix strange");
        let mut lines: Vec<&str> = text.lines().collect();
        let rules: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].starts_with("-A"))
            .collect();
        if !rules.is_empty() {
            let at = rules[index.index(rules.len())];
            match kind {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at]),
                _ if lines[at + 1].starts_with("-A") => lines.swap(at, at + 1),
                _ => {}
            }
        }
        let other = lines.join("\n") + "\n";
        (text, other)
    })
}

/// No difference: the walker finds none. A difference: the witness shows it to the walker, too.
fn compare(family: Family, one: &str, two: &str, seed: u64) {
    let read = |text: &str| {
        Ruleset::from_text(text, family).unwrap_or_else(|error| panic!("{error}\n{text}"))
    };
    let (one, two) = (read(one), read(two));
    let space = Space::for_rules(family, [&one, &two]);
    let behaviour = |ruleset| Behaviour::of(&space, ruleset, &Reading::default()).unwrap();
    let (left, right) = (behaviour(&one), behaviour(&two));
    let differences = left.differences(&space, &right).unwrap();
    let filter = TableName::Filter;
    if differences.is_empty() {
        let (edges, mut numbers) = (edges(family), Numbers(seed | 1));
        for _ in 0..30 {
            let hook = numbers.of(&Hook::ALL);
            let packet = edges.packet(&mut numbers, family, hook);
            let says = |key: &str| walked::says(seed, key);
            assert_eq!(
                walked::walk(&one, filter, &packet, &says),
                walked::walk(&two, filter, &packet, &says)
            );
        }
    }
    for difference in differences {
        let witness = space
            .witness(difference.packets, difference.chain, &[])
            .unwrap()
            .unwrap();
        assert!(
            space.contains(difference.packets, witness.value()),
            "{witness:#?}"
        );
        let valid = space.valid(difference.chain).unwrap();
        assert_eq!(
            witness.possible,
            space.contains(valid, witness.value()),
            "{witness:#?}"
        );
        let sides = [(&one, &left), (&two, &right)].map(|(ruleset, behaviour)| {
            let fate = walked::fate(&space, behaviour, filter, &witness.packet, witness.value());
            (fate, ruleset)
        });
        let written = difference
            .effect
            .is_some_and(|effect| effect.starts_with("-m recent"));
        assert!(written || sides[0].0 != sides[1].0, "{witness:#?}");
        // A device on the side on which a hook has none: the sets know such packets, a walker does not.
        let packet = &witness.packet;
        let strange = (packet.hook == Hook::Input && packet.out_device.is_some())
            || (packet.hook == Hook::Output && packet.in_device.is_some());
        if strange {
            assert!(!witness.possible, "{witness:#?}");
            continue;
        }
        // The walker knows conditions by their text alone: nearly always that is still a packet of the difference.
        let text = |key: &str| key.split(" of ").next().unwrap_or_default().to_owned();
        let hold = witness.conditions.iter().filter(|(_, holds)| *holds);
        let hold: Vec<String> = hold.map(|(key, _)| text(key)).collect();
        let says = |key: &str| hold.contains(&text(key));
        let [one, two] = [(&one, &left), (&two, &right)].map(|(ruleset, behaviour)| {
            let walked = walked::walk(ruleset, filter, &witness.packet, &says);
            let value = space.values_of(&witness.packet, says);
            let fate = walked::fate(&space, behaviour, filter, &witness.packet, value);
            assert_eq!(walked.as_ref(), Some(&fate), "{witness:#?}\n{ruleset}");
            walked
        });
        if space.contains(difference.packets, space.values_of(&witness.packet, says)) && !written {
            assert_ne!(one, two, "{witness:#?}");
            SHOWN.fetch_add(1, Ordering::Relaxed);
        }
        FOUND.fetch_add(1, Ordering::Relaxed);
    }
}

/// Differences that were found, and those of them that the walker was shown.
static FOUND: AtomicUsize = AtomicUsize::new(0);
static SHOWN: AtomicUsize = AtomicUsize::new(0);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    fn differences_in_ipv4((one, two) in near(Family::V4), seed: u64) {
        compare(Family::V4, &one, &two, seed);
    }

    fn differences_in_ipv6((one, two) in near(Family::V6), seed: u64) {
        compare(Family::V6, &one, &two, seed);
    }
}

#[test]
fn differences_have_witnesses_that_the_walker_confirms() {
    differences_in_ipv4();
    differences_in_ipv6();
    let (found, shown) = (FOUND.load(Ordering::Relaxed), SHOWN.load(Ordering::Relaxed));
    println!("{found} differences, {shown} shown to the walker");
    assert!(found > 60 && shown * 3 > found * 2, "{found} {shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_walker_agrees_in_ipv4(text in ruleset(Family::V4), seed: u64) {
        check(Family::V4, &text, seed);
    }

    #[test]
    fn the_walker_agrees_in_ipv6(text in ruleset(Family::V6), seed: u64) {
        check(Family::V6, &text, seed);
    }
}

//! The matrix against brute force: every pair of addresses at the rules' edges, packet by packet through the plain
//! walker, with every device, source port and answer of what is not understood.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fwc::analysis::{Behaviour, DevicesBehind, Matrix, Reading, Space};
use fwc::iptables::{self, Ruleset, Unknowns, WalkVerdict, follow};
use fwc::net::{
    AddressRange, Family, Hook, Packet, Protocol, State, TcpFlags, address_of, number_of,
};

use crate::packets::Numbers;

/// Conditions that are not understood; each limit stands in one rule, since a bucket is its own.
const STRANGE: [&str; 3] = [
    "-m addrtype --dst-type LOCAL",
    "-m limit --limit 5/min",
    "-m limit --limit 7/min",
];

/// None, one that rules name, and another.
const MACS: [Option<[u8; 6]>; 3] = [None, Some([2, 0, 0, 0, 0, 1]), Some([2, 0, 0, 0, 0, 2])];

fn networks(family: Family) -> &'static [&'static str] {
    match family {
        Family::V4 => &[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3",
            "192.168.0.0/16",
            "0.0.0.0/1",
            "255.255.255.255",
        ],
        Family::V6 => &[
            "2001:db8::/32",
            "2001:db8:1::/48",
            "2001:db8:1::7",
            "fd00::/8",
            "8000::/1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ],
    }
}

/// What stands behind the devices; the rest of the addresses is behind `eth7` or `ppp7`, which nobody names.
const INTERFACES: [(&str, &str); 5] = [
    ("eth0", "10.0.0.0/8"),
    ("eth1", "10.1.0.0/16"),
    ("eth1", "192.168.0.0/16"),
    ("eth0", "2001:db8::/32"),
    ("eth1", "2001:db8:1::/48"),
];

fn rule(
    numbers: &mut Numbers,
    family: Family,
    chain: &str,
    calls: &[&str],
    limits: &mut usize,
) -> String {
    let mut text = format!("-A {chain}");
    let mut maybe = |numbers: &mut Numbers, odds: usize, option: &str, values: &[&str]| {
        if numbers.below(odds) == 0 {
            let not = if numbers.below(4) == 0 { " !" } else { "" };
            text.push_str(&format!("{not} {option} {}", numbers.of(values)));
        }
    };
    let sides = numbers.below(3);
    maybe(
        numbers,
        if sides == 0 { 4 } else { 1 },
        "-s",
        networks(family),
    );
    maybe(
        numbers,
        if sides == 1 { 4 } else { 1 },
        "-d",
        networks(family),
    );
    maybe(numbers, 6, "-i", &["eth0", "eth1", "eth+"]);
    if chain == "FORWARD" {
        maybe(numbers, 6, "-o", &["eth0", "eth1", "eth+"]);
    }
    match numbers.below(7) {
        0 => text.push_str(" -p tcp -m tcp --dport 22"),
        1 => text.push_str(" -p tcp -m tcp --dport 20:25 --sport 1024:65535"),
        2 => text.push_str(" -p udp -m udp --dport 22"),
        _ => {}
    }
    match numbers.below(20) {
        0 | 1 => text.push_str(" -m mac --mac-source 02:00:00:00:00:01"),
        2 => text.push_str(" -m mac ! --mac-source 02:00:00:00:00:01"),
        _ => {}
    }
    match numbers.below(12) {
        0 => text.push_str(" -m conntrack --ctstate NEW"),
        1 => text.push_str(" -m conntrack --ctstate ESTABLISHED,RELATED"),
        2 => text.push_str(&format!(" {}", STRANGE[0])),
        3 if *limits + 1 < STRANGE.len() => {
            *limits += 1;
            text.push_str(&format!(" {}", STRANGE[*limits]));
        }
        _ => {}
    }
    let target = match numbers.below(6) {
        0 | 1 => "-j ACCEPT".to_owned(),
        2 => "-j DROP".to_owned(),
        3 => "-j REJECT".to_owned(),
        4 => "-j RETURN".to_owned(),
        _ if calls.is_empty() => "-j ACCEPT".to_owned(),
        _ => format!("{} {}", numbers.of(&["-j", "-g"]), numbers.of(calls)),
    };
    format!("{text} {target}\n")
}

fn ruleset(numbers: &mut Numbers, family: Family) -> String {
    let mut text = String::from("*filter\n");
    for chain in ["INPUT", "FORWARD"] {
        let policy = numbers.of(&["ACCEPT", "DROP", "DROP"]);
        text.push_str(&format!(":{chain} {policy} [0:0]\n"));
    }
    text.push_str(":A - [0:0]\n:B - [0:0]\n");
    let chains: [(&str, &[&str]); 4] = [
        ("INPUT", &["A", "B"]),
        ("FORWARD", &["A", "B"]),
        ("A", &["B"]),
        ("B", &[]),
    ];
    let mut limits = 0;
    for (chain, calls) in chains {
        for _ in 0..2 + numbers.below(8) {
            text.push_str(&rule(numbers, family, chain, calls, &mut limits));
        }
    }
    text + "COMMIT\n"
}

/// Translations of what arrives, each to one address.
fn translations(numbers: &mut Numbers, family: Family) -> String {
    let mut text = String::from("*nat\n:PREROUTING ACCEPT [0:0]\n");
    let hosts = networks(family).iter().filter(|it| !it.contains('/'));
    let hosts: Vec<&str> = hosts.copied().collect();
    for _ in 0..1 + numbers.below(3) {
        let not = if numbers.below(4) == 0 { "! " } else { "" };
        let network = numbers.of(networks(family));
        let service = numbers.of(&["", "-p tcp -m tcp --dport 22 ", "-p udp "]);
        let local = numbers.of(&["", "-m addrtype --dst-type LOCAL "]);
        let to = numbers.of(&hosts);
        text += &format!(
            "-A PREROUTING {not}-d {network} {service}{local}-j DNAT --to-destination {to}\n"
        );
    }
    text + "COMMIT\n"
}

/// An address of each run between two edges of what the rules and the interfaces name.
fn addresses(family: Family) -> Vec<u128> {
    let mut edges = BTreeSet::from([0]);
    let (first, last) = family.loopback();
    let named = networks(family)
        .iter()
        .copied()
        .chain(INTERFACES.map(|it| it.1));
    let ranges = named.map(|text| AddressRange::parse(text).expect("a network"));
    let ranges = ranges.filter(|range| range.family == family);
    let ranges = ranges.map(|range| (range.first, range.last));
    // What is never an address of this host.
    let known: &[(u128, u128)] = match family {
        Family::V4 => &[
            (0, 0),
            (0xe000_0000, 0xefff_ffff),
            (0xffff_ffff, 0xffff_ffff),
        ],
        Family::V6 => &[(0xff << 120, u128::MAX)],
    };
    for (first, last) in ranges.chain([(first, last)]).chain(known.iter().copied()) {
        edges.insert(first);
        edges.extend((last < family.last_address()).then(|| last + 1));
    }
    edges.into_iter().collect()
}

struct Asked<'a> {
    ruleset: &'a Ruleset,
    hook: Hook,
    /// Whether [`INTERFACES`] is known.
    placed: bool,
}

/// Answers to what is not understood; about another destination another one.
struct Says {
    says: usize,
    first: IpAddr,
}

impl Unknowns for Says {
    fn holds(&mut self, asked: iptables::UndecidedCondition<'_>) -> Option<bool> {
        let text = asked.condition.to_text(asked.packet.family);
        let plain = text.replace("! ", "");
        let is_nobodys = match asked.packet.destination {
            IpAddr::V4(to) => to.is_multicast() || to.is_broadcast() || to.is_unspecified(),
            IpAddr::V6(to) => to.is_multicast(),
        };
        if plain == STRANGE[0] && is_nobodys {
            return Some(text != plain);
        }
        let mut bit = STRANGE.iter().position(|strange| *strange == plain)?;
        if bit == 0 && asked.packet.destination != self.first {
            bit = STRANGE.len();
        }
        Some((self.says >> bit & 1 == 1) != (text != plain))
    }
}

impl Asked<'_> {
    /// The devices of an address, by hand: the longest prefix.
    fn devices(&self, address: u128) -> Vec<&'static str> {
        let family = self.ruleset.family;
        let (first, last) = family.loopback();
        if self.hook == Hook::Input && (first..=last).contains(&address) {
            return vec!["lo"];
        }
        if !self.placed {
            return vec!["eth0", "eth1", "eth7", "ppp7"];
        }
        let place = INTERFACES.iter().filter_map(|(device, network)| {
            let range = AddressRange::parse(network).expect("a network");
            let inside = range.family == family && (range.first..=range.last).contains(&address);
            inside.then_some((range.last - range.first, *device))
        });
        place
            .min()
            .map_or(vec!["eth7", "ppp7"], |(_, device)| vec![device])
    }

    fn passes(&self, source: u128, destination: u128) -> bool {
        let family = self.ruleset.family;
        let out: Vec<Option<&str>> = match self.hook {
            Hook::Forward => ["eth0", "eth1", "eth7", "ppp7"].map(Some).to_vec(),
            _ => vec![None],
        };
        let mut all = self.devices(source).into_iter().flat_map(|came| {
            let ports = out
                .iter()
                .flat_map(|leaves| [(*leaves, 80), (*leaves, 5000)]);
            ports.flat_map(move |(leaves, port)| {
                (0..MACS.len() << (STRANGE.len() + 1)).map(move |says| (came, leaves, port, says))
            })
        });
        all.any(|(came, leaves, port, says)| {
            let mac = MACS[says % MACS.len()];
            let says = says / MACS.len();
            let packet = Packet {
                family,
                hook: self.hook,
                in_device: Some(came.to_owned()),
                out_device: leaves.map(str::to_owned),
                source: address_of(family, source),
                destination: address_of(family, destination),
                protocol: 6,
                source_port: Some(port),
                destination_port: Some(22),
                icmp: None,
                tcp_flags: Some(TcpFlags(2)),
                state: State::New,
                hop_limit: 64,
                mark: 0,
                mac,
                translated: Default::default(),
            };
            let mut answers = Says {
                says,
                first: packet.destination,
            };
            let journey = follow(self.ruleset, &packet, 0, &mut answers).expect("a verdict");
            // A packet leaves by the device of the address that it goes to.
            let goes = number_of(journey.packet.destination);
            let leaves = leaves.is_none_or(|leaves| self.devices(goes).contains(&leaves));
            leaves && journey.verdict == WalkVerdict::Accept
        })
    }

    fn matrix(&self) -> Matrix {
        let space = Space::for_rules(self.ruleset.family, [self.ruleset]);
        let behaviour = Behaviour::of(&space, self.ruleset, &Reading::default()).unwrap();
        let ssh = [
            space.protocol(Protocol::TCP).unwrap(),
            space.destination_port(22, 22).unwrap(),
            space.as_state(State::New).unwrap(),
        ];
        let behind = match self.placed {
            false => DevicesBehind::unknown(),
            true => DevicesBehind::new(INTERFACES.map(|(device, network)| {
                (
                    AddressRange::parse(network).expect("a network"),
                    device.to_owned(),
                )
            })),
        };
        let asked = space.every(ssh).unwrap();
        let passes = behaviour
            .may_pass(&space, self.hook, asked, &behind)
            .unwrap();
        space.matrix(passes).unwrap()
    }
}

/// The matrix says of each pair of addresses what brute force says; two classes differ in what some address does.
fn check(asked: &Asked<'_>) -> usize {
    let ruleset = asked.ruleset;
    let addresses = addresses(ruleset.family);
    let passes: Vec<Vec<bool>> = addresses
        .iter()
        .map(|from| {
            addresses
                .iter()
                .map(|to| asked.passes(*from, *to))
                .collect()
        })
        .collect();
    let matrix = asked.matrix();
    let class = |address: u128| {
        let mut classes = (0..)
            .zip(&matrix.classes)
            .filter(|(_, it)| it.contains(address));
        let class = classes.next().expect("a class").0;
        assert!(classes.next().is_none(), "{address} is in two classes");
        class
    };
    let classes: Vec<usize> = addresses.iter().map(|address| class(*address)).collect();
    for (from, row) in passes.iter().enumerate() {
        for (to, passes) in row.iter().enumerate() {
            let edge = (classes[from], classes[to]);
            let (from, to) = (addresses[from], addresses[to]);
            let (from, to) = (
                address_of(ruleset.family, from),
                address_of(ruleset.family, to),
            );
            assert_eq!(
                matrix.edges.contains(&edge),
                *passes,
                "{from} to {to}\n{ruleset}\n{matrix:#?}"
            );
        }
    }
    let every: BTreeSet<usize> = classes.iter().copied().collect();
    assert_eq!(
        every.len(),
        matrix.classes.len(),
        "a class without an edge\n{ruleset}"
    );
    let behaves = |at: usize| -> (&[bool], Vec<bool>) {
        (&passes[at], passes.iter().map(|row| row[at]).collect())
    };
    let ways: BTreeSet<_> = (0..addresses.len()).map(behaves).collect();
    assert_eq!(
        ways.len(),
        matrix.classes.len(),
        "two classes could be one\n{ruleset}\n{matrix:#?}"
    );
    ways.len()
}

fn random(family: Family, seed: u64) {
    let mut numbers = Numbers(seed);
    let mut classes = 0;
    for number in 0..100 {
        let mut text = ruleset(&mut numbers, family);
        if number % 5 == 0 {
            text = translations(&mut numbers, family) + &text;
        }
        let ruleset =
            Ruleset::from_text(&text, family).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let hook = if number % 4 == 0 {
            Hook::Input
        } else {
            Hook::Forward
        };
        let placed = number % 3 == 0;
        classes += check(&Asked {
            ruleset: &ruleset,
            hook,
            placed,
        });
    }
    assert!(
        classes > 240,
        "{classes} classes: these rules tell nothing apart"
    );
}

#[test]
fn brute_force_finds_the_same_in_ipv4() {
    random(Family::V4, 0x9e37_79b9);
}

#[test]
fn brute_force_finds_the_same_in_ipv6() {
    random(Family::V6, 0x7f4a_7c15);
}

//! The whole way through the tables: sets of packets against the walker, one packet at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fwc::analysis::{
    BaseChain, Behaviour, Effect, Exchanged, Field, Path, Reading, Set, Space, TableChain, Verdict,
};
use fwc::iptables::{
    self, NatTarget, Ruleset, TableName, Target, UndecidedCondition, Unknowns, WalkTrace, follow,
};
use fwc::net::{Family, Hook, Packet, State, Translated, address_of, number_of};

use crate::packets::{Edges, Numbers};
use crate::walked;

/// The arriving packets of each effect.
type Happens = BTreeMap<(TableChain, Effect), Set>;

/// What conditions and translations name, and what packets have.
pub struct Pool {
    /// Two networks of one size first.
    networks: [&'static str; 7],
    hosts: [&'static str; 4],
    pub edges: Edges,
}

pub fn pool(family: Family) -> Pool {
    let (networks, hosts) = match family {
        Family::V4 => (
            [
                "10.1.0.0/24",
                "10.2.0.0/24",
                "10.2.0.128/25",
                "192.0.2.1/32",
                // Masks that are not prefixes, one of them in front of the others' networks.
                "10.0.0.7/255.0.0.255",
                "0.2.0.7/0.255.0.255",
                "0.0.0.1/0.0.0.1",
            ],
            ["10.1.0.7", "10.2.0.7", "10.2.0.200", "192.0.2.1"],
        ),
        Family::V6 => (
            [
                "2001:db8:1::/64",
                "2001:db8:2::/64",
                "2001:db8:2::/120",
                "2001:db8::1/128",
                "::7/::ffff:ffff:ffff:ffff",
                "0:db8:2::/0:ffff:ffff::",
                "::1/::1",
            ],
            [
                "2001:db8:1::7",
                "2001:db8:2::7",
                "2001:db8:2::200",
                "2001:db8::1",
            ],
        ),
    };
    let numbers = hosts.map(|host| number_of(host.parse().expect("an address")));
    let edges = Edges {
        addresses: numbers.into_iter().flat_map(|n| [n, n + 1]).collect(),
        ports: vec![22, 80, 81, 443, 8080, 8081, 40000],
        devices: ["eth0", "eth1", "wg0", "lo"].map(str::to_owned).to_vec(),
        protocols: vec![6, 6, 17, if family == Family::V4 { 1 } else { 58 }],
        icmp: vec![(8, 0), (3, 3), (128, 0), (1, 0)],
        marks: vec![0, 1, 2, 0x10],
        macs: vec![[2, 0, 0, 0, 0, 1]],
        hop_limits: vec![1, 63, 64, 255],
    };
    Pool {
        networks,
        hosts,
        edges,
    }
}

pub struct Writer<'a> {
    pub numbers: &'a mut Numbers,
    pub pool: &'a Pool,
    pub family: Family,
}

impl Writer<'_> {
    fn is(&mut self, percent: usize) -> bool {
        self.numbers.below(100) < percent
    }

    fn not(&mut self) -> &'static str {
        if self.is(20) { "! " } else { "" }
    }

    fn conditions(&mut self, table: &str, chain: &str) -> String {
        let mut text = String::new();
        for option in ["-s", "-d"] {
            if self.is(25) {
                let (not, network) = (self.not(), self.numbers.of(&self.pool.networks));
                text += &format!("{not}{option} {network} ");
            }
        }
        let sides = [
            ("-i", !matches!(chain, "OUTPUT" | "POSTROUTING")),
            ("-o", !matches!(chain, "PREROUTING" | "INPUT")),
        ];
        for (option, may) in sides {
            if may && self.is(20) {
                let (not, name) = (self.not(), self.numbers.of(&["eth0", "eth+", "lo", "wg0"]));
                text += &format!("{not}{option} {name} ");
            }
        }
        match self.numbers.below(4) {
            0 => {
                let (not, port) = (
                    self.not(),
                    self.numbers.of(&["80", "443", "8080:8081", "22:80"]),
                );
                let protocol = self.numbers.of(&["tcp", "udp"]);
                text += &format!("-p {protocol} -m {protocol} {not}--dport {port} ");
            }
            1 => text += &format!("-p {} ", self.numbers.of(&["tcp", "udp"])),
            _ => {}
        }
        text + &self.module(table)
    }

    fn module(&mut self, table: &str) -> String {
        let not = self.not();
        let host = self.numbers.of(&self.pool.hosts);
        let hop = if self.family == Family::V4 {
            "ttl --ttl"
        } else {
            "hl --hl"
        };
        let module = match self.numbers.below(20) {
            0 => {
                let states = [
                    "NEW",
                    "DNAT",
                    "SNAT",
                    "ESTABLISHED,RELATED",
                    "NEW,DNAT",
                    "UNTRACKED",
                    "INVALID",
                ];
                format!("conntrack {not}--ctstate {}", self.numbers.of(&states))
            }
            1 if table != "raw" => format!("conntrack {not}--ctstate DNAT"),
            2 => {
                let mask = match self.family {
                    Family::V4 => "/255.0.0.255",
                    Family::V6 => "/ffff::ffff",
                };
                let mask = self.numbers.of(&["", mask]);
                format!("conntrack {not}--ctorigdst {host}{mask}")
            }
            3 => format!(
                "conntrack {not}--ctorigdstport {}",
                self.numbers.of(&["80", "443:8080"])
            ),
            4 | 5 => {
                let mark = self.numbers.of(&["0x1", "0x0", "0x2/0x2", "0x10/0xf0"]);
                format!("mark {not}--mark {mark}")
            }
            6 => format!(
                "connmark {not}--mark {}",
                self.numbers.of(&["0x1", "0x2/0x2"])
            ),
            7 => {
                let types = self
                    .numbers
                    .of(&["LOCAL", "LOCAL", "MULTICAST,LOCAL", "UNICAST"]);
                format!("addrtype {not}--dst-type {types}")
            }
            8 => format!("addrtype {not}--src-type LOCAL"),
            9 => format!(
                "set {not}--match-set banned {}",
                self.numbers.of(&["src", "dst"])
            ),
            10 => format!("{hop}-eq {}", self.numbers.of(&["1", "63", "64", "65"])),
            11 => format!("{hop}-lt {}", self.numbers.of(&["9", "64", "255"])),
            12 => format!("dscp {not}--dscp {}", self.numbers.of(&["0x00", "0x2e"])),
            13 => format!(
                "tos {not}--tos {}",
                self.numbers.of(&["0x10/0x3f", "0xb8/0xfc", "0x08/0x08"])
            ),
            _ => return String::new(),
        };
        format!("-m {module} ")
    }

    fn target(&mut self, table: &str, chain: &str, callable: &[String]) -> String {
        if !callable.is_empty() && self.is(12) {
            return format!(
                "{} {}",
                self.numbers.of(&["-j", "-g"]),
                self.numbers.of(callable)
            );
        }
        let plain = [
            "ACCEPT",
            "RETURN",
            "LOG --log-prefix one",
            "LOG --log-prefix two",
            "DROP",
        ];
        let marks = [
            "MARK --set-xmark 0x1/0xffffffff",
            "MARK --set-xmark 0x2/0x2",
            "MARK --set-xmark 0x10/0xf0",
            "CONNMARK --save-mark",
            "CONNMARK --restore-mark",
            "CONNMARK --set-xmark 0x2/0x2",
            "CONNMARK --restore-mark --nfmask 0xf --ctmask 0xf",
            "CONNMARK --save-mark --nfmask 0xf --ctmask 0xf0 --left-shift-mark 4",
            "CONNMARK --restore-mark --nfmask 0xf --ctmask 0xf0 --right-shift-mark 4",
            "CONNMARK --set-xmark 0x1/0x1 --left-shift-mark 1",
        ];
        let header = [
            "TOS --set-tos 0x10/0x3f",
            "TOS --set-tos 0x08/0x08",
            "TOS --xor-tos 0x08",
            "DSCP --set-dscp 0x2e",
            "DSCP --set-dscp 0x00",
        ];
        let hop = match self.family {
            Family::V4 => ["TTL --ttl-set 64", "TTL --ttl-inc 1", "TTL --ttl-dec 63"],
            Family::V6 => ["HL --hl-set 64", "HL --hl-inc 1", "HL --hl-dec 63"],
        };
        let target = match table {
            "nat" if self.is(80) => return self.translation(chain),
            // The nat table is not for filtering: iptables refuses DROP there.
            "nat" => self.numbers.of(&plain[..4]),
            "raw" if self.is(40) => self.numbers.of(&["CT --notrack", "CT --zone 3", "NOTRACK"]),
            "raw" if self.is(15) => self.numbers.of(&marks),
            "mangle" if self.is(40) => self.numbers.of(&marks),
            "mangle" if self.is(30) => self.numbers.of(&header),
            "mangle" if self.is(40) => self.numbers.of(&hop),
            "filter" if self.is(20) => self.numbers.of(&["REJECT", "NFQUEUE --queue-num 1"]),
            _ => self.numbers.of(&plain),
        };
        format!("-j {target}")
    }

    /// A rule's protocol and its translation.
    fn translation(&mut self, chain: &str) -> String {
        let (one, two) = (self.pool.hosts[1], self.pool.hosts[2]);
        let (open, close) = match self.family {
            Family::V4 => ("", ""),
            Family::V6 => ("[", "]"),
        };
        let host = self.numbers.of(&self.pool.hosts);
        let network = self.numbers.of(&self.pool.networks[..3]);
        let ports = self.numbers.of(&["8080", "8080-8081", "80"]);
        match chain {
            "PREROUTING" | "OUTPUT" => match self.numbers.below(8) {
                0 | 1 => format!("-j DNAT --to-destination {host}"),
                2 => format!("-j DNAT --to-destination {one}-{two}"),
                3 => format!("-p tcp -j DNAT --to-destination {open}{host}{close}:{ports}"),
                4 => format!("-p tcp -j DNAT --to-destination :{ports}"),
                5 => format!("-p udp -j REDIRECT --to-ports {ports}"),
                6 => "-j REDIRECT".to_owned(),
                _ => format!("-j NETMAP --to {network}"),
            },
            _ => match self.numbers.below(3) {
                0 if chain == "POSTROUTING" => "-j MASQUERADE".to_owned(),
                1 => format!("-j NETMAP --to {network}"),
                _ => format!("-j SNAT --to-source {host}"),
            },
        }
    }

    pub fn ruleset(&mut self) -> String {
        let mut text = String::new();
        for table in [
            TableName::Raw,
            TableName::Mangle,
            TableName::Nat,
            TableName::Filter,
        ] {
            if table != TableName::Filter && self.is(20) {
                continue;
            }
            text += &format!("*{}\n", table.as_str());
            let mut rules = String::new();
            for chain in table.base_chains() {
                let drops = table == TableName::Filter && self.is(40);
                text += &format!(":{chain} {} [0:0]\n", if drops { "DROP" } else { "ACCEPT" });
                // A chain of its own, so that conditions and targets of one hook do not get into another.
                let own = format!("OF-{chain}");
                text += &format!(":{own} - [0:0]\n");
                for (name, callable) in [(*chain, std::slice::from_ref(&own)), (&*own, &[])] {
                    for _ in 0..self.numbers.below(5) {
                        let target = self.target(table.as_str(), chain, callable);
                        let mut conditions = self.conditions(table.as_str(), chain);
                        if target.contains("-p ") {
                            while conditions.contains("-p ") {
                                conditions = self.conditions(table.as_str(), chain);
                            }
                        }
                        rules += &format!("-A {name} {conditions}{target}\n");
                    }
                }
            }
            text += &format!("{rules}COMMIT\n");
        }
        text
    }
}

/// The answer to a question: the same for the same question, another for another destination.
pub fn says(seed: u64, key: &str, elsewhere: bool) -> bool {
    let plain = key.strip_suffix(", after translation");
    let asks_destination = plain.unwrap_or(key).contains("addrtype destination")
        || plain.unwrap_or(key).ends_with(" dst");
    let seed = if elsewhere && asks_destination {
        !seed
    } else {
        seed
    };
    walked::says(seed, plain.unwrap_or(key))
}

pub struct Kernel<'a> {
    pub seed: u64,
    pub arrived: &'a Packet,
    pub choice: usize,
}

pub fn is_elsewhere(arrived: &Packet, now: &Packet) -> bool {
    let end = |packet: &Packet| (packet.destination, packet.destination_port);
    end(arrived) != end(now)
}

impl Unknowns for Kernel<'_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let elsewhere = is_elsewhere(self.arrived, asked.packet);
        let says = |key: &str| says(self.seed, key, elsewhere);
        Some(walked::oracle(&says, asked.packet, asked.condition))
    }

    fn address(&mut self, nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        let (first, last) = nat.addresses.unwrap_or((packet.source, packet.destination));
        Some([first, last][self.choice % 2])
    }

    fn port(&mut self, nat: &NatTarget, packet: &Packet) -> Option<u16> {
        let range = nat.ports?;
        // A port of the range stays.
        if let Some(own) = packet.destination_port.filter(|port| range.contains(*port)) {
            return Some(own);
        }
        Some([range.first, range.last][self.choice / 2 % 2])
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        let other = address_of(packet.family, number_of(packet.destination) + 1);
        Some((
            [other, packet.destination][self.choice % 2],
            packet.destination_port.map(|port| port - 1),
        ))
    }

    fn is_first(&mut self, _: &Packet) -> Option<bool> {
        Some(says(self.seed, FIRST, false))
    }

    fn device(&mut self, packet: &Packet) -> Option<String> {
        match self.choice / 4 % 2 {
            0 => packet.out_device.clone(),
            _ => Some("wg0".to_owned()),
        }
    }
}

const FIRST: &str = "the first packet of a related connection";

/// What happened to the packet on its way, as the walker saw it.
pub fn effects(ruleset: &Ruleset, journey: &WalkTrace) -> BTreeSet<(TableChain, Box<str>)> {
    let mut all = BTreeSet::new();
    let mut tracking = false;
    for step in &journey.steps {
        let table = ruleset.table(step.table).expect("the table is there");
        let chain = BaseChain::from_name(step.chain).expect("a base chain");
        for id in &step.walk.counted {
            let target = &table.chains[id.chain].rules[id.rule].target;
            let is_effect = match target {
                Target::Log(_) => true,
                Target::Other(module) if matches!(module.name, "CT" | "NOTRACK") => {
                    !std::mem::replace(&mut tracking, true)
                }
                Target::Other(module) => {
                    matches!(module.name, "TTL" | "HL" | "DSCP" | "TOS")
                }
                _ => false,
            };
            if is_effect {
                all.insert(((step.table, chain), walked::text(target)));
            }
        }
    }
    all
}

fn agree(
    space: &Space,
    ruleset: &Ruleset,
    paths: &[(Hook, Path, Happens, Set)],
    packet: &Packet,
    numbers: &mut Numbers,
) {
    let tracked = !matches!(packet.state, State::Invalid | State::Untracked);
    let looped = packet.hook == Hook::Input && packet.in_device.as_deref() == Some("lo");
    let may_be_translated = tracked && (packet.state != State::New || looped);
    let mut packet = packet.clone();
    if may_be_translated {
        packet.translated = Translated {
            source: numbers.below(2) == 0,
            destination: numbers.below(2) == 0,
        };
    }
    if packet.hook == Hook::Forward {
        // It had one more when it came in.
        packet.hop_limit = packet.hop_limit.min(254);
    }
    let packet = &packet;
    let connection_mark = numbers.of(&[0, 1, 2]);
    let seed = numbers.below(1 << 30) as u64;
    let mut kernel = Kernel {
        seed,
        arrived: packet,
        choice: numbers.below(8),
    };
    let journey = follow(ruleset, packet, connection_mark, &mut kernel).expect("all is known");

    let elsewhere = is_elsewhere(packet, &journey.packet);
    let says = |key: &str| match key {
        key if key.ends_with(" changes something") => journey.packet.translated.destination,
        key if key.ends_with(", after translation") => says(seed, key, elsewhere),
        key => says(seed, key, false),
    };
    let values = space.values_of(packet, says);
    let last = space.values_of(&journey.packet, |_| false);
    let bit = |number: u32, bit: u8| u128::from(number >> bit & 1);
    let value = |field| match field {
        Field::NewDestination => last(Field::Destination),
        Field::NewDestinationPort => last(Field::DestinationPort),
        Field::NewOutDevice => last(Field::OutDevice),
        Field::ConnectionMark(number) => bit(connection_mark, number),
        field => values(field),
    };
    let (_, path, happens, seen) = paths
        .iter()
        .find(|(hook, ..)| *hook == packet.hook)
        .expect("a hook");
    let context =
        || format!("{packet}\nconnection mark {connection_mark}\n{journey:#?}\n{ruleset}");
    let ends = path.ends.iter();
    let ends: Vec<_> = ends
        .filter(|end| space.contains(end.packets, value))
        .collect();
    let [end] = &ends[..] else {
        panic!("{ends:#?}\n{}", context());
    };
    assert_eq!(
        end.verdict,
        walked::verdict(&journey.verdict),
        "{}",
        context()
    );
    let place = match journey.steps.last() {
        Some(step) if end.verdict != Verdict::Accept => {
            Some((step.table, BaseChain::from_name(step.chain).unwrap()))
        }
        _ => None,
    };
    assert_eq!(end.place, place, "{}", context());
    let found = happens.iter();
    let found: BTreeSet<_> = found
        .filter(|(_, set)| space.contains(**set, value))
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(found, effects(ruleset, &journey), "{}", context());

    let gone = matches!(end.verdict, Verdict::Drop | Verdict::Reject(_));
    let after = end.change.value(value);
    let same = |field| {
        assert_eq!(
            after(field),
            last(field),
            "{field:?} {:?}\n{}",
            end.change,
            context()
        );
    };
    same(Field::Destination);
    same(Field::DestinationPort);
    if end
        .place
        .is_none_or(|place| place.1 == BaseChain::Postrouting)
    {
        same(Field::OutDevice);
    }
    if !gone {
        same(Field::State);
        same(Field::HopLimit);
        (0..32).for_each(|bit| same(Field::Mark(bit)));
        for number in 0..32 {
            let mark = bit(journey.connection_mark, number);
            assert_eq!(after(Field::ConnectionMark(number)), mark, "{}", context());
        }
        same(Field::DestinationTranslated);
        let changed = journey
            .steps
            .iter()
            .filter_map(|step| match &step.walk.verdict {
                iptables::WalkVerdict::Other(target) => match &**target {
                    Target::Nat(nat) => Some((step.chain, fwc::analysis::Translation::of(nat))),
                    _ => None,
                },
                _ => None,
            });
        for (chain, translation) in changed {
            let side = match chain {
                "PREROUTING" | "OUTPUT" => &end.change.destination,
                _ => &end.change.source,
            };
            assert_eq!(*side, Exchanged::By(translation), "{}", context());
        }
    }
    if numbers.below(8) == 0 {
        filter_sees(space, path, *seen, &journey, value, &context);
    }
}

/// The filter table gets the packet as the walker brings it there.
fn filter_sees(
    space: &Space,
    path: &Path,
    seen: Set,
    journey: &WalkTrace,
    value: impl Fn(Field) -> u128 + Copy,
    context: &dyn Fn() -> String,
) {
    let place = (TableName::Filter, BaseChain::from(path.hook));
    let at = |table| journey.steps.iter().position(|step| step.table == table);
    let Some(filter) = at(TableName::Filter) else {
        return;
    };
    let before = &journey.steps[filter];
    let one = |field, number: u128| space.range(field, number, number).expect("a small set");
    let exactly = |packet: &Packet| -> Set {
        let values = space.values_of(packet, |_| false);
        let mut fields = vec![
            Field::Destination,
            Field::DestinationPort,
            Field::State,
            Field::HopLimit,
        ];
        fields.extend((0..8).map(Field::Mark));
        let sets = fields.into_iter().map(|field| one(field, values(field)));
        space.every(sets).expect("a small set")
    };
    // Marks may change in the filter table too.
    let mut packet = before.packet.clone();
    let earlier = filter
        .checked_sub(1)
        .map(|step| &journey.steps[step].packet);
    if let Some(earlier) = earlier {
        packet.mark = earlier.mark;
        packet.hop_limit = earlier.hop_limit;
    } else {
        return;
    }
    let set = exactly(&packet);
    let arriving = path.before(space, place, set).expect("a small set");
    assert!(space.contains(arriving, value), "{}", context());
    assert_ne!(
        space.and(seen, set).expect("a small set"),
        space.none(),
        "{}",
        context()
    );
}

fn random(family: Family, seeds: std::ops::Range<u64>) {
    let pool = pool(family);
    for seed in seeds {
        let mut numbers = Numbers(seed * 2 + 1);
        let text = Writer {
            numbers: &mut numbers,
            pool: &pool,
            family,
        }
        .ruleset();
        let ruleset = Ruleset::from_text(&text, family)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        let space = Space::new(family);
        let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
        let paths = Hook::ALL.map(|hook| {
            let path = Path::of(&space, &behaviour, hook, space.all()).unwrap();
            let place = (TableName::Filter, BaseChain::from(hook));
            let seen = path.at(&space, place).unwrap();
            let happens = path.effects(&space, &behaviour).unwrap();
            (hook, path, happens, seen)
        });
        for _ in 0..60 {
            let hook = numbers.of(&Hook::ALL);
            let packet = pool.edges.packet(&mut numbers, family, hook);
            agree(&space, &ruleset, &paths, &packet, &mut numbers);
        }
    }
}

#[test]
fn the_walker_agrees_through_all_tables_in_ipv4() {
    random(Family::V4, 0..60);
}

#[test]
fn the_walker_agrees_through_all_tables_in_ipv6() {
    random(Family::V6, 0..60);
}

/// What else a rule writes is seen behind a mark whose bits change their places, which are left free.
#[test]
fn a_shifted_mark_hides_no_other_change() {
    let text = "*mangle\n\
        -A PREROUTING -j CONNMARK --save-mark --nfmask 0xf --ctmask 0xf0 --left-shift-mark 4\n\
        -A PREROUTING -j TTL --ttl-set 64\n\
        -A PREROUTING -j TOS --set-tos 0x10/0x3f\nCOMMIT\n";
    let ruleset = Ruleset::from_text(text, Family::V4).unwrap();
    let space = Space::new(Family::V4);
    let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
    let arriving = space.range(Field::HopLimit, 10, 10).unwrap();
    let path = Path::of(&space, &behaviour, Hook::Input, arriving).unwrap();
    let seen = path
        .at(&space, (TableName::Filter, BaseChain::Input))
        .unwrap();
    let written = space.range(Field::HopLimit, 64, 64).unwrap();
    assert_ne!(seen, space.none());
    assert_eq!(space.minus(seen, written).unwrap(), space.none());
}

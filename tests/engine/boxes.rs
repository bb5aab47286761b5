//! Sets in few words: the words are read back, and are the set.

use fwc::analysis::{
    BaseChain, Behaviour, BoxWords, Boxes, Dimension, Field, Limits, PacketPart, Reading, Set,
    Space, ValueList, Verdict, Vocabulary, device_number,
};
use fwc::iptables::{Network, Ruleset, TableName};
use fwc::net::{
    AddressRange, Family, IcmpType, IntervalSet, MacAddress, MarkMatch, Protocol, State,
    TcpFlagsMatch, number_of,
};
use proptest::prelude::*;

use crate::random::ruleset;

/// What words of no vocabulary say, read without a look at how they were made.
struct Reader<'a>(&'a Space);

impl Reader<'_> {
    fn words(&self, words: &BoxWords) -> Set {
        let parts = words
            .parts
            .iter()
            .map(|(part, list)| self.list(*part, list));
        let conditions = words.depends_on.iter().map(|(key, holds)| {
            let set = self.0.opaque(key).unwrap();
            if *holds {
                set
            } else {
                self.0.not(set).unwrap()
            }
        });
        self.0.every(parts.chain(conditions)).unwrap()
    }

    fn list(&self, part: PacketPart, list: &ValueList) -> Set {
        let sets = list.words.iter().map(|word| self.word(part, word));
        let any = self.0.any(sets).unwrap();
        if list.negated {
            self.0.not(any).unwrap()
        } else {
            any
        }
    }

    fn numbers(&self, field: Field, word: &str) -> Set {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        self.0
            .range(field, first.parse().unwrap(), last.parse().unwrap())
            .unwrap()
    }

    fn word(&self, part: PacketPart, word: &str) -> Set {
        let space = self.0;
        let flag = |field| {
            let yes = u128::from(!word.starts_with("not "));
            space.range(field, yes, yes).unwrap()
        };
        match part {
            PacketPart::From => self.device(Field::InDevice, word),
            PacketPart::To => self.device(Field::OutDevice, word),
            PacketPart::Source => self.addresses(Field::Source, word),
            PacketPart::Destination => self.addresses(Field::Destination, word),
            PacketPart::State => {
                let state = State::ALL
                    .into_iter()
                    .find(|one| one.keyword().eq_ignore_ascii_case(word));
                space.states(&[state.unwrap()]).unwrap()
            }
            PacketPart::Service => self.service(word),
            PacketPart::TcpFlags => {
                let test = TcpFlagsMatch::parse(word).unwrap();
                space.tcp_flags(test.looked_at, test.set).unwrap()
            }
            PacketPart::SourceNat => flag(Field::SourceTranslated),
            PacketPart::DestinationNat => flag(Field::DestinationTranslated),
            PacketPart::Fragment => flag(Field::Fragment),
            PacketPart::Mark => {
                let (packet, connection) = match (
                    word.strip_prefix("connection "),
                    word.split_once(" with connection "),
                ) {
                    (Some(connection), _) => (None, Some(connection)),
                    (None, Some((packet, connection))) => (Some(packet), Some(connection)),
                    (None, None) => (Some(word), None),
                };
                let mark = |text: &str| MarkMatch::parse(text).unwrap();
                let packet = packet.map(mark).map_or(space.all(), |mark| {
                    space.mark(mark.value, mark.mask).unwrap()
                });
                let connection = connection.map(mark).map_or(space.all(), |mark| {
                    space.connection_mark(mark.value, mark.mask).unwrap()
                });
                space.and(packet, connection).unwrap()
            }
            PacketPart::HopLimit => self.numbers(Field::HopLimit, word),
            PacketPart::Mac => match word {
                "none" => space.not(space.has_mac().unwrap()).unwrap(),
                one if !one.contains('-') => space.mac(MacAddress::parse(one).unwrap().0).unwrap(),
                range => {
                    let number = |text: &str| {
                        let bytes = MacAddress::parse(text).unwrap().0;
                        bytes
                            .iter()
                            .fold(0, |all, byte| all << 8 | u128::from(*byte))
                    };
                    let (first, last) = range.split_once('-').unwrap();
                    space
                        .range(Field::Mac, number(first), number(last))
                        .unwrap()
                }
            },
            PacketPart::PacketType => {
                let kinds = ["unicast", "broadcast", "multicast", "other host"];
                let number = kinds.iter().position(|kind| *kind == word).unwrap() as u128;
                space.range(Field::PacketType, number, number).unwrap()
            }
        }
    }

    fn device(&self, field: Field, word: &str) -> Set {
        let pattern = |word: &str| match word {
            "none" => self.0.range(field, 0, 0).unwrap(),
            word if field == Field::InDevice => self.0.in_device(word).unwrap(),
            word => self.0.out_device(word).unwrap(),
        };
        let (name, without) = word.split_once(" without ").unwrap_or((word, ""));
        let without = without
            .split(" and ")
            .filter(|word| !word.is_empty())
            .map(pattern);
        let without = self.0.any(without).unwrap();
        self.0.minus(pattern(name), without).unwrap()
    }

    fn addresses(&self, field: Field, word: &str) -> Set {
        let space = self.0;
        let range = |text: &str| {
            let range = AddressRange::parse(text).ok()?;
            Some(space.range(field, range.first, range.last).unwrap())
        };
        let masked = |text: &str| {
            let network = Network::from_text(space.family(), text).unwrap();
            let [value, mask] = [network.address(), network.mask()].map(number_of);
            space.masked(field, value, mask).unwrap()
        };
        match word.split_once(" with ") {
            Some((addresses, mask)) => space.and(range(addresses).unwrap(), masked(mask)).unwrap(),
            None => range(word).unwrap_or_else(|| masked(word)),
        }
    }

    fn service(&self, word: &str) -> Set {
        let space = self.0;
        let icmp = match space.family() {
            Family::V4 => ("icmp ", Protocol::ICMP),
            Family::V6 => ("ipv6-icmp ", Protocol::ICMPV6),
        };
        if let Some(kind) = word.strip_prefix(icmp.0) {
            let types = match kind.strip_prefix("types ") {
                Some(range) => {
                    let (first, last) = range.split_once('-').unwrap();
                    let end = |text: &str, code: u128| {
                        let (kind, code) = text
                            .split_once('/')
                            .map_or((text, code), |(kind, code)| (kind, code.parse().unwrap()));
                        kind.parse::<u128>().unwrap() << 8 | code
                    };
                    space
                        .range(Field::Icmp, end(first, 0), end(last, 255))
                        .unwrap()
                }
                None => {
                    let kind = kind.strip_prefix("type ").unwrap_or(kind);
                    space
                        .icmp(IcmpType::parse(space.family(), kind).unwrap())
                        .unwrap()
                }
            };
            return space.and(space.protocol(icmp.1).unwrap(), types).unwrap();
        }
        if let Some(range) = word
            .strip_prefix("protocols ")
            .or(word.strip_prefix("protocol "))
        {
            return self.numbers(Field::Protocol, range);
        }
        let (word, from) = word.split_once(" from port ").unwrap_or((word, "0-65535"));
        let from = from
            .split(',')
            .map(|range| self.numbers(Field::SourcePort, range));
        let from = space.any(from).unwrap();
        let (port, name) = word.split_once('/').unwrap_or(("0-65535", word));
        let protocol = space.protocol(Protocol::parse(name).unwrap()).unwrap();
        space
            .every([protocol, self.numbers(Field::DestinationPort, port), from])
            .unwrap()
    }
}

/// All boxes of a set, with what each test holds them to.
fn boxes(vocabulary: &Vocabulary<'_>, space: &Space, set: Set, chain: BaseChain) -> Boxes {
    let all = Limits {
        shown: 3000,
        counted: 3000,
    };
    let boxes = vocabulary.boxes(set, chain, all).unwrap();
    assert!(!boxes.uncounted && boxes.more == 0);
    let valid = space.valid(chain).unwrap();
    let care = if boxes.possible { valid } else { space.all() };
    assert_eq!(
        boxes.possible,
        space.and(set, valid).unwrap() != space.none()
    );
    let union = space
        .any(boxes.shown.iter().map(|one| one.packets))
        .unwrap();
    let wanted = space.and(set, care).unwrap();
    assert_eq!(space.and(union, care).unwrap(), wanted);
    for (at, one) in boxes.shown.iter().enumerate() {
        let others = boxes
            .shown
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at);
        let others = space.any(others.map(|(_, one)| one.packets)).unwrap();
        let own = space
            .minus(space.and(one.packets, wanted).unwrap(), others)
            .unwrap();
        assert_ne!(own, space.none(), "{} is in the others", one.words);
        assert!(space.contains(space.and(one.packets, wanted).unwrap(), one.example.value()));
    }
    boxes
}

fn lines(boxes: &Boxes) -> Vec<String> {
    boxes
        .shown
        .iter()
        .map(|one| one.words.to_string())
        .collect()
}

/// What a ruleset accepts, in words.
fn accepted(rules: &str, chain: BaseChain) -> Vec<String> {
    let space = Space::new(Family::V4);
    let text = format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n{rules}COMMIT\n"
    );
    let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
    let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
    let flow = behaviour.flow(&space, (TableName::Filter, chain));
    let set = space.decided(flow.verdicts, &Verdict::Accept).unwrap();
    lines(&boxes(&Vocabulary::new(&space), &space, set, chain))
}

#[test]
fn a_few_words_without_names() {
    let input = |rules: &str| accepted(rules, BaseChain::Input);
    assert_eq!(input(""), [""; 0]);
    assert_eq!(input("-A INPUT -j ACCEPT\n"), ["every packet"]);
    assert_eq!(
        input("-A INPUT -p tcp -m multiport --dports 22,80:90 -j ACCEPT\n"),
        ["service 22/tcp or 80-90/tcp"]
    );
    assert_eq!(
        input("-A INPUT -s 192.0.2.0/25 -j ACCEPT\n-A INPUT -s 192.0.2.128/25 -j ACCEPT\n"),
        ["source 192.0.2.0/24"]
    );
    assert_eq!(
        input("-A INPUT ! -s 192.0.2.0/25 -i eth0 -j ACCEPT\n"),
        ["from eth0, source !192.0.2.0/25"]
    );
    assert_eq!(
        input("-A INPUT -s 10.0.0.0/8 ! -i lo -p icmp -m icmp --icmp-type 8 -j ACCEPT\n"),
        ["from !lo, source 10.0.0.0/8, service icmp echo-request"]
    );
    // Each as wide as it can be, and no word more.
    assert_eq!(
        input(
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
             -A INPUT -i lo -j ACCEPT\n\
             -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
        ),
        [
            "state established or related",
            "service 22/tcp, state !invalid",
            "from lo, state !invalid",
        ]
    );
    assert_eq!(
        input("-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT\n"),
        ["tcp-flags syn/fin,syn,rst,ack"]
    );
    assert_eq!(
        input(
            "-A INPUT -p udp -m udp --sport 53 --dport 1024:65535 -m mark ! --mark 0x1/0xff -j ACCEPT\n"
        ),
        ["service 1024-65535/udp from port 53, mark !0x1/0xff"]
    );
    assert_eq!(
        input("-A INPUT -m mac ! --mac-source 02:00:00:00:00:01 -m ttl --ttl-gt 100 -j ACCEPT\n"),
        ["hop-limit 101-255, mac !(02:00:00:00:00:01 or none)"]
    );
    assert_eq!(
        input("-A INPUT -i eth+ -m string --string abc --algo bm -j ACCEPT\n"),
        ["from eth+ where `-m string --string \"abc\" --algo bm`"]
    );
}

#[test]
fn overlapping_rules_give_overlapping_lines() {
    let forward = |rules: &str| accepted(rules, BaseChain::Forward);
    assert_eq!(
        forward("-A FORWARD -i eth1 -j ACCEPT\n-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT\n"),
        ["service 80/tcp", "from eth1"]
    );
    // What all but one have is said once.
    assert_eq!(
        forward(
            "-A FORWARD -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j DROP\n-A FORWARD -j ACCEPT\n"
        ),
        ["source !10.1.0.0/16", "service !80/tcp"]
    );
}

/// wan is eth0; lan eth1 with 10.0.0.0/8, guests the rest of eth1; office an address group.
fn vocabulary(space: &Space) -> Vocabulary<'_> {
    let mut names = Vocabulary::new(space);
    let addresses = |text: &str| {
        let range = AddressRange::parse(text).unwrap();
        IntervalSet::from_intervals([(range.first, range.last)])
    };
    let port = |port| {
        let tcp = space.protocol(Protocol::TCP).unwrap();
        space
            .and(tcp, space.destination_port(port, port).unwrap())
            .unwrap()
    };
    let lan = addresses("10.0.0.0/8");
    for (dimension, field, networks) in [
        (
            Dimension::From,
            Field::InDevice,
            space.sources(&lan).unwrap(),
        ),
        (
            Dimension::To,
            Field::OutDevice,
            space.destinations(&lan).unwrap(),
        ),
    ] {
        let device = |name| {
            space
                .range(field, device_number(name), device_number(name))
                .unwrap()
        };
        names.name(dimension, "wan", device("eth0"));
        names.name(
            dimension,
            "lan",
            space.and(device("eth1"), networks).unwrap(),
        );
        names.name(
            dimension,
            "guests",
            space.minus(device("eth1"), networks).unwrap(),
        );
        names.name(dimension, "inside", device("eth1"));
    }
    let office = addresses("192.0.2.0/24");
    names.name(Dimension::Source, "office", space.sources(&office).unwrap());
    names.name(
        Dimension::Destination,
        "office",
        space.destinations(&office).unwrap(),
    );
    names.name(Dimension::Service, "ssh", port(22));
    names.name(
        Dimension::Service,
        "web",
        space.or(port(80), port(443)).unwrap(),
    );
    names
}

#[test]
fn names_of_a_policy() {
    let space = Space::new(Family::V4);
    let names = vocabulary(&space);
    let said = |rules: &str| {
        let text = format!("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n{rules}COMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
        let flow = behaviour.flow(&space, (TableName::Filter, BaseChain::Forward));
        let set = space.decided(flow.verdicts, &Verdict::Accept).unwrap();
        lines(&boxes(&names, &space, set, BaseChain::Forward))
    };
    assert_eq!(
        said("-A FORWARD -i eth0 -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT\n"),
        ["from wan, source office, service ssh"]
    );
    assert_eq!(
        said(
            "-A FORWARD -i eth0 ! -s 192.0.2.0/24 -p tcp -m multiport --dports 22,25,80,443 -j ACCEPT\n"
        ),
        ["from wan, source !office, service web or ssh or 25/tcp"]
    );
    assert_eq!(
        said("-A FORWARD -i eth1 -s 10.0.0.0/8 -o eth0 -j ACCEPT\n"),
        ["from lan, to wan"]
    );
    assert_eq!(
        said("-A FORWARD -i eth1 ! -s 10.0.0.0/8 -o eth0 -j ACCEPT\n"),
        ["from guests, to wan"]
    );
    assert_eq!(
        said("-A FORWARD -i eth1 -s 10.2.0.0/16 -o eth1 -d 10.3.0.0/16 -j ACCEPT\n"),
        ["from inside, to inside, source 10.2.0.0/16, destination 10.3.0.0/16"]
    );
    assert_eq!(said("-A FORWARD -i eth1 -j ACCEPT\n"), ["from inside"]);
    assert_eq!(
        said("-A FORWARD -i eth1 -s 10.0.0.0/8 -j ACCEPT\n-A FORWARD -i eth0 -j ACCEPT\n"),
        ["from wan or lan"]
    );
}

#[test]
fn what_is_not_shown_is_counted() {
    let space = Space::new(Family::V4);
    let ports = (1..=40u16).map(|port| {
        let ports = space
            .destination_port(1000 * port, 1000 * port + 1)
            .unwrap();
        let source = space.sources(&IntervalSet::from_intervals([(
            u128::from(port) << 24,
            (u128::from(port) << 24) + 9,
        )]));
        space
            .every([
                ports,
                source.unwrap(),
                space.protocol(Protocol::UDP).unwrap(),
            ])
            .unwrap()
    });
    let set = space.any(ports).unwrap();
    let say = |shown, counted| {
        let boxes = Vocabulary::new(&space)
            .boxes(set, BaseChain::Input, Limits { shown, counted })
            .unwrap();
        (boxes.shown.len(), boxes.more, boxes.uncounted)
    };
    assert_eq!(say(5, 100), (5, 35, false));
    assert_eq!(say(5, 20), (5, 15, true));
    assert_eq!(say(40, 40), (40, 0, false));
}

#[test]
fn impossible_packets_are_shown_as_such() {
    let space = Space::new(Family::V4);
    let multicast = space
        .sources(&IntervalSet::from_intervals([(224 << 24, 224 << 24)]))
        .unwrap();
    let boxes = boxes(
        &Vocabulary::new(&space),
        &space,
        multicast,
        BaseChain::Input,
    );
    assert!(!boxes.possible);
    assert_eq!(lines(&boxes), ["source 224.0.0.0"]);
}

/// Returns `true` if two sets have the same packets. Where masks with holes meet ranges, equal sets may be two values
/// (`src/analysis/address.rs`).
fn is_same(space: &Space, one: Set, other: Set) -> bool {
    space.is_subset(one, other).unwrap() && space.is_subset(other, one).unwrap()
}

fn words_are_the_set(family: Family, text: &str) {
    let ruleset =
        Ruleset::from_text(text, family).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let space = Space::for_rules(family, [&ruleset]);
    let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
    let mut vocabulary = Vocabulary::new(&space);
    for key in (0..).map_while(|number| space.opaque_key(number)) {
        vocabulary.condition(key.clone(), key);
    }
    for chain in [BaseChain::Input, BaseChain::Forward, BaseChain::Output] {
        let flow = behaviour.flow(&space, (TableName::Filter, chain));
        let set = space.decided(flow.verdicts, &Verdict::Accept).unwrap();
        let limits = Limits {
            shown: 60,
            counted: 60,
        };
        let boxes = vocabulary.boxes(set, chain, limits).unwrap();
        let valid = space.valid(chain).unwrap();
        let care = if boxes.possible { valid } else { space.all() };
        let reader = Reader(&space);
        let mut union = space.none();
        for one in &boxes.shown {
            if one.words.to_string().contains("between") {
                continue;
            }
            let read = space.and(reader.words(&one.words), care).unwrap();
            let packets = space.and(one.packets, care).unwrap();
            assert!(is_same(&space, read, packets), "{}\n{text}", one.words);
        }
        for one in &boxes.shown {
            union = space.or(union, one.packets).unwrap();
        }
        let (union, wanted) = (
            space.and(union, care).unwrap(),
            space.and(set, care).unwrap(),
        );
        assert!(space.is_subset(union, wanted).unwrap());
        if !boxes.uncounted && boxes.more == 0 {
            assert!(
                is_same(&space, union, wanted),
                "{:#?}\n{text}",
                lines(&boxes)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn words_are_the_set_v4(text in ruleset(Family::V4)) {
        words_are_the_set(Family::V4, &text);
    }

    #[test]
    fn words_are_the_set_v6(text in ruleset(Family::V6)) {
        words_are_the_set(Family::V6, &text);
    }
}

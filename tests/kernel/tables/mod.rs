//! Random rulesets over raw, mangle, nat and filter: the kernel's counters of all rules, and what leaves, against the
//! walker that goes through all tables, and the engine.
//!
//! `FWC_RULESETS` and `FWC_SEED` as for the filter table alone; of this kind are a quarter as many.

mod bench;
mod rules;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use fwc::analysis::{BaseChain, Behaviour, Field, Path, Reading, Space, Verdict};
use fwc::iptables::{
    self, Match, Module, NatKind, NatTarget, RuleId, Ruleset, TableName, Target, Tos,
    UndecidedCondition, Unknowns, WalkTrace, follow,
};
use fwc::net::{Family, Hook, Packet, State, TcpFlags, Translated};
use libtest_mimic::{Completion, Failed, Trial};

use self::bench::{Bench, KNOWN_MARK, Known, Left, OURS, Sent};
use self::rules::{PORTS, WIRES, Writer, hosts, own_addresses};
use crate::environment::kernel_test;
use crate::random::{COMBINATIONS, Numbers, PACKETS, Tally, rulesets_and_seed};
use crate::support::tools::Backend;

/// Of so many rulesets one goes through all tables.
const OF: u64 = 4;
/// The source port of a batch's first packet; each has one of its own, so that each is a connection of its own.
const FIRST_PORT: u16 = 20_000;

/// One test for each backend, family and hook.
pub fn all() -> Vec<Trial> {
    let (rulesets, seed) = rulesets_and_seed();
    let each = rulesets.div_ceil(COMBINATIONS).div_ceil(OF);
    let mut tests = Vec::new();
    for backend in Backend::ALL {
        for family in Family::ALL {
            for hook in Hook::ALL {
                let number = tests.len() as u64;
                let place = format!("tables {backend}-{}-{hook}", family.keyword());
                let name = format!("random::{}", place.replace(' ', "::"));
                tests.push(kernel_test(name, backend, move || {
                    run((backend, family, hook), seed..seed + each, place, number)
                        .map_err(Failed::from)
                        .map(|()| Completion::Completed)
                }));
            }
        }
    }
    tests
}

fn run(
    (backend, family, hook): (Backend, Family, Hook),
    seeds: std::ops::Range<u64>,
    place: String,
    number: u64,
) -> Result<(), String> {
    let bench = Bench::new(backend, family, hook)?;
    let mut tally = Tally::new(place);
    for seed in seeds {
        // Other numbers than the filter table's tests draw.
        let mut numbers = Numbers::new((seed * COMBINATIONS + number) ^ 0x7ab1e5 << 32);
        let text = Writer {
            numbers: &mut numbers,
            family,
        }
        .ruleset(hook);
        let again = format!("FWC_SEED={seed} FWC_RULESETS=1");
        let ruleset = Ruleset::from_text(&text, family)
            .map_err(|error| format!("{again}: {error}\n{text}"))?;
        let packets: Vec<Sent> = (FIRST_PORT..)
            .take(PACKETS)
            .map(|port| sent(&mut numbers, family, hook, port))
            .collect();
        let counted = compare(&bench, &text, &ruleset, &packets)
            .map_err(|error| format!("{again}\n{error}\n{text}"))?;
        engine_agrees(&ruleset, hook, &packets)
            .map_err(|error| format!("{again}\n{error}\n{text}"))?;
        let rules = places(&ruleset).into_iter().zip(&counted);
        let rules = rules.filter_map(|((table, _, id), count)| {
            let id = id?;
            let table = ruleset.table(table)?;
            Some((&table.chains[id.chain].rules[id.rule], *count))
        });
        tally.add(rules, family, packets.iter().map(|sent| sent.packet.state));
    }
    tally.finish(quota(hook))
}

/// What every place has to meet.
fn quota(hook: Hook) -> BTreeSet<String> {
    let mut all = vec![
        "-s",
        "-d",
        "tcp ports",
        "udp ports",
        "conntrack",
        "conntrack !",
        "mark",
        "connmark",
        "jump",
        "goto",
        "target ACCEPT",
        "target DROP",
        "target RETURN",
        "target LOG",
        "target MARK",
        "target CONNMARK",
        "target CT",
        "target NOTRACK",
        "target TOS",
        "target DSCP",
        "target SNAT",
        "target NETMAP",
        "packets NEW",
        "packets INVALID",
        "packets ESTABLISHED",
    ];
    if hook != Hook::Input {
        all.push("target MASQUERADE");
    }
    if hook != Hook::Output {
        all.push("target REDIRECT");
    }
    all.push("target DNAT");
    all.into_iter().map(str::to_owned).collect()
}

/// A packet; the first ones are of connections that were there before.
fn sent(numbers: &mut Numbers, family: Family, hook: Hook, port: u16) -> Sent {
    let mut packet = packet(numbers, family, hook, port);
    let other: IpAddr = numbers.of(&hosts(family)).parse().expect("an address");
    let known = match port - FIRST_PORT {
        0 => Some(Known::Plain),
        1 | 2 if other != packet.destination => Some(Known::To(other)),
        3 if other != packet.source => Some(Known::From(other)),
        _ => None,
    };
    if let Some(known) = known {
        (packet.protocol, packet.tcp_flags) = (17, None);
        packet.state = State::Established;
        packet.translated = Translated {
            source: matches!(known, Known::From(_)),
            destination: matches!(known, Known::To(_)),
        };
    }
    Sent { packet, known }
}

fn packet(numbers: &mut Numbers, family: Family, hook: Hook, port: u16) -> Packet {
    let wire = numbers.below(WIRES.len());
    let protocol = numbers.of(&[6, 17]);
    let address = |numbers: &mut Numbers| -> IpAddr {
        numbers.of(&hosts(family)).parse().expect("an address")
    };
    // Flags that open no connection.
    let invalid = protocol == 6 && numbers.percent(10);
    Packet {
        family,
        hook,
        in_device: (hook != Hook::Output).then(|| WIRES[wire].to_owned()),
        out_device: match hook {
            Hook::Input => None,
            Hook::Forward => Some(WIRES[1 - wire].to_owned()),
            Hook::Output => Some(WIRES[wire].to_owned()),
        },
        source: address(numbers),
        destination: address(numbers),
        protocol,
        source_port: Some(port),
        destination_port: Some(numbers.of(&PORTS)),
        icmp: None,
        tcp_flags: (protocol == 6).then_some(match invalid {
            true => TcpFlags(3),
            false => TcpFlags::SYN,
        }),
        state: if invalid { State::Invalid } else { State::New },
        hop_limit: numbers.of(&[62, 63, 64]),
        mark: match hook {
            Hook::Output => numbers.of(&[0, 0, 1, 2]),
            _ => 0,
        },
        mac: None,
        translated: Translated::default(),
    }
}

/// What the bench knows of a packet's connection, and of its own host.
struct Answers<'a>(&'a Sent);

fn own_address(family: Family, device: Option<&str>) -> Option<IpAddr> {
    let number = WIRES.iter().position(|wire| Some(*wire) == device)?;
    own_addresses(family)[number].parse().ok()
}

/// Whether a connection that began with such a packet has this original end.
fn is_original(packet: &Packet, setting: &str, value: &str) -> bool {
    if setting == "ctorigdst" {
        return value.parse() == Ok(packet.destination);
    }
    let (first, last) = value.split_once(':').unwrap_or((value, value));
    let port = |text: &str| text.parse::<u16>().ok();
    port(first) <= packet.destination_port && packet.destination_port <= port(last)
}

/// Whether a packet as it is sent has what `dscp` or `tos` asks.
fn type_of_service_is(module: &Module) -> Option<bool> {
    let [setting] = &module.settings[..] else {
        return None;
    };
    let asked = Tos::asked(module.name, setting.name, &setting.value)?;
    Some((OURS & asked.mask == asked.value) != setting.negated)
}

impl Unknowns for Answers<'_> {
    fn holds(&mut self, asked: UndecidedCondition<'_>) -> Option<bool> {
        let conntrack = match asked.condition {
            Match::Conntrack(conntrack) => conntrack,
            Match::Other(module) => return type_of_service_is(module),
            _ => return None,
        };
        let mut settings = conntrack.settings.iter();
        Some(settings.all(|one| is_original(&self.0.packet, one.name, &one.value) != one.negated))
    }

    fn address(&mut self, nat: &NatTarget, packet: &Packet) -> Option<IpAddr> {
        match nat.kind {
            NatKind::Redirect => own_address(packet.family, packet.in_device.as_deref()),
            _ => None,
        }
    }

    fn destination(&mut self, packet: &Packet) -> Option<(IpAddr, Option<u16>)> {
        match self.0.known? {
            Known::To(address) => Some((address, packet.destination_port)),
            _ => Some((packet.destination, packet.destination_port)),
        }
    }
}

fn walked(ruleset: &Ruleset, sent: &Sent) -> Result<WalkTrace, String> {
    let mark = sent.known.map_or(0, |_| KNOWN_MARK);
    follow(ruleset, &sent.packet, mark, &mut Answers(sent))
        .map_err(|error| format!("{}: {error}", sent.packet))
}

/// The counters in the order of the file: a table's chain, and its rule or its policy.
fn places(ruleset: &Ruleset) -> Vec<(TableName, usize, Option<RuleId>)> {
    let mut all = Vec::new();
    for table in &ruleset.tables {
        for (chain, of) in table.chains.iter().enumerate() {
            all.extend(of.policy.map(|_| (table.name, chain, None)));
            let rules = 0..of.rules.len();
            all.extend(rules.map(|rule| (table.name, chain, Some(RuleId { chain, rule }))));
        }
    }
    all
}

fn expected(ruleset: &Ruleset, packets: &[Sent]) -> Result<(Vec<u64>, Vec<WalkTrace>), String> {
    let places = places(ruleset);
    let index: HashMap<_, _> = places
        .iter()
        .enumerate()
        .map(|(at, place)| (*place, at))
        .collect();
    let mut counts = vec![0; places.len()];
    let mut journeys = Vec::new();
    for sent in packets {
        let journey = walked(ruleset, sent)?;
        for step in &journey.steps {
            let table = ruleset.table(step.table).ok_or("no table")?;
            let chain = table
                .chains
                .iter()
                .position(|chain| &*chain.name == step.chain);
            let chain = chain.ok_or("no chain")?;
            for id in &step.walk.counted {
                counts[index[&(step.table, id.chain, Some(*id))]] += 1;
            }
            if step.walk.decided.is_none() {
                counts[index[&(step.table, chain, None)]] += 1;
            }
        }
        journeys.push(journey);
    }
    Ok((counts, journeys))
}

fn compare(
    bench: &Bench,
    text: &str,
    ruleset: &Ruleset,
    packets: &[Sent],
) -> Result<Vec<u64>, String> {
    let (expected_counts, journeys) = expected(ruleset, packets)?;
    let total: u64 = expected_counts.iter().sum();
    let enough = |counted: &[u64]| counted.iter().sum::<u64>() >= total;
    let (counted, left) = bench.batch(text, packets, &enough)?;
    if counted == expected_counts {
        return what_left(packets, &journeys, &left).map(|()| counted);
    }
    for sent in packets {
        let one = std::slice::from_ref(sent);
        let (expected_counts, _) = expected(ruleset, one)?;
        let total: u64 = expected_counts.iter().sum();
        let (counted, left) =
            bench.batch(text, one, &|counted| counted.iter().sum::<u64>() >= total)?;
        if counted != expected_counts {
            let lines = differences(ruleset, &expected_counts, &counted);
            return Err(format!("{sent:?}\n{lines}{left:?}"));
        }
    }
    let lines = differences(ruleset, &expected_counts, &counted);
    Err(format!("all packets together, none by itself\n{lines}"))
}

fn differences(ruleset: &Ruleset, expected: &[u64], counted: &[u64]) -> String {
    let places = places(ruleset);
    if counted.len() != places.len() {
        return format!(
            "{} counters, but {} were expected\n",
            counted.len(),
            places.len()
        );
    }
    let lines = places.into_iter().zip(expected).zip(counted);
    lines
        .filter(|((_, expected), counted)| expected != counted)
        .map(|(((table, chain, id), expected), counted)| {
            let name = ruleset
                .table(table)
                .map_or("", |table| &table.chains[chain].name);
            let what = id.map_or("policy".to_owned(), |id| format!("rule {}", id.rule + 1));
            format!(
                "{} {name} {what}: walker {expected}, kernel {counted}\n",
                table.as_str()
            )
        })
        .collect()
}

/// What passed all tables of FORWARD or OUTPUT is seen outside as the walker says, and nothing else.
fn what_left(
    packets: &[Sent],
    journeys: &[WalkTrace],
    left: &HashMap<u16, Left>,
) -> Result<(), String> {
    for (sent, journey) in packets.iter().zip(journeys) {
        let packet = &sent.packet;
        let passed = journey.verdict == iptables::WalkVerdict::Accept && packet.hook != Hook::Input;
        let end = &journey.packet;
        let masqueraded = journey.steps.iter().any(|step| match &step.walk.verdict {
            iptables::WalkVerdict::Other(target) => {
                matches!(&**target, Target::Nat(nat) if nat.kind == NatKind::Masquerade)
            }
            _ => false,
        });
        let mut source = match sent.known {
            Some(Known::From(address)) if end.state == State::Established => address,
            _ => end.source,
        };
        if masqueraded {
            source = own_address(packet.family, end.out_device.as_deref()).ok_or("no address")?;
            // To an address of its own an IPv6 host speaks from that address (RFC 6724, rule 1).
            let own = own_addresses(packet.family).map(str::parse);
            if packet.family == Family::V6 && own.contains(&Ok(end.destination)) {
                source = end.destination;
            }
        }
        let expected = passed.then(|| Left {
            source,
            destination: end.destination,
            destination_port: end.destination_port.unwrap_or(0),
            device: end.out_device.clone().unwrap_or_default(),
        });
        let port = packet.source_port.unwrap_or(0);
        if left.get(&port) != expected.as_ref() {
            let seen = left.get(&port);
            return Err(format!(
                "{packet}\nwalker {expected:?}\nseen outside {seen:?}"
            ));
        }
    }
    Ok(())
}

/// End, destination and marks of each packet, by the engine and by the walker.
fn engine_agrees(ruleset: &Ruleset, hook: Hook, packets: &[Sent]) -> Result<(), String> {
    let space = Space::new(ruleset.family);
    let behaviour =
        Behaviour::of(&space, ruleset, &Reading::default()).map_err(|error| error.to_string())?;
    let path =
        Path::of(&space, &behaviour, hook, space.all()).map_err(|error| error.to_string())?;
    for sent in packets {
        let packet = &sent.packet;
        let journey = walked(ruleset, sent)?;
        let mark = sent.known.map_or(0, |_| KNOWN_MARK);
        let says = |key: &str| match key.split(' ').collect::<Vec<_>>()[..] {
            ["conntrack", setting, value] => is_original(packet, setting, value),
            [module @ ("dscp" | "tos"), setting, value] => {
                let asked = Tos::asked(module, setting, value);
                asked.is_some_and(|asked| OURS & asked.mask == asked.value)
            }
            _ => key.ends_with(" changes something") && journey.packet.translated.destination,
        };
        let values = space.values_of(packet, says);
        let last = space.values_of(&journey.packet, |_| false);
        let value = |field| match field {
            Field::NewDestination => last(Field::Destination),
            Field::NewDestinationPort => last(Field::DestinationPort),
            Field::NewOutDevice => last(Field::OutDevice),
            Field::ConnectionMark(bit) => (mark >> bit & 1).into(),
            field => values(field),
        };
        let end = path
            .end(&space, value)
            .ok_or_else(|| format!("{packet}: no end"))?;
        let verdict = match &journey.verdict {
            iptables::WalkVerdict::Accept => Verdict::Accept,
            iptables::WalkVerdict::Drop => Verdict::Drop,
            iptables::WalkVerdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
            iptables::WalkVerdict::Other(target) => Verdict::Target(target.to_text().into()),
        };
        let place = journey.steps.last().filter(|_| verdict != Verdict::Accept);
        let place = place.and_then(|step| Some((step.table, BaseChain::from_name(step.chain)?)));
        let after = end.change.value(value);
        let mut fields = vec![Field::Destination, Field::DestinationPort];
        if verdict == Verdict::Accept {
            fields.extend([Field::State, Field::OutDevice, Field::DestinationTranslated]);
            fields.push(Field::HopLimit);
            fields.extend((0..32).map(Field::Mark));
        }
        let other = fields
            .into_iter()
            .find(|field| after(*field) != last(*field));
        if end.verdict != verdict || end.place != place || other.is_some() {
            return Err(format!(
                "{packet}\n{other:?}\nengine {end:#?}\nwalker {journey:#?}"
            ));
        }
    }
    Ok(())
}

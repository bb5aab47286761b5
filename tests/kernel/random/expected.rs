//! What the walker and the engine say of a packet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fwc::analysis::{BaseChain, Behaviour, Field, Reading, Space, Verdict};
use fwc::iptables::{
    self, AddressTypes, Match, Negatable, PacketType, RuleId, Ruleset, SetMatch, Table, TableName,
    Target, Walk, walk,
};
use fwc::net::{Family, IntervalSet, Packet, State, number_of};

use super::bench::state_index;
use super::packets::Sent;
use super::rules::{LOCAL, SERVICE_PORT, SERVICES, addresses, sets};

/// The places of the counters that a packet increases, in the order of [`super::bench::Counts`].
pub fn path(ruleset: &Ruleset, sent: &Sent) -> Result<Vec<usize>, String> {
    let walk = walked(ruleset, sent)?;
    let table = filter(ruleset)?;
    let mut places = HashMap::new();
    let mut policy = None;
    let mut next = 0;
    for (chain, of) in table.chains.iter().enumerate() {
        if of.policy.is_some() {
            policy = policy.or((&*of.name == sent.packet.hook.chain()).then_some(next));
            next += 1;
        }
        for rule in 0..of.rules.len() {
            places.insert(RuleId { chain, rule }, next);
            next += 1;
        }
    }
    let mut path: Vec<usize> = walk.counted.iter().map(|id| places[id]).collect();
    if walk.decided.is_none() {
        path.extend(policy);
    }
    path.push(next + state_index(&sent.packet));
    if walk.verdict == iptables::WalkVerdict::Accept {
        path.push(next + State::ALL.len());
    }
    Ok(path)
}

pub fn filter(ruleset: &Ruleset) -> Result<&Table, String> {
    ruleset
        .table(TableName::Filter)
        .ok_or_else(|| "no filter table".to_owned())
}

fn walked(ruleset: &Ruleset, sent: &Sent) -> Result<Walk, String> {
    let mut answer = |_: RuleId, condition: &Match| answer(sent, condition);
    walk(ruleset, TableName::Filter, &sent.packet, &mut answer).map_err(|error| error.to_string())
}

/// What the bench knows of a packet and the packet alone does not tell.
fn answer(sent: &Sent, condition: &Match) -> Option<bool> {
    let packet = &sent.packet;
    let tracked = !matches!(packet.state, State::Invalid | State::Untracked);
    Some(match condition {
        Match::ConnectionMark(test) => {
            tracked && test.holds(|test| test.matches(sent.connection_mark))
        }
        Match::PacketType(kind) => kind.holds(|kind| *kind == PacketType::Unicast),
        // Packets are sent whole.
        Match::Fragment { negated } => *negated,
        // No connection is translated.
        Match::Conntrack(conntrack) if conntrack.settings.is_empty() => conntrack
            .states?
            .holds(|states| states.contains(packet.state)),
        Match::AddressType(kinds) => {
            let side = |kinds: &Option<Negatable<AddressTypes>>, address| {
                kinds.is_none_or(|kinds| kinds.holds(|kinds| is_of_type(*kinds, address)))
            };
            side(&kinds.source, packet.source) && side(&kinds.destination, packet.destination)
        }
        Match::Set(set) => in_set(set, packet) != set.negated,
        _ => return None,
    })
}

fn is_of_type(kinds: AddressTypes, address: IpAddr) -> bool {
    kinds.names().any(|name| name == type_of(address))
}

/// The type that the routes of the bench give an address.
fn type_of(address: IpAddr) -> &'static str {
    match LOCAL.iter().any(|own| own.parse() == Ok(address)) {
        true => "LOCAL",
        false => "UNICAST",
    }
}

/// Whether it is a member, the `!` aside.
fn in_set(set: &SetMatch, packet: &Packet) -> bool {
    let address = |from_source: bool| match from_source {
        true => packet.source,
        false => packet.destination,
    };
    if &*set.name == SERVICES {
        let port = match set.from_source[1] {
            true => packet.source_port,
            false => packet.destination_port,
        };
        let member = addresses(packet.family)[0].parse::<IpAddr>();
        return member == Ok(address(set.from_source[0]))
            && packet.protocol == 6
            && port == Some(SERVICE_PORT);
    }
    members(packet.family)[&*set.name].contains(number_of(address(set.from_source[0])))
}

fn members(family: Family) -> BTreeMap<String, IntervalSet> {
    let last = family.last_address();
    let network = |text: &&str| {
        let (address, length) = text.split_once('/').expect("a network");
        let first = number_of(address.parse().expect("an address"));
        let length: u32 = length.parse().expect("a length");
        let host = last.count_ones() - length;
        (
            first,
            first | last & !(u128::MAX.checked_shl(host).unwrap_or(0)),
        )
    };
    let sets = sets(family).into_iter();
    sets.map(|(name, members)| {
        (
            name.to_owned(),
            IntervalSet::from_intervals(members.iter().map(network)),
        )
    })
    .collect()
}

/// Verdict, mark and effects of each packet, by the engine and by the walker.
pub fn engine_agrees(ruleset: &Ruleset, packets: &[Sent]) -> Result<(), String> {
    let family = ruleset.family;
    let sets = members(family);
    let reading = Reading {
        sets: &sets,
        ..Reading::default()
    };
    let space = Space::new(family);
    let behaviour = Behaviour::of(&space, ruleset, &reading).map_err(|error| error.to_string())?;
    let keys = keys(ruleset)?;
    for sent in packets {
        let packet = &sent.packet;
        let holds = |key: &str| {
            let routes = key
                .strip_prefix("addrtype ")
                .and_then(|rest| rest.split_once(' '));
            if let Some((side, name)) = routes {
                let address = match side {
                    "source" => packet.source,
                    _ => packet.destination,
                };
                return name == type_of(address);
            }
            keys.get(key)
                .is_some_and(|condition| answer(sent, condition) == Some(true))
        };
        let values = space.values_of(packet, holds);
        let value = |field| match field {
            Field::ConnectionMark(bit) => (sent.connection_mark >> bit & 1).into(),
            other => values(other),
        };
        let place = (TableName::Filter, BaseChain::from(packet.hook));
        let fate = behaviour.fate(&space, place, value);
        let (verdict, mark, effects) = seen(ruleset, sent)?;
        // What is gone has no mark.
        let gone = matches!(verdict, Verdict::Drop | Verdict::Reject(_));
        let engine = (
            fate.verdict,
            if gone { 0 } else { fate.mark },
            fate.effects.into_iter().collect(),
        );
        let walker = (verdict, if gone { 0 } else { mark }, effects);
        if engine != walker {
            return Err(format!("{packet}\nengine {engine:?}\nwalker {walker:?}"));
        }
    }
    Ok(())
}

/// The conditions that the engine does not understand, by the names that it gives them, without `!`.
fn keys(ruleset: &Ruleset) -> Result<BTreeMap<String, Match>, String> {
    let mut keys = BTreeMap::new();
    let rules = filter(ruleset)?
        .chains
        .iter()
        .flat_map(|chain| &chain.rules);
    for condition in rules.flat_map(|rule| &rule.matches) {
        if let Match::Set(set) = condition {
            let mut plain = set.clone();
            plain.negated = false;
            let plain = Match::Set(plain);
            keys.insert(plain.to_text(ruleset.family), plain);
        }
    }
    Ok(keys)
}

type Seen = (Verdict, u32, BTreeSet<Box<str>>);

/// What the walker sees, in the engine's words.
fn seen(ruleset: &Ruleset, sent: &Sent) -> Result<Seen, String> {
    let table = filter(ruleset)?;
    let walk = walked(ruleset, sent)?;
    let text = |target: &Target| -> Box<str> {
        let text = target.to_text();
        text.strip_prefix("-j ").unwrap_or(&text).into()
    };
    let (mut mark, mut effects) = (sent.packet.mark, BTreeSet::new());
    for id in &walk.counted {
        match &table.chains[id.chain].rules[id.rule].target {
            Target::Mark(change) => mark = (mark & !change.mask) ^ change.value,
            target @ Target::Log(_) => drop(effects.insert(text(target))),
            target @ Target::Other(module) if module.name == "NFLOG" => {
                effects.insert(text(target));
            }
            _ => {}
        }
    }
    let verdict = match walk.verdict {
        iptables::WalkVerdict::Accept => Verdict::Accept,
        iptables::WalkVerdict::Drop => Verdict::Drop,
        iptables::WalkVerdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
        iptables::WalkVerdict::Other(target) => Verdict::Target(text(&target)),
    };
    Ok((verdict, mark, effects))
}

//! One packet, twice: by the plain walker and by the engine.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use fwc::analysis::{BaseChain, Behaviour, Space, Verdict};
use fwc::iptables::{self, Match, Negatable, PacketType, Ruleset, Setting, TableName, Target};
use fwc::net::{Packet, State};

/// A condition that is not understood holds or not, by its text alone.
pub fn says(seed: u64, key: &str) -> bool {
    if key.ends_with(" ends the table") {
        return true; // as the walker takes it
    }
    let text = key.split(" of ").next();
    let mut hasher = DefaultHasher::new();
    (seed, text).hash(&mut hasher);
    hasher.finish() % 2 == 0
}

/// The same answers for the walker, which asks about whole matches.
fn oracle(seed: u64, packet: &Packet, condition: &Match) -> bool {
    let tracked = matches!(
        packet.state,
        State::New | State::Established | State::Related
    );
    let says = |key: &str| says(seed, key);
    let each = |module: &str, settings: &[Setting]| {
        let one =
            |one: &Setting| says(&format!("{module} {} {}", one.name, one.value)) != one.negated;
        settings.iter().all(one)
    };
    match condition {
        Match::ConnectionMark(test) => tracked && test.holds(|test| test.matches(0)),
        Match::AddressType(kinds) => {
            let limit = kinds
                .limit
                .map_or(String::new(), |limit| format!(" limit {limit:?}"));
            let side = |side: &str, kinds: &Option<Negatable<iptables::AddressTypes>>| {
                kinds.is_none_or(|kinds| {
                    let names: Vec<&str> = kinds.value.names().collect();
                    says(&format!("addrtype {side} {}{limit}", names.join(","))) != kinds.negated
                })
            };
            side("source", &kinds.source) && side("destination", &kinds.destination)
        }
        Match::Set(set) => {
            let mut plain = set.clone();
            plain.negated = false;
            says(&Match::Set(plain).to_text(packet.family)) != set.negated
        }
        Match::PacketType(kind) => kind.holds(|kind| *kind == PacketType::Unicast),
        Match::State(states) => states.value.contains(packet.state) != states.negated,
        Match::Conntrack(conntrack) => {
            let states = &conntrack.states;
            let plain =
                states.is_none_or(|states| states.value.contains(packet.state) != states.negated);
            let rest = match tracked {
                true => each("conntrack", &conntrack.settings),
                false => states.is_some() || conntrack.settings.is_empty(),
            };
            plain && rest
        }
        Match::Tcp(tcp) => tcp
            .option
            .is_none_or(|one| says(&format!("tcp option {}", one.value)) != one.negated),
        Match::Sctp(_, settings) => each("sctp", settings),
        Match::Dccp(_, settings) => each("dccp", settings),
        Match::Other(module) => match module.name {
            "owner" | "physdev" | "length" | "dscp" | "tos" | "helper" | "realm" | "devgroup" => {
                each(module.name, &module.settings)
            }
            _ => says(&condition.to_text(packet.family)),
        },
        _ => says(&condition.to_text(packet.family)),
    }
}

fn text(target: &Target) -> Box<str> {
    let text = target.to_text();
    text.strip_prefix("-j ").unwrap_or(&text).into()
}

/// Panics where the two disagree.
pub fn agree(
    space: &Space,
    ruleset: &Ruleset,
    behaviour: &Behaviour,
    table: TableName,
    packet: &Packet,
    seed: u64,
) {
    let mut answer = |_, condition: &Match| Some(oracle(seed, packet, condition));
    let walk =
        iptables::walk(ruleset, table, packet, &mut answer).expect("the walker has an answer");
    let rules = ruleset.table(table).expect("the table is there");
    // The walker leaves both marks alone here; the engine does not.
    let rule_of = |id: &iptables::RuleId| &rules.chains[id.chain].rules[id.rule];
    let changes =
        |target: &Target| matches!(target, Target::Other(module) if module.name == "CONNMARK");
    if walk.counted.iter().any(|id| changes(&rule_of(id).target)) {
        return;
    }
    let counted = walk
        .counted
        .iter()
        .map(|id| &rules.chains[id.chain].rules[id.rule].target);
    let (mut mark, mut effects) = (packet.mark, BTreeSet::new());
    for target in counted {
        match target {
            Target::Mark(change) => mark = (mark & !change.mask) ^ change.value,
            Target::Log(_) => drop(effects.insert(text(target))),
            Target::Other(module) => match module.name {
                "NFQUEUE" | "TPROXY" | "SYNPROXY" | "NETMAP" | "CONNMARK" => {}
                _ => drop(effects.insert(text(target))),
            },
            _ => {}
        }
    }
    let verdict = match walk.verdict {
        iptables::Verdict::Accept => Verdict::Accept,
        iptables::Verdict::Drop => Verdict::Drop,
        iptables::Verdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
        iptables::Verdict::Other(target) => match &*target {
            Target::Nat(_) => Verdict::Nat(text(&target)),
            Target::Other(module) if module.name == "NETMAP" => Verdict::Nat(text(&target)),
            _ => Verdict::Target(text(&target)),
        },
    };
    let place = (table, BaseChain::from(packet.hook));
    let fate = behaviour.fate(space, place, space.values_of(packet, |key| says(seed, key)));
    let shown = || {
        format!(
            "{packet:#?}\nrules that counted: {:?}\n{ruleset}",
            walk.counted
        )
    };
    assert_eq!(fate.verdict, verdict, "{}", shown());
    if !matches!(verdict, Verdict::Drop | Verdict::Reject(_)) {
        assert_eq!(fate.mark, mark, "{}", shown());
    }
    let seen = fate
        .effects
        .into_iter()
        .filter(|effect| !effect.starts_with("-m recent"));
    assert_eq!(seen.collect::<BTreeSet<_>>(), effects, "{}", shown());
}

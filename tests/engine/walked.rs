//! One packet, twice: by the plain walker and by the engine.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use fwc::analysis::{BaseChain, Behaviour, Decided, Field, Space, Translation, Verdict};
use fwc::iptables::{
    self, Match, ModuleOption, Negatable, PacketType, RuleId, Ruleset, TableName, Target,
};
use fwc::net::{Packet, State};

/// A condition that is not understood holds or not, by its text alone.
pub fn says(seed: u64, key: &str) -> bool {
    if key.ends_with(" ends the table") {
        return true; // as the walker takes it
    }
    let text = key.split(" of ").next();
    let mut hasher = DefaultHasher::new();
    (seed, text).hash(&mut hasher);
    hasher.finish().is_multiple_of(2)
}

/// The same answers for the walker, which asks about whole matches.
pub fn oracle(says: &dyn Fn(&str) -> bool, packet: &Packet, condition: &Match) -> bool {
    let tracked = matches!(
        packet.state,
        State::New | State::Established | State::Related
    );
    let each = |module: &str, settings: &[ModuleOption]| {
        let one = |one: &ModuleOption| {
            says(&format!("{module} {} {}", one.name, one.value)) != one.negated
        };
        settings.iter().all(one)
    };
    match condition {
        Match::ConnectionMark(test) => tracked && test.holds(|test| test.matches(0)),
        // Packets here are whole.
        Match::Fragment { negated } => *negated,
        Match::AddressType(kinds) => {
            let limit = kinds
                .limit
                .map_or(String::new(), |limit| format!(" limit {limit:?}"));
            let side = |side: &str, address, kinds: &Option<Negatable<iptables::AddressTypes>>| {
                let routes = |name: &str| says(&format!("addrtype {side} {name}{limit}"));
                kinds.is_none_or(|kinds| {
                    let names: Vec<&str> = kinds.value.names().collect();
                    has_type(address, &names, &routes) != kinds.negated
                })
            };
            side("source", packet.source, &kinds.source)
                && side("destination", packet.destination, &kinds.destination)
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
            // It asks for bits of the type of service, as `tos` may.
            "ecn" => module.settings.iter().all(|setting| match setting.name {
                "ecn-ip-ect" => {
                    says(&format!("tos tos 0x0{}/0x03", setting.value)) != setting.negated
                }
                _ => each(module.name, std::slice::from_ref(setting)),
            }),
            // What did not come out of IPsec, or will not go into it, is all the rest.
            "policy" => {
                let text = condition.to_text(packet.family);
                match text.strip_suffix(" --pol none") {
                    Some(rest) => !says(&format!("{rest} --pol ipsec")),
                    None => says(&text),
                }
            }
            _ => says(&condition.to_text(packet.family)),
        },
        _ => says(&condition.to_text(packet.family)),
    }
}

/// Whether an address is of one of these types, by what routes say where the address does not (`xt_addrtype.c`).
fn has_type(address: IpAddr, types: &[&str], routes: &dyn Fn(&str) -> bool) -> bool {
    match address {
        IpAddr::V4(address) => {
            let kind = if address.is_multicast() {
                Some("MULTICAST")
            } else if address.is_broadcast() || address.is_unspecified() {
                Some("BROADCAST")
            } else {
                let kinds = ["LOCAL", "BROADCAST", "UNICAST", "ANYCAST", "BLACKHOLE"];
                let more = ["UNREACHABLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"];
                kinds.into_iter().chain(more).find(|kind| routes(kind))
            };
            kind.is_some_and(|kind| types.contains(&kind))
        }
        IpAddr::V6(address) => {
            let is_mapped = address.to_ipv4_mapped().is_some();
            let is_unicast = !address.is_multicast() && !address.is_unspecified() && !is_mapped;
            let looked_up = ["LOCAL", "ANYCAST", "UNREACHABLE"];
            let mut looked_up = looked_up
                .into_iter()
                .filter(|kind| types.contains(kind))
                .peekable();
            let has = |kind: &str, holds: bool| !types.contains(&kind) || holds;
            has("MULTICAST", address.is_multicast())
                && has("UNICAST", is_unicast)
                && has("UNSPEC", address.is_unspecified())
                && (looked_up.peek().is_none() || !address.is_multicast() && looked_up.any(routes))
        }
    }
}

pub fn text(target: &Target) -> Box<str> {
    let text = target.to_text();
    text.strip_prefix("-j ").unwrap_or(&text).into()
}

/// The same verdict in the engine's words.
pub fn verdict(verdict: &iptables::WalkVerdict) -> Verdict {
    match verdict {
        iptables::WalkVerdict::Accept => Verdict::Accept,
        iptables::WalkVerdict::Drop => Verdict::Drop,
        iptables::WalkVerdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
        iptables::WalkVerdict::Other(target) => match &**target {
            Target::Nat(nat) => Verdict::Nat(Translation::of(nat)),
            _ => Verdict::Target(text(target)),
        },
    }
}

/// What the plain walker sees of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub verdict: Verdict,
    /// 0 for a packet that is gone.
    pub mark: u32,
    pub effects: BTreeSet<Box<str>>,
}

/// Walks a packet; `None` where a target changed the connection's mark, which the walker leaves alone.
pub fn walk(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    says: &dyn Fn(&str) -> bool,
) -> Option<Seen> {
    let mut answer = |_, condition: &Match| Some(oracle(says, packet, condition));
    let walk =
        iptables::walk(ruleset, table, packet, &mut answer).expect("the walker has an answer");
    let rules = ruleset.table(table).expect("the table is there");
    let counted = walk
        .counted
        .iter()
        .map(|id| &rules.chains[id.chain].rules[id.rule].target);
    let (mut mark, mut effects) = (packet.mark, BTreeSet::new());
    // The first decides what connection tracking does; the next leave it alone (`xt_CT.c`).
    let mut tracking_decided = false;
    for target in counted {
        match target {
            Target::Mark(change) => mark = (mark & !change.mask) ^ change.value,
            Target::Log(_) => drop(effects.insert(text(target))),
            Target::Unknown(unknown) if unknown.is_old_log() => {
                effects.insert(text(target));
            }
            Target::Other(module) => match module.name {
                "CONNMARK" => return None,
                "CT" | "NOTRACK" if tracking_decided => {}
                "CT" | "NOTRACK" => {
                    tracking_decided = true;
                    effects.insert(text(target));
                }
                "NFQUEUE" | "TPROXY" | "SYNPROXY" => {}
                _ => drop(effects.insert(text(target))),
            },
            _ => {}
        }
    }
    let verdict = verdict(&walk.verdict);
    let gone = matches!(verdict, Verdict::Drop | Verdict::Reject(_));
    Some(Seen {
        verdict,
        mark: if gone { 0 } else { mark },
        effects,
    })
}

/// The rule that decides by the plain walker; `None` for the chain's policy.
pub fn decider(
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    says: &dyn Fn(&str) -> bool,
) -> Option<RuleId> {
    let mut answer = |_, condition: &Match| Some(oracle(says, packet, condition));
    let walk = iptables::walk(ruleset, table, packet, &mut answer).expect("an answer");
    walk.decided
}

/// The rule that decides by the plain walker, `None` for the chain's policy, and by the engine's search; panics where
/// they are not the same.
pub fn decided(
    space: &Space,
    ruleset: &Ruleset,
    table: TableName,
    packet: &Packet,
    deciders: &[Decided],
    seed: u64,
) {
    let says = |key: &str| says(seed, key);
    let mut answer = |_, condition: &Match| Some(oracle(&says, packet, condition));
    let walk = iptables::walk(ruleset, table, packet, &mut answer).expect("an answer");
    let rules = ruleset.table(table).expect("the table is there");
    let changes = |id: &RuleId| {
        let target = &rules.chains[id.chain].rules[id.rule].target;
        matches!(target, Target::Other(module) if module.name == "CONNMARK")
    };
    if walk.counted.iter().any(changes) {
        return; // the walker leaves the connection's mark alone
    }
    let value = space.values_of(packet, says);
    let mut found = deciders
        .iter()
        .filter(|one| space.contains(one.packets, &value));
    let rule = found.next().map(|one| one.rule);
    assert_eq!(
        rule,
        Some(walk.decided),
        "engine, walker; {packet:#?}\n{ruleset}"
    );
    assert!(found.next().is_none(), "decided twice: {packet:#?}");
}

/// What the engine says of it, in the same words.
pub fn fate(
    space: &Space,
    behaviour: &Behaviour,
    table: TableName,
    packet: &Packet,
    value: impl Fn(Field) -> u128,
) -> Seen {
    let fate = behaviour.fate(space, (table, BaseChain::from(packet.hook)), value);
    let gone = matches!(fate.verdict, Verdict::Drop | Verdict::Reject(_));
    // The walker does not tell who was written into a list.
    let effects = fate
        .effects
        .into_iter()
        .filter(|effect| !effect.starts_with("-m recent"));
    Seen {
        verdict: fate.verdict,
        mark: if gone { 0 } else { fate.mark },
        effects: effects.collect(),
    }
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
    let says = |key: &str| says(seed, key);
    if let Some(walked) = walk(ruleset, table, packet, &says) {
        let seen = fate(
            space,
            behaviour,
            table,
            packet,
            space.values_of(packet, says),
        );
        assert_eq!(seen, walked, "engine, walker; {packet:#?}\n{ruleset}");
    }
}

//! How much was tried of what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use fwc::iptables::{HopLimitMatch, Match, PortSide, Reject, Rule, Target};
use fwc::net::{Family, Hook, State};

use super::rules::rejects;

/// From this number of rulesets on, every feature of the place must have been met.
const ENOUGH: usize = 60;

/// What one place (backend, family, hook) tried.
pub struct Tally {
    place: String,
    started: Instant,
    seconds: f32,
    rulesets: usize,
    packets: usize,
    /// Rules that packets matched, all packets counted.
    matched: u64,
    /// For each feature: rules, and packets that matched them.
    features: BTreeMap<String, (u64, u64)>,
}

static DONE: Mutex<Vec<Tally>> = Mutex::new(Vec::new());

impl Tally {
    pub fn new(place: String) -> Self {
        Self {
            place,
            started: Instant::now(),
            seconds: 0.0,
            rulesets: 0,
            packets: 0,
            matched: 0,
            features: BTreeMap::new(),
        }
    }

    /// Adds a batch: its rules and what the kernel counted of each, and the states of its packets.
    pub fn add<'a>(
        &mut self,
        rules: impl IntoIterator<Item = (&'a Rule, u64)>,
        family: Family,
        states: impl Iterator<Item = State>,
    ) {
        self.rulesets += 1;
        for (rule, packets) in rules {
            self.matched += packets;
            for feature in features(rule, family) {
                self.add_feature(feature, packets);
            }
        }
        for state in states {
            self.packets += 1;
            self.add_feature(format!("packets {}", state.keyword()), 1);
        }
    }

    fn add_feature(&mut self, feature: String, packets: u64) {
        let entry = self.features.entry(feature).or_default();
        entry.0 += 1;
        entry.1 += packets;
    }

    /// Keeps the numbers for the table; an error where something was never met.
    pub fn finish(mut self, quota: BTreeSet<String>) -> Result<(), String> {
        let missing: Vec<String> = quota
            .into_iter()
            .filter(|feature| {
                self.features
                    .get(feature)
                    .is_none_or(|(_, packets)| *packets == 0)
            })
            .collect();
        self.seconds = self.started.elapsed().as_secs_f32();
        let enough = self.rulesets >= ENOUGH;
        DONE.lock().expect("the tallies").push(self);
        match missing.is_empty() || !enough {
            true => Ok(()),
            false => Err(format!("no packet met {}", missing.join(", "))),
        }
    }
}

/// What every place has to meet.
pub fn quota(family: Family, hook: Hook) -> BTreeSet<String> {
    let (protocol, hops) = match family {
        Family::V4 => ("icmp", "ttl"),
        Family::V6 => ("icmp6", "hl"),
    };
    let mut features: BTreeSet<String> = [
        "-s",
        "-s !",
        "-d",
        "-d !",
        "-p",
        "-p !",
        "tcp ports",
        "tcp flags",
        "tcp flags !",
        "udp ports",
        "multiport source",
        "multiport destination",
        "multiport either",
        "multiport !",
        "conntrack",
        "conntrack !",
        "state",
        "state !",
        "mark",
        "mark !",
        "connmark",
        "connmark !",
        "iprange",
        "iprange !",
        "pkttype",
        "set",
        "set !",
        "set of ports",
        "target none",
        "target ACCEPT",
        "target DROP",
        "target RETURN",
        "target LOG",
        "target NFLOG",
        "target MARK",
        "target NFQUEUE",
        "jump",
        "goto",
        "REJECT tcp-reset",
    ]
    .map(str::to_owned)
    .into();
    features.extend([protocol, hops].map(str::to_owned));
    features.extend(fwc::net::State::ALL.map(|state| format!("packets {}", state.keyword())));
    features.extend(rejects(family).iter().map(|kind| format!("REJECT {kind}")));
    features.insert(format!("{protocol} !"));
    if hook != Hook::Output {
        features.extend(["-i", "-i !", "-i pattern", "mac", "mac !"].map(str::to_owned));
    }
    if hook != Hook::Input {
        features.extend(["-o", "-o !", "-o pattern"].map(str::to_owned));
    }
    if family == Family::V4 {
        features.extend(["addrtype", "addrtype !"].map(str::to_owned));
    }
    features
}

fn features(rule: &Rule, family: Family) -> Vec<String> {
    let mut features = Vec::new();
    let mut add = |name: &str, negated: bool| {
        features.push(format!("{name}{}", if negated { " !" } else { "" }));
    };
    for condition in &rule.matches {
        match condition {
            Match::Source(network) => add("-s", network.negated),
            Match::Destination(network) => add("-d", network.negated),
            Match::InInterface(name) | Match::OutInterface(name) => {
                let option = match condition {
                    Match::InInterface(_) => "-i",
                    _ => "-o",
                };
                add(option, name.negated);
                if name.value.prefix().is_some() {
                    add(&format!("{option} pattern"), false);
                }
            }
            Match::Protocol(protocol) => add("-p", protocol.negated),
            Match::Fragment { negated } => add("fragment", *negated),
            Match::Tcp(tcp) => match &tcp.flags {
                Some(flags) => add("tcp flags", flags.negated),
                None => add("tcp ports", false),
            },
            Match::Udp(_) => add("udp ports", false),
            Match::Sctp(..) => add("sctp ports", false),
            Match::Multiport(multiport) => {
                let side = match multiport.value.side {
                    PortSide::Source => "source",
                    PortSide::Destination => "destination",
                    PortSide::Either => "either",
                };
                add(&format!("multiport {side}"), false);
                if multiport.negated {
                    add("multiport", true);
                }
            }
            Match::Icmp(kind) => {
                let v6 = family == Family::V6;
                add(if v6 { "icmp6" } else { "icmp" }, kind.negated);
            }
            Match::Conntrack(conntrack) => {
                add(
                    "conntrack",
                    conntrack.states.is_some_and(|states| states.negated),
                );
            }
            Match::State(states) => add("state", states.negated),
            Match::Mark(test) => add("mark", test.negated),
            Match::ConnectionMark(test) => add("connmark", test.negated),
            Match::Mac(mac) => add("mac", mac.negated),
            Match::AddressRange(range) => {
                let sides = [&range.source, &range.destination];
                add(
                    "iprange",
                    sides.into_iter().flatten().any(|side| side.negated),
                );
            }
            Match::HopLimit(limit) => {
                let negated = matches!(limit, HopLimitMatch::Equal(value) if value.negated);
                add(if family == Family::V6 { "hl" } else { "ttl" }, negated);
            }
            Match::PacketType(kind) => add("pkttype", kind.negated),
            Match::AddressType(kinds) => {
                let sides = [kinds.source, kinds.destination];
                add(
                    "addrtype",
                    sides.into_iter().flatten().any(|side| side.negated),
                );
            }
            Match::Set(set) if set.from_source.len() > 1 => add("set of ports", false),
            Match::Set(set) => add("set", set.negated),
            _ => {}
        }
    }
    features.push(match &rule.target {
        Target::None => "target none".to_owned(),
        Target::Jump(_) => "jump".to_owned(),
        Target::Goto(_) => "goto".to_owned(),
        Target::Reject(Reject::TcpReset) => "REJECT tcp-reset".to_owned(),
        Target::Reject(Reject::Icmp(kind)) => format!("REJECT {kind}"),
        target => {
            let text = target.to_text();
            format!("target {}", text.split(' ').nth(1).unwrap_or_default())
        }
    });
    features
}

/// What was tried, place by place and feature by feature; empty where nothing was.
pub fn table() -> String {
    let mut done = DONE.lock().expect("the tallies");
    if done.is_empty() {
        return String::new();
    }
    done.sort_by(|one, two| one.place.cmp(&two.place));
    let mut text = "\nrandom rulesets: kernel and walker count the same rules\n".to_owned();
    let mut features: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tally in done.iter() {
        let Tally {
            place,
            rulesets,
            packets,
            matched,
            seconds,
            ..
        } = tally;
        let _ = writeln!(
            text,
            "  {place:27} {rulesets:5} rulesets {packets:7} packets {matched:8} matches {seconds:6.1} s"
        );
        for (feature, (rules, packets)) in &tally.features {
            let entry = features.entry(feature).or_default();
            entry.0 += rules;
            entry.1 += packets;
        }
    }
    let _ = writeln!(text, "  {:28} {:>8} {:>9}", "feature", "rules", "matches");
    for (feature, (rules, packets)) in features {
        let _ = writeln!(text, "  {feature:28} {rules:8} {packets:9}");
    }
    text
}

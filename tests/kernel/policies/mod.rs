//! Random policies against the kernel: limits over time, nat, output, raw, mangle, `lo` and ICMP errors about known flows.
//!
//! Every packet is sent for real. The kernel's counters of all rules are held against the walker, and each packet's verdict,
//! mark and addresses against the policy's own words. `FWC_POLICIES` says how many policies there are in all, `FWC_SEED` with
//! which seed they begin; with `FWC_STATE`, a folder, a run goes on where the last one stopped, and writes each
//! disagreement into a file there instead of ending with the first (`scripts/policies` does that).

mod bench;
mod buckets;
mod expected;
mod packets;
mod state;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::expand::{Templates, expand};
use fwc::internals::resolve::{Members, Plan, resolve};
use fwc::iptables::{Match, Ruleset};
use fwc::net::{Family, PerFamily};
use fwc::policy::{self, Policy};
use fwc::source::SourceMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use libtest_mimic::{Completion, Failed, Trial};

use self::bench::{Bench, Load, Sent, Ways};
use self::buckets::Fill;
use self::expected::{Expected, Judge, Place, Unjudged};
use self::packets::Packets;
use self::state::State;
use crate::environment::kernel_test;
use crate::generate::{Random, Sample, sample};
use crate::random::setting;
use crate::support::tools::Backend;

/// How many policies there are without a word about it.
const POLICIES: u64 = 120;
/// Packets of a round.
const PACKETS: usize = 60;
/// A packet takes a moment; only a machine that stands still takes this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the counters are looked at before a difference is one.
const LOOKS: usize = 10;
/// How often a batch is sent until its rounds are quick enough for its buckets.
const ATTEMPTS: usize = 4;
/// Of the policies with limits one in so many has a second round.
const PAUSED: usize = 4;
/// The pauses between rounds that are tried, in tenths of a second.
const PAUSES: std::ops::Range<u64> = 3..26;

/// One test for each backend and family.
pub fn all() -> Vec<Trial> {
    let places: Vec<_> = Backend::ALL
        .into_iter()
        .flat_map(|backend| Family::ALL.map(|family| (backend, family)))
        .collect();
    let count = places.len() as u64;
    let (policies, first) = (setting("FWC_POLICIES", POLICIES), setting("FWC_SEED", 1));
    let tests = places
        .into_iter()
        .zip(0..)
        .map(|((backend, family), number)| {
            let place = format!("{backend}-{}", family.keyword());
            kernel_test(format!("policies::{place}"), backend, move || {
                // Each place has seeds of its own.
                let seeds = (first..).map(|seed| (seed, seed * count + number));
                run(backend, family, &place, policies.div_ceil(count), seeds)
                    .map_err(Failed::from)
                    .map(|()| Completion::Completed)
            })
        });
    let own = Trial::test("policies::buckets_refill", || Ok(buckets::refill()?));
    tests.chain([own]).collect()
}

fn run(
    backend: Backend,
    family: Family,
    place: &str,
    policies: u64,
    seeds: impl Iterator<Item = (u64, u64)>,
) -> Result<(), String> {
    let mut state = State::open(place)?;
    let bench = Bench::new(backend, family)?;
    for (seed, number) in seeds {
        if state.judged >= policies {
            break;
        }
        if seed < state.next {
            continue;
        }
        let outcome = one_policy(&bench, number);
        let again =
            format!("FWC_SEED={seed} FWC_POLICIES=4 cargo test --test kernel policies::{place}");
        state.note(seed, outcome, &again)?;
    }
    state.finish()
}

/// What became of one policy.
enum Outcome {
    /// `resolve` does not take it.
    Refused,
    /// So many packets were judged, and all agreed.
    Agreed {
        packets: u64,
        matched: u64,
        paused: bool,
    },
    /// The machine was too slow for its limits.
    TooSlow,
    /// The kernel chose something.
    Unjudged,
    /// Something does otherwise than something else says.
    Disagreed(String),
}

struct Compiled {
    policy: Policy,
    plan: Plan,
    text: PerFamily<String>,
    sets: String,
}

fn compile(text: &str) -> Option<Compiled> {
    let folder = tempfile::tempdir().ok()?;
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, text).ok()?;
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(&path, Access::Read, &mut sources, &mut sink)?;
    let plan = resolve(&policy, &mut sink)?;
    let templates = Templates::built_in(&mut sink).expect("the built-in templates");
    let rendered = expand(&plan, &templates).expect("rules");
    Some(Compiled {
        policy,
        plan,
        text: rendered.texts(),
        sets: rendered.ipsets.unwrap_or_default(),
    })
}

/// A policy without what no walker can know: how many connections there are.
fn policy_of(random: &mut Random) -> Sample {
    let mut sample = sample(random);
    let lines = sample.text.lines();
    let kept = lines.filter(|line| !line.starts_with("connections = "));
    sample.text = kept.map(|line| format!("{line}\n")).collect();
    sample
}

fn one_policy(bench: &Bench, number: u64) -> Outcome {
    let mut random = Random(number);
    let sample = policy_of(&mut random);
    let Some(compiled) = compile(&sample.text) else {
        return Outcome::Refused;
    };
    let family = bench.family;
    let text = &compiled.text[family];
    let ruleset = match Ruleset::from_text(text, family) {
        Ok(ruleset) => ruleset,
        Err(error) => return Outcome::Disagreed(format!("{error}\n{text}")),
    };
    let mut local = sample.some_addresses(&mut random, family, 2);
    local.sort();
    local.dedup();
    let ways = Ways {
        all: packets::ways(&mut random),
        local: local
            .into_iter()
            .filter(|it| packets::is_ordinary(*it))
            .collect(),
    };
    let others = sets_of_others(&mut random, &sample, &compiled.plan, text, family);
    let members = expected::members(&compiled.plan, family, &others);
    let mut packets = Packets::new(&mut random, &sample, family, &ways);
    let mut rounds = vec![Vec::new()];
    while rounds[0].len() < PACKETS {
        rounds[0].extend(packets.some());
    }
    let flows = packets.flows.clone();
    let fills = fills(&ruleset);
    let mut pauses: Vec<u64> = PAUSES.collect();
    pauses.retain(|tenths| fills.iter().all(|fill| tells(*fill, *tenths)));
    let pause = match packets.random().once_in(PAUSED) && !fills.is_empty() && !pauses.is_empty() {
        true => Some(Duration::from_millis(100 * *packets.random().pick(&pauses))),
        false => None,
    };
    if pause.is_some() {
        let again: Vec<_> = rounds[0].clone();
        rounds.push(
            again
                .iter()
                .filter_map(|sent| packets.again(sent))
                .collect(),
        );
    }
    let load = Load {
        rules: text,
        sets: &sets_text(&compiled, family, &others),
        flows: &flows,
        ways: &ways,
    };
    let mut judge = Judge {
        policy: &compiled.policy,
        plan: &compiled.plan,
        ruleset: &ruleset,
        ways: &ways,
        flows: &flows,
        members: &members,
        now: now(),
    };
    let rounds = judge.judged(rounds);
    let disagreed = |error: String| Outcome::Disagreed(format!("{error}\n{}\n{text}", sample.text));
    for _ in 0..ATTEMPTS {
        judge.now = now();
        let (expected, kernel) =
            match send(bench, &load, &judge, &rounds, pause.unwrap_or_default()) {
                Ok(sent) => sent,
                Err(Failure::TooSlow) => continue,
                Err(Failure::Choice) => return Outcome::Unjudged,
                Err(Failure::Other(error)) => return disagreed(error),
            };
        // The time of day is asked by some rules.
        if judge.now != now() && text.contains("-m time") {
            continue;
        }
        if let Some(one) = expected.disagreements.first() {
            return disagreed(one.clone());
        }
        let differences = differences(&ruleset, &expected, &kernel);
        if differences.is_empty() {
            let packets = rounds.iter().map(Vec::len).sum::<usize>() as u64;
            let matched = expected.counts.values().sum();
            let paused = pause.is_some();
            return Outcome::Agreed {
                packets,
                matched,
                paused,
            };
        }
        return disagreed(narrow(bench, &load, &judge, &rounds, &differences));
    }
    Outcome::TooSlow
}

enum Failure {
    TooSlow,
    Choice,
    Other(String),
}

/// Sends a batch, and waits until the kernel has counted what is expected, or nothing more.
fn send(
    bench: &Bench,
    load: &Load<'_>,
    judge: &Judge<'_>,
    rounds: &[Vec<Sent>],
    pause: Duration,
) -> Result<(Expected, Ruleset), Failure> {
    let (times, mut kernel) = bench.batch(load, rounds, pause).map_err(Failure::Other)?;
    let expected = judge
        .expect(rounds, &times)
        .map_err(|unjudged| match unjudged {
            Unjudged::TooSlow => Failure::TooSlow,
            Unjudged::Packet => Failure::Choice,
        })?;
    // All have arrived; the last may be on its way through the tables, or on `lo`. More than is expected is wrong at once.
    let wanted: u64 = expected.counts.values().sum();
    let deadline = Instant::now() + PATIENCE;
    let mut looks = 0;
    while !differences(judge.ruleset, &expected, &kernel).is_empty()
        && (total(&kernel) < wanted || looks < LOOKS)
        && Instant::now() < deadline
    {
        looks += 1;
        std::thread::sleep(Duration::from_millis(20));
        kernel = bench.counted().map_err(Failure::Other)?;
    }
    Ok((expected, kernel))
}

/// What all rules and policies of the tables have counted.
fn total(kernel: &Ruleset) -> u64 {
    let chains = kernel.tables.iter().flat_map(|table| &table.chains);
    let counted = chains.map(|chain| {
        let rules = chain.rules.iter().filter_map(|rule| rule.counters);
        chain.counters.packets + rules.map(|counters| counters.packets).sum::<u64>()
    });
    counted.sum()
}

/// The first packet for which the counters differ when it is alone.
fn narrow(
    bench: &Bench,
    load: &Load<'_>,
    judge: &Judge<'_>,
    rounds: &[Vec<Sent>],
    all: &str,
) -> String {
    for sent in rounds.iter().flatten() {
        let one = [vec![sent.clone()]];
        match send(bench, load, judge, &one, Duration::ZERO) {
            Ok((expected, kernel)) => {
                let differences = differences(judge.ruleset, &expected, &kernel);
                if !differences.is_empty() {
                    let (ways, flow) = (load.ways, sent.flow.map(|flow| &load.flows[flow]));
                    let around = bench.surroundings();
                    return format!("{sent:?}\n{flow:?}\n{ways:?}\n{differences}{around}");
                }
            }
            Err(Failure::Other(error)) => return format!("{sent:?}\n{error}"),
            Err(_) => {}
        }
    }
    format!("all packets together, none by itself\n{all}")
}

/// Where the kernel counted something else, a line each.
fn differences(ruleset: &Ruleset, expected: &Expected, kernel: &Ruleset) -> String {
    let mut lines = String::new();
    for table in &ruleset.tables {
        for (number, chain) in table.chains.iter().enumerate() {
            let there = kernel
                .table(table.name)
                .and_then(|table| table.chain(&chain.name));
            let Some(there) = there else {
                lines += &format!(
                    "{} {}: not in the kernel\n",
                    table.name.as_str(),
                    chain.name
                );
                continue;
            };
            let mut compare = |what: String, place: Place, counted: u64| {
                let wanted = expected.counts.get(&place).copied().unwrap_or(0);
                if wanted != counted {
                    let (table, chain) = (table.name.as_str(), &chain.name);
                    lines +=
                        &format!("{table} {chain} {what}: walker {wanted}, kernel {counted}\n");
                }
            };
            if chain.policy.is_some() {
                let counted = there.counters.packets;
                compare("policy".to_owned(), (table.name, number, None), counted);
            }
            for rule in 0..chain.rules.len().max(there.rules.len()) {
                let id = fwc::iptables::RuleId {
                    chain: number,
                    rule,
                };
                let counted = there.rules.get(rule).and_then(|rule| rule.counters);
                let counted = counted.map_or(0, |counters| counters.packets);
                compare(
                    format!("rule {}", rule + 1),
                    (table.name, number, Some(id)),
                    counted,
                );
            }
        }
    }
    lines
}

/// The rates and bursts of the rules.
fn fills(ruleset: &Ruleset) -> Vec<Fill> {
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let matches = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.matches);
    let modules = matches.filter_map(|one| match one {
        Match::Other(module) => Fill::of_module(module),
        _ => None,
    });
    modules.collect()
}

/// Whether it is clear after so many tenths of a second how many tokens are there, whatever was taken.
fn tells(fill: Fill, tenths: u64) -> bool {
    let more = fill.per_second * tenths as f64 / 10.0;
    more >= fill.burst + 0.3 || (0.15..0.85).contains(&more.fract())
}

fn now() -> jiff::civil::DateTime {
    let now = Timestamp::now().to_zoned(TimeZone::UTC).datetime();
    let minute = now.time().with().second(0).subsec_nanosecond(0).build();
    now.with()
        .time(minute.expect("a minute"))
        .build()
        .expect("a moment")
}

/// Members for the sets that somebody else fills, by the kernel's name.
fn sets_of_others(
    random: &mut Random,
    sample: &Sample,
    plan: &Plan,
    text: &str,
    family: Family,
) -> Vec<(String, Vec<IpAddr>)> {
    let prefix = match family {
        Family::V4 => "fwc4-",
        Family::V6 => "fwc6-",
    };
    let dynamic = plan
        .sets
        .iter()
        .filter(|set| matches!(set.members, Members::Dynamic { .. }));
    let mut names: Vec<String> = dynamic.map(|set| format!("{prefix}{}", set.name)).collect();
    for named in text.split(" --match-set ").skip(1) {
        let name = named.split(' ').next().unwrap_or_default();
        if !name.starts_with("fwc") && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let names = names.into_iter();
    let some = |name: String| {
        let mut members = sample.some_addresses(random, family, 3);
        members.retain(|address| packets::is_ordinary(*address));
        (name, members)
    };
    names.map(some).collect()
}

/// What `ipset restore` reads: the policy's sets, those of others, and their members.
fn sets_text(compiled: &Compiled, family: Family, others: &[(String, Vec<IpAddr>)]) -> String {
    let inet = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    let mut text = compiled.sets.clone();
    for (name, members) in others {
        if !name.starts_with("fwc") {
            text += &format!("create {name} hash:net family {inet}\n");
        }
        for member in members {
            if !expected::has_ports(&compiled.plan, name) {
                text += &format!("add {name} {member} -exist\n");
                continue;
            }
            for (protocol, port) in expected::MEMBER_PORTS {
                text += &format!("add {name} {member},{protocol}:{port} -exist\n");
            }
        }
    }
    text
}

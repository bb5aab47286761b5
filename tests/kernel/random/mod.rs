//! Random rulesets and packets at their edges: the kernel's counters against the walker's path, and the engine.
//!
//! `FWC_RULESETS` says how many rulesets there are in all, `FWC_SEED` with which seed they begin.

mod bench;
mod expected;
mod packets;
mod rules;
mod tally;

use fwc::iptables::{Rule, Ruleset, TableName};
use fwc::net::{Family, Hook};
use libtest_mimic::{Completion, Failed, Trial};

use self::bench::{Bench, Counts};
use self::packets::{Packets, Sent, known_flows};
use crate::environment::kernel_test;
use crate::support::tools::Backend;

pub use self::rules::Numbers;
pub use self::tally::{Tally, table};

/// Packets for each ruleset.
pub const PACKETS: usize = 100;
const RULESETS: u64 = 1008;
pub const COMBINATIONS: u64 = 12;

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// How many rulesets there are in all, and the first seed.
pub fn rulesets_and_seed() -> (u64, u64) {
    (setting("FWC_RULESETS", RULESETS), setting("FWC_SEED", 1))
}

/// One test for each backend, family and hook.
pub fn all() -> Vec<Trial> {
    let (rulesets, seed) = rulesets_and_seed();
    let each = rulesets.div_ceil(COMBINATIONS);
    let mut tests = Vec::new();
    for backend in Backend::ALL {
        for family in Family::ALL {
            for hook in Hook::ALL {
                let number = tests.len() as u64;
                let place = format!("{backend}-{}-{hook}", family.keyword());
                tests.push(kernel_test(
                    format!("random::{place}"),
                    backend,
                    move || {
                        run(backend, family, hook, seed..seed + each, place, number)
                            .map_err(Failed::from)
                            .map(|()| Completion::Completed)
                    },
                ));
            }
        }
    }
    tests
}

fn run(
    backend: Backend,
    family: Family,
    hook: Hook,
    seeds: std::ops::Range<u64>,
    place: String,
    number: u64,
) -> Result<(), String> {
    let mut bench = Bench::new(backend, family, hook)?;
    let flows = known_flows(family);
    let mut tally = Tally::new(place);
    for seed in seeds {
        let mut numbers = Numbers::new(seed * COMBINATIONS + number);
        let text = rules::ruleset(&mut numbers, family, hook);
        let again = format!("FWC_SEED={seed} FWC_RULESETS=1");
        let ruleset = Ruleset::from_text(&text, family)
            .map_err(|error| format!("{again}: {error}\n{text}"))?;
        let mut packets = Packets::new(&mut numbers, hook, &flows, &ruleset);
        let packets: Vec<Sent> = (0..PACKETS).map(|_| packets.next()).collect();

        compare(&mut bench, &text, &ruleset, &packets, &mut tally)
            .map_err(|error| format!("{again}\n{error}"))?;
        expected::engine_agrees(&ruleset, &packets)
            .map_err(|error| format!("{again}\n{error}\n{text}"))?;
    }
    tally.finish(tally::quota(family, hook))
}

/// The sum of the walker's paths against the kernel's counters; a difference is narrowed to one packet.
fn compare(
    bench: &mut Bench,
    text: &str,
    ruleset: &Ruleset,
    packets: &[Sent],
    tally: &mut Tally,
) -> Result<(), String> {
    let expected = sum(ruleset, packets)?;
    let counted = bench.batch(text, packets)?;
    if counted == expected {
        let states = packets.iter().map(|sent| sent.packet.state);
        tally.add(rules_counted(ruleset, &counted), ruleset.family, states);
        return Ok(());
    }
    for sent in packets {
        let one = std::slice::from_ref(sent);
        let (expected, counted) = (sum(ruleset, one)?, bench.batch(text, one)?);
        if expected != counted {
            let differences = differences(ruleset, &expected, &counted);
            return Err(format!(
                "{} ({sent:?})\n{differences}\nwalker {expected:?}\nkernel {counted:?}\n{text}",
                sent.packet
            ));
        }
    }
    let differences = differences(ruleset, &expected, &counted);
    Err(format!(
        "all packets together, none by itself\n{differences}\n{text}"
    ))
}

/// The rules of the filter table, and what each counted.
fn rules_counted<'a>(ruleset: &'a Ruleset, counted: &[u64]) -> Vec<(&'a Rule, u64)> {
    let mut counted = counted.iter();
    let mut all = Vec::new();
    for chain in expected::filter(ruleset)
        .iter()
        .flat_map(|table| &table.chains)
    {
        if chain.policy.is_some() {
            counted.next();
        }
        all.extend(chain.rules.iter().zip(counted.by_ref().copied()));
    }
    all
}

fn sum(ruleset: &Ruleset, packets: &[Sent]) -> Result<Counts, String> {
    let mut all = vec![0; labels(ruleset).len()];
    for sent in packets {
        let path = expected::path(ruleset, sent)?;
        path.into_iter().for_each(|index| all[index] += 1);
    }
    Ok(all)
}

/// What each counter counts, in the order of [`Counts`].
fn labels(ruleset: &Ruleset) -> Vec<String> {
    let mut labels = Vec::new();
    for chain in ruleset
        .table(TableName::Filter)
        .iter()
        .flat_map(|table| &table.chains)
    {
        if let Some(policy) = chain.policy {
            labels.push(format!("policy of {}: {}", chain.name, policy.as_str()));
        }
        labels
            .extend((1..=chain.rules.len()).map(|number| format!("{} rule {number}", chain.name)));
    }
    labels.extend(fwc::net::State::ALL.map(|state| format!("state {}", state.keyword())));
    labels.push("passed the filter table".to_owned());
    labels
}

fn differences(ruleset: &Ruleset, expected: &[u64], counted: &[u64]) -> String {
    let labels = labels(ruleset);
    if labels.len() != counted.len() {
        return format!(
            "{} counters, but {} were expected",
            counted.len(),
            labels.len()
        );
    }
    let lines = labels.iter().zip(expected).zip(counted);
    lines
        .filter(|((_, expected), counted)| expected != counted)
        .map(|((label, expected), counted)| {
            format!("{label}: walker {expected}, kernel {counted}\n")
        })
        .collect()
}

//! Real rulesets: each gets its behaviour, and the way through all tables, within limits, and the walker agrees on packets at its edges.
//!
//! The environment variable `FWC_CORPUS` names the folder with `dumps/*.v4` and `*.v6`. `FWC_CORPUS_ONLY` takes a part of a
//! file's name.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fwc::analysis::{BaseChain, Behaviour, GaveUp, Path, Reading, Space, TextError};
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook};

use crate::packets::{Edges, Numbers};
use crate::walked;

const PACKETS: usize = 1000;
/// Nothing gets near it on any machine but what has no end; `cargo bench` has the figures.
const LIMIT: Duration = Duration::from_secs(300);

pub fn dumps() -> Vec<(PathBuf, Family)> {
    let folder =
        PathBuf::from(std::env::var("FWC_CORPUS").expect("FWC_CORPUS is set")).join("dumps");
    let only = std::env::var("FWC_CORPUS_ONLY").unwrap_or_default();
    let entries = std::fs::read_dir(folder).expect("the corpus has dumps");
    let mut all: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let family = match path.extension()?.to_str()? {
                "v4" => Family::V4,
                "v6" => Family::V6,
                _ => return None,
            };
            path.to_str()?.contains(&only).then_some((path, family))
        })
        .collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs the corpus: FWC_CORPUS"]
fn every_dump_has_a_behaviour_that_the_walker_agrees_with() {
    let (mut read, mut refused, mut packets, mut gave_up) = (0, 0, 0, 0);
    let mut slowest = (Duration::ZERO, String::new());
    for (path, family) in dumps() {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = std::fs::read(&path).expect("the dump can be read");
        let Ok(ruleset) = Ruleset::from_text(&String::from_utf8_lossy(&bytes), family) else {
            refused += 1;
            continue;
        };
        let rules: usize = ruleset
            .tables
            .iter()
            .flat_map(|table| &table.chains)
            .map(|chain| chain.rules.len())
            .sum();
        let space = Space::new(family);
        let start = Instant::now();
        let behaviour = match Behaviour::of(&space, &ruleset, &Reading::default()) {
            Ok(behaviour) => behaviour,
            Err(TextError::GaveUp(error)) => panic!("{name}: {error}"),
            Err(error) => {
                println!("{name}: {error}");
                refused += 1;
                continue;
            }
        };
        let hooks = Hook::ALL.into_iter();
        let ends: Result<Vec<usize>, GaveUp> = hooks
            .map(|hook| Ok(Path::of(&space, &behaviour, hook, space.all())?.ends.len()))
            .collect();
        let took = start.elapsed();
        if let Err(error) = &ends {
            println!("{name}: {rules} rules, not through all tables: {error}");
            gave_up += 1;
        }
        if took > Duration::from_millis(20) {
            println!(
                "{name}: {rules} rules, {took:.1?}, nodes and edges {:?}, ends {ends:?}",
                space.size()
            );
        }
        if took > slowest.0 {
            slowest = (took, name.clone());
        }
        read += 1;
        let (edges, mut numbers) = (Edges::of(&ruleset), Numbers(0x1234_5678));
        let places: Vec<(TableName, Hook)> = behaviour
            .flows
            .keys()
            .flat_map(|(table, chain)| Hook::ALL.map(|hook| (*table, *chain, hook)))
            .filter(|(_, chain, hook)| BaseChain::from(*hook) == *chain)
            .map(|(table, _, hook)| (table, hook))
            .collect();
        for _ in 0..if places.is_empty() { 0 } else { PACKETS } {
            let (table, hook) = numbers.of(&places);
            let packet = edges.packet(&mut numbers, family, hook);
            walked::agree(&space, &ruleset, &behaviour, table, &packet, 7);
            packets += 1;
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{read} behaviours, {refused} refused, {packets} packets; {gave_up} not through all tables; \
         slowest {slowest:?}; {most:?}"
    );
    assert!(slowest.0 < LIMIT, "{slowest:?}");
    assert!(read > 100 && gave_up == 0);
}

//! `cargo bench --bench engine`: rules to behaviours, and this crate's diagrams beside oxidd's on the same rules.
//!
//! Medians of processor time; figures are reported, not asserted. What is asserted is that the comparison is fair: both cores find the
//! same packets accepted, on packets drawn at the rules' edges. `-- NAME` runs the parts whose names contain NAME.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod oxidd;
mod rules;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fwc::analysis::{Behaviour, DevicesBehind, Reading, Space, shadowed};
use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::expand::{Templates, expand};
use fwc::internals::verify::{RenderedRules, Verifier};
use fwc::iptables::Ruleset;
use fwc::net::{Family, Hook, Protocol, State, address_of};
use fwc::source::SourceMap;
use rules::{Rule, chains, distinct, office, overlapping, text};

/// Shorter times are taken from the clock: a processor's are counted in ticks of some milliseconds.
const FINE: Duration = Duration::from_millis(25);

/// Time on a processor, where the kernel tells: other work on the machine counts for little then.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split(' ')
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

fn median(rounds: usize, mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let (start, before) = (Instant::now(), processor_time());
            run();
            let wall = start.elapsed();
            match (before, processor_time()) {
                (Some(before), Some(after)) if wall > FINE => after.saturating_sub(before),
                _ => wall,
            }
        })
        .collect();
    times.sort();
    times[rounds / 2]
}

fn rounds(count: u32) -> usize {
    if count > 20_000 { 3 } else { 7 }
}

fn behaviour(space: &Space, ruleset: &Ruleset) -> Behaviour {
    Behaviour::of(space, ruleset, &Reading::default()).unwrap()
}

fn texts(name: &str, family: Family, make: fn(Family, u32) -> Vec<Rule>, counts: &[u32]) {
    for &count in counts {
        let text = text(family, &make(family, count));
        let parse = median(rounds(count), || {
            drop(Ruleset::from_text(&text, family).unwrap())
        });
        let ruleset = Ruleset::from_text(&text, family).unwrap();
        let mut size = (0, 0);
        let build = median(rounds(count), || {
            let space = Space::new(family);
            behaviour(&space, &ruleset);
            size = space.size();
        });
        let (nodes, edges) = size;
        println!(
            "{name} {family} {count:>7} rules: parse {parse:>9.1?}, behaviour {build:>9.1?} ({nodes} nodes, {edges} edges)"
        );
    }
}

/// From the text of the rules to the proof: a policy whose rules have a prefix and a port of their own, in one family.
fn proofs(family: Family, counts: &[u32]) {
    for &count in counts {
        let mut policy = "version = 1\n".to_owned();
        for rule in distinct(family, count) {
            let (address, length) = rule.source;
            let name = if rule.protocol == 6 { "tcp" } else { "udp" };
            let _ = write!(
                policy,
                "[[rules]]\nsource = \"{}/{length}\"\nservice = \"{}/{name}\"\n",
                address_of(family, address),
                rule.ports.0
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fwc.toml");
        std::fs::write(&path, policy).unwrap();
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let policy = fwc::policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
        let plan = fwc::internals::resolve::resolve(&policy, &mut sink).unwrap();
        let templates = Templates::built_in(&mut sink).unwrap();
        let rendered = expand(&plan, &templates).unwrap();
        let read = || RenderedRules::read(rendered.texts(), None).unwrap();
        let parse = median(rounds(count), || drop(read()));
        let mut proven = 0;
        let all = median(rounds(count), || {
            let proof = Verifier::new(&policy, &plan).prove(&read());
            assert!(proof.holds());
            proven = proof.rules;
        });
        println!(
            "proof {family} {count:>7} rules: parse {parse:>9.1?}, parse and proof {all:>9.1?} ({proven} lines proven)"
        );
    }
}

/// `fwc check` as people run it, on a policy of a few rules.
fn check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fwc.toml");
    std::fs::write(
        &path,
        "version = 1\n[[rules]]\nservice = [\"ssh\", \"http\"]\n",
    )
    .unwrap();
    let mut times: Vec<Duration> = (0..21)
        .map(|_| {
            let begun = Instant::now();
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fwc"));
            let ended = command.arg("check").arg(&path).output().unwrap();
            assert!(ended.status.success());
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "check: a small policy: {:.1?} by the clock, {:.1?} the fastest",
        times[10], times[0]
    );
}

fn pair() {
    let (one, two) = (chains(0), chains(3));
    let read = |text: &str| Ruleset::from_text(text, Family::V4).unwrap();
    let mut shown = String::new();
    let all = median(5, || {
        let (one, two) = (read(&one), read(&two));
        let space = Space::for_rules(Family::V4, [&one, &two]);
        let (left, right) = (behaviour(&space, &one), behaviour(&space, &two));
        let differences = left.differences(&space, &right).unwrap();
        let found = differences.first().unwrap();
        let witness = space
            .witness(found.packets, found.chain, &[])
            .unwrap()
            .unwrap();
        shown = format!(
            "{} differences, a witness to port {:?}, {:?} nodes, edges",
            differences.len(),
            witness.packet.destination_port,
            space.size()
        );
    });
    println!(
        "pair: two rulesets of 5,500 rules in 90 chains, parsed, compared: {all:.1?} ({shown})"
    );
}

/// `fwc diff` as people run it, on two files, for pairs that differ in a few rules and in many.
fn command() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let make = |shape: &str, changed: usize| match shape {
        "zones" => chains(changed as u128),
        _ => office(changed),
    };
    for shape in ["zones", "departments"] {
        let one = write("one.v4", make(shape, 0));
        for changed in [0, 3, 30, 300] {
            let two = write("two.v4", make(shape, changed));
            let mut times: Vec<Duration> = Vec::new();
            let mut said = String::new();
            for _ in 0..5 {
                let begun = Instant::now();
                let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fwc"));
                let ended = command.arg("diff").arg(&one).arg(&two).output().unwrap();
                times.push(begun.elapsed());
                let text = String::from_utf8(ended.stdout).unwrap();
                let summary = text.lines().find(|line| line.contains(" changed"));
                said = summary.unwrap_or("nothing").to_owned();
            }
            times.sort_unstable();
            println!(
                "command: fwc diff of two rulesets of 5,500 rules in 90 chains ({shape}): {:.1?} by the clock ({said})",
                times[2]
            );
        }
    }
}

/// Real rulesets, where there are some.
fn corpus() {
    let Ok(folder) = std::env::var("FWC_CORPUS") else {
        println!("corpus: FWC_CORPUS is not set");
        return;
    };
    let files = std::fs::read_dir(format!("{folder}/dumps")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).unwrap().len()));
    for path in files.iter().take(6) {
        let family = if path.extension().is_some_and(|one| one == "v6") {
            Family::V6
        } else {
            Family::V4
        };
        let text = std::fs::read_to_string(path).unwrap();
        let ruleset = Ruleset::from_text(&text, family).unwrap();
        let mut size = (0, 0);
        let build = median(3, || {
            let space = Space::new(family);
            behaviour(&space, &ruleset);
            size = space.size();
        });
        let name = path.file_name().unwrap().to_string_lossy();
        println!("corpus: {name}: {build:.1?} {size:?}");
    }
}

/// Who reaches whom, from the text to the classes: for one service, and for any.
fn matrices() {
    let sized = |make: fn(Family, u32) -> Vec<Rule>, family| text(family, &make(family, 5_000));
    for (name, family, hook, text) in [
        (
            "distinct",
            Family::V4,
            Hook::Input,
            sized(distinct, Family::V4),
        ),
        (
            "overlapping",
            Family::V4,
            Hook::Input,
            sized(overlapping, Family::V4),
        ),
        (
            "overlapping",
            Family::V6,
            Hook::Input,
            sized(overlapping, Family::V6),
        ),
        ("90 chains", Family::V4, Hook::Forward, chains(0)),
        ("departments", Family::V4, Hook::Forward, office(0)),
    ] {
        for service in [Some(22), None] {
            let mut found = (0, 0);
            let took = median(5, || {
                let ruleset = Ruleset::from_text(&text, family).unwrap();
                let space = Space::for_rules(family, [&ruleset]);
                let behaviour = behaviour(&space, &ruleset);
                let port = match service {
                    Some(port) => space.destination_port(port, port).unwrap(),
                    None => space.all(),
                };
                let tcp = space.protocol(Protocol::TCP).unwrap();
                let new = space.as_state(State::New).unwrap();
                let asked = space.every([port, tcp, new]).unwrap();
                let passes = behaviour.may_pass(&space, hook, asked, &DevicesBehind::unknown());
                let matrix = space.matrix(passes.unwrap()).unwrap();
                found = (matrix.classes.len(), matrix.edges.len());
            });
            let rules = text.lines().filter(|line| line.starts_with("-A")).count();
            let (classes, edges) = found;
            println!(
                "matrix: {name} {family} {rules} rules, port {service:?}: {took:.1?} ({classes} classes, {edges} edges)"
            );
        }
    }
}

/// Rules that no packet gets as far as, from the parsed rules on.
fn shadows() {
    for (name, family, text) in [
        (
            "distinct",
            Family::V4,
            text(Family::V4, &distinct(Family::V4, 10_000)),
        ),
        (
            "overlapping",
            Family::V4,
            text(Family::V4, &overlapping(Family::V4, 10_000)),
        ),
        (
            "overlapping",
            Family::V6,
            text(Family::V6, &overlapping(Family::V6, 10_000)),
        ),
        ("90 chains", Family::V4, chains(0)),
        ("departments", Family::V4, office(0)),
    ] {
        let ruleset = Ruleset::from_text(&text, family).unwrap();
        let mut found = 0;
        let took = median(5, || {
            let space = Space::for_rules(family, [&ruleset]);
            found = shadowed(&space, &ruleset, &Reading::default())
                .unwrap()
                .len();
        });
        let rules = text.lines().filter(|line| line.starts_with("-A")).count();
        println!("shadow: {name} {family} {rules} rules: {took:.1?} ({found} shadowed)");
    }
}

fn small() {
    let rules = distinct(Family::V4, 20);
    let ruleset = Ruleset::from_text(&text(Family::V4, &rules), Family::V4).unwrap();
    let empty = median(101, || drop(Space::new(Family::V4)));
    let all = median(101, || drop(behaviour(&Space::new(Family::V4), &ruleset)));
    println!("small: an empty space {empty:.1?}, 20 rules {all:.1?}");
}

fn main() {
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let run = |name: &str| name.contains(&wanted);
    if run("small") {
        small();
    }
    if run("check") {
        check();
    }
    if run("pair") {
        pair();
    }
    if run("command") {
        command();
    }
    if run("matrix") {
        matrices();
    }
    if run("shadow") {
        shadows();
    }
    if run("corpus") {
        corpus();
    }
    for family in Family::ALL {
        if run("proof") {
            proofs(family, &[1_000, 10_000, 100_000]);
        }
        if run("distinct") {
            texts("distinct", family, distinct, &[1_000, 10_000, 100_000]);
        }
        if run("overlapping") {
            texts("overlapping", family, overlapping, &[1_000, 5_500, 10_000]);
        }
        if run("oxidd") {
            oxidd::beside(
                "oxidd, distinct",
                family,
                &distinct(family, 10_000),
                1 << 21,
            );
            oxidd::beside(
                "oxidd, overlapping",
                family,
                &overlapping(family, 1_000),
                1 << 23,
            );
        }
    }
}

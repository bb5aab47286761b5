//! `cargo bench --bench engine`: rules to behaviours, and this crate's diagrams beside oxidd's on the same rules.
//!
//! Medians of processor time; figures are reported, not asserted. What is asserted is that the comparison is fair: both cores find the
//! same packets accepted, on packets drawn at the rules' edges. `-- NAME` runs the parts whose names contain NAME.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fwc::analysis::{BaseChain, Behaviour, Behind, Field, Reading, Space, Verdict, shadowed};
use fwc::diag::Sink;
use fwc::expand::{Templates, expand};
use fwc::files::Access;
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook, Protocol, State, address_of};
use fwc::source::SourceMap;
use fwc::verify::{RenderedRules, prove};
use oxidd::bdd::{BDDFunction, BDDManagerRef, new_manager};
use oxidd::{BooleanFunction, Manager, ManagerRef};

const INPUT: (TableName, BaseChain) = (TableName::Filter, BaseChain::Input);

/// xorshift64*: the same rules in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u128) -> u128 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 24) % end
    }
}

#[derive(Clone, Copy)]
struct Rule {
    source: (u128, u8),
    destination: Option<(u128, u8)>,
    protocol: u8,
    ports: (u16, u16),
    accept: bool,
}

/// Rules of distinct prefix and port.
fn distinct(family: Family, count: u32) -> Vec<Rule> {
    let (base, length, shift) = match family {
        Family::V4 => (10 << 24, 30, 2),
        Family::V6 => (0x2001_0db8 << 96, 64, 64),
    };
    (0..count)
        .map(|number| Rule {
            source: (base + (u128::from(number) << shift), length),
            destination: None,
            protocol: if number % 3 == 0 { 17 } else { 6 },
            ports: (
                (1024 + number % 60_000) as u16,
                (1024 + number % 60_000) as u16,
            ),
            accept: true,
        })
        .collect()
}

/// Rules whose prefixes and ports overlap, both verdicts, as grown rulesets have them.
fn overlapping(family: Family, count: u32) -> Vec<Rule> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let top = family.bits() - 24;
    let base = match family {
        Family::V4 => 10 << 24,
        Family::V6 => 0x2001_0db8 << 96,
    };
    let prefix = |numbers: &mut Numbers| {
        let host = [0, 8, 8, 12, 16][numbers.below(5) as usize];
        let address = numbers.below(1 << 16) >> host << host;
        (
            base + (address << top.min(8)),
            family.bits() - host as u8 - top.min(8),
        )
    };
    (0..count)
        .map(|_| {
            let first = [22, 80, 443, 1024, 8000, 0][numbers.below(6) as usize];
            let width = [0, 0, 0, 100][numbers.below(4) as usize];
            Rule {
                source: prefix(&mut numbers),
                destination: (numbers.below(3) > 0).then(|| prefix(&mut numbers)),
                protocol: if numbers.below(3) == 0 { 17 } else { 6 },
                ports: (first, first + width),
                accept: numbers.below(4) > 0,
            }
        })
        .collect()
}

fn text(family: Family, rules: &[Rule]) -> String {
    let mut text =
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    for rule in rules {
        let name = if rule.protocol == 6 { "tcp" } else { "udp" };
        let (address, length) = rule.source;
        let _ = write!(text, "-A INPUT -s {}/{length}", address_of(family, address));
        if let Some((address, length)) = rule.destination {
            let _ = write!(text, " -d {}/{length}", address_of(family, address));
        }
        let (first, last) = rule.ports;
        let verdict = if rule.accept { "ACCEPT" } else { "DROP" };
        let _ = writeln!(
            text,
            " -p {name} -m {name} --dport {first}:{last} -j {verdict}"
        );
    }
    text + "COMMIT\n"
}

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
        let plan = fwc::resolve::resolve(&policy, &mut sink).unwrap();
        let templates = Templates::built_in(&mut sink).unwrap();
        let rendered = expand(&plan, &templates).unwrap();
        let read = || RenderedRules::read(rendered.texts(), None).unwrap();
        let parse = median(rounds(count), || drop(read()));
        let mut proven = 0;
        let all = median(rounds(count), || {
            let proof = prove(&policy, &plan, &read());
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

/// The same rules as plain bits of interval numbers.
struct Oxidd {
    manager: BDDManagerRef,
    sources: Vec<u128>,
    destinations: Vec<u128>,
    ports: Vec<u128>,
}

fn ends((address, length): (u128, u8), family: Family) -> (u128, u128) {
    let host = (1u128 << (family.bits() - length)) - 1;
    (address, address | host)
}

fn starts(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<u128> {
    let mut all: Vec<u128> = ranges
        .flat_map(|(first, last)| [first, last + 1])
        .chain([0])
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn bits(starts: &[u128]) -> u32 {
    usize::BITS - (starts.len() - 1).leading_zeros()
}

impl Oxidd {
    fn new(family: Family, rules: &[Rule], nodes: usize) -> Self {
        let sources = starts(rules.iter().map(|rule| ends(rule.source, family)));
        let to = rules.iter().filter_map(|rule| rule.destination);
        let destinations = starts(to.map(|prefix| ends(prefix, family)));
        let ports = starts(
            rules
                .iter()
                .map(|rule| (rule.ports.0.into(), rule.ports.1.into())),
        );
        let manager = new_manager(nodes, nodes, 1);
        let count = bits(&sources) + bits(&destinations) + 8 + bits(&ports);
        manager.with_manager_exclusive(|manager| manager.add_vars(count));
        Self {
            manager,
            sources,
            destinations,
            ports,
        }
    }

    fn constant(&self, value: bool) -> BDDFunction {
        self.manager.with_manager_shared(|manager| match value {
            true => BDDFunction::t(manager),
            false => BDDFunction::f(manager),
        })
    }

    /// Numbers of `count` bits, the highest the variable `first`, from `low` to `high`.
    fn range(&self, first: u32, count: u32, low: usize, high: usize) -> BDDFunction {
        // From the lowest bit: at least `low`, at most `high`.
        let (mut least, mut most) = (self.constant(true), self.constant(true));
        for bit in 0..count {
            let variable = first + count - 1 - bit;
            let one = self
                .manager
                .with_manager_shared(|manager| BDDFunction::var(manager, variable))
                .unwrap();
            least = match low >> bit & 1 {
                1 => one.and(&least),
                _ => one.or(&least),
            }
            .unwrap();
            most = match high >> bit & 1 {
                1 => one.not().unwrap().or(&most),
                _ => one.not().unwrap().and(&most),
            }
            .unwrap();
        }
        least.and(&most).unwrap()
    }

    fn atoms(&self, first: u32, starts: &[u128], (low, high): (u128, u128)) -> BDDFunction {
        let of = |value| starts.partition_point(|start| *start <= value) - 1;
        self.range(first, bits(starts), of(low), of(high))
    }

    /// What the rules match and what they accept, as a balanced tree.
    fn accepted(&self, family: Family, rules: &[Rule]) -> BDDFunction {
        let (source, destination) = (0, bits(&self.sources));
        let protocol = destination + bits(&self.destinations);
        let leaf = |rule: &Rule| {
            let port = self.atoms(
                protocol + 8,
                &self.ports,
                (rule.ports.0.into(), rule.ports.1.into()),
            );
            let mut set = self
                .range(protocol, 8, rule.protocol.into(), rule.protocol.into())
                .and(&port)
                .unwrap();
            if let Some(prefix) = rule.destination {
                set = self
                    .atoms(destination, &self.destinations, ends(prefix, family))
                    .and(&set)
                    .unwrap();
            }
            set = self
                .atoms(source, &self.sources, ends(rule.source, family))
                .and(&set)
                .unwrap();
            let accepted = if rule.accept {
                set.clone()
            } else {
                self.constant(false)
            };
            (set, accepted)
        };
        let mut all: Vec<(BDDFunction, BDDFunction)> = rules.iter().map(leaf).collect();
        while all.len() > 1 {
            all = all
                .chunks(2)
                .map(|pair| match pair {
                    [(matched, accepted), (next, then)] => {
                        let new = then.and(&matched.not().unwrap()).unwrap();
                        (matched.or(next).unwrap(), accepted.or(&new).unwrap())
                    }
                    pair => pair[0].clone(),
                })
                .collect();
        }
        all.pop().unwrap().1
    }

    fn accepts(&self, accepted: &BDDFunction, at: [u128; 4]) -> bool {
        let [source, destination, protocol, port] = at;
        let of = |starts: &[u128], value| starts.partition_point(|start| *start <= value) - 1;
        let fields = [
            (of(&self.sources, source), bits(&self.sources)),
            (
                of(&self.destinations, destination),
                bits(&self.destinations),
            ),
            (protocol as usize, 8),
            (of(&self.ports, port), bits(&self.ports)),
        ];
        let mut variable = 0;
        let mut values = Vec::new();
        for (value, count) in fields {
            for bit in (0..count).rev() {
                values.push((variable, value >> bit & 1 == 1));
                variable += 1;
            }
        }
        accepted.eval(values)
    }
}

fn beside_oxidd(name: &str, family: Family, rules: &[Rule], nodes: usize) {
    let ruleset = Ruleset::from_text(&text(family, rules), family).unwrap();
    let ours = median(5, || drop(behaviour(&Space::new(family), &ruleset)));
    let start = median(5, || drop(Oxidd::new(family, rules, nodes)));
    let theirs = median(5, || {
        let oxidd = Oxidd::new(family, rules, nodes);
        drop(oxidd.accepted(family, rules));
    });
    let space = Space::new(family);
    let both = behaviour(&space, &ruleset);
    let accepted = space
        .decided(both.flow(&space, INPUT).verdicts, &Verdict::Accept)
        .unwrap();
    let oxidd = Oxidd::new(family, rules, nodes);
    let function = oxidd.accepted(family, rules);
    let mut numbers = Numbers(7);
    for _ in 0..20_000 {
        let mut rule = || &rules[numbers.below(rules.len() as u128) as usize];
        let (one, two, three) = (rule(), rule(), rule());
        let source = ends(one.source, family).0;
        let destination = two.destination.map_or(0, |prefix| ends(prefix, family).1);
        let (protocol, port) = (three.protocol.into(), u128::from(three.ports.1));
        let ours = space.contains(accepted, |field| match field {
            Field::Source => source,
            Field::Destination => destination,
            Field::Protocol => protocol,
            Field::DestinationPort => port,
            _ => 0,
        });
        assert_eq!(
            ours,
            oxidd.accepts(&function, [source, destination, protocol, port])
        );
    }
    let their_nodes = oxidd::Function::node_count(&function);
    println!(
        "{name} {family} {} rules: this crate {ours:.1?} ({:?} nodes, edges built); oxidd {theirs:.1?}, of that start-up {start:.1?} ({their_nodes} nodes left)",
        rules.len(),
        space.size(),
    );
}

/// 5,500 rules in 90 chains that call each other, with macs, port lists and negations; `changed` rules differ.
fn chains(changed: u128) -> String {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut text =
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    for chain in 0..90 {
        let _ = writeln!(text, ":zone{chain} - [0:0]");
    }
    for chain in 0..30 {
        let _ = writeln!(
            text,
            "-A FORWARD -i eth{} -o eth{} -j zone{chain}",
            chain % 6,
            chain / 6
        );
    }
    for number in 0..5_500u128 {
        let chain = number * 90 / 5_500;
        let (a, b, c) = (
            numbers.below(1 << 16),
            numbers.below(1 << 12),
            numbers.below(1 << 8),
        );
        let not = if numbers.below(9) == 0 { "! " } else { "" };
        let verdict = ["ACCEPT", "ACCEPT", "DROP", "RETURN"][numbers.below(4) as usize];
        let port = 20 + c + u128::from(number < changed);
        let to = format!("-d 10.{}.{}.0/24", a >> 8, a & 0xff);
        let from = format!("{not}-s 172.16.{}.0/{}", b & 0xff, 16 + b % 9);
        let _ = match numbers.below(8) {
            0 if chain < 60 => {
                let callee = chain + 1 + numbers.below(89 - chain);
                writeln!(text, "-A zone{chain} {to} -j zone{callee}")
            }
            1 => writeln!(
                text,
                "-A zone{chain} {to} -m mac --mac-source 02:00:00:00:00:{c:02x} -j {verdict}"
            ),
            2 => writeln!(
                text,
                "-A zone{chain} {from} -p tcp -m multiport --dports {port},80,443,8000:8100 -j {verdict}"
            ),
            3 => writeln!(
                text,
                "-A zone{chain} {from} -m conntrack --ctstate NEW -j {verdict}"
            ),
            _ => writeln!(
                text,
                "-A zone{chain} {from} {to} -p tcp -m tcp --dport {port} -j {verdict}"
            ),
        };
    }
    text + "COMMIT\n"
}

fn pair() {
    let (one, two) = (chains(0), chains(3));
    let read = |text: &str| Ruleset::from_text(text, Family::V4).unwrap();
    let mut shown = String::new();
    let all = median(5, || {
        let space = Space::new(Family::V4);
        let (left, right) = (
            behaviour(&space, &read(&one)),
            behaviour(&space, &read(&two)),
        );
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
    let write = |name: &str, changed| {
        let path = folder.path().join(name);
        std::fs::write(&path, chains(changed)).unwrap();
        path
    };
    let one = write("one.v4", 0);
    for changed in [0, 3, 300] {
        let two = write("two.v4", changed);
        let mut times: Vec<Duration> = Vec::new();
        let mut said = String::new();
        for _ in 0..5 {
            let begun = std::time::Instant::now();
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fwc"));
            let ended = command.arg("diff").arg(&one).arg(&two).output().unwrap();
            times.push(begun.elapsed());
            let text = String::from_utf8(ended.stdout).unwrap();
            let summary = text.lines().find(|line| line.contains("rules changed"));
            said = summary.unwrap_or("nothing").to_owned();
        }
        times.sort_unstable();
        println!(
            "command: fwc diff of two rulesets of 5,500 rules in 90 chains: {:.1?} by the clock ({said})",
            times[2]
        );
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
    ] {
        for service in [Some(22), None] {
            let mut found = (0, 0);
            let took = median(5, || {
                let ruleset = Ruleset::from_text(&text, family).unwrap();
                let space = Space::new(family);
                let behaviour = behaviour(&space, &ruleset);
                let port = match service {
                    Some(port) => space.destination_port(port, port).unwrap(),
                    None => space.all(),
                };
                let tcp = space.protocol(Protocol::TCP).unwrap();
                let new = space.as_state(State::New).unwrap();
                let asked = space.every([port, tcp, new]).unwrap();
                let passes = behaviour.may_pass(&space, hook, asked, &Behind::unknown());
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
    ] {
        let ruleset = Ruleset::from_text(&text, family).unwrap();
        let mut found = 0;
        let took = median(5, || {
            let space = Space::new(family);
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
            beside_oxidd(
                "oxidd, distinct",
                family,
                &distinct(family, 10_000),
                1 << 21,
            );
            beside_oxidd(
                "oxidd, overlapping",
                family,
                &overlapping(family, 1_000),
                1 << 23,
            );
        }
    }
}

//! `cargo bench --bench cliffs`: the kinds of rulesets on which packet analysis is known to become slow, and how long each command takes.
//!
//! Prints one line a kind: its rules, and for each command the wall-clock median of three runs in seconds, or why it gave no answer.
//! Nothing is asserted of the times. `-- NAME` runs the kinds whose names contain NAME.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// A generator of numbers that gives the same rulesets in every run (Knuth, MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn verdict(&mut self) -> &'static str {
        ["ACCEPT", "DROP"][self.below(2) as usize]
    }

    fn port(&mut self) -> u64 {
        self.below(65_535) + 1
    }

    /// A network of 2 to 24 bits.
    fn network(&mut self) -> String {
        let length = self.below(23) + 2;
        let address = (self.below(1 << 31) << 1) as u32 & (u32::MAX << (32 - length));
        format!("{}/{length}", std::net::Ipv4Addr::from(address))
    }
}

const FILTER: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n";
const MANGLE: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n\
    :OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";
const NAT: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";

/// Lines of a table, from its header to COMMIT.
fn table(header: &str, lines: impl IntoIterator<Item = String>) -> String {
    let mut text = header.to_owned();
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text + "COMMIT\n"
}

fn filter(lines: impl IntoIterator<Item = String>) -> String {
    table(FILTER, lines)
}

/// Port forwards, each with its own accept.
fn forwards() -> String {
    let nat = (0..200).map(|n| {
        format!("-A PREROUTING -d 203.0.113.{n}/32 -p tcp -m tcp --dport {} -j DNAT --to-destination 10.0.{n}.5:{}", 2000 + n, n + 1)
    });
    let accepts = (0..200).map(|n| {
        format!(
            "-A FORWARD -d 10.0.{n}.5/32 -p tcp -m tcp --dport {} -j ACCEPT",
            n + 1
        )
    });
    table(NAT, nat) + &filter(accepts)
}

/// A line of chains that each jump to the next and return for some ports.
fn nested_chains(numbers: &mut Numbers) -> String {
    let (mut names, mut lines) = (String::new(), vec!["-A FORWARD -j c0".to_owned()]);
    for chain in 0..300 {
        let _ = writeln!(names, ":c{chain} - [0:0]");
        for _ in 0..29 {
            let target = ["ACCEPT", "DROP", "RETURN"][numbers.below(3) as usize];
            lines.push(format!(
                "-A c{chain} -p tcp -m tcp --dport {} -j {target}",
                numbers.port()
            ));
        }
        if chain < 299 {
            lines.push(format!("-A c{chain} -j c{}", chain + 1));
        }
    }
    table(&(FILTER.to_owned() + &names), lines)
}

/// Networks that overlap, each with fifteen ports of either end.
fn either_port(numbers: &mut Numbers) -> String {
    filter((0..1000).map(|_| {
        let ports: Vec<String> = (0..15).map(|_| numbers.port().to_string()).collect();
        let (network, verdict) = (numbers.network(), numbers.verdict());
        format!(
            "-A FORWARD -s {network} -p tcp -m multiport --ports {} -j {verdict}",
            ports.join(",")
        )
    }))
}

/// A mark for each network, and a port for each mark.
fn marks() -> String {
    let set = (0..1000).map(|n| {
        format!(
            "-A PREROUTING -s 10.{}.{}.0/24 -j MARK --set-mark {}",
            n / 250,
            n % 250,
            n + 1
        )
    });
    let ask = (1..=1000)
        .map(|n| format!("-A FORWARD -m mark --mark {n} -p tcp -m tcp --dport {n} -j ACCEPT"));
    table(MANGLE, set) + &filter(ask)
}

/// The same by marks of connections, restored and saved.
fn connection_marks() -> String {
    let restore = "-A PREROUTING -j CONNMARK --restore-mark".to_owned();
    let set = (0..500).map(|n| {
        format!(
            "-A PREROUTING -s 10.{}.{}.0/24 -m mark --mark 0 -j MARK --set-mark {}",
            n / 250,
            n % 250,
            n + 1
        )
    });
    let save = "-A PREROUTING -j CONNMARK --save-mark".to_owned();
    let mangle = std::iter::once(restore).chain(set).chain([save]);
    let ask = (1..=500)
        .map(|n| format!("-A FORWARD -m connmark --mark {n} -p tcp -m tcp --dport {n} -j ACCEPT"));
    table(MANGLE, mangle) + &filter(ask)
}

/// Bits of a mark that ranges of ports set one by one.
fn mark_bits(numbers: &mut Numbers) -> String {
    let set = (0..300).map(|n| {
        let (one, two) = (numbers.port(), numbers.port());
        let bit = 1u32 << (n % 12);
        format!(
            "-A PREROUTING -p tcp -m tcp --dport {}:{} -j MARK --set-xmark {bit:#x}/{bit:#x}",
            one.min(two),
            one.max(two)
        )
    });
    let set: Vec<String> = set.collect();
    let ask = (1..=300).map(|n| {
        let bit = 1u32 << (n % 12);
        format!("-A FORWARD -m mark --mark {bit:#x}/{bit:#x} -p tcp -m tcp --sport {n} -j ACCEPT")
    });
    table(MANGLE, set) + &filter(ask)
}

/// Pairs of conditions that a packet does not answer, each in several rules.
fn opaque_pairs(numbers: &mut Numbers) -> String {
    filter((0..300).map(|_| {
        let (string, at, verdict) = (numbers.below(64), numbers.below(80), numbers.verdict());
        format!("-A FORWARD -m string --string \"x{string}\" --algo bm -m u32 --u32 \"0>>{at}=1\" -j {verdict}")
    }))
}

/// Address masks with holes in both ends.
fn masks(numbers: &mut Numbers) -> String {
    filter((0..300).map(|_| {
        let mut masked = || {
            let address =
                std::net::Ipv4Addr::from((numbers.below(1 << 31) << 1) as u32 & 0xff00_00ff);
            format!("{address}/255.0.0.255")
        };
        let (source, destination) = (masked(), masked());
        let verdict = numbers.verdict();
        format!(
            "-A FORWARD -s {source} -d {destination} -p tcp -m tcp --dport {} -j {verdict}",
            numbers.port()
        )
    }))
}

/// A limit of its own in each of many rules that overlap.
fn limits(numbers: &mut Numbers) -> String {
    filter((0..300).map(|_| {
        let (network, rate, verdict) =
            (numbers.network(), numbers.below(50) + 1, numbers.verdict());
        format!("-A FORWARD -s {network} -p tcp -m limit --limit {rate}/min -j {verdict}")
    }))
}

/// What a command says of a file: the median of the seconds that it takes, and what is special about the answer.
fn measure(folder: &Path, arguments: &[&str]) -> String {
    let mut times = Vec::new();
    let mut note = "";
    for _ in 0..3 {
        let start = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_fwc"))
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        times.push(start.elapsed());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        note = match () {
            () if said.contains("gave up") => " gave up",
            () if said.contains("partial") => " partial",
            () => "",
        };
    }
    times.sort();
    format!("{:.2}{note}", times[1].as_secs_f64())
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|one| !one.starts_with("--"))
        .collect();
    let mut numbers = Numbers(1);
    let kinds = [
        ("port forwards", forwards()),
        ("nested chains", nested_chains(&mut numbers)),
        ("ports of either end", either_port(&mut numbers)),
        ("marks", marks()),
        ("connection marks", connection_marks()),
        ("mark bits", mark_bits(&mut numbers)),
        ("opaque pairs", opaque_pairs(&mut numbers)),
        ("masks with holes", masks(&mut numbers)),
        ("limits", limits(&mut numbers)),
    ];
    let folder = tempfile::tempdir().unwrap();
    println!("| kind | rules | check | explain | matrix | diff, equal | diff, one rule less |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, text) in kinds {
        if !wanted.is_empty() && !wanted.iter().any(|one| name.contains(one)) {
            continue;
        }
        std::fs::write(folder.path().join("rules.v4"), &text).unwrap();
        let rules = text.matches("-A ").count();
        // The last rule goes: all others stand before it.
        let last = text.rfind("-A ").unwrap();
        let end = last + text[last..].find('\n').unwrap() + 1;
        let less = text[..last].to_owned() + &text[end..];
        std::fs::write(folder.path().join("less.v4"), less).unwrap();
        let run = |arguments: &[&str]| measure(folder.path(), arguments);
        println!(
            "| {name} | {rules} | {} | {} | {} | {} | {} |",
            run(&["check", "--rules", "rules.v4"]),
            run(&["explain", "--rules", "rules.v4"]),
            run(&["matrix", "--rules", "rules.v4", "--service", "ssh"]),
            run(&["diff", "--packets", "rules.v4", "rules.v4"]),
            run(&["diff", "--packets", "rules.v4", "less.v4"]),
        );
    }
}

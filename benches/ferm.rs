//! `cargo bench --bench ferm`: how long `fwc build` takes for 10,000 rules, beside ferm on the same rules, and
//! `fwc check` for a small policy. Whole processes, in turn, medians; figures are reported, not asserted.
//!
//! What is asserted is that the comparison is fair: both outputs hold the same rules in the same order.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const FWC: &str = env!("CARGO_BIN_EXE_fwc");
const RULES: u32 = 10_000;
const ROUNDS: usize = 7;
const CHECK_ROUNDS: usize = 51;

/// A rule of both inputs, and what the outputs are reduced to when they are compared.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    source: String,
    protocol: String,
    port: String,
}

impl Rule {
    /// Even numbers are IPv4, odd ones IPv6; no two rules are alike.
    fn numbered(number: u32) -> Self {
        // 10.1.0.0 and 2001:db8:1:: upwards, in the one spelling that every tool prints.
        Self {
            source: if number.is_multiple_of(2) {
                Ipv4Addr::from_bits(0x0a01_0000 + number).to_string()
            } else {
                let base = 0x2001_0db8_0001_0000_u128 << 64;
                Ipv6Addr::from_bits(base + u128::from(number)).to_string()
            },
            protocol: if number.is_multiple_of(3) {
                "udp"
            } else {
                "tcp"
            }
            .to_owned(),
            port: (1024 + number % 5000).to_string(),
        }
    }

    fn is_ipv6(&self) -> bool {
        self.source.contains(':')
    }

    /// Reads the options of one `-A` line, in iptables-save's spelling or in ferm's.
    fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |names: [&str; 2]| {
            let at = words.iter().position(|word| names.contains(word))?;
            words.get(at + 1).copied()
        };
        let source = after(["-s", "--source"])?;
        Some(Self {
            source: source
                .trim_end_matches("/32")
                .trim_end_matches("/128")
                .to_owned(),
            protocol: after(["-p", "--protocol"])?.to_owned(),
            port: after(["--dport", "--destination-port"])?.to_owned(),
        })
    }
}

/// The rules of ours in a rules file: those that carry our comment. The preamble and the default have none.
fn rules_in(text: &str) -> Vec<Rule> {
    text.lines()
        .filter(|line| line.starts_with("-A INPUT ") && line.contains("\"fwc:rule "))
        .filter_map(Rule::read)
        .collect()
}

fn policy(rules: &[Rule]) -> String {
    let mut text = String::from("version = 1\n");
    for (number, rule) in rules.iter().enumerate() {
        let _ = write!(
            text,
            "\n[[rules]]\nname = \"rule {number}\"\nsource = \"{}\"\nservice = \"{}/{}\"\n",
            rule.source, rule.port, rule.protocol
        );
    }
    text
}

fn ferm_config(rules: &[Rule]) -> String {
    let mut text = String::new();
    for (domain, ipv6) in [("ip", false), ("ip6", true)] {
        let _ = writeln!(
            text,
            "domain {domain} table filter chain INPUT {{\n    policy DROP;"
        );
        for (number, rule) in rules.iter().enumerate() {
            if rule.is_ipv6() == ipv6 {
                let _ = writeln!(
                    text,
                    "    saddr {} proto {} dport {} mod comment comment \"fwc:rule {number}\" ACCEPT;",
                    rule.source, rule.protocol, rule.port
                );
            }
        }
        text.push_str("}\n");
    }
    text
}

/// An error that names the first difference, unless `found` is exactly the `expected` rules in order.
fn same(program: &str, found: &[Rule], expected: &[Rule]) -> Result<()> {
    let different = found.iter().zip(expected).position(|(a, b)| a != b);
    if different.is_none() && found.len() == expected.len() {
        return Ok(());
    }
    let at = different.unwrap_or(found.len().min(expected.len()));
    Err(format!(
        "{program} gives {} rules of {}; the first difference is number {at}: {:?} instead of {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    )
    .into())
}

/// Runs to the end and gives the time that it took; a failure is an error with what the program said.
fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} failed ({}):\n{said}", output.status).into())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// `NAME  median 12.3 ms  (11.9 to 14.0 ms, 7 runs)`
fn report(name: &str, times: &mut [Duration]) -> Duration {
    let middle = median(times);
    let milliseconds = |time: &Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{name:<42} median {:8.1} ms  ({:.1} to {:.1} ms, {} runs)",
        milliseconds(&middle),
        times.first().map_or(0.0, milliseconds),
        times.last().map_or(0.0, milliseconds),
        times.len()
    );
    middle
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
                .map(|(_, model)| model.trim().to_owned())
        });
    format!(
        "{cores} cores, {}",
        model.as_deref().unwrap_or("processor unknown")
    )
}

fn find_ferm() -> Option<PathBuf> {
    ["/usr/sbin/ferm", "/sbin/ferm", "/usr/bin/ferm"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

fn check_small() -> Result<()> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/web-server/fwc.toml");
    let mut times = Vec::new();
    for _ in 0..CHECK_ROUNDS {
        times.push(timed(Command::new(FWC).arg("check").arg(&example))?);
    }
    report("fwc check examples/web-server", &mut times);
    Ok(())
}

fn build_large() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (toml, config, out) = (
        folder.path().join("fwc.toml"),
        folder.path().join("ferm.conf"),
        folder.path().join("out"),
    );
    let rules: Vec<Rule> = (0..RULES).map(Rule::numbered).collect();
    std::fs::write(&toml, policy(&rules))?;
    std::fs::write(&config, ferm_config(&rules))?;

    let mut build = Command::new(FWC);
    build.arg("build").arg(&toml).arg("-o").arg(&out);
    // What ferm does too: no proof. It writes elsewhere, so that every build writes.
    let mut unproven = Command::new(FWC);
    unproven.arg("build").arg(&toml).arg("--no-verify");
    unproven.arg("-o").arg(folder.path().join("unproven"));
    let mut ferm = find_ferm().map(|path| {
        let mut command = Command::new(path);
        command.args(["--noexec", "--lines"]).arg(&config);
        command
    });

    let mut expected = rules;
    expected.sort_by_key(Rule::is_ipv6); // stable: both programs give IPv4 first, each family in order
    timed(&mut build)?;
    let built = ["rules.v4", "rules.v6"].map(|name| std::fs::read_to_string(out.join(name)));
    let mut ours = Vec::new();
    for text in built {
        ours.extend(rules_in(&text?));
    }
    same("fwc", &ours, &expected)?;
    if let Some(ferm) = &mut ferm {
        let output = ferm.output()?;
        same(
            "ferm",
            &rules_in(&String::from_utf8_lossy(&output.stdout)),
            &expected,
        )?;
    }

    let (mut fwc_times, mut unproven_times, mut ferm_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        fwc_times.push(timed(&mut build)?);
        unproven_times.push(timed(&mut unproven)?);
        if let Some(ferm) = &mut ferm {
            ferm_times.push(timed(ferm)?);
        }
    }
    report("fwc build, 10,000 rules, with the proof", &mut fwc_times);
    let unproven_median = report("fwc build --no-verify, the same rules", &mut unproven_times);
    if ferm_times.is_empty() {
        println!("ferm is not installed (apt-get install ferm): nothing to compare with");
        return Ok(());
    }
    let ferm_median = report("ferm --noexec --lines, the same rules", &mut ferm_times);
    println!(
        "fwc takes {:.2} of ferm's time for what both do",
        unproven_median.as_secs_f64() / ferm_median.as_secs_f64()
    );
    Ok(())
}

fn main() -> Result<()> {
    println!("{}", machine());
    check_small()?;
    build_large()
}

//! How fast a large ruleset is read and printed, and what it takes in memory.
//!
//! `cargo bench --bench iptables_parse`; the numbers are medians of processor time.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use fwc::iptables::{Print, Ruleset};
use fwc::net::Family;

const RULES: u32 = 100_000;
const RUNS: usize = 11;

fn main() {
    let text = text();
    let size = text.len() as f64 / 1e6;
    println!("{RULES} rules, {size:.1} MB");

    let before = resident();
    let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
    let held = resident().saturating_sub(before) as f64 / 1e6;
    println!("held: {held:.1} MB, {:.1} times the text", held / size);

    let read = median(|| Ruleset::from_text(black_box(&text), Family::V4));
    println!("read: {read:.1?}, {:.0} MB/s", size / read.as_secs_f64());
    let print = median(|| ruleset.to_text(Print::default()));
    println!(
        "printed: {print:.1?}, {:.0} MB/s",
        size / print.as_secs_f64()
    );
}

/// Rules of the kinds that are frequent in real rulesets.
fn text() -> String {
    let mut text =
        String::from("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for chain in 0..100 {
        writeln!(text, ":zone_{chain:03} - [0:0]").unwrap();
    }
    for rule in 0..RULES {
        let [_, a, b, c] = rule.to_be_bytes();
        let (chain, port) = (rule % 100, rule % 60_000 + 1);
        let rest = match rule % 5 {
            0 => format!(
                "-s 10.{a}.{b}.{c}/32 -m mac --mac-source 02:00:00:{a:02x}:{b:02x}:{c:02x} -m state --state NEW -j RETURN"
            ),
            1 => format!(
                "-s 10.{a}.{b}.0/24 -d 192.0.2.{c}/32 -p tcp -m tcp --dport {port} -m conntrack --ctstate NEW -j ACCEPT"
            ),
            2 => format!(
                "-i eth{c} -p udp -m udp --sport 1024:65535 --dport {port} -m comment --comment \"rule {rule}\" -j ACCEPT"
            ),
            3 => format!(
                "-d 198.51.{b}.{c}/32 -o wan+ -p tcp -m multiport --dports 80,443,{port} -j zone_{:03}",
                (chain + 1).min(99)
            ),
            _ => format!("-s 203.0.{b}.{c}/32 -j DROP"),
        };
        writeln!(text, "-A zone_{chain:03} {rest}").unwrap();
    }
    text.push_str("COMMIT\n");
    text
}

/// Processor time of the runs, without what it takes to drop their results: other programs do not count.
fn median<T>(mut run: impl FnMut() -> T) -> Duration {
    let mut times: Vec<_> = (0..RUNS)
        .map(|_| {
            let start = processor_time();
            let result = black_box(run());
            let elapsed = processor_time() - start;
            drop(result);
            elapsed
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2]
}

/// How long this process has run (`proc(5)`, schedstat, in nanoseconds).
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let nanoseconds = schedstat.split(' ').next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Resident bytes of this process (`proc(5)`, statm, in pages of 4 KiB).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}

//! Real packets, real netfilter: the rules that fwc makes, judged by the kernel in network namespaces.
//!
//! Tests that cannot run here are reported as ignored, with the reason; `FWC_REQUIRE_KERNEL=1` makes them fail.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod circumstances;
mod clamped;
mod clock;
mod compile;
mod counters;
mod entries;
mod environment;
mod examples;
mod folders;
#[allow(dead_code, reason = "the policy's tests need more of it")]
#[path = "../decide/generate.rs"]
mod generate;
#[path = "../decide/generate_blocks.rs"]
mod generate_blocks;
#[path = "../decide/generate_nat.rs"]
mod generate_nat;
#[path = "../decide/generate_rules.rs"]
mod generate_rules;
mod hostile;
mod ipsec;
mod lab;
mod looped;
mod policies;
#[path = "../cli/positions.rs"]
mod positions;
mod probe;
mod probes;
mod protocols;
mod random;
mod rates;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod traffic;
mod translated;
mod treated;
mod walker;
mod windows;
mod written;

use std::thread::available_parallelism;

use libtest_mimic::{Arguments, Conclusion};

fn main() {
    let mut arguments = Arguments::from_args();
    // Most of the time a test waits for packets.
    let cores = available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    let mut tests = lab::tests();
    tests.extend(examples::all());
    tests.extend(traffic::all());
    tests.extend(translated::all());
    tests.extend(treated::all());
    tests.extend(entries::all());
    tests.extend(clock::all());
    tests.extend(rates::all());
    tests.extend(windows::all());
    tests.extend(written::all());
    tests.extend(hostile::all());
    tests.extend(probes::all());
    tests.extend(protocols::all());
    tests.extend(clamped::all());
    tests.extend(random::all());
    tests.extend(tables::all());
    tests.extend(looped::all());
    tests.extend(ipsec::all());
    tests.extend(policies::all());
    let conclusion: Conclusion = libtest_mimic::run(&arguments, tests);
    print!("{}", random::table());
    conclusion.exit();
}

//! The policy's own words, held against packets: `policy::decide` on the probes.
//!
//! The probes are in `tests/probes` and in the folders that `FWC_PROBES` names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod changed;
#[allow(dead_code, reason = "the kernel's tests need more of it")]
#[path = "../kernel/circumstances.rs"]
mod circumstances;
mod counters;
mod customs;
mod differences;
mod done;
#[path = "../kernel/folders.rs"]
mod folders;
#[allow(dead_code, reason = "the kernel's tests need more of it")]
mod generate;
mod generate_blocks;
mod generate_nat;
mod generate_rules;
mod linted;
mod linted_entries;
mod mutants;
#[path = "../engine/packets.rs"]
mod packets;
#[allow(dead_code, reason = "the binary's tests need more of it")]
#[path = "../cli/positions.rs"]
mod positions;
#[allow(dead_code, reason = "the kernel's tests need more of it")]
#[path = "../kernel/probe.rs"]
mod probe;
mod probes;
mod promises;
mod proofs;
mod scale;
mod views;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    let mut tests = probes::all();
    tests.extend(proofs::all());
    tests.extend(differences::all());
    tests.extend(scale::all());
    tests.extend(views::all());
    tests.extend(promises::all());
    tests.extend(mutants::all());
    tests.extend(customs::all());
    tests.extend(linted::all());
    tests.extend(linted_entries::all());
    tests.extend(done::all());
    libtest_mimic::run(&arguments, tests).exit();
}

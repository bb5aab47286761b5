//! The policy's own words, held against packets: `policy::decide` on the probes.
//!
//! The probes are in the folder that `FWC_PROBES` names; without it the tests are reported as ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod counters;
#[allow(dead_code, reason = "the kernel's tests need more of it")]
#[path = "../kernel/probe.rs"]
mod probe;
mod probes;

use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, probes::all()).exit();
}

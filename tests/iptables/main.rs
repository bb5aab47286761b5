//! The iptables model against the corpus, the traps, itself and the real tools.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod corpus;
mod fmt;
mod generate;
mod kernel;
mod properties;
mod traps;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = traps::trials();
    trials.extend(properties::trials());
    trials.extend(fmt::trials());
    trials.extend(corpus::trials());
    trials.extend(kernel::trials());
    libtest_mimic::run(&arguments, trials).exit();
}

/// Tests that cannot run here, reported as ignored with the reason.
fn ignored(trials: Vec<Trial>, reason: &str) -> Vec<Trial> {
    let ignore = |trial: Trial| {
        trial
            .with_kind(format!("ignored: {reason}"))
            .with_ignored_flag(true)
    };
    trials.into_iter().map(ignore).collect()
}

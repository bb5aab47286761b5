//! Rules of real tools and of hand-written files, as a firewall engineer would read them: what `explain`, `matrix`, `check` and
//! `diff` print of some of them, that they have an answer to all, and that policies say what real hosts had.
//!
//! The files are found by the environment variables `FWC_CORPUS` and `FWC_CASES`; without them these tests are reported as
//! ignored.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout
)]

mod cases;
mod every;
mod real;
mod shown;

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = shown::trials();
    trials.extend(every::trials());
    trials.extend(real::trials());
    if std::env::var_os("FWC_CORPUS").is_none() {
        let ignore = |trial: Trial| {
            trial
                .with_kind("ignored: FWC_CORPUS is not set")
                .with_ignored_flag(true)
        };
        trials = trials.into_iter().map(ignore).collect();
    }
    trials.push(real::few_rules_are_custom());
    trials.extend(cases::trials());
    libtest_mimic::run(&arguments, trials).exit();
}

/// The folder of the dumps.
fn dumps() -> PathBuf {
    let corpus = std::env::var_os("FWC_CORPUS").expect("FWC_CORPUS names the corpus");
    Path::new(&corpus).join("dumps")
}

/// How a run of `fwc` ended: its status, standard output, standard error.
fn fwc(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fwc"));
    command.args(arguments).current_dir(folder);
    command.env_remove("CLICOLOR_FORCE").env("COLUMNS", "100");
    let output = command.output().expect("fwc can be started");
    let text = |bytes| String::from_utf8(bytes).expect("fwc prints UTF-8");
    let status = output.status.code();
    (
        status.unwrap_or_else(|| panic!("{arguments:?} was killed: {}", output.status)),
        text(output.stdout),
        text(output.stderr),
    )
}

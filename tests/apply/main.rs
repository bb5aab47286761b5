//! `fwc apply` and `fwc diff` against real kernels: each test in network namespaces of its own, with both backends.
//!
//! A test that cannot run here (no root, no tools, no namespaces, no corpus) is reported as ignored, with the reason;
//! with `FWC_REQUIRE_KERNEL=1` those that only lack the kernel fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod adverse;
mod at_once;
mod back;
mod beside;
mod boot;
mod commands;
mod confirm;
mod connections;
mod corpus;
mod disk;
mod explain;
mod facts;
mod fail2ban;
mod faults;
mod faults_elsewhere;
mod files;
mod flags;
mod hooks;
mod inside;
mod kills;
mod namespace;
mod old_or_new;
mod precedence;
mod preflight;
mod replaced;
mod safety;
#[path = "../support/schemas.rs"]
mod schemas;
mod sets;
mod ssh;
mod status;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;
mod unreadable;
mod window;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread::available_parallelism;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use namespace::{Backend, Namespace};

/// A test in namespaces; `Err` is why it cannot run.
type Test = fn(Backend) -> Result<(), String>;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        // The library starts this program again where the command line would start `fwc`.
        Some(fwc::internals::live::scratch::COMMAND) => {
            let request = std::io::read_to_string(std::io::stdin()).unwrap();
            println!("{}", fwc::internals::live::scratch::inside(&request));
            ExitCode::SUCCESS
        }
        Some(fwc::internals::apply::watchdog::COMMAND) => {
            fwc::internals::apply::watchdog::run(&arguments[2..]);
            ExitCode::SUCCESS
        }
        Some(window::COMMAND) => {
            window::run(&arguments[2..]);
            ExitCode::SUCCESS
        }
        Some(inside::COMMAND) => {
            inside::run(&arguments[2..]);
            ExitCode::SUCCESS
        }
        _ => {
            let trials = commands::TESTS
                .iter()
                .chain(adverse::TESTS)
                .chain(at_once::TESTS)
                .chain(back::TESTS)
                .chain(boot::TESTS)
                .chain(beside::TESTS)
                .chain(confirm::TESTS)
                .chain(connections::TESTS)
                .chain(disk::TESTS)
                .chain(facts::tests())
                .chain(fail2ban::TESTS)
                .chain(faults::TESTS)
                .chain(faults_elsewhere::TESTS)
                .chain(flags::TESTS)
                .chain(hooks::TESTS)
                .chain(inside::TESTS)
                .chain(kills::TESTS)
                .chain(precedence::TESTS)
                .chain(preflight::TESTS)
                .chain(replaced::TESTS)
                .chain(unreadable::TESTS)
                .chain(safety::TESTS)
                .chain(sets::TESTS)
                .chain(explain::TESTS)
                .chain(window::TESTS)
                .chain(ssh::TESTS)
                .chain(status::TESTS)
                .chain(corpus::TESTS)
                .flat_map(|&(name, test)| Backend::ALL.map(|backend| trial(name, test, backend)))
                .chain(files::trials())
                .collect();
            let mut arguments = Arguments::from_args();
            // Most of the time a test waits, for a deadline or an answer.
            let cores = available_parallelism().map_or(1, usize::from);
            arguments.test_threads.get_or_insert(2 * cores);
            libtest_mimic::run(&arguments, trials).exit_code()
        }
    }
}

fn trial(name: &str, test: Test, backend: Backend) -> Trial {
    let name = format!("{backend}::{name}");
    Trial::ignorable_test(name, move || {
        if let Err(reason) = Namespace::possible(backend) {
            let required = env::var_os("FWC_REQUIRE_KERNEL").is_some_and(|set| set == "1");
            return if required {
                Err(format!("FWC_REQUIRE_KERNEL=1, but {reason}").into())
            } else {
                Ok(Completion::ignored_with(reason))
            };
        }
        let result = catch_unwind(AssertUnwindSafe(|| test(backend)));
        match result {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(reason)) => Ok(Completion::ignored_with(reason)),
            Err(panic) => Err(Failed::from(words(&*panic))),
        }
    })
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}

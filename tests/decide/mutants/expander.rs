//! The expander with every mistake of one token. `scripts/mutants` builds a copy of fwc that makes them.
//!
//! `FWC_PRINT=1` prints each mistake that nothing is wrong with, `FWC_ONLY` takes a part of a file's name.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fwc::diag::Sink;
use fwc::expand::{Templates, expand};
use libtest_mimic::{Completion, Failed, Trial};

use super::makes::{MISTAKES, make};
use super::many::{Mistake, try_all};

/// The tests.
pub fn all() -> Vec<Trial> {
    let name = "mutants::expander";
    match MISTAKES.is_empty() {
        true => vec![Trial::ignorable_test(name, || {
            Ok(Completion::ignored_with("`scripts/mutants` runs it"))
        })],
        false => vec![Trial::test(name, expander)],
    }
}

fn expander() -> Result<(), Failed> {
    // From a mistake that panics no rules come.
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("FWC_ONLY").unwrap_or_default();
    let mut all: Vec<Mistake<u32>> = Vec::new();
    for line in MISTAKES.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [number, way, place, what] = parts[..] else {
            return Err(format!("not a mistake: {line}").into());
        };
        if !place.contains(&only) {
            continue;
        }
        all.push(Mistake {
            group: place.split(':').next().unwrap_or(place).to_owned(),
            way: way.to_owned(),
            blame: format!("{place}: {way}: {what}"),
            what: number.parse()?,
        });
    }
    try_all(
        all,
        |number| Some((*number, Templates::built_in(&mut Sink::new())?)),
        |(number, templates), right| {
            let rendered = catch_unwind(AssertUnwindSafe(|| {
                make(*number);
                expand(&right.compiled.plan, templates)
            }));
            make(0);
            rendered.ok()?.ok()
        },
    )
}

//! The expander, and the types that it shares with those who judge it, with every mistake of one token. `scripts/mutants` builds
//! a copy of fwc that makes them.
//!
//! A mistake of the expander is made while it expands a plan that is right. One in `src/net` is made from the policy's text to
//! the proof, as it would be: where the proof does not hold no rules are written, and those that it lets pass are judged by
//! what has no mistake.
//!
//! `FWC_PRINT=1` prints each mistake that nothing is wrong with, `FWC_ONLY` takes a part of a file's name.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::expand::{Rendered, Templates, expand};
use fwc::internals::resolve::resolve;
use fwc::internals::verify::{RenderedRules, Verifier};
use fwc::policy;
use fwc::source::SourceMap;
use libtest_mimic::{Completion, Failed, Trial};

use super::makes::{MISTAKES, make};
use super::many::{Mistake, try_all};
use super::policies::Right;

/// The tests.
pub fn all() -> Vec<Trial> {
    let name = "mutants::made";
    match MISTAKES.is_empty() {
        true => vec![Trial::ignorable_test(name, || {
            Ok(Completion::ignored_with("`scripts/mutants` runs it"))
        })],
        false => vec![Trial::test(name, made)],
    }
}

fn made() -> Result<(), Failed> {
    // From a mistake that panics no rules come.
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("FWC_ONLY").unwrap_or_default();
    let mut all: Vec<Mistake<Made>> = Vec::new();
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
            what: Made {
                number: number.parse()?,
                shared: place.starts_with("net/"),
            },
        });
    }
    try_all(
        all,
        |made| Some((*made, Templates::built_in(&mut Sink::new())?)),
        |(made, templates), right| {
            let rendered = catch_unwind(AssertUnwindSafe(|| {
                make(made.number);
                match made.shared {
                    false => expand(&right.compiled.plan, templates).ok(),
                    true => from_text(right, templates),
                }
            }));
            make(0);
            rendered.ok()?
        },
    )
}

/// Compiles a policy from its text; no rules where the proof of other rules than the right ones does not hold.
fn from_text(right: &Right, templates: &Templates) -> Option<Rendered> {
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(&right.path, Access::Read, &mut sources, &mut sink)?;
    let plan = resolve(&policy, &mut sink)?;
    let rendered = expand(&plan, templates).ok()?;
    let texts = rendered.texts();
    if texts == right.compiled.text {
        return Some(rendered);
    }
    let rules = RenderedRules::read(texts, rendered.ipsets.as_deref()).ok()?;
    Verifier::new(&policy, &plan)
        .prove(&rules)
        .holds()
        .then_some(rendered)
}

/// A mistake's number, and whether it is in what everybody uses.
#[derive(Clone, Copy)]
struct Made {
    number: u32,
    shared: bool,
}

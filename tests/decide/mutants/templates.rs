//! Every template that is built in, with every mistake of one token.
//!
//! A failure names template, line and mistake. `FWC_PRINT=1` prints each mistake that nothing is wrong with, `FWC_ONLY` takes
//! a part of a template's name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use fwc::diag::Sink;
use fwc::expand::{Templates, expand};
use fwc::files::Access;
use fwc::source::SourceMap;
use libtest_mimic::{Failed, Trial};

use super::judge::{Fate, Tally, judge};
use super::policies::{self, Right};
use super::tokens::{Mistake, mistakes};

/// What is refused for so many policies is not tried on more: with others it may give rules, and those are to be found wrong.
const MOST_REFUSALS: usize = 8;

/// The tests.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("mutants::templates", templates)]
}

fn templates() -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let only = std::env::var("FWC_ONLY").unwrap_or_default();
    let mut left: Vec<(String, Mistake)> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains(&only) {
            let text = std::fs::read_to_string(&path).unwrap();
            let all = mistakes(&text).into_iter();
            left.extend(all.map(|mistake| (name.clone(), mistake)));
        }
    }
    left.sort_by(|(one, _), (other, _)| other.cmp(one));
    let (left, done) = (Mutex::new(left), Mutex::new(Vec::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let policies = policies::all();
                let mut order: Vec<usize> = (0..policies.len()).collect();
                loop {
                    let next = left.lock().unwrap().pop();
                    let Some((name, mistake)) = next else { break };
                    let fate = fate(&name, &mistake.text, &policies, &mut order);
                    done.lock().unwrap().push((name, mistake, fate));
                }
            });
        }
    });
    report(done.into_inner().unwrap())
}

fn report(done: Vec<(String, Mistake, Result<Fate, String>)>) -> Result<(), Failed> {
    let print = std::env::var_os("FWC_PRINT").is_some();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut survived = Vec::new();
    for (name, mistake, fate) in done {
        let Mistake {
            way,
            line,
            before,
            after,
            ..
        } = mistake;
        let blame = format!("{name}:{line}: {way}: {before:?} -> {after:?}");
        match fate {
            Ok(fate) => {
                tallies.entry(name).or_default().count(way, fate);
                if print && fate <= Fate::Equal {
                    println!("{fate:?}: {blame}");
                }
            }
            Err(why) => survived.push(format!("{blame}\n{why}")),
        }
    }
    for (name, tally) in &tallies {
        tally.print(name);
        if tally.of(Fate::Packet) + tally.of(Fate::Structure) == 0 {
            survived.push(format!("{name}: the proof found no mistake"));
        }
    }
    println!("survived {}", survived.len());
    match survived.is_empty() {
        true => Ok(()),
        false => Err(survived.join("\n\n").into()),
    }
}

/// The worst that a template with a mistake does to any policy. The policies that found the last mistakes are asked first.
fn fate(name: &str, text: &str, policies: &[Right], order: &mut [usize]) -> Result<Fate, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let templates = Templates::with_folder(folder.path(), Access::Read, &mut sources, &mut sink);
    let Some(templates) = templates else {
        return Ok(Fate::Refused);
    };
    let mut fate = Fate::Unchanged;
    let mut refusals = 0;
    for at in 0..order.len() {
        let right = &policies[order[at]];
        let here = match expand(&right.compiled.plan, &templates) {
            Ok(rendered) => judge(right, rendered.texts(), rendered.ipsets.as_deref())?,
            Err(_) => Fate::Refused,
        };
        fate = fate.max(here);
        refusals += usize::from(here == Fate::Refused);
        if fate > Fate::Refused || refusals == MOST_REFUSALS {
            order[..=at].rotate_right(1);
            break;
        }
    }
    Ok(fate)
}

//! Many mistakes, each tried on the policies, until one shows that it is found; `FWC_EVERY=1` tries the rest of them too,
//! `FWC_POLICY=NAME` one alone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use fwc::internals::expand::Rendered;
use libtest_mimic::Failed;

use super::judge::{Fate, Tally, judge};
use super::policies::{self, Right};

/// What is refused for so many policies is not tried on more: with others it may give rules, and those are to be found wrong.
const MOST_REFUSALS: usize = 8;

/// What a mistake makes call itself without an end is noticed before this is used up, in bytes.
const STACK: usize = 32 << 20;

/// A mistake.
pub struct Mistake<T> {
    /// Where it is counted: a file.
    pub group: String,
    pub way: String,
    /// What it is called where it survives.
    pub blame: String,
    pub what: T,
}

/// Tries each mistake: `make` makes it, unless it is refused at once, and `render` gives the rules of a policy with it.
pub fn try_all<T: Send, S>(
    mut mistakes: Vec<Mistake<T>>,
    make: impl Fn(&T) -> Option<S> + Sync,
    render: impl Fn(&S, &Right) -> Option<Rendered> + Sync,
) -> Result<(), Failed> {
    let print = std::env::var_os("FWC_PRINT").is_some();
    mistakes.reverse();
    let policy = std::env::var("FWC_POLICY").ok();
    let every = std::env::var_os("FWC_EVERY").is_some();
    let (left, done) = (Mutex::new(mistakes), Mutex::new(Vec::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            let thread = thread::Builder::new().stack_size(STACK);
            let started = thread.spawn_scoped(scope, || {
                let mut policies = policies::all();
                policies.retain(|right| policy.as_ref().is_none_or(|name| *name == right.name));
                let mut order: Vec<usize> = (0..policies.len()).collect();
                loop {
                    let next = left.lock().unwrap().pop();
                    let Some(mistake) = next else { break };
                    let fate = match make(&mistake.what) {
                        Some(made) => {
                            worst(&policies, &mut order, every, |right| render(&made, right))
                        }
                        None => Ok(Fate::Refused),
                    };
                    if print && !matches!(fate, Ok(Fate::Refused | Fate::Structure | Fate::Packet))
                    {
                        println!("{fate:?}: {}", mistake.blame);
                    }
                    done.lock().unwrap().push((mistake, fate));
                }
            });
            started.unwrap();
        }
    });
    report(done.into_inner().unwrap())
}

/// The worst that a mistake does to any policy. The policies that found the last mistakes are asked first.
fn worst(
    policies: &[Right],
    order: &mut [usize],
    every: bool,
    render: impl Fn(&Right) -> Option<Rendered>,
) -> Result<Fate, String> {
    let mut fate = Fate::Unchanged;
    let mut refusals = 0;
    for at in 0..order.len() {
        let right = &policies[order[at]];
        let here = match render(right) {
            Some(rendered) => judge(right, rendered.texts(), rendered.ipsets.as_deref())?,
            None => Fate::Refused,
        };
        fate = fate.max(here);
        refusals += usize::from(here == Fate::Refused);
        if every {
            continue;
        }
        if fate > Fate::Refused || refusals == MOST_REFUSALS {
            order[..=at].rotate_right(1);
            break;
        }
    }
    Ok(fate)
}

/// Parts of which every mistake is refused, changes no rule, or writes equal rules: they have names and texts of values.
const NOTHING_TO_FIND: [&str; 3] = ["net/family.rs", "net/interface.rs", "net/protocol.rs"];

fn report<T>(done: Vec<(Mistake<T>, Result<Fate, String>)>) -> Result<(), Failed> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut survived = Vec::new();
    for (mistake, fate) in done {
        match fate {
            Ok(fate) => {
                let tally = tallies.entry(mistake.group).or_default();
                tally.count(&mistake.way, fate);
            }
            Err(why) => survived.push(format!("{}\n{why}", mistake.blame)),
        }
    }
    let mut all = Tally::default();
    for (group, tally) in &tallies {
        tally.print(group);
        all.add(tally);
        let found = tally.of(Fate::Packet) + tally.of(Fate::Structure);
        match (found, NOTHING_TO_FIND.contains(&group.as_str())) {
            (0, false) => survived.push(format!("{group}: the proof found no mistake")),
            (1.., true) => survived.push(format!("{group}: an exception that it does not need")),
            _ => {}
        }
    }
    all.print("together");
    println!("survived {}", survived.len());
    match survived.is_empty() {
        true => Ok(()),
        false => Err(survived.join("\n\n").into()),
    }
}

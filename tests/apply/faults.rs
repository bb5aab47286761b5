//! Something dies or fails at each named point, and what must hold afterwards.
//!
//! Each case is two hosts: one with fwc, one that talks to it. `FWC_FAULTS=all` runs every kind of error at every point with both
//! backends, alone and beside others; otherwise nft alone has every point with both kills and one error, the others a sample.

use std::collections::BTreeSet;
use std::env;
use std::io::Write;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use fwc::internals::fault::Point;

use super::Test;
use super::namespace::{Backend, Namespace};
use super::old_or_new::{
    Change, Changing, PATIENCE, Wanted, Whose, each, is_closed, last_step, wanted,
};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[
    ("faults_at_every_point", |backend| {
        faults_at_every_point(backend, Whose::Alone)
    }),
    ("faults_in_shared_mode", |backend| {
        faults_at_every_point(backend, Whose::Shared)
    }),
    ("faults_beside_preserved", |backend| {
        faults_at_every_point(backend, Whose::Preserve)
    }),
];

type Result<T = ()> = std::result::Result<T, String>;

/// How long a change waits for its confirmation here. Where that is over before the fault, because the machine is busy, it is more.
const TIMEOUTS: [&str; 3] = ["1s", "8s", "60s"];

/// Which command meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// `apply --yes`
    Apply,
    /// `apply --confirm`, and nobody confirms.
    Unconfirmed,
    /// `apply --confirm`, then `confirm`, which meets the fault.
    Confirm,
    /// `apply --yes` of a policy without sets.
    Bare,
    /// The first `apply`, where somebody's rules files are.
    First,
}

/// The scenes in which a point is passed.
fn scenes(point: Point) -> &'static [Scene] {
    use Point as P;
    use Scene::{Apply, Bare, Confirm, First, Unconfirmed};
    match point {
        P::JournalPending | P::Pending => &[Unconfirmed],
        P::JournalUndoing
        | P::Undoing
        | P::UndoSets
        | P::UndoV4
        | P::UndoneV4
        | P::UndoV6
        | P::UndoneV6
        | P::UndoReadBack
        | P::UndoSetsFinish
        | P::UndoHistory
        | P::JournalUndone
        | P::Undone => &[Unconfirmed],
        P::KeepOld => &[First],
        // Of other commands.
        P::SavePlan | P::PlanStaged | P::PanicV4 | P::PanicV6 => &[],
        P::BootSets | P::BootV4 | P::BootV6 | P::Booted => &[],
        P::RemoveSets => &[Bare],
        P::JournalConfirmed | P::Confirmed | P::PublishV4 | P::PublishV6 => &[Apply, Confirm],
        P::SetsFinish | P::JournalDone | P::Done => &[Apply, Confirm],
        P::OweHooks | P::RunHooks | P::HooksRan => &[Apply, Confirm],
        _ => &[Apply],
    }
}

#[derive(Clone, Debug)]
struct Case {
    backend: Backend,
    scene: Scene,
    point: Point,
    kind: &'static str,
}

/// From the first change to the wait for a confirmation, but for the points that the watchdog passes, too.
const STOPS: [Point; 14] = [
    Point::Changing,
    Point::SetsReady,
    Point::BridgeV4,
    Point::BridgedV4,
    Point::BridgeV6,
    Point::BridgedV6,
    Point::RestoreV4,
    Point::RestoredV4,
    Point::RestoreV6,
    Point::RestoredV6,
    Point::ReadBack,
    Point::ReadBackDone,
    Point::JournalPending,
    Point::Pending,
];

/// How many cases are run; `None`: all.
fn sample(backend: Backend, whose: Whose) -> Option<usize> {
    match (whose, backend) {
        (Whose::Alone, Backend::Nft) => None,
        (Whose::Alone, Backend::Legacy) => Some(24),
        (Whose::Shared, Backend::Nft) => Some(32),
        (Whose::Preserve, Backend::Nft) => Some(16),
        (_, Backend::Legacy) => Some(8),
    }
}

const ERRORS: [&str; 3] = ["ENOSPC", "EACCES", "EIO"];

fn cases(backend: Backend, whose: Whose) -> Vec<Case> {
    let all = env::var_os("FWC_FAULTS").is_some_and(|word| word == "all");
    let mut cases = Vec::new();
    for (number, &point) in Point::ALL.iter().enumerate() {
        for &scene in scenes(point) {
            let mut kinds = vec!["kill"];
            if is_watched(point) {
                kinds.push("kill-watchdog");
            }
            if all {
                kinds.extend(ERRORS);
            } else {
                kinds.push(ERRORS[number % ERRORS.len()]);
            }
            if matches!(
                point,
                Point::RestoreV4 | Point::RestoreV6 | Point::UndoV4 | Point::UndoV6
            ) {
                kinds.push("refuse");
            }
            cases.extend(kinds.into_iter().map(|kind| Case {
                backend,
                scene,
                point,
                kind,
            }));
        }
    }
    // A fwc that somebody stopped half-way is ended when the time of the change is over.
    cases.extend(STOPS.iter().map(|&point| Case {
        backend,
        scene: Scene::Unconfirmed,
        point,
        kind: "stop",
    }));
    let sample = sample(backend, whose).filter(|_| !all);
    let Some(sample) = sample else {
        return cases;
    };
    // The same ones every time, spread over all.
    let step = cases.len().div_ceil(sample).max(1);
    cases.into_iter().skip(3 % step).step_by(step).collect()
}

/// Whether there is another process to kill: in the scenes where the watchdog itself passes the point there is none.
fn is_watched(point: Point) -> bool {
    let at = |point| Point::ALL.iter().position(|one| *one == point).unwrap();
    (at(Point::WatchdogStarted)..at(Point::RunHooks)).contains(&at(point))
}

fn faults_at_every_point(backend: Backend, whose: Whose) -> Result {
    find("ipset")?;
    let cases = cases(backend, whose);
    let wanted = wanted(backend, whose);
    let begun = Instant::now();
    let violations = each(&cases, |case| one(case, &wanted));
    let points: BTreeSet<&str> = cases.iter().map(|case| case.point.word()).collect();
    let line = format!(
        "{backend}, {whose:?}: {} faults at {} points, {} violations, {:.0} s\n",
        cases.len(),
        points.len(),
        violations.len(),
        begun.elapsed().as_secs_f64()
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

/// `fwc ...` that meets the fault.
fn meet(ns: &Namespace, case: &Case, arguments: &[&str]) -> Output {
    let persist = ns.path("iptables");
    let persist = ["--persist-dir", persist.to_str().unwrap()];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &[arguments, &persist].concat());
    command
        .env("FWC_FAULT", format!("{}={}", case.point.word(), case.kind))
        .env("FWC_FAULT_TRACE", ns.path("trace"))
        .stdin(std::process::Stdio::null());
    ns.net().enter(|| command.output().unwrap())
}

fn one(case: &Case, wanted: &Wanted) -> Result {
    for timeout in TIMEOUTS {
        if attempt(case, wanted, timeout)? {
            return Ok(());
        }
    }
    Err("the change was taken back before it met the fault".to_owned())
}

/// Whether the fault happened.
fn attempt(case: &Case, wanted: &Wanted, timeout: &str) -> Result<bool> {
    let change = match case.scene {
        Scene::First => Change::First,
        Scene::Bare => Change::Bare,
        Scene::Apply | Scene::Unconfirmed | Scene::Confirm => Change::Policy,
    };
    let mut host = Changing::new(case.backend, change, wanted)?;
    let ns = &host.ns;
    match case.scene {
        Scene::Apply | Scene::Bare | Scene::First => {
            meet(ns, case, &["apply", host.policy, "--yes"]);
        }
        Scene::Unconfirmed => {
            let confirm = ["apply", host.policy, "--confirm", "--timeout", timeout];
            meet(ns, case, &confirm);
        }
        Scene::Confirm => {
            ns.apply(host.policy, &["--confirm", "--timeout", "20s"])
                .expect(0);
            meet(ns, case, &["confirm"]);
        }
    }
    // Nobody does anything now: what must happen happens by itself.
    let deadline = Instant::now() + PATIENCE;
    let quiet = || is_closed(ns) || !was_changed(ns, case);
    while !(quiet() && ns.path("trace").exists()) {
        if case.scene == Scene::Unconfirmed && is_closed(ns) && !ns.path("trace").exists() {
            return Ok(false);
        }
        if Instant::now() > deadline {
            return Err(format!(
                "not over in {PATIENCE:?}: {:?}, the fault happened: {}",
                last_step(ns),
                ns.path("trace").exists()
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    host.is_old_or_new("afterwards")?;
    host.lets_in()?;
    host.is_ended_by_recover()?;
    Ok(true)
}

/// Whether the fault came so late that a watchdog has to act.
fn was_changed(ns: &Namespace, case: &Case) -> bool {
    let at = |point| Point::ALL.iter().position(|one| *one == point).unwrap();
    last_step(ns).is_some_and(|line| !line.contains("\"step\":\"begun\""))
        && at(case.point) >= at(Point::WatchdogStarted)
}

//! Processes die at random moments: fwc, its watchdog's two, the tools that they run, pairs of them, all.
//!
//! `FWC_KILLS` says how many there are with each backend, `FWC_SEED` with which seed they begin; with `FWC_STATE`, a folder, a
//! run goes on where the last one stopped (`scripts/soak kills` does that).

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Test;
use super::namespace::{Backend, Namespace};
use super::old_or_new::{
    Change, Changing, PATIENCE, Wanted, Whose, each, is_closed, last_step, wanted,
};
use super::support::tools::find;

pub const TESTS: &[(&str, Test)] = &[("kills_at_random_moments", kills_at_random_moments)];

type Result<T = ()> = std::result::Result<T, String>;

/// How many there are without a word about it.
const KILLS: u64 = 6;

/// How long a change waits for its confirmation here.
const TIMEOUT: &str = "2s";
const WAIT: Duration = Duration::from_secs(2);

/// A number from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        let count = u64::try_from(all.len()).unwrap();
        all[usize::try_from(self.below(count)).unwrap()]
    }
}

/// The command that somebody dies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// `apply --yes`
    Apply,
    /// `apply --confirm`, and nobody confirms.
    Unconfirmed,
    /// `apply --confirm --wait`, and nobody confirms.
    Waiting,
    /// `confirm` of a change that waits.
    Confirm,
    /// `rollback` of a change that waits.
    Rollback,
}

const SCENES: [Scene; 5] = [
    Scene::Apply,
    Scene::Unconfirmed,
    Scene::Waiting,
    Scene::Confirm,
    Scene::Rollback,
];

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The command itself.
    Fwc,
    /// The watchdog's process that waits.
    Supervisor,
    /// The watchdog's process that works.
    Worker,
    /// What fwc or its watchdog runs.
    Tool,
}

/// Who dies at the same time.
const VICTIMS: &[&[Part]] = &[
    &[Part::Fwc],
    &[Part::Supervisor],
    &[Part::Worker],
    &[Part::Tool],
    &[Part::Fwc, Part::Supervisor],
    &[Part::Fwc, Part::Worker],
    &[Part::Fwc, Part::Tool],
    &[Part::Worker, Part::Tool],
    &[Part::Supervisor, Part::Worker],
    &[Part::Fwc, Part::Supervisor, Part::Worker],
    &[Part::Fwc, Part::Supervisor, Part::Worker, Part::Tool],
];

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    backend: Backend,
    whose: Whose,
    scene: Scene,
    victims: &'static [Part],
    /// The first one, in thousandths of the time that the command takes.
    moment: u64,
}

impl Case {
    fn new(seed: u64, backend: Backend) -> Self {
        let mut random = Random(seed);
        Self {
            seed,
            backend,
            whose: random.of(&[Whose::Alone, Whose::Alone, Whose::Shared, Whose::Preserve]),
            scene: random.of(&SCENES),
            victims: random.of(VICTIMS),
            moment: random.below(1000),
        }
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    let value = env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().unwrap())
}

/// The seeds that are done, in a file where a run is to go on another time.
struct State {
    path: Option<PathBuf>,
    done: Mutex<BTreeSet<u64>>,
}

impl State {
    fn open(backend: Backend) -> Self {
        let folder = env::var_os("FWC_STATE").map(PathBuf::from);
        let path = folder.map(|folder| folder.join(format!("kills-{backend}")));
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let lines = text.iter().flat_map(|text| text.lines());
        let done = lines.map(|line| line.parse().unwrap()).collect();
        Self {
            path,
            done: Mutex::new(done),
        }
    }

    /// Notes that nothing was wrong.
    fn note(&self, seed: u64) {
        let mut done = self.done.lock().unwrap();
        done.insert(seed);
        if let Some(path) = &self.path {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.unwrap(), "{seed}").unwrap();
        }
    }
}

fn kills_at_random_moments(backend: Backend) -> Result {
    find("ipset")?;
    let begun = Instant::now();
    let first = setting("FWC_SEED", 1);
    let seeds = first..first + setting("FWC_KILLS", KILLS);
    let state = State::open(backend);
    let mut cases: Vec<Case> = seeds.map(|seed| Case::new(seed, backend)).collect();
    cases.retain(|case| !state.done.lock().unwrap().contains(&case.seed));
    let wanted: Vec<Wanted> = [Whose::Alone, Whose::Shared, Whose::Preserve]
        .into_iter()
        .filter(|whose| cases.iter().any(|case| case.whose == *whose))
        .map(|whose| wanted(backend, whose))
        .collect();
    let killed = Mutex::new((0, [0; 4]));
    let violations = each(&cases, |case| {
        let wanted = wanted.iter().find(|one| one.whose == case.whose);
        let dead = one(case, wanted.unwrap())?;
        state.note(case.seed);
        let (commands, parts) = &mut *killed.lock().unwrap();
        *commands += usize::from(!dead.is_empty());
        for part in dead {
            parts[part as usize] += 1;
        }
        Ok(())
    });
    let (commands, [fwc, supervisor, worker, tool]) = *killed.lock().unwrap();
    let line = format!(
        "{backend}: {} commands, kills in {commands}: {fwc} fwc, {supervisor} supervisors, {worker} workers, {tool} tools; {} violations, {:.0} s\n",
        cases.len(),
        violations.len(),
        begun.elapsed().as_secs_f64()
    );
    // Past the harness, which shows what is printed of failing tests only.
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

/// The processes in a network namespace, and what they are for.
pub fn processes(ns: &Namespace) -> Vec<(Pid, Part)> {
    let inode = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let own = inode(ns.net().path().into());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if inode(entry.path().join("ns/net")) != own {
            continue;
        }
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        let is_fwc = words[0] == env!("CARGO_BIN_EXE_fwc").as_bytes();
        let part = match words.get(2) {
            Some(&b"supervise") if is_fwc => Part::Supervisor,
            Some(&b"work") if is_fwc => Part::Worker,
            _ if is_fwc => Part::Fwc,
            _ => Part::Tool,
        };
        found.extend(Pid::from_raw(pid).map(|pid| (pid, part)));
    }
    found
}

/// `fwc ...` in the background.
fn start(ns: &Namespace, arguments: &[&str]) -> Child {
    let persist = ns.path("iptables");
    let persist = ["--persist-dir", persist.to_str().unwrap()];
    let mut command = ns.command(env!("CARGO_BIN_EXE_fwc"), &[arguments, &persist].concat());
    let null = Stdio::null;
    command.stdin(null()).stdout(null()).stderr(null());
    ns.net().enter(|| command.spawn().unwrap())
}

fn arguments(scene: Scene, policy: &'static str) -> Vec<&'static str> {
    let confirm = ["apply", policy, "--confirm", "--timeout", TIMEOUT];
    match scene {
        Scene::Apply => vec!["apply", policy, "--yes"],
        Scene::Unconfirmed => confirm.to_vec(),
        Scene::Waiting => [&confirm[..], &["--wait"]].concat(),
        Scene::Confirm => vec!["confirm"],
        Scene::Rollback => vec!["rollback"],
    }
}

/// Kills who is to die as soon as all of them are there, unless all is over before: who that was.
fn kill(ns: &Namespace, victims: &[Part]) -> Vec<Part> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = processes(ns);
        if found.is_empty() || Instant::now() > deadline {
            return Vec::new();
        }
        found.retain(|(_, part)| victims.contains(part));
        let is_there = |victim: &Part| found.iter().any(|(_, part)| part == victim);
        if victims.iter().all(is_there) {
            found.retain(|(pid, _)| kill_process(*pid, Signal::KILL).is_ok());
            return found.into_iter().map(|(_, part)| part).collect();
        }
    }
}

/// Runs one: who was killed.
fn one(case: &Case, wanted: &Wanted) -> Result<Vec<Part>> {
    let mut host = Changing::new(case.backend, Change::Policy, wanted)?;
    let ns = &host.ns;
    if matches!(case.scene, Scene::Confirm | Scene::Rollback) {
        // On a busy machine the shorter ones may be over before all is in force.
        let pending = ["4s", "20s", "100s"].into_iter().any(|timeout| {
            let confirm = ["--confirm", "--timeout", timeout];
            ns.apply(host.policy, &confirm).code == Some(0)
        });
        assert!(pending, "no change waits");
    }
    let mut fwc = start(ns, &arguments(case.scene, host.policy));
    // With the watchdog at work, where the command ends before.
    let whole = match case.scene {
        Scene::Apply => host.took,
        Scene::Unconfirmed if case.victims.contains(&Part::Fwc) => host.took,
        Scene::Unconfirmed | Scene::Waiting => host.took + WAIT,
        Scene::Confirm | Scene::Rollback => host.took / 3,
    };
    thread::sleep(whole * u32::try_from(case.moment).unwrap() / 1000);
    let dead = kill(ns, case.victims);
    // Nobody does anything now: what must happen happens by itself.
    let deadline = Instant::now() + PATIENCE;
    let _ = fwc.wait();
    while !processes(ns).is_empty() {
        if Instant::now() > deadline {
            let last = last_step(ns);
            return Err(format!("not over in {PATIENCE:?}: {last:?}, {dead:?} died"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let watched = !(dead.contains(&Part::Supervisor) && dead.contains(&Part::Worker));
    if watched || is_closed(ns) {
        let untouched = last_step(ns).is_some_and(|line| line.contains("\"step\":\"begun\""));
        if !is_closed(ns) && !untouched {
            return Err(format!("left as it is: {:?}, {dead:?} died", last_step(ns)));
        }
        host.is_old_or_new("afterwards")?;
        host.lets_in()?;
    }
    // Where nobody was left to take it back, the next one does.
    host.is_ended_by_recover()?;
    Ok(dead)
}

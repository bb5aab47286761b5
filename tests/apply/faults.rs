//! Something dies or fails at each named point, and what must hold afterwards.
//!
//! Each case is two hosts: one with fwc, one that talks to it. `FWC_FAULTS=all` runs every kind of error at every point with both
//! backends, alone and beside others; otherwise nft alone has every point with both kills and one error, the others a sample.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fwc::fault::Point;

use super::Test;
use super::namespace::{Backend, Namespace, TOOLS};
use super::support::namespace::Namespace as Net;
use super::support::network::{End, link};
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

type Result = std::result::Result<(), String>;

/// How long a change waits for its confirmation here.
const TIMEOUT: &str = "1s";

/// The watchdog's second, and whatever a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many cases run at the same time.
const WORKERS: usize = 4;

/// Whose the host's rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Alone,
    Shared,
    Preserve,
}

impl Whose {
    /// What the policy says of it.
    fn words(self) -> &'static str {
        match self {
            Self::Alone => "",
            Self::Shared => "[ownership]\nmode = \"shared\"\n",
            Self::Preserve => {
                "[ownership]\npreserve = [\"DOCKER\", \"f2b-*\", { device = \"docker0\" }]\n"
            }
        }
    }

    /// What others have on the host.
    fn others(self) -> &'static str {
        match self {
            Self::Alone => "",
            Self::Shared | Self::Preserve => OTHERS,
        }
    }

    /// Where the files for the next boot are.
    fn folder(self) -> &'static str {
        match self {
            Self::Shared => "iptables/fwc",
            Self::Alone | Self::Preserve => "iptables",
        }
    }

    /// How many cases are run; `None`: all.
    fn sample(self, backend: Backend) -> Option<usize> {
        match (self, backend) {
            (Self::Alone, Backend::Nft) => None,
            (Self::Alone, Backend::Legacy) => Some(24),
            (Self::Shared, Backend::Nft) => Some(32),
            (Self::Preserve, Backend::Nft) => Some(16),
            (_, Backend::Legacy) => Some(8),
        }
    }
}

const OTHERS: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A FORWARD -o docker0 -j MARK --set-mark 7\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:f2b-all - [0:0]\n-A INPUT -j f2b-all\n-A FORWARD -o docker0 -j DOCKER\n-A DOCKER -p tcp -m tcp --dport 80 -j ACCEPT\n-A f2b-all -m mac --mac-source 02:00:00:00:00:99 -j DROP\nCOMMIT\n";

/// A policy with sets; the two differ in a rule, a mark in the mangle table, so that they need three phases, a static set's
/// members and a dynamic set's timeout.
fn policy(head: &str, port: u16, member: &str, timeout: &str, class: &str) -> String {
    format!(
        "version = 1\n\n{head}[addresses]\nblocked = {{ include = [\"{member}\"], set = true }}\nbanned = {{ set = \"dynamic\", timeout = \"{timeout}\" }}\n\n[[rules]]\nsource = [\"blocked\", \"banned\"]\naction = \"drop\"\n\n[[rules]]\nservice = [\"ssh\", \"{port}/tcp\"]\n\n[[mangle]]\ntype = \"dscp\"\nfrom = \"host\"\nservice = \"sip\"\nset = \"{class}\"\n"
    )
}

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
    whose: Whose,
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
                whose,
                backend,
                scene,
                point,
                kind,
            }));
        }
    }
    // A fwc that somebody stopped half-way is ended when the time of the change is over.
    cases.extend(STOPS.iter().map(|&point| Case {
        whose,
        backend,
        scene: Scene::Unconfirmed,
        point,
        kind: "stop",
    }));
    let sample = whose.sample(backend).filter(|_| !all);
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
    let wanted = wanted(backend, whose)?;
    let next = AtomicUsize::new(0);
    let violations = Mutex::new(Vec::new());
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = std::panic::catch_unwind(|| one(case, &wanted));
                    let run = run.unwrap_or_else(|panic| Err(super::words(&*panic)));
                    if let Err(text) = run {
                        violations.lock().unwrap().push(format!("{case:?}: {text}"));
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().unwrap();
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

/// A ruleset as it should be: rules without counters, the static set's members and the dynamic set's form, and the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    rules: String,
    sets: Vec<String>,
}

struct Wanted {
    empty: State,
    old: State,
    new: State,
    bare: State,
    old_files: Vec<String>,
    new_files: Vec<String>,
    bare_files: Vec<String>,
}

/// What the policies give on a host where nothing goes wrong.
fn wanted(backend: Backend, whose: Whose) -> std::result::Result<Wanted, String> {
    let ns = Namespace::new(backend);
    prepare(&ns, whose);
    let empty = state(&ns);
    let get = |policy| -> (State, Vec<String>) {
        ns.apply(policy, &[]).expect(0);
        (state(&ns), files(&ns, whose))
    };
    let (old, old_files) = get("old.toml");
    let (new, new_files) = get("new.toml");
    let (bare, bare_files) = get("bare.toml");
    Ok(Wanted {
        empty,
        old,
        new,
        bare,
        old_files,
        new_files,
        bare_files,
    })
}

/// The policies, and others' rules.
fn prepare(ns: &Namespace, whose: Whose) {
    let ran = ns.path("ran");
    let head = format!(
        "{}\n[hooks]\nafter-apply = [[\"touch\", {ran:?}]]\n\n",
        whose.words()
    );
    let bare = format!("version = 1\n\n{head}[[rules]]\nservice = [\"ssh\", \"8080/tcp\"]\n");
    let policies = [
        ("old.toml", policy(&head, 80, "192.0.2.0/24", "1h", "ef")),
        (
            "new.toml",
            policy(&head, 8080, "198.51.100.0/24", "2h", "af41"),
        ),
        ("bare.toml", bare),
    ];
    for (name, text) in policies {
        fs::write(ns.path(name), text).unwrap();
    }
    for tool in TOOLS {
        ns.restore(tool, whose.others()).expect(0);
    }
}

fn state(ns: &Namespace) -> State {
    let mut rules = String::new();
    for tool in TOOLS {
        let program = format!("{tool}-{}-save", ns.backend);
        let saved = ns.run(&program, &[], "").expect(0).out;
        let mut table = String::new();
        for line in saved.lines().filter(|line| !line.starts_with('#')) {
            // What a policy counted is printed without -c, too.
            let line = line.split(" [").next().unwrap();
            table.push_str(line);
            table.push('\n');
            if line == "COMMIT" {
                // A table that a load merely made says nothing.
                if table.contains("-A ") || table.contains(" DROP") {
                    rules.push_str(&table);
                }
                table.clear();
            }
        }
        rules.push_str("---\n");
    }
    let listed = ns.run("ipset", &["save"], "").expect(0).out;
    let lines = listed.lines().filter(|line| !line.contains('~'));
    let mut sets: Vec<String> = lines
        .filter(|line| !line.starts_with("add fwc4-banned"))
        .map(|line| {
            let line = line.split(" bucketsize ").next().unwrap();
            line.replace("hashsize 1024 ", "")
                .replace("hashsize 64 ", "")
        })
        .collect();
    sets.sort();
    State { rules, sets }
}

/// The files that boot, those of others left out.
fn files(ns: &Namespace, whose: Whose) -> Vec<String> {
    ["rules.v4", "rules.v6", "ipsets"]
        .iter()
        .map(|name| ns.path(&format!("{}/{name}", whose.folder())))
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .collect()
}

/// The last step that the journal has, as it is written.
fn last_step(ns: &Namespace) -> Option<String> {
    let folder = fs::read_dir(ns.path("state/namespaces"))
        .ok()?
        .next()?
        .ok()?;
    let journal = fs::read_to_string(folder.path().join("journal")).ok()?;
    journal.lines().last().map(str::to_owned)
}

fn is_closed(ns: &Namespace) -> bool {
    last_step(ns).is_none_or(|line| {
        line.contains("\"step\":\"done\"") || line.contains("\"step\":\"undone\"")
    })
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

const HOST: &str = "10.99.0.1";
const BAN: &str = "203.0.113.9";

fn one(case: &Case, wanted: &Wanted) -> Result {
    let ns = Namespace::new(case.backend);
    let client = Net::new()?;
    link(
        &End(ns.net(), "eth0", &["10.99.0.1/24", "2001:db8:99::1/64"]),
        &End(&client, "eth0", &["10.99.0.2/24", "2001:db8:99::2/64"]),
    )?;
    prepare(&ns, case.whose);
    let (old, old_files) = if case.scene == Scene::First {
        let folder = ns.path(case.whose.folder());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rules.v4"), "# by hand\n").unwrap();
        (
            &wanted.empty,
            vec!["# by hand\n".to_owned(), String::new(), String::new()],
        )
    } else {
        ns.apply("old.toml", &[]).expect(0);
        fs::remove_file(ns.path("ran")).unwrap();
        ns.run("ipset", &["add", "fwc4-banned", BAN], "").expect(0);
        (&wanted.old, wanted.old_files.clone())
    };
    let (policy, new, new_files) = if case.scene == Scene::Bare {
        ("bare.toml", &wanted.bare, &wanted.bare_files)
    } else {
        ("new.toml", &wanted.new, &wanted.new_files)
    };
    let server = ns.net().enter(|| TcpListener::bind((HOST, 22)).unwrap());
    let mut open = connect(&client).ok_or("the old rules do not let in")?;
    let (mut accepted, _) = server.accept().unwrap();

    let confirm = ["apply", policy, "--confirm", "--timeout", TIMEOUT];
    match case.scene {
        Scene::Apply | Scene::Bare | Scene::First => {
            meet(&ns, case, &["apply", policy, "--yes"]);
        }
        Scene::Unconfirmed => {
            meet(&ns, case, &confirm);
        }
        Scene::Confirm => {
            ns.apply(policy, &["--confirm", "--timeout", "20s"])
                .expect(0);
            meet(&ns, case, &["confirm"]);
        }
    }
    // Nobody does anything now: what must happen happens by itself.
    let deadline = Instant::now() + PATIENCE;
    let quiet = || is_closed(&ns) || !was_changed(&ns, case);
    while !(quiet() && ns.path("trace").exists()) {
        if Instant::now() > deadline {
            return Err(format!(
                "not over in {PATIENCE:?}: {:?}, the fault happened: {}",
                last_step(&ns),
                ns.path("trace").exists()
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let check = |when: &str| -> Result {
        let now = state(&ns);
        // Only the watchdog's last breath may leave sets that nobody needs.
        let is = |wanted: &State| {
            wanted.rules == now.rules
                && now
                    .sets
                    .iter()
                    .all(|line| wanted.sets.contains(line) || line.starts_with("create "))
                && wanted.sets.iter().all(|line| now.sets.contains(line))
        };
        if !is(old) && !is(new) {
            return Err(format!(
                "{when}: neither old nor new:\n{now:#?}\nold: {old:#?}\nnew: {new:#?}"
            ));
        }
        for (index, text) in files(&ns, case.whose).iter().enumerate() {
            if *text != old_files[index] && *text != new_files[index] {
                return Err(format!(
                    "{when}: the file {index} is neither old nor new: {text}"
                ));
            }
        }
        Ok(())
    };
    check("afterwards")?;

    // An open connection stays open, in both directions.
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    let lost = |error: std::io::Error| format!("the open connection: {error}");
    open.write_all(b"x").map_err(lost)?;
    accepted.read_exact(&mut [0]).map_err(lost)?;
    accepted.write_all(b"y").map_err(lost)?;
    open.read_exact(&mut [0]).map_err(lost)?;
    let fresh = connect(&client).ok_or("no new connection gets in")?;
    let _ = fresh.shutdown(Shutdown::Both);

    let recovered = ns.kept(&["recover"]);
    if recovered.code != Some(0) {
        return Err(format!("recover: {}{}", recovered.out, recovered.err));
    }
    if !is_closed(&ns) {
        return Err(format!("recover left it open: {:?}", last_step(&ns)));
    }
    check("after recover")?;
    let now = files(&ns, case.whose);
    if now != old_files && now != **new_files {
        return Err("after recover some files are old and some new".to_owned());
    }
    // Hooks follow a change that stays, and no other.
    let (ran, stays) = (ns.path("ran").exists(), now == **new_files);
    if ran != stays {
        return Err(format!("the change stays: {stays}, its hook ran: {ran}"));
    }
    let again = ns.apply(policy, &[]);
    if again.code != Some(0) {
        return Err(format!("the second apply: {}{}", again.out, again.err));
    }
    if state(&ns) != *new || files(&ns, case.whose) != **new_files {
        return Err(format!(
            "the second apply did not bring the new rules: {:#?}",
            state(&ns)
        ));
    }
    if !ns.path("ran").exists() {
        return Err("the second apply did not run the hook".to_owned());
    }
    let banned = ns.run("ipset", &["test", "fwc4-banned", BAN], "");
    if !matches!(case.scene, Scene::First | Scene::Bare) && banned.code != Some(0) {
        return Err("a ban was lost".to_owned());
    }
    Ok(())
}

/// Whether the fault came so late that a watchdog has to act.
fn was_changed(ns: &Namespace, case: &Case) -> bool {
    let at = |point| Point::ALL.iter().position(|one| *one == point).unwrap();
    last_step(ns).is_some_and(|line| !line.contains("\"step\":\"begun\""))
        && at(case.point) >= at(Point::WatchdogStarted)
}

fn connect(client: &Net) -> Option<TcpStream> {
    let address = SocketAddr::new(HOST.parse().unwrap(), 22);
    let connected = client.enter(|| TcpStream::connect_timeout(&address, PATIENCE));
    connected.ok()
}

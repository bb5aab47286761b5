//! The transaction on a real kernel with faults that no policy can cause: this program runs itself in a namespace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use fwc::internals::apply::{
    self, CommitReport, Confirmation, Error, Guard, Overrides, Progress, Recovered, Request,
    RulesetFiles, Store, Undo,
};
use fwc::internals::live::{
    self, Host, Ipset, ListedIpset, LiveRuleset, NamespaceId, Payload, Real, Rehearsed,
};
use fwc::iptables::TableName;
use fwc::net::{Family, PerFamily};

use super::Test;
use super::namespace::{Backend, Namespace};
use super::support::tools::find;

/// The first argument that leads here.
pub const COMMAND: &str = "__inside";

pub const TESTS: &[(&str, Test)] = &[
    ("rehearsal_finds_what_the_kernel_refuses", |backend| {
        outer(backend, "rehearsal")
    }),
    ("failing_ipv6_load_leaves_both_families", |backend| {
        outer(backend, "ipv6")
    }),
    ("failing_table_takes_back_those_before_it", |backend| {
        outer(backend, "table")
    }),
    ("failing_load_on_an_empty_host_leaves_it_empty", |backend| {
        outer(backend, "empty")
    }),
    ("other_rules_read_back_are_taken_back", |backend| {
        outer(backend, "readback")
    }),
    ("killed_between_the_families_it_is_taken_back", killed),
    ("failing_ipv6_load_brings_sets_back", failing_with_sets),
    ("killed_after_a_swap_it_is_taken_back", killed_after_a_swap),
];

const TABLES: &str = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth9 -j MASQUERADE\nCOMMIT\n";
const FILTER: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n";
/// Live before, with counters.
const BEFORE: &str = "*filter\n:INPUT ACCEPT [5:500]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[7:700] -A INPUT -i lo -j ACCEPT\nCOMMIT\n";

fn outer(backend: Backend, scenario: &str) -> Result<(), String> {
    let ns = Namespace::new(backend);
    if scenario != "empty" {
        for tool in super::namespace::TOOLS {
            ns.restore(tool, BEFORE).expect(0);
        }
    }
    let before = ns.saved();
    let own = env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    ns.run(own, &[COMMAND, scenario, &backend.to_string()], "")
        .expect(0);
    let now = ns.saved();
    for line in before.lines().filter(|line| !line.starts_with("---")) {
        assert!(now.contains(line), "{line} is not in\n{now}");
    }
    // Tables that were not there may be now, empty.
    // A rule that came from nowhere may be somebody's, and is not fwc's to remove.
    let strange = if scenario == "readback" {
        "[0:0] -A INPUT -j ACCEPT"
    } else {
        ""
    };
    for line in now
        .lines()
        .filter(|line| line.contains("-A ") || line.contains(" DROP "))
        .filter(|line| *line != strange)
    {
        assert!(before.contains(line), "{line} was not in\n{before}");
    }
    assert!(ns.rules_files().is_empty());
    Ok(())
}

fn killed(backend: Backend) -> Result<(), String> {
    let ns = Namespace::new(backend);
    let own = env::current_exe().unwrap();
    let inside = |scenario| {
        let arguments = [COMMAND, scenario, &backend.to_string()];
        ns.run(own.to_str().unwrap(), &arguments, "")
    };
    assert_eq!(inside("killed").code, None, "it was not killed");
    let rules = ["iptables", "ip6tables"].map(|tool| ns.saved_family(tool).matches("-A ").count());
    assert_eq!(rules, [2, 0]);
    assert!(ns.rules_files().is_empty());
    inside("completed").expect(0);
    let rules = ["iptables", "ip6tables"].map(|tool| ns.saved_family(tool).matches("-A ").count());
    assert_eq!(rules, [2, 2]);
    assert_eq!(ns.rules_files().len(), 2);
    Ok(())
}

const LIST: &str = "create fwc4-list hash:net family inet maxelem 65536\n";
const BANS: &str = "create fwc4-bans hash:net family inet maxelem 65536";

fn failing_with_sets(backend: Backend) -> Result<(), String> {
    find("ipset")?;
    let ns = Namespace::new(backend);
    let sets = format!(
        "{LIST}add fwc4-list 192.0.2.0/24\n{BANS} timeout 600\nadd fwc4-bans 192.0.2.9 timeout 0\ncreate fwc4-old hash:net family inet maxelem 65536\n"
    );
    ns.run("ipset", &["restore"], &sets).expect(0);
    let named = BEFORE.replace("COMMIT", "[3:300] -A INPUT -m set --match-set fwc4-list src -j DROP\n[0:0] -A INPUT -m set --match-set fwc4-bans src -j DROP\n[0:0] -A INPUT -m set --match-set fwc4-old src -j DROP\nCOMMIT");
    ns.restore("iptables", &named).expect(0);
    let saved = || ns.run("ipset", &["save"], "").expect(0).out;
    let lines = |text: String| -> Vec<String> {
        // The kernel's own number of a set says nothing of what is in it.
        let lines = text
            .lines()
            .map(|line| line.split(" initval ").next().unwrap().to_owned());
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    };
    let (rules, before) = (ns.saved_family("iptables"), lines(saved()));
    let own = env::current_exe().unwrap();
    let arguments = [COMMAND, "sets", &backend.to_string()];
    ns.run(own.to_str().unwrap(), &arguments, "").expect(0);
    assert_eq!(lines(saved()), before);
    let now = ns.saved_family("iptables");
    for line in rules.lines() {
        assert!(now.contains(line), "{line} is not in\n{now}");
    }
    assert!(ns.rules_files().is_empty() && !ns.path("iptables/ipsets").exists());
    Ok(())
}

fn killed_after_a_swap(backend: Backend) -> Result<(), String> {
    find("ipset")?;
    let ns = Namespace::new(backend);
    let sets = format!(
        "{LIST}add fwc4-list 192.0.2.0/24\n{BANS} timeout 600\nadd fwc4-bans 192.0.2.9 timeout 0\n"
    );
    ns.run("ipset", &["restore"], &sets).expect(0);
    let own = env::current_exe().unwrap();
    let inside = |scenario| {
        let arguments = [COMMAND, scenario, &backend.to_string()];
        ns.run(own.to_str().unwrap(), &arguments, "")
    };
    let names = || {
        let listed = ns.run("ipset", &["list", "-n"], "").expect(0).out;
        let mut names: Vec<_> = listed.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(inside("sets-killed").code, None, "it was not killed");
    let left = [
        "fwc4-bans",
        "fwc4-bans~",
        "fwc4-list",
        "fwc4-list~",
        "fwc4-new",
    ];
    assert_eq!(names(), left);
    inside("sets-completed").expect(0);
    assert_eq!(names(), ["fwc4-bans", "fwc4-list", "fwc4-new"]);
    let saved = ns.run("ipset", &["save"], "").expect(0).out;
    for member in [
        "add fwc4-list 198.51.100.0/24\n",
        "add fwc4-bans 192.0.2.9 timeout 0\n",
    ] {
        assert!(saved.contains(member), "{saved}");
    }
    assert!(!saved.contains("add fwc4-list 192.0.2.0/24"), "{saved}");
    assert_eq!(ns.rules_files().len(), 2);
    Ok(())
}

/// The real host with a fault.
struct Faulty {
    real: Real,
    /// Believe the payload instead of trying it.
    believe: bool,
    believed: RefCell<PerFamily<Option<LiveRuleset>>>,
    /// Add a rule after so many restores.
    distort: Option<usize>,
    /// Die before the first load of IPv6.
    dies: bool,
    restores: usize,
    swaps: usize,
}

impl Host for Faulty {
    fn save(&self, family: Family) -> Result<LiveRuleset, live::Error> {
        self.real.save(family)
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), live::Error> {
        self.restores += 1;
        // Three phases of IPv4 are done.
        if self.dies && self.restores == 4 {
            std::process::abort();
        }
        self.real.restore(family, input)?;
        if self.distort == Some(self.restores) {
            let more = "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n";
            self.real.restore(family, more)?;
        }
        Ok(())
    }

    fn list_sets(&self) -> Result<BTreeMap<String, ListedIpset>, live::Error> {
        self.real.list_sets()
    }

    fn save_set(&self, name: &str) -> Result<Ipset, live::Error> {
        self.real.save_set(name)
    }

    fn change_sets(&mut self, commands: &str) -> Result<(), live::Error> {
        self.swaps += usize::from(commands.starts_with("swap "));
        self.real.change_sets(commands)
    }

    fn add_members(&mut self, commands: &str) -> Result<(), live::Error> {
        self.real.add_members(commands)
    }

    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, live::Error> {
        if !self.believe {
            return self.real.rehearse(payload);
        }
        let mut believed = self.believed.borrow_mut();
        // First the rules as a whole, then the edits that lead to them.
        if payload.edits.v4.is_empty() && payload.edits.v6.is_empty() {
            *believed = PerFamily::from_fn(|family| {
                Some(LiveRuleset::parse(payload.rules[family].as_ref().unwrap()).unwrap())
            });
        }
        Ok(Rehearsed {
            sets: payload.sets.clone(),
            rules: believed.clone(),
            stages: PerFamily::default(),
        })
    }
}

/// Nobody watches.
struct NoGuard;

impl Guard for NoGuard {
    fn start(&mut self, _number: u64) -> Result<Option<u32>, Error> {
        Ok(None)
    }
}

fn commit(
    host: &mut Faulty,
    store: &Store,
    plan: &apply::ApplyPlan<'_>,
) -> Result<CommitReport, Error> {
    let checks = Confirmation::Checks("a test".to_owned());
    match apply::commit(host, store, plan, &mut NoGuard, &checks)? {
        Progress::Done(done) => Ok(done),
        Progress::Pending { .. } => panic!("nothing was to be confirmed"),
    }
}

/// The inner side.
pub fn run(arguments: &[String]) {
    let [scenario, backend] = arguments else {
        panic!("{arguments:?}");
    };
    let backend = match backend.as_str() {
        "nft" => live::Backend::Nft,
        _ => live::Backend::Legacy,
    };
    let good = format!("{TABLES}{FILTER}COMMIT\n");
    let misplaced = format!("{TABLES}{FILTER}-A INPUT -j MASQUERADE\nCOMMIT\n");
    let with_sets = format!(
        "{TABLES}{FILTER}-A INPUT -m set --match-set fwc4-list src -j DROP\n-A INPUT -m set --match-set fwc4-bans src -j DROP\n-A INPUT -m set --match-set fwc4-new src -j DROP\nCOMMIT\n"
    );
    let sets = format!(
        "{LIST}add fwc4-list 198.51.100.0/24\n{BANS} timeout 60\ncreate fwc4-new hash:net family inet maxelem 65536\nadd fwc4-new 10.0.0.0/8\n"
    );
    let (v4, v6, believe, distort) = match scenario.as_str() {
        "sets" => (with_sets, misplaced, true, None),
        "sets-killed" | "sets-completed" => (with_sets, good, false, None),
        "rehearsal" => (good, misplaced, false, None),
        "ipv6" | "empty" => (good, misplaced, true, None),
        "table" => (misplaced, good, true, None),
        "killed" | "completed" => (good.clone(), good, false, None),
        "readback" => (good.clone(), good, true, Some(3)),
        other => panic!("{other}"),
    };
    let mut host = Faulty {
        real: Real::open(Some(backend)).unwrap(),
        believe,
        believed: RefCell::default(),
        distort,
        dies: scenario.ends_with("killed"),
        restores: 0,
        swaps: 0,
    };
    let ruleset = RulesetFiles {
        rules: PerFamily { v4, v6 },
        sets: scenario.starts_with("sets").then_some(sets),
        ..RulesetFiles::default()
    };
    let here = env::current_dir().unwrap();
    let persist_dir: PathBuf = here.join("iptables");
    let id = NamespaceId::current().unwrap();
    let store = Store::new(&here.join("state"), id, &persist_dir);
    let request = Request {
        ruleset: &ruleset,
        policy: "a test",
        persist_dir: &persist_dir,
        insist: Overrides {
            take_over: !scenario.ends_with("completed"),
            ..Overrides::default()
        },
    };
    if scenario.ends_with("completed") {
        let found = apply::recover(&mut host, &store).unwrap();
        assert!(
            matches!(found[..], [Recovered::TakenBack(1, _)]),
            "{found:?}"
        );
    }
    let result =
        apply::plan(&host, &store, request).and_then(|plan| commit(&mut host, &store, &plan));
    if scenario.ends_with("completed") {
        assert_eq!(result.unwrap().replaced, Family::ALL);
        return;
    }
    match (scenario.as_str(), result.unwrap_err()) {
        ("sets", Error::Commit { undo, .. }) => {
            assert_eq!(undo, Undo::Complete);
            assert!(host.swaps >= 4, "there and back: {}", host.swaps);
        }
        ("rehearsal", Error::Rehearsal(live::Error::Refused { family, refusal })) => {
            assert_eq!(family, Family::V6);
            assert!(refusal.line.is_some(), "{refusal}");
            assert_eq!(host.restores, 0);
        }
        ("ipv6" | "empty", Error::Commit { cause, undo }) => {
            assert!(cause.to_string().starts_with("IPv6: "), "{cause}");
            assert_eq!(undo, Undo::Complete);
            // Three phases of IPv4, a load of IPv6, and both back.
            assert_eq!(host.restores, 6);
        }
        ("table", Error::Commit { cause, undo }) => {
            assert!(cause.to_string().starts_with("IPv4: "), "{cause}");
            assert_eq!(undo, Undo::Complete);
            // IPv6 was not begun.
            assert_eq!(host.restores, 2);
            let now = host.save(Family::V4).unwrap();
            assert!(
                now.chains(TableName::Nat).is_some(),
                "the table before it was never in force"
            );
        }
        ("readback", Error::ReadBack { diff, undo }) => {
            assert!(diff.contains("+-A INPUT -j ACCEPT"), "{diff}");
            assert_eq!(undo, Undo::Complete);
        }
        (_, other) => panic!("{scenario}: {other}"),
    }
}

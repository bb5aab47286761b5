//! The transaction on a real kernel with faults that no policy can cause: this program runs itself in a namespace.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use fwc::apply::{self, Error, Request, Store, Undo};
use fwc::live::{self, Dump, Host, Listed, NamespaceId, Payload, Real, Rehearsed, Set, Table};
use fwc::net::{Family, PerFamily};

use super::Test;
use super::namespace::{Backend, Namespace};

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
    ("killed_between_the_families_it_is_completed", killed),
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
    for line in now
        .lines()
        .filter(|line| line.contains("-A ") || line.contains(" DROP "))
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

/// The real host with a fault.
struct Faulty {
    real: Real,
    /// Believe the payload instead of trying it.
    believe: bool,
    /// Add a rule after so many restores.
    distort: Option<usize>,
    /// Die instead of the second restore.
    dies: bool,
    restores: usize,
}

impl Host for Faulty {
    fn save(&self, family: Family) -> Result<Dump, live::Error> {
        self.real.save(family)
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), live::Error> {
        self.restores += 1;
        if self.dies && self.restores == 2 {
            std::process::abort();
        }
        self.real.restore(family, input)?;
        if self.distort == Some(self.restores) {
            let more = input.replace("-i lo -j ACCEPT", "-j ACCEPT");
            self.real.restore(family, &more)?;
        }
        Ok(())
    }

    fn list_sets(&self) -> Result<BTreeMap<String, Listed>, live::Error> {
        self.real.list_sets()
    }

    fn save_set(&self, name: &str) -> Result<Set, live::Error> {
        self.real.save_set(name)
    }

    fn change_sets(&mut self, commands: &str) -> Result<(), live::Error> {
        self.real.change_sets(commands)
    }

    fn add_members(&mut self, commands: &str) -> Result<(), live::Error> {
        self.real.add_members(commands)
    }

    fn rehearse(&self, payload: &Payload) -> Result<Rehearsed, live::Error> {
        if !self.believe {
            return self.real.rehearse(payload);
        }
        Ok(Rehearsed {
            sets: payload.sets.clone(),
            rules: PerFamily::from_fn(|family| {
                Some(Dump::parse(payload.rules[family].as_ref().unwrap()).unwrap())
            }),
        })
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
    let (v4, v6, believe, distort) = match scenario.as_str() {
        "rehearsal" => (good, misplaced, false, None),
        "ipv6" | "empty" => (good, misplaced, true, None),
        "table" => (misplaced, good, true, None),
        "killed" | "completed" => (good.clone(), good, false, None),
        "readback" => (good.clone(), good, true, Some(2)),
        other => panic!("{other}"),
    };
    let mut host = Faulty {
        real: Real::open(Some(backend)).unwrap(),
        believe,
        distort,
        dies: scenario == "killed",
        restores: 0,
    };
    let payload = PerFamily { v4, v6 };
    let here = env::current_dir().unwrap();
    let persist_dir: PathBuf = here.join("iptables");
    let id = NamespaceId::current().unwrap();
    let store = Store::new(&here.join("state"), id, &persist_dir);
    let request = Request {
        payload: &payload,
        sets: None,
        persist_dir: &persist_dir,
        take_over: scenario != "completed",
    };
    let result = apply::plan(&host, &store, request)
        .and_then(|plan| apply::commit(&mut host, &store, &plan));
    if scenario == "completed" {
        assert_eq!(result.unwrap().replaced, [Family::V6]);
        return;
    }
    match (scenario.as_str(), result.unwrap_err()) {
        ("rehearsal", Error::Rehearsal(live::Error::Refused { family, refusal })) => {
            assert_eq!(family, Family::V6);
            assert!(refusal.line.is_some(), "{refusal}");
            assert_eq!(host.restores, 0);
        }
        ("ipv6" | "empty", Error::Commit { cause, undo }) => {
            assert!(cause.to_string().starts_with("IPv6: "), "{cause}");
            assert_eq!(undo, Undo::Complete);
            assert_eq!(host.restores, 4);
        }
        ("table", Error::Commit { cause, undo }) => {
            assert!(cause.to_string().starts_with("IPv4: "), "{cause}");
            assert_eq!(undo, Undo::Complete);
            // IPv6 was not begun.
            assert_eq!(host.restores, 2);
            let now = host.save(Family::V4).unwrap();
            assert!(
                now.chains(Table::Nat).is_some(),
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

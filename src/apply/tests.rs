//! The transaction on the fake host: every step's failure.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Done, Error, Plan, Request, Store, Undo, commit, plan};
use crate::diag::Style;
use crate::live::fake::{Fake, Fault};
use crate::live::{Dump, NamespaceId, Table};
use crate::net::{Family, PerFamily};

const OLD: &str = "*filter\n:INPUT DROP [5:50]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[7:70] -A INPUT -i lo -j ACCEPT\nCOMMIT\n";
const NEW: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n";

pub(super) struct Bench {
    root: TempDir,
    pub store: Store,
    pub payload: PerFamily<String>,
    pub sets: Option<String>,
    pub persist: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let persist = root.path().join("iptables");
        let id = NamespaceId::current().unwrap();
        Self {
            store: Store::new(&root.path().join("state"), id, &persist),
            payload: PerFamily::from_fn(|_| NEW.to_owned()),
            sets: None,
            persist,
            root,
        }
    }

    /// A host on which fwc put `OLD` in force.
    pub fn host(&self) -> Fake {
        self.store
            .applied(&PerFamily::from_fn(|_| Dump::parse(OLD).unwrap().normal()))
            .unwrap();
        Fake::new(OLD, OLD)
    }

    pub fn request(&self, take_over: bool) -> Request<'_> {
        Request {
            payload: &self.payload,
            sets: self.sets.as_deref(),
            persist_dir: &self.persist,
            take_over,
        }
    }

    pub fn plan(&self, host: &Fake) -> Result<Plan<'_>, Error> {
        plan(host, &self.store, self.request(false))
    }

    pub fn apply(&self, host: &mut Fake) -> Result<Done, Error> {
        let plan = self.plan(host)?;
        commit(host, &self.store, &plan)
    }

    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.persist).into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn with_counters(host: &Fake) -> PerFamily<String> {
    PerFamily::from_fn(|family| host.live[family].restore_text(&[Table::Nat, Table::Filter]))
}

#[test]
fn applies_both_families_in_order_and_writes_files() {
    let bench = Bench::new();
    let mut host = bench.host();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, Family::ALL);
    assert_eq!(host.restores, Family::ALL);
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
    assert_eq!(
        fs::read_to_string(bench.persist.join("rules.v4")).unwrap(),
        NEW
    );
    for (_, dump) in host.live.iter() {
        assert_eq!(dump.normal(), Dump::parse(NEW).unwrap().normal());
    }
}

#[test]
fn second_apply_touches_nothing() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.apply(&mut host).unwrap();
    host.restores.clear();
    let plan = bench.plan(&host).unwrap();
    assert!(plan.is_nothing());
    assert_eq!(plan.diff(Style::Plain), "");
    assert_eq!(
        commit(&mut host, &bench.store, &plan).unwrap(),
        Done::default()
    );
    assert!(host.restores.is_empty());
}

#[test]
fn family_that_is_right_is_left_alone() {
    let bench = Bench::new();
    let mut host = bench.host();
    host.live.v4 = Dump::parse(NEW).unwrap();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, [Family::V6]);
    assert_eq!(host.restores, [Family::V6]);
}

#[test]
fn changed_files_alone_are_written_alone() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.apply(&mut host).unwrap();
    host.restores.clear();
    fs::write(bench.persist.join("rules.v6"), "other").unwrap();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.written, [bench.persist.join("rules.v6")]);
    assert!(done.replaced.is_empty() && host.restores.is_empty());
}

#[test]
fn security_table_is_not_looked_at() {
    let bench = Bench::new();
    let mut host = bench.host();
    let security = "*security\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n";
    host.live.v4 = Dump::parse(&format!("{OLD}{security}")).unwrap();
    bench.apply(&mut host).unwrap();
    assert!(host.live.v4.chain(Table::Security, "INPUT").is_some());
}

/// Every fault before the first restore: nothing is touched, no file appears.
#[test]
fn faults_before_the_commit_touch_nothing() {
    let faults = [
        Fault::Rehearse,
        Fault::Save(1),
        Fault::Save(2),
        Fault::Save(3),
        Fault::Save(4),
    ];
    for fault in faults {
        let bench = Bench::new();
        let mut host = bench.host();
        let before = with_counters(&host);
        host.faults = vec![fault];
        let error = bench.apply(&mut host).unwrap_err();
        assert!(
            matches!(error, Error::Rehearsal(_) | Error::Live(_)),
            "{fault:?}"
        );
        assert_eq!(with_counters(&host), before, "{fault:?}");
        assert!(
            host.restores.is_empty() && bench.files().is_empty(),
            "{fault:?}"
        );
    }
}

/// Every fault from the first restore on: both families come back, counters included, and a later apply succeeds.
#[test]
fn faults_of_the_commit_are_undone() {
    let faults = [
        Fault::Restore(1, 0),
        Fault::Restore(1, 1),
        Fault::Restore(2, 0),
        Fault::Restore(2, 1),
        Fault::Distort(1),
        Fault::Distort(2),
        Fault::Save(5),
        Fault::Save(6),
    ];
    for fault in faults {
        let bench = Bench::new();
        let mut host = bench.host();
        let before = with_counters(&host);
        host.faults = vec![fault];
        match bench.apply(&mut host).unwrap_err() {
            Error::Commit { undo, .. } | Error::ReadBack { undo, .. } => {
                assert_eq!(undo, Undo::Complete, "{fault:?}");
            }
            other => panic!("{fault:?}: {other}"),
        }
        assert_eq!(with_counters(&host), before, "{fault:?}");
        assert!(bench.files().is_empty(), "{fault:?}");

        host.faults.clear();
        bench.apply(&mut host).unwrap();
        assert_eq!(bench.files().len(), 2);
    }
}

#[test]
fn undo_that_fails_says_how_to_get_the_old_rules_back() {
    let bench = Bench::new();
    let mut host = bench.host();
    host.faults = vec![Fault::Restore(2, 1), Fault::Restore(3, 0)];
    let error = bench.apply(&mut host).unwrap_err();
    let before = bench.store.before(Family::V4);
    assert!(
        error.to_string().contains("COULD NOT BE TAKEN BACK"),
        "{error}"
    );
    assert!(error.to_string().contains(&before.display().to_string()));
    assert!(
        fs::read_to_string(before)
            .unwrap()
            .contains("[7:70] -A INPUT -i lo")
    );
    // The other family is undone all the same.
    assert_eq!(host.live.v6.normal(), Dump::parse(OLD).unwrap().normal());
    assert!(bench.files().is_empty());
}

#[test]
fn load_that_never_began_needs_no_undo() {
    let bench = Bench::new();
    let mut host = bench.host();
    host.faults = vec![Fault::Restore(1, 0), Fault::Restore(2, 0)];
    match bench.apply(&mut host).unwrap_err() {
        Error::Commit { undo, .. } => assert_eq!(undo, Undo::Complete),
        other => panic!("{other}"),
    }
}

#[test]
fn live_change_between_plan_and_commit_stops() {
    let bench = Bench::new();
    let mut host = bench.host();
    host.meddler = Some((3, |dump| {
        dump.chains_mut(Table::Filter).remove("FORWARD");
    }));
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::LiveChanged), "{error}");
    assert!(host.restores.is_empty() && bench.files().is_empty());
}

#[test]
fn folder_that_cannot_be_made_stops_before_the_kernel() {
    let bench = Bench::new();
    let mut host = bench.host();
    fs::write(&bench.persist, "a file").unwrap();
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(host.restores.is_empty());
}

/// What fails after the commit leaves the new rules in force, and says what is missing.
#[test]
fn failures_after_the_commit_are_told_apart() {
    let new = Dump::parse(NEW).unwrap().normal();

    let bench = Bench::new();
    let mut host = bench.host();
    let plan = bench.plan(&host).unwrap();
    fs::create_dir_all(bench.persist.join("rules.v4")).unwrap();
    let error = commit(&mut host, &bench.store, &plan).unwrap_err();
    assert!(
        matches!(error, Error::NotPersisted(_)) && error.has_changed(),
        "{error}"
    );
    assert_eq!(host.live.v6.normal(), new);

    let bench = Bench::new();
    let mut host = bench.host();
    let plan = bench.plan(&host).unwrap();
    fs::write(bench.root.path().join("state/persisted"), "a file").unwrap();
    let error = commit(&mut host, &bench.store, &plan).unwrap_err();
    assert!(
        matches!(error, Error::NotRecorded(_)) && error.has_changed(),
        "{error}"
    );
    assert_eq!(host.live.v6.normal(), new);
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
}

#[test]
fn intention_that_cannot_be_written_stops_before_the_kernel() {
    let bench = Bench::new();
    let mut host = bench.host();
    fs::create_dir(bench.store.before(Family::V4)).unwrap();
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(host.restores.is_empty() && bench.files().is_empty());
}

#[test]
fn rules_by_hand_are_refused_until_taken_over() {
    let bench = Bench::new();
    let by_hand = OLD.replace("COMMIT", "-A INPUT -s 192.0.2.7/32 -j DROP\nCOMMIT");
    let mut host = Fake::new(&by_hand, "");
    let Err(Error::Others(findings)) = bench.apply(&mut host) else {
        panic!("not refused");
    };
    let names: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["IPv4 filter: -A INPUT -s 192.0.2.7/32 -j DROP"]);
    assert!(host.restores.is_empty() && bench.files().is_empty());

    let plan = plan(&host, &bench.store, bench.request(true)).unwrap();
    commit(&mut host, &bench.store, &plan).unwrap();
    assert_eq!(host.live.v4.normal(), Dump::parse(NEW).unwrap().normal());
}

#[test]
fn stray_in_our_ruleset_is_listed_and_removed() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.apply(&mut host).unwrap();
    let stray = NEW.replace(
        "-A INPUT -j ACCEPT",
        "-A INPUT -j ACCEPT\n-A INPUT -s 192.0.2.7/32 -j DROP",
    );
    host.live.v4 = Dump::parse(&stray).unwrap();
    let plan = bench.plan(&host).unwrap();
    let removed: Vec<_> = plan.removed().map(ToString::to_string).collect();
    assert_eq!(removed, ["IPv4 filter: -A INPUT -s 192.0.2.7/32 -j DROP"]);
    commit(&mut host, &bench.store, &plan).unwrap();
    assert_eq!(host.live.v4.normal(), Dump::parse(NEW).unwrap().normal());
}

/// After a reboot the namespace is new, and its rules are those of the files.
#[test]
fn what_booted_from_our_files_is_ours() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.apply(&mut host).unwrap();
    fs::remove_dir_all(bench.root.path().join("state/namespaces")).unwrap();
    let stray = NEW.replace(
        "-A INPUT -j ACCEPT",
        "-A INPUT -j ACCEPT\n-A INPUT -s 192.0.2.7/32 -j DROP",
    );
    host.live.v4 = Dump::parse(&stray).unwrap();
    let plan = bench.plan(&host).unwrap();
    assert_eq!(plan.removed().count(), 1);
}

/// Killed after the commit, before it was written down.
#[test]
fn intended_ruleset_that_is_live_is_ours() {
    let bench = Bench::new();
    let target = PerFamily::from_fn(|_| Dump::parse(NEW).unwrap().normal());
    bench.store.intend(&target, &PerFamily::default()).unwrap();
    let mut host = Fake::new(NEW, NEW);
    let bench = Bench {
        payload: PerFamily::from_fn(|_| OLD.to_owned()),
        ..bench
    };
    bench.apply(&mut host).unwrap();
    assert_eq!(
        host.live.v6.only(&[Table::Filter]).normal(),
        Dump::parse(OLD).unwrap().normal()
    );
}

/// Killed between the families.
#[test]
fn half_applied_ruleset_is_ours_and_is_completed() {
    let bench = Bench::new();
    let mut host = bench.host();
    let target = PerFamily::from_fn(|_| Dump::parse(NEW).unwrap().normal());
    bench.store.intend(&target, &PerFamily::default()).unwrap();
    host.live.v4 = Dump::parse(NEW).unwrap();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, [Family::V6]);
}

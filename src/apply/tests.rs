//! The transaction on the fake host: every step's failure.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::records::JournalStep;
use super::{
    ApplyPlan, CommitReport, Confirmation, Error, Guard, Overrides, Progress, Recovered, Request,
    RulesetFiles, Store, Undo, confirm, plan, recover, take_back,
};
use crate::diag::{ConcernName, Style};
use crate::iptables::TableName;
use crate::live::fake::{Fake, Fault};
use crate::live::{LiveRuleset, NamespaceId};
use crate::net::{Family, PerFamily};

const OLD: &str = "*filter\n:INPUT DROP [5:50]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[7:70] -A INPUT -i lo -j ACCEPT\nCOMMIT\n";
const NEW: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth9 -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n";

/// Nobody watches a fake host.
pub(super) struct NoGuard;

impl Guard for NoGuard {
    fn start(&mut self, _number: u64) -> Result<Option<u32>, Error> {
        Ok(None)
    }
}

pub(super) struct Bench {
    root: TempDir,
    pub store: Store,
    pub ruleset: RulesetFiles,
    pub persist: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let persist = root.path().join("iptables");
        let id = NamespaceId::current().unwrap();
        Self {
            store: Store::new(&root.path().join("state"), id, &persist),
            ruleset: RulesetFiles {
                rules: PerFamily::from_fn(|_| NEW.to_owned()),
                ..RulesetFiles::default()
            },
            persist,
            root,
        }
    }

    /// A host on which fwc put `OLD` in force.
    pub fn host(&self) -> Fake {
        self.store
            .applied(&PerFamily::from_fn(|_| {
                LiveRuleset::parse(OLD).unwrap().normal()
            }))
            .unwrap();
        Fake::new(OLD, OLD)
    }

    pub fn request(&self, take_over: bool) -> Request<'_> {
        Request {
            ruleset: &self.ruleset,
            policy: "a test",
            persist_dir: &self.persist,
            insist: Overrides {
                take_over,
                ..Overrides::default()
            },
        }
    }

    pub fn plan(&self, host: &Fake) -> Result<ApplyPlan<'_>, Error> {
        plan(host, &self.store, self.request(false))
    }

    pub fn apply(&self, host: &mut Fake) -> Result<CommitReport, Error> {
        let plan = self.plan(host)?;
        self.commit(host, &plan)
    }

    pub fn commit(&self, host: &mut Fake, plan: &ApplyPlan<'_>) -> Result<CommitReport, Error> {
        let checks = Confirmation::Checks("a test".to_owned());
        match super::commit(host, &self.store, plan, &mut NoGuard, &checks)? {
            Progress::Done(done) => Ok(done),
            Progress::Pending { .. } => panic!("nothing was to be confirmed"),
        }
    }

    /// Puts the ruleset in force, to be confirmed.
    fn try_out(&self, host: &mut Fake, time: Duration) {
        let plan = self.plan(host).unwrap();
        let awaited = Confirmation::Awaited(time);
        let progress = super::commit(host, &self.store, &plan, &mut NoGuard, &awaited).unwrap();
        assert!(matches!(progress, Progress::Pending { .. }));
    }

    /// Nobody confirmed it in time.
    fn let_time_pass(&self) {
        let (intent, _) = self.store.journal().last().unwrap().unwrap();
        let over = JournalStep::Pending {
            deadline: 0,
            until: String::new(),
        };
        self.store.journal().write(&intent, &over).unwrap();
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
    PerFamily::from_fn(|family| {
        host.live[family].restore_text(&[TableName::Nat, TableName::Filter])
    })
}

#[test]
fn applies_both_families_in_order_and_writes_files() {
    let bench = Bench::new();
    let mut host = bench.host();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, Family::ALL);
    // The filter changes with nat: three phases each.
    assert_eq!(host.restores, [[Family::V4; 3], [Family::V6; 3]].concat());
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
    assert_eq!(
        fs::read_to_string(bench.persist.join("rules.v4")).unwrap(),
        NEW
    );
    for (_, dump) in host.live.iter() {
        assert_eq!(dump.normal(), LiveRuleset::parse(NEW).unwrap().normal());
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
        bench.commit(&mut host, &plan).unwrap(),
        CommitReport::default()
    );
    assert!(host.restores.is_empty());
}

#[test]
fn family_that_is_right_is_left_alone() {
    let bench = Bench::new();
    let mut host = bench.host();
    host.live.v4 = LiveRuleset::parse(NEW).unwrap();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, [Family::V6]);
    assert_eq!(host.restores, [Family::V6; 3]);
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
    host.live.v4 = LiveRuleset::parse(&format!("{OLD}{security}")).unwrap();
    bench.apply(&mut host).unwrap();
    assert!(host.live.v4.chain(TableName::Security, "INPUT").is_some());
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
    let loads = (1..=6).map(|number| Fault::Restore(number, 0));
    let others = [
        Fault::Distort(3),
        Fault::Distort(6),
        Fault::Save(5),
        Fault::Save(6),
    ];
    for fault in loads.chain(others) {
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
        // A rule that came from nowhere may be somebody's, and is not fwc's to remove.
        let strange = "[0:0] -A INPUT -j DISTORTED\n";
        let now = PerFamily::from_fn(|family| with_counters(&host)[family].replace(strange, ""));
        assert_eq!(now, before, "{fault:?}");
        assert!(bench.files().is_empty(), "{fault:?}");

        host.faults.clear();
        bench.apply(&mut host).unwrap();
        assert_eq!(bench.files().len(), 2);
    }
}

/// The next fwc ends it.
#[test]
fn undo_that_fails_is_ended_later() {
    let bench = Bench::new();
    let mut host = bench.host();
    let before = with_counters(&host);
    host.faults = vec![Fault::Restore(2, 0), Fault::Restore(3, 0)];
    let error = bench.apply(&mut host).unwrap_err();
    assert!(
        error.to_string().contains("COULD NOT BE REVERTED"),
        "{error}"
    );
    assert!(error.has_changed() && bench.files().is_empty());
    assert_ne!(with_counters(&host), before);
    host.faults.clear();
    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::TakenBack(1, _)]),
        "{found:?}"
    );
    assert_eq!(with_counters(&host), before);
    assert!(recover(&mut host, &bench.store).unwrap().is_empty());
    bench.apply(&mut host).unwrap();
}

/// One family that cannot go back does not keep the other one from it.
#[test]
fn undo_of_one_family_does_not_wait_for_the_other() {
    let bench = Bench::new();
    let mut host = bench.host();
    let before = with_counters(&host);
    // All loads succeed, reading back fails, and so do the first loads that revert IPv4: the transition filter, and the inverse.
    host.faults = vec![Fault::Save(6), Fault::Restore(7, 0), Fault::Restore(8, 0)];
    let error = bench.apply(&mut host).unwrap_err();
    assert!(
        error.to_string().contains("COULD NOT BE REVERTED"),
        "{error}"
    );
    let now = with_counters(&host);
    assert_ne!(now.v4, before.v4);
    assert_eq!(now.v6, before.v6);
    host.faults.clear();
    recover(&mut host, &bench.store).unwrap();
    assert_eq!(with_counters(&host), before);
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
        dump.table_mut(TableName::Filter).remove("FORWARD");
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
    let new = LiveRuleset::parse(NEW).unwrap().normal();

    let bench = Bench::new();
    let mut host = bench.host();
    let plan = bench.plan(&host).unwrap();
    fs::create_dir_all(bench.persist.join("rules.v4")).unwrap();
    let error = bench.commit(&mut host, &plan).unwrap_err();
    assert!(
        matches!(error, Error::NotPersisted(_)) && error.has_changed(),
        "{error}"
    );
    assert_eq!(host.live.v6.normal(), new);

    let bench = Bench::new();
    let mut host = bench.host();
    let plan = bench.plan(&host).unwrap();
    fs::write(bench.root.path().join("state/persisted"), "a file").unwrap();
    let error = bench.commit(&mut host, &plan).unwrap_err();
    assert!(
        matches!(error, Error::NotRecorded(_)) && error.has_changed(),
        "{error}"
    );
    assert_eq!(host.live.v6.normal(), new);
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
}

#[test]
fn intent_that_cannot_be_written_stops_before_the_kernel() {
    let bench = Bench::new();
    let mut host = bench.host();
    let place = bench.store.folder().join("transaction.json");
    let plan = bench.plan(&host).unwrap();
    fs::create_dir(place).unwrap();
    let error = bench.commit(&mut host, &plan).unwrap_err();
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
    bench.commit(&mut host, &plan).unwrap();
    assert_eq!(
        host.live.v4.normal(),
        LiveRuleset::parse(NEW).unwrap().normal()
    );
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
    host.live.v4 = LiveRuleset::parse(&stray).unwrap();
    let plan = bench.plan(&host).unwrap();
    let removed: Vec<_> = plan.removed().map(ToString::to_string).collect();
    assert_eq!(removed, ["IPv4 filter: -A INPUT -s 192.0.2.7/32 -j DROP"]);
    bench.commit(&mut host, &plan).unwrap();
    assert_eq!(
        host.live.v4.normal(),
        LiveRuleset::parse(NEW).unwrap().normal()
    );
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
    host.live.v4 = LiveRuleset::parse(&stray).unwrap();
    let plan = bench.plan(&host).unwrap();
    assert_eq!(plan.removed().count(), 1);
}

/// Killed between the families: what is live is neither old nor new, and the journal tells.
#[test]
fn half_applied_ruleset_is_taken_back_and_applied_anew() {
    let bench = Bench::new();
    let mut host = bench.host();
    let before = with_counters(&host);
    bench.try_out(&mut host, Duration::from_secs(60));
    let (intent, _) = bench.store.journal().last().unwrap().unwrap();
    bench.store.journal().begin(&intent).unwrap();
    let changing = JournalStep::Changing { deadline: u64::MAX };
    bench.store.journal().write(&intent, &changing).unwrap();
    host.live.v6 = LiveRuleset::parse(OLD).unwrap();

    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::TakenBack(1, _)]),
        "{found:?}"
    );
    assert_eq!(with_counters(&host), before);
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.replaced, Family::ALL);
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
}

#[test]
fn change_waits_until_it_is_confirmed() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.try_out(&mut host, Duration::from_secs(60));
    // A restart would bring the old rules.
    assert!(bench.files().is_empty());
    let _watchdog = bench.store.guard().unwrap();
    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::Waiting { number: 1, .. }]),
        "{found:?}"
    );
    confirm(&mut host, &bench.store, "a test").unwrap();
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
    assert_eq!(
        host.live.v4.normal(),
        LiveRuleset::parse(NEW).unwrap().normal()
    );
    let history = bench.store.history().entries().unwrap();
    let numbers: Vec<_> = history.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [0, 1]);
    assert!(matches!(
        confirm(&mut host, &bench.store, "again"),
        Err(Error::NotPending)
    ));
}

#[test]
fn change_that_nobody_confirms_goes_back_and_leaves_what_others_did() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.try_out(&mut host, Duration::from_secs(60));
    bench.let_time_pass();
    let ban = "*filter\n:f2b - [0:0]\n-A f2b -s 192.0.2.7/32 -j DROP\n-A INPUT -j f2b\nCOMMIT\n";
    host.live.v4.execute(ban).unwrap();
    assert!(matches!(
        confirm(&mut host, &bench.store, "too late"),
        Err(Error::TooLate)
    ));
    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::TakenBack(1, _)]),
        "{found:?}"
    );
    let mut old = LiveRuleset::parse(OLD).unwrap();
    assert_eq!(host.live.v6.normal(), old.normal());
    old.execute(ban).unwrap();
    assert_eq!(host.live.v4.normal(), old.normal());
    // What passed while the new rules were in force counts for the old ones.
    let lo = &host
        .live
        .v4
        .chain(TableName::Filter, "INPUT")
        .unwrap()
        .rules[0];
    assert_eq!(lo.counters.packets, 7);
    assert!(bench.files().is_empty());
}

/// Nobody else would take it back.
#[test]
fn change_without_a_watchdog_is_taken_back_at_once() {
    let bench = Bench::new();
    let mut host = bench.host();
    let before = with_counters(&host);
    bench.try_out(&mut host, Duration::from_secs(60));
    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::TakenBack(1, _)]),
        "{found:?}"
    );
    assert_eq!(with_counters(&host), before);
}

/// Another namespace with the same number: nothing of the change is here, and what is here is not the change's to touch.
#[test]
fn change_of_a_namespace_that_ended_is_only_written_off() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.try_out(&mut host, Duration::from_secs(60));
    host.live = PerFamily::default();
    let restores = host.restores.len();
    let found = recover(&mut host, &bench.store).unwrap();
    let [Recovered::TakenBack(1, why)] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(why.contains("the network namespace ended"), "{why}");
    assert_eq!(host.restores.len(), restores);
}

#[test]
fn what_is_not_live_any_more_cannot_be_kept() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.try_out(&mut host, Duration::from_secs(60));
    // What others add does not matter.
    let stray = "*filter\n-A INPUT -s 192.0.2.7/32 -j DROP\nCOMMIT\n";
    host.live.v4.execute(stray).unwrap();
    let kept = host.live.clone();
    host.live.v6 = LiveRuleset::default();
    match confirm(&mut host, &bench.store, "a test") {
        Err(Error::NotInForce { number: 1, missing }) => {
            assert!(
                missing.iter().all(|line| line.starts_with("IPv6 ")),
                "{missing:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    host.live = kept;
    confirm(&mut host, &bench.store, "a test").unwrap();
}

#[test]
fn waiting_change_can_be_taken_back_at_once() {
    let bench = Bench::new();
    let mut host = bench.host();
    let before = with_counters(&host);
    bench.try_out(&mut host, Duration::from_secs(60));
    assert_eq!(take_back(&mut host, &bench.store, "a test").unwrap(), 1);
    assert_eq!(with_counters(&host), before);
    assert!(matches!(
        take_back(&mut host, &bench.store, "again"),
        Err(Error::NotPending)
    ));
}

/// The fake host has no clock of its own; the journal of an earlier boot is what a restart leaves.
#[test]
fn restart_ends_what_was_not_confirmed_and_completes_what_was() {
    for confirmed in [false, true] {
        let bench = Bench::new();
        let mut host = bench.host();
        bench.try_out(&mut host, Duration::from_secs(60));
        if confirmed {
            let (intent, _) = bench.store.journal().last().unwrap().unwrap();
            let step = JournalStep::Confirmed {
                by: "a test".to_owned(),
            };
            bench.store.journal().write(&intent, &step).unwrap();
        }
        let folder = bench.store.folder();
        let name = folder.file_name().unwrap().to_str().unwrap();
        fs::rename(&folder, folder.with_file_name(format!("earlier-{name}"))).unwrap();

        let mut host = Fake::new("", "");
        let found = recover(&mut host, &bench.store).unwrap();
        assert!(host.restores.is_empty());
        if confirmed {
            assert!(
                matches!(found[..], [Recovered::Completed(1, _)]),
                "{found:?}"
            );
            assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);
        } else {
            assert!(
                matches!(found[..], [Recovered::EndedByBoot(1)]),
                "{found:?}"
            );
            assert!(bench.files().is_empty());
        }
        assert!(recover(&mut host, &bench.store).unwrap().is_empty());
    }
}

/// At boot what was confirmed could not be completed, and the rules of before were loaded: a later fwc completes it.
#[test]
fn what_an_earlier_boot_left_half_done_is_not_forgotten() {
    let bench = Bench::new();
    let mut host = bench.host();
    bench.try_out(&mut host, Duration::from_secs(60));
    let (intent, _) = bench.store.journal().last().unwrap().unwrap();
    let by = "a test".to_owned();
    let step = JournalStep::Confirmed { by };
    bench.store.journal().write(&intent, &step).unwrap();
    let folder = bench.store.folder();
    let earlier = folder.with_file_name("an-earlier-boot");
    fs::rename(&folder, &earlier).unwrap();

    let old = PerFamily::from_fn(|_| OLD.to_owned());
    bench.store.applied(&old).unwrap();
    assert!(earlier.exists());
    let found = recover(&mut host, &bench.store).unwrap();
    assert!(
        matches!(found[..], [Recovered::Completed(1, _)]),
        "{found:?}"
    );
    bench.store.applied(&old).unwrap();
    assert!(!earlier.exists());
}

/// A kernel without IPv6: a policy that closes it is loaded for IPv4, confirmed, looked at, taken back and booted; one with rules for
/// it is an error.
#[test]
fn family_that_the_kernel_lacks() {
    const CLOSED: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n-A OUTPUT -o lo -j ACCEPT\nCOMMIT\n";
    let mut bench = Bench::new();
    let mut host = bench.host();
    host.lacking = Some(Family::V6);
    host.live.v6 = LiveRuleset::default();
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::NoFamily(Family::V6)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("modprobe ipv6") && text.contains("families = \"ipv4\""),
        "{text}"
    );
    assert!(host.restores.is_empty());

    bench.ruleset.rules.v6 = CLOSED.to_owned();
    let plan = bench.plan(&host).unwrap();
    assert_eq!(plan.replaced(), [Family::V4]);
    let told = plan.concerns(&host).unwrap();
    assert!(
        told.iter().any(|one| one.name == ConcernName::NoFamily),
        "{told:?}"
    );
    bench.apply(&mut host).unwrap();
    assert!(host.restores.iter().all(|family| *family == Family::V4));
    assert!(bench.plan(&host).unwrap().is_nothing());
    // What boots closes the family where there is one.
    assert!(
        fs::read_to_string(bench.persist.join("rules.v6"))
            .unwrap()
            .contains("INPUT DROP")
    );
    let status = super::status(&host, &bench.store, &bench.persist).unwrap();
    assert!(status.is_as_applied(), "{status:?}");
    host.live.v4 = LiveRuleset::default();
    let booted = super::boot(&mut host, &bench.store, &bench.persist)
        .unwrap()
        .unwrap();
    assert!(
        booted.families.iter().all(|(_, loaded)| loaded.is_ok()),
        "{booted:?}"
    );
}

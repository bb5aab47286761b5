//! Sets in the transaction, on the fake host.

use std::fs;

use super::tests::Bench;
use super::{Changes, Error, Undo};
use crate::diag::Style;
use crate::live::fake::{Fake, Fault};
use crate::live::sets::IpsetMember;
use crate::live::{Ipsets, LiveRuleset};
use crate::net::PerFamily;

const RULES: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -m set --match-set fwc4-list src -j DROP\n-A INPUT -m set --match-set fwc4-bans src -j DROP\nCOMMIT\n";
const BEFORE: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[7:70] -A INPUT -m set --match-set fwc4-list src -j DROP\n[0:0] -A INPUT -m set --match-set fwc4-bans src -j DROP\n[0:0] -A INPUT -m set --match-set fwc4-gone src -j DROP\nCOMMIT\n";
const HEAD: &str = "# Made by fwc from a policy: edit the policy, not this file.\n";
const LIST: &str =
    "create fwc4-list hash:net family inet maxelem 65536\nadd fwc4-list 192.0.2.0/24\n";
const BANS: &str = "create fwc4-bans hash:net family inet maxelem 65536 timeout 60\n";
const LIVE: &str = "create fwc4-list hash:net family inet maxelem 65536\nadd fwc4-list 198.51.100.7\ncreate fwc4-bans hash:net family inet maxelem 65536 timeout 3600\nadd fwc4-bans 203.0.113.9 timeout 7\ncreate fwc4-gone hash:net family inet maxelem 65536\ncreate fwc4-used hash:net family inet maxelem 65536\ncreate mine hash:net family inet maxelem 65536\n";

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.ruleset.rules.v4 = RULES.to_owned();
    bench.ruleset.sets = Some(format!("{HEAD}{LIST}{BANS}"));
    bench
}

/// A host on which fwc put other sets in force.
fn host(bench: &Bench) -> Fake {
    let made = PerFamily {
        v4: LiveRuleset::parse(BEFORE).unwrap().normal(),
        v6: String::new(),
    };
    bench.store.applied(&made).unwrap();
    let mut host = Fake::new(BEFORE, "");
    host.sets = Ipsets::parse(LIVE).unwrap();
    // Somebody's rule, where fwc does not look.
    let security = "*security\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set fwc4-used src -j ACCEPT\nCOMMIT\n";
    host.live.v4 = LiveRuleset::parse(&format!("{BEFORE}{security}")).unwrap();
    host
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn sets_that_differ_are_swapped_and_unneeded_ones_destroyed() {
    let bench = bench();
    let mut host = host(&bench);
    let plan = bench.plan(&host).unwrap();
    let changes = Changes {
        created: vec![],
        replaced: names(&["fwc4-bans", "fwc4-list"]),
        removed: names(&["fwc4-gone"]),
    };
    assert_eq!(plan.sets(), changes);
    let diff = plan.diff(Style::Plain);
    assert!(
        diff.starts_with("--- live (sets)\n+++ policy (sets)\n"),
        "{diff}"
    );
    assert!(
        diff.contains("-add fwc4-list 198.51.100.7/32\n+add fwc4-list 192.0.2.0/24\n"),
        "{diff}"
    );
    assert!(
        !diff.contains("203.0.113.9"),
        "members that other programs added are not shown: {diff}"
    );
    let done = bench.commit(&mut host, &plan).unwrap();
    assert_eq!(done.sets, changes);
    assert!(done.left.is_empty(), "{:?}", done.left);
    let now = host.sets.text();
    assert!(now.contains(LIST), "{now}");
    assert!(
        now.contains("timeout 60\nadd fwc4-bans 203.0.113.9/32 timeout 7\n"),
        "{now}"
    );
    // Nobody is let in for an instant.
    let at = |command: &str| host.commands.iter().position(|done| done == command);
    let filled = at("add fwc4-bans~ 203.0.113.9/32 timeout 7");
    assert!(filled.is_some() && filled < at("swap fwc4-bans fwc4-bans~"));
    let all: Vec<_> = host.sets.0.keys().collect();
    assert_eq!(all, ["fwc4-bans", "fwc4-list", "fwc4-used", "mine"]);
    assert_eq!(bench.files(), ["ipsets", "rules.v4", "rules.v6"]);

    host.commands.clear();
    host.restores.clear();
    assert!(bench.plan(&host).unwrap().is_nothing());
    bench.apply(&mut host).unwrap();
    assert!(host.commands.is_empty() && host.restores.is_empty());
}

#[test]
fn changed_members_alone_leave_the_rules_alone() {
    let mut bench = bench();
    let mut host = host(&bench);
    bench.apply(&mut host).unwrap();
    host.restores.clear();
    let more = format!("{HEAD}{LIST}add fwc4-list 10.0.0.0/8\n{BANS}");
    bench.ruleset.sets = Some(more.clone());
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.sets.replaced, ["fwc4-list"]);
    assert!(done.replaced.is_empty() && host.restores.is_empty());
    assert_eq!(done.written, [bench.persist.join("ipsets")]);
    assert_eq!(
        fs::read_to_string(bench.persist.join("ipsets")).unwrap(),
        more
    );
    assert!(host.sets.text().contains("add fwc4-list 10.0.0.0/8\n"));
}

/// Every fault of a command that changes sets, or of a restore: sets and rules come back, and a later apply succeeds.
#[test]
fn faults_are_undone() {
    let bench = bench();
    let mut host = host(&bench);
    bench.apply(&mut host).unwrap();
    // The last two remove what the rules do not need; nothing depends on them.
    let commands = host.commands.len() - 3;
    assert_eq!(host.commands[commands], "destroy fwc4-bans~");
    let faults = (1..=commands).map(Fault::Sets).chain([
        Fault::Restore(1, 0),
        Fault::Restore(2, 0),
        Fault::Distort(4),
    ]);
    for fault in faults {
        let bench = self::bench();
        let mut host = self::host(&bench);
        let (rules, sets) = (host.live.clone(), host.sets.clone());
        host.faults = vec![fault];
        match bench.apply(&mut host).unwrap_err() {
            Error::Commit { undo, .. } | Error::ReadBack { undo, .. } => {
                assert_eq!(undo, Undo::Complete, "{fault:?}");
            }
            other => panic!("{fault:?}: {other}"),
        }
        assert_eq!(host.sets, sets, "{fault:?}");
        assert_eq!(host.live.v4.normal(), rules.v4.normal(), "{fault:?}");
        assert!(bench.files().is_empty(), "{fault:?}");
        host.faults.clear();
        bench.apply(&mut host).unwrap();
    }
}

#[test]
fn set_that_others_use_stays() {
    let bench = bench();
    let mut host = host(&bench);
    let plan = bench.plan(&host).unwrap();
    let security = "*security\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set fwc4-gone src -m set --match-set fwc4-used src -j ACCEPT\nCOMMIT\n";
    let used = LiveRuleset::parse(&format!("{BEFORE}{security}")).unwrap();
    // Used since the plan was made, where fwc does not look.
    host.live.v4 = used;
    let error = bench.commit(&mut host, &plan).unwrap_err();
    assert!(matches!(error, Error::LiveChanged), "{error}");
    assert!(host.commands.is_empty());
    assert!(bench.plan(&host).unwrap().sets().removed.is_empty());
}

/// A ban may come at any instant: it is there in the end, done or undone.
#[test]
fn member_that_comes_late_stays() {
    const LATE: &str = "203.0.113.77/32";
    let bench = bench();
    let mut host = host(&bench);
    bench.apply(&mut host).unwrap();
    let commands = host.commands.len();
    assert!(commands > 8, "{:?}", host.commands);
    for after in 1..=commands {
        for faults in [vec![], vec![Fault::Restore(1, 0)]] {
            let bench = self::bench();
            let mut host = self::host(&bench);
            let fails = !faults.is_empty();
            host.faults = faults;
            host.late = Some((after, "add fwc4-bans 203.0.113.77 timeout 9"));
            assert_eq!(bench.apply(&mut host).is_err(), fails, "{after}");
            let bans = &host.sets.0["fwc4-bans"];
            let timeout = if fails { "3600" } else { "60" };
            assert_eq!(bans.header.timeout(), Some(timeout));
            let there = |member: &IpsetMember| member.network.to_string() == LATE;
            let log = &host.commands;
            assert!(bans.members.iter().any(there), "{after} {fails}: {log:?}");
        }
    }
}

/// It is there when fwc fails at any command after it, and when the change is taken back by a later fwc.
#[test]
fn member_that_comes_late_stays_when_a_command_fails() {
    const LATE: &str = "203.0.113.77/32";
    let commands = {
        let bench = bench();
        let mut host = host(&bench);
        bench.apply(&mut host).unwrap();
        host.commands.len()
    };
    for after in 1..commands {
        for fails in after + 1..=commands {
            let bench = bench();
            let mut host = host(&bench);
            host.late = Some((after, "add fwc4-bans 203.0.113.77 timeout 9"));
            host.faults = vec![Fault::Sets(fails)];
            let _ = bench.apply(&mut host);
            host.faults.clear();
            crate::apply::recover(&mut host, &bench.store).unwrap();
            let there = |member: &IpsetMember| member.network.to_string() == LATE;
            let bans = &host.sets.0["fwc4-bans"];
            let log = &host.commands;
            assert!(bans.members.iter().any(there), "{after} {fails}: {log:?}");
        }
    }
}

#[test]
fn set_that_is_too_small_for_its_members_stops_first() {
    let mut bench = bench();
    let mut host = host(&bench);
    bench.apply(&mut host).unwrap();
    let bans = host.sets.0.get_mut("fwc4-bans").unwrap();
    let many = "create a hash:net\nadd a 192.0.2.1\nadd a 192.0.2.2\nadd a 192.0.2.3\n";
    let count = bans.members.len() + 3;
    bans.members
        .extend(Ipsets::parse(many).unwrap().0.remove("a").unwrap().members);
    let sets = bench.ruleset.sets.clone().unwrap();
    let size = |size: usize| {
        let lines = sets
            .lines()
            .map(|line| match line.starts_with("create fwc4-bans ") {
                true => {
                    format!("create fwc4-bans hash:net family inet maxelem {size} timeout 60\n")
                }
                false => format!("{line}\n"),
            });
        Some(lines.collect::<String>())
    };
    bench.ruleset.sets = size(count - 1);
    let before = host.sets.clone();
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::SetTooSmall { .. }), "{error}");
    assert_eq!(host.sets, before);
    bench.ruleset.sets = size(count);
    bench.apply(&mut host).unwrap();
    assert_eq!(host.sets.0["fwc4-bans"].members.len(), count);
    assert_eq!(host.sets.0["fwc4-bans"].header.size(), Some(count));
}

#[test]
fn undo_that_fails_at_any_command_is_ended_later() {
    let all = {
        let bench = bench();
        let mut host = host(&bench);
        host.faults = vec![Fault::Restore(1, 0)];
        bench.apply(&mut host).unwrap_err();
        host.commands.len()
    };
    assert!(all > 12, "there and back: {all}");
    for number in 1..=all {
        let bench = bench();
        let mut host = host(&bench);
        let before = host.sets.text();
        host.faults = vec![Fault::Restore(1, 0), Fault::Sets(number)];
        bench.apply(&mut host).unwrap_err();
        host.faults.clear();
        crate::apply::recover(&mut host, &bench.store).unwrap();
        // What is left beside, if anything is, holds up nobody.
        host.sets.0.retain(|name, _| !name.ends_with('~'));
        assert_eq!(host.sets.text(), before, "{number}: {:?}", host.commands);
        bench.apply(&mut host).unwrap();
    }
}

#[test]
fn sets_that_rules_name_must_be_there() {
    let mut bench = bench();
    bench.ruleset.rules.v4 = RULES.replace(
        "COMMIT",
        "-A INPUT -m set --match-set theirs src -j DROP\nCOMMIT",
    );
    let mut host = host(&bench);
    let error = bench.apply(&mut host).unwrap_err();
    assert!(error.to_string().contains("the set `theirs`"), "{error}");
    assert!(host.commands.is_empty() && host.restores.is_empty());
    host.sets.0.extend(
        Ipsets::parse("create theirs hash:net family inet\n")
            .unwrap()
            .0,
    );
    bench.apply(&mut host).unwrap();
    assert!(host.sets.0.contains_key("theirs"));
}

#[test]
fn set_of_another_type_is_not_touched() {
    let bench = bench();
    let mut host = host(&bench);
    let taken = LIVE.replace("fwc4-list hash:net", "fwc4-list hash:mac");
    host.sets = Ipsets::parse(&taken).unwrap();
    let error = bench.apply(&mut host).unwrap_err();
    assert!(matches!(error, Error::TakenSet { .. }), "{error}");
    assert!(host.commands.is_empty());
}

#[test]
fn what_a_killed_fwc_left_goes() {
    let bench = bench();
    let mut host = host(&bench);
    let left = format!(
        "{LIVE}create fwc4-list~ hash:net family inet maxelem 65536\nadd fwc4-list~ 192.0.2.9\n"
    );
    host.sets = Ipsets::parse(&left).unwrap();
    bench.apply(&mut host).unwrap();
    assert!(host.sets.text().contains(LIST));
    assert!(!host.sets.0.contains_key("fwc4-list~"));
}

#[test]
fn file_of_sets_goes_with_the_last_set_unless_it_is_not_ours() {
    let mut bench = bench();
    let mut host = host(&bench);
    bench.apply(&mut host).unwrap();
    bench.ruleset.sets = None;
    bench.ruleset.rules.v4 = RULES
        .lines()
        .filter(|line| !line.contains("--match-set"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.deleted, [bench.persist.join("ipsets")]);
    assert_eq!(done.sets.removed, ["fwc4-bans", "fwc4-list"]);
    assert_eq!(bench.files(), ["rules.v4", "rules.v6"]);

    fs::write(bench.persist.join("ipsets"), "create mine hash:net\n").unwrap();
    assert!(bench.plan(&host).unwrap().is_nothing());

    bench.ruleset.sets = Some(format!("{HEAD}{LIST}"));
    let done = bench.apply(&mut host).unwrap();
    assert_eq!(done.kept, [bench.persist.join("ipsets.before-fwc")]);
}

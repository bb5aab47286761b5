//! A rule that is called shadowed can be deleted without any packet changing, in random and in real rulesets.
//!
//! `FWC_CORPUS` names the folder of real ones.

use std::time::{Duration, Instant};

use fwc::analysis::{
    Behaviour, DevicesBehind, IdleRules, Reading, Shadowed, Space, TextError, idle, shadowed,
};
use fwc::iptables::{RuleId, Ruleset, TableName};
use fwc::net::{Family, Hook, State};

use crate::packets::Numbers;

/// Rules of few values, so that many are shadowed.
fn rules(numbers: &mut Numbers) -> String {
    let mut text =
        String::from("*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n");
    let chains: [(&str, &[&str]); 4] = [
        ("INPUT", &["A", "B"]),
        ("FORWARD", &["A"]),
        ("A", &["B"]),
        ("B", &[]),
    ];
    for (chain, calls) in chains {
        for _ in 0..2 + numbers.below(9) {
            text.push_str(&format!("-A {chain}"));
            let mut maybe = |numbers: &mut Numbers, options: &[&str]| {
                if numbers.below(2) == 0 {
                    text.push_str(&format!(" {}", numbers.of(options)));
                }
            };
            maybe(
                numbers,
                &[
                    "-s 10.0.0.0/8",
                    "-s 10.0.0.0/9",
                    "-s 10.128.0.0/9",
                    "! -s 10.0.0.0/9",
                ],
            );
            maybe(
                numbers,
                &[
                    "-p tcp -m tcp --dport 22",
                    "-p tcp",
                    "-p udp",
                    "-p tcp -m tcp --dport 20:30",
                ],
            );
            maybe(
                numbers,
                &[
                    "-m conntrack --ctstate NEW",
                    "-m mark --mark 0x1",
                    "-m limit --limit 5/min",
                    "-i eth0",
                    "-i eth+",
                ],
            );
            let mut targets = vec![
                "-j ACCEPT".to_owned(),
                "-j DROP".to_owned(),
                "-j REJECT".to_owned(),
                "-j RETURN".to_owned(),
                "-j LOG".to_owned(),
                "-j MARK --set-xmark 0x1/0xffffffff".to_owned(),
                "".to_owned(),
            ];
            targets.extend(
                calls
                    .iter()
                    .flat_map(|call| [format!("-j {call}"), format!("-g {call}")]),
            );
            text.push_str(&format!(" {}\n", numbers.of(&targets)));
        }
    }
    text + "COMMIT\n"
}

fn find(ruleset: &Ruleset) -> Vec<Shadowed> {
    let space = Space::for_rules(ruleset.family, [ruleset]);
    shadowed(&space, ruleset, &Reading::default()).unwrap()
}

/// Deletes a rule, or those of a whole chain, and no packet changes.
fn assert_needless(ruleset: &Ruleset, table: TableName, chain: usize, rule: Option<usize>) {
    let mut without = ruleset.clone();
    let tables = &mut without.tables;
    let found = tables.iter_mut().find(|found| found.name == table);
    let rules = &mut found.expect("the table").chains[chain].rules;
    match rule {
        Some(rule) => drop(rules.remove(rule)),
        None => rules.clear(),
    }
    let space = Space::for_rules(ruleset.family, [ruleset]);
    // A bucket is that of its rule, whichever others are left.
    let reading = Reading {
        origin: &|rule| Some(rule.line.to_string()),
        ..Reading::default()
    };
    let of = |ruleset| Behaviour::of(&space, ruleset, &reading).unwrap();
    let differences = of(ruleset).differences(&space, &of(&without)).unwrap();
    for found in &differences {
        let valid = space.valid(found.chain).unwrap();
        let shown = space.and(found.packets, valid).unwrap();
        assert_eq!(shown, space.none(), "{chain} {rule:?}\n{ruleset}");
    }
}

/// Deletes a rule that was found, and what was said to shadow it decides all of its packets.
fn check(ruleset: &Ruleset, found: &Shadowed) {
    assert_needless(
        ruleset,
        found.table,
        found.rule.chain,
        Some(found.rule.rule),
    );
    assert!(!found.by.is_empty() && found.by.iter().all(|by| by.rule < found.rule.rule));
}

#[test]
fn what_is_shadowed_can_be_deleted() {
    let (mut numbers, mut count) = (Numbers(0x51ed_270b), 0);
    for _ in 0..150 {
        let text = rules(&mut numbers);
        let ruleset =
            Ruleset::from_text(&text, Family::V4).unwrap_or_else(|error| panic!("{error}\n{text}"));
        for found in find(&ruleset) {
            check(&ruleset, &found);
            count += 1;
        }
    }
    assert!(count > 200, "{count} shadowed rules: these show little");
}

/// Each rule that is called idle for another reason can be deleted too; so many there are: redundant, impossible, unreached.
fn check_idle(ruleset: &Ruleset, idle: &IdleRules) -> [usize; 3] {
    let IdleRules {
        redundant,
        impossible,
        unreached,
        ..
    } = idle;
    for (table, RuleId { chain, rule }, behind) in redundant {
        assert_needless(ruleset, *table, *chain, Some(*rule));
        let after = |id: &RuleId| id.chain == *chain && id.rule > *rule;
        assert!(!behind.is_empty() && behind.iter().all(after));
    }
    for (table, RuleId { chain, rule }, _) in impossible {
        assert_needless(ruleset, *table, *chain, Some(*rule));
    }
    for (table, chain) in unreached {
        assert_needless(ruleset, *table, *chain, None);
    }
    [redundant.len(), impossible.len(), unreached.len()]
}

#[test]
fn what_is_idle_can_be_deleted() {
    let (mut numbers, mut count) = (Numbers(0x1d1e), [0; 3]);
    for _ in 0..200 {
        // Half of them have a rule that contradicts itself.
        let mut text = rules(&mut numbers);
        if numbers.below(2) == 0 {
            let at = text.rfind("COMMIT").unwrap();
            text.insert_str(
                at,
                "-A INPUT -p icmp -m icmp --icmp-type 3 -m conntrack --ctstate NEW -j ACCEPT\n",
            );
        }
        let ruleset =
            Ruleset::from_text(&text, Family::V4).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let space = Space::new(ruleset.family);
        let idle = idle(&space, &ruleset, &Reading::default()).unwrap();
        let found = check_idle(&ruleset, &idle);
        count = [0, 1, 2].map(|at| count[at] + found[at]);
    }
    println!("redundant, impossible, unreached: {count:?}");
    assert!(
        count.iter().all(|count| *count > 15),
        "{count:?}: these show little"
    );
}

/// What a firewall engineer would say of the rules of INPUT that are not shadowed.
#[test]
fn redundant_or_not() {
    for (why, rules, wanted) in [
        (
            "the later rule is wider",
            "-A INPUT -s 10.0.0.0/9 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![(0, vec![1])],
        ),
        (
            "of two that are the same, the second is shadowed and the first is needed",
            "-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -j ACCEPT\n",
            vec![],
        ),
        (
            "an exception stands between them",
            "-A INPUT -s 10.0.0.0/9 -j ACCEPT\n-A INPUT -p udp -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![],
        ),
        (
            "a rate stands between them",
            "-A INPUT -s 10.0.0.0/9 -j ACCEPT\n-A INPUT -m limit --limit 5/min -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![],
        ),
        (
            "the later rule logs first",
            "-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -s 10.0.0.0/8 -j LOG\n-A INPUT -s 10.0.0.0/8 -j DROP\n",
            vec![],
        ),
        (
            "that the policy is the same shows nothing",
            "-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -p tcp -j ACCEPT\n",
            vec![],
        ),
        (
            "some of it falls to the policy, which does the same",
            "-A INPUT -s 10.0.0.0/8 -j DROP\n-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -s 192.0.2.1/32 -j DROP\n-A INPUT -s 192.0.2.0/24 -p tcp -j DROP\n",
            vec![(2, vec![3])],
        ),
        (
            "what it shadows would come to light, and does otherwise",
            "-A INPUT -s 10.0.0.0/9 -j ACCEPT\n-A INPUT -s 10.0.0.0/10 -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![],
        ),
        (
            "a mark may be another one then",
            "-A INPUT -s 10.0.0.0/9 -j ACCEPT\n-A INPUT -m mark --mark 0x1 -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![],
        ),
        (
            "the mask between them does not have the address",
            "-A INPUT -s 10.0.0.6/32 -j ACCEPT\n-A INPUT -s 10.0.0.5/255.0.0.255 -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![(0, vec![2])],
        ),
    ] {
        let text = format!("*filter\n:INPUT DROP [0:0]\n{rules}COMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V4).unwrap();
        let space = Space::new(Family::V4);
        let idle = idle(&space, &ruleset, &Reading::default()).unwrap();
        let found = idle.redundant.into_iter();
        let found: Vec<(usize, Vec<usize>)> = found
            .map(|(_, id, behind)| (id.rule, behind.iter().map(|id| id.rule).collect()))
            .collect();
        assert_eq!(found, wanted, "{why}");
    }
}

fn lines(rules: &str) -> Vec<(usize, Vec<usize>)> {
    let text = format!("*filter\n:INPUT DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n{rules}COMMIT\n");
    let found = find(&Ruleset::from_text(&text, Family::V4).unwrap());
    let found = found.into_iter();
    found
        .map(|one| (one.rule.rule, one.by.iter().map(|by| by.rule).collect()))
        .collect()
}

/// What a firewall engineer would say, rule by rule of INPUT.
#[test]
fn shadowed_or_not() {
    for (why, rules, wanted) in [
        (
            "two halves",
            "-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -s 10.128.0.0/9 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![(2, vec![0, 1])],
        ),
        (
            "a gap of one address",
            "-A INPUT -s 10.0.0.0/9 -j DROP\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n",
            vec![],
        ),
        (
            "a rate lets the rest go on",
            "-A INPUT -p tcp -m limit --limit 5/min -j ACCEPT\n-A INPUT -p tcp -j ACCEPT\n",
            vec![],
        ),
        (
            "no packet is left to count",
            "-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -m limit --limit 5/min -j ACCEPT\n",
            vec![(1, vec![0])],
        ),
        (
            "nor to be looked for in a set",
            "-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -m set --match-set x src -j DROP\n",
            vec![(1, vec![0])],
        ),
        (
            "nor for a time, a list, a mark, a match that nobody knows, a log",
            "-A INPUT -p tcp -j ACCEPT\n\
             -A INPUT -p tcp -m time --timestart 08:00:00 --timestop 18:00:00 --datestop 2038-01-19T03:14:07 -j DROP\n\
             -A INPUT -p tcp -m recent --set --name x --mask 255.255.255.255 --rsource\n\
             -A INPUT -p tcp -m mark --mark 0x1 -j DROP\n\
             -A INPUT -p tcp -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j DROP\n\
             -A INPUT -p tcp -m string --string \"x\" --algo bm --to 65535 -j DROP\n\
             -A INPUT -p tcp -m ttl --ttl-eq 3 -j DROP\n\
             -A INPUT -p tcp -m limit --limit 5/min -j LOG\n",
            (1..8).map(|rule| (rule, vec![0])).collect(),
        ),
        (
            "what a set has now it may lack later",
            "-A INPUT -m set --match-set x src -j ACCEPT\n-A INPUT -p tcp -m set --match-set x src -j DROP\n",
            vec![],
        ),
        (
            "a log goes on",
            "-A INPUT -j LOG\n-A INPUT -j DROP\n",
            vec![],
        ),
        (
            "a mark changes what is asked",
            "-A INPUT -m mark --mark 0x1 -j ACCEPT\n-A INPUT -j MARK --set-xmark 0x1/0xffffffff\n-A INPUT -m mark --mark 0x1 -j DROP\n",
            vec![],
        ),
        (
            "a chain that lets nothing back",
            "-A A -s 10.0.0.0/8 -j LOG\n-A A -j DROP\n-A INPUT -p udp -j A\n-A INPUT -p udp -j ACCEPT\n",
            vec![(1, vec![0])],
        ),
        (
            "a chain that may return",
            "-A A -s 10.0.0.0/8 -j RETURN\n-A A -j DROP\n-A INPUT -p udp -j A\n-A INPUT -p udp -j ACCEPT\n",
            vec![],
        ),
        (
            "a goto never comes back",
            "-A A -s 10.0.0.0/8 -j DROP\n-A INPUT -p udp -g A\n-A INPUT -p udp -j ACCEPT\n",
            vec![(1, vec![0])],
        ),
        (
            "return ends the chain",
            "-A INPUT -p udp -j RETURN\n-A INPUT -p udp -j LOG\n",
            vec![(1, vec![0])],
        ),
        (
            "the mask in front does not have the address",
            "-A INPUT -s 10.0.0.5/255.0.0.255 -j DROP\n-A INPUT -s 10.0.0.6/32 -j ACCEPT\n-A INPUT -s 10.0.0.6/32 -p tcp -j ACCEPT\n",
            vec![(2, vec![1])],
        ),
    ] {
        assert_eq!(lines(rules), wanted, "{why}");
    }
}

/// Every real ruleset has its answer, and the few that are hand-checked the right one.
#[test]
#[ignore = "needs the corpus: FWC_CORPUS"]
fn real_rulesets() {
    let (mut rulesets, mut count, mut slowest) = (0, 0, (Duration::ZERO, String::new()));
    for (path, family) in crate::corpus::dumps() {
        let bytes = std::fs::read(&path).expect("the dump can be read");
        let Ok(ruleset) = Ruleset::from_text(&String::from_utf8_lossy(&bytes), family) else {
            continue;
        };
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
        let rules: usize = chains.map(|chain| chain.rules.len()).sum();
        // A debug build takes minutes for the largest; the bench has them.
        if cfg!(debug_assertions) && rules > 1_500 {
            continue;
        }
        let start = Instant::now();
        let space = Space::new(family);
        let idle = match idle(&space, &ruleset, &Reading::default()) {
            Ok(idle) => idle,
            Err(TextError::GaveUp(error)) => panic!("{name}: {error}"),
            Err(_) => continue,
        };
        let found = &idle.shadowed;
        let matrix = Behaviour::of(&space, &ruleset, &Reading::default()).map(|behaviour| {
            let asked = space.as_state(State::New).unwrap();
            let passes =
                behaviour.may_pass(&space, Hook::Forward, asked, &DevicesBehind::unknown());
            space
                .matrix(passes.expect("no gave-up"))
                .expect("no gave-up")
        });
        if let Err(TextError::GaveUp(error)) = matrix {
            panic!("{name}: {error}");
        }
        if start.elapsed() > slowest.0 {
            slowest = (start.elapsed(), name.clone());
        }
        rulesets += 1;
        count += found.len();
        if !found.is_empty() {
            println!("{name}: {} shadowed", found.len());
        }
        // Deleting one is a whole new analysis: the first, the last and one between of the smaller ones.
        if rules < 300 {
            let picked = [0, found.len() / 2, found.len().saturating_sub(1)];
            for one in picked.into_iter().filter_map(|at| found.get(at)) {
                check(&ruleset, one);
            }
            check_idle(&ruleset, &idle);
        }
    }
    println!("{rulesets} rulesets, {count} shadowed rules; slowest {slowest:?}");
    assert!(rulesets > 0);
}

use proptest::prelude::*;

use super::{TransitionFilter, TransitionWidth};
use crate::analysis::{BaseChain, Behaviour, Reading, Set, Space, Verdict};
use crate::apply::owned::{Fallthrough, Owned};
use crate::iptables::{Ruleset, TableName};
use crate::live::LiveRuleset;
use crate::net::{Family, PerFamily};
use crate::resolve::Ownership;

const CHAINS: [BaseChain; 3] = [BaseChain::Input, BaseChain::Forward, BaseChain::Output];

/// The packets that a filter accepts at a base chain, by the engine.
fn accepted(space: &Space, dump: &LiveRuleset, chain: BaseChain) -> Set {
    let ruleset = Ruleset::from_text(&dump.normal(), Family::V4).unwrap();
    let behaviour = Behaviour::of(space, &ruleset, &Reading::default()).unwrap();
    let parts = space
        .parts(behaviour.flow(space, (TableName::Filter, chain)).verdicts)
        .unwrap();
    parts
        .get(&Some(Verdict::Accept))
        .copied()
        .unwrap_or(space.none())
}

fn dump(text: &str) -> LiveRuleset {
    LiveRuleset::parse(text).unwrap()
}

fn between(
    old: &LiveRuleset,
    new: &LiveRuleset,
    width: TransitionWidth,
    rest: Fallthrough,
) -> LiveRuleset {
    let filter = TransitionFilter::between(old, new, Family::V4, width, rest).unwrap();
    filter.ours
}

const OLD: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:old - [0:0]\n:same - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -g old\n-A INPUT -j same\n-A INPUT -p udp -j RETURN\n-A INPUT -s 192.0.2.0/24 -j ACCEPT\n-A FORWARD -d 10.0.0.1/32 -j ACCEPT\n-A FORWARD -d 10.0.0.0/8 -j REJECT\n-A FORWARD -i eth0 -j ACCEPT\n-A OUTPUT -d 192.0.2.66/32 -j DROP\n-A old -p tcp -m tcp --dport 22 -j ACCEPT\n-A old -p tcp -m tcp --dport 23 -j RETURN\n-A same -s 198.51.100.0/24 -j DROP\nCOMMIT\n";
const NEW: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n:same - [0:0]\n-A INPUT -j same\n-A INPUT -p tcp -m tcp --dport 22 -j DROP\n-A INPUT -s 203.0.113.0/24 -j DROP\n-A FORWARD -d 10.0.0.2/32 -j ACCEPT\n-A OUTPUT -d 192.0.2.0/24 -j ACCEPT\n-A OUTPUT -p udp -j RETURN\n-A same -p tcp -m tcp --dport 23 -j DROP\nCOMMIT\n";

/// Without other programs the filter is exact.
fn assert_exact(old: &LiveRuleset, new: &LiveRuleset) {
    for width in [TransitionWidth::Either, TransitionWidth::Both] {
        let filter = between(old, new, width, Fallthrough::Policy);
        let space = Space::new(Family::V4);
        for chain in CHAINS {
            let of = |dump| accepted(&space, dump, chain);
            let wanted = match width {
                TransitionWidth::Either => space.or(of(old), of(new)),
                TransitionWidth::Both => space.and(of(old), of(new)),
            };
            assert!(
                of(&filter) == wanted.unwrap(),
                "{width:?} {chain:?}\n{}",
                filter.normal()
            );
        }
    }
}

#[test]
fn filter_accepts_what_either_or_both_sides_accept() {
    for (old, new) in [(OLD, NEW), (NEW, OLD), (OLD, OLD), ("", NEW), (OLD, "")] {
        assert_exact(&dump(old), &dump(new));
    }
}

#[test]
fn base_chain_that_does_not_change_stays() {
    let (old, new) = (dump(OLD), dump(&OLD.replace("10.0.0.1/32", "10.0.0.9/32")));
    for width in [TransitionWidth::Either, TransitionWidth::Both] {
        let filter = between(&old, &new, width, Fallthrough::Policy);
        let rules = |dump: &LiveRuleset, chain| {
            let chain = dump.chain(TableName::Filter, chain).unwrap();
            chain.rules.clone()
        };
        assert_eq!(rules(&filter, "INPUT"), rules(&old, "INPUT"));
        assert_ne!(rules(&filter, "FORWARD"), rules(&old, "FORWARD"));
    }
}

fn shared() -> Owned {
    let files = PerFamily::from_fn(|_| dump("*filter\nCOMMIT\n"));
    Owned::of_files(&files, &Ownership::Shared)
}

/// What others have, with a place for bans before fwc's rules and a container's behind them.
const OTHERS: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:f2b-all - [0:0]\n-A INPUT -j f2b-all\n-A INPUT -p udp -j DROP\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 -j ACCEPT\n-A DOCKER -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT\n-A f2b-all -s 203.0.113.9/32 -j DROP\nCOMMIT\n";

/// fwc's parts: what it does in INPUT and in FORWARD, each with a jump unless it does nothing.
fn parts(input: &str, forward: &str) -> LiveRuleset {
    let part = |base: &str, rules: &str| match rules {
        "" => (String::new(), String::new()),
        rules => (
            format!(":FWC-{base} - [0:0]\n"),
            format!("-A {base} -j FWC-{base}\n{rules}"),
        ),
    };
    let (input, forward) = (part("INPUT", input), part("FORWARD", forward));
    let called = ":FWC-DENY - [0:0]\n:FWC-OUT - [0:0]\n";
    let deny = "-A FWC-DENY -j LOG\n-A FWC-DENY -j DROP\n-A FWC-OUT -o eth1 -j FWC-DENY\n";
    dump(&format!(
        "*filter\n{}{}{called}{}{}{deny}COMMIT\n",
        input.0, forward.0, input.1, forward.1
    ))
}

/// As fwc writes it in shared mode: what comes from a device of the policy and goes to another is denied.
const FORWARD: &str = "-A FWC-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FWC-FORWARD -i eth0 -d 10.0.0.1/32 -j ACCEPT\n-A FWC-FORWARD -s 192.0.2.0/24 -j DROP\n-A FWC-FORWARD -i eth0 -j FWC-OUT\n";
const INPUT: &str = "-A FWC-INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A FWC-INPUT -j DROP\n";

#[test]
fn beside_others_it_opens_nothing_and_loses_nothing() {
    let owned = shared();
    let others = dump(OTHERS);
    let cases = [
        parts(INPUT, FORWARD),
        parts(
            &INPUT.replace("22", "23"),
            &FORWARD.replace("10.0.0.1", "10.0.0.2"),
        ),
        parts(INPUT, ""),
        parts("", FORWARD),
        parts("", ""),
    ];
    for old in &cases {
        for new in &cases {
            let live = owned.with(Family::V4, &others, old);
            let target = owned.with(Family::V4, &live, new);
            for width in [TransitionWidth::Either, TransitionWidth::Both] {
                let filter = between(old, new, width, Fallthrough::Others);
                let all = owned.with(Family::V4, &live, &filter);
                // Others' rules are as they were, byte for byte.
                let none = owned.with(Family::V4, &all, &LiveRuleset::default());
                assert_eq!(none.normal(), others.normal());
                let space = Space::new(Family::V4);
                for chain in CHAINS {
                    let of = |dump| accepted(&space, dump, chain);
                    let (old, new, through) = (of(&live), of(&target), of(&all));
                    let both = space.and(old, new).unwrap();
                    let upper = match width {
                        TransitionWidth::Either => space.or(old, new).unwrap(),
                        TransitionWidth::Both => both,
                    };
                    let text = all.normal();
                    assert!(
                        space.is_subset(through, upper).unwrap(),
                        "{width:?} {chain:?}\n{text}"
                    );
                    if width == TransitionWidth::Either {
                        assert!(space.is_subset(both, through).unwrap(), "{chain:?}\n{text}");
                    }
                }
            }
        }
    }
}

#[test]
fn jump_stays_where_it_is() {
    let (old, new) = (
        parts(INPUT, FORWARD),
        parts(&INPUT.replace("22", "23"), FORWARD),
    );
    let filter = between(&old, &new, TransitionWidth::Either, Fallthrough::Others);
    insta::assert_snapshot!(filter.normal(), @r"
    *filter
    :INPUT ACCEPT [0:0]
    :FORWARD ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :FWC-DENY - [0:0]
    :FWC-FORWARD - [0:0]
    :FWC-INPUT - [0:0]
    :FWC-OUT - [0:0]
    :FWC-~1 - [0:0]
    -A INPUT -j FWC-INPUT
    -A FORWARD -j FWC-FORWARD
    -A FWC-DENY -j LOG
    -A FWC-DENY -j DROP
    -A FWC-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A FWC-FORWARD -d 10.0.0.1/32 -i eth0 -j ACCEPT
    -A FWC-FORWARD -s 192.0.2.0/24 -j DROP
    -A FWC-FORWARD -i eth0 -j FWC-OUT
    -A FWC-INPUT -p tcp -m tcp --dport 22 -j ACCEPT
    -A FWC-INPUT -g FWC-~1
    -A FWC-INPUT -g FWC-~1
    -A FWC-OUT -o eth1 -j FWC-DENY
    -A FWC-~1 -p tcp -m tcp --dport 23 -j ACCEPT
    -A FWC-~1 -j DROP
    -A FWC-~1 -j RETURN
    COMMIT
    ");
}

/// A rule with a verdict or a jump that may be missing.
fn any_rules(chains: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let target = prop::sample::select([&["ACCEPT", "DROP", "RETURN", "REJECT"], chains].concat());
    let rule = (0_u8..4, target, any::<bool>()).prop_map(|(host, target, goes)| {
        let way = if goes && target.starts_with("FWC-") {
            "-g"
        } else {
            "-j"
        };
        match host {
            0 => format!("{way} {target}"),
            host => format!("-s 192.0.2.{host}/32 {way} {target}"),
        }
    });
    prop::collection::vec(rule, 0..4)
}

/// Parts of fwc's with chains that call each other; the first is called at INPUT.
fn any_parts() -> impl Strategy<Value = LiveRuleset> {
    let chains = (
        any_rules(&["FWC-B", "FWC-C"]),
        any_rules(&["FWC-C"]),
        any_rules(&[]),
        any::<bool>(),
    );
    chains.prop_map(|(a, b, c, jumps)| {
        let mut text = "*filter\n:FWC-A - [0:0]\n:FWC-B - [0:0]\n:FWC-C - [0:0]\n".to_owned();
        if jumps {
            text.push_str("-A INPUT -j FWC-A\n");
        }
        for (name, rules) in [("A", a), ("B", b), ("C", c)] {
            for rule in rules {
                text.push_str(&format!("-A FWC-{name} {rule}\n"));
            }
        }
        dump(&(text + "COMMIT\n"))
    })
}

/// Who else is there: a rule before fwc's, one behind, and the policy.
fn any_others() -> impl Strategy<Value = LiveRuleset> {
    let verdict = || prop::sample::select(vec!["ACCEPT", "DROP"]);
    (verdict(), verdict(), 1_u8..4, 1_u8..4, verdict()).prop_map(
        |(before, behind, one, other, policy)| {
            dump(&format!(
                "*filter\n:INPUT {policy} [0:0]\n:f2b - [0:0]\n:f2b-x - [0:0]\n-A INPUT -s 192.0.2.{one}/32 -j f2b-x\n-A INPUT -s 192.0.2.{other}/32 -j {behind}\n-A f2b-x -j {before}\nCOMMIT\n"
            ))
        },
    )
}

proptest! {
    #[test]
    fn filter_without_other_programs_is_exact(old in any_parts(), new in any_parts()) {
        assert_exact(&old, &new);
    }

    #[test]
    fn narrow_filter_in_shared_mode_opens_nothing(
        old in any_parts(),
        new in any_parts(),
        others in any_others(),
    ) {
        let owned = shared();
        let live = owned.with(Family::V4, &others, &old);
        let target = owned.with(Family::V4, &live, &new);
        let filter = between(&old, &new, TransitionWidth::Both, Fallthrough::Others);
        let all = owned.with(Family::V4, &live, &filter);
        let space = Space::new(Family::V4);
        let of = |dump| accepted(&space, dump, BaseChain::Input);
        let both = space.and(of(&live), of(&target)).unwrap();
        prop_assert!(space.is_subset(of(&all), both).unwrap(), "{}", all.normal());
    }
}

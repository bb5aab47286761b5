//! What rules mean where it is easy to get wrong: each a case of its own.

use std::collections::BTreeMap;

use fwc::analysis::{
    BaseChain, Behaviour, Difference, Field, Reading, Set, Space, TextError, Verdict, rule_sets,
};
use fwc::iptables::{Rule, Ruleset, TableName};
use fwc::net::{Family, IntervalSet, Protocol, State};

const INPUT: (TableName, BaseChain) = (TableName::Filter, BaseChain::Input);
const HEAD: &str = "*filter\n:INPUT DROP [0:0]\n:OUTPUT DROP [0:0]\n:A - [0:0]\n:B - [0:0]\n";

fn ruleset(rules: &str) -> Ruleset {
    let text = format!("{HEAD}{rules}COMMIT\n");
    Ruleset::from_text(&text, Family::V4).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn try_read(space: &Space, rules: &str) -> Result<Behaviour, TextError> {
    Behaviour::of(space, &ruleset(rules), &Reading::default())
}

fn read(space: &Space, rules: &str) -> Behaviour {
    try_read(space, rules).unwrap()
}

fn differences(one: &str, two: &str) -> Vec<Difference> {
    let space = Space::new(Family::V4);
    read(&space, one)
        .differences(&space, &read(&space, two))
        .unwrap()
}

fn accepted(space: &Space, rules: &str) -> Set {
    let flow = read(space, rules).flow(space, INPUT);
    space.decided(flow.verdicts, &Verdict::Accept).unwrap()
}

#[test]
fn a_loop_is_an_error_only_where_packets_can_get_into_it() {
    let space = Space::new(Family::V4);
    // The tool refuses the first, so it is made by hand.
    let mut looped = ruleset("-A INPUT -j A\n-A A -j B\n-A B -j ACCEPT\n");
    let chains = &mut looped.tables[0].chains;
    let back: Rule = chains
        .iter()
        .find(|chain| &*chain.name == "A")
        .unwrap()
        .rules[0]
        .clone();
    chains
        .iter_mut()
        .find(|chain| &*chain.name == "B")
        .unwrap()
        .rules
        .push(back);
    let error = Behaviour::of(&space, &looped, &Reading::default()).unwrap_err();
    assert!(
        matches!(&error, TextError::Loop(name) if &**name == "B"),
        "{error}"
    );
    assert!(try_read(&space, "-A A -j A\n").is_ok());
}

#[test]
fn a_table_that_is_not_there_accepts() {
    let space = Space::new(Family::V4);
    let read = |text: &str| {
        let ruleset = Ruleset::from_text(text, Family::V4).unwrap();
        Behaviour::of(&space, &ruleset, &Reading::default()).unwrap()
    };
    let (none, empty) = (read(""), read("*raw\nCOMMIT\n"));
    assert_eq!(none.differences(&space, &empty).unwrap(), []);
    let closed = read("*raw\n:OUTPUT DROP [0:0]\nCOMMIT\n");
    let found = none.differences(&space, &closed).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].table, found[0].chain),
        (TableName::Raw, BaseChain::Output)
    );
    assert_ne!(none.structure, empty.structure);
}

#[test]
fn a_packet_of_output_has_no_in_device() {
    let not_eth0 = "-A OUTPUT -j A\n-A A ! -i eth0 -j ACCEPT\n";
    assert_eq!(differences(not_eth0, "-A OUTPUT -j ACCEPT\n"), []);
    assert_eq!(
        differences("-A OUTPUT -j A\n-A A -i eth0 -j ACCEPT\n", ""),
        []
    );
}

#[test]
fn every_limit_is_a_bucket_of_its_own() {
    let once = "-A INPUT -m limit --limit 1/sec -j ACCEPT\n";
    assert_eq!(differences(once, once), []);
    assert_eq!(differences(once, &once.repeat(2)).len(), 1);
    // Whatever the limit says, it decides nothing here.
    let both = "-A INPUT -m limit --limit 1/sec -j DROP\n-A INPUT -j DROP\n";
    assert_eq!(differences(both, "-A INPUT -j DROP\n"), []);
}

#[test]
fn a_limit_of_one_origin_in_two_rules_is_an_error() {
    let rules = ruleset(
        "-A INPUT -p tcp -m limit --limit 1/sec -j ACCEPT\n-A INPUT -p udp -m limit --limit 1/sec -j ACCEPT\n",
    );
    let space = Space::new(Family::V4);
    let sets = BTreeMap::new();
    let of = |origin: &dyn Fn(&Rule) -> Option<String>| {
        Behaviour::of(
            &space,
            &rules,
            &Reading {
                sets: &sets,
                origin,
                ..Reading::default()
            },
        )
    };
    let error = of(&|_| Some("rule 1".into())).unwrap_err();
    assert!(matches!(error, TextError::TwoBuckets { .. }), "{error}");
    assert!(of(&|rule| Some(format!("line {}", rule.line))).is_ok());
}

#[test]
fn a_condition_without_memory_is_the_same_everywhere() {
    let one = "-A INPUT -m string --string a --algo bm -j ACCEPT\n";
    assert_eq!(differences(one, &one.repeat(2)), []);
    let split = "-A OUTPUT -m owner --uid-owner 1 -j A\n-A OUTPUT -m owner ! --uid-owner 1 -j A\n-A A -j ACCEPT\n";
    assert_eq!(differences(split, "-A OUTPUT -j ACCEPT\n"), []);
    let found = "-A INPUT -m string --string a --algo bm -j A\n-A INPUT -m string ! --string a --algo bm -j A\n-A A -j ACCEPT\n";
    assert_eq!(differences(found, "-A INPUT -j ACCEPT\n"), []);
}

#[test]
fn members_of_a_set_are_addresses_where_they_are_known() {
    let space = Space::new(Family::V4);
    let members = IntervalSet::from_intervals([(0x0a00_0000, 0x0a00_00ff)]);
    let sets: BTreeMap<String, IntervalSet> = [("lan".to_owned(), members)].into();
    let rules = ruleset("-A INPUT -m set ! --match-set lan src -j ACCEPT\n");
    let known = Behaviour::of(
        &space,
        &rules,
        &Reading {
            sets: &sets,
            ..Reading::default()
        },
    )
    .unwrap();
    let plain = read(&space, "-A INPUT ! -s 10.0.0.0/24 -j ACCEPT\n");
    assert_eq!(known.differences(&space, &plain).unwrap(), []);
}

#[test]
fn marks_are_what_the_targets_made_of_them() {
    let accept_one = |before: &str| format!("{before}-A INPUT -m mark --mark 0x1 -j ACCEPT\n");
    // From the connection's mark, which a packet without a connection has not.
    let restored = accept_one("-A INPUT -j CONNMARK --restore-mark\n");
    let space = Space::new(Family::V4);
    let accepted_now = accepted(&space, &restored);
    let untracked = space.states(&[State::Invalid, State::Untracked]).unwrap();
    let wanted = space
        .ite(
            untracked,
            space.mark(1, u32::MAX).unwrap(),
            space.connection_mark(1, u32::MAX).unwrap(),
        )
        .unwrap();
    assert_eq!(accepted_now, wanted);
    // One to what it is anyway changes nothing.
    let idle = "-A INPUT -m mark --mark 0x5 -j MARK --set-mark 5\n-A INPUT -j ACCEPT\n";
    assert_eq!(differences(idle, "-A INPUT -j ACCEPT\n"), []);
    // Who is dropped has none.
    assert_eq!(differences("-A INPUT -j MARK --set-mark 5\n", ""), []);
    assert_eq!(
        differences(
            "-A INPUT -j MARK --set-mark 5\n-A INPUT -j ACCEPT\n",
            "-A INPUT -j ACCEPT\n"
        )
        .len(),
        1
    );
}

#[test]
fn a_log_line_is_a_difference_of_its_own() {
    let found = differences("-A INPUT -p udp -j LOG --log-prefix x\n", "");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].effect.as_deref(), Some("LOG --log-prefix x"));
    let space = Space::new(Family::V4);
    let behind = read(
        &space,
        "-A INPUT -p udp -j ACCEPT\n-A INPUT -p udp -j LOG\n",
    );
    assert_eq!(behind.flow(&space, INPUT).effects, BTreeMap::new());
}

#[test]
fn a_list_is_written_by_who_gets_to_it() {
    let space = Space::new(Family::V4);
    let udp = space.protocol(Protocol::UDP).unwrap();
    let rules = "-A INPUT -p udp -m recent --set --name known -m limit --limit 1/sec -j ACCEPT\n";
    let effects = read(&space, rules).flow(&space, INPUT).effects;
    let (text, set) = effects.first_key_value().unwrap();
    assert!(text.starts_with("-m recent --set --name known"), "{text}");
    assert_eq!(*set, udp);
}

#[test]
fn a_packet_without_a_connection_has_only_a_state() {
    let space = Space::new(Family::V4);
    let invalid = space.states(&[State::Invalid]).unwrap();
    let with_state = accepted(
        &space,
        "-A INPUT -m conntrack --ctstate INVALID --ctorigdst 10.0.0.1 -j ACCEPT\n",
    );
    assert_eq!(with_state, invalid);
    let without = accepted(
        &space,
        "-A INPUT -m conntrack ! --ctorigdst 10.0.0.1 -j ACCEPT\n",
    );
    assert_eq!(space.and(without, invalid).unwrap(), space.none());
}

#[test]
fn an_unknown_target_may_end_the_table_or_not() {
    let space = Space::new(Family::V4);
    let rules = "-A INPUT -p udp -j QUUX --strange\n-A INPUT -p udp -j ACCEPT\n";
    let flow = read(&space, rules).flow(&space, INPUT);
    let udp = space.protocol(Protocol::UDP).unwrap();
    let parts = space.parts(flow.verdicts).unwrap();
    let ended = parts[&Some(Verdict::Target("QUUX --strange".into()))];
    let accepted = parts[&Some(Verdict::Accept)];
    assert_eq!(space.or(ended, accepted).unwrap(), udp);
    assert!(ended != space.none() && accepted != space.none());
    assert_eq!(flow.effects["QUUX --strange"], accepted);
}

#[test]
fn a_witness_is_an_ordinary_packet_of_the_set() {
    let space = Space::new(Family::V6);
    let set = space.all();
    let witness = space
        .witness(set, BaseChain::Forward, &[])
        .unwrap()
        .unwrap();
    let packet = &witness.packet;
    assert!(witness.possible && witness.conditions.is_empty());
    assert_eq!(
        (packet.in_device.as_deref(), packet.out_device.as_deref()),
        (Some("eth0"), Some("eth1"))
    );
    assert_eq!(
        (packet.protocol, packet.destination_port, packet.source_port),
        (6, Some(443), Some(32768))
    );
    assert_eq!((packet.state, packet.tcp_flags.unwrap().0), (State::New, 2));
    assert_eq!(packet.source.to_string(), "2000::1");
    assert_eq!(packet.destination.to_string(), "2000::2");
    // What the caller prefers comes first; what cannot be is said.
    let wg = space.in_device("wg+").unwrap();
    let icmp = space.protocol(Protocol::ICMPV6).unwrap();
    let packet = space
        .witness(set, BaseChain::Forward, &[wg, icmp])
        .unwrap()
        .unwrap()
        .packet;
    assert_eq!(
        (packet.in_device.as_deref(), packet.protocol),
        (Some("wg0"), 58)
    );
    assert_eq!(
        (packet.icmp, packet.destination_port),
        (Some((128, 0)), None)
    );
    let port = space.range(Field::DestinationPort, 53, 53).unwrap();
    let strange = space.and(icmp, port).unwrap();
    assert!(
        !space
            .witness(strange, BaseChain::Input, &[])
            .unwrap()
            .unwrap()
            .possible
    );
    assert_eq!(
        space.witness(space.none(), BaseChain::Input, &[]).unwrap(),
        None
    );
}

#[test]
fn the_packets_of_each_rule_are_told() {
    let space = Space::new(Family::V4);
    let rules = "-A INPUT -p udp -m limit --limit 1/sec -j ACCEPT\n-A B -p tcp -j ACCEPT\n";
    let sets = rule_sets(&space, &ruleset(rules), &Reading::default()).unwrap();
    let sets: Vec<Set> = sets.into_values().collect();
    // The same condition as in the behaviour; and a chain that nothing reaches has packets, too.
    assert_eq!(
        sets,
        [
            accepted(&space, rules),
            space.protocol(Protocol::TCP).unwrap()
        ]
    );
}

/// A mask that is not a prefix is a set of addresses like any other.
#[test]
fn masks_are_exact() {
    let mask = "-s 10.0.0.1/255.0.0.255";
    let same = [
        // What lies behind the mask is nothing.
        (
            format!("-A INPUT {mask} -j ACCEPT\n-A INPUT -s 10.1.2.1/32 -j ACCEPT\n"),
            format!("-A INPUT {mask} -j ACCEPT\n"),
        ),
        // A mask and its negation are one condition.
        (
            format!("-A INPUT ! {mask} -j DROP\n-A INPUT -j ACCEPT\n"),
            format!("-A INPUT {mask} -j ACCEPT\n-A INPUT -j DROP\n"),
        ),
        // Two masks that no address fits.
        (
            format!("-A INPUT {mask} -j A\n-A A -s 0.0.0.2/0.0.0.3 -j ACCEPT\n"),
            "-A INPUT -j DROP\n".to_owned(),
        ),
        // A network in which one address fits.
        (
            format!("-A INPUT {mask} -j A\n-A A -s 10.1.2.0/24 -j ACCEPT\n"),
            "-A INPUT -s 10.1.2.1/32 -j ACCEPT\n".to_owned(),
        ),
    ];
    for (one, two) in &same {
        assert_eq!(differences(one, two), [], "{one}\n{two}");
    }
    let other = format!("-A INPUT {mask} -j ACCEPT\n-A INPUT -s 10.1.2.3/32 -j ACCEPT\n");
    let found = differences(&other, &format!("-A INPUT {mask} -j ACCEPT\n"));
    assert_eq!(found.len(), 1);
    let space = Space::new(Family::V4);
    let rules = ruleset(&format!(
        "-A INPUT {mask} -j ACCEPT\n-A INPUT -s 10.1.2.1/32 -j DROP\n"
    ));
    let shadows = fwc::analysis::shadowed(&space, &rules, &Reading::default()).unwrap();
    assert_eq!(shadows.len(), 1);
    assert_eq!(shadows[0].rule.rule, 1);
    // A witness has an address that fits, and that people would write.
    let set = accepted(
        &space,
        &format!("-A INPUT {mask} -m iprange --src-range 10.3.0.2-10.9.0.0 -j ACCEPT\n"),
    );
    let witness = space.witness(set, BaseChain::Input, &[]).unwrap().unwrap();
    assert_eq!(witness.packet.source.to_string(), "10.3.1.1");
    assert!(space.contains(set, witness.value()));
}

/// `xt_addrtype.c`: an address of IPv4 has one type.
#[test]
fn types_of_addresses_exclude_each_other() {
    let input = |types: &str, verdict: &str| {
        format!("-A INPUT -m addrtype --dst-type {types} -j {verdict}\n")
    };
    let same = [
        (
            input("BROADCAST,MULTICAST", "ACCEPT"),
            input("BROADCAST", "ACCEPT") + &input("MULTICAST", "ACCEPT"),
        ),
        (
            input("MULTICAST", "ACCEPT"),
            "-A INPUT -d 224.0.0.0/4 -j ACCEPT\n".to_owned(),
        ),
        (
            input("LOCAL", "A") + "-A A -m addrtype --dst-type UNICAST -j ACCEPT\n",
            "-A INPUT -j DROP\n".to_owned(),
        ),
        (
            input("LOCAL", "A") + "-A A -d 239.1.1.1 -j ACCEPT\n",
            "-A INPUT -j DROP\n".to_owned(),
        ),
    ];
    for (one, two) in &same {
        assert_eq!(differences(one, two), [], "{one}\n{two}");
    }
    let two = input("LOCAL", "ACCEPT") + &input("BROADCAST", "ACCEPT");
    assert_eq!(differences(&input("LOCAL", "ACCEPT"), &two).len(), 1);
}

/// In IPv6 the types are questions, all of which may hold.
#[test]
fn types_of_ipv6_addresses_are_questions() {
    let space = Space::new(Family::V6);
    let set = |rule: &str| {
        let text =
            format!("*filter\n-A INPUT -m addrtype {rule} -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n");
        let ruleset = Ruleset::from_text(&text, Family::V6).unwrap();
        let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).unwrap();
        space
            .decided(behaviour.flow(&space, INPUT).verdicts, &Verdict::Accept)
            .unwrap()
    };
    let multicast = space
        .range(Field::Destination, 0xff << 120, u128::MAX)
        .unwrap();
    assert_eq!(set("--dst-type MULTICAST"), multicast);
    assert_eq!(set("--dst-type MULTICAST,UNICAST"), space.none());
    let both = space
        .and(set("--dst-type UNICAST"), set("--dst-type LOCAL"))
        .unwrap();
    assert_eq!(set("--dst-type UNICAST,LOCAL"), both);
    assert_ne!(both, space.none());
    assert_eq!(
        space.and(set("--dst-type LOCAL"), multicast).unwrap(),
        space.none()
    );
}

/// Where connections are tracked, and in INPUT, packets are put together before rules see them.
#[test]
fn later_fragments_are_seen_where_the_kernel_shows_them() {
    let of = |rules: &str| format!("{rules}-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n");
    assert_eq!(differences(&of("-A INPUT -f -j DROP\n"), &of("")), []);
    assert_eq!(
        differences(
            &of("-A INPUT ! -f -j ACCEPT\n"),
            &of("-A INPUT -j ACCEPT\n")
        ),
        []
    );
    let forward = |rules: &str| {
        let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n");
        Ruleset::from_text(&text, Family::V4).unwrap()
    };
    let differ = |one: &str, two: &str| {
        let space = Space::new(Family::V4);
        let read =
            |rules: &str| Behaviour::of(&space, &forward(rules), &Reading::default()).unwrap();
        !read(one)
            .differences(&space, &read(two))
            .unwrap()
            .is_empty()
    };
    let state = "-A FORWARD -m conntrack --ctstate INVALID -j DROP\n";
    assert!(differ("-A FORWARD -f -j DROP\n", ""));
    assert!(!differ(&format!("-A FORWARD -f -j DROP\n{state}"), state));
    assert!(!differ(
        "-A FORWARD -f -j DROP\n-A INPUT -m socket\n",
        "-A INPUT -m socket\n"
    ));
}

/// `CONNMARK` may move bits to other places.
#[test]
fn shifted_connection_marks_are_followed() {
    let text = |rules: &str| {
        let rules = format!("*mangle\n{rules}COMMIT\n");
        Ruleset::from_text(&rules, Family::V4).unwrap()
    };
    let there = "-A INPUT -j MARK --set-mark 0x5\n-A INPUT -j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff0 --left-shift-mark 4\n";
    let back = "-A INPUT -j MARK --set-mark 0\n-A INPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf0 --right-shift-mark 4\n";
    let space = Space::new(Family::V4);
    let dropped = |rules: &str| {
        let behaviour = Behaviour::of(&space, &text(rules), &Reading::default()).unwrap();
        let flow = behaviour.flow(&space, (TableName::Mangle, BaseChain::Input));
        space.decided(flow.verdicts, &Verdict::Drop).unwrap()
    };
    let tracked = space
        .states(&[State::New, State::Established, State::Related])
        .unwrap();
    let asked = |test: &str| {
        dropped(&format!(
            "{there}-A INPUT -m connmark --mark {test} -j DROP\n"
        ))
    };
    assert_eq!(asked("0x50/0xff0"), tracked);
    assert_eq!(asked("0x5/0xff0"), space.none());
    let asked = |test: &str| {
        dropped(&format!(
            "{there}{back}-A INPUT -m mark --mark {test} -j DROP\n"
        ))
    };
    assert_eq!(space.and(asked("0x5"), tracked).unwrap(), tracked);
    assert_eq!(
        space.and(asked("0x50/0xf0"), tracked).unwrap(),
        space.none()
    );
}

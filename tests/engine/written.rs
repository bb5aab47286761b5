//! What rules write into packets, and later rules read: the hop limit, the type of service, how a packet is tracked.

use fwc::analysis::{
    BaseChain, Behaviour, Path, Reading, Set, Space, TextError, Verdict, shadowed,
};
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook, Protocol};

/// A ruleset's space, behaviour, and the way of all packets of a hook.
fn path(rules: &str, hook: Hook) -> (Space, Behaviour, Path) {
    let ruleset = Ruleset::from_text(rules, Family::V4).expect("rules");
    let space = Space::new(Family::V4);
    let behaviour = Behaviour::of(&space, &ruleset, &Reading::default()).expect("a behaviour");
    let path = Path::of(&space, &behaviour, hook, space.all()).expect("a way");
    (space, behaviour, path)
}

fn dropped(rules: &str, hook: Hook, dropped: impl Fn(&Space) -> Set) {
    let (space, _, path) = path(rules, hook);
    let found = path.may(&space, |end| end.verdict == Verdict::Drop);
    assert_eq!(found.expect("a set"), dropped(&space), "{rules}");
}

fn tcp(space: &Space) -> Set {
    space.protocol(Protocol::TCP).expect("a set")
}

#[test]
fn filter_reads_the_hop_limit_that_mangle_wrote() {
    let rules = |early: &str, late: &str| {
        format!(
            "*mangle\n-A PREROUTING -p tcp -j TTL {early}\nCOMMIT\n\
             *filter\n-A INPUT -p tcp -m ttl {late} -j DROP\n-A FORWARD -p tcp -m ttl {late} -j DROP\nCOMMIT\n"
        )
    };
    dropped(&rules("--ttl-set 10", "--ttl-eq 10"), Hook::Input, tcp);
    // A router takes one away before its FORWARD.
    dropped(&rules("--ttl-set 10", "--ttl-eq 9"), Hook::Forward, tcp);
    dropped(
        &rules("--ttl-set 10", "--ttl-eq 10"),
        Hook::Forward,
        Space::none,
    );
    dropped(&rules("--ttl-inc 255", "--ttl-gt 254"), Hook::Input, tcp);
    dropped(&rules("--ttl-dec 1", "--ttl-eq 63"), Hook::Input, |space| {
        let hops = space.range(fwc::analysis::Field::HopLimit, 64, 64);
        let hops = hops.expect("a set");
        space.and(tcp(space), hops).expect("a set")
    });
}

#[test]
fn filter_reads_the_class_that_mangle_wrote() {
    let rules = |write: &str, asked: &str| {
        format!(
            "*mangle\n-A PREROUTING -p tcp -j {write}\nCOMMIT\n*filter\n-A INPUT -p tcp -m {asked} -j DROP\nCOMMIT\n"
        )
    };
    let dscp = "DSCP --set-dscp 0x2e";
    dropped(&rules(dscp, "dscp --dscp 0x2e"), Hook::Input, tcp);
    dropped(&rules(dscp, "tos --tos 0xb8/0xfc"), Hook::Input, tcp);
    dropped(&rules(dscp, "dscp --dscp 0x00"), Hook::Input, Space::none);
    dropped(&rules(dscp, "dscp ! --dscp 0x00"), Hook::Input, tcp);
    let ecn = "TOS --set-tos 0x02/0x03";
    dropped(&rules(ecn, "ecn --ecn-ip-ect 2"), Hook::Input, tcp);
    dropped(&rules(ecn, "ecn --ecn-ip-ect 1"), Hook::Input, Space::none);
    dropped(&rules(ecn, "ecn ! --ecn-ip-ect 1"), Hook::Input, tcp);
    // Of the bits that nobody wrote the packet as it arrived tells.
    let left = |space: &Space| {
        let left = space.opaque("tos tos 0x01/0x01").expect("a set");
        space.and(tcp(space), left).expect("a set")
    };
    dropped(&rules(dscp, "tos --tos 0x21/0x21"), Hook::Input, left);
    dropped(
        &rules("TOS --xor-tos 0x01", "tos --tos 0x00/0x01"),
        Hook::Input,
        left,
    );
}

#[test]
fn raw_reads_how_a_packet_is_tracked() {
    let rules = |rules: &str| format!("*raw\n{rules}COMMIT\n");
    let dropped = |text: &str, set: fn(&Space) -> Set| {
        dropped(&rules(text), Hook::Forward, set);
    };
    let others = |space: &Space| space.not(tcp(space)).expect("a set");
    let drop = |states: &str| format!("-A PREROUTING -m conntrack --ctstate {states} -j DROP\n");
    let untracked = "-A PREROUTING -p tcp -j CT --notrack\n";
    dropped(&(untracked.to_owned() + &drop("UNTRACKED")), tcp);
    dropped(&(untracked.to_owned() + &drop("INVALID")), others);
    dropped(&(untracked.to_owned() + &drop("NEW")), Space::none);
    let zone = "-A PREROUTING -p tcp -j CT --zone 5\n";
    dropped(&(zone.to_owned() + &drop("NEW")), tcp);
    dropped(&(zone.to_owned() + &drop("INVALID")), others);
    // The first holds.
    dropped(
        &(zone.to_owned() + untracked + &drop("UNTRACKED")),
        Space::none,
    );
    dropped(&(untracked.to_owned() + zone + &drop("UNTRACKED")), tcp);
    // A template has a connection's mark, and it is 0.
    let marked = "-A PREROUTING -m connmark --mark 0 -j DROP\n";
    dropped(marked, Space::none);
    dropped(&(zone.to_owned() + marked), tcp);
    dropped(&(untracked.to_owned() + marked), Space::none);
}

/// The mark that a template has is not the connection's, which later tables see.
#[test]
fn a_template_leaves_the_connection_its_mark() {
    let text = "*raw\n-A PREROUTING -j CT --zone 5\n-A PREROUTING -j CONNMARK --set-mark 0x7\nCOMMIT\n\
                *filter\n-A FORWARD -m connmark --mark 0x7 -j DROP\nCOMMIT\n";
    dropped(text, Hook::Forward, |space| {
        let tracked = [
            fwc::net::State::New,
            fwc::net::State::Established,
            fwc::net::State::Related,
        ];
        let tracked = space.states(&tracked).expect("a set");
        let marked = space.connection_mark(7, u32::MAX).expect("a set");
        space.and(tracked, marked).expect("a set")
    });
}

#[test]
fn two_writes_in_another_order_are_a_difference() -> Result<(), TextError> {
    let rules = |first: &str, second: &str| {
        format!("*mangle\n-A INPUT -j {first}\n-A INPUT -j {second}\nCOMMIT\n")
    };
    let space = Space::new(Family::V4);
    let read = |first: &str, second: &str| {
        let ruleset = Ruleset::from_text(&rules(first, second), Family::V4).expect("rules");
        Behaviour::of(&space, &ruleset, &Reading::default())
    };
    for [one, two] in [
        ["TTL --ttl-set 64", "TTL --ttl-inc 1"],
        ["TTL --ttl-set 64", "TTL --ttl-set 65"],
        ["DSCP --set-dscp 0x2e", "TOS --set-tos 0x00/0xff"],
    ] {
        let (before, after) = (read(one, two)?, read(two, one)?);
        let found = before.differences(&space, &after)?;
        assert_eq!(found.len(), 1, "{one}, {two}: {found:?}");
        assert_eq!(
            (found[0].chain, &found[0].effect),
            (BaseChain::Input, &None)
        );
        assert_eq!(found[0].packets, space.all(), "{one}, {two}");
    }
    let (before, after) = (
        read("TTL --ttl-inc 1", "TTL --ttl-inc 2")?,
        read("TTL --ttl-inc 2", "TTL --ttl-inc 1")?,
    );
    assert!(before.differences(&space, &after)?.is_empty());
    Ok(())
}

/// What a rule of raw asks of the state another rule may have changed since: the second is not in the first one's shadow.
#[test]
fn in_raw_a_state_is_not_the_same_further_down() -> Result<(), TextError> {
    let text = "*raw\n-A PREROUTING -m conntrack --ctstate NEW -j ACCEPT\n-A PREROUTING -j CT --zone 5\n\
                -A PREROUTING -p tcp -m conntrack --ctstate NEW -j DROP\nCOMMIT\n";
    dropped(text, Hook::Forward, tcp);
    let ruleset = Ruleset::from_text(text, Family::V4).expect("rules");
    let found = shadowed(&Space::new(Family::V4), &ruleset, &Reading::default())?;
    assert_eq!(found, []);
    let (_, behaviour, _) = path(text, Hook::Input);
    let place = (TableName::Raw, BaseChain::Prerouting);
    assert!(behaviour.flows.contains_key(&place));
    Ok(())
}

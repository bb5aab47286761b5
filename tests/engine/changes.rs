//! `diff --packets`: what it says is so, by the plain walker, and it says everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use fwc::analysis::{BaseChain, Behaviour, Limits, Reading, Space, Vocabulary};
use fwc::diff::{
    self, ChangeKind, ChangedBox, ComparedRules, PacketChange, PacketFate, Responsible,
};
use fwc::iptables::{Ruleset, TableName};
use fwc::net::{Family, Hook};
use proptest::prelude::*;

use crate::random::{near, ruleset};
use crate::walked;

const FILTER: TableName = TableName::Filter;

fn changes(space: &Space, before: &Ruleset, after: &Ruleset) -> Vec<PacketChange> {
    let nothing = BTreeMap::new();
    let side = |ruleset| ComparedRules {
        ruleset,
        members: &nothing,
        origin: None,
    };
    let changed = diff::rules(before, after, &|_, _| false);
    let limits = Limits {
        shown: 40,
        counted: 40,
    };
    let vocabulary = Vocabulary::new(space);
    diff::packets(&vocabulary, side(before), side(after), &changed, limits).unwrap()
}

fn compare(family: Family, one: &str, two: &str) {
    let read = |text: &str| Ruleset::from_text(text, family).unwrap();
    let (one, two) = (read(one), read(two));
    let space = Space::for_rules(family, [&one, &two]);
    let found = changes(&space, &one, &two);
    // Who comes to a limit, in which order, how often, and what a rule without a target counts: `limits.rs` has that.
    let found: Vec<PacketChange> = found.into_iter().filter(is_plain).collect();
    let behaviour = |ruleset| Behaviour::of(&space, ruleset, &Reading::default()).unwrap();
    let mut differences = behaviour(&one)
        .differences(&space, &behaviour(&two))
        .unwrap();
    differences.retain(|one| {
        let effect = one.effect.as_deref();
        effect.is_none_or(|effect| space.watched(effect).is_none())
    });
    // A rule that was changed keeps its bucket, which the plain behaviours know nothing of.
    let has_memory = |ruleset: &Ruleset| {
        let text = ruleset.to_string();
        text.contains("-m limit") || text.contains("-m recent")
    };
    if differences.is_empty() || !has_memory(&one) {
        assert_eq!(
            found.is_empty(),
            differences.is_empty(),
            "{found:#?}\n{one}\n{two}"
        );
    }
    // A bucket of a rule that was changed has another name here than in the plain behaviours.
    if !has_memory(&one) && !has_memory(&two) {
        // All packets that differ, and no others.
        for chain in Hook::ALL.map(BaseChain::from) {
            let here = found.iter().filter(|change| change.chain == chain);
            let said = space.any(here.map(|change| change.packets)).unwrap();
            let here = differences
                .iter()
                .filter(|difference| difference.chain == chain);
            let all = space
                .any(here.map(|difference| difference.packets))
                .unwrap();
            assert_eq!(said, all);
        }
    }
    for change in &found {
        boxes_are_the_change(&space, change);
        for one_box in &change.boxes {
            walkers_say_it(&space, change, one_box, [&one, &two]);
        }
    }
}

fn is_plain(change: &PacketChange) -> bool {
    let is_plain = |fate: &PacketFate| match fate {
        PacketFate::Effect(effect) => {
            let others = ["first ", "twice ", "counter of "];
            !others.iter().any(|begin| effect.starts_with(begin))
        }
        PacketFate::Counted(_) => false,
        _ => true,
    };
    is_plain(&change.before) && is_plain(&change.after)
}

fn boxes_are_the_change(space: &Space, change: &PacketChange) {
    let care = match change.possible {
        true => space.valid(change.chain).unwrap(),
        false => space.all(),
    };
    let boxes = change.boxes.iter().map(|one| one.packets.packets);
    let union = space.and(space.any(boxes).unwrap(), care).unwrap();
    let wanted = space.and(change.packets, care).unwrap();
    assert!(space.is_subset(union, wanted).unwrap());
    if change.more == 0 && !change.uncounted {
        assert_eq!(union, wanted);
    }
}

/// Examples that were shown to the walker.
static SHOWN: AtomicUsize = AtomicUsize::new(0);

fn walkers_say_it(space: &Space, change: &PacketChange, one: &ChangedBox, sides: [&Ruleset; 2]) {
    let example = &one.packets.example;
    assert!(space.contains(change.packets, example.value()));
    assert_eq!(example.possible, change.possible);
    assert!(!one.before.is_empty() || change.before == PacketFate::NoEffect);
    assert!(!one.after.is_empty() || change.after == PacketFate::NoEffect);
    if !change.possible {
        return;
    }
    // The walker knows conditions by their text alone: nearly always that is still a packet of the change.
    let text = |key: &str| key.split(" of ").next().unwrap_or_default().to_owned();
    let hold = example.conditions.iter().filter(|(_, holds)| *holds);
    let hold: Vec<String> = hold.map(|(key, _)| text(key)).collect();
    // `recent --set` matches every packet.
    let says = |key: &str| key.starts_with("-m recent --set") || hold.contains(&text(key));
    let packet = &example.packet;
    if !space.contains(change.packets, space.values_of(packet, says)) {
        return;
    }
    // Nor does it know how a packet was addressed on the link: without that the packet may be one of another box.
    let is_in_box = space.contains(one.packets.packets, space.values_of(packet, says));
    let written = |fate: &PacketFate| matches!(fate, PacketFate::Effect(effect) if effect.starts_with("-m recent"));
    if written(&change.before) || written(&change.after) {
        return;
    }
    let [before, after] = sides.map(|ruleset| walked::walk(ruleset, FILTER, packet, &says));
    let (Some(before), Some(after)) = (before, after) else {
        return;
    };
    for (fate, other, seen) in [
        (&change.before, &change.after, &before),
        (&change.after, &change.before, &after),
    ] {
        match fate {
            PacketFate::Verdict(verdict) => assert_eq!(seen.verdict, *verdict, "{one:#?}"),
            PacketFate::End(ending) => panic!("nothing but the filter table: {ending:?}"),
            PacketFate::Counted(condition) => panic!("not a plain change: {condition}"),
            PacketFate::Effect(effect) => assert!(seen.effects.contains(effect), "{one:#?}"),
            PacketFate::NoEffect => {
                let PacketFate::Effect(effect) = other else {
                    panic!("no effect on both sides: {change:#?}");
                };
                assert!(!seen.effects.contains(effect), "{one:#?}");
            }
        }
    }
    if change.kind == ChangeKind::MarkChanged {
        assert_ne!(before.mark, after.mark, "{one:#?}");
    }
    if let (true, PacketFate::Verdict(_), PacketFate::Verdict(_)) =
        (is_in_box, &change.before, &change.after)
    {
        for (ruleset, said) in sides.into_iter().zip([&one.before, &one.after]) {
            let decider = walked::decider(ruleset, FILTER, packet, &says);
            let decider = Responsible {
                place: (FILTER, change.chain),
                rule: decider,
            };
            assert!(said.contains(&decider), "{decider:?}: {one:#?}\n{ruleset}");
        }
    }
    SHOWN.fetch_add(1, Ordering::Relaxed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]
    fn near_rulesets_v4((one, two) in near(Family::V4)) {
        compare(Family::V4, &one, &two);
    }

    fn near_rulesets_v6((one, two) in near(Family::V6)) {
        compare(Family::V6, &one, &two);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    fn far_rulesets(one in ruleset(Family::V4), two in ruleset(Family::V4)) {
        let known = |text: &str| text.replace("-j QUUX --strange yes", "-j LOG --log-prefix strange");
        compare(Family::V4, &known(&one), &known(&two));
    }
}

#[test]
fn what_is_said_of_random_rulesets_is_so() {
    near_rulesets_v4();
    near_rulesets_v6();
    far_rulesets();
    let shown = SHOWN.load(Ordering::Relaxed);
    println!("{shown} examples were shown to the walker");
    assert!(shown > 50, "{shown}");
}

//! What `explain` claims, held against the sets themselves, both plain walkers and real rulesets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fwc::analysis::{Limits, Space, Verdict};
use fwc::compile::{Deny, Options, open_policy};
use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::explain::{AskedHook, AskedStates, HookAnswer, Question, Subject, explain};
use fwc::internals::resolve::{PlannedRule, question, resolve};
use fwc::internals::verify::vocabulary;
use fwc::iptables::Ruleset;
use fwc::net::{Date, Family, Hook, PerFamily};
use fwc::policy::{self, Policy};
use fwc::source::{Located, SourceMap, Span};
use proptest::prelude::*;

use crate::random::ruleset;

/// The rules alone, by no policy.
fn ground(text: &str, family: Family) -> Subject {
    let ruleset =
        Ruleset::from_text(text, family).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let plan = resolve(&Policy::default(), &mut Sink::new()).expect("an empty plan");
    let mut rules = PerFamily::default();
    rules[family] = Some((ruleset, Some(PathBuf::from("rules"))));
    Subject::of_rules(plan, rules, &BTreeMap::new())
}

/// A question in the words of a policy.
fn asked(
    ground: &Subject,
    words: &[(&'static str, &str)],
    place: &AskedHook,
    states: AskedStates,
) -> Question {
    let mut sources = SourceMap::new();
    let file = sources.add("question", "");
    let span = Span::new(file, 0..0);
    let words: Vec<_> = words
        .iter()
        .map(|(key, word)| (*key, Located::new(*word, span)))
        .collect();
    let mut sink = Sink::new();
    let written = policy::question(&words, span, &mut sink);
    let packets = question(&ground.policy, &ground.plan, &written, &mut sink);
    let mut packets: PlannedRule = packets.unwrap_or_else(|| panic!("{words:?}: {sink:?}"));
    let hooks = place.hooks(&mut packets).expect("hooks");
    Question {
        packets,
        for_this_host: false,
        hooks,
        in_device: None,
        out_device: None,
        source_port: None,
        states,
    }
}

/// Everything that an answer says is so; how many packets were walked.
fn check(ground: &Subject, space: &Space, answer: &HookAnswer, what: &str) -> usize {
    let all = |sets: Vec<_>| space.any(sets).expect("a set");
    let apart = |sets: &[_]| {
        let mut seen = space.none();
        for set in sets {
            assert_eq!(
                space.and(seen, *set).unwrap(),
                space.none(),
                "twice: {what}"
            );
            seen = space.or(seen, *set).unwrap();
        }
    };
    let parts: Vec<_> = answer.groups.iter().map(|part| part.packets).collect();
    assert_eq!(
        all(parts.clone()),
        answer.asked,
        "the parts are all: {what}"
    );
    if answer.groups.iter().all(|part| !part.is_choice) {
        apart(&parts);
    }
    let words = vocabulary(space, &ground.plan).expect("words");
    let limits = Limits {
        shown: 500,
        counted: 500,
    };
    for part in &answer.groups {
        let rules: Vec<_> = part.rules.iter().map(|rule| rule.packets).collect();
        assert_eq!(all(rules.clone()), part.packets, "somebody decides: {what}");
        let boxes = words
            .boxes_among(part.packets, answer.possible, answer.hook.into(), limits)
            .expect("boxes");
        if !boxes.uncounted && boxes.more == 0 {
            let said = all(boxes.shown.iter().map(|one| one.packets).collect());
            let said = space.and(said, answer.possible).unwrap();
            assert_eq!(said, part.packets, "the boxes are all: {what}");
        }
        let story = part.trace.as_ref();
        let story = story.unwrap_or_else(|untold| panic!("{untold}: {what}"));
        let last = story.visits.last();
        let decides = match &part.verdict {
            // Behind the filter table nothing decides that a packet passes.
            Verdict::Accept => story.visits.iter().find(|visit| {
                let (table, chain) = visit.place;
                table == fwc::iptables::TableName::Filter && chain == answer.hook.into()
            }),
            _ => last,
        };
        let Some(decides) = decides else { continue };
        let rule = match decides.policy {
            Some(_) => None,
            None => decides.matched.last().map(|matched| matched.id),
        };
        let mut known = part.rules.iter();
        assert!(
            known.any(|one| one.place == decides.place && one.rule == rule),
            "the rule that decides is not listed: {what}"
        );
    }
    answer.groups.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_rules(v6: bool, text in ruleset(Family::V4), other in ruleset(Family::V6), narrow: bool) {
        let (family, text) = if v6 { (Family::V6, other) } else { (Family::V4, text) };
        // The plain walker takes an unknown target for an end, always.
        let text = text.replace("-j QUUX --strange yes", "-j LOG --log-prefix strange");
        let ground = ground(&text, family);
        for hook in Hook::ALL {
            let place = AskedHook { hook: Some(hook), ..AskedHook::default() };
            let (words, states) = match narrow {
                true => (&[("service", "22/tcp")][..], AskedStates::Usual),
                false => (&[][..], AskedStates::Any),
            };
            let question = asked(&ground, words, &place, states);
            let space = ground.space(family);
            for answer in explain(&ground, &space, &question).expect("an answer") {
                check(&ground, &space, &answer, &text);
            }
        }
    }
}

fn opened(path: &Path) -> Subject {
    let options = Options {
        access: Access::Read,
        templates: None,
        verify: false,
        deny: &Deny::default(),
        max_lines: None,
        today: Date::constant(2026, 6, 1),
    };
    let opened = open_policy(path, options);
    let inside = opened
        .result
        .unwrap_or_else(|_| panic!("{}: {:?}", path.display(), opened.findings));
    let (policy, plan) = (inside.policy, inside.plan);
    Subject::of_policy(policy, plan, opened.sources, inside.rendered, &inside.read)
}

/// What a policy says of a packet that is shown is what its rules are said to do.
#[test]
fn policies_say_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut compared = 0;
    for name in [
        "bastion",
        "router",
        "web-server",
        "database",
        "dmz",
        "mail-server",
    ] {
        let ground = opened(&root.join(name).join("fwc.toml"));
        for words in [
            &[][..],
            &[("service", "ssh")],
            &[("from", "any"), ("to", "any")],
            &[("from", "host")],
            &[("source", "203.0.113.9"), ("service", "https")],
        ] {
            let question = asked(&ground, words, &AskedHook::default(), AskedStates::Usual);
            for family in Family::ALL {
                let space = Space::new(family);
                for answer in explain(&ground, &space, &question).expect("an answer") {
                    let what = format!("{name} {words:?} {family}");
                    check(&ground, &space, &answer, &what);
                    for part in &answer.groups {
                        let story = part.trace.as_ref().expect("a story");
                        if !story.conditions.is_empty() {
                            continue;
                        }
                        let says = policy::decide(&ground.policy, &story.packet).verdict;
                        let same = match &part.verdict {
                            Verdict::Accept => says == policy::PolicyVerdict::Accept,
                            Verdict::Drop => says == policy::PolicyVerdict::Drop,
                            Verdict::Reject(_) => matches!(says, policy::PolicyVerdict::Reject(_)),
                            _ => false,
                        };
                        assert!(
                            same,
                            "{what}: {says:?}, {:?}, {}",
                            part.verdict, story.packet
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 60, "{compared}");
}

/// Files of the corpus that iptables-restore takes, and that are small enough for the time that a test has.
#[test]
#[ignore = "needs the corpus: FWC_CORPUS"]
fn every_dump_can_be_explained() {
    let corpus = std::env::var("FWC_CORPUS").expect("FWC_CORPUS");
    let entries = std::fs::read_dir(Path::new(&corpus).join("dumps")).expect("dumps");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a dump").path()).collect();
    paths.sort();
    let (mut seen, mut walked) = (0, 0);
    for path in paths {
        let family = match path.extension().and_then(|end| end.to_str()) {
            Some("v4") => Family::V4,
            Some("v6") => Family::V6,
            _ => continue,
        };
        let text = std::fs::read(&path).expect("a file");
        let text = String::from_utf8_lossy(&text);
        if text.lines().count() > 1500 || Ruleset::from_text(&text, family).is_err() {
            continue;
        }
        let ground = ground(&text, family);
        for hook in Hook::ALL {
            let place = AskedHook {
                hook: Some(hook),
                ..AskedHook::default()
            };
            let question = asked(&ground, &[("service", "https")], &place, AskedStates::Usual);
            let space = Space::new(family);
            let what = path.display().to_string();
            let answers = explain(&ground, &space, &question);
            let answers = answers.unwrap_or_else(|error| panic!("{what}: {error}"));
            for answer in answers {
                walked += check(&ground, &space, &answer, &what);
            }
        }
        seen += 1;
    }
    println!("{seen} dumps, {walked} packets walked");
    assert!(seen > 100, "{seen}");
}

/// Found by chance: the kernel sends a packet where it was going anyway, and is asked about it again.
#[test]
fn a_condition_that_is_asked_again() {
    let text = "*nat\n-A PREROUTING -p tcp -j DNAT --to-destination 2001:db8::7\nCOMMIT\n*filter\n-A FORWARD -d 2001:db8::/32 -p 47 -m string --string abc --algo bm -j NFQUEUE --queue-num 2\nCOMMIT\n";
    let ground = ground(text, Family::V6);
    let place = AskedHook {
        hook: Some(Hook::Forward),
        ..AskedHook::default()
    };
    let question = asked(&ground, &[], &place, AskedStates::Any);
    let space = Space::new(Family::V6);
    for answer in explain(&ground, &space, &question).expect("an answer") {
        assert_eq!(check(&ground, &space, &answer, text), 5);
    }
}

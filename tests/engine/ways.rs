//! `diff --packets` of whole ways: what it says becomes of packets is what the plain walker makes of them, and where it says
//! nothing nothing changes.

use std::collections::BTreeMap;

use fwc::analysis::{Exchanged, Field, Limits, Space, Translation, Verdict, Vocabulary};
use fwc::diff::{self, ChangeKind, ComparedRules, Ending, PacketChange, PacketFate};
use fwc::iptables::{Ruleset, Target, WalkTrace, follow};
use fwc::net::{Family, Hook, Packet, State, Translated};

use crate::packets::Numbers;
use crate::path::{Kernel, Pool, Writer, effects, is_elsewhere, pool, says};
use crate::walked;

/// How far a packet's way through one ruleset got it.
struct Seen {
    journey: WalkTrace,
    verdict: Verdict,
    destination: Exchanged,
    source: Exchanged,
    effects: Vec<Box<str>>,
}

fn seen(
    ruleset: &Ruleset,
    packet: &Packet,
    connection_mark: u32,
    seed: u64,
    choice: usize,
) -> Seen {
    let mut kernel = Kernel {
        seed,
        arrived: packet,
        choice,
    };
    let journey = follow(ruleset, packet, connection_mark, &mut kernel).expect("all is known");
    let before = packet.translated != Translated::default()
        && matches!(packet.state, State::Established | State::Related);
    let untracked = journey.packet.state == State::Untracked;
    let (mut destination, mut source) = (Exchanged::No, Exchanged::No);
    if before && !untracked {
        (destination, source) = (Exchanged::AsBefore, Exchanged::AsBefore);
    }
    for step in &journey.steps {
        let decided = step.walk.decided.and_then(|id| {
            let table = ruleset.table(step.table)?;
            Some(&table.chains[id.chain].rules[id.rule].target)
        });
        if let Some(Target::Nat(nat)) = decided {
            let by = Exchanged::By(Translation::of(nat));
            match step.chain {
                "PREROUTING" | "OUTPUT" => destination = by,
                _ => source = by,
            }
        }
    }
    let effects = effects(ruleset, &journey);
    Seen {
        verdict: walked::verdict(&journey.verdict),
        destination,
        source,
        effects: effects.into_iter().map(|(_, effect)| effect).collect(),
        journey,
    }
}

/// What is said of a way, when it says something of it.
fn ending(hook: Hook, seen: &Seen) -> Ending {
    let redirected = matches!(&seen.destination, Exchanged::By(translation)
        if translation.text().starts_with("REDIRECT"));
    let gone = matches!(seen.verdict, Verdict::Drop | Verdict::Reject(_));
    Ending {
        verdict: (!redirected || hook != Hook::Forward).then(|| seen.verdict.clone()),
        destination: match gone && !(redirected && hook == Hook::Forward) {
            true => Exchanged::No,
            false => seen.destination.clone(),
        },
        source: match gone || (redirected && hook == Hook::Forward) {
            true => Exchanged::No,
            false => seen.source.clone(),
        },
    }
}

fn is_gone(ending: &Ending) -> bool {
    matches!(ending.verdict, Some(Verdict::Drop | Verdict::Reject(_)))
}

/// Whether a packet ends otherwise, in a way that is worth a word.
fn is_otherwise(before: &Ending, after: &Ending) -> bool {
    let unknown = |one: &Ending, other: &Ending| one.verdict.is_none() && is_gone(other);
    before != after && !unknown(before, after) && !unknown(after, before)
}

/// Whether an end is what is said: of what is the same on both sides nothing may be said.
fn is_said(said: &Ending, real: &Ending) -> bool {
    let side = |said: &Exchanged, real: &Exchanged| *said == Exchanged::No || said == real;
    said.verdict == real.verdict
        && side(&said.destination, &real.destination)
        && side(&said.source, &real.source)
}

fn changes(space: &Space, before: &Ruleset, after: &Ruleset) -> Vec<PacketChange> {
    let nothing = BTreeMap::new();
    let side = |ruleset| ComparedRules {
        ruleset,
        members: &nothing,
        origin: None,
    };
    let changed = diff::rules(before, after, &|_, _| false);
    let limits = Limits {
        shown: 1,
        counted: 1,
    };
    diff::packets(
        &Vocabulary::new(space),
        side(before),
        side(after),
        &changed,
        limits,
    )
    .expect("a small ruleset")
}

/// Some lines of a ruleset, others of another one of the same hand: near enough to agree on most packets.
fn near(numbers: &mut Numbers, one: &str, two: &str) -> String {
    let table = |text: &str, name: &str| -> Option<String> {
        let begin = text.find(&format!("*{name}\n"))?;
        let end = text[begin..].find("COMMIT\n")? + begin + "COMMIT\n".len();
        Some(text[begin..end].to_owned())
    };
    let mut all = String::new();
    for name in ["raw", "mangle", "nat", "filter"] {
        let (mine, other) = (table(one, name), table(two, name));
        match (numbers.below(4), mine, other) {
            (0, _, Some(other)) => all += &other,
            (_, Some(mine), _) => {
                // A rule less, or two that change places.
                let mut lines: Vec<&str> = mine.lines().collect();
                let rules: Vec<usize> = (0..lines.len())
                    .filter(|at| lines[*at].starts_with("-A "))
                    .collect();
                if rules.len() > 1 {
                    let at = numbers.below(rules.len() - 1);
                    match numbers.below(3) {
                        0 => drop(lines.remove(rules[at])),
                        1 => lines.swap(rules[at], rules[at + 1]),
                        _ => {}
                    }
                }
                all += &(lines.join("\n") + "\n");
            }
            _ => {}
        }
    }
    all
}

#[derive(Default)]
struct Count {
    otherwise: usize,
    shown: usize,
    silent: usize,
}

fn compare(pool: &Pool, family: Family, seed: u64, count: &mut Count) {
    let mut numbers = Numbers(seed * 2 + 1);
    let mut write = || {
        Writer {
            numbers: &mut numbers,
            pool,
            family,
        }
        .ruleset()
    };
    let (one, two) = (write(), write());
    let two = match numbers.below(8) {
        0 => one.clone(),
        _ => near(&mut numbers, &one, &two),
    };
    let read = |text: &str| {
        Ruleset::from_text(text, family)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"))
    };
    let (before, after) = (read(&one), read(&two));
    let space = Space::for_rules(family, [&before, &after]);
    let found = changes(&space, &before, &after);
    if found.is_empty() {
        count.silent += 1;
    }
    for _ in 0..80 {
        let hook = numbers.of(&Hook::ALL);
        let packet = pool.edges.packet(&mut numbers, family, hook);
        let mark = numbers.of(&[0, 1, 2]);
        let (seed, choice) = (numbers.below(1 << 30) as u64, numbers.below(8));
        // What conntrack expects, and what was translated before, is said to change only where nothing else does.
        if packet.state == State::Related || packet.translated != Translated::default() {
            continue;
        }
        let sides = [&before, &after].map(|ruleset| seen(ruleset, &packet, mark, seed, choice));
        let ends = [&sides[0], &sides[1]].map(|side| ending(hook, side));
        let at = |side: &Seen| {
            let elsewhere = is_elsewhere(&packet, &side.journey.packet);
            let moved = side.journey.packet.translated.destination;
            let packet = packet.clone();
            let says = move |key: &str| match key {
                key if key.ends_with(" changes something") => moved,
                key if key.ends_with(", after translation") => says(seed, key, elsewhere),
                key => says(seed, key, false),
            };
            (packet, says)
        };
        let has = |change: &PacketChange| {
            sides.iter().any(|side| {
                let (packet, says) = at(side);
                let values = space.values_of(&packet, says);
                space.contains(change.packets, |field| match field {
                    Field::ConnectionMark(bit) => u128::from(mark >> bit & 1),
                    field => values(field),
                })
            })
        };
        let here: Vec<&PacketChange> = found
            .iter()
            .filter(|change| change.hook.is_none_or(|own| own == hook) && has(change))
            .collect();
        let context = || {
            let rules = diff::rules(&before, &after, &|_, _| false).to_text();
            format!(
                "seed {seed}, choice {choice}, mark {mark}: {packet}\n{ends:#?}\n{here:#?}\n{rules}\n{one}\n{two}"
            )
        };
        if is_otherwise(&ends[0], &ends[1]) {
            count.otherwise += 1;
            let said = here
                .iter()
                .any(|change| match (&change.before, &change.after) {
                    (PacketFate::End(old), PacketFate::End(new)) => {
                        is_said(old, &ends[0]) && is_said(new, &ends[1])
                    }
                    (PacketFate::Verdict(old), PacketFate::Verdict(new)) => {
                        *old == sides[0].verdict && *new == sides[1].verdict
                    }
                    _ => false,
                });
            assert!(said, "{}", context());
        } else if sides[0].effects != sides[1].effects {
            let affected = here
                .iter()
                .any(|change| change.kind == ChangeKind::EffectChanged);
            assert!(affected || choice > 0, "{}", context());
        }
        // Where a choice of the kernel's decides nothing, only what changes is spoken of.
        let chooses = sides.iter().any(|side| {
            let by = |one: &Exchanged| *one != Exchanged::No;
            // A packet of this host is routed again where its mark changed.
            let rerouted = hook == Hook::Output && side.journey.packet.mark != packet.mark;
            by(&side.destination) || by(&side.source) || rerouted
        });
        if !chooses {
            for change in here
                .iter()
                .filter(|change| change.kind <= ChangeKind::TranslationChanged)
            {
                count.shown += 1;
                let (PacketFate::End(old), PacketFate::End(new)) = (&change.before, &change.after)
                else {
                    continue;
                };
                assert!(is_said(old, &ends[0]), "{}", context());
                assert!(is_said(new, &ends[1]), "{}", context());
            }
        }
    }
}

fn random(family: Family, seeds: std::ops::Range<u64>) {
    let pool = pool(family);
    let mut count = Count::default();
    for seed in seeds {
        compare(&pool, family, seed, &mut count);
    }
    let Count {
        otherwise,
        shown,
        silent,
    } = count;
    println!(
        "{otherwise} packets ended otherwise, {shown} were spoken of, {silent} pairs are the same"
    );
    assert!(otherwise > 50 && shown > 20 && silent > 0);
}

#[test]
fn what_is_said_of_whole_ways_is_so_in_ipv4() {
    random(Family::V4, 5000..5030);
}

#[test]
fn what_is_said_of_whole_ways_is_so_in_ipv6() {
    random(Family::V6, 6000..6030);
}

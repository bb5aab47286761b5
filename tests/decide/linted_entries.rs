//! What lints say of the nat, mangle and raw entries of random policies is true: without an entry that is called shadowed or
//! redundant no packet changes. Of verdicts, marks and tracking, by what the rules do in all tables; of what is written into
//! packets, by walking them through the policy's words.

use std::collections::BTreeMap;

use fwc::analysis::{BaseChain, Behaviour, Difference, GaveUp, Path, Reading, Space, places};
use fwc::diag::{Code, Diagnostic, Sink};
use fwc::internals::resolve::Ownership;
use fwc::internals::verify::Verifier;
use fwc::iptables::TableName;
use fwc::net::{Family, Hook, Packet, State, Translated};
use fwc::policy::{self, HopLimitChange, MangleChange, Moment, Policy, PolicyTrace};
use fwc::source::Span;
use libtest_mimic::{Failed, Trial};

use crate::generate::{Random, Sample, sample};
use crate::linted::{gave_up, with};
use crate::promises::{Luck, is_possible, thrown_for};
use crate::views::{Compiled, compile, number};

const PACKETS: usize = 150;
/// How often the circumstances of a packet are thrown_for anew.
const THROWS: u64 = 4;

/// The test.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("linted::true_of_random_entries", true_of_all)]
}

/// Where an entry stands in the policy.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Nat(usize),
    Mangle(usize),
    Raw(usize),
}

fn true_of_all() -> Result<(), Failed> {
    let first = number("FWC_SEED", 0);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut taken = 0;
    for seed in first..first + number("FWC_POLICIES", 1000) {
        let mut random = Random(seed);
        let mut sample = sample(&mut random);
        sample.text += &again(&sample.text, &mut random);
        let Ok(compiled) = compile(&sample.text) else {
            continue;
        };
        taken += 1;
        let mut sink = Sink::new();
        Verifier::new(&compiled.policy, &compiled.plan).lints(&mut sink)?;
        for finding in sink.iter().filter(|it| it.code != Code::WorldOpen) {
            let Some(entry) = entry_of(finding, &compiled.policy) else {
                continue;
            };
            judge(finding, entry, &compiled, &sample, &mut random)
                .map_err(|error| format!("seed {seed}: {error}\n{finding:#?}\n{}", sample.text))?;
            let kind = match entry {
                Entry::Nat(_) => "nat",
                Entry::Mangle(_) => "mangle",
                Entry::Raw(_) => "raw",
            };
            *seen
                .entry(format!("{kind} {}", finding.code.as_str()))
                .or_default() += 1;
        }
    }
    println!("findings from seed {first} in {taken} policies: {seen:?}");
    for wanted in [
        "nat shadowed",
        "nat redundant",
        "mangle shadowed",
        "mangle redundant",
        "mangle never-matches",
        "raw shadowed",
        "raw redundant",
    ] {
        if !seen.contains_key(wanted) {
            return Err(format!("no finding of {wanted}: {seen:?}").into());
        }
    }
    Ok(())
}

/// Some of the entries once more, with fewer keys or other values, and now and then one that has no packet.
fn again(text: &str, random: &mut Random) -> String {
    let sections: Vec<&str> = text.split("\n[").collect();
    let kinds = ["[nat]]\n", "[mangle]]\n", "[raw]]\n"];
    let entries = sections
        .iter()
        .filter(|section| kinds.iter().any(|kind| section.starts_with(kind)));
    let entries: Vec<&&str> = entries.collect();
    let mut more = String::new();
    for _ in 0..random.below(5).min(entries.len()) {
        let entry = random.pick(&entries);
        more += "[";
        for line in entry.lines() {
            let is_narrower = [
                "from", "to ", "source", "service", "scope", "state", "mark", "mac", "tcp",
            ];
            let narrows = is_narrower.iter().any(|key| line.starts_with(key));
            if line.starts_with("name") || line.starts_with("enabled") {
                continue;
            }
            if line.starts_with("to-destination") && random.once_in(2) {
                more += match line.contains("]:") || line.contains(":80") || line.contains(":2") {
                    true => "to-destination = \"10.7.7.7:80\"\n",
                    false => "to-destination = \"10.7.7.7\"\n",
                };
                continue;
            }
            if line.starts_with("set =") && random.once_in(3) {
                if entry.contains("\"dscp\"") {
                    more += "set = \"af11\"\n";
                    continue;
                }
                if entry.contains("\"mark\"") {
                    more += "set = \"0x2/0xffffffff\"\n";
                    continue;
                }
            }
            if !narrows || !random.once_in(3) {
                more += &format!("{line}\n");
            }
        }
    }
    if random.once_in(5) {
        more += "[[mangle]]\ntype = \"dscp\"\nset = \"ef\"\nservice = \"ssh\"\nstate = \"new\"\n\
                 tcp-flags = \"syn,fin/syn,fin\"\n";
    }
    more
}

fn entry_of(finding: &Diagnostic, policy: &Policy) -> Option<Entry> {
    let span = finding.primary.as_ref()?.span;
    let at = |spans: Vec<Span>| spans.into_iter().position(|other| other == span);
    let nat = at(policy.nat.iter().map(|entry| entry.span).collect());
    let mangle = at(policy.mangle.iter().map(|entry| entry.span).collect());
    let raw = at(policy.raw.iter().map(|entry| entry.span).collect());
    let nat = nat.map(Entry::Nat);
    nat.or(mangle.map(Entry::Mangle)).or(raw.map(Entry::Raw))
}

fn judge(
    finding: &Diagnostic,
    entry: Entry,
    compiled: &Compiled,
    sample: &Sample,
    random: &mut Random,
) -> Result<(), String> {
    if finding.message == "no packet that this entry translates gets through" {
        return nothing_passes(entry, &compiled.policy, sample, random);
    }
    let mut policy = compiled.policy.clone();
    let (packets, writes) = match entry {
        Entry::Nat(index) => (&mut policy.nat[index].packets, false),
        Entry::Mangle(index) => {
            let entry = &mut policy.mangle[index];
            let change = entry.change.as_ref().map(|change| change.value);
            (&mut entry.packets, change.is_some_and(is_written))
        }
        Entry::Raw(index) => (&mut policy.raw[index].packets, false),
    };
    packets.enabled = false;
    let without = with(policy).ok_or("the policy needs the entry")?;
    let impossible = match finding.code {
        Code::Shadowed | Code::Redundant => false,
        Code::NeverMatches => true,
        code => return Err(format!("a finding of {}", code.as_str())),
    };
    if finding.secondary.is_empty() != impossible {
        return Err("others are named, or not".to_owned());
    }
    let is_nat = matches!(entry, Entry::Nat(_)) && !impossible;
    same(
        compiled,
        &without,
        writes && !impossible,
        is_nat,
        impossible,
    )?;
    if writes && !impossible {
        written_the_same(&compiled.policy, &without.policy, sample, random)?;
    }
    match impossible {
        true => Ok(()),
        false => followed_the_same(&compiled.policy, &without.policy, sample, random),
    }
}

/// By the policy's own words no new connection passes that the entry gives another destination, wherever it ends.
fn nothing_passes(
    entry: Entry,
    policy: &Policy,
    sample: &Sample,
    random: &mut Random,
) -> Result<(), String> {
    let Entry::Nat(index) = entry else {
        return Err("it translates nothing".to_owned());
    };
    let ends_anywhere = policy.nat[index].packets.to.is_none();
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        let is_new = packet.state == State::New && packet.translated == Translated::default();
        if packet.hook != Hook::Forward || !is_new || !ends_anywhere || !is_possible(&packet) {
            continue;
        }
        for throw in 0..THROWS {
            let way = policy::follow(policy, &packet, 0, &Luck::new(throw, &packet));
            let is_translated = way.translated.is_some_and(|end| end.entry == index);
            if is_translated && way.decision.verdict == policy::PolicyVerdict::Accept {
                return Err(format!("{packet} passes: {way:?}"));
            }
        }
    }
    Ok(())
}

/// By the policy's own words packets that arrive go the same way, with the same luck.
fn followed_the_same(
    one: &Policy,
    other: &Policy,
    sample: &Sample,
    random: &mut Random,
) -> Result<(), String> {
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        // What is new was never translated.
        if packet.state == State::New && packet.translated != Translated::default() {
            continue;
        }
        for throw in 0..THROWS {
            let luck = Luck::new(throw, &packet);
            let way = |policy| policy::follow(policy, &packet, 0, &luck);
            let (one, other) = (way(one), way(other));
            // Another entry may do the same.
            let end = |way: &PolicyTrace| way.translated.map(|end| (end.address, end.ports));
            let is_same = end(&one) == end(&other) && one.packet == other.packet;
            if !is_same || one.decision.verdict != other.decision.verdict {
                return Err(format!("{packet} goes {one:?}, or {other:?}"));
            }
        }
    }
    Ok(())
}

/// Whether no packet on its whole way comes to a place as one of a set.
fn never_comes(space: &Space, behaviour: &Behaviour, differ: &Difference) -> Result<bool, GaveUp> {
    let place = (differ.table, differ.chain);
    let hooks = Hook::ALL.into_iter();
    for hook in hooks.filter(|hook| places(*hook).contains(&place)) {
        let path = Path::of(space, behaviour, hook, space.all())?;
        if path.meeting(space, behaviour, place, differ.packets)? != space.none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The rules do the same with every packet in all tables; where `impossible`, with those that a kernel shows. What they write into
/// packets of mangle is left out where it `is_written` over, and of what nat leads to only packets count that come there.
fn same(
    one: &Compiled,
    other: &Compiled,
    is_written: bool,
    is_nat: bool,
    impossible: bool,
) -> Result<(), String> {
    let nobody_else = Ownership::Exclusive {
        preserve: Vec::new(),
    };
    let is_alone = one.plan.ownership == nobody_else;
    for family in Family::ALL {
        let space = Space::new(family);
        let behaviour = |compiled: &Compiled| {
            let reading = Reading {
                sets: &compiled.members(family),
                // Of lines of the same words one stands for all: which is the first changes when one is gone.
                origin: &|rule| Some(rule.to_text(family)),
                has_copies: true,
                ..Reading::default()
            };
            Behaviour::of(&space, compiled.read().ruleset(family), &reading)
                .map_err(|error| error.to_string())
        };
        let (one, other) = (behaviour(one)?, behaviour(other)?);
        for differ in one.differences(&space, &other).map_err(gave_up)? {
            if is_written && differ.table == TableName::Mangle && differ.effect.is_some() {
                continue;
            }
            let is_led_to = differ.table == TableName::Filter
                || (differ.table, differ.chain) == (TableName::Nat, BaseChain::Postrouting);
            if is_nat
                && is_alone
                && is_led_to
                && never_comes(&space, &one, &differ).map_err(gave_up)?
            {
                continue;
            }
            let mut packets = differ.packets;
            if impossible {
                let shown = space.valid(differ.chain).map_err(gave_up)?;
                packets = space.and(packets, shown).map_err(gave_up)?;
                if differ.table == TableName::Nat {
                    let asked = space.states(&[State::New, State::Related]);
                    packets = space
                        .and(packets, asked.map_err(gave_up)?)
                        .map_err(gave_up)?;
                }
            }
            let witness = space.witness(packets, differ.chain, &[]).map_err(gave_up)?;
            if let Some(witness) = witness {
                return Err(format!(
                    "{family} {:?} {:?} {:?} differs: {}",
                    differ.table, differ.chain, differ.effect, witness.packet
                ));
            }
        }
    }
    Ok(())
}

/// Whether a change is one of what stands in a packet: rules do not look at it again.
fn is_written(change: MangleChange) -> bool {
    matches!(
        change,
        MangleChange::ClampMss(_)
            | MangleChange::Dscp(_)
            | MangleChange::HopLimit(_)
            | MangleChange::Checksum
            | MangleChange::Classify(..)
    )
}

/// What is written in a packet, at the end of a chain.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    segment: u32,
    dscp: u8,
    hops: i32,
    class: (u16, u16),
    mark: u32,
    checksum: bool,
    dropped: bool,
}

fn written(policy: &Policy, packet: &Packet, moment: Moment, throw: u64) -> Written {
    let holds = |asked: policy::Circumstance<'_>| thrown_for(throw, asked, packet);
    let mangled = policy::mangle(policy, packet, 0x110, moment, &holds);
    let mut written = Written {
        // Larger than any that is asked for, and than what fits a path.
        segment: 9000,
        dscp: 0x3f,
        hops: 77,
        class: (7, 7),
        mark: mangled.mark,
        checksum: false,
        dropped: mangled.dropped.is_some(),
    };
    for entry in mangled.entries {
        let Some(change) = &policy.mangle[entry].change else {
            continue;
        };
        match change.value {
            MangleChange::ClampMss(size) => {
                // No size that the samples ask for is the path's.
                let size = size.map_or(1000, u32::from);
                written.segment = written.segment.min(size);
            }
            MangleChange::Dscp(class) => written.dscp = class,
            MangleChange::Classify(major, minor) => written.class = (major, minor),
            MangleChange::HopLimit(HopLimitChange::Set(hops)) => written.hops = hops.into(),
            MangleChange::HopLimit(HopLimitChange::Increase(hops)) => {
                written.hops += i32::from(hops)
            }
            MangleChange::HopLimit(HopLimitChange::Decrease(hops)) => {
                written.hops -= i32::from(hops)
            }
            MangleChange::SetMark(_)
            | MangleChange::SaveMark(_)
            | MangleChange::RestoreMark(_)
            | MangleChange::Drop
            | MangleChange::Proxy(_) => {}
            MangleChange::Checksum => written.checksum = true,
        }
    }
    written
}

/// The same stands in packets at the end, by the policy's own words.
fn written_the_same(
    one: &Policy,
    other: &Policy,
    sample: &Sample,
    random: &mut Random,
) -> Result<(), String> {
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        for throw in 0..THROWS {
            for moment in [Moment::Arrival, Moment::Hook, Moment::Departure] {
                let written = |policy| written(policy, &packet, moment, throw);
                let (one, other) = (written(one), written(other));
                if one != other {
                    return Err(format!("{packet} becomes {one:?}, or {other:?}"));
                }
            }
        }
    }
    Ok(())
}

//! What lints say of random policies is true: of sets, by the spec; of packets, by both plain walkers.

use std::collections::BTreeMap;

use fwc::analysis::{BaseChain, Field, GaveUp, Space, Verdict};
use fwc::diag::{Code, Diagnostic, Sink};
use fwc::internals::expand::{Templates, expand};
use fwc::internals::resolve::resolve;
use fwc::internals::verify::{Spec, Verifier, packets, spec};
use fwc::iptables::{self, TableName};
use fwc::net::{Family, Hook, Packet, PerFamily, Protocol, State};
use fwc::policy::{self, DecidedBy, Policy};
use libtest_mimic::{Failed, Trial};

use crate::generate::{Random, Sample, sample};
use crate::promises::{is_possible, thrown_for};
use crate::views::{Compiled, compile, decide, number};

const PACKETS: usize = 150;
/// How often the circumstances of a packet are thrown_for anew.
const THROWS: u64 = 6;
/// The same where one packet must find all circumstances of a rule as it asks for them.
const MANY_THROWS: u64 = 100;

/// The test.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("linted::true_of_random_policies", true_of_all)]
}

fn true_of_all() -> Result<(), Failed> {
    let first = number("FWC_SEED", 0);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in first..first + number("FWC_POLICIES", 150) {
        let mut random = Random(seed);
        let mut sample = sample(&mut random);
        sample.text += &again(&sample.text, &mut random);
        let Ok(compiled) = compile(&sample.text) else {
            continue;
        };
        let mut sink = Sink::new();
        Verifier::new(&compiled.policy, &compiled.plan).lints(&mut sink)?;
        for finding in sink.iter() {
            let judged = judge(finding, &compiled, &sample, &mut random);
            let what = judged
                .map_err(|error| format!("seed {seed}: {error}\n{finding:#?}\n{}", sample.text))?;
            *seen.entry(what).or_default() += 1;
        }
    }
    println!("findings from seed {first}: {seen:?}");
    for wanted in [
        "shadowed",
        "redundant",
        "never-matches",
        "contradiction",
        "default-unreached",
        "world-open",
    ] {
        if !seen.contains_key(wanted) {
            return Err(format!("no finding of {wanted}: {seen:?}").into());
        }
    }
    Ok(())
}

/// Some of the rules once more, mostly with fewer keys, and now and then one that has no packet.
fn again(text: &str, random: &mut Random) -> String {
    let sections: Vec<&str> = text.split("\n[").collect();
    let rules = sections
        .iter()
        .filter_map(|section| section.strip_prefix("[rules]]\n"));
    let rules: Vec<&str> = rules.collect();
    let mut more = String::new();
    for _ in 0..random.below(4).min(rules.len()) {
        more += "[[rules]]\n";
        let mut chooses = false;
        for line in random.pick(&rules).lines() {
            let stays = line.starts_with("action") || line.starts_with("reject-with");
            if !line.starts_with("name") && (stays || !random.once_in(5)) {
                more += &format!("{line}\n");
                chooses |= ["from", "to", "source", "destination", "service"]
                    .iter()
                    .any(|key| line.starts_with(key));
            }
        }
        if !chooses {
            more += "from = \"any\"\n";
        }
    }
    if random.once_in(4) {
        more += "[[rules]]\nservice = \"ssh\"\nstate = \"new\"\ntcp-flags = \"syn,fin/syn,fin\"\n";
    }
    more
}

fn judge(
    finding: &Diagnostic,
    compiled: &Compiled,
    sample: &Sample,
    random: &mut Random,
) -> Result<&'static str, String> {
    let span = finding.primary.as_ref().map(|label| label.span);
    let rules = &compiled.policy.rules;
    let is_about = |rule: &policy::PolicyRule| {
        let state = rule.state.as_ref().and_then(|states| states.first());
        Some(rule.span) == span || (state.is_some() && state.map(|state| state.span) == span)
    };
    let rule = rules.iter().position(is_about);
    // What a nat entry opens to the world is judged with what becomes of packets on the way: tests/cli/lints.rs; the rest of
    // what is said of entries in `linted_entries`.
    let Policy {
        nat, mangle, raw, ..
    } = &compiled.policy;
    let entries = nat.iter().map(|entry| entry.span);
    let entries = entries.chain(mangle.iter().map(|entry| entry.span));
    let mut entries = entries.chain(raw.iter().map(|entry| entry.span));
    if rule.is_none() && entries.any(|entry| Some(entry) == span) {
        return Ok("of an entry");
    }
    let rule = rule.ok_or("it is about no rule")?;
    match finding.code {
        Code::Shadowed | Code::StateBelowEstablished
            if finding.secondary.is_empty() || counts(&rules[rule]) =>
        {
            // The preamble decides all of it; with its last rule a chain may lose that. Without a rule that counts others have
            // other buckets.
            never_decides(compiled, rule, sample, random, |_| true)?;
        }
        Code::Shadowed | Code::Redundant => {
            let without = without(&compiled.policy, rule).ok_or("the policy needs the rule")?;
            same(compiled, &without)?;
            walked_the_same(compiled, &without, sample, random)?;
        }
        Code::NeverMatches => {
            has_none(compiled, rule)?;
            never_decides(compiled, rule, sample, random, is_possible)?;
        }
        Code::Contradiction => contradicts(finding, compiled, rule)?,
        Code::DefaultUnreached => {
            let hook = Hook::ALL.into_iter().find(|hook| {
                let key = ["input", "forward", "output"][*hook as usize];
                finding.message.contains(&format!("the default of {key}"))
            });
            let hook = hook.ok_or("no hook is named")?;
            let families = compiled.policy.defaults.families.as_ref();
            // A family that the host does not have is closed by its default.
            let exists = |family| families.is_none_or(|families| families.value.has(family));
            for packet in (0..PACKETS).map(|_| sample.packet(random)) {
                if packet.hook == hook
                    && exists(packet.family)
                    && is_possible(&packet)
                    && decided_by(&compiled.policy, &packet, DecidedBy::Default)
                {
                    return Err(format!("it decides {packet}"));
                }
            }
        }
        Code::WorldOpen => world_open(finding, compiled, rule, random)?,
        code => return Err(format!("a finding of {}", code.as_str())),
    }
    Ok(finding.code.as_str())
}

fn counts(rule: &policy::PolicyRule) -> bool {
    rule.limit.is_some() || rule.connections.is_some()
}

/// The policy as it would be without a rule; `None` where it would be refused then.
fn without(policy: &Policy, rule: usize) -> Option<Compiled> {
    let mut policy = policy.clone();
    policy.rules[rule].enabled = false;
    with(policy)
}

/// A policy with its rules; `None` where it is refused.
pub fn with(policy: Policy) -> Option<Compiled> {
    let plan = resolve(&policy, &mut Sink::new())?;
    let templates = Templates::built_in(&mut Sink::new())?;
    let rendered = expand(&plan, &templates).ok()?;
    Some(Compiled {
        text: PerFamily::from_fn(|family| rendered.rules[family].text().to_owned()),
        sets: rendered.ipsets.clone(),
        policy,
        plan,
    })
}

/// Two policies do the same with every packet.
fn same(one: &Compiled, other: &Compiled) -> Result<(), String> {
    for family in Family::ALL {
        let space = Space::new(family);
        let (one, other) = (spec(&one.plan, &space), spec(&other.plan, &space));
        let (one, other) = (one.map_err(gave_up)?, other.map_err(gave_up)?);
        for hook in Hook::ALL {
            let place = (TableName::Filter, BaseChain::from(hook));
            let verdicts = |spec: &Spec| spec.behaviour.flow(&space, place).verdicts;
            let differ = space
                .differ(verdicts(&one), verdicts(&other))
                .map_err(gave_up)?;
            let witness = space.witness(differ, hook.into(), &[]).map_err(gave_up)?;
            if let Some(witness) = witness {
                return Err(format!("without it this differs: {}", witness.packet));
            }
        }
    }
    Ok(())
}

/// No packet that a kernel shows is the rule's.
fn has_none(compiled: &Compiled, rule: usize) -> Result<(), String> {
    for family in Family::ALL {
        let space = Space::new(family);
        for hook in Hook::ALL {
            let own = packets(&compiled.plan, &compiled.plan.rules[rule], &space, hook);
            let witness = space
                .witness(own.map_err(gave_up)?, hook.into(), &[])
                .map_err(gave_up)?;
            if let Some(witness) = witness.filter(|witness| witness.possible) {
                return Err(format!("it has {}", witness.packet));
            }
        }
    }
    Ok(())
}

/// No such packet is decided by the rule.
fn never_decides(
    compiled: &Compiled,
    rule: usize,
    sample: &Sample,
    random: &mut Random,
    such: impl Fn(&Packet) -> bool,
) -> Result<(), String> {
    let packets = (0..PACKETS).map(|_| sample.packet(random));
    let mut packets = packets.filter(such);
    match packets.find(|packet| decided_by(&compiled.policy, packet, DecidedBy::Rule(rule))) {
        Some(packet) => Err(format!("it decides {packet}")),
        None => Ok(()),
    }
}

pub fn gave_up(error: GaveUp) -> String {
    error.to_string()
}

/// Both walkers come to the same end with and without the rule.
fn walked_the_same(
    one: &Compiled,
    other: &Compiled,
    sample: &Sample,
    random: &mut Random,
) -> Result<(), String> {
    let (rules, others) = (one.beside_others(), other.beside_others());
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        for throw in 0..THROWS {
            let holds = |asked: policy::Circumstance<'_>| thrown_for(throw, asked, &packet);
            let says = |policy| policy::decide_when(policy, &packet, &holds).verdict;
            if says(&one.policy) != says(&other.policy) {
                return Err(format!("decide sees a difference: {packet}"));
            }
        }
        let family = packet.family;
        let ends = |compiled: &Compiled, rules: &PerFamily<iptables::Ruleset>| {
            compiled.walk(&rules[family], &packet).verdict
        };
        if ends(one, &rules) != ends(other, &others) {
            return Err(format!("the rules differ: {packet}"));
        }
    }
    Ok(())
}

/// Whether a packet is decided by this, under any of the circumstances.
fn decided_by(policy: &Policy, packet: &Packet, by: DecidedBy) -> bool {
    (0..THROWS).any(|throw| {
        let holds = |asked: policy::Circumstance<'_>| thrown_for(throw, asked, packet);
        policy::decide_when(policy, packet, &holds).by == by
    })
}

/// A packet of both rules that the first accepts, and the second would have denied.
fn contradicts(finding: &Diagnostic, compiled: &Compiled, second: usize) -> Result<(), String> {
    let span = finding.secondary.first().map(|label| label.span);
    let rules = &compiled.policy.rules;
    let first = rules.iter().position(|rule| Some(rule.span) == span);
    let first = first.ok_or("no other rule is named")?;
    let mut alone = compiled.policy.clone();
    alone.rules[first].enabled = false;
    for family in Family::ALL {
        let space = Space::new(family);
        for hook in Hook::ALL {
            let [one, two] = [first, second]
                .map(|rule| packets(&compiled.plan, &compiled.plan.rules[rule], &space, hook));
            let both = space.and(one.map_err(gave_up)?, two.map_err(gave_up)?);
            let spec = spec(&compiled.plan, &space).map_err(gave_up)?;
            let flow = spec
                .behaviour
                .flow(&space, (TableName::Filter, hook.into()));
            let accepted = space
                .decided(flow.verdicts, &Verdict::Accept)
                .map_err(gave_up)?;
            let both = space
                .and(both.map_err(gave_up)?, accepted)
                .map_err(gave_up)?;
            let mut left = both;
            // Some of them others may have accepted before.
            for _ in 0..20 {
                let witness = space.witness(left, hook.into(), &[]).map_err(gave_up)?;
                let Some(witness) = witness else { break };
                let packet = &witness.packet;
                if decided_by(&compiled.policy, packet, DecidedBy::Rule(first))
                    && decided_by(&alone, packet, DecidedBy::Rule(second))
                {
                    return Ok(());
                }
                // Elsewhere, then: not where another rule comes first, nor in this state.
                let other = match decide(&compiled.policy, packet).by {
                    DecidedBy::Rule(other) if other != first => {
                        packets(&compiled.plan, &compiled.plan.rules[other], &space, hook)
                    }
                    _ => space.states(&[packet.state]),
                };
                left = space
                    .minus(left, other.map_err(gave_up)?)
                    .map_err(gave_up)?;
            }
        }
    }
    Err("no packet of both was found".to_owned())
}

/// From more than a third of some addresses of the world a new packet to the port is accepted.
fn world_open(
    finding: &Diagnostic,
    compiled: &Compiled,
    rule: usize,
    random: &mut Random,
) -> Result<(), String> {
    let shown = finding.message.split(['(', ')']).nth(1);
    let (protocol, port) = shown.and_then(|it| it.split_once(' ')).ok_or("no port")?;
    let port: u16 = port.parse().map_err(|_| "no port")?;
    let protocol = if protocol == "tcp" {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let mut most = 0;
    for family in Family::ALL {
        let space = Space::new(family);
        for hook in [Hook::Input, Hook::Forward] {
            let own = packets(&compiled.plan, &compiled.plan.rules[rule], &space, hook);
            let to_port = space.destination_port(port, port).map_err(gave_up)?;
            let new = space.as_state(State::New).map_err(gave_up)?;
            let protocol = space.protocol(protocol).map_err(gave_up)?;
            let asked = space
                .every([own.map_err(gave_up)?, protocol, to_port, new])
                .map_err(gave_up)?;
            let mut open = 0;
            for _ in 0..60 {
                let low = u128::from(random.below(1 << 30) as u64);
                let address = match family {
                    Family::V4 => (1 << 24) + low * 3 % (223 << 24),
                    Family::V6 => (0x2000 + low % 0x2000) << 112 | low,
                };
                let from = space.range(Field::Source, address, address);
                let mut set = space.and(asked, from.map_err(gave_up)?).map_err(gave_up)?;
                // An earlier rule may have some of the packets: the next one is not of that rule.
                for _ in 0..4 {
                    let witness = space.witness(set, hook.into(), &[]).map_err(gave_up)?;
                    let Some(witness) = witness.filter(|it| it.possible) else {
                        break;
                    };
                    let decisions = (0..MANY_THROWS).map(|throw| {
                        let packet = &witness.packet;
                        let holds =
                            |asked: policy::Circumstance<'_>| thrown_for(throw, asked, packet);
                        policy::decide_when(&compiled.policy, &witness.packet, &holds)
                    });
                    let decisions: Vec<_> = decisions.collect();
                    let accepts =
                        |one: &policy::Decision| one.verdict == policy::PolicyVerdict::Accept;
                    if decisions.iter().any(accepts) {
                        open += 1;
                        break;
                    }
                    let earlier = decisions.iter().find_map(|one| match one.by {
                        policy::DecidedBy::Rule(other) if other != rule => Some(other),
                        _ => None,
                    });
                    let Some(earlier) = earlier else {
                        break;
                    };
                    let theirs = &compiled.plan.rules[earlier];
                    let theirs = packets(&compiled.plan, theirs, &space, hook);
                    set = space
                        .minus(set, theirs.map_err(gave_up)?)
                        .map_err(gave_up)?;
                }
            }
            most = most.max(open);
        }
    }
    match most > 20 {
        true => Ok(()),
        false => Err(format!("open to {most} of 60 addresses")),
    }
}

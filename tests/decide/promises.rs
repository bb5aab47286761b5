//! The tests of random policies: what is proven of them is what `policy::decide` says of packets at the borders.
//!
//! Which packets fit a test is asked of `decide` too: they are those that a rule with its keys would have in a policy
//! of no other rule.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use fwc::analysis::Space;
use fwc::diag::Sink;
use fwc::files::Access;
use fwc::net::{Family, Packet, State};
use fwc::policy::{self, Assume, Circumstance, DecidedBy, Expect, Policy, Test, Verdict};
use fwc::source::SourceMap;
use fwc::verify::{Outcome, test};
use libtest_mimic::{Failed, Trial};

use crate::generate::{PORT_LITERALS, Random, Sample, sample};
use crate::views::{compile, number};

const PACKETS: usize = 400;
/// How often the circumstances of a packet are thrown anew.
const THROWS: u64 = 8;
/// How often they are thrown to meet those of one packet.
const MANY_THROWS: u64 = 4000;

/// The tests.
pub fn all() -> Vec<Trial> {
    let mut tests = vec![Trial::test("promises::agree_on_random_policies", agree)];
    tests.extend(CASES.iter().map(|(name, keys, wanted)| {
        Trial::test(format!("promises::{name}"), move || case(keys, wanted))
    }));
    tests
}

const POLICY: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["192.0.2.0/24", "2001:db8::/32"] }
[defaults]
antispoof = true
forward = "reject"
[addresses]
office = { include = ["203.0.113.0/24", "2001:db8:ffff::/48"], set = true }
banned = { set = "dynamic" }
[[rules]]
source = "banned"
action = "drop"
[[rules]]
service = "https"
[[rules]]
source = "office"
service = "ssh"
limit = "10/second"
[[rules]]
from = "lan"
to = "wan"
service = "https"
schedule = { days = ["mon"] }
"#;

/// The keys of a test, and what becomes of it: `holds`, `nothing`, or who decides the packet that breaks it.
const CASES: [(&str, &str, &str); 14] = [
    (
        "a_dynamic_set",
        "service = 'https'\nexpect = 'accept'",
        "Rule(0)",
    ),
    (
        "an_empty_set",
        "service = 'https'\nexpect = 'accept'\nassume = { banned = 'empty' }",
        "holds",
    ),
    (
        "anything_in_a_set",
        "service = 'https'\nexpect = 'accept'\nassume = { banned = 'anything' }",
        "Rule(0)",
    ),
    (
        "members_of_an_empty_set",
        "source = 'banned'\nexpect = 'drop'\nassume = { banned = 'empty' }",
        "nothing",
    ),
    (
        "members_of_a_set",
        "source = 'banned'\nservice = 'https'\nexpect = 'drop'",
        "holds",
    ),
    (
        "members_of_a_known_set",
        "source = '!office'\nservice = 'ssh'\nexpect = 'drop'",
        "holds",
    ),
    (
        "a_limit",
        "source = 'office'\nservice = 'ssh'\nexpect = 'accept'\nassume = { banned = 'empty' }",
        "Rule(2)",
    ),
    (
        "a_time",
        "from = 'lan'\nto = 'wan'\nservice = 'https'\nexpect = 'accept'",
        "Default",
    ),
    (
        "no_lies",
        "from = 'wan'\nservice = 'https'\nexpect = 'accept'\nassume = { banned = 'empty' }",
        "holds",
    ),
    (
        "a_lie_by_name",
        "from = 'wan'\nsource = '192.0.2.1'\nscope = 'ipv4'\nservice = 'https'\nexpect = 'accept'\n\
         assume = { banned = 'empty' }",
        "Antispoof",
    ),
    ("deny", "from = 'wan'\nto = 'lan'\nexpect = 'deny'", "holds"),
    (
        "reject",
        "from = 'wan'\nto = 'lan'\nexpect = 'reject'",
        "holds",
    ),
    (
        "not_drop",
        "from = 'wan'\nto = 'lan'\nexpect = 'drop'",
        "Default",
    ),
    (
        "of_a_state",
        "state = 'established'\nservice = 'http'\nexpect = 'accept'",
        "holds",
    ),
];

fn case(keys: &str, wanted: &str) -> Result<(), Failed> {
    let keys = keys.replace('\'', "\"");
    let text = format!("{POLICY}[[tests]]\nname = \"promise\"\n{keys}\n");
    let compiled = compile(&text)?;
    let outcome = test(&compiled.policy, &compiled.plan, &compiled.read()).remove(0);
    let became = match &outcome {
        Outcome::Holds => "holds".to_owned(),
        Outcome::FitsNothing => "nothing".to_owned(),
        Outcome::Fails(walked) => format!("{:?}", walked.policy.decision.by),
        Outcome::Unclear(_) | Outcome::GaveUp(..) => "unclear".to_owned(),
    };
    match became == wanted {
        true => Ok(()),
        false => Err(format!("{became}, not {wanted}: {outcome:#?}").into()),
    }
}

fn agree() -> Result<(), Failed> {
    let first = number("FWC_SEED", 0);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in first..first + number("FWC_POLICIES", 80) {
        let mut random = Random(seed);
        let sample = sample(&mut random);
        let Ok(plain) = compile(&sample.text) else {
            continue;
        };
        let policy = &plain.policy;
        for _ in 0..4 {
            let written = written(&mut random, &sample, policy);
            let text = format!("{}\n{written}", sample.text);
            match judge(&text, &sample, &mut random) {
                Ok(what) => *seen.entry(what).or_default() += 1,
                Err(error) => return Err(format!("seed {seed}: {error}\n{text}").into()),
            }
        }
    }
    println!("tests from seed {first}: {seen:?}");
    for wanted in ["holds, and packets fit", "fails", "fits nothing"] {
        if seen.get(wanted).is_none_or(|times| *times < 3) {
            return Err(format!("no test that {wanted}: {seen:?}").into());
        }
    }
    Ok(())
}

/// A test of names that the policy has.
pub fn written(random: &mut Random, sample: &Sample, policy: &Policy) -> String {
    let mut text = String::from("[[tests]]\nname = \"promise\"\n");
    let mut places: Vec<&str> = vec!["any", "host"];
    places.extend(policy.interfaces.names());
    places.extend(policy.zones.names());
    let groups: Vec<&str> = policy.addresses.names().collect();
    let mut key = |name: &str, value: &str| text += &format!("{name} = {value}\n");
    for side in ["from", "to"] {
        if random.once_in(2) {
            key(side, &format!("{:?}", random.pick(&places)));
        }
    }
    for side in ["source", "destination"] {
        if !groups.is_empty() && random.once_in(5) {
            let some = random.some(&groups, 2);
            match random.below(6) {
                0 => key(side, &format!("\"!{}\"", some[0])),
                1 => key(side, &format!("{{ not = {some:?} }}")),
                _ => key(side, &format!("{some:?}")),
            }
        }
    }
    if random.once_in(2) {
        let services = [&PORT_LITERALS[..], &["ssh", "ping", "dns"]].concat();
        key("service", &format!("{:?}", random.some(&services, 2)));
    }
    if random.once_in(3) {
        let states = ["new", "established", "related", "invalid", "untracked"];
        key("state", &format!("{:?}", random.some(&states, 2)));
    }
    if random.once_in(4) {
        key("scope", &format!("{:?}", random.pick(&["ipv4", "ipv6"])));
    }
    if groups.contains(&"banned") && random.once_in(2) {
        let assume = *random.pick(&["empty", "anything"]);
        key("assume", &format!("{{ banned = \"{assume}\" }}"));
    }
    // What is expected is mostly what becomes of a packet.
    let verdict = policy::decide(policy, &sample.packet(random)).verdict;
    let expect = match verdict {
        Verdict::Accept | Verdict::Continue => "accept",
        Verdict::Custom => panic!("no policy here has a custom rule"),
        Verdict::Drop => *random.pick(&["drop", "deny"]),
        Verdict::Reject(_) => *random.pick(&["reject", "deny"]),
    };
    key("expect", &format!("\"{expect}\""));
    text
}

fn judge(text: &str, sample: &Sample, random: &mut Random) -> Result<&'static str, String> {
    let Ok(compiled) = compile(text) else {
        return Ok("refused");
    };
    let outcome = test(&compiled.policy, &compiled.plan, &compiled.read()).remove(0);
    let promise = Promise::new(&compiled.policy);
    let (mut fitting, mut broken) = (0, None);
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        if !is_possible(&packet) {
            continue;
        }
        for throw in 0..THROWS {
            if promise.fits(&packet, throw) {
                fitting += 1;
                if !promise.is_kept(&packet, throw) {
                    broken = Some(packet.clone());
                }
            }
        }
    }
    match outcome {
        Outcome::Holds => match broken {
            None if fitting > 0 => Ok("holds, and packets fit"),
            None => Ok("holds, no packet was met"),
            Some(packet) => Err(format!("proven, and broken by {packet:?}")),
        },
        Outcome::FitsNothing if fitting == 0 => Ok("fits nothing"),
        Outcome::FitsNothing => Err("packets fit that the proof does not see".to_owned()),
        Outcome::Fails(walked) => {
            let packet = &walked.packet;
            let shown = is_possible(packet)
                && (0..MANY_THROWS)
                    .any(|throw| promise.fits(packet, throw) && !promise.is_kept(packet, throw));
            match shown {
                true => Ok("fails"),
                false => Err(format!("{walked:#?} breaks nothing")),
            }
        }
        other => Err(format!("{other:?}")),
    }
}

/// Whether a kernel can show the packet.
fn is_possible(packet: &Packet) -> bool {
    thread_local! {
        static SPACES: [Space; 2] = Family::ALL.map(Space::new);
    }
    SPACES.with(|spaces| {
        let space = &spaces[usize::from(packet.family == Family::V6)];
        let valid = space.valid(packet.hook.into()).unwrap();
        space.contains(valid, space.values_of(packet, |_| false))
    })
}

/// A policy's only test, and a policy of no other rule: it accepts what the test's keys have.
struct Promise<'p> {
    policy: &'p Policy,
    test: &'p Test,
    alone: Policy,
}

impl<'p> Promise<'p> {
    fn new(policy: &'p Policy) -> Self {
        let test = &policy.tests[0];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fwc.toml");
        let nothing = "version = 1\n[defaults]\noutput = \"drop\"\nloopback = false\nestablished = false\n\
            icmp = \"none\"\ninvalid = \"off\"\ndhcp-client = false\n";
        std::fs::write(&path, nothing).unwrap();
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let nothing = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
        let alone = Policy {
            rules: vec![test.packets.clone()],
            defaults: nothing.defaults,
            ..policy.clone()
        };
        Self {
            policy,
            test,
            alone,
        }
    }

    fn fits(&self, packet: &Packet, throw: u64) -> bool {
        let empty = self.test.assume.iter();
        let mut empty = empty.filter(|(_, assume)| *assume == Assume::Empty);
        let is_assumed = empty.all(|(name, _)| {
            [true, false].into_iter().all(|source| {
                let name = name.value.as_str();
                !thrown(throw, Circumstance::InSet { name, source })
            })
        });
        let state = self.test.packets.state.is_some() || packet.state == State::New;
        let holds = |asked: Circumstance<'_>| thrown(throw, asked);
        let has = || policy::decide_when(&self.alone, packet, &holds).by == DecidedBy::Rule(0);
        is_assumed && state && has() && !self.is_left_out(packet, throw)
    }

    /// Whether no rule is asked about it on lo, or `antispoof` takes a source for a lie that the test does not name.
    fn is_left_out(&self, packet: &Packet, throw: u64) -> bool {
        let loopback = self.policy.defaults.loopback.as_ref();
        let devices = [&packet.in_device, &packet.out_device];
        if loopback.is_none_or(|flag| flag.value) && devices.contains(&&Some("lo".to_owned())) {
            return true;
        }
        let source = self.test.packets.source.as_ref();
        let unsaid = source.is_none_or(|source| source.negated);
        let holds = |asked: Circumstance<'_>| {
            !matches!(asked, Circumstance::FromIpsec) && thrown(throw, asked)
        };
        unsaid && policy::decide_when(self.policy, packet, &holds).by == DecidedBy::Antispoof
    }

    fn is_kept(&self, packet: &Packet, throw: u64) -> bool {
        let holds = |asked: Circumstance<'_>| thrown(throw, asked);
        let verdict = policy::decide_when(self.policy, packet, &holds).verdict;
        match self.test.expect.as_ref().unwrap().value {
            Expect::Accept => verdict == Verdict::Accept,
            Expect::Drop => verdict == Verdict::Drop,
            Expect::Reject => matches!(verdict, Verdict::Reject(_)),
            Expect::Deny => matches!(verdict, Verdict::Drop | Verdict::Reject(_)),
        }
    }
}

/// Whether a circumstance holds: by chance, but always the same in one throw.
fn thrown(throw: u64, asked: Circumstance<'_>) -> bool {
    let words = match asked {
        Circumstance::Time(schedule) => {
            format!("{:?}{:?}{}", schedule.days, schedule.hours, schedule.local)
        }
        other => format!("{other:?}"),
    };
    match throw {
        0 => asked.usual(),
        1 => true,
        2 => false,
        _ => {
            let mut hasher = DefaultHasher::new();
            (throw, words).hash(&mut hasher);
            hasher.finish() & 1 == 1
        }
    }
}

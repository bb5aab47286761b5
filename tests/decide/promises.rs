//! The tests of random policies: what is proven of them is what `policy::decide` says of packets at the borders.
//!
//! Which packets fit a test is asked of `decide` and `follow` too: as they arrive they are those that a rule with its keys would
//! have in a policy of no other rule, and where they go in the end is where such a rule's `to` says.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use fwc::analysis::Space;
use fwc::diag::Sink;
use fwc::files::Access;
use fwc::internals::resolve::Plan;
use fwc::internals::verify::{TestOutcome, test};
use fwc::net::{
    AddressRange, Family, Hook, Packet, PortRange, SetEnds, State, Translated, address_of,
    number_of,
};
use fwc::policy::{
    self, Assume, Chance, Circumstance, DecidedBy, Expect, GroupKind, NewAddress, Policy,
    PolicyRule, PolicyTest, PolicyTrace, PolicyVerdict, PolicyZone,
};
use fwc::source::{Located, SourceMap};
use libtest_mimic::{Failed, Trial};

use crate::generate::{self, PORT_LITERALS, Random, Sample, sample};
use crate::views::{compile, decide, number};

const PACKETS: usize = 400;
/// How often the circumstances of a packet are thrown anew.
const THROWS: u64 = 8;
/// How often they are thrown to meet those of one packet.
const MANY_THROWS: u64 = 4000;

/// The tests.
pub fn all() -> Vec<Trial> {
    let mut tests = vec![Trial::test("promises::agree_on_random_policies", agree)];
    for (policy, cases) in [(POLICY, &CASES[..]), (TRANSLATING, &TRANSLATED)] {
        tests.extend(cases.iter().map(|(name, keys, wanted)| {
            Trial::test(format!("promises::{name}"), move || {
                case(policy, keys, wanted)
            })
        }));
    }
    tests
}

const POLICY: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = ["192.0.2.0/24", "2001:db8::/32"] }
[zones]
partner = { networks = "198.51.100.0/24" }
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
const CASES: [(&str, &str, &str); 15] = [
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
    // A connection from before, to where no rule of now tells.
    (
        "translated_before",
        "from = 'host'\nto = 'partner'\nscope = 'ipv4'\nstate = 'related'\nexpect = 'drop'",
        "Default",
    ),
];

/// Packets that become others on their way.
const TRANSLATING: &str = r#"version = 1
[interfaces]
wan = "eth0"
lan = { device = "eth1", networks = "192.168.1.0/24" }
dmz = { device = "eth2", networks = "10.0.0.0/24" }
[[nat]]
type = "dnat"
from = "wan"
to = "lan"
service = "8080/tcp"
to-destination = "192.168.1.5:80"
[[nat]]
type = "dnat"
from = "wan"
destination = "203.0.113.9"
service = "smtp"
to-destination = ["10.0.0.25", "10.0.0.26"]
accept = false
[[nat]]
type = "redirect"
from = "lan"
destination = { not = "10.0.0.0/24" }
service = "http"
to-port = 3128
scope = "ipv4"
[[mangle]]
type = "mark"
from = "wan"
service = "2222/tcp"
set = "0x1"
[[raw]]
type = "notrack"
from = "lan"
service = "dns"
[[rules]]
from = "wan"
to = "dmz"
destination = "10.0.0.25"
service = "smtp"
[[rules]]
mark = "0x1"
service = "2222/tcp"
[[rules]]
from = "lan"
service = "dns"
[[rules]]
from = "lan"
to = "wan"
"#;

const TRANSLATED: [(&str, &str, &str); 15] = [
    (
        "a_forward_by_a_named_address",
        "from = 'wan'\nto = 'lan'\ndestination = '203.0.113.1'\nservice = '8080/tcp'\nexpect = 'accept'",
        "holds",
    ),
    (
        "a_forward_by_an_address_of_this_host",
        "from = 'wan'\nto = 'lan'\ndestination = 'host'\nservice = '8080/tcp'\nscope = 'ipv4'\nexpect = 'accept'",
        "holds",
    ),
    (
        "a_forward_by_whatever_address",
        "from = 'wan'\nto = 'lan'\nservice = '8080/tcp'\nscope = 'ipv4'\nexpect = 'accept'",
        "Default",
    ),
    (
        "a_forward_by_an_address_of_the_lan",
        "from = 'wan'\nto = 'lan'\ndestination = '192.168.1.7'\nservice = '8080/tcp'\nexpect = 'accept'",
        "Default",
    ),
    (
        "the_port_in_front",
        "from = 'wan'\nto = 'lan'\nservice = '8080/tcp'\nexpect = 'drop'",
        "Nat(0)",
    ),
    (
        "the_port_behind",
        "from = 'wan'\nto = 'lan'\nservice = 'http'\nexpect = 'drop'",
        "holds",
    ),
    (
        "where_a_forward_does_not_end",
        "from = 'wan'\nto = 'dmz'\nservice = '8080/tcp'\nexpect = 'drop'",
        "holds",
    ),
    (
        "a_forward_that_a_rule_accepts_in_part",
        "from = 'wan'\nto = 'dmz'\ndestination = '203.0.113.9'\nservice = 'smtp'\nexpect = 'accept'",
        "Default",
    ),
    (
        "a_forward_that_no_rule_accepts",
        "from = 'wan'\nto = 'lan'\ndestination = '203.0.113.9'\nservice = 'smtp'\nexpect = 'drop'",
        "holds",
    ),
    (
        "a_redirect",
        "from = 'lan'\nservice = 'http'\ndestination = '198.51.100.1'\nexpect = 'accept'",
        "holds",
    ),
    (
        "what_is_redirected_is_not_forwarded",
        "from = 'lan'\nto = 'wan'\nservice = 'http'\ndestination = '198.51.100.1'\nexpect = 'accept'",
        "nothing",
    ),
    (
        "what_is_not_redirected",
        "from = 'lan'\nto = 'wan'\nservice = 'http'\ndestination = '10.0.0.1'\nexpect = 'accept'",
        "holds",
    ),
    (
        "a_mark_on_the_way",
        "from = 'wan'\nservice = '2222/tcp'\nexpect = 'accept'",
        "holds",
    ),
    (
        "no_mark_on_the_way",
        "from = 'dmz'\nservice = '22/tcp'\nexpect = 'drop'",
        "holds",
    ),
    (
        "what_is_not_tracked_on_the_way",
        "from = 'lan'\nservice = 'dns'\nexpect = 'accept'",
        "holds",
    ),
];

fn case(policy: &str, keys: &str, wanted: &str) -> Result<(), Failed> {
    let keys = keys.replace('\'', "\"");
    let text = format!("{policy}[[tests]]\nname = \"promise\"\n{keys}\n");
    let compiled = compile(&text)?;
    let outcome = test(&compiled.policy, &compiled.plan, &compiled.read()).remove(0);
    let became = match &outcome {
        TestOutcome::Holds => "holds".to_owned(),
        TestOutcome::FitsNothing => "nothing".to_owned(),
        TestOutcome::Fails(walked) => format!("{:?}", walked.policy.decision.by),
        TestOutcome::Unclear(_) | TestOutcome::GaveUp(..) => "unclear".to_owned(),
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
        } else if places.len() > 2 && random.once_in(6) {
            key(
                side,
                &format!("{{ not = {:?} }}", random.some(&places[2..], 2)),
            );
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
        let some = random.some(&services, 2);
        match random.below(5) {
            0 => key("service", &format!("{{ not = {some:?} }}")),
            _ => key("service", &format!("{some:?}")),
        }
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
    let verdict = decide(policy, &sample.packet(random)).verdict;
    let expect = match verdict {
        PolicyVerdict::Accept | PolicyVerdict::Continue => "accept",
        PolicyVerdict::Custom => panic!("no policy here has a custom rule"),
        PolicyVerdict::Drop => *random.pick(&["drop", "deny"]),
        PolicyVerdict::Reject(_) => *random.pick(&["reject", "deny"]),
    };
    key("expect", &format!("\"{expect}\""));
    text
}

fn judge(text: &str, sample: &Sample, random: &mut Random) -> Result<&'static str, String> {
    let Ok(compiled) = compile(text) else {
        return Ok("refused");
    };
    let outcome = test(&compiled.policy, &compiled.plan, &compiled.read()).remove(0);
    let promise = Promise::new(&compiled.policy, &compiled.plan);
    let (mut fitting, mut broken) = (0, None);
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        if !is_possible(&packet) {
            continue;
        }
        for throw in 0..THROWS {
            let luck = Luck::new(throw, &packet);
            if promise.fits(&packet, &luck) {
                fitting += 1;
                if !promise.is_kept(&packet, &luck) {
                    broken = Some(packet.clone());
                }
            }
        }
    }
    match outcome {
        TestOutcome::Holds => match broken {
            None if fitting > 0 => Ok("holds, and packets fit"),
            None => Ok("holds, no packet was met"),
            Some(packet) => Err(format!("proven, and broken by {packet:?}")),
        },
        TestOutcome::FitsNothing if fitting == 0 => Ok("fits nothing"),
        TestOutcome::FitsNothing => Err("packets fit that the proof does not see".to_owned()),
        TestOutcome::Fails(walked) => {
            let packet = &walked.packet;
            // A broadcast comes to INPUT without being sent to an address of this host.
            let mut when = walked.when.iter();
            let is_broadcast = packet.hook == Hook::Input
                && when.any(|(name, holds)| name == "goes to an address of this host" && !holds);
            let shown = is_possible(packet)
                && (0..MANY_THROWS).any(|throw| {
                    let luck = Luck {
                        chosen: walked.became.as_ref().map(|became| &became.packet),
                        here: is_broadcast.then_some(false),
                        is_broadcast,
                        ..Luck::new(throw, packet)
                    };
                    promise.fits(packet, &luck) && !promise.is_kept(packet, &luck)
                });
            match shown {
                true => Ok("fails"),
                false => Err(format!("{walked:#?} breaks nothing")),
            }
        }
        other => Err(format!("{other:?}")),
    }
}

/// Whether a kernel can show the packet.
pub fn is_possible(packet: &Packet) -> bool {
    thread_local! {
        static SPACES: [Space; 2] = Family::ALL.map(Space::new);
    }
    SPACES.with(|spaces| {
        let space = &spaces[usize::from(packet.family == Family::V6)];
        let valid = space.valid(packet.hook.into()).unwrap();
        space.contains(valid, space.values_of(packet, |_| false))
    })
}

/// A policy's only test, and two policies of no other rule: they accept what the test's keys have as it arrives, and where it
/// goes in the end.
struct Promise<'p> {
    policy: &'p Policy,
    plan: &'p Plan,
    test: &'p PolicyTest,
    nothing: Policy,
}

impl<'p> Promise<'p> {
    fn new(policy: &'p Policy, plan: &'p Plan) -> Self {
        let test = &policy.tests[0];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fwc.toml");
        let nothing = "version = 1\n[defaults]\noutput = \"drop\"\nloopback = false\nestablished = false\n\
            icmp = \"none\"\ninvalid = \"off\"\ndhcp-client = false\n";
        std::fs::write(&path, nothing).unwrap();
        let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
        let nothing = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
        let nothing = Policy {
            defaults: nothing.defaults,
            nat: Vec::new(),
            mangle: Vec::new(),
            raw: Vec::new(),
            ..policy.clone()
        };
        Self {
            policy,
            plan,
            test,
            nothing,
        }
    }

    /// Whether a rule alone has a packet.
    fn has(&self, rule: &PolicyRule, packet: &Packet, luck: &Luck<'_>) -> bool {
        let alone = Policy {
            rules: vec![rule.clone()],
            ..self.nothing.clone()
        };
        let holds = |asked: Circumstance<'_>| luck.holds(asked, packet);
        policy::decide_when(&alone, packet, &holds).by == DecidedBy::Rule(0)
    }

    /// The keys of what arrives, and of what goes somewhere in the end.
    fn halves(&self, hook: Hook) -> Option<(PolicyRule, PolicyRule)> {
        let keys = &self.test.packets;
        let name = |name: &str| Located::new(name.to_owned(), keys.span);
        let any_or_host = |host: bool| Some(vec![name(if host { "host" } else { "any" })]);
        let from = keys.from.clone().unwrap_or_else(|| vec![name("any")]);
        let only_host = from.iter().all(|place| place.value == "host");
        let to = keys.to.clone().unwrap_or_else(|| {
            let anywhere = only_host || keys.not_to.is_some();
            vec![name(if anywhere { "any" } else { "host" })]
        });
        let (comes, goes) = (hook == Hook::Output, hook == Hook::Input);
        let side = |all: &[Located<String>], host: bool| -> Vec<Located<String>> {
            let own = all.iter().filter(|place| (place.value == "host") == host);
            own.cloned().collect()
        };
        let (from, to) = (side(&from, comes), side(&to, goes));
        if from.is_empty() || to.is_empty() {
            return None;
        }
        let arrives = PolicyRule {
            from: Some(from),
            to: any_or_host(goes),
            not_to: None,
            ..keys.clone()
        };
        let ends = PolicyRule {
            from: any_or_host(comes),
            not_from: None,
            to: Some(to),
            source: None,
            destination: None,
            service: None,
            not_service: None,
            state: None,
            ..keys.clone()
        };
        Some((arrives, ends))
    }

    fn fits(&self, packet: &Packet, luck: &Luck<'_>) -> bool {
        let Some((arrives, ends)) = self.halves(packet.hook) else {
            return false;
        };
        let empty = self.test.assume.iter();
        let mut empty = empty.filter(|(_, assume)| *assume == Assume::Empty);
        let is_assumed = empty.all(|(name, _)| {
            let name = name.value.as_str();
            let group = &self.policy.addresses.get(name).unwrap().value;
            let GroupKind::Dynamic(set) = group.kind else {
                panic!("{name} is no dynamic set");
            };
            SetEnds::all(set.kind).into_iter().all(|ends| {
                let asked = Circumstance::InSet { name, ends };
                ![false, true]
                    .into_iter()
                    .any(|moved| luck.thrown(asked, moved))
            })
        });
        let state = self.test.packets.state.is_some() || packet.state == State::New;
        if !is_assumed || !state || !self.has(&arrives, packet, luck) {
            return false;
        }
        // What is new was never translated.
        if packet.state == State::New && packet.translated != Translated::default() {
            return false;
        }
        let way = policy::follow(self.policy, packet, 0, luck);
        let stopped = way.decision.by == DecidedBy::Antispoof;
        let goes = self.has(&ends, if stopped { packet } else { &way.packet }, luck);
        goes && is_routed(&way, packet, luck)
            && !self.is_left_out(packet, luck)
            && (luck.elsewhere || !self.is_meant_otherwise(packet, luck))
    }

    /// Whether no rule is asked about it on lo, or `antispoof` takes a source for a lie that the test does not name.
    fn is_left_out(&self, packet: &Packet, luck: &Luck<'_>) -> bool {
        let defaults = &self.policy.defaults;
        let written = |keys: &policy::PolicyFamilyDefaults| {
            let flag = keys.loopback[packet.hook].as_ref();
            flag.map(|flag| flag.value)
        };
        let loopback = written(&defaults.own[packet.family]).or(written(&defaults.both));
        let devices = [&packet.in_device, &packet.out_device];
        if loopback.unwrap_or(defaults.no_preamble.is_none())
            && devices.contains(&&Some("lo".to_owned()))
        {
            return true;
        }
        let source = self.test.packets.source.as_ref();
        let unsaid = source.is_none_or(|source| source.negated);
        // From a zone behind IPsec any source may come.
        let mut from = self.test.packets.from.iter().flatten();
        let from_ipsec = from.any(|place| is_behind_ipsec(self.policy, &place.value));
        let holds = |asked: Circumstance<'_>| {
            (from_ipsec || !matches!(asked, Circumstance::FromIpsec)) && luck.holds(asked, packet)
        };
        unsaid && policy::decide_when(self.policy, packet, &holds).by == DecidedBy::Antispoof
    }

    /// Whether the test names the destination, expects that it passes, and it would do if that were this host's.
    fn is_meant_otherwise(&self, packet: &Packet, luck: &Luck<'_>) -> bool {
        let named = self.test.packets.destination.as_ref();
        let accept = self.test.expect.as_ref().unwrap().value == Expect::Accept;
        if !accept || named.is_none_or(|named| named.negated) || luck.is_here(false) {
            return false;
        }
        let number = number_of(packet.destination);
        let has = |range: &AddressRange| {
            range.family == packet.family && (range.first..=range.last).contains(&number)
        };
        let mut interfaces = self.plan.interfaces.iter().flat_map(|it| &it.networks);
        let members = self.plan.zones.iter().flat_map(|zone| &zone.members);
        let mut zones = members.filter_map(|member| member.networks.as_ref());
        if interfaces.any(has) || zones.any(|set| set.family(packet.family).contains(number)) {
            return false;
        }
        self.fits(
            packet,
            &Luck {
                here: Some(true),
                elsewhere: true,
                ..*luck
            },
        )
    }

    fn is_kept(&self, packet: &Packet, luck: &Luck<'_>) -> bool {
        let verdict = policy::follow(self.policy, packet, 0, luck)
            .decision
            .verdict;
        match self.test.expect.as_ref().unwrap().value {
            Expect::Accept => verdict == PolicyVerdict::Accept,
            Expect::Drop => verdict == PolicyVerdict::Drop,
            Expect::Reject => matches!(verdict, PolicyVerdict::Reject(_)),
            Expect::Deny => matches!(verdict, PolicyVerdict::Drop | PolicyVerdict::Reject(_)),
        }
    }
}

/// Whether routing can take the packet to its hook: what is for this host is not forwarded.
fn is_routed(way: &PolicyTrace, packet: &Packet, luck: &Luck<'_>) -> bool {
    let redirected = way
        .translated
        .is_some_and(|end| end.address == NewAddress::ThisHost);
    let moved = way.packet.destination != packet.destination;
    match packet.hook {
        Hook::Output => true,
        Hook::Forward => !redirected && !luck.is_here(moved),
        Hook::Input => luck.is_here(moved) || luck.is_broadcast && !moved,
    }
}

/// What a packet meets that it does not tell: by chance, but always the same in one throw.
#[derive(Clone, Copy)]
pub struct Luck<'a> {
    throw: u64,
    /// The packet before anything changed it.
    first: &'a Packet,
    /// Where a choice of several ends, when that is wanted.
    chosen: Option<&'a Packet>,
    /// Whether the first destination is this host's, when that is wanted.
    here: Option<bool>,
    elsewhere: bool,
    /// Whether INPUT has the packet although its destination is not an address of this host.
    is_broadcast: bool,
}

impl<'a> Luck<'a> {
    pub fn new(throw: u64, first: &'a Packet) -> Self {
        Self {
            throw,
            first,
            chosen: None,
            here: None,
            elsewhere: false,
            is_broadcast: false,
        }
    }

    fn thrown(&self, asked: Circumstance<'_>, moved: bool) -> bool {
        let asks_destination = match asked {
            Circumstance::ToThisHost => true,
            Circumstance::InSet { ends, .. } | Circumstance::InForeignSet { ends, .. } => {
                ends.from_source().contains(&false)
            }
            _ => false,
        };
        if let (Circumstance::ToThisHost, false, Some(here)) = (asked, moved, self.here) {
            return here;
        }
        thrown(self.throw, asked, moved && asks_destination)
    }

    fn is_here(&self, moved: bool) -> bool {
        self.thrown(Circumstance::ToThisHost, moved)
    }
}

impl Chance for Luck<'_> {
    fn holds(&self, asked: Circumstance<'_>, packet: &Packet) -> bool {
        let end = |packet: &Packet| (packet.destination, packet.destination_port);
        if let Circumstance::Matches(text) = asked
            && generate::is_shown(&text.value)
        {
            return generate::matches_hold(&text.value, packet);
        }
        self.thrown(asked, end(packet) != end(self.first))
    }

    fn address(&self, of: Option<AddressRange>, packet: &Packet) -> IpAddr {
        match (self.chosen, of) {
            (Some(chosen), _) => chosen.destination,
            (None, Some(range)) => address_of(
                range.family,
                [range.first, range.last][self.throw as usize % 2],
            ),
            (None, None) => packet.destination,
        }
    }

    fn port(&self, of: PortRange, _: &Packet) -> u16 {
        match self.chosen.and_then(|chosen| chosen.destination_port) {
            Some(chosen) => chosen,
            None => [of.first, of.last][self.throw as usize / 2 % 2],
        }
    }

    fn destination(&self, packet: &Packet) -> (IpAddr, Option<u16>) {
        let chosen = self.chosen.unwrap_or(packet);
        (chosen.destination, chosen.destination_port)
    }

    fn is_first(&self, _: &Packet) -> bool {
        self.throw.is_multiple_of(2)
    }
}

/// Whether a circumstance holds for a packet: as it shows, else by chance.
pub fn thrown_for(throw: u64, asked: Circumstance<'_>, packet: &Packet) -> bool {
    match asked {
        Circumstance::Matches(text) if generate::is_shown(&text.value) => {
            generate::matches_hold(&text.value, packet)
        }
        other => thrown(throw, other, false),
    }
}

/// Whether a circumstance holds: by chance, but always the same in one throw.
fn thrown(throw: u64, asked: Circumstance<'_>, moved: bool) -> bool {
    let words = match asked {
        Circumstance::Time(schedule) => {
            format!("{:?}{:?}{}", schedule.days, schedule.hours, schedule.local)
        }
        // What counts has a counter for each entry.
        Circumstance::Matches(text) if !text.value.contains("recent") => text.value.clone(),
        other => format!("{other:?}"),
    };
    match throw {
        0 => asked.usual(),
        1 => true,
        2 => false,
        _ => {
            let mut hasher = DefaultHasher::new();
            (throw, words, moved).hash(&mut hasher);
            hasher.finish() & 1 == 1
        }
    }
}

/// Whether a zone, or one in it, asks for what came out of IPsec.
fn is_behind_ipsec(policy: &Policy, place: &str) -> bool {
    match policy.zones.get(place).map(|zone| &zone.value) {
        None => false,
        Some(PolicyZone::Union(parts)) => {
            let mut parts = parts.iter();
            parts.any(|part| is_behind_ipsec(policy, &part.value))
        }
        Some(PolicyZone::Hosts { ipsec, .. }) => ipsec.as_ref().is_some_and(|ipsec| ipsec.value),
    }
}

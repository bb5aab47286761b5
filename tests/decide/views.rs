//! The independent views held against each other on random policies: `policy::decide`, `iptables::walk` over the
//! rendered text, `verify::spec` and `analysis::Behaviour`; and the proof.
//!
//! `FWC_SEED` is the first seed, `FWC_POLICIES` how many seeds are tried; a failure names its seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use fwc::analysis::{BaseChain, Behaviour, Reading, Space, Verdict};
use fwc::diag::{Severity, Sink};
use fwc::files::Access;
use fwc::internals::expand::{Templates, expand};
use fwc::internals::resolve::{Members, Plan, resolve};
use fwc::internals::verify::{RenderedRules, Spec, TranslationEnd, Verifier, new_end, spec};
use fwc::iptables::{self, ConnectionFacts, Match, Ruleset, TableName, Walk};
use fwc::net::{Family, Hook, IntervalSet, Packet, PerFamily, number_of};
use fwc::policy::{self, Circumstance, DecidedBy, Logged, NatChain, Policy, RejectAnswer};
use fwc::source::SourceMap;
use libtest_mimic::{Failed, Trial};

use crate::changed;
use crate::generate::{self, Random, Sample, sample};

const PACKETS: usize = 200;

const CHAINS: [NatChain; 3] = [
    NatChain::Prerouting,
    NatChain::Output,
    NatChain::Postrouting,
];

/// The tests.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("views::agree_on_random_policies", agree)]
}

/// A number from the environment.
pub fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A policy and its rules.
pub struct Compiled {
    pub policy: Policy,
    pub plan: Plan,
    pub text: PerFamily<String>,
    pub sets: Option<String>,
}

impl Compiled {
    /// The rules as they are read back.
    pub fn read(&self) -> RenderedRules {
        let rules = RenderedRules::read(self.text.clone(), self.sets.as_deref());
        rules.unwrap_or_else(|error| panic!("{error}\n{:?}", self.text))
    }

    /// The rules, and in shared mode those of others behind them.
    pub fn beside_others(&self) -> PerFamily<Ruleset> {
        PerFamily::from_fn(|family| {
            let mut text = self.text[family].clone();
            if self.plan.is_shared() {
                let end = text.rfind("COMMIT").unwrap();
                let lines = Hook::ALL.map(|hook| format!("-A {} -j QUEUE\n", hook.chain()));
                text.insert_str(end, &lines.concat());
            }
            Ruleset::from_text(&text, family).unwrap_or_else(|error| panic!("{error}\n{text}"))
        })
    }

    /// The members of the sets that the policy fills, in a family.
    pub fn members(&self, family: Family) -> BTreeMap<String, IntervalSet> {
        let prefix = match family {
            Family::V4 => "fwc4",
            Family::V6 => "fwc6",
        };
        let sets = self.plan.sets.iter();
        sets.filter_map(|set| match &set.members {
            Members::Static(members) => Some((
                format!("{prefix}-{}", set.name),
                members.family(family).clone(),
            )),
            Members::Dynamic { .. } => None,
        })
        .collect()
    }

    /// Walks a packet through the rules: no limit is used up, it is time, nobody is in a dynamic set.
    pub fn walk(&self, ruleset: &Ruleset, packet: &Packet) -> Walk {
        self.walk_table(ruleset, TableName::Filter, packet)
    }

    /// The same through another table.
    pub fn walk_table(&self, ruleset: &Ruleset, table: TableName, packet: &Packet) -> Walk {
        let members = self.members(packet.family);
        let mut usual = |_, condition: &Match| {
            Some(match condition {
                Match::Set(set) => {
                    let address = match set.from_source[0] {
                        true => packet.source,
                        false => packet.destination,
                    };
                    let all = members.get(&*set.name);
                    all.is_some_and(|all| all.contains(number_of(address))) != set.negated
                }
                // What comes in goes to this host.
                Match::AddressType(types) => !types.destination.as_ref().unwrap().negated,
                // Nobody sends it.
                Match::Other(module) if module.name == "owner" => {
                    module.settings.iter().all(|setting| setting.negated)
                }
                // Nothing is encrypted.
                Match::Other(module) if module.name == "policy" => {
                    &*module.setting("pol").unwrap().value == "none"
                }
                // A list that nobody fills.
                Match::Other(module)
                    if module
                        .setting("name")
                        .is_some_and(|name| &*name.value == "nobody") =>
                {
                    false
                }
                Match::Other(module) => usually(module.name),
                Match::Conntrack(_) => false,
                _ => return None,
            })
        };
        let connection = ConnectionFacts::default();
        iptables::walk_marked(ruleset, table, packet, connection, &|_| true, &mut usual).unwrap()
    }

    /// Walks a packet through a chain of the nat table: every address is one of this host, the first backend has its turn.
    pub fn translate(
        &self,
        ruleset: &Ruleset,
        packet: &Packet,
        chain: NatChain,
    ) -> Option<TranslationEnd> {
        let mut alone = ruleset.clone();
        alone.tables.retain(|table| table.name == TableName::Nat);
        for chains in alone.tables[0].chains.iter_mut() {
            if &*chains.name == base(chain).as_str() {
                chains.name = packet.hook.chain().into();
            } else if &*chains.name == packet.hook.chain() {
                chains.name = "elsewhere".into();
            }
        }
        match self.walk_table(&alone, TableName::Nat, packet).verdict {
            iptables::WalkVerdict::Other(target) => new_end(&target, packet, base(chain)),
            _ => None,
        }
    }
}

/// The base chain of the nat table.
pub fn base(chain: NatChain) -> BaseChain {
    match chain {
        NatChain::Prerouting => BaseChain::Prerouting,
        NatChain::Output => BaseChain::Output,
        NatChain::Postrouting => BaseChain::Postrouting,
    }
}

/// A packet as it is in a chain of the nat table.
pub fn in_chain(packet: &Packet, chain: NatChain) -> Packet {
    let device = || packet.in_device.clone().or(packet.out_device.clone());
    let other = || packet.out_device.clone().or(packet.in_device.clone());
    let (hook, in_device, out_device) = match chain {
        NatChain::Prerouting => (Hook::Input, device(), None),
        NatChain::Output => (Hook::Output, None, other()),
        NatChain::Postrouting => (Hook::Output, None, other()),
    };
    Packet {
        hook,
        in_device,
        out_device,
        ..packet.clone()
    }
}

/// What a policy does with a packet under usual circumstances, among which it goes in no direction of its connection.
pub fn decide(policy: &Policy, packet: &Packet) -> policy::Decision {
    policy::decide_when(policy, packet, &|asked| match asked {
        Circumstance::Matches(text) => generate::matches_hold(&text.value, packet),
        Circumstance::OriginalDirection => false,
        other => other.usual(),
    })
}

/// Whether a condition of a module holds for most packets; connections are asked whether they are too many.
fn usually(module: &str) -> bool {
    [
        "limit",
        "hashlimit",
        "recent",
        "time",
        "addrtype",
        "statistic",
    ]
    .contains(&module)
}

/// Compiles a policy; else the first error's code.
pub fn compile(text: &str) -> Result<Compiled, &'static str> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, text).unwrap();
    compile_file(&path)
}

/// Compiles a policy file; else the first error's code.
pub fn compile_file(path: &Path) -> Result<Compiled, &'static str> {
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(path, Access::Read, &mut sources, &mut sink);
    let plan = policy
        .as_ref()
        .and_then(|policy| resolve(policy, &mut sink));
    let (Some(policy), Some(plan)) = (policy, plan) else {
        let mut errors = sink.sorted().into_iter();
        let first = errors.find(|diagnostic| diagnostic.severity == Severity::Error);
        return Err(first.expect("an error").code.as_str());
    };
    let rendered = expand(&plan, &Templates::built_in(&mut sink).unwrap()).unwrap();
    Ok(Compiled {
        policy,
        plan,
        text: PerFamily::from_fn(|family| rendered.rules[family].text().to_owned()),
        sets: rendered.ipsets.clone(),
    })
}

/// How often packets were decided by what.
#[derive(Default)]
struct Quotas {
    decided: BTreeMap<(&'static str, &'static str, String), usize>,
    translated: BTreeMap<(&'static str, &'static str), usize>,
}

fn agree() -> Result<(), Failed> {
    let first = number("FWC_SEED", 0);
    let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
    let mut quotas = Quotas::default();
    let mut policies = 0;
    for seed in first..first + number("FWC_POLICIES", 300) {
        let mut random = Random(seed);
        let sample = sample(&mut random);
        match compile(&sample.text) {
            Err(code) => *refused.entry(code).or_default() += 1,
            Ok(compiled) => {
                policies += 1;
                judge(&compiled, &sample, &mut random, &mut quotas)
                    .map_err(|error| format!("seed {seed}: {error}\n{}", sample.text))?;
            }
        }
    }
    println!("seeds from {first}: {policies} policies of {PACKETS} packets, refused {refused:?}");
    print!("{}", quotas.table());
    println!("translated: {:?}", quotas.translated);
    if policies == 0 {
        return Err("no policy was taken".into());
    }
    Ok(())
}

fn judge(
    compiled: &Compiled,
    sample: &Sample,
    random: &mut Random,
    quotas: &mut Quotas,
) -> Result<(), String> {
    let rules = compiled.read();
    let beside = compiled.beside_others();
    let views = PerFamily::from_fn(|family| {
        let space = Space::new(family);
        let spec = spec(&compiled.plan, &space).unwrap();
        let reading = Reading {
            sets: &compiled.members(family),
            ..Reading::default()
        };
        let text = Behaviour::of(&space, &beside[family], &reading).unwrap();
        (space, spec, text)
    });
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        let (space, spec, text) = &views[packet.family];
        let decision = decide(&compiled.policy, &packet);
        if matches!(decision.by, DecidedBy::Antispoof | DecidedBy::RawDrop(_)) {
            // The filter table never sees it; the proof does.
            quotas.count(&packet, decision.by);
            continue;
        }
        let walk = compiled.walk(&beside[packet.family], &packet);
        let place = (TableName::Filter, BaseChain::from(packet.hook));
        // The spec names its conditions itself.
        let holds = [
            "within",
            "connections",
            "time",
            "not after",
            "goes to",
            "one in",
        ];
        let says = space.values_of(&packet, |key| holds.iter().any(|word| key.contains(word)));
        let module = |key: &str| {
            let name = key.trim_start_matches("-m ").split(' ').next();
            usually(name.unwrap()) && !key.contains("--name nobody ")
        };
        let does = space.values_of(&packet, module);
        let mut says = spec.behaviour.fate(space, place, says);
        if let Verdict::Target(_) = says.verdict {
            says.verdict = others();
        }
        let does = text.fate(space, place, does);
        let decided = as_words(&packet, decision.verdict);
        let walked = match &walk.verdict {
            iptables::WalkVerdict::Accept => Verdict::Accept,
            iptables::WalkVerdict::Drop => Verdict::Drop,
            iptables::WalkVerdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
            iptables::WalkVerdict::Other(target) => {
                let text = target.to_text();
                Verdict::Target(text.trim_start_matches("-j ").into())
            }
        };
        let all = [&decided, &walked, &says.verdict, &does.verdict];
        if all.iter().any(|verdict| **verdict != decided) {
            let by = decision.by;
            return Err(format!(
                "{packet:?}\ndecide {decided:?} by {by:?}\nwalk {walked:?}\nspec {:?}\ntext {:?}\n{}",
                says.verdict, does.verdict, compiled.text[packet.family]
            ));
        }
        same_logs(&packet, &decision.logs, spec, &says.effects)?;
        let changes = changed::asked(compiled, &packet);
        let changed = changed::mangled(compiled, rules.ruleset(packet.family), &packet);
        let asked = changed::asked_early(compiled, &packet);
        let early = changed::early(compiled, rules.ruleset(packet.family), &packet);
        if asked != early {
            let text = &compiled.text[packet.family];
            return Err(format!(
                "{packet:?}\npolicy {asked:?}\nrules {early:?}\n{text}"
            ));
        }
        if changes != changed {
            let text = &compiled.text[packet.family];
            return Err(format!(
                "{packet:?}\npolicy {changes:?}\nrules {changed:?}\n{text}"
            ));
        }
        quotas.count(&packet, decision.by);
    }
    for _ in 0..PACKETS / 4 {
        let packet = sample.packet(random);
        for chain in CHAINS {
            let packet = in_chain(&packet, chain);
            same_translation(
                compiled,
                rules.ruleset(packet.family),
                &packet,
                chain,
                quotas,
            )?;
        }
    }
    let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&rules);
    if !proof.holds() {
        return Err(format!(
            "{:#?}\n{:?}\n{}\n{}",
            proof.disagreements, proof.gave_up, compiled.text.v4, compiled.text.v6
        ));
    }
    Ok(())
}

/// `translate` and the rules make the same of a packet.
fn same_translation(
    compiled: &Compiled,
    ruleset: &Ruleset,
    packet: &Packet,
    chain: NatChain,
    quotas: &mut Quotas,
) -> Result<(), String> {
    let usual = |circumstance: Circumstance<'_>| circumstance.usual();
    let said = policy::translate_when(&compiled.policy, packet, chain, &usual);
    let made = compiled.translate(ruleset, packet, chain);
    let entry = said.map(|end| end.entry);
    if said.map(TranslationEnd::from) != made {
        return Err(format!(
            "{packet:?}\n{chain:?}: {said:?}, and by the rules {made:?}\n{}",
            compiled.text[packet.family]
        ));
    }
    let name = match chain {
        NatChain::Prerouting => "PREROUTING",
        NatChain::Output => "OUTPUT",
        NatChain::Postrouting => "POSTROUTING",
    };
    let count = quotas.translated.entry((packet.family.keyword(), name));
    *count.or_default() += usize::from(entry.is_some());
    Ok(())
}

/// `decide` and `spec` ask for the same rules' logs.
fn same_logs(
    packet: &Packet,
    logs: &[Logged],
    spec: &Spec,
    effects: &[fwc::analysis::Effect],
) -> Result<(), String> {
    // Other effects are counts of rules that only count.
    let logged = effects.iter().filter_map(|effect| spec.logs.get(effect));
    let mut asked: Vec<_> = logged.map(|logged| logged.rule).collect();
    let mut decided: Vec<_> = logs.iter().map(|logged| logged.rule).collect();
    asked.sort();
    decided.sort();
    if asked == decided {
        return Ok(());
    }
    Err(format!("{packet:?}\ndecide logs {logs:?}, spec {asked:?}"))
}

/// What others' rules do in these tests with what fwc's leave to them.
fn others() -> Verdict {
    Verdict::Target("QUEUE".into())
}

fn as_words(packet: &Packet, verdict: policy::PolicyVerdict) -> Verdict {
    let (v4, v6) = match verdict {
        policy::PolicyVerdict::Accept => return Verdict::Accept,
        policy::PolicyVerdict::Drop => return Verdict::Drop,
        policy::PolicyVerdict::Continue => return others(),
        policy::PolicyVerdict::Custom => panic!("no policy here has a custom rule"),
        policy::PolicyVerdict::Reject(answer) => match answer {
            RejectAnswer::TcpReset => ("tcp-reset", "tcp-reset"),
            RejectAnswer::PortUnreachable => ("icmp-port-unreachable", "icmp6-port-unreachable"),
            RejectAnswer::HostUnreachable => ("icmp-host-unreachable", "icmp6-addr-unreachable"),
            RejectAnswer::NetUnreachable => ("icmp-net-unreachable", "icmp6-no-route"),
            RejectAnswer::AdminProhibited => ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
            RejectAnswer::HostProhibited => ("icmp-host-prohibited", "never"),
            RejectAnswer::NetProhibited => ("icmp-net-prohibited", "never"),
            RejectAnswer::ProtoUnreachable => ("icmp-proto-unreachable", "never"),
            RejectAnswer::PolicyFail => ("never", "icmp6-policy-fail"),
            RejectAnswer::RejectRoute => ("never", "icmp6-reject-route"),
        },
    };
    let words = PerFamily { v4, v6 };
    Verdict::Reject(words[packet.family].into())
}

impl Quotas {
    fn count(&mut self, packet: &Packet, by: DecidedBy) {
        let by = match by {
            DecidedBy::Rule(_) => "Rule".to_owned(),
            DecidedBy::Nat(_) => "Nat".to_owned(),
            DecidedBy::RawDrop(_) => "RawDrop".to_owned(),
            other => format!("{other:?}"),
        };
        let key = (packet.family.keyword(), packet.hook.chain(), by);
        *self.decided.entry(key).or_default() += 1;
    }

    fn table(&self) -> String {
        let mut table = String::new();
        let mut words: Vec<&String> = self.decided.keys().map(|(_, _, by)| by).collect();
        words.sort();
        words.dedup();
        for word in words {
            let _ = write!(table, "{word:12}");
            for family in ["ipv4", "ipv6"] {
                for hook in Hook::ALL {
                    let count = self.decided.get(&(family, hook.chain(), word.clone()));
                    let _ = write!(table, "  {family} {hook} {:5}", count.unwrap_or(&0));
                }
            }
            table.push('\n');
        }
        table
    }
}

//! The independent views held against each other on random policies: `policy::decide`, `iptables::walk` over the
//! rendered text, `verify::spec` and `analysis::Behaviour`; and the proof.
//!
//! `FWC_SEED` is the first seed, `FWC_POLICIES` how many seeds are tried; a failure names its seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fwc::analysis::{BaseChain, Behaviour, Reading, Space, Verdict};
use fwc::diag::{Severity, Sink};
use fwc::expand::{Templates, expand};
use fwc::files::Access;
use fwc::iptables::{self, TableName};
use fwc::net::{Hook, Packet, PerFamily};
use fwc::policy::{self, Answer, DecidedBy, Policy};
use fwc::resolve::{Plan, resolve};
use fwc::source::SourceMap;
use fwc::verify::{RulesFile, Spec, prove, spec};
use libtest_mimic::{Failed, Trial};

use crate::generate::{Random, Sample, sample};

const PACKETS: usize = 200;

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
}

/// Compiles a policy; else the first error's code.
pub fn compile(text: &str) -> Result<Compiled, &'static str> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fwc.toml");
    std::fs::write(&path, text).unwrap();
    let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
    let policy = policy::load(&path, Access::Read, &mut sources, &mut sink);
    let plan = policy
        .as_ref()
        .and_then(|policy| resolve(policy, &mut sink));
    let (Some(policy), Some(plan)) = (policy, plan) else {
        let mut errors = sink.sorted().into_iter();
        let first = errors.find(|diagnostic| diagnostic.severity == Severity::Error);
        return Err(first.expect("an error").code.as_str());
    };
    let rendered = expand(&plan, &Templates::built_in().unwrap()).unwrap();
    let text = PerFamily::from_fn(|family| rendered.rules[family].text().to_owned());
    Ok(Compiled { policy, plan, text })
}

/// The rules of both families as they are read back.
pub fn read(text: &PerFamily<String>) -> PerFamily<RulesFile> {
    PerFamily::from_fn(|family| {
        RulesFile::read(&text[family], family).unwrap_or_else(|e| panic!("{e}\n{}", text[family]))
    })
}

/// How often packets were decided by what.
#[derive(Default)]
struct Quotas(BTreeMap<(&'static str, &'static str, String), usize>);

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
    let rules = read(&compiled.text);
    let views = PerFamily::from_fn(|family| {
        let space = Space::new(family);
        let spec = spec(&compiled.plan, &space).unwrap();
        let text = Behaviour::of(&space, rules[family].ruleset(), &Reading::default()).unwrap();
        (space, spec, text)
    });
    for _ in 0..PACKETS {
        let packet = sample.packet(random);
        let (space, spec, text) = &views[packet.family];
        let decision = policy::decide(&compiled.policy, &packet);
        let ruleset = rules[packet.family].ruleset();
        let walk = iptables::walk(ruleset, TableName::Filter, &packet, &mut |_, _| Some(true));
        let walk = walk.map_err(|error| error.to_string())?;
        let place = (TableName::Filter, BaseChain::from(packet.hook));
        let value = || space.values_of(&packet, |_| true);
        let (says, does) = (
            spec.behaviour.fate(space, place, value()),
            text.fate(space, place, value()),
        );
        let decided = as_words(&packet, decision.verdict);
        let walked = match &walk.verdict {
            iptables::Verdict::Accept => Verdict::Accept,
            iptables::Verdict::Drop => Verdict::Drop,
            iptables::Verdict::Reject(reject) => Verdict::Reject(reject.as_str().into()),
            iptables::Verdict::Other(target) => Verdict::Target(target.to_text().into()),
        };
        let all = [&decided, &walked, &says.verdict, &does.verdict];
        if all.iter().any(|verdict| **verdict != decided) {
            let by = decision.by;
            return Err(format!(
                "{packet:?}\ndecide {decided:?} by {by:?}\nwalk {walked:?}\nspec {:?}\ntext {:?}\n{}",
                says.verdict, does.verdict, compiled.text[packet.family]
            ));
        }
        same_logs(compiled, &packet, &decision.logs, spec, &says.effects)?;
        quotas.count(&packet, decision.by);
    }
    let proof = prove(&compiled.policy, &compiled.plan, &rules);
    if !proof.holds() {
        return Err(format!(
            "{:#?}\n{:?}\n{}\n{}",
            proof.disagreements, proof.gave_up, compiled.text.v4, compiled.text.v6
        ));
    }
    Ok(())
}

/// `decide` and `spec` ask for the same rules' logs.
fn same_logs(
    compiled: &Compiled,
    packet: &Packet,
    classes: &[String],
    spec: &Spec,
    effects: &[fwc::analysis::Effect],
) -> Result<(), String> {
    let mut asked: Vec<_> = effects.iter().map(|effect| spec.logs[effect]).collect();
    // The default logs last.
    asked.sort_by_key(|logging| logging.rule.map_or(usize::MAX, |rule| rule));
    let name = |rule: Option<usize>| match rule {
        Some(rule) => match compiled.policy.rules[rule]
            .log
            .as_ref()
            .map(|log| &log.value)
        {
            Some(policy::LogChoice::Class(class)) => class.clone(),
            _ => "default".to_owned(),
        },
        None => match &compiled.policy.defaults.log {
            Some(log) => log.value.clone().unwrap_or_default(),
            None => "denied".to_owned(),
        },
    };
    let asked: Vec<String> = asked.iter().map(|logging| name(logging.rule)).collect();
    if asked == classes {
        return Ok(());
    }
    Err(format!(
        "{packet:?}\ndecide logs {classes:?}, spec {asked:?}"
    ))
}

fn as_words(packet: &Packet, verdict: policy::Verdict) -> Verdict {
    let (v4, v6) = match verdict {
        policy::Verdict::Accept => return Verdict::Accept,
        policy::Verdict::Drop => return Verdict::Drop,
        policy::Verdict::Reject(answer) => match answer {
            Answer::TcpReset => ("tcp-reset", "tcp-reset"),
            Answer::PortUnreachable => ("icmp-port-unreachable", "icmp6-port-unreachable"),
            Answer::HostUnreachable => ("icmp-host-unreachable", "icmp6-addr-unreachable"),
            Answer::NetUnreachable => ("icmp-net-unreachable", "icmp6-no-route"),
            Answer::AdminProhibited => ("icmp-admin-prohibited", "icmp6-adm-prohibited"),
        },
    };
    let words = PerFamily { v4, v6 };
    Verdict::Reject(words[packet.family].into())
}

impl Quotas {
    fn count(&mut self, packet: &Packet, by: DecidedBy) {
        let by = match by {
            DecidedBy::Rule(_) => "Rule".to_owned(),
            other => format!("{other:?}"),
        };
        let key = (packet.family.keyword(), packet.hook.chain(), by);
        *self.0.entry(key).or_default() += 1;
    }

    fn table(&self) -> String {
        let mut table = String::new();
        let mut words: Vec<&String> = self.0.keys().map(|(_, _, by)| by).collect();
        words.sort();
        words.dedup();
        for word in words {
            let _ = write!(table, "{word:12}");
            for family in ["ipv4", "ipv6"] {
                for hook in Hook::ALL {
                    let count = self.0.get(&(family, hook.chain(), word.clone()));
                    let _ = write!(table, "  {family} {hook} {:5}", count.unwrap_or(&0));
                }
            }
            table.push('\n');
        }
        table
    }
}

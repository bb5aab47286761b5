//! What the proof says of rules that were changed by hand, kind by kind.

use fwc::internals::verify::{DisagreementKind, RenderedRules, Verifier};
use fwc::net::{Family, State};
use fwc::policy::DecidedBy;
use libtest_mimic::{Failed, Trial};

use crate::views::compile;

const POLICY: &str = r#"version = 1
[interfaces]
lan = { device = "eth1", networks = "192.0.2.0/24" }
[defaults]
antispoof = true
[addresses]
list = { include = "203.0.113.0/24", set = true }
banned = { set = "dynamic", timeout = "1h" }
[[rules]]
source = ["list", "banned"]
action = "drop"
scope = "ipv4"
[[rules]]
service = ["ssh", "dns"]
log = true
limit = "6/minute"
"#;

/// One test for each kind.
pub fn all() -> Vec<Trial> {
    let test =
        |name: &str, from: &'static str, to: &'static str, kind: fn(&DisagreementKind) -> bool| {
            Trial::test(format!("differences::{name}"), move || {
                changed(from, to, kind)
            })
        };
    vec![
        test("nothing", "", "", |_| false),
        test("verdict", "--dports 22,53", "--dports 22,54", |what| {
            let DisagreementKind::Verdict(walked) = what else {
                return false;
            };
            let port = walked.packet.destination_port;
            let decided = matches!(
                walked.policy.decision.by,
                DecidedBy::Rule(1) | DecidedBy::Default
            );
            !walked.same_verdict() && decided && [Some(53), Some(54)].contains(&port)
        }),
        test(
            "state",
            "-A INPUT -m conntrack --ctstate INVALID -j DROP\n",
            "",
            |what| matches!(what, DisagreementKind::Verdict(walked) if walked.packet.state == State::Invalid),
        ),
        test(
            "source",
            "-A FWC-ANTISPOOF -s 192.0.2.0/24 -j DROP\n",
            "",
            |what| {
                let DisagreementKind::Verdict(walked) = what else {
                    return false;
                };
                walked.policy.decision.by == DecidedBy::Antispoof && walked.rules.rule.is_none()
            },
        ),
        test(
            "log",
            "--log-prefix \"fwc: \"",
            "--log-prefix \"fcw: \"",
            |what| matches!(what, DisagreementKind::Logs(walked) if !walked.same_logs()),
        ),
        test(
            "limit",
            "--limit 6/min",
            "--limit 7/min",
            |what| matches!(what, DisagreementKind::Verdict(walked) if walked.when.len() >= 2),
        ),
        test(
            "buckets",
            "-A FORWARD -m limit",
            "-A FORWARD -p tcp -m limit --limit 10/min --limit-burst 20 -j LOG --log-prefix \"fwc denied: \"\n\
             -A FORWARD ! -p tcp -m limit",
            |what| {
                matches!(
                    what,
                    DisagreementKind::Buckets {
                        wanted: 1,
                        found: 2,
                        ..
                    }
                )
            },
        ),
        test(
            "strange_log",
            "-j LOG",
            "-m limit --limit 7/sec -j LOG",
            |what| matches!(what, DisagreementKind::UnexpectedLog(line, _) if *line > 0),
        ),
        test("chain_policy", ":FORWARD DROP", ":FORWARD ACCEPT", |what| {
            matches!(what, DisagreementKind::ChainPolicy { .. })
        }),
        test(
            "own_policy",
            ":FWC-ANTISPOOF - [0:0]",
            ":FWC-ANTISPOOF ACCEPT [0:0]",
            |what| matches!(what, DisagreementKind::PolicyOnUserChain(chain) if chain == "FWC-ANTISPOOF"),
        ),
        test("undeclared_chain", ":OUTPUT ACCEPT [0:0]\n", "", |what| {
            matches!(
                what,
                DisagreementKind::Undeclared {
                    chain: Some("OUTPUT"),
                    ..
                }
            )
        }),
        test("undeclared_table", "*nat\n", "*security\n", |what| {
            matches!(what, DisagreementKind::Undeclared { chain: None, .. })
        }),
        test(
            "idle_chain",
            ":FORWARD DROP [0:0]\n",
            ":FORWARD DROP [0:0]\n:IDLE - [0:0]\n",
            |what| matches!(what, DisagreementKind::UnreachableChain { chain, .. } if chain == "IDLE"),
        ),
        test(
            "foreign_table",
            ":POSTROUTING ACCEPT [0:0]\n",
            ":POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -p tcp\n",
            |what| matches!(what, DisagreementKind::UnusedBaseChain { .. }),
        ),
        test(
            "set_member",
            "add fwc4-list 203.0.113.0/24",
            "add fwc4-list 203.0.113.0/25",
            |what| matches!(what, DisagreementKind::IpSet(name) if name == "fwc4-list"),
        ),
        test(
            "set_timeout",
            "timeout 3600",
            "timeout 3601",
            |what| matches!(what, DisagreementKind::IpSet(name) if name == "fwc4-banned"),
        ),
        test(
            "set_type",
            "create fwc4-banned hash:net ",
            "create fwc4-banned hash:ip ",
            |what| matches!(what, DisagreementKind::IpSet(name) if name == "fwc4-banned"),
        ),
        test(
            "set_counters",
            "timeout 3600\n",
            "timeout 3600 counters\n",
            |what| matches!(what, DisagreementKind::IpSet(name) if name == "fwc4-banned"),
        ),
        test(
            "set_comments",
            "timeout 3600\n",
            "timeout 3600 comment\n",
            |what| matches!(what, DisagreementKind::IpSet(name) if name == "fwc4-banned"),
        ),
        test(
            "set_ends",
            "--match-set fwc4-banned src",
            "--match-set fwc4-banned src,dst",
            |what| matches!(what, DisagreementKind::Verdict(walked) if walked.when.len() >= 2),
        ),
        test(
            "other_set",
            "--match-set fwc4-banned",
            "--match-set fwc4-bnaned",
            |what| matches!(what, DisagreementKind::Verdict(walked) if walked.when.len() >= 2),
        ),
    ]
}

/// Compiles, changes the first place in the IPv4 rules or the sets, proves; the kind must be among the differences.
fn changed(from: &str, to: &str, kind: fn(&DisagreementKind) -> bool) -> Result<(), Failed> {
    let compiled = compile(POLICY)?;
    let (mut texts, mut sets) = (compiled.text.clone(), compiled.sets.clone());
    if !from.is_empty() {
        let text = &mut texts[Family::V4];
        let own = sets.as_mut().filter(|_| !text.contains(from));
        let text = own.unwrap_or(text);
        if !text.contains(from) {
            return Err(format!("`{from}` is not there:\n{text}").into());
        }
        *text = text.replacen(from, to, 1);
    }
    let rules = RenderedRules::read(texts, sets.as_deref())?;
    let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&rules);
    let found = proof.disagreements.iter().any(|one| kind(&one.what));
    if found != from.is_empty() && proof.holds() == from.is_empty() {
        return Ok(());
    }
    Err(format!("{:#?}", proof.disagreements).into())
}

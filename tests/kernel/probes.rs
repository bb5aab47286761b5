//! The probes: small policies, packets and verdicts, in `tests/probes` and the folders that `FWC_PROBES` names.
//!
//! A case is judged by a plain walk over the rendered rules and by the kernel with both backends; a wrong policy must
//! be refused with the code in its first line.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fwc::iptables::{self, Match, RuleId, Ruleset, TableName};
use fwc::net::{Hook, Packet, State, Translated};
use libtest_mimic::{Completion, Failed, Trial};

use crate::circumstances::{Circumstances, Original};
use crate::compile::{Compiled, Rules, compile};
use crate::counters::Verdict;
use crate::environment::{kernel_test, with_lab};
use crate::folders::{cases, folders, is_not_yet_said};
use crate::probe::Case;
use crate::support::tools::Backend;
use crate::walker::Walker;

/// All cases and all wrong policies.
pub fn all() -> Vec<Trial> {
    let mut tests = Vec::new();
    for folder in folders() {
        tests.extend(tests_of(&folder));
        if folder.join("wrong").is_dir() {
            tests.extend(wrong_policies(&folder.join("wrong")));
        }
    }
    tests
}

fn tests_of(folder: &Path) -> Vec<Trial> {
    let mut tests = Vec::new();
    let mut read: Vec<(String, Arc<Case>, Rules)> = Vec::new();
    let ways = ["text", "kernel-nft", "kernel-legacy"];
    for path in cases(folder) {
        let name = stem(&path);
        match compile(&path.join("fwc.toml")) {
            Compiled::Rules(rules) => {
                let case = Case::read(&path.join("probes.toml")).unwrap_or_else(|e| panic!("{e}"));
                read.push((name, Arc::new(case), rules));
            }
            Compiled::Wrong(codes, messages) => {
                let not_yet = is_not_yet_said(&path, codes);
                tests.extend(ways.map(|way| {
                    let messages = messages.clone();
                    Trial::ignorable_test(format!("probes::{name}::{way}"), move || match not_yet {
                        true => Ok(Completion::ignored_with(not_yet_said(&messages))),
                        false => Err(Failed::from(format!("the policy was refused:\n{messages}"))),
                    })
                }));
            }
        }
    }
    // All cases use the same devices, so that they can share labs.
    let mut devices: Vec<String> = read
        .iter()
        .flat_map(|(_, case, _)| case.devices())
        .collect();
    devices.sort();
    devices.dedup();
    let devices: Arc<[String]> = devices.into();

    for (name, case, rules) in read {
        let [text, nft, legacy] = ways.map(|way| format!("probes::{name}::{way}"));
        let (walked, walked_rules) = (case.clone(), rules.clone());
        tests.push(Trial::ignorable_test(text, move || {
            judge_by_text(&walked_rules, &walked)
        }));
        for (name, backend) in [(nft, Backend::Nft), (legacy, Backend::Legacy)] {
            let (case, devices) = (case.clone(), devices.clone());
            let rules = rules.clone();
            tests.push(kernel_test(name, backend, move || {
                judge_by_kernel(backend, &devices, &rules, &case)
            }));
        }
    }
    tests
}

/// Why a case is left out.
fn not_yet_said(messages: &str) -> String {
    format!("not yet in the language: {}", messages.replace('\n', "; "))
}

fn judge_by_text(rules: &Rules, case: &Case) -> Result<Completion, Failed> {
    let walker = Walker::new(rules)?;
    let mut wrong = String::new();
    for (number, probe) in (1..).zip(&case.probes) {
        let Some((chain, expected)) = probe.translation()? else {
            continue;
        };
        let found = walker.translate(&probe.packet()?, chain, &probe.circumstances()?)?;
        if found != expected {
            let why = &probe.why;
            let _ = writeln!(
                wrong,
                "probe {number} ({why}): expected {expected:?}, found {found:?}"
            );
        }
    }
    report(case, wrong)?;
    judge(case, |packet, circumstances| {
        walker.walk(packet, circumstances)
    })
}

/// The kernel, and whether it counts the same rules as the walk over the text. It goes by a clock of its own, translates
/// by the rules of nat alone, and calls some packets never INVALID: such probes are for the other views.
fn judge_by_kernel(
    backend: Backend,
    devices: &[String],
    rules: &Rules,
    case: &Case,
) -> Result<Completion, Failed> {
    let walker = Walker::new(rules)?;
    let (mut judged, mut left_out) = (0, 0);
    let done = with_lab(backend, devices, |lab| {
        lab.load_policy(rules)?;
        Ok(judge(case, |packet, circumstances| {
            let (verdict, walked) = walker.walk(packet, circumstances)?;
            let is_translated = packet.translated != Translated::default();
            // The connections of the lab are not translated, and all of its packets go in their first direction.
            if circumstances.at.is_some()
                || circumstances.original != Original::default()
                // The lab has no IPsec; `ipsec::*` has.
                || circumstances.from_ipsec
                || circumstances.into_ipsec
                || is_translated
                || is_translated_here(rules, packet)?
                || is_never_invalid(packet)
                || is_never_new(packet)
                || lacks_ethernet(packet, &rules.texts[packet.family])
                || lacks_sender(packet, circumstances, &rules.texts[packet.family])
            {
                left_out += 1;
                return Ok((verdict, walked));
            }
            judged += 1;
            if circumstances.earlier > 0 {
                // What an earlier probe used up is there again.
                lab.load_policy(rules)?;
            }
            let judgement = match lab.judge_when(packet, circumstances) {
                Err(error)
                    if is_answered_to_itself(packet, verdict)
                        && error.starts_with("more than one packet was counted") =>
                {
                    (judged, left_out) = (judged - 1, left_out + 1);
                    return Ok((verdict, walked));
                }
                judgement => judgement?,
            };
            let (counted, walked) = (comparable(&judgement.matched), comparable(&walked));
            if counted != walked {
                return Err(format!(
                    "{counted:?} counted, but the walk matches {walked:?}"
                ));
            }
            Ok((judgement.verdict, judgement.matched))
        }))
    })?;
    match done {
        Ok(_) if judged == 0 => Ok(Completion::ignored_with(format!(
            "the kernel has no such packets: {left_out} probes are for the other views"
        ))),
        done => done,
    }
}

/// Whether the rules translate a packet of this host that a probe calls not translated: the kernel has no such packet.
fn is_translated_here(rules: &Rules, packet: &Packet) -> Result<bool, String> {
    if packet.hook != Hook::Output || packet.state != State::New {
        return Ok(false);
    }
    let family = packet.family;
    let ruleset = Ruleset::from_text(&rules.texts[family], family);
    let ruleset = ruleset.map_err(|error| error.to_string())?;
    let mut may_hold = |_: RuleId, _: &Match| Some(true);
    let walk = iptables::walk(&ruleset, TableName::Nat, packet, &mut may_hold);
    let walk = walk.map_err(|error| error.to_string())?;
    Ok(matches!(walk.verdict, iptables::WalkVerdict::Other(_)))
}

/// Whether this host rejects what it sends itself: the answer may pass the same chains, and counters do not tell the two apart.
fn is_answered_to_itself(packet: &Packet, verdict: Verdict) -> bool {
    packet.hook == Hook::Output && verdict == Verdict::Reject
}

/// Whether a rule negates MAC addresses and the packet comes without one: all wires of the lab are Ethernet, only `lo` is not.
fn lacks_ethernet(packet: &Packet, rules: &str) -> bool {
    let comes_by_wire = packet
        .in_device
        .as_ref()
        .is_some_and(|device| device != "lo");
    comes_by_wire && packet.mac.is_none() && rules.contains("! --mac-source")
}

/// Whether a rule negates a user or group and no process sends the packet: what the lab sends is always a process's.
fn lacks_sender(packet: &Packet, circumstances: &Circumstances, rules: &str) -> bool {
    let negates = |asked: &str, sender: Option<u32>| sender.is_none() && rules.contains(asked);
    packet.hook == Hook::Output
        && (negates("! --uid-owner", circumstances.user)
            || negates("! --gid-owner", circumstances.group))
}

/// Whether connection tracking never calls a packet of tcp NEW because of its flags: a connection begins with a SYN, or is picked up
/// with an ACK (`tcp_conntracks` of nf_conntrack_proto_tcp.c).
fn is_never_new(packet: &Packet) -> bool {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN_OR_RST: u8 = 1 + 4;
    let begins = |flags: u8| {
        let one = flags & (SYN | ACK);
        (one == SYN || one == ACK) && flags & FIN_OR_RST == 0
    };
    packet.state == State::New && packet.tcp_flags.is_some_and(|flags| !begins(flags.0))
}

/// Whether connection tracking has no reason to call a packet INVALID that is said to be: its protocol has no tracker.
fn is_never_invalid(packet: &Packet) -> bool {
    const WITH_TRACKER: [u8; 7] = [1, 6, 17, 33, 58, 132, 136];
    packet.state == State::Invalid && !WITH_TRACKER.contains(&packet.protocol)
}

/// The rules among what matched, without those that write a log: a rate may keep them from it.
fn comparable(matched: &[String]) -> BTreeSet<String> {
    let is_compared = |line: &&String| line.starts_with("-A ") && !line.contains(" -j LOG");
    let lines = matched.iter().filter(is_compared);
    // The walk finds the chains of the raw table under the name of INPUT.
    lines
        .map(|line| line.replace("PREROUTING", "INPUT"))
        // A line that only counts everything ends with its chain.
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn judge(
    case: &Case,
    mut judge: impl FnMut(&Packet, &Circumstances) -> Result<(Verdict, Vec<String>), String>,
) -> Result<Completion, Failed> {
    let mut wrong = String::new();
    for (number, probe) in (1..).zip(&case.probes) {
        // The nat table alone is not judged here.
        let Some(expected) = probe.verdict() else {
            continue;
        };
        let found = match judge(&probe.packet()?, &probe.circumstances()?) {
            Ok((verdict, _)) if verdict == expected => continue,
            Ok((verdict, matched)) => format!("{verdict} by {}", matched.join(", then ")),
            Err(error) => error,
        };
        let why = &probe.why;
        let _ = writeln!(
            wrong,
            "probe {number} ({why}): expected {expected}, found {found}"
        );
    }
    report(case, wrong)
}

fn report(case: &Case, wrong: String) -> Result<Completion, Failed> {
    if wrong.is_empty() {
        Ok(Completion::Completed)
    } else {
        Err(format!("{}\n{}\n{wrong}", case.about, case.sentence).into())
    }
}

fn wrong_policies(folder: &Path) -> Vec<Trial> {
    let policies = sorted(folder).into_iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    let mut tests = Vec::new();
    for path in policies {
        let name = format!("probes::wrong::{}", stem(&path));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
        let expected = text
            .strip_prefix("# expect: ")
            .and_then(|rest| rest.split([':', '\n']).next())
            .unwrap_or_else(|| panic!("{} expects nothing", path.display()))
            .trim()
            .to_owned();
        let outcome: Result<Option<String>, String> = match compile(&path) {
            Compiled::Rules(_) => Err(format!("expected {expected}, but the policy was taken")),
            Compiled::Wrong(codes, _) if codes.contains(expected.as_str()) => Ok(None),
            Compiled::Wrong(codes, messages) if is_not_yet_said(&path, codes.iter().copied()) => {
                Ok(Some(not_yet_said(&messages)))
            }
            Compiled::Wrong(_, messages) => Err(format!("expected {expected}, found\n{messages}")),
        };
        tests.push(Trial::ignorable_test(name, move || match outcome {
            Ok(None) => Ok(Completion::Completed),
            Ok(Some(not_yet)) => Ok(Completion::ignored_with(not_yet)),
            Err(error) => Err(Failed::from(error)),
        }));
    }
    tests
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

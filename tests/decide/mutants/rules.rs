//! Rules broken on purpose: the proof must see it, or the broken rules must do the same with every packet at the
//! borders.

use std::collections::BTreeMap;

use fwc::internals::verify::{DisagreementKind, RenderedRules, Verifier};
use fwc::iptables::{self, Ruleset, TableName, Target};
use fwc::net::{Family, Packet};
use fwc::policy::NatChain;
use libtest_mimic::{Failed, Trial};

use crate::changed;
use crate::generate::{Random, sample};
use crate::views::{Compiled, compile, in_chain, number};

const PACKETS: usize = 300;

/// The tests.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("mutants::rules", killed_or_equal)]
}

/// A way to break a rules file: the changed lines, where it applies to a line.
type Way = fn(&[&str], usize, &mut Random) -> Option<Vec<String>>;

const WAYS: [(&str, Way); 29] = [
    ("other change", |lines, at, _| {
        let pairs = [
            ("--save-mark", "--restore-mark"),
            ("--restore-mark", "--save-mark"),
            ("--set-mss 536", "--clamp-mss-to-pmtu"),
            ("--clamp-mss-to-pmtu", "--set-mss 1361"),
            ("-inc ", "-dec "),
            ("--tproxy-mark 0x1/0x1", "--tproxy-mark 0x0/0x0"),
            ("--set-xmark 0x1", "--set-xmark 0x2"),
            ("--ctmask 0xff", "--ctmask 0xfe"),
        ];
        pairs
            .iter()
            .find_map(|(from, to)| changed(lines, at, from, to))
    }),
    ("other treatment", |lines, at, _| {
        let pairs = [
            ("CT --notrack", "CT --helper ftp"),
            ("--helper ftp", "--helper sip"),
            ("--helper sip", "--helper ftp"),
        ];
        pairs
            .iter()
            .find_map(|(from, to)| changed(lines, at, from, to))
    }),
    ("treatment lost", |lines, at, _| {
        lines[at].contains("-j CT ").then(|| without(lines, at))
    }),
    ("lost flags", |lines, at, _| {
        changed(lines, at, " --tcp-flags SYN,RST SYN", "")
            .or_else(|| changed(lines, at, "SYN,RST SYN", "SYN SYN"))
    }),
    ("early for late", |lines, at, random| {
        let (from, to) = *random.pick(&[
            ("PREROUTING", "INPUT"),
            ("FORWARD", "PREROUTING"),
            ("OUTPUT", "POSTROUTING"),
        ]);
        let plain = !lines[at].contains(" -o ") && lines[at].contains("-j MARK");
        changed(lines, at, &format!("-A {from} "), &format!("-A {to} ")).filter(|_| plain)
    }),
    ("dropped rule", |lines, at, _| {
        is_rule(lines[at]).then(|| without(lines, at))
    }),
    ("doubled rule", |lines, at, _| {
        is_rule(lines[at]).then(|| with(lines, at, &[lines[at], lines[at]]))
    }),
    ("swapped neighbours", |lines, at, _| {
        let next = *lines
            .get(at + 1)
            .filter(|next| is_rule(next) && is_rule(lines[at]))?;
        Some(with(&without_slice(lines, at + 1), at, &[next, lines[at]]))
    }),
    ("wrong chain", |lines, at, random| {
        let chain = *random.pick(&["INPUT", "FORWARD", "OUTPUT"]);
        let (_, rest) = lines[at].strip_prefix("-A ")?.split_once(' ')?;
        Some(with(lines, at, &[&format!("-A {chain} {rest}")]))
    }),
    ("negation lost", |lines, at, _| changed(lines, at, "! ", "")),
    ("negation added", |lines, at, random| {
        let options = [
            " -s ",
            " -d ",
            " -i ",
            " -o ",
            " -p ",
            " --dport ",
            " --sport ",
            " --ctstate ",
            " --src-range ",
        ];
        let option = *random.pick(&options);
        changed(lines, at, option, &format!(" !{option}"))
    }),
    ("-s for -d", |lines, at, _| {
        changed(lines, at, " -s ", " -d ")
    }),
    ("-d for -s", |lines, at, _| {
        changed(lines, at, " -d ", " -s ")
    }),
    ("number off by one", |lines, at, random| {
        let up = i64::from(random.once_in(2)) * 2 - 1;
        let line = is_rule(lines[at]).then_some(lines[at])?;
        let starts: Vec<usize> = line
            .char_indices()
            .filter(|(i, c)| c.is_ascii_digit() && *i > 0 && " :,-./".contains(&line[*i - 1..*i]))
            .map(|(i, _)| i)
            .collect();
        let start = *starts.get(random.below(starts.len().max(1)))?;
        let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
        let number = line[start..start + digits].parse::<i64>().ok()? + up;
        let line = format!("{}{number}{}", &line[..start], &line[start + digits..]);
        Some(with(lines, at, &[&line]))
    }),
    ("ACCEPT for DROP", |lines, at, _| {
        changed(lines, at, "-j DROP", "-j ACCEPT")
    }),
    ("DROP for ACCEPT", |lines, at, _| {
        changed(lines, at, "-j ACCEPT", "-j DROP")
    }),
    ("other REJECT", |lines, at, _| {
        changed(lines, at, "port-unreachable", "admin-prohibited").or_else(|| {
            changed(lines, at, "-j REJECT", "-j DROP")
                .filter(|_| !lines[at].contains("--reject-with"))
        })
    }),
    ("chain policy", |lines, at, _| {
        changed(lines, at, " ACCEPT [", " DROP [")
            .or_else(|| changed(lines, at, " DROP [", " ACCEPT ["))
    }),
    ("undeclared chain", |lines, at, _| {
        lines[at].starts_with(':').then(|| without(lines, at))
    }),
    ("split limit", |lines, at, _| {
        let line =
            Some(lines[at]).filter(|line| line.contains("-m limit") && !line.contains(" -p "))?;
        let (chain, rest) = line.strip_prefix("-A ")?.split_once(' ')?;
        let (tcp, rest) = (
            format!("-A {chain} -p tcp {rest}"),
            format!("-A {chain} ! -p tcp {rest}"),
        );
        Some(with(lines, at, &[&tcp, &rest]))
    }),
    ("lost state", |lines, at, _| {
        let from = lines[at].find("-m conntrack --ctstate ")?;
        let rest = &lines[at][from + "-m conntrack --ctstate ".len()..];
        let rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
        Some(with(lines, at, &[&format!("{}{rest}", &lines[at][..from])]))
    }),
    ("lost limit", |lines, at, _| {
        let from = lines[at].find("-m limit ")?;
        let to = lines[at].find("-j ")?;
        Some(with(
            lines,
            at,
            &[&format!("{}{}", &lines[at][..from], &lines[at][to..])],
        ))
    }),
    ("expiry lost", |lines, at, _| {
        let from = lines[at].find(EXPIRY)?;
        let rest = lines[at][from + EXPIRY.len()..].split_once(' ')?.1;
        let line = format!("{} {rest}", &lines[at][..from]);
        Some(with(lines, at, &[&line]))
    }),
    ("expiry shorter", |lines, at, _| {
        let from = lines[at].find(EXPIRY)? + EXPIRY.len();
        let (milliseconds, rest) = lines[at][from..].split_once(' ')?;
        let shorter = milliseconds.parse::<u64>().ok()? - 1;
        let line = format!("{}{shorter} {rest}", &lines[at][..from]);
        Some(with(lines, at, &[&line]))
    }),
    ("translation lost", |lines, at, random| {
        let targets = ["MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP"];
        let from = lines[at].find("-j ")?;
        let target = *random.pick(&targets);
        let rest = lines[at][from + 3..].strip_prefix(target)?;
        let _ = rest;
        Some(with(
            lines,
            at,
            &[&format!("{}-j ACCEPT", &lines[at][..from])],
        ))
    }),
    ("LOCAL lost", |lines, at, _| {
        changed(lines, at, "-m addrtype --dst-type LOCAL ", "")
    }),
    ("turn lost", |lines, at, _| {
        let from = lines[at].find("-m statistic ")?;
        let to = lines[at].find("-j ")?;
        let line = format!("{}{}", &lines[at][..from], &lines[at][to..]);
        Some(with(lines, at, &[&line]))
    }),
    ("wrong end", |lines, at, _| {
        changed(lines, at, ":80", ":81")
            .filter(|_| lines[at].contains("-j DNAT"))
            .or_else(|| changed(lines, at, "--to-ports 8", "--to-ports 9"))
            .or_else(|| changed(lines, at, "--to-destination 10.", "--to-destination 11."))
            .or_else(|| changed(lines, at, "--to-source 10.", "--to-source 11."))
            .or_else(|| changed(lines, at, "--to 10.", "--to 11."))
    }),
    ("other log prefix", |lines, at, _| {
        changed(lines, at, "-prefix \"fwc", "-prefix \"xwc")
    }),
];

const EXPIRY: &str = " --hashlimit-htable-expire ";

fn is_rule(line: &str) -> bool {
    line.starts_with("-A ")
}

fn with(lines: &[&str], at: usize, instead: &[&str]) -> Vec<String> {
    let parts = lines[..at].iter().chain(instead).chain(&lines[at + 1..]);
    parts.map(|line| (*line).to_owned()).collect()
}

fn without(lines: &[&str], at: usize) -> Vec<String> {
    with(lines, at, &[])
}

fn without_slice<'a>(lines: &[&'a str], at: usize) -> Vec<&'a str> {
    [&lines[..at], &lines[at + 1..]].concat()
}

fn changed(lines: &[&str], at: usize, from: &str, to: &str) -> Option<Vec<String>> {
    let line = lines[at].replacen(from, to, 1);
    (line != lines[at]).then(|| with(lines, at, &[&line]))
}

#[derive(Default)]
struct Count {
    refused: usize,
    killed: usize,
    equal: usize,
}

fn killed_or_equal() -> Result<(), Failed> {
    let first = number("FWC_SEED", 1_000_000);
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for seed in first..first + number("FWC_POLICIES", 200) {
        let mut random = Random(seed);
        let sample = sample(&mut random);
        let Ok(compiled) = compile(&sample.text) else {
            continue;
        };
        let whole = compiled.read();
        for (name, way) in WAYS {
            let family = *random.pick(&Family::ALL);
            let lines: Vec<&str> = compiled.text[family].lines().collect();
            let start = random.below(lines.len());
            let mut mutants = (0..lines.len())
                .filter_map(|offset| way(&lines, (start + offset) % lines.len(), &mut random));
            let Some(mutant) = mutants.next() else {
                continue;
            };
            let text = mutant.join("\n") + "\n";
            let count = counts.entry(name).or_default();
            let mut texts = compiled.text.clone();
            texts[family] = text.clone();
            let Ok(rules) = RenderedRules::read(texts, compiled.sets.as_deref()) else {
                count.refused += 1;
                continue;
            };
            let proof = Verifier::new(&compiled.policy, &compiled.plan).prove(&rules);
            let blame =
                |what: &str| format!("seed {seed}, {name}: {what}\n{}\n{text}", sample.text);
            for disagreement in &proof.disagreements {
                if let DisagreementKind::Internal(_, why) = &disagreement.what {
                    return Err(blame(&format!("{why}: {disagreement:#?}")).into());
                }
            }
            if !proof.holds() {
                count.killed += 1;
                continue;
            }
            // No packet alone shows how long a bucket lives, but that of a rule without packets of its block stays empty.
            if name.starts_with("expiry") && !holds_without(&compiled, family, &lines, &mutant) {
                return Err(blame("survived").into());
            }
            count.equal += 1;
            let all = std::iter::repeat_with(|| sample.packet(&mut random));
            for packet in all.filter(|packet| packet.family == family).take(PACKETS) {
                let sides = [&whole, &rules].map(|rules| rules.ruleset(family));
                let [before, after] = sides.map(|ruleset| fate(&compiled, ruleset, &packet));
                for chain in [
                    NatChain::Prerouting,
                    NatChain::Output,
                    NatChain::Postrouting,
                ] {
                    let packet = in_chain(&packet, chain);
                    let [before, after] =
                        sides.map(|ruleset| compiled.translate(ruleset, &packet, chain));
                    if before != after {
                        let what = format!("survived: {before:?}, then {after:?} for {packet:?}");
                        return Err(blame(&what).into());
                    }
                }
                if before != after {
                    let what = format!("survived: {before:?}, then {after:?} for {packet:?}");
                    return Err(blame(&what).into());
                }
                let early = sides.map(|ruleset| changed::early(&compiled, ruleset, &packet));
                if early[0] != early[1] {
                    let what = format!("survived: {early:?} for {packet:?}");
                    return Err(blame(&what).into());
                }
                let [before, after] =
                    sides.map(|ruleset| changed::mangled(&compiled, ruleset, &packet));
                if before != after {
                    let what = format!("survived: {before:?}, then {after:?} for {packet:?}");
                    return Err(blame(&what).into());
                }
            }
        }
    }
    let mut killed = 0;
    for (name, count) in &counts {
        let Count {
            refused,
            killed: dead,
            equal,
        } = count;
        println!("{name:20} killed {dead:4}  equal {equal:4}  refused {refused:4}");
        killed += dead;
    }
    println!("survived 0");
    for way in ["expiry lost", "expiry shorter"] {
        if counts.get(way).is_none_or(|count| count.killed == 0) {
            return Err(format!("no mutant was killed by {way}").into());
        }
    }
    if killed == 0 {
        return Err("no mutant was killed".into());
    }
    Ok(())
}

/// Whether the rules do the same without the line that a mutant changed: no packet comes to it.
fn holds_without<S: AsRef<str>>(
    compiled: &Compiled,
    family: Family,
    lines: &[&str],
    mutant: &[S],
) -> bool {
    let pairs = lines.iter().zip(mutant);
    let left = pairs.filter(|(line, other)| **line == other.as_ref());
    let left: Vec<&str> = left.map(|(line, _)| *line).collect();
    let mut texts = compiled.text.clone();
    texts[family] = left.join("\n") + "\n";
    RenderedRules::read(texts, compiled.sets.as_deref()).is_ok_and(|rules| {
        Verifier::new(&compiled.policy, &compiled.plan)
            .prove(&rules)
            .holds()
    })
}

/// What a packet meets: the verdict, and the log lines on the way.
fn fate(
    compiled: &Compiled,
    ruleset: &Ruleset,
    packet: &Packet,
) -> (iptables::WalkVerdict, Vec<String>) {
    let walk = compiled.walk(ruleset, packet);
    let chains = &ruleset.table(TableName::Filter).unwrap().chains;
    let targets = walk
        .counted
        .iter()
        .map(|id| &chains[id.chain].rules[id.rule].target);
    let logs = targets.filter(|target| match target {
        Target::Log(_) => true,
        Target::Other(module) => module.name == "NFLOG",
        _ => false,
    });
    (walk.verdict, logs.map(Target::to_text).collect())
}

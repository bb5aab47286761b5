//! Custom rules in random policies: what comes out is proven, and lines of custom rules that are lost, moved or changed
//! are found. Packet by packet nothing is compared here, since `policy::decide` reads no iptables.

use fwc::internals::verify::{RenderedRules, Verifier};
use fwc::net::{Family, PerFamily};
use libtest_mimic::{Failed, Trial};

use crate::generate::{Random, Sample, sample};
use crate::views::{compile, number};

/// The test.
pub fn all() -> Vec<Trial> {
    vec![Trial::test("customs::proven_in_random_policies", proven)]
}

/// Custom rules for a sample; each has a port of its own, from 7001.
pub fn written(random: &mut Random) -> String {
    const TARGETS: [&str; 3] = ["ACCEPT", "DROP", "knock"];
    let mut text = String::from(
        "[[custom]]\nchain = \"knock\"\nrule = \"-m recent --name knock --set -j DROP\"\n\
         [[custom]]\nchain = \"INPUT\"\nrule = \"-p tcp --dport 7001 -j knock\"\n",
    );
    for port in 7002..7002 + random.below(4) {
        let (table, chain) = *random.pick(&[
            ("filter", "INPUT"),
            ("filter", "FORWARD"),
            ("filter", "OUTPUT"),
            ("mangle", "FORWARD"),
            ("raw", "PREROUTING"),
        ]);
        let target = match table {
            "filter" => *random.pick(&TARGETS),
            // To accept there is to do nothing.
            _ => "DROP",
        };
        let is_in_list = table == "filter" && random.once_in(3);
        let (section, key) = match is_in_list {
            true => ("rules", "custom"),
            false => ("custom", "rule"),
        };
        text += &format!(
            "[[{section}]]\nchain = \"{chain}\"\n{key} = \"-p tcp --dport {port} -j {target}\"\n"
        );
        if !is_in_list && (table != "filter" || random.once_in(3)) {
            text += &format!("table = \"{table}\"\n");
        }
        if !is_in_list && random.once_in(2) {
            let place = random.pick(&["before", "here", "after"]);
            text += &format!("place = \"{place}\"\n");
        }
        for (seldom, key) in [
            (4, "scope = \"ipv6\""),
            (4, "comment = \"NET-112\""),
            (8, "enabled = false"),
        ] {
            if random.once_in(seldom) {
                text += &format!("{key}\n");
            }
        }
        if random.once_in(3) {
            text += &format!("name = \"own rule {port}\"\n");
        }
    }
    text
}

/// Puts the custom rules of a text among the rules and entries of another.
fn scattered(random: &mut Random, policy: &str, customs: &str) -> String {
    let mut parts: Vec<String> = policy.split("\n[[").map(str::to_owned).collect();
    for custom in customs.split("[[").filter(|custom| !custom.is_empty()) {
        // Behind what stands in front of the first entry.
        let at = 1 + random.below(parts.len());
        let next = parts.get(at).map_or("", |part| part);
        let custom = match (custom.strip_prefix("rules]]"), next.split_once("]]")) {
            // Between the rules of a block it is one of them, without a chain.
            (Some(rest), Some((list, _))) if list.starts_with("rules.") => {
                let keys = rest.lines().filter(|line| !line.starts_with("chain = "));
                format!("{list}]]{}", keys.collect::<Vec<_>>().join("\n"))
            }
            _ => custom.trim_end().to_owned(),
        };
        parts.insert(at, custom);
    }
    parts.join("\n[[") + "\n"
}

fn proven() -> Result<(), Failed> {
    let first = number("FWC_SEED", 0);
    let (mut policies, mut lost, mut changed, mut moved) = (0, 0, 0, 0);
    for seed in first..first + number("FWC_POLICIES", 60) {
        let mut random = Random(seed);
        let Sample { text, .. } = sample(&mut random);
        let customs = written(&mut random);
        let text = scattered(&mut random, &text, &customs);
        let Ok(compiled) = compile(&text) else {
            continue;
        };
        let holds = |rules: PerFamily<String>| {
            let read = RenderedRules::read(rules, compiled.sets.as_deref());
            // A chain that is not reached any more, and the like: refused as well.
            read.is_ok_and(|read| {
                Verifier::new(&compiled.policy, &compiled.plan)
                    .prove(&read)
                    .holds()
            })
        };
        if !holds(compiled.text.clone()) {
            return Err(format!("seed {seed}: not proven\n{text}").into());
        }
        policies += 1;
        for family in Family::ALL {
            let whole = &compiled.text[family];
            // Of the packets of a block a custom rule may have none.
            let of_block = |line: &str| {
                line.split(' ')
                    .nth(1)
                    .is_some_and(|chain| chain.matches('-').count() > 1)
            };
            let custom = whole
                .lines()
                .filter(|line| line.contains("--dport 700") && !of_block(line));
            let Some(line) = custom.clone().nth(random.below(custom.count().max(1))) else {
                continue;
            };
            let with = |changed: String| {
                let mut rules = compiled.text.clone();
                rules[family] = changed;
                !holds(rules)
            };
            let without = whole.replacen(&format!("{line}\n"), "", 1);
            let (rest, target) = line.rsplit_once(" -j ").unwrap_or((line, ""));
            let other = if target == "ACCEPT" { "DROP" } else { "ACCEPT" };
            let other = format!("{rest} -j {other}");
            let chain = line.split(' ').nth(1).unwrap_or_default();
            // Behind a rule that decides all packets nothing matters.
            let all = [" -j ACCEPT", " -j DROP"].map(|target| format!("-A {chain}{target}"));
            let mut before = whole.lines().take_while(|other| *other != line);
            if before.any(|other| all.iter().any(|all| other == all)) {
                continue;
            }
            let begins =
                format!("-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
            for (what, count, rules) in [
                // Before a default that accepts nothing is lost with a rule that does.
                (
                    "lost",
                    &mut lost,
                    Some(without.clone()).filter(|_| {
                        target != "ACCEPT" || !whole.contains(&format!(":{chain} ACCEPT"))
                    }),
                ),
                (
                    "changed",
                    &mut changed,
                    Some(whole.replacen(line, &other, 1)),
                ),
                (
                    "moved",
                    &mut moved,
                    without
                        .contains(&begins)
                        .then(|| without.replacen(&begins, &format!("{line}\n{begins}"), 1))
                        .filter(|_| !line.contains("-j ACCEPT")),
                ),
            ] {
                let Some(rules) = rules else { continue };
                if !with(rules) {
                    return Err(
                        format!("seed {seed}: {what} unseen: {line}\n{text}\n{whole}").into(),
                    );
                }
                *count += 1;
            }
        }
    }
    println!(
        "{policies} policies with custom rules from seed {first}: {lost} lost, {changed} changed, {moved} moved"
    );
    match policies > 10 && moved > 5 {
        true => Ok(()),
        false => Err("too few".into()),
    }
}

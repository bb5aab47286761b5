//! Firewalls of real hosts in the language: each policy of `tests/real` gets the same packets through as the ruleset that its
//! host had.
//!
//! A ruleset without a file for IPv6 says nothing about IPv6, so that only IPv4 is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fwc::analysis::{Limits, Space, Vocabulary};
use fwc::compile::{Compiled, Deny, Options, compile};
use fwc::diff::{self, ComparedRules};
use fwc::files::Access;
use fwc::iptables::Ruleset;
use fwc::net::{Date, Family};
use fwc::policy::{Policy, PolicyRule};
use libtest_mimic::{Failed, Trial};

/// A policy, and the files of the corpus with the rulesets of its host, without the extension.
struct Host {
    policy: &'static str,
    rulesets: [&'static str; 2],
    /// Text in the lines that are another program's: chains and jumps that the policy preserves.
    preserved: &'static [&'static str],
}

/// A host whose rulesets are `real/NAME.v4` and `real/NAME.v6`.
const fn real(policy: &'static str, rulesets: [&'static str; 2]) -> Host {
    Host {
        policy,
        rulesets,
        preserved: &[],
    }
}

const PROXMOX: [&str; 2] = ["dumps/landrzejewski.proxmox__x-tunnel_rules.v4.v4", ""];

/// An empty name: the host has no such ruleset.
const HOSTS: [Host; 21] = [
    real("asterisk", ["real/asterisk.v4", ""]),
    real("emailgw", ["real/emailgw.v4", ""]),
    real(
        "fedora27",
        [
            "dumps/iptables-git__iptables_tests_shell_testcases_ipt-save_dumps_fedora27-iptables.v4",
            "dumps/iptables-git__iptables_tests_shell_testcases_ipt-save_dumps_fedora27-ip6tables.v6",
        ],
    ),
    real("frognet", ["real/frognet.v4", ""]),
    real("game", ["real/game.v4", ""]),
    real("gatewaynat", ["real/gatewaynat.v4", ""]),
    real("ghostbar", ["real/ghostbar.v4", "real/ghostbar.v6"]),
    real(
        "goautodial",
        [
            "dumps/hamidrhashmi.GoAutoDial__etc_sysconfig_iptables.v4",
            "",
        ],
    ),
    real("ipsecgw", ["real/ipsecgw.v4", "real/ipsecgw.v6"]),
    real("mscs", ["real/mscs.v4", ""]),
    real("multiwan", ["real/multiwan.v4", ""]),
    real("openwrt", ["real/openwrt.v4", ""]),
    real("ovpntor", ["real/ovpntor.v4", ""]),
    real("proxmox", PROXMOX),
    Host {
        policy: "proxmoxown",
        rulesets: PROXMOX,
        preserved: &["DOCKER", "docker0", "br-38086c4b1c27"],
    },
    real("scorebot", ["real/scorebot.v4", ""]),
    real("shorewall2", ["real/shorewall2.v4", ""]),
    real("sipfw", ["real/sipfw.v4", ""]),
    real("teaspeak", ["real/teaspeak.v4", ""]),
    real(
        "testbed",
        [
            "dumps/ciscosrapps.testbed_configs__etc_iptables_rules.v4.v4",
            "dumps/ciscosrapps.testbed_configs__etc_iptables_rules.v6.v6",
        ],
    ),
    real("torhost", ["real/torhost.v4", "real/torhost.v6"]),
];

/// The policies that say something else than the ruleset, with the number of changes and the reason.
const DIFFERENCES: [(&str, usize, &str); 2] = [
    (
        "scorebot",
        2,
        "INPUT and OUTPUT share the buckets of echo; a rule has one for each chain",
    ),
    (
        "shorewall2",
        17,
        "helpers of tcp are for a SYN, and raw takes no tcp-flags; a bucket of hashlimit was forgotten before it was full",
    ),
];

/// The matches of iptables whose answer a packet shows.
const SHOWN: [&str; 8] = [
    "tcp",
    "length",
    "ttl",
    "hl",
    "pkttype",
    "addrtype",
    "physdev",
    "conntrack",
];

pub fn trials() -> Vec<Trial> {
    let same = HOSTS.iter().map(|host| {
        Trial::test(format!("real::{}", host.policy), move || {
            says_the_same(host)
        })
    });
    same.collect()
}

/// The trial that needs no corpus.
pub fn few_rules_are_custom() -> Trial {
    Trial::test("real::few_rules_are_custom", few_are_custom)
}

fn path(policy: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real");
    folder.join(policy).with_extension("toml")
}

fn compiled(policy: &str) -> Result<Compiled, Failed> {
    let deny = Deny::default();
    let options = Options {
        access: Access::Read,
        templates: None,
        verify: true,
        deny: &deny,
        max_lines: None,
        today: Date::constant(2026, 1, 1),
    };
    let outcome = compile(&path(policy), options);
    outcome
        .result
        .map_err(|_| format!("{policy}: {:?}", outcome.findings).into())
}

fn says_the_same(host: &Host) -> Result<(), Failed> {
    let corpus = std::env::var_os("FWC_CORPUS").expect("FWC_CORPUS names the corpus");
    let compiled = compiled(host.policy)?;
    let mut changes = 0;
    let mut reported = Vec::new();
    for (family, file) in Family::ALL.into_iter().zip(host.rulesets) {
        if file.is_empty() {
            continue;
        }
        let text = fs::read_to_string(Path::new(&corpus).join(file))
            .map_err(|error| format!("{file}: {error}"))?;
        let is_own = |line: &&str| !host.preserved.iter().any(|others| line.contains(others));
        let text: Vec<&str> = text.lines().filter(is_own).collect();
        let before = Ruleset::from_text(&(text.join("\n") + "\n"), family)?;
        let after = Ruleset::from_text(compiled.rendered.rules[family].text(), family)?;
        let found = changed(&before, &after)?;
        changes += found.len();
        reported.extend(found);
    }
    let wanted = DIFFERENCES.iter().find(|(name, ..)| *name == host.policy);
    match changes == wanted.map_or(0, |(_, changes, _)| *changes) {
        true => Ok(()),
        false => Err(format!(
            "{}: {changes} changes:\n{}",
            host.policy,
            reported.join("\n")
        )
        .into()),
    }
}

/// Returns what changes between two rulesets, a line for each kind of packets.
fn changed(before: &Ruleset, after: &Ruleset) -> Result<Vec<String>, Failed> {
    let nothing = BTreeMap::new();
    let side = |ruleset| ComparedRules {
        ruleset,
        members: &nothing,
        origin: None,
    };
    let space = Space::for_rules(before.family, [before, after]);
    let rules = diff::rules(before, after, &|_, _| false);
    let vocabulary = Vocabulary::new(&space);
    let sides = (side(before), side(after));
    let changes = diff::packets(&vocabulary, sides.0, sides.1, &rules, Limits::default())?;
    let line = |change: &diff::PacketChange| {
        let words = change
            .boxes
            .first()
            .map(|one| one.packets.words.to_string());
        let (kind, chain) = (change.kind.as_str(), change.chain.as_str());
        let words = words.unwrap_or_default();
        format!(
            "{kind} in {chain}: {:?} -> {:?}: {words}",
            change.before, change.after
        )
    };
    Ok(changes.iter().map(line).collect())
}

/// The entries of a policy: all, and those whose meaning iptables has and the language has not.
#[derive(Default)]
struct Count {
    all: usize,
    opaque: usize,
}

impl Count {
    fn of(policy: &Policy) -> Self {
        let entries = policy.nat.iter().map(|entry| &entry.packets);
        let entries = entries.chain(policy.mangle.iter().map(|entry| &entry.packets));
        let entries = entries.chain(policy.raw.iter().map(|entry| &entry.packets));
        let rules: Vec<&PolicyRule> = policy.rules.iter().chain(entries).collect();
        let custom = policy.custom.len();
        Self {
            all: rules.len() + custom,
            opaque: rules.iter().filter(|rule| is_opaque(rule)).count() + custom,
        }
    }
}

/// Returns `true` for a rule with a match whose answer the packet does not show.
fn is_opaque(rule: &PolicyRule) -> bool {
    let text = rule.matches.as_ref().map_or("", |text| &text.value);
    let mut words = text.split_whitespace();
    let mut modules = std::iter::from_fn(|| {
        words.find(|word| *word == "-m")?;
        words.next()
    });
    modules.any(|module| !SHOWN.contains(&module))
}

fn few_are_custom() -> Result<(), Failed> {
    let mut total = Count::default();
    for host in &HOSTS {
        let count = Count::of(&compiled(host.policy)?.policy);
        println!(
            "{}: {} of {} rules are custom or have an opaque match",
            host.policy, count.opaque, count.all
        );
        total.all += count.all;
        total.opaque += count.opaque;
    }
    println!("all: {} of {}", total.opaque, total.all);
    match total.opaque * 20 <= total.all {
        true => Ok(()),
        false => Err(format!("{} of {} are more than 5 %", total.opaque, total.all).into()),
    }
}

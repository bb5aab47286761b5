//! Which parts of the live rules are fwc's to change.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::patch;
use crate::iptables::TableName;
use crate::live::{LiveChain, LiveChains, LiveRule, LiveRuleset, owners};
use crate::net::{Family, PerFamily};
use crate::policy::{Preserve, is_matched};
use crate::resolve::Ownership;

/// What decides the packets that no rule of fwc's in a base chain decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallthrough {
    /// The policy of the chain.
    Policy,
    /// Other programs' rules, which follow.
    Others,
}

/// The parts of the live rules that are fwc's. Each comparison with the live rules and each change of them goes through here.
///
/// In exclusive mode they are whole tables except for what `preserve` names; in shared mode the chains named `FWC-*`, and the
/// jumps to them from base chains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    tables: PerFamily<Vec<TableName>>,
    #[serde(default)]
    ownership: Ownership,
}

/// The prefix of the names of fwc's chains in shared mode.
const OWN: &str = "FWC-";

impl Owned {
    /// Returns fwc's parts of the tables that these rules files declare.
    pub fn of_files(files: &PerFamily<LiveRuleset>, ownership: &Ownership) -> Self {
        Self {
            tables: PerFamily::from_fn(|family| files[family].tables().collect()),
            ownership: ownership.clone(),
        }
    }

    /// Returns the tables that have parts of fwc's.
    pub fn tables(&self, family: Family) -> &[TableName] {
        &self.tables[family]
    }

    /// Returns `true` if other programs may have rules in the same base chains as fwc.
    pub fn is_beside_others(&self) -> bool {
        match &self.ownership {
            Ownership::Exclusive { preserve } => !preserve.is_empty(),
            Ownership::Shared => true,
        }
    }

    /// Returns `true` in shared mode: the policies of base chains, and all rules outside fwc's chains, are not fwc's.
    pub fn is_shared(&self) -> bool {
        self.ownership == Ownership::Shared
    }

    /// Returns fwc's parts of `live`. In shared mode, the jumps of a base chain count as missing if they are not in their place:
    /// the next apply then puts them there.
    pub fn of(&self, family: Family, live: &LiveRuleset) -> LiveRuleset {
        let mut ours = live.only(&self.tables[family]);
        for &table in &self.tables[family] {
            if live.chains(table).is_none() {
                continue;
            }
            let chains = live.table(table);
            match &self.ownership {
                Ownership::Exclusive { preserve } if preserve.is_empty() => {}
                Ownership::Exclusive { preserve } => {
                    let kept = Kept::new(preserve, &chains);
                    *ours.table_mut(table) = kept.removed(table, chains);
                }
                Ownership::Shared => *ours.table_mut(table) = own_chains(table, chains),
            }
        }
        ours
    }

    /// The same, with the jumps to fwc's chains wherever they are.
    pub fn wherever(&self, family: Family, live: &LiveRuleset) -> LiveRuleset {
        let mut ours = self.of(family, live);
        if self.ownership == Ownership::Shared {
            for &table in &self.tables[family] {
                for (name, chain) in ours.table_mut(table) {
                    let now = live.chain(table, name).filter(|now| now.policy.is_some());
                    if let Some(now) = now {
                        chain.rules = jumps_of(now);
                    }
                }
            }
        }
        ours
    }

    /// Returns what decides the packets that no rule of fwc's in a base chain decides.
    pub fn rest(&self) -> Fallthrough {
        match self.ownership {
            Ownership::Exclusive { .. } => Fallthrough::Policy,
            Ownership::Shared => Fallthrough::Others,
        }
    }

    /// Returns `live` with `ours` in place of fwc's parts.
    pub fn with(&self, family: Family, live: &LiveRuleset, ours: &LiveRuleset) -> LiveRuleset {
        let mut all = live.clone();
        for &table in &self.tables[family] {
            let (now, ours) = (live.table(table), ours.table(table));
            *all.table_mut(table) = match &self.ownership {
                Ownership::Exclusive { preserve } if preserve.is_empty() => ours,
                Ownership::Exclusive { preserve } => {
                    Kept::new(preserve, &now).beside(table, &now, ours)
                }
                Ownership::Shared => beside_others(table, now, &ours),
            };
        }
        all
    }

    /// Returns the index of fwc's first rule in a base chain of a live table; `None` if it has none there.
    pub fn begins(&self, table: TableName, chain: &str, live: &LiveChains) -> Option<usize> {
        let rules = &live.get(chain)?.rules;
        match &self.ownership {
            Ownership::Exclusive { preserve } => {
                let kept = Kept::new(preserve, live);
                let is_built_in = table.base_chains().contains(&chain);
                rules
                    .iter()
                    .position(|rule| !is_built_in || !kept.has(rule))
            }
            Ownership::Shared => rules.iter().position(leads_to_own),
        }
    }

    /// Returns the input of `iptables-restore --noflush --counters` that leads from `live` to `wanted` in these tables. It does not
    /// write other programs' rules in shared base chains again: they may change at any time, and fwc would bring old ones back.
    pub fn between(
        &self,
        live: &LiveRuleset,
        wanted: &LiveRuleset,
        tables: &[TableName],
    ) -> String {
        let base = match self.is_beside_others() {
            true => patch::BaseChains::RuleByRule,
            false => patch::BaseChains::Whole,
        };
        patch::between(live, wanted, tables, base)
    }
}

/// What `preserve` keeps in a table.
struct Kept<'a> {
    preserve: &'a [Preserve],
    /// The kept chains: those that `preserve` names, and those that they and kept rules lead to.
    chains: BTreeSet<String>,
}

impl<'a> Kept<'a> {
    fn new(preserve: &'a [Preserve], chains: &LiveChains) -> Self {
        let mut kept = Self {
            preserve,
            chains: BTreeSet::new(),
        };
        let named = |name: &str| {
            let mut patterns = preserve.iter();
            patterns.any(|one| matches!(one, Preserve::Chain(chain) if is_matched(chain, name)))
        };
        kept.chains
            .extend(chains.keys().filter(|name| named(name)).cloned());
        let rules = chains.values().flat_map(|chain| &chain.rules);
        let named_rules = rules.filter(|rule| kept.names(rule));
        let mut open: Vec<String> = named_rules
            .filter_map(|rule| Some(rule.target()?.to_owned()))
            .chain(kept.chains.iter().cloned())
            .collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let Some(chain) = chains.get(&name).filter(|chain| chain.policy.is_none()) else {
                continue;
            };
            if name.starts_with(OWN) || !seen.insert(name.clone()) {
                continue;
            }
            let targets = chain.rules.iter().filter_map(LiveRule::target);
            open.extend(targets.map(str::to_owned));
            kept.chains.insert(name);
        }
        kept
    }

    /// Returns `true` if `preserve` names a rule by its device, target or text.
    fn names(&self, rule: &LiveRule) -> bool {
        self.preserve.iter().any(|one| match one {
            Preserve::Chain(_) => false,
            Preserve::Device(device) => {
                let mut before = "";
                rule.words().any(|word| {
                    let is_device = matches!(before, "-i" | "-o") && word == device.as_str();
                    before = word;
                    is_device
                })
            }
            Preserve::Target(pattern) => rule
                .target()
                .is_some_and(|target| is_matched(pattern, target)),
            Preserve::Text(text) => rule.spec.contains(text.as_str()),
        })
    }

    /// Returns `true` if a rule is kept: `preserve` names it, or it leads to a kept chain.
    fn has(&self, rule: &LiveRule) -> bool {
        let leads = rule.target().is_some_and(|to| self.chains.contains(to));
        leads || self.names(rule)
    }

    /// Returns the table without what is kept.
    fn removed(&self, table: TableName, mut chains: LiveChains) -> LiveChains {
        chains.retain(|name, _| !self.chains.contains(name));
        for name in table.base_chains() {
            if let Some(chain) = chains.get_mut(*name) {
                chain.rules.retain(|rule| !self.has(rule));
            }
        }
        chains
    }

    /// Returns `ours` with what is kept of `live`. Kept rules come first in base chains: there fail2ban and Docker insert theirs.
    fn beside(&self, table: TableName, live: &LiveChains, mut ours: LiveChains) -> LiveChains {
        for name in &self.chains {
            if let Some(chain) = live.get(name) {
                ours.insert(name.clone(), chain.clone());
            }
        }
        for name in table.base_chains() {
            let (Some(now), Some(chain)) = (live.get(*name), ours.get_mut(*name)) else {
                continue;
            };
            let kept = now.rules.iter().filter(|rule| self.has(rule)).cloned();
            chain.rules.splice(0..0, kept);
        }
        ours
    }
}

/// Returns fwc's part of a table in shared mode: its chains, and the jumps to them unless these are out of place.
fn own_chains(table: TableName, live: LiveChains) -> LiveChains {
    let mut own = LiveRuleset::default().table(table);
    let is_own = |name: &String| name.starts_with(OWN);
    for (name, chain) in live.iter().filter(|(name, _)| is_own(name)) {
        own.insert(name.clone(), chain.clone());
    }
    for name in table.base_chains() {
        let (Some(now), Some(chain)) = (live.get(*name), own.get_mut(*name)) else {
            continue;
        };
        chain.rules = jumps_of(now);
        let mut placed = others_of(now);
        place(&mut placed, &chain.rules);
        let specs = |rules: &[LiveRule]| -> Vec<String> {
            rules.iter().map(|rule| rule.spec.clone()).collect()
        };
        if specs(&placed) != specs(&now.rules) {
            chain.rules.clear();
        }
    }
    own
}

/// Returns a table in shared mode with fwc's chains, and the jumps to them in their place.
fn beside_others(table: TableName, live: LiveChains, ours: &LiveChains) -> LiveChains {
    let mut all = live;
    all.retain(|name, _| !name.starts_with(OWN));
    for (name, chain) in ours.iter().filter(|(name, _)| name.starts_with(OWN)) {
        all.insert(name.clone(), chain.clone());
    }
    for name in table.base_chains() {
        let jumps = ours.get(*name).map_or(&[][..], |chain| &chain.rules);
        if let Some(chain) = all.get_mut(*name) {
            let mut rules = others_of(chain);
            let counters = |rule: &LiveRule| {
                let mut now = chain.rules.iter();
                let same = now.find(|now| now.spec == rule.spec);
                same.map_or(rule.counters, |now| now.counters)
            };
            let jumps: Vec<_> = jumps
                .iter()
                .map(|rule| LiveRule {
                    counters: counters(rule),
                    ..rule.clone()
                })
                .collect();
            place(&mut rules, &jumps);
            chain.rules = rules;
        }
    }
    // If a chain of fwc's goes, so do other programs' rules that lead to it: the kernel would refuse to delete its target.
    let names: Vec<String> = all.keys().cloned().collect();
    let leads = |rule: &LiveRule| {
        let to = rule.target().filter(|to| to.starts_with(OWN));
        to.is_none_or(|to| names.iter().any(|name| name == to))
    };
    for chain in all.values_mut() {
        chain.rules.retain(leads);
    }
    all
}

fn leads_to_own(rule: &LiveRule) -> bool {
    rule.target().is_some_and(|to| to.starts_with(OWN))
}

fn jumps_of(chain: &LiveChain) -> Vec<LiveRule> {
    let jumps = chain.rules.iter().filter(|rule| leads_to_own(rule));
    jumps.cloned().collect()
}

fn others_of(chain: &LiveChain) -> Vec<LiveRule> {
    let others = chain.rules.iter().filter(|rule| !leads_to_own(rule));
    others.cloned().collect()
}

/// Puts jumps into a base chain: behind the last jump to a chain of bans, else first. fwc's rules may accept packets, which
/// would then miss the bans behind them.
fn place(rules: &mut Vec<LiveRule>, jumps: &[LiveRule]) {
    let bans = |rule: &LiveRule| rule.target().is_some_and(owners::bans);
    let at = rules.iter().rposition(bans).map_or(0, |ban| ban + 1);
    rules.splice(at..at, jumps.iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::Owned;
    use crate::iptables::TableName;
    use crate::live::LiveRuleset;
    use crate::net::{Family, InterfacePattern, PerFamily};
    use crate::policy::Preserve;
    use crate::resolve::Ownership;

    fn filter(body: &str) -> LiveRuleset {
        LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap()
    }

    fn owned(ownership: Ownership) -> Owned {
        let files = PerFamily::from_fn(|_| filter(""));
        Owned::of_files(&files, &ownership)
    }

    fn preserving(preserve: &[Preserve]) -> Owned {
        owned(Ownership::Exclusive {
            preserve: preserve.to_vec(),
        })
    }

    const LIVE: &str = ":INPUT DROP [1:1]\n:FORWARD DROP [2:2]\n:DOCKER - [0:0]\n:DOCKER-CT - [0:0]\n:f2b-sshd - [0:0]\n[5:5] -A INPUT -p tcp -j f2b-sshd\n-A INPUT -s 192.0.2.1/32 -j DROP\n[6:6] -A FORWARD -o docker0 -j DOCKER\n-A FORWARD ! -i docker0 -s 10.0.0.1/32 -j ACCEPT\n-A FORWARD -j LOG\n-A DOCKER -j DOCKER-CT\n-A DOCKER-CT -j ACCEPT\n[7:7] -A f2b-sshd -s 203.0.113.9/32 -j DROP\n";
    const OURS: &str = ":FWC-INPUT - [0:0]\n:FWC-FORWARD - [0:0]\n-A INPUT -j FWC-INPUT\n-A FORWARD -j FWC-FORWARD\n-A FWC-INPUT -j DROP\n-A FWC-FORWARD -j ACCEPT\n";

    #[test]
    fn jumps_come_behind_bans_else_first() {
        let owned = owned(Ownership::Shared);
        let (live, ours) = (filter(LIVE), filter(OURS));
        let all = owned.with(Family::V4, &live, &ours);
        let input = all.chain(TableName::Filter, "INPUT").unwrap();
        let specs: Vec<_> = input.rules.iter().map(|rule| rule.spec.as_str()).collect();
        assert_eq!(
            specs,
            [
                "-p tcp -j f2b-sshd",
                "-j FWC-INPUT",
                "-s 192.0.2.1/32 -j DROP"
            ]
        );
        assert_eq!(input.policy.as_deref(), Some("DROP"));
        let forward = all.chain(TableName::Filter, "FORWARD").unwrap();
        assert_eq!(forward.rules[0].spec, "-j FWC-FORWARD");
        assert_eq!(owned.of(Family::V4, &all).normal(), ours.normal());
        assert_eq!(owned.of(Family::V4, &live).normal(), "");
        // Taken out again, others' rules are as they were.
        let none = owned.with(Family::V4, &all, &LiveRuleset::default());
        assert_eq!(none.normal(), live.normal());
        insta::assert_snapshot!(owned.between(&live, &all, &[TableName::Filter]), @r"
        *filter
        :INPUT DROP [1:1]
        :FORWARD DROP [2:2]
        :OUTPUT ACCEPT [0:0]
        :FWC-FORWARD - [0:0]
        :FWC-INPUT - [0:0]
        [0:0] -A FWC-FORWARD -j ACCEPT
        [0:0] -A FWC-INPUT -j DROP
        [0:0] -I FORWARD 1 -j FWC-FORWARD
        [0:0] -I INPUT 2 -j FWC-INPUT
        COMMIT
        ");
    }

    #[test]
    fn jump_behind_another_rule_is_put_first_again() {
        let owned = owned(Ownership::Shared);
        let late = format!("{OURS}-A FORWARD -j FWC-FORWARD\n").replacen(
            "-A FORWARD -j FWC-FORWARD\n",
            "-A FORWARD -j LOG\n",
            1,
        );
        let live = filter(&late);
        assert_ne!(owned.of(Family::V4, &live).normal(), filter(OURS).normal());
        let all = owned.with(Family::V4, &live, &filter(OURS));
        let forward = all.chain(TableName::Filter, "FORWARD").unwrap();
        assert_eq!(forward.rules[0].spec, "-j FWC-FORWARD");
        assert_eq!(forward.rules.len(), 2);
    }

    #[test]
    fn preserved_parts_are_not_fwcs() {
        let owned = preserving(&[
            Preserve::Chain("f2b-*".to_owned()),
            Preserve::Device(InterfacePattern::parse("docker0").unwrap()),
        ]);
        let live = filter(LIVE);
        let others = ":INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-A INPUT -s 192.0.2.1/32 -j DROP\n-A FORWARD -j LOG\n";
        assert_eq!(
            owned.of(Family::V4, &live).normal(),
            filter(others).normal()
        );
        let ours = filter(":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n");
        let all = owned.with(Family::V4, &live, &ours);
        let input = all.chain(TableName::Filter, "INPUT").unwrap();
        let specs: Vec<_> = input.rules.iter().map(|rule| rule.spec.as_str()).collect();
        assert_eq!(specs, ["-p tcp -j f2b-sshd", "-i lo -j ACCEPT"]);
        insta::assert_snapshot!(owned.between(&live, &all, &[TableName::Filter]), @r"
        *filter
        :INPUT DROP [1:1]
        :FORWARD ACCEPT [2:2]
        :OUTPUT ACCEPT [0:0]
        -D FORWARD -j LOG
        -D INPUT -s 192.0.2.1/32 -j DROP
        [0:0] -I INPUT 2 -i lo -j ACCEPT
        COMMIT
        ");
        assert_eq!(owned.of(Family::V4, &all).normal(), ours.normal());
    }
}

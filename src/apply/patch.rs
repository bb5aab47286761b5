//! Patches: the smallest input of `iptables-restore --noflush` that leads from live rules to wanted ones.
//!
//! A patch writes only the chains that change, each whole, in one transaction per table, with the policies and the jumps to
//! them. Rules that remain in a chain keep their counters, and so does a rule that moved within its table.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use crate::iptables::{Alignment, Counters, Hunk, TableName};
use crate::live::{LINE_FEED, LiveChain, LiveChains, LiveRuleset};

/// Returns the input of `iptables-restore --noflush --counters` that leads from `live` to `wanted`; empty if nothing differs.
///
/// Rules that are live keep their counters of `live`, the others have those of `wanted`. Tables that are not listed are left
/// alone.
pub fn between(
    live: &LiveRuleset,
    wanted: &LiveRuleset,
    tables: &[TableName],
    base: BaseChains,
) -> String {
    let mut text = String::new();
    for &table in tables {
        let (from, to) = (live.table(table), wanted.table(table));
        edit(&mut text, table, &from, &to, base);
    }
    text
}

/// How a patch changes base chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseChains {
    /// Flush and fill them.
    Whole,
    /// Delete and insert the rules that differ: other programs have rules there as well, and may change them at any time.
    RuleByRule,
}

/// Returns the tables that differ, in this order.
pub fn changed(live: &LiveRuleset, wanted: &LiveRuleset, tables: &[TableName]) -> Vec<TableName> {
    let mut changed = tables.to_vec();
    changed.retain(|table| !between(live, wanted, &[*table], BaseChains::Whole).is_empty());
    changed
}

/// Returns `wanted` with the counters of `live` for the rules and policies that are in both.
pub fn carry(live: &LiveRuleset, wanted: &LiveRuleset, tables: &[TableName]) -> LiveRuleset {
    let mut carried = wanted.clone();
    for &table in tables {
        let (from, to) = (live.table(table), wanted.table(table));
        let all = to.keys().map(String::as_str).collect();
        let mut pool = Pool::new(&from, &to, &all);
        for (name, chain) in &to {
            let counters = pool.counters_of(name, chain);
            if let Some(chain) = carried.table_mut(table).get_mut(name) {
                chain.counters = from.get(name).map_or(chain.counters, |old| old.counters);
                for (rule, counters) in chain.rules.iter_mut().zip(counters) {
                    rule.counters = counters;
                }
            }
        }
    }
    carried
}

fn same_rules(a: &LiveChain, b: &LiveChain) -> bool {
    a.rules.len() == b.rules.len() && a.rules.iter().zip(&b.rules).all(|(a, b)| a.spec == b.spec)
}

/// Appends the patch of a table.
fn edit(text: &mut String, table: TableName, from: &LiveChains, to: &LiveChains, base: BaseChains) {
    let built_in = table.base_chains();
    let rewritten: BTreeSet<&str> = to
        .iter()
        .filter(|(name, chain)| !from.get(*name).is_some_and(|old| same_rules(old, chain)))
        .map(|(name, _)| name.as_str())
        .collect();
    let removed: Vec<&str> = from
        .keys()
        .map(String::as_str)
        .filter(|name| !to.contains_key(*name) && !built_in.contains(name))
        .collect();
    let policies_change = built_in.iter().any(|name| {
        let policy = |chains: &LiveChains| chains.get(*name).and_then(|chain| chain.policy.clone());
        policy(to) != policy(from)
    });
    if rewritten.is_empty() && removed.is_empty() && !policies_change {
        return;
    }
    let is_whole = |name: &&str| base == BaseChains::Whole || !built_in.contains(name);
    let mut pool = Pool::new(from, to, &rewritten);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "*{table}");
    // x_tables resets the counters of a policy unless they are written again.
    for name in built_in {
        if let Some(chain) = to.get(*name) {
            let counters = from.get(*name).map_or(chain.counters, |old| old.counters);
            let policy = chain.policy.as_deref().unwrap_or("ACCEPT");
            let _ = writeln!(text, ":{name} {policy} {counters}");
        }
    }
    for name in rewritten.iter().filter(|name| !built_in.contains(name)) {
        let _ = writeln!(text, ":{name} - [0:0]");
    }
    let emptied = rewritten
        .iter()
        .filter(|name| built_in.contains(name) && is_whole(name));
    for name in emptied.chain(&removed) {
        let _ = writeln!(text, "-F {name}");
    }
    for name in rewritten.iter().filter(|name| is_whole(name)) {
        for (rule, counters) in to[*name]
            .rules
            .iter()
            .zip(pool.counters_of(name, &to[*name]))
        {
            let space = if rule.spec.is_empty() { "" } else { " " };
            let _ = writeln!(text, "{counters} -A {name}{space}{}", rule.spec);
        }
    }
    for name in rewritten.iter().filter(|name| !is_whole(name)) {
        if let Some(old) = from.get(*name) {
            rule_by_rule(text, name, old, &to[*name]);
        }
    }
    for name in &removed {
        let _ = writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
}

/// Appends commands that delete and insert the rules that differ, from the first to the last.
fn rule_by_rule(text: &mut String, name: &str, from: &LiveChain, to: &LiveChain) {
    let (old, new) = (from.specs(), to.specs());
    // The chain after the edits so far.
    let mut now = old.clone();
    for Hunk { old, new } in Alignment::new(&old, &new).hunks {
        for _ in old {
            let spec = now.remove(new.start);
            // By its text, which still finds the rule if another program inserted or deleted some meanwhile. By its number if an
            // equal rule comes before it, or if its text does not fit on one line.
            let by_number = now[..new.start].contains(&spec) || spec.contains(LINE_FEED);
            let _ = match by_number {
                true => writeln!(text, "-D {name} {}", new.start + 1),
                false => writeln!(text, "-D {name} {spec}"),
            };
        }
        for index in new {
            let rule = &to.rules[index];
            let (counters, spec) = (rule.counters, rule.spec.as_str());
            let _ = writeln!(text, "{counters} -I {name} {} {spec}", index + 1);
            now.insert(index, spec);
        }
    }
}

/// The counters of the live rules of rewritten and removed chains.
struct Pool<'a> {
    /// Of rules that their chain keeps, by chain and text, each copy in order.
    here: BTreeMap<(&'a str, &'a str), VecDeque<Counters>>,
    /// Of rules that left their chain, by text.
    moved: BTreeMap<&'a str, VecDeque<Counters>>,
}

impl<'a> Pool<'a> {
    fn new(from: &'a LiveChains, to: &'a LiveChains, rewritten: &BTreeSet<&str>) -> Self {
        let mut pool = Self {
            here: BTreeMap::new(),
            moved: BTreeMap::new(),
        };
        for (name, chain) in from {
            let gone = !to.contains_key(name);
            if !gone && !rewritten.contains(name.as_str()) {
                continue;
            }
            let mut left: BTreeMap<&str, usize> = BTreeMap::new();
            for rule in to.get(name).into_iter().flat_map(|chain| &chain.rules) {
                *left.entry(rule.spec.as_str()).or_default() += 1;
            }
            for rule in &chain.rules {
                let spec = rule.spec.as_str();
                match left.get_mut(spec) {
                    Some(left) if *left > 0 => {
                        *left -= 1;
                        let here = self::entry(&mut pool.here, (name.as_str(), spec));
                        here.push_back(rule.counters);
                    }
                    _ => self::entry(&mut pool.moved, spec).push_back(rule.counters),
                }
            }
        }
        pool
    }

    /// Takes the counters of the rules of a chain out of the pool: those of the same rule in this chain, else those of one that
    /// left another chain, else those that the rule has.
    fn counters_of(&mut self, name: &'a str, chain: &'a LiveChain) -> Vec<Counters> {
        let rules = chain.rules.iter();
        rules
            .map(|rule| {
                let spec = rule.spec.as_str();
                let here = self
                    .here
                    .get_mut(&(name, spec))
                    .and_then(VecDeque::pop_front);
                here.or_else(|| self.moved.get_mut(spec).and_then(VecDeque::pop_front))
                    .unwrap_or(rule.counters)
            })
            .collect()
    }
}

fn entry<K: Ord>(map: &mut BTreeMap<K, VecDeque<Counters>>, key: K) -> &mut VecDeque<Counters> {
    map.entry(key).or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BaseChains, between};
    use crate::iptables::TableName;
    use crate::live::LiveRuleset;

    fn dump(body: &str) -> LiveRuleset {
        LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap()
    }

    const FILTER: &[TableName] = &[TableName::Filter];

    #[test]
    fn only_what_changes_is_written() {
        let live = dump(
            ":INPUT ACCEPT [5:500]\n:FORWARD ACCEPT [1:1]\n:same - [0:0]\n:old - [0:0]\n[7:700] -A INPUT -i lo -j ACCEPT\n[8:800] -A INPUT -j old\n[9:900] -A same -j DROP\n[3:300] -A old -s 192.0.2.1/32 -j DROP\n",
        );
        let wanted = dump(
            ":INPUT DROP [0:0]\n:same - [0:0]\n:new - [0:0]\n-A INPUT -j new\n-A INPUT -i lo -j ACCEPT\n-A same -j DROP\n-A new -s 192.0.2.1/32 -j DROP\n",
        );
        insta::assert_snapshot!(between(&live, &wanted, FILTER, BaseChains::Whole), @r"
        *filter
        :INPUT DROP [5:500]
        :FORWARD ACCEPT [1:1]
        :OUTPUT ACCEPT [0:0]
        :new - [0:0]
        -F INPUT
        -F old
        [0:0] -A INPUT -j new
        [7:700] -A INPUT -i lo -j ACCEPT
        [3:300] -A new -s 192.0.2.1/32 -j DROP
        -X old
        COMMIT
        ");
        assert_eq!(between(&live, &live, FILTER, BaseChains::Whole), "");
        assert_eq!(between(&live, &wanted, &[], BaseChains::Whole), "");
    }

    #[test]
    fn policy_alone_leaves_the_rules() {
        let live = dump(":INPUT ACCEPT [5:500]\n[7:700] -A INPUT -i lo -j ACCEPT\n");
        let wanted = dump(":INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\n");
        let text = between(&live, &wanted, FILTER, BaseChains::Whole);
        assert!(
            text.contains(":INPUT DROP [5:500]\n") && !text.contains("-A "),
            "{text}"
        );
    }

    /// Some chains with some rules; a rule jumps only to chains that are there.
    fn any_dump() -> impl Strategy<Value = LiveRuleset> {
        let rules = || prop::collection::vec(0_usize..6, 0..5);
        let chain = (0_usize..4, rules());
        let policy = prop::sample::select(vec!["ACCEPT", "DROP"]);
        (policy, prop::collection::vec(chain, 0..4), rules()).prop_map(|(policy, chains, input)| {
            let mut named: std::collections::BTreeMap<usize, Vec<usize>> =
                chains.into_iter().collect();
            let mut text = format!(":INPUT {policy} [1:1]\n");
            for name in named.keys() {
                text.push_str(&format!(":c{name} - [0:0]\n"));
            }
            for number in input {
                text.push_str(&format!(
                    "[{number}:1] -A INPUT -s 192.0.2.{number}/32 -j DROP\n"
                ));
            }
            if let Some(name) = named.keys().next() {
                text.push_str(&format!("-A INPUT -j c{name}\n"));
            }
            for (name, rules) in &mut named {
                for number in rules {
                    text.push_str(&format!(
                        "[{number}:2] -A c{name} -s 192.0.2.{number}/32 -j DROP\n"
                    ));
                }
            }
            dump(&text)
        })
    }

    proptest! {
        #[test]
        fn patch_leads_from_any_rules_to_any_others(from in any_dump(), to in any_dump()) {
            let mut live = from.clone();
            live.execute(&between(&from, &to, FILTER, BaseChains::Whole)).unwrap();
            prop_assert_eq!(live.normal(), to.normal());
            let mut live = from.clone();
            live.execute(&between(&from, &to, FILTER, BaseChains::RuleByRule)).unwrap();
            prop_assert_eq!(live.normal(), to.normal());
            prop_assert_eq!(between(&live, &to, FILTER, BaseChains::Whole), "");
        }
    }
}

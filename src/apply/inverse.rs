//! The inverse of a change: the live rules without fwc's change, but with every change that other programs made since.

use std::collections::{BTreeMap, BTreeSet};

use crate::iptables::{Alignment, TableName};
use crate::live::{LiveChain, LiveChains, LiveRule, LiveRuleset};

/// Returns `live` with the change from `before` to one of `states` undone.
///
/// `states` are the rulesets that the change goes through, each table whole or not at all. The one that is nearest to the live
/// rules is taken as the active one: the fwc that made the change may have died before it could write down how far it came.
///
/// A chain that the change did not touch remains as it is live. In one that it touched, rules that other programs added since
/// remain behind the rule that they followed, and rules that other programs removed do not come back. Counters are those of
/// `before`; the loader prefers the counters of live rules.
pub fn inverse(
    before: &LiveRuleset,
    states: &[&LiveRuleset],
    live: &LiveRuleset,
    tables: &[TableName],
) -> LiveRuleset {
    let mut wanted = live.clone();
    for &table in tables {
        let (a, now) = (before.table(table), live.table(table));
        let candidates = states.iter().map(|state| state.table(table));
        let nearest = candidates.min_by_key(|state| distance(state, &now));
        // If the old rules are at least as near, the change has not come to this table.
        let Some(b) = nearest.filter(|state| distance(state, &now) < distance(&a, &now)) else {
            continue;
        };
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let chains = wanted.table_mut(table);
        for name in names {
            match (a.get(name), b.get(name), chains.get(name)) {
                // Not touched by the change; or added by another program since.
                (Some(old), Some(new), _) if same(old, new) => {}
                (Some(_), None, Some(_)) | (None, None, _) => {}
                (Some(old), Some(new), Some(now)) => {
                    let merged = merge(old, new, now);
                    chains.insert(name.clone(), merged);
                }
                (Some(old), _, None) => {
                    chains.insert(name.clone(), old.clone());
                }
                (None, Some(_), _) => {
                    chains.remove(name);
                }
            }
        }
        keep_targets(chains, &now, &b);
    }
    wanted
}

/// Returns how many rules, chains and policies differ.
fn distance(a: &LiveChains, b: &LiveChains) -> usize {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let of_chain = |name| {
        let (a, b) = match (a.get(name), b.get(name)) {
            (Some(a), Some(b)) => (a, b),
            (one, other) => return 1 + one.or(other).map_or(0, |chain| chain.rules.len()),
        };
        let mut counts: BTreeMap<&str, isize> = BTreeMap::new();
        for spec in a.specs() {
            *counts.entry(spec).or_default() += 1;
        }
        for spec in b.specs() {
            *counts.entry(spec).or_default() -= 1;
        }
        let rules: usize = counts.into_values().map(isize::unsigned_abs).sum();
        // The same rules in another order differ, too.
        rules + usize::from(!same(a, b))
    };
    names.into_iter().map(of_chain).sum()
}

fn same(a: &LiveChain, b: &LiveChain) -> bool {
    a.policy == b.policy && a.specs() == b.specs()
}

/// Keeps the chains that the change made and that another program's rule leads to: without its target that rule could not be
/// loaded.
fn keep_targets(wanted: &mut LiveChains, live: &LiveChains, after: &LiveChains) {
    loop {
        let rules = wanted.values().flat_map(|chain| &chain.rules);
        let missing: BTreeSet<String> = rules
            .filter_map(LiveRule::target)
            .filter(|target| !wanted.contains_key(*target) && after.contains_key(*target))
            .map(str::to_owned)
            .collect();
        if missing.is_empty() {
            return;
        }
        for name in missing {
            let chain = live.get(&name).or_else(|| after.get(&name));
            wanted.insert(name, chain.cloned().unwrap_or_default());
        }
    }
}

/// Returns `old` with the rules that `now` has and `new` has not, and without those that `new` has and `now` has not.
fn merge(old: &LiveChain, new: &LiveChain, now: &LiveChain) -> LiveChain {
    let policy = if now.policy == new.policy {
        old.policy.clone()
    } else {
        now.policy.clone()
    };
    let mut merged = LiveChain {
        policy,
        counters: now.counters,
        rules: old.rules.clone(),
    };
    let new_specs = new.specs();
    let since = Alignment::new(&new_specs, &now.specs());
    if since.hunks.is_empty() {
        return merged;
    }
    // The index in `old` of each rule of `new`.
    let mut index_in_old: Vec<Option<usize>> = vec![None; new.rules.len()];
    for (new, old) in Alignment::new(&new_specs, &old.specs()).kept {
        index_in_old[new] = Some(old);
    }
    let mut removed: BTreeSet<usize> = BTreeSet::new();
    // The added rules before the rule of `old` with this index.
    let mut added: BTreeMap<usize, Vec<LiveRule>> = BTreeMap::new();
    for hunk in since.hunks {
        let before = index_in_old[..hunk.old.start]
            .iter()
            .rev()
            .find_map(|index| *index);
        removed.extend(hunk.old.filter_map(|index| index_in_old[index]));
        added
            .entry(before.map_or(0, |index| index + 1))
            .or_default()
            .extend(now.rules[hunk.new].iter().cloned());
    }
    merged.rules.clear();
    for (index, rule) in old.rules.iter().enumerate() {
        merged
            .rules
            .extend(added.remove(&index).unwrap_or_default());
        if !removed.contains(&index) {
            merged.rules.push(rule.clone());
        }
    }
    merged.rules.extend(added.into_values().flatten());
    merged
}

#[cfg(test)]
mod tests {
    use super::inverse;
    use crate::iptables::TableName;
    use crate::live::LiveRuleset;

    fn dump(body: &str) -> LiveRuleset {
        LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap()
    }

    fn undone(before: &str, after: &str, live: &str) -> String {
        let wanted = inverse(
            &dump(before),
            &[&dump(after)],
            &dump(live),
            &[TableName::Filter],
        );
        wanted.normal()
    }

    const BEFORE: &str = ":INPUT ACCEPT [0:0]\n:mine - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j mine\n-A mine -j DROP\n";
    const AFTER: &str = ":INPUT DROP [0:0]\n:yours - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -s 192.0.2.1/32 -j ACCEPT\n-A yours -j ACCEPT\n";

    #[test]
    fn without_others_it_is_what_was_before() {
        assert_eq!(undone(BEFORE, AFTER, AFTER), dump(BEFORE).normal());
        assert_eq!(undone(BEFORE, BEFORE, BEFORE), dump(BEFORE).normal());
    }

    /// A ban and a container's port were added since, and a ban ended.
    #[test]
    fn other_programs_changes_are_kept() {
        let before = ":INPUT ACCEPT [0:0]\n:f2b - [0:0]\n:FWC - [0:0]\n-A INPUT -j f2b\n-A INPUT -j FWC\n-A f2b -s 192.0.2.7/32 -j DROP\n";
        let after = &before.replace("-j FWC\n", "-j FWC\n-A INPUT -s 10.0.0.1/32 -j ACCEPT\n");
        let live = ":INPUT ACCEPT [0:0]\n:f2b - [0:0]\n:FWC - [0:0]\n:DOCKER - [0:0]\n-A INPUT -i docker0 -j DOCKER\n-A INPUT -j f2b\n-A INPUT -j FWC\n-A INPUT -s 10.0.0.1/32 -j ACCEPT\n-A f2b -s 192.0.2.8/32 -j DROP\n-A DOCKER -j ACCEPT\n";
        let wanted = live.replace("-A INPUT -s 10.0.0.1/32 -j ACCEPT\n", "");
        assert_eq!(undone(before, after, live), dump(&wanted).normal());
    }

    #[test]
    fn rules_that_others_added_or_removed_in_our_chain_are_respected() {
        let live = AFTER
            .replace(
                "-A INPUT -i lo -j ACCEPT\n",
                "-A INPUT -i lo -j ACCEPT\n-A INPUT -s 10.9.9.9/32 -j DROP\n",
            )
            .replace(":INPUT DROP", ":OUTPUT DROP [0:0]\n:INPUT DROP");
        let wanted = BEFORE
            .replace(
                "-A INPUT -j mine\n",
                "-A INPUT -s 10.9.9.9/32 -j DROP\n-A INPUT -j mine\n",
            )
            .replace(":INPUT ACCEPT", ":OUTPUT DROP [0:0]\n:INPUT ACCEPT");
        assert_eq!(undone(BEFORE, AFTER, &live), dump(&wanted).normal());
        let live = AFTER.replace("-A INPUT -i lo -j ACCEPT\n", "");
        let wanted = BEFORE.replace("-A INPUT -i lo -j ACCEPT\n", "");
        assert_eq!(undone(BEFORE, AFTER, &live), dump(&wanted).normal());
    }

    #[test]
    fn chain_that_others_lead_into_stays() {
        let live = format!("{AFTER}-A FORWARD -j yours\n");
        let wanted = format!("{BEFORE}:yours - [0:0]\n-A FORWARD -j yours\n-A yours -j ACCEPT\n");
        assert_eq!(undone(BEFORE, AFTER, &live), dump(&wanted).normal());
    }

    /// Killed before the load: whatever others do meanwhile, there is nothing to take back.
    #[test]
    fn change_that_never_came_is_not_taken_back() {
        assert_eq!(undone(BEFORE, AFTER, BEFORE), dump(BEFORE).normal());
        let live = format!("{BEFORE}-A INPUT -s 10.9.9.9/32 -j DROP\n");
        assert_eq!(undone(BEFORE, AFTER, &live), dump(&live).normal());
    }
}

//! Taking a change back: what live has to become so that our change is gone and everything that others did since stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::iptables::{Alignment, TableName};
use crate::live::{LiveChain, LiveChains, LiveRule, LiveRuleset};

/// What live has to become: `live` with the change from `before` to one of `states` undone.
///
/// `states` are the rulesets that the change goes through, each table whole or not at all; which one is in force is told
/// from live itself, for whoever made the change may have died before it could say so.
///
/// A chain that the change did not touch stays as it is live. In one that it did, rules that others added since the change
/// stay behind the rule that they stood behind, and rules that others removed do not come back. Counters are those of
/// `before`; the loader prefers what live rules count now.
pub fn inverse(
    before: &LiveRuleset,
    states: &[&LiveRuleset],
    live: &LiveRuleset,
    tables: &[TableName],
) -> LiveRuleset {
    let mut wanted = live.clone();
    for &table in tables {
        let (a, now) = (before.table(table), live.table(table));
        let in_force = states.iter().map(|state| state.table(table));
        let nearest = in_force.min_by_key(|state| distance(state, &now));
        // The nearest of all is what was before: the change has not come here.
        let Some(b) = nearest.filter(|state| distance(state, &now) < distance(&a, &now)) else {
            continue;
        };
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let chains = wanted.table_mut(table);
        for name in names {
            match (a.get(name), b.get(name), chains.get(name)) {
                // Not touched by the change; or made by others since.
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

/// How many rules, chains and policies differ.
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

/// A rule of others may lead into a chain that the change made: then that chain stays.
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

/// `old` with what `now` has beyond `new`, and without what `now` has not any more.
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
    // Where each rule of `new` stands in `old`.
    let mut place: Vec<Option<usize>> = vec![None; new.rules.len()];
    for (new, old) in Alignment::new(&new_specs, &old.specs()).kept {
        place[new] = Some(old);
    }
    let mut gone: BTreeSet<usize> = BTreeSet::new();
    // What comes before the rule of `old` with this index.
    let mut added: BTreeMap<usize, Vec<LiveRule>> = BTreeMap::new();
    for hunk in since.hunks {
        let before = place[..hunk.old.start]
            .iter()
            .rev()
            .find_map(|place| *place);
        gone.extend(hunk.old.filter_map(|index| place[index]));
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
        if !gone.contains(&index) {
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

    /// A ban and a container's port that came since, and a ban that ended.
    #[test]
    fn what_others_did_since_stays_done() {
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

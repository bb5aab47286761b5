//! Checks that the rules of a change are live.

use super::drift::{Drift, RuleDriftKind, drift, has_no_rule_of};
use super::error::Error;
use super::records::Intent;
use super::rulesets::parse_file;
use super::sets;
use crate::diag::harmless;
use crate::live::Host;
use crate::net::Family;

/// How many of the missing rules an error names.
const MOST: usize = 5;

/// Stops if rules, chains, policies or sets of the change are missing. What other programs added since does not matter.
pub(super) fn check(host: &dyn Host, intent: &Intent) -> Result<(), Error> {
    let mut missing = Vec::new();
    for family in Family::ALL {
        let live = host.save(family).map_err(Error::Live)?;
        let ours = intent.owned.of(family, &live);
        let after = parse_file(family, &intent.after[family])?;
        for found in drift(family, &after, &ours, &live) {
            let place = format!("{family} {} {}", found.table, found.chain);
            match found.what {
                Drift::Gone { .. } => missing.push(format!("{place}: the chain is missing")),
                Drift::Extra { .. } => {}
                Drift::Changed { policy, rules } => {
                    missing.extend(
                        policy.map(|[wanted, is]| {
                            format!("{place}: the policy is {is}, not {wanted}")
                        }),
                    );
                    let gone = rules
                        .iter()
                        .filter(|rule| rule.what == RuleDriftKind::Missing);
                    missing.extend(gone.map(|rule| {
                        let spec = harmless(&rule.spec);
                        format!("{place}: `-A {} {spec}` is missing", found.chain)
                    }));
                }
            }
        }
    }
    let sets = sets::parse(&intent.sets_after)?;
    if !sets.0.is_empty() {
        let there = host.list_sets().map_err(Error::Live)?;
        let gone = sets.0.keys().filter(|name| !there.contains_key(*name));
        missing.extend(gone.map(|name| format!("the set `{name}` is missing")));
    }
    if missing.is_empty() {
        return Ok(());
    }
    if missing.len() > MOST {
        let more = missing.len() - MOST;
        missing.truncate(MOST);
        missing.push(format!("and {more} more"));
    }
    Err(Error::NotInForce {
        number: intent.number,
        missing,
    })
}

/// Returns `true` if no rule of the change is live; `false` if the live rules cannot be read.
pub(super) fn is_gone(host: &dyn Host, intent: &Intent) -> bool {
    Family::ALL.into_iter().all(|family| {
        let after = parse_file(family, &intent.after[family]);
        let (Ok(live), Ok(after)) = (host.save(family), after) else {
            return false;
        };
        has_no_rule_of(&intent.owned.of(family, &live), &after)
    })
}

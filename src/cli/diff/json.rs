//! A difference for programs: `fwc.diff/1`.

use serde_json::{Map, Value, json};

use super::side::{Described, Side};
use super::{Difference, Shown};
use crate::diag::Style;
use crate::diff::{Change, ChangedBox, Presence, Responsible, RuleChange, RulesDiff, SideName};
use crate::iptables::Policy;
use crate::net::Family;

/// The whole difference.
pub fn value(difference: &Difference<'_>, shown: Shown) -> Value {
    let families = difference.families.iter().map(|family| family.keyword());
    let changed = difference.changes().next().is_some();
    let mut value = Map::new();
    let mut put = |key: &str, part: Value| value.insert(key.to_owned(), part);
    put("schema", "fwc.diff/1".into());
    put("from", difference.from.name.clone().into());
    put("to", difference.to.name.clone().into());
    put("compared", families.collect::<Vec<_>>().into());
    let only_packets = shown.packets && !shown.rules && !shown.unified;
    let different = changed || (!only_packets && !difference.rules_are_equal());
    put("different", different.into());
    if shown.packets {
        put("packets", packets(difference));
    }
    if shown.rules {
        let count = difference
            .rules
            .iter()
            .filter_map(|(_, rules)| rules.as_ref());
        put(
            "rules",
            json!({
                "changed": count.map(RulesDiff::count).sum::<usize>(),
                "ipv4": difference.rules.v4.as_ref().map(rules),
                "ipv6": difference.rules.v6.as_ref().map(rules),
                "sets": super::sets::sets(difference).iter().map(|set| json!({
                    "set": set.name,
                    "change": set.change,
                    "header": set.header.as_ref().map(|[before, after]| json!({
                        "before": before, "after": after,
                    })),
                    "added": set.added,
                    "removed": set.removed,
                })).collect::<Vec<_>>(),
            }),
        );
    }
    if shown.unified {
        let unified = difference.unified(Style::Plain);
        let parts = unified
            .into_iter()
            .map(|(what, text)| (what.to_owned(), text.into()));
        put("unified", Value::Object(parts.collect()));
    }
    value.into()
}

fn packets(difference: &Difference<'_>) -> Value {
    let mut boxes = Vec::new();
    let (mut more, mut complete) = (0, difference.not_compared.is_empty());
    for (family, change) in difference.changes() {
        more += change.more;
        complete &= change.more == 0 && !change.uncounted;
        for one in &change.boxes {
            boxes.push(packet_box(difference, family, change, one));
        }
    }
    let not_compared = difference.not_compared.iter();
    let not_compared: Vec<_> = not_compared.map(|family| family.keyword()).collect();
    json!({ "changes": boxes, "complete": complete, "more": more, "not_compared": not_compared })
}

fn packet_box(
    difference: &Difference<'_>,
    family: Family,
    change: &Change,
    one: &ChangedBox,
) -> Value {
    let mut value = one.packets.to_json(family, change.seen());
    let rules = |side: &Side, responsible: &[Responsible]| {
        let described = responsible.iter().map(|one| side.describe(family, *one));
        described.map(rule).collect::<Vec<_>>()
    };
    let effects = |side: SideName| {
        let of_side = change.effects.iter().filter(|(of, _)| *of == side);
        of_side
            .map(|(_, effect)| effect.to_string())
            .collect::<Vec<_>>()
    };
    let mut put = |key: &str, part: Value| value.insert(key.to_owned(), part);
    put("table", change.table.as_str().into());
    put("kind", change.kind.as_str().into());
    put("before", super::text::fate(&change.before).into());
    put("after", super::text::fate(&change.after).into());
    put(
        "effects",
        json!({ "before": effects(SideName::Before), "after": effects(SideName::After) }),
    );
    put(
        "rules",
        json!({
            "before": rules(difference.from, &one.before),
            "after": rules(difference.to, &one.after),
        }),
    );
    put("possible", change.possible.into());
    if let Some(setting) = change.only_where {
        put("only_where", setting.as_str().into());
    }
    value.into()
}

fn rule(described: Described) -> Value {
    json!({
        "rule": described.text,
        "file": described.file,
        "line": described.line,
        "name": described.name,
    })
}

fn rules(diff: &RulesDiff) -> Value {
    let mut chains = Vec::new();
    for (foreign, list) in [(false, &diff.chains), (true, &diff.foreign)] {
        for chain in list {
            let word = |policy: Option<Policy>| policy.map(Policy::as_str);
            chains.push(json!({
                "table": chain.table.as_str(),
                "chain": chain.chain,
                "foreign": foreign,
                "presence": match chain.presence {
                    Presence::Both => "both",
                    Presence::Added => "added",
                    Presence::Removed => "removed",
                },
                "policy": chain.policy.map(|(before, after)| json!({
                    "before": word(before), "after": word(after),
                })),
                "rules": chain.rules.iter().map(|one| change(diff.family, one)).collect::<Vec<_>>(),
            }));
        }
    }
    chains.into()
}

fn change(family: Family, change: &RuleChange) -> Value {
    match change {
        RuleChange::Added { to, rule } => {
            json!({ "change": "added", "to": to, "after": rule.to_text(family) })
        }
        RuleChange::Removed { from, rule } => {
            json!({ "change": "removed", "from": from, "before": rule.to_text(family) })
        }
        RuleChange::Moved { from, to, rule } => {
            json!({ "change": "moved", "from": from, "to": to, "after": rule.to_text(family) })
        }
        RuleChange::Changed {
            from,
            to,
            before,
            after,
            parts,
        } => json!({
            "change": "changed",
            "from": from,
            "to": to,
            "before": before.to_text(family),
            "after": after.to_text(family),
            "parts": parts.iter().map(|part| json!({
                "before": part.before, "after": part.after,
            })).collect::<Vec<_>>(),
        }),
    }
}

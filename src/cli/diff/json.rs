//! The JSON document of `fwc diff`: `fwc.diff/1`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::side::{Described, DiffSide};
use super::{Difference, Shown};
use crate::analysis::JsonBox;
use crate::cli::output::Document;
use crate::diag::Style;
use crate::diff::{
    ChangedBox, PacketChange, Presence, Responsible, RuleChange, RulesDiff, SideName,
};
use crate::iptables::ChainPolicy;
use crate::net::Family;

/// The difference between two rulesets.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DiffDocument {
    /// The old ruleset, as named on the command line.
    from: String,
    /// The new ruleset, as named on the command line.
    to: String,
    /// The families that both have.
    compared: Vec<&'static str>,
    /// Whether there is a difference in the views that were asked for.
    different: bool,
    /// The packets whose verdict or effects change.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<PacketChanges>,
    /// The rules that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<RuleChanges>,
    /// Unified diffs of `ipv4`, `ipv6` and `sets`; `null` where both are equal or one is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unified: Option<BTreeMap<&'static str, Option<String>>>,
}

impl Document for DiffDocument {
    const SCHEMA: &'static str = "fwc.diff/1";
}

/// A value in the old ruleset and in the new one.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Sides<T> {
    /// In the old ruleset.
    before: T,
    /// In the new ruleset.
    after: T,
}

/// The packets whose verdict or effects change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PacketChanges {
    /// The packets in boxes.
    changes: Vec<ChangedPackets>,
    /// Whether `changes` has all of them.
    complete: bool,
    /// The number of boxes that are left out, as far as fwc counted them.
    more: usize,
    /// The families whose packet sets are too large to compare.
    not_compared: Vec<&'static str>,
}

/// Packets whose verdict or effects change.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChangedPackets {
    #[serde(flatten)]
    packets: JsonBox,
    /// The table in which they change.
    table: &'static str,
    /// The kind of change, such as `opened` or `closed`.
    kind: &'static str,
    /// Their fate in the old ruleset.
    before: String,
    /// Their fate in the new ruleset.
    after: String,
    /// What else is done to them, such as logs and marks.
    effects: Sides<Vec<String>>,
    /// The rules that decide.
    rules: Sides<Vec<DecidingRule>>,
    /// Whether such packets can occur.
    possible: bool,
    /// The host setting without which such packets cannot occur.
    #[serde(skip_serializing_if = "Option::is_none")]
    only_where: Option<&'static str>,
}

/// A rule that decides, or the policy of a base chain.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DecidingRule {
    /// The rule as iptables-save prints it.
    rule: String,
    /// The file that it comes from, or the name of the ruleset.
    file: String,
    /// The line in that file, from 1.
    line: Option<usize>,
    /// The name of the policy's rule that it comes from.
    name: Option<String>,
}

/// The rules that differ.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RuleChanges {
    /// The number of rules and chain policies that differ.
    changed: usize,
    /// The chains that differ in IPv4; `null` if IPv4 is not compared.
    ipv4: Option<Vec<ChainChange>>,
    /// The chains that differ in IPv6; `null` if IPv6 is not compared.
    ipv6: Option<Vec<ChainChange>>,
    /// The sets that differ.
    sets: Vec<SetChange>,
}

/// A set that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SetChange {
    /// Its name.
    set: String,
    /// `added`, `removed`, `changed`, or `made anew` if its type or options differ.
    change: &'static str,
    /// Its type and options, if they differ.
    header: Option<Sides<String>>,
    /// The members that only the new set has.
    added: Vec<String>,
    /// The members that only the old set has.
    removed: Vec<String>,
}

/// A chain that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChainChange {
    /// Its table.
    table: &'static str,
    /// Its name.
    chain: String,
    /// Whether it belongs to another program, and is not compared.
    foreign: bool,
    /// `both`, `added` or `removed`.
    presence: &'static str,
    /// Its policy, if that differs.
    policy: Option<Sides<Option<&'static str>>>,
    /// Its rules that differ.
    rules: Vec<RuleDifference>,
}

/// A rule that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RuleDifference {
    /// `added`, `removed`, `moved` or `changed`.
    change: &'static str,
    /// Its number in the old chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<usize>,
    /// Its number in the new chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<usize>,
    /// The old rule, if it was removed or changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    /// The new rule, unless it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// The parts of a changed rule that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<Sides<Option<String>>>>,
}

/// Creates the document.
pub(super) fn document(difference: &Difference<'_>, shown: Shown) -> DiffDocument {
    let families = difference.families.iter().map(|family| family.keyword());
    DiffDocument {
        from: difference.from.name.clone(),
        to: difference.to.name.clone(),
        compared: families.collect(),
        different: difference.is_different(shown),
        packets: shown.packets.then(|| packets(difference)),
        rules: shown.rules.then(|| rule_changes(difference)),
        unified: shown
            .unified
            .then(|| difference.unified(Style::Plain).into()),
    }
}

fn packets(difference: &Difference<'_>) -> PacketChanges {
    let mut changes = Vec::new();
    let (mut more, mut complete) = (0, difference.not_compared.is_empty());
    for (family, change) in difference.changes() {
        more += change.more;
        complete &= change.more == 0 && !change.uncounted;
        for one in &change.boxes {
            changes.push(packet_change(difference, family, change, one));
        }
    }
    PacketChanges {
        changes,
        complete,
        more,
        not_compared: difference
            .not_compared
            .iter()
            .map(|family| family.keyword())
            .collect(),
    }
}

fn packet_change(
    difference: &Difference<'_>,
    family: Family,
    change: &PacketChange,
    one: &ChangedBox,
) -> ChangedPackets {
    let rules = |side: &DiffSide, responsible: &[Responsible]| {
        let described = responsible.iter().map(|one| side.describe(family, *one));
        described.map(DecidingRule::from).collect()
    };
    let effects = |side: SideName| {
        let of_side = change.effects.iter().filter(|(of, _)| *of == side);
        of_side.map(|(_, effect)| effect.to_string()).collect()
    };
    ChangedPackets {
        packets: one.packets.to_json(family, change.seen()),
        table: change.table.as_str(),
        kind: change.kind.as_str(),
        before: super::text::fate(&change.before),
        after: super::text::fate(&change.after),
        effects: Sides {
            before: effects(SideName::Before),
            after: effects(SideName::After),
        },
        rules: Sides {
            before: rules(difference.from, &one.before),
            after: rules(difference.to, &one.after),
        },
        possible: change.possible,
        only_where: change.only_where.map(|setting| setting.as_str()),
    }
}

impl From<Described> for DecidingRule {
    fn from(described: Described) -> Self {
        Self {
            rule: described.text,
            file: described.file,
            line: described.line,
            name: described.name,
        }
    }
}

fn rule_changes(difference: &Difference<'_>) -> RuleChanges {
    let rules = &difference.rules;
    let counts = rules.iter().filter_map(|(_, rules)| rules.as_ref());
    let sets = super::sets::sets(difference).into_iter();
    RuleChanges {
        changed: counts.map(RulesDiff::count).sum(),
        ipv4: rules.v4.as_ref().map(chain_changes),
        ipv6: rules.v6.as_ref().map(chain_changes),
        sets: sets
            .map(|set| SetChange {
                set: set.name,
                change: set.change,
                header: set.header.map(|[before, after]| Sides { before, after }),
                added: set.added,
                removed: set.removed,
            })
            .collect(),
    }
}

fn chain_changes(diff: &RulesDiff) -> Vec<ChainChange> {
    let own = diff.chains.iter().map(|chain| (false, chain));
    let foreign = diff.foreign.iter().map(|chain| (true, chain));
    let word = |policy: Option<ChainPolicy>| policy.map(ChainPolicy::as_str);
    own.chain(foreign)
        .map(|(foreign, chain)| ChainChange {
            table: chain.table.as_str(),
            chain: chain.chain.to_string(),
            foreign,
            presence: match chain.presence {
                Presence::Both => "both",
                Presence::Added => "added",
                Presence::Removed => "removed",
            },
            policy: chain.policy.map(|(before, after)| Sides {
                before: word(before),
                after: word(after),
            }),
            rules: chain
                .rules
                .iter()
                .map(|one| rule_difference(diff.family, one))
                .collect(),
        })
        .collect()
}

fn rule_difference(family: Family, change: &RuleChange) -> RuleDifference {
    let none = RuleDifference {
        change: "",
        from: None,
        to: None,
        before: None,
        after: None,
        parts: None,
    };
    match change {
        RuleChange::Added { to, rule } => RuleDifference {
            change: "added",
            to: Some(*to),
            after: Some(rule.to_text(family)),
            ..none
        },
        RuleChange::Removed { from, rule } => RuleDifference {
            change: "removed",
            from: Some(*from),
            before: Some(rule.to_text(family)),
            ..none
        },
        RuleChange::Moved { from, to, rule } => RuleDifference {
            change: "moved",
            from: Some(*from),
            to: Some(*to),
            after: Some(rule.to_text(family)),
            ..none
        },
        RuleChange::Changed {
            from,
            to,
            before,
            after,
            parts,
        } => RuleDifference {
            change: "changed",
            from: Some(*from),
            to: Some(*to),
            before: Some(before.to_text(family)),
            after: Some(after.to_text(family)),
            parts: Some(
                parts
                    .iter()
                    .map(|part| Sides {
                        before: part.before.clone(),
                        after: part.after.clone(),
                    })
                    .collect(),
            ),
        },
    }
}

//! Estimates the lines of a policy before any of them is made.

use super::hooks::{self, HookPath};
use super::origin::LineOrigin;
use super::rules;
use crate::net::{Family, Hook, PerFamily};
use crate::resolve::{Plan, PlannedRule};

/// The largest number of lines of one family, unless the user allows more. [`MOST_MEMORY`] allows fewer: 699,050 lines of both
/// families together.
pub const MOST_LINES: u64 = 1_000_000;

/// The memory that the lines of both families may need, in bytes, unless the user allows more lines.
const MOST_MEMORY: u64 = 2 << 30;

/// The memory that a line needs until its rules are proven, in bytes. Measured: a million rules with a line in each
/// family need 5.9 GB.
const LINE_MEMORY: u64 = 3 << 10;

/// A policy that becomes too many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy becomes {lines} lines of rules, more than {limit}")]
pub struct TooLarge {
    /// The rule or entry with the most of them.
    pub origin: LineOrigin,
    /// The number of its lines.
    pub of_origin: u64,
    /// The estimated number of lines: of the larger family, or of both if together they need too much memory. Lines of logs,
    /// defaults and replies are not counted.
    pub lines: u64,
    /// The largest number allowed.
    pub limit: u64,
}

/// Checks that no family has more than `most_lines` lines, and without `most_lines` that both fit into memory.
///
/// # Errors
///
/// [`TooLarge`] names the rule or entry with the most lines.
pub fn bound(plan: &Plan, most_lines: Option<u64>) -> Result<(), TooLarge> {
    let mut total: PerFamily<u64> = PerFamily::default();
    let mut largest = (0, LineOrigin::Rule(0));
    for (origin, rule) in entries(plan) {
        let mut lines = 0u64;
        for family in Family::ALL {
            let of_family = lines_of(plan, rule, family);
            lines = lines.saturating_add(of_family);
            total[family] = total[family].saturating_add(of_family);
        }
        if lines > largest.0 {
            largest = (lines, origin);
        }
    }
    let of_one = total.v4.max(total.v6);
    let of_both = total.v4.saturating_add(total.v6);
    let in_memory = MOST_MEMORY / LINE_MEMORY;
    let (lines, limit) = match most_lines {
        Some(limit) => (of_one, limit),
        None if of_one > MOST_LINES => (of_one, MOST_LINES),
        None => (of_both, in_memory),
    };
    if lines <= limit {
        return Ok(());
    }
    let (of_origin, origin) = largest;
    Err(TooLarge {
        origin,
        of_origin,
        lines,
        limit,
    })
}

/// Returns the rules and entries of a plan, which become a line for each combination of their keys.
fn entries(plan: &Plan) -> impl Iterator<Item = (LineOrigin, &PlannedRule)> {
    let rules = plan.rules.iter().enumerate();
    let nat = plan.nat.iter().map(|entry| &entry.packets).enumerate();
    let mangle = plan.mangle.iter().map(|entry| &entry.packets).enumerate();
    let raw = plan.raw.iter().map(|entry| &entry.packets).enumerate();
    let all = rules.map(|(index, rule)| (LineOrigin::Rule(index), rule));
    let all = all.chain(nat.map(|(index, rule)| (LineOrigin::Nat(index), rule)));
    let all = all.chain(mangle.map(|(index, rule)| (LineOrigin::Mangle(index), rule)));
    all.chain(raw.map(|(index, rule)| (LineOrigin::Raw(index), rule)))
}

/// Returns the number of lines of one rule or entry in one family.
fn lines_of(plan: &Plan, rule: &PlannedRule, family: Family) -> u64 {
    if !rule.enabled || !rule.scope.is_none_or(|scope| scope.has(family)) {
        return 0;
    }
    let count = |path: &HookPath<'_>| rules::count(plan, rule, path, family);
    let paths = Hook::ALL.iter();
    let paths = paths.flat_map(|hook| {
        let mut paths = hooks::paths(plan, rule, *hook, family);
        // The lines of the block around the rule ask for devices and networks.
        if rule.in_block.is_some() {
            paths.truncate(1);
            paths.fill(HookPath::default());
        }
        paths
    });
    paths.fold(0, |sum: u64, path| sum.saturating_add(count(&path)))
}

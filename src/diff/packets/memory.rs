//! Compares conditions with memory by what they count, not by how they are written.

use std::collections::BTreeMap;

use super::buckets::shared_name;
use crate::analysis::has_memory;
use crate::iptables::{Match, Module, ModuleOption, Ruleset};

/// What a condition with memory asks: two conditions with equal questions match the same packets if the same packets reach
/// them, or the opposite ones if only one of them is negated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The condition as `iptables-save` prints it, without what makes no difference.
    pub text: Box<str>,
    /// `true` if the condition matches what is beyond the rate or the number: `--hashlimit-above`, `--connlimit-above`.
    pub negated: bool,
    /// `true` if the condition matches every packet that reaches it (`recent_mt` of `xt_recent.c`, `XT_RECENT_SET`).
    pub always: bool,
}

impl Question {
    /// Returns the question of a condition in a ruleset whose names are used as often as [`uses`] says.
    pub fn of(condition: &Match, ruleset: &Ruleset, uses: &BTreeMap<String, usize>) -> Self {
        let family = ruleset.family;
        let Match::Other(module) = condition else {
            return Self {
                text: condition.to_text(family).into(),
                negated: false,
                always: false,
            };
        };
        let mut module = module.clone();
        let negated = within(&mut module);
        let set = module.setting("set").filter(|set| !set.negated);
        let always = module.name == "recent" && set.is_some();
        if module.name == "hashlimit" {
            let expiry = expiry(&module);
            // The name of a table tells which rules share it, and nothing else.
            if !is_shared(condition, uses) {
                module.settings.retain(|one| one.name != "hashlimit-name");
            }
            module.settings.retain(|one| one.name != EXPIRY);
            // A deleted entry is as good as a full bucket, and only that.
            if let Some(expiry) =
                expiry.filter(|expiry| refill(&module).is_none_or(|full| *expiry < full))
            {
                module.settings.push(ModuleOption {
                    name: EXPIRY,
                    negated: false,
                    value: expiry.to_string().into(),
                });
            }
        }
        Self {
            text: Match::Other(module).to_text(family).into(),
            negated,
            always,
        }
    }
}

/// Returns `true` for a condition that takes from the buckets of other conditions, too.
pub(super) fn is_shared(condition: &Match, uses: &BTreeMap<String, usize>) -> bool {
    let takes =
        matches!(condition, Match::Other(module) if ["hashlimit", "nfacct"].contains(&module.name));
    let uses = shared_name(condition).and_then(|name| uses.get(&name));
    takes && uses.is_some_and(|uses| *uses > 1)
}

/// Returns how many conditions of a ruleset use each name that several may share.
pub(super) fn uses(ruleset: &Ruleset) -> BTreeMap<String, usize> {
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let matches = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.matches);
    let mut uses = BTreeMap::new();
    for name in matches
        .filter(|one| has_memory(one))
        .filter_map(shared_name)
    {
        *uses.entry(name).or_default() += 1;
    }
    uses
}

/// Turns a condition that matches above a rate or number into one that matches within it. Returns `true` if it was one.
fn within(module: &mut Module) -> bool {
    let turned = [
        ("hashlimit-above", "hashlimit-upto"),
        ("connlimit-above", "connlimit-upto"),
    ];
    for setting in &mut module.settings {
        if let Some((_, upto)) = turned.iter().find(|(above, _)| *above == setting.name) {
            setting.name = upto;
            return true;
        }
    }
    false
}

/// How long a hashlimit table keeps an entry that nothing uses.
const EXPIRY: &str = "hashlimit-htable-expire";

/// The units of `--hashlimit-upto` in milliseconds.
const UNITS: [(&str, u64); 4] = [
    ("sec", 1000),
    ("min", 60_000),
    ("hour", 3_600_000),
    ("day", 86_400_000),
];

/// Returns the count and the unit of a rate of packets; `None` for a rate of bytes.
fn rate(module: &Module) -> Option<(u64, u64)> {
    let (count, unit) = module.setting("hashlimit-upto")?.value.split_once('/')?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((count.parse().ok().filter(|count| *count > 0)?, *unit))
}

/// Returns the milliseconds after which an empty bucket is full again; `None` if it has none (`--hashlimit-rate-match`).
fn refill(module: &Module) -> Option<u64> {
    if module.setting("hashlimit-rate-match").is_some() {
        return None;
    }
    let (count, unit) = rate(module)?;
    let burst: u64 = module.setting("hashlimit-burst")?.value.parse().ok()?;
    Some(burst.checked_mul(unit)?.div_ceil(count))
}

/// Returns the milliseconds for which the table keeps an entry; the unit of the rate if the condition does not say.
fn expiry(module: &Module) -> Option<u64> {
    match module.setting(EXPIRY) {
        Some(expiry) => expiry.value.parse().ok(),
        None => rate(module).map(|(_, unit)| unit),
    }
}

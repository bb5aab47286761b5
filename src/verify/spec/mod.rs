//! The specification of a policy: what each base chain does with every packet, as packet sets. Each section of the language
//! has a file.
//!
//! Hooks, families, the preamble, the order of rules and the meaning of negation are implemented here a second time. The code
//! that generates the rules shares nothing with this module but the types of the plan, so that a mistake in either is found.

pub(super) mod connection;
pub(super) mod custom;
mod defaults;
pub(super) mod mangle;
pub(super) mod matching;
pub(super) mod nat;
pub(super) mod raw;
mod rules;

use std::collections::{BTreeMap, HashMap};

use self::connection::Counted;
use self::custom::{CustomFlows, Customs};
use self::matching::set_name;
use self::rules::SpecChain;
use super::condition::Condition;
use crate::analysis::{BaseChain, Behaviour, Effect, GaveUp, RuleStep, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{BackendTurn, NatChain};
use crate::resolve::{Members, Plan, PlannedRule};

/// What a policy does with the packets of one family.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The verdicts and effects of each base chain, and the chain policies. Every log line is an effect of its own.
    pub behaviour: Behaviour,
    /// The log request that each of these effects stands for.
    pub logs: BTreeMap<Effect, LogRequest>,
    /// The rule that each of these effects counts packets for, by index in [`Plan::rules`].
    pub(super) counts: BTreeMap<Effect, usize>,
    /// The decisions in each hook, in order. The default is included only if it is a rule instead of a chain policy.
    pub(super) decisions: HashMap<Hook, Vec<SpecStep>>,
    /// The rate limits of rules, by hook and index in [`Plan::rules`].
    pub(super) limits: HashMap<(Hook, usize), Condition>,
    /// The connection limits of rules, by hook and index in [`Plan::rules`].
    pub(super) connections: HashMap<(Hook, usize), Condition>,
    /// The matches of rules that count, by hook and index in [`Plan::rules`].
    pub(super) counted: HashMap<(Hook, usize), Vec<Condition>>,
    /// The log class of each effect that stands for the log of an entry, by index in [`Plan::log_classes`].
    pub(super) entry_logs: BTreeMap<Effect, usize>,
    /// The matches of entries that count, by base chain and the entry's index among those of its table.
    pub(super) counted_by_entries: HashMap<(TableName, BaseChain, usize), Vec<Counted>>,
    /// The conditions that select one of several backends.
    pub(super) turns: HashMap<BackendTurn, Condition>,
    /// The packets of each nat entry, by chain and index in [`Plan::nat`], without regard to earlier entries.
    pub(super) translated: Vec<(NatChain, usize, Set)>,
    /// What custom rules do before, between and after the rules, by base chain.
    pub(super) custom: CustomFlows,
}

impl Spec {
    /// Returns the step that logs the packets of an entry, by its index among those of its table; `None` if it does not log.
    fn log_of_entry(
        &mut self,
        when: Set,
        packets: &PlannedRule,
        (table, index): (TableName, usize),
    ) -> Option<RuleStep> {
        let class = packets.log?;
        // The name does not depend on other entries, so that policies with and without one can be compared.
        let effect: Effect = format!("log of {} entry {index:08}", table.as_str()).into();
        self.entry_logs.insert(effect.clone(), class);
        Some(RuleStep::effect(when, effect))
    }

    /// Returns the packets that a rule logs in a hook, by index in [`Plan::rules`]; `None` if it logs none.
    pub(super) fn logged(&self, space: &Space, hook: Hook, rule: usize) -> Option<Set> {
        let place = (TableName::Filter, BaseChain::from(hook));
        let effects = self.behaviour.flow(space, place).effects;
        let (_, set) = effects.into_iter().find(|(effect, _)| {
            let logging = self.logs.get(effect);
            logging.is_some_and(|logging| (logging.hook, logging.rule) == (hook, Some(rule)))
        })?;
        Some(set)
    }
}

/// A step that decides packets, or a rule that only logs them.
#[derive(Clone, Debug)]
pub(super) struct SpecStep {
    /// The rule, by index in [`Plan::rules`]; `None` for the preamble, a custom rule, or the default.
    pub rule: Option<usize>,
    /// The packets that it matches, including those that an earlier step decided.
    pub set: Set,
    /// Their verdict; `None` if they continue to the next step.
    pub verdict: Option<Verdict>,
}

/// A log line that a rule or a default of the policy requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogRequest {
    /// The hook.
    pub hook: Hook,
    /// The rule, by index in [`Plan::rules`]; `None` for the default action.
    pub rule: Option<usize>,
    /// The log class, by index in [`Plan::log_classes`].
    pub class: usize,
}

/// Computes what a policy does with every packet of the family of the space.
///
/// # Errors
///
/// If the packet sets become too large.
///
/// ```
/// use fwc::analysis::{BaseChain, Space, Verdict};
/// use fwc::iptables::TableName;
/// use fwc::net::{Family, State};
/// use fwc::{diag::Sink, files::Access, policy, source::SourceMap};
/// use fwc::internals::{resolve, verify};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("fwc.toml");
/// std::fs::write(&path, "version = 1\n[[rules]]\nservice = \"ssh\"\n")?;
/// let (mut sources, mut sink) = (SourceMap::new(), Sink::new());
/// let policy = policy::load(&path, Access::Read, &mut sources, &mut sink).unwrap();
/// let plan = resolve::resolve(&policy, &mut sink).unwrap();
///
/// let space = Space::new(Family::V4);
/// let spec = verify::spec(&plan, &space)?;
/// let flow = |chain| spec.behaviour.flow(&space, (TableName::Filter, chain));
/// // OUTPUT has no rules and accepts.
/// assert_eq!(flow(BaseChain::Output).verdicts, space.verdict(Verdict::Accept));
/// // INPUT logs what its default drops, but not what conntrack calls INVALID.
/// let dropped = space.decided(flow(BaseChain::Input).verdicts, &Verdict::Drop)?;
/// let (_, logged) = flow(BaseChain::Input).effects.pop_first().unwrap();
/// let invalid = space.states(&[State::Invalid])?;
/// assert_eq!(space.minus(dropped, logged)?, space.and(dropped, invalid)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn spec(plan: &Plan, space: &Space) -> Result<Spec, GaveUp> {
    let customs = Customs::new(plan, space.family());
    let sets = members(plan, space.family());
    let mut spec = Spec {
        custom: customs.flows(space, &sets)?,
        ..Spec::default()
    };
    for hook in Hook::ALL {
        SpecChain { plan, space, hook }.add_to(&mut spec)?;
    }
    nat::add_to(&mut spec, plan, space)?;
    let first = defaults::antispoof(plan, space)?;
    raw::add_to(&mut spec, plan, space, first)?;
    mangle::add_to(&mut spec, plan, space)?;
    Ok(spec)
}

/// Returns the packets that `antispoof` drops.
pub(super) fn spoofed(plan: &Plan, space: &Space) -> Result<Set, GaveUp> {
    match defaults::antispoof(plan, space)? {
        Some(flow) => space.decided(flow.verdicts, &Verdict::Drop),
        None => Ok(space.none()),
    }
}

/// Returns the members of the sets that the policy fills.
fn members(plan: &Plan, family: Family) -> BTreeMap<String, IntervalSet> {
    let sets = plan.sets.iter().filter_map(|set| match &set.members {
        Members::Static(all) => Some((set_name(&set.name, family), all.family(family).clone())),
        Members::Dynamic { .. } => None,
    });
    sets.collect()
}

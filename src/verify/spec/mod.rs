//! The policy's packet sets: what each base chain does with every packet, a file for each section of the language.
//!
//! Which hook, which family, the preamble, the order and what a negation means are decided here anew; nothing is shared
//! with what writes the rules but the plan's types.

pub(super) mod custom;
mod defaults;
pub(super) mod mangle;
pub(super) mod matching;
pub(super) mod nat;
pub(super) mod raw;
mod rules;

use std::collections::{BTreeMap, HashMap};

use self::custom::{CustomFlows, Customs};
use self::matching::set_name;
use self::rules::SpecChain;
use super::condition::Condition;
use crate::analysis::{BaseChain, Behaviour, Effect, GaveUp, Set, Space, Verdict};
use crate::iptables::TableName;
use crate::net::{Family, Hook, IntervalSet};
use crate::policy::{BackendTurn, NatChain};
use crate::resolve::{Members, Plan};

/// What the policy does with the packets of one family.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The filter table's hooks and chain policies. Every log line is an effect of its own.
    pub behaviour: Behaviour,
    /// What the effects stand for.
    pub logs: BTreeMap<Effect, LogRequest>,
    /// What is decided in a hook, step by step; the default is no part of it unless it is a rule.
    pub(super) decisions: HashMap<Hook, Vec<SpecStep>>,
    /// What keeps the rules of a hook down, by their index in [`Plan::rules`].
    pub(super) limits: HashMap<(Hook, usize), Condition>,
    /// The same for connections.
    pub(super) connections: HashMap<(Hook, usize), Condition>,
    /// What decides between several backends.
    pub(super) turns: HashMap<BackendTurn, Condition>,
    /// The packets of the nat entries in each chain, by their index in [`Plan::nat`], whoever comes first.
    pub(super) translated: Vec<(NatChain, usize, Set)>,
    /// What custom rules do before, among and after the rules, by base chain.
    pub(super) custom: CustomFlows,
}

impl Spec {
    /// Returns the packets that a rule logs in a hook, by its index in [`Plan::rules`]; `None` where it logs none.
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

/// A step that ends the way of packets, or a rule that only logs them.
#[derive(Clone, Debug)]
pub(super) struct SpecStep {
    /// The rule by its index in [`Plan::rules`]; `None` is the preamble, a custom rule, or the default.
    pub rule: Option<usize>,
    /// Its packets, decided before or not.
    pub set: Set,
    /// What becomes of them; `None`: they go on.
    pub verdict: Option<Verdict>,
}

/// Who asks for a log line, and in which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogRequest {
    /// Where.
    pub hook: Hook,
    /// The rule by its index in [`Plan::rules`]; `None` is the default action.
    pub rule: Option<usize>,
    /// The class by its index in [`Plan::log_classes`].
    pub class: usize,
}

/// Returns the policy's behaviour in the family of the space.
///
/// ```
/// use fwc::analysis::{BaseChain, Space, Verdict};
/// use fwc::iptables::TableName;
/// use fwc::net::{Family, State};
/// use fwc::{diag::Sink, files::Access, policy, resolve, source::SourceMap, verify};
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

/// Returns the members of the sets that the policy fills.
fn members(plan: &Plan, family: Family) -> BTreeMap<String, IntervalSet> {
    let sets = plan.sets.iter().filter_map(|set| match &set.members {
        Members::Static(all) => Some((set_name(&set.name, family), all.family(family).clone())),
        Members::Dynamic { .. } => None,
    });
    sets.collect()
}

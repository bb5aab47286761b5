//! The specification of the filter table: the preamble, the rules in their order, and the default of each hook.

use std::ops::RangeInclusive;

use super::connection;
use super::custom::{self, CustomTurns};
use super::matching::{Matching, exists};
use super::{LogRequest, Spec, SpecStep, nat, raw};
use crate::analysis::{BaseChain, Effect, Flow, GaveUp, RuleStep, Set, Space, Verdict};
use crate::iptables::{ChainPolicy, TableName};
use crate::net::{Family, Hook, Protocol};
use crate::policy::{
    CustomPosition, CustomTable, DefaultAction, Enforce, Order, Over, RejectWith, RuleStage,
};
use crate::resolve::{Finally, Plan, PlannedRule, RuleAction};
use crate::verify::condition::{Bucket, Condition, CountScope, RateLimit};
use crate::verify::normalised::left_to_others;

/// The specification of one hook.
pub(super) struct SpecChain<'a> {
    pub plan: &'a Plan,
    pub space: &'a Space,
    pub hook: Hook,
}

/// The steps of a hook, in order.
pub(super) struct Steps<'a> {
    steps: Vec<RuleStep>,
    decisions: Vec<SpecStep>,
    /// The rule that the next steps belong to, by index.
    rule: Option<usize>,
    /// The custom rules of the chain that are not in `steps` yet.
    customs: CustomTurns,
    spec: &'a mut Spec,
    /// The number of rate limits so far.
    limits: usize,
    /// The number of connection limits so far.
    connections: usize,
    /// The number of matches of iptables that count so far.
    counting: usize,
}

impl Steps<'_> {
    pub fn accept(&mut self, when: Set) {
        self.decide(when, Verdict::Accept);
    }

    fn decide(&mut self, when: Set, verdict: Verdict) {
        self.steps.push(RuleStep::verdict(when, verdict.clone()));
        self.decisions.push(SpecStep {
            rule: self.rule,
            set: when,
            verdict: Some(verdict),
        });
    }

    /// Records packets of a rule that continue to the next rule.
    fn pass_on(&mut self, when: Set) {
        self.decisions.push(SpecStep {
            rule: self.rule,
            set: when,
            verdict: None,
        });
    }

    pub fn log(&mut self, when: Set, logging: LogRequest) {
        // Effects sort by name, so this keeps the order of the policy.
        let effect: Effect = format!("log {:08}", self.spec.logs.len()).into();
        self.steps.push(RuleStep::effect(when, effect.clone()));
        self.spec.logs.insert(effect, logging);
    }

    /// Counts the packets of a rule, by index, and continues.
    fn count(&mut self, when: Set, rule: usize) {
        let effect: Effect = format!("count {rule:08}").into();
        self.steps.push(RuleStep::effect(when, effect.clone()));
        self.spec.counts.insert(effect, rule);
    }

    pub fn drop(&mut self, when: Set) {
        self.decide(when, Verdict::Drop);
    }
}

impl SpecChain<'_> {
    pub(super) fn add_to(&self, spec: &mut Spec) -> Result<(), GaveUp> {
        let default = self.default_action();
        let place = (TableName::Filter, BaseChain::from(self.hook));
        let mut steps = Steps {
            customs: spec.custom.of_chain(place),
            steps: Vec::new(),
            decisions: Vec::new(),
            rule: None,
            spec: &mut *spec,
            limits: 0,
            connections: 0,
            counting: 0,
        };
        let denies = matches!(default, DefaultAction::Drop | DefaultAction::Reject);
        if denies
            || self.has_custom()
            || self.has_rules(|_| true)
            || nat::accepts_any(self.plan, self.hook)?
        {
            self.preamble(&mut steps)?;
            self.custom(CustomPosition::Before, &mut steps)?;
            self.rules(RuleStage::Main, &mut steps)?;
            self.custom(CustomPosition::Behind(usize::MAX), &mut steps)?;
            for translated in nat::accepted(self.plan, self.space, self.hook)? {
                steps.accept(translated);
            }
            steps.accept(raw::replies(self.plan, self.space, self.hook)?);
            self.custom(CustomPosition::After, &mut steps)?;
            self.last(default, &mut steps)?;
        }
        let end = match default {
            DefaultAction::Accept => Verdict::Accept,
            // In shared mode the default is a rule, so packets that reach the end are left to other programs.
            _ if self.plan.is_shared() => left_to_others(),
            DefaultAction::Continue => left_to_others(),
            DefaultAction::Drop | DefaultAction::Reject => Verdict::Drop,
        };
        let (steps, decisions) = (steps.steps, steps.decisions);
        spec.decisions.insert(self.hook, decisions);
        let flow = Flow::from_rules(self.space, steps)?.with_policy(self.space, end)?;
        spec.behaviour.insert(self.space, place, flow)?;
        let chain_policy = match (self.plan.defaults.enforce, default) {
            _ if self.plan.is_shared() => ChainPolicy::Accept,
            (Enforce::Rule, _) | (_, DefaultAction::Accept | DefaultAction::Continue) => {
                ChainPolicy::Accept
            }
            (Enforce::Policy, _) => ChainPolicy::Drop,
        };
        spec.behaviour
            .structure
            .policies
            .insert(place, chain_policy);
        Ok(())
    }

    pub(super) fn rules(&self, stage: RuleStage, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let matching = Matching {
            plan: self.plan,
            space: self.space,
            hook: self.hook,
        };
        let all = self.plan.rules.iter().enumerate();
        let mut ordered: Vec<_> = all.filter(|(_, rule)| rule.stage == stage).collect();
        // A stable sort keeps the order of the file within each `order`.
        ordered.sort_by_key(|(_, rule)| match rule.order {
            Order::First => 0,
            Order::Normal => 1,
            Order::Last => 2,
        });
        // The blocks around the next rule, from the outside in, and the packets that entered each.
        let mut blocks: Vec<(usize, Set)> = Vec::new();
        // The custom rules of blocks that stand before this rule are there already.
        let mut before = 0;
        for (index, rule) in ordered {
            while let Some((block, entered)) =
                blocks.pop_if(|(block, _)| rule.in_block != Some(*block))
            {
                self.custom_of_block(block, entered, before..=usize::MAX, steps)?;
                self.finally(block, entered, steps)?;
            }
            if let Some((block, entered)) = blocks.last().copied() {
                self.custom_of_block(block, entered, before..=index, steps)?;
            }
            before = index + 1;
            match (stage, rule.order) {
                // A custom rule stands between blocks, not in one.
                _ if rule.in_block.is_some() => {}
                (RuleStage::Main, Order::Normal) => {
                    self.custom(CustomPosition::Behind(index), steps)?;
                }
                (RuleStage::Main, Order::Last) => {
                    self.custom(CustomPosition::Behind(usize::MAX), steps)?;
                }
                (RuleStage::Main, Order::First) | (RuleStage::Early, _) => {}
            }
            let mut when = match blocks.last() {
                Some((_, entered)) if *entered == self.space.none() => self.space.none(),
                _ => matching.rule(rule)?,
            };
            if let Some((_, entered)) = blocks.last() {
                when = self.space.and(when, *entered)?;
            }
            let mut left = when;
            if when != self.space.none() {
                steps.rule = Some(index);
                left = self.rule(index, rule, when, steps)?;
                steps.rule = None;
            }
            if let RuleAction::Block(_) = rule.action {
                blocks.push((index, left));
            }
        }
        while let Some((block, entered)) = blocks.pop() {
            self.custom_of_block(block, entered, before..=usize::MAX, steps)?;
            self.finally(block, entered, steps)?;
        }
        Ok(())
    }

    /// Adds the custom rules of a block that stand behind some numbers of rules. `entered` are the packets of the block.
    fn custom_of_block(
        &self,
        block: usize,
        entered: Set,
        behind: RangeInclusive<usize>,
        steps: &mut Steps<'_>,
    ) -> Result<(), GaveUp> {
        let chain = BaseChain::from(self.hook);
        for flow in steps.spec.custom.of_block(chain, block, behind) {
            let set = self.space.and(self.treated(&flow)?, entered)?;
            steps.decisions.push(SpecStep {
                rule: None,
                set,
                verdict: Some(Verdict::Target("custom".into())),
            });
            steps.steps.push(RuleStep::run(entered, flow));
        }
        Ok(())
    }

    /// Returns the packets that custom rules decide, count or log.
    fn treated(&self, flow: &Flow) -> Result<Set, GaveUp> {
        let parts = self.space.parts(flow.verdicts)?.into_iter();
        let decided = parts.filter_map(|(verdict, set)| verdict.map(|_| set));
        let treated = flow.effects.values().copied();
        self.space.any(decided.chain(treated))
    }

    /// Adds the action for packets of a block that none of its rules decides. `entered` are all packets that entered it.
    fn finally(&self, block: usize, entered: Set, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let RuleAction::Block(finally) = self.plan.rules[block].action else {
            return Ok(());
        };
        if entered == self.space.none() {
            return Ok(());
        }
        steps.rule = Some(block);
        match finally {
            Finally::Next => {}
            Finally::Accept => steps.accept(entered),
            Finally::Drop => steps.drop(entered),
            Finally::Reject(with) => self.reject(entered, with[self.space.family()], steps)?,
        }
        steps.rule = None;
        Ok(())
    }

    /// Adds the custom rules up to a position. For the lints, all packets that they decide, count or log have a verdict of
    /// their own, which no rule of the policy gives.
    fn custom(&self, position: CustomPosition, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        for flow in steps.customs.up_to(position) {
            let set = self.treated(&flow)?;
            steps.decisions.push(SpecStep {
                rule: None,
                set,
                verdict: Some(Verdict::Target("custom".into())),
            });
            steps.steps.extend(custom::steps(self.space, vec![flow]));
        }
        Ok(())
    }

    /// Adds a rule with its limits. `connections` is applied before `limit`. Returns the packets that its action is for.
    fn rule(
        &self,
        index: usize,
        rule: &PlannedRule,
        when: Set,
        steps: &mut Steps<'_>,
    ) -> Result<Set, GaveUp> {
        // Without `..`, so that a new key does not compile until its effect is defined here.
        #[rustfmt::skip]
        let PlannedRule {
            action, limit, connections, log, matches,
            // These match packets, which `when` has.
            from: _, not_from: _, to: _, not_to: _, source: _, destination: _, service: _, not_service: _,
            ipset: _, scope: _, state: _, mark: _, mac: _, tcp_flags: _, original: _, user: _, group: _, schedule: _,
            expires: _, enabled: _, in_block: _,
            // The order, which the caller applies, and names.
            stage: _, order: _, span: _, label: _, named: _, comment: _, remark: _,
        } = rule;
        let space = self.space;
        let family = space.family();
        let bucket = |place| Bucket {
            chain: self.hook.chain().to_owned(),
            place,
        };
        let mut left = when;
        let counting = matches.as_ref();
        for text in counting.map_or_else(Vec::new, |asked| connection::counting(asked, family)) {
            let condition = Condition::Counting(bucket(steps.counting), text);
            steps.counting += 1;
            left = space.and(left, condition.set(space)?)?;
            let of_rule = steps.spec.counted.entry((self.hook, index));
            of_rule.or_default().push(condition);
        }
        let mut beyond = Vec::new();
        if let Some(connections) = connections {
            let counted = CountScope::of(connections.per, family);
            let within =
                Condition::Connections(bucket(steps.connections), connections.max, counted);
            steps.connections += 1;
            let set = within.set(space)?;
            beyond.push((space.minus(left, set)?, connections.over));
            left = space.and(left, set)?;
            steps.spec.connections.insert((self.hook, index), within);
        }
        // The limit of a rule with `action = "log"` limits its log line, not its packets.
        if let Some(limit) = limit.as_ref().filter(|_| *action != RuleAction::Log) {
            let within =
                Condition::Within(bucket(steps.limits), RateLimit::of_limit(limit, family));
            steps.limits += 1;
            let set = within.set(space)?;
            beyond.push((space.minus(left, set)?, limit.over));
            left = space.and(left, set)?;
            steps.spec.limits.insert((self.hook, index), within);
        }
        let over = beyond.iter().filter(|(_, over)| *over != Over::Continue);
        let decided = space.any(over.map(|(set, _)| *set).chain([left]))?;
        if let Some(class) = *log {
            let (hook, rule) = (self.hook, Some(index));
            steps.log(decided, LogRequest { hook, rule, class });
        }
        for (set, over) in beyond {
            match over {
                Over::Continue => {}
                Over::Drop => steps.drop(set),
                Over::Reject => {
                    let with = self.plan.defaults[family].reject_with;
                    self.reject(set, with, steps)?;
                }
            }
        }
        match action {
            // As with `Continue`, steps of what is beyond a limit would make this one seem to decide.
            RuleAction::Block(_) if limit.is_some() || connections.is_some() => {}
            RuleAction::Log | RuleAction::Block(_) => steps.pass_on(left),
            RuleAction::Continue => {
                // A limit shows in the verdicts of what is beyond it.
                if limit.is_none() {
                    steps.count(left, index);
                }
                // Steps of one rule are read together, so that this one would make the rule seem to decide all its packets.
                if limit.is_none() && connections.is_none() {
                    steps.pass_on(left);
                }
            }
            RuleAction::Accept => steps.accept(left),
            RuleAction::Drop => steps.drop(left),
            RuleAction::Reject(with) => self.reject(left, with[family], steps)?,
        }
        Ok(left)
    }

    pub(super) fn reject(
        &self,
        when: Set,
        with: RejectWith,
        steps: &mut Steps<'_>,
    ) -> Result<(), GaveUp> {
        let mut answer = |when, word: &str| {
            let verdict = Verdict::Reject(word.into());
            steps.decide(when, verdict);
        };
        let is_v4 = self.space.family() == Family::V4;
        let of = |v4, v6| if is_v4 { v4 } else { v6 };
        let port_unreachable = of("icmp-port-unreachable", "icmp6-port-unreachable");
        match with {
            RejectWith::Default => {
                let tcp = self.space.protocol(Protocol::TCP)?;
                answer(self.space.and(when, tcp)?, "tcp-reset");
                answer(when, port_unreachable);
            }
            RejectWith::TcpReset => answer(when, "tcp-reset"),
            RejectWith::PortUnreachable => answer(when, port_unreachable),
            RejectWith::HostUnreachable => {
                answer(when, of("icmp-host-unreachable", "icmp6-addr-unreachable"));
            }
            RejectWith::NetUnreachable => {
                answer(when, of("icmp-net-unreachable", "icmp6-no-route"));
            }
            RejectWith::AdminProhibited => {
                answer(when, of("icmp-admin-prohibited", "icmp6-adm-prohibited"));
            }
            RejectWith::HostProhibited => {
                answer(when, of("icmp-host-prohibited", "icmp6-adm-prohibited"));
            }
            RejectWith::NetProhibited => {
                answer(when, of("icmp-net-prohibited", "icmp6-adm-prohibited"));
            }
            RejectWith::ProtoUnreachable => {
                answer(when, of("icmp-proto-unreachable", port_unreachable));
            }
            RejectWith::PolicyFail => {
                answer(when, of("icmp-admin-prohibited", "icmp6-policy-fail"));
            }
            RejectWith::RejectRoute => {
                answer(when, of("icmp-net-unreachable", "icmp6-reject-route"));
            }
        }
        Ok(())
    }

    /// Returns `true` if the hook has a custom rule, in either family.
    fn has_custom(&self) -> bool {
        let mut customs = self.plan.custom.iter();
        customs
            .any(|custom| custom.table == CustomTable::Filter && custom.chain == self.hook.chain())
    }

    /// Returns `true` if a rule that fulfils `such` has packets in the hook, in either family.
    pub(super) fn has_rules(&self, such: impl Fn(&PlannedRule) -> bool) -> bool {
        let mut rules = self.plan.rules.iter().filter(|rule| such(rule));
        rules.any(|rule| {
            Family::ALL
                .iter()
                .any(|family| exists(self.plan, rule, self.hook, *family))
        })
    }
}

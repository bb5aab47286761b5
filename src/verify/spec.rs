//! The policy's packet sets: what each hook of the filter table does with every packet.
//!
//! Which hook, which family, the preamble, the order and what a negation means are decided here anew; nothing is shared
//! with what writes the rules but the plan's types.

use std::collections::{BTreeMap, HashMap};

use super::condition::{Bucket, Condition, Counted, Rated};
use super::custom::{self, CustomFlows, CustomTurns, Customs};
use super::matching::{Matching, exists, set_name};
use super::nat;
use super::tagged::goes_on;
use crate::analysis::{
    BaseChain, Behaviour, Effect, Field, Flow, GaveUp, Set, Space, Step, Verdict,
};
use crate::iptables::{Policy, TableName};
use crate::net::{Family, Hook, IntervalSet, Protocol, State};
use crate::policy::{
    CustomPosition, CustomTable, DefaultAction, Enforce, Icmp, Invalid, NatChain, Order, Over,
    RejectWith, Stage, Turn,
};
use crate::resolve::{Members, Plan, Rule, RuleAction};

/// What the policy does with the packets of one family.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The filter table's hooks and chain policies. Every log line is an effect of its own.
    pub behaviour: Behaviour,
    /// What the effects stand for.
    pub logs: BTreeMap<Effect, Logging>,
    /// What is decided in a hook, step by step; the default is no part of it unless it is a rule.
    pub(super) decisions: HashMap<Hook, Vec<Decision>>,
    /// What keeps the rules of a hook down, by their index in [`Plan::rules`].
    pub(super) limits: HashMap<(Hook, usize), Condition>,
    /// The same for connections.
    pub(super) connections: HashMap<(Hook, usize), Condition>,
    /// What decides between several backends.
    pub(super) turns: HashMap<Turn, Condition>,
    /// The packets of the nat entries in each chain, by their index in [`Plan::nat`], whoever comes first.
    pub(super) translated: Vec<(NatChain, usize, Set)>,
    /// What custom rules do before, among and after the rules, by base chain.
    pub(super) custom: CustomFlows,
}

impl Spec {
    /// The packets that a rule logs in a hook, by its index in [`Plan::rules`]; `None` where it logs none.
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
pub(super) struct Decision {
    /// The rule by its index in [`Plan::rules`]; `None` is the preamble, a custom rule, or the default.
    pub rule: Option<usize>,
    /// Its packets, decided before or not.
    pub set: Set,
    /// What becomes of them; `None`: they go on.
    pub verdict: Option<Verdict>,
}

/// Who asks for a log line, and in which class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Logging {
    /// Where.
    pub hook: Hook,
    /// The rule by its index in [`Plan::rules`]; `None` is the default action.
    pub rule: Option<usize>,
    /// The class by its index in [`Plan::log_classes`].
    pub class: usize,
}

/// The policy's behaviour in the family of the space.
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
        Chain { plan, space, hook }.add_to(&mut spec)?;
    }
    for chain in [
        NatChain::Prerouting,
        NatChain::Output,
        NatChain::Postrouting,
    ] {
        translations(plan, space, chain, &mut spec)?;
    }
    // Where packets come to this host nothing but a custom rule translates.
    let place = (TableName::Nat, BaseChain::Input);
    let customs = spec.custom.of_chain(place).up_to(CustomPosition::After);
    let steps = custom::steps(space, customs).collect();
    add_translations(space, place, steps, &mut spec)?;
    let first = antispoof(plan, space)?;
    super::raw::add_to(&mut spec, plan, space, first)?;
    super::mangle::add_to(&mut spec, plan, space)?;
    Ok(spec)
}

/// One hook on its way to a behaviour.
struct Chain<'a> {
    plan: &'a Plan,
    space: &'a Space,
    hook: Hook,
}

/// Steps in their order, and what their log effects stand for.
struct Steps<'a> {
    steps: Vec<Step>,
    decisions: Vec<Decision>,
    /// The rule that is on.
    rule: Option<usize>,
    /// The custom rules of the chain that are not among the steps yet.
    customs: CustomTurns,
    spec: &'a mut Spec,
    limits: usize,
    connections: usize,
}

impl Steps<'_> {
    fn accept(&mut self, when: Set) {
        self.decide(when, Verdict::Accept);
    }

    fn decide(&mut self, when: Set, verdict: Verdict) {
        self.steps.push(Step::verdict(when, verdict.clone()));
        self.decisions.push(Decision {
            rule: self.rule,
            set: when,
            verdict: Some(verdict),
        });
    }

    /// Lets packets go on to the next rule.
    fn go_on(&mut self, when: Set) {
        self.decisions.push(Decision {
            rule: self.rule,
            set: when,
            verdict: None,
        });
    }

    fn log(&mut self, when: Set, logging: Logging) {
        // Sorts as the policy asks.
        let effect: Effect = format!("log {:08}", self.spec.logs.len()).into();
        self.steps.push(Step::effect(when, effect.clone()));
        self.spec.logs.insert(effect, logging);
    }

    fn drop(&mut self, when: Set) {
        self.decide(when, Verdict::Drop);
    }
}

impl Chain<'_> {
    fn add_to(&self, spec: &mut Spec) -> Result<(), GaveUp> {
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
        };
        let denies = matches!(default, DefaultAction::Drop | DefaultAction::Reject);
        if denies
            || self.has_custom()
            || self.has_rules(|_| true)
            || nat::accepts_any(self.plan, self.hook)?
        {
            self.preamble(&mut steps)?;
            self.custom(CustomPosition::Before, &mut steps)?;
            self.rules(Stage::Main, &mut steps)?;
            self.custom(CustomPosition::Behind(usize::MAX), &mut steps)?;
            for translated in nat::accepted(self.plan, self.space, self.hook)? {
                steps.accept(translated);
            }
            steps.accept(super::raw::replies(self.plan, self.space, self.hook)?);
            self.custom(CustomPosition::After, &mut steps)?;
            self.last(default, &mut steps)?;
        }
        let end = match default {
            DefaultAction::Accept => Verdict::Accept,
            // Shared: what is denied was denied by steps.
            _ if self.plan.is_shared() => goes_on(),
            DefaultAction::Continue => goes_on(),
            DefaultAction::Drop | DefaultAction::Reject => Verdict::Drop,
        };
        let (steps, decisions) = (steps.steps, steps.decisions);
        spec.decisions.insert(self.hook, decisions);
        let flow = Flow::from_rules(self.space, steps)?.with_policy(self.space, end)?;
        spec.behaviour.insert(self.space, place, flow)?;
        let chain_policy = match (self.plan.defaults.enforce, default) {
            _ if self.plan.is_shared() => Policy::Accept,
            (Enforce::Rule, _) | (_, DefaultAction::Accept | DefaultAction::Continue) => {
                Policy::Accept
            }
            (Enforce::Policy, _) => Policy::Drop,
        };
        spec.behaviour
            .structure
            .policies
            .insert(place, chain_policy);
        Ok(())
    }

    fn preamble(&self, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let (space, defaults) = (self.space, &self.plan.defaults);
        if defaults.loopback {
            match self.hook {
                Hook::Input => steps.accept(space.in_device("lo")?),
                Hook::Output => steps.accept(space.out_device("lo")?),
                Hook::Forward => {}
            }
        }
        self.rules(Stage::Early, steps)?;
        let goes_on = self.default_action() == DefaultAction::Continue;
        if defaults.established
            && (!goes_on
                || self.has_rules(|rule| rule.action == RuleAction::Accept)
                || nat::accepts_any(self.plan, self.hook)?)
        {
            steps.accept(space.states(&[State::Established, State::Related])?);
        }
        steps.accept(self.icmp()?);
        let invalid = space.states(&[State::Invalid])?;
        match defaults.invalid {
            _ if goes_on => {}
            Invalid::Drop => steps.drop(invalid),
            Invalid::Accept => steps.accept(invalid),
            Invalid::Off => {}
        }
        if defaults.dhcp_client {
            steps.accept(self.dhcp_client()?);
        }
        Ok(())
    }

    fn rules(&self, stage: Stage, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let matching = Matching {
            plan: self.plan,
            space: self.space,
            hook: self.hook,
        };
        let all = self.plan.rules.iter().enumerate();
        let mut ordered: Vec<_> = all.filter(|(_, rule)| rule.stage == stage).collect();
        // Stable: equals stay as written.
        ordered.sort_by_key(|(_, rule)| match rule.order {
            Order::First => 0,
            Order::Normal => 1,
            Order::Last => 2,
        });
        for (index, rule) in ordered {
            match (stage, rule.order) {
                (Stage::Main, Order::Normal) => {
                    self.custom(CustomPosition::Behind(index), steps)?;
                }
                (Stage::Main, Order::Last) => {
                    self.custom(CustomPosition::Behind(usize::MAX), steps)?;
                }
                (Stage::Main, Order::First) | (Stage::Early, _) => {}
            }
            let when = matching.rule(rule)?;
            if when == self.space.none() {
                continue;
            }
            steps.rule = Some(index);
            self.rule(index, rule, when, steps)?;
            steps.rule = None;
        }
        Ok(())
    }

    /// Adds the custom rules up to a position. What they decide, count or log counts as decided by something that does
    /// what no rule of the policy does.
    fn custom(&self, position: CustomPosition, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        for flow in steps.customs.up_to(position) {
            let parts = self.space.parts(flow.verdicts)?.into_iter();
            let decided = parts.filter_map(|(verdict, set)| verdict.map(|_| set));
            let treated = flow.effects.values().copied();
            let set = self.space.any(decided.chain(treated))?;
            steps.decisions.push(Decision {
                rule: None,
                set,
                verdict: Some(Verdict::Target("custom".into())),
            });
            steps.steps.extend(custom::steps(self.space, vec![flow]));
        }
        Ok(())
    }

    /// A rule's packets, within and beyond what it may have. Connections are counted first.
    fn rule(
        &self,
        index: usize,
        rule: &Rule,
        when: Set,
        steps: &mut Steps<'_>,
    ) -> Result<(), GaveUp> {
        // Without `..`, so that a new key does not compile before somebody says here what it does with packets.
        let Rule {
            action,
            limit,
            connections,
            log,
            // Which packets it is for, which `when` says.
            from: _,
            to: _,
            source: _,
            destination: _,
            service: _,
            ipset: _,
            scope: _,
            state: _,
            mark: _,
            mac: _,
            tcp_flags: _,
            user: _,
            group: _,
            schedule: _,
            expires: _,
            enabled: _,
            // When it is asked, which is now, and what it is called.
            stage: _,
            order: _,
            span: _,
            label: _,
            named: _,
            comment: _,
            remark: _,
        } = rule;
        let space = self.space;
        let family = space.family();
        let bucket = |place| Bucket {
            chain: self.hook.chain().to_owned(),
            place,
        };
        let mut left = when;
        let mut beyond = Vec::new();
        if let Some(connections) = connections {
            let counted = Counted::of(connections.per, family);
            let within =
                Condition::Connections(bucket(steps.connections), connections.max, counted);
            steps.connections += 1;
            let set = within.set(space)?;
            beyond.push((space.minus(left, set)?, connections.over));
            left = space.and(left, set)?;
            steps.spec.connections.insert((self.hook, index), within);
        }
        // The limit of a rule that logs is how often it writes a line.
        if let Some(limit) = limit.as_ref().filter(|_| *action != RuleAction::Log) {
            let within = Condition::Within(bucket(steps.limits), Rated::of_limit(limit, family));
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
            steps.log(decided, Logging { hook, rule, class });
        }
        for (set, over) in beyond {
            match over {
                Over::Continue => {}
                Over::Drop => steps.drop(set),
                Over::Reject => self.reject(set, self.plan.defaults.reject_with, steps)?,
            }
        }
        match action {
            RuleAction::Log => steps.go_on(left),
            RuleAction::Accept => steps.accept(left),
            RuleAction::Drop => steps.drop(left),
            RuleAction::Reject(with) => self.reject(left, *with, steps)?,
        }
        Ok(())
    }

    /// What stands behind the rules; what falls through is for the chain's policy.
    fn last(&self, default: DefaultAction, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
        let defaults = &self.plan.defaults;
        if matches!(default, DefaultAction::Accept | DefaultAction::Continue) {
            return Ok(());
        }
        let denied = self.denied()?;
        if let Some(class) = defaults.log {
            let (hook, rule) = (self.hook, None);
            steps.log(denied, Logging { hook, rule, class });
        }
        if default == DefaultAction::Reject {
            self.reject(denied, defaults.reject_with, steps)?;
        } else {
            steps.drop(denied);
        }
        Ok(())
    }

    /// What a default that denies is for: everything, but where others forward too only what the policy's own devices
    /// are on both sides of.
    fn denied(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        if !self.plan.is_shared() || self.hook != Hook::Forward {
            return Ok(space.all());
        }
        let (mut came, mut leaves) = (space.none(), space.none());
        for device in self.plan.interfaces.iter().flat_map(|one| &one.devices) {
            came = space.or(came, space.in_device(device.as_str())?)?;
            leaves = space.or(leaves, space.out_device(device.as_str())?)?;
        }
        space.and(came, leaves)
    }

    fn reject(&self, when: Set, with: RejectWith, steps: &mut Steps<'_>) -> Result<(), GaveUp> {
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
        }
        Ok(())
    }

    /// The ICMP that needs no rule; in IPv4 IGMP too.
    fn icmp(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let word = self.plan.defaults.icmp;
        if self.all_icmp() {
            return match space.family() {
                Family::V4 => space.or(
                    space.protocol(Protocol::ICMP)?,
                    space.protocol(Protocol::IGMP)?,
                ),
                Family::V6 => space.protocol(Protocol::ICMPV6),
            };
        }
        if word == Icmp::None || (self.hook == Hook::Output && !self.output_denies()) {
            return Ok(space.none());
        }
        if self.hook == Hook::Forward {
            let errors = match space.family() {
                Family::V4 => self.types(&[(3, 3), (11, 12)])?,
                Family::V6 => self.types(&[(1, 4)])?,
            };
            return space.and(errors, space.states(&[State::Related])?);
        }
        let echo = word != Icmp::EssentialNoPing;
        match space.family() {
            Family::V4 => {
                let types: &[_] = if echo {
                    &[(3, 3), (8, 8), (11, 12)]
                } else {
                    &[(3, 3), (11, 12)]
                };
                space.or(self.types(types)?, space.protocol(Protocol::IGMP)?)
            }
            Family::V6 => {
                let anywhere: &[_] = if echo {
                    &[(1, 4), (128, 132), (143, 143), (151, 153)]
                } else {
                    &[(1, 4), (130, 132), (143, 143), (151, 153)]
                };
                let link = self.types(&[(133, 136), (141, 142), (148, 149)])?;
                let from_the_link = space.range(Field::HopLimit, 255, 255)?;
                space.or(self.types(anywhere)?, space.and(link, from_the_link)?)
            }
        }
    }

    /// `all` holds for what comes to this host and what leaves it.
    fn all_icmp(&self) -> bool {
        self.plan.defaults.icmp == Icmp::All && self.hook != Hook::Forward
    }

    /// ICMP of the family, types from first to last.
    fn types(&self, types: &[(u128, u128)]) -> Result<Set, GaveUp> {
        let protocol = match self.space.family() {
            Family::V4 => Protocol::ICMP,
            Family::V6 => Protocol::ICMPV6,
        };
        let with_codes = types
            .iter()
            .map(|(first, last)| (first << 8, last << 8 | 0xff));
        let types = IntervalSet::from_intervals(with_codes);
        let space = self.space;
        space.and(
            space.protocol(protocol)?,
            space.values(Field::Icmp, &types)?,
        )
    }

    fn dhcp_client(&self) -> Result<Set, GaveUp> {
        let space = self.space;
        let (client, server) = match space.family() {
            Family::V4 => (68, 67),
            Family::V6 => (546, 547),
        };
        let (from, to) = match self.hook {
            Hook::Input => (server, client),
            Hook::Output if self.output_denies() => (client, server),
            Hook::Output | Hook::Forward => return Ok(space.none()),
        };
        let destination = match (self.hook, space.family()) {
            (Hook::Input, Family::V6) => {
                space.range(Field::Destination, 0xfe80 << 112, (0xfec0 << 112) - 1)?
            }
            _ => space.all(),
        };
        space.every([
            destination,
            space.protocol(Protocol::UDP)?,
            space.source_port(from, from)?,
            space.destination_port(to, to)?,
        ])
    }

    fn default_action(&self) -> DefaultAction {
        default_action(self.plan, self.hook)
    }

    fn output_denies(&self) -> bool {
        matches!(
            default_action(self.plan, Hook::Output),
            DefaultAction::Drop | DefaultAction::Reject
        )
    }

    /// Whether such a rule has packets in the hook, in either family.
    fn has_custom(&self) -> bool {
        let mut customs = self.plan.custom.iter();
        customs
            .any(|custom| custom.table == CustomTable::Filter && custom.chain == self.hook.chain())
    }

    fn has_rules(&self, such: impl Fn(&Rule) -> bool) -> bool {
        let mut rules = self.plan.rules.iter().filter(|rule| such(rule));
        rules.any(|rule| {
            Family::ALL
                .iter()
                .any(|family| exists(self.plan, rule, self.hook, *family))
        })
    }
}

/// One chain of the nat table: the first entry that has a packet translates it.
fn translations(
    plan: &Plan,
    space: &Space,
    chain: NatChain,
    spec: &mut Spec,
) -> Result<(), GaveUp> {
    let place = (TableName::Nat, nat::base_chain(chain));
    let mut customs = spec.custom.of_chain(place);
    let spoken = nat::chain(plan, space, chain, &mut customs, &mut spec.turns)?;
    let packets = spoken.packets.into_iter();
    spec.translated
        .extend(packets.map(|(entry, packets)| (chain, entry, packets)));
    add_translations(space, place, spoken.steps, spec)
}

/// Adds what happens at a base chain of the nat table.
fn add_translations(
    space: &Space,
    place: (TableName, BaseChain),
    steps: Vec<Step>,
    spec: &mut Spec,
) -> Result<(), GaveUp> {
    if steps.is_empty() {
        return Ok(());
    }
    let flow = Flow::from_rules(space, steps)?.with_policy(space, Verdict::Accept)?;
    spec.behaviour.insert(space, place, flow)
}

/// The members of the sets that the policy fills.
fn members(plan: &Plan, family: Family) -> BTreeMap<String, IntervalSet> {
    let sets = plan.sets.iter().filter_map(|set| match &set.members {
        Members::Static(all) => Some((set_name(&set.name, family), all.family(family).clone())),
        Members::Dynamic { .. } => None,
    });
    sets.collect()
}

/// Whose source belongs to another interface's networks is dropped before anything else; the longest prefix decides.
fn antispoof(plan: &Plan, space: &Space) -> Result<Option<Flow>, GaveUp> {
    if !plan.defaults.antispoof {
        return Ok(None);
    }
    let mut prefixes: BTreeMap<(u128, u128), Vec<Set>> = BTreeMap::new();
    for interface in &plan.interfaces {
        let networks = interface.networks.iter();
        for network in networks.filter(|network| network.family == space.family()) {
            let size = network.last - network.first;
            let devices = prefixes.entry((size, network.first)).or_default();
            for device in &interface.devices {
                devices.push(space.in_device(device.as_str())?);
            }
        }
    }
    let mut steps = vec![
        Step::returns(space.in_device("lo")?),
        Step::returns(Condition::FromIpsec.set(space)?),
    ];
    // The smallest first.
    for ((size, first), devices) in prefixes {
        let network = IntervalSet::from_intervals([(first, first + size)]);
        let source = space.sources(&network)?;
        let behind = space.and(source, space.any(devices)?)?;
        steps.push(Step::returns(behind));
        steps.push(Step::verdict(source, Verdict::Drop));
    }
    Flow::from_rules(space, steps)?.as_chain(space).map(Some)
}

fn default_action(plan: &Plan, hook: Hook) -> DefaultAction {
    match hook {
        Hook::Input => plan.defaults.input,
        Hook::Forward => plan.defaults.forward,
        Hook::Output => plan.defaults.output,
    }
}

//! The policy's rules as lines of chains.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::addresses;
use super::context::{
    ChainContext, ConnectionContext, GroupContext, LimitContext, LineContext, LogContext,
    NegatableContext, SetContext, TimeContext,
};
use super::hooks::{self, HookPath};
use super::nat;
use super::reject_name;
use super::render::LineOrigin;
use super::services::{self, PortList, ServiceMatch};
use crate::net::{Date, Family, Hook, Protocol, State};
use crate::policy::{Over, Per, RejectWith, RuleStage};
use crate::resolve::{Connections, Limit, LogClass, Plan, PlannedRule, RuleAction, Schedule};

/// The policy's rules in one base chain, in order.
#[derive(Default)]
pub struct ExpandedChain {
    /// Before ESTABLISHED is accepted.
    pub early: Vec<GroupContext>,
    /// After the preamble.
    pub main: Vec<GroupContext>,
    /// Behind those: what nat entries accept.
    pub translated: Vec<GroupContext>,
    /// Whether one of the rules, or of those, accepts.
    pub accepts: bool,
}

impl ExpandedChain {
    /// Whether no rule stands here.
    pub fn is_empty(&self) -> bool {
        self.early.is_empty() && self.main.is_empty() && self.translated.is_empty()
    }
}

/// The rules of one family.
#[derive(Default)]
pub struct Expanded {
    /// For each hook its base chain.
    pub base: [ExpandedChain; 3],
    /// Chains of our own, by name.
    pub own: Vec<ChainContext>,
}

/// All enabled rules in one family.
pub fn expand(plan: &Plan, family: Family) -> Expanded {
    let mut expanded = Expanded::default();
    let mut own = BTreeMap::new();
    let mut rules: Vec<_> = plan.rules.iter().enumerate().collect();
    rules.sort_by_key(|(_, rule)| rule.order);
    for (index, rule) in rules {
        let in_scope = rule.scope.is_none_or(|scope| scope.has(family));
        if !rule.enabled || !in_scope {
            continue;
        }
        for hook in Hook::ALL {
            let lines: Vec<_> = hooks::ways(plan, rule, hook, family)
                .iter()
                .flat_map(|way| packets(plan, rule, way, family, &LineOrigin::Rule(index).mark()))
                .collect();
            if lines.is_empty() {
                continue;
            }
            let rule_in_hook = InHook {
                plan,
                rule,
                family,
                hook,
            };
            let group = GroupContext {
                written: Some((rule.order, index)),
                ..rule_in_hook.group(lines, &mut own)
            };
            let base = &mut expanded.base[hook as usize];
            base.accepts |= rule.action == RuleAction::Accept;
            match rule.stage {
                RuleStage::Early => base.early.push(group),
                RuleStage::Main => base.main.push(group),
            }
        }
    }
    for hook in Hook::ALL {
        let base = &mut expanded.base[hook as usize];
        base.translated = nat::accepts(plan, family, hook);
        base.accepts |= !base.translated.is_empty();
    }
    expanded.own = own.into_values().collect();
    expanded
}

/// How many lines [`packets`] gives, without making them: there may be more than memory holds.
pub fn count(plan: &Plan, rule: &PlannedRule, way: &HookPath<'_>, family: Family) -> u64 {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let side = |addresses: &Option<_>, networks: &Option<_>| {
        number(addresses::count(
            addresses.as_ref(),
            networks.as_ref(),
            plan,
            family,
        ))
    };
    side(&rule.source, &way.source)
        .saturating_mul(side(&rule.destination, &way.destination))
        .saturating_mul(number(
            services::matches(rule.service.as_ref(), family).len(),
        ))
}

/// Returns what a rule matches on one way, as lines without a target that have no packet in common.
pub fn packets(
    plan: &Plan,
    rule: &PlannedRule,
    way: &HookPath<'_>,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    // Without `..`, so that a new key does not compile before somebody says here what a line asks for.
    #[rustfmt::skip]
    let PlannedRule {
        source, destination, service, ipset, state, mark, mac, tcp_flags, user, group, schedule, expires,
        comment,
        // The caller leaves out what is off, and finds the ways.
        enabled: _, scope: _, from: _, to: _,
        // What is done with the lines, and where they stand.
        action: _, limit: _, connections: _, log: _, stage: _, order: _, span: _, label: _, named: _, remark: _,
    } = rule;
    let sources = addresses::matches(plan, source.as_ref(), way.source.as_ref(), family, "src");
    let destinations = addresses::matches(
        plan,
        destination.as_ref(),
        way.destination.as_ref(),
        family,
        "dst",
    );
    let foreign = ipset.as_ref().map(|name| SetContext {
        not: "",
        name: name.clone(),
        side: "src",
    });
    let services = services::matches(service.as_ref(), family);
    let times = times(schedule.as_ref(), *expires);
    let states = state.as_ref().map(|states| {
        let words: Vec<_> = states.iter().map(|state: &State| state.keyword()).collect();
        words.join(",")
    });
    let mut lines = Vec::with_capacity(sources.len() * destinations.len() * services.len());
    for source in &sources {
        for destination in &destinations {
            for service in &services {
                let mut line = LineContext {
                    in_device: way
                        .input
                        .map(|device| NegatableContext::plain(device.to_string())),
                    out_device: way
                        .output
                        .map(|device| NegatableContext::plain(device.to_string())),
                    mac: mac.map(|mac| mac.to_string()),
                    mark: mark.map(|mark| mark.to_string()),
                    uid: user.map(|id| id.to_string()),
                    gid: group.map(|id| id.to_string()),
                    times: times.clone(),
                    states: states.clone(),
                    comment: comment.clone(),
                    origin: origin.to_owned(),
                    ..LineContext::default()
                };
                line.source.clone_from(&source.prefix);
                line.source_range.clone_from(&source.range);
                line.destination.clone_from(&destination.prefix);
                line.destination_range.clone_from(&destination.range);
                let sets = source.sets.iter().chain(&destination.sets).chain(&foreign);
                line.sets = sets.cloned().collect();
                put_service(&mut line, service);
                if let Some(flags) = tcp_flags {
                    line.protocol = Some(Protocol::TCP.to_string());
                    line.tcp_flags = Some(flags.to_string());
                }
                lines.push(line);
            }
        }
    }
    lines
}

/// Returns the matches of time that a rule needs: none, one, or two where the hours are local, since the last day is one of UTC.
fn times(schedule: Option<&Schedule>, expires: Option<Date>) -> Vec<TimeContext> {
    /// What the kernel puts in when no last day is said.
    const END_OF_TIME: &str = "2038-01-19T03:14:07";
    let last = expires.map(|date| format!("{date}T23:59:59"));
    let expiry = last.clone().map(|last| TimeContext {
        last,
        ..TimeContext::default()
    });
    let Some(schedule) = schedule else {
        return expiry.into_iter().collect();
    };
    let hours = schedule.hours;
    let mut hourly = TimeContext {
        from: hours.map(|(from, _)| from.to_string()),
        until: hours.map(|(_, until)| until.to_string()),
        days: schedule.days.as_ref().map(|days| {
            let names: Vec<_> = days.iter().map(ToString::to_string).collect();
            names.join(",")
        }),
        last: END_OF_TIME.to_owned(),
        contiguous: hours.is_some_and(|(from, until)| until < from),
        local: schedule.local,
    };
    match (expiry, last) {
        (Some(expiry), _) if schedule.local => vec![hourly, expiry],
        (_, Some(last)) => {
            hourly.last = last;
            vec![hourly]
        }
        _ => vec![hourly],
    }
}

fn put_service(line: &mut LineContext, service: &ServiceMatch) {
    match service {
        ServiceMatch::All => {}
        ServiceMatch::Protocol(protocol) => line.protocol = Some(protocol.to_string()),
        ServiceMatch::AuthHeader => line.auth_header = true,
        ServiceMatch::Icmp(kind) => {
            line.protocol = Some(Protocol::ICMP.to_string());
            line.icmp = Some(kind.clone());
        }
        ServiceMatch::Icmpv6(kind) => {
            line.protocol = Some(Protocol::ICMPV6.to_string());
            line.icmpv6 = Some(kind.clone());
        }
        ServiceMatch::Ports {
            protocol,
            source,
            destination,
        } => {
            line.protocol = Some(protocol.to_string());
            match source {
                Some(PortList::One(port)) => line.source_port = Some(port.clone()),
                Some(PortList::Several(ports)) => line.source_ports = Some(ports.clone()),
                None => {}
            }
            match destination {
                Some(PortList::One(port)) => line.destination_port = Some(port.clone()),
                Some(PortList::Several(ports)) => line.destination_ports = Some(ports.clone()),
                None => {}
            }
        }
    }
}

/// A rule in one base chain.
struct InHook<'a> {
    plan: &'a Plan,
    rule: &'a PlannedRule,
    family: Family,
    hook: Hook,
}

impl InHook<'_> {
    fn group(
        &self,
        lines: Vec<LineContext>,
        own: &mut BTreeMap<String, ChainContext>,
    ) -> GroupContext {
        let log = self.rule.log.map(|class| &self.plan.log_classes[class]);
        let counts = self.rule.limit.is_some() || self.rule.connections.is_some();
        let lines = match lines.as_slice() {
            [line] if !counts && let Some(class) = log => self.logged(line, class),
            _ if log.is_some() || counts => self.in_own_chain(lines, own),
            lines => lines.iter().flat_map(|line| self.verdicts(line)).collect(),
        };
        GroupContext::of(self.rule, lines)
    }

    /// A rule whose only extra is a log: one line logs, the next ones decide.
    fn logged(&self, line: &LineContext, class: &LogClass) -> Vec<LineContext> {
        let mut lines = vec![LineContext {
            limit: Some(LimitContext::global(class.rate, class.burst)),
            log: Some(LogContext::new(class)),
            ..line.clone()
        }];
        lines.extend(self.verdicts(line));
        lines
    }

    /// The rule's own chain: log, connections, limit, verdict, what is beyond the limit. What counts stands on one
    /// line only, since two lines would count twice.
    fn body(
        &self,
        name: &str,
        everything: &LineContext,
        own: &mut BTreeMap<String, ChainContext>,
    ) -> Vec<LineContext> {
        let rule = self.rule;
        let limit = rule.limit.as_ref().map(|limit| self.limit(limit, name));
        let class = rule.log.map(|class| &self.plan.log_classes[class]);
        if rule.action == RuleAction::Log {
            let log = class.map(|class| LineContext {
                limit: limit.or(Some(LimitContext::global(class.rate, class.burst))),
                log: Some(LogContext::new(class)),
                ..everything.clone()
            });
            return log.into_iter().collect();
        }
        let log = class.map(|class| LineContext {
            limit: Some(LimitContext::global(class.rate, class.burst)),
            log: Some(LogContext::new(class)),
            ..everything.clone()
        });
        let connections = rule.connections.as_ref().map(|connections| {
            let above = LineContext {
                connections: Some(self.connections(connections)),
                ..everything.clone()
            };
            let over = self.over(connections.over, everything);
            self.through(above, over, format!("{name}-OVER"), own)
        });
        // What goes on to the next rules is not this rule's, and not logged as such.
        let over_connections = rule
            .connections
            .as_ref()
            .map(|connections| connections.over);
        let over_limit = rule.limit.as_ref().map(|limit| limit.over);
        let mut lines = Vec::new();
        let mut verdicts = self.verdicts(everything);
        match log {
            Some(log) if over_limit == Some(Over::Continue) => {
                lines.extend(connections);
                verdicts.insert(0, log);
            }
            log if over_connections == Some(Over::Continue) => {
                lines.extend(connections.into_iter().chain(log));
            }
            log => lines.extend(log.into_iter().chain(connections)),
        }
        match limit {
            None => lines.extend(verdicts),
            Some(limit) => {
                let within = LineContext {
                    limit: Some(limit),
                    ..everything.clone()
                };
                lines.push(self.through(within, verdicts, format!("{name}-DO"), own));
            }
        }
        if let Some(over) = over_limit.filter(|over| *over != Over::Continue) {
            lines.extend(self.over(over, everything));
        }
        lines
    }

    /// One line that leads to the verdicts: itself where there is one, else through a chain.
    fn through(
        &self,
        line: LineContext,
        verdicts: Vec<LineContext>,
        chain: String,
        own: &mut BTreeMap<String, ChainContext>,
    ) -> LineContext {
        if let [verdict] = verdicts.as_slice()
            && verdict.protocol.is_none()
        {
            return LineContext {
                target: verdict.target.clone(),
                reject_with: verdict.reject_with,
                ..line
            };
        }
        self.add_chain(&chain, verdicts, own);
        LineContext {
            target: chain,
            ..line
        }
    }

    /// What happens beyond a limit.
    fn over(&self, over: Over, line: &LineContext) -> Vec<LineContext> {
        match over {
            Over::Drop => to("DROP", line),
            Over::Reject => reject(self.plan.defaults.reject_with, self.family, line),
            Over::Continue => to("RETURN", line),
        }
    }

    fn connections(&self, connections: &Connections) -> ConnectionContext {
        ConnectionContext {
            above: connections.max,
            mask: match connections.per {
                Per::Rule => 0,
                Per::Source => self.source_bits(),
            },
        }
    }

    fn limit(&self, limit: &Limit, chain: &str) -> LimitContext {
        match limit.per {
            Per::Rule => LimitContext::global(limit.rate, limit.burst),
            Per::Source => {
                let bits = self.source_bits();
                let rate = limit.rate.of_hashlimit();
                let expire = limit.rate.hashlimit_expiry(limit.burst);
                // The kernel keeps what a table was made with as long as the table lives: another rate, or another
                // expiry, needs another name.
                let mut identity = format!(
                    "{}/{}/{chain}/{rate}/{}/{bits}",
                    self.rule.label, self.hook, limit.burst
                );
                if let Some(expire) = expire {
                    identity += &format!("/{expire}");
                }
                LimitContext {
                    rate,
                    burst: Some(limit.burst),
                    table: Some(format!("fwc-{}", short_hash(identity))),
                    expire,
                    mask: Some(bits).filter(|bits| *bits != self.family.bits()),
                }
            }
        }
    }

    /// A host has an IPv4 address, or a network of IPv6 in which it takes addresses as it likes.
    fn source_bits(&self) -> u8 {
        match self.family {
            Family::V4 => 32,
            Family::V6 => 64,
        }
    }

    /// The lines that decide about the packets of `line`.
    fn verdicts(&self, line: &LineContext) -> Vec<LineContext> {
        match self.rule.action {
            RuleAction::Accept => to("ACCEPT", line),
            RuleAction::Drop => to("DROP", line),
            RuleAction::Reject(with) => reject(with, self.family, line),
            RuleAction::Log => Vec::new(),
        }
    }

    /// One chain counts for all lines of the rule: a limit in each of them would let through so many times its rate.
    fn in_own_chain(
        &self,
        mut lines: Vec<LineContext>,
        own: &mut BTreeMap<String, ChainContext>,
    ) -> Vec<LineContext> {
        let name = self.chain_name(&lines, own);
        let mut everything = LineContext {
            comment: self.rule.comment.clone(),
            origin: lines
                .first()
                .map_or(String::new(), |line| line.origin.clone()),
            ..LineContext::default()
        };
        let body = self.body(&name, &everything, own);
        self.add_chain(&name, body, own);
        for line in &mut lines {
            line.target.clone_from(&name);
        }
        if lines.len() == 1 || !self.may_go_on() {
            return lines;
        }
        // Lines may have packets in common, and none is counted twice: the first that matches goes to the chain,
        // and from there back to the base chain.
        for line in &mut lines {
            line.goto = true;
        }
        let choose = format!("{name}-ANY");
        self.add_chain(&choose, lines, own);
        everything.target = choose;
        vec![everything]
    }

    /// Whether a packet of the rule may meet the next rule.
    fn may_go_on(&self) -> bool {
        let limit = self.rule.limit.map(|limit| limit.over);
        let connections = self.rule.connections.map(|connections| connections.over);
        self.rule.action == RuleAction::Log || [limit, connections].contains(&Some(Over::Continue))
    }

    fn add_chain(
        &self,
        name: &str,
        lines: Vec<LineContext>,
        own: &mut BTreeMap<String, ChainContext>,
    ) {
        let chain = ChainContext {
            name: name.to_owned(),
            policy: "-",
            groups: vec![GroupContext::of(self.rule, lines)],
            ..ChainContext::default()
        };
        own.insert(name.to_owned(), chain);
    }

    /// A name that stays the same while the rule does: from the rule's name, else from what it matches.
    fn chain_name(&self, lines: &[LineContext], own: &BTreeMap<String, ChainContext>) -> String {
        let mut identity = self.rule.label.clone();
        if !self.rule.named {
            for line in lines {
                identity = format!("{identity}\n{}", line.identity());
            }
        }
        // Twins get names of their own.
        let mut twin = 0u32;
        loop {
            let name = format!(
                "FWC-{}-{}",
                self.hook,
                short_hash(format!("{twin}/{identity}"))
            );
            if !own.contains_key(&name) {
                return name;
            }
            twin += 1;
        }
    }
}

fn to(target: &str, line: &LineContext) -> Vec<LineContext> {
    vec![LineContext {
        target: target.to_owned(),
        ..line.clone()
    }]
}

/// Eight hex digits.
pub fn short_hash(identity: String) -> String {
    let digest = Sha256::digest(identity);
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The lines that refuse the packets of `line`.
pub fn reject(with: RejectWith, family: Family, line: &LineContext) -> Vec<LineContext> {
    let answer = |with: RejectWith, protocol: Option<String>| LineContext {
        protocol,
        target: "REJECT".to_owned(),
        reject_with: Some(reject_name(with, family)),
        ..line.clone()
    };
    let tcp = Protocol::TCP.to_string();
    match (with, line.protocol.as_ref()) {
        // The kernel sends a reset only where the line itself asks for tcp.
        (RejectWith::TcpReset, _) => vec![answer(RejectWith::TcpReset, Some(tcp))],
        (RejectWith::Default, Some(protocol)) if *protocol == tcp => {
            vec![answer(RejectWith::TcpReset, Some(tcp))]
        }
        (RejectWith::Default, None) => vec![
            answer(RejectWith::TcpReset, Some(tcp)),
            answer(RejectWith::Default, None),
        ],
        (with, protocol) => vec![answer(with, protocol.cloned())],
    }
}

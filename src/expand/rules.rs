//! The policy's rules as lines of chains.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::addresses::{self, AddressMatch};
use super::context::{Chain, Group, Line, Log, Negatable};
use super::hooks::{self, Way};
use super::reject_name;
use super::render::origin_mark;
use super::services::{self, PortList, ServiceMatch};
use crate::net::{Family, Hook, Protocol, State};
use crate::policy::{RejectWith, Stage};
use crate::resolve::{Plan, Rule, RuleAction};

/// The policy's rules in one base chain, in order.
#[derive(Default)]
pub struct BaseChain {
    /// Before ESTABLISHED is accepted.
    pub early: Vec<Group>,
    /// After the preamble.
    pub main: Vec<Group>,
}

impl BaseChain {
    /// Whether no rule stands here.
    pub fn is_empty(&self) -> bool {
        self.early.is_empty() && self.main.is_empty()
    }
}

/// The rules of one family.
#[derive(Default)]
pub struct Expanded {
    /// For each hook its base chain.
    pub base: [BaseChain; 3],
    /// Chains of our own, by name.
    pub own: Vec<Chain>,
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
                .flat_map(|way| packets(rule, way, family, &origin_mark(index)))
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
            let group = rule_in_hook.group(lines, &mut own);
            let base = &mut expanded.base[hook as usize];
            match rule.stage {
                Stage::Early => base.early.push(group),
                Stage::Main => base.main.push(group),
            }
        }
    }
    expanded.own = own.into_values().collect();
    expanded
}

/// What a rule matches on one way, as lines without a target that have no packet in common.
fn packets(rule: &Rule, way: &Way<'_>, family: Family, origin: &str) -> Vec<Line> {
    let sources = addresses::matches(rule.source.as_ref(), way.source.as_ref(), family);
    let destinations =
        addresses::matches(rule.destination.as_ref(), way.destination.as_ref(), family);
    let services = services::matches(rule.service.as_ref(), family);
    let states = rule.state.as_ref().map(|states| {
        let words: Vec<_> = states.iter().map(|state: &State| state.keyword()).collect();
        words.join(",")
    });
    let mut lines = Vec::with_capacity(sources.len() * destinations.len() * services.len());
    for source in &sources {
        for destination in &destinations {
            for service in &services {
                let mut line = Line {
                    in_device: way.input.map(|device| Negatable::plain(device.to_string())),
                    out_device: way
                        .output
                        .map(|device| Negatable::plain(device.to_string())),
                    mac: rule.mac.map(|mac| mac.to_string()),
                    mark: rule.mark.map(|mark| mark.to_string()),
                    states: states.clone(),
                    comment: rule.comment.clone(),
                    origin: origin.to_owned(),
                    ..Line::default()
                };
                match source {
                    AddressMatch::All => {}
                    AddressMatch::Prefix(prefix) => line.source = Some(prefix.clone()),
                    AddressMatch::Range(range) => line.source_range = Some(range.clone()),
                }
                match destination {
                    AddressMatch::All => {}
                    AddressMatch::Prefix(prefix) => line.destination = Some(prefix.clone()),
                    AddressMatch::Range(range) => line.destination_range = Some(range.clone()),
                }
                put_service(&mut line, service);
                if let Some(flags) = rule.tcp_flags {
                    line.protocol = Some(Protocol::TCP.to_string());
                    line.tcp_flags = Some(flags.to_string());
                }
                lines.push(line);
            }
        }
    }
    lines
}

fn put_service(line: &mut Line, service: &ServiceMatch) {
    match service {
        ServiceMatch::All => {}
        ServiceMatch::Protocol(protocol) => line.protocol = Some(protocol.to_string()),
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
    rule: &'a Rule,
    family: Family,
    hook: Hook,
}

impl InHook<'_> {
    fn group(&self, lines: Vec<Line>, own: &mut BTreeMap<String, Chain>) -> Group {
        let log = self
            .rule
            .log
            .map(|class| Log::new(&self.plan.log_classes[class]));
        let lines = match (log, lines.as_slice()) {
            (None, _) => lines.iter().flat_map(|line| self.verdicts(line)).collect(),
            (Some(log), [line]) => self.logged(log, line),
            (Some(log), _) => self.jumps(log, lines, own),
        };
        Group {
            label: self.rule.label.clone(),
            lines,
        }
    }

    /// The lines that decide about the packets of `line`.
    fn verdicts(&self, line: &Line) -> Vec<Line> {
        let to = |target: &str| {
            vec![Line {
                target: target.to_owned(),
                ..line.clone()
            }]
        };
        match self.rule.action {
            RuleAction::Accept => to("ACCEPT"),
            RuleAction::Drop => to("DROP"),
            RuleAction::Reject(with) => reject(with, self.family, line),
            RuleAction::Log => Vec::new(),
        }
    }

    fn logged(&self, log: Log, line: &Line) -> Vec<Line> {
        let mut lines = vec![Line {
            log: Some(log),
            ..line.clone()
        }];
        lines.extend(self.verdicts(line));
        lines
    }

    /// One chain logs for all lines of the rule: a limit in each of them would let through so many times its rate.
    fn jumps(
        &self,
        log: Log,
        mut lines: Vec<Line>,
        own: &mut BTreeMap<String, Chain>,
    ) -> Vec<Line> {
        let name = self.chain_name(&lines, own);
        for line in &mut lines {
            line.target.clone_from(&name);
        }
        let everything = Line {
            comment: self.rule.comment.clone(),
            origin: lines
                .first()
                .map_or(String::new(), |line| line.origin.clone()),
            ..Line::default()
        };
        let group = Group {
            label: self.rule.label.clone(),
            lines: self.logged(log, &everything),
        };
        let chain = Chain {
            name: name.clone(),
            policy: "-",
            groups: vec![group],
            ..Chain::default()
        };
        own.insert(name, chain);
        lines
    }

    /// A name that stays the same while the rule does: from the rule's name, else from what it matches.
    fn chain_name(&self, lines: &[Line], own: &BTreeMap<String, Chain>) -> String {
        let mut hash = Sha256::new();
        hash.update(self.rule.label.as_bytes());
        if self.rule.comment.is_none() {
            for line in lines {
                let line = Line {
                    origin: String::new(),
                    ..line.clone()
                };
                hash.update(format!("{line:?}"));
            }
        }
        // Twins get names of their own.
        for twin in 0u32.. {
            let digest = hash.clone().chain_update(twin.to_be_bytes()).finalize();
            let short: String = digest[..4]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let name = format!("FWC-LOG-{}-{short}", self.hook);
            if !own.contains_key(&name) {
                return name;
            }
        }
        unreachable!("a map cannot have more chains than there are numbers")
    }
}

/// The lines that refuse the packets of `line`.
pub fn reject(with: RejectWith, family: Family, line: &Line) -> Vec<Line> {
    let answer = |with: RejectWith, protocol: Option<String>| Line {
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

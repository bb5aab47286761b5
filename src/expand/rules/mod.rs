//! Expands the policy's rules to lines of chains.

mod blocks;
mod limits;
mod lines;

pub use lines::{count, exceptions, may_overlap, packets};

use crate::expand::context::{ChainContext, GroupContext, LimitContext, LineContext, LogContext};
use crate::expand::entries::counting;
use crate::expand::hooks::{self, HookPath};
use crate::expand::nat;
use crate::expand::origin::LineOrigin;
use crate::expand::own_chains::OwnChains;
use crate::expand::reject_name;
use crate::net::{Family, Hook, Protocol};
use crate::policy::{Over, RejectWith, RuleStage};
use crate::resolve::{LogClass, Plan, PlannedRule, RuleAction};

/// The policy's rules in one base chain, in order.
#[derive(Default)]
pub struct ExpandedChain {
    /// The rules before ESTABLISHED is accepted.
    pub early: Vec<GroupContext>,
    /// The rules after the preamble.
    pub main: Vec<GroupContext>,
    /// The accepts of nat entries, after the rules.
    pub translated: Vec<GroupContext>,
    /// `true` if a rule or nat entry accepts packets here.
    pub accepts: bool,
}

impl ExpandedChain {
    /// Returns `true` if the chain has no rules.
    pub fn is_empty(&self) -> bool {
        self.early.is_empty() && self.main.is_empty() && self.translated.is_empty()
    }
}

/// The rules of one family.
#[derive(Default)]
pub struct Expanded {
    /// The base chain of each hook.
    pub base: [ExpandedChain; 3],
    /// fwc's own chains, by name.
    pub own: Vec<ChainContext>,
}

/// Expands all enabled rules in one family.
pub fn expand(plan: &Plan, family: Family) -> Expanded {
    let mut expanded = Expanded::default();
    let mut own = OwnChains::default();
    let mut rules: Vec<_> = plan.rules.iter().enumerate().collect();
    rules.sort_by_key(|(_, rule)| rule.order);
    for (index, rule) in rules {
        if rule.in_block.is_some() || !is_on(rule, family) {
            continue;
        }
        for hook in Hook::ALL {
            let rule_in_hook = InHook {
                plan,
                index,
                rule,
                family,
                hook,
            };
            let paths = hooks::paths(plan, rule, hook, family);
            let base = &mut expanded.base[hook as usize];
            let Some(group) = rule_in_hook.expand(&paths, &mut own, &mut base.accepts) else {
                continue;
            };
            let group = GroupContext {
                written: Some((rule.order, index)),
                ..group
            };
            match rule.stage {
                RuleStage::Early => base.early.push(group),
                RuleStage::Main => base.main.push(group),
            }
        }
    }
    for hook in Hook::ALL {
        let base = &mut expanded.base[hook as usize];
        base.translated = nat::accepts(plan, family, hook, &mut own);
        base.accepts |= !base.translated.is_empty();
    }
    expanded.own = own.into_chains().collect();
    expanded
}

fn is_on(rule: &PlannedRule, family: Family) -> bool {
    rule.enabled && rule.scope.is_none_or(|scope| scope.has(family))
}

/// A rule in one hook, and its index in the plan.
struct InHook<'a> {
    plan: &'a Plan,
    index: usize,
    rule: &'a PlannedRule,
    family: Family,
    hook: Hook,
}

impl InHook<'_> {
    /// Returns the lines of the rule, which is not disabled, on some paths of the hook, and adds its own chains; `None` if it
    /// has none. Sets `accepts` if one of the lines accepts packets.
    fn expand(
        &self,
        paths: &[HookPath<'_>],
        own: &mut OwnChains,
        accepts: &mut bool,
    ) -> Option<GroupContext> {
        let origin = LineOrigin::Rule(self.index).mark();
        let lines = paths
            .iter()
            .flat_map(|path| packets(self.plan, self.rule, path, self.family, &origin));
        let lines: Vec<_> = lines.collect();
        if lines.is_empty() {
            return None;
        }
        *accepts |= self.rule.accepts();
        let exceptions = exceptions(self.plan, self.rule, self.family, &origin);
        Some(match self.rule.action {
            RuleAction::Block(finally) => {
                let rules = self.rules(finally, own, accepts);
                let lines = self.in_own_chain(lines, exceptions, rules, own);
                GroupContext::of(self.rule, lines)
            }
            _ => self.group(lines, exceptions, own),
        })
    }

    /// Returns a line without a target that matches everything.
    fn everything(&self) -> LineContext {
        LineContext {
            comment: self.rule.comment.clone(),
            origin: LineOrigin::Rule(self.index).mark(),
            ..LineContext::default()
        }
    }

    fn group(
        &self,
        lines: Vec<LineContext>,
        exceptions: Vec<LineContext>,
        own: &mut OwnChains,
    ) -> GroupContext {
        let log = self.rule.log.map(|class| &self.plan.log_classes[class]);
        let counts = self.rule.limit.is_some() || self.rule.connections.is_some();
        let counting = counting(self.rule, self.family);
        let lines = match lines.as_slice() {
            _ if !exceptions.is_empty() => self.in_own_chain(lines, exceptions, Vec::new(), own),
            [line] if let Some(asked) = self.on_one_line(line, &counting) => vec![asked],
            _ if counting.is_some() => self.in_own_chain(lines, exceptions, Vec::new(), own),
            // A packet counts once, whatever lines it fits.
            several if self.rule.action == RuleAction::Continue && may_overlap(several) => {
                self.in_own_chain(lines, exceptions, Vec::new(), own)
            }
            [line] if !counts && let Some(class) = log => self.logged(line, class),
            _ if log.is_some() || counts => self.in_own_chain(lines, exceptions, Vec::new(), own),
            lines => lines.iter().flat_map(|line| self.verdicts(line)).collect(),
        };
        GroupContext::of(self.rule, lines)
    }

    /// Returns the only line of a rule with matches that count; `None` if it needs several.
    fn on_one_line(&self, line: &LineContext, counting: &Option<String>) -> Option<LineContext> {
        let rule = self.rule;
        let counting = counting.as_ref()?;
        let is_one = rule.log.is_none() && rule.limit.is_none() && rule.connections.is_none();
        let asked = LineContext {
            matches: Some(counting.clone()),
            ..line.clone()
        };
        let mut verdicts = self.verdicts(&asked).into_iter().filter(|_| is_one);
        let first = verdicts.next();
        first.filter(|_| verdicts.next().is_none())
    }

    /// Returns the lines of a rule that logs and has no limit: one line logs, the next ones decide.
    fn logged(&self, line: &LineContext, class: &LogClass) -> Vec<LineContext> {
        let mut lines = vec![LineContext {
            limit: LimitContext::of_log(class),
            log: Some(LogContext::new(class)),
            ..line.clone()
        }];
        lines.extend(self.verdicts(line));
        lines
    }

    /// Returns the lines of the rule's own chain: log, connections, limit, verdict, and the action beyond the limit. Each
    /// limit is on one line only, since two lines would be two buckets and let through twice the rate.
    fn body(&self, name: &str, everything: &LineContext, own: &mut OwnChains) -> Vec<LineContext> {
        let rule = self.rule;
        let limit = rule.limit.as_ref().map(|limit| self.limit(limit, name));
        let class = rule.log.map(|class| &self.plan.log_classes[class]);
        if rule.action == RuleAction::Log {
            let log = class.map(|class| LineContext {
                limit: limit.or_else(|| LimitContext::of_log(class)),
                log: Some(LogContext::new(class)),
                ..everything.clone()
            });
            return log.into_iter().collect();
        }
        let log = class.map(|class| LineContext {
            limit: LimitContext::of_log(class),
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
        // With `over = "continue"`, packets over the limit leave the rule and must not be logged as its packets, so the log
        // comes after the limit.
        let over_connections = rule
            .connections
            .as_ref()
            .map(|connections| connections.over);
        let over_limit = rule.limit.as_ref().map(|limit| limit.over);
        let mut lines = Vec::new();
        let mut verdicts = match rule.action {
            // The rules of the block return to the chain that the block stands in.
            RuleAction::Block(_) if limit.is_some() => {
                let line = LineContext {
                    goto: true,
                    ..everything.clone()
                };
                to(&rules_within_limit(name), &line)
            }
            // Packets within the limit must skip the lines for those beyond it.
            RuleAction::Continue if limit.is_some() => to("RETURN", everything),
            _ => self.verdicts(everything),
        };
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

    /// Returns one line that leads to the verdicts: it has the only verdict as its target, else it jumps to a chain of
    /// them.
    fn through(
        &self,
        line: LineContext,
        verdicts: Vec<LineContext>,
        chain: String,
        own: &mut OwnChains,
    ) -> LineContext {
        if let [verdict] = verdicts.as_slice()
            && verdict.protocol.is_none()
            && verdict.log.is_none()
            && verdict.limit.is_none()
            && verdict.connections.is_none()
        {
            return LineContext {
                target: verdict.target.clone(),
                goto: verdict.goto,
                reject_with: verdict.reject_with,
                ..line
            };
        }
        own.add(&chain, self.rule, verdicts);
        LineContext {
            target: chain,
            ..line
        }
    }

    /// Returns the lines for packets beyond a limit.
    fn over(&self, over: Over, line: &LineContext) -> Vec<LineContext> {
        match over {
            Over::Drop => to("DROP", line),
            Over::Reject => {
                let with = self.plan.defaults[self.family].reject_with;
                reject(with, self.family, line)
            }
            Over::Continue => to("RETURN", line),
        }
    }

    /// Returns the lines that decide the packets of `line`.
    fn verdicts(&self, line: &LineContext) -> Vec<LineContext> {
        match self.rule.action {
            RuleAction::Accept => to("ACCEPT", line),
            RuleAction::Drop => to("DROP", line),
            RuleAction::Reject(with) => reject(with[self.family], self.family, line),
            // The rules of a block follow.
            RuleAction::Log | RuleAction::Block(_) => Vec::new(),
            // A line without a target counts.
            RuleAction::Continue => to("", line),
        }
    }

    /// Moves the rule's limit and log to a chain that all its lines jump to: with a limit on each line, each would have a
    /// bucket and the rule let through its rate several times. Packets that match an exception return from the chain first.
    /// `rules` are the lines of the rules of a block, which come last.
    fn in_own_chain(
        &self,
        mut lines: Vec<LineContext>,
        exceptions: Vec<LineContext>,
        rules: Vec<GroupContext>,
        own: &mut OwnChains,
    ) -> Vec<LineContext> {
        let name = own.name_for(self.hook.chain(), self.rule, &lines);
        let mut everything = self.everything();
        let may_return = self.may_continue() || !exceptions.is_empty();
        let mut rest = self.body(&name, &everything, own);
        let mut rules = rules;
        if self.rule.limit.is_some() && matches!(self.rule.action, RuleAction::Block(_)) {
            own.add_groups(&rules_within_limit(&name), std::mem::take(&mut rules));
        }
        if let Some(counting) = counting(self.rule, self.family) {
            // One line asks for all lines of the rule: it counts each packet once.
            let asked = LineContext {
                matches: Some(counting),
                ..everything.clone()
            };
            rest = match rules.is_empty() {
                true => vec![self.through(asked, rest, format!("{name}-MATCH"), own)],
                false => {
                    let chain = format!("{name}-MATCH");
                    let first = (!rest.is_empty()).then(|| GroupContext::of(self.rule, rest));
                    let groups = first.into_iter().chain(std::mem::take(&mut rules));
                    own.add_groups(&chain, groups.collect());
                    to(&chain, &asked)
                }
            };
        }
        let mut body: Vec<_> = exceptions
            .iter()
            .flat_map(|line| to("RETURN", line))
            .collect();
        body.extend(rest);
        let first = (!body.is_empty()).then(|| GroupContext::of(self.rule, body));
        own.add_groups(&name, first.into_iter().chain(rules).collect());
        for line in &mut lines {
            line.target.clone_from(&name);
        }
        if lines.len() == 1 || !may_return {
            return lines;
        }
        // Lines may match the same packet, and it must count once: the first line that matches enters the chain by `-g`,
        // which returns to the base chain and so skips the other lines.
        for line in &mut lines {
            line.goto = true;
        }
        let choose = format!("{name}-ANY");
        own.add(&choose, self.rule, lines);
        everything.target = choose;
        vec![everything]
    }

    /// Returns `true` if packets of the rule may reach the next rule.
    fn may_continue(&self) -> bool {
        let limit = self.rule.limit.as_ref().map(|limit| limit.over);
        let connections = self.rule.connections.map(|connections| connections.over);
        matches!(
            self.rule.action,
            RuleAction::Log | RuleAction::Continue | RuleAction::Block(_)
        ) || [limit, connections].contains(&Some(Over::Continue))
            || counting(self.rule, self.family).is_some()
    }
}

/// Returns the name of the chain of a block's rules, if they are asked about the packets within a limit only.
fn rules_within_limit(chain: &str) -> String {
    format!("{chain}-RULES")
}

fn to(target: &str, line: &LineContext) -> Vec<LineContext> {
    vec![LineContext {
        target: target.to_owned(),
        ..line.clone()
    }]
}

/// Returns the lines that reject the packets of `line`.
pub fn reject(with: RejectWith, family: Family, line: &LineContext) -> Vec<LineContext> {
    let answer = |with: RejectWith, protocol: Option<String>| LineContext {
        protocol,
        target: "REJECT".to_owned(),
        reject_with: Some(reject_name(with, family)),
        ..line.clone()
    };
    let tcp = Protocol::TCP.to_string();
    match (with, line.protocol.as_ref()) {
        // iptables takes `tcp-reset` only on a line with `-p tcp`.
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

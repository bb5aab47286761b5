//! Expands the policy's rules to lines of chains.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::addresses;
use super::context::{
    ChainContext, ConnectionContext, GroupContext, LimitContext, LineContext, LogContext,
    NegatableContext, SetContext, TimeContext, WindowContext,
};
use super::custom;
use super::hooks::{self, HookPath};
use super::nat;
use super::origin::LineOrigin;
use super::original;
use super::reject_name;
use super::services::{self, PortList, ServiceMatch};
use crate::net::{Date, Family, Hook, InterfacePattern, Protocol, State, address_of};
use crate::policy::{
    CustomPosition, HostPrefix, LimitPer, LimitRate, LimitWindow, Over, Per, RejectWith, RuleStage,
};
use crate::resolve::{
    Connections, Endpoint, Finally, Limit, LogClass, OneOf, Plan, PlannedRule, RuleAction, Schedule,
};

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
    let mut own = BTreeMap::new();
    let mut rules: Vec<_> = plan.rules.iter().enumerate().collect();
    rules.sort_by_key(|(_, rule)| rule.order);
    for (index, rule) in rules {
        if rule.within.is_some() || !is_on(rule, family) {
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
    expanded.own = own.into_values().collect();
    expanded
}

fn is_on(rule: &PlannedRule, family: Family) -> bool {
    rule.enabled && rule.scope.is_none_or(|scope| scope.has(family))
}

/// Returns the number of lines of [`packets`] without making them: there may be more than memory holds.
pub fn count(plan: &Plan, rule: &PlannedRule, path: &HookPath<'_>, family: Family) -> u64 {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let side = |addresses: &Option<_>, networks: &Option<_>| {
        number(addresses::count(
            addresses.as_ref(),
            networks.as_ref(),
            plan,
            family,
        ))
    };
    side(&rule.source, &path.source)
        .saturating_mul(side(&rule.destination, &path.destination))
        .saturating_mul(number(
            services::matches(rule.service.as_ref(), family).len(),
        ))
        .saturating_mul(number(
            original::matches(rule.original.as_ref(), family).len(),
        ))
        .saturating_mul(number(lines_of(rule.mac.as_ref()).len()))
        .saturating_mul(number(lines_of(rule.user.as_ref()).len()))
        .saturating_mul(number(lines_of(rule.group.as_ref()).len()))
}

/// What one line asks of a key: one of the values, or, of a negated key, none of them.
#[derive(Clone)]
struct LineValues {
    is: Option<String>,
    is_not: Vec<String>,
}

/// Returns what the lines ask of a key: of several values each is a line of its own, since iptables takes one; a negated key
/// is one line, with a match for each value.
fn lines_of<T: ToString>(key: Option<&OneOf<T>>) -> Vec<LineValues> {
    let nothing = LineValues {
        is: None,
        is_not: Vec::new(),
    };
    let Some(key) = key else {
        return vec![nothing];
    };
    let mut texts: Vec<String> = Vec::new();
    for text in key.values.iter().map(ToString::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if key.negated {
        return vec![LineValues {
            is_not: texts,
            ..nothing
        }];
    }
    let each = texts.into_iter().map(|text| LineValues {
        is: Some(text),
        ..nothing.clone()
    });
    each.collect()
}

/// Returns lines without a target that match a rule's packets on one path. A packet may match several of them, such as an
/// address of a list that is also in a set.
pub fn packets(
    plan: &Plan,
    rule: &PlannedRule,
    path: &HookPath<'_>,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    // Without `..`, so that code with a new key does not compile until somebody decides here what a line matches.
    #[rustfmt::skip]
    let PlannedRule {
        not_from, not_to, source, destination, service, ipset, state, mark, mac, tcp_flags, original, matches, user, group,
        schedule, expires, comment,
        // The caller skips disabled rules and finds the paths. What one line cannot negate is in `exceptions`.
        enabled: _, scope: _, from: _, to: _, not_service: _,
        // The lines of a rule of a block are in the block's chain.
        within: _,
        // The targets of the lines, and their place.
        action: _, limit: _, connections: _, log: _, stage: _, order: _, span: _, label: _, named: _, remark: _,
    } = rule;
    let sources = addresses::matches(plan, source.as_ref(), path.source.as_ref(), family, "src");
    let destinations = addresses::matches(
        plan,
        destination.as_ref(),
        path.destination.as_ref(),
        family,
        "dst",
    );
    let not_device = |places: Option<&Vec<Endpoint>>| {
        let device = hooks::only_left_out(plan, places)?;
        Some(NegatableContext {
            not: "! ",
            value: device.to_string(),
        })
    };
    let not_in = not_device(not_from.as_ref());
    let not_out = not_device(not_to.as_ref());
    let foreign = ipset.as_ref().map(|set| SetContext {
        not: if set.negated { "! " } else { "" },
        name: set.name.clone(),
        side: set.ends.to_string(),
    });
    let mut senders = Vec::new();
    for mac in lines_of(mac.as_ref()) {
        for user in lines_of(user.as_ref()) {
            for group in lines_of(group.as_ref()) {
                senders.push((mac.clone(), user.clone(), group));
            }
        }
    }
    // Both keys have one value.
    let mark = lines_of(mark.as_ref()).pop();
    let (mark, not_mark) = mark.map_or((None, None), |mut mark| (mark.is, mark.is_not.pop()));
    let flags = lines_of(tcp_flags.as_ref()).pop();
    let (flags, not_flags) = flags.map_or((None, None), |mut flags| (flags.is, flags.is_not.pop()));
    let services = services::matches(service.as_ref(), family);
    let times = times(schedule.as_ref(), *expires);
    let states = state.as_ref().map(|states| {
        let words: Vec<_> = states.iter().map(|state: &State| state.keyword()).collect();
        words.join(",")
    });
    let originals = original::matches(original.as_ref(), family);
    // A match that counts stands once, in a chain of the rule.
    let matches = matches.as_ref().filter(|matches| !matches.counts);
    let matches = matches.and_then(|matches| matches.texts[family].clone());
    let mut lines = Vec::with_capacity(sources.len() * destinations.len() * services.len());
    for source in &sources {
        for destination in &destinations {
            for service in &services {
                let mut line = LineContext {
                    in_device: path
                        .input
                        .map(|device| NegatableContext::plain(device.to_string()))
                        .or_else(|| not_in.clone()),
                    out_device: path
                        .output
                        .map(|device| NegatableContext::plain(device.to_string()))
                        .or_else(|| not_out.clone()),
                    ipsec_in: path.ipsec_in.map(ipsec),
                    ipsec_out: path.ipsec_out.map(ipsec),
                    mark: mark.clone(),
                    not_mark: not_mark.clone(),
                    tcp_flags: flags.clone(),
                    not_tcp_flags: not_flags.clone(),
                    times: times.clone(),
                    states: states.clone(),
                    matches: matches.clone(),
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
                if tcp_flags.is_some() {
                    line.protocol = Some(Protocol::TCP.to_string());
                }
                for originals in &originals {
                    for (mac, user, group) in &senders {
                        lines.push(LineContext {
                            originals: originals.clone(),
                            mac: mac.is.clone(),
                            not_macs: mac.is_not.clone(),
                            uid: user.is.clone(),
                            not_uids: user.is_not.clone(),
                            gid: group.is.clone(),
                            not_gids: group.is_not.clone(),
                            ..line.clone()
                        });
                    }
                }
            }
        }
    }
    lines
}

/// Returns lines, without a target, for the packets that a rule's negated keys leave out, as far as [`packets`] cannot say it in
/// its own lines: iptables negates one device in a line, and no list, no zone with networks or IPsec, no service, and one address without a mask.
pub fn exceptions(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    let plain = LineContext {
        comment: rule.comment.clone(),
        origin: origin.to_owned(),
        ..LineContext::default()
    };
    let mut lines = Vec::new();
    let sides = |places: &Option<Vec<Endpoint>>| match hooks::only_left_out(plan, places.as_ref()) {
        Some(_) => Vec::new(),
        None => hooks::left_out(plan, places.as_ref()),
    };
    let device = |device: Option<&InterfacePattern>| {
        device.map(|device| NegatableContext::plain(device.to_string()))
    };
    for from in sides(&rule.not_from) {
        for source in addresses::matches(plan, None, from.networks.as_ref(), family, "src") {
            lines.push(LineContext {
                in_device: device(from.device),
                source: source.prefix,
                source_range: source.range,
                ipsec_in: from.ipsec.map(ipsec),
                ..plain.clone()
            });
        }
    }
    for to in sides(&rule.not_to) {
        for destination in addresses::matches(plan, None, to.networks.as_ref(), family, "dst") {
            lines.push(LineContext {
                out_device: device(to.device),
                destination: destination.prefix,
                destination_range: destination.range,
                ipsec_out: to.ipsec.map(ipsec),
                ..plain.clone()
            });
        }
    }
    for source in addresses::left_out_masks(rule.source.as_ref(), family) {
        lines.push(LineContext {
            source: source.prefix,
            ..plain.clone()
        });
    }
    for destination in addresses::left_out_masks(rule.destination.as_ref(), family) {
        lines.push(LineContext {
            destination: destination.prefix,
            ..plain.clone()
        });
    }
    if rule.not_service.is_some() {
        for service in services::matches(rule.not_service.as_ref(), family) {
            let mut line = plain.clone();
            put_service(&mut line, &service);
            lines.push(line);
        }
    }
    lines
}

/// Returns the word of `--pol` for packets with IPsec, or without.
fn ipsec(with: bool) -> &'static str {
    match with {
        true => "ipsec",
        false => "none",
    }
}

/// Returns the time matches of a rule: none, one, or two if its hours are local, since its last day is in UTC and
/// `--kerneltz` would apply to both.
fn times(schedule: Option<&Schedule>, expires: Option<Date>) -> Vec<TimeContext> {
    /// The end that iptables-save prints for a match without a last day.
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

/// Returns `true` if a packet may fit several of a rule's lines: those of a set or a mask and a list, of an authentication header and
/// the protocol behind it, and of places with and without a device or IPsec.
pub fn may_overlap(lines: &[LineContext]) -> bool {
    let overlaps = |line: &LineContext| {
        line.auth_header
            || !line.sets.is_empty()
            || addresses::has_mask(line.source.as_ref())
            || addresses::has_mask(line.destination.as_ref())
    };
    let differ = |has: fn(&LineContext) -> bool| lines.iter().any(has) && !lines.iter().all(has);
    lines.len() > 1
        && (lines.iter().any(overlaps)
            || differ(|line| line.in_device.is_some())
            || differ(|line| line.out_device.is_some())
            || differ(|line| line.ipsec_in.is_some())
            || differ(|line| line.ipsec_out.is_some()))
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
        own: &mut BTreeMap<String, ChainContext>,
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

    /// Returns the lines of the rules of a block, and of its end.
    fn rules(
        &self,
        finally: Finally,
        own: &mut BTreeMap<String, ChainContext>,
        accepts: &mut bool,
    ) -> Vec<GroupContext> {
        let mut customs = self.customs().into_iter().peekable();
        let mut groups = Vec::new();
        for (index, rule) in self.plan.rules_of(self.index) {
            while let Some((_, custom)) = customs.next_if(|(behind, _)| *behind <= index) {
                groups.push(custom);
            }
            if is_on(rule, self.family) {
                let rule = InHook {
                    index,
                    rule,
                    ..*self
                };
                // The block's own lines have chosen the devices and networks.
                groups.extend(rule.expand(&[HookPath::default()], own, accepts));
            }
        }
        groups.extend(customs.map(|(_, custom)| custom));
        let everything = self.everything();
        let end = match finally {
            Finally::Next => Vec::new(),
            Finally::Accept => to("ACCEPT", &everything),
            Finally::Drop => to("DROP", &everything),
            Finally::Reject(with) => reject(with[self.family], self.family, &everything),
        };
        if !end.is_empty() {
            groups.push(GroupContext {
                label: format!("{}: finally", self.rule.label),
                ..GroupContext::of(self.rule, end)
            });
        }
        groups
    }

    /// Returns the custom rules of a block, each with the number of rules before it, in their order.
    fn customs(&self) -> Vec<(usize, GroupContext)> {
        let customs = self.plan.custom.iter().enumerate();
        let here = customs.filter_map(|(index, custom)| match custom.place? {
            CustomPosition::InBlock { block, behind }
                if block == self.index && custom.rules[self.family].is_some() =>
            {
                Some((behind, custom::group(index, custom, self.family)))
            }
            _ => None,
        });
        here.collect()
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
        own: &mut BTreeMap<String, ChainContext>,
    ) -> GroupContext {
        let log = self.rule.log.map(|class| &self.plan.log_classes[class]);
        let counts = self.rule.limit.is_some() || self.rule.connections.is_some();
        let counting = self.counting();
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

    /// Returns the rule's matches of iptables, if one of them counts.
    fn counting(&self) -> Option<String> {
        let matches = self.rule.matches.as_ref();
        let matches = matches.filter(|matches| matches.counts)?;
        matches.texts[self.family].clone()
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
        own: &mut BTreeMap<String, ChainContext>,
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
        self.add_chain(&chain, verdicts, own);
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
        let (rate, burst, expire) = match limit.rate {
            // `limit` has a bucket in each rule: what rules share is a table of `hashlimit`, also with one bucket.
            LimitRate::Packets(rate, burst)
                if limit.per == LimitPer::default() && limit.shared.is_none() =>
            {
                return LimitContext::global(rate, burst);
            }
            LimitRate::Packets(rate, burst) => {
                let expire = rate.hashlimit_expiry(burst);
                (rate.of_hashlimit(), Some(burst), expire)
            }
            // A bucket of bytes is full after a second, and iptables keeps it for 15.
            LimitRate::Bytes(rate) => (rate.of_hashlimit(), None, None),
            LimitRate::Window(window) => return self.window(limit, window, chain),
        };
        let source = limit
            .per
            .source
            .map(|one| self.bits(one, self.source_bits()));
        let whole = self.family.bits();
        let destination = limit.per.destination.map(|one| self.bits(one, whole));
        // In the order of `iptables-save`.
        let parts = [
            source.map(|_| "srcip"),
            destination.map(|_| "dstip"),
            limit.per.destination_port.then_some("dstport"),
        ];
        let mode = parts.into_iter().flatten().collect::<Vec<_>>().join(",");
        // The kernel keeps the settings of a hashlimit table as long as the table lives, even if a rule with the same name
        // has other ones: another rate or expiry needs another name.
        let mut identity = format!("{}/{rate}", self.counted_for(limit, chain));
        for number in [burst, source.map(u32::from)].into_iter().flatten() {
            identity += &format!("/{number}");
        }
        if mode != "srcip" {
            identity += &format!("/{mode}/{}", destination.unwrap_or_default());
        }
        if let Some(expire) = expire {
            identity += &format!("/{expire}");
        }
        LimitContext {
            rate: Some(rate),
            burst,
            table: Some(table_name("fwc", limit, identity)),
            mode: Some(mode).filter(|mode| !mode.is_empty()),
            expire,
            mask: source.filter(|bits| *bits != whole),
            destination_mask: destination.filter(|bits| *bits != whole),
            window: None,
        }
    }

    /// Returns the limit of a sliding window.
    ///
    /// A list of `recent` belongs to both families, and its first rule sets the mask of all: each family needs a list of
    /// its own.
    fn window(&self, limit: &Limit, window: LimitWindow, chain: &str) -> LimitContext {
        let (side, bits) = match (limit.per.source, limit.per.destination) {
            (None, Some(prefix)) => ("rdest", self.bits(prefix, self.family.bits())),
            (source, _) => (
                "rsource",
                self.bits(source.unwrap_or(HostPrefix::Host), self.source_bits()),
            ),
        };
        let LimitWindow { hits, within } = window;
        let identity = format!("{}/window/{side}/{bits}", self.counted_for(limit, chain));
        let prefix = match self.family {
            Family::V4 => "fwc4",
            Family::V6 => "fwc6",
        };
        LimitContext {
            rate: None,
            burst: None,
            table: None,
            mode: None,
            expire: None,
            mask: None,
            destination_mask: None,
            window: Some(WindowContext {
                hits,
                seconds: within,
                table: table_name(prefix, limit, identity),
                mask: mask(self.family, bits).to_string(),
                side,
            }),
        }
    }

    /// Returns what the table of a limit counts for: the rule in its chain, or all rules that share the limit.
    fn counted_for(&self, limit: &Limit, chain: &str) -> String {
        match &limit.shared {
            Some(name) => format!("limit {name}"),
            None => format!("{}/{}/{chain}", self.rule.label, self.hook),
        }
    }

    /// Returns the prefix length that is written for this family, or that of one host.
    fn bits(&self, prefix: HostPrefix, host: u8) -> u8 {
        match prefix {
            HostPrefix::Host => host,
            HostPrefix::Only(bits) => bits,
            HostPrefix::Each(bits) => bits[self.family],
        }
    }

    /// Returns the prefix length that stands for one host: an IPv4 address, or a /64 of IPv6, in which a host chooses its
    /// addresses.
    fn source_bits(&self) -> u8 {
        match self.family {
            Family::V4 => 32,
            Family::V6 => 64,
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
        own: &mut BTreeMap<String, ChainContext>,
    ) -> Vec<LineContext> {
        let name = self.chain_name(&lines, own);
        let mut everything = self.everything();
        let may_return = self.may_continue() || !exceptions.is_empty();
        let mut rest = self.body(&name, &everything, own);
        let mut rules = rules;
        if self.rule.limit.is_some() && matches!(self.rule.action, RuleAction::Block(_)) {
            self.add_groups(&rules_within_limit(&name), std::mem::take(&mut rules), own);
        }
        if let Some(counting) = self.counting() {
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
                    self.add_groups(&chain, groups.collect(), own);
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
        self.add_groups(&name, first.into_iter().chain(rules).collect(), own);
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
        self.add_chain(&choose, lines, own);
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
            || self.counting().is_some()
    }

    fn add_chain(
        &self,
        name: &str,
        lines: Vec<LineContext>,
        own: &mut BTreeMap<String, ChainContext>,
    ) {
        self.add_groups(name, vec![GroupContext::of(self.rule, lines)], own);
    }

    fn add_groups(
        &self,
        name: &str,
        groups: Vec<GroupContext>,
        own: &mut BTreeMap<String, ChainContext>,
    ) {
        let chain = ChainContext {
            name: name.to_owned(),
            policy: "-",
            groups,
            ..ChainContext::default()
        };
        own.insert(name.to_owned(), chain);
    }

    /// Returns a name that stays the same as long as the rule does: a hash of the rule's name, else of its lines. A name
    /// that changed would show in every diff.
    fn chain_name(&self, lines: &[LineContext], own: &BTreeMap<String, ChainContext>) -> String {
        let mut identity = self.rule.label.clone();
        if !self.rule.named {
            for line in lines {
                identity = format!("{identity}\n{}", line.identity());
            }
        }
        // Two rules may have the same identity.
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

/// Returns the name of the table of a limit. It shows the limit's own name, if rules share it.
fn table_name(prefix: &str, limit: &Limit, identity: String) -> String {
    let hash = short_hash(identity);
    match &limit.shared {
        Some(name) => format!("{prefix}-{name}-{hash}"),
        None => format!("{prefix}-{hash}"),
    }
}

/// Returns the mask of a prefix, as an address.
fn mask(family: Family, bits: u8) -> IpAddr {
    let all = family.last_address();
    address_of(family, all - all.checked_shr(bits.into()).unwrap_or(0))
}

/// Returns the first eight hex digits of a SHA-256. More would not leave room in a chain's name for its prefix and
/// suffix: 28 bytes at most (`XT_EXTENSION_MAXNAMELEN`, which counts the final zero).
pub fn short_hash(identity: String) -> String {
    let digest = Sha256::digest(identity);
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
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

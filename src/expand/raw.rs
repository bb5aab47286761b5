//! Expands the entries of `[[raw]]` to lines of the raw table, and the replies to untracked requests in the filter table.

use super::context::{ChainContext, ChangeContext, GroupContext, LineContext, NegatableContext};
use super::entries::{EntryChains, EntryPart, counting, log_of};
use super::hooks::{self, HookPath};
use super::origin::LineOrigin;
use super::rules;
use crate::expand::own_chains::OwnChains;
use crate::net::{AddressRange, AddressSet, Family, Hook, IcmpType, Protocol, State};
use crate::policy::{Over, RuleStage, Treatment};
use crate::resolve::{
    Endpoint, Finally, Plan, PlannedRaw, PlannedRule, RuleAction, ServicePart, ServicePorts,
};

/// Returns PREROUTING and OUTPUT of the raw table in a family, then fwc's own chains, by name.
pub fn chains(plan: &Plan, family: Family) -> Vec<ChainContext> {
    let mut own = OwnChains::default();
    let mut chain = |name: &str| ChainContext {
        name: name.to_owned(),
        policy: "ACCEPT",
        groups: groups(plan, name, family, &mut own),
        ..ChainContext::default()
    };
    let mut chains = vec![chain("PREROUTING"), chain("OUTPUT")];
    chains.extend(own.into_chains());
    chains
}

fn groups(plan: &Plan, chain: &str, family: Family, own: &mut OwnChains) -> Vec<GroupContext> {
    let mut groups = Vec::new();
    for (index, entry) in plan.raw.iter().enumerate() {
        let PlannedRaw { packets, treatment } = entry;
        if !is_on(packets, family) {
            continue;
        }
        let origin = LineOrigin::Raw(index).mark();
        let parts = match treatment {
            Treatment::Drop => vec![drops(plan, packets, chain, family, &origin)],
            Treatment::NoTrack { .. } => {
                let rules = [packets.clone(), reversed(packets).0];
                let parts = rules.iter();
                parts
                    .map(|rule| tracked(plan, rule, chain, family, (None, &origin)))
                    .collect()
            }
            Treatment::Helper(helper) if helper.exists(family) => {
                let helper = Some(helper.name());
                vec![tracked(plan, packets, chain, family, (helper, &origin))]
            }
            Treatment::Helper(_) => continue,
        };
        let entry_chains = EntryChains {
            packets,
            chain,
            log: log_of(plan, packets),
        };
        let lines = entry_chains.place(parts, own);
        if !lines.is_empty() {
            groups.push(GroupContext::of_written(packets, index, lines));
        }
    }
    groups
}

/// Returns the lines that say how conntrack treats the packets of a rule: by a helper, or not at all.
fn tracked(
    plan: &Plan,
    rule: &PlannedRule,
    chain: &str,
    family: Family,
    (helper, origin): (Option<&str>, &str),
) -> EntryPart {
    let lines = lines(plan, rule, chain, family, helper.is_some()).into_iter();
    let lines = lines.map(|line| LineContext {
        change: Some(ChangeContext {
            target: "CT",
            helper: helper.map(str::to_owned),
            ..ChangeContext::default()
        }),
        origin: origin.to_owned(),
        ..line
    });
    EntryPart {
        lines: lines.collect(),
        exceptions: rules::exceptions(plan, rule, family, origin),
        counting: counting(rule, family),
    }
}

/// Returns the lines that drop the packets of a rule: all that arrive by `from`, wherever they go, or that this host sends.
fn drops(plan: &Plan, rule: &PlannedRule, chain: &str, family: Family, origin: &str) -> EntryPart {
    let paths = match chain {
        "OUTPUT" => hooks::paths(plan, rule, Hook::Output, family),
        _ => hooks::paths_in(plan, rule, family),
    };
    let lines = paths
        .iter()
        .flat_map(|path| rules::packets(plan, rule, path, family, origin));
    dropped(plan, rule, chain, family, origin, lines.collect())
}

/// Makes lines for the packets of a rule drop them, without those on lo while `loopback` accepts everything there.
pub fn dropped(
    plan: &Plan,
    rule: &PlannedRule,
    chain: &str,
    family: Family,
    origin: &str,
    mut lines: Vec<LineContext>,
) -> EntryPart {
    let mut exceptions = rules::exceptions(plan, rule, family, origin);
    let not_lo = hooks::not_lo(plan, family, chain);
    let mut lets_lo_pass = false;
    for line in &mut lines {
        line.target = "DROP".to_owned();
        if let (Some(asked), Some(not_lo)) = (device_of(line, chain), &not_lo) {
            // A line has one match of a device: where it negates another one, lo is an exception.
            lets_lo_pass |= asked.as_ref().is_some_and(|asked| !asked.not.is_empty());
            asked.get_or_insert_with(|| not_lo.clone());
        }
    }
    if lets_lo_pass {
        let mut line = LineContext {
            comment: rule.comment.clone(),
            origin: origin.to_owned(),
            ..LineContext::default()
        };
        if let Some(asked) = device_of(&mut line, chain) {
            *asked = Some(NegatableContext::plain("lo".to_owned()));
        }
        exceptions.push(line);
    }
    EntryPart {
        lines,
        exceptions,
        counting: counting(rule, family),
    }
}

/// Returns what a line of a chain asks of the device by which a packet of this host's own traffic comes or leaves.
fn device_of<'l>(
    line: &'l mut LineContext,
    chain: &str,
) -> Option<&'l mut Option<NegatableContext>> {
    match chain {
        "PREROUTING" | "INPUT" => Some(&mut line.in_device),
        "OUTPUT" => Some(&mut line.out_device),
        _ => None,
    }
}

fn is_on(rule: &PlannedRule, family: Family) -> bool {
    rule.enabled && rule.scope.is_none_or(|scope| scope.has(family))
}

/// Returns the lines of a rule in a chain of the raw table.
fn lines(
    plan: &Plan,
    rule: &PlannedRule,
    chain: &str,
    family: Family,
    is_helper: bool,
) -> Vec<LineContext> {
    if chain == "OUTPUT" {
        let paths = hooks::paths(plan, rule, Hook::Output, family);
        let lines = paths.iter();
        return lines
            .flat_map(|path| rules::packets(plan, rule, path, family, ""))
            .collect();
    }
    let mut all = Vec::new();
    for from in hooks::from(rule)
        .iter()
        .filter(|from| **from != Endpoint::Host)
    {
        for side in hooks::side(plan, *from, family) {
            for (is_local, destination) in destinations(plan, rule, family, is_helper) {
                let path = HookPath {
                    destination,
                    ..HookPath::coming(side.clone())
                };
                let not = if is_local { "" } else { "! " };
                let lines = rules::packets(plan, rule, &path, family, "").into_iter();
                all.extend(lines.map(|line| LineContext {
                    destination_type: Some(NegatableContext {
                        not,
                        value: "LOCAL".to_owned(),
                    }),
                    ..line
                }));
            }
        }
    }
    all
}

/// Returns the destinations of arriving packets: this host or another, and the networks. The raw table is before routing,
/// so that an interface is matched by its networks. For a helper, an interface without networks matches all addresses
/// that are in the networks of no interface.
fn destinations(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    is_helper: bool,
) -> Vec<(bool, Option<AddressSet>)> {
    let mut destinations = Vec::new();
    for to in hooks::to(rule) {
        match to {
            Endpoint::Host => destinations.push((true, None)),
            Endpoint::Any => destinations.push((false, None)),
            Endpoint::Interface(_) | Endpoint::Zone(_) => {
                for member in plan.members(*to) {
                    let interface = member.interface.map(|index| &plan.interfaces[index]);
                    let networks = match (member.networks, interface) {
                        (Some(networks), _) => Some(networks),
                        (None, Some(one)) if is_helper && one.networks.is_empty() => {
                            Some(elsewhere(plan, family))
                        }
                        (None, Some(one)) => {
                            Some(AddressSet::from_ranges(one.networks.iter().copied()))
                        }
                        (None, None) => None,
                    };
                    if interface.is_none_or(|one| one.scope.has(family)) {
                        destinations.push((false, networks));
                    }
                }
            }
        }
    }
    destinations
}

/// Returns the addresses that are in the networks of no interface.
fn elsewhere(plan: &Plan, family: Family) -> AddressSet {
    let networks = plan.interfaces.iter().flat_map(|one| &one.networks);
    let networks = AddressSet::from_ranges(networks.copied());
    let rest = networks.family(family).complement(family.last_address());
    let ranges = rest.intervals().iter();
    AddressSet::from_ranges(ranges.map(|(first, last)| AddressRange {
        family,
        first: *first,
        last: *last,
    }))
}

/// Returns the lines for replies to untracked requests in a hook, and the chains that they jump to, the first one first; `None`
/// if no reply is accepted.
///
/// No connection is known of these replies, so `established` does not accept them. The chain has the rules for the
/// requests, with all keys reversed: a reply is accepted if its request was.
pub fn replies(
    plan: &Plan,
    family: Family,
    hook: Hook,
) -> Option<(GroupContext, Vec<ChainContext>)> {
    let name = format!("FWC-{hook}-REPLIES");
    let asked = match hook {
        Hook::Input => Hook::Output,
        Hook::Forward => Hook::Forward,
        Hook::Output => Hook::Input,
    };
    let entries: Vec<(usize, &PlannedRaw)> = plan
        .raw
        .iter()
        .enumerate()
        .filter(|(_, entry)| match entry.treatment {
            Treatment::NoTrack { answers } => answers || hook != Hook::Input,
            Treatment::Helper(_) | Treatment::Drop => false,
        })
        .filter(|(_, entry)| is_on(&entry.packets, family))
        .filter(|(_, entry)| !hooks::paths(plan, &entry.packets, asked, family).is_empty())
        .collect();
    let rules = plan.rules.iter().enumerate();
    let mut rules: Vec<_> = rules.filter(|(_, rule)| rule.in_block.is_none()).collect();
    rules.sort_by_key(|(_, rule)| (rule.stage == RuleStage::Main, rule.order));
    let mut replies = Replies {
        plan,
        family,
        hook,
        name: &name,
        entries: &entries,
        chains: Vec::new(),
        accepts: false,
    };
    let groups = rules.into_iter();
    let groups: Vec<_> = groups
        .filter_map(|(index, rule)| replies.group(index, rule))
        .collect();
    let Replies {
        mut chains,
        accepts,
        ..
    } = replies;
    if !accepts {
        return None;
    }
    let chain = ChainContext::own(name.clone(), groups);
    let untracked = || Some([State::Untracked].into());
    let mut own = OwnChains::default();
    let mut lines = Vec::new();
    for (index, entry) in &entries {
        let origin = LineOrigin::Raw(*index).mark();
        let mut of_entry = reply_lines(plan, &entry.packets, untracked(), hook, family, &name);
        for line in &mut of_entry {
            line.comment.clone_from(&entry.packets.comment);
            line.origin.clone_from(&origin);
        }
        let part = EntryPart {
            lines: of_entry,
            exceptions: reply_exceptions(plan, &entry.packets, family, &origin),
            counting: None,
        };
        // The raw table logs the packets of the entry.
        let entry_chains = EntryChains {
            packets: &entry.packets,
            chain: hook.chain(),
            log: None,
        };
        lines.extend(entry_chains.place(vec![part], &mut own));
    }
    let group = GroupContext {
        label: "replies that no connection is known of".to_owned(),
        lines,
        ..GroupContext::default()
    };
    chains.extend(own.into_chains());
    chains.insert(0, chain);
    (!group.lines.is_empty()).then_some((group, chains))
}

/// The chains for replies in a hook.
struct Replies<'a> {
    plan: &'a Plan,
    family: Family,
    hook: Hook,
    /// The name of the first chain.
    name: &'a str,
    /// The entries of `notrack` whose replies come to the hook, by index.
    entries: &'a [(usize, &'a PlannedRaw)],
    /// The chains that the first one jumps to.
    chains: Vec<ChainContext>,
    /// A line accepts packets.
    accepts: bool,
}

impl Replies<'_> {
    /// Returns the lines for the replies to a rule's packets; `None` if it has none.
    fn group(&mut self, index: usize, rule: &PlannedRule) -> Option<GroupContext> {
        let mut entries = self.entries.iter();
        if !is_on(rule, self.family) || !entries.any(|(_, entry)| may_share(&entry.packets, rule)) {
            return None;
        }
        let origin = LineOrigin::Reply(index).mark();
        let plain = |target: &str| LineContext {
            comment: rule.comment.clone(),
            origin: origin.clone(),
            ..LineContext::to(target)
        };
        let target = reply_target(rule);
        let groups = match rule.action {
            RuleAction::Block(_) if may_be_untracked(rule) => self.of_block(index),
            _ => Vec::new(),
        };
        let mut lines = match (target, rule.in_block) {
            (None, _) if groups.is_empty() => return None,
            // The block's lines have chosen the devices and networks.
            (_, Some(_)) => reply_lines_in_block(self.plan, rule, self.family),
            (_, None) => reply_lines(self.plan, rule, None, self.hook, self.family, ""),
        };
        if lines.is_empty() {
            return None;
        }
        self.accepts |= target == Some("ACCEPT");
        let mut exceptions = reply_exceptions(self.plan, rule, self.family, &origin);
        let goes_to = match target {
            Some(target) if groups.is_empty() && exceptions.is_empty() => target.to_owned(),
            _ => {
                let own = format!("{}-{}", self.name, self.chains.len() + 1);
                for line in &mut exceptions {
                    line.target = "RETURN".to_owned();
                }
                let end = target.map(plain);
                let first = (!exceptions.is_empty()).then(|| GroupContext::of(rule, exceptions));
                let last = end.map(|line| GroupContext::of(rule, vec![line]));
                self.chains.push(ChainContext::own(
                    own.clone(),
                    first.into_iter().chain(groups).chain(last).collect(),
                ));
                own
            }
        };
        for line in &mut lines {
            line.origin.clone_from(&origin);
            line.target.clone_from(&goes_to);
        }
        Some(GroupContext::of(rule, lines))
    }

    /// Returns the lines for the replies to the packets of a block's rules.
    fn of_block(&mut self, block: usize) -> Vec<GroupContext> {
        let plan = self.plan;
        let rules = plan.rules_of(block);
        rules
            .filter_map(|(index, rule)| self.group(index, rule))
            .collect()
    }
}

/// Returns `true` if the keys of a rule let it match an untracked packet: `original` never does.
fn may_be_untracked(rule: &PlannedRule) -> bool {
    let states = rule.state.as_ref();
    rule.original.is_none() && states.is_none_or(|states| states.contains(&State::Untracked))
}

/// Returns the target of a rule's lines for replies. Some conditions on the request (its mark, its user ...) cannot be tested on
/// the reply. An accepting rule then accepts the reply anyway. A denying
/// rule leaves the chain for replies only if all of it can be tested, and has no line otherwise.
fn reply_target(rule: &PlannedRule) -> Option<&'static str> {
    if !may_be_untracked(rule) {
        return None;
    }
    match rule.action {
        RuleAction::Accept | RuleAction::Block(Finally::Accept) => Some("ACCEPT"),
        // A rule of a block would have to leave the chain for replies from the chain of the block.
        RuleAction::Drop | RuleAction::Reject(_)
            if rule.in_block.is_none() && !reversed(rule).1 =>
        {
            Some("RETURN")
        }
        RuleAction::Drop | RuleAction::Reject(_) => None,
        RuleAction::Log | RuleAction::Continue | RuleAction::Block(_) => None,
    }
}

/// Returns the lines that match the replies to a rule's packets.
pub fn reply_lines(
    plan: &Plan,
    rule: &PlannedRule,
    state: Option<std::collections::BTreeSet<State>>,
    hook: Hook,
    family: Family,
    target: &str,
) -> Vec<LineContext> {
    let (mut reversed, _) = reversed(rule);
    reversed.state = state;
    let paths = hooks::paths(plan, &reversed, hook, family);
    let lines = paths
        .iter()
        .flat_map(|path| rules::packets(plan, &reversed, path, family, ""));
    lines
        .map(|line| LineContext {
            target: target.to_owned(),
            ..with_reversed_set(line, rule)
        })
        .collect()
}

/// Returns the lines that match the replies to the packets of a rule of a block, in the chain of the block.
fn reply_lines_in_block(plan: &Plan, rule: &PlannedRule, family: Family) -> Vec<LineContext> {
    let (mut reversed, _) = reversed(rule);
    reversed.state = None;
    let lines = rules::packets(plan, &reversed, &HookPath::default(), family, "").into_iter();
    lines.map(|line| with_reversed_set(line, rule)).collect()
}

/// Compares the other ends of a packet with the rule's `ipset`.
fn with_reversed_set(mut line: LineContext, rule: &PlannedRule) -> LineContext {
    for set in &mut line.sets {
        if let Some(foreign) = &rule.ipset
            && set.name == foreign.name
        {
            set.side = foreign.ends.reversed().to_string();
        }
    }
    line
}

/// Returns lines, without a target, for the replies that the negated keys of a rule leave out.
pub fn reply_exceptions(
    plan: &Plan,
    rule: &PlannedRule,
    family: Family,
    origin: &str,
) -> Vec<LineContext> {
    rules::exceptions(plan, &reversed(rule).0, family, origin)
}

/// Reverses all keys of a rule and removes those that a reply does not show. Also returns `true` if there was such a key.
fn reversed(rule: &PlannedRule) -> (PlannedRule, bool) {
    let (from, to) = (hooks::to(rule).to_vec(), hooks::from(rule).to_vec());
    let mut reversed = PlannedRule {
        from: Some(from),
        to: Some(to),
        source: rule.destination.clone(),
        destination: rule.source.clone(),
        ..rule.clone()
    };
    // Without `..`, so that code with a new key does not compile until somebody decides here what a reply shows of it.
    #[rustfmt::skip]
    let PlannedRule {
    service, mark, mac, tcp_flags, original, matches, user, group, limit, connections, not_service, not_from, not_to,
        // Swapped above.
        source, destination,
        // Reversed above.
        from: _, to: _,
        // The lines of a block are reversed apart.
        in_block: _,
        // The same in both directions. `reply_lines` handles the first two, which no entry of `notrack` has.
        state: _, ipset: _, scope: _, schedule: _, expires: _, enabled: _,
        // What the rule does, and what it is called.
        action: _, stage: _, order: _, log: _, span: _, label: _, named: _, comment: _, remark: _,
    } = &mut reversed;
    for parts in [service, not_service].into_iter().flatten() {
        *parts = parts.iter().flat_map(answers).collect();
    }
    std::mem::swap(not_from, not_to);
    for addresses in [source, destination].into_iter().flatten() {
        addresses.of_reply = !addresses.of_reply;
    }
    *connections = None;
    let hides = [
        // A denying rule with exceptions would have to leave the chain for replies from a chain of its own, which iptables
        // cannot do.
        rule.not_service.is_some()
            || rule.not_from.is_some()
            || rule.not_to.is_some()
            || [&rule.source, &rule.destination]
                .into_iter()
                .flatten()
                .any(|addresses| addresses.negated && !addresses.masks.is_empty()),
        mark.take().is_some(),
        mac.take().is_some(),
        tcp_flags.take().is_some(),
        original.take().is_some(),
        matches.take().is_some(),
        user.take().is_some(),
        group.take().is_some(),
        limit
            .take()
            .is_some_and(|limit| limit.over == Over::Continue),
    ];
    (reversed, hides.contains(&true))
}

/// The ICMP types that ask for an answer, each with the type of the answer (RFC 792, RFC 950).
const ICMP_ANSWERS: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];

/// The ICMPv6 types that ask for an answer (RFC 4443).
const ICMPV6_ANSWERS: [(u8, u8); 1] = [(128, 129)];

/// Returns the parts of a service that match the answers of a part; none for most ICMP types.
fn answers(part: &ServicePart) -> Vec<ServicePart> {
    let icmp = |kind: &IcmpType, pairs: &[(u8, u8)]| {
        let mut pairs = pairs.iter();
        let pair = pairs.find(|(question, _)| *question == kind.kind);
        pair.map(|(_, answer)| IcmpType {
            kind: *answer,
            code: kind.code,
        })
    };
    let whole = |(_, kind): (u8, u8)| IcmpType { kind, code: None };
    match part {
        ServicePart::Ports(ports) => vec![ServicePart::Ports(ServicePorts {
            protocol: ports.protocol,
            source: ports.destination.clone(),
            destination: ports.source.clone(),
        })],
        ServicePart::Protocol(protocol) => vec![ServicePart::Protocol(*protocol)],
        ServicePart::Icmp(kind) => {
            let answer = icmp(kind, &ICMP_ANSWERS).into_iter();
            answer.map(ServicePart::Icmp).collect()
        }
        ServicePart::Icmpv6(kind) => {
            let answer = icmp(kind, &ICMPV6_ANSWERS).into_iter();
            answer.map(ServicePart::Icmpv6).collect()
        }
        ServicePart::EveryIcmp(Family::V4) => {
            ICMP_ANSWERS.map(whole).map(ServicePart::Icmp).to_vec()
        }
        ServicePart::EveryIcmp(Family::V6) => {
            ICMPV6_ANSWERS.map(whole).map(ServicePart::Icmpv6).to_vec()
        }
    }
}

/// Returns `true` if two rules may match the same packets, judged by their services alone. An unneeded rule in the
/// chain for replies is harmless.
fn may_share(one: &PlannedRule, other: &PlannedRule) -> bool {
    let (Some(one), Some(other)) = (&one.service, &other.service) else {
        return true;
    };
    one.iter()
        .any(|part| other.iter().any(|other| parts_share(part, other)))
}

fn parts_share(one: &ServicePart, other: &ServicePart) -> bool {
    match (one, other) {
        // In IPv6 an authentication header comes before any protocol.
        (ServicePart::Protocol(Protocol::AH), _) | (_, ServicePart::Protocol(Protocol::AH)) => true,
        (ServicePart::Ports(one), ServicePart::Ports(other)) => {
            let side = |one: &Option<_>, other: &Option<_>| match (one, other) {
                (Some(one), Some(other)) => {
                    let (one, other): (&crate::net::IntervalSet, _) = (one, other);
                    !one.intersection(other).is_empty()
                }
                _ => true,
            };
            one.protocol == other.protocol
                && side(&one.source, &other.source)
                && side(&one.destination, &other.destination)
        }
        (ServicePart::Ports(ports), ServicePart::Protocol(protocol))
        | (ServicePart::Protocol(protocol), ServicePart::Ports(ports)) => {
            ports.protocol == *protocol
        }
        (ServicePart::Protocol(one), ServicePart::Protocol(other)) => one == other,
        (ServicePart::Icmp(one), ServicePart::Icmp(other))
        | (ServicePart::Icmpv6(one), ServicePart::Icmpv6(other)) => {
            one.covers(*other) || other.covers(*one)
        }
        (ServicePart::EveryIcmp(family), other) | (other, ServicePart::EveryIcmp(family)) => {
            match other {
                ServicePart::Icmp(_) => *family == Family::V4,
                ServicePart::Icmpv6(_) => *family == Family::V6,
                ServicePart::EveryIcmp(other) => family == other,
                ServicePart::Ports(_) | ServicePart::Protocol(_) => false,
            }
        }
        _ => false,
    }
}

//! What is wrong though every word of it is right.

use std::collections::HashMap;

use super::plan::{Addresses, Place, Plan, Rule, RuleAction, ServicePart};
use crate::diag::{Code, Diagnostic, Severity, Sink};
use crate::net::{
    AddressSet, Family, Hook, IcmpType, InterfacePattern, IntervalSet, Protocol, State,
};
use crate::policy::{
    self, DefaultAction, Definitions, Icmp, Over, Policy, RejectWith, Scope, Stage,
};
use crate::source::{Located, Span};

/// Interfaces, zones and address groups share their names.
pub fn unique_names(policy: &Policy, sink: &mut Sink) {
    fn names<'d, T>(
        what: &'static str,
        definitions: &'d Definitions<T>,
    ) -> Vec<(&'static str, &'d Located<String>)> {
        let names = definitions.iter().map(|definition| &definition.name);
        names.map(|name| (what, name)).collect()
    }
    let mut all = names("an interface", &policy.interfaces);
    all.extend(names("a zone", &policy.zones));
    all.extend(names("an address group", &policy.addresses));
    let mut seen: HashMap<&str, (&str, Span)> = HashMap::new();
    for (what, name) in all {
        let Some((other, span)) = seen.insert(&name.value, (what, name.span)) else {
            continue;
        };
        let message = format!("`{}` is {other} and {what}", name.value);
        sink.report(
            Diagnostic::error(Code::NameUsedTwice, name.span, message)
                .also(span, other)
                .help("one name stands for one thing: call one of them otherwise"),
        );
    }
}

/// With `antispoof` some interface must say which networks are behind it.
pub fn antispoof(policy: &Policy, sink: &mut Sink) {
    let Some(written) = &policy.defaults.antispoof else {
        return;
    };
    let mut interfaces = policy.interfaces.iter();
    if written.value && !interfaces.any(|interface| !interface.value.networks.is_empty()) {
        sink.report(
            Diagnostic::error(
                Code::AntispoofNoNetworks,
                written.span,
                "`antispoof` would drop nothing: no interface says which networks are behind it",
            )
            .help("give interfaces their `networks`, such as `lan = { device = \"eth1\", networks = [\"192.168.1.0/24\"] }`"),
        );
    }
}

/// No device belongs to two interfaces, or twice to one.
pub fn devices(interfaces: &Definitions<policy::Interface>, sink: &mut Sink) {
    let all = || {
        interfaces.iter().flat_map(|definition| {
            let devices = definition.value.devices.iter();
            devices.map(move |device| (&definition.name.value, device))
        })
    };
    for (index, (name, device)) in all().enumerate() {
        if device.value.matches("lo") {
            let message = format!("`{name}` has the loopback device");
            sink.report(
                Diagnostic::warning(Code::InterfaceLo, device.span, message).help(
                    "with `loopback = true` everything on lo passes before the rules are asked",
                ),
            );
        }
        let overlaps = |(_, other): &(&String, &Located<InterfacePattern>)| {
            device.value.overlaps(&other.value)
        };
        if let Some((other_name, other)) = all().take(index).find(overlaps) {
            let message = if name == other_name {
                format!("the device `{}` is in `{name}` already", device.value)
            } else if device.value == other.value {
                format!(
                    "the device `{}` belongs to `{other_name}` and `{name}`",
                    device.value
                )
            } else {
                format!(
                    "the devices `{}` of `{other_name}` and `{}` of `{name}` overlap",
                    other.value, device.value
                )
            };
            sink.report(
                Diagnostic::error(Code::DevicesOverlap, device.span, message)
                    .also(other.span, "also here")
                    .help("a device belongs to one interface; a rule may name several interfaces"),
            );
        }
    }
}

/// Checks the rules of the plan, each by itself. `plan.rules` stand in the order of `policy.rules`.
pub fn rules(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for ((rule, written), sound) in plan.rules.iter().zip(&policy.rules).zip(sound) {
        if *sound {
            let checked = Checked::new(plan, rule, written);
            checked.report(plan, sink);
        }
    }
}

/// Checks the packets of the tests, each by itself. `plan.tests` stand in the order of `policy.tests`.
pub fn tests(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    for ((test, written), sound) in plan.tests.iter().zip(&policy.tests).zip(sound) {
        if *sound {
            let checked = Checked::new(plan, &test.packets, &written.packets);
            checked.has_packets("test", sink);
        }
    }
}

/// Checks packets that somebody asks about.
pub fn question(plan: &Plan, rule: &Rule, written: &policy::Rule, sink: &mut Sink) {
    Checked::new(plan, rule, written).has_packets("question", sink);
}

/// A rule with the hooks and devices that it is about.
pub struct Checked<'a> {
    rule: &'a Rule,
    written: &'a policy::Rule,
    /// in-place and out-place of each pair of `from` and `to` but host with host
    pairs: Vec<(Place, Place)>,
    /// why the rule has nothing in a family
    obstacles: HashMap<Family, Obstacle>,
}

/// Why a rule has nothing in a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Scope,
    Places,
    Source,
    Destination,
    Service,
    /// There is nothing to translate to; where that is said.
    Translation(Span),
}

impl Obstacle {
    /// What is to be seen at the place of the obstacle.
    fn words(self, family: Family) -> String {
        match self {
            Self::Scope => format!("leaves out {family}"),
            Self::Places => format!("nothing of {family} that fits"),
            Self::Source | Self::Destination => format!("no {family} address"),
            Self::Service => format!("nothing of {family}"),
            Self::Translation(_) => format!("translates nothing of {family}"),
        }
    }
}

impl<'a> Checked<'a> {
    /// A rule of the plan, and how it is written.
    pub fn new(plan: &Plan, rule: &'a Rule, written: &'a policy::Rule) -> Self {
        Self::with_pairs(plan, rule, written, pairs(rule))
    }

    /// The same with pairs of places of its own.
    pub fn with_pairs(
        plan: &Plan,
        rule: &'a Rule,
        written: &'a policy::Rule,
        pairs: Vec<(Place, Place)>,
    ) -> Self {
        let obstacles = Family::ALL
            .into_iter()
            .filter_map(|family| Some((family, obstacle(plan, rule, &pairs, family)?)))
            .collect();
        Self {
            rule,
            written,
            pairs,
            obstacles,
        }
    }

    /// Something else that stands in the way, where nothing does yet.
    pub fn add_obstacle(&mut self, family: Family, obstacle: Obstacle) {
        self.obstacles.entry(family).or_insert(obstacle);
    }

    fn report(&self, plan: &Plan, sink: &mut Sink) {
        self.report_packets(plan, "rule", sink);
        self.tcp_reset(sink);
        self.limits(sink);
        self.state_below_established(plan, sink);
    }

    /// What is wrong with the keys that say which packets are meant.
    pub fn report_packets(&self, plan: &Plan, what: &str, sink: &mut Sink) {
        self.has_packets(what, sink);
        self.negation_one_family(plan, sink);
        self.one_family(plan, sink);
        self.tcp_flags(sink);
        self.mac_from_host(sink);
        self.user_not_from_host(sink);
        self.ipset_scope(sink);
    }

    /// Whether the rule, or what else has its keys, is about any packet.
    fn has_packets(&self, what: &str, sink: &mut Sink) {
        self.host_to_host(what, sink);
        self.matches_nothing(what, sink);
    }

    fn host_to_host(&self, what: &str, sink: &mut Sink) {
        if !self.pairs.is_empty() {
            return;
        }
        let keys = [&self.written.to, &self.written.from];
        let span = keys.into_iter().flatten().flatten().next();
        sink.report(
            Diagnostic::error(
                Code::HostToHost,
                span.map_or(self.rule.span, |name| name.span),
                format!("the {what} goes from this host to this host only"),
            )
            .help("what this host sends to itself passes on lo; name an interface or `any` on one side"),
        );
    }

    pub fn matches_nothing(&self, what: &str, sink: &mut Sink) {
        if self.pairs.is_empty() || self.obstacles.len() < Family::ALL.len() {
            return;
        }
        let places = Family::ALL.map(|family| {
            let obstacle = self.obstacles.get(&family).copied();
            let words = obstacle.map_or_else(String::new, |obstacle| obstacle.words(family));
            (self.span_of(obstacle), words)
        });
        let [(v4, in_v4), (v6, in_v6)] = places;
        let message = format!("no packet can match this {what}");
        let diagnostic = Diagnostic::error(Code::MatchesNothing, v4, message);
        let diagnostic = if v4 == v6 {
            diagnostic.label(format!("{in_v4}, {in_v6}"))
        } else {
            diagnostic.label(in_v4).also(v6, in_v6)
        };
        sink.report(diagnostic.help(format!(
            "all keys of a {what} are about the same packet: there must be a family in which each has something"
        )));
    }

    /// The place in the policy of what stands in the way.
    fn span_of(&self, obstacle: Option<Obstacle>) -> Span {
        let service = || self.written.service.as_ref()?.first().map(|item| item.span);
        let places = || {
            let mut names = [&self.written.from, &self.written.to].into_iter().flatten();
            names.find_map(|names| Some(names.first()?.span))
        };
        let span = match obstacle {
            Some(Obstacle::Source) => self.written.source.as_ref().map(|s| s.span),
            Some(Obstacle::Destination) => self.written.destination.as_ref().map(|d| d.span),
            Some(Obstacle::Service) => service(),
            Some(Obstacle::Places) => places(),
            Some(Obstacle::Translation(span)) => Some(span),
            Some(Obstacle::Scope) => self.written.scope.as_ref().map(|scope| scope.span),
            None => None,
        };
        span.unwrap_or(self.rule.span)
    }

    pub fn negation_one_family(&self, plan: &Plan, sink: &mut Sink) {
        if self.rule.scope.is_some() {
            return;
        }
        let keys = [
            ("source", &self.rule.source, &self.written.source),
            (
                "destination",
                &self.rule.destination,
                &self.written.destination,
            ),
        ];
        for (key, resolved, written) in keys {
            let (Some(addresses), Some(written)) = (resolved, written) else {
                continue;
            };
            let (known, dynamic) = plan.known(addresses);
            // A dynamic set may have members of both families.
            if !addresses.negated || dynamic || known.is_empty() {
                continue;
            }
            for family in Family::ALL {
                let open = known.family(family).is_empty()
                    && obstacle(plan, self.rule, &self.pairs, family).is_none();
                if open {
                    let other = other(family);
                    let message = format!(
                        "`{key}` names {other} addresses only, so everything but those is all of {family}"
                    );
                    sink.report(
                        Diagnostic::error(Code::NegationOneFamily, written.span, message)
                            .help(format!(
                                "say `scope = \"{}\"` to leave {family} out",
                                other.keyword()
                            ))
                            .help(format!(
                                "say `scope = \"dual\"` when all of {family} is meant"
                            )),
                    );
                }
            }
        }
    }

    fn one_family(&self, plan: &Plan, sink: &mut Sink) {
        if matches!(self.rule.scope, Some(Scope::Only(_))) || self.obstacles.len() != 1 {
            return;
        }
        let first = |names: &Option<Vec<Located<String>>>| Some(names.as_ref()?.first()?.span);
        for (family, obstacle) in &self.obstacles {
            let (key, span) = match obstacle {
                Obstacle::Source => ("source", self.written.source.as_ref().map(|s| s.span)),
                Obstacle::Destination => (
                    "destination",
                    self.written.destination.as_ref().map(|d| d.span),
                ),
                // An interface's own `scope` is meant; that a zone has networks of one family may not be.
                Obstacle::Places if self.all_lack(plan, *family, |pair| pair.0) => {
                    ("from", first(&self.written.from))
                }
                Obstacle::Places if self.all_lack(plan, *family, |pair| pair.1) => {
                    ("to", first(&self.written.to))
                }
                _ => continue,
            };
            let span = span.unwrap_or(self.rule.span);
            let other = other(*family);
            let message = format!("the rule is for {other} only: `{key}` has no {family} address");
            let mut diagnostic = Diagnostic::note(Code::OneFamily, span, message);
            if matches!(self.rule.action, RuleAction::Drop | RuleAction::Reject(_)) {
                diagnostic.severity = Severity::Warning;
                diagnostic =
                    diagnostic.help(format!("the same hosts are not denied over {family}"));
            }
            sink.report(diagnostic.help(format!(
                "say `scope = \"{}\"` when that is meant",
                other.keyword()
            )));
        }
    }

    /// Whether one side of all pairs is zones whose networks have nothing of a family.
    fn all_lack(
        &self,
        plan: &Plan,
        family: Family,
        side: impl Fn(&(Place, Place)) -> Place,
    ) -> bool {
        let lacks = |place: Place| {
            let networks = plan
                .members(place)
                .into_iter()
                .map(|member| member.networks);
            let is_empty = |networks: AddressSet| networks.family(family).is_empty();
            networks
                .into_iter()
                .all(|networks| networks.is_some_and(is_empty))
        };
        self.pairs.iter().all(|pair| lacks(side(pair)))
    }

    fn tcp_reset(&self, sink: &mut Sink) {
        if self.rule.action != RuleAction::Reject(RejectWith::TcpReset) {
            return;
        }
        let parts = self.rule.service.as_ref();
        if self.rule.tcp_flags.is_some() || parts.is_some_and(|parts| parts.iter().all(is_tcp)) {
            return;
        }
        let span = self.written.reject_with.as_ref().map(|with| with.span);
        sink.report(
            Diagnostic::error(
                Code::TcpResetNotTcp,
                span.unwrap_or(self.rule.span),
                "`tcp-reset` on a rule that may match other protocols",
            )
            .help("name tcp services only, or say `reject-with = \"default\"`: a reset for tcp, unreachable for the rest"),
        );
    }

    /// `tcp-flags` implies tcp; a service that is not tcp would silently vanish from the rule.
    fn tcp_flags(&self, sink: &mut Sink) {
        let parts = self.rule.service.as_ref();
        if parts.is_none_or(|parts| parts.iter().all(is_tcp)) {
            return;
        }
        if let Some(flags) = &self.written.tcp_flags {
            sink.report(
                Diagnostic::error(
                    Code::TcpFlagsNotTcp,
                    flags.span,
                    "`tcp-flags` on a rule whose services are not all tcp",
                )
                .help("name tcp services only; what is not tcp goes into a rule of its own"),
            );
        }
    }

    fn mac_from_host(&self, sink: &mut Sink) {
        if let Some(mac) = &self.written.mac
            && self.pairs.iter().any(|(from, _)| *from == Place::Host)
        {
            sink.report(
                Diagnostic::error(
                    Code::MacFromHost,
                    mac.span,
                    "`mac` is the address that a packet came from, and this host's own packets have none",
                )
                .help("take `host` out of `from`, or leave `mac` out"),
            );
        }
    }

    fn user_not_from_host(&self, sink: &mut Sink) {
        let keys = [("user", &self.written.user), ("group", &self.written.group)];
        for (key, written) in keys {
            if let Some(written) = written
                && self.pairs.iter().any(|(from, _)| *from != Place::Host)
            {
                let message = format!("`{key}` is known of this host's own packets only");
                sink.report(
                    Diagnostic::error(Code::UserNotFromHost, written.span, message)
                        .help("say `from = \"host\"`"),
                );
            }
        }
    }

    /// A set has one family, and the kernel refuses a rule that names it in the other one.
    fn ipset_scope(&self, sink: &mut Sink) {
        let scope = self.rule.scope;
        if let Some(name) = &self.written.ipset
            && !matches!(scope, Some(Scope::Only(_)))
        {
            sink.report(
                Diagnostic::error(
                    Code::IpsetScope,
                    name.span,
                    "a set has one family, and the rule does not say which",
                )
                .help("say `scope = \"ipv4\"` or `scope = \"ipv6\"`"),
            );
        }
    }

    fn limits(&self, sink: &mut Sink) {
        let error = |span, message: &str| Diagnostic::error(Code::LimitAction, span, message);
        let denies = matches!(self.rule.action, RuleAction::Drop | RuleAction::Reject(_));
        if let (Some(written), Some(limit)) = (&self.written.limit, &self.rule.limit)
            && limit.over != Over::Continue
        {
            if denies {
                sink.report(
                    error(
                        written.span,
                        "beyond the limit of a rule that denies, what happens?",
                    )
                    .help("say `over = \"continue\"`: the next rules decide about the rest"),
                );
            } else if self.rule.action == RuleAction::Log {
                sink.report(
                    error(
                        written.span,
                        "a rule that logs decides nothing, beyond its limit neither",
                    )
                    .help("leave `over` out"),
                );
            }
        }
        let goes_on = |over: Option<Over>| over == Some(Over::Continue);
        if let (Some(written), Some(connections)) =
            (&self.written.connections, self.rule.connections)
            && self.rule.log.is_some()
            && goes_on(self.rule.limit.map(|limit| limit.over))
            && !goes_on(Some(connections.over))
        {
            sink.report(
                error(
                    written.span,
                    "a rule that logs cannot deny beyond `connections` and go on beyond `limit`",
                )
                .help("say the same `over` in both, or make two rules of it"),
            );
        }
        if let Some(written) = &self.written.connections
            && self.rule.action != RuleAction::Accept
        {
            sink.report(
                error(written.span, "`connections` on a rule that does not accept")
                    .help("it says how many connections the rule lets through"),
            );
        }
    }

    fn state_below_established(&self, plan: &Plan, sink: &mut Sink) {
        let Some(states) = &self.rule.state else {
            return;
        };
        let decided = [State::Established, State::Related];
        if plan.defaults.established
            && self.rule.stage == Stage::Main
            && states.iter().all(|state| decided.contains(state))
            && let Some(written) = self.written.state.as_ref().and_then(|list| list.first())
        {
            sink.report(
                Diagnostic::warning(
                    Code::StateBelowEstablished,
                    written.span,
                    "no packet of these states comes so far: `established = true` accepts them before the rules",
                )
                .help("leave the rule out, or set `established = false` under [defaults]"),
            );
        }
    }
}

fn is_tcp(part: &ServicePart) -> bool {
    match part {
        ServicePart::Ports(ports) => ports.protocol == Protocol::TCP,
        ServicePart::Protocol(protocol) => *protocol == Protocol::TCP,
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) => false,
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

fn pairs(rule: &Rule) -> Vec<(Place, Place)> {
    let any = [Place::Any];
    let host = [Place::Host];
    let from = rule.from.as_deref().unwrap_or(&any);
    let only_from_host = from.iter().all(|place| *place == Place::Host);
    let default_to = if only_from_host { &any } else { &host };
    let to = rule.to.as_deref().unwrap_or(default_to);
    let pairs = from
        .iter()
        .flat_map(|from| to.iter().map(move |to| (*from, *to)));
    pairs
        .filter(|pair| *pair != (Place::Host, Place::Host))
        .collect()
}

fn obstacle(
    plan: &Plan,
    rule: &Rule,
    pairs: &[(Place, Place)],
    family: Family,
) -> Option<Obstacle> {
    let open_side = |place: Place, addresses: &Option<Addresses>| {
        let mut members = plan.members(place).into_iter();
        members.any(|member| {
            let scope = member
                .interface
                .map_or(Scope::Dual, |index| plan.interfaces[index].scope);
            scope.has(family)
                && !disjoint(plan, addresses.as_ref(), member.networks.as_ref(), family)
        })
    };
    let open_pair = |(from, to): &(Place, Place)| {
        open_side(*from, &rule.source) && open_side(*to, &rule.destination)
    };
    let no_addresses = |addresses: &Option<Addresses>| {
        addresses
            .as_ref()
            .is_some_and(|addresses| is_empty(plan, addresses, family))
    };
    let part_exists = |part: &ServicePart| match part {
        ServicePart::Ports(_) | ServicePart::Protocol(_) => true,
        ServicePart::Icmp(_) => family == Family::V4,
        ServicePart::Icmpv6(_) => family == Family::V6,
    };
    if rule.scope.is_some_and(|scope| !scope.has(family)) {
        Some(Obstacle::Scope)
    } else if no_addresses(&rule.source) {
        Some(Obstacle::Source)
    } else if no_addresses(&rule.destination) {
        Some(Obstacle::Destination)
    } else if rule
        .service
        .as_ref()
        .is_some_and(|parts| !parts.iter().any(part_exists))
    {
        Some(Obstacle::Service)
    } else if !pairs.iter().any(open_pair) {
        Some(Obstacle::Places)
    } else {
        None
    }
}

fn is_empty(plan: &Plan, addresses: &Addresses, family: Family) -> bool {
    let (known, open) = plan.known(addresses);
    let set = known.family(family);
    if addresses.negated {
        *set == IntervalSet::from_intervals([(0, family.last_address())])
    } else {
        set.is_empty() && !open
    }
}

/// Whether the addresses and the networks of a zone have nothing in common.
fn disjoint(
    plan: &Plan,
    addresses: Option<&Addresses>,
    networks: Option<&AddressSet>,
    family: Family,
) -> bool {
    let Some(networks) = networks.map(|networks| networks.family(family)) else {
        return false; // the addresses alone are judged elsewhere
    };
    let Some(addresses) = addresses else {
        return networks.is_empty();
    };
    let (known, open) = plan.known(addresses);
    let set = known.family(family);
    if addresses.negated {
        networks.difference(set).is_empty()
    } else if open {
        networks.is_empty()
    } else {
        networks.intersection(set).is_empty()
    }
}

/// With `icmp = "none"` the rules themselves must keep neighbour discovery alive, else IPv6 dies.
pub fn neighbour_discovery(plan: &Plan, policy: &Policy, sink: &mut Sink) {
    let Some(written) = &policy.defaults.icmp else {
        return;
    };
    if plan.defaults.icmp != Icmp::None {
        return;
    }
    let denying = [
        (Hook::Input, plan.defaults.input),
        (Hook::Output, plan.defaults.output),
    ];
    for (hook, action) in denying {
        if action == DefaultAction::Accept {
            continue;
        }
        let missing: Vec<_> = (133..=136)
            .filter(|kind| !accepts_everywhere(plan, hook, *kind))
            .map(|kind| kind.to_string())
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "`icmp = \"none\"`, and no rule accepts the ICMPv6 types {} in {hook} on every interface",
                missing.join(", ")
            );
            sink.report(
                Diagnostic::error(Code::IcmpNone, written.span, message)
                    .help("without neighbour discovery (133 to 136) IPv6 stops working")
                    .help("accept them from `any` without addresses, or say `icmp = \"essential-no-ping\"`"),
            );
        }
    }
}

/// Whether the first rule that has every packet of the type in the hook accepts it.
fn accepts_everywhere(plan: &Plan, hook: Hook, kind: u8) -> bool {
    let wanted = IcmpType { kind, code: None };
    let pair = match hook {
        Hook::Input => (Place::Any, Place::Host),
        Hook::Output => (Place::Host, Place::Any),
        Hook::Forward => (Place::Any, Place::Any),
    };
    let covers =
        |part: &ServicePart| matches!(part, ServicePart::Icmpv6(kind) if kind.covers(wanted));
    let decides = |rule: &&Rule| {
        rule.enabled
            && rule.action != RuleAction::Log
            && rule.scope.is_none_or(|scope| scope.has(Family::V6))
            && pairs(rule).contains(&pair)
            && rule.source.is_none()
            && rule.destination.is_none()
            && rule.ipset.is_none()
            && rule.mark.is_none()
            && rule.mac.is_none()
            && rule.tcp_flags.is_none()
            && rule
                .state
                .as_ref()
                .is_none_or(|states| states.contains(&State::Untracked))
            && rule
                .service
                .as_ref()
                .is_none_or(|parts| parts.iter().any(covers))
    };
    let mut rules: Vec<_> = plan.rules.iter().collect();
    rules.sort_by_key(|rule| (rule.stage == Stage::Main, rule.order));
    let first = rules.into_iter().find(decides);
    first.is_some_and(|rule| rule.action == RuleAction::Accept)
}

//! Checks the keys of a rule: combinations that make no sense, and keys that name one family by mistake.

use crate::diag::{Code, Diagnostic, Sink};
use crate::lints::one_family;
use crate::net::{AddressSet, Family, Protocol};
use crate::policy::{HostPrefix, Over, RuleLimit, Scope};
use crate::resolve::plan::{AddressCondition, Endpoint, Members, Plan, RuleAction, ServicePart};
use crate::source::{Located, Span};

use super::Checked;
use super::nothing::{Obstacle, obstacle};

impl Checked<'_> {
    /// Reports a negated list with addresses of one family only: in the other family it excludes nothing.
    pub fn negation_one_family(&self, plan: &Plan, sink: &mut Sink) {
        if self.rule.scope.is_some() {
            return;
        }
        self.left_out_one_family(plan, sink);
        let none = (&None, &None);
        let (before, written_before) = match (&self.rule.original, &self.written.original) {
            (Some(original), Some(written)) => (&original.destination, &written.destination),
            _ => none,
        };
        let keys = [
            ("source", &self.rule.source, &self.written.source),
            (
                "destination",
                &self.rule.destination,
                &self.written.destination,
            ),
            ("original.destination", before, written_before),
        ];
        for (key, resolved, written) in keys {
            let (Some(addresses), Some(written)) = (resolved, written) else {
                continue;
            };
            let (known, _) = plan.known(addresses);
            let has_masks = !addresses.masks.is_empty();
            // A dynamic set may have members of both families.
            let dynamic = has_dynamic(plan, addresses);
            if !addresses.negated || dynamic || known.is_empty() && !has_masks {
                continue;
            }
            for family in Family::ALL {
                let open = known.family(family).is_empty()
                    && addresses.masks_of(family).next().is_none()
                    && obstacle(plan, self.rule, &self.pairs, family).is_none();
                if open {
                    let other = other(family);
                    let message = format!(
                        "`{key}` excludes {other} addresses only, so the rule matches every {family} address"
                    );
                    sink.report(
                        Diagnostic::error(Code::NegationOneFamily, written.span, message)
                            .help(format!(
                                "write `scope = \"{}\"` to leave {family} out",
                                other.keyword()
                            ))
                            .help(format!(
                                "write `scope = \"dual\"` if you mean all of {family}"
                            )),
                    );
                }
            }
        }
    }

    /// Reports a negated address with a mask in an entry. iptables asks for one address in a line, and only a rule has a chain
    /// whose first lines leave addresses out.
    pub fn negated_masks(&self, what: &str, sink: &mut Sink) {
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
            if addresses.negated && !addresses.masks.is_empty() {
                let message = format!("`{key}` of {what} cannot negate an address with a mask");
                sink.report(
                    Diagnostic::error(Code::BadValue, written.span, message)
                        .help("name the addresses that you mean"),
                );
            }
        }
    }

    /// Reports a negated `from`, `to` or `service` of which nothing exists in a family: there the rule matches everything.
    fn left_out_one_family(&self, plan: &Plan, sink: &mut Sink) {
        let span_of = |names: &Option<Vec<Located<String>>>| Some(names.as_ref()?.first()?.span);
        for family in Family::ALL {
            if obstacle(plan, self.rule, &self.pairs, family).is_some() {
                continue;
            }
            let places_exist = |places: &Vec<Endpoint>| {
                let mut members = places.iter().flat_map(|place| plan.members(*place));
                members.any(|member| {
                    let networks = member.networks.as_ref();
                    networks.is_none_or(|networks| !networks.family(family).is_empty())
                })
            };
            let services_exist = |parts: &Vec<ServicePart>| {
                parts.iter().any(|part| match part {
                    ServicePart::Ports(_) | ServicePart::Protocol(_) => true,
                    ServicePart::Icmp(_) => family == Family::V4,
                    ServicePart::Icmpv6(_) => family == Family::V6,
                    ServicePart::EveryIcmp(of) => *of == family,
                })
            };
            let rule = self.rule;
            let service = self.written.not_service.as_ref();
            let keys = [
                (
                    "from",
                    rule.not_from.as_ref().is_none_or(places_exist),
                    span_of(&self.written.not_from),
                ),
                (
                    "to",
                    rule.not_to.as_ref().is_none_or(places_exist),
                    span_of(&self.written.not_to),
                ),
                (
                    "service",
                    rule.not_service.as_ref().is_none_or(services_exist),
                    service.and_then(|items| Some(items.first()?.span)),
                ),
            ];
            for (key, _, span) in keys.into_iter().filter(|(_, exists, _)| !exists) {
                let other = other(family);
                let message = format!(
                    "`{key}` excludes nothing in {family}, so the rule would match every packet of {family}"
                );
                sink.report(
                    Diagnostic::error(
                        Code::NegationOneFamily,
                        span.unwrap_or(self.rule.span),
                        message,
                    )
                    .help(format!(
                        "write `scope = \"{}\"` to leave {family} out",
                        other.keyword()
                    ))
                    .help(format!(
                        "write `scope = \"dual\"` if you mean all of {family}"
                    )),
                );
            }
        }
    }

    /// Reports a negated `from` or `to` that leaves out all addresses of a family, or of `source` or `destination`, by zones
    /// with networks only.
    pub(super) fn leaves_nothing(&self, plan: &Plan, sink: &mut Sink) {
        let (rule, written) = (self.rule, self.written);
        let keys = [
            (&rule.not_from, &written.not_from, ("source", &rule.source)),
            (
                &rule.not_to,
                &written.not_to,
                ("destination", &rule.destination),
            ),
        ];
        for (places, names, (key, addresses)) in keys {
            for family in Family::ALL {
                if rule.scope.is_some_and(|scope| !scope.has(family)) {
                    continue;
                }
                let members = places
                    .iter()
                    .flatten()
                    .flat_map(|place| plan.members(*place));
                let everywhere =
                    members.filter(|member| member.interface.is_none() && member.ipsec.is_none());
                let everywhere = everywhere.filter_map(|member| member.networks);
                let all = everywhere.fold(AddressSet::default(), |all, one| all.union(&one));
                let rest = all.family(family).complement(family.last_address());
                let known = addresses.as_ref().map(|addresses| plan.known(addresses));
                let rest_of_key = match (addresses, &known) {
                    // A set that others fill may have any address.
                    (Some(addresses), Some((known, false))) if !addresses.negated => {
                        Some(known.family(family))
                            .filter(|known| !known.is_empty())
                            .map(|known| known.intersection(&rest))
                    }
                    (Some(_), Some((known, false))) => Some(rest.difference(known.family(family))),
                    _ => None,
                };
                let of_key = rest_of_key.is_some_and(|rest| rest.is_empty());
                if rest.is_empty() || of_key && !all.family(family).is_empty() {
                    let span = names.as_ref().and_then(|names| Some(names.first()?.span));
                    let what = match rest.is_empty() {
                        true => format!("every address of {family}"),
                        false => format!("every {family} address of `{key}`"),
                    };
                    let message = format!("no packet of {family} is left: this excludes {what}");
                    sink.report(
                        Diagnostic::error(Code::MatchesNothing, span.unwrap_or(rule.span), message)
                            .help(format!(
                                "write `scope = \"{}\"` if the rule is about the other family",
                                other(family).keyword()
                            )),
                    );
                }
            }
        }
    }

    /// Reports extension headers of IPv6 as protocols: `-p` skips them and never matches them. AH is no such error, since
    /// fwc writes `-m ah` for it.
    pub(super) fn extension_headers(&self, sink: &mut Sink) {
        if self.obstacles.contains_key(&Family::V6) {
            return;
        }
        let parts = [&self.rule.service, &self.rule.not_service];
        let parts = parts.into_iter().flatten().flatten();
        let mut headers = parts.filter_map(|part| match part {
            ServicePart::Protocol(protocol) if protocol.is_extension_header() => Some(*protocol),
            _ => None,
        });
        let Some(header) = headers.next() else {
            return;
        };
        let items = self.written.service.as_ref();
        let items = items.or(self.written.not_service.as_ref());
        let span = match items.map_or(&[][..], |items| items) {
            [first, .., last] => Span {
                end: last.span.end,
                ..first.span
            },
            [only] => only.span,
            [] => self.rule.span,
        };
        let message = format!(
            "protocol {} ({header}) never matches in IPv6: it is an extension header there",
            header.0
        );
        sink.report(
            Diagnostic::error(Code::BadProtocol, span, message)
                .help("name the protocol that follows the header, or match the header with a [[custom]] rule: `-m rt`, `-m frag`, `-m dst`")
                .help("write `scope = \"ipv4\"` if you mean the protocol number of IPv4"),
        );
    }

    /// Warns about a rule that has packets in one family only, without a `scope` that says so.
    pub(super) fn one_family(&self, plan: &Plan, sink: &mut Sink) {
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
            let denies = self.rule.denies();
            sink.report(one_family::finding(span, key, *family, denies));
        }
    }

    /// Returns `true` if on one side all pairs have zones without networks of a family.
    fn all_lack(
        &self,
        plan: &Plan,
        family: Family,
        side: impl Fn(&(Endpoint, Endpoint)) -> Endpoint,
    ) -> bool {
        let lacks = |place: Endpoint| {
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

    /// Reports `tcp-flags` with services that are not tcp: `tcp-flags` implies `-p tcp`, so they would silently vanish.
    pub(super) fn tcp_flags(&self, sink: &mut Sink) {
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
                .help("name tcp services only, and put other protocols into a rule of their own"),
            );
        }
    }

    /// Reports `mac` for packets of this host: netfilter sees no source MAC address before a packet is sent.
    pub(super) fn mac_from_host(&self, sink: &mut Sink) {
        if let Some(mac) = &self.written.mac
            && self.pairs.iter().any(|(from, _)| *from == Endpoint::Host)
        {
            sink.report(
                Diagnostic::error(
                    Code::MacFromHost,
                    mac.span,
                    "`mac` matches the source of a received packet, and this host's own packets have none",
                )
                .help("take `host` out of `from`, or leave `mac` out"),
            );
        }
    }

    /// Reports `user` and `group` for packets of others: the `owner` match knows the sockets of this host only.
    pub(super) fn user_not_from_host(&self, sink: &mut Sink) {
        let keys = [("user", &self.written.user), ("group", &self.written.group)];
        for (key, written) in keys {
            if let Some(written) = written
                && self.pairs.iter().any(|(from, _)| *from != Endpoint::Host)
            {
                let message = format!("`{key}` is known only for this host's own packets");
                sink.report(
                    Diagnostic::error(Code::UserNotFromHost, written.span, message)
                        .help("write `from = \"host\"`"),
                );
            }
        }
    }

    /// Reports a set whose members have ports in `source` of an entry that may change the port: what it translated is
    /// accepted by its source, in the filter table, which sees the new port.
    pub(super) fn ports_before_translation(&self, plan: &Plan, sink: &mut Sink) {
        let (Some(source), Some(written)) = (&self.rule.source, &self.written.source) else {
            return;
        };
        let mut sets = source.sets.iter().map(|set| &plan.sets[*set]);
        let Some(set) = sets.find(|set| set.kind().has_ports()) else {
            return;
        };
        let message = format!(
            "the members of `{}` have ports, and this entry changes the destination that they are compared with",
            set.name
        );
        sink.report(
            Diagnostic::error(Code::Conflict, written.span, message)
                .help("use a set of addresses here (`type = \"net\"` or `\"address\"`); to drop by the port before the translation, write `[[raw]] type = \"drop\"`"),
        );
    }

    /// Reports a foreign ipset without a family: the kernel refuses a rule that names a set of the other family.
    pub(super) fn ipset_scope(&self, sink: &mut Sink) {
        let scope = self.rule.scope;
        if let Some(set) = &self.written.ipset
            && !matches!(scope, Some(Scope::Only(_)))
        {
            sink.report(
                Diagnostic::error(
                    Code::IpsetScope,
                    set.name.span,
                    "a set has one family, but the rule does not say which",
                )
                .help("write `scope = \"ipv4\"` or `scope = \"ipv6\"`"),
            );
        }
    }

    /// Reports a limit with one prefix in a rule of two families, or with a prefix that the rule's family does not have.
    pub(super) fn limit_prefixes(&self, sink: &mut Sink) {
        let (Some(written), Some(limit)) = (&self.written.limit, &self.rule.limit) else {
            return;
        };
        let span = match written {
            RuleLimit::Own(limit) => limit.per_span,
            RuleLimit::Named(name) => name.span,
        };
        let families = Family::ALL.into_iter();
        let families: Vec<_> = families
            .filter(|family| !self.obstacles.contains_key(family))
            .collect();
        let parts = [
            ("source", limit.per.source),
            ("destination", limit.per.destination),
        ];
        for (name, prefix) in parts {
            let Some(HostPrefix::Only(bits)) = prefix else {
                continue;
            };
            match families[..] {
                [_, _] => {
                    let message =
                        format!("`{name}/{bits}` has one prefix, but the rule has two families");
                    let (v4, v6, meant) = match bits {
                        ..=32 => (bits, 56, Family::V4),
                        _ => (24, bits, Family::V6),
                    };
                    sink.report(
                        Diagnostic::error(Code::MixedFamilies, span, message)
                            .help(format!(
                                "write a prefix of IPv4 and one of IPv6, such as `{name}/{v4}/{v6}`"
                            ))
                            .help(format!(
                                "or name the family of the rule, such as `scope = \"{}\"`",
                                meant.keyword()
                            )),
                    );
                }
                [family] if bits > family.bits() => {
                    let message = format!("{family} has no prefix of {bits} bits");
                    sink.report(
                        Diagnostic::error(Code::BadPrefix, span, message).help(format!(
                            "a prefix of {family} has 1 to {} bits",
                            family.bits()
                        )),
                    );
                }
                _ => {}
            }
        }
    }

    /// Reports limits that do not go with the action of their rule, or with each other.
    pub(super) fn limits(&self, sink: &mut Sink) {
        let error = |span, message: &str| Diagnostic::error(Code::LimitAction, span, message);
        let denies = matches!(self.rule.action, RuleAction::Drop | RuleAction::Reject(_));
        if let (Some(written), Some(limit)) = (&self.written.limit, &self.rule.limit)
            && limit.over != Over::Continue
        {
            if denies {
                sink.report(
                    error(
                        written.span(),
                        "a rule that denies does not say what happens beyond its limit",
                    )
                    .help(format!(
                        "write `over = \"continue\"`{}: the next rules decide the rest",
                        under_limits("in", written)
                    )),
                );
            } else if self.rule.action == RuleAction::Log {
                sink.report(
                    error(
                        written.span(),
                        "a rule that logs decides nothing, so `over` has no meaning",
                    )
                    .help(format!("leave `over` out{}", under_limits("of", written))),
                );
            }
        }
        let continues = |over: Option<Over>| over == Some(Over::Continue);
        if self.rule.action == RuleAction::Continue {
            let limit = self.rule.limit.as_ref().map(|limit| limit.over);
            let connections = self.rule.connections.map(|connections| connections.over);
            let written = [
                (limit, self.written.limit.as_ref().map(RuleLimit::span)),
                (
                    connections,
                    self.written.connections.as_ref().map(|one| one.span),
                ),
            ];
            for (_, span) in written.into_iter().filter(|(over, _)| continues(*over)) {
                sink.report(
                    error(
                        span.unwrap_or(self.rule.span),
                        "this rule continues within its limit and beyond it",
                    )
                    .help("write `over = \"drop\"` or `over = \"reject\"` to throttle")
                    .help("to limit log lines, write `action = \"log\"` with `limit`"),
                );
            }
        }
        if let (Some(written), Some(connections)) =
            (&self.written.connections, self.rule.connections)
            && self.rule.log.is_some()
            && continues(self.rule.limit.as_ref().map(|limit| limit.over))
            && !continues(Some(connections.over))
        {
            sink.report(
                error(
                    written.span,
                    "a rule that logs cannot deny beyond `connections` and continue beyond `limit`",
                )
                .help("give both the same `over`, or write two rules"),
            );
        }
        if let Some(written) = &self.written.connections
            && !matches!(
                self.rule.action,
                RuleAction::Accept | RuleAction::Continue | RuleAction::Block(_)
            )
        {
            sink.report(
                error(written.span, "`connections` on a rule that does not accept")
                    .with_note("it says how many connections the rule lets through"),
            );
        }
    }
}

/// Returns where the keys of a rule's limit are, in words behind a key; nothing for a limit of the rule itself.
fn under_limits(preposition: &str, limit: &RuleLimit) -> String {
    match limit {
        RuleLimit::Own(_) => String::new(),
        RuleLimit::Named(name) => {
            format!(" {preposition} the limit `{}` under [limits]", name.value)
        }
    }
}

fn is_tcp(part: &ServicePart) -> bool {
    match part {
        ServicePart::Ports(ports) => ports.protocol == Protocol::TCP,
        ServicePart::Protocol(protocol) => *protocol == Protocol::TCP,
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => false,
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// Returns `true` if a condition has a set that other programs fill.
fn has_dynamic(plan: &Plan, addresses: &AddressCondition) -> bool {
    let mut sets = addresses.sets.iter().map(|set| &plan.sets[*set].members);
    sets.any(|members| matches!(members, Members::Dynamic { .. }))
}

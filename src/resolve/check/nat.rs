//! Checks `[[nat]]`: entries that can never translate, or not as they are written.

use std::collections::HashMap;

use super::{Checked, Obstacle};
use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{
    AddressRange, AddressSet, Family, IntervalSet, PortRange, Protocol, prefix_length,
};
use crate::policy::{self, CustomTable, NatEnd, Policy, Scope};
use crate::resolve::plan::{
    AddressCondition, Endpoint, NatSide, Plan, PlannedNat, PlannedRule, PlannedTranslation,
    ServicePart, ServicePorts,
};
use crate::source::{Located, Span};

/// Checks the entries of the plan, each by itself. `plan.nat` have the order of `policy.nat`.
pub fn nat(plan: &Plan, policy: &Policy, sound: &[bool], sink: &mut Sink) {
    let written = policy.nat.iter();
    let written = written.filter_map(|written| Some((written, written.translation.as_ref()?)));
    for ((entry, (written, translation)), sound) in plan.nat.iter().zip(written).zip(sound) {
        if *sound {
            let entry = Entry {
                policy,
                plan,
                entry,
                written,
                translation,
            };
            entry.report(sink);
        }
    }
}

/// An entry that is being checked.
struct Entry<'a> {
    policy: &'a Policy,
    plan: &'a Plan,
    entry: &'a PlannedNat,
    written: &'a policy::PolicyNat,
    translation: &'a policy::PolicyTranslation,
}

impl Entry<'_> {
    fn report(&self, sink: &mut Sink) {
        let errors = sink.errors();
        self.places(sink);
        self.negated_places(sink);
        if sink.errors() > errors {
            return;
        }
        self.packets(sink);
        if sink.errors() > errors {
            return;
        }
        match &self.entry.translation {
            PlannedTranslation::Masquerade { .. }
            | PlannedTranslation::Snat(_)
            | PlannedTranslation::Untranslated(NatSide::Source) => {
                self.sources_known(sink);
                if sink.errors() == errors {
                    self.sources_exist(sink);
                }
            }
            PlannedTranslation::Dnat {
                hairpin: Some(beside),
                ..
            } => self.hairpin(beside, sink),
            PlannedTranslation::Dnat { .. }
            | PlannedTranslation::Redirect { .. }
            | PlannedTranslation::Untranslated(NatSide::Destination) => {}
            PlannedTranslation::Netmap { side, to } => {
                if *side == NatSide::Source && self.entry.packets.source.is_none() {
                    self.sources_known(sink);
                }
                if sink.errors() == errors {
                    self.netmap(*side, to, sink);
                }
            }
        }
        self.ports(sink);
        self.choices(sink);
        self.backends_in_place(sink);
    }

    /// Returns `true` if the source changes. That happens in POSTROUTING, where iptables refuses `-i`: the device that a
    /// packet came in by cannot be matched.
    fn is_source(&self) -> bool {
        matches!(
            self.entry.translation,
            PlannedTranslation::Masquerade { .. }
                | PlannedTranslation::Snat(_)
                | PlannedTranslation::Untranslated(NatSide::Source)
                | PlannedTranslation::Netmap {
                    side: NatSide::Source,
                    ..
                }
        )
    }

    /// Reports elements of `from` and `to` that the type does not support.
    fn places(&self, sink: &mut Sink) {
        let span_of = |places: &Option<Vec<Endpoint>>,
                       names: &Option<Vec<Located<String>>>,
                       wanted: &dyn Fn(&Endpoint) -> bool| {
            let at = places.iter().flatten().position(wanted)?;
            names.as_ref()?.get(at).map(|name| name.span)
        };
        let (packets, written) = (&self.entry.packets, &self.written.packets);
        let host = |place: &Endpoint| *place == Endpoint::Host;
        let other = |place: &Endpoint| *place != Endpoint::Host;
        if self.is_source() {
            if let Some(span) = span_of(&packets.from, &written.from, &host) {
                let message = "fwc does not know the source addresses of this host";
                sink.report(
                    Diagnostic::error(Code::NatSourceUnknown, span, message)
                        .help("name them in `source`, and leave `host` out of `from`"),
                );
            }
            let asks = |place: &Endpoint| {
                [true, false]
                    .iter()
                    .any(|with| self.plan.asks_ipsec(*place, *with))
            };
            if let Some(span) = span_of(&packets.from, &written.from, &asks) {
                let message = "a packet that leaves does not show whether it came out of IPsec, as this zone asks";
                sink.report(
                    Diagnostic::error(Code::NatSourceUnknown, span, message)
                        .with_note("sources are translated when a packet leaves; `ipsec` of a zone in `to` is known then")
                        .help("name the addresses in `source`, or set a mark in a [[mangle]] entry with this `from` and match that with `mark`"),
                );
            }
            if let Some(span) = span_of(&packets.to, &written.to, &host) {
                let message = "sources are translated when a packet leaves, but packets to `host` do not leave";
                sink.report(
                    Diagnostic::error(Code::Conflict, span, message)
                        .with_note("`to` is where the packet ends: an interface or a zone"),
                );
            }
        }
        if let PlannedTranslation::Redirect { .. } = self.entry.translation
            && let Some(span) = span_of(&packets.to, &written.to, &other)
        {
            let message = "a redirect ends at this host";
            sink.report(
                Diagnostic::error(Code::Conflict, span, message)
                    .help("leave `to` out; for another host use `dnat`"),
            );
        }
        if self.entry.translation == PlannedTranslation::Untranslated(NatSide::Destination)
            && let Some(span) = span_of(&packets.to, &written.to, &|_| true)
        {
            let message =
                "destinations are translated before routing, when the outgoing device is not known";
            sink.report(Diagnostic::error(Code::Conflict, span, message).help(
                "leave `to` out; `destination` matches the addresses that the packets are sent to",
            ));
        }
        if let PlannedTranslation::Dnat { hairpin, .. } = &self.entry.translation
            && hairpin.is_some()
            && let Some(span) = span_of(&packets.to, &written.to, &host)
        {
            let message = "`hairpin` does not apply to a backend on this host";
            sink.report(
                Diagnostic::error(Code::Conflict, span, message)
                    .with_note("hosts beside this host reach it without a hairpin")
                    .help("name their interface in `from`"),
            );
        }
    }

    /// Reports an entry that no packet matches in the families that it can translate to.
    fn packets(&self, sink: &mut Sink) {
        let own = self.families();
        let any = [Endpoint::Any];
        let from = self.entry.packets.from.as_deref().unwrap_or(&any);
        let to = match self.entry.translation {
            PlannedTranslation::Redirect { .. } => &any,
            _ => self.entry.packets.to.as_deref().unwrap_or(&any),
        };
        let pairs = from
            .iter()
            .flat_map(|from| to.iter().map(|to| (*from, *to)));
        let pairs: Vec<_> = pairs.collect();
        let written = &self.written.packets;
        let mut checked =
            Checked::with_pairs(self.plan, &self.entry.packets, written, pairs.clone());
        let (span, _) = self.target();
        for family in Family::ALL {
            if !own.contains(&family) {
                checked.add_obstacle(family, Obstacle::Translation(span));
            }
        }
        checked.matches_nothing("nat entry", sink);
        checked.negated_masks("a nat entry", sink);
        // The new addresses fix the family like a `scope`: a negated list of that family leaves nothing open in the other.
        let mut packets = self.entry.packets.clone();
        if let [only] = own[..] {
            packets.scope.get_or_insert(Scope::Only(only));
        }
        let checked = Checked::with_pairs(self.plan, &packets, written, pairs);
        checked.negation_one_family(self.plan, sink);
        checked.tcp_flags(sink);
        checked.ipset_scope(sink);
        if let PlannedTranslation::Dnat { .. } | PlannedTranslation::Redirect { .. } =
            self.entry.translation
        {
            checked.ports_before_translation(self.plan, sink);
        }
        // `to` is about the destination after the translation.
        let after = PlannedRule {
            destination: match &self.entry.translation {
                PlannedTranslation::Dnat { backends, .. } => Some(AddressCondition {
                    listed: AddressSet::from_ranges(backends.iter().map(|end| end.addresses)),
                    ..AddressCondition::default()
                }),
                _ => packets.destination.clone(),
            },
            ..packets.clone()
        };
        let places = self.entry.packets.to.iter().flatten();
        let pairs = places.map(|to| (Endpoint::Any, *to)).collect();
        Checked::with_pairs(self.plan, &after, written, pairs).leaves_nothing(self.plan, sink);
        let lines = (CustomTable::Nat, self.chains(), packets.tcp_flags.is_some());
        checked.matches_in(self.policy, lines, sink);
        match self.is_source() {
            true => self.keys_of_leaving(sink),
            false => {
                checked.mac_from_host(sink);
                checked.user_not_from_host(sink);
                self.hairpin_of_user(sink);
            }
        }
    }

    /// Returns the base chains in which the entry asks for its keys.
    fn chains(&self) -> Vec<&'static str> {
        if self.is_source() {
            return vec!["POSTROUTING"];
        }
        let any = [Endpoint::Any];
        let from = self.entry.packets.from.as_deref().unwrap_or(&any);
        let mut chains = Vec::new();
        if from.iter().any(|place| *place != Endpoint::Host) {
            chains.push("PREROUTING");
        }
        if from.contains(&Endpoint::Host) {
            chains.push("OUTPUT");
        }
        chains
    }

    /// Reports negated places of a `dnat` that the packets on its path do not show.
    fn negated_places(&self, sink: &mut Sink) {
        let policy::PolicyTranslation::Dnat { hairpin, .. } = self.translation else {
            return;
        };
        let written = &self.written.packets;
        let from_host = self
            .entry
            .packets
            .from
            .as_ref()
            .is_some_and(|from| from.contains(&Endpoint::Host));
        let first = |names: &Option<Vec<Located<String>>>| Some(names.as_ref()?.first()?.span);
        if let Some(span) = first(&written.not_to)
            && from_host
        {
            let message = "`to` is negated, but packets of this host do not show where they leave after the translation";
            sink.report(
                Diagnostic::error(Code::Conflict, span, message)
                    .help("name in `to` where the backends are, or leave `host` out of `from`"),
            );
        }
        let negated = first(&written.not_from).or(first(&written.not_to));
        if let Some(hairpin) = hairpin.as_ref().filter(|hairpin| hairpin.value)
            && let Some(span) = negated
        {
            let message = "`hairpin` needs the places of the hosts beside a backend, but a negated place leaves some out";
            sink.report(
                Diagnostic::error(Code::Conflict, hairpin.span, message)
                    .also(span, "is negated here")
                    .help("name the zones and interfaces that you mean"),
            );
        }
    }

    /// Reports keys that POSTROUTING does not match, and users of other hosts.
    fn keys_of_leaving(&self, sink: &mut Sink) {
        let written = &self.written.packets;
        if let Some(mac) = &written.mac {
            let message =
                "`mac` is not known when a packet leaves, which is where sources are translated";
            sink.report(
                Diagnostic::error(Code::Conflict, mac.span, message)
                    .help("match addresses in `source`, or set a mark in a [[mangle]] entry with `mac` and match that with `mark`"),
            );
        }
        let from = written.from.iter().flatten();
        let mut others = from.filter(|name| name.value != "any");
        let Some(other) = others.next() else {
            return;
        };
        for (key, account) in [("user", &written.user), ("group", &written.group)] {
            if let Some(account) = account {
                let message = format!("`{key}` is known only for this host's own packets");
                sink.report(
                    Diagnostic::error(Code::UserNotFromHost, account.span, message)
                        .also(other.span, "matches packets of other hosts")
                        .help("leave `from` out"),
                );
            }
        }
    }

    /// Reports a hairpin of packets that only this host sends.
    fn hairpin_of_user(&self, sink: &mut Sink) {
        let policy::PolicyTranslation::Dnat {
            hairpin: Some(hairpin),
            ..
        } = self.translation
        else {
            return;
        };
        let written = &self.written.packets;
        for (key, account) in [("user", &written.user), ("group", &written.group)] {
            if let Some(account) = account.as_ref().filter(|_| hairpin.value) {
                let message = format!(
                    "`hairpin` is for hosts beside a backend, but `{key}` matches this host's own packets only"
                );
                sink.report(
                    Diagnostic::error(Code::Conflict, hairpin.span, message)
                        .also(account.span, "matches no packet of another host")
                        .help("leave `hairpin` out, or write an entry of its own for those hosts"),
                );
            }
        }
    }

    /// Reports `random` and `persistent` where the kernel has nothing to choose from.
    fn choices(&self, sink: &mut Sink) {
        let ends = match &self.entry.translation {
            PlannedTranslation::Snat(ends) => ends,
            PlannedTranslation::Dnat { backends, .. } => backends,
            _ => return,
        };
        let is_dnat = matches!(self.entry.translation, PlannedTranslation::Dnat { .. });
        let several = |family: Family| {
            let here = ends.iter().filter(|end| end.addresses.family == family);
            here.count() > 1
        };
        let is_on = |flag: &&Located<bool>| flag.value;
        if let Some(persistent) = self.written.persistent.as_ref().filter(is_on) {
            let is_range = |end: &NatEnd| end.addresses.first < end.addresses.last;
            if is_dnat && Family::ALL.into_iter().any(several) {
                sink.report(
                    Diagnostic::error(
                        Code::Conflict,
                        persistent.span,
                        "`persistent` does not apply to backends that take turns",
                    )
                    .with_note("each new connection goes to the next backend, whoever opens it")
                    .help("write the backends as one range: \"10.8.0.5-10.8.0.7\""),
                );
            } else if !ends.iter().any(is_range) {
                let (_, key) = self.target();
                let message = format!("`persistent` has no effect: `{key}` has one address");
                sink.report(
                    Diagnostic::error(Code::Conflict, persistent.span, message)
                        .with_note(
                            "it gives a client the same address of a range for all its connections",
                        )
                        .help(
                            "leave `persistent` out, or write a range: \"203.0.113.5-203.0.113.8\"",
                        ),
                );
            }
        }
        let has_choice = |end: &NatEnd| end.ports.is_some_and(|ports| ports.first < ports.last);
        if let Some(random) = self.written.random.as_ref().filter(is_on)
            && is_dnat
            && !ends.iter().any(has_choice)
        {
            let message = "`random` has no effect: `to-destination` has no range of ports";
            sink.report(
                Diagnostic::error(Code::Conflict, random.span, message)
                    .with_note("a `dnat` changes the port only where a new one is written")
                    .help("leave `random` out, or write a range: \"10.8.0.5:8080-8083\""),
            );
        }
    }

    /// Returns the families that the entry translates in: masquerade is IPv4 unless `scope` says otherwise, the other
    /// types have those of their addresses.
    fn families(&self) -> Vec<Family> {
        let scope = self.entry.packets.scope;
        let ends = |ends: &[NatEnd], family| ends.iter().any(|end| end.addresses.family == family);
        let has = |family: &Family| match &self.entry.translation {
            PlannedTranslation::Masquerade { .. } => {
                scope.map_or(*family == Family::V4, |s| s.has(*family))
            }
            PlannedTranslation::Snat(to) => ends(to, *family),
            PlannedTranslation::Dnat { backends, .. } => ends(backends, *family),
            PlannedTranslation::Redirect { .. } | PlannedTranslation::Untranslated(_) => true,
            PlannedTranslation::Netmap { to, .. } => to.iter().any(|to| to.family == *family),
        };
        Family::ALL.into_iter().filter(has).collect()
    }

    /// Returns the families of the entry that its scope includes.
    fn families_in_scope(&self) -> Vec<Family> {
        let scope = self.entry.packets.scope;
        let own = self.families().into_iter();
        own.filter(|family| scope.is_none_or(|scope| scope.has(*family)))
            .collect()
    }

    /// Returns the place of the new address in the policy, and its key.
    fn target(&self) -> (Span, &'static str) {
        use policy::PolicyTranslation as Written;
        let of = |key: &'static str, span: Option<Span>| (span.unwrap_or(self.written.span), key);
        match self.translation {
            Written::Masquerade { .. } | Written::NoSnat | Written::NoDnat => of("type", None),
            Written::Snat { ends, .. } => of("to-source", ends.first().map(|end| end.span)),
            Written::Dnat { backends, .. } => {
                of("to-destination", backends.first().map(|end| end.span))
            }
            Written::Redirect { port, .. } => of("to-port", Some(port.span)),
            Written::NetmapDestination(to) => of("to", to.first().map(|to| to.span)),
            Written::NetmapSource(to) => of("to-source", to.first().map(|to| to.span)),
        }
    }

    /// Reports elements of `from` without known networks. They are matched by `-s`, since a packet that leaves does not
    /// show the device that it came in by. A family that `scope` names must have networks too.
    fn sources_known(&self, sink: &mut Sink) {
        let Some(from) = &self.entry.packets.from else {
            return;
        };
        let names = self.written.packets.from.iter().flatten();
        let families = self.families_in_scope();
        let mut found = FamiliesFound::default();
        for (place, name) in from.iter().zip(names) {
            if *place == Endpoint::Any {
                return;
            }
            let missing = self.missing_networks(*place, &families, &mut found);
            if let Some(interface) = missing {
                let message = match interface == name.value {
                    true => format!("the networks of `{interface}` are not known"),
                    false => format!(
                        "the networks of `{interface}`, which is part of `{}`, are not known",
                        name.value
                    ),
                };
                sink.report(unknown_networks(message, name.span, &families));
                return;
            }
        }
        let wanted = self.entry.packets.scope.is_some();
        for family in families.into_iter().filter(|_| wanted) {
            if !found.has(family) {
                let span = self.written.packets.from.iter().flatten().next();
                let span = span.map_or(self.written.span, |name| name.span);
                let message = format!("`from` has no known {family} networks");
                sink.report(unknown_networks(message, span, &[family]));
            }
        }
    }

    /// Reports a `source` outside the networks of `from`.
    fn sources_exist(&self, sink: &mut Sink) {
        let packets = &self.entry.packets;
        let (Some(from), Some(source)) = (&packets.from, &packets.source) else {
            return;
        };
        let (known, open) = self.plan.known(source);
        let families = self.families_in_scope();
        let exists = |family: &Family| {
            let networks = self.mapped(NatSide::Source, None, *family);
            let known = known.family(*family);
            let common = match source.negated {
                true => networks.difference(known),
                false if open => networks,
                false => networks.intersection(known),
            };
            !common.is_empty()
        };
        if from.contains(&Endpoint::Any) || families.iter().any(exists) {
            return;
        }
        let written = &self.written.packets;
        let span = written.source.as_ref().map(|source| source.span);
        let message = "no packet can match this nat entry";
        let diagnostic = Diagnostic::error(
            Code::MatchesNothing,
            span.unwrap_or(self.written.span),
            message,
        )
        .label("none of these sources");
        let from = written.from.as_ref().and_then(|names| names.first());
        let diagnostic = match from {
            Some(name) => diagnostic.also(name.span, "is in the networks of this"),
            None => diagnostic,
        };
        sink.report(diagnostic.help("leave `from` or `source` out"));
    }

    /// Returns the first interface of `place` without networks in all of `families`, and adds to `found` the families
    /// that have networks.
    fn missing_networks(
        &self,
        place: Endpoint,
        families: &[Family],
        found: &mut FamiliesFound,
    ) -> Option<&str> {
        for member in self.plan.members(place) {
            let interface = member.interface.map(|index| &self.plan.interfaces[index]);
            let in_scope =
                |family: &&Family| interface.is_none_or(|interface| interface.scope.has(**family));
            let mut some = false;
            for family in families.iter().filter(in_scope) {
                let has = match (&member.networks, interface) {
                    (Some(networks), _) => !networks.family(*family).is_empty(),
                    (None, Some(interface)) => {
                        let mut networks = interface.networks.iter();
                        networks.any(|network| network.family == *family)
                    }
                    (None, None) => true,
                };
                some |= has;
                found.add(*family, has);
            }
            if let Some(interface) = interface.filter(|_| !some) {
                return Some(&interface.name);
            }
        }
        None
    }

    /// Reports a hairpin without networks: hosts beside a backend are matched by their addresses.
    fn hairpin(&self, beside: &[Endpoint], sink: &mut Sink) {
        let policy::PolicyTranslation::Dnat {
            hairpin: Some(written),
            ..
        } = self.translation
        else {
            return;
        };
        let families = self.families_in_scope();
        let mut found = FamiliesFound::default();
        let missing = beside.iter().find_map(|place| match place {
            Endpoint::Any => Some("any"),
            place => self.missing_networks(*place, &families, &mut found),
        });
        let message = match missing {
            None if beside.is_empty() => {
                "`hairpin`: no interface has a network that contains a backend".to_owned()
            }
            Some("any") => {
                "`hairpin` with `to = \"any\"`: the hosts beside a backend are not known".to_owned()
            }
            Some(name) => format!("`hairpin`: the networks of `{name}` are not known"),
            None => return,
        };
        sink.report(unknown_networks(message, written.span, &families));
    }

    /// Reports a netmap whose prefixes have different lengths: NETMAP replaces the prefix and keeps the host bits.
    fn netmap(&self, side: NatSide, to: &[AddressRange], sink: &mut Sink) {
        let packets = &self.entry.packets;
        let (key, asked, written) = match side {
            NatSide::Source => ("source", &packets.source, &self.written.packets.source),
            NatSide::Destination => (
                "destination",
                &packets.destination,
                &self.written.packets.destination,
            ),
        };
        if asked.is_none() && side == NatSide::Destination {
            let message = "a netmap needs `destination`, the network that is mapped";
            sink.report(
                Diagnostic::error(Code::MissingKey, self.written.span, message)
                    .help("a prefix of the same length as `to`; sources are mapped by `to-source`"),
            );
            return;
        }
        let (span, target) = self.target();
        let place = written.as_ref().map(|written| written.span);
        if let (Some(place), Some(asked)) = (place, asked)
            && !asked.masks.is_empty()
        {
            let message = format!("`{key}` of a netmap cannot have a mask: it is one prefix");
            sink.report(
                Diagnostic::error(Code::NatSizesDiffer, place, message)
                    .help(format!("write a prefix of the same length as `{target}`")),
            );
            return;
        }
        let place = place.or_else(|| Some(self.written.packets.from.as_ref()?.first()?.span));
        for to in to {
            let Some(length) = prefix_length(to.family, to.first, to.last) else {
                continue; // the reader accepts prefixes only
            };
            let mapped = self.mapped(side, asked.as_ref(), to.family);
            if mapped.is_empty() {
                continue; // the entry has nothing in the family
            }
            let same = match mapped.intervals() {
                [(first, last)] => prefix_length(to.family, *first, *last) == Some(length),
                _ => false,
            };
            let is_plain = asked
                .as_ref()
                .is_none_or(|asked| !asked.negated && asked.sets.is_empty());
            if !same || !is_plain {
                let message = format!(
                    "`{target}` is a /{length}, but the addresses that it replaces are not"
                );
                let diagnostic = Diagnostic::error(Code::NatSizesDiffer, span, message);
                let diagnostic = match place {
                    Some(place) => diagnostic.also(place, "this is mapped"),
                    None => diagnostic,
                };
                sink.report(diagnostic.with_note(format!(
                    "each address becomes the one with the same host bits: `{key}` is one prefix of the same length"
                )));
                return;
            }
        }
    }

    /// Returns the addresses that a netmap maps in a family.
    fn mapped(
        &self,
        side: NatSide,
        asked: Option<&AddressCondition>,
        family: Family,
    ) -> IntervalSet {
        if let Some(asked) = asked {
            let (known, _) = self.plan.known(asked);
            return known.family(family).clone();
        }
        let mut all = IntervalSet::empty();
        if side == NatSide::Source {
            for place in self.entry.packets.from.iter().flatten() {
                for member in self.plan.members(*place) {
                    let networks = match (&member.networks, member.interface) {
                        (Some(networks), _) => networks.family(family).clone(),
                        (None, Some(index)) => {
                            let networks = self.plan.interfaces[index].networks.iter();
                            let own = networks.filter(|network| network.family == family);
                            IntervalSet::from_intervals(own.map(|n| (n.first, n.last)))
                        }
                        (None, None) => IntervalSet::empty(),
                    };
                    all = all.union(&networks);
                }
            }
        }
        all
    }

    /// Reports new ports without a `service` that has ports: iptables accepts ports in a target only behind `-p tcp` and
    /// its like.
    fn ports(&self, sink: &mut Sink) {
        use policy::PolicyTranslation as Written;
        let ends = |ends: &[Located<policy::PolicyNatEnd>]| {
            let ports = ends.iter();
            let ports = ports.filter_map(|end| Some((end.value.ports?, end.span)));
            ports.collect::<Vec<_>>()
        };
        let (_, target) = self.target();
        let (key, ports) = match self.translation {
            Written::Masquerade { ports: Some(ports) }
            | Written::Snat {
                ports: Some(ports), ..
            } => ("ports", vec![(ports.value, ports.span)]),
            Written::Snat {
                ends: to,
                ports: None,
            } => (target, ends(to)),
            Written::Dnat { backends, .. } => (target, ends(backends)),
            Written::Redirect { port, .. } => {
                let (first, last) = (port.value, port.value);
                (target, vec![(PortRange { first, last }, port.span)])
            }
            _ => return,
        };
        let Some((_, span)) = ports.first() else {
            return;
        };
        let parts = self.entry.packets.service.as_deref().unwrap_or_default();
        let bad = parts.iter().find(|part| !has_new_ports(part));
        if parts.is_empty() || bad.is_some() {
            let message = match (self.written.packets.service.is_some(), key) {
                (false, "ports") => "`ports` needs a `service` with ports".to_owned(),
                (true, "ports") => "`ports`, but not all of `service` have ports".to_owned(),
                (false, _) => format!("`{key}` has a port, but the entry has no `service`"),
                (true, _) => format!("`{key}` has a port, but not all of `service` has ports"),
            };
            let diagnostic = Diagnostic::error(Code::NatPortWithoutService, *span, message);
            let service = self.written.packets.service.as_ref();
            let diagnostic = match service.and_then(|items| items.first()) {
                Some(item) => diagnostic.also(item.span, "the service"),
                None => diagnostic,
            };
            sink.report(diagnostic.help(
                "name services of tcp, udp, sctp or dccp only: nothing else has a port that could change",
            ));
            return;
        }
        // A random port of the range is not counted from the first one.
        if let Written::Dnat { .. } = self.translation
            && !self.entry.random
        {
            for (ports, span) in ports.iter().filter(|(ports, _)| ports.first < ports.last) {
                self.range_for_range(*ports, *span, parts, sink);
            }
        }
    }

    /// Reports a range of new ports if a range of the service has another length.
    fn range_for_range(
        &self,
        ports: PortRange,
        span: Span,
        parts: &[ServicePart],
        sink: &mut Sink,
    ) {
        let length = u128::from(ports.last - ports.first);
        let mut by_protocol: HashMap<Protocol, Vec<(u128, u128)>> = HashMap::new();
        let mut all_ranges = true;
        for part in parts {
            match part {
                ServicePart::Ports(ServicePorts {
                    protocol,
                    destination: Some(ports),
                    ..
                }) => {
                    let known = by_protocol.entry(*protocol).or_default();
                    known.extend(ports.intervals());
                }
                _ => all_ranges = false,
            }
        }
        let fits = by_protocol.into_values().all(|ports| {
            let ports = IntervalSet::from_intervals(ports);
            let mut intervals = ports.intervals().iter();
            intervals.all(|(first, last)| last - first == length)
        });
        if all_ranges && fits {
            return;
        }
        let message = format!(
            "`to-destination` has {} ports, but a part of `service` has another number",
            length + 1
        );
        let service = self.written.packets.service.as_ref();
        let service = service.and_then(|items| items.first());
        let diagnostic = Diagnostic::error(Code::NatSizesDiffer, span, message);
        let diagnostic = match service {
            Some(item) => diagnostic.also(item.span, "the service"),
            None => diagnostic,
        };
        sink.report(diagnostic.help(
            "ports are translated range for range, the first to the first: name ranges of the same length, or one port",
        ));
    }

    /// Reports a backend outside the networks of `to`: the filter table would accept nothing of the entry.
    fn backends_in_place(&self, sink: &mut Sink) {
        let (
            Some(to),
            policy::PolicyTranslation::Dnat {
                backends: written, ..
            },
            PlannedTranslation::Dnat { backends, .. },
        ) = (
            &self.entry.packets.to,
            self.translation,
            &self.entry.translation,
        )
        else {
            return;
        };
        let members = || to.iter().flat_map(|place| self.plan.members(*place));
        for backend in backends {
            let addresses = backend.addresses;
            let own = IntervalSet::from_intervals([(addresses.first, addresses.last)]);
            let fits = members().any(|member| {
                member.networks.is_none_or(|networks| {
                    let common = networks.family(addresses.family).intersection(&own);
                    common == own
                })
            });
            if !fits {
                let message = format!("`{addresses}` is outside the networks of `to`");
                let name = self.written.packets.to.iter().flatten().next();
                // A backend of a group has no place of its own in the entry.
                let literal = policy::PolicyNatAddress::Literal(addresses);
                let mut written = written.iter();
                let place = written.find(|end| end.value.address == literal);
                let place = place.map_or(self.target().0, |end| end.span);
                let diagnostic = Diagnostic::error(Code::MatchesNothing, place, message);
                let diagnostic = match name {
                    Some(name) => diagnostic.also(name.span, "does not have the address"),
                    None => diagnostic,
                };
                sink.report(
                    diagnostic.help(
                        "nothing would be accepted: name the backend's zone, or leave `to` out",
                    ),
                );
            }
        }
    }
}

/// The families in which networks were found.
#[derive(Default)]
struct FamiliesFound(Vec<Family>);

impl FamiliesFound {
    fn add(&mut self, family: Family, found: bool) {
        if found && !self.has(family) {
            self.0.push(family);
        }
    }

    fn has(&self, family: Family) -> bool {
        self.0.contains(&family)
    }
}

fn unknown_networks(message: String, span: Span, families: &[Family]) -> Diagnostic {
    let example = match families {
        [Family::V6] => "fd12:3456::/64",
        _ => "192.168.1.0/24",
    };
    Diagnostic::error(Code::NatSourceUnknown, span, message).help(format!(
        "give the interface its networks, since a packet that leaves does not show where it came in: \
         `lan = {{ device = \"eth1\", networks = [\"{example}\"] }}`"
    ))
}

/// Returns `true` if the kernel can translate the ports of a part (`xt_nat.c`). It cannot for udplite.
fn has_new_ports(part: &ServicePart) -> bool {
    let protocol = match part {
        ServicePart::Ports(ports) => ports.protocol,
        ServicePart::Protocol(protocol) => *protocol,
        ServicePart::Icmp(_) | ServicePart::Icmpv6(_) | ServicePart::EveryIcmp(_) => return false,
    };
    protocol.has_ports() && protocol != Protocol::UDPLITE
}

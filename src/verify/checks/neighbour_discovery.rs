//! Neighbour discovery: with `icmp = "none"` the rules themselves must accept it, or IPv6 stops working.
//!
//! The check compares packet sets instead of keys, so a rule that accepts only at some times, below some rate or for some
//! process does not count as accepting.

use std::collections::BTreeSet;

use crate::analysis::{Field, GaveUp, NO_MAC, Path, Set, Space, Split, Verdict};
use crate::diag::{Code, Diagnostic, Sink};
use crate::iptables::TableName;
use crate::net::{Family, Hook, Protocol, State};
use crate::policy::{DefaultAction, Icmp, Policy};
use crate::resolve::Plan;
use crate::verify::condition::Condition;
use crate::verify::spec::matching::{PacketEnd, circumstances, dynamic, ends_of_members, in_set};
use crate::verify::spec::{Spec, spec};

/// Reports the messages of neighbour discovery that a chain with a default of drop or reject does not accept from
/// and to every ordinary neighbour, on every interface and in all circumstances.
pub(super) fn check(policy: &Policy, plan: &Plan, sink: &mut Sink) -> Result<(), GaveUp> {
    let defaults = &plan.defaults[Family::V6];
    let hooks = [Hook::Input, Hook::Output].into_iter();
    let mut hooks = hooks
        .filter(|hook| defaults.icmp[*hook] == Icmp::None)
        .filter(|hook| {
            matches!(
                defaults.actions[*hook],
                DefaultAction::Drop | DefaultAction::Reject
            )
        })
        .peekable();
    // A host without IPv6 has no neighbours to discover.
    if hooks.peek().is_none() || !plan.defaults.families.has(Family::V6) {
        return Ok(());
    }
    let space = Space::new(Family::V6);
    let spec = spec(plan, &space)?;
    // Without any packet to exchange there is no need to know one's neighbours: IPv6 is closed on purpose.
    if accepts_nothing(&space, &spec)? {
        return Ok(());
    }
    let routes = routes(&space, &spec)?;
    for hook in hooks {
        let chain = Chain {
            plan,
            space: &space,
            spec: &spec,
            hook,
        };
        let (mut missing, mut accepting) = (Vec::new(), BTreeSet::new());
        for message in &MESSAGES {
            let sent = chain.sent(message)?;
            if chain.is_denied(message, sent)? {
                missing.push(message.kind.to_string());
                accepting.extend(chain.rules_that_accept(sent)?);
            }
        }
        let of_routers = MESSAGES
            .iter()
            .filter(|message| message.of_routers == Some(hook));
        let of_routers: Vec<String> = of_routers.map(|one| one.kind.to_string()).collect();
        let only_of_routers = missing == of_routers;
        let types = match &missing[..] {
            [] => continue,
            _ if only_of_routers && !routes => continue,
            [one] => format!("type {one}"),
            more => format!("types {}", more.join(", ")),
        };
        let written = policy.defaults.place(Family::V6, |keys| &keys.icmp[hook]);
        let preamble = policy.defaults.no_preamble.as_ref();
        let (key, span) = match (written, preamble) {
            (Some(span), _) => ("icmp", Some(span)),
            (None, preamble) => ("preamble", preamble.map(|preamble| preamble.span)),
        };
        // `none` is written, by one of the two keys.
        let Some(span) = span else {
            continue;
        };
        let message = format!(
            "`{key} = \"none\"`, and the rules do not always accept the ICMPv6 {types} in {hook}"
        );
        // A host with static addresses behind it need not advertise itself, which no policy shows.
        let (mut finding, why) = match only_of_routers {
            true => (
                Diagnostic::note(Code::IcmpNone, span, message),
                "a router that advertises itself needs 133 in INPUT and 134 in OUTPUT",
            ),
            false => (
                Diagnostic::error(Code::IcmpNone, span, message),
                "without neighbour discovery (133 to 136) IPv6 stops working",
            ),
        };
        for rule in accepting {
            finding = finding.also(plan.rules[rule].span, "accepts some of them, not all");
        }
        let from = match hook {
            Hook::Output => "from = \"host\"",
            Hook::Input | Hook::Forward => "from = \"any\"",
        };
        sink.report(
            finding
                .with_note(why)
                .help(format!(
                    "accept them with `{from}` and `service` alone: on every interface, at any time and rate; \
                     or set `icmp = \"essential-no-ping\"`"
                )),
        );
    }
    Ok(())
}

/// Returns `true` if no chain accepts a packet that leaves this host or comes from elsewhere.
fn accepts_nothing(space: &Space, spec: &Spec) -> Result<bool, GaveUp> {
    let lo = [space.in_device("lo")?, space.out_device("lo")?];
    for hook in Hook::ALL {
        let flow = spec.behaviour.flow(space, (TableName::Filter, hook.into()));
        let accepted = space.decided(flow.verdicts, &Verdict::Accept)?;
        if space.minus(accepted, space.any(lo)?)? != space.none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns `true` if new connections may pass through this host, which is a router then.
fn routes(space: &Space, spec: &Spec) -> Result<bool, GaveUp> {
    let place = (TableName::Filter, Hook::Forward.into());
    let accepted = space.decided(spec.behaviour.flow(space, place).verdicts, &Verdict::Accept)?;
    Ok(space.and(accepted, space.as_state(State::New)?)? != space.none())
}

/// Addresses, from the first to the last.
type Addresses = (u128, u128);

const UNSPECIFIED: Addresses = (0, 0);
const LINK_LOCAL: Addresses = (0xfe80 << 112, (0xfec0 << 112) - 1);
const GLOBAL: Addresses = (0x2000 << 112, (0x4000 << 112) - 1);
const ALL_NODES: Addresses = (0xff02 << 112 | 1, 0xff02 << 112 | 1);
const ALL_ROUTERS: Addresses = (0xff02 << 112 | 2, 0xff02 << 112 | 2);
/// `ff02::1:ff00:0/104`
const SOLICITED_NODE: Addresses = (
    0xff02 << 112 | 0x0001_ff00_0000,
    0xff02 << 112 | 0x0001_ffff_ffff,
);

/// A type of neighbour discovery, and between which addresses it is sent (RFC 4861, section 4).
struct Message {
    kind: u8,
    /// The hook that only a router needs the message in: hosts discard solicitations of routers (RFC 4861, section 6.2.6),
    /// and send no advertisements.
    of_routers: Option<Hook>,
    sources: &'static [Addresses],
    destinations: &'static [Addresses],
}

const MESSAGES: [Message; 4] = [
    Message {
        kind: 133, // router solicitation
        of_routers: Some(Hook::Input),
        sources: &[UNSPECIFIED, LINK_LOCAL],
        destinations: &[ALL_ROUTERS],
    },
    Message {
        kind: 134, // router advertisement
        of_routers: Some(Hook::Output),
        sources: &[LINK_LOCAL],
        destinations: &[ALL_NODES, LINK_LOCAL],
    },
    Message {
        kind: 135, // neighbour solicitation; from `::` to find out whether an address is taken
        of_routers: None,
        sources: &[UNSPECIFIED, LINK_LOCAL, GLOBAL],
        destinations: &[SOLICITED_NODE, LINK_LOCAL, GLOBAL],
    },
    Message {
        kind: 136, // neighbour advertisement
        of_routers: None,
        sources: &[LINK_LOCAL, GLOBAL],
        destinations: &[ALL_NODES, LINK_LOCAL, GLOBAL],
    },
];

/// Matches of custom rules that sometimes hold and sometimes not.
const NOW_AND_THEN: [&str; 7] = [
    "-m connlimit ",
    "-m hashlimit ",
    "-m limit ",
    "-m quota ",
    "-m recent ",
    "-m statistic ",
    "-m time ",
];
/// Matches of custom rules that select certain hosts or processes.
const PICKS_OUT: [&str; 3] = ["-m owner ", "-m policy ", "-m set "];

/// The answer of an ordinary neighbour's packets to a condition that a packet alone does not answer.
enum Circumstance {
    /// It sometimes holds and sometimes not, such as a rate or a time.
    NowAndThen,
    /// It never holds: it selects certain hosts or processes, but the kernel itself sends neighbour discovery.
    Never,
    /// It may hold for all neighbours or for none.
    Unknown,
}

/// A base chain whose default is drop or reject.
struct Chain<'a> {
    plan: &'a Plan,
    space: &'a Space,
    spec: &'a Spec,
    hook: Hook,
}

impl Chain<'_> {
    /// Returns the packets of a message type as they arrive at this host or leave it: without a mark, and with the hop limit
    /// 255 that receivers require (RFC 4861).
    fn sent(&self, message: &Message) -> Result<Set, GaveUp> {
        let space = self.space;
        let link = match self.hook {
            Hook::Output => space.out_device("lo")?,
            Hook::Input | Hook::Forward => space.in_device("lo")?,
        };
        space.every([
            space.valid(self.hook.into())?,
            space.not(link)?,
            // Connection tracking leaves them alone (`nf_conntrack_proto_icmpv6.c`).
            space.states(&[State::Untracked])?,
            space.protocol(Protocol::ICMPV6)?,
            space.icmp_codes(message.kind, 0, 0)?,
            space.range(Field::HopLimit, 255, 255)?,
            space.range(Field::Fragment, 0, 0)?,
            space.mark(0, u32::MAX)?,
            space.connection_mark(0, u32::MAX)?,
        ])
    }

    /// Returns `true` if some of these packets from or to an ordinary neighbour are not accepted, on some interface and in
    /// some circumstances.
    fn is_denied(&self, message: &Message, sent: Set) -> Result<bool, GaveUp> {
        let space = self.space;
        let behaviour = self.spec.behaviour.silent();
        let path = Path::of(space, &behaviour, self.hook, sent)?;
        let denied = path.may(space, |end| end.verdict != Verdict::Accept)?;
        let denied = self.in_some_circumstances(denied)?;
        // Packets that this host sends have no MAC address in OUTPUT.
        let is_end = |field| match field {
            Field::Source | Field::Destination => true,
            Field::Mac => self.hook != Hook::Output,
            _ => false,
        };
        let denied = space.project(denied, is_end)?;
        let ends = message.sources.iter().flat_map(|source| {
            let destinations = message.destinations.iter();
            destinations.map(move |destination| (*source, *destination))
        });
        Ok(ends
            .into_iter()
            .any(|(source, destination)| has_ordinary(space, denied, source, destination)))
    }

    /// Returns the packets that are in a set under some circumstances of an ordinary neighbour.
    fn in_some_circumstances(&self, mut set: Set) -> Result<Set, GaveUp> {
        let space = self.space;
        let own = self.own_conditions()?;
        let opaque = |set| {
            let fields = space.support(set).into_iter();
            fields.filter_map(|field| match field {
                Field::Opaque(number) => Some((field, number)),
                _ => None,
            })
        };
        for (field, number) in opaque(set) {
            let known = own.iter().find(|(own, _)| *own == field);
            let circumstance = match known {
                Some((_, true)) => Circumstance::NowAndThen,
                Some((_, false)) => Circumstance::Never,
                None => of_custom(&space.opaque_key(number).unwrap_or_default()),
            };
            match circumstance {
                Circumstance::NowAndThen => {}
                Circumstance::Never => set = space.with(set, field, 0)?,
                Circumstance::Unknown => {
                    let others = space.project(space.not(set)?, |other| other != field)?;
                    set = space.not(others)?;
                }
            }
        }
        space.project(set, |field| !matches!(field, Field::Opaque(_)))
    }

    /// Returns the conditions that keys of the policy create, and for each whether it sometimes holds for every packet
    /// (`true`) or never holds for neighbours (`false`).
    fn own_conditions(&self) -> Result<Vec<(Field, bool)>, GaveUp> {
        let plan = self.plan;
        let mut all = vec![Condition::FromIpsec, Condition::IntoIpsec];
        all.extend(self.spec.limits.values().cloned());
        all.extend(self.spec.connections.values().cloned());
        all.extend(self.spec.counted.values().flatten().cloned());
        let entries = plan.nat.iter().map(|entry| &entry.packets);
        let entries = entries.chain(plan.mangle.iter().map(|entry| &entry.packets));
        let entries = entries.chain(plan.raw.iter().map(|entry| &entry.packets));
        for rule in plan.rules.iter().chain(entries) {
            all.extend(circumstances(rule));
            for (addresses, side) in [
                (&rule.source, PacketEnd::From),
                (&rule.destination, PacketEnd::To),
            ] {
                let sets = addresses.iter().flat_map(|all| dynamic(plan, all));
                all.extend(sets.map(|(name, kind)| {
                    in_set(name, ends_of_members(kind, side, false), Family::V6)
                }));
            }
        }
        let mut fields = Vec::new();
        for condition in all {
            let set = condition.set(self.space)?;
            let support = self.space.support(set).into_iter();
            fields.extend(support.map(|field| (field, condition.usual())));
        }
        Ok(fields)
    }

    /// Returns the rules that accept some of these packets.
    fn rules_that_accept(&self, sent: Set) -> Result<Vec<usize>, GaveUp> {
        let mut rules = Vec::new();
        for decision in self.spec.decisions.get(&self.hook).into_iter().flatten() {
            let Some(rule) = decision
                .rule
                .filter(|_| decision.verdict == Some(Verdict::Accept))
            else {
                continue;
            };
            if self.space.and(decision.set, sent)? != self.space.none() {
                rules.push(rule);
            }
        }
        Ok(rules)
    }
}

/// Classifies an opaque condition of a custom rule by its key.
fn of_custom(key: &str) -> Circumstance {
    let begins = |all: &[&str]| all.iter().any(|start| key.starts_with(start));
    if begins(&NOW_AND_THEN) {
        Circumstance::NowAndThen
    } else if begins(&PICKS_OUT) {
        Circumstance::Never
    } else {
        Circumstance::Unknown
    }
}

/// Returns `true` if a set has the packets between ordinary hosts of these address ranges: hosts in the largest part that the
/// rules treat alike. A host that a rule names, for example to block it, is not ordinary.
fn has_ordinary(space: &Space, set: Set, sources: Addresses, destinations: Addresses) -> bool {
    match space.split(set) {
        Split::None => false,
        Split::All => true,
        Split::By(field, runs) => {
            let (first, last) = match field {
                Field::Source => sources,
                Field::Destination => destinations,
                _ => (0, NO_MAC),
            };
            let parts = runs.into_iter().filter_map(|(from, to, rest)| {
                let (from, to) = (from.max(first), to.min(last));
                (from <= to).then(|| (to - from, rest))
            });
            let most = parts.max_by_key(|(size, _)| *size);
            most.is_some_and(|(_, rest)| has_ordinary(space, rest, sources, destinations))
        }
    }
}

//! Reports rules whose keys no packet can match together.

use crate::diag::{Code, Diagnostic, Sink};
use crate::net::{AddressSet, Family};
use crate::policy::Scope;
use crate::resolve::plan::{AddressCondition, Endpoint, Plan, PlannedRule, ServicePart};
use crate::source::Span;

use super::Checked;

/// The key because of which a rule matches nothing in a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    Scope,
    Places,
    Source,
    Destination,
    Service,
    Original,
    /// A nat entry has no new address in the family; the place of its addresses.
    Translation(Span),
}

impl Obstacle {
    /// Returns the label for the place of the obstacle.
    fn words(self, family: Family) -> String {
        match self {
            Self::Scope => format!("leaves out {family}"),
            Self::Places => format!("nothing of {family} that fits"),
            Self::Source | Self::Destination | Self::Original => format!("no {family} address"),
            Self::Service => format!("nothing of {family}"),
            Self::Translation(_) => format!("translates nothing of {family}"),
        }
    }
}

impl Checked<'_> {
    /// Reports a rule that matches nothing in either family. One family is enough: `one_family` warns about that.
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
        sink.report(diagnostic.with_note(format!(
            "a packet must match all keys of a {what}: there must be a family in which each key matches something"
        )));
    }

    /// Returns the place of the obstacle in the policy.
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
            Some(Obstacle::Original) => {
                let written = self.written.original.as_ref();
                let destination = written.and_then(|written| written.destination.as_ref());
                destination.map(|destination| destination.span)
            }
            Some(Obstacle::Places) => places(),
            Some(Obstacle::Translation(span)) => Some(span),
            Some(Obstacle::Scope) => self.written.scope.as_ref().map(|scope| scope.span),
            None => None,
        };
        span.unwrap_or(self.rule.span)
    }
}

/// Returns the first key because of which the rule matches nothing in a family; `None` if it matches something.
pub(super) fn obstacle(
    plan: &Plan,
    rule: &PlannedRule,
    pairs: &[(Endpoint, Endpoint)],
    family: Family,
) -> Option<Obstacle> {
    let open_side = |place: Endpoint, addresses: &Option<AddressCondition>| {
        let mut members = plan.members(place).into_iter();
        members.any(|member| {
            let scope = member
                .interface
                .map_or(Scope::Dual, |index| plan.interfaces[index].scope);
            scope.has(family)
                && !disjoint(plan, addresses.as_ref(), member.networks.as_ref(), family)
        })
    };
    let open_pair = |(from, to): &(Endpoint, Endpoint)| {
        open_side(*from, &rule.source) && open_side(*to, &rule.destination)
    };
    let no_addresses = |addresses: &Option<AddressCondition>| {
        addresses
            .as_ref()
            .is_some_and(|addresses| plan.excludes_all(addresses, None, family))
    };
    let part_exists = |part: &ServicePart| match part {
        ServicePart::Ports(_) | ServicePart::Protocol(_) => true,
        ServicePart::Icmp(_) => family == Family::V4,
        ServicePart::Icmpv6(_) => family == Family::V6,
        ServicePart::EveryIcmp(of) => family == *of,
    };
    if rule.scope.is_some_and(|scope| !scope.has(family)) {
        Some(Obstacle::Scope)
    } else if no_addresses(&rule.source) {
        Some(Obstacle::Source)
    } else if no_addresses(&rule.destination) {
        Some(Obstacle::Destination)
    } else if rule
        .original
        .as_ref()
        .is_some_and(|original| no_addresses(&original.destination))
    {
        Some(Obstacle::Original)
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

/// Returns `true` if the addresses and the networks of a zone have nothing in common.
fn disjoint(
    plan: &Plan,
    addresses: Option<&AddressCondition>,
    networks: Option<&AddressSet>,
    family: Family,
) -> bool {
    let Some(networks) = networks else {
        return false; // the addresses alone are judged elsewhere
    };
    match addresses {
        Some(addresses) => plan.excludes_all(addresses, Some(networks), family),
        None => networks.family(family).is_empty(),
    }
}

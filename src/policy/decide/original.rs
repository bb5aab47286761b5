//! Decides whether the first packet of a packet's connection matches `original`.

use super::{Circumstance, Evaluation, services};
use crate::net::{AddressRange, Family, IntervalSet, PortRange, Protocol, State};
use crate::policy::{AddressItem, Policy, PolicyOriginal};
use crate::source::Located;

impl Evaluation<'_> {
    /// Returns `true` if the packet has a connection, goes in the direction of its first packet, and that packet was sent to
    /// the destination and service.
    pub(super) fn was_sent_to(&self, original: &PolicyOriginal) -> bool {
        let PolicyOriginal {
            span: _,
            destination,
            service,
        } = original;
        let family = self.packet.family;
        let everything = (0, family.last_address());
        let tracked = match self.packet.state {
            State::New | State::Established | State::Related => true,
            State::Invalid | State::Untracked => false,
        };
        let is_in = |(first, last): (u128, u128)| {
            let range = AddressRange {
                family,
                first,
                last,
            };
            (first, last) == everything || (self.holds)(Circumstance::OriginalDestination(range))
        };
        let goes_to = |protocol: Protocol, first: u128, last: u128| {
            let port = |number: u128| u16::try_from(number).unwrap_or(u16::MAX);
            let ports = PortRange {
                first: port(first),
                last: port(last),
            };
            (self.holds)(Circumstance::OriginalPort { protocol, ports })
        };
        tracked
            && (self.holds)(Circumstance::OriginalDirection)
            && destination.as_ref().is_none_or(|written| {
                let meant = addresses(self.policy, &written.items, family);
                meant.intervals().iter().copied().any(is_in) != written.negated
            })
            && service.as_ref().is_none_or(|items| {
                Protocol::WITH_PORTS.into_iter().any(|protocol| {
                    let ranges = services::ranges(self.policy, items, protocol);
                    let ranges = ranges.iter().map(|one| (one.first.into(), one.last.into()));
                    let ports = IntervalSet::from_intervals(ranges);
                    let mut ports = ports.intervals().iter();
                    ports.any(|(first, last)| goes_to(protocol, *first, *last))
                })
            })
    }
}

/// Returns the addresses of a family that are among the items. `original` has no sets.
fn addresses(policy: &Policy, items: &[Located<AddressItem>], family: Family) -> IntervalSet {
    let mut all = IntervalSet::default();
    for item in items {
        let more = match &item.value {
            AddressItem::Literal(range) if range.family == family => {
                IntervalSet::from_intervals([(range.first, range.last)])
            }
            // `original` takes no masks.
            AddressItem::Literal(_) | AddressItem::Mask(_) => continue,
            AddressItem::Name(name) => match policy.addresses.get(name) {
                Some(group) => addresses(policy, &group.value.include, family)
                    .difference(&addresses(policy, &group.value.exclude, family)),
                None => continue,
            },
        };
        all = all.union(&more);
    }
    all
}

//! The packets that routing can take to a hook, by their destination.

use super::condition::Condition;
use crate::analysis::{Exchanged, Field, GaveUp, Path, Set, Space, after_translation};
use crate::iptables::{NatKind, TableName};
use crate::net::{Hook, IntervalSet};
use crate::resolve::{Plan, PlannedRule};

/// The path of the packets of a test or of a cell of the matrix.
pub(super) struct Routed<'a> {
    plan: &'a Plan,
    space: &'a Space,
    path: &'a Path,
    keys: &'a PlannedRule,
}

impl<'a> Routed<'a> {
    pub fn new(plan: &'a Plan, space: &'a Space, path: &'a Path, keys: &'a PlannedRule) -> Self {
        Self {
            plan,
            space,
            path,
            keys,
        }
    }

    /// Returns the packets of a set that routing can take to the hook: packets with an address of this host as destination
    /// are never forwarded, and all others never reach INPUT (but broadcast and multicast do).
    pub fn possible(&self, packets: Set) -> Result<Set, GaveUp> {
        let space = self.space;
        if self.path.hook == Hook::Output {
            return Ok(packets);
        }
        let mut possible = packets;
        if self.path.hook == Hook::Forward {
            // REDIRECT sends packets to this host.
            let is_redirected = |end: &&crate::analysis::PathEnd| match &end.change.destination {
                Exchanged::By(translation) => translation.nat().kind == NatKind::Redirect,
                _ => false,
            };
            let redirected = self.path.ends.iter().filter(is_redirected);
            let redirected = space.any(redirected.map(|end| end.packets))?;
            possible = space.minus(possible, redirected)?;
        }
        let key = Condition::ToThisHost.key(space.family());
        let filter = (TableName::Filter, self.path.hook.into());
        let straight = self.path.straight(space, filter)?;
        if let Some(here) = self.asked(&key)? {
            possible = space.and(possible, space.or(self.fits(here)?, space.not(straight)?)?)?;
        }
        if let Some(here) = self.asked(&after_translation(&key))? {
            possible = space.and(possible, space.or(self.fits(here)?, straight)?)?;
        }
        Ok(possible)
    }

    /// Returns the set of a condition; `None` if nothing depends on it. Asking the space for the set would create the
    /// condition.
    fn asked(&self, key: &str) -> Result<Option<Set>, GaveUp> {
        let mut keys = (0..).map_while(|number| self.space.opaque_key(number));
        match keys.any(|known| known == key) {
            true => self.space.opaque(key).map(Some),
            false => Ok(None),
        }
    }

    /// Returns the packets whose destination fits the hook; `here` has those with an address of this host as destination.
    fn fits(&self, here: Set) -> Result<Set, GaveUp> {
        let space = self.space;
        match self.path.hook {
            Hook::Forward => space.not(here),
            // Broadcast and multicast packets reach INPUT too.
            _ => space.or(here, space.range(Field::PacketType, 1, 2)?),
        }
    }

    /// Returns the packets of a set that a test means which expects `accept` and names a destination. If they are only
    /// translated to where the test says when that destination is an address of this host, then the test means a host that
    /// has it, unless the address is in a network of the policy.
    pub fn meant(&self, fits: Set) -> Result<Set, GaveUp> {
        let space = self.space;
        let named = self.keys.destination.as_ref();
        let key = Condition::ToThisHost.key(space.family());
        let Some(here) = self.asked(&key)? else {
            return Ok(fits);
        };
        if named.is_none_or(|named| named.negated) {
            return Ok(fits);
        }
        let [field] = space.support(here)[..] else {
            return Ok(fits);
        };
        let elsewhere = space.not(space.values(Field::Destination, &self.networks())?)?;
        let if_here = space.with(fits, field, 1)?;
        let not_meant = space.every([if_here, space.not(here)?, elsewhere])?;
        space.minus(fits, not_meant)
    }

    /// Returns the networks of all interfaces and zones of the policy.
    fn networks(&self) -> IntervalSet {
        let family = self.space.family();
        let of_interfaces = self.plan.interfaces.iter().flat_map(|it| &it.networks);
        let of_interfaces = of_interfaces.filter(|network| network.family == family);
        let mut all = IntervalSet::from_intervals(of_interfaces.map(|it| (it.first, it.last)));
        let members = self.plan.zones.iter().flat_map(|zone| &zone.members);
        for networks in members.filter_map(|member| member.networks.as_ref()) {
            all = all.union(networks.family(family));
        }
        all
    }
}

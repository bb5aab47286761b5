//! What the kernel calls an address: `-m addrtype` (`xt_addrtype.c`).
//!
//! IPv4 gives an address one type (`__inet_dev_addr_type` of `fib_frontend.c`): some have theirs by what they are, of the others
//! the routing table tells. IPv6 asks several questions, which may all hold (`match_type6`).

use super::GaveUp;
use super::field::Field;
use super::space::{Set, Space};
use crate::iptables::{AddressTypes, Direction};
use crate::net::{Family, IntervalSet};

/// Packets whose address has one of some types. `limit`: the routes of one device are asked alone.
pub(super) fn set(
    space: &Space,
    field: Field,
    types: AddressTypes,
    limit: Option<Direction>,
) -> Result<Set, GaveUp> {
    let side = match field {
        Field::Source => "source",
        _ => "destination",
    };
    let limit = limit.map_or(String::new(), |limit| format!(" limit {limit:?}"));
    let of_routes = |name: &str| space.opaque(&format!("addrtype {side} {name}{limit}"));
    match space.family() {
        Family::V4 => one_of(space, field, types, of_routes),
        Family::V6 => questions(space, field, types, of_routes),
    }
}

/// The types that routes give an address of IPv4, each to addresses that have none of those before it.
const OF_ROUTES: [&str; 10] = [
    "LOCAL",
    "BROADCAST",
    "UNICAST",
    "ANYCAST",
    "BLACKHOLE",
    "UNREACHABLE",
    "PROHIBIT",
    "THROW",
    "NAT",
    "XRESOLVE",
];

fn one_of(
    space: &Space,
    field: Field,
    types: AddressTypes,
    of_routes: impl Fn(&str) -> Result<Set, GaveUp>,
) -> Result<Set, GaveUp> {
    let asked = |name: &str| types.names().any(|one| one == name);
    let addresses = |ranges: &[(u32, u32)]| {
        let ranges = ranges.iter();
        let ranges = ranges.map(|(first, last)| (u128::from(*first), u128::from(*last)));
        space.values(field, &IntervalSet::from_intervals(ranges))
    };
    let multicast = addresses(&[(224 << 24, (240 << 24) - 1)])?;
    // Kernels before 5.3 take all of 0.0.0.0/8 for it.
    let broadcast = addresses(&[(0, 0), (u32::MAX, u32::MAX)])?;
    let mut left = space.not(space.or(multicast, broadcast)?)?;
    let mut found = Vec::new();
    found.extend(asked("MULTICAST").then_some(multicast));
    found.extend(asked("BROADCAST").then_some(broadcast));
    let last = OF_ROUTES.iter().rposition(|name| asked(name));
    for name in OF_ROUTES.iter().take(last.map_or(0, |last| last + 1)) {
        let here = of_routes(name)?;
        if asked(name) {
            found.push(space.and(left, here)?);
        }
        left = space.minus(left, here)?;
    }
    space.any(found)
}

fn questions(
    space: &Space,
    field: Field,
    types: AddressTypes,
    of_routes: impl Fn(&str) -> Result<Set, GaveUp>,
) -> Result<Set, GaveUp> {
    let asked = |name: &str| types.names().any(|one| one == name);
    let multicast = space.range(field, 0xff << 120, u128::MAX)?;
    let nowhere = space.range(field, 0, 0)?;
    let mapped = space.range(field, 0xffff << 32, 0xffff_ffff_ffff)?;
    let unicast = space.not(space.any([multicast, nowhere, mapped])?)?;
    let mut all = Vec::new();
    all.extend(asked("MULTICAST").then_some(multicast));
    all.extend(asked("UNICAST").then_some(unicast));
    all.extend(asked("UNSPEC").then_some(nowhere));
    let looked_up = ["LOCAL", "ANYCAST", "UNREACHABLE"];
    let looked_up: Vec<Set> = looked_up
        .into_iter()
        .filter(|name| asked(name))
        .map(of_routes)
        .collect::<Result<_, _>>()?;
    if !looked_up.is_empty() {
        // No group is an address of this host.
        let routed = space.minus(space.any(looked_up)?, multicast)?;
        all.push(routed);
    }
    space.every(all)
}

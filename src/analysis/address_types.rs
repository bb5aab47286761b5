//! Types of addresses: `-m addrtype` (`xt_addrtype.c` of the kernel).
//!
//! In IPv4 an address has exactly one type (`__inet_dev_addr_type` of `fib_frontend.c`): multicast and broadcast follow
//! from the address itself, all other types from the routing table. In IPv6 each type is a question, and several may
//! hold at once (`match_type6`). Routes are not part of a ruleset, so that a type that needs them is an opaque
//! condition.

use super::GaveUp;
use super::field::Field;
use super::space::{Set, Space};
use crate::iptables::{AddressTypes, Direction};
use crate::net::{Family, IntervalSet};

/// Returns the packets whose address has one of the types. A `limit` (`--limit-iface-in`, `--limit-iface-out`)
/// restricts the lookup to routes of one device, which makes it another condition.
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

/// The types that routes give to an IPv4 address. The opaque condition of each holds only for addresses that have none
/// of the types before it, so that no address gets two.
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
    // 0.0.0.0 counts as broadcast. Kernels before 5.3 say so of all of 0.0.0.0/8.
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
    // One route lookup answers these three, and any of them is enough.
    let looked_up = ["LOCAL", "ANYCAST", "UNREACHABLE"];
    let looked_up: Vec<Set> = looked_up
        .into_iter()
        .filter(|name| asked(name))
        .map(of_routes)
        .collect::<Result<_, _>>()?;
    if !looked_up.is_empty() {
        // No multicast address is an address of this host.
        let routed = space.minus(space.any(looked_up)?, multicast)?;
        all.push(routed);
    }
    // Unlike in IPv4 every kind of question that is asked must hold: `MULTICAST,UNICAST` matches nothing.
    space.every(all)
}

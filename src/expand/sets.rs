//! Writes the ipsets of a policy for `ipset restore`.

use std::fmt::Write;

use super::addresses::SetDirection;
use crate::net::{Family, IntervalSet, SetType, address_of};
use crate::policy::DynamicSet;
use crate::resolve::{AddressGroupSet, Members, Plan};

/// The first line of the file of sets.
pub const HEADING: &str = "# Made by fwc from a policy: edit the policy, not this file.";

/// Returns the name of a set in the kernel, which needs one set for each family; `None` if it has no members in the family.
pub fn live_name(set: &AddressGroupSet, family: Family) -> Option<String> {
    let prefix = match family {
        Family::V4 => "fwc4",
        Family::V6 => "fwc6",
    };
    let exists = match &set.members {
        Members::Static(members) => !members.family(family).is_empty(),
        Members::Dynamic { .. } => true,
    };
    exists.then(|| format!("{prefix}-{}", set.name))
}

/// Returns the ends of a packet that `-m set` compares with the members of a set, as `--match-set` writes them: the address
/// of `side`, and of a member with a port the destination port. What a reply answers went to the port that the reply comes from.
pub fn ends(set: &AddressGroupSet, side: SetDirection, of_reply: bool) -> String {
    match &set.members {
        Members::Dynamic(set) if set.kind.has_ports() => {
            let port = if of_reply { "src" } else { "dst" };
            format!("{side},{port}")
        }
        Members::Static(_) | Members::Dynamic(_) => side.to_owned(),
    }
}

/// Returns the input of `ipset restore`; `None` for a policy without sets.
pub fn text(plan: &Plan) -> Option<String> {
    let mut text = String::new();
    for set in &plan.sets {
        for family in Family::ALL {
            if let Some(name) = live_name(set, family) {
                one(&mut text, &name, family, &set.members);
            }
        }
    }
    (!text.is_empty()).then(|| format!("{HEADING}\n{text}"))
}

fn one(text: &mut String, name: &str, family: Family, members: &Members) {
    let (entries, set) = match members {
        Members::Static(members) => (
            prefixes(members.family(family), family),
            DynamicSet::default(),
        ),
        Members::Dynamic(set) => (Vec::new(), *set),
    };
    let kind = match set.kind {
        SetType::Net => "hash:net",
        SetType::Address => "hash:ip",
        SetType::NetPort => "hash:net,port",
        SetType::AddressPort => "hash:ip,port",
    };
    let inet = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    let most = set
        .size
        .map_or_else(|| most(entries.len()).to_string(), |size| size.to_string());
    // Writing to a String cannot fail.
    let _ = write!(text, "create {name} {kind} family {inet} maxelem {most}");
    if let Some(seconds) = set.timeout {
        let _ = write!(text, " timeout {seconds}");
    }
    if set.counters {
        text.push_str(" counters");
    }
    if set.comments {
        text.push_str(" comment");
    }
    text.push('\n');
    for (address, length) in entries {
        let _ = writeln!(text, "add {name} {}/{length}", address_of(family, address));
    }
}

/// Returns the `maxelem` of a set: ipset's default, and for longer lists at least twice their length, rounded up to a
/// power of two. A set cannot grow beyond `maxelem`, and changing it means creating the set again.
fn most(entries: usize) -> usize {
    const DEFAULT: usize = 65_536;
    (entries * 2).next_power_of_two().max(DEFAULT)
}

/// Returns the fewest prefixes that together are exactly the set. `hash:net` refuses `/0`, which becomes two halves.
pub fn prefixes(set: &IntervalSet, family: Family) -> Vec<(u128, u8)> {
    let mut prefixes = Vec::new();
    for (first, last) in set.intervals().iter().copied() {
        let mut start = first;
        loop {
            let aligned = start.trailing_zeros().min(u32::from(family.bits()) - 1);
            let room = (last - start).checked_add(1).map_or(127, u128::ilog2);
            let host_bits = aligned.min(room);
            let length = u32::from(family.bits()) - host_bits;
            // Never more than 128.
            prefixes.push((start, u8::try_from(length).unwrap_or(u8::MAX)));
            match start.checked_add(1 << host_bits) {
                Some(next) if next <= last => start = next,
                _ => break,
            }
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(family: Family, first: u128, last: u128) -> Vec<String> {
        let set = IntervalSet::from_intervals([(first, last)]);
        prefixes(&set, family)
            .into_iter()
            .map(|(address, length)| format!("{}/{length}", address_of(family, address)))
            .collect()
    }

    #[test]
    fn fewest_prefixes() {
        assert_eq!(
            shown(Family::V4, 0, u128::from(u32::MAX)),
            ["0.0.0.0/1", "128.0.0.0/1"]
        );
        assert_eq!(shown(Family::V6, 0, u128::MAX), ["::/1", "8000::/1"]);
        assert_eq!(shown(Family::V4, 10, 12), ["0.0.0.10/31", "0.0.0.12/32"]);
        assert_eq!(
            shown(Family::V6, u128::MAX, u128::MAX),
            ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]
        );
        assert_eq!(most(0), 65_536);
        assert_eq!(most(100_000), 262_144);
    }
}

//! Expands `original` to the matches of single lines.

use std::collections::BTreeMap;

use super::context::OriginalContext;
use super::sets;
use crate::net::{Family, IntervalSet, Protocol, address_of};
use crate::resolve::PlannedOriginal;

/// Returns the `-m conntrack` matches of each line; no packet matches two lines. One line without any if the key is not
/// written, and no line if the family has no such destination.
///
/// They are apart from that of `state`: with a state in the same match, the kernel compares nothing else of a packet
/// without a connection, so that every UNTRACKED packet would match (`conntrack_mt` of `xt_conntrack.c`).
pub fn matches(original: Option<&PlannedOriginal>, family: Family) -> Vec<Vec<OriginalContext>> {
    let Some(PlannedOriginal { destination, ports }) = original else {
        return vec![Vec::new()];
    };
    let is_whole = |set: &IntervalSet| *set.intervals() == [(0, family.last_address())];
    let prefixes = |set: &IntervalSet, not: &'static str| -> Vec<OriginalContext> {
        let all = sets::prefixes(set, family).into_iter();
        all.map(|(address, length)| OriginalContext {
            not,
            destination: Some(match length == family.bits() {
                true => address_of(family, address).to_string(),
                false => format!("{}/{length}", address_of(family, address)),
            }),
            ..OriginalContext::default()
        })
        .collect()
    };
    let everywhere = || vec![vec![OriginalContext::default()]];
    let destinations = match destination {
        None => everywhere(),
        Some(asked) => {
            let listed = asked.listed.family(family);
            match (asked.negated, is_whole(listed)) {
                (true, true) => Vec::new(),
                (true, false) if listed.is_empty() => everywhere(),
                // A line needs all of them: the connection went to none of these prefixes.
                (true, false) => vec![prefixes(listed, "! ")],
                (false, true) => everywhere(),
                (false, false) => {
                    let each = prefixes(listed, "").into_iter();
                    each.map(|one| vec![one]).collect()
                }
            }
        }
    };
    let mut lines = Vec::new();
    for destination in destinations {
        for (protocol, ports) in ports_of(ports.as_ref()) {
            let mut line = destination.clone();
            if let Some(first) = line.first_mut() {
                first.protocol = protocol;
                first.ports = ports;
                first.direction = Some("ORIGINAL");
            }
            lines.push(line);
        }
    }
    lines
}

/// Returns the protocol and the ports of each line, as iptables takes them.
fn ports_of(ports: Option<&BTreeMap<Protocol, IntervalSet>>) -> Vec<(Option<u8>, Option<String>)> {
    let Some(ports) = ports else {
        return vec![(None, None)];
    };
    let of_protocol = |(protocol, ports): (&Protocol, &IntervalSet)| {
        let shown = |(first, last): &(u128, u128)| match first == last {
            true => first.to_string(),
            false => format!("{first}:{last}"),
        };
        let intervals = ports.intervals().iter();
        let lines = intervals.map(|one| (Some(protocol.0), Some(shown(one))));
        lines.collect::<Vec<_>>()
    };
    ports.iter().flat_map(of_protocol).collect()
}

//! The ports that should not be open to the world, and a test whether a set has most addresses of the world.

use std::collections::BTreeSet;

use crate::analysis::{GaveUp, Set, Space};
use crate::net::{Family, IntervalSet, Protocol};

/// A protocol, the first and last port, and the name of the service.
pub type Guarded = (Protocol, u16, u16, &'static str);

/// Ports of services that manage hosts or hold data, and whose makers advise against opening them to the world.
pub const GUARDED: [Guarded; 24] = [
    (Protocol::TCP, 23, 23, "telnet"),
    (Protocol::TCP, 135, 135, "Windows RPC"),
    (Protocol::TCP, 139, 139, "NetBIOS"),
    (Protocol::TCP, 445, 445, "SMB"),
    (Protocol::TCP, 512, 514, "the r-commands"),
    (Protocol::TCP, 1433, 1433, "SQL Server"),
    (Protocol::TCP, 1521, 1521, "Oracle"),
    (Protocol::TCP, 2049, 2049, "NFS"),
    (Protocol::TCP, 2375, 2375, "Docker without TLS"),
    (Protocol::TCP, 2379, 2380, "etcd"),
    (Protocol::TCP, 3306, 3306, "MySQL"),
    (Protocol::TCP, 3389, 3389, "remote desktop"),
    (Protocol::TCP, 5432, 5432, "PostgreSQL"),
    (Protocol::TCP, 5900, 5903, "VNC"),
    (Protocol::TCP, 5985, 5986, "WinRM"),
    (Protocol::TCP, 6379, 6379, "Redis"),
    (Protocol::TCP, 9200, 9200, "Elasticsearch"),
    (Protocol::TCP, 10000, 10000, "Webmin"),
    (Protocol::TCP, 10250, 10250, "the kubelet"),
    (Protocol::TCP, 11211, 11211, "memcached"),
    (Protocol::TCP, 27017, 27017, "MongoDB"),
    (Protocol::UDP, 161, 161, "SNMP"),
    (Protocol::UDP, 623, 623, "IPMI"),
    (Protocol::UDP, 11211, 11211, "memcached"),
];

/// Returns the packets to a guarded port.
pub fn guarded(space: &Space) -> Result<Set, GaveUp> {
    let ports = GUARDED.map(|port| to_guarded(space, port));
    space.any(ports.into_iter().collect::<Result<Vec<_>, _>>()?)
}

/// Returns the packets to one of the guarded ports.
pub fn to_guarded(space: &Space, (protocol, first, last, _): Guarded) -> Result<Set, GaveUp> {
    let port = space.destination_port(first, last)?;
    space.and(space.protocol(protocol)?, port)
}

/// Returns the sources of a set's packets.
pub fn sources(space: &Space, set: Set) -> Result<IntervalSet, GaveUp> {
    let matrix = space.matrix(set)?;
    let from: BTreeSet<usize> = matrix.edges.iter().map(|(from, _)| *from).collect();
    let classes = from.into_iter().map(|class| &matrix.classes[class]);
    Ok(IntervalSet::from_intervals(
        classes.flat_map(|class| class.intervals().iter().copied()),
    ))
}

/// Returns `true` if a set has more than half of the unicast addresses of the internet.
pub fn is_most(family: Family, set: &IntervalSet) -> bool {
    let world = match family {
        Family::V4 => (1 << 24, (224 << 24) - 1),
        Family::V6 => (0x2000 << 112, (0x4000 << 112) - 1),
    };
    let inside = set.intersection(&IntervalSet::from_intervals([world]));
    let count: u128 = inside
        .intervals()
        .iter()
        .map(|(first, last)| last - first)
        .sum();
    count > (world.1 - world.0) / 2
}

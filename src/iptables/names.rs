//! The names that iptables has for numbers: protocols, ICMP types, TCP flags, log levels, classes of service.

use crate::net::Family;

/// The transport protocols for which `/etc/services` names ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Another protocol, for which no service has a name.
    Other,
}

/// The TCP flags, lowest bit first, which is the order of printing.
pub(super) const TCP_FLAGS: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

/// The options of `LOG` without a value, in the order of printing.
pub(super) const LOG_FLAGS: [&str; 5] = [
    "log-tcp-sequence",
    "log-tcp-options",
    "log-ip-options",
    "log-uid",
    "log-macdecode",
];

/// The words of `--log-level` and their numbers (`syslog(3)`).
pub(super) const LOG_LEVELS: [(&str, u8); 9] = [
    ("alert", 1),
    ("crit", 2),
    ("debug", 7),
    ("emerg", 0),
    ("error", 3),
    ("info", 6),
    ("notice", 5),
    ("panic", 0),
    ("warning", 4),
];

/// Targets that iptables 1.8.9 does not have and that need no options: those of xtables-addons and of older kernels. With
/// `Extensions::KeepPlausible`, any other unknown target without options is taken for a chain that does not exist.
#[rustfmt::skip]
pub(super) const OTHER_TARGETS: [&str; 22] = [
    "ACCOUNT", "BALANCE", "CHAOS", "CLUSTERIP", "DELUDE", "DHCPMAC", "DNETMAP", "ECHO", "FLOWOFFLOAD", "FULLCONENAT", "IMQ",
    "IPMARK", "IPV4OPTSSTRIP", "LED", "LOGMARK", "MIRROR", "NETFLOW", "PROTO", "STEAL", "SYSRQ", "TARPIT", "ULOG",
];

/// Returns the number of a protocol by its name in lower case; 0 for `all`.
pub(super) fn protocol_number(name: &str) -> Option<u8> {
    let also = match name {
        "all" | "ip" | "hopopt" => Some(0),
        "icmpv6" => Some(58),
        "mh" | "ipv6-mh" => Some(135),
        _ => None,
    };
    also.or_else(|| {
        let known = PROTOCOLS.iter().find(|(_, known)| *known == name);
        known.map(|(number, _)| *number)
    })
}

/// Returns the name that `iptables-save` prints for a protocol.
pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    let found = PROTOCOLS.binary_search_by_key(&number, |(known, _)| *known);
    found.ok().map(|index| PROTOCOLS[index].1)
}

/// Debian 12's `/etc/protocols` without 0, sorted by number.
#[rustfmt::skip]
const PROTOCOLS: [(u8, &str); 54] = [
    (1, "icmp"), (2, "igmp"), (3, "ggp"), (4, "ipencap"), (5, "st"), (6, "tcp"), (8, "egp"), (9, "igp"),
    (12, "pup"), (17, "udp"), (20, "hmp"), (22, "xns-idp"), (27, "rdp"), (29, "iso-tp4"), (33, "dccp"),
    (36, "xtp"), (37, "ddp"), (38, "idpr-cmtp"), (41, "ipv6"), (43, "ipv6-route"), (44, "ipv6-frag"),
    (45, "idrp"), (46, "rsvp"), (47, "gre"), (50, "esp"), (51, "ah"), (57, "skip"), (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"), (60, "ipv6-opts"), (73, "rspf"), (81, "vmtp"), (88, "eigrp"), (89, "ospf"),
    (93, "ax.25"), (94, "ipip"), (97, "etherip"), (98, "encap"), (103, "pim"), (108, "ipcomp"),
    (112, "vrrp"), (115, "l2tp"), (124, "isis"), (132, "sctp"), (133, "fc"), (135, "mobility-header"),
    (136, "udplite"), (137, "mpls-in-ip"), (138, "manet"), (139, "hip"), (140, "shim6"), (141, "wesp"),
    (142, "rohc"), (143, "ethernet"),
];

/// A name of ICMP types: the name, the type, and the first and the last code.
pub(super) type IcmpName = (&'static str, u8, u8, u8);

/// Returns the names of `--icmp-type` or `--icmpv6-type` (`iptables -p icmp -h`).
pub(super) const fn icmp_names(family: Family) -> &'static [IcmpName] {
    match family {
        Family::V4 => &ICMP,
        Family::V6 => &ICMPV6,
    }
}

const ICMP: [IcmpName; 40] = [
    ("any", 255, 0, 255),
    ("echo-reply", 0, 0, 255),
    ("pong", 0, 0, 255),
    ("destination-unreachable", 3, 0, 255),
    ("network-unreachable", 3, 0, 0),
    ("host-unreachable", 3, 1, 1),
    ("protocol-unreachable", 3, 2, 2),
    ("port-unreachable", 3, 3, 3),
    ("fragmentation-needed", 3, 4, 4),
    ("source-route-failed", 3, 5, 5),
    ("network-unknown", 3, 6, 6),
    ("host-unknown", 3, 7, 7),
    ("network-prohibited", 3, 9, 9),
    ("host-prohibited", 3, 10, 10),
    ("TOS-network-unreachable", 3, 11, 11),
    ("TOS-host-unreachable", 3, 12, 12),
    ("communication-prohibited", 3, 13, 13),
    ("host-precedence-violation", 3, 14, 14),
    ("precedence-cutoff", 3, 15, 15),
    ("source-quench", 4, 0, 255),
    ("redirect", 5, 0, 255),
    ("network-redirect", 5, 0, 0),
    ("host-redirect", 5, 1, 1),
    ("TOS-network-redirect", 5, 2, 2),
    ("TOS-host-redirect", 5, 3, 3),
    ("echo-request", 8, 0, 255),
    ("ping", 8, 0, 255),
    ("router-advertisement", 9, 0, 255),
    ("router-solicitation", 10, 0, 255),
    ("time-exceeded", 11, 0, 255),
    ("ttl-exceeded", 11, 0, 255),
    ("ttl-zero-during-transit", 11, 0, 0),
    ("ttl-zero-during-reassembly", 11, 1, 1),
    ("parameter-problem", 12, 0, 255),
    ("ip-header-bad", 12, 0, 0),
    ("required-option-missing", 12, 1, 1),
    ("timestamp-request", 13, 0, 255),
    ("timestamp-reply", 14, 0, 255),
    ("address-mask-request", 17, 0, 255),
    ("address-mask-reply", 18, 0, 255),
];

const ICMPV6: [IcmpName; 28] = [
    ("destination-unreachable", 1, 0, 255),
    ("no-route", 1, 0, 0),
    ("communication-prohibited", 1, 1, 1),
    ("beyond-scope", 1, 2, 2),
    ("address-unreachable", 1, 3, 3),
    ("port-unreachable", 1, 4, 4),
    ("failed-policy", 1, 5, 5),
    ("reject-route", 1, 6, 6),
    ("packet-too-big", 2, 0, 255),
    ("time-exceeded", 3, 0, 255),
    ("ttl-exceeded", 3, 0, 255),
    ("ttl-zero-during-transit", 3, 0, 0),
    ("ttl-zero-during-reassembly", 3, 1, 1),
    ("parameter-problem", 4, 0, 255),
    ("bad-header", 4, 0, 0),
    ("unknown-header-type", 4, 1, 1),
    ("unknown-option", 4, 2, 2),
    ("echo-request", 128, 0, 255),
    ("ping", 128, 0, 255),
    ("echo-reply", 129, 0, 255),
    ("pong", 129, 0, 255),
    ("router-solicitation", 133, 0, 255),
    ("router-advertisement", 134, 0, 255),
    ("neighbour-solicitation", 135, 0, 255),
    ("neighbor-solicitation", 135, 0, 255),
    ("neighbour-advertisement", 136, 0, 255),
    ("neighbor-advertisement", 136, 0, 255),
    ("redirect", 137, 0, 255),
];

/// Returns the words of `--reject-with` with the printed word of each. Order matters: the beginning of a word means the
/// first word that begins so.
pub(super) const fn reject_names(family: Family) -> &'static [(&'static str, &'static str)] {
    match family {
        Family::V4 => &[
            ("icmp-net-unreachable", "icmp-net-unreachable"),
            ("net-unreach", "icmp-net-unreachable"),
            ("icmp-host-unreachable", "icmp-host-unreachable"),
            ("host-unreach", "icmp-host-unreachable"),
            ("icmp-proto-unreachable", "icmp-proto-unreachable"),
            ("proto-unreach", "icmp-proto-unreachable"),
            ("icmp-port-unreachable", "icmp-port-unreachable"),
            ("port-unreach", "icmp-port-unreachable"),
            ("icmp-net-prohibited", "icmp-net-prohibited"),
            ("net-prohib", "icmp-net-prohibited"),
            ("icmp-host-prohibited", "icmp-host-prohibited"),
            ("host-prohib", "icmp-host-prohibited"),
            ("tcp-reset", "tcp-reset"),
            ("tcp-rst", "tcp-reset"),
            ("icmp-admin-prohibited", "icmp-admin-prohibited"),
            ("admin-prohib", "icmp-admin-prohibited"),
        ],
        Family::V6 => &[
            ("icmp6-no-route", "icmp6-no-route"),
            ("no-route", "icmp6-no-route"),
            ("icmp6-adm-prohibited", "icmp6-adm-prohibited"),
            ("adm-prohibited", "icmp6-adm-prohibited"),
            ("icmp6-addr-unreachable", "icmp6-addr-unreachable"),
            ("addr-unreach", "icmp6-addr-unreachable"),
            ("icmp6-port-unreachable", "icmp6-port-unreachable"),
            ("port-unreach", "icmp6-port-unreachable"),
            ("tcp-reset", "tcp-reset"),
            ("icmp6-policy-fail", "icmp6-policy-fail"),
            ("policy-fail", "icmp6-policy-fail"),
            ("icmp6-reject-route", "icmp6-reject-route"),
            ("reject-route", "icmp6-reject-route"),
        ],
    }
}

/// The classes of `--dscp-class` and their numbers.
#[rustfmt::skip]
pub(super) const DSCP_CLASSES: [(&str, u8); 22] = [
    ("CS0", 0x00), ("CS1", 0x08), ("CS2", 0x10), ("CS3", 0x18), ("CS4", 0x20), ("CS5", 0x28), ("CS6", 0x30),
    ("CS7", 0x38), ("BE", 0x00), ("AF11", 0x0a), ("AF12", 0x0c), ("AF13", 0x0e), ("AF21", 0x12), ("AF22", 0x14),
    ("AF23", 0x16), ("AF31", 0x1a), ("AF32", 0x1c), ("AF33", 0x1e), ("AF41", 0x22), ("AF42", 0x24),
    ("AF43", 0x26), ("EF", 0x2e),
];

/// The names of `--tos` and their numbers.
pub(super) const TOS_NAMES: [(&str, u8); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];

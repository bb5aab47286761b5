//! The built-in services, read as plain TOML: their form, and facts that the registry states.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

const TEXT: &str = include_str!("../../src/policy/catalog.toml");

/// What an entry may say besides `about`.
const PARTS: [&str; 6] = [
    "ports",
    "source-ports",
    "protocol",
    "icmp",
    "icmpv6",
    "include",
];

/// Names that a user may rely on.
#[rustfmt::skip]
const PROMISED: [&str; 171] = [
    "activemq", "afp", "ah", "alertmanager", "amqp", "amqps", "bacula", "bfd", "bgp", "bind",
    "bittorrent", "cassandra", "ceph", "ceph-mon", "ceph-osd", "checkmk", "clickhouse", "cockpit",
    "cockroachdb", "consul", "couchdb", "cups", "daytime", "db2", "dhcp", "dhcpv6", "dns",
    "dns-over-tls", "docker", "docker-registry", "docker-tls", "domain", "drbd", "elasticsearch",
    "esp", "etcd", "finger", "firebird", "ftp", "geneve", "git", "gitea", "glusterfs", "grafana",
    "gre", "hbase", "hdfs", "home-assistant", "http", "http3", "https", "icinga", "ident", "igmp",
    "ike", "imap", "imaps", "influxdb", "ipip", "ipp", "ipsec", "irc", "ircs", "iscsi", "jaeger",
    "jellyfin", "jenkins", "kafka", "kerberos", "kibana", "kpasswd", "kube-apiserver",
    "kube-nodeports", "kubelet", "l2tp", "ldap", "ldaps", "ldp", "llmnr", "logstash", "loki",
    "mariadb", "matrix-federation", "mdns", "memcached", "minecraft", "minio", "mongodb", "mqtt",
    "mqtts", "mssql", "mumble", "munin", "mysql", "nats", "nbd", "neo4j", "netbios", "nexus",
    "nfs", "node-exporter", "nomad", "nrpe", "ntp", "opensearch", "openvpn", "oracle", "ospf",
    "otlp", "pim", "ping", "plex", "pop3", "pop3s", "postgres", "postgresql", "pptp",
    "prometheus", "proxmox", "puppet", "rabbitmq", "radius", "rdp", "redis", "rpcbind", "rsync",
    "rtsp", "salt", "sip", "sips", "smb", "smtp", "smtps", "snmp", "snmp-trap", "socks", "solr",
    "sonarqube", "spark", "spice", "squid", "ssdp", "ssh", "steam", "stun", "submission",
    "submissions", "svn", "swarm", "syncthing", "syslog", "syslog-tls", "tacacs", "teamspeak",
    "telnet", "tftp", "tomcat", "tor", "traceroute", "transmission", "turn", "turns", "varnish",
    "vault", "vnc", "vrrp", "vxlan", "webmin", "whois", "wireguard", "x11",
];

/// Facts, each as the registry (IANA service names and port numbers, or protocol numbers) or the standard
/// states it, or else the documentation of the project. Written by hand, apart from the catalog.
#[rustfmt::skip]
const FACTS: [(&str, &str); 101] = [
    ("ah", "protocol ah"),                    ("amqp", "5672/tcp"),
    ("amqps", "5671/tcp"),                    ("bacula", "9101/tcp 9102/tcp 9103/tcp"),
    ("bfd", "3784/udp 3785/udp"),             ("bgp", "179/tcp"),
    ("bind", "53/tcp 53/udp"),                ("cassandra", "9042/tcp"),
    ("couchdb", "5984/tcp"),                  ("cups", "631/tcp"),
    ("daytime", "13/tcp 13/udp"),             ("dhcp", "67/udp"),
    ("dhcp-client", "68/udp"),                ("dhcpv6", "547/udp"),
    ("dhcpv6-client", "546/udp"),             ("dns", "53/tcp 53/udp"),
    ("dns-over-tls", "853/tcp"),              ("docker", "2375/tcp"),
    ("docker-tls", "2376/tcp"),               ("domain-s", "853/tcp 853/udp"),
    ("elasticsearch", "9200/tcp"),            ("esp", "protocol esp"),
    ("etcd", "2379/tcp 2380/tcp"),            ("finger", "79/tcp"),
    ("ftp", "21/tcp"),                        ("geneve", "6081/udp"),
    ("git", "9418/tcp"),                      ("grafana", "3000/tcp"),
    ("gre", "protocol gre"),                  ("http", "80/tcp"),
    ("http3", "443/udp"),                     ("https", "443/tcp"),
    ("ident", "113/tcp"),                     ("igmp", "protocol igmp"),
    ("ike", "4500/udp 500/udp"),              ("imap", "143/tcp"),
    ("imaps", "993/tcp"),                     ("influxdb", "8086/tcp"),
    ("ipip", "protocol ipencap"),             ("ipsec", "4500/udp 500/udp protocol ah protocol esp"),
    ("iscsi", "3260/tcp"),                    ("kafka", "9092/tcp"),
    ("kerberos", "88/tcp 88/udp"),            ("kpasswd", "464/tcp 464/udp"),
    ("kube-apiserver", "6443/tcp"),           ("kube-nodeports", "30000-32767/tcp 30000-32767/udp"),
    ("kubelet", "10250/tcp"),                 ("l2tp", "1701/udp"),
    ("ldap", "389/tcp"),                      ("ldaps", "636/tcp"),
    ("ldp", "646/tcp 646/udp"),               ("llmnr", "5355/tcp 5355/udp"),
    ("mariadb", "3306/tcp"),                  ("mdns", "5353/udp"),
    ("memcached", "11211/tcp"),               ("mongodb", "27017/tcp"),
    ("mqtt", "1883/tcp"),                     ("mqtts", "8883/tcp"),
    ("mssql", "1433/tcp"),                    ("mysql", "3306/tcp"),
    ("nats", "4222/tcp"),                     ("netbios", "137/udp 138/udp 139/tcp"),
    ("nfs", "2049/tcp"),                      ("node-exporter", "9100/tcp"),
    ("ntp", "123/udp"),                       ("openvpn", "1194/udp"),
    ("ospf", "protocol ospf"),                ("otlp", "4317/tcp 4318/tcp"),
    ("pim", "protocol pim"),                  ("ping", "icmp echo-request icmpv6 echo-request"),
    ("pop3", "110/tcp"),                      ("pop3s", "995/tcp"),
    ("postgres", "5432/tcp"),                 ("pptp", "1723/tcp"),
    ("prometheus", "9090/tcp"),               ("radius", "1812/udp"),
    ("rdp", "3389/tcp 3389/udp"),             ("redis", "6379/tcp"),
    ("rpcbind", "111/tcp 111/udp"),           ("rsync", "873/tcp"),
    ("rtsp", "554/tcp"),                      ("sip", "5060/tcp 5060/udp"),
    ("smb", "445/tcp"),                       ("smtp", "25/tcp"),
    ("smtps", "465/tcp"),                     ("snmp", "161/udp"),
    ("snmp-trap", "162/udp"),                 ("ssh", "22/tcp"),
    ("stun", "3478/tcp 3478/udp"),            ("submission", "587/tcp"),
    ("svn", "3690/tcp"),                      ("syslog", "514/udp"),
    ("syslog-tls", "6514/tcp"),               ("telnet", "23/tcp"),
    ("tftp", "69/udp"),                       ("traceroute", "33434-33534/udp"),
    ("vrrp", "protocol vrrp"),                ("vxlan", "4789/udp"),
    ("whois", "43/tcp"),                      ("wireguard", "51820/udp"),
    ("xmpp-server", "5269/tcp"),
];

fn catalog() -> BTreeMap<String, Table> {
    let whole: Table = TEXT.parse().expect("the catalog is TOML");
    whole
        .into_iter()
        .map(|(name, entry)| match entry {
            Value::Table(entry) => (name, entry),
            other => panic!("{name} is not a table: {other}"),
        })
        .collect()
}

/// The names of the tables, in the order of the file.
fn names_as_written() -> Vec<&'static str> {
    TEXT.lines()
        .filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'))
        .collect()
}

fn strings<'a>(entry: &'a Table, key: &str) -> Vec<&'a str> {
    match entry.get(key) {
        None => Vec::new(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().expect("a list of strings"))
            .collect(),
        Some(other) => panic!("`{key}` is not a list: {other}"),
    }
}

/// All that `name` stands for, includes followed, sorted and joined.
fn parts(catalog: &BTreeMap<String, Table>, name: &str) -> String {
    fn collect(
        catalog: &BTreeMap<String, Table>,
        name: &str,
        trail: &mut Vec<String>,
        found: &mut BTreeSet<String>,
    ) {
        assert!(
            !trail.iter().any(|seen| seen == name),
            "a loop: {trail:?} {name}"
        );
        let entry = catalog
            .get(name)
            .unwrap_or_else(|| panic!("`{name}` (from {trail:?}) is not in the catalog"));
        trail.push(name.to_owned());
        found.extend(strings(entry, "ports").into_iter().map(str::to_owned));
        for key in ["source-ports", "icmp", "icmpv6"] {
            found.extend(
                strings(entry, key)
                    .into_iter()
                    .map(|part| format!("{key} {part}")),
            );
        }
        if let Some(protocol) = entry.get("protocol") {
            let protocol = protocol.as_str().expect("a protocol is a name");
            found.insert(format!("protocol {protocol}"));
        }
        for included in strings(entry, "include") {
            collect(catalog, included, trail, found);
        }
        trail.pop();
    }
    let mut found = BTreeSet::new();
    collect(catalog, name, &mut Vec::new(), &mut found);
    Vec::from_iter(found).join(" ")
}

#[test]
fn every_entry_says_what_it_is_and_has_a_part() {
    for (name, entry) in catalog() {
        let about = entry.get("about").and_then(Value::as_str);
        assert!(
            about.is_some_and(|about| !about.trim().is_empty()),
            "{name}: about"
        );
        let parts: Vec<_> = entry.keys().filter(|key| *key != "about").collect();
        assert!(!parts.is_empty(), "{name} has no part");
        for key in parts {
            assert!(PARTS.contains(&key.as_str()), "{name}: unknown key {key}");
            if key != "protocol" {
                assert!(
                    !strings(&entry, key).is_empty(),
                    "{name}: {key} is an empty list"
                );
            }
        }
    }
}

#[test]
fn includes_exist_and_do_not_loop() {
    let catalog = catalog();
    for name in catalog.keys() {
        assert!(!parts(&catalog, name).is_empty(), "{name}");
    }
}

#[test]
fn an_alias_says_of_what() {
    for (name, entry) in catalog() {
        let about = entry["about"].as_str().expect("about");
        if let Some(rest) = about.strip_prefix("alias of ") {
            let target = rest.split(':').next().expect("a first piece");
            assert_eq!(strings(&entry, "include"), [target], "{name}");
            assert_eq!(entry.len(), 2, "{name} is more than an alias");
        }
    }
}

#[test]
fn names_are_well_formed_sorted_and_many() {
    let names = names_as_written();
    for name in &names {
        assert!(
            name.starts_with(|first: char| first.is_ascii_lowercase()),
            "{name}"
        );
        assert!(
            name.chars().all(|character| character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || character == '-'),
            "{name}"
        );
    }
    for pair in names.windows(2) {
        assert!(pair[0] < pair[1], "{} stands before {}", pair[0], pair[1]);
    }
    assert_eq!(names.len(), catalog().len());
    assert!(names.len() >= 190, "{} services", names.len());
}

#[test]
fn promised_names_are_there() {
    let catalog = catalog();
    let missing: Vec<_> = PROMISED
        .iter()
        .filter(|name| !catalog.contains_key(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn ports_are_numbers_in_order_with_a_protocol() {
    for (name, entry) in catalog() {
        for literal in strings(&entry, "ports")
            .into_iter()
            .chain(strings(&entry, "source-ports"))
        {
            let (ports, protocol) = literal.split_once('/').expect("PORT/PROTOCOL");
            assert!(
                ["tcp", "udp", "sctp"].contains(&protocol),
                "{name}: {literal}"
            );
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let (first, last): (u16, u16) = (
                first
                    .parse()
                    .unwrap_or_else(|_| panic!("{name}: {literal}")),
                last.parse().unwrap_or_else(|_| panic!("{name}: {literal}")),
            );
            assert!(first >= 1 && first <= last, "{name}: {literal}");
            assert!(!ports.contains('-') || first < last, "{name}: {literal}");
        }
    }
}

#[test]
fn facts_hold() {
    let catalog = catalog();
    let wrong: Vec<_> = FACTS
        .iter()
        .map(|(name, fact)| (name, parts(&catalog, name), fact))
        .filter(|(_, found, fact)| found != *fact)
        .collect();
    assert!(wrong.is_empty(), "(name, found, fact): {wrong:#?}");
}

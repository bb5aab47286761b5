//! Host settings outside iptables that change what the rules do: other firewalls, kernel switches, open connections.

use std::fs;
use std::path::Path;

use super::concern::Concern;
use super::{LiveRule, LiveRuleset, connection, devices, limit_tables, tools};
use crate::diag::ConcernName;
use crate::iptables::TableName;
use crate::net::{Family, PerFamily};

/// Returns `true` if the concern is about open connections that the kernel does not track yet.
pub fn is_of_untracked(concern: &Concern) -> bool {
    concern.name == ConcernName::UntrackedConnections
}

/// Returns concerns about rules in this network namespace that iptables does not show, or shows wrong: statements about
/// the live rules do not cover them.
pub fn unseen() -> Vec<Concern> {
    let list = ["--terse", "list", "ruleset"];
    // With `--debug=netlink`, nft also prints the kernel's expressions of each rule, if its build supports that.
    let told = tools::output("nft", &[&["--debug=netlink"], &list[..]].concat());
    let listing = told.or_else(|| tools::output("nft", &list));
    let listing = listing.unwrap_or_default();
    let mut found = native(&listing);
    found.extend(misread(&listing));
    found
}

/// Checks the host before the `live` rules become the `wanted` ones (the same, if nothing changes).
pub fn look(live: &PerFamily<LiveRuleset>, wanted: &PerFamily<LiveRuleset>) -> Vec<Concern> {
    let mut found = unseen();
    found.extend(services(&is_active));
    found.extend(switches(&kernel, &has_bridges, wanted));
    found.extend(devices::look(wanted));
    found.extend(limit_tables::look(wanted));
    // Connection tracking starts with the first stateful rule. What was open before is unknown to it, and data that
    // comes in counts as INVALID until this host sends.
    let is_stateful = |dumps: &PerFamily<LiveRuleset>| dumps.iter().any(|(_, dump)| tracks(dump));
    if !is_stateful(live) && is_stateful(wanted) {
        let open = connection::established().len();
        found.extend((open > 0).then(|| Concern {
            name: ConcernName::UntrackedConnections,
            what: format!(
                "connection tracking starts with these rules, and {open} TCP connections are open, which the kernel did not track so far: their incoming packets may be dropped until this host sends on them"
            ),
            advice: "`fwc apply --warm` adds them to connection tracking first; without it, an SSH session continues as soon as you type, and clients that hang must be restarted".to_owned(),
        }));
    }
    found
}

/// Returns the chains of native nftables rules that packets pass in addition to iptables, from the output of `nft list
/// ruleset`.
fn native(listing: &str) -> Vec<Concern> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if line.starts_with("type filter hook ") && !is_iptables(table) {
            let drops = line.contains("policy drop");
            let policy = if drops { ", whose policy drops," } else { "" };
            found.push(Concern {
                name: ConcernName::NativeNft,
                what: format!(
                    "the nftables chain `{chain}` of `table {table}`{policy} filters the same packets: what these rules accept it can still drop, and fwc does not see it"
                ),
                advice: "look with `nft list ruleset`, and remove it unless it is meant (fail2ban may keep one)"
                    .to_owned(),
            });
        }
    }
    found
}

/// Returns the chains of iptables-nft that contain rules made by nft. `iptables-save` shows such rules without their
/// sets and ranges: `tcp dport { 22, 80 }` as all of TCP, a range of addresses as one address. Reads the output of `nft
/// --debug=netlink`.
fn misread(told: &str) -> Vec<Concern> {
    let (mut chain, mut load) = (None, "");
    let mut chains = std::collections::BTreeSet::new();
    for line in told.lines() {
        let Some(expression) = line.trim().strip_prefix("[ ") else {
            // `ip filter INPUT 3 2`: family, table, chain, handles.
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            chain = match words[..] {
                [family, table, chain, _, ..] if is_iptables(&format!("{family} {table}")) => {
                    Some((family, table, chain))
                }
                _ => None,
            };
            continue;
        };
        // A range of ports is shown correctly; a range of addresses and a set of either are not.
        let is_range = expression.starts_with("range ") && load.contains("@ network header");
        if let Some(chain) = chain
            && (is_range || expression.starts_with("lookup "))
        {
            chains.insert(chain);
        }
        load = expression;
    }
    let concern = |(family, table, chain): (&str, &str, &str)| Concern {
        name: ConcernName::MisreadNft,
        what: format!(
            "the chain {chain} of `table {family} {table}` holds rules that nft made, and iptables shows them WRONG: without their sets and ranges, so that fwc takes them for wider than they are"
        ),
        advice: format!(
            "look with `nft list table {family} {table}`, and move them to a table of their own or into the policy"
        ),
    };
    chains.into_iter().map(concern).collect()
}

/// Returns `true` for a table in which iptables-nft keeps its rules.
fn is_iptables(table: &str) -> bool {
    table.split_once(' ').is_some_and(|(family, name)| {
        matches!(family, "ip" | "ip6") && TableName::ALL.iter().any(|table| table.as_str() == name)
    })
}

/// Returns `true` in the network namespace of the first process. systemd runs its services there, so they concern no
/// other namespace.
pub(super) fn is_first_namespace() -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    namespace("self") == namespace("1")
}

/// Returns `true` if systemd runs a unit and this is its network namespace.
fn is_active(unit: &str) -> bool {
    if !is_first_namespace() {
        return false;
    }
    let asked = tools::output("systemctl", &["is-active", unit]);
    asked.is_some_and(|word| word.trim() == "active")
}

/// Returns the active services that manage a firewall of their own.
fn services(is_active: &dyn Fn(&str) -> bool) -> Vec<Concern> {
    let keepers = [
        (
            "ufw",
            "writes its own rules when it starts or is changed",
            "ufw disable",
        ),
        (
            "firewalld",
            "writes its own rules when it starts or is reloaded",
            "systemctl disable --now firewalld",
        ),
        (
            "nftables",
            "flushes iptables-nft's rules, too, when it starts or is reloaded",
            "systemctl disable nftables",
        ),
    ];
    let mut found = Vec::new();
    for (name, does, command) in keepers {
        if is_active(&format!("{name}.service")) {
            found.push(Concern {
                name: ConcernName::OtherFirewall,
                what: format!("{name} is active, and {does}"),
                advice: format!("keep one of the two: `{command}`"),
            });
        }
    }
    found
}

/// Returns the value of a kernel switch below /proc/sys.
fn kernel(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn has_bridges() -> bool {
    let bridges = tools::output("ip", &["-o", "link", "show", "type", "bridge"]);
    bridges.is_some_and(|text| !text.trim().is_empty())
}

fn switches(
    read: &dyn Fn(&str) -> Option<String>,
    has_bridges: &dyn Fn() -> bool,
    wanted: &PerFamily<LiveRuleset>,
) -> Vec<Concern> {
    let is = |name: &str, value: &str| read(name).is_some_and(|is| is == value);
    let mut found = Vec::new();
    for (family, name) in [
        (Family::V4, "net/ipv4/ip_forward"),
        (Family::V6, "net/ipv6/conf/all/forwarding"),
    ] {
        if is(name, "0") && lets_forward(&wanted[family]) {
            found.push(Concern {
                name: ConcernName::ForwardingOff,
                what: format!(
                    "{family}: the rules let packets through this host, and the kernel does not forward any"
                ),
                advice: format!("`sysctl -w {}=1`, and a line in /etc/sysctl.d", name.replace('/', ".")),
            });
        }
    }
    if is("net/ipv6/conf/all/disable_ipv6", "1") && !wanted.v6.is_pristine() {
        found.push(Concern {
            name: ConcernName::Ipv6Disabled,
            what: "IPv6 is disabled in the kernel, so that its rules see no packet".to_owned(),
            advice: "they are right as soon as it is enabled; nothing has to be done".to_owned(),
        });
    }
    if is("net/ipv4/conf/all/route_localnet", "1") {
        found.push(Concern {
            name: ConcernName::RouteLocalnet,
            what: "route_localnet is on: neighbours can reach what listens on 127.0.0.1 unless the rules stop it".to_owned(),
            advice: "`sysctl -w net.ipv4.conf.all.route_localnet=0` where nobody needs it (kube-proxy does)".to_owned(),
        });
    }
    if is("net/bridge/bridge-nf-call-iptables", "1") && !wanted.v4.is_pristine() && has_bridges() {
        found.push(Concern {
            name: ConcernName::BridgeNetfilter,
            what: "br_netfilter is on: packets between ports of a bridge pass FORWARD, too".to_owned(),
            advice: "let them through in the policy, or `sysctl -w net.bridge.bridge-nf-call-iptables=0` where nobody needs it (Docker and Kubernetes do)".to_owned(),
        });
    }
    found
}

/// Returns `true` if a rule of the filter table accepts forwarded packets other than those of established connections.
fn lets_forward(dump: &LiveRuleset) -> bool {
    let mut open = vec!["FORWARD"];
    let mut seen = Vec::new();
    while let Some(name) = open.pop() {
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let chain = dump.chain(TableName::Filter, name);
        for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
            match rule.target() {
                // A rule that only accepts answers does not show that forwarding is wanted.
                Some("ACCEPT") if !asks_for_established(rule) => return true,
                Some(target) => open.push(target),
                None => {}
            }
        }
    }
    false
}

fn asks_for_established(rule: &LiveRule) -> bool {
    let mut states = rule.options().flat_map(|word| word.split(','));
    states.any(|state| state == "ESTABLISHED")
}

/// Returns `true` if the rules make the kernel track connections: the modules that enable it as they load
/// (`nf_ct_netns_get`).
fn tracks(dump: &LiveRuleset) -> bool {
    const MATCHES: [&str; 8] = [
        "conntrack",
        "state",
        "connmark",
        "connbytes",
        "connlabel",
        "connlimit",
        "cluster",
        "helper",
    ];
    let has_match = |rule: &LiveRule| {
        let words: Vec<_> = rule.options().collect();
        words
            .windows(2)
            .any(|pair| pair[0] == "-m" && MATCHES.contains(&pair[1]))
    };
    let has_target = |rule: &LiveRule| match rule.target() {
        Some("CONNMARK" | "CONNSECMARK" | "SYNPROXY") => true,
        Some("CT") => rule.options().all(|word| word != "--notrack"),
        _ => false,
    };
    dump.all_chains().any(|(table, _, chain)| {
        let mut rules = chain.rules.iter();
        (table == TableName::Nat && !chain.rules.is_empty())
            || rules.any(|rule| has_match(rule) || has_target(rule))
    })
}

#[cfg(test)]
mod tests {
    use super::{lets_forward, misread, native, services, switches, tracks};
    use crate::live::LiveRuleset;
    use crate::net::PerFamily;

    fn filter(body: &str) -> LiveRuleset {
        LiveRuleset::parse(&format!("*filter\n{body}COMMIT\n")).unwrap()
    }

    #[test]
    fn native_chains_are_told_from_those_of_iptables() {
        let listing = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n}\ntable inet x {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\tchain helper {\n\t}\n\tchain in {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\ntable ip mine {\n\tchain pre {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t}\n\tchain out {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n}\n";
        let found = native(listing);
        let words: Vec<_> = found.iter().map(|concern| &concern.what[..60]).collect();
        assert_eq!(
            words,
            [
                "the nftables chain `in` of `table inet x`, whose policy drop",
                "the nftables chain `out` of `table ip mine` filters the same"
            ]
        );
        assert!(native("").is_empty());
    }

    #[test]
    fn rules_of_nft_that_iptables_misreads() {
        let told = |rule: &str| {
            format!(
                "ip filter INPUT 2\n  {rule}\n  [ immediate reg 0 accept ]\n\ntable ip filter {{\n\tchain INPUT {{\n\t}}\n}}\n"
            )
        };
        let found = |text: &str| misread(text).len();
        let port = "[ payload load 2b @ transport header + 2 => reg 1 ]";
        assert_eq!(
            found(&told(&format!("{port}\n  [ lookup reg 1 set __set%d ]"))),
            1
        );
        let range = "[ range eq reg 1 0x00001600 0x00005000 ]";
        assert_eq!(found(&told(&format!("{port}\n  {range}"))), 0);
        let address = "[ payload load 4b @ network header + 12 => reg 1 ]";
        assert_eq!(found(&told(&format!("{address}\n  {range}"))), 1);
        assert_eq!(found(&told("[ match name multiport rev 1 ]")), 0);
        let own = told("[ lookup reg 1 set s ]").replace("ip filter", "inet filter");
        assert_eq!(found(&own), 0);
    }

    #[test]
    fn other_keepers_that_run() {
        let names = |active: &str| -> Vec<String> {
            let found = services(&|unit| unit == active);
            found.into_iter().map(|one| one.to_string()).collect()
        };
        for name in ["ufw", "firewalld", "nftables"] {
            let found = names(&format!("{name}.service"));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].starts_with(&format!("{name} is active")),
                "{found:?}"
            );
        }
        assert!(names("").is_empty());
    }

    #[test]
    fn switches_matter_where_rules_need_them() {
        let names = |on: &[(&str, &str)], wanted: &PerFamily<LiveRuleset>| -> Vec<&str> {
            let read = |name: &str| {
                let mut on = on.iter();
                on.find(|(one, _)| *one == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            let found = switches(&read, &|| true, wanted);
            found.iter().map(|concern| concern.name.as_str()).collect()
        };
        let closed = PerFamily::from_fn(|_| filter(":INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n"));
        let router =
            PerFamily::from_fn(|_| filter(":f - [0:0]\n-A FORWARD -j f\n-A f -i eth1 -j ACCEPT\n"));
        let off = [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/all/disable_ipv6", "1"),
        ];
        assert_eq!(names(&off, &closed), ["ipv6-disabled"]);
        assert_eq!(names(&off, &router), ["forwarding-off", "ipv6-disabled"]);
        assert_eq!(names(&[], &router), [""; 0]);
        let bridge = [("net/bridge/bridge-nf-call-iptables", "1")];
        assert_eq!(names(&bridge, &closed), ["bridge-netfilter"]);
        let localnet = [("net/ipv4/conf/all/route_localnet", "1")];
        assert_eq!(names(&localnet, &closed), ["route-localnet"]);
    }

    #[test]
    fn forwarding_and_tracking_are_seen() {
        assert!(!lets_forward(&filter(
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\n"
        )));
        assert!(tracks(&filter(
            "-A INPUT -m conntrack --ctstate NEW -j DROP\n"
        )));
        assert!(!tracks(&filter("-A INPUT -p tcp -j DROP\n")));
        assert!(tracks(&filter(
            "-A INPUT -p tcp -m connlimit --connlimit-above 9 -j DROP\n"
        )));
    }

    #[test]
    fn comments_ask_for_nothing() {
        assert!(lets_forward(&filter(
            "-A FORWARD -m comment --comment \"as ESTABLISHED\" -j ACCEPT\n"
        )));
        assert!(!tracks(&filter(
            "-A INPUT -m comment --comment \"no -m conntrack here\" -j DROP\n"
        )));
    }
}

//! Finds other programs' rules that decide packets before fwc's rules, or bypass them: for those packets the policy does not
//! hold.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::owned::Owned;
use crate::analysis::{Budget, Reading, Space, shadowed};
use crate::diag::ConcernName;
use crate::iptables::{self, TableName, Target, WalkVerdict, walk};
use crate::live::Concern;
use crate::live::{LiveRule, LiveRuleset, owners, route};
use crate::net::{Family, Hook, Packet, Protocol, State, TcpFlags, Translated};

/// Checks all rules of a family, fwc's and other programs'.
pub(super) fn look(owned: &Owned, family: Family, all: &LiveRuleset) -> Vec<Concern> {
    let mut found = Vec::from_iter(unused_docker_user(family, all));
    if !owned.is_beside_others() {
        return found;
    }
    for hook in [Hook::Input, Hook::Forward, Hook::Output] {
        found.extend(first(owned, family, all, hook.chain()));
    }
    found.extend(published(owned, family, all));
    found
}

/// Finds the rules before fwc's that accept packets, or shadow a rule of fwc's.
fn first(owned: &Owned, family: Family, all: &LiveRuleset, chain: &str) -> Vec<Concern> {
    let table = all.table(TableName::Filter);
    let Some(at) = owned.begins(TableName::Filter, chain, &table) else {
        return Vec::new();
    };
    let rules = table.get(chain).map_or(&[][..], |chain| &chain.rules);
    let before = rules.get(..at).unwrap_or_default();
    let shadowed = shadowed_by(family, all, chain, at);
    let described = before.iter().enumerate().filter_map(|(number, rule)| {
        let accepts = rule
            .target()
            .is_some_and(|to| ends_in(all, to, &mut Vec::new(), "ACCEPT"));
        let hidden: Vec<&String> = shadowed
            .iter()
            .filter(|(by, _)| by.contains(&number))
            .map(|(_, rule)| rule)
            .collect();
        if !accepts && hidden.is_empty() {
            return None;
        }
        let mut what = format!(
            "{family}: the rule `-A {chain} {}`{} comes before fwc's rules and decides first{}",
            rule.spec,
            of_owner(rule),
            if accepts {
                ": no rule of the policy can block what it accepts"
            } else {
                ""
            }
        );
        for rule in hidden {
            // Writing to a String cannot fail.
            let _ = write!(what, "; it shadows `{rule}`");
        }
        Some(Concern {
            name: ConcernName::ForeignFirst,
            what,
            advice: "if that is not intended, move it behind fwc's rules, or write it in the policy and remove it".to_owned(),
        })
    });
    described.collect()
}

fn of_owner(rule: &LiveRule) -> String {
    let owner = owners::of_rule(rule);
    owner.map_or_else(String::new, |owner| format!(" (of {owner})"))
}

/// Returns `true` if a target, or a rule of a chain that it leads to, has the target `end`. Conditions do not count.
fn ends_in(all: &LiveRuleset, target: &str, seen: &mut Vec<String>, end: &str) -> bool {
    if target == end {
        return true;
    }
    let Some(chain) = all.chain(TableName::Filter, target) else {
        return false;
    };
    if seen.iter().any(|name| name == target) {
        return false;
    }
    seen.push(target.to_owned());
    let mut targets = chain.rules.iter().filter_map(LiveRule::target);
    targets.any(|target| ends_in(all, target, seen, end))
}

/// About a tenth of a second.
const BUDGET: Budget = Budget {
    edges: 600_000,
    steps: 4_000_000,
};

/// Finds the rules of fwc's that no packet reaches because of the first `at` rules of a base chain. Returns the indices of the
/// rules that shadow each, and the rule. Empty if the packet engine gives up.
fn shadowed_by(
    family: Family,
    all: &LiveRuleset,
    base: &str,
    at: usize,
) -> Vec<(Vec<usize>, String)> {
    let mut flat = all.only(&[TableName::Filter]);
    let table = flat.table_mut(TableName::Filter);
    let Some(chain) = table.get(base) else {
        return Vec::new();
    };
    // If fwc's chain is called for every packet, its rules take the place of the jump: the rules that shadow them are then
    // rules of the same chain.
    let (mut rules, mut names) = (Vec::new(), Vec::new());
    for rule in &chain.rules {
        let called = rule
            .spec
            .strip_prefix("-j ")
            .and_then(|name| Some((name, table.get(name)?)));
        match called {
            Some((name, called)) if rules.len() >= at => {
                rules.extend(called.rules.iter().cloned());
                names.resize(rules.len(), name.to_owned());
            }
            _ => {
                rules.push(rule.clone());
                names.push(base.to_owned());
            }
        }
    }
    if let Some(chain) = table.get_mut(base) {
        chain.rules.clone_from(&rules);
    }
    let text = flat.normal();
    let Ok(ruleset) = iptables::Ruleset::from_text(&text, family) else {
        return Vec::new();
    };
    let chains = ruleset.table(TableName::Filter).map(|table| &table.chains);
    let number = chains.and_then(|chains| chains.iter().position(|chain| &*chain.name == base));
    let space = Space::with_budget(family, BUDGET);
    let found = shadowed(&space, &ruleset, &Reading::default()).unwrap_or_default();
    let found = found.into_iter().filter_map(|found| {
        let is_here = found.table == TableName::Filter && Some(found.rule.chain) == number;
        let by: Vec<usize> = found.by.iter().map(|by| by.rule).collect();
        let is_shadowed = is_here && found.rule.rule >= at && by.iter().any(|by| *by < at);
        let (name, rule) = (names.get(found.rule.rule)?, rules.get(found.rule.rule)?);
        is_shadowed.then(|| (by, format!("-A {name} {}", rule.spec)))
    });
    found.collect()
}

/// Finds rules in the chain `DOCKER-USER`, to which Docker jumps, when no rule jumps there.
fn unused_docker_user(family: Family, all: &LiveRuleset) -> Option<Concern> {
    const NAME: &str = "DOCKER-USER";
    let chain = all.chain(TableName::Filter, NAME)?;
    let has_effect = chain
        .rules
        .iter()
        .any(|rule| rule.target() != Some("RETURN"));
    let table = all.table(TableName::Filter);
    let mut rules = table.values().flat_map(|chain| &chain.rules);
    let is_called = rules.any(|rule| rule.target() == Some(NAME));
    (has_effect && !is_called).then(|| Concern {
        name: ConcernName::DockerUserUnused,
        what: format!(
            "{family}: the rules of the chain {NAME} do nothing, since no rule leads to it"
        ),
        advice: "restart Docker, which adds the jump, or `iptables -I FORWARD -j DOCKER-USER`"
            .to_owned(),
    })
}

/// A port of this host that a DNAT rule of another program forwards.
struct Port {
    protocol: Protocol,
    number: u16,
    to: SocketAddr,
}

impl Port {
    /// Parses a rule such as `... -p tcp ... --dport 8080 -j DNAT --to-destination 172.17.0.2:80`.
    fn of(rule: &LiveRule) -> Option<Self> {
        let words: Vec<&str> = rule.words().collect();
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).copied()
        };
        if rule.target() != Some("DNAT") {
            return None;
        }
        let protocol = match after("-p")? {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            _ => return None,
        };
        let number = after("--dport")?.parse().ok()?;
        let to = after("--to-destination")?;
        let to = to.parse().or_else(|_| -> Result<SocketAddr, _> {
            to.parse()
                .map(|address: IpAddr| SocketAddr::new(address, number))
        });
        Some(Self {
            protocol,
            number,
            to: to.ok()?,
        })
    }
}

/// Returns a table with PREROUTING in the place of the chain of a hook: the walker goes by the hook of a packet.
fn arrival(ruleset: &iptables::Ruleset, table: TableName, hook: Hook) -> iptables::Ruleset {
    let mut seen = iptables::Ruleset::new(ruleset.family);
    seen.tables.extend(ruleset.table(table).cloned());
    for table in &mut seen.tables {
        table.chains.retain(|chain| &*chain.name != hook.chain());
        for chain in &mut table.chains {
            if &*chain.name == "PREROUTING" {
                chain.name = hook.chain().into();
            }
        }
    }
    seen
}

/// Finds ports that other programs forward to containers, and that the policy does not accept.
fn published(owned: &Owned, family: Family, all: &LiveRuleset) -> Vec<Concern> {
    let ours = owned.of(family, all);
    let is_ours = |chain: &str, rule: &LiveRule| {
        let chain = ours.chain(TableName::Nat, chain);
        chain.is_some_and(|chain| chain.rules.iter().any(|one| one.spec == rule.spec))
    };
    let nat = all.table(TableName::Nat);
    let rules = nat
        .iter()
        .flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)));
    let ports: Vec<_> = rules
        .filter(|(name, rule)| !is_ours(name, rule))
        .filter_map(|(name, rule)| Some((name, rule, Port::of(rule)?)))
        .collect();
    let text = all.normal();
    let ruleset = match iptables::Ruleset::from_text(&text, family) {
        Ok(ruleset) if !ports.is_empty() => ruleset,
        _ => return Vec::new(),
    };
    // Any host of the internet: an address reserved for documentation.
    let source: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    };
    let outside = route::to(source);
    let own_address = outside.as_ref().and_then(|route| route.source);
    let outside = outside.map(|route| route.device);
    let of_policy = iptables::Ruleset::from_text(&ours.normal(), family).ok();
    // Whether the policy itself accepts the packet: in exclusive mode the policies of base chains are fwc's as well.
    let policy_decides = |id: Option<iptables::RuleId>| {
        let Some(id) = id else {
            return !owned.is_shared();
        };
        let found = || {
            let chain = ruleset.table(TableName::Filter)?.chains.get(id.chain)?;
            let rule = chain.rules.get(id.rule)?.normalised();
            let own = of_policy.as_ref()?.table(TableName::Filter)?;
            let mut own = own.chain(&chain.name)?.rules.iter();
            own.find(|own| own.normalised() == rule)
        };
        found().is_some()
    };
    let walked = |hook: Hook, port: &Port, arrived: SocketAddr, to: SocketAddr, out_device| {
        let mut packet = Packet {
            family,
            hook,
            in_device: outside.clone(),
            out_device,
            source,
            destination: to.ip(),
            protocol: port.protocol.0,
            source_port: Some(40000),
            destination_port: Some(to.port()),
            icmp: None,
            tcp_flags: (port.protocol == Protocol::TCP).then_some(TcpFlags::SYN),
            state: State::New,
            hop_limit: 64,
            mark: 0,
            mac: None,
            translated: Translated::default(),
        };
        if hook == Hook::Forward {
            packet.translated.destination = true;
        }
        // The warning is about what may be open: a condition that fwc cannot decide, such as a rate, counts as met, but not in a
        // rule that denies.
        let walk_in = |rules: &iptables::Ruleset, table, packet: &Packet| {
            let mut may_hold = |id: iptables::RuleId, _: &iptables::Match| {
                let table = rules.table(table)?;
                let rule = table.chains.get(id.chain)?.rules.get(id.rule)?;
                Some(!matches!(rule.target, Target::Drop | Target::Reject(_)))
            };
            walk(rules, table, packet, &mut may_hold).ok()
        };
        let is_dropped = |rules: &iptables::Ruleset, table, packet: &Packet| {
            walk_in(rules, table, packet).is_some_and(|walked| walked.verdict == WalkVerdict::Drop)
        };
        // Raw and mangle see the packet as it arrives, before routing and translation.
        let arriving = Packet {
            destination: arrived.ip(),
            destination_port: Some(arrived.port()),
            out_device: None,
            translated: Translated::default(),
            ..packet.clone()
        };
        let stops = |table| is_dropped(&arrival(&ruleset, table, hook), table, &arriving);
        if [TableName::Raw, TableName::Mangle].into_iter().any(stops)
            || is_dropped(&ruleset, TableName::Mangle, &packet)
        {
            return None;
        }
        let walked = walk_in(&ruleset, TableName::Filter, &packet)?;
        (walked.verdict == WalkVerdict::Accept).then_some(walked.decided)
    };
    let mut found = Vec::new();
    for (name, rule, port) in ports {
        let here = SocketAddr::new(own_address.unwrap_or(port.to.ip()), port.number);
        let inside = route::to(port.to.ip()).map(|route| route.device);
        let is_closed = walked(Hook::Input, &port, here, here, None).is_none();
        let forwarded = walked(Hook::Forward, &port, here, port.to, inside);
        if is_closed && forwarded.is_some_and(|by| !policy_decides(by)) {
            found.push(Concern {
                name: ConcernName::PublishedPort,
                what: format!(
                    "{family}: port {}/{} is forwarded to {} by `-A {name} {}`{} and open to everybody, though the policy does not accept it: such packets pass FORWARD, not INPUT",
                    port.number,
                    if port.protocol == Protocol::TCP { "tcp" } else { "udp" },
                    port.to,
                    rule.spec,
                    of_owner(rule)
                ),
                advice: "publish it on this host only (`-p 127.0.0.1:8080:80`), or write in the policy what may be forwarded".to_owned(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::look;
    use crate::apply::owned::Owned;
    use crate::live::LiveRuleset;
    use crate::net::{Family, PerFamily};
    use crate::resolve::Ownership;

    fn names(live: &str) -> Vec<String> {
        let files =
            PerFamily::from_fn(|_| LiveRuleset::parse("*filter\nCOMMIT\n*nat\nCOMMIT\n").unwrap());
        let owned = Owned::of_files(&files, &Ownership::Shared);
        let found = look(&owned, Family::V4, &LiveRuleset::parse(live).unwrap());
        let words = found
            .iter()
            .map(|one| format!("{}: {}", one.name.as_str(), one.what));
        words.collect()
    }

    const OURS: &str = ":FWC-INPUT - [0:0]\n-A FWC-INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A FWC-INPUT -p tcp -m tcp --dport 25 -j DROP\n-A FWC-INPUT -j DROP\n";

    fn filter(before: &str, more: &str) -> String {
        format!("*filter\n{OURS}{more}{before}-A INPUT -j FWC-INPUT\nCOMMIT\n")
    }

    #[test]
    fn rules_before_ours_that_decide_are_named() {
        assert!(names(&filter("", "")).is_empty());
        let bans = ":f2b-sshd - [0:0]\n-A f2b-sshd -s 192.0.2.1/32 -j REJECT --reject-with icmp-port-unreachable\n-A f2b-sshd -j RETURN\n";
        let jump = "-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n";
        assert!(names(&filter(jump, bans)).is_empty());
        insta::assert_debug_snapshot!(names(&filter("-A INPUT -p tcp -j ACCEPT\n", "")), @r#"
        [
            "foreign-first: IPv4: the rule `-A INPUT -p tcp -j ACCEPT` comes before fwc's rules and decides first: no rule of the policy can block what it accepts; it shadows `-A FWC-INPUT -p tcp -m tcp --dport 22 -j ACCEPT`; it shadows `-A FWC-INPUT -p tcp -m tcp --dport 25 -j DROP`",
        ]
        "#);
        insta::assert_debug_snapshot!(names(&filter("-A INPUT -p tcp -m tcp --dport 22 -j DROP\n", "")), @r#"
        [
            "foreign-first: IPv4: the rule `-A INPUT -p tcp -m tcp --dport 22 -j DROP` comes before fwc's rules and decides first; it shadows `-A FWC-INPUT -p tcp -m tcp --dport 22 -j ACCEPT`",
        ]
        "#);
        let tailscale = ":ts-input - [0:0]\n-A ts-input -i tailscale0 -j ACCEPT\n";
        let found = names(&filter("-A INPUT -j ts-input\n", tailscale));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("(of Tailscale)"), "{found:?}");
    }

    #[test]
    fn docker_user_without_a_jump() {
        let rules = ":DOCKER-USER - [0:0]\n-A DOCKER-USER -s 192.0.2.1/32 -j DROP\n";
        let found = names(&filter("", rules));
        assert!(found[0].starts_with("docker-user-unused: "), "{found:?}");
        let jump = format!("{rules}-A FORWARD -j DOCKER-USER\n");
        assert!(names(&filter("", &jump)).is_empty());
        let empty = ":DOCKER-USER - [0:0]\n-A DOCKER-USER -j RETURN\n";
        assert!(names(&filter("", empty)).is_empty());
    }

    #[test]
    fn published_ports_that_the_policy_closes() {
        let published = |forward: &str| {
            let nat = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n";
            format!("{nat}{}", filter("", forward))
        };
        let open = ":DOCKER - [0:0]\n-A FORWARD -j DOCKER\n-A DOCKER -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT\n";
        let found = names(&published(open));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .starts_with("published-port: IPv4: port 8080/tcp is forwarded to 172.17.0.2:80"),
            "{found:?}"
        );
        let closed = format!(
            ":FWC-FORWARD - [0:0]\n-A FWC-FORWARD -j DROP\n-A FORWARD -j FWC-FORWARD\n{open}"
        );
        assert!(names(&published(&closed)).is_empty());
        // A policy that accepts the forwarded packets itself means them to pass.
        let let_in = format!(
            ":FWC-FORWARD - [0:0]\n-A FWC-FORWARD -p tcp -m tcp --dport 80 -j ACCEPT\n-A FORWARD -j FWC-FORWARD\n{open}"
        );
        assert!(names(&published(&let_in)).is_empty());
        let other_port = let_in.replace(
            "--dport 80 -j ACCEPT\n-A FORWARD",
            "--dport 81 -j ACCEPT\n-A FORWARD",
        );
        assert_eq!(names(&published(&other_port)).len(), 1);
        // What the raw or the mangle table drops does not come to FORWARD.
        for (table, rule, is_open) in [
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --dport 8080 -j DROP",
                false,
            ),
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --dport 80 -j DROP",
                true,
            ),
            (
                "raw",
                "-A PREROUTING -p tcp -m tcp --dport 8080 -m limit --limit 1/sec -j DROP",
                true,
            ),
            ("mangle", "-A PREROUTING -s 198.51.100.0/24 -j DROP", false),
            ("mangle", "-A FORWARD -d 172.17.0.2/32 -j DROP", false),
            ("mangle", "-A INPUT -j DROP", true),
        ] {
            let dropped = format!("*{table}\n{rule}\nCOMMIT\n{}", published(open));
            assert_eq!(names(&dropped).len(), usize::from(is_open), "{rule}");
        }
    }
}

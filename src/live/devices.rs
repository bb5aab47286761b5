//! Compares the devices that rules name with those that the host has.

use std::collections::BTreeSet;

use super::concern::Concern;
use super::{LiveRuleset, tools};
use crate::diag::ConcernName;
use crate::iptables::TableName;
use crate::net::PerFamily;

/// A device of the host.
#[derive(Debug, PartialEq, Eq)]
struct Device {
    name: String,
    /// Its alternative names, which iptables does not know.
    others: Vec<String>,
    /// The device that its packets belong to, with the kind of this relation: `bridge`, `bond`, `vrf`.
    master: Option<(String, Option<String>)>,
}

/// A device that rules name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// The name, or a pattern with a trailing `+`.
    name: String,
    /// `true` if a rule of the filter table matches packets that come in by it. In a VRF they carry the VRF's name
    /// there.
    comes_in: bool,
}

/// Returns concerns about devices in rules that do not exist, or whose packets carry the name of another device.
pub fn look(rules: &PerFamily<LiveRuleset>) -> Vec<Concern> {
    let named = named(rules);
    if named.is_empty() {
        return Vec::new();
    }
    let list = ["-o", "-d", "link", "show"];
    // The `ip` of busybox has no `-d`.
    let listing =
        tools::output("ip", &list).or_else(|| tools::output("ip", &["-o", "link", "show"]));
    let devices = read(&listing.unwrap_or_default());
    // Every namespace has `lo`, so an empty list means that the output was not understood.
    if devices.is_empty() {
        return Vec::new();
    }
    named
        .iter()
        .filter_map(|named| concern(named, &devices))
        .collect()
}

/// Returns the devices of `-i` and `-o`, each once.
fn named(rules: &PerFamily<LiveRuleset>) -> BTreeSet<Named> {
    let mut found = BTreeSet::new();
    let chains = rules.iter().flat_map(|(_, dump)| dump.all_chains());
    for (table, _, chain) in chains {
        for rule in &chain.rules {
            let words: Vec<_> = rule.options().collect();
            for pair in words.windows(2) {
                let [option @ ("-i" | "-o"), name] = *pair else {
                    continue;
                };
                found.insert(Named {
                    name: name.to_owned(),
                    comes_in: option == "-i" && table == TableName::Filter,
                });
            }
        }
    }
    // One concern for each device. The one for incoming packets covers more cases.
    let both: Vec<_> = found.iter().filter(|one| one.comes_in).cloned().collect();
    for one in both {
        found.remove(&Named {
            comes_in: false,
            ..one
        });
    }
    found
}

fn concern(named: &Named, devices: &[Device]) -> Option<Concern> {
    let name = &named.name;
    let fits = |other: &str| match name.strip_suffix('+') {
        Some(beginning) => other.starts_with(beginning),
        None => other == name,
    };
    let there: Vec<_> = devices.iter().filter(|device| fits(&device.name)).collect();
    if there.is_empty() {
        let other = devices
            .iter()
            .find(|device| device.others.iter().any(|name| fits(name)));
        let advice = match other {
            Some(device) => format!(
                "`{name}` is another name of `{}`, and iptables knows only that one: use it under [interfaces]",
                device.name
            ),
            None => "correct it under [interfaces], unless it comes later (PPP, a VPN, containers)"
                .to_owned(),
        };
        return Some(Concern {
            name: ConcernName::MissingDevice,
            what: format!(
                "this host has no device `{name}`, which the rules name: no packet matches them until there is one"
            ),
            advice,
        });
    }
    // A pattern is fine if one of its devices is.
    let mut masters = Vec::new();
    for device in &there {
        let (master, kind) = device.master.as_ref()?;
        // In a VRF, incoming packets carry the name of the VRF, and `-o` matches outgoing ones by either name.
        if kind.as_deref() == Some("vrf") && !named.comes_in {
            return None;
        }
        masters.push((master, kind));
    }
    let (master, kind) = masters.first()?;
    let device = &there.first()?.name;
    let (part, master) = match kind.as_deref() {
        Some("bridge") => ("a port of the bridge", master),
        Some("bond") => ("a part of the bond", master),
        Some("vrf") => ("in the VRF", master),
        _ => ("a part of the device", master),
    };
    let advice = match kind.as_deref() {
        Some("bridge") => format!(
            "name `{master}` under [interfaces]; for one port of it there is `-m physdev` in [[custom]]"
        ),
        _ => format!("name `{master}` under [interfaces]"),
    };
    Some(Concern {
        name: ConcernName::EnslavedDevice,
        what: format!(
            "`{device}` is {part} `{master}`: its packets carry the name `{master}`, so that the rules for `{name}` do not match them"
        ),
        advice,
    })
}

/// Reads the output of `ip -o -d link show`.
fn read(listing: &str) -> Vec<Device> {
    let mut devices = Vec::new();
    for line in listing.lines() {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // `3: eth0@if4: <BROADCAST,UP> ... master br0 ... bridge_slave ... altname enp1s0`
        let Some(name) = words.get(1).and_then(|word| word.strip_suffix(':')) else {
            continue;
        };
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        let after = |word: &str| {
            let at = words.iter().position(|one| *one == word)?;
            Some((*words.get(at + 1)?).to_owned())
        };
        let altnames = words.windows(2).filter(|pair| pair[0].ends_with("altname"));
        let kind = words.iter().find_map(|word| word.strip_suffix("_slave"));
        devices.push(Device {
            name: name.to_owned(),
            others: altnames.map(|pair| pair[1].to_owned()).collect(),
            master: after("master").map(|master| (master, kind.map(str::to_owned))),
        });
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::{concern, named, read};
    use crate::live::LiveRuleset;
    use crate::net::PerFamily;

    const LISTING: &str = "1: lo: <LOOPBACK,UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000\\    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0\n2: br0: <BROADCAST,MULTICAST> mtu 1500 qdisc noop state DOWN mode DEFAULT\\    link/ether 02:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 \\    bridge forward_delay 1500\n3: p1@if4: <BROADCAST,UP> mtu 1500 qdisc noqueue master br0 state UP mode DEFAULT\\    link/ether 02:00:00:00:00:02 brd ff:ff:ff:ff:ff:ff \\    veth \\    bridge_slave state forwarding priority 32 \\    altname enp7s0\n4: v1: <BROADCAST,UP> mtu 1500 master red state UP\\    vrf_slave table 10\n5: b1: <BROADCAST,UP> mtu 1500 master bond0 state UP\\    bond_slave state ACTIVE\n6: px: <BROADCAST,UP> mtu 1500 state UP\n";

    fn concerns(rules: &str) -> Vec<String> {
        let dump = LiveRuleset::parse(&format!("*filter\n{rules}COMMIT\n")).unwrap();
        let rules = PerFamily::from_fn(|_| dump.clone());
        let devices = read(LISTING);
        let found = named(&rules);
        let found = found.iter().filter_map(|one| concern(one, &devices));
        found.map(|one| one.to_string()).collect()
    }

    #[test]
    fn devices_that_are_there_are_fine() {
        let rules = "-A INPUT -i lo -j ACCEPT\n-A INPUT ! -i br0 -j DROP\n-A FORWARD -i br0 -o px -j ACCEPT\n-A INPUT -i p+ -j ACCEPT\n-A OUTPUT -o v1 -j ACCEPT\n\
            -A INPUT -m comment --comment \"for docker0 -i docker0\" -j ACCEPT\n-A INPUT -m comment --comment -i -j ACCEPT\n";
        assert_eq!(concerns(rules), [""; 0]);
    }

    #[test]
    fn others_are_named() {
        let of = |device: &str| concerns(&format!("-A INPUT -i {device} -j ACCEPT\n"));
        for (device, words) in [
            ("enp99s0", "no device `enp99s0`"),
            ("wg+", "no device `wg+`"),
            ("enp7s0", "another name of `p1`"),
            ("p1", "`p1` is a port of the bridge `br0`"),
            ("p1+", "`p1` is a port of the bridge `br0`"),
            ("v1", "`v1` is in the VRF `red`"),
            ("b1", "`b1` is a part of the bond `bond0`"),
        ] {
            let found = of(device);
            assert_eq!(found.len(), 1, "{device}: {found:?}");
            assert!(found[0].contains(words), "{found:?}");
        }
        let both = "-A FORWARD -i gone -o gone -j ACCEPT\n-A OUTPUT -o gone -j DROP\n";
        assert_eq!(concerns(both).len(), 1);
    }
}

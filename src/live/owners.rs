//! Recognizes other programs that write iptables rules, by the names of their chains, sets and devices, and by their
//! comments.

use std::fmt;

use super::dump::LiveRule;

/// A program that keeps rules of its own in iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(&'static str);

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// Patterns that identify a program. `*` at the end of a pattern matches any rest, `#` twelve hexadecimal digits.
struct Marks {
    owner: &'static str,
    chains: &'static [&'static str],
    devices: &'static [&'static str],
    sets: &'static [&'static str],
    comments: &'static [&'static str],
}

const NONE: Marks = Marks {
    owner: "",
    chains: &[],
    devices: &[],
    sets: &[],
    comments: &[],
};

/// The known programs. The first match counts, so network plugins of Kubernetes come before Kubernetes and the
/// container engines.
const KNOWN: &[Marks] = &[
    Marks {
        owner: "Calico",
        chains: &["cali-*"],
        devices: &["cali*", "vxlan.calico"],
        sets: &["cali40*", "cali60*"],
        comments: &["cali:*"],
    },
    Marks {
        owner: "Flannel",
        chains: &["FLANNEL-*"],
        devices: &["flannel*"],
        comments: &["flanneld*"],
        ..NONE
    },
    Marks {
        owner: "Cilium",
        chains: &["CILIUM_*", "OLD_CILIUM_*"],
        devices: &["cilium_*", "lxc_health"],
        comments: &["cilium*"],
        ..NONE
    },
    Marks {
        owner: "Weave",
        chains: &["WEAVE", "WEAVE-*"],
        devices: &["weave"],
        sets: &["weave-*"],
        ..NONE
    },
    Marks {
        owner: "Istio",
        chains: &["ISTIO_*"],
        ..NONE
    },
    Marks {
        owner: "Kubernetes",
        chains: &["KUBE-*"],
        devices: &["kube-ipvs0", "kube-bridge", "nodelocaldns"],
        sets: &["KUBE-*"],
        comments: &["kubernetes*", "kube-proxy*"],
    },
    Marks {
        owner: "Podman (netavark)",
        chains: &["NETAVARK*"],
        devices: &["podman*"],
        comments: &["netavark*"],
        ..NONE
    },
    Marks {
        owner: "CNI plugins",
        chains: &["CNI-*"],
        devices: &["cni0", "cni-podman*"],
        comments: &["CNI *"],
        ..NONE
    },
    Marks {
        owner: "fwc panic",
        chains: &["FWC-PANIC"],
        ..NONE
    },
    Marks {
        owner: "Docker",
        chains: &["DOCKER", "DOCKER-*", "DOCKER_*"],
        devices: &["docker*", "br-#"],
        sets: &["docker-ext-bridges*"],
        ..NONE
    },
    Marks {
        owner: "fail2ban",
        chains: &["f2b-*", "fail2ban-*", "fail2ban"],
        sets: &["f2b-*", "fail2ban-*"],
        ..NONE
    },
    Marks {
        owner: "CrowdSec",
        chains: &["CROWDSEC*", "crowdsec*"],
        sets: &["crowdsec*"],
        comments: &["CrowdSec*"],
        ..NONE
    },
    Marks {
        owner: "sshguard",
        chains: &["sshguard"],
        sets: &["sshguard*"],
        ..NONE
    },
    Marks {
        owner: "libvirt",
        chains: &["LIBVIRT_*"],
        devices: &["virbr*"],
        ..NONE
    },
    Marks {
        owner: "LXD or Incus",
        chains: &["lxd_*", "incus_*"],
        devices: &["lxdbr*", "incusbr*"],
        comments: &["generated for LXD*", "generated for Incus*"],
        ..NONE
    },
    Marks {
        owner: "LXC",
        devices: &["lxcbr*"],
        ..NONE
    },
    Marks {
        owner: "Tailscale",
        chains: &["ts-*"],
        devices: &["tailscale*"],
        ..NONE
    },
    Marks {
        owner: "ufw",
        chains: &["ufw-*", "ufw6-*"],
        ..NONE
    },
    Marks {
        owner: "firewalld",
        chains: &[
            "INPUT_direct",
            "INPUT_ZONES*",
            "FORWARD_direct",
            "FORWARD_IN_ZONES*",
            "FORWARD_OUT_ZONES*",
            "OUTPUT_direct",
            "PREROUTING_direct",
            "PREROUTING_ZONES*",
            "POSTROUTING_direct",
            "POSTROUTING_ZONES*",
            "IN_*",
            "FWDI_*",
            "FWDO_*",
            "PRE_*",
            "POST_*",
        ],
        ..NONE
    },
    Marks {
        owner: "Shorewall",
        chains: &[
            "shorewall*",
            "net2fw",
            "net-fw",
            "fw2net",
            "fw-net",
            "~log*",
        ],
        ..NONE
    },
    Marks {
        owner: "OpenStack Neutron",
        chains: &["neutron-*"],
        ..NONE
    },
    Marks {
        owner: "miniupnpd",
        chains: &["MINIUPNPD*"],
        ..NONE
    },
];

/// Returns the owner of a chain, by its name.
pub fn of_chain(name: &str) -> Option<Owner> {
    find(|marks| matches(marks.chains, name))
}

/// Returns `true` for a chain that holds bans. Such chains must stay in front of all rules that accept packets.
pub fn bans(chain: &str) -> bool {
    matches(&["f2b-*", "fail2ban-*", "CROWDSEC*", "crowdsec*"], chain)
}

/// Returns the owner of a rule: by the chain that it jumps to, by the devices and sets that it matches, or by its
/// comment.
pub fn of_rule(rule: &LiveRule) -> Option<Owner> {
    if let Some(owner) = rule.target().and_then(of_chain) {
        return Some(owner);
    }
    find(|marks| {
        let mut before = "";
        rule.words().any(|word| {
            let patterns = match before {
                "-i" | "-o" | "--physdev-in" | "--physdev-out" => marks.devices,
                "--match-set" | "--add-set" | "--del-set" => marks.sets,
                "--comment" => marks.comments,
                _ => &[],
            };
            before = word;
            matches(patterns, word)
        })
    })
}

fn find(fits: impl Fn(&Marks) -> bool) -> Option<Owner> {
    KNOWN
        .iter()
        .find(|marks| fits(marks))
        .map(|marks| Owner(marks.owner))
}

fn matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| {
        if let Some(start) = pattern.strip_suffix('*') {
            name.starts_with(start)
        } else if let Some(start) = pattern.strip_suffix('#') {
            name.strip_prefix(start).is_some_and(|digits| {
                digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit())
            })
        } else {
            name == *pattern
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{of_chain, of_rule};
    use crate::iptables::Counters;
    use crate::live::LiveRule;

    fn rule(spec: &str) -> Option<String> {
        let rule = LiveRule {
            spec: spec.to_owned(),
            counters: Counters::default(),
        };
        of_rule(&rule).map(|owner| owner.to_string())
    }

    #[test]
    fn chains_by_name() {
        let owner = |name| of_chain(name).map(|owner| owner.to_string());
        for (name, expected) in [
            ("DOCKER-USER", "Docker"),
            ("f2b-sshd", "fail2ban"),
            ("KUBE-SVC-ERIFXISQEP7F7OF4", "Kubernetes"),
            ("cali-INPUT", "Calico"),
            ("LIBVIRT_FWI", "libvirt"),
            ("ts-input", "Tailscale"),
            ("ufw6-before-input", "ufw"),
            ("IN_public_allow", "firewalld"),
            ("NETAVARK_FORWARD", "Podman (netavark)"),
            ("CROWDSEC_CHAIN", "CrowdSec"),
            ("ISTIO_REDIRECT", "Istio"),
        ] {
            assert_eq!(owner(name).as_deref(), Some(expected), "{name}");
        }
        for name in ["INPUT", "FWC-INPUT", "mine", "ts", "DOCKERISH"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn rules_by_jump_device_set_and_comment() {
        for (spec, expected) in [
            ("-m addrtype --dst-type LOCAL -j DOCKER", "Docker"),
            ("-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "Docker"),
            (
                "-s 172.18.0.0/16 ! -o br-0123456789ab -j MASQUERADE",
                "Docker",
            ),
            ("-i virbr0 -p udp -m udp --dport 53 -j ACCEPT", "libvirt"),
            ("-m set --match-set f2b-sshd src -j REJECT", "fail2ban"),
            ("-m comment --comment \"cali:x y\" -j ACCEPT", "Calico"),
            (
                "-m comment --comment \"generated for LXD network lxdbr0\" -j ACCEPT",
                "LXD or Incus",
            ),
            ("-g KUBE-MARK-MASQ", "Kubernetes"),
        ] {
            assert_eq!(rule(spec).as_deref(), Some(expected), "{spec}");
        }
        for spec in [
            "-i br-lan -j ACCEPT",
            "-i eth0 -m comment --comment \"for docker0 -i docker0\" -j ACCEPT",
            "-j ACCEPT",
            "",
        ] {
            assert_eq!(rule(spec), None, "{spec}");
        }
    }
}

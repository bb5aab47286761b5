//! The names of concerns: facts about a host, outside of the rules, that change what the rules do.

use serde::{Deserialize, Serialize};

/// What `apply`, `status` and `check --live` may find on a host. `[concerns]` of a policy allows those that are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ConcernName {
    /// A chain of native nftables rules filters the same packets.
    NativeNft,
    /// Rules that nft made in iptables' tables, which iptables shows wrong.
    MisreadNft,
    /// Another program that writes rules is active.
    OtherFirewall,
    /// The rules forward packets and the kernel does not.
    ForwardingOff,
    /// IPv6 is disabled in the kernel.
    Ipv6Disabled,
    /// Packets from the network may reach 127.0.0.0/8.
    RouteLocalnet,
    /// Packets between ports of a bridge pass FORWARD.
    BridgeNetfilter,
    /// A device that the rules name is not there.
    MissingDevice,
    /// A device that the rules name is a part of another device.
    EnslavedDevice,
    /// Another program's rule comes before fwc's rules.
    ForeignFirst,
    /// No rule leads to the chain DOCKER-USER.
    DockerUserUnused,
    /// A port that leads into a container is open.
    PublishedPort,
    /// A rules file was written by `iptables-save`.
    SavedByOthers,
    /// The kernel lacks a family, which the policy closes.
    NoFamily,
    /// Nothing loads the rules at the next boot.
    NotLoadedAtBoot,
    /// Connection tracking starts with the rules, and connections are open.
    UntrackedConnections,
    /// The kernel keeps few addresses for a limit with `hits`.
    LimitTable,
}

impl ConcernName {
    /// All names, in the order in which the schema of the policy lists them.
    pub const ALL: [Self; 17] = [
        Self::NativeNft,
        Self::MisreadNft,
        Self::OtherFirewall,
        Self::ForwardingOff,
        Self::Ipv6Disabled,
        Self::RouteLocalnet,
        Self::BridgeNetfilter,
        Self::MissingDevice,
        Self::EnslavedDevice,
        Self::ForeignFirst,
        Self::DockerUserUnused,
        Self::PublishedPort,
        Self::SavedByOthers,
        Self::NoFamily,
        Self::NotLoadedAtBoot,
        Self::UntrackedConnections,
        Self::LimitTable,
    ];

    /// Returns the name as policies and programs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NativeNft => "native-nft",
            Self::MisreadNft => "misread-nft",
            Self::OtherFirewall => "other-firewall",
            Self::ForwardingOff => "forwarding-off",
            Self::Ipv6Disabled => "ipv6-disabled",
            Self::RouteLocalnet => "route-localnet",
            Self::BridgeNetfilter => "bridge-netfilter",
            Self::MissingDevice => "missing-device",
            Self::EnslavedDevice => "enslaved-device",
            Self::ForeignFirst => "foreign-first",
            Self::DockerUserUnused => "docker-user-unused",
            Self::PublishedPort => "published-port",
            Self::SavedByOthers => "saved-by-others",
            Self::NoFamily => "no-family",
            Self::NotLoadedAtBoot => "not-loaded-at-boot",
            Self::UntrackedConnections => "untracked-connections",
            Self::LimitTable => "limit-table",
        }
    }

    /// Returns what the fact is, in a sentence for the schema of the policy.
    pub const fn about(self) -> &'static str {
        match self {
            Self::NativeNft => {
                "A chain of native nftables rules filters the same packets: what fwc's rules accept it can drop."
            }
            Self::MisreadNft => {
                "Rules that nft made in iptables' tables, which iptables shows without their sets and ranges."
            }
            Self::OtherFirewall => {
                "Another program that writes rules is active, such as ufw or firewalld."
            }
            Self::ForwardingOff => {
                "The rules let packets through this host, and the kernel forwards none."
            }
            Self::Ipv6Disabled => {
                "IPv6 is disabled in the kernel, so that its rules see no packet."
            }
            Self::RouteLocalnet => {
                "`route_localnet` is on: neighbours may reach what listens on 127.0.0.1."
            }
            Self::BridgeNetfilter => {
                "`br_netfilter` is on: packets between ports of a bridge pass FORWARD too."
            }
            Self::MissingDevice => "A device that the rules name is not there.",
            Self::EnslavedDevice => {
                "A device that the rules name is part of a bridge, bond or VRF, whose name its packets carry."
            }
            Self::ForeignFirst => {
                "Another program's rule comes before fwc's rules and decides first."
            }
            Self::DockerUserUnused => "The chain DOCKER-USER has rules, and no rule leads to it.",
            Self::PublishedPort => {
                "A port that others lead into a container is open, though the policy lets nobody in to it."
            }
            Self::SavedByOthers => {
                "A rules file was written by `iptables-save` after fwc wrote it."
            }
            Self::NoFamily => "The kernel lacks a family, which the policy closes.",
            Self::NotLoadedAtBoot => "Nothing loads the rules at the next boot.",
            Self::UntrackedConnections => {
                "Connection tracking starts with the rules, and connections are open that it does not know."
            }
            Self::LimitTable => "The kernel keeps few addresses for a limit with `hits`.",
        }
    }

    /// Returns the name that a text is; `None` if it is not one.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::ConcernName;

    #[test]
    fn names_are_written_alike_everywhere() {
        for name in ConcernName::ALL {
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{}\"", name.as_str()));
            assert_eq!(ConcernName::named(name.as_str()), Some(name));
        }
    }
}
